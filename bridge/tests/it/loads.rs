//! Copies, verifications and repairs wait for a busy server, and following does not. Statements of
//! others really run.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use outgrow_bridge::{Link, LinkSpec, MaxRunning};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;
use serde_json::Value;
use sqlx::Executor;
use tokio::task::{JoinHandle, JoinSet};

use crate::mapping::{following, says, spec, verified};
use crate::mapping_keys::corrupt;
use crate::postgres::Db;
use crate::postgres_values::same;
use crate::shop::{WAIT, copied};

const TABLE: &str = "CREATE TABLE things (id int PRIMARY KEY, n int)";

/// Sessions of others that run a statement that does not end.
struct Others(JoinSet<()>);

impl Others {
    async fn run(db: &Db, count: usize) -> Self {
        let mut all = JoinSet::new();
        for _ in 0..count {
            let url = db.url();
            match db {
                Db::Pg(_) => all.spawn(async move {
                    let pool = sqlx::PgPool::connect(&url).await.unwrap();
                    // It is ended from outside.
                    let _ = pool.execute("SELECT pg_sleep(1000)").await;
                }),
                _ => all.spawn(async move {
                    let pool = sqlx::MySqlPool::connect(&url).await.unwrap();
                    let _ = pool.execute("SELECT SLEEP(1000)").await;
                }),
            };
        }
        let sleeping = match db {
            Db::Pg(_) => {
                "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(1000)' AND state = 'active'"
            }
            _ => {
                "SELECT count(*) FROM information_schema.processlist WHERE info = 'SELECT SLEEP(1000)'"
            }
        };
        says(db, sleeping, i64::try_from(count).unwrap()).await;
        Self(all)
    }

    async fn end(mut self, db: &Db) {
        match db {
            Db::Pg(_) => {
                db.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(1000)'").await;
            }
            _ => {
                let sleeping = "SELECT CAST(id AS SIGNED) FROM information_schema.processlist WHERE info = 'SELECT SLEEP(1000)' LIMIT 1";
                for _ in 0..self.0.len() {
                    let id = db.number(sleeping).await;
                    db.execute(&format!("KILL QUERY {id}")).await;
                    let gone = format!(
                        "SELECT count(*) FROM information_schema.processlist WHERE id = {id} AND info = 'SELECT SLEEP(1000)'"
                    );
                    says(db, &gone, 0).await;
                }
            }
        }
        while let Some(done) = self.0.join_next().await {
            done.unwrap();
        }
    }
}

async fn told(link: &Link, pointer: &str, what: &str) {
    let shown = || link.describe().pointer(pointer).cloned();
    eventually(what, WAIT, || async {
        (shown()?.as_str() == Some(what)).then_some(())
    })
    .await;
}

/// One after another until it is enough: a server that was asked just now is not asked again.
fn verifications(link: &Link) -> (JoinHandle<()>, Arc<AtomicBool>) {
    let enough = Arc::new(AtomicBool::new(false));
    let (link, until) = (link.clone(), Arc::clone(&enough));
    let verify = async move {
        while !until.load(Ordering::Relaxed) {
            link.verify().await.unwrap();
        }
    };
    (tokio::spawn(verify), enough)
}

fn limited(legacy: &Db, extracted: &Db, side: Side, most: u32) -> LinkSpec {
    let mut spec = spec(
        legacy,
        extracted,
        vec![same("things", &["id"], &["id", "n"])],
    );
    let most = NonZeroU32::new(most);
    spec.limits.max_running = match side {
        Side::Legacy => MaxRunning {
            legacy: most,
            extracted: None,
        },
        Side::Extracted => MaxRunning {
            legacy: None,
            extracted: most,
        },
    };
    spec.limits.chunk_rows = 10;
    spec.limits.copy_rows = 10;
    spec.limits.verify_rows = 10;
    spec
}

