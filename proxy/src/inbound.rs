//! A client's connection: which HTTP it speaks, and HTTP/1 itself.
//!
//! One task reads heads, runs the stages, and writes answers. What costs memory belongs to the core
//! ([`Desk`]) or to the request: an idle client has a socket, a timer and this task. The
//! frames of HTTP/2 are those of `h2` (`inbound/streams.rs`).
//!
//! It refuses to guess: behind what it did not understand nothing is read, and the connection ends.

mod down;
mod framed;
pub(crate) mod head;
mod kept;
mod line;
mod pulse;
mod streams;

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::debug;

use crate::answer::refuse;
use crate::body::Body;
use crate::connection::Ends;
use crate::core::{Core, Peer};
use crate::counts::refusals::UNFINISHED;
use crate::deadline::{Deadline, earliest};
use crate::error::Refusal;
use crate::forward::is_read;
use crate::kinds::Asked;
use crate::reply::Reply;
use crate::stages;
use down::{Date, Down};
use head::{Head, KnownNames, Manner};
pub(crate) use kept::{Kept, Past};
pub(crate) use line::{Again, ClientBody, ClientBodyError, ClientHalf, Hints, Io, UploadCopy};
use line::{Left, Line, LineBody, State};

/// Read at once while a head is awaited.
const READ: usize = 16 * 1_024;

/// What a client may send ahead while its request is answered.
const AHEAD_MAX: usize = 64 * 1_024;

/// What is read and thrown away behind an answer, so that the client sees that and no reset.
const DRAIN_MAX: usize = 256 * 1_024;
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Memory for an answer's head and small bodies is kept up to this size.
const KEPT_MAX: usize = 64 * 1_024;

/// How a client of HTTP/2 begins (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the connections of one core use in turn.
#[derive(Debug)]
pub(crate) struct Desk {
    input: RefCell<Box<[u8]>>,
    output: RefCell<Vec<u8>>,
    names: RefCell<KnownNames>,
    date: RefCell<Date>,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            input: RefCell::new(vec![0; READ].into()),
            output: RefCell::default(),
            names: RefCell::default(),
            date: RefCell::default(),
        }
    }
}

impl Desk {
    /// What `bytes` begin with, and how many of them that is; `None` while it is not whole.
    fn read(&self, bytes: &[u8], how: How) -> Option<(Came, usize)> {
        let How {
            fresh,
            head_max,
            fields_max,
            spells,
        } = how;
        if fresh && bytes.starts_with(PREFACE) {
            return Some((Came::Preface, 0));
        }
        if fresh && PREFACE.starts_with(bytes) {
            return None;
        }
        match head::read(bytes, (fields_max, spells), &mut self.names.borrow_mut()) {
            Ok(None) if bytes.len() > head_max => {
                Some((Came::Refused(Refusal::HeadTooLong), bytes.len()))
            }
            Ok(Some(head)) if head.length > head_max => {
                Some((Came::Refused(Refusal::HeadTooLong), bytes.len()))
            }
            Ok(head) => head.map(|head| {
                let length = head.length;
                (Came::Request(head), length)
            }),
            Err(refusal) => Some((Came::Refused(refusal), bytes.len())),
        }
    }
}

/// How a head is read.
#[derive(Clone, Copy)]
struct How {
    /// It is the first on its connection.
    fresh: bool,
    head_max: usize,
    fields_max: usize,
    /// How its names are spelled is kept.
    spells: bool,
}

/// What came where a head was awaited.
#[allow(clippy::large_enum_variant)] // To move it costs less than a box for every request.
enum Came {
    Request(Head),
    /// HTTP/2.
    Preface,
    Nothing,
    Refused(Refusal),
}

