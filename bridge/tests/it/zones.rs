//! Clock times of a named zone on the legacy side, instants on the other: summer, winter, and the two
//! hours a year that no instant has, or two have.

use std::collections::BTreeMap;

use outgrow_bridge::{Ambiguous, Link, LinkSpec, Source};
use outgrow_rollout::{DataPhase, Side};

use crate::mapping::{entry, following, parked, reasons, same, says, spec, verified};
use crate::mapping_keys::corrupt;
use crate::postgres::Db;
use crate::turning::cut_over;

fn berlin(ambiguous: Ambiguous) -> Source {
    Source::ZonedTime {
        from: "made".to_owned(),
        zone: "Europe/Berlin".parse().unwrap(),
        ambiguous,
    }
}

fn orders(legacy: &Db, extracted: &Db, ambiguous: Ambiguous) -> LinkSpec {
    let columns = vec![
        ("id", same("id")),
        ("made_at", berlin(ambiguous)),
        ("note", same("note")),
    ];
    spec(legacy, extracted, vec![entry("orders", "orders", columns)])
}

/// A table of an engine, with its type of a clock time or of an instant.
async fn table(engine: &str, column: &str, instant: bool) -> Db {
    let kind = match (engine, instant) {
        ("pg", true) => "timestamptz",
        ("pg", false) => "timestamp",
        ("my", true) => "timestamp(6) NULL",
        ("my", false) => "datetime(6)",
        _ => "text",
    };
    let tables =
        format!("CREATE TABLE orders (id int PRIMARY KEY, {column} {kind}, note varchar(20))");
    match engine {
        "pg" => Db::pg(&tables).await,
        "my" => Db::my(&tables).await,
        _ => Db::lite(&tables).await,
    }
}

/// What the tables' text says of an instant, in a condition.
fn is(engine: &str, column: &str, clock: &str) -> String {
    match (engine, column) {
        ("pg", "made_at") => format!("{column} = '{clock}Z'"),
        ("lite", "made_at") => format!("{column} = '{}Z'", clock.replace(' ', "T")),
        _ => format!("{column} = '{clock}'"),
    }
}

fn one(id: u32, condition: &str) -> String {
    format!("SELECT count(*) FROM orders WHERE id = {id} AND {condition}")
}

const TIMES: [(&str, &str); 4] = [
    ("2026-06-01 12:00:00", "2026-06-01 10:00:00"),
    ("2026-01-01 00:30:00", "2025-12-31 23:30:00"),
    ("2026-03-29 01:59:59", "2026-03-29 00:59:59"),
    ("2026-10-25 03:00:00", "2026-10-25 02:00:00"),
];
/// Shown twice, and never.
const TWICE: &str = "2026-10-25 02:30:00";
const NEVER: &str = "2026-03-29 02:30:00";
const FIRST: &str = "2026-10-25 00:30:00";
const SECOND: &str = "2026-10-25 01:30:00";

