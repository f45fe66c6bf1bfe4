//! What routes change in the heads that pass.

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use outgrow_proxy::{CohortKey, Edit, Edits, Filters, Limiter, Link, RateKey, RateRule};
use outgrow_rollout::Weight;
use outgrow_testkit::Upstream;

use crate::harness::{named, plain, sliced, start, text};

fn edits(pairs: &[(&'static str, Edit)]) -> Edits {
    let mut edits = Edits::default();
    for (name, edit) in pairs {
        edits
            .push(HeaderName::from_static(name), edit.clone())
            .unwrap();
    }
    edits
}

fn value(text: &'static str) -> HeaderValue {
    HeaderValue::from_static(text)
}

/// As a monolith that knows itself by another name only.
async fn monolith() -> Upstream {
    Upstream::start(|request| async move {
        let mut answer = text("moved");
        *answer.status_mut() = http::StatusCode::FOUND;
        let fields = answer.headers_mut();
        let to = format!("http://monolith.internal/app{}", request.uri().path());
        fields.insert("location", HeaderValue::try_from(to).unwrap());
        let cookie = "sid=1; Domain=monolith.internal; Path=/app; HttpOnly";
        fields.append("set-cookie", value(cookie));
        fields.append("set-cookie", value("lang=en; Path=/"));
        fields.insert("x-powered-by", value("old thing"));
        answer
    })
    .await
}

fn outward() -> Filters {
    Filters {
        request: edits(&[
            ("x-channel", Edit::Set(value("web"))),
            ("x-debug", Edit::Remove),
            ("via", Edit::Add(value("1.1 front"))),
        ]),
        response: edits(&[
            ("x-powered-by", Edit::Remove),
            ("x-frame-options", Edit::Set(value("DENY"))),
        ]),
        links: vec![Link::new("http://monolith.internal/app", "").unwrap()],
        cookie_domains: vec![(
            "monolith.internal".to_owned(),
            Some("shop.example".to_owned()),
        )],
        cookie_paths: vec![Link::new("/app", "/").unwrap()],
        ..Filters::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monolith_behind_another_name_is_passed_through() {
    let legacy = monolith().await;
    let mut settings = plain(&legacy);
    settings.filters = Some(Arc::new(outward()));
    let front = start(settings);
    let sent = [("x-channel", "forged"), ("x-debug", "1"), ("via", "1.0 a")];
    let answer = front.get("/login", &sent).await;
    assert_eq!(answer.header("location"), Some("/login"));
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(
        cookies,
        [
            "sid=1; Domain=shop.example; Path=/; HttpOnly",
            "lang=en; Path=/"
        ]
    );
    assert_eq!(answer.header("x-powered-by"), None);
    assert_eq!(answer.header("x-frame-options"), Some("DENY"));
    let seen = &legacy.seen()[0];
    assert_eq!(
        (seen.header("x-channel"), seen.header("x-debug")),
        (Some("web"), None)
    );
    let via: Vec<_> = seen.headers.get_all("via").iter().collect();
    assert_eq!(via, ["1.0 a", "1.1 front"]);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_has_its_own_filters_on_both_sides_and_for_writes() {
    let (legacy, extracted) = (monolith().await, named("extracted").await);
    let mut settings = sliced(&legacy, &extracted);
    for route in &mut settings.slices[0].routes {
        if route.template == "/api/items" {
            route.filters = Some(Arc::new(outward()));
        }
    }
    let front = start(settings);
    let written = front.post("/api/items", "{}").await;
    assert_eq!(written.header("location"), Some("/api/items"));
    let plain = front.get("/api/items/7", &[("x-debug", "1")]).await;
    let to = "http://monolith.internal/app/api/items/7";
    assert_eq!(plain.header("location"), Some(to), "the route has none");
    front.weigh(1, Weight::FULL);
    let answer = front.get("/api/items", &[("x-debug", "1")]).await;
    assert_eq!(answer.text(), "extracted");
    assert_eq!(answer.header("x-frame-options"), Some("DENY"));
    assert_eq!(extracted.seen()[0].header("x-debug"), None);
    assert_eq!(legacy.seen()[1].header("x-debug"), Some("1"));
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_is_told_when_to_come_back() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let mut settings = sliced(&legacy, &extracted);
    let rule = RateRule {
        requests: 2,
        per: std::time::Duration::from_secs(3_600),
        burst: 2,
        by: RateKey::Field(CohortKey::Header(HeaderName::from_static("x-visitor"))),
    };
    let limited = Arc::new(Filters {
        limit: Some(Limiter::new(rule)),
        ..Filters::default()
    });
    for route in &mut settings.slices[0].routes {
        route.filters = Some(limited.clone());
    }
    let front = start(settings);
    let ann = [("x-visitor", "writer")];
    assert_eq!(front.get("/api/items", &ann).await.status, 200);
    assert_eq!(front.post("/api/items", "{}").await.status, 200);
    let refused = front.get("/api/items/7", &ann).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("x-outgrow-error"), Some("rate-limited"));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=1_800).contains(&wait), "{wait}");
    assert_eq!(refused.header("ratelimit-limit"), Some("2"));
    assert_eq!(refused.header("ratelimit-remaining"), Some("0"));
    assert_eq!(
        refused.header("ratelimit-reset"),
        refused.header("retry-after")
    );
    let bob = [("x-visitor", "bob")];
    assert_eq!(front.get("/api/items", &bob).await.status, 200);
    assert_eq!(front.get("/elsewhere", &ann).await.status, 200);
    assert_eq!(legacy.seen().len(), 4, "what is refused is not forwarded");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_limit_may_hold_for_all_that_comes_in() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let mut settings = sliced(&legacy, &extracted);
    settings.limit = Some(Arc::new(Limiter::new(RateRule {
        requests: 2,
        per: std::time::Duration::from_secs(3_600),
        burst: 2,
        by: RateKey::Everybody,
    })));
    let front = start(settings);
    assert_eq!(front.get("/api/items", &[]).await.status, 200);
    assert_eq!(front.get("/elsewhere", &[]).await.status, 200);
    for path in ["/api/items", "/elsewhere"] {
        let refused = front.get(path, &[]).await;
        assert_eq!(refused.status, 429, "{path}");
        assert_eq!(refused.header("x-outgrow-error"), Some("rate-limited"));
    }
    assert_eq!(legacy.seen().len(), 2);
    front.stop().await;
}
