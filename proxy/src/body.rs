//! Every body that goes down to a client. An enum and not a box: the common ones need no allocation,
//! and none of them leaves its core.

use std::cell::RefCell;
use std::future::Future as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use outgrow_shadow::{Draft, Lost};
use tokio::time::{Sleep, sleep_until};

use crate::cache::Keep;
use crate::deadline::{Idle, earliest};
use crate::forward::{Lookup, Verdict};
use crate::grpc;
use crate::inbound::UploadCopy;
use crate::pool::Lent;
use crate::press::Press;
use crate::relink::Relink;
use crate::reply::Reply;
use crate::trail::Ending;
use crate::wire::WireError;

/// Of the kind of a body that may stay silent.
const EVENTS: &[u8] = b"text/event-stream";

/// Bytes of one part of a body that is there already.
const PART: usize = 16 * 1_024;

/// A body on its way.
#[derive(Debug)]
pub(crate) enum Body {
    Empty,
    Full(Option<Bytes>),
    /// An upstream's, part by part.
    Answer(Box<Answer>),
}

/// An upstream's answer body, with what must happen at its end.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The connection, given back at the end; dropped (and so closed) when cut off.
    pub(crate) lent: Option<Lent>,
    pub(crate) copy: Option<Copy>,
    /// Into the store of answers.
    keep: Option<Box<Keep>>,
    /// What is there already of a body that no connection brings.
    rest: Bytes,
    /// Changes links for the client, and only for it.
    links: Option<Box<Relink>>,
    /// Compresses what the client gets, and only that.
    pub(crate) press: Option<Box<Press>>,
    /// Who wants to know how it ends.
    pub(crate) ending: Option<Ending>,
    /// Who counts an answer that turns out to be a failure.
    pub(crate) verdict: Option<Verdict>,
    /// How long the side may say nothing.
    pub(crate) idle: Option<Idle>,
    /// How long the client may take nothing, where its route says it.
    pub(crate) client_idle: Option<Duration>,
    /// When all of it must have come, where somebody says so.
    end: Option<Instant>,
    deadline: Option<Pin<Box<Sleep>>>,
    /// It is the client that says so, and is told at the end (gRPC).
    calls: bool,
}

/// The copy of an answer for the shadow.
pub(crate) struct Copy {
    /// Taken at the end; its body is kept as it passes.
    pub(crate) draft: Option<Box<Draft>>,
    /// What the request brought, where it has a body.
    pub(crate) upload: Option<Rc<RefCell<UploadCopy>>>,
    /// Where somebody is still asked who the caller is.
    pub(crate) caller: Option<Rc<Lookup>>,
}

impl std::fmt::Debug for Copy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copy")
            .field("draft", &self.draft)
            .finish_non_exhaustive()
    }
}

impl Copy {
    fn take(&mut self, data: &Bytes) {
        let has_room = self.draft.as_mut().is_none_or(|draft| draft.keep(data));
        if !has_room && let Some(draft) = self.draft.take() {
            draft.lose(Lost::Shed("memory"));
        }
    }

    fn end(&mut self, trailers: &HeaderMap) {
        if let Some(draft) = &mut self.draft {
            draft.trailed(trailers);
        }
    }

    fn finish(&mut self, complete: bool) {
        if let Some(mut draft) = self.draft.take() {
            if let Some(upload) = &self.upload {
                let mut upload = upload.borrow_mut();
                let is_whole = upload.is_whole();
                draft.brought(upload.give(), is_whole);
            }
            draft.ended(complete);
            match &self.caller {
                Some(caller) => caller.offer(draft),
                None => draft.offer(),
            }
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.finish(false);
    }
}

impl Answer {
    /// A body that is there already, to be compressed on its way.
    fn pressed(rest: Bytes, press: Press) -> Self {
        Self {
            lent: None,
            copy: None,
            keep: None,
            rest,
            links: None,
            press: Some(Box::new(press)),
            ending: None,
            verdict: None,
            idle: None,
            client_idle: None,
            end: None,
            deadline: None,
            calls: false,
        }
    }

    /// Whether such an answer may stay silent by its nature: events as they happen, calls.
    pub(crate) fn is_open(&self, head: &Reply<()>) -> bool {
        let unknown = |lent: &Lent| lent.flow.left().is_none();
        let events = |kind: &[u8]| {
            let kind = kind.get(..EVENTS.len());
            kind.is_some_and(|kind| kind.eq_ignore_ascii_case(EVENTS))
        };
        self.lent.as_ref().is_some_and(unknown)
            && head
                .kind()
                .is_some_and(|kind| events(kind) || grpc::is_kind(kind))
    }

