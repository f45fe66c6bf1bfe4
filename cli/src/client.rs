//! The admin API as a client sees it: one base URL, one token, typed refusals.
//!
//! It knows no endpoint; the commands do. It retries nothing, because a change that was asked
//! for twice is two changes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use outgrow_rollout::GateResult;
use serde::Deserialize;
use serde_json::Value;

use crate::config::{AdminEndpoint, HttpUrl, Secret, scalar};

/// The API is on this machine, so a connection is there at once or never.
const CONNECT: Duration = Duration::from_secs(5);
/// Looking reads memory or a small store.
const LOOK: Duration = Duration::from_secs(60);
/// A repair may write many rows; a person who waits longer than this looks at `status` instead.
const CHANGE: Duration = Duration::from_secs(30 * 60);
/// A verification looks at every row of both databases, and ends when nobody waits for it.
const VERIFY: Duration = Duration::from_secs(48 * 60 * 60);
/// An HTML report with all its examples is a few megabytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A connection to a running Outgrow.
#[derive(Debug)]
pub(crate) struct Client {
    base: HttpUrl,
    authorization: HeaderValue,
    pool: Pool<HttpConnector, Full<Bytes>>,
}

/// Where to find the API, as the command line says.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) admin: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) config: PathBuf,
}

impl Client {
    /// A client of the API at `base`; connects when it is first used.
    ///
    /// # Errors
    /// Refuses a token that no header can carry.
    pub(crate) fn new(base: HttpUrl, token: &Secret) -> anyhow::Result<Self> {
        let mut authorization = token
            .text()
            .and_then(|text| HeaderValue::from_str(&format!("Bearer {text}")).ok())
            .context("the token has characters that a header cannot carry; write a new one")?;
        authorization.set_sensitive(true);
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        Ok(Self {
            base,
            authorization,
            pool: Pool::builder(TokioExecutor::new()).build(connector),
        })
    }

    /// Finds the API by flags and variables, and what they leave open by the config file.
    ///
    /// # Errors
    /// Says what is missing and how to give it.
    pub(crate) fn find(endpoint: &Endpoint) -> anyhow::Result<Self> {
        let named =
            endpoint.admin.is_some() && (endpoint.token.is_some() || endpoint.token_file.is_some());
        let from_file = if named {
            None
        } else {
            let found = AdminEndpoint::load(&endpoint.config).context(
                "cannot tell where Outgrow runs: give -c FILE, or --admin and --token-file",
            )?;
            Some(found)
        };
        let base = match (&endpoint.admin, &from_file) {
            (Some(text), _) => scalar::http_url(text)
                .map_err(|rule| anyhow::anyhow!("--admin `{text}`: {rule}"))?,
            (None, Some(found)) => HttpUrl {
                host: match found.listen {
                    std::net::SocketAddr::V4(address) => address.ip().to_string(),
                    std::net::SocketAddr::V6(address) => format!("[{}]", address.ip()),
                },
                port: found.listen.port(),
            },
            (None, None) => anyhow::bail!("give --admin, the URL of the admin API"),
        };
        let token = match (&endpoint.token, &endpoint.token_file, &from_file) {
            (_, Some(path), _) => read_token(path)?,
            (Some(text), None, _) => {
                Secret::new(text.as_str()).map_err(|why| anyhow::anyhow!("OUTGROW_TOKEN: {why}"))?
            }
            (None, None, Some(found)) => read_token(&found.token_file)?,
            (None, None, None) => anyhow::bail!("give --token-file, the file with the token"),
        };
        Self::new(base, &token)
    }

    /// Asks without changing anything.
    ///
    /// # Errors
    /// [`ApiError`], also for an answer that is no JSON.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, ApiError> {
        let bytes = self.exchange(Method::GET, path, Bytes::new(), LOOK).await?;
        parse(path, &bytes)
    }

    /// Asks for a document, such as a report.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) async fn text(&self, path: &str) -> Result<String, ApiError> {
        let bytes = self.exchange(Method::GET, path, Bytes::new(), LOOK).await?;
        String::from_utf8(bytes.into())
            .map_err(|_| ApiError::internal(format!("the answer of {path} is not text")))
    }

    /// Asks for a change. Dropping the future does not take back what the server has begun.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) async fn post(&self, path: &str, body: Value) -> Result<Value, ApiError> {
        let body = Bytes::from(body.to_string());
        let bytes = self.exchange(Method::POST, path, body, CHANGE).await?;
        parse(path, &bytes)
    }

    /// Asks for what may take hours. Dropping the future ends it.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) async fn verify(&self, path: &str, body: Value) -> Result<Value, ApiError> {
        let body = Bytes::from(body.to_string());
        let bytes = self.exchange(Method::POST, path, body, VERIFY).await?;
        parse(path, &bytes)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, ApiError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::AUTHORIZATION, self.authorization.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| ApiError::internal(format!("cannot ask for {path}: {e}")))?;
        let answered = async {
            let response = self.pool.request(request).await.map_err(|error| {
                if error.is_connect() {
                    self.unreachable(&error)
                } else {
                    let text = format!("the admin API gave no answer: {}", chain(&error));
                    ApiError::internal(text)
                }
            })?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
            let bytes = body.collect().await.map_err(|error| {
                ApiError::internal(format!("the answer broke off: {}", chain(&*error)))
            })?;
            Ok((status, bytes.to_bytes()))
        };
        let (status, bytes) = tokio::time::timeout(limit, answered)
            .await
            .map_err(|_| ApiError::timeout(path, limit))??;
        if status.is_success() {
            Ok(bytes)
        } else {
            Err(ApiError::from_answer(status, &bytes))
        }
    }

    fn unreachable(&self, error: &dyn std::error::Error) -> ApiError {
        ApiError {
            code: Code::Unreachable,
            message: format!("no Outgrow answers at {}: {}", self.base, chain(error)),
            details: Value::Null,
            hint: "start it with `outgrow serve`, or give --admin if it runs elsewhere".to_owned(),
        }
    }
}

