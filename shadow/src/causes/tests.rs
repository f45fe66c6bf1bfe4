//! Causes of bugs that are known, and none where there is nothing to go by.

use super::*;

fn sample(features: &[(Part, &str, &str)]) -> Sample {
    let one = |(part, name, value): &(Part, &str, &str)| {
        Feature::new(*part, name, Some((*value).to_owned()))
    };
    Sample {
        features: features.iter().map(one).collect(),
        symptoms: Vec::new(),
    }
}

fn causes(failing: &[Sample], passing: &[Sample]) -> Vec<String> {
    let found = explain(failing, &passing.iter().collect::<Vec<_>>());
    let text = |cause: &Cause| {
        let traits: Vec<String> = cause.traits.iter().map(ToString::to_string).collect();
        format!(
            "{} ({}/{}, {}/{})",
            traits.join(" and "),
            cause.failing.0,
            cause.failing.1,
            cause.passing.0,
            cause.passing.1
        )
    };
    found.iter().map(text).collect()
}

/// Requests of a shop; the number decides on what they have.
fn request(n: usize) -> Sample {
    let pick = |all: &[&'static str], by: usize| all[(n / by) % all.len()];
    let (id, limit, one_more) = (n.to_string(), (n % 97).to_string(), n.is_multiple_of(13));
    let mut features = vec![
        (Part::Method, "", "GET"),
        (
            Part::Query,
            "currency",
            pick(&["EUR", "USD", "JPY", "GBP"], 1),
        ),
        (
            Part::Header,
            "accept-language",
            pick(&["de", "en", "fr"], 4),
        ),
        (Part::Path, "id", id.as_str()),
        (Part::Query, "limit", limit.as_str()),
    ];
    if one_more {
        features.push((Part::Cookie, "beta", "1"));
    }
    sample(&features)
}

/// The causes that are found of a bug which these requests show.
fn of_bug(shows: impl Fn(&Sample, usize) -> bool) -> Vec<String> {
    let (mut failing, mut passing) = (Vec::new(), Vec::new());
    for n in 0..300 {
        let request = request(n);
        match shows(&request, n) {
            true => failing.push(request),
            false => passing.push(request),
        }
    }
    failing.truncate(40);
    passing.truncate(200);
    causes(&failing, &passing)
}

fn has(sample: &Sample, value: &str) -> bool {
    let mut all = sample.features.iter();
    all.any(|feature| feature.value.as_deref() == Some(value))
}

#[test]
fn the_separating_feature_is_found() {
    for (shows, expected) in [
        ("JPY", "query currency=JPY (40/40, 0/200)"),
        ("de", "header accept-language=de (40/40, 0/200)"),
    ] {
        assert_eq!(of_bug(|request, _| has(request, shows)), [expected]);
    }
    let beta = of_bug(|request, _| has(request, "1") && request.features.len() == 6);
    assert_eq!(beta, ["cookie beta=1 (24/24, 0/200)"]);
    let lacks = of_bug(|request, n| !n.is_multiple_of(13) && has(request, "JPY"));
    assert_eq!(lacks.len(), 1, "{lacks:?}");
    assert!(lacks[0].starts_with("query currency=JPY"), "{lacks:?}");
    let large = of_bug(|_, n| n % 97 > 80);
    assert_eq!(large, ["query limit >= 81 (40/40, 0/200)"]);
}

#[test]
fn two_causes_of_one_difference_are_told_apart() {
    let found = of_bug(|request, _| has(request, "JPY") || has(request, "fr"));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found
            .iter()
            .any(|text| text.starts_with("query currency=JPY ("))
    );
    assert!(
        found
            .iter()
            .any(|text| text.starts_with("header accept-language=fr ("))
    );
    let both = of_bug(|request, _| has(request, "JPY") && has(request, "fr"));
    assert_eq!(
        both,
        ["query currency=JPY and header accept-language=fr (25/25, 0/200)"]
    );
}

#[test]
fn a_bound_is_not_drawn_to_what_fails_for_another_reason() {
    let request = |currency, limit: usize| {
        let limit = limit.to_string();
        sample(&[
            (Part::Query, "currency", currency),
            (Part::Query, "limit", &limit),
        ])
    };
    // The largest limit that passed is 97; in CHF, two below 100 have failed.
    let in_francs = (0..20)
        .map(|n| request("CHF", n))
        .chain([98, 99].map(|n| request("CHF", n)));
    let large = (100..125).map(|n| request("EUR", n));
    let failing: Vec<Sample> = in_francs.chain(large).collect();
    let passing: Vec<Sample> = (0..98).map(|n| request("EUR", n)).collect();
    assert_eq!(
        causes(&failing, &passing),
        [
            "query limit >= 100 (25/47, 0/98)",
            "query currency=CHF (22/22, 0/98)"
        ]
    );
}

#[test]
fn without_enough_to_go_by_no_cause_is_named() {
    let by_chance = of_bug(|_, n| xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes()).is_multiple_of(5));
    assert_eq!(by_chance, [" (40/40, 200/200)"]);
    let one = [request(2)];
    let others: Vec<Sample> = (3..100).map(request).collect();
    assert_eq!(causes(&one, &others), [" (1/1, 97/97)"]);
    let all: Vec<Sample> = (0..30).map(request).collect();
    assert_eq!(causes(&all, &[]), [" (30/30, 0/0)"]);
}
