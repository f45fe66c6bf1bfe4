//! A request's body on its way up a stream of HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::Body as _;

use crate::headers::Apart;
use crate::inbound::{Again, ClientBody, Past};
use crate::wire::times::Pause;
use crate::wire::{WireError, may_follow};

/// Bytes of a body that are kept until its answer begins, so that it can be sent again should the
/// upstream say that it has not looked at it. Calls are mostly shorter.
const KEPT_MAX: usize = 64 * 1_024;

/// What is still to be sent of one body.
#[derive(Debug)]
pub(super) struct Upload {
    to: SendStream<Bytes>,
    /// `None` when all of it is sent, or no more of it is wanted.
    body: Option<ClientBody>,
    kept: Option<Past>,
    apart: Option<Apart>,
    /// Bytes that the body may still bring.
    room: u64,
    /// All that has come of the body is sent.
    starves: bool,
    /// Some of it was sent since somebody last asked.
    moved: bool,
}

impl Upload {
    pub(super) fn new(
        to: SendStream<Bytes>,
        (body, body_max): (ClientBody, u64),
        apart: Option<Apart>,
    ) -> Self {
        Self {
            to,
            apart,
            body: Some(body),
            kept: Some(Past::new(KEPT_MAX)),
            room: body_max,
            starves: false,
            moved: false,
        }
    }

    /// What it waits for, and whether some of it was sent since this was last asked.
    pub(super) fn pause(&mut self) -> (Pause, bool) {
        let moved = std::mem::take(&mut self.moved);
        let pause = match (&self.body, self.starves) {
            (None, _) => Pause::Over,
            (Some(_), true) => Pause::Client,
            (Some(_), false) => Pause::Upstream,
        };
        (pause, moved)
    }

    pub(super) fn is_through(&self) -> bool {
        self.body.is_none()
    }

    /// From now on nothing can be taken back.
    pub(super) fn settle(&mut self) {
        self.kept = None;
    }

    /// The body as it was, if all of it is still there.
    pub(super) fn back(self) -> Option<ClientBody> {
        let (parts, trailers) = self.kept?.into_parts();
        Some(ClientBody::again(Again {
            parts,
            trailers,
            rest: self.body,
        }))
    }

    /// Sends what can be sent; ready when no more will be.
    ///
    /// # Errors
    /// [`WireError::Upload`] when the client's body breaks off: the request must not look whole.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        while let Some(body) = &mut self.body {
            if self.to.poll_reset(cx).is_ready() {
                // Its answer may be there all the same.
                self.body = None;
                break;
            }
            self.starves = false;
            // Nothing is taken of the client before there is room for any of it.
            self.to.reserve_capacity(1);
            if self.to.capacity() == 0 {
                match ready!(self.to.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    None | Some(Err(_)) => self.body = None,
                }
                continue;
            }
            let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
                self.starves = true;
                return Poll::Pending;
            };
            match frame {
                None => self.send(Bytes::new(), true),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let ends = body.is_end_stream();
                        let Some(room) = self.room.checked_sub(data.len() as u64) else {
                            return Poll::Ready(Err(self.cancel(WireError::UploadLong)));
                        };
                        self.room = room;
                        if ends || !data.is_empty() {
                            self.send(data, ends);
                        }
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.end(trailers);
                        }
                    }
                },
                Some(Err(error)) => {
                    return Poll::Ready(Err(self.cancel(WireError::Upload(error))));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The upstream must not take what it has for the whole.
    fn cancel(&mut self, error: WireError) -> WireError {
        self.to.send_reset(Reason::CANCEL);
        self.body = None;
        error
    }

    fn send(&mut self, data: Bytes, ends: bool) {
        self.moved = true;
        if self.kept.as_mut().is_some_and(|kept| !kept.take(&data)) {
            self.kept = None;
        }
        // Refused when the stream is closed: its answer, or its absence, says why.
        let refused = self.to.send_data(data, ends).is_err();
        if ends || refused {
            self.body = None;
        }
    }

    fn end(&mut self, mut trailers: HeaderMap) {
        let odd: Vec<_> = trailers
            .keys()
            .filter(|name| {
                let theirs = self.apart.as_ref().is_some_and(|apart| apart.has(name));
                theirs || !may_follow(name)
            })
            .cloned()
            .collect();
        for name in odd {
            trailers.remove(name);
        }
        if let Some(kept) = &mut self.kept {
            kept.trailed(trailers.clone());
        }
        let _ = self.to.send_trailers(trailers);
        self.body = None;
    }
}
