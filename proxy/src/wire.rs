//! One HTTP/1.1 connection to an upstream, driven by the request that uses it.
//!
//! It has no task of its own: the request's task sends, waits and reads, so nothing is woken but
//! that task, and a request that is dropped takes its connection with it. A connection at rest
//! belongs to the pool.

pub(crate) mod head;
mod mux;
mod stream;
mod times;
mod upload;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode, request};
use http_body::Frame;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;
use tracing::debug;

use crate::chunks::{BadChunk, Step};
use crate::deadline::{Deadline, Idle};
use crate::headers;
use crate::inbound::{ClientBody, ClientBodyError, Hints};
use crate::reply::Reply;
use crate::spelling::FieldNames;
use head::{Framing, Head};
pub(crate) use mux::{Mux, MuxAnswer, Unanswered};
pub(crate) use stream::Stream;
use stream::{ReadHalf, WriteHalf};
pub(crate) use times::Times;
use times::{Pause, Watch};
use upload::Upload;
pub(crate) use upload::may_follow;

/// Read at once while a head is awaited: most answers are shorter, and one that came whole goes down
/// in one write.
const READ_SMALL: usize = 16 * 1_024;

/// Read at once inside a long body; not before so much has come that more may be waiting, so that
/// a stream of short events does not hold as much.
const READ_LARGE: usize = 64 * 1_024;

/// Bytes of an answer's head.
const HEAD_MAX: usize = 400 * 1_024;

