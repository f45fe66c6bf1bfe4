//! Times that not every engine has: before Christ, beyond the year 9999, and infinite ones. Where a
//! row is read they come over exactly or their rows are parked, and verification tells them apart.

use outgrow_bridge::{Capture, DatabaseUrl, Link, LinkSpec, Source};
use outgrow_rollout::Side;
use outgrow_testkit::eventually;

use crate::mapping::{entry, following, parked, reasons, same, says, spec, verified};
use crate::mapping_keys::corrupt;
use crate::postgres::Db;
use crate::shop::WAIT;
use crate::turning::cut_over;

/// Dates, clock times and instants with the very texts that they are read as.
const TIMES: [[&str; 3]; 7] = [
    ["infinity", "infinity", "infinity"],
    ["-infinity", "-infinity", "-infinity"],
    [
        "0044-03-15 BC",
        "0044-03-15 12:00:00.5 BC",
        "0044-03-15T12:00:00.5Z BC",
    ],
    [
        "0001-12-31 BC",
        "0001-12-31 23:59:59.999999 BC",
        "0001-12-31T23:59:59.999999Z BC",
    ],
    ["0001-01-01", "0001-01-01 00:00:00", "0001-01-01T00:00:00Z"],
    [
        "10000-01-01",
        "10000-01-01 00:00:00",
        "10000-01-01T00:00:00Z",
    ],
    [
        "5874897-12-31",
        "294276-12-31 23:59:59.999999",
        "294276-12-31T23:59:59.999999Z",
    ],
];
/// What lists of them are.
const LISTS: &str = "'{infinity,-infinity,0044-03-15 BC,10000-01-01}'";

const OF_PG: &str = "d date, n timestamp, o timestamptz, ds date[], ns timestamp[]";
const LEGACY: &str = "CREATE TABLE vals (id int PRIMARY KEY, price numeric(12,2), ";
const EXTRACTED: &str = "CREATE TABLE vals (id int PRIMARY KEY, cents bigint, ";

/// A table with its own columns of times.
fn table(of: &str, columns: &str) -> String {
    format!("{of}{columns})")
}

/// Rows of these times from an id on.
fn rows(from: usize, amount: &str) -> String {
    let one = |(at, [d, n, o]): (usize, &[&str; 3])| {
        format!("({at}, {amount}, '{d}', '{n}', '{o}', {LISTS}, {LISTS})")
    };
    let all: Vec<String> = (from..).zip(&TIMES).map(one).collect();
    format!("INSERT INTO vals VALUES {}", all.join(", "))
}

/// A mapping by which rows are read and made.
fn read(legacy: &Db, extracted: &Db, capture: Capture) -> LinkSpec {
    let price = Source::Cents {
        from: "price".to_owned(),
        scale: 2,
    };
    let mut columns = vec![("id", same("id")), ("cents", price)];
    columns.extend(["d", "n", "o", "ds", "ns"].map(|name| (name, same(name))));
    let mut spec = spec(legacy, extracted, vec![entry("vals", "vals", columns)]);
    let by = |url: DatabaseUrl, db: &Db| match db {
        Db::Pg(_) => url.capturing(capture).unwrap(),
        Db::Lite(_) | Db::My(_) => url,
    };
    spec.legacy = by(spec.legacy, legacy);
    spec.extracted = by(spec.extracted, extracted);
    spec
}

/// That a row has the times of a place.
fn has(db: &Db, id: usize, at: usize) -> String {
    let [d, n, o] = TIMES[at];
    let lists = match db {
        Db::Pg(_) => format!(" AND ds = {LISTS} AND ns = {LISTS}"),
        Db::Lite(_) | Db::My(_) => String::new(),
    };
    format!(
        "SELECT count(*) FROM vals WHERE id = {id} AND d = '{d}' AND n = '{n}' AND o = '{o}'{lists}"
    )
}

async fn none_parked(link: &Link) {
    let parked = link.evidence().unwrap().parked;
    assert_eq!(parked, 0, "{}", reasons(link).await);
}

