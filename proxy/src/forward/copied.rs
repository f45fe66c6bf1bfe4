//! The copy of a request of a slice, for the shadow.

use std::cell::RefCell;
use std::rc::Rc;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue};
use outgrow_rollout::{Live, Side};
use outgrow_shadow::{Draft, Lost, Raw, SideTargets, Ticket};

use super::call::{Answered, Call};
use crate::body::Copy;
use crate::headers;
use crate::identity::Identities;
use crate::inbound::{ClientBody, UploadCopy};
use crate::pool::Outgoing;

/// A request whose copy the shadow wants.
pub(super) struct Copied {
    draft: Box<Draft>,
    /// The fields once more, where they tell who asks.
    fields: Option<Box<HeaderMap>>,
    upload: Option<Rc<RefCell<UploadCopy>>>,
    caller: Option<Rc<Lookup>>,
}

impl Call {
    /// The copy of a request, if it is wanted. Its body is copied as it passes.
    pub(super) fn copied(&self, live: &Live, out: &mut Outgoing) -> Option<Copied> {
        let ticket = self.ticket(live, out)?;
        let asked = &out.parts;
        let target = asked.uri.path_and_query();
        let target = target.map_or("/", |target| target.as_str());
        let raw = Raw::asked(target, &asked.headers, &headers::IDENTITY);
        let is_told = self.core.identities.is_some();
        let mut copied = Copied {
            fields: is_told.then(|| Box::new(asked.headers.clone())),
            draft: Draft::begin(ticket, asked.method.clone(), raw),
            upload: None,
            caller: None,
        };
        let Some(body) = out.body.take() else {
            return Some(copied);
        };
        let ticket = copied.draft.ticket();
        let cap = ticket.body_cap();
        let said = out.parts.headers.get(CONTENT_LENGTH);
        let said = said.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if !ticket.hold(said.map_or(cap, |length| length.min(cap))) {
            out.body = Some(body);
            copied.draft.lose(Lost::Shed("memory"));
            return None;
        }
        let upload = Rc::new(RefCell::new(UploadCopy::new(cap)));
        out.body = Some(ClientBody::Copied(Box::new(body), upload.clone()));
        copied.upload = Some(upload);
        Some(copied)
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
            let fields = out.parts.headers.clone();
            // Bounded by the timeouts of the legacy side, and by what the shadow lets in.
            tokio::task::spawn_local(async move {
                let Some(identities) = &core.identities else {
                    return;
                };
                let found = identities.of(core.legacy(), &fields).await;
                own.tell(found.map_err(drop));
            });
            copied.caller = Some(lookup);
        }
        Some(copied)
    }

    fn ticket(&self, live: &Live, out: &Outgoing) -> Option<Ticket> {
        if !live.mirror || self.mirrored {
            return None;
        }
        let tap = self.core.shared.tap.as_ref()?;
        let (slice, client) = (&self.slice().settings.id, self.cohort.hash);
        tap.admit(slice, self.label(), &out.parts.method, client)
    }

    /// The copy, once its answer has begun.
    pub(super) fn copy(&self, copied: Copied, answered: &Answered) -> Copy {
        let known = || {
            let identities = self.core.identities.as_ref()?;
            identities.known(copied.fields.as_ref()?)
        };
        let identity = self.caller.clone().or_else(known);
        let (mut draft, response) = (copied.draft, &answered.response);
        let (side, latency) = (answered.side, answered.latency);
        draft.answered(side, response.status(), latency);
        match (response.lines(), response.known()) {
            (Some(lines), _) => draft.says_in(lines.pieces()),
            (None, Some(fields)) => draft.says(fields),
            (None, None) => {}
        }
        draft.is_of(identity);
        if let Some(targets) = &self.targets {
            let [legacy, extracted] =
                [Side::Legacy, Side::Extracted].map(|side| targets.side_target(side));
            draft.asks(SideTargets { legacy, extracted });
        }
        Copy {
            draft: Some(draft),
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
    Waiting(Box<Draft>),
    /// The signed identity, none for an anonymous caller; or nobody could say.
    Told(Result<Option<HeaderValue>, ()>),
}

impl Lookup {
    /// Gives the copy to the shadow, as soon as it is known who asks.
    pub(crate) fn offer(&self, draft: Box<Draft>) {
        let mut state = self.0.borrow_mut();
        match &*state {
            State::Told(told) => offer(draft, told.clone()),
            State::Asking | State::Waiting(_) => *state = State::Waiting(draft),
        }
    }

    fn tell(&self, told: Result<Option<HeaderValue>, ()>) {
        let before = self.0.replace(State::Told(told.clone()));
        if let State::Waiting(draft) = before {
            offer(draft, told);
        }
    }
}

fn offer(mut draft: Box<Draft>, told: Result<Option<HeaderValue>, ()>) {
    match told {
        Ok(identity) => {
            draft.is_of(identity);
            draft.offer();
        }
        // The candidate would refuse whom the monolith knows.
        Err(()) => draft.lose(Lost::Shed("identity")),
    }
}
