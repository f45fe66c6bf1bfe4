//! What the gates say, table by table.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::bypass::{BypassEvidence, Bypassed, NO_SLICE};
use crate::evidence::{
    Builds, ClassEvidence, FieldDifference, ProxyEvidence, SideCounts, SyncEvidence, TableRows,
};
use crate::ids::{BuildId, Side, Weight};
use crate::state::DataPhase;

fn shadow() -> ShadowEvidence {
    ShadowEvidence {
        builds: Builds {
            legacy: BuildId("monolith-1".to_owned()),
            extracted: BuildId("catalog-1".to_owned()),
        },
        eligible: 5_000,
        sampled_out: 0,
        shed: 0,
        ineligible: 0,
        waiting: 0,
        matched: 5_000,
        mismatched: 0,
        candidate_errors: 0,
        not_comparable: 0,
        classes: BTreeMap::from([(
            "GET /api/products 2xx".to_owned(),
            ClassEvidence {
                compared: 5_000,
                against: 0,
            },
        )]),
        top: Vec::new(),
        excused: 0,
        faults: Vec::new(),
        seeded: 100,
        caught: 90,
        stopped: BTreeMap::new(),
    }
}

fn sync() -> SyncEvidence {
    SyncEvidence {
        source: Side::Legacy,
        copied_rows: 10,
        total_rows: 10,
        applied_rows: 0,
        copied: true,
        lag_ms: Some(20),
        reverse_lag_ms: Some(20),
        backlog: 0,
        backlog_bytes: 0,
        parked: 0,
        conflicts: 0,
        foreign_writes: 0,
        foreign_write_age_ms: None,
        foreign_between_ms: None,
        last_foreign: None,
        verified: Some(BTreeMap::from([(
            "products".to_owned(),
            TableRows {
                legacy: 10,
                extracted: 10,
                different: 0,
            },
        )])),
        verified_age_ms: Some(1_000),
        log_kept_bytes: BTreeMap::new(),
        log_limit_bytes: 0,
        noted_bytes: BTreeMap::new(),
        noted_limit_bytes: 0,
        load: BTreeMap::new(),
    }
}

/// Evidence with which every step is allowed.
fn good() -> Evidence {
    let side = SideCounts {
        requests: 10_000,
        errors: 0,
        p99_us: Some(10_000),
    };
    Evidence {
        shadow: Some(shadow()),
        sync: Some(sync()),
        proxy: Some(ProxyEvidence {
            legacy: side,
            extracted: side,
        }),
        in_stage_ms: 40 * 86_400_000,
        extracted_in_stage: 10_000,
        bypass: None,
    }
}

fn state(traffic: Traffic) -> SliceState {
    let mut state = SliceState::new(true);
    state.traffic = traffic;
    if let Some(link) = &mut state.data {
        link.phase = DataPhase::Following;
    }
    state
}

fn before(step: Step) -> SliceState {
    state(match step {
        Step::Sync | Step::Shadow => Traffic::Legacy,
        Step::Canary(weight) if weight.basis_points() == 100 => Traffic::Shadow,
        Step::Canary(_) => Traffic::Canary(weight("1")),
        Step::Extracted => Traffic::Canary(Weight::FULL),
        Step::Cutover | Step::Retire => Traffic::Extracted,
    })
}

fn weight(percent: &str) -> Weight {
    Weight::from_percent(percent).expect("a weight")
}

fn ask(step: Step, state: &SliceState, evidence: &Evidence, plan: &Plan) -> Vec<GateResult> {
    gates(&Asked {
        slice: &SliceId::new("catalog").expect("a name"),
        step,
        state,
        evidence,
        plan,
        approved: &[],
    })
}

#[test]
fn good_evidence_meets_every_gate() {
    let plan = Plan::default();
    for step in plan.steps(true) {
        let all = ask(step, &before(step), &good(), &plan);
        assert_eq!(answer(&all), Answer::Met, "{step}: {all:#?}");
        assert!(all.iter().all(|gate| gate.hint.is_empty()));
    }
}

#[test]
fn no_evidence_is_missing_never_failing_nor_met() {
    let plan = Plan::default();
    for step in plan.steps(true).into_iter().skip(1) {
        let all = ask(step, &before(step), &Evidence::default(), &plan);
        assert_eq!(answer(&all), Answer::Inconclusive, "{step}: {all:#?}");
        assert!(all.iter().all(|gate| gate.ok || !gate.hint.is_empty()));
    }
}

