//! `outgrow serve`: builds every part from the config, joins them, and takes them down in order.
//!
//! Order of start: everything that can refuse (ports, store, lease) comes before the first
//! request is taken, so a start either succeeds whole or changes nothing. Order of the end: the
//! data plane drains while all else still works, then the rest.

mod data_plane;
mod links;
mod mirror;
mod settings;

pub(crate) use settings::replayed as shadow_settings;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use outgrow_control::{Controller, Identity, Lowered, Ports, SliceSpec, Store, Token};
use outgrow_rollout::SliceId;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::commands::check::Finding;
use crate::config::Config;
use data_plane::Carrier;
use links::Links;
use mirror::Mirror;

/// How often the proxy is told how far the bridge has come. Well below the time that a person
/// needs to follow a link after a write.
const FRESHNESS_PERIOD: Duration = Duration::from_millis(25);

/// Runs until SIGTERM or Ctrl-C.
///
/// # Errors
/// Whatever keeps a part from starting; nothing is left running then.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let admin = TcpListener::bind(config.control.listen)
        .await
        .with_context(|| {
            format!(
                "cannot listen on {} (control.listen)",
                config.control.listen
            )
        })?;
    let token = Token::load_or_create(&config.control.token_file)?;
    let at = config.control.store.to_string();
    let opened = Store::open(&at).await;
    let store = opened.with_context(|| format!("cannot use the store `{at}` (control.store)"))?;

    let links = Arc::new(Links::new(&config)?);
    let carried = settings::proxy(&config)?;
    let shadow = outgrow_shadow::Shadow::start(
        settings::shadow(&config, &carried)?,
        links.clone(),
        &tokio::runtime::Handle::current(),
    )?;
    let proxy = outgrow_proxy::Proxy::bind(carried, Some(Arc::new(shadow.clone())))?;
    let handle = proxy.handle();
    let ports = Ports {
        data_plane: Arc::new(Carrier::new(handle.clone())),
        sync: links.clone(),
        shadow: Arc::new(Mirror::new(shadow.clone())),
    };
    let controller = Controller::start(store, ports, specs(&config), identity()).await?;

    let cancel = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(report_lowered(
        handle.clone(),
        controller.clone(),
        cancel.clone(),
    ));
    tasks.spawn(
        links
            .clone()
            .report_failures(controller.clone(), cancel.clone()),
    );
    tasks.spawn(carry_freshness(
        links.clone(),
        handle.clone(),
        cancel.clone(),
    ));
    let addresses = proxy.addresses();
    // Before anybody is answered: who sees this process at work may stop it.
    let mut stop = StopSignals::new()?;
    let running = proxy.start();
    let serving = outgrow_control::serve_admin(admin, controller.clone(), token, cancel.clone())?;
    announce(&addresses, config.control.listen);
    let cause = stop.next().await;
    info!(cause, "draining");
    let drained = running.shutdown(config.proxy.drain_timeout).await;
    info!(?drained, "proxy drained");
    cancel.cancel();
    if let Err(error) = serving.await {
        warn!(%error, "the admin API did not end well");
    }
    tasks.close();
    tasks.wait().await;
    // Before the controller, which saves the evidence last.
    shadow.shutdown().await;
    controller.shutdown().await;
    links.shutdown().await;
    Ok(())
}

fn announce(proxy: &[SocketAddr], admin: SocketAddr) {
    for address in proxy {
        info!(%address, "proxy listens");
    }
    info!(address = %admin, "admin API listens");
}

/// What can be known of databases, tables and mapping without changing anything.
pub(crate) async fn preflight(config: &Config) -> Vec<Finding> {
    links::preflight(config).await
}

fn specs(config: &Config) -> BTreeMap<SliceId, SliceSpec> {
    let spec = |slice: &crate::config::Slice| SliceSpec {
        plan: slice.plan.clone(),
        has_tables: !slice.tables.is_empty(),
    };
    config
        .slices
        .iter()
        .map(|slice| (slice.id.clone(), spec(slice)))
        .collect()
}

fn identity() -> Identity {
    Identity {
        holder: format!("pid {}", std::process::id()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Tells control what the guard did, so that the store and the journal follow.
async fn report_lowered(
    handle: outgrow_proxy::Handle,
    controller: Controller,
    cancel: CancellationToken,
) {
    let Some(mut lowered) = handle.take_lowered() else {
        return;
    };
    loop {
        let event = tokio::select! {
            () = cancel.cancelled() => return,
            event = lowered.recv() => event,
        };
        let Some(event) = event else { return };
        let told = Lowered {
            slice: event.slice,
            revision: event.at_revision,
            verdict: event.verdict,
        };
        if let Err(error) = controller.lowered(told).await {
            warn!(%error, "the guard's act is in force but not in the store yet");
        }
    }
}

/// Keeps the proxy's picture of the bridge fresh, for reading one's own writes.
async fn carry_freshness(
    links: Arc<Links>,
    handle: outgrow_proxy::Handle,
    cancel: CancellationToken,
) {
    let mut tick = tokio::time::interval(FRESHNESS_PERIOD);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = tick.tick() => {}
        }
        for (slice, through) in links.applied_through() {
            handle.set_applied_through(&slice, through);
        }
    }
}

/// What asks for an end in order.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// From now on they end nothing by themselves.
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
