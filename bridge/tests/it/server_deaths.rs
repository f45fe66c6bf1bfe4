//! `kill -9` of a database server, not of the bridge, at each point that a link passes and at each
//! step of a cutover: the link says what it waits for, goes on when the server is back, and both
//! sides end equal.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outgrow_bridge::{Capture, FaultHook, Link, LinkSpec};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{eventually, kill_server};
use tokio::sync::watch;

use crate::bridge_deaths::{mariadb_to_postgres, postgres_to_mariadb};
use crate::postgres::{Db, Pair, items};
use crate::postgres_copy::{Wares, tables};
use crate::shop::{WAIT, copied};

/// Kills a server when a point is passed.
struct Trap {
    armed: Mutex<Option<&'static str>>,
    /// The server's first process.
    pid: AtomicU32,
    /// How often it is passed before that.
    left: AtomicU32,
    struck: watch::Sender<bool>,
    passed: Mutex<BTreeSet<&'static str>>,
}

impl Trap {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            armed: Mutex::default(),
            pid: AtomicU32::new(0),
            left: AtomicU32::new(0),
            struck: watch::channel(false).0,
            passed: Mutex::default(),
        })
    }

    fn hook(self: &Arc<Self>) -> FaultHook {
        let trap = Arc::clone(self);
        FaultHook::new(move |at| trap.pass(at))
    }

    fn pass(&self, at: &'static str) {
        self.passed.lock().unwrap().insert(at);
        let mut armed = self.armed.lock().unwrap();
        if *armed == Some(at) {
            let left = self.left.load(Ordering::Relaxed);
            if left > 0 {
                self.left.store(left - 1, Ordering::Relaxed);
                return;
            }
            *armed = None;
            kill_server(self.pid.load(Ordering::Relaxed));
            self.struck.send_replace(true);
        }
    }

    fn arm(&self, (point, left): (&'static str, u32), pid: u32) {
        self.struck.send_replace(false);
        self.left.store(left, Ordering::Relaxed);
        self.pid.store(pid, Ordering::Relaxed);
        *self.armed.lock().unwrap() = Some(point);
    }

    /// Whether it has struck; it does not any more.
    fn disarm(&self) -> bool {
        *self.armed.lock().unwrap() = None;
        self.has_struck()
    }

    fn has_struck(&self) -> bool {
        *self.struck.borrow()
    }

    async fn strikes(&self) {
        let mut struck = self.struck.subscribe();
        struck.wait_for(|struck| *struck).await.unwrap();
    }

    /// All points that were passed since it was asked last.
    fn passed(&self) -> BTreeSet<&'static str> {
        std::mem::take(&mut self.passed.lock().unwrap())
    }
}

/// Which points are tried.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Points {
    /// One each side of a commit.
    Some,
    /// Each that is passed; in each lap one pass later.
    All(u32),
}

/// Of at least twenty rows each, half of them: many batches.
const STATEMENTS: u32 = 100;

/// Of the long tests: ten times what every run does, each at other moments.
pub(crate) const LAPS: u32 = 10;

impl Points {
    /// The lap in which each point is tried.
    pub(crate) fn lap(self) -> Option<u32> {
        match self {
            Self::Some => None,
            Self::All(lap) => Some(lap),
        }
    }

