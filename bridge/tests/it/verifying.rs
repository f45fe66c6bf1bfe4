//! Verification finds exactly the rows that differ, while both sides move; repair mends them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use outgrow_bridge::{FaultHook, Link};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::shop::{Dice, Shop, WAIT, copied};

/// Damages rows past triggers and fences, as a broken disk or an old backup would.
async fn corrupt(shop: &Shop, statements: &str) {
    let control = "\"_outgrow_catalog_control\"";
    shop.catalog
        .execute(&format!(
            "begin immediate; pragma defer_foreign_keys = on; update {control} set applying = 1; {statements} update {control} set applying = 0; commit;"
        ))
        .await;
}

#[tokio::test]
async fn finds_exactly_the_corrupted_rows_beside_a_writer() {
    let shop = Arc::new(Shop::with(6_000).await);
    let link = shop.following().await;
    let mut dice = Dice(99);
    let bad: BTreeSet<u64> = std::iter::repeat_with(|| dice.roll(6_000) + 1)
        .take(50)
        .collect();
    let statements: String = bad
        .iter()
        .map(|id| match id % 4 {
            0 => format!("delete from product_price where product_id = {id};"),
            1 => format!("update product set description = 'rot' where id = {id};"),
            2 => format!(
                "update product_price set amount_cents = amount_cents + 1 where product_id = {id};"
            ),
            _ => {
                format!("update product set weight_g = null, title = title || ' ' where id = {id};")
            }
        })
        .collect();
    // Only rows that the bridge will not write again by itself: the writer leaves them alone.
    corrupt(&shop, &statements).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (shop, stop, bad) = (Arc::clone(&shop), Arc::clone(&stop), bad.clone());
        async move {
            let mut dice = Dice(7);
            let mut written = 0u32;
            while !stop.load(Ordering::Relaxed) {
                let id = dice.roll(6_000) + 1;
                if !bad.contains(&id) {
                    let price = format!("{}.11", dice.roll(500) + 1);
                    shop.legacy.execute(&format!("update products set price = '{price}' where id = {id}; insert into price_changes (product_id, old_price, new_price, changed_by, ref, changed_at) values ({id}, '1.00', '{price}', 1, 'w', '2026-01-01 00:00:00');")).await;
                    written += 1;
                }
            }
            written
        }
    });
    let report = link.verify().await.unwrap();
    let again = link.verify().await.unwrap();
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 0);
    let found: BTreeSet<u64> = report
        .differences
        .iter()
        .map(|d| d.key.parse().unwrap())
        .collect();
    assert_eq!(found, bad);
    assert_eq!((report.different, report.unsettled), (bad.len() as u64, 0));
    assert_eq!(again.different, report.different);
    let rows = report.rows();
    assert_eq!(rows["category"].different, 0);
    assert_eq!(rows["price_change"].different, 0);
    let missing = bad.iter().filter(|id| *id % 4 == 0).count() as u64;
    assert_eq!(
        rows["product_price"].legacy - rows["product_price"].extracted,
        missing
    );

    let planned = link.repair(true).await.unwrap();
    assert_eq!((planned.found, planned.repaired), (bad.len() as u64, 0));
    let done = link.repair(false).await.unwrap();
    assert_eq!((done.repaired, done.remaining), (bad.len() as u64, 0));
    shop.catalog_equal().await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

#[tokio::test]
async fn names_columns_with_both_values_and_removes_extra_rows() {
    let shop = Shop::with(20).await;
    let link = shop.following().await;
    corrupt(
        &shop,
        "update product_price set amount_cents = 1 where product_id = 4; insert into category values (77, 'left over', null, 1);",
    )
    .await;
    let report = link.verify().await.unwrap();
    let json = serde_json::to_value(&report).unwrap();
    let price = json["differences"]
        .as_array()
        .unwrap()
        .iter()
        .find(|d| d["extracted"] == "product_price")
        .unwrap();
    assert_eq!(price["key"], "4");
    assert_eq!(price["columns"][0]["column"], "amount_cents");
    assert_eq!(price["columns"][0]["legacy"], 504);
    assert_eq!(price["columns"][0]["extracted"], 1);
    let rows = report.rows();
    assert_eq!(
        (
            rows["category"].legacy,
            rows["category"].extracted,
            rows["category"].different
        ),
        (4, 5, 1)
    );
    let evidence = link.evidence().unwrap();
    assert_eq!(evidence.verified.unwrap()["product_price"].different, 1);
    assert_eq!(link.repair(false).await.unwrap().repaired, 2);
    shop.catalog_equal().await;
    // The old figures are gone, so that a gate asks for new ones.
    assert_eq!(link.evidence().unwrap().verified, None);
    link.shutdown().await;
}

#[tokio::test]
async fn a_change_on_its_way_is_no_difference() {
    let shop = Shop::with(20).await;
    let mut spec = shop.catalog_spec();
    spec.limits.settle_tries = 2;
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    link.pause().await.unwrap();
    shop.legacy
        .execute("update products set tags = 'on its way' where id = 3")
        .await;
    corrupt(&shop, "update product set labels = 'rot' where id = 4;").await;
    let report = link.verify().await.unwrap();
    let kinds: Vec<(&str, &str)> = report
        .differences
        .iter()
        .map(|d| (d.key.as_str(), d.kind))
        .collect();
    assert!(kinds.contains(&("3", "unsettled")), "{kinds:?}");
    assert!(kinds.contains(&("4", "different")), "{kinds:?}");
    assert_eq!((report.different, report.unsettled), (2, 1));
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    eventually("the change to arrive", WAIT, || async {
        (link.verify().await.unwrap().different == 1).then_some(())
    })
    .await;
    link.shutdown().await;
}

