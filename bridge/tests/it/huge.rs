//! One transaction of very many rows: it is carried over whole, in bounded memory.

use std::time::{Duration, Instant};

use outgrow_bridge::Link;
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::crash::{MANY, child_between};
use crate::large::peak_kb;
use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::postgres::{Db, EXTRACTED_PG, LEGACY_PG, Pair, items};

/// What a bridge may have in memory; see `docs/databases.md`. With 12,000 rows as with ten million.
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
    // The last row of all is asked for until it is there, and only then all of them.
    let there = async |last: &str, condition: &str, count: u32| {
        let found = async |query: String, wanted: i64| {
            let found = pair.extracted.number(&query).await;
            (found == wanted).then_some(())
        };
        let last = format!("SELECT count(*) FROM article WHERE id = {rows} AND {last}");
        let wanted = i64::from(count > 10);
        eventually("the last row", patience, || found(last.clone(), wanted)).await;
        let all = format!("SELECT count(*) FROM article WHERE {condition}");
        eventually("the rows", patience, || {
            found(all.clone(), i64::from(count))
        })
        .await;
    };
    there("id > 0", "id <= 10", 10).await;
    let began = Instant::now();
    let say = |what: &str| {
        let (seconds, peak) = (began.elapsed().as_secs(), peak_kb(&bridge));
        let told = format!("{rows} rows {what} after {seconds} s, at most {peak} kB\n");
        let _ = std::io::Write::write_all(&mut std::io::stderr(), told.as_bytes());
    };
    pair.legacy.execute(&insert(&pair.legacy, rows)).await;
    say("inserted");
    let many = "note = 'one of many'";
    there(many, many, rows - 10).await;
    say("there");
    pair.legacy
        .execute("UPDATE item SET note = 'all at once', price = 2.50")
        .await;
    say("changed");
    let changed = "note = 'all at once' AND price_cents = 250";
    there(changed, changed, rows).await;
    say("there as changed");
    pair.legacy.execute("DELETE FROM item WHERE id > 10").await;
    say("deleted");
    there("id > 0", "id > 0", 10).await;
    say("gone there");
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
/// Set to how many rows the long tests have, where a million is not what is wanted.
const ROWS: &str = "OUTGROW_TEST_ROWS";

fn very_many() -> u32 {
    std::env::var(ROWS).map_or(1_000_000, |text| text.parse().unwrap())
}

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
async fn long_a_transaction_of_very_many_rows_goes_by_triggers() {
    by_triggers(very_many()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by scripts/test --long"]
async fn long_a_transaction_of_very_many_rows_goes_by_the_log() {
    by_the_log(very_many()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by scripts/test --long"]
async fn long_a_transaction_of_very_many_rows_goes_by_the_binary_log() {
    by_the_binary_log(very_many()).await;
}
