//! A service that fails is spared, a request is sent again where that is safe, and nobody waits
//! without bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use outgrow_proxy::{Balance, BreakerRule, Retries, UpstreamLimits};
use outgrow_rollout::Weight;
use outgrow_testkit::{Upstream, client, eventually};
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;

use crate::balancing::{among, gated, told};
use crate::harness::{
    Front, WAIT, live, named, plain, say, slice_id, sliced, start, take_head, text,
};

/// Answers with this status, and counts.
pub(crate) async fn scripted(name: &'static str, status: &Arc<AtomicU16>) -> Upstream {
    let status = status.clone();
    Upstream::start(move |_| {
        let mut answer = text(name);
        *answer.status_mut() = StatusCode::from_u16(status.load(SeqCst)).unwrap();
        async move { answer }
    })
    .await
}

fn circuit(front: &Front, service: usize) -> String {
    let told = front.handle.describe()["services"][service]["circuit"]["state"].clone();
    told.as_str().unwrap().to_owned()
}

fn rule(failures: u32, open: Duration) -> BreakerRule {
    BreakerRule {
        failures,
        open,
        ..BreakerRule::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_fails_is_spared_and_found_again() {
    let status = Arc::new(AtomicU16::new(500));
    let upstream = scripted("x", &status).await;
    let mut settings = plain(&upstream);
    settings.legacy.rules.breaker = Some(rule(3, Duration::from_secs(60)));
    let front = start(settings.clone());
    for _ in 0..3 {
        assert_eq!(front.get("/", &[]).await.status, 500);
    }
    assert_eq!(circuit(&front, 0), "open");
    for answer in [front.get("/", &[]).await, front.post("/", "a write").await] {
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("x-outgrow-error"), Some("circuit-open"));
        let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((50..=60).contains(&after), "{after}");
    }
    assert_eq!(upstream.seen().len(), 3, "nothing was sent");
    front.stop().await;

    settings.legacy.rules.breaker = Some(rule(3, Duration::from_millis(100)));
    let front = start(settings);
    for _ in 0..3 {
        front.get("/", &[]).await;
    }
    let before = upstream.seen().len();
    eventually("a probe is sent", WAIT, || async {
        front.get("/", &[]).await;
        (upstream.seen().len() == before + 1).then_some(())
    })
    .await;
    assert_ne!(circuit(&front, 0), "closed", "the probe failed");
    status.store(200, SeqCst);
    eventually("it is found again", WAIT, || async {
        (front.get("/", &[]).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(circuit(&front, 0), "closed");
    front.stop().await;
}

/// Who says that it has too much to do has not recovered; before that it is an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_is_too_many_has_failed() {
    let status = Arc::new(AtomicU16::new(429));
    let upstream = scripted("x", &status).await;
    let mut settings = plain(&upstream);
    settings.legacy.rules.breaker = Some(rule(2, Duration::from_millis(100)));
    settings.legacy.rules.ejection = None;
    let front = start(settings);
    for _ in 0..4 {
        assert_eq!(front.get("/", &[]).await.status, 429);
    }
    assert_eq!(circuit(&front, 0), "closed");
    status.store(500, SeqCst);
    for _ in 0..2 {
        front.get("/", &[]).await;
    }
    status.store(429, SeqCst);
    for probe in 1..=2 {
        eventually("a probe is sent", WAIT, || async {
            front.get("/", &[]).await;
            (upstream.seen().len() == 6 + probe).then_some(())
        })
        .await;
        assert_ne!(circuit(&front, 0), "closed", "the probe failed");
    }
    status.store(200, SeqCst);
    eventually("it is found again", WAIT, || async {
        (front.get("/", &[]).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(circuit(&front, 0), "closed");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_failures_opens_the_circuit() {
    let count = Arc::new(AtomicUsize::new(0));
    let upstream = Upstream::start(move |_| {
        let mut answer = text("x");
        if !count.fetch_add(1, SeqCst).is_multiple_of(3) {
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
        }
        async move { answer }
    })
    .await;
    let mut settings = plain(&upstream);
    settings.legacy.rules.breaker = Some(BreakerRule {
        success_rate: 0.5,
        requests_min: 20,
        ..rule(0, Duration::from_secs(60))
    });
    let front = start(settings);
    eventually("the circuit opens", WAIT, || async {
        front.get("/", &[]).await;
        (circuit(&front, 0) == "open").then_some(())
    })
    .await;
    assert!(upstream.seen().len() >= 20);
    front.stop().await;
}

/// Reads go to the legacy side where that is allowed; a write has one writer only.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_circuit_falls_back_for_reads_alone() {
    let status = Arc::new(AtomicU16::new(500));
    let (legacy, extracted) = (named("legacy").await, scripted("x", &status).await);
    let mut settings = sliced(&legacy, &extracted);
    settings.services[0].rules.breaker = Some(rule(2, Duration::from_secs(60)));
    settings.slices[0].fallback = true;
    // So that the guard does not end the test's split first.
    settings.slices[0].guard.consecutive = 1_000;
    let front = start(settings);
    let mut now = live(1, Weight::FULL);
    now.writer = outgrow_rollout::Side::Extracted;
    front.handle.apply(&slice_id(), now);
    for _ in 0..4 {
        let answer = front.get("/api/items", &[("x-visitor", "v")]).await;
        assert_eq!(answer.text(), "legacy");
    }
    assert_eq!(extracted.seen().len(), 2, "then nothing was sent");
    assert_eq!(circuit(&front, 1), "open");
    let refused = front.post("/api/items", "a write").await;
    assert_eq!(refused.header("x-outgrow-error"), Some("circuit-open"));
    front.stop().await;
}

fn retries() -> Option<Retries> {
    Some(Retries::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_is_sent_again_and_a_write_is_not() {
    let status = Arc::new(AtomicU16::new(503));
    let (ill, well) = (scripted("ill", &status).await, named("well").await);
    let mut settings = among(&[&ill, &well], Balance::RoundRobin);
    settings.legacy.rules.retries = retries();
    settings.legacy.rules.ejection = None;
    let front = start(settings);
    for _ in 0..8 {
        assert_eq!(front.get("/", &[]).await.text(), "well");
    }
    assert!(ill.seen().len() >= 4, "it was asked first in turn");
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(front.post("/", "a write").await.status.as_u16());
    }
    assert_eq!(
        statuses.iter().filter(|s| **s == 503).count(),
        2,
        "{statuses:?}"
    );
    let writes = ill.seen().into_iter().chain(well.seen());
    let writes = writes.filter(|seen| seen.method == Method::POST).count();
    assert_eq!(writes, 4, "each was sent once");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_end_with_their_budget() {
    let status = Arc::new(AtomicU16::new(503));
    let ill = scripted("ill", &status).await;
    let mut settings = plain(&ill);
    settings.legacy.rules.retries = Some(Retries {
        attempts: 3,
        share: 0.1,
        ..Retries::default()
    });
    let front = start(settings);
    let begun = std::time::Instant::now();
    for _ in 0..100 {
        assert_eq!(front.get("/", &[]).await.status, 503);
    }
    let most = 100.0 + 10.0 + 100.0 * 0.1 + begun.elapsed().as_secs_f64();
    let sent = ill.seen().len();
    assert!(
        sent >= 110 && sent as f64 <= most.ceil(),
        "{sent} of {most}"
    );
    front.stop().await;
}

/// A connection that breaks off after the request was sent, and one that says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_breaks_or_hangs_is_not_the_last_one() {
    let breaks = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
    })
    .await;
    let hangs = Upstream::raw(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let well = named("well").await;
    for bad in [&breaks, &hangs] {
        let mut settings = among(&[bad, &well], Balance::RoundRobin);
        settings.legacy.rules.ejection = None;
        settings.legacy.rules.retries = Some(Retries {
            per_try_timeout: Some(Duration::from_millis(100)),
            ..Retries::default()
        });
        let front = start(settings);
        for _ in 0..4 {
            assert_eq!(front.get("/", &[]).await.text(), "well");
        }
        assert!(told(&front, 0, "failures").as_u64() >= Some(2));
        front.stop().await;
    }
    // All tries together have the service's time.
    let mut settings = plain(&hangs);
    settings.legacy.rules.timeout = Some(Duration::from_millis(150));
    settings.legacy.rules.retries = Some(Retries {
        attempts: 10,
        per_try_timeout: Some(Duration::from_millis(100)),
        ..Retries::default()
    });
    let front = start(settings);
    assert_eq!(front.get("/", &[]).await.status, 504);
    assert_eq!(told(&front, 0, "requests"), 2);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_has_no_more_requests_than_it_may() {
    let gate = Arc::new(Semaphore::new(0));
    let upstream = gated("x", &gate).await;
    let mut settings = plain(&upstream);
    settings.legacy.rules.limits = Some(UpstreamLimits {
        connections: 2,
        waiting: 1,
        wait: WAIT,
    });
    let front = Arc::new(start(settings));
    let ask = |front: &Arc<Front>| {
        let front = front.clone();
        tokio::spawn(async move { front.get("/", &[]).await })
    };
    let first = [ask(&front), ask(&front)];
    eventually("two are with the upstream", WAIT, || async {
        (upstream.seen().len() == 2).then_some(())
    })
    .await;
    let third = ask(&front);
    eventually("one waits", WAIT, || async {
        (told(&front, 0, "waiting") == 1).then_some(())
    })
    .await;
    let refused = front.get("/", &[]).await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("x-outgrow-error"), Some("overloaded"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(upstream.seen().len(), 2);
    gate.add_permits(3);
    for one in first.into_iter().chain([third]) {
        assert_eq!(one.await.unwrap().text(), "x");
    }
    assert_eq!(upstream.seen().len(), 3);
    Arc::into_inner(front).unwrap().stop().await;
}

/// One that is full does not keep a request from one that is not.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_upstream_has_a_turn_free() {
    let gate = Arc::new(Semaphore::new(0));
    let (full, free) = (gated("full", &gate).await, named("free").await);
    let mut settings = among(&[&full, &free], Balance::RoundRobin);
    settings.legacy.rules.limits = Some(UpstreamLimits {
        connections: 1,
        waiting: 0,
        wait: WAIT,
    });
    let front = Arc::new(start(settings));
    let hanging = {
        let front = front.clone();
        tokio::spawn(async move {
            let one = front.get("/", &[]).await.text();
            if one == "full" {
                one
            } else {
                front.get("/", &[]).await.text()
            }
        })
    };
    eventually("one is full", WAIT, || async {
        (full.seen().len() == 1).then_some(())
    })
    .await;
    for _ in 0..6 {
        assert_eq!(front.get("/", &[]).await.text(), "free");
    }
    gate.add_permits(1);
    assert_eq!(hanging.await.unwrap(), "full");
    Arc::into_inner(front).unwrap().stop().await;
}

/// A tunnel is a connection in use as long as it is open.
#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_keeps_its_turn() {
    let upstream = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        say(&mut stream, head).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let mut settings = plain(&upstream);
    settings.legacy.rules.limits = Some(UpstreamLimits {
        connections: 1,
        waiting: 0,
        wait: WAIT,
    });
    let front = start(settings);
    let mut stream = tokio::net::TcpStream::connect(front.at).await.unwrap();
    let ask = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    say(&mut stream, ask).await;
    crate::harness::read_until(&mut stream, "\r\n\r\n").await;
    let request = client::request(Method::GET, &front.url("/"), &[], Bytes::new());
    let refused = client::send(request).await;
    assert_eq!(refused.header("x-outgrow-error"), Some("overloaded"));
    drop(stream);
    eventually("its turn is given back", WAIT, || async {
        (told(&front, 0, "in_flight") == 0).then_some(())
    })
    .await;
    front.stop().await;
}

/// What one core learns holds for all.
#[tokio::test(flavor = "multi_thread")]
async fn cores_count_together() {
    let status = Arc::new(AtomicU16::new(500));
    let upstream = scripted("x", &status).await;
    let mut settings = plain(&upstream);
    settings.workers = std::num::NonZeroUsize::new(4).unwrap();
    settings.legacy.rules.breaker = Some(rule(12, Duration::from_secs(60)));
    let front = start(settings);
    // Each on a connection of its own, which the kernel gives to any of the cores.
    for _ in 0..12 {
        assert_eq!(front.get("/", &[]).await.status, 500);
    }
    for _ in 0..8 {
        let answer = front.get("/", &[]).await;
        assert_eq!(answer.header("x-outgrow-error"), Some("circuit-open"));
    }
    assert_eq!(upstream.seen().len(), 12);
    front.stop().await;
}

/// The client of the one request that was to find out has left: the next one finds out.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_whose_client_leaves_is_no_verdict() {
    let gate = Arc::new(Semaphore::new(0));
    let status = Arc::new(AtomicU16::new(500));
    let (state, turn) = (status.clone(), gate.clone());
    let upstream = Upstream::start(move |_| {
        let (state, turn) = (state.clone(), turn.clone());
        async move {
            let code = StatusCode::from_u16(state.load(SeqCst)).unwrap();
            if code.is_success() {
                let _ = turn.acquire().await;
            }
            let mut answer = text("x");
            *answer.status_mut() = code;
            answer
        }
    })
    .await;
    let mut settings = plain(&upstream);
    settings.legacy.rules.breaker = Some(rule(2, Duration::from_millis(100)));
    let front = start(settings);
    for _ in 0..2 {
        front.get("/", &[]).await;
    }
    status.store(200, SeqCst);
    let before = upstream.seen().len();
    loop {
        let at = front.at;
        let client = tokio::spawn(async move {
            let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
            let ask = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            say(&mut stream, ask).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
        eventually("it is refused, or finds out", WAIT, || async {
            (client.is_finished() || upstream.seen().len() > before).then_some(())
        })
        .await;
        if upstream.seen().len() > before {
            client.abort();
            break;
        }
    }
    eventually("its place is free again", WAIT, || async {
        (told(&front, 0, "in_flight") == 0).then_some(())
    })
    .await;
    assert_eq!(circuit(&front, 0), "half-open");
    gate.add_permits(10);
    eventually("the next one finds out", WAIT, || async {
        (front.get("/", &[]).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(circuit(&front, 0), "closed");
    front.stop().await;
}

/// A client that leaves while it waits takes no turn, and leaves no place taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_the_queue_is_gone_from_it() {
    let gate = Arc::new(Semaphore::new(0));
    let upstream = gated("x", &gate).await;
    let mut settings = plain(&upstream);
    settings.legacy.rules.limits = Some(UpstreamLimits {
        connections: 1,
        waiting: 1,
        wait: WAIT,
    });
    let front = Arc::new(start(settings));
    let first = {
        let front = front.clone();
        tokio::spawn(async move { front.get("/", &[]).await.text() })
    };
    eventually("the upstream is full", WAIT, || async {
        (upstream.seen().len() == 1).then_some(())
    })
    .await;
    let mut leaves = tokio::net::TcpStream::connect(front.at).await.unwrap();
    say(&mut leaves, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let waiting = |count: u64| {
        let front = &front;
        move || async move { (told(front, 0, "waiting") == count).then_some(()) }
    };
    eventually("one waits", WAIT, waiting(1)).await;
    drop(leaves);
    eventually("nobody waits", WAIT, waiting(0)).await;
    gate.add_permits(2);
    assert_eq!(first.await.unwrap(), "x");
    assert_eq!(front.get("/", &[]).await.text(), "x");
    assert_eq!(upstream.seen().len(), 2, "who has left was not sent");
    Arc::into_inner(front).unwrap().stop().await;
}