#[test]
fn a_canary_that_no_client_is_in_says_that_a_share_is_one_of_clients() {
    let plan = Plan::default();
    let hint_at = |share: &str| {
        let evidence = Evidence {
            proxy: None,
            ..good()
        };
        let state = state(Traffic::Canary(weight(share)));
        let all = ask(Step::Extracted, &state, &evidence, &plan);
        let errors = all.into_iter().find(|gate| gate.name == "errors");
        errors.expect("the gate").hint
    };
    assert!(hint_at("5").contains("none of the clients that came is among the 5%"));
    assert!(hint_at("5").contains("higher share"));
    assert!(!hint_at("100").contains("clients"));
}

enum Expected {
    Fails,
    Missing,
}

/// Spoils one thing and expects exactly the one gate to say so.
#[track_caller]
fn check(step: Step, name: &str, expected: &Expected, hint: &str, spoil: impl Fn(&mut Evidence)) {
    let plan = Plan::default();
    let mut evidence = good();
    spoil(&mut evidence);
    let all = ask(step, &before(step), &evidence, &plan);
    let refused: Vec<&GateResult> = all.iter().filter(|gate| !gate.ok).collect();
    let names: Vec<&str> = refused.iter().map(|gate| gate.name.as_str()).collect();
    assert_eq!(names, [name], "{all:#?}");
    assert_eq!(
        refused[0].missing,
        matches!(expected, Expected::Missing),
        "{refused:#?}"
    );
    assert!(refused[0].hint.contains(hint), "{}", refused[0].hint);
}

const FIRST: Step = Step::Extracted;

#[test]
fn a_known_difference_fails_and_is_named() {
    let expected = "`$.price` of `GET /api/products/{id}` differs (value, 40 times): \
                    legacy \"12.90\", extracted \"12.9\"; see `outgrow shadow show p-7`";
    check(
        FIRST,
        "mismatch rate",
        &Expected::Fails,
        expected,
        |evidence| {
            let shadow = evidence.shadow.as_mut().expect("is there");
            shadow.mismatched = 40;
            shadow.top = vec![FieldDifference {
                route: "GET /api/products/{id}".to_owned(),
                path: "$.price".to_owned(),
                kind: "value".to_owned(),
                count: 40,
                example: Some("p-7".to_owned()),
                legacy: "\"12.90\"".to_owned(),
                extracted: "\"12.9\"".to_owned(),
            }];
        },
    );
}

#[test]
fn a_fault_that_hides_among_noise_fails() {
    check(
        FIRST,
        "mismatch rate",
        &Expected::Fails,
        "`GET /x $.rank` differs from legacy more often than legacy from itself (60 times",
        |evidence| {
            let counts = crate::paired::Paired {
                worse: 60,
                better: 11,
            };
            let field = "GET /x $.rank".to_owned();
            let shadow = evidence.shadow.as_mut().expect("is there");
            shadow.faults = vec![crate::evidence::FieldFault { field, counts }];
        },
    );
}

#[test]
fn rules_that_hide_faults_fail() {
    let expected = "the rules hide too much";
    check(FIRST, "rules", &Expected::Fails, expected, |evidence| {
        evidence.shadow.as_mut().expect("is there").caught = 0;
    });
}

#[test]
fn a_dead_candidate_fails() {
    check(
        FIRST,
        "mismatch rate",
        &Expected::Fails,
        "answers failed",
        |evidence| {
            let shadow = evidence.shadow.as_mut().expect("is there");
            (shadow.matched, shadow.candidate_errors) = (0, 5_000);
        },
    );
}

#[test]
fn too_few_pairs_are_missing_and_counted() {
    check(
        FIRST,
        "mismatch rate",
        &Expected::Missing,
        "3,104 more pairs",
        |evidence| {
            evidence.shadow.as_mut().expect("is there").matched = 1_000;
        },
    );
}

#[test]
fn an_uncovered_route_is_named() {
    check(
        FIRST,
        "coverage",
        &Expected::Missing,
        "`PUT /x 4xx`",
        |evidence| {
            let rare = ClassEvidence {
                compared: 3,
                against: 0,
            };
            let shadow = evidence.shadow.as_mut().expect("is there");
            shadow.classes.insert("PUT /x 4xx".to_owned(), rare);
        },
    );
}

