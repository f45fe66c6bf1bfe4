//! How every answer looks: the stamp in each body, the headers on each answer, the one place
//! where a failure becomes a response.
//!
//! Owns request ids and the choice between JSON and page. Refuses to show a client what went
//! wrong inside: an unexpected error is logged and answered by a page with the request id.

use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, RETRY_AFTER,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use std::any::Any;
use std::convert::Infallible;
use std::sync::Arc;

use crate::error::Failure;
use crate::shop::Shop;
use crate::{clock, token};

pub(crate) const BUILD_ID: HeaderName = HeaderName::from_static("x-build-id");
/// For answers whose body has no room for it.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Every JSON answer may be kept by the client's own cache only, and asked for again each time.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, max-age=0");

/// What is written into every body: made once per request by [`finish`].
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stamp {
    pub(crate) request_id: Arc<str>,
    pub(crate) generated_at: Arc<str>,
}

impl Stamp {
    fn fresh() -> Self {
        Self {
            request_id: token::request_id().into(),
            generated_at: clock::now().into(),
        }
    }

    /// A number that changes with the request; unordered lists start there.
    pub(crate) fn turn(&self) -> usize {
        self.request_id.bytes().map(usize::from).sum()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Stamp {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts
            .extensions
            .get::<Self>()
            .cloned()
            .unwrap_or_else(Self::fresh))
    }
}

#[derive(Serialize)]
struct Stamped<'a, T> {
    #[serde(flatten)]
    stamp: &'a Stamp,
    #[serde(flatten)]
    body: &'a T,
}

/// A JSON answer with the stamp in it.
pub(crate) fn json<T: Serialize>(
    status: StatusCode,
    stamp: &Stamp,
    body: &T,
) -> Result<Response, Failure> {
    json_bytes(status, &Stamped { stamp, body })
}

/// A JSON answer with status 200.
pub(crate) fn ok<T: Serialize>(stamp: &Stamp, body: &T) -> Result<Response, Failure> {
    json(StatusCode::OK, stamp, body)
}

/// A JSON answer with status 201 and the address of what was made.
pub(crate) fn created<T: Serialize>(
    stamp: &Stamp,
    body: &T,
    location: &str,
) -> Result<Response, Failure> {
    let mut response = json(StatusCode::CREATED, stamp, body)?;
    response.headers_mut().insert(LOCATION, header(location)?);
    Ok(response)
}

fn json_bytes<T: Serialize>(status: StatusCode, body: &T) -> Result<Response, Failure> {
    let bytes = serde_json::to_vec(body)
        .map_err(|error| Failure::Unexpected(format!("cannot write JSON: {error}")))?;
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, PRIVATE);
    Ok(response)
}

/// A 304 for a client that already has `etag`.
pub(crate) fn not_modified(etag: &str) -> Result<Response, Failure> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response.headers_mut().insert(CACHE_CONTROL, PRIVATE);
    with_etag(response, etag)
}

/// Adds an entity tag.
pub(crate) fn with_etag(mut response: Response, etag: &str) -> Result<Response, Failure> {
    response.headers_mut().insert(ETAG, header(etag)?);
    Ok(response)
}

/// Whether `If-None-Match` names `etag`; weak comparison, RFC 9110 section 13.1.2.
pub(crate) fn client_has(headers: &HeaderMap, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim() == "*" || opaque(tag) == opaque(etag))
}

/// A header value from text.
pub(crate) fn header(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::from_str(text)
        .map_err(|_| Failure::Unexpected(format!("{text:?} cannot be sent as a header")))
}

/// The outermost layer: stamps the request, renders a failure, adds the build id.
pub(crate) async fn finish(State(shop): State<Shop>, mut request: Request, next: Next) -> Response {
    let stamp = Stamp::fresh();
    let method = request.method().clone();
    let uri = request.uri().clone();
    request.extensions_mut().insert(stamp.clone());
    let mut response = next.run(request).await;
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        if let Failure::Unexpected(why) = &failure {
            tracing::error!(%method, path = uri.path(), request_id = %stamp.request_id, %why, "request failed");
        }
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let allow = response.headers().get(ALLOW).cloned();
        response = render(&shop, &stamp, &failure, target);
        if let Some(allow) = allow {
            response.headers_mut().insert(ALLOW, allow);
        }
    }
    tracing::debug!(%method, path = uri.path(), status = response.status().as_u16(), request_id = %stamp.request_id, "answered");
    response
        .headers_mut()
        .insert(BUILD_ID, shop.build_id().clone());
    response
}

/// Turns a panic of a handler into the answer of any other unexpected error.
pub(crate) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let why = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    axum::response::IntoResponse::into_response(Failure::Unexpected(format!("panic: {why}")))
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    request_id: &'a str,
    error: String,
    status: u16,
}

fn render(shop: &Shop, stamp: &Stamp, failure: &Failure, target: &str) -> Response {
    let speaks_json = target.starts_with("/api/")
        || target.starts_with("/admin/")
        || target.starts_with("/health");
    // Pages for what no route answers and for defects, on the API too: the shop grew that way.
    let always_page = matches!(
        failure,
        Failure::NoSuchPage | Failure::MethodNotAllowed | Failure::Unexpected(_)
    );
    let status = failure.status();
    let rendered = if speaks_json && !always_page {
        let body = ErrorBody {
            request_id: &stamp.request_id,
            error: failure.to_string(),
            status: status.as_u16(),
        };
        json_bytes(status, &body)
    } else if matches!(failure, Failure::LoginRequired) {
        to_login(target)
    } else {
        shop.pages().error(stamp, failure)
    };
    let mut response = rendered.unwrap_or_else(|why| {
        tracing::error!(request_id = %stamp.request_id, %why, "cannot show an error");
        let text = format!("error {}, request {}\n", status.as_u16(), stamp.request_id);
        let mut plain = Response::new(Body::from(text));
        *plain.status_mut() = status;
        plain
    });
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn to_login(target: &str) -> Result<Response, Failure> {
    // Only a path of this shop, and nothing that would need escaping, is carried along.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-_.".contains(&b);
    let path = target.split('?').next().unwrap_or("/");
    let next = if path.bytes().all(plain) { path } else { "/" };
    see_other(&format!("/login?next={next}"))
}

/// A 303 to a path of this shop.
pub(crate) fn see_other(path: &str) -> Result<Response, Failure> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(LOCATION, header(path)?);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entity_tags_compare_weakly() {
        let check = |given: &str, expected: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_str(given).unwrap());
            assert_eq!(client_has(&headers, "W/\"p1-5\""), expected, "{given}");
        };
        check("W/\"p1-5\"", true);
        check("\"p1-5\"", true);
        check("\"x\", W/\"p1-5\"", true);
        check("*", true);
        check("W/\"p1-6\"", false);
        check("p1-5", false);
        assert!(!client_has(&HeaderMap::new(), "W/\"p1-5\""));
    }

    #[test]
    fn the_way_to_login_leads_back_into_the_shop_only() {
        let location = |target: &str| {
            to_login(target).unwrap().headers()[LOCATION]
                .to_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(location("/orders/5?x=1"), "/login?next=/orders/5");
        assert_eq!(location("/a%0d%0ab"), "/login?next=/");
    }
}
