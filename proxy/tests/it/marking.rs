//! Request ids and traces, from clients to upstreams and back.

use outgrow_proxy::{Secret, Settings, Timing, TraceSettings};
use outgrow_testkit::Upstream;

use crate::harness::{named, plain, start};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn traced(upstream: &Upstream, trace: TraceSettings) -> Settings {
    Settings {
        trace,
        ..plain(upstream)
    }
}

fn last(upstream: &Upstream, field: &str) -> Option<String> {
    let seen = upstream.seen();
    seen.last()?.header(field).map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_an_id_on_both_sides_of_the_proxy() {
    let upstream = named("upstream").await;
    let trace = TraceSettings {
        request_id: true,
        ..TraceSettings::default()
    };
    let front = start(traced(&upstream, trace));
    let answer = front.get("/", &[("x-request-id", "from-the-client")]).await;
    assert_eq!(answer.header("x-request-id"), Some("from-the-client"));
    assert_eq!(
        last(&upstream, "x-request-id").as_deref(),
        Some("from-the-client")
    );
    let mut ids = Vec::new();
    for given in ["", "two words", ""] {
        let answer = front.get("/", &[("x-request-id", given)]).await;
        let id = answer.header("x-request-id").unwrap().to_owned();
        assert_eq!(
            (last(&upstream, "x-request-id"), id.len()),
            (Some(id.clone()), 32)
        );
        ids.push(id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 3);
    let named =
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: close, x-request-id, x-mine\r\nx-mine: 1\r\n\r\n";
    front.raw(named).await;
    assert_eq!(last(&upstream, "x-mine"), None);
    assert_eq!(last(&upstream, "x-request-id").map_or(0, |id| id.len()), 32);
    // Traces are another matter.
    front.get("/", &[("traceparent", "anything")]).await;
    assert_eq!(last(&upstream, "traceparent").as_deref(), Some("anything"));
    let refused = front
        .raw("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nx-request-id: odd\r\n\r\n")
        .await;
    assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
    assert!(refused.contains("\r\nx-request-id: odd\r\n"), "{refused}");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_is_a_span_of_the_trace() {
    let upstream = named("upstream").await;
    let trace = TraceSettings {
        span: true,
        start: true,
        ..TraceSettings::default()
    };
    let front = start(traced(&upstream, trace));
    let (w3c, b3) = (format!("00-{TRACE}-{SPAN}-01"), format!("{TRACE}-{SPAN}-1"));
    front
        .get(
            "/",
            &[("traceparent", &w3c), ("b3", &b3), ("tracestate", "a=1")],
        )
        .await;
    let next = last(&upstream, "traceparent").unwrap();
    let [_, trace, span, flags] = next.split('-').collect::<Vec<_>>()[..] else {
        panic!("{next}");
    };
    assert_eq!((trace, flags, span.len()), (TRACE, "01", 16));
    assert_ne!(span, SPAN);
    let expected = format!("{TRACE}-{span}-1-{SPAN}");
    assert_eq!(last(&upstream, "b3"), Some(expected));
    assert_eq!(last(&upstream, "tracestate").as_deref(), Some("a=1"));
    let answer = front.get("/", &[]).await;
    assert!(last(&upstream, "traceparent").unwrap().starts_with("00-"));
    assert!(answer.header("x-request-id").is_none());
    let named = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close, traceparent\r\n\r\n";
    front.raw(named).await;
    assert!(last(&upstream, "traceparent").is_some());
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_added_where_nothing_is_asked_for() {
    let upstream = named("upstream").await;
    let front = start(plain(&upstream));
    let answer = front.get("/", &[("x-request-id", "two words")]).await;
    assert!(answer.header("x-request-id").is_none());
    assert_eq!(
        last(&upstream, "x-request-id").as_deref(),
        Some("two words")
    );
    assert_eq!(last(&upstream, "traceparent"), None);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_know_is_told_where_the_time_went() {
    let upstream = named("upstream").await;
    let secret = "a-secret-of-testers";
    let mut settings = traced(
        &upstream,
        TraceSettings {
            server_timing: Some(Timing::Testers),
            ..TraceSettings::default()
        },
    );
    settings.override_secret = Some(Secret::new(secret));
    let front = start(settings.clone());
    let told = front.get("/", &[("x-outgrow-secret", secret)]).await;
    let times = told.header("server-timing").unwrap();
    let (upstream_part, total) = times.split_once(", ").unwrap();
    let millis =
        |part: &str, start: &str| -> f64 { part.strip_prefix(start).unwrap().parse().unwrap() };
    let took = millis(upstream_part, "upstream;desc=\"legacy\";dur=");
    let total = millis(total, "total;dur=");
    assert!(took > 0.0 && total >= took, "{times}");
    let stranger = front.get("/", &[("x-outgrow-secret", "another")]).await;
    assert_eq!(stranger.header("server-timing"), None);
    front.stop().await;
    settings.trace.server_timing = Some(Timing::Everybody);
    let front = start(settings);
    let refused = front
        .raw("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")
        .await;
    assert!(
        refused.contains("\r\nserver-timing: total;dur="),
        "{refused}"
    );
    front.stop().await;
}
