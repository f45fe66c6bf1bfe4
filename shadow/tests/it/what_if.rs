//! What other rules would say of stored pairs: the same as they say of live ones.

use outgrow_rollout::Side;
use outgrow_shadow::{Accept, Changed, Comparing, Rule, Shadow, WhatIf};

use crate::harness::{Bench, Position, ignore, settings, settled, shop, start};

fn within(path: &str, accept: Accept) -> Rule {
    Rule {
        accept,
        ..ignore(path, None)
    }
}

fn ask(shadow: &Shadow, changed: &Changed) -> WhatIf {
    let changed = serde_json::to_value(changed).unwrap();
    shadow.what_if(&shop(), &changed).unwrap()
}

/// A bench with these rules, which keeps each pair that it is offered.
async fn bench(rules: &[Rule]) -> Bench {
    Bench::with(Position::default(), &|settings| {
        settings.slices[0].rules = rules.to_vec();
        settings.limits.examples = 1_000;
    })
    .await
}

/// Both sides' answers to the nth request.
fn answers(n: usize) -> (String, String) {
    let body = |at: usize, price: &str, tags: &str, mail: &str| {
        format!(
            r#"{{"n":{n},"at":{at},"price":{price},"tags":[{tags}],"mail":"{mail}@x.example"}}"#
        )
    };
    let pick = |of: &[&'static str], by: usize| of[(n / by) % of.len()];
    let legacy = body(n, "9.95", "1,2", "a");
    let extracted = body(
        n + n % 2,
        pick(&["9.95", "9.96", "12.00", "\"9.95\""], 1),
        pick(&["1,2", "2,1", "1"], 4),
        pick(&["a", "a", "b"], 2),
    );
    (legacy, extracted)
}

async fn drive(bench: &Bench, requests: usize) -> u64 {
    for n in 0..requests {
        let (legacy, extracted) = answers(n);
        bench.legacy.set(&legacy);
        bench.extracted.set(&extracted);
        bench.client();
        bench.settled().await;
    }
    bench.settled().await.mismatched
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_pairs_are_judged_as_live_ones_are() {
    const REQUESTS: usize = 72;
    let sets: [&[Rule]; 4] = [
        &[],
        &[ignore("$.at", None), ignore("$.mail", None)],
        &[
            within("$.price", Accept::Tolerance("0.1".to_owned())),
            ignore("$.at", None),
            ignore("$.tags", None),
        ],
        &[ignore("$", None)],
    ];
    let mut live = Vec::new();
    for set in sets {
        let bench = bench(set).await;
        let mismatched = drive(&bench, REQUESTS).await;
        live.push((bench, mismatched));
    }
    let mut changes = 0;
    for (bench, today) in &live {
        for (set, (_, expected)) in sets.iter().zip(&live) {
            let changed = Changed {
                config: Some(Comparing {
                    rules: set.to_vec(),
                    arrays: Vec::new(),
                    headers: None,
                }),
                ..Changed::default()
            };
            let found = ask(&bench.shadow, &changed);
            assert!(found.judged.unjudged.is_empty(), "{found:?}");
            assert_eq!(found.judged.pairs, REQUESTS as u64);
            let fewer: u64 = found.would_match.iter().map(|group| group.pairs).sum();
            let more: u64 = found.would_differ.iter().map(|group| group.pairs).sum();
            assert_eq!(today - fewer + more, *expected, "{found:?}");
            changes += fewer + more;
        }
    }
    assert!(changes > 100, "{changes}");
    // Asking has counted nothing.
    let rules = live[1].0.shadow.rules(&shop()).unwrap();
    assert_eq!(rules[0]["hits"], 36);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_a_rule_would_hide_or_show_and_where() {
    let bench = bench(&[ignore("$.at", None), ignore("$.never", None)]).await;
    for n in 0..10 {
        bench.legacy.set(&format!(r#"{{"at":{n},"price":9.95}}"#));
        bench.extracted.set(r#"{"at":-1,"price":9.95}"#);
        bench.client();
        bench.settled().await;
    }
    bench.extracted.set(r#"{"at":-1,"price":9.96}"#);
    for _ in 0..4 {
        bench.client();
        bench.settled().await;
    }
    let changed = Changed {
        add: vec![within("$.price", Accept::Tolerance("0.1".to_owned()))],
        ..Changed::default()
    };
    let found = ask(&bench.shadow, &changed);
    let [group] = found.would_match.as_slice() else {
        panic!("{found:?}");
    };
    let report = bench.shadow.report(&shop()).unwrap();
    assert_eq!(group.cluster.as_ref(), Some(&report.clusters[0].id));
    assert_eq!((group.pairs, group.of), (4, 4));
    assert_eq!(group.rules.iter().collect::<Vec<_>>(), ["$.price"]);
    assert!(found.would_differ.is_empty() && found.changes());
    assert_eq!(found.idle, ["$.never"]);
    assert!(found.score_today.answers > 0);
    assert_eq!(found.score_today.answers, found.score_then.answers);
    let changed = Changed {
        drop: vec!["$.at".to_owned()],
        ..Changed::default()
    };
    let found = ask(&bench.shadow, &changed);
    let [group] = found.would_differ.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!((group.pairs, group.of), (10, Some(10)));
    assert_eq!(group.fields[0].path, "$.at");
    assert_eq!(group.rules.iter().collect::<Vec<_>>(), ["$.at"]);
    assert_eq!(found.judged.excused, (10, 10));
    let pair = bench.shadow.pair(&group.example).unwrap();
    assert_eq!(pair["hidden"][0]["rule"], "$.at");
    // A rule for everything hides every fault.
    let changed = Changed {
        add: vec![ignore("$", None)],
        ..Changed::default()
    };
    let found = ask(&bench.shadow, &changed);
    assert_eq!(found.score_then.caught, 0);
    assert!(found.score_then.faults > 0 && found.score_today.caught > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_pairs_outlive_a_restart_and_what_was_cut_is_not_judged() {
    let bench = bench(&[ignore("$.at", None)]).await;
    bench.legacy.set(r#"{"at":1}"#);
    bench.extracted.set(r#"{"at":2}"#);
    bench.client();
    bench.settled().await;
    let long = "x".repeat(20_000);
    bench.legacy.set(&format!(r#"{{"at":1,"text":"{long}"}}"#));
    bench.client_of(Side::Legacy, &bench.legacy.answer());
    bench.settled().await;
    let again = {
        let mut settings = settings(&[&bench.at_legacy], &[&bench.at_extracted]);
        settings.slices[0].rules = vec![ignore("$.at", None)];
        start(settings, Position::default())
    };
    again.restore(bench.shadow.snapshot()).unwrap();
    assert_eq!(settled(&again).await.matched, 1);
    let changed = Changed {
        drop: vec!["$.at".to_owned()],
        ..Changed::default()
    };
    let found = ask(&again, &changed);
    assert_eq!((found.judged.pairs, found.would_differ.len()), (1, 1));
    assert_eq!(found.judged.unjudged["body beyond 16 KiB"], 1);
    assert!(found.unknown[0].contains("1 of 1 that differ"), "{found:?}");
    // Of a version that kept less, nothing is known and nothing lost.
    let mut old = bench.shadow.snapshot();
    let record = old["shop"]["record"].as_object_mut().unwrap();
    record.remove("witnesses").unwrap();
    again.restore(old).unwrap();
    assert_eq!(ask(&again, &changed).judged.pairs, 0);
}
