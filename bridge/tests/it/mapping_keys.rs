//! Keys that have another form on the extracted side: numbers of another width, `uuid`, templates.

use std::collections::BTreeSet;

use outgrow_bridge::{Capture, DatabaseUrl, Link, LinkSpec, Policy, Source, TableSpec};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{eventually, is_mysql};

use crate::both::both;
use crate::mapping::{entry, following, parked, reasons, same, says, spec, verified};
use crate::postgres::Db;
use crate::shop::WAIT;
use crate::turning::cut_over;

fn template(before: &str, column: &str) -> Source {
    Source::Join {
        from: vec![column.to_owned()],
        literals: vec![before.to_owned(), String::new()],
        empty_is_null: false,
    }
}

/// Categories with a template, goods with the same number as text, both of which refer to one.
fn named() -> Vec<TableSpec> {
    let category = vec![("id", template("cat-", "id")), ("label", same("name"))];
    let goods = vec![
        ("title", same("title")),
        ("number", same("id")),
        ("category", template("cat-", "category_id")),
    ];
    vec![
        entry("categories", "category", category),
        entry("products", "goods", goods),
    ]
}

const LEGACY: &str = "CREATE TABLE categories (id integer PRIMARY KEY, name varchar(40)); \
    CREATE TABLE products (id integer PRIMARY KEY, category_id integer NOT NULL REFERENCES categories(id), title varchar(40))";
/// Which gives out its ids by a sequence.
const LEGACY_PG: &str = "CREATE TABLE categories (id serial PRIMARY KEY, name varchar(40)); \
    CREATE TABLE products (id serial PRIMARY KEY, category_id integer NOT NULL REFERENCES categories(id), title varchar(40))";
const EXTRACTED: &str = "CREATE TABLE category (id varchar(20) PRIMARY KEY, label varchar(40)); \
    CREATE TABLE goods (number varchar(20) PRIMARY KEY, category varchar(20) NOT NULL REFERENCES category(id), title varchar(40))";

/// Numbers whose texts are in another order.
async fn fill(legacy: &Db) {
    let all = |row: fn(u32) -> String| (1..=120).map(row).collect::<Vec<_>>().join(", ");
    let text = format!(
        "INSERT INTO categories (id, name) VALUES {}; INSERT INTO products (id, category_id, title) VALUES {}",
        all(|id| format!("({id}, 'name {id}')")),
        all(|id| format!("({id}, {}, 'title {id}')", 121 - id)),
    );
    legacy.execute(&text).await;
}

/// A statement that no trigger notes and no fence refuses, as a broken disk would.
pub(crate) async fn corrupt(db: &Db, statement: &str) {
    let text = match db {
        Db::Pg(_) => format!(
            "SET session_replication_role = replica; {statement}; SET session_replication_role = DEFAULT"
        ),
        Db::My(_) => format!(
            "SET @outgrow_applying = 'mapped', foreign_key_checks = 0; {statement}; \
             SET @outgrow_applying = NULL, foreign_key_checks = 1"
        ),
        Db::Lite(_) => format!(
            "begin immediate; pragma defer_foreign_keys = on; update \"_outgrow_mapped_control\" set applying = 1; \
             {statement}; update \"_outgrow_mapped_control\" set applying = 0; commit"
        ),
    };
    db.execute(&text).await;
}

/// What a verification says, as `table kind key`.
async fn found(link: &Link) -> BTreeSet<String> {
    let report = link.verify().await.unwrap();
    for way in report.ways.values() {
        assert_eq!(way.by, "rows", "{:?}", report.ways);
        assert!(way.why.as_ref().unwrap().contains("in another order"));
    }
    let text = |d: &outgrow_bridge::Difference| format!("{} {} {}", d.extracted, d.kind, d.key);
    report.differences.iter().map(text).collect()
}

async fn forward(link: &Link, legacy: &Db, extracted: &Db) {
    legacy
        .execute(
            "UPDATE categories SET name = 'renamed' WHERE id = 7; DELETE FROM products WHERE id = 99; \
             UPDATE products SET id = 1000 WHERE id = 5; INSERT INTO categories (id, name) VALUES (-3, 'below')",
        )
        .await;
    for (query, number) in [
        (
            "SELECT count(*) FROM category WHERE id = 'cat-7' AND label = 'renamed'",
            1,
        ),
        ("SELECT count(*) FROM goods WHERE number IN ('5', '99')", 0),
        (
            "SELECT count(*) FROM goods WHERE number = '1000' AND category = 'cat-116'",
            1,
        ),
        ("SELECT count(*) FROM category WHERE id = 'cat--3'", 1),
        ("SELECT count(*) FROM goods", 119),
    ] {
        says(extracted, query, number).await;
    }
    verified(link).await;
}

