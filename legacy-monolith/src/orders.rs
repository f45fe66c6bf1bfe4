//! Orders after they were placed: lists, details, shipping.
//!
//! Owns `shipments` and the status of an order. A customer sees only what is theirs; for anybody
//! else the order does not exist.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use sqlx::SqlitePool;

use crate::answer::{self, Stamp};
use crate::clock;
use crate::error::Failure;
use crate::input::{self, Args, Id, Json};
use crate::money::Cents;
use crate::session::{LoggedIn, Staff, User};
use crate::shop::Shop;

const NO_ORDER: &str = "order";
const PER_PAGE: i64 = 20;
/// The longest name of a carrier or tracking code, in characters.
const SHIPPING_CHARS_MAX: usize = 60;

/// An order in a list.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    id: i64,
    r#ref: String,
    status: String,
    total: String,
    currency: String,
    items: i64,
    created_at: String,
}

/// One page of a customer's orders, newest first.
#[derive(Debug, Serialize)]
pub(crate) struct OrderPage {
    pub(crate) page: i64,
    pub(crate) total: i64,
    pub(crate) orders: Vec<Summary>,
}

impl OrderPage {
    /// Whether another page follows.
    pub(crate) fn more(&self) -> bool {
        self.page.saturating_mul(PER_PAGE) < self.total
    }
}

type SummaryRow = (i64, String, String, String, String, i64, String);

/// The orders of a customer.
pub(crate) async fn of_user(
    pool: &SqlitePool,
    user_id: i64,
    page: i64,
) -> Result<OrderPage, Failure> {
    let total: i64 = sqlx::query_scalar("SELECT count(*) FROM orders WHERE user_id = ?")
        .bind(user_id)
        .fetch_one(pool)
        .await?;
    let rows: Vec<SummaryRow> = sqlx::query_as(
        "SELECT o.id, o.ref, o.status, o.total, o.currency, \
         (SELECT coalesce(sum(quantity), 0) FROM order_items i WHERE i.order_id = o.id), \
         o.created_at FROM orders o WHERE o.user_id = ? ORDER BY o.id DESC LIMIT ? OFFSET ?",
    )
    .bind(user_id)
    .bind(PER_PAGE)
    .bind(input::offset(page, PER_PAGE))
    .fetch_all(pool)
    .await?;
    let orders = rows
        .into_iter()
        .map(
            |(id, r#ref, status, total, currency, items, created_at)| Summary {
                id,
                r#ref,
                status,
                total,
                currency,
                items,
                created_at,
            },
        )
        .collect();
    Ok(OrderPage {
        page,
        total,
        orders,
    })
}

/// An order with everything that belongs to it.
#[derive(Debug, Serialize)]
pub(crate) struct Order {
    id: i64,
    user_id: i64,
    r#ref: String,
    status: String,
    total: String,
    currency: String,
    // Printed as null; the shipment is left out instead. Both habits are old.
    note: Option<String>,
    created_at: String,
    items: Vec<Item>,
    payment: Option<Payment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shipment: Option<Shipment>,
}

#[derive(Debug, Serialize)]
struct Item {
    product_id: i64,
    name: String,
    quantity: i64,
    unit_price: String,
    line_total: Option<String>,
}

#[derive(Debug, Serialize)]
struct Payment {
    method: String,
    status: String,
    amount: String,
}

#[derive(Debug, Serialize)]
struct Shipment {
    carrier: String,
    tracking: Option<String>,
    shipped_at: String,
    delivered_at: Option<String>,
}

type OrderRow = (i64, String, String, String, String, Option<String>, String);
type ShipmentRow = (String, Option<String>, String, Option<String>);

