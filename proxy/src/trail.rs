//! What is learnt of one request on its way, for whoever tells of it at its end. Kept only where
//! the settings ask for something that is made of it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{HOST, REFERER, USER_AGENT};
use http::{HeaderValue, Method, StatusCode, Uri, Version, request};
use outgrow_rollout::Side;

use crate::access::CoreLog;
use crate::answer::status;
use crate::body::Body;
use crate::core::{Core, Peer};
use crate::error::{Refusal, UpstreamError};
use crate::pool::Lent;
use crate::reply::Reply;
use crate::spans::CoreSpans;
use crate::trace::Span;
use crate::upstreams::address::Address;

/// One request from its head on.
#[derive(Debug)]
pub(crate) struct Trail {
    core: Rc<Core>,
    pub(crate) peer: Rc<Peer>,
    pub(crate) begun: Instant,
    pub(crate) method: Method,
    pub(crate) target: Uri,
    pub(crate) version: Version,
    /// Where requests have one.
    pub(crate) id: Option<HeaderValue>,
    pub(crate) referer: Option<HeaderValue>,
    pub(crate) agent: Option<HeaderValue>,
    pub(crate) host: Option<HeaderValue>,
    /// Where spans of it are told of.
    pub(crate) span: Option<Span>,
    pub(crate) known: RefCell<Known>,
}

/// What its way has shown so far.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Index into the settings' slices.
    pub(crate) slice: Option<usize>,
    pub(crate) route: Option<Arc<str>>,
    pub(crate) bucket: Option<u16>,
    /// The side that was asked last.
    pub(crate) side: Option<Side>,
    /// Of that side, where its service has several.
    pub(crate) build: Option<Arc<str>>,
    pub(crate) upstream: Option<Address>,
    /// From asking that side to the head of its answer.
    pub(crate) upstream_took: Option<Duration>,
    pub(crate) refusal: Option<&'static str>,
    /// What the store of answers had to do with it.
    pub(crate) cache: Option<&'static str>,
    /// The name of the API key that it came with.
    pub(crate) caller: Option<Box<str>>,
    /// From when on its route calls it slow.
    pub(crate) slow: Option<Duration>,
}

impl Trail {
    /// It belongs to a slice.
    pub(crate) fn found(&self, slice: usize, route: &Arc<str>, bucket: u16) {
        let mut known = self.known.borrow_mut();
        known.slice = Some(slice);
        known.route = Some(route.clone());
        known.bucket = Some(bucket);
    }

    pub(crate) fn is_slow_after(&self, slow: Option<Duration>) {
        self.known.borrow_mut().slow = slow;
    }

    /// An id for a span.
    pub(crate) fn dice(&self) -> u64 {
        self.core.dice.next()
    }

    pub(crate) fn spans(&self) -> Option<&CoreSpans> {
        self.core.spans.as_ref()
    }

    /// Where the time went until now, as `Server-Timing` has it: milliseconds.
    pub(crate) fn timing(&self) -> Option<HeaderValue> {
        let known = self.known.borrow();
        let millis = |time: Duration| time.as_secs_f64() * 1_000.0;
        let total = millis(self.begun.elapsed());
        let text = match (known.side, known.upstream_took) {
            (Some(side), Some(took)) => {
                let took = millis(took);
                format!("upstream;desc=\"{side}\";dur={took:.3}, total;dur={total:.3}")
            }
            _ => format!("total;dur={total:.3}"),
        };
        HeaderValue::try_from(text).ok()
    }

    pub(crate) fn kept(&self, outcome: &'static str) {
        self.known.borrow_mut().cache = Some(outcome);
    }

    pub(crate) fn called_by(&self, name: &str) {
        self.known.borrow_mut().caller = Some(name.into());
    }

    pub(crate) fn asks(&self, side: Side, build: Option<&Arc<str>>) {
        let mut known = self.known.borrow_mut();
        known.side = Some(side);
        known.build = build.cloned();
        known.upstream = None;
        known.upstream_took = None;
    }

    /// By whom, to a question put at `begun`.
    pub(crate) fn answered(&self, by: &Lent, begun: Instant) {
        let mut known = self.known.borrow_mut();
        known.upstream = Some(by.upstream().clone());
        known.upstream_took = Some(by.answered.saturating_duration_since(begun));
    }

    fn refused(&self, refusal: &Refusal) {
        let mut known = self.known.borrow_mut();
        known.refusal = Some(status(refusal).1);
        if let Refusal::Upstream(error) = refusal {
            known.upstream = match error {
                UpstreamError::Connect { to, .. }
                | UpstreamError::Tls { to, .. }
                | UpstreamError::Timeout { to, .. }
                | UpstreamError::Expired { to, .. }
                | UpstreamError::Broken { to, .. }
                | UpstreamError::Upload { to, .. }
                | UpstreamError::Crowded { to, .. } => Some(to.clone()),
                UpstreamError::Nobody { .. } | UpstreamError::Open { .. } => None,
            };
        }
    }
}

/// The end of a request, whatever it is: told when this is dropped.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) trail: Rc<Trail>,
    /// `None`: the client had left before there was an answer.
    pub(crate) status: Option<StatusCode>,
    /// Of the body, as far as it was handed to the client's connection.
    pub(crate) bytes: u64,
    /// Whether all of it was.
    pub(crate) whole: bool,
}

impl Ending {
    /// For a request that has just come in; `None` where nobody wants to know.
    pub(crate) fn of(
        core: &Rc<Core>,
        peer: &Rc<Peer>,
        request: &request::Parts,
        id: Option<&HeaderValue>,
        (timed, span): (bool, Option<Span>),
    ) -> Option<Self> {
        let log = core.log.as_ref();
        if log.is_none() && !timed && span.is_none() {
            return None;
        }
        let combined = log.is_some_and(CoreLog::tells_of_clients);
        let field = |wanted: bool, name| {
            let fields = wanted.then_some(&request.headers);
            fields.and_then(|fields| fields.get(name).cloned())
        };
        let trail = Trail {
            core: core.clone(),
            peer: peer.clone(),
            begun: Instant::now(),
            method: request.method.clone(),
            target: request.uri.clone(),
            version: request.version,
            id: id.cloned(),
            referer: field(combined, REFERER),
            agent: field(combined || span.is_some(), USER_AGENT),
            host: field(span.is_some(), HOST),
            span,
            known: RefCell::default(),
        };
        Some(Self {
            trail: Rc::new(trail),
            status: None,
            bytes: 0,
            whole: false,
        })
    }

    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.trail.refused(refusal);
    }

    /// Goes with the answer to the end of its body.
    pub(crate) fn follow(mut self, response: &mut Reply<Body>) {
        self.status = Some(response.status());
        match response.body_mut() {
            Body::Answer(answer) => answer.ending = Some(self),
            Body::Full(Some(bytes)) => {
                self.bytes = bytes.len() as u64;
                self.whole = true;
            }
            Body::Empty | Body::Full(None) => self.whole = true,
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let core = &self.trail.core;
        if let Some(log) = &core.log {
            log.tell(self, &core.shared.slices);
        }
        if self.trail.span.is_some()
            && let Some(spans) = &core.spans
        {
            spans.tell(self, &core.shared.slices);
        }
    }
}
