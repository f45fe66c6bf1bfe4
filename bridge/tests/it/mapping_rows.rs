//! Tables that take only some rows of a legacy table: a partition by a column, and rows outside
//! of it that nobody touches.

use outgrow_bridge::{Cell, Link, RowFilter, TableSpec};
use outgrow_rollout::{DataPhase, Side};
use proptest::prelude::*;

use crate::mapping::{entry, following, parked, reasons, same, says, spec, verified};
use crate::postgres::Db;
use crate::shop::{Dice, copied};
use crate::turning::cut_over;

const MEDIA: &str = "CREATE TABLE media (id integer PRIMARY KEY, kind varchar(10), title varchar(40) NOT NULL, \
    pages integer, minutes integer)";
const BOOK_AND_DISC: &str = "CREATE TABLE book (id integer PRIMARY KEY, title varchar(40) NOT NULL, pages integer); \
     CREATE TABLE disc (id integer PRIMARY KEY, kind varchar(10) NOT NULL, title varchar(40) NOT NULL, minutes integer)";

/// The rows that the link takes, and the rows that it must not touch. Some collations call `BOOK`
/// and `book ` a `book`; the link does not.
const TAKEN: &str =
    "SELECT count(*) FROM media WHERE kind IN ('book', 'cd', 'lp') AND id % 5 <> 4 AND id <> 10";
const OTHERS: &str = "SELECT count(*) * 10000 + min(length(title)) * 100 + max(length(title)) \
     FROM media WHERE kind IS NULL OR kind NOT IN ('book', 'cd', 'lp') OR id = 10 OR (id % 5 = 4 AND id <> 4)";

fn only(values: &[&str], not: bool) -> Option<RowFilter> {
    Some(RowFilter {
        column: "kind".to_owned(),
        values: values.iter().map(|v| Cell::from(*v)).collect(),
        not,
    })
}

fn partition() -> Vec<TableSpec> {
    let book = TableSpec {
        rows: only(&["book"], false),
        defaults: vec![("minutes".to_owned(), Cell::Null)],
        ..entry(
            "media",
            "book",
            vec![
                ("id", same("id")),
                ("title", same("title")),
                ("pages", same("pages")),
            ],
        )
    };
    let disc = TableSpec {
        rows: only(&["cd", "lp"], false),
        defaults: vec![("pages".to_owned(), Cell::Null)],
        ..entry(
            "media",
            "disc",
            vec![
                ("id", same("id")),
                ("kind", same("kind")),
                ("title", same("title")),
                ("minutes", same("minutes")),
            ],
        )
    };
    vec![book, disc]
}

/// Values that are none of those that the tables take, however like them they look.
const ODD: [&str; 6] = ["NULL", "'BOOK'", "'book '", "'Cd'", "''", "'b\u{f3}ok'"];

async fn fill(legacy: &Db) {
    let rows: Vec<String> = (1..=300_usize)
        .map(|id| {
            let (kind, pages, minutes) = match id % 5 {
                0 => ("'book'", "9", "NULL"),
                1 => ("'cd'", "NULL", "60"),
                2 => ("'lp'", "NULL", "40"),
                3 => ("'dvd'", "NULL", "90"),
                _ => (ODD[id / 5 % ODD.len()], "1", "1"),
            };
            format!("({id}, {kind}, 'title {id}', {pages}, {minutes})")
        })
        .collect();
    let text = format!("INSERT INTO media VALUES {}", rows.join(", "));
    legacy.execute(&text).await;
}