/// Three statements run on a side that may have two.
async fn waited_for(legacy: Db, extracted: Db, side: Side) {
    let ids: Vec<String> = (1..=50).map(|id| format!("({id}, {id})")).collect();
    legacy
        .execute(&format!("INSERT INTO things VALUES {}", ids.join(", ")))
        .await;
    let busy = if side == Side::Legacy {
        &legacy
    } else {
        &extracted
    };
    let what = format!("the load of {side}: 3 of 2 statements run");
    let others = Others::run(busy, 3).await;
    let spec = || limited(&legacy, &extracted, side, 2);
    let link = Link::open(spec()).await.unwrap();
    assert!(link.preflight().await.unwrap().ok());
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    told(&link, "/copy_waits_for", &what).await;
    let load = link.evidence().unwrap().load[&side];
    assert_eq!((load.running, load.most), (3, 2));
    // Changes are followed meanwhile.
    legacy.execute("INSERT INTO things VALUES (1000, 1)").await;
    says(&extracted, "SELECT count(*) FROM things WHERE id = 1000", 1).await;
    assert!(!link.copied());
    others.end(busy).await;
    copied(&link).await;
    says(&extracted, "SELECT count(*) FROM things", 51).await;
    // As many as may run are no load.
    let others = Others::run(busy, 2).await;
    verified(&link).await;
    others.end(busy).await;
    corrupt(&extracted, "UPDATE things SET n = 7000 WHERE id = 7").await;
    assert_eq!(link.verify().await.unwrap().different, 1);
    let others = Others::run(busy, 3).await;
    let (verify, enough) = verifications(&link);
    told(&link, "/verify/running/waits_for", &what).await;
    let repairing = link.clone();
    let repair = tokio::spawn(async move { repairing.repair(false).await.unwrap() });
    legacy
        .execute("UPDATE things SET n = 2 WHERE id = 1000")
        .await;
    says(
        &extracted,
        "SELECT count(*) FROM things WHERE n = 2 AND id = 1000",
        1,
    )
    .await;
    says(&extracted, "SELECT count(*) FROM things WHERE n = 7000", 1).await;
    assert!(!repair.is_finished() && !verify.is_finished());
    others.end(busy).await;
    assert_eq!(repair.await.unwrap().repaired, 1);
    enough.store(true, Ordering::Relaxed);
    verify.await.unwrap();
    verified(&link).await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_mariadb_is_waited_for() {
    let (legacy, extracted) = (Db::my(TABLE).await, Db::pg(TABLE).await);
    waited_for(legacy, extracted, Side::Legacy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_postgres_is_waited_for() {
    let (legacy, extracted) = (Db::pg(TABLE).await, Db::pg(TABLE).await);
    extracted.execute("GRANT pg_read_all_stats TO least").await;
    waited_for(legacy, extracted, Side::Extracted).await;
}

/// Who sends us the log runs all the time, and is no load.
#[tokio::test(flavor = "multi_thread")]
async fn our_own_reading_of_a_log_is_no_load() {
    let (legacy, extracted) = (Db::logged(TABLE).await, Db::pg(TABLE).await);
    legacy.execute("INSERT INTO things VALUES (1, 1)").await;
    let mut spec = limited(&legacy, &extracted, Side::Legacy, 1);
    let by = outgrow_bridge::Capture::Replication;
    spec.legacy = spec.legacy.capturing(by).unwrap();
    let link = following(spec).await;
    let others = Others::run(&legacy, 2).await;
    let (verify, enough) = verifications(&link);
    told(
        &link,
        "/verify/running/waits_for",
        "the load of legacy: 2 of 1 statements run",
    )
    .await;
    others.end(&legacy).await;
    enough.store(true, Ordering::Relaxed);
    verify.await.unwrap();
    link.shutdown().await;
}

/// A limit that nobody could keep is told before.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_seen_is_refused() {
    let legacy = Db::lite(TABLE).await;
    let extracted = Db::pg(TABLE).await;
    let mut spec = limited(&legacy, &extracted, Side::Legacy, 2);
    spec.limits.max_running.extracted = NonZeroU32::new(2);
    extracted
        .execute("CREATE ROLE blind LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO blind; GRANT CREATE ON DATABASE postgres TO blind")
        .await;
    let mut url: url::Url = extracted.url().parse().unwrap();
    url.set_username("blind").unwrap();
    spec.extracted = url.as_str().parse().unwrap();
    let link = Link::open(spec).await.unwrap();
    let found = link.preflight().await.unwrap();
    let said: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
    let said = said.join("\n");
    for part in [
        "`legacy database`: SQLite does not tell how many statements run",
        "user `blind` does not see whether others' statements run",
        "GRANT pg_read_all_stats TO \"blind\"",
    ] {
        assert!(said.contains(part), "{part}\nis not in\n{said}");
    }
    link.shutdown().await;
}

/// While a copy waits for somebody's lock its rate falls, and what is left takes longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_tells_its_rate_and_the_time_left() {
    let (legacy, extracted) = (Db::my(TABLE).await, Db::pg(TABLE).await);
    let ids: Vec<String> = (1..=600).map(|id| format!("({id}, {id})")).collect();
    legacy
        .execute(&format!("INSERT INTO things VALUES {}", ids.join(", ")))
        .await;
    let link = Link::open(limited(&legacy, &extracted, Side::Legacy, 100)).await;
    let link = link.unwrap();
    assert!(link.preflight().await.unwrap().ok());
    let table = || link.describe()["tables"][0].clone();
    let number = |table: &Value, key: &str| table[key].as_u64();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    eventually("some rows", WAIT, || async {
        (number(&table(), "copied")? > 0).then_some(())
    })
    .await;
    let Db::Pg(server) = &extracted else {
        unreachable!("it is PostgreSQL")
    };
    let mut other = server.pool().begin().await.unwrap();
    other.execute("LOCK TABLE things").await.unwrap();
    let slow = eventually("a second is left, and more", WAIT, || async {
        let table = table();
        (number(&table, "seconds_left")? >= 2).then_some(table)
    })
    .await;
    let [copied_rows, total, rate, left] = ["copied", "total", "rows_per_second", "seconds_left"]
        .map(|key| number(&slow, key).unwrap());
    assert_eq!(total, 600, "{slow}");
    assert_eq!(left, (total - copied_rows) / rate, "{slow}");
    other.rollback().await.unwrap();
    copied(&link).await;
    let whole = table();
    assert_eq!(number(&whole, "copied"), Some(600));
    assert!(number(&whole, "rows_per_second").unwrap() > 0, "{whole}");
    assert!(whole["seconds_left"].is_null(), "{whole}");
    assert_eq!(whole["rows_per_second"], table()["rows_per_second"]);
    link.shutdown().await;
}
