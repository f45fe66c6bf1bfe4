//! The pages: escaping, errors, ways through them.

use crate::harness::{CUSTOMER, TestShop};
use http::StatusCode;
use serde_json::json;

const HOSTILE: &str = "<script>alert(1)</script>\"'&";

#[tokio::test]
async fn hostile_text_is_shown_as_text() {
    let shop = TestShop::open().await;
    sqlx::query("UPDATE products SET name = ?1, description = ?1, tags = ?1, featured = 'Y', status = 'A' WHERE id = 1")
        .bind(HOSTILE)
        .execute(&shop.db)
        .await
        .unwrap();
    let mut browser = shop.user(CUSTOMER).await;
    let review = json!({"rating": 5, "title": HOSTILE, "body": HOSTILE});
    browser
        .post("/api/products/1/reviews", review)
        .await
        .json(201);
    browser
        .post("/api/cart/items", json!({"product_id": 1, "quantity": 1}))
        .await
        .json(200);
    let receipt = browser
        .post("/api/checkout", json!({"ref": HOSTILE}))
        .await
        .json(201);
    browser
        .post("/api/cart/items", json!({"product_id": 1, "quantity": 1}))
        .await
        .json(200);
    let order = format!("/orders/{}", receipt["order_id"]);
    let search = "/products?q=%3Cscript%3Ealert(1)%3C/script%3E%22&sort=id";
    for path in ["/", "/products", "/products/1", "/cart", &order, search] {
        let page = browser.get(path).await.page(200);
        assert!(!page.contains("<script"), "{path}: {page}");
        assert!(
            page.contains("&lt;script&gt;alert(1)&lt;"),
            "{path}: {page}"
        );
    }
}

#[tokio::test]
async fn unknown_paths_are_a_page_even_under_api() {
    let shop = TestShop::open().await;
    let mut browser = shop.anonymous();
    for path in ["/nothing", "/api/nothing", "/products/1/2/3", "/admin/"] {
        let answer = browser.get(path).await;
        assert_eq!(answer.header("x-build-id"), Some("test-build"));
        let page = answer.page(404);
        assert!(page.contains("<h1>Error 404</h1>") && page.contains("name the request "));
    }
    assert!(
        browser
            .get("/products/99999")
            .await
            .page(404)
            .contains("no such product")
    );
    let answer = browser.send("DELETE", "/api/products/1", &[], "").await;
    assert!(answer.header("allow").unwrap().contains("GET"));
    answer.page(405);
}

#[tokio::test]
async fn an_unexpected_error_is_a_page_with_the_request_id_only() {
    let shop = TestShop::open().await;
    shop.run("DROP TABLE recommendations").await;
    let mut browser = shop.anonymous();
    for path in ["/api/recommendations/1", "/products/1"] {
        let answer = browser.get(path).await;
        assert_eq!(answer.header("x-build-id"), Some("test-build"));
        let page = answer.page(500);
        assert!(
            page.contains("name the request ") && !page.contains("recommendations"),
            "{page}"
        );
    }
    shop.run("DROP TABLE sessions; ALTER TABLE users RENAME TO gone")
        .await;
    let answer = browser.get("/health").await;
    assert_eq!(answer.header("retry-after"), Some("1"));
    answer.json(503);
}

#[tokio::test]
async fn who_is_not_logged_in_is_sent_to_the_form_and_back() {
    let shop = TestShop::open().await;
    for (path, expected) in [
        ("/orders?page=2", "/login?next=/orders"),
        ("/cart", "/login?next=/cart"),
        ("/export/orders.csv", "/login?next=/export/orders.csv"),
    ] {
        let answer = shop.anonymous().get(path).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER);
        assert_eq!(answer.header("location"), Some(expected));
    }
    let page = shop
        .anonymous()
        .get("/login?next=https://evil.example")
        .await
        .page(200);
    assert!(!page.contains("evil"));
}

#[tokio::test]
async fn a_healthy_shop_says_so() {
    let shop = TestShop::open().await;
    let health = shop.anonymous().get("/health").await.json(200);
    assert_eq!(
        (&health["status"], &health["build"]),
        (&json!("ok"), &json!("test-build"))
    );
}
