//! The catalog, taken out of the shop: products, categories, prices and their history.
//!
//! Owns its own database, with its own names, and the slice's routes, which answer as the shop's do.
//! Refuses stock, carts, orders and reviews: others own those.

use axum::Router;
use axum::routing::{get, put};
use extracted_kit::run::ServiceSpec;
use extracted_kit::service::Service;

pub mod listing;
pub mod price_change;
pub mod product;
pub mod reading;
pub mod schema;

/// The service, to be handed to [`extracted_kit::run::main`].
pub const CATALOG: ServiceSpec = ServiceSpec {
    name: "catalog",
    build: "catalog-1",
    schema: schema::SCHEMA,
    routes,
};

/// The routes of the slice.
pub fn routes() -> Router<Service> {
    Router::new()
        .route("/api/products", get(reading::list_products))
        .route("/api/products/{id}", get(reading::show_product))
        .route("/api/products/{id}/price", put(price_change::change_price))
        .route(
            "/api/products/{id}/prices",
            get(reading::list_price_changes),
        )
        .route("/api/categories", get(reading::list_categories))
}
