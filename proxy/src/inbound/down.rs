//! An answer on its way down to a client of HTTP/1: its head, and its body as it comes.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode};
use http_body::{Body as _, Frame};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::io::AsyncWrite;

use super::head::Manner;
use crate::body::Body;
use crate::reply::{Lines, Reply};
use crate::wire::{WireError, may_follow};

/// Bytes that are gathered for one write.
const GATHER: usize = 16 * 1_024;

/// A part of a body of this size is written as it is, without a copy: to copy less costs the
/// kernel and us less than a write of several pieces.
const LARGE: usize = 4 * 1_024;

/// As RFC 9110 section 5.6.7 writes the time.
const IMF: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);

/// The time as `Date` tells it, worked out once a second.
#[derive(Debug, Default)]
pub(super) struct Date {
    second: u64,
    text: String,
}

impl Date {
    pub(super) fn now(&mut self) -> &str {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let second = since.unwrap_or_default().as_secs();
        if self.second != second || self.text.is_empty() {
            let at = i64::try_from(second).ok();
            let at = at.and_then(|second| OffsetDateTime::from_unix_timestamp(second).ok());
            self.text = at.and_then(|at| at.format(IMF).ok()).unwrap_or_default();
            self.second = second;
        }
        &self.text
    }
}

/// How the client finds the body's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    /// There is no body, whatever the head says.
    Nothing,
    /// So many bytes are still to come.
    Length(u64),
    Chunked,
    /// The connection's end is the body's.
    ToTheEnd,
}

/// What is still to be sent of one answer.
#[derive(Debug)]
pub(super) struct Down {
    gathered: Vec<u8>,
    /// Bytes of it that were sent.
    sent: usize,
    /// Goes behind `gathered`.
    large: Bytes,
    /// Goes behind `large`.
    behind: &'static [u8],
    /// Came while `large` had not gone yet.
    held: Option<Bytes>,
    body: Option<Body>,
    coding: Coding,
    trailers: bool,
    /// The body broke off: what there is of it is sent, and no end.
    cut: bool,
    /// The connection may carry another request behind this answer.
    pub(super) stays: bool,
    /// Bytes so far.
    pub(super) written: u64,
    /// The client takes no more for now.
    pub(super) stuck: bool,
    /// Its time runs.
    pub(super) timed: bool,
    /// It is over.
    pub(super) given_up: bool,
    /// When all of the answer must have come, where somebody says so.
    pub(super) end: Option<Instant>,
    /// How long the client may take nothing, where the route says it.
    pub(super) idle: Option<Duration>,
}

impl Down {
    /// Begins an answer, in memory that was used before. `stays`: as far as the rest is concerned.
    pub(super) fn new(
        mut answer: Reply<Body>,
        manner: Manner,
        stays: bool,
        (mut out, date): (Vec<u8>, &mut Date),
    ) -> Self {
        let exact = answer.body().size_hint().exact();
        let coding = match exact {
            _ if manner.bodiless || is_bodiless(answer.status()) => Coding::Nothing,
            Some(length) => Coding::Length(length),
            None if manner.old => Coding::ToTheEnd,
            None => Coding::Chunked,
        };
        let stays = stays && manner.keeps && coding != Coding::ToTheEnd;
        let stays = write_head(
            &mut out,
            &mut answer,
            (coding, exact),
            (manner, stays),
            date,
        );
        let body = answer.into_body();
        let (end, idle) = (body.end(), body.client_idle());
        let ended = coding == Coding::Nothing || body.is_end_stream();
        let mut down = Self {
            gathered: out,
            sent: 0,
            large: Bytes::new(),
            behind: &[],
            held: None,
            body: (!ended).then_some(body),
            coding,
            trailers: manner.trailers,
            cut: false,
            stays,
            written: 0,
            stuck: false,
            timed: false,
            given_up: false,
            end,
            idle,
        };
        if ended && coding == Coding::Chunked {
            down.gathered.extend_from_slice(b"0\r\n\r\n");
        }
        down
    }

    /// What must be said before the answer.
    pub(super) fn say_first(&mut self, interim: &[u8]) {
        self.gathered.splice(..0, interim.iter().copied());
    }

