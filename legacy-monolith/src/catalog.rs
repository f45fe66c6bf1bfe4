//! Products, categories and prices.
//!
//! Owns the only code that writes `products` and `price_changes`, which is the change of a price.

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, QueryBuilder, Row, Sqlite, SqlitePool};

use crate::answer::{self, Stamp};
use crate::clock;
use crate::error::Failure;
use crate::input::{self, Args, Id, Json};
use crate::money::Cents;
use crate::session::Staff;
use crate::shop::Shop;

const NO_PRODUCT: &str = "product";
const PER_PAGE: i64 = 20;
const PER_PAGE_MAX: i64 = 100;
/// As many changes as the price history shows.
const HISTORY_MAX: i64 = 50;
/// The longest note beside a price change, in bytes.
const REF_BYTES_MAX: usize = 200;
const COLUMNS: &str = "SELECT p.id, p.sku, p.name, p.description, p.price, p.currency, \
     p.category_id, c.name AS category, p.status, p.featured, p.tags, p.weight_g, \
     p.created_at, p.updated_at \
     FROM products p JOIN categories c ON c.id = p.category_id";

/// A product as the shop shows it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Product {
    pub(crate) id: i64,
    sku: String,
    pub(crate) name: String,
    // Left out when there is none, unlike the weight, which is printed as null: two authors.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    price: String,
    currency: String,
    category_id: i64,
    category: String,
    status: String,
    featured: bool,
    tags: Vec<String>,
    weight_g: Option<i64>,
    created_at: String,
    updated_at: String,
}

impl FromRow<'_, SqliteRow> for Product {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let featured: String = row.try_get("featured")?;
        let tags: String = row.try_get("tags")?;
        Ok(Self {
            id: row.try_get("id")?,
            sku: row.try_get("sku")?,
            name: row.try_get("name")?,
            description: row.try_get("description")?,
            price: row.try_get("price")?,
            currency: row.try_get("currency")?,
            category_id: row.try_get("category_id")?,
            category: row.try_get("category")?,
            status: row.try_get("status")?,
            featured: featured == "Y",
            tags: tags
                .split(',')
                .filter(|tag| !tag.is_empty())
                .map(str::to_owned)
                .collect(),
            weight_g: row.try_get("weight_g")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }
}

impl Product {
    /// The tags of a product have no order, and nobody ever gave them one.
    fn turned(mut self, turn: usize) -> Self {
        if !self.tags.is_empty() {
            let by = turn % self.tags.len();
            self.tags.rotate_left(by);
        }
        self
    }

    /// Whole seconds, so two changes within one second share a tag; the shop lives with it.
    fn etag(&self) -> String {
        let updated = clock::unix(&self.updated_at).unwrap_or_default();
        format!("W/\"p{}-{updated}\"", self.id)
    }
}

/// A category.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Category {
    id: i64,
    name: String,
    parent_id: Option<i64>,
    position: i64,
}

/// Which products, in which order, which part of them.
#[derive(Debug)]
pub(crate) struct Search {
    pub(crate) category: Option<i64>,
    pub(crate) text: Option<String>,
    sort: &'static str,
    pub(crate) page: i64,
    per_page: i64,
}

impl Search {
    /// Reads the query of an address; a 400 when a number is none or the order is unknown.
    pub(crate) fn from_args(args: &Args) -> Result<Self, Failure> {
        let sort = match args.text("sort") {
            None | Some("id") => "p.id",
            Some("price") => "CAST(REPLACE(p.price, '.', '') AS INTEGER), p.id",
            Some("name") => "p.name, p.id",
            Some("newest") => "p.created_at DESC, p.id",
            Some(_) => {
                return Err(Failure::BadRequest(
                    "`sort` must be id, price, name or newest".to_owned(),
                ));
            }
        };
        Ok(Self {
            category: args.number("category")?,
            text: args.text("q").map(str::to_owned),
            sort,
            page: args.page()?,
            per_page: args
                .number("per_page")?
                .unwrap_or(PER_PAGE)
                .clamp(1, PER_PAGE_MAX),
        })
    }

