//! Flips, the guard, freezing, the link, and what survives a restart.

use std::time::Duration;

use outgrow_control::ports::Verification;
use outgrow_control::{ControlError, Controller, FlipRequest, Lowered, Note, Settle};
use outgrow_rollout::{DataPhase, Revision, Side, SideCounts, Traffic, Verdict};
use outgrow_testkit::eventually;
use serde_json::json;

use crate::fakes::{Home, Wrong, actions, catalog};

fn ana() -> Note {
    Note::new(Some("ana"), Some("CHG-3"))
}

fn to(stage: &str) -> FlipRequest {
    FlipRequest {
        to: stage.to_owned(),
        ..FlipRequest::default()
    }
}

fn verdict() -> Verdict {
    let side = |requests, errors| SideCounts {
        requests,
        errors,
        p99_us: None,
    };
    Verdict {
        reason: "errors come from the extracted side".to_owned(),
        e_value: 3_320.0,
        extracted: side(71, 4),
        legacy: side(6_980, 12),
    }
}

fn traffic(controller: &Controller, slice: &str) -> Traffic {
    controller.slice_status(slice).unwrap().state.traffic
}

#[tokio::test]
async fn the_guard_of_a_proxy_is_journaled_with_its_figures() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "catalog", "canary-100").await;
    let lowered = || Lowered {
        slice: catalog(),
        revision: Revision(4),
        verdict: verdict(),
    };
    controller.lowered(lowered()).await.unwrap();
    let status = controller.slice_status("catalog").unwrap();
    assert_eq!(
        (status.state.traffic, status.state.epoch),
        (Traffic::Shadow, 1)
    );
    assert_eq!(status.next.unwrap().id, "canary-5");
    // Told twice, it is one abort.
    controller.lowered(lowered()).await.unwrap();
    let entries = controller
        .journal(Some("catalog"), None, Some(1))
        .await
        .unwrap();
    assert_eq!(
        (entries[0].action.as_str(), entries[0].by.as_str()),
        ("abort", "guard@proxy")
    );
    let evidence: serde_json::Value = serde_json::from_str(entries[0].evidence.get()).unwrap();
    assert_eq!(evidence["verdict"]["e_value"], json!(3320.0));
    controller.shutdown().await;
}

#[tokio::test]
async fn flips_ask_the_gates_of_the_step_unless_forced_with_a_reason() {
    let home = Home::new();
    let controller = home.start().await;
    let report = controller.flip("quotes", to("shadow")).await.unwrap();
    assert_eq!(
        (report.from.as_str(), report.to.as_str()),
        ("legacy", "shadow")
    );
    home.world.see().matched = 10;
    let refused = controller.flip("quotes", to("canary=5")).await.unwrap_err();
    assert_eq!(refused.kind().code, "inconclusive");
    let mut forced = FlipRequest {
        force: true,
        ..to("canary=5")
    };
    let refused = controller.flip("quotes", forced.clone()).await.unwrap_err();
    assert_eq!(refused.kind().code, "usage");
    forced.reason = Some("incident 7".to_owned());
    let planned = FlipRequest {
        dry_run: true,
        ..forced.clone()
    };
    assert!(controller.flip("quotes", planned).await.unwrap().dry_run);
    assert_eq!(traffic(&controller, "quotes"), Traffic::Shadow);
    controller.flip("quotes", forced).await.unwrap();
    let entries = controller
        .journal(Some("quotes"), None, Some(1))
        .await
        .unwrap();
    assert!(entries[0].evidence.get().contains("\"forced\":true"));
    assert_eq!(entries[0].reason, "incident 7");
    // The way back asks no gate.
    controller.flip("quotes", to("legacy")).await.unwrap();
    assert_eq!(traffic(&controller, "quotes"), Traffic::Legacy);
    controller.shutdown().await;
}

#[tokio::test]
async fn a_moved_revision_an_illegal_move_and_an_unknown_name_are_refused() {
    let home = Home::new();
    let controller = home.start().await;
    let stale = FlipRequest {
        if_revision: Some(9),
        ..to("shadow")
    };
    for (slice, request, code) in [
        ("quotes", stale, "conflict"),
        ("quotes", to("extracted"), "illegal"),
        ("quotes", to("legacy"), "illegal"),
        ("quotes", to("canary=0"), "illegal"),
        ("quotes", to("canary=500"), "usage"),
        ("quotes", to("retired"), "usage"),
        ("quotes", to("sideways"), "usage"),
        ("qoutes", to("shadow"), "not-found"),
    ] {
        let refused = controller.flip(slice, request.clone()).await.unwrap_err();
        assert_eq!(refused.kind().code, code, "{request:?}: {refused}");
    }
    let refused = controller.flip("qoutes", to("shadow")).await.unwrap_err();
    assert!(
        refused.hint().contains("did you mean `quotes`?"),
        "{}",
        refused.hint()
    );
    assert!(
        refused.hint().contains("catalog, quotes"),
        "{}",
        refused.hint()
    );
    assert!(actions(&controller, "quotes").await.is_empty());
    controller.shutdown().await;
}

