//! `outgrow top` beside a real process.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outgrow_testkit::process::free_address;
use outgrow_testkit::{Upstream, client};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

use crate::harness::{command, run_in};
use crate::starting::serve;

const WAIT: Duration = Duration::from_secs(20);

/// A line of the route's, with the requests a second that it tells.
fn rate(line: &str) -> Option<f64> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_route = words.starts_with(&["catalog", "GET", "/api/products/{id}"]);
    is_route.then(|| words[3].parse().unwrap())
}

#[tokio::test]
async fn routes_are_shown_as_requests_come() {
    let [legacy, extracted] = [
        Upstream::always(200, "ok").await,
        Upstream::always(200, "ok").await,
    ];
    let dir = tempfile::tempdir().unwrap();
    let [at, control] = [free_address(), free_address()];
    let [monolith, service] =
        [&legacy, &extracted].map(|side| side.url("").trim_end_matches('/').to_owned());
    let config = format!(
        "[proxy]\nlisten = [\"{at}\"]\nworkers = 1\n\
         [legacy]\nurls = [\"{monolith}\"]\ndatabase = \"sqlite:legacy.db\"\n\
         [services.catalog]\nurls = [\"{service}\"]\n\
         [slices.catalog]\nservice = \"catalog\"\nroutes = [\"GET /api/products/{{id}}\"]\ncohort = [\"header:x-visitor\"]\n\
         [control]\nlisten = \"{control}\"\n"
    );
    std::fs::write(dir.path().join("outgrow.toml"), config).unwrap();
    let mut outgrow = serve(dir.path()).await;
    let ended = AtomicBool::new(false);
    let asking = async {
        while !ended.load(Ordering::Relaxed) {
            client::get(&format!("http://{at}/api/products/7")).await;
        }
    };
    let watching = async {
        let once = run_in(dir.path(), &["top", "--once", "--every", "200ms"]).await;
        assert_eq!(once.code, 0, "{}", once.stderr);
        let seen: Vec<f64> = once.stdout.lines().filter_map(rate).collect();
        assert!(seen.len() == 1 && seen[0] > 0.0, "{}", once.stdout);
        assert!(once.stdout.contains(&monolith[7..]), "{}", once.stdout);
        // One table after another, until Ctrl-C.
        let mut top = command(dir.path(), &["top", "--every", "200ms"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(top.stdout.take().unwrap()).lines();
        let mut tables = 0;
        while tables < 3 {
            let line = timeout(WAIT, lines.next_line()).await.unwrap().unwrap();
            tables += u32::from(rate(&line.expect("another table")).is_some_and(|rate| rate > 0.0));
        }
        let pid = i32::try_from(top.id().unwrap()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let status = timeout(WAIT, top.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(0));
        let figures = run_in(dir.path(), &["top", "-o", "json"]).await;
        let figures: serde_json::Value = serde_json::from_str(&figures.stdout).unwrap();
        assert_eq!(figures["routes"][0]["route"], "GET /api/products/{id}");
        ended.store(true, Ordering::Relaxed);
    };
    tokio::join!(asking, watching);
    assert!(outgrow.stop().await.success());
}
