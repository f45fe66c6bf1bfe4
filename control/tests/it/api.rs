//! The admin API over a real socket.

use bytes::Bytes;
use http::Method;
use outgrow_control::{AdminError, Controller, Token, serve_admin};
use outgrow_testkit::{Answer, client};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fakes::Home;

pub(crate) const TOKEN: &str = "a-token-of-some-length";

pub(crate) struct Served {
    pub(crate) home: Home,
    base: String,
    pub(crate) controller: Controller,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Served {
    pub(crate) async fn new() -> Self {
        Self::of(Home::new()).await
    }

    pub(crate) async fn of(home: Home) -> Self {
        let controller = home.start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let token = Token::new(TOKEN);
        let task = serve_admin(listener, controller.clone(), token, stop.clone()).unwrap();
        Self {
            home,
            base,
            controller,
            stop,
            task,
        }
    }

    pub(crate) async fn send(&self, method: Method, path: &str, token: &str, body: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let url = format!("{}{path}", self.base);
        let body = Bytes::copy_from_slice(body.as_bytes());
        client::send(client::request(method, &url, &headers, body)).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, TOKEN, "").await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, TOKEN, &body.to_string())
            .await
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        self.controller.shutdown().await;
    }
}

#[tokio::test]
async fn nothing_is_told_without_the_token() {
    let served = Served::new().await;
    for path in ["/v1/status", "/v1/nothing", "/metrics", "/"] {
        for token in ["", "wrong", &TOKEN[1..], &format!("{TOKEN}x")] {
            let answer = served.send(Method::GET, path, token, "").await;
            assert_eq!(answer.status, 401, "{path}");
            assert_eq!(answer.json()["code"], "unauthorized");
        }
    }
    let answer = client::get(&format!("{}/v1/status", served.base)).await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    let answer = served
        .send(Method::POST, "/v1/slices/quotes/flip", "wrong", "{}")
        .await;
    assert_eq!(answer.status, 401);
    served.stop().await;
}

#[tokio::test]
async fn an_address_that_others_reach_is_refused() {
    let served = Served::new().await;
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let refused = serve_admin(
        listener,
        served.controller.clone(),
        Token::new(TOKEN),
        served.stop.clone(),
    )
    .unwrap_err();
    assert!(matches!(refused, AdminError::NotLoopback(_)), "{refused}");
    served.stop().await;
}

