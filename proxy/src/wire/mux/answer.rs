//! An answer's body on a stream of HTTP/2.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::header::CONTENT_LENGTH;
use http::{Response, StatusCode};
use http_body::Frame;
use tokio::task::AbortHandle;
use tracing::debug;

use super::upload::Upload;
use super::{Busy, head};
use crate::deadline::Idle;
use crate::reply::Reply;
use crate::wire::{WireError, upload_idle};

/// The body of an answer, and the stream that it is on. Dropping it before its end resets that.
#[derive(Debug)]
pub(crate) struct MuxAnswer {
    body: RecvStream,
    phase: Phase,
    /// Bytes that are still to come, where the head says so.
    left: Option<u64>,
    /// An upload that outlasts the answer's head.
    upload: Option<AbortHandle>,
    since: Option<Instant>,
    /// Until the end.
    _busy: Busy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Data,
    Trailers,
    Over,
}

impl MuxAnswer {
    pub(super) fn new(
        (answer, since): (Response<RecvStream>, Option<Instant>),
        bodiless: bool,
        (busy, upload): (Busy, Option<(Upload, Option<Duration>)>),
        fields_max: usize,
    ) -> Result<(Reply<()>, Self), WireError> {
        let (mut parts, body) = answer.into_parts();
        if parts.headers.len() > fields_max {
            return Err(WireError::Answer("its head has too many fields"));
        }
        let status = parts.status;
        if status.is_informational() {
            return Err(WireError::Answer("its status is none"));
        }
        if status == StatusCode::NO_CONTENT {
            parts.headers.remove(CONTENT_LENGTH);
        }
        let bodiless =
            bodiless || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let left = match parts.headers.contains_key(CONTENT_LENGTH) && !bodiless {
            true => head::length(&parts.headers)?,
            false => None,
        };
        let phase = match body.is_end_stream() {
            true => Phase::Over,
            false => Phase::Data,
        };
        let answer = Self {
            body,
            phase,
            left,
            upload: upload.map(go_on),
            since,
            _busy: busy,
        };
        let response = Reply::with_fields(status, parts.headers, ());
        Ok((response, answer))
    }

    /// When the upload of the request was through, as far as it had got when its answer came; none where
    /// that was at once.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// The request was not through when the head of its answer came.
    pub(crate) fn goes_up(&self) -> bool {
        self.upload.is_some()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    pub(crate) fn left(&self) -> Option<u64> {
        match self.phase {
            Phase::Over => Some(0),
            Phase::Data | Phase::Trailers => self.left,
        }
    }

    /// The next part of the body; `None` at its end.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        while self.phase == Phase::Data {
            match ready!(self.body.poll_data(cx)) {
                None => self.phase = Phase::Trailers,
                Some(Ok(data)) => {
                    // Asked for again at once: who polls has room for it.
                    let _ = self.body.flow_control().release_capacity(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    if self.body.is_end_stream() {
                        self.phase = Phase::Over;
                    }
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
                Some(Err(error)) => return Poll::Ready(self.broken(error)),
            }
        }
        if self.phase == Phase::Over {
            return Poll::Ready(None);
        }
        match ready!(self.body.poll_trailers(cx)) {
            Ok(trailers) => {
                self.phase = Phase::Over;
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Err(error) => Poll::Ready(self.broken(error)),
        }
    }

    /// A reset with `NO_ERROR` ends the request's upload and not the answer, which has come whole
    /// before it (RFC 9113 section 8.1).
    fn broken(&mut self, error: h2::Error) -> Option<Result<Frame<Bytes>, WireError>> {
        let through = self.left.is_none_or(|left| left == 0);
        if error.is_reset() && error.reason() == Some(Reason::NO_ERROR) && through {
            self.phase = Phase::Over;
            return None;
        }
        Some(Err(WireError::Stream(error)))
    }
}

impl Drop for MuxAnswer {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take().filter(|_| !self.is_over()) {
            upload.abort();
        }
    }
}

/// An upload goes on by itself, as fast as the upstream takes it. Owned by the core; ends with the
/// client's body, with its stream, or with an answer that nobody wants any more.
fn go_on((mut upload, idle): (Upload, Option<Duration>)) -> AbortHandle {
    upload.settle();
    let task = tokio::task::spawn_local(async move {
        let mut idle = idle.map(Idle::new);
        let sent = poll_fn(|cx| {
            let sent = upload.poll(cx);
            match &mut idle {
                Some(idle) if sent.is_pending() => upload_idle(cx, idle, upload.pause()),
                _ => sent,
            }
        });
        if let Err(error) = sent.await {
            debug!(%error, "an upload broke off behind its answer's head");
        }
    });
    task.abort_handle()
}
