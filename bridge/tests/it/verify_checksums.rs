//! Checksums say just what the comparison of rows says, for every type that has one and for what
//! the mapping makes: equal rows have equal sums, and no change of a single column passes.

use std::collections::BTreeSet;

use outgrow_bridge::{Link, LinkSpec, TableSpec, VerifyOptions, VerifyReport};
use outgrow_rollout::{DataPhase, Side};

use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::postgres::{Db, EXTRACTED_PG, LEGACY_PG, items, tables};
use crate::postgres_values::{COLUMNS, ROWS, VALUES, same, spec};
use crate::shop::copied;

/// A link whose rows are all copied, with a copy of them beside the extracted table.
async fn linked(spec: LinkSpec, extracted: &Db, table: &str) -> Link {
    let link = Link::open(spec).await.unwrap();
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    let keep = format!("CREATE TABLE kept AS SELECT * FROM {table}");
    extracted.execute(&keep).await;
    link
}

/// A statement that no trigger notes and no fence refuses, as a broken disk would.
async fn corrupt(db: &Db, statement: &str) {
    let text = match db {
        Db::Pg(_) => format!(
            "SET session_replication_role = replica; {statement}; SET session_replication_role = DEFAULT"
        ),
        Db::My(_) => {
            format!("SET @outgrow_applying = 'things'; {statement}; SET @outgrow_applying = NULL")
        }
        Db::Lite(_) => statement.to_owned(),
    };
    db.execute(&text).await;
}

fn found(report: &VerifyReport) -> BTreeSet<(String, Vec<String>)> {
    let one = |d: &outgrow_bridge::Difference| {
        let columns = d.columns.iter().map(|c| c.column.clone());
        (format!("{} {}", d.kind, d.key), columns.collect())
    };
    report.differences.iter().map(one).collect()
}

/// What both ways find, which must be the same.
pub(crate) async fn alike(link: &Link, what: &str) -> BTreeSet<(String, Vec<String>)> {
    let by_rows = VerifyOptions {
        by_rows: true,
        ..VerifyOptions::default()
    };
    let rows = link.verify_with(&by_rows).await.unwrap();
    let sums = link.verify().await.unwrap();
    assert!(
        sums.ways.values().all(|way| way.by == "checksums"),
        "{what}: {:?}",
        sums.ways
    );
    assert!(rows.ways.values().all(|way| way.by == "rows"), "{what}");
    assert_eq!(found(&sums), found(&rows), "{what}");
    assert_eq!(sums.tables, rows.tables, "{what}");
    found(&sums)
}

/// Nothing differs, and no row had to be read for that.
pub(crate) async fn proven(link: &Link, what: &str) {
    assert!(alike(link, what).await.is_empty(), "{what}");
    let report = link.verify().await.unwrap();
    assert_eq!((report.different, report.read_rows), (0, 0), "{what}");
    assert!(report.looked_at > 0, "{what}");
}

