//! Every body that goes up or down. An enum and not a box: the common ones need no allocation,
//! and none of them leaves its core.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use outgrow_shadow::{Exchange, Tap};

use crate::pool::Lent;

/// A body on its way.
#[derive(Debug)]
pub(crate) enum Body {
    Empty,
    Full(Option<Bytes>),
    /// A client's, going up.
    Upload(Incoming),
    /// An upstream's, coming down.
    Answer(Box<Answer>),
}

/// An upstream's answer body, with what must happen at its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: Incoming,
    /// The connection, given back at the end; dropped (and so closed) when cut off.
    pub(crate) lent: Option<Lent>,
    pub(crate) copy: Option<Copy>,
}

/// The copy of an answer for the shadow.
pub(crate) struct Copy {
    pub(crate) tap: std::sync::Arc<dyn Tap>,
    /// Taken at the end; its body is filled then.
    pub(crate) exchange: Option<Box<Exchange>>,
    pub(crate) kept: BytesMut,
    pub(crate) whole: bool,
}

impl std::fmt::Debug for Copy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copy")
            .field("kept", &self.kept.len())
            .finish_non_exhaustive()
    }
}

impl Copy {
    fn take(&mut self, data: &Bytes) {
        let cap = self
            .exchange
            .as_ref()
            .map_or(0, |exchange| exchange.ticket.body_cap());
        if self.whole && self.kept.len() + data.len() <= cap {
            self.kept.extend_from_slice(data);
        } else {
            self.whole = false;
            self.kept.clear();
        }
    }

    fn finish(&mut self, complete: bool) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.finished = SystemTime::now();
            exchange.response.whole = self.whole && complete;
            exchange.response.body = self.kept.split().freeze();
            self.tap.offer(*exchange);
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.finish(false);
    }
}

impl Answer {
    fn finish(&mut self) {
        if let Some(lent) = self.lent.take() {
            lent.give_back();
        }
        if let Some(copy) = &mut self.copy {
            copy.finish(true);
        }
    }
}

impl Body {
    /// Wraps an answer; one without a body ends here and now.
    pub(crate) fn answer(mut answer: Answer) -> Self {
        if answer.body.is_end_stream() {
            answer.finish();
            return Self::Empty;
        }
        Self::Answer(Box::new(answer))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Upload(body) => Pin::new(body).poll_frame(cx),
            Self::Answer(answer) => {
                let frame = ready!(Pin::new(&mut answer.body).poll_frame(cx));
                match &frame {
                    Some(Ok(frame)) => {
                        if let (Some(copy), Some(data)) = (&mut answer.copy, frame.data_ref()) {
                            copy.take(data);
                        }
                        if answer.body.is_end_stream() {
                            answer.finish();
                        }
                    }
                    Some(Err(_)) => answer.lent = None,
                    None => answer.finish(),
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Upload(body) => body.is_end_stream(),
            Self::Answer(answer) => answer.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Upload(body) => body.size_hint(),
            Self::Answer(answer) => answer.body.size_hint(),
        }
    }
}
