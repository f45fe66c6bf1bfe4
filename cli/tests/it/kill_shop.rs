//! The shop of the kill test: real processes on free ports, staff who change prices without
//! pause, and an operator who asks for the same step until it is done.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use outgrow_testkit::process::{Process, free_address};
use outgrow_testkit::{Answer, client, database, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::harness::run_in;

/// A step waits for its evidence, on a busy machine, in a debug build.
const STEP: Duration = Duration::from_secs(40);
/// Few enough to leave the processes room, enough that something is always under way.
const WRITERS: u64 = 3;
const READERS: u64 = 6;

/// As many as a person would read.
const FAILURES_MAX: usize = 20;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    Monolith,
    Service,
    Outgrow,
}

/// All of it. Dropping it kills the processes.
pub(crate) struct Shop {
    dir: TempDir,
    monolith_at: SocketAddr,
    service_at: SocketAddr,
    proxy_at: SocketAddr,
    control_at: SocketAddr,
    monolith: Process,
    service: Process,
    outgrow: Process,
    token: String,
}

impl Shop {
    pub(crate) async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (monolith_at, service_at) = (free_address(), free_address());
        let (proxy_at, control_at) = (free_address(), free_address());
        std::fs::write(
            dir.path().join("identity.secret"),
            "a secret of thirty-two bytes or more",
        )
        .unwrap();
        let config = config(monolith_at, service_at, proxy_at, control_at);
        std::fs::write(dir.path().join("outgrow.toml"), config).unwrap();
        let monolith = start_monolith(dir.path(), monolith_at).await;
        let service = start_service(dir.path(), service_at).await;
        let outgrow = start_outgrow(dir.path(), proxy_at).await;
        let token = std::fs::read_to_string(dir.path().join("admin.token")).unwrap();
        let token = token.trim().to_owned();
        Self {
            dir,
            monolith_at,
            service_at,
            proxy_at,
            control_at,
            monolith,
            service,
            outgrow,
            token,
        }
    }

    /// `kill -9`, and a new start as it was started the first time.
    pub(crate) async fn kill(&mut self, victim: Victim) {
        let dir = self.dir.path();
        match victim {
            Victim::Monolith => {
                self.monolith.kill().await;
                self.monolith = start_monolith(dir, self.monolith_at).await;
            }
            Victim::Service => {
                self.service.kill().await;
                self.service = start_service(dir, self.service_at).await;
            }
            Victim::Outgrow => {
                self.outgrow.kill().await;
                self.outgrow = start_outgrow(dir, self.proxy_at).await;
            }
        }
    }

    /// Asks for the next step until `wanted` is behind the slice.
    pub(crate) async fn take(&self, wanted: &str) {
        let last = Mutex::new(String::new());
        let what = format!("the step {wanted}");
        let asked = eventually(&what, STEP, || async {
            if self.is_behind(wanted).await? {
                return Some(());
            }
            let answer = self
                .admin(
                    Method::POST,
                    "/v1/runbook/catalog/next",
                    &json!({"by": "test"}),
                )
                .await;
            let text = answer.map_or_else(|e| e, |answer| answer.text());
            *last.lock().unwrap_or_else(PoisonError::into_inner) = text;
            None
        });
        // What stood in the way is worth more than the name of the step.
        let asked = tokio::time::timeout(STEP, asked).await;
        assert!(
            asked.is_ok(),
            "{what} was not taken; last: {}\n{}",
            last.lock().unwrap_or_else(PoisonError::into_inner),
            self.outgrow.log()
        );
    }

    async fn is_behind(&self, step: &str) -> Option<bool> {
        let runbook = self
            .admin(Method::GET, "/v1/runbook/catalog", &Value::Null)
            .await
            .ok()?;
        let runbook = runbook.json();
        let steps = runbook["steps"].as_array()?.clone();
        let found = steps.iter().find(|s| s["id"] == step)?;
        Some(matches!(found["state"].as_str(), Some("done" | "current")))
    }

    /// Starts the cutover, kills somebody in its middle, and waits until it is decided.
    pub(crate) async fn kill_inside_cutover(&mut self, victim: Victim) {
        self.kill_inside("/v1/runbook/catalog/next", victim).await;
    }

    /// The same on the way back.
    pub(crate) async fn kill_inside_rollback(&mut self, victim: Victim) {
        self.kill_inside("/v1/slices/catalog/rollback", victim)
            .await;
    }

    async fn kill_inside(&mut self, path: &str, victim: Victim) {
        let before = self.revision().await;
        let asking = tokio::spawn(ask(
            self.control_at,
            self.token.clone(),
            Method::POST,
            path.to_owned(),
            json!({"by": "test", "reason": "a kill in its middle"}),
        ));
        // It has begun as soon as the proxy holds writes, or it is over already.
        eventually("the cutover to begin", STEP, || async {
            if asking.is_finished() {
                return Some(());
            }
            let status = self
                .admin(Method::GET, "/v1/slices/catalog", &Value::Null)
                .await
                .ok()?
                .json();
            let begun = !status["cutover"].is_null() || status["state"]["revision"] != before;
            begun.then_some(())
        })
        .await;
        self.kill(victim).await;
        let _ = asking.await;
        eventually("the cutover to be decided", STEP, || async {
            let status = self
                .admin(Method::GET, "/v1/slices/catalog", &Value::Null)
                .await
                .ok()?;
            status.json()["cutover"].is_null().then_some(())
        })
        .await;
    }

    /// Brings the writer, and with it the reads, back to the legacy side.
    pub(crate) async fn bring_writes_back(&self) {
        eventually("the writes to be back", STEP, || async {
            if self.writer_now().await? == "legacy" {
                return Some(());
            }
            let body = json!({"by": "test", "reason": "once more"});
            let _ = self
                .admin(Method::POST, "/v1/slices/catalog/rollback", &body)
                .await;
            None
        })
        .await;
    }

    pub(crate) async fn writer(&self) -> String {
        eventually("the status", STEP, || self.writer_now()).await
    }

    async fn writer_now(&self) -> Option<String> {
        let status = self
            .admin(Method::GET, "/v1/slices/catalog", &Value::Null)
            .await
            .ok()?
            .json();
        status["state"]["writer"].as_str().map(str::to_owned)
    }

    async fn revision(&self) -> Value {
        let status = self
            .admin(Method::GET, "/v1/slices/catalog", &Value::Null)
            .await
            .unwrap();
        status.json()["state"]["revision"].clone()
    }

    /// Changes the share of the reads, whatever the gates say.
    pub(crate) async fn flip(&self, to: &str) {
        let flip = [
            "route", "flip", "catalog", to, "--force", "--reason", "test",
        ];
        let ended = run_in(self.dir.path(), &flip).await;
        assert_eq!(
            ended.code,
            0,
            "{to}: {}\n{}",
            ended.stderr,
            self.outgrow.log()
        );
    }

    /// Every row, not only those that the writers wrote.
    pub(crate) async fn check_rows(&self) {
        let verified = self
            .admin(Method::POST, "/v1/sync/catalog/verify", &json!({}))
            .await
            .unwrap();
        let report = verified.json();
        let tables = report["rows"].as_object().unwrap();
        assert_eq!(tables.len(), 4, "{report}");
        let equal = |table: &Value| table["different"] == 0 && table["legacy"] != 0;
        assert!(tables.values().all(equal), "{report}");
    }

    pub(crate) async fn check_journal(&self) {
        let journal = self
            .admin(Method::GET, "/v1/journal/verify", &Value::Null)
            .await
            .unwrap();
        assert_eq!(journal.json()["ok"], true, "{}", journal.text());
    }

    async fn admin(&self, method: Method, path: &str, body: &Value) -> Result<Answer, String> {
        ask(
            self.control_at,
            self.token.clone(),
            method,
            path.to_owned(),
            body.clone(),
        )
        .await
    }

    /// Staff who change prices and shoppers who look, until they are stopped.
    pub(crate) fn writers(&self) -> Writers {
        Writers::start(self.proxy_at)
    }

    /// Each acknowledged write is on both sides once, and no other write is there twice.
    pub(crate) async fn check_both_sides(&self, acknowledged: &BTreeSet<String>) {
        for (file, query) in [
            (
                "catalog.db",
                "SELECT ref, count(*) FROM price_change WHERE ref LIKE 'kill-%' GROUP BY ref",
            ),
            (
                "shop.db",
                "SELECT ref, count(*) FROM price_changes WHERE ref LIKE 'kill-%' GROUP BY ref",
            ),
        ] {
            let pool = database::open(&self.dir.path().join(file)).await;
            // The passive side may be some milliseconds behind.
            let found = eventually(&format!("every write in {file}"), STEP, || async {
                let rows: Vec<(String, i64)> = sqlx::query_as(query).fetch_all(&pool).await.ok()?;
                let found: BTreeMap<String, i64> = rows.into_iter().collect();
                acknowledged
                    .iter()
                    .all(|token| found.contains_key(token))
                    .then_some(found)
            })
            .await;
            let doubled: Vec<_> = found.iter().filter(|(_, times)| **times != 1).collect();
            assert!(doubled.is_empty(), "{file}: {doubled:?}");
        }
    }
}

