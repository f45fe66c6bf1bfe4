//! The one place where an error becomes an answer.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, VARY, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};

use crate::auth::Denial;
use crate::body::Body;
use crate::error::{Refusal, UpstreamError};
use crate::pages::{ErrorPage, page};
use crate::reply::Reply;
use crate::wire::WireError;

/// Nobody knows when it ends; browsers and crawlers that come back so soon cost little.
const MAINTENANCE: Duration = Duration::from_secs(30);

/// How a refusal is answered, and its name.
pub(crate) fn status(refusal: &Refusal) -> (StatusCode, &'static str) {
    match refusal {
        Refusal::Malformed(_) => (StatusCode::BAD_REQUEST, "malformed"),
        Refusal::HeadTooLong => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-long"),
        Refusal::BodyTooLong => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-long"),
        Refusal::Connect => (StatusCode::METHOD_NOT_ALLOWED, "connect"),
        Refusal::Held => (StatusCode::SERVICE_UNAVAILABLE, "held"),
        Refusal::Crowded => (StatusCode::SERVICE_UNAVAILABLE, "crowded"),
        Refusal::Identity(_) => (StatusCode::SERVICE_UNAVAILABLE, "identity"),
        Refusal::Denied(denial) => match denial {
            Denial::Missing { .. } | Denial::Token(_) | Denial::Key => {
                (StatusCode::UNAUTHORIZED, "unauthorized")
            }
            Denial::Policy { .. } | Denial::Certificate => (StatusCode::FORBIDDEN, "forbidden"),
            Denial::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "auth-unavailable"),
        },
        Refusal::Maintenance => (StatusCode::SERVICE_UNAVAILABLE, "maintenance"),
        Refusal::NotKept => (StatusCode::GATEWAY_TIMEOUT, "not-kept"),
        Refusal::Origin => (StatusCode::FORBIDDEN, "cors"),
        Refusal::Limited(_) => (StatusCode::TOO_MANY_REQUESTS, "rate-limited"),
        Refusal::Upstream(error) => of_upstream(error),
    }
}

fn of_upstream(error: &UpstreamError) -> (StatusCode, &'static str) {
    match error {
        UpstreamError::Connect { .. } => (StatusCode::SERVICE_UNAVAILABLE, "connect-failed"),
        UpstreamError::Tls { .. } => (StatusCode::BAD_GATEWAY, "tls-failed"),
        UpstreamError::Nobody { .. } => (StatusCode::SERVICE_UNAVAILABLE, "no-upstream"),
        UpstreamError::Timeout { .. } | UpstreamError::Expired { .. } => {
            (StatusCode::GATEWAY_TIMEOUT, "timeout")
        }
        UpstreamError::Upload { source, .. } => match source {
            WireError::UploadLate => (StatusCode::REQUEST_TIMEOUT, "slow-upload"),
            WireError::UploadLong => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-long"),
            _ => (StatusCode::BAD_REQUEST, "broken-upload"),
        },
        UpstreamError::Broken { .. } => (StatusCode::BAD_GATEWAY, "broken"),
        UpstreamError::Open { .. } => (StatusCode::SERVICE_UNAVAILABLE, "circuit-open"),
        UpstreamError::Crowded { .. } => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
    }
}

/// The code of an upstream's failure, as `x-outgrow-error` has it.
pub(crate) fn upstream_code(error: &UpstreamError) -> &'static str {
    of_upstream(error).1
}

/// Seconds: when it is worth asking again, as far as that is known.
fn retry_after(refusal: &Refusal) -> u64 {
    let left = match refusal {
        Refusal::Upstream(UpstreamError::Open { left, .. }) => *left,
        Refusal::Limited(exceeded) => exceeded.wait,
        Refusal::Maintenance => MAINTENANCE,
        _ => return 1,
    };
    (left.as_secs() + u64::from(left.subsec_nanos() > 0)).max(1)
}

/// The page of the config, else JSON with the cause; marked with `x-outgrow-error` so that nobody
/// takes it for an upstream's.
pub(crate) fn refuse(
    refusal: &Refusal,
    pages: &[ErrorPage],
    accept: Option<&HeaderValue>,
) -> Reply<Body> {
    let (status, code) = status(refusal);
    let (body, kind) = page(pages, (status, code), accept).unwrap_or_else(|| {
        let text = serde_json::json!({ "error": refusal.to_string(), "code": code });
        (Bytes::from(text.to_string()), "application/json")
    });
    let mut answer = Reply::new(status, Body::Full(Some(body)));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if !pages.is_empty() {
        headers.insert(VARY, HeaderValue::from_static("accept"));
    }
    headers.insert("x-outgrow-error", HeaderValue::from_static(code));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from(retry_after(refusal)));
    }
    if let Refusal::Limited(exceeded) = refusal {
        let wait = HeaderValue::from(retry_after(refusal));
        headers.insert("ratelimit-limit", HeaderValue::from(exceeded.limit));
        headers.insert("ratelimit-remaining", HeaderValue::from(0));
        headers.insert("ratelimit-reset", wait.clone());
        headers.insert(RETRY_AFTER, wait);
    }
    if let Refusal::Denied(denial) = refusal
        && let Some(challenge) = denial.challenge()
    {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    if matches!(
        refusal,
        Refusal::Malformed(_) | Refusal::HeadTooLong | Refusal::Connect
    ) {
        // What follows on such a connection cannot be trusted to be a request.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}
