//! One transaction of very many rows: it is carried over whole, in bounded memory.

use std::time::Duration;

use outgrow_bridge::Link;
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::crash::{MANY, child_between};
use crate::large::peak_kb;
use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::postgres::{Db, EXTRACTED_PG, LEGACY_PG, Pair, items};

/// What a bridge may have in memory; see `docs/databases.md`. With 12,000 rows as with a million.
const MOST_KB: u64 = 250_000;

/// Rows in one statement, which is one transaction.
fn insert(db: &Db, rows: u32) -> String {
    let (concat, from) = match db {
        Db::Pg(_) => ("'c' || i", format!("generate_series(11, {rows}) AS i")),
        Db::My(_) => (
            "concat('c', i)",
            format!("(SELECT seq AS i FROM seq_11_to_{rows}) AS n"),
        ),
        Db::Lite(_) => unreachable!("it is a server"),
    };
    format!(
        "INSERT INTO item (id, code, price, status, note, made_at) \
         SELECT i, {concat}, 1.25, 'A', 'one of many', '2026-01-02 03:04:05' FROM {from}"
    )
}

async fn carried_over(pair: Pair, rows: u32) {
    pair.legacy.execute(&items(1, 10)).await;
    let what = match pair.is_replicated() {
        true => format!("{MANY}, by replication"),
        false => MANY.to_owned(),
    };
    let (legacy, extracted) = (pair.legacy.url(), pair.extracted.url());
    let mut bridge = child_between(&legacy, &extracted, &what, "never", 1);
    let patience = Duration::from_secs(60 + u64::from(rows) / 500);
    let there = async |condition: &str, count: u32| {
        let query = format!("SELECT count(*) FROM article WHERE {condition}");
        let found = async || {
            let found = pair.extracted.number(&query).await;
            (found == i64::from(count)).then_some(())
        };
        eventually("the rows", patience, found).await;
    };
    there("id <= 10", 10).await;
    pair.legacy.execute(&insert(&pair.legacy, rows)).await;
    there("note = 'one of many'", rows - 10).await;
    pair.legacy
        .execute("UPDATE item SET note = 'all at once', price = 2.50")
        .await;
    there("note = 'all at once' AND price_cents = 250", rows).await;
    pair.legacy.execute("DELETE FROM item WHERE id > 10").await;
    there("id > 0", 10).await;
    let peak = peak_kb(&bridge);
    bridge.kill().await.unwrap();
    assert!(peak < MOST_KB, "{peak} kB");
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    assert_eq!(link.verify().await.unwrap().different, 0);
    assert_eq!(link.evidence().unwrap().parked, 0);
    link.shutdown().await;
}

/// More than one transaction may have to go the short way.
const SOME: u32 = 12_000;
const MANY_ROWS: u32 = 1_000_000;

async fn by_triggers(rows: u32) {
    let pair = Pair::of(Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    carried_over(pair, rows).await;
}

async fn by_the_log(rows: u32) {
    let pair = Pair::replicated(Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    carried_over(pair, rows).await;
}

async fn by_the_binary_log(rows: u32) {
    let pair = Pair::replicated(Db::logged(LEGACY_MY).await, Db::logged(EXTRACTED_MY).await);
    carried_over(pair, rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_many_rows_goes_by_triggers() {
    by_triggers(SOME).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_many_rows_goes_by_the_log() {
    by_the_log(SOME).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_many_rows_goes_by_the_binary_log() {
    by_the_binary_log(SOME).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by scripts/test --long"]
async fn long_a_transaction_of_a_million_rows_goes_by_triggers() {
    by_triggers(MANY_ROWS).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by scripts/test --long"]
async fn long_a_transaction_of_a_million_rows_goes_by_the_log() {
    by_the_log(MANY_ROWS).await;
}
