//! Values of the types that PostgreSQL and MariaDB have, kept by SQLite, there and back; and those at the edges
//! of their types.

use outgrow_bridge::{Capture, Link};
use outgrow_rollout::{DataPhase, Side};

use crate::mapping::{parked, reasons, says, spec};
use crate::postgres::Db;
use crate::postgres_values::same;
use crate::shop::copied;
use crate::turning::cut_over;
use crate::values_between::{COLUMNS_OF_RICH, OF_POSTGRES, OF_RICH, POSTGRES, RICH, captured};

#[tokio::test(flavor = "multi_thread")]
async fn postgres_to_sqlite() {
    let extracted = Db::lite(
        "CREATE TABLE vals (id integer PRIMARY KEY, touched integer, a integer, b integer, c text, d text, e real, f real, g text, \
         h text, j blob, k text, l text, m text, n text, o text, p integer, q text, r text, s text, t text, u text)",
    );
    let exact = [
        "a = -32768 AND b = -9223372036854775808 AND c = '-99999999.9999' AND d = '123456789012345678901234567890'",
        "hex(j) = '00FF10' AND l = '2024-02-29' AND m = '23:59:59' AND n = '2024-02-29 23:59:59.1' AND p = 1",
        "q = '{\"b\": 1,  \"a\": [1.10, null]}' AND s = '{1,NULL,3}' AND u = '10.0.0.1/8'",
        "a IS NULL AND d IS NULL AND g IS NULL AND j IS NULL AND o IS NULL AND p IS NULL",
    ];
    let both = (Db::pg(POSTGRES).await, extracted.await);
    captured(Capture::Triggers, both, &OF_POSTGRES, &exact).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rich_types_to_sqlite() {
    let columns = COLUMNS_OF_RICH[1..].join(" text, ");
    let tables =
        format!("CREATE TABLE vals (id integer PRIMARY KEY, touched integer, {columns} text)");
    let legacy = Db::pg(&format!("{RICH}; INSERT INTO vals VALUES {OF_RICH}")).await;
    let exact = [
        "a = '[1,5)' AND i = '{sad,\"it''s ok\"}' AND o = 'P1Y-2DT3H4M5.6S' AND q = '10.0.0.0/8' AND v = '4294967295'",
        "a = 'empty' AND g = '{}' AND h = '{{1,2},{3,4}}' AND k = '' AND n = ''",
        "a IS NULL AND f IS NULL AND k IS NULL AND n IS NULL AND ae IS NULL",
    ];
    let both = (legacy, Db::lite(&tables).await);
    captured(Capture::Replication, both, &COLUMNS_OF_RICH, &exact).await;
}

const EDGES: &str = "CREATE TABLE vals (id int PRIMARY KEY, touched int, a float8, b float4, c numeric, d timestamptz, e timestamp, f date, \
     g time(0), h interval, i text, j bytea, k int8, l time(6), m bpchar(4), n bit(64), o varbit); \
     INSERT INTO vals VALUES (1, 0, 'Infinity', '-Infinity', 1e-30, 'infinity', '-infinity', 'infinity', '24:00:00', '-178000000 years', \
     E'\\t\\n\\r \\u0001', decode(repeat('00', 300000), 'hex'), 9223372036854775807, '23:59:59.999999', 'a', \
     B'1111111111111111111111111111111111111111111111111111111111111111', B'0'), \
     (2, 0, '-0.5', 1e-45, -0.00, '4713-01-01 00:00:00+00 BC', '0001-12-31 23:59:59.999999 BC', '4713-01-01 BC', '00:00:00', '1 microsecond', \
     repeat('\u{1F600}', 100000), '', -9223372036854775808, '00:00:00.000001', '', \
     B'0000000000000000000000000000000000000000000000000000000000000000', B''), \
     (3, 0, 1.7976931348623157e308, 3.4028235e38, '12345678901234567890123456789012345678901234567890.12345678901234567890', \
     '294276-12-31 23:59:59.999999+00', '294276-12-31 23:59:59.999999', '5874897-12-31', '23:59:59', '178000000 years', '  x  ', \
     '\\x0001', 0, '24:00:00', '    ', B'1000000000000000000000000000000000000000000000000000000000000001', B'01'), \
     (4, 0, 4.9e-324, 1.17549435e-38, 0, '1883-11-18 12:03:57.5+00', '1582-10-15', '1752-09-14', '12:00:00', 'P1M-1DT-0.000001S', '\u{FFFD}', '\\xff', 1, \
     '12:00:00.1', '\u{e9}', B'0111111111111111111111111111111111111111111111111111111111111111', B'10')";

#[tokio::test(flavor = "multi_thread")]
async fn edges_of_postgres_in_sqlite() {
    let extracted = Db::lite(
        "CREATE TABLE vals (id integer PRIMARY KEY, touched integer, a real, b real, c text, d text, e text, f text, g text, h text, i text, \
         j blob, k integer, l text, m text, n text, o text)",
    );
    let columns = [
        "id", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o",
    ];
    let exact = [
        "a = 9e999 AND b = -9e999 AND d = 'infinity' AND e = '-infinity' AND g = '24:00:00' AND length(j) = 300000",
        "a = -0.5 AND c = '0.00' AND length(i) = 100000 AND length(j) = 0 AND k = -9223372036854775808 AND o = ''",
        "a = 1.7976931348623157e308 AND i = '  x  ' AND hex(j) = '0001'",
        "a > 0 AND a < 1e-300 AND m = '\u{e9}' AND o = '10'",
    ];
    let both = (Db::pg(EDGES).await, extracted.await);
    captured(Capture::Triggers, both, &columns, &exact).await;
}

const EDGES_MY: &str = "CREATE TABLE vals (id int PRIMARY KEY, touched int, a double, b float, c decimal(65,30), d time(6), e datetime(6), \
     f date, g year, h bit(64), i binary(4), j tinytext CHARACTER SET utf8mb4, k mediumblob, l char(4), m int unsigned, n mediumint unsigned, \
     o timestamp(6) NULL, p bigint unsigned); \
     INSERT INTO vals VALUES (1, 0, 1.7976931348623157e308, 3.40282e38, 12345678901234567890123456789012345.123456789012345678901234567890, \
     '838:59:59.999999', '9999-12-31 23:59:59.999999', '9999-12-31', 2155, x'ffffffffffffffff', x'00', '  \u{1F600} ', \
     repeat(x'00', 300000), 'a', 4294967295, 16777215, '2038-01-19 03:14:07.999999', 18446744073709551615), \
     (2, 0, -0.0, 1.17549e-38, -0.000000000000000000000000000001, '-838:59:59.999999', '0001-01-01 00:00:00', '0001-01-01', 0, x'0000000000000000', \
     x'00ff00ff', '', '', '', 0, 0, '1970-01-01 00:00:01', 9223372036854775808), \
     (3, 0, 2.2250738585072014e-308, 0, 0, '-00:00:00.000001', '1582-10-15 12:00:00.5', '1752-09-14', 1901, x'8000000000000001', x'ffffffff', \
     '\\\\', x'00ff', '\u{e9}', 1, 1, '2001-09-09 01:46:40', 9223372036854775807)";

#[tokio::test(flavor = "multi_thread")]
async fn edges_of_mariadb_in_sqlite() {
    let extracted = Db::lite(
        "CREATE TABLE vals (id integer PRIMARY KEY, touched integer, a real, b real, c text, d text, e text, f text, g integer, h text, i blob, \
         j text, k blob, l text, m integer, n integer, o text, p text)",
    );
    let columns = [
        "id", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p",
    ];
    let exact = [
        "a = 1.7976931348623157e308 AND d = '838:59:59.999999' AND g = 2155 AND hex(i) = '00000000' AND length(k) = 300000 AND m = 4294967295",
        "d = '-838:59:59.999999' AND g = 0 AND hex(i) = '00FF00FF' AND j = '' AND length(k) = 0 AND p = '9223372036854775808'",
        "a = 2.2250738585072014e-308 AND d = '-00:00:00.000001' AND hex(k) = '00FF' AND n = 1",
    ];
    let both = (Db::my(EDGES_MY).await, extracted.await);
    captured(Capture::Triggers, both, &columns, &exact).await;
}

/// As a number is kept that SQLite has no other form for; and MySQL, which takes 24 for 2024.
#[tokio::test(flavor = "multi_thread")]
async fn no_year_is_taken_for_another() {
    let legacy = "CREATE TABLE vals (id integer PRIMARY KEY, touched integer, a integer, b text); \
        INSERT INTO vals VALUES (1, 0, 24, '1999'), (2, 0, 0, '0'), (3, 0, 2155, '69'), (4, 0, 1901, 'x')";
    let legacy = Db::lite(legacy).await;
    let extracted = "CREATE TABLE vals (id int PRIMARY KEY, touched int, a year, b year)";
    let extracted = Db::my(extracted).await;
    let mapped = vec![same("vals", &["id"], &["id", "touched", "a", "b"])];
    let link = Link::open(spec(&legacy, &extracted, mapped)).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    parked(&link, 3).await;
    let why = reasons(&link).await;
    assert!(why.contains("vals.a: `24` is none of the years"), "{why}");
    assert!(why.contains("vals.b: `69` is none of the years"), "{why}");
    says(&extracted, "SELECT count(*) FROM vals", 1).await;
    says(
        &extracted,
        "SELECT count(*) FROM vals WHERE a = 0 AND b = 0",
        1,
    )
    .await;
    link.shutdown().await;
}

/// SQLite keeps NULL where it is given one: nothing that is in a row may become nothing.
#[tokio::test(flavor = "multi_thread")]
async fn no_number_is_parked_where_it_would_become_null() {
    let table = "CREATE TABLE vals (id int PRIMARY KEY, touched int, a float8, b float8)";
    let legacy = format!(
        "{table}; INSERT INTO vals VALUES (1, 0, 'NaN', 1), (2, 0, 1, 'NaN'), (3, 0, -0.0, 0.1 + 0.2), \
         (4, 0, 0, '-Infinity')"
    );
    let legacy = Db::pg(&legacy).await;
    let extracted = "CREATE TABLE vals (id integer PRIMARY KEY, touched integer, a real, b text)";
    let extracted = Db::lite(extracted).await;
    let mapped = vec![same("vals", &["id"], &["id", "touched", "a", "b"])];
    let link = Link::open(spec(&legacy, &extracted, mapped)).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    parked(&link, 1).await;
    assert!(
        reasons(&link).await.contains("NaN"),
        "{}",
        reasons(&link).await
    );
    says(&extracted, "SELECT count(*) FROM vals", 3).await;
    says(&extracted, "SELECT count(*) FROM vals WHERE b = 'NaN'", 1).await;
    legacy.execute("UPDATE vals SET a = 0.5 WHERE id = 1").await;
    parked(&link, 0).await;
    says(&extracted, "SELECT count(*) FROM vals WHERE a = 0.5", 1).await;
    let report = link.verify().await.unwrap();
    assert_eq!(report.different, 0, "{:?}", report.differences);
    cut_over(&link, Side::Extracted).await;
    extracted.execute("UPDATE vals SET touched = 1").await;
    let back = "SELECT count(*) FROM vals WHERE touched = 1 \
         AND b = CASE id WHEN 2 THEN 'NaN' WHEN 3 THEN 0.1 + 0.2 WHEN 4 THEN '-Infinity' ELSE 1 END";
    says(&legacy, back, 4).await;
    link.shutdown().await;
}
