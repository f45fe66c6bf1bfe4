//! Orders and their lines, two tables that refer to one another: a reader of the passive side never sees
//! an order whose total is not that of its lines, while two writers write and the bridge is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use outgrow_bridge::{Limits, Link, LinkSpec, TableSpec, Transactions};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::crash::{child_between, was_aborted};
use crate::mapping::{entry, same, verified};
use crate::postgres::Db;
use crate::shop::{Dice, WAIT, copied};

const LEGACY: &str = "CREATE TABLE orders (id int PRIMARY KEY, total int NOT NULL); \
     CREATE TABLE line (id int PRIMARY KEY, order_id int NOT NULL REFERENCES orders (id), amount int NOT NULL)";
const EXTRACTED: &str = "CREATE TABLE purchase (id int PRIMARY KEY, cents int NOT NULL); \
     CREATE TABLE entry (id int PRIMARY KEY, purchase_id int NOT NULL REFERENCES purchase (id), cents int NOT NULL)";
/// Orders that do not add up.
const TORN: &str = "SELECT count(*) FROM purchase p WHERE p.cents <> \
     (SELECT coalesce(sum(e.cents), 0) FROM entry e WHERE e.purchase_id = p.id)";
const TORN_THERE: &str = "SELECT count(*) FROM orders o WHERE o.total <> \
     (SELECT coalesce(sum(l.amount), 0) FROM line l WHERE l.order_id = o.id)";
/// As a process of its own is told of it.
pub(crate) const ORDERS: &str = "orders";

pub(crate) fn tables() -> Vec<TableSpec> {
    let order = vec![("id", same("id")), ("cents", same("total"))];
    let line = vec![
        ("id", same("id")),
        ("purchase_id", same("order_id")),
        ("cents", same("amount")),
    ];
    vec![
        entry("orders", "purchase", order),
        entry("line", "entry", line),
    ]
}

pub(crate) fn tighten(limits: &mut Limits) {
    limits.transactions = Transactions::Whole;
    // Less than a transaction has.
    limits.batch_changes = 3;
}

/// What one writer does at once; what another has locked or taken away refuses the whole of it.
fn transaction(dice: &mut Dice, number: u64) -> Vec<String> {
    let order = 1 + dice.roll(20);
    let (line, other, more) = (dice.roll(number), dice.roll(number), 1 + dice.roll(90));
    let raised = |line: u64, by: i64| {
        [
            format!("UPDATE line SET amount = amount + {by} WHERE id = {line}"),
            format!(
                "UPDATE orders SET total = total + {by} WHERE id = (SELECT order_id FROM line WHERE id = {line})"
            ),
        ]
    };
    let by = i64::try_from(more).unwrap();
    match dice.roll(6) {
        0 => vec![
            format!("DELETE FROM line WHERE order_id = {order}"),
            format!("DELETE FROM orders WHERE id = {order}"),
        ],
        1 | 2 => vec![
            format!("INSERT INTO orders VALUES ({order}, {})", 3 * more),
            format!("INSERT INTO line VALUES ({number}, {order}, {more})"),
            format!(
                "INSERT INTO line VALUES ({}, {order}, {})",
                number + 1,
                2 * more
            ),
        ],
        3 => vec![
            format!("UPDATE orders SET total = total + {more} WHERE id = {order}"),
            format!("INSERT INTO line VALUES ({number}, {order}, {more})"),
        ],
        _ => [raised(line.min(other), by), raised(line.max(other), -by)].concat(),
    }
}

fn spec(legacy: &Db, extracted: &Db) -> LinkSpec {
    let mut spec = crate::mapping::spec(legacy, extracted, tables());
    spec.slice = ORDERS.parse().unwrap();
    tighten(&mut spec.limits);
    spec
}

/// Writes until it is told to end.
async fn write(db: Arc<Db>, seed: u64, ended: Arc<AtomicBool>) -> u64 {
    let (mut dice, mut kept) = (Dice(seed), 0);
    let mut number = 10 + seed;
    while !ended.load(Ordering::Relaxed) {
        // Those of two writers are never the same.
        number += 8;
        let texts = transaction(&mut dice, number);
        kept += u64::from(db.transaction(&texts, true).await);
    }
    kept
}

async fn none_torn(legacy: Db, extracted: Db, how: &str) {
    let (legacy, extracted) = (Arc::new(legacy), Arc::new(extracted));
    let mut spec = spec(&legacy, &extracted);
    if how.ends_with("by replication") {
        let logs = outgrow_bridge::Capture::Replication;
        spec.legacy = spec.legacy.capturing(logs).unwrap();
        spec.extracted = spec.extracted.capturing(logs).unwrap();
    }
    let link = Link::open(spec.clone()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    link.shutdown().await;
    let ended = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = [3, 4]
        .map(|seed| tokio::spawn(write(legacy.clone(), seed, ended.clone())))
        .into();
    let (read, torn) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let reader = tokio::spawn({
        let (db, ended, read, torn) =
            (extracted.clone(), ended.clone(), read.clone(), torn.clone());
        async move {
            while !ended.load(Ordering::Relaxed) {
                let seen = u64::try_from(db.number(TORN).await).unwrap();
                torn.fetch_add(seen, Ordering::Relaxed);
                read.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    for (point, after) in [("after-rows", 4), ("before-commit", 7), ("after-commit", 9)] {
        let mut process = child_between(&legacy.url(), &extracted.url(), how, point, after);
        assert!(was_aborted(process.wait().await.unwrap()), "{point}");
    }
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    let looks = read.load(Ordering::Relaxed);
    eventually("more looks", WAIT, || async {
        (read.load(Ordering::Relaxed) > looks + 20).then_some(())
    })
    .await;
    ended.store(true, Ordering::Relaxed);
    let mut kept = 0;
    for writer in writers {
        kept += writer.await.unwrap();
    }
    reader.await.unwrap();
    assert!(kept > 50, "{kept} transactions");
    assert_eq!(legacy.number(TORN_THERE).await, 0, "the writers are right");
    let torn = torn.load(Ordering::Relaxed);
    assert_eq!(torn, 0, "in {} looks", read.load(Ordering::Relaxed));
    verified(&link).await;
    assert_eq!(extracted.number(TORN).await, 0);
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_sqlite() {
    none_torn(Db::lite(LEGACY).await, Db::lite(EXTRACTED).await, ORDERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_postgres_by_its_log() {
    let how = "orders by replication";
    none_torn(Db::pg(LEGACY).await, Db::pg(EXTRACTED).await, how).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_mariadb_by_its_log() {
    let how = "orders by replication";
    none_torn(Db::logged(LEGACY).await, Db::pg(EXTRACTED).await, how).await;
}
