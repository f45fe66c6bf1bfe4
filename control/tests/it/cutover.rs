//! The cutover, forward and back, and how it takes itself back.

use std::time::Duration;

use outgrow_control::{Controller, Note};
use outgrow_rollout::{DataPhase, Side, Traffic};
use outgrow_testkit::eventually;

use crate::fakes::{Home, Wrong, actions};

fn ana() -> Note {
    Note::new(Some("ana"), Some("CHG-2"))
}

async fn before_cutover(home: &Home) -> Controller {
    let controller = home.start().await;
    home.walk(&controller, "catalog", "cutover").await;
    // The rows are verified, so that the gates are met.
    eventually(
        "the gates of the cutover",
        Duration::from_secs(10),
        || async {
            home.world.serve(10);
            controller.runbook_next("catalog", true, ana()).await.ok()
        },
    )
    .await;
    home.world.see().calls.clear();
    controller
}

/// The calls of a cutover, without looks and verifications beside it.
fn road(home: &Home) -> Vec<String> {
    let steps = [
        "hold", "fence", "drain", "check", "turn", "apply", "release", "unfence", "ensure",
    ];
    home.world
        .calls()
        .into_iter()
        .filter(|call| steps.iter().any(|step| call.starts_with(step)))
        .collect()
}

#[tokio::test]
async fn writes_move_in_the_order_of_the_protocol_and_back() {
    let home = Home::new();
    let controller = before_cutover(&home).await;
    let done = controller
        .runbook_next("catalog", false, ana())
        .await
        .unwrap();
    assert_eq!(done.step, "cutover");
    assert_eq!(done.detail["outcome"], "switched");
    assert_eq!(done.detail["direction"], "legacy->extracted");
    assert_eq!(done.detail["held"], 7);
    assert_eq!(
        road(&home),
        [
            "hold",
            "fence legacy",
            "drain 42",
            "check",
            "fence extracted",
            "turn extracted",
            "ensure reversed extracted",
            "unfence extracted",
            "apply 100% extracted",
            "apply 100% extracted",
            "release",
        ]
    );
    home.world.see().calls.clear();
    let back = controller
        .sync_reverse("catalog", Side::Legacy, ana(), false)
        .await
        .unwrap();
    assert!(back.switched());
    assert_eq!(back.direction, "extracted->legacy");
    assert_eq!(
        road(&home),
        [
            "hold",
            "fence extracted",
            "drain 42",
            "check",
            "fence legacy",
            "turn legacy",
            "ensure following legacy",
            "unfence legacy",
            "apply 100% legacy",
            "apply 100% legacy",
            "release",
        ]
    );
    let state = controller.slice_status("catalog").unwrap().state;
    assert_eq!(
        (state.writer, state.traffic),
        (Side::Legacy, Traffic::Extracted)
    );
    assert!(home.world.see().holding.is_empty());
    controller.shutdown().await;
}

/// Each step before the switch fails once or hangs: nothing has changed, nothing stays fenced or
/// held, and the journal says why.
#[tokio::test]
async fn a_failure_before_the_switch_takes_everything_back() {
    for (step, wrong) in [
        ("hold", Wrong::Fails),
        ("hold", Wrong::Hangs),
        ("fence", Wrong::Fails),
        ("fence", Wrong::Hangs),
        ("drain", Wrong::Fails),
        ("drain", Wrong::Hangs),
        ("check", Wrong::Fails),
        ("check", Wrong::Hangs),
    ] {
        let mut home = Home::new();
        home.plan.cutover_timeout = Duration::from_millis(150);
        let controller = before_cutover(&home).await;
        let before = controller.slice_status("catalog").unwrap().state;
        home.world.go_wrong(step, wrong);
        let refused = controller
            .runbook_next("catalog", false, ana())
            .await
            .unwrap_err();
        let expected = if wrong == Wrong::Hangs {
            "timeout"
        } else {
            "internal"
        };
        assert_eq!(refused.kind().code, expected, "{step}: {refused}");
        assert!(refused.to_string().contains(step), "{step}: {refused}");
        let after = controller.slice_status("catalog").unwrap();
        assert_eq!(after.state, before, "{step}");
        assert!(after.cutover.is_none() && after.busy.is_none(), "{step}");
        {
            let seen = home.world.see();
            assert!(seen.fenced.is_empty(), "{step}: {:?}", seen.fenced);
            assert!(seen.holding.is_empty(), "{step}");
        }
        let last = actions(&controller, "catalog").await.pop().unwrap();
        assert_eq!(last, "cutover-aborted", "{step}");
        // And it works once the cause is mended.
        home.world.mend();
        controller
            .runbook_next("catalog", false, ana())
            .await
            .unwrap();
        controller.shutdown().await;
    }
}

