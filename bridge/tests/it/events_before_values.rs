//! Rows that a log or a trigger tells are those that a statement reads, whatever the types are.

use std::collections::HashMap;
use std::sync::Arc;

use outgrow_bridge::{Capture, DatabaseUrl, TableSpec};
use outgrow_rollout::Side;
use outgrow_testkit::is_mysql;
use serde_json::Value;

use crate::events::Broker;
use crate::events_before::{chain, identified, telling, with_before};
use crate::mapping::spec;
use crate::postgres::Db;
use crate::postgres_values::{self, same};
use crate::values_between::{MARIADB, OF_MARIADB};

/// What was told last of each row, with its values told by the log and as they are read.
async fn alike(legacy: Db, columns: &[&str], rows: usize) {
    identified(&legacy, "vals").await;
    let others = columns[1..].join(" text, ");
    let table = format!("CREATE TABLE vals (id integer PRIMARY KEY, {others} text)");
    let extracted = Db::lite(&table).await;
    let spec = || {
        let table = TableSpec {
            defaults: vec![("touched".to_owned(), 0.into())],
            ..same("vals", &["id"], columns)
        };
        let mut spec = spec(&legacy, &extracted, vec![table]);
        let capture = match spec.legacy {
            DatabaseUrl::Sqlite(_) => Capture::Triggers,
            DatabaseUrl::Postgres(_) | DatabaseUrl::Mysql(_) => Capture::Replication,
        };
        spec.legacy = spec.legacy.capturing(capture).unwrap();
        spec
    };
    let broker = Arc::new(Broker::default());
    let link = telling(spec(), Side::Legacy, with_before(&broker)).await;
    // Of no mapped column: what is told before is what is told after.
    legacy.execute("UPDATE vals SET touched = 1").await;
    let by_the_log = broker.has(rows).await;
    chain(&by_the_log);
    for event in &by_the_log {
        let data = &event["data"];
        assert_eq!(data["before"], data["after"], "{event}");
    }
    link.shutdown().await;
    let link = telling(spec(), Side::Legacy, broker.events(100_000)).await;
    legacy.execute("UPDATE vals SET touched = 2").await;
    let all = broker.has(2 * rows).await;
    let by_subject = |events: &[Value]| -> HashMap<String, Value> {
        let one = |e: &Value| (e["subject"].to_string(), e["data"]["after"].clone());
        events.iter().map(one).collect()
    };
    let (told, read) = (by_subject(&by_the_log), by_subject(&all[rows..]));
    assert_eq!(told.len(), rows);
    for (subject, row) in read {
        assert_eq!(told[&subject], row);
    }
    link.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_postgres() {
    let legacy = Db::pg(postgres_values::VALUES).await;
    legacy.execute(postgres_values::ROWS).await;
    legacy.execute("ALTER TABLE vals ADD touched int").await;
    alike(legacy, &postgres_values::COLUMNS, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_mariadb() {
    let legacy = Db::logged(MARIADB).await;
    legacy
        .execute(
            "ALTER TABLE vals ADD y text CHARACTER SET latin1, ADD z char(9) CHARACTER SET utf8mb3, \
             ADD zz enum('a', 'é') CHARACTER SET latin1, ADD zt datetime(3), ADD zd decimal(65, 30), \
             ADD zb bit(11)",
        )
        .await;
    legacy
        .execute(
            "UPDATE vals SET y = 'é € ‰', z = 'ab  ', zz = 'é', zt = '2026-02-03 04:05:06.7', \
             zd = -12345678901234567890.0000000001, zb = 1026 WHERE id = 1",
        )
        .await;
    let mut columns = [&OF_MARIADB[..], &["y", "z", "zz", "zt", "zd", "zb"]].concat();
    if is_mysql() {
        // In a form of its own in the log, which nobody reads here.
        columns.retain(|name| *name != "u");
        legacy.execute("ALTER TABLE vals DROP COLUMN u").await;
    }
    alike(legacy, &columns, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_sqlite() {
    let legacy = Db::lite(
        "CREATE TABLE vals (id integer PRIMARY KEY, a, b text, c real, d integer, touched integer); \
         INSERT INTO vals VALUES (1, x'00ff', 'it''s' || char(0) || 'é', 0.1, 9223372036854775807, 0), \
         (2, 1e300, '', -1.5e-200, -9223372036854775808, 0), (3, NULL, ',=''NULL', 3, NULL, 0), \
         (4, 0.1 + 0.2, char(0), 12345678901234567.0, 0, 0), (5, x'', X'27', 1e15, 1, 0), \
         (6, 5, 'X''00''', -0.0, 2, 0), (7, 123456789.12345678, '1', 2.2250738585072014e-308, 3, 0)",
    )
    .await;
    alike(legacy, &["id", "a", "b", "c", "d"], 7).await;
}
