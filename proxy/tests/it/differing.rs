//! Odd requests, sent straight to a server and through the proxy: what arrives through the proxy is
//! what would have arrived without it, or nothing, and so are the answers, or the last one is a refusal. And bodies in chunks, against a model.

use std::cell::Cell;

use bytes::Bytes;
use http::{Request, Response};
use outgrow_testkit::{Seen, Upstream, client};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::{Builder, Runtime};

use crate::harness::{Front, plain, start};

/// Each case is two connections or more; what is wrong in a rule shows within a few of them.
const CASES: u32 = 400;

/// Closes the connection wherever the reading of an odd request has ended: as requests, or as bytes
/// in the middle of which no request begins.
const TAIL: &str = "GET /tail HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn runner() -> TestRunner {
    TestRunner::new(Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    })
}

/// What a server could make of an upload: the request that it saw.
fn told(seen: &[Seen]) -> Vec<(String, String, Vec<u8>)> {
    seen.iter()
        .map(|one| {
            let method = one.method.to_string();
            (method, one.target.clone(), one.body.to_vec())
        })
        .collect()
}

fn odd_request() -> impl Strategy<Value = String> {
    let begin = prop_oneof![
        Just("GET / HTTP/1.1"),
        Just("POST /post HTTP/1.1"),
        Just("POST /old HTTP/1.0"),
        Just("GET  / HTTP/1.1"),
        Just("GET / HTTP/1.1 "),
        Just("GET /%2e%2e/x;y?z HTTP/1.1"),
        Just("GET http://b/absolute HTTP/1.1"),
        Just("OPTIONS * HTTP/1.1"),
        Just("\r\nGET /blank HTTP/1.1"),
        Just("POST b HTTP/1.1"),
    ];
    let fields = prop::sample::select(vec![
        "host: a",
        "Host: b",
        "host : a",
        "content-length: 0",
        "content-length: 5",
        "Content-Length: 37",
        "content-length: 05",
        "content-length: +5",
        "content-length: 5, 5",
        "content-length: 0x5",
        "content-length:",
        "transfer-encoding: chunked",
        "Transfer-Encoding: CHUNKED",
        "transfer-encoding: chunked, chunked",
        "transfer-encoding: identity",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding:\tchunked",
        "transfer-encoding : chunked",
        " transfer-encoding: chunked",
        "connection: keep-alive",
        "connection: content-length",
        "connection: host, transfer-encoding",
        "expect: 100-continue",
        "upgrade: h2c",
        "te: trailers, chunked",
        "x: 1\n\rcontent-length: 5",
        "x: 1\ncontent-length: 5",
        "x: 1\rtransfer-encoding: chunked",
    ]);
    let end = prop::sample::select(vec!["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r"]);
    let body = prop_oneof![
        Just(""),
        Just("5\r\nabcde\r\n0\r\n\r\n"),
        Just("0\r\n\r\n"),
        Just("5;x=\"\r\n\"\r\nabcde\r\n0\r\n\r\n"),
        Just("5\nabcde\n0\n\n"),
        Just("GET /inside HTTP/1.1\r\nhost: a\r\n\r\n"),
        Just("0\r\nhost: x\r\n\r\nGET /inside HTTP/1.1\r\nhost: a\r\n\r\n"),
        Just("00000000000000005\r\nabcde\r\n0\r\n\r\n"),
    ];
    let fields = prop::collection::vec(fields, 0..3);
    (begin, any::<bool>(), fields, end, body).prop_map(|(begin, host, fields, end, body)| {
        let host = if host { "host: a\r\n" } else { "" };
        let fields: String = fields.iter().map(|field| format!("{field}{end}")).collect();
        format!("{begin}\r\n{host}{fields}\r\n{body}{}", TAIL.repeat(8))
    })
}

/// What a server says of a request: nothing of two of them is alike that differ.
async fn echo() -> Upstream {
    Upstream::start(|request: Request<Bytes>| async move {
        // A whole target and a path with Host are the same (RFC 9112 section 3.2.2).
        let target = request
            .uri()
            .path_and_query()
            .map_or("", |target| target.as_str());
        let told = format!("{} {target} ", request.method());
        Response::new([told.as_bytes(), request.body()].concat().into())
    })
    .await
}

/// Status and body of each answer on a connection, as far as they are whole.
fn said(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        bytes = &bytes[end + 4..];
        let status: u16 = head.get(9..12).and_then(|code| code.parse().ok()).unwrap();
        if status == 100 {
            continue;
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        let Some(body) = bytes.get(..length) else {
            break;
        };
        all.push((status, body.to_vec()));
        bytes = &bytes[length..];
    }
    all
}

/// What was made of the same bytes without the proxy and behind it.
struct Made {
    seen: [Vec<(String, String, Vec<u8>)>; 2],
    said: [Vec<(u16, Vec<u8>)>; 2],
}

/// Two servers of one kind, one of them behind a proxy.
struct Pair {
    direct: Upstream,
    behind: Upstream,
    front: Front,
}

impl Pair {
    async fn new() -> Self {
        let behind = echo().await;
        Self {
            direct: echo().await,
            front: start(plain(&behind)),
            behind,
        }
    }

