//! `kill -9` of each process at each stage of a migration, restart, go on by the same command:
//! at the end the slice is where it should be, and every write that was acknowledged to a
//! client is there once, on both sides.

use crate::kill_shop::{Shop, Victim};

#[tokio::test]
async fn a_migration_survives_kill_9_at_every_stage() {
    let mut shop = Shop::open().await;
    let writers = shop.writers();

    shop.take("sync").await;
    // The copy runs now; whatever it had done, it goes on from there.
    shop.kill(Victim::Outgrow).await;
    shop.kill(Victim::Service).await;
    shop.kill(Victim::Monolith).await;

    shop.take("shadow").await;
    shop.kill(Victim::Service).await;
    shop.kill(Victim::Outgrow).await;
    shop.kill(Victim::Monolith).await;

    // The guard may take the slice back while the service is down; then it climbs again.
    shop.take("canary-50").await;
    shop.kill(Victim::Service).await;
    shop.take("canary-50").await;
    shop.kill(Victim::Outgrow).await;
    shop.take("canary-100").await;
    shop.kill(Victim::Monolith).await;

    shop.take("extracted").await;
    for victim in [Victim::Outgrow, Victim::Service, Victim::Monolith] {
        shop.kill_inside_cutover(victim).await;
        // Whichever way that ended, the same command finishes it.
        shop.take("cutover").await;
        shop.kill_inside_rollback(victim).await;
        shop.bring_writes_back().await;
        shop.take("extracted").await;
    }

    shop.take("cutover").await;
    for victim in [Victim::Service, Victim::Outgrow, Victim::Monolith] {
        shop.kill(victim).await;
        // Each still takes a write afterwards.
        writers.wait_for_more().await;
    }

    let acknowledged = writers.stop().await;
    assert!(
        acknowledged.len() > 20,
        "the writers wrote: {}",
        acknowledged.len()
    );
    shop.check_both_sides(&acknowledged).await;
    shop.check_rows().await;
    assert_eq!(shop.writer().await, "extracted");
    shop.check_journal().await;
}
