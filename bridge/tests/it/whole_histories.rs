//! Random histories of orders and their lines by two writers, who go on through pauses, restarts, deaths
//! of the bridge and cutovers there and back: a reader never sees an order, on either side, whose total is
//! not that of its lines, and both sides end equal.
//!
//! `OUTGROW_TEST_SEED` is the seed of another history; one that fails says which it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::SystemTime;

use outgrow_bridge::Link;
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::any_history::{Story, seed};
use crate::crash::{REVERSED, child_between};
use crate::mapping::verified;
use crate::postgres::Db;
use crate::shop::{Dice, WAIT, copied};
use crate::turning::cut_over;
use crate::whole_orders::{BY_LOGS, EXTRACTED, LEGACY, Names, ORDERS, spec, written};

/// Where a bridge dies that has some of a transaction.
const POINTS: [&str; 4] = ["after-read", "after-rows", "before-commit", "after-commit"];

/// What writers and readers share.
struct Shop {
    sides: [Db; 2],
    /// Who takes writes; nobody any more at the end.
    writer: watch::Sender<Option<Side>>,
    kept: AtomicU64,
    looks: AtomicU64,
    torn: AtomicU64,
}

impl Shop {
    fn side(&self, side: Side) -> &Db {
        match side {
            Side::Legacy => &self.sides[0],
            Side::Extracted => &self.sides[1],
        }
    }

    /// What a fence refuses, another has locked, or is not there, is not written.
    async fn write(self: Arc<Self>, seed: u64) {
        let (mut dice, mut number) = (Dice(seed | 1), 10 + seed % 8);
        loop {
            let Some(side) = *self.writer.borrow() else {
                return;
            };
            // Those of two writers are never the same.
            number += 8;
            let kept = written(self.side(side), side, &mut dice, number).await;
            self.kept.fetch_add(u64::from(kept), SeqCst);
        }
    }

    async fn read(self: Arc<Self>, side: Side) {
        let query = Names::of(side).torn();
        while self.writer.borrow().is_some() {
            let torn = u64::try_from(self.side(side).number(&query).await).unwrap();
            self.torn.fetch_add(torn, SeqCst);
            self.looks.fetch_add(1, SeqCst);
        }
    }

    /// Until so many more transactions were kept.
    async fn written(&self, more: u64) {
        let before = self.kept.load(SeqCst);
        eventually("more transactions", WAIT, || async {
            (self.kept.load(SeqCst) >= before + more).then_some(())
        })
        .await;
    }
}

struct World {
    shop: Arc<Shop>,
    how: &'static str,
    dice: Dice,
    source: Side,
    story: Story,
}

impl World {
    fn phase(&self) -> DataPhase {
        match self.source {
            Side::Legacy => DataPhase::Following,
            Side::Extracted => DataPhase::Reversed,
        }
    }

    async fn begun(&self) -> Link {
        let [legacy, extracted] = &self.shop.sides;
        let link = Link::open(spec(legacy, extracted, self.how)).await.unwrap();
        link.ensure(self.phase(), self.source).await.unwrap();
        link
    }

    /// A bridge of a process of its own, beside the writers, until it dies at its point.
    async fn killed(&mut self) {
        let point = POINTS[usize::try_from(self.dice.roll(4)).unwrap()];
        let after = 1 + u32::try_from(self.dice.roll(6)).unwrap();
        let reversed = match self.source {
            Side::Legacy => "",
            Side::Extracted => REVERSED,
        };
        let what = format!("{ORDERS} {reversed}{}", self.how);
        self.story.tells(format!("{what}: {point}, {after}"));
        let [legacy, extracted] = &self.shop.sides;
        let (legacy, extracted) = (legacy.least(), extracted.least());
        let mut process = child_between(&legacy, &extracted, &what, point, after);
        let died = tokio::time::timeout(2 * WAIT, process.wait()).await;
        let died = died.expect("it comes to its point").unwrap();
        assert!(crate::crash::was_aborted(died), "{died}");
    }

    async fn turned(&mut self, link: &Link) {
        let to = self.source.other();
        let place = link.fence(self.source).await.unwrap();
        let drained = link.drain(place, WAIT).await;
        assert!(drained.is_ok(), "{drained:?}: {}", link.describe());
        cut_over(link, to).await;
        self.source = to;
        self.shop.writer.send_replace(Some(to));
    }

