//! What the databases keep for a link that applies nothing: it is measured and bounded whatever the
//! link is at, and a link beyond its limit is parked without a write of the application refused.

use std::num::NonZeroU32;
use std::time::Duration;

use outgrow_bridge::{Limits, Link, LinkSpec};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::crash::{PARKS, child_between, was_aborted};
use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::postgres::{Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, LEGACY_SQLITE, Pair, items};
use crate::shop::{WAIT, copied};

const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots";
/// About 6 MB of log that has nothing to do with the link.
const BULK: &str =
    "CREATE TABLE bulk AS SELECT n, md5(n::text) AS t FROM generate_series(1, 60000) n";

/// Looks often.
fn spec(pair: &Pair) -> LinkSpec {
    let mut spec = pair.spec();
    spec.limits.look = Duration::from_millis(50);
    spec
}

async fn ensured(spec: LinkSpec) -> Link {
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    link
}

async fn following(pair: &Pair, rows: u32) -> Link {
    pair.legacy.execute(&items(1, rows)).await;
    let link = ensured(spec(pair)).await;
    copied(&link).await;
    pair.equal().await;
    link
}

/// The link says why it has stopped.
async fn stopped(link: &Link, part: &str) -> String {
    let mut failures = link.failures();
    let said = failures.wait_for(|f| f.as_ref().is_some_and(|f| f.contains(part)));
    let said = tokio::time::timeout(2 * WAIT, said).await.ok();
    let said = said.map(|said| said.unwrap().clone().unwrap());
    assert!(
        said.is_some(),
        "{part} is not said: {:?}",
        link.failures().borrow().clone()
    );
    said.unwrap_or_default()
}

/// A link that starts is refused with this.
async fn refused(spec: LinkSpec, part: &str) {
    let link = Link::open(spec).await.unwrap();
    let refused = link.ensure(DataPhase::Following, Side::Legacy).await;
    let text = refused.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(text.contains(part), "{text}");
    link.shutdown().await;
}

async fn slots(db: &Db, many: i64) {
    eventually("the slots to be given up", WAIT, || async {
        (db.number(SLOTS).await == many).then_some(())
    })
    .await;
}

/// Has a link fail for something else.
async fn broken(pair: &Pair, link: &Link) {
    pair.legacy
        .execute("ALTER TABLE item RENAME COLUMN code TO kode")
        .await;
    stopped(link, "have changed").await;
}

