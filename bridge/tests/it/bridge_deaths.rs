//! `kill -9` of the bridge between engines, at each point that a link passes: while it copies and
//! follows, amid a turn, reversed, amid a turn back, and amid the settling of conflicts.

use std::time::Duration;

use outgrow_bridge::{Capture, Link, LinkSpec, Policy};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::both::both;
use crate::crash::{REVERSED, SETTLES, child_between, was_aborted};
use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::postgres::{Db, EXTRACTED_PG, LEGACY_PG, LEGACY_SQLITE, Pair, items};
use crate::server_deaths::{LAPS, Points, statement};
use crate::shop::{WAIT, copied};
use crate::turning::cut_over;

/// Between two statements.
const PACE: Duration = Duration::from_millis(10);

struct World {
    pair: Pair,
    points: Points,
    written: u32,
}

impl World {
    /// What a child is told: which tables, what to do, and how changes are captured.
    fn child(&self, what: &str) -> String {
        let how = match self.pair.is_replicated() {
            true => " by replication",
            false => "",
        };
        format!("items{what}{how}")
    }

    async fn write(&mut self, side: Side) {
        self.written += 1;
        let db = match side {
            Side::Legacy => &self.pair.legacy,
            Side::Extracted => &self.pair.extracted,
        };
        let text = statement(db, side, self.written);
        // Fenced, for a moment, where a turn is made.
        db.attempt(&text).await;
    }

    /// A process that dies at a point, beside a writer on the side that is the source.
    async fn killed(&mut self, what: &str, source: Side, (point, after): (&str, u32)) {
        let (legacy, extracted) = (self.pair.legacy.url(), self.pair.extracted.url());
        let mut process = child_between(&legacy, &extracted, &self.child(what), point, after);
        let died = tokio::time::timeout(2 * WAIT, async {
            loop {
                // A turn ends by itself, and needs no writer.
                if !what.contains("turn") {
                    self.write(source).await;
                }
                // It keeps up with so many.
                let died = tokio::time::timeout(PACE, process.wait()).await;
                if let Ok(died) = died {
                    return died.unwrap();
                }
            }
        });
        let died = died.await;
        assert!(died.is_ok_and(was_aborted), "items{what}: {point}");
    }

    /// Another bridge goes on where the dead one was.
    async fn resumed(&self, phase: DataPhase, source: Side, point: &str) -> Link {
        let link = Link::open(self.pair.spec()).await.unwrap();
        link.ensure(phase, source).await.unwrap();
        copied(&link).await;
        self.pair.equal().await;
        eventually("no row to be parked", WAIT, || async {
            (link.evidence()?.parked == 0).then_some(())
        })
        .await;
        assert_eq!(link.verify().await.unwrap().different, 0, "{point}");
        assert_eq!(link.evidence().unwrap().foreign_writes, 0, "{point}");
        link
    }

    fn points(&self, few: &[&str]) -> Vec<(&'static str, u32)> {
        let mut all = vec![
            ("after-read", 2),
            ("after-rows", 3),
            ("before-commit", 5),
            ("after-commit", 9),
        ];
        if self.pair.is_replicated() {
            all.extend([("log-read", 6), ("log-taken", 8)]);
        }
        let lap = self.points.lap();
        let chosen = |(at, _): &(&str, u32)| lap.is_some() || few.contains(at);
        let later = |(at, after)| (at, after + lap.unwrap_or(0));
        all.into_iter().filter(chosen).map(later).collect()
    }

    async fn forward(&mut self) {
        let mut points = self.points(&["after-rows"]);
        points.push(("chunk-read", 4));
        for point in points {
            self.killed("", Side::Legacy, point).await;
            let (phase, source) = (DataPhase::Following, Side::Legacy);
            let link = self.resumed(phase, source, point.0).await;
            link.close().await.unwrap();
            link.shutdown().await;
            self.pair.extracted.execute("DELETE FROM article").await;
        }
    }

    /// Control goes on where its journal left off, and repeats the steps.
    async fn turned(&mut self, what: &str, to: Side) {
        let (before, after) = match to {
            Side::Legacy => (DataPhase::Reversed, DataPhase::Following),
            Side::Extracted => (DataPhase::Following, DataPhase::Reversed),
        };
        let from = to.other();
        for point in ["half-turned", "turned"] {
            self.killed(what, from, (point, 1)).await;
            let link = Link::open(self.pair.spec()).await.unwrap();
            link.ensure(before, from).await.unwrap();
            cut_over(&link, to).await;
            self.write(to).await;
            self.pair.equal().await;
            if point == "half-turned" {
                cut_over(&link, from).await;
            }
            link.shutdown().await;
            if point == "turned" {
                self.resumed(after, to, point).await.shutdown().await;
            }
        }
    }

