//! Upstreams that are down, slow, rude or half dead.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use outgrow_proxy::ServiceSettings;
use outgrow_testkit::{LocalSocket, Upstream, client, eventually, process::free_address};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{WAIT, plain, read_until, say, sliced, start, take_head, text};

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_is_a_clear_503() {
    let upstream = Upstream::always(200, "ok").await;
    let mut settings = plain(&upstream);
    // Taken, so that nobody else listens there meanwhile.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let down = taken.local_addr().unwrap();
    settings.legacy.upstreams = vec![down.to_string().parse().unwrap()];
    let front = start(settings);
    for method in [Method::GET, Method::POST] {
        let answer =
            client::send(client::request(method, &front.url("/"), &[], Bytes::new())).await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("x-outgrow-error"), Some("connect-failed"));
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert!(
            answer.text().contains("cannot connect to 127.0.0.1"),
            "{}",
            answer.text()
        );
    }
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_upstream_is_asked_when_one_is_down() {
    let upstream = Upstream::always(200, "ok").await;
    let mut settings = plain(&upstream);
    settings
        .legacy
        .upstreams
        .insert(0, free_address().to_string().parse().unwrap());
    let front = start(settings);
    assert_eq!(front.get("/", &[]).await.text(), "ok");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_hangs_is_a_504() {
    let upstream = Upstream::raw(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let mut settings = plain(&upstream);
    settings.limits.request_timeout = Duration::from_millis(150);
    let front = start(settings);
    let answer = front.get("/", &[]).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("x-outgrow-error")),
        (504, Some("timeout"))
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_before_the_head_is_a_502_and_a_write_is_not_sent_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let upstream = Upstream::raw(move |mut stream| {
        let count = count.clone();
        async move {
            take_head(&mut stream).await;
            count.fetch_add(1, SeqCst);
        }
    })
    .await;
    let front = start(plain(&upstream));
    let answer = front.post("/", "a write").await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("x-outgrow-error")),
        (502, Some("broken"))
    );
    assert_eq!(asked.load(SeqCst), 1);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_inside_the_body_does_not_look_whole() {
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let upstream = Upstream::raw(move |mut stream| async move {
            take_head(&mut stream).await;
            say(&mut stream, head).await;
        })
        .await;
        let front = start(plain(&upstream));
        let request = client::request(Method::GET, &front.url("/"), &[], Bytes::new());
        let answer = client::try_send(request).await;
        assert!(answer.is_err(), "{head:?}: {answer:?}");
        let raw = front
            .raw("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .await;
        assert!(!raw.ends_with("0\r\n\r\n"), "{raw}");
        front.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_http_is_a_502() {
    let upstream = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
        say(&mut stream, "SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
    })
    .await;
    let front = start(plain(&upstream));
    assert_eq!(front.get("/", &[]).await.status, 502);
    front.stop().await;
}

/// The upstream answers before it has read the upload (a 413, say).
#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_reaches_the_client() {
    let upstream = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
        say(
            &mut stream,
            "HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig",
        )
        .await;
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let front = start(plain(&upstream));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(
        &mut stream,
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nthe beginning",
    )
    .await;
    let answer = read_until(&mut stream, "big").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    front.stop().await;
}

/// Each connection serves one request, says that it stays, and closes: the next request finds a
/// dead one in the pool. Nothing of a write was sent on it, or it is not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_died_in_the_pool_fails_nobody() {
    let upstream = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
        say(
            &mut stream,
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        )
        .await;
    })
    .await;
    let front = start(plain(&upstream));
    for _ in 0..20 {
        assert_eq!(front.get("/", &[]).await.status, 200);
    }
    front.stop().await;
}

/// A client that leaves in the middle takes its upstream request with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_the_request_upstream() {
    let (gone, mut ended) = tokio::sync::mpsc::channel(1);
    let upstream = Upstream::raw(move |mut stream| {
        let gone = gone.clone();
        async move {
            take_head(&mut stream).await;
            say(
                &mut stream,
                "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf",
            )
            .await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
            let _ = gone.send(()).await;
        }
    })
    .await;
    let front = start(plain(&upstream));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    read_until(&mut stream, "half").await;
    drop(stream);
    tokio::time::timeout(crate::harness::WAIT, ended.recv())
        .await
        .unwrap()
        .unwrap();
    front.stop().await;
}

/// A service that restarts: nothing of a write could be sent, so it is tried again until it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_waits_for_a_service_that_restarts() {
    for path in ["/", "/api/items"] {
        let folder = tempfile::tempdir().unwrap();
        let upstream = Upstream::start(|request| async move { text(request.into_body()) }).await;
        let place = folder.path().join("shop.sock");
        let mut settings = sliced(&upstream, &upstream);
        let address = format!("unix:{}", place.display());
        settings.legacy = ServiceSettings::new(
            "legacy",
            vec![address.parse::<outgrow_proxy::Source>().unwrap()],
        );
        settings.limits.connect_retry = WAIT;
        let front = Arc::new(start(settings));
        let write = tokio::spawn({
            let front = front.clone();
            async move { front.post(path, "a write").await }
        });
        eventually("it was refused once", WAIT, || async {
            let legacy = front.handle.services().swap_remove(0);
            (legacy.upstreams[0].failures > 0).then_some(())
        })
        .await;
        let socket = LocalSocket::before(upstream.addr(), &place);
        let answer = write.await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), answer.text()),
            (200, "a write".into()),
            "{path}"
        );
        assert_eq!(upstream.seen().len(), 1);
        drop(socket);
        Arc::into_inner(front).unwrap().stop().await;
    }
}
