//! Candidates that are dead, hang, break off or lie: never green, never in anybody's way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use http::{HeaderMap, Version};
use outgrow_rollout::Side;
use outgrow_shadow::{Dial, Dialed, Dialing, Place, SideTargets};
use outgrow_testkit::{LocalSocket, Upstream, process::free_address};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Bench, Position, header, offer, offer_as, settings, settled, shop, start};

const PAIRS: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_candidate_is_counted_against_and_never_green() {
    let legacy = Upstream::always(200, "{}").await;
    let settings = settings(&[&legacy], &[]);
    let dead = free_address().to_string().parse().unwrap();
    settings.slices[0].extracted.set(vec![Place::Tcp(dead)]);
    let shadow = start(settings, Position::default());
    for _ in 0..PAIRS {
        assert!(offer(
            &shadow,
            Side::Legacy,
            &crate::harness::ok("{}"),
            HeaderMap::new()
        ));
    }
    let seen = settled(&shadow).await;
    assert_eq!((seen.candidate_errors, seen.matched), (PAIRS, 0));
    let report = shadow.report(&shop()).unwrap();
    assert!(report.verdict.starts_with("20 of 20"), "{}", report.verdict);
    assert!(
        report.differences[0].extracted.contains("refused"),
        "{:?}",
        report.differences
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_compared_is_no_evidence() {
    let bench = Bench::new().await;
    let report = bench.shadow.report(&shop()).unwrap();
    assert!(
        report.verdict.starts_with("no evidence"),
        "{}",
        report.verdict
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_candidate_fills_its_bounds_and_no_more() {
    let hanging = Upstream::raw(|mut stream| async move {
        let mut taken = [0; 1024];
        while stream.read(&mut taken).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    let legacy = Upstream::always(200, "{}").await;
    let mut settings = settings(&[&legacy], &[&hanging]);
    settings.slices[0].flow.waiting = 4;
    settings.slices[0].flow.in_flight = 2;
    settings.limits.timeout = Duration::from_millis(300);
    let shadow = start(settings, Position::default());
    let taken = (0..PAIRS)
        .filter(|_| {
            offer(
                &shadow,
                Side::Legacy,
                &crate::harness::ok("{}"),
                HeaderMap::new(),
            )
        })
        .count();
    assert_eq!(taken, 4, "the rest is shed at the door");
    let seen = settled(&shadow).await;
    assert_eq!((seen.candidate_errors, seen.shed), (4, PAIRS - 4));
    let text = &shadow.report(&shop()).unwrap().differences[0].extracted;
    assert!(text.contains("no answer within"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_fails_again_and_again_is_left_alone_and_counted_each_time() {
    let asked = Arc::new(AtomicUsize::new(0));
    let closing = Upstream::raw({
        let asked = asked.clone();
        move |stream| {
            asked.fetch_add(1, Relaxed);
            async move { drop(stream) }
        }
    })
    .await;
    let legacy = Upstream::always(200, "{}").await;
    let mut settings = settings(&[&legacy], &[&closing]);
    settings.slices[0].flow.in_flight = 1;
    let shadow = start(settings, Position::default());
    let answer = crate::harness::ok("{}");
    for _ in 0..400 {
        offer(&shadow, Side::Legacy, &answer, HeaderMap::new());
    }
    let seen = settled(&shadow).await;
    assert_eq!(
        (seen.candidate_errors, seen.matched),
        (400, 0),
        "never green"
    );
    // Five, and one for each second that this has taken.
    assert!(asked.load(Relaxed) < 100, "{}", asked.load(Relaxed));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_an_error_of_the_candidate() {
    let cut = Upstream::raw(|mut stream| async move {
        let mut taken = [0; 1024];
        let _ = stream.read(&mut taken).await;
        let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"id\":";
        let _ = stream.write_all(half).await;
    })
    .await;
    let legacy = Upstream::always(200, "{}").await;
    let shadow = start(settings(&[&legacy], &[&cut]), Position::default());
    offer(
        &shadow,
        Side::Legacy,
        &crate::harness::ok("{}"),
        HeaderMap::new(),
    );
    assert_eq!(settled(&shadow).await.candidate_errors, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_answer_of_the_candidate_speaks_against_it_and_one_of_legacy_does_not() {
    let bench = Bench::new().await;
    bench.extracted.status(503);
    bench.client();
    let seen = bench.settled().await;
    assert_eq!((seen.candidate_errors, seen.not_comparable), (1, 0));
    bench.legacy.status(500);
    bench.client();
    let seen = bench.settled().await;
    assert_eq!((seen.candidate_errors, seen.not_comparable), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_upstream_of_the_candidate_is_asked() {
    let legacy = Upstream::always(200, "{}").await;
    let (one, two) = (
        Upstream::always(200, "{}").await,
        Upstream::always(200, "{}").await,
    );
    let shadow = start(settings(&[&legacy], &[&one, &two]), Position::default());
    for _ in 0..8 {
        offer(
            &shadow,
            Side::Legacy,
            &crate::harness::ok("{}"),
            HeaderMap::new(),
        );
    }
    assert_eq!(settled(&shadow).await.compared(), 8);
    assert_eq!((one.seen().len(), two.seen().len()), (4, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_may_be_a_socket_of_this_machine_and_may_move() {
    let folder = tempfile::tempdir().unwrap();
    let legacy = Upstream::always(200, "{}").await;
    let (one, two) = (
        Upstream::always(200, "{}").await,
        Upstream::always(200, "{}").await,
    );
    let socket = LocalSocket::before(one.addr(), &folder.path().join("a.sock"));
    let settings = settings(&[&legacy], &[]);
    let places = settings.slices[0].extracted.clone();
    places.set(vec![Place::Unix(socket.path().into())]);
    let shadow = start(settings, Position::default());
    let answer = crate::harness::ok("{}");
    offer(&shadow, Side::Legacy, &answer, HeaderMap::new());
    assert_eq!(settled(&shadow).await.compared(), 1);
    places.set(vec![Place::Tcp(two.addr().to_string().parse().unwrap())]);
    offer(&shadow, Side::Legacy, &answer, HeaderMap::new());
    assert_eq!(settled(&shadow).await.compared(), 2);
    assert_eq!((one.seen().len(), two.seen().len()), (1, 1));
}

/// Makes connections for the shadow, and counts them.
#[derive(Debug)]
struct Counted {
    to: SocketAddr,
    streams: bool,
    made: Arc<AtomicUsize>,
}

impl Dial for Counted {
    fn dial(&self) -> Dialing {
        let (to, streams) = (self.to, self.streams);
        self.made.fetch_add(1, SeqCst);
        Box::pin(async move {
            let stream = TcpStream::connect(to).await;
            let stream = stream.map_err(|error| error.to_string())?;
            Ok(Dialed {
                io: Box::new(stream),
                streams,
                safe: false,
            })
        })
    }

    fn url(&self) -> String {
        format!("https://{}", self.to)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_is_asked_on_connections_that_somebody_else_makes() {
    for (streams, version) in [(false, Version::HTTP_11), (true, Version::HTTP_2)] {
        let (legacy, one) = (
            Upstream::always(200, "{}").await,
            Upstream::always(200, "{}").await,
        );
        let settings = settings(&[&legacy], &[]);
        let made = Arc::new(AtomicUsize::new(0));
        settings.slices[0]
            .extracted
            .set(vec![Place::Dialed(Arc::new(Counted {
                to: one.addr(),
                streams,
                made: made.clone(),
            }))]);
        let shadow = start(settings, Position::default());
        let answer = crate::harness::ok("{}");
        let host = || HeaderMap::from_iter([header("host", "shop.example")]);
        for compared in 1..4 {
            offer(&shadow, Side::Legacy, &answer, host());
            assert_eq!(settled(&shadow).await.compared(), compared);
        }
        let seen = one.seen();
        assert!(seen.len() == 3 && seen.iter().all(|seen| seen.version == version));
        assert_eq!(made.load(SeqCst), 1, "one connection for all");
        drop(one);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirrored_request_is_marked_and_carries_no_credentials_and_no_hop_by_hop_fields() {
    let bench = Bench::new().await;
    let sent = [
        header("host", "shop.example"),
        header("accept", "application/json"),
        header("cookie", "sid=secret"),
        header("authorization", "Bearer secret"),
        header("connection", "close, x-private"),
        header("x-private", "1"),
        header("keep-alive", "timeout=5"),
        header("proxy-authorization", "Basic secret"),
        header("proxy-connection", "keep-alive"),
        header("te", "trailers"),
    ];
    offer(
        &bench.shadow,
        Side::Legacy,
        &bench.legacy.answer(),
        sent.into_iter().collect(),
    );
    bench.settled().await;
    let seen = &bench.at_extracted.seen()[0];
    assert_eq!(seen.header("x-outgrow-shadow"), Some("1"));
    assert_eq!(seen.header("host"), Some("shop.example"));
    assert_eq!(seen.header("accept"), Some("application/json"));
    for name in [
        "cookie",
        "authorization",
        "x-private",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
    ] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    // A client that takes trailers is compared with them.
    assert_eq!(seen.header("te"), Some("trailers"));
    assert_eq!(seen.header("connection"), Some("te"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_side_is_asked_by_its_own_path_and_reports_keep_the_clients() {
    let bench = Bench::new().await;
    bench.shadow.record(&shop(), "one").unwrap();
    let sides = SideTargets {
        legacy: None,
        extracted: Some("/v2/items/7?mail=a@b.example".parse().unwrap()),
    };
    let answer = crate::harness::ok(r#"{"other":1}"#);
    let target = "/api/products/7?mail=a@b.example";
    assert!(offer_as(
        &bench.shadow,
        Side::Legacy,
        &answer,
        target,
        sides
    ));
    bench.settled().await;
    let asked: Vec<_> = bench.at_extracted.seen();
    assert!(!asked.is_empty());
    assert!(
        asked
            .iter()
            .all(|seen| seen.target == "/v2/items/7?mail=a@b.example")
    );
    let again = bench.at_legacy.seen();
    assert!(again.iter().all(|seen| seen.target == target), "{again:?}");
    let fetched = bench.shadow.record(&shop(), "one").unwrap();
    let line = fetched["lines"][0].as_str().unwrap();
    assert!(
        line.contains(r#""target":"/api/products/7?mail="#),
        "{line}"
    );
    assert!(line.contains(r#""extracted":"/v2/items/7?mail="#), "{line}");
    assert!(
        !line.contains("b.example") && !line.contains("legacy"),
        "{line}"
    );
}
