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
use crate::draft::Draft;

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
}

/// Who gave a ticket out. Nothing here blocks.
pub trait Issuer: Send + Sync + 'static {
    /// Takes the copy, or counts its loss.
    fn take(self: Arc<Self>, draft: Box<Draft>);
    /// A ticket of this route brings nothing.
    fn lose(&self, route: &str, why: Lost);
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

/// One place in the ledger. Dropped before it is settled, it counts as abandoned.
pub struct Ticket {
    body_cap: usize,
    generation: u64,
    memory: Option<Share>,
    route: Arc<str>,
    /// Until the ledger knows how it ended.
    issuer: Option<Arc<dyn Issuer>>,
}

impl Ticket {
    /// `issuer` gets the copy, or hears why there is none.
    pub fn new(body_cap: usize, route: Arc<str>, issuer: Arc<dyn Issuer>) -> Self {
        let mut ticket = Self::of_nobody(body_cap, route);
        ticket.issuer = Some(issuer);
        ticket
    }

    /// One that no ledger knows of.
    pub(crate) fn of_nobody(body_cap: usize, route: Arc<str>) -> Self {
        Self {
            body_cap,
            generation: 0,
            memory: None,
            route,
            issuer: None,
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
        if let Some(issuer) = self.issuer.take() {
            issuer.lose(&self.route, reason);
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

    pub(crate) fn route(&self) -> &Arc<str> {
        &self.route
    }

    /// Who gave it out, until it is settled.
    pub(crate) fn issuer(&self) -> Option<Arc<dyn Issuer>> {
        self.issuer.clone()
    }

    /// The ledger knows how the exchange ended.
    pub fn settle(&mut self) {
        self.issuer = None;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(issuer) = self.issuer.take() {
            issuer.lose(&self.route, ABANDONED);
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
    /// The route's label, e.g. `GET /api/products/{id}`.
    pub route: Arc<str>,
    /// What it is counted as: the route to begin with, more closely where the shadow knows more.
    pub endpoint: Arc<str>,
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