/// Clients of the shop.
pub(crate) struct Writers {
    clients: JoinSet<()>,
    stop: CancellationToken,
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    looked: Arc<AtomicUsize>,
    failures: Failures,
}

/// Requests that went wrong, where nobody is killed nor should.
type Failures = Arc<Mutex<Vec<String>>>;

fn note(failures: &Failures, asked: &str, answer: &Result<Answer, String>) {
    let why = match answer {
        Ok(answer) if answer.status.is_success() => return,
        Ok(answer) => format!("{asked}: {} {}", answer.status, answer.text()),
        Err(why) => format!("{asked}: {why}"),
    };
    let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
    // Where somebody is killed, thousands of them.
    if failures.len() < FAILURES_MAX {
        failures.push(why);
    }
}

impl Writers {
    fn start(shop: SocketAddr) -> Self {
        let stop = CancellationToken::new();
        let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
        let (looked, failures) = (Arc::new(AtomicUsize::new(0)), Failures::default());
        let mut clients = JoinSet::new();
        for writer in 0..WRITERS {
            let (stop, book) = (stop.clone(), Arc::clone(&acknowledged));
            let failures = Arc::clone(&failures);
            clients.spawn(async move {
                stop.run_until_cancelled(change_prices(shop, writer, book, failures))
                    .await;
            });
        }
        for reader in 0..READERS {
            let stop = stop.clone();
            let seen = (Arc::clone(&looked), Arc::clone(&failures));
            clients.spawn(async move {
                stop.run_until_cancelled(look_around(shop, reader, seen))
                    .await;
            });
        }
        Self {
            clients,
            stop,
            acknowledged,
            looked,
            failures,
        }
    }

