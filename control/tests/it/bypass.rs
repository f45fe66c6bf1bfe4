//! Rows that are written past the proxy: judged once, told of once, known over stages and restarts.

use std::time::Duration;

use outgrow_control::Controller;
use outgrow_rollout::BypassEvidence;
use outgrow_rollout::bypass::{Changed, UnderWay};
use outgrow_testkit::eventually;

use crate::fakes::{Home, actions};

const WAIT: Duration = Duration::from_secs(10);

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_millis()).unwrap()
}

fn changed(at: i64, rows: u64) -> Changed {
    Changed {
        between: (at, at),
        rows,
        row: format!("legacy `products` key {rows} (U)"),
    }
}

fn found(controller: &Controller) -> Option<BypassEvidence> {
    controller.slice_status("catalog").unwrap().evidence.bypass
}

/// Until so many rows have been looked at.
async fn judged(controller: &Controller, rows: u64) -> BypassEvidence {
    eventually("these rows to be judged", WAIT, || async {
        found(controller).filter(|seen| seen.judged == rows)
    })
    .await
}

fn under_way(own: bool) -> Option<UnderWay> {
    Some(UnderWay {
        own,
        ..UnderWay::default()
    })
}

#[tokio::test]
async fn what_is_written_past_the_proxy_is_told_once_and_known_for_ever() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "catalog", "shadow").await;
    let then = now_ms() - 10_000;
    {
        let mut seen = home.world.see();
        seen.under_way = under_way(true);
        // One more, of a time that is not over yet: to be judged later.
        seen.changed = vec![changed(then, 3), changed(now_ms() + 3_600_000, 100)];
    }
    assert_eq!(judged(&controller, 3).await.rows, 0);
    {
        let mut seen = home.world.see();
        seen.under_way = under_way(false);
        seen.changed = vec![changed(then, 5), changed(then + 1_000, 7)];
    }
    let all = judged(&controller, 15).await;
    let last = all.last.clone().unwrap();
    assert_eq!((all.rows, last.at_ms), (12, then + 1_000));
    assert!(all.last_age_ms.unwrap() >= 9_000);
    home.world.see().changed = vec![changed(then, 1)];
    judged(&controller, 16).await;
    let told = |all: Vec<String>| all.iter().filter(|action| *action == "bypass").count();
    let journal = actions(&controller, "catalog").await;
    assert_eq!(told(journal), 1, "the second time is within the hour");
    home.walk(&controller, "catalog", "canary-5").await;
    assert_eq!(found(&controller).unwrap().rows, 13, "another stage");
    controller.shutdown().await;
    let controller = home.start().await;
    assert_eq!(found(&controller).unwrap().rows, 13, "another process");
    // Of a time that nobody knows of.
    {
        let mut seen = home.world.see();
        seen.under_way = None;
        seen.changed = vec![changed(then, 9)];
    }
    eventually("it to be looked at", WAIT, || async {
        home.world.see().changed.is_empty().then_some(())
    })
    .await;
    assert_eq!(found(&controller).unwrap().judged, 16);
    controller.shutdown().await;
}
