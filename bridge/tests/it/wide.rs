//! Tables as wide as an engine lets them be, and tables that refer to one another in a circle.

use outgrow_bridge::{Capture, Link, LinkSpec, TableSpec};
use outgrow_rollout::Side;
use outgrow_testkit::{bridge_user, eventually, least};

use crate::mapping::{following, says, spec};
use crate::postgres::Db;
use crate::postgres_values::same;
use crate::shop::WAIT;
use crate::turning::cut_over;

/// `c1, c2 ..`, each as this says.
fn each(columns: usize, say: impl Fn(usize) -> String) -> String {
    let all: Vec<String> = (1..columns).map(say).collect();
    all.join(", ")
}

fn captured(spec: LinkSpec, capture: Capture) -> LinkSpec {
    LinkSpec {
        legacy: spec.legacy.capturing(capture).unwrap(),
        extracted: spec.extracted.capturing(capture).unwrap(),
        ..spec
    }
}

/// Copies, follows and verifies rows of so many columns, there and back.
async fn wide(capture: Capture, legacy: Db, extracted: Db, (columns, kind): (usize, &str)) {
    let table = format!(
        "CREATE TABLE wide (id int PRIMARY KEY, {})",
        each(columns, |n| format!("c{n} {kind}"))
    );
    legacy.execute(&table).await;
    extracted.execute(&table).await;
    let row = |id: usize| {
        let values = each(columns, |n| (id * n).to_string());
        format!("INSERT INTO wide VALUES ({id}, {values})")
    };
    for id in 1..=3 {
        legacy.execute(&row(id)).await;
    }
    let names: Vec<String> = (1..columns).map(|n| format!("c{n}")).collect();
    let mut all = vec!["id"];
    all.extend(names.iter().map(String::as_str));
    let tables = vec![same("wide", &["id"], &all)];
    let link = following(captured(spec(&legacy, &extracted, tables), capture)).await;
    let last = columns - 1;
    let there = |id: usize| {
        let value = id * last;
        format!("SELECT count(*) FROM wide WHERE id = {id} AND c{last} = {value}")
    };
    says(&extracted, &there(3), 1).await;
    legacy.execute(&row(4)).await;
    legacy
        .execute(&format!(
            "UPDATE wide SET c{last} = -1, c1 = NULL WHERE id = 1"
        ))
        .await;
    says(&extracted, &there(4), 1).await;
    let changed = format!("SELECT count(*) FROM wide WHERE c{last} = -1 AND c1 IS NULL");
    says(&extracted, &changed, 1).await;
    let report = link.verify().await.unwrap();
    assert_eq!((report.different, report.rows()["wide"].legacy), (0, 4));
    cut_over(&link, Side::Extracted).await;
    extracted.execute(&row(5)).await;
    says(&legacy, &there(5), 1).await;
    assert_eq!(link.evidence().unwrap().parked, 0);
    link.shutdown().await;
}

