//! Upstreams that speak HTTP/2.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outgrow_proxy::{Health, Protocol, Settings, Transport};
use outgrow_testkit::certificates::Authority;
use outgrow_testkit::{Upstream, client, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, Notify};

use crate::balancing::told;
use crate::harness::{Front, WAIT, plain, read_until, say, start, text};
use crate::secured::{Door, over_tls, trusting};

/// A pass-through to an upstream that is known to speak HTTP/2.
pub(crate) fn known(upstream: &Upstream) -> Settings {
    let mut settings = plain(upstream);
    settings.legacy.rules.transport = Transport {
        tls: None,
        protocol: Protocol::Http2,
    };
    settings
}

async fn echo() -> Upstream {
    Upstream::start(|request| async move { text(request.into_body()) }).await
}

pub(crate) type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// Answers streams by script; `count` counts connections.
pub(crate) async fn scripted<F, Fut>(
    count: Arc<AtomicUsize>,
    streams_max: u32,
    answer: F,
) -> Upstream
where
    F: Fn(usize, Asked) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    Upstream::raw(move |stream| {
        let (nth, answer) = (count.fetch_add(1, SeqCst), answer.clone());
        async move {
            let mut builder = h2::server::Builder::new();
            builder.max_concurrent_streams(streams_max);
            let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
                return;
            };
            while let Some(Ok(asked)) = connection.accept().await {
                tokio::spawn(answer(nth, asked));
            }
        }
    })
    .await
}

async fn whole(body: &mut RecvStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(Ok(part)) = body.data().await {
        let _ = body.flow_control().release_capacity(part.len());
        all.extend_from_slice(&part);
    }
    all
}

pub(crate) async fn give_back((mut request, mut respond): Asked) {
    let body = whole(request.body_mut()).await;
    let mut send = respond.send_response(Response::new(()), false).unwrap();
    let _ = send.send_data(body.into(), true);
}

/// A client of HTTP/2.
pub(crate) async fn streams<B>(at: SocketAddr) -> http2::SendRequest<B>
where
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect(at).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

