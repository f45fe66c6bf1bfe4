//! A client's socket, shared by the connection's task, which reads heads and writes answers, and
//! by whoever reads a request's body. All on one core; each takes it for the length of one poll.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode, Version};
use http_body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::server::TlsStream;
use tokio_util::io::poll_read_buf;

use super::kept::Kept;
use super::streams::{StreamBody, StreamHints};
use crate::chunks::{BadChunk, Chunks, Step};
use crate::connection::Open;
use crate::headers;

/// Read at once of a body, at first and while much is coming.
const READ_SMALL: usize = 8 * 1_024;
const READ_LARGE: usize = 64 * 1_024;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Of hints that a client has not read yet.
pub(super) const INTERIM_MAX: usize = 8 * 1_024;

/// A client's socket.
#[derive(Debug)]
pub(crate) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Given away, to a tunnel or to HTTP/2.
    Gone,
}

impl Io {
    /// Closes without an end: the client must not take what it has for the whole. In TLS an end that
    /// was not said is none.
    pub(super) fn close_by_reset(self) {
        if let Self::Plain(stream) = &self {
            // What cannot be set is closed as usual.
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

/// What of a request's body has not been read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Length(u64),
    Chunked(Chunks),
    Over,
}

/// Why a client's body is not whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientBodyError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the client left")]
    Short,
    #[error(transparent)]
    Chunk(#[from] BadChunk),
    #[error(transparent)]
    Stream(#[from] h2::Error),
    /// It is sent to another upstream instead.
    #[error("it goes elsewhere")]
    Elsewhere,
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Line(RefCell<State>);

#[derive(Debug)]
pub(super) struct State {
    pub(super) io: Io,
    /// What was read and not used yet. Empty, and without memory, while the client is idle.
    pub(super) input: BytesMut,
    /// Bytes of the last read of a body.
    filled: usize,
    pub(super) body: Left,
    /// The client waits for leave before it sends its body.
    pub(super) expects: bool,
    /// What is still to be said before the answer: that leave, and hints of the upstream.
    pub(super) interim: BytesMut,
    /// The number of the present request, until its answer begins.
    pub(super) turn: u64,
    /// The client has closed its half.
    pub(super) ended: bool,
    /// Nothing more on it can be understood.
    pub(super) broken: bool,
    /// The connection's task, while somebody else reads.
    pub(super) watcher: Option<Waker>,
    /// Where the connection goes should it change its protocol.
    pub(super) half: Option<oneshot::Sender<(Io, Bytes, Open)>>,
}

impl Line {
    pub(super) fn new(io: Io) -> Rc<Self> {
        Rc::new(Self(RefCell::new(State {
            io,
            input: BytesMut::new(),
            filled: 0,
            body: Left::Over,
            expects: false,
            interim: BytesMut::new(),
            turn: 0,
            ended: false,
            broken: false,
            watcher: None,
            half: None,
        })))
    }

    pub(super) fn state(&self) -> std::cell::RefMut<'_, State> {
        self.0.borrow_mut()
    }

    /// Somebody holds the present request's body.
    pub(super) fn is_read(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) > 1
    }
}

impl State {
    /// Reads what has come into the core's own memory: an idle client has none.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut into = ReadBuf::new(into);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut into))?;
        Poll::Ready(Ok(into.filled().len()))
    }

    /// The next step of the body by what was read already; `None` at its end.
    pub(super) fn decode(&mut self) -> Result<Option<Step>, BadChunk> {
        match &mut self.body {
            Left::Over => Ok(None),
            Left::Chunked(chunks) => {
                let step = chunks
                    .step(&mut self.input)
                    .inspect_err(|_| self.broken = true)?;
                if let Step::End(_) = step {
                    self.body = Left::Over;
                }
                Ok(Some(step))
            }
            Left::Length(_) if self.input.is_empty() => Ok(Some(Step::More)),
            Left::Length(left) => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX);
                let data = self.input.split_to(most.min(self.input.len())).freeze();
                *left -= data.len() as u64;
                if *left == 0 {
                    self.body = Left::Over;
                }
                Ok(Some(Step::Data(data)))
            }
        }
    }

    /// Takes what has come of a body that nobody reads. Whether that was all of it.
    pub(super) fn skip(&mut self) -> bool {
        loop {
            match self.decode() {
                Ok(None | Some(Step::End(_))) => return true,
                Ok(Some(Step::Data(_))) => {}
                Ok(Some(Step::More)) | Err(_) => return false,
            }
        }
    }

    /// The socket, for good, and what was read on it.
    pub(super) fn give_away(&mut self) -> (Io, Bytes) {
        let io = std::mem::replace(&mut self.io, Io::Gone);
        (io, self.input.split().freeze())
    }

    /// The connection's task wants to know when the body's reader is done.
    pub(super) fn watch(&mut self, cx: &Context<'_>) {
        let known = |watcher: &Waker| watcher.will_wake(cx.waker());
        if !self.watcher.as_ref().is_some_and(known) {
            self.watcher = Some(cx.waker().clone());
        }
    }

    fn wake(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            watcher.wake();
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        loop {
            match self.decode() {
                Ok(Some(Step::Data(data))) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Some(Step::End(trailers))) => {
                    let frame = trailers.map(|trailers| Ok(Frame::trailers(trailers)));
                    return Poll::Ready(frame);
                }
                Ok(Some(Step::More)) => {}
                Ok(None) => return Poll::Ready(None),
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
            ready!(self.poll_leave(cx))?;
            let large = self.filled >= READ_SMALL;
            self.input
                .reserve(if large { READ_LARGE } else { READ_SMALL });
            match ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input)) {
                Ok(0) => {
                    (self.ended, self.broken) = (true, true);
                    return Poll::Ready(Some(Err(ClientBodyError::Short)));
                }
                Ok(filled) => self.filled = filled,
                Err(error) => {
                    self.broken = true;
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
        }
    }

    /// Says that the body is wanted, where the client waits for that.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.expects) && self.input.is_empty() {
            self.interim.extend_from_slice(CONTINUE);
        }
        self.poll_interim(cx)
    }

    /// Says what comes before the answer. By whoever reads the body, and by the connection's task
    /// when that is over: a socket wakes only one of them.
    pub(super) fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.interim))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim.advance(written);
            if self.interim.is_empty() {
                self.interim = BytesMut::new();
                ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The body of a client's request.
#[derive(Debug)]
pub(crate) enum ClientBody {
    /// On a connection of HTTP/1.
    Line(LineBody),
    /// A stream of HTTP/2.
    Stream(StreamBody),
    /// One that was sent before, in part or whole, to an upstream that did not look at it.
    Again(Box<Again>),
    /// One that can be sent again, from its start.
    Kept(Kept),
    /// Either, with a copy for the shadow of what passes.
    Copied(Box<ClientBody>, Rc<RefCell<UploadCopy>>),
}

/// What was read of a body before, and what was not.
#[derive(Debug)]
pub(crate) struct Again {
    pub(crate) parts: VecDeque<Bytes>,
    /// Where they have come already.
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) rest: Option<ClientBody>,
}

