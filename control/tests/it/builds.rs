//! Builds of a service: moved, kept, taken back, refused.

use std::time::Duration;

use outgrow_control::{ControlError, Controller, Note, TakenFrom};
use outgrow_rollout::{
    AnswerFigures, BuildFigures, BuildMove, BuildName, IllegalBuild, Revision, SideCounts, SliceId,
    Verdict, Weight,
};
use outgrow_testkit::eventually;

use crate::fakes::{Home, weight};

fn name(text: &str) -> BuildName {
    BuildName::new(text).unwrap()
}

fn figures(build: &str, well: u64) -> BuildFigures {
    BuildFigures {
        build: name(build),
        upstreams: 2,
        well,
        in_flight: 0,
        requests: 40,
        failures: 3,
        lately: AnswerFigures::default(),
        lately_ms: 0,
    }
}

pub(crate) fn with(builds: &[(&str, u64)]) -> Home {
    let home = Home::new();
    let all = builds.iter().map(|(build, well)| figures(build, *well));
    home.world.see().builds = all.collect();
    home
}

fn ana() -> Note {
    Note::new(Some("ana"), Some("release 7"))
}

async fn go(controller: &Controller, wanted: BuildMove) -> Result<String, ControlError> {
    let told = controller.move_builds("catalog", wanted, false, ana());
    Ok(shares(&told.await?.builds))
}

