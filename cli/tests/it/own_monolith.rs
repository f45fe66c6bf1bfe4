//! `docs/your-own-monolith.md` by the letter: its config, its reader of the identity header and its road, for a
//! monolith and a service that are none of ours, in Python.

#![allow(clippy::unwrap_used, clippy::panic)] // Set-up that fails is a failed test.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use outgrow_testkit::process::{Process, free_address};
use outgrow_testkit::{Answer, Upstream, client, database, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::harness::{Ended, run_in};
use crate::starting::serve;

const PAGE: &str = include_str!("../../../docs/your-own-monolith.md");
const WAIT: Duration = Duration::from_secs(60);
/// Clients at the same time.
const SHOPPERS: usize = 3;

/// The blocks of the page in a language, from a heading to the next one.
fn blocks(heading: &str, language: &str) -> String {
    let part = PAGE.split("\n## ").find(|part| part.starts_with(heading));
    let begin = format!("```{language}\n");
    let found = part.unwrap().split(begin.as_str()).skip(1);
    let found: Vec<&str> = found
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(!found.is_empty(), "{heading}");
    found.join("\n")
}

/// The page's config at these addresses, with limits for a test of seconds.
fn config(proxy: SocketAddr, legacy: SocketAddr, service: SocketAddr) -> String {
    let mut text =
        format!("[proxy]\nlisten = [\"{proxy}\"]\n[control]\nlisten = \"127.0.0.1:0\"\n");
    text.push_str(&blocks("3.", "toml"));
    text.push_str(&blocks("4.", "toml"));
    text.push_str("mismatch_max = 0.05\n");
    for (from, to) in [
        ("127.0.0.1:0", free_address().to_string()),
        ("127.0.0.1:9000", legacy.to_string()),
        ("127.0.0.1:9101", service.to_string()),
        ("env:CUSTOMERS_DATABASE", "sqlite:customers.db".to_owned()),
        ("[5, 50, 100]", "[50, 100]".to_owned()),
        ("\"10s\"", "\"1s\"".to_owned()),
        ("\"20s\"", "\"1s\"".to_owned()),
    ] {
        assert!(text.contains(from), "{from}\n{text}");
        text = text.replace(from, &to);
    }
    text
}

/// What clients were told, and what failed.
#[derive(Debug, Default)]
struct Told {
    /// Name and credit by id.
    rows: HashMap<i64, (String, String)>,
    failed: Vec<String>,
    asked: usize,
}

struct Shopper {
    at: SocketAddr,
    session: String,
    told: Told,
}

impl Shopper {
    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: String,
        good: &[u16],
    ) -> Option<Answer> {
        let url = format!("http://{}{path}", self.at);
        let fields = [("cookie", self.session.as_str())];
        let request = client::request(method.clone(), &url, &fields, Bytes::from(body));
        let answer = client::try_send(request).await;
        self.told.asked += 1;
        match answer {
            Ok(answer) if good.contains(&answer.status.as_u16()) => Some(answer),
            other => {
                self.told.failed.push(format!("{method} {path}: {other:?}"));
                None
            }
        }
    }

    async fn log_in(&mut self) {
        self.session.clear();
        let form = "user=7".to_owned();
        let answer = self.ask(Method::POST, "/login", form, &[303]).await;
        let cookie = answer.and_then(|answer| answer.header("set-cookie").map(str::to_owned));
        self.session = cookie.unwrap().split(';').next().unwrap().to_owned();
    }

    /// Writes a row and reads it back.
    async fn write(&mut self, (method, path): (Method, &str), row: &Value) -> Option<i64> {
        let answer = self.ask(method, path, row.to_string(), &[200]).await?;
        let said: Value = serde_json::from_slice(&answer.body).unwrap();
        let text = |field: &str| said[field].as_str().unwrap().to_owned();
        let id = said["id"].as_i64().unwrap();
        self.told.rows.insert(id, (text("name"), text("credit")));
        let path = format!("/api/customers/{id}");
        let read = self.ask(Method::GET, &path, String::new(), &[200]).await?;
        if read.json() != said {
            self.told
                .failed
                .push(format!("stale: {said} {}", read.text()));
        }
        Some(id)
    }

    /// A new row, and the same row changed.
    async fn write_two(&mut self, me: usize, n: usize) {
        let row = json!({"name": format!("Sam{me} Shopper{n}"), "email": format!("s{me}-{n}@example.org"),
                         "credit": format!("{n}.5{me}")});
        let id = self.write((Method::POST, "/api/customers"), &row).await;
        if let Some(id) = id {
            let path = format!("/api/customers/{id}");
            let row = json!({"name": format!("Sam{me} Again{n}"), "credit": "0.07"});
            self.write((Method::PUT, &path), &row).await;
        }
    }

    async fn round(&mut self, me: usize, n: usize) {
        if n.is_multiple_of(5) {
            self.log_in().await;
        }
        if n.is_multiple_of(4) {
            self.write_two(me, n).await;
        }
        let seeded = format!("/api/customers/{}", 1 + (n * 7 + me) % 200);
        for (path, good) in [
            (seeded.as_str(), 200),
            ("/customers", 200),
            ("/api/customers/0", 404),
        ] {
            let answer = self.ask(Method::GET, path, String::new(), &[good]).await;
            let own = format!("http://{}/customers/1\"", self.at);
            if path == "/customers" && !answer.is_some_and(|answer| answer.text().contains(&own)) {
                self.told
                    .failed
                    .push(format!("links of another host, not {own}"));
            }
        }
        if n.is_multiple_of(10) {
            self.ask(Method::GET, "/export.csv", String::new(), &[200])
                .await;
        }
    }
}

