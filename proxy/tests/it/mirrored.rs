//! Clients beside a candidate that fails in every way: they get what they get without a shadow.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderName, Method, StatusCode};
use outgrow_proxy::Settings;
use outgrow_rollout::{Live, ShadowEvidence, SliceId, Weight};
use outgrow_shadow::{Flow, Freshness, Limits, Place, Shadow, ShadowSettings, SliceShadow};
use outgrow_testkit::process::free_address;
use outgrow_testkit::{Upstream, client, eventually};
use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;

use crate::harness::{Front, WAIT, live, say, slice_id, sliced, start_with, take_head};

const REQUESTS: usize = 60;
const MEMORY: usize = 16 * 1_024;

struct NoLink;

impl Freshness for NoLink {
    fn applied_through(&self, _: &SliceId) -> Option<SystemTime> {
        None
    }

    fn has_link(&self, _: &SliceId) -> bool {
        false
    }
}

/// Answers, is in trouble, and breaks off in the middle, as the path says.
async fn legacy() -> Upstream {
    Upstream::raw(|mut stream| async move {
        loop {
            let head = take_head(&mut stream).await;
            let Some(target) = head.split(' ').nth(1) else {
                return;
            };
            let n: usize = target
                .rsplit('/')
                .next()
                .and_then(|n| n.parse().ok())
                .unwrap_or(0);
            let body = "x".repeat(n * 100);
            let length = body.len();
            let answer = match n % 10 {
                3 => "HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy".to_owned(),
                7 => "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf".to_owned(),
                _ => format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"),
            };
            say(&mut stream, &answer).await;
            if n % 10 == 7 {
                return;
            }
        }
    })
    .await
}

fn shadow(settings: &Settings, candidate: Place) -> Shadow {
    let places = |all: Vec<Place>| all.into_iter().collect();
    let slice = SliceShadow {
        id: slice_id(),
        legacy: places(Vec::new()),
        extracted: places(vec![candidate]),
        sandbox: Default::default(),
        rewrites: Default::default(),
        sample: 1.0,
        flow: Flow {
            waiting: 8,
            memory: MEMORY,
            in_flight: 2,
            ..Flow::default()
        },
        noise_sample: 0.0,
        rules: Vec::new(),
        arrays: Vec::new(),
        headers: None,
        redact: Vec::new(),
        keep: Duration::from_hours(1),
        mismatch_max: 0.001,
    };
    assert_eq!(settings.slices[0].id, slice.id);
    let settings = ShadowSettings {
        slices: vec![slice],
        build_header: HeaderName::from_static("x-build-id"),
        limits: Limits {
            timeout: Duration::from_millis(200),
            ..Limits::default()
        },
    };
    Shadow::start(settings, Arc::new(NoLink), &Handle::current()).unwrap()
}

/// What clients get: status and body, or that the answer broke off.
async fn asked(front: &Front, shadow: Option<&Shadow>) -> Vec<Option<(StatusCode, Bytes)>> {
    let mut got = Vec::new();
    for n in 0..REQUESTS {
        let url = front.url(&format!("/api/items/{n}"));
        let request = client::request(Method::GET, &url, &[("x-visitor", "v")], Bytes::new());
        let answer = client::try_send(request).await;
        got.push(answer.ok().map(|answer| (answer.status, answer.body)));
        if let Some(shadow) = shadow {
            let held = shadow.report(&slice_id()).unwrap().memory;
            assert!(held <= MEMORY, "{held} bytes");
        }
    }
    got
}

async fn beside(candidate: Place) -> ShadowEvidence {
    let legacy = legacy().await;
    let settings = sliced(&legacy, &legacy);
    let alone = start_with(settings.clone(), None);
    let expected = asked(&alone, None).await;
    assert!(expected.iter().any(Option::is_none), "some break off");
    alone.stop().await;
    let shadow = shadow(&settings, candidate);
    let front = start_with(settings, Some(Arc::new(shadow.clone())));
    let mirrored = Live {
        mirror: true,
        ..live(1, Weight::ZERO)
    };
    front.handle.apply(&slice_id(), mirrored);
    assert_eq!(asked(&front, Some(&shadow)).await, expected);
    front.stop().await;
    let seen = eventually("every pair to be judged", WAIT, || async {
        let seen = shadow.evidence(&slice_id()).unwrap();
        (seen.waiting == 0).then_some(seen)
    })
    .await;
    let sent = seen.matched + seen.mismatched + seen.candidate_errors + seen.not_comparable;
    assert_eq!(seen.eligible, REQUESTS as u64);
    assert_eq!(seen.eligible, seen.shed + sent, "{seen:?}");
    assert_eq!(seen.matched + seen.mismatched, 0, "{seen:?}");
    assert!(seen.candidate_errors > 0, "{seen:?}");
    assert_eq!(shadow.report(&slice_id()).unwrap().memory, 0);
    seen
}

fn at(upstream: &Upstream) -> Place {
    Place::Tcp(upstream.addr().to_string().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_hangs_is_in_nobodys_way() {
    let hangs = Upstream::raw(|mut stream| async move {
        let mut taken = [0; 1024];
        while stream.read(&mut taken).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    let seen = beside(at(&hangs)).await;
    assert!(seen.shed > 0, "more than is let in");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_resets_is_in_nobodys_way() {
    let resets = Upstream::raw(|stream| async move {
        // Closed with bytes unread: a reset.
        let _ = stream.readable().await;
        drop(stream);
    })
    .await;
    beside(at(&resets)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_drips_is_in_nobodys_way() {
    let drips = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n";
        say(&mut stream, head).await;
        let mut drops = tokio::time::interval(Duration::from_millis(10));
        for _ in 0..200 {
            drops.tick().await;
            say(&mut stream, "x").await;
        }
    })
    .await;
    beside(at(&drips)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_is_dead_is_in_nobodys_way() {
    beside(Place::Tcp(free_address().to_string().parse().unwrap())).await;
}
