//! Random histories on both sides at once, with the bridge killed in between. Each write says
//! which version it was made in sight of, so that an oracle knows what was concurrent.
//!
//! It asks of the two databases alone: both sides end equal but for rows that are held; every
//! version ever written is in the history of what stands, or of a version that a conflict has kept;
//! and no conflict names two versions of which one was made in sight of the other.

use std::collections::{HashMap, HashSet};

use outgrow_bridge::{Capture, Link, LinkSpec, Policy, Which, Writes};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;
use serde_json::Value;

use crate::both::both;
use crate::crash::child_between;
use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::postgres::{Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, LEGACY_SQLITE, Pair};
use crate::shop::{Dice, WAIT, copied};

const LOG: &str =
    "create table wlog(n bigint primary key, k bigint not null, prev bigint not null);";
/// Rows that are fought over.
const KEYS: u64 = 12;

fn policies() -> [Policy; 5] {
    [
        Policy::Writer,
        Policy::Legacy,
        Policy::Extracted,
        Policy::Newest("made_at".to_owned()),
        Policy::Manual,
    ]
}

/// What a child process is told of the mode, e.g. `both manual`.
pub(crate) fn asked_of(what: &str) -> Writes {
    let Some(policy) = what.strip_prefix("both ") else {
        return Writes::One;
    };
    let policy = policy.trim_end_matches(crate::crash::SETTLES);
    let found = policies().into_iter().find(|p| p.to_string() == policy);
    both(found.unwrap())
}

/// A write of one side: its number, its row, and a time.
fn write(db: &Db, side: Side, n: u64, key: u64, at: u64) -> String {
    let (table, row) = match side {
        Side::Legacy => (
            "item",
            "(id, code, price, status, note, made_at, weight, raw)",
        ),
        Side::Extracted => (
            "article",
            "(id, sku, price_cents, state, note, made_at, weight, raw)",
        ),
    };
    // MariaDB reads no zone; its sessions are in UTC here.
    let zone = if matches!(db, Db::My(_)) { "" } else { "Z" };
    let (values, time) = match side {
        Side::Legacy => (
            format!("({key}, 'c{key}', '1.00', 'A', '0', '2026-01-01 01:00:00', null, null)"),
            format!("2026-02-01 {:02}:{:02}:00", at / 60, at % 60),
        ),
        Side::Extracted => (
            format!(
                "({key}, 'c{key}', 100, 'active', '0', '2026-01-01T00:00:00{zone}', null, null)"
            ),
            format!("2026-02-01T{:02}:{:02}:00{zone}", at / 60, at % 60),
        ),
    };
    let insert = format!("insert into {table} {row} values {values} on conflict do nothing;");
    match db {
        Db::Pg(_) => format!(
            "begin; {insert} with old as (select id, note from {table} where id = {key} for update), \
             l as (insert into wlog select {n}, id, note::bigint from old) \
             update {table} set note = '{n}', made_at = '{time}' from old where {table}.id = old.id; commit"
        ),
        Db::My(_) => format!(
            "begin; insert ignore into {table} {row} values {values}; \
             insert into wlog select {n}, id, cast(note as signed) from {table} where id = {key} for update; \
             update {table} set note = '{n}', made_at = '{time}' where id = {key}; commit"
        ),
        Db::Lite(_) => format!(
            "begin immediate; {insert} insert into wlog select {n}, id, cast(note as integer) from {table} where id = {key}; \
             update {table} set note = '{n}', made_at = '{time}' where id = {key}; commit"
        ),
    }
}

/// Both writers, and what they have written.
struct Writers<'a> {
    pair: &'a Pair,
    dice: Dice,
    written: u64,
}

impl Writers<'_> {
    async fn write(&mut self) {
        self.written += 1;
        let side = [Side::Legacy, Side::Extracted][usize::try_from(self.dice.roll(2)).unwrap()];
        let db = match side {
            Side::Legacy => &self.pair.legacy,
            Side::Extracted => &self.pair.extracted,
        };
        let (key, at) = (self.dice.roll(KEYS) + 1, self.dice.roll(600));
        db.execute(&write(db, side, self.written, key, at)).await;
    }
}

/// Versions by number: the one that each was made in sight of.
async fn history(pair: &Pair, written: u64) -> HashMap<i64, i64> {
    let mut made = HashMap::new();
    for n in 1..=written {
        for db in [&pair.legacy, &pair.extracted] {
            let text = format!("select coalesce((select prev from wlog where n = {n}), -1)");
            let prev = db.number(&text).await;
            if prev >= 0 {
                made.insert(i64::try_from(n).unwrap(), prev);
            }
        }
    }
    made
}

/// A version and all that it was made in sight of.
fn ancestors(made: &HashMap<i64, i64>, version: i64) -> HashSet<i64> {
    let mut found = HashSet::from([version]);
    let mut at = version;
    while let Some(prev) = made.get(&at) {
        found.insert(*prev);
        at = *prev;
    }
    found
}

