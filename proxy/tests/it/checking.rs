//! Upstreams that are asked how they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::time::Duration;

use http::StatusCode;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use outgrow_proxy::{Balance, Check, Health, Protocol};
use outgrow_testkit::{Upstream, eventually};
use tokio::io::AsyncReadExt;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};

use crate::balancing::{among, told};
use crate::harness::{Front, WAIT, named, start, text};
use crate::multiplexed::known;

fn often() -> Health {
    Health {
        every: Duration::from_millis(100),
        timeout: Duration::from_millis(100),
        ..Health::at("/healthz")
    }
}

/// Answers requests with its name, and checks with this status.
async fn checked(name: &'static str, status: &Arc<AtomicU16>) -> Upstream {
    let status = status.clone();
    Upstream::start(move |request| {
        let mut answer = text(name);
        if request.uri().path() == "/healthz" {
            *answer.status_mut() = StatusCode::from_u16(status.load(SeqCst)).unwrap();
        }
        async move { answer }
    })
    .await
}

async fn becomes(front: &Front, index: usize, state: &str) {
    eventually(state, WAIT, || async {
        (told(front, index, "state") == state).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_ill_gets_nothing_until_it_is_well() {
    let status = Arc::new(AtomicU16::new(200));
    let (a, b) = (checked("a", &status).await, named("b").await);
    let mut settings = among(&[&a, &b], Balance::RoundRobin);
    settings.legacy.rules.health = Some(often());
    let front = start(settings);
    let both = [
        front.get("/", &[]).await.text(),
        front.get("/", &[]).await.text(),
    ];
    assert!(
        both.contains(&"a".to_owned()) && both.contains(&"b".to_owned()),
        "{both:?}"
    );
    status.store(503, SeqCst);
    becomes(&front, 0, "unhealthy").await;
    assert_eq!(
        told(&front, 0, "last_check"),
        "it answers 503 Service Unavailable"
    );
    for _ in 0..6 {
        assert_eq!(front.get("/", &[]).await.text(), "b");
    }
    status.store(204, SeqCst);
    becomes(&front, 0, "well").await;
    let both = [
        front.get("/", &[]).await.text(),
        front.get("/", &[]).await.text(),
    ];
    assert!(both.contains(&"a".to_owned()), "{both:?}");
    let seen = a.seen();
    let check = seen.iter().find(|seen| seen.target == "/healthz").unwrap();
    assert_eq!(check.header("host"), Some(a.addr().to_string().as_str()));
    assert_eq!(check.header("user-agent"), Some("outgrow-health"));
    front.stop().await;
}

/// Checks that all fail may be the checks' fault: requests are carried all the same.
#[tokio::test(flavor = "multi_thread")]
async fn where_all_are_ill_all_are_asked() {
    let status = Arc::new(AtomicU16::new(500));
    let (a, b) = (checked("a", &status).await, checked("b", &status).await);
    let mut settings = among(&[&a, &b], Balance::RoundRobin);
    settings.legacy.rules.health = Some(often());
    let front = start(settings);
    becomes(&front, 0, "unhealthy").await;
    becomes(&front, 1, "unhealthy").await;
    let both = [
        front.get("/", &[]).await.text(),
        front.get("/", &[]).await.text(),
    ];
    assert!(
        both.contains(&"a".to_owned()) && both.contains(&"b".to_owned()),
        "{both:?}"
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_connections_and_says_nothing_is_ill() {
    let hangs = Upstream::raw(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let well = named("well").await;
    let mut settings = among(&[&hangs, &well], Balance::RoundRobin);
    settings.legacy.rules.health = Some(often());
    let front = start(settings);
    becomes(&front, 0, "unhealthy").await;
    assert_eq!(told(&front, 0, "last_check"), "no answer within 100ms");
    assert_eq!(told(&front, 0, "failures"), 0, "no client had to find out");
    for _ in 0..4 {
        assert_eq!(front.get("/", &[]).await.text(), "well");
    }
    front.stop().await;
}

/// The health service that tonic has, in clear text.
async fn called() -> (HealthReporter, Upstream) {
    let (reporter, server) = health_reporter();
    let upstream = Upstream::raw(move |stream| {
        let service = TowerToHyperService::new(server.clone());
        async move {
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await;
    (reporter, upstream)
}

fn calls(service: &str) -> Health {
    Health {
        check: Check::Grpc(service.to_owned()),
        ..often()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_may_be_asked_by_grpc() {
    let (reporter, upstream) = called().await;
    let mut settings = known(&upstream);
    settings.legacy.rules.health = Some(calls("shop.Items"));
    let front = start(settings);
    becomes(&front, 0, "unhealthy").await;
    assert_eq!(told(&front, 0, "last_check"), "it knows no such service");
    for (status, state) in [
        (ServingStatus::Serving, "well"),
        (ServingStatus::NotServing, "unhealthy"),
        (ServingStatus::Serving, "well"),
        (ServingStatus::Unknown, "unhealthy"),
    ] {
        reporter.set_service_status("shop.Items", status).await;
        becomes(&front, 0, state).await;
    }
    assert_eq!(told(&front, 0, "last_check"), "it says UNKNOWN");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_be_asked_about_as_a_whole() {
    let (reporter, upstream) = called().await;
    let mut settings = known(&upstream);
    settings.legacy.rules.health = Some(calls(""));
    let front = start(settings);
    for (status, state) in [
        (ServingStatus::NotServing, "unhealthy"),
        (ServingStatus::Serving, "well"),
    ] {
        reporter.set_service_status("", status).await;
        becomes(&front, 0, state).await;
    }
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_health_service_is_not_well() {
    let page = named("a page").await;
    for (protocol, why) in [
        (Protocol::Http2, "its answer is none of a health check"),
        (Protocol::Http1, "it speaks no HTTP/2"),
    ] {
        let mut settings = known(&page);
        settings.legacy.rules.transport.protocol = protocol;
        settings.legacy.rules.health = Some(calls("shop.Items"));
        let front = start(settings);
        becomes(&front, 0, "unhealthy").await;
        assert_eq!(told(&front, 0, "last_check"), why);
        front.stop().await;
    }
}
