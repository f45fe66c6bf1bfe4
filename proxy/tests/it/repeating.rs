//! A request with a body whose upstream dies under it: sent again from its start, where that is safe
//! and all of it is still there, and never kept waiting for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::Method;
use outgrow_proxy::{Balance, Retries, Settings};
use outgrow_testkit::{Upstream, client};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::balancing::among;
use crate::harness::{Front, WAIT, plain, read_until, say, slice_id, sliced, start};
use crate::multiplexed::{give_back, known, scripted};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const BUSY: &str = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";

/// What a first connection reads until it breaks off, and what it says before.
#[derive(Clone, Copy)]
struct Dies {
    behind: &'static str,
    says: &'static str,
}

/// Dies on its first connection; on others it takes what ends like this. Tells of each connection what it
/// has read, when it has read all that it wants.
async fn flaky(dies: Dies, end: &'static str) -> (Upstream, UnboundedReceiver<String>) {
    let (told, seen) = unbounded_channel();
    let count = Arc::new(AtomicUsize::new(0));
    let upstream = Upstream::raw(move |mut stream| {
        let (nth, told) = (count.fetch_add(1, SeqCst), told.clone());
        async move {
            let (until, answer) = match nth {
                0 => (dies.behind, dies.says),
                _ => (end, OK),
            };
            let text = take_until(&mut stream, until).await;
            let is_whole = text.contains(until);
            if is_whole {
                say(&mut stream, answer).await;
            }
            let _ = told.send(text);
            if nth > 0 {
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        }
    })
    .await;
    (upstream, seen)
}

async fn take_until(stream: &mut TcpStream, end: &str) -> String {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(end) {
        match stream.read_buf(&mut seen).await {
            Ok(n) if n > 0 => {}
            _ => break,
        }
    }
    String::from_utf8_lossy(&seen).into_owned()
}

async fn next(seen: &mut UnboundedReceiver<String>) -> String {
    tokio::time::timeout(WAIT, seen.recv())
        .await
        .unwrap()
        .unwrap()
}

fn repeating(upstream: &Upstream, rule: Retries) -> Settings {
    let mut settings = plain(upstream);
    settings.legacy.rules.ejection = None;
    settings.legacy.rules.retries = Some(rule);
    settings
}

async fn ask(front: &Front, method: &str, fields: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    let head = format!("{method} /it HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n{body}");
    say(&mut stream, &head).await;
    stream
}

const LENGTH: (&str, &str, &str) = ("content-length: 11", "first", "second");
const CHUNKED: (&str, &str, &str) = (
    "transfer-encoding: chunked\r\ntrailer: x-sum",
    "5\r\nfirst\r\n",
    "6\r\nsecond\r\n0\r\nx-sum: 7\r\n\r\n",
);

/// Amid the body, behind it, and with an answer that says that another one is to be asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_sent_again_from_its_start() {
    for (fields, first, second) in [LENGTH, CHUNKED] {
        let (end, last) = match fields == CHUNKED.0 {
            true => ("x-sum: 7\r\n\r\n", "x-sum: 7"),
            false => ("second", "second"),
        };
        for (behind, says) in [
            ("first", ""),
            ("first", BUSY),
            (last, ""),
            (last, BUSY),
            ("\r\n\r\n", ""),
        ] {
            let (upstream, mut seen) = flaky(Dies { behind, says }, end).await;
            let front = start(repeating(&upstream, Retries::default()));
            let mut client = ask(&front, "PUT", fields, first).await;
            let amid = behind != last;
            if !amid {
                say(&mut client, second).await;
            }
            let once = next(&mut seen).await;
            assert!(once.starts_with("PUT /it "), "{once}");
            if amid {
                // It went up before all of it had come.
                assert!(!once.contains("second"), "{once}");
                say(&mut client, second).await;
            }
            let answer = read_until(&mut client, "ok").await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            let again = next(&mut seen).await;
            let (_, body) = again.split_once("\r\n\r\n").unwrap();
            let plain = body.replace("5\r\nfirst\r\n6\r\n", "first");
            let plain = plain.replace("b\r\nfirst", "first");
            assert!(plain.starts_with("firstsecond"), "{again}");
            assert!(plain.contains(last), "{again}");
            front.stop().await;
        }
    }
}

