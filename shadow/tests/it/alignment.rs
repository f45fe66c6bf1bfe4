//! A row that is on its way is no mismatch; a fault is one, however far behind the bridge is.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use outgrow_rollout::{Side, SliceId};
use outgrow_shadow::{Freshness, Limits, Shadow};
use outgrow_testkit::{Upstream, eventually};
use tokio::runtime::Handle;

use crate::harness::{Bench, Position, WAIT, offer_at, ok, settings, settled, shop};

const OLD: &str = r#"{"id":1,"price":"9.95"}"#;
const NEW: &str = r#"{"id":1,"price":"8.50"}"#;
const WRONG: &str = r#"{"id":1,"price":"8.49"}"#;

async fn asked(bench: &Bench, times: usize) {
    eventually("the candidate to be asked", WAIT, || async {
        (bench.at_extracted.seen().len() >= times).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_had_not_arrived_is_compared_again_when_it_has() {
    let position = Position::stuck();
    let bench = Bench::with(position.clone(), &|_| {}).await;
    bench.legacy.set(NEW);
    bench.extracted.set(OLD);
    bench.client();
    asked(&bench, 1).await;
    let seen = bench.shadow.evidence(&shop()).unwrap();
    assert_eq!(
        (seen.waiting, seen.mismatched),
        (1, 0),
        "it waits for the bridge"
    );
    bench.extracted.set(NEW);
    position.catch_up();
    let seen = bench.settled().await;
    assert_eq!((seen.matched, seen.mismatched), (1, 0));
    assert_eq!(bench.shadow.report(&shop()).unwrap().aligned, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_is_found_behind_the_lag() {
    let position = Position::stuck();
    let bench = Bench::with(position.clone(), &|_| {}).await;
    bench.legacy.set(NEW);
    bench.extracted.set(OLD);
    bench.client();
    asked(&bench, 1).await;
    bench.extracted.set(WRONG);
    position.catch_up();
    let seen = bench.settled().await;
    assert_eq!((seen.matched, seen.mismatched), (0, 1));
    let top = &seen.top[0];
    assert_eq!(
        (
            top.path.as_str(),
            top.legacy.as_str(),
            top.extracted.as_str()
        ),
        ("$.price", "\"8.50\"", "\"8.49\"")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_never_arrives_leaves_it_open() {
    let bench = Bench::with(Position::stuck(), &|settings| {
        settings.limits.lag = Duration::from_millis(100);
    })
    .await;
    bench.legacy.set(NEW);
    bench.extracted.set(OLD);
    bench.client();
    let seen = bench.settled().await;
    assert_eq!((seen.compared(), seen.not_comparable), (0, 1));
    let report = bench.shadow.report(&shop()).unwrap();
    assert_eq!(report.not_comparable["lag"], 1);
}

/// Pairs that wait for the bridge keep nobody from being compared.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_the_bridge_takes_no_turn() {
    let position = Position::stuck();
    let bench = Bench::with(position.clone(), &|settings| {
        settings.slices[0].flow.in_flight = 1;
    })
    .await;
    bench.legacy.set(NEW);
    bench.extracted.set(OLD);
    for _ in 0..5 {
        bench.client();
    }
    asked(&bench, 5).await;
    bench.extracted.set(NEW);
    bench.client();
    eventually("the pair that needs no bridge", WAIT, || async {
        (bench.shadow.evidence(&shop()).unwrap().matched == 1).then_some(())
    })
    .await;
    position.catch_up();
    assert_eq!(bench.settled().await.matched, 6);
}

/// The legacy row changes at every look: neither side is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_never_stands_still_is_called_racing() {
    let position = Position::stuck();
    position.catch_up();
    let legacy = outgrow_testkit::Upstream::start({
        let count = std::sync::atomic::AtomicU64::new(0);
        move |_| {
            let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            async move { crate::harness::ok(&format!("{{\"stock\":{n}}}")) }
        }
    })
    .await;
    let extracted = outgrow_testkit::Upstream::always(200, "{\"stock\":-1}").await;
    let settings = crate::harness::settings(&[&legacy], &[&extracted]);
    let shadow = crate::harness::start(settings, position);
    let given = crate::harness::ok("{\"stock\":-2}");
    crate::harness::offer(&shadow, Side::Legacy, &given, http::HeaderMap::new());
    let seen = crate::harness::settled(&shadow).await;
    assert_eq!((seen.mismatched, seen.not_comparable), (0, 1));
    assert_eq!(shadow.report(&shop()).unwrap().not_comparable["racing"], 1);
}

/// The extracted side, five seconds behind; with a fault that no lag explains.
#[tokio::test(flavor = "multi_thread")]
async fn five_seconds_of_lag_are_no_mismatch_and_hide_no_fault() {
    const LAG: Duration = Duration::from_secs(5);
    let begun = Instant::now();
    let price = move |behind: Duration| match begun.elapsed() >= behind {
        true => "8.50",
        false => "9.95",
    };
    let legacy = Upstream::start(move |_| {
        let body = format!(r#"{{"price":"{}","stock":7}}"#, price(Duration::ZERO));
        async move { ok(&body) }
    })
    .await;
    let extracted = Upstream::start(move |asked: http::Request<Bytes>| {
        let stock = if asked.uri().path().ends_with("/2") {
            8
        } else {
            7
        };
        let body = format!(r#"{{"price":"{}","stock":{stock}}}"#, price(LAG));
        async move { ok(&body) }
    })
    .await;
    let mut settings = settings(&[&legacy], &[&extracted]);
    settings.limits.lag = Limits::default().lag;
    let shadow = Shadow::start(settings, Arc::new(Behind(LAG)), &Handle::current()).unwrap();
    let given = ok(r#"{"price":"8.50","stock":7}"#);
    for n in 0..40 {
        let path = if n % 10 == 0 {
            "/products/2"
        } else {
            "/products/1"
        };
        assert!(offer_at(&shadow, Side::Legacy, &given, path));
    }
    let seen = settled(&shadow).await;
    assert_eq!(
        (seen.matched, seen.mismatched, seen.not_comparable),
        (36, 4, 0)
    );
    let paths: Vec<&str> = seen.top.iter().map(|top| top.path.as_str()).collect();
    assert_eq!(paths, ["$.stock"]);
}

/// A bridge that is always so far behind.
struct Behind(Duration);

impl Freshness for Behind {
    fn applied_through(&self, _: &SliceId) -> Option<SystemTime> {
        SystemTime::now().checked_sub(self.0)
    }

    fn has_link(&self, _: &SliceId) -> bool {
        true
    }
}