#[tokio::test]
async fn a_frozen_slice_moves_only_back() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "quotes", "canary-100").await;
    let refused = controller
        .freeze("quotes", Note::new(None, None))
        .await
        .unwrap_err();
    assert_eq!(refused.kind().code, "usage");
    controller.freeze("quotes", ana()).await.unwrap();
    let refused = controller
        .runbook_next("quotes", false, ana())
        .await
        .unwrap_err();
    assert_eq!(refused.kind().code, "illegal");
    assert!(refused.to_string().contains("CHG-3"), "{refused}");
    controller.rollback("quotes", None, ana()).await.unwrap();
    assert_eq!(traffic(&controller, "quotes"), Traffic::Shadow);
    controller.unfreeze("quotes", ana()).await.unwrap();
    controller
        .runbook_next("quotes", false, ana())
        .await
        .unwrap();
    controller.shutdown().await;
}

#[tokio::test]
async fn a_rollback_is_in_force_while_the_store_is_locked() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "quotes", "canary-100").await;
    let path = home.dir.path().join("store.db");
    let pool = outgrow_testkit::database::open(&path).await;
    let lock = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let report = controller.rollback("quotes", None, ana()).await.unwrap();
    assert!(!report.published);
    assert_eq!(home.world.see().live["quotes"].weight.basis_points(), 0);
    assert!(!controller.slice_status("quotes").unwrap().published);
    drop(lock);
    eventually("the store to know", Duration::from_secs(10), || async {
        controller
            .slice_status("quotes")
            .unwrap()
            .published
            .then_some(())
    })
    .await;
    assert_eq!(
        actions(&controller, "quotes").await.last().unwrap(),
        "rollback"
    );
    let state = controller.slice_status("quotes").unwrap().state;
    controller.shutdown().await;
    let again = home.start().await;
    assert_eq!(again.slice_status("quotes").unwrap().state, state);
    again.shutdown().await;
}

#[tokio::test]
async fn a_preflight_that_fails_starts_nothing() {
    let home = Home::new();
    let controller = home.start().await;
    home.world.go_wrong("preflight", Wrong::Fails);
    let refused = controller.sync_start("catalog", ana()).await.unwrap_err();
    assert!(matches!(refused, ControlError::Refused(_)), "{refused}");
    let state = controller.slice_status("catalog").unwrap().state;
    assert_eq!(state.data.unwrap().phase, DataPhase::Idle);
    let refused = controller.sync_start("quotes", ana()).await.unwrap_err();
    assert_eq!(refused.kind().code, "illegal");
    controller.shutdown().await;
}

#[tokio::test]
async fn a_bridge_that_does_not_start_is_asked_again() {
    let home = Home::new();
    let controller = home.start().await;
    home.world.go_wrong("ensure", Wrong::FailsTimes(2));
    let refused = controller.sync_start("catalog", ana()).await.unwrap_err();
    assert!(matches!(refused, ControlError::Port(_)), "{refused}");
    eventually("the link to follow", Duration::from_secs(10), || async {
        let data = controller
            .slice_status("catalog")
            .unwrap()
            .state
            .data
            .unwrap();
        (data.phase == DataPhase::Following).then_some(())
    })
    .await;
    controller.shutdown().await;
}

#[tokio::test]
async fn a_link_pauses_fails_and_resumes() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "catalog", "shadow").await;
    controller.sync_pause("catalog", ana()).await.unwrap();
    assert_eq!(home.world.called("pause"), 1);
    controller.sync_resume("catalog", ana()).await.unwrap();
    controller
        .link_failed("catalog", "disk full")
        .await
        .unwrap();
    // Told again, it is one failure.
    controller
        .link_failed("catalog", "disk full")
        .await
        .unwrap();
    let refused = controller
        .runbook_next("catalog", false, ana())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("disk full"), "{refused}");
    // What is kept for it is watched meanwhile, over a restart, too.
    controller.shutdown().await;
    let before = home.world.called("watch_over");
    let controller = home.start().await;
    assert!(home.world.called("watch_over catalog") > before);
    controller.sync_resume("catalog", ana()).await.unwrap();
    let expected = ["sync-pause", "sync-resume", "link-failed", "sync-resume"];
    assert!(
        actions(&controller, "catalog")
            .await
            .ends_with(&expected.map(str::to_owned))
    );
    controller.shutdown().await;
}

