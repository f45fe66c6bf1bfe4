//! From cart to order: order, items, inventory, payment and the emptied cart, all or nothing.
//!
//! Owns the one transaction that spans these domains. Refuses to sell what is not there.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;

use crate::answer::{self, Stamp};
use crate::cart;
use crate::clock;
use crate::database::Database;
use crate::error::Failure;
use crate::input::Json;
use crate::session::LoggedIn;
use crate::shop::Shop;

/// The longest reference of an order, in characters.
const REF_CHARS_MAX: usize = 200;

#[derive(Debug, Deserialize)]
pub(crate) struct Purchase {
    r#ref: String,
    #[serde(default)]
    payment_method: PaymentMethod,
}

/// How an order is paid.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PaymentMethod {
    #[default]
    Card,
    Invoice,
}

impl PaymentMethod {
    fn as_str(self) -> &'static str {
        match self {
            Self::Card => "card",
            Self::Invoice => "invoice",
        }
    }
}

/// What was bought.
#[derive(Debug, Serialize)]
pub(crate) struct Receipt {
    pub(crate) order_id: i64,
    r#ref: String,
    total: String,
}

/// Buys what is in the cart.
pub(crate) async fn buy(
    database: &Database,
    user_id: i64,
    reference: String,
    method: PaymentMethod,
) -> Result<Receipt, Failure> {
    if reference.is_empty() || reference.chars().count() > REF_CHARS_MAX {
        return Err(Failure::Unprocessable(format!(
            "ref must have 1 to {REF_CHARS_MAX} characters"
        )));
    }
    let now = clock::now();
    let mut tx = database.write().await?;
    let lines = cart::lines(&mut tx, user_id).await?;
    if lines.is_empty() {
        return Err(Failure::Conflict("the cart is empty".to_owned()));
    }
    let total = cart::total(&lines).to_string();
    let order_id: i64 = sqlx::query_scalar(
        "INSERT INTO orders(user_id, ref, status, total, currency, note, created_at) \
         VALUES (?, ?, 'paid', ?, 'EUR', NULL, ?) RETURNING id",
    )
    .bind(user_id)
    .bind(&reference)
    .bind(&total)
    .bind(&now)
    .fetch_one(&mut *tx)
    .await?;
    for line in &lines {
        take_from_stock(&mut tx, line, &now).await?;
        sqlx::query(
            "INSERT INTO order_items(order_id, product_id, quantity, unit_price) \
             VALUES (?, ?, ?, ?)",
        )
        .bind(order_id)
        .bind(line.product_id)
        .bind(line.quantity)
        .bind(&line.price)
        .execute(&mut *tx)
        .await?;
    }
    sqlx::query(
        "INSERT INTO payments(order_id, method, amount, status, created_at) \
         VALUES (?, ?, ?, 'captured', ?)",
    )
    .bind(order_id)
    .bind(method.as_str())
    .bind(&total)
    .bind(&now)
    .execute(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM cart_items WHERE cart_id = (SELECT id FROM carts WHERE user_id = ?)")
        .bind(user_id)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(Receipt {
        order_id,
        r#ref: reference,
        total,
    })
}

async fn take_from_stock(
    db: &mut SqliteConnection,
    line: &cart::Line,
    now: &str,
) -> Result<(), Failure> {
    let taken = sqlx::query(
        "UPDATE inventory SET on_hand = on_hand - ?1, updated_at = ?2 \
         WHERE product_id = ?3 AND on_hand >= ?1",
    )
    .bind(line.quantity)
    .bind(now)
    .bind(line.product_id)
    .execute(&mut *db)
    .await?
    .rows_affected();
    if taken == 1 {
        return Ok(());
    }
    let left: Option<i64> =
        sqlx::query_scalar("SELECT on_hand FROM inventory WHERE product_id = ?")
            .bind(line.product_id)
            .fetch_optional(db)
            .await?;
    Err(Failure::Conflict(format!(
        "out of stock: product {} has {} left, {} wanted",
        line.product_id,
        left.unwrap_or_default(),
        line.quantity
    )))
}

/// `POST /api/checkout`
pub(crate) async fn checkout(
    State(shop): State<Shop>,
    stamp: Stamp,
    LoggedIn(user): LoggedIn,
    Json(given): Json<Purchase>,
) -> Result<Response, Failure> {
    let receipt = buy(
        shop.database(),
        user.user_id,
        given.r#ref,
        given.payment_method,
    )
    .await?;
    answer::created(
        &stamp,
        &receipt,
        &format!("/api/orders/{}", receipt.order_id),
    )
}
