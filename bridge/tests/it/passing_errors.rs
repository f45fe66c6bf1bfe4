//! What a target refuses for reasons that pass: deadlocks, lost races, statements that took too
//! long, locks that others hold. It is tried again, no row is blamed for it, and nothing is lost.

use std::time::Duration;

use outgrow_bridge::Link;
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::mysql::words;
use outgrow_testkit::{Postgres, bridge_user, eventually, is_mysql};
use sqlx::AssertSqlSafe;

use crate::mysql::EXTRACTED_MY;
use crate::postgres::{Db, EXTRACTED_PG, LEGACY_SQLITE, Pair, items};
use crate::shop::{WAIT, copied};

pub(crate) async fn following(extracted: Db) -> (Pair, Link) {
    let pair = Pair::of(Db::lite(LEGACY_SQLITE).await, extracted);
    pair.legacy.execute(&items(1, 60)).await;
    let mut spec = pair.spec();
    spec.limits.busy = Duration::from_secs(2);
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    pair.equal().await;
    (pair, link)
}

/// The link waits, and says for what.
async fn says(link: &Link, part: &str) {
    let seen = std::sync::Mutex::new(String::new());
    let said = eventually("the link to say what it waits for", 2 * WAIT, || async {
        let waits = link.describe()["waiting_for"].to_string();
        let said = waits.contains(part).then_some(());
        *seen.lock().unwrap() = waits;
        said
    });
    let said = tokio::time::timeout(WAIT, said).await;
    let failed = link.failures().borrow().clone();
    assert!(said.is_ok(), "{} {failed:?}", seen.lock().unwrap());
}

/// Nothing was lost, nothing is parked, and the link goes on.
pub(crate) async fn whole(pair: &Pair, link: &Link) {
    pair.equal().await;
    let seen = link.evidence().unwrap();
    assert_eq!((seen.parked, seen.foreign_writes), (0, 0));
    assert_eq!(link.verify().await.unwrap().different, 0);
    assert!(link.failures().borrow().is_none());
    link.shutdown().await;
}

/// Has each row of the target refused in this way for a while, amid a batch.
async fn refused(extracted: Db, refuse: &str, part: &str, let_go: &str) {
    let (pair, link) = following(extracted).await;
    pair.extracted.execute(refuse).await;
    pair.legacy
        .execute("UPDATE item SET note = 'refused at first' WHERE id < 40")
        .await;
    pair.legacy.execute("DELETE FROM item WHERE id > 50").await;
    says(&link, part).await;
    // What comes meanwhile is kept, too.
    pair.legacy
        .execute("UPDATE item SET note = 'meanwhile' WHERE id = 7")
        .await;
    pair.extracted.execute(let_go).await;
    whole(&pair, &link).await;
}

pub(crate) fn in_postgres(body: &str) -> String {
    format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN {body}; RETURN NEW; END'; \
         CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON article \
         FOR EACH ROW EXECUTE FUNCTION refuse(); \
         ALTER TABLE article ENABLE ALWAYS TRIGGER refuse"
    )
}

