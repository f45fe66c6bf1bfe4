//! Random histories between all engines, by one generator: transactions on the side that takes
//! writes, beside copies, pauses, restarts, deaths of the bridge and of servers, cutovers there and
//! back, and truncations. The databases are the oracle: both sides end equal through the mapping.
//! After a death nothing is written until they are: a position that ran ahead of its rows would
//! leave them behind for ever.
//!
//! `OUTGROW_TEST_SEED` is the seed of another history; one that fails says which it was.

use std::time::{Duration, SystemTime};

use outgrow_bridge::{Link, LinkSpec};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::crash::{REVERSED, child_between};
use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::postgres::{Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, LEGACY_SQLITE, Pair, items};
use crate::shop::{Dice, WAIT, copied};
use crate::turning::cut_over;

/// Rows at first, and about where later ones are.
const ROWS: u64 = 80;
/// Of a note that does not fit into a page: the most that MariaDB's `text` takes.
const LARGE: usize = 60_000;
/// Points at which the bridge dies, besides any moment.
const POINTS: [&str; 5] = [
    "after-read",
    "after-rows",
    "before-commit",
    "after-commit",
    "at any moment",
];
/// Between two transactions of a writer whom a bridge keeps up with.
const PACE: Duration = Duration::from_millis(10);

/// How one side names and writes what the generator means.
struct Tongue<'a> {
    db: &'a Db,
    side: Side,
}

impl Tongue<'_> {
    fn table(&self) -> &'static str {
        match self.side {
            Side::Legacy => "item",
            Side::Extracted => "article",
        }
    }

    fn code(&self) -> &'static str {
        match self.side {
            Side::Legacy => "code",
            Side::Extracted => "sku",
        }
    }

    fn price(&self, cents: u64) -> String {
        match self.side {
            Side::Legacy => format!("price = '{}.{:02}'", cents / 100, cents % 100),
            Side::Extracted => format!("price_cents = {cents}"),
        }
    }

    fn state(&self, active: bool) -> &'static str {
        match (self.side, active) {
            (Side::Legacy, true) => "status = 'A'",
            (Side::Legacy, false) => "status = 'D'",
            (Side::Extracted, true) => "state = 'active'",
            (Side::Extracted, false) => "state = 'gone'",
        }
    }

    fn time(&self, minute: u64) -> String {
        let zone = if matches!(self.db, Db::My(_)) {
            ""
        } else {
            "Z"
        };
        match self.side {
            Side::Legacy => format!("'2026-03-01 12:{minute:02}:07'"),
            Side::Extracted => format!("'2026-03-01T11:{minute:02}:07{zone}'"),
        }
    }

    fn bytes(&self, n: u64) -> String {
        match self.db {
            Db::Pg(_) => format!("'\\x00{n:04x}ff'"),
            Db::My(_) | Db::Lite(_) => format!("x'00{n:04x}ff'"),
        }
    }

    fn insert(&self, id: Option<u64>, n: u64) -> String {
        let (table, minute) = (self.table(), self.time(n % 60));
        let (name, value) = id.map_or_else(Default::default, |id| ("id, ", format!("{id}, ")));
        match self.side {
            Side::Legacy => format!(
                "INSERT INTO {table} ({name}code, price, status, made_at) VALUES ({value}'c{n}', '{n}.50', 'A', {minute})"
            ),
            Side::Extracted => format!(
                "INSERT INTO {table} ({name}sku, price_cents, state, made_at) VALUES ({value}'c{n}', {n}, 'gone', {minute})"
            ),
        }
    }

    /// A part of a transaction. Some are refused: that is part of a history.
    fn change(&self, dice: &mut Dice, n: u64) -> Vec<String> {
        let (table, code) = (self.table(), self.code());
        let (id, other) = (1 + dice.roll(ROWS), 1 + dice.roll(ROWS));
        let update = |what: &str| format!("UPDATE {table} SET {what} WHERE id = {id}");
        match dice.roll(12) {
            0 => vec![format!("DELETE FROM {table} WHERE id = {id}")],
            1 => vec![update(&format!("id = {}", 500 + other))],
            2 => vec![format!(
                "UPDATE {table} SET id = {id} WHERE id = {}",
                500 + other
            )],
            3 => vec![self.insert(None, n)],
            4 => vec![self.insert(Some(id), n)],
            5 => vec![
                update(&format!("{code} = 'swap{n}'")),
                format!("UPDATE {table} SET {code} = 'c{n}' WHERE id = {other}"),
                update(&format!("{code} = 'c{n}-'")),
            ],
            6 => vec![format!(
                "UPDATE {table} SET {} WHERE id BETWEEN {id} AND {}",
                self.price(n),
                id + 9
            )],
            7 => {
                let note = char::from(b'a' + u8::try_from(n % 26).unwrap());
                let note = String::from(note).repeat(LARGE);
                vec![format!(
                    "UPDATE {table} SET note = '{note}' WHERE id = {}",
                    id % 4
                )]
            }
            8 => vec![update("note = NULL, weight = NULL, raw = NULL")],
            9 => vec![update(&format!("made_at = {}", self.time(n % 60)))],
            10 => vec![update(&format!("raw = {}", self.bytes(n)))],
            _ => vec![update(&format!(
                "note = 'it''s {n} \u{e9}', weight = {n}.125, {}",
                self.state(n.is_multiple_of(2))
            ))],
        }
    }

    /// All rows at once, and a few new ones.
    fn emptied(&self, n: u64) -> Vec<String> {
        let all = match self.db {
            Db::Lite(_) => format!("DELETE FROM {}", self.table()),
            Db::Pg(_) | Db::My(_) => format!("TRUNCATE TABLE {}", self.table()),
        };
        vec![all, self.insert(Some(1), n), self.insert(Some(2), n + 1)]
    }
}

