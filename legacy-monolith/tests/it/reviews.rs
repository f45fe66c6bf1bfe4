//! Reviews: shape, average, paging, writing.

use crate::harness::{CUSTOMER, TestShop, keys};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const FIELDS: [&str; 11] = [
    "author",
    "body",
    "created_at",
    "helpful",
    "id",
    "product_id",
    "rating",
    "reply",
    "status",
    "title",
    "user_id",
];

#[tokio::test]
async fn a_review_is_created_shown_and_found_helpful() {
    let shop = TestShop::open().await;
    let mut browser = shop.user(CUSTOMER).await;
    let given = json!({"rating": 4, "title": "Good", "body": "Very <b>good</b>"});
    let answer = browser.post("/api/products/1/reviews", given).await;
    let review = answer.json(201);
    let mut expected = FIELDS.to_vec();
    expected.extend(["generated_at", "request_id"]);
    expected.sort_unstable();
    assert_eq!(keys(&review), expected);
    assert_eq!(
        (&review["status"], &review["reply"]),
        (&json!("A"), &Value::Null)
    );
    assert_eq!(
        (&review["helpful"], &review["user_id"]),
        (&json!(0), &json!(CUSTOMER))
    );
    let path = format!("/api/reviews/{}", review["id"]);
    assert_eq!(answer.header("location"), Some(path.as_str()));
    let helpful = browser
        .post(&format!("{path}/helpful"), json!({}))
        .await
        .json(200);
    assert_eq!(
        keys(&helpful),
        ["generated_at", "helpful", "id", "request_id"]
    );
    assert_eq!(helpful["helpful"], 1);
    let shown = shop.anonymous().get(&path).await.json(200);
    assert_eq!(
        (&shown["helpful"], &shown["body"]),
        (&json!(1), &json!("Very <b>good</b>"))
    );
}

#[tokio::test]
async fn only_approved_reviews_count_and_show() {
    let shop = TestShop::open().await;
    shop.run(
        "DELETE FROM reviews; \
         INSERT INTO reviews(product_id, user_id, author, rating, title, body, status, created_at) \
         VALUES (1, 30, 'a', 5, 't', 'b', 'A', '2024-01-02 00:00:00'), \
         (1, 30, 'a', 4, 't', 'b', 'A', '2024-01-02 00:00:00'), \
         (1, 30, 'a', 4, 't', 'b', 'A', '2024-01-01 00:00:00'), \
         (1, 30, 'a', 4, 't', 'b', 'A', '2024-01-03 00:00:00'), \
         (1, 30, 'a', 1, 't', 'b', 'P', '2024-01-04 00:00:00'), \
         (1, 30, 'a', 1, 't', 'b', 'R', '2024-01-04 00:00:00')",
    )
    .await;
    let list = shop
        .anonymous()
        .get("/api/products/1/reviews")
        .await
        .json(200);
    assert_eq!(
        keys(&list),
        [
            "average",
            "generated_at",
            "page",
            "product_id",
            "request_id",
            "reviews",
            "total"
        ]
    );
    assert_eq!(
        (&list["average"], &list["total"]),
        (&json!("4.25"), &json!(4))
    );
    let reviews = list["reviews"].as_array().unwrap();
    assert!(reviews.iter().all(|review| keys(review) == FIELDS));
    let first = shop.number("SELECT min(id) FROM reviews").await;
    let ids: Vec<i64> = reviews
        .iter()
        .map(|r| r["id"].as_i64().unwrap() - first)
        .collect();
    assert_eq!(ids, [3, 1, 0, 2]);
}

#[tokio::test]
async fn a_product_without_reviews_has_no_average() {
    let shop = TestShop::open().await;
    shop.run("DELETE FROM reviews WHERE product_id = 2").await;
    for id in [2, 99_999] {
        let list = shop
            .anonymous()
            .get(&format!("/api/products/{id}/reviews"))
            .await
            .json(200);
        assert_eq!(
            (&list["average"], &list["total"]),
            (&Value::Null, &json!(0))
        );
    }
    for id in ["0", "-1", "abc"] {
        shop.anonymous()
            .get(&format!("/api/products/{id}/reviews"))
            .await
            .json(404);
        shop.anonymous()
            .get(&format!("/api/reviews/{id}"))
            .await
            .json(404);
    }
}

#[tokio::test]
async fn pages_hold_twenty_and_do_not_overlap() {
    let shop = TestShop::open().await;
    shop.run("UPDATE reviews SET product_id = 1, status = 'A', created_at = '2024-01-01 00:00:00' WHERE id <= 45")
        .await;
    let mut browser = shop.anonymous();
    let total = browser.get("/api/products/1/reviews").await.json(200)["total"]
        .as_i64()
        .unwrap();
    let mut seen = BTreeSet::new();
    for page in 1..=(total + 19) / 20 {
        let list = browser
            .get(&format!("/api/products/1/reviews?page={page}"))
            .await
            .json(200);
        for review in list["reviews"].as_array().unwrap() {
            assert!(seen.insert(review["id"].as_i64().unwrap()));
        }
    }
    assert_eq!(i64::try_from(seen.len()), Ok(total));
    browser
        .get("/api/products/1/reviews?page=x")
        .await
        .json(400);
}

#[tokio::test]
async fn nonsense_is_refused_and_not_stored() {
    let shop = TestShop::open().await;
    let good = json!({"rating": 5, "title": "t", "body": "b"});
    shop.anonymous()
        .post("/api/products/1/reviews", good.clone())
        .await
        .json(401);
    shop.anonymous()
        .post("/api/reviews/1/helpful", json!({}))
        .await
        .json(401);
    let before = shop.number("SELECT count(*) FROM reviews").await;
    let mut browser = shop.user(CUSTOMER).await;
    for given in [
        json!({"rating": 0, "title": "t", "body": "b"}),
        json!({"rating": 6, "title": "t", "body": "b"}),
        json!({"rating": "5", "title": "t", "body": "b"}),
        json!({"rating": 5, "title": " ", "body": "b"}),
        json!({"rating": 5, "title": "t", "body": ""}),
        json!({"rating": 5, "title": "t".repeat(201), "body": "b"}),
        json!({"title": "t", "body": "b"}),
    ] {
        browser
            .post("/api/products/1/reviews", given)
            .await
            .json(422);
    }
    browser
        .post("/api/products/99999/reviews", good.clone())
        .await
        .json(404);
    browser
        .post("/api/products/0/reviews", good)
        .await
        .json(404);
    browser
        .post("/api/reviews/999999/helpful", json!({}))
        .await
        .json(404);
    assert_eq!(shop.number("SELECT count(*) FROM reviews").await, before);
}