pub(crate) const LET_GO_PG: &str = "DROP TRIGGER refuse ON article";

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_race_in_postgres_is_run_again() {
    let refuse = in_postgres(
        "RAISE EXCEPTION ''could not serialize access'' USING ERRCODE = ''serialization_failure''",
    );
    let extracted = Db::pg(EXTRACTED_PG).await;
    refused(extracted, &refuse, "could not serialize", LET_GO_PG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_race_in_mariadb_is_run_again() {
    let refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON article FOR EACH ROW \
                  SIGNAL SQLSTATE '40001' SET MESSAGE_TEXT = 'try restarting transaction'";
    let extracted = Db::my(EXTRACTED_MY).await;
    refused(
        extracted,
        refuse,
        "try restarting transaction",
        "DROP TRIGGER refuse",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_postgres_cancels_is_run_again() {
    let extracted = Db::pg(EXTRACTED_PG).await;
    extracted
        .execute(&format!(
            "ALTER ROLE {} SET statement_timeout = '300ms'",
            bridge_user()
        ))
        .await;
    let refuse = in_postgres("PERFORM pg_sleep(60)");
    refused(extracted, &refuse, "statement timeout", LET_GO_PG).await;
}

/// A server that takes no writes for a while, as a provider does with a disk that is nearly full.
#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_only_reads_is_waited_for() {
    let ends =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'outgrow'";
    let extracted = Db::pg(EXTRACTED_PG).await;
    let refuse = format!("ALTER DATABASE postgres SET default_transaction_read_only = on; {ends}");
    let let_go = format!("ALTER DATABASE postgres RESET default_transaction_read_only; {ends}");
    refused(extracted, &refuse, "read-only transaction", &let_go).await;
}

/// From 17 on a server may end the session of a transaction that takes too long.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_postgres_ends_is_run_again() {
    if Postgres::oldest() < 17 {
        return;
    }
    let extracted = Db::pg(EXTRACTED_PG).await;
    extracted
        .execute(&format!(
            "ALTER ROLE {} SET transaction_timeout = '1s'",
            bridge_user()
        ))
        .await;
    let refuse = in_postgres("PERFORM pg_sleep(60)");
    refused(extracted, &refuse, "transaction timeout", LET_GO_PG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_mariadb_cancels_is_run_again() {
    if is_mysql() {
        // It limits the time of statements that read only.
        return;
    }
    let extracted = Db::my(EXTRACTED_MY).await;
    extracted
        .execute("SET GLOBAL max_statement_time = 0.3")
        .await;
    let refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON article FOR EACH ROW \
                  SET NEW.weight = NEW.weight + SLEEP(60)";
    refused(
        extracted,
        refuse,
        "max_statement_time",
        "SET GLOBAL max_statement_time = 0; DROP TRIGGER refuse",
    )
    .await;
}

/// Somebody who reads rows of the target to keep them, and comes to those of the bridge.
macro_rules! reader {
    ($name:ident, $pool:ident: $pool_type:ty) => {
        /// A reader that keeps one row, and wants another when the bridge waits for the first; its
        /// statements are not those that are undone.
        async fn $name(
            $pool: &$pool_type,
            before: &str,
            (keeps, wants): (u32, u32),
            write: impl Future<Output = ()>,
            waits: &str,
        ) {
            let mut tx = $pool.begin().await.unwrap();
            let row = |id| format!("SELECT note FROM article WHERE id = {id} FOR UPDATE");
            for text in [words(before).into_owned(), row(keeps)] {
                let text = sqlx::raw_sql(AssertSqlSafe(text));
                sqlx::Executor::execute(&mut *tx, text).await.unwrap();
            }
            write.await;
            eventually("the bridge to wait for a row", WAIT, || async {
                let waiting: i64 = sqlx::query_scalar(AssertSqlSafe(waits.to_owned()))
                    .fetch_one($pool)
                    .await
                    .unwrap();
                (waiting > 0).then_some(())
            })
            .await;
            let text = sqlx::raw_sql(AssertSqlSafe(row(wants)));
            sqlx::Executor::execute(&mut *tx, text).await.unwrap();
            tx.rollback().await.unwrap();
        }
    };
}

reader!(reads_postgres, pool: sqlx::PgPool);
reader!(reads_mariadb, pool: sqlx::MySqlPool);

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_in_postgres_is_run_again() {
    let (pair, link) = following(Db::pg(EXTRACTED_PG).await).await;
    let Db::Pg(server) = &pair.extracted else {
        unreachable!()
    };
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                 AND query NOT LIKE '%FOR UPDATE'";
    // Whoever waits for a second looks whether there is one, and is undone; not the reader.
    let before = "SET LOCAL deadlock_timeout = '1h'";
    let mut tries: u32 = 0;
    eventually("a deadlock", WAIT, || {
        tries += 1;
        // Which row the bridge comes to first is its own business.
        let rows = if tries.is_multiple_of(2) {
            (1, 50)
        } else {
            (50, 1)
        };
        let (pair, server) = (&pair, server);
        async move {
            let text = format!("UPDATE item SET note = 'try {tries}' WHERE id IN (1, 50)");
            let write = pair.legacy.execute(&text);
            reads_postgres(server.pool(), before, rows, write, waits).await;
            pair.equal().await;
            (server.number(deadlocks).await > 0).then_some(())
        }
    })
    .await;
    whole(&pair, &link).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_in_mariadb_is_run_again() {
    let (pair, link) = following(Db::my(EXTRACTED_MY).await).await;
    let Db::My(server) = &pair.extracted else {
        unreachable!()
    };
    server
        .execute("CREATE TABLE elsewhere (n int PRIMARY KEY)")
        .await;
    let [deadlocks, waits] = if is_mysql() {
        [
            "SELECT CAST(count AS SIGNED) FROM information_schema.innodb_metrics WHERE name = 'lock_deadlocks'",
            "SELECT CAST(variable_value AS SIGNED) FROM performance_schema.global_status \
             WHERE variable_name = 'Innodb_row_lock_current_waits'",
        ]
    } else {
        [
            "SELECT CAST(variable_value AS SIGNED) FROM information_schema.global_status \
             WHERE variable_name = 'Innodb_deadlocks'",
            "SELECT CAST(variable_value AS SIGNED) FROM information_schema.global_status \
             WHERE variable_name = 'Innodb_row_lock_current_waits'",
        ]
    };
    // Who has written least is undone.
    let before = "INSERT INTO elsewhere SELECT seq FROM seq_1_to_1000";
    let mut tries: u32 = 0;
    eventually("a deadlock", WAIT, || {
        tries += 1;
        let rows = if tries.is_multiple_of(2) {
            (1, 50)
        } else {
            (50, 1)
        };
        let (pair, server) = (&pair, server);
        async move {
            let text = format!("UPDATE item SET note = 'try {tries}' WHERE id IN (1, 50)");
            let write = pair.legacy.execute(&text);
            reads_mariadb(server.pool(), before, rows, write, waits).await;
            pair.equal().await;
            (server.number(deadlocks).await > 0).then_some(())
        }
    })
    .await;
    whole(&pair, &link).await;
}

/// Held longer than the bridge waits for a lock.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_another_keeps_is_waited_for() {
    for extracted in [Db::pg(EXTRACTED_PG).await, Db::my(EXTRACTED_MY).await] {
        let (pair, link) = following(extracted).await;
        let row = "SELECT note FROM article WHERE id = 9 FOR UPDATE";
        let write = "UPDATE item SET note = 'waited for' WHERE id < 20";
        match &pair.extracted {
            Db::Pg(server) => {
                let mut tx = server.pool().begin().await.unwrap();
                sqlx::query(row).execute(&mut *tx).await.unwrap();
                pair.legacy.execute(write).await;
                says(&link, "lock timeout").await;
                tx.rollback().await.unwrap();
            }
            Db::My(server) => {
                let mut tx = server.pool().begin().await.unwrap();
                sqlx::query(row).execute(&mut *tx).await.unwrap();
                pair.legacy.execute(write).await;
                says(&link, "Lock wait timeout").await;
                tx.rollback().await.unwrap();
            }
            Db::Lite(_) => unreachable!(),
        }
        whole(&pair, &link).await;
    }
}
