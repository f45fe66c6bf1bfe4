//! Tunnels that nobody uses.

use std::sync::Arc;
use std::time::Duration;

use outgrow_proxy::{Allowance, Filters, Settings};
use outgrow_testkit::{Upstream, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::harness::{Front, WAIT, plain, read_until, say, start, take_head};

const SHORT: Duration = Duration::from_millis(150);

/// Gives all back, and says how it ended: with which bytes, and whether well.
async fn echo(ends: mpsc::Sender<bool>) -> Upstream {
    Upstream::raw(move |mut stream| {
        let ends = ends.clone();
        async move {
            take_head(&mut stream).await;
            let head = "connection: upgrade\r\nupgrade: websocket\r\n\r\n";
            say(
                &mut stream,
                &format!("HTTP/1.1 101 Switching Protocols\r\n{head}"),
            )
            .await;
            let (mut read, mut write) = stream.split();
            let copied = tokio::io::copy(&mut read, &mut write).await;
            let _ = ends.send(copied.is_ok()).await;
        }
    })
    .await
}

async fn open(front: &Front) -> TcpStream {
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    let ask =
        "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nfirst";
    say(&mut stream, ask).await;
    read_until(&mut stream, "first").await;
    stream
}

fn ended(front: &Front) -> u64 {
    let all = front.handle.refusals();
    all.iter()
        .find(|(code, _)| *code == "tunnel-idle")
        .unwrap()
        .1
}

fn of_route(mut settings: Settings, idle: Duration) -> Settings {
    settings.filters = Some(Arc::new(Filters {
        allowance: Allowance {
            tunnel_idle: Some(idle),
            ..Allowance::default()
        },
        ..Filters::default()
    }));
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn one_in_which_nothing_is_said_ends_well_for_both_and_is_counted() {
    let (ends, mut how) = mpsc::channel(8);
    let upstream = echo(ends).await;
    let mut of_all = plain(&upstream);
    of_all.limits.allowance.tunnel_idle = Some(SHORT);
    for settings in [of_all, of_route(plain(&upstream), SHORT)] {
        let front = start(settings);
        let mut stream = open(&front).await;
        let mut rest = Vec::new();
        let read = timeout(WAIT, stream.read_to_end(&mut rest)).await;
        assert_eq!(read.expect("an end").unwrap(), 0, "no reset");
        assert!(how.recv().await.unwrap(), "the upstream sees an end, too");
        eventually("the count", WAIT, || async {
            (ended(&front) == 1).then_some(())
        })
        .await;
        let routes = front.handle.routes();
        assert!(
            routes.iter().all(|of| of.times.errors == 0),
            "nobody is blamed"
        );
        let of = &front.handle.describe()["services"][0]["upstreams"][0];
        assert_eq!((&of["in_flight"], &of["failures"]), (&0.into(), &0.into()));
        front.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_may_be_silent_where_its_route_says_so() {
    let (ends, _how) = mpsc::channel(8);
    let upstream = echo(ends).await;
    let mut settings = of_route(plain(&upstream), Duration::ZERO);
    settings.limits.allowance.tunnel_idle = Some(SHORT);
    let front = start(settings);
    let mut stream = open(&front).await;
    let early = timeout(3 * SHORT, stream.read(&mut [0; 1])).await;
    assert!(early.is_err(), "it was closed");
    stream.write_all(b"second").await.unwrap();
    read_until(&mut stream, "second").await;
    assert_eq!(ended(&front), 0);
    front.stop().await;
}

/// What an upstream was told of the upgrade that this head asks for.
async fn told(asked: &str) -> String {
    let upstream = Upstream::always(200, "ok").await;
    let front = start(plain(&upstream));
    front.raw(asked).await;
    let seen = upstream.seen();
    let of = |name| seen[0].header(name).unwrap_or("-").to_owned();
    let told = format!("{} {}", of("upgrade"), of("http2-settings"));
    front.stop().await;
    told
}

/// Servers take h2c from anywhere in the list, and would then be asked past the proxy.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_changes_to_h2c_by_a_list() {
    for (lines, goes) in [
        ("upgrade: h2c, websocket", "websocket -"),
        ("upgrade: websocket ,H2C", "websocket -"),
        ("upgrade: h2c\r\nupgrade: websocket", "websocket -"),
        ("upgrade: h2c,h2c-14", "- -"),
        ("upgrade: ,h2c", "- -"),
        ("upgrade: a/1, b", "a/1, b -"),
    ] {
        let asked = format!(
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\n{lines}\r\n\
             http2-settings: AAMAAABk\r\n\r\n"
        );
        assert_eq!(told(&asked).await, goes, "{lines}");
    }
    let old = "GET / HTTP/1.0\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    assert_eq!(told(old).await, "- -", "it means nothing in HTTP/1.0");
}

/// A change to what nobody asked for opens no tunnel.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_changes_to_what_was_asked_for() {
    for (fields, status) in [
        ("connection: upgrade\r\nupgrade: WebSocket\r\n", "101"),
        ("connection: upgrade\r\nupgrade: h2c\r\n", "502"),
        ("connection: upgrade\r\nupgrade: websocket, h2c\r\n", "502"),
        ("", "502"),
    ] {
        let upstream = Upstream::raw(move |mut stream| async move {
            take_head(&mut stream).await;
            let head = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n");
            say(&mut stream, &head).await;
            let mut rest = [0; 64];
            while stream.read(&mut rest).await.is_ok_and(|some| some > 0) {}
        })
        .await;
        let front = start(plain(&upstream));
        let mut stream = TcpStream::connect(front.at).await.unwrap();
        let ask =
            "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        say(&mut stream, ask).await;
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}")),
            "{fields}: {head}"
        );
        drop(stream);
        front.stop().await;
    }
}
