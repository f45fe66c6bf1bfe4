//! Scripted HTTP upstreams on a free loopback port.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use outgrow_testkit::{Upstream, client};
//! let upstream = Upstream::always(200, "hello").await;
//! assert_eq!(client::get(&upstream.url("/any")).await.text(), "hello");
//! assert_eq!(upstream.seen()[0].target, "/any");
//! # });
//! ```

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// A body that a script may stream or break off.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// One request as it arrived, its body read to the end (or to where it broke off).
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    /// Path and query, as received.
    pub target: String,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    /// The first value of a header, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

/// An upstream that answers by script and remembers what it was asked. Dropping it stops it.
#[derive(Debug)]
pub struct Upstream {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepting: AbortHandle,
}

impl Upstream {
    /// Answers each request by `answer`, HTTP/1.1 and HTTP/2 cleartext.
    pub async fn start<F, Fut>(answer: F) -> Self
    where
        F: Fn(Request<Bytes>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Response<Bytes>> + Send + 'static,
    {
        Self::streaming(move |request| {
            let answer = answer(request);
            async move { answer.await.map(whole) }
        })
        .await
    }

    /// As [`Self::start`], with an answer body that may come in pieces or fail.
    pub async fn streaming<F, Fut>(answer: F) -> Self
    where
        F: Fn(Request<Bytes>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Response<Body>> + Send + 'static,
    {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(answer);
        let remembered = Arc::clone(&seen);
        let (addr, accepting) = accept(move |stream| {
            let (seen, answer) = (Arc::clone(&remembered), Arc::clone(&answer));
            async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                    async move {
                        let request = remember(request, &seen).await;
                        Ok::<_, Infallible>(answer(request).await)
                    }
                });
                // A client that goes away in the middle is part of many a test.
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            }
        })
        .await;
        Self {
            addr,
            seen,
            accepting,
        }
    }

    /// Gives every request this answer.
    ///
    /// # Panics
    /// Panics if `status` is no HTTP status: that is a mistake in the test.
    pub async fn always(status: u16, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let mut answer = Response::new(body);
        *answer.status_mut() = status.try_into().expect("a test names a valid status");
        Self::start(move |_| {
            let answer = answer.clone();
            async move { answer }
        })
        .await
    }

    /// Hands each connection over as it is, for bytes that no HTTP library would send. Nothing
    /// is remembered.
    pub async fn raw<F, Fut>(talk: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (addr, accepting) = accept(talk).await;
        Self {
            addr,
            seen: Arc::default(),
            accepting,
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:PORT` with this path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Everything asked so far, in order of arrival.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A body that is there at once.
pub fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

async fn accept<F, Fut>(talk: F) -> (SocketAddr, AbortHandle)
where
    F: Fn(TcpStream) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a loopback port is free");
    let addr = listener
        .local_addr()
        .expect("a bound socket has an address");
    let accepting = tokio::spawn(async move {
        // The connections end with the set, and the set with this task.
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            connections.spawn(talk(stream));
            while connections.try_join_next().is_some() {}
        }
    });
    (addr, accepting.abort_handle())
}

async fn remember(request: Request<Incoming>, seen: &Mutex<Vec<Seen>>) -> Request<Bytes> {
    let (head, mut body) = request.into_parts();
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    let bytes = Bytes::from(bytes);
    seen.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Seen {
            method: head.method.clone(),
            target: head
                .uri
                .path_and_query()
                .map_or_else(String::new, ToString::to_string),
            version: head.version,
            headers: head.headers.clone(),
            body: bytes.clone(),
        });
    Request::from_parts(head, bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::client;

    #[tokio::test]
    async fn answers_by_script_and_remembers() {
        let upstream = Upstream::start(|request| async move {
            let mut answer = Response::new(request.into_body());
            answer
                .headers_mut()
                .insert("x-side", "legacy".parse().unwrap());
            answer
        })
        .await;
        let answer = client::post_json(&upstream.url("/echo?a=1"), &json!({"n": 1})).await;
        assert_eq!(answer.json(), json!({"n": 1}));
        assert_eq!(answer.header("x-side"), Some("legacy"));
        let seen = upstream.seen();
        assert_eq!((seen.len(), seen[0].target.as_str()), (1, "/echo?a=1"));
        assert_eq!(seen[0].header("content-type"), Some("application/json"));
    }

    #[tokio::test]
    async fn a_raw_upstream_may_break_the_rules() {
        let upstream = Upstream::raw(|mut stream| async move {
            use tokio::io::AsyncWriteExt;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut")
                .await;
        })
        .await;
        let request = client::request(Method::GET, &upstream.url("/"), &[], Bytes::new());
        assert!(client::try_send(request).await.is_err());
    }

    #[tokio::test]
    async fn nobody_listens_after_the_drop() {
        let upstream = Upstream::always(200, "x").await;
        let url = upstream.url("/");
        drop(upstream);
        crate::eventually(
            "a refused connection",
            std::time::Duration::from_secs(5),
            || async {
                let request = client::request(Method::GET, &url, &[], Bytes::new());
                client::try_send(request).await.err()
            },
        )
        .await;
    }
}