    /// How many reads were answered well, and what went wrong.
    pub(crate) fn seen(&self) -> (usize, Vec<String>) {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        (self.looked.load(Relaxed), failures.clone())
    }

    /// Waits until some more writes have been acknowledged.
    pub(crate) async fn wait_for_more(&self) {
        let before = self.count();
        eventually("more writes", STEP, || async {
            (self.count() >= before + WRITERS as usize).then_some(())
        })
        .await;
    }

    /// A write under way when its client stops was not acknowledged to it.
    pub(crate) async fn stop(mut self) -> BTreeSet<String> {
        self.stop.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        self.acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn count(&self) -> usize {
        self.acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}

async fn change_prices(
    shop: SocketAddr,
    writer: u64,
    book: Arc<Mutex<BTreeSet<String>>>,
    failures: Failures,
) {
    let mut cookie = None;
    for number in 0u64.. {
        let Some(sid) = &cookie else {
            cookie = log_in(shop, 1 + writer).await;
            continue;
        };
        let token = format!("kill-{writer}-{number}");
        let product = 1 + (number * WRITERS + writer) % 200;
        let price = json!({"price": format!("{}.50", 1 + number % 90), "ref": token});
        let url = format!("http://{shop}/api/products/{product}/price");
        let headers = [
            ("cookie", sid.as_str()),
            ("content-type", "application/json"),
        ];
        let request = client::request(Method::PUT, &url, &headers, Bytes::from(price.to_string()));
        let answer = client::try_send(request).await;
        note(&failures, &url, &answer);
        match answer {
            Ok(answer) if answer.status.is_success() => {
                book.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(token);
            }
            // Somebody was just killed: whether this write was done, nobody knows.
            Ok(answer) if answer.status == StatusCode::UNAUTHORIZED => cookie = None,
            _ => {}
        }
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn log_in(shop: SocketAddr, user: u64) -> Option<String> {
    let body =
        json!({"email": format!("user{user}@shop.example"), "password": format!("outgrow-{user}")});
    let headers = [("content-type", "application/json")];
    let url = format!("http://{shop}/api/login");
    let request = client::request(Method::POST, &url, &headers, Bytes::from(body.to_string()));
    let answer = client::try_send(request).await.ok()?;
    let cookie = answer.header("set-cookie")?;
    cookie.split(';').next().map(str::to_owned)
}

async fn look_around(shop: SocketAddr, reader: u64, seen: (Arc<AtomicUsize>, Failures)) {
    for number in 0u64.. {
        let product = 1 + (number * 7 + reader) % 300;
        let path = match number % 5 {
            0 => "/api/categories".to_owned(),
            1 => format!("/api/products?page={}", 1 + number % 9),
            2 => format!("/api/products/{product}/prices"),
            _ => format!("/api/products/{product}"),
        };
        let visitor = format!("visitor-{}", number % 500);
        let url = format!("http://{shop}{path}");
        let request = client::request(Method::GET, &url, &[("x-visitor", &visitor)], Bytes::new());
        let answer = client::try_send(request).await;
        note(&seen.1, &url, &answer);
        let well = answer.is_ok_and(|answer| answer.status.is_success());
        seen.0.fetch_add(usize::from(well), Relaxed);
        tokio::task::yield_now().await;
    }
}

async fn ask(
    control: SocketAddr,
    token: String,
    method: Method,
    path: String,
    body: Value,
) -> Result<Answer, String> {
    let authorization = format!("Bearer {token}");
    let headers = [
        ("authorization", authorization.as_str()),
        ("content-type", "application/json"),
    ];
    let bytes = if body.is_null() {
        Bytes::new()
    } else {
        Bytes::from(body.to_string())
    };
    let url = format!("http://{control}{path}");
    client::try_send(client::request(method, &url, &headers, bytes)).await
}

async fn start_monolith(dir: &Path, at: SocketAddr) -> Process {
    let args = [
        "--listen".to_owned(),
        at.to_string(),
        "--database".to_owned(),
        format!("sqlite:{}", dir.join("shop.db").display()),
        "--seed".to_owned(),
        "11".to_owned(),
    ];
    let mut monolith = Process::spawn(
        &sibling("legacy-monolith"),
        &args,
        &dir.join("monolith.log"),
    );
    monolith.healthy(&format!("http://{at}/health")).await;
    monolith
}

async fn start_service(dir: &Path, at: SocketAddr) -> Process {
    let args = [
        "--listen".to_owned(),
        at.to_string(),
        "--database".to_owned(),
        format!("sqlite:{}", dir.join("catalog.db").display()),
        "--identity-secret-file".to_owned(),
        dir.join("identity.secret").display().to_string(),
    ];
    let mut service = Process::spawn(
        &sibling("extracted-catalog"),
        &args,
        &dir.join("catalog.log"),
    );
    service.healthy(&format!("http://{at}/health")).await;
    service
}

async fn start_outgrow(dir: &Path, proxy: SocketAddr) -> Process {
    let config = dir.join("outgrow.toml").display().to_string();
    let binary = Path::new(env!("CARGO_BIN_EXE_outgrow"));
    let mut outgrow = Process::spawn(binary, &["serve", "-c", &config], &dir.join("outgrow.log"));
    outgrow.healthy(&format!("http://{proxy}/health")).await;
    outgrow
}

/// A binary of the examples, built when it is not there. `scripts/test` has built them all.
pub(crate) fn sibling(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_outgrow")).with_file_name(name);
    if !path.exists() {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", name])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(
            built.success() && path.exists(),
            "build it by `cargo build -p {name}`"
        );
    }
    path
}

fn config(
    monolith: SocketAddr,
    service: SocketAddr,
    proxy: SocketAddr,
    control: SocketAddr,
) -> String {
    format!(
        r#"
[proxy]
listen = ["{proxy}"]
[proxy.identity]
cookie = "sid"
whoami = "/api/me"
secret_file = "identity.secret"
[legacy]
urls = ["http://{monolith}"]
database = "sqlite:shop.db"
[control]
listen = "{control}"
store = "sqlite:outgrow-store.db"
token_file = "admin.token"
[shadow]
build_header = "x-build-id"
[services.catalog]
urls = ["http://{service}"]
database = "sqlite:catalog.db"
{CATALOG}"#
    )
}

/// The plan asks for little evidence: what is tested here is not the gates.
const CATALOG: &str = r#"
[slices.catalog]
service = "catalog"
routes = [
    "GET /api/products",
    "GET /api/products/{id}",
    "GET /api/products/{id}/prices",
    "GET /api/categories",
    "PUT /api/products/{id}/price",
]
cohort = ["cookie:sid", "header:x-visitor"]

[[slices.catalog.tables]]
legacy = "categories"
extracted = "category"
key = ["id"]
columns = { id = "id", label = "name", parent_id = "parent_id", sort_order = "position" }

[[slices.catalog.tables]]
legacy = "products"
extracted = "product"
key = ["id"]
[slices.catalog.tables.columns]
id = "id"
sku = "sku"
title = "name"
description = "description"
category_id = "category_id"
state = { from = "status", map = { A = "active", D = "discontinued", S = "seasonal" } }
is_featured = { from = "featured", forward = "value == 'Y' ? 1 : 0", reverse = "value == 1 ? 'Y' : 'N'" }
labels = "tags"
weight_g = "weight_g"
created_at = { from = "created_at", local_time = "+01:00" }
updated_at = { from = "updated_at", local_time = "+01:00" }

[[slices.catalog.tables]]
legacy = "products"
extracted = "product_price"
key = ["id"]
columns = { product_id = "id", amount_cents = { from = "price", cents = 2 }, currency = "currency" }

[[slices.catalog.tables]]
legacy = "price_changes"
extracted = "price_change"
key = ["id"]
[slices.catalog.tables.columns]
id = "id"
product_id = "product_id"
old_cents = { from = "old_price", cents = 2 }
new_cents = { from = "new_price", cents = 2 }
staff_id = "changed_by"
ref = "ref"
changed_at = { from = "changed_at", local_time = "+01:00" }

[slices.catalog.shadow]
arrays = [{ path = "$.tags", as = "set" }, { path = "$.products[*].tags", as = "set" }]
ignore = [
    { path = "$.request_id", reason = "random per request", until = "2030-01-01" },
    { path = "$.generated_at", reason = "the clock of whoever answers", until = "2030-01-01" },
]

[slices.catalog.plan]
canary = [50, 100]
hold = "100ms"
min_requests = 5
mismatch_max = 0.5
class_min = 1
errors_max = 0.9
shadow_min = "100ms"
lag_max = "5s"
soak = "100ms"
quiet = "100ms"
cutover_timeout = "5s"
"#;
