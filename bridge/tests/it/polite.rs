//! Transactions of the application's that go through the slice's tables in an order of their own, beside a link that
//! locks these tables: they are never ended by the server for that.

use std::time::Duration;

use outgrow_bridge::{Error, Link};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;
use sqlx::{PgConnection, Postgres, Transaction};

use crate::postgres::Db;
use crate::shop::{WAIT, copied};
use crate::whole_orders::{EXTRACTED, LEGACY, spec};

/// After which the server looks whether a wait will never end.
const LOOKS: Duration = Duration::from_millis(200);

async fn done(tx: &mut PgConnection, text: String) {
    let query = sqlx::query(sqlx::AssertSqlSafe(text));
    let done = tokio::time::timeout(WAIT, query.execute(tx)).await;
    done.unwrap().unwrap();
}

/// Somebody holds one table, and comes to the other one when `locks` has waited for so long that
/// the server would look at the other side of the circle.
async fn crossed<T>(
    legacy: &Db,
    [held, wanted]: [&'static str; 2],
    locks: impl Future<Output = Result<T, Error>>,
) -> T {
    let Db::Pg(server) = legacy else {
        unreachable!("it is PostgreSQL's")
    };
    let mut tx: Transaction<'_, Postgres> = server.pool().begin().await.unwrap();
    let touched = |table| format!("UPDATE {table} SET id = id");
    done(&mut tx, touched(held)).await;
    let other = async {
        eventually("somebody waits for this table", WAIT, || async {
            let waiting = format!(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{held}'::regclass"
            );
            (legacy.number(&waiting).await > 0).then_some(())
        })
        .await;
        // tidy: sleep, because the server looks once, so much later.
        tokio::time::sleep(2 * LOOKS).await;
        done(&mut tx, touched(wanted)).await;
        tx.commit().await.unwrap();
    };
    let (locked, ()) = tokio::join!(locks, other);
    locked.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_the_other_way_round_is_let_through() {
    let rows = "INSERT INTO orders VALUES (1, 5); INSERT INTO line VALUES (1, 1, 5)";
    let legacy = Db::pg(&format!("{LEGACY}; {rows}")).await;
    let extracted = Db::pg(EXTRACTED).await;
    let looks = format!("ALTER SYSTEM SET deadlock_timeout = {}", LOOKS.as_millis());
    legacy.execute(&looks).await;
    legacy.execute("SELECT pg_reload_conf()").await;
    let link = Link::open(spec(&legacy, &extracted, "")).await.unwrap();
    // The triggers are made.
    Box::pin(crossed(
        &legacy,
        ["line", "orders"],
        link.ensure(DataPhase::Copying, Side::Legacy),
    ))
    .await;
    copied(&link).await;
    let place = Box::pin(crossed(
        &legacy,
        ["orders", "line"],
        link.fence(Side::Legacy),
    ))
    .await;
    link.drain(place, WAIT).await.unwrap();
    let raised = "UPDATE orders SET total = 6";
    assert!(!legacy.attempt(raised).await, "it is fenced");
    crate::turning::cut_over(&link, Side::Extracted).await;
    crate::turning::cut_over(&link, Side::Legacy).await;
    assert!(legacy.attempt(raised).await);
    // And taken away again.
    Box::pin(crossed(&legacy, ["line", "orders"], link.close())).await;
}