struct World {
    pair: Pair,
    dice: Dice,
    source: Side,
    written: u64,
    /// Whether anybody may have been refused by a fence.
    refused: bool,
    /// What has happened, for whoever looks at a failure.
    story: Story,
}

impl World {
    fn spec(&self) -> LinkSpec {
        let mut spec = self.pair.spec();
        spec.limits.chunk_rows = 20;
        spec.limits.batch_changes = 20;
        spec
    }

    fn phase(&self) -> DataPhase {
        match self.source {
            Side::Legacy => DataPhase::Following,
            Side::Extracted => DataPhase::Reversed,
        }
    }

    async fn transaction(&mut self) {
        let db = match self.source {
            Side::Legacy => &self.pair.legacy,
            Side::Extracted => &self.pair.extracted,
        };
        let tongue = Tongue {
            db,
            side: self.source,
        };
        let mut parts = Vec::new();
        for _ in 0..=self.dice.roll(4) {
            // Each leaves room for numbers of its own.
            self.written += 10;
            parts.extend(tongue.change(&mut self.dice, self.written));
        }
        let keep = self.dice.roll(5) > 0;
        db.transaction(&parts, keep).await;
    }

    async fn transactions(&mut self, at_most: u64) {
        for _ in 0..=self.dice.roll(at_most) {
            self.transaction().await;
        }
    }

    async fn empty(&mut self) {
        let db = match self.source {
            Side::Legacy => &self.pair.legacy,
            Side::Extracted => &self.pair.extracted,
        };
        self.written += 10;
        let side = self.source;
        let parts = Tongue { db, side }.emptied(self.written);
        assert!(db.transaction(&parts, true).await, "{parts:?}");
    }

    async fn begun(&mut self) -> Link {
        let link = Link::open(self.spec()).await.unwrap();
        link.ensure(self.phase(), self.source).await.unwrap();
        link
    }

    /// A bridge of a process of its own, that dies.
    async fn killed(&mut self) {
        let point = POINTS[usize::try_from(self.dice.roll(5)).unwrap()];
        let after = 1 + u32::try_from(self.dice.roll(6)).unwrap();
        self.story
            .tells(format!("killed {point}, the {after}th time"));
        let (legacy, extracted) = (self.pair.legacy.url(), self.pair.extracted.url());
        let reversed = match self.source {
            Side::Legacy => String::new(),
            Side::Extracted => format!(" {REVERSED}"),
        };
        let how = match self.pair.is_replicated() {
            true => " by replication",
            false => "",
        };
        let what = format!("items{reversed}{how}");
        let mut process = child_between(&legacy, &extracted, &what, point, after);
        for _ in 0..20 + self.dice.roll(60) {
            self.transaction().await;
            if let Ok(died) = tokio::time::timeout(PACE, process.wait()).await {
                died.unwrap();
                return;
            }
        }
        process.kill().await.unwrap();
    }

