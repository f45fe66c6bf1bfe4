//! Transactions that PostgreSQL tells of while they run: side by side, rolled back in part and
//! whole, amid deaths, and without room to keep them. PostgreSQL 13 tells them once they are
//! committed, which changes nothing else.

use std::process::Stdio;

use outgrow_bridge::Link;
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;
use sqlx::{AssertSqlSafe, Postgres, Transaction};

use crate::crash::{child_between, process_between};
use crate::postgres::{Db, EXTRACTED_PG, LEGACY_PG, Pair, items};
use crate::postgres_replication::server;
use crate::shop::{WAIT, copied};

pub(crate) type Tx = Transaction<'static, Postgres>;

/// The server keeps so little of what runs that some hundred rows are told early.
const EARLY: &str = "ALTER DATABASE postgres SET logical_decoding_work_mem = '64kB'";

/// How often a part of a running transaction was told; `None` where none is before its end.
async fn told(db: &Db) -> Option<i64> {
    let text = "SELECT coalesce(sum(stream_count), 0)::int8 FROM pg_stat_replication_slots";
    match server(db).version().await {
        14.. => Some(db.number(text).await),
        _ => None,
    }
}

pub(crate) async fn pair() -> Pair {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    for side in [&legacy, &extracted] {
        side.execute(EARLY).await;
    }
    legacy.execute(&items(1, 60)).await;
    Pair::replicated(legacy, extracted)
}

pub(crate) async fn followed(pair: &Pair) -> Link {
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    link
}

pub(crate) async fn begun(db: &Db) -> Tx {
    server(db).pool().begin().await.unwrap()
}

pub(crate) async fn run(tx: &mut Tx, texts: &[&str]) {
    for text in texts {
        let query = sqlx::raw_sql(AssertSqlSafe((*text).to_owned()));
        query.execute(&mut **tx).await.unwrap();
    }
}

/// Rows with these numbers.
pub(crate) fn rows(from: u32, to: u32) -> String {
    format!(
        "INSERT INTO item (id, code, price, status, made_at) \
         SELECT n, 'r' || n, n / 100.0, 'A', now() FROM generate_series({from}, {to}) n"
    )
}

