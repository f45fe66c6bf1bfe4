//! Rows that refer to others: what the target's foreign keys refuse is parked, and nothing is left
//! behind that refers to nothing.

use outgrow_bridge::{Both, ColumnSpec, Link, LinkSpec, Policy, Source, TableSpec, Writes};
use outgrow_rollout::{DataPhase, Side, SliceId};
use outgrow_testkit::{Postgres, eventually, least};

use crate::postgres::Db;
use crate::shop::{WAIT, copied, quick};

/// The monolith checks nothing.
const FREE: &str = "CREATE TABLE parent (id integer PRIMARY KEY, code varchar(20) NOT NULL UNIQUE, boss integer); \
    CREATE TABLE child (id integer PRIMARY KEY, parent_id integer NOT NULL, note varchar(20)); \
    INSERT INTO parent VALUES (1, 'a', NULL), (2, 'b', NULL), (3, 'c', 1), (4, 'd', NULL); \
    INSERT INTO child VALUES (10, 1, 'x'), (11, 2, 'y'), (12, 1, 'z');";
/// The same tables without rows.
const FREE_EMPTY: &str = "CREATE TABLE parent (id integer PRIMARY KEY, code varchar(20) NOT NULL UNIQUE, boss integer); \
    CREATE TABLE child (id integer PRIMARY KEY, parent_id integer NOT NULL, note varchar(20))";
/// The new service has foreign keys, and a table of its own beside.
const STRICT: &str = "CREATE TABLE parent (id integer PRIMARY KEY, code varchar(20) NOT NULL UNIQUE, boss integer, \
    FOREIGN KEY (boss) REFERENCES parent (id)); \
    CREATE TABLE child (id integer PRIMARY KEY, parent_id integer NOT NULL, note varchar(20), \
    FOREIGN KEY (parent_id) REFERENCES parent (id)); \
    CREATE TABLE mark (id integer PRIMARY KEY, parent_code varchar(20), parent_id integer, \
    FOREIGN KEY (parent_code) REFERENCES parent (code), FOREIGN KEY (parent_id) REFERENCES parent (id));";

fn table(name: &str, columns: &[&str]) -> TableSpec {
    let same = |name: &&str| ColumnSpec {
        extracted: (*name).to_owned(),
        source: Source::Rename((*name).to_owned()),
    };
    TableSpec {
        legacy: name.to_owned(),
        extracted: name.to_owned(),
        key: vec!["id".to_owned()],
        columns: columns.iter().map(same).collect(),
        ..TableSpec::default()
    }
}

fn spec(legacy: &str, extracted: &str) -> LinkSpec {
    LinkSpec {
        slice: SliceId::new("family").unwrap(),
        legacy: legacy.parse().unwrap(),
        extracted: extracted.parse().unwrap(),
        tables: vec![
            table("child", &["id", "parent_id", "note"]),
            table("parent", &["id", "code", "boss"]),
        ],
        writes: Writes::One,
        limits: quick(),
    }
}

async fn begun(spec: LinkSpec) -> Link {
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    link
}

async fn parked(link: &Link, count: u64) {
    eventually("the parked rows", WAIT, || async {
        (link.evidence()?.parked == count).then_some(())
    })
    .await;
}

async fn has(db: &Db, text: &str, count: i64) {
    eventually(text, WAIT, || async {
        (db.number(text).await == count).then_some(())
    })
    .await;
}

const ORPHANS: &str = "SELECT count(*) FROM child WHERE parent_id NOT IN (SELECT id FROM parent)";
const MARKED: &str = "SELECT count(*) FROM mark JOIN parent ON parent.id = mark.parent_id";

