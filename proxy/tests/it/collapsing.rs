//! Requests that ask the same at the same time: one goes to the side, and nobody waits in vain.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response};
use outgrow_proxy::Settings;
use outgrow_testkit::{Upstream, eventually};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::caching::{kept, status};
use crate::harness::{Front, WAIT, read_until, say, start, take_head};

/// Longer than any test waits.
const LONG: Duration = Duration::from_secs(60);

fn waiting(mut settings: Settings, wait: Duration) -> Settings {
    settings.cache.as_mut().unwrap().wait = wait;
    settings.workers = NonZeroUsize::new(2).unwrap();
    settings
}

async fn waits(front: &Front, count: u64) {
    eventually("requests to wait", WAIT, || async {
        (front.handle.cache().unwrap().waiting == count).then_some(())
    })
    .await;
}

/// A request on a connection of its own.
async fn asks(front: &Front, fields: &str) -> TcpStream {
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    let get = format!("GET /api/items/7 HTTP/1.1\r\nhost: shop\r\n{fields}\r\n");
    stream.write_all(get.as_bytes()).await.unwrap();
    stream
}

/// Says this head, and the rest of its answer never; the others are told it whole.
async fn slow(first: &'static str) -> (Upstream, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let upstream = Upstream::raw(move |mut stream| {
        let n = count.fetch_add(1, SeqCst);
        async move {
            take_head(&mut stream).await;
            if n == 0 {
                say(&mut stream, first).await;
                std::future::pending::<()>().await;
            }
            let says = "cache-control: max-age=60\r\ncontent-length: 6\r\n\r\nsecond";
            say(&mut stream, &format!("HTTP/1.1 200 OK\r\n{says}")).await;
        }
    })
    .await;
    (upstream, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_the_same_time_ask_once() {
    let (answer, go) = watch::channel(false);
    let legacy = Upstream::start(move |_| {
        let mut go = go.clone();
        async move {
            go.wait_for(|go| *go).await.unwrap();
            let mut answer = Response::new(Bytes::from("x".repeat(90_000)));
            let fields = answer.headers_mut();
            fields.insert("cache-control", HeaderValue::from_static("max-age=60"));
            fields.insert("content-type", HeaderValue::from_static("text/plain"));
            answer
        }
    })
    .await;
    let front = Arc::new(start(waiting(kept(&legacy, &legacy), LONG)));
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let front = front.clone();
            tokio::spawn(async move {
                let fields = [("accept-encoding", "gzip")];
                front.get("/api/items/7", &fields).await
            })
        })
        .collect();
    waits(&front, 7).await;
    answer.send(true).unwrap();
    let mut collapsed = 0;
    for one in asking {
        let answer = one.await.unwrap();
        assert_eq!(answer.header("content-encoding"), Some("gzip"));
        let mut text = String::new();
        let mut reader = flate2::read::GzDecoder::new(&answer.body[..]);
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!(text.len(), 90_000);
        collapsed += usize::from(status(&answer) == "outgrow; fwd=uri-miss; collapsed");
    }
    assert_eq!((legacy.seen().len(), collapsed), (1, 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_an_answer_that_is_not_for_it() {
    const PRIVATE: &str =
        "HTTP/1.1 200 OK\r\ncache-control: private\r\ncontent-length: 5\r\n\r\nfi";
    const FOR_SOME: &str =
        "HTTP/1.1 200 OK\r\ncache-control: max-age=9\r\ncontent-length: 5\r\n\r\nfi";
    const LARGE: &str =
        "HTTP/1.1 200 OK\r\ncache-control: max-age=9\r\ncontent-length: 900000\r\n\r\nfi";
    const CHECKED: &str =
        "HTTP/1.1 200 OK\r\ncache-control: no-cache\r\netag: \"a\"\r\ncontent-length: 5\r\n\r\nfi";
    const FAILED: &str = "HTTP/1.1 500 Sorry\r\ncontent-length: 5\r\n\r\nfi";
    for (first, fields) in [
        (PRIVATE, ""),
        (FOR_SOME, "cookie: sid=a\r\n"),
        (LARGE, ""),
        (CHECKED, ""),
        (FAILED, ""),
    ] {
        let (legacy, asked) = slow(first).await;
        let front = start(waiting(kept(&legacy, &legacy), LONG));
        let mut one = asks(&front, "").await;
        eventually("the first one", WAIT, || async {
            (asked.load(SeqCst) == 1).then_some(())
        })
        .await;
        let mut other = asks(&front, fields).await;
        assert!(read_until(&mut one, "fi").await.contains("HTTP/1.1"));
        read_until(&mut other, "second").await;
        front.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_longer_than_it_is_to() {
    let (legacy, asked) = slow("").await;
    let wait = Duration::from_millis(50);
    let front = start(waiting(kept(&legacy, &legacy), wait));
    let _one = asks(&front, "").await;
    eventually("the first one", WAIT, || async {
        (asked.load(SeqCst) == 1).then_some(())
    })
    .await;
    let mut other = asks(&front, "").await;
    read_until(&mut other, "second").await;
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_one_goes_where_the_first_has_left() {
    let (legacy, asked) = slow("").await;
    let front = start(waiting(kept(&legacy, &legacy), LONG));
    let one = asks(&front, "").await;
    eventually("the first one", WAIT, || async {
        (asked.load(SeqCst) == 1).then_some(())
    })
    .await;
    let mut others = [asks(&front, "").await, asks(&front, "").await];
    waits(&front, 2).await;
    drop(one);
    for other in &mut others {
        read_until(other, "second").await;
    }
    assert_eq!(asked.load(SeqCst), 2, "the last one had it from the store");
    front.stop().await;
}