/// Waits until so many parts of running transactions were told, and gives how many there are.
pub(crate) async fn told_early(db: &Db, before: i64) -> i64 {
    eventually("a running transaction to be told of", WAIT, || async {
        let told = told(db).await.unwrap_or(before + 1);
        (told > before).then_some(told)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn running_transactions_are_told_side_by_side_and_rolled_back_in_part() {
    let pair = pair().await;
    let link = followed(&pair).await;
    let (mut large, mut other) = (begun(&pair.legacy).await, begun(&pair.legacy).await);
    let mut lost = begun(&pair.legacy).await;
    run(&mut large, &[&rows(1_000, 3_000)]).await;
    let told = told_early(&pair.legacy, 0).await;
    run(&mut other, &[&rows(5_000, 7_000)]).await;
    let told = told_early(&pair.legacy, told).await;
    run(&mut lost, &[&rows(20_000, 22_000)]).await;
    let told = told_early(&pair.legacy, told).await;
    let parts = [
        "SAVEPOINT a",
        &rows(10_000, 12_000),
        "UPDATE item SET note = 'never' WHERE id < 40",
        "ROLLBACK TO a",
        "UPDATE item SET note = 'kept' WHERE id < 30",
        "SAVEPOINT b",
        &rows(12_001, 12_500),
        "SAVEPOINT c",
        &rows(13_000, 14_000),
        "DELETE FROM item WHERE id < 30",
        "ROLLBACK TO c",
        &rows(14_001, 14_100),
        "RELEASE b",
        "UPDATE item SET id = id + 100000 WHERE id BETWEEN 1000 AND 1500",
        "DELETE FROM item WHERE id BETWEEN 2000 AND 2100",
    ];
    run(&mut large, &parts).await;
    run(&mut other, &[&rows(7_001, 9_000)]).await;
    told_early(&pair.legacy, told).await;
    // What is committed does not wait for what runs.
    pair.legacy.execute(&items(70, 80)).await;
    pair.equal().await;
    other.commit().await.unwrap();
    pair.equal().await;
    lost.rollback().await.unwrap();
    pair.legacy
        .execute("UPDATE item SET note = 'in between' WHERE id > 60 AND id < 90")
        .await;
    pair.equal().await;
    large.commit().await.unwrap();
    pair.equal().await;
    let kept = "SELECT count(*) FROM article WHERE id > 100000 OR note = 'kept'";
    assert_eq!(pair.extracted.number(kept).await, 501 + 29);
    assert_eq!(link.verify().await.unwrap().different, 0);
    let seen = link.evidence().unwrap();
    assert_eq!((seen.parked, seen.foreign_writes), (0, 0));
    link.shutdown().await;
}

/// Large values that an update did not touch, keys that change, and a truncate.
#[tokio::test(flavor = "multi_thread")]
async fn running_transactions_truncate_and_leave_large_values_alone() {
    let pair = pair().await;
    let link = followed(&pair).await;
    pair.legacy
        .execute(
            "UPDATE item SET note = (SELECT string_agg(md5(n::text), '') \
             FROM generate_series(1, 300) n) WHERE id < 5",
        )
        .await;
    pair.equal().await;
    let mut told = told_early(&pair.legacy, -1).await;
    for texts in [
        ["UPDATE item SET weight = weight + 1 WHERE id < 9", ""],
        ["UPDATE item SET id = id + 500000 WHERE id < 3", ""],
        ["TRUNCATE item", ""],
    ] {
        let from = 1_000 + 10_000 * u32::try_from(told).unwrap();
        let mut tx = begun(&pair.legacy).await;
        run(&mut tx, &[&rows(from, from + 1_500)]).await;
        run(&mut tx, &texts).await;
        run(&mut tx, &[&rows(from + 2_000, from + 3_500)]).await;
        told = told_early(&pair.legacy, told).await;
        tx.commit().await.unwrap();
        pair.equal().await;
    }
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

/// The server tells what runs from its beginning again.
#[tokio::test(flavor = "multi_thread")]
async fn a_death_amid_a_running_transaction_loses_nothing() {
    let pair = pair().await;
    followed(&pair).await.shutdown().await;
    let (legacy, extracted) = (pair.legacy.url(), pair.extracted.url());
    let mut told = 0;
    for (round, point) in (1..).zip(["never", "log-read", "log-taken", "after-commit", "never"]) {
        let from = 10_000 * round;
        let mut tx = begun(&pair.legacy).await;
        run(&mut tx, &[&rows(from, from + 1_500)]).await;
        let mut process = child_between(&legacy, &extracted, pair.child(), "never", 1);
        told = told_early(&pair.legacy, told).await;
        run(&mut tx, &["SAVEPOINT a", &rows(from + 2_000, from + 3_500)]).await;
        told = told_early(&pair.legacy, told).await;
        process.kill().await.unwrap();
        run(
            &mut tx,
            &["ROLLBACK TO a", &rows(from + 4_000, from + 5_500)],
        )
        .await;
        let mut process = child_between(&legacy, &extracted, pair.child(), point, 1);
        if point == "never" {
            told = told_early(&pair.legacy, told).await;
            tx.commit().await.unwrap();
            pair.equal().await;
            process.kill().await.unwrap();
        } else {
            tx.commit().await.unwrap();
            process.wait().await.unwrap();
        }
    }
    let link = followed(&pair).await;
    pair.equal().await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    assert_eq!(link.evidence().unwrap().foreign_writes, 0);
    link.shutdown().await;
}

/// What the bridge itself has written is its own, also where the log tells it early.
#[tokio::test(flavor = "multi_thread")]
async fn the_bridges_own_transactions_are_known_while_they_run() {
    let pair = pair().await;
    let link = followed(&pair).await;
    let before = told(&pair.extracted).await.unwrap_or(0);
    pair.legacy.execute(&rows(1_000, 9_000)).await;
    pair.equal().await;
    told_early(&pair.extracted, before).await;
    let noted = "SELECT count(*) FROM _outgrow.items_changes WHERE tbl <> ''";
    let mark = link.fence(Side::Extracted).await;
    assert_eq!(pair.extracted.number(noted).await, 0, "{mark:?}");
    assert_eq!(link.evidence().unwrap().foreign_writes, 0);
    link.shutdown().await;
}

/// They come once they are committed, then.
#[tokio::test(flavor = "multi_thread")]
async fn running_transactions_need_no_room_for_files() {
    let pair = pair().await;
    followed(&pair).await.shutdown().await;
    let (legacy, extracted) = (pair.legacy.url(), pair.extracted.url());
    let mut process = process_between(&legacy, &extracted, pair.child(), "never", 1)
        .env("TMPDIR", "/nowhere")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    // The server counts what it has told early, but not what broke off: nothing would be equal if it went on.
    pair.legacy.execute(&rows(1_000, 4_000)).await;
    pair.equal().await;
    let before = told(&pair.legacy).await;
    pair.legacy.execute(&rows(10_000, 13_000)).await;
    pair.equal().await;
    assert_eq!(told(&pair.legacy).await, before);
    process.kill().await.unwrap();
    let link = followed(&pair).await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}
