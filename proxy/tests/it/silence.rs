//! Answers that do not go on: upstreams that fall silent, clients that read nothing, and requests that
//! may only take so long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use h2::client::ResponseFuture;
use http::{Method, Request};
use outgrow_proxy::{Act, Allowance, Filters, Settings};
use outgrow_rollout::Weight;
use outgrow_testkit::{Upstream, client, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use crate::harness::{
    Front, WAIT, named, plain, read_until, say, slice_id, sliced, start, take_head,
};
use crate::multiplexed::{Asked, known, scripted};

/// A time that passes.
const SHORT: Duration = Duration::from_millis(150);

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn errors(front: &Front) -> u64 {
    let routes = front.handle.routes();
    routes.iter().map(|of| of.times.errors).sum()
}

/// Half an answer, and then nothing before somebody says so.
async fn halting(kind: &'static str, go: Arc<Notify>) -> Upstream {
    Upstream::raw(move |mut stream| {
        let go = go.clone();
        async move {
            take_head(&mut stream).await;
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n";
            let half = "4\r\nhalf\r\n";
            say(
                &mut stream,
                &format!("{head}content-type: {kind}\r\n\r\n{half}"),
            )
            .await;
            let mut byte = [0; 1];
            tokio::select! {
                () = go.notified() => say(&mut stream, "4\r\nrest\r\n0\r\n\r\n").await,
                _ = stream.read(&mut byte) => {}
            }
        }
    })
    .await
}

/// The same by HTTP/2, for ever.
async fn halting_streams() -> Upstream {
    scripted(
        Arc::default(),
        100,
        |_, (_request, mut respond): Asked| async move {
            let mut send = respond
                .send_response(http::Response::new(()), false)
                .unwrap();
            send.send_data(Bytes::from_static(b"half"), false).unwrap();
            let _ = std::future::poll_fn(|cx| send.poll_reset(cx)).await;
        },
    )
    .await
}

async fn ask_by_stream(front: &Front, path: &str) -> ResponseFuture {
    let stream = TcpStream::connect(front.at).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = Request::get(format!("http://a{path}")).body(()).unwrap();
    sender.send_request(request, true).unwrap().0
}

/// Takes an answer on a stream without making room for more; how it ended.
async fn taken(answer: ResponseFuture) -> (Vec<u8>, Option<h2::Error>) {
    let reading = async {
        let mut body = answer.await.unwrap().into_body();
        let mut all = Vec::new();
        loop {
            match body.data().await {
                None => return (all, None),
                Some(Ok(part)) => all.extend_from_slice(&part),
                Some(Err(error)) => return (all, Some(error)),
            }
        }
    };
    timeout(WAIT, reading).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_falls_silent_is_cut_off_and_blamed() {
    let lines = halting("text/html", Arc::default()).await;
    let streams = halting_streams().await;
    for mut settings in [plain(&lines), known(&streams)] {
        settings.limits.allowance.answer_idle = Some(SHORT);
        let front = start(settings);
        let request = client::request(Method::GET, &front.url("/"), &[], Bytes::new());
        let answer = client::try_send(request).await;
        assert!(answer.is_err(), "{answer:?}");
        assert_eq!(errors(&front), 1);
        let (half, error) = taken(ask_by_stream(&front, "/").await).await;
        assert_eq!(half, b"half");
        assert!(error.unwrap().is_reset());
        assert_eq!(errors(&front), 2);
        front.stop().await;
    }
}

/// A side whose answers all stop half-way loses its reads, though their heads looked well.
#[tokio::test(flavor = "multi_thread")]
async fn the_guard_hears_of_a_side_that_falls_silent() {
    let legacy = named("legacy").await;
    let extracted = halting("text/html", Arc::default()).await;
    let mut settings = sliced(&legacy, &extracted);
    settings.limits.allowance.answer_idle = Some(Duration::from_millis(10));
    let front = start(settings);
    let mut acts = front.handle.take_acts().unwrap();
    front.weigh(1, Weight::FULL);
    eventually("the guard to act", WAIT, || async {
        let asking = (0..20).map(|nth| {
            let visitor = format!("v{nth}");
            let url = front.url("/api/items");
            let fields = [("x-visitor", &*visitor)];
            client::try_send(client::request(Method::GET, &url, &fields, Bytes::new()))
        });
        futures_util::future::join_all(asking).await;
        (front.handle.live(&slice_id()).unwrap().weight == Weight::ZERO).then_some(())
    })
    .await;
    assert!(matches!(acts.recv().await.unwrap(), Act::Lowered(_)));
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_may_be_awaited_unless_their_route_says_otherwise() {
    let go = Arc::new(Notify::new());
    let events = halting("Text/Event-Stream; charset=utf-8", go.clone()).await;
    let mut settings = plain(&events);
    settings.limits.allowance.answer_idle = Some(SHORT);
    let front = start(settings.clone());
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(&mut stream, GET).await;
    read_until(&mut stream, "half\r\n").await;
    let early = timeout(3 * SHORT, stream.read(&mut [0; 1])).await;
    assert!(early.is_err(), "it was cut off");
    go.notify_one();
    read_until(&mut stream, "rest\r\n0\r\n\r\n").await;
    assert_eq!(errors(&front), 0);
    front.stop().await;
    // The same upstream, and a time of the route's own; and none at all.
    for (own, fails) in [(SHORT, true), (Duration::ZERO, false)] {
        let allowance = Allowance {
            answer_idle: Some(own),
            ..Allowance::default()
        };
        settings.filters = Some(Arc::new(Filters {
            allowance,
            ..Filters::default()
        }));
        let front = start(settings.clone());
        let mut stream = TcpStream::connect(front.at).await.unwrap();
        say(&mut stream, GET).await;
        read_until(&mut stream, "half\r\n").await;
        if fails {
            let mut rest = Vec::new();
            let reading = timeout(WAIT, stream.read_to_end(&mut rest));
            reading.await.expect("the end").unwrap();
            assert!(rest.is_empty(), "{rest:?}");
            assert_eq!(errors(&front), 1);
        } else {
            let early = timeout(3 * SHORT, stream.read(&mut [0; 1])).await;
            assert!(early.is_err(), "it was cut off");
        }
        front.stop().await;
    }
}

/// An answer without an end; says when nobody wants more of it.
async fn endless(gone: mpsc::Sender<()>) -> Upstream {
    Upstream::raw(move |mut stream| {
        let gone = gone.clone();
        async move {
            take_head(&mut stream).await;
            say(&mut stream, "HTTP/1.1 200 OK\r\n\r\n").await;
            let part = [b'x'; 16_384];
            while stream.write_all(&part).await.is_ok() {}
            let _ = gone.send(()).await;
        }
    })
    .await
}

/// By the time of a pause, of the proxy or of the route, and by that of the whole.
fn bounded(upstream: &Upstream) -> [Settings; 3] {
    [0, 1, 2].map(|which| {
        let mut settings = plain(upstream);
        match which {
            0 => settings.limits.allowance.client_idle = Some(SHORT),
            1 => {
                let allowance = Allowance {
                    client_idle: Some(SHORT),
                    ..Allowance::default()
                };
                settings.limits.allowance.client_idle = Some(Duration::ZERO);
                settings.filters = Some(Arc::new(Filters {
                    allowance,
                    ..Filters::default()
                }));
            }
            _ => {
                settings.limits.allowance.client_idle = Some(Duration::ZERO);
                settings.limits.allowance.total = Some(SHORT);
            }
        }
        settings
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_let_go_and_nobody_is_blamed() {
    let (gone, mut went) = mpsc::channel(8);
    let upstream = endless(gone).await;
    for settings in bounded(&upstream) {
        let front = start(settings);
        let mut stream = TcpStream::connect(front.at).await.unwrap();
        say(&mut stream, GET).await;
        timeout(WAIT, went.recv()).await.expect("let go").unwrap();
        // What had come may be read; it does not look whole.
        let mut all = Vec::new();
        let reading = timeout(WAIT, stream.read_to_end(&mut all)).await.unwrap();
        assert!(reading.is_err() || !all.ends_with(b"0\r\n\r\n"));
        assert_eq!(errors(&front), 0);
        let asked = ask_by_stream(&front, "/").await;
        let (taken, error) = taken(asked).await;
        assert_eq!(taken.len(), 65_535, "its window");
        assert_eq!(error.unwrap().reason(), Some(Reason::CANCEL));
        timeout(WAIT, went.recv()).await.expect("let go").unwrap();
        assert_eq!(errors(&front), 0);
        front.stop().await;
    }
}

/// However slowly: each time anything is taken the pause begins anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_slowly_is_waited_for() {
    const LENGTH: usize = 60_000_000;
    // The kernel wants room for much before it asks for more.
    const IDLE: Duration = Duration::from_millis(500);
    let upstream = Upstream::always(200, vec![b'x'; LENGTH]).await;
    let mut settings = plain(&upstream);
    settings.limits.allowance.client_idle = Some(IDLE);
    let front = start(settings);
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(&mut stream, GET).await;
    let head = read_until(&mut stream, "\r\n\r\n").await;
    let mut taken = head.split_once("\r\n\r\n").unwrap().1.len();
    let begun = Instant::now();
    let mut part = vec![0; 1_000_000];
    let (_quiet, mut never) = mpsc::channel::<()>(1);
    while taken < LENGTH {
        // A pause, as long as it takes to be longer than one allowed in all.
        let _ = timeout(IDLE / 25, never.recv()).await;
        let count = timeout(WAIT, stream.read(&mut part))
            .await
            .unwrap()
            .unwrap();
        assert!(count > 0, "cut off after {taken} bytes");
        taken += count;
    }
    assert!(begun.elapsed() > 2 * IDLE);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_takes_as_long_as_it_may_in_all() {
    // In its answer's body, which goes on and on and is read.
    let (gone, _went) = mpsc::channel(8);
    let upstream = endless(gone).await;
    let mut settings = plain(&upstream);
    settings.limits.allowance.total = Some(SHORT);
    let front = start(settings.clone());
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(&mut stream, GET).await;
    let begun = Instant::now();
    let mut part = vec![0; 65_536];
    while timeout(WAIT, stream.read(&mut part))
        .await
        .unwrap()
        .is_ok_and(|count| count > 0)
    {}
    assert!(begun.elapsed() >= SHORT);
    assert_eq!(errors(&front), 0);
    front.stop().await;
    // Before it, where the upstream is silent, or the client goes on sending.
    let silent = Upstream::raw(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    settings.legacy = plain(&silent).legacy;
    settings.limits.request_timeout = WAIT;
    let front = start(settings.clone());
    assert_eq!(front.get("/", &[]).await.status, 504);
    assert_eq!(errors(&front), 1);
    let stream = TcpStream::connect(front.at).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let dripping = tokio::spawn(async move {
        let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        let _ = write.write_all(head.as_bytes()).await;
        while write.write_all(b"1\r\nx\r\n").await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    let answer = read_until(&mut read, "slow-upload\"").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(errors(&front), 1);
    drop(read);
    dripping.abort();
    front.stop().await;
}
