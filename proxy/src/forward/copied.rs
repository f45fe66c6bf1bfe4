//! The copy of a request of a slice, for the shadow.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method};
use outgrow_rollout::{Live, Side};
use outgrow_shadow::{
    CapturedRequest, CapturedResponse, Exchange, Heads, Lost, SideTargets, Tap, Ticket,
};

use super::call::{Answered, Call};
use crate::body::Copy;
use crate::headers;
use crate::identity::Identities;
use crate::inbound::{ClientBody, UploadCopy};
use crate::pool::Outgoing;

/// A request whose copy the shadow wants.
pub(super) struct Copied {
    tap: Arc<dyn Tap>,
    ticket: Ticket,
    method: Method,
    heads: Heads,
    /// The fields once more, where they tell who asks.
    fields: Option<HeaderMap>,
    upload: Option<Rc<RefCell<UploadCopy>>>,
    caller: Option<Rc<Lookup>>,
}

impl Call {
    /// The copy of a request, if it is wanted. Its body is copied as it passes.
    pub(super) fn copied(&self, live: &Live, out: &mut Outgoing) -> Option<Copied> {
        let (tap, ticket) = self.ticket(live, out)?;
        let asked = &out.parts;
        let root = PathAndQuery::from_static("/");
        let target = asked.uri.path_and_query().unwrap_or(&root);
        let heads = Heads::asked(target, &asked.headers, &headers::IDENTITY);
        let is_told = self.core.identities.is_some();
        let (method, fields) = (asked.method.clone(), is_told.then(|| asked.headers.clone()));
        let copied = |ticket, upload| Copied {
            tap,
            ticket,
            method,
            heads,
            fields,
            upload,
            caller: None,
        };
        let Some(body) = out.body.take() else {
            return Some(copied(ticket, None));
        };
        let cap = ticket.body_cap();
        let said = out.parts.headers.get(CONTENT_LENGTH);
        let said = said.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if !ticket.hold(said.map_or(cap, |length| length.min(cap))) {
            out.body = Some(body);
            ticket.lose(Lost::Shed("memory"));
            return None;
        }
        let upload = Rc::new(RefCell::new(UploadCopy::new(cap)));
        out.body = Some(ClientBody::Copied(Box::new(body), upload.clone()));
        Some(copied(ticket, Some(upload)))
    }

    /// The same of a write. Who asks is looked up beside it: a write is rarely for everybody, and
    /// the monolith has read that from the session itself.
    pub(super) fn copied_write(&self, live: &Live, out: &mut Outgoing) -> Option<Copied> {
        let mut copied = self.copied(live, out)?;
        let known = |identities: &Identities| identities.known(&out.parts.headers).is_some();
        let is_known = self.caller.is_some() || self.core.identities.as_ref().is_none_or(known);
        if live.writer == Side::Legacy && !is_known {
            let lookup = Rc::new(Lookup::default());
            let (core, own) = (self.core.clone(), lookup.clone());
            let (fields, tap) = (out.parts.headers.clone(), copied.tap.clone());
            // Bounded by the timeouts of the legacy side, and by what the shadow lets in.
            tokio::task::spawn_local(async move {
                let Some(identities) = &core.identities else {
                    return;
                };
                let found = identities.of(core.legacy(), &fields).await;
                own.tell(found.map_err(drop), &*tap);
            });
            copied.caller = Some(lookup);
        }
        Some(copied)
    }

    fn ticket(&self, live: &Live, out: &Outgoing) -> Option<(Arc<dyn Tap>, Ticket)> {
        if !live.mirror || self.mirrored {
            return None;
        }
        let tap = self.core.shared.tap.as_ref()?;
        let (slice, client) = (&self.slice.settings.id, self.cohort.hash);
        let ticket = tap.admit(slice, &self.label, &out.parts.method, client)?;
        Some((tap.clone(), ticket))
    }

    /// The copy, once its answer has begun.
    pub(super) fn copy(&self, copied: Copied, answered: &Answered) -> Copy {
        let known = || {
            let identities = self.core.identities.as_ref()?;
            identities.known(copied.fields.as_ref()?)
        };
        let identity = self.caller.clone().or_else(known);
        let mut heads = copied.heads;
        heads.answered(answered.response.headers());
        let sides = self.targets.as_ref().map(|targets| SideTargets {
            legacy: targets.side_target(Side::Legacy),
            extracted: targets.side_target(Side::Extracted),
        });
        let exchange = Exchange {
            ticket: copied.ticket,
            slice: self.slice.settings.id.clone(),
            route: self.label.clone(),
            endpoint: self.label.clone(),
            primary: answered.side,
            request: CapturedRequest {
                method: copied.method,
                target: PathAndQuery::from_static("/"),
                sides: sides.unwrap_or_default(),
                headers: HeaderMap::new(),
                body: Bytes::new(),
                whole: true,
            },
            response: CapturedResponse {
                status: answered.response.status(),
                headers: HeaderMap::new(),
                body: Bytes::new(),
                whole: false,
                trailers: HeaderMap::new(),
            },
            heads,
            finished: SystemTime::now(),
            latency: answered.latency,
            identity,
        };
        Copy {
            tap: copied.tap,
            exchange: Some(Box::new(exchange)),
            kept: BytesMut::new(),
            whole: true,
            upload: copied.upload,
            caller: copied.caller,
        }
    }
}

/// Who asks, while the monolith is asked that. A copy that is whole before waits here.
#[derive(Default)]
pub(crate) struct Lookup(RefCell<State>);

#[derive(Default)]
enum State {
    #[default]
    Asking,
    Waiting(Box<Exchange>),
    /// The signed identity, none for an anonymous caller; or nobody could say.
    Told(Result<Option<HeaderValue>, ()>),
}

impl Lookup {
    /// Gives the copy to the shadow, as soon as it is known who asks.
    pub(crate) fn offer(&self, exchange: Box<Exchange>, tap: &dyn Tap) {
        let mut state = self.0.borrow_mut();
        match &*state {
            State::Told(told) => offer(exchange, told.clone(), tap),
            State::Asking | State::Waiting(_) => *state = State::Waiting(exchange),
        }
    }

    fn tell(&self, told: Result<Option<HeaderValue>, ()>, tap: &dyn Tap) {
        let before = self.0.replace(State::Told(told.clone()));
        if let State::Waiting(exchange) = before {
            offer(exchange, told, tap);
        }
    }
}

fn offer(mut exchange: Box<Exchange>, told: Result<Option<HeaderValue>, ()>, tap: &dyn Tap) {
    match told {
        Ok(identity) => {
            exchange.identity = identity;
            tap.offer(exchange);
        }
        // The candidate would refuse whom the monolith knows.
        Err(()) => exchange.ticket.lose(Lost::Shed("identity")),
    }
}
