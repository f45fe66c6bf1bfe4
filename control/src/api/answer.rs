//! Answers: every error becomes a response here, and every body is read here.

use axum::Json;
use axum::body::Bytes;
use axum::extract::Query;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tracing::error;

use crate::error::{ControlError, chain};

pub(super) type Answer<T> = Result<Json<T>, Failure>;

/// An error as the API tells it.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    code: &'static str,
    error: String,
    details: Value,
    hint: String,
}

impl Failure {
    fn new(status: StatusCode, code: &'static str, error: &str, hint: &str) -> Self {
        Self {
            status,
            code,
            error: error.to_owned(),
            details: Value::Null,
            hint: hint.to_owned(),
        }
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "the bearer token is missing or wrong",
            "send `Authorization: Bearer TOKEN` with the token from `[control] token_file`",
        )
    }

    pub(super) fn no_endpoint() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "there is no such endpoint",
            "start at GET /v1/status",
        )
    }

    pub(super) fn not_written() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the metrics could not be written",
            "ask again",
        )
    }

    pub(super) fn wrong_method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "usage",
            "this endpoint has another method",
            "GET looks, POST changes",
        )
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let kind = error.kind();
        let text = chain(&error);
        if kind.status >= 500 {
            error!(code = kind.code, error = %text, "an operation failed");
        }
        Self {
            status: StatusCode::from_u16(kind.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            code: kind.code,
            error: text,
            details: error.details(),
            hint: error.hint(),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = json!({
            "error": self.error,
            "code": self.code,
            "details": self.details,
            "hint": self.hint,
        });
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 9110, section 11.6.1: a 401 names the scheme that is asked for.
            let scheme = axum::http::HeaderValue::from_static("Bearer");
            let name = axum::http::header::WWW_AUTHENTICATE;
            response.headers_mut().insert(name, scheme);
        }
        response
    }
}

/// The framework refuses a body that is too large before any handler sees it.
pub(super) async fn too_large(response: Response) -> Response {
    if response.status() != StatusCode::PAYLOAD_TOO_LARGE {
        return response;
    }
    let text = "the body is too large";
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "usage", text, "").into_response()
}

/// Reads the query; unknown names are refused.
pub(super) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Failure> {
    match Query::<T>::try_from_uri(uri) {
        Ok(Query(read)) => Ok(read),
        Err(error) => Err(ControlError::Usage(chain(&error)).into()),
    }
}

/// Reads a JSON body; an empty one is an object without fields.
pub(super) fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Failure> {
    let bytes: &[u8] = if body.trim_ascii().is_empty() {
        b"{}"
    } else {
        body
    };
    serde_json::from_slice(bytes).map_err(|error| {
        Failure::from(ControlError::Usage(format!(
            "the body cannot be read: {error}"
        )))
    })
}
