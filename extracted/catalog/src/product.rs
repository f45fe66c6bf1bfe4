//! A product as the answers show it.
//!
//! Owns the way from this service's rows to the words of the old shop: names, codes, decimal text,
//! local time. Refuses rows that break the schema's promises: such a row is an error, not a guess.

use axum::response::Response;
use extracted_kit::answer::Failure;
use extracted_kit::clock::Instant;
use extracted_kit::defects::{Defect, DefectSwitch};
use extracted_kit::money::Cents;
use http::header::ETAG;
use http::{HeaderMap, HeaderValue};
use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _};

/// The columns of a [`ProductRow`].
pub const COLUMNS: &str = "p.id, p.sku, p.title, p.description, m.amount_cents, m.currency,
    p.category_id, c.label AS category_label, p.state, p.is_featured, p.labels, p.weight_g,
    p.created_at, p.updated_at";

/// What [`COLUMNS`] needs beside `product p`.
pub const JOINS: &str = "JOIN product_price m ON m.product_id = p.id
    JOIN category c ON c.id = p.category_id";

/// A product as stored.
#[derive(Debug)]
pub struct ProductRow {
    id: i64,
    sku: String,
    title: String,
    description: Option<String>,
    amount: Cents,
    currency: String,
    category_id: i64,
    category_label: String,
    state: String,
    is_featured: bool,
    labels: String,
    weight_g: Option<i64>,
    created_at: String,
    updated_at: String,
}

impl FromRow<'_, SqliteRow> for ProductRow {
    fn from_row(row: &SqliteRow) -> Result<ProductRow, sqlx::Error> {
        Ok(ProductRow {
            id: row.try_get("id")?,
            sku: row.try_get("sku")?,
            title: row.try_get("title")?,
            description: row.try_get("description")?,
            amount: Cents(row.try_get("amount_cents")?),
            currency: row.try_get("currency")?,
            category_id: row.try_get("category_id")?,
            category_label: row.try_get("category_label")?,
            state: row.try_get("state")?,
            is_featured: row.try_get("is_featured")?,
            labels: row.try_get("labels")?,
            weight_g: row.try_get("weight_g")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }
}

/// A product as shown.
#[derive(Debug, Serialize)]
pub struct Product {
    id: i64,
    sku: String,
    name: String,
    /// The old shop leaves this key out when there is no description.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    price: Cents,
    currency: String,
    category_id: i64,
    category: String,
    status: &'static str,
    featured: bool,
    tags: Vec<String>,
    /// The old shop prints this null; the outer `Option` is the key, the inner one the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    weight_g: Option<Option<i64>>,
    created_at: String,
    updated_at: String,
}

impl ProductRow {
    /// The tag that changes whenever the product does, to the second.
    ///
    /// # Errors
    /// 500 when the row's time is no time.
    pub fn etag(&self) -> Result<String, Failure> {
        let updated_at = moment(self.id, "updated_at", &self.updated_at)?;
        Ok(format!("W/\"p{}-{}\"", self.id, updated_at.unix()))
    }

    /// The product in the shop's words, with the planted defect if one is on.
    ///
    /// # Errors
    /// 500 when the row breaks the schema's promises.
    pub fn show(self, defects: &DefectSwitch) -> Result<Product, Failure> {
        let status = match self.state.as_str() {
            "active" => "A",
            "discontinued" => "D",
            "seasonal" => "S",
            other => {
                return Err(Failure::internal(format!(
                    "product {} has state `{other}`",
                    self.id
                )));
            }
        };
        let missing = self.weight_g.is_none() && defects.is(Defect::MissingNull);
        Ok(Product {
            price: price_shown(self.amount, defects.is(Defect::PriceRounding)),
            created_at: moment(self.id, "created_at", &self.created_at)?.local(),
            updated_at: moment(self.id, "updated_at", &self.updated_at)?.local(),
            id: self.id,
            sku: self.sku,
            name: self.title,
            description: self.description,
            currency: self.currency,
            category_id: self.category_id,
            category: self.category_label,
            status,
            featured: self.is_featured,
            tags: tags(&self.labels),
            weight_g: (!missing).then_some(self.weight_g),
        })
    }
}

/// The amount; planted wrong, as it comes out of `(12.95 * 100.0) as i64`: a cent short when the
/// last digit is a 5 or a 9.
fn price_shown(amount: Cents, wrong: bool) -> Cents {
    if wrong && matches!(amount.0 % 10, 5 | 9) {
        Cents(amount.0 - 1)
    } else {
        amount
    }
}

fn tags(labels: &str) -> Vec<String> {
    labels
        .split(',')
        .filter(|label| !label.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A stored time.
///
/// # Errors
/// 500 that names row and column in the log.
pub(crate) fn moment(id: i64, column: &str, text: &str) -> Result<Instant, Failure> {
    Instant::parse_utc(text)
        .ok_or_else(|| Failure::internal(format!("{column} of row {id} is `{text}`, no UTC time")))
}

/// Whether the client has this version already (RFC 9110, 13.1.2: weak comparison, a list or `*`).
pub(crate) fn is_current(headers: &HeaderMap, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    headers
        .get_all(http::header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim() == "*" || opaque(tag) == opaque(etag))
}

/// Puts the tag on an answer.
///
/// # Errors
/// 500 when the tag cannot be a header, which digits and quotes always can.
pub(crate) fn with_etag(mut response: Response, etag: &str) -> Result<Response, Failure> {
    let value = HeaderValue::from_str(etag).map_err(Failure::internal)?;
    response.headers_mut().insert(ETAG, value);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_split_and_none_is_empty() {
        assert_eq!(tags("a,b"), ["a", "b"]);
        assert!(tags("").is_empty());
    }

    #[test]
    fn only_fives_are_rounded_wrongly_and_only_when_planted() {
        assert_eq!(price_shown(Cents(1295), true), Cents(1294));
        assert_eq!(price_shown(Cents(1290), true), Cents(1290));
        assert_eq!(price_shown(Cents(1295), false), Cents(1295));
    }

    #[test]
    fn a_client_that_has_the_version_is_told_so() {
        let check = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("if-none-match", HeaderValue::from_static(value));
            is_current(&headers, "W/\"p1-7\"")
        };
        assert!(
            check("W/\"p1-7\"") && check("\"p1-7\"") && check("\"x\", W/\"p1-7\"") && check("*")
        );
        assert!(!check("W/\"p1-8\"") && !check(""));
        assert!(!is_current(&HeaderMap::new(), "W/\"p1-7\""));
    }
}
