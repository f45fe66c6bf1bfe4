//! The machine's clock is set while the real process runs: ahead, back, and by a year. libfaketime says
//! what time it is to that process alone; the clock that nobody sets goes on as it does.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use outgrow_testkit::process::{Process, free_address};
use outgrow_testkit::{Answer, Upstream, client, database, eventually};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use sqlx::SqlitePool;
use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::harness::run_in;
use crate::starting::at_work;

const WAIT: Duration = Duration::from_secs(20);
const HOUR: i64 = 3_600;
const YEAR: i64 = 365 * 24 * HOUR;
/// By how much the clock is wrong, one after the other.
const PHASES: [i64; 7] = [0, HOUR, 0, -HOUR, 0, YEAR, 0];
/// Of seconds that a test takes.
const LONG: u64 = 120;

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap();
    let named = |folder: std::fs::DirEntry| folder.path().join("faketime/libfaketimeMT.so.1");
    let mut all = folders.map(|folder| named(folder.unwrap()));
    all.find(|path| path.exists()).expect("libfaketime")
}

/// A side of the shop, on its own table; who it is, is in its answers.
async fn side(name: &'static str, pool: SqlitePool, gate: Arc<Semaphore>) -> Upstream {
    let table = ["product", "products"][usize::from(name == "legacy")];
    Upstream::start(move |request: Request<Bytes>| {
        let (pool, gate) = (pool.clone(), gate.clone());
        async move {
            let path = request.uri().path().to_owned();
            let id = path
                .rsplit('/')
                .next()
                .and_then(|id| id.parse::<i64>().ok());
            let mut answer = Response::new(Bytes::from(name));
            if path == "/api/slow" {
                gate.acquire().await.unwrap().forget();
            } else if request.method() == Method::POST {
                let text = format!("INSERT INTO {table} VALUES (?, 'lamp')");
                let made = sqlx::query(sqlx::AssertSqlSafe(text)).bind(id);
                made.execute(&pool).await.unwrap();
            } else if let Some(id) = id {
                let text = format!("SELECT count(*) FROM {table} WHERE id = ?");
                let found = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(text)).bind(id);
                if found.fetch_one(&pool).await.unwrap() == 0 {
                    *answer.status_mut() = StatusCode::NOT_FOUND;
                }
            } else if path == "/api/kept" {
                let fields = answer.headers_mut();
                fields.insert("cache-control", "max-age=600".parse().unwrap());
            }
            answer
        }
    })
    .await
}

struct Shop {
    dir: TempDir,
    at: SocketAddr,
    key: Ed25519KeyPair,
    process: Process,
    gate: Arc<Semaphore>,
    _sides: [Upstream; 2],
    next: i64,
}

/// A slice that both sides have rows of, and one without any.
fn config(at: [SocketAddr; 2], [legacy, service]: [&Upstream; 2]) -> String {
    let [legacy, service] = [legacy, service].map(Upstream::addr);
    let rules =
        "health = { path = \"/healthz\", every = \"200ms\" }\nbreaker = true\ntimeout = \"20s\"";
    let filters = [
        ("kept", "cache = { }"),
        ("few", "rate_limit = { requests = 4, per = \"1s\" }"),
        ("own", "auth = { issuers = [\"login\"] }"),
    ];
    let filters = filters.map(|(of, what)| {
        format!("[[slices.pages.route_filters]]\nroutes = [\"GET /api/{of}\"]\n{what}\n")
    });
    format!(
        "[proxy]\nlisten = [\"{}\"]\nworkers = 2\n\
         [proxy.cookies]\nkey_file = \"cookie.key\"\n[proxy.cache]\n\
         [proxy.issuers.login]\nissuer = \"https://login.example\"\naudience = [\"shop\"]\njwks = \"keys.json\"\n\
         [legacy]\nurls = [\"http://{legacy}\"]\ndatabase = \"sqlite:legacy.db\"\n{rules}\n\
         [control]\nlisten = \"{}\"\n\
         [services.catalog]\nurls = [\"http://{service}\"]\ndatabase = \"sqlite:catalog.db\"\n{rules}\n\
         [slices.catalog]\nservice = \"catalog\"\n\
         routes = [\"GET /api/products/{{id}}\", \"POST /api/products/{{id}}\"]\n\
         [[slices.catalog.tables]]\nlegacy = \"products\"\nextracted = \"product\"\n\
         key = [\"id\"]\ncolumns = {{ id = \"id\", name = \"title\" }}\n\
         [slices.catalog.shadow]\nsample = 0.0\n\
         [slices.pages]\nservice = \"catalog\"\n\
         routes = [\"GET /api/kept\", \"GET /api/few\", \"GET /api/own\", \"GET /api/slow\"]\n\
         [slices.pages.shadow]\nsample = 0.0\n{}",
        at[0],
        at[1],
        filters.concat()
    )
}

