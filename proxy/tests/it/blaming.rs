//! Who is blamed for what breaks: what a client does is no failure of the side that it asked, and
//! what an upstream may have seen is not sent again behind its back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use h2::Reason;
use http::{Method, Request};
use outgrow_rollout::Weight;
use outgrow_testkit::{Upstream, client, eventually};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Barrier;

use crate::harness::{
    Front, WAIT, live, named, plain, read_until, say, slice_id, sliced, start, take_head,
};
use crate::multiplexed::{give_back, known, scripted};

/// Enough for the guard to act several times over.
const MANY: usize = 40;

/// Uploads that no client ends as it should.
const BROKEN: [&str; 3] = [
    "transfer-encoding: chunked\r\n\r\nzz\r\n",
    "transfer-encoding: chunked\r\n\r\n3\r\nab",
    "content-length: 10\r\n\r\nabc",
];

fn refused(front: &Front, code: &str) -> u64 {
    let all = front.handle.refusals();
    all.iter().find(|(own, _)| *own == code).unwrap().1
}

async fn break_off(front: &Front, nth: usize, method: &str) {
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    let rest = BROKEN[nth % BROKEN.len()];
    let head = format!("{method} /api/items HTTP/1.1\r\nhost: a\r\nx-visitor: v{nth}\r\n{rest}");
    say(&mut stream, &head).await;
    stream.shutdown().await.unwrap();
    let answer = read_until(&mut stream, "broken-upload\"").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_clients_break_off_are_no_failures_of_a_side() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let front = start(sliced(&legacy, &extracted));
    front.weigh(1, Weight::FULL);
    for nth in 0..MANY {
        break_off(&front, nth, "GET").await;
        break_off(&front, nth, "POST").await;
    }
    assert_eq!(refused(&front, "broken-upload"), 2 * MANY as u64);
    let counts = front.handle.counts(&slice_id()).unwrap();
    assert_eq!((counts.legacy.errors, counts.extracted.errors), (0, 0));
    let routes = front.handle.routes();
    assert!(routes.iter().all(|of| of.times.errors == 0), "{routes:?}");
    // What was not asked to its end is no answer either: it would make failures look rare.
    assert!(routes.is_empty(), "{routes:?}");
    assert_eq!(front.handle.live(&slice_id()), Some(live(1, Weight::FULL)));
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_a_side_breaks_off_are_its_failures() {
    let legacy = named("legacy").await;
    let extracted = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
    })
    .await;
    let front = start(sliced(&legacy, &extracted));
    front.weigh(1, Weight::FULL);
    let asked = AtomicUsize::new(0);
    eventually("the guard to act", WAIT, || async {
        let visitor = format!("v{}", asked.fetch_add(1, SeqCst));
        front.get("/api/items", &[("x-visitor", &visitor)]).await;
        let counts = front.handle.counts(&slice_id()).unwrap();
        assert!(counts.extracted.errors > 0);
        (front.handle.live(&slice_id()).unwrap().weight == Weight::ZERO).then_some(())
    })
    .await;
    front.stop().await;
}

/// HTTP/1 refuses these in its head; a stream must not bring them either.
#[tokio::test(flavor = "multi_thread")]
async fn odd_lengths_on_streams_are_refused_and_seen_by_nobody() {
    let upstream = named("a").await;
    let front = start(plain(&upstream));
    for (lengths, ends) in [
        (&[""][..], true),
        (&[""], false),
        (&["3", "3"], false),
        (&["0", "0"], true),
    ] {
        let stream = TcpStream::connect(front.at).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut sender = sender.ready().await.unwrap();
        let mut request = Request::post("http://a/");
        for length in lengths {
            request = request.header("content-length", *length);
        }
        let (answer, mut body) = sender
            .send_request(request.body(()).unwrap(), ends)
            .unwrap();
        if lengths.contains(&"3") {
            body.send_data(Bytes::from_static(b"abc"), true).unwrap();
        }
        let answer = answer.await.unwrap();
        let code = answer.headers().get("x-outgrow-error");
        assert_eq!(answer.status(), 400, "{lengths:?}");
        assert_eq!(code.unwrap(), "malformed", "{lengths:?}");
    }
    assert!(upstream.seen().is_empty(), "{:?}", upstream.seen());
    front.stop().await;
}

