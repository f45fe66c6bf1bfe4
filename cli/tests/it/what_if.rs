//! `outgrow shadow what-if`, against a scripted server and on a real process.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::time::Duration;

use outgrow_testkit::process::free_address;
use outgrow_testkit::{Upstream, client, eventually};
use serde_json::{Value, json};

use crate::harness::{Stage, run_in};
use crate::starting::serve;

const WAIT: Duration = Duration::from_secs(20);
const REQUEST: &str = "POST /v1/shadow/catalog/what-if";

fn answer() -> Value {
    let group = json!({
        "cluster": "c0a1b2c3", "route": "GET /api/products/{id}",
        "cause": "all 12 have query currency=JPY, 0 of 312 passing ones do",
        "fields": [{"path": "$.price", "kind": "value", "count": 12}],
        "pairs": 3, "of": 12, "rules": ["$..price"], "example": "catalog:p7",
    });
    let shown = json!({
        "route": "GET /api/products", "fields": [{"path": "$.at", "kind": "value", "count": 1}],
        "pairs": 3, "of": 4_000, "rules": ["$.at"], "example": "catalog:p2",
    });
    json!({
        "slice": "catalog", "rules_today": 2, "rules_then": 2,
        "judged": {"pairs": 40, "as_today": 34, "mismatched": [9, 41], "excused": [3, 4_000],
            "matched": [30, 96_000], "failed": 1,
            "unjudged": {"body beyond 16 KiB": 2}},
        "would_match": [group], "would_differ": [shown], "idle": ["$.never"],
        "score_today": {"answers": 10, "faults": 120, "caught": 118},
        "score_then": {"answers": 10, "faults": 120, "caught": 90},
        "unknown": ["only stored pairs are judged: 9 of 41 that differ"],
    })
}

#[tokio::test]
async fn other_rules_are_asked_and_what_would_change_is_said() {
    let stage = Stage::new(vec![(REQUEST, 200, answer())]).await;
    let args = "shadow what-if catalog --add $..price --tolerance 0.01 --drop $.at --drop $.b";
    let args: Vec<&str> = args.split_whitespace().collect();
    let ended = stage.run(&args).await;
    insta::assert_snapshot!("what_if", ended.golden());
    assert_eq!(ended.code, 1, "some pairs would be judged otherwise");
    let rule = json!({"path": "$..price", "reason": "what if", "until": null, "owner": null,
        "accept": {"tolerance": "0.01"}});
    let expected = json!({"config": null, "add": [rule], "drop": ["$.at", "$.b"]});
    assert_eq!(stage.last().1, expected);
}

#[tokio::test]
async fn exit_codes_say_whether_anything_changes_or_could_be_judged() {
    let mut same = answer();
    (same["would_match"], same["would_differ"]) = (json!([]), json!([]));
    let mut none = same.clone();
    (none["judged"]["pairs"], none["judged"]["failed"]) = (json!(0), json!(0));
    let stage = Stage::new(vec![(REQUEST, 200, same), (REQUEST, 200, none)]).await;
    for code in [0, 4] {
        let args = [
            "shadow", "what-if", "catalog", "--drop", "$.at", "-o", "json",
        ];
        let ended = stage.run(&args).await;
        assert_eq!(ended.code, code, "{}", ended.stderr);
    }
    for args in [
        "",
        "--tolerance 0.01 --drop $.a",
        "--add $.a --round 2 --prefix x",
    ] {
        let all = format!("shadow what-if catalog {args}");
        let all: Vec<&str> = all.split_whitespace().collect();
        assert_eq!(stage.run(&all).await.code, 2, "{args}");
    }
}

/// A config of a proxy between these, with these rules.
fn config(at: [std::net::SocketAddr; 2], sides: [&Upstream; 2], rules: &str) -> String {
    let url = |side: &Upstream| side.url("").trim_end_matches('/').to_owned();
    format!(
        "[proxy]\nlisten = [\"{}\"]\nworkers = 1\n[legacy]\nurls = [\"{}\"]\n\
         database = \"sqlite:legacy.db\"\n[control]\nlisten = \"{}\"\n\
         [services.catalog]\nurls = [\"{}\"]\n[slices.catalog]\nservice = \"catalog\"\n\
         routes = [\"GET /api/products\"]\n[slices.catalog.shadow]\n{rules}\n",
        at[0],
        url(sides[0]),
        at[1],
        url(sides[1])
    )
}

#[tokio::test]
async fn a_real_process_judges_its_pairs_by_another_config() {
    let body = |price: &str, at: u8| format!(r#"{{"price":{price},"at":{at}}}"#);
    let json = ("content-type", "application/json");
    let side = |text: String| {
        Upstream::start(move |_| {
            let answer = http::Response::builder().header(json.0, json.1);
            let answer = answer.body(bytes::Bytes::from(text.clone())).unwrap();
            async move { answer }
        })
    };
    let (legacy, service) = (side(body("9.95", 1)).await, side(body("9.96", 2)).await);
    let at = [free_address(), free_address()];
    let dir = tempfile::tempdir().unwrap();
    let ignored = r#"ignore = [{ path = "$.at", reason = "clock", until = "2999-01-01" }]"#;
    let near = r#"accept = [{ path = "$.price", tolerance = 0.01, reason = "floats", until = "2999-01-01" }]"#;
    for (name, rules) in [
        ("outgrow.toml", ignored.to_owned()),
        ("next.toml", format!("{ignored}\n{near}")),
        ("none.toml", near.to_owned()),
    ] {
        let text = config(at, [&legacy, &service], &rules);
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let mut process = serve(dir.path()).await;
    let run = |args: &'static str| {
        let args: Vec<&str> = args.split_whitespace().collect();
        let dir = dir.path().to_owned();
        async move { run_in(&dir, &args).await }
    };
    let ended = run("route flip catalog shadow --force --reason test").await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let url = format!("http://{}/api/products", at[0]);
    eventually("three pairs", WAIT, || async {
        client::get(&url).await;
        let ended = run("shadow status -o json").await;
        let all: Value = serde_json::from_str(&ended.stdout).ok()?;
        (all["catalog"]["mismatched"].as_u64()? >= 3).then_some(())
    })
    .await;
    let ended = run("shadow what-if catalog --rules-of next.toml").await;
    assert_eq!(ended.code, 1, "{} {}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("1 today, 2 then"), "{}", ended.stdout);
    assert!(ended.stdout.contains("WOULD MATCH"), "{}", ended.stdout);
    // With the one rule and without the other they differ all the same.
    let ended = run("shadow what-if catalog --rules-of none.toml").await;
    assert_eq!(ended.code, 0, "{} {}", ended.stdout, ended.stderr);
    let ended = run("shadow what-if catalog --drop $.nothing").await;
    assert_eq!(ended.code, 2, "{}", ended.stdout);
    assert!(
        ended.stderr.contains("the rules are for $.at"),
        "{}",
        ended.stderr
    );
    let ended = run("shadow what-if catalog --rules-of missing.toml").await;
    assert_eq!(ended.code, 1, "{}", ended.stdout);
    assert!(process.stop().await.success());
}
