//! Backfill beside a writer, and following: both sides end equal, whatever happens meanwhile.

use outgrow_bridge::{Limits, Link};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;
use proptest::prelude::*;

use crate::shop::{Dice, Shop, WAIT, copied, legacy_change};

#[tokio::test]
async fn copies_every_row_and_splits_tables() {
    let shop = Shop::with(1_234).await;
    let link = shop.following().await;
    shop.catalog_equal().await;
    assert_eq!(
        shop.catalog
            .number("select count(*) from product_price")
            .await,
        1_234
    );
    let evidence = link.evidence().unwrap();
    assert!(evidence.copied);
    assert_eq!(evidence.copied_rows, 1_234 * 2 + 4);
    assert_eq!(evidence.parked, 0);
    link.shutdown().await;
}

#[tokio::test]
async fn follows_inserts_updates_deletes_and_moved_keys() {
    let shop = Shop::with(50).await;
    let link = shop.following().await;
    shop.legacy
        .execute(
            "update products set price = '7.77' where id = 1;
             delete from price_changes where product_id in (2, 3); delete from products where id = 2;
             update products set id = 900 where id = 3;
             insert into categories values (9, 'New', 3, 4); update products set category_id = 9 where id = 4;",
        )
        .await;
    eventually("the price", WAIT, || async {
        let cents = shop
            .catalog
            .number("select amount_cents from product_price where product_id = 1")
            .await;
        (cents == 777).then_some(())
    })
    .await;
    shop.catalog_equal().await;
    link.shutdown().await;
}

#[tokio::test]
async fn unique_values_may_be_swapped() {
    let shop = Shop::with(10).await;
    let link = shop.following().await;
    shop.legacy
        .execute(
            "begin immediate; update products set sku = 'x' where id = 1; update products set sku = 'SKU-1' where id = 2;
             update products set sku = 'SKU-2' where id = 1; commit;",
        )
        .await;
    eventually("the swap", WAIT, || async {
        let one = shop
            .catalog
            .number("select count(*) from product where id = 1 and sku = 'SKU-2'")
            .await;
        (one == 1).then_some(())
    })
    .await;
    shop.catalog_equal().await;
    assert_eq!(link.evidence().unwrap().parked, 0);
    link.shutdown().await;
}

#[tokio::test]
async fn a_replace_that_removes_another_row_is_seen() {
    let shop = Shop::with(10).await;
    let link = shop.following().await;
    shop.legacy
        .execute(
            "delete from price_changes;
             insert or replace into products select 77, sku, name, description, price, currency, category_id, status, featured, tags, weight_g, created_at, updated_at from products where id = 4;
             update or replace products set sku = 'SKU-5' where id = 6;",
        )
        .await;
    assert_eq!(shop.legacy.number("select count(*) from products").await, 9);
    shop.catalog_equal().await;
    link.shutdown().await;
}

#[tokio::test]
async fn cascades_are_seen() {
    let legacy = outgrow_testkit::TempDatabase::with(
        "create table a(id integer primary key, v text); create table b(id integer primary key, a integer not null references a(id) on delete cascade);
         insert into a values (1, 'x'), (2, 'y'); insert into b values (1, 1), (2, 1), (3, 2);",
    )
    .await;
    let extracted = outgrow_testkit::TempDatabase::with(
        "create table a(id integer primary key, v text); create table b(id integer primary key, a integer not null references a(id));",
    )
    .await;
    let link = Link::open(plain_spec(
        &legacy,
        &extracted,
        &[("a", &["id", "v"]), ("b", &["id", "a"])],
    ))
    .await
    .unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    legacy.execute("delete from a where id = 1").await;
    eventually("the cascade", WAIT, || async {
        (extracted
            .number("select (select count(*) from a) * 10 + (select count(*) from b)")
            .await
            == 11)
            .then_some(())
    })
    .await;
    link.shutdown().await;
}

