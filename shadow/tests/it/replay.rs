//! Recordings played against two builds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use outgrow_rollout::Side;
use outgrow_shadow::{
    AcceptedDifference, Format, Limits, Pace, Place, Places, Recording, ReplaySettings, Replayed,
    head, render, replay,
};
use outgrow_testkit::Upstream;

use crate::harness::{Bench, balanced, header, offer, ok, settings, shop};

fn how(reference: &Upstream, other: &Upstream) -> ReplaySettings {
    let usual = settings(&[reference], &[other]);
    ReplaySettings {
        slice: usual.slices[0].clone(),
        build_header: HeaderName::from_static("x-build-id"),
        limits: Limits {
            timeout: Duration::from_secs(5),
            ..Limits::default()
        },
        own: [HeaderMap::new(), HeaderMap::new()],
        sides: [None, None],
        pace: Pace::Max,
        jobs: 4,
        writes: false,
        login: None,
        accepted: Vec::new(),
    }
}

fn place(text: &str) -> Places {
    Places::from_iter([Place::Tcp(text.parse().unwrap())])
}

async fn played(how: ReplaySettings, recording: Recording) -> Replayed {
    let found = replay(how, recording, Arc::new(|_| {})).await.unwrap();
    balanced(&found.report.evidence);
    found
}

fn read(text: &str) -> Recording {
    Recording::read(text.as_bytes(), None).unwrap()
}

