//! Every class of values, every kind of key, and references, with PostgreSQL on both sides or one.

use outgrow_bridge::{ColumnSpec, Link, LinkSpec, Source, TableSpec};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{Postgres, TempDatabase, eventually};
use sqlx::AssertSqlSafe;

use crate::shop::{WAIT, copied, quick};
use crate::turning::cut_over;

/// A table under the same name and columns on both sides.
pub(crate) fn same(name: &str, key: &[&str], columns: &[&str]) -> TableSpec {
    TableSpec {
        legacy: name.to_owned(),
        extracted: name.to_owned(),
        key: key.iter().map(|&column| column.to_owned()).collect(),
        columns: columns
            .iter()
            .map(|&column| ColumnSpec {
                extracted: column.to_owned(),
                source: Source::Rename(column.to_owned()),
            })
            .collect(),
        defaults: Vec::new(),
        ..TableSpec::default()
    }
}

pub(crate) fn spec(legacy: &str, extracted: &str, tables: Vec<TableSpec>) -> LinkSpec {
    LinkSpec {
        slice: "things".parse().unwrap(),
        legacy: legacy.parse().unwrap(),
        extracted: extracted.parse().unwrap(),
        tables,
        writes: outgrow_bridge::Writes::One,
        limits: quick(),
    }
}

async fn rows(server: &Postgres, table: &str) -> Vec<String> {
    let text = format!("SELECT every_::text FROM {table} AS every_ ORDER BY 1");
    sqlx::query_scalar(AssertSqlSafe(text))
        .fetch_all(server.pool())
        .await
        .unwrap()
}

async fn equal(a: &Postgres, b: &Postgres, table: &str) {
    let seen = std::sync::Mutex::new(String::new());
    let alike = eventually("both tables to be equal", 2 * WAIT, || async {
        let (a, b) = (rows(a, table).await, rows(b, table).await);
        let differs = a.iter().zip(&b).find(|(a, b)| a != b);
        *seen.lock().unwrap() = format!("{} and {} rows, {differs:#?}", a.len(), b.len());
        (a == b).then_some(())
    });
    let alike = tokio::time::timeout(WAIT, alike).await;
    assert!(alike.is_ok(), "{table}: {}", seen.lock().unwrap());
}

pub(crate) const VALUES: &str = "CREATE TYPE mood AS ENUM ('sad', 'it''s ok'); CREATE TABLE vals (id int PRIMARY KEY, \
    a smallint, b bigint, c numeric, d numeric(12,4), e real, f double precision, g text, h varchar(20), \
    i char(5), j bytea, k uuid, l date, m time, n timestamp, o timestamptz, p boolean, q json, r jsonb, \
    s int[], t interval, u inet, v mood, w bit(5))";
pub(crate) const ROWS: &str = "INSERT INTO vals VALUES \
    (1, -32768, -9223372036854775808, 123456789012345678901234567890.123456789, -99999999.9999, 0.1, 1e-300, \
     E'tab\\t \"q\" ''s'' \\u00e9 \\U0001F600', 'v', 'c', '\\x00ff10', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', \
     '2024-02-29', '23:59:59.999999', '2024-02-29 23:59:59.1', '2024-02-29 23:59:59.123456+05:30', true, \
     '{\"b\": 1,  \"a\": [1.10, null]}', '{\"b\": 1, \"a\": [1.10, null]}', '{1,NULL,3}', '1 year 2 days 03:04:05.6', \
     '10.0.0.1/8', 'it''s ok', B'10110'), \
    (2, 32767, 9223372036854775807, 0, 0.0001, -3.4e38, 'NaN', '', '', '', '', NULL, '0001-01-01', '00:00', \
     '0001-01-01 00:00:00', '1970-01-01 00:00:00Z', false, '[]', '[]', '{}', '0', '::1', 'sad', B'00000'), \
    (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
     NULL, NULL, NULL, NULL, NULL, NULL), \
    (4, 0, 0, 1e20, 1.5, 16777217, 9007199254740993, '?', '$1', 'abcde', '\\x3f', \
     '00000000-0000-0000-0000-000000000000', '9999-12-31', '12:00:00.5', '9999-12-31 23:59:59.999999', \
     '2038-01-19 03:14:07.10+00', true, 'null', '\"x\"', '{-1}', '-3 mons', '192.168.0.0/24', 'sad', B'11111')";
