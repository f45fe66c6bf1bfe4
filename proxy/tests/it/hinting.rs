//! Interim answers of upstreams: hints reach who knows them, before the answer.

use std::time::Duration;

use bytes::Bytes;
use h2::server;
use http::{HeaderValue, Response, StatusCode};
use outgrow_proxy::{Protocol, Settings};
use outgrow_testkit::{Upstream, eventually};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::harness::{WAIT, named, plain, read_until, say, sliced, start, take_head};

const HINT: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\
                    connection: x-hop\r\nx-hop: 1\r\ncontent-length: 7\r\n\r\n";

/// Says its hints at once, and its answer when it is told to.
async fn hinting(hints: &'static str) -> (Upstream, watch::Sender<bool>) {
    let (go, may) = watch::channel(false);
    let upstream = Upstream::raw(move |mut stream| {
        let mut may = may.clone();
        async move {
            loop {
                let head = take_head(&mut stream).await;
                if head.is_empty() {
                    return;
                }
                if head.contains("content-length: 4") && !head.ends_with("body") {
                    read_until(&mut stream, "body").await;
                }
                say(&mut stream, hints).await;
                may.wait_for(|may| *may).await.unwrap();
                say(
                    &mut stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                )
                .await;
            }
        }
    })
    .await;
    (upstream, go)
}

