//! Each planted defect shows, and only it.

use extracted_kit::defects::Defect;

use crate::harness::Shop;

#[tokio::test]
async fn a_price_that_ends_in_five_is_a_cent_off() {
    let shop = Shop::new().await;
    let price =
        async |id: i64| shop.get(&format!("/api/products/{id}")).await.facts()["price"].clone();
    assert_eq!(
        (price(1).await, price(2).await),
        ("12.90".into(), "9.95".into())
    );
    shop.plant(Some(Defect::PriceRounding));
    assert_eq!(
        (price(1).await, price(2).await),
        ("12.90".into(), "9.94".into())
    );
    // Only what is printed is wrong.
    assert_eq!(shop.ids("?sort=price").await, [5, 2, 4, 1, 3]);
    shop.plant(None);
    assert_eq!(price(2).await, "9.95");
}

#[tokio::test]
async fn a_null_weight_goes_missing() {
    let shop = Shop::new().await;
    shop.plant(Some(Defect::MissingNull));
    let facts = shop.get("/api/products/3").await.facts();
    assert_eq!(facts.get("weight_g"), None);
    assert_eq!(shop.get("/api/products/1").await.facts()["weight_g"], 900);
    let list = shop.get("/api/products").await.facts();
    assert_eq!(list["products"][2].get("weight_g"), None);
}

#[tokio::test]
async fn lists_come_in_a_wrong_order() {
    let shop = Shop::new().await;
    for sort in ["id", "price", "name", "newest"] {
        let query = format!("?sort={sort}");
        shop.plant(None);
        let right = shop.ids(&query).await;
        shop.plant(Some(Defect::StaleSort));
        let wrong = shop.ids(&query).await;
        assert_ne!(right, wrong, "{sort}");
        let sorted = |mut ids: Vec<i64>| {
            ids.sort_unstable();
            ids
        };
        assert_eq!(sorted(right), sorted(wrong), "{sort}");
    }
}

#[tokio::test]
async fn some_reads_fail() {
    let shop = Shop::new().await;
    shop.plant(Some(Defect::Errors));
    let mut failed = 0;
    for _ in 0..40 {
        failed += usize::from(shop.get("/api/products/1").await.status == 500);
    }
    assert!((8..=16).contains(&failed), "{failed}");
    assert_eq!(
        shop.put_price("1", Some("staff"), r#"{"price":"1.00","ref":"r"}"#)
            .await
            .status,
        200
    );
}
