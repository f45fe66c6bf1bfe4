//! Listening, one thread per core, and the drain.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto;
use outgrow_shadow::Tap;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::core::{Core, Peer, Scheme, Shared};
use crate::deadline::OneTimer;
use crate::error::BindError;
use crate::flat::Flat;
use crate::guard::{EVENTS_MAX, Watch};
use crate::handle::Handle;
use crate::preface::{self, PrefaceError};
use crate::routes::RouteTable;
use crate::saved;
use crate::settings::Settings;
use crate::slice::Slice;
use crate::stages::answer;
use crate::tls::Certificates;
use crate::upstreams::Service;

/// Connections that the kernel keeps ready while a core is busy.
const BACKLOG: i32 = 1_024;

/// What the guard did and nobody has read yet; a slice is lowered once an epoch.
const LOWERED_MAX: usize = 256;

/// A pause when no more connections can be accepted (no descriptors), so that it is no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A proxy whose addresses are taken, and that serves nobody yet.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    listeners: Vec<Vec<Door>>,
    addresses: Vec<SocketAddr>,
    handle: Handle,
    watch: Watch,
}

/// Where clients come in.
#[derive(Debug)]
struct Door {
    listener: StdListener,
    scheme: Scheme,
}

/// A proxy at work.
#[derive(Debug)]
pub struct Running {
    threads: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    cut: CancellationToken,
    stopping: Arc<AtomicBool>,
    open: Arc<AtomicUsize>,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainReport {
    /// Connections that were open when it began.
    pub open: usize,
    /// Connections that were still open after the grace and were cut off.
    pub cut: usize,
}

impl Proxy {
    /// Checks the settings and takes the addresses.
    ///
    /// # Errors
    /// [`BindError`]; nothing is taken then.
    pub fn bind(settings: Settings, tap: Option<Arc<dyn Tap>>) -> Result<Self, BindError> {
        let problems = settings.problems();
        if !problems.is_empty() {
            return Err(BindError::Settings(problems));
        }
        let table = RouteTable::build(&settings.slices).map_err(BindError::Settings)?;
        let mut saved = match &settings.state_file {
            Some(path) => saved::load(path)?,
            None => saved::Saved::new(),
        };
        let workers = settings.workers.get();
        let certificates = settings.tls.as_ref().map(Certificates::load).transpose()?;
        let tls = certificates
            .as_ref()
            .map(|all| all.acceptor())
            .transpose()?;
        let mut listeners: Vec<Vec<Door>> = (0..workers).map(|_| Vec::new()).collect();
        let mut addresses = Vec::new();
        let plain = settings
            .listen
            .iter()
            .map(|address| (*address, Scheme::Http));
        let safe = settings.tls.iter().flat_map(|tls| &tls.listen);
        for (address, scheme) in plain.chain(safe.map(|address| (*address, Scheme::Https))) {
            let refused = |source| BindError::Listen { address, source };
            // Without the sharing of ports first: else a stranger's port would be shared silently.
            let probe = listen(address, false).map_err(refused)?;
            let real = probe.local_addr().map_err(refused)?;
            drop(probe);
            for of_core in &mut listeners {
                let listener = listen(real, true).map_err(refused)?;
                of_core.push(Door { listener, scheme });
            }
            addresses.push(real);
        }
        let slices: Vec<Arc<Slice>> = settings
            .slices
            .iter()
            .map(|slice| Arc::new(Slice::new(slice.clone(), workers, saved.remove(&slice.id))))
            .collect();
        let (errors, events) = mpsc::channel(EVENTS_MAX);
        let (lower, lowered) = mpsc::channel(LOWERED_MAX);
        let services = std::iter::once(&settings.legacy).chain(&settings.services);
        let services: Vec<Arc<Service>> = services
            .map(|service| Arc::new(Service::new(service.clone(), workers)))
            .collect();
        let watch = Watch::new(&slices, events, lower, settings.state_file.clone())
            .keeping(&services)
            .showing(certificates);
        let shared = Arc::new(Shared {
            settings,
            table,
            slices,
            services,
            tap,
            tls,
            errors,
        });
        let handle = Handle::new(shared.clone(), lowered);
        Ok(Self {
            shared,
            listeners,
            addresses,
            handle,
            watch,
        })
    }

