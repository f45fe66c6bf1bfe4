//! Long rounds of the backfill by COPY, in which many chunks follow one another while the source has
//! no change: where the cursor is meanwhile, and what deaths, changes and refused rows amid one do.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};

use outgrow_bridge::{Capture, LinkSpec};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;
use sqlx::PgPool;

use crate::crash::child_between;
use crate::postgres_copy::{
    ALONE, LONG, SHORT, Wares, batches_of_ranges, done_amid, resumed, started, tables,
};
use crate::shop::{WAIT, copied};

const CURSOR: &str = "SELECT coalesce(sum(copied * 10000 + substr(k0, 2)::bigint), 0)::bigint FROM _outgrow.wares_copy \
    WHERE state = 'copying'";

/// Wares whose chunks of 40 go in one round.
async fn wares(rows: u32) -> Wares {
    let mut wares = Wares::filled(rows).await;
    wares.round = LONG;
    wares
}

fn alone(mut spec: LinkSpec) -> LinkSpec {
    spec.limits.copy_parallel = NonZeroU32::MIN;
    spec
}

/// What a statement says from within a point of a chunk.
fn number_amid(pool: &PgPool, text: &'static str) -> i64 {
    let asked = async { sqlx::query_scalar(text).fetch_one(pool).await.unwrap() };
    let handle = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| handle.block_on(asked))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_goes_on_while_there_are_no_changes() {
    for parallel in [1, 2, 5] {
        let wares = wares(430).await;
        let (batches, note) = batches_of_ranges();
        let mut spec = wares.spec_with(tables(), note);
        spec.limits.copy_parallel = NonZeroU32::new(parallel).unwrap();
        let link = started(spec).await;
        copied(&link).await;
        wares.equal().await;
        assert_eq!((wares.chunks(), batches.lock().unwrap().len()), (11, 1));
        let evidence = link.evidence().unwrap();
        assert_eq!((evidence.copied_rows, evidence.total_rows), (430, 430));
        assert_eq!(link.verify().await.unwrap().different, 0);
        link.shutdown().await;
    }
}

/// Beside changes, each lane writes one chunk, and they are followed before the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_round_is_short_beside_changes() {
    let mut wares = wares(400).await;
    wares.capture = Capture::Replication;
    let change = |id: usize| format!("UPDATE ware SET note = 'changed' WHERE id = {id}");
    let (batches, note) = batches_of_ranges();
    let pool = wares.legacy.pool().clone();
    let spec = wares.spec_with(tables(), move |at, times| {
        note(at, times);
        if at == "range-committed" {
            assert!(done_amid(&pool, change(400 - times)));
        }
    });
    let link = outgrow_bridge::Link::open(spec).await.unwrap();
    // A link that is paused already notes what changes.
    link.keep(DataPhase::Copying, Side::Legacy).await.unwrap();
    wares.legacy.execute(&change(7)).await;
    eventually("the change to be in the stream", WAIT, || async {
        let there = "SELECT count(*) FROM _outgrow.wares_changes WHERE tbl = 'ware'";
        (wares.legacy.number(there).await == 1).then_some(())
    })
    .await;
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    wares.equal().await;
    assert_eq!(wares.chunks(), 10);
    // Two chunks in each, but where the log told of a change a moment late; without changes it is one batch.
    let count = batches.lock().unwrap().len();
    assert!((3..=5).contains(&count), "{count} batches");
    link.shutdown().await;
}

/// The cursor is committed with each chunk whose predecessors are there.
#[tokio::test(flavor = "multi_thread")]
async fn the_cursor_moves_within_a_round() {
    let wares = wares(200).await;
    let seen: Arc<Mutex<Vec<i64>>> = Arc::default();
    let sees = Arc::clone(&seen);
    let pool = wares.extracted.pool().clone();
    let spec = wares.spec_with(tables(), move |at, _| {
        if at == "range-committed" {
            sees.lock().unwrap().push(number_amid(&pool, CURSOR));
        }
    });
    let link = started(alone(spec)).await;
    copied(&link).await;
    let at = |row: i64| row * 10_000 + row;
    assert_eq!(*seen.lock().unwrap(), [40, 80, 120, 160, 200].map(at));
    wares.equal().await;
    link.shutdown().await;
}