impl Shop {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let gate = Arc::new(Semaphore::new(0));
        let mut pools = Vec::new();
        for (file, table) in [
            ("legacy.db", "products (id INTEGER PRIMARY KEY, title TEXT)"),
            ("catalog.db", "product (id INTEGER PRIMARY KEY, name TEXT)"),
        ] {
            let pool = database::open(&dir.path().join(file)).await;
            let made = sqlx::query(sqlx::AssertSqlSafe(format!("CREATE TABLE {table}")));
            made.execute(&pool).await.unwrap();
            pools.push(pool);
        }
        let service = side("service", pools.pop().unwrap(), gate.clone()).await;
        let legacy = side("legacy", pools.pop().unwrap(), gate.clone()).await;
        let random = ring::rand::SystemRandom::new();
        let key = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap();
        let x = URL_SAFE_NO_PAD.encode(key.public_key());
        let jwks = json!({"keys": [{"kty": "OKP", "kid": "a", "crv": "Ed25519", "x": x}]});
        let (at, control) = (free_address(), free_address());
        for (file, text) in [
            ("cookie.key", "0123456789abcdef".to_owned()),
            ("keys.json", jwks.to_string()),
            ("outgrow.toml", config([at, control], [&legacy, &service])),
        ] {
            std::fs::write(dir.path().join(file), text).unwrap();
        }
        set(dir.path(), 0);
        let process = begin(dir.path());
        at_work(dir.path()).await;
        let shop = Self {
            dir,
            at,
            key,
            process,
            gate,
            _sides: [legacy, service],
            next: 1,
        };
        shop.done(&["sync", "start", "catalog"]).await;
        for slice in ["catalog", "pages"] {
            for to in ["shadow", "canary=100"] {
                let flip = ["route", "flip", slice, to, "--force", "--reason", "test"];
                // Its tables may still be being copied.
                eventually("the flip", WAIT, || async {
                    (run_in(shop.dir.path(), &flip).await.code == 0).then_some(())
                })
                .await;
            }
        }
        shop
    }

    async fn done(&self, args: &[&str]) -> String {
        let ended = run_in(self.dir.path(), args).await;
        assert_eq!(ended.code, 0, "{args:?}: {} {}", ended.stdout, ended.stderr);
        ended.stdout
    }

    async fn ask(&self, method: Method, path: &str, fields: &[(&str, &str)]) -> Answer {
        let url = format!("http://{}{path}", self.at);
        client::send(client::request(method, &url, fields, Bytes::new())).await
    }

    async fn get(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.ask(Method::GET, path, fields).await
    }

    /// Writes, and reads what it wrote, which is there at once, whoever answers.
    async fn reads_its_writes(&mut self, cookie: &mut String) {
        for _ in 0..4 {
            let path = format!("/api/products/{}", self.next);
            self.next += 1;
            let wrote = self.ask(Method::POST, &path, &[("cookie", cookie)]).await;
            assert_eq!(wrote.status, 200, "{}", wrote.text());
            renew(cookie, &wrote);
            for _ in 0..3 {
                let read = self.get(&path, &[("cookie", cookie)]).await;
                let from = (read.status.as_u16(), read.text());
                assert_eq!(from.0, 200, "{} of {}", path, from.1);
                renew(cookie, &read);
            }
        }
    }

    fn token(&self, from: i64, until: i64) -> String {
        let head = json!({"alg": "EdDSA", "kid": "a"}).to_string();
        let claims = json!({
            "iss": "https://login.example", "aud": "shop", "sub": "7", "nbf": from, "exp": until,
        });
        let [head, claims] = [head, claims.to_string()].map(|part| URL_SAFE_NO_PAD.encode(part));
        let signed = format!("{head}.{claims}");
        let tag = URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes()));
        format!("Bearer {signed}.{tag}")
    }

    async fn with_token(&self, from: i64, until: i64) -> u16 {
        let token = self.token(now() + from, now() + until);
        let answer = self.get("/api/own", &[("authorization", &token)]).await;
        answer.status.as_u16()
    }

    /// Of an answer, where it was kept.
    async fn age(&self) -> Option<u64> {
        let answer = self.get("/api/kept", &[]).await;
        assert_eq!(answer.status, 200);
        answer.header("age").map(|age| age.parse().unwrap())
    }

    /// Some pass, too many do not, and soon some do again.
    async fn limits(&self) {
        eventually("too many", WAIT, || async {
            let answer = self.get("/api/few", &[]).await;
            let after = answer.header("retry-after")?.parse::<u64>().unwrap();
            assert_eq!((answer.status.as_u16(), after <= 1), (429, true), "{after}");
            Some(())
        })
        .await;
        eventually("few", WAIT, || async {
            (self.get("/api/few", &[]).await.status == 200).then_some(())
        })
        .await;
    }

    async fn json(&self, args: &[&str]) -> Value {
        let text = self.done(&[args, &["-o", "json"]].concat()).await;
        serde_json::from_str(&text).unwrap()
    }

    async fn is_well(&self) {
        let text = self.json(&["status"]).await.to_string();
        assert!(
            !text.contains("unhealthy") && !text.contains("\"open\""),
            "{text}"
        );
    }

    /// What time it is for the process.
    async fn tells(&self, by: i64) {
        // Its own answers say what time it takes it for.
        let refused = self.get("/api/own", &[]).await;
        assert_eq!(refused.status, 401);
        let date = httpdate::parse_http_date(refused.header("date").unwrap()).unwrap();
        let date = date.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let off = i64::try_from(date).unwrap() - now() - by;
        assert!(off.unsigned_abs() < LONG, "{off} at {by}");
    }

    async fn asks_for_tokens(&self, by: i64) {
        // Tokens go by the machine's clock, with half a minute of leeway.
        for (from, until, passes) in [
            (by - 600, by + 600, true),
            (by + 10, by + 600, true),
            (by - 600, by - 10, true),
            (by + 300, by + 600, false),
            (by - 600, by - 300, false),
        ] {
            let status = self.with_token(from, until).await;
            assert_eq!(
                status,
                if passes { 200 } else { 401 },
                "{from} {until} at {by}"
            );
        }
    }

    async fn has_noted_it(&self) {
        // In their order, each with the time that it was for the process.
        let journal = self.json(&["journal", "list"]).await;
        let all = journal.as_array().unwrap().iter();
        let at = all.filter(|entry| entry["action"] == "unfreeze");
        let at: Vec<&str> = at.map(|entry| entry["at"].as_str().unwrap()).collect();
        assert_eq!(at.len(), PHASES.len());
        for later in [1, 2, 5] {
            assert!(at[later] > at[later + 1], "{at:?}");
        }
    }
}