async fn logged_pair() -> Pair {
    Pair::replicated(Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slots_of_a_link_that_failed_are_given_up_beyond_the_limit() {
    let pair = logged_pair().await;
    following(&pair, 10).await.shutdown().await;
    let mut limited = spec(&pair);
    limited.limits.log_bytes = 4 << 20;
    let link = ensured(limited.clone()).await;
    broken(&pair, &link).await;
    assert_eq!(pair.legacy.number(SLOTS).await, 1);
    pair.legacy.execute(BULK).await;
    stopped(&link, "bytes of its log for the link").await;
    slots(&pair.legacy, 0).await;
    // Nobody reads the other side's any more, either.
    slots(&pair.extracted, 0).await;
    assert_eq!(link.describe()["state"], "failed");
    link.shutdown().await;
    refused(limited, "more than the limit of 4194304").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slots_of_a_link_that_failed_before_a_restart_are_watched() {
    let pair = logged_pair().await;
    let link = following(&pair, 10).await;
    broken(&pair, &link).await;
    link.shutdown().await;
    let mut limited = spec(&pair);
    limited.limits.log_bytes = 4 << 20;
    let link = Link::open(limited).await.unwrap();
    assert_eq!(link.evidence(), None);
    link.watch_over();
    let kept = eventually("what is kept to be measured", WAIT, || async {
        let seen = link.evidence()?;
        (seen.log_kept_bytes.len() == 2).then_some(seen)
    })
    .await;
    assert_eq!((kept.log_limit_bytes, kept.copied), (4 << 20, false));
    assert!(link.failures().borrow().is_none());
    pair.legacy.execute(BULK).await;
    stopped(&link, "bytes of its log for the link").await;
    slots(&pair.legacy, 0).await;
    slots(&pair.extracted, 0).await;
    // The way out.
    link.close().await.unwrap();
    pair.legacy
        .execute("ALTER TABLE item RENAME COLUMN kode TO code")
        .await;
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    pair.equal().await;
    assert!(link.failures().borrow().is_none());
    link.shutdown().await;
}

/// A backfill leaves the time to following while a database keeps much.
#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_waits_while_much_is_kept() {
    let pair = Pair::replicated(Db::pg(LEGACY_PG).await, Db::lite(EXTRACTED_SQLITE).await);
    pair.legacy.execute(&items(1, 2_000)).await;
    let mut limited = spec(&pair);
    limited.limits.log_bytes = 64 << 20;
    limited.limits.copy_rate = NonZeroU32::new(20);
    let link = Link::open(limited).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    let taken = || link.evidence().map_or(0, |seen| seen.copied_rows);
    eventually("the backfill to begin", WAIT, || async {
        (taken() > 0).then_some(())
    })
    .await;
    // A transaction that stays open keeps the log from where it began.
    let server = crate::postgres_replication::server(&pair.legacy);
    let mut open = server.pool().begin().await.unwrap();
    sqlx::query("UPDATE item SET weight = 9 WHERE id = 2000")
        .execute(&mut *open)
        .await
        .unwrap();
    pair.legacy.execute(BULK).await;
    let waits = || {
        link.describe()["copy_waits_for"]
            .as_str()
            .map(str::to_owned)
    };
    let kept = "what the databases keep for the link to be applied";
    eventually("the backfill to wait", 3 * WAIT, || async {
        let more = "INSERT INTO bulk SELECT n, md5(n::text) FROM generate_series(1, 4000) n";
        let waits = waits().as_deref() == Some(kept);
        if !waits {
            pair.legacy.execute(more).await;
        }
        waits.then_some(())
    })
    .await;
    assert!(link.failures().borrow().is_none());
    open.rollback().await.unwrap();
    let before = taken();
    eventually("the backfill to go on", 3 * WAIT, || async {
        // With it the server notes from where on the log is needed.
        pair.legacy.execute("CHECKPOINT").await;
        (taken() > before).then_some(())
    })
    .await;
    assert!(link.failures().borrow().is_none());
    link.shutdown().await;
}

/// Many changes that nobody applies.
fn many() -> String {
    "UPDATE item SET weight = 1".to_owned()
}

/// So few bytes that these are too many.
fn tight(pair: &Pair) -> LinkSpec {
    let mut tight = spec(pair);
    tight.limits.noted_bytes = 20_000;
    tight
}

/// So little room that a link of either way of capture is parked.
pub(crate) fn tighten(limits: &mut Limits) {
    limits.look = Duration::from_millis(50);
    limits.noted_bytes = 20_000;
    limits.log_bytes = 10_000;
}

const PASSED: &str = "more than the limit of";

const TOO_MANY: &str = "bytes of changes that were not applied, more than the limit of 20000";

fn noted(pair: &Pair) -> &'static str {
    match &pair.legacy {
        Db::Lite(_) => "SELECT count(*) FROM _outgrow_items_changes",
        Db::Pg(_) => {
            "SELECT (SELECT count(*) FROM _outgrow.items_changes) + \
             (SELECT count(*) FROM _outgrow.items_noted)"
        }
        Db::My(_) => {
            "SELECT (SELECT count(*) FROM _outgrow_items_changes) + \
             (SELECT count(*) FROM _outgrow_items_noted)"
        }
    }
}

/// Writes go on, and are noted no more.
async fn notes_no_more(pair: &Pair) {
    let text = noted(pair);
    eventually("nothing to be noted any more", 3 * WAIT, || async {
        let before = pair.legacy.number(text).await;
        pair.legacy
            .execute("UPDATE item SET weight = weight + 1 WHERE id < 20")
            .await;
        (pair.legacy.number(text).await == before).then_some(())
    })
    .await;
    pair.legacy.execute(&many()).await;
    pair.legacy.execute("DELETE FROM item WHERE id = 3").await;
}

/// A link by triggers that is paused, also by a process before this one.
async fn paused(pair: Pair) {
    following(&pair, 600).await.shutdown().await;
    let link = Link::open(tight(&pair)).await.unwrap();
    link.pause().await.unwrap();
    link.keep(DataPhase::Following, Side::Legacy).await.unwrap();
    pair.legacy
        .execute("UPDATE item SET weight = 0 WHERE id <= 100")
        .await;
    let seen = eventually("the changes to be measured", WAIT, || async {
        let seen = link.evidence()?;
        let bytes = *seen.noted_bytes.get(&Side::Legacy)?;
        (bytes > 4_000).then_some(bytes)
    })
    .await;
    assert!(seen < 20_000, "{seen}");
    assert!(link.failures().borrow().is_none());
    pair.legacy.execute(&many()).await;
    stopped(&link, TOO_MANY).await;
    notes_no_more(&pair).await;
    link.shutdown().await;
    refused(tight(&pair), TOO_MANY).await;
    // With more room, too: there is a gap.
    refused(spec(&pair), TOO_MANY).await;
    let link = Link::open(spec(&pair)).await.unwrap();
    link.close().await.unwrap();
    // What was deleted while nothing was noted is there still.
    pair.extracted
        .execute("DELETE FROM article WHERE id = 3")
        .await;
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    pair.equal().await;
    pair.legacy
        .execute("UPDATE item SET note = 'followed again' WHERE id = 7")
        .await;
    pair.equal().await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_changes_of_a_paused_link_of_sqlite() {
    let (legacy, extracted) = (Db::lite(LEGACY_SQLITE), Db::lite(EXTRACTED_SQLITE));
    paused(Pair::of(legacy.await, extracted.await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_changes_of_a_paused_link_of_postgres() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG), Db::pg(EXTRACTED_PG));
    paused(Pair::of(legacy.await, extracted.await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_changes_of_a_paused_link_of_mariadb() {
    let (legacy, extracted) = (Db::my(LEGACY_MY), Db::my(EXTRACTED_MY));
    paused(Pair::of(legacy.await, extracted.await)).await;
}

/// What gathered while nobody measured is applied, where it gets less: it is not parked for that.
async fn caught_up(pair: Pair) {
    following(&pair, 600).await.shutdown().await;
    pair.legacy.execute(&many()).await;
    let mut patient = tight(&pair);
    patient.limits.look = Duration::from_millis(500);
    patient.limits.batch_changes = 20;
    let link = Link::open(patient).await.unwrap();
    link.watch_over();
    let kept = || {
        let seen = link.evidence()?;
        seen.noted_bytes.get(&Side::Legacy).copied()
    };
    eventually("too many changes to be seen", WAIT, || async {
        kept().filter(|kept| *kept > 20_000).map(drop)
    })
    .await;
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    pair.equal().await;
    eventually("few changes to be seen", WAIT, || async {
        kept().filter(|kept| *kept < 20_000).map(drop)
    })
    .await;
    assert!(link.failures().borrow().is_none());
    // As ever.
    link.pause().await.unwrap();
    pair.legacy.execute(&many()).await;
    stopped(&link, TOO_MANY).await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_changes_that_get_fewer_are_applied() {
    caught_up(Pair::of(
        Db::lite(LEGACY_SQLITE).await,
        Db::lite(EXTRACTED_SQLITE).await,
    ))
    .await;
    caught_up(Pair::of(
        Db::pg(LEGACY_PG).await,
        Db::pg(EXTRACTED_PG).await,
    ))
    .await;
}

/// The target is down, and the worker tries again and again.
async fn without_a_target(mut pair: Pair) {
    following(&pair, 600).await.shutdown().await;
    let mut tight = tight(&pair);
    tight.limits.busy = Duration::from_secs(1);
    let link = ensured(tight.clone()).await;
    let Db::My(target) = &mut pair.extracted else {
        unreachable!("it is MariaDB here");
    };
    target.kill();
    pair.legacy.execute(&many()).await;
    stopped(&link, TOO_MANY).await;
    match pair.is_replicated() {
        true => slots(&pair.legacy, 0).await,
        false => notes_no_more(&pair).await,
    }
    link.shutdown().await;
    let Db::My(target) = &mut pair.extracted else {
        unreachable!("it is MariaDB here");
    };
    target.restart(&[]).await;
    refused(tight, TOO_MANY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_changes_while_the_target_is_down() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG), Db::my(EXTRACTED_MY));
    without_a_target(Pair::of(legacy.await, extracted.await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_changes_of_the_log_while_the_target_is_down() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG), Db::logged(EXTRACTED_MY));
    without_a_target(Pair::replicated(legacy.await, extracted.await)).await;
}

/// A process that dies when it is on record that the link is parked, or when all but that is done.
#[tokio::test(flavor = "multi_thread")]
async fn a_death_amid_the_parking_is_made_good() {
    let pairs = [
        Pair::of(
            Db::lite(LEGACY_SQLITE).await,
            Db::lite(EXTRACTED_SQLITE).await,
        ),
        Pair::of(Db::pg(LEGACY_PG).await, Db::lite(EXTRACTED_SQLITE).await),
        Pair::of(Db::my(LEGACY_MY).await, Db::lite(EXTRACTED_SQLITE).await),
        logged_pair().await,
    ];
    for pair in pairs {
        for (point, after) in [("ended", 1), ("kept-no-more", 1), ("ended", 2)] {
            pair.legacy.execute("DELETE FROM item").await;
            following(&pair, 600).await.shutdown().await;
            pair.legacy.execute(&many()).await;
            let what = match pair.is_replicated() {
                true => format!("items{PARKS} by replication"),
                false => format!("items{PARKS}"),
            };
            let urls = (pair.legacy.url(), pair.extracted.url());
            let mut process = child_between(&urls.0, &urls.1, &what, point, after);
            let died = tokio::time::timeout(WAIT, process.wait()).await;
            assert!(was_aborted(died.unwrap().unwrap()), "{what} {point}");
            refused(spec(&pair), PASSED).await;
            let mut tight = spec(&pair);
            tighten(&mut tight.limits);
            let link = Link::open(tight).await.unwrap();
            link.watch_over();
            stopped(&link, PASSED).await;
            match pair.is_replicated() {
                true => {
                    slots(&pair.legacy, 0).await;
                    slots(&pair.extracted, 0).await;
                }
                false => notes_no_more(&pair).await,
            }
            // From the beginning again.
            link.close().await.unwrap();
            pair.extracted.execute("DELETE FROM article").await;
            link.shutdown().await;
        }
    }
}

/// Somebody's transaction keeps the triggers of MariaDB from being dropped: nobody's write waits for that
/// for long, and it is done once that has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_stays_open_puts_the_parking_off_and_stops_nobody() {
    let pair = Pair::of(Db::my(LEGACY_MY).await, Db::lite(EXTRACTED_SQLITE).await);
    following(&pair, 600).await.shutdown().await;
    let Db::My(server) = &pair.legacy else {
        unreachable!("it is MariaDB here");
    };
    let mut open = server.pool().begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM item")
        .execute(&mut *open)
        .await
        .unwrap();
    let link = Link::open(tight(&pair)).await.unwrap();
    link.watch_over();
    pair.legacy.execute(&many()).await;
    stopped(&link, TOO_MANY).await;
    let there = pair.legacy.number(noted(&pair)).await;
    for round in 0..5 {
        let text = format!("UPDATE item SET weight = {round} WHERE id = 7");
        pair.legacy.execute(&text).await;
    }
    let more = pair.legacy.number(noted(&pair)).await;
    assert_eq!(more, there + 5, "the triggers are there still");
    open.rollback().await.unwrap();
    notes_no_more(&pair).await;
    link.shutdown().await;
}