fn version(row: &Value) -> i64 {
    match &row["article"]["note"] {
        Value::String(text) => text.parse().unwrap(),
        _ => 0,
    }
}

/// What both sides have of a row.
async fn present(pair: &Pair, key: u64) -> (i64, i64) {
    let of = async |db: &Db, table: &str| {
        let number = match db {
            Db::Pg(_) => "note::bigint",
            Db::My(_) => "cast(note as signed)",
            Db::Lite(_) => "cast(note as integer)",
        };
        db.number(&format!(
            "select coalesce((select {number} from {table} where id = {key}), 0)"
        ))
        .await
    };
    (
        of(&pair.legacy, "item").await,
        of(&pair.extracted, "article").await,
    )
}

async fn listed(link: &Link) -> Vec<Value> {
    let found = serde_json::to_value(link.conflicts().await.unwrap()).unwrap();
    found["conflicts"].as_array().unwrap().clone()
}

/// Waits until both sides are equal but for what is held.
async fn quiet(pair: &Pair, link: &Link) -> Vec<Value> {
    let what = "both sides to be equal but for what is held";
    eventually(what, 2 * WAIT, || async {
        let found = listed(link).await;
        let held: HashSet<&str> = found
            .iter()
            .filter(|c| c["state"] == "open")
            .filter_map(|c| c["key"].as_str())
            .collect();
        for key in 1..=KEYS {
            let (legacy, extracted) = present(pair, key).await;
            if legacy != extracted && !held.contains(key.to_string().as_str()) {
                return None;
            }
        }
        // What made them equal may have been a conflict.
        let same = listed(link).await == found;
        (same && link.evidence()?.parked == 0).then_some(found)
    })
    .await
}

/// How many conflicts there were.
async fn judge(pair: &Pair, link: &Link, written: u64) -> usize {
    let found = quiet(pair, link).await;
    let made = history(pair, written).await;
    assert_eq!(made.len() as u64, written, "a write is not in the log");
    let mut known: HashSet<i64> = HashSet::new();
    for key in 1..=KEYS {
        let (legacy, extracted) = present(pair, key).await;
        known.extend(ancestors(&made, legacy));
        known.extend(ancestors(&made, extracted));
    }
    for conflict in &found {
        let (a, b) = (
            version(&conflict["legacy"]),
            version(&conflict["extracted"]),
        );
        let (of_a, of_b) = (ancestors(&made, a), ancestors(&made, b));
        assert!(
            !of_a.contains(&b) && !of_b.contains(&a),
            "not concurrent: {conflict}"
        );
        known.extend(of_a);
        known.extend(of_b);
    }
    let lost: Vec<&i64> = made.keys().filter(|n| !known.contains(n)).collect();
    assert!(lost.is_empty(), "versions {lost:?} are nowhere: {found:?}");
    found.len()
}

fn spec(pair: &Pair, policy: &Policy) -> LinkSpec {
    LinkSpec {
        writes: both(policy.clone()),
        ..pair.spec()
    }
}

async fn play(pair: Pair, policy: Policy, seed: u64, kills: &[(&str, u32)], writes: u64) -> usize {
    let mut writers = Writers {
        pair: &pair,
        dice: Dice(seed | 1),
        written: 0,
    };
    let link = Link::open(spec(&pair, &policy)).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    link.shutdown().await;
    for (point, after) in kills {
        let (legacy, extracted) = (pair.legacy.url(), pair.extracted.url());
        let mut process = child_between(
            &legacy,
            &extracted,
            &format!("both {policy}"),
            point,
            *after,
        );
        let mut died = None;
        while died.is_none() {
            writers.write().await;
            tokio::task::yield_now().await;
            died = process.try_wait().unwrap();
        }
        assert!(crate::crash::was_aborted(died.unwrap()), "{point}");
    }
    let link = Link::open(spec(&pair, &policy)).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    for _ in 0..writes {
        writers.write().await;
    }
    let written = writers.written;
    let conflicts = judge(&pair, &link, written).await;
    if policy == Policy::Manual {
        // Held rows are let go, and all is equal.
        let take = if seed.is_multiple_of(2) {
            Side::Legacy
        } else {
            Side::Extracted
        };
        let done = link.settle(&Which::All, take, false).await.unwrap();
        assert!(done.failed.is_empty() && done.open == 0, "{done:?}");
        judge(&pair, &link, written).await;
    }
    pair.equal().await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
    conflicts
}

