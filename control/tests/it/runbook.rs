//! The whole runbook, gates that block, approvals.

use std::time::Duration;

use outgrow_control::{ControlError, Note};
use outgrow_rollout::{DataPhase, Side, Traffic};
use outgrow_testkit::eventually;

use crate::fakes::{Home, Wrong, actions};

fn ana() -> Note {
    Note::new(Some("ana"), Some("CHG-1"))
}

#[tokio::test]
async fn a_slice_with_tables_goes_from_legacy_to_retired() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "catalog", "cutover").await;
    assert_eq!(
        controller.slice_status("catalog").unwrap().effective.weight,
        crate::fakes::weight("100")
    );
    home.walk(&controller, "catalog", "retire").await;
    let status = controller.slice_status("catalog").unwrap();
    assert_eq!(status.state.writer, Side::Extracted);
    assert_eq!(status.state.data.unwrap().phase, DataPhase::Reversed);
    eventually("retirement", Duration::from_secs(10), || async {
        home.world.serve(10);
        controller.runbook_next("catalog", false, ana()).await.ok()
    })
    .await;
    let status = controller.slice_status("catalog").unwrap();
    assert_eq!(status.state.traffic, Traffic::Retired);
    assert_eq!(status.state.data.unwrap().phase, DataPhase::Closed);
    assert!(status.next.is_none());
    let refused = controller
        .runbook_next("catalog", false, ana())
        .await
        .unwrap_err();
    assert!(matches!(refused, ControlError::Usage(_)), "{refused}");
    let expected = [
        "sync-start",
        "link-copied",
        "step",
        "step",
        "step",
        "step",
        "switch",
        "cutover",
        "retire",
        "sync-close",
    ];
    assert_eq!(actions(&controller, "catalog").await, expected);
    assert!(controller.verify_journal().await.unwrap().ok);
    controller.shutdown().await;
}

#[tokio::test]
async fn a_slice_without_tables_takes_its_writes_along() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "quotes", "retire").await;
    let status = controller.slice_status("quotes").unwrap();
    assert_eq!(status.state.writer, Side::Extracted);
    assert_eq!(status.effective.writer, Side::Extracted);
    let back = controller.rollback("quotes", None, ana()).await.unwrap();
    assert!(back.cutover.is_none());
    assert_eq!(
        controller.slice_status("quotes").unwrap().effective.writer,
        Side::Legacy
    );
    home.walk(&controller, "quotes", "retire").await;
    home.world.serve(10);
    controller
        .runbook_next("quotes", false, ana())
        .await
        .unwrap();
    assert_eq!(
        controller.slice_status("quotes").unwrap().state.traffic,
        Traffic::Retired
    );
    controller.shutdown().await;
}

#[tokio::test]
async fn failing_gates_and_missing_evidence_are_told_apart() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "catalog", "canary-5").await;
    home.world.see().mismatched = 500;
    let refused = controller
        .runbook_next("catalog", false, ana())
        .await
        .unwrap_err();
    assert_eq!((refused.kind().code, refused.kind().status), ("gate", 412));
    let gates = refused.details()["gates"].clone();
    assert_eq!(gates[0]["name"], "mismatch rate");
    assert_eq!(
        (gates[0]["ok"].as_bool(), gates[0]["missing"].as_bool()),
        (Some(false), Some(false))
    );
    {
        let mut seen = home.world.see();
        (seen.mismatched, seen.matched) = (0, 50);
    }
    let refused = controller
        .runbook_next("catalog", false, ana())
        .await
        .unwrap_err();
    assert_eq!(
        (refused.kind().code, refused.kind().status),
        ("inconclusive", 424)
    );
    assert!(refused.hint().contains("more pairs"), "{}", refused.hint());
    // Nothing has moved.
    assert_eq!(
        controller.slice_status("catalog").unwrap().state.traffic,
        Traffic::Shadow
    );
    controller.shutdown().await;
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let home = Home::new();
    let controller = home.start().await;
    let before = controller.slice_status("catalog").unwrap().state;
    let told = controller
        .runbook_next("catalog", true, ana())
        .await
        .unwrap();
    assert_eq!((told.step.as_str(), told.done), ("sync", false));
    assert_eq!(controller.slice_status("catalog").unwrap().state, before);
    assert_eq!(home.world.called("ensure"), 0);
    controller.shutdown().await;
}

