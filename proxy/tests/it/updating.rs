//! Answers that are given, stale, while their side is asked whether they are still good.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use outgrow_rollout::Weight;
use outgrow_testkit::{Answer, Upstream, client, eventually};
use tokio::sync::watch;

use crate::caching::{kept, status};
use crate::harness::{Front, WAIT, named, slice_id, start};

const TARGET: &str = "/api/items/7";
const STAYS: &str = "max-age=0, stale-while-revalidate=600";

/// What a scripted side does with its request of this number, once it may go on.
type Says = fn(usize, &Request<Bytes>) -> Response<Bytes>;

/// A side that waits at each but its first request.
struct Slow {
    side: Upstream,
    go: watch::Sender<usize>,
}

impl Slow {
    async fn new(says: Says) -> Self {
        let (go, may) = watch::channel(0);
        let count = Arc::new(AtomicUsize::new(0));
        let side = Upstream::start(move |request| {
            let (n, mut may) = (count.fetch_add(1, SeqCst), may.clone());
            async move {
                may.wait_for(|may| *may >= n).await.unwrap();
                says(n, &request)
            }
        })
        .await;
        Self { side, go }
    }

    fn asked(&self) -> usize {
        self.side.seen().len()
    }

    async fn is_asked(&self, count: usize) {
        eventually("the side to be asked", WAIT, || async {
            (self.asked() >= count).then_some(())
        })
        .await;
        assert_eq!(self.asked(), count);
    }

    fn goes_on(&self, to: usize) {
        self.go.send(to).unwrap();
    }
}

fn numbered(n: usize, _: &Request<Bytes>) -> Response<Bytes> {
    says(n, STAYS)
}

fn says(n: usize, control: &'static str) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from(format!("answer {n}")));
    let control = HeaderValue::from_static(control);
    answer.headers_mut().insert("cache-control", control);
    answer
}

async fn ask(front: &Front) -> Answer {
    front.get(TARGET, &[("x-visitor", "a")]).await
}

/// Asks until this is the answer; what comes before is `old`.
async fn becomes(front: &Front, old: &str, new: &str) {
    eventually(new, WAIT, || async {
        let text = ask(front).await.text();
        assert!(text == old || text == new, "{text}");
        (text == new).then_some(())
    })
    .await;
}

