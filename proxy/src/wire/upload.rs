//! The way up: a request's head and body on their way to an upstream.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    HOST, HeaderMap, HeaderName, HeaderValue, MAX_FORWARDS, SET_COOKIE, TE, TRAILER,
    TRANSFER_ENCODING,
};
use http::request;
use http_body::Body as _;
use tokio::io::AsyncWrite;

use super::WireError;
use super::head;
use super::times::Pause;
use crate::headers::{Apart, says_who};
use crate::inbound::ClientBody;
use crate::spelling::FieldNames;

/// Bytes that are gathered for one write; a larger part of a body is written without a copy.
const GATHER: usize = 16 * 1_024;

/// Fields that mean nothing, or harm, behind a body (RFC 9110 section 6.5.1).
const NO_TRAILERS: [HeaderName; 12] = [
    AUTHORIZATION,
    CACHE_CONTROL,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    HOST,
    MAX_FORWARDS,
    SET_COOKIE,
    TRAILER,
    TRANSFER_ENCODING,
    TE,
];

/// How the body's end is told.
#[derive(Debug)]
enum Coding {
    Length(u64),
    /// With the trailers that the head announced, but for those that a service has said of it.
    Chunked(Vec<HeaderValue>, Option<Apart>),
}

/// What is still to be sent of one request.
#[derive(Debug)]
pub(super) struct Upload {
    gathered: Vec<u8>,
    /// Bytes of it that were sent.
    sent: usize,
    /// Goes behind `gathered`.
    large: Bytes,
    body: Option<ClientBody>,
    coding: Coding,
    /// Bytes that the body may still bring.
    room: u64,
    /// All that has come of the body is sent.
    starves: bool,
    /// Some of it was sent since somebody last asked.
    moved: bool,
    /// What was written may still lie in TLS.
    unflushed: bool,
    /// The upstream takes no more; its answer may be on its way all the same.
    refused: Option<io::Error>,
}

impl Default for Upload {
    fn default() -> Self {
        Self {
            gathered: Vec::new(),
            sent: 0,
            large: Bytes::new(),
            body: None,
            coding: Coding::Length(0),
            room: u64::MAX,
            starves: false,
            moved: false,
            unflushed: false,
            refused: None,
        }
    }
}

impl Upload {
    /// Begins a request. The one before must be through.
    pub(super) fn begin(
        &mut self,
        parts: &request::Parts,
        (body, body_max): (Option<ClientBody>, u64),
        names: FieldNames,
    ) -> Result<(), WireError> {
        self.room = body_max;
        self.coding = match &body {
            None => Coding::Length(0),
            Some(_) => match head::length(&parts.headers)? {
                Some(length) => Coding::Length(length),
                None => Coding::Chunked(
                    parts.headers.get_all(TRAILER).iter().cloned().collect(),
                    parts.extensions.get().cloned(),
                ),
            },
        };
        let chunked = matches!(self.coding, Coding::Chunked(..));
        self.body = body;
        head::write(&mut self.gathered, parts, chunked, names);
        Ok(())
    }

    /// Everything is sent.
    pub(super) fn is_through(&self) -> bool {
        self.body.is_none() && self.is_written() && !self.unflushed && self.refused.is_none()
    }

    /// What it waits for, and whether some of it was sent since this was last asked.
    pub(super) fn pause(&mut self) -> (Pause, bool) {
        let moved = std::mem::take(&mut self.moved);
        let pause = if self.body.is_none() && self.is_written() && !self.unflushed {
            Pause::Over
        } else if self.starves {
            Pause::Client
        } else {
            Pause::Upstream
        };
        (pause, moved)
    }

    fn is_written(&self) -> bool {
        self.sent == self.gathered.len() && self.large.is_empty()
    }

    /// Keeps no more memory than most requests need.
    pub(super) fn rest(&mut self) {
        if self.gathered.capacity() > GATHER {
            self.gathered = Vec::new();
        }
    }

    pub(super) fn take_refusal(&mut self) -> Option<io::Error> {
        self.refused.take()
    }

