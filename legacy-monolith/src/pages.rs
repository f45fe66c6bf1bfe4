//! The pages: templates, what every page shows, form tokens.
//!
//! Owns rendering. All text is escaped by the template engine, which goes by the `.html` in the
//! templates' names. A form is accepted only with the token of the browser that got the page.

pub(crate) mod account;
pub(crate) mod browse;
pub(crate) mod buying;

use axum::body::Body;
use axum::response::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::Serialize;

use crate::answer::Stamp;
use crate::error::{Failure, StartError};
use crate::session::{self, User, Visitor};
use crate::shop::Shop;
use crate::token;

const TEMPLATES: &[(&str, &str)] = &[
    ("base.html", include_str!("templates/base.html")),
    ("home.html", include_str!("templates/home.html")),
    ("products.html", include_str!("templates/products.html")),
    ("product.html", include_str!("templates/product.html")),
    ("login.html", include_str!("templates/login.html")),
    ("cart.html", include_str!("templates/cart.html")),
    ("orders.html", include_str!("templates/orders.html")),
    ("order.html", include_str!("templates/order.html")),
    ("error.html", include_str!("templates/error.html")),
];
/// No scripts, no frames, nothing from elsewhere: a second wall behind the escaping.
const POLICY: &str = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
const CONTENT_SECURITY_POLICY: HeaderName = HeaderName::from_static("content-security-policy");

/// All templates, parsed.
#[derive(Debug)]
pub(crate) struct Pages(Environment<'static>);

/// What every page needs to know about the request.
#[derive(Debug, Serialize)]
pub(crate) struct Frame {
    #[serde(flatten)]
    stamp: Stamp,
    user: Option<User>,
    /// The form token; empty where there is no form.
    csrf: String,
}

impl Frame {
    /// The frame of a page for a visitor.
    pub(crate) fn new(shop: &Shop, stamp: Stamp, visitor: Visitor, headers: &HeaderMap) -> Self {
        let csrf = session::cookie(headers, session::COOKIE_NAME)
            .filter(|_| visitor.0.is_some())
            .map(|cookie| token::form_token(shop.form_key(), cookie))
            .unwrap_or_default();
        Self {
            stamp,
            user: visitor.0,
            csrf,
        }
    }
}

impl Pages {
    pub(crate) fn new() -> Result<Self, StartError> {
        let mut environment = Environment::new();
        for (name, source) in TEMPLATES {
            environment
                .add_template(name, source)
                .map_err(StartError::Template)?;
        }
        Ok(Self(environment))
    }

    /// A page with status 200.
    pub(crate) fn show<T: Serialize>(
        &self,
        name: &str,
        frame: &Frame,
        body: &T,
    ) -> Result<Response, Failure> {
        let (frame, body) = (value(frame), value(body));
        self.render(StatusCode::OK, name, context! { frame, body })
    }

    /// The page of a failure.
    pub(crate) fn error(&self, stamp: &Stamp, failure: &Failure) -> Result<Response, Failure> {
        let status = failure.status();
        let text = match failure {
            Failure::Unexpected(_) => "something went wrong on our side".to_owned(),
            other => other.to_string(),
        };
        let frame = value(&Frame {
            stamp: stamp.clone(),
            user: None,
            csrf: String::new(),
        });
        let body = context! { status => status.as_u16(), text };
        self.render(status, "error.html", context! { frame, body })
    }

    fn render(&self, status: StatusCode, name: &str, context: Value) -> Result<Response, Failure> {
        let text = self
            .0
            .get_template(name)
            .and_then(|template| template.render(context))
            .map_err(|error| Failure::Unexpected(format!("template {name}: {error:#}")))?;
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        Ok(response)
    }
}

/// What a template sees of something serializable.
pub(crate) fn value<T: Serialize>(of: &T) -> Value {
    Value::from(Serde(of))
}

/// Refuses a form whose token is not the one of the browser's `cookie`.
pub(crate) fn check_form(
    shop: &Shop,
    headers: &HeaderMap,
    cookie: &str,
    given: &str,
) -> Result<(), Failure> {
    let fits = session::cookie(headers, cookie)
        .is_some_and(|cookie| token::form_token_matches(shop.form_key(), cookie, given));
    if fits {
        Ok(())
    } else {
        Err(Failure::Forbidden(
            "the form is too old, go back and load the page again",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_parses() {
        let pages = Pages::new().unwrap();
        assert_eq!(pages.0.templates().count(), TEMPLATES.len());
    }
}