impl Again {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        if let Some(part) = self.parts.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        if let Some(rest) = &mut self.rest {
            return Pin::new(rest).poll_frame(cx);
        }
        let trailers = self.trailers.take();
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        let over = |rest: &ClientBody| rest.is_end_stream();
        self.parts.is_empty() && self.trailers.is_none() && self.rest.as_ref().is_none_or(over)
    }
}

/// The copy of a request's body for the shadow.
#[derive(Debug)]
pub(crate) struct UploadCopy {
    kept: BytesMut,
    cap: usize,
    /// Nothing was left out.
    fits: bool,
    /// Its end has passed.
    ended: bool,
}

impl UploadCopy {
    pub(crate) fn new(cap: usize) -> Self {
        Self {
            kept: BytesMut::new(),
            cap,
            fits: true,
            ended: false,
        }
    }

    fn take(&mut self, data: &Bytes) {
        if self.fits && self.kept.len() + data.len() <= self.cap {
            self.kept.extend_from_slice(data);
        } else {
            self.fits = false;
            self.kept = BytesMut::new();
        }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.fits && self.ended
    }

    /// What there is of it; it is the caller's then.
    pub(crate) fn give(&mut self) -> Bytes {
        self.kept.split().freeze()
    }
}

/// The part of a connection that is one body.
#[derive(Debug)]
pub(crate) struct LineBody(pub(super) Rc<Line>);

impl Drop for LineBody {
    fn drop(&mut self) {
        // The connection's task sees what is left of the body.
        self.0.state().wake();
    }
}

impl ClientBody {
    pub(crate) fn again(again: Again) -> Self {
        Self::Again(Box::new(again))
    }

    /// Where hints go; a client of HTTP/1.0 knows none.
    pub(crate) fn hints(&self, version: Version) -> Option<Hints> {
        match self {
            Self::Line(LineBody(line)) if version == Version::HTTP_11 => Some(Hints::Line {
                line: Rc::downgrade(line),
                turn: line.state().turn,
            }),
            Self::Stream(stream) => Some(Hints::Stream(stream.hints())),
            _ => None,
        }
    }

