//! PostgreSQL under fire: deaths of the bridge, random histories of many writers, rows that the
//! other side refuses, transactions that stay open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use outgrow_bridge::{Link, LinkSpec};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::{Postgres, eventually};
use sqlx::{AssertSqlSafe, PgPool};

use crate::crash::child_between;
use crate::postgres::{Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, Pair, items};
use crate::shop::{Dice, WAIT, copied};
use crate::turning::cut_over;

pub(crate) async fn filled() -> (Db, Db) {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    legacy.execute(&items(1, 150)).await;
    // Ids that the sequence gives out later must be free.
    legacy.execute("SELECT setval('item_id_seq', 10000)").await;
    (legacy, extracted)
}

fn pool(db: &Db) -> PgPool {
    match db {
        Db::Pg(server) => server.pool().clone(),
        Db::Lite(_) | Db::My(_) => unreachable!("these pairs have PostgreSQL here"),
    }
}

/// A statement on the monolith's table. Some will be refused: that is part of a history.
fn change(dice: &mut Dice) -> String {
    let id = 1 + dice.roll(160);
    let other = 1 + dice.roll(160);
    match dice.roll(8) {
        0 => format!("DELETE FROM item WHERE id = {id}"),
        1 => format!("UPDATE item SET id = {} WHERE id = {id}", 200 + other),
        2 => format!("UPDATE item SET code = 'n{other}' WHERE id = {id}"),
        3 => format!(
            "INSERT INTO item (code, price, status, made_at) \
             VALUES ('x{other}-' || gen_random_uuid(), {other}.25, 'A', now())"
        ),
        4 => format!(
            "UPDATE item SET price = price + 0.01 WHERE id BETWEEN {id} AND {}",
            id + 9
        ),
        5 => format!(
            "INSERT INTO item (id, code, price, status, made_at) \
             VALUES ({id}, 'again{id}', 1, 'D', now()) ON CONFLICT DO NOTHING"
        ),
        _ => format!("UPDATE item SET note = 'n' || {other}, weight = {other} WHERE id = {id}"),
    }
}

/// One writer's transactions of one to five statements; every fourth is undone.
async fn history(pool: PgPool, seed: u64, transactions: u32) {
    let mut dice = Dice(seed);
    for _ in 0..transactions {
        let Ok(mut tx) = pool.begin().await else {
            continue;
        };
        let mut whole = true;
        for _ in 0..=dice.roll(5) {
            let text = change(&mut dice);
            whole &= sqlx::query(AssertSqlSafe(text))
                .execute(&mut *tx)
                .await
                .is_ok();
            if !whole {
                break;
            }
            tokio::task::yield_now().await;
        }
        // An error here means that the transaction was undone, which is as good.
        let _ = if whole && dice.roll(4) > 0 {
            tx.commit().await
        } else {
            tx.rollback().await
        };
    }
}

async fn resumed(spec: LinkSpec, pair: &Pair) -> Link {
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    pair.equal().await;
    eventually("no row to be parked", WAIT, || async {
        (link.evidence()?.parked == 0).then_some(())
    })
    .await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    assert_eq!(link.evidence().unwrap().foreign_writes, 0);
    link
}

#[tokio::test(flavor = "multi_thread")]
async fn dying_at_any_point_of_a_batch_loses_nothing() {
    let (legacy, extracted) = filled().await;
    dying(Pair::of(legacy, extracted)).await;
}

pub(crate) async fn dying(pair: Pair) {
    let mut points = vec![
        ("after-read", 2),
        ("after-rows", 3),
        ("before-commit", 5),
        ("after-commit", 9),
    ];
    if pair.is_replicated() {
        points.extend([("log-read", 6), ("log-taken", 8), ("flushed", 2)]);
    }
    for (seed, (point, after)) in (1..).zip(points) {
        let (legacy, extracted) = (pair.legacy.url(), pair.extracted.url());
        let what = pair.child();
        let mut process = child_between(&legacy, &extracted, what, point, after);
        let mut died = None;
        let mut round = seed * 100;
        while died.is_none() {
            history(pool(&pair.legacy), round, 3).await;
            round += 1;
            died = process.try_wait().unwrap();
        }
        assert!(crate::crash::was_aborted(died.unwrap()), "{point}");
        let link = resumed(pair.spec(), &pair).await;
        // The next one begins at the copy again. What is deleted before capture is there would
        // stay on the other side.
        link.close().await.unwrap();
        pair.extracted.execute("TRUNCATE article").await;
    }
}

/// Many writers at once while rows are copied, followed, turned round and followed again; the
/// databases are the oracle.
#[tokio::test(flavor = "multi_thread")]
async fn random_histories_end_equal() {
    let (legacy, extracted) = filled().await;
    histories(Pair::of(legacy, extracted)).await;
}

