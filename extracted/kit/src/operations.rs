//! The routes for operators: health, metrics, events and the defect switch.
//!
//! Owns paths outside the slice. Refuses the public: the proxy routes none of them, so a service
//! must listen on an address that only the house can reach.

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, put};
use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};

use crate::answer::{self, Failure};
use crate::defects::Defect;
use crate::outbox;
use crate::service::Service;

/// The routes, to be merged with those of the slice.
pub fn routes() -> Router<Service> {
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/events", get(events))
        .route("/_defect", put(switch_defect))
}

async fn health(State(service): State<Service>) -> Result<Response, Failure> {
    let unfit = |error: sqlx::Error| {
        tracing::warn!(%error, "health check failed");
        Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the database does not answer",
        )
    };
    let mut tx = service.database().read().await.map_err(unfit)?;
    sqlx::query("SELECT 1 FROM sqlite_schema LIMIT 1")
        .execute(&mut *tx)
        .await
        .map_err(unfit)?;
    #[derive(Serialize)]
    struct Health<'a> {
        status: &'static str,
        service: &'a str,
        build: &'a str,
    }
    let body = Health {
        status: "ok",
        service: service.name(),
        build: service.build(),
    };
    answer::json(StatusCode::OK, &body)
}

async fn metrics(State(service): State<Service>) -> Response {
    let text =
        service
            .metrics()
            .render(service.name(), service.build(), service.defects().current());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn events(
    State(service): State<Service>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let (after, limit) = place(query.as_deref().unwrap_or_default())?;
    let mut tx = service.database().read().await?;
    let page = outbox::page(&mut tx, after, limit).await?;
    answer::json(StatusCode::OK, &page)
}

/// Reads `after=N&limit=N`.
fn place(query: &str) -> Result<(i64, i64), Failure> {
    let (mut after, mut limit) = (0, outbox::PAGE_DEFAULT);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let number = value.parse::<i64>().ok().filter(|number| *number >= 0);
        match (key, number) {
            ("after", Some(number)) => after = number,
            ("limit", Some(number)) => limit = number.clamp(1, outbox::PAGE_MAX),
            ("after" | "limit", None) => {
                return Err(Failure::bad_request(format!(
                    "`{key}` must be a number from 0 up"
                )));
            }
            _ => return Err(Failure::bad_request("use `after` and `limit`")),
        }
    }
    Ok((after, limit))
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Planted {
    // Spelled out rather than left to serde's default for Option: a body without the key is a
    // mistake, not an order to mend the service.
    #[serde(deserialize_with = "Option::deserialize")]
    defect: Option<Defect>,
}

async fn switch_defect(State(service): State<Service>, body: Bytes) -> Result<Response, Failure> {
    let defects = service.defects();
    if !defects.may_change() {
        return Err(Failure::not_found("no such page"));
    }
    let planted: Planted = serde_json::from_slice(&body).map_err(|error| {
        let names: Vec<_> = Defect::ALL.into_iter().map(Defect::name).collect();
        Failure::bad_request(format!(
            "{error}; send {{\"defect\":NAME}} with null or one of {}",
            names.join(", ")
        ))
    })?;
    defects.set(planted.defect);
    tracing::warn!(
        defect = planted.defect.map_or("none", Defect::name),
        "defect switched"
    );
    answer::json(StatusCode::OK, &planted)
}
