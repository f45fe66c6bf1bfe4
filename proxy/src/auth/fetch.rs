//! Gets the public keys of issuers. Not on a request's way: the guard's thread does it.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde::Deserialize;

use super::issuer::KeySource;
use super::jwt::KeySet;
use crate::visit;

/// From the name to the last byte.
const WITHIN: Duration = Duration::from_secs(5);
/// Key sets have a few kilobytes.
const ANSWER_MAX: usize = 1 << 20;

/// What an issuer says of itself (OpenID Connect Discovery, section 4.2).
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// How keys are got, with whose word on TLS.
#[derive(Debug)]
pub(super) struct Fetch {
    source: KeySource,
    tls: Option<Arc<ClientConfig>>,
}

impl Fetch {
    /// # Errors
    /// Says what is wrong with the CAs.
    pub(super) fn new(source: KeySource, ca: Option<&Path>) -> Result<Self, String> {
        let safe = match &source {
            KeySource::File(_) => false,
            // What is discovered may be elsewhere.
            KeySource::Discover(_) => true,
            KeySource::Url(url) => visit::is_safe(url),
        };
        let tls = safe.then(|| visit::trusting(ca)).transpose()?;
        Ok(Self { source, tls })
    }

    /// The keys as they are now.
    pub(super) async fn keys(&self, issuer: &str) -> Result<KeySet, String> {
        match &self.source {
            KeySource::File(path) => {
                let path = path.clone();
                // A disk may hang, and the guard must not.
                let read = tokio::task::spawn_blocking(move || file(&path));
                read.await.map_err(|error| error.to_string())?
            }
            KeySource::Url(url) => self.get(url).await,
            KeySource::Discover(url) => {
                let about = self.bytes(url).await?;
                let about: Discovery = serde_json::from_slice(&about)
                    .map_err(|error| format!("{url} describes no issuer: {error}"))?;
                if about.issuer != issuer {
                    return Err(format!("{url} describes another issuer"));
                }
                let jwks: Uri = about
                    .jwks_uri
                    .parse()
                    .map_err(|_| format!("{url} has no jwks_uri"))?;
                // Keys that anybody on the way could change are nobody's.
                if url.scheme_str() == Some("https") && jwks.scheme_str() != Some("https") {
                    return Err(format!("{url} names keys that come without TLS"));
                }
                self.get(&jwks).await
            }
        }
    }

    async fn get(&self, url: &Uri) -> Result<KeySet, String> {
        let bytes = self.bytes(url).await?;
        KeySet::parse(&bytes).map_err(|why| format!("{url}: {why}"))
    }

    async fn bytes(&self, url: &Uri) -> Result<Bytes, String> {
        let got = tokio::time::timeout(WITHIN, self.ask(url)).await;
        let got = got.unwrap_or_else(|_| Err(format!("no answer within {WITHIN:?}")));
        got.map_err(|why| format!("{url}: {why}"))
    }

    async fn ask(&self, url: &Uri) -> Result<Bytes, String> {
        let authority = url.authority().ok_or("it has no host")?;
        let stream = visit::connect(url, self.tls.as_ref()).await?;
        let request = Request::get(url.path_and_query().map_or("/", |target| target.as_str()))
            .header(HOST, authority.as_str())
            .header(ACCEPT, "application/json")
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        exchange(TokioIo::new(stream), request).await
    }
}

/// The keys of a file.
pub(super) fn file(path: &Path) -> Result<KeySet, String> {
    let read = std::fs::read(path).map_err(|error| error.to_string());
    read.and_then(|bytes| KeySet::parse(&bytes))
        .map_err(|why| format!("{}: {why}", path.display()))
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Bytes, String>
where
    S: Read + Write + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(stream)
        .await
        .map_err(|error| error.to_string())?;
    let mut asked = pin!(async {
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status() != StatusCode::OK {
            return Err(format!("it answered {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
        Ok(body.map_err(|error| error.to_string())?.to_bytes())
    });
    tokio::select! {
        biased;
        got = &mut asked => got,
        // What had come before its end is there still.
        _ = connection => asked.await,
    }
}
