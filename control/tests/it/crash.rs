//! Kills at every step of a cutover: the next start ends it, one way or the other.

use std::time::Duration;

use outgrow_control::{Controller, Note};
use outgrow_rollout::Side;
use outgrow_testkit::eventually;
use tokio::runtime::Runtime;

use crate::fakes::{Home, Wrong, actions};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// Starts a cutover to `to` that hangs in the call `step`, and kills the process there.
fn killed_at(step: &str, to: Side) -> Home {
    let mut home = Home::new();
    // The time limit must not take it back before the kill does.
    home.plan.cutover_timeout = Duration::from_secs(30);
    let process = runtime();
    process.block_on(async {
        let controller = home.start().await;
        let ready = if to == Side::Extracted {
            "cutover"
        } else {
            "retire"
        };
        home.walk(&controller, "catalog", ready).await;
        home.world.see().calls.clear();
        home.world.go_wrong(step, Wrong::Hangs);
        let own = controller.clone();
        tokio::spawn(async move {
            let note = Note::new(Some("ana"), Some("drill"));
            own.sync_reverse("catalog", to, note, true).await
        });
        eventually(step, Duration::from_secs(10), || async {
            (home.world.called(step) > 0).then_some(())
        })
        .await;
    });
    // No destructor of a task runs to an end: as dead as in a kill.
    process.shutdown_background();
    home.world.mend();
    home.world.see().calls.clear();
    home
}

async fn check(home: &Home, controller: &Controller, writer: Side, last: &str, step: &str) {
    let status = controller.slice_status("catalog").unwrap();
    assert_eq!(status.state.writer, writer, "{step}");
    assert_eq!(status.effective.writer, writer, "{step}");
    assert!(status.cutover.is_none(), "{step}");
    {
        let seen = home.world.see();
        assert!(
            !seen.fenced.contains(writer.as_str()),
            "{step}: {:?}",
            seen.fenced
        );
        assert!(seen.holding.is_empty(), "{step}");
        assert_eq!(seen.source, Some(writer), "{step}");
    }
    let actions = actions(controller, "catalog").await;
    assert_eq!(
        actions.last().map(String::as_str),
        Some(last),
        "{step}: {actions:?}"
    );
    assert!(controller.verify_journal().await.unwrap().ok);
}

#[test]
fn a_kill_before_the_switch_is_taken_back_and_one_after_it_is_finished() {
    for to in [Side::Extracted, Side::Legacy] {
        for (step, switched) in [
            ("hold", false),
            ("fence", false),
            ("drain", false),
            ("check", false),
            ("turn", true),
            ("unfence", true),
        ] {
            let home = killed_at(step, to);
            runtime().block_on(async {
                home.lapse_lease().await;
                let controller = home.start().await;
                let (writer, last) = if switched {
                    (to, "cutover")
                } else {
                    (to.other(), "cutover-aborted")
                };
                check(&home, &controller, writer, last, step).await;
                controller.shutdown().await;
            });
        }
    }
}

/// A store that remembers each step, whatever the process did: every one has an end.
#[test]
fn every_remembered_step_has_a_legal_end() {
    for (step, writer) in [
        ("preflight", Side::Legacy),
        ("hold", Side::Legacy),
        ("switch", Side::Legacy),
        ("unfence", Side::Legacy),
        ("let-go", Side::Legacy),
        ("switch", Side::Extracted),
        ("apply", Side::Extracted),
        ("release", Side::Extracted),
    ] {
        runtime().block_on(async {
            let home = Home::new();
            let controller = home.start().await;
            let ready = if writer == Side::Legacy {
                "cutover"
            } else {
                "retire"
            };
            home.walk(&controller, "catalog", ready).await;
            controller.shutdown().await;
            let sql = format!(
                "INSERT INTO cutover (slice, step, direction, started, detail)
                 VALUES ('catalog', '{step}', 'extracted', 0, '{{\"by\":\"ana\"}}')"
            );
            home.sql(Box::leak(sql.into_boxed_str())).await.unwrap();
            let controller = home.start().await;
            let last = if writer == Side::Extracted {
                "cutover"
            } else {
                "cutover-aborted"
            };
            check(&home, &controller, writer, last, step).await;
            controller.shutdown().await;
        });
    }
}