#[test]
fn time_and_requests_are_waited_for() {
    check(
        FIRST,
        "hold time",
        &Expected::Missing,
        "wait 9 min",
        |evidence| {
            evidence.in_stage_ms = 60_000;
        },
    );
    check(
        FIRST,
        "requests in step",
        &Expected::Missing,
        "900 more",
        |evidence| {
            evidence.extracted_in_stage = 100;
        },
    );
    let first = Step::Canary(weight("1"));
    check(
        first,
        "hold time",
        &Expected::Missing,
        "wait 23 h",
        |evidence| {
            evidence.in_stage_ms = 3_600_000;
        },
    );
}

#[test]
fn errors_are_judged_against_legacy() {
    fn proxy(evidence: &mut Evidence) -> &mut ProxyEvidence {
        evidence.proxy.as_mut().expect("is there")
    }
    check(
        FIRST,
        "errors",
        &Expected::Fails,
        "route rollback catalog",
        |evidence| {
            proxy(evidence).extracted.errors = 200;
        },
    );
    check(FIRST, "errors", &Expected::Missing, "", |evidence| {
        let extracted = &mut proxy(evidence).extracted;
        (extracted.requests, extracted.errors) = (20, 1);
    });
    let mut both = good();
    proxy(&mut both).extracted.errors = 200;
    proxy(&mut both).legacy.errors = 150;
    let all = ask(FIRST, &before(FIRST), &both, &Plan::default());
    assert_eq!(answer(&all), Answer::Met);
}

#[test]
fn slowness_fails_only_against_a_faster_legacy() {
    check(FIRST, "latency", &Expected::Fails, "slower", |evidence| {
        evidence.proxy.as_mut().expect("is there").extracted.p99_us = Some(31_000);
    });
    check(
        FIRST,
        "latency",
        &Expected::Missing,
        "too little",
        |evidence| {
            evidence.proxy.as_mut().expect("is there").extracted.p99_us = None;
        },
    );
    // The slowest of a few.
    let few = "unless 99 requests in this step are too few";
    check(FIRST, "latency", &Expected::Missing, few, |evidence| {
        let extracted = &mut evidence.proxy.as_mut().expect("is there").extracted;
        (extracted.requests, extracted.p99_us) = (99, Some(31_000));
    });
    let mut alone = good();
    alone.proxy.as_mut().expect("is there").legacy.p99_us = None;
    let all = ask(FIRST, &before(FIRST), &alone, &Plan::default());
    assert_eq!(answer(&all), Answer::Met);
}

fn link(evidence: &mut Evidence) -> &mut SyncEvidence {
    evidence.sync.as_mut().expect("is there")
}

#[test]
fn the_link_is_judged() {
    check(
        Step::Shadow,
        "rows copied",
        &Expected::Missing,
        "sync status",
        |e| {
            link(e).copied = false;
        },
    );
    check(
        Step::Cutover,
        "lag",
        &Expected::Missing,
        "legacy to extracted",
        |e| {
            link(e).lag_ms = Some(1_001);
        },
    );
    check(
        Step::Cutover,
        "lag",
        &Expected::Missing,
        "no heartbeat",
        |e| link(e).lag_ms = None,
    );
    check(
        Step::Cutover,
        "reverse path",
        &Expected::Missing,
        "extracted to legacy",
        |e| {
            link(e).reverse_lag_ms = None;
        },
    );
    check(
        Step::Cutover,
        "link",
        &Expected::Fails,
        "sync conflicts",
        |e| link(e).parked = 2,
    );
    check(
        Step::Cutover,
        "link",
        &Expected::Fails,
        "sync settle",
        |e| link(e).conflicts = 1,
    );
}

#[test]
fn rows_and_foreign_writes_are_judged() {
    check(
        Step::Cutover,
        "rows verified",
        &Expected::Missing,
        "runs",
        |e| {
            link(e).verified = None;
        },
    );
    check(
        Step::Cutover,
        "rows verified",
        &Expected::Missing,
        "too old",
        |e| {
            link(e).verified_age_ms = Some(4_000_000);
        },
    );
    check(
        Step::Cutover,
        "rows verified",
        &Expected::Fails,
        "`products` differs",
        |e| {
            let rows = TableRows {
                legacy: 10,
                extracted: 9,
                different: 1,
            };
            link(e).verified = Some(BTreeMap::from([("products".to_owned(), rows)]));
        },
    );
    check(
        Step::Retire,
        "foreign writes",
        &Expected::Fails,
        "row 7 by cron",
        |e| {
            link(e).foreign_writes = 1;
            link(e).foreign_write_age_ms = Some(60_000);
            link(e).last_foreign = Some("row 7 by cron".to_owned());
        },
    );
}

