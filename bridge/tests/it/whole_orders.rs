//! Orders and their lines, two tables that refer to one another: a reader of the passive side never sees
//! an order whose total is not that of its lines, while two writers write and the bridge is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use outgrow_bridge::{Capture, Limits, Link, LinkSpec, TableSpec, Transactions};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::crash::{child_between, was_aborted};
use crate::mapping::{entry, same, verified};
use crate::postgres::Db;
use crate::shop::{Dice, WAIT, copied};

pub(crate) const LEGACY: &str = "CREATE TABLE orders (id int PRIMARY KEY, total int NOT NULL); \
     CREATE TABLE line (id int PRIMARY KEY, order_id int NOT NULL REFERENCES orders (id), amount int NOT NULL)";
pub(crate) const EXTRACTED: &str = "CREATE TABLE purchase (id int PRIMARY KEY, cents int NOT NULL); \
     CREATE TABLE entry (id int PRIMARY KEY, purchase_id int NOT NULL REFERENCES purchase (id), cents int NOT NULL)";
/// As a process of its own is told of it.
pub(crate) const ORDERS: &str = "orders";
/// The end of what it is told where changes are read from logs.
pub(crate) const BY_LOGS: &str = " by replication";

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

/// What one side calls it.
pub(crate) struct Names {
    orders: &'static str,
    total: &'static str,
    line: &'static str,
    order: &'static str,
    amount: &'static str,
}

impl Names {
    pub(crate) fn of(side: Side) -> Self {
        match side {
            Side::Legacy => Self {
                orders: "orders",
                total: "total",
                line: "line",
                order: "order_id",
                amount: "amount",
            },
            Side::Extracted => Self {
                orders: "purchase",
                total: "cents",
                line: "entry",
                order: "purchase_id",
                amount: "cents",
            },
        }
    }

    /// How many orders do not add up.
    pub(crate) fn torn(&self) -> String {
        let Self {
            orders,
            total,
            line,
            order,
            amount,
        } = self;
        format!(
            "SELECT count(*) FROM {orders} o WHERE o.{total} <> \
             (SELECT coalesce(sum(l.{amount}), 0) FROM {line} l WHERE l.{order} = o.id)"
        )
    }

    fn new_order(&self, id: u64, number: u64, amount: u64) -> Vec<String> {
        let Self { orders, line, .. } = self;
        vec![
            format!("INSERT INTO {orders} VALUES ({id}, {})", 3 * amount),
            format!("INSERT INTO {line} VALUES ({number}, {id}, {amount})"),
            format!(
                "INSERT INTO {line} VALUES ({}, {id}, {})",
                number + 1,
                2 * amount
            ),
        ]
    }

    fn deleted(&self, id: u64) -> Vec<String> {
        let Self {
            orders,
            line,
            order,
            ..
        } = self;
        vec![
            format!("DELETE FROM {line} WHERE {order} = {id}"),
            format!("DELETE FROM {orders} WHERE id = {id}"),
        ]
    }

    fn raised(&self, which: u64, by: i64) -> Vec<String> {
        let Self {
            orders,
            total,
            line,
            order,
            amount,
        } = self;
        vec![
            format!("UPDATE {line} SET {amount} = {amount} + {by} WHERE id = {which}"),
            format!(
                "UPDATE {orders} SET {total} = {total} + {by} \
                 WHERE id = (SELECT {order} FROM {line} WHERE id = {which})"
            ),
        ]
    }

    /// A line goes to another order.
    fn moved(&self, which: u64, to: u64) -> Vec<String> {
        let Self {
            orders,
            total,
            line,
            order,
            amount,
        } = self;
        let its = format!("(SELECT {amount} FROM {line} WHERE id = {which})");
        let there = format!("EXISTS (SELECT 1 FROM {line} WHERE id = {which})");
        vec![
            // Nobody else has it from here on.
            format!("UPDATE {line} SET {amount} = {amount} WHERE id = {which}"),
            format!(
                "UPDATE {orders} SET {total} = {total} - {its} \
                 WHERE id = (SELECT {order} FROM {line} WHERE id = {which})"
            ),
            format!("UPDATE {orders} SET {total} = {total} + {its} WHERE id = {to} AND {there}"),
            format!("UPDATE {line} SET {order} = {to} WHERE id = {which}"),
        ]
    }

