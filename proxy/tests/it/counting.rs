//! What is counted of services, upstreams, connections and held writes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use outgrow_proxy::{Balance, BreakerRule, Ejection, Retries};
use outgrow_rollout::{ServiceFigures, UpstreamFigures, UpstreamState};
use outgrow_testkit::{Upstream, eventually, process::free_address};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::balancing::among;
use crate::harness::{Front, WAIT, named, plain, slice_id, sliced, start, text};
use crate::multiplexed::streams;

fn legacy(front: &Front) -> ServiceFigures {
    front.handle.services().swap_remove(0)
}

fn only(front: &Front) -> UpstreamFigures {
    legacy(front).upstreams.swap_remove(0)
}

/// Codes that were counted.
pub(crate) fn refused(front: &Front) -> Vec<(&'static str, u64)> {
    let told = front.handle.refusals().into_iter();
    told.filter(|(_, count)| *count > 0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted_as_made_reused_and_at_rest() {
    let upstream = named("a").await;
    let front = start(plain(&upstream));
    for _ in 0..5 {
        assert_eq!(front.get("/", &[]).await.status, 200);
    }
    let seen = eventually("all are over", WAIT, || async {
        Some(only(&front)).filter(|seen| seen.in_flight == 0)
    })
    .await;
    assert_eq!((seen.requests, seen.failures), (5, 0));
    assert_eq!((seen.connected, seen.reused, seen.idle), (1, 4, 1));
    assert_eq!(seen.state, UpstreamState::Well);
    assert_eq!(seen.upstream, upstream.addr().to_string());
    // What nobody has to be asked for is no source.
    assert!(legacy(&front).sources.is_empty());
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ejections_and_openings_are_counted() {
    let (a, b) = (
        Upstream::always(500, "a").await,
        Upstream::always(500, "b").await,
    );
    let mut settings = among(&[&a, &b], Balance::RoundRobin);
    settings.legacy.rules.ejection = Some(Ejection {
        failures: 2,
        ..Ejection::default()
    });
    settings.legacy.rules.breaker = Some(BreakerRule {
        failures: 6,
        ..BreakerRule::default()
    });
    let front = start(settings);
    for _ in 0..8 {
        front.get("/", &[]).await;
    }
    let seen = legacy(&front);
    let ejections: u64 = seen.upstreams.iter().map(|u| u.ejections).sum();
    assert_eq!(ejections, 1, "the last one that is well never is");
    let circuit = seen.circuit.unwrap();
    assert_eq!((circuit.state.as_str(), circuit.opened), ("open", 1));
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_are_counted_as_tried_and_as_refused() {
    let busy = Upstream::start(|_| async {
        let mut answer = text("busy");
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        answer
    })
    .await;
    let mut settings = plain(&busy);
    settings.legacy.rules.retries = Some(Retries {
        attempts: 1,
        share: 0.0,
        ..Retries::default()
    });
    let front = start(settings);
    for _ in 0..30 {
        front.get("/", &[]).await;
    }
    let seen = legacy(&front);
    assert_eq!(seen.retries + seen.retries_refused, 30);
    assert!(seen.retries >= 10 && seen.retries_refused > 0, "{seen:?}");
    assert_eq!(only(&front).requests, 30 + seen.retries);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn held_writes_are_counted_with_their_time() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let front = Arc::new(start(sliced(&legacy, &extracted)));
    front.handle.hold(&slice_id(), WAIT).await.unwrap();
    let waiting = tokio::spawn({
        let front = front.clone();
        async move { front.post("/api/items", "a write").await.status }
    });
    let held = |wanted: u64| {
        let front = &front;
        move || async move {
            let seen = front.handle.holds().swap_remove(0);
            (seen.waiting == wanted).then_some(seen)
        }
    };
    let seen = eventually("it waits", WAIT, held(1)).await;
    assert!(seen.held);
    front.handle.release(&slice_id());
    assert_eq!(waiting.await.unwrap(), 200);
    let seen = eventually("nothing waits", WAIT, held(0)).await;
    assert_eq!((seen.held, seen.waited, seen.refused), (false, 1, 0));
    assert!(seen.waited_us > 0);
    Arc::into_inner(front).unwrap().stop().await;
    // One that waits too long is refused.
    let mut settings = sliced(&legacy, &extracted);
    settings.limits.hold_timeout = Duration::from_millis(50);
    let front = start(settings);
    front.handle.hold(&slice_id(), WAIT).await.unwrap();
    assert_eq!(front.post("/api/items", "a write").await.status, 503);
    assert_eq!(front.handle.holds()[0].refused, 1);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_proxy_answers_itself_is_counted_also_without_a_head() {
    let upstream = named("a").await;
    let front = start(plain(&upstream));
    for bad in [
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "no request\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n",
    ] {
        assert!(front.raw(bad).await.contains("x-outgrow-error"), "{bad:?}");
    }
    assert_eq!(front.get("/", &[]).await.status, 200);
    // Nobody to answer: a head that does not end, line ends that begin none, no word at all.
    for unfinished in ["GET / HTTP/1.1\r\nhost: a\r\n", "\r\n", ""] {
        let mut stream = TcpStream::connect(front.at).await.unwrap();
        stream.write_all(unfinished.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    }
    assert_eq!(
        refused(&front),
        [("malformed", 2), ("connect", 1), ("unfinished-head", 1)]
    );
    front.stop().await;
    // A side that cannot be asked.
    let mut settings = plain(&upstream);
    settings.legacy.upstreams = vec![free_address().to_string().parse().unwrap()];
    settings.limits.headers_max = 8;
    let front = start(settings);
    assert_eq!(front.get("/", &[]).await.status, 503);
    // A stream with too many fields comes to no stage.
    let many = (0..9).fold(Request::get("http://a/"), |request, n| {
        request.header(format!("x-{n}"), "1")
    });
    let many = many.body(Empty::<Bytes>::new()).unwrap();
    let answer = streams(front.at).await.send_request(many).await.unwrap();
    assert_eq!(answer.status(), 431);
    assert_eq!(
        refused(&front),
        [("head-too-long", 1), ("connect-failed", 1)]
    );
    front.stop().await;
}
