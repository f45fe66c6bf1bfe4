//! Slices that serve nobody for a while, and pages in place of the proxy's own answers.

use bytes::Bytes;
use http::StatusCode;
use outgrow_proxy::{ErrorPage, Secret, Settings};
use outgrow_rollout::{Live, Weight};
use outgrow_testkit::Answer;

use crate::harness::{Front, live, named, slice_id, sliced, start};

const BROWSER: (&str, &str) = ("accept", "text/html,application/xml;q=0.9,*/*;q=0.8");

fn page(status: StatusCode, code: Option<&str>, html: &'static str) -> ErrorPage {
    ErrorPage {
        status,
        code: code.map(str::to_owned),
        html: Some(Bytes::from_static(html.as_bytes())),
        json: Some(Bytes::from_static(b"{\"own\":true}")),
    }
}

fn close(front: &Front, revision: u64, maintenance: bool) {
    let state = Live {
        maintenance,
        ..live(revision, Weight::FULL)
    };
    front.handle.apply(&slice_id(), state);
}

fn is_closed(answer: &Answer) -> bool {
    answer.status == 503
        && answer.header("x-outgrow-error") == Some("maintenance")
        && answer.header("retry-after") == Some("30")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_in_maintenance_serves_testers_only() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let dir = tempfile::tempdir().unwrap();
    let settings = || Settings {
        override_secret: Some(Secret::new("0123456789abcdef")),
        state_file: Some(dir.path().join("state.json")),
        ..sliced(&legacy, &extracted)
    };
    let front = start(settings());
    close(&front, 1, true);
    assert!(is_closed(&front.get("/api/items", &[]).await));
    assert!(is_closed(&front.post("/api/items", "{}").await));
    assert_eq!(front.get("/elsewhere", &[]).await.text(), "legacy");
    let tester = [
        ("x-outgrow-secret", "0123456789abcdef"),
        ("x-outgrow-side", "extracted"),
    ];
    assert_eq!(front.get("/api/items", &tester).await.text(), "extracted");
    let guess = [("x-outgrow-secret", "0123456789abcdee"), tester[1]];
    assert!(is_closed(&front.get("/api/items", &guess).await));
    let told = front.handle.explain("GET", "/api/items", &[]).unwrap();
    assert!(told.reason.contains("maintenance"), "{told:?}");
    assert_eq!((legacy.seen().len(), extracted.seen().len()), (1, 1));
    front.stop().await;
    // Kept by the proxy itself, also where control does not come up.
    let front = start(settings());
    assert!(is_closed(&front.get("/api/items", &[]).await));
    close(&front, 2, false);
    assert_eq!(front.get("/api/items", &[]).await.text(), "extracted");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_stand_in_for_answers_of_the_proxys_own() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let mut settings = sliced(&legacy, &extracted);
    settings.error_pages = vec![
        page(
            StatusCode::SERVICE_UNAVAILABLE,
            Some("maintenance"),
            "<p>closed",
        ),
        page(StatusCode::BAD_REQUEST, None, "<p>what?"),
    ];
    let front = start(settings);
    close(&front, 1, true);
    let seen = front.get("/api/items", &[BROWSER]).await;
    assert!(is_closed(&seen));
    assert_eq!(seen.text(), "<p>closed");
    assert_eq!(
        seen.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(seen.header("vary"), Some("accept"));
    let program = front
        .get("/api/items", &[("accept", "application/json")])
        .await;
    assert_eq!(program.text(), "{\"own\":true}");
    let anybody = front.get("/api/items", &[]).await;
    assert_eq!(anybody.header("content-type"), Some("application/json"));
    assert_eq!(anybody.text(), "{\"own\":true}");
    let twice = "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nAccept: text/html\r\n\r\n";
    let refused = front.raw(twice).await;
    assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
    assert!(refused.ends_with("<p>what?"), "{refused}");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_a_side_is_never_replaced() {
    let legacy = outgrow_testkit::Upstream::always(503, "its own words").await;
    let mut settings = crate::harness::plain(&legacy);
    settings.error_pages = vec![page(StatusCode::SERVICE_UNAVAILABLE, None, "<p>down")];
    let front = start(settings);
    let answer = front.get("/x", &[BROWSER]).await;
    assert_eq!(
        (answer.status.as_u16(), answer.text()),
        (503, "its own words".to_owned())
    );
    front.stop().await;
}
