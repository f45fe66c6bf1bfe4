//! What is said of stored pairs, and what is not said of them.

use outgrow_rollout::SliceId;
use time::macros::date;

use super::*;
use crate::redact::Redactor;
use crate::settings::Accept;
use crate::stored::keep;

const TODAY: Date = date!(2026 - 11 - 21);
/// The day before.
const AT: i64 = 1_795_132_800;

fn settings() -> SliceShadow {
    SliceShadow {
        id: SliceId::new("shop").unwrap(),
        legacy: std::iter::empty().collect(),
        extracted: std::iter::empty().collect(),
        sandbox: std::iter::empty().collect(),
        rewrites: crate::Rewrites::default(),
        sample: 1.0,
        flow: crate::settings::Flow::default(),
        noise_sample: 0.0,
        rules: Vec::new(),
        arrays: Vec::new(),
        headers: None,
        redact: Vec::new(),
        keep: std::time::Duration::from_hours(1),
        mismatch_max: 0.001,
    }
}

fn rule(path: &str, accept: Accept) -> Rule {
    Rule {
        path: path.to_owned(),
        reason: "a test".to_owned(),
        until: None,
        owner: None,
        accept,
    }
}

fn json(body: &str) -> Answer {
    let mut headers = http::HeaderMap::new();
    let kind = http::HeaderValue::from_static("application/json");
    headers.insert("content-type", kind);
    Answer {
        status: http::StatusCode::OK,
        headers,
        body: bytes::Bytes::copy_from_slice(body.as_bytes()),
        trailers: http::HeaderMap::new(),
    }
}

/// Books a pair as it is booked live.
fn book(record: &mut Record, rules: &Rules, legacy: &str, extracted: &str) {
    let redactor = Redactor::new(&[]).unwrap();
    let watched = rules.watched(false);
    let by = By {
        headers: None,
        rules: &watched,
        body_cap: 1 << 20,
        today: TODAY,
    };
    let (ours, theirs) = (json(legacy), json(extracted));
    let found = compare(&ours, &theirs, by).unwrap();
    let hidden = watched.hidden();
    let (legacy_body, legacy_head) = keep(&ours, None, &redactor, 1 << 20);
    let (extracted_body, extracted_head) = keep(&theirs, None, &redactor, 1 << 20);
    let pair = Pair {
        at: AT,
        extracted_status: Some(200),
        legacy_body,
        extracted_body,
        legacy_head: Some(legacy_head),
        extracted_head: Some(extracted_head),
        differences: found.iter().map(crate::seen::Shown::of).collect(),
        ..*crate::record::tests::pair()
    };
    if found.is_empty() {
        record.matched += 1;
        if let Some(id) = record.draw_witness("GET /x", &hidden, 100) {
            record.keep_witness(Pair { id, hidden, ..pair });
        }
    } else {
        record.mismatched += 1;
        record.differ("GET /x", &found, Pair { hidden, ..pair }, 100);
    }
}

fn asked(record: &Record, rules: &Rules, changed: Changed) -> WhatIf {
    ask(&settings(), rules, record, changed, TODAY).unwrap()
}

fn add(path: &str, accept: Accept) -> Changed {
    Changed {
        add: vec![rule(path, accept)],
        ..Changed::default()
    }
}

#[test]
fn a_value_that_is_a_token_is_never_guessed_at() {
    let (mut record, rules) = (Record::of(&settings().id), Rules::default());
    book(
        &mut record,
        &rules,
        r#"{"mail":"a@b.example"}"#,
        r#"{"mail":"c@b.example"}"#,
    );
    let format = Accept::Format(crate::settings::Known::Email);
    let found = asked(&record, &rules, add("$.mail", format));
    assert_eq!((found.judged.pairs, found.would_match.len()), (0, 0));
    let why = found.judged.unjudged.keys().next().unwrap();
    assert!(why.contains("token"), "{why}");
    // That it differs is known, and a rule that looks no closer hides it.
    let found = asked(&record, &rules, add("$.mail", Accept::Any));
    assert_eq!((found.judged.pairs, found.would_match.len()), (1, 1));
    let found = asked(&record, &rules, add("$.other", Accept::Any));
    assert_eq!((found.judged.as_today, found.idle.len()), (1, 1));
}

