//! Sides that know a route by another path.

use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use outgrow_proxy::{BodyLinks, Coding, Compression, Filters, Link, PathRule, Settings};
use outgrow_rollout::{Live, Side, Weight};
use outgrow_testkit::Upstream;

use crate::harness::{live, named, plain, slice_id, sliced, start, start_with};
use crate::keeper::Keeper;

fn with(settings: &mut Settings, rules: &[(Option<Side>, &str, &str)]) {
    let rule = |(side, from, to): &(Option<Side>, &str, &str)| PathRule::new(*side, from, to);
    let filters = Arc::new(Filters {
        paths: rules.iter().map(rule).collect::<Result<_, _>>().unwrap(),
        ..Filters::default()
    });
    settings.filters = Some(filters.clone());
    for route in &mut settings
        .slices
        .iter_mut()
        .flat_map(|slice| &mut slice.routes)
    {
        route.filters = Some(filters.clone());
    }
}

fn targets(upstream: &Upstream) -> Vec<String> {
    upstream
        .seen()
        .into_iter()
        .map(|seen| seen.target)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_side_is_asked_by_its_own_path() {
    let (legacy, extracted) = (named("legacy").await, Upstream::always(500, "no").await);
    let mut settings = sliced(&legacy, &extracted);
    settings.slices[0].fallback = true;
    let new = Some(Side::Extracted);
    with(
        &mut settings,
        &[
            (new, "/api/items/{id}", "/v2/items/{id}"),
            (new, "/api/items", "/v2/items"),
            (Some(Side::Legacy), "/api/{*rest}", "/app/{*rest}"),
        ],
    );
    let front = start(settings);
    let query = "?q=a%2Fb%20c&d=..//";
    front.get(&format!("/api/items/a%20b{query}"), &[]).await;
    front.weigh(1, Weight::FULL);
    let answer = front.get(&format!("/api/items/a%2Fb{query}"), &[]).await;
    assert_eq!(answer.text(), "legacy", "it steps in, by its own path");
    let switched = Live {
        writer: Side::Extracted,
        ..live(2, Weight::FULL)
    };
    front.handle.apply(&slice_id(), switched);
    front.post("/api/items", "{}").await;
    front.get("/api/other", &[]).await;
    assert_eq!(
        targets(&legacy),
        [
            format!("/app/items/a%20b{query}"),
            format!("/app/items/a%2Fb{query}"),
            "/app/other".to_owned(),
        ]
    );
    assert_eq!(
        targets(&extracted),
        [format!("/v2/items/a%2Fb{query}"), "/v2/items".to_owned()]
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_leaves_a_route_by_the_way_it_is_written() {
    let legacy = named("legacy").await;
    let mut settings = plain(&legacy);
    with(&mut settings, &[(None, "/shop/{*rest}", "/{*rest}")]);
    let front = start(settings);
    for path in [
        "/shop/../admin",
        "/shop//evil.example/x",
        "/shop/%2e%2E/admin",
        "/shop/a%2F..%2f..%2Fadmin",
        "/shop/%2Fevil.example",
        "/shop/..;a/admin",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let answer = front.raw(&request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
        assert!(answer.contains("x-outgrow-error: malformed"), "{answer}");
    }
    front.get("/shop/a//b;c=1/", &[]).await;
    assert_eq!(targets(&legacy), ["/a//b;c=1/"]);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shadow_knows_what_both_sides_are_to_be_asked() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let mut settings = sliced(&legacy, &extracted);
    with(
        &mut settings,
        &[(Some(Side::Extracted), "/api/items/{id}", "/v2/items/{id}")],
    );
    let keeper = Keeper::of_all(1_000);
    let front = start_with(settings, Some(keeper.clone()));
    for revision in [1, 2] {
        let state = Live {
            mirror: true,
            ..live(
                revision,
                if revision == 1 {
                    Weight::ZERO
                } else {
                    Weight::FULL
                },
            )
        };
        front.handle.apply(&slice_id(), state);
        front.get("/api/items/7?a=1", &[]).await;
    }
    let kept = keeper.taken(2).await;
    for (exchange, primary) in kept.iter().zip([Side::Legacy, Side::Extracted]) {
        let request = &exchange.request;
        assert_eq!(exchange.primary, primary);
        assert_eq!(request.target, "/api/items/7?a=1", "what the client asked");
        assert_eq!(request.sides.legacy, None);
        assert_eq!(request.sides.extracted.as_ref().unwrap(), "/v2/items/7?a=1");
    }
    assert_eq!(targets(&extracted), ["/v2/items/7?a=1"]);
    front.stop().await;
}

/// A monolith that names itself everywhere.
async fn boastful() -> Upstream {
    Upstream::start(|request| async move {
        let own = "http://monolith.internal:9000";
        let (kind, body) = match request.uri().path() {
            "/page" => (
                "text/html; charset=utf-8",
                format!("<a href='{own}/a'>{own}</a>{}", "x".repeat(40_000)),
            ),
            "/json" => (
                "application/json",
                format!(r#"{{"next":"{}"}}"#, format!("{own}/b").replace('/', "\\/")),
            ),
            "/part" => ("text/html", format!("{own}/part")),
            _ => ("text/plain", format!("{own}/plain")),
        };
        let mut answer = Response::new(Bytes::from(body));
        let fields = answer.headers_mut();
        fields.insert("content-type", HeaderValue::from_static(kind));
        fields.insert("etag", HeaderValue::from_static("\"1\""));
        fields.insert("accept-ranges", HeaderValue::from_static("bytes"));
        if request.uri().path() == "/part" {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        answer
    })
    .await
}

fn relinked(settings: &mut Settings, compressed: bool) {
    let links = vec![Link::new("http://monolith.internal:9000", "").unwrap()];
    let types = ["text/html", "application/json"]
        .iter()
        .filter_map(|t| t.parse().ok());
    let compress = Compression {
        codings: vec![Coding::Gzip],
        types: vec!["text/html".parse().unwrap()],
        min: 0,
    };
    settings.filters = Some(Arc::new(Filters {
        body_links: Some(Arc::new(BodyLinks::new(&links, types.collect()).unwrap())),
        links,
        compress: compressed.then(|| Arc::new(compress)),
        ..Filters::default()
    }));
}

#[tokio::test(flavor = "multi_thread")]
async fn links_in_bodies_are_those_that_a_client_can_follow() {
    let legacy = boastful().await;
    let mut settings = plain(&legacy);
    relinked(&mut settings, false);
    let front = start(settings);
    let page = front.get("/page", &[("accept-encoding", "gzip")]).await;
    assert!(
        page.text().starts_with("<a href='/a'>/</a>xxx"),
        "{}",
        page.text()
    );
    assert_eq!(page.text().len(), 40_000 + "<a href='/a'>/</a>".len());
    assert_eq!(page.header("etag"), Some("W/\"1\""));
    assert_eq!(page.header("accept-ranges"), None);
    assert_eq!(front.get("/json", &[]).await.text(), r#"{"next":"\/b"}"#);
    for (path, said) in [
        ("/part", "http://monolith.internal:9000/part"),
        ("/plain", "http://monolith.internal:9000/plain"),
    ] {
        let as_it_is = front.get(path, &[]).await;
        assert_eq!(
            (as_it_is.text().as_str(), as_it_is.header("etag")),
            (said, Some("\"1\""))
        );
    }
    // On a connection that stays: the end of each is known.
    let ask =
        |method: &str, more: &str| format!("{method} /page HTTP/1.1\r\nhost: a\r\n{more}\r\n");
    let both = format!("{}{}", ask("HEAD", ""), ask("GET", "connection: close\r\n"));
    let said = front.raw(&both).await;
    assert!(
        said.contains("transfer-encoding: chunked") && said.ends_with("\r\n0\r\n\r\n"),
        "{said}"
    );
    assert!(
        !said.contains("content-length") && said.matches("HTTP/1.1 200").count() == 2,
        "{said}"
    );
    assert!(
        legacy
            .seen()
            .iter()
            .all(|seen| seen.header("accept-encoding") == Some("identity"))
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_changed_before_a_body_is_compressed() {
    let legacy = boastful().await;
    let mut settings = plain(&legacy);
    relinked(&mut settings, true);
    let front = start(settings);
    let page = front.get("/page", &[("accept-encoding", "gzip")]).await;
    assert_eq!(page.header("content-encoding"), Some("gzip"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(&page.body[..])
        .read_to_string(&mut text)
        .unwrap();
    assert!(text.starts_with("<a href='/a'>/</a>xxx"), "{text}");
    front.stop().await;
}