    async fn reversed(&mut self) {
        for point in self.points(&["after-commit", "log-taken"]) {
            let what = format!(" {REVERSED}");
            self.killed(&what, Side::Extracted, point).await;
            let (phase, source) = (DataPhase::Reversed, Side::Extracted);
            let link = self.resumed(phase, source, point.0).await;
            link.shutdown().await;
        }
    }
}

async fn deaths(pair: Pair, points: Points) {
    pair.legacy.execute(&items(1, 150)).await;
    let mut world = World {
        pair,
        points,
        written: 0,
    };
    world.forward().await;
    world.turned(" turned", Side::Extracted).await;
    world.reversed().await;
    let back = format!(" {REVERSED} and turned");
    world.turned(&back, Side::Legacy).await;
}

pub(crate) async fn postgres_to_mariadb(capture: Capture) -> Pair {
    let legacy = Db::pg(LEGACY_PG).await;
    // Ids that the sequence gives out later must be free.
    legacy
        .execute("ALTER SEQUENCE item_id_seq RESTART 10000")
        .await;
    match capture {
        Capture::Triggers => Pair::of(legacy, Db::my(EXTRACTED_MY).await),
        Capture::Replication => Pair::replicated(legacy, Db::logged(EXTRACTED_MY).await),
    }
}

pub(crate) async fn mariadb_to_postgres(capture: Capture) -> Pair {
    let extracted = Db::pg(EXTRACTED_PG).await;
    match capture {
        Capture::Triggers => Pair::of(Db::my(LEGACY_MY).await, extracted),
        Capture::Replication => Pair::replicated(Db::logged(LEGACY_MY).await, extracted),
    }
}

async fn sqlite_to_postgres(capture: Capture) -> Pair {
    let (legacy, extracted) = (Db::lite(LEGACY_SQLITE).await, Db::pg(EXTRACTED_PG).await);
    match capture {
        Capture::Triggers => Pair::of(legacy, extracted),
        Capture::Replication => Pair::replicated(legacy, extracted),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_to_mariadb_loses_nothing() {
    deaths(
        postgres_to_mariadb(Capture::Replication).await,
        Points::Some,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_to_postgres_loses_nothing() {
    deaths(mariadb_to_postgres(Capture::Triggers).await, Points::Some).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_to_postgres_loses_nothing() {
    deaths(sqlite_to_postgres(Capture::Replication).await, Points::Some).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by scripts/test --long"]
async fn long_every_point_between_engines() {
    for points in (0..LAPS).map(Points::All) {
        for capture in [Capture::Triggers, Capture::Replication] {
            deaths(postgres_to_mariadb(capture).await, points).await;
            deaths(mariadb_to_postgres(capture).await, points).await;
            deaths(sqlite_to_postgres(capture).await, points).await;
        }
    }
}

/// Conflicts of which the first is written, and not yet closed, when the bridge dies.
#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_settled_once_though_the_bridge_dies_amid_it() {
    let pair = Pair::of(Db::pg(LEGACY_PG).await, Db::my(EXTRACTED_MY).await);
    pair.legacy.execute(&items(1, 20)).await;
    let spec = || LinkSpec {
        writes: both(Policy::Manual),
        ..pair.spec()
    };
    let open = async |link: &Link| {
        let found = serde_json::to_value(link.conflicts().await.unwrap()).unwrap();
        let found = found["conflicts"].as_array().unwrap();
        found.iter().filter(|c| c["state"] == "open").count()
    };
    let link = Link::open(spec()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    link.pause().await.unwrap();
    pair.legacy
        .execute("UPDATE item SET note = 'old' WHERE id <= 3")
        .await;
    pair.extracted
        .execute("UPDATE article SET note = 'new' WHERE id <= 3")
        .await;
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    eventually("the conflicts", WAIT, || async {
        (open(&link).await == 3).then_some(())
    })
    .await;
    link.shutdown().await;
    let what = format!("both manual{SETTLES}");
    let (legacy, extracted) = (pair.legacy.url(), pair.extracted.url());
    for _ in 0..2 {
        let mut process = child_between(&legacy, &extracted, &what, "settled", 1);
        let died = tokio::time::timeout(2 * WAIT, process.wait()).await;
        assert!(was_aborted(died.unwrap().unwrap()));
    }
    let link = Link::open(spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    let all = outgrow_bridge::Which::All;
    link.settle(&all, Side::Extracted, false).await.unwrap();
    pair.equal().await;
    assert_eq!(open(&link).await, 0);
    let taken = "SELECT count(*) FROM item WHERE note = 'new'";
    assert_eq!(pair.legacy.number(taken).await, 3);
    // They are followed both ways again.
    pair.legacy
        .execute("UPDATE item SET note = 'again' WHERE id = 1")
        .await;
    pair.equal().await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}
