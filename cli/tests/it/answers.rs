//! What answers look like as tables, and that JSON is the answer itself.

use serde_json::{Value, json};

use crate::harness::Stage;

pub(crate) fn evidence() -> Value {
    json!({
        "shadow": {
            "builds": {"legacy": "monolith-1", "extracted": "catalog-2"},
            "eligible": 20_400, "sampled_out": 0, "shed": 3, "ineligible": 7, "waiting": 2,
            "matched": 18_204, "mismatched": 12, "candidate_errors": 1, "not_comparable": 4,
            "classes": {
                "GET /api/products/{id} 2xx": {"compared": 18_000, "against": 13},
                "GET /api/products/{id} 4xx": {"compared": 217, "against": 0},
            },
            "top": [{
                "route": "GET /api/products/{id}", "path": "$.price", "kind": "value",
                "count": 12, "example": "17-3f2a", "legacy": "\"12.90\"", "extracted": "\"12.9\"",
            }],
        },
        "sync": {
            "source": "legacy", "copied_rows": 10_000, "total_rows": 10_000, "copied": true,
            "lag_ms": 42, "reverse_lag_ms": 51, "backlog": 3, "backlog_bytes": 6_200, "parked": 0, "foreign_writes": 1,
            "foreign_write_age_ms": 5_000, "last_foreign": "products 7",
            "verified": {"products -> product": {"legacy": 5_000, "extracted": 5_000, "different": 0}},
            "verified_age_ms": 61_000,
            "log_kept_bytes": {"legacy": 42_949_672_960_u64}, "log_limit_bytes": 68_719_476_736_u64,
            "noted_bytes": {"legacy": 900_000, "extracted": 0}, "noted_limit_bytes": 17_179_869_184_u64,
        },
        "proxy": {
            "legacy": {"requests": 120_000, "errors": 3, "p99_us": 12_345},
            "extracted": {"requests": 6_400, "errors": 0, "p99_us": null},
        },
        "in_stage_ms": 5_400_000,
        "extracted_in_stage": 6_400,
    })
}

pub(crate) fn slice() -> Value {
    let live =
        json!({"revision": 7, "epoch": 1, "weight": 100, "writer": "legacy", "mirror": true});
    json!({
        "slice": "catalog",
        "state": {
            "revision": 7, "traffic": {"canary": 500}, "writer": "legacy",
            "data": {"phase": "following"}, "epoch": 1, "frozen": "christmas sale",
        },
        "stage": "canary 5%",
        "effective": live,
        "evidence": evidence(),
        "cutover": null,
        "next": {
            "id": "canary-25", "title": "answer 25% of the reads from the extracted side",
            "state": "next",
            "gates": [
                {"name": "time in step", "value": "1 h 30 min", "limit": "10 min", "ok": true,
                 "missing": false, "hint": ""},
                {"name": "requests", "value": "400", "limit": "1,000", "ok": false,
                 "missing": true, "hint": "wait for traffic"},
            ],
        },
        "busy": null, "trouble": "the extracted database is locked", "published": true,
        "a field of a later version": 1,
    })
}

fn quiet_slice() -> Value {
    json!({
        "slice": "reviews",
        "state": {"revision": 0, "traffic": "legacy", "writer": "legacy", "data": null, "epoch": 0},
        "stage": "legacy",
        "effective": {"revision": 0, "epoch": 0, "weight": 0, "writer": "legacy", "mirror": false},
        "evidence": {"shadow": null, "sync": null, "proxy": null, "in_stage_ms": 0, "extracted_in_stage": 0},
        "next": {"id": "shadow", "title": "mirror", "state": "next", "gates": []},
    })
}

fn status() -> Value {
    json!({"version": "0.1.0", "leads": true, "slices": [slice(), quiet_slice()], "proxy": {}})
}

async fn golden(name: &str, args: &[&str], request: &'static str, answer: Value) {
    let stage = Stage::new(vec![(request, 200, answer.clone())]).await;
    let ended = stage.run(args).await;
    insta::assert_snapshot!(name, ended.golden());
    // The same as JSON is the answer, whole.
    let mut args: Vec<&str> = args.to_vec();
    args.extend(["-o", "json"]);
    let ended = stage.run(&args).await;
    let printed: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(printed, answer);
}

#[tokio::test]
async fn status_at_a_glance() {
    golden("status", &["status"], "GET /v1/status", status()).await;
}

