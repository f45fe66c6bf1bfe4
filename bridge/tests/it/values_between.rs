//! Values of every plain type between engines: they come over exactly, and go back as they were. What
//! has no counterpart is listed in `docs/databases.md`.

use outgrow_bridge::Link;
use outgrow_rollout::{DataPhase, Side};

use crate::mapping::{says, spec};
use crate::postgres::Db;
use crate::postgres_values::same;
use crate::shop::copied;
use crate::turning::cut_over;

/// All rows as this engine shows them.
async fn dump(db: &Db, columns: &[&str]) -> Vec<String> {
    let one = |column: &&str| match db {
        Db::Pg(_) => format!("coalesce({column}::text, '-')"),
        Db::My(_) => format!("coalesce(hex({column}), '-')"),
        Db::Lite(_) => format!("quote({column})"),
    };
    let all: Vec<String> = columns.iter().map(one).collect();
    let row = match db {
        Db::My(_) => format!("concat_ws('|', {})", all.join(", ")),
        Db::Pg(_) | Db::Lite(_) => all.join(" || '|' || "),
    };
    let text = sqlx::AssertSqlSafe(format!("SELECT {row} FROM vals ORDER BY id"));
    match db {
        Db::Lite(db) => sqlx::query_scalar(text).fetch_all(db.pool()).await,
        Db::Pg(db) => sqlx::query_scalar(text).fetch_all(db.pool()).await,
        Db::My(db) => sqlx::query_scalar(text).fetch_all(db.pool()).await,
    }
    .unwrap()
}

