//! Mappings that are edited while a link is there: rows that went over before are read again.

use outgrow_bridge::{Cell, ColumnSpec, Link, LinkSpec, RowFilter, Source, TableSpec, Writes};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::crash::{child_between, was_aborted};
use crate::mysql::{EXTRACTED_MY, LEGACY_MY};
use crate::postgres::{Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, Pair, items};
use crate::shop::{WAIT, copied};
use crate::turning::cut_over;

/// A child whose legacy clock is an hour further than that of [`crate::postgres::tables`].
const LATER: &str = "items, an hour later";

pub(crate) fn tables(what: &str) -> Vec<TableSpec> {
    let mut tables = crate::postgres::tables();
    if what.starts_with(LATER) {
        clock(&mut tables, 7_200);
    }
    tables
}

fn clock(tables: &mut [TableSpec], to: i32) {
    for column in &mut tables[0].columns {
        if let Source::LocalTime { offset, .. } = &mut column.source {
            *offset = to;
        }
    }
}

/// Starts a link with a mapping, and waits until no row is left to be read again.
async fn with(spec: &LinkSpec, source: Side) -> Link {
    let link = Link::open(spec.clone()).await.unwrap();
    let phase = match source {
        Side::Legacy => DataPhase::Following,
        Side::Extracted => DataPhase::Reversed,
    };
    link.ensure(phase, source).await.unwrap();
    copied(&link).await;
    eventually("all to be read again", 2 * WAIT, || async {
        let evidence = link.evidence()?;
        (evidence.copied && evidence.backlog == 0).then_some(())
    })
    .await;
    assert_eq!(*link.failures().borrow(), None);
    link
}

async fn equal(link: &Link) {
    let report = link.verify().await.unwrap();
    assert_eq!(report.different, 0, "{:?}", report.differences);
    assert_eq!(link.evidence().unwrap().parked, 0);
}

/// Adds a column on both sides and to the mapping.
async fn a_column_more(pair: &Pair, spec: &mut LinkSpec) {
    let link = with(spec, Side::Legacy).await;
    let mut failures = link.failures();
    for text in [
        "ALTER TABLE article ADD COLUMN extra integer",
        "ALTER TABLE item ADD COLUMN extra integer",
        "UPDATE item SET extra = id + 1",
    ] {
        let db = if text.contains("article") {
            &pair.extracted
        } else {
            &pair.legacy
        };
        db.execute(text).await;
    }
    let stopped = tokio::time::timeout(WAIT, failures.wait_for(Option::is_some)).await;
    let text = stopped.unwrap().unwrap().clone().unwrap();
    assert!(text.contains("legacy `item`: column `extra`"), "{text}");
    link.shutdown().await;
    spec.tables[0].columns.push(ColumnSpec {
        extracted: "extra".to_owned(),
        source: Source::Rename("extra".to_owned()),
    });
    let link = with(spec, Side::Legacy).await;
    let lacking = "SELECT count(*) FROM article WHERE extra IS NULL OR extra <> id + 1";
    assert_eq!(pair.extracted.number(lacking).await, 0);
    equal(&link).await;
    link.shutdown().await;
}

/// Takes fewer rows, and all again, and changes what a column is made of.
async fn other_rows_and_values(pair: &Pair, spec: &mut LinkSpec) {
    let gone = "SELECT count(*) FROM article WHERE state = 'gone'";
    assert!(pair.extracted.number(gone).await > 0);
    spec.tables[0].rows = Some(RowFilter {
        column: "status".to_owned(),
        values: vec![Cell::from("A")],
        not: false,
    });
    let link = with(spec, Side::Legacy).await;
    assert_eq!(pair.extracted.number(gone).await, 0);
    let all = pair.legacy.number("SELECT count(*) FROM item").await;
    equal(&link).await;
    link.shutdown().await;
    spec.tables[0].rows = None;
    clock(&mut spec.tables, 7_200);
    let link = with(spec, Side::Legacy).await;
    let there = pair.extracted.number("SELECT count(*) FROM article").await;
    assert_eq!(there, all);
    equal(&link).await;
    link.shutdown().await;
}

/// Drops a column on both sides and from the mapping.
async fn a_column_less(pair: &Pair, spec: &mut LinkSpec) {
    let link = with(spec, Side::Legacy).await;
    let mut failures = link.failures();
    pair.legacy
        .execute("ALTER TABLE item DROP COLUMN extra")
        .await;
    pair.extracted
        .execute("ALTER TABLE article DROP COLUMN extra")
        .await;
    let stopped = tokio::time::timeout(WAIT, failures.wait_for(Option::is_some)).await;
    let text = stopped.unwrap().unwrap().clone().unwrap();
    assert!(text.contains("column `extra` is gone"), "{text}");
    link.shutdown().await;
    spec.tables[0].columns.retain(|c| c.extracted != "extra");
    let link = with(spec, Side::Legacy).await;
    equal(&link).await;
    link.shutdown().await;
}

/// While rows flow from the extracted side, the legacy rows are made anew, and a filter is not
/// edited.
async fn while_reversed(pair: &Pair, spec: &mut LinkSpec) {
    let link = with(spec, Side::Legacy).await;
    cut_over(&link, Side::Extracted).await;
    link.shutdown().await;
    let sums = async || {
        let at = match &pair.legacy {
            Db::Pg(_) => "SELECT sum(extract(epoch FROM made_at))::bigint FROM item",
            _ => "SELECT CAST(sum(to_seconds(made_at)) AS signed) FROM item",
        };
        pair.legacy.number(at).await
    };
    let before = sums().await;
    let all = pair.legacy.number("SELECT count(*) FROM item").await;
    clock(&mut spec.tables, 3_600);
    let link = with(spec, Side::Extracted).await;
    assert_eq!(sums().await, before - all * 3_600);
    equal(&link).await;
    link.shutdown().await;
    let mut narrow = spec.clone();
    narrow.tables[0].rows = Some(RowFilter {
        column: "status".to_owned(),
        values: vec![Cell::from("A")],
        not: false,
    });
    let link = Link::open(narrow).await.unwrap();
    let refused = link.ensure(DataPhase::Reversed, Side::Extracted).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("Put `rows` back"), "{text}");
    link.shutdown().await;
    let link = with(spec, Side::Extracted).await;
    equal(&link).await;
    link.shutdown().await;
}

