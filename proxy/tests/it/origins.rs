//! Which pages of other origins may read answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use outgrow_proxy::{Cors, CorsRule, Filters, Limiter, RateKey, RateRule, Settings};
use outgrow_rollout::Weight;
use outgrow_testkit::{Answer, Upstream, client};

use crate::harness::{Front, named, plain, sliced, start, text};

const SHOP: &str = "https://shop.example";
const EVIL: &str = "https://evil.example";

fn rule() -> CorsRule {
    CorsRule {
        origins: vec![SHOP.parse().unwrap()],
        methods: vec![Method::GET, Method::POST],
        headers: vec![HeaderName::from_static("x-csrf")],
        expose: vec![HeaderName::from_static("x-total")],
        credentials: true,
        max_age: Some(Duration::from_secs(600)),
    }
}

fn filters(rule: CorsRule) -> Filters {
    Filters {
        cors: Some(Cors::new(rule).unwrap()),
        ..Filters::default()
    }
}

/// All routes of the slice share pages' leave; what belongs to none has no filters.
fn shared(legacy: &Upstream, extracted: &Upstream, filters: Filters) -> Settings {
    let mut settings = sliced(legacy, extracted);
    let filters = Arc::new(filters);
    for route in &mut settings.slices[0].routes {
        route.filters = Some(filters.clone());
    }
    settings
}

async fn preflight(front: &Front, path: &str, origin: &str, method: &str) -> Answer {
    let fields = [
        ("origin", origin),
        ("access-control-request-method", method),
        ("access-control-request-headers", "x-csrf, x-other"),
    ];
    let url = front.url(path);
    client::send(client::request(
        Method::OPTIONS,
        &url,
        &fields,
        Bytes::new(),
    ))
    .await
}

/// The fields that a browser decides by.
fn told(answer: &Answer) -> Vec<String> {
    let mut told: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("access-control-") || *name == "vary")
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    told.sort();
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_is_answered_for_the_route_that_is_meant() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let front = start(shared(&legacy, &extracted, filters(rule())));
    let allowed = preflight(&front, "/api/items/7", SHOP, "GET").await;
    assert_eq!(
        (allowed.status.as_u16(), allowed.text()),
        (204, String::new())
    );
    assert_eq!(
        told(&allowed),
        [
            "access-control-allow-credentials: true",
            "access-control-allow-headers: x-csrf",
            "access-control-allow-methods: GET, POST",
            "access-control-allow-origin: https://shop.example",
            "access-control-max-age: 600",
            "vary: origin",
        ]
    );
    let refused = preflight(&front, "/api/items/7", EVIL, "GET").await;
    assert_eq!(refused.status, 403);
    assert_eq!(refused.header("x-outgrow-error"), Some("cors"));
    assert_eq!(told(&refused), Vec::<String>::new());
    assert!(!refused.text().contains("evil"));
    assert!(legacy.seen().is_empty() && extracted.seen().is_empty());
    // No slice has these: the monolith answers as it did.
    for (path, method) in [("/elsewhere", "GET"), ("/api/items/7", "DELETE")] {
        let answer = preflight(&front, path, SHOP, method).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text()),
            (200, "legacy".to_owned())
        );
    }
    // Without a wish it is no preflight.
    let url = front.url("/api/items");
    let plain = [("origin", SHOP)];
    client::send(client::request(Method::OPTIONS, &url, &plain, Bytes::new())).await;
    assert_eq!(legacy.seen().len(), 3);
    front.stop().await;
}

/// As a side that has an opinion of its own.
async fn opinionated() -> Upstream {
    Upstream::start(|_| async move {
        let mut answer = text("it");
        let fields = answer.headers_mut();
        for (name, value) in [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-origin", "https://old.example"),
            ("access-control-expose-headers", "x-old"),
            ("vary", "Accept-Encoding"),
        ] {
            fields.append(name, HeaderValue::from_static(value));
        }
        answer
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_say_what_the_config_says_whoever_answers() {
    let (legacy, extracted) = (opinionated().await, opinionated().await);
    let front = start(shared(&legacy, &extracted, filters(rule())));
    let granted = [
        "access-control-allow-credentials: true",
        "access-control-allow-origin: https://shop.example",
        "access-control-expose-headers: x-total",
        "vary: Accept-Encoding",
        "vary: origin",
    ];
    let neutral = ["vary: Accept-Encoding", "vary: origin"];
    for weight in [Weight::ZERO, Weight::FULL] {
        front.weigh(1 + u64::from(weight.basis_points()), weight);
        let page = front.get("/api/items", &[("origin", SHOP)]).await;
        assert_eq!(told(&page), granted);
        // Not refused: a form of the page itself has an origin, too.
        let evil = front.get("/api/items", &[("origin", EVIL)]).await;
        assert_eq!(
            (evil.status.as_u16(), told(&evil)),
            (200, neutral.map(String::from).to_vec())
        );
        assert_eq!(told(&front.get("/api/items", &[]).await), neutral);
    }
    assert_eq!(told(&front.post("/api/items", "{}").await), neutral);
    assert_eq!(legacy.seen()[0].header("origin"), Some(SHOP));
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_can_read_a_refusal_of_the_proxy() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let mut filters = filters(rule());
    filters.limit = Some(Limiter::new(RateRule {
        requests: 1,
        per: Duration::from_secs(3_600),
        burst: 1,
        by: RateKey::Everybody,
    }));
    let front = start(shared(&legacy, &extracted, filters));
    for status in [200, 429] {
        let answer = front.get("/api/items", &[("origin", SHOP)]).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("access-control-allow-origin"), Some(SHOP));
        assert_eq!(answer.header("vary"), Some("origin"));
    }
    assert_eq!(
        preflight(&front, "/api/items", SHOP, "GET").await.status,
        204
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_everybody_may_read_varies_by_nobody() {
    let legacy = named("legacy").await;
    let mut settings = plain(&legacy);
    let open = CorsRule {
        origins: vec!["*".parse().unwrap()],
        credentials: false,
        ..rule()
    };
    settings.filters = Some(Arc::new(filters(open)));
    let front = start(settings);
    let page = front.get("/x", &[("origin", EVIL)]).await;
    assert_eq!(
        told(&page),
        [
            "access-control-allow-origin: *",
            "access-control-expose-headers: x-total"
        ]
    );
    let asked = preflight(&front, "/x", "null", "GET").await;
    assert_eq!(asked.header("access-control-allow-origin"), Some("*"));
    assert_eq!(told(&front.get("/x", &[]).await), Vec::<String>::new());
    front.stop().await;
}