async fn lite() -> Pair {
    let legacy = Db::lite(&format!("{LEGACY_SQLITE}; {LOG}")).await;
    Pair::of(
        legacy,
        Db::lite(&format!("{EXTRACTED_SQLITE}; {LOG}")).await,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn no_version_is_lost_whatever_the_policy() {
    for (at, policy) in policies().into_iter().enumerate() {
        let conflicts = play(lite().await, policy, 40 + at as u64, &[], 150).await;
        assert!(conflicts > 0, "nothing was contested");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_version_is_lost_when_the_bridge_is_killed() {
    let kills = [
        ("after-read", 3),
        ("after-rows", 2),
        ("before-commit", 4),
        ("after-commit", 3),
    ];
    for (at, policy) in policies().into_iter().enumerate() {
        let conflicts = play(lite().await, policy, 70 + at as u64, &kills, 40).await;
        assert!(conflicts > 0, "nothing was contested");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_version_is_lost_between_two_postgres() {
    for (at, policy) in policies().into_iter().enumerate() {
        let legacy = Db::pg(&format!("{LEGACY_PG}; {LOG}")).await;
        let extracted = Db::pg(&format!("{EXTRACTED_PG}; {LOG}")).await;
        let pair = Pair::of(legacy, extracted);
        let kills = [("before-commit", 5)];
        let conflicts = play(pair, policy, 90 + at as u64, &kills, 120).await;
        assert!(conflicts > 0, "nothing was contested");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_version_is_lost_between_two_mariadb() {
    let legacy = Db::my(&format!("{LEGACY_MY}; {LOG}")).await;
    let extracted = Db::my(&format!("{EXTRACTED_MY}; {LOG}")).await;
    let kills = [("before-commit", 5)];
    let pair = Pair::of(legacy, extracted);
    let conflicts = play(pair, Policy::Extracted, 95, &kills, 120).await;
    assert!(conflicts > 0, "nothing was contested");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_version_is_lost_where_keys_come_from_the_log() {
    let legacy = Db::pg(&format!("{LEGACY_PG}; {LOG}")).await;
    let extracted = Db::pg(&format!("{EXTRACTED_PG}; {LOG}")).await;
    let pair = Pair::replicated(legacy, extracted);
    assert_eq!(
        pair.spec().legacy,
        pair.spec().legacy.capturing(Capture::Replication).unwrap()
    );
    let conflicts = play(pair, Policy::Writer, 7, &[], 120).await;
    assert!(conflicts > 0, "nothing was contested");
}

/// Engines that tell one another's conflicts: the legacy one, the extracted one, and whether PostgreSQL's
/// keys come from its log. MariaDB's log does not do for both sides.
const BETWEEN: [(&str, &str, bool); 7] = [
    ("lite", "pg", false),
    ("pg", "my", false),
    ("my", "lite", false),
    ("pg", "lite", true),
    ("my", "pg", false),
    ("lite", "my", false),
    ("lite", "pg", true),
];

async fn between((legacy, extracted, logs): (&str, &str, bool)) -> Pair {
    let made = async |engine: &str, tables: [&str; 3]| match engine {
        "lite" => Db::lite(&format!("{}; {LOG}", tables[0])).await,
        "pg" => Db::pg(&format!("{}; {LOG}", tables[1])).await,
        _ => Db::my(&format!("{}; {LOG}", tables[2])).await,
    };
    let legacy = made(legacy, [LEGACY_SQLITE, LEGACY_PG, LEGACY_MY]).await;
    let of = [EXTRACTED_SQLITE, EXTRACTED_PG, EXTRACTED_MY];
    let extracted = made(extracted, of).await;
    match logs {
        true => Pair::replicated(legacy, extracted),
        false => Pair::of(legacy, extracted),
    }
}

/// The bridge is killed where a process of its own captures as the pair does.
async fn play_between(
    engines: (&str, &str, bool),
    policy: Policy,
    (seed, writes): (u64, u64),
    kills: &[(&str, u32)],
) {
    let kills = if engines.2 { &[][..] } else { kills };
    let conflicts = play(between(engines).await, policy, seed, kills, writes).await;
    assert!(conflicts > 0, "nothing was contested: {engines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_version_is_lost_between_engines() {
    for (at, engines) in BETWEEN.into_iter().take(4).enumerate() {
        let policy = policies()[(at + 2) % 5].clone();
        play_between(
            engines,
            policy,
            (200 + at as u64, 40),
            &[("before-commit", 3)],
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by scripts/test --long"]
async fn long_histories_between_engines_lose_no_version() {
    let kills = [("after-rows", 2), ("before-commit", 3), ("after-commit", 4)];
    for (at, engines) in BETWEEN.into_iter().enumerate() {
        for (turn, policy) in policies().into_iter().enumerate() {
            let seed = 3_000 + 10 * at as u64 + turn as u64;
            play_between(engines, policy, (seed, 100), &kills).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by scripts/test --long"]
async fn long_histories_of_both_sides_lose_no_version() {
    let kills = [("after-rows", 2), ("before-commit", 6), ("after-commit", 9)];
    for round in 0..6 {
        for (at, policy) in policies().into_iter().enumerate() {
            let seed = 1_000 * (round + 1) + at as u64;
            let conflicts = play(lite().await, policy, seed, &kills, 600).await;
            assert!(conflicts > 0, "nothing was contested");
        }
    }
}
