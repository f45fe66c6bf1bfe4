//! The reviews, taken out of the shop: what shoppers write about products.
//!
//! Owns its own database, with its own names, and the slice's routes, which answer as the shop's do.
//! Refuses to know products and users: a review names them by number, and the name of its author is
//! the one of the time of writing.

use axum::Router;
use axum::routing::{get, post};
use extracted_kit::run::ServiceSpec;
use extracted_kit::service::Service;

pub mod reading;
pub mod review;
pub mod schema;
pub mod writing;

/// The service, to be handed to [`extracted_kit::run::main`].
pub const REVIEWS: ServiceSpec = ServiceSpec {
    name: "reviews",
    build: "reviews-1",
    schema: schema::SCHEMA,
    routes,
};

/// The routes of the slice.
pub fn routes() -> Router<Service> {
    Router::new()
        .route(
            "/api/products/{id}/reviews",
            get(reading::list_reviews).post(writing::create_review),
        )
        .route("/api/reviews/{id}", get(reading::show_review))
        .route("/api/reviews/{id}/helpful", post(writing::mark_helpful))
}
