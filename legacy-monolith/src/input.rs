//! Reading what a client sent: path ids, query text, JSON bodies.
//!
//! Owns the 400s (cannot be read) and tells them from the 422s (can be read, makes no sense).
//! Refuses to judge values: what they may be, each domain says itself.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use std::collections::HashMap;

use crate::error::Failure;

/// The largest JSON or form body: no text of the shop is near it.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;

/// A JSON body. Wrong syntax is a 400, wrong fields are a 422.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        // The three types that a form on a foreign page can send without asking (the CSRF rule of
        // the JSON API); a missing type is let through, browsers cannot be made to omit it along
        // with the cookie.
        let form_type = request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| {
                let value = value.trim_start().to_ascii_lowercase();
                [
                    "application/x-www-form-urlencoded",
                    "multipart/form-data",
                    "text/plain",
                ]
                .iter()
                .any(|form| value.starts_with(form))
            });
        if form_type {
            return Err(Failure::UnsupportedType(
                "send JSON with content-type: application/json",
            ));
        }
        let bytes = body(request, state, BODY_BYTES_MAX).await?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| match error.classify() {
                Category::Data => Failure::Unprocessable(format!("wrong field: {error}")),
                _ => Failure::BadRequest(format!("the body is not JSON: {error}")),
            })
    }
}

/// The whole body; `limit` is the one the route's layer enforces.
pub(crate) async fn body<S: Send + Sync>(
    request: Request,
    state: &S,
    limit: usize,
) -> Result<Bytes, Failure> {
    Bytes::from_request(request, state)
        .await
        .map_err(|rejection| {
            if rejection.status() == http::StatusCode::PAYLOAD_TOO_LARGE {
                Failure::TooLarge(limit)
            } else {
                Failure::BadRequest("the body ended early".to_owned())
            }
        })
}

/// The id in the path. Anything but a whole number above zero names nothing: `None`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Id(pub(crate) Option<i64>);

impl Id {
    /// The id, or the 404 of `what`.
    pub(crate) fn of(self, what: &'static str) -> Result<i64, Failure> {
        self.0.ok_or(Failure::NotFound(what))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        Ok(Self(path.ok().and_then(|Path(text)| parse_id(&text))))
    }
}

fn parse_id(text: &str) -> Option<i64> {
    text.parse().ok().filter(|id| *id > 0)
}

/// The query of the address, by name; the last of several equal names wins.
#[derive(Debug, Default)]
pub(crate) struct Args(HashMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Args {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Query(map) = Query::from_request_parts(parts, state)
            .await
            .map_err(|_| Failure::BadRequest("the query cannot be read".to_owned()))?;
        Ok(Self(map))
    }
}

impl Args {
    /// The text of `name`, unless it is empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }

    /// The whole number of `name`; a 400 when it is none.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, Failure> {
        self.text(name)
            .map(|text| {
                text.parse()
                    .map_err(|_| Failure::BadRequest(format!("`{name}` must be a number")))
            })
            .transpose()
    }

    /// The page asked for, from 1.
    pub(crate) fn page(&self) -> Result<i64, Failure> {
        Ok(self.number("page")?.unwrap_or(1).max(1))
    }
}

/// How many rows come before a page; a page beyond all numbers is just empty.
pub(crate) fn offset(page: i64, per_page: i64) -> i64 {
    (page - 1).saturating_mul(per_page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_above_zero_are_ids() {
        assert_eq!(parse_id("12"), Some(12));
        for text in ["", "0", "-1", "1.0", "abc", "99999999999999999999", " 1"] {
            assert_eq!(parse_id(text), None, "{text:?}");
        }
    }

    #[test]
    fn pages_start_at_one() {
        let page = |text: &str| {
            let args = Args(HashMap::from([("page".to_owned(), text.to_owned())]));
            args.page().map_err(|failure| failure.status().as_u16())
        };
        assert_eq!(page("3"), Ok(3));
        assert_eq!(page("0"), Ok(1));
        assert_eq!(page("-5"), Ok(1));
        assert_eq!(page(""), Ok(1));
        assert_eq!(page("many"), Err(400));
        assert_eq!(page("9223372036854775807"), Ok(i64::MAX));
        assert_eq!(offset(i64::MAX, 100), i64::MAX);
    }
}
