//! Login, sessions, form tokens.

use crate::harness::{CUSTOMER, JSON, STAFF, TestShop, form_token, keys};
use http::StatusCode;
use serde_json::json;

#[tokio::test]
async fn me_names_who_is_logged_in() {
    let shop = TestShop::open().await;
    let refused = shop.anonymous().get("/api/me").await.json(401);
    assert_eq!(keys(&refused), ["error", "request_id", "status"]);
    let me = shop.user(CUSTOMER).await.get("/api/me").await.json(200);
    assert_eq!(
        keys(&me),
        ["generated_at", "name", "request_id", "role", "user_id"]
    );
    assert_eq!(
        (&me["user_id"], &me["role"]),
        (&json!(CUSTOMER), &json!("customer"))
    );
    let me = shop.user(STAFF).await.get("/api/me").await.json(200);
    assert_eq!(me["role"], "staff");
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_address_look_alike() {
    let shop = TestShop::open().await;
    let mut anonymous = shop.anonymous();
    for email in ["user1@shop.example", "nobody@shop.example"] {
        let body = json!({"email": email, "password": "outgrow-2"});
        let answer = anonymous.post("/api/login", body).await;
        assert_eq!(answer.json(401)["error"], "wrong e-mail or password");
        assert!(answer.header("set-cookie").is_none());
    }
}

#[tokio::test]
async fn the_cookie_is_out_of_reach_of_scripts_and_its_value_is_not_stored() {
    let shop = TestShop::open().await;
    let body = json!({"email": "user1@shop.example", "password": "outgrow-1"});
    let mut browser = shop.anonymous();
    let answer = browser.post("/api/login", body).await;
    let cookie = answer.header("set-cookie").unwrap();
    assert!(
        cookie.ends_with("; HttpOnly; SameSite=Lax; Path=/"),
        "{cookie}"
    );
    let stored: String = sqlx::query_scalar("SELECT token_digest FROM sessions")
        .fetch_one(&shop.db)
        .await
        .unwrap();
    assert!(!cookie.contains(&stored));
}

#[tokio::test]
async fn an_old_session_is_no_session() {
    let shop = TestShop::open().await;
    let mut browser = shop.user(CUSTOMER).await;
    browser.get("/api/me").await.json(200);
    shop.run("UPDATE sessions SET expires_at = '2020-01-01 00:00:00'")
        .await;
    browser.get("/api/me").await.json(401);
}

#[tokio::test]
async fn login_by_form_needs_the_token_of_this_browser() {
    let shop = TestShop::open().await;
    let mut browser = shop.anonymous();
    let token = form_token(&browser.get("/login?next=/orders").await.page(200));
    let fields = format!("csrf={token}&email=user30@shop.example&password=outgrow-30&next=/orders");
    // Another browser, with a token of its own cookie or with none, cannot use it.
    let mut other = shop.anonymous();
    other.form("/login", fields.clone()).await.page(403);
    other.get("/login").await.page(200);
    other.form("/login", fields.clone()).await.page(403);
    let answer = browser.form("/login", fields).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert_eq!(answer.header("location"), Some("/orders"));
    browser.get("/api/me").await.json(200);
}

#[tokio::test]
async fn logout_by_form_needs_the_token_and_ends_the_session_for_good() {
    let shop = TestShop::open().await;
    let mut browser = shop.user(CUSTOMER).await;
    let kept = browser.clone();
    browser
        .form("/logout", "csrf=forged".to_owned())
        .await
        .page(403);
    browser.get("/api/me").await.json(200);
    let token = form_token(&browser.get("/").await.page(200));
    let answer = browser.form("/logout", format!("csrf={token}")).await;
    assert_eq!(answer.header("location"), Some("/"));
    assert!(browser.cookies.is_empty());
    // The old cookie is worth nothing, wherever it was kept.
    kept.clone().get("/api/me").await.json(401);
}

#[tokio::test]
async fn the_api_refuses_what_a_foreign_form_can_send() {
    let shop = TestShop::open().await;
    let mut browser = shop.user(CUSTOMER).await;
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ] {
        let body = r#"{"product_id":1,"quantity":1}"#;
        let answer = browser
            .send("POST", "/api/cart/items", &[("content-type", kind)], body)
            .await;
        answer.json(415);
    }
    assert_eq!(shop.number("SELECT count(*) FROM cart_items").await, 0);
    browser
        .send("POST", "/api/logout", &[JSON], "{}")
        .await
        .json(200);
    browser.get("/api/me").await.json(401);
}

#[tokio::test]
async fn bodies_that_are_no_json_are_400_and_wrong_fields_422() {
    let shop = TestShop::open().await;
    let mut anonymous = shop.anonymous();
    anonymous
        .send("POST", "/api/login", &[JSON], "{\"email\":")
        .await
        .json(400);
    anonymous
        .send("POST", "/api/login", &[JSON], "")
        .await
        .json(400);
    anonymous
        .post("/api/login", json!({"email": 5, "password": "x"}))
        .await
        .json(422);
    let large = "x".repeat(70_000);
    anonymous
        .post("/api/login", json!({"email": large, "password": ""}))
        .await
        .json(413);
}
