//! Writes that wait for a cutover.

use std::sync::Arc;
use std::time::Duration;

use outgrow_rollout::{Live, Side, Weight};
use outgrow_testkit::{Upstream, eventually};
use tokio::sync::Notify;

use crate::harness::{WAIT, live, named, slice_id, sliced, start, text};

#[tokio::test(flavor = "multi_thread")]
async fn held_writes_go_to_the_new_writer_and_reads_go_on() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let front = Arc::new(start(sliced(&legacy, &extracted)));
    front.weigh(1, Weight::FULL);
    front.handle.hold(&slice_id(), WAIT).await.unwrap();
    let writes: Vec<_> = (0..5)
        .map(|_| {
            let front = front.clone();
            tokio::spawn(async move { front.post("/api/items", "{}").await })
        })
        .collect();
    eventually("the writes to wait", WAIT, || async {
        (front.handle.held(&slice_id()) == 5).then_some(())
    })
    .await;
    assert_eq!(front.get("/api/items", &[]).await.text(), "extracted");
    assert!(legacy.seen().is_empty());
    let switched = Live {
        writer: Side::Extracted,
        ..live(2, Weight::FULL)
    };
    front.handle.apply(&slice_id(), switched);
    front.handle.release(&slice_id());
    for write in writes {
        let answer = write.await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), answer.text().as_str()),
            (200, "extracted")
        );
    }
    assert!(legacy.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_waits_for_the_writes_that_are_under_way() {
    let go_on = Arc::new(Notify::new());
    let waits = go_on.clone();
    let legacy = Upstream::start(move |_| {
        let waits = waits.clone();
        async move {
            waits.notified().await;
            text("legacy")
        }
    })
    .await;
    let extracted = named("extracted").await;
    let front = Arc::new(start(sliced(&legacy, &extracted)));
    let writing = tokio::spawn({
        let front = front.clone();
        async move { front.post("/api/items", "{}").await }
    });
    eventually("the write to be under way", WAIT, || async {
        (legacy.seen().len() == 1).then_some(())
    })
    .await;
    let early = front
        .handle
        .hold(&slice_id(), Duration::from_millis(50))
        .await;
    assert!(
        early
            .unwrap_err()
            .to_string()
            .contains("1 writes were still in flight")
    );
    let holding = tokio::spawn({
        let handle = front.handle.clone();
        async move { handle.hold(&slice_id(), WAIT).await }
    });
    go_on.notify_one();
    holding.await.unwrap().unwrap();
    assert_eq!(writing.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_lasts_too_long_refuses_clearly_and_sends_nothing() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let mut settings = sliced(&legacy, &extracted);
    settings.limits.hold_timeout = Duration::from_millis(100);
    settings.limits.held_max = 1;
    let front = Arc::new(start(settings));
    front.handle.hold(&slice_id(), WAIT).await.unwrap();
    let waiting = tokio::spawn({
        let front = front.clone();
        async move { front.post("/api/items", "{}").await }
    });
    eventually("the first to wait", WAIT, || async {
        (front.handle.held(&slice_id()) >= 1).then_some(())
    })
    .await;
    let crowded = front.post("/api/items", "{}").await;
    let late = waiting.await.unwrap();
    for (answer, codes) in [(&late, &["held"][..]), (&crowded, &["crowded", "held"])] {
        assert_eq!(answer.status, 503);
        assert!(
            codes.contains(&answer.header("x-outgrow-error").unwrap()),
            "{answer:?}"
        );
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert!(legacy.seen().is_empty() && extracted.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_held_writes_have_a_bound_together() {
    let (legacy, extracted) = (named("legacy").await, named("extracted").await);
    let mut settings = sliced(&legacy, &extracted);
    settings.limits.hold_timeout = WAIT;
    settings.limits.held_bytes = 10;
    let front = Arc::new(start(settings));
    front.handle.hold(&slice_id(), WAIT).await.unwrap();
    let post = |body: &'static str| {
        let front = front.clone();
        tokio::spawn(async move { front.post("/api/items", body).await })
    };
    let waiting = post("123456");
    eventually("the first to wait", WAIT, || async {
        (front.handle.held(&slice_id()) >= 1).then_some(())
    })
    .await;
    let crowded = post("12345").await.unwrap();
    assert_eq!(crowded.status, 503);
    assert_eq!(crowded.header("x-outgrow-error"), Some("crowded"));
    let small = post("1234");
    eventually("the second to wait", WAIT, || async {
        (front.handle.held(&slice_id()) >= 2).then_some(())
    })
    .await;
    front.handle.release(&slice_id());
    for answer in [waiting, small] {
        assert_eq!(answer.await.unwrap().status, 200);
    }
}
