//! Reviews as written.

use serde_json::json;

use crate::harness::Reviews;

const GOOD: &str = r#"{"rating":4,"title":"Nice","body":"I like it"}"#;
const PATH: &str = "/api/products/7/reviews";

#[tokio::test]
async fn a_new_review_is_in_both_tables_and_in_the_list() {
    let reviews = Reviews::new().await;
    let answer = reviews.post(PATH, true, None, GOOD).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    assert_eq!(answer.headers["location"], "/api/reviews/6");
    let mut facts = answer.facts();
    assert_eq!(reviews.get("/api/reviews/6").await.facts(), facts);
    facts.as_object_mut().unwrap().remove("created_at").unwrap();
    assert_eq!(
        facts,
        json!({ "id": 6, "product_id": 7, "user_id": 31, "author": "Flo", "rating": 4,
            "title": "Nice", "body": "I like it", "status": "A", "helpful": 0, "reply": null })
    );
    assert_eq!(reviews.ids(7).await, [6, 1, 4, 2]);
    let event = reviews.get("/events").await.json()["events"][0].clone();
    assert_eq!(event["kind"], "review-posted");
    assert_eq!(
        event["data"],
        json!({ "review_id": 6, "product_id": 7, "stars": 4 })
    );
}

#[tokio::test]
async fn a_bad_review_is_refused() {
    let reviews = Reviews::new().await;
    for (path, login, body, status) in [
        (PATH, false, GOOD, 401),
        ("/api/products/0/reviews", true, GOOD, 404),
        ("/api/products/x/reviews", true, GOOD, 404),
        (PATH, true, "rating=4", 400),
        (PATH, true, r#"{"rating":4,"title":"Nice"}"#, 422),
        (
            PATH,
            true,
            r#"{"rating":"4","title":"Nice","body":"b"}"#,
            422,
        ),
        (PATH, true, r#"{"rating":6,"title":"Nice","body":"b"}"#, 422),
        (PATH, true, r#"{"rating":4,"title":"","body":"b"}"#, 422),
    ] {
        let answer = reviews.post(path, login, None, body).await;
        assert_eq!(
            (answer.status, &answer.json()["status"]),
            (status, &json!(status)),
            "{path} {body}"
        );
    }
    assert_eq!(reviews.ids(7).await, [1, 4, 2]);
}

#[tokio::test]
async fn a_repeated_post_makes_one_review() {
    let reviews = Reviews::new().await;
    let first = reviews.post(PATH, true, Some("k"), GOOD).await;
    let again = reviews.post(PATH, true, Some("k"), GOOD).await;
    assert_eq!(
        (first.text, &first.headers["location"]),
        (again.text, &again.headers["location"])
    );
    assert_eq!(reviews.ids(7).await.len(), 4);
    let first = reviews
        .post("/api/reviews/1/helpful", true, Some("h"), "")
        .await;
    let again = reviews
        .post("/api/reviews/1/helpful", true, Some("h"), "")
        .await;
    assert_eq!((first.status, first.text), (200, again.text));
    assert_eq!(reviews.get("/api/reviews/1").await.facts()["helpful"], 4);
}

#[tokio::test]
async fn helpful_counts_up() {
    let reviews = Reviews::new().await;
    let answer = reviews.post("/api/reviews/1/helpful", true, None, "").await;
    assert_eq!(
        (answer.status, answer.facts()),
        (200, json!({ "id": 1, "helpful": 4 }))
    );
    assert_eq!(
        reviews
            .post("/api/reviews/1/helpful", false, None, "")
            .await
            .status,
        401
    );
    assert_eq!(
        reviews
            .post("/api/reviews/99/helpful", true, None, "")
            .await
            .status,
        404
    );
    assert_eq!(
        reviews
            .post("/api/reviews/x/helpful", true, None, "")
            .await
            .status,
        404
    );
    assert_eq!(reviews.get("/api/reviews/1").await.facts()["helpful"], 4);
}

#[tokio::test]
async fn simultaneous_counts_are_all_counted() {
    let reviews = Reviews::new().await;
    let post = || reviews.post("/api/reviews/2/helpful", true, None, "");
    let answers = tokio::join!(post(), post(), post(), post(), post());
    for answer in [answers.0, answers.1, answers.2, answers.3, answers.4] {
        assert_eq!(answer.status, 200);
    }
    assert_eq!(reviews.get("/api/reviews/2").await.facts()["helpful"], 5);
}

#[tokio::test]
async fn a_fence_on_the_texts_undoes_the_review() {
    let reviews = Reviews::new().await;
    reviews
        .run_sql(&["CREATE TRIGGER fence BEFORE INSERT ON review_text
             BEGIN SELECT RAISE(ABORT, 'outgrow: reviews are moving'); END"])
        .await;
    let answer = reviews.post(PATH, true, Some("k"), GOOD).await;
    assert_eq!(
        (answer.status, answer.headers["retry-after"].as_bytes()),
        (503, &b"1"[..])
    );
    assert_eq!(answer.json()["error"], "outgrow: reviews are moving");
    assert_eq!(reviews.ids(7).await, [1, 4, 2]);
    assert_eq!(reviews.get("/api/reviews/6").await.status, 404);
    reviews.run_sql(&["DROP TRIGGER fence"]).await;
    assert_eq!(reviews.post(PATH, true, Some("k"), GOOD).await.status, 201);
}

#[tokio::test]
async fn a_dry_run_answers_like_the_write_and_leaves_nothing() {
    let reviews = Reviews::new().await;
    let dry = reviews.dry_run(PATH, Some("k"), GOOD).await;
    assert_eq!(dry.status, 201, "{}", dry.text);
    assert_eq!(dry.headers["x-outgrow-dry-run"], "rolled-back");
    assert_eq!(dry.headers["location"], "/api/reviews/6");
    assert_eq!(reviews.ids(7).await, [1, 4, 2]);
    let helpful = reviews.dry_run("/api/reviews/1/helpful", None, "").await;
    assert_eq!(helpful.facts()["helpful"], 4);
    let refused = reviews.dry_run(PATH, None, "{").await;
    assert_eq!(refused.status, 400);
    assert_eq!(
        refused.headers["x-outgrow-dry-run"], "rolled-back",
        "it has written nothing"
    );
    assert_eq!(reviews.get("/events").await.json()["events"], json!([]));
    // The key is free still, and the same id is given.
    let real = reviews.post(PATH, true, Some("k"), GOOD).await;
    assert_eq!(real.headers["location"], "/api/reviews/6");
    assert!(!real.headers.contains_key("x-outgrow-dry-run"));
    assert_eq!(reviews.get("/api/reviews/1").await.facts()["helpful"], 3);
    let again = reviews.dry_run(PATH, Some("k"), GOOD).await;
    assert_eq!(again.text, real.text, "it was done before");
    assert_eq!(again.headers["x-outgrow-dry-run"], "rolled-back");
}

#[tokio::test]
async fn what_is_neither_a_write_nor_a_dry_run_is_refused() {
    let reviews = Reviews::new().await;
    let answer = reviews.asked_dry(PATH, "true", None, GOOD).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    assert!(!answer.headers.contains_key("x-outgrow-dry-run"));
    assert_eq!(reviews.ids(7).await, [1, 4, 2]);
}
