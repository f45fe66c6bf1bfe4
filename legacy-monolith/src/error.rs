//! Everything that can go wrong: at start, and while answering.
//!
//! Owns the kinds and their status codes. How a failure looks (JSON or page) is decided in one
//! place, `answer`.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use std::net::SocketAddr;

/// Why the shop did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database URL is not one that the shop can use.
    #[error("database `{url}` is not usable: {why}; give a file, such as `sqlite:shop.db`")]
    DatabaseUrl {
        /// As given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The database file could not be opened.
    #[error("cannot open database `{url}`; check that the folder exists and the file is SQLite")]
    Open {
        /// As given.
        url: String,
        /// What the database said.
        source: sqlx::Error,
    },
    /// Another process kept the database locked.
    #[error("database `{url}` is locked by another process; stop it or wait, then start again")]
    Locked {
        /// As given.
        url: String,
    },
    /// The schema or the seed data could not be written; nothing of it was kept.
    #[error("cannot fill the database")]
    Fill(#[source] sqlx::Error),
    /// The seed data could not be made.
    #[error("cannot make the seed data: {0}")]
    Seed(String),
    /// The build id cannot be sent as a header.
    #[error("build id `{0}` cannot be sent as a header; use plain letters, digits and dashes")]
    BuildId(String),
    /// A page template is broken.
    #[error("page template is broken")]
    Template(#[source] minijinja::Error),
    /// The address could not be bound.
    #[error("cannot listen on {addr}; choose a free port or stop the process that has it")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A signal handler or the listener failed.
    #[error("the server failed")]
    Serve(#[source] std::io::Error),
}

/// Why a request did not get what it asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Failure {
    /// No route has this path: always a page, also under `/api`.
    #[error("there is no such page")]
    NoSuchPage,
    /// The path exists, the method does not.
    #[error("this address does not take that method")]
    MethodNotAllowed,
    /// The thing asked for does not exist.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The request cannot be read.
    #[error("{0}")]
    BadRequest(String),
    /// The request can be read but its values are not acceptable.
    #[error("{0}")]
    Unprocessable(String),
    /// Nobody is logged in.
    #[error("login required")]
    LoginRequired,
    /// The e-mail or the password is wrong; never says which.
    #[error("wrong e-mail or password")]
    WrongPassword,
    /// Logged in, but not allowed.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The state of the shop does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// The body is larger than the route takes.
    #[error("the body is too large; the limit is {0} bytes")]
    TooLarge(usize),
    /// The body is of a type that the route does not take.
    #[error("{0}")]
    UnsupportedType(&'static str),
    /// The database refuses writes to this table for now (a fence), in its own words.
    #[error("{0}")]
    Fenced(String),
    /// The database stayed busy for longer than the shop waits.
    #[error("the database is busy, try again")]
    Busy,
    /// A defect or a broken database. The text is for the log, never for the client.
    #[error("{0}")]
    Unexpected(String),
}

impl Failure {
    /// The status code of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NoSuchPage | Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unprocessable(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::LoginRequired | Self::WrongPassword => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Fenced(_) | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unexpected(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A write that a trigger refused begins with this word when the refusal will pass.
const FENCE: &str = "outgrow:";

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        if is_busy(&error) {
            return Self::Busy;
        }
        match &error {
            sqlx::Error::Database(refused) if refused.message().starts_with(FENCE) => {
                Self::Fenced(refused.message().to_owned())
            }
            _ => Self::Unexpected(error.to_string()),
        }
    }
}

/// Whether the database was locked for longer than the shop waits.
pub(crate) fn is_busy(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::PoolTimedOut => true,
        // The primary result code is in the low byte: 5 is SQLITE_BUSY, 6 is SQLITE_LOCKED.
        sqlx::Error::Database(error) => error
            .code()
            .and_then(|code| code.parse::<u32>().ok())
            .is_some_and(|code| matches!(code & 0xff, 5 | 6)),
        _ => false,
    }
}

/// Carries the failure to the outermost layer, which knows the request id and the kind of client.
impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}