    /// The addresses with their real ports.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Starts a thread per core and the guard's.
    pub fn start(self) -> Running {
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let open = Arc::new(AtomicUsize::new(0));
        let stopping = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (index, listeners) in self.listeners.into_iter().enumerate() {
            let ends = Ends {
                stop: stop.clone(),
                cut: cut.clone(),
                stopping: stopping.clone(),
                open: open.clone(),
            };
            let shared = self.shared.clone();
            threads.push(spawn(format!("proxy-{index}"), move || {
                Box::pin(core(index, shared, listeners, ends))
            }));
        }
        let (watch, ended) = (self.watch, cut.clone());
        threads.push(spawn("proxy-guard".to_owned(), move || {
            Box::pin(watch.run(ended))
        }));
        Running {
            threads: threads.into_iter().flatten().collect(),
            stop,
            cut,
            stopping,
            open,
        }
    }
}

impl Running {
    /// Takes no more connections, lets those in flight end for `grace`, then cuts them off.
    pub async fn shutdown(self, grace: Duration) -> DrainReport {
        let open = self.open.load(SeqCst);
        // First what connections look at, then what wakes them.
        self.stopping.store(true, SeqCst);
        self.stop.cancel();
        let drained = async {
            let mut tick = tokio::time::interval(Duration::from_millis(10));
            while self.open.load(SeqCst) > 0 {
                tick.tick().await;
            }
        };
        // Late is no failure here: the report says how many were cut.
        let _ = tokio::time::timeout(grace, drained).await;
        let cut = self.open.load(SeqCst);
        self.cut.cancel();
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    error!("a proxy thread panicked");
                }
            }
        });
        if let Err(failure) = joined.await {
            error!(%failure, "the proxy's threads were not joined");
        }
        DrainReport { open, cut }
    }
}

/// How a core learns that it is over.
#[derive(Clone)]
struct Ends {
    stop: CancellationToken,
    cut: CancellationToken,
    /// Says the same as `stop`, to who is awake anyway.
    stopping: Arc<AtomicBool>,
    open: Arc<AtomicUsize>,
}

type Work = std::pin::Pin<Box<dyn Future<Output = ()>>>;

fn spawn(name: String, work: impl FnOnce() -> Work + Send + 'static) -> Option<JoinHandle<()>> {
    let body = move || match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
    {
        Ok(runtime) => runtime.block_on(work()),
        Err(failure) => error!(%failure, "a proxy thread has no runtime"),
    };
    match std::thread::Builder::new().name(name).spawn(body) {
        Ok(thread) => Some(thread),
        Err(failure) => {
            error!(%failure, "a proxy thread could not be started");
            None
        }
    }
}

fn listen(address: SocketAddr, shared: bool) -> std::io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// One core: accepts on each of its listeners until told to stop, then waits for its connections.
async fn core(index: usize, shared: Arc<Shared>, doors: Vec<Door>, ends: Ends) {
    let core = Rc::new(Core::new(index, shared));
    // Ends with the core, as every task on it.
    for cluster in &core.clusters {
        tokio::task::spawn_local(cluster.clone().sweep());
    }
    let mut accepting = Vec::new();
    for Door { listener, scheme } in doors {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                let (core, ends) = (core.clone(), ends.clone());
                accepting.push(tokio::task::spawn_local(accept(
                    core, listener, scheme, ends,
                )));
            }
            Err(failure) => error!(%failure, "a listener could not be used"),
        }
    }
    for task in accepting {
        if let Err(failure) = task.await {
            error!(%failure, "accepting ended");
        }
    }
    // The runtime ends with this function, and with it every connection.
    ends.cut.cancelled().await;
}

async fn accept(core: Rc<Core>, listener: TcpListener, scheme: Scheme, ends: Ends) {
    loop {
        let accepted = tokio::select! {
            () = ends.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let open = Open::enter(&ends.open);
                let serving = serve(core.clone(), stream, (peer.ip(), scheme), ends.clone());
                tokio::task::spawn_local(async move {
                    serving.await;
                    drop(open);
                });
            }
            Err(failure) => {
                warn!(%failure, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Counts an open connection.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn enter(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// One connection.
async fn serve(
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