    async fn server_crash(&mut self) {
        let db = match self.dice.roll(2) {
            0 => &mut self.pair.legacy,
            _ => &mut self.pair.extracted,
        };
        if !matches!(db, Db::Lite(_)) {
            db.crash().await;
        }
    }

    async fn turned(&mut self, link: &Link) {
        let to = self.source.other();
        let done = tokio::sync::watch::channel(false).0;
        let turning = async {
            let place = link.fence(to.other()).await.unwrap();
            let drained = link.drain(place, WAIT).await;
            assert!(drained.is_ok(), "{drained:?}: {}", link.describe());
            cut_over(link, to).await;
            done.send_replace(true);
        };
        // Beside a writer, whom the fence refuses from some moment on.
        let writing = async {
            while !*done.borrow() {
                self.transaction().await;
            }
        };
        tokio::join!(turning, writing);
        self.refused = true;
        self.source = to;
    }

    async fn whole(&self, link: &Link) {
        copied(link).await;
        self.pair.equal().await;
        eventually("no row to be parked", WAIT, || async {
            (link.evidence()?.parked == 0).then_some(())
        })
        .await;
        let report = link.verify().await.unwrap();
        assert_eq!(report.different, 0, "{:?}", report.differences);
        let seen = link.evidence().unwrap();
        assert!(self.refused || seen.foreign_writes == 0, "{seen:?}");
        assert!(link.failures().borrow().is_none());
    }

    /// Something that happens, and writes around it.
    async fn episode(&mut self, link: Link) -> Link {
        let what = self.dice.roll(8);
        let names = [
            "writes",
            "a pause",
            "a restart",
            "a death",
            "a cutover",
            "an emptied table",
            "a crash of a server",
            "a check",
        ];
        let name = names[usize::try_from(what).unwrap()];
        self.story.tells(format!("{name}, from {}", self.source));
        match what {
            0 => self.transactions(30).await,
            1 => {
                link.pause().await.unwrap();
                self.transactions(20).await;
                link.ensure(self.phase(), self.source).await.unwrap();
            }
            2 => {
                link.shutdown().await;
                self.transactions(20).await;
                return self.begun().await;
            }
            3 => {
                link.shutdown().await;
                self.killed().await;
                let link = self.begun().await;
                self.whole(&link).await;
                return link;
            }
            4 => {
                copied(&link).await;
                Box::pin(self.turned(&link)).await;
            }
            5 => {
                self.empty().await;
                self.transactions(5).await;
            }
            6 => {
                self.transactions(5).await;
                self.server_crash().await;
                self.pair.equal().await;
            }
            _ => self.whole(&link).await,
        }
        self.transactions(10).await;
        link
    }
}

/// The seed that was asked for, or else this one.
pub(crate) fn seed(own: u64) -> u64 {
    let asked = std::env::var("OUTGROW_TEST_SEED");
    asked.map_or(own, |text| text.parse().unwrap())
}

