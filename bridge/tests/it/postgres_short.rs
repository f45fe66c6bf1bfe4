//! Rows that go from the log of one PostgreSQL into another without the stream between: that they
//! do, what goes the long way, and what a death leaves.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, mpsc};

use outgrow_bridge::{FaultHook, Link};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::crash::child_between;
use crate::postgres::{Db, EXTRACTED_PG, LEGACY_PG, Pair, items};
use crate::postgres_replication::server;
use crate::shop::{WAIT, copied};
use crate::turning::cut_over;

/// Changes of rows that have a place in the monolith's stream.
const NOTED: &str = "SELECT count(*) FROM _outgrow.items_changes WHERE tbl <> ''";
const HEAD: &str = "SELECT head FROM _outgrow.items_control";

fn position(stream: Side) -> String {
    format!("SELECT seq FROM _outgrow.items_position WHERE stream = '{stream}'")
}

/// A pair that follows, with nothing in its stream, so that what comes may go the short way.
async fn following(extracted: &str) -> (Pair, Link) {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::pg(extracted).await);
    legacy.execute(&items(1, 60)).await;
    let pair = Pair::replicated(legacy, extracted);
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    (pair, link)
}

/// A heartbeat that has gone the short way leaves its place in the log.
async fn is_short(from: &Db, into: &Db, stream: Side) {
    let known = format!(
        "SELECT coalesce(max(split_part(place, ' ', 1)::bigint), 0) \
         FROM _outgrow.items_position WHERE stream = '{stream}'"
    );
    let head = from.number(HEAD).await;
    eventually("the short way to be open", WAIT, || async {
        (into.number(&known).await > head).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_do_not_touch_the_stream_on_their_way() {
    let (pair, link) = following(EXTRACTED_PG).await;
    is_short(&pair.legacy, &pair.extracted, Side::Legacy).await;
    let (noted, head) = (
        pair.legacy.number(NOTED).await,
        pair.legacy.number(HEAD).await,
    );
    for text in [
        &items(100, 130),
        "UPDATE item SET note = 'by the log', weight = id / 8.0, raw = '\\x00ff' WHERE id < 20",
        "UPDATE item SET id = 9000 WHERE id = 1",
        "DELETE FROM item WHERE id BETWEEN 20 AND 25",
    ] {
        pair.legacy.execute(text).await;
    }
    let mut tx = pool(&pair.legacy).begin().await.unwrap();
    for text in [
        "UPDATE item SET code = 'once' WHERE id = 30",
        "UPDATE item SET code = 'twice' WHERE id = 30",
        "DELETE FROM item WHERE id = 31",
        "INSERT INTO item (id, code, price, status, made_at) VALUES (31, 'again', 1.5, 'D', now())",
    ] {
        sqlx::query(text).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    pair.equal().await;
    assert_eq!(pair.legacy.number(NOTED).await, noted);
    // Each change has a number all the same, which is on record soon.
    eventually("the record", WAIT, || async {
        (pair.legacy.number(HEAD).await >= head + 31 + 19 + 2 + 6 + 4).then_some(())
    })
    .await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    // The other way round, too.
    cut_over(&link, Side::Extracted).await;
    is_short(&pair.extracted, &pair.legacy, Side::Extracted).await;
    let noted = pair.extracted.number(NOTED).await;
    eventually("rows to come by the log", WAIT, || async {
        let text = "UPDATE article SET note = 'back', price_cents = price_cents + 1 WHERE id < 9";
        let before = pair.extracted.number(NOTED).await;
        pair.extracted.execute(text).await;
        pair.equal().await;
        (pair.extracted.number(NOTED).await == before && before >= noted).then_some(())
    })
    .await;
    let seen = link.evidence().unwrap();
    assert_eq!((seen.parked, seen.foreign_writes), (0, 0));
    link.shutdown().await;
}

fn pool(db: &Db) -> sqlx::PgPool {
    match db {
        Db::Pg(server) => server.pool().clone(),
        Db::Lite(_) | Db::My(_) => unreachable!("these pairs have PostgreSQL"),
    }
}

/// Values that the log does not tell, rows that swap, a row that is refused, a truncate, and a
/// transaction that is too large.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_go_the_short_way_goes_the_long_one() {
    let refusing = format!("{EXTRACTED_PG}; ALTER TABLE article ADD CHECK (price_cents < 100000)");
    let (pair, link) = following(&refusing).await;
    is_short(&pair.legacy, &pair.extracted, Side::Legacy).await;
    let large = "UPDATE item SET note = (SELECT string_agg(md5(n::text), '') \
                 FROM generate_series(1, 2000) n) WHERE id < 5";
    pair.legacy.execute(large).await;
    pair.equal().await;
    pair.legacy
        .execute("UPDATE item SET weight = weight + 1 WHERE id < 9")
        .await;
    pair.equal().await;
    // Codes are unique on the other side.
    let mut tx = pool(&pair.legacy).begin().await.unwrap();
    for text in [
        "UPDATE item SET code = 'between' WHERE id = 10",
        "UPDATE item SET code = 'c10' WHERE id = 11",
        "UPDATE item SET code = 'c11' WHERE id = 10",
    ] {
        sqlx::query(text).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    pair.equal().await;
    pair.legacy
        .execute(
            "INSERT INTO item (id, code, price, status, made_at) \
             SELECT n, 'b' || n, n / 100.0, 'A', now() FROM generate_series(1000, 11500) n",
        )
        .await;
    pair.equal().await;
    pair.legacy
        .execute("UPDATE item SET price = 1000.00 WHERE id = 3")
        .await;
    pair.legacy
        .execute("UPDATE item SET note = 'after' WHERE id = 5")
        .await;
    eventually("the parked row", WAIT, || async {
        (link.evidence()?.parked == 1).then_some(())
    })
    .await;
    pair.legacy
        .execute("UPDATE item SET price = 9.99 WHERE id = 3")
        .await;
    pair.equal().await;
    pair.legacy.execute("TRUNCATE item").await;
    pair.legacy.execute(&items(60, 70)).await;
    pair.equal().await;
    is_short(&pair.legacy, &pair.extracted, Side::Legacy).await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

/// The rows are committed and the record is not: the next process finds by the log that they are,
/// and a log that does not have them is not this one.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_death_left_without_a_record_is_found_by_the_log() {
    let (pair, link) = following(EXTRACTED_PG).await;
    link.shutdown().await;
    let (legacy, extracted) = (pair.legacy.url(), pair.extracted.url());
    let mut process = child_between(&legacy, &extracted, pair.child(), "after-commit", 30);
    let mut round = 0;
    while process.try_wait().unwrap().is_none() {
        let text = format!("UPDATE item SET note = 'round {round}' WHERE id < 3");
        pair.legacy.execute(&text).await;
        round += 1;
    }
    let ahead = pair.extracted.number(&position(Side::Legacy)).await;
    assert!(
        ahead > pair.legacy.number(HEAD).await,
        "the rows come first"
    );
    pair.legacy
        .execute("UPDATE item SET note = 'in between' WHERE id < 5")
        .await;
    let place =
        "UPDATE _outgrow.items_position SET place = seq || ' 1 2 3' WHERE stream = 'legacy'";
    let kept = "CREATE TABLE kept AS SELECT stream, place FROM _outgrow.items_position";
    pair.extracted.execute(kept).await;
    pair.extracted.execute(place).await;
    let link = Link::open(pair.spec()).await.unwrap();
    let refused = link.ensure(DataPhase::Following, Side::Legacy).await;
    let text = refused.unwrap_err().to_string();
    assert!(
        text.contains("its log does not have the transaction"),
        "{text}"
    );
    link.shutdown().await;
    pair.extracted
        .execute(
            "UPDATE _outgrow.items_position p SET place = k.place FROM kept k \
             WHERE k.stream = p.stream",
        )
        .await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    assert!(pair.legacy.number(HEAD).await >= ahead, "it is on record");
    pair.equal().await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

/// Commits that need not be on the disk keep each other company until one that must be.
const UNHURRIED: &[&str] = &["wal_writer_delay=10s", "wal_writer_flush_after=1GB"];

/// The target's server dies with commits that are not on its disk, while the bridge lives on.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_of_the_target_takes_back_comes_again() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    legacy.execute(&items(1, 60)).await;
    let mut pair = Pair::replicated(legacy, extracted);
    restart(&mut pair.extracted, UNHURRIED).await;
    let mut spec = pair.spec();
    let armed = Arc::new(AtomicBool::new(false));
    let (met, mut meets) = tokio::sync::mpsc::unbounded_channel();
    let (go, on) = mpsc::channel::<()>();
    let (on, waits) = (Mutex::new(on), Arc::clone(&armed));
    spec.limits.fault = Some(FaultHook::new(move |at| {
        if at == "after-commit" && waits.swap(false, SeqCst) && met.send(()).is_ok() {
            tokio::task::block_in_place(|| on.lock().unwrap().recv().ok());
        }
    }));
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    let mut taken_back = 0;
    for round in 0..3 {
        is_short(&pair.legacy, &pair.extracted, Side::Legacy).await;
        armed.store(true, SeqCst);
        let text = format!("UPDATE item SET note = 'round {round}' WHERE id < 9");
        pair.legacy.execute(&text).await;
        meets.recv().await.unwrap();
        let before = pair.extracted.number(&position(Side::Legacy)).await;
        restart(&mut pair.extracted, UNHURRIED).await;
        let after = pair.extracted.number(&position(Side::Legacy)).await;
        let record = pair.legacy.number(HEAD).await;
        assert!(record <= after, "nothing is on record that is not there");
        taken_back += before - after;
        go.send(()).unwrap();
        pair.equal().await;
    }
    assert!(taken_back > 0, "else the crashes took nothing back");
    assert_eq!(link.verify().await.unwrap().different, 0);
    let seen = link.evidence().unwrap();
    assert_eq!((seen.parked, seen.foreign_writes), (0, 0));
    assert_eq!(*link.failures().borrow(), None);
    link.shutdown().await;
}

async fn restart(db: &mut Db, settings: &[&str]) {
    match db {
        Db::Pg(server) => server.restart(settings).await,
        Db::Lite(_) | Db::My(_) => unreachable!("these pairs have PostgreSQL"),
    }
}

/// Rows of our own do not call the note triggers, also where a version before has made them.
#[tokio::test(flavor = "multi_thread")]
async fn triggers_of_a_version_before_are_made_anew() {
    let pair = Pair::of(Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    pair.legacy.execute(&items(1, 30)).await;
    let start = async || {
        let link = Link::open(pair.spec()).await.unwrap();
        link.ensure(DataPhase::Following, Side::Legacy)
            .await
            .unwrap();
        copied(&link).await;
        link
    };
    start().await.shutdown().await;
    let old = "DROP TRIGGER outgrow_items_note ON article; \
         CREATE TRIGGER outgrow_items_note AFTER INSERT OR UPDATE OR DELETE ON article \
         FOR EACH ROW EXECUTE FUNCTION _outgrow.items_note_article()";
    pair.extracted.execute(old).await;
    let link = start().await;
    for db in [&pair.legacy, &pair.extracted] {
        let bare = "SELECT count(*) FROM pg_trigger WHERE tgname = 'outgrow_items_note'";
        assert_eq!(db.number(bare).await, 1);
        let made = format!("{bare} AND tgqual IS NOT NULL AND tgenabled = 'O'");
        // Before 14 that would lock the application's readers out.
        let stays = std::ptr::eq(db, &pair.extracted) && server(db).version().await < 14;
        assert_eq!(db.number(&made).await, i64::from(!stays));
    }
    pair.legacy
        .execute("UPDATE item SET note = 'noted' WHERE id < 9")
        .await;
    pair.equal().await;
    assert_eq!(link.evidence().unwrap().foreign_writes, 0);
    link.shutdown().await;
}

/// Rows are on the other side and not on record, and the stream breaks: the server hears of the
/// record alone, or it would let go of what a death then needs.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_hears_of_nothing_that_is_not_on_record() {
    let (pair, link) = following(EXTRACTED_PG).await;
    is_short(&pair.legacy, &pair.extracted, Side::Legacy).await;
    let streams = "SELECT coalesce(max(pid), 0)::int8 FROM pg_stat_replication";
    let moved = "SELECT count(*) FROM pg_replication_slots s JOIN _outgrow.items_slot o \
                 ON o.name = s.slot_name WHERE s.confirmed_flush_lsn - pg_lsn '0/0' > o.lsn";
    // No record can be made.
    let mut holds = pool(&pair.legacy).begin().await.unwrap();
    sqlx::query("SELECT * FROM _outgrow.items_slot FOR UPDATE")
        .execute(&mut *holds)
        .await
        .unwrap();
    pair.legacy
        .execute("UPDATE item SET note = 'ahead' WHERE id < 9")
        .await;
    pair.equal().await;
    let before = pair.legacy.number(streams).await;
    pair.legacy
        .execute(&format!("SELECT pg_terminate_backend({before})"))
        .await;
    let told = "SELECT count(*) FROM pg_stat_replication WHERE flush_lsn IS NOT NULL AND pid <> ";
    eventually("a new stream that has told its place", WAIT, || async {
        (pair.legacy.number(&format!("{told}{before}")).await == 1).then_some(())
    })
    .await;
    assert_eq!(pair.legacy.number(moved).await, 0);
    holds.rollback().await.unwrap();
    pair.legacy
        .execute("UPDATE item SET note = 'on record' WHERE id < 5")
        .await;
    pair.equal().await;
    link.shutdown().await;
}
