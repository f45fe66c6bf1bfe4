//! Connections that change their protocol (WebSocket): opened only after the upstream's 101. What is said on
//! them is nobody's business here, but whether anything is.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional};
use tokio::time::timeout;
use tracing::debug;

use crate::core::Core;
use crate::counts::refusals::TUNNEL;
use crate::deadline::Idle;
use crate::inbound::ClientHalf;
use crate::pool::{Flow, Lent};

/// To say goodbye to both sides; whoever has no room for that has left long ago.
const GOODBYE: Duration = Duration::from_secs(1);

/// Joins both halves once both sides have switched. The task belongs to the core and ends with
/// either side, or when neither has said anything for too long.
pub(crate) fn join(core: Rc<Core>, client: ClientHalf, upstream: Lent, idle: Option<Duration>) {
    tokio::task::spawn_local(async move {
        // The slot is kept: a tunnel is a request in flight as long as it is open.
        let Lent { flow, slot, .. } = upstream;
        let opened = match flow {
            Flow::Line(wire) => wire.into_tunnel(),
            // HTTP/2 changes no protocol.
            Flow::Stream(_) => None,
        };
        let Some((mut upstream, said)) = opened else {
            debug!("a tunnel was not opened: the upload before it is not through");
            return;
        };
        // A proxy that ends waits for it as for any request.
        let Some((mut client, asked, open)) = client.come().await else {
            debug!("a tunnel was not opened: the client had left");
            return;
        };
        // What either side said right behind its head comes first.
        let said = (&asked[..], &said[..]);
        match relay(&mut client, &mut upstream, said, idle).await {
            Ok(true) => {}
            Ok(false) => {
                debug!("a tunnel was closed: nobody had said anything for too long");
                core.lacks_request(TUNNEL);
            }
            Err(error) => debug!(%error, "a tunnel was cut off"),
        }
        drop((slot, open));
    });
}

/// Carries bytes both ways. Whether the sides have ended it; else both are told that it has ended, because
/// neither has said anything for so long.
async fn relay<C, U>(
    client: &mut C,
    upstream: &mut U,
    (asked, said): (&[u8], &[u8]),
    idle: Option<Duration>,
) -> io::Result<bool>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let moved = Cell::new(false);
    let ended = {
        let (mut client, mut upstream) = (heard(client, &moved), heard(upstream, &moved));
        let mut joined = pin!(async {
            upstream.write_all(asked).await?;
            client.write_all(said).await?;
            // What TLS keeps back would wait for more.
            upstream.flush().await?;
            client.flush().await?;
            copy_bidirectional(&mut client, &mut upstream).await
        });
        let mut idle = idle.map(Idle::new);
        poll_fn(|cx| {
            let polled = joined.as_mut().poll(cx);
            let Some(idle) = idle.as_mut().filter(|_| polled.is_pending()) else {
                return polled.map(|ended| ended.map(|_| true));
            };
            if moved.take() {
                idle.ends();
            }
            idle.poll(cx).map(|()| Ok(false))
        })
        .await?
    };
    if !ended {
        let goodbye = async { tokio::join!(client.shutdown(), upstream.shutdown()) };
        // Who is not reached sees a reset.
        let _ = timeout(GOODBYE, goodbye).await;
    }
    Ok(ended)
}

/// A side of a tunnel, and whether anything has come from it or gone to it.
struct Heard<'a, S> {
    side: &'a mut S,
    moved: &'a Cell<bool>,
}

fn heard<'a, S>(side: &'a mut S, moved: &'a Cell<bool>) -> Heard<'a, S> {
    Heard { side, moved }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut *self.side).poll_read(cx, into))?;
        if into.filled().len() > before {
            self.moved.set(true);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut *self.side).poll_write(cx, bytes))?;
        self.moved.set(true);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.side).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.side).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};
    use tokio::time::{Instant, sleep};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A tunnel with its two far ends.
    fn tunnel(
        idle: Option<Duration>,
    ) -> (
        DuplexStream,
        DuplexStream,
        impl Future<Output = io::Result<bool>>,
    ) {
        let (client, mut near) = duplex(64);
        let (upstream, mut far) = duplex(64);
        let relayed = async move { relay(&mut near, &mut far, (b"", b""), idle).await };
        (client, upstream, relayed)
    }

    /// Says something every 50 seconds, and reads what it is told.
    async fn chats(mut from: DuplexStream, mut to: DuplexStream) -> (DuplexStream, DuplexStream) {
        for _ in 0..10 {
            sleep(MINUTE - Duration::from_secs(10)).await;
            from.write_all(b"a").await.unwrap();
            to.read_exact(&mut [0; 1]).await.unwrap();
        }
        (from, to)
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_of_either_side_keep_it_open_and_silence_of_both_ends_it() {
        for from_client in [true, false] {
            let begun = Instant::now();
            let (client, upstream, relayed) = tunnel(Some(MINUTE));
            let chatting = async {
                let (mut from, mut to) = match from_client {
                    true => chats(client, upstream).await,
                    false => chats(upstream, client).await,
                };
                // Both see its end, and no error.
                assert_eq!(from.read(&mut [0; 1]).await.unwrap(), 0);
                assert_eq!(to.read(&mut [0; 1]).await.unwrap(), 0);
            };
            let (ended, ()) = tokio::join!(relayed, chatting);
            assert!(!ended.unwrap());
            assert_eq!(begun.elapsed().as_secs(), 10 * 50 + 60);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_may_be_silent_for_ever_ends_with_its_sides() {
        let (client, upstream, relayed) = tunnel(None);
        let begun = Instant::now();
        let leaving = async {
            sleep(MINUTE * 60 * 24).await;
            drop((client, upstream));
        };
        let (ended, ()) = tokio::join!(relayed, leaving);
        assert!(ended.unwrap());
        assert_eq!(begun.elapsed(), MINUTE * 60 * 24);
    }

    /// A half that is closed says no more; the other one is waited for as long as both were.
    #[tokio::test(start_paused = true)]
    async fn one_that_is_half_closed_ends_all_the_same() {
        let (mut client, upstream, relayed) = tunnel(Some(MINUTE));
        let begun = Instant::now();
        client.shutdown().await.unwrap();
        assert!(!relayed.await.unwrap());
        assert_eq!(begun.elapsed(), MINUTE);
        drop((client, upstream));
    }

    /// One that takes nothing says nothing: what waits for it keeps no tunnel open.
    #[tokio::test(start_paused = true)]
    async fn a_side_that_takes_nothing_is_silent() {
        let (mut client, upstream, relayed) = tunnel(Some(MINUTE));
        let begun = Instant::now();
        let writing = async { while client.write_all(&[0; 64]).await.is_ok() {} };
        let (ended, ()) = tokio::join!(relayed, writing);
        assert!(!ended.unwrap());
        assert!(begun.elapsed() <= MINUTE + GOODBYE);
        drop(upstream);
    }
}