#[test]
fn what_would_not_be_judged_as_it_was_is_not_judged_at_all() {
    let rules = Rules::new(&[rule("$.pin", Accept::Any)], &[]).unwrap();
    let mut record = Record::of(&settings().id);
    // Equal, but not as tokens: 1 and 1.0.
    book(&mut record, &rules, r#"{"pin":1}"#, r#"{"pin":1.0}"#);
    let drop = Changed {
        drop: vec!["$.pin".to_owned()],
        ..Changed::default()
    };
    let found = asked(&record, &rules, drop);
    assert_eq!(found.judged.pairs, 0);
    assert!(found.would_differ.is_empty());
    assert_eq!(found.judged.unjudged.values().sum::<u64>(), 1);
}

#[test]
fn pairs_of_an_older_version_and_a_dead_candidate_are_counted_apart() {
    let (mut record, rules) = (Record::of(&settings().id), Rules::default());
    book(&mut record, &rules, r#"{"a":1}"#, r#"{"a":2}"#);
    let (id, old) = record.pairs.pop_first().unwrap();
    let mut text = serde_json::to_value(&*old).unwrap();
    let fields = text.as_object_mut().unwrap();
    for name in ["legacy_head", "extracted_head", "hidden", "noisy"] {
        fields.remove(name).unwrap();
    }
    let old: Pair = serde_json::from_value(text).unwrap();
    let dead = Pair {
        id: "shop:p9".to_owned(),
        extracted_status: None,
        ..old.clone()
    };
    record.pairs.insert(id, old.into());
    record.pairs.insert(dead.id.clone(), dead.into());
    let found = asked(&record, &rules, add("$", Accept::Any));
    assert_eq!((found.judged.pairs, found.judged.failed), (0, 1));
    assert_eq!(found.judged.unjudged["stored by an older version"], 1);
    assert!(!found.changes());
}

#[test]
fn a_rule_that_has_ended_since_is_one_change_less() {
    let mut ended = rule("$.a", Accept::Any);
    ended.until = Some("2026-11-21".to_owned());
    let mut book_day = ended.clone();
    book_day.until = Some("2026-11-22".to_owned());
    let mut record = Record::of(&settings().id);
    let live = Rules::new(&[book_day], &[]).unwrap();
    book(&mut record, &live, r#"{"a":1}"#, r#"{"a":2}"#);
    // The same rule, whose day has come: the pair differs today, whatever is changed.
    let rules = Rules::new(&[ended], &[]).unwrap();
    let found = asked(&record, &rules, add("$.b", Accept::Any));
    assert_eq!((found.judged.pairs, found.judged.as_today), (1, 1));
    let found = asked(&record, &rules, add("$.a", Accept::Type));
    assert_eq!(found.would_match.len(), 1);
}

#[test]
fn ids_go_on_from_what_is_known() {
    let renamed = rule("$.id", Accept::RenamedAs("order".to_owned()));
    let rules = Rules::new(std::slice::from_ref(&renamed), &[]).unwrap();
    let mut record = Record::of(&settings().id);
    book(&mut record, &rules, r#"{"id":1}"#, r#"{"id":"a"}"#);
    book(
        &mut record,
        &rules,
        r#"{"id":2,"by":1}"#,
        r#"{"id":"b","by":"a"}"#,
    );
    let found = asked(&record, &rules, add("$.by", renamed.accept.clone()));
    assert_eq!(
        (found.would_match.len(), found.would_match[0].pairs),
        (1, 1)
    );
    assert!(!found.unknown.iter().any(|line| line.contains("renamed")));
    let new = Accept::RenamedAs("customer".to_owned());
    let found = asked(&record, &rules, add("$.by", new));
    assert!(found.unknown.iter().any(|line| line.contains("renamed")));
}

#[test]
fn ids_are_judged_again_as_they_were_whoever_has_answered() {
    let renamed = rule("$.id", Accept::RenamedAs("order".to_owned()));
    let rules = Rules::new(&[renamed], &[]).unwrap();
    let mut record = Record::of(&settings().id);
    let body = |id: &str| format!(r#"{{"id":"{id}","n":1}}"#);
    // The latter two are each one that stands for another one.
    for (legacy, extracted) in [("x", "a"), ("y", "y"), ("a", "a"), ("y", "z")] {
        book(&mut record, &rules, &body(legacy), &body(extracted));
    }
    assert_eq!((record.matched, record.mismatched), (2, 2));
    // Of a store of its own, where the same ids are others.
    let apart = rules.of(Book::Sandbox);
    book(&mut record, &apart, &body("x"), &body("s"));
    for pair in record.witnesses.pairs.values_mut() {
        if pair.extracted_body.contains('s') {
            std::sync::Arc::make_mut(pair).book = Book::Sandbox;
        }
    }
    let found = asked(&record, &rules, Changed::default());
    assert_eq!(
        (found.judged.pairs, found.judged.as_today),
        (5, 5),
        "{:?}",
        found.judged.unjudged
    );
    // A fault in an id is one that the rule sees, for the right one is known.
    assert_eq!(found.score_today.answers, 3);
    assert_eq!(found.score_today.caught, found.score_today.faults);
    // What is kept as a token only is not guessed at, and is the same as itself.
    let mails = Rules::new(&[rule("$.mail", Accept::Renamed)], &[]).unwrap();
    let mut record = Record::of(&settings().id);
    let body = r#"{"mail":"a@b.example","n":1}"#;
    book(&mut record, &mails, body, body);
    let found = asked(&record, &mails, Changed::default());
    assert_eq!((found.judged.pairs, found.judged.unjudged.len()), (0, 1));
    assert!(found.score_today.faults > 0);
}

#[test]
fn a_rule_that_is_not_there_cannot_be_dropped_and_a_header_that_is_not_kept_is_named() {
    let rules = Rules::new(&[rule("$.a", Accept::Any)], &[]).unwrap();
    let record = Record::of(&settings().id);
    let drop = Changed {
        drop: vec!["$.b".to_owned()],
        ..Changed::default()
    };
    let error = ask(&settings(), &rules, &record, drop, TODAY).unwrap_err();
    assert!(error.to_string().contains("$.a"), "{error}");
    let config = Comparing {
        rules: Vec::new(),
        arrays: Vec::new(),
        headers: Some(vec!["x-total".to_owned(), "ETag".to_owned()]),
    };
    let found = asked(
        &record,
        &rules,
        Changed {
            config: Some(config),
            ..Changed::default()
        },
    );
    assert_eq!((found.rules_today, found.rules_then), (1, 0));
    let named: Vec<&String> = found
        .unknown
        .iter()
        .filter(|l| l.contains("header"))
        .collect();
    assert!(
        named.len() == 1 && named[0].contains("x-total"),
        "{named:?}"
    );
}
