//! Which side answers, and why.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use outgrow_proxy::{Act, Fallback, Filters, Secret};
use outgrow_rollout::{Live, Side, Weight};
use outgrow_testkit::{Upstream, client, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{WAIT, live, named, sessions, slice_id, sliced, start, text};

fn percent(percent: u16) -> Weight {
    Weight::from_basis_points(percent * 100).unwrap()
}

async fn answers(front: &crate::harness::Front, clients: u32) -> BTreeMap<u32, String> {
    let mut all = BTreeMap::new();
    for n in 0..clients {
        let visitor = format!("v{n}");
        all.insert(
            n,
            front
                .get("/api/items", &[("x-visitor", &visitor)])
                .await
                .text(),
        );
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_slices_routes_cross_and_the_most_special_one_wins() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let front = start(sliced(&legacy, &extracted));
    front.weigh(1, Weight::FULL);
    for (path, side) in [
        ("/api/items", "extracted"),
        ("/api/items/7", "extracted"),
        ("/api/items/7?x=1", "extracted"),
        ("/api/items/7/parts", "legacy"),
        ("/api/items/", "legacy"),
        ("/api/itemsx", "legacy"),
        ("/", "legacy"),
    ] {
        assert_eq!(front.get(path, &[]).await.text(), side, "{path}");
    }
    let head = client::request(
        Method::DELETE,
        &front.url("/api/items/7"),
        &[],
        Bytes::new(),
    );
    assert_eq!(
        client::send(head).await.text(),
        "legacy",
        "another method is another route"
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_is_sticky_near_its_weight_and_never_takes_a_client_back_as_it_rises() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let front = start(sliced(&legacy, &extracted));
    let mut before: BTreeMap<u32, String> = BTreeMap::new();
    for (revision, weight) in [(1, 10), (2, 50), (3, 100)] {
        front.weigh(revision, percent(weight));
        let now = answers(&front, 400).await;
        assert_eq!(now, answers(&front, 400).await, "sticky");
        let across = now.values().filter(|side| *side == "extracted").count();
        let wanted = usize::from(weight) * 4;
        assert!(
            across.abs_diff(wanted) <= 40,
            "{across} of 400 at {weight} %"
        );
        let back = before
            .iter()
            .filter(|(n, side)| *side == "extracted" && now[n] == "legacy");
        assert_eq!(back.count(), 0);
        before = now;
    }
    front.weigh(4, Weight::ZERO);
    assert!(
        answers(&front, 50)
            .await
            .values()
            .all(|side| side == "legacy")
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_key_gets_a_cookie_that_keeps_it_on_its_side() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let front = start(sliced(&legacy, &extracted));
    assert!(
        front
            .get("/api/items", &[])
            .await
            .header("set-cookie")
            .is_none(),
        "no split yet"
    );
    front.weigh(1, percent(50));
    for _ in 0..20 {
        let first = front.get("/api/items", &[]).await;
        let cookie = first
            .header("set-cookie")
            .unwrap()
            .split(';')
            .next()
            .unwrap()
            .to_owned();
        let second = front.get("/api/items", &[("cookie", &cookie)]).await;
        assert_eq!(first.text(), second.text());
        assert!(second.header("set-cookie").is_none());
    }
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tester_chooses_a_side_with_the_secret_only() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let mut settings = sliced(&legacy, &extracted);
    settings.override_secret = Some(Secret::new("a secret of sixteen"));
    let front = start(settings);
    let with = |secret: &'static str, side: &'static str| {
        [("x-outgrow-secret", secret), ("x-outgrow-side", side)]
    };
    let good = "a secret of sixteen";
    assert_eq!(
        front
            .get("/api/items", &with(good, "extracted"))
            .await
            .text(),
        "extracted"
    );
    assert_eq!(
        front
            .get("/api/items", &with("a secret of sixteem", "extracted"))
            .await
            .text(),
        "legacy"
    );
    assert_eq!(
        front.get("/api/items", &with("", "extracted")).await.text(),
        "legacy"
    );
    assert_eq!(
        front
            .get("/api/items", &with(good, "elsewhere"))
            .await
            .text(),
        "legacy"
    );
    front.weigh(1, Weight::FULL);
    assert_eq!(
        front.get("/api/items", &with(good, "legacy")).await.text(),
        "legacy"
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_read_is_answered_by_the_other_side_where_that_is_wanted() {
    let (legacy, extracted) = (named("legacy").await, Upstream::always(500, "broken").await);
    for (fallback, wanted) in [(true, 200), (false, 500)] {
        let mut settings = sliced(&legacy, &extracted);
        settings.slices[0].fallback = fallback;
        let front = start(settings);
        front.weigh(1, Weight::FULL);
        assert_eq!(front.get("/api/items", &[]).await.status, wanted);
        let counts = front.handle.counts(&slice_id()).unwrap();
        assert_eq!(counts.extracted.errors, 1, "it counts all the same");
        front.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_says_when_the_legacy_side_steps_in() {
    let (legacy, broken) = (named("legacy").await, Upstream::always(500, "broken").await);
    let gone = Upstream::always(200, "gone").await;
    let nowhere = gone.addr();
    drop(gone);
    for (rule, of_broken, of_gone) in [
        (Fallback::Never, 500, 503),
        (Fallback::Unsent, 500, 200),
        (Fallback::Failed, 200, 200),
    ] {
        for slices in [true, false] {
            let mut settings = sliced(&legacy, &broken);
            settings.slices[0].fallback = slices;
            settings.slices[0].routes[0].filters = Some(Arc::new(Filters {
                fallback: Some(rule),
                ..Filters::default()
            }));
            let mut dead = settings.clone();
            dead.services[0].upstreams = vec![nowhere.to_string().parse().unwrap()];
            for (settings, status) in [(settings, of_broken), (dead, of_gone)] {
                let front = start(settings);
                front.weigh(1, Weight::FULL);
                assert_eq!(
                    front.get("/api/items", &[]).await.status,
                    status,
                    "{rule:?}"
                );
                // Another route goes as the slice does.
                let other = front.get("/api/items/1", &[]).await;
                assert_eq!(other.status == 200, slices, "{rule:?}");
                front.stop().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_takes_reads_back_in_memory_and_tells() {
    let (legacy, extracted) = (named("legacy").await, Upstream::always(500, "broken").await);
    let front = start(sliced(&legacy, &extracted));
    let mut acts = front.handle.take_acts().unwrap();
    front.weigh(7, percent(50));
    eventually("the guard to act", WAIT, || async {
        answers(&front, 40).await;
        (front.handle.live(&slice_id()).unwrap().weight == Weight::ZERO).then_some(())
    })
    .await;
    let Act::Lowered(told) = acts.recv().await.unwrap() else {
        panic!("no build");
    };
    assert_eq!((told.slice, told.at_revision.0), (slice_id(), 7));
    assert!(
        answers(&front, 20)
            .await
            .values()
            .all(|side| side == "legacy")
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_written_reads_from_the_writer_until_it_is_carried_over() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let front = start(sliced(&legacy, &extracted));
    front.weigh(1, Weight::FULL);
    let long_ago = std::time::UNIX_EPOCH;
    front
        .handle
        .set_applied_through(&slice_id(), Some(long_ago));
    let writer = [("x-visitor", "writer")];
    assert_eq!(front.get("/api/items", &writer).await.text(), "extracted");
    assert_eq!(front.post("/api/items", "{}").await.text(), "legacy");
    assert_eq!(
        front.get("/api/items", &writer).await.text(),
        "legacy",
        "its write is not there yet"
    );
    assert_eq!(
        front
            .get("/api/items", &[("x-visitor", "other")])
            .await
            .text(),
        "extracted"
    );
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
    front.handle.set_applied_through(&slice_id(), Some(later));
    assert_eq!(front.get("/api/items", &writer).await.text(), "extracted");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_learn_who_calls_from_a_signed_field() {
    let legacy = Upstream::start(|request| async move {
        let known = request
            .headers()
            .get("cookie")
            .is_some_and(|c| c == "sid=ann");
        let mut answer = text(if known {
            r#"{"user_id":7,"name":"Ann","role":"staff"}"#
        } else {
            "{}"
        });
        if !known {
            *answer.status_mut() = http::StatusCode::UNAUTHORIZED;
        }
        answer
    })
    .await;
    let extracted = named("extracted").await;
    let mut settings = sliced(&legacy, &extracted);
    settings.identity = Some(sessions("/api/me"));
    let front = start(settings);
    front.weigh(1, Weight::FULL);
    for cookie in ["sid=ann", "sid=ann", "sid=nobody", "x=1"] {
        let forged = [("cookie", cookie), ("x-outgrow-identity", "v1.forged.x")];
        assert_eq!(front.get("/api/items", &forged).await.text(), "extracted");
    }
    let seen = extracted.seen();
    let identity = |n: usize| seen[n].header("x-outgrow-identity");
    assert!(identity(0).unwrap().starts_with("v1.") && !identity(0).unwrap().contains("forged"));
    assert_eq!(
        (identity(0), identity(2), identity(3)),
        (identity(1), None, None)
    );
    assert_eq!(legacy.seen().len(), 2, "asked once a session");
    front.stop().await;
}

/// Nobody waits for ever for a monolith that begins to say who asks and falls silent.
#[tokio::test(flavor = "multi_thread")]
async fn whose_session_it_is_must_be_said_in_time() {
    let legacy = Upstream::raw(|mut stream| async move {
        let mut part = [0; 4_096];
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{";
        while let Ok(1..) = stream.read(&mut part).await {
            let _ = stream.write_all(head).await;
        }
    })
    .await;
    let extracted = named("extracted").await;
    let mut settings = sliced(&legacy, &extracted);
    settings.legacy.rules.timeout = Some(Duration::from_millis(300));
    settings.identity = Some(sessions("/api/me"));
    let front = start(settings);
    front.weigh(1, Weight::FULL);
    let answer = front.get("/api/items", &[("cookie", "sid=ann")]).await;
    let code = answer.header("x-outgrow-error");
    assert_eq!((answer.status.as_u16(), code), (503, Some("identity")));
    assert!(extracted.seen().is_empty());
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_says_what_would_happen() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let front = start(sliced(&legacy, &extracted));
    front.weigh(1, percent(30));
    let visitor = |name: &str| vec![("x-visitor".to_owned(), name.to_owned())];
    for n in 0..50 {
        let name = format!("v{n}");
        let said = front
            .handle
            .explain("GET", "/api/items", &visitor(&name))
            .unwrap();
        let got = front
            .get("/api/items", &[("x-visitor", &name)])
            .await
            .text();
        assert_eq!(said.side.to_string(), got, "{}", said.reason);
    }
    let write = front.handle.explain("POST", "/api/items", &[]).unwrap();
    assert_eq!((write.side, write.bucket), (Side::Legacy, None));
    assert!(
        front
            .handle
            .explain("GET", "/nowhere", &[])
            .unwrap()
            .slice
            .is_none()
    );
    assert!(
        front
            .handle
            .explain("NO METHOD", "/", &[])
            .unwrap_err()
            .contains("no method")
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_state_never_replaces_a_newer_one() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let front = start(sliced(&legacy, &extracted));
    front.weigh(5, Weight::ZERO);
    front.weigh(4, Weight::FULL);
    assert_eq!(front.get("/api/items", &[]).await.text(), "legacy");
    let to_extracted = Live {
        writer: Side::Extracted,
        ..live(6, Weight::FULL)
    };
    front.handle.apply(&slice_id(), to_extracted);
    assert_eq!(front.post("/api/items", "{}").await.text(), "extracted");
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_counted_on_its_own() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let front = start(sliced(&legacy, &extracted));
    front.weigh(1, Weight::FULL);
    for path in [
        "/api/items/1",
        "/api/items/2",
        "/api/items",
        "/a",
        "/b",
        "/c",
    ] {
        front.get(path, &[("x-visitor", "a")]).await;
    }
    front.post("/api/items", "new").await;
    let told: Vec<_> = front
        .handle
        .routes()
        .into_iter()
        .map(|of| (of.slice.is_some(), of.route, of.side, of.times.requests()))
        .collect();
    let of = |slice, route: &str, side, requests| (slice, route.to_owned(), side, requests);
    assert_eq!(
        told,
        [
            of(true, "GET /api/items", Side::Extracted, 1),
            of(true, "GET /api/items/{id}", Side::Extracted, 2),
            of(true, "POST /api/items", Side::Legacy, 1),
            of(false, "other", Side::Legacy, 3),
        ]
    );
    front.stop().await;
}
