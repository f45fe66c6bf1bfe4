//! The reviews' writes: a new review, and the count of those whom it helped.
//!
//! Owns the rules of a review and the transactions over both tables, the event and the kept answer.
//! Refuses to ask the catalog whether a product exists: a write must not depend on another service.

use axum::extract::State;
use axum::response::Response;
use extracted_kit::answer::{Failure, Stamped};
use extracted_kit::call::Call;
use extracted_kit::segment::Segment;
use extracted_kit::service::Service;
use extracted_kit::write::{Begun, Write};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::reading::{no_such_review, product_number, review_number};
use crate::review::ReviewRow;

/// The longest title, in characters.
const TITLE_CHARS_MAX: usize = 200;

/// The longest text, in characters; the limit on bodies leaves room for it in any alphabet.
const BODY_CHARS_MAX: usize = 5000;

#[derive(Deserialize)]
struct NewReview {
    rating: i64,
    title: String,
    body: String,
}

/// `POST /api/products/{id}/reviews`
///
/// # Errors
/// 401, 404, 400 or 422 for a bad body, 503 when the tables are fenced or busy.
pub async fn create_review(
    State(service): State<Service>,
    Segment(product_id): Segment,
    call: Call,
) -> Result<Response, Failure> {
    let caller = call.caller()?;
    let product_id = product_number(&product_id)?;
    let asked: NewReview = call.json()?;
    acceptable(&asked)?;
    let mut write = match Write::begin(&service, &call).await? {
        Begun::Replayed(answer) => return Ok(answer),
        Begun::Fresh(write) => write,
    };
    let mut row = ReviewRow {
        id: 0,
        product_id,
        author_id: caller.user_id,
        author_name: caller.name.clone(),
        stars: asked.rating,
        state: "approved".to_owned(),
        helpful_count: 0,
        posted_at: call.now.utc(),
        headline: asked.title,
        content: asked.body,
        staff_reply: None,
    };
    row.id = insert(&mut write, &row).await?;
    #[derive(Serialize)]
    struct ReviewPosted {
        review_id: i64,
        product_id: i64,
        stars: i64,
    }
    let event = ReviewPosted {
        review_id: row.id,
        product_id,
        stars: row.stars,
    };
    write.event("review-posted", &event).await?;
    let location = format!("/api/reviews/{}", row.id);
    let body = Stamped::now(row.show(service.defects())?);
    write
        .commit(StatusCode::CREATED, Some(location), &body)
        .await
}

async fn insert(write: &mut Write, row: &ReviewRow) -> Result<i64, sqlx::Error> {
    let (id,): (i64,) = sqlx::query_as(
        "INSERT INTO review
         (product_id, author_id, author_name, stars, state, helpful_count, posted_at)
         VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id",
    )
    .bind(row.product_id)
    .bind(row.author_id)
    .bind(&row.author_name)
    .bind(row.stars)
    .bind(&row.state)
    .bind(row.helpful_count)
    .bind(&row.posted_at)
    .fetch_one(write.rows())
    .await?;
    sqlx::query(
        "INSERT INTO review_text (review_id, headline, content, staff_reply) VALUES (?, ?, ?, ?)",
    )
    .bind(id)
    .bind(&row.headline)
    .bind(&row.content)
    .bind(&row.staff_reply)
    .execute(write.rows())
    .await?;
    Ok(id)
}

#[derive(Serialize)]
struct Helpful {
    id: i64,
    helpful: i64,
}

/// `POST /api/reviews/{id}/helpful`
///
/// # Errors
/// 401, 404, 503 when the tables are fenced or busy.
pub async fn mark_helpful(
    State(service): State<Service>,
    Segment(id): Segment,
    call: Call,
) -> Result<Response, Failure> {
    call.caller()?;
    let id = review_number(&id)?;
    let mut write = match Write::begin(&service, &call).await? {
        Begun::Replayed(answer) => return Ok(answer),
        Begun::Fresh(write) => write,
    };
    let counted: Option<(i64,)> = sqlx::query_as(
        "UPDATE review SET helpful_count = helpful_count + 1 WHERE id = ? RETURNING helpful_count",
    )
    .bind(id)
    .fetch_optional(write.rows())
    .await?;
    let (helpful,) = counted.ok_or_else(no_such_review)?;
    let body = Helpful { id, helpful };
    write.event("review-helpful", &body).await?;
    write
        .commit(StatusCode::OK, None, &Stamped::now(body))
        .await
}

fn acceptable(asked: &NewReview) -> Result<(), Failure> {
    if !(1..=5).contains(&asked.rating) {
        return Err(Failure::unprocessable("rating must be 1 to 5"));
    }
    for (name, text, most) in [
        ("title", &asked.title, TITLE_CHARS_MAX),
        ("body", &asked.body, BODY_CHARS_MAX),
    ] {
        if text.trim().is_empty() || text.chars().count() > most {
            return Err(Failure::unprocessable(format!(
                "{name} must have 1 to {most} characters"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_has_stars_and_words() {
        let check = |rating, title: &str, body: &str| {
            acceptable(&NewReview {
                rating,
                title: title.to_owned(),
                body: body.to_owned(),
            })
            .map_err(|failure| failure.status().as_u16())
        };
        assert_eq!(check(1, "Good", "Very"), Ok(()));
        assert_eq!(check(5, &"ü".repeat(200), "Very"), Ok(()));
        for (rating, title, body) in [
            (0, "a", "b"),
            (6, "a", "b"),
            (3, " ", "b"),
            (3, "a", ""),
            (3, "a", "\n"),
        ] {
            assert_eq!(
                check(rating, title, body),
                Err(422),
                "{rating} {title:?} {body:?}"
            );
        }
        assert_eq!(check(3, &"a".repeat(201), "b"), Err(422));
    }
}