/// Every column in turn gets the value of another row, NULL, and a value where there was none.
async fn every_column(link: &Link, extracted: &Db, table: &str, columns: &[&str]) {
    proven(link, "before").await;
    for column in columns {
        let other = |row: u32, from: u32| {
            format!(
                "UPDATE {table} SET {column} = (SELECT o.{column} FROM kept AS o WHERE o.id = {from}) \
                 WHERE id = {row}"
            )
        };
        let mut differed = 0;
        for (row, from) in [(1, 2), (2, 1), (1, 3), (3, 2), (4, 1)] {
            let what = format!("{table}.{column} of {row} as of {from}");
            corrupt(extracted, &other(row, from)).await;
            let found = alike(link, &what).await;
            let expected = (format!("different {row}"), vec![(*column).to_owned()]);
            // Two rows may have one value in common.
            assert!(found.iter().all(|f| *f == expected), "{what}: {found:?}");
            differed += found.len();
            corrupt(extracted, &other(row, row)).await;
        }
        assert!(
            differed >= 3,
            "{table}.{column}: {differed} changes were seen"
        );
    }
    proven(link, "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_postgres() {
    let (legacy, extracted) = (Db::pg(VALUES).await, Db::pg(VALUES).await);
    legacy.execute(ROWS).await;
    let tables = vec![same("vals", &["id"], &COLUMNS)];
    let spec = spec(&legacy.url(), &extracted.url(), tables);
    let link = linked(spec, &extracted, "vals").await;
    every_column(&link, &extracted, "vals", &COLUMNS[1..]).await;
    link.shutdown().await;
}

const PAIRED: &str = "CREATE COLLATION loose (provider = icu, deterministic = false, locale = 'und-u-ks-level2'); \
    CREATE TABLE paired (id int PRIMARY KEY, fixed numeric(10,2), any_scale numeric, double float8, single real, \
    word text COLLATE loose, raw bytea, doc jsonb, took interval, many int[], flag bool, number bigint, at timetz, \
    padded char(4), short varchar(9), moment timestamptz, clock time)";

/// Values that are easily taken for each other: some are equal to PostgreSQL, of some its hash
/// functions make the same.
const PAIRS: [(&str, &str, &str); 28] = [
    ("fixed", "12.50", "-12.50"),
    ("fixed", "'-0.01'", "0.01"),
    ("any_scale", "-7", "7"),
    ("fixed", "0", "NULL"),
    ("fixed", "'NaN'", "NULL"),
    ("fixed", "'NaN'", "0"),
    ("any_scale", "1.0", "1.00"),
    ("any_scale", "0", "NULL"),
    ("double", "0", "'-0'"),
    ("double", "0", "NULL"),
    ("single", "0", "'-0'"),
    ("single", "'NaN'", "NULL"),
    ("word", "'A'", "'a'"),
    ("word", "''", "NULL"),
    ("short", "'x'", "'x '"),
    ("raw", "''", "NULL"),
    ("doc", "'1.0'", "'1.00'"),
    ("took", "'1 month'", "'30 days'"),
    ("took", "'24:00'", "'1 day'"),
    ("many", "'{1,2}'", "'[2:3]={1,2}'"),
    ("flag", "false", "NULL"),
    ("number", "-1", "4294967295"),
    ("number", "0", "NULL"),
    ("number", "4294967296", "1"),
    ("at", "'12:00+00'", "'13:00+01'"),
    // One has in the lower half of its 64 bits what the other has in the upper.
    (
        "moment",
        "'2000-01-01 00:00:00.000001'",
        "'2000-01-01 01:11:34.967296'",
    ),
    ("clock", "'00:00:00.000001'", "'01:11:34.967296'"),
    ("clock", "'00:00'", "NULL"),
];

/// Values change places between two rows, so that what both have in sum is the same.
#[tokio::test(flavor = "multi_thread")]
async fn values_that_are_easily_taken_for_each_other() {
    let (legacy, extracted) = (Db::pg(PAIRED).await, Db::pg(PAIRED).await);
    for (at, (column, one, two)) in PAIRS.iter().enumerate() {
        let text = format!(
            "INSERT INTO paired (id, padded, {column}) VALUES ({}, 'p', {one}), ({}, 'p', {two})",
            2 * at,
            2 * at + 1
        );
        legacy.execute(&text).await;
    }
    let columns = [
        "id",
        "fixed",
        "any_scale",
        "double",
        "single",
        "word",
        "raw",
        "doc",
        "took",
        "many",
        "flag",
        "number",
        "at",
        "padded",
        "short",
        "moment",
        "clock",
    ];
    let tables = vec![same("paired", &["id"], &columns)];
    let link = linked(
        spec(&legacy.url(), &extracted.url(), tables),
        &extracted,
        "paired",
    )
    .await;
    proven(&link, "before").await;
    for (at, (column, one, two)) in PAIRS.iter().enumerate() {
        let what = format!("{column}: {one} and {two}");
        let changed = |first: &str, second: &str| {
            let set =
                |id: usize, value| format!("UPDATE paired SET {column} = {value} WHERE id = {id}");
            format!("{}; {}", set(2 * at, first), set(2 * at + 1, second))
        };
        corrupt(&extracted, &changed(two, one)).await;
        let found = alike(&link, &what).await;
        assert_eq!(found.len(), 2, "{what}: {found:?}");
        corrupt(&extracted, &changed(one, two)).await;
    }
    proven(&link, "after").await;
    link.shutdown().await;
}

const MARIADB: &str = "CREATE TABLE vals (id int PRIMARY KEY, a tinyint, b bigint, c bigint unsigned, \
    d decimal(12,4), g text, h varchar(20) CHARACTER SET latin1, i char(5), j varbinary(20), l date, m time(6), \
    n datetime(6), o timestamp(6) NULL, p boolean, q longtext, s set('x','y'), v enum('sad','it''s|ok'), w bit(5), \
    u uuid)";
const AS_POSTGRES: &str = "CREATE TABLE vals (id int PRIMARY KEY, a smallint, b bigint, c numeric(20,0), \
    d numeric(14,6), g text, h varchar(20), i char(5), j bytea, l date, m text, n timestamp, o timestamptz, p smallint, \
    q text, s text, v text, w int, u uuid)";
const MARIADB_ROWS: &str = "SET time_zone = '+00:00'; INSERT INTO vals VALUES \
    (1, -128, -9223372036854775808, 18446744073709551615, -99999999.9999, 'a|b^c\\\\ \u{e9} \u{1f600} \"q\"', 'v\u{e9}', 'c', \
     x'00ff10', '2024-02-29', '23:59:59.999999', '2024-02-29 23:59:59.1', '2024-02-29 23:59:59.123456', true, \
     '{\"b\": 1,  \"a\": [1.10, null]}', 'x,y', 'it''s|ok', b'10110', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'), \
    (2, 127, 9223372036854775807, 0, 0.0001, '', '', '', '', '1000-01-01', '00:00:00', '1000-01-01 00:00:00', \
     '1970-01-02 00:00:00', false, '[]', '', 'sad', b'00000', '00000000-0000-0000-0000-000000000000'), \
    (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL), \
    (4, 0, 0, 1, 1.5, '^N', 'abc', 'abcde', x'3f', '9999-12-31', '12:00:00.5', '9999-12-31 23:59:59.999999', \
     '2038-01-18 03:14:07.1', true, 'null', 'y', 'sad', b'11111', 'ffffffff-ffff-ffff-ffff-ffffffffffff')";
const MARIADB_COLUMNS: [&str; 19] = [
    "id", "a", "b", "c", "d", "g", "h", "i", "j", "l", "m", "n", "o", "p", "q", "s", "v", "w", "u",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_mariadb() {
    for there in ["mariadb", "postgres"] {
        let legacy = Db::my(MARIADB).await;
        legacy.execute(MARIADB_ROWS).await;
        let extracted = match there {
            "mariadb" => Db::my(MARIADB).await,
            _ => Db::pg(AS_POSTGRES).await,
        };
        let tables = vec![same("vals", &["id"], &MARIADB_COLUMNS)];
        let spec = spec(&legacy.url(), &extracted.url(), tables);
        let link = linked(spec, &extracted, "vals").await;
        every_column(&link, &extracted, "vals", &MARIADB_COLUMNS[1..]).await;
        link.shutdown().await;
    }
}

/// Money, codes and local time between each two engines.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_mapping_makes() {
    let columns = ["sku", "price_cents", "state", "note", "made_at", "raw"];
    for (from, into) in [("pg", "pg"), ("my", "pg"), ("pg", "my"), ("my", "my")] {
        let legacy = match from {
            "pg" => Db::pg(LEGACY_PG).await,
            _ => Db::my(LEGACY_MY).await,
        };
        let extracted = match into {
            "pg" => Db::pg(EXTRACTED_PG).await,
            _ => Db::my(EXTRACTED_MY).await,
        };
        legacy.execute(&items(1, 300)).await;
        let mut tables: Vec<TableSpec> = tables();
        tables[0]
            .columns
            .retain(|column| column.extracted != "weight");
        tables[0].defaults = vec![("weight".to_owned(), outgrow_bridge::Cell::Null)];
        let mut spec = spec(&legacy.url(), &extracted.url(), tables);
        spec.limits.verify_rows = 40;
        let link = linked(spec, &extracted, "article").await;
        proven(&link, &format!("{from} to {into}")).await;
        for column in columns {
            // Two codes have other values in one of the two; `sku` is unique.
            let set = match column {
                "sku" => "concat(sku, '|')".to_owned(),
                "raw" => "CASE WHEN id < 0 THEN raw END".to_owned(),
                other => format!("(SELECT o.{other} FROM kept AS o WHERE o.id = 3)"),
            };
            let to = if column == "raw" { 77 } else { 76 };
            let text = format!("UPDATE article SET {column} = {set} WHERE id = {to}");
            corrupt(&extracted, &text).await;
            let found = alike(&link, &format!("{from} to {into}: {column}")).await;
            let differs = usize::from(column != "raw");
            assert_eq!(
                found.len(),
                differs,
                "{from} to {into}: {column}: {found:?}"
            );
            let back = format!(
                "UPDATE article SET {column} = (SELECT o.{column} FROM kept AS o WHERE o.id = {to}) WHERE id = {to}"
            );
            corrupt(&extracted, &back).await;
        }
        corrupt(&extracted, "DELETE FROM article WHERE id IN (1, 300)").await;
        corrupt(&legacy, "DELETE FROM item WHERE id = 150").await;
        let found = alike(&link, "missing and extra").await;
        let kinds: Vec<&str> = found.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, ["extra 150", "missing 1", "missing 300"]);
        // The article goes, and the two come.
        let done = link.repair(false).await.unwrap();
        assert_eq!((done.repaired, done.remaining), (3, 0));
        proven(&link, "mended").await;
        link.shutdown().await;
    }
}