async fn all_have(db: &Db, from: usize) {
    for at in 0..TIMES.len() {
        says(db, &has(db, from + at, at), 1).await;
    }
}

/// That the verification finds a row that somebody has made NULL, or another time, and mends it.
async fn found_and_mended(link: &Link, db: &Db) {
    for change in [
        "n = NULL WHERE id = 100",
        "o = NULL WHERE id = 101",
        "n = '0044-03-15 12:00:00.5' WHERE id = 102",
        "o = '0044-03-15T12:00:00.5Z' WHERE id = 102",
        "d = '0044-03-15' WHERE id = 102",
    ] {
        corrupt(db, &format!("UPDATE vals SET {change}")).await;
        let report = link.verify().await.unwrap();
        assert_eq!(report.different, 1, "{change}: {:?}", report.differences);
        let repaired = link.repair(false).await.unwrap();
        assert_eq!((repaired.repaired, repaired.remaining), (1, 0), "{change}");
        verified(link).await;
    }
    all_have(db, 100).await;
}

/// Copied, followed, verified, mended, and the same the other way round.
async fn there_and_back(extracted: Db, capture: Capture) {
    let legacy = Db::pg(&table(LEGACY, OF_PG)).await;
    legacy.execute(&rows(0, "1.50")).await;
    let link = following(read(&legacy, &extracted, capture)).await;
    legacy.execute(&rows(100, "2.50")).await;
    all_have(&extracted, 0).await;
    all_have(&extracted, 100).await;
    legacy
        .execute("UPDATE vals SET price = 7 WHERE id < 100")
        .await;
    let count = |condition: &str| format!("SELECT count(*) FROM vals WHERE {condition}");
    let rows_of_all = i64::try_from(TIMES.len()).unwrap();
    says(&extracted, &count("cents = 700"), rows_of_all).await;
    all_have(&extracted, 0).await;
    none_parked(&link).await;
    verified(&link).await;
    found_and_mended(&link, &extracted).await;
    cut_over(&link, Side::Extracted).await;
    extracted
        .execute("UPDATE vals SET cents = 800 WHERE id < 100")
        .await;
    extracted
        .execute("INSERT INTO vals SELECT id + 100, 900, d, n, o, ds, ns FROM vals WHERE id >= 100")
        .await;
    says(&legacy, &count("price = 8"), rows_of_all).await;
    says(&legacy, &count("price = 9"), rows_of_all).await;
    for from in [0, 100, 200] {
        all_have(&legacy, from).await;
    }
    none_parked(&link).await;
    verified(&link).await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn between_two_postgres_by_triggers() {
    let extracted = Db::pg(&table(EXTRACTED, OF_PG)).await;
    there_and_back(extracted, Capture::Triggers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn between_two_postgres_by_the_log() {
    let extracted = Db::pg(&table(EXTRACTED, OF_PG)).await;
    there_and_back(extracted, Capture::Replication).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn to_the_texts_of_sqlite_and_back() {
    let extracted = Db::lite(&table(
        EXTRACTED,
        "d text, n text, o text, ds text, ns text",
    ))
    .await;
    there_and_back(extracted, Capture::Triggers).await;
}

/// MariaDB has none of them but the first year's, so their rows are parked, and come when they are
/// given others.
#[tokio::test(flavor = "multi_thread")]
async fn to_mariadb_they_are_parked() {
    let legacy = Db::pg("CREATE TABLE vals (id int PRIMARY KEY, price numeric(12,2), d date, n timestamp, o timestamptz)").await;
    let extracted = Db::my(
        "CREATE TABLE vals (id int PRIMARY KEY, cents bigint, d date, n datetime(6), o timestamp(6) NULL)",
    )
    .await;
    let insert = async |from: usize| {
        for (at, [d, n, o]) in TIMES.iter().enumerate().filter(|(at, _)| *at != 4) {
            // Each by itself, that none is parked for another.
            for (nth, value) in [d, n, o].into_iter().enumerate() {
                let id = from + 3 * at + nth;
                let mut values = ["NULL".to_owned(), "NULL".to_owned(), "NULL".to_owned()];
                values[nth] = format!("'{value}'");
                let text = format!("INSERT INTO vals VALUES ({id}, 1, {})", values.join(", "));
                legacy.execute(&text).await;
            }
        }
    };
    insert(0).await;
    let mut spec = read(&legacy, &extracted, Capture::Triggers);
    spec.tables[0].columns.truncate(5);
    let link = following(spec).await;
    parked(&link, 18).await;
    insert(100).await;
    parked(&link, 36).await;
    assert_eq!(extracted.number("SELECT count(*) FROM vals").await, 0);
    let why = reasons(&link).await;
    for value in ["infinity", "0044-03-15 12:00:00.5 BC", "10000-01-01"] {
        assert!(why.contains(value), "{value}: {why}");
    }
    let report = link.verify().await.unwrap();
    assert_eq!(report.different, 36, "{:?}", report.differences);
    legacy
        .execute("UPDATE vals SET d = '2024-02-29', n = '2024-02-29', o = '2024-02-29Z'")
        .await;
    parked(&link, 0).await;
    says(
        &extracted,
        "SELECT count(*) FROM vals WHERE n = '2024-02-29'",
        36,
    )
    .await;
    verified(&link).await;
    link.shutdown().await;
}

/// As keys they name their rows, in whatever session these are written.
async fn as_keys(capture: Capture) {
    let tables =
        "CREATE TABLE at (o timestamptz, n timestamp, price numeric(12,2), PRIMARY KEY (o, n))";
    let legacy = Db::pg(tables).await;
    let extracted = Db::pg(&tables.replace("price numeric(12,2)", "cents bigint")).await;
    let insert = |price: u32| {
        let one = |[_, n, o]: &[&str; 3]| format!("('{o}', '{n}', {price})");
        let all: Vec<String> = TIMES.iter().map(one).collect();
        format!("INSERT INTO at VALUES {}", all.join(", "))
    };
    legacy.execute(&insert(1)).await;
    let mut link = read(&legacy, &extracted, capture);
    let price = Source::Cents {
        from: "price".to_owned(),
        scale: 2,
    };
    let columns = vec![("o", same("o")), ("n", same("n")), ("cents", price)];
    link.tables = vec![entry("at", "at", columns)];
    link.tables[0].key = vec!["o".to_owned(), "n".to_owned()];
    let link = following(link).await;
    let all = i64::try_from(TIMES.len()).unwrap();
    says(&extracted, "SELECT count(*) FROM at WHERE cents = 100", all).await;
    let session = "BEGIN; SET LOCAL datestyle = 'SQL, DMY'; SET LOCAL timezone = 'Asia/Kathmandu'";
    legacy
        .execute(&format!("{session}; UPDATE at SET price = 2; COMMIT"))
        .await;
    says(&extracted, "SELECT count(*) FROM at WHERE cents = 200", all).await;
    verified(&link).await;
    legacy.execute("DELETE FROM at").await;
    says(&extracted, "SELECT count(*) FROM at", 0).await;
    legacy.execute(&insert(3)).await;
    says(&extracted, "SELECT count(*) FROM at WHERE cents = 300", all).await;
    cut_over(&link, Side::Extracted).await;
    extracted
        .execute(&format!("{session}; UPDATE at SET cents = 400; COMMIT"))
        .await;
    says(&legacy, "SELECT count(*) FROM at WHERE price = 4", all).await;
    extracted.execute("DELETE FROM at WHERE isfinite(o)").await;
    says(&legacy, "SELECT count(*) FROM at", 2).await;
    none_parked(&link).await;
    verified(&link).await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_keys_by_triggers() {
    as_keys(Capture::Triggers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_keys_by_the_log() {
    as_keys(Capture::Replication).await;
}

/// A session that writes may show dates and spans of time in its own way: `03/04/2024` names another day.
#[tokio::test(flavor = "multi_thread")]
async fn as_keys_in_whatever_way_a_session_shows_them() {
    let tables = "CREATE TABLE at (d date, span interval, ds tstzrange, price numeric(12,2), PRIMARY KEY (d, span, ds))";
    let legacy = Db::pg(tables).await;
    let extracted = Db::pg(&tables.replace("price numeric(12,2)", "cents bigint")).await;
    let price = Source::Cents {
        from: "price".to_owned(),
        scale: 2,
    };
    let mut columns: Vec<(&str, Source)> = ["d", "span", "ds"].map(|at| (at, same(at))).into();
    columns.push(("cents", price));
    let mut table = entry("at", "at", columns);
    table.key = ["d", "span", "ds"].map(str::to_owned).into();
    let link = following(spec(&legacy, &extracted, vec![table])).await;
    let session = "BEGIN; SET LOCAL datestyle = 'SQL, DMY'; SET LOCAL intervalstyle = 'sql_standard'; \
                   SET LOCAL timezone = 'Asia/Kathmandu'";
    let key = |day: &str| format!("'{day}', '1 year -2 days', '[2024-04-03 12:00Z,infinity)'");
    for (at, day) in ["2024-04-03", "2024-04-13", "infinity", "0044-03-15 BC"]
        .into_iter()
        .enumerate()
    {
        let text = format!(
            "{session}; INSERT INTO at VALUES ({}, {at}); COMMIT",
            key(day)
        );
        legacy.execute(&text).await;
        let there = format!(
            "SELECT count(*) FROM at WHERE (d, span, ds) = ({}) AND cents = {at}00",
            key(day)
        );
        says(&extracted, &there, 1).await;
    }
    verified(&link).await;
    legacy
        .execute(&format!(
            "{session}; DELETE FROM at WHERE isfinite(d); COMMIT"
        ))
        .await;
    says(&extracted, "SELECT count(*) FROM at", 1).await;
    none_parked(&link).await;
    link.shutdown().await;
}

/// No clock of an offset shows them for sure, so they are parked in both directions.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_time_of_no_calendar_is_parked() {
    let legacy = Db::pg("CREATE TABLE vals (id int PRIMARY KEY, n timestamp)").await;
    let extracted = Db::pg("CREATE TABLE vals (id int PRIMARY KEY, o timestamptz)").await;
    let local = Source::LocalTime {
        from: "n".to_owned(),
        offset: 3_600,
    };
    let columns = vec![("id", same("id")), ("o", local)];
    let link = following(spec(
        &legacy,
        &extracted,
        vec![entry("vals", "vals", columns)],
    ))
    .await;
    let insert = |column: usize| {
        let one = |(at, times): (usize, &[&str; 3])| format!("({at}, '{}')", times[column]);
        let all: Vec<String> = TIMES.iter().enumerate().map(one).collect();
        format!("INSERT INTO vals VALUES {}", all.join(", "))
    };
    legacy.execute(&insert(1)).await;
    // Midnight of the first day of all has no time an hour earlier, either.
    parked(&link, 7).await;
    let why = reasons(&link).await;
    assert!(why.contains("'infinity'") && why.contains("BC"), "{why}");
    assert_eq!(extracted.number("SELECT count(*) FROM vals").await, 0);
    assert_eq!(link.verify().await.unwrap().different, 7);
    legacy.execute("DELETE FROM vals").await;
    parked(&link, 0).await;
    cut_over(&link, Side::Extracted).await;
    extracted.execute(&insert(2)).await;
    eventually("those beyond the calendar to be parked", WAIT, || async {
        (link.evidence()?.parked >= 6).then_some(())
    })
    .await;
    let gone = "SELECT count(*) FROM vals WHERE n IS NULL OR NOT isfinite(n)";
    assert_eq!(legacy.number(gone).await, 0);
    link.shutdown().await;
}