    fn of(self, passed: BTreeSet<&'static str>) -> Vec<&'static str> {
        let few = ["after-rows", "before-commit"];
        let chosen = |point: &&str| self.lap().is_some() || few.contains(point);
        passed.into_iter().filter(chosen).collect()
    }
}

/// The so-manieth statement on the side that takes writes.
pub(crate) fn statement(db: &Db, side: Side, n: u32) -> String {
    let zone = if matches!(db, Db::My(_)) { "" } else { "Z" };
    let row = n % 7;
    match (side, n % 4) {
        (Side::Legacy, 0) => format!(
            "INSERT INTO item (code, price, status, made_at) VALUES ('w{n}', '1.25', 'A', '2026-01-02 03:04:05')"
        ),
        (Side::Extracted, 0) => format!(
            "INSERT INTO article (sku, price_cents, state, made_at) \
             VALUES ('w{n}', 125, 'active', '2026-01-02T03:04:05{zone}')"
        ),
        (Side::Legacy, 1) => format!("DELETE FROM item WHERE id = {}", n % 150),
        (Side::Extracted, 1) => format!("DELETE FROM article WHERE id = {}", n % 150),
        (Side::Legacy, _) => {
            format!("UPDATE item SET note = 'w{n}', price = '{n}.75' WHERE id % 7 = {row}")
        }
        (Side::Extracted, _) => {
            format!("UPDATE article SET note = 'w{n}', price_cents = {n} WHERE id % 7 = {row}")
        }
    }
}

struct World {
    pair: Pair,
    victim: Side,
    trap: Arc<Trap>,
    points: Points,
    written: u32,
}

impl World {
    fn spec(&self) -> LinkSpec {
        let mut spec = self.pair.spec();
        spec.limits.chunk_rows = 20;
        spec.limits.batch_changes = 20;
        spec.limits.busy = Duration::from_millis(500);
        spec.limits.fault = Some(self.trap.hook());
        spec
    }

    fn victim(&mut self) -> &mut Db {
        match self.victim {
            Side::Legacy => &mut self.pair.legacy,
            Side::Extracted => &mut self.pair.extracted,
        }
    }

    fn arm(&mut self, point: &'static str, left: u32) {
        let pid = self.victim().pid();
        self.trap.arm((point, left), pid);
    }

    /// One statement on the side that takes writes.
    async fn write(&mut self, side: Side) {
        self.written += 1;
        let db = match side {
            Side::Legacy => &self.pair.legacy,
            Side::Extracted => &self.pair.extracted,
        };
        let text = statement(db, side, self.written);
        // A server that dies answers no more; nothing is known of that statement then.
        tokio::select! {
            _ = db.attempt(&text) => {}
            () = self.trap.strikes() => {}
        }
    }

    /// No more is written than is enough for every point: a busy machine has to carry it all after.
    async fn written_until_struck(&mut self, source: Side, point: &str) {
        let within = tokio::time::timeout(2 * WAIT, async {
            for _ in 0..STATEMENTS {
                if self.trap.has_struck() {
                    return;
                }
                self.write(source).await;
            }
            self.trap.strikes().await;
        });
        assert!(within.await.is_ok(), "{point} was not passed");
    }

    async fn restart(&mut self) {
        self.victim().crash().await;
        self.trap.struck.send_replace(false);
    }

    /// The link says what it waits for, and the server comes back.
    async fn revived(&mut self, link: &Link) {
        eventually("the link to say what it waits for", WAIT, || async {
            (!link.describe()["waiting_for"].is_null()).then_some(())
        })
        .await;
        self.restart().await;
    }

    async fn whole(&self, link: &Link, point: &str) {
        self.pair.equal().await;
        eventually("no row to be parked", WAIT, || async {
            (link.evidence()?.parked == 0).then_some(())
        })
        .await;
        assert_eq!(link.verify().await.unwrap().different, 0, "{point}");
        assert_eq!(link.evidence().unwrap().foreign_writes, 0, "{point}");
        assert!(link.failures().borrow().is_none(), "{point}");
    }

    async fn ensured(&self, link: &Link, phase: DataPhase, source: Side) {
        eventually("the link to go on", WAIT, || async {
            link.ensure(phase, source).await.ok()
        })
        .await;
    }

