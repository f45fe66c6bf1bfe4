//! A write as it arrives: who, what, and under which key.
//!
//! Owns the reading of identity, idempotency key and body, and the order of refusals (login, role,
//! then the body). Refuses the database: see [`crate::write`].

use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;

use crate::answer::Failure;
use crate::clock::Instant;
use crate::dry_run;
use crate::idempotency::{self, Intent, KEY_HEADER};
use crate::identity::{Caller, IDENTITY_HEADER, IdentityError};
use crate::service::Service;

/// The longest body taken, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// A request that wants to change something.
#[derive(Debug)]
pub struct Call {
    caller: Result<Caller, IdentityError>,
    /// The key is checked only once the caller is known to be one.
    key: Option<Vec<u8>>,
    fingerprint: String,
    body: Bytes,
    /// Whether what it does is taken back.
    pub(crate) is_dry: bool,
    /// When the call arrived; every row and event it makes carries this time.
    pub now: Instant,
}

impl FromRequest<Service> for Call {
    type Rejection = Response;

    async fn from_request(request: Request, service: &Service) -> Result<Call, Response> {
        let now = Instant::now();
        let is_dry = dry_run::asked(request.headers());
        let is_dry = is_dry.map_err(Failure::into_response)?;
        let caller = caller(service, request.headers(), now);
        let key = request
            .headers()
            .get(KEY_HEADER)
            .map(|value| value.as_bytes().to_vec());
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let body = Bytes::from_request(request, service)
            .await
            .map_err(|rejection| {
                let status = rejection.status();
                let message = if status == StatusCode::PAYLOAD_TOO_LARGE {
                    format!("the body is longer than {BODY_BYTES_MAX} bytes")
                } else {
                    "the body could not be read".to_owned()
                };
                Failure::new(status, message).into_response()
            })?;
        let fingerprint = idempotency::fingerprint(method.as_str(), &path, &body);
        Ok(Call {
            caller,
            key,
            fingerprint,
            body,
            is_dry,
            now,
        })
    }
}

fn caller(service: &Service, headers: &HeaderMap, now: Instant) -> Result<Caller, IdentityError> {
    let header = headers.get(IDENTITY_HEADER).ok_or(IdentityError::Missing)?;
    let header = header.to_str().map_err(|_| IdentityError::Malformed)?;
    let secret = service.secret().ok_or(IdentityError::NoSecret)?;
    secret.verify(header, now.unix())
}

impl Call {
    /// The caller, who must be logged in.
    ///
    /// # Errors
    /// 401 without a good identity.
    pub fn caller(&self) -> Result<&Caller, Failure> {
        self.caller.as_ref().map_err(|error| {
            if *error != IdentityError::Missing {
                tracing::warn!(%error, "identity refused");
            }
            Failure::new(StatusCode::UNAUTHORIZED, "login required")
        })
    }

    /// The caller, who must work for the shop.
    ///
    /// # Errors
    /// 401 without a good identity, 403 without the role.
    pub fn staff(&self) -> Result<&Caller, Failure> {
        let caller = self.caller()?;
        if caller.is_staff() {
            return Ok(caller);
        }
        Err(Failure::new(
            StatusCode::FORBIDDEN,
            "only staff may do this",
        ))
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// 400 when it is no JSON, 422 when it is but lacks what is needed.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            if error.is_data() {
                Failure::unprocessable(format!("the body does not fit: {error}"))
            } else {
                Failure::bad_request("the body is not valid JSON")
            }
        })
    }

    /// What this call intends, if it names a key.
    ///
    /// # Errors
    /// 401 without a caller, 400 when the key is malformed.
    pub fn intent(&self) -> Result<Option<Intent>, Failure> {
        let Some(key) = &self.key else {
            return Ok(None);
        };
        Ok(Some(Intent {
            caller: self.caller()?.user_id,
            key: idempotency::parse_key(key)?,
            fingerprint: self.fingerprint.clone(),
        }))
    }
}
