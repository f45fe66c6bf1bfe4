//! Starting, changing while it runs, stopping; and the tap.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use outgrow_proxy::Proxy;
use outgrow_rollout::{Live, Revision, Side, SliceId, Weight};
use outgrow_testkit::{Upstream, eventually};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::harness::{
    WAIT, live, named, plain, read_until, say, slice_id, sliced, start, start_with, take_head, text,
};
use crate::keeper::Keeper;

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named_and_nothing_starts() {
    let upstream = named("legacy").await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = plain(&upstream);
    settings.listen = vec![taken.local_addr().unwrap()];
    let refused = Proxy::bind(settings, None).unwrap_err().to_string();
    assert!(
        refused.contains(&taken.local_addr().unwrap().to_string()),
        "{refused}"
    );
    assert!(refused.contains("another process"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_on_the_same_port_is_refused_too() {
    let upstream = named("legacy").await;
    let front = start(plain(&upstream));
    let mut settings = plain(&upstream);
    settings.listen = vec![front.at];
    assert!(
        Proxy::bind(settings, None).is_err(),
        "the port is not shared with a stranger"
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_are_refused_all_at_once() {
    let upstream = named("legacy").await;
    let mut settings = sliced(&upstream, &upstream);
    settings.legacy.upstreams.clear();
    settings.listen.clear();
    settings.services[0].upstreams.clear();
    settings.slices[0].service = "lost".to_owned();
    settings.slices.push(settings.slices[0].clone());
    settings.slices[1].id = SliceId::new("other").unwrap();
    let refused = Proxy::bind(settings, None).unwrap_err().to_string();
    for part in [
        "no address",
        "no legacy upstream",
        "no upstream",
        "no service",
        "is also",
    ] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
}

/// One open connection sees every flip, and none of its requests fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_state_touches_no_open_connection() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let front = start(sliced(&legacy, &extracted));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    for revision in 1..60 {
        let (weight, side) = if revision % 2 == 1 {
            (Weight::FULL, "extracted")
        } else {
            (Weight::ZERO, "legacy")
        };
        front.weigh(revision, weight);
        say(
            &mut stream,
            "GET /api/items HTTP/1.1\r\nhost: a\r\nx-visitor: v\r\n\r\n",
        )
        .await;
        let answer = read_until(&mut stream, side).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_is_under_way_and_takes_nothing_new() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, waits) = (begun.clone(), go_on.clone());
    let upstream = Upstream::start(move |_| {
        let (begins, waits) = (begins.clone(), waits.clone());
        async move {
            begins.notify_one();
            waits.notified().await;
            text("finished")
        }
    })
    .await;
    let front = start(plain(&upstream));
    let at = front.at;
    let mut idle = TcpStream::connect(at).await.unwrap();
    let asking = tokio::spawn(async move {
        let mut stream = TcpStream::connect(at).await.unwrap();
        say(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    });
    begun.notified().await;
    let running = front.running;
    let draining = tokio::spawn(async move { running.shutdown(WAIT).await });
    // An idle connection is closed at once.
    assert_eq!(idle.read(&mut [0; 8]).await.unwrap(), 0);
    eventually("new connections to be refused", WAIT, || async {
        TcpStream::connect(at).await.is_err().then_some(())
    })
    .await;
    go_on.notify_one();
    let answer = asking.await.unwrap();
    assert!(answer.ends_with("finished"), "{answer}");
    assert!(
        answer.to_ascii_lowercase().contains("connection: close"),
        "{answer}"
    );
    assert_eq!(draining.await.unwrap().cut, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_takes_too_long_says_how_many_it_cut() {
    let begun = Arc::new(Notify::new());
    let begins = begun.clone();
    let upstream = Upstream::raw(move |mut stream| {
        let begins = begins.clone();
        async move {
            take_head(&mut stream).await;
            begins.notify_one();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await;
    let front = start(plain(&upstream));
    let mut stream = TcpStream::connect(front.at).await.unwrap();
    say(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    begun.notified().await;
    let report = front.running.shutdown(Duration::from_millis(50)).await;
    assert_eq!((report.open, report.cut), (1, 1));
}

/// The last state is known again before control speaks, and the guard's act with it.
#[tokio::test(flavor = "multi_thread")]
async fn the_state_outlives_a_restart() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let dir = tempfile::tempdir().unwrap();
    let mut settings = sliced(&legacy, &extracted);
    settings.state_file = Some(dir.path().join("state.json"));
    let front = start(settings.clone());
    let switched = Live {
        writer: Side::Extracted,
        revision: Revision(9),
        ..live(9, Weight::FULL)
    };
    front.handle.apply(&slice_id(), switched);
    front.stop().await;
    let front = start(settings.clone());
    assert_eq!(front.handle.live(&slice_id()).unwrap(), switched);
    assert_eq!(front.post("/api/items", "{}").await.text(), "extracted");
    front.stop().await;
    std::fs::write(dir.path().join("state.json"), "{ no json").unwrap();
    let refused = Proxy::bind(settings, None).unwrap_err().to_string();
    assert!(
        refused.contains("state.json") && refused.contains("mend it"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn answered_reads_are_offered_whole_or_marked_as_not_whole() {
    let legacy = Upstream::start(|request| async move {
        let size = if request.uri().path().ends_with("large") {
            5_000
        } else {
            5
        };
        text("x".repeat(size))
    })
    .await;
    let extracted = named("extracted").await;
    let keeper = Keeper::of(Method::GET, 1_000);
    let mut settings = sliced(&legacy, &extracted);
    settings.trust.forwarded = Some(vec!["127.0.0.0/8".parse().unwrap()]);
    let front = start_with(settings, Some(keeper.clone()));
    front.get("/api/items/off", &[]).await;
    front.handle.apply(
        &slice_id(),
        Live {
            mirror: true,
            ..live(1, Weight::ZERO)
        },
    );
    front
        .get("/api/items/small?q=1", &[("x-visitor", "v")])
        .await;
    front.get("/api/items/large", &[]).await;
    front
        .get("/api/items/marked", &[("x-outgrow-shadow", "1")])
        .await;
    front.get("/elsewhere", &[]).await;
    front.post("/api/items", "{}").await;
    let kept = keeper.taken(2).await;
    assert_eq!(
        kept.len(),
        2,
        "neither off, nor marked, nor elsewhere, nor a write"
    );
    assert_eq!(kept[0].request.target, "/api/items/small?q=1");
    assert_eq!(&*kept[0].route, "GET /api/items/{id}");
    assert_eq!(
        (kept[0].response.whole, &kept[0].response.body[..]),
        (true, &b"xxxxx"[..])
    );
    assert!(!kept[1].response.whole && kept[1].response.body.is_empty());
    assert_eq!(kept[0].primary, Side::Legacy);
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_that_the_shadow_wants_are_offered_with_their_bodies() {
    let legacy = Upstream::raw(|mut stream| async move {
        let head = take_head(&mut stream).await;
        let sent = head.split("\r\n\r\n").nth(1).map_or(0, str::len);
        let length = head.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.split("\r\n").next()?.parse::<usize>().ok());
        let mut rest = vec![0; length.unwrap_or(0).saturating_sub(sent)];
        stream.read_exact(&mut rest).await.unwrap();
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n";
        say(
            &mut stream,
            &format!("{head}\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n"),
        )
        .await;
    })
    .await;
    let extracted = named("extracted").await;
    let keeper = Keeper::of_all(100);
    let front = start_with(sliced(&legacy, &extracted), Some(keeper.clone()));
    let mirrored = Live {
        mirror: true,
        ..live(1, Weight::ZERO)
    };
    front.handle.apply(&slice_id(), mirrored);
    assert_eq!(front.post("/api/items", "{\"query\":1}").await.text(), "ok");
    let long: &'static str = "x".repeat(5_000).leak();
    assert_eq!(front.post("/api/items", long).await.text(), "ok");
    let kept = keeper.taken(2).await;
    assert_eq!(
        (&kept[0].request.body[..], kept[0].request.whole),
        (&b"{\"query\":1}"[..], true)
    );
    assert_eq!(
        (
            &kept[0].response.body[..],
            &kept[0].response.trailers["x-sum"]
        ),
        (&b"ok"[..], &"7".parse::<http::HeaderValue>().unwrap())
    );
    assert!(!kept[1].request.whole && kept[1].request.body.is_empty());
    assert_eq!(kept[1].primary, Side::Legacy, "the writer");
}