/// Whatever is wrong is found, in either order, and mended.
async fn broken_and_mended(link: &Link, extracted: &Db) {
    corrupt(extracted, "DELETE FROM goods WHERE number = '30'").await;
    corrupt(
        extracted,
        "UPDATE category SET label = 'x' WHERE id = 'cat-100'",
    )
    .await;
    corrupt(
        extracted,
        "INSERT INTO category VALUES ('cat-500', 'extra'), ('dog', 'stray')",
    )
    .await;
    let wrong = found(link).await;
    let known = [
        "category different 100",
        "category extra 500",
        "category extra 'dog' of the extracted side",
        "goods missing 30",
    ];
    assert!(known.iter().all(|one| wrong.contains(*one)), "{wrong:?}");
    assert_eq!(wrong.len(), 4, "{wrong:?}");
    let repaired = link.repair(false).await.unwrap();
    assert_eq!((repaired.repaired, repaired.remaining), (4, 0));
    says(
        extracted,
        "SELECT count(*) FROM category WHERE id IN ('cat-500', 'dog')",
        0,
    )
    .await;
    assert_eq!(found(link).await, BTreeSet::new());
}

async fn back(link: &Link, legacy: &Db, extracted: &Db) {
    cut_over(link, Side::Extracted).await;
    extracted
        .execute(
            "INSERT INTO category VALUES ('cat-900', 'new'), ('cat-0901', 'odd'), ('dog', 'odd'); \
             UPDATE category SET label = 'seven' WHERE id = 'cat-7'; \
             UPDATE goods SET number = '1001' WHERE number = '1000'; DELETE FROM goods WHERE number = '8'; \
             INSERT INTO goods (number, category, title) VALUES ('007', 'cat-900', 'odd')",
        )
        .await;
    for (query, number) in [
        (
            "SELECT count(*) FROM categories WHERE id = 900 AND name = 'new'",
            1,
        ),
        (
            "SELECT count(*) FROM categories WHERE id = 7 AND name = 'seven'",
            1,
        ),
        ("SELECT count(*) FROM categories WHERE name = 'odd'", 0),
        (
            "SELECT count(*) FROM products WHERE id = 1001 AND category_id = 116",
            1,
        ),
        ("SELECT count(*) FROM products WHERE id IN (8, 1000)", 0),
    ] {
        says(legacy, query, number).await;
    }
    parked(link, 3).await;
    let why = reasons(link).await;
    for part in [
        "'dog' does not have 1 pieces",
        "'cat-0901' would come back as 'cat-901'",
        "the key '007' of the extracted side would come back from `products` as 7",
    ] {
        assert!(why.contains(part), "{part}\nis not in\n{why}");
    }
    assert_eq!(
        found(link).await.len(),
        3,
        "parked rows are not on the legacy side"
    );
    extracted
        .execute("UPDATE category SET id = 'cat-901' WHERE id = 'cat-0901'; DELETE FROM category WHERE id = 'dog'; DELETE FROM goods WHERE number = '007'")
        .await;
    parked(link, 0).await;
    says(legacy, "SELECT count(*) FROM categories WHERE id = 901", 1).await;
    verified(link).await;
}

async fn renamed(legacy: Db, extracted: Db, by: Capture) {
    fill(&legacy).await;
    let mut spec = spec(&legacy, &extracted, named());
    let capturing = |url: &DatabaseUrl| url.clone().capturing(by);
    if by == Capture::Replication {
        (spec.legacy, spec.extracted) = (
            capturing(&spec.legacy).unwrap(),
            capturing(&spec.extracted).unwrap(),
        );
    }
    spec.limits.chunk_rows = 7;
    spec.limits.verify_rows = 25;
    let link = following(spec).await;
    says(
        &extracted,
        "SELECT count(*) FROM goods WHERE number = '120' AND category = 'cat-1'",
        1,
    )
    .await;
    forward(&link, &legacy, &extracted).await;
    broken_and_mended(&link, &extracted).await;
    back(&link, &legacy, &extracted).await;
    cut_over(&link, Side::Legacy).await;
    if matches!(legacy, Db::Pg(_)) {
        // Beyond what came as text.
        legacy
            .execute("INSERT INTO categories (name) VALUES ('next')")
            .await;
        says(
            &extracted,
            "SELECT count(*) FROM category WHERE id = 'cat-902' AND label = 'next'",
            1,
        )
        .await;
    }
    legacy
        .execute("DELETE FROM categories WHERE id = 900")
        .await;
    says(
        &extracted,
        "SELECT count(*) FROM category WHERE id = 'cat-900'",
        0,
    )
    .await;
    verified(&link).await;
    link.shutdown().await;
}