    fn finish(&mut self, now: Option<Instant>) {
        if let Some(lent) = self.lent.take() {
            lent.give_back(now.unwrap_or_else(Instant::now));
        }
        if let Some(copy) = &mut self.copy {
            copy.finish(true);
        }
        if let Some(keep) = self.keep.take() {
            keep.finish();
        }
        if let Some(mut ending) = self.ending.take() {
            ending.whole = true;
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        if self.press.is_none() && self.links.is_none() {
            return self.poll_side(cx);
        }
        // The side's answer ends before the client's does, and is of another length.
        let (mut press, mut ending) = (self.press.take(), self.ending.take());
        let polled = match &mut press {
            Some(press) => press.poll(cx, |cx| self.poll_linked(cx)),
            None => self.poll_linked(cx),
        };
        if let (Some(ending), Poll::Ready(Some(Ok(frame)))) = (&mut ending, &polled)
            && let Some(data) = frame.data_ref()
        {
            ending.bytes += data.len() as u64;
        }
        let over = match &press {
            Some(press) => press.is_over(),
            None => self.lent.is_none() && self.rest.is_empty() && self.links.is_none(),
        };
        match &polled {
            Poll::Ready(Some(Err(_))) => {}
            Poll::Ready(_) if over => {
                if let Some(ending) = &mut ending {
                    ending.whole = true;
                }
            }
            _ => (self.press, self.ending) = (press, ending),
        }
        polled
    }

    /// The next part with the links that a client should see.
    fn poll_linked(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        let Some(mut links) = self.links.take() else {
            return self.poll_side(cx);
        };
        if let Some(trailers) = links.trailers.take() {
            return Poll::Ready(Some(Ok(trailers)));
        }
        loop {
            let Poll::Ready(frame) = self.poll_side(cx) else {
                self.links = Some(links);
                return Poll::Pending;
            };
            let data = match frame.transpose()? {
                None => None,
                Some(frame) => match frame.into_data() {
                    Ok(data) => Some(data),
                    Err(trailers) => {
                        links.trailers = Some(trailers);
                        None
                    }
                },
            };
            let part = links.feed(data.as_deref().unwrap_or_default(), data.is_none());
            if data.is_some() || links.trailers.is_some() {
                let waits = part.is_empty();
                if waits && let Some(trailers) = links.trailers.take() {
                    return Poll::Ready(Some(Ok(trailers)));
                }
                if waits {
                    continue;
                }
                self.links = Some(links);
            }
            return Poll::Ready((!part.is_empty()).then(|| Ok(Frame::data(part))));
        }
    }

    /// The next part of what the side says.
    fn poll_side(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        let Some(lent) = &mut self.lent else {
            let size = self.rest.len().min(PART);
            let part = (size > 0).then(|| self.rest.split_to(size));
            return Poll::Ready(part.map(|part| Ok(Frame::data(part))));
        };
        let Poll::Ready(frame) = lent.flow.poll_frame(cx) else {
            return self.poll_late(cx);
        };
        if let Some(idle) = &mut self.idle {
            idle.ends();
        }
        let over = lent.flow.is_over();
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(copy), Some(data)) = (&mut self.copy, frame.data_ref()) {
                    copy.take(data);
                }
                if let (Some(copy), Some(trailers)) = (&mut self.copy, frame.trailers_ref()) {
                    copy.end(trailers);
                }
                if let Some(keep) = &mut self.keep {
                    match frame.data_ref() {
                        Some(data) => keep.take(data),
                        // Trailers would be lost on whoever is given it again.
                        None => self.keep = None,
                    }
                }
                if let (Some(ending), Some(data)) = (&mut self.ending, frame.data_ref()) {
                    ending.bytes += data.len() as u64;
                }
                if let (Some(verdict), Some(trailers)) = (&self.verdict, frame.trailers_ref()) {
                    verdict.hear(trailers);
                }
                if over {
                    self.finish(None);
                }
            }
            // What broke off is not kept.
            Some(Err(error)) => {
                if !error.is_clients() {
                    self.broke_off(false);
                }
                (self.lent, self.keep) = (None, None);
            }
            None => self.finish(None),
        }
        Poll::Ready(frame)
    }
}

impl Answer {
    /// Counts an answer that is not what its head promised. One that breaks off while its request is still
    /// on its way up may do so because the client has.
    #[cold]
    fn broke_off(&self, silent: bool) {
        let (Some(verdict), Some(lent)) = (&self.verdict, &self.lent) else {
            return;
        };
        let known = !lent.flow.goes_up();
        if known {
            lent.broke_off();
        }
        if known || silent {
            verdict.fail();
        }
    }

