//! The way from the proxy into the shadow: what a copied exchange is, and how it is offered.
//!
//! Nothing here waits: the proxy calls it on the client's path.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use outgrow_rollout::{Side, SliceId};

/// Marks a mirrored request, so that it is never mirrored again.
pub const SHADOW_MARK: &str = "x-outgrow-shadow";

/// Takes copies of answered requests.
pub trait Tap: Send + Sync + 'static {
    /// Says whether a copy of this request is wanted. Cheap and non-blocking. `None` means no:
    /// sampled out, ineligible or shed, and counted so.
    fn admit(&self, slice: &SliceId, route: &Arc<str>, method: &Method) -> Option<Ticket>;
    /// Takes the copy, or counts its loss. Never blocks.
    fn offer(&self, exchange: Exchange);
}

/// One place in the ledger. Dropped without being offered, it counts as abandoned.
pub struct Ticket {
    body_cap: usize,
    generation: u64,
    abandoned: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Ticket {
    /// `abandoned` runs when the ticket is dropped before [`Ticket::settle`].
    pub fn new(body_cap: usize, abandoned: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self {
            body_cap,
            generation: 0,
            abandoned: Some(Box::new(abandoned)),
        }
    }

    /// Bytes of a body to keep at the most; a longer one is offered as not whole.
    pub fn body_cap(&self) -> usize {
        self.body_cap
    }

    /// Which evidence was gathered when the request came.
    #[must_use]
    pub(crate) fn since(mut self, generation: u64) -> Self {
        self.generation = generation;
        self
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The ledger knows how the exchange ended.
    pub fn settle(mut self) {
        self.abandoned = None;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(abandoned) = self.abandoned.take() {
            abandoned();
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("body_cap", &self.body_cap)
            .finish_non_exhaustive()
    }
}

/// A request and the answer that its client got.
#[derive(Debug)]
pub struct Exchange {
    pub ticket: Ticket,
    pub slice: SliceId,
    /// The route's label, e.g. `GET /api/products/{id}`.
    pub route: Arc<str>,
    /// The side that answered.
    pub primary: Side,
    pub request: CapturedRequest,
    pub response: CapturedResponse,
    /// When the answer was complete.
    pub finished: SystemTime,
    /// Time to the answer's head.
    pub latency: Duration,
    /// The signed identity of the caller, where it is known without asking.
    pub identity: Option<HeaderValue>,
}

/// The client's request.
#[derive(Debug, Clone)]
pub struct CapturedRequest {
    pub method: Method,
    pub target: PathAndQuery,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The answer.
#[derive(Debug, Clone)]
pub struct CapturedResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// False where the body was longer than the cap, or was cut off.
    pub whole: bool,
}