#[tokio::test]
async fn every_look_answers() {
    let served = Served::new().await;
    for path in [
        "/v1/status",
        "/v1/slices/catalog",
        "/v1/explain?method=GET&target=/api/products/7&h=cookie:sid=1&h=x-visitor:9",
        "/v1/shadow",
        "/v1/shadow/catalog/report",
        "/v1/shadow/catalog/report?format=html",
        "/v1/shadow/catalog/report?format=md",
        "/v1/shadow/pairs/p-1",
        "/v1/shadow/catalog/rules",
        "/v1/sync",
        "/v1/sync/catalog",
        "/v1/sync/catalog/conflicts",
        "/v1/sync/catalog/preflight",
        "/v1/runbook/catalog",
        "/v1/journal",
        "/v1/journal?slice=catalog&limit=5&after=1",
        "/v1/journal/verify",
    ] {
        let answer = served.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    let status = served.get("/v1/status").await.json();
    assert_eq!(status["version"], "0.0.0");
    assert_eq!(status["slices"][0]["slice"], "catalog");
    assert_eq!(status["slices"][0]["stage"], "legacy");
    assert_eq!(status["slices"][0]["next"]["id"], "sync");
    assert_eq!(status["proxy"]["listening"], true);
    let html = served.get("/v1/shadow/catalog/report?format=html").await;
    assert_eq!(
        html.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    let told = served
        .get("/v1/explain?method=GET&target=/x&h=a:b")
        .await
        .json();
    assert_eq!(told["headers"], 1);
    served.stop().await;
}

/// Method, path, body; status, code, and what the error says.
type Mistake = (
    &'static str,
    &'static str,
    &'static str,
    u16,
    &'static str,
    &'static str,
);

const MISTAKES: &[Mistake] = &[
    (
        "GET",
        "/v1/nothing",
        "",
        404,
        "not-found",
        "no such endpoint",
    ),
    ("DELETE", "/v1/status", "", 405, "usage", "method"),
    ("GET", "/v1/slices/catalgo", "", 404, "not-found", "catalgo"),
    ("GET", "/v1/shadow/pairs/p-9", "", 404, "not-found", "p-9"),
    (
        "GET",
        "/v1/shadow/catalog/report?format=pdf",
        "",
        400,
        "usage",
        "pdf",
    ),
    (
        "GET",
        "/v1/shadow/catalog/report?fromat=md",
        "",
        400,
        "usage",
        "fromat",
    ),
    ("GET", "/v1/explain?method=GET", "", 400, "usage", "target"),
    (
        "GET",
        "/v1/explain?method=GET&target=x",
        "",
        400,
        "usage",
        "no path",
    ),
    (
        "GET",
        "/v1/explain?method=GET&target=/x&h=ab",
        "",
        400,
        "usage",
        "name:value",
    ),
    ("GET", "/v1/journal?limit=many", "", 400, "usage", "limit"),
    ("GET", "/v1/journal?slice=nix", "", 404, "not-found", "nix"),
    ("POST", "/v1/slices/quotes/flip", "{", 400, "usage", "body"),
    ("POST", "/v1/slices/quotes/flip", "{}", 400, "usage", "`to`"),
    (
        "POST",
        "/v1/slices/quotes/flip",
        "{\"to\":\"up\"}",
        400,
        "usage",
        "no stage",
    ),
    (
        "POST",
        "/v1/slices/quotes/flip",
        "{\"to\":\"shadow\",\"x\":1}",
        400,
        "usage",
        "`x`",
    ),
    (
        "POST",
        "/v1/slices/quotes/flip",
        "{\"to\":\"extracted\"}",
        422,
        "illegal",
        "mirror",
    ),
    (
        "POST",
        "/v1/slices/quotes/flip",
        "{\"to\":\"shadow\",\"if_revision\":7}",
        409,
        "conflict",
        "revision is 0, not 7",
    ),
    (
        "POST",
        "/v1/slices/quotes/rollback",
        "{\"to\":\"up\"}",
        400,
        "usage",
        "`up`",
    ),
    (
        "POST",
        "/v1/slices/quotes/freeze",
        "",
        400,
        "usage",
        "reason",
    ),
    (
        "POST",
        "/v1/sync/catalog/settle",
        "{\"take\":\"legacy\"}",
        400,
        "usage",
        "say `all`",
    ),
    (
        "POST",
        "/v1/sync/catalog/settle",
        "{\"all\":true}",
        400,
        "usage",
        "take",
    ),
    (
        "POST",
        "/v1/sync/quotes/start",
        "",
        422,
        "illegal",
        "no tables",
    ),
    (
        "POST",
        "/v1/sync/catalog/reverse",
        "{\"to\":\"up\"}",
        400,
        "usage",
        "up",
    ),
    (
        "POST",
        "/v1/sync/catalog/reverse",
        "{\"to\":\"extracted\"}",
        422,
        "illegal",
        "reads",
    ),
    (
        "POST",
        "/v1/shadow/catalog/rules",
        "{\"path\":\"x\",\"reason\":\"y\"}",
        400,
        "usage",
        "`$`",
    ),
    (
        "POST",
        "/v1/shadow/catalog/what-if",
        "{}",
        400,
        "usage",
        "nothing is changed",
    ),
    (
        "POST",
        "/v1/runbook/quotes/approve",
        "{\"step\":\"x\"}",
        400,
        "usage",
        "`by`",
    ),
];

#[tokio::test]
async fn mistakes_are_answered_in_json_with_code_and_hint() {
    let served = Served::new().await;
    let big = format!("{{\"to\":\"{}\"}}", "x".repeat(300_000));
    let too_large = (
        "POST",
        "/v1/slices/quotes/flip",
        big.as_str(),
        413,
        "usage",
        "too large",
    );
    let all = MISTAKES.iter().copied().chain([too_large]);
    for (method, path, body, status, code, says) in all {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let answer = served.send(method, path, TOKEN, body).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        let told = answer.json();
        assert_eq!(told["code"], code, "{path}: {told}");
        assert!(
            told["error"].as_str().unwrap().contains(says),
            "{path}: {told}"
        );
        assert!(told["hint"].is_string());
    }
    let told = served.get("/v1/slices/catalgo").await.json();
    assert!(
        told["hint"]
            .as_str()
            .unwrap()
            .contains("did you mean `catalog`?"),
        "{told}"
    );
    served.stop().await;
}

#[tokio::test]
async fn a_slice_is_driven_by_the_api() {
    let served = Served::new().await;
    let answer = served
        .post(
            "/v1/runbook/quotes/next",
            &json!({"by": "ana", "dry_run": true}),
        )
        .await;
    assert_eq!(answer.json()["done"], false);
    let answer = served
        .post("/v1/runbook/quotes/next", &json!({"by": "ana"}))
        .await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["step"].clone()),
        (200, json!("shadow"))
    );
    served.home.world.see().mismatched = 900;
    let answer = served.post("/v1/runbook/quotes/next", &json!({})).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["code"].clone()),
        (412, json!("gate"))
    );
    assert_eq!(answer.json()["details"]["gates"][0]["ok"], false);
    let answer = served
        .post("/v1/shadow/quotes/reset", &json!({"by": "ana"}))
        .await;
    assert_eq!(answer.status, 200);
    let answer = served.post("/v1/runbook/quotes/next", &json!({})).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["code"].clone()),
        (424, json!("inconclusive"))
    );
    served.home.world.see().matched = 10_000;
    let flip = json!({"to": "canary=5", "by": "ana", "reason": "CHG"});
    let answer = served.post("/v1/slices/quotes/flip", &flip).await;
    assert_eq!(answer.json()["to"], "canary 5%", "{}", answer.text());
    assert_eq!(answer.json()["acked"], true);
    let answer = served
        .post("/v1/slices/quotes/rollback", &json!({"to": "legacy"}))
        .await;
    assert!(answer.json()["reads_back_ms"].is_u64(), "{}", answer.text());
    assert_eq!(answer.json()["cutover"], Value::Null);
    let rule = json!({"path": "$.price", "reason": "rounding", "until": "2030-01-01",
        "owner": "ada", "accept": {"round": 2}});
    let answer = served.post("/v1/shadow/quotes/rules", &rule).await;
    assert_eq!(answer.json()[0], rule);
    let answer = served
        .post("/v1/slices/quotes/freeze", &json!({"reason": "weekend"}))
        .await;
    assert_eq!(answer.json()["frozen"], "weekend");
    let answer = served.post("/v1/slices/quotes/unfreeze", &json!({})).await;
    assert_eq!(answer.json()["frozen"], Value::Null);
    let journal = served.get("/v1/journal?slice=quotes").await.json();
    let actions: Vec<&str> = journal
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["action"].as_str().unwrap())
        .collect();
    let expected = [
        "step",
        "shadow-reset",
        "flip",
        "rollback",
        "rule-added",
        "freeze",
        "unfreeze",
    ];
    assert_eq!(actions, expected);
    assert_eq!(served.get("/v1/journal/verify").await.json()["ok"], true);
    served.stop().await;
}

