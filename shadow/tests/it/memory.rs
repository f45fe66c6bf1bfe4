//! What outlives a restart, and what must not.

use http::HeaderMap;
use outgrow_rollout::Side;
use serde_json::json;

use crate::harness::{Bench, Change, Position, ignore, offer, settings, settled, shop, start};

async fn gathered(change: Change<'_>) -> Bench {
    let bench = Bench::with(Position::default(), change).await;
    bench.client();
    bench.settled().await;
    bench.extracted.set(r#"{"id":1,"price":"9.94"}"#);
    bench.client();
    bench.settled().await;
    bench
}

fn again(bench: &Bench, change: Change<'_>) -> outgrow_shadow::Shadow {
    let mut settings = settings(&[&bench.at_legacy], &[&bench.at_extracted]);
    change(&mut settings);
    let shadow = start(settings, Position::default());
    shadow.restore(bench.shadow.snapshot()).unwrap();
    shadow
}

#[tokio::test(flavor = "multi_thread")]
async fn the_evidence_outlives_a_restart() {
    let bench = gathered(&|_| {}).await;
    let shadow = again(&bench, &|_| {});
    let seen = settled(&shadow).await;
    assert_eq!((seen.eligible, seen.matched, seen.mismatched), (2, 1, 1));
    assert!(shadow.pair("shop:p0").is_some());
    offer(
        &shadow,
        Side::Legacy,
        &bench.legacy.answer(),
        HeaderMap::new(),
    );
    let seen = settled(&shadow).await;
    assert_eq!((seen.eligible, seen.mismatched), (3, 2));
    assert!(shadow.pair("shop:p1").is_some(), "ids go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_when_it_was_saved_is_counted_as_lost() {
    let bench = Bench::with(Position::stuck(), &|_| {}).await;
    bench.extracted.set("{}");
    bench.client();
    let shadow = again(&bench, &|_| {});
    let seen = settled(&shadow).await;
    assert_eq!((seen.eligible, seen.shed), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_left_the_config_is_gone_and_one_that_was_added_stays() {
    let with_rule: Change<'_> = &|settings| {
        settings.slices[0].rules = vec![ignore("$.from_config", None)];
    };
    let bench = gathered(with_rule).await;
    let added = json!({"path": "$.added", "reason": "known", "until": "2999-01-01"});
    bench.shadow.add_rule(&shop(), &added).unwrap();
    let paths = |shadow: &outgrow_shadow::Shadow| {
        let rules = shadow.rules(&shop()).unwrap();
        let rules = rules.as_array().unwrap().clone();
        rules
            .iter()
            .map(|rule| rule["path"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        paths(&again(&bench, with_rule)),
        ["$.from_config", "$.added"]
    );
    assert_eq!(paths(&again(&bench, &|_| {})), ["$.added"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_rules_in_the_config_expire_the_evidence() {
    let bench = gathered(&|_| {}).await;
    let shadow = again(&bench, &|settings| {
        settings.slices[0].rules = vec![ignore("$.price", None)];
    });
    assert_eq!(settled(&shadow).await.compared(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_with_a_bad_rule_changes_nothing() {
    let bench = gathered(&|_| {}).await;
    let mut snapshot = bench.shadow.snapshot();
    snapshot["shop"]["rules"] = json!([{"path": "price", "reason": "no `$`"}]);
    let fresh = Bench::new().await;
    let refused = fresh.shadow.restore(snapshot).unwrap_err().to_string();
    assert!(refused.contains("`price` is no path"), "{refused}");
    assert_eq!(fresh.settled().await.eligible, 0);
    let refused = fresh.shadow.restore(json!({"shop": {"rules": 3}}));
    assert!(refused.is_err());
    assert_eq!(fresh.settled().await.eligible, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_rule_begins_the_evidence_anew_and_a_bad_one_changes_nothing() {
    let bench = gathered(&|_| {}).await;
    let no_reason = json!({"path": "$.price", "reason": " "});
    assert!(bench.shadow.add_rule(&shop(), &no_reason).is_err());
    assert_eq!(bench.settled().await.compared(), 2);
    let rule = json!({"path": "$.price", "reason": "rounding", "until": "2999-01-01"});
    bench.shadow.add_rule(&shop(), &rule).unwrap();
    assert_eq!(bench.settled().await.compared(), 0);
    bench.client();
    assert_eq!(bench.settled().await.matched, 1);
}
