//! Change events from `outgrow serve` to a real NATS server.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream::{self, Context};
use outgrow_testkit::process::free_address;
use outgrow_testkit::{Authority, Nats, database, eventually};
use serde_json::Value;
use sqlx::{AssertSqlSafe, SqlitePool};
use tempfile::TempDir;

use crate::harness::run_in;
use crate::starting::serve;

const WAIT: Duration = Duration::from_secs(60);
const STREAM: &str = "outgrow-catalog";

/// A folder with a config, both databases, and a broker.
struct Stage {
    dir: TempDir,
    legacy: SqlitePool,
    nats: Nats,
}

impl Stage {
    async fn new(more: &str) -> Self {
        Self::with(Nats::start().await, more).await
    }

    async fn with(nats: Nats, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let legacy = database::open(&dir.path().join("shop.db")).await;
        let extracted = database::open(&dir.path().join("catalog.db")).await;
        for (pool, text) in [
            (
                &legacy,
                "CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT NOT NULL)",
            ),
            (
                &extracted,
                "CREATE TABLE product (id INTEGER PRIMARY KEY, title TEXT NOT NULL)",
            ),
        ] {
            sqlx::query(text).execute(pool).await.unwrap();
        }
        let config = config(&nats.url(), more);
        std::fs::write(dir.path().join("outgrow.toml"), config).unwrap();
        Self { dir, legacy, nats }
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    async fn write(&self, text: &str) {
        sqlx::query(AssertSqlSafe(text.to_owned()))
            .execute(&self.legacy)
            .await
            .unwrap();
    }

    /// What the monolith has.
    async fn rows(&self) -> BTreeMap<i64, String> {
        let rows: Vec<(i64, String)> = sqlx::query_as("SELECT id, name FROM products")
            .fetch_all(&self.legacy)
            .await
            .unwrap();
        rows.into_iter().collect()
    }

    async fn context(&self) -> Context {
        let (user, password) = self.nats.login();
        let options = ConnectOptions::with_user_and_password(user, password);
        jetstream::new(options.connect(self.nats.shown()).await.unwrap())
    }

    /// Every message of the stream, in its order: subject, id, event.
    async fn messages(&self) -> Vec<(String, String, Value)> {
        let Ok(mut stream) = self.context().await.get_stream(STREAM).await else {
            return Vec::new();
        };
        let last = stream.info().await.unwrap().state.last_sequence;
        let mut found = Vec::new();
        for at in 1..=last {
            let message = stream.get_raw_message(at).await.unwrap();
            let id = message.headers.get("Nats-Msg-Id").unwrap().to_string();
            let told = serde_json::from_slice(&message.payload).unwrap();
            found.push((message.subject.to_string(), id, told));
        }
        found
    }

    /// Waits until a consumer of the stream has what the monolith has.
    async fn told(&self) -> Vec<(String, String, Value)> {
        eventually("the events to say what the monolith has", WAIT, || async {
            let messages = self.messages().await;
            (replica(&messages) == self.rows().await).then_some(messages)
        })
        .await
    }

    /// Waits until the publisher has counted that many: a message is in the stream before it is
    /// counted, and the rows that an event tells of may be those of a later change.
    async fn published(&self, count: u64) -> Value {
        let what = format!("{count} events to be published");
        eventually(&what, WAIT, || async {
            let said = self.status("publishing").await;
            (said["published"] == count).then_some(said)
        })
        .await
    }

    async fn status(&self, word: &str) -> Value {
        let what = format!("events to be {word}");
        eventually(&what, WAIT, || async {
            let said = run_in(self.dir(), &["sync", "events", "catalog", "-o", "json"]).await;
            let said: Value = serde_json::from_str(&said.stdout).ok()?;
            (said["state"] == word).then_some(said)
        })
        .await
    }
}

fn config(nats: &str, more: &str) -> String {
    let (proxy, control) = (free_address(), free_address());
    format!(
        r#"
[proxy]
listen = ["{proxy}"]
[legacy]
urls = ["http://127.0.0.1:9"]
database = "sqlite:shop.db"
[control]
listen = "{control}"
[services.catalog]
urls = ["http://127.0.0.1:9"]
database = "sqlite:catalog.db"
[slices.catalog]
service = "catalog"
routes = ["GET /api/products"]
[[slices.catalog.tables]]
legacy = "products"
extracted = "product"
key = ["id"]
columns = {{ id = "id", title = "name" }}
[slices.catalog.events]
nats = "{nats}"
{more}
"#
    )
}

fn replica(messages: &[(String, String, Value)]) -> BTreeMap<i64, String> {
    let mut rows = BTreeMap::new();
    for (_, _, told) in messages {
        let data = &told["data"];
        if data["op"] == "d" {
            rows.remove(&data["before"]["id"].as_i64().unwrap());
        } else {
            let row = &data["after"];
            let title = row["title"].as_str().unwrap().to_owned();
            rows.insert(row["id"].as_i64().unwrap(), title);
        }
    }
    rows
}

/// Ids are there once, and the changes of each side are in their order.
fn in_order(messages: &[(String, String, Value)]) {
    let ids: BTreeSet<&String> = messages.iter().map(|(_, id, _)| id).collect();
    assert_eq!(ids.len(), messages.len(), "the stream has an id twice");
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for (_, id, told) in messages {
        assert_eq!(&told["id"], id.as_str());
        let source = &told["data"]["source"];
        let key = format!("{} {}", source["side"], told["subject"]);
        let seq = source["seq"].as_i64().unwrap();
        let before = last.insert(key, seq).unwrap_or(0);
        assert!(seq > before, "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_events_of_a_stream_that_is_made_for_them() {
    let stage = Stage::new("").await;
    let checked = run_in(stage.dir(), &["check", "-o", "json"]).await;
    let wanted = format!("events of `catalog` to {}", stage.nats.shown());
    assert!(checked.stdout.contains(&wanted), "{checked:?}");
    assert!(
        checked
            .stdout
            .contains("will be made for `outgrow.catalog.*`")
    );

    let mut outgrow = serve(stage.dir()).await;
    let started = run_in(stage.dir(), &["sync", "start", "catalog"]).await;
    assert_eq!(started.code, 0, "{started:?}");
    stage
        .write("INSERT INTO products VALUES (1, 'one'), (2, 'two')")
        .await;
    stage
        .write("UPDATE products SET name = 'uno' WHERE id = 1")
        .await;
    stage.write("DELETE FROM products WHERE id = 2").await;
    let said = stage.published(4).await;
    let told = stage.told().await;
    in_order(&told);
    assert_eq!(told.len(), 4);
    assert!(
        told.iter()
            .all(|(subject, ..)| subject == "outgrow.catalog.product")
    );
    assert_eq!(told[3].2["type"], "outgrow.row.deleted");

    let status = run_in(stage.dir(), &["sync", "status", "catalog"]).await;
    assert!(status.stdout.contains("published"), "{status:?}");
    let resumed = run_in(stage.dir(), &["sync", "events", "catalog", "--resume"]).await;
    assert!(
        resumed.stderr.contains("no events were parked"),
        "{resumed:?}"
    );
    let log = outgrow.log();
    assert!(outgrow.stop().await.success());
    for text in [log, format!("{checked:?} {status:?} {said:?}")] {
        assert!(!text.contains("broker-secret"), "{text}");
    }
    let checked = run_in(stage.dir(), &["check"]).await;
    assert!(checked.stdout.contains("is there"), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_outgrow_sends_again_and_the_stream_knows_it() {
    let stage = Stage::new("").await;
    let mut outgrow = serve(stage.dir()).await;
    run_in(stage.dir(), &["sync", "start", "catalog"]).await;
    for round in 0..5 {
        for id in 0..40 {
            let text = format!("INSERT OR REPLACE INTO products VALUES ({id}, 'round {round}')");
            stage.write(&text).await;
        }
        stage
            .write(&format!("DELETE FROM products WHERE id = {round}"))
            .await;
        // Killed while the events of this round are on their way.
        let count = (round + 1) * 20;
        eventually("some events", WAIT, || async {
            (stage.messages().await.len() >= count).then_some(())
        })
        .await;
        outgrow.kill().await;
        outgrow = serve(stage.dir()).await;
    }
    in_order(&stage.told().await);
    assert!(outgrow.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_down_delays_events_and_nothing_else() {
    let mut stage = Stage::new("").await;
    let mut outgrow = serve(stage.dir()).await;
    run_in(stage.dir(), &["sync", "start", "catalog"]).await;
    stage
        .write("INSERT INTO products VALUES (1, 'before')")
        .await;
    stage.told().await;

    stage.nats.kill();
    for id in 2..30 {
        stage
            .write(&format!("INSERT INTO products VALUES ({id}, 'meanwhile')"))
            .await;
    }
    let said = stage.status("waiting").await;
    let why = said["waiting_for"].as_str().unwrap();
    let shown = stage.nats.shown();
    assert!(why.contains(&format!("no connection to {shown}")), "{why}");
    let extracted = database::open(&stage.dir().join("catalog.db")).await;
    eventually("the rows on the other side", WAIT, || async {
        let text = "SELECT count(*) FROM product";
        let rows: (i64,) = sqlx::query_as(text).fetch_one(&extracted).await.ok()?;
        (rows.0 == 29).then_some(())
    })
    .await;
    let checked = run_in(stage.dir(), &["check"]).await;
    assert!(
        checked.stdout.contains("is it running there?"),
        "{checked:?}"
    );

    // A cutover does not wait for the broker either.
    for args in [
        &["route", "flip", "catalog", "shadow"][..],
        &["route", "flip", "catalog", "canary=100"][..],
        &["route", "flip", "catalog", "extracted"][..],
        &["sync", "reverse", "catalog", "--to", "extracted"][..],
    ] {
        let args = [args, &["--force", "--reason", "test"]].concat();
        let moved = run_in(stage.dir(), &args).await;
        assert_eq!(moved.code, 0, "{moved:?}");
    }
    sqlx::query("UPDATE product SET title = 'after' WHERE id < 5")
        .execute(&extracted)
        .await
        .unwrap();
    stage.nats.again().await;
    eventually("the event of the new source", WAIT, || async {
        let all = stage.messages().await;
        let (_, _, last) = all.last()?;
        (last["data"]["source"]["side"] == "extracted").then_some(())
    })
    .await;
    let told = stage.told().await;
    in_order(&told);
    let sides: Vec<&Value> = told
        .iter()
        .map(|(_, _, e)| &e["data"]["source"]["side"])
        .collect();
    assert!(
        sides.is_sorted_by(|a, b| a.as_str() >= b.as_str()),
        "first legacy, then extracted"
    );
    stage.status("publishing").await;
    assert!(outgrow.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_somebody_else_is_left_as_it_is_and_trouble_is_said() {
    let stage = Stage::new("stream = \"taken\"\nsubject = \"shop.{table}.{slice}\"").await;
    let config = jetstream::stream::Config {
        name: "taken".to_owned(),
        subjects: vec!["other.>".to_owned()],
        ..jetstream::stream::Config::default()
    };
    let context = stage.context().await;
    context.create_stream(config.clone()).await.unwrap();
    let mut outgrow = serve(stage.dir()).await;
    run_in(stage.dir(), &["sync", "start", "catalog"]).await;
    stage.write("INSERT INTO products VALUES (1, 'one')").await;
    let said = eventually("the change to wait", WAIT, || async {
        let said = stage.status("waiting").await;
        (said["waiting"] == 1).then_some(said)
    });
    let said = said.await;
    let why = said["waiting_for"].as_str().unwrap();
    assert!(why.contains("no stream found"), "{why}");
    // Mended at the broker, it goes on by itself.
    let subjects = vec!["shop.product.catalog".to_owned()];
    let mended = jetstream::stream::Config { subjects, ..config };
    context.update_stream(mended).await.unwrap();
    stage.status("publishing").await;
    let mut stream = context.get_stream("taken").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 1);
    assert!(outgrow.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_tls_is_trusted_by_its_ca_alone() {
    let authority = Authority::new("private");
    let nats = Nats::with_tls(authority.server(&["127.0.0.1"])).await;
    let ca = format!("ca = \"{}\"", authority.file().display());
    let stage = Stage::with(nats, &ca).await;
    let checked = run_in(stage.dir(), &["check"]).await;
    assert!(checked.stdout.contains("will be made"), "{checked:?}");
    let mut outgrow = serve(stage.dir()).await;
    run_in(stage.dir(), &["sync", "start", "catalog"]).await;
    stage.write("INSERT INTO products VALUES (1, 'one')").await;
    stage.published(1).await;
    assert!(outgrow.stop().await.success());
    // Another authority, no authority.
    let other = Authority::new("another");
    for (ca, why) in [
        (
            format!("ca = \"{}\"", other.file().display()),
            "UnknownIssuer",
        ),
        (String::new(), "UnknownIssuer"),
        ("ca = \"none.pem\"".to_owned(), "none.pem cannot be read"),
    ] {
        let text = config(&stage.nats.url(), &ca);
        std::fs::write(stage.dir().join("outgrow.toml"), text).unwrap();
        let checked = run_in(stage.dir(), &["check", "-o", "json"]).await;
        assert!(checked.stdout.contains(why), "{why}: {checked:?}");
    }
}

/// Each event begins where the last of its row has ended, across a kill and a cutover.
#[tokio::test(flavor = "multi_thread")]
async fn events_show_the_row_from_before() {
    let stage = Stage::new("before = true").await;
    let checked = run_in(stage.dir(), &["check"]).await;
    assert!(!checked.stdout.contains("from before"), "{checked:?}");
    let mut outgrow = serve(stage.dir()).await;
    run_in(stage.dir(), &["sync", "start", "catalog"]).await;
    for round in 0..3 {
        for id in 0..20 {
            let text = format!("INSERT OR REPLACE INTO products VALUES ({id}, 'round {round}')");
            stage.write(&text).await;
        }
        stage
            .write("UPDATE products SET id = id + 100 WHERE id = 7")
            .await;
        stage.write("DELETE FROM products WHERE id = 107").await;
        outgrow.kill().await;
        outgrow = serve(stage.dir()).await;
    }
    eventually("all changes of the monolith", WAIT, || async {
        (stage.messages().await.len() >= 69).then_some(())
    })
    .await;
    for args in [
        &["route", "flip", "catalog", "shadow"][..],
        &["route", "flip", "catalog", "canary=100"][..],
        &["route", "flip", "catalog", "extracted"][..],
        &["sync", "reverse", "catalog", "--to", "extracted"][..],
    ] {
        let args = [args, &["--force", "--reason", "test"]].concat();
        let moved = run_in(stage.dir(), &args).await;
        assert_eq!(moved.code, 0, "{moved:?}");
    }
    let extracted = database::open(&stage.dir().join("catalog.db")).await;
    for text in ["UPDATE product SET title = 'new'", "DELETE FROM product"] {
        sqlx::query(text).execute(&extracted).await.unwrap();
    }
    let told = eventually("all changes", WAIT, || async {
        let all = stage.messages().await;
        (all.len() >= 69 + 2 * 19).then_some(all)
    })
    .await;
    in_order(&told);
    let mut rows: BTreeMap<String, Value> = BTreeMap::new();
    for (_, _, event) in &told {
        let (subject, data) = (event["subject"].to_string(), &event["data"]);
        let was = rows.insert(subject, data["after"].clone());
        assert_eq!(data["before"], was.unwrap_or_default(), "{event}");
    }
    assert!(rows.values().all(Value::is_null), "all are gone in the end");
    assert!(outgrow.stop().await.success());
}
