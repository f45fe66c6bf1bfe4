//! Two SQLite files compared by a join: whatever reading the rows finds, it finds, and what is equal
//! needs no row to be read.

use std::collections::BTreeSet;

use outgrow_bridge::{Capture, Cell, Link, Source, TableSpec, VerifyOptions, VerifyReport};
use outgrow_rollout::Side;

use crate::mapping::{entry, following, same, spec};
use crate::mapping_keys::corrupt;
use crate::postgres::Db;
use crate::turning::cut_over;

fn found(report: &VerifyReport) -> BTreeSet<(String, Vec<String>)> {
    let one = |d: &outgrow_bridge::Difference| {
        let columns = d.columns.iter().map(|c| c.column.clone());
        let kind = format!("{} {} {}", d.extracted, d.kind, d.key);
        (kind, columns.collect())
    };
    report.differences.iter().map(one).collect()
}

/// What both ways find, which must be the same.
async fn alike(link: &Link, what: &str) -> VerifyReport {
    let by_rows = VerifyOptions {
        by_rows: true,
        ..VerifyOptions::default()
    };
    let rows = link.verify_with(&by_rows).await.unwrap();
    let joins = link.verify().await.unwrap();
    let ways = &joins.ways;
    assert!(
        ways.values().all(|way| way.by == "joins"),
        "{what}: {ways:?}"
    );
    assert!(rows.ways.values().all(|way| way.by == "rows"), "{what}");
    assert_eq!(found(&joins), found(&rows), "{what}");
    assert_eq!(joins.tables, rows.tables, "{what}");
    joins
}

async fn proven(link: &Link, what: &str) {
    let report = alike(link, what).await;
    assert_eq!((report.different, report.read_rows), (0, 0), "{what}");
    assert!(report.looked_at > 0, "{what}");
}

const LEGACY: &str = "CREATE TABLE vals (id integer PRIMARY KEY, whole integer, number numeric, word text, part real, any_, \
    price text, amount real, cost integer, state text, made text, code integer, digits text, size integer, kind text)";
const EXTRACTED: &str = "CREATE TABLE vals (id integer PRIMARY KEY, whole integer, number numeric, word text COLLATE NOCASE, part real, any_, \
    price integer, amount integer, cost integer, state text, made text, code text, digits integer, size real, fixed text); \
    CREATE TABLE odd (id integer PRIMARY KEY, word text)";
const ROWS: &str = "INSERT INTO vals VALUES \
    (1, 5, 5, '5', 5, 5, '12.90', 12.9, 7, 'A', '2026-03-29 02:30:00', 5, '5', 5, 'even'), \
    (2, -9223372036854775808, 0.1, 'a', -0.5, 'a', '-0.05', -0.05, -3, 'B', '2024-02-29 00:30:00', -7, '-7', -7, 'odd'), \
    (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'odd'), \
    (4, 0, 0, '', 0.0, x'35', '0.00', 0.0, 0, 'A', '1999-12-31 23:59:59', 0, '0', 0, 'even'), \
    (5, 9223372036854775807, 12.5, 'a' || char(0) || 'b', 1e300, -0.0, '9999999.99', 9999999.99, 12, 'B', '2026-06-01 12:00:00', 9223372036854775807, \
     '9223372036854775807', 12, 'odd')";
const COLUMNS: [&str; 13] = [
    "whole", "number", "word", "part", "any_", "price", "amount", "cost", "state", "made", "code",
    "digits", "size",
];
/// Values that are easily taken for one another.
const NASTY: [&str; 22] = [
    "NULL",
    "0",
    "5",
    "-7",
    "5.0",
    "'5'",
    "x'35'",
    "''",
    "x''",
    "'a'",
    "'A'",
    "'a' || char(0) || 'b'",
    "'a' || char(0) || 'c'",
    "0.0",
    "-0.0",
    "1290",
    "0.1",
    "0.1 + 0.2 - 0.2",
    "9223372036854775807",
    "9223372036854775807.0",
    "'ACTIVE'",
    "'2026-03-29T01:30:00Z'",
];

