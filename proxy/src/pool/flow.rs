//! What an answer comes on: a connection of HTTP/1.1, or a stream of HTTP/2.

use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::Frame;

use crate::deadline::Idle;
use crate::wire::{MuxAnswer, Wire, WireError};

#[derive(Debug)]
pub(crate) enum Flow {
    Line(Box<Wire>),
    Stream(Box<MuxAnswer>),
}

impl Flow {
    /// The next part of the answer's body; `None` at its end.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        match self {
            Self::Line(wire) => wire.poll_frame(cx),
            Self::Stream(answer) => answer.poll_frame(cx),
        }
    }

    /// Ready when the upstream has said nothing of the answer's body for too long.
    pub(crate) fn poll_idle(&mut self, idle: &mut Idle, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Line(wire) => wire.poll_idle(idle, cx),
            Self::Stream(_) => idle.poll(cx),
        }
    }

    /// When the upload of the request was through; none where that was at once.
    pub(crate) fn since(&self) -> Option<Instant> {
        match self {
            Self::Line(wire) => wire.since(),
            Self::Stream(answer) => answer.since(),
        }
    }

    /// The request is still on its way up.
    pub(crate) fn goes_up(&self) -> bool {
        match self {
            Self::Line(wire) => wire.goes_up(),
            Self::Stream(answer) => answer.goes_up(),
        }
    }

    /// The answer's body has ended.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::Line(wire) => wire.is_over(),
            Self::Stream(answer) => answer.is_over(),
        }
    }

    /// Whether the end of its connection is the only end that the body has: one that breaks off
    /// looks the same.
    pub(crate) fn ends_unsaid(&self) -> bool {
        match self {
            Self::Line(wire) => wire.ends_unsaid(),
            Self::Stream(_) => false,
        }
    }

    /// Bytes that are still to come, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match self {
            Self::Line(wire) => wire.left(),
            Self::Stream(answer) => answer.left(),
        }
    }

    /// A whole body that came together with its head.
    pub(crate) fn take_whole(&mut self) -> Option<Bytes> {
        match self {
            Self::Line(wire) => wire.take_whole(),
            Self::Stream(_) => None,
        }
    }
}
