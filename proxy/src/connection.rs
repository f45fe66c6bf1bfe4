//! One client's connection, from its first byte to its last.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::Poll;

use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::core::{Core, Peer, Scheme};
use crate::deadline::OneTimer;
use crate::flat::Flat;
use crate::preface::{self, PrefaceError};
use crate::stages::answer;

/// How a core learns that it is over.
#[derive(Clone)]
pub(crate) struct Ends {
    pub(crate) stop: CancellationToken,
    pub(crate) cut: CancellationToken,
    /// Says the same as `stop`, to who is awake anyway.
    pub(crate) stopping: Arc<AtomicBool>,
    pub(crate) open: Arc<AtomicUsize>,
}

/// One connection.
pub(crate) async fn serve(
    core: Rc<Core>,
    mut stream: TcpStream,
    (address, scheme): (IpAddr, Scheme),
    ends: Ends,
) {
    if let Err(failure) = stream.set_nodelay(true) {
        debug!(%failure, "a connection was gone at once");
        return;
    }
    let trust = &core.shared.settings.trust;
    let mut client = address;
    if trust.wants_preface(address) {
        match spoken_for(&mut stream, &core, &ends).await {
            Ok(found) => client = found.unwrap_or(address),
            Err(failure) => {
                debug!(%failure, balancer = %address, "a connection was not taken");
                return;
            }
        }
    }
    let peer = Peer::new(client, scheme, trust);
    match (scheme, &core.shared.tls) {
        (Scheme::Http, _) => converse(core, stream, peer, ends).await,
        // In a box, so that a plain connection has no room for it.
        (Scheme::Https, Some(tls)) => {
            let tls = tls.clone();
            Box::pin(converse_over_tls(core, tls, stream, peer, ends)).await;
        }
        (Scheme::Https, None) => error!("there is no certificate for an address of TLS"),
    }
}

async fn converse_over_tls(
    core: Rc<Core>,
    tls: TlsAcceptor,
    stream: TcpStream,
    peer: Peer,
    ends: Ends,
) {
    let within = core.shared.settings.limits.head_timeout;
    let shaken = tokio::select! {
        () = ends.stop.cancelled() => return,
        shaken = tokio::time::timeout(within, tls.accept(stream)) => shaken,
    };
    match shaken {
        Ok(Ok(stream)) => converse(core, stream, peer, ends).await,
        Ok(Err(failure)) => debug!(%failure, "a handshake failed"),
        Err(_) => debug!("a handshake took too long"),
    }
}

/// HTTP/1.1 or HTTP/2 by the first bytes.
async fn converse<S>(core: Rc<Core>, stream: S, peer: Peer, ends: Ends)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &core.shared.settings.limits;
    let mut builder = auto::Builder::new(OnThisCore);
    // A client that closes its half is taken for gone, as other proxies do: else an answer that
    // nobody waits for would keep its upstream busy.
    builder
        .http1()
        .timer(OneTimer::default())
        .header_read_timeout(limits.head_timeout)
        .max_headers(limits.headers_max);
    builder.http2().timer(TokioTimer::new());
    let (serving, peer) = (core.clone(), Rc::new(peer));
    let service = service_fn(move |request| answer(serving.clone(), peer.clone(), request));
    let connection = builder.serve_connection_with_upgrades(Flat::new(stream), service);
    tokio::pin!(connection);
    let mut stopped = Some(pin!(ends.stop.cancelled()));
    let ended = poll_fn(|cx| {
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        // It is asked once to wake this task; from then on a look is enough.
        let told = match &mut stopped {
            Some(once) => once.as_mut().poll(cx).is_ready(),
            None => ends.stopping.load(Relaxed),
        };
        stopped = None;
        if told {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    });
    let ended = match ended.await {
        Some(ended) => ended,
        None => {
            // `Connection: close` on the answer in flight, GOAWAY on HTTP/2.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(failure) = ended {
        debug!(%failure, "a client connection ended early");
    }
}

/// Whose connection a balancer passes on, as it says; within the time of a request's head.
async fn spoken_for(
    stream: &mut TcpStream,
    core: &Core,
    ends: &Ends,
) -> Result<Option<IpAddr>, PrefaceError> {
    let within = core.shared.settings.limits.head_timeout;
    tokio::select! {
        () = ends.stop.cancelled() => Err(PrefaceError::Malformed("the proxy ends")),
        found = tokio::time::timeout(within, preface::read(stream)) => {
            found.unwrap_or(Err(PrefaceError::Malformed("it did not come in time")))
        }
    }
}

/// Runs hyper's tasks on the core that they belong to.
#[derive(Debug, Clone, Copy)]
struct OnThisCore;

impl<F> hyper::rt::Executor<F> for OnThisCore
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