    /// Its memory, for the next answer.
    pub(super) fn into_memory(self) -> Vec<u8> {
        self.gathered
    }

    /// The client cannot see by itself that this body is not whole.
    pub(super) fn is_cut_unseen(&self) -> bool {
        self.coding == Coding::ToTheEnd
    }

    fn is_flushed(&self) -> bool {
        self.sent == self.gathered.len() && self.large.is_empty() && self.behind.is_empty()
    }

    /// Sends what can be sent; ready when no more will be.
    ///
    /// # Errors
    /// The client is gone, or the answer broke off.
    pub(super) fn poll<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        self.stuck = false;
        loop {
            let waits = self.gather(cx);
            if self.is_flushed() {
                if !waits {
                    let flushed = Pin::new(&mut *to).poll_flush(cx);
                    self.stuck = flushed.is_pending();
                    return match (flushed, self.cut) {
                        (Poll::Ready(Ok(())), true) => {
                            Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
                        }
                        (flushed, _) => flushed,
                    };
                }
                // What was written may still lie in TLS.
                self.stuck = Pin::new(&mut *to).poll_flush(cx)?.is_pending();
                return Poll::Pending;
            }
            let first = &self.gathered[self.sent..];
            let written = if self.large.is_empty() && self.behind.is_empty() {
                Pin::new(&mut *to).poll_write(cx, first)
            } else {
                let pieces = [first, &self.large, self.behind].map(IoSlice::new);
                Pin::new(&mut *to).poll_write_vectored(cx, &pieces)
            };
            match written {
                Poll::Pending => {
                    self.stuck = true;
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => self.advance(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn advance(&mut self, count: usize) {
        self.written += count as u64;
        let first = count.min(self.gathered.len() - self.sent);
        self.sent += first;
        if self.sent == self.gathered.len() {
            self.gathered.clear();
            self.sent = 0;
        }
        let second = (count - first).min(self.large.len());
        self.large.advance(second);
        self.behind = &self.behind[(count - first - second).min(self.behind.len())..];
        if self.large.is_empty() {
            // Only a part of it went along: what comes next stands behind it.
            self.gathered
                .extend_from_slice(std::mem::take(&mut self.behind));
        }
        if self.is_flushed()
            && let Some(held) = self.held.take()
        {
            self.data(held);
        }
    }

    /// Takes frames as long as there is room. Whether more are to come that are not there yet.
    fn gather(&mut self, cx: &mut Context<'_>) -> bool {
        while self.held.is_none() && self.gathered.len() < GATHER {
            let Some(body) = &mut self.body else {
                return false;
            };
            match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return true,
                Poll::Ready(frame) => self.frame(frame),
            }
        }
        false
    }

    fn frame(&mut self, frame: Option<Result<Frame<Bytes>, WireError>>) {
        match frame.map(|frame| frame.map(Frame::into_data)) {
            None => self.end(None),
            Some(Err(_)) => {
                self.cut = true;
                self.body = None;
            }
            Some(Ok(Ok(data))) => {
                if self.large.is_empty() {
                    self.data(data);
                } else {
                    self.held = Some(data);
                }
                let over = self.body.as_ref().is_some_and(Body::is_end_stream);
                if over && self.held.is_none() {
                    self.end(None);
                }
            }
            Some(Ok(Err(other))) => self.end(other.into_trailers().ok()),
        }
    }

    fn data(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        let chunked = self.coding == Coding::Chunked;
        if let Coding::Length(left) = &mut self.coding {
            let length = data.len() as u64;
            if length > *left {
                // Never: a connection has no more than its head says. But it would be smuggling.
                (self.cut, self.body) = (true, None);
                return;
            }
            *left -= length;
        }
        if chunked {
            // A vector takes whatever is written.
            let _ = write!(self.gathered, "{:x}\r\n", data.len());
        }
        if data.len() < LARGE {
            self.gathered.extend_from_slice(&data);
            if chunked {
                self.gathered.extend_from_slice(b"\r\n");
            }
        } else {
            self.large = data;
            self.behind = if chunked { b"\r\n" } else { b"" };
        }
    }

    fn end(&mut self, trailers: Option<HeaderMap>) {
        self.body = None;
        match self.coding {
            Coding::Length(left) if left > 0 => self.cut = true,
            Coding::Chunked => {
                let trailers = trailers.filter(|_| self.trailers);
                if trailers.is_none() && !self.large.is_empty() {
                    self.behind = b"\r\n0\r\n\r\n";
                    return;
                }
                let mut end = b"0\r\n".to_vec();
                for (name, value) in trailers.iter().flatten() {
                    if may_follow(name) {
                        field(&mut end, name.as_str().as_bytes(), value.as_bytes());
                    }
                }
                end.extend_from_slice(b"\r\n");
                match self.large.is_empty() {
                    true => self.gathered.extend_from_slice(&end),
                    false => self.behind_large(&end),
                }
            }
            Coding::Length(_) | Coding::Nothing | Coding::ToTheEnd => {}
        }
    }

    /// Trailers behind a large chunk: rare enough for a copy.
    fn behind_large(&mut self, end: &[u8]) {
        self.gathered.extend_from_slice(&self.large);
        self.gathered.extend_from_slice(self.behind);
        self.gathered.extend_from_slice(end);
        (self.large, self.behind) = (Bytes::new(), &[]);
    }
}

fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// What the fields of an answer have told the client.
struct Said {
    dated: bool,
    sized: bool,
    stays: bool,
}

fn write_lines(out: &mut Vec<u8>, lines: &Lines) -> Said {
    lines
        .pieces()
        .for_each(|piece| out.extend_from_slice(piece));
    Said {
        dated: lines.dated,
        sized: lines.length.is_some(),
        stays: true,
    }
}

/// `tells`: with a length that is not that of the body.
fn write_fields(out: &mut Vec<u8>, fields: &HeaderMap, tells: bool) -> Said {
    let mut said = Said {
        dated: false,
        sized: false,
        stays: true,
    };
    for (name, value) in fields {
        if *name == CONTENT_LENGTH {
            if said.sized || !tells {
                continue;
            }
            said.sized = true;
        } else if *name == CONNECTION && value == "close" {
            said.stays = false;
            continue;
        } else if *name == TRANSFER_ENCODING {
            continue;
        }
        said.dated |= *name == DATE;
        field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    said
}

/// Whether the connection stays, which the answer itself may deny.
fn write_head(
    out: &mut Vec<u8>,
    answer: &mut Reply<Body>,
    (coding, exact): (Coding, Option<u64>),
    (manner, stays): (Manner, bool),
    date: &mut Date,
) -> bool {
    let status = answer.status();
    out.clear();
    let version = if manner.old { "HTTP/1.0 " } else { "HTTP/1.1 " };
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(match answer.reason() {
        Some(reason) => reason.as_bytes(),
        None => status.canonical_reason().unwrap_or_default().as_bytes(),
    });
    out.extend_from_slice(b"\r\n");
    // An answer to HEAD, or a 304, tells of a body that it does not have. Else the length is that of
    // the body which goes down, and of no other one.
    let tells = coding == Coding::Nothing && status != StatusCode::NO_CONTENT;
    let fits = |length| tells || coding == Coding::Length(length);
    let said = match answer.lines() {
        Some(lines) if lines.length.is_none_or(fits) => write_lines(out, lines),
        _ => write_fields(out, answer.headers(), tells),
    };
    // A vector takes whatever is written.
    match (coding, exact) {
        (Coding::Length(length), _) if !said.sized => {
            drop(write!(out, "content-length: {length}\r\n"));
        }
        (Coding::Chunked, _) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        (Coding::Nothing, Some(size)) if manner.bodiless && !said.sized && size > 0 => {
            drop(write!(out, "content-length: {size}\r\n"));
        }
        _ => {}
    }
    if !said.dated && !status.is_informational() {
        field(out, b"date", date.now().as_bytes());
    }
    let stays = stays && said.stays;
    match (stays, manner.old) {
        (true, true) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        (false, false) if !status.is_informational() => {
            out.extend_from_slice(b"connection: close\r\n");
        }
        _ => {}
    }
    out.extend_from_slice(b"\r\n");
    stays
}
