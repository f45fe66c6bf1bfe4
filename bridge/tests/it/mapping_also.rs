//! Several legacy tables with one key, made into one extracted table.

use outgrow_bridge::{AlsoSpec, Link, Source, TableSpec};
use outgrow_rollout::Side;

use crate::mapping::{entry, following, parked, reasons, same, says, spec, verified};
use crate::postgres::Db;
use crate::turning::cut_over;

pub(crate) const USERS: &str = "CREATE TABLE users (id integer PRIMARY KEY, email varchar(40) NOT NULL); \
     CREATE TABLE profiles (user_id integer PRIMARY KEY REFERENCES users (id), bio varchar(40), phone varchar(40)); \
     CREATE TABLE settings (owner integer PRIMARY KEY, theme varchar(10) NOT NULL)";
pub(crate) const ACCOUNT: &str = "CREATE TABLE account (id integer PRIMARY KEY, email varchar(40) NOT NULL, bio varchar(40), phone varchar(40)); \
     CREATE TABLE look (account_id integer PRIMARY KEY REFERENCES account (id), theme varchar(10) NOT NULL)";

pub(crate) fn accounts() -> Vec<TableSpec> {
    let also = |table: &str, key: &str, optional| AlsoSpec {
        table: table.to_owned(),
        key: vec![key.to_owned()],
        optional,
    };
    let account = TableSpec {
        also: vec![also("profiles", "user_id", true)],
        ..entry(
            "users",
            "account",
            vec![
                ("id", same("id")),
                ("email", same("email")),
                ("bio", same("profiles.bio")),
                ("phone", same("profiles.phone")),
            ],
        )
    };
    let look = TableSpec {
        also: vec![also("settings", "owner", false)],
        ..entry(
            "users",
            "look",
            vec![
                ("account_id", same("id")),
                ("theme", same("settings.theme")),
            ],
        )
    };
    vec![account, look]
}

async fn fill(legacy: &Db) {
    let rows = |row: &dyn Fn(u32) -> String, step: usize| {
        let rows: Vec<String> = (1..=300).step_by(step).map(row).collect();
        rows.join(", ")
    };
    let users = rows(&|id| format!("({id}, 'u{id}@x')"), 1);
    let profiles = rows(&|id| format!("({id}, 'bio {id}', NULL)"), 2);
    let settings = rows(&|id| format!("({id}, 'dark')"), 1);
    legacy
        .execute(&format!(
            "INSERT INTO users VALUES {users}; INSERT INTO profiles VALUES {profiles}; INSERT INTO settings VALUES {settings}"
        ))
        .await;
}

async fn forward(link: &Link, legacy: &Db, extracted: &Db) {
    assert_eq!(link.evidence().unwrap().copied_rows, 300);
    assert_eq!(
        extracted.number("SELECT count(bio) FROM account").await,
        150
    );
    verified(link).await;
    // A row that must be there and is not, one that would not come back, one without a user.
    legacy
        .execute(
            "INSERT INTO users VALUES (400, 'new'); INSERT INTO profiles VALUES (2, NULL, NULL); \
             INSERT INTO settings VALUES (999, 'lost'); UPDATE profiles SET bio = 'changed' WHERE user_id = 1; \
             DELETE FROM profiles WHERE user_id = 3",
        )
        .await;
    parked(link, 3).await;
    let why = reasons(link).await;
    for part in [
        "`settings` has no row with this key",
        "`profiles` has a row of nothing but NULL",
        "`settings` has a row with this key, and `users` has none",
    ] {
        assert!(why.contains(part), "{part}\nis not in\n{why}");
    }
    assert_eq!(link.verify().await.unwrap().different, 3);
    legacy
        .execute(
            "INSERT INTO settings VALUES (400, 'light'); UPDATE profiles SET phone = '7' WHERE user_id = 2; \
             DELETE FROM settings WHERE owner = 999",
        )
        .await;
    parked(link, 0).await;
    for (query, number) in [
        (
            "SELECT count(*) FROM account WHERE id = 1 AND bio = 'changed'",
            1,
        ),
        (
            "SELECT count(*) FROM account WHERE id = 3 AND bio IS NULL",
            1,
        ),
        (
            "SELECT count(*) FROM account WHERE id = 2 AND phone = '7'",
            1,
        ),
        (
            "SELECT count(*) FROM look WHERE account_id = 400 AND theme = 'light'",
            1,
        ),
    ] {
        says(extracted, query, number).await;
    }
    verified(link).await;
}

