//! HTTP clients in one line, each request on a connection of its own.
//!
//! They show what went over the wire and nothing more: no redirects, no cookies, no retries.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No honest answer in a test takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// # Panics
    /// Panics, showing the body, if it is no JSON.
    #[allow(clippy::panic)] // The body is the message of the failing test.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("not JSON ({e}), {}: {}", self.status, self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The first value of a header, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

/// Sends one request and reads the whole answer.
///
/// The URI must be absolute; `host` is filled in when missing.
///
/// # Errors
/// Says what went wrong on the wire: no connection, no answer, a body cut short.
pub async fn try_send(request: Request<Bytes>) -> Result<Answer, String> {
    let uri = request.uri().clone();
    tokio::time::timeout(PATIENCE, exchange(request))
        .await
        .map_err(|_| format!("{uri}: no whole answer within {PATIENCE:?}"))?
        .map_err(|e| format!("{uri}: {e}"))
}

async fn exchange(
    mut request: Request<Bytes>,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let authority = request
        .uri()
        .authority()
        .ok_or("the URI is not absolute")?
        .clone();
    let stream = TcpStream::connect(authority.as_str()).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    if !request.headers().contains_key(http::header::HOST) {
        request
            .headers_mut()
            .insert(http::header::HOST, authority.as_str().parse()?);
    }
    let target = request.uri().path_and_query().map_or("/", |p| p.as_str());
    *request.uri_mut() = target.parse::<Uri>()?;
    let answer = sender.send_request(request.map(Full::new)).await?;
    let (head, body) = answer.into_parts();
    let body = body.collect().await?.to_bytes();
    drop(sender);
    connection.abort();
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body,
    })
}

/// [`try_send`] for where an answer must come.
///
/// # Panics
/// Panics when none comes.
#[allow(clippy::panic)] // The transport error is the message of the failing test.
pub async fn send(request: Request<Bytes>) -> Answer {
    try_send(request).await.unwrap_or_else(|e| panic!("{e}"))
}

/// `GET url`.
pub async fn get(url: &str) -> Answer {
    send(request(Method::GET, url, &[], Bytes::new())).await
}

/// `METHOD url` with headers and a JSON body.
pub async fn send_json(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> Answer {
    let mut request = request(method, url, headers, Bytes::from(body.to_string()));
    request.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    send(request).await
}

/// `POST url` with a JSON body.
pub async fn post_json(url: &str, body: &Value) -> Answer {
    send_json(Method::POST, url, &[], body).await
}

/// A request from its parts.
///
/// # Panics
/// Panics if the URL or a header is not valid: that is a mistake in the test.
pub fn request(method: Method, url: &str, headers: &[(&str, &str)], body: Bytes) -> Request<Bytes> {
    let mut builder = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(body).expect("a test writes valid requests")
}

/// Writes odd bytes and reads until the other side closes.
///
/// # Panics
/// Panics when the peer cannot be reached or keeps the connection open.
pub async fn raw(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let talk = async {
        let mut stream = TcpStream::connect(addr).await.expect("the peer listens");
        stream.write_all(bytes).await.expect("the peer reads");
        let mut answer = Vec::new();
        // A reset after the answer is as good as a close.
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    tokio::time::timeout(PATIENCE, talk)
        .await
        .expect("the peer closes the connection")
}