fn mapped() -> Vec<TableSpec> {
    let cents = |from: &str, scale| Source::Cents {
        from: from.to_owned(),
        scale,
    };
    let mut columns: Vec<(&str, Source)> = [
        "id", "whole", "number", "word", "part", "any_", "code", "digits", "size",
    ]
    .map(|name| (name, same(name)))
    .into();
    columns.extend([
        ("price", cents("price", 2)),
        ("amount", cents("amount", 2)),
        ("cost", cents("cost", 0)),
        (
            "state",
            Source::Map {
                from: "state".to_owned(),
                pairs: vec![
                    ("A".into(), "active".into()),
                    ("B".into(), "it's|off".into()),
                ],
            },
        ),
        (
            "made",
            Source::LocalTime {
                from: "made".to_owned(),
                offset: 3_600,
            },
        ),
        ("fixed", Source::Const("yes".into())),
    ]);
    let first = TableSpec {
        defaults: vec![("kind".to_owned(), Cell::from("even"))],
        ..entry("vals", "vals", columns)
    };
    vec![first]
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_easily_taken_for_another_value() {
    let (legacy, extracted) = (Db::lite(LEGACY).await, Db::lite(EXTRACTED).await);
    legacy.execute(ROWS).await;
    let mut limited = spec(&legacy, &extracted, mapped());
    limited.limits.verify_rows = 20;
    let link = following(limited).await;
    proven(&link, "before").await;
    corrupt(&extracted, "CREATE TABLE kept AS SELECT * FROM vals").await;
    let mut differed = 0;
    for column in COLUMNS {
        for (at, value) in NASTY.iter().enumerate() {
            let row = [1, 2, 4, 5][at % 4];
            let what = format!("{column} of {row} is {value}");
            corrupt(
                &extracted,
                &format!("UPDATE vals SET {column} = {value} WHERE id = {row}"),
            )
            .await;
            differed += alike(&link, &what).await.different;
            corrupt(
                &extracted,
                &format!("UPDATE vals SET {column} = (SELECT {column} FROM kept WHERE id = {row}) WHERE id = {row}"),
            )
            .await;
        }
    }
    assert!(differed > 200, "{differed} changes were seen");
    proven(&link, "after").await;
    corrupt(
        &extracted,
        "DELETE FROM vals WHERE id = 2; INSERT INTO vals (id, word) VALUES (77, 'extra')",
    )
    .await;
    corrupt(&legacy, "DELETE FROM vals WHERE id = 4").await;
    let report = alike(&link, "missing and extra").await;
    assert_eq!(report.different, 3, "{:?}", report.differences);
    assert_eq!(link.repair(false).await.unwrap().remaining, 0);
    proven(&link, "mended").await;
    // A constant is compared while rows flow from the legacy side, and not after.
    corrupt(&extracted, "UPDATE vals SET fixed = 'no' WHERE id = 1").await;
    assert_eq!(alike(&link, "a constant").await.different, 1);
    assert_eq!(link.repair(false).await.unwrap().remaining, 0);
    cut_over(&link, Side::Extracted).await;
    extracted
        .execute("UPDATE vals SET fixed = 'no' WHERE id = 1")
        .await;
    proven(&link, "turned").await;
    link.shutdown().await;
}

/// What SQL cannot surely compute is read, and is right all the same; such rows of a legacy table as
/// are not mapped are left out.
#[tokio::test(flavor = "multi_thread")]
async fn what_sql_cannot_tell_is_read() {
    let (legacy, extracted) = (Db::lite(LEGACY).await, Db::lite(EXTRACTED).await);
    // A time with a fraction of a second.
    legacy
        .execute("INSERT INTO vals (id, price, amount, made, digits, kind) VALUES (1, '12.90', 1e-1, '2026-01-01 00:00:00.5', '7', 'odd'), \
                  (2, '7.00', 3, '2026-01-01 00:00:00', '8', 'even')")
        .await;
    let link = following(spec(&legacy, &extracted, mapped())).await;
    let report = alike(&link, "read").await;
    assert_eq!(report.different, 0, "{:?}", report.differences);
    assert!(report.read_rows > 0);
    link.shutdown().await;
    let only = TableSpec {
        rows: Some(outgrow_bridge::RowFilter {
            column: "kind".to_owned(),
            values: vec!["odd".into()],
            not: false,
        }),
        ..entry(
            "vals",
            "odd",
            vec![("id", same("id")), ("word", same("word"))],
        )
    };
    let others = [
        "whole", "number", "part", "any_", "price", "amount", "cost", "state", "made", "code",
        "digits", "size",
    ];
    let only = TableSpec {
        defaults: others.map(|name| (name.to_owned(), Cell::Null)).into(),
        ..only
    };
    let (legacy, extracted) = (Db::lite(LEGACY).await, Db::lite(EXTRACTED).await);
    legacy.execute(ROWS).await;
    let mut spec = spec(&legacy, &extracted, vec![only]);
    spec.legacy = spec.legacy.capturing(Capture::Triggers).unwrap();
    let link = following(spec).await;
    proven(&link, "some rows").await;
    assert_eq!(extracted.number("SELECT count(*) FROM odd").await, 3);
    link.shutdown().await;
}

/// Keys of text, in the order of bytes, and of two columns.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_text_and_of_two_columns() {
    let table = "CREATE TABLE vals (a text, b integer, n integer, PRIMARY KEY (a, b))";
    let (legacy, extracted) = (Db::lite(table).await, Db::lite(table).await);
    let rows: Vec<String> = (0..300)
        .map(|n| {
            format!(
                "('{}{}', {n}, {n})",
                if n % 2 == 0 { "k" } else { "K" },
                n % 7
            )
        })
        .collect();
    legacy
        .execute(&format!("INSERT INTO vals VALUES {}", rows.join(", ")))
        .await;
    let tables = vec![crate::postgres_values::same(
        "vals",
        &["a", "b"],
        &["a", "b", "n"],
    )];
    let mut spec = spec(&legacy, &extracted, tables);
    spec.limits.verify_rows = 40;
    let link = following(spec).await;
    proven(&link, "many").await;
    corrupt(
        &extracted,
        "UPDATE vals SET a = 'k0' WHERE a = 'K0' AND b = 7",
    )
    .await;
    corrupt(&extracted, "UPDATE vals SET n = -1 WHERE b = 100").await;
    let report = alike(&link, "a key and a value").await;
    assert_eq!(report.different, 3, "{:?}", report.differences);
    assert!(
        report.read_rows < 30,
        "only the pieces that differ: {}",
        report.read_rows
    );
    link.shutdown().await;
}
