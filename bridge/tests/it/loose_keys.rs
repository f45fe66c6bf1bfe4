//! Keys that a database calls equal though they are written otherwise: a change of the writing
//! alone is a change of the key.

use outgrow_bridge::Capture;

use crate::mapping::{entry, following, parked, same, says, spec, verified};
use crate::postgres::Db;

const EXTRACTED: &str = "CREATE TABLE word (id text PRIMARY KEY, n integer NOT NULL)";

async fn loose(legacy: Db, extracted: Db, capture: Capture) {
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
    loose(
        Db::lite(table).await,
        Db::lite(table).await,
        Capture::Triggers,
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
