//! Publishers that are killed, at points and at moments: what was told is one chain of rows.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use outgrow_bridge::events::{Event, Events, Publishing, Sink};
use outgrow_bridge::{Capture, DatabaseUrl, FaultHook, Link, LinkSpec};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::events::Broker;
use crate::events_before::{articles, chain, change, identified, telling, with_before};
use crate::mysql::LEGACY_MY;
use crate::postgres::{Db, EXTRACTED_SQLITE, LEGACY_PG, LEGACY_SQLITE, Pair, items, tables};
use crate::shop::{Dice, WAIT, quick};

const LEGACY: &str = "OUTGROW_BEFORE_LEGACY";
const EXTRACTED: &str = "OUTGROW_BEFORE_EXTRACTED";
const INTO: &str = "OUTGROW_BEFORE_INTO";
const DIES: &str = "OUTGROW_BEFORE_DIES";

/// A broker that outlives its publisher: a file.
#[derive(Debug)]
struct Written(PathBuf);

impl Sink for Written {
    fn publish<'a>(&'a self, events: &'a [Event]) -> Publishing<'a> {
        Box::pin(async move {
            let mut file = OpenOptions::new()
                .append(true)
                .create(true)
                .open(&self.0)
                .unwrap();
            let lines = events
                .iter()
                .flat_map(|event| [event.payload.as_slice(), b"\n"]);
            file.write_all(&lines.collect::<Vec<_>>().concat()).unwrap();
            Ok(())
        })
    }
}

/// What was written, each event once: as a broker has it that knows ids.
fn written(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut known = std::collections::HashSet::new();
    // A line that a death has cut short comes again.
    let all = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    all.filter(|event| known.insert(event["id"].to_string()))
        .collect()
}

fn child(pair: &Pair, into: &Path, dies: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "events_before_killed::the_child",
            "--ignored",
            "--nocapture",
        ])
        .env(LEGACY, pair.legacy.url())
        .env(EXTRACTED, pair.extracted.url())
        .env(INTO, into)
        .env(DIES, dies.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Not a test: the process that is killed, after so many points at which it may be.
#[tokio::test]
#[ignore = "run by the test below in a process of its own"]
async fn the_child() {
    let Ok(into) = std::env::var(INTO) else {
        return;
    };
    let var = |name| std::env::var(name).unwrap();
    let url = |name| {
        let url: DatabaseUrl = var(name).parse().unwrap();
        let capture = match url {
            DatabaseUrl::Sqlite(_) => Capture::Triggers,
            DatabaseUrl::Postgres(_) | DatabaseUrl::Mysql(_) => Capture::Replication,
        };
        url.capturing(capture).unwrap()
    };
    let (dies, passed): (u64, AtomicU64) = (var(DIES).parse().unwrap(), AtomicU64::new(0));
    let mut limits = quick();
    limits.fault = Some(FaultHook::new(move |_| {
        if passed.fetch_add(1, Ordering::Relaxed) == dies {
            std::process::abort();
        }
    }));
    let spec = LinkSpec {
        slice: "items".parse().unwrap(),
        legacy: url(LEGACY),
        extracted: url(EXTRACTED),
        tables: tables(),
        writes: outgrow_bridge::Writes::One,
        limits,
    };
    let events = Events {
        sink: Arc::new(Written(into.into())),
        keep: 1_000_000,
        before: true,
    };
    let link = Link::open_with(spec, Some(events)).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    std::future::pending::<()>().await;
}

/// Processes that die at any point leave no gap and no lie in what was told.
async fn killed(pair: Pair, seed: u64) {
    identified(&pair.legacy, "item").await;
    identified(&pair.extracted, "article").await;
    pair.legacy.execute(&items(1, 30)).await;
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("events");
    let broker = Arc::new(Broker::default());
    let link = telling(pair.spec(), Side::Legacy, with_before(&broker)).await;
    link.shutdown().await;
    let mut dice = Dice(seed);
    for _ in 0..12 {
        let mut child = child(&pair, &into, dice.roll(120));
        for _ in 0..12 {
            pair.legacy
                .execute(&change(&mut dice, &pair.legacy, Side::Legacy))
                .await;
        }
        // By its own hand, or ours.
        let ended = tokio::time::timeout(std::time::Duration::from_millis(700), child.wait());
        if ended.await.is_err() {
            child.kill().await.unwrap();
        }
    }
    let mut last = child(&pair, &into, u64::MAX);
    pair.legacy.execute("UPDATE item SET status = 'D'").await;
    pair.equal().await;
    let prices = articles(&pair.extracted).await;
    eventually("all to be told", 3 * WAIT, || async {
        let told = chain(&written(&into));
        let right = |(subject, cents): (&String, &Value)| {
            let row = told.get(subject);
            row.is_some_and(|row| row["price_cents"] == *cents && row["state"] == "gone")
        };
        prices.iter().all(right).then_some(())
    })
    .await;
    last.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_processes_leave_a_whole_chain_by_postgres() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::lite(EXTRACTED_SQLITE).await);
    killed(Pair::replicated(legacy, extracted), 21).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_processes_leave_a_whole_chain_by_mariadb() {
    let (legacy, extracted) = (
        Db::logged(LEGACY_MY).await,
        Db::lite(EXTRACTED_SQLITE).await,
    );
    killed(Pair::replicated(legacy, extracted), 22).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_processes_leave_a_whole_chain_by_sqlite() {
    let (legacy, extracted) = (
        Db::lite(LEGACY_SQLITE).await,
        Db::lite(EXTRACTED_SQLITE).await,
    );
    killed(Pair::of(legacy, extracted), 23).await;
}