/// A death in a long round costs a chunk, and what changes before the restart is followed.
#[tokio::test(flavor = "multi_thread")]
async fn a_death_amid_a_round_costs_a_chunk() {
    for (point, chunks) in [("range-copied", 4), ("range-committed", 5)] {
        let wares = wares(1_200).await;
        let (legacy, extracted) = (wares.legacy.url(), wares.extracted.url());
        // Chunks of 100.
        let mut process = child_between(&legacy, &extracted, ALONE, point, 5);
        assert!(!process.wait().await.unwrap().success(), "{point}");
        let done = chunks * 100;
        let there = "SELECT count(*) FROM good";
        assert_eq!(wares.extracted.number(there).await, done, "{point}");
        assert_eq!(wares.extracted.number(CURSOR).await, done * 10_001);
        wares
            .legacy
            .execute(
                "UPDATE ware SET note = 'while dead' WHERE id IN (3, 450, 1100); \
                 DELETE FROM ware WHERE id IN (5, 460, 1110); \
                 UPDATE ware SET id = 5 WHERE id = 1120; UPDATE ware SET id = 1120 WHERE id = 6",
            )
            .await;
        let link = resumed(&wares).await;
        let left = usize::try_from(1_200 - done).unwrap();
        assert_eq!(wares.chunks(), left.div_ceil(40), "{point}");
        link.shutdown().await;
    }
}

/// A server that ends its sessions amid a round: what the cursor is behind is not copied again.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_drops_out_amid_a_round_costs_a_chunk() {
    for (source, point, chunks) in [
        (true, "range-committed", 10),
        (true, "range-copied", 10),
        (false, "range-committed", 10),
        (false, "range-copied", 11),
    ] {
        let wares = wares(400).await;
        let server = if source {
            &wares.legacy
        } else {
            &wares.extracted
        };
        let pool = server.pool().clone();
        let ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
            WHERE application_name = 'outgrow' AND state IS NOT NULL";
        let spec = wares.spec_with(tables(), move |at, times| {
            if (at, times) == (point, 3) {
                assert!(done_amid(&pool, ends.to_owned()));
            }
        });
        let link = started(alone(spec)).await;
        copied(&link).await;
        wares.equal().await;
        assert_eq!(wares.chunks(), chunks, "{point}");
        let evidence = link.evidence().unwrap();
        assert_eq!((evidence.copied_rows, evidence.parked), (400, 0));
        assert_eq!(link.verify().await.unwrap().different, 0);
        link.shutdown().await;
    }
}

/// Rows that change between the reading of their chunk and its writing, or before a later chunk of
/// the round is read, are written as the round's snapshot has them, and then followed.
#[tokio::test(flavor = "multi_thread")]
async fn changes_amid_a_round_are_followed_behind_it() {
    for capture in [Capture::Triggers, Capture::Replication] {
        let mut wares = wares(400).await;
        wares.capture = capture;
        let (legacy, extracted) = (wares.legacy.pool().clone(), wares.extracted.pool().clone());
        let old: Arc<Mutex<Option<bool>>> = Arc::default();
        let found = Arc::clone(&old);
        let spec = wares.spec_with(tables(), move |at, times| match (at, times) {
            ("copy-sent", 3) => {
                let changes = "UPDATE ware SET note = 'amid' WHERE id IN (1, 100, 300); \
                     DELETE FROM ware WHERE id IN (2, 101, 301); \
                     UPDATE ware SET id = id + 1000 WHERE id IN (3, 102, 302); \
                     UPDATE ware SET id = 2 WHERE id = 303; UPDATE ware SET id = 303 WHERE id = 104; \
                     INSERT INTO ware (id, code) VALUES (301, 'again'), (5000, 'new')";
                assert!(done_amid(&legacy, changes.to_owned()));
            }
            ("range-committed", 10) => {
                let is_old = "SELECT 1 / (count(*) / 3)::int FROM good WHERE id IN (2, 101, 301) \
                    AND sku LIKE 'c%'";
                *found.lock().unwrap() = Some(done_amid(&extracted, is_old.to_owned()));
            }
            _ => {}
        });
        let link = started(alone(spec)).await;
        copied(&link).await;
        wares.equal().await;
        assert_eq!(*old.lock().unwrap(), Some(true), "of the round's snapshot");
        let evidence = link.evidence().unwrap();
        assert_eq!((evidence.parked, evidence.foreign_writes), (0, 0));
        assert_eq!(link.verify().await.unwrap().different, 0);
        link.shutdown().await;
    }
}

