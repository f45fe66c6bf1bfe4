//! Reviews of products.
//!
//! Owns the only code that writes `reviews`. Shows approved ones only; a single review is shown in
//! any state to whoever knows its id, as the shop always did.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row, SqlitePool};

use crate::answer::{self, Stamp};
use crate::error::Failure;
use crate::input::{self, Args, Id, Json};
use crate::session::LoggedIn;
use crate::shop::Shop;
use crate::{clock, money};

const NO_REVIEW: &str = "review";
const NO_PRODUCT: &str = "product";
const PER_PAGE: i64 = 20;
/// The longest title and text, in characters.
const TITLE_CHARS_MAX: usize = 200;
const BODY_CHARS_MAX: usize = 5_000;

/// A review.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Review {
    id: i64,
    product_id: i64,
    user_id: i64,
    author: String,
    rating: i64,
    title: String,
    body: String,
    status: String,
    helpful: i64,
    reply: Option<String>,
    created_at: String,
}

impl FromRow<'_, SqliteRow> for Review {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            product_id: row.try_get("product_id")?,
            user_id: row.try_get("user_id")?,
            author: row.try_get("author")?,
            rating: row.try_get("rating")?,
            title: row.try_get("title")?,
            body: row.try_get("body")?,
            status: row.try_get("status")?,
            helpful: row.try_get("helpful")?,
            reply: row.try_get("reply")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

/// One page of a product's approved reviews.
#[derive(Debug, Serialize)]
pub(crate) struct ReviewPage {
    product_id: i64,
    page: i64,
    pub(crate) total: i64,
    average: Option<String>,
    reviews: Vec<Review>,
}

/// The approved reviews of a product, newest first.
pub(crate) async fn of_product(
    pool: &SqlitePool,
    product_id: i64,
    page: i64,
) -> Result<ReviewPage, Failure> {
    // One snapshot, so that the average belongs to the rows while others write.
    let mut tx = pool.begin().await?;
    let (total, sum): (i64, i64) = sqlx::query_as(
        "SELECT count(*), coalesce(sum(rating), 0) FROM reviews \
         WHERE product_id = ? AND status = 'A'",
    )
    .bind(product_id)
    .fetch_one(&mut *tx)
    .await?;
    let reviews = sqlx::query_as(
        "SELECT id, product_id, user_id, author, rating, title, body, status, helpful, reply, \
         created_at FROM reviews WHERE product_id = ? AND status = 'A' \
         ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?",
    )
    .bind(product_id)
    .bind(PER_PAGE)
    .bind(input::offset(page, PER_PAGE))
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(ReviewPage {
        product_id,
        page,
        total,
        average: money::average(sum, total),
        reviews,
    })
}

/// `GET /api/products/{id}/reviews`; a product without reviews and one that never was look alike.
pub(crate) async fn list(
    State(shop): State<Shop>,
    stamp: Stamp,
    id: Id,
    args: Args,
) -> Result<Response, Failure> {
    let product_id = id.of(NO_PRODUCT)?;
    answer::ok(
        &stamp,
        &of_product(shop.database().readers(), product_id, args.page()?).await?,
    )
}

/// `GET /api/reviews/{id}`
pub(crate) async fn detail(
    State(shop): State<Shop>,
    stamp: Stamp,
    id: Id,
) -> Result<Response, Failure> {
    let review: Option<Review> = sqlx::query_as(
        "SELECT id, product_id, user_id, author, rating, title, body, status, helpful, reply, \
         created_at FROM reviews WHERE id = ?",
    )
    .bind(id.of(NO_REVIEW)?)
    .fetch_optional(shop.database().readers())
    .await?;
    answer::ok(&stamp, &review.ok_or(Failure::NotFound(NO_REVIEW))?)
}

#[derive(Debug, Deserialize)]
pub(crate) struct NewReview {
    rating: i64,
    title: String,
    body: String,
}

impl NewReview {
    fn check(&self) -> Result<(), Failure> {
        let length =
            |text: &str, max: usize| !text.trim().is_empty() && text.chars().count() <= max;
        let wrong = |what: &str| Err(Failure::Unprocessable(what.to_owned()));
        if !(1..=5).contains(&self.rating) {
            return wrong("rating must be 1 to 5");
        }
        if !length(&self.title, TITLE_CHARS_MAX) {
            return wrong("title must have 1 to 200 characters");
        }
        if !length(&self.body, BODY_CHARS_MAX) {
            return wrong("body must have 1 to 5000 characters");
        }
        Ok(())
    }
}

/// `POST /api/products/{id}/reviews`
pub(crate) async fn create(
    State(shop): State<Shop>,
    stamp: Stamp,
    LoggedIn(user): LoggedIn,
    id: Id,
    Json(given): Json<NewReview>,
) -> Result<Response, Failure> {
    let product_id = id.of(NO_PRODUCT)?;
    given.check()?;
    let mut tx = shop.database().write().await?;
    let known: Option<i64> = sqlx::query_scalar("SELECT id FROM products WHERE id = ?")
        .bind(product_id)
        .fetch_optional(&mut *tx)
        .await?;
    known.ok_or(Failure::NotFound(NO_PRODUCT))?;
    let review: Review = sqlx::query_as(
        "INSERT INTO reviews(product_id, user_id, author, rating, title, body, status, helpful, \
         reply, created_at) VALUES (?, ?, ?, ?, ?, ?, 'A', 0, NULL, ?) RETURNING *",
    )
    .bind(product_id)
    .bind(user.user_id)
    .bind(&user.name)
    .bind(given.rating)
    .bind(&given.title)
    .bind(&given.body)
    .bind(clock::now())
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    answer::created(&stamp, &review, &format!("/api/reviews/{}", review.id))
}

#[derive(Serialize)]
struct Helpful {
    id: i64,
    helpful: i64,
}

/// `POST /api/reviews/{id}/helpful`
pub(crate) async fn helpful(
    State(shop): State<Shop>,
    stamp: Stamp,
    _: LoggedIn,
    id: Id,
) -> Result<Response, Failure> {
    let id = id.of(NO_REVIEW)?;
    let mut tx = shop.database().write().await?;
    let helpful: Option<i64> = sqlx::query_scalar(
        "UPDATE reviews SET helpful = helpful + 1 WHERE id = ? RETURNING helpful",
    )
    .bind(id)
    .fetch_optional(&mut *tx)
    .await?;
    let helpful = helpful.ok_or(Failure::NotFound(NO_REVIEW))?;
    tx.commit().await?;
    answer::ok(&stamp, &Helpful { id, helpful })
}
