//! Two controllers on one store.

use std::time::Duration;

use outgrow_control::{ControlError, Note, StoreError};
use outgrow_testkit::eventually;

use crate::fakes::Home;

#[tokio::test]
async fn a_second_controller_is_refused_and_told_who_holds_the_store() {
    let home = Home::new();
    let first = home.start().await;
    let refused = home.try_start().await.unwrap_err();
    assert!(
        matches!(&refused, ControlError::Store(StoreError::Held { .. })),
        "{refused}"
    );
    assert!(refused.to_string().contains("test #"), "{refused}");
    assert_eq!(refused.kind().code, "conflict");
    first.shutdown().await;
    // Given up at shutdown: nobody waits.
    home.start().await.shutdown().await;
}

#[tokio::test]
async fn the_lease_of_a_dead_controller_is_taken_over() {
    let home = Home::new();
    let store = home.store().await;
    // Taken and never renewed, as by a process that was killed.
    store
        .acquire(&outgrow_control::Lease::new("dead"))
        .await
        .unwrap();
    home.start().await.shutdown().await;
}

#[tokio::test]
async fn who_lost_the_lease_changes_nothing_but_takes_traffic_back() {
    let home = Home::new();
    let controller = home.start().await;
    home.walk(&controller, "quotes", "canary-100").await;
    home.sql("UPDATE leases SET holder = 'another', until = until + 60000")
        .await
        .unwrap();
    eventually("the loss", Duration::from_secs(5), || async {
        (!controller.status().leads).then_some(())
    })
    .await;
    let note = || Note::new(None, Some("x"));
    let refused = controller.freeze("quotes", note()).await.unwrap_err();
    assert_eq!(refused.kind().code, "conflict");
    let report = controller.rollback("quotes", None, note()).await.unwrap();
    assert!(!report.published);
    assert_eq!(
        controller
            .slice_status("quotes")
            .unwrap()
            .effective
            .weight
            .basis_points(),
        0
    );
    // Once the other is gone, it leads again and the store learns of the rollback.
    home.sql("DELETE FROM leases").await.unwrap();
    eventually("the store to know", Duration::from_secs(5), || async {
        let status = controller.slice_status("quotes").unwrap();
        status.published.then_some(())
    })
    .await;
    assert_eq!(
        crate::fakes::actions(&controller, "quotes")
            .await
            .last()
            .unwrap(),
        "rollback"
    );
    controller.shutdown().await;
}