#[tokio::test]
async fn composite_text_keys_are_walked_alike_under_any_collation() {
    let legacy = outgrow_testkit::TempDatabase::with(
        "create table t(region text collate nocase, code text, n integer, v blob, primary key (region, code));
         with recursive c(i) as (select 1 union all select i + 1 from c where i < 500)
         insert into t select char(65 + i % 26) || iif(i % 2, 'x', 'Y'), 'k' || i, i, zeroblob(i % 5) from c;",
    )
    .await;
    let extracted = outgrow_testkit::TempDatabase::with(
        "create table t(region text, code text, n integer, v blob, primary key (region, code)) without rowid;",
    )
    .await;
    let mut spec = plain_spec(&legacy, &extracted, &[("t", &["region", "code", "n", "v"])]);
    spec.tables[0].key = vec!["region".into(), "code".into()];
    spec.limits.chunk_rows = 7;
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    legacy.execute("delete from t where n = 3; update t set v = x'00ff' where n = 4; update t set code = 'moved' where n = 5").await;
    eventually("the changes", WAIT, || async {
        let moved = extracted
            .number("select count(*) from t where code = 'moved' or v = x'00ff' or n = 3")
            .await;
        let all = extracted.number("select count(*) from t").await;
        (moved == 2 && all == 499).then_some(())
    })
    .await;
    let report = link.verify().await.unwrap();
    assert_eq!(
        (
            report.tables["t"].legacy,
            report.tables["t"].extracted,
            report.different
        ),
        (499, 499, 0)
    );
    link.shutdown().await;
}