    /// Sends what can be sent; ready when no more will be.
    ///
    /// # Errors
    /// [`WireError::Upload`] when the client's body breaks off: the request must not look whole.
    pub(super) fn poll<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<Result<(), WireError>> {
        loop {
            let mut waits = false;
            self.starves = false;
            while self.body.is_some() && self.large.is_empty() && self.gathered.len() < GATHER {
                match self.poll_gather(cx)? {
                    Poll::Ready(()) => {}
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            if self.is_written() {
                if self.unflushed {
                    match Pin::new(&mut *to).poll_flush(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Ok(())) => self.unflushed = false,
                        Poll::Ready(Err(error)) => self.refuse(error),
                    }
                }
                return if waits && self.body.is_some() {
                    self.starves = true;
                    Poll::Pending
                } else {
                    Poll::Ready(Ok(()))
                };
            }
            let first = &self.gathered[self.sent..];
            let written = if self.large.is_empty() {
                Pin::new(&mut *to).poll_write(cx, first)
            } else {
                let both = [IoSlice::new(first), IoSlice::new(&self.large)];
                Pin::new(&mut *to).poll_write_vectored(cx, &both)
            };
            match written {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => self.refuse(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(sent)) => self.advance(sent),
                Poll::Ready(Err(error)) => self.refuse(error),
            }
        }
    }

    fn advance(&mut self, sent: usize) {
        (self.unflushed, self.moved) = (true, true);
        let small = sent.min(self.gathered.len() - self.sent);
        self.sent += small;
        if self.sent == self.gathered.len() {
            self.forget();
        }
        self.large.advance(sent - small);
    }

    fn forget(&mut self) {
        self.gathered.clear();
        self.sent = 0;
    }

    fn refuse(&mut self, error: io::Error) {
        self.refused = Some(error);
        self.unflushed = false;
        self.body = None;
        self.forget();
        self.large.clear();
    }

    /// Takes the body's next frame, or its end.
    fn poll_gather(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, WireError> {
        let Some(body) = &mut self.body else {
            return Ok(Poll::Ready(()));
        };
        let frame = match Pin::new(body).poll_frame(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(None) => {
                self.end(None)?;
                return Ok(Poll::Ready(()));
            }
            Poll::Ready(Some(frame)) => frame.map_err(WireError::Upload)?,
        };
        match frame.into_data() {
            Ok(data) => {
                self.data(data)?;
                if self.body.as_ref().is_some_and(|body| body.is_end_stream()) {
                    self.end(None)?;
                }
            }
            Err(other) => {
                if let Ok(trailers) = other.into_trailers() {
                    self.end(Some(trailers))?;
                }
            }
        }
        Ok(Poll::Ready(()))
    }

    fn data(&mut self, data: Bytes) -> Result<(), WireError> {
        if data.is_empty() {
            return Ok(());
        }
        let room = self.room.checked_sub(data.len() as u64);
        self.room = room.ok_or(WireError::UploadLong)?;
        let chunked = match &mut self.coding {
            Coding::Length(left) => {
                let Some(less) = left.checked_sub(data.len() as u64) else {
                    return Err(WireError::UploadLength);
                };
                *left = less;
                false
            }
            Coding::Chunked(..) => true,
        };
        if chunked {
            let size = format!("{:x}\r\n", data.len());
            self.gathered.extend_from_slice(size.as_bytes());
            // A copy, because the line end stands behind it: bounded by what is read at once.
            self.gathered.extend_from_slice(&data);
            self.gathered.extend_from_slice(b"\r\n");
        } else if data.len() < GATHER / 2 {
            self.gathered.extend_from_slice(&data);
        } else {
            self.large = data;
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), WireError> {
        self.body = None;
        match &self.coding {
            Coding::Length(0) => Ok(()),
            Coding::Length(_) => Err(WireError::UploadLength),
            Coding::Chunked(announced, apart) => {
                self.gathered.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.iter().flatten() {
                    let theirs = apart.as_ref().is_some_and(|apart| apart.has(name));
                    if may_follow(name) && !theirs && is_announced(name, announced) {
                        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                            self.gathered.extend_from_slice(part);
                        }
                    }
                }
                self.gathered.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }
}

/// Whether a field may stand behind a body at all.
pub(crate) fn may_follow(name: &HeaderName) -> bool {
    !NO_TRAILERS.contains(name) && !says_who(name)
}

fn is_announced(name: &HeaderName, announced: &[HeaderValue]) -> bool {
    announced
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case(name.as_str()))
}
