//! Cart, checkout, orders.

use crate::harness::{Browser, CUSTOMER, STAFF, TestShop, form_token, keys};
use serde_json::{Value, json};

async fn put_in_cart(browser: &mut Browser, product: i64, quantity: i64) -> Value {
    let body = json!({"product_id": product, "quantity": quantity});
    browser.post("/api/cart/items", body).await.json(200)
}

/// Everything that a checkout touches, as text.
async fn books(shop: &TestShop) -> String {
    sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM orders) || ' orders, ' || \
         (SELECT count(*) FROM order_items) || ' items, ' || \
         (SELECT count(*) FROM payments) || ' payments, ' || \
         (SELECT sum(on_hand) FROM inventory) || ' in stock, ' || \
         (SELECT coalesce(sum(quantity), 0) FROM cart_items) || ' in carts'",
    )
    .fetch_one(&shop.db)
    .await
    .unwrap()
}

#[tokio::test]
async fn checkout_writes_order_items_stock_payment_and_empties_the_cart() {
    let shop = TestShop::open().await;
    shop.run("UPDATE products SET price = '12.90' WHERE id = 1")
        .await;
    shop.run("UPDATE products SET price = '0.05' WHERE id = 2")
        .await;
    shop.run("UPDATE inventory SET on_hand = 10 WHERE product_id IN (1, 2)")
        .await;
    let mut browser = shop.user(CUSTOMER).await;
    put_in_cart(&mut browser, 1, 2).await;
    let cart = put_in_cart(&mut browser, 2, 3).await;
    assert_eq!(cart["total"], "25.95");
    let answer = browser.post("/api/checkout", json!({"ref": "abc"})).await;
    let receipt = answer.json(201);
    assert_eq!(
        keys(&receipt),
        ["generated_at", "order_id", "ref", "request_id", "total"]
    );
    assert_eq!(
        (&receipt["ref"], &receipt["total"]),
        (&json!("abc"), &json!("25.95"))
    );
    let location = format!("/api/orders/{}", receipt["order_id"]);
    assert_eq!(answer.header("location"), Some(location.as_str()));
    let order = browser.get(&location).await.json(200);
    assert_eq!(order["items"].as_array().unwrap().len(), 2);
    assert_eq!(order["payment"]["amount"], "25.95");
    assert_eq!(order["note"], Value::Null);
    assert!(order.get("shipment").is_none());
    assert_eq!(
        shop.number("SELECT on_hand FROM inventory WHERE product_id = 1")
            .await,
        8
    );
    assert_eq!(
        shop.number("SELECT on_hand FROM inventory WHERE product_id = 2")
            .await,
        7
    );
    assert_eq!(shop.number("SELECT count(*) FROM cart_items").await, 0);
    assert_eq!(
        shop.number("SELECT count(*) FROM orders WHERE ref = 'abc'")
            .await,
        1
    );
}

#[tokio::test]
async fn out_of_stock_changes_nothing_at_all() {
    let shop = TestShop::open().await;
    shop.run("UPDATE inventory SET on_hand = 1 WHERE product_id = 5")
        .await;
    let mut browser = shop.user(CUSTOMER).await;
    // The first line could be sold; it must not be.
    put_in_cart(&mut browser, 4, 1).await;
    put_in_cart(&mut browser, 5, 2).await;
    let before = books(&shop).await;
    let refused = browser
        .post("/api/checkout", json!({"ref": "abc"}))
        .await
        .json(409);
    assert_eq!(
        refused["error"],
        "out of stock: product 5 has 1 left, 2 wanted"
    );
    assert_eq!(books(&shop).await, before);
}

#[tokio::test]
async fn the_last_piece_is_sold_once() {
    let shop = TestShop::open().await;
    shop.run("UPDATE inventory SET on_hand = 1 WHERE product_id = 7")
        .await;
    let mut one = shop.user(30).await;
    let mut other = shop.user(31).await;
    put_in_cart(&mut one, 7, 1).await;
    put_in_cart(&mut other, 7, 1).await;
    let (a, b) = tokio::join!(
        one.post("/api/checkout", json!({"ref": "a"})),
        other.post("/api/checkout", json!({"ref": "b"})),
    );
    let mut statuses = [a.status.as_u16(), b.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409]);
    assert_eq!(
        shop.number("SELECT on_hand FROM inventory WHERE product_id = 7")
            .await,
        0
    );
}

