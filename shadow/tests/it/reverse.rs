//! After the flip the legacy side is the candidate: the way back stays proven.

use outgrow_rollout::Side;

use crate::harness::{Bench, Position, balanced, shop};

const WRONG: &str = r#"{"id":1,"price":"9.90"}"#;

/// Clients go on while the slice is flipped and rolled back, twice.
#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_goes_on_over_a_flip_and_a_rollback() {
    let bench = Bench::with(Position::default(), &|settings| {
        settings.slices[0].flow.waiting = 40;
    })
    .await;
    let mut offered = 0;
    let stages = [Side::Legacy, Side::Extracted, Side::Legacy, Side::Extracted];
    for (flips, stage) in stages.into_iter().enumerate() {
        if flips == 3 {
            // What waits from before may fill the queue; of these some are asked for sure.
            bench.settled().await;
        }
        let answer = match stage {
            Side::Legacy => bench.legacy.answer(),
            Side::Extracted => bench.extracted.answer(),
        };
        for _ in 0..100 {
            bench.client_of(stage, &answer);
            offered += 1;
            balanced(&bench.shadow.evidence(&shop()).unwrap());
        }
    }
    let seen = bench.settled().await;
    assert_eq!(seen.eligible, offered);
    assert_eq!((seen.mismatched, seen.candidate_errors), (0, 0));
    assert_eq!(seen.matched + seen.shed, offered);
    let asked = bench.at_legacy.seen().len() + bench.at_extracted.seen().len();
    assert!(asked as u64 >= seen.matched, "{asked}");
    assert!(!bench.at_legacy.seen().is_empty(), "asked as the candidate");
}

/// A monolith that was deployed with a fault after the flip is no place to go back to.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_the_legacy_side_is_found_while_it_is_the_candidate() {
    let bench = Bench::new().await;
    bench.client_of(Side::Extracted, &bench.extracted.answer());
    assert_eq!(bench.settled().await.matched, 1);
    bench.legacy.set(WRONG);
    bench.client_of(Side::Extracted, &bench.extracted.answer());
    let seen = bench.settled().await;
    assert_eq!((seen.matched, seen.mismatched), (1, 1));
    let top = &seen.top[0];
    assert_eq!(
        (top.path.as_str(), top.legacy.as_str()),
        ("$.price", "\"9.90\"")
    );
    assert_eq!(
        bench.at_extracted.seen().len(),
        0,
        "it answered its clients"
    );
}
