//! One product, and the categories.

use serde_json::json;

use crate::harness::Shop;

#[tokio::test]
async fn a_product_speaks_the_shops_words() {
    let shop = Shop::new().await;
    let answer = shop.get("/api/products/1").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["x-build-id"], "catalog-1");
    assert_eq!(
        answer.facts(),
        json!({
            "id": 1, "sku": "S1", "name": "Rake", "description": "Steel", "price": "12.90",
            "currency": "EUR", "category_id": 2, "category": "Garden", "status": "A",
            "featured": true, "tags": ["tool", "steel"], "weight_g": 900,
            "created_at": "2024-01-05 09:00:00", "updated_at": "2024-06-06 00:30:00",
        })
    );
}

#[tokio::test]
async fn a_null_description_is_missing_and_a_null_weight_is_printed() {
    let shop = Shop::new().await;
    let facts = shop.get("/api/products/3").await.facts();
    assert_eq!(facts.get("description"), None);
    assert_eq!(facts.get("weight_g"), Some(&json!(null)));
    assert_eq!(
        (&facts["status"], &facts["featured"]),
        (&json!("D"), &json!(false))
    );
    assert_eq!(shop.get("/api/products/2").await.facts()["tags"], json!([]));
}

#[tokio::test]
async fn an_unknown_product_is_not_found() {
    let shop = Shop::new().await;
    for id in [
        "99",
        "0",
        "-1",
        "rake",
        "1.0",
        "99999999999999999999",
        "%FF",
    ] {
        for path in [
            format!("/api/products/{id}"),
            format!("/api/products/{id}/prices"),
        ] {
            let answer = shop.get(&path).await;
            assert_eq!(answer.status, 404, "{path}");
            let body = answer.json();
            assert_eq!(body["error"], "no such product");
            assert_eq!(body["status"], 404);
            assert_eq!(body.as_object().unwrap().len(), 3);
        }
    }
}

#[tokio::test]
async fn a_client_with_the_version_gets_304() {
    let shop = Shop::new().await;
    let answer = shop.get("/api/products/1").await;
    // 2024-06-05T23:30:00Z
    assert_eq!(answer.headers["etag"], "W/\"p1-1717630200\"");
    let again = shop
        .get_unless("/api/products/1", "W/\"p1-1717630200\"")
        .await;
    assert_eq!((again.status, again.text.as_str()), (304, ""));
    assert_eq!(again.headers["etag"], "W/\"p1-1717630200\"");
    assert_eq!(
        shop.get_unless("/api/products/1", "W/\"p1-1\"")
            .await
            .status,
        200
    );
    shop.put_price("1", Some("staff"), r#"{"price":"1.00","ref":"r"}"#)
        .await;
    assert_eq!(
        shop.get_unless("/api/products/1", "W/\"p1-1717630200\"")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn categories_come_by_position() {
    let shop = Shop::new().await;
    assert_eq!(
        shop.get("/api/categories").await.facts(),
        json!({ "categories": [
            { "id": 2, "name": "Garden", "parent_id": 1, "position": 1 },
            { "id": 1, "name": "Home", "parent_id": null, "position": 2 },
        ]})
    );
}

#[tokio::test]
async fn a_row_that_breaks_its_promise_is_an_error_without_details() {
    let shop = Shop::new().await;
    shop.run_sql(&["UPDATE product SET updated_at = 'yesterday' WHERE id = 1"])
        .await;
    let answer = shop.get("/api/products/1").await;
    assert_eq!(answer.status, 500);
    assert!(!answer.text.contains("yesterday"));
    assert_eq!(shop.get("/api/products/2").await.status, 200);
}
