//! A running service's shared parts, and its router.
//!
//! Owns what every handler may reach and the layers around all routes. Refuses anything of a slice:
//! its routes are handed in.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use http::HeaderValue;
use http::header::CACHE_CONTROL;

use crate::answer::Failure;
use crate::call;
use crate::database::Database;
use crate::defects::{DefectSwitch, afflict_reads};
use crate::dry_run;
use crate::error::StartError;
use crate::identity::Secret;
use crate::metrics::{Metrics, count_requests};
use crate::operations;

/// The header that says which build has answered.
pub const BUILD_HEADER: &str = "x-build-id";

/// What all handlers share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    name: &'static str,
    build: HeaderValue,
    build_text: String,
    database: Database,
    secret: Option<Secret>,
    defects: DefectSwitch,
    metrics: Metrics,
}

impl Service {
    /// Puts a service together.
    ///
    /// # Errors
    /// [`StartError::BuildId`] when the build id is empty or has other characters than letters,
    /// digits, `.`, `-`, `_` and `+`.
    pub fn new(
        name: &'static str,
        build: &str,
        database: Database,
        secret: Option<Secret>,
        defects: DefectSwitch,
    ) -> Result<Service, StartError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte);
        let header = HeaderValue::from_str(build)
            .ok()
            .filter(|_| !build.is_empty() && build.bytes().all(plain))
            .ok_or_else(|| StartError::BuildId(build.to_owned()))?;
        Ok(Service(Arc::new(Parts {
            name,
            build: header,
            build_text: build.to_owned(),
            database,
            secret,
            defects,
            metrics: Metrics::default(),
        })))
    }

    /// The service's name, such as `catalog`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// The build id, as sent with every answer.
    #[must_use]
    pub fn build(&self) -> &str {
        &self.0.build_text
    }

    /// The service's file.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.0.database
    }

    /// The secret that callers' identities are checked with, if there is one.
    #[must_use]
    pub fn secret(&self) -> Option<&Secret> {
        self.0.secret.as_ref()
    }

    /// The planted defect.
    #[must_use]
    pub fn defects(&self) -> &DefectSwitch {
        &self.0.defects
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The router of the service: the slice's routes and the operator's, with their layers.
    pub fn router(&self, slice: Router<Service>) -> Router {
        slice
            // Only the slice suffers from planted defects, never health or metrics.
            .route_layer(middleware::from_fn_with_state(self.clone(), afflict_reads))
            // The operator's routes promise nothing of the kind.
            .route_layer(middleware::from_fn(dry_run::say_so))
            .merge(operations::routes())
            .fallback(async || Failure::not_found("no such page"))
            .method_not_allowed_fallback(async || {
                Failure::new(http::StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
            })
            // No body of this shop is longer; the limit guards the memory against one that is.
            .layer(DefaultBodyLimit::max(call::BODY_BYTES_MAX))
            // Outside the defects, so that their failures and delays are counted as seen outside.
            .layer(middleware::from_fn_with_state(self.clone(), count_requests))
            // Outermost, because every answer says which build made it, whatever went wrong inside.
            .layer(middleware::from_fn_with_state(self.clone(), name_the_build))
            .with_state(self.clone())
    }
}

async fn name_the_build(State(service): State<Service>, call: Request, next: Next) -> Response {
    let mut response = next.run(call).await;
    response
        .headers_mut()
        .insert(BUILD_HEADER, service.0.build.clone());
    // As the monolith does: an answer is its caller's, and is asked for again.
    response
        .headers_mut()
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("private, max-age=0"));
    response
}
