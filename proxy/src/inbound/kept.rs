//! A request's body that is kept while it goes up, so that it can be sent once more from its start.
//! Nothing waits for that: each part goes on as it comes, and what is kept of it is bounded.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame};

use super::line::{ClientBody, ClientBodyError};

/// Shorter parts are put together: each by itself would keep all that was read with it, so that a
/// client which sends single bytes would hold a thousand times as much as is counted.
const SHORT: usize = 16 * 1_024;

/// What has passed of a body.
#[derive(Debug)]
pub(crate) struct Past {
    parts: VecDeque<Bytes>,
    /// The last of it, in short parts.
    short: BytesMut,
    bytes: usize,
    most: usize,
    trailers: Option<HeaderMap>,
}

impl Past {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            parts: VecDeque::new(),
            short: BytesMut::new(),
            bytes: 0,
            most,
            trailers: None,
        }
    }

    /// Whether there was room for it; else nothing of this is of use any more.
    pub(crate) fn take(&mut self, data: &Bytes) -> bool {
        self.bytes += data.len();
        if self.bytes > self.most {
            return false;
        }
        if data.len() < SHORT {
            self.short.extend_from_slice(data);
        } else {
            self.close();
            self.parts.push_back(data.clone());
        }
        true
    }

    pub(crate) fn trailed(&mut self, trailers: HeaderMap) {
        self.trailers = Some(trailers);
    }

    fn close(&mut self) {
        if !self.short.is_empty() {
            self.parts.push_back(self.short.split().freeze());
        }
    }

    pub(crate) fn into_parts(mut self) -> (VecDeque<Bytes>, Option<HeaderMap>) {
        self.close();
        (self.parts, self.trailers)
    }
}

/// A body that can be had again. Who was given it last reads it; for the others it has broken off.
#[derive(Debug)]
pub(crate) struct Kept {
    shared: Rc<RefCell<Shared>>,
    turn: u32,
}

#[derive(Debug)]
struct Shared {
    body: ClientBody,
    /// `None` when it cannot be had again.
    past: Option<Past>,
    /// Whose it is.
    turn: u32,
    /// What that one gets before the rest of the body.
    parts: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    /// Who waits for more of it.
    reader: Option<Waker>,
}

impl Kept {
    /// Nothing of the body may have been read.
    pub(crate) fn new(body: ClientBody, most: usize) -> Self {
        let shared = Shared {
            body,
            past: Some(Past::new(most)),
            turn: 0,
            parts: VecDeque::new(),
            trailers: None,
            reader: None,
        };
        Self {
            shared: Rc::new(RefCell::new(shared)),
            turn: 0,
        }
    }

    /// All that has passed of it is still there.
    pub(crate) fn is_whole(&self) -> bool {
        self.shared.borrow().past.is_some()
    }

    /// The body from its start. One that is not whole has broken off for whoever reads this.
    pub(crate) fn again(&self) -> Self {
        let shared = &mut *self.shared.borrow_mut();
        shared.turn += 1;
        if let Some(reader) = shared.reader.take() {
            // An upload behind an answer that nobody wants: it is to see that it is over.
            reader.wake();
        }
        let turn = match &mut shared.past {
            None => 0,
            Some(past) => {
                past.close();
                shared.parts.clone_from(&past.parts);
                shared.trailers.clone_from(&past.trailers);
                shared.turn
            }
        };
        Self {
            shared: self.shared.clone(),
            turn,
        }
    }

    /// From now on it cannot be had again, and nothing more of it is kept.
    pub(crate) fn settle(&self) {
        let shared = &mut *self.shared.borrow_mut();
        (shared.past, shared.reader) = (None, None);
    }