fn shares(builds: &[outgrow_control::BuildStatus]) -> String {
    let text = |of: &outgrow_control::BuildStatus| format!("{} {}", of.figures.build, of.weight);
    builds.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn in_force(home: &Home) -> (String, Weight) {
    let seen = home.world.see();
    let last = seen.builds_in_force.last().unwrap();
    let trial = last.trial.as_ref();
    (
        last.active.to_string(),
        trial.map_or(Weight::ZERO, |t| t.weight),
    )
}

#[tokio::test]
async fn a_move_is_in_force_journaled_and_kept() {
    let home = with(&[("blue", 2), ("green", 2)]);
    let controller = home.start().await;
    assert_eq!(in_force(&home), ("blue".to_owned(), Weight::ZERO));
    let weigh = BuildMove::Weight(name("green"), weight("10"));
    assert_eq!(go(&controller, weigh).await.unwrap(), "blue 90%, green 10%");
    assert_eq!(in_force(&home), ("blue".to_owned(), weight("10")));
    let switch = BuildMove::Switch(name("green"));
    assert_eq!(
        go(&controller, switch).await.unwrap(),
        "blue 0%, green 100%"
    );
    let drain = BuildMove::Drain(name("blue"));
    assert_eq!(go(&controller, drain).await.unwrap(), "blue 0%, green 100%");
    controller.shutdown().await;
    let controller = home.start().await;
    assert_eq!(in_force(&home), ("green".to_owned(), Weight::ZERO));
    let back = go(&controller, BuildMove::Back).await.unwrap();
    assert_eq!(back, "blue 100%, green 0%");
    let entries = controller
        .journal(Some("catalog"), Some(0), None)
        .await
        .unwrap();
    let told: Vec<&str> = entries.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(
        told,
        ["build-weight", "build-switch", "build-drain", "build-back"]
    );
    assert!(entries.iter().all(|entry| entry.by == "ana"));
    assert!(entries[1].before.get().contains("\"weight\":1000"));
    assert!(controller.verify_journal().await.unwrap().ok);
    controller.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_what_helps() {
    let home = with(&[("blue", 2), ("green", 0)]);
    let controller = home.start().await;
    let switch = || BuildMove::Switch(name("green"));
    let refused = go(&controller, switch()).await.unwrap_err();
    assert_eq!(refused.kind().status, 422);
    assert!(refused.to_string().contains("pass --force"), "{refused}");
    let unknown = go(&controller, BuildMove::Switch(name("red"))).await;
    assert!(unknown.unwrap_err().hint().contains("blue, green"));
    let other = controller.builds_status("quotes").unwrap_err();
    assert!(other.hint().contains("catalog"), "{}", other.hint());
    let nothing = go(&controller, BuildMove::Back).await.unwrap_err();
    assert!(matches!(
        nothing,
        ControlError::Build(IllegalBuild::NothingBefore)
    ));
    let forced = controller.move_builds("catalog", switch(), true, ana());
    assert_eq!(shares(&forced.await.unwrap().builds), "blue 0%, green 100%");
    controller.shutdown().await;
    // A config without the build that all requests go to is no config for this store.
    home.world.see().builds = vec![figures("blue", 2)];
    let refused = home.try_start().await.unwrap_err().to_string();
    assert!(
        refused.contains("requests go to build `green`"),
        "{refused}"
    );
    home.world.see().builds = vec![figures("green", 2)];
    let controller = home.start().await;
    let gone = go(&controller, BuildMove::Back).await.unwrap_err();
    assert!(
        gone.to_string().contains("`blue` was active before"),
        "{gone}"
    );
    controller.shutdown().await;
}

#[tokio::test]
async fn what_takes_requests_back_does_not_wait_for_the_store() {
    let home = with(&[("blue", 2), ("green", 2)]);
    let controller = home.start().await;
    go(&controller, BuildMove::Switch(name("green")))
        .await
        .unwrap();
    let path = home.dir.path().join("store.db");
    let pool = outgrow_testkit::database::open(&path).await;
    let mut lock = pool.acquire().await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let told = controller.move_builds("catalog", BuildMove::Back, false, ana());
    let told = told.await.unwrap();
    assert_eq!(
        (shares(&told.builds).as_str(), told.published),
        ("blue 100%, green 0%", false)
    );
    assert_eq!(in_force(&home).0, "blue");
    sqlx::query("COMMIT").execute(&mut *lock).await.unwrap();
    drop((lock, pool));
    eventually("the store knows", Duration::from_secs(20), || async {
        controller.builds()[0].published.then_some(())
    })
    .await;
    controller.shutdown().await;
    let controller = home.start().await;
    assert_eq!(in_force(&home).0, "blue");
    controller.shutdown().await;
}

fn taken(revision: u64) -> TakenFrom {
    TakenFrom {
        service: "catalog".to_owned(),
        slice: Some(SliceId::new("catalog").unwrap()),
        revision: Revision(revision),
        verdict: Verdict {
            reason: "errors come from build green".to_owned(),
            e_value: 1_200.0,
            extracted: SideCounts::default(),
            legacy: SideCounts::default(),
        },
    }
}

#[tokio::test]
async fn what_the_guard_takes_back_is_stored_told_and_kept_until_the_next_move() {
    let home = with(&[("blue", 2), ("green", 2)]);
    let controller = home.start().await;
    let weigh = || BuildMove::Weight(name("green"), weight("10"));
    go(&controller, weigh()).await.unwrap();
    // Of a state that somebody has changed since.
    controller.taken_back(taken(0)).await.unwrap();
    assert_eq!(in_force(&home), ("blue".to_owned(), weight("10")));
    controller.taken_back(taken(1)).await.unwrap();
    assert_eq!(in_force(&home), ("blue".to_owned(), Weight::ZERO));
    controller.shutdown().await;
    let controller = home.start().await;
    let told = controller.builds_status("catalog").unwrap();
    let back = told.taken_back.unwrap();
    assert_eq!(back.build, name("green"));
    let entries = controller.journal(Some("catalog"), Some(0), None).await;
    let entries = entries.unwrap();
    let last = entries.last().unwrap();
    assert_eq!(
        (last.action.as_str(), last.by.as_str()),
        ("build-abort", "guard@proxy")
    );
    assert_eq!(last.reason, back.reason);
    assert!(last.evidence.get().contains("1200"), "{:?}", last.evidence);
    go(&controller, weigh()).await.unwrap();
    assert_eq!(controller.builds()[0].taken_back, None);
    assert!(controller.verify_journal().await.unwrap().ok);
    controller.shutdown().await;
}
