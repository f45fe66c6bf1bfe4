//! A replica that has taken the place of the server that was followed: gone on with where its GTIDs
//! prove that it has all that was applied, refused with what it lacks where they do not.

use outgrow_bridge::{Capture, DatabaseUrl, Link, LinkSpec};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{Mariadb, Relay, eventually, is_mysql};

use crate::mysql::{LEGACY_MY, pool};
use crate::mysql_binlog::{begun, following, stopped};
use crate::postgres::{Db, Pair};
use crate::shop::WAIT;
use crate::turning::cut_over;

fn server(db: &mut Db) -> &mut Mariadb {
    match db {
        Db::My(server) => server,
        Db::Lite(_) | Db::Pg(_) => unreachable!("it is MariaDB here"),
    }
}

/// A pair that is followed, and a replica of its legacy side.
async fn with_replica(rows: u32) -> (Pair, Link, Mariadb) {
    let (mut pair, link) = following(rows).await;
    let replica = Mariadb::replica_of(server(&mut pair.legacy)).await;
    replica.catch_up_with(server(&mut pair.legacy)).await;
    (pair, link, replica)
}

/// What the server of the legacy side and its replica are called, and the former's transactions.
struct Names {
    was: String,
    now: String,
    gtids: String,
}

async fn names(pair: &mut Pair, replica: &Mariadb) -> Names {
    Names {
        was: server(&mut pair.legacy).identity().await,
        now: replica.identity().await,
        gtids: server(&mut pair.legacy).own_gtids().await,
    }
}

/// The server dies, and the replica takes its place in the config.
async fn replaced(pair: &mut Pair, replica: Mariadb) -> Mariadb {
    server(&mut pair.legacy).kill();
    replica.promote().await;
    std::mem::replace(server(&mut pair.legacy), replica)
}

async fn refused(spec: LinkSpec) -> String {
    let link = Link::open(spec).await.unwrap();
    let refused = link.ensure(DataPhase::Following, Side::Legacy).await;
    let text = refused.err().map(|e| e.to_string()).unwrap_or_default();
    link.shutdown().await;
    text
}

/// What is said when it is asked for all the same; nothing has changed then.
async fn unproved(pair: &Pair) -> String {
    let before = refused(pair.spec()).await;
    assert!(before.contains("resume items --another-server"), "{before}");
    let link = Link::open(pair.spec()).await.unwrap();
    let text = link.fail_over().await.unwrap_err().to_string();
    link.shutdown().await;
    assert_eq!(refused(pair.spec()).await, before);
    text
}

