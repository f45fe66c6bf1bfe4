//! The catalog's reads.
//!
//! Owns the handlers that change nothing; each reads one state of the file. Refuses identities:
//! anybody may look.

use std::collections::BTreeMap;

use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use extracted_kit::answer::{self, Failure, Stamped};
use extracted_kit::defects::Defect;
use extracted_kit::money::Cents;
use extracted_kit::segment::Segment;
use extracted_kit::service::Service;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use crate::listing::Listing;
use crate::product::{self, Product, ProductRow, is_current, moment, with_etag};

/// Price changes shown for a product; older ones are for reports.
const CHANGES_MAX: i64 = 50;

#[derive(Serialize)]
struct ProductList {
    page: i64,
    per_page: i64,
    total: i64,
    products: Vec<Product>,
}

/// `GET /api/products`
///
/// # Errors
/// 400 for bad parameters.
pub async fn list_products(
    State(service): State<Service>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Failure> {
    let listing = Listing::parse(&query)?;
    let defects = service.defects();
    let mut tx = service.database().read().await?;
    let (total,): (i64,) = listing.count().build_query_as().fetch_one(&mut *tx).await?;
    let rows: Vec<ProductRow> = listing
        .select(defects.is(Defect::StaleSort))
        .build_query_as()
        .fetch_all(&mut *tx)
        .await?;
    let products = rows
        .into_iter()
        .map(|row| row.show(defects))
        .collect::<Result<Vec<_>, Failure>>()?;
    let Listing { page, per_page, .. } = listing;
    answer::json(
        StatusCode::OK,
        &Stamped::now(ProductList {
            page,
            per_page,
            total,
            products,
        }),
    )
}

/// `GET /api/products/{id}`
///
/// # Errors
/// 404 when there is none.
pub async fn show_product(
    State(service): State<Service>,
    Segment(id): Segment,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let id = product_id(&id)?;
    let mut tx = service.database().read().await?;
    let mut sql = QueryBuilder::<Sqlite>::new("SELECT ");
    sql.push(product::COLUMNS)
        .push(" FROM product p ")
        .push(product::JOINS);
    sql.push(" WHERE p.id = ").push_bind(id);
    let row: Option<ProductRow> = sql.build_query_as().fetch_optional(&mut *tx).await?;
    let row = row.ok_or_else(no_such_product)?;
    let etag = row.etag()?;
    if is_current(&headers, &etag) {
        return with_etag(StatusCode::NOT_MODIFIED.into_response(), &etag);
    }
    let body = Stamped::now(row.show(service.defects())?);
    with_etag(answer::json(StatusCode::OK, &body)?, &etag)
}

#[derive(Serialize)]
struct ChangeList {
    product_id: i64,
    changes: Vec<Change>,
}

#[derive(Serialize)]
struct Change {
    id: i64,
    old_price: Cents,
    new_price: Cents,
    changed_by: i64,
    #[serde(rename = "ref")]
    reference: String,
    changed_at: String,
}

/// `GET /api/products/{id}/prices`
///
/// # Errors
/// 404 when there is no such product.
pub async fn list_price_changes(
    State(service): State<Service>,
    Segment(id): Segment,
) -> Result<Response, Failure> {
    let product_id = product_id(&id)?;
    let mut tx = service.database().read().await?;
    if !exists(&mut tx, product_id).await? {
        return Err(no_such_product());
    }
    let rows: Vec<(i64, i64, i64, i64, String, String)> = sqlx::query_as(
        "SELECT id, old_cents, new_cents, staff_id, ref, changed_at FROM price_change
         WHERE product_id = ? ORDER BY changed_at DESC, id DESC LIMIT ?",
    )
    .bind(product_id)
    .bind(CHANGES_MAX)
    .fetch_all(&mut *tx)
    .await?;
    let changes = rows
        .into_iter()
        .map(
            |(id, old_cents, new_cents, changed_by, reference, changed_at)| {
                Ok(Change {
                    id,
                    old_price: Cents(old_cents),
                    new_price: Cents(new_cents),
                    changed_by,
                    reference,
                    changed_at: moment(id, "changed_at", &changed_at)?.local(),
                })
            },
        )
        .collect::<Result<Vec<_>, Failure>>()?;
    answer::json(
        StatusCode::OK,
        &Stamped::now(ChangeList {
            product_id,
            changes,
        }),
    )
}

#[derive(Serialize)]
struct CategoryList {
    categories: Vec<Category>,
}

#[derive(Serialize)]
struct Category {
    id: i64,
    name: String,
    parent_id: Option<i64>,
    position: i64,
}

/// `GET /api/categories`
///
/// # Errors
/// The database's.
pub async fn list_categories(State(service): State<Service>) -> Result<Response, Failure> {
    let mut tx = service.database().read().await?;
    let rows: Vec<(i64, String, Option<i64>, i64)> = sqlx::query_as(
        "SELECT id, label, parent_id, sort_order FROM category ORDER BY sort_order, id",
    )
    .fetch_all(&mut *tx)
    .await?;
    let categories = rows
        .into_iter()
        .map(|(id, name, parent_id, position)| Category {
            id,
            name,
            parent_id,
            position,
        })
        .collect();
    answer::json(StatusCode::OK, &Stamped::now(CategoryList { categories }))
}

async fn exists(connection: &mut SqliteConnection, id: i64) -> Result<bool, sqlx::Error> {
    let found: Option<(i64,)> = sqlx::query_as("SELECT id FROM product WHERE id = ?")
        .bind(id)
        .fetch_optional(connection)
        .await?;
    Ok(found.is_some())
}

/// A text that is no number names no product.
pub(crate) fn product_id(text: &str) -> Result<i64, Failure> {
    text.parse().map_err(|_| no_such_product())
}

pub(crate) fn no_such_product() -> Failure {
    Failure::not_found("no such product")
}