    /// Bytes that it has in memory, or may get there, while nobody reads it.
    pub(crate) fn unread(&self, fields: &HeaderMap) -> u64 {
        match self {
            // No more is read of a connection than what came with the head.
            Self::Line(LineBody(line)) => line.state().input.len() as u64,
            Self::Stream(_) => {
                let told = fields
                    .get(CONTENT_LENGTH)
                    .and_then(|told| told.to_str().ok());
                let told = told.and_then(|told| told.parse().ok());
                let most = u64::from(super::streams::WINDOW);
                told.map_or(most, |told: u64| told.min(most))
            }
            Self::Again(again) => again.parts.iter().map(|part| part.len() as u64).sum(),
            Self::Kept(kept) => kept.unread(fields),
            Self::Copied(body, _) => body.unread(fields),
        }
    }

    /// The connection itself, for when both sides have changed their protocol. HTTP/2 has no such
    /// thing.
    pub(crate) fn half(&self) -> Option<ClientHalf> {
        let Self::Line(LineBody(line)) = self else {
            return None;
        };
        let (give, come) = oneshot::channel();
        line.state().half = Some(give);
        Some(ClientHalf(come))
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = ClientBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        match self.get_mut() {
            Self::Line(LineBody(line)) => {
                let state = &mut *line.state();
                let frame = state.poll_frame(cx);
                if frame.is_ready() && state.body == Left::Over {
                    // The connection's task may watch for the client's end again.
                    state.wake();
                }
                frame
            }
            Self::Stream(stream) => {
                let frame = ready!(stream.poll_frame(cx));
                Poll::Ready(frame.map(|frame| Ok(frame?)))
            }
            Self::Again(again) => again.poll_frame(cx),
            Self::Kept(kept) => kept.poll_frame(cx),
            Self::Copied(body, copy) => {
                let frame = ready!(Pin::new(&mut **body).poll_frame(cx));
                let mut copy = copy.borrow_mut();
                match &frame {
                    Some(Ok(frame)) => {
                        if let Some(data) = frame.data_ref() {
                            copy.take(data);
                        }
                        copy.ended = body.is_end_stream();
                    }
                    Some(Err(_)) => {}
                    None => copy.ended = true,
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Line(LineBody(line)) => line.state().body == Left::Over,
            Self::Stream(stream) => stream.is_end_stream(),
            Self::Again(again) => again.is_end_stream(),
            Self::Kept(kept) => kept.is_end_stream(),
            Self::Copied(body, _) => body.is_end_stream(),
        }
    }
}

/// Where an upstream's interim answers go: 103 (RFC 8297), and others that are not for the proxy
/// (RFC 9110 section 15.2). Of a client that has left, or whose answer has begun, they go nowhere.
#[derive(Debug, Clone)]
pub(crate) enum Hints {
    Line { line: Weak<Line>, turn: u64 },
    Stream(StreamHints),
}

impl Hints {
    /// Passes one on; without what is for one hop. What a client does not read in time it does not
    /// get: nobody is slower for a hint.
    pub(crate) fn tell(&self, status: StatusCode, fields: &mut HeaderMap) {
        headers::strip_hop_by_hop(fields);
        fields.remove(CONTENT_LENGTH);
        let (line, turn) = match self {
            Self::Line { line, turn } => (line, *turn),
            Self::Stream(stream) => return stream.tell(status, fields),
        };
        let Some(line) = line.upgrade() else {
            return;
        };
        let reason = status.canonical_reason().unwrap_or_default();
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
        for (name, value) in fields.iter() {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
        head.extend_from_slice(b"\r\n");
        let state = &mut *line.state();
        if state.turn == turn && state.interim.len() + head.len() <= INTERIM_MAX {
            state.interim.extend_from_slice(&head);
            state.wake();
        }
    }
}

/// A client's connection that is to come once its 101 is written.
#[derive(Debug)]
pub(crate) struct ClientHalf(oneshot::Receiver<(Io, Bytes, Open)>);

impl ClientHalf {
    /// The connection, with what the client has sent behind its request; it is open as long as the
    /// last of these lives. `None`: it has left.
    pub(crate) async fn come(self) -> Option<(Io, Bytes, Open)> {
        self.0.await.ok()
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, into),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
            Self::Gone => Poll::Ready(Ok(0)),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, pieces),
            Self::Gone => Poll::Ready(Ok(0)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // A socket has nothing to flush.
            Self::Plain(_) | Self::Gone => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }
}
