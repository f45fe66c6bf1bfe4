//! A review as the answers show it, and the average of many.
//!
//! Owns the way from this service's rows to the words of the old shop. Refuses rows that break the
//! schema's promises: such a row is an error, not a guess.

use extracted_kit::answer::Failure;
use extracted_kit::clock::Instant;
use extracted_kit::defects::{Defect, DefectSwitch};
use extracted_kit::money::Cents;
use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _};

/// The columns of a [`ReviewRow`], of `review r` joined with `review_text t`.
pub const COLUMNS: &str = "r.id, r.product_id, r.author_id, r.author_name, r.stars, r.state,
    r.helpful_count, r.posted_at, t.headline, t.content, t.staff_reply";

/// A review as stored, of both tables.
#[derive(Debug, Clone)]
pub struct ReviewRow {
    /// Its number.
    pub id: i64,
    /// What it is about.
    pub product_id: i64,
    /// Who wrote it.
    pub author_id: i64,
    /// The author's name at that time.
    pub author_name: String,
    /// 1 to 5.
    pub stars: i64,
    /// `pending`, `approved` or `rejected`.
    pub state: String,
    /// How many found it helpful.
    pub helpful_count: i64,
    /// UTC.
    pub posted_at: String,
    /// The title.
    pub headline: String,
    /// The text.
    pub content: String,
    /// What staff replied.
    pub staff_reply: Option<String>,
}

impl FromRow<'_, SqliteRow> for ReviewRow {
    fn from_row(row: &SqliteRow) -> Result<ReviewRow, sqlx::Error> {
        Ok(ReviewRow {
            id: row.try_get("id")?,
            product_id: row.try_get("product_id")?,
            author_id: row.try_get("author_id")?,
            author_name: row.try_get("author_name")?,
            stars: row.try_get("stars")?,
            state: row.try_get("state")?,
            helpful_count: row.try_get("helpful_count")?,
            posted_at: row.try_get("posted_at")?,
            headline: row.try_get("headline")?,
            content: row.try_get("content")?,
            staff_reply: row.try_get("staff_reply")?,
        })
    }
}

/// A review as shown.
#[derive(Debug, Serialize)]
pub struct Review {
    id: i64,
    product_id: i64,
    user_id: i64,
    author: String,
    rating: i64,
    title: String,
    body: String,
    status: &'static str,
    helpful: i64,
    /// The old shop prints this null; the outer `Option` is the key, the inner one the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<Option<String>>,
    created_at: String,
}

impl ReviewRow {
    /// The review in the shop's words, with the planted defect if one is on.
    ///
    /// # Errors
    /// 500 when the row breaks the schema's promises.
    pub fn show(self, defects: &DefectSwitch) -> Result<Review, Failure> {
        let status = match self.state.as_str() {
            "pending" => "P",
            "approved" => "A",
            "rejected" => "R",
            other => {
                return Err(Failure::internal(format!(
                    "review {} has state `{other}`",
                    self.id
                )));
            }
        };
        let posted_at = Instant::parse_utc(&self.posted_at).ok_or_else(|| {
            Failure::internal(format!(
                "posted_at of review {} is `{}`, no UTC time",
                self.id, self.posted_at
            ))
        })?;
        let missing = self.staff_reply.is_none() && defects.is(Defect::MissingNull);
        Ok(Review {
            id: self.id,
            product_id: self.product_id,
            user_id: self.author_id,
            author: self.author_name,
            rating: self.stars,
            title: self.headline,
            body: self.content,
            status,
            helpful: self.helpful_count,
            reply: (!missing).then_some(self.staff_reply),
            created_at: posted_at.local(),
        })
    }
}

/// The average of `count` ratings that add up to `sum`, in hundredths, half rounded up, in whole
/// numbers throughout; planted wrong, the rest is cut off. `None` of none.
#[must_use]
pub fn average(sum: i64, count: i64, wrong: bool) -> Option<Cents> {
    (count > 0).then(|| {
        if wrong {
            Cents(100 * sum / count)
        } else {
            Cents((200 * sum + count) / (2 * count))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_round_half_up() {
        for (sum, count, right, wrong) in [
            (17, 4, "4.25", "4.25"),
            (14, 3, "4.67", "4.66"),
            (33, 8, "4.13", "4.12"),
            (5, 1, "5.00", "5.00"),
        ] {
            assert_eq!(average(sum, count, false).unwrap().to_string(), right);
            assert_eq!(average(sum, count, true).unwrap().to_string(), wrong);
        }
        assert_eq!(average(0, 0, false), None);
    }
}