async fn forward(link: &Link, legacy: &Db, extracted: &Db) {
    let evidence = link.evidence().unwrap();
    assert_eq!((evidence.copied_rows, evidence.total_rows), (180, 180));
    let checked = link.check().await.unwrap();
    assert_eq!(
        (checked["book"].legacy, checked["book"].extracted),
        (60, 60)
    );
    assert_eq!(
        (checked["disc"].legacy, checked["disc"].extracted),
        (120, 120)
    );
    // The database counts those rows, and the verification counts what it has mapped.
    let verified_rows = link.verify().await.unwrap().rows();
    for (table, rows) in &checked {
        assert_eq!(rows.legacy, verified_rows[table].legacy, "{table}");
    }
    // From one table to another, out of all, into one, and in the upper case of another kind.
    legacy
        .execute(
            "UPDATE media SET minutes = 77 WHERE id = 15; UPDATE media SET kind = 'cd' WHERE id = 5; UPDATE media SET kind = 'dvd' WHERE id = 6; \
             UPDATE media SET kind = 'book' WHERE id IN (3, 4); UPDATE media SET kind = 'BOOK' WHERE id = 10; \
             UPDATE media SET kind = NULL WHERE id = 11; DELETE FROM media WHERE id = 12; \
             INSERT INTO media VALUES (301, 'lp', 'new', NULL, 30), (302, 'map', 'other', NULL, NULL)",
        )
        .await;
    for (query, number) in [
        ("SELECT count(*) FROM book WHERE id IN (3, 4)", 2),
        ("SELECT count(*) FROM book WHERE id IN (5, 10)", 0),
        ("SELECT count(*) FROM disc WHERE id IN (5, 301)", 2),
        ("SELECT count(*) FROM disc WHERE id IN (6, 11, 12)", 0),
    ] {
        says(extracted, query, number).await;
    }
    verified(link).await;
}

/// Rows that cannot go back: what they would become, and what they would write over.
async fn refused_on_the_way_back(link: &Link, extracted: &Db) {
    extracted
        .execute("INSERT INTO disc VALUES (500, 'dvd', 'no disc', 1); INSERT INTO book VALUES (8, 'mine', 1), (7, 'twice', 1)")
        .await;
    parked(link, 3).await;
    let why = reasons(link).await;
    for part in [
        "`disc` has it, and takes only rows whose kind is 'cd' or 'lp': here it is 'dvd'",
        "media: a row that is not mapped has this key",
        "`book` has it, and takes only rows whose kind is 'book': here it is 'lp'",
    ] {
        assert!(why.contains(part), "{part}\nis not in\n{why}");
    }
    assert_eq!(link.verify().await.unwrap().different, 3);
    extracted
        .execute("DELETE FROM disc WHERE id = 500; DELETE FROM book WHERE id IN (7, 8)")
        .await;
    parked(link, 0).await;
}

async fn partitioned(legacy: Db, extracted: Db) {
    fill(&legacy).await;
    let link = following(spec(&legacy, &extracted, partition())).await;
    forward(&link, &legacy, &extracted).await;
    let others = legacy.number(OTHERS).await;

    cut_over(&link, Side::Extracted).await;
    extracted
        .execute(
            "UPDATE book SET title = 'changed' WHERE id = 15; DELETE FROM book WHERE id = 20; \
             INSERT INTO book VALUES (400, 'a book', 7); INSERT INTO disc VALUES (401, 'cd', 'a disc', 7); \
             UPDATE disc SET kind = 'lp' WHERE id = 16; DELETE FROM disc WHERE id = 5; INSERT INTO book VALUES (5, 'a book again', 5)",
        )
        .await;
    for (query, number) in [
        (
            "SELECT count(*) FROM media WHERE id = 400 AND kind = 'book' AND pages = 7",
            1,
        ),
        // A default is for new rows: this one keeps what the link does not carry.
        (
            "SELECT count(*) FROM media WHERE id = 15 AND title = 'changed' AND minutes = 77",
            1,
        ),
        (
            "SELECT count(*) FROM media WHERE id = 401 AND kind = 'cd' AND minutes = 7",
            1,
        ),
        (
            "SELECT count(*) FROM media WHERE id = 16 AND kind = 'lp'",
            1,
        ),
        (
            "SELECT count(*) FROM media WHERE id = 5 AND kind = 'book'",
            1,
        ),
        ("SELECT count(*) FROM media WHERE id = 20", 0),
    ] {
        says(&legacy, query, number).await;
    }
    refused_on_the_way_back(&link, &extracted).await;
    extracted
        .execute("DELETE FROM book; DELETE FROM disc WHERE minutes < 60")
        .await;
    says(
        &legacy,
        TAKEN,
        extracted.number("SELECT count(*) FROM disc").await,
    )
    .await;
    verified(&link).await;
    assert_eq!(
        legacy.number(OTHERS).await,
        others,
        "rows of others were touched"
    );

    cut_over(&link, Side::Legacy).await;
    legacy
        .execute("INSERT INTO media VALUES (600, 'book', 'the end', 1, NULL)")
        .await;
    says(&extracted, "SELECT count(*) FROM book WHERE id = 600", 1).await;
    verified(&link).await;
    assert_eq!(
        legacy.number(OTHERS).await,
        others,
        "rows of others were touched"
    );
    link.shutdown().await;
}

