//! A reader of the passive side sees all of a transaction or nothing of it, where the link is to keep them
//! whole: money that goes from row to row is there in full at every moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use outgrow_bridge::{FaultHook, Link, LinkSpec, Transactions};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::postgres::{Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, LEGACY_SQLITE, Pair, items};
use crate::shop::{WAIT, copied};

/// Rows of the table.
const ROWS: u32 = 60;
const TRANSFERS: u32 = 40;

fn spec(pair: &Pair, transactions: Transactions) -> LinkSpec {
    let mut spec = pair.spec();
    spec.limits.transactions = transactions;
    // Less than a transaction has.
    spec.limits.batch_changes = 5;
    spec
}

/// Money from rows of one kind to those of another, and a few more rows the other way.
fn transfer(db: &Db, turn: u32) -> Vec<String> {
    let (from, to) = (turn % 7, (turn + 3) % 7);
    let give = |more: i32, rows: &str| {
        let price = match db {
            Db::Lite(_) => format!("printf('%.2f', price + {more})"),
            _ => format!("price + {more}"),
        };
        format!("UPDATE item SET price = {price} WHERE {rows}")
    };
    vec![
        give(-1, &format!("id % 7 = {from} AND id < 57")),
        give(2, &format!("id IN ({turn}, {turn} + 1)")),
        give(1, &format!("id % 7 = {to} AND id < 57")),
        give(-4, &format!("id = {turn} + 2")),
    ]
}

/// Plays transfers while a reader sums up, with a death of the link amid them. How many sums were wrong,
/// of how many.
async fn torn(pair: Pair, transactions: Transactions) -> (i64, i64) {
    let price = match &pair.legacy {
        Db::Lite(_) => "UPDATE item SET price = printf('%d.00', id * 100)",
        _ => "UPDATE item SET price = id * 100.00",
    };
    pair.legacy.execute(&items(1, ROWS)).await;
    pair.legacy.execute(price).await;
    let link = Link::open(spec(&pair, transactions)).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    pair.equal().await;
    let sum = "SELECT CAST(sum(price_cents) AS bigint) FROM article";
    let sum = match &pair.extracted {
        Db::My(_) => "SELECT CAST(sum(price_cents) AS signed) FROM article",
        _ => sum,
    };
    let whole = pair.extracted.number(sum).await;
    let pair = Arc::new(pair);
    let written = Arc::new(AtomicBool::new(false));
    let (wrong, read) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
    let reader = {
        let (pair, written) = (Arc::clone(&pair), Arc::clone(&written));
        let (wrong, read) = (Arc::clone(&wrong), Arc::clone(&read));
        tokio::spawn(async move {
            while !written.load(Ordering::Relaxed) {
                let seen = pair.extracted.number(sum).await;
                wrong.fetch_add(i64::from(seen != whole), Ordering::Relaxed);
                read.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let writer = {
        let pair = Arc::clone(&pair);
        tokio::spawn(async move {
            for turn in 1..=TRANSFERS {
                let texts = transfer(&pair.legacy, turn);
                assert!(pair.legacy.transaction(&texts, true).await);
            }
        })
    };
    link.shutdown().await;
    let link = Link::open(spec(&pair, transactions)).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    writer.await.unwrap();
    pair.equal().await;
    written.store(true, Ordering::Relaxed);
    reader.await.unwrap();
    let told = link.describe();
    assert_eq!(told["in_parts"], false, "{told}");
    link.shutdown().await;
    (wrong.load(Ordering::Relaxed), read.load(Ordering::Relaxed))
}

async fn none_torn(pair: Pair) {
    let (wrong, read) = torn(pair, Transactions::Whole).await;
    assert!(wrong == 0 && read > 0, "{wrong} of {read} sums were wrong");
}

#[tokio::test(flavor = "multi_thread")]
async fn from_sqlite() {
    let pair = Pair::of(
        Db::lite(LEGACY_SQLITE).await,
        Db::lite(EXTRACTED_SQLITE).await,
    );
    none_torn(pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_postgres() {
    let pair = Pair::of(Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    none_torn(pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_postgres_by_its_log() {
    let pair = Pair::replicated(Db::pg(LEGACY_PG).await, Db::lite(EXTRACTED_SQLITE).await);
    none_torn(pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_log_to_log() {
    let pair = Pair::replicated(Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    none_torn(pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_mariadb() {
    let pair = Pair::of(Db::my(LEGACY_MY).await, Db::pg(EXTRACTED_PG).await);
    none_torn(pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_mariadb_by_its_log() {
    let pair = Pair::replicated(Db::logged(LEGACY_MY).await, Db::logged(EXTRACTED_MY).await);
    none_torn(pair).await;
}

/// The reader has eyes: in batches, transactions of more changes than one are seen half.
#[tokio::test(flavor = "multi_thread")]
async fn batches_are_seen_half() {
    let pair = Pair::of(
        Db::lite(LEGACY_SQLITE).await,
        Db::lite(EXTRACTED_SQLITE).await,
    );
    let (wrong, read) = torn(pair, Transactions::Batched).await;
    assert!(wrong > 0, "none of {read} sums was wrong");
}

/// What is too much for one batch comes in parts, which is said until all is there.
#[tokio::test(flavor = "multi_thread")]
async fn too_much_comes_in_parts() {
    let pair = Pair::of(
        Db::lite(LEGACY_SQLITE).await,
        Db::lite(EXTRACTED_SQLITE).await,
    );
    pair.legacy.execute(&items(1, ROWS)).await;
    let link = Link::open(spec(&pair, Transactions::Whole)).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    link.shutdown().await;
    pair.legacy.execute("UPDATE item SET note = 'many'").await;
    let mut spec = spec(&pair, Transactions::Whole);
    spec.limits.whole_changes = 20;
    let (seen, commits) = (Arc::new(AtomicBool::new(false)), AtomicI64::new(0));
    let told = Arc::clone(&seen);
    spec.limits.fault = Some(FaultHook::new(move |at| {
        // The first part is applied and told of; the second waits to be.
        while at == "before-commit"
            && commits.load(Ordering::Relaxed) == 1
            && !told.load(Ordering::Relaxed)
        {
            std::thread::yield_now();
        }
        commits.fetch_add(i64::from(at == "before-commit"), Ordering::Relaxed);
    }));
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    eventually("parts to be told of", WAIT, || async {
        (link.describe()["in_parts"] == true).then_some(())
    })
    .await;
    seen.store(true, Ordering::Relaxed);
    pair.equal().await;
    eventually("all to be there", WAIT, || async {
        (link.describe()["in_parts"] == false).then_some(())
    })
    .await;
    link.shutdown().await;
}
