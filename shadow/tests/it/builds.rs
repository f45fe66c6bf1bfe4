//! Evidence belongs to the builds that gave it.

use outgrow_rollout::{BuildId, Side};
use outgrow_testkit::eventually;

use crate::harness::{Bench, Position, WAIT, shop};

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_expires_the_evidence() {
    let bench = Bench::new().await;
    for _ in 0..3 {
        bench.client();
    }
    assert_eq!(bench.settled().await.matched, 3);
    bench.extracted.deploy("c-2");
    bench.client();
    let seen = bench.settled().await;
    assert_eq!((seen.matched, seen.eligible), (1, 1));
    assert_eq!(seen.builds.extracted, BuildId("c-2".to_owned()));
    bench.legacy.deploy("m-2");
    bench.client();
    let seen = bench.settled().await;
    assert_eq!(
        (seen.matched, seen.builds.legacy),
        (1, BuildId("m-2".to_owned()))
    );
}

/// The client's answer came from a build that was replaced before the pair was judged.
#[tokio::test(flavor = "multi_thread")]
async fn a_straggler_of_an_old_build_is_no_evidence_and_does_not_bring_it_back() {
    let position = Position::stuck();
    let bench = Bench::with(position.clone(), &|_| {}).await;
    bench.client();
    bench.settled().await;
    // This one differs and waits for the bridge, on the builds m-1 and c-1.
    bench.extracted.set("{}");
    bench.client();
    eventually("the straggler to be asked", WAIT, || async {
        (bench.at_extracted.seen().len() == 2).then_some(())
    })
    .await;
    let old = bench.legacy.answer();
    bench.legacy.deploy("m-2");
    bench.extracted.deploy("c-2");
    bench.extracted.set(r#"{"id":1,"price":"9.95"}"#);
    bench.client();
    eventually("the new builds to be known", WAIT, || async {
        let seen = bench.shadow.evidence(&shop()).unwrap();
        let new = BuildId("m-2".to_owned());
        (seen.matched == 1 && seen.builds.legacy == new).then_some(())
    })
    .await;
    position.catch_up();
    // It is asked again, of the new builds, and counts for them.
    let seen = bench.settled().await;
    assert_eq!((seen.matched, seen.mismatched), (2, 0));
    assert_eq!(seen.builds.legacy, BuildId("m-2".to_owned()));
    // An answer that m-1 gave is a different matter, once the shadow knows m-2.
    bench.client_of(Side::Legacy, &old);
    let seen = bench.settled().await;
    assert_eq!(
        seen.builds.legacy,
        BuildId("m-1".to_owned()),
        "begun after: taken back"
    );
}