/// Where it might be done twice, where nobody has said so, and where there is no room for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_sent_once_where_it_must_not_be_sent_again() {
    let short = Retries {
        body_max: 10,
        ..Retries::default()
    };
    let none = Retries {
        body_max: 0,
        ..Retries::default()
    };
    let usual = Retries::default();
    for (method, rule, (fields, first, second)) in [
        ("POST", Some(&usual), LENGTH),
        ("PATCH", Some(&usual), CHUNKED),
        ("PUT", None, LENGTH),
        ("PUT", Some(&none), CHUNKED),
        ("PUT", Some(&short), LENGTH),
        ("DELETE", Some(&short), CHUNKED),
    ] {
        let says = "";
        let behind = "second";
        let (upstream, mut seen) = flaky(Dies { behind, says }, "second").await;
        let mut settings = plain(&upstream);
        settings.legacy.rules.retries = rule.cloned();
        let front = start(settings);
        let mut client = ask(&front, method, fields, &format!("{first}{second}")).await;
        let answer = read_until(&mut client, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{method}: {answer}");
        next(&mut seen).await;
        assert!(seen.try_recv().is_err(), "{method} was sent twice");
        front.stop().await;
    }
}

/// One that hangs has its part of the time; but not where the body may turn out to be too long to be sent
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn a_try_with_a_body_has_its_time() {
    for ((fields, first, second), status) in [(LENGTH, 200), (CHUNKED, 504)] {
        let hangs = Upstream::raw(|mut stream| async move {
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .await;
        let well = Upstream::always(200, "ok").await;
        let mut settings = among(&[&hangs, &well], Balance::RoundRobin);
        settings.legacy.rules.ejection = None;
        settings.legacy.rules.timeout = Some(Duration::from_millis(500));
        settings.legacy.rules.retries = Some(Retries {
            per_try_timeout: Some(Duration::from_millis(50)),
            ..Retries::default()
        });
        let front = start(settings);
        let mut statuses = Vec::new();
        for _ in 0..2 {
            let mut client = ask(&front, "PUT", fields, &format!("{first}{second}")).await;
            let answer = read_until(&mut client, "\r\n\r\n").await;
            statuses.push(answer[9..12].parse::<u16>().unwrap());
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [200, status]);
        front.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_sent_again_within_the_budget() {
    let ill = Upstream::always(503, "no").await;
    let rule = Retries {
        share: 0.1,
        ..Retries::default()
    };
    let front = start(repeating(&ill, rule));
    let begun = std::time::Instant::now();
    for _ in 0..40 {
        let body = Bytes::from_static(b"a body");
        let request = client::request(Method::PUT, &front.url("/"), &[], body);
        assert_eq!(client::send(request).await.status, 503);
    }
    let most = 40.0 + 10.0 + 40.0 * 0.1 + begun.elapsed().as_secs_f64();
    let seen = ill.seen();
    assert!(seen.len() >= 50 && seen.len() as f64 <= most.ceil());
    assert!(seen.iter().all(|seen| seen.body == "a body"));
    front.stop().await;
}

/// Its end is not taken for the upstream's. A write goes on without its client, so it is one that shows this.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_between_ends_the_tries() {
    let (told, mut seen) = unbounded_channel();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let upstream = Upstream::raw(move |mut stream| {
        let (nth, told) = (count.fetch_add(1, SeqCst), told.clone());
        async move {
            let _ = told.send(take_until(&mut stream, "first").await);
            if nth > 0 {
                let _ = told.send(take_until(&mut stream, "second").await);
            }
        }
    })
    .await;
    let mut settings = sliced(&upstream, &upstream);
    settings.slices[0].routes[2].method = Method::PUT;
    settings.legacy.rules.ejection = None;
    settings.legacy.rules.retries = Some(Retries {
        attempts: 8,
        ..Retries::default()
    });
    let front = start(settings);
    let mut client = TcpStream::connect(front.at).await.unwrap();
    let head = "PUT /api/items HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\nfirst";
    say(&mut client, head).await;
    for _ in 0..2 {
        assert!(next(&mut seen).await.ends_with("first"));
    }
    drop(client);
    assert_eq!(next(&mut seen).await, "");
    let slice = slice_id();
    let held = front.handle.hold(&slice, WAIT).await;
    held.unwrap();
    assert_eq!(asked.load(SeqCst), 2);
    front.stop().await;
}

/// What is sent again is not sent on where it was first: that connection does not wait for the client.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_answer_nobody_wants_is_over() {
    let (told, mut over) = unbounded_channel();
    let count = Arc::new(AtomicUsize::new(0));
    let upstream = Upstream::raw(move |mut stream| {
        let (nth, told) = (count.fetch_add(1, SeqCst), told.clone());
        async move {
            if nth > 0 {
                take_until(&mut stream, "second").await;
                return say(&mut stream, OK).await;
            }
            take_until(&mut stream, "first").await;
            say(&mut stream, BUSY).await;
            let _ = told.send(take_until(&mut stream, "second").await);
        }
    })
    .await;
    let front = start(repeating(&upstream, Retries::default()));
    let mut client = ask(&front, "PUT", LENGTH.0, LENGTH.1).await;
    assert_eq!(next(&mut over).await, "");
    say(&mut client, LENGTH.2).await;
    let answer = read_until(&mut client, "ok").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leave_to_send_a_body_is_given_once() {
    let (behind, says) = ("first", "");
    let (upstream, mut seen) = flaky(Dies { behind, says }, "second").await;
    let front = start(repeating(&upstream, Retries::default()));
    let fields = "content-length: 11\r\nexpect: 100-continue";
    let mut client = ask(&front, "PUT", fields, "").await;
    read_until(&mut client, "100 Continue\r\n\r\n").await;
    say(&mut client, "first").await;
    next(&mut seen).await;
    say(&mut client, "second").await;
    let answer = read_until(&mut client, "ok").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(next(&mut seen).await.ends_with("\r\n\r\nfirstsecond"));
    front.stop().await;
}

/// A reset, one that says that the request was not looked at, and a connection that ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_on_a_stream_is_sent_again() {
    let long = Bytes::from(vec![b'x'; 50_000]);
    for (reason, rule, status) in [
        (Some(Reason::INTERNAL_ERROR), true, 200),
        (Some(Reason::INTERNAL_ERROR), false, 502),
        (Some(Reason::REFUSED_STREAM), false, 200),
        (Some(Reason::REFUSED_STREAM), true, 200),
        (None, true, 200),
    ] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let upstream = scripted(Arc::default(), 100, move |_, mut one| {
            let nth = count.fetch_add(1, SeqCst);
            async move {
                if nth > 0 {
                    return give_back(one).await;
                }
                one.0.body_mut().data().await.unwrap().unwrap();
                if let Some(reason) = reason {
                    one.1.send_reset(reason);
                }
            }
        })
        .await;
        let mut settings = known(&upstream);
        settings.legacy.rules.retries = rule.then(Retries::default);
        let front = start(settings);
        let request = client::request(Method::PUT, &front.url("/"), &[], long.clone());
        let answer = client::send(request).await;
        assert_eq!(answer.status, status, "{reason:?} {rule}");
        if status == 200 {
            assert_eq!(answer.body, long);
        }
        assert_eq!(asked.load(SeqCst), if status == 200 { 2 } else { 1 });
        front.stop().await;
    }
}