/// Clients that do not rest until they are told to.
fn shop(at: SocketAddr, rest: &Arc<AtomicBool>) -> Vec<JoinHandle<Told>> {
    let rounds = Arc::new(AtomicUsize::new(0));
    let one = |me: usize| {
        let (rest, rounds) = (Arc::clone(rest), Arc::clone(&rounds));
        tokio::spawn(async move {
            let (session, told) = (String::new(), Told::default());
            let mut shopper = Shopper { at, session, told };
            shopper.log_in().await;
            while !rest.load(SeqCst) {
                shopper.round(me, rounds.fetch_add(1, SeqCst)).await;
            }
            shopper.told
        })
    };
    (0..SHOPPERS).map(one).collect()
}

async fn python(dir: &Path, name: &str, text: &str, more: &[&str]) -> (SocketAddr, Process) {
    let at = free_address();
    let script = dir.join(name);
    std::fs::write(&script, text).unwrap();
    let mut args = vec![script.to_str().unwrap().to_owned(), at.port().to_string()];
    args.extend(
        more.iter()
            .map(|file| dir.join(file).to_str().unwrap().to_owned()),
    );
    let log = dir.join(format!("{name}.log"));
    let process = Process::spawn(Path::new("python3"), &args, &log);
    eventually("the Python server", WAIT, || async move {
        let url = format!("http://{at}/api/customers/0");
        let request = client::request(Method::GET, &url, &[], Bytes::new());
        client::try_send(request).await.ok().map(drop)
    })
    .await;
    (at, process)
}

/// Takes steps until this one is done.
async fn reach(dir: &Path, step: &str) {
    let run = [
        "runbook",
        "run",
        "customers",
        "--until",
        step,
        "--wait",
        "40s",
    ];
    for _ in 0..6 {
        let ended = run_in(dir, &run).await;
        if ended.code == 0 {
            return;
        }
        pass_over_slowness(dir, &ended).await;
    }
    panic!("{step} is not reached");
}

/// How slow a service is beside other tests is no matter of this one.
async fn pass_over_slowness(dir: &Path, ended: &Ended) {
    let text = &ended.stderr;
    let mut blocked = text.lines().filter(|line| line.contains("  blocked: "));
    let is_slow = blocked.next().is_some_and(|line| line.contains("latency"));
    assert!(is_slow && blocked.next().is_none(), "{ended:?}");
    let step = text
        .split('`')
        .nth(1)
        .unwrap()
        .replace("canary-", "canary=");
    let flip = [
        "route",
        "flip",
        "customers",
        &step,
        "--force",
        "--reason",
        "test",
    ];
    let forced = run_in(dir, &flip).await;
    assert_eq!(forced.code, 0, "{forced:?}");
}

/// Name and credit of each row of a side.
async fn rows(file: &Path, sql: &'static str) -> HashMap<i64, (String, String)> {
    let pool = database::open(file).await;
    let found: Vec<(i64, String, String)> = sqlx::query_as(sql).fetch_all(&pool).await.unwrap();
    pool.close().await;
    found
        .into_iter()
        .map(|(id, name, credit)| (id, (name, credit)))
        .collect()
}

