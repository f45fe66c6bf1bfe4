//! Listening, one thread per core, and the drain.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use outgrow_rollout::SliceId;
use outgrow_shadow::Tap;
use tokio::net::TcpListener;
use tokio::runtime::LocalOptions;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::access;
use crate::auth::Doorman;
use crate::cache::Cache;
use crate::clients::Clients;
use crate::connection::{Ends, serve};
use crate::cookies::CookieKeys;
use crate::core::{Core, Scheme, Shared};
use crate::counts::builds::BuildCounts;
use crate::counts::refusals::RefusalCounts;
use crate::counts::routes::RouteCounts;
use crate::doors::{Door, Doors, Listening};
use crate::error::BindError;
use crate::guard::{EVENTS_MAX, Watch};
use crate::handle::Handle;
use crate::routes::RouteTable;
use crate::saved;
use crate::settings::{Settings, SliceSettings};
use crate::slice::Slice;
use crate::spans;
use crate::spelling;
use crate::telling::{self, Tellers, Telling};
use crate::tls::Certificates;
use crate::underway::UnderWay;
use crate::upstreams::Service;
use crate::upstreams::builds::Builds;

/// What the guard did and nobody has read yet; a slice is lowered once an epoch, a build taken back
/// once a revision.
const ACTS_MAX: usize = 256;

/// What is under way in a retired proxy when its time is over.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// By then a core that is at work has seen that it is to let nobody in.
const SHUT: Duration = Duration::from_secs(1);

/// A pause when no more connections can or may be accepted, so that it is no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Where descriptors are gone they may be so for hours: it is said from time to time.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// A proxy whose addresses are taken, and that serves nobody yet.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    doors: Doors,
    by_core: Vec<Vec<Door>>,
    handle: Handle,
    watch: Watch,
    telling: Telling,
}

/// A proxy at work.
#[derive(Debug)]
pub struct Running {
    threads: Vec<JoinHandle<()>>,
    /// Ends by itself when it has written what the cores left.
    writer: Option<JoinHandle<()>>,
    /// As that.
    exporter: Option<JoinHandle<()>>,
    /// The cores have these, too; kept for a proxy that comes after this one.
    doors: Doors,
    shared: Arc<Shared>,
    retired: Arc<AtomicBool>,
    ends: Ends,
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
        Self::after((None, None), settings, tap)
    }

    /// A proxy at the addresses that another process listens on, which goes on until it knows that this
    /// one has [started](Self::start). Addresses that the settings have not are given up.
    ///
    /// # Errors
    /// [`BindError`]; nothing is changed then.
    pub fn inherit(
        from: Vec<Listening>,
        settings: Settings,
        tap: Option<Arc<dyn Tap>>,
    ) -> Result<Self, BindError> {
        let doors = Doors::inherited(from).map_err(BindError::Inherited)?;
        Self::after((None, Some(&doors)), settings, tap)
    }

    /// A proxy under other settings in place of one at work, which goes on until it is
    /// [retired](Running::retire). Addresses of both are taken over with whoever waits there. A
    /// slice of both is one: what is in force and held, and who wrote lately.
    ///
    /// # Errors
    /// [`BindError`]; nothing is changed then.
    pub fn succeed(
        before: &Running,
        settings: Settings,
        tap: Option<Arc<dyn Tap>>,
    ) -> Result<Self, BindError> {
        Self::after((Some(before), Some(&before.doors)), settings, tap)
    }

    fn after(
        (before, doors): (Option<&Running>, Option<&Doors>),
        settings: Settings,
        tap: Option<Arc<dyn Tap>>,
    ) -> Result<Self, BindError> {
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
        let most = settings.limits.clients_max.unwrap_or(usize::MAX);
        let tls = settings.tls.as_ref().map(Certificates::load).transpose()?;
        let doorman = Doorman::new(&settings).map_err(BindError::Auth)?;
        let telling = Telling::open(&settings)?;
        let doors = Doors::take(&settings, doors)?;
        let by_core = (0..workers).map(|core| doors.of_core(core, workers));
        let by_core = by_core.collect::<Result<_, _>>()?;
        let slices = slices_of(&settings, before, &mut saved);
        let (errors, events) = mpsc::channel(EVENTS_MAX);
        let (act, acts) = mpsc::channel(ACTS_MAX);
        let services = std::iter::once(&settings.legacy).chain(&settings.services);
        let services: Vec<Arc<Service>> = services
            .map(|service| Service::new(service.clone(), workers).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let running = before.map_or(&[][..], |running| &running.shared.builds);
        let count = settings.builds(&settings.legacy.name);
        let legacy_builds = (count > 0).then(|| Arc::new(BuildCounts::new(count, workers)));
        let builds = Builds::of((&services, legacy_builds.as_ref()), &slices, running);
        let judged = (&builds[..], legacy_builds.clone());
        let watch = Watch::new((&slices, &builds), events, act, settings.state_file.clone())
            .judging(judged, &settings.legacy_clients.guard)
            .keeping(&services, &settings.dns)
            .showing(tls.clone())
            .letting_in(doorman.clone());
        let store = |own| Cache::new(own, &settings.slices, workers);
        let cache = settings.cache.as_ref().and_then(store).map(Arc::new);
        if let Some(old) = before.and_then(|running| running.shared.cache.as_ref()) {
            old.close(cache.clone());
        }
        let shared = Arc::new(Shared {
            routes: RouteCounts::new(&settings.slices, workers),
            refusals: RefusalCounts::new(workers),
            spells: spelling::is_kept(&settings),
            cookies: CookieKeys::new(&settings.cookie_keys),
            settings,
            table,
            slices,
            services,
            builds,
            legacy_builds,
            tap,
            tls,
            doorman,
            errors,
            cache,
            clients: Arc::new(Clients::new(most)),
            writes: before.map_or_else(Arc::default, Running::writes),
            lines_lost: telling.losses.clone(),
            spans: telling.tallies.clone(),
        });
        let handle = Handle::new(shared.clone(), acts);
        Ok(Self {
            shared,
            doors,
            by_core,
            handle,
            watch,
            telling,
        })
    }

    /// The addresses with their real ports.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.doors.addresses()
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Starts a thread per core and the guard's.
    pub fn start(mut self) -> Running {
        let doors = self.by_core.iter().map(Vec::len).sum();
        let ends = Ends::of(self.shared.clients.clone(), doors);
        let mut threads = Vec::new();
        let cores = self.by_core.into_iter().zip(self.telling.of_cores());
        for (index, (doors, tellers)) in cores.enumerate() {
            let (shared, ends) = (self.shared.clone(), ends.clone());
            threads.push(spawn(format!("proxy-{index}"), move || {
                Box::pin(core(index, shared, tellers, (doors, ends)))
            }));
        }
        let (watch, ended) = (self.watch, ends.cut.clone());
        let retired = watch.retired();
        threads.push(spawn("proxy-guard".to_owned(), move || {
            Box::pin(watch.run(ended))
        }));
        let writer = self.telling.writer;
        let writer = writer.and_then(|writer| thread("proxy-log".to_owned(), || writer.run()));
        let (exporter, ended) = (self.telling.exporter, ends.cut.clone());
        let exporter = exporter.and_then(|exporter| {
            let name = "proxy-spans".to_owned();
            spawn(name, move || Box::pin(exporter.run(ended)))
        });
        Running {
            threads: threads.into_iter().flatten().collect(),
            writer,
            exporter,
            doors: self.doors,
            shared: self.shared,
            retired,
            ends,
        }
    }
}