/// Why a connection failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no answer in time")]
    Late,
    #[error("the answer is malformed: {0}")]
    Answer(&'static str),
    #[error("the answer is malformed: {0}")]
    Chunk(#[from] BadChunk),
    #[error("the answer broke off")]
    Short,
    #[error("the client's body broke off")]
    Upload(#[source] ClientBodyError),
    #[error("the client's body is not as long as it says")]
    UploadLength,
    #[error("the client's body did not come in time")]
    UploadLate,
    #[error("the body is longer than a request's may be here")]
    UploadLong,
    /// On a connection of HTTP/2.
    #[error("{0}")]
    Stream(h2::Error),
    #[error("HTTP/2 has no place for {0}")]
    Head(&'static str),
}

impl WireError {
    /// The client's doing, not the upstream's.
    pub(crate) fn is_clients(&self) -> bool {
        matches!(
            self,
            Self::Upload(_)
                | Self::UploadLength
                | Self::UploadLate
                | Self::UploadLong
                | Self::Head(_)
        )
    }
}

/// The socket; in parts while an upload outlasts the head of its answer.
#[derive(Debug)]
enum Io {
    Whole(Stream),
    Parted(ReadHalf),
    Gone,
}

/// A connection, and the request on it.
#[derive(Debug)]
pub(crate) struct Wire {
    io: Io,
    input: BytesMut,
    /// Bytes of the last read that brought any, since the last request was sent.
    filled: usize,
    upload: Upload,
    field_names: FieldNames,
    framing: Framing,
    stays: bool,
    deadline: Deadline,
    /// When the upload of the request was through, where that was not at once.
    since: Option<Instant>,
    /// When it was last put to rest.
    rested: Instant,
    /// How long it may be, as the upstream says.
    rests: Option<Duration>,
}

impl Wire {
    /// Of a connection that was just made.
    pub(crate) fn new(stream: Stream, now: Instant) -> Self {
        Self {
            io: Io::Whole(stream),
            input: BytesMut::new(),
            filled: 0,
            upload: Upload::default(),
            field_names: FieldNames::Lower,
            framing: Framing::Over,
            stays: true,
            deadline: Deadline::new(now),
            since: None,
            rested: now,
            rests: None,
        }
    }

    /// To an upstream that wants names of fields spelled like this.
    pub(crate) fn spelling(mut self, names: FieldNames) -> Self {
        self.field_names = names;
        self
    }

    /// Whether a connection at rest can still be used. One that was closed, or on which the
    /// upstream spoke unasked, cannot.
    pub(crate) fn is_alive(&mut self) -> bool {
        match &mut self.io {
            Io::Whole(stream) => stream.is_quiet(),
            Io::Parted(_) | Io::Gone => false,
        }
    }

    /// Sends a request, and waits for the head of its answer. Dropping it leaves the connection
    /// in the middle of things: it must be dropped then, too.
    ///
    /// # Errors
    /// [`WireError::Late`] and [`WireError::UploadLate`] by `times`; else what failed.
    pub(crate) async fn ask(
        &mut self,
        parts: &request::Parts,
        body: Option<ClientBody>,
        times: &Times,
        (fields_max, hints): (usize, Option<&Hints>),
    ) -> Result<Reply<()>, WireError> {
        self.filled = 0;
        let names = self.field_names;
        self.upload.begin(parts, (body, times.body_max), names)?;
        self.deadline.set(times.until);
        let mut watch = Watch::new(times);
        let head = poll_fn(|cx| {
            let head = self.poll_head(cx, &parts.method, (fields_max, hints));
            if head.is_ready() {
                return head;
            }
            if let Some(until) = watch.look(self.upload.pause()) {
                self.deadline.set(until);
            }
            self.deadline.poll(cx).map(|()| Err(watch.passed()))
        });
        let mut head = head.await?;
        self.since = watch.since();
        let switches = head.response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switches && !headers::is_as_asked(&parts.headers, head.response.headers()) {
            return Err(WireError::Answer(
                "it changes to a protocol that nobody asked for",
            ));
        }
        self.framing = head.framing;
        self.stays = head.stays;
        self.rests = head.rests.or(self.rests);
        if !self.upload.is_through() {
            self.part(times.upload_idle);
        }
        Ok(head.response)
    }

    /// Anything has come since the last request was sent.
    pub(crate) fn has_heard(&self) -> bool {
        self.filled > 0
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        (fields_max, hints): (usize, Option<&Hints>),
    ) -> Poll<Result<Head, WireError>> {
        if let Io::Whole(stream) = &mut self.io {
            // Both ways at once: an answer may come before the request is through.
            if let Poll::Ready(ended) = self.upload.poll(cx, stream) {
                ended?;
            }
        }
        loop {
            match ready!(self.poll_fill(cx, READ_SMALL)) {
                Ok(0) => return Poll::Ready(Err(self.broken(None))),
                Ok(filled) => self.filled = filled,
                Err(error) => return Poll::Ready(Err(self.broken(Some(error)))),
            }
            if let Some(head) = head::read(&mut self.input, method, fields_max, hints)? {
                return Poll::Ready(Ok(head));
            }
            if self.input.len() > HEAD_MAX {
                return Poll::Ready(Err(WireError::Answer("its head is too long")));
            }
        }
    }

    /// What says most about a broken connection.
    fn broken(&mut self, error: Option<io::Error>) -> WireError {
        let refused = self.upload.take_refusal();
        refused.or(error).map_or(WireError::Short, WireError::Io)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<io::Result<usize>> {
        self.input.reserve(want);
        poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input)
    }

    /// Lets an upload that outlasts its answer's head go on by itself, as slow as the upstream
    /// takes it; the answer may even end before. The connection is used for nothing else then.
    fn part(&mut self, idle: Option<Duration>) {
        self.stays = false;
        if let Io::Whole(stream) = std::mem::replace(&mut self.io, Io::Gone) {
            let (read, write) = stream.into_split();
            self.io = Io::Parted(read);
            let upload = std::mem::take(&mut self.upload);
            // Owned by the core; ends with the client's body or with either connection.
            tokio::task::spawn_local(finish(upload, write, idle));
        }
    }

    /// The next part of the answer's body; `None` at its end.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        loop {
            match self.decode() {
                Ok(Some(Step::Data(data))) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Some(Step::End(trailers))) => {
                    self.framing = Framing::Over;
                    let frame = trailers.map(|trailers| Ok(Frame::trailers(trailers)));
                    return Poll::Ready(frame);
                }
                Ok(Some(Step::More)) => {}
                Ok(None) => return Poll::Ready(None),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            let want = if self.filled < READ_SMALL {
                READ_SMALL
            } else {
                READ_LARGE
            };
            match ready!(self.poll_fill(cx, want)) {
                Ok(0) if self.framing == Framing::ToTheEnd => self.framing = Framing::Over,
                Ok(0) => return Poll::Ready(Some(Err(WireError::Short))),
                Ok(filled) => self.filled = filled,
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    /// The next step by what was read already; `None` at the body's end.
    fn decode(&mut self) -> Result<Option<Step>, WireError> {
        match &mut self.framing {
            Framing::Over => Ok(None),
            Framing::Chunked(chunks) => Ok(chunks.step(&mut self.input).map(Some)?),
            _ if self.input.is_empty() => Ok(Some(Step::More)),
            Framing::ToTheEnd => Ok(Some(Step::Data(self.input.split().freeze()))),
            Framing::Length(left) => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX);
                let data = self.input.split_to(most.min(self.input.len())).freeze();
                *left -= data.len() as u64;
                if *left == 0 {
                    self.framing = Framing::Over;
                }
                Ok(Some(Step::Data(data)))
            }
        }
    }

    /// Ready when the upstream has said nothing of the answer's body for too long.
    pub(crate) fn poll_idle(&mut self, idle: &mut Idle, cx: &mut Context<'_>) -> Poll<()> {
        idle.poll_by(&mut self.deadline, cx)
    }

    /// When the upload of the request was through, as far as it had got when its answer came; none where
    /// that was at once.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// The request was not through when the head of its answer came.
    pub(crate) fn goes_up(&self) -> bool {
        !matches!(self.io, Io::Whole(_))
    }

    /// The answer's body has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.framing == Framing::Over
    }

    /// The body ends with the connection.
    pub(crate) fn ends_unsaid(&self) -> bool {
        self.framing == Framing::ToTheEnd
    }

    /// Bytes that are still to come, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match self.framing {
            Framing::Over => Some(0),
            Framing::Length(left) => Some(left),
            Framing::Chunked(_) | Framing::ToTheEnd => None,
        }
    }

    /// A whole body that came together with its head: the usual short answer.
    pub(crate) fn take_whole(&mut self) -> Option<Bytes> {
        match self.framing {
            Framing::Length(left) if left <= self.input.len() as u64 => match self.decode() {
                Ok(Some(Step::Data(data))) => Some(data),
                _ => None,
            },
            _ => None,
        }
    }

    /// Nothing of the last request is left: the connection may carry the next one.
    pub(crate) fn is_reusable(&self) -> bool {
        self.stays && self.is_over() && self.input.is_empty() && self.upload.is_through()
    }

    /// Makes it ready to lie in the pool: a long body's memory is not kept for the next one.
    pub(crate) fn rest(&mut self, now: Instant) {
        self.rested = now;
        self.upload.rest();
        if self.input.capacity() > READ_SMALL {
            self.input = BytesMut::new();
        }
    }

    /// How long it has rested.
    pub(crate) fn rested(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.rested)
    }

    /// Whether its upstream is about to close it, having rested for so long.
    pub(crate) fn has_rested(&self, for_so_long: Duration) -> bool {
        self.rests.is_some_and(|most| for_so_long > most)
    }

    /// The bare connection behind a 101, with what the upstream has said on it already.
    pub(crate) fn into_tunnel(self) -> Option<(Stream, Bytes)> {
        match self.io {
            Io::Whole(stream) => Some((stream, self.input.freeze())),
            Io::Parted(_) | Io::Gone => None,
        }
    }
}