async fn history(pair: Pair, seed: u64, episodes: u32) {
    let engines = [&pair.legacy, &pair.extracted].map(Db::url);
    let how = pair.child();
    let rows = u32::try_from(ROWS).unwrap();
    pair.legacy.execute(&items(1, rows)).await;
    if let Db::Pg(server) = &pair.legacy {
        // Ids that the sequence gives out later must be free.
        server
            .execute("ALTER SEQUENCE item_id_seq RESTART 10000")
            .await;
    }
    let mut world = World {
        pair,
        // Neighbours are to differ from the first choice on.
        dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
        source: Side::Legacy,
        written: 1_000,
        refused: false,
        story: Story::of(seed, format!("{engines:?}, {how}")),
    };
    let link = Link::open(world.spec()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    world.transactions(20).await;
    let mut link = link;
    for _ in 0..episodes {
        link = Box::pin(world.episode(link)).await;
    }
    world.whole(&link).await;
    link.shutdown().await;
}

/// The seed of a history and what has happened, which are said where it fails.
pub(crate) struct Story(u64, Vec<String>);

impl Story {
    pub(crate) fn of(seed: u64, between: String) -> Self {
        Self(seed, vec![between])
    }

    pub(crate) fn tells(&mut self, what: String) {
        self.1.push(what);
    }
}

impl Drop for Story {
    #[allow(clippy::print_stderr)] // It goes with the message of a failed test.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(seed, story) = self;
            eprintln!("to see it again: OUTGROW_TEST_SEED={seed}; what has happened: {story:#?}");
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Engine {
    Pg,
    My,
    Lite,
}

use Engine::{Lite, My, Pg};

const PAIRS: [(Engine, Engine); 9] = [
    (Pg, Pg),
    (Pg, My),
    (Pg, Lite),
    (My, Pg),
    (My, My),
    (My, Lite),
    (Lite, Pg),
    (Lite, My),
    (Lite, Lite),
];

async fn by_triggers((legacy, extracted): (Engine, Engine)) -> Pair {
    let legacy = match legacy {
        Pg => Db::pg(LEGACY_PG).await,
        My => Db::my(LEGACY_MY).await,
        Lite => Db::lite(LEGACY_SQLITE).await,
    };
    let extracted = match extracted {
        Pg => Db::pg(EXTRACTED_PG).await,
        My => Db::my(EXTRACTED_MY).await,
        Lite => Db::lite(EXTRACTED_SQLITE).await,
    };
    Pair::of(legacy, extracted)
}

async fn by_logs((legacy, extracted): (Engine, Engine)) -> Pair {
    let legacy = match legacy {
        Pg => Db::pg(LEGACY_PG).await,
        My => Db::logged(LEGACY_MY).await,
        Lite => Db::lite(LEGACY_SQLITE).await,
    };
    let extracted = match extracted {
        Pg => Db::pg(EXTRACTED_PG).await,
        My => Db::logged(EXTRACTED_MY).await,
        Lite => Db::lite(EXTRACTED_SQLITE).await,
    };
    Pair::replicated(legacy, extracted)
}

const SHORT: u32 = 6;

macro_rules! short {
    ($($name:ident: $make:ident($pair:expr), $seed:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            Box::pin(history($make($pair).await, seed($seed), SHORT)).await;
        }
    )*};
}

short! {
    postgres_to_postgres_by_triggers: by_triggers((Pg, Pg)), 1;
    postgres_to_postgres_by_logs: by_logs((Pg, Pg)), 2;
    postgres_to_mariadb_by_triggers: by_triggers((Pg, My)), 3;
    postgres_to_mariadb_by_logs: by_logs((Pg, My)), 4;
    postgres_to_sqlite_by_triggers: by_triggers((Pg, Lite)), 5;
    postgres_to_sqlite_by_logs: by_logs((Pg, Lite)), 6;
    mariadb_to_postgres_by_triggers: by_triggers((My, Pg)), 7;
    mariadb_to_postgres_by_logs: by_logs((My, Pg)), 8;
    mariadb_to_mariadb_by_triggers: by_triggers((My, My)), 9;
    mariadb_to_mariadb_by_logs: by_logs((My, My)), 10;
    mariadb_to_sqlite_by_triggers: by_triggers((My, Lite)), 11;
    mariadb_to_sqlite_by_logs: by_logs((My, Lite)), 12;
    sqlite_to_postgres_by_triggers: by_triggers((Lite, Pg)), 13;
    sqlite_to_postgres_by_logs: by_logs((Lite, Pg)), 14;
    sqlite_to_mariadb_by_triggers: by_triggers((Lite, My)), 15;
    sqlite_to_mariadb_by_logs: by_logs((Lite, My)), 16;
    sqlite_to_sqlite: by_triggers((Lite, Lite)), 17;
}

/// Each run another one, unless it is asked for one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by scripts/test --long"]
async fn long_histories_of_every_pair() {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let first = seed(now.as_secs());
    for (more, pair) in (0..).zip(PAIRS) {
        for pair in [by_triggers(pair).await, by_logs(pair).await] {
            Box::pin(history(pair, first + more, 40)).await;
        }
    }
}