pub(crate) const COLUMNS: [&str; 24] = [
    "id", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r",
    "s", "t", "u", "v", "w",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_type_comes_over_as_it_is_and_back() {
    let (legacy, extracted) = (Postgres::with(VALUES).await, Postgres::with(VALUES).await);
    legacy.execute(ROWS).await;
    let link = Link::open(spec(
        &legacy.url(),
        &extracted.url(),
        vec![same("vals", &["id"], &COLUMNS)],
    ))
    .await
    .unwrap();
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    equal(&legacy, &extracted, "vals").await;
    assert_eq!(link.evidence().unwrap().parked, 0);
    assert_eq!(link.verify().await.unwrap().different, 0);
    let before = rows(&legacy, "vals").await;
    cut_over(&link, Side::Extracted).await;
    // Each row goes back whole, unchanged in every other column.
    extracted.execute("UPDATE vals SET id = id + 10").await;
    equal(&legacy, &extracted, "vals").await;
    extracted.execute("UPDATE vals SET id = id - 10").await;
    equal(&legacy, &extracted, "vals").await;
    assert_eq!(rows(&legacy, "vals").await, before);
    link.shutdown().await;
}

/// Through SQLite, which knows five types, and back.
#[tokio::test(flavor = "multi_thread")]
async fn plain_types_survive_another_engine() {
    let columns = ["id", "b", "d", "f", "g", "j", "k", "n", "o", "p"];
    let legacy = Postgres::with(
        "CREATE TABLE vals (id int PRIMARY KEY, b bigint, d numeric(12,4), f double precision, g text, \
         j bytea, k uuid, n timestamp, o timestamptz, p boolean); INSERT INTO vals VALUES \
         (1, -9223372036854775808, -99999999.9999, 1e-300, 'it''s \u{e9}', '\\x00ff', \
          'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '2024-02-29 23:59:59.1', '2024-02-29 23:59:59.123456+05:30', true), \
         (2, 9223372036854775807, 0, -0.5, '', '', NULL, '1970-01-01', '1970-01-01Z', false), \
         (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    )
    .await;
    let extracted = TempDatabase::with(
        "CREATE TABLE vals (id integer PRIMARY KEY, b integer, d text, f real, g text, j blob, k text, \
         n text, o text, p integer)",
    )
    .await;
    let before = rows(&legacy, "vals").await;
    let tables = vec![same("vals", &["id"], &columns)];
    let link = Link::open(spec(&legacy.url(), &extracted.url(), tables))
        .await
        .unwrap();
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    let exact = "SELECT count(*) FROM vals WHERE d = '-99999999.9999' AND b = -9223372036854775808 \
                 AND o = '2024-02-29T18:29:59.123456Z' AND hex(j) = '00FF' AND p = 1";
    assert_eq!(extracted.number(exact).await, 1);
    cut_over(&link, Side::Extracted).await;
    for to in ["id + 10", "id - 10"] {
        extracted
            .execute(&format!("UPDATE vals SET id = {to}"))
            .await;
        let gone = if to == "id + 10" {
            "id < 10"
        } else {
            "id > 10"
        };
        let text = format!("SELECT count(*) FROM vals WHERE {gone}");
        eventually("the rows to move", WAIT, || async {
            (legacy.number(&text).await == 0).then_some(())
        })
        .await;
    }
    eventually("all of them", WAIT, || async {
        (rows(&legacy, "vals").await == before).then_some(())
    })
    .await;
    link.shutdown().await;
}

/// Composite keys, UUIDs, and text under a collation that is not binary, in small chunks.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_kind_are_walked_to_their_end() {
    let tables = "CREATE TABLE pairs (town text COLLATE \"en-x-icu\", n int, v text, PRIMARY KEY (town, n)); \
                  CREATE TABLE tokens (id uuid PRIMARY KEY, v text); \
                  CREATE TABLE days (day date, at timestamptz, v text, PRIMARY KEY (day, at))";
    let (legacy, extracted) = (Postgres::with(tables).await, Postgres::with(tables).await);
    legacy
        .execute(
            "INSERT INTO pairs SELECT (ARRAY['abc', 'Abd', 'a-b', 'Zoe', 'z\u{fc}', '_x', ''])[1 + n % 7], n, 'v' || n \
             FROM generate_series(1, 900) n; \
             INSERT INTO tokens SELECT gen_random_uuid(), n FROM generate_series(1, 700) n; \
             INSERT INTO days SELECT date '2024-01-01' + n % 40, timestamptz '2024-01-01Z' + n * interval '1.5 s', n \
             FROM generate_series(1, 500) n",
        )
        .await;
    let tables = vec![
        same("pairs", &["town", "n"], &["town", "n", "v"]),
        same("tokens", &["id"], &["id", "v"]),
        same("days", &["day", "at"], &["day", "at", "v"]),
    ];
    let link = Link::open(spec(&legacy.url(), &extracted.url(), tables))
        .await
        .unwrap();
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    legacy
        .execute(
            "UPDATE pairs SET town = 'moved' WHERE n % 50 = 0; DELETE FROM tokens WHERE v::int % 9 = 0; \
             UPDATE days SET v = 'changed' WHERE day = '2024-01-05'",
        )
        .await;
    for table in ["pairs", "tokens", "days"] {
        equal(&legacy, &extracted, table).await;
    }
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

/// Parents, children and a table that refers to itself, by a user who may not turn checks off.
#[tokio::test(flavor = "multi_thread")]
async fn references_hold_without_a_superuser() {
    let tables = "CREATE TABLE parent (id int PRIMARY KEY, boss int REFERENCES parent(id), v text); \
                  CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent(id), v text); \
                  CREATE ROLE plain LOGIN; GRANT CREATE ON DATABASE postgres TO plain; \
                  ALTER TABLE parent OWNER TO plain; ALTER TABLE child OWNER TO plain";
    let (legacy, extracted) = (Postgres::with(tables).await, Postgres::with(tables).await);
    legacy
        .execute(
            "INSERT INTO parent SELECT n, CASE WHEN n % 5 = 0 THEN 1001 - n END, 'p' FROM generate_series(1, 1000) n; \
             INSERT INTO child SELECT n, 1001 - n, 'c' FROM generate_series(1, 1000) n",
        )
        .await;
    let link = Link::open(spec(
        &legacy.url_for("plain"),
        &extracted.url_for("plain"),
        vec![
            same("child", &["id"], &["id", "parent", "v"]),
            same("parent", &["id"], &["id", "boss", "v"]),
        ],
    ))
    .await
    .unwrap();
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    for n in 0..20 {
        legacy
            .execute(&format!(
                "BEGIN; INSERT INTO parent VALUES ({0}, NULL, 'new'); INSERT INTO child VALUES ({0}, {0}, 'new'); \
                 UPDATE child SET parent = {0} WHERE id = {n} + 1; COMMIT",
                2_000 + n
            ))
            .await;
    }
    copied(&link).await;
    for table in ["parent", "child"] {
        equal(&legacy, &extracted, table).await;
    }
    eventually("no row to be parked", WAIT, || async {
        (link.evidence()?.parked == 0).then_some(())
    })
    .await;
    link.shutdown().await;
}

/// The database would round it in silence; money is parked instead, until it fits.
#[tokio::test(flavor = "multi_thread")]
async fn a_decimal_that_does_not_fit_is_parked_and_never_rounded() {
    let legacy = Postgres::with("CREATE TABLE money (id int PRIMARY KEY, v numeric)").await;
    let extracted =
        Postgres::with("CREATE TABLE money (id int PRIMARY KEY, v numeric(10,2))").await;
    legacy
        .execute("INSERT INTO money VALUES (1, 2.5), (2, 1.505)")
        .await;
    let tables = vec![same("money", &["id"], &["id", "v"])];
    let link = Link::open(spec(&legacy.url(), &extracted.url(), tables))
        .await
        .unwrap();
    let found = link.preflight().await.unwrap();
    let text = format!("{:?}", found.problems);
    assert!(text.contains("`1.505` does not fit"), "{text}");
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    eventually("the parked row", WAIT, || async {
        (link.evidence()?.parked == 1).then_some(())
    })
    .await;
    assert_eq!(rows(&extracted, "money").await, ["(1,2.50)"]);
    legacy
        .execute("UPDATE money SET v = 1.500 WHERE id = 2")
        .await;
    eventually("the row that fits", WAIT, || async {
        let there = rows(&extracted, "money").await;
        (there == ["(1,2.50)", "(2,1.50)"]).then_some(())
    })
    .await;
    link.shutdown().await;
}
