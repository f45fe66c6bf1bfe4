//! Asking one side: own connections, bounded in time and bytes, never twice.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

use super::session::Dressed;
use crate::body::GROWTH_MAX;
use crate::compare::Answer;
use crate::mirror::chain;
use crate::settings::Limits;

/// A side's answer, and how long its head took.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) answer: Answer,
    pub(super) latency: Duration,
}

#[derive(Debug)]
pub(super) struct Asker {
    client: Client<HttpConnector, Full<Bytes>>,
    limits: Limits,
}

impl Asker {
    pub(super) fn new(limits: &Limits) -> Self {
        let mut client = Client::builder(TokioExecutor::new());
        // A request that may write is not sent again by the client either.
        client.retry_canceled_requests(false);
        Self {
            client: client.build_http(),
            limits: limits.clone(),
        }
    }

    /// # Errors
    /// Says why there is no answer.
    pub(super) async fn ask(
        &self,
        to: &Authority,
        method: &Method,
        dressed: Dressed,
    ) -> Result<Asked, String> {
        let uri = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(to.clone())
            .path_and_query(dressed.target)
            .build()
            .map_err(|error| error.to_string())?;
        let mut request = Request::new(Full::new(dressed.body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = dressed.headers;
        let within = self.limits.timeout;
        let begun = Instant::now();
        let whole = async {
            let response = self.client.request(request).await;
            let response = response.map_err(|error| chain(&error))?;
            let latency = begun.elapsed();
            let (parts, body) = response.into_parts();
            let most = self.limits.body.saturating_mul(GROWTH_MAX);
            let body = Limited::new(body, most).collect().await;
            let body = body.map_err(|error| error.to_string())?;
            let trailers = body.trailers().cloned().unwrap_or_default();
            let answer = Answer {
                status: parts.status,
                headers: parts.headers,
                body: body.to_bytes(),
                trailers,
            };
            Ok(Asked { answer, latency })
        };
        timeout(within, whole)
            .await
            .map_err(|_| format!("no answer within {within:?}"))?
    }
}
