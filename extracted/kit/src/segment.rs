//! The one parameter of a path.
//!
//! Owns its reading. Refuses to judge it: a text that names nothing is the handler's 404, in the
//! handler's words, and so is one that is no text at all.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;

/// The text of the path's parameter, decoded; empty when its bytes are not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Segment, Infallible> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        Ok(Segment(path.map(|Path(text)| text).unwrap_or_default()))
    }
}
