//! Answers that are compressed on their way to a client.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use outgrow_proxy::{Coding, Compression, Edit, Edits, Filters, Settings};
use outgrow_rollout::{Live, Weight};
use outgrow_testkit::{Upstream, client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{
    WAIT, live, named, plain, say, slice_id, sliced, start, start_with, take_head,
};
use crate::keeper::Keeper;

const TEXT: &str = "All happy families are alike; ";

fn filters() -> Arc<Filters> {
    // The monolith compresses badly, so it is not to.
    let mut request = Edits::default();
    let name = HeaderName::from_static("accept-encoding");
    request.push(name, Edit::Remove).unwrap();
    Arc::new(Filters {
        request,
        compress: Some(Arc::new(Compression {
            codings: vec![Coding::Zstd, Coding::Brotli, Coding::Gzip],
            types: vec!["text/*".parse().unwrap()],
            min: 100,
        })),
        ..Filters::default()
    })
}

fn compressed(legacy: &Upstream) -> Settings {
    Settings {
        filters: Some(filters()),
        ..plain(legacy)
    }
}

/// `/N` is a page of N repetitions.
async fn pages() -> Upstream {
    Upstream::start(|request: Request<Bytes>| async move {
        let times = request.uri().path()[1..].parse().unwrap();
        let mut answer = Response::new(Bytes::from(TEXT.repeat(times)));
        let fields = answer.headers_mut();
        fields.insert("content-type", HeaderValue::from_static("text/html"));
        fields.insert("etag", HeaderValue::from_static("\"v1\""));
        answer
    })
    .await
}

fn read(coding: Option<&str>, body: &[u8]) -> String {
    let mut text = String::new();
    let mut reader: Box<dyn Read + '_> = match coding {
        Some("gzip") => Box::new(flate2::read::GzDecoder::new(body)),
        Some("br") => Box::new(brotli::Decompressor::new(body, 4_096)),
        Some("zstd") => Box::new(zstd::Decoder::new(body).unwrap()),
        _ => Box::new(body),
    };
    reader.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_the_coding_that_they_like_best() {
    let legacy = pages().await;
    let front = start(compressed(&legacy));
    for (accept, coding) in [
        ("gzip, deflate, br, zstd", Some("zstd")),
        ("gzip, br;q=0.5", Some("gzip")),
        ("br", Some("br")),
        ("identity", None),
    ] {
        for times in [10, 40_000] {
            let answer = front
                .get(&format!("/{times}"), &[("accept-encoding", accept)])
                .await;
            assert_eq!(answer.header("content-encoding"), coding, "{accept}");
            assert_eq!(answer.header("vary"), Some("accept-encoding"));
            let tag = if coding.is_some() {
                "W/\"v1\""
            } else {
                "\"v1\""
            };
            assert_eq!(answer.header("etag"), Some(tag));
            assert!(
                read(coding, &answer.body) == TEXT.repeat(times),
                "{accept} {times}"
            );
            if coding.is_some() {
                assert!(answer.body.len() < TEXT.len() * times / 2);
            }
        }
    }
    let short = front.get("/2", &[("accept-encoding", "gzip")]).await;
    assert_eq!(
        (short.header("content-encoding"), short.header("vary")),
        (None, None)
    );
    let request = client::request(
        Method::HEAD,
        &front.url("/10"),
        &[("accept-encoding", "gzip")],
        Bytes::new(),
    );
    let head = client::send(request).await;
    assert_eq!(head.header("content-encoding"), Some("gzip"));
    assert_eq!(head.header("content-length"), None);
    assert!(
        legacy
            .seen()
            .iter()
            .all(|seen| seen.header("accept-encoding").is_none())
    );
    front.stop().await;
}

async fn read_bytes_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut seen = Vec::new();
    let reading = async {
        let mut part = [0; 4_096];
        while !seen.windows(end.len()).any(|window| window == end) {
            let n = stream.read(&mut part).await.unwrap();
            assert!(n > 0, "ended early: {seen:?}");
            seen.extend_from_slice(&part[..n]);
        }
    };
    tokio::time::timeout(WAIT, reading).await.unwrap();
    seen
}

/// A part goes on when it has come, not when the answer is complete; trailers come behind it, and
/// an answer that breaks off is not made whole.
#[tokio::test(flavor = "multi_thread")]
async fn streams_stay_prompt_and_whole() {
    let (more, go) = tokio::sync::mpsc::channel::<&'static str>(4);
    let go = Arc::new(tokio::sync::Mutex::new(go));
    let legacy = Upstream::raw(move |mut stream| {
        let go = go.clone();
        async move {
            take_head(&mut stream).await;
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n";
            say(&mut stream, head).await;
            while let Some(part) = go.lock().await.recv().await {
                say(&mut stream, part).await;
            }
        }
    })
    .await;
    let front = start(compressed(&legacy));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    let request = "GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\naccept-encoding: gzip\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    more.send("5\r\nhello\r\n").await.unwrap();
    // Where a flush has ended: all that has come can be read, though nothing more was sent.
    let seen = read_bytes_until(&mut stream, &[0, 0, 0xff, 0xff]).await;
    let head = String::from_utf8_lossy(&seen);
    assert!(head.contains("content-encoding: gzip"), "{head}");
    assert!(!head.contains("content-length"), "{head}");
    more.send("0\r\nx-sum: 5\r\n\r\n").await.unwrap();
    let end = read_bytes_until(&mut stream, b"x-sum: 5\r\n\r\n").await;
    assert!(String::from_utf8_lossy(&end).contains("\r\n0\r\n"));
    drop(more);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_answer_is_not_made_whole() {
    let legacy = Upstream::raw(|mut stream| async move {
        take_head(&mut stream).await;
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 500\r\n\r\nhello";
        say(&mut stream, head).await;
    })
    .await;
    let front = start(compressed(&legacy));
    let text = front
        .raw("GET / HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n")
        .await;
    assert!(text.contains("content-encoding: gzip"), "{text}");
    assert!(!text.ends_with("0\r\n\r\n"), "{text}");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shadow_compares_what_a_side_said() {
    let legacy = Upstream::start(|_| async {
        let mut answer = Response::new(Bytes::from(TEXT.repeat(5_000)));
        let fields = answer.headers_mut();
        fields.insert("content-type", HeaderValue::from_static("text/html"));
        answer
    })
    .await;
    let extracted = named("extracted").await;
    let mut settings = sliced(&legacy, &extracted);
    for route in &mut settings.slices[0].routes {
        route.filters = Some(filters());
    }
    let keeper = Keeper::of_all(1 << 20);
    let front = start_with(settings, Some(keeper.clone()));
    let mirrored = Live {
        mirror: true,
        ..live(1, Weight::ZERO)
    };
    front.handle.apply(&slice_id(), mirrored);
    let answer = front
        .get("/api/items/7", &[("accept-encoding", "br")])
        .await;
    assert_eq!(answer.header("content-encoding"), Some("br"));
    assert!(read(Some("br"), &answer.body) == TEXT.repeat(5_000));
    let kept = keeper.taken(1).await;
    let copied = &kept[0].response;
    assert!(copied.whole && copied.body == TEXT.repeat(5_000).as_bytes());
    assert!(!copied.headers.contains_key("content-encoding"));
    front.stop().await;
}
