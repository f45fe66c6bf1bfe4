//! "Bought together": a batch job counts which products share orders.
//!
//! Owns `recommendations`. Refuses to hold the writer for long: it writes only what changed, in
//! small transactions, so a checkout never waits for the whole job.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use sqlx::{Sqlite, Transaction};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use crate::answer::{self, Stamp};
use crate::error::Failure;
use crate::input::Id;
use crate::session::Staff;
use crate::shop::Shop;

/// How many companions a product has.
const COMPANIONS: usize = 5;
/// Only the newest orders count: it bounds the job's memory and follows the fashion.
const ORDERS_MAX: i64 = 50_000;
/// Products per transaction: some milliseconds of the writer.
const BATCH: usize = 200;

/// product -> its companions as (product, shared orders), best first.
type Companions = BTreeMap<i64, Vec<(i64, i64)>>;

/// Counts the pairs of each basket; ties go to the lower id. A basket names a product once.
fn count(baskets: &[Vec<i64>]) -> Companions {
    let mut pairs: HashMap<(i64, i64), i64> = HashMap::new();
    for basket in baskets {
        for one in basket {
            for other in basket.iter().filter(|other| *other != one) {
                *pairs.entry((*one, *other)).or_default() += 1;
            }
        }
    }
    let mut companions = Companions::new();
    for ((one, other), score) in pairs {
        companions.entry(one).or_default().push((other, score));
    }
    for list in companions.values_mut() {
        list.sort_by_key(|(other, score)| (-score, *other));
        list.truncate(COMPANIONS);
    }
    companions
}

fn numbers(text: &str) -> Vec<i64> {
    text.split(',')
        .filter_map(|number| number.parse().ok())
        .collect()
}

async fn stored(shop: &Shop) -> Result<Companions, Failure> {
    // One row per product: tens of thousands of single rows cost more than the parsing.
    let rows: Vec<(i64, String, String)> = sqlx::query_as(
        "SELECT product_id, group_concat(other_id), group_concat(score) FROM \
         (SELECT * FROM recommendations ORDER BY product_id, score DESC, other_id) \
         GROUP BY product_id",
    )
    .fetch_all(shop.database().readers())
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, others, scores)| {
            (
                id,
                numbers(&others).into_iter().zip(numbers(&scores)).collect(),
            )
        })
        .collect())
}

async fn wanted(shop: &Shop) -> Result<Companions, Failure> {
    let rows: Vec<String> = sqlx::query_scalar(
        "SELECT group_concat(DISTINCT product_id) FROM order_items \
         WHERE order_id > (SELECT coalesce(max(id), 0) FROM orders) - ? GROUP BY order_id",
    )
    .bind(ORDERS_MAX)
    .fetch_all(shop.database().readers())
    .await?;
    let counted = tokio::task::spawn_blocking(move || {
        let baskets: Vec<Vec<i64>> = rows.iter().map(|row| numbers(row)).collect();
        count(&baskets)
    });
    counted
        .await
        .map_err(|error| Failure::Unexpected(format!("recommendations: {error}")))
}

/// Brings the table up to date; returns how many products got other companions.
pub(crate) async fn recompute(shop: &Shop) -> Result<usize, Failure> {
    let _alone = shop.recompute_lock().lock().await;
    let wanted = wanted(shop).await?;
    let stored = stored(shop).await?;
    let changed: Vec<i64> = wanted
        .keys()
        .chain(stored.keys().filter(|id| !wanted.contains_key(id)))
        .filter(|id| wanted.get(id) != stored.get(id))
        .copied()
        .collect();
    for batch in changed.chunks(BATCH) {
        let mut tx = shop.database().write().await?;
        for id in batch {
            replace(&mut tx, *id, wanted.get(id).map_or(&[], Vec::as_slice)).await?;
        }
        tx.commit().await?;
    }
    Ok(changed.len())
}

async fn replace(
    tx: &mut Transaction<'static, Sqlite>,
    id: i64,
    companions: &[(i64, i64)],
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM recommendations WHERE product_id = ?")
        .bind(id)
        .execute(&mut **tx)
        .await?;
    for (other, score) in companions {
        sqlx::query("INSERT INTO recommendations(product_id, other_id, score) VALUES (?, ?, ?)")
            .bind(id)
            .bind(other)
            .bind(score)
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// Recomputes now and each `period` until cancelled. A failed run is logged; the next starts
/// afresh.
pub(crate) async fn run(shop: Shop, period: Duration, cancel: CancellationToken) {
    loop {
        // Cancelling between two statements undoes the open transaction only.
        match cancel.run_until_cancelled(recompute(&shop)).await {
            Some(Ok(changed)) => tracing::debug!(changed, "recommendations recomputed"),
            Some(Err(why)) => tracing::warn!(%why, "cannot recompute recommendations"),
            None => return,
        }
        if cancel
            .run_until_cancelled(tokio::time::sleep(period))
            .await
            .is_none()
        {
            return;
        }
    }
}

/// A companion of a product.
#[derive(Debug, Serialize)]
pub(crate) struct Companion {
    product_id: i64,
    name: String,
    price: String,
    score: i64,
}

/// What was bought together with a product, joined with the catalog.
pub(crate) async fn of_product(shop: &Shop, id: i64) -> Result<Vec<Companion>, Failure> {
    let rows: Vec<(i64, String, String, i64)> = sqlx::query_as(
        "SELECT p.id, p.name, p.price, r.score FROM recommendations r \
         JOIN products p ON p.id = r.other_id WHERE r.product_id = ? \
         ORDER BY r.score DESC, p.id",
    )
    .bind(id)
    .fetch_all(shop.database().readers())
    .await?;
    Ok(rows
        .into_iter()
        .map(|(product_id, name, price, score)| Companion {
            product_id,
            name,
            price,
            score,
        })
        .collect())
}

#[derive(Serialize)]
struct Recommendations {
    product_id: i64,
    recommendations: Vec<Companion>,
}

/// `GET /api/recommendations/{product_id}`
pub(crate) async fn show(
    State(shop): State<Shop>,
    stamp: Stamp,
    id: Id,
) -> Result<Response, Failure> {
    let product_id = id.of("product")?;
    let recommendations = of_product(&shop, product_id).await?;
    answer::ok(
        &stamp,
        &Recommendations {
            product_id,
            recommendations,
        },
    )
}

#[derive(Serialize)]
struct Recomputed {
    changed_products: usize,
}

/// `POST /admin/recommendations/recompute`
pub(crate) async fn recompute_now(
    State(shop): State<Shop>,
    stamp: Stamp,
    _: Staff,
) -> Result<Response, Failure> {
    let changed_products = recompute(&shop).await?;
    answer::ok(&stamp, &Recomputed { changed_products })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_often_shared_comes_first_and_ties_go_to_the_lower_id() {
        let found = count(&[vec![1, 2, 3], vec![1, 3], vec![1, 4], vec![5]]);
        assert_eq!(found[&1], [(3, 2), (2, 1), (4, 1)]);
        assert_eq!(found[&4], [(1, 1)]);
        assert!(!found.contains_key(&5));
    }

    #[test]
    fn no_product_has_more_than_its_share_of_companions() {
        let found = count(&[(1..=20).collect()]);
        assert!(found.values().all(|list| list.len() == COMPANIONS));
    }
}
