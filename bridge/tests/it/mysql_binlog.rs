//! MariaDB with its changes read from its row log: the same as by triggers, and what is particular.

use outgrow_bridge::{Capture, DatabaseUrl, Link};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::mysql::words;
use outgrow_testkit::{eventually, is_mysql};

use crate::mysql::{
    EXTRACTED_MY, LEGACY_MY, dying, fenced, histories, late_commit, pool, server_crash,
};
use crate::postgres::{
    Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, LEGACY_SQLITE, Pair, items, whole_way,
};
use crate::shop::{WAIT, copied, foreign_since, now_ms};
use crate::turning::cut_over;

async fn both(rows: u32) -> Pair {
    let (legacy, extracted) = (Db::logged(LEGACY_MY).await, Db::logged(EXTRACTED_MY).await);
    legacy.execute(&items(1, rows)).await;
    Pair::replicated(legacy, extracted)
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_to_sqlite_and_back() {
    let (legacy, extracted) = (
        Db::logged(LEGACY_MY).await,
        Db::lite(EXTRACTED_SQLITE).await,
    );
    whole_way(Pair::replicated(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_to_postgres_and_back() {
    let (legacy, extracted) = (Db::logged(LEGACY_MY).await, Db::pg(EXTRACTED_PG).await);
    whole_way(Pair::replicated(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_to_mariadb_and_back() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::logged(EXTRACTED_MY).await);
    whole_way(Pair::replicated(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_to_mariadb_and_back() {
    let (legacy, extracted) = (Db::logged(LEGACY_MY).await, Db::logged(EXTRACTED_MY).await);
    whole_way(Pair::replicated(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_to_mariadb_and_back() {
    let (legacy, extracted) = (
        Db::lite(LEGACY_SQLITE).await,
        Db::logged(EXTRACTED_MY).await,
    );
    whole_way(Pair::replicated(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_refuses_others_and_waits_for_who_is_at_it() {
    fenced(both(20).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_commits_late_loses_nothing() {
    late_commit(both(20).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_loses_nothing() {
    let (legacy, extracted) = (
        Db::logged(LEGACY_MY).await,
        Db::lite(EXTRACTED_SQLITE).await,
    );
    server_crash(Pair::replicated(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dying_at_any_point_of_a_batch_loses_nothing() {
    dying(both(150).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_end_equal() {
    histories(both(150).await).await;
}

pub(crate) async fn following(rows: u32) -> (Pair, Link) {
    let (legacy, extracted) = (
        Db::logged(LEGACY_MY).await,
        Db::lite(EXTRACTED_SQLITE).await,
    );
    legacy.execute(&items(1, rows)).await;
    let pair = Pair::replicated(legacy, extracted);
    let link = begun(&pair).await;
    copied(&link).await;
    (pair, link)
}

pub(crate) async fn begun(pair: &Pair) -> Link {
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    link
}

pub(crate) async fn stopped(link: &Link) -> String {
    let mut failures = link.failures();
    tokio::time::timeout(WAIT, failures.wait_for(Option::is_some))
        .await
        .expect("the link stops")
        .unwrap()
        .clone()
        .unwrap()
}

/// Only the fence is left of what a row pays, and nothing at all when the link is closed.
#[tokio::test(flavor = "multi_thread")]
async fn no_trigger_notes_rows_and_closing_removes_all() {
    let (pair, link) = following(30).await;
    let noting = "SELECT count(*) FROM information_schema.triggers \
                  WHERE trigger_name LIKE '%note%' AND trigger_schema = 'shop'";
    assert_eq!(pair.legacy.number(noting).await, 0, "triggers of rows");
    pair.legacy
        .execute("UPDATE item SET note = 'by the log' WHERE id < 9")
        .await;
    pair.equal().await;
    let marks = "SELECT count(*) FROM _outgrow_items_mark";
    assert_eq!(pair.legacy.number(marks).await, 0, "marks are left");
    link.close().await.unwrap();
    link.shutdown().await;
    for what in [
        "SELECT count(*) FROM information_schema.triggers WHERE trigger_schema = 'shop'",
        "SELECT count(*) FROM information_schema.tables WHERE table_name LIKE '%outgrow%'",
        "SELECT count(*) FROM information_schema.processlist WHERE command LIKE 'Binlog%'",
    ] {
        eventually("nothing to be left", WAIT, || async {
            (pair.legacy.number(what).await == 0).then_some(())
        })
        .await;
    }
}

/// No row of the log tells which rows are gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_is_carried_over() {
    let (pair, link) = following(2_500).await;
    pair.legacy.execute("TRUNCATE TABLE item").await;
    pair.legacy.execute(&items(2_000, 2_100)).await;
    pair.equal().await;
    // Also one that nobody saw, and a second behind it.
    link.shutdown().await;
    pair.legacy
        .execute("/* nightly */ truncate `shop`.item")
        .await;
    pair.legacy.execute(&items(5, 9)).await;
    pair.legacy.execute("TRUNCATE item").await;
    pair.legacy.execute(&items(7, 20)).await;
    let link = begun(&pair).await;
    pair.equal().await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    assert_eq!(link.evidence().unwrap().parked, 0);
    link.shutdown().await;
}

/// No fence holds it up, as it is no write of rows; it is on record, and the verification finds
/// what it did.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_of_the_passive_side_is_a_foreign_write() {
    let pair = both(20).await;
    let link = begun(&pair).await;
    copied(&link).await;
    pair.equal().await;
    let began = now_ms();
    pair.extracted.execute("TRUNCATE article").await;
    eventually("the foreign write", WAIT, || async {
        (link.evidence()?.foreign_writes == 1).then_some(())
    })
    .await;
    foreign_since(&link, began);
    assert_eq!(link.verify().await.unwrap().different, 20);
    pair.legacy
        .execute("UPDATE item SET note = 'goes on'")
        .await;
    pair.equal().await;
    link.shutdown().await;
}

/// A commit that waits for a replica is in the log long before its row can be seen. Whoever read
/// the row at its sight would read the old one, and never look again.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_cannot_be_seen_yet_is_waited_for() {
    let (pair, link) = following(30).await;
    pair.legacy
        .execute(if is_mysql() {
            "INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'; \
                 SET GLOBAL rpl_semi_sync_source_wait_point = AFTER_SYNC; \
                 SET GLOBAL rpl_semi_sync_source_wait_no_replica = ON; \
                 SET GLOBAL rpl_semi_sync_source_timeout = 600000; \
                 SET GLOBAL rpl_semi_sync_source_enabled = ON"
        } else {
            "SET GLOBAL rpl_semi_sync_master_wait_point = AFTER_SYNC; \
                 SET GLOBAL rpl_semi_sync_master_wait_no_slave = ON; \
                 SET GLOBAL rpl_semi_sync_master_timeout = 600000; \
                 SET GLOBAL rpl_semi_sync_master_enabled = ON"
        })
        .await;
    let writer = pool(&pair.legacy);
    let hung = tokio::spawn(async move {
        sqlx::query("UPDATE item SET note = 'confirmed' WHERE id = 3")
            .execute(&writer)
            .await
    });
    // The bridge has read it from the log and waits behind it.
    let both = "SELECT count(*) FROM information_schema.processlist \
                WHERE state LIKE '%semi%sync%ACK%' OR info = 'COMMIT' OR info LIKE 'UPDATE item%'";
    eventually("the bridge to wait for the commit", WAIT, || async {
        (pair.legacy.number(both).await >= 2).then_some(())
    })
    .await;
    assert!(!hung.is_finished(), "it waits for a replica");
    let seen = "SELECT count(*) FROM item WHERE note = 'confirmed'";
    assert_eq!(pair.legacy.number(seen).await, 0, "nobody sees it");
    pair.legacy
        .execute(if is_mysql() {
            "SET GLOBAL rpl_semi_sync_source_enabled = OFF"
        } else {
            "SET GLOBAL rpl_semi_sync_master_enabled = OFF"
        })
        .await;
    hung.await.unwrap().unwrap();
    pair.equal().await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

/// The dump thread is killed, again and again, while rows change.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_connection_goes_on_where_it_was() {
    let (pair, link) = following(50).await;
    let reader = "SELECT CAST(coalesce(max(id), 0) AS SIGNED) FROM information_schema.processlist \
                  WHERE command LIKE 'Binlog%'";
    for round in 0..4 {
        pair.legacy
            .execute(&format!(
                "UPDATE item SET note = 'r{round}' WHERE id % 4 = {round}"
            ))
            .await;
        let id = eventually("a reader of the log", WAIT, || async {
            Some(pair.legacy.number(reader).await).filter(|id| *id > 0)
        })
        .await;
        let killed = sqlx::query(sqlx::AssertSqlSafe(format!("KILL {id}")));
        // It may be gone already.
        let _ = killed.execute(&pool(&pair.legacy)).await;
        pair.legacy
            .execute(&format!(
                "UPDATE item SET price = price + 1 WHERE id % 4 = {round}"
            ))
            .await;
        pair.equal().await;
    }
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

/// Larger than what is put or applied at once, in one transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_is_carried_over() {
    let (pair, link) = following(10).await;
    let mut tx = pool(&pair.legacy).begin().await.unwrap();
    for text in [
        "INSERT INTO item (id, code, price, status, made_at) \
         SELECT seq, concat('b', seq), seq, 'A', now() FROM seq_1000_to_13000",
        "UPDATE item SET note = 'all' WHERE id % 2 = 0",
        "SAVEPOINT here",
        "UPDATE item SET note = 'undone'",
        "ROLLBACK TO here",
        "DELETE FROM item WHERE id % 3 = 0",
    ] {
        let text = sqlx::raw_sql(sqlx::AssertSqlSafe(words(text).into_owned()));
        sqlx::Executor::execute(&mut *tx, text).await.unwrap();
    }
    tx.commit().await.unwrap();
    pair.equal().await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_log_is_read() {
    let (pair, link) = following(10).await;
    pair.legacy
        .execute(if is_mysql() {
            "SET GLOBAL binlog_transaction_compression = ON; FLUSH BINARY LOGS"
        } else {
            "SET GLOBAL log_bin_compress = ON; SET GLOBAL log_bin_compress_min_len = 10; \
                 FLUSH BINARY LOGS"
        })
        .await;
    let texts = "UPDATE item SET note = repeat('long ', 60); INSERT INTO item (id, code, price, \
                 status, made_at) SELECT seq, concat('b', seq), seq, 'A', now() FROM seq_100_to_400; \
                 DELETE FROM item WHERE id BETWEEN 150 AND 300";
    pair.legacy.execute(texts).await;
    pair.equal().await;
    pair.legacy
        .execute("TRUNCATE TABLE item /* with a comment that is worth compressing, compressing */")
        .await;
    pair.legacy.execute(&items(3, 8)).await;
    pair.equal().await;
    link.shutdown().await;
}

/// The second of two processes takes over; the first stops, without a row written twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_takes_over() {
    let (pair, first) = following(20).await;
    let second = begun(&pair).await;
    let text = stopped(&first).await;
    assert!(
        text.contains("another bridge process has taken over"),
        "{text}"
    );
    pair.legacy
        .execute("UPDATE item SET note = 'by the second' WHERE id < 9")
        .await;
    pair.equal().await;
    first.shutdown().await;
    second.shutdown().await;
}

/// While a link is paused its place in the log moves on, so that the server may remove the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_link_reads_on() {
    let (pair, link) = following(10).await;
    link.pause().await.unwrap();
    pair.legacy
        .execute("UPDATE item SET note = 'in the pause' WHERE id < 5; FLUSH BINARY LOGS")
        .await;
    let place = "SELECT count(*) FROM _outgrow_items_slot WHERE file = 'log-bin.000002'";
    eventually("the place to move on", WAIT, || async {
        (pair.legacy.number(place).await == 1).then_some(())
    })
    .await;
    let there = "SELECT count(*) FROM article WHERE note = 'in the pause'";
    assert_eq!(pair.extracted.number(there).await, 0, "nothing is applied");
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    pair.equal().await;
    link.shutdown().await;
}

/// The key is in every image; what else is logged is of no account.
#[tokio::test(flavor = "multi_thread")]
async fn smaller_images_and_altered_tables_are_read() {
    let (pair, link) = following(20).await;
    pair.legacy
        .execute("SET GLOBAL binlog_row_image = 'MINIMAL'")
        .await;
    link.shutdown().await;
    // Sessions keep what they began with.
    let mut session = pool(&pair.legacy).acquire().await.unwrap();
    for text in [
        "SET SESSION binlog_row_image = 'MINIMAL'",
        "UPDATE item SET note = 'small' WHERE id < 9",
        "UPDATE item SET id = 9000 WHERE id = 1",
        "DELETE FROM item WHERE id = 2",
        "ALTER TABLE item ADD COLUMN first int FIRST, ALGORITHM = INSTANT",
        "UPDATE item SET note = 'wider', first = 5 WHERE id BETWEEN 3 AND 8",
        "ALTER TABLE item DROP COLUMN first",
        "DELETE FROM item WHERE id = 4",
    ] {
        sqlx::query(text).execute(&mut *session).await.unwrap();
    }
    let link = begun(&pair).await;
    pair.equal().await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

/// Two rights for the log beside those for triggers, and a password.
#[tokio::test(flavor = "multi_thread")]
async fn no_superuser_is_needed() {
    let (legacy, extracted) = (
        Db::logged(LEGACY_MY).await,
        Db::lite(EXTRACTED_SQLITE).await,
    );
    legacy.execute(&items(1, 50)).await;
    legacy
        .execute(
            "CREATE USER bridge@'%' IDENTIFIED BY 's3cr?t'; SET GLOBAL log_bin_trust_function_creators = 1; \
             GRANT CREATE, DROP, SELECT, INSERT, UPDATE, DELETE, TRIGGER, ALTER, INDEX ON shop.* TO bridge@'%'; \
             GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO bridge@'%'",
        )
        .await;
    let pair = Pair::replicated(legacy, extracted);
    let Db::My(server) = &pair.legacy else {
        unreachable!()
    };
    let url = server.url_by("bridge:s3cr%3Ft", "127.0.0.1", "");
    let url: DatabaseUrl = url.parse().unwrap();
    let mut spec = pair.spec();
    spec.legacy = url.capturing(Capture::Replication).unwrap();
    let link = Link::open(spec).await.unwrap();
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    pair.legacy.execute("DELETE FROM item WHERE id = 5").await;
    pair.legacy.execute("TRUNCATE item").await;
    pair.legacy.execute(&items(60, 70)).await;
    pair.equal().await;
    cut_over(&link, Side::Extracted).await;
    pair.extracted
        .execute("UPDATE article SET note = 'from there' WHERE id = 60")
        .await;
    pair.equal().await;
    link.shutdown().await;
}
