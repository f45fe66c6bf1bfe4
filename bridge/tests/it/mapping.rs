//! Columns joined and split: what comes back the same goes, all else is parked and told.

use outgrow_bridge::{ColumnSpec, Link, LinkSpec, Source, TableSpec};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::postgres::Db;
use crate::shop::{WAIT, copied, quick};
use crate::turning::cut_over;

pub(crate) fn same(from: &str) -> Source {
    Source::Rename(from.to_owned())
}

pub(crate) fn entry(legacy: &str, extracted: &str, columns: Vec<(&str, Source)>) -> TableSpec {
    TableSpec {
        legacy: legacy.to_owned(),
        extracted: extracted.to_owned(),
        key: vec!["id".to_owned()],
        columns: columns
            .into_iter()
            .map(|(extracted, source)| ColumnSpec {
                extracted: extracted.to_owned(),
                source,
            })
            .collect(),
        ..TableSpec::default()
    }
}

pub(crate) fn spec(legacy: &Db, extracted: &Db, tables: Vec<TableSpec>) -> LinkSpec {
    LinkSpec {
        slice: "mapped".parse().unwrap(),
        legacy: legacy.url().parse().unwrap(),
        extracted: extracted.url().parse().unwrap(),
        tables,
        writes: outgrow_bridge::Writes::One,
        limits: quick(),
    }
}

/// A link that has copied everything and follows.
pub(crate) async fn following(spec: LinkSpec) -> Link {
    let link = Link::open(spec).await.unwrap();
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    link
}

pub(crate) async fn parked(link: &Link, count: u64) {
    eventually("the parked rows", WAIT, || async {
        (link.evidence()?.parked == count).then_some(())
    })
    .await;
}

/// Why rows are parked, as one text.
pub(crate) async fn reasons(link: &Link) -> String {
    let conflicts = serde_json::to_value(link.conflicts().await.unwrap()).unwrap();
    conflicts["parked"].to_string()
}

/// Waits until a query says this.
pub(crate) async fn says(db: &Db, query: &str, number: i64) {
    eventually(query, WAIT, || async {
        (db.number(query).await == number).then_some(())
    })
    .await;
}

pub(crate) async fn verified(link: &Link) {
    let report = link.verify().await.unwrap();
    assert_eq!(report.different, 0, "{:?}", report.differences);
    for (table, rows) in report.rows() {
        assert_eq!(rows.legacy, rows.extracted, "{table}");
    }
}

fn people() -> Vec<TableSpec> {
    let piece = |part| Source::Part {
        of: "address".to_owned(),
        part,
        at: ", ".to_owned(),
        empty_is_null: false,
    };
    let columns = vec![
        ("id", same("id")),
        (
            "name",
            Source::joined(vec!["first".to_owned(), "last".to_owned()], " ", true),
        ),
        ("city", piece(2)),
        ("street", piece(1)),
        (
            "file",
            Source::Join {
                from: vec!["year".to_owned(), "number".to_owned()],
                literals: vec!["F".to_owned(), "/".to_owned(), String::new()],
                empty_is_null: false,
            },
        ),
    ];
    vec![entry("person", "customer", columns)]
}

const PERSON: &str = "CREATE TABLE person (id integer PRIMARY KEY, first varchar(40), last varchar(40), \
    address varchar(80), year integer NOT NULL, number integer NOT NULL)";
const CUSTOMER: &str = "CREATE TABLE customer (id integer PRIMARY KEY, name varchar(90), \
    street varchar(80), city varchar(80), file varchar(20) NOT NULL)";