#[tokio::test]
async fn a_planned_approval_is_needed_and_used_up() {
    let mut home = Home::new();
    home.plan.approvals = vec!["canary-5".to_owned()];
    let controller = home.start().await;
    home.walk(&controller, "quotes", "canary-5").await;
    let refused = controller
        .runbook_next("quotes", false, ana())
        .await
        .unwrap_err();
    assert_eq!(refused.kind().code, "gate");
    let refused = controller
        .approve("quotes", "shadow", ana())
        .await
        .unwrap_err();
    assert_eq!(refused.kind().code, "usage");
    assert_eq!(
        controller
            .approve("quotes", "canary-5", ana())
            .await
            .unwrap(),
        ["canary-5"]
    );
    controller
        .runbook_next("quotes", false, ana())
        .await
        .unwrap();
    controller.rollback("quotes", None, ana()).await.unwrap();
    let refused = controller
        .runbook_next("quotes", false, ana())
        .await
        .unwrap_err();
    assert_eq!(refused.kind().code, "gate");
    controller.shutdown().await;
}

#[tokio::test]
async fn a_retirement_that_broke_off_is_finished() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "catalog", "retire").await;
    home.world.go_wrong("close", Wrong::Fails);
    eventually(
        "retired, but not closed",
        Duration::from_secs(10),
        || async {
            home.world.serve(10);
            let refused = controller
                .runbook_next("catalog", false, ana())
                .await
                .unwrap_err();
            matches!(refused, ControlError::Port(_)).then_some(())
        },
    )
    .await;
    let status = controller.slice_status("catalog").unwrap();
    assert_eq!(status.state.traffic, Traffic::Retired);
    assert_eq!(status.next.unwrap().id, "retire");
    home.world.mend();
    // The gates were met when it began; they are not asked again.
    home.world.see().lag_ms = None;
    controller
        .runbook_next("catalog", false, ana())
        .await
        .unwrap();
    let state = controller.slice_status("catalog").unwrap().state;
    assert_eq!(state.data.unwrap().phase, DataPhase::Closed);
    controller.shutdown().await;
}

#[tokio::test]
async fn a_foreign_writer_blocks_retirement() {
    let mut home = Home::new();
    home.plan.quiet = Duration::from_secs(3_600);
    let controller = home.start().await;
    home.walk(&controller, "catalog", "retire").await;
    home.world.serve(10);
    home.world.see().foreign_age_ms = Some(1_000);
    let refused = controller
        .runbook_next("catalog", false, ana())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("foreign writes"), "{refused}");
    assert_eq!(refused.kind().code, "gate");
    controller.shutdown().await;
}

#[tokio::test]
async fn requests_of_a_step_count_over_restarts_of_the_proxy_and_of_control() {
    let mut home = Home::new();
    home.plan.min_requests = 100;
    let controller = home.start().await;
    home.walk(&controller, "quotes", "canary-5").await;
    controller
        .runbook_next("quotes", false, ana())
        .await
        .unwrap();
    home.world.serve(40);
    let seen = |controller: &outgrow_control::Controller| {
        controller
            .slice_status("quotes")
            .unwrap()
            .evidence
            .extracted_in_stage
    };
    assert_eq!(seen(&controller), 40);
    controller.shutdown().await;
    // The whole process starts anew: the proxy counts from nothing again.
    home.world.see().counts = Default::default();
    let controller = home.start().await;
    assert_eq!(seen(&controller), 40);
    home.world.serve(60);
    assert_eq!(seen(&controller), 100);
    // The next step counts for itself.
    {
        let mut seen = home.world.see();
        seen.counts.extracted.p99_us = Some(1_000);
    }
    controller
        .runbook_next("quotes", false, ana())
        .await
        .unwrap();
    assert_eq!(seen(&controller), 0);
    controller.shutdown().await;
}