    /// An order gets another id, and its lines go with it.
    fn renumbered(&self, from: u64, to: u64) -> Vec<String> {
        let Self {
            orders,
            total,
            line,
            order,
            ..
        } = self;
        vec![
            format!("UPDATE {orders} SET {total} = {total} WHERE id = {from}"),
            format!("INSERT INTO {orders} SELECT {to}, {total} FROM {orders} WHERE id = {from}"),
            format!("UPDATE {line} SET {order} = {to} WHERE {order} = {from}"),
            format!("DELETE FROM {orders} WHERE id = {from}"),
        ]
    }
}

/// What one writer does at once, kept or not: what another has locked or taken away refuses the whole of it.
pub(crate) async fn written(db: &Db, side: Side, dice: &mut Dice, number: u64) -> bool {
    let mut texts = transaction(&Names::of(side), dice, number);
    if let Db::Pg(_) = db {
        // Or a line that comes between two statements is in one and not in the other.
        let alone = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE".to_owned();
        texts.insert(0, alone);
    }
    db.transaction(&texts, true).await
}

fn transaction(names: &Names, dice: &mut Dice, number: u64) -> Vec<String> {
    let (order, other_order) = (1 + dice.roll(20), 1 + dice.roll(20));
    let (line, other, more) = (dice.roll(number), dice.roll(number), 1 + dice.roll(90));
    let by = i64::try_from(more).unwrap();
    let Names {
        orders,
        total,
        line: lines,
        ..
    } = names;
    match dice.roll(9) {
        0 => names.deleted(order),
        1 | 2 => names.new_order(order, number, more),
        3 => vec![
            format!("UPDATE {orders} SET {total} = {total} + {more} WHERE id = {order}"),
            format!("INSERT INTO {lines} VALUES ({number}, {order}, {more})"),
        ],
        4 => names.moved(line, order),
        5 => names.renumbered(order, other_order),
        // Gone and there again, with the same ids.
        6 => [
            names.deleted(order),
            names.new_order(order, number, more),
            names.deleted(order),
            names.new_order(order, number, more + 1),
        ]
        .concat(),
        _ => [
            names.raised(line.min(other), by),
            names.raised(line.max(other), -by),
        ]
        .concat(),
    }
}

pub(crate) fn spec(legacy: &Db, extracted: &Db, how: &str) -> LinkSpec {
    let mut spec = crate::mapping::spec(legacy, extracted, tables());
    spec.slice = ORDERS.parse().unwrap();
    // Who may not turn references off has the harder task.
    spec.legacy = legacy.least().parse().unwrap();
    spec.extracted = extracted.least().parse().unwrap();
    tighten(&mut spec.limits);
    if how.ends_with(BY_LOGS) {
        for url in [&mut spec.legacy, &mut spec.extracted] {
            if !url.to_string().starts_with("sqlite:") {
                *url = url.clone().capturing(Capture::Replication).unwrap();
            }
        }
    }
    spec
}

/// Writes until it is told to end.
async fn write(db: Arc<Db>, seed: u64, ended: Arc<AtomicBool>) -> u64 {
    let (mut dice, mut kept) = (Dice(seed), 0);
    let mut number = 10 + seed;
    while !ended.load(Ordering::Relaxed) {
        // Those of two writers are never the same.
        number += 8;
        kept += u64::from(written(&db, Side::Legacy, &mut dice, number).await);
    }
    kept
}

async fn none_torn(legacy: Db, extracted: Db, how: &str) {
    let (legacy, extracted) = (Arc::new(legacy), Arc::new(extracted));
    let spec = spec(&legacy, &extracted, how);
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
            let torn_there = Names::of(Side::Extracted).torn();
            while !ended.load(Ordering::Relaxed) {
                let seen = u64::try_from(db.number(&torn_there).await).unwrap();
                torn.fetch_add(seen, Ordering::Relaxed);
                read.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    for (point, after) in [("after-rows", 4), ("before-commit", 7), ("after-commit", 9)] {
        let mut process = child_between(&legacy.least(), &extracted.least(), how, point, after);
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
    assert_eq!(
        legacy.number(&Names::of(Side::Legacy).torn()).await,
        0,
        "the writers are right"
    );
    let torn = torn.load(Ordering::Relaxed);
    assert_eq!(torn, 0, "in {} looks", read.load(Ordering::Relaxed));
    verified(&link).await;
    assert_eq!(
        extracted.number(&Names::of(Side::Extracted).torn()).await,
        0
    );
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
