//! A pass-through changes nothing that is the client's or the upstream's business.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outgrow_proxy::Proxy;
use outgrow_testkit::{Upstream, client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::harness::{WAIT, plain, read_until, say, start, take_head, text};

#[tokio::test(flavor = "multi_thread")]
async fn request_and_answer_arrive_as_they_were_sent() {
    let upstream = Upstream::start(|_| async {
        Response::builder()
            .status(201)
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .header("x-odd", "caf\u{e9}".as_bytes())
            .header("keep-alive", "timeout=9")
            .body(Bytes::from_static(b"made"))
            .unwrap()
    })
    .await;
    let front = start(plain(&upstream));
    let sent = client::request(
        Method::PATCH,
        &front.url("/a%2Fb/./c//d?x=1&y=%20;&&"),
        &[("x-a", "1"), ("x-a", "2"), ("accept", "*/*")],
        Bytes::from_static(b"\x00body"),
    );
    let answer = client::send(sent).await;
    assert_eq!(
        (answer.status.as_u16(), answer.text()),
        (201, "made".to_owned())
    );
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    assert_eq!(answer.headers["x-odd"].as_bytes(), "caf\u{e9}".as_bytes());
    assert!(answer.header("keep-alive").is_none());
    let seen = &upstream.seen()[0];
    assert_eq!(
        (seen.method.as_str(), seen.target.as_str(), &seen.body[..]),
        ("PATCH", "/a%2Fb/./c//d?x=1&y=%20;&&", &b"\x00body"[..])
    );
    let twice: Vec<_> = seen.headers.get_all("x-a").iter().collect();
    assert_eq!(twice, ["1", "2"]);
    assert_eq!(seen.header("host").unwrap(), front.at.to_string());
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_stay_without_one() {
    let upstream = Upstream::start(|request| async move {
        let status = match request.uri().path() {
            "/204" => 204,
            "/304" => 304,
            _ => 200,
        };
        let body = if status == 200 { "twelve bytes" } else { "" };
        let mut answer = text(body);
        *answer.status_mut() = status.try_into().unwrap();
        answer
    })
    .await;
    let front = start(plain(&upstream));
    for (method, path, status) in [
        ("HEAD", "/", "200 OK"),
        ("GET", "/204", "204 No Content"),
        ("GET", "/304", "304 Not Modified"),
    ] {
        let answer = front
            .raw(&format!(
                "{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
            ))
            .await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\n"), "{method} {path}: {answer}");
        assert_eq!(
            answer.contains("content-length: 12"),
            method == "HEAD",
            "{answer}"
        );
    }
    front.stop().await;
}

/// The first part arrives while the upstream still waits for leave to send the last.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_streams_and_its_trailers_come_through() {
    let go_on = Arc::new(Notify::new());
    let waits = go_on.clone();
    let upstream = Upstream::streaming(move |_| {
        let waits = waits.clone();
        async move {
            let frames = futures_util::stream::unfold(0, move |step| {
                let waits = waits.clone();
                async move {
                    let frame = match step {
                        0 => Frame::data(Bytes::from_static(b"first ")),
                        1 => {
                            waits.notified().await;
                            Frame::data(Bytes::from_static(b"last"))
                        }
                        2 => Frame::trailers(
                            [("x-sum".parse().unwrap(), "42".parse().unwrap())]
                                .into_iter()
                                .collect(),
                        ),
                        _ => return None,
                    };
                    Some((Ok::<_, std::io::Error>(frame), step + 1))
                }
            });
            Response::builder()
                .header("trailer", "x-sum")
                .body(StreamBody::new(frames).boxed())
                .unwrap()
        }
    })
    .await;
    let front = start(plain(&upstream));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    let request = "GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: close, te\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let begun = read_until(&mut stream, "first ").await;
    assert!(!begun.contains("last"), "{begun}");
    go_on.notify_one();
    let rest = read_until(&mut stream, "\r\n\r\n").await;
    assert!(
        rest.contains("last") && rest.contains("x-sum: 42"),
        "{rest}"
    );
    front.stop().await;
}

/// An upload arrives part by part, and only after the upstream was asked whether it wants it.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_streams_after_100_continue() {
    let upstream = Upstream::raw(|mut stream| async move {
        let head = take_head(&mut stream).await.to_ascii_lowercase();
        assert!(!head.contains("expect:"), "{head}");
        let body = if head.contains("\r\npart") {
            head
        } else {
            read_until(&mut stream, "part").await
        };
        assert!(!body.contains("rest"), "the first part came alone");
        say(&mut stream, "HTTP/1.1 103 Early Hints\r\n\r\n").await;
        read_until(&mut stream, "rest").await;
        say(
            &mut stream,
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-got: part\r\n\r\nok",
        )
        .await;
    })
    .await;
    let front = start(plain(&upstream));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(
        &mut stream,
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\nexpect: 100-continue\r\n\r\n",
    )
    .await;
    read_until(&mut stream, "100 Continue").await;
    say(&mut stream, "part").await;
    // The upstream answers the last bytes only; it has seen the first ones by then.
    tokio::task::yield_now().await;
    say(&mut stream, "rest").await;
    let answer = read_until(&mut stream, "\r\n\r\nok").await;
    assert!(answer.contains("HTTP/1.1 200 OK"), "{answer}");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_goes_both_ways() {
    let upstream = Upstream::start(|request| async move { text(request.into_body()) }).await;
    let front = start(plain(&upstream));
    let body: Bytes = (0..8_000_000u32).map(|n| (n % 251) as u8).collect();
    let answer = client::send(client::request(
        Method::POST,
        &front.url("/"),
        &[],
        body.clone(),
    ))
    .await;
    assert!(answer.body == body);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_connections_are_used_again() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let upstream = Upstream::raw(move |mut stream| {
        count.fetch_add(1, SeqCst);
        async move {
            while !take_head(&mut stream).await.is_empty() {
                say(
                    &mut stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                )
                .await;
            }
        }
    })
    .await;
    let front = start(plain(&upstream));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    for _ in 0..20 {
        say(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        read_until(&mut stream, "\r\n\r\nok").await;
    }
    assert_eq!(connections.load(SeqCst), 1);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let upstream =
        Upstream::start(|request| async move { text(request.uri().path().to_owned()) }).await;
    let front = start(plain(&upstream));
    let answers = front
        .raw(
            "GET /one HTTP/1.1\r\nhost: a\r\n\r\nGET /two HTTP/1.1\r\nhost: a\r\n\r\n\
             GET /three HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        )
        .await;
    let at = |path: &str| answers.find(path).unwrap();
    assert!(
        at("/one") < at("/two") && at("/two") < at("/three"),
        "{answers}"
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_1_0_client_gets_a_plain_answer_and_the_end() {
    let upstream = Upstream::always(200, "ok").await;
    let front = start(plain(&upstream));
    let answer = front.raw("GET / HTTP/1.0\r\nhost: a\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.0 200") && answer.ends_with("ok"),
        "{answer}"
    );
    assert!(!answer.to_ascii_lowercase().contains("chunked"), "{answer}");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_without_tls_is_understood() {
    let upstream = Upstream::start(|request| async move {
        assert_eq!(request.version(), Version::HTTP_11);
        text(request.into_body())
    })
    .await;
    let front = start(plain(&upstream));
    let stream = TcpStream::connect(front.at).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    for part in ["one", "two"] {
        let request = http::Request::post(front.url("/x"))
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(Full::new(Bytes::from(part)))
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.version(), Version::HTTP_2);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), part);
    }
    let seen = &upstream.seen()[0];
    assert_eq!(seen.header("cookie"), Some("a=1; b=2"));
    assert_eq!(seen.header("host").unwrap(), front.at.to_string());
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_carries_bytes_both_ways() {
    let upstream = Upstream::raw(|mut stream| async move {
        let head = take_head(&mut stream).await.to_ascii_lowercase();
        assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
        assert!(head.contains("sec-websocket-key: abc"), "{head}");
        say(
            &mut stream,
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nhello",
        )
        .await;
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let front = start(plain(&upstream));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(
        &mut stream,
        "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-key: abc\r\n\r\n",
    )
    .await;
    let head = read_until(&mut stream, "hello").await.to_ascii_lowercase();
    assert!(
        head.starts_with("http/1.1 101") && head.contains("upgrade: websocket"),
        "{head}"
    );
    say(&mut stream, "\x01frame").await;
    read_until(&mut stream, "\x01frame").await;
    // The client closes its half; the echo ends, and with it the tunnel.
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_outlives_its_config_until_the_drain_ends() {
    let upstream = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        say(&mut stream, head).await;
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let front = start(plain(&upstream));
    let open = async || {
        let mut stream = TcpStream::connect(front.at).await.unwrap();
        let ask =
            "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        say(&mut stream, &format!("{ask}first")).await;
        read_until(&mut stream, "first").await;
        stream
    };
    let (mut leaves, mut stays) = (open().await, open().await);
    let next = Proxy::succeed(&front.running, plain(&upstream), None);
    let next = next.unwrap().start();
    let hurry = CancellationToken::new();
    let grace = Duration::from_secs(3_600);
    let old = tokio::spawn(front.running.retire(grace, hurry.clone()));
    for stream in [&mut leaves, &mut stays] {
        say(stream, "second").await;
        read_until(stream, "second").await;
    }
    drop(leaves);
    hurry.cancel();
    assert_eq!(
        stays.read(&mut [0; 9]).await.unwrap_or(0),
        0,
        "cut at the end"
    );
    let report = old.await.unwrap();
    // The one that has left may be on its way out still.
    assert!(report.open == 2 && report.cut > 0, "{report:?}");
    next.shutdown(WAIT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let upstream = Upstream::always(426, "no").await;
    let front = start(plain(&upstream));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    let asks = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    say(&mut stream, asks).await;
    let answer = read_until(&mut stream, "\r\n\r\nno").await;
    assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");
    say(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    read_until(&mut stream, "\r\n\r\nno").await;
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_head_over_http_2_has_no_body() {
    let upstream = Upstream::always(200, "ok").await;
    let front = start(plain(&upstream));
    let stream = TcpStream::connect(front.at).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for (method, body) in [("HEAD", false), ("GET", true)] {
        let request = http::Request::builder().method(method);
        let request = request.uri(format!("http://a@{}/", front.at)).body(());
        let (answer, _) = sender.send_request(request.unwrap(), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 400);
        assert!(answer.headers().contains_key("content-length"));
        assert_eq!(answer.into_body().data().await.is_some(), body);
    }
    assert!(upstream.seen().is_empty());
    front.stop().await;
}
