//! Who is asking: cookies, sessions, passwords.
//!
//! Owns the session table and the login. Refuses to store tokens: the table holds digests.
//! Passwords are checked at a cost fit for an example shop under load, far below what a real shop
//! must use; the parameters are part of each stored hash.

use argon2::password_hash::{PasswordHash, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use axum::extract::{FromRef, FromRequestParts, State};
use axum::response::Response;
use http::header::{COOKIE, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use crate::answer::{self, Stamp};
use crate::database::Database;
use crate::error::Failure;
use crate::input::Json;
use crate::shop::Shop;
use crate::{clock, token};

/// The cookie with the session's token.
pub(crate) const COOKIE_NAME: &str = "sid";
/// A session lasts a fortnight from login.
const SESSION_SECONDS: i64 = 14 * 24 * 3600;
/// What is hashed when the e-mail is unknown, so that the answer takes as long.
const NOBODY: &str =
    "$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A logged-in user.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct User {
    pub(crate) user_id: i64,
    pub(crate) name: String,
    pub(crate) role: String,
}

impl User {
    pub(crate) fn is_staff(&self) -> bool {
        self.role == "staff"
    }
}

/// The user of the request's session, if there is one.
#[derive(Debug, Clone)]
pub(crate) struct Visitor(pub(crate) Option<User>);

impl<S> FromRequestParts<S> for Visitor
where
    S: Send + Sync,
    Database: FromRef<S>,
{
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Some(token) = cookie(&parts.headers, COOKIE_NAME) else {
            return Ok(Self(None));
        };
        let found: Option<(i64, String, String)> = sqlx::query_as(
            "SELECT users.id, users.name, users.role FROM sessions \
             JOIN users ON users.id = sessions.user_id \
             WHERE sessions.token_digest = ? AND sessions.expires_at > ?",
        )
        .bind(token::digest(token))
        .bind(clock::now())
        .fetch_optional(Database::from_ref(state).readers())
        .await?;
        Ok(Self(found.map(|(user_id, name, role)| User {
            user_id,
            name,
            role,
        })))
    }
}

/// A logged-in user; anybody else gets a 401 (or, on a page, the login form).
#[derive(Debug, Clone)]
pub(crate) struct LoggedIn(pub(crate) User);

impl<S> FromRequestParts<S> for LoggedIn
where
    S: Send + Sync,
    Database: FromRef<S>,
{
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let visitor = Visitor::from_request_parts(parts, state).await?;
        visitor.0.map(Self).ok_or(Failure::LoginRequired)
    }
}

/// A member of staff; customers get a 403.
#[derive(Debug, Clone)]
pub(crate) struct Staff(pub(crate) User);

impl<S> FromRequestParts<S> for Staff
where
    S: Send + Sync,
    Database: FromRef<S>,
{
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let LoggedIn(user) = LoggedIn::from_request_parts(parts, state).await?;
        if user.is_staff() {
            Ok(Self(user))
        } else {
            Err(Failure::Forbidden("only staff may do this"))
        }
    }
}

/// The value of a cookie; the first one wins.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, value)| *key == name && !value.is_empty())
        .map(|(_, value)| value)
}

/// Checks the password and opens a session: its token and its user.
pub(crate) async fn open(
    database: &Database,
    email: &str,
    password: &str,
) -> Result<(String, User), Failure> {
    let found: Option<(i64, String, String, String)> =
        sqlx::query_as("SELECT id, name, role, password_hash FROM users WHERE email = ?")
            .bind(email.trim().to_ascii_lowercase())
            .fetch_optional(database.readers())
            .await?;
    let hash = found
        .as_ref()
        .map_or(NOBODY, |(_, _, _, hash)| hash.as_str());
    let fits = password_fits(password, hash)?;
    let Some((user_id, name, role, _)) = found.filter(|_| fits) else {
        return Err(Failure::WrongPassword);
    };
    let token = token::secret()?;
    let mut tx = database.write().await?;
    sqlx::query(
        "INSERT INTO sessions(token_digest, user_id, created_at, expires_at) VALUES (?, ?, ?, ?)",
    )
    .bind(token::digest(&token))
    .bind(user_id)
    .bind(clock::now())
    .bind(clock::in_seconds(SESSION_SECONDS))
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok((
        token,
        User {
            user_id,
            name,
            role,
        },
    ))
}

