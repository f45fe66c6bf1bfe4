//! Copies of writes: who gets them, how often, and what becomes of a candidate that keeps them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use outgrow_rollout::Side;
use outgrow_shadow::{
    DRY_RUN, Format, RouteShadow, SHADOW_MARK, Shadow, ShadowSettings, Tap, Writes, render,
};
use outgrow_testkit::{Seen, Upstream, eventually};
use tokio::io::AsyncReadExt as _;

use crate::harness::{Position, WAIT, admitted, header, ok, settings, settled, shop, start};

pub(crate) const PRICE: &str = "PUT /api/products/{id}/price";
const NEW: &str = r#"{"price":"9.95","old":"9.90"}"#;

fn route(writes: Writes) -> RouteShadow {
    RouteShadow {
        writes: Some(writes),
        ..RouteShadow::default()
    }
}

fn with(writes: Writes, sides: [&Upstream; 2]) -> ShadowSettings {
    let mut settings = settings(&[sides[0]], &[sides[1]]);
    let flow = &mut settings.slices[0].flow;
    flow.routes.insert(PRICE.to_owned(), route(writes));
    settings
}

/// A client of this side has changed a price; its copy goes into the shadow, where that wants it.
fn put_of(shadow: &Shadow, primary: Side, answer: &Response<Bytes>) -> bool {
    let fields = HeaderMap::from_iter([
        header("content-type", "application/json"),
        header("host", "shop.example"),
        header("cookie", "sid=s3cret"),
        // Whatever a client says of itself.
        header("x-outgrow-dry-run", "0"),
    ]);
    let asked = (Method::PUT, "/api/products/7/price", &fields);
    let Some(mut draft) = admitted(shadow, PRICE, asked, (primary, answer)) else {
        return false;
    };
    let body = Bytes::from_static(br#"{"price":"9.95","password":"swordfish"}"#);
    draft.brought(body, true);
    draft.is_of(Some(HeaderValue::from_static("v1.signed")));
    draft.offer();
    true
}

pub(crate) fn put(shadow: &Shadow) -> bool {
    put_of(shadow, Side::Legacy, &ok(NEW))
}

fn rolled_back(body: &str) -> Response<Bytes> {
    let mut answer = ok(body);
    let said = HeaderValue::from_static("rolled-back");
    answer.headers_mut().insert(DRY_RUN, said);
    answer
}

async fn honest(body: &'static str) -> Upstream {
    Upstream::start(move |_| async move { rolled_back(body) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_goes_nowhere_unless_its_route_says_so() {
    let sides = [honest(NEW).await, honest(NEW).await];
    let shadow = start(settings(&[&sides[0]], &[&sides[1]]), Position::default());
    assert!(!put(&shadow));
    assert_eq!(shadow.report(&shop()).unwrap().ineligible["method"], 1);
    let mut settings = with(Writes::DryRun, [&sides[0], &sides[1]]);
    settings.slices[0].sample = 0.0;
    let shadow = start(settings, Position::default());
    let odd = Method::from_bytes(b"PURGE").unwrap();
    assert!(shadow.admit(&shop(), &PRICE.into(), &odd, 0).is_none());
    assert!(!put(&shadow), "not in the sample");
    let seen = settled(&shadow).await;
    assert_eq!((seen.eligible, seen.sampled_out), (2, 1));
    let report = shadow.report(&shop()).unwrap();
    assert_eq!(report.ineligible["unknown-method"], 1);
    assert!(sides.iter().all(|side| side.seen().is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_is_asked_once_and_counts_like_a_read() {
    let legacy = honest(NEW).await;
    let extracted = Upstream::start(|request: Request<Bytes>| async move {
        let _ = request;
        rolled_back(r#"{"price":"9.95","old":"9.89"}"#)
    })
    .await;
    let mut settings = with(Writes::DryRun, [&legacy, &extracted]);
    // Reads would be asked again and again for this.
    settings.slices[0].noise_sample = 1.0;
    let shadow = start(settings, Position::default());
    assert!(put(&shadow));
    let seen = settled(&shadow).await;
    assert_eq!((seen.matched, seen.mismatched), (0, 1));
    assert_eq!(seen.classes[&format!("{PRICE} 2xx")].against, 1);
    assert_eq!(seen.top[0].path, "$.old");
    assert!(legacy.seen().is_empty());
    let asked = extracted.seen();
    assert_eq!(asked.len(), 1);
    let asked = &asked[0];
    assert_eq!(
        (asked.method.as_str(), &*asked.target),
        ("PUT", "/api/products/7/price")
    );
    let fields = [SHADOW_MARK, DRY_RUN, "host", "x-outgrow-identity", "cookie"];
    let fields = fields.map(|name| asked.header(name));
    let expected = [
        Some("1"),
        Some("1"),
        Some("shop.example"),
        Some("v1.signed"),
        None,
    ];
    assert_eq!(fields, expected);
    assert!(String::from_utf8_lossy(&asked.body).contains("swordfish"));
    let report = render(&shadow.report(&shop()).unwrap(), Format::Json).unwrap();
    assert!(report.contains("x-outgrow-dry-run: 1") && report.contains("-X PUT"));
    assert!(!report.contains("swordfish"), "{report}");
    let at = legacy.addr().to_string();
    assert!(!report.contains(&at), "no line that would write: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_keeps_a_write_gets_no_other_until_somebody_says_so() {
    let legacy = honest(NEW).await;
    // It says something, but not that.
    let extracted = Upstream::start(|_| async {
        let mut answer = ok(NEW);
        let said = HeaderValue::from_static("committed");
        answer.headers_mut().insert(DRY_RUN, said);
        answer
    })
    .await;
    let shadow = start(
        with(Writes::DryRun, [&legacy, &extracted]),
        Position::default(),
    );
    // They are let in until the first one is answered, whenever that is.
    let let_in = (0..20).take_while(|_| put(&shadow)).count();
    assert!(let_in >= 1);
    let seen = settled(&shadow).await;
    assert_eq!(
        extracted.seen().len(),
        1,
        "the others have waited for the first"
    );
    assert_eq!(seen.matched, 1);
    assert!(!put(&shadow));
    let report = shadow.report(&shop()).unwrap();
    assert!(report.ineligible["dry-run-not-honoured"] >= 1);
    assert!(
        report.warnings[0].contains("shadow resume shop"),
        "{:?}",
        report.warnings
    );
    let seen = settled(&shadow).await;
    assert!(seen.stopped[PRICE].contains("it may have written"));
    // Reads go on.
    let get: Arc<str> = "GET /api/products/{id}".into();
    assert!(shadow.admit(&shop(), &get, &Method::GET, 0).is_some());
    assert_eq!(shadow.stopped(&shop()).len(), 1);
    // Another process knows.
    let next = start(
        with(Writes::DryRun, [&legacy, &extracted]),
        Position::default(),
    );
    next.restore(shadow.snapshot()).unwrap();
    assert!(!put(&next));
    assert!(next.stopped(&shop()).is_empty(), "it was told of already");
    next.reset(&shop());
    assert!(!put(&next), "evidence is another matter");
    assert_eq!(next.resume(&shop(), None), [PRICE]);
    assert!(put(&next));
    settled(&next).await;
    assert_eq!(extracted.seen().len(), 2);
}

/// Whatever becomes of the connection: nobody knows whether a write was done.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_connection_breaks_is_not_sent_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counts = asked.clone();
    // Answers the first request of each connection, and breaks off behind the second.
    let extracted = Upstream::raw(move |mut stream| {
        let counts = counts.clone();
        async move {
            let mut head = vec![0; 4_096];
            while let Ok(read) = stream.read(&mut head).await {
                if read == 0 {
                    return;
                }
                let requests = String::from_utf8_lossy(&head[..read])
                    .matches("PUT /")
                    .count();
                counts.fetch_add(requests, Relaxed);
                if counts.load(Relaxed) > 1 {
                    return;
                }
                let answer = "HTTP/1.1 200 OK\r\nx-outgrow-dry-run: rolled-back\r\n\
                    content-type: application/json\r\ncontent-length: 29\r\n\r\n";
                let answer = format!("{answer}{NEW}");
                if tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes())
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
    })
    .await;
    let legacy = honest(NEW).await;
    let shadow = start(
        with(Writes::DryRun, [&legacy, &extracted]),
        Position::default(),
    );
    assert!(put(&shadow));
    assert_eq!(settled(&shadow).await.matched, 1);
    assert!(put(&shadow));
    let seen = settled(&shadow).await;
    assert_eq!((seen.matched, seen.candidate_errors), (1, 1));
    assert_eq!(asked.load(Relaxed), 2, "once each");
    assert!(seen.stopped.is_empty(), "no answer says nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rows_on_their_way_may_explain_is_not_compared() {
    let (legacy, extracted) = (
        honest(NEW).await,
        honest(r#"{"price":"9.95","old":"9.95"}"#).await,
    );
    let position = Position::stuck();
    let shadow = start(
        with(Writes::DryRun, [&legacy, &extracted]),
        position.clone(),
    );
    put(&shadow);
    position.catch_up();
    put(&shadow);
    let seen = settled(&shadow).await;
    assert_eq!(
        (seen.matched, seen.mismatched, seen.not_comparable),
        (0, 0, 2)
    );
    assert_eq!(shadow.report(&shop()).unwrap().not_comparable["lag"], 2);
    // Which is no evidence, and is missed as such.
    assert_eq!(seen.classes[&format!("{PRICE} 2xx")].compared, 0);
    assert_eq!(extracted.seen().len(), 2, "once each");
    assert!(legacy.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_asked_in_place_of_the_candidate_and_does_the_write() {
    let (legacy, extracted) = (honest(NEW).await, honest(NEW).await);
    let sandbox = Upstream::start(|_| async { ok(NEW) }).await;
    let place = |of: &Upstream| outgrow_shadow::Place::Tcp(of.addr().to_string().parse().unwrap());
    let mut settings = with(Writes::Sandbox, [&legacy, &extracted]);
    settings.slices[0].sandbox = [place(&sandbox)].into_iter().collect();
    // Its store is its own: no bridge comes into it.
    let shadow = start(settings.clone(), Position::stuck());
    put(&shadow);
    assert_eq!(settled(&shadow).await.matched, 1, "though it says nothing");
    let asked: Vec<Seen> = sandbox.seen();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (asked[0].header(DRY_RUN), asked[0].header(SHADOW_MARK)),
        (None, Some("1"))
    );
    assert!(extracted.seen().is_empty());
    // One that clients are answered by is none.
    settings.slices[0].sandbox = [place(&extracted)].into_iter().collect();
    let shadow = start(settings, Position::default());
    put(&shadow);
    assert_eq!(settled(&shadow).await.candidate_errors, 1);
    assert!(extracted.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_write_is_sent_to_nobody() {
    let (legacy, extracted) = (honest(NEW).await, honest(NEW).await);
    let shadow = start(
        with(Writes::Record, [&legacy, &extracted]),
        Position::default(),
    );
    assert!(!put(&shadow), "nobody records");
    shadow.record(&shop(), "one").unwrap();
    assert!(put(&shadow));
    let line = eventually("the line", WAIT, || async {
        let fetched = shadow.record(&shop(), "one").unwrap();
        fetched["lines"][0].as_str().map(str::to_owned)
    })
    .await;
    assert!(line.contains("\"PUT\"") && line.contains("9.95"), "{line}");
    assert!(
        !line.contains("swordfish") && !line.contains("s3cret"),
        "{line}"
    );
    let seen = settled(&shadow).await;
    assert_eq!((seen.eligible, seen.ineligible), (2, 2));
    assert_eq!(shadow.report(&shop()).unwrap().ineligible["record-only"], 2);
    assert!(legacy.seen().is_empty() && extracted.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_flip_the_legacy_side_gets_dry_runs_only_where_that_is_said() {
    let (legacy, extracted) = (honest(NEW).await, honest(NEW).await);
    let mut settings = with(Writes::DryRun, [&legacy, &extracted]);
    let shadow = start(settings.clone(), Position::default());
    put_of(&shadow, Side::Extracted, &ok(NEW));
    assert_eq!(settled(&shadow).await.ineligible, 1);
    assert_eq!(
        shadow.report(&shop()).unwrap().ineligible["write-after-flip"],
        1
    );
    assert!(legacy.seen().is_empty());
    let both = RouteShadow {
        writes_reverse: true,
        ..route(Writes::DryRun)
    };
    settings.slices[0]
        .flow
        .routes
        .insert(PRICE.to_owned(), both);
    let shadow = start(settings, Position::default());
    put_of(&shadow, Side::Extracted, &ok(NEW));
    assert_eq!(settled(&shadow).await.matched, 1);
    assert_eq!(legacy.seen()[0].header(DRY_RUN), Some("1"));
    assert!(extracted.seen().is_empty());
}

/// The side that took a write takes no copy of it, and the other side one.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_writes_leave_none_twice_on_either_side() {
    let legacy = honest(NEW).await;
    let count = Arc::new(AtomicUsize::new(0));
    let counts = count.clone();
    let extracted = Upstream::start(move |_| {
        let turn = counts.fetch_add(1, Relaxed);
        async move {
            match turn % 7 {
                6 => Response::builder()
                    .status(503)
                    .header(DRY_RUN, "rolled-back")
                    .body(Bytes::new())
                    .unwrap(),
                _ => rolled_back(NEW),
            }
        }
    })
    .await;
    let mut settings = with(Writes::DryRun, [&legacy, &extracted]);
    settings.slices[0].flow.waiting = 20_000;
    let shadow = start(settings, Position::default());
    let mut sent = 0;
    for _ in 0..2_000 {
        sent += usize::from(put(&shadow));
    }
    let seen = settled(&shadow).await;
    assert_eq!(seen.eligible, 2_000);
    assert_eq!(count.load(Relaxed), sent, "each once");
    assert_eq!(seen.matched + seen.candidate_errors, sent as u64);
    assert!(seen.candidate_errors > 0);
    assert!(legacy.seen().is_empty());
}