fn outcome(front: &Front, name: &str) -> u64 {
    let figures = front.handle.cache().unwrap();
    let mut outcomes = figures.slices[0].outcomes.iter();
    outcomes.find(|(own, _)| *own == name).unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_and_the_side_is_asked_once() {
    let legacy = Slow::new(numbered).await;
    let mut settings = kept(&legacy.side, &legacy.side);
    settings.workers = NonZeroUsize::new(2).unwrap();
    let front = start(settings);
    assert_eq!(ask(&front).await.text(), "answer 0");
    // The side does not answer: whoever waited for it would wait for ever.
    for _ in 0..12 {
        let answer = ask(&front).await;
        assert_eq!(answer.text(), "answer 0");
        let told = status(&answer);
        assert!(told.starts_with("outgrow; hit; ttl="), "{told}");
        assert!(told.ends_with("; detail=stale-while-revalidate"), "{told}");
    }
    legacy.is_asked(2).await;
    assert_eq!(
        (outcome(&front, "updating"), outcome(&front, "miss")),
        (12, 1)
    );
    legacy.goes_on(1);
    becomes(&front, "answer 0", "answer 1").await;
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_side_is_asked_about_what_is_kept_though_the_client_leaves() {
    fn says(n: usize, asked: &Request<Bytes>) -> Response<Bytes> {
        let mut answer = self::says(n, STAYS);
        let tag = HeaderValue::from_static("\"same\"");
        if asked.headers().get("if-none-match") == Some(&tag) {
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            *answer.body_mut() = Bytes::new();
            let control = HeaderValue::from_static("max-age=600");
            answer.headers_mut().insert("cache-control", control);
        }
        answer.headers_mut().insert("etag", tag);
        answer
    }
    let legacy = Slow::new(says).await;
    let front = start(kept(&legacy.side, &legacy.side));
    ask(&front).await;
    // It has another one, and its connection ends with its answer.
    let get = format!("GET {TARGET} HTTP/1.1\r\nhost: {}\r\n", front.at);
    let fields = "x-visitor: a\r\nif-none-match: \"other\"\r\nconnection: close\r\n\r\n";
    let given = front.raw(&format!("{get}{fields}")).await;
    assert!(
        given.starts_with("HTTP/1.1 200") && given.ends_with("answer 0"),
        "{given}"
    );
    legacy.is_asked(2).await;
    legacy.goes_on(1);
    eventually("a fresh answer", WAIT, || async {
        let answer = ask(&front).await;
        assert_eq!(answer.text(), "answer 0");
        (!status(&answer).contains("stale")).then_some(())
    })
    .await;
    assert_eq!(
        legacy.side.seen()[1].header("if-none-match"),
        Some("\"same\"")
    );
    assert_eq!((legacy.asked(), outcome(&front, "revalidated")), (2, 0));
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_fails_is_asked_again_and_its_word_counts() {
    fn says(n: usize, _: &Request<Bytes>) -> Response<Bytes> {
        let mut answer = self::says(n, if n < 2 { STAYS } else { "no-store" });
        if n == 1 {
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        answer
    }
    let legacy = Slow::new(says).await;
    let front = start(kept(&legacy.side, &legacy.side));
    assert_eq!(ask(&front).await.text(), "answer 0");
    legacy.goes_on(1);
    ask(&front).await;
    legacy.is_asked(2).await;
    // It has failed, and is asked anew behind the next one.
    eventually("the next question", WAIT, || async {
        assert_eq!(ask(&front).await.text(), "answer 0");
        (legacy.asked() == 3).then_some(())
    })
    .await;
    let errors = front.handle.counts(&slice_id()).unwrap().legacy.errors;
    assert_eq!(errors, 1, "the guard has seen it");
    // What it says now is not to be kept: what it said before is given to nobody any more.
    legacy.goes_on(usize::MAX);
    eventually("the side's own word", WAIT, || async {
        let text = ask(&front).await.text();
        (text != "answer 0").then_some(())
    })
    .await;
    assert!(!status(&ask(&front).await).contains("hit"));
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sides_states_and_writers_are_kept_apart() {
    let legacy = Slow::new(numbered).await;
    let extracted = named("extracted").await;
    let front = start(kept(&legacy.side, &extracted));
    ask(&front).await;
    ask(&front).await;
    legacy.is_asked(2).await;
    // While the old side is asked, another one answers.
    front.weigh(1, Weight::FULL);
    assert_eq!(ask(&front).await.text(), "extracted");
    legacy.goes_on(1);
    front.weigh(2, Weight::ZERO);
    legacy.goes_on(usize::MAX);
    let back = ask(&front).await;
    assert_eq!(
        status(&back),
        "outgrow; fwd=uri-miss; fwd-status=200; stored"
    );
    // Who has written waits for the side.
    let post = [("x-visitor", "a")];
    let write = client::request(Method::POST, &front.url("/api/items"), &post, Bytes::new());
    client::send(write).await;
    let own = ask(&front).await;
    assert!(status(&own).contains("fwd="), "{}", status(&own));
    assert_ne!(own.text(), back.text());
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_it_fresh_waits_for_the_side() {
    let legacy = Slow::new(numbered).await;
    let front = start(kept(&legacy.side, &legacy.side));
    ask(&front).await;
    legacy.goes_on(usize::MAX);
    for (method, fields) in [
        (Method::GET, ("cache-control", "no-cache")),
        (Method::GET, ("cache-control", "max-age=0")),
        (Method::HEAD, ("x-visitor", "a")),
    ] {
        let asked = legacy.asked();
        let request = client::request(method.clone(), &front.url(TARGET), &[fields], Bytes::new());
        let answer = client::send(request).await;
        assert!(
            status(&answer).contains("fwd="),
            "{method} {}",
            status(&answer)
        );
        assert_eq!(legacy.asked(), asked + 1);
    }
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_hangs_is_given_up_and_asked_again() {
    let legacy = Slow::new(numbered).await;
    let mut settings = kept(&legacy.side, &legacy.side);
    settings.limits.request_timeout = Duration::from_millis(50);
    let front = start(settings);
    ask(&front).await;
    eventually("further questions", WAIT, || async {
        assert_eq!(ask(&front).await.text(), "answer 0");
        (legacy.asked() >= 3).then_some(())
    })
    .await;
    front.stop().await;
}
