//! Spans at a collector: what they say, and that no request waits for it.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use outgrow_proxy::{Balance, Settings, SpanExport, TraceSettings, endpoint};
use outgrow_rollout::{SpanFigures, Weight};
use outgrow_testkit::certificates::Authority;
use outgrow_testkit::collector::{Told, refusing, spans};
use outgrow_testkit::{Upstream, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::balancing::among;
use crate::harness::{Front, WAIT, named, plain, sliced, start, take_head, text};
use crate::secured::Door;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
const SERVER: i32 = 2;
const CLIENT: i32 = 3;

fn to(url: &str) -> SpanExport {
    SpanExport {
        endpoint: endpoint(url).unwrap(),
        headers: Vec::new(),
        ca: None,
        sample: 1.0,
        timeout: Duration::from_secs(10),
        query: false,
        resource: Vec::new(),
    }
}

fn told(settings: Settings, export: SpanExport) -> Settings {
    Settings {
        trace: TraceSettings {
            request_id: true,
            span: true,
            start: true,
            server_timing: None,
        },
        spans: Some(export),
        ..settings
    }
}

async fn collector() -> Upstream {
    Upstream::always(200, "").await
}

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

/// Those of one kind, in the order of their beginnings.
fn of_kind(all: &[Told], kind: i32) -> Vec<&Told> {
    let mut found: Vec<_> = all.iter().filter(|span| span.kind == kind).collect();
    found.sort_by_key(|span| span.begun);
    found
}

/// Ends the proxy, and says what became of its spans.
async fn stop(front: Front) -> SpanFigures {
    let handle = front.handle.clone();
    front.stop().await;
    handle.spans().unwrap()
}

fn sent(spans: u64) -> SpanFigures {
    SpanFigures {
        sent: spans,
        ..SpanFigures::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_between_its_client_and_its_upstream() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let collector = collector().await;
    let mut export = to(&collector.url(""));
    let secret = HeaderValue::from_static("Bearer s3cret");
    export.headers = vec![(HeaderName::from_static("authorization"), secret)];
    export.resource = vec![("deployment.environment.name".into(), "test".into())];
    let front = start(told(sliced(&legacy, &extracted), export));
    front.weigh(1, Weight::FULL);
    let fields = [
        ("traceparent", &*parent("01")),
        ("tracestate", "vendor=1"),
        ("x-visitor", "a"),
        ("x-request-id", "mine"),
        ("user-agent", "a test"),
    ];
    front.get("/api/items/7?secret=1", &fields).await;
    assert_eq!(stop(front).await, sent(2));
    let seen = collector.seen();
    assert_eq!(seen[0].target, "/v1/traces");
    assert_eq!(
        seen[0].header("content-type"),
        Some("application/x-protobuf")
    );
    assert_eq!(seen[0].header("authorization"), Some("Bearer s3cret"));
    let all = spans(&seen);
    let [server] = of_kind(&all, SERVER)[..] else {
        panic!("{all:#?}")
    };
    let [client] = of_kind(&all, CLIENT)[..] else {
        panic!("{all:#?}")
    };
    // Who is whose parent, to both sides.
    assert_eq!((&*server.trace, &*server.parent), (TRACE, SPAN));
    assert_eq!((&*client.trace, &client.parent), (TRACE, &server.id));
    let next = format!("00-{TRACE}-{}-01", client.id);
    assert_eq!(extracted.seen()[0].header("traceparent"), Some(&*next));
    assert_eq!((server.flags, client.flags), (0x301, 0x101));
    assert_eq!((&*server.state, &*client.state), ("vendor=1", "vendor=1"));
    assert!(
        server.begun <= client.begun && client.ended <= server.ended,
        "{all:#?}"
    );
    assert_eq!((server.status, client.status), (0, 0));
    assert_eq!(server.resource["service.name"], "outgrow");
    assert_eq!(server.resource["deployment.environment.name"], "test");
    for span in [server, client] {
        assert_eq!(span.name, "GET /api/items/{id}");
    }
    server_says(server, &extracted.addr().to_string());
    client_says(client, extracted.addr().port());
}

/// Attributes of the span of the client's request.
fn server_says(server: &Told, upstream: &str) {
    let port = front_port(server);
    let expected = [
        ("http.request.method", "GET"),
        ("url.path", "/api/items/7"),
        ("url.query", ""),
        ("url.scheme", "http"),
        ("http.route", "/api/items/{id}"),
        ("http.response.status_code", "200"),
        ("http.response.body.size", "9"),
        ("server.address", "127.0.0.1"),
        ("server.port", &port),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("user_agent.original", "a test"),
        ("outgrow.slice", "shop"),
        ("outgrow.side", "extracted"),
        ("outgrow.upstream", upstream),
        ("outgrow.request_id", "mine"),
        ("error.type", ""),
    ];
    for (name, value) in expected {
        assert_eq!(server.said(name), value, "{name}");
    }
}

/// Those of the span of what an upstream at this port was asked.
fn client_says(client: &Told, port: u16) {
    let url = format!("http://127.0.0.1:{port}/api/items/7");
    let port = port.to_string();
    for (name, value) in [
        ("url.full", &*url),
        ("server.address", "127.0.0.1"),
        ("server.port", &port),
        ("http.response.status_code", "200"),
        ("http.request.resend_count", ""),
        ("outgrow.service", "shop"),
        ("outgrow.side", "extracted"),
    ] {
        assert_eq!(client.said(name), value, "{name}");
    }
}

/// The port that a test's client has asked at, which is the proxy's.
fn front_port(server: &Told) -> String {
    server
        .said("server.port")
        .parse::<u16>()
        .unwrap()
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_try_is_a_span_of_its_own() {
    let legacy = named("legacy").await;
    let extracted = Upstream::always(500, "").await;
    let collector = collector().await;
    let mut settings = sliced(&legacy, &extracted);
    settings.slices[0].fallback = true;
    let front = start(told(settings, to(&collector.url("/"))));
    front.weigh(1, Weight::FULL);
    front.get("/api/items", &[("x-visitor", "a")]).await;
    stop(front).await;
    let all = spans(&collector.seen());
    let [first, second] = of_kind(&all, CLIENT)[..] else {
        panic!("{all:#?}")
    };
    let sides = [first, second].map(|span| (span.said("outgrow.side"), span.status));
    assert_eq!(sides, [("extracted", 2), ("legacy", 0)]);
    assert_eq!(first.said("error.type"), "500");
    for (upstream, span) in [(&extracted, first), (&legacy, second)] {
        let told = upstream.seen()[0].header("traceparent").unwrap().to_owned();
        assert!(told.ends_with(&format!("{}-01", span.id)), "{told}");
    }
    let server = of_kind(&all, SERVER)[0];
    assert!(first.parent == server.id && second.parent == server.id);
    assert_eq!(
        (server.status, &*server.parent),
        (0, ""),
        "a trace began here"
    );
    assert_eq!(server.said("outgrow.side"), "legacy");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_could_not_be_reached_is_told_of() {
    let (gone, well) = (named("gone").await, named("well").await);
    let collector = collector().await;
    let settings = among(&[&gone, &well], Balance::RoundRobin);
    drop(gone);
    let front = start(told(settings, to(&collector.url(""))));
    for _ in 0..2 {
        assert_eq!(front.get("/", &[]).await.text(), "well");
    }
    drop(well);
    assert_eq!(front.get("/", &[]).await.status, 503);
    stop(front).await;
    let all = spans(&collector.seen());
    let clients = of_kind(&all, CLIENT);
    let lost: Vec<_> = clients.iter().filter(|span| span.status == 2).collect();
    // One of the two who were served, and the last one twice.
    assert_eq!(lost.len(), 3, "{all:#?}");
    assert!(lost.iter().all(|span| !span.said("error.type").is_empty()));
    assert_eq!(lost[0].said("error.type"), "connect-failed");
    let again: Vec<_> = clients
        .iter()
        .map(|s| s.said("http.request.resend_count"))
        .collect();
    assert_eq!(
        again.iter().filter(|count| **count == "1").count(),
        2,
        "{again:?}"
    );
    let server = *of_kind(&all, SERVER).last().unwrap();
    assert_eq!(server.said("error.type"), server.said("outgrow.refusal"));
    assert_eq!(
        (server.said("http.response.status_code"), server.status),
        ("503", 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_decides_whether_a_trace_is_told_of() {
    let (legacy, collector) = (named("legacy").await, collector().await);
    let mut export = to(&collector.url(""));
    export.sample = 0.0;
    let front = start(told(plain(&legacy), export));
    front.get("/begun", &[]).await;
    front.get("/not", &[("traceparent", &*parent("00"))]).await;
    front.get("/told", &[("traceparent", &*parent("01"))]).await;
    front
        .get("/b3", &[("b3", &*format!("{TRACE}-{SPAN}-1"))])
        .await;
    assert_eq!(stop(front).await, sent(4));
    let all = spans(&collector.seen());
    let paths: Vec<_> = of_kind(&all, SERVER)
        .iter()
        .map(|s| s.said("url.path").to_owned())
        .collect();
    assert_eq!(paths, ["/told", "/b3"]);
    let seen = legacy.seen();
    let flags = |index: usize| seen[index].header("traceparent").unwrap().to_owned();
    assert!(flags(0).ends_with("-00") && flags(1).ends_with("-00") && flags(2).ends_with("-01"));
    let client = of_kind(&all, CLIENT)[1].id.clone();
    let server = of_kind(&all, SERVER)[1].id.clone();
    assert_eq!(
        seen[3].header("b3"),
        Some(&*format!("{TRACE}-{client}-1-{server}"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_requests_are_told_of_without_harm() {
    let (legacy, collector) = (named("legacy").await, collector().await);
    let mut export = to(&collector.url(""));
    export.query = true;
    let front = start(told(plain(&legacy), export));
    front
        .raw("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")
        .await;
    front
        .raw("BREW /pot?a=%20b HTTP/1.0\r\nhost: [::1]:80\r\nuser-agent: \u{e9}\r\n\r\n")
        .await;
    stop(front).await;
    let all = spans(&collector.seen());
    let [refused, odd] = of_kind(&all, SERVER)[..] else {
        panic!("{all:#?}")
    };
    let said = |name| refused.said(name);
    assert_eq!(
        (said("http.response.status_code"), said("outgrow.refusal")),
        ("400", "malformed")
    );
    assert_eq!(refused.status, 0, "that is no error of the server");
    assert_eq!(odd.name, "HTTP");
    for (name, value) in [
        ("http.request.method", "_OTHER"),
        ("http.request.method_original", "BREW"),
        ("url.query", "a=%20b"),
        ("server.address", "::1"),
        ("server.port", "80"),
        ("network.protocol.version", "1.0"),
    ] {
        assert_eq!(odd.said(name), value, "{name}");
    }
    let client = of_kind(&all, CLIENT)[0];
    assert!(
        client.said("url.full").ends_with("/pot?a=%20b"),
        "{client:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_spans() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = plain(&named("legacy").await);
    settings.legacy =
        outgrow_proxy::ServiceSettings::new("legacy", vec![listener.local_addr().unwrap()]);
    let collector = collector().await;
    let front = start(told(settings, to(&collector.url(""))));
    let mut client = TcpStream::connect(front.at).await.unwrap();
    let request = b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write_all(request).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    take_head(&mut stream).await;
    drop(client);
    // The proxy gives the upstream's connection up as well.
    take_head(&mut stream).await;
    stop(front).await;
    let all = spans(&collector.seen());
    assert_eq!(all.len(), 2, "{all:#?}");
    for span in &all {
        assert_eq!((span.said("error.type"), span.status), ("client_left", 0));
    }
}

/// Takes connections and says nothing.
async fn deaf() -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let taking = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut part = [0; 4096];
                while stream.read(&mut part).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    (url, taking)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_costs_spans_and_no_request() {
    let legacy = named("legacy").await;
    let (url, taking) = deaf().await;
    let mut export = to(&url);
    export.timeout = Duration::from_millis(50);
    // Nobody listens there.
    let closed = to("http://127.0.0.1:9");
    for export in [export, closed] {
        let front = start(told(plain(&legacy), export));
        for _ in 0..20 {
            assert_eq!(front.get("/", &[]).await.text(), "legacy");
        }
        let figures = stop(front).await;
        assert_eq!((figures.sent, figures.failed), (0, 40), "{figures:?}");
    }
    taking.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_busy_gets_each_span_once_and_not_too_soon() {
    let legacy = named("legacy").await;
    let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let noted = times.clone();
    let collector = Upstream::start(move |_| {
        let mut times = noted.lock().unwrap();
        times.push(Instant::now());
        let mut answer = text("");
        if times.len() == 1 {
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            answer
                .headers_mut()
                .insert("retry-after", HeaderValue::from_static("1"));
        }
        async move { answer }
    })
    .await;
    let front = start(told(plain(&legacy), to(&collector.url(""))));
    front.get("/", &[]).await;
    eventually("an export that was taken", WAIT, || async {
        (front.handle.spans() == Some(sent(2))).then_some(())
    })
    .await;
    assert_eq!(stop(front).await, sent(2));
    let seen = collector.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].body, seen[1].body, "the same export");
    let times = times.lock().unwrap();
    assert!(times[1] - times[0] >= Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collector_does_not_want_is_counted() {
    let legacy = named("legacy").await;
    let count = Arc::new(AtomicUsize::new(0));
    let asked = count.clone();
    let collector = Upstream::start(move |_| {
        let answer = match asked.fetch_add(1, SeqCst) {
            0 => {
                let mut answer = text("no such tenant");
                *answer.status_mut() = StatusCode::UNAUTHORIZED;
                answer
            }
            _ => Response::new(Bytes::from(refusing(1, "too old"))),
        };
        async move { answer }
    })
    .await;
    let front = start(told(plain(&legacy), to(&collector.url(""))));
    for refused in [2, 3] {
        front.get("/", &[]).await;
        eventually("refused spans", WAIT, || async {
            (front.handle.spans()?.refused == refused).then_some(())
        })
        .await;
    }
    let figures = stop(front).await;
    assert_eq!((figures.sent, figures.refused), (1, 3));
    assert_eq!(collector.seen().len(), 2, "nothing is sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_go_over_tls_to_whom_the_authorities_know() {
    let (legacy, collector) = (named("legacy").await, collector().await);
    let ca = Authority::new("ca");
    let door = Door::before(collector.addr(), &ca.server(&["localhost"]), &[], None).await;
    for (ca, expected) in [(&ca, 2), (&Authority::new("other"), 0)] {
        let mut export = to(&format!("https://localhost:{}", door.at.port()));
        export.ca = Some(ca.file());
        let front = start(told(plain(&legacy), export));
        front.get("/", &[]).await;
        assert_eq!(stop(front).await.sent, expected);
    }
    assert_eq!(spans(&collector.seen()).len(), 2);
}
