//! The backfill from one PostgreSQL to another by COPY, where rows are the same on both sides:
//! every way there is, writers beside it, deaths in it. The databases are the oracle.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outgrow_bridge::{
    Capture, ColumnSpec, DatabaseUrl, FaultHook, Link, LinkSpec, Source, TableSpec, Writes,
};
use outgrow_rollout::{DataPhase, Side, SliceId};
use outgrow_testkit::{Postgres, eventually};
use sqlx::{AssertSqlSafe, PgPool};

use crate::crash::child_between;
use crate::shop::{Dice, WAIT, copied, quick};

const MOOD: &str = "CREATE TYPE mood AS ENUM ('good', 'it''s \"so\"');";
const LEGACY: &str = "CREATE TABLE ware (id bigserial PRIMARY KEY, code varchar(60) NOT NULL UNIQUE, \
    price numeric(10,2), felt mood, tags text[], doc jsonb, at timestamptz, day date, took interval, \
    ref uuid, raw bytea, weight float8, note text, twice bigint GENERATED ALWAYS AS (id * 2) STORED)";
const EXTRACTED: &str = "CREATE TABLE good (other text DEFAULT 'own', id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
    sku varchar(60) NOT NULL UNIQUE, price numeric(10,2), felt mood, tags text[], doc jsonb, at timestamptz, \
    day date, took interval, ref uuid, raw bytea, weight float8, remark text, twice bigint, \
    thrice bigint GENERATED ALWAYS AS (id * 3) STORED)";
const NAMES: [(&str, &str); 14] = [
    ("id", "id"),
    ("code", "sku"),
    ("price", "price"),
    ("felt", "felt"),
    ("tags", "tags"),
    ("doc", "doc"),
    ("at", "at"),
    ("day", "day"),
    ("took", "took"),
    ("ref", "ref"),
    ("raw", "raw"),
    ("weight", "weight"),
    ("note", "remark"),
    ("twice", "twice"),
];

/// See [`Wares::child`].
const CHILD: &str = "wares";
pub(crate) const REPLICATED: &str = "wares by replication";
pub(crate) const ROUNDS: &str = "wares in long rounds";
pub(crate) const ALONE: &str = "wares in long rounds, one by one";
const ROUNDS_REPLICATED: &str = "wares in long rounds by replication";

fn entry(legacy: &str, extracted: &str, key: &[&str], names: &[(&str, &str)]) -> TableSpec {
    let column = |(from, to): &(&str, &str)| ColumnSpec {
        extracted: (*to).to_owned(),
        source: Source::Rename((*from).to_owned()),
    };
    TableSpec {
        legacy: legacy.to_owned(),
        extracted: extracted.to_owned(),
        key: key.iter().map(|name| (*name).to_owned()).collect(),
        columns: names.iter().map(column).collect(),
        ..TableSpec::default()
    }
}

pub(crate) fn tables() -> Vec<TableSpec> {
    let mut table = entry("ware", "good", &["id"], &NAMES);
    // What the legacy side computes is not written there.
    table.columns.retain(|column| column.extracted != "twice");
    vec![table]
}

/// Rounds that end when each lane has written a chunk, and those that end when there are no more.
pub(crate) const SHORT: Duration = Duration::ZERO;
pub(crate) const LONG: Duration = Duration::MAX;

/// Two servers, and how often each point of a chunk was passed.
pub(crate) struct Wares {
    pub(crate) legacy: Postgres,
    pub(crate) extracted: Postgres,
    pub(crate) capture: Capture,
    pub(crate) round: Duration,
    passed: Arc<Mutex<HashMap<&'static str, usize>>>,
}

impl Wares {
    async fn with(legacy: &str, extracted: &str) -> Self {
        Self {
            legacy: Postgres::with(&format!("{MOOD} {legacy}")).await,
            extracted: Postgres::with(&format!("{MOOD} {extracted}")).await,
            capture: Capture::Triggers,
            round: SHORT,
            passed: Arc::default(),
        }
    }

    pub(crate) async fn filled(rows: u32) -> Self {
        let wares = Self::with(LEGACY, EXTRACTED).await;
        wares.legacy.execute(&insert(1, rows)).await;
        let next = format!("SELECT setval('ware_id_seq', {})", rows + 10_000);
        wares.legacy.execute(&next).await;
        wares
    }

    pub(crate) fn spec(&self, tables: Vec<TableSpec>) -> LinkSpec {
        self.spec_with(tables, |_, _| {})
    }

