//! Answers of upstreams that are odd, early, or more than was asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use futures_util::future::join_all;
use outgrow_proxy::FieldNames;
use outgrow_testkit::Upstream;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Barrier;

use crate::harness::{WAIT, plain, read_until, say, start, take_head};

/// An upstream that says the same to every request, and how many connections it has had.
async fn saying(answer: &'static str) -> (Upstream, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let upstream = Upstream::raw(move |mut stream| {
        count.fetch_add(1, SeqCst);
        async move {
            while !take_head(&mut stream).await.is_empty() {
                say(&mut stream, answer).await;
            }
        }
    })
    .await;
    (upstream, connections)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_reads_two_ways_is_a_502() {
    for answer in [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    ] {
        let (upstream, _) = saying(answer).await;
        let front = start(plain(&upstream));
        let answered = front.get("/", &[]).await;
        assert_eq!(answered.status, 502, "{answer:?}");
        assert_eq!(answered.header("x-outgrow-error"), Some("broken"));
        front.stop().await;
    }
}

/// Lines that go on in the next one are what old programs write; they come in one, in as many parts as it may.
#[tokio::test(flavor = "multi_thread")]
async fn folded_lines_of_an_answer_go_down_as_one() {
    let upstream = Upstream::raw(|mut stream| async move {
        while !take_head(&mut stream).await.is_empty() {
            for part in [
                "HTTP/1.1 200 OK\r\nx-a: one\r\n",
                "  two\r\ntransfer-encoding:\r\n\tchunked\r\nx-b: three\r\n\r",
                "\n2\r\nok\r\n0\r\n\r\n",
            ] {
                say(&mut stream, part).await;
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    let front = start(plain(&upstream));
    for _ in 0..2 {
        let answered = front.get("/", &[]).await;
        assert_eq!((answered.status.as_u16(), &*answered.text()), (200, "ok"));
        let folded = answered.header("x-a").unwrap_or_default();
        assert_eq!(
            folded.split_whitespace().collect::<Vec<_>>(),
            ["one", "two"]
        );
        assert_eq!(answered.header("x-b"), Some("three"));
    }
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_length_ends_with_its_connection() {
    let upstream = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
        say(&mut stream, "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n").await;
        say(&mut stream, "HTTP/1.1 200 Fine By Me\r\n\r\nto the ").await;
        say(&mut stream, "end").await;
    })
    .await;
    let front = start(plain(&upstream));
    let answer = front
        .raw("GET / HTTP/1.0\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.0 200 Fine By Me"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nto the end"), "{answer}");
    front.stop().await;
}

/// What an upstream that looks for one spelling of names is sent.
#[tokio::test(flavor = "multi_thread")]
async fn names_go_up_as_the_upstream_wants_them() {
    for (names, own, forwarded, length) in [
        (
            FieldNames::Lower,
            "x-soapaction: a\r\n",
            "x-forwarded-for: ",
            "content-length: 2\r\n",
        ),
        (
            FieldNames::Title,
            "X-Soapaction: a\r\n",
            "X-Forwarded-For: ",
            "Content-Length: 2\r\n",
        ),
        (
            FieldNames::AsSent,
            "X-SOAPAction: a\r\n",
            "X-Forwarded-For: ",
            "CONTENT-length: 2\r\n",
        ),
    ] {
        let upstream = Upstream::raw(|mut stream| async move {
            let head = read_until(&mut stream, "\r\n\r\nok").await;
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}",
                head.len()
            );
            say(&mut stream, &answer).await;
        })
        .await;
        let mut settings = plain(&upstream);
        settings.legacy.rules.field_names = names;
        let front = start(settings);
        let asked = "POST / HTTP/1.1\r\nHOST: a\r\nX-SOAPAction: a\r\nCONTENT-length: 2\r\nConnection: close\r\n\r\nok";
        let seen = front.raw(asked).await;
        let (_, seen) = seen.split_once("\r\n\r\n").unwrap();
        for field in [own, forwarded, length] {
            assert!(seen.contains(field), "{names:?}: {seen}");
        }
        front.stop().await;
    }
}

/// Nobody changes these heads, so they go down as they were written, but for what concerns a
/// connection alone; and a line that ends in another way than lines do is written anew.
#[tokio::test(flavor = "multi_thread")]
async fn fields_go_down_as_they_were_written() {
    let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    for (sent, line, fields, body) in [
        (
            "X-ODD:  a b \r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\
             set-cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n",
            "HTTP/1.1 200 Fine\r\n",
            "X-ODD:  a b \r\nset-cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n",
            "ok",
        ),
        (
            "A: 1\r\nTransfer-Encoding: chunked\r\nB: 2\r\n",
            "HTTP/1.1 200 Fine\r\n",
            "A: 1\r\nB: 2\r\n",
            "2\r\nok\r\n0\r\n\r\n",
        ),
        (
            "A: 1\nB: 2\r\nContent-Length: 2\r\n",
            "HTTP/1.1 200 Fine\r\n",
            "a: 1\r\nb: 2\r\n",
            "ok",
        ),
        (
            "Connection: x-own\r\nX-Own: 1\r\nA: 1\r\nContent-Length: 02\r\n",
            "HTTP/1.1 200 Fine\r\n",
            "a: 1\r\n",
            "ok",
        ),
    ] {
        let answer = format!("{line}{sent}{date}\r\n{body}");
        let upstream = Upstream::raw(move |mut stream| {
            let answer = answer.clone();
            async move {
                while !take_head(&mut stream).await.is_empty() {
                    say(&mut stream, &answer).await;
                }
            }
        })
        .await;
        let front = start(plain(&upstream));
        let asked = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let came = front.raw(asked).await;
        let (head, rest) = came.split_once("\r\n\r\n").unwrap();
        let head = format!("{head}\r\n");
        assert!(head.starts_with(line) && head.contains(fields), "{head}");
        assert_eq!(head.to_lowercase().matches("date:").count(), 1, "{head}");
        assert_eq!(
            head.to_lowercase().matches("connection:").count(),
            1,
            "{head}"
        );
        assert!(!head.to_lowercase().contains("x-own"), "{head}");
        let ends = [
            head.contains("ength: 2\r\n"),
            head.contains("oding: chunked\r\n"),
        ];
        assert_eq!(ends, [rest == "ok", rest == body && rest != "ok"], "{came}");
        front.stop().await;
    }
}

/// An answer to HEAD tells of the body that it does not have, a 204 of none.
#[tokio::test(flavor = "multi_thread")]
async fn a_length_without_a_body_goes_down_where_it_may() {
    for (method, status, told) in [
        ("HEAD", "200 OK", true),
        ("GET", "304 Not Modified", true),
        ("GET", "204 No Content", false),
    ] {
        let upstream = Upstream::raw(move |mut stream| async move {
            while !take_head(&mut stream).await.is_empty() {
                say(
                    &mut stream,
                    &format!("HTTP/1.1 {status}\r\nContent-Length: 7\r\nA: b\r\n\r\n"),
                )
                .await;
            }
        })
        .await;
        let front = start(plain(&upstream));
        let asked = format!("{method} / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let came = front.raw(&asked).await.to_lowercase();
        assert_eq!(
            came.matches("content-length: 7\r\n").count(),
            usize::from(told),
            "{came}"
        );
        assert!(
            came.contains("a: b\r\n") && came.ends_with("\r\n\r\n"),
            "{came}"
        );
        front.stop().await;
    }
}

/// What stands behind an answer is no answer to the next request, whoever sent that.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_with_more_on_it_than_its_answer_is_not_used_again() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
    ] {
        let (upstream, connections) = saying(answer).await;
        let front = start(plain(&upstream));
        for _ in 0..3 {
            let answered = front.get("/", &[]).await;
            assert_eq!(
                (answered.text().as_str(), answered.status.as_u16()),
                ("ok", 200)
            );
        }
        assert_eq!(connections.load(SeqCst), 3, "{answer:?}");
        front.stop().await;
    }
}

/// The upstream answers at once, and its last word depends on what still comes up.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_behind_the_head_of_its_answer() {
    let upstream = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nearly\r\n";
        say(&mut stream, head).await;
        read_until(&mut stream, "the rest").await;
        say(&mut stream, "4\r\nlate\r\n0\r\n\r\n").await;
        // Open until the proxy closes: nothing of it may be cut off.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let front = start(plain(&upstream));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 18\r\n\r\n";
    say(&mut stream, head).await;
    say(&mut stream, "beginning,").await;
    read_until(&mut stream, "early").await;
    say(&mut stream, "the rest").await;
    read_until(&mut stream, "late\r\n0\r\n\r\n").await;
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_upload_keeps_the_trailers_that_it_announced() {
    let upstream = Upstream::raw(|mut stream| async move {
        let mut seen = String::new();
        while !seen.ends_with("\r\n\r\n") || !seen.contains("\r\n0\r\n") {
            let more = take_head(&mut stream).await;
            assert!(!more.is_empty(), "{seen}");
            seen.push_str(&more);
        }
        let whole = seen.contains("transfer-encoding: chunked\r\n")
            && seen.contains("x-sum: 42\r\n")
            && !seen.contains("x-other")
            && !seen.contains("content-length");
        let answer = if whole { "yes" } else { "no!" };
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n";
        say(&mut stream, &format!("{head}{answer}")).await;
    })
    .await;
    let front = start(plain(&upstream));
    let answer = front
        .raw(
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\
             connection: close\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 42\r\nx-other: 1\r\n\r\n",
        )
        .await;
    assert!(answer.ends_with("yes"), "{answer}");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_connections_rest_as_were_busy_at_once() {
    const CLIENTS: usize = 200;
    let connections = Arc::new(AtomicUsize::new(0));
    let (count, together) = (connections.clone(), Arc::new(Barrier::new(CLIENTS)));
    let upstream = Upstream::raw(move |mut stream| {
        count.fetch_add(1, SeqCst);
        let together = together.clone();
        async move {
            while !take_head(&mut stream).await.is_empty() {
                together.wait().await;
                say(&mut stream, "HTTP/1.1 204 No Content\r\n\r\n").await;
            }
        }
    })
    .await;
    let mut settings = plain(&upstream);
    (settings.limits.pool_idle, settings.limits.request_timeout) = (WAIT, WAIT);
    let front = start(settings);
    for _ in 0..3 {
        for answer in join_all((0..CLIENTS).map(|_| front.get("/", &[]))).await {
            assert_eq!(answer.status, 204);
        }
        assert_eq!(connections.load(SeqCst), CLIENTS);
    }
    front.stop().await;
}