async fn joined_and_split(legacy: Db, extracted: Db) {
    legacy.execute("INSERT INTO person VALUES (1, 'Ann', 'Lee', 'Elm 1, Bern', 2026, 7), (2, NULL, 'Madonna', NULL, 2025, 70), (3, 'Bo', 'Hu', 'Oak 3, Ulm', 2024, 9)").await;
    let link = following(spec(&legacy, &extracted, people())).await;
    says(&extracted, "SELECT count(*) FROM customer WHERE name = 'Ann Lee' AND street = 'Elm 1' AND city = 'Bern' AND file = 'F2026/7'", 1).await;
    says(
        &extracted,
        "SELECT count(*) FROM customer WHERE name = ' Madonna' AND city IS NULL",
        1,
    )
    .await;
    // A part that has the separator would come back cut elsewhere.
    legacy
        .execute("UPDATE person SET first = 'Ann Mary' WHERE id = 1")
        .await;
    legacy
        .execute("UPDATE person SET address = 'nowhere' WHERE id = 3")
        .await;
    parked(&link, 2).await;
    let why = reasons(&link).await;
    for part in [
        "person.first+last: 'Ann Mary Lee' can be taken apart",
        "person.address: 'nowhere' does not have 2 pieces",
    ] {
        assert!(why.contains(part), "{part}\nis not in\n{why}");
    }
    says(
        &extracted,
        "SELECT count(*) FROM customer WHERE name = 'Ann Lee'",
        1,
    )
    .await;
    legacy
        .execute("UPDATE person SET first = 'Mary' WHERE id = 1")
        .await;
    legacy
        .execute("UPDATE person SET address = 'Fir 9, Ulm' WHERE id = 3")
        .await;
    parked(&link, 0).await;
    verified(&link).await;

    back_again(&link, &legacy, &extracted).await;
    cut_over(&link, Side::Legacy).await;
    legacy.execute("DELETE FROM person WHERE id = 2").await;
    says(&extracted, "SELECT count(*) FROM customer", 3).await;
    verified(&link).await;
    link.shutdown().await;
}

async fn back_again(link: &Link, legacy: &Db, extracted: &Db) {
    cut_over(link, Side::Extracted).await;
    extracted.execute("UPDATE customer SET name = 'Eve Day', street = 'Ash 2' WHERE id = 1; INSERT INTO customer VALUES (4, 'Cy Fox', 'Yew 4', 'Rom', 'F2026/8')").await;
    says(legacy, "SELECT count(*) FROM person WHERE first = 'Eve' AND last = 'Day' AND address = 'Ash 2, Bern'", 1).await;
    says(legacy, "SELECT count(*) FROM person WHERE id = 4 AND first = 'Cy' AND address = 'Yew 4, Rom' AND number = 8", 1).await;
    extracted
        .execute("UPDATE customer SET file = 'F2026/08' WHERE id = 4; UPDATE customer SET city = 'Ulm, D' WHERE id = 3; UPDATE customer SET name = 'Cher' WHERE id = 2")
        .await;
    parked(link, 3).await;
    let why = reasons(link).await;
    for part in [
        "customer.file: 'F2026/08' would come back as 'F2026/8'",
        "customer.street+city",
        "customer.name: 'Cher' does not have 2 pieces",
    ] {
        assert!(why.contains(part), "{part}\nis not in\n{why}");
    }
    says(
        legacy,
        "SELECT count(*) FROM person WHERE last = 'Madonna'",
        1,
    )
    .await;
    extracted
        .execute("UPDATE customer SET file = 'F2026/80' WHERE id = 4; UPDATE customer SET city = 'Bonn' WHERE id = 3; UPDATE customer SET name = ' Cher' WHERE id = 2")
        .await;
    parked(link, 0).await;
    says(
        legacy,
        "SELECT count(*) FROM person WHERE first IS NULL AND last = 'Cher'",
        1,
    )
    .await;
    verified(link).await;
}

#[tokio::test]
async fn columns_are_joined_and_split() {
    joined_and_split(Db::lite(PERSON).await, Db::lite(CUSTOMER).await).await;
}

#[tokio::test]
async fn columns_are_joined_and_split_on_postgres() {
    joined_and_split(Db::pg(PERSON).await, Db::pg(CUSTOMER).await).await;
}

#[tokio::test]
async fn what_cannot_be_put_together_again_is_refused() {
    let (legacy, extracted) = (Db::lite(PERSON).await, Db::lite(CUSTOMER).await);
    legacy
        .execute("INSERT INTO person VALUES (1, 'Ann Mary', 'Lee', 'x', 2026, 7)")
        .await;
    let mut tables = people();
    let link = Link::open(spec(&legacy, &extracted, tables.clone()))
        .await
        .unwrap();
    let found = link.preflight().await.unwrap();
    let text = format!("{:?}", found.problems);
    assert!(text.contains("the row with key 1"), "{text}");
    link.shutdown().await;

    tables[0].columns[1].source = Source::joined(vec!["first".into(), "last".into()], "", false);
    let Source::Part { part, .. } = &mut tables[0].columns[2].source else {
        unreachable!("the city is a piece");
    };
    *part = 3;
    let link = Link::open(spec(&legacy, &extracted, tables)).await.unwrap();
    let found = link.preflight().await.unwrap();
    let text = format!("{:?}", found.problems);
    for part in [
        "nothing stands between two pieces",
        "is split into the pieces 1, 3",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
    link.shutdown().await;
}