fn has_all(side: &HashMap<i64, (String, String)>, told: &HashMap<i64, (String, String)>) {
    for (id, row) in told {
        assert_eq!(side.get(id), Some(row), "{id}");
    }
    assert_eq!(side.len(), told.len() + 200, "no row twice, none too many");
}

const LEGACY_ROWS: &str = "SELECT id, name, printf('%.2f', credit) FROM customers";
const EXTRACTED_ROWS: &str =
    "SELECT id, first_name || ' ' || last_name, printf('%.2f', credit_cents / 100.0) FROM customer";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monolith_in_python_goes_the_whole_way() {
    let there = std::process::Command::new("python3")
        .arg("--version")
        .output();
    if there.is_err() {
        eprintln!("NOT RUN: there is no python3");
        return;
    }
    let dir: TempDir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(
        dir.join("identity.secret"),
        "0123456789abcdef0123456789abcdef\n",
    )
    .unwrap();
    std::fs::write(dir.join("caller.py"), blocks("2.", "python")).unwrap();
    let monolith = include_str!("own_monolith/monolith.py");
    let (legacy, _monolith) = python(dir, "monolith.py", monolith, &["shop.db"]).await;
    let service = include_str!("own_monolith/service.py");
    let (extracted, _service) = python(
        dir,
        "service.py",
        service,
        &["customers.db", "identity.secret"],
    )
    .await;
    let at = free_address();
    std::fs::write(dir.join("outgrow.toml"), config(at, legacy, extracted)).unwrap();
    let checked = run_in(dir, &["check"]).await;
    assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
    assert!(
        checked
            .stdout
            .contains("a session that does not exist is nobody's"),
        "{}",
        checked.stdout
    );

    let mut outgrow = serve(dir).await;
    let rest = Arc::new(AtomicBool::new(false));
    let shoppers = shop(at, &rest);
    reach(dir, "cutover").await;
    let back = ["route", "rollback", "customers", "--reason", "test"];
    let back = run_in(dir, &back).await;
    assert_eq!(back.code, 0, "{}{}", back.stdout, back.stderr);
    reach(dir, "cutover").await;
    rest.store(true, SeqCst);
    let mut told = Told::default();
    for shopper in shoppers {
        let one = shopper.await.unwrap();
        told.rows.extend(one.rows);
        told.failed.extend(one.failed);
        told.asked += one.asked;
    }
    assert!(
        told.failed.is_empty(),
        "{} of {}: {:#?}",
        told.failed.len(),
        told.asked,
        told.failed
    );
    let verified = run_in(dir, &["sync", "verify", "customers"]).await;
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
    has_all(&rows(&dir.join("shop.db"), LEGACY_ROWS).await, &told.rows);
    has_all(
        &rows(&dir.join("customers.db"), EXTRACTED_ROWS).await,
        &told.rows,
    );

    reach(dir, "retire").await;
    let answer = client::get(&format!("http://{at}/api/customers/1")).await;
    assert_eq!(answer.header("x-build-id"), Some("customers-1"));
    assert!(outgrow.stop().await.success(), "{}", outgrow.log());
}

/// For which requests of people whose session has ended would be refused.
#[tokio::test]
async fn check_finds_a_monolith_that_sends_strangers_to_a_login_page() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("identity.secret"), "0123456789abcdef").unwrap();
    for (status, body, is_fine, part) in [
        (302, "", false, "302 Found"),
        (200, "{\"user_id\": 7}", false, "user 7"),
        (401, "", true, "nobody's"),
    ] {
        let legacy = Upstream::always(status, body).await;
        let text = format!(
            "[proxy]\nlisten = [\"127.0.0.1:0\"]\n[legacy]\nurls = [\"http://{}\"]\n\
             [proxy.identity]\ncookie = \"sid\"\nwhoami = \"/me\"\nsecret_file = \"identity.secret\"\n",
            legacy.addr()
        );
        std::fs::write(dir.path().join("outgrow.toml"), text).unwrap();
        let ended = run_in(dir.path(), &["check"]).await;
        let line = ended
            .stdout
            .lines()
            .find(|line| line.contains("GET /me"))
            .unwrap();
        assert_eq!(ended.code == 0, is_fine, "{line}");
        assert_eq!(line.starts_with("FAILED"), !is_fine, "{line}");
        assert!(line.contains(part), "{line}");
        let seen = legacy.seen();
        let cookie = seen[0].header("cookie").unwrap();
        assert!(cookie.starts_with("sid="), "{cookie}");
    }
}
