//! The runbook: steps one by one, all of them, and as a page.

use serde_json::{Value, json};

use crate::answers::{journal, slice};
use crate::harness::Stage;

const BOOK: &str = "GET /v1/runbook/catalog";
const NEXT: &str = "POST /v1/runbook/catalog/next";

/// A runbook whose step of this id is next.
fn book(next: &str) -> Value {
    let ids = ["sync", "shadow", "canary-5", "canary-100", "extracted"];
    let at = ids.iter().position(|id| *id == next).unwrap_or(ids.len());
    let steps: Vec<Value> = ids
        .iter()
        .enumerate()
        .map(|(index, id)| {
            let state = match index {
                i if i == at => "next",
                i if i > at => "later",
                i if i + 1 == at => "current",
                _ => "done",
            };
            let gates = if state == "next" {
                slice()["next"]["gates"].clone()
            } else {
                json!([])
            };
            json!({"id": id, "title": format!("do {id}"), "state": state, "gates": gates})
        })
        .collect();
    json!({"slice": "catalog", "steps": steps})
}

fn done(step: &str) -> Value {
    json!({"step": step, "done": true, "detail": {"revision": 3, "from": "legacy", "to": "shadow"}})
}

fn lacking() -> Value {
    json!({"error": "step `canary-5` lacks evidence: requests 400 (limit 1,000)",
        "code": "inconclusive", "hint": "wait for traffic",
        "details": {"step": "canary-5", "gates": slice()["next"]["gates"]}})
}

#[tokio::test]
async fn the_steps() {
    let stage = Stage::new(vec![(BOOK, 200, book("canary-5"))]).await;
    let ended = stage.run(&["runbook", "show", "catalog"]).await;
    insta::assert_snapshot!("runbook_show", ended.golden());
}

#[tokio::test]
async fn a_plan_changes_nothing() {
    let met =
        json!({"step": "shadow", "done": false, "detail": {"gates": slice()["next"]["gates"]}});
    let stage = Stage::new(vec![(NEXT, 200, met)]).await;
    let ended = stage.run(&["runbook", "plan", "catalog"]).await;
    insta::assert_snapshot!("runbook_plan", ended.golden());
    assert_eq!(stage.last().1, json!({"dry_run": true}));

    let free = json!({"step": "sync", "done": false, "detail": {"gates": []}});
    let stage = Stage::new(vec![(NEXT, 200, free)]).await;
    let ended = stage.run(&["runbook", "plan", "catalog"]).await;
    let told = "catalog: `sync` has no gates; `outgrow runbook next catalog` takes it\n";
    assert_eq!(ended.stdout, told, "no table of nothing");
}

#[tokio::test]
async fn a_step_that_cuts_over_says_how_long_writes_waited() {
    let detail = json!({"slice": "catalog", "direction": "legacy->extracted", "held": 4,
        "pause_ms": 88, "drained": true, "rows": {}, "outcome": "switched", "why": null});
    let answer = json!({"step": "cutover", "done": true, "detail": detail});
    let stage = Stage::new(vec![(NEXT, 200, answer)]).await;
    let ended = stage
        .run(&["runbook", "next", "catalog", "--reason", "night"])
        .await;
    assert!(
        ended.stdout.contains("4 writes waited, pause 88 ms"),
        "{}",
        ended.stdout
    );
    let (_, body) = stage.last();
    assert_eq!(
        body,
        json!({"by": "tester", "reason": "night", "dry_run": false})
    );
}

#[tokio::test]
async fn a_run_waits_for_evidence_and_stops_where_it_was_told_to() {
    let stage = Stage::new(vec![
        (BOOK, 200, book("shadow")),
        (BOOK, 200, book("shadow")),
        (BOOK, 200, book("canary-5")),
        (NEXT, 200, done("shadow")),
        (NEXT, 424, lacking()),
        (NEXT, 424, lacking()),
        (NEXT, 200, done("canary-5")),
    ])
    .await;
    let ended = stage
        .run(&["runbook", "run", "catalog", "--until", "canary-5"])
        .await;
    insta::assert_snapshot!("runbook_run", ended.golden());
}

#[tokio::test]
async fn a_run_without_patience_is_4() {
    let stage = Stage::new(vec![(BOOK, 200, book("canary-5")), (NEXT, 424, lacking())]).await;
    let ended = stage
        .run(&["runbook", "run", "catalog", "--wait", "0s"])
        .await;
    assert_eq!(ended.code, 4);
    assert!(
        ended.stderr.contains("missing: requests 400"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn a_run_stops_when_the_slice_falls_back() {
    let stage = Stage::new(vec![
        (BOOK, 200, book("shadow")),
        (BOOK, 200, book("shadow")),
        (BOOK, 200, book("canary-5")),
        (BOOK, 200, book("shadow")),
        (NEXT, 200, done("shadow")),
        (NEXT, 200, done("canary-5")),
    ])
    .await;
    let ended = stage.run(&["runbook", "run", "catalog"]).await;
    assert_eq!(ended.code, 1);
    assert!(
        ended.stderr.contains("fell back behind `shadow`"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn a_run_ends_well_when_nothing_is_left() {
    let stage = Stage::new(vec![(BOOK, 200, book("none"))]).await;
    let ended = stage.run(&["runbook", "run", "catalog"]).await;
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (0, "catalog: no step is left\n")
    );
    let ended = stage
        .run(&["runbook", "run", "catalog", "--until", "shadow"])
        .await;
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (0, "catalog: `shadow` is done already\n")
    );
}

#[tokio::test]
async fn an_unknown_step_is_2() {
    let stage = Stage::new(vec![(BOOK, 200, book("shadow"))]).await;
    let ended = stage
        .run(&["runbook", "run", "catalog", "--until", "canary5"])
        .await;
    assert_eq!(ended.code, 2);
    assert!(
        ended.stderr.contains("did you mean `canary-5`?"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn the_page() {
    let stage = Stage::new(vec![
        ("GET /v1/slices/catalog", 200, slice()),
        (BOOK, 200, book("canary-5")),
        ("GET /v1/journal?limit=200&slice=catalog", 200, journal()),
    ])
    .await;
    let ended = stage
        .run(&["runbook", "export", "catalog", "--out", "runbook.md"])
        .await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let page = std::fs::read_to_string(stage.dir.path().join("runbook.md")).unwrap();
    let (written, rest) = page.split_once(", revision").expect("the date of the page");
    assert!(written.contains("Written 2"), "{written}");
    insta::assert_snapshot!("runbook_page", rest);
}