    /// A copy of its own for each point; of the last one, the link goes on.
    async fn copying(&mut self) -> Link {
        let mut link = Link::open(self.spec()).await.unwrap();
        self.ensured(&link, DataPhase::Copying, Side::Legacy).await;
        copied(&link).await;
        let points = self.points.of(self.trap.passed());
        for point in points {
            link.close().await.unwrap();
            link.shutdown().await;
            self.pair.extracted.execute("DELETE FROM article").await;
            self.arm(point, 0);
            link = Link::open(self.spec()).await.unwrap();
            // Where the server dies while the link is begun, that fails, and is asked for again.
            let begun = link.ensure(DataPhase::Copying, Side::Legacy).await.is_ok();
            self.written_until_struck(Side::Legacy, point).await;
            if begun {
                self.revived(&link).await;
            } else {
                self.restart().await;
                self.ensured(&link, DataPhase::Copying, Side::Legacy).await;
            }
            copied(&link).await;
            self.whole(&link, point).await;
        }
        link
    }

    async fn following(&mut self, link: &Link, source: Side) {
        self.trap.passed();
        for _ in 0..8 {
            self.write(source).await;
        }
        self.pair.equal().await;
        let points = self.points.of(self.trap.passed());
        assert!(!points.is_empty());
        for point in points {
            self.arm(point, self.points.lap().unwrap_or(0));
            self.written_until_struck(source, point).await;
            self.revived(link).await;
            self.write(source).await;
            self.pair.equal().await;
        }
        self.whole(link, "following").await;
    }

