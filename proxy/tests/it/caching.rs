//! Answers that are kept and given again, and never to whom they are not for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use outgrow_proxy::{
    AccessLog, CacheRule, CacheSettings, Coding, Compression, Filters, LogFormat, Proxy, Settings,
};
use outgrow_rollout::{Live, Side, Weight};
use outgrow_testkit::{Answer, Upstream, client};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{
    Front, WAIT, live, read_until, say, slice_id, sliced, start, start_with, take_head,
};
use crate::keeper::Keeper;

/// Both sides of the slice, kept.
pub(crate) fn kept(legacy: &Upstream, extracted: &Upstream) -> Settings {
    let mut settings = sliced(legacy, extracted);
    settings.cache = Some(CacheSettings {
        size: 1 << 20,
        body_max: 100_000,
        wait: WAIT,
    });
    let filters = Arc::new(Filters {
        cache: Some(CacheRule::default()),
        compress: Some(Arc::new(Compression {
            codings: vec![Coding::Gzip],
            types: vec!["text/*".parse().unwrap()],
            min: 0,
        })),
        ..Filters::default()
    });
    for route in &mut settings.slices[0].routes {
        route.filters = Some(filters.clone());
    }
    settings
}

/// Counts its answers, each of which says the target's query as `cache-control`. 304 for `"same"`.
pub(crate) async fn counting(name: &'static str) -> Upstream {
    let count = AtomicUsize::new(0);
    Upstream::start(move |request: Request<Bytes>| {
        let n = count.fetch_add(1, Relaxed);
        async move {
            let mut answer = Response::new(Bytes::from(format!("{name} {n}")));
            let said = request
                .uri()
                .query()
                .unwrap_or("no-store")
                .replace('+', ", ");
            if said.contains("etag") {
                let tag = HeaderValue::from_static("\"same\"");
                answer.headers_mut().insert("etag", tag.clone());
                if request.headers().get("if-none-match") == Some(&tag) {
                    *answer.status_mut() = http::StatusCode::NOT_MODIFIED;
                    *answer.body_mut() = Bytes::new();
                }
            }
            if said.contains("fails") && n > 0 {
                *answer.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            }
            let fields = answer.headers_mut();
            if said.contains("names") {
                let other = HeaderValue::from_static("/api/items?max-age=600");
                fields.insert("content-location", other);
            }
            fields.insert("cache-control", HeaderValue::try_from(said).unwrap());
            fields.insert("vary", HeaderValue::from_static("accept-language"));
            answer
        }
    })
    .await
}

async fn ask(front: &Front, target: &str) -> Answer {
    front.get(target, &[("x-visitor", "a")]).await
}