    /// Bytes of it in memory, or that may come there, while nobody reads it.
    pub(super) fn unread(&self, fields: &HeaderMap) -> u64 {
        let shared = self.shared.borrow();
        let past = shared.past.as_ref().map_or(0, |past| past.bytes as u64);
        past + shared.body.unread(fields)
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        let shared = &mut *self.shared.borrow_mut();
        if self.turn != shared.turn {
            return Poll::Ready(Some(Err(ClientBodyError::Elsewhere)));
        }
        if let Some(part) = shared.parts.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        if let Some(trailers) = shared.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let polled = Pin::new(&mut shared.body).poll_frame(cx);
        if polled.is_pending() && shared.past.is_some() {
            shared.reader = Some(cx.waker().clone());
        }
        let frame = ready!(polled);
        shared.passes(frame.as_ref());
        Poll::Ready(frame)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let shared = self.shared.borrow();
        let own = shared.parts.is_empty() && shared.trailers.is_none();
        self.turn == shared.turn && own && shared.body.is_end_stream()
    }
}

impl Shared {
    fn passes(&mut self, frame: Option<&Result<Frame<Bytes>, ClientBodyError>>) {
        let Some(past) = &mut self.past else {
            return;
        };
        let stays = match frame {
            None => true,
            Some(Err(_)) => false,
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    past.trailed(trailers.clone());
                }
                frame.data_ref().is_none_or(|data| past.take(data))
            }
        };
        if !stays {
            self.past = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::inbound::{Again, UploadCopy};

    fn body(parts: &[&'static [u8]]) -> ClientBody {
        ClientBody::again(Again {
            parts: parts.iter().map(|part| Bytes::from_static(part)).collect(),
            trailers: None,
            rest: None,
        })
    }

    /// Up to so many parts of it; `None` where it breaks off.
    fn read(body: &mut Kept, most: usize) -> Option<Vec<u8>> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut all = Vec::new();
        for _ in 0..most {
            match body.poll_frame(&mut cx) {
                Poll::Ready(Some(Ok(frame))) => all.extend_from_slice(frame.data_ref()?),
                Poll::Ready(None) => break,
                _ => return None,
            }
        }
        Some(all)
    }

    #[test]
    fn a_copy_sees_each_byte_once() {
        let copy = Rc::new(RefCell::new(UploadCopy::new(100)));
        let inner = ClientBody::Copied(Box::new(body(&[b"one", b"two", b"three"])), copy.clone());
        let kept = Kept::new(inner, 100);
        let mut first = kept.again();
        assert_eq!(read(&mut first, 2).unwrap(), b"onetwo");
        let mut second = kept.again();
        assert_eq!(read(&mut first, 1), None, "it is not its any more");
        assert_eq!(read(&mut second, 9).unwrap(), b"onetwothree");
        assert!(second.is_end_stream() && copy.borrow().is_whole());
        let mut third = kept.again();
        kept.settle();
        assert_eq!(
            read(&mut third, 9).unwrap(),
            b"onetwothree",
            "it is given all the same"
        );
        assert_eq!(
            read(&mut kept.again(), 9),
            None,
            "nothing is there any more"
        );
        assert_eq!(copy.borrow_mut().give(), "onetwothree");
    }

    #[test]
    fn what_is_too_long_is_not_begun_again() {
        let kept = Kept::new(body(&[b"12345", b"67890", b"x"]), 10);
        let mut first = kept.again();
        assert_eq!(read(&mut first, 2).unwrap().len(), 10);
        assert!(kept.is_whole());
        assert_eq!(kept.unread(&HeaderMap::new()), 11);
        assert_eq!(read(&mut first, 9).unwrap(), b"x", "it goes on");
        assert!(!kept.is_whole());
        assert_eq!(kept.unread(&HeaderMap::new()), 0);
        assert_eq!(
            read(&mut kept.again(), 9),
            None,
            "and never without its start"
        );
    }

    /// A part holds all that was read with it.
    #[test]
    fn short_parts_are_put_together() {
        let mut past = Past::new(100_000);
        let long = Bytes::from(vec![b'y'; SHORT]);
        let read = Bytes::from(vec![b'x'; 1_000]);
        for at in 0..1_000 {
            assert!(past.take(&read.slice(at..at + 1)));
        }
        assert!(past.take(&long) && past.take(&read));
        assert!(read.is_unique(), "nothing is held by a part of it");
        let (parts, _) = past.into_parts();
        assert_eq!(
            parts.iter().map(Bytes::len).collect::<Vec<_>>(),
            [1_000, SHORT, 1_000]
        );
        assert_eq!(parts[1].as_ptr(), long.as_ptr(), "a long one is not copied");
    }
}