/// As a browser does.
fn renew(cookie: &mut String, answer: &Answer) {
    if let Some(given) = answer.header("set-cookie") {
        let given = given.split(';').next().unwrap();
        given.clone_into(cookie);
    }
}

fn set(dir: &Path, by: i64) {
    let (new, file) = (dir.join("time.new"), dir.join("time"));
    std::fs::write(&new, format!("{by:+}\n")).unwrap();
    std::fs::rename(new, file).unwrap();
}

fn begin(dir: &Path) -> Process {
    let words = [
        format!("LD_PRELOAD={}", library().display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", dir.join("time").display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        "DONT_FAKE_MONOTONIC=1".to_owned(),
        "NO_FAKE_STAT=1".to_owned(),
        env!("CARGO_BIN_EXE_outgrow").to_owned(),
        "serve".to_owned(),
        "-c".to_owned(),
        dir.join("outgrow.toml").display().to_string(),
    ];
    Process::spawn(Path::new("/usr/bin/env"), &words, &dir.join("outgrow.log"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs libfaketime, which scripts/test installs"]
async fn a_clock_that_jumps_fails_no_request() {
    let mut shop = Shop::open().await;
    let (mut writer, mut reader) = (String::from("a=1"), String::from("a=2"));
    renew(&mut reader, &shop.get("/api/products/1", &[]).await);
    let (mut issued, mut kept) = (Vec::new(), false);
    for (nth, by) in PHASES.into_iter().enumerate() {
        let slow = tokio::spawn({
            let url = format!("http://{}/api/slow", shop.at);
            async move { client::get(&url).await }
        });
        set(shop.dir.path(), by);
        if kept {
            let age = shop.age().await;
            assert!(age.is_some_and(|age| age < LONG), "{age:?} at {by}");
        }
        shop.tells(by).await;
        shop.reads_its_writes(&mut writer).await;
        // Whose cookie was issued at another time reads its write, too.
        issued.push(writer.clone());
        for mut cookie in issued.clone() {
            shop.reads_its_writes(&mut cookie).await;
        }
        // Until the clock was set back for the first time, reads go over as soon as the bridge has the writes.
        if nth < 2 {
            eventually("the service has them", WAIT, || async {
                let path = format!("/api/products/{}", shop.next - 1);
                let read = shop.get(&path, &[("cookie", &writer)]).await;
                assert_eq!(read.status, 200, "{path} of {}", read.text());
                (read.text() == "service").then_some(())
            })
            .await;
        }
        // Who never wrote is answered by the service, as before.
        eventually("the service knows the first one", WAIT, || async {
            let read = shop.get("/api/products/1", &[("cookie", &reader)]).await;
            assert_eq!(read.text(), "service", "at {by}");
            (read.status == 200).then_some(())
        })
        .await;
        // What the sides say to be an hour old may be.
        assert!(shop.age().await.is_none_or(|age| age < LONG || by > 0));
        shop.limits().await;
        shop.asks_for_tokens(by).await;
        shop.is_well().await;
        assert!(!slow.is_finished(), "nothing was too late");
        shop.gate.add_permits(1);
        let answer = slow.await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        for what in ["freeze", "unfreeze"] {
            shop.done(&["route", what, "catalog", "--reason", "test"])
                .await;
        }
        // To be given after the next jump, as old as it is then.
        kept = by <= 0;
        if kept {
            eventually("it is kept", WAIT, || shop.age()).await;
        }
    }
    let log = shop.process.log();
    assert!(!log.contains("panicked"), "{log}");
    shop.has_noted_it().await;
    shop.done(&["journal", "verify"]).await;
    assert!(shop.process.stop().await.success());
}
