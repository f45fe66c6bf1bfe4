//! Copies of writes, with real processes: the reviews service takes them back; one that does not
//! gets no more of them.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use outgrow_testkit::process::{Process, free_address};
use outgrow_testkit::{Answer, Upstream, client, database, eventually};
use serde_json::Value;

use crate::harness::run_in;
use crate::kill_shop::{log_in, sibling};

const WAIT: Duration = Duration::from_secs(40);
const HELPFUL: &str = "/api/reviews/1/helpful";
const REVIEW: &str = r#"{"rating":4,"title":"Nice","body":"I like it"}"#;

struct Shop {
    dir: tempfile::TempDir,
    proxy_at: SocketAddr,
    _reviews: Process,
    _monolith: Process,
    outgrow: Process,
}

async fn started(binary: &Path, args: &[String], log: &Path, at: SocketAddr) -> Process {
    let mut process = Process::spawn(binary, args, log);
    process.healthy(&format!("http://{at}/health")).await;
    process
}

async fn outgrow(dir: &Path, proxy: SocketAddr) -> Process {
    let args = [
        "serve".to_owned(),
        "-c".to_owned(),
        "outgrow.toml".to_owned(),
    ];
    let config = dir.join("outgrow.toml").display().to_string();
    let args = [&args[..2], &[config]].concat();
    let binary = Path::new(env!("CARGO_BIN_EXE_outgrow"));
    started(binary, &args, &dir.join("outgrow.log"), proxy).await
}

