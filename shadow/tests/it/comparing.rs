//! What counts as a difference, from the body to the report.

use outgrow_rollout::Side;
use outgrow_shadow::{ArrayBy, ArrayRule, Format, render};
use outgrow_testkit::eventually;

use crate::harness::{Bench, Position, WAIT, header, ignore, ok, shop};

#[tokio::test(flavor = "multi_thread")]
async fn arrays_are_paired_by_their_rules() {
    let bench = Bench::with(Position::default(), &|settings| {
        let rule = |path: &str, by| ArrayRule {
            path: path.to_owned(),
            by,
        };
        settings.slices[0].arrays = vec![
            rule("$.tags", ArrayBy::Set),
            rule("$.items", ArrayBy::Key("id".to_owned())),
        ];
    })
    .await;
    bench
        .legacy
        .set(r#"{"tags":["a","b"],"items":[{"id":1,"n":1},{"id":2,"n":2}]}"#);
    bench
        .extracted
        .set(r#"{"tags":["b","a"],"items":[{"id":1,"n":1},{"id":2,"n":2}]}"#);
    bench.client();
    assert_eq!(bench.settled().await.matched, 1);
    bench
        .extracted
        .set(r#"{"tags":["b","a"],"items":[{"id":0,"n":0},{"id":1,"n":1},{"id":2,"n":3}]}"#);
    bench.client();
    let seen = bench.settled().await;
    let found: Vec<_> = seen
        .top
        .iter()
        .map(|top| (top.path.as_str(), top.kind.as_str()))
        .collect();
    assert_eq!(seen.mismatched, 1);
    assert_eq!(found, [("$.items[*]", "extra"), ("$.items[*].n", "value")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_keep_every_digit_and_null_is_not_absent() {
    let bench = Bench::new().await;
    for (legacy, extracted) in [
        ("9007199254740993", "9007199254740992"),
        ("1.10", "1.1000000000000000000001"),
        ("1", "\"1\""),
        ("null", "0"),
    ] {
        bench.legacy.set(&format!("{{\"n\":{legacy}}}"));
        bench.extracted.set(&format!("{{\"n\":{extracted}}}"));
        let before = bench.settled().await.mismatched;
        bench.client();
        let after = bench.settled().await.mismatched;
        assert_eq!(after, before + 1, "{legacy} is not {extracted}");
    }
    bench.legacy.set(r#"{"n":null}"#);
    bench.extracted.set("{}");
    bench.client();
    let seen = bench.settled().await;
    assert!(
        seen.top.iter().any(|top| top.kind == "missing"),
        "{:?}",
        seen.top
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_legacy_disagrees_about_with_itself_is_noise() {
    let bench = Bench::with(Position::default(), &|settings| {
        settings.slices[0].noise_sample = 1.0;
    })
    .await;
    // Each answer of the legacy side has another request id.
    let legacy = outgrow_testkit::Upstream::start({
        let count = std::sync::atomic::AtomicU64::new(0);
        move |_| {
            let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            async move { crate::harness::ok(&format!("{{\"request\":{n},\"price\":1}}")) }
        }
    })
    .await;
    bench.extracted.set(r#"{"request":-1,"price":1}"#);
    let mut settings = crate::harness::settings(&[&legacy], &[&bench.at_extracted]);
    settings.slices[0].noise_sample = 1.0;
    let shadow = crate::harness::start(settings, Position::default());
    let given = crate::harness::ok(r#"{"request":-2,"price":1}"#);
    // Learnt after some pairs; from then on the field says nothing, and the price still does.
    eventually("the noise to be known", WAIT, || async {
        let before = crate::harness::settled(&shadow).await;
        crate::harness::offer(&shadow, Side::Legacy, &given, http::HeaderMap::new());
        let after = crate::harness::settled(&shadow).await;
        (after.matched > before.matched).then_some(())
    })
    .await;
    let before = crate::harness::settled(&shadow).await.mismatched;
    let wrong = crate::harness::ok(r#"{"request":-3,"price":2}"#);
    crate::harness::offer(&shadow, Side::Legacy, &wrong, http::HeaderMap::new());
    assert_eq!(
        crate::harness::settled(&shadow).await.mismatched,
        before + 1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_hides_what_it_names_until_its_day() {
    for (until, mismatched) in [(Some("2999-01-01"), 0), (Some("2020-01-01"), 1), (None, 0)] {
        let bench = Bench::with(Position::default(), &|settings| {
            settings.slices[0].rules = vec![ignore("$.at", until)];
        })
        .await;
        bench.legacy.set(r#"{"at":1}"#);
        bench.extracted.set(r#"{"at":2}"#);
        bench.client();
        assert_eq!(bench.settled().await.mismatched, mismatched, "{until:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_accepts_within_its_limits_only() {
    let bench = Bench::with(Position::default(), &|settings| {
        settings.slices[0].rules = vec![outgrow_shadow::Rule {
            accept: outgrow_shadow::Accept::Tolerance("0.01".to_owned()),
            ..ignore("$..price", None)
        }];
    })
    .await;
    bench.legacy.set(r#"{"items":[{"price":9.95}]}"#);
    for (extracted, mismatched) in [("9.96", 0), ("9.97", 1), ("\"9.95\"", 2)] {
        bench
            .extracted
            .set(&format!(r#"{{"items":[{{"price":{extracted}}}]}}"#));
        bench.client();
        assert_eq!(bench.settled().await.mismatched, mismatched, "{extracted}");
    }
    let rules = bench.shadow.rules(&shop()).unwrap();
    assert_eq!(
        (&rules[0]["hits"], &rules[0]["state"]),
        (&1.into(), &"active".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_answer_is_compared_with_a_plain_one() {
    use std::io::Write;
    let bench = Bench::new().await;
    for (legacy, against) in [
        (r#"{"id":1,"price":"9.95"}"#, (1, 0)),
        (r#"{"id":1,"price":"9.90"}"#, (1, 1)),
    ] {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(legacy.as_bytes()).unwrap();
        let mut answer = ok("");
        let (name, value) = header("content-encoding", "gzip");
        answer.headers_mut().insert(name, value);
        *answer.body_mut() = gzip.finish().unwrap().into();
        bench.client_of(Side::Legacy, &answer);
        let seen = bench.settled().await;
        assert_eq!((seen.matched, seen.mismatched), against);
    }
    assert_eq!(bench.settled().await.top[0].path, "$.price");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_ignore_everything_catch_no_seeded_fault() {
    for (path, some) in [("$.other", true), ("$", false)] {
        let bench = Bench::with(Position::default(), &|settings| {
            settings.slices[0].rules = vec![ignore(path, None)];
        })
        .await;
        bench.client();
        let seen = bench.settled().await;
        assert_eq!(seen.matched, 1);
        assert!(seen.seeded > 0, "{seen:?}");
        assert_eq!(seen.caught, if some { seen.seeded } else { 0 });
        let rules = bench.shadow.rules(&shop()).unwrap();
        assert_eq!(rules[0]["state"], "unused", "seeded faults are no hits");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_secrets_are_in_no_pair_snapshot_or_report() {
    let bench = Bench::with(Position::default(), &|settings| {
        settings.slices[0].redact = vec!["nick-name".to_owned()];
    })
    .await;
    let body = |password: &str, nick: &str| {
        format!(
            r#"{{"password":"{password}","user":{{"nickName":"{nick}"}},"mail":"m{nick}@x.example","n":1}}"#
        )
    };
    bench.legacy.set(&body("hunter2", "zaphod"));
    bench.extracted.set(&body("hunter3", "trillian"));
    bench.client();
    let seen = bench.settled().await;
    assert_eq!((seen.mismatched, seen.top.len()), (1, 3));
    let report = bench.shadow.report(&shop()).unwrap();
    let mut kept = vec![bench.shadow.snapshot().to_string(), format!("{seen:?}")];
    for format in ["table", "json", "md", "html", "junit"] {
        kept.push(render(&report, format.parse::<Format>().unwrap()).unwrap());
    }
    for text in kept {
        for secret in ["hunter", "zaphod", "trillian"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    let pair = bench.shadow.pair("shop:p0").unwrap();
    assert!(pair["legacy_body"].as_str().unwrap().ends_with(r#""n":1}"#));
    let curl = pair["curl"][0].as_str().unwrap();
    assert!(curl.starts_with("curl -sS -i 'http://127.0.0.1:"), "{curl}");
}

#[tokio::test(flavor = "multi_thread")]
async fn renamed_ids_pass_and_a_swapped_one_fails() {
    let bench = Bench::with(Position::default(), &|settings| {
        settings.slices[0].rules = vec![outgrow_shadow::Rule {
            accept: outgrow_shadow::Accept::Renamed,
            ..ignore("$..id", None)
        }];
    })
    .await;
    let list = |a: &str, b: &str| format!(r#"[{{"id":{a},"n":1}},{{"id":{b},"n":2}}]"#);
    for (legacy, extracted, against) in [
        (list("1", "2"), list("\"x\"", "\"y\""), (1, 0)),
        (list("2", "3"), list("\"y\"", "\"z\""), (2, 0)),
        (list("1", "3"), list("\"z\"", "\"x\""), (2, 1)),
    ] {
        bench.legacy.set(&legacy);
        bench.extracted.set(&extracted);
        bench.client();
        let seen = bench.settled().await;
        assert_eq!(
            (seen.matched, seen.mismatched),
            against,
            "{legacy} {extracted}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_report_names_the_field_and_an_example_that_can_be_asked_for() {
    let bench = Bench::new().await;
    bench.extracted.set(r#"{"id":1,"price":"</script><b>"}"#);
    bench.client();
    let seen = bench.settled().await;
    let id = seen.top[0].example.clone().unwrap();
    assert_eq!(id, "shop:p0");
    let pair = bench.shadow.pair(&id).unwrap();
    assert_eq!(pair["request"], "GET /api/products/1");
    assert!(bench.shadow.pair("other:p0").is_none() && bench.shadow.pair("p0").is_none());
    let report = bench.shadow.report(&shop()).unwrap();
    for format in ["table", "json", "md", "html"] {
        let text = render(&report, format.parse::<Format>().unwrap()).unwrap();
        assert!(text.contains("$.price"), "{format}");
        // Inside of a fence text is text.
        let outside: String = text.split("```").step_by(2).collect();
        assert!(
            format == "json" || format == "table" || !outside.contains("</script><b>"),
            "{format}"
        );
    }
}