#[tokio::test]
async fn status_of_one_slice() {
    golden(
        "status_slice",
        &["status", "catalog"],
        "GET /v1/slices/catalog",
        slice(),
    )
    .await;
}

#[tokio::test]
async fn routes() {
    golden("route_list", &["route", "list"], "GET /v1/status", status()).await;
    let answer = json!({"route": "GET /api/products/{id}", "slice": "catalog", "side": "legacy",
        "bucket": 4_120, "reason": "bucket 4120 is above the weight of 500"});
    let request =
        "GET /v1/explain?method=GET&target=%2Fapi%2Fproducts%2F7%3Fa%3D1&h=cookie%3A%20sid%3Dx";
    let args = [
        "route",
        "explain",
        "get",
        "/api/products/7?a=1",
        "-H",
        "cookie: sid=x",
    ];
    golden("route_explain", &args, request, answer).await;
}

#[tokio::test]
async fn a_flip_sends_what_it_was_told() {
    let answer = json!({"revision": 8, "from": "shadow", "to": "canary 5%", "acked": true,
        "gates": [{"name": "lag", "value": "42 ms", "limit": "1 s", "ok": true, "missing": false, "hint": ""}],
        "dry_run": false});
    let stage = Stage::new(vec![("POST /v1/slices/catalog/flip", 200, answer)]).await;
    let args = [
        "route",
        "flip",
        "catalog",
        "canary=5",
        "--reason",
        "first users",
        "--if-revision",
        "7",
        "--force",
        "--dry-run",
    ];
    let ended = stage.run(&args).await;
    insta::assert_snapshot!("flip", ended.golden());
    let (_, body) = stage.last();
    let expected = json!({"to": "canary=5", "by": "tester", "reason": "first users",
        "if_revision": 7, "force": true, "dry_run": true});
    assert_eq!(body, expected);
    stage
        .run(&["route", "flip", "catalog", "shadow", "--by", "alice"])
        .await;
    assert_eq!(stage.last().1, json!({"to": "shadow", "by": "alice"}));
}

fn cutover(outcome: &str, why: Option<&str>) -> Value {
    json!({"slice": "catalog", "direction": "extracted->legacy", "held": 17, "pause_ms": 143,
        "drained": true, "rows": {"products -> product": {"legacy": 5_000, "extracted": 5_000, "different": 0}},
        "outcome": outcome, "why": why})
}

#[tokio::test]
async fn rollbacks() {
    let request = "POST /v1/slices/catalog/rollback";
    let args = ["route", "rollback", "catalog", "--reason", "wrong prices"];
    let done = json!({"revision": 9, "reads_back_ms": 3, "cutover": cutover("switched", None), "published": true});
    golden("rollback", &args, request, done).await;
    // Reads are back, writes are not: a script must notice.
    let half = json!({"revision": 9, "reads_back_ms": 3,
        "cutover": cutover("aborted", Some("the drain took too long")), "published": false});
    let stage = Stage::new(vec![(request, 200, half)]).await;
    let ended = stage.run(&args).await;
    insta::assert_snapshot!("rollback_half", ended.golden());
    assert_eq!(ended.code, 1);
}

#[tokio::test]
async fn frozen() {
    let mut state = slice()["state"].clone();
    state["frozen"] = json!("christmas sale");
    let args = ["route", "freeze", "catalog", "--reason", "christmas sale"];
    golden("freeze", &args, "POST /v1/slices/catalog/freeze", state).await;
}

#[tokio::test]
async fn maintenance() {
    let mut state = slice()["state"].clone();
    state["maintenance"] = json!("a new disk");
    let request = "POST /v1/slices/catalog/maintenance";
    let args = [
        "route",
        "maintenance",
        "catalog",
        "on",
        "--reason",
        "a new disk",
    ];
    golden("maintenance", &args, request, state).await;
}