#[tokio::test]
async fn carts_and_checkouts_refuse_nonsense() {
    let shop = TestShop::open().await;
    let anonymous = json!({"product_id": 1, "quantity": 1});
    shop.anonymous()
        .post("/api/cart/items", anonymous)
        .await
        .json(401);
    shop.anonymous()
        .post("/api/checkout", json!({"ref": "x"}))
        .await
        .json(401);
    let mut browser = shop.user(CUSTOMER).await;
    for (product, quantity, status) in [(1, 0, 422), (1, -1, 422), (1, 100, 422), (99_999, 1, 404)]
    {
        let body = json!({"product_id": product, "quantity": quantity});
        browser.post("/api/cart/items", body).await.json(status);
    }
    browser
        .post("/api/checkout", json!({"ref": "x"}))
        .await
        .json(409);
    put_in_cart(&mut browser, 1, 99).await;
    let more = json!({"product_id": 1, "quantity": 1});
    browser.post("/api/cart/items", more).await.json(422);
    browser
        .post("/api/checkout", json!({"ref": ""}))
        .await
        .json(422);
    browser
        .post(
            "/api/checkout",
            json!({"ref": "x", "payment_method": "shells"}),
        )
        .await
        .json(422);
    assert_eq!(
        shop.number("SELECT sum(quantity) FROM cart_items").await,
        99
    );
}

#[tokio::test]
async fn an_order_is_seen_by_its_owner_and_staff_only() {
    let shop = TestShop::open().await;
    let mut owner = shop.user(CUSTOMER).await;
    put_in_cart(&mut owner, 1, 1).await;
    let receipt = owner
        .post("/api/checkout", json!({"ref": "mine"}))
        .await
        .json(201);
    let path = format!("/api/orders/{}", receipt["order_id"]);
    owner.get(&path).await.json(200);
    shop.user(STAFF).await.get(&path).await.json(200);
    let other = shop.user(31).await.get(&path).await.json(404);
    assert_eq!(other["error"], "no such order");
    shop.anonymous().get(&path).await.json(401);
    let list = owner.get("/api/orders").await.json(200);
    assert_eq!(list["orders"][0]["ref"], "mine");
    assert_eq!(
        list["total"],
        shop.number("SELECT count(*) FROM orders WHERE user_id = 30")
            .await
    );
}

#[tokio::test]
async fn the_pages_lead_from_product_to_order() {
    let shop = TestShop::open().await;
    let mut browser = shop.user(CUSTOMER).await;
    let page = browser.get("/products/3").await.page(200);
    let token = form_token(&page);
    browser
        .form("/cart/add", "csrf=&product_id=3&quantity=1".to_owned())
        .await
        .page(403);
    browser
        .form("/cart/add", "product_id=3&quantity=1".to_owned())
        .await
        .page(400);
    let fields = format!("csrf={token}&product_id=3&quantity=2");
    assert_eq!(
        browser.form("/cart/add", fields).await.header("location"),
        Some("/cart")
    );
    let page = browser.get("/cart").await.page(200);
    assert!(page.contains("2 × "), "{page}");
    let fields = format!("csrf={token}&payment_method=invoice");
    let answer = browser.form("/checkout", fields).await;
    let order = answer.header("location").unwrap().to_owned();
    assert!(
        browser
            .get(&order)
            .await
            .page(200)
            .contains("captured by invoice")
    );
    assert!(
        browser
            .get("/orders")
            .await
            .page(200)
            .contains(&format!("href=\"{order}\""))
    );
    assert!(
        browser
            .get("/cart")
            .await
            .page(200)
            .contains("nothing in it")
    );
    let fields = format!("csrf={token}&payment_method=card");
    assert!(
        browser
            .form("/checkout", fields)
            .await
            .page(409)
            .contains("the cart is empty")
    );
}
