//! Fills an empty database with a made-up shop, the same one for the same seed.
//!
//! Owns the invented data. All of it, schema included, is written in one transaction: a process
//! killed half-way leaves an empty database. Rows are handed to SQLite as JSON arrays, a thousand
//! at a time, which costs one bound value instead of ten thousand.

mod names;
mod sales;

use argon2::password_hash::{PasswordHasher, SaltString};
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};
use sqlx::SqliteConnection;

use crate::database::Database;
use crate::error::StartError;
use crate::money::Cents;
use crate::{clock, session};

/// How large the shop is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// Users, at least 1; the first [`STAFF_ID_MAX`] are staff.
    pub users: i64,
    /// Products, at least 1.
    pub products: i64,
    /// Orders.
    pub orders: i64,
    /// Reviews.
    pub reviews: i64,
}

impl Scale {
    /// The shop of the example.
    pub const FULL: Self = Self {
        users: 2_000,
        products: 5_000,
        orders: 20_000,
        reviews: 40_000,
    };
    /// A shop for tests, filled in well under a second.
    pub const SMALL: Self = Self {
        users: 40,
        products: 120,
        orders: 200,
        reviews: 400,
    };
}

/// The users with ids up to this one are staff.
pub const STAFF_ID_MAX: i64 = 20;
/// Rows per statement: about 200 KB of JSON.
const BATCH: usize = 1_000;
/// The shop opened on 2023-01-01 local time; nothing in the data is older.
const OPENING: i64 = 1_672_527_600;
/// Orders and reviews are spread over the two years that begin a year after the opening.
const BUSY_FROM: i64 = OPENING + YEAR;
const YEAR: i64 = 365 * 24 * 3600;

/// Creates and fills the database when it holds no shop yet; returns whether it did.
///
/// # Errors
/// The database is locked for ten seconds, or refuses a write. Nothing is kept then.
pub async fn fill(database: &Database, seed: u64, scale: &Scale) -> Result<bool, StartError> {
    let known: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'products'",
    )
    .fetch_one(database.readers())
    .await
    .map_err(StartError::Fill)?;
    if known > 0 && has_products(database.readers()).await? {
        return Ok(false);
    }
    let mut tx = database.write_at_start().await?;
    sqlx::raw_sql(include_str!("schema.sql"))
        .execute(&mut *tx)
        .await
        .map_err(StartError::Fill)?;
    // Asked again inside the transaction: another process may have filled it meanwhile.
    if has_products(&mut *tx).await? {
        return Ok(false);
    }
    Maker::new(seed, scale.clone()).write(&mut tx).await?;
    sqlx::raw_sql(include_str!("indexes.sql"))
        .execute(&mut *tx)
        .await
        .map_err(StartError::Fill)?;
    tx.commit().await.map_err(StartError::Fill)?;
    Ok(true)
}

async fn has_products<'e>(db: impl sqlx::SqliteExecutor<'e>) -> Result<bool, StartError> {
    let first: Option<i64> = sqlx::query_scalar("SELECT id FROM products LIMIT 1")
        .fetch_optional(db)
        .await
        .map_err(StartError::Fill)?;
    Ok(first.is_some())
}

struct Maker {
    random: Pcg64Mcg,
    scale: Scale,
    /// The price of product `i + 1`, for the orders.
    prices: Vec<Cents>,
    /// The name of user `i + 1`, for the reviews.
    names: Vec<String>,
}

impl Maker {
    fn new(seed: u64, scale: Scale) -> Self {
        let random = Pcg64Mcg::seed_from_u64(seed);
        Self {
            random,
            scale,
            prices: Vec::new(),
            names: Vec::new(),
        }
    }

    /// A number below `bound`; the bias of the remainder is far below what anybody would notice.
    fn below(&mut self, bound: i64) -> i64 {
        let bound = u64::try_from(bound).unwrap_or(1).max(1);
        i64::try_from(self.random.next_u64() % bound).unwrap_or_default()
    }

    fn chance(&mut self, percent: i64) -> bool {
        self.below(100) < percent
    }

