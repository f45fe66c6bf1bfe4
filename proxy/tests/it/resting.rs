//! How long a connection without a request stays: a client's, of either protocol, and one with an upstream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use outgrow_testkit::{Upstream, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;

use crate::conforming::to_the_end;
use crate::frames::{ACK, Client, END_STREAM, Frame, GOAWAY, PING, SETTINGS, STATUS_200, request};
use crate::harness::{WAIT, plain, say, start, take_head, text};

/// After an answer a client may rest for a time of its own; a head that it has begun is to come within that of heads.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_rest_between_its_requests() {
    let upstream = Upstream::always(200, "ok").await;
    for (rest, begun) in [(200, ""), (60_000, "GET / HTTP/1.1\r\n"), (0, "G")] {
        let mut settings = plain(&upstream);
        settings.limits.head_timeout =
            Duration::from_millis(if rest == 200 { 60_000 } else { 200 });
        settings.limits.keep_alive = Duration::from_millis(rest);
        let front = start(settings);
        let mut stream = TcpStream::connect(front.at).await.unwrap();
        say(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        say(&mut stream, begun).await;
        let (said, _) = to_the_end(&mut stream).await;
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        assert_eq!(said.matches("HTTP/1.1").count(), 1, "{said}");
        front.stop().await;
    }
}

/// Who has no request does not stay for ever, however well it answers pings; who has one does.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_only_answers_is_let_go() {
    let (go_on, wait) = tokio::sync::watch::channel(false);
    let upstream = Upstream::start(move |_| {
        let mut wait = wait.clone();
        async move {
            let _ = wait.wait_for(|go| *go).await;
            text("late")
        }
    })
    .await;
    let mut settings = plain(&upstream);
    settings.limits.keep_alive = Duration::from_millis(100);
    let front = start(settings);
    let mut busy = Client::open(&front, &[]).await;
    busy.until(SETTINGS).await;
    busy.send(Frame::new(SETTINGS, ACK, 0, [])).await;
    busy.ask(1, END_STREAM, &request("GET", "/")).await;
    let mut idle = Client::open(&front, &[]).await;
    idle.until(SETTINGS).await;
    idle.send(Frame::new(SETTINGS, ACK, 0, [])).await;
    let mut told = None;
    while let Some(frame) = idle.next().await {
        match (frame.kind, frame.flags & ACK) {
            (PING, 0) => idle.send(Frame::new(PING, ACK, 0, frame.payload)).await,
            (GOAWAY, _) => told = Some(frame.code()),
            _ => {}
        }
    }
    assert_eq!(told, Some(0), "in good order");
    // The other one began before, and is answered.
    go_on.send(true).unwrap();
    let (head, data, _) = busy.answer(1).await;
    assert_eq!((head[0], &data[..]), (STATUS_200, &b"late"[..]));
    front.stop().await;
}

/// One that says how long it keeps a connection is not asked on it any longer.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_keeps_no_connection_gets_new_ones() {
    for (says, expected) in [
        ("", 1),
        ("keep-alive: timeout=60\r\n", 1),
        ("keep-alive: timeout=0\r\n", 3),
    ] {
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let upstream = Upstream::raw(move |mut stream| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                loop {
                    if take_head(&mut stream).await.is_empty() {
                        return;
                    }
                    say(
                        &mut stream,
                        &format!("HTTP/1.1 200 OK\r\n{says}content-length: 2\r\n\r\nok"),
                    )
                    .await;
                }
            }
        })
        .await;
        let front = start(plain(&upstream));
        let mut client = TcpStream::connect(front.at).await.unwrap();
        for _ in 0..3 {
            say(&mut client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            let mut answer = String::new();
            while !answer.ends_with("\r\n\r\nok") {
                let mut part = [0; 500];
                let read = client.read(&mut part).await.unwrap();
                assert!(read > 0, "{answer}");
                answer.push_str(std::str::from_utf8(&part[..read]).unwrap());
            }
        }
        assert_eq!(connections.load(Ordering::Relaxed), expected, "{says:?}");
        front.stop().await;
    }
}

/// Each core keeps no more connections with an upstream than the config says, and ends the others.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_connections_rest_than_the_config_says() {
    for (most, more) in [(0, 4), (1, 3), (3, 1), (4, 0)] {
        let (begun, open) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let all_asked = Arc::new(Barrier::new(4));
        let (count, now) = (begun.clone(), open.clone());
        let upstream = Upstream::raw(move |mut stream| {
            count.fetch_add(1, Ordering::Relaxed);
            now.fetch_add(1, Ordering::Relaxed);
            let (all_asked, now) = (all_asked.clone(), now.clone());
            async move {
                while !take_head(&mut stream).await.is_empty() {
                    all_asked.wait().await;
                    say(&mut stream, "HTTP/1.1 204 No Content\r\n\r\n").await;
                }
                now.fetch_sub(1, Ordering::Relaxed);
            }
        })
        .await;
        let mut settings = plain(&upstream);
        settings.limits.pool_max = most;
        let front = start(settings);
        let ask = || async {
            let asked = [(); 4].map(|()| front.get("/", &[]));
            let statuses = join_all(asked).await;
            assert!(statuses.iter().all(|answer| answer.status == 204));
        };
        ask().await;
        assert_eq!(begun.load(Ordering::Relaxed), 4);
        eventually("the others are ended", WAIT, || async {
            (open.load(Ordering::Relaxed) == most).then_some(())
        })
        .await;
        ask().await;
        assert_eq!(begun.load(Ordering::Relaxed), 4 + more, "of {most}");
        front.stop().await;
    }
}

/// A client that has said all it has to say may wait for its answer for as long as the config says.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_closed_client_is_answered_in_its_time() {
    let upstream = Upstream::start(|_| async {
        // tidy: sleep, because what is slower than the default is to be waited for.
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        text("late")
    })
    .await;
    let mut settings = plain(&upstream);
    settings.limits.half_closed = Duration::from_secs(20);
    let front = start(settings);
    let mut client = TcpStream::connect(front.at).await.unwrap();
    say(&mut client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.shutdown().await.unwrap();
    let (said, _) = to_the_end(&mut client).await;
    assert!(said.ends_with("\r\n\r\nlate"), "{said}");
    front.stop().await;
}