    /// Something that happens, while others write and read.
    async fn episode(&mut self, link: Link) -> Link {
        let what = self.dice.roll(5);
        self.story.tells(format!("{what}, from {}", self.source));
        let more = 1 + self.dice.roll(30);
        match what {
            0 => {
                link.pause().await.unwrap();
                self.shop.written(more).await;
                link.ensure(self.phase(), self.source).await.unwrap();
            }
            1 => {
                link.shutdown().await;
                self.shop.written(more).await;
                return self.begun().await;
            }
            2 => {
                link.shutdown().await;
                self.killed().await;
                return self.begun().await;
            }
            _ => Box::pin(self.turned(&link)).await,
        }
        self.shop.written(more).await;
        link
    }
}

async fn history(legacy: Db, extracted: Db, how: &'static str, seed: u64, episodes: u32) {
    let story = Story::of(seed, format!("{:?} {how}", [legacy.url(), extracted.url()]));
    let link = Link::open(spec(&legacy, &extracted, how)).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    let shop = Arc::new(Shop {
        sides: [legacy, extracted],
        writer: watch::Sender::new(Some(Side::Legacy)),
        kept: AtomicU64::new(0),
        looks: AtomicU64::new(0),
        torn: AtomicU64::new(0),
    });
    let others: Vec<JoinHandle<()>> = vec![
        tokio::spawn(shop.clone().write(8 * seed + 3)),
        tokio::spawn(shop.clone().write(8 * seed + 5)),
        tokio::spawn(shop.clone().read(Side::Legacy)),
        tokio::spawn(shop.clone().read(Side::Extracted)),
    ];
    let mut world = World {
        shop: shop.clone(),
        how,
        // Neighbours are to differ from the first choice on.
        dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
        source: Side::Legacy,
        story,
    };
    shop.written(20).await;
    let mut link = link;
    for _ in 0..episodes {
        link = Box::pin(world.episode(link)).await;
    }
    shop.writer.send_replace(None);
    for other in others {
        other.await.unwrap();
    }
    verified(&link).await;
    for side in [Side::Legacy, Side::Extracted] {
        let torn = shop.side(side).number(&Names::of(side).torn()).await;
        assert_eq!(torn, 0, "{side}: the writers are right");
    }
    let (torn, looks) = (shop.torn.load(SeqCst), shop.looks.load(SeqCst));
    assert_eq!(torn, 0, "in {looks} looks");
    link.shutdown().await;
}

const SHORT: u32 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn between_sqlite_databases() {
    let (legacy, extracted) = (Db::lite(LEGACY).await, Db::lite(EXTRACTED).await);
    history(legacy, extracted, "", seed(1), SHORT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn between_postgres_databases() {
    let (legacy, extracted) = (Db::pg(LEGACY).await, Db::pg(EXTRACTED).await);
    history(legacy, extracted, BY_LOGS, seed(2), SHORT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_mariadb_to_postgres() {
    let (legacy, extracted) = (Db::logged(LEGACY).await, Db::pg(EXTRACTED).await);
    history(legacy, extracted, BY_LOGS, seed(3), SHORT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_sqlite_to_mariadb() {
    let (legacy, extracted) = (Db::lite(LEGACY).await, Db::logged(EXTRACTED).await);
    history(legacy, extracted, BY_LOGS, seed(4), SHORT).await;
}

/// Each run others, unless it is asked for one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by scripts/test --long"]
async fn long_histories() {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let first = seed(now.as_secs());
    let between = [
        (Db::lite(LEGACY).await, Db::lite(EXTRACTED).await),
        (Db::pg(LEGACY).await, Db::pg(EXTRACTED).await),
        (Db::logged(LEGACY).await, Db::pg(EXTRACTED).await),
        (Db::pg(LEGACY).await, Db::logged(EXTRACTED).await),
    ];
    for (more, (legacy, extracted)) in (0..).zip(between) {
        Box::pin(history(legacy, extracted, BY_LOGS, first + more, 40)).await;
    }
}