    /// One that does something at points of a chunk, when they are passed the so-manieth time.
    pub(crate) fn spec_with(
        &self,
        tables: Vec<TableSpec>,
        act: impl Fn(&'static str, usize) + Send + Sync + 'static,
    ) -> LinkSpec {
        let url = |server: &Postgres| {
            let url: DatabaseUrl = server.url().parse().unwrap();
            url.capturing(self.capture).unwrap()
        };
        let mut limits = quick();
        limits.chunk_rows = 10;
        limits.copy_rows = 40;
        limits.copy_round = self.round;
        let passed = Arc::clone(&self.passed);
        limits.fault = Some(FaultHook::new(move |at| {
            let times = {
                let mut passed = passed.lock().unwrap();
                *passed.entry(at).or_default() += 1;
                passed[at]
            };
            act(at, times);
        }));
        LinkSpec {
            slice: SliceId::new("wares").unwrap(),
            legacy: url(&self.legacy),
            extracted: url(&self.extracted),
            tables,
            writes: Writes::One,
            limits,
        }
    }

    pub(crate) fn chunks(&self) -> usize {
        self.count("copy-sent")
    }

    pub(crate) fn count(&self, point: &str) -> usize {
        let passed = self.passed.lock().unwrap();
        passed.get(point).copied().unwrap_or(0)
    }

    pub(crate) async fn equal(&self) {
        eventually("both sides to be equal", WAIT, || async {
            let legacy = rows(&self.legacy, "ware", &names(false)).await;
            let extracted = rows(&self.extracted, "good", &names(true)).await;
            (legacy == extracted).then_some(())
        })
        .await;
    }

    fn child(&self) -> &'static str {
        match (self.round, self.capture) {
            (SHORT, Capture::Triggers) => CHILD,
            (SHORT, Capture::Replication) => REPLICATED,
            (_, Capture::Triggers) => ROUNDS,
            (_, Capture::Replication) => ROUNDS_REPLICATED,
        }
    }
}

fn names(extracted: bool) -> Vec<&'static str> {
    let mapped = NAMES.iter().filter(|(_, to)| *to != "twice");
    let name = |names: &(&'static str, &'static str)| match (names, extracted) {
        (("raw", _), _) => "md5(raw)",
        ((_, to), true) => to,
        ((from, _), false) => from,
    };
    mapped.map(name).collect()
}

/// Sums of a table's rows, in an order of their own.
async fn rows(server: &Postgres, table: &str, columns: &[&str]) -> Vec<String> {
    let text = format!(
        "SELECT md5(ROW({columns})::text) FROM {table} ORDER BY 1",
        columns = columns.join(", ")
    );
    let found = sqlx::query_scalar(AssertSqlSafe(text));
    found.fetch_all(server.pool()).await.unwrap()
}

fn insert(from: u32, to: u32) -> String {
    // A `numeric` has no infinity before 14.
    let least = if Postgres::oldest() < 14 {
        "-1"
    } else {
        "-Infinity"
    };
    format!(
        "INSERT INTO ware (id, code, price, felt, tags, doc, at, day, took, ref, raw, weight, note) \
         SELECT n, 'c\\' || n, CASE WHEN n % 5 > 0 THEN n * 7 + 0.05 END, \
         CASE WHEN n % 2 = 0 THEN 'good' ELSE 'it''s \"so\"' END::mood, \
         CASE WHEN n % 3 > 0 THEN ARRAY['a' || n, NULL, 'b,\"'] END, jsonb_build_object('n', n, 'é', 'ü'), \
         '2026-03-01 12:00:00.123456+00'::timestamptz + n * interval '1 hour', DATE '2026-01-01' + n, \
         n * interval '1 day 3 minutes', md5(n::text)::uuid, CASE WHEN n % 4 > 0 THEN decode(md5(n::text), 'hex') END, \
         CASE n % 4 WHEN 0 THEN 'NaN' WHEN 1 THEN '{least}' ELSE n / 3.0 END, \
         CASE WHEN n % 6 > 0 THEN repeat('tab' || chr(9) || ' line' || chr(10) || ' \\', 100) END \
         FROM generate_series({from}, {to}) AS n"
    )
}