/// What one side has and the other refuses, one by one.
async fn refused_and_parked(extracted: Db) {
    let legacy = Db::lite(FREE).await;
    let link = begun(spec(&legacy.url(), &extracted.url())).await;
    has(&extracted, "SELECT count(*) FROM child", 3).await;

    // A child whose parent is not there, in one batch with another.
    legacy
        .execute("INSERT INTO child VALUES (20, 99, 'early'), (21, 2, 'good')")
        .await;
    parked(&link, 1).await;
    has(&extracted, "SELECT count(*) FROM child WHERE id = 21", 1).await;
    assert_eq!(extracted.number(ORPHANS).await, 0);
    legacy
        .execute("INSERT INTO parent VALUES (99, 'late', NULL)")
        .await;
    parked(&link, 0).await;
    has(&extracted, "SELECT count(*) FROM child WHERE id = 20", 1).await;

    // A parent that goes while a table refers to it that is not mapped.
    link.unfence(Side::Extracted).await.unwrap();
    extracted
        .execute("INSERT INTO mark VALUES (1, NULL, 4)")
        .await;
    legacy
        .execute("DELETE FROM parent WHERE id = 4; UPDATE parent SET code = 'e' WHERE id = 3;")
        .await;
    parked(&link, 1).await;
    assert_eq!(extracted.number(MARKED).await, 1);
    has(
        &extracted,
        "SELECT count(*) FROM parent WHERE code = 'e'",
        1,
    )
    .await;
    extracted.execute("DELETE FROM mark WHERE id = 1").await;
    eventually("the parent to go", WAIT, || async {
        let gone = extracted
            .number("SELECT count(*) FROM parent WHERE id = 4")
            .await
            == 0;
        gone.then_some(())
    })
    .await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sqlite_refuses_is_parked() {
    refused_and_parked(Db::lite(STRICT).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgres_refuses_is_parked() {
    refused_and_parked(Db::pg(STRICT).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_mariadb_refuses_is_parked() {
    refused_and_parked(Db::my(STRICT).await).await;
}

/// Rows that swap what is unique go in while others refer to them, also by what they swap; and
/// rows that refer to each other.
async fn swapped(extracted: Db) {
    let legacy = Db::lite(FREE).await;
    let link = begun(spec(&legacy.url(), &extracted.url())).await;
    link.unfence(Side::Extracted).await.unwrap();
    extracted
        .execute("INSERT INTO mark VALUES (1, 'a', 2)")
        .await;
    legacy
        .execute(
            "BEGIN; UPDATE parent SET code = '-' WHERE id = 1; UPDATE parent SET code = 'a' WHERE id = 2; \
             UPDATE parent SET code = 'b' WHERE id = 1; COMMIT;",
        )
        .await;
    has(
        &extracted,
        "SELECT count(*) FROM parent WHERE id = 2 AND code = 'a'",
        1,
    )
    .await;
    legacy
        .execute(
            "BEGIN; INSERT INTO parent VALUES (30, 'p', 31); INSERT INTO parent VALUES (31, 'q', 30); COMMIT;",
        )
        .await;
    has(&extracted, "SELECT count(*) FROM parent WHERE id >= 30", 2).await;
    let counts = (
        extracted.number("SELECT count(*) FROM mark").await,
        extracted.number("SELECT count(*) FROM child").await,
        extracted.number(ORPHANS).await,
    );
    assert_eq!(counts, (1, 3, 0));
    parked(&link, 0).await;
    // A code that something else refers to does not go.
    legacy
        .execute(
            "BEGIN; UPDATE parent SET code = '-' WHERE id = 1; UPDATE parent SET code = 'b' WHERE id = 2; \
             UPDATE parent SET code = 'new' WHERE id = 1; COMMIT;",
        )
        .await;
    parked(&link, 1).await;
    let marked = "SELECT count(*) FROM mark JOIN parent ON parent.code = mark.parent_code";
    assert_eq!(extracted.number(marked).await, 1);
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_others_refer_to_swap_by_sqlite() {
    swapped(Db::lite(STRICT).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_others_refer_to_swap_by_postgres() {
    if least() {
        // They are parked, and `outgrow check` tells of it.
        return;
    }
    swapped(Db::pg(STRICT).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_others_refer_to_swap_by_mariadb() {
    swapped(Db::my(STRICT).await).await;
}

/// One side gives a parent a child while the other removes the parent.
async fn crossed(legacy: Db, extracted: Db) {
    let mut spec = spec(&legacy.url(), &extracted.url());
    spec.writes = Writes::Both(Both {
        policy: Policy::Writer,
        ids_apart: true,
    });
    let link = begun(spec).await;
    link.pause().await.unwrap();
    legacy
        .execute("INSERT INTO child VALUES (40, 4, 'new')")
        .await;
    extracted.execute("DELETE FROM parent WHERE id = 4").await;
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    // The child here, the delete there.
    parked(&link, 2).await;
    for side in [&legacy, &extracted] {
        assert_eq!(side.number(ORPHANS).await, 0);
    }
    assert!(link.verify().await.unwrap().different > 0);
    // Mended on either side.
    extracted
        .execute("INSERT INTO parent VALUES (4, 'd', NULL)")
        .await;
    parked(&link, 0).await;
    has(&extracted, "SELECT count(*) FROM child WHERE id = 40", 1).await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_and_the_end_of_its_parent_cross_by_sqlite() {
    let legacy = Db::lite(&filled()).await;
    crossed(legacy, Db::lite(STRICT).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_and_the_end_of_its_parent_cross_by_postgres() {
    let legacy = Db::pg(&filled()).await;
    crossed(legacy, Db::pg(STRICT).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_and_the_end_of_its_parent_cross_by_mariadb() {
    let legacy = Db::my(&filled()).await;
    crossed(legacy, Db::my(STRICT).await).await;
}

/// The monolith with the service's foreign keys.
fn filled() -> String {
    let rows = FREE.split_once("INSERT").unwrap().1;
    format!("{STRICT} INSERT{rows}")
}

/// A user that may not turn foreign keys off, on tables whose foreign keys act.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_change_places_take_no_others_with_them() {
    let legacy = Db::lite(FREE).await;
    let server = Postgres::with(&STRICT.replace("(id))", "(id) ON DELETE CASCADE)")).await;
    server
        .execute(
            "CREATE ROLE shop; ALTER TABLE parent OWNER TO shop; ALTER TABLE child OWNER TO shop; \
             GRANT ALL ON SCHEMA public TO shop; CREATE ROLE bridge LOGIN; GRANT shop TO bridge; \
             GRANT CREATE ON DATABASE postgres TO bridge; GRANT SELECT ON mark TO bridge;",
        )
        .await;
    let url = server.url_for("bridge");
    let link = Link::open(spec(&legacy.url(), &url)).await.unwrap();
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    let advice: Vec<String> = found.advice.iter().map(ToString::to_string).collect();
    for child in ["child", "mark", "parent"] {
        let said = format!("deletes in parent act on {child}");
        assert!(advice.iter().any(|a| a.contains(&said)), "{advice:?}");
    }
    let way = "GRANT SET ON PARAMETER session_replication_role TO \"bridge\"";
    assert!(advice.iter().all(|a| a.contains(way)), "{advice:?}");
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    parked(&link, 0).await;
    server.execute("INSERT INTO mark VALUES (1, NULL, 2)").await;
    let count = "SELECT (SELECT count(*) FROM child) * 100 + (SELECT count(*) FROM mark) * 10 \
                 + (SELECT count(*) FROM parent)";
    assert_eq!(server.number(count).await, 314);
    legacy
        .execute(
            "BEGIN; UPDATE parent SET code = '-' WHERE id = 1; UPDATE parent SET code = 'a' WHERE id = 2; \
             UPDATE parent SET code = 'b' WHERE id = 1; COMMIT;",
        )
        .await;
    parked(&link, 2).await;
    assert_eq!(server.number(count).await, 314);
    // The way out that was named, and a repair.
    let way = match server.version().await {
        15.. => "GRANT SET ON PARAMETER session_replication_role TO bridge",
        _ => "ALTER ROLE bridge SUPERUSER",
    };
    server.execute(way).await;
    assert_eq!(link.repair(false).await.unwrap().repaired, 2);
    parked(&link, 0).await;
    let swapped = "SELECT count(*) FROM parent WHERE (id, code) IN ((1, 'b'), (2, 'a'))";
    assert_eq!(server.number(swapped).await, 2);
    assert_eq!(server.number(count).await, 314);
    assert_eq!(link.preflight().await.unwrap().advice, Vec::new());
    link.shutdown().await;
}

/// Two rows change places by a unique value, in one transaction. What the service has in a column of its own
/// beside them stays with its row.
async fn columns_of_ones_own_stay(extracted: Db) {
    const SWAP: &str = "BEGIN IMMEDIATE; UPDATE parent SET code = 'x' WHERE id = 1; \
        UPDATE parent SET code = 'a' WHERE id = 2; UPDATE parent SET code = 'b' WHERE id = 1; \
        INSERT INTO parent VALUES (9, 'new', NULL); COMMIT";
    let legacy = Db::lite(FREE).await;
    extracted
        .execute("ALTER TABLE parent ADD COLUMN memo varchar(20)")
        .await;
    let link = begun(spec(&legacy.url(), &extracted.url())).await;
    link.unfence(Side::Extracted).await.unwrap();
    extracted
        .execute("UPDATE parent SET memo = 'one' WHERE id = 1")
        .await;
    extracted
        .execute("UPDATE parent SET memo = 'two' WHERE id = 2")
        .await;
    legacy.execute(SWAP).await;
    has(
        &extracted,
        "SELECT count(*) FROM parent WHERE id = 9 AND memo IS NULL",
        1,
    )
    .await;
    for (id, code, memo) in [(1, "b", "one"), (2, "a", "two")] {
        let row = format!(
            "SELECT count(*) FROM parent WHERE id = {id} AND code = '{code}' AND memo = '{memo}'"
        );
        assert_eq!(extracted.number(&row).await, 1, "{row}");
    }
    assert_eq!(link.evidence().unwrap().parked, 0);
    link.shutdown().await;
}

/// Of a batch in which two rows change places, only these are taken out and put back: what the service keeps
/// beside the others is neither read nor written, whatever index it is that they share.
async fn only_they_are_taken_out(extracted: Db, index: &[&str], log: &str) {
    const FILL: &str = "INSERT INTO parent SELECT id + 10, 'r' || id, NULL FROM (SELECT 10 * a.id + b.id AS id \
        FROM parent AS a, parent AS b) AS pairs";
    const SWAP: &str = "BEGIN IMMEDIATE; UPDATE parent SET boss = 4; UPDATE parent SET code = 'x' WHERE id = 1; \
        UPDATE parent SET code = 'a' WHERE id = 2; UPDATE parent SET code = 'b' WHERE id = 1; \
        UPDATE parent SET code = 'c2' WHERE id = 3; UPDATE parent SET code = 'c' WHERE id = 4; \
        DELETE FROM parent WHERE id = 21; INSERT INTO parent VALUES (9, 'r11', 4); COMMIT";
    let legacy = Db::lite(FREE).await;
    legacy.execute(FILL).await;
    for text in index {
        extracted.execute(text).await;
    }
    extracted
        .execute("ALTER TABLE parent ADD COLUMN memo varchar(20)")
        .await;
    extracted
        .execute("CREATE TABLE taken (id integer, memo varchar(20))")
        .await;
    let link = begun(spec(&legacy.url(), &extracted.url())).await;
    link.unfence(Side::Extracted).await.unwrap();
    extracted
        .execute("UPDATE parent SET memo = concat('of ', id)")
        .await;
    extracted.execute(log).await;
    legacy.execute(SWAP).await;
    has(
        &extracted,
        "SELECT count(*) FROM parent WHERE id = 9 AND memo IS NULL",
        1,
    )
    .await;
    let rows = "SELECT count(*) FROM parent WHERE boss = 4 AND memo = concat('of ', id)";
    assert_eq!(extracted.number(rows).await, 19);
    for (id, code) in [(1, "b"), (2, "a"), (3, "c2"), (4, "c")] {
        let row = format!("SELECT count(*) FROM parent WHERE id = {id} AND code = '{code}'");
        assert_eq!(extracted.number(&row).await, 1, "{row}");
    }
    // Two have changed places, and one has gone.
    assert_eq!(extracted.number("SELECT count(*) FROM taken").await, 3);
    let gone = "SELECT count(*) FROM taken WHERE id IN (1, 2, 21)";
    assert_eq!(extracted.number(gone).await, 3);
    assert_eq!(link.evidence().unwrap().parked, 0);
    link.shutdown().await;
}

const UNINDEXED: &str = "CREATE TABLE parent (id integer PRIMARY KEY, code varchar(20) NOT NULL, boss integer); \
    CREATE TABLE child (id integer PRIMARY KEY, parent_id integer NOT NULL, note varchar(20))";
const LOGGED: &str = "CREATE TRIGGER taken_out AFTER DELETE ON parent FOR EACH ROW";

#[tokio::test(flavor = "multi_thread")]
async fn only_rows_that_change_places_are_taken_out_of_sqlite() {
    let index = ["CREATE UNIQUE INDEX part ON parent (lower(code)) WHERE code <> 'none'"];
    let log = format!("{LOGGED} BEGIN INSERT INTO taken VALUES (old.id, old.memo); END");
    only_they_are_taken_out(Db::lite(UNINDEXED).await, &index, &log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_rows_that_change_places_are_taken_out_of_postgres() {
    let index = ["CREATE UNIQUE INDEX part ON parent (lower(code)) WHERE code <> 'none'"];
    let log = "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS \
        'BEGIN INSERT INTO taken VALUES (old.id, old.memo); RETURN NULL; END'; \
        CREATE TRIGGER taken_out AFTER DELETE ON parent FOR EACH ROW EXECUTE FUNCTION noted(); \
        ALTER TABLE parent ENABLE ALWAYS TRIGGER taken_out";
    only_they_are_taken_out(Db::pg(UNINDEXED).await, &index, log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_rows_that_change_places_are_taken_out_of_mariadb() {
    // Its indexes are of columns, which may be computed.
    let index = [
        "ALTER TABLE parent ADD COLUMN lowered varchar(20) AS (lower(code)) PERSISTENT, ADD UNIQUE (lowered)",
    ];
    let log = format!("{LOGGED} INSERT INTO taken VALUES (old.id, old.memo)");
    only_they_are_taken_out(Db::my(UNINDEXED).await, &index, &log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_ones_own_stay_in_sqlite() {
    columns_of_ones_own_stay(Db::lite(FREE_EMPTY).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_ones_own_stay_in_postgres() {
    columns_of_ones_own_stay(Db::pg(FREE_EMPTY).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_ones_own_stay_in_mariadb() {
    columns_of_ones_own_stay(Db::my(FREE_EMPTY).await).await;
}