impl Running {
    fn slice(&self, id: &SliceId) -> Option<&Arc<Slice>> {
        let mut slices = self.shared.slices.iter();
        slices.find(|slice| slice.settings.id == *id)
    }

    /// When writes of no slice were under way.
    fn writes(&self) -> Arc<UnderWay> {
        self.shared.writes.clone()
    }

    /// What it listens on, for [a proxy in another process](Proxy::inherit).
    ///
    /// # Errors
    /// Where the system has no descriptors left.
    pub fn listening(&self) -> std::io::Result<Vec<Listening>> {
        self.doors.lend()
    }

    /// Takes no more connections, lets those in flight end for `grace`, then cuts them off.
    pub async fn shutdown(self, grace: Duration) -> DrainReport {
        let open = self.ends.clients.open();
        // First what connections look at, then what wakes them.
        self.ends.leaving.store(true, SeqCst);
        self.ends.stopping.store(true, SeqCst);
        drop(self.doors);
        self.ends.leave.cancel();
        self.ends.stop.cancel();
        // Late is no failure here: the report says how many were cut.
        let _ = tokio::time::timeout(grace, self.ends.drained()).await;
        let cut = self.ends.clients.open();
        self.ends.cut.cancel();
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
        if let Some(writer) = self.writer {
            telling::told(&writer, "lines of the access log").await;
        }
        if let Some(exporter) = self.exporter {
            telling::told(&exporter, "spans").await;
        }
        DrainReport { open, cut }
    }

    /// Lets nobody else in, for a [successor](Proxy::succeed) that has started does. Ready when whoever comes is the
    /// successor's; a core that is so busy that it does not see to its doors is not waited for.
    ///
    /// Cancel safe: nobody is let in all the same.
    pub async fn leave(&self) {
        self.retired.store(true, SeqCst);
        self.ends.leaving.store(true, SeqCst);
        self.ends.leave.cancel();
        if tokio::time::timeout(SHUT, self.ends.shut()).await.is_err() {
            warn!(
                "an earlier proxy may let clients in still, under the rules before, until its busy core gets to its doors"
            );
        }
    }