pub(crate) async fn started(spec: LinkSpec) -> Link {
    let link = Link::open(spec).await.unwrap();
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    link
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_the_same_go_from_database_to_database() {
    let wares = Wares::filled(300).await;
    let link = started(wares.spec(tables())).await;
    copied(&link).await;
    wares.equal().await;
    assert_eq!(wares.chunks(), 8, "chunks of 40");
    let own = "SELECT count(*) FROM good WHERE other = 'own' AND thrice = id * 3";
    assert_eq!(wares.extracted.number(own).await, 300);
    let evidence = link.evidence().unwrap();
    assert_eq!((evidence.copied_rows, evidence.total_rows), (300, 300));
    assert_eq!((evidence.parked, evidence.foreign_writes), (0, 0));
    assert_eq!(link.verify().await.unwrap().different, 0);
    wares
        .legacy
        .execute("UPDATE ware SET note = 'after'; DELETE FROM ware WHERE id = 7")
        .await;
    wares.equal().await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_there_already_are_written_over() {
    let wares = Wares::filled(200).await;
    wares
        .extracted
        .execute(
            "INSERT INTO good (id, sku, remark) OVERRIDING SYSTEM VALUE \
             SELECT n, 'old' || n, 'old' FROM generate_series(50, 60) AS n",
        )
        .await;
    let link = started(wares.spec(tables())).await;
    copied(&link).await;
    wares.equal().await;
    assert_eq!(wares.chunks(), 5);
    assert_eq!(link.evidence().unwrap().parked, 0);
    link.shutdown().await;
}

/// Keys of several columns, text in a collation among them, and types that go as text.
#[tokio::test(flavor = "multi_thread")]
async fn keys_and_types_of_all_kinds_are_copied() {
    let columns = "region text COLLATE \"en-x-icu\", code bytea, n numeric, at point, size length, \
        PRIMARY KEY (region, code, n)";
    let length = "CREATE DOMAIN length AS int CHECK (VALUE > 0);";
    let wares = Wares::with(
        &format!(
            "{length} CREATE TABLE ware ({columns}); INSERT INTO ware SELECT chr(65 + n % 7) || E'\\\\' || chr(97 + n % 3) || '''', \
             decode(md5((n % 50)::text), 'hex'), n / 4.0, point(n, 1), n FROM generate_series(1, 300) AS n"
        ),
        &format!("{length} CREATE TABLE good ({columns})"),
    )
    .await;
    let names = ["region", "code", "n", "at", "size"].map(|name| (name, name));
    let table = entry("ware", "good", &["region", "code", "n"], &names);
    let link = started(wares.spec(vec![table])).await;
    copied(&link).await;
    let names = names.map(|(name, _)| name);
    let legacy = rows(&wares.legacy, "ware", &names).await;
    assert_eq!(legacy, rows(&wares.extracted, "good", &names).await);
    assert_eq!((legacy.len(), wares.chunks()), (300, 8));
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_refused_is_parked_and_the_rest_is_copied() {
    let wares = Wares::filled(200).await;
    wares
        .extracted
        .execute("ALTER TABLE good ADD CONSTRAINT small CHECK (price <> 77 * 7 + 0.05)")
        .await;
    wares
        .legacy
        .execute("UPDATE ware SET price = 77 * 7 + 0.05 WHERE id = 77")
        .await;
    let link = started(wares.spec(tables())).await;
    copied(&link).await;
    eventually("one parked row", WAIT, || async {
        (link.evidence()?.parked == 1).then_some(())
    })
    .await;
    let there = "SELECT count(*) FROM good";
    assert_eq!(wares.extracted.number(there).await, 199);
    assert_eq!(wares.chunks(), 5, "one of them in vain");
    wares
        .extracted
        .execute("ALTER TABLE good DROP CONSTRAINT small")
        .await;
    wares.equal().await;
    link.shutdown().await;
}

/// A length that differs, or row security, is for the way that looks at each row.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_differ_are_copied_row_by_row() {
    let shorter = EXTRACTED.replace("varchar(60)", "varchar(50)");
    let wares = Wares::with(LEGACY, &shorter).await;
    wares.legacy.execute(&insert(1, 60)).await;
    let link = started(wares.spec(tables())).await;
    copied(&link).await;
    wares.equal().await;
    assert_eq!(wares.chunks(), 0);
    link.shutdown().await;

    let wares = Wares::filled(60).await;
    wares
        .extracted
        .execute(
            "CREATE ROLE guest LOGIN; GRANT CREATE ON DATABASE postgres TO guest; \
             ALTER TABLE good OWNER TO guest; ALTER TABLE good ENABLE ROW LEVEL SECURITY; \
             ALTER TABLE good FORCE ROW LEVEL SECURITY; CREATE POLICY everything ON good USING (true)",
        )
        .await;
    let mut spec = wares.spec(tables());
    spec.extracted = wares.extracted.url_for("guest").parse().unwrap();
    let link = started(spec).await;
    copied(&link).await;
    wares.equal().await;
    assert_eq!(wares.chunks(), 0);
    link.shutdown().await;
}

/// Without the right to turn references off, and with none to make a temporary table.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_few_rights_copies_all() {
    let wares = Wares::filled(200).await;
    wares
        .extracted
        .execute(
            "CREATE ROLE guest LOGIN; GRANT CREATE ON DATABASE postgres TO guest; \
             REVOKE TEMPORARY ON DATABASE postgres FROM PUBLIC; ALTER TABLE good OWNER TO guest; \
             INSERT INTO good (id, sku) OVERRIDING SYSTEM VALUE VALUES (100, 'old')",
        )
        .await;
    let mut spec = wares.spec(tables());
    spec.extracted = wares.extracted.url_for("guest").parse().unwrap();
    let link = started(spec).await;
    copied(&link).await;
    wares.equal().await;
    // All but the one with a row in it; and the one beside that, where it had not begun yet.
    let ranges = wares.count("range-committed");
    assert!((2..=3).contains(&ranges), "{ranges}");
    assert_eq!(link.evidence().unwrap().parked, 0);
    link.shutdown().await;
}

/// A statement on the legacy table; some are refused, which is part of a history.
fn change(dice: &mut Dice) -> String {
    let id = 1 + dice.roll(1_300);
    let other = 1 + dice.roll(1_300);
    match dice.roll(8) {
        0 => format!("DELETE FROM ware WHERE id BETWEEN {id} AND {}", id + 3),
        1 => format!("UPDATE ware SET id = {} WHERE id = {id}", 2_000 + other),
        2 => format!(
            "UPDATE ware SET code = 'x' || code WHERE id = {other}; \
             UPDATE ware SET code = 'c\\{other}' WHERE id = {id}"
        ),
        3 => format!(
            "INSERT INTO ware (code, raw) VALUES ('new' || gen_random_uuid(), decode('{other:08}', 'hex'))"
        ),
        4 => format!(
            "UPDATE ware SET price = price + 0.01, felt = 'good' WHERE id BETWEEN {id} AND {}",
            id + 30
        ),
        5 => {
            format!("INSERT INTO ware (id, code) VALUES ({id}, 'again{id}') ON CONFLICT DO NOTHING")
        }
        6 => format!("UPDATE ware SET id = {id} WHERE id = {}", 2_000 + other),
        _ => format!("UPDATE ware SET note = 'n' || {other}, doc = NULL WHERE id = {id}"),
    }
}

async fn history(pool: PgPool, seed: u64, transactions: u32) {
    let mut dice = Dice(seed);
    for _ in 0..transactions {
        let Ok(mut tx) = pool.begin().await else {
            continue;
        };
        let mut whole = true;
        for _ in 0..=dice.roll(3) {
            let text = change(&mut dice);
            let done = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *tx);
            whole = whole && done.await.is_ok();
        }
        // An error here means that the transaction was undone, which is as good.
        let _ = if whole && dice.roll(5) > 0 {
            tx.commit().await
        } else {
            tx.rollback().await
        };
    }
}