#[tokio::test]
async fn keys_are_renamed() {
    let (legacy, extracted) = (Db::lite(LEGACY).await, Db::lite(EXTRACTED).await);
    renamed(legacy, extracted, Capture::Triggers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_renamed_between_postgres_by_replication() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED).await);
    renamed(legacy, extracted, Capture::Replication).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_renamed_from_mariadb_to_postgres() {
    let (legacy, extracted) = (Db::my(LEGACY).await, Db::pg(EXTRACTED).await);
    renamed(legacy, extracted, Capture::Triggers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_renamed_from_postgres_to_mariadb() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::my(EXTRACTED).await);
    renamed(legacy, extracted, Capture::Triggers).await;
}

/// Both sides write, and a conflict is one, though the key has two forms.
#[tokio::test]
async fn renamed_keys_meet_where_both_sides_write() {
    let (legacy, extracted) = (Db::lite(LEGACY).await, Db::lite(EXTRACTED).await);
    fill(&legacy).await;
    let spec = LinkSpec {
        writes: both(Policy::Writer),
        ..spec(&legacy, &extracted, named())
    };
    let link = following(spec).await;
    extracted
        .execute("UPDATE category SET label = 'theirs' WHERE id = 'cat-10'")
        .await;
    says(
        &legacy,
        "SELECT count(*) FROM categories WHERE id = 10 AND name = 'theirs'",
        1,
    )
    .await;
    link.pause().await.unwrap();
    legacy
        .execute("UPDATE categories SET name = 'L' WHERE id = 20")
        .await;
    extracted
        .execute("UPDATE category SET label = 'E' WHERE id = 'cat-20'")
        .await;
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    let found = eventually("the conflict", WAIT, || async {
        let found = serde_json::to_value(link.conflicts().await.unwrap()).unwrap();
        let found = found["conflicts"].as_array().unwrap().clone();
        (!found.is_empty()).then_some(found)
    });
    let found = found.await;
    assert_eq!((found.len(), &found[0]["key"]), (1, &"20".into()));
    says(
        &extracted,
        "SELECT count(*) FROM category WHERE id = 'cat-20' AND label = 'L'",
        1,
    )
    .await;
    verified(&link).await;
    link.shutdown().await;
}

fn numbered(key: &str) -> Vec<TableSpec> {
    vec![TableSpec {
        key: vec![key.to_owned()],
        ..entry(
            "item",
            "thing",
            vec![("id", same(key)), ("note", same("note"))],
        )
    }]
}

/// `BIGINT UNSIGNED` ids become `bigint`, and go back.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_another_width_are_one_key() {
    let legacy =
        Db::my("CREATE TABLE item (id bigint unsigned AUTO_INCREMENT PRIMARY KEY, note text)")
            .await;
    let extracted = Db::pg(
        "CREATE TABLE thing (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, note text)",
    )
    .await;
    let rows: Vec<String> = (1..=150)
        .map(|id| format!("({}, 'n{id}')", id * 7))
        .collect();
    legacy
        .execute(&format!("INSERT INTO item VALUES {}", rows.join(", ")))
        .await;
    let mut spec = spec(&legacy, &extracted, numbered("id"));
    (spec.limits.chunk_rows, spec.limits.verify_rows) = (20, 30);
    let link = following(spec).await;
    legacy
        .execute("INSERT INTO item VALUES (18446744073709551610, 'large'); UPDATE item SET note = 'x' WHERE id = 14; DELETE FROM item WHERE id = 21")
        .await;
    says(
        &extracted,
        "SELECT count(*) FROM thing WHERE id = 14 AND note = 'x'",
        1,
    )
    .await;
    says(&extracted, "SELECT count(*) FROM thing", 149).await;
    parked(&link, 1).await;
    assert!(reasons(&link).await.contains("18446744073709551610"));
    let report = link.verify().await.unwrap();
    assert_eq!(report.ways["thing"].by, "checksums");
    assert_eq!(report.different, 1, "{:?}", report.differences);
    legacy
        .execute("DELETE FROM item WHERE note = 'large'")
        .await;
    parked(&link, 0).await;
    verified(&link).await;
    cut_over(&link, Side::Extracted).await;
    extracted
        .execute("INSERT INTO thing (note) VALUES ('next')")
        .await;
    says(
        &legacy,
        "SELECT count(*) FROM item WHERE id = 1051 AND note = 'next'",
        1,
    )
    .await;
    verified(&link).await;
    link.shutdown().await;
}

