//! Every eligible request is counted once, whatever becomes of it.

use std::sync::Arc;

use http::Method;
use outgrow_rollout::Side;
use outgrow_shadow::Tap;

use crate::harness::{Bench, Position, balanced, ok, shop};

#[tokio::test(flavor = "multi_thread")]
async fn the_share_that_is_not_sampled_is_counted() {
    let bench = Bench::with(Position::default(), &|settings| {
        settings.slices[0].sample = 0.25;
        settings.limits.waiting = 10_000;
    })
    .await;
    for _ in 0..1_000 {
        bench.client();
    }
    let seen = bench.settled().await;
    assert_eq!(seen.eligible, 1_000);
    assert!((200..=300).contains(&seen.matched), "{}", seen.matched);
    assert_eq!(seen.sampled_out, 1_000 - seen.matched);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_never_mirrored() {
    let bench = Bench::new().await;
    let route: Arc<str> = "PUT /api/products/{id}/price".into();
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        assert!(bench.shadow.admit(&shop(), &route, &method).is_none());
    }
    let odd = Method::from_bytes(b"PURGE").unwrap();
    assert!(bench.shadow.admit(&shop(), &route, &odd).is_none());
    assert_eq!(bench.settled().await.ineligible, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_brings_no_exchange_is_counted_and_frees_its_place() {
    let bench = Bench::with(Position::default(), &|settings| settings.limits.waiting = 1).await;
    let route: Arc<str> = "GET /x".into();
    for _ in 0..3 {
        let ticket = bench.shadow.admit(&shop(), &route, &Method::GET);
        drop(ticket.unwrap());
    }
    let seen = bench.settled().await;
    assert_eq!((seen.eligible, seen.shed), (3, 3));
    assert_eq!(bench.shadow.report(&shop()).unwrap().shed["abandoned"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_not_whole_is_not_compared() {
    let bench = Bench::with(Position::default(), &|settings| settings.limits.body = 8).await;
    bench
        .extracted
        .set("{\"a long body\": \"that is cut off by the bound of the shadow\"}");
    bench.client_of(Side::Legacy, &ok("{}"));
    let seen = bench.settled().await;
    assert_eq!(seen.matched + seen.mismatched, 0, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_leaves_nothing_uncounted() {
    let bench = Bench::with(Position::stuck(), &|_| {}).await;
    bench.extracted.set("{}");
    for _ in 0..10 {
        bench.client();
    }
    bench.shadow.shutdown().await;
    let seen = bench.shadow.evidence(&shop()).unwrap();
    balanced(&seen);
    assert_eq!((seen.waiting, seen.not_comparable), (0, 10));
    bench.client();
    let seen = bench.shadow.evidence(&shop()).unwrap();
    balanced(&seen);
    assert_eq!(seen.shed, 1, "nothing is taken any more");
}
