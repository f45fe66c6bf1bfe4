//! The example monolith: a shop as a company would really have it.
//!
//! One SQLite database, one process: pages and a JSON API over users, catalog, stock, carts,
//! orders, reviews and recommendations. It knows nothing of the toolkit that migrates it, and it
//! keeps the habits that such shops have: prices as decimal text, local timestamps, lists in no
//! order, nulls beside missing keys, a request id in every body, pages for errors.
//!
//! ```no_run
//! # async fn run() -> Result<(), legacy_monolith::StartError> {
//! use legacy_monolith::{Database, Scale, Shop, fill};
//! let database = Database::open("sqlite:shop.db").await?;
//! fill(&database, 1, &Scale::FULL).await?;
//! let router = Shop::new(database, "monolith-1").await?.router();
//! # drop(router);
//! # Ok(())
//! # }
//! ```

mod answer;
mod cart;
mod catalog;
mod checkout;
mod clock;
mod database;
mod error;
mod export;
mod health;
mod images;
mod input;
mod money;
mod orders;
mod pages;
mod recommendations;
mod report;
mod reviews;
mod seed;
mod server;
mod session;
mod shop;
mod token;

pub use database::Database;
pub use error::StartError;
pub use seed::{STAFF_ID_MAX, Scale, fill};
pub use server::{Options, serve};
pub use shop::Shop;