pub(crate) fn status(answer: &Answer) -> &str {
    answer.header("cache-status").unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_so_is_given_again_and_nothing_else() {
    let (legacy, extracted) = (counting("legacy").await, counting("extracted").await);
    let front = start(kept(&legacy, &extracted));
    let first = ask(&front, "/api/items/7?max-age=60").await;
    assert_eq!(
        status(&first),
        "outgrow; fwd=uri-miss; fwd-status=200; stored"
    );
    let second = ask(&front, "/api/items/7?max-age=60").await;
    assert_eq!(
        (first.text(), second.text()),
        ("legacy 0".into(), "legacy 0".into())
    );
    assert!(
        status(&second).starts_with("outgrow; hit; ttl="),
        "{}",
        status(&second)
    );
    let age: u64 = second.header("age").unwrap().parse().unwrap();
    assert!(age < 60);
    let other = front
        .get("/api/items/7?max-age=60", &[("accept-language", "de")])
        .await;
    assert_eq!(
        status(&other),
        "outgrow; fwd=vary-miss; fwd-status=200; stored"
    );
    for (target, fields) in [
        ("/api/items/8?max-age=60+private", &[][..]),
        ("/api/items/8?no-store", &[]),
        ("/api/items/9?max-age=60", &[("authorization", "Bearer a")]),
        ("/api/items/10?max-age=60", &[("cookie", "sid=a")]),
        ("/api/items/11?max-age=60", &[("cache-control", "no-store")]),
        ("/api/items/7?max-age=60", &[("range", "bytes=0-1")]),
    ] {
        let texts = [
            front.get(target, fields).await,
            front.get(target, fields).await,
        ];
        assert_ne!(texts[0].text(), texts[1].text(), "{target} {fields:?}");
        assert!(!status(&texts[1]).contains("hit"));
    }
    let sid = [("cookie", "sid=b")];
    let shared = front.get("/api/items/12?public+max-age=60", &sid).await;
    let again = front.get("/api/items/12?public+max-age=60", &sid).await;
    assert_eq!(shared.text(), again.text());
    // What a client makes up of itself is not given to others.
    let forged = [("x-forwarded-host", "evil.example")];
    let first = front.get("/api/items/13?max-age=60", &forged).await;
    assert_ne!(
        first.text(),
        ask(&front, "/api/items/13?max-age=60").await.text()
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_what_they_have_and_heads_have_no_body() {
    let (legacy, extracted) = (counting("legacy").await, counting("extracted").await);
    let front = start(kept(&legacy, &extracted));
    let target = "/api/items/7?max-age=60+etag";
    let first = ask(&front, target).await;
    let same = front.get(target, &[("if-none-match", "\"same\"")]).await;
    assert_eq!((same.status.as_u16(), same.text()), (304, String::new()));
    assert_eq!(same.header("etag"), Some("\"same\""));
    let head = client::request(Method::HEAD, &front.url(target), &[], Bytes::new());
    let head = client::send(head).await;
    let length = first.body.len().to_string();
    assert_eq!(head.header("content-length"), Some(length.as_str()));
    assert!(status(&head).contains("hit") && head.body.is_empty());
    assert_eq!(legacy.seen().len(), 1);
    // Always to be asked about: the side says each time that it is still good.
    let target = "/api/items/8?no-cache+etag";
    let first = ask(&front, target).await;
    let again = ask(&front, target).await;
    assert_eq!((again.status.as_u16(), again.text()), (200, first.text()));
    assert_eq!(status(&again), "outgrow; fwd=stale; fwd-status=304");
    let asked = legacy.seen();
    assert_eq!(
        asked.last().unwrap().header("if-none-match"),
        Some("\"same\"")
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sides_are_never_mixed_and_a_flip_is_seen_at_once() {
    let (legacy, extracted) = (counting("legacy").await, counting("extracted").await);
    let front = start(kept(&legacy, &extracted));
    let target = "/api/items/7?max-age=600";
    assert_eq!(ask(&front, target).await.text(), "legacy 0");
    front.weigh(1, Weight::FULL);
    assert_eq!(ask(&front, target).await.text(), "extracted 0");
    assert_eq!(ask(&front, target).await.text(), "extracted 0");
    front.weigh(2, Weight::ZERO);
    assert_eq!(ask(&front, target).await.text(), "legacy 1", "also back");
    // Some here, some there: each gets its own side's.
    front.weigh(3, Weight::from_basis_points(5_000).unwrap());
    for _ in 0..2 {
        for n in 0..20 {
            let who = n.to_string();
            let answer = front.get(target, &[("x-visitor", &who)]).await.text();
            let path = format!("{target}&x");
            let direct = front
                .get(&path, &[("x-visitor", &who), ("cache-control", "no-store")])
                .await;
            let side = |text: &str| text.split(' ').next().unwrap().to_owned();
            assert_eq!(side(&answer), side(&direct.text()), "{who}");
        }
    }
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_takes_out_what_it_changes() {
    let (legacy, extracted) = (counting("legacy").await, counting("extracted").await);
    let front = start(kept(&legacy, &extracted));
    let target = "/api/items?max-age=600";
    let first = ask(&front, target).await.text();
    assert_eq!(ask(&front, target).await.text(), first);
    front.post(target, "{}").await;
    let mut second = ask(&front, target).await.text();
    assert_ne!(second, first);
    // What was asked for in the millisecond of the write is not kept.
    while ask(&front, target).await.text() != second {
        second = ask(&front, target).await.text();
    }
    // One that is about something else, and one that says what it is about.
    front.post("/api/items?no-store", "{}").await;
    assert_eq!(ask(&front, target).await.text(), second);
    front.post("/api/items?no-store+names", "{}").await;
    assert_ne!(ask(&front, target).await.text(), second);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_answer_stands_in_only_where_it_says_so() {
    let (legacy, extracted) = (counting("legacy").await, counting("extracted").await);
    let front = start(kept(&legacy, &extracted));
    let target = "/api/items/7?max-age=0+stale-if-error=600+fails";
    let first = ask(&front, target).await;
    assert_eq!(first.text(), "legacy 0");
    let failing = ask(&front, target).await;
    assert_eq!(
        (failing.status.as_u16(), failing.text()),
        (200, "legacy 0".into())
    );
    assert!(
        status(&failing).contains("detail=stale-if-error"),
        "{}",
        status(&failing)
    );
    let strict = ask(&front, "/api/items/8?max-age=60+fails").await;
    assert_eq!(strict.status, 503);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_written_reads_what_it_wrote_and_a_cutover_is_seen() {
    let (legacy, extracted) = (counting("legacy").await, counting("extracted").await);
    let front = start(kept(&legacy, &extracted));
    let through = |at| front.handle.set_applied_through(&slice_id(), Some(at));
    through(SystemTime::now() - WAIT);
    front.weigh(1, Weight::FULL);
    let target = "/api/items/7?max-age=600";
    let by = async |visitor: &str| front.get(target, &[("x-visitor", visitor)]).await;
    assert_eq!(by("writer").await.text(), "extracted 0");
    assert!(status(&by("writer").await).contains("; hit"));
    front.post("/api/items", "{}").await;
    assert!(
        by("writer").await.text().starts_with("legacy"),
        "the writer"
    );
    assert_eq!(by("other").await.text(), "extracted 0");
    // The bridge has carried it over; what is kept is from before.
    through(SystemTime::now() + WAIT);
    let own = by("writer").await;
    assert_eq!(own.text(), "extracted 1");
    assert_eq!(by("other").await.text(), "extracted 1");
    front.handle.hold(&slice_id(), WAIT).await.unwrap();
    assert_eq!(status(&by("other").await), "outgrow; fwd=bypass");
    front.handle.release(&slice_id());
    assert!(status(&by("other").await).contains("; hit"));
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_want_nothing_but_what_is_kept() {
    let (legacy, extracted) = (counting("legacy").await, counting("extracted").await);
    let front = start(kept(&legacy, &extracted));
    let only = [("cache-control", "only-if-cached")];
    let target = "/api/items/7?max-age=600";
    let answer = front.get(target, &only).await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.header("x-outgrow-error"), Some("not-kept"));
    assert!(legacy.seen().is_empty());
    ask(&front, target).await;
    assert_eq!(front.get(target, &only).await.text(), "legacy 0");
    let ranged = [only[0], ("range", "bytes=0-1")];
    assert_eq!(front.get(target, &ranged).await.status, 504);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_say_where_it_ends_is_not_kept() {
    for (rest, kept_it) in [
        ("200 OK\r\ncontent-length: 2\r\n\r\nok", true),
        ("200 OK\r\n\r\nok", false),
        ("200 OK\r\ncontent-length: 3\r\n\r\nok", false),
        (
            "200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            true,
        ),
        (
            "200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n",
            false,
        ),
        (
            "200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
            false,
        ),
        (
            "206 Partial Content\r\ncontent-range: bytes 0-1/9\r\ncontent-length: 2\r\n\r\nok",
            false,
        ),
        ("204 No Content\r\n\r\n", true),
    ] {
        let legacy = Upstream::raw(move |mut stream| async move {
            take_head(&mut stream).await;
            let answer = format!("HTTP/1.1 {rest}");
            let says = "\r\ncache-control: max-age=60\r\n";
            say(&mut stream, &answer.replacen("\r\n", says, 1)).await;
        })
        .await;
        let front = start(kept(&legacy, &legacy));
        let get = "GET /api/items/7 HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";
        front.raw(get).await;
        let again = front.raw(get).await;
        assert_eq!(again.contains("outgrow; hit"), kept_it, "{rest:?}: {again}");
        front.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_counted_apart() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("access.log");
    let (legacy, extracted) = (counting("legacy").await, counting("extracted").await);
    let mut settings = kept(&legacy, &extracted);
    settings.access_log = Some(AccessLog {
        file: Some(file.clone()),
        format: LogFormat::Json,
        sample: 1.0,
        slow: None,
        query: true,
    });
    let front = start(settings);
    let target = "/api/items/7?max-age=60";
    for fields in [&[][..], &[], &[("range", "bytes=0-1")]] {
        front.get(target, fields).await;
    }
    let counts = front.handle.counts(&slice_id()).unwrap();
    assert_eq!(counts.legacy.requests, 2, "a hit is nobody's success");
    let figures = front.handle.cache().unwrap();
    assert_eq!((figures.entries, figures.waiting), (1, 0));
    assert!(figures.bytes > 0 && figures.bytes < figures.size);
    let outcomes = &figures.slices[0].outcomes;
    let some: Vec<_> = outcomes.iter().filter(|(_, n)| *n > 0).collect();
    assert_eq!(some, [&("hit", 1), &("miss", 1), &("bypass", 1)]);
    front.stop().await;
    let text = std::fs::read_to_string(&file).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let told = |line: Value| (line["cache"].clone(), line.get("side").cloned());
    let legacy = Some(Value::from("legacy"));
    assert_eq!(
        lines.map(told).collect::<Vec<_>>(),
        [
            ("miss".into(), legacy.clone()),
            ("hit".into(), None),
            ("bypass".into(), legacy),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_has_a_successor_gives_nothing_more() {
    let (legacy, extracted) = (counting("legacy").await, counting("extracted").await);
    let front = start(kept(&legacy, &extracted));
    let get = "GET /api/items/7?max-age=60 HTTP/1.1\r\nhost: shop\r\n\r\n";
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    let mut ask = async |end: &str| {
        stream.write_all(get.as_bytes()).await.unwrap();
        read_until(&mut stream, end).await
    };
    ask("legacy 0").await;
    assert!(ask("legacy 0").await.contains("outgrow; hit"));
    let next = Proxy::succeed(&front.running, kept(&legacy, &extracted), None).unwrap();
    let next = next.start();
    assert!(ask("legacy 1").await.contains("outgrow; fwd=miss"));
    next.shutdown(Duration::ZERO).await;
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shadow_sees_what_the_side_says_now() {
    let (legacy, extracted) = (counting("legacy").await, counting("extracted").await);
    let keeper = Keeper::of_all(1_000);
    let front = start_with(kept(&legacy, &extracted), Some(keeper.clone()));
    let mirrored = Live {
        mirror: true,
        ..live(1, Weight::ZERO)
    };
    front.handle.apply(&slice_id(), mirrored);
    for n in 0..2 {
        let answer = ask(&front, "/api/items/7?max-age=60").await;
        assert_eq!(answer.text(), format!("legacy {n}"));
        assert_eq!(status(&answer), "outgrow; fwd=bypass");
    }
    let copies = keeper.taken(2).await;
    assert!(copies.iter().all(|copy| copy.primary == Side::Legacy));
    front.stop().await;
}
