//! A restored database gives numbers out once more. No heartbeat has come since the backup, and there are
//! more changes by now than it lacks: only the change itself that was applied last tells it.

use std::path::PathBuf;
use std::time::Duration;

use outgrow_bridge::{Link, LinkSpec, Policy};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{TempDatabase, eventually};
use sqlx::SqlitePool;

use crate::both::both;
use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::postgres::{Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, LEGACY_SQLITE, Pair, items};
use crate::restored::{AFTER, Away, Gate, LATER, backup, refusal};
use crate::shop::{WAIT, copied};

/// Heartbeats come at the start, and then no more.
const SELDOM: Duration = Duration::from_secs(3_600);

fn own(db: &Db, what: &str) -> String {
    match db {
        Db::Pg(_) => format!("_outgrow.items_{what}"),
        Db::My(_) | Db::Lite(_) => format!("_outgrow_items_{what}"),
    }
}

/// Waits until every change has a place and is applied there.
async fn placed(pair: &Pair) {
    pair.equal().await;
    let noted = format!("SELECT count(*) FROM {}", own(&pair.legacy, "noted"));
    let head = format!("SELECT head FROM {}", own(&pair.legacy, "control"));
    let applied = format!(
        "SELECT seq FROM {} WHERE stream = 'legacy'",
        own(&pair.extracted, "position")
    );
    eventually(
        "all changes to be applied at their places",
        WAIT,
        || async {
            let all = pair.legacy.number(&noted).await == 0;
            let head = pair.legacy.number(&head).await;
            (all && pair.extracted.number(&applied).await == head).then_some(())
        },
    )
    .await;
}

