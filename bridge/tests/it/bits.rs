//! Bit fields between engines: as they are, as numbers and as text; in keys, in codes, in what a
//! verification and a repair see.

use outgrow_bridge::{Capture, Link, Source};
use outgrow_rollout::{DataPhase, Side};

use crate::mapping::{self, entry, following, parked, reasons, says, spec, verified};
use crate::mapping_keys::corrupt;
use crate::postgres::Db;
use crate::postgres_values::same;
use crate::turning::cut_over;
use crate::values_between::captured;

const OF_MARIADB: &str = "CREATE TABLE vals (id int PRIMARY KEY, touched int, a bit(8), b bit(64), c bit(8), \
    d bit(64), e bit(8), f bit(2), g bit(5) NOT NULL, h smallint, i bigint unsigned); INSERT INTO vals VALUES \
    (1, 0, b'00000101', b'1000000000000000000000000000000000000000000000000000000000000001', 255, 18446744073709551615, 5, 1, 10, 5, 9223372036854775809), \
    (2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), (3, 0, NULL, NULL, NULL, NULL, NULL, NULL, 31, NULL, NULL), \
    (4, 0, 255, 18446744073709551615, 1, 9223372036854775807, 128, 3, 1, 255, 18446744073709551615)";
const COLUMNS: [&str; 10] = ["id", "a", "b", "c", "d", "e", "f", "g", "h", "i"];