#[tokio::test]
async fn large_values_cut_a_chunk() {
    let table = "create table t(id integer primary key, a text, b blob);";
    let rows = "with recursive c(i) as (select 1 union all select i + 1 from c where i < 30)
        insert into t select i, hex(zeroblob(50000)), zeroblob(100000) from c; update t set b = zeroblob(9000000) where id = 5;";
    let legacy = outgrow_testkit::TempDatabase::with(&format!("{table} {rows}")).await;
    let extracted = outgrow_testkit::TempDatabase::with(table).await;
    let mut spec = plain_spec(&legacy, &extracted, &[("t", &["id", "a", "b"])]);
    spec.limits.chunk_bytes = 650_000;
    let chunks = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&chunks);
    spec.limits.fault = Some(outgrow_bridge::FaultHook::new(move |at| {
        if at == "chunk-read" {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }));
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    // 3 + 1, the large one, eight of three and the last one.
    assert_eq!(chunks.load(std::sync::atomic::Ordering::Relaxed), 12);
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

#[tokio::test]
async fn a_backfill_waits_for_its_rate_and_for_a_lag_and_goes_on() {
    let shop = Shop::with(300).await;
    for (rate, lag, what) in [
        (
            std::num::NonZeroU32::new(1),
            Limits::default().copy_lag,
            "its rate",
        ),
        (None, std::time::Duration::ZERO, "following to catch up"),
    ] {
        let mut spec = shop.catalog_spec();
        spec.limits.chunk_rows = 1;
        (spec.limits.copy_rate, spec.limits.copy_lag) = (rate, lag);
        let link = Link::open(spec).await.unwrap();
        link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
        eventually("the backfill to wait", WAIT, || async {
            (link.describe()["copy_waits_for"] == what).then_some(())
        })
        .await;
        // Changes go on meanwhile.
        let text = format!("update categories set name = '{what}' where id = 1");
        shop.legacy.execute(&text).await;
        let there = format!("select count(*) from category where label = '{what}'");
        eventually("the change", WAIT, || async {
            (shop.catalog.number(&there).await == 1).then_some(())
        })
        .await;
        assert!(!link.copied(), "{what}");
        link.shutdown().await;
    }
    let link = shop.following().await;
    shop.catalog_equal().await;
    assert!(link.describe()["copy_waits_for"].is_null());
    link.shutdown().await;
}

#[tokio::test]
async fn two_slices_share_the_legacy_database() {
    let shop = Shop::with(120).await;
    let catalog = shop.following().await;
    let reviews = Link::open(shop.reviews_spec()).await.unwrap();
    reviews
        .ensure(DataPhase::Copying, Side::Legacy)
        .await
        .unwrap();
    copied(&reviews).await;
    shop.legacy
        .execute("update reviews set helpful = 5, reply = 'Thanks' where id = 3; update products set tags = 'z' where id = 3;")
        .await;
    shop.catalog_equal().await;
    eventually("the reviews to be equal", WAIT, || async {
        (shop.review_differences().await == 0).then_some(())
    })
    .await;
    reviews.close().await.unwrap();
    shop.legacy
        .execute("update products set tags = 'y' where id = 3; update reviews set helpful = 6")
        .await;
    shop.catalog_equal().await;
    let left = "select count(*) from sqlite_master where name like '%outgrow_reviews%'";
    assert_eq!(
        shop.legacy.number(left).await + shop.reviews.number(left).await,
        0
    );
    assert!(shop.review_differences().await > 0);
    catalog.shutdown().await;
    reviews.shutdown().await;
}

#[tokio::test]
async fn pausing_loses_nothing_and_ensure_resumes() {
    let shop = Shop::with(60).await;
    let link = shop.following().await;
    link.pause().await.unwrap();
    shop.legacy
        .execute("update products set name = 'while paused'")
        .await;
    assert_eq!(
        shop.catalog
            .number("select count(*) from product where title = 'while paused'")
            .await,
        0
    );
    assert_eq!(link.describe()["state"], "paused");
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    shop.catalog_equal().await;
    link.shutdown().await;
}

#[tokio::test]
async fn applied_changes_are_trimmed() {
    let shop = Shop::with(300).await;
    let link = shop.following().await;
    shop.legacy
        .execute("update products set tags = 't'; update products set tags = 'u';")
        .await;
    shop.catalog_equal().await;
    eventually("the change table to be short", WAIT, || async {
        let rows = shop
            .legacy
            .number("select count(*) from \"_outgrow_catalog_changes\" where tbl <> ''")
            .await;
        (rows == 0).then_some(())
    })
    .await;
    link.shutdown().await;
}

#[tokio::test]
async fn heartbeats_cross_both_ways() {
    let shop = Shop::with(5).await;
    let link = shop.following().await;
    let before = std::time::SystemTime::now();
    let through = eventually("a heartbeat from after now", WAIT, || async {
        link.applied_through().filter(|through| *through > before)
    })
    .await;
    assert!(through <= std::time::SystemTime::now());
    eventually("both lags", WAIT, || async {
        let evidence = link.evidence()?;
        (evidence.lag_ms.is_some() && evidence.reverse_lag_ms.is_some()).then_some(())
    })
    .await;
    link.shutdown().await;
}

#[tokio::test]
async fn a_locked_target_is_waited_for_and_shown() {
    let shop = Shop::with(5).await;
    let mut spec = shop.catalog_spec();
    spec.limits.busy = std::time::Duration::from_millis(20);
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    let lock = shop
        .catalog
        .pool()
        .begin_with("begin immediate")
        .await
        .unwrap();
    shop.legacy
        .execute("update products set tags = 'locked'")
        .await;
    eventually("the trouble to be shown", WAIT, || async {
        link.describe()["waiting_for"]
            .as_str()
            .filter(|t| t.contains("locked"))
            .map(|_| ())
    })
    .await;
    drop(lock);
    shop.catalog_equal().await;
    eventually("the trouble to be over", WAIT, || async {
        link.describe()["waiting_for"].is_null().then_some(())
    })
    .await;
    assert_eq!(*link.failures().borrow(), None);
    link.shutdown().await;
}

#[tokio::test]
async fn a_second_bridge_shuts_the_first_one_out() {
    let shop = Shop::with(5).await;
    let first = shop.following().await;
    let second = Link::open(shop.catalog_spec()).await.unwrap();
    second
        .ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    let mut failures = first.failures();
    let reason = failures
        .wait_for(Option::is_some)
        .await
        .unwrap()
        .clone()
        .unwrap();
    assert!(reason.contains("another bridge process"), "{reason}");
    shop.legacy
        .execute("update products set tags = 'second'")
        .await;
    shop.catalog_equal().await;
    first.shutdown().await;
    second.shutdown().await;
}

#[tokio::test]
async fn a_column_that_nobody_mapped_stops_the_link() {
    let shop = Shop::with(5).await;
    let link = shop.following().await;
    let mut failures = link.failures();
    shop.legacy
        .execute("alter table products add column vat text")
        .await;
    let reason = failures
        .wait_for(Option::is_some)
        .await
        .unwrap()
        .clone()
        .unwrap();
    assert!(reason.contains("vat"), "{reason}");
    link.shutdown().await;
}

#[tokio::test]
async fn lost_triggers_are_noticed() {
    let shop = Shop::with(5).await;
    let link = shop.following().await;
    let mut failures = link.failures();
    shop.legacy
        .execute("drop trigger \"_outgrow_catalog_on_products_update\"")
        .await;
    let reason = failures
        .wait_for(Option::is_some)
        .await
        .unwrap()
        .clone()
        .unwrap();
    assert!(
        reason.contains("capture is gone from table `products`"),
        "{reason}"
    );
    assert!(
        link.ensure(DataPhase::Following, Side::Legacy)
            .await
            .is_err()
    );
    link.close().await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    link.shutdown().await;
}

#[tokio::test]
async fn forty_thousand_rows_are_copied_promptly() {
    let shop = Shop::with(20_000).await;
    let mut spec = shop.catalog_spec();
    spec.limits = Limits::default();
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    assert_eq!(shop.catalog_differences().await, 0);
    let report = link.verify().await.unwrap();
    assert_eq!(report.different, 0);
    println!(
        "{}\nverified {} rows/s",
        link.describe()["tables"],
        report.rows_per_second
    );
    link.shutdown().await;
}

/// A writer at work from before the backfill until after it.
async fn beside_a_writer(seed: u64, changes: u32, chunk: u32, batch: u32) {
    let shop = Shop::with(40).await;
    let mut spec = shop.catalog_spec();
    spec.limits.chunk_rows = chunk;
    spec.limits.batch_changes = batch;
    let link = Link::open(spec).await.unwrap();
    let mut dice = Dice(seed | 1);
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    for _ in 0..changes {
        shop.legacy.execute(&legacy_change(&mut dice, 45)).await;
    }
    copied(&link).await;
    shop.catalog_equal().await;
    eventually("no row to be parked", WAIT, || async {
        (link.evidence()?.parked == 0).then_some(())
    })
    .await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 8, ..ProptestConfig::default() })]

    #[test]
    fn a_backfill_beside_any_changes_ends_equal(seed: u64, changes in 1u32..60, chunk in 1u32..20, batch in 1u32..30) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(beside_a_writer(seed, changes, chunk, batch));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by scripts/test --long"]
