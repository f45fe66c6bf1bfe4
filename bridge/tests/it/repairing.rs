//! A repair writes the rows that differ, and no other.

use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::mysql_binlog::begun;
use crate::postgres::{Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, LEGACY_SQLITE, Pair, items};

const ROWS: u32 = 600;

/// Past triggers and fences, as a broken disk or an old backup would.
async fn spoil(db: &Db, statement: &str) {
    let text = match db {
        Db::Pg(_) => {
            format!(
                "SET session_replication_role = replica; {statement}; RESET session_replication_role"
            )
        }
        Db::My(_) => {
            format!("SET @outgrow_applying = 'items'; {statement}; SET @outgrow_applying = NULL")
        }
        Db::Lite(_) => format!(
            "begin immediate; update \"_outgrow_items_control\" set applying = 1; {statement}; \
             update \"_outgrow_items_control\" set applying = 0; commit"
        ),
    };
    db.execute(&text).await;
}

/// Spoils rows of the target in each way, and has them mended; `begins` makes what counts the rows that were
/// `written`.
async fn mended(pair: Pair, begins: &[&str], written: &str) -> i64 {
    pair.legacy.execute(&items(1, ROWS)).await;
    let link = begun(&pair).await;
    pair.equal().await;
    for text in [
        "UPDATE article SET note = 'spoilt' WHERE id = 7",
        "DELETE FROM article WHERE id = 300",
        "UPDATE article SET id = 9000, sku = 'left over' WHERE id = 599",
    ] {
        spoil(&pair.extracted, text).await;
    }
    for text in begins {
        pair.extracted.execute(text).await;
    }
    // One is changed, two are missing, and one is left over.
    assert_eq!(link.verify().await.unwrap().different, 4);
    assert_eq!(pair.extracted.number(written).await, 0);
    let repaired = link.repair(false).await.unwrap();
    assert_eq!((repaired.found, repaired.remaining), (4, 0));
    let count = pair.extracted.number(written).await;
    pair.equal().await;
    link.shutdown().await;
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_postgres_that_are_equal_keep_their_versions() {
    let begins = ["CREATE TABLE noted AS SELECT id, xmin::text AS version FROM article"];
    let written = "SELECT count(*) FROM article a LEFT JOIN noted n USING (id) \
                   WHERE n.version IS DISTINCT FROM a.xmin::text";
    let triggers = Pair::of(Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    assert_eq!(mended(triggers, &begins, written).await, 3);
    let log = Pair::replicated(Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    assert_eq!(mended(log, &begins, written).await, 3);
}

const NOTED: &str = "SELECT count(DISTINCT id) FROM noted";

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_mariadb_that_are_equal_are_not_touched() {
    let begins = [
        "CREATE TABLE noted (id bigint)",
        "CREATE TRIGGER noted_i AFTER INSERT ON article FOR EACH ROW INSERT INTO noted VALUES (new.id)",
        "CREATE TRIGGER noted_u AFTER UPDATE ON article FOR EACH ROW INSERT INTO noted VALUES (new.id)",
        "CREATE TRIGGER noted_d AFTER DELETE ON article FOR EACH ROW INSERT INTO noted VALUES (old.id)",
    ];
    let pair = Pair::of(Db::my(LEGACY_MY).await, Db::my(EXTRACTED_MY).await);
    assert_eq!(mended(pair, &begins, NOTED).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_sqlite_that_are_equal_are_not_touched() {
    let begins = [
        "CREATE TABLE noted (id integer)",
        "CREATE TRIGGER noted_i AFTER INSERT ON article BEGIN INSERT INTO noted VALUES (new.id); END",
        "CREATE TRIGGER noted_u AFTER UPDATE ON article BEGIN INSERT INTO noted VALUES (new.id); END",
        "CREATE TRIGGER noted_d AFTER DELETE ON article BEGIN INSERT INTO noted VALUES (old.id); END",
    ];
    let pair = Pair::of(
        Db::lite(LEGACY_SQLITE).await,
        Db::lite(EXTRACTED_SQLITE).await,
    );
    assert_eq!(mended(pair, &begins, NOTED).await, 4);
}