async fn edits(pair: Pair) {
    pair.legacy.execute(&items(1, 900)).await;
    let mut spec = pair.spec();
    a_column_more(&pair, &mut spec).await;
    other_rows_and_values(&pair, &mut spec).await;
    a_column_less(&pair, &mut spec).await;
    while_reversed(&pair, &mut spec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_mapping_is_carried_out_for_old_rows() {
    edits(Pair::of(
        Db::pg(LEGACY_PG).await,
        Db::pg(EXTRACTED_PG).await,
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_mapping_is_carried_out_for_old_rows_by_the_log() {
    edits(Pair::replicated(
        Db::pg(LEGACY_PG).await,
        Db::pg(EXTRACTED_PG).await,
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_mapping_is_carried_out_for_old_rows_of_mariadb() {
    edits(Pair::of(
        Db::my(LEGACY_MY).await,
        Db::lite(EXTRACTED_SQLITE).await,
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_mapping_is_carried_out_for_old_rows_of_a_logged_mariadb() {
    edits(Pair::replicated(
        Db::logged(LEGACY_MY).await,
        Db::logged(EXTRACTED_MY).await,
    ))
    .await;
}

/// Amid the backfill, and killed while it reads again.
#[tokio::test(flavor = "multi_thread")]
async fn who_dies_while_reading_again_goes_on_there() {
    let pair = Pair::replicated(Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    pair.legacy.execute(&items(1, 200)).await;
    let (legacy, extracted) = (pair.legacy.url(), pair.extracted.url());
    let died = async |what: &str, point: &str, after: u32| {
        let what = format!("{what} by replication");
        let mut child = child_between(&legacy, &extracted, &what, point, after);
        let ended = tokio::time::timeout(2 * WAIT, child.wait()).await;
        assert!(was_aborted(ended.unwrap().unwrap()), "{what} at {point}");
    };
    died("items", "chunk-read", 2).await;
    died(LATER, "read-again", 3).await;
    let read = "SELECT rows_read FROM _outgrow.items_again";
    assert_eq!(pair.extracted.number(read).await, 40);
    pair.legacy
        .execute("UPDATE item SET note = 'amid' WHERE id % 7 = 0")
        .await;
    died(LATER, "read-again", 4).await;
    assert_eq!(pair.extracted.number(read).await, 100);
    let mut spec = pair.spec();
    clock(&mut spec.tables, 7_200);
    let link = with(&spec, Side::Legacy).await;
    assert_eq!(pair.extracted.number(read).await, 200);
    equal(&link).await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_both_sides_write_an_edited_mapping_is_refused() {
    let pair = Pair::of(
        Db::lite(crate::postgres::LEGACY_SQLITE).await,
        Db::lite(EXTRACTED_SQLITE).await,
    );
    pair.legacy.execute(&items(1, 20)).await;
    let mut spec = pair.spec();
    spec.writes = Writes::Both(outgrow_bridge::Both::default());
    with(&spec, Side::Legacy).await.shutdown().await;
    let as_it_was = spec.clone();
    clock(&mut spec.tables, 7_200);
    let link = Link::open(spec).await.unwrap();
    let refused = link.ensure(DataPhase::Following, Side::Legacy).await;
    let text = refused.unwrap_err().to_string();
    assert!(
        text.contains("the mapping of `item` of slice `items` was edited"),
        "{text}"
    );
    assert!(text.contains("outgrow sync close items"), "{text}");
    link.shutdown().await;
    let link = with(&as_it_was, Side::Legacy).await;
    equal(&link).await;
    link.shutdown().await;
}

/// What says nothing of the rows that are there.
#[tokio::test(flavor = "multi_thread")]
async fn another_order_and_other_defaults_read_nothing_again() {
    let pair = Pair::of(
        Db::lite(crate::postgres::LEGACY_SQLITE).await,
        Db::lite(EXTRACTED_SQLITE).await,
    );
    pair.legacy.execute(&items(1, 20)).await;
    let mut spec = pair.spec();
    with(&spec, Side::Legacy).await.shutdown().await;
    // A row that nobody tells of: it would be removed.
    let mut stranger = items(900, 900);
    for (was, is) in [
        ("item", "article"),
        ("code", "sku"),
        ("price", "price_cents"),
    ] {
        stranger = stranger.replace(was, is);
    }
    let stranger = stranger.replace("status", "state").replace("'D'", "'gone'");
    let slack = "UPDATE _outgrow_items_control SET fenced = 0";
    pair.extracted.execute(slack).await;
    pair.extracted.execute(&stranger).await;
    pair.legacy
        .execute("ALTER TABLE item ADD COLUMN spare text")
        .await;
    spec.tables[0].columns.reverse();
    spec.tables[0].defaults = vec![("spare".to_owned(), Cell::Null)];
    let link = with(&spec, Side::Legacy).await;
    let there = "SELECT count(*) FROM article WHERE id = 900";
    assert_eq!(pair.extracted.number(there).await, 1);
    link.shutdown().await;
}
