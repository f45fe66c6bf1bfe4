//! Answers that break off behind a head that looked well: whose doing it was, and who hears of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::Method;
use outgrow_proxy::{Act, Balance, BreakerRule};
use outgrow_rollout::Weight;
use outgrow_testkit::{Upstream, client, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::balancing::{among, told};
use crate::harness::{
    Front, WAIT, named, plain, read_until, say, slice_id, sliced, start, take_head,
};
use crate::multiplexed::{Asked, known, scripted};

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";

/// What each says in place of an answer that is whole.
const BROKEN: [&str; 4] = [
    CHUNKED,
    "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\nno field\r\n\r\n",
];

/// Says this of each request, and hangs up.
async fn breaking(says: &'static str) -> Upstream {
    Upstream::raw(move |mut stream| async move {
        take_head(&mut stream).await;
        say(&mut stream, says).await;
    })
    .await
}

fn errors(front: &Front) -> u64 {
    let routes = front.handle.routes();
    routes.iter().map(|of| of.times.errors).sum()
}

/// Whether an answer comes whole.
async fn comes(front: &Front, path: &str) -> bool {
    let request = client::request(Method::GET, &front.url(path), &[], Bytes::new());
    client::try_send(request).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_breaks_off_is_its_failure() {
    for says in BROKEN {
        let upstream = breaking(says).await;
        let front = start(plain(&upstream));
        for n in 1..=2_u64 {
            assert!(!comes(&front, "/").await, "{says:?}");
            assert_eq!(errors(&front), n, "{says:?}");
            assert_eq!(told(&front, 0, "failures"), n, "{says:?}");
            assert_eq!(told(&front, 0, "requests"), n, "{says:?}");
        }
        front.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_reset_behind_its_head_is_a_failure() {
    let come = Arc::new(Notify::new());
    let goes = come.clone();
    let streams = scripted(
        Arc::default(),
        100,
        move |_, (_request, mut respond): Asked| {
            let goes = goes.clone();
            async move {
                let head = http::Response::new(());
                let mut send = respond.send_response(head, false).unwrap();
                send.send_data(Bytes::from_static(b"half"), false).unwrap();
                goes.notified().await;
                send.send_reset(Reason::INTERNAL_ERROR);
            }
        },
    )
    .await;
    let front = start(known(&streams));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    read_until(&mut stream, "half").await;
    assert_eq!((errors(&front), told(&front, 0, "failures")), (0, 0.into()));
    come.notify_one();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    assert_eq!((errors(&front), told(&front, 0, "failures")), (1, 1.into()));
    front.stop().await;
}

/// However long answers may stay silent.
#[tokio::test(flavor = "multi_thread")]
async fn that_does_not_hang_on_other_rules() {
    let upstream = breaking(CHUNKED).await;
    let mut settings = plain(&upstream);
    settings.limits.allowance.answer_idle = Some(Duration::ZERO);
    let front = start(settings);
    assert!(!comes(&front, "/").await);
    assert_eq!((errors(&front), told(&front, 0, "failures")), (1, 1.into()));
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_breaks_off_again_and_again_is_left_alone() {
    let (bad, good) = (breaking(CHUNKED).await, named("good").await);
    let front = start(among(&[&bad, &good], Balance::RoundRobin));
    let mut broken = 0;
    for _ in 0..40 {
        broken += u32::from(!comes(&front, "/").await);
    }
    assert_eq!(told(&front, 0, "state"), "ejected");
    assert_eq!(broken, 5, "five in a row are enough");
    front.stop().await;
}

/// Answers that come whole in between are no row.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_breaks_off_now_and_then_is_not() {
    let asked = Arc::new(AtomicUsize::new(0));
    let sometimes = Upstream::raw(move |mut stream| {
        let n = asked.fetch_add(1, SeqCst);
        async move {
            take_head(&mut stream).await;
            say(&mut stream, CHUNKED).await;
            if n % 3 == 2 {
                say(&mut stream, "0\r\n\r\n").await;
            }
        }
    })
    .await;
    let good = named("good").await;
    let front = start(among(&[&sometimes, &good], Balance::RoundRobin));
    for _ in 0..40 {
        comes(&front, "/").await;
    }
    assert_eq!(told(&front, 0, "state"), "well");
    assert_eq!(told(&front, 0, "requests"), 20);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_opens_over_answers_that_break_off() {
    let upstream = breaking(CHUNKED).await;
    let mut settings = plain(&upstream);
    settings.legacy.rules.breaker = Some(BreakerRule {
        failures: 3,
        open: Duration::from_secs(60),
        ..BreakerRule::default()
    });
    let front = start(settings);
    for _ in 0..3 {
        assert!(!comes(&front, "/").await);
    }
    let refused = front.get("/", &[]).await;
    assert_eq!(refused.header("x-outgrow-error"), Some("circuit-open"));
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_hears_of_a_side_whose_answers_break_off() {
    let (legacy, extracted) = (named("legacy").await, breaking(CHUNKED).await);
    let front = start(sliced(&legacy, &extracted));
    let mut acts = front.handle.take_acts().unwrap();
    front.weigh(1, Weight::FULL);
    let asked = AtomicUsize::new(0);
    eventually("the guard to act", WAIT, || async {
        let visitor = format!("v{}", asked.fetch_add(1, SeqCst));
        let url = front.url("/api/items");
        let fields = [("x-visitor", &*visitor)];
        let request = client::request(Method::GET, &url, &fields, Bytes::new());
        let _ = client::try_send(request).await;
        (front.handle.live(&slice_id()).unwrap().weight == Weight::ZERO).then_some(())
    })
    .await;
    assert!(front.handle.counts(&slice_id()).unwrap().extracted.errors > 0);
    assert!(matches!(acts.recv().await.unwrap(), Act::Lowered(_)));
    front.stop().await;
}

/// A client that leaves ends its answer, too; and one that breaks its upload off while it is answered has
/// its upstream hang up.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_breaks_off_is_nobodys_failure() {
    let gone = Arc::new(Notify::new());
    let hears = gone.clone();
    let upstream = Upstream::raw(move |mut stream| {
        let gone = hears.clone();
        async move {
            take_head(&mut stream).await;
            say(&mut stream, CHUNKED).await;
            // To the end of what it is sent; then it hangs up amid its answer.
            let _ = stream.read_to_end(&mut Vec::new()).await;
            gone.notify_one();
        }
    })
    .await;
    for request in [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let front = start(plain(&upstream));
        let mut stream = TcpStream::connect(front.at).await.unwrap();
        say(&mut stream, request).await;
        read_until(&mut stream, "half").await;
        if request.starts_with("POST") {
            // No more of its body will come, but it would still take its answer.
            stream.shutdown().await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        drop(stream);
        gone.notified().await;
        front.running.shutdown(WAIT).await;
        assert_eq!(errors_of(&front.handle), 0, "{request:?}");
        assert_eq!(
            front.handle.describe()["services"][0]["upstreams"][0]["failures"],
            0
        );
    }
}

fn errors_of(handle: &outgrow_proxy::Handle) -> u64 {
    handle.routes().iter().map(|of| of.times.errors).sum()
}