async fn from_mariadb(legacy: Db, capture: Capture) {
    let extracted = Db::pg(
        "CREATE TABLE vals (id int PRIMARY KEY, touched int, a bit(8), b bit(64), c smallint, d numeric(20), e varbit, \
         f text, g numeric(5,2) NOT NULL, h bit(8), i bit(64))",
    );
    let exact = [
        "a = B'00000101' AND b = (B'1' || repeat('0', 62)::varbit || B'1')::bit(64) AND c = 255 AND d = 18446744073709551615",
        "e = B'00000101' AND f = '01' AND g = 10 AND h = B'00000101' AND get_bit(i, 0) = 1 AND get_bit(i, 63) = 1 AND get_bit(i, 62) = 0",
        "a IS NULL AND b IS NULL AND c IS NULL AND d IS NULL AND e IS NULL AND f IS NULL AND g = 31 AND h IS NULL",
        "a = B'11111111' AND d = 9223372036854775807 AND e = B'10000000' AND f = '11' AND i = b",
    ];
    captured(capture, (legacy, extracted.await), &COLUMNS, &exact).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_to_postgres_by_triggers() {
    from_mariadb(Db::my(OF_MARIADB).await, Capture::Triggers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_to_postgres_by_its_log() {
    from_mariadb(Db::logged(OF_MARIADB).await, Capture::Replication).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_to_mariadb() {
    let extracted = Db::my(
        "CREATE TABLE vals (id int PRIMARY KEY, touched int, a bit(8), b bit(64), c int, d decimal(20), e varchar(8), \
         f tinyint unsigned, g bit(5) NOT NULL, h bit(8), i bit(64))",
    );
    let exact = [
        "a + 0 = 5 AND b + 0 = 9223372036854775809 AND c = 255 AND d = 18446744073709551615 AND e = '00000101' AND f = 1 AND h + 0 = 5",
        "a IS NULL AND b IS NULL AND c IS NULL AND e IS NULL AND h IS NULL AND i IS NULL",
    ];
    let both = (Db::my(OF_MARIADB).await, extracted.await);
    captured(Capture::Triggers, both, &COLUMNS, &exact).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_to_sqlite() {
    let extracted = Db::lite(
        "CREATE TABLE vals (id integer PRIMARY KEY, touched integer, a integer, b text, c numeric, d text, e text, f integer, \
         g text NOT NULL, h integer, i text)",
    );
    let exact = [
        "a = 5 AND b = '1' || printf('%062d', 0) || '1' AND c = 255 AND e = '00000101' AND f = 1 AND g = '01010' AND h = 5",
        "a IS NULL AND b IS NULL AND c IS NULL AND d IS NULL AND g = '11111'",
    ];
    let both = (Db::my(OF_MARIADB).await, extracted.await);
    captured(Capture::Triggers, both, &COLUMNS, &exact).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_to_mariadb() {
    let legacy = Db::lite(
        "CREATE TABLE vals (id integer PRIMARY KEY, touched integer, a integer, b text, c text); \
         INSERT INTO vals VALUES (1, 0, 5, '00000101', '18446744073709551615'), (2, 0, 255, '11111111', '0'), (3, 0, NULL, NULL, NULL)",
    );
    let extracted = Db::my(
        "CREATE TABLE vals (id int PRIMARY KEY, touched int, a bit(8), b bit(8), c bigint unsigned)",
    );
    let exact = [
        "a + 0 = 5 AND b = a",
        "a + 0 = 255 AND b = a",
        "a IS NULL AND b IS NULL",
    ];
    let both = (legacy.await, extracted.await);
    captured(Capture::Triggers, both, &["id", "a", "b", "c"], &exact).await;
}

const OF_POSTGRES: &str = "CREATE TABLE vals (id int PRIMARY KEY, touched int, a bit(8), b bit(64), c bit(8), d bit(64), \
    e varbit(20), f bit, g bit(100), h int, i boolean); INSERT INTO vals VALUES \
    (1, 0, B'00000101', (B'1' || repeat('0', 62)::varbit || B'1')::bit(64), B'11111111', repeat('1', 64)::bit(64), B'0011', B'1', \
     repeat('10', 50)::bit(100), 5, true), \
    (2, 0, B'00000000', repeat('0', 64)::bit(64), B'00000000', repeat('0', 64)::bit(64), B'', B'0', repeat('0', 100)::bit(100), 0, false), \
    (3, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)";

async fn from_postgres(extracted: Db, capture: Capture, exact: &[&str]) {
    let both = (Db::pg(OF_POSTGRES).await, extracted);
    captured(capture, both, &COLUMNS, exact).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_to_mariadb() {
    let extracted = Db::my(
        "CREATE TABLE vals (id int PRIMARY KEY, touched int, a bit(8), b bit(64), c int, d bigint unsigned, e varchar(20), \
         f bit(1), g text, h bit(8), i bit(3))",
    );
    let exact = [
        "a + 0 = 5 AND b + 0 = 9223372036854775809 AND c = 255 AND d = 18446744073709551615 AND e = '0011' AND f = 1 \
         AND length(g) = 100 AND h + 0 = 5 AND i + 0 = 1",
        "a IS NULL AND b IS NULL AND c IS NULL AND d IS NULL AND e IS NULL AND f IS NULL AND h IS NULL AND i IS NULL",
    ];
    from_postgres(extracted.await, Capture::Triggers, &exact).await;
}

const AS_NUMBERS: &str = "CREATE TABLE vals (id int PRIMARY KEY, touched int, a int, b numeric, c bit(8), d numeric(30,1), \
    e varbit, f boolean, g bit(100), h bit(4), i bit(2))";
const EXACT: [&str; 2] = [
    "a = 5 AND b = 9223372036854775809 AND c = B'11111111' AND d = 18446744073709551615 AND e = B'0011' AND f AND h = B'0101' AND i = B'01'",
    "a IS NULL AND b IS NULL AND c IS NULL AND d IS NULL AND e IS NULL AND f IS NULL AND h IS NULL AND i IS NULL",
];

#[tokio::test(flavor = "multi_thread")]
async fn postgres_to_postgres_by_triggers() {
    from_postgres(Db::pg(AS_NUMBERS).await, Capture::Triggers, &EXACT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_to_postgres_by_its_log() {
    from_postgres(Db::pg(AS_NUMBERS).await, Capture::Replication, &EXACT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_to_sqlite() {
    let extracted = Db::lite(
        "CREATE TABLE vals (id integer PRIMARY KEY, touched integer, a integer, b text, c text, d text, e text, f integer, g text, h integer, i integer)",
    );
    let exact = [
        "a = 5 AND c = '11111111' AND length(d) = 64 AND e = '0011' AND f = 1 AND length(g) = 100",
    ];
    from_postgres(extracted.await, Capture::Triggers, &exact).await;
}

/// Keys of bit fields, as they are and as numbers, over many of them. `five` is the one of five on
/// the extracted side.
async fn keyed(capture: Capture, legacy: Db, extracted: Db, five: &str) {
    let rows: Vec<String> = match legacy {
        Db::Pg(_) => (0..200).map(|n| format!("({n}::bit(9), {n})")).collect(),
        _ => (0..200).map(|n| format!("({n}, {n})")).collect(),
    };
    let fill = format!("INSERT INTO flags VALUES {}", rows.join(", "));
    legacy.execute(&fill).await;
    let tables = vec![same("flags", &["mask"], &["mask", "n"])];
    let mut spec = spec(&legacy, &extracted, tables);
    spec.legacy = spec.legacy.capturing(capture).unwrap();
    spec.limits.chunk_rows = 30;
    spec.limits.verify_rows = 30;
    let link = following(spec).await;
    let count = |what: &str| format!("SELECT count(*) FROM flags WHERE {what}");
    says(&extracted, &count("n >= 0"), 200).await;
    says(&extracted, &count(&format!("mask = {five} AND n = 5")), 1).await;
    legacy
        .execute("UPDATE flags SET n = -7 WHERE n = 7; DELETE FROM flags WHERE n = 150")
        .await;
    says(&extracted, &count("n = -7"), 1).await;
    says(&extracted, &count("n = 150"), 0).await;
    verified(&link).await;
    corrupt(&extracted, "UPDATE flags SET n = 1000 WHERE n = 100").await;
    corrupt(&extracted, "DELETE FROM flags WHERE n = 101").await;
    let report = link.verify().await.unwrap();
    assert_eq!(report.different, 2, "{:?}", report.differences);
    let repaired = link.repair(false).await.unwrap();
    assert_eq!((repaired.repaired, repaired.remaining), (2, 0));
    verified(&link).await;
    cut_over(&link, Side::Extracted).await;
    extracted
        .execute("UPDATE flags SET n = -9 WHERE n = 9; DELETE FROM flags WHERE n = 151")
        .await;
    says(&legacy, &count("n = -9"), 1).await;
    says(&legacy, &count("n = 151"), 0).await;
    verified(&link).await;
    assert_eq!(link.evidence().unwrap().parked, 0);
    link.shutdown().await;
}

fn flags(mask: &str) -> String {
    format!("CREATE TABLE flags (mask {mask} PRIMARY KEY, n int)")
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_mariadb() {
    let legacy = async || Db::my(&flags("bit(9)")).await;
    let bits = Db::pg(&flags("bit(9)")).await;
    keyed(Capture::Triggers, legacy().await, bits, "B'000000101'").await;
    let numbers = Db::pg(&flags("smallint")).await;
    keyed(Capture::Triggers, legacy().await, numbers, "5").await;
    let logged = Db::logged(&flags("bit(9)")).await;
    let numbers = Db::my(&flags("int unsigned")).await;
    keyed(Capture::Replication, logged, numbers, "5").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_postgres() {
    let bits = Db::my(&flags("bit(9)")).await;
    let legacy = Db::pg(&flags("bit(9)")).await;
    keyed(Capture::Replication, legacy, bits, "5").await;
    let text = Db::pg(&flags("varchar(9)")).await;
    let legacy = Db::pg(&flags("bit(9)")).await;
    keyed(Capture::Triggers, legacy, text, "'000000101'").await;
}

/// Codes and constants may be said as numbers.
#[tokio::test(flavor = "multi_thread")]
async fn codes_of_bit_fields() {
    let legacy = Db::my("CREATE TABLE a (id int PRIMARY KEY, state bit(4), flags bit(3))").await;
    legacy
        .execute("INSERT INTO a VALUES (1, 1, 5), (2, 8, 0)")
        .await;
    let extracted =
        Db::pg("CREATE TABLE a (id int PRIMARY KEY, state text, kind bit(4), flags text)").await;
    let codes = Source::Map {
        from: "state".to_owned(),
        pairs: vec![(1.into(), "new".into()), ("1000".into(), "old".into())],
    };
    let flags = Source::Expr {
        from: "flags".to_owned(),
        forward: "'f' + value".to_owned(),
        reverse: "value == 'f101' ? '101' : '000'".to_owned(),
    };
    let columns = vec![
        ("id", mapping::same("id")),
        ("state", codes),
        ("kind", Source::Const(6.into())),
        ("flags", flags),
    ];
    let link = following(spec(&legacy, &extracted, vec![entry("a", "a", columns)])).await;
    for row in [
        "id = 1 AND state = 'new' AND kind = B'0110' AND flags = 'f101'",
        "id = 2 AND state = 'old' AND kind = B'0110' AND flags = 'f000'",
    ] {
        says(
            &extracted,
            &format!("SELECT count(*) FROM a WHERE {row}"),
            1,
        )
        .await;
    }
    verified(&link).await;
    link.shutdown().await;
}

/// What does not fit is parked with its reason, and taken when it fits.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_do_not_fit_are_parked() {
    let legacy = Db::pg("CREATE TABLE vals (id int PRIMARY KEY, n int, t text)").await;
    legacy
        .execute("INSERT INTO vals VALUES (1, 7, '101'), (2, 8, '000'), (3, -1, '000'), (4, 0, '1'), (5, 0, 'abc')")
        .await;
    let extracted = Db::my("CREATE TABLE vals (id int PRIMARY KEY, n bit(3), t bit(3))").await;
    let tables = vec![same("vals", &["id"], &["id", "n", "t"])];
    let link = Link::open(spec(&legacy, &extracted, tables)).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    parked(&link, 4).await;
    let why = reasons(&link).await;
    for part in [
        "vals.n: 8 is no whole number of 3 bits",
        "vals.n: -1 is no whole number of 3 bits",
        "vals.t: `1` does not fit the column without loss",
        "vals.t: `abc` does not fit the column without loss",
    ] {
        assert!(why.contains(part), "{part}\nis not in\n{why}");
    }
    legacy
        .execute("UPDATE vals SET n = id, t = '010' WHERE id > 1")
        .await;
    parked(&link, 0).await;
    let sum = "SELECT CAST(sum(n + t) AS SIGNED) FROM vals";
    says(&extracted, sum, 7 + 5 + 2 + 3 + 4 + 5 + 4 * 2).await;
    verified(&link).await;
    link.shutdown().await;
}

/// Nobody could say which number a field of any width was.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_come_back_is_refused() {
    let tables = "CREATE TABLE vals (id int PRIMARY KEY";
    let legacy = Db::pg(&format!(
        "{tables}, a varbit, b bit(65), c bit(8), d bit(8))"
    ))
    .await;
    let extracted = Db::my(&format!(
        "{tables}, a int, b decimal(30), c bit(9), d blob)"
    ))
    .await;
    let columns = ["id", "a", "b", "c", "d"];
    let of = vec![same("vals", &["id"], &columns)];
    let link = Link::open(spec(&legacy, &extracted, of)).await.unwrap();
    let found = link.preflight().await.unwrap();
    let said: Vec<String> = found.problems.iter().map(|p| format!("{p:?}")).collect();
    let said = said.join("\n");
    for part in [
        "`bit varying` is of any width",
        "a bit field of 65 is no number of 64 bits",
        "a bit field of 8 and one of 9",
        "a bit field does not become bytes",
    ] {
        assert!(said.contains(part), "{part}\nis not in\n{said}");
    }
    link.shutdown().await;
}
