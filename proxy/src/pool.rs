//! Upstream connections of one core: last in, first out, capped, dropped when idle too long.
//!
//! A connection comes back when its answer's body has ended and nothing of the request is left
//! on it; a body that is dropped half-way closes its connection, which cancels the request.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::uri::Authority;
use http::{Response, request};
use hyper::body::Incoming;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::UpstreamError;
use crate::limits::Limits;
use crate::wire::{Wire, WireError};

/// The shortest time between two sweeps.
const SWEEP_MIN: Duration = Duration::from_millis(100);

/// Idle connections by upstream.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: RefCell<Vec<Idle>>,
    limits: Limits,
}

/// Of one upstream, the last used one on top. A proxy has a handful of upstreams: they are
/// looked through.
#[derive(Debug)]
struct Idle {
    to: Authority,
    #[allow(clippy::vec_box)] // One word to move, on every request.
    wires: Vec<Box<Wire>>,
}

/// A connection in use.
#[derive(Debug)]
pub(crate) struct Lent {
    pool: Rc<Pool>,
    to: Authority,
    pub(crate) wire: Box<Wire>,
    /// When its answer's head had come.
    pub(crate) answered: Instant,
}

impl Lent {
    /// Puts the connection back, if it can carry another request.
    pub(crate) fn give_back(self, now: Instant) {
        let Self {
            pool, to, mut wire, ..
        } = self;
        if !wire.is_reusable() {
            return;
        }
        wire.rest(now);
        let mut idle = pool.idle.borrow_mut();
        let at = idle.iter().position(|idle| same(&idle.to, &to));
        let wires = match at {
            Some(at) => &mut idle[at].wires,
            None => {
                idle.push(Idle {
                    to,
                    wires: vec![wire],
                });
                return;
            }
        };
        if wires.len() < pool.limits.pool_max {
            wires.push(wire);
        }
    }
}

/// Copies of one setting share its text, so that most need no comparing.
fn same(one: &Authority, other: &Authority) -> bool {
    std::ptr::eq(one.as_str(), other.as_str()) || one == other
}

/// A request that can be sent again as long as its body was not touched.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) parts: request::Parts,
    /// `None` for a request without a body, which may be sent again.
    pub(crate) body: Option<Incoming>,
}

impl Pool {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            idle: RefCell::default(),
            limits,
        }
    }

    fn take(&self, to: &Authority, now: Instant) -> Option<Box<Wire>> {
        let mut idle = self.idle.borrow_mut();
        let wires = &mut idle.iter_mut().find(|idle| same(&idle.to, to))?.wires;
        while let Some(wire) = wires.pop() {
            if now.saturating_duration_since(wire.rested) > self.limits.pool_idle {
                // All below are older still.
                wires.clear();
                return None;
            }
            if wire.is_alive() {
                return Some(wire);
            }
        }
        None
    }

    /// Closes what is idle for too long or was closed by its upstream, for ever: nobody else
    /// looks at connections that are not used again.
    pub(crate) async fn sweep(self: Rc<Self>) {
        let mut tick = tokio::time::interval((self.limits.pool_idle / 2).max(SWEEP_MIN));
        loop {
            let now = tick.tick().await.into_std();
            for idle in self.idle.borrow_mut().iter_mut() {
                idle.wires.retain(|wire| {
                    now.saturating_duration_since(wire.rested) <= self.limits.pool_idle
                        && wire.is_alive()
                });
            }
        }
    }

    async fn connect(&self, to: &Authority) -> Result<Box<Wire>, UpstreamError> {
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
        Ok(Box::new(Wire::new(stream, Instant::now())))
    }

    async fn attempt(
        &self,
        to: &Authority,
        wire: &mut Wire,
        out: &mut Outgoing,
        begun: Instant,
    ) -> Result<Response<()>, UpstreamError> {
        let within = self.limits.request_timeout;
        let body = out.body.take();
        let asked = wire.ask(&out.parts, body, (begun, within), self.limits.headers_max);
        asked.await.map_err(|error| match error {
            WireError::Late => UpstreamError::Timeout {
                to: to.clone(),
                within,
            },
            source => UpstreamError::Broken {
                to: to.clone(),
                source,
            },
        })
    }

    /// Sends to the first upstream that can be reached.
    ///
    /// A connection from the pool may have died: then the request is sent again on another one,
    /// if it may be repeated. Not cancel safe for writes: dropping it leaves open whether the
    /// upstream acted.
    pub(crate) async fn send(
        self: &Rc<Self>,
        upstreams: &[Authority],
        out: &mut Outgoing,
        begun: Instant,
    ) -> Result<(Response<()>, Lent), UpstreamError> {
        let mut last = None;
        for to in upstreams {
            while let Some(mut wire) = self.take(to, begun) {
                let replayable = out.body.is_none() && out.parts.method.is_idempotent();
                match self.attempt(to, &mut wire, out, begun).await {
                    Ok(response) => return Ok((response, self.lend(to, wire))),
                    Err(UpstreamError::Broken { .. }) if replayable => {}
                    Err(error) => return Err(error),
                }
            }
            let mut wire = match self.connect(to).await {
                Ok(wire) => wire,
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            let response = self.attempt(to, &mut wire, out, Instant::now()).await?;
            return Ok((response, self.lend(to, wire)));
        }
        let none = || UpstreamError::Connect {
            to: Authority::from_static("nowhere"),
            why: "no upstream is configured".to_owned(),
        };
        Err(last.unwrap_or_else(none))
    }

    fn lend(self: &Rc<Self>, to: &Authority, wire: Box<Wire>) -> Lent {
        Lent {
            pool: self.clone(),
            to: to.clone(),
            wire,
            answered: Instant::now(),
        }
    }
}
