//! h2load, in each way in which it speaks, while reads go from side to side.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use outgrow_proxy::Settings;
use outgrow_rollout::Weight;
use outgrow_testkit::Upstream;
use outgrow_testkit::certificates::Authority;

use crate::encrypted::over_tls;
use crate::harness::{Front, sliced, start, text};

const REQUESTS: &str = "1000";

/// What h2load says of requests and of statuses.
async fn load(front: &Front, scheme: &str, more: &[&str]) -> String {
    let out = tokio::process::Command::new("h2load")
        .args([
            "-n",
            REQUESTS,
            "-c",
            "12",
            "-T",
            "20",
            "-H",
            "x-visitor: v1",
        ])
        .args(more)
        .arg(format!("{scheme}://{}/api/items", front.at))
        .output()
        .await
        .expect("h2load can be run");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{said}");
    let told = said
        .lines()
        .filter(|line| line.starts_with("requests: ") || line.starts_with("status codes: "));
    told.collect::<Vec<_>>().join("\n")
}

/// All requests go well, whatever their version and whatever the weight is meanwhile.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs h2load, which scripts/test installs"]
async fn no_request_of_any_version_fails_while_weights_change() {
    let side = |name: &'static str| Upstream::start(move |_| async move { text(name.repeat(300)) });
    let (legacy, extracted) = (side("legacy").await, side("extracted").await);
    let ca = Authority::new("ca");
    let certificate = ca.server(&["127.0.0.1"]);
    let plain = sliced(&legacy, &extracted);
    let safe = Settings {
        slices: plain.slices.clone(),
        services: plain.services.clone(),
        ..over_tls(&legacy, &[&certificate])
    };
    let body = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(body.path(), "x".repeat(4_000)).unwrap();
    let body = body.path().to_str().unwrap();
    for (settings, scheme) in [(plain, "http"), (safe, "https")] {
        let front = Arc::new(start(settings));
        let ended = Arc::new(AtomicBool::new(false));
        let flips = tokio::task::spawn_blocking({
            let (front, ended) = (front.clone(), ended.clone());
            move || {
                let mut revision = 1;
                while !ended.load(Ordering::Relaxed) {
                    revision += 1;
                    let points = u16::try_from(revision * 3_701 % 10_001).unwrap();
                    front.weigh(revision, Weight::from_basis_points(points).unwrap());
                    std::thread::yield_now();
                }
            }
        });
        for more in [
            &["--h1"][..],
            &["-m", "20"],
            &["-m", "100", "-w", "16", "-W", "18"],
            &["-m", "10", "-d", body],
            &["--h1", "-d", body],
        ] {
            let told = load(&front, scheme, more).await;
            let all = format!(
                "requests: {REQUESTS} total, {REQUESTS} started, {REQUESTS} done, {REQUESTS} succeeded, \
                 0 failed, 0 errored, 0 timeout\nstatus codes: {REQUESTS} 2xx, 0 3xx, 0 4xx, 0 5xx"
            );
            assert_eq!(told, all, "{scheme} {more:?}");
        }
        ended.store(true, Ordering::Relaxed);
        flips.await.unwrap();
        Arc::into_inner(front).unwrap().stop().await;
    }
    assert!(!legacy.seen().is_empty() && !extracted.seen().is_empty());
}
