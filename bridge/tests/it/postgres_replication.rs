//! PostgreSQL with its changes read from its log: the same as by triggers, and what is particular.

use outgrow_bridge::{Capture, DatabaseUrl, Link};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{Postgres, bridge_user, eventually};

use crate::mapping;
use crate::postgres::{
    Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, LEGACY_SQLITE, Pair, items, late_commit,
    server_crash, truncated, whole_way,
};
use crate::postgres_faults::{dying, filled, histories};
use crate::postgres_values::same;
use crate::shop::{WAIT, copied};
use crate::turning::cut_over;

#[tokio::test(flavor = "multi_thread")]
async fn postgres_to_postgres_and_back() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    whole_way(Pair::replicated(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_to_sqlite_and_back() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::lite(EXTRACTED_SQLITE).await);
    whole_way(Pair::replicated(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_to_postgres_and_back() {
    let (legacy, extracted) = (Db::lite(LEGACY_SQLITE).await, Db::pg(EXTRACTED_PG).await);
    whole_way(Pair::replicated(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_commits_late_loses_nothing() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::lite(EXTRACTED_SQLITE).await);
    late_commit(Pair::replicated(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_is_carried_over() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::lite(EXTRACTED_SQLITE).await);
    truncated(Pair::replicated(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_loses_nothing() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::lite(EXTRACTED_SQLITE).await);
    server_crash(Pair::replicated(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dying_at_any_point_of_a_batch_loses_nothing() {
    let (legacy, extracted) = filled().await;
    dying(Pair::replicated(legacy, extracted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_end_equal() {
    let (legacy, extracted) = filled().await;
    histories(Pair::replicated(legacy, extracted)).await;
}

pub(crate) fn server(db: &Db) -> &Postgres {
    match db {
        Db::Pg(server) => server,
        Db::Lite(_) | Db::My(_) => unreachable!("it is PostgreSQL here"),
    }
}

pub(crate) async fn following(rows: u32) -> (Pair, Link) {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::lite(EXTRACTED_SQLITE).await);
    legacy.execute(&items(1, rows)).await;
    let pair = Pair::replicated(legacy, extracted);
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    (pair, link)
}

pub(crate) async fn refusal(pair: &Pair) -> String {
    let link = Link::open(pair.spec()).await.unwrap();
    let refused = link.ensure(DataPhase::Following, Side::Legacy).await;
    let text = refused.err().map(|e| e.to_string()).unwrap_or_default();
    link.shutdown().await;
    text
}

/// The application's own transactions carry nothing: no trigger notes anything, and nothing of
/// ours is left when the link is closed.
#[tokio::test(flavor = "multi_thread")]
async fn no_trigger_notes_rows_and_closing_removes_the_slot() {
    let (pair, link) = following(30).await;
    let noting = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'outgrow%' AND tgenabled <> 'D' \
                  AND tgtype & 1 = 1";
    assert_eq!(pair.legacy.number(noting).await, 0, "triggers of rows");
    pair.legacy
        .execute("UPDATE item SET note = 'by the log' WHERE id < 9")
        .await;
    pair.equal().await;
    link.close().await.unwrap();
    link.shutdown().await;
    for what in [
        "SELECT count(*) FROM pg_replication_slots",
        "SELECT count(*) FROM pg_publication",
        "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'outgrow%'",
        "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = '_outgrow'",
    ] {
        assert_eq!(pair.legacy.number(what).await, 0, "{what}");
    }
}

/// A commit that waits for a standby is in the log long before its row can be seen. Whoever read
/// the row at its sight would read the old one, and never look again.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_cannot_be_seen_yet_is_waited_for() {
    let (pair, link) = following(30).await;
    let server = server(&pair.legacy);
    // Ours need no standby; the application's does.
    server
        .execute(&format!(
            "ALTER ROLE {} SET synchronous_commit = local",
            bridge_user()
        ))
        .await;
    server
        .execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        .await;
    link.shutdown().await;
    server.execute("SELECT pg_reload_conf()").await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    let pool = server.pool().clone();
    let hung = tokio::spawn(async move {
        let mut tx = pool.begin().await?;
        sqlx::query("SET LOCAL synchronous_commit = on")
            .execute(&mut *tx)
            .await?;
        sqlx::query("UPDATE item SET note = 'confirmed' WHERE id = 3")
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    });
    // The bridge has read the commit from the log, and looks whether it can be seen.
    let looks = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'outgrow' \
                 AND query LIKE '%pg_snapshot_xip%' AND xact_start < clock_timestamp() - interval '0.5 s'";
    eventually("the bridge to wait for the commit", WAIT, || async {
        (pair.legacy.number(looks).await > 0).then_some(())
    })
    .await;
    assert!(!hung.is_finished(), "it waits for a standby");
    server
        .execute("ALTER SYSTEM RESET synchronous_standby_names")
        .await;
    server.execute("SELECT pg_reload_conf()").await;
    hung.await.unwrap().unwrap();
    let there = "SELECT count(*) FROM article WHERE note = 'confirmed'";
    eventually("the row", WAIT, || async {
        (pair.extracted.number(there).await == 1).then_some(())
    })
    .await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_gone_or_was_moved_is_refused() {
    let (pair, link) = following(10).await;
    link.shutdown().await;
    // The server takes a moment to see that its reader has left.
    let held = "SELECT count(*) FROM pg_replication_slots WHERE active";
    eventually("the slot to be let go", WAIT, || async {
        (pair.legacy.number(held).await == 0).then_some(())
    })
    .await;
    let moved = "SELECT count(pg_replication_slot_advance(slot_name, pg_current_wal_lsn())) \
                 FROM pg_replication_slots";
    pair.legacy
        .execute("UPDATE item SET note = 'never seen' WHERE id = 1")
        .await;
    pair.legacy.number(moved).await;
    let text = refusal(&pair).await;
    assert!(
        text.contains("somebody else moved its replication slot"),
        "{text}"
    );
    assert!(text.contains("start the copy again"), "{text}");
    pair.legacy
        .number("SELECT count(pg_drop_replication_slot(slot_name)::text) FROM pg_replication_slots")
        .await;
    let text = refusal(&pair).await;
    assert!(text.contains("is gone"), "{text}");
}

/// A walsender that dies, and a slot that is dropped, while the link runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_goes_on_and_a_dropped_slot_stops_the_link() {
    let (pair, link) = following(10).await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication";
    assert_eq!(pair.legacy.number(end).await, 1);
    pair.legacy
        .execute("UPDATE item SET note = 'after' WHERE id < 5")
        .await;
    pair.equal().await;
    let mut failures = link.failures();
    let drop = "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots";
    let gone = "SELECT count(pg_drop_replication_slot(slot_name)::text) FROM pg_replication_slots \
                WHERE NOT active";
    eventually("the slot to be dropped", WAIT, || async {
        pair.legacy.number(drop).await;
        let pool = server(&pair.legacy).pool();
        sqlx::query(gone).execute(pool).await.ok()?;
        let left = "SELECT count(*) FROM pg_replication_slots";
        (pair.legacy.number(left).await == 0).then_some(())
    })
    .await;
    let text = tokio::time::timeout(WAIT, failures.wait_for(Option::is_some))
        .await
        .expect("the link stops")
        .unwrap()
        .clone()
        .unwrap();
    assert!(text.contains("its replication slot"), "{text}");
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_of_capture_is_not_changed_beside_a_running_link() {
    let (pair, link) = following(10).await;
    link.shutdown().await;
    let triggers = Pair::of(pair.legacy, pair.extracted);
    let text = refusal(&triggers).await;
    assert!(
        text.contains("are found by replication and the config says triggers"),
        "{text}"
    );
    // Closed by the one way, it begins again by the other.
    let link = Link::open(triggers.spec()).await.unwrap();
    link.close().await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    triggers.equal().await;
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(triggers.legacy.number(slots).await, 0);
    link.shutdown().await;
}

/// While a link is paused the server may remove its log; nothing is lost by that.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_link_holds_no_log_back() {
    let (pair, link) = following(10).await;
    link.pause().await.unwrap();
    let place = "SELECT (confirmed_flush_lsn - '0/0')::int8 FROM pg_replication_slots";
    let before = pair.legacy.number(place).await;
    pair.legacy
        .execute("UPDATE item SET note = 'in the pause' WHERE id < 5")
        .await;
    eventually("the slot to move on", WAIT, || async {
        (pair.legacy.number(place).await > before).then_some(())
    })
    .await;
    let there = "SELECT count(*) FROM article WHERE note = 'in the pause'";
    assert_eq!(pair.extracted.number(there).await, 0, "nothing is applied");
    // The same after a restart.
    link.shutdown().await;
    let link = Link::open(pair.spec()).await.unwrap();
    link.keep(DataPhase::Following, Side::Legacy).await.unwrap();
    let before = pair.legacy.number(place).await;
    pair.legacy
        .execute("UPDATE item SET note = 'in the pause, too' WHERE id < 5")
        .await;
    eventually("the slot to move on", WAIT, || async {
        (pair.legacy.number(place).await > before).then_some(())
    })
    .await;
    assert_eq!(link.describe()["state"], "paused");
    let there = "SELECT count(*) FROM article WHERE note LIKE 'in the pause%'";
    assert_eq!(pair.extracted.number(there).await, 0, "nothing is applied");
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    pair.equal().await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_holds_back_too_much_is_given_up_and_said_so() {
    let (pair, link) = following(10).await;
    link.shutdown().await;
    let mut spec = pair.spec();
    spec.limits.log_bytes = 1 << 20;
    let link = Link::open(spec).await.unwrap();
    let mut failures = link.failures();
    // A transaction that stays open keeps the log from where it began.
    let mut open = server(&pair.legacy).pool().begin().await.unwrap();
    sqlx::query(
        "INSERT INTO item (id, code, price, status, made_at) VALUES (77, 'x', 1, 'A', now())",
    )
    .execute(&mut *open)
    .await
    .unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    pair.legacy
        .execute(
            "CREATE TABLE bulk AS SELECT n, md5(n::text) AS t FROM generate_series(1, 50000) n",
        )
        .await;
    let text = tokio::time::timeout(WAIT, failures.wait_for(Option::is_some))
        .await
        .expect("the link stops")
        .unwrap()
        .clone()
        .unwrap();
    assert!(text.contains("more than the limit of 1048576"), "{text}");
    let slots = "SELECT count(*) FROM pg_replication_slots";
    eventually("the disk to be safe", WAIT, || async {
        (pair.legacy.number(slots).await == 0).then_some(())
    })
    .await;
    open.rollback().await.unwrap();
    link.shutdown().await;
    let text = refusal(&pair).await;
    assert!(text.contains("more than the limit of 1048576"), "{text}");
}

/// The second of two processes takes over; the first stops, without a row written twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_takes_over() {
    let (pair, first) = following(20).await;
    let second = Link::open(pair.spec()).await.unwrap();
    let mut failures = first.failures();
    second
        .ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    let text = tokio::time::timeout(WAIT, failures.wait_for(Option::is_some))
        .await
        .expect("the first stops")
        .unwrap()
        .clone()
        .unwrap();
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

/// Larger than what is put or applied at once, in one transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_is_carried_over() {
    let (pair, link) = following(10).await;
    let pool = server(&pair.legacy).pool();
    let mut tx = pool.begin().await.unwrap();
    for text in [
        "INSERT INTO item (id, code, price, status, made_at) \
         SELECT n, 'b' || n, n, 'A', now() FROM generate_series(1000, 25000) n",
        "UPDATE item SET note = 'all' WHERE id % 2 = 0",
        "DELETE FROM item WHERE id % 3 = 0",
    ] {
        sqlx::query(text).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    pair.equal().await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_or_the_user_lacks_is_said_with_its_remedy() {
    let mut legacy = Postgres::with(LEGACY_PG).await;
    legacy
        .execute(
            "CREATE ROLE app LOGIN; GRANT app TO outgrow, least; ALTER TABLE item OWNER TO app; \
             GRANT CREATE ON DATABASE postgres TO app; GRANT ALL ON SCHEMA public TO app; \
             ALTER TABLE item REPLICA IDENTITY NOTHING",
        )
        .await;
    legacy
        .restart(&["wal_level=replica", "max_replication_slots=0"])
        .await;
    let extracted = Db::lite(EXTRACTED_SQLITE).await;
    let url: DatabaseUrl = legacy.url_for("app").parse().unwrap();
    let pair = Pair::replicated(Db::Pg(Box::new(legacy)), extracted);
    let mut spec = pair.spec();
    spec.legacy = url.capturing(Capture::Replication).unwrap();
    let link = Link::open(spec).await.unwrap();
    let found = link.preflight().await.unwrap();
    let text: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
    let text = text.join("\n");
    for expected in [
        "wal_level is `replica`",
        "set wal_level = logical and restart the server",
        "ALTER ROLE \"app\" REPLICATION",
        "raise max_replication_slots",
        "`item`: an update or delete would not tell its key in the log",
        "REPLICA IDENTITY USING INDEX",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    link.shutdown().await;
}

/// A replication right, the owner's membership, a place for the schema: no superuser.
#[tokio::test(flavor = "multi_thread")]
async fn no_superuser_is_needed() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::lite(EXTRACTED_SQLITE).await);
    legacy.execute(&items(1, 50)).await;
    legacy
        .execute(
            "CREATE ROLE shop; ALTER TABLE item OWNER TO shop; GRANT ALL ON SCHEMA public TO shop; \
             CREATE ROLE bridge LOGIN REPLICATION; GRANT shop TO bridge; \
             GRANT CREATE ON DATABASE postgres TO bridge",
        )
        .await;
    let url: DatabaseUrl = server(&legacy).url_for("bridge").parse().unwrap();
    let pair = Pair::replicated(legacy, extracted);
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

/// The log tells an address without the mask that a statement shows.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_log_writes_in_another_form_is_found() {
    let legacy = Db::pg("CREATE TABLE hosts (addr inet PRIMARY KEY, n int NOT NULL)").await;
    let extracted =
        Db::lite("CREATE TABLE hosts (addr text PRIMARY KEY, n integer NOT NULL)").await;
    let mut spec = mapping::spec(
        &legacy,
        &extracted,
        vec![same("hosts", &["addr"], &["addr", "n"])],
    );
    spec.legacy = spec.legacy.capturing(Capture::Replication).unwrap();
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    for (change, sum) in [
        (
            "INSERT INTO hosts VALUES ('::1', 1), ('10.0.0.1', 2), ('10.0.0.1/8', 4)",
            7,
        ),
        ("UPDATE hosts SET n = n * 2", 14),
        ("DELETE FROM hosts WHERE n < 8", 8),
    ] {
        legacy.execute(change).await;
        eventually("the hosts", WAIT, || async {
            let found = extracted
                .number("SELECT coalesce(sum(n), 0) FROM hosts")
                .await;
            (found == sum).then_some(())
        })
        .await;
    }
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}