/// Rows are compared in the order of numbers, though decimals are kept as text.
#[tokio::test(flavor = "multi_thread")]
async fn decimals_are_walked_in_the_order_of_numbers() {
    let legacy = Db::lite("CREATE TABLE item (id integer PRIMARY KEY, note text)").await;
    let extracted = Db::pg("CREATE TABLE thing (id numeric(20) PRIMARY KEY, note text)").await;
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9500) \
                INSERT INTO item SELECT i, 'n' || i FROM n";
    legacy.execute(rows).await;
    let link = following(spec(&legacy, &extracted, numbered("id"))).await;
    verified(&link).await;
    for statement in [
        "DELETE FROM thing WHERE id IN (2, 5000)",
        "INSERT INTO thing VALUES (9501, 'extra'), (99999999999999999999, 'extra')",
    ] {
        corrupt(&extracted, statement).await;
    }
    let report = link.verify().await.unwrap();
    let missing = |kind: &str| report.differences.iter().filter(|d| d.kind == kind).count();
    assert_eq!(
        (report.different, missing("missing"), missing("extra")),
        (4, 2, 2),
        "{:?}",
        report.differences
    );
    assert_eq!(link.repair(false).await.unwrap().remaining, 0);
    verified(&link).await;
    link.shutdown().await;
}

const SMALL: &str = "0f14d0ab-9605-4a62-a9e4-5ed26688389b";
const LARGE: &str = "FF14D0AB-9605-4A62-A9E4-5ED26688389B";

async fn uuids(legacy: Db, extracted: Db) {
    legacy
        .execute(&format!(
            "INSERT INTO item VALUES ('{SMALL}', 'a'), ('{LARGE}', 'b'), ('1{}', 'c'), ('a{}', 'd')",
            &SMALL[1..],
            &SMALL[1..]
        ))
        .await;
    let link = Link::open(spec(&legacy, &extracted, numbered("code")))
        .await
        .unwrap();
    let problems = link.preflight().await.unwrap().problems;
    assert!(
        format!("{problems:?}").contains("comes back as"),
        "{problems:?}"
    );
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    parked(&link, 1).await;
    let why = reasons(&link).await;
    assert!(
        why.contains(LARGE) && why.contains(&LARGE.to_lowercase()),
        "{why}"
    );
    says(&extracted, "SELECT count(*) FROM thing", 3).await;
    assert_eq!(link.verify().await.unwrap().different, 1);
    legacy
        .execute("INSERT INTO item VALUES ('none', 'e')")
        .await;
    parked(&link, 2).await;
    legacy
        .execute(&format!(
            "DELETE FROM item WHERE code = 'none'; UPDATE item SET code = '{}' WHERE note = 'b'",
            LARGE.to_lowercase()
        ))
        .await;
    parked(&link, 0).await;
    says(&extracted, "SELECT count(*) FROM thing", 4).await;
    verified(&link).await;
    cut_over(&link, Side::Extracted).await;
    extracted
        .execute(&format!("UPDATE thing SET note = 'back' WHERE id = '{SMALL}'; DELETE FROM thing WHERE note = 'd'"))
        .await;
    says(&legacy, "SELECT count(*) FROM item WHERE note = 'back'", 1).await;
    says(&legacy, "SELECT count(*) FROM item", 3).await;
    verified(&link).await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_becomes_a_uuid() {
    let legacy = Db::lite("CREATE TABLE item (code text PRIMARY KEY, note text)").await;
    let extracted = Db::pg("CREATE TABLE thing (id uuid PRIMARY KEY, note text)").await;
    uuids(legacy, extracted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_becomes_a_uuid_of_mariadb() {
    if is_mysql() {
        // It has no such type.
        return;
    }
    let legacy = Db::pg("CREATE TABLE item (code varchar(40) PRIMARY KEY, note text)").await;
    let extracted = Db::my("CREATE TABLE thing (id uuid PRIMARY KEY, note text)").await;
    uuids(legacy, extracted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_other_kinds_are_refused() {
    let legacy = Db::lite("CREATE TABLE item (id blob PRIMARY KEY, note text)").await;
    let extracted = Db::pg("CREATE TABLE thing (id bigint PRIMARY KEY, note text)").await;
    let link = Link::open(spec(&legacy, &extracted, numbered("id")))
        .await
        .unwrap();
    let problems = format!("{:?}", link.preflight().await.unwrap().problems);
    assert!(
        problems.contains("the key is bytes in the legacy table and a number here"),
        "{problems}"
    );
    assert!(problems.contains("between text and `uuid`"), "{problems}");
    link.shutdown().await;
}