/// An order that `user` may see.
pub(crate) async fn read(pool: &SqlitePool, user: &User, id: i64) -> Result<Order, Failure> {
    let row: Option<OrderRow> = sqlx::query_as(
        "SELECT user_id, ref, status, total, currency, note, created_at FROM orders WHERE id = ?",
    )
    .bind(id)
    .fetch_optional(pool)
    .await?;
    let (user_id, r#ref, status, total, currency, note, created_at) = row
        .filter(|row| row.0 == user.user_id || user.is_staff())
        .ok_or(Failure::NotFound(NO_ORDER))?;
    let payment: Option<(String, String, String)> =
        sqlx::query_as("SELECT method, status, amount FROM payments WHERE order_id = ?")
            .bind(id)
            .fetch_optional(pool)
            .await?;
    let shipment: Option<ShipmentRow> = sqlx::query_as(
        "SELECT carrier, tracking, shipped_at, delivered_at FROM shipments WHERE order_id = ?",
    )
    .bind(id)
    .fetch_optional(pool)
    .await?;
    Ok(Order {
        id,
        user_id,
        r#ref,
        status,
        total,
        currency,
        note,
        created_at,
        items: items(pool, id).await?,
        payment: payment.map(|(method, status, amount)| Payment {
            method,
            status,
            amount,
        }),
        shipment: shipment.map(|(carrier, tracking, shipped_at, delivered_at)| Shipment {
            carrier,
            tracking,
            shipped_at,
            delivered_at,
        }),
    })
}

async fn items(pool: &SqlitePool, order_id: i64) -> Result<Vec<Item>, Failure> {
    let rows: Vec<(i64, String, i64, String)> = sqlx::query_as(
        "SELECT i.product_id, p.name, i.quantity, i.unit_price FROM order_items i \
         JOIN products p ON p.id = i.product_id WHERE i.order_id = ?",
    )
    .bind(order_id)
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(product_id, name, quantity, unit_price)| {
            let line_total =
                Cents::parse(&unit_price).map(|price| Cents(price.0 * quantity).to_string());
            Item {
                product_id,
                name,
                quantity,
                unit_price,
                line_total,
            }
        })
        .collect())
}

/// `GET /api/orders`
pub(crate) async fn list(
    State(shop): State<Shop>,
    stamp: Stamp,
    LoggedIn(user): LoggedIn,
    args: Args,
) -> Result<Response, Failure> {
    let page = of_user(shop.database().readers(), user.user_id, args.page()?).await?;
    answer::ok(&stamp, &page)
}

/// `GET /api/orders/{id}`
pub(crate) async fn detail(
    State(shop): State<Shop>,
    stamp: Stamp,
    LoggedIn(user): LoggedIn,
    id: Id,
) -> Result<Response, Failure> {
    let order = read(shop.database().readers(), &user, id.of(NO_ORDER)?).await?;
    answer::ok(&stamp, &order)
}

#[derive(Debug, Deserialize)]
pub(crate) struct Parcel {
    carrier: String,
    tracking: Option<String>,
}

#[derive(Serialize)]
struct Shipped {
    order_id: i64,
    shipment_id: i64,
    status: &'static str,
}

/// `POST /admin/orders/{id}/ship`: the parcel and the order's status, in one transaction.
pub(crate) async fn ship(
    State(shop): State<Shop>,
    stamp: Stamp,
    _: Staff,
    id: Id,
    Json(parcel): Json<Parcel>,
) -> Result<Response, Failure> {
    let order_id = id.of(NO_ORDER)?;
    let fits = |text: &str| !text.is_empty() && text.chars().count() <= SHIPPING_CHARS_MAX;
    if !fits(&parcel.carrier) || !parcel.tracking.as_deref().is_none_or(fits) {
        return Err(Failure::Unprocessable(format!(
            "carrier and tracking must have 1 to {SHIPPING_CHARS_MAX} characters"
        )));
    }
    let mut tx = shop.database().write().await?;
    let status: Option<String> = sqlx::query_scalar("SELECT status FROM orders WHERE id = ?")
        .bind(order_id)
        .fetch_optional(&mut *tx)
        .await?;
    let status = status.ok_or(Failure::NotFound(NO_ORDER))?;
    if status != "paid" {
        return Err(Failure::Conflict(format!(
            "the order is {status}, only paid ones are shipped"
        )));
    }
    let shipment_id: i64 = sqlx::query_scalar(
        "INSERT INTO shipments(order_id, carrier, tracking, shipped_at) VALUES (?, ?, ?, ?) \
         RETURNING id",
    )
    .bind(order_id)
    .bind(&parcel.carrier)
    .bind(&parcel.tracking)
    .bind(clock::now())
    .fetch_one(&mut *tx)
    .await?;
    sqlx::query("UPDATE orders SET status = 'shipped' WHERE id = ?")
        .bind(order_id)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    answer::ok(
        &stamp,
        &Shipped {
            order_id,
            shipment_id,
            status: "shipped",
        },
    )
}