/// The most that PostgreSQL has room for.
const OF_POSTGRES: (usize, &str) = (1_600, "int");
/// And InnoDB, which has some of its own.
const OF_MARIADB: (usize, &str) = (1_000, "int");

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_1600_columns_is_followed_by_triggers() {
    let (legacy, extracted) = (Db::pg("").await, Db::pg("").await);
    wide(Capture::Triggers, legacy, extracted, OF_POSTGRES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_1600_columns_is_followed_by_its_log() {
    let (legacy, extracted) = (Db::pg("").await, Db::pg("").await);
    wide(Capture::Replication, legacy, extracted, OF_POSTGRES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_1000_columns_goes_from_mariadb_to_postgres() {
    let legacy = Db::logged("SELECT 1").await;
    wide(Capture::Replication, legacy, Db::pg("").await, OF_MARIADB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_1600_columns_goes_from_sqlite_to_sqlite() {
    let (legacy, extracted) = (Db::lite("").await, Db::lite("").await);
    wide(Capture::Triggers, legacy, extracted, OF_POSTGRES).await;
}

/// Texts are weighed before they are read.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_1600_texts_goes_from_sqlite_to_sqlite() {
    let (legacy, extracted) = (Db::lite("").await, Db::lite("").await);
    wide(
        Capture::Triggers,
        legacy,
        extracted,
        (OF_POSTGRES.0, "text"),
    )
    .await;
}

fn circle() -> Vec<TableSpec> {
    vec![
        same("shop", &["id"], &["id", "boss"]),
        same("person", &["id"], &["id", "works_in"]),
    ]
}

/// Rows that refer to one another are copied, followed, moved and deleted, there and back.
async fn in_a_circle(capture: Capture, tables: &str, legacy: Db, extracted: Db) {
    let begin = match &legacy {
        Db::Lite(_) => "BEGIN IMMEDIATE",
        Db::Pg(_) | Db::My(_) => "BEGIN",
    };
    for db in [&legacy, &extracted] {
        db.execute(tables).await;
    }
    let both = |id: u32| {
        format!(
            "{begin}; INSERT INTO shop VALUES ({id}, {id}); INSERT INTO person VALUES ({id}, {id}); COMMIT"
        )
    };
    for id in 1..=30 {
        legacy.execute(&both(id)).await;
    }
    let spec = spec(&legacy, &extracted, circle());
    let spec = match &legacy {
        Db::Lite(_) => spec,
        Db::Pg(_) | Db::My(_) => captured(spec, capture),
    };
    let link = following(spec).await;
    let count = "SELECT (SELECT count(*) FROM shop) + 1000 * (SELECT count(*) FROM person)";
    says(&extracted, count, 30_030).await;
    legacy.execute(&both(31)).await;
    legacy
        .execute(&format!(
            "{begin}; DELETE FROM shop WHERE id = 7; DELETE FROM person WHERE id = 7; COMMIT"
        ))
        .await;
    // Everybody works in the next one's shop, and that in one step.
    legacy
        .execute("UPDATE person SET works_in = works_in + 1 WHERE id BETWEEN 10 AND 20")
        .await;
    says(&extracted, count, 30_030).await;
    let moved = "SELECT count(*) FROM person WHERE works_in = id + 1";
    says(&extracted, moved, 11).await;
    whole(&link).await;
    cut_over(&link, Side::Extracted).await;
    extracted.execute(&both(32)).await;
    says(&legacy, count, 31_031).await;
    whole(&link).await;
    link.shutdown().await;
}

async fn whole(link: &Link) {
    eventually("no row to be parked", WAIT, || async {
        (link.evidence()?.parked == 0).then_some(())
    })
    .await;
    assert_eq!(link.verify().await.unwrap().different, 0);
}

const DEFERRED: &str = "CREATE TABLE shop (id int PRIMARY KEY, boss int NOT NULL); \
    CREATE TABLE person (id int PRIMARY KEY, works_in int NOT NULL REFERENCES shop (id) DEFERRABLE INITIALLY DEFERRED); \
    ALTER TABLE shop ADD FOREIGN KEY (boss) REFERENCES person (id) DEFERRABLE INITIALLY DEFERRED";

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_of_references_holds_in_postgres() {
    for capture in [Capture::Triggers, Capture::Replication] {
        let (legacy, extracted) = (Db::pg("").await, Db::pg("").await);
        in_a_circle(capture, DEFERRED, legacy, extracted).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_of_references_holds_in_sqlite() {
    let tables = "CREATE TABLE shop (id integer PRIMARY KEY, \
        boss integer NOT NULL REFERENCES person (id) DEFERRABLE INITIALLY DEFERRED); \
        CREATE TABLE person (id integer PRIMARY KEY, \
        works_in integer NOT NULL REFERENCES shop (id) DEFERRABLE INITIALLY DEFERRED)";
    let (legacy, extracted) = (Db::lite("").await, Db::lite("").await);
    in_a_circle(Capture::Triggers, tables, legacy, extracted).await;
}

/// Where the other side checks each statement by itself, no order of the two tables does: rows are
/// written without the checks there, which the source has made.
#[tokio::test(flavor = "multi_thread")]
async fn a_circle_that_is_checked_at_once_is_carried_over() {
    if least() {
        // Nobody can without the right to turn references off.
        return;
    }
    let tables = DEFERRED.replace(" DEFERRABLE INITIALLY DEFERRED", "");
    let (legacy, extracted) = (Db::pg(DEFERRED).await, Db::pg(&tables).await);
    let both = |id: u32| {
        format!(
            "BEGIN; INSERT INTO shop VALUES ({id}, {id}); INSERT INTO person VALUES ({id}, {id}); COMMIT"
        )
    };
    for id in 1..=30 {
        legacy.execute(&both(id)).await;
    }
    let link = following(spec(&legacy, &extracted, circle())).await;
    let count = "SELECT (SELECT count(*) FROM shop) + 1000 * (SELECT count(*) FROM person)";
    says(&extracted, count, 30_030).await;
    legacy.execute(&both(31)).await;
    says(&extracted, count, 31_031).await;
    legacy
        .execute("BEGIN; DELETE FROM shop WHERE id = 7; DELETE FROM person WHERE id = 7; COMMIT")
        .await;
    says(&extracted, count, 30_030).await;
    whole(&link).await;
    link.shutdown().await;
}

/// A user who may not turn checks off fills both tables: no row of either can be there before the
/// other's, but both at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_circle_is_filled_without_a_superuser() {
    let tables = format!(
        "{DEFERRED}; CREATE ROLE plain LOGIN; GRANT CREATE ON DATABASE postgres TO plain; \
         ALTER TABLE shop OWNER TO plain; ALTER TABLE person OWNER TO plain"
    );
    let (legacy, extracted) = (Db::pg(&tables).await, Db::pg(&tables).await);
    legacy
        .execute(
            "BEGIN; INSERT INTO shop SELECT n, n FROM generate_series(1, 80) n; \
             INSERT INTO person SELECT n, n FROM generate_series(1, 80) n; COMMIT",
        )
        .await;
    let plain = |db: &Db| {
        db.url()
            .replace(&format!("{}@", bridge_user()), "plain@")
            .parse()
            .unwrap()
    };
    let spec = LinkSpec {
        legacy: plain(&legacy),
        extracted: plain(&extracted),
        ..spec(&legacy, &extracted, circle())
    };
    let link = following(spec).await;
    let count = "SELECT (SELECT count(*) FROM shop) + 1000 * (SELECT count(*) FROM person)";
    says(&extracted, count, 80_080).await;
    legacy
        .execute(
            "BEGIN; INSERT INTO shop VALUES (81, 81); INSERT INTO person VALUES (81, 81); COMMIT",
        )
        .await;
    says(&extracted, count, 81_081).await;
    whole(&link).await;
    link.shutdown().await;
}