/// Another server is gone on with once it is proved, and the journal has the proof.
#[tokio::test]
async fn a_link_goes_on_with_another_server_that_is_proved() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "catalog", "shadow").await;
    let refused = controller.sync_another_server("catalog", ana()).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("are the ones that were followed"), "{text}");
    // It cannot go on by itself, but nobody has said so to control: after a restart.
    home.world.see().elsewhere = true;
    let ensured = home.world.called("ensure");
    controller
        .sync_another_server("catalog", ana())
        .await
        .unwrap();
    assert_eq!(home.world.called("ensure"), ensured + 1);
    controller
        .link_failed("catalog", "it is another")
        .await
        .unwrap();
    home.world.go_wrong("fail_over", Wrong::Fails);
    let refused = controller.sync_another_server("catalog", ana()).await;
    assert!(refused.unwrap_err().to_string().contains("does not work"));
    let failed = || async {
        let view = controller.slice_status("catalog").unwrap();
        let data = view.state.data.unwrap();
        data.failed
    };
    assert_eq!(failed().await.as_deref(), Some("it is another"));
    home.world.see().wrong.clear();
    controller
        .sync_another_server("catalog", ana())
        .await
        .unwrap();
    assert_eq!(failed().await, None);
    let moved = serde_json::json!([{ "now": "server_id 9" }]);
    controller
        .link_moved("catalog", moved.clone())
        .await
        .unwrap();
    let expected = [
        "sync-another-server",
        "link-failed",
        "sync-another-server",
        "link-another-server",
    ];
    let actions = actions(&controller, "catalog").await;
    assert!(
        actions.ends_with(&expected.map(str::to_owned)),
        "{actions:?}"
    );
    controller.shutdown().await;
}

#[tokio::test]
async fn a_paused_link_is_taken_up_as_paused() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "catalog", "shadow").await;
    controller.sync_pause("catalog", ana()).await.unwrap();
    controller.shutdown().await;
    let ensured = home.world.called("ensure");
    let controller = home.start().await;
    eventually(
        "the link to be taken up",
        Duration::from_secs(10),
        || async { (home.world.called("pause") == 2).then_some(()) },
    )
    .await;
    assert_eq!(home.world.called("ensure"), ensured);
    controller.sync_resume("catalog", ana()).await.unwrap();
    assert_eq!(home.world.called("ensure"), ensured + 1);
    controller.shutdown().await;
}

#[tokio::test]
async fn rows_that_differ_are_repaired_and_verified_again() {
    let home = Home::new();
    home.world.see().different = 3;
    let controller = home.start().await;
    home.walk(&controller, "catalog", "canary-5").await;
    let whole = Verification::default();
    let verified = controller.sync_verify("catalog", whole).await.unwrap();
    assert_eq!(verified.rows["products"].different, 3);
    for (share, resume) in [(0.0, false), (1.0, false), (f64::NAN, false), (0.5, true)] {
        let wanted = Verification {
            share: Some(share),
            resume,
            ..whole
        };
        let refused = controller.sync_verify("catalog", wanted).await.unwrap_err();
        assert_eq!(refused.kind().code, "usage", "{share} {resume}");
    }
    let refused = controller
        .runbook_next("catalog", false, ana())
        .await
        .unwrap_err();
    assert_eq!(refused.kind().code, "gate");
    controller
        .sync_repair("catalog", false, ana())
        .await
        .unwrap();
    assert_eq!(home.world.see().different, 3);
    controller
        .sync_repair("catalog", true, ana())
        .await
        .unwrap();
    controller
        .runbook_next("catalog", false, ana())
        .await
        .unwrap();
    assert!(
        actions(&controller, "catalog")
            .await
            .contains(&"repair".to_owned())
    );
    controller.shutdown().await;
}

#[tokio::test]
async fn parked_events_go_on_and_the_journal_says_who_wanted_it() {
    let home = Home::new();
    let controller = home.start().await;
    let done = controller.sync_resume_events("catalog", ana()).await;
    assert_eq!(done.unwrap()["resumed"], true);
    let journaled = actions(&controller, "catalog").await;
    assert!(journaled.contains(&"resume-events".to_owned()));
    controller.shutdown().await;
}

#[tokio::test]
async fn conflicts_are_settled_and_journaled() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "catalog", "shadow").await;
    let wanted = |conflict: Option<&str>, dry_run| Settle {
        conflict: conflict.map(str::to_owned),
        take: Side::Extracted,
        dry_run,
    };
    let settle = async |wanted| controller.sync_settle("catalog", wanted, ana()).await;
    settle(wanted(None, true)).await.unwrap();
    let journaled = async || {
        let all = actions(&controller, "catalog").await;
        all.iter().filter(|action| *action == "settle").count()
    };
    assert_eq!(journaled().await, 0, "a dry run changes nothing");
    let done = settle(wanted(Some("E3"), false)).await.unwrap();
    assert_eq!(done["settled"][0], "E3");
    assert_eq!(journaled().await, 1);
    let calls = home.world.calls();
    assert!(calls.contains(&"settle E3 extracted false".to_owned()));
    controller.shutdown().await;
}

