//! The store: compare-and-swap, the chain of the journal, what it refuses to open.

use outgrow_control::{Change, ControlError, Draft, Lease, Store, StoreError};
use outgrow_rollout::{Move, Revision, SliceState, Traffic, advance};
use serde_json::json;

use crate::fakes::{Home, catalog};

pub(crate) fn draft(action: &str) -> Draft {
    Draft {
        by: "ana".to_owned(),
        action: action.to_owned(),
        reason: "because \"ü\"\n".to_owned(),
        before: json!({"b": 1, "a": [1.5, null]}),
        after: json!({}),
        evidence: json!(null),
    }
}

pub(crate) async fn shift(
    store: &Store,
    lease: &Lease,
    before: &SliceState,
) -> Result<SliceState, StoreError> {
    let after = advance(before, &Move::Rollback { to_legacy: false }).unwrap();
    let entry = draft("rollback");
    let change = Change {
        slice: &catalog(),
        expected: before.revision,
        after: &after,
        entry: &entry,
        mark: None,
        cutover: None,
    };
    store.change(lease, &change).await.map(|()| after)
}

#[tokio::test]
async fn a_change_needs_the_revision_and_the_lease() {
    let home = Home::new();
    let store = home.store().await;
    let (ours, theirs) = (Lease::new("ours"), Lease::new("theirs"));
    let first = store.load(&catalog(), true).await.unwrap();
    let refused = shift(&store, &ours, &first).await.unwrap_err();
    assert!(matches!(refused, StoreError::Held { .. }), "{refused}");
    store.renew(&ours).await.unwrap();
    let second = shift(&store, &ours, &first).await.unwrap();
    assert_eq!(second.traffic, Traffic::Shadow);
    let refused = shift(&store, &ours, &first).await.unwrap_err();
    assert!(
        matches!(
            refused,
            StoreError::Moved {
                actual: Revision(1)
            }
        ),
        "{refused}"
    );
    let refused = shift(&store, &theirs, &second).await.unwrap_err();
    assert!(matches!(refused, StoreError::Held { .. }), "{refused}");
    // What was refused has left no trace.
    assert_eq!(store.journal(None, None, None).await.unwrap().len(), 1);
    assert_eq!(store.load(&catalog(), true).await.unwrap(), second);
}

#[tokio::test]
async fn of_two_writers_one_wins() {
    let home = Home::new();
    let (one, two) = (home.store().await, home.store().await);
    let lease = Lease::new("both");
    one.renew(&lease).await.unwrap();
    let before = one.load(&catalog(), true).await.unwrap();
    let (a, b) = tokio::join!(shift(&one, &lease, &before), shift(&two, &lease, &before));
    assert_eq!(u8::from(a.is_ok()) + u8::from(b.is_ok()), 1);
    assert_eq!(one.journal(None, None, None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_journal_is_append_only_and_a_tampered_entry_shows() {
    let home = Home::new();
    let store = home.store().await;
    for n in 0..600 {
        store
            .note(&catalog(), &draft(&format!("action-{n}")))
            .await
            .unwrap();
    }
    let verified = store.verify_journal().await.unwrap();
    assert_eq!((verified.entries, verified.ok), (600, true));
    for refused in [
        "UPDATE journal SET by = 'eve' WHERE seq = 1",
        "DELETE FROM journal WHERE seq = 600",
    ] {
        let error = home.sql(refused).await.unwrap_err().to_string();
        assert!(error.contains("append-only"), "{error}");
    }
    for (tamper, bad) in [
        ("UPDATE journal SET by = 'eve' WHERE seq = 555", 555),
        ("UPDATE journal SET evidence = '{}' WHERE seq = 300", 300),
        ("DELETE FROM journal WHERE seq = 200", 201),
    ] {
        home.sql("DROP TRIGGER IF EXISTS journal_is_append_only_u")
            .await
            .unwrap();
        home.sql("DROP TRIGGER IF EXISTS journal_is_append_only_d")
            .await
            .unwrap();
        home.sql(tamper).await.unwrap();
        let verified = store.verify_journal().await.unwrap();
        assert_eq!(
            (verified.ok, verified.first_bad),
            (false, Some(bad)),
            "{tamper}"
        );
    }
}

#[tokio::test]
async fn the_journal_is_read_in_pages() {
    let home = Home::new();
    let store = home.store().await;
    for n in 1..=5 {
        store
            .note(&catalog(), &draft(&format!("a{n}")))
            .await
            .unwrap();
    }
    let seqs = async |after, limit| -> Vec<i64> {
        let entries = store.journal(None, after, limit).await.unwrap();
        entries.iter().map(|entry| entry.seq).collect()
    };
    assert_eq!(seqs(None, Some(2)).await, [4, 5]);
    assert_eq!(seqs(Some(2), Some(2)).await, [3, 4]);
    assert_eq!(seqs(Some(5), None).await, Vec::<i64>::new());
    let first = &store.journal(None, Some(0), Some(1)).await.unwrap()[0];
    assert_eq!(first.before.get(), r#"{"a":[1.5,null],"b":1}"#);
    assert_eq!(first.reason, "because \"ü\"\n");
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_refused() {
    let home = Home::new();
    drop(home.store().await);
    home.sql("PRAGMA user_version = 99").await.unwrap();
    let refused = Store::open(&home.address()).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::Newer { found: 99, .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains("upgrade"), "{refused}");
}

#[tokio::test]
async fn what_is_no_store_is_refused() {
    let home = Home::new();
    let refused = Store::open("postgres://x").await.unwrap_err();
    assert!(matches!(refused, StoreError::Address(_)), "{refused}");
    let refused = Store::open("sqlite:/no/such/dir/store.db")
        .await
        .unwrap_err();
    assert!(matches!(refused, StoreError::Open { .. }), "{refused}");
    home.sql("CREATE TABLE shop (id INTEGER)").await.unwrap();
    let refused = Store::open(&home.address()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Foreign(_)), "{refused}");
    let noise = home.dir.path().join("noise.db");
    std::fs::write(&noise, vec![7u8; 8_192]).unwrap();
    let refused = Store::open(&format!("sqlite:{}", noise.display()))
        .await
        .unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt(_)), "{refused}");
}

#[tokio::test]
async fn a_state_that_cannot_be_read_stops_the_start() {
    let home = Home::new();
    home.start().await.shutdown().await;
    home.sql("UPDATE slices SET state = '{\"traffic\":\"sideways\"}' WHERE slice = 'catalog'")
        .await
        .unwrap();
    let refused = home.try_start().await.unwrap_err();
    let expected = matches!(&refused, ControlError::Store(StoreError::Unreadable { slice, .. }) if slice == "catalog");
    assert!(expected, "{refused}");
}
