//! Every eligible request is counted once, whatever becomes of it.

use std::sync::Arc;

use http::Method;
use outgrow_rollout::Side;
use outgrow_shadow::{Lost, RouteShadow, Tap, Ticket};

use crate::harness::{Bench, Position, balanced, ok, shop};

#[tokio::test(flavor = "multi_thread")]
async fn the_share_that_is_not_sampled_is_counted() {
    let bench = Bench::with(Position::default(), &|settings| {
        settings.slices[0].sample = 0.25;
        settings.slices[0].flow.waiting = 10_000;
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
async fn writes_are_not_mirrored_by_themselves() {
    let bench = Bench::new().await;
    let route: Arc<str> = "PUT /api/products/{id}/price".into();
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        assert!(bench.shadow.admit(&shop(), &route, &method, 0).is_none());
    }
    let odd = Method::from_bytes(b"PURGE").unwrap();
    assert!(bench.shadow.admit(&shop(), &route, &odd, 0).is_none());
    assert_eq!(bench.settled().await.ineligible, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_brings_no_exchange_is_counted_and_frees_its_place() {
    let bench = Bench::with(Position::default(), &|settings| {
        settings.slices[0].flow.waiting = 1
    })
    .await;
    let route: Arc<str> = "GET /x".into();
    for _ in 0..3 {
        let ticket = bench.shadow.admit(&shop(), &route, &Method::GET, 0);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_and_the_words_of_a_route_are_kept_and_counted() {
    let bench = Bench::with(Position::default(), &|settings| {
        let flow = &mut settings.slices[0].flow;
        flow.rate = Some(30.0);
        for (route, sample, rate, waiting) in [
            ("GET /never", Some(0.0), None, None),
            ("GET /seldom", None, Some(0.001), None),
            ("GET /few", None, None, Some(2)),
        ] {
            let apart = RouteShadow {
                sample,
                rate,
                waiting,
                ..RouteShadow::default()
            };
            flow.routes.insert(route.to_owned(), apart);
        }
    })
    .await;
    let asks = |route: &str, times: usize| -> Vec<Ticket> {
        let route: Arc<str> = route.into();
        let ask = |_| bench.shadow.admit(&shop(), &route, &Method::GET, 0);
        (0..times).filter_map(ask).collect()
    };
    assert_eq!(asks("GET /never", 10).len(), 0);
    assert_eq!(asks("GET /seldom", 10).len(), 1);
    assert_eq!(asks("GET /few", 10).len(), 2);
    assert_eq!(asks("GET /few", 1).len(), 1, "the places are free again");
    // What comes back while they are asked is a few more at the most.
    let usual = asks("GET /x", 1_000).len();
    assert!((26..500).contains(&usual), "{usual}");
    let seen = bench.settled().await;
    assert_eq!((seen.sampled_out, seen.eligible), (10, 1_031));
    let shed = bench.shadow.report(&shop()).unwrap().shed;
    assert_eq!(
        (shed["rate"], shed["busy"], shed["abandoned"]),
        (1_009 - usual as u64, 8, 4 + usual as u64)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn by_client_is_always_or_never() {
    let bench = Bench::with(Position::default(), &|settings| {
        settings.slices[0].sample = 0.5;
        settings.slices[0].flow.by_client = true;
    })
    .await;
    let route: Arc<str> = "GET /x".into();
    let mirrored = |client| {
        let ticket = bench.shadow.admit(&shop(), &route, &Method::GET, client);
        ticket.is_some()
    };
    let clients: Vec<u64> = (0..400).filter(|client| mirrored(*client)).collect();
    assert!((150..250).contains(&clients.len()), "{}", clients.len());
    for client in 0..400 {
        assert_eq!(mirrored(client), clients.contains(&client), "{client}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_a_route_have_a_part_of_the_memory() {
    let bench = Bench::with(Position::stuck(), &|settings| {
        let flow = &mut settings.slices[0].flow;
        flow.memory = 1_000;
        let small = RouteShadow {
            memory: Some(100),
            ..RouteShadow::default()
        };
        flow.routes.insert("GET /small".to_owned(), small);
    })
    .await;
    let held = || bench.shadow.report(&shop()).unwrap().memory;
    let ticket = |route: &str| {
        let route: Arc<str> = route.into();
        let asked = bench.shadow.admit(&shop(), &route, &Method::GET, 0);
        asked.unwrap()
    };
    let (small, other) = (ticket("GET /small"), ticket("GET /x"));
    assert!(!small.hold(101) && small.hold(100) && !small.hold(1));
    assert!(!ticket("GET /small").hold(1), "all of the route together");
    assert!(!other.hold(901) && other.hold(900));
    assert_eq!(held(), 1_000);
    drop(small);
    assert_eq!(held(), 900);
    assert!(ticket("GET /small").hold(100));
    drop(other);
    assert_eq!(held(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_do_not_fit_into_memory_are_shed_and_their_bytes_come_back() {
    let bench = Bench::with(Position::stuck(), &|settings| {
        settings.slices[0].flow.memory = 1_000;
    })
    .await;
    let held = || bench.shadow.report(&shop()).unwrap().memory;
    let route: Arc<str> = "GET /x".into();
    let ticket = || {
        bench
            .shadow
            .admit(&shop(), &route, &Method::GET, 0)
            .unwrap()
    };
    let (one, two) = (ticket(), ticket());
    assert!(one.hold(600) && !two.hold(401) && two.hold(400));
    assert_eq!(held(), 1_000);
    two.lose(Lost::Shed("memory"));
    assert_eq!(held(), 600);
    one.release();
    assert_eq!(held(), 0);
    drop(one);
    // The candidate's answer does not fit either.
    bench.extracted.set(&format!("\"{}\"", "x".repeat(2_000)));
    bench.client();
    let seen = bench.settled().await;
    assert_eq!((seen.shed, seen.not_comparable), (2, 1));
    let report = bench.shadow.report(&shop()).unwrap();
    assert_eq!(
        (report.shed["memory"], report.not_comparable["memory"]),
        (1, 1)
    );
    assert_eq!(held(), 0);
}
