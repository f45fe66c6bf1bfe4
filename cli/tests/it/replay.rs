//! `outgrow replay` and `outgrow shadow record`, as a person or CI meets them.

use std::path::Path;

use outgrow_testkit::{Upstream, process::free_address};
use serde_json::{Value, json};

use crate::harness::{Ended, Stage, run_in};

const HAR: &str = r#"{"log":{"version":"1.2","creator":{"name":"Browser"},"entries":[
{"startedDateTime":"2026-11-21T09:00:00Z","request":{"method":"GET","url":"https://shop.example/api/products/7","headers":[]}},
{"startedDateTime":"2026-11-21T09:00:01Z","request":{"method":"POST","url":"https://shop.example/api/orders","headers":[]}}]}}"#;

async fn replayed(dir: &Path, more: &[&str], against: &str, and: &str) -> Ended {
    let mut args = vec!["replay", "shop.har", "--against", against, "--and", and];
    args.extend(more);
    run_in(dir, &args).await
}

#[tokio::test]
async fn a_replay_tells_ci_what_it_found() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("shop.har"), HAR).unwrap();
    let old = Upstream::always(200, "one").await;
    let new = Upstream::always(200, "two").await;
    let (old, new) = (old.url(""), new.url(""));
    let dead = format!("http://{}", free_address());
    let found = replayed(dir.path(), &["--format", "junit"], &old, &new).await;
    assert_eq!(found.code, 1, "{}", found.stderr);
    assert!(found.stdout.contains("<testsuite"), "{}", found.stdout);
    assert!(
        found.stdout.contains("/api/products/{id}"),
        "{}",
        found.stdout
    );
    let same = replayed(dir.path(), &["-o", "json"], &old, &old).await;
    assert_eq!(same.code, 0, "{}", same.stderr);
    let report: Value = serde_json::from_str(&same.stdout).unwrap();
    assert_eq!(report["evidence"]["matched"], 1);
    assert_eq!(report["ineligible"], json!({"method": 1}));
    let none = replayed(dir.path(), &[], &dead, &old).await;
    assert_eq!(none.code, 4, "{}", none.stderr);
    let known = ["--write-accepted", "known.json", "--reason", "a test"];
    replayed(dir.path(), &known, &old, &new).await;
    let accepted = replayed(dir.path(), &["--accepted", "known.json"], &old, &new).await;
    assert_eq!(accepted.code, 0, "{}", accepted.stderr);
    assert!(
        accepted.stderr.contains("differences accepted: 1"),
        "{}",
        accepted.stderr
    );
}

#[tokio::test]
async fn what_cannot_be_replayed_is_said_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("shop.har");
    let here = "http://127.0.0.1:1";
    for (text, expected) in [
        ("", "line 1 is no head of a recording"),
        (
            "{\"outgrow_recording\":1,\"source\":\"x\"}\n{}\n",
            "line 2: missing field",
        ),
        (
            &HAR.replace("2026-11-21T09:00:01Z", "noon"),
            "entry 2 of the HAR file: `noon`",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let refused = replayed(dir.path(), &[], here, here).await;
        assert_eq!(refused.code, 1);
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    }
    let usage = replayed(dir.path(), &["--speed", "fast"], here, here).await;
    assert_eq!(usage.code, 2);
    assert!(
        usage.stderr.contains("how many times as fast"),
        "{}",
        usage.stderr
    );
}

#[tokio::test]
async fn recorded_lines_land_in_a_file_that_can_be_replayed() {
    let line = r#"{"at_ms":5,"session":"s1","route":"GET /x","method":"GET","target":"/x"}"#;
    let stage = Stage::new(vec![
        (
            "POST /v1/shadow/catalog/record",
            200,
            json!({"lines": [], "lost": 0}),
        ),
        (
            "POST /v1/shadow/catalog/record",
            200,
            json!({"lines": [line, line], "lost": 3}),
        ),
    ])
    .await;
    let args = [
        "shadow", "record", "catalog", "--for", "1ms", "--to", "shop.har",
    ];
    let done = stage.run(&args).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stdout.contains("2 requests"), "{}", done.stdout);
    assert!(done.stdout.contains("3 lost"), "{}", done.stdout);
    let again = stage.run(&args).await;
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("not overwritten"), "{}", again.stderr);
    let side = Upstream::always(200, "{}").await;
    let side = side.url("");
    let played = replayed(stage.dir.path(), &["-o", "json"], &side, &side).await;
    assert_eq!(played.code, 0, "{}", played.stderr);
    let report: Value = serde_json::from_str(&played.stdout).unwrap();
    assert_eq!(report["evidence"]["matched"], 2);
}