/// Serves one client to its end.
pub(crate) async fn converse(core: Rc<Core>, io: Io, peer: Peer, ends: Ends) {
    let mut stopped = pin!(ends.stop.cancelled());
    // Asked once to wake this task; from then on a look at the flag is enough.
    poll_fn(|cx| {
        let _ = stopped.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
    let mut inbound = Inbound {
        core,
        peer: Rc::new(peer),
        ends: &ends,
        line: Line::new(io),
        deadline: Deadline::new(Instant::now()),
        scanned: 0,
        fresh: true,
    };
    loop {
        let stays = match inbound.head().await {
            Came::Request(head) => inbound.exchange(head).await,
            Came::Refused(refusal) => inbound.turn_away(&refusal).await,
            Came::Nothing => false,
            Came::Preface => {
                let Inbound {
                    core, peer, line, ..
                } = inbound;
                let came = line.state().give_away();
                let ends = ends.clone();
                return Box::pin(streams::converse(core, came, peer, ends)).await;
            }
        };
        if !stays {
            return inbound.close().await;
        }
    }
}

struct Inbound<'a> {
    core: Rc<Core>,
    peer: Rc<Peer>,
    ends: &'a Ends,
    line: Rc<Line>,
    /// For whatever is waited for.
    deadline: Deadline,
    /// Bytes of the input in which no head ends.
    scanned: usize,
    /// Nothing was read yet.
    fresh: bool,
}

impl Inbound<'_> {
    async fn head(&mut self) -> Came {
        let limits = &self.core.shared.settings.limits;
        let (within, rest) = (limits.head_timeout, limits.keep_alive);
        // A new client is to ask for something; who has, may rest.
        let mut rests = !self.fresh && rest != within;
        let ever = rests && rest.is_zero();
        if !ever {
            let first = if rests { rest } else { within };
            self.deadline.set(Instant::now() + first);
        }
        self.scanned = 0;
        {
            let state = &mut *self.line.state();
            if state.input.is_empty() {
                state.input = BytesMut::new();
            }
        }
        let came = poll_fn(|cx| {
            let came = self.poll_head(cx);
            if came.is_pending() {
                if rests && !self.line.state().input.is_empty() {
                    rests = false;
                    self.deadline.set(Instant::now() + within);
                }
                if !(rests && ever) && self.deadline.poll(cx).is_ready() {
                    debug!("no request in time");
                    return Poll::Ready(Came::Nothing);
                }
            }
            came
        })
        .await;
        self.fresh = false;
        if matches!(came, Came::Nothing) && is_begun(&self.line.state().input) {
            self.core.lacks_request(UNFINISHED);
        }
        came
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Came> {
        let state = &mut *self.line.state();
        let limits = &self.core.shared.settings.limits;
        let how = How {
            fresh: self.fresh,
            head_max: limits.head_max,
            fields_max: limits.headers_max,
            spells: self.core.shared.spells,
        };
        if let Some(came) = take_head(&self.core.desk, state, &mut self.scanned, how) {
            return Poll::Ready(came);
        }
        let mut scratch = self.core.desk.input.borrow_mut();
        loop {
            if state.input.is_empty() && self.ends.stopping.load(Relaxed) {
                return Poll::Ready(Came::Nothing);
            }
            let count = match state.poll_read(cx, &mut scratch) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(count)) if count > 0 => count,
                Poll::Ready(_) => {
                    state.ended = true;
                    return Poll::Ready(Came::Nothing);
                }
            };
            let came = &scratch[..count];
            if state.input.is_empty() {
                // The usual case: a head that came at once is read where it lies.
                if let Some((came, used)) = self.core.desk.read(came, how) {
                    if used < count {
                        state.input.extend_from_slice(&scratch[used..count]);
                    }
                    return Poll::Ready(came);
                }
                self.scanned = count;
            }
            state.input.extend_from_slice(&scratch[..count]);
            if let Some(came) = take_head(&self.core.desk, state, &mut self.scanned, how) {
                return Poll::Ready(came);
            }
        }
    }

    /// One request and its answer. Whether the connection may carry another one.
    async fn exchange(&mut self, head: Head) -> bool {
        let Head {
            request,
            kinds,
            body,
            expects,
            manner,
            ..
        } = head;
        {
            let state = &mut *self.line.state();
            (state.body, state.expects) = (body, expects && state.input.is_empty());
        }
        let body = ClientBody::Line(LineBody(self.line.clone()));
        let asked = Asked {
            parts: request,
            kinds,
        };
        let answer = self.answer(asked, body).await;
        let Some(answer) = answer else {
            return false;
        };
        self.send(answer, manner).await && self.settle().await
    }

    /// The stages' answer; `None` when the client has left before.
    async fn answer(&mut self, asked: Asked, body: ClientBody) -> Option<Reply<Body>> {
        // Who writes is asked for by a task of its own, which hints may come from.
        let apart = !is_read(&asked.parts.method);
        // In a box, so that an idle client has no room for it.
        let mut stages = Box::pin(stages::answer(
            self.core.clone(),
            self.peer.clone(),
            (asked, body),
        ));
        poll_fn(|cx| {
            if let Poll::Ready(Ok(answer)) = stages.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            if self.poll_hints(cx, apart).is_err() {
                return Poll::Ready(None);
            }
            self.poll_left(cx).map(|()| None)
        })
        .await
    }

    /// Says what has come before the answer.
    fn poll_hints(&self, cx: &mut Context<'_>, apart: bool) -> std::io::Result<()> {
        let state = &mut *self.line.state();
        if apart {
            state.watch(cx);
        }
        if state.body != Left::Over || state.interim.is_empty() {
            return Ok(());
        }
        match state.poll_interim(cx) {
            Poll::Ready(said) => said,
            Poll::Pending => Ok(()),
        }
    }

    /// Writes an answer, and makes the connection ready for the next request.
    async fn send(&mut self, answer: Reply<Body>, manner: Manner) -> bool {
        let switches = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        let mut down = {
            let state = &mut *self.line.state();
            // A body that nobody reads, and that is not there already, is not waited for.
            let unread = !self.line.is_read() && !state.skip();
            let stays = !self.ends.part() && !state.broken && !unread;
            let memory = self.core.desk.output.take();
            let date = &mut *self.core.desk.date.borrow_mut();
            let mut down = Down::new(answer, manner, stays, (memory, date));
            state.turn += 1;
            down.say_first(&std::mem::take(&mut state.interim));
            down
        };
        let sent = poll_fn(|cx| self.poll_send(cx, &mut down)).await;
        // Who reads nothing is to cost nothing more, not even the kernel's memory.
        let unseen = down.is_cut_unseen() || down.given_up;
        let stays = down.stays;
        let memory = down.into_memory();
        if memory.capacity() <= KEPT_MAX {
            self.core.desk.output.replace(memory);
        }
        let state = &mut *self.line.state();
        if !sent {
            if unseen {
                let (io, _) = state.give_away();
                io.close_by_reset();
            }
            state.broken = true;
            return false;
        }
        let half = state.half.take();
        if switches {
            if let Some(half) = half.filter(|_| state.body == Left::Over) {
                // Refused when the upstream has left meanwhile.
                let (io, behind) = state.give_away();
                let _ = half.send((io, behind, self.ends.enter()));
            }
            return false;
        }
        stays
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, down: &mut Down) -> Poll<bool> {
        let before = down.written;
        let (sent, ended) = {
            let state = &mut *self.line.state();
            (down.poll(cx, &mut state.io), state.ended)
        };
        match sent {
            Poll::Ready(Ok(())) => Poll::Ready(true),
            Poll::Ready(Err(failure)) => {
                debug!(%failure, "an answer broke off");
                Poll::Ready(false)
            }
            Poll::Pending => {
                let moved = down.written != before;
                if ended && moved {
                    self.deadline.set(self.half_closed());
                }
                if !ended && self.gives_up(cx, down, moved) {
                    debug!("a client reads nothing of its answer");
                    return Poll::Ready(false);
                }
                self.poll_left(cx).map(|()| false)
            }
        }
    }

    /// Whether the client has taken nothing for too long.
    fn gives_up(&mut self, cx: &mut Context<'_>, down: &mut Down, moved: bool) -> bool {
        let timed = std::mem::replace(&mut down.timed, down.stuck);
        if !down.stuck {
            return false;
        }
        let usual = self.core.shared.settings.limits.allowance.client_idle;
        let idle = down.idle.or(usual).filter(|idle| !idle.is_zero());
        if idle.is_none() && down.end.is_none() {
            return false;
        }
        if moved || !timed {
            let now = Instant::now();
            let idle = idle.map(|idle| now + idle);
            self.deadline.set(earliest((idle, down.end)).unwrap_or(now));
        }
        down.given_up = self.deadline.poll(cx).is_ready();
        down.given_up
    }

    /// Until when a client that has closed its half is answered: nobody can tell whether it still listens.
    fn half_closed(&self) -> Instant {
        Instant::now() + self.core.shared.settings.limits.half_closed
    }

    /// Ready when the client has left. What it sends meanwhile is kept for later.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_read = self.line.is_read();
        let state = &mut *self.line.state();
        loop {
            if state.ended {
                return self.deadline.poll(cx);
            }
            if state.body != Left::Over {
                if is_read {
                    state.watch(cx);
                }
                return Poll::Pending;
            }
            if state.input.len() >= AHEAD_MAX {
                return Poll::Pending;
            }
            let mut scratch = self.core.desk.input.borrow_mut();
            match ready!(state.poll_read(cx, &mut scratch)) {
                Ok(0) => {
                    state.ended = true;
                    let until = self.half_closed();
                    self.deadline.set(until);
                }
                Ok(count) => state.input.extend_from_slice(&scratch[..count]),
                Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Waits for an upload that outlasts its answer. Whether the next request can follow.
    async fn settle(&mut self) -> bool {
        poll_fn(|cx| {
            let is_read = self.line.is_read();
            let state = &mut *self.line.state();
            if is_read && state.body != Left::Over && !state.broken {
                state.watch(cx);
                return Poll::Pending;
            }
            Poll::Ready(state.skip() && !state.broken)
        })
        .await
    }

    /// Answers what is no request. Nothing is read behind it.
    async fn turn_away(&mut self, refusal: &Refusal) -> bool {
        debug!(%refusal, "refused");
        self.core.refuses(refusal);
        self.line.state().broken = true;
        let manner = Manner {
            old: false,
            keeps: false,
            bodiless: false,
            trailers: false,
        };
        let pages = &self.core.shared.settings.error_pages;
        let answer = refuse(refusal, pages, None);
        self.send(answer, manner).await
    }

    /// Ends the connection so that the client reads all of its answer: a close with bytes unread is
    /// a reset, which would take the answer away again.
    async fn close(self) {
        let (io, unread, ended) = {
            let state = &mut *self.line.state();
            let unread = state.broken || state.body != Left::Over || !state.input.is_empty();
            let (io, _) = state.give_away();
            (io, unread, state.ended)
        };
        if !unread && matches!(io, Io::Plain(_)) {
            // To close it says the same as to shut it first.
            return;
        }
        linger(io, &self.core.desk, unread && !ended).await;
    }
}

/// Says that it is the end, and throws away what still comes, if that is to be read.
async fn linger(mut io: Io, desk: &Desk, reads: bool) {
    let mut deadline = Deadline::new(Instant::now() + DRAIN_TIME);
    let mut drained = 0;
    let mut shut = false;
    poll_fn(|cx| {
        if !shut {
            match Pin::new(&mut io).poll_shutdown(cx) {
                Poll::Pending => return deadline.poll(cx),
                Poll::Ready(Ok(())) if reads => shut = true,
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
        let mut scratch = desk.input.borrow_mut();
        while drained < DRAIN_MAX {
            let mut into = ReadBuf::new(&mut scratch);
            match Pin::new(&mut io).poll_read(cx, &mut into) {
                Poll::Pending => return deadline.poll(cx),
                Poll::Ready(Ok(())) if !into.filled().is_empty() => {
                    drained += into.filled().len();
                }
                Poll::Ready(_) => break,
            }
        }
        Poll::Ready(())
    })
    .await;
}

/// Whether a head has begun. Line ends alone, which some clients send behind a body, are none.
fn is_begun(input: &[u8]) -> bool {
    input.iter().any(|byte| !matches!(byte, b'\r' | b'\n'))
}

/// The next head of what was read already. Looked at only when its end may be there: a head that
/// comes byte by byte is not read as often.
fn take_head(desk: &Desk, state: &mut State, scanned: &mut usize, how: How) -> Option<Came> {
    let length = state.input.len();
    if length == 0 {
        return None;
    }
    let unseen = &state.input[scanned.saturating_sub(3)..];
    let ends = |three: &[u8]| three == b"\n\r\n" || three.ends_with(b"\n\n");
    if *scanned > 0 && length <= how.head_max && !unseen.windows(3).any(ends) {
        *scanned = length;
        return None;
    }
    *scanned = length;
    let (came, used) = desk.read(&state.input, how)?;
    state.input.advance(used);
    Some(came)
}