pub(crate) async fn histories(pair: Pair) {
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    let writers: Vec<_> = (1..=4)
        .map(|seed| tokio::spawn(history(pool(&pair.legacy), seed, 120)))
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    link.shutdown().await;
    let link = resumed(pair.spec(), &pair).await;

    let busy = Arc::new(AtomicBool::new(true));
    let more = tokio::spawn({
        let (pool, busy) = (pool(&pair.legacy), busy.clone());
        async move {
            let mut seed = 50;
            while busy.load(SeqCst) {
                history(pool.clone(), seed, 5).await;
                seed += 1;
            }
        }
    });
    // Writers are refused from the fence on, whatever they are at; none is half carried over.
    cut_over(&link, Side::Extracted).await;
    busy.store(false, SeqCst);
    more.await.unwrap();
    pair.extracted
        .execute("UPDATE article SET price_cents = price_cents + 1 WHERE id % 2 = 0")
        .await;
    pair.equal().await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

/// Somebody's transaction stays open on another table, with a number lower than all that follow.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_stays_open_keeps_no_cutover_from_its_end() {
    let (legacy, extracted) = (Db::pg(LEGACY_PG).await, Db::lite(EXTRACTED_SQLITE).await);
    legacy.execute("CREATE TABLE elsewhere (n int)").await;
    legacy.execute(&items(1, 30)).await;
    let pair = Pair::of(legacy, extracted);
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    copied(&link).await;
    let mut open = pool(&pair.legacy).begin().await.unwrap();
    sqlx::query("INSERT INTO elsewhere VALUES (1)")
        .execute(&mut *open)
        .await
        .unwrap();
    pair.legacy
        .execute("UPDATE item SET note = 'seen' WHERE id < 9")
        .await;
    pair.equal().await;
    cut_over(&link, Side::Extracted).await;
    pair.extracted
        .execute("UPDATE article SET note = 'from there' WHERE id = 3")
        .await;
    pair.equal().await;
    open.rollback().await.unwrap();
    assert_eq!(link.verify().await.unwrap().different, 0);
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_other_side_refuses_is_parked_and_holds_up_nobody() {
    let server = Postgres::with(&format!(
        "{EXTRACTED_PG}; ALTER TABLE article ADD CHECK (price_cents < 100000)"
    ))
    .await;
    let legacy = Db::pg(LEGACY_PG).await;
    legacy.execute(&items(1, 20)).await;
    let extracted = Db::Pg(Box::new(server));
    let pair = Pair::of(legacy, extracted);
    let link = Link::open(pair.spec()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    copied(&link).await;
    pair.legacy
        .execute("UPDATE item SET price = 1000.00 WHERE id IN (3, 4)")
        .await;
    pair.legacy
        .execute("UPDATE item SET note = 'after' WHERE id = 5")
        .await;
    let there = "SELECT count(*) FROM article WHERE note = 'after'";
    eventually("what came after", WAIT, || async {
        (pair.extracted.number(there).await == 1).then_some(())
    })
    .await;
    eventually("two parked rows", WAIT, || async {
        (link.evidence()?.parked == 2).then_some(())
    })
    .await;
    let parked = link.conflicts().await.unwrap();
    let text = serde_json::to_string(&parked).unwrap();
    assert!(text.contains("check constraint"), "{text}");
    // Mended at either end, they come by themselves.
    pair.legacy
        .execute("UPDATE item SET price = 9.99 WHERE id = 3")
        .await;
    pair.extracted
        .execute("ALTER TABLE article DROP CONSTRAINT article_price_cents_check")
        .await;
    pair.equal().await;
    eventually("no parked row", WAIT, || async {
        (link.evidence()?.parked == 0).then_some(())
    })
    .await;
    link.shutdown().await;
}

/// Each makes the functions and tables that a link needs, or finds them made.
#[tokio::test(flavor = "multi_thread")]
async fn processes_that_begin_at_once_do_not_trip_over_each_other() {
    let pair = Pair::of(Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    pair.legacy.execute(&items(1, 20)).await;
    for _ in 0..8 {
        let mut links = Vec::new();
        for _ in 0..3 {
            links.push(Link::open(pair.spec()).await.unwrap());
        }
        let begin = |link: Link| async move {
            let begun = link.ensure(DataPhase::Copying, Side::Legacy).await;
            let said = begun.map_err(|e| e.to_string()).err().unwrap_or_default();
            let good = said.is_empty() || said.contains("another bridge process has taken over");
            assert!(good, "{said}");
            link
        };
        let begun = links.into_iter().map(|link| tokio::spawn(begin(link)));
        for link in begun.collect::<Vec<_>>() {
            link.await.unwrap().shutdown().await;
        }
        // What is made next is made anew.
        let drop = "DROP SCHEMA IF EXISTS _outgrow CASCADE";
        pair.legacy.execute(drop).await;
        pair.extracted.execute(drop).await;
    }
}