#[tokio::test]
async fn a_slice_is_closed_and_opened_by_the_api() {
    let served = Served::new().await;
    let path = "/v1/slices/quotes/maintenance";
    let answer = served.post(path, &json!({"on": true})).await;
    assert_eq!(answer.status, 400);
    let closed = json!({"on": true, "reason": "a new disk"});
    let answer = served.post(path, &closed).await;
    assert_eq!(answer.json()["maintenance"], "a new disk");
    let status = served.get("/v1/status").await.json();
    let slices = status["slices"].as_array().unwrap();
    let quotes = slices.iter().find(|s| s["slice"] == "quotes").unwrap();
    assert_eq!(quotes["effective"]["maintenance"], true);
    let answer = served.post(path, &json!({"on": false})).await;
    assert_eq!(answer.json()["maintenance"], Value::Null);
    let journal = served.get("/v1/journal?slice=quotes").await.json();
    let entries = journal.as_array().unwrap();
    let told: Vec<&str> = entries
        .iter()
        .map(|entry| entry["reason"].as_str().unwrap())
        .collect();
    assert!(entries.iter().all(|entry| entry["action"] == "maintenance"));
    assert_eq!(told.len(), 2);
    assert_eq!(told[0], "a new disk");
    served.stop().await;
}

#[tokio::test]
async fn a_route_goes_on_by_the_api_and_is_not_stopped_by_it() {
    let served = Served::new().await;
    let path = "/v1/slices/catalog/mirroring";
    served.home.world.see().to_resume = vec!["PUT /a".to_owned()];
    let off = json!({"on": false, "routes": ["PUT /a"], "reason": "r"});
    for (body, says) in [
        (off, "stop the slice"),
        (json!({"on": true, "routes": ["PUT /b"]}), "`PUT /a`"),
        (json!({"on": true, "route": "PUT /a"}), "route"),
    ] {
        let answer = served.post(path, &body).await;
        let text = answer.text();
        assert!(answer.status == 400 && text.contains(says), "{text}");
    }
    let on = json!({"on": true, "routes": ["PUT /a"], "by": "ana"});
    assert_eq!(served.post(path, &on).await.status, 200);
    assert!(served.home.world.see().to_resume.is_empty());
    served.stop().await;
}

#[tokio::test]
async fn other_rules_are_asked_as_they_came_and_leave_no_trace() {
    let served = Served::new().await;
    let before = served.get("/v1/journal?slice=quotes").await.json();
    let changed = json!({"add": [{"path": "$.a", "reason": "what if"}], "drop": ["$.at"]});
    let answer = served.post("/v1/shadow/quotes/what-if", &changed).await;
    assert_eq!(answer.json(), json!({"slice": "quotes", "asked": changed}));
    let after = served.get("/v1/journal?slice=quotes").await.json();
    assert_eq!(after, before);
    served.stop().await;
}
