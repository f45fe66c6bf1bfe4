//! Export, report, pictures, shipping, recommendations.

use crate::harness::{CUSTOMER, JSON, STAFF, TestShop};
use axum::body::Body;
use http_body_util::BodyExt as _;
use serde_json::json;
use tower::ServiceExt as _;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nnot much of a picture";

#[tokio::test]
async fn the_export_has_every_order_once_and_is_for_staff() {
    let shop = TestShop::open().await;
    shop.run(
        "UPDATE users SET name = 'A \"quoted\", name'; UPDATE orders SET ref = '=1+1' WHERE id = 1",
    )
    .await;
    shop.user(CUSTOMER)
        .await
        .get("/export/orders.csv")
        .await
        .page(403);
    let answer = shop.user(STAFF).await.get("/export/orders.csv").await;
    assert_eq!(
        answer.header("content-type"),
        Some("text/csv; charset=utf-8")
    );
    let text = answer.text();
    let lines: Vec<&str> = text.split_terminator("\r\n").collect();
    assert_eq!(
        lines[0],
        "id,ref,customer,email,status,items,total,currency,created_at"
    );
    assert_eq!(lines.len(), 201);
    assert!(
        lines[1].starts_with("1,'=1+1,\"A \"\"quoted\"\", name\",user"),
        "{}",
        lines[1]
    );
    for (at, line) in lines.iter().enumerate().skip(1) {
        assert!(line.starts_with(&format!("{at},")), "{line}");
    }
}

#[tokio::test]
async fn the_report_comes_in_parts_and_adds_up() {
    let shop = TestShop::open().await;
    let request = http::Request::get("/reports/sales")
        .body(Body::empty())
        .unwrap();
    let response = shop.shop.router().oneshot(request).await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    let mut body = response.into_body();
    let mut parts = Vec::new();
    while let Some(frame) = body.frame().await {
        let part = frame.unwrap().into_data().unwrap();
        parts.push(String::from_utf8(part.to_vec()).unwrap());
    }
    assert!(parts[0].starts_with("sales report, request "));
    let months = shop
        .number("SELECT count(DISTINCT substr(created_at, 1, 7)) FROM orders")
        .await;
    assert_eq!(i64::try_from(parts.len()), Ok(months + 2));
    let orders = shop
        .number("SELECT count(*) FROM orders WHERE status <> 'cancelled'")
        .await;
    let last = parts.last().unwrap();
    assert!(
        last.starts_with(&format!("total    orders={orders} revenue=")),
        "{last}"
    );
}

#[tokio::test]
async fn a_report_that_breaks_does_not_look_whole() {
    let shop = TestShop::open().await;
    let request = http::Request::get("/reports/sales")
        .body(Body::empty())
        .unwrap();
    let response = shop.shop.router().oneshot(request).await.unwrap();
    shop.run("DROP TABLE order_items").await;
    assert!(response.into_body().collect().await.is_err());
}

#[tokio::test]
async fn a_picture_is_stored_served_and_known_by_its_tag() {
    let shop = TestShop::open().await;
    let mut staff = shop.user(STAFF).await;
    let png = [("content-type", "image/png")];
    staff.get("/api/products/1/image").await.json(404);
    let stored = staff
        .send("PUT", "/api/products/1/image", &png, PNG)
        .await
        .json(200);
    assert_eq!(stored["bytes"], PNG.len());
    let answer = shop.anonymous().get("/api/products/1/image").await;
    assert_eq!(answer.header("content-type"), Some("image/png"));
    assert_eq!(answer.body, PNG);
    let etag = answer.header("etag").unwrap().to_owned();
    assert_eq!(stored["etag"], etag.as_str());
    let known = [("if-none-match", etag.as_str())];
    let answer = staff.send("GET", "/api/products/1/image", &known, "").await;
    assert_eq!(answer.status.as_u16(), 304);
    assert!(
        staff
            .get("/products/1")
            .await
            .page(200)
            .contains("/api/products/1/image")
    );
    let other = [PNG, b"!"].concat();
    staff
        .send("PUT", "/api/products/1/image", &png, other)
        .await
        .json(200);
    let answer = staff.send("GET", "/api/products/1/image", &known, "").await;
    assert_eq!(answer.status.as_u16(), 200);
}

