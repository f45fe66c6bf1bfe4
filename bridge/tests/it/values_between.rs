//! Values of every plain type between engines: they come over exactly, and go back as they were. What
//! has no counterpart is listed in `docs/databases.md`.

use outgrow_bridge::{Capture, DatabaseUrl, Link};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::is_mysql;

use crate::mapping::{says, spec};
use crate::postgres::Db;
use crate::postgres_values::same;
use crate::shop::copied;
use crate::turning::cut_over;

/// Rows of a hundred ids as this engine shows them, but for their ids.
async fn dump(db: &Db, columns: &[&str], from: u32) -> Vec<String> {
    let one = |column: &&str| match db {
        Db::Pg(_) => format!("coalesce({column}::text, '-')"),
        Db::My(_) => format!("coalesce(hex({column}), '-')"),
        // Texts whole, as NULs end what is quoted; and of which class a value is.
        Db::Lite(_) => format!(
            "typeof({column}) || CASE typeof({column}) WHEN 'text' THEN hex(CAST({column} AS BLOB)) ELSE quote({column}) END"
        ),
    };
    let all: Vec<String> = columns[1..].iter().map(one).collect();
    let row = match db {
        Db::My(_) => format!("concat_ws('|', {})", all.join(", ")),
        Db::Pg(_) | Db::Lite(_) => all.join(" || '|' || "),
    };
    let text = sqlx::AssertSqlSafe(format!(
        "SELECT {row} FROM vals WHERE id >= {from} AND id < {from} + 100 ORDER BY id"
    ));
    match db {
        Db::Lite(db) => sqlx::query_scalar(text).fetch_all(db.pool()).await,
        Db::Pg(db) => sqlx::query_scalar(text).fetch_all(db.pool()).await,
        Db::My(db) => sqlx::query_scalar(text).fetch_all(db.pool()).await,
    }
    .unwrap()
}

/// The rows of a hundred ids once more, with those of the next hundred.
fn again(columns: &[&str], from: u32) -> String {
    let columns = columns[1..].join(", ");
    format!(
        "INSERT INTO vals (id, touched, {columns}) SELECT id + 100, 0, {columns} FROM vals \
         WHERE id >= {from} AND id < {from} + 100"
    )
}

/// A legacy database with rows, an extracted one, and conditions under which the extracted one has
/// exactly what was meant, each of one row. Rows are copied, followed, and followed back.
async fn between(legacy: Db, extracted: Db, columns: &[&str], exact: &[&str]) {
    captured(Capture::Triggers, (legacy, extracted), columns, exact).await;
}

