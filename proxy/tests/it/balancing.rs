//! Several upstreams for one service: who is asked, and who is left alone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use outgrow_proxy::{Balance, Ejection, ServiceSettings, Settings};
use outgrow_testkit::{Upstream, client, eventually, process::free_address};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::harness::{Front, WAIT, authority, named, plain, say, sliced, start, text};

/// A pass-through to all of these.
pub(crate) fn among(upstreams: &[&Upstream], balance: Balance) -> Settings {
    let mut settings = plain(upstreams[0]);
    let upstreams = upstreams.iter().map(|upstream| authority(upstream));
    settings.legacy = ServiceSettings::new("legacy", upstreams.collect());
    settings.legacy.rules.balance = balance;
    settings
}

/// What `status` says of the legacy side's upstream of this number.
pub(crate) fn told(front: &Front, index: usize, key: &str) -> Value {
    front.handle.describe()["services"][0]["upstreams"][index][key].clone()
}

async fn names(front: &Front, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..count {
        let answer = front.get("/", &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        all.push(answer.text());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn round_robin_takes_turns() {
    let (a, b, c) = (named("a").await, named("b").await, named("c").await);
    let front = start(among(&[&a, &b, &c], Balance::RoundRobin));
    let seen = names(&front, 12).await;
    for three in seen.chunks(3) {
        assert_eq!(three.iter().collect::<BTreeSet<_>>().len(), 3, "{seen:?}");
    }
    assert_eq!(told(&front, 1, "requests"), 4);
    front.stop().await;
}

/// Answers once a permit is there.
pub(crate) async fn gated(name: &'static str, gate: &Arc<Semaphore>) -> Upstream {
    let gate = gate.clone();
    Upstream::start(move |_| {
        let gate = gate.clone();
        async move {
            if let Ok(permit) = gate.acquire().await {
                permit.forget();
            }
            text(name)
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_gets_no_more() {
    for balance in [Balance::PowerOfTwo, Balance::LeastRequests] {
        let gate = Arc::new(Semaphore::new(0));
        let (slow, b, c) = (
            gated("slow", &gate).await,
            named("b").await,
            named("c").await,
        );
        let front = Arc::new(start(among(&[&slow, &b, &c], balance)));
        let mut hanging = Vec::new();
        while slow.seen().is_empty() {
            let front = front.clone();
            hanging.push(tokio::spawn(
                async move { front.get("/", &[]).await.text() },
            ));
            let count = hanging.len();
            eventually("the request arrived", WAIT, || async {
                let all = [&slow, &b, &c].map(|upstream| upstream.seen().len());
                (all.iter().sum::<usize>() == count).then_some(())
            })
            .await;
        }
        assert_eq!(told(&front, 0, "in_flight"), 1);
        let seen = names(&front, 40).await;
        assert!(!seen.contains(&"slow".to_owned()), "{balance:?}: {seen:?}");
        gate.add_permits(1);
        let mut answers = Vec::new();
        for one in hanging {
            answers.push(one.await.unwrap());
        }
        assert_eq!(answers.last().map(String::as_str), Some("slow"));
        Arc::into_inner(front).unwrap().stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_keeps_a_client_where_it_is() {
    let (legacy, a, b, c) = (
        named("legacy").await,
        named("a").await,
        named("b").await,
        named("c").await,
    );
    let mut settings = sliced(&legacy, &a);
    let all = [&a, &b, &c].map(authority).to_vec();
    settings.services = vec![ServiceSettings::new("shop", all)];
    settings.services[0].rules.balance = Balance::RingHash;
    let front = start(settings.clone());
    front.weigh(1, outgrow_rollout::Weight::FULL);
    let mut before = Vec::new();
    for n in 0..30 {
        let visitor = format!("v{n}");
        let fields = [("x-visitor", visitor.as_str())];
        let ask = || front.get("/api/items", &fields);
        let (one, two) = (ask().await.text(), ask().await.text());
        assert_eq!(one, two);
        before.push(one);
    }
    let used: BTreeSet<&String> = before.iter().collect();
    assert_eq!(used.len(), 3, "{before:?}");
    drop(b);
    for (n, at) in before.iter().enumerate() {
        let visitor = format!("v{n}");
        let now = front
            .get("/api/items", &[("x-visitor", &visitor)])
            .await
            .text();
        assert_eq!(*at == "b", now != *at, "{at} to {now}");
    }
    front.stop().await;
    // By a field instead.
    settings.services[0].rules.hash_by = Some(http::HeaderName::from_static("x-tenant"));
    let front = start(settings);
    front.weigh(1, outgrow_rollout::Weight::FULL);
    let mut seen = BTreeSet::new();
    for n in 0..20 {
        let visitor = format!("v{n}");
        let fields = [("x-visitor", visitor.as_str()), ("x-tenant", "t")];
        seen.insert(front.get("/api/items", &fields).await.text());
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_upstream_fails_nobody_and_is_left_alone() {
    let well = named("well").await;
    let mut settings = among(&[&well], Balance::RoundRobin);
    let dead = free_address().to_string().parse().unwrap();
    settings.legacy.upstreams.insert(0, dead);
    let front = start(settings);
    for _ in 0..10 {
        assert_eq!(names(&front, 1).await, ["well"]);
        assert_eq!(front.post("/", "a write").await.text(), "well");
    }
    assert_eq!(told(&front, 0, "state"), "ejected");
    assert_eq!(told(&front, 0, "failures"), 5, "then it was asked no more");
    assert_eq!(told(&front, 1, "state"), "well");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_comes_back_on_trial() {
    let well = named("well").await;
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let state = broken.clone();
    let ill = Upstream::start(move |_| {
        let mut answer = text("ill");
        if state.load(std::sync::atomic::Ordering::SeqCst) {
            *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        }
        async move { answer }
    })
    .await;
    let mut settings = among(&[&ill, &well], Balance::RoundRobin);
    settings.legacy.rules.ejection = Some(Ejection {
        failures: 3,
        time: Duration::from_millis(100),
        ..Ejection::default()
    });
    let front = start(settings);
    let ask = || front.get("/", &[]);
    let state = |state: &'static str| {
        let front = &front;
        move || async move {
            front.get("/", &[]).await;
            (told(front, 0, "state") == state).then_some(())
        }
    };
    eventually("it is left alone", WAIT, state("ejected")).await;
    assert_eq!(told(&front, 0, "failures"), 3);
    // Back on trial: one failure is enough.
    eventually("it is asked again", WAIT, state("well")).await;
    eventually("it is left alone at once", WAIT, state("ejected")).await;
    assert_eq!(told(&front, 0, "failures"), 4);
    broken.store(false, std::sync::atomic::Ordering::SeqCst);
    eventually("it is asked again", WAIT, state("well")).await;
    let seen = [ask().await.text(), ask().await.text()];
    assert!(seen.contains(&"ill".to_owned()), "{seen:?}");
    front.stop().await;
}

/// Where all fail there is nobody better to ask: their answers are passed on.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_one_is_never_left_alone() {
    let (a, b) = (
        Upstream::always(500, "a").await,
        Upstream::always(500, "b").await,
    );
    let front = start(among(&[&a, &b], Balance::RoundRobin));
    for _ in 0..30 {
        let answer = front.get("/", &[]).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("x-outgrow-error")),
            (500, None)
        );
    }
    let states = [told(&front, 0, "state"), told(&front, 1, "state")];
    assert!(states.contains(&"well".into()), "{states:?}");
    assert!(states.contains(&"ejected".into()), "{states:?}");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_off_is_no_failure_of_the_upstream() {
    let gate = Arc::new(Semaphore::new(0));
    let (a, b) = (gated("a", &gate).await, gated("b", &gate).await);
    let front = start(among(&[&a, &b], Balance::RoundRobin));
    let mut clients = Vec::new();
    for _ in 0..12 {
        let mut stream = TcpStream::connect(front.at).await.unwrap();
        let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf";
        say(&mut stream, head).await;
        clients.push(stream);
    }
    let of = |index| told(&front, index, "in_flight").as_u64().unwrap();
    let in_flight = || of(0) + of(1);
    eventually("all are on their way", WAIT, || async {
        (in_flight() == 12).then_some(())
    })
    .await;
    drop(clients);
    eventually("all have ended", WAIT, || async {
        (in_flight() == 0).then_some(())
    })
    .await;
    gate.add_permits(100);
    let request = client::request(Method::GET, &front.url("/"), &[], Bytes::new());
    assert_eq!(client::send(request).await.status, 200);
    for index in [0, 1] {
        assert_eq!(told(&front, index, "failures"), 0);
        assert_eq!(told(&front, index, "state"), "well");
    }
    front.stop().await;
}