pub(crate) async fn resumed(wares: &Wares) -> Link {
    let link = started(wares.spec(tables())).await;
    copied(&link).await;
    wares.equal().await;
    eventually("no row to be parked", WAIT, || async {
        (link.evidence()?.parked == 0).then_some(())
    })
    .await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    assert_eq!(link.evidence().unwrap().foreign_writes, 0);
    link
}

async fn histories(capture: Capture, round: Duration) {
    let mut wares = Wares::filled(1_200).await;
    (wares.capture, wares.round) = (capture, round);
    let writers: Vec<_> = (1..=3)
        .map(|seed| tokio::spawn(history(wares.legacy.pool().clone(), seed, 150)))
        .collect();
    let link = started(wares.spec(tables())).await;
    for writer in writers {
        writer.await.unwrap();
    }
    link.shutdown().await;
    let link = resumed(&wares).await;
    assert!(wares.chunks() > 10, "{}", wares.chunks());
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_beside_the_copy_end_equal() {
    histories(Capture::Triggers, SHORT).await;
    histories(Capture::Triggers, LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_beside_the_copy_end_equal_by_replication() {
    histories(Capture::Replication, SHORT).await;
    histories(Capture::Replication, LONG).await;
}

/// Histories that are written beside one copy at the most.
const HISTORIES: u64 = 60;

async fn dying(capture: Capture, round: Duration) {
    let mut wares = Wares::filled(1_200).await;
    (wares.capture, wares.round) = (capture, round);
    let points = [
        ("amid-copy", 1),
        ("copy-sent", 3),
        ("after-rows", 2),
        ("range-copied", 4),
        ("range-committed", 3),
        ("before-commit", 4),
        ("after-commit", 3),
    ];
    for (seed, (point, after)) in (1..).zip(points) {
        let (legacy, extracted) = (wares.legacy.url(), wares.extracted.url());
        let mut process = child_between(&legacy, &extracted, wares.child(), point, after);
        let mut died = None;
        let mut round = seed * 100;
        while died.is_none() && round < seed * 100 + HISTORIES {
            history(wares.legacy.pool().clone(), round, 3).await;
            round += 1;
            died = process.try_wait().unwrap();
        }
        // From here on the copy catches up, however slow the machine is.
        if died.is_none() {
            let end = tokio::time::timeout(WAIT * 2, process.wait()).await;
            died = Some(end.unwrap().unwrap());
        }
        assert!(crate::crash::was_aborted(died.unwrap()), "{point}");
        let link = resumed(&wares).await;
        link.close().await.unwrap();
        wares.extracted.execute("TRUNCATE good").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dying_in_a_copy_loses_nothing() {
    dying(Capture::Triggers, SHORT).await;
    dying(Capture::Triggers, LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dying_in_a_copy_loses_nothing_by_replication() {
    dying(Capture::Replication, SHORT).await;
    dying(Capture::Replication, LONG).await;
}

/// Where many chunks go side by side, and where one goes at a time, because that was asked, or
/// because there is a rate.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_go_side_by_side_as_asked() {
    let rate = std::num::NonZeroU32::new(100_000);
    for (parallel, rate, rounds) in [(1, None, 10), (5, None, 2), (5, rate, 10)] {
        let mut wares = Wares::filled(400).await;
        // A rate makes rounds short by itself.
        wares.round = if rate.is_some() { LONG } else { SHORT };
        let (batches, note) = batches_of_ranges();
        let mut spec = wares.spec_with(tables(), note);
        spec.limits.copy_parallel = std::num::NonZeroU32::new(parallel).unwrap();
        spec.limits.copy_rate = rate;
        let link = started(spec).await;
        copied(&link).await;
        wares.equal().await;
        assert_eq!(
            (wares.chunks(), batches.lock().unwrap().len()),
            (10, rounds)
        );
        let evidence = link.evidence().unwrap();
        assert_eq!((evidence.copied_rows, evidence.foreign_writes), (400, 0));
        assert_eq!(link.verify().await.unwrap().different, 0);
        link.shutdown().await;
    }
}

/// In which batches ranges were written, by the number of times that the source was read.
type Batches = Arc<Mutex<BTreeSet<usize>>>;

/// Where that is noted, and what notes it.
pub(crate) fn batches_of_ranges() -> (Batches, impl Fn(&'static str, usize)) {
    let found = Batches::default();
    let notes = Arc::clone(&found);
    let reads = AtomicUsize::new(0);
    let note = move |at, times| match at {
        "after-read" => reads.store(times, Ordering::Relaxed),
        "range-committed" => drop(notes.lock().unwrap().insert(reads.load(Ordering::Relaxed))),
        _ => {}
    };
    (found, note)
}

/// Has SQL done from within a point of a chunk.
pub(crate) fn done_amid(pool: &PgPool, text: String) -> bool {
    let pool = pool.clone();
    let run = async move { sqlx::raw_sql(AssertSqlSafe(text)).execute(&pool).await };
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(run)).is_ok()
}

/// Nobody takes over while a range is written, and who was taken over writes none.
#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_an_older_worker_are_not_written() {
    let wares = Wares::filled(400).await;
    let epoch = "UPDATE _outgrow.wares_position SET epoch = epoch + 1 WHERE stream = 'legacy'";
    let pool = wares.extracted.pool().clone();
    let taken: Arc<Mutex<Vec<bool>>> = Arc::default();
    let takes = Arc::clone(&taken);
    let spec = wares.spec_with(tables(), move |at, times| {
        let text = match (at, times) {
            ("range-copied", 1) => format!("SET lock_timeout = 50; {epoch}"),
            ("after-read", 3) => epoch.to_owned(),
            _ => return,
        };
        takes.lock().unwrap().push(done_amid(&pool, text));
    });
    let link = started(spec).await;
    let mut failures = link.failures();
    let failed = failures.wait_for(Option::is_some).await.unwrap().clone();
    let text = failed.unwrap_or_default();
    assert!(
        text.contains("another bridge process has taken over"),
        "{text}"
    );
    let there = "SELECT count(*) FROM good";
    assert_eq!(
        wares.extracted.number(there).await,
        160,
        "two rounds of two"
    );
    assert_eq!(*taken.lock().unwrap(), [false, true]);
    link.shutdown().await;
    resumed(&wares).await.shutdown().await;
}

/// Chunks are cut by what their rows have, not by their number alone; one row always goes.
#[tokio::test(flavor = "multi_thread")]
async fn large_values_cut_a_chunk() {
    let wares = Wares::filled(20).await;
    wares.legacy.execute(LARGE).await;
    let mut spec = wares.spec(tables());
    spec.limits.chunk_bytes = 1_100_000;
    let link = started(spec).await;
    copied(&link).await;
    wares.equal().await;
    // 4 + 4, the large one, 4 + 4 + 3.
    assert_eq!(wares.chunks(), 6);
    link.shutdown().await;
}

/// The same where each row is looked at: what is in memory is bounded.
#[tokio::test(flavor = "multi_thread")]
async fn large_values_cut_a_chunk_that_is_looked_at() {
    let shorter = EXTRACTED.replace("varchar(60)", "varchar(50)");
    let wares = Wares::with(LEGACY, &shorter).await;
    wares.legacy.execute(&insert(1, 20)).await;
    wares.legacy.execute(LARGE).await;
    let mut spec = wares.spec(tables());
    spec.limits.chunk_bytes = 1_100_000;
    let link = started(spec).await;
    copied(&link).await;
    wares.equal().await;
    assert_eq!((wares.chunks(), wares.count("chunk-read")), (0, 6));
    link.shutdown().await;
}

/// Many of 250 kB, and one of 32 MB.
const LARGE: &str = "ALTER TABLE ware ALTER raw SET STORAGE EXTERNAL; \
    UPDATE ware SET raw = decode(repeat('ab', 250000), 'hex'); \
    UPDATE ware SET raw = decode(repeat('cd', 32000000), 'hex') WHERE id = 9";

/// How a COPY is broken off: by which server, and with which function.
const BREAKS: [(bool, &str); 4] = [
    (true, "pg_cancel_backend"),
    (false, "pg_cancel_backend"),
    (true, "pg_terminate_backend"),
    (false, "pg_terminate_backend"),
];

/// A COPY that is broken off leaves no connection behind that answers what was not asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_broken_off_is_done_again() {
    let wares = Wares::filled(3_000).await;
    wares
        .legacy
        .execute(
            "ALTER TABLE ware ALTER raw SET STORAGE EXTERNAL; \
             UPDATE ware SET raw = decode(repeat(md5(id::text), 250), 'hex')",
        )
        .await;
    let mut spec = wares.spec(tables());
    (spec.limits.copy_rows, spec.limits.chunk_bytes) = (3_000, 1 << 30);
    let (amid, mut meets) = tokio::sync::mpsc::unbounded_channel();
    let (go, on) = std::sync::mpsc::channel::<()>();
    let on = Mutex::new(on);
    spec.limits.fault = Some(FaultHook::new(move |at| {
        // The copy waits here until it is broken off. Nobody waits once all ways are tried.
        if at == "amid-copy" && amid.send(()).is_ok() {
            tokio::task::block_in_place(|| on.lock().unwrap().recv().ok());
        }
    }));
    let link = started(spec).await;
    for (source, function) in BREAKS {
        eventually_broken(&wares, source, function, &mut meets, &go).await;
    }
    drop((meets, go));
    copied(&link).await;
    wares.equal().await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

/// Breaks off the COPY that is under way on one side.
async fn eventually_broken(
    wares: &Wares,
    source: bool,
    function: &str,
    meets: &mut tokio::sync::mpsc::UnboundedReceiver<()>,
    go: &std::sync::mpsc::Sender<()>,
) {
    let server = if source {
        &wares.legacy
    } else {
        &wares.extracted
    };
    let text = format!(
        "SELECT count({function}(pid)) FROM pg_stat_activity WHERE state = 'active' \
         AND query LIKE 'COPY %' AND pid <> pg_backend_pid()"
    );
    loop {
        meets.recv().await.unwrap();
        let broken = server.number(&text).await;
        go.send(()).unwrap();
        if broken == 1 {
            break;
        }
    }
}