async fn summer_and_winter(from: &str, into: &str) {
    let legacy = table(from, "made", false).await;
    let extracted = table(into, "made_at", true).await;
    for (id, (local, _)) in TIMES.iter().enumerate() {
        let text = format!("INSERT INTO orders VALUES ({id}, '{local}', 'old')");
        legacy.execute(&text).await;
    }
    let link = following(orders(&legacy, &extracted, Ambiguous::Earlier)).await;
    for (id, (_, utc)) in (0..).zip(TIMES) {
        says(&extracted, &one(id, &is(into, "made_at", utc)), 1).await;
    }
    legacy
        .execute(&format!("INSERT INTO orders VALUES (10, '{TWICE}', 'new'), (11, '{NEVER}', 'new'), (12, NULL, 'new')"))
        .await;
    says(&extracted, &one(10, &is(into, "made_at", FIRST)), 1).await;
    says(&extracted, &one(12, "made_at IS NULL"), 1).await;
    parked(&link, 1).await;
    let why = reasons(&link).await;
    assert!(
        why.contains("'2026-03-29 02:30:00' was never shown by the clocks of Europe/Berlin"),
        "{why}"
    );
    legacy.execute("DELETE FROM orders WHERE id = 11").await;
    parked(&link, 0).await;
    verified(&link).await;
    // What is different is found, by rows, and mended.
    let later = is(into, "made_at", SECOND);
    corrupt(
        &extracted,
        &format!("UPDATE orders SET {later} WHERE id = 10"),
    )
    .await;
    let report = link.verify().await.unwrap();
    assert_eq!(report.different, 1, "{:?}", report.differences);
    let way = report.ways.values().next().unwrap();
    assert_eq!(way.by, "rows", "{:?}", report.ways);
    let repaired = link.repair(false).await.unwrap();
    assert_eq!((repaired.repaired, repaired.remaining), (1, 0));
    says(&extracted, &one(10, &is(into, "made_at", FIRST)), 1).await;
    // And back.
    cut_over(&link, Side::Extracted).await;
    for (id, (_, utc)) in (20..).zip(TIMES) {
        let value = is(into, "made_at", utc).replacen("made_at = ", "", 1);
        let text = format!("INSERT INTO orders (id, made_at, note) VALUES ({id}, {value}, 'back')");
        extracted.execute(&text).await;
    }
    for (id, (local, _)) in (20..).zip(TIMES) {
        says(&legacy, &one(id, &is(from, "made", local)), 1).await;
    }
    let set = |id: u32, utc: &str| {
        let set = is(into, "made_at", utc);
        format!("UPDATE orders SET {set}, note = 'set' WHERE id = {id}")
    };
    extracted.execute(&set(20, FIRST)).await;
    extracted.execute(&set(21, SECOND)).await;
    says(&legacy, &one(20, &is(from, "made", TWICE)), 1).await;
    parked(&link, 1).await;
    let why = reasons(&link).await;
    assert!(
        why.contains("'2026-10-25T01:30:00Z' is '2026-10-25 02:30:00' in Europe/Berlin, which would come back as"),
        "{why}"
    );
    says(&legacy, &one(21, "note = 'back'"), 1).await;
    extracted.execute(&set(21, "2026-10-25 02:30:00")).await;
    parked(&link, 0).await;
    verified(&link).await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_to_postgres() {
    summer_and_winter("my", "pg").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_to_mariadb() {
    summer_and_winter("pg", "my").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_to_sqlite() {
    summer_and_winter("lite", "lite").await;
}

/// Where nothing is said, nothing is guessed, and the check says so before anything is copied.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_guesses() {
    let legacy = table("my", "made", false).await;
    let extracted = table("pg", "made_at", true).await;
    legacy
        .execute(&format!("INSERT INTO orders VALUES (1, '{TWICE}', 'a'), (2, '{NEVER}', 'b'), (3, '2026-07-01 00:00:00', 'c')"))
        .await;
    let link = Link::open(orders(&legacy, &extracted, Ambiguous::Park));
    let link = link.await.unwrap();
    let found = link.preflight().await.unwrap();
    let said = |all: &[outgrow_bridge::Problem]| {
        let all = all.iter().map(ToString::to_string);
        all.collect::<Vec<_>>().join("\n")
    };
    let (problems, advice) = (said(&found.problems), said(&found.advice));
    for part in [
        "the row with key 1: orders.made: '2026-10-25 02:30:00' was shown twice by the clocks of Europe/Berlin",
        "the row with key 2: orders.made: '2026-03-29 02:30:00' was never shown by the clocks",
    ] {
        assert!(problems.contains(part), "{part}\nis not in\n{problems}");
    }
    let part = "`orders -> orders` column `made_at`: the clocks of Europe/Berlin show times twice, next from";
    assert!(advice.contains(part), "{part}\nis not in\n{advice}");
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    parked(&link, 2).await;
    let report = link.verify().await.unwrap();
    let kinds: BTreeMap<String, String> = report
        .differences
        .iter()
        .map(|d| (d.key.clone(), d.kind.to_string()))
        .collect();
    let known = [("1", "unmappable"), ("2", "unmappable")];
    let known = known.map(|(key, kind)| (key.to_owned(), kind.to_owned()));
    assert_eq!(kinds, BTreeMap::from(known), "each with its reason");
    link.shutdown().await;
}
