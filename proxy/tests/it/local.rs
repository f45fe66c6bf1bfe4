//! Upstreams on Unix sockets.

use std::time::Duration;

use bytes::Bytes;
use outgrow_proxy::{Balance, Health, ServiceSettings};
use outgrow_testkit::{LocalSocket, Upstream, client, eventually};
use tokio::net::TcpStream;

use crate::balancing::{among, told};
use crate::harness::{WAIT, named, plain, read_until, say, start, take_head, text};

#[tokio::test(flavor = "multi_thread")]
async fn requests_bodies_and_checks_go_through_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let echo = Upstream::start(|request| async move {
        match request.uri().path() {
            "/healthz" => text("well"),
            _ => text(request.into_body()),
        }
    })
    .await;
    let socket = LocalSocket::before(echo.addr(), &folder.path().join("shop.sock"));
    let mut settings = plain(&echo);
    let address: outgrow_proxy::Source = socket.url().parse().unwrap();
    settings.legacy = ServiceSettings::new("legacy", vec![address]);
    settings.legacy.rules.health = Some(Health {
        every: Duration::from_millis(100),
        timeout: Duration::from_millis(100),
        ..Health::at("/healthz")
    });
    let front = start(settings);
    for _ in 0..3 {
        assert_eq!(front.post("/", "a write").await.text(), "a write");
    }
    let long = Bytes::from(vec![b'x'; 300_000]);
    let request = client::request(http::Method::POST, &front.url("/"), &[], long.clone());
    assert_eq!(client::send(request).await.body, long);
    assert_eq!(told(&front, 0, "to"), socket.url());
    eventually("it is checked", WAIT, || async {
        let seen = echo.seen();
        seen.into_iter().find(|seen| seen.target == "/healthz")
    })
    .await;
    let seen = echo.seen();
    let check = seen.iter().find(|seen| seen.target == "/healthz").unwrap();
    assert_eq!(check.header("host"), Some("localhost"));
    let post = seen.iter().find(|seen| seen.target == "/").unwrap();
    assert_eq!(post.header("host"), Some(front.at.to_string().as_str()));
    drop(socket);
    eventually("a check finds it gone", WAIT, || async {
        (told(&front, 0, "state") == "unhealthy").then_some(())
    })
    .await;
    let answer = front.get("/", &[]).await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("unix:/"), "{}", answer.text());
    front.stop().await;
}

/// The answer's head comes before the upload is through: both halves go on by themselves.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_leaves_the_upload_going() {
    let folder = tempfile::tempdir().unwrap();
    let early = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
        say(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await;
        read_until(&mut stream, "the end").await;
        say(&mut stream, "early").await;
    })
    .await;
    let socket = LocalSocket::before(early.addr(), &folder.path().join("a.sock"));
    let mut settings = plain(&early);
    settings.legacy.upstreams = vec![socket.url().parse().unwrap()];
    let front = start(settings);
    let mut client = TcpStream::connect(front.at).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 12\r\n\r\nhalf ";
    say(&mut client, head).await;
    read_until(&mut client, "\r\n\r\n").await;
    say(&mut client, "the end").await;
    read_until(&mut client, "early").await;
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_goes_through_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        say(&mut stream, head).await;
        let heard = read_until(&mut stream, "ping").await;
        say(&mut stream, &heard.replace("ping", "pong")).await;
    })
    .await;
    let socket = LocalSocket::before(upstream.addr(), &folder.path().join("a.sock"));
    let mut settings = plain(&upstream);
    settings.legacy.upstreams = vec![socket.url().parse().unwrap()];
    let front = start(settings);
    let mut client = TcpStream::connect(front.at).await.unwrap();
    let head = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    say(&mut client, head).await;
    read_until(&mut client, "\r\n\r\n").await;
    say(&mut client, "ping").await;
    read_until(&mut client, "pong").await;
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_and_hosts_share_the_load() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (named("a").await, named("b").await);
    let socket = LocalSocket::before(b.addr(), &folder.path().join("b.sock"));
    let mut settings = among(&[&a], Balance::RoundRobin);
    settings
        .legacy
        .upstreams
        .push(socket.url().parse().unwrap());
    let front = start(settings);
    let first = front.get("/", &[]).await.text();
    let second = front.get("/", &[]).await.text();
    assert_ne!(first, second);
    front.stop().await;
}