    fn push_filter(&self, query: &mut QueryBuilder<Sqlite>) {
        query.push(" WHERE 1 = 1");
        if let Some(category) = self.category {
            query.push(" AND p.category_id = ").push_bind(category);
        }
        if let Some(text) = &self.text {
            // instr and not LIKE, so that % and _ are letters like any other; lower() changes
            // ASCII only.
            query
                .push(" AND instr(lower(p.name), lower(")
                .push_bind(text.clone())
                .push(")) > 0");
        }
    }
}

/// One page of products.
#[derive(Debug, Serialize)]
pub(crate) struct ProductPage {
    pub(crate) page: i64,
    per_page: i64,
    pub(crate) total: i64,
    pub(crate) products: Vec<Product>,
}

impl ProductPage {
    /// Whether another page follows.
    pub(crate) fn more(&self) -> bool {
        self.page.saturating_mul(self.per_page) < self.total
    }
}

/// Looks products up.
pub(crate) async fn find(
    pool: &SqlitePool,
    search: &Search,
    turn: usize,
) -> Result<ProductPage, Failure> {
    let mut count = QueryBuilder::new("SELECT count(*) FROM products p");
    search.push_filter(&mut count);
    // One snapshot, so that total and rows belong together while others write.
    let mut tx = pool.begin().await?;
    let total: i64 = count.build_query_scalar().fetch_one(&mut *tx).await?;
    let mut query = QueryBuilder::new(COLUMNS);
    search.push_filter(&mut query);
    query
        .push(" ORDER BY ")
        .push(search.sort)
        .push(" LIMIT ")
        .push_bind(search.per_page);
    query
        .push(" OFFSET ")
        .push_bind(input::offset(search.page, search.per_page));
    let products: Vec<Product> = query.build_query_as().fetch_all(&mut *tx).await?;
    tx.commit().await?;
    let products = products
        .into_iter()
        .map(|product| product.turned(turn))
        .collect();
    Ok(ProductPage {
        page: search.page,
        per_page: search.per_page,
        total,
        products,
    })
}

/// The product of an id.
pub(crate) async fn product(pool: &SqlitePool, id: i64, turn: usize) -> Result<Product, Failure> {
    let mut query = QueryBuilder::new(COLUMNS);
    query.push(" WHERE p.id = ").push_bind(id);
    let found: Option<Product> = query.build_query_as().fetch_optional(pool).await?;
    found
        .map(|product| product.turned(turn))
        .ok_or(Failure::NotFound(NO_PRODUCT))
}

/// The products that the front page shows.
pub(crate) async fn featured(pool: &SqlitePool, turn: usize) -> Result<Vec<Product>, Failure> {
    let mut query = QueryBuilder::new(COLUMNS);
    query.push(" WHERE p.featured = 'Y' AND p.status <> 'D' ORDER BY p.id LIMIT 12");
    let found: Vec<Product> = query.build_query_as().fetch_all(pool).await?;
    Ok(found
        .into_iter()
        .map(|product| product.turned(turn))
        .collect())
}

/// All categories.
pub(crate) async fn all_categories(pool: &SqlitePool) -> Result<Vec<Category>, Failure> {
    let rows: Vec<(i64, String, Option<i64>, i64)> = sqlx::query_as(
        "SELECT id, name, parent_id, position FROM categories ORDER BY position, id",
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, name, parent_id, position)| Category {
            id,
            name,
            parent_id,
            position,
        })
        .collect())
}

/// `GET /api/products`
pub(crate) async fn list(
    State(shop): State<Shop>,
    stamp: Stamp,
    args: Args,
) -> Result<Response, Failure> {
    let search = Search::from_args(&args)?;
    let page = find(shop.database().readers(), &search, stamp.turn()).await?;
    answer::ok(&stamp, &page)
}

/// `GET /api/products/{id}`
pub(crate) async fn detail(
    State(shop): State<Shop>,
    stamp: Stamp,
    id: Id,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let id = id.of(NO_PRODUCT)?;
    let product = product(shop.database().readers(), id, stamp.turn()).await?;
    let etag = product.etag();
    if answer::client_has(&headers, &etag) {
        return answer::not_modified(&etag);
    }
    answer::with_etag(answer::ok(&stamp, &product)?, &etag)
}