impl Shop {
    async fn open(careless: &Upstream) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [monolith, service, proxy, control] = [(); 4].map(|()| free_address());
        let path = |name: &str| dir.path().join(name);
        std::fs::write(
            path("identity.secret"),
            "a secret of thirty-two bytes or more",
        )
        .unwrap();
        let config = CONFIG
            .replace("PROXY", &proxy.to_string())
            .replace("CONTROL", &control.to_string())
            .replace("MONOLITH", &monolith.to_string())
            .replace("REVIEWS", &service.to_string())
            .replace("CARELESS", &careless.addr().to_string());
        std::fs::write(path("outgrow.toml"), config).unwrap();
        let args = |at: SocketAddr, database: &str, more: [String; 2]| {
            let database = format!("sqlite:{}", path(database).display());
            let own = [
                "--listen".to_owned(),
                at.to_string(),
                "--database".to_owned(),
                database,
            ];
            [&own[..], &more].concat()
        };
        let seed = ["--seed".to_owned(), "11".to_owned()];
        let seeded = args(monolith, "shop.db", seed);
        let binary = sibling("legacy-monolith");
        let _monolith = started(&binary, &seeded, &path("monolith.log"), monolith).await;
        let secret = path("identity.secret").display().to_string();
        let secret = ["--identity-secret-file".to_owned(), secret];
        let alone = args(service, "reviews.db", secret);
        let binary = sibling("extracted-reviews");
        let _reviews = started(&binary, &alone, &path("reviews.log"), service).await;
        let outgrow = outgrow(dir.path(), proxy).await;
        Self {
            dir,
            proxy_at: proxy,
            _reviews,
            _monolith,
            outgrow,
        }
    }

    async fn run(&self, line: &str) -> String {
        let args: Vec<&str> = line.split(' ').collect();
        let ended = run_in(self.dir.path(), &args).await;
        assert_eq!(ended.code, 0, "{line}: {}{}", ended.stdout, ended.stderr);
        ended.stdout
    }

    async fn send(&self, method: Method, path: &str, cookie: &str, body: &'static str) -> Answer {
        let url = format!("http://{}{path}", self.proxy_at);
        let fields = [("cookie", cookie), ("content-type", "application/json")];
        let body = Bytes::from_static(body.as_bytes());
        client::send(client::request(method, &url, &fields, body)).await
    }

    async fn count(&self, file: &str, query: &'static str) -> i64 {
        let pool = database::open(&self.dir.path().join(file)).await;
        sqlx::query_scalar(query).fetch_one(&pool).await.unwrap()
    }

    /// What the shadow knows of a slice, once nothing waits any more and this many came.
    async fn seen(&self, slice: &str, eligible: u64) -> Value {
        eventually("the pairs to be judged", WAIT, || async {
            let all: Value =
                serde_json::from_str(&self.run("shadow status -o json").await).unwrap();
            let seen = all[slice].clone();
            (seen["eligible"] == eligible && seen["waiting"] == 0).then_some(seen)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_honours_dry_runs_is_compared_and_another_is_stopped() {
    let careless = Upstream::always(200, "{}").await;
    let mut shop = Shop::open(&careless).await;
    for slice in ["reviews", "careless"] {
        let line = format!("route flip {slice} shadow --force --reason test");
        shop.run(&line).await;
    }
    let cookie = log_in(shop.proxy_at, 5).await.unwrap();
    honoured(&shop, &cookie).await;
    ignored(&shop, &cookie).await;
    // Killed, it knows still.
    shop.outgrow.kill().await;
    shop.outgrow = outgrow(shop.dir.path(), shop.proxy_at).await;
    // What was counted since the last save is lost with it.
    let counted = async || {
        let all: Value = serde_json::from_str(&shop.run("shadow status -o json").await).unwrap();
        all["careless"]["ineligible"].as_u64()
    };
    let before = counted().await.unwrap();
    shop.send(Method::POST, HELPFUL, &cookie, "").await;
    eventually("the ledger", WAIT, || async {
        (counted().await? == before + 1).then_some(())
    })
    .await;
    assert_eq!(careless.seen().len(), 1);
    shop.run("shadow resume careless --reason mended").await;
    shop.send(Method::POST, HELPFUL, &cookie, "").await;
    eventually("the next", WAIT, || async {
        (careless.seen().len() == 2).then_some(())
    })
    .await;
    let asked = &careless.seen()[0];
    assert_eq!(asked.header("x-outgrow-dry-run"), Some("1"));
    let fields = ["cookie", "x-outgrow-shadow", "host"].map(|name| asked.header(name));
    let host = shop.proxy_at.to_string();
    assert_eq!(fields, [None, Some("1"), Some(&*host)]);
}

/// Equal answers, and no row.
async fn honoured(shop: &Shop, cookie: &str) {
    let path = "/api/products/7/reviews";
    for (login, status) in [(cookie, 201), ("", 401)] {
        let answer = shop.send(Method::POST, path, login, REVIEW).await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
    }
    let seen = shop.seen("reviews", 2).await;
    let report = shop.run("shadow report reviews").await;
    assert_eq!(seen["matched"], 2, "{seen}\n{report}");
    for class in ["2xx", "4xx"] {
        let class = format!("POST /api/products/{{id}}/reviews {class}");
        assert_eq!(seen["classes"][class]["compared"], 1, "{seen}");
    }
    let nice = "SELECT count(*) FROM reviews WHERE title = 'Nice'";
    assert_eq!(shop.count("shop.db", nice).await, 1);
    for query in [
        "SELECT count(*) FROM review",
        "SELECT count(*) FROM review_text",
        "SELECT count(*) FROM _kit_outbox",
    ] {
        assert_eq!(shop.count("reviews.db", query).await, 0, "{query}");
    }
}

/// One copy, and no other.
async fn ignored(shop: &Shop, cookie: &str) {
    shop.send(Method::POST, HELPFUL, cookie, "").await;
    let seen = shop.seen("careless", 1).await;
    let reason = &seen["stopped"]["POST /api/reviews/{id}/helpful"];
    let reason = reason.as_str().unwrap();
    assert!(reason.contains("it may have written"), "{reason}");
    shop.send(Method::POST, HELPFUL, cookie, "").await;
    let seen = shop.seen("careless", 2).await;
    assert_eq!(seen["ineligible"], 1);
    eventually("the entry", WAIT, || async {
        let journal = shop.run("journal --slice careless").await;
        journal.contains("dry-run").then_some(())
    })
    .await;
    for shown in ["status", "shadow status", "shadow report careless"] {
        let shown = shop.run(shown).await;
        assert!(shown.contains("mirrored no more"), "{shown}");
    }
}

const CONFIG: &str = r#"
[proxy]
listen = ["PROXY"]
workers = 1
[proxy.identity]
cookie = "sid"
whoami = "/api/me"
secret_file = "identity.secret"
[legacy]
urls = ["http://MONOLITH"]
[control]
listen = "CONTROL"
store = "sqlite:outgrow-store.db"
token_file = "admin.token"
[shadow]
build_header = "x-build-id"
[services.reviews]
urls = ["http://REVIEWS"]
[services.careless]
urls = ["http://CARELESS"]

[slices.reviews]
service = "reviews"
routes = ["POST /api/products/{id}/reviews"]
[slices.reviews.shadow]
by_route = [{ routes = ["POST /api/products/{id}/reviews"], writes = "dry-run" }]
ignore = [
    { path = "$.request_id", reason = "random", until = "2030-01-01" },
    { path = "$.generated_at", reason = "a clock", until = "2030-01-01" },
    { path = "$.created_at", reason = "a clock", until = "2030-01-01" },
    { path = "$.id", reason = "given anew", until = "2030-01-01" },
    { path = "header:location", reason = "has the id", until = "2030-01-01" },
]

[slices.careless]
service = "careless"
routes = ["POST /api/reviews/{id}/helpful"]
[slices.careless.shadow]
by_route = [{ routes = ["POST /api/reviews/{id}/helpful"], writes = "dry-run" }]
"#;
