//! A disk that is really full under the access log: no request fails, what is lost is counted, and when
//! there is room again the log goes on. `scripts/test` runs this where the machine lets it mount a disk.

use std::time::Duration;

use outgrow_proxy::{AccessLog, LogFormat};
use outgrow_testkit::{Disk, eventually};
use serde_json::Value;

use crate::harness::{named, plain, start};

/// The log looks at its file each second.
const WAIT: Duration = Duration::from_secs(20);

/// Of the lines that are whole, those of a target.
fn told(text: &str, target: &str) -> usize {
    let lines = text.lines();
    let whole = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    whole.filter(|line| line["target"] == target).count()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a disk of its own: run by scripts/test"]
async fn a_full_disk_under_the_access_log_costs_lines_and_no_request() {
    let disk = Disk::of(1);
    let file = disk.path().join("access.log");
    let legacy = named("legacy").await;
    let mut settings = plain(&legacy);
    settings.access_log = Some(AccessLog {
        file: Some(file.clone()),
        format: LogFormat::Json,
        sample: 1.0,
        slow: None,
        query: true,
    });
    let front = start(settings);
    let read = || std::fs::read_to_string(&file).unwrap();
    let mut asked = 0;
    for round in 0..2 {
        disk.fill();
        let before = front.handle.lines_lost().unwrap().write;
        let full = format!("/full/{round}");
        while front.handle.lines_lost().unwrap().write < before + 50 {
            assert_eq!(front.get(&full, &[]).await.status, 200);
            asked += 1;
        }
        disk.clear();
        let again = format!("/again/{round}");
        let mut last = 0;
        while last == 0 {
            assert_eq!(front.get(&again, &[]).await.status, 200);
            asked += 1;
            last = told(&read(), &again);
        }
    }
    eventually("every request to be told or counted", WAIT, || async {
        let text = read();
        let whole = text
            .lines()
            .filter(|line| serde_json::from_str::<Value>(line).is_ok());
        let lost = front.handle.lines_lost().unwrap();
        assert_eq!(lost.queue, 0);
        (whole.count() as u64 + lost.write == asked).then_some(())
    })
    .await;
    front.stop().await;
}
