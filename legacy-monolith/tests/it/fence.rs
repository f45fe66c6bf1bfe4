//! Writes that another process refuses, and databases that are busy or broken.

use crate::harness::{CUSTOMER, STAFF, TestShop};
use legacy_monolith::{Database, Scale, Shop, StartError, fill};
use serde_json::json;
use sqlx::Executor as _;
use sqlx::sqlite::SqlitePool;
use std::time::Duration;

#[tokio::test]
async fn a_fenced_table_answers_503_and_keeps_its_rows() {
    let shop = TestShop::open().await;
    shop.run(
        "CREATE TRIGGER fence_u BEFORE UPDATE ON products BEGIN \
         SELECT RAISE(ABORT, 'outgrow: products is fenced'); END; \
         CREATE TRIGGER fence_i BEFORE INSERT ON reviews BEGIN \
         SELECT RAISE(ABORT, 'outgrow: reviews is fenced'); END",
    )
    .await;
    let history = shop.number("SELECT count(*) FROM price_changes").await;
    let mut staff = shop.user(STAFF).await;
    let answer = staff
        .put(
            "/api/products/1/price",
            json!({"price": "1.00", "ref": "x"}),
        )
        .await;
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.json(503)["error"], "outgrow: products is fenced");
    let review = json!({"rating": 5, "title": "t", "body": "b"});
    let answer = staff.post("/api/products/1/reviews", review).await;
    assert_eq!(answer.header("retry-after"), Some("1"));
    answer.json(503);
    assert_eq!(
        shop.number("SELECT count(*) FROM price_changes").await,
        history
    );
    // Reads and the writes of other tables go on.
    staff.get("/api/products/1").await.json(200);
    staff
        .post("/api/cart/items", json!({"product_id": 1, "quantity": 1}))
        .await
        .json(200);
    shop.run("DROP TRIGGER fence_u").await;
    staff
        .put(
            "/api/products/1/price",
            json!({"price": "1.00", "ref": "x"}),
        )
        .await
        .json(200);
}

#[tokio::test]
async fn a_refusal_of_another_kind_is_an_unexpected_error() {
    let shop = TestShop::open().await;
    shop.run(
        "CREATE TRIGGER other BEFORE INSERT ON cart_items BEGIN \
         SELECT RAISE(ABORT, 'secret detail'); END",
    )
    .await;
    let mut browser = shop.user(CUSTOMER).await;
    let answer = browser
        .post("/api/cart/items", json!({"product_id": 1, "quantity": 1}))
        .await;
    let page = answer.page(500);
    assert!(!page.contains("secret detail"));
    assert!(page.contains("name the request "));
}

#[tokio::test]
async fn a_database_locked_for_too_long_is_a_503_and_recovers() {
    let shop = TestShop::open().await;
    let impatient = Database::open_waiting(&shop.url, Duration::from_millis(30))
        .await
        .unwrap();
    let mut browser = shop.user(CUSTOMER).await;
    let other = Shop::new(impatient, "other").await.unwrap();
    let mut through_other = TestShop::browser_of(&other, &browser);
    let mut lock = shop.db.acquire().await.unwrap();
    lock.execute("BEGIN IMMEDIATE").await.unwrap();
    let item = json!({"product_id": 1, "quantity": 1});
    let answer = through_other.post("/api/cart/items", item.clone()).await;
    assert_eq!(answer.header("retry-after"), Some("1"));
    answer.json(503);
    // Reading needs no lock.
    through_other.get("/api/products").await.json(200);
    lock.execute("ROLLBACK").await.unwrap();
    through_other
        .post("/api/cart/items", item.clone())
        .await
        .json(200);
    browser.post("/api/cart/items", item).await.json(200);
}

#[tokio::test]
async fn a_locked_database_stops_the_start_with_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("shop.db").display());
    let database = Database::open_waiting(&url, Duration::from_millis(30))
        .await
        .unwrap();
    let other = SqlitePool::connect(&url).await.unwrap();
    let mut lock = other.acquire().await.unwrap();
    lock.execute("BEGIN IMMEDIATE").await.unwrap();
    let error = fill(&database, 1, &Scale::SMALL).await.unwrap_err();
    assert!(matches!(error, StartError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("locked by another process"));
    lock.execute("ROLLBACK").await.unwrap();
    assert!(fill(&database, 1, &Scale::SMALL).await.unwrap());
}