    /// The server is killed before each step, and amid the turn itself.
    async fn cut_over(&mut self, link: &Link, to: Side) {
        for _ in 0..4 {
            self.write(to.other()).await;
        }
        let mut place = 0;
        for step in ["fence", "drain", "turn"] {
            if self.points.lap().is_some() || step == "drain" {
                kill_server(self.victim().pid());
                // What is asked for meanwhile fails or is done; it can be asked for again.
                let _ = match step {
                    "fence" => link.fence(to.other()).await.is_ok(),
                    "drain" => link.drain(place, Duration::ZERO).await.is_ok(),
                    _ => link.turn(to).await.is_ok(),
                };
                self.restart().await;
            }
            match step {
                "fence" => {
                    place = eventually("the fence", WAIT, || async {
                        link.fence(to.other()).await.ok()
                    })
                    .await;
                }
                "drain" => link.drain(place, WAIT).await.unwrap(),
                _ => {}
            }
        }
        for point in ["half-turned", "turned"] {
            self.arm(point, 0);
            let _ = link.turn(to).await;
            if self.trap.disarm() {
                self.restart().await;
            }
        }
        let why = Mutex::new(String::new());
        let turned = eventually("the turn", WAIT, || async {
            let failed = link.turn(to).await.err();
            *why.lock().unwrap() = format!("{failed:?}");
            failed.is_none().then_some(())
        });
        let turned = tokio::time::timeout(WAIT / 2, turned).await;
        assert!(turned.is_ok(), "{}", why.lock().unwrap());
        let phase = match to {
            Side::Legacy => DataPhase::Following,
            Side::Extracted => DataPhase::Reversed,
        };
        self.ensured(link, phase, to).await;
        self.write(to).await;
        self.whole(link, "turned").await;
    }
}

/// Kills one of the two servers at each point of the whole way, there and back.
async fn deaths(pair: Pair, victim: Side, points: Points) {
    pair.legacy.execute(&items(1, 150)).await;
    let mut world = World {
        pair,
        victim,
        trap: Trap::new(),
        points,
        written: 0,
    };
    let link = world.copying().await;
    world.following(&link, Side::Legacy).await;
    world.cut_over(&link, Side::Extracted).await;
    world.following(&link, Side::Extracted).await;
    world.cut_over(&link, Side::Legacy).await;
    world.whole(&link, "back").await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_dies_as_the_source_loses_nothing() {
    let pair = postgres_to_mariadb(Capture::Replication).await;
    deaths(pair, Side::Legacy, Points::Some).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_dies_as_the_target_loses_nothing() {
    let pair = mariadb_to_postgres(Capture::Replication).await;
    deaths(pair, Side::Extracted, Points::Some).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mariadb_that_dies_as_the_source_loses_nothing() {
    let pair = mariadb_to_postgres(Capture::Triggers).await;
    deaths(pair, Side::Legacy, Points::Some).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mariadb_that_dies_as_the_target_loses_nothing() {
    let pair = postgres_to_mariadb(Capture::Triggers).await;
    deaths(pair, Side::Extracted, Points::Some).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by scripts/test --long"]
async fn long_each_server_dies_at_every_point_by_triggers() {
    every_point(Capture::Triggers).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by scripts/test --long"]
async fn long_each_server_dies_at_every_point_by_logs() {
    every_point(Capture::Replication).await;
}

async fn every_point(capture: Capture) {
    for lap in 0..LAPS {
        for victim in [Side::Legacy, Side::Extracted] {
            let points = Points::All(lap);
            deaths(postgres_to_mariadb(capture).await, victim, points).await;
            deaths(mariadb_to_postgres(capture).await, victim, points).await;
        }
    }
}

/// From one PostgreSQL to another by COPY, which has points of its own.
async fn amid_copies(capture: Capture, deaths: &[(&'static str, Side)]) {
    let mut wares = Wares::filled(1_200).await;
    wares.capture = capture;
    for &(point, victim) in deaths {
        let trap = Trap::new();
        let hook = Arc::clone(&trap);
        let mut spec = wares.spec_with(tables(), move |at, _| hook.pass(at));
        spec.limits.busy = Duration::from_millis(500);
        spec.limits.copy_rows = 100;
        let server = match victim {
            Side::Legacy => &mut wares.legacy,
            Side::Extracted => &mut wares.extracted,
        };
        trap.arm((point, 0), server.pid());
        let link = Link::open(spec).await.unwrap();
        let begun = link.ensure(DataPhase::Copying, Side::Legacy).await.is_ok();
        let struck = tokio::time::timeout(WAIT, trap.strikes()).await;
        assert!(struck.is_ok(), "{point} was not passed");
        server.crash().await;
        if !begun {
            eventually("the link to go on", WAIT, || async {
                let again = link.ensure(DataPhase::Copying, Side::Legacy).await;
                again.ok()
            })
            .await;
        }
        copied(&link).await;
        let alike = tokio::time::timeout(WAIT / 2, wares.equal()).await;
        let said = link.describe();
        let counts = [
            wares.legacy.number("SELECT count(*) FROM ware").await,
            wares.extracted.number("SELECT count(*) FROM good").await,
        ];
        assert!(
            alike.is_ok(),
            "{point}, {victim}, {capture:?}: {counts:?} {said}"
        );
        let report = eventually("a verification", WAIT, || async {
            link.verify().await.ok()
        });
        assert_eq!(report.await.different, 0, "{point}");
        assert_eq!(link.evidence().unwrap().parked, 0, "{point}");
        eventually("the close", WAIT, || async { link.close().await.ok() }).await;
        link.shutdown().await;
        wares.extracted.execute("TRUNCATE good").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_dies_amid_a_copy_loses_nothing() {
    let deaths = [
        // Ranges are committed, and not on the disk yet.
        ("before-commit", Side::Extracted),
        ("range-copied", Side::Legacy),
    ];
    amid_copies(Capture::Triggers, &deaths).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by scripts/test --long"]
async fn long_a_postgres_dies_at_every_point_of_a_copy() {
    let points = [
        "amid-copy",
        "copy-sent",
        "range-copied",
        "range-committed",
        "after-read",
        "chunk-read",
        "before-commit",
        "after-commit",
    ];
    let sides = [Side::Legacy, Side::Extracted];
    let all = points.map(|point| sides.map(|side| (point, side)));
    for capture in [Capture::Triggers, Capture::Replication] {
        amid_copies(capture, all.as_flattened()).await;
    }
}
