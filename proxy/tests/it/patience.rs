//! How long anybody is waited for, how much anybody may bring, and who is blamed for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::{Method, Request};
use outgrow_proxy::{Allowance, Filters, Settings};
use outgrow_testkit::{Upstream, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{
    Front, WAIT, named, plain, read_until, say, slice_id, sliced, start, take_head,
};
use crate::multiplexed::{known, scripted};

/// A time that passes.
const SHORT: Duration = Duration::from_millis(150);

fn refused(front: &Front, code: &str) -> u64 {
    let all = front.handle.refusals();
    all.iter().find(|(own, _)| *own == code).unwrap().1
}

fn errors(front: &Front) -> u64 {
    let routes = front.handle.routes();
    routes.iter().map(|of| of.times.errors).sum()
}

/// Time for the head of an answer, and for a client's pause in its body.
fn within(mut settings: Settings, head: Duration, upload: Duration) -> Settings {
    settings.limits.request_timeout = head;
    settings.limits.allowance.upload_idle = Some(upload);
    settings
}

/// An upstream of HTTP/1 that says how much of each body has come, and answers at its end.
async fn counting(seen: Arc<AtomicUsize>) -> Upstream {
    Upstream::raw(move |mut stream| {
        let seen = seen.clone();
        async move {
            let head = take_head(&mut stream).await;
            // What came along with the head.
            let behind = head.split_once("\r\n\r\n").map_or("", |both| both.1);
            let mut came = behind.as_bytes().to_vec();
            let mut part = [0; 4_096];
            loop {
                seen.fetch_add(came.iter().filter(|byte| **byte == b'x').count(), SeqCst);
                came.retain(|byte| *byte != b'x');
                if came.ends_with(b"0\r\n\r\n") {
                    break;
                }
                match stream.read(&mut part).await {
                    Ok(count) if count > 0 => came.extend_from_slice(&part[..count]),
                    _ => return,
                }
            }
            say(
                &mut stream,
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            )
            .await;
        }
    })
    .await
}

/// The same by HTTP/2.
async fn counting_streams(seen: Arc<AtomicUsize>) -> Upstream {
    scripted(Arc::default(), 100, move |_, (mut request, mut respond)| {
        let seen = seen.clone();
        async move {
            while let Some(Ok(part)) = request.body_mut().data().await {
                let _ = request
                    .body_mut()
                    .flow_control()
                    .release_capacity(part.len());
                seen.fetch_add(part.len(), SeqCst);
            }
            if request.body().is_end_stream() {
                let mut send = respond
                    .send_response(http::Response::new(()), false)
                    .unwrap();
                send.send_data(Bytes::from_static(b"ok"), true).unwrap();
            }
        }
    })
    .await
}

/// A client in the middle of its upload.
enum Uploading {
    Line(TcpStream),
    Stream(ResponseFuture, SendStream<Bytes>),
}

const CHUNKED: &str = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";

impl Uploading {
    async fn by_line(front: &Front) -> Self {
        let mut stream = TcpStream::connect(front.at).await.unwrap();
        say(&mut stream, CHUNKED).await;
        Self::Line(stream)
    }

    async fn by_stream(front: &Front) -> Self {
        let stream = TcpStream::connect(front.at).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut sender = sender.ready().await.unwrap();
        let request = Request::post("http://a/").body(()).unwrap();
        let (answer, body) = sender.send_request(request, false).unwrap();
        Self::Stream(answer, body)
    }

    async fn both(front: &Front) -> [Self; 2] {
        [Self::by_line(front).await, Self::by_stream(front).await]
    }

    async fn send(&mut self, data: &'static str) {
        match self {
            Self::Line(stream) => {
                say(stream, &format!("{:x}\r\n{data}\r\n", data.len())).await;
            }
            Self::Stream(_, body) => body.send_data(data.into(), false).unwrap(),
        }
    }

    async fn end(&mut self) {
        match self {
            Self::Line(stream) => say(stream, "0\r\n\r\n").await,
            Self::Stream(_, body) => body.send_data(Bytes::new(), true).unwrap(),
        }
    }

    /// The status and code of the answer, or its body's end.
    async fn answer(self) -> String {
        let reading = async {
            match self {
                Self::Line(mut stream) => {
                    let head = read_until(&mut stream, "\r\n\r\n").await;
                    let code = head.split("x-outgrow-error: ").nth(1);
                    let code = code.and_then(|rest| rest.lines().next());
                    format!("{} {}", &head[9..12], code.unwrap_or("-"))
                }
                Self::Stream(answer, _body) => {
                    let answer = answer.await.unwrap();
                    let code = answer.headers().get("x-outgrow-error");
                    let code = code.map_or("-", |code| code.to_str().unwrap());
                    format!("{} {code}", answer.status().as_u16())
                }
            }
        };
        timeout(WAIT, reading).await.unwrap()
    }
}

/// Sides of both kinds; `seen` counts what of bodies has come to them.
async fn sides(seen: &Arc<AtomicUsize>) -> [(Upstream, Settings); 2] {
    let lines = counting(seen.clone()).await;
    let streams = counting_streams(seen.clone()).await;
    let settings = [plain(&lines), known(&streams)];
    let [of_lines, of_streams] = settings;
    [(lines, of_lines), (streams, of_streams)]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_may_take_longer_than_its_answer() {
    let seen = Arc::new(AtomicUsize::new(0));
    for (_upstream, settings) in sides(&seen).await {
        let front = start(within(settings, SHORT, WAIT));
        let mut uploads = Duration::ZERO;
        for by_stream in [false, true] {
            let mut uploading = match by_stream {
                false => Uploading::by_line(&front).await,
                true => Uploading::by_stream(&front).await,
            };
            let begun = Instant::now();
            let before = seen.load(SeqCst);
            let mut sent = 0;
            while begun.elapsed() < 3 * SHORT {
                uploading.send("x").await;
                sent += 1;
                eventually("the byte has come", WAIT, || async {
                    (seen.load(SeqCst) == before + sent).then_some(())
                })
                .await;
            }
            uploads += begun.elapsed();
            uploading.end().await;
            assert_eq!(uploading.answer().await, "200 -");
        }
        assert_eq!(errors(&front), 0);
        // Nor is the side slow for it.
        let counted = front.handle.routes()[0].times.sum_us;
        assert!(u128::from(counted) < uploads.as_micros(), "{counted}");
        front.stop().await;
    }
}

/// While a client pauses no time of the upstream runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_pause_longer_than_its_upstream() {
    let seen = Arc::new(AtomicUsize::new(0));
    for (_upstream, settings) in sides(&seen).await {
        let front = start(within(settings, SHORT, WAIT));
        let mut uploading = Uploading::by_line(&front).await;
        uploading.send("x").await;
        if let Uploading::Line(stream) = &mut uploading {
            let early = timeout(3 * SHORT, stream.read(&mut [0; 1])).await;
            assert!(early.is_err(), "it was answered in its pause");
        }
        uploading.end().await;
        assert_eq!(uploading.answer().await, "200 -");
        front.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_in_its_body_is_told_so_and_nobody_is_blamed() {
    let seen = Arc::new(AtomicUsize::new(0));
    for (_upstream, settings) in sides(&seen).await {
        let front = start(within(settings, WAIT, SHORT));
        let mut uploading = Uploading::by_line(&front).await;
        uploading.send("xxx").await;
        assert_eq!(uploading.answer().await, "408 slow-upload");
        let mut uploading = Uploading::by_stream(&front).await;
        uploading.send("xxx").await;
        assert_eq!(uploading.answer().await, "408 slow-upload");
        // Also one that sends none of it.
        let uploading = Uploading::by_line(&front).await;
        assert_eq!(uploading.answer().await, "408 slow-upload");
        assert_eq!((errors(&front), refused(&front, "slow-upload")), (0, 3));
        front.stop().await;
    }
}

async fn late(mut uploading: Uploading) -> String {
    uploading.send("xxx").await;
    uploading.end().await;
    uploading.answer().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_answer_an_upload_is_late_and_blamed() {
    let silent = Upstream::raw(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let front = start(within(plain(&silent), SHORT, WAIT));
    let by_line = Uploading::by_line(&front).await;
    assert_eq!(late(by_line).await, "504 timeout");
    let by_stream = Uploading::by_stream(&front).await;
    assert_eq!(late(by_stream).await, "504 timeout");
    assert_eq!(errors(&front), 2);
    front.stop().await;
}

/// It says nothing and takes nothing, while the client would send on.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_take_an_upload_is_late_and_blamed() {
    let stuck = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
        let (_keep, wait) = tokio::sync::oneshot::channel::<()>();
        let _ = wait.await;
        drop(stream);
    })
    .await;
    let front = start(within(plain(&stuck), SHORT, WAIT));
    let body = Bytes::from(vec![b'x'; 30_000_000]);
    let stream = TcpStream::connect(front.at).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let sending = tokio::spawn(async move {
        let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 30000000\r\n\r\n";
        let _ = write.write_all(head.as_bytes()).await;
        let _ = write.write_all(&body).await;
    });
    let answer = read_until(&mut read, "timeout\"").await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert_eq!(errors(&front), 1);
    sending.abort();
    front.stop().await;
}

/// The answer came before the body did, and the client hangs in that: its connection ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_behind_its_answer_is_let_go() {
    let early = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
        say(
            &mut stream,
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        )
        .await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let front = start(within(plain(&early), WAIT, SHORT));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(&mut stream, CHUNKED).await;
    let mut all = Vec::new();
    let reading = timeout(WAIT, stream.read_to_end(&mut all));
    reading.await.expect("the end").unwrap();
    let answer = String::from_utf8_lossy(&all);
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    assert_eq!(errors(&front), 0);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_its_limit_is_refused() {
    let seen = Arc::new(AtomicUsize::new(0));
    for (_upstream, mut settings) in sides(&seen).await {
        settings.limits.allowance.body_max = Some(5);
        let front = start(settings);
        // By what its head says, before anybody is asked.
        let before = seen.load(SeqCst);
        let answer = front.post("/", "xxxxxx").await;
        assert_eq!(answer.header("x-outgrow-error"), Some("body-too-long"));
        assert_eq!(answer.status, 413, "{}", answer.text());
        assert_eq!(seen.load(SeqCst), before);
        // By what it turns out to be.
        for mut uploading in Uploading::both(&front).await {
            uploading.send("xxxxx").await;
            uploading.end().await;
            assert_eq!(uploading.answer().await, "200 -");
        }
        for mut uploading in Uploading::both(&front).await {
            uploading.send("xxx").await;
            uploading.send("xxx").await;
            assert_eq!(uploading.answer().await, "413 body-too-long");
        }
        assert_eq!(errors(&front), 0);
        front.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_has_limits_of_its_own() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let mut settings = within(sliced(&legacy, &extracted), WAIT, WAIT);
    settings.limits.allowance.body_max = Some(3);
    for route in &mut settings.slices[0].routes {
        if route.method == Method::POST {
            route.filters = Some(Arc::new(Filters {
                allowance: Allowance {
                    body_max: Some(10),
                    upload_idle: Some(SHORT),
                    ..Allowance::default()
                },
                ..Filters::default()
            }));
        }
    }
    let front = start(settings);
    assert_eq!(front.post("/elsewhere", "four").await.status, 413);
    assert_eq!(front.post("/api/items", "four").await.text(), "legacy");
    assert_eq!(front.post("/api/items", "eleven long").await.status, 413);
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    let head = "POST /api/items HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab";
    say(&mut stream, head).await;
    let answer = read_until(&mut stream, "slow-upload\"").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    let counts = front.handle.counts(&slice_id()).unwrap();
    assert_eq!((counts.legacy.requests, counts.legacy.errors), (1, 0));
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_beyond_its_limit_is_refused() {
    let upstream = named("a").await;
    let mut settings = plain(&upstream);
    settings.limits.head_max = 4_096;
    let front = start(settings);
    let long = "x".repeat(5_000);
    let answer = front.get("/", &[("x-long", &long[..3_000])]).await;
    assert_eq!(answer.status, 200);
    let answer = front.get("/", &[("x-long", &long)]).await;
    assert_eq!(answer.header("x-outgrow-error"), Some("head-too-long"));
    let stream = TcpStream::connect(front.at).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = Request::get("http://a/").header("x-long", &long);
    let (answer, _) = sender
        .send_request(request.body(()).unwrap(), true)
        .unwrap();
    assert_eq!(answer.await.unwrap().status(), 431);
    assert_eq!(upstream.seen().len(), 1);
    front.stop().await;
}