async fn asks(at: std::net::SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

const GET: &str = "GET /api/items/7 HTTP/1.1\r\nhost: a\r\nx-visitor: a\r\n\r\n";
const POST: &str =
    "POST /api/items HTTP/1.1\r\nhost: a\r\nx-visitor: a\r\ncontent-length: 4\r\n\r\nbody";

/// A read and a write; of a slice, whose writes have a task of their own, and of none.
fn ways(upstream: &Upstream) -> [(Settings, &'static str); 4] {
    [
        (plain(upstream), GET),
        (plain(upstream), POST),
        (sliced(upstream, upstream), GET),
        (sliced(upstream, upstream), POST),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_comes_before_its_answer() {
    let (upstream, go) = hinting(HINT).await;
    for (settings, request) in ways(&upstream) {
        let front = start(settings);
        let mut client = asks(front.at, request).await;
        // The answer waits for the hint to be there.
        let hint = read_until(&mut client, "\r\n\r\n").await;
        assert_eq!(
            hint,
            "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"
        );
        go.send(true).unwrap();
        let answer = read_until(&mut client, "\r\n\r\nok").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        // The connection is good for the next request, and its hint belongs to that.
        client.write_all(request.as_bytes()).await.unwrap();
        let both = read_until(&mut client, "\r\n\r\nok").await;
        assert!(both.starts_with("HTTP/1.1 103 "), "{both}");
        assert_eq!(both.matches("HTTP/1.1 ").count(), 2, "{both}");
        go.send(false).unwrap();
        front.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_leave_gets_both() {
    let (upstream, go) = hinting(HINT).await;
    for (settings, _) in ways(&upstream).into_iter().skip(1).step_by(2) {
        let front = start(settings);
        let head = POST.replace("\r\n\r\nbody", "\r\nexpect: 100-continue\r\n\r\n");
        let mut client = asks(front.at, &head).await;
        let leave = read_until(&mut client, "\r\n\r\n").await;
        assert_eq!(leave, "HTTP/1.1 100 Continue\r\n\r\n");
        say(&mut client, "body").await;
        let hint = read_until(&mut client, "\r\n\r\n").await;
        assert!(hint.starts_with("HTTP/1.1 103 "), "{hint}");
        go.send(true).unwrap();
        read_until(&mut client, "\r\n\r\nok").await;
        go.send(false).unwrap();
        front.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_for_the_client_is_passed_on() {
    let hints = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
                 HTTP/1.1 103 Early Hints\r\nlink: </b.css>\r\n\r\n";
    let (upstream, go) = hinting(hints).await;
    go.send(true).unwrap();
    let front = start(plain(&upstream));
    let mut client = asks(front.at, GET).await;
    let all = read_until(&mut client, "\r\n\r\nok").await;
    let said: Vec<_> = all
        .lines()
        .filter(|line| line.starts_with("HTTP/"))
        .collect();
    assert_eq!(
        said,
        [
            "HTTP/1.1 102 Processing",
            "HTTP/1.1 103 Early Hints",
            "HTTP/1.1 200 OK"
        ]
    );
    // A client of HTTP/1.0 knows no such thing.
    let mut old = asks(front.at, "GET / HTTP/1.0\r\nhost: a\r\n\r\n").await;
    let answer = read_until(&mut old, "\r\n\r\nok").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(!answer.contains("Early Hints"), "{answer}");
    // One of HTTP/2 gets its answer.
    let (status, text) = by_http2(front.at).await;
    assert_eq!((status, &*text), (StatusCode::OK, "ok"));
    front.stop().await;
}

async fn by_http2(at: std::net::SocketAddr) -> (StatusCode, String) {
    let stream = TcpStream::connect(at).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let driving = tokio::spawn(connection);
    let request = http::Request::get("http://a/x").body(()).unwrap();
    let mut client = client.ready().await.unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    let answer = tokio::time::timeout(WAIT, answer).await.unwrap().unwrap();
    let (status, mut body) = (answer.status(), answer.into_body());
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        text.extend_from_slice(&data.unwrap());
    }
    driving.abort();
    (status, String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_come_from_upstreams_of_http2_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (go, may) = watch::channel(false);
    let upstream = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = server::handshake(stream).await.unwrap();
        while let Some(request) = connection.accept().await {
            let (_, mut respond) = request.unwrap();
            let mut hint = Response::new(());
            *hint.status_mut() = StatusCode::EARLY_HINTS;
            let link = HeaderValue::from_static("</c.css>");
            hint.headers_mut().insert("link", link);
            respond.send_informational(hint).unwrap();
            let mut may = may.clone();
            tokio::spawn(async move {
                may.wait_for(|may| *may).await.unwrap();
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                body.send_data(Bytes::from_static(b"ok"), true).unwrap();
            });
        }
    });
    let mut settings = plain(&named("nobody").await);
    settings.legacy = outgrow_proxy::ServiceSettings::new("legacy", vec![at]);
    settings.legacy.rules.transport.protocol = Protocol::Http2;
    let front = start(settings);
    let mut client = asks(front.at, GET).await;
    let hint = read_until(&mut client, "\r\n\r\n").await;
    assert_eq!(hint, "HTTP/1.1 103 Early Hints\r\nlink: </c.css>\r\n\r\n");
    go.send(true).unwrap();
    let answer = read_until(&mut client, "ok").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    front.stop().await;
    upstream.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_none_of_them_gets_its_answer() {
    // More than all buffers on the way to the client could hold, if each of them were kept.
    let upstream = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
        let hint = format!(
            "HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n",
            "x".repeat(7_000)
        );
        for _ in 0..2_000 {
            if stream.write_all(hint.as_bytes()).await.is_err() {
                return;
            }
        }
        say(
            &mut stream,
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        )
        .await;
        std::future::pending::<()>().await;
    })
    .await;
    let mut settings = plain(&upstream);
    settings.limits.request_timeout = Duration::from_secs(60);
    let front = start(settings);
    let mut client = asks(front.at, GET).await;
    // It reads when the upstream has said everything: the proxy has waited for nobody.
    eventually("the answer's head", WAIT, || async {
        let routes = front.handle.routes();
        let mut times = routes.iter().flat_map(|route| &route.times.within_us);
        times.any(|(_, count)| *count > 0).then_some(())
    })
    .await;
    let all = read_until(&mut client, "\r\n\r\nok").await;
    assert!(all.contains("HTTP/1.1 200 OK\r\n"));
    assert!(all.len() < 14_000_000, "{}", all.len());
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http2_gets_hints_and_then_its_answer() {
    for sliced in [false, true] {
        let (upstream, go) = hinting(HINT).await;
        let settings = if sliced {
            crate::harness::sliced(&upstream, &upstream)
        } else {
            plain(&upstream)
        };
        let front = start(settings);
        let stream = TcpStream::connect(front.at).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        for method in ["GET", "POST"] {
            let request = http::Request::builder()
                .method(method)
                .uri(format!("http://{}/api/items", front.at))
                .header("x-visitor", "a");
            let body = method == "POST";
            let length = if body { "4" } else { "0" };
            let request = request.header("content-length", length).body(()).unwrap();
            let (mut answer, mut upload) = sender.send_request(request, !body).unwrap();
            if body {
                upload.send_data(Bytes::from("body"), true).unwrap();
            }
            let hint = std::future::poll_fn(|cx| answer.poll_informational(cx)).await;
            let hint = hint.unwrap().unwrap();
            assert_eq!(hint.status(), StatusCode::EARLY_HINTS);
            let fields: Vec<&str> = hint.headers().keys().map(|name| name.as_str()).collect();
            assert_eq!(fields, ["link"], "no more than the hint");
            go.send(true).unwrap();
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            let whole = answer.into_body().data().await.unwrap().unwrap();
            assert_eq!(whole, "ok");
            go.send(false).unwrap();
        }
        front.stop().await;
    }
}

/// Nobody's window bounds hints: an upstream that says them without end fills no memory.
#[tokio::test(flavor = "multi_thread")]
async fn hints_without_end_are_told_up_to_a_bound() {
    let many = HINT.repeat(2_000);
    let many: &'static str = Box::leak(many.into_boxed_str());
    let (upstream, go) = hinting(many).await;
    go.send(true).unwrap();
    let front = start(plain(&upstream));
    let stream = TcpStream::connect(front.at).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(format!("http://{}/", front.at));
    let (mut answer, _) = sender
        .send_request(request.body(()).unwrap(), true)
        .unwrap();
    let mut hints = 0;
    while let Some(hint) = std::future::poll_fn(|cx| answer.poll_informational(cx)).await {
        assert_eq!(hint.unwrap().status(), StatusCode::EARLY_HINTS);
        hints += 1;
    }
    assert!((10..1_000).contains(&hints), "{hints}");
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    front.stop().await;
}
