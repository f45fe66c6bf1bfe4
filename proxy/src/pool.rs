//! Upstream connections of one core: last in, first out, capped, dropped when idle too long.
//!
//! A connection comes back when its answer's body has ended and hyper says that it is ready
//! again; a body that is dropped half-way closes its connection, which cancels the request.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use http::uri::Authority;
use http::{Request, Response, request};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use crate::body::Body;
use crate::error::UpstreamError;
use crate::limits::Limits;

type Sender = SendRequest<Body>;

/// Idle connections by upstream.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: RefCell<HashMap<Authority, Vec<(Sender, Instant)>>>,
    limits: Limits,
}

/// A connection in use.
#[derive(Debug)]
pub(crate) struct Lent {
    pool: Rc<Pool>,
    to: Authority,
    sender: Sender,
}

impl Lent {
    /// Puts the connection back as soon as it can carry the next request.
    pub(crate) fn give_back(mut self) {
        let within = self.pool.limits.pool_idle;
        // Owned by the core's task set, which ends with the core; bounded by `pool_idle`.
        tokio::task::spawn_local(async move {
            if let Ok(Ok(())) = timeout(within, self.sender.ready()).await {
                let mut idle = self.pool.idle.borrow_mut();
                let stack = idle.entry(self.to.clone()).or_default();
                if stack.len() < self.pool.limits.pool_max {
                    stack.push((self.sender, Instant::now()));
                }
            }
        });
    }
}

/// A request that can be sent again as long as its body was not touched.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) parts: request::Parts,
    /// `None` for a request without a body, which may be sent again.
    pub(crate) body: Option<Body>,
}

impl Outgoing {
    fn build(&mut self) -> (Request<Body>, bool) {
        let replayable = self.body.is_none() && self.parts.method.is_idempotent();
        let body = self.body.take().unwrap_or(Body::Empty);
        (Request::from_parts(self.parts.clone(), body), replayable)
    }
}

/// How one try on one connection ended.
enum Try {
    Answered(Response<Incoming>),
    /// Nothing was sent; the request is whole again.
    Unsent,
    Failed(UpstreamError, bool),
}

impl Pool {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            idle: RefCell::default(),
            limits,
        }
    }

    fn take(&self, to: &Authority) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        let stack = idle.get_mut(to)?;
        while let Some((sender, since)) = stack.pop() {
            if since.elapsed() > self.limits.pool_idle {
                // All below are older still.
                stack.clear();
                return None;
            }
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    async fn connect(&self, to: &Authority) -> Result<Sender, UpstreamError> {
        let refused = |why: String| UpstreamError::Connect {
            to: to.clone(),
            why,
        };
        let within = self.limits.connect_timeout;
        let stream = timeout(within, TcpStream::connect(to.as_str()))
            .await
            .map_err(|_| refused(format!("no connection within {within:?}")))?
            .map_err(|error| refused(error.to_string()))?;
        stream
            .set_nodelay(true)
            .map_err(|error| refused(error.to_string()))?;
        let (sender, connection) = http1::Builder::new()
            .max_headers(self.limits.headers_max)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| refused(error.to_string()))?;
        // Ends when the sender is dropped and the last answer is through.
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                debug!(%error, "upstream connection ended");
            }
        });
        Ok(sender)
    }

    async fn attempt(&self, to: &Authority, sender: &mut Sender, out: &mut Outgoing) -> Try {
        let (request, replayable) = out.build();
        let had_body = !replayable;
        let within = self.limits.request_timeout;
        match timeout(within, sender.try_send_request(request)).await {
            Ok(Ok(response)) => Try::Answered(response),
            Err(_) => Try::Failed(
                UpstreamError::Timeout {
                    to: to.clone(),
                    within,
                },
                false,
            ),
            Ok(Err(mut error)) => {
                if let Some(request) = error.take_message() {
                    let body = request.into_body();
                    out.body = (!matches!(body, Body::Empty)).then_some(body);
                    return Try::Unsent;
                }
                let source = error.into_error();
                Try::Failed(
                    UpstreamError::Broken {
                        to: to.clone(),
                        source,
                    },
                    !had_body,
                )
            }
        }
    }

    /// Sends to the first upstream that can be reached.
    ///
    /// A connection from the pool may have died: then the request is sent again on another one,
    /// if nothing of it was sent or if it may be repeated. Not cancel safe for writes: dropping it
    /// leaves open whether the upstream acted.
    pub(crate) async fn send(
        self: &Rc<Self>,
        upstreams: &[Authority],
        out: &mut Outgoing,
    ) -> Result<(Response<Incoming>, Lent), UpstreamError> {
        let mut last = None;
        for to in upstreams {
            while let Some(mut sender) = self.take(to) {
                match self.attempt(to, &mut sender, out).await {
                    Try::Answered(response) => return Ok((response, self.lend(to, sender))),
                    Try::Unsent | Try::Failed(UpstreamError::Broken { .. }, true) => {}
                    Try::Failed(error, _) => return Err(error),
                }
            }
            let mut sender = match self.connect(to).await {
                Ok(sender) => sender,
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            match self.attempt(to, &mut sender, out).await {
                Try::Answered(response) => return Ok((response, self.lend(to, sender))),
                Try::Failed(error, _) => return Err(error),
                Try::Unsent => {
                    let why = "it closed the connection at once".to_owned();
                    last = Some(UpstreamError::Connect {
                        to: to.clone(),
                        why,
                    });
                }
            }
        }
        let none = || UpstreamError::Connect {
            to: Authority::from_static("nowhere"),
            why: "no upstream is configured".to_owned(),
        };
        Err(last.unwrap_or_else(none))
    }

    fn lend(self: &Rc<Self>, to: &Authority, sender: Sender) -> Lent {
        Lent {
            pool: self.clone(),
            to: to.clone(),
            sender,
        }
    }
}