/// A legacy database with rows, an extracted one, and conditions under which the extracted one has
/// exactly what was meant, each of one row.
async fn between(legacy: Db, extracted: Db, columns: &[&str], exact: &[&str]) {
    let before = dump(&legacy, columns).await;
    let mut all = columns.to_vec();
    all.push("touched");
    let link = Link::open(spec(&legacy, &extracted, vec![same("vals", &["id"], &all)]))
        .await
        .unwrap();
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    let conflicts = serde_json::to_value(link.conflicts().await.unwrap()).unwrap();
    assert_eq!(
        link.evidence().unwrap().parked,
        0,
        "{}",
        conflicts["parked"]
    );
    for condition in exact {
        let query = format!("SELECT count(*) FROM vals WHERE {condition}");
        says(&extracted, &query, 1).await;
    }
    let report = link.verify().await.unwrap();
    assert_eq!(report.different, 0, "{:?}", report.differences);
    // Each row goes back whole.
    cut_over(&link, Side::Extracted).await;
    extracted.execute("UPDATE vals SET touched = 1").await;
    let rows = i64::try_from(before.len()).unwrap();
    says(&legacy, "SELECT count(*) FROM vals WHERE touched = 1", rows).await;
    assert_eq!(dump(&legacy, columns).await, before);
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

pub(crate) const MARIADB: &str = "CREATE TABLE vals (id int PRIMARY KEY, touched int, a tinyint, b smallint unsigned, c mediumint, d bigint, \
    e bigint unsigned, f decimal(12,4), g float, h double, i char(5), j varchar(40) CHARACTER SET utf8mb4, k longtext CHARACTER SET utf8mb4, \
    l varbinary(20), m longblob, n date, o time, p year, q datetime(6), r timestamp(6) NULL, s enum('sad', 'it''s ok'), \
    t set('x', 'y', 'z'), u json, v bit(1), w tinyint(1), x uuid); \
    INSERT INTO vals VALUES (1, 0, -128, 65535, -8388608, -9223372036854775808, 18446744073709551615, -99999999.9999, 0.1, 1e-300, 'ab', \
    'it''s é 😀', '\"a\\tb\"', x'00ff10', x'', '2024-02-29', '23:59:59', 2024, '2024-02-29 23:59:59.1', '2024-02-29 18:29:59.123456', \
    'it''s ok', 'x,z', '{\"b\": 1,  \"a\": [1.10, null]}', 1, 1, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'), \
    (2, 0, 127, 0, 8388607, 9223372036854775807, 0, 0.0001, -3.4e38, -0.5, '', '', '', x'', x'ff', '1000-01-01', '00:00:00', 1901, \
    '1000-01-01 00:00:00', '1970-01-01 00:00:01', 'sad', '', '[]', 0, 0, '00000000-0000-0000-0000-000000000000'), \
    (3, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)";
pub(crate) const OF_MARIADB: [&str; 25] = [
    "id", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r",
    "s", "t", "u", "v", "w", "x",
];

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_to_postgres() {
    let extracted = Db::pg(
        "CREATE TABLE vals (id int PRIMARY KEY, touched int, a smallint, b integer, c integer, d bigint, e numeric(20), f numeric(12,4), \
         g real, h double precision, i varchar(5), j text, k text, l bytea, m bytea, n date, o time, p smallint, q timestamp, \
         r timestamptz, s text, t text, u json, v boolean, w boolean, x uuid)",
    );
    let exact = [
        "a = -128 AND b = 65535 AND c = -8388608 AND d = -9223372036854775808 AND e = 18446744073709551615",
        "f = -99999999.9999 AND g = 0.1::real AND h = 1e-300 AND i = 'ab' AND j = 'it''s é 😀' AND k = E'\"a\\tb\"'",
        "l = '\\x00ff10' AND m = '' AND n = '2024-02-29' AND o = '23:59:59' AND p = 2024 AND q = '2024-02-29 23:59:59.1'",
        "r = '2024-02-29 18:29:59.123456Z' AND s = 'it''s ok' AND t = 'x,z' AND u::text = '{\"b\": 1,  \"a\": [1.10, null]}' AND v AND w",
        "a IS NULL AND e IS NULL AND j IS NULL AND q IS NULL AND r IS NULL AND v IS NULL AND x IS NULL",
    ];
    between(Db::my(MARIADB).await, extracted.await, &OF_MARIADB, &exact).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_to_sqlite() {
    let extracted = Db::lite(
        "CREATE TABLE vals (id integer PRIMARY KEY, touched integer, a integer, b integer, c integer, d integer, e text, f text, g real, \
         h real, i text, j text, k text, l blob, m blob, n text, o text, p integer, q text, r text, s text, t text, u text, \
         v integer, w integer, x text)",
    );
    let exact = [
        "a = -128 AND d = -9223372036854775808 AND e = '18446744073709551615' AND f = '-99999999.9999' AND g IS NOT NULL",
        "j = 'it''s é 😀' AND hex(l) = '00FF10' AND hex(m) = '' AND q = '2024-02-29 23:59:59.1' AND r = '2024-02-29T18:29:59.123456Z'",
        "a IS NULL AND e IS NULL AND l IS NULL AND r IS NULL AND x IS NULL",
    ];
    between(Db::my(MARIADB).await, extracted.await, &OF_MARIADB, &exact).await;
}

const POSTGRES: &str = "CREATE TABLE vals (id int PRIMARY KEY, touched int, a smallint, b bigint, c numeric(12,4), d numeric(30), e real, \
    f double precision, g text, h varchar(20), j bytea, k uuid, l date, m time(0), n timestamp, o timestamptz, p boolean, q json, r jsonb, \
    s int[], t interval, u inet); \
    INSERT INTO vals VALUES (1, 0, -32768, -9223372036854775808, -99999999.9999, 123456789012345678901234567890, 0.1, 1e-300, \
    E'tab\\t ''s'' \\u00e9 \\U0001F600', 'v', '\\x00ff10', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '2024-02-29', '23:59:59', \
    '2024-02-29 23:59:59.1', '2024-02-29 23:59:59.123456+05:30', true, '{\"b\": 1,  \"a\": [1.10, null]}', '{\"b\": 1}', '{1,NULL,3}', \
    '1 year 2 days 03:04:05.6', '10.0.0.1/8'), \
    (2, 0, 32767, 9223372036854775807, 0.0001, -1, -3.4e38, -0.5, '', '', '', '00000000-0000-0000-0000-000000000000', '1000-01-01', '00:00', \
    '1000-01-01 00:00:00', '1970-01-01 00:00:01Z', false, '[]', '[]', '{}', '0', '::1'), \
    (3, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)";
const OF_POSTGRES: [&str; 21] = [
    "id", "a", "b", "c", "d", "e", "f", "g", "h", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s",
    "t", "u",
];

#[tokio::test(flavor = "multi_thread")]
async fn postgres_to_mariadb() {
    let extracted = Db::my(
        "CREATE TABLE vals (id int PRIMARY KEY, touched int, a smallint, b bigint, c decimal(12,4), d decimal(30), e float, f double, \
         g longtext CHARACTER SET utf8mb4, h varchar(20), j longblob, k uuid, l date, m time, n datetime(6), o timestamp(6) NULL, p bit(1), \
         q json, r longtext, s text, t text, u varchar(50))",
    );
    let exact = [
        "a = -32768 AND b = -9223372036854775808 AND c = -99999999.9999 AND d = 123456789012345678901234567890 AND f = 1e-300",
        "g = concat('tab', char(9), ' ''s'' é 😀') AND hex(j) = '00FF10' AND l = '2024-02-29' AND m = '23:59:59' AND p = 1",
        "n = '2024-02-29 23:59:59.1' AND s = '{1,NULL,3}'",
        "u = '10.0.0.1/8' AND t LIKE '%1%2%5.6%'",
        "k = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11' AND q = '{\"b\": 1,  \"a\": [1.10, null]}'",
        "a IS NULL AND d IS NULL AND g IS NULL AND j IS NULL AND o IS NULL AND p IS NULL",
    ];
    between(
        Db::pg(POSTGRES).await,
        extracted.await,
        &OF_POSTGRES,
        &exact,
    )
    .await;
}

const SQLITE: &str = "CREATE TABLE vals (id integer PRIMARY KEY, touched integer, a integer, b real, c text, d blob, e numeric, f boolean); \
    INSERT INTO vals VALUES (1, 0, -9223372036854775808, 12345678.5, 'it''s é 😀', x'00ff10', 12, 1), (2, 0, 9223372036854775807, -0.5, '', x'', -1, 0), \
    (3, 0, NULL, NULL, NULL, NULL, NULL, NULL), (4, 0, 0, 0.1, 'a|b^c', x'ff', 0, 1)";
const OF_SQLITE: [&str; 7] = ["id", "a", "b", "c", "d", "e", "f"];

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_to_postgres() {
    let extracted = Db::pg(
        "CREATE TABLE vals (id int PRIMARY KEY, touched int, a bigint, b double precision, c text, d bytea, e bigint, f boolean)",
    );
    let exact = [
        "a = -9223372036854775808 AND b = 12345678.5 AND c = 'it''s é 😀' AND d = '\\x00ff10' AND e = 12 AND f",
        "b = 0.1 AND c = 'a|b^c' AND d = '\\xff'",
        "a IS NULL AND b IS NULL AND c IS NULL AND d IS NULL AND e IS NULL AND f IS NULL",
    ];
    between(Db::lite(SQLITE).await, extracted.await, &OF_SQLITE, &exact).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_to_mariadb() {
    let extracted = Db::my(
        "CREATE TABLE vals (id int PRIMARY KEY, touched int, a bigint, b double, c text CHARACTER SET utf8mb4, d blob, e int, f tinyint(1))",
    );
    let exact = [
        "a = -9223372036854775808 AND b = 12345678.5 AND c = 'it''s é 😀' AND hex(d) = '00FF10' AND e = 12 AND f = 1",
        "b = 0.1 AND c = 'a|b^c' AND hex(d) = 'FF'",
        "a IS NULL AND b IS NULL AND c IS NULL AND d IS NULL AND e IS NULL AND f IS NULL",
    ];
    between(Db::lite(SQLITE).await, extracted.await, &OF_SQLITE, &exact).await;
}
