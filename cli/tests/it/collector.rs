//! Spans of the real process at a real collector, rotel, and what that one passes on. rotel reads them
//! with OpenTelemetry's own types and writes them anew, so what comes out is what it has understood.

#![allow(clippy::unwrap_used, clippy::panic)] // What lacks is a failed test.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use outgrow_testkit::collector::{Told, spans};
use outgrow_testkit::process::free_address;
use outgrow_testkit::{Rotel, Upstream, client, eventually};

use crate::harness::run_in;
use crate::starting::serve;
use crate::tracing::scraped;

const WAIT: Duration = Duration::from_secs(30);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
/// More than an export of a megabyte has.
const MANY: usize = 2_000;

/// A catalog with routes of its own, and rotel as the collector.
fn write(dir: &Path, [at, control]: [SocketAddr; 2], sides: [&Upstream; 2], rotel: &Rotel) {
    let [legacy, catalog] = sides.map(|side| format!("http://{}", side.addr()));
    let text = format!(
        "[proxy]\nlisten = [\"{at}\"]\nworkers = 2\n\
         [proxy.trace.otlp]\nendpoint = \"{}\"\nquery = true\n\
         resource = {{ \"service.name\" = \"front\", \"deployment.environment.name\" = \"test\" }}\n\
         [legacy]\nurls = [\"{legacy}\"]\n[control]\nlisten = \"{control}\"\n\
         [services.catalog]\nurls = [\"{catalog}\"]\n\
         [slices.catalog]\nservice = \"catalog\"\nroutes = [\"GET /api/products/{{id}}\"]\n",
        rotel.url()
    );
    std::fs::write(dir.join("outgrow.toml"), text).unwrap();
}

/// Well, but for product 13.
async fn catalog() -> Upstream {
    Upstream::start(|request| async move {
        let ill = request.uri().path() == "/api/products/13";
        let mut answer = Response::new(Bytes::from("catalog"));
        if ill {
            *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        }
        answer
    })
    .await
}

async fn ask(at: SocketAddr, target: &str, fields: &[(&str, &str)]) -> client::Answer {
    let url = format!("http://{at}{target}");
    client::send(client::request(Method::GET, &url, fields, Bytes::new())).await
}

/// The spans of the requests for this path, the client's first.
fn of<'a>(all: &'a [Told], path: &str) -> Vec<&'a Told> {
    let server = all.iter().find(|span| span.said("url.path") == path);
    let server = server.unwrap_or_else(|| panic!("{path}: {all:#?}"));
    let below = all.iter().filter(|span| span.parent == server.id);
    let mut found: Vec<_> = [server].into_iter().chain(below).collect();
    found.sort_by_key(|span| (span.kind, span.begun));
    found
}

/// That a span says all of this.
fn says(span: &Told, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(span.said(name), *value, "{name}: {span:#?}");
    }
}

/// Waits until the next collector has so many spans.
async fn passed_on(next: &Upstream, count: usize) -> Vec<Told> {
    let what = format!("{count} spans behind rotel");
    eventually(&what, WAIT, || async {
        let all = spans(&next.seen());
        (all.len() >= count).then_some(all)
    })
    .await
}

fn one_that_was_handed_on(all: &[Told], catalog: &Upstream) {
    let [server, try_] = of(all, "/api/products/7")[..] else {
        panic!("{all:#?}")
    };
    assert_eq!((server.kind, try_.kind), (SERVER, CLIENT));
    assert_eq!((&*server.trace, &*server.parent), (TRACE, SPAN));
    assert_eq!((&*try_.trace, &try_.parent), (TRACE, &server.id));
    let handed_on = format!("00-{TRACE}-{}-01", try_.id);
    assert_eq!(catalog.seen()[0].header("traceparent"), Some(&*handed_on));
    assert_eq!((server.flags, try_.flags), (0x301, 0x101));
    assert_eq!((&*server.state, &*try_.state), ("vendor=1", "vendor=1"));
    assert!(server.begun <= try_.begun && try_.begun <= try_.ended);
    assert!(try_.ended <= server.ended && server.begun > 0);
    assert_eq!((server.status, try_.status), (0, 0));
    for span in [server, try_] {
        assert_eq!(span.name, "GET /api/products/{id}");
        assert_eq!(span.resource["service.name"], "front");
        assert_eq!(span.resource["deployment.environment.name"], "test");
        says(span, &[("http.request.method", "GET")]);
        says(span, &[("http.response.status_code", "200")]);
        says(span, &[("outgrow.side", "extracted")]);
    }
    let upstream = catalog.addr().to_string();
    says(server, &[("http.route", "/api/products/{id}")]);
    says(server, &[("url.query", "colour=gr%C3%BCn")]);
    says(server, &[("user_agent.original", "a test")]);
    says(server, &[("outgrow.slice", "catalog")]);
    says(server, &[("outgrow.upstream", &upstream)]);
    says(server, &[("http.response.body.size", "7")]);
    let url = format!("http://{upstream}/api/products/7?colour=gr%C3%BCn");
    says(try_, &[("url.full", &url), ("outgrow.service", "catalog")]);
}

