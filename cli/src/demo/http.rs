//! One keep-alive HTTP/1.1 connection, as a shopper's browser holds it.
//!
//! Refuses to hide a failure: a request is sent a second time only when not a byte of it left
//! the first time, which no server can tell from a request sent once.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Longer than any pause that a cutover may make, shorter than a person's patience.
const PATIENCE: Duration = Duration::from_secs(15);

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    /// The body for an error message: its first line, cut short.
    pub(crate) fn excerpt(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let line = text.lines().next().unwrap_or_default();
        line.chars().take(160).collect()
    }
}

/// A connection that is opened when first needed and again after it was closed.
#[derive(Debug)]
pub(crate) struct Connection {
    to: SocketAddr,
    open: Option<(SendRequest<Full<Bytes>>, JoinHandle<()>)>,
}

impl Connection {
    pub(crate) fn new(to: SocketAddr) -> Self {
        Self { to, open: None }
    }

    /// Sends the request, whose URI is a path, and reads the whole answer.
    ///
    /// Not cancel safe: after a drop in the middle, the next call opens a new connection.
    ///
    /// # Errors
    /// Says what happened on the wire.
    pub(crate) async fn send(&mut self, request: Request<Bytes>) -> Result<Reply, String> {
        let answer = tokio::time::timeout(PATIENCE, self.exchange(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
        if answer.is_err() {
            self.close();
        }
        answer
    }

    async fn exchange(&mut self, request: Request<Bytes>) -> Result<Reply, String> {
        let mut request = request.map(Full::new);
        let host = HeaderValue::try_from(self.to.to_string()).map_err(|e| e.to_string())?;
        request.headers_mut().insert(header::HOST, host);
        let mut again = true;
        let answer = loop {
            let sender = self
                .opened()
                .await
                .map_err(|e| format!("cannot connect: {e}"))?;
            match sender.try_send_request(request).await {
                Ok(answer) => break answer,
                Err(mut failed) => match failed.take_message() {
                    // Closed while idle: nothing was sent.
                    Some(unsent) if again => {
                        again = false;
                        request = unsent;
                        self.close();
                    }
                    _ => return Err(failed.into_error().to_string()),
                },
            }
        };
        let (head, body) = answer.into_parts();
        let body = body
            .collect()
            .await
            .map_err(|e| format!("the answer broke off: {e}"))?;
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        })
    }

    async fn opened(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, String> {
        let usable = match &mut self.open {
            Some((sender, _)) => sender.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            self.close();
            let stream = TcpStream::connect(self.to)
                .await
                .map_err(|e| e.to_string())?;
            stream.set_nodelay(true).map_err(|e| e.to_string())?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|e| e.to_string())?;
            // What ends the connection shows in the request on it.
            let driver = tokio::spawn(async move { drop(connection.await) });
            self.open = Some((sender, driver));
        }
        self.open
            .as_mut()
            .map(|(sender, _)| sender)
            .ok_or_else(|| "the connection was closed".to_owned())
    }

    fn close(&mut self) {
        if let Some((_, driver)) = self.open.take() {
            driver.abort();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}
