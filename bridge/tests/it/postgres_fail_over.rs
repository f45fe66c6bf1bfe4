//! A standby of PostgreSQL that is promoted in the place of the source. It has all rows, and without the slot
//! nobody can say what of its log was not read: the link refuses it, and a new copy goes on. With the slot,
//! which PostgreSQL 17 keeps on standbys where it is told to, the link goes on where nothing is missing.

use outgrow_bridge::{Capture, Link, LinkSpec};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{Postgres, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::mapping::says;
use crate::postgres::{Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, Pair, items};
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

/// Has a server keep a slot on its standbys, as `psql` does over a connection for replication.
async fn keep(server: &Postgres, slot: &str) {
    let mut stream = tokio::net::TcpStream::connect(server.address())
        .await
        .unwrap();
    let mut login = vec![0, 0, 0, 0, 0, 3, 0, 0];
    for word in [
        "user",
        "outgrow",
        "database",
        "postgres",
        "replication",
        "database",
        "",
    ] {
        login.extend_from_slice(word.as_bytes());
        login.push(0);
    }
    let length = u32::try_from(login.len()).unwrap();
    login[..4].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&login).await.unwrap();
    let text = format!("ALTER_REPLICATION_SLOT \"{slot}\" (FAILOVER true)\0");
    let length = u32::try_from(text.len() + 4).unwrap();
    let asked = [
        b"Q",
        &length.to_be_bytes()[..],
        text.as_bytes(),
        b"X\0\0\0\x04",
    ]
    .concat();
    stream.write_all(&asked).await.unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    let kept = format!(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}' AND failover"
    );
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(server.number(&kept).await, 1, "{said}");
}

/// With a slot that is kept on the standby, which has all rows, or lacks some that were applied.
async fn kept(extracted: Db, lacks: bool) {
    if Postgres::oldest() < 17 {
        return;
    }
    let mut legacy = Postgres::with(LEGACY_PG).await;
    let mut standby = legacy.standby().await;
    let mut pair = Pair::replicated(Db::Pg(Box::new(legacy)), extracted);
    pair.legacy.execute(&items(1, 40)).await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    link.shutdown().await;
    let Db::Pg(source) = &pair.legacy else {
        unreachable!("it is PostgreSQL");
    };
    let slot = "SELECT slot_name::text FROM pg_replication_slots WHERE slot_type = 'logical'";
    let slot: String = sqlx::query_scalar(slot)
        .fetch_one(source.pool())
        .await
        .unwrap();
    keep(source, &slot).await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    let synced =
        "SELECT count(*) FROM pg_replication_slots WHERE failover AND synced AND NOT temporary";
    eventually("the slot to be there", 6 * WAIT, || async {
        source.execute("SELECT pg_log_standby_snapshot()").await;
        (standby.number(synced).await == 1).then_some(())
    })
    .await;
    if lacks {
        // It follows nobody any more.
        standby.restart(&[]).await;
    }
    pair.legacy
        .execute("UPDATE item SET note = 'before' WHERE id < 9")
        .await;
    pair.equal().await;
    link.shutdown().await;
    let spec = at(&pair, &standby, Capture::Replication);
    let old = std::mem::replace(&mut pair.legacy, Db::Pg(Box::new(standby)));
    let (Db::Pg(old), Db::Pg(standby)) = (old, &pair.legacy) else {
        unreachable!("both are PostgreSQL");
    };
    if lacks {
        drop(old);
        standby.execute("SELECT pg_promote()").await;
    } else {
        promoted(*old, standby).await;
    }
    standby.execute(AFTER).await;
    let link = Link::open(spec).await.unwrap();
    let went = link.ensure(DataPhase::Following, Side::Legacy).await;
    if lacks {
        let text = went.unwrap_err().to_string();
        assert!(text.contains("was applied"), "{text}");
    } else {
        went.unwrap();
        pair.equal().await;
        assert_eq!(link.verify().await.unwrap().different, 0);
    }
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_slot_kept_the_link_goes_on_with_a_promoted_standby() {
    kept(Db::lite(EXTRACTED_SQLITE).await, false).await;
    kept(Db::pg(EXTRACTED_PG).await, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_slot_kept_a_standby_that_lacks_what_was_applied_is_refused() {
    kept(Db::lite(EXTRACTED_SQLITE).await, true).await;
    kept(Db::pg(EXTRACTED_PG).await, true).await;
}
