//! Keys that a database calls equal though they are written otherwise: a change of the writing
//! alone is a change of the key.

use outgrow_bridge::Capture;

use crate::mapping::{entry, following, parked, reasons, same, says, spec, verified};
use crate::postgres::Db;

const EXTRACTED: &str = "CREATE TABLE word (id text PRIMARY KEY, n integer NOT NULL)";

async fn loose(legacy: Db, extracted: Db, capture: Capture) {
    loosely(legacy, extracted, capture, false).await;
}

async fn loosely(legacy: Db, extracted: Db, capture: Capture, both: bool) {
    legacy
        .execute("INSERT INTO word VALUES ('abc', 1), ('def', 2)")
        .await;
    let tables = vec![entry(
        "word",
        "word",
        vec![("id", same("id")), ("n", same("n"))],
    )];
    let mut spec = spec(&legacy, &extracted, tables);
    if capture == Capture::Replication {
        spec.legacy = spec.legacy.capturing(capture).unwrap();
    }
    let link = following(spec).await;
    let advice = link.preflight().await.unwrap().advice;
    let told = |what: &str| advice.iter().any(|one| one.what.contains(what));
    assert_eq!(
        told("the legacy side calls some keys equal"),
        !both,
        "{advice:?}"
    );
    legacy
        .execute("UPDATE word SET id = 'ABC' WHERE id = 'abc'")
        .await;
    let written = "SELECT count(*) FROM word WHERE id = 'ABC'";
    says(&extracted, written, 1).await;
    legacy
        .execute("UPDATE word SET n = 3 WHERE id = 'def'")
        .await;
    says(&extracted, "SELECT count(*) FROM word WHERE n = 3", 1).await;
    verified(&link).await;
    if let Db::Lite(_) = legacy {
        legacy
            .execute(
                "INSERT OR REPLACE INTO word VALUES ('DEF', 4); UPDATE OR REPLACE word SET id = 'Abc' WHERE n = 4; \
                 INSERT INTO word VALUES ('x', 5); INSERT INTO word VALUES ('X', 6) ON CONFLICT (id) DO UPDATE SET n = 7; \
                 INSERT OR IGNORE INTO word VALUES ('X', 8);",
            )
            .await;
        says(&extracted, "SELECT count(*) FROM word WHERE n = 7", 1).await;
        says(&extracted, "SELECT count(*) FROM word WHERE id = 'Abc'", 1).await;
        assert_eq!(extracted.number("SELECT count(*) FROM word").await, 2);
        verified(&link).await;
    }
    parked(&link, 0).await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_written_otherwise_by_sqlite() {
    let legacy = "CREATE TABLE word (id text COLLATE NOCASE PRIMARY KEY, n integer NOT NULL)";
    loose(
        Db::lite(legacy).await,
        Db::lite(EXTRACTED).await,
        Capture::Triggers,
    )
    .await;
}

/// Both sides call them equal.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_written_otherwise_by_sqlite_on_both_sides() {
    let table = "CREATE TABLE word (id text COLLATE NOCASE PRIMARY KEY, n integer NOT NULL)";
    loosely(
        Db::lite(table).await,
        Db::lite(table).await,
        Capture::Triggers,
        true,
    )
    .await;
}

