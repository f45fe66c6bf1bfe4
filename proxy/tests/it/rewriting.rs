//! Sides that know a route by another path.

use std::sync::Arc;

use outgrow_proxy::{Filters, PathRule, Settings};
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
