//! The cart of a customer.
//!
//! Owns `carts` and `cart_items`. Prices are looked up when the cart is shown and again at
//! checkout: a cart promises nothing.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;

use crate::answer::{self, Stamp};
use crate::clock;
use crate::database::Database;
use crate::error::Failure;
use crate::input::Json;
use crate::money::Cents;
use crate::session::LoggedIn;
use crate::shop::Shop;

/// The most of one product in a cart.
const QUANTITY_MAX: i64 = 99;
/// The most different products in a cart: bounds the checkout's transaction.
const LINES_MAX: i64 = 100;

/// One line of a cart, at today's price.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) product_id: i64,
    pub(crate) name: String,
    pub(crate) price: String,
    pub(crate) quantity: i64,
    line_total: String,
    #[serde(skip)]
    pub(crate) total: Cents,
}

/// A cart with its sum.
#[derive(Debug, Serialize)]
pub(crate) struct Cart {
    pub(crate) items: Vec<Line>,
    pub(crate) total: String,
    currency: &'static str,
}

/// Adds up the lines.
pub(crate) fn total(lines: &[Line]) -> Cents {
    Cents(lines.iter().map(|line| line.total.0).sum())
}

/// What is in a customer's cart, joined with the catalog.
pub(crate) async fn lines(db: &mut SqliteConnection, user_id: i64) -> Result<Vec<Line>, Failure> {
    let rows: Vec<(i64, String, String, i64)> = sqlx::query_as(
        "SELECT p.id, p.name, p.price, i.quantity FROM carts c \
         JOIN cart_items i ON i.cart_id = c.id JOIN products p ON p.id = i.product_id \
         WHERE c.user_id = ? ORDER BY p.id",
    )
    .bind(user_id)
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|(product_id, name, price, quantity)| {
            let cents = Cents::parse(&price).ok_or_else(|| {
                Failure::Unexpected(format!("product {product_id} has the price {price:?}"))
            })?;
            let total = Cents(cents.0 * quantity);
            Ok(Line {
                product_id,
                name,
                price,
                quantity,
                line_total: total.to_string(),
                total,
            })
        })
        .collect()
}

/// The whole cart of a customer.
pub(crate) async fn read(database: &Database, user_id: i64) -> Result<Cart, Failure> {
    let mut db = database.readers().acquire().await?;
    let items = lines(&mut db, user_id).await?;
    let total = total(&items).to_string();
    Ok(Cart {
        items,
        total,
        currency: "EUR",
    })
}

/// Puts `quantity` more of a product into the cart.
pub(crate) async fn add(
    database: &Database,
    user_id: i64,
    product_id: i64,
    quantity: i64,
) -> Result<(), Failure> {
    let out_of_range =
        || Failure::Unprocessable(format!("quantity must be from 1 to {QUANTITY_MAX}"));
    if !(1..=QUANTITY_MAX).contains(&quantity) {
        return Err(out_of_range());
    }
    let mut tx = database.write().await?;
    let known: Option<i64> = sqlx::query_scalar("SELECT id FROM products WHERE id = ?")
        .bind(product_id)
        .fetch_optional(&mut *tx)
        .await?;
    known.ok_or(Failure::NotFound("product"))?;
    let cart_id: i64 = sqlx::query_scalar(
        "INSERT INTO carts(user_id, updated_at) VALUES (?, ?) \
         ON CONFLICT(user_id) DO UPDATE SET updated_at = excluded.updated_at RETURNING id",
    )
    .bind(user_id)
    .bind(clock::now())
    .fetch_one(&mut *tx)
    .await?;
    let now_in_cart: i64 = sqlx::query_scalar(
        "INSERT INTO cart_items(cart_id, product_id, quantity) VALUES (?, ?, ?) \
         ON CONFLICT(cart_id, product_id) DO UPDATE SET quantity = quantity + excluded.quantity \
         RETURNING quantity",
    )
    .bind(cart_id)
    .bind(product_id)
    .bind(quantity)
    .fetch_one(&mut *tx)
    .await?;
    if now_in_cart > QUANTITY_MAX {
        return Err(out_of_range());
    }
    let lines: i64 = sqlx::query_scalar("SELECT count(*) FROM cart_items WHERE cart_id = ?")
        .bind(cart_id)
        .fetch_one(&mut *tx)
        .await?;
    if lines > LINES_MAX {
        return Err(Failure::Conflict(format!(
            "a cart holds at most {LINES_MAX} products"
        )));
    }
    tx.commit().await?;
    Ok(())
}

/// Takes a product out of the cart.
pub(crate) async fn remove(
    database: &Database,
    user_id: i64,
    product_id: i64,
) -> Result<(), Failure> {
    let mut tx = database.write().await?;
    sqlx::query(
        "DELETE FROM cart_items WHERE product_id = ? \
         AND cart_id = (SELECT id FROM carts WHERE user_id = ?)",
    )
    .bind(product_id)
    .bind(user_id)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

/// `GET /api/cart`
pub(crate) async fn show(
    State(shop): State<Shop>,
    stamp: Stamp,
    LoggedIn(user): LoggedIn,
) -> Result<Response, Failure> {
    answer::ok(&stamp, &read(shop.database(), user.user_id).await?)
}

#[derive(Debug, Deserialize)]
pub(crate) struct NewItem {
    product_id: i64,
    quantity: i64,
}

/// `POST /api/cart/items`
pub(crate) async fn add_item(
    State(shop): State<Shop>,
    stamp: Stamp,
    LoggedIn(user): LoggedIn,
    Json(given): Json<NewItem>,
) -> Result<Response, Failure> {
    add(
        shop.database(),
        user.user_id,
        given.product_id,
        given.quantity,
    )
    .await?;
    answer::ok(&stamp, &read(shop.database(), user.user_id).await?)
}
