//! What each side is sent in place of what its client sent.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use outgrow_rollout::Side;
use outgrow_shadow::{
    Cookies, Limits, Pace, Pass, Query, Recording, ReplaySettings, Rewrite, Rewrites, head, replay,
};
use outgrow_testkit::{Seen, Upstream};

use crate::harness::{Bench, Position, header, offer, ok, settings};

const TOKEN: &str = "Bearer the-own-token-of-the-shadow";

fn rewrites() -> Rewrites {
    let mut token = HeaderValue::from_static(TOKEN);
    token.set_sensitive(true);
    let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    Rewrites {
        legacy: Rewrite {
            remove: vec![HeaderName::from_static("x-debug")],
            ..Rewrite::usual(Side::Legacy)
        },
        extracted: Rewrite {
            set: vec![(AUTHORIZATION, token)],
            cookies: Cookies {
                pass: Pass::These(vec!["theme".to_owned()]),
                rename: vec![pair("sid", "session")],
                ..Cookies::default()
            },
            query: Query {
                rename: vec![pair("q", "search")],
                set: vec![pair("v", "2")],
                ..Query::default()
            },
            ..Rewrite::usual(Side::Extracted)
        },
    }
}

fn said<'a>(seen: &'a Seen, name: &str) -> &'a str {
    seen.header(name).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_side_is_asked_as_it_wants_and_reports_say_what_the_client_asked() {
    let bench = Bench::with(Position::default(), &|settings| {
        settings.slices[0].rewrites = rewrites();
        settings.slices[0].noise_sample = 1.0;
    })
    .await;
    bench.extracted.set("[]");
    let fields = HeaderMap::from_iter([
        header("authorization", "Bearer of-the-client"),
        header("cookie", "sid=s3cret; theme=dark; other=1"),
        header("x-debug", "1"),
    ]);
    offer(&bench.shadow, Side::Legacy, &bench.legacy.answer(), fields);
    assert_eq!(bench.settled().await.mismatched, 1);
    let (legacy, extracted) = (bench.at_legacy.seen(), bench.at_extracted.seen());
    let (legacy, extracted) = (&legacy[0], &extracted[0]);
    assert_eq!(legacy.target, "/api/products/1");
    assert_eq!(extracted.target, "/api/products/1?v=2");
    assert_eq!(said(legacy, "cookie"), "sid=s3cret; theme=dark; other=1");
    assert_eq!(said(extracted, "cookie"), "session=s3cret; theme=dark");
    assert_eq!(said(legacy, "authorization"), "Bearer of-the-client");
    assert_eq!(said(extracted, "authorization"), TOKEN);
    assert_eq!(
        (said(legacy, "x-debug"), said(extracted, "x-debug")),
        ("", "1")
    );
    let kept = bench.shadow.snapshot().to_string();
    assert!(kept.contains("GET /api/products/1"));
    assert!(
        !kept.contains("own-token") && !kept.contains("s3cret"),
        "{kept}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_asks_the_build_of_a_side_so_too() {
    let reference = Upstream::start(|_| async { ok("{}") }).await;
    let other = Upstream::start(|_| async { ok("{}") }).await;
    let mut slice = settings(&[&reference], &[&other]).slices.remove(0);
    slice.rewrites = rewrites();
    let line = r#"{"at_ms":0,"session":"a","method":"GET","target":"/find?q=a",
        "headers":[["x-debug","1"],["cookie","sid=known; lang=en"]]}"#;
    let text = format!("{}\n{}\n", head("a test"), line.replace('\n', ""));
    let how = ReplaySettings {
        slice,
        build_header: HeaderName::from_static("x-build-id"),
        limits: Limits::default(),
        own: [
            HeaderMap::new(),
            HeaderMap::from_iter([header("x-debug", "mine")]),
        ],
        sides: [None, Some(Side::Extracted)],
        pace: Pace::Max,
        jobs: 1,
        writes: false,
        login: None,
        accepted: Vec::new(),
    };
    let recording = Recording::read(text.as_bytes(), None).unwrap();
    let found = replay(how, recording, Arc::new(|_| {})).await.unwrap();
    assert_eq!(found.report.evidence.matched, 1);
    let (reference, other) = (reference.seen(), other.seen());
    assert_eq!(reference[0].target, "/find?q=a", "of no side");
    assert_eq!(other[0].target, "/find?search=a&v=2");
    assert_eq!(said(&other[0], "authorization"), TOKEN);
    assert_eq!(said(&other[0], "x-debug"), "mine", "the command line's own");
    // A session is the build's own: it goes on, by its name there.
    assert_eq!(said(&other[0], "cookie"), "lang=en; session=known");
}