    /// What each of them made of the same bytes.
    async fn ask(&self, text: &str) -> Made {
        let before = [self.direct.seen().len(), self.behind.seen().len()];
        let direct = client::raw(self.direct.addr(), text.as_bytes()).await;
        let proxied = client::raw(self.front.at, text.as_bytes()).await;
        let now = [self.direct.seen(), self.behind.seen()];
        Made {
            seen: [0, 1].map(|at| told(&now[at][before[at]..])),
            said: [said(&direct), said(&proxied)],
        }
    }
}

#[test]
fn odd_requests_are_read_as_without_the_proxy_or_refused() {
    let runtime = runtime();
    let pair = runtime.block_on(Pair::new());
    let (passed, answered, refusals) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let ended = runner().run(&odd_request(), |text| {
        let made = runtime.block_on(pair.ask(&text));
        let [direct, behind] = made.seen;
        passed.set(passed.get() + behind.len());
        // An upload that was cut off on the way is no request: its body is shorter.
        let alike = behind.iter().zip(&direct).all(|(one, other)| one == other);
        prop_assert!(
            alike && behind.len() <= direct.len(),
            "{text:?}\nwithout the proxy: {direct:?}\nbehind it: {behind:?}"
        );
        let [mut straight, mut proxied] = made.said;
        // What is refused ends the connection, by the server or before it.
        for all in [&mut straight, &mut proxied] {
            let refused = all.iter().position(|(status, _)| *status != 200);
            refusals.set(refusals.get() + usize::from(refused.is_some()));
            prop_assert!(
                refused.is_none_or(|at| at + 1 == all.len()),
                "{text:?}: {all:?}"
            );
            all.truncate(refused.unwrap_or(all.len()));
        }
        let alike = proxied
            .iter()
            .zip(&straight)
            .all(|(one, other)| one == other);
        prop_assert!(
            alike && proxied.len() <= straight.len(),
            "{text:?}\nwithout the proxy: {straight:?}\nbehind it: {proxied:?}"
        );
        answered.set(answered.get() + proxied.len());
        Ok(())
    });
    ended.unwrap();
    // Else nothing would have been compared.
    let (passed, answered, refusals) = (passed.get(), answered.get(), refusals.get());
    assert!(
        passed > 20 && answered > 20 && refusals > 20,
        "{passed} {answered} {refusals}"
    );
    runtime.block_on(pair.front.stop());
}

/// A body in chunks as RFC 9112 section 7.1 has it, read in the simplest way; `None` where it has
/// no end or is malformed.
fn model(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = text.windows(2).position(|two| two == b"\r\n")?;
        let line = &text[..end];
        let bare = line.contains(&b'\n') || line.contains(&b'\r');
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let rest = line[digits..].trim_ascii_start();
        if bare || digits == 0 || !(rest.is_empty() || rest[0] == b';') {
            return None;
        }
        let size = std::str::from_utf8(&line[..digits]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        text = &text[end + 2..];
        if size == 0 {
            return text.starts_with(b"\r\n").then_some(body);
        }
        body.extend(text.get(..size)?);
        text = text.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

/// Chunks, and perhaps a byte of the coding that is not as it should be.
fn chunked() -> impl Strategy<Value = Vec<u8>> {
    let chunk = (prop::collection::vec(any::<u8>(), 1..40), any::<bool>());
    let change = (any::<prop::sample::Index>(), 0..4_usize, any::<u8>());
    (prop::collection::vec(chunk, 0..6), change).prop_map(|(chunks, (at, how, byte))| {
        let mut text = Vec::new();
        for (data, extended) in &chunks {
            let extension = if *extended { ";a=b" } else { "" };
            text.extend(format!("{:x}{extension}\r\n", data.len()).bytes());
            text.extend(data);
            text.extend(b"\r\n");
        }
        text.extend(b"0\r\n\r\n");
        let at = at.index(text.len());
        match how {
            0 => text[at] = byte,
            1 => text.insert(at, byte),
            2 => drop(text.remove(at)),
            _ => {}
        }
        text
    })
}

#[test]
fn chunks_are_what_the_model_says_or_an_error() {
    let runtime = runtime();
    let upstream = runtime.block_on(Upstream::always(200, "whole"));
    let front = runtime.block_on(async { start(plain(&upstream)) });
    let head =
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    let (good, bad) = (Cell::new(0), Cell::new(0));
    let ended = runner().run(&chunked(), |text| {
        // Behind a body of which the end was lost there is something else than its end.
        let bytes = [head.as_bytes(), &text, &[b'!'; 5_000]].concat();
        let answer = runtime.block_on(client::raw(front.at, &bytes));
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let expected = model(&text);
        prop_assert_eq!(answer.contains("whole"), expected.is_some(), "{:?}", answer);
        if let Some(body) = expected {
            good.set(good.get() + 1);
            let seen = upstream.seen();
            prop_assert_eq!(&seen.last().unwrap().body[..], &body[..]);
        } else {
            bad.set(bad.get() + 1);
        }
        Ok(())
    });
    ended.unwrap();
    let (good, bad) = (good.get(), bad.get());
    assert!(good > 20 && bad > 20, "{good} {bad}");
    runtime.block_on(front.stop());
}