#[tokio::test]
async fn rows_that_differ_inside_the_hold_abort_it() {
    let home = Home::new();
    let controller = before_cutover(&home).await;
    // After the gates, as a bypass would do it.
    home.world.see().different = 2;
    let report = controller
        .sync_reverse(
            "catalog",
            Side::Extracted,
            Note::new(None, Some("drill")),
            true,
        )
        .await
        .unwrap();
    assert!(!report.switched());
    assert!(
        report.why.as_ref().unwrap().contains("2 differ"),
        "{report:?}"
    );
    assert_eq!(
        controller.slice_status("catalog").unwrap().state.writer,
        Side::Legacy
    );
    controller.shutdown().await;
}

/// From the switch on a failing step is done again until it works.
#[tokio::test]
async fn a_failure_after_the_switch_goes_on_to_the_end() {
    for step in ["turn", "ensure", "unfence"] {
        let home = Home::new();
        let controller = before_cutover(&home).await;
        home.world.go_wrong(step, Wrong::FailsTimes(3));
        let done = controller
            .runbook_next("catalog", false, ana())
            .await
            .unwrap();
        assert_eq!(done.detail["outcome"], "switched", "{step}");
        let state = controller.slice_status("catalog").unwrap().state;
        assert_eq!(state.writer, Side::Extracted);
        assert_eq!(state.data.unwrap().phase, DataPhase::Reversed);
        assert!(home.world.see().holding.is_empty(), "{step}");
        controller.shutdown().await;
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_it() {
    let home = Home::new();
    let controller = before_cutover(&home).await;
    home.world.go_wrong("turn", Wrong::Fails);
    let asking = controller.runbook_next("catalog", false, ana());
    // The caller leaves while the switch is behind and the turn is not done.
    tokio::select! {
        _ = asking => panic!("it cannot end while the turn fails"),
        () = eventually("the turn", Duration::from_secs(10), || async {
            (home.world.called("turn") > 0).then_some(())
        }) => {}
    }
    let refused = controller
        .runbook_next("catalog", false, ana())
        .await
        .unwrap_err();
    assert!(refused.kind().status >= 409, "{refused}");
    home.world.mend();
    eventually("the end", Duration::from_secs(10), || async {
        let status = controller.slice_status("catalog").unwrap();
        (status.cutover.is_none() && status.effective.writer == Side::Extracted).then_some(())
    })
    .await;
    assert!(home.world.see().holding.is_empty());
    controller.shutdown().await;
}

#[tokio::test]
async fn one_operation_at_a_time_but_a_rollback_gets_through() {
    let mut home = Home::new();
    home.plan.cutover_timeout = Duration::from_secs(20);
    let controller = before_cutover(&home).await;
    home.world.go_wrong("drain", Wrong::Hangs);
    let own = controller.clone();
    let running = tokio::spawn(async move { own.runbook_next("catalog", false, ana()).await });
    eventually("the drain", Duration::from_secs(10), || async {
        (home.world.called("drain") > 0).then_some(())
    })
    .await;
    let busy = controller.sync_pause("catalog", ana()).await.unwrap_err();
    assert_eq!((busy.kind().code, busy.kind().status), ("conflict", 409));
    assert!(
        busy.to_string().contains("a cutover to extracted"),
        "{busy}"
    );
    let report = controller.rollback("catalog", None, ana()).await.unwrap();
    assert!(report.published && report.cutover.is_none(), "{report:?}");
    let aborted = running.await.unwrap().unwrap_err();
    assert!(aborted.to_string().contains("called off"), "{aborted}");
    let status = controller.slice_status("catalog").unwrap();
    assert_eq!(status.state.traffic, Traffic::Shadow);
    assert_eq!(status.state.writer, Side::Legacy);
    {
        let seen = home.world.see();
        assert!(seen.fenced.is_empty() && seen.holding.is_empty());
    }
    controller.shutdown().await;
}

#[tokio::test]
async fn a_rollback_after_the_cutover_takes_reads_then_writes_back() {
    let home = Home::new();
    let controller = before_cutover(&home).await;
    controller
        .runbook_next("catalog", false, ana())
        .await
        .unwrap();
    home.world.see().calls.clear();
    let report = controller
        .rollback("catalog", Some("legacy"), ana())
        .await
        .unwrap();
    assert!(report.cutover.unwrap().switched());
    // The reads are back before anything else happens.
    assert_eq!(road(&home)[0], "apply 0% extracted");
    let state = controller.slice_status("catalog").unwrap().state;
    assert_eq!(
        (state.traffic, state.writer),
        (Traffic::Legacy, Side::Legacy)
    );
    assert_eq!(state.epoch, 1);
    controller.shutdown().await;
}