/// An upstream that answers until it is told to die, and counts what it is asked from then on.
struct Mortal {
    upstream: Upstream,
    dying: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Mortal {
    /// `together`: so many requests are answered at once. `last` is said before each connection ends.
    async fn new(together: usize, last: &'static str) -> Self {
        let (dying, asked) = (
            Arc::new(AtomicBool::new(false)),
            Arc::<AtomicUsize>::default(),
        );
        let barrier = Arc::new(Barrier::new(together));
        let (dies, counts) = (dying.clone(), Arc::clone(&asked));
        let upstream = Upstream::raw(move |mut stream| {
            let (dies, counts, barrier) = (dies.clone(), Arc::clone(&counts), barrier.clone());
            async move {
                while !take_head(&mut stream).await.is_empty() {
                    if dies.load(SeqCst) {
                        counts.fetch_add(1, SeqCst);
                        say(&mut stream, last).await;
                        return;
                    }
                    barrier.wait().await;
                    say(
                        &mut stream,
                        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                    )
                    .await;
                }
            }
        })
        .await;
        Self {
            upstream,
            dying,
            asked,
        }
    }
}

/// A proxy with so many connections at rest to an upstream that dies with the next request on each.
async fn rested(mortal: &Mortal, many: usize) -> Front {
    let front = start(plain(&mortal.upstream));
    let asking = (0..many).map(|_| front.get("/", &[]));
    for answer in futures_util::future::join_all(asking).await {
        assert_eq!(answer.status, 200);
    }
    mortal.dying.store(true, SeqCst);
    front
}

async fn fails(front: &Front, method: Method) {
    let request = client::request(method, &front.url("/"), &[], Bytes::new());
    let answer = client::send(request).await;
    let code = answer.header("x-outgrow-error");
    assert_eq!((answer.status.as_u16(), code), (502, Some("broken")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_is_sent_again_once_and_on_a_new_connection() {
    let mortal = Mortal::new(3, "").await;
    let front = rested(&mortal, 3).await;
    fails(&front, Method::GET).await;
    assert_eq!(mortal.asked.load(SeqCst), 2);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_on_a_connection_that_dies_is_sent_once() {
    let mortal = Mortal::new(1, "").await;
    let front = rested(&mortal, 1).await;
    fails(&front, Method::POST).await;
    assert_eq!(mortal.asked.load(SeqCst), 1);
    front.stop().await;
}

/// Who has begun to answer has seen the request.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_answer_has_begun_is_sent_once() {
    for begun in [
        "HTTP/1.1 20",
        "HTTP/1.1 200 OK\r\ncontent-le",
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
    ] {
        let mortal = Mortal::new(1, begun).await;
        let front = rested(&mortal, 1).await;
        fails(&front, Method::GET).await;
        assert_eq!(mortal.asked.load(SeqCst), 1, "{begun:?}");
        front.stop().await;
    }
}

/// A reset is an answer to the request, and says nothing of the connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_stream_is_reset_is_sent_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counts = asked.clone();
    let upstream = scripted(Arc::default(), 100, move |_, mut asked| {
        let counts = counts.clone();
        async move {
            if asked.0.uri().path() == "/fine" {
                return give_back(asked).await;
            }
            counts.fetch_add(1, SeqCst);
            asked.1.send_reset(Reason::INTERNAL_ERROR);
        }
    })
    .await;
    let front = start(known(&upstream));
    assert_eq!(front.get("/fine", &[]).await.status, 200);
    fails(&front, Method::GET).await;
    assert_eq!(asked.load(SeqCst), 1);
    front.stop().await;
}
