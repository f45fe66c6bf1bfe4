//! A disk that is really full under the state store: what does not fit is refused whole, and when there
//! is room again all goes on. `scripts/test` runs this where the machine lets it mount a disk.

use outgrow_control::{Lease, Store};
use outgrow_testkit::Disk;

use crate::fakes::catalog;
use crate::store::{draft, shift};

/// More than the store has connections: none of them may be of no use afterwards.
const TRIES: usize = 12;

#[tokio::test]
#[ignore = "needs a disk of its own: run by scripts/test"]
async fn a_full_disk_under_the_store_loses_nothing() {
    let test = "full_disk::a_full_disk_under_the_store_loses_nothing";
    let Some(disk) = Disk::beside_it(2, test) else {
        return;
    };
    let address = format!("sqlite:{}", disk.path().join("store.db").display());
    let store = Store::open(&address).await.unwrap();
    let lease = Lease::new("ours");
    store.renew(&lease).await.unwrap();
    let first = store.load(&catalog(), true).await.unwrap();
    let mut state = shift(&store, &lease, &first).await.unwrap();
    let mut noted = 1;
    for round in 0..3 {
        disk.fill();
        // What is left of the last pages is used up.
        while store.note(&catalog(), &draft("noted")).await.is_ok() {
            noted += 1;
        }
        for _ in 0..TRIES {
            let refused = shift(&store, &lease, &state).await.unwrap_err();
            let refused = format!("{refused:?}");
            assert!(refused.contains("disk is full"), "{refused}");
        }
        assert_eq!(store.load(&catalog(), true).await.unwrap(), state);
        disk.clear();
        for _ in 0..TRIES {
            store.note(&catalog(), &draft("room")).await.unwrap();
        }
        let calls = (0..TRIES).map(|_| store.renew(&lease));
        for renewed in futures_util::future::join_all(calls).await {
            renewed.unwrap();
        }
        state = shift(&store, &lease, &state).await.unwrap();
        noted += TRIES + 1;
        let verified = store.verify_journal().await.unwrap();
        assert_eq!(
            (verified.entries, verified.ok),
            (noted as u64, true),
            "{round}"
        );
    }
}
