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

use crate::budget::Share;
use crate::heads::Heads;

/// Marks a mirrored request, so that it is never mirrored again.
pub const SHADOW_MARK: &str = "x-outgrow-shadow";

/// Takes copies of answered requests.
pub trait Tap: Send + Sync + 'static {
    /// Says whether a copy of this request is wanted. Cheap and non-blocking. `None` means no:
    /// sampled out, ineligible or shed, and counted so. `client` is the same for all requests of
    /// a client that can be recognised.
    fn admit(
        &self,
        slice: &SliceId,
        route: &Arc<str>,
        method: &Method,
        client: u64,
    ) -> Option<Ticket>;
    /// Takes the copy, or counts its loss. Never blocks.
    fn offer(&self, exchange: Box<Exchange>);
}

/// What became of a ticket that brings nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// It would have been compared, but for this.
    Shed(&'static str),
    /// It should not be compared, as was seen later.
    Ineligible(&'static str),
}

/// What is told of a ticket that was dropped.
const ABANDONED: Lost = Lost::Shed("abandoned");

/// One place in the ledger. Dropped without being offered, it counts as abandoned.
pub struct Ticket {
    body_cap: usize,
    generation: u64,
    memory: Option<Share>,
    lost: Option<Box<dyn FnOnce(Lost) + Send + Sync>>,
}

impl Ticket {
    /// `lost` runs, with the reason, when the ticket is dropped before [`Ticket::settle`].
    pub fn new(body_cap: usize, lost: impl FnOnce(Lost) + Send + Sync + 'static) -> Self {
        Self {
            body_cap,
            generation: 0,
            memory: None,
            lost: Some(Box::new(lost)),
        }
    }

    /// Says that so many bytes more are about to be copied. False where the slice's memory has no
    /// room for them: the ticket is to be [lost](Self::lose) then.
    pub fn hold(&self, bytes: usize) -> bool {
        self.memory.as_ref().is_none_or(|memory| memory.grow(bytes))
    }

    /// Nothing that was copied is kept.
    pub fn release(&self) {
        if let Some(memory) = &self.memory {
            memory.give_back();
        }
    }

    /// Gives it up, for this reason.
    pub fn lose(mut self, reason: Lost) {
        if let Some(lost) = self.lost.take() {
            lost(reason);
        }
    }

    /// Bytes of a body to keep at the most; a longer one is offered as not whole.
    pub fn body_cap(&self) -> usize {
        self.body_cap
    }

    /// Which evidence was gathered when the request came.
    #[must_use]
    pub(crate) fn since(mut self, generation: u64, memory: Share) -> Self {
        self.generation = generation;
        self.memory = Some(memory);
        self
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The ledger knows how the exchange ended.
    pub fn settle(mut self) {
        self.lost = None;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(lost) = self.lost.take() {
            lost(ABANDONED);
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
    /// What it is counted as: the route to begin with, more closely where the shadow knows more.
    pub endpoint: Arc<str>,
    /// The side that answered.
    pub primary: Side,
    pub request: CapturedRequest,
    pub response: CapturedResponse,
    /// In place of the request's target and both sides' fields, until it is [opened](Self::open).
    pub heads: Heads,
    /// When the answer was complete.
    pub finished: SystemTime,
    /// Time to the answer's head.
    pub latency: Duration,
    /// The signed identity of the caller, where it is known without asking.
    pub identity: Option<HeaderValue>,
}

impl Exchange {
    /// Makes target and fields of [its heads](Self::heads), if it has any.
    pub fn open(&mut self) {
        if let Some((target, asked, answered)) = std::mem::take(&mut self.heads).open() {
            (self.request.target, self.request.headers) = (target, asked);
            self.response.headers = answered;
        }
    }

    /// Bytes of both heads.
    pub(crate) fn head_bytes(&self) -> usize {
        let fields = self.request.headers.iter().chain(&self.response.headers);
        let fields: usize = fields
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        fields + self.request.target.as_str().len() + self.heads.len()
    }
}

/// The client's request.
#[derive(Debug, Clone)]
pub struct CapturedRequest {
    pub method: Method,
    /// As the client asked: what reports say.
    pub target: PathAndQuery,
    pub sides: SideTargets,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// False where the body was longer than the cap, or was cut off.
    pub whole: bool,
}

/// What the sides are asked where the proxy rewrites paths; `None`: what the client asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SideTargets {
    pub legacy: Option<PathAndQuery>,
    pub extracted: Option<PathAndQuery>,
}

impl SideTargets {
    pub(crate) fn of(&self, side: Side) -> Option<&PathAndQuery> {
        match side {
            Side::Legacy => self.legacy.as_ref(),
            Side::Extracted => self.extracted.as_ref(),
        }
    }
}

/// The answer.
#[derive(Debug, Clone)]
pub struct CapturedResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// False where the body was longer than the cap, or was cut off.
    pub whole: bool,
    pub trailers: HeaderMap,
}
