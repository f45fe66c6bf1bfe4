//! The reviews' reads.
//!
//! Owns the handlers that change nothing; each reads one state of the file. Refuses identities:
//! anybody may look.

use std::collections::BTreeMap;

use axum::extract::{Query, State};
use axum::response::Response;
use extracted_kit::answer::{self, Failure, Stamped};
use extracted_kit::defects::Defect;
use extracted_kit::money::Cents;
use extracted_kit::segment::Segment;
use extracted_kit::service::Service;
use http::StatusCode;
use serde::Serialize;
use sqlx::{QueryBuilder, Sqlite};

use crate::review::{self, Review, ReviewRow, average};

/// Reviews on a page.
const PER_PAGE: i64 = 20;

#[derive(Serialize)]
struct ReviewList {
    product_id: i64,
    page: i64,
    total: i64,
    average: Option<Cents>,
    reviews: Vec<Review>,
}

/// `GET /api/products/{id}/reviews`
///
/// # Errors
/// 404 for a number that no product can have, 400 for a bad page.
pub async fn list_reviews(
    State(service): State<Service>,
    Segment(product_id): Segment,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Failure> {
    let product_id = product_number(&product_id)?;
    let page = page_number(&query)?;
    let defects = service.defects();
    let mut tx = service.database().read().await?;
    let (total, sum): (i64, i64) = sqlx::query_as(
        "SELECT COUNT(*), COALESCE(SUM(stars), 0) FROM review
         WHERE product_id = ? AND state = 'approved'",
    )
    .bind(product_id)
    .fetch_one(&mut *tx)
    .await?;
    let rows: Vec<ReviewRow> = page_of(product_id, page, defects.is(Defect::StaleSort))
        .build_query_as()
        .fetch_all(&mut *tx)
        .await?;
    let reviews = rows
        .into_iter()
        .map(|row| row.show(defects))
        .collect::<Result<Vec<_>, Failure>>()?;
    let average = average(sum, total, defects.is(Defect::PriceRounding));
    answer::json(
        StatusCode::OK,
        &Stamped::now(ReviewList {
            product_id,
            page,
            total,
            average,
            reviews,
        }),
    )
}

/// The statement that reads a page; planted wrong, the oldest come first, as from a list that is
/// never sorted again.
fn page_of(product_id: i64, page: i64, stale: bool) -> QueryBuilder<Sqlite> {
    let mut sql = QueryBuilder::new("SELECT ");
    sql.push(review::COLUMNS);
    sql.push(" FROM review r JOIN review_text t ON t.review_id = r.id WHERE r.product_id = ");
    sql.push_bind(product_id)
        .push(" AND r.state = 'approved' ORDER BY ");
    sql.push(if stale {
        "r.posted_at, r.id"
    } else {
        "r.posted_at DESC, r.id DESC"
    });
    sql.push(" LIMIT ").push_bind(PER_PAGE);
    sql.push(" OFFSET ")
        .push_bind((page - 1).saturating_mul(PER_PAGE));
    sql
}

/// `GET /api/reviews/{id}`
///
/// # Errors
/// 404 when there is none.
pub async fn show_review(
    State(service): State<Service>,
    Segment(id): Segment,
) -> Result<Response, Failure> {
    let id = review_number(&id)?;
    let mut tx = service.database().read().await?;
    let mut sql = QueryBuilder::<Sqlite>::new("SELECT ");
    sql.push(review::COLUMNS);
    sql.push(" FROM review r JOIN review_text t ON t.review_id = r.id WHERE r.id = ");
    sql.push_bind(id);
    let row: Option<ReviewRow> = sql.build_query_as().fetch_optional(&mut *tx).await?;
    let review = row.ok_or_else(no_such_review)?.show(service.defects())?;
    answer::json(StatusCode::OK, &Stamped::now(review))
}

fn page_number(query: &BTreeMap<String, String>) -> Result<i64, Failure> {
    match query.get("page").map(String::as_str) {
        None | Some("") => Ok(1),
        Some(text) => text
            .parse::<i64>()
            .map(|page| page.max(1))
            .map_err(|_| Failure::bad_request("`page` must be a number")),
    }
}

/// Numbers of products begin at 1; whether this one exists, the catalog knows.
pub(crate) fn product_number(text: &str) -> Result<i64, Failure> {
    text.parse()
        .ok()
        .filter(|id| *id > 0)
        .ok_or_else(|| Failure::not_found("no such product"))
}

pub(crate) fn review_number(text: &str) -> Result<i64, Failure> {
    text.parse().map_err(|_| no_such_review())
}

pub(crate) fn no_such_review() -> Failure {
    Failure::not_found("no such review")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_begin_at_one() {
        let page = |text: &str| {
            page_number(&BTreeMap::from([("page".to_owned(), text.to_owned())]))
                .map_err(|failure| failure.status().as_u16())
        };
        assert_eq!(page_number(&BTreeMap::new()).unwrap(), 1);
        assert_eq!(
            (page("3"), page("0"), page("-7"), page("")),
            (Ok(3), Ok(1), Ok(1), Ok(1))
        );
        assert_eq!((page("x"), page("1.5")), (Err(400), Err(400)));
        let sql = page_of(1, i64::MAX, false);
        assert!(sql.sql().as_str().contains("OFFSET"));
    }
}