/// Ends the session of a token; an unknown token is no error.
pub(crate) async fn close(database: &Database, token: &str) -> Result<(), Failure> {
    let mut tx = database.write().await?;
    sqlx::query("DELETE FROM sessions WHERE token_digest = ?")
        .bind(token::digest(token))
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(())
}

/// Removes sessions that are over; returns how many.
pub(crate) async fn sweep(database: &Database) -> Result<u64, Failure> {
    let mut tx = database.write().await?;
    let gone = sqlx::query("DELETE FROM sessions WHERE expires_at <= ?")
        .bind(clock::now())
        .execute(&mut *tx)
        .await?
        .rows_affected();
    tx.commit().await?;
    Ok(gone)
}

/// The hasher of the seed: the least memory and time that Argon2 allows.
pub(crate) fn hasher() -> Result<Argon2<'static>, argon2::Error> {
    Ok(Argon2::new(
        Algorithm::Argon2id,
        Version::V0x13,
        Params::new(8, 1, 1, None)?,
    ))
}

fn password_fits(password: &str, hash: &str) -> Result<bool, Failure> {
    let hash = PasswordHash::new(hash)
        .map_err(|error| Failure::Unexpected(format!("stored password hash: {error}")))?;
    Ok(Argon2::default()
        .verify_password(password.as_bytes(), &hash)
        .is_ok())
}

/// The `Set-Cookie` of a fresh session.
pub(crate) fn set_cookie(token: &str) -> String {
    format!("{COOKIE_NAME}={token}; HttpOnly; SameSite=Lax; Path=/")
}

/// The `Set-Cookie` that takes the session away.
pub(crate) fn unset_cookie() -> String {
    format!("{COOKIE_NAME}=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0")
}

#[derive(Debug, Deserialize)]
pub(crate) struct Credentials {
    email: String,
    password: String,
}

/// `POST /api/login`
pub(crate) async fn login(
    State(shop): State<Shop>,
    stamp: Stamp,
    Json(given): Json<Credentials>,
) -> Result<Response, Failure> {
    let (token, user) = open(shop.database(), &given.email, &given.password).await?;
    let mut response = answer::ok(&stamp, &user)?;
    response
        .headers_mut()
        .append(SET_COOKIE, answer::header(&set_cookie(&token))?);
    Ok(response)
}

/// `POST /api/logout`; a foreign page cannot send the JSON type that it asks for.
pub(crate) async fn logout(
    State(shop): State<Shop>,
    headers: HeaderMap,
    stamp: Stamp,
    _: LoggedIn,
    Json(_): Json<serde_json::Value>,
) -> Result<Response, Failure> {
    if let Some(token) = cookie(&headers, COOKIE_NAME) {
        close(shop.database(), token).await?;
    }
    let body = serde_json::json!({ "logged_out": true });
    let mut response = answer::json(StatusCode::OK, &stamp, &body)?;
    response
        .headers_mut()
        .append(SET_COOKIE, answer::header(&unset_cookie())?);
    Ok(response)
}

/// `GET /api/me`
pub(crate) async fn me(stamp: Stamp, LoggedIn(user): LoggedIn) -> Result<Response, Failure> {
    answer::ok(&stamp, &user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use argon2::password_hash::{PasswordHasher, SaltString};

    #[test]
    fn the_stand_in_hash_is_readable_and_fits_nothing() {
        assert!(!password_fits("", NOBODY).unwrap());
        let salt = SaltString::encode_b64(b"0123456789abcdef").unwrap();
        let hash = hasher()
            .unwrap()
            .hash_password(b"outgrow-1", &salt)
            .unwrap()
            .to_string();
        assert!(password_fits("outgrow-1", &hash).unwrap());
        assert!(!password_fits("outgrow-2", &hash).unwrap());
    }

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "xsid=1; sid=two; sid=three".parse().unwrap());
        assert_eq!(cookie(&headers, "sid"), Some("two"));
        assert_eq!(cookie(&headers, "id"), None);
    }
}