async fn number_of(server: &Mariadb) -> u64 {
    let position = server.gtids().await;
    let last = position.rsplit(['-', ':']).next();
    last.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_has_all_is_gone_on_with_under_the_same_url() {
    let (mut pair, link, replica) = with_replica(40).await;
    link.shutdown().await;
    let relay = Relay::to(server(&mut pair.legacy).address()).await;
    let url: DatabaseUrl = server(&mut pair.legacy)
        .url_through(&relay)
        .parse()
        .unwrap();
    let spec = LinkSpec {
        legacy: url.capturing(Capture::Replication).unwrap(),
        ..pair.spec()
    };
    let link = Link::open(spec).await.unwrap();
    let follow = async || link.ensure(DataPhase::Following, Side::Legacy).await;
    follow().await.unwrap();
    pair.legacy
        .execute("UPDATE item SET note = 'before' WHERE id < 9; DELETE FROM item WHERE id = 30")
        .await;
    pair.equal().await;
    replica.catch_up_with(server(&mut pair.legacy)).await;
    let names = names(&mut pair, &replica).await;
    let old = replaced(&mut pair, replica).await;
    // Also what comes before anybody has said that it may be gone on with.
    pair.legacy
        .execute("UPDATE item SET note = 'between' WHERE id < 5; INSERT INTO item (id, code, price, status, made_at) VALUES (900, 'new', 5.5, 'A', '2026-01-01 00:00:00')")
        .await;
    relay.lead_to(server(&mut pair.legacy).address());
    let text = stopped(&link).await;
    assert!(
        text.contains(&format!("it had {} and has {}", names.was, names.now)),
        "{text}"
    );
    assert!(text.contains("resume items --another-server"), "{text}");
    assert!(follow().await.is_err(), "not before it was asked for");
    let moved = link.fail_over().await.unwrap();
    assert_eq!(moved.len(), 1);
    assert_eq!((&*moved[0].was, &*moved[0].now), (&*names.was, &*names.now));
    assert!(moved[0].place.starts_with(&names.gtids), "{moved:?}");
    follow().await.unwrap();
    pair.equal().await;
    pair.legacy
        .execute("UPDATE item SET note = 'after', id = 901 WHERE id = 900; DELETE FROM item WHERE id = 3")
        .await;
    pair.equal().await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    assert_eq!(link.evidence().unwrap().parked, 0);
    assert!(
        link.fail_over().await.unwrap().is_empty(),
        "it is the one now"
    );
    // From then on it goes on as ever, from a file of this server's.
    link.shutdown().await;
    let link = begun(&pair).await;
    pair.legacy
        .execute("UPDATE item SET note = 'at last' WHERE id > 20")
        .await;
    pair.equal().await;
    let place = format!(
        "SELECT count(*) FROM _outgrow_items_slot WHERE server = '{}' AND id = 1",
        names.now
    );
    assert_eq!(pair.legacy.number(&place).await, 1);
    let own = server(&mut pair.legacy).own_gtids().await;
    link.shutdown().await;
    // The one before is another server by now, and lacks what came since.
    let replica = replaced_by_the_old(&mut pair, old).await;
    let text = unproved(&pair).await;
    assert!(text.contains(&format!("it lacks {own}")), "{text}");
    drop(replica);
}

async fn replaced_by_the_old(pair: &mut Pair, mut old: Mariadb) -> Mariadb {
    old.go_on().await;
    std::mem::replace(server(&mut pair.legacy), old)
}

/// It went on for a moment without its replica, and the other side has seen that.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lacks_what_was_applied_is_refused_with_what_it_lacks() {
    let (mut pair, link, replica) = with_replica(20).await;
    replica.stop_following().await;
    let has = number_of(&replica).await;
    pair.legacy
        .execute("UPDATE item SET note = 'lost with the server' WHERE id < 4")
        .await;
    pair.equal().await;
    link.shutdown().await;
    let had = number_of(server(&mut pair.legacy)).await;
    let gtids = server(&mut pair.legacy).own_gtids().await;
    let _old = replaced(&mut pair, replica).await;
    // More of its own than it lacks: numbers alone tell nothing.
    for round in 0..had {
        pair.legacy
            .execute(&format!(
                "UPDATE item SET note = 'its own {round}' WHERE id = 1"
            ))
            .await;
        if round > had - has + 5 {
            break;
        }
    }
    let text = unproved(&pair).await;
    assert!(
        text.contains(&format!("it lacks {gtids}{} to {gtids}", has + 1)),
        "{text}"
    );
    assert!(text.contains("start the copy again"), "{text}");
    let seen = pair
        .extracted
        .number("SELECT count(*) FROM article WHERE note LIKE 'lost%'")
        .await;
    assert_eq!(seen, 3, "nothing was touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_has_removed_its_log_is_refused() {
    let (mut pair, link, replica) = with_replica(20).await;
    pair.legacy.execute("UPDATE item SET note = 'seen'").await;
    pair.equal().await;
    link.shutdown().await;
    replica.catch_up_with(server(&mut pair.legacy)).await;
    let gtids = server(&mut pair.legacy).own_gtids().await;
    let _old = replaced(&mut pair, replica).await;
    let replica = server(&mut pair.legacy);
    eventually("the log to be removed", WAIT, || async {
        let purge = "FLUSH BINARY LOGS; PURGE BINARY LOGS BEFORE now() + INTERVAL 1 DAY";
        replica.execute(purge).await;
        let logs = sqlx::query("SHOW BINARY LOGS").fetch_all(replica.pool());
        let first: String = sqlx::Row::get(logs.await.unwrap().first()?, 0);
        (first != "log-bin.000001").then_some(())
    })
    .await;
    let text = unproved(&pair).await;
    assert!(
        text.contains(&format!("does not have all that comes behind {gtids}")),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_takes_no_writes_yet_is_refused() {
    let (mut pair, link, replica) = with_replica(5).await;
    link.shutdown().await;
    replica.catch_up_with(server(&mut pair.legacy)).await;
    let _old = replaced(&mut pair, replica).await;
    pair.legacy.execute("SET GLOBAL read_only = ON").await;
    let text = unproved(&pair).await;
    assert!(text.contains("SET GLOBAL read_only = OFF"), "{text}");
    pair.legacy.execute("SET GLOBAL read_only = OFF").await;
    let link = Link::open(pair.spec()).await.unwrap();
    assert_eq!(link.fail_over().await.unwrap().len(), 1);
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    pair.legacy.execute("UPDATE item SET note = 'on'").await;
    pair.equal().await;
    link.shutdown().await;
}

/// The server that rows go to fails over.
#[tokio::test(flavor = "multi_thread")]
async fn the_side_that_is_written_to_fails_over() {
    for behind in [false, true] {
        let (mut pair, link, replica) = with_replica(20).await;
        cut_over(&link, Side::Extracted).await;
        pair.extracted
            .execute("UPDATE article SET note = 'there' WHERE id < 9")
            .await;
        pair.equal().await;
        replica.catch_up_with(server(&mut pair.legacy)).await;
        if behind {
            replica.stop_following().await;
            pair.extracted
                .execute("UPDATE article SET note = 'lost there' WHERE id = 2")
                .await;
            pair.equal().await;
            let waiting = "SELECT count(*) FROM _outgrow_items_changes WHERE tbl <> ''";
            eventually("the change to be trimmed", WAIT, || async {
                (pair.extracted.number(waiting).await == 0).then_some(())
            })
            .await;
        }
        link.shutdown().await;
        if !behind {
            replica.catch_up_with(server(&mut pair.legacy)).await;
        }
        let names = names(&mut pair, &replica).await;
        let _old = replaced(&mut pair, replica).await;
        let link = Link::open(pair.spec()).await.unwrap();
        let reverse = async || link.ensure(DataPhase::Reversed, Side::Extracted).await;
        let text = reverse().await.unwrap_err().to_string();
        assert!(
            text.contains(&format!("it had {} and has {}", names.was, names.now)),
            "{text}"
        );
        let moved = link.fail_over().await;
        if behind {
            let text = moved.unwrap_err().to_string();
            assert!(
                text.contains("applied to the one before that it lacks"),
                "{text}"
            );
        } else {
            assert_eq!(moved.unwrap().len(), 1);
            reverse().await.unwrap();
            pair.extracted
                .execute("UPDATE article SET note = 'again' WHERE id > 10; DELETE FROM article WHERE id = 1")
                .await;
            pair.equal().await;
            assert_eq!(link.verify().await.unwrap().different, 0);
            // And back: the log of this server is the one that is followed.
            cut_over(&link, Side::Legacy).await;
            pair.legacy
                .execute("UPDATE item SET note = 'home' WHERE id = 5")
                .await;
            pair.equal().await;
        }
        link.shutdown().await;
    }
}

/// A place that a version without GTIDs has recorded goes on, and has them from then on.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_of_a_version_before_goes_on() {
    if is_mysql() {
        // It does not tell which transactions there are up to a place.
        return;
    }
    let (mut pair, link, replica) = with_replica(10).await;
    link.shutdown().await;
    pair.legacy
        .execute(
            "ALTER TABLE _outgrow_items_slot DROP COLUMN gtids; UPDATE item SET note = 'meanwhile'",
        )
        .await;
    pair.extracted
        .execute("DROP TABLE _outgrow_items_origin")
        .await;
    let link = begun(&pair).await;
    pair.equal().await;
    let named = "SELECT count(*) FROM _outgrow_items_slot WHERE gtids LIKE '0-7-%'";
    eventually("a place with GTIDs", WAIT, || async {
        (pair.legacy.number(named).await == 1).then_some(())
    })
    .await;
    link.shutdown().await;
    replica.catch_up_with(server(&mut pair.legacy)).await;
    let _old = replaced(&mut pair, replica).await;
    let link = Link::open(pair.spec()).await.unwrap();
    assert_eq!(link.fail_over().await.unwrap().len(), 1);
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    pair.legacy
        .execute("UPDATE item SET note = 'on' WHERE id > 3")
        .await;
    pair.equal().await;
    link.shutdown().await;
}

/// Records of Outgrow's own that the replica has not are no loss: they are made anew.
#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_that_it_lacks_are_no_reason() {
    let (mut pair, link, replica) = with_replica(10).await;
    replica.stop_following().await;
    let position = || link.describe()["position"].as_i64().unwrap();
    let before = position();
    eventually("heartbeats to be applied", WAIT, || async {
        (position() > before + 6).then_some(())
    })
    .await;
    link.shutdown().await;
    let _old = replaced(&mut pair, replica).await;
    pair.legacy
        .execute("UPDATE item SET note = 'the first' WHERE id < 3")
        .await;
    let link = Link::open(pair.spec()).await.unwrap();
    let moved = link.fail_over().await.unwrap();
    assert!(moved[0].again > 3, "{moved:?}");
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    pair.equal().await;
    pair.legacy.execute("DELETE FROM item WHERE id = 4").await;
    pair.equal().await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

/// Where the config says so, nobody needs to ask; the proof is the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_told_to_follow_does_so_by_itself() {
    let (mut pair, link, replica) = with_replica(10).await;
    link.shutdown().await;
    let relay = Relay::to(server(&mut pair.legacy).address()).await;
    let url = server(&mut pair.legacy).url_through(&relay);
    let url: DatabaseUrl = url.parse().unwrap();
    let url = url.capturing(Capture::Replication).unwrap();
    let spec = LinkSpec {
        legacy: url.following_failover().unwrap(),
        ..pair.spec()
    };
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    pair.legacy.execute("UPDATE item SET note = 'before'").await;
    pair.equal().await;
    replica.catch_up_with(server(&mut pair.legacy)).await;
    replica.execute("SET GLOBAL read_only = ON").await;
    let now = replica.identity().await;
    let _old = replaced(&mut pair, replica).await;
    relay.lead_to(server(&mut pair.legacy).address());
    eventually("the link to wait for it to take writes", WAIT, || async {
        let waits = link.describe()["waiting_for"].to_string();
        waits.contains("read-only").then_some(())
    })
    .await;
    let mut moves = link.moves();
    assert!(moves.borrow_and_update().is_empty());
    pair.legacy
        .execute("SET GLOBAL read_only = OFF; UPDATE item SET note = 'after' WHERE id > 4")
        .await;
    let moved = tokio::time::timeout(WAIT, moves.wait_for(|moved| !moved.is_empty()));
    let moved = moved.await.expect("it goes on").unwrap().clone();
    assert_eq!(moved[0].now, now);
    pair.equal().await;
    assert_eq!(*link.failures().borrow(), None);
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

/// Killed at any moment under writers, whatever its replica has by then: either nothing is lost, or
/// it is said what is.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_amid_writes_is_replaced_without_loss_or_not_at_all() {
    let (mut pair, link, replica) = with_replica(60).await;
    let writer = pool(&pair.legacy);
    let writing = tokio::spawn(async move {
        for round in 0_u32.. {
            let id = round % 60 + 1;
            let text = format!("UPDATE item SET note = 'round {round}' WHERE id = {id}");
            let written = sqlx::query(sqlx::AssertSqlSafe(text))
                .execute(&writer)
                .await;
            if written.is_err() {
                return round;
            }
        }
        0
    });
    eventually("rounds to be applied", WAIT, || async {
        let applied = "SELECT count(*) FROM article WHERE note LIKE 'round %'";
        (pair.extracted.number(applied).await == 60).then_some(())
    })
    .await;
    let gtids = server(&mut pair.legacy).own_gtids().await;
    server(&mut pair.legacy).kill();
    let rounds = writing.await.unwrap();
    assert!(rounds > 60);
    link.shutdown().await;
    let _old = replaced(&mut pair, replica).await;
    let link = Link::open(pair.spec()).await.unwrap();
    match link.fail_over().await {
        Ok(moved) => {
            assert_eq!(moved.len(), 1);
            link.ensure(DataPhase::Following, Side::Legacy)
                .await
                .unwrap();
            pair.legacy
                .execute("UPDATE item SET note = 'on' WHERE id = 7")
                .await;
            pair.equal().await;
            assert_eq!(link.verify().await.unwrap().different, 0);
        }
        Err(e) => {
            let text = e.to_string();
            assert!(text.contains(&format!("it lacks {gtids}")), "{text}");
        }
    }
    link.shutdown().await;
}

/// What would be lost by going on is not told by the names of tables.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_server_is_no_replica() {
    let (mut pair, link) = following(5).await;
    link.shutdown().await;
    let empty = Mariadb::logged(LEGACY_MY).await;
    server(&mut pair.legacy).kill();
    let _old = std::mem::replace(server(&mut pair.legacy), empty);
    let link = Link::open(pair.spec()).await.unwrap();
    let text = link.fail_over().await.unwrap_err().to_string();
    assert!(text.contains("not synced yet"), "{text}");
    link.shutdown().await;
}
