//! One client's connection, from its first byte to its last.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::clients::Clients;
use crate::core::{Certificate, Core, Peer, Scheme};
use crate::counts::refusals::{HANDSHAKE, PREFACE};
use crate::inbound::{Io, converse};
use crate::preface::{self, PrefaceError};
use crate::tls::client::Shown;

/// Between two looks at how many connections are open.
const LOOK: Duration = Duration::from_millis(10);

/// How a core learns that it is over.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    /// Nobody is let in any more, and each connection ends behind its next answer.
    pub(crate) leave: CancellationToken,
    /// Who is idle is not waited for any more.
    pub(crate) stop: CancellationToken,
    pub(crate) cut: CancellationToken,
    /// Say the same as `leave` and `stop`, to who is awake anyway.
    pub(crate) leaving: Arc<AtomicBool>,
    pub(crate) stopping: Arc<AtomicBool>,
    pub(crate) clients: Arc<Clients>,
    /// Where connections may still be accepted.
    pub(crate) doors: Arc<AtomicUsize>,
}

impl Ends {
    pub(crate) fn of(clients: Arc<Clients>, doors: usize) -> Self {
        Self {
            leave: CancellationToken::new(),
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            leaving: Arc::default(),
            stopping: Arc::default(),
            clients,
            doors: Arc::new(AtomicUsize::new(doors)),
        }
    }

    pub(crate) fn enter(&self) -> Open {
        self.clients.enters();
        Open(self.clients.clone())
    }

    /// Whether a connection ends behind its answer: who comes next is another's, or others wait.
    pub(crate) fn part(&self) -> bool {
        self.leaving.load(Relaxed) || self.clients.is_crowded()
    }

    /// Ready when no connection can come any more.
    pub(crate) async fn shut(&self) {
        let mut tick = tokio::time::interval(LOOK);
        while self.doors.load(SeqCst) > 0 {
            tick.tick().await;
        }
    }

    /// Ready when no connection is open, and none can come any more.
    pub(crate) async fn drained(&self) {
        let mut tick = tokio::time::interval(LOOK);
        // In this order: a connection is counted before its door is closed.
        while self.doors.load(SeqCst) > 0 || self.clients.open() > 0 {
            tick.tick().await;
        }
    }
}

/// Counts an open connection, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Open(Arc<Clients>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.leaves();
    }
}

/// One connection.
pub(crate) async fn serve(
    core: Rc<Core>,
    mut stream: TcpStream,
    (address, scheme): (IpAddr, Scheme),
    ends: Ends,
) {
    // On Linux it has that from its listener.
    if !cfg!(target_os = "linux")
        && let Err(failure) = stream.set_nodelay(true)
    {
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
                // That the proxy ends is not the balancer's fault.
                if !ends.stop.is_cancelled() {
                    core.lacks_request(PREFACE);
                }
                return;
            }
        }
    }
    let mut peer = Peer::new(client, scheme, trust);
    let tls = core.shared.settings.tls.as_ref();
    if tls.is_some_and(|tls| tls.clients.is_some()) {
        peer.certificate = Certificate::Nobodys;
    }
    match (scheme, &core.shared.tls) {
        (Scheme::Http, _) => converse(core, Io::Plain(stream), peer, ends).await,
        // In a box, so that a plain connection has no room for it.
        (Scheme::Https, Some(tls)) => {
            let tls = tls.acceptor();
            Box::pin(converse_over_tls(core, tls, stream, peer, ends)).await;
        }
        (Scheme::Https, None) => error!("there is no certificate for an address of TLS"),
    }
}

async fn converse_over_tls(
    core: Rc<Core>,
    tls: TlsAcceptor,
    stream: TcpStream,
    mut peer: Peer,
    ends: Ends,
) {
    let within = core.shared.settings.limits.head_timeout;
    let shaken = tokio::select! {
        () = ends.stop.cancelled() => return,
        shaken = tokio::time::timeout(within, tls.accept(stream)) => shaken,
    };
    match shaken {
        Ok(Ok(stream)) => {
            let certificates = stream.get_ref().1.peer_certificates();
            let shown = certificates.and_then(|all| Shown::read(all.first()?));
            if let Some(shown) = shown {
                peer.certificate = Certificate::Shown(Rc::new(shown));
            }
            return converse(core, Io::Tls(Box::new(stream)), peer, ends).await;
        }
        Ok(Err(failure)) => debug!(%failure, "a handshake failed"),
        Err(_) => debug!("a handshake took too long"),
    }
    core.lacks_request(HANDSHAKE);
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
