//! Several builds of one service: which answers whom, and what is under way at each.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use outgrow_proxy::{AccessLog, Act, LogFormat, Proxy, ServiceSettings, Settings};
use outgrow_rollout::{BuildFigures, BuildName, BuildsState, Revision, Trial, Weight};
use outgrow_testkit::{Upstream, eventually};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::harness::{Front, WAIT, authority, named, sliced, start, text};

fn name(text: &str) -> BuildName {
    BuildName::new(text).unwrap()
}

fn state(revision: u64, active: &str, trial: Option<(&str, &str)>) -> BuildsState {
    BuildsState {
        revision: Revision(revision),
        trial: trial.map(|(build, percent)| Trial {
            build: name(build),
            weight: Weight::from_percent(percent).unwrap(),
        }),
        ..BuildsState::new(name(active))
    }
}

/// The slice `shop`, answered by these builds.
fn built(legacy: &Upstream, builds: &[(&str, &Upstream)]) -> Settings {
    let one = |(build, upstream): &(&str, &Upstream)| ServiceSettings {
        build: Some(name(build)),
        ..ServiceSettings::new("shop", vec![authority(upstream)])
    };
    Settings {
        services: builds.iter().map(one).collect(),
        ..sliced(legacy, legacy)
    }
}

fn extracted(settings: Settings) -> Front {
    let front = start(settings);
    front.weigh(1, Weight::FULL);
    front
}

async fn ask(front: &Front, visitor: &str) -> String {
    let answer = front.get("/api/items", &[("x-visitor", visitor)]).await;
    assert_eq!(answer.status, 200);
    answer.text()
}

fn figures(front: &Front, build: &str) -> BuildFigures {
    let all = front.handle.build_figures("shop");
    all.into_iter()
        .find(|of| of.build.as_str() == build)
        .unwrap()
}

/// Who of these visitors is answered by green.
async fn green(front: &Front) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for visitor in 0..200 {
        if ask(front, &visitor.to_string()).await == "green" {
            found.insert(visitor);
        }
    }
    found
}

#[tokio::test]
async fn a_trial_has_its_share_of_the_clients_and_keeps_them() {
    let (legacy, blue, green_) = (
        named("legacy").await,
        named("blue").await,
        named("green").await,
    );
    let front = extracted(built(&legacy, &[("blue", &blue), ("green", &green_)]));
    assert_eq!(green(&front).await.len(), 0);
    let apply = |revision, active, trial| {
        let state = state(revision, active, trial);
        front.handle.apply_builds("shop", &state);
    };
    apply(1, "blue", Some(("green", "20")));
    let few = green(&front).await;
    assert!((20..60).contains(&few.len()), "{few:?}");
    assert_eq!(green(&front).await, few);
    apply(2, "blue", Some(("green", "60")));
    let more = green(&front).await;
    assert!((90..150).contains(&more.len()), "{more:?}");
    assert!(
        few.is_subset(&more),
        "nobody goes back while the share grows"
    );
    let visitor = few.iter().next().unwrap().to_string();
    let fields = [("x-visitor".to_owned(), visitor)];
    let told = front.handle.explain("GET", "/api/items", &fields).unwrap();
    assert_eq!(told.build, Some(name("green")));
    apply(3, "green", None);
    assert_eq!(green(&front).await.len(), 200);
    assert_eq!(figures(&front, "green").failures, 0);
    let all = figures(&front, "green").requests + figures(&front, "blue").requests;
    assert_eq!(all, 1_000);
    let services = front.handle.services();
    let builds: Vec<_> = services.iter().map(|of| of.build.clone()).collect();
    assert_eq!(builds, [None, Some(name("blue")), Some(name("green"))]);
    assert!(legacy.seen().is_empty());
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_builds_are_switched() {
    let (legacy, blue, green) = (
        named("legacy").await,
        named("blue").await,
        named("green").await,
    );
    let front = extracted(built(&legacy, &[("blue", &blue), ("green", &green)]));
    let stop = Arc::new(AtomicBool::new(false));
    let url = front.url("/api/items");
    let clients: Vec<_> = (0..4)
        .map(|visitor| {
            let (stop, url) = (stop.clone(), url.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while !stop.load(SeqCst) {
                    let visitor = visitor.to_string();
                    let fields = [("x-visitor", visitor.as_str())];
                    let request = outgrow_testkit::client::request(
                        http::Method::GET,
                        &url,
                        &fields,
                        bytes::Bytes::new(),
                    );
                    let answer = outgrow_testkit::client::send(request).await;
                    assert_eq!(answer.status, 200);
                    assert_ne!(answer.text(), "legacy");
                    count += 1;
                }
                count
            })
        })
        .collect();
    for revision in 1..=20 {
        let (active, now) = match revision % 2 {
            0 => ("blue", &blue),
            _ => ("green", &green),
        };
        front
            .handle
            .apply_builds("shop", &state(revision, active, None));
        let before = now.seen().len();
        eventually("it answers", WAIT, || async {
            (now.seen().len() > before + 10).then_some(())
        })
        .await;
    }
    stop.store(true, SeqCst);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    assert!(legacy.seen().is_empty());
    front.stop().await;
}