fn read_token(path: &Path) -> anyhow::Result<Secret> {
    Secret::read(path)
        .map_err(anyhow::Error::msg)
        .with_context(|| {
            format!(
                "cannot read the admin token {} (`outgrow serve` makes it when it starts)",
                path.display()
            )
        })
}

fn parse(path: &str, bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|e| ApiError::internal(format!("the answer of {path} is not JSON: {e}")))
}

/// A text with its sources.
fn chain(error: &dyn std::error::Error) -> String {
    outgrow_control::chain(error)
}

/// What kind of refusal it was; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    NotFound,
    Unauthorized,
    Usage,
    /// A gate speaks against the step.
    Gate,
    /// Evidence is missing; later may do.
    Inconclusive,
    /// The revision moved, or something else runs on the slice.
    Conflict,
    Timeout,
    Illegal,
    Internal,
    /// Nobody listens.
    Unreachable,
}

impl Code {
    fn from_word(word: &str, status: StatusCode) -> Self {
        match word {
            "not-found" => Self::NotFound,
            "unauthorized" => Self::Unauthorized,
            "usage" => Self::Usage,
            "gate" => Self::Gate,
            "inconclusive" => Self::Inconclusive,
            "conflict" => Self::Conflict,
            "timeout" => Self::Timeout,
            "illegal" => Self::Illegal,
            _ if status == StatusCode::GATEWAY_TIMEOUT => Self::Timeout,
            _ => Self::Internal,
        }
    }

    /// The exit code of the process.
    pub(crate) fn exit(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Gate => 3,
            Self::Inconclusive => 4,
            Self::Conflict => 5,
            Self::Timeout => 6,
            Self::NotFound
            | Self::Unauthorized
            | Self::Illegal
            | Self::Internal
            | Self::Unreachable => 1,
        }
    }
}

/// A refusal of the API, or why there was no answer.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) details: Value,
    /// What to do; may be empty.
    pub(crate) hint: String,
}

impl std::error::Error for ApiError {}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    details: Value,
    #[serde(default)]
    hint: String,
}

impl ApiError {
    fn internal(message: String) -> Self {
        Self {
            code: Code::Internal,
            message,
            details: Value::Null,
            hint: String::new(),
        }
    }

    fn timeout(path: &str, limit: Duration) -> Self {
        Self {
            code: Code::Timeout,
            message: format!("no answer of {path} within {}", scalar::show(limit)),
            details: Value::Null,
            hint: "what was begun goes on; see `outgrow status`".to_owned(),
        }
    }

    fn from_answer(status: StatusCode, bytes: &[u8]) -> Self {
        match serde_json::from_slice::<Refusal>(bytes) {
            Ok(refusal) => Self {
                code: Code::from_word(&refusal.code, status),
                message: refusal.error,
                details: refusal.details,
                hint: refusal.hint,
            },
            Err(_) => Self {
                code: Code::from_word("", status),
                message: format!("the admin API answered {status} without saying why"),
                details: Value::Null,
                hint: "is it Outgrow that listens there?".to_owned(),
            },
        }
    }

    /// The gates that a refused step named.
    pub(crate) fn gates(&self) -> Vec<GateResult> {
        self.details
            .get("gates")
            .and_then(|gates| Vec::<GateResult>::deserialize(gates).ok())
            .unwrap_or_default()
    }
}

/// A path segment or query value with everything escaped that is not plain.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_exit_codes() {
        for (word, exit) in [
            ("not-found", 1),
            ("unauthorized", 1),
            ("usage", 2),
            ("gate", 3),
            ("inconclusive", 4),
            ("conflict", 5),
            ("timeout", 6),
            ("illegal", 1),
            ("internal", 1),
            ("never heard of", 1),
        ] {
            assert_eq!(Code::from_word(word, StatusCode::BAD_REQUEST).exit(), exit);
        }
    }

    #[test]
    fn an_answer_of_something_else_is_said_so() {
        let error = ApiError::from_answer(StatusCode::BAD_GATEWAY, b"<html>");
        assert!(error.message.contains("502"), "{error}");
        assert!(error.hint.contains("Outgrow"));
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escape("catalog"), "catalog");
        assert_eq!(escape("a/b ?é"), "a%2Fb%20%3F%C3%A9");
    }
}