#[tokio::test]
async fn what_is_no_picture_is_refused() {
    let shop = TestShop::open().await;
    let png = [("content-type", "image/png")];
    shop.anonymous()
        .send("PUT", "/api/products/1/image", &png, PNG)
        .await
        .json(401);
    shop.user(CUSTOMER)
        .await
        .send("PUT", "/api/products/1/image", &png, PNG)
        .await
        .json(403);
    let mut staff = shop.user(STAFF).await;
    let path = "/api/products/1/image";
    staff.send("PUT", path, &[JSON], PNG).await.json(415);
    staff.send("PUT", path, &[], PNG).await.json(415);
    staff
        .send("PUT", path, &[("content-type", "image/svg+xml")], "<svg/>")
        .await
        .json(415);
    staff.send("PUT", path, &png, "<script>").await.json(422);
    staff
        .send("PUT", path, &[("content-type", "image/jpeg")], PNG)
        .await
        .json(422);
    staff
        .send("PUT", "/api/products/99999/image", &png, PNG)
        .await
        .json(404);
    let mut large = PNG.to_vec();
    large.resize(1024 * 1024, 0);
    staff.send("PUT", path, &png, large.clone()).await.json(200);
    large.push(0);
    staff.send("PUT", path, &png, large).await.json(413);
}

#[tokio::test]
async fn an_order_is_shipped_once() {
    let shop = TestShop::open().await;
    shop.run("UPDATE orders SET status = 'paid', user_id = 30 WHERE id = 1; DELETE FROM shipments WHERE order_id = 1")
        .await;
    let parcel = json!({"carrier": "GLS", "tracking": null});
    shop.user(CUSTOMER)
        .await
        .post("/admin/orders/1/ship", parcel.clone())
        .await
        .json(403);
    let mut staff = shop.user(STAFF).await;
    staff
        .post("/admin/orders/1/ship", parcel.clone())
        .await
        .json(200);
    staff
        .post("/admin/orders/1/ship", parcel.clone())
        .await
        .json(409);
    staff
        .post("/admin/orders/99999/ship", parcel)
        .await
        .json(404);
    staff
        .post("/admin/orders/1/ship", json!({"carrier": ""}))
        .await
        .json(422);
    let order = shop
        .user(CUSTOMER)
        .await
        .get("/api/orders/1")
        .await
        .json(200);
    assert_eq!(
        (&order["status"], &order["shipment"]["carrier"]),
        (&json!("shipped"), &json!("GLS"))
    );
    assert_eq!(order["shipment"]["tracking"], serde_json::Value::Null);
}

#[tokio::test]
async fn recommendations_follow_the_orders() {
    let shop = TestShop::open().await;
    shop.run(
        "DELETE FROM order_items; \
         INSERT INTO order_items(order_id, product_id, quantity, unit_price) VALUES \
         (1, 1, 1, '1.00'), (1, 2, 1, '1.00'), (2, 1, 1, '1.00'), (2, 2, 1, '1.00'), \
         (3, 1, 1, '1.00'), (3, 3, 1, '1.00')",
    )
    .await;
    shop.user(CUSTOMER)
        .await
        .post("/admin/recommendations/recompute", json!({}))
        .await
        .json(403);
    let mut staff = shop.user(STAFF).await;
    let done = staff
        .post("/admin/recommendations/recompute", json!({}))
        .await
        .json(200);
    assert_eq!(done["changed_products"], 3);
    // Nothing new: nothing is written.
    let done = staff
        .post("/admin/recommendations/recompute", json!({}))
        .await
        .json(200);
    assert_eq!(done["changed_products"], 0);
    let found = staff.get("/api/recommendations/1").await.json(200);
    let pairs: Vec<(i64, i64)> = found["recommendations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                one["product_id"].as_i64().unwrap(),
                one["score"].as_i64().unwrap(),
            )
        })
        .collect();
    assert_eq!(pairs, [(2, 2), (3, 1)]);
    shop.run("DELETE FROM order_items WHERE order_id = 3").await;
    let done = staff
        .post("/admin/recommendations/recompute", json!({}))
        .await
        .json(200);
    assert_eq!(done["changed_products"], 2);
    assert!(
        staff
            .get("/products/1")
            .await
            .page(200)
            .contains("Bought together")
    );
    let none = staff.get("/api/recommendations/3").await.json(200);
    assert_eq!(none["recommendations"], json!([]));
}