/// Requests of these sessions, in this order.
fn recorded(lines: &[(u64, &str, &str, &str)]) -> Recording {
    let line = |(at, session, method, target): &(u64, &str, &str, &str)| {
        format!(r#"{{"at_ms":{at},"session":"{session}","method":"{method}","target":"{target}"}}"#)
    };
    let lines: Vec<String> = lines.iter().map(line).collect();
    read(&format!("{}\n{}\n", head("a test"), lines.join("\n")))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_builds_are_compared_as_live_traffic_is() {
    let reference = Upstream::always(200, r#"{"price":"9.95"}"#).await;
    let other = Upstream::always(200, r#"{"price":"9.94"}"#).await;
    let lines = [
        (0, "a", "GET", "/api/products/1"),
        (1, "b", "GET", "/api/products/2"),
        (2, "a", "POST", "/api/orders"),
    ];
    let found = played(how(&reference, &other), recorded(&lines)).await;
    let seen = &found.report.evidence;
    assert_eq!((seen.mismatched, seen.ineligible, seen.matched), (2, 1, 0));
    let worst = &found.report.differences[0];
    let named = (worst.route.as_str(), worst.path.as_str(), worst.count);
    assert_eq!(named, ("GET /api/products/{id}", "$", 2));
    assert!(reference.seen().iter().all(|seen| seen.method == "GET"));
    for format in [
        Format::Table,
        Format::Markdown,
        Format::Junit,
        Format::Json,
        Format::Html,
    ] {
        // Of a page, each sign is escaped in its own way.
        assert!(render(&found.report, format).unwrap().contains("products"));
    }
    let same = played(how(&reference, &reference), recorded(&lines)).await;
    assert_eq!(
        (same.report.evidence.matched, same.report.evidence.against()),
        (2, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_accepted_differences_leaves_only_new_ones() {
    let reference = Upstream::start(|_| async { ok(r#"{"a":1,"b":1}"#) }).await;
    let other = Upstream::start(|_| async { ok(r#"{"a":2,"b":1}"#) }).await;
    let lines = [(0, "a", "GET", "/x")];
    let first = played(how(&reference, &other), recorded(&lines)).await;
    let text = AcceptedDifference::write(&first.report, &[], "known since May");
    let accepted = AcceptedDifference::read(&text).unwrap();
    assert_eq!((accepted.len(), accepted[0].path.as_str()), (1, "$.a"));
    let again = played(
        ReplaySettings {
            accepted: accepted.clone(),
            ..how(&reference, &other)
        },
        recorded(&lines),
    );
    let again = again.await;
    assert_eq!((again.report.evidence.against(), again.accepted), (0, 1));
    assert!(again.unused.is_empty());
    let worse = Upstream::start(|_| async { ok(r#"{"a":2,"b":2}"#) }).await;
    let worse = ReplaySettings {
        accepted: accepted.clone(),
        ..how(&reference, &worse)
    };
    let worse = played(worse, recorded(&lines)).await;
    assert_eq!(worse.report.differences[0].path, "$.b");
    let mended = ReplaySettings {
        accepted,
        ..how(&reference, &reference)
    };
    let mended = played(mended, recorded(&lines)).await;
    assert_eq!(mended.unused.len(), 1, "it could be taken out of the file");
    assert!(AcceptedDifference::read(&text.replace("known since May", " ")).is_err());
    assert!(AcceptedDifference::read("[]").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_is_not_there_is_never_green() {
    let here = Upstream::always(200, "{}").await;
    let lines = [(0, "a", "GET", "/x")];
    let nowhere = outgrow_testkit::process::free_address().to_string();
    let mut dead = how(&here, &here);
    dead.slice.extracted = place(&nowhere);
    let found = played(dead, recorded(&lines)).await;
    assert_eq!(found.report.evidence.candidate_errors, 1);
    let mut dead = how(&here, &here);
    dead.slice.legacy = place(&nowhere);
    let found = played(dead, recorded(&lines)).await;
    assert_eq!(found.report.evidence.compared(), 0);
    assert!(found.report.verdict.starts_with("no evidence"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_in_which_the_reference_disagrees_with_itself_is_excused() {
    let count = AtomicU64::new(0);
    let reference = Upstream::start(move |_| {
        let n = count.fetch_add(1, Relaxed);
        async move { ok(&format!(r#"{{"at":{n},"price":1}}"#)) }
    })
    .await;
    let other = Upstream::start(|_| async { ok(r#"{"at":-1,"price":1}"#) }).await;
    let lines = [(0, "a", "GET", "/x")];
    let found = played(how(&reference, &other), recorded(&lines)).await;
    let seen = &found.report.evidence;
    assert_eq!((seen.matched, seen.excused, seen.against()), (1, 1, 0));
    let wrong = Upstream::start(|_| async { ok(r#"{"at":-1,"price":2}"#) }).await;
    let found = played(how(&reference, &wrong), recorded(&lines)).await;
    let paths: Vec<&str> = found
        .report
        .differences
        .iter()
        .map(|d| d.path.as_str())
        .collect();
    assert_eq!(paths, ["$.price"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_keep_their_order_and_the_pace_is_kept() {
    let here = Upstream::always(200, "{}").await;
    let there = Upstream::always(200, "{}").await;
    let names: Vec<String> = (0..40).map(|n| format!("/{}/{n}", n % 4)).collect();
    let lines: Vec<(u64, &str, &str, &str)> = names
        .iter()
        .zip(["s0", "s1", "s2", "s3"].iter().cycle())
        .enumerate()
        .map(|(n, (target, session))| (n as u64 * 10, *session, "GET", target.as_str()))
        .collect();
    played(how(&here, &there), recorded(&lines)).await;
    let at = |side: &Upstream, session: &str| -> Vec<String> {
        let seen = side.seen().into_iter().map(|seen| seen.target);
        seen.filter(|target| target.starts_with(session)).collect()
    };
    for session in ["/0/", "/1/", "/2/", "/3/"] {
        let wanted: Vec<&String> = names.iter().filter(|n| n.starts_with(session)).collect();
        assert_eq!(at(&here, session).iter().collect::<Vec<_>>(), wanted);
        assert_eq!(at(&there, session).iter().collect::<Vec<_>>(), wanted);
    }
    let begun = Instant::now();
    let scaled = ReplaySettings {
        pace: Pace::Times(2.0),
        ..how(&here, &there)
    };
    played(scaled, recorded(&lines)).await;
    assert!(
        begun.elapsed() >= Duration::from_millis(195),
        "the last one is due then"
    );
}

/// A shop that knows who is logged in by a cookie, and a cart by a token.
async fn shop_with_login(prefix: &'static str, price: &'static str) -> Upstream {
    Upstream::start(move |asked: Request<Bytes>| async move {
        let field = |name| {
            let value = asked.headers().get(name);
            value
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        let known = field("cookie").contains(&format!("sid={prefix}-session"));
        let token = field("x-csrf") == format!("{prefix}-token-of-login");
        match (asked.method().as_str(), asked.uri().path()) {
            ("POST", "/login") if asked.body() == r#"{"name":"ada","password":"pw"}"# => {
                let mut answer = ok(&format!(r#"{{"csrf":"{prefix}-token-of-login"}}"#));
                let cookie = format!("sid={prefix}-session; Path=/; HttpOnly");
                answer
                    .headers_mut()
                    .append("set-cookie", cookie.parse().unwrap());
                answer
            }
            ("GET", "/me") if known => ok(&format!(r#"{{"name":"ada","credit":{price}}}"#)),
            ("POST", "/cart") if known && token => ok(r#"{"added":true}"#),
            _ => Response::builder().status(401).body(Bytes::new()).unwrap(),
        }
    })
    .await
}

const LOGIN: &str = r#"{"log":{"version":"1.2","entries":[
{"startedDateTime":"2026-11-21T09:00:00Z","request":{"method":"POST","url":"https://shop.example/login",
 "headers":[{"name":"content-type","value":"application/json"}],
 "postData":{"mimeType":"application/json","text":"{\"name\":\"ada\",\"password\":\"pw\"}"}},
 "response":{"status":200,"headers":[{"name":"set-cookie","value":"sid=old-session"}],
 "content":{"text":"{\"csrf\":\"the-recorded-token\"}"}}},
{"startedDateTime":"2026-11-21T09:00:01Z","request":{"method":"GET","url":"https://shop.example/me",
 "headers":[{"name":"cookie","value":"sid=old-session"}]},"response":{"status":200,"headers":[]}},
{"startedDateTime":"2026-11-21T09:00:02Z","request":{"method":"POST","url":"https://shop.example/cart",
 "headers":[{"name":"cookie","value":"sid=old-session"},{"name":"x-csrf","value":"the-recorded-token"}]},
 "response":{"status":200,"headers":[]}}]}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_login_is_mapped_to_each_side() {
    let (here, there) = (
        shop_with_login("one", "5").await,
        shop_with_login("two", "5").await,
    );
    let writing = ReplaySettings {
        writes: true,
        ..how(&here, &there)
    };
    let mut writing = writing;
    writing.slice.headers = Some(vec!["content-type".to_owned()]);
    let found = played(writing, read(LOGIN)).await;
    let seen = &found.report.evidence;
    let classes: Vec<&String> = seen.classes.keys().collect();
    assert_eq!(
        classes,
        ["GET /me 2xx", "POST /cart 2xx", "POST /login 2xx"]
    );
    assert_eq!(
        seen.matched, 2,
        "the tokens of the login differ, as they must"
    );
    assert_eq!(found.report.differences[0].path, "$.csrf");
    assert!(
        !render(&found.report, Format::Json)
            .unwrap()
            .contains("two-session")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_serves_a_recording_of_reads_and_a_refused_one_ends_it() {
    let (here, there) = (
        shop_with_login("one", "5").await,
        shop_with_login("two", "6").await,
    );
    let lines = [(0, "a", "GET", "/me")];
    let settings = ReplaySettings {
        login: Some(read(LOGIN)),
        ..how(&here, &there)
    };
    let found = played(settings, recorded(&lines)).await;
    assert_eq!(found.report.evidence.mismatched, 1);
    assert_eq!(found.report.differences[0].path, "$.credit");
    let wrong = LOGIN.replace("\\\"pw\\\"", "\\\"other\\\"");
    let settings = ReplaySettings {
        login: Some(read(&wrong)),
        ..how(&here, &there)
    };
    let refused = replay(settings, recorded(&lines), Arc::new(|_| {})).await;
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("POST /login: it answered 401"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn live_requests_are_recorded_without_secrets_and_played_again() {
    let bench = Bench::new().await;
    let empty = bench.shadow.record(&shop(), "one").unwrap();
    assert_eq!(empty["lines"].as_array().unwrap().len(), 0);
    assert!(
        bench
            .shadow
            .record(&shop(), "two")
            .unwrap_err()
            .to_string()
            .contains("another")
    );
    let secret = [
        header("cookie", "sid=s3cret-cookie; lang=en"),
        header("authorization", "Bearer s3cret-token"),
        header("x-api-key", "s3cret-key"),
        header("x-forwarded-for", "192.0.2.7, s3cret-address"),
        header("accept", "application/json"),
    ];
    for _ in 0..2 {
        let headers = secret.clone().into_iter().collect();
        offer(&bench.shadow, Side::Legacy, &bench.legacy.answer(), headers);
    }
    bench.settled().await;
    let fetched = bench.shadow.record(&shop(), "one").unwrap();
    let lines: Vec<&str> = fetched["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l.as_str().unwrap())
        .collect();
    assert_eq!((lines.len(), &fetched["lost"]), (2, &0.into()));
    let text = format!("{}\n{}\n", head("live"), lines.join("\n"));
    assert!(!text.contains("s3cret"), "{text}");
    let recording = read(&text);
    assert_eq!(recording.requests[0].session, recording.requests[1].session);
    let found = played(how(&bench.at_legacy, &bench.at_extracted), recording).await;
    assert_eq!(found.report.evidence.matched, 2);
    let seen = bench.at_extracted.seen();
    let last = seen.last().unwrap();
    assert_eq!(last.header("accept"), Some("application/json"));
    for name in ["cookie", "authorization", "x-api-key"] {
        assert_eq!(last.header(name), None, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_are_asked_by_the_paths_of_their_side() {
    let (old, new) = (
        Upstream::always(200, "{}").await,
        Upstream::always(200, "{}").await,
    );
    let line = r#"{"at_ms":0,"session":"a","route":"GET /p/{id}","method":"GET","target":"/p/7?x=1","extracted":"/v2/i/7?x=1"}"#;
    let recording = read(&format!("{}\n{line}\n", head("a test")));
    let sided = ReplaySettings {
        sides: [Some(Side::Legacy), Some(Side::Extracted)],
        ..how(&old, &new)
    };
    let found = played(sided, recording.clone()).await;
    assert_eq!(found.report.evidence.compared(), 1);
    played(how(&old, &new), recording).await;
    let targets = |side: &Upstream| {
        let seen = side.seen().into_iter().map(|seen| seen.target);
        seen.collect::<Vec<_>>()
    };
    assert_eq!(targets(&old), ["/p/7?x=1", "/p/7?x=1"]);
    assert_eq!(targets(&new), ["/v2/i/7?x=1", "/p/7?x=1"]);
}