#[tokio::test]
async fn a_start_puts_states_and_evidence_back_into_force() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "catalog", "canary-100").await;
    let state = controller.slice_status("catalog").unwrap().state;
    controller.shutdown().await;
    {
        let mut seen = home.world.see();
        seen.live.clear();
        seen.calls.clear();
        seen.restored = None;
    }
    let controller = home.start().await;
    assert_eq!(controller.slice_status("catalog").unwrap().state, state);
    assert_eq!(home.world.see().live["catalog"], state.live());
    assert_eq!(home.world.see().restored, Some(json!({"matched": 10_000})));
    assert!(
        home.world
            .calls()
            .contains(&"ensure following legacy".to_owned())
    );
    controller.shutdown().await;
}

#[tokio::test]
async fn a_link_closes_only_where_one_side_is_used() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "catalog", "canary-5").await;
    let refused = controller.sync_close("catalog", ana()).await.unwrap_err();
    assert_eq!(refused.kind().code, "illegal");
    assert_eq!(home.world.called("close"), 0);
    controller
        .rollback("catalog", Some("legacy"), ana())
        .await
        .unwrap();
    controller.sync_close("catalog", ana()).await.unwrap();
    assert_eq!(home.world.called("close"), 1);
    assert!(controller.slice_status("catalog").unwrap().next.is_none());
    controller.shutdown().await;
}

#[tokio::test]
async fn a_row_that_a_mirrored_read_changes_stops_the_mirroring() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "catalog", "canary-5").await;
    let mirrors = |controller: &Controller| {
        let status = controller.slice_status("catalog").unwrap();
        status.state.live().mirror
    };
    assert!(mirrors(&controller));
    // Younger than the mirroring, whenever it is looked at.
    home.world.see().foreign_age_ms = Some(0);
    let reason = eventually("the tripwire", Duration::from_secs(10), || async {
        let status = controller.slice_status("catalog").unwrap();
        status.state.unmirrored
    })
    .await;
    assert!(reason.starts_with("tripwire: "), "{reason}");
    assert!(!mirrors(&controller));
    let told = actions(&controller, "catalog").await;
    assert_eq!(told.last().map(String::as_str), Some("tripwire"));
    // It stays so, over a restart too, until somebody has looked.
    controller.shutdown().await;
    let controller = home.start().await;
    assert!(!mirrors(&controller));
    let forward = FlipRequest {
        force: true,
        reason: Some("all the same".to_owned()),
        ..to("canary=5")
    };
    let refused = controller.flip("catalog", forward).await.unwrap_err();
    assert!(refused.to_string().contains("shadow resume"), "{refused}");
    let nobody = Note::new(Some("ana"), None);
    let refused = controller.mirroring("catalog", false, nobody).await;
    assert!(refused.is_err(), "without a reason");
    // What was on record before is not new.
    home.world.see().foreign_age_ms = Some(3_600_000);
    controller.mirroring("catalog", true, ana()).await.unwrap();
    assert!(mirrors(&controller));
    controller.shutdown().await;
}

#[tokio::test]
async fn a_route_whose_candidate_ignores_a_dry_run_is_journaled_and_resumed_with_the_slice() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "catalog", "canary-5").await;
    let refused = controller.mirroring("catalog", true, ana()).await;
    assert!(refused.is_err(), "nothing is stopped");
    {
        let mut seen = home.world.see();
        let route = "PUT /api/products/{id}/price".to_owned();
        seen.to_resume.push(route.clone());
        seen.stopped.insert(route, "it may have written".to_owned());
    }
    eventually("the entry", Duration::from_secs(10), || async {
        let told = actions(&controller, "catalog").await;
        (told.last().map(String::as_str) == Some("dry-run")).then_some(())
    })
    .await;
    let journal = controller.journal(Some("catalog"), None, None).await;
    let last = journal.unwrap().pop().unwrap();
    assert_eq!(last.reason, "it may have written");
    let status = controller.slice_status("catalog").unwrap();
    assert!(
        status.state.live().mirror,
        "its reads are mirrored as before"
    );
    let before = status.state;
    let after = controller.mirroring("catalog", true, ana()).await.unwrap();
    assert_eq!(after, before);
    assert!(home.world.see().to_resume.is_empty());
    let told = actions(&controller, "catalog").await;
    assert_eq!(told.last().map(String::as_str), Some("mirroring"));
    controller.shutdown().await;
}