/// Who was taken over amid a round writes no further chunk, nor moves the cursor.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_worker_ends_its_round() {
    let wares = wares(400).await;
    let pool = wares.extracted.pool().clone();
    let spec = wares.spec_with(tables(), move |at, times| {
        if (at, times) == ("range-committed", 3) {
            let epoch =
                "UPDATE _outgrow.wares_position SET epoch = epoch + 1 WHERE stream = 'legacy'";
            assert!(done_amid(&pool, epoch.to_owned()));
        }
    });
    let link = started(alone(spec)).await;
    let mut failures = link.failures();
    let failed = failures.wait_for(Option::is_some).await.unwrap().clone();
    let text = failed.unwrap_or_default();
    assert!(
        text.contains("another bridge process has taken over"),
        "{text}"
    );
    let there = "SELECT count(*) FROM good";
    assert_eq!(wares.extracted.number(there).await, 120);
    assert_eq!(wares.extracted.number(CURSOR).await, 120 * 10_001);
    link.shutdown().await;
    resumed(&wares).await.shutdown().await;
    assert_eq!(wares.chunks(), 3 + 7);
}

/// The rows of a refused chunk are looked at, and no others.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_row_amid_a_round_has_its_chunk_looked_at() {
    let wares = wares(400).await;
    wares
        .extracted
        .execute("ALTER TABLE good ADD CONSTRAINT small CHECK (sku <> 'c\\170')")
        .await;
    let link = started(alone(wares.spec(tables()))).await;
    copied(&link).await;
    eventually("one parked row", WAIT, || async {
        (link.evidence()?.parked == 1).then_some(())
    })
    .await;
    let there = "SELECT count(*) FROM good";
    assert_eq!(wares.extracted.number(there).await, 399);
    // 4, one in vain, 5; the rows of that one by 10.
    assert_eq!((wares.chunks(), wares.count("chunk-read")), (10, 4));
    wares
        .extracted
        .execute("ALTER TABLE good DROP CONSTRAINT small")
        .await;
    wares.equal().await;
    link.shutdown().await;
}

/// A large table is not counted where its server has an idea of its rows; what is told at the end is
/// what was copied.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_table_is_not_counted_before_it_is_copied() {
    for analysed in [true, false] {
        let mut wares = wares(0).await;
        wares.round = SHORT;
        wares
            .legacy
            .execute(
                "INSERT INTO ware (id, code, note) SELECT n, n, repeat(md5(n::text), 40) FROM generate_series(1, 9000) AS n",
            )
            .await;
        if analysed {
            wares.legacy.execute("ANALYZE ware").await;
        }
        // The server's idea of it stays.
        wares
            .legacy
            .execute("DELETE FROM ware WHERE id % 3 > 0")
            .await;
        let totals: Arc<Mutex<Vec<i64>>> = Arc::default();
        let sees = Arc::clone(&totals);
        let pool = wares.extracted.pool().clone();
        let mut spec = wares.spec_with(tables(), move |at, times| {
            if (at, times) == ("range-committed", 1) {
                sees.lock()
                    .unwrap()
                    .push(number_amid(&pool, "SELECT total FROM _outgrow.wares_copy"));
            }
        });
        spec.limits.copy_rows = 1_000;
        let link = outgrow_bridge::Link::open(spec).await.unwrap();
        let thought = if analysed { 9_000 } else { 3_000 };
        let found = link.preflight().await.unwrap();
        assert_eq!(found.rows["legacy.ware"], thought);
        link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
        copied(&link).await;
        wares.equal().await;
        assert_eq!(*totals.lock().unwrap(), [i64::try_from(thought).unwrap()]);
        let evidence = link.evidence().unwrap();
        assert_eq!((evidence.copied_rows, evidence.total_rows), (3_000, 3_000));
        link.shutdown().await;
    }
}