/// The change is applied and its note is trimmed between the looks at the two sides.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_trimmed_meanwhile_is_no_difference() {
    let shop = Shop::with(20).await;
    let mut spec = shop.catalog_spec();
    let (looked, mut looks) = tokio::sync::mpsc::unbounded_channel();
    let (go_on, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(Some(gate));
    let trims = Arc::new(AtomicU64::new(0));
    let counted = trims.clone();
    spec.limits.fault = Some(FaultHook::new(move |point| match point {
        "trimmed" => drop(counted.fetch_add(1, Ordering::AcqRel)),
        "target-looked-at" => {
            // The first look only waits for the rest.
            if let Some(gate) = gate.lock().unwrap().take() {
                looked.send(()).unwrap();
                tokio::task::block_in_place(|| gate.recv().unwrap());
            }
        }
        _ => {}
    }));
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    link.pause().await.unwrap();
    shop.legacy
        .execute("update products set tags = 'hot' where id = 3")
        .await;
    let verifying = tokio::spawn({
        let link = link.clone();
        async move { link.verify().await.unwrap() }
    });
    looks.recv().await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    shop.catalog_equal().await;
    // One that had begun before, and one that has seen all.
    let before = trims.load(Ordering::Acquire);
    eventually("the stream to be trimmed", WAIT, || async {
        (trims.load(Ordering::Acquire) >= before + 2).then_some(())
    })
    .await;
    go_on.send(()).unwrap();
    let report = verifying.await.unwrap();
    assert_eq!(report.differences, Vec::new());
    assert_eq!((report.different, report.unsettled), (0, 0));
    // Nobody reads any more: all is trimmed.
    let noted = "select count(*) from \"_outgrow_catalog_changes\" where tbl <> ''";
    eventually("the note to be trimmed", WAIT, || async {
        (shop.legacy.number(noted).await == 0).then_some(())
    })
    .await;
    link.shutdown().await;
}

#[tokio::test]
async fn a_parked_row_is_a_difference() {
    let shop = Shop::with(20).await;
    let link = shop.following().await;
    shop.legacy
        .execute("update products set price = 'free' where id = 2")
        .await;
    eventually("the row to be parked", WAIT, || async {
        (link.evidence()?.parked == 1).then_some(())
    })
    .await;
    let report = link.verify().await.unwrap();
    assert_eq!(report.different, 1);
    assert!(report.differences.iter().all(|d| d.kind == "unmappable"));
    let done = link.repair(false).await.unwrap();
    assert_eq!((done.repaired, done.remaining), (0, 1));
    link.shutdown().await;
}

#[tokio::test]
async fn the_check_of_a_cutover_sees_a_missing_row() {
    let shop = Shop::with(20).await;
    let link = shop.following().await;
    corrupt(&shop, "delete from price_change where id = 5;").await;
    let rows = link.check().await.unwrap();
    assert_eq!(
        (rows["price_change"].legacy, rows["price_change"].extracted),
        (20, 19)
    );
    link.shutdown().await;
}

#[tokio::test]
async fn repair_has_a_cap() {
    let shop = Shop::with(30).await;
    let mut spec = shop.catalog_spec();
    spec.limits.repair_rows = 3;
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    corrupt(&shop, "update category set label = '?';").await;
    let refused = link.repair(false).await.unwrap_err().to_string();
    assert!(
        refused.contains("mends 3 rows at the most and 4 differ"),
        "{refused}"
    );
    link.shutdown().await;
}

/// What differs is counted to the last row; what is kept of it has a bound.
#[tokio::test]
async fn more_differences_than_memory_holds_are_counted() {
    let shop = Shop::with(11_500).await;
    let mut spec = shop.catalog_spec();
    (spec.limits.chunk_bytes, spec.limits.report_rows) = (400_000, 1_000);
    spec.limits.verify_rows = 4_000;
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    corrupt(
        &shop,
        "update product set description = printf('%.*c', 800, 'x');",
    )
    .await;
    let report = link.verify().await.unwrap();
    assert_eq!((report.different, report.unsettled), (11_500, 0));
    let product = report.tables["product"];
    let counted = (product.legacy, product.extracted, product.different);
    assert_eq!(counted, (11_500, 11_500, 11_500));
    // As many as are reported, of which some have room for their values.
    assert_eq!(report.differences.len(), 1_000);
    let with_values = |d: &&outgrow_bridge::Difference| !d.columns.is_empty();
    let shown = report.differences.iter().filter(with_values).count();
    assert!((300..600).contains(&shown), "{shown}");
    let left_out = report.differences.iter().filter_map(|d| d.why.as_ref());
    assert!(left_out.clone().all(|why| why.contains("too large")));
    assert_eq!(shown + left_out.count(), 1_000);
    let refused = link.repair(false).await.unwrap_err().to_string();
    assert!(
        refused.contains("mends 10000 rows at the most and 11500 differ"),
        "{refused}"
    );
    link.shutdown().await;
}
