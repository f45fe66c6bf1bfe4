//! A client's socket as `h2` reads and writes it.
//!
//! A client is told to leave by two GOAWAYs (RFC 9113 section 6.8): the first refuses nothing, the second,
//! behind a PING and its answer, all streams that have not come until then. But a client answers the PING
//! ahead of the heads that it has put down to be sent, so that streams opened before it knew would be
//! refused. So the answer to that PING is held back for a moment, and the streams behind it come first.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::line::Io;
use crate::deadline::Deadline;

/// What a client may still have put down when it answers.
const GRACE: Duration = Duration::from_millis(200);
const HEADER: usize = 9;
/// The answer to the PING that `h2` sends when a connection is to end: length, type, flags, stream, and
/// what `h2` has it say.
const PONG: [u8; 17] = [
    0, 0, 8, 6, 1, 0, 0, 0, 0, 0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54,
];
/// Of what a client begins with.
const PREFACE: u32 = 24;

/// What whoever serves a connection knows of its socket.
#[derive(Debug, Default)]
pub(super) struct Manners {
    /// The client has sent something since this was looked at.
    pub(super) heard: Cell<bool>,
    leaves: Cell<bool>,
    io: RefCell<Option<Io>>,
}

impl Manners {
    /// From now on, the answer to the PING of the end is waited with.
    pub(super) fn leave(&self) {
        self.leaves.set(true);
    }

    /// The socket, when `h2` has done with it.
    pub(super) fn given_back(&self) -> Option<Io> {
        self.io.borrow_mut().take()
    }
}

/// Where a frame ends, in what a client has sent.
#[derive(Debug)]
struct Frames {
    /// Of the payload of the present frame.
    left: u32,
    /// The beginning of the next one, of which there is not more yet.
    header: [u8; HEADER],
    known: usize,
}

impl Frames {
    /// Goes over bytes as they are passed on.
    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let left = usize::try_from(self.left).unwrap_or(usize::MAX);
            let payload = left.min(bytes.len());
            self.left -= u32::try_from(payload).unwrap_or(self.left);
            bytes = &bytes[payload..];
            let more = (HEADER - self.known).min(bytes.len());
            self.header[self.known..self.known + more].copy_from_slice(&bytes[..more]);
            self.known += more;
            bytes = &bytes[more..];
            if self.known == HEADER {
                self.known = 0;
                let [a, b, c, ..] = self.header;
                self.left = u32::from_be_bytes([0, a, b, c]);
            }
        }
    }

    /// Behind a whole frame.
    fn is_between(&self) -> bool {
        self.left == 0 && self.known == 0
    }

    /// How many of these bytes come before the next frame that begins among them.
    fn rest(&self, bytes: &[u8]) -> usize {
        let header = if self.known > 0 {
            HEADER - self.known
        } else {
            0
        };
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        bytes.len().min(left.max(header))
    }
}

#[derive(Debug)]
pub(super) struct Framed {
    io: Io,
    /// What was read, and not passed on yet.
    read: BytesMut,
    frames: Frames,
    /// Until when the answer is held back, once it has come.
    held: Option<Deadline>,
    /// It was held back, or there is nothing to wait with.
    over: bool,
    manners: Rc<Manners>,
}

impl Framed {
    /// `read` was read of it by somebody else.
    pub(super) fn new(io: Io, read: Bytes, manners: Rc<Manners>) -> Self {
        Self {
            io,
            read: read.into(),
            frames: Frames {
                left: PREFACE,
                header: [0; HEADER],
                known: 0,
            },
            held: None,
            over: false,
            manners,
        }
    }

    /// How much of what was read may go on.
    fn passes(&mut self) -> usize {
        if !self.manners.leaves.get() || self.over {
            return self.read.len();
        }
        if !self.frames.is_between() {
            return self.frames.rest(&self.read);
        }
        let seen = self.read.len().min(PONG.len());
        if self.read[..seen] != PONG[..seen] {
            return seen.min(HEADER);
        }
        if seen == PONG.len() && self.held.is_none() {
            self.read.advance(seen);
            self.held = Some(Deadline::new(now() + GRACE));
            return self.passes();
        }
        0
    }

    /// Takes up again what was held back, when it is time and between two frames.
    fn release(&mut self, cx: &mut Context<'_>) {
        if let Some(held) = &mut self.held
            && held.poll(cx).is_ready()
            && self.frames.is_between()
        {
            self.held = None;
            self.over = true;
            let mut all = BytesMut::from(&PONG[..]);
            all.extend_from_slice(&self.read);
            self.read = all;
        }
    }
}