async fn merged(legacy: Db, extracted: Db) {
    fill(&legacy).await;
    let link = following(spec(&legacy, &extracted, accounts())).await;
    forward(&link, &legacy, &extracted).await;

    cut_over(&link, Side::Extracted).await;
    extracted
        .execute(
            "UPDATE account SET bio = 'back' WHERE id = 4; UPDATE account SET bio = NULL WHERE id = 5; \
             UPDATE look SET theme = 'sand' WHERE account_id = 6; \
             INSERT INTO account VALUES (500, 'e', NULL, '5'); INSERT INTO look VALUES (500, 'l'); \
             INSERT INTO account VALUES (501, 'f', NULL, NULL); INSERT INTO look VALUES (501, 'l'); \
             DELETE FROM look WHERE account_id = 7; DELETE FROM account WHERE id = 7",
        )
        .await;
    for (query, number) in [
        (
            "SELECT count(*) FROM profiles WHERE user_id = 4 AND bio = 'back'",
            1,
        ),
        (
            "SELECT count(*) FROM profiles WHERE user_id IN (5, 7, 501)",
            0,
        ),
        (
            "SELECT count(*) FROM profiles WHERE user_id = 500 AND phone = '5'",
            1,
        ),
        (
            "SELECT count(*) FROM settings WHERE owner = 6 AND theme = 'sand'",
            1,
        ),
        ("SELECT count(*) FROM settings WHERE owner IN (500, 501)", 2),
        ("SELECT count(*) FROM users WHERE id IN (500, 501)", 2),
    ] {
        says(&legacy, query, number).await;
    }
    let gone = "SELECT (SELECT count(*) FROM users WHERE id = 7) + (SELECT count(*) FROM settings WHERE owner = 7)";
    says(&legacy, gone, 0).await;
    verified(&link).await;

    cut_over(&link, Side::Legacy).await;
    legacy
        .execute("UPDATE profiles SET bio = 'end' WHERE user_id = 4")
        .await;
    says(
        &extracted,
        "SELECT count(*) FROM account WHERE bio = 'end'",
        1,
    )
    .await;
    verified(&link).await;
    link.shutdown().await;
}

#[tokio::test]
async fn tables_with_one_key_become_one() {
    merged(Db::lite(USERS).await, Db::lite(ACCOUNT).await).await;
}

#[tokio::test]
async fn tables_with_one_key_become_one_on_postgres() {
    merged(Db::pg(USERS).await, Db::pg(ACCOUNT).await).await;
}

#[tokio::test]
async fn tables_that_could_not_be_told_apart_again_are_refused() {
    let (legacy, extracted) = (Db::lite(USERS).await, Db::lite(ACCOUNT).await);
    let mut tables = accounts();
    tables[0].also[0].key = vec!["bio".to_owned()];
    tables[1].also[0].optional = true;
    tables.push(entry("profiles", "third", vec![("id", same("user_id"))]));
    tables[0].columns.retain(|c| c.extracted != "phone");
    tables[1].columns[1].source = Source::Const("x".into());
    tables[1]
        .defaults
        .push(("settings.theme".to_owned(), "x".into()));
    let link = Link::open(spec(&legacy, &extracted, tables)).await.unwrap();
    let found = link.preflight().await.unwrap();
    let text: String = found.problems.iter().map(|p| format!("{p}\n")).collect();
    for part in [
        "`profiles` is the legacy table of other entries, too",
        "(bio) is not a unique key of the legacy table",
        "column `profiles.phone`: no extracted column is made from it",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
    link.shutdown().await;

    let mut tables = accounts();
    tables[1].also[0].optional = true;
    let link = Link::open(spec(&legacy, &extracted, tables.clone()))
        .await
        .unwrap();
    let found = link.preflight().await.unwrap();
    let text = format!("{:?}", found.problems);
    assert!(text.contains("and `settings` may have no row"), "{text}");
    link.shutdown().await;

    tables[1].columns[1].source = Source::Const("x".into());
    tables[1]
        .defaults
        .push(("settings.theme".to_owned(), "x".into()));
    let link = Link::open(spec(&legacy, &extracted, tables)).await.unwrap();
    let found = link.preflight().await.unwrap();
    let text = format!("{:?}", found.problems);
    assert!(
        text.contains("nothing tells whether it has a row"),
        "{text}"
    );
    link.shutdown().await;
}

#[tokio::test]
async fn the_preflight_sees_rows_that_lack_another() {
    let (legacy, extracted) = (Db::lite(USERS).await, Db::lite(ACCOUNT).await);
    legacy
        .execute("INSERT INTO users VALUES (1, 'a'); INSERT INTO settings VALUES (9, 'dark')")
        .await;
    let link = Link::open(spec(&legacy, &extracted, accounts()))
        .await
        .unwrap();
    let found = link.preflight().await.unwrap();
    assert_eq!(found.sampled, 2);
    let text = format!("{:?}", found.problems);
    for part in [
        "the row with key 1: `settings` has no row with this key",
        "the row with key 9: `settings` has a row with this key, and `users` has none",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
    link.shutdown().await;
}
