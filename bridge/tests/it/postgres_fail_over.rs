//! A standby of PostgreSQL that is promoted in the place of the source. It has all rows, and without the slot
//! nobody can say what of its log was not read: the link refuses it, and a new copy goes on.

use outgrow_bridge::{Capture, Link, LinkSpec};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{Postgres, eventually};

use crate::mapping::says;
use crate::postgres::{Db, EXTRACTED_SQLITE, LEGACY_PG, Pair, items};
use crate::shop::{WAIT, copied};

/// Ends the source when the standby has all of its log, and has the standby take its place.
async fn promoted(source: Postgres, standby: &Postgres) {
    let end = "SELECT (pg_current_wal_lsn() - pg_lsn '0/0')::int8";
    let end = source.number(end).await;
    let there = "SELECT (pg_last_wal_replay_lsn() - pg_lsn '0/0')::int8";
    eventually("the standby to have all", WAIT, || async {
        (standby.number(there).await >= end).then_some(())
    })
    .await;
    drop(source);
    standby.execute("SELECT pg_promote()").await;
    let waits = "SELECT pg_is_in_recovery()::int::int8";
    assert_eq!(standby.number(waits).await, 0);
}

fn at(pair: &Pair, server: &Postgres, capture: Capture) -> LinkSpec {
    let mut spec = pair.spec();
    spec.legacy = server.url().parse().unwrap();
    spec.legacy = spec.legacy.capturing(capture).unwrap();
    spec
}

/// A link that has copied and followed, and the standby of its source.
async fn followed(capture: Capture) -> (Pair, Postgres) {
    let mut legacy = Postgres::with(LEGACY_PG).await;
    let standby = legacy.standby().await;
    let (legacy, extracted) = (Db::Pg(Box::new(legacy)), Db::lite(EXTRACTED_SQLITE).await);
    let pair = match capture {
        Capture::Replication => Pair::replicated(legacy, extracted),
        Capture::Triggers => Pair::of(legacy, extracted),
    };
    pair.legacy.execute(&items(1, 40)).await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    let change = "UPDATE item SET note = 'before' WHERE id < 9";
    pair.legacy.execute(change).await;
    pair.equal().await;
    link.shutdown().await;
    (pair, standby)
}

const AFTER: &str = "UPDATE item SET note = 'after' WHERE id < 5";
const THERE: &str = "SELECT count(*) FROM article WHERE note = 'after'";

/// What is noted of changes is in tables, which the standby has.
#[tokio::test(flavor = "multi_thread")]
async fn by_triggers_the_link_goes_on_with_a_promoted_standby() {
    let (mut pair, standby) = followed(Capture::Triggers).await;
    let spec = at(&pair, &standby, Capture::Triggers);
    let old = std::mem::replace(&mut pair.legacy, Db::Pg(Box::new(standby)));
    let (Db::Pg(old), Db::Pg(standby)) = (old, &pair.legacy) else {
        unreachable!("both are PostgreSQL");
    };
    promoted(*old, standby).await;
    standby.execute(AFTER).await;
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    says(&pair.extracted, THERE, 4).await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_the_log_a_promoted_standby_is_refused_and_a_new_copy_goes_on() {
    let (mut pair, standby) = followed(Capture::Replication).await;
    let spec = at(&pair, &standby, Capture::Replication);
    let old = std::mem::replace(&mut pair.legacy, Db::Pg(Box::new(standby)));
    let (Db::Pg(old), Db::Pg(standby)) = (old, &pair.legacy) else {
        unreachable!("both are PostgreSQL");
    };
    promoted(*old, standby).await;
    standby.execute(AFTER).await;
    let link = Link::open(spec.clone()).await.unwrap();
    let refused = link.ensure(DataPhase::Following, Side::Legacy).await;
    let text = refused.unwrap_err().to_string();
    for part in [
        "its replication slot `outgrow_",
        "` is gone",
        "start the copy again",
    ] {
        assert!(text.contains(part), "{text}");
    }
    // As it says.
    link.close().await.unwrap();
    link.shutdown().await;
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    says(&pair.extracted, THERE, 4).await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}