const LOOSE_PG: &str = "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
    CREATE TABLE word (id text COLLATE loose PRIMARY KEY, n integer NOT NULL)";

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_written_otherwise_by_postgres() {
    loose(
        Db::pg(LOOSE_PG).await,
        Db::pg(EXTRACTED).await,
        Capture::Triggers,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_written_otherwise_by_a_log_of_postgres() {
    loose(
        Db::pg(LOOSE_PG).await,
        Db::pg(EXTRACTED).await,
        Capture::Replication,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_written_otherwise_by_mariadb() {
    let legacy = "CREATE TABLE word (id varchar(20) COLLATE utf8mb4_general_ci PRIMARY KEY, n integer NOT NULL)";
    loose(
        Db::my(legacy).await,
        Db::lite(EXTRACTED).await,
        Capture::Triggers,
    )
    .await;
}

/// The source tells `abc` from `ABC`, and the target does not: what it cannot hold is parked, and takes
/// no other row's place, nor goes with it.
async fn strict(legacy: Db, extracted: Db, capture: Capture) {
    legacy
        .execute("INSERT INTO word VALUES ('abc', 1), ('def', 2), ('x', 3), ('X', 4)")
        .await;
    let columns = vec![("id", same("id")), ("n", same("n"))];
    let mut spec = spec(&legacy, &extracted, vec![entry("word", "word", columns)]);
    spec.limits.copy_rows = 1;
    if capture == Capture::Replication {
        spec.legacy = spec.legacy.capturing(capture).unwrap();
    }
    let link = following(spec).await;
    let advice = link.preflight().await.unwrap().advice;
    let told = |what: &str| advice.iter().any(|one| one.what.contains(what));
    assert!(
        told("the extracted side calls some keys equal that"),
        "{advice:?}"
    );
    let sum = match extracted {
        Db::My(_) => "SELECT CAST(sum(n) AS SIGNED) FROM word",
        Db::Pg(_) | Db::Lite(_) => "SELECT sum(n) FROM word",
    };
    // The copy goes by bytes, so that `X` is first.
    parked(&link, 1).await;
    assert_eq!(extracted.number(sum).await, 7);
    legacy.execute("DELETE FROM word WHERE id = 'x'").await;
    parked(&link, 0).await;
    assert_eq!(extracted.number(sum).await, 7);
    legacy.execute("INSERT INTO word VALUES ('ABC', 10)").await;
    parked(&link, 1).await;
    let why = reasons(&link).await;
    assert!(why.contains("ABC") && !why.contains("abc"), "{why}");
    legacy
        .execute("UPDATE word SET n = 20 WHERE id = 'ABC'")
        .await;
    legacy
        .execute("UPDATE word SET n = 5 WHERE id = 'def'")
        .await;
    says(&extracted, sum, 10).await;
    parked(&link, 1).await;
    // The one that is there goes, and makes room.
    legacy.execute("DELETE FROM word WHERE id = 'abc'").await;
    parked(&link, 0).await;
    says(&extracted, sum, 29).await;
    verified(&link).await;
    // And the other way round, with a change of what is there.
    legacy.execute("INSERT INTO word VALUES ('abc', 40)").await;
    parked(&link, 1).await;
    legacy
        .execute("UPDATE word SET n = 21 WHERE id = 'ABC'")
        .await;
    says(&extracted, sum, 30).await;
    legacy.execute("DELETE FROM word WHERE id = 'abc'").await;
    parked(&link, 0).await;
    legacy
        .execute("UPDATE word SET id = 'DEF' WHERE id = 'def'")
        .await;
    legacy
        .execute("UPDATE word SET n = 6 WHERE id = 'DEF'")
        .await;
    says(&extracted, sum, 31).await;
    verified(&link).await;
    parked(&link, 0).await;
    link.shutdown().await;
}

const STRICT_PG: &str = "CREATE TABLE word (id text PRIMARY KEY, n integer NOT NULL)";

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_calls_them_equal_and_its_source_does_not() {
    let extracted = "CREATE TABLE word (id text COLLATE NOCASE PRIMARY KEY, n integer NOT NULL)";
    strict(
        Db::lite(EXTRACTED).await,
        Db::lite(extracted).await,
        Capture::Triggers,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_calls_them_equal_and_its_source_does_not() {
    for (capture, extracted) in [
        (Capture::Triggers, LOOSE_PG),
        (Capture::Replication, LOOSE_PG),
        (
            Capture::Replication,
            "CREATE EXTENSION citext; CREATE TABLE word (id citext PRIMARY KEY, n integer NOT NULL)",
        ),
    ] {
        strict(Db::pg(STRICT_PG).await, Db::pg(extracted).await, capture).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_calls_them_equal_and_its_source_does_not() {
    let extracted = "CREATE TABLE word (id varchar(20) COLLATE utf8mb4_general_ci PRIMARY KEY, n integer NOT NULL)";
    strict(
        Db::pg(STRICT_PG).await,
        Db::my(extracted).await,
        Capture::Triggers,
    )
    .await;
}

/// Types of PostgreSQL with an order of their own are walked in that of their texts.
#[tokio::test(flavor = "multi_thread")]
async fn both_sides_are_walked_in_one_order() {
    for (make, values) in [
        ("CREATE EXTENSION citext", "citext"),
        ("CREATE TYPE size AS ENUM ('s', 'm', 'l')", "size"),
        ("SELECT 1", "inet"),
    ] {
        let legacy =
            format!("{make}; CREATE TABLE word (id {values} PRIMARY KEY, n integer NOT NULL)");
        let (legacy, extracted) = (Db::pg(&legacy).await, Db::lite(EXTRACTED).await);
        let fill = match values {
            "citext" => {
                "INSERT INTO word SELECT CASE i % 2 WHEN 0 THEN 'a' ELSE 'B' END || i, i FROM generate_series(1, 900) i"
            }
            "size" => "INSERT INTO word VALUES ('s', 1), ('m', 2), ('l', 3)",
            _ => "INSERT INTO word SELECT '10.0.0.0'::inet + i, i FROM generate_series(1, 900) i",
        };
        legacy.execute(fill).await;
        let columns = vec![("id", same("id")), ("n", same("n"))];
        let mut spec = spec(&legacy, &extracted, vec![entry("word", "word", columns)]);
        spec.limits.verify_rows = if values == "size" { 2 } else { 100 };
        spec.limits.chunk_rows = if values == "size" { 2 } else { 100 };
        let link = following(spec).await;
        legacy
            .execute("UPDATE word SET n = n + 1 WHERE n < 3")
            .await;
        let same = legacy.number("SELECT sum(n) FROM word").await;
        says(&extracted, "SELECT sum(n) FROM word", same).await;
        verified(&link).await;
        parked(&link, 0).await;
        link.shutdown().await;
    }
}