pub(crate) async fn captured(
    capture: Capture,
    (legacy, extracted): (Db, Db),
    columns: &[&str],
    exact: &[&str],
) {
    let before = dump(&legacy, columns, 0).await;
    let mut all = columns.to_vec();
    all.push("touched");
    let mut spec = spec(&legacy, &extracted, vec![same("vals", &["id"], &all)]);
    let by = |url: DatabaseUrl, db: &Db| match db {
        Db::Lite(_) => url,
        Db::Pg(_) | Db::My(_) => url.capturing(capture).unwrap(),
    };
    spec.legacy = by(spec.legacy, &legacy);
    spec.extracted = by(spec.extracted, &extracted);
    let link = Link::open(spec).await.unwrap();
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    let rows = i64::try_from(before.len()).unwrap();
    for hundred in 0..2 {
        let count = format!("SELECT count(*) FROM vals WHERE id >= {hundred}00");
        says(&extracted, &count, rows).await;
        let conflicts = serde_json::to_value(link.conflicts().await.unwrap()).unwrap();
        let parked = link.evidence().unwrap().parked;
        assert_eq!(parked, 0, "{}", conflicts["parked"]);
        for condition in exact {
            let query =
                format!("SELECT count(*) FROM vals WHERE id >= {hundred}00 AND {condition}");
            says(&extracted, &query, 1).await;
        }
        let report = link.verify().await.unwrap();
        assert_eq!(report.different, 0, "{:?}", report.differences);
        if hundred == 0 {
            // As they were copied, so are they followed.
            legacy.execute(&again(columns, 0)).await;
        }
    }
    // Each row goes back whole, an old one and a new one.
    cut_over(&link, Side::Extracted).await;
    extracted.execute("UPDATE vals SET touched = 1").await;
    extracted.execute(&again(columns, 100)).await;
    let count = |condition: &str| format!("SELECT count(*) FROM vals WHERE {condition}");
    says(&legacy, &count("touched = 1"), 2 * rows).await;
    says(&legacy, &count("id >= 200"), rows).await;
    for from in [0, 100, 200] {
        let found = dump(&legacy, columns, from).await;
        assert_eq!(found, before, "from {from} on");
    }
    assert_eq!(link.verify().await.unwrap().different, 0);
    assert_eq!(link.evidence().unwrap().parked, 0);
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
/// What MySQL makes of a document, which MariaDB keeps as it was written.
fn of_json(condition: &str) -> String {
    match is_mysql() {
        true => condition.replace(
            "{\"b\": 1,  \"a\": [1.10, null]}",
            "{\"a\": [1.1, null], \"b\": 1}",
        ),
        false => condition.to_owned(),
    }
}

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
    let exact = exact.map(of_json);
    let exact: Vec<&str> = exact.iter().map(String::as_str).collect();
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

pub(crate) const POSTGRES: &str = "CREATE TABLE vals (id int PRIMARY KEY, touched int, a smallint, b bigint, c numeric(12,4), d numeric(30), e real, \
    f double precision, g text, h varchar(20), j bytea, k uuid, l date, m time(0), n timestamp, o timestamptz, p boolean, q json, r jsonb, \
    s int[], t interval, u inet); \
    INSERT INTO vals VALUES (1, 0, -32768, -9223372036854775808, -99999999.9999, 123456789012345678901234567890, 0.1, 1e-300, \
    E'tab\\t ''s'' \\u00e9 \\U0001F600', 'v', '\\x00ff10', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '2024-02-29', '23:59:59', \
    '2024-02-29 23:59:59.1', '2024-02-29 23:59:59.123456+05:30', true, '{\"b\": 1,  \"a\": [1.10, null]}', '{\"b\": 1}', '{1,NULL,3}', \
    '1 year 2 days 03:04:05.6', '10.0.0.1/8'), \
    (2, 0, 32767, 9223372036854775807, 0.0001, -1, -3.4e38, -0.5, '', '', '', '00000000-0000-0000-0000-000000000000', '1000-01-01', '00:00', \
    '1000-01-01 00:00:00', '1970-01-01 00:00:01Z', false, '[]', '[]', '{}', '0', '::1'), \
    (3, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)";
pub(crate) const OF_POSTGRES: [&str; 21] = [
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
        "k = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11' AND CAST(q AS CHAR) = '{\"b\": 1,  \"a\": [1.10, null]}'",
        "a IS NULL AND d IS NULL AND g IS NULL AND j IS NULL AND o IS NULL AND p IS NULL",
    ];
    let exact = exact.map(of_json);
    let exact: Vec<&str> = exact.iter().map(String::as_str).collect();
    between(
        Db::pg(&of_json(POSTGRES)).await,
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

/// Numbers as texts, texts where numbers are meant, and a NUL: a column of SQLite has what is put
/// into it.
#[tokio::test(flavor = "multi_thread")]
async fn sqlite_to_sqlite_whatever_class_a_value_is_of() {
    let tables = "CREATE TABLE vals (id integer PRIMARY KEY, touched integer, a, b integer, c real, d text, e blob, f numeric, g)";
    let rows = "INSERT INTO vals VALUES (1, 0, 1, 'no number', 'nor this', 17, 'text', '12.50', x'00'), \
        (2, 0, 1.0, 2.5, 3, 2.5, 7, 'x', ''), (3, 0, '1', x'31', x'32', x'33', 1.5, x'34', x''), \
        (4, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL), \
        (5, 0, 'a' || char(0) || 'b', 9223372036854775807, 9e999, char(128512), -9e999, 9007199254740993, -0.0), \
        (6, 0, 0.1, -9223372036854775808, 1e-300, '', 1e300, 0.1, 123456789.123456789), \
        (7, 0, 'NULL', '7', '7', '07', '07', '07', '1e2')";
    let legacy = Db::lite(&format!("{tables}; {rows}")).await;
    let columns = ["id", "a", "b", "c", "d", "e", "f", "g"];
    let exact = [
        "typeof(a) = 'integer' AND typeof(b) = 'text' AND typeof(c) = 'text' AND d = '17' AND f = 12.5 AND g = x'00'",
        "typeof(a) = 'real' AND typeof(b) = 'real' AND typeof(c) = 'real' AND e = 7 AND g = ''",
        "typeof(a) = 'text' AND a = '1' AND typeof(b) = 'blob' AND typeof(c) = 'blob' AND typeof(d) = 'blob'",
        "c = 9e999 AND e = -9e999 AND length(CAST(a AS BLOB)) = 3",
    ];
    between(legacy, Db::lite(tables).await, &columns, &exact).await;
}

pub(crate) const RICH: &str = "CREATE TYPE mood AS ENUM ('sad', 'it''s ok'); CREATE DOMAIN cents AS bigint CHECK (value >= 0); \
    CREATE TYPE place AS (street text, no int); \
    CREATE TABLE vals (id int PRIMARY KEY, touched int, a int4range, b numrange, c tstzrange, d daterange, e cents, f place, g text[], \
    h int[], i mood[], j money, k xml, l tsvector, m tsquery, n varbit, o interval, p macaddr, q cidr, r point, s box, t polygon, u timetz, \
    v oid, w \"char\", x name, y pg_lsn, z jsonb[], aa place[], ab float8[], ac bpchar(3), ad numeric[], ae timestamp[])";
pub(crate) const OF_RICH: &str = r#"(1, 0, '[1,5)', '(0.5,)', '[2024-02-29 23:59:59.123456+05:30,infinity)', '(,2024-03-01)', 12, '("it''s, ""here""",7)',
    '{a,"b,\",c",NULL,"NULL","","back\\slash"}', '[0:1]={7,NULL}', '{sad,"it''s ok"}', '-12.34', '<a b="c">é</a>',
    'fat:1A cat:2,3', '''fat'' & !''rat'':*', B'1011', '1 year -2 days 03:04:05.6', '08:00:2b:01:02:03', '10.0.0.0/8', '(0.1,-1e300)',
    '(1,1),(0,0)', '((0,0),(1,1),(1,0))', '23:59:59.1+05:30', 4294967295, 'x', 'Name', 'FFFFFFFF/1',
    ARRAY['{"a": 1}', NULL, '"x"']::jsonb[], ARRAY['(a,1)', NULL]::place[], '{0.1,NaN,-Infinity}', 'ab', '{1.10,NaN}', '{2024-02-29 23:59:59.1}'),
    (2, 0, 'empty', '[1.10,1.10]', 'empty', '[2024-02-29,infinity)', 0, '(,)', '{}', '{{1,2},{3,4}}', '{}', '0', '', '', '', B'', '0',
    '00:00:00:00:00:00', '::1/128', '(0,0)', '(0,0),(0,0)', '((0,0))', '00:00+00', 0, '', '', '0/0', '{}', '{}', '{}', '', '{}', '{}'),
    (3, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"#;
pub(crate) const COLUMNS_OF_RICH: [&str; 32] = [
    "id", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r",
    "s", "t", "u", "v", "w", "x", "y", "z", "aa", "ab", "ac", "ad", "ae",
];

async fn rich(capture: Capture) {
    let legacy = Db::pg(&format!("{RICH}; INSERT INTO vals VALUES {OF_RICH}")).await;
    let exact = [
        r#"a = '[1,5)' AND f = ROW('it''s, "here"', 7)::place AND g[4] = 'NULL' AND g[3] IS NULL AND h[0] = 7 AND j = '-12.34'::money"#,
        "a = 'empty' AND h[2][1] = 3 AND k::text = '' AND n = B'' AND f IS NULL AND f IS DISTINCT FROM NULL",
        "a IS NULL AND f IS NOT DISTINCT FROM NULL AND g IS NULL AND k IS NULL AND n IS NULL AND aa IS NULL",
    ];
    let both = (legacy, Db::pg(RICH).await);
    captured(capture, both, &COLUMNS_OF_RICH, &exact).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_to_postgres_with_rich_types_by_triggers() {
    rich(Capture::Triggers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_to_postgres_with_rich_types_by_its_log() {
    rich(Capture::Replication).await;
}
