//! The catalog's one write: staff change a price.
//!
//! Owns the rules of a price and the transaction over product, price, history and event. Refuses
//! prices that the shop could not print.

use axum::extract::State;
use axum::response::Response;
use extracted_kit::answer::{Failure, Stamped};
use extracted_kit::call::Call;
use extracted_kit::money::Cents;
use extracted_kit::segment::Segment;
use extracted_kit::service::Service;
use extracted_kit::write::{Begun, Write};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::reading::{no_such_product, product_id};

/// The highest price: below one million.
const PRICE_MAX: Cents = Cents(99_999_999);

/// The longest reference, in bytes; it is a token of the caller's, not a text.
const REFERENCE_BYTES_MAX: usize = 200;

#[derive(Deserialize)]
struct NewPrice {
    price: String,
    #[serde(rename = "ref")]
    reference: String,
}

#[derive(Serialize)]
struct PriceChanged<'a> {
    id: i64,
    price: Cents,
    old_price: Cents,
    #[serde(rename = "ref")]
    reference: &'a str,
    change_id: i64,
}

/// The event, in this service's own words.
#[derive(Serialize)]
struct PriceChangedEvent<'a> {
    change_id: i64,
    product_id: i64,
    old_cents: i64,
    new_cents: i64,
    staff_id: i64,
    #[serde(rename = "ref")]
    reference: &'a str,
}

/// `PUT /api/products/{id}/price`
///
/// # Errors
/// 401, 403, 404, 400 or 422 for a bad body, 503 when the tables are fenced or busy.
pub async fn change_price(
    State(service): State<Service>,
    Segment(id): Segment,
    call: Call,
) -> Result<Response, Failure> {
    let staff_id = call.staff()?.user_id;
    let id = product_id(&id)?;
    let asked: NewPrice = call.json()?;
    let price = acceptable(&asked)?;
    let mut write = match Write::begin(&service, &call).await? {
        Begun::Replayed(answer) => return Ok(answer),
        Begun::Fresh(write) => write,
    };
    let now = call.now.utc();
    let old: Option<(i64,)> =
        sqlx::query_as("SELECT amount_cents FROM product_price WHERE product_id = ?")
            .bind(id)
            .fetch_optional(write.rows())
            .await?;
    let old_price = old
        .map(|(cents,)| Cents(cents))
        .ok_or_else(no_such_product)?;
    sqlx::query("UPDATE product_price SET amount_cents = ? WHERE product_id = ?")
        .bind(price.0)
        .bind(id)
        .execute(write.rows())
        .await?;
    sqlx::query("UPDATE product SET updated_at = ? WHERE id = ?")
        .bind(&now)
        .bind(id)
        .execute(write.rows())
        .await?;
    let (change_id,): (i64,) = sqlx::query_as(
        "INSERT INTO price_change (product_id, old_cents, new_cents, staff_id, ref, changed_at)
         VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
    )
    .bind(id)
    .bind(old_price.0)
    .bind(price.0)
    .bind(staff_id)
    .bind(&asked.reference)
    .bind(&now)
    .fetch_one(write.rows())
    .await?;
    let reference = asked.reference.as_str();
    let (old_cents, new_cents) = (old_price.0, price.0);
    let event = PriceChangedEvent {
        change_id,
        product_id: id,
        old_cents,
        new_cents,
        staff_id,
        reference,
    };
    write.event("price-changed", &event).await?;
    let body = PriceChanged {
        id,
        price,
        old_price,
        reference,
        change_id,
    };
    write
        .commit(StatusCode::OK, None, &Stamped::now(body))
        .await
}

fn acceptable(asked: &NewPrice) -> Result<Cents, Failure> {
    if asked.reference.is_empty() || asked.reference.len() > REFERENCE_BYTES_MAX {
        return Err(Failure::unprocessable(format!(
            "ref must have 1 to {REFERENCE_BYTES_MAX} bytes"
        )));
    }
    Cents::parse(&asked.price)
        .filter(|price| (Cents(1)..=PRICE_MAX).contains(price))
        .ok_or_else(|| Failure::unprocessable("price must be decimal text from 0.01 to 999999.99"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_lies_between_a_cent_and_a_million() {
        let check = |price: &str, reference: &str| {
            acceptable(&NewPrice {
                price: price.to_owned(),
                reference: reference.to_owned(),
            })
            .map_err(|failure| failure.status().as_u16())
        };
        assert_eq!(check("0.01", "r"), Ok(Cents(1)));
        assert_eq!(check("999999.99", "r"), Ok(PRICE_MAX));
        for price in ["0.00", "1000000.00", "-1.00", "1", "1.5", "abc", ""] {
            assert_eq!(check(price, "r"), Err(422), "{price}");
        }
        assert_eq!(check("1.00", ""), Err(422));
        assert_eq!(check("1.00", &"r".repeat(201)), Err(422));
    }
}