async fn echoes(front: &Front) {
    for size in [0, 1, 20_000, 3_000_000] {
        let body = Bytes::from(vec![b'x'; size]);
        let request = client::request(Method::POST, &front.url("/"), &[], body.clone());
        assert_eq!(client::send(request).await.body, body, "{size} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_bodies_and_checks_go_by_streams() {
    let echo = echo().await;
    let mut settings = known(&echo);
    settings.legacy.rules.health = Some(Health {
        every: Duration::from_millis(100),
        timeout: Duration::from_secs(2),
        ..Health::at("/healthz")
    });
    let front = start(settings);
    eventually("it is checked", WAIT, || async {
        let seen = echo.seen();
        seen.into_iter().find(|seen| seen.target == "/healthz")
    })
    .await;
    echoes(&front).await;
    assert_eq!(told(&front, 0, "state"), "well");
    assert!(
        echo.seen()
            .iter()
            .all(|seen| seen.version == Version::HTTP_2)
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_says_what_is_spoken_on_it() {
    let (echo, ca) = (echo().await, Authority::new("ca"));
    let signed = ca.server(&["127.0.0.1"]);
    for (offered, version) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let door = Door::before(echo.addr(), &signed, offered, None).await;
        let front = start(over_tls(&echo, door.at, trusting(&ca), Protocol::Auto));
        echoes(&front).await;
        assert_eq!(echo.seen().last().unwrap().version, version, "{offered:?}");
        if version == Version::HTTP_2 {
            // A line of HTTP/1 may not be given back yet when the next request comes.
            assert_eq!(door.taken.load(SeqCst), 1, "{offered:?}");
        }
        front.stop().await;
    }
    let door = Door::before(echo.addr(), &signed, &["http/1.1"], None).await;
    let front = start(over_tls(&echo, door.at, trusting(&ca), Protocol::Http2));
    let refused = front.get("/", &[]).await;
    assert_eq!(refused.header("x-outgrow-error"), Some("tls-failed"));
    assert!(refused.text().contains("`protocol`"), "{}", refused.text());
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_as_streams_have_it() {
    let heads = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = heads.clone();
    let upstream = scripted(Arc::default(), 100, move |_, asked| {
        kept.lock()
            .unwrap()
            .push((asked.0.uri().clone(), asked.0.headers().clone()));
        give_back(asked)
    })
    .await;
    let front = start(known(&upstream));
    let answer = front
        .raw(
            "GET /a%2Fb?c=d HTTP/1.1\r\nhost: shop.example\r\nte: trailers, gzip\r\n\
             cookie: a=1\r\ncookie: b=2\r\nconnection: close, te, x-one\r\nx-one: 1\r\n\r\n",
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let (uri, fields) = heads.lock().unwrap().pop().unwrap();
    assert_eq!(uri, "http://shop.example/a%2Fb?c=d");
    let field = |name: &str| fields.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(field("te"), Some("trailers"));
    assert_eq!(field("cookie"), Some("a=1; b=2"));
    for gone in ["host", "connection", "x-one", "transfer-encoding"] {
        assert_eq!(field(gone), None, "{gone}");
    }
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_unseen_is_sent_again_on_another_connection() {
    let count = Arc::new(AtomicUsize::new(0));
    let upstream = scripted(count.clone(), 100, |nth, mut asked| async move {
        match nth {
            0 => asked.1.send_reset(Reason::REFUSED_STREAM),
            _ => give_back(asked).await,
        }
    })
    .await;
    let front = start(known(&upstream));
    assert_eq!(front.post("/", "a write").await.text(), "a write");
    assert_eq!(count.load(SeqCst), 2);
    front.stop().await;
}

/// A connection that is told to go away before it has looked at its first request.
#[tokio::test(flavor = "multi_thread")]
async fn what_came_behind_a_goaway_is_sent_again() {
    let count = Arc::new(AtomicUsize::new(0));
    let connections = count.clone();
    let upstream = Upstream::raw(move |mut stream| {
        let nth = connections.fetch_add(1, SeqCst);
        async move {
            if nth > 0 {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok(asked)) = connection.accept().await {
                    tokio::spawn(give_back(asked));
                }
                return;
            }
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.unwrap();
            // Settings, then an answer to each ping, until a request comes.
            stream
                .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
                .await
                .unwrap();
            loop {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await.unwrap();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut payload = vec![0; length as usize];
                stream.read_exact(&mut payload).await.unwrap();
                match head[3] {
                    6 => {
                        stream
                            .write_all(&[0, 0, 8, 6, 1, 0, 0, 0, 0])
                            .await
                            .unwrap();
                        stream.write_all(&payload).await.unwrap();
                    }
                    1 => break,
                    _ => {}
                }
            }
            let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            stream.write_all(&goaway).await.unwrap();
            // The proxy closes.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await;
    let front = start(known(&upstream));
    assert_eq!(front.post("/", "a write").await.text(), "a write");
    assert_eq!(count.load(SeqCst), 2);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_has_more_streams_than_its_upstream_allows() {
    let count = Arc::new(AtomicUsize::new(0));
    let all = Arc::new(Barrier::new(7));
    let upstream = scripted(count.clone(), 2, move |_, asked| {
        let all = all.clone();
        async move {
            all.wait().await;
            give_back(asked).await;
        }
    })
    .await;
    let front = start(known(&upstream));
    let asked = (0..7).map(|_| front.post("/", "a write"));
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(answer.text(), "a write");
    }
    assert_eq!(count.load(SeqCst), 4);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_not_whole() {
    let count = Arc::new(AtomicUsize::new(0));
    let upstream = scripted(count.clone(), 100, |_, (request, mut respond)| async move {
        let head = Response::builder();
        let head = match request.uri().path() {
            "/long" => head.header("content-length", "10"),
            _ => head,
        };
        let mut send = respond
            .send_response(head.body(()).unwrap(), false)
            .unwrap();
        send.send_data(Bytes::from_static(b"part"), false).unwrap();
        send.send_reset(Reason::INTERNAL_ERROR);
    })
    .await;
    let front = start(known(&upstream));
    for path in ["/", "/long"] {
        let request = client::request(Method::GET, &front.url(path), &[], Bytes::new());
        // Nothing of it, or a part without an end.
        match client::try_send(request).await {
            Ok(answer) => assert_eq!(answer.status, 502),
            Err(why) => assert!(why.contains("body"), "{why}"),
        }
    }
    // Its connection is none the worse.
    assert_eq!(count.load(SeqCst), 1);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_stream_alone() {
    let count = Arc::new(AtomicUsize::new(0));
    let (came, reset) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (comes, resets) = (came.clone(), reset.clone());
    let upstream = scripted(count.clone(), 100, move |_, mut asked| {
        let (comes, resets) = (comes.clone(), resets.clone());
        async move {
            if asked.0.uri().path() != "/waits" {
                return give_back(asked).await;
            }
            comes.notify_one();
            let reset = std::future::poll_fn(|cx| asked.1.poll_reset(cx)).await;
            assert_eq!(reset.unwrap(), Reason::CANCEL);
            resets.notify_one();
        }
    })
    .await;
    let front = start(known(&upstream));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(&mut stream, "GET /waits HTTP/1.1\r\nhost: a\r\n\r\n").await;
    came.notified().await;
    drop(stream);
    tokio::time::timeout(WAIT, reset.notified()).await.unwrap();
    assert_eq!(front.post("/", "a write").await.text(), "a write");
    assert_eq!(count.load(SeqCst), 1);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_reads_holds_up_no_other() {
    let count = Arc::new(AtomicUsize::new(0));
    let stuck = Arc::new(Notify::new());
    let full = stuck.clone();
    let upstream = scripted(count.clone(), 100, move |_, mut asked| {
        let full = full.clone();
        async move {
            if asked.0.uri().path() != "/endless" {
                return give_back(asked).await;
            }
            let mut send = asked.1.send_response(Response::new(()), false).unwrap();
            loop {
                send.reserve_capacity(16_384);
                let room = std::future::poll_fn(|cx| send.poll_capacity(cx));
                match tokio::time::timeout(Duration::from_millis(300), room).await {
                    Ok(Some(Ok(room))) => {
                        let data = vec![b'x'; room];
                        send.send_data(data.into(), false).unwrap();
                    }
                    Ok(_) => return,
                    Err(_) => full.notify_one(),
                }
            }
        }
    })
    .await;
    let front = start(known(&upstream));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(&mut stream, "GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await;
    tokio::time::timeout(WAIT, stuck.notified()).await.unwrap();
    let body = "a write";
    assert_eq!(front.post("/", body).await.text(), body);
    assert_eq!(count.load(SeqCst), 1);
    drop(stream);
    front.stop().await;
}

fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("42"));
    trailers
}

/// Gives back a body with its trailers.
async fn with_trailers((mut request, mut respond): Asked) {
    let body = whole(request.body_mut()).await;
    let came = request.body_mut().trailers().await.unwrap();
    let mut send = respond.send_response(Response::new(()), false).unwrap();
    send.send_data(body.into(), false).unwrap();
    send.send_trailers(came.unwrap_or_default()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_go_both_ways() {
    let upstream = scripted(Arc::default(), 100, |_, asked| with_trailers(asked)).await;
    let front = start(known(&upstream));
    let frames = [
        Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"a write"))),
        Ok(Frame::trailers(trailers())),
    ];
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let mut sender = streams(front.at).await;
    let request = Request::post(front.url("/")).body(body).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let answer = answer.into_body().collect().await.unwrap();
    assert_eq!(answer.trailers(), Some(&trailers()));
    assert_eq!(answer.to_bytes(), "a write");
    // By lines down and streams up.
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\
                connection: close, te\r\ntrailer: x-sum\r\n\r\n";
    say(
        &mut stream,
        &format!("{head}1\r\na\r\n0\r\nx-sum: 42\r\n\r\n"),
    )
    .await;
    read_until(&mut stream, "x-sum: 42\r\n\r\n").await;
    front.stop().await;
}

/// As few as one stream at a time, and a body that is longer than what is kept to be sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_that_was_refused_is_told_so() {
    let upstream = scripted(
        Arc::default(),
        100,
        |_, (mut request, mut respond)| async move {
            let mut seen = 0;
            while let Some(Ok(part)) = request.body_mut().data().await {
                let _ = request
                    .body_mut()
                    .flow_control()
                    .release_capacity(part.len());
                seen += part.len();
                if seen > 100_000 {
                    respond.send_reset(Reason::REFUSED_STREAM);
                    return;
                }
            }
        },
    )
    .await;
    let front = start(known(&upstream));
    let body = Bytes::from(vec![b'x'; 1_000_000]);
    let request = client::request(Method::POST, &front.url("/"), &[], body);
    assert_eq!(client::send(request).await.status, 502);
    front.stop().await;
}
