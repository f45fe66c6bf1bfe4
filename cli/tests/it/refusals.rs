//! What the API refuses, and the exit code that it becomes.

use serde_json::{Value, json};

use crate::harness::{Stage, run_in};

fn gates() -> Value {
    json!([
        {"name": "mismatch rate", "value": "1.8% of 12,400", "limit": "0.1%", "ok": false,
         "missing": false, "hint": "see `outgrow shadow report catalog`"},
        {"name": "lag", "value": "unknown", "limit": "1 s", "ok": false, "missing": true,
         "hint": "wait for a heartbeat; see `outgrow sync status catalog`"},
        {"name": "verified rows", "value": "0 different", "limit": "0", "ok": true,
         "missing": false, "hint": ""},
    ])
}

fn refusal(code: &str, error: &str, details: Value, hint: &str) -> Value {
    json!({"error": error, "code": code, "details": details, "hint": hint})
}

const FLIP: &str = "POST /v1/slices/catalog/flip";

async fn flip(status: u16, body: Value) -> crate::harness::Ended {
    let stage = Stage::new(vec![(FLIP, status, body)]).await;
    stage.run(&["route", "flip", "catalog", "canary=5"]).await
}

#[tokio::test]
async fn a_gate_that_is_not_met_is_3_and_names_what_helps() {
    let error = "step `canary-5` is blocked by mismatch rate 1.8% of 12,400 (limit 0.1%)";
    let body = refusal(
        "gate",
        error,
        json!({"step": "canary-5", "gates": gates()}),
        "see `outgrow shadow report catalog`",
    );
    let ended = flip(412, body).await;
    assert_eq!(ended.code, 3);
    insta::assert_snapshot!("gate", ended.golden());
}

#[tokio::test]
async fn missing_evidence_is_4() {
    let body = refusal(
        "inconclusive",
        "step `canary-5` lacks evidence: lag unknown (limit 1 s)",
        json!({"step": "canary-5", "gates": [gates()[1]]}),
        "",
    );
    let ended = flip(424, body).await;
    assert_eq!(ended.code, 4);
    insta::assert_snapshot!("inconclusive", ended.golden());
}

#[tokio::test]
async fn other_refusals() {
    for (status, code, exit) in [
        (400, "usage", 2),
        (409, "conflict", 5),
        (504, "timeout", 6),
        (422, "illegal", 1),
        (404, "not-found", 1),
        (500, "internal", 1),
    ] {
        let body = refusal(code, "the reason", Value::Null, "what to do");
        let ended = flip(status, body).await;
        assert_eq!(ended.code, exit, "{code}");
        assert_eq!(ended.stdout, "");
        assert_eq!(ended.stderr, "error: the reason\nhint: what to do\n");
    }
}

#[tokio::test]
async fn a_stage_that_does_not_exist_is_told_the_stages() {
    let stage = Stage::new(Vec::new()).await;
    for (bad, told) in [
        ("extrcted", "did you mean `extracted`?"),
        ("canary", "canary=PERCENT"),
        ("canary=500", "0 to 100"),
        ("retired", "runbook next"),
        ("x", "legacy, shadow, canary=PERCENT, extracted"),
    ] {
        let ended = stage.run(&["route", "flip", "catalog", bad]).await;
        assert_eq!(ended.code, 2, "{bad}");
        assert!(ended.stderr.contains(told), "{bad}: {}", ended.stderr);
    }
    assert!(stage.server.seen().is_empty(), "nothing was asked");
}

#[tokio::test]
async fn a_force_needs_a_reason() {
    let stage = Stage::new(Vec::new()).await;
    let ended = stage
        .run(&["route", "flip", "catalog", "shadow", "--force"])
        .await;
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("--reason"), "{}", ended.stderr);
}

#[tokio::test]
async fn an_unknown_slice_is_told_the_slices() {
    let body = refusal(
        "not-found",
        "there is no slice `katalog`",
        Value::Null,
        "did you mean `catalog`?",
    );
    let stage = Stage::new(vec![("GET /v1/slices/katalog", 404, body)]).await;
    let ended = stage.run(&["status", "katalog"]).await;
    insta::assert_snapshot!("unknown_slice", ended.golden());
}

#[tokio::test]
async fn nobody_listens() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "0123456789abcdef").unwrap();
    let free = outgrow_testkit::process::free_address();
    let admin = format!("http://{free}");
    let args = ["--admin", &admin, "--token-file", "token", "status"];
    let ended = run_in(dir.path(), &args).await;
    assert_eq!(ended.code, 1);
    assert!(
        ended.stderr.contains("no Outgrow answers at"),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains("hint: start it with `outgrow serve`"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn a_wrong_token_is_said_so_and_never_printed() {
    let stage = Stage::new(Vec::new()).await;
    let secret = "fedcba9876543210-another";
    std::fs::write(stage.dir.path().join("admin.token"), secret).unwrap();
    let ended = stage.run(&["status"]).await;
    assert_eq!(ended.code, 1);
    assert!(
        ended.stderr.contains("token is missing or wrong"),
        "{}",
        ended.stderr
    );
    assert!(!ended.stderr.contains(secret));
}

#[tokio::test]
async fn an_answer_of_another_version_is_no_panic() {
    let stage = Stage::new(vec![("GET /v1/status", 200, json!({"slices": 7}))]).await;
    let ended = stage.run(&["status"]).await;
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("not as expected"), "{}", ended.stderr);
    let stage = Stage::new(vec![("GET /v1/status", 200, Value::from("<html>"))]).await;
    let ended = stage.run(&["status"]).await;
    assert!(ended.stderr.contains("is not JSON"), "{}", ended.stderr);
}

#[tokio::test]
async fn bad_words_on_the_command_line_are_2() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["statsu"][..],
        &["route", "flip"][..],
        &["route", "explain", "GET", "no-slash"][..],
        &["route", "explain", "GET", "/", "-H", "no colon"][..],
        &["status", "--every", "1ms"][..],
        &[
            "shadow", "ignore", "add", "a", "$.b", "--reason", "c", "--until", "soon",
        ][..],
        &["sync", "reverse", "catalog", "--to", "both"][..],
        &["route", "freeze", "catalog"][..],
        &["route", "maintenance", "catalog", "on"],
        &["journal", "--limit", "0"][..],
        &["demo", "--rate", "0"][..],
    ] {
        let ended = run_in(dir.path(), args).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{args:?}");
        assert!(
            ended.stderr.starts_with("error: "),
            "{args:?}: {}",
            ended.stderr
        );
    }
}