    /// Ends an answer that takes longer than it may, or whose side has fallen silent; that is a failure
    /// of the side. Its upstream is told so.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        let mut passed = |deadline: &mut Pin<Box<Sleep>>| deadline.as_mut().poll(cx).is_ready();
        let late = self.deadline.as_mut().is_some_and(&mut passed);
        if !late {
            let (Some(idle), Some(lent)) = (&mut self.idle, &mut self.lent) else {
                return Poll::Pending;
            };
            ready!(lent.flow.poll_idle(idle, cx));
            self.broke_off(true);
        }
        (self.lent, self.keep) = (None, None);
        Poll::Ready(Some(match late && self.calls {
            true => Ok(Frame::trailers(grpc::late())),
            false => Err(WireError::Late),
        }))
    }
}

impl Body {
    /// Wraps an answer. One that is whole already gives its connection back here and now.
    pub(crate) fn answer(lent: Lent, copy: Option<Copy>) -> Self {
        let now = Some(lent.answered);
        let (until, end) = (lent.until, earliest((lent.until, lent.end)));
        let mut answer = Answer {
            lent: Some(lent),
            copy,
            keep: None,
            rest: Bytes::new(),
            links: None,
            press: None,
            ending: None,
            verdict: None,
            idle: None,
            client_idle: None,
            end,
            deadline: None,
            calls: until.is_some(),
        };
        let Some(flow) = answer.lent.as_mut().map(|lent| &mut lent.flow) else {
            return Self::Empty;
        };
        if flow.is_over() {
            answer.finish(now);
            return Self::Empty;
        }
        if let Some(whole) = flow.take_whole() {
            if let Some(copy) = &mut answer.copy {
                copy.take(&whole);
            }
            answer.finish(now);
            return Self::Full(Some(whole));
        }
        answer.deadline = end.map(|end| Box::pin(sleep_until(end.into())));
        Self::Answer(Box::new(answer))
    }

    /// When all of it must have come, where somebody says so and it has not yet.
    pub(crate) fn end(&self) -> Option<Instant> {
        match self {
            Self::Empty | Self::Full(_) => None,
            Self::Answer(answer) => answer.end,
        }
    }

    /// How long its client may take nothing of it, where its route says it.
    pub(crate) fn client_idle(&self) -> Option<Duration> {
        match self {
            Self::Empty | Self::Full(_) => None,
            Self::Answer(answer) => answer.client_idle,
        }
    }

    /// Puts what passes into the store, at its end.
    pub(crate) fn keep(&mut self, mut keep: Keep) {
        match self {
            Self::Empty | Self::Full(None) => keep.finish(),
            Self::Full(Some(whole)) => {
                keep.take(whole);
                keep.finish();
            }
            Self::Answer(answer) => answer.keep = Some(Box::new(keep)),
        }
    }

    /// Changes links in what is still to come.
    pub(crate) fn relink(&mut self, relink: impl FnOnce() -> Relink) {
        match self {
            Self::Empty | Self::Full(None) => {}
            Self::Full(Some(whole)) => *whole = relink().feed(whole, true),
            Self::Answer(answer) => answer.links = Some(Box::new(relink())),
        }
    }

    /// Compresses what is still to come. Whether it will: not where there is nothing.
    pub(crate) fn press(&mut self, press: impl FnOnce() -> Option<Press>) -> bool {
        match self {
            Self::Empty | Self::Full(None) => false,
            // Long: as those that come in parts, so that others have their turn.
            Self::Full(Some(whole)) if whole.len() > PART => {
                let Some(press) = press() else {
                    return false;
                };
                let rest = std::mem::take(whole);
                *self = Self::Answer(Box::new(Answer::pressed(rest, press)));
                true
            }
            Self::Full(Some(whole)) => match press().and_then(|press| press.whole(whole)) {
                Some(pressed) => {
                    *whole = pressed;
                    true
                }
                None => false,
            },
            Self::Answer(answer) => {
                answer.press = press().map(Box::new);
                answer.press.is_some()
            }
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = WireError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Answer(answer) => answer.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Answer(answer) => {
                answer.lent.is_none() && answer.press.is_none() && answer.links.is_none()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Answer(answer) if answer.press.is_some() || answer.links.is_some() => {
                SizeHint::default()
            }
            Self::Answer(answer) => match answer.lent.as_ref().map(|lent| lent.flow.left()) {
                None => SizeHint::with_exact(0),
                Some(Some(left)) => SizeHint::with_exact(left),
                Some(None) => SizeHint::default(),
            },
        }
    }
}
