//! The real shop under load: monolith and catalog, rows copied both ways, shoppers who look and staff who
//! change prices, with a flip each second, and the writer that goes over and back again. No request fails,
//! and no write is lost or there twice. Short in every run; `long_` takes minutes.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::kill_shop::Shop;

/// A second apart.
const FLIPS: usize = 6;
const WEIGHTS: [&str; 4] = ["canary=80", "canary=20", "canary=100", "canary=1"];

async fn soak(laps: usize) {
    let shop = Shop::open().await;
    let writers = shop.writers();
    shop.take("shadow").await;
    let mut ticks = interval(Duration::from_secs(1));
    // On a slow machine there are fewer flips a second, not several at a time.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for lap in 0..laps {
        for n in 0..FLIPS {
            ticks.tick().await;
            shop.flip(WEIGHTS[n % WEIGHTS.len()]).await;
        }
        shop.take("cutover").await;
        assert_eq!(shop.writer().await, "extracted");
        writers.wait_for_more().await;
        shop.bring_writes_back().await;
        writers.wait_for_more().await;
        // Amid the writes: a row that moves is looked at until it is settled.
        shop.check_rows().await;
        let (_, failures) = writers.seen();
        assert!(failures.is_empty(), "in lap {lap}: {failures:#?}");
    }
    let (looked, failures) = writers.seen();
    let acknowledged = writers.stop().await;
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(
        looked > 100 && acknowledged.len() > 20,
        "{looked} reads and {} writes",
        acknowledged.len()
    );
    shop.check_both_sides(&acknowledged).await;
    shop.check_rows().await;
    shop.check_journal().await;
}

#[tokio::test]
async fn no_request_fails_and_no_write_is_lost_while_the_writer_changes() {
    soak(1).await;
}

#[tokio::test]
#[ignore = "takes minutes: run by scripts/test --long"]
async fn long_soak_of_the_shop() {
    soak(25).await;
}
