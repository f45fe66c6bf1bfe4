//! Reviews as read.

use serde_json::json;

use crate::harness::Reviews;

#[tokio::test]
async fn a_list_shows_the_approved_newest_first() {
    let reviews = Reviews::new().await;
    let answer = reviews.get("/api/products/7/reviews").await;
    assert_eq!(answer.headers["x-build-id"], "reviews-1");
    let facts = answer.facts();
    assert_eq!(
        (
            &facts["product_id"],
            &facts["page"],
            &facts["total"],
            &facts["average"]
        ),
        (&json!(7), &json!(1), &json!(3), &json!("4.67"))
    );
    assert_eq!(
        facts["reviews"][0],
        json!({
            "id": 1, "product_id": 7, "user_id": 21, "author": "Ann", "rating": 5, "title": "Great",
            "body": "Works", "status": "A", "helpful": 3, "reply": "Thanks",
            "created_at": "2024-03-03 00:30:00",
        })
    );
    assert_eq!(reviews.ids(7).await, [1, 4, 2]);
}

#[tokio::test]
async fn a_product_without_reviews_has_no_average() {
    let reviews = Reviews::new().await;
    for product in [8, 99] {
        let facts = reviews
            .get(&format!("/api/products/{product}/reviews"))
            .await
            .facts();
        assert_eq!(
            facts,
            json!({ "product_id": product, "page": 1, "total": 0, "average": null, "reviews": [] })
        );
    }
    for product in ["0", "-3", "rake"] {
        let answer = reviews
            .get(&format!("/api/products/{product}/reviews"))
            .await;
        assert_eq!(
            (answer.status, &answer.json()["error"]),
            (404, &json!("no such product"))
        );
    }
}

#[tokio::test]
async fn pages_have_twenty() {
    let reviews = Reviews::new().await;
    reviews
        .run_sql(&[
            "WITH RECURSIVE n(i) AS (SELECT 101 UNION ALL SELECT i + 1 FROM n WHERE i < 145)
             INSERT INTO review (id, product_id, author_id, author_name, stars, state, posted_at)
             SELECT i, 9, 1, 'A', 3, 'approved', '2024-01-01T00:00:00Z' FROM n",
            "INSERT INTO review_text (review_id, headline, content)
             SELECT id, 't', 'b' FROM review WHERE product_id = 9",
        ])
        .await;
    let mut ids = Vec::new();
    for (page, size) in [(1, 20), (2, 20), (3, 5), (4, 0)] {
        let facts = reviews
            .get(&format!("/api/products/9/reviews?page={page}"))
            .await
            .facts();
        assert_eq!(
            (&facts["page"], &facts["total"]),
            (&json!(page), &json!(45))
        );
        let found = facts["reviews"].as_array().unwrap();
        assert_eq!(found.len(), size);
        ids.extend(found.iter().map(|review| review["id"].as_i64().unwrap()));
    }
    assert_eq!(ids, (101..=145).rev().collect::<Vec<_>>());
    assert_eq!(
        reviews.get("/api/products/9/reviews?page=x").await.status,
        400
    );
}

#[tokio::test]
async fn one_review_is_shown_in_any_state() {
    let reviews = Reviews::new().await;
    let facts = reviews.get("/api/reviews/3").await.facts();
    assert_eq!(
        (&facts["status"], &facts["reply"]),
        (&json!("P"), &json!(null))
    );
    assert!(facts.as_object().unwrap().contains_key("reply"));
    assert_eq!(reviews.get("/api/reviews/5").await.facts()["status"], "R");
    for id in ["99", "0", "x", "%FF"] {
        let answer = reviews.get(&format!("/api/reviews/{id}")).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]),
            (404, &json!("no such review"))
        );
    }
}

#[tokio::test]
async fn lists_and_averages_are_read_from_the_index() {
    let reviews = Reviews::new().await;
    let mut tx = reviews.service.database().read().await.unwrap();
    let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(
        "EXPLAIN QUERY PLAN SELECT COUNT(*), COALESCE(SUM(stars), 0) FROM review
         WHERE product_id = 1 AND state = 'approved'",
    )
    .fetch_all(&mut *tx)
    .await
    .unwrap();
    assert!(
        plan[0].3.contains("COVERING INDEX review_by_product"),
        "{plan:?}"
    );
}