/// An upstream that answers when it is let.
async fn slow(name: &'static str, may: &Arc<Semaphore>) -> Upstream {
    let may = may.clone();
    Upstream::start(move |_| {
        let may = may.clone();
        async move {
            may.acquire().await.unwrap().forget();
            text(name)
        }
    })
    .await
}

#[tokio::test]
async fn what_is_under_way_is_counted_over_the_end_of_a_proxy() {
    let may = Arc::new(Semaphore::new(0));
    let (legacy, blue, green) = (
        named("legacy").await,
        slow("blue", &may).await,
        named("green").await,
    );
    let settings = || built(&legacy, &[("blue", &blue), ("green", &green)]);
    let front = extracted(settings());
    let url = front.url("/api/items");
    let first = tokio::spawn(async move { outgrow_testkit::client::get(&url).await.text() });
    eventually("it is asked", WAIT, || async {
        (blue.seen().len() == 1).then_some(())
    })
    .await;
    assert_eq!(figures(&front, "blue").in_flight, 1);
    // Another config, with a request under way in the proxy of the first.
    let next = Proxy::succeed(&front.running, settings(), None).unwrap();
    let at = front.at;
    let next = Front {
        at,
        handle: next.handle(),
        running: next.start(),
    };
    let old = tokio::spawn(front.running.retire(WAIT, CancellationToken::new()));
    drop(front.handle);
    assert_eq!(figures(&next, "blue").in_flight, 1);
    let state = state(1, "green", None);
    next.handle.apply_builds("shop", &state);
    assert_eq!(ask(&next, "7").await, "green");
    assert_eq!(figures(&next, "blue").in_flight, 1);
    may.add_permits(1);
    assert_eq!(first.await.unwrap(), "blue");
    eventually("nothing is left", WAIT, || async {
        (figures(&next, "blue").in_flight == 0).then_some(())
    })
    .await;
    old.await.unwrap();
    next.stop().await;
}

/// An upstream whose answers may be kept.
async fn keeping(name: &'static str) -> Upstream {
    Upstream::start(move |_| async move {
        let mut answer = text(name);
        let hour = http::HeaderValue::from_static("max-age=3600");
        answer.headers_mut().insert("cache-control", hour);
        answer
    })
    .await
}

#[tokio::test]
async fn what_is_kept_is_kept_by_build() {
    let (legacy, blue, green) = (
        named("legacy").await,
        keeping("blue").await,
        keeping("green").await,
    );
    let mut settings = crate::caching::kept(&legacy, &legacy);
    settings.services = built(&legacy, &[("blue", &blue), ("green", &green)]).services;
    let front = extracted(settings);
    for (revision, active) in [(1, "blue"), (2, "green"), (3, "blue"), (4, "green")] {
        let state = state(revision, active, None);
        front.handle.apply_builds("shop", &state);
        for _ in 0..3 {
            assert_eq!(ask(&front, "7").await, active);
        }
    }
    assert_eq!((blue.seen().len(), green.seen().len()), (1, 1));
    front.stop().await;
}

#[tokio::test]
async fn each_build_has_its_own_health_and_a_line_tells_of_it() {
    let (legacy, blue) = (named("legacy").await, named("blue").await);
    let away = Upstream::always(200, "gone").await;
    let address = authority(&away);
    drop(away);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let mut settings = built(&legacy, &[("blue", &blue)]);
    settings.services.push(ServiceSettings {
        build: Some(name("green")),
        ..ServiceSettings::new("shop", vec![address])
    });
    settings.access_log = Some(AccessLog {
        format: LogFormat::Json,
        file: Some(file.clone()),
        sample: 1.0,
        slow: None,
        query: false,
    });
    let front = extracted(settings);
    assert_eq!(ask(&front, "7").await, "blue");
    front.handle.apply_builds("shop", &state(1, "green", None));
    for _ in 0..10 {
        let answer = front.get("/api/items", &[("x-visitor", "7")]).await;
        assert_eq!(answer.status, 503);
    }
    let found = figures(&front, "green");
    assert!(found.failures > 0, "{found:?}");
    let told = front.handle.describe().to_string();
    assert!(told.contains("\"active\":\"green\""), "{told}");
    front.handle.apply_builds("shop", &state(2, "blue", None));
    assert_eq!(ask(&front, "7").await, "blue");
    assert_eq!(
        (
            figures(&front, "blue").failures,
            figures(&front, "blue").well
        ),
        (0, 1)
    );
    front.stop().await;
    let lines = std::fs::read_to_string(&file).unwrap();
    assert_eq!(lines.matches("\"build\":\"blue\"").count(), 2, "{lines}");
    assert_eq!(lines.matches("\"build\":\"green\"").count(), 10, "{lines}");
}