async fn long_histories_beside_a_backfill_end_equal() {
    for seed in 1..=60 {
        let size = u32::try_from(seed).unwrap();
        beside_a_writer(seed * 7_919, 40 * size, 1 + size % 20, 1 + size % 30).await;
    }
}

/// Tables mapped column by column, keyed by the first column.
fn plain_spec(
    legacy: &outgrow_testkit::TempDatabase,
    extracted: &outgrow_testkit::TempDatabase,
    tables: &[(&str, &[&str])],
) -> outgrow_bridge::LinkSpec {
    let table = |(name, columns): &(&str, &[&str])| outgrow_bridge::TableSpec {
        legacy: (*name).to_owned(),
        extracted: (*name).to_owned(),
        key: vec![columns[0].to_owned()],
        columns: columns
            .iter()
            .map(|c| outgrow_bridge::ColumnSpec {
                extracted: (*c).to_owned(),
                source: outgrow_bridge::Source::Rename((*c).to_owned()),
            })
            .collect(),
        defaults: Vec::new(),
        ..outgrow_bridge::TableSpec::default()
    };
    outgrow_bridge::LinkSpec {
        slice: "plain".parse().unwrap(),
        legacy: legacy.url().parse().unwrap(),
        extracted: extracted.url().parse().unwrap(),
        tables: tables.iter().map(table).collect(),
        writes: outgrow_bridge::Writes::One,
        limits: crate::shop::quick(),
    }
}