#[tokio::test]
async fn shadow() {
    let answer = json!({"catalog": evidence()["shadow"], "reviews": null});
    golden(
        "shadow_status",
        &["shadow", "status"],
        "GET /v1/shadow",
        answer.clone(),
    )
    .await;
    let cluster = json!({
        "id": "c0a1b2c3", "route": "GET /api/products/{id}", "count": 12, "exact": false,
        "fields": [{"path": "$.price", "kind": "value", "count": 12}],
        "cause": "all 12 have query currency=JPY, 0 of 312 passing ones do",
        "features": ["query currency=JPY"], "also": [],
        "looked_at": 12, "passing_with": 0, "passing": 312,
        "example": "catalog:p7", "request": "GET /api/products/7?currency=JPY",
        "diff": "--- legacy 200\n+++ extracted 200\n@@ $.price (value) @@\n-\"995\"\n+\"9.95\"\n",
        "curl": ["curl -sS -i 'http://127.0.0.1:8081/api/products/7?currency=JPY'"],
    });
    let report = json!({"clusters": [cluster]});
    let stage = Stage::new(vec![
        ("GET /v1/shadow", 200, answer),
        ("GET /v1/shadow/catalog/report?format=json", 200, report),
    ])
    .await;
    let ended = stage.run(&["shadow", "report", "catalog"]).await;
    insta::assert_snapshot!("shadow_report", ended.golden());
    let ended = stage.run(&["shadow", "report", "katalog"]).await;
    assert_eq!(ended.code, 1);
    assert!(
        ended.stderr.contains("did you mean `catalog`?"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn a_report_goes_to_a_file() {
    let page = Value::from("<!doctype html><p>report</p>");
    let stage = Stage::new(vec![(
        "GET /v1/shadow/catalog/report?format=html",
        200,
        page,
    )])
    .await;
    let args = [
        "shadow",
        "report",
        "catalog",
        "--format",
        "html",
        "--out",
        "report.html",
    ];
    let ended = stage.run(&args).await;
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (0, ""),
        "{}",
        ended.stderr
    );
    let written = std::fs::read_to_string(stage.dir.path().join("report.html")).unwrap();
    assert_eq!(written, "<!doctype html><p>report</p>");
}

#[tokio::test]
async fn ignore_rules() {
    let request = "GET /v1/shadow/catalog/rules";
    let rules = json!({"rules": [
        {"path": "$.request_id", "reason": "random", "until": "2999-01-01"},
        {"path": "$.rank", "reason": "redone nightly", "until": "2020-01-01"},
    ]});
    let stage = Stage::new(vec![(request, 200, rules)]).await;
    let ended = stage.run(&["shadow", "ignore", "check", "catalog"]).await;
    insta::assert_snapshot!("ignore_check", ended.golden());
    assert_eq!(ended.code, 1);
    let ended = stage.run(&["shadow", "ignore", "list", "catalog"]).await;
    insta::assert_snapshot!("ignore_list", ended.golden());
}

#[tokio::test]
async fn a_rule_that_is_added_says_what_it_accepts_and_one_that_hides_nothing_is_named() {
    let rules =
        json!([{"path": "$.rank", "owner": "ada", "until": "2999-01-01", "state": "unused"}]);
    let stage = Stage::new(vec![
        ("POST /v1/shadow/catalog/rules", 200, rules.clone()),
        ("GET /v1/shadow/catalog/rules", 200, rules),
    ])
    .await;
    let args = "shadow ignore add catalog $..price --tolerance 0.01 --owner ada \
                --reason floats --until 2999-01-01 --by bob";
    let args: Vec<&str> = args.split_whitespace().collect();
    let ended = stage.run(&args).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let expected = json!({"path": "$..price", "accept": {"tolerance": "0.01"}, "owner": "ada",
        "reason": "floats", "until": "2999-01-01", "by": "bob"});
    assert_eq!(stage.last().1, expected);
    let ended = stage.run(&["shadow", "ignore", "check", "catalog"]).await;
    assert_eq!(ended.code, 0);
    let warning = "the rule for $.rank (owner: ada) has hidden nothing";
    assert!(ended.stderr.contains(warning), "{}", ended.stderr);
    let args = [
        "--round",
        "2",
        "--prefix",
        "x",
        "--reason",
        "r",
        "--until",
        "2999-01-01",
    ];
    let both = [
        ["shadow", "ignore", "add", "catalog", "$.a"].as_slice(),
        &args,
    ]
    .concat();
    assert_eq!(stage.run(&both).await.code, 2);
}

#[tokio::test]
async fn sync() {
    let one = json!({"slice": "catalog", "data": {"phase": "following"},
    "evidence": evidence()["sync"], "trouble": null,
    "detail": {
        "state": "following", "source": "legacy", "position": 1_234, "lag_ms": 42, "reverse_lag_ms": 51,
        "tables": [{
            "legacy": "products", "extracted": ["product"], "state": "copied", "total": 5_000,
            "copied": 5_000, "rows_per_second": 90_000, "seconds_left": null, "applied": 12,
        }],
        "backlog": 3, "backlog_bytes": 6_200, "in_parts": false, "parked": 0,
        "conflicts": {"open": 0, "ever": 2}, "carried_back": 0, "foreign_writes": 1, "refused_writes": 1,
        "log_kept_bytes": {"legacy": 42_949_672_960_u64}, "noted_bytes": {}, "load": {},
        "verify": {"running": null, "last": null}, "copy_waits_for": null, "waiting_for": null, "failed": null,
    }});
    let none = json!({"slice": "reviews", "data": null, "evidence": null, "detail": null, "trouble": null});
    golden(
        "sync_status",
        &["sync", "status"],
        "GET /v1/sync",
        json!({"slices": [one, none]}),
    )
    .await;
    golden(
        "sync_status_slice",
        &["sync", "status", "catalog"],
        "GET /v1/sync/catalog",
        one,
    )
    .await;
    golden(
        "sync_start",
        &["sync", "start", "catalog"],
        "POST /v1/sync/catalog/start",
        json!({"revision": 1, "traffic": "legacy", "writer": "legacy", "data": {"phase": "copying"}, "epoch": 0}),
    )
    .await;
    golden(
        "sync_reverse",
        &["sync", "reverse", "catalog", "--to", "legacy"],
        "POST /v1/sync/catalog/reverse",
        cutover("switched", None),
    )
    .await;
}

fn conflicts() -> Value {
    let product = |title: &str| json!({"product": {"id": 7, "title": title}});
    json!({
        "conflicts": [
            {"id": "L3", "table": "products", "key": "7", "state": "open", "policy": "manual",
             "winner": null, "at_ms": 1_780_308_000_000_i64, "settled_at_ms": null,
             "legacy_at_ms": 1_780_307_999_000_i64, "extracted_at_ms": null,
             "legacy": product("Rake"), "extracted": product("Spade"),
             "differ": [{"column": "product.title", "legacy": "Rake", "extracted": "Spade"}]},
            {"id": "E1", "table": "products", "key": "9", "state": "settled", "policy": "writer",
             "winner": "extracted", "at_ms": 1_780_300_000_000_i64, "legacy": {},
             "extracted": {"product": {"id": 9}},
             "differ": [{"column": "product.id", "legacy": null, "extracted": 9}]},
        ],
        "parked": [{"table": "products", "key": "4", "reason": "products.price: `call us`",
            "content": "[[4]]", "at_ms": 1_780_308_000_000_i64}],
        "foreign": [{"id": "FL2", "side": "extracted", "table": "product", "key": "6", "op": "u",
            "at_ms": 1_780_308_061_000_i64, "took": null, "passive": product("console"),
            "authority": product("Hoe"),
            "differ": [{"column": "product.title", "legacy": "Hoe", "extracted": "console"}]}],
        "refused": [
            {"side": "legacy", "count": 0, "last_table": null, "last_at_ms": null},
            {"side": "extracted", "count": 1_204, "last_table": "product",
             "last_at_ms": 1_780_308_000_000_i64},
        ],
        "total": {"open": 1, "settled": 1, "parked": 1, "foreign_open": 1, "foreign_settled": 0},
        "page": 1, "more": false,
    })
}

#[tokio::test]
async fn what_waits_for_a_person_is_listed_and_settled() {
    let look = "GET /v1/sync/catalog/conflicts?limit=1000&page=1";
    let args = ["sync", "conflicts", "catalog"];
    golden("sync_conflicts", &args, look, conflicts()).await;
    let none = json!({"conflicts": [], "parked": [], "foreign": [],
        "refused": [{"side": "legacy", "count": 0, "last_table": null, "last_at_ms": null}],
        "total": {"open": 0, "settled": 0, "parked": 0, "foreign_open": 0, "foreign_settled": 0},
        "page": 1, "more": false});
    golden("sync_no_conflicts", &args, look, none).await;
    let mut some = conflicts();
    some["parked"] = json!([]);
    some["total"] = json!({"open": 1_100, "settled": 3, "parked": 7, "foreign_open": 20_000,
        "foreign_settled": 1});
    some["more"] = json!(true);
    let look = "GET /v1/sync/catalog/conflicts?limit=50&page=2";
    let args = [
        "sync",
        "conflicts",
        "catalog",
        "--limit",
        "50",
        "--page",
        "2",
    ];
    golden("sync_conflicts_page", &args, look, some).await;
    let answer = json!({"dry_run": false, "open": 1, "failed": [{"id": "E9", "why": "it keeps changing"}],
        "total": 1_201, "total_failed": 3, "more": true,
        "settled": [{"id": "L3", "what": "conflict", "table": "products", "key": "7",
            "took": "legacy", "parked": false}]});
    let stage = Stage::new(vec![("POST /v1/sync/catalog/settle", 200, answer)]).await;
    let args = [
        "sync", "settle", "catalog", "--all", "--take", "legacy", "--reason", "x",
    ];
    let ended = stage.run(&args).await;
    insta::assert_snapshot!("sync_settle", ended.golden());
    assert_eq!(ended.code, 1, "one is not settled");
    let expected =
        json!({"all": true, "take": "legacy", "dry_run": false, "by": "tester", "reason": "x"});
    assert_eq!(stage.last().1, expected);
    stage
        .run(&[
            "sync",
            "settle",
            "catalog",
            "L3",
            "--take",
            "extracted",
            "--dry-run",
        ])
        .await;
    let expected = json!({"conflict": "L3", "all": false, "take": "extracted", "dry_run": true, "by": "tester"});
    assert_eq!(stage.last().1, expected);
    let ended = stage
        .run(&["sync", "settle", "catalog", "--take", "legacy"])
        .await;
    assert_eq!(ended.code, 2, "which one?");
}

#[tokio::test]
async fn rows_that_differ_are_1() {
    let answer = json!({
        "rows": {"products -> product": {"legacy": 5_000, "extracted": 5_000, "different": 1}},
        "report": {"different": [{"table": "product", "key": "7", "column": "title"}]},
    });
    let stage = Stage::new(vec![("POST /v1/sync/catalog/verify", 200, answer)]).await;
    let ended = stage.run(&["sync", "verify", "catalog"]).await;
    assert_eq!(ended.code, 1);
    insta::assert_snapshot!("sync_verify", ended.golden());
}

#[tokio::test]
async fn a_sample_says_what_it_left_out() {
    let answer = json!({
        "rows": {"product": {"legacy": 2_000, "extracted": 2_000, "different": 0}, "tag": {"legacy": 9, "extracted": 9, "different": 0}},
        "report": {"share": 0.05, "looked_at": 2_009, "left_out": 38_000, "ways": {"product": {"by": "checksums"},
            "tag": {"by": "rows", "why": "tag.name: an expression makes it"}}},
    });
    let stage = Stage::new(vec![("POST /v1/sync/catalog/verify", 200, answer)]).await;
    let ended = stage
        .run(&["sync", "verify", "catalog", "--sample", "5%"])
        .await;
    assert_eq!(ended.code, 0);
    insta::assert_snapshot!("sync_verify_sample", ended.golden());
    assert_eq!(stage.last().1, json!({"share": 0.05}));
    stage
        .run(&["sync", "verify", "catalog", "--resume", "--by-rows"])
        .await;
    assert_eq!(stage.last().1, json!({"resume": true, "by_rows": true}));
    let ended = stage
        .run(&["sync", "verify", "catalog", "--sample", "5%", "--resume"])
        .await;
    assert_eq!(ended.code, 2);
}

pub(crate) fn journal() -> Value {
    let state = |traffic: Value| json!({"revision": 1, "traffic": traffic, "writer": "legacy"});
    json!([
        {"seq": 1, "at": "2026-06-01T10:00:00Z", "by": "alice", "slice": "catalog",
         "action": "flip", "reason": "begin", "before": state(json!("legacy")),
         "after": state(json!("shadow")), "evidence": {}, "prev_hash": "00", "hash": "a1"},
        {"seq": 2, "at": "2026-06-02T10:00:00Z", "by": "guard", "slice": "catalog",
         "action": "guard", "reason": "errors | many", "before": state(json!({"canary": 550})),
         "after": state(json!("shadow")), "evidence": {}, "prev_hash": "a1", "hash": "b2"},
    ])
}

#[tokio::test]
async fn the_journal() {
    golden(
        "journal",
        &["journal"],
        "GET /v1/journal?limit=50",
        journal(),
    )
    .await;
    golden(
        "history",
        &["route", "history", "catalog", "--limit", "2"],
        "GET /v1/journal?limit=2&slice=catalog",
        journal(),
    )
    .await;
    let whole = json!({"entries": 1_204, "ok": true});
    golden(
        "journal_whole",
        &["journal", "verify"],
        "GET /v1/journal/verify",
        whole,
    )
    .await;
    let broken = json!({"entries": 1_204, "ok": false, "first_bad": 17});
    golden(
        "journal_broken",
        &["journal", "verify"],
        "GET /v1/journal/verify",
        broken,
    )
    .await;
}