/// An upstream that fails every so many times.
async fn ill(name: &'static str, every: usize) -> Upstream {
    let asked = Arc::new(AtomicUsize::new(0));
    Upstream::start(move |_| {
        let failed = asked.fetch_add(1, SeqCst) % every == every - 1;
        async move {
            let mut answer = text(name);
            if failed {
                *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            }
            answer
        }
    })
    .await
}

/// Asks as ever other clients until the guard has acted.
async fn until_acted(front: &Front, acts: &mut tokio::sync::mpsc::Receiver<Act>) -> Act {
    let mut act = None;
    for visitor in 0..2_000 {
        let visitor = visitor.to_string();
        front.get("/api/items", &[("x-visitor", &visitor)]).await;
        act = acts.try_recv().ok();
        if act.is_some() {
            break;
        }
    }
    act.unwrap()
}

#[tokio::test]
async fn a_bad_build_is_taken_back_and_the_slice_stays() {
    let (legacy, blue, green) = (
        named("legacy").await,
        named("blue").await,
        ill("green", 2).await,
    );
    let front = start(built(&legacy, &[("blue", &blue), ("green", &green)]));
    // Few are on the extracted side, so that side as a whole would be suspected sooner.
    front.weigh(1, Weight::from_percent("50").unwrap());
    let mut acts = front.handle.take_acts().unwrap();
    front.handle.apply_builds("shop", &state(0, "blue", None));
    let trial = state(1, "blue", Some(("green", "50")));
    front.handle.apply_builds("shop", &trial);
    let Act::TakenBack(told) = until_acted(&front, &mut acts).await else {
        panic!("not the reads");
    };
    assert_eq!((told.build, told.at_revision), (name("green"), Revision(1)));
    assert!(
        told.verdict.reason.contains("build green"),
        "{}",
        told.verdict.reason
    );
    assert!(
        told.verdict.reason.contains("blue 0 of"),
        "{}",
        told.verdict.reason
    );
    let asked = green.seen().len();
    for visitor in 0..100 {
        let visitor = visitor.to_string();
        let answer = front.get("/api/items", &[("x-visitor", &visitor)]).await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(green.seen().len(), asked, "nothing new comes there");
    front.stop().await;
}

#[tokio::test]
async fn after_a_switch_the_build_goes_back_first_and_then_the_reads() {
    let (legacy, green) = (named("legacy").await, ill("green", 1).await);
    for (every, both) in [(usize::MAX, false), (1, true)] {
        let blue = ill("blue", every).await;
        let mut settings = built(&legacy, &[("blue", &blue), ("green", &green)]);
        settings.slices[0].fallback = false;
        let front = extracted(settings);
        let mut acts = front.handle.take_acts().unwrap();
        front.handle.apply_builds("shop", &state(0, "blue", None));
        let mut switched = state(1, "green", None);
        switched.before = Some(name("blue"));
        front.handle.apply_builds("shop", &switched);
        let Act::TakenBack(told) = until_acted(&front, &mut acts).await else {
            panic!("not the reads");
        };
        assert_eq!(told.build, name("green"));
        if both {
            let act = until_acted(&front, &mut acts).await;
            assert!(matches!(act, Act::Lowered(_)), "{act:?}");
        } else {
            assert_eq!(ask(&front, "7").await, "blue");
        }
        front.stop().await;
    }
}

#[tokio::test]
async fn a_trial_does_not_hide_that_the_extracted_side_is_ill() {
    let (legacy, blue, green) = (
        named("legacy").await,
        ill("blue", 2).await,
        ill("green", 2).await,
    );
    let front = start(built(&legacy, &[("blue", &blue), ("green", &green)]));
    front.weigh(1, Weight::from_percent("50").unwrap());
    let mut acts = front.handle.take_acts().unwrap();
    let trial = state(1, "blue", Some(("green", "10")));
    front.handle.apply_builds("shop", &trial);
    let act = until_acted(&front, &mut acts).await;
    assert!(matches!(act, Act::Lowered(_)), "{act:?}");
    front.stop().await;
}
