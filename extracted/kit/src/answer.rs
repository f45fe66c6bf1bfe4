//! Answers to clients: JSON out, errors included.
//!
//! Owns the shape of every body (`request_id` in each, `generated_at` in each that succeeds), the
//! JSON errors, and the one place where an error becomes a response. Refuses to tell a client what
//! the database said, but for the bridge's own words at a fence.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::clock::Instant;

/// How the bridge begins the message of a trigger that refuses a write.
pub const FENCE_PREFIX: &str = "outgrow:";

/// Seconds after which a refused write may be tried again; a fence stands for a moment only.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A fresh request id: 16 hexadecimal digits, not to be guessed from the ones before.
#[must_use]
pub fn request_id() -> String {
    static KEYS: OnceLock<RandomState> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nth = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{:016x}", KEYS.get_or_init(RandomState::new).hash_one(nth))
}

/// What every body that succeeds begins with.
#[derive(Debug, Clone, Serialize)]
pub struct Stamp {
    /// Random for each request.
    pub request_id: String,
    /// Local time of the answer.
    pub generated_at: String,
}

impl Stamp {
    /// A stamp for an answer made at `now`.
    #[must_use]
    pub fn at(now: Instant) -> Stamp {
        Stamp {
            request_id: request_id(),
            generated_at: now.local(),
        }
    }
}

/// A body with its stamp: the fields of both in one object.
#[derive(Debug, Serialize)]
pub struct Stamped<T> {
    #[serde(flatten)]
    stamp: Stamp,
    #[serde(flatten)]
    body: T,
}

impl<T> Stamped<T> {
    /// Stamps `body` now.
    #[must_use]
    pub fn now(body: T) -> Stamped<T> {
        Stamped {
            stamp: Stamp::at(Instant::now()),
            body,
        }
    }
}

/// A body as JSON with its content type and nothing else.
///
/// # Errors
/// [`Failure`] (500) if `body` cannot be written as JSON.
pub fn json<T: Serialize>(status: StatusCode, body: &T) -> Result<Response, Failure> {
    let text = serde_json::to_string(body).map_err(Failure::internal)?;
    Ok((status, [(CONTENT_TYPE, JSON)], text).into_response())
}

/// Why a write was turned away although nothing was wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The bridge has fenced the tables.
    Fenced,
    /// The database was locked for longer than a request may wait.
    Busy,
}

/// An answer that says no. Becomes a JSON error with the same three keys everywhere.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    message: String,
    refused: Option<Refused>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    /// A failure whose message is meant for the client.
    #[must_use]
    pub fn new(status: StatusCode, message: impl Into<String>) -> Failure {
        Failure {
            status,
            message: message.into(),
            refused: None,
            source: None,
        }
    }

    /// 404.
    #[must_use]
    pub fn not_found(message: &str) -> Failure {
        Failure::new(StatusCode::NOT_FOUND, message)
    }

    /// 400: the request cannot be read.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, message)
    }

    /// 422: the request can be read, but what it asks for is not acceptable.
    #[must_use]
    pub fn unprocessable(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }

    /// 500: `source` goes to the log, the client learns nothing of it.
    #[must_use]
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
        Failure {
            source: Some(source.into()),
            ..Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
        }
    }

    /// 500, planted: looks like any other internal error, but is not logged as a surprise.
    pub(crate) fn planted() -> Failure {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    fn refused(reason: Refused, message: String) -> Failure {
        Failure {
            refused: Some(reason),
            ..Failure::new(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Failure {
        if let sqlx::Error::Database(database) = &error {
            if database.message().starts_with(FENCE_PREFIX) {
                let message = database.message().to_owned();
                return Failure::refused(Refused::Fenced, message);
            }
            // Primary result codes SQLITE_BUSY and SQLITE_LOCKED; extended codes keep them in the
            // low byte.
            let code = database.code().and_then(|code| code.parse::<u32>().ok());
            if code.is_some_and(|code| matches!(code & 0xff, 5 | 6)) {
                return busy();
            }
        }
        if matches!(error, sqlx::Error::PoolTimedOut) {
            return busy();
        }
        Failure::internal(error)
    }
}

fn busy() -> Failure {
    Failure::refused(Refused::Busy, "the database is busy; try again".to_owned())
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let request_id = request_id();
        match (&self.source, self.refused) {
            (Some(source), _) => {
                tracing::error!(%request_id, error = %source, "request failed");
            }
            (None, Some(reason)) => {
                tracing::warn!(%request_id, ?reason, message = %self.message, "write refused");
            }
            (None, None) => {}
        }
        let body = serde_json::json!({
            "request_id": request_id,
            "error": self.message,
            "status": self.status.as_u16(),
        });
        let mut response = (self.status, [(CONTENT_TYPE, JSON)], body.to_string()).into_response();
        if let Some(reason) = self.refused {
            response
                .headers_mut()
                .insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
            response.extensions_mut().insert(reason);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_differ() {
        let ids: std::collections::BTreeSet<_> = (0..1000).map(|_| request_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 16));
    }

    #[test]
    fn a_full_pool_asks_to_try_again() {
        let response = Failure::from(sqlx::Error::PoolTimedOut).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["retry-after"], "1");
        let response = Failure::from(sqlx::Error::RowNotFound).into_response();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!response.headers().contains_key("retry-after"));
    }
}