async fn finish(mut upload: Upload, mut to: WriteHalf, idle: Option<Duration>) {
    let mut idle = idle.map(Idle::new);
    let sent = poll_fn(|cx| {
        let sent = upload.poll(cx, &mut to);
        match &mut idle {
            Some(idle) if sent.is_pending() => upload_idle(cx, idle, upload.pause()),
            _ => sent,
        }
    });
    match sent.await {
        // Its end is no end of the connection: the answer may still be coming.
        Ok(()) => to.forget(),
        Err(error) => debug!(%error, "an upload broke off behind its answer's head"),
    }
}

/// Ready when the client has sent nothing of an upload for too long.
fn upload_idle(
    cx: &mut Context<'_>,
    idle: &mut Idle,
    (pause, moved): (Pause, bool),
) -> Poll<Result<(), WireError>> {
    if moved || pause != Pause::Client {
        idle.ends();
    }
    match pause {
        Pause::Client => idle.poll(cx).map(|()| Err(WireError::UploadLate)),
        Pause::Upstream | Pause::Over => Poll::Pending,
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Whole(stream) => Pin::new(stream).poll_read(cx, into),
            Io::Parted(read) => Pin::new(read).poll_read(cx, into),
            Io::Gone => Poll::Ready(Ok(())),
        }
    }
}