fn one_that_was_answered_by_the_other_side(all: &[Told]) {
    let [server, first, second] = of(all, "/api/products/13")[..] else {
        panic!("{all:#?}")
    };
    assert_eq!((first.status, second.status, server.status), (2, 0, 0));
    says(first, &[("outgrow.side", "extracted")]);
    says(first, &[("error.type", "500")]);
    says(second, &[("outgrow.side", "legacy"), ("error.type", "")]);
    says(server, &[("outgrow.side", "legacy")]);
    assert_eq!(server.parent, "", "its trace began here");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it needs rotel, which scripts/test gets"]
async fn a_real_collector_takes_every_span_and_passes_it_on() {
    let (legacy, catalog) = (Upstream::always(200, "legacy").await, catalog().await);
    let next = Upstream::always(200, "").await;
    let mut rotel = Rotel::before(&next.url("")).await;
    let dir = tempfile::tempdir().unwrap();
    let at = [free_address(), free_address()];
    write(dir.path(), at, [&legacy, &catalog], &rotel);
    let mut outgrow = serve(dir.path()).await;
    for to in ["shadow", "canary=100"] {
        let flip = ["route", "flip", "catalog", to, "--force", "--reason", "x"];
        assert_eq!(run_in(dir.path(), &flip).await.code, 0);
    }
    let exported = |count: &'static str| {
        let (dir, control) = (dir.path(), at[1]);
        eventually("spans that were taken", WAIT, move || async move {
            let told = scraped(dir, control, "outgrow_spans_exported_total").await?;
            (told == count).then_some(())
        })
    };
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let fields = [
        ("traceparent", &*parent),
        ("tracestate", "vendor=1"),
        ("user-agent", "a test"),
    ];
    let target = "/api/products/7?colour=gr%C3%BCn";
    assert_eq!(ask(at[0], target, &fields).await.text(), "catalog");
    let rescued = ask(at[0], "/api/products/13", &[]).await;
    assert_eq!(rescued.text(), "legacy");
    // What is malformed, and a method and a host that are odd.
    client::raw(at[0], b"GET /ill HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").await;
    client::raw(at[0], b"BREW /pot HTTP/1.0\r\nhost: [::1]:80\r\n\r\n").await;
    let all = passed_on(&next, 8).await;
    exported("8").await;
    one_that_was_handed_on(&all, &catalog);
    one_that_was_answered_by_the_other_side(&all);
    let refused = of(&all, "/ill")[0];
    says(refused, &[("outgrow.refusal", "malformed")]);
    let odd = of(&all, "/pot")[0];
    assert_eq!(odd.name, "HTTP");
    says(odd, &[("http.request.method_original", "BREW")]);
    says(odd, &[("server.address", "::1"), ("server.port", "80")]);
    // While it is away spans wait for it.
    assert!(rotel.stop().await.success(), "{}", rotel.log());
    ask(at[0], "/api/products/1", &[]).await;
    eventually("a try that failed", WAIT, || async {
        outgrow.log().contains("cannot be exported").then_some(())
    })
    .await;
    rotel.again().await;
    passed_on(&next, 10).await;
    many(at[0], &next, 10).await;
    exported("4010").await;
    let dropped = scraped(
        dir.path(),
        at[1],
        "outgrow_spans_dropped_total{cause=\"refused\"}",
    );
    assert_eq!(dropped.await.as_deref(), Some("0"));
    assert!(outgrow.stop().await.success());
}

/// Many at once: exports are large, and each span comes once.
async fn many(at: SocketAddr, next: &Upstream, before: usize) {
    for _ in 0..MANY / 50 {
        let some = (0..50).map(|_| ask(at, "/api/products/2", &[]));
        futures_util::future::join_all(some).await;
    }
    let all = passed_on(next, before + 2 * MANY).await;
    let ids: BTreeSet<_> = all.iter().map(|span| (&span.trace, &span.id)).collect();
    assert_eq!((all.len(), ids.len()), (before + 2 * MANY, all.len()));
}