    fn pick(&mut self, words: &'static [&'static str]) -> &'static str {
        let count = i64::try_from(words.len()).unwrap_or(1);
        usize::try_from(self.below(count))
            .ok()
            .and_then(|at| words.get(at))
            .copied()
            .unwrap_or("")
    }

    async fn write(&mut self, db: &mut SqliteConnection) -> Result<(), StartError> {
        self.users(db).await?;
        Self::categories(db).await?;
        self.products(db).await?;
        self.price_changes(db).await?;
        self.orders(db).await?;
        self.reviews(db).await
    }

    async fn users(&mut self, db: &mut SqliteConnection) -> Result<(), StartError> {
        let hasher = session::hasher().map_err(|error| StartError::Seed(error.to_string()))?;
        let mut rows = Vec::new();
        for id in 1..=self.scale.users {
            let name = format!("{} {}", self.pick(names::FIRST), self.pick(names::LAST));
            let mut salt = [0_u8; 16];
            self.random.fill_bytes(&mut salt);
            let password = format!("outgrow-{id}");
            let hash = SaltString::encode_b64(&salt)
                .and_then(|salt| {
                    hasher
                        .hash_password(password.as_bytes(), &salt)
                        .map(|hash| hash.to_string())
                })
                .map_err(|error| StartError::Seed(error.to_string()))?;
            let role = if id <= STAFF_ID_MAX {
                "staff"
            } else {
                "customer"
            };
            let city = self.chance(80).then(|| self.pick(names::CITIES));
            let created = OPENING + self.below(YEAR);
            let email = format!("user{id}@shop.example");
            rows.push(json!([
                id,
                email,
                name,
                role,
                hash,
                city,
                clock::local(created)
            ]));
            self.names.push(name);
        }
        insert(
            db,
            "INSERT INTO users(id, email, name, role, password_hash, city, created_at) \
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, \
             value ->> 5, value ->> 6 FROM json_each(?)",
            &rows,
        )
        .await
    }

    async fn categories(db: &mut SqliteConnection) -> Result<(), StartError> {
        let mut rows = Vec::new();
        let mut id = 0;
        let mut children = Vec::new();
        for (position, (parent, names)) in names::CATEGORIES.iter().enumerate() {
            id += 1;
            rows.push(json!([id, parent, Value::Null, position + 1]));
            children.push((id, names));
        }
        for (parent, names) in children {
            for (position, name) in names.iter().enumerate() {
                id += 1;
                rows.push(json!([id, name, parent, position + 1]));
            }
        }
        insert(
            db,
            "INSERT INTO categories(id, name, parent_id, position) \
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?)",
            &rows,
        )
        .await
    }

    fn product(&mut self, id: i64) -> Value {
        let noun = self.pick(names::NOUNS);
        let name = if self.chance(2) {
            // Real catalogs have these, and whatever shows or copies them must not stumble.
            format!("{} {noun}", self.pick(names::AWKWARD))
        } else {
            format!(
                "{} {} {noun}",
                self.pick(names::ADJECTIVES),
                self.pick(names::MATERIALS)
            )
        };
        let description = self.chance(88).then(|| {
            format!(
                "{} {}. {}",
                self.pick(names::ADJECTIVES),
                noun.to_lowercase(),
                self.pick(names::PRAISE)
            )
        });
        let price = Cents(99 + self.below(300) * 100 + self.below(10) * 10);
        self.prices.push(price);
        let status = match self.below(20) {
            0 => "D",
            1 | 2 => "S",
            _ => "A",
        };
        let featured = if self.chance(4) { "Y" } else { "N" };
        let mut tags: Vec<&str> = Vec::new();
        for _ in 0..self.below(5) {
            let tag = self.pick(names::TAGS);
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        let weight = self.chance(85).then(|| 20 + self.below(9_000));
        // Each product has a second of its own, so that "newest" has one order only.
        let created = OPENING + id * (YEAR / (self.scale.products + 1)).max(1);
        let updated = created + self.below(2 * YEAR);
        let leaf = names::CATEGORIES.len()
            + usize::try_from(self.below(names::LEAVES)).unwrap_or_default()
            + 1;
        json!([
            id,
            format!("SKU-{id:05}"),
            name,
            description,
            price.to_string(),
            "EUR",
            leaf,
            status,
            featured,
            tags.join(","),
            weight,
            clock::local(created),
            clock::local(updated)
        ])
    }

    async fn products(&mut self, db: &mut SqliteConnection) -> Result<(), StartError> {
        let mut rows = Vec::new();
        let mut stock = Vec::new();
        for id in 1..=self.scale.products {
            rows.push(self.product(id));
            // A few are always sold out.
            let on_hand = if id % 1_000 == 0 {
                0
            } else {
                500 + self.below(4_500)
            };
            stock.push(json!([id, on_hand, clock::local(BUSY_FROM)]));
        }
        insert(
            db,
            "INSERT INTO products(id, sku, name, description, price, currency, category_id, \
             status, featured, tags, weight_g, created_at, updated_at) \
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, \
             value ->> 5, value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10, \
             value ->> 11, value ->> 12 FROM json_each(?)",
            &rows,
        )
        .await?;
        insert(
            db,
            "INSERT INTO inventory(product_id, on_hand, updated_at) \
             SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)",
            &stock,
        )
        .await
    }

    async fn price_changes(&mut self, db: &mut SqliteConnection) -> Result<(), StartError> {
        let mut rows = Vec::new();
        for at in 0..self.scale.products / 5 {
            let product = 1 + self.below(self.scale.products);
            let now = self.price(product);
            let old = Cents(now.0 + 10 + self.below(500));
            let staff = 1 + self.below(STAFF_ID_MAX.min(self.scale.users));
            let changed = BUSY_FROM + at * (YEAR / self.scale.products.max(1));
            let reference = format!("seed-{at}");
            rows.push(json!([
                product,
                old.to_string(),
                now.to_string(),
                staff,
                reference,
                clock::local(changed)
            ]));
        }
        insert(
            db,
            "INSERT INTO price_changes(product_id, old_price, new_price, changed_by, ref, \
             changed_at) SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, \
             value ->> 4, value ->> 5 FROM json_each(?)",
            &rows,
        )
        .await
    }

    fn price(&self, product: i64) -> Cents {
        let at = usize::try_from(product - 1).unwrap_or_default();
        self.prices.get(at).copied().unwrap_or(Cents(100))
    }
}

async fn insert(
    db: &mut SqliteConnection,
    sql: &'static str,
    rows: &[Value],
) -> Result<(), StartError> {
    for batch in rows.chunks(BATCH) {
        let rows =
            serde_json::to_string(batch).map_err(|error| StartError::Seed(error.to_string()))?;
        sqlx::query(sql)
            .bind(rows)
            .execute(&mut *db)
            .await
            .map_err(StartError::Fill)?;
    }
    Ok(())
}
