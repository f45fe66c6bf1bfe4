//! Large values: what of them is in memory at once is bounded, in the copy and after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use outgrow_bridge::{FaultHook, Link, Writes};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;
use tokio::process::Child;

use crate::crash::child_between;
use crate::postgres::{Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, LEGACY_SQLITE, Pair, items};
use crate::shop::copied;

/// A value of so many bytes, which are not all alike.
fn filled(db: &Db, bytes: u32, seed: &str) -> String {
    match db {
        Db::Pg(_) => format!("decode(repeat(md5('{seed}' || id), {}), 'hex')", bytes / 16),
        Db::My(_) => format!("unhex(repeat(md5(concat('{seed}', id)), {}))", bytes / 16),
        Db::Lite(_) => {
            format!("cast(printf('%.*c{seed}', {bytes} - length('{seed}'), 'x') AS blob)")
        }
    }
}

async fn update(db: &Db, bytes: u32, seed: &str, which: &str) {
    let value = filled(db, bytes, seed);
    db.execute(&format!("UPDATE item SET raw = {value} WHERE {which}"))
        .await;
}

/// How many rows have just this value.
async fn count(db: &Db, table: &str, bytes: u32, seed: &str) -> i64 {
    let value = filled(db, bytes, seed);
    // The value is made for rows of that length only.
    db.number(&format!(
        "SELECT count(*) FROM {table} WHERE CASE WHEN octet_length(raw) = {bytes} THEN raw = {value} END"
    ))
    .await
}

/// One transaction changes twenty rows of 250 kB, and one more of 32 times as much.
async fn cut(pair: Pair, writes: Writes) {
    pair.legacy.execute(&items(1, 40)).await;
    let mut spec = pair.spec();
    spec.writes = writes;
    spec.limits.chunk_bytes = 1_100_000;
    let written = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&written);
    spec.limits.fault = Some(FaultHook::new(move |at| {
        seen.fetch_add(u64::from(at == "after-commit"), SeqCst);
    }));
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    pair.equal().await;
    // All of it is there when the link goes on: one batch would take it.
    link.pause().await.unwrap();
    update(&pair.legacy, 250_000, "a", "id BETWEEN 11 AND 30").await;
    update(&pair.legacy, 8_000_000, "b", "id = 20").await;
    pair.legacy
        .execute("DELETE FROM item WHERE id IN (5, 25, 35)")
        .await;
    written.store(0, SeqCst);
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    pair.equal().await;
    assert_eq!(count(&pair.extracted, "article", 250_000, "a").await, 18);
    assert_eq!(count(&pair.extracted, "article", 8_000_000, "b").await, 1);
    // Four rows of 250 kB at a time, the large one by itself.
    assert!(written.load(SeqCst) >= 6, "{}", written.load(SeqCst));
    assert_eq!(link.evidence().unwrap().parked, 0);
    let report = link.verify().await.unwrap();
    assert_eq!((report.different, report.unsettled), (0, 0));
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_rows_cut_a_batch() {
    let pair = Pair::of(Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    cut(pair, Writes::One).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_rows_cut_a_batch_by_replication() {
    let legacy = Db::pg(LEGACY_PG).await;
    let pair = Pair::replicated(legacy, Db::pg(EXTRACTED_PG).await);
    cut(pair, Writes::One).await;
}

#[tokio::test]
async fn large_rows_cut_a_batch_between_files() {
    let legacy = Db::lite(LEGACY_SQLITE).await;
    cut(
        Pair::of(legacy, Db::lite(EXTRACTED_SQLITE).await),
        Writes::One,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_rows_cut_a_batch_where_both_sides_write() {
    let pair = Pair::of(Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    cut(pair, crate::both_random::asked_of("both writer")).await;
}

const LARGE: u32 = 100_000_000;
/// What the bridge may have in memory with one such value on its way; see `docs/databases.md`.
const MOST_KB: u64 = 1_000_000;

/// What a process had in memory at most.
pub(crate) fn peak_kb(process: &Child) -> u64 {
    let status = format!("/proc/{}/status", process.id().unwrap());
    let status = std::fs::read_to_string(status).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap()
}

/// A value of 100 MB beside others of 2 MB is copied, changed and followed by a process whose
/// memory is looked at.
async fn followed(pair: Pair) {
    pair.legacy.execute(&items(1, 60)).await;
    update(&pair.legacy, LARGE, "a", "id = 7").await;
    update(&pair.legacy, 2_000_000, "s", "id > 20").await;
    let (legacy, extracted) = (pair.legacy.url(), pair.extracted.url());
    let mut bridge = child_between(&legacy, &extracted, pair.child(), "never", 1);
    let there = async |bytes: u32, seed: &str, rows: i64| {
        let found = async || {
            // The table is there before the rows, and is not read while it is filled.
            let count = count(&pair.extracted, "article", bytes, seed).await;
            (count == rows).then_some(())
        };
        eventually("the rows", Duration::from_secs(240), found).await;
    };
    there(LARGE, "a", 1).await;
    there(2_000_000, "s", 40).await;
    update(&pair.legacy, LARGE, "b", "id = 7").await;
    update(&pair.legacy, 2_000_000, "t", "id > 20").await;
    there(LARGE, "b", 1).await;
    there(2_000_000, "t", 40).await;
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

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by scripts/test --long"]
async fn a_value_of_100_mb_is_followed_in_bounded_memory() {
    let legacy = Db::pg(LEGACY_PG).await;
    let external = "ALTER TABLE item ALTER raw SET STORAGE EXTERNAL";
    legacy.execute(external).await;
    followed(Pair::of(legacy, Db::pg(EXTRACTED_PG).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by scripts/test --long"]
async fn a_value_of_100_mb_is_followed_in_bounded_memory_between_files() {
    let legacy = Db::lite(LEGACY_SQLITE).await;
    followed(Pair::of(legacy, Db::lite(EXTRACTED_SQLITE).await)).await;
}