#[test]
fn a_foreign_write_long_ago_is_forgiven_and_silence_needs_time() {
    let plan = Plan {
        soak: Duration::ZERO,
        ..Plan::default()
    };
    let mut evidence = good();
    let link = evidence.sync.as_mut().expect("is there");
    link.foreign_writes = 1;
    link.foreign_write_age_ms = Some(8 * 86_400_000);
    let all = ask(Step::Retire, &before(Step::Retire), &evidence, &plan);
    assert_eq!(answer(&all), Answer::Met);
    let mut evidence = good();
    evidence.in_stage_ms = 1_000;
    let all = ask(Step::Retire, &before(Step::Retire), &evidence, &plan);
    assert_eq!(answer(&all), Answer::Inconclusive);
}

#[test]
fn a_paused_link_refuses() {
    let mut paused = before(Step::Cutover);
    paused.data.as_mut().expect("has tables").paused = Some("maintenance".to_owned());
    let all = ask(Step::Cutover, &paused, &good(), &Plan::default());
    let refused = all.iter().find(|gate| !gate.ok).expect("one refuses");
    assert_eq!(
        (refused.name.as_str(), refused.value.as_str()),
        ("link", "paused: maintenance")
    );
}

#[test]
fn a_planned_approval_is_asked_for() {
    let plan = Plan {
        approvals: vec!["cutover".to_owned()],
        ..Plan::default()
    };
    let (state, evidence) = (before(Step::Cutover), good());
    let slice = SliceId::new("catalog").expect("a name");
    let approved = ["cutover".to_owned()];
    let mut asked = Asked {
        slice: &slice,
        step: Step::Cutover,
        state: &state,
        evidence: &evidence,
        plan: &plan,
        approved: &[],
    };
    assert_eq!(answer(&gates(&asked)), Answer::Failing);
    asked.approved = &approved;
    assert_eq!(answer(&gates(&asked)), Answer::Met);
}

#[test]
fn writes_past_the_proxy_are_a_gate_where_that_is_asked_for() {
    let day = 86_400_000;
    let seen = |watched_ms, last_age_ms: Option<u64>| BypassEvidence {
        watched_ms,
        judged: 1_000,
        rows: 3,
        last: last_age_ms.map(|_| Bypassed {
            row: "legacy `orders` key 7 (U)".to_owned(),
            at_ms: 5,
            others: BTreeSet::from([NO_SLICE.to_owned()]),
        }),
        last_age_ms,
    };
    let asked = |bypass: Watched, seen: Option<BypassEvidence>| {
        let plan = Plan {
            bypass,
            ..Plan::default()
        };
        let evidence = Evidence {
            bypass: seen,
            ..good()
        };
        let all = ask(Step::Cutover, &before(Step::Cutover), &evidence, &plan);
        let own = all.iter().find(|gate| gate.name == "writes past the proxy");
        (answer(&all), own.cloned())
    };
    assert_eq!(
        asked(Watched::Note, Some(seen(day, Some(1)))),
        (Answer::Met, None)
    );
    assert_eq!(asked(Watched::Gate, None).0, Answer::Inconclusive);
    assert_eq!(
        asked(Watched::Gate, Some(seen(day, None))).0,
        Answer::Inconclusive
    );
    assert_eq!(
        asked(Watched::Gate, Some(seen(8 * day, None))).0,
        Answer::Met
    );
    assert_eq!(
        asked(Watched::Gate, Some(seen(90 * day, Some(7 * day)))).0,
        Answer::Met
    );
    let (answer, gate) = asked(Watched::Gate, Some(seen(90 * day, Some(day))));
    let gate = gate.expect("the gate");
    assert_eq!(
        (answer, gate.value.as_str()),
        (Answer::Failing, "3, the last 1 d ago")
    );
    let told = [
        "`orders` key 7",
        "a request of no slice",
        "outgrow journal --slice catalog",
    ];
    assert!(
        told.iter().all(|what| gate.hint.contains(what)),
        "{}",
        gate.hint
    );
}
