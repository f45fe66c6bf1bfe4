//! Routes that the tripwire stops, one after the other, until the guilty one is among them.

use std::collections::BTreeSet;
use std::time::Duration;

use outgrow_control::{Controller, FlipRequest, Note};
use outgrow_rollout::SliceState;
use outgrow_testkit::{database, eventually};

use crate::fakes::{Home, actions};

const WAIT: Duration = Duration::from_secs(10);

fn ana() -> Note {
    Note::new(Some("ana"), Some("it was c"))
}

fn set(routes: &[&str]) -> BTreeSet<String> {
    routes.iter().map(|route| (*route).to_owned()).collect()
}

fn state(controller: &Controller) -> SliceState {
    controller.slice_status("catalog").unwrap().state
}

/// Until these are what state and shadow take for stopped.
async fn until(home: &Home, controller: &Controller, routes: &[&str]) {
    eventually("these routes to stop", WAIT, || async {
        let stopped = state(controller).unmirrored_routes;
        let told = home.world.see().unmirrored == stopped;
        (told && stopped.into_keys().collect::<BTreeSet<_>>() == set(routes)).then_some(())
    })
    .await;
}

/// Until the bridge's evidence was looked at from the first time to the last of one round.
async fn looked_at(home: &Home) {
    let looks = || home.world.see().looks;
    let before = looks();
    eventually("two rounds", WAIT, || async {
        (looks() >= before + 4).then_some(())
    })
    .await;
}

#[tokio::test]
async fn suspects_stop_until_the_guilty_one_is_among_them_and_go_on_one_by_one() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "catalog", "canary-5").await;
    home.world.see().asked = Some(set(&["GET /a", "GET /b"]));
    home.world.see().foreign_age_ms = Some(0);
    until(&home, &controller, &["GET /a", "GET /b"]).await;
    assert!(state(&controller).live().mirror, "other routes are");
    let journal = controller.journal(Some("catalog"), None, None).await;
    let last = journal.unwrap().pop().unwrap();
    assert!(last.reason.contains("`GET /a`, `GET /b`"), "{last:?}");
    assert!(
        last.evidence.get().contains("\"row\":\"a row\""),
        "{last:?}"
    );
    let forward = FlipRequest {
        to: "canary=5".to_owned(),
        force: true,
        reason: Some("all the same".to_owned()),
        ..FlipRequest::default()
    };
    let refused = controller.flip("catalog", forward).await.unwrap_err();
    assert!(refused.to_string().contains("shadow resume"), "{refused}");
    // It was another one.
    home.world.see().asked = Some(set(&["GET /c"]));
    home.world.see().foreign_more = 1;
    until(&home, &controller, &["GET /a", "GET /b", "GET /c"]).await;
    // What was stopped stays so over a restart, and the next shadow is told.
    home.world.see().foreign_age_ms = Some(3_600_000);
    controller.shutdown().await;
    home.world.see().unmirrored.clear();
    let controller = home.start().await;
    until(&home, &controller, &["GET /a", "GET /b", "GET /c"]).await;
    let wrong = controller.resume_routes("catalog", set(&["GET /x"]), ana());
    let wrong = wrong.await.unwrap_err().to_string();
    assert!(wrong.contains("`GET /a`, `GET /b`, `GET /c`"), "{wrong}");
    let innocent = set(&["GET /a", "GET /b"]);
    let after = controller.resume_routes("catalog", innocent, ana()).await;
    assert_eq!(after.unwrap(), state(&controller));
    until(&home, &controller, &["GET /c"]).await;
    // None that is mirrored is under way when the next row changes.
    home.world.see().asked = Some(set(&[]));
    home.world.see().foreign_age_ms = Some(0);
    let reason = eventually("the slice to stop", WAIT, || async {
        state(&controller).unmirrored
    })
    .await;
    assert!(reason.contains("no route that is mirrored"), "{reason}");
    controller.mirroring("catalog", true, ana()).await.unwrap();
    until(&home, &controller, &[]).await;
    let told = actions(&controller, "catalog").await;
    let trips = told.iter().filter(|action| *action == "tripwire");
    assert_eq!(trips.count(), 3, "{told:?}");
    controller.shutdown().await;
}

#[tokio::test]
async fn while_a_stopped_route_is_under_way_nobody_else_is_suspected() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "catalog", "canary-5").await;
    home.world.see().asked = Some(set(&["GET /a"]));
    home.world.see().foreign_age_ms = Some(0);
    until(&home, &controller, &["GET /a"]).await;
    {
        let mut seen = home.world.see();
        seen.asked = Some(set(&["GET /a", "GET /b"]));
        seen.foreign_more = 1;
    }
    // That one is seen to: it stops nothing, also when nothing of the stopped route is left.
    looked_at(&home).await;
    home.world.see().asked = Some(set(&["GET /b"]));
    looked_at(&home).await;
    until(&home, &controller, &["GET /a"]).await;
    home.world.see().foreign_more = 2;
    until(&home, &controller, &["GET /a", "GET /b"]).await;
    controller.shutdown().await;
}

#[tokio::test]
async fn suspects_stop_while_the_store_is_locked() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "catalog", "canary-5").await;
    let pool = database::open(&home.dir.path().join("store.db")).await;
    let lock = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    home.world.see().asked = Some(set(&["GET /a"]));
    home.world.see().foreign_age_ms = Some(0);
    eventually("the shadow to be told", WAIT, || async {
        let told = home.world.see().unmirrored.contains_key("GET /a");
        told.then_some(())
    })
    .await;
    assert!(state(&controller).unmirrored_routes.is_empty());
    drop(lock);
    until(&home, &controller, &["GET /a"]).await;
    controller.shutdown().await;
}

#[tokio::test]
async fn a_route_whose_writes_were_stopped_goes_on_alone() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "catalog", "canary-5").await;
    home.world.see().to_resume = vec!["PUT /a".to_owned(), "PUT /b".to_owned()];
    let wrong = controller.resume_routes("catalog", set(&["PUT /a", "PUT /c"]), ana());
    let wrong = wrong.await.unwrap_err().to_string();
    assert!(wrong.contains("`PUT /a`, `PUT /b`"), "{wrong}");
    let before = state(&controller);
    let after = controller.resume_routes("catalog", set(&["PUT /a"]), ana());
    assert_eq!(
        after.await.unwrap(),
        before,
        "the state knows nothing of it"
    );
    assert_eq!(home.world.see().to_resume, ["PUT /b"]);
    let told = actions(&controller, "catalog").await;
    assert_eq!(told.last().map(String::as_str), Some("mirroring"));
    // Suspected, too: both go on.
    home.world.see().asked = Some(set(&["PUT /b"]));
    home.world.see().foreign_age_ms = Some(0);
    until(&home, &controller, &["PUT /b"]).await;
    let both = controller.resume_routes("catalog", set(&["PUT /b"]), ana());
    assert!(both.await.unwrap().unmirrored_routes.is_empty());
    assert!(home.world.see().to_resume.is_empty());
    let none = controller.resume_routes("catalog", set(&["PUT /b"]), ana());
    let none = none.await.unwrap_err().to_string();
    assert!(none.contains("no route of the slice is"), "{none}");
    controller.shutdown().await;
}

#[test]
fn a_state_of_before_routes_were_stopped_is_read() {
    let state = SliceState::new(true);
    let text = serde_json::to_string(&state).unwrap();
    assert!(!text.contains("unmirrored"), "{text}");
    assert_eq!(serde_json::from_str::<SliceState>(&text).unwrap(), state);
}
