//! Tables without a primary key: followed by a unique key that tells every row from the others, and
//! refused with what to do where there is none.

use outgrow_bridge::{Capture, Link};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::mapping::{following, parked, reasons, says, spec, verified};
use crate::postgres::Db;
use crate::postgres_values::same;
use crate::shop::WAIT;
use crate::turning::cut_over;

const TABLE: &str = "CREATE TABLE item (code varchar(20) NOT NULL, part int NOT NULL, name varchar(20), \
     UNIQUE (code, part))";
const KEY: [&str; 2] = ["code", "part"];

async fn told(db: &Db, table: &str, key: &[&str]) -> String {
    db.execute(table).await;
    let columns = ["code", "part", "name"];
    let extracted = "CREATE TABLE item (code text NOT NULL UNIQUE, part int NOT NULL, name text NOT NULL, \
         UNIQUE (code, part))";
    let extracted = Db::lite(extracted).await;
    let spec = spec(db, &extracted, vec![same("item", key, &columns)]);
    let link = Link::open(spec).await.unwrap();
    let found = link.preflight().await.unwrap();
    link.shutdown().await;
    db.execute("DROP TABLE item").await;
    let all: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
    all.join("\n")
}

/// Copied, followed with changes of keys, turned, and back.
async fn whole_way(legacy: Db, extracted: Db, capture: Capture) {
    legacy
        .execute("INSERT INTO item VALUES ('a', 1, 'one'), ('a', 2, 'two'), ('b', 1, NULL)")
        .await;
    let mut spec = spec(
        &legacy,
        &extracted,
        vec![same("item", &KEY, &["code", "part", "name"])],
    );
    if capture == Capture::Replication {
        spec.legacy = spec.legacy.capturing(capture).unwrap();
        spec.extracted = spec.extracted.capturing(capture).unwrap();
    }
    let link = following(spec).await;
    for text in [
        "INSERT INTO item VALUES ('c', 7, 'seven')",
        "UPDATE item SET name = 'ONE' WHERE code = 'a' AND part = 1",
        "UPDATE item SET part = 9 WHERE code = 'a' AND part = 2",
        "DELETE FROM item WHERE code = 'b'",
    ] {
        legacy.execute(text).await;
    }
    says(
        &extracted,
        "SELECT count(*) FROM item WHERE name = 'ONE'",
        1,
    )
    .await;
    says(&extracted, "SELECT count(*) FROM item WHERE part = 9", 1).await;
    says(&extracted, "SELECT count(*) FROM item", 3).await;
    verified(&link).await;
    cut_over(&link, Side::Extracted).await;
    link.unfence(Side::Extracted).await.unwrap();
    for text in [
        "INSERT INTO item VALUES ('d', 1, 'back')",
        "UPDATE item SET code = 'e' WHERE code = 'c'",
        "DELETE FROM item WHERE part = 9",
    ] {
        extracted.execute(text).await;
    }
    says(
        &legacy,
        "SELECT count(*) FROM item WHERE code = 'e' AND part = 7",
        1,
    )
    .await;
    says(&legacy, "SELECT count(*) FROM item WHERE part = 9", 0).await;
    says(&legacy, "SELECT count(*) FROM item", 3).await;
    verified(&link).await;
    parked(&link, 0).await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_key_is_followed_both_ways() {
    let lite = || Db::lite(TABLE);
    whole_way(lite().await, lite().await, Capture::Triggers).await;
    whole_way(Db::pg(TABLE).await, lite().await, Capture::Triggers).await;
    whole_way(Db::my(TABLE).await, Db::pg(TABLE).await, Capture::Triggers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_key_is_followed_by_logs() {
    let identity =
        format!("{TABLE}; ALTER TABLE item REPLICA IDENTITY USING INDEX item_code_part_key");
    let pg = || Db::pg(&identity);
    whole_way(pg().await, pg().await, Capture::Replication).await;
    whole_way(Db::logged(TABLE).await, pg().await, Capture::Replication).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_does_not_tell_the_key_is_refused_with_the_way_out() {
    let legacy = Db::pg(TABLE).await;
    let extracted = Db::lite(TABLE).await;
    let mut spec = spec(
        &legacy,
        &extracted,
        vec![same("item", &KEY, &["code", "part", "name"])],
    );
    spec.legacy = spec.legacy.capturing(Capture::Replication).unwrap();
    let link = Link::open(spec).await.unwrap();
    let found = link.preflight().await.unwrap();
    let text: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
    assert!(
        text.join("").contains("REPLICA IDENTITY USING INDEX"),
        "{text:?}"
    );
    link.shutdown().await;
}

const NONE: &str = "is not a unique key of the legacy table";

/// What else is declared, the key that is asked for, and what is said of it.
type Told = (&'static str, &'static str, &'static str);

const PG: [Told; 8] = [
    ("", "code", NONE),
    (
        "CREATE UNIQUE INDEX i ON item (code) WHERE part > 1",
        "code",
        "a partial index",
    ),
    ("CREATE UNIQUE INDEX i ON item (lower(code))", "code", NONE),
    (
        "ALTER TABLE item ADD UNIQUE (code) DEFERRABLE",
        "code",
        "DEFERRABLE",
    ),
    (
        "ALTER TABLE item ADD PRIMARY KEY (code) DEFERRABLE",
        "code",
        "DEFERRABLE",
    ),
    ("ALTER TABLE item ADD UNIQUE (name)", "name", "may be NULL"),
    (
        "ALTER TABLE item ADD UNIQUE NULLS NOT DISTINCT (name)",
        "name",
        "may be NULL",
    ),
    (
        "CREATE UNIQUE INDEX i ON item (part) INCLUDE (code)",
        "code",
        NONE,
    ),
];

const MY: [Told; 4] = [
    ("", "code", NONE),
    (
        "CREATE UNIQUE INDEX i ON item (code(3))",
        "code",
        "a prefix index",
    ),
    (
        "CREATE UNIQUE INDEX i ON item (name)",
        "name",
        "may be NULL",
    ),
    ("CREATE UNIQUE INDEX i ON item (code, part)", "code", NONE),
];

const LITE: [Told; 4] = [
    ("", "code", NONE),
    (
        "CREATE UNIQUE INDEX i ON item (code) WHERE part > 1",
        "code",
        "a partial index",
    ),
    ("CREATE UNIQUE INDEX i ON item (lower(code))", "code", NONE),
    (
        "CREATE UNIQUE INDEX i ON item (name)",
        "name",
        "may be NULL",
    ),
];

/// What is a key, also beside what is none.
const KEYS: [(usize, &str); 4] = [
    (
        0,
        "CREATE UNIQUE INDEX i ON item (code) WHERE part > 1; CREATE UNIQUE INDEX j ON item (code)",
    ),
    (
        0,
        "CREATE UNIQUE INDEX j ON item (code DESC) INCLUDE (name)",
    ),
    (
        1,
        "CREATE UNIQUE INDEX i ON item (code(3)); CREATE UNIQUE INDEX j ON item (code)",
    ),
    (2, "CREATE UNIQUE INDEX j ON item (code DESC)"),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_key_is_refused_with_what_to_do() {
    let table = |more: &str| {
        let end = if more.is_empty() { "" } else { "; " };
        format!(
            "CREATE TABLE item (code varchar(20) NOT NULL, part int NOT NULL, name varchar(20)){end}{more}"
        )
    };
    let all = [
        Db::pg("").await,
        Db::my("SELECT 1").await,
        Db::lite("").await,
    ];
    let told_of = [&PG[..], &MY, &LITE];
    for (db, (more, key, what)) in all
        .iter()
        .zip(told_of)
        .flat_map(|(db, all)| all.iter().map(move |one| (db, one)))
    {
        let text = told(db, &table(more), &[key]).await;
        assert!(text.contains(what), "{more}: {text}");
        assert!(text.contains(&format!("({key})")), "{more}: {text}");
    }
    for (at, more) in KEYS {
        let text = told(&all[at], &table(more), &["code"]).await;
        assert_eq!(text, "", "{more}");
    }
}

/// The link stands before a row that it could not tell from others.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_taken_away_stops_the_link() {
    let legacy = Db::pg(TABLE).await;
    let extracted = Db::lite(TABLE).await;
    let tables = vec![same("item", &KEY, &["code", "part", "name"])];
    let link = following(spec(&legacy, &extracted, tables)).await;
    let failed = |what: &'static str| {
        let link = &link;
        eventually(what, WAIT, move || async move {
            let why = link.describe()["failed"].as_str()?.to_owned();
            why.contains(what).then_some(why)
        })
    };
    legacy
        .execute("ALTER TABLE item ALTER COLUMN part DROP NOT NULL")
        .await;
    failed("its unique keys were (code, part) and are (code, part nullable)").await;
    legacy
        .execute("ALTER TABLE item ALTER COLUMN part SET NOT NULL")
        .await;
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    legacy
        .execute("INSERT INTO item VALUES ('a', 1, 'one')")
        .await;
    says(&extracted, "SELECT count(*) FROM item", 1).await;
    legacy
        .execute("ALTER TABLE item DROP CONSTRAINT item_code_part_key")
        .await;
    failed("its unique keys were (code, part) and are ()").await;
    link.shutdown().await;
}

/// SQLite's primary keys may be without a value, as few know: no such row is lost unseen.
#[tokio::test]
async fn rows_without_a_key_are_parked_until_they_have_one() {
    let table = "CREATE TABLE item (code text, part int, name text, PRIMARY KEY (code, part))";
    let legacy = Db::lite(table).await;
    let extracted = Db::lite(TABLE).await;
    legacy
        .execute(
            "INSERT INTO item VALUES (NULL, 1, 'a'), (NULL, 1, 'b'), ('c', NULL, 'c'), ('c', 1, 'd'), ('d', 2, 'e')",
        )
        .await;
    let tables = vec![same("item", &KEY, &["code", "part", "name"])];
    let mut spec = spec(&legacy, &extracted, tables);
    // Chunks begin and end at such rows.
    spec.limits.chunk_rows = 1;
    let link = following(spec).await;
    says(&extracted, "SELECT count(*) FROM item", 2).await;
    parked(&link, 2).await;
    assert!(reasons(&link).await.contains("a key column is NULL"));
    legacy
        .execute("INSERT INTO item VALUES (NULL, NULL, 'f')")
        .await;
    parked(&link, 3).await;
    legacy.execute("DELETE FROM item WHERE name = 'f'").await;
    parked(&link, 2).await;
    legacy
        .execute("UPDATE item SET part = 5 WHERE name = 'c'")
        .await;
    parked(&link, 1).await;
    legacy
        .execute("DELETE FROM item WHERE name = 'a'; UPDATE item SET code = 'b' WHERE name = 'b'")
        .await;
    parked(&link, 0).await;
    says(&extracted, "SELECT count(*) FROM item", 4).await;
    verified(&link).await;
    link.shutdown().await;
}
