//! A client that speaks HTTP/2, by hyper.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::Request;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tracing::debug;

use super::line::{ClientBody, Io};
use crate::answer::refuse;
use crate::connection::Ends;
use crate::core::{Core, Peer};
use crate::error::Refusal;
use crate::reply::Reply;
use crate::stages::answer;

/// A client that has said nothing for this long is asked whether it is still there.
const PING_AFTER: Duration = Duration::from_secs(60);
const PONG_WITHIN: Duration = Duration::from_secs(20);

/// Bytes of a head, at the most, counted as RFC 9113 section 6.5.2 does.
const HEAD_MAX: u32 = 64 * 1_024;

/// A client's connection of HTTP/2, of which `read` was read already.
pub(super) async fn converse(core: Rc<Core>, (io, read): (Io, Bytes), peer: Rc<Peer>, ends: Ends) {
    let limits = &core.shared.settings.limits;
    let head_max = u32::try_from(limits.head_max).unwrap_or(HEAD_MAX);
    let mut builder = http2::Builder::new(OnThisCore);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PONG_WITHIN)
        .max_header_list_size(head_max.min(HEAD_MAX));
    let service = service_fn(move |request: Request<Incoming>| {
        let fields_max = core.shared.settings.limits.headers_max;
        let long = request.headers().len() > fields_max;
        let (core, peer) = (core.clone(), peer.clone());
        let (parts, body) = request.into_parts();
        let asked = (Box::new(parts), ClientBody::Stream(body));
        // In a box, for hyper moves it from hand to hand.
        Box::pin(async move {
            if long {
                let pages = &core.shared.settings.error_pages;
                core.refuses(&Refusal::HeadTooLong);
                let refused = refuse(&Refusal::HeadTooLong, pages, None);
                return Ok(refused.into_response());
            }
            answer(core, peer, asked).await.map(Reply::into_response)
        })
    });
    let io = Reread {
        read,
        io: TokioIo::new(io),
    };
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut left = pin!(ends.leave.cancelled());
    let mut told = false;
    let ended = poll_fn(|cx| {
        if !told && left.as_mut().poll(cx).is_ready() {
            told = true;
            // GOAWAY; what is under way ends.
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    });
    if let Err(failure) = ended.await {
        debug!(%failure, "a client connection ended early");
    }
}

/// Runs hyper's tasks on the core that they belong to.
#[derive(Debug, Clone, Copy)]
struct OnThisCore;

impl<F> hyper::rt::Executor<F> for OnThisCore
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        // Ends by itself, or with the core.
        drop(tokio::task::spawn_local(future));
    }
}

/// A socket whose first bytes were read by somebody else.
#[derive(Debug)]
struct Reread {
    read: Bytes,
    io: TokioIo<Io>,
}

impl Read for Reread {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, into);
        }
        let most = self.read.len().min(into.remaining());
        into.put_slice(&self.read[..most]);
        self.read.advance(most);
        Poll::Ready(Ok(()))
    }
}

impl Write for Reread {
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
