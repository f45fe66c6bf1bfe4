//! Routes of which nothing is mirrored any more, and who was under way when.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::SystemTime;

use outgrow_rollout::Side;
use outgrow_shadow::{RouteShadow, Shadow, Writes};
use outgrow_testkit::{Upstream, eventually};
use tokio::sync::Semaphore;

use crate::harness::{Position, WAIT, offer_of, ok, settings, settled, shop, start};

const SEARCH: &str = "GET /api/search";
const LIST: &str = "GET /api/products";

/// A side that answers as often as it is let.
async fn held() -> (Upstream, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let own = gate.clone();
    let side = Upstream::start(move |_| {
        let gate = own.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            ok("{}")
        }
    });
    (side.await, gate)
}

async fn is_asked(side: &Upstream, times: usize) {
    eventually("the side to be asked", WAIT, || async {
        (side.seen().len() >= times).then_some(())
    })
    .await;
}

fn now() -> RangeInclusive<i64> {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let now = i64::try_from(since.as_millis()).unwrap();
    now..=now
}

fn asked(shadow: &Shadow, side: Side) -> Vec<String> {
    let all = shadow.asked(&shop(), side, &now()).unwrap();
    all.into_iter().collect()
}

fn suspects() -> BTreeMap<String, String> {
    BTreeMap::from([(SEARCH.to_owned(), "a row".to_owned())])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_route_sends_nothing_more_and_the_others_go_on() {
    let legacy = Upstream::always(200, "{}").await;
    let (extracted, gate) = held().await;
    let mut settings = settings(&[&legacy], &[&extracted]);
    settings.slices[0].flow.in_flight = 1;
    let shadow = start(settings, Position::default());
    // One under way, one of each route that wait for it.
    assert!(offer_of(&shadow, SEARCH, &ok("{}")));
    is_asked(&extracted, 1).await;
    for route in [SEARCH, LIST] {
        assert!(offer_of(&shadow, route, &ok("{}")));
    }
    assert_eq!(asked(&shadow, Side::Extracted), [SEARCH]);
    assert_eq!(asked(&shadow, Side::Legacy), [""; 0]);
    shadow.stop_routes(&shop(), &suspects());
    assert!(!offer_of(&shadow, SEARCH, &ok("{}")));
    gate.add_permits(10);
    let seen = settled(&shadow).await;
    assert_eq!((seen.matched, seen.not_comparable), (2, 1), "{seen:?}");
    assert_eq!((seen.ineligible, extracted.seen().len()), (1, 2));
    let report = shadow.report(&shop()).unwrap();
    assert_eq!(report.ineligible["route-stopped"], 1);
    assert_eq!(report.not_comparable["route-stopped"], 1);
    let told = &report.warnings[0];
    assert!(told.contains("`GET /api/search` is not mirrored: a row"));
    shadow.stop_routes(&shop(), &BTreeMap::new());
    assert!(offer_of(&shadow, SEARCH, &ok("{}")));
    assert_eq!(settled(&shadow).await.matched, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_into_a_sandbox_is_nobodys_row_and_is_stopped_all_the_same() {
    let legacy = Upstream::always(200, "{}").await;
    let extracted = Upstream::always(200, "{}").await;
    let (sandbox, gate) = held().await;
    let mut settings = settings(&[&legacy], &[&extracted]);
    let slice = &mut settings.slices[0];
    slice.flow.in_flight = 1;
    let place = sandbox.addr().to_string().parse().unwrap();
    slice.sandbox = std::iter::once(outgrow_shadow::Place::Tcp(place)).collect();
    let route = RouteShadow {
        writes: Some(Writes::Sandbox),
        ..RouteShadow::default()
    };
    slice
        .flow
        .routes
        .insert(crate::writes::PRICE.to_owned(), route);
    let shadow = start(settings, Position::default());
    for _ in 0..2 {
        assert!(crate::writes::put(&shadow));
    }
    is_asked(&sandbox, 1).await;
    for side in [Side::Legacy, Side::Extracted] {
        assert_eq!(asked(&shadow, side), [""; 0], "{side}");
    }
    let stopped = BTreeMap::from([(crate::writes::PRICE.to_owned(), "a row".to_owned())]);
    shadow.stop_routes(&shop(), &stopped);
    gate.add_permits(10);
    assert_eq!(settled(&shadow).await.not_comparable, 1);
    assert_eq!(sandbox.seen().len(), 1);
}

#[tokio::test]
async fn of_a_slice_that_is_not_there_nothing_is_known() {
    let legacy = Upstream::always(200, "{}").await;
    let shadow = start(settings(&[&legacy], &[&legacy]), Position::default());
    let other = outgrow_rollout::SliceId::new("other").unwrap();
    shadow.stop_routes(&other, &suspects());
    assert_eq!(shadow.asked(&other, Side::Legacy, &now()), None);
    let none = Some(BTreeSet::new());
    assert_eq!(shadow.asked(&shop(), Side::Legacy, &now()), none);
}
