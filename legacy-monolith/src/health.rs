//! Whether the shop can serve.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use crate::answer::{self, Stamp};
use crate::error::Failure;
use crate::shop::Shop;

#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    database: &'static str,
    build: &'a str,
}

/// `GET /health`: 200 when the database answers, 503 when it does not.
pub(crate) async fn health(State(shop): State<Shop>, stamp: Stamp) -> Result<Response, Failure> {
    if let Err(why) = shop.database().check().await {
        tracing::warn!(%why, "database check failed");
        return Err(Failure::Busy);
    }
    let build = shop.build_id().to_str().unwrap_or_default();
    answer::ok(
        &stamp,
        &Health {
            status: "ok",
            database: "ok",
            build,
        },
    )
}
