//! What waits for a link, in bytes, where triggers note keys only.

use std::sync::{Mutex, mpsc};

use outgrow_bridge::{FaultHook, Link};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::postgres::{Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, LEGACY_SQLITE, Pair, items};
use crate::shop::{WAIT, copied};

/// Once a batch is read, until nobody holds it any more.
fn held_at_reading(on: mpsc::Receiver<()>) -> FaultHook {
    let on = Mutex::new(on);
    FaultHook::new(move |point| {
        if point == "after-read" {
            tokio::task::block_in_place(|| on.lock().unwrap().recv().ok());
        }
    })
}

/// A link that stands still within its first batch tells what it began with.
async fn told(pair: Pair) {
    pair.legacy.execute(&items(1, 600)).await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    pair.equal().await;
    eventually("nothing to wait", WAIT, || async {
        (link.evidence().unwrap().backlog_bytes == 0).then_some(())
    })
    .await;
    link.shutdown().await;
    // Each of a thousand bytes and some more: code, price and six columns of 8.
    let note = "n".repeat(1_000);
    let (few, many) = (
        format!("UPDATE item SET note = '{note}' WHERE id <= 100"),
        format!("UPDATE item SET note = '{note}' WHERE id > 100"),
    );
    for (text, rows) in [(few, 100), (many, 500)] {
        pair.legacy.execute(&text).await;
        let (go, on) = mpsc::channel::<()>();
        let mut spec = pair.spec();
        spec.limits.fault = Some(held_at_reading(on));
        let link = Link::open(spec).await.unwrap();
        link.ensure(DataPhase::Following, Side::Legacy)
            .await
            .unwrap();
        let seen = link.evidence().unwrap();
        assert_eq!(seen.backlog, rows);
        let each = seen.backlog_bytes / rows;
        assert!((1_000..1_100).contains(&each), "{each} bytes a row");
        drop(go);
        pair.equal().await;
        eventually("nothing to wait", WAIT, || async {
            (link.evidence().unwrap().backlog_bytes == 0).then_some(())
        })
        .await;
        link.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_sqlite() {
    told(Pair::of(
        Db::lite(LEGACY_SQLITE).await,
        Db::lite(EXTRACTED_SQLITE).await,
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_postgres() {
    told(Pair::of(
        Db::pg(LEGACY_PG).await,
        Db::pg(EXTRACTED_PG).await,
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_mysql() {
    told(Pair::of(
        Db::my(LEGACY_MY).await,
        Db::my(EXTRACTED_MY).await,
    ))
    .await;
}

/// Of very many changes it is told about how many they are: heartbeats may be among them.
async fn very_many(pair: Pair) {
    pair.legacy.execute(&items(1, 10)).await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    pair.equal().await;
    link.shutdown().await;
    let (price, at) = match &pair.legacy {
        Db::Pg(_) => ("1.25", "timestamp '2026-01-02 03:04:05'"),
        Db::Lite(_) | Db::My(_) => ("'1.25'", "'2026-01-02 03:04:05'"),
    };
    let add = format!(
        "INSERT INTO item (id, code, price, status, made_at) WITH RECURSIVE n (i) AS \
               (SELECT 11 UNION ALL SELECT i + 1 FROM n WHERE i < 25000) \
               SELECT i, 'c' || i, {price}, 'A', {at} FROM n"
    );
    pair.legacy.execute(&add).await;
    let (go, on) = mpsc::channel::<()>();
    let mut spec = pair.spec();
    spec.limits.fault = Some(held_at_reading(on));
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    let seen = link.evidence().unwrap().backlog;
    assert!((24_990..25_100).contains(&seen), "{seen}");
    drop(go);
    pair.equal().await;
    eventually("nothing to wait", WAIT, || async {
        (link.evidence().unwrap().backlog == 0).then_some(())
    })
    .await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn very_many_of_sqlite() {
    let (legacy, extracted) = (Db::lite(LEGACY_SQLITE), Db::lite(EXTRACTED_SQLITE));
    very_many(Pair::of(legacy.await, extracted.await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn very_many_of_postgres() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG), Db::pg(EXTRACTED_PG));
    very_many(Pair::of(legacy.await, extracted.await)).await;
}
