//! Orders with all that hangs on them, and reviews.

use serde_json::{Value, json};
use sqlx::SqliteConnection;

use super::{BATCH, BUSY_FROM, Maker, YEAR, insert, names};
use crate::clock;
use crate::error::StartError;
use crate::money::Cents;

impl Maker {
    pub(super) async fn orders(&mut self, db: &mut SqliteConnection) -> Result<(), StartError> {
        let mut rows = Sales::default();
        let step = (2 * YEAR / (self.scale.orders + 1)).max(1);
        for id in 1..=self.scale.orders {
            let at = BUSY_FROM + id * step + self.below(step);
            self.order(id, at, &mut rows);
            if rows.orders.len() == BATCH {
                std::mem::take(&mut rows).write(db).await?;
            }
        }
        rows.write(db).await
    }

    fn order(&mut self, id: i64, at: i64, rows: &mut Sales) {
        let mut bought: Vec<i64> = Vec::new();
        let mut total = 0;
        let first = 1 + self.below(self.scale.products);
        for line in 0..=self.below(4) {
            // Neighbours are bought together more often, so that recommendations mean something.
            let product = if line > 0 && self.chance(60) {
                1 + (first + self.below(6)) % self.scale.products
            } else {
                1 + self.below(self.scale.products)
            };
            if bought.contains(&product) {
                continue;
            }
            bought.push(product);
            let quantity = 1 + self.below(3);
            let price = self.price(product);
            total += price.0 * quantity;
            rows.items
                .push(json!([id, product, quantity, price.to_string()]));
        }
        let user = 1 + self.below(self.scale.users);
        let status = match self.below(100) {
            0..3 => "cancelled",
            3..8 => "paid",
            8..15 => "shipped",
            _ => "delivered",
        };
        let note = self.chance(10).then(|| self.pick(names::NOTES));
        let total = Cents(total).to_string();
        let created = clock::local(at);
        let reference = format!("seed-order-{id}");
        rows.orders.push(json!([
            id, user, reference, status, total, "EUR", note, created
        ]));
        let method = if self.chance(75) { "card" } else { "invoice" };
        let payment = if status == "cancelled" {
            "refunded"
        } else {
            "captured"
        };
        rows.payments
            .push(json!([id, method, total, payment, created]));
        if status == "shipped" || status == "delivered" {
            let carrier = self.pick(names::CARRIERS);
            let tracking = self
                .chance(90)
                .then(|| format!("TR{:010}", self.below(9_999_999_999)));
            let shipped = at + 3_600 + self.below(48 * 3_600);
            let delivered = (status == "delivered").then(|| clock::local(shipped + 24 * 3_600));
            rows.shipments.push(json!([
                id,
                carrier,
                tracking,
                clock::local(shipped),
                delivered
            ]));
        }
    }

    pub(super) async fn reviews(&mut self, db: &mut SqliteConnection) -> Result<(), StartError> {
        let mut rows = Vec::new();
        let step = (2 * YEAR / (self.scale.reviews + 1)).max(1);
        for at in 1..=self.scale.reviews {
            let user = 1 + self.below(self.scale.users);
            let author = usize::try_from(user - 1)
                .ok()
                .and_then(|at| self.names.get(at).cloned())
                .unwrap_or_default();
            let rating = 5 - self.below(3) * self.below(3);
            let awkward = self.chance(1);
            let title = self.pick(if awkward {
                names::AWKWARD
            } else {
                names::TITLES
            });
            let body = format!("{} {}", self.pick(names::PRAISE), self.pick(names::BLAME));
            let status = match self.below(20) {
                0 => "P",
                1 => "R",
                _ => "A",
            };
            let reply = self.chance(12).then(|| self.pick(names::REPLIES));
            let product = 1 + self.below(self.scale.products);
            let helpful = self.below(4) * self.below(10);
            let created = clock::local(BUSY_FROM + at * step + self.below(step));
            rows.push(json!([
                product, user, author, rating, title, body, status, helpful, reply, created
            ]));
        }
        insert(
            db,
            "INSERT INTO reviews(product_id, user_id, author, rating, title, body, status, \
             helpful, reply, created_at) \
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, \
             value ->> 5, value ->> 6, value ->> 7, value ->> 8, value ->> 9 FROM json_each(?)",
            &rows,
        )
        .await
    }
}

/// Rows of the four tables that an order is in.
#[derive(Default)]
struct Sales {
    orders: Vec<Value>,
    items: Vec<Value>,
    payments: Vec<Value>,
    shipments: Vec<Value>,
}

impl Sales {
    async fn write(self, db: &mut SqliteConnection) -> Result<(), StartError> {
        insert(
            db,
            "INSERT INTO orders(id, user_id, ref, status, total, currency, note, created_at) \
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, \
             value ->> 5, value ->> 6, value ->> 7 FROM json_each(?)",
            &self.orders,
        )
        .await?;
        insert(
            db,
            "INSERT INTO order_items(order_id, product_id, quantity, unit_price) \
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?)",
            &self.items,
        )
        .await?;
        insert(
            db,
            "INSERT INTO payments(order_id, method, amount, status, created_at) \
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 \
             FROM json_each(?)",
            &self.payments,
        )
        .await?;
        insert(
            db,
            "INSERT INTO shipments(order_id, carrier, tracking, shipped_at, delivered_at) \
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 \
             FROM json_each(?)",
            &self.shipments,
        )
        .await
    }
}
