//! What one version of PostgreSQL has and another has not.

use outgrow_bridge::Link;
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::postgres_replication::{following, refusal, server};
use crate::shop::WAIT;

/// Before 14 the log tells no messages: what the bridge says there are rows, one for each process of the
/// server and none for those that are gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_in_rows_stays_small() {
    let (pair, link) = following(30).await;
    let there = "SELECT count(*) FROM pg_class WHERE relname = 'items_said'";
    let by_rows = server(&pair.legacy).version().await < 14;
    assert_eq!(pair.legacy.number(there).await, i64::from(by_rows));
    for round in 0..20 {
        let change = format!("UPDATE item SET note = 'round {round}'");
        pair.legacy.execute(&change).await;
        pair.equal().await;
        assert_eq!(link.verify().await.unwrap().different, 0);
    }
    assert_eq!(link.evidence().unwrap().foreign_writes, 0);
    link.shutdown().await;
    if !by_rows {
        return;
    }
    let said = "SELECT count(*) FROM _outgrow.items_said";
    let many = pair.legacy.number(said).await;
    assert!((1..20).contains(&many), "{many} rows");
    let gone = "INSERT INTO _outgrow.items_said VALUES (-1, 'long ago')";
    pair.legacy.execute(gone).await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    let left = format!("{said} WHERE pid < 0");
    assert_eq!(pair.legacy.number(&left).await, 0);
    pair.legacy.execute("UPDATE item SET note = 'again'").await;
    pair.equal().await;
    link.close().await.unwrap();
    assert_eq!(pair.legacy.number(there).await, 0, "it is removed");
}

/// From 18 on a server may give up slots that nobody reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_nobody_reads_for_too_long_is_given_up_and_said_so() {
    let (pair, link) = following(10).await;
    let legacy = server(&pair.legacy);
    let found = link.preflight().await.unwrap();
    assert_eq!(found.advice, Vec::new());
    if legacy.version().await < 18 {
        return link.shutdown().await;
    }
    let set = "ALTER SYSTEM SET idle_replication_slot_timeout = '1s'";
    legacy.execute(set).await;
    legacy.execute("SELECT pg_reload_conf()").await;
    let said = "gives a replication slot up that nobody reads for 1 s";
    eventually("the setting to be seen", WAIT, || async {
        let advice = link.preflight().await.ok()?.advice;
        let advice = advice.iter().map(ToString::to_string);
        advice.into_iter().any(|a| a.contains(said)).then_some(())
    })
    .await;
    link.shutdown().await;
    let lost = "SELECT count(*) FROM pg_replication_slots WHERE wal_status = 'lost'";
    eventually("the slot to be given up", WAIT, || async {
        legacy.execute("CHECKPOINT").await;
        (legacy.number(lost).await == 1).then_some(())
    })
    .await;
    let text = refusal(&pair).await;
    let why = "longer than `idle_replication_slot_timeout` allows";
    assert!(text.contains(why), "{text}");
}
