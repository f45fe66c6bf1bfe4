//! Rows that cannot be applied, and writes that nobody should have made: kept, counted, shown.

use outgrow_bridge::Link;
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::shop::{Shop, WAIT, copied, foreign_since, now_ms};

async fn parked(link: &Link, count: u64) {
    eventually("the parked rows", WAIT, || async {
        (link.evidence()?.parked == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_malformed_value_is_parked_and_the_link_goes_on() {
    let shop = Shop::with(10).await;
    shop.legacy
        .execute("update products set price = 'call us' where id = 3")
        .await;
    let link = Link::open(shop.catalog_spec()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    parked(&link, 1).await;
    shop.legacy
        .execute("update products set status = '?' where id = 4; update products set name = 'fine' where id = 5;")
        .await;
    parked(&link, 2).await;
    eventually("the others to follow", WAIT, || async {
        (shop
            .catalog
            .number("select count(*) from product where title = 'fine'")
            .await
            == 1)
            .then_some(())
    })
    .await;
    let conflicts = serde_json::to_value(link.conflicts().await.unwrap()).unwrap();
    let reasons: Vec<&str> = conflicts["parked"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["reason"].as_str().unwrap())
        .collect();
    assert!(
        reasons
            .iter()
            .any(|r| r.contains("products.price") && r.contains("call us")),
        "{reasons:?}"
    );
    assert!(
        reasons.iter().any(|r| r.contains("'?' is not in the map")),
        "{reasons:?}"
    );
    shop.legacy.execute("update products set price = '3.00' where id = 3; update products set status = 'A' where id = 4;").await;
    parked(&link, 0).await;
    shop.catalog_equal().await;
    link.shutdown().await;
}

#[tokio::test]
async fn rows_that_nothing_frees_do_not_keep_others_from_their_turn() {
    let shop = Shop::with(230).await;
    let link = shop.following().await;
    shop.legacy
        .execute("update products set price = 'call us' where id <= 210")
        .await;
    parked(&link, 210).await;
    link.unfence(Side::Extracted).await.unwrap();
    shop.catalog.execute("insert into product values (800, 'TAKEN', 'x', null, 1, 'active', 0, '', null, '', '')").await;
    shop.legacy
        .execute("update products set sku = 'TAKEN' where id = 220")
        .await;
    parked(&link, 211).await;
    shop.catalog
        .execute("delete from product where id = 800")
        .await;
    parked(&link, 210).await;
    let there = "select count(*) from product where id = 220 and sku = 'TAKEN'";
    assert_eq!(shop.catalog.number(there).await, 1);
    link.shutdown().await;
}

#[tokio::test]
async fn a_row_that_the_target_refuses_is_parked_and_comes_when_it_may() {
    let shop = Shop::with(10).await;
    let link = shop.following().await;
    link.unfence(Side::Extracted).await.unwrap();
    shop.catalog.execute("insert into product values (800, 'TAKEN', 'x', null, 1, 'active', 0, '', null, '', '')").await;
    shop.legacy.execute("update products set sku = 'TAKEN' where id = 2; update products set tags = 'on' where id = 1;").await;
    parked(&link, 1).await;
    eventually("the other row", WAIT, || async {
        (shop
            .catalog
            .number("select count(*) from product where labels = 'on'")
            .await
            == 1)
            .then_some(())
    })
    .await;
    shop.catalog
        .execute("delete from product where id = 800")
        .await;
    parked(&link, 0).await;
    shop.catalog_equal().await;
    link.shutdown().await;
}

#[tokio::test]
async fn a_foreign_write_is_kept_with_both_versions_and_not_overwritten() {
    let shop = Shop::with(10).await;
    let link = shop.following().await;
    link.unfence(Side::Extracted).await.unwrap();
    let began = now_ms();
    shop.catalog
        .execute("update product set title = 'by a console' where id = 6")
        .await;
    eventually("the foreign write", WAIT, || async {
        (link.evidence()?.foreign_writes == 1).then_some(())
    })
    .await;
    let evidence = link.evidence().unwrap();
    foreign_since(&link, began);
    assert!(evidence.last_foreign.unwrap().contains("`product` key 6"));
    let conflicts = serde_json::to_value(link.conflicts().await.unwrap()).unwrap();
    let foreign = &conflicts["foreign"][0];
    assert!(
        foreign["passive"].to_string().contains("by a console"),
        "{foreign}"
    );
    assert!(
        foreign["authority"].to_string().contains("Product 6"),
        "{foreign}"
    );
    assert_eq!(
        shop.catalog
            .number("select count(*) from product where title = 'by a console'")
            .await,
        1
    );
    let report = link.verify().await.unwrap();
    assert_eq!(report.different, 1);
    assert_eq!(link.repair(false).await.unwrap().repaired, 1);
    shop.catalog_equal().await;
    link.shutdown().await;
}

#[tokio::test]
async fn the_bridge_never_takes_its_own_writes_for_foreign_ones() {
    let shop = Shop::with(100).await;
    let link = shop.following().await;
    for at in 0..20 {
        shop.legacy
            .execute(&format!("update products set weight_g = {at}"))
            .await;
    }
    shop.catalog_equal().await;
    let noted = "select count(*) from \"_outgrow_catalog_changes\" where tbl <> ''";
    assert_eq!(shop.catalog.number(noted).await, 0);
    assert_eq!(link.evidence().unwrap().foreign_writes, 0);
    link.shutdown().await;
}
