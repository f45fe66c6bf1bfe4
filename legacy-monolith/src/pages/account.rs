//! Logging in and out by form.
//!
//! The login form has no session to hang its token on, so the page sets a cookie of its own.

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, State};
use axum::response::Response;
use http::HeaderMap;
use http::header::SET_COOKIE;
use minijinja::context;
use serde::Deserialize;

use super::{Frame, check_form};
use crate::answer::{self, Stamp};
use crate::error::Failure;
use crate::input::Args;
use crate::session::{self, Visitor};
use crate::shop::Shop;
use crate::token;

/// The cookie that the login form's token belongs to.
const VISIT: &str = "visit";

/// Only a path of this shop may follow the login; `//host` and `/\host` would lead away.
fn safe_next(next: Option<&str>) -> &str {
    next.filter(|next| {
        next.starts_with('/')
            && !next.starts_with("//")
            && next
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"/-_.".contains(&b))
    })
    .unwrap_or("/")
}

/// `GET /login`
pub(crate) async fn login_form(
    State(shop): State<Shop>,
    stamp: Stamp,
    visitor: Visitor,
    headers: HeaderMap,
    args: Args,
) -> Result<Response, Failure> {
    let known = session::cookie(&headers, VISIT).map(str::to_owned);
    let fresh = known.is_none();
    let visit = known.map_or_else(token::secret, Ok)?;
    let body = context! {
        next => safe_next(args.text("next")),
        token => token::form_token(shop.form_key(), &visit),
    };
    let frame = Frame::new(&shop, stamp, visitor, &headers);
    let mut response = shop.pages().show("login.html", &frame, &body)?;
    if fresh {
        let cookie = format!("{VISIT}={visit}; HttpOnly; SameSite=Lax; Path=/login");
        response
            .headers_mut()
            .append(SET_COOKIE, answer::header(&cookie)?);
    }
    Ok(response)
}

#[derive(Debug, Deserialize)]
pub(crate) struct LoginForm {
    csrf: String,
    email: String,
    password: String,
    next: Option<String>,
}

/// A form that could be read, or the failure of one that could not.
pub(crate) fn form<T>(given: Result<Form<T>, FormRejection>) -> Result<T, Failure> {
    given
        .map(|Form(form)| form)
        .map_err(|rejection| Failure::BadRequest(format!("the form cannot be read: {rejection}")))
}

/// `POST /login`: a new session each time, so a token planted before the login is worth nothing.
pub(crate) async fn login(
    State(shop): State<Shop>,
    headers: HeaderMap,
    given: Result<Form<LoginForm>, FormRejection>,
) -> Result<Response, Failure> {
    let given = form(given)?;
    check_form(&shop, &headers, VISIT, &given.csrf)?;
    let (token, _) = session::open(shop.database(), &given.email, &given.password).await?;
    let mut response = answer::see_other(safe_next(given.next.as_deref()))?;
    response
        .headers_mut()
        .append(SET_COOKIE, answer::header(&session::set_cookie(&token))?);
    Ok(response)
}

#[derive(Debug, Deserialize)]
pub(crate) struct LogoutForm {
    csrf: String,
}

/// `POST /logout`
pub(crate) async fn logout(
    State(shop): State<Shop>,
    headers: HeaderMap,
    given: Result<Form<LogoutForm>, FormRejection>,
) -> Result<Response, Failure> {
    let given = form(given)?;
    check_form(&shop, &headers, session::COOKIE_NAME, &given.csrf)?;
    if let Some(token) = session::cookie(&headers, session::COOKIE_NAME) {
        session::close(shop.database(), token).await?;
    }
    let mut response = answer::see_other("/")?;
    response
        .headers_mut()
        .append(SET_COOKIE, answer::header(&session::unset_cookie())?);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_never_leads_out_of_the_shop() {
        assert_eq!(safe_next(Some("/orders/5")), "/orders/5");
        for next in [
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "orders",
            "",
        ] {
            assert_eq!(safe_next(Some(next)), "/", "{next}");
        }
        assert_eq!(safe_next(None), "/");
    }
}