/// Of the clock that timers go by.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl AsyncRead for Framed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.release(cx);
        loop {
            let most = this.passes().min(into.remaining());
            if most > 0 {
                let bytes = this.read.split_to(most);
                this.frames.pass(&bytes);
                into.put_slice(&bytes);
                if this.read.is_empty() {
                    // A client at rest has no memory here.
                    this.read = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if !this.manners.leaves.get() || this.over {
                // Nothing of ours is in between.
                let before = into.filled().len();
                ready!(Pin::new(&mut this.io).poll_read(cx, into))?;
                this.frames.pass(&into.filled()[before..]);
                this.manners.heard.set(true);
                return Poll::Ready(Ok(()));
            }
            let Poll::Ready(count) = poll_read_buf(Pin::new(&mut this.io), cx, &mut this.read)
            else {
                // What has just been held back wakes this one, too.
                this.release(cx);
                if this.over {
                    continue;
                }
                return Poll::Pending;
            };
            if count? == 0 {
                // It says no more, and so nothing is waited for.
                this.over = true;
            }
            this.manners.heard.set(true);
        }
    }
}

impl AsyncWrite for Framed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Drop for Framed {
    fn drop(&mut self) {
        let io = std::mem::replace(&mut self.io, Io::Gone);
        *self.manners.io.borrow_mut() = Some(io);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair(manners: &Rc<Manners>, read: &'static [u8]) -> (TcpStream, Framed) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        let io = Io::Plain(accepted.unwrap().0);
        let framed = Framed::new(io, Bytes::from_static(read), manners.clone());
        (client.unwrap(), framed)
    }

    fn frame(size: usize) -> Vec<u8> {
        let mut frame = vec![0; HEADER + size];
        frame[..3].copy_from_slice(&u32::try_from(size).unwrap().to_be_bytes()[1..]);
        frame
    }

    async fn read(framed: &mut Framed, size: usize) -> Vec<u8> {
        let mut all = vec![0; size];
        framed.read_exact(&mut all).await.unwrap();
        all
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_to_the_last_ping_comes_behind_what_was_put_down() {
        let manners = Rc::new(Manners::default());
        let (mut client, mut framed) = pair(&manners, &[b'p'; 20]).await;
        let (long, short) = (frame(300), frame(1));
        // Not yet: somebody who says it unasked is heard at once.
        client.write_all(&[b'p'; 4]).await.unwrap();
        client.write_all(&PONG).await.unwrap();
        client.write_all(&long[..100]).await.unwrap();
        let seen = read(&mut framed, 24 + PONG.len() + 100).await;
        assert_eq!(seen[24..24 + PONG.len()], PONG);
        manners.leave();
        client.write_all(&long[100..]).await.unwrap();
        client.write_all(&PONG).await.unwrap();
        client.write_all(&short).await.unwrap();
        let begun = now();
        let seen = read(&mut framed, 209 + short.len()).await;
        assert_eq!(seen, [&long[100..], &short].concat());
        assert!(now() - begun < GRACE, "others do not wait");
        assert_eq!(read(&mut framed, PONG.len()).await, PONG);
        assert_eq!(now() - begun, GRACE);
        client.write_all(&short).await.unwrap();
        client.write_all(&PONG).await.unwrap();
        drop(client);
        let mut rest = Vec::new();
        framed.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, [&short[..], &PONG].concat());
        drop(framed);
        assert!(manners.given_back().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_with_half_an_answer_is_passed_on_as_it_is() {
        let manners = Rc::new(Manners::default());
        let (mut client, mut framed) = pair(&manners, &[b'p'; 24]).await;
        manners.leave();
        client.write_all(&PONG[..12]).await.unwrap();
        drop(client);
        let mut all = Vec::new();
        framed.read_to_end(&mut all).await.unwrap();
        assert_eq!(all[24..], PONG[..12]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However it comes, nothing is lost, and only that one answer comes later than it was sent.
        #[test]
        fn whatever_comes_in_whatever_parts(
            sizes in proptest::collection::vec(0_usize..40, 1..12),
            at in 0_usize..12,
            cuts in proptest::collection::vec(1_usize..60, 1..40),
            leaves in 0_usize..200,
        ) {
            let mut frames: Vec<_> = sizes.into_iter().map(frame).collect();
            let at = at.min(frames.len());
            let plain = frames.concat();
            let before = frames[..at].concat().len();
            frames.insert(at, PONG.to_vec());
            let sent = [&[b'p'; 24][..], &frames.concat()].concat();
            // Nobody answers before he was asked.
            let leaves = leaves.min(24 + before);
            let clock = tokio::runtime::Builder::new_current_thread();
            let seen = { clock }.enable_all().start_paused(true).build().unwrap().block_on(async {
                let manners = Rc::new(Manners::default());
                let (mut client, mut framed) = pair(&manners, b"").await;
                client.write_all(&sent[..leaves]).await.unwrap();
                let mut seen = read(&mut framed, leaves).await;
                manners.leave();
                let mut rest = &sent[leaves..];
                for cut in cuts {
                    let (part, more) = rest.split_at(cut.min(rest.len()));
                    client.write_all(part).await.unwrap();
                    rest = more;
                }
                client.write_all(rest).await.unwrap();
                let more = sent.len() - leaves;
                seen.extend(read(&mut framed, more).await);
                seen
            });
            prop_assert_eq!(&seen[24..24 + plain.len()], &plain[..]);
            prop_assert_eq!(&seen[24 + plain.len()..], &PONG[..]);
        }
    }
}
