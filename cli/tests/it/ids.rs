//! Ids that the extracted side gives anew, on a real process: it is asked by its own ones.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use outgrow_testkit::process::free_address;
use outgrow_testkit::{Upstream, client, eventually};
use serde_json::Value;

use crate::harness::run_in;
use crate::starting::serve;

const WAIT: Duration = Duration::from_secs(20);

/// A side whose orders have this id.
async fn side(id: &'static str) -> Upstream {
    Upstream::start(move |request: Request<Bytes>| async move {
        let order = format!(r#"{{"id":"{id}","total":"9.95"}}"#);
        let (status, body) = match request.uri().path() {
            "/api/orders" => (200, format!("[{order}]")),
            path if path.strip_prefix("/api/orders/") == Some(id) => (200, order),
            _ => (404, "{}".to_owned()),
        };
        let answer = Response::builder().status(status);
        let answer = answer.header("content-type", "application/json");
        answer.body(Bytes::from(body)).unwrap()
    })
    .await
}

const CONFIG: &str = r#"
[proxy]
listen = ["PROXY"]
workers = 1
[legacy]
urls = ["LEGACY"]
database = "sqlite:legacy.db"
[control]
listen = "CONTROL"
[services.orders]
urls = ["SERVICE"]
[slices.orders]
service = "orders"
routes = ["GET /api/orders", "GET /api/orders/{id}"]
[slices.orders.shadow]
noise_sample = 0.0
by_route = [{ routes = ["GET /api/orders/{id}"], ids = { id = "order" } }]
accept = [{ path = "$..id", renamed = "order", reason = "numbered anew", until = "2999-01-01" }]
"#;

#[tokio::test]
async fn the_other_side_is_asked_by_its_own_ids() {
    let (legacy, service) = (side("17").await, side("o-1").await);
    let [proxy, control] = [(); 2].map(|()| free_address());
    let url = |side: &Upstream| side.url("").trim_end_matches('/').to_owned();
    let dir = tempfile::tempdir().unwrap();
    let config = CONFIG
        .replace("PROXY", &proxy.to_string())
        .replace("CONTROL", &control.to_string())
        .replace("LEGACY", &url(&legacy))
        .replace("SERVICE", &url(&service));
    std::fs::write(dir.path().join("outgrow.toml"), config).unwrap();
    let mut process = serve(dir.path()).await;
    let args = [
        "route", "flip", "orders", "shadow", "--force", "--reason", "test",
    ];
    let ended = run_in(dir.path(), &args).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let seen = |what: &'static str, wanted: u64| {
        let dir = dir.path().to_owned();
        eventually(what, WAIT, move || {
            let dir = dir.clone();
            async move {
                let ended = run_in(&dir, &["shadow", "status", "-o", "json"]).await;
                let all: Value = serde_json::from_str(&ended.stdout).ok()?;
                (all["orders"][what].as_u64()? == wanted).then_some(())
            }
        })
    };
    let get = async |path: &str| {
        let answer = client::get(&format!("http://{proxy}{path}")).await;
        assert_eq!(answer.status, 200, "{path}");
    };
    // An order that is not known yet is asked for nowhere else.
    get("/api/orders/17").await;
    seen("not_comparable", 1).await;
    assert!(service.seen().is_empty());
    get("/api/orders").await;
    seen("matched", 1).await;
    get("/api/orders/17").await;
    seen("matched", 2).await;
    let asked: Vec<String> = service.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(asked, ["/api/orders", "/api/orders/o-1"]);
    let args = ["shadow", "report", "orders", "--format", "json"];
    let report = run_in(dir.path(), &args).await;
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(report["not_comparable"]["id-not-known-yet"], 1, "{report}");
    assert!(process.stop().await.success());
}
