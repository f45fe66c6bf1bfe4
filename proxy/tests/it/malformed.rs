//! What two servers could read in two ways goes no further, and its connection ends.

use std::time::Duration;

use outgrow_testkit::Upstream;

use crate::harness::{Front, plain, start};

async fn front() -> (Front, Upstream) {
    let upstream = Upstream::always(200, "ok").await;
    (start(plain(&upstream)), upstream)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused_and_seen_by_nobody() {
    let (front, upstream) = front().await;
    let long = "x".repeat(700_000);
    let many: String = (0..400).map(|n| format!("x-{n}: 1\r\n")).collect();
    for (what, request) in [
        ("no version", "GET /\r\nhost: a\r\n\r\n".to_owned()),
        (
            "a space in the name",
            "GET / HTTP/1.1\r\nhost: a\r\nx y: 1\r\n\r\n".to_owned(),
        ),
        (
            "a space before the colon",
            "GET / HTTP/1.1\r\nhost : a\r\n\r\n".to_owned(),
        ),
        (
            "a control in a value",
            "GET / HTTP/1.1\r\nhost: a\r\nx: a\x01b\r\n\r\n".to_owned(),
        ),
        (
            "no Host",
            "GET / HTTP/1.1\r\naccept: */*\r\n\r\n".to_owned(),
        ),
        (
            "two Hosts",
            "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(),
        ),
        (
            "no host in Host",
            "GET / HTTP/1.1\r\nhost: a b\r\n\r\n".to_owned(),
        ),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd"
                .to_owned(),
        ),
        (
            "no length",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: three\r\n\r\nabc".to_owned(),
        ),
        (
            "a signed length",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +3\r\n\r\nabc".to_owned(),
        ),
        (
            "another coding",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\nabc".to_owned(),
        ),
        (
            "chunked in 1.0",
            "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        ),
        (
            "too long a head",
            format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"),
        ),
        (
            "too many fields",
            format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"),
        ),
        (
            "a tunnel",
            "CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n".to_owned(),
        ),
        (
            "no HTTP",
            "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n".to_owned(),
        ),
    ] {
        let asking = tokio::time::timeout(Duration::from_secs(10), front.raw(&request));
        let answer = asking.await.unwrap_or_else(|_| panic!("{what}: left open"));
        // A head that cannot be read at all may end in a plain close.
        let refused = answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4");
        assert!(refused || answer.is_empty(), "{what}: {answer}");
        let answers = answer.matches("HTTP/1.1 ").count() + answer.matches("HTTP/1.0 ").count();
        assert!(answers <= 1, "{what}: {answer}");
    }
    assert!(upstream.seen().is_empty(), "{:?}", upstream.seen());
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_ours_says_why() {
    let (front, _upstream) = front().await;
    let answer = front
        .raw("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")
        .await;
    assert!(answer.contains("x-outgrow-error: malformed"), "{answer}");
    assert!(answer.contains("more than one Host"), "{answer}");
    front.stop().await;
}

/// Two servers could read its end in two ways (RFC 9112, 6.3): it is refused, and what comes behind it is not read.
#[tokio::test(flavor = "multi_thread")]
async fn a_length_beside_chunks_smuggles_nothing() {
    let (front, upstream) = front().await;
    let (length, chunked) = ("content-length: 4\r\n", "transfer-encoding: chunked\r\n");
    for both in [[length, chunked], [chunked, length]] {
        let answer = front
            .raw(&format!(
                "POST /one HTTP/1.1\r\nhost: a\r\n{}\r\n\
                 5\r\nabcde\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
                both.concat()
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        let says = answer.to_ascii_lowercase();
        assert!(says.contains("\r\nconnection: close\r\n"), "{answer}");
    }
    assert!(upstream.seen().is_empty(), "{:?}", upstream.seen());
    front.stop().await;
}

/// The upstream sees a body that broke off, or nothing; never a whole one.
#[tokio::test(flavor = "multi_thread")]
async fn bad_chunks_are_not_passed_on_as_whole_bodies() {
    for bad in [
        "zz\r\nabc\r\n0\r\n\r\n",
        "-1\r\nabc\r\n0\r\n\r\n",
        "ffffffffffffffff1\r\nabc\r\n0\r\n\r\n",
        "3 3\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcXX0\r\n\r\n",
    ] {
        let upstream = Upstream::raw(|mut stream| async move {
            let mut seen = String::new();
            let mut part = [0; 4096];
            loop {
                match tokio::io::AsyncReadExt::read(&mut stream, &mut part).await {
                    Ok(n) if n > 0 => seen.push_str(&String::from_utf8_lossy(&part[..n])),
                    _ => break,
                }
                if seen.ends_with("0\r\n\r\n") {
                    crate::harness::say(
                        &mut stream,
                        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole",
                    )
                    .await;
                }
            }
        })
        .await;
        let front = start(plain(&upstream));
        let answer = front
            .raw(&format!(
                "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{bad}"
            ))
            .await;
        assert!(!answer.contains("whole"), "{bad:?}: {answer}");
        front.stop().await;
    }
}

/// What a client could use to look like the proxy is taken off.
#[tokio::test(flavor = "multi_thread")]
async fn fields_that_only_the_proxy_may_set_are_taken_off() {
    let (front, upstream) = front().await;
    front
        .get(
            "/",
            &[
                ("x-outgrow-identity", "v1.forged.x"),
                ("x-outgrow-side", "extracted"),
                ("x-outgrow-secret", "guess"),
                ("connection", "host, x-private"),
                ("x-private", "1"),
                ("proxy-authorization", "Basic x"),
            ],
        )
        .await;
    let seen = &upstream.seen()[0];
    for name in [
        "x-outgrow-identity",
        "x-outgrow-side",
        "x-outgrow-secret",
        "x-private",
        "proxy-authorization",
    ] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert!(seen.header("host").is_some());
    front.stop().await;
}