    /// [Leaves](Self::leave) the field to a successor. Each connection ends
    /// behind its next answer, so no client writes into one that was just closed; who is still
    /// idle after `grace`, or when `hurry` is cancelled, is closed, and the rest cut off.
    pub async fn retire(self, grace: Duration, hurry: CancellationToken) -> DrainReport {
        let open = self.ends.clients.open();
        self.leave().await;
        tokio::select! {
            () = self.ends.drained() => {}
            () = tokio::time::sleep(grace) => {}
            () = hurry.cancelled() => {}
        }
        let DrainReport { cut, .. } = self.shutdown(LAST_ANSWERS).await;
        DrainReport { open, cut }
    }
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
    thread(name, body)
}

fn thread(name: String, body: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    match std::thread::Builder::new().name(name).spawn(body) {
        Ok(thread) => Some(thread),
        Err(failure) => {
            error!(%failure, "a proxy thread could not be started");
            None
        }
    }
}

/// One core: accepts on each of its listeners until told to stop, then waits for its connections.
async fn core(
    index: usize,
    shared: Arc<Shared>,
    tellers: Tellers,
    (doors, ends): (Vec<Door>, Ends),
) {
    let core = Rc::new(Core::new(index, shared, tellers));
    tokio::task::spawn_local(flush(core.clone()));
    tokio::task::spawn_local(flush_spans(core.clone()));
    // Ends with the core, as every task on it.
    for cluster in &core.clusters {
        tokio::task::spawn_local(cluster.clone().sweep());
    }
    let mut accepting = Vec::new();
    for Door { listener, scheme } in doors {
        let (core, ends) = (core.clone(), ends.clone());
        accepting.push(tokio::task::spawn_local(async move {
            match TcpListener::from_std(listener) {
                Ok(listener) => accept(core, listener, scheme, ends.clone()).await,
                Err(failure) => error!(%failure, "a listener could not be used"),
            }
            ends.doors.fetch_sub(1, SeqCst);
        }));
    }
    for task in accepting {
        if let Err(failure) = task.await {
            error!(%failure, "accepting ended");
        }
    }
    // The runtime ends with this function, and with it every connection.
    ends.cut.cancelled().await;
}

/// Lines are seen soon, also where there are few.
async fn flush(core: Rc<Core>) {
    let Some(log) = &core.log else { return };
    let mut tick = tokio::time::interval(access::FLUSH);
    loop {
        tick.tick().await;
        log.flush();
    }
}

/// So are spans.
async fn flush_spans(core: Rc<Core>) {
    let Some(spans) = &core.spans else { return };
    let mut tick = tokio::time::interval(spans::FLUSH);
    loop {
        tick.tick().await;
        spans.flush();
    }
}

async fn accept(core: Rc<Core>, listener: TcpListener, scheme: Scheme, ends: Ends) {
    let mut told: Option<Instant> = None;
    let mut tell = || {
        let now = Instant::now();
        let tells = told.is_none_or(|told| now.saturating_duration_since(told) >= TELL_AGAIN);
        told = if tells { Some(now) } else { told };
        tells
    };
    loop {
        if ends.clients.is_full() {
            ends.clients.shuts();
            if tell() {
                let most = ends.clients.most();
                warn!(
                    most,
                    "no more clients are let in until some have left: see `clients_max`"
                );
            }
            while ends.clients.is_full() {
                tokio::select! {
                    () = ends.leave.cancelled() => return,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
        let accepted = tokio::select! {
            // In this order: nobody is let in behind the end.
            biased;
            () = ends.leave.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let open = ends.enter();
                let serving = serve(core.clone(), stream, (peer.ip(), scheme), ends.clone());
                tokio::task::spawn_local(async move {
                    serving.await;
                    drop(open);
                });
            }
            Err(failure) => {
                if tell() {
                    warn!(%failure, "connections cannot be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What is in force of those that a proxy before this one has, too, goes on.
fn slices_of(
    settings: &Settings,
    before: Option<&Running>,
    saved: &mut saved::Saved,
) -> Vec<Arc<Slice>> {
    let workers = settings.workers.get();
    let slice = |slice: &SliceSettings| {
        let new = match before.and_then(|old| old.slice(&slice.id)) {
            Some(old) => old.under(slice.clone(), workers),
            None => Slice::new(slice.clone(), workers, saved.remove(&slice.id)),
        };
        Arc::new(new.with_builds(settings.builds(&slice.service), workers))
    };
    settings.slices.iter().map(slice).collect()
}