async fn noticed(legacy: Db, extracted: Db) {
    let pair = Pair::of(legacy, extracted);
    let mut away = Away::with(pair, |limits| limits.heartbeat = SELDOM).await;
    placed(&away.pair).await;
    backup(&mut away.pair.legacy).await;
    away.pair.legacy.execute(AFTER).await;
    placed(&away.pair).await;
    away.relay.cut();
    away.restored().await;
    away.noticed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_postgres_is_noticed_without_heartbeats() {
    noticed(Db::pg(LEGACY_PG).await, Db::lite(EXTRACTED_SQLITE).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_mariadb_is_noticed_without_heartbeats() {
    noticed(Db::my(LEGACY_MY).await, Db::pg(EXTRACTED_PG).await).await;
}

/// Rows are applied before their changes have a place in the stream. One that had none yet when its server
/// went down is missed, too.
async fn beside(legacy: Db, extracted: Db) {
    let gate = Gate::new();
    let pair = Pair::of(legacy, extracted);
    let limited = |limits: &mut outgrow_bridge::Limits| {
        limits.heartbeat = SELDOM;
        limits.fault = Some(gate.hook.clone());
    };
    let mut away = Away::with(pair, limited).await;
    placed(&away.pair).await;
    backup(&mut away.pair.legacy).await;
    gate.arm("placed");
    gate.reached().await;
    away.pair.legacy.execute(AFTER).await;
    gate.arm("after-commit");
    gate.go_on();
    gate.reached().await;
    away.pair.equal().await;
    away.relay.cut();
    away.restored().await;
    gate.go_on();
    away.noticed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_postgres_is_noticed_by_what_had_no_place_yet() {
    beside(Db::pg(LEGACY_PG).await, Db::lite(EXTRACTED_SQLITE).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_mariadb_is_noticed_by_what_had_no_place_yet() {
    beside(Db::my(LEGACY_MY).await, Db::my(EXTRACTED_MY).await).await;
}

/// Two files that are followed, and a backup of one of them.
struct Files {
    pair: Pair,
    backup: PathBuf,
    _beside: TempDatabase,
}

impl Files {
    async fn followed(spec: impl Fn(&Pair) -> LinkSpec, side: Side) -> (Self, Link) {
        let pair = Pair::of(
            Db::lite(LEGACY_SQLITE).await,
            Db::lite(EXTRACTED_SQLITE).await,
        );
        pair.legacy.execute(&items(1, 40)).await;
        let link = Link::open(spec(&pair)).await.unwrap();
        link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
        copied(&link).await;
        pair.legacy
            .execute("UPDATE item SET note = 'before the backup' WHERE id = 9")
            .await;
        pair.equal().await;
        let beside = TempDatabase::with("").await;
        let backup = beside.path().with_extension("backup");
        let mut files = Self {
            pair,
            backup,
            _beside: beside,
        };
        files.back_up(side).await;
        (files, link)
    }

    /// In place of the one before.
    async fn back_up(&mut self, side: Side) {
        let of = match side {
            Side::Legacy => &self.pair.legacy,
            Side::Extracted => &self.pair.extracted,
        };
        if self.backup.exists() {
            self.backup.set_extension("second");
        }
        let into = format!("vacuum into '{}'", self.backup.display());
        of.execute(&into).await;
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.backup.display())
    }

    /// More changes than there can have been since.
    async fn work(&self, text: &str) {
        let restored = SqlitePool::connect(&self.url()).await.unwrap();
        for _ in 0..20 {
            sqlx::query(sqlx::AssertSqlSafe(text.to_owned()))
                .execute(&restored)
                .await
                .unwrap();
        }
        restored.close().await;
    }
}

fn seldom(pair: &Pair) -> LinkSpec {
    let mut spec = pair.spec();
    spec.limits.heartbeat = SELDOM;
    spec
}

fn two_writers(pair: &Pair) -> LinkSpec {
    LinkSpec {
        writes: both(Policy::Writer),
        ..seldom(pair)
    }
}

#[tokio::test]
async fn a_restored_file_is_noticed_without_heartbeats() {
    for spec in [seldom, two_writers] {
        let (files, link) = Files::followed(spec, Side::Legacy).await;
        files.pair.legacy.execute(AFTER).await;
        files.pair.equal().await;
        link.shutdown().await;
        files.work(LATER).await;
        let restored = LinkSpec {
            legacy: files.url().parse().unwrap(),
            ..spec(&files.pair)
        };
        let text = refusal(restored).await;
        assert!(text.contains("legacy database is not"), "{text}");
        assert!(text.contains("is not the one that was applied"), "{text}");
    }
}

/// As above, of the side that is no source, and takes writes.
#[tokio::test]
async fn a_restored_file_of_two_writers_is_noticed_without_heartbeats() {
    let (files, link) = Files::followed(two_writers, Side::Extracted).await;
    files
        .pair
        .extracted
        .execute("UPDATE article SET note = 'after the backup' WHERE id < 4")
        .await;
    files.pair.equal().await;
    link.shutdown().await;
    files
        .work("UPDATE article SET note = 'of another history'")
        .await;
    let restored = LinkSpec {
        extracted: files.url().parse().unwrap(),
        ..two_writers(&files.pair)
    };
    let text = refusal(restored).await;
    assert!(text.contains("extracted database is not"), "{text}");
}

/// Rows are read as they are, so what was applied may show changes of which the position is far short.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_file_is_noticed_by_what_was_seen_of_it() {
    let gate = Gate::new();
    let few = |pair: &Pair| {
        let mut spec = seldom(pair);
        spec.limits.batch_changes = 5;
        spec.limits.fault = Some(gate.hook.clone());
        spec
    };
    let (mut files, link) = Files::followed(few, Side::Legacy).await;
    link.pause().await.unwrap();
    files.pair.legacy.execute(LATER).await;
    files.back_up(Side::Legacy).await;
    files.pair.legacy.execute(AFTER).await;
    gate.arm("after-commit");
    let phase = DataPhase::Following;
    link.ensure(phase, Side::Legacy).await.unwrap();
    gate.reached().await;
    // It ends with this batch.
    tokio::join!(link.shutdown(), async { gate.go_on() });
    let shown = "SELECT count(*) FROM article WHERE note = 'after the backup'";
    assert_eq!(files.pair.extracted.number(shown).await, 3);
    files.work(LATER).await;
    let restored = LinkSpec {
        legacy: files.url().parse().unwrap(),
        ..seldom(&files.pair)
    };
    let text = refusal(restored).await;
    assert!(text.contains("legacy database is not"), "{text}");
}

/// What it has not applied by now is not in the stream any more.
#[tokio::test]
async fn a_restored_target_is_noticed_without_heartbeats() {
    let (files, link) = Files::followed(seldom, Side::Extracted).await;
    files.pair.legacy.execute(AFTER).await;
    files.pair.equal().await;
    let applied = "SELECT seq FROM _outgrow_items_position WHERE stream = 'legacy'";
    let applied = files.pair.extracted.number(applied).await;
    eventually("the stream to be trimmed", WAIT, || async {
        let left = format!("SELECT count(*) FROM _outgrow_items_changes WHERE seq < {applied}");
        (files.pair.legacy.number(&left).await == 0).then_some(())
    })
    .await;
    link.shutdown().await;
    let restored = LinkSpec {
        extracted: files.url().parse().unwrap(),
        ..seldom(&files.pair)
    };
    let text = refusal(restored).await;
    assert!(text.contains("extracted database is not"), "{text}");
    assert!(text.contains("restored from a backup"), "{text}");
}

/// A position of a version before has no mark, and the stream may have nothing where it stands.
#[tokio::test]
async fn a_position_without_a_mark_gets_one() {
    let (files, link) = Files::followed(seldom, Side::Legacy).await;
    link.shutdown().await;
    files
        .pair
        .legacy
        .execute("DELETE FROM _outgrow_items_changes")
        .await;
    files
        .pair
        .extracted
        .execute("ALTER TABLE _outgrow_items_position DROP COLUMN mark")
        .await;
    let link = Link::open(seldom(&files.pair)).await.unwrap();
    let phase = DataPhase::Following;
    link.ensure(phase, Side::Legacy).await.unwrap();
    files.pair.legacy.execute(AFTER).await;
    files.pair.equal().await;
    let marked = "SELECT count(*) FROM _outgrow_items_position \
                  WHERE stream = 'legacy' AND mark LIKE seq || ' %'";
    eventually("a mark", WAIT, || async {
        (files.pair.extracted.number(marked).await == 1).then_some(())
    })
    .await;
    link.shutdown().await;
}
