//! The sales report: one line a month, sent as it is computed.
//!
//! Owns a long-running streamed answer. It has never asked for a login: the office screens that
//! show it cannot log in.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use sqlx::SqlitePool;
use std::collections::VecDeque;
use std::time::Duration;

use crate::answer::Stamp;
use crate::error::Failure;
use crate::input::Args;
use crate::money::Cents;
use crate::shop::Shop;

/// The longest rest between two months, in milliseconds.
const PACE_MS_MAX: i64 = 5_000;

/// What is still to be sent.
enum Part {
    Head(String),
    Month(String),
    Sum,
}

struct Work {
    pool: SqlitePool,
    parts: VecDeque<Part>,
    pace: Duration,
    orders: i64,
    revenue_cents: i64,
}

impl Work {
    async fn part(&mut self, part: Part) -> Result<String, sqlx::Error> {
        match part {
            Part::Head(head) => Ok(head),
            Part::Sum => Ok(format!(
                "total    orders={} revenue={} EUR\n",
                self.orders,
                Cents(self.revenue_cents)
            )),
            Part::Month(month) => {
                if !self.pace.is_zero() {
                    tokio::time::sleep(self.pace).await;
                }
                let (orders, cents) = month_totals(&self.pool, &month).await?;
                self.orders += orders;
                self.revenue_cents += cents;
                let best = best_seller(&self.pool, &month).await?;
                let best = best.unwrap_or_else(|| "-".to_owned());
                Ok(format!(
                    "{month}  orders={orders} revenue={} EUR best={best}\n",
                    Cents(cents)
                ))
            }
        }
    }
}

/// Months are compared as text: `2025-01` sorts before all its days, `2025-01~` after them.
async fn month_totals(pool: &SqlitePool, month: &str) -> Result<(i64, i64), sqlx::Error> {
    sqlx::query_as(
        "SELECT count(*), coalesce(sum(CAST(REPLACE(total, '.', '') AS INTEGER)), 0) FROM orders \
         WHERE created_at >= ?1 AND created_at < ?1 || '~' AND status <> 'cancelled'",
    )
    .bind(month)
    .fetch_one(pool)
    .await
}

async fn best_seller(pool: &SqlitePool, month: &str) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT p.name FROM orders o JOIN order_items i ON i.order_id = o.id \
         JOIN products p ON p.id = i.product_id \
         WHERE o.created_at >= ?1 AND o.created_at < ?1 || '~' AND o.status <> 'cancelled' \
         GROUP BY p.id ORDER BY sum(i.quantity) DESC, p.id LIMIT 1",
    )
    .bind(month)
    .fetch_optional(pool)
    .await
}

/// All months from the first `YYYY-MM` to the last.
fn months(first: &str, last: &str) -> Vec<String> {
    let parse = |text: &str| {
        let year: i64 = text.get(..4)?.parse().ok()?;
        let month: i64 = text.get(5..7)?.parse().ok()?;
        Some(year * 12 + month - 1)
    };
    match (parse(first), parse(last)) {
        // A century bounds what a broken timestamp in the table can cost.
        (Some(first), Some(last)) => (first..=last)
            .take(1200)
            .map(|month| format!("{:04}-{:02}", month / 12, month % 12 + 1))
            .collect(),
        _ => Vec::new(),
    }
}

/// `GET /reports/sales`; `?pace_ms=` rests before each month, to spare the database.
pub(crate) async fn sales(
    State(shop): State<Shop>,
    stamp: Stamp,
    args: Args,
) -> Result<Response, Failure> {
    let pool = shop.database().readers().clone();
    let (first, last): (Option<String>, Option<String>) =
        sqlx::query_as("SELECT min(created_at), max(created_at) FROM orders")
            .fetch_one(&pool)
            .await?;
    let head = format!(
        "sales report, request {}, generated {}\n",
        stamp.request_id, stamp.generated_at
    );
    let months = months(&first.unwrap_or_default(), &last.unwrap_or_default());
    let parts = std::iter::once(Part::Head(head))
        .chain(months.into_iter().map(Part::Month))
        .chain(std::iter::once(Part::Sum))
        .collect();
    let pace = args.number("pace_ms")?.unwrap_or(0).clamp(0, PACE_MS_MAX);
    let pace = Duration::from_millis(pace.unsigned_abs());
    let work = Work {
        pool,
        parts,
        pace,
        orders: 0,
        revenue_cents: 0,
    };
    let lines = stream::try_unfold(work, async |mut work| {
        let Some(part) = work.parts.pop_front() else {
            return Ok(None);
        };
        // An error cuts the connection: a report that ends early must not look whole.
        let text = work.part(part).await.inspect_err(|why| {
            tracing::error!(%why, "sales report broken off");
        })?;
        Ok::<_, sqlx::Error>(Some((Bytes::from(text), work)))
    });
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_run_over_the_turn_of_the_year() {
        assert_eq!(
            months("2024-11-30 23:00:00", "2025-02-01 00:00:00"),
            ["2024-11", "2024-12", "2025-01", "2025-02"]
        );
        assert!(months("", "2025-01").is_empty());
        assert!(months("é-é-é-é", "x").is_empty());
    }
}