#[tokio::test]
async fn a_table_is_partitioned() {
    partitioned(Db::lite(MEDIA).await, Db::lite(BOOK_AND_DISC).await).await;
}

#[tokio::test]
async fn a_table_is_partitioned_on_postgres() {
    partitioned(Db::pg(MEDIA).await, Db::pg(BOOK_AND_DISC).await).await;
}

#[tokio::test]
async fn a_table_is_partitioned_on_mariadb() {
    partitioned(Db::my(MEDIA).await, Db::my(BOOK_AND_DISC).await).await;
}

/// One random change of a row, or its birth or death, in or out of what the link takes.
fn media_change(dice: &mut Dice) -> String {
    let kinds = ["'book'", "'cd'", "'lp'", "'dvd'", "NULL", "'BOOK'"];
    let kind = kinds[usize::try_from(dice.roll(6)).unwrap()];
    let (id, n) = (dice.roll(60) + 1, dice.roll(90));
    match dice.roll(4) {
        0 => format!("DELETE FROM media WHERE id = {id}"),
        1 => format!("INSERT OR REPLACE INTO media VALUES ({id}, {kind}, 't{n}', {n}, NULL)"),
        2 => format!("UPDATE media SET kind = {kind} WHERE id = {id}"),
        _ => format!(
            "UPDATE media SET title = 't{n}', minutes = {n} WHERE id BETWEEN {id} AND {id} + 9"
        ),
    }
}

/// One of a book or a disc; ids of both are apart, as one sequence would give them out.
fn item_change(dice: &mut Dice) -> String {
    let (id, n) = (dice.roll(60) + 1, dice.roll(90));
    let (book, disc) = (1_000 + 2 * id, 1_001 + 2 * id);
    match dice.roll(6) {
        0 => format!("DELETE FROM book WHERE id IN ({id}, {book})"),
        1 => format!("DELETE FROM disc WHERE id IN ({id}, {disc})"),
        2 => format!("INSERT OR REPLACE INTO book VALUES ({book}, 't{n}', {n})"),
        3 => format!("INSERT OR REPLACE INTO disc VALUES ({disc}, 'lp', 't{n}', {n})"),
        4 => format!("UPDATE disc SET kind = 'cd', minutes = {n} WHERE id IN ({id}, {disc})"),
        _ => format!("UPDATE book SET title = 't{n}' WHERE id IN ({id}, {book})"),
    }
}

