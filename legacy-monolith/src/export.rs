//! Orders as CSV, for the accountants.
//!
//! Owns the export's format. Reads in key order, page by page, and sends as it reads: memory does
//! not grow with the shop.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use sqlx::SqlitePool;
use std::fmt::Write as _;

use crate::answer::{self, Stamp};
use crate::error::Failure;
use crate::session::Staff;
use crate::shop::Shop;

/// Orders per read: about 50 KB of text.
const BATCH: i64 = 500;
const HEAD: &str = "id,ref,customer,email,status,items,total,currency,created_at\r\n";

type OrderLine = (
    i64,
    String,
    String,
    String,
    String,
    i64,
    String,
    String,
    String,
);

/// One field, quoted when RFC 4180 asks for it.
///
/// Text that a spreadsheet would run as a formula is made plain by a leading apostrophe.
fn field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t']);
    let text = if formula {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

fn lines(rows: &[OrderLine]) -> String {
    let mut text = String::new();
    for (id, reference, customer, email, status, items, total, currency, created) in rows {
        // Writing into a String cannot fail.
        let _ = write!(
            text,
            "{id},{},{},{},{status},{items},{total},{currency},{created}\r\n",
            field(reference),
            field(customer),
            field(email)
        );
    }
    text
}

async fn batch(pool: &SqlitePool, after: i64) -> Result<Vec<OrderLine>, sqlx::Error> {
    sqlx::query_as(
        "SELECT o.id, o.ref, u.name, u.email, o.status, \
         (SELECT coalesce(sum(quantity), 0) FROM order_items i WHERE i.order_id = o.id), \
         o.total, o.currency, o.created_at FROM orders o JOIN users u ON u.id = o.user_id \
         WHERE o.id > ? ORDER BY o.id LIMIT ?",
    )
    .bind(after)
    .bind(BATCH)
    .fetch_all(pool)
    .await
}

/// `GET /export/orders.csv`
pub(crate) async fn orders_csv(
    State(shop): State<Shop>,
    stamp: Stamp,
    _: Staff,
) -> Result<Response, Failure> {
    let pool = shop.database().readers().clone();
    let rows = stream::try_unfold((pool, 0), async |(pool, after)| {
        // An error here cuts the connection: the client must not take half a file for the whole.
        let rows = batch(&pool, after).await.inspect_err(|why| {
            tracing::error!(%why, after, "export broken off");
        })?;
        let next = rows
            .last()
            .map(|row| (Bytes::from(lines(&rows)), (pool, row.0)));
        Ok::<_, sqlx::Error>(next)
    });
    let head = stream::once(async { Ok(Bytes::from_static(HEAD.as_bytes())) });
    let body = Body::from_stream(futures_util::StreamExt::chain(head, rows));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/csv; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        CONTENT_DISPOSITION,
        HeaderValue::from_static("attachment; filename=\"orders.csv\""),
    );
    headers.insert(answer::REQUEST_ID, answer::header(&stamp.request_id)?);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_and_formulas_disarmed() {
        assert_eq!(field("plain"), "plain");
        assert_eq!(field("a,b"), "\"a,b\"");
        assert_eq!(field("say \"hi\"\n"), "\"say \"\"hi\"\"\n\"");
        assert_eq!(field("=1+1"), "'=1+1");
        assert_eq!(field("@SUM(A1,A2)"), "\"'@SUM(A1,A2)\"");
    }
}
