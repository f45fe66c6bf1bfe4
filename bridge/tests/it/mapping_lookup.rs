//! Codes that a table of the legacy database translates, also when that table changes.

use outgrow_bridge::{Error, Link, Source, TableSpec};
use outgrow_rollout::{DataPhase, Side};

use crate::mapping::{entry, following, parked, reasons, same, says, spec, verified};
use crate::postgres::Db;
use crate::turning::cut_over;

const LEGACY: &str = "CREATE TABLE statuses (id integer PRIMARY KEY, name varchar(20), note varchar(20)); \
     INSERT INTO statuses VALUES (1, 'open', ''), (2, 'shut', ''), (3, 'lost', ''); \
     CREATE TABLE ticket (id integer PRIMARY KEY, status_id integer, title varchar(20) NOT NULL)";
const EXTRACTED: &str =
    "CREATE TABLE ticket (id integer PRIMARY KEY, status varchar(20), title varchar(20) NOT NULL)";

fn tickets() -> Vec<TableSpec> {
    let status = Source::Lookup {
        from: "status_id".to_owned(),
        table: "statuses".to_owned(),
        key: "id".to_owned(),
        value: "name".to_owned(),
    };
    let columns = vec![
        ("id", same("id")),
        ("status", status),
        ("title", same("title")),
    ];
    vec![entry("ticket", "ticket", columns)]
}

async fn fill(legacy: &Db) {
    let rows: Vec<String> = (1..=900)
        .map(|id| match id % 3 {
            0 => format!("({id}, NULL, 'none')"),
            code => format!("({id}, {code}, 'some')"),
        })
        .collect();
    let text = format!("INSERT INTO ticket VALUES {}", rows.join(", "));
    legacy.execute(&text).await;
}

async fn translated(legacy: Db, extracted: Db) {
    fill(&legacy).await;
    let link = following(spec(&legacy, &extracted, tickets())).await;
    let count = |status: &str| format!("SELECT count(*) FROM ticket WHERE status = '{status}'");
    assert_eq!(extracted.number(&count("open")).await, 300);
    verified(&link).await;

    // A code that is not there yet: parked, and freed once it is.
    legacy
        .execute("INSERT INTO ticket VALUES (1000, 4, 'early')")
        .await;
    parked(&link, 1).await;
    let why = reasons(&link).await;
    assert!(
        why.contains("ticket.status_id: 4 is not in the lookup table `statuses`"),
        "{why}"
    );
    legacy
        .execute("INSERT INTO statuses VALUES (4, 'new', '')")
        .await;
    parked(&link, 0).await;
    says(&extracted, &count("new"), 1).await;

    // Another meaning reaches the rows that have the code; swapped ones, too.
    legacy
        .execute("UPDATE statuses SET name = 'opened' WHERE id = 1; UPDATE statuses SET note = 'x'")
        .await;
    says(&extracted, &count("opened"), 300).await;
    legacy
        .execute("UPDATE statuses SET name = CASE id WHEN 2 THEN 'new' ELSE 'shut' END WHERE id IN (2, 4)")
        .await;
    says(&extracted, &count("new"), 300).await;
    says(&extracted, &count("shut"), 1).await;
    verified(&link).await;
    back(&link, &legacy, &extracted).await;

    // A lookup that is not one to one any more stops the link, and nothing else.
    let mut failures = link.failures();
    legacy
        .execute("INSERT INTO statuses VALUES (9, 'opened', '')")
        .await;
    let why = failures.wait_for(Option::is_some).await.unwrap().clone();
    let why = why.unwrap();
    assert!(
        why.contains("`statuses` has 9 or 'opened' twice, so it cannot be reversed"),
        "{why}"
    );
    legacy
        .execute("DELETE FROM statuses WHERE id = 9; INSERT INTO ticket VALUES (3000, 1, 'after')")
        .await;
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    says(
        &extracted,
        "SELECT count(*) FROM ticket WHERE id = 3000 AND status = 'opened'",
        1,
    )
    .await;
    verified(&link).await;
    link.shutdown().await;
}

/// The way back by the same lookup, and what was renamed meanwhile.
async fn back(link: &Link, legacy: &Db, extracted: &Db) {
    cut_over(link, Side::Extracted).await;
    extracted
        .execute("UPDATE ticket SET status = 'lost' WHERE id = 1; INSERT INTO ticket VALUES (2000, 'odd', 'late')")
        .await;
    says(
        legacy,
        "SELECT count(*) FROM ticket WHERE id = 1 AND status_id = 3",
        1,
    )
    .await;
    parked(link, 1).await;
    let why = reasons(link).await;
    assert!(
        why.contains("ticket.status: 'odd' is not in the lookup table `statuses`"),
        "{why}"
    );
    legacy
        .execute("INSERT INTO statuses VALUES (5, 'odd', '')")
        .await;
    parked(link, 0).await;
    says(
        legacy,
        "SELECT count(*) FROM ticket WHERE id = 2000 AND status_id = 5",
        1,
    )
    .await;
    verified(link).await;
    // The extracted side's words are in force, so a new word waits for the turn.
    legacy
        .execute("UPDATE statuses SET name = 'missing' WHERE id = 3")
        .await;
    cut_over(link, Side::Legacy).await;
    says(
        extracted,
        "SELECT count(*) FROM ticket WHERE id = 1 AND status = 'missing'",
        1,
    )
    .await;
    verified(link).await;
}

#[tokio::test]
async fn codes_are_looked_up() {
    translated(Db::lite(LEGACY).await, Db::lite(EXTRACTED).await).await;
}

#[tokio::test]
async fn codes_are_looked_up_on_postgres() {
    translated(Db::pg(LEGACY).await, Db::lite(EXTRACTED).await).await;
}

#[tokio::test]
async fn lookups_that_cannot_be_reversed_are_refused() {
    let (legacy, extracted) = (Db::lite(LEGACY).await, Db::lite(EXTRACTED).await);
    for (change, part) in [
        (
            "UPDATE statuses SET name = 'open' WHERE id = 2",
            "`statuses` has 2 or 'open' twice",
        ),
        (
            "UPDATE statuses SET name = NULL WHERE id = 2",
            "`statuses` has 2 for NULL",
        ),
        (
            "ALTER TABLE statuses RENAME COLUMN name TO label",
            "`statuses` has no column `name`",
        ),
        ("DROP TABLE statuses", "no lookup table `statuses`"),
    ] {
        legacy.execute(change).await;
        let link = Link::open(spec(&legacy, &extracted, tickets()))
            .await
            .unwrap();
        let found = link.preflight().await.unwrap();
        let text = format!("{:?}", found.problems);
        assert!(text.contains(part), "{part}\nis not in\n{text}");
        let refused = link.ensure(DataPhase::Copying, Side::Legacy).await;
        assert!(matches!(refused, Err(Error::Mapping { .. })));
        link.shutdown().await;
    }
}

#[tokio::test]
async fn the_preflight_sees_codes_that_are_not_there() {
    let (legacy, extracted) = (Db::lite(LEGACY).await, Db::lite(EXTRACTED).await);
    legacy
        .execute("INSERT INTO ticket VALUES (1, 1, 'a'), (2, 7, 'b')")
        .await;
    let link = Link::open(spec(&legacy, &extracted, tickets()))
        .await
        .unwrap();
    let found = link.preflight().await.unwrap();
    let text = format!("{:?}", found.problems);
    let part = "the row with key 2: ticket.status_id: 7 is not in the lookup table `statuses`";
    assert!(text.contains(part), "{text}");
    link.shutdown().await;
}
