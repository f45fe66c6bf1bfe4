//! A source that was restored from a backup is not the one that was followed, whatever it has by now:
//! what the passive side has beyond it would stay there, and what comes has numbers that were applied.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outgrow_bridge::{Capture, Clock, DatabaseUrl, FaultHook, Limits, Link, LinkSpec, Policy};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{Relay, TempDatabase, eventually};
use sqlx::{Executor as _, SqlitePool};
use tokio::sync::Notify;

use crate::both::both;
use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::mysql_binlog::{begun, stopped};
use crate::postgres::{Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, LEGACY_SQLITE, Pair, items};
use crate::shop::{WAIT, copied};

pub(crate) async fn backup(db: &mut Db) {
    match db {
        Db::Pg(server) => server.backup().await,
        Db::My(server) => server.backup().await,
        Db::Lite(_) => unreachable!("it is a server"),
    }
}

async fn restore(db: &mut Db) {
    match db {
        Db::Pg(server) => server.restore().await,
        Db::My(server) => server.restore().await,
        Db::Lite(_) => unreachable!("it is a server"),
    }
}

pub(crate) async fn refusal(spec: LinkSpec) -> String {
    let link = Link::open(spec).await.unwrap();
    let refused = link.ensure(DataPhase::Following, Side::Legacy).await;
    link.shutdown().await;
    refused.err().map(|e| e.to_string()).unwrap_or_default()
}

/// More changes than the backup lacks: the numbers of the stream tell nothing any more.
pub(crate) const LATER: &str = "UPDATE item SET note = 'of another history'";

