//! Upstreams whose connections somebody else makes: over TLS, or in HTTP/2.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::chain;
use crate::places::{Dial, Dialed};

/// Connections at rest.
#[derive(Debug)]
pub(super) struct Connections {
    idle: Mutex<Vec<Idle>>,
    idle_max: usize,
    idle_for: Duration,
}

#[derive(Debug)]
struct Idle {
    of: Arc<dyn Dial>,
    sender: Sender,
    since: Instant,
}

#[derive(Debug)]
enum Sender {
    Lines(http1::SendRequest<Full<Bytes>>),
    Streams {
        sender: http2::SendRequest<Full<Bytes>>,
        safe: bool,
    },
}

/// A connection whose answer is still being read.
#[derive(Debug)]
pub(super) struct Lease {
    of: Arc<dyn Dial>,
    sender: Sender,
}

impl Connections {
    pub(super) fn new(idle_max: usize, idle_for: Duration) -> Self {
        Self {
            idle: Mutex::default(),
            idle_max,
            idle_for,
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, of: &Arc<dyn Dial>) -> Option<Sender> {
        let mut idle = self.idle();
        idle.retain(|one| one.since.elapsed() <= self.idle_for && one.sender.is_open());
        let at = idle.iter().rposition(|one| Arc::ptr_eq(&one.of, of))?;
        Some(idle.swap_remove(at).sender)
    }

    /// To be called when an answer has been read whole.
    pub(super) fn keep(&self, lease: Lease) {
        let Lease { of, sender } = lease;
        let mut idle = self.idle();
        if idle.len() < self.idle_max && sender.is_open() {
            let since = Instant::now();
            idle.push(Idle { of, sender, since });
        }
    }

    /// Sends a request, on a new connection, or one at rest where it `may_share`.
    ///
    /// # Errors
    /// Says why there is no answer.
    pub(super) async fn ask(
        &self,
        of: &Arc<dyn Dial>,
        request: Request<Full<Bytes>>,
        may_share: bool,
    ) -> Result<(Response<Incoming>, Lease), String> {
        let at_rest = may_share.then(|| self.take(of)).flatten();
        let mut sender = match at_rest {
            Some(sender) => sender,
            None => Sender::new(of.dial().await?).await?,
        };
        let response = sender.send(request).await?;
        let of = of.clone();
        Ok((response, Lease { of, sender }))
    }
}

impl Sender {
    async fn new(dialed: Dialed) -> Result<Self, String> {
        let io = TokioIo::new(dialed.io);
        // Both tasks end when nobody can send on their connection any more.
        if dialed.streams {
            let made = http2::handshake(TokioExecutor::new(), io).await;
            let (sender, connection) = made.map_err(|error| chain(&error))?;
            tokio::spawn(connection);
            let safe = dialed.safe;
            return Ok(Self::Streams { sender, safe });
        }
        let (sender, connection) = http1::handshake(io).await.map_err(|error| chain(&error))?;
        tokio::spawn(connection);
        Ok(Self::Lines(sender))
    }

    fn is_open(&self) -> bool {
        match self {
            Self::Lines(sender) => !sender.is_closed(),
            Self::Streams { sender, .. } => !sender.is_closed(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
        let answered = match self {
            Self::Lines(sender) => {
                sender.ready().await.map_err(|error| chain(&error))?;
                sender.send_request(lined(request)?).await
            }
            Self::Streams { sender, safe } => {
                sender.ready().await.map_err(|error| chain(&error))?;
                sender.send_request(streamed(request, *safe)?).await
            }
        };
        answered.map_err(|error| chain(&error))
    }
}

/// As HTTP/1.1 has it: a path, and `Host`.
fn lined(mut request: Request<Full<Bytes>>) -> Result<Request<Full<Bytes>>, String> {
    if !request.headers().contains_key(HOST)
        && let Some(authority) = request.uri().authority()
    {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?;
        request.headers_mut().insert(HOST, host);
    }
    let target = request.uri().path_and_query().map_or("/", |t| t.as_str());
    let target = target.parse::<Uri>().map_err(|error| error.to_string())?;
    *request.uri_mut() = target;
    Ok(request)
}

/// As HTTP/2 has it: the host is part of the target.
fn streamed(mut request: Request<Full<Bytes>>, safe: bool) -> Result<Request<Full<Bytes>>, String> {
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(if safe { Scheme::HTTPS } else { Scheme::HTTP });
    if let Some(host) = request.headers_mut().remove(HOST) {
        let host = Authority::try_from(host.as_bytes()).map_err(|error| error.to_string())?;
        parts.authority = Some(host);
    }
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| error.to_string())?;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host: Option<&str>) -> Request<Full<Bytes>> {
        let mut request = Request::get("http://10.0.0.1:80/a?b=1");
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        request.body(Full::default()).unwrap()
    }

    #[test]
    fn the_host_is_where_each_version_has_it() {
        let one = lined(request(None)).unwrap();
        assert_eq!(
            (one.uri().to_string(), &one.headers()[HOST]),
            (
                "/a?b=1".to_owned(),
                &HeaderValue::from_static("10.0.0.1:80")
            )
        );
        let one = lined(request(Some("shop.example"))).unwrap();
        assert_eq!(one.headers()[HOST], "shop.example");
        let two = streamed(request(Some("shop.example")), true).unwrap();
        assert_eq!(two.uri(), "https://shop.example/a?b=1");
        assert!(!two.headers().contains_key(HOST));
        let two = streamed(request(None), false).unwrap();
        assert_eq!(two.uri(), "http://10.0.0.1:80/a?b=1");
    }
}