async fn any_moves(seed: u64, changes: u32, chunk: u32) {
    let (legacy, extracted) = (Db::lite(MEDIA).await, Db::lite(BOOK_AND_DISC).await);
    let mut dice = Dice(seed | 1);
    for _ in 0..30 {
        legacy.execute(&media_change(&mut dice)).await;
    }
    let mut spec = spec(&legacy, &extracted, partition());
    spec.limits.chunk_rows = chunk;
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    for _ in 0..changes {
        legacy.execute(&media_change(&mut dice)).await;
    }
    copied(&link).await;
    cut_over(&link, Side::Extracted).await;
    verified(&link).await;
    let others = "SELECT coalesce(sum(id * 100 + length(title) + coalesce(minutes, 0)), 0) \
                  FROM media WHERE kind IS NULL OR kind NOT IN ('book', 'cd', 'lp')";
    let before = legacy.number(others).await;
    for _ in 0..changes {
        extracted.execute(&item_change(&mut dice)).await;
    }
    cut_over(&link, Side::Legacy).await;
    verified(&link).await;
    assert_eq!(legacy.number(others).await, before);
    assert_eq!(link.evidence().unwrap().parked, 0);
    link.shutdown().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, max_shrink_iters: 8, ..ProptestConfig::default() })]

    #[test]
    fn any_moves_between_tables_end_equal(seed: u64, changes in 1u32..60, chunk in 1u32..20) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(any_moves(seed, changes, chunk));
    }
}

#[tokio::test]
async fn rows_without_a_value_are_told_apart_too() {
    let legacy = Db::lite(
        "CREATE TABLE note (id integer PRIMARY KEY, text text, deleted_at text, secret integer)",
    )
    .await;
    let extracted =
        Db::lite("CREATE TABLE note (id integer PRIMARY KEY, text text, secret integer)").await;
    legacy
        .execute("INSERT INTO note VALUES (1, 'a', NULL, 0), (2, 'b', '2026-01-01', 0), (3, 'c', NULL, 1)")
        .await;
    let mut table = entry(
        "note",
        "note",
        vec![
            ("id", same("id")),
            ("text", same("text")),
            ("secret", same("secret")),
        ],
    );
    table.rows = Some(RowFilter {
        column: "deleted_at".to_owned(),
        values: vec![Cell::Null],
        not: false,
    });
    let link = following(spec(&legacy, &extracted, vec![table])).await;
    says(&extracted, "SELECT sum(id) FROM note", 4).await;
    legacy
        .execute("UPDATE note SET deleted_at = 'now' WHERE id = 1; UPDATE note SET deleted_at = NULL WHERE id = 2")
        .await;
    says(&extracted, "SELECT sum(id) FROM note", 5).await;
    cut_over(&link, Side::Extracted).await;
    extracted.execute("DELETE FROM note WHERE id = 3").await;
    says(&legacy, "SELECT sum(id) FROM note", 3).await;
    verified(&link).await;
    link.shutdown().await;
}

#[tokio::test]
async fn filters_that_would_lose_rows_are_refused() {
    let (legacy, extracted) = (Db::lite(MEDIA).await, Db::lite(BOOK_AND_DISC).await);
    let mut tables = partition();
    tables[0].defaults.clear();
    tables[1].columns.retain(|c| c.extracted != "kind");
    tables[1].defaults.push(("kind".to_owned(), "cd".into()));
    let problems = |tables: Vec<TableSpec>| {
        let spec = spec(&legacy, &extracted, tables);
        async move {
            let link = Link::open(spec).await.unwrap();
            let found = link.preflight().await.unwrap();
            link.shutdown().await;
            found
                .problems
                .iter()
                .map(|p| p.to_string() + "\n")
                .collect::<String>()
        }
    };
    let text = problems(tables.clone()).await;
    for part in [
        "`media` column `minutes`: nothing in `book` has it",
        "`media` column `kind`: `rows` tells rows apart by it, and `disc` has only a default",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
    tables[0].rows = only(&[], false);
    tables[1].rows = Some(RowFilter {
        column: "minutes".to_owned(),
        values: vec!["long".into()],
        not: true,
    });
    let text = problems(tables).await;
    for part in ["`rows` names no value", "compares it with 'long'"] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
}