async fn noticed(mut pair: Pair) {
    pair.legacy.execute(&items(1, 40)).await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    link.shutdown().await;
    backup(&mut pair.legacy).await;
    let link = begun(&pair).await;
    pair.legacy
        .execute("UPDATE item SET note = 'after the backup' WHERE id < 4")
        .await;
    pair.equal().await;
    // At rest, or at work: what comes first from the restored one is a writer's.
    link.shutdown().await;
    restore(&mut pair.legacy).await;
    for _ in 0..3 {
        pair.legacy.execute(LATER).await;
    }
    let text = refusal(pair.spec()).await;
    assert!(text.contains("restored from a backup"), "{text}");
    // And once more: asking has not made it the right one.
    assert_eq!(refusal(pair.spec()).await, text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_postgres_is_noticed() {
    noticed(Pair::of(
        Db::pg(LEGACY_PG).await,
        Db::pg(EXTRACTED_PG).await,
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_mariadb_is_noticed() {
    noticed(Pair::of(
        Db::my(LEGACY_MY).await,
        Db::my(EXTRACTED_MY).await,
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_restored_under_a_running_link_is_noticed() {
    let mut pair = Pair::of(Db::pg(LEGACY_PG).await, Db::lite(EXTRACTED_SQLITE).await);
    pair.legacy.execute(&items(1, 40)).await;
    backup_of_a_running_link(&mut pair).await;
}

/// A backup of all files has the slot, too, at the place where it was then.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_postgres_is_noticed_by_its_log() {
    let legacy = Db::pg(LEGACY_PG).await;
    noticed(Pair::replicated(legacy, Db::lite(EXTRACTED_SQLITE).await)).await;
}

/// Rows go the short way between these two.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_postgres_is_noticed_by_its_log_the_short_way() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    noticed(Pair::replicated(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_restored_under_a_running_link_is_noticed_by_its_log() {
    let legacy = Db::pg(LEGACY_PG).await;
    let mut pair = Pair::replicated(legacy, Db::lite(EXTRACTED_SQLITE).await);
    pair.legacy.execute(&items(1, 40)).await;
    backup_of_a_running_link(&mut pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_restored_amid_the_short_way_is_noticed() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    let mut pair = Pair::replicated(legacy, extracted);
    pair.legacy.execute(&items(1, 40)).await;
    backup_of_a_running_link(&mut pair).await;
}

async fn backup_of_a_running_link(pair: &mut Pair) {
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    backup(&mut pair.legacy).await;
    pair.legacy.execute(AFTER).await;
    pair.equal().await;
    restore(&mut pair.legacy).await;
    let said = stopped(&link).await;
    assert!(said.contains("restored from a backup"), "{said}");
    link.shutdown().await;
}

/// A link that is kept from its source while that is restored and works on, so that no place tells it any
/// more: neither the length of its log nor the numbers of its stream.
pub(crate) struct Away {
    pub(crate) pair: Pair,
    pub(crate) relay: Relay,
    pub(crate) link: Link,
}

impl Away {
    async fn of(extracted: Db, capture: Capture, fault: Option<FaultHook>) -> Self {
        let legacy = Db::pg(LEGACY_PG).await;
        let pair = match capture {
            Capture::Triggers => Pair::of(legacy, extracted),
            Capture::Replication => Pair::replicated(legacy, extracted),
        };
        Self::with(pair, |limits| limits.fault = fault).await
    }

    pub(crate) async fn with(pair: Pair, limited: impl FnOnce(&mut Limits)) -> Self {
        pair.legacy.execute(&items(1, 40)).await;
        let mut spec = pair.spec();
        spec.limits.busy = Duration::from_millis(500);
        limited(&mut spec.limits);
        let (relay, url) = match &pair.legacy {
            Db::Pg(server) => {
                let relay = Relay::to(server.address()).await;
                let url = server.url_through(&relay);
                (relay, url)
            }
            Db::My(server) => {
                let relay = Relay::to(server.address()).await;
                let url = server.url_through(&relay);
                (relay, url)
            }
            Db::Lite(_) => unreachable!("it is a server"),
        };
        let url: DatabaseUrl = url.parse().unwrap();
        spec.legacy = match pair.is_replicated() {
            true => url.capturing(Capture::Replication).unwrap(),
            false => url.capturing(Capture::Triggers).unwrap(),
        };
        let link = Link::open(spec).await.unwrap();
        link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
        copied(&link).await;
        Self { pair, relay, link }
    }

    pub(crate) async fn restored(&mut self) {
        restore(&mut self.pair.legacy).await;
        for _ in 0..20 {
            self.pair.legacy.execute(LATER).await;
        }
    }

    pub(crate) async fn noticed(self) {
        self.relay.mend();
        let said = stopped(&self.link).await;
        assert!(said.contains("restored from a backup"), "{said}");
        self.link.shutdown().await;
        // What was done last has not made it the right one.
        let text = refusal(self.pair.spec()).await;
        assert!(text.contains("restored from a backup"), "{text}");
    }
}

pub(crate) const AFTER: &str = "UPDATE item SET note = 'after the backup' WHERE id < 4";

async fn overtakes(extracted: Db, capture: Capture) {
    let mut away = Away::of(extracted, capture, None).await;
    backup(&mut away.pair.legacy).await;
    away.pair.legacy.execute(AFTER).await;
    away.pair.equal().await;
    // A backup tells itself by the heartbeats that it lacks.
    let beat = away.link.applied_through();
    eventually("a heartbeat behind the backup", WAIT, || async {
        (away.link.applied_through() > beat).then_some(())
    })
    .await;
    away.relay.cut();
    away.restored().await;
    away.noticed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_postgres_that_has_more_by_now_is_noticed() {
    overtakes(Db::lite(EXTRACTED_SQLITE).await, Capture::Triggers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_postgres_whose_log_is_longer_by_now_is_noticed() {
    overtakes(Db::lite(EXTRACTED_SQLITE).await, Capture::Replication).await;
}

/// Changes go the short way, and all that is on record of them is in the backup: only the log tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_postgres_whose_record_is_as_it_was_is_noticed_by_its_log() {
    let extracted = Db::pg(EXTRACTED_PG).await;
    let mut away = Away::of(extracted, Capture::Replication, None).await;
    away.relay.cut();
    backup(&mut away.pair.legacy).await;
    let Db::Pg(server) = &away.pair.legacy else {
        unreachable!("it is a PostgreSQL")
    };
    let mut record = server.pool().begin().await.unwrap();
    record
        .execute("SELECT 1 FROM _outgrow.items_slot FOR UPDATE")
        .await
        .unwrap();
    away.relay.mend();
    away.pair.legacy.execute(AFTER).await;
    away.pair.equal().await;
    away.relay.cut();
    away.restored().await;
    drop(record);
    away.noticed().await;
}

/// Holds whoever passes a point.
pub(crate) struct Gate {
    at: Arc<Mutex<Option<&'static str>>>,
    reached: Arc<Notify>,
    go_on: std::sync::mpsc::Sender<()>,
    pub(crate) hook: FaultHook,
}

impl Gate {
    pub(crate) fn new() -> Self {
        let (at, reached) = (Arc::new(Mutex::new(None)), Arc::new(Notify::new()));
        let (go_on, goes_on) = std::sync::mpsc::channel();
        let hook = FaultHook::new({
            let (at, reached, goes_on) =
                (Arc::clone(&at), Arc::clone(&reached), Mutex::new(goes_on));
            move |point| {
                let held = at.lock().unwrap().take_if(|at| *at == point).is_some();
                if held {
                    reached.notify_one();
                    // In another's place: this thread may be the one that sees to all sockets and timers.
                    let wait = || goes_on.lock().unwrap().recv().unwrap();
                    tokio::task::block_in_place(wait);
                }
            }
        });
        Self {
            at,
            reached,
            go_on,
            hook,
        }
    }

    pub(crate) fn arm(&self, point: &'static str) {
        *self.at.lock().unwrap() = Some(point);
    }

    pub(crate) async fn reached(&self) {
        self.reached.notified().await;
    }

    pub(crate) fn go_on(&self) {
        self.go_on.send(()).unwrap();
    }
}

/// What was read of the log of before is not put into the stream of the restored one, where its
/// transactions may never have been.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_when_a_postgres_is_restored_is_not_put_there() {
    let gate = Gate::new();
    let extracted = Db::lite(EXTRACTED_SQLITE).await;
    let hook = Some(gate.hook.clone());
    let mut away = Away::of(extracted, Capture::Replication, hook).await;
    backup(&mut away.pair.legacy).await;
    away.pair.legacy.execute(AFTER).await;
    away.pair.equal().await;
    gate.arm("log-gathered");
    gate.reached().await;
    restore(&mut away.pair.legacy).await;
    gate.go_on();
    away.noticed().await;
}

/// Whoever takes the link over knows the place on record from then on, and not from the first look at
/// the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_restored_before_the_first_look_at_its_log_is_noticed() {
    let gate = Gate::new();
    let extracted = Db::lite(EXTRACTED_SQLITE).await;
    let hook = Some(gate.hook.clone());
    let mut away = Away::of(extracted, Capture::Replication, hook).await;
    away.link.pause().await.unwrap();
    backup(&mut away.pair.legacy).await;
    let phase = DataPhase::Following;
    away.link.ensure(phase, Side::Legacy).await.unwrap();
    away.pair.legacy.execute(AFTER).await;
    away.pair.equal().await;
    away.link.shutdown().await;
    let mut spec = away.pair.spec();
    spec.limits.fault = Some(gate.hook.clone());
    away.link = Link::open(spec).await.unwrap();
    gate.arm("claimed");
    let link = away.link.clone();
    let begun = tokio::spawn(async move { link.ensure(phase, Side::Legacy).await });
    gate.reached().await;
    away.restored().await;
    gate.go_on();
    begun.await.unwrap().unwrap();
    away.noticed().await;
}

/// A verification outlives the worker that has noticed; it must not bring the stream of the restored one
/// to where the link was.
#[tokio::test(flavor = "multi_thread")]
async fn a_verification_does_not_read_the_log_of_a_postgres_that_was_refused() {
    let gate = Gate::new();
    let extracted = Db::lite(EXTRACTED_SQLITE).await;
    let hook = Some(gate.hook.clone());
    let mut away = Away::of(extracted, Capture::Replication, hook).await;
    backup(&mut away.pair.legacy).await;
    away.pair.legacy.execute(AFTER).await;
    away.pair.equal().await;
    let spoil = "UPDATE _outgrow_items_control SET applying = 1; \
                 UPDATE article SET note = 'of nobody' WHERE id = 7; \
                 UPDATE _outgrow_items_control SET applying = 0";
    away.pair.extracted.execute(spoil).await;
    gate.arm("target-looked-at");
    let link = away.link.clone();
    let verified = tokio::spawn(async move { link.verify().await });
    gate.reached().await;
    away.restored().await;
    let said = stopped(&away.link).await;
    assert!(said.contains("restored from a backup"), "{said}");
    let again = away.link.ensure(DataPhase::Following, Side::Legacy).await;
    let again = again.unwrap_err().to_string();
    assert!(again.contains("restored from a backup"), "{again}");
    gate.go_on();
    verified.await.unwrap().unwrap_err();
    away.noticed().await;
}

#[tokio::test]
async fn a_restored_file_is_noticed() {
    let pair = Pair::of(
        Db::lite(LEGACY_SQLITE).await,
        Db::lite(EXTRACTED_SQLITE).await,
    );
    pair.legacy.execute(&items(1, 40)).await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    let copy = TempDatabase::with("").await;
    let path = copy.path().with_extension("backup");
    pair.legacy
        .execute(&format!("vacuum into '{}'", path.display()))
        .await;
    pair.legacy
        .execute("UPDATE item SET note = 'after the backup' WHERE id < 4")
        .await;
    pair.equal().await;
    // A backup tells itself by the heartbeats that it lacks.
    let sent = "SELECT max(at) FROM _outgrow_items_beat";
    let sent = pair.legacy.number(sent).await;
    eventually("a heartbeat behind the backup", WAIT, || async {
        let applied = "SELECT coalesce(max(beat), 0) FROM _outgrow_items_position";
        (pair.extracted.number(applied).await > sent).then_some(())
    })
    .await;
    link.shutdown().await;
    let url = format!("sqlite:{}", path.display());
    let restored = SqlitePool::connect(&url).await.unwrap();
    // More changes than there can have been since, heartbeats and all.
    for _ in 0..20 {
        sqlx::query(LATER).execute(&restored).await.unwrap();
    }
    restored.close().await;
    let spec = LinkSpec {
        legacy: url.parse().unwrap(),
        ..pair.spec()
    };
    let text = refusal(spec).await;
    assert!(text.contains("its last heartbeat is"), "{text}");
}

const HOUR: i64 = 3_600_000;

/// Clocks that are set change no row, and no lag; and nobody is told that what was written since is on
/// the other side.
async fn clocks_jump(pair: Pair) {
    pair.legacy.execute(&items(1, 20)).await;
    let clock = Clock::default();
    let mut spec = pair.spec();
    spec.limits.clock = clock.clone();
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    for (round, ahead) in [0, HOUR, -HOUR, 0].into_iter().enumerate() {
        clock.set_ahead(ahead);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let set = i64::try_from(now.as_millis()).unwrap() + ahead;
        let text = format!(
            "UPDATE item SET note = 'round {round}'; DELETE FROM item WHERE id = {}",
            round + 1
        );
        pair.legacy.execute(&text).await;
        pair.equal().await;
        // Some heartbeats after that.
        let position = link.describe()["position"].as_i64().unwrap();
        eventually("heartbeats to cross", WAIT, || async {
            let evidence = link.evidence()?;
            for lag in [evidence.lag_ms, evidence.reverse_lag_ms] {
                assert!(lag.is_none_or(|lag| lag < 1_000_000), "{lag:?}");
            }
            if round < 2 {
                // The position may be one of before. By this clock it was not this time yet.
                let beat = link.applied_through()?.duration_since(UNIX_EPOCH).ok()?;
                return (i64::try_from(beat.as_millis()).ok()? >= set).then_some(());
            }
            (link.describe()["position"].as_i64()? > position + 5).then_some(())
        })
        .await;
        // Set back by two hours, and still by one: the last heartbeat's time is to come yet.
        assert_eq!(link.applied_through().is_none(), round >= 2, "{ahead}");
    }
    assert_eq!(link.verify().await.unwrap().different, 0);
    assert_eq!(link.evidence().unwrap().parked, 0);
    link.shutdown().await;
}

#[tokio::test]
async fn clocks_jump_between_files() {
    let legacy = Db::lite(LEGACY_SQLITE).await;
    clocks_jump(Pair::of(legacy, Db::lite(EXTRACTED_SQLITE).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_jump_between_servers() {
    clocks_jump(Pair::of(
        Db::pg(LEGACY_PG).await,
        Db::my(EXTRACTED_MY).await,
    ))
    .await;
}

/// Where times of both sides decide, their clocks must agree.
#[tokio::test(flavor = "multi_thread")]
async fn the_newest_is_not_told_by_clocks_that_are_apart() {
    let pair = Pair::of(Db::lite(LEGACY_SQLITE).await, Db::pg(EXTRACTED_PG).await);
    let mut spec = pair.spec();
    spec.writes = both(Policy::Newest("made_at".to_owned()));
    for (ahead, refused) in [(HOUR, true), (-5_000, true), (0, false)] {
        let clock = Clock::default();
        clock.set_ahead(ahead);
        spec.limits.clock = clock;
        let link = Link::open(spec.clone()).await.unwrap();
        let found = format!("{:?}", link.preflight().await.unwrap().problems);
        assert_eq!(
            found.contains("clocks of the two databases are"),
            refused,
            "{found}"
        );
        link.shutdown().await;
    }
}