#[derive(Serialize)]
struct Categories {
    categories: Vec<Category>,
}

/// `GET /api/categories`
pub(crate) async fn categories(
    State(shop): State<Shop>,
    stamp: Stamp,
) -> Result<Response, Failure> {
    let categories = all_categories(shop.database().readers()).await?;
    answer::ok(&stamp, &Categories { categories })
}

#[derive(Serialize)]
struct History {
    product_id: i64,
    changes: Vec<PriceChange>,
}

#[derive(Serialize)]
struct PriceChange {
    id: i64,
    old_price: String,
    new_price: String,
    changed_by: i64,
    r#ref: String,
    changed_at: String,
}

type PriceChangeRow = (i64, String, String, i64, String, String);

/// `GET /api/products/{id}/prices`
pub(crate) async fn price_history(
    State(shop): State<Shop>,
    stamp: Stamp,
    id: Id,
) -> Result<Response, Failure> {
    let product_id = id.of(NO_PRODUCT)?;
    let pool = shop.database().readers();
    let known: Option<i64> = sqlx::query_scalar("SELECT id FROM products WHERE id = ?")
        .bind(product_id)
        .fetch_optional(pool)
        .await?;
    known.ok_or(Failure::NotFound(NO_PRODUCT))?;
    let rows: Vec<PriceChangeRow> = sqlx::query_as(
        "SELECT id, old_price, new_price, changed_by, ref, changed_at FROM price_changes \
         WHERE product_id = ? ORDER BY changed_at DESC, id DESC LIMIT ?",
    )
    .bind(product_id)
    .bind(HISTORY_MAX)
    .fetch_all(pool)
    .await?;
    let changes = rows
        .into_iter()
        .map(
            |(id, old_price, new_price, changed_by, r#ref, changed_at)| PriceChange {
                id,
                old_price,
                new_price,
                changed_by,
                r#ref,
                changed_at,
            },
        )
        .collect();
    answer::ok(
        &stamp,
        &History {
            product_id,
            changes,
        },
    )
}

#[derive(Debug, Deserialize)]
pub(crate) struct NewPrice {
    price: String,
    r#ref: String,
}

#[derive(Serialize)]
struct PriceChanged {
    id: i64,
    price: String,
    old_price: String,
    r#ref: String,
    change_id: i64,
}

/// `PUT /api/products/{id}/price`: the product and its history, in one transaction.
pub(crate) async fn change_price(
    State(shop): State<Shop>,
    stamp: Stamp,
    Staff(user): Staff,
    id: Id,
    Json(given): Json<NewPrice>,
) -> Result<Response, Failure> {
    let id = id.of(NO_PRODUCT)?;
    let price = Cents::parse_price(&given.price).ok_or_else(|| {
        Failure::Unprocessable("price must be decimal text from 0.01 to 999999.99".to_owned())
    })?;
    if given.r#ref.is_empty() || given.r#ref.len() > REF_BYTES_MAX {
        return Err(Failure::Unprocessable(format!(
            "ref must have 1 to {REF_BYTES_MAX} bytes"
        )));
    }
    let price = price.to_string();
    let now = clock::now();
    let mut tx = shop.database().write().await?;
    let old_price: Option<String> = sqlx::query_scalar("SELECT price FROM products WHERE id = ?")
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?;
    let old_price = old_price.ok_or(Failure::NotFound(NO_PRODUCT))?;
    sqlx::query("UPDATE products SET price = ?, updated_at = ? WHERE id = ?")
        .bind(&price)
        .bind(&now)
        .bind(id)
        .execute(&mut *tx)
        .await?;
    let change_id: i64 = sqlx::query_scalar(
        "INSERT INTO price_changes(product_id, old_price, new_price, changed_by, ref, changed_at) \
         VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
    )
    .bind(id)
    .bind(&old_price)
    .bind(&price)
    .bind(user.user_id)
    .bind(&given.r#ref)
    .bind(&now)
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    answer::ok(
        &stamp,
        &PriceChanged {
            id,
            price,
            old_price,
            r#ref: given.r#ref,
            change_id,
        },
    )
}
