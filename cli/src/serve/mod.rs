//! `outgrow serve`: builds every part from the config, joins them, and takes them down in order.
//!
//! Order of start: everything that can refuse (ports, store, lease) comes before the first
//! request is taken, so a start either succeeds whole or changes nothing. Order of the end: the
//! data plane drains while all else still works, then the rest. A reload is a start beside what runs
//! (`reload.rs`).

mod data_plane;
mod links;
mod mirror;
mod office;
mod reload;
mod settings;

pub(crate) use settings::replayed as shadow_settings;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::commands::check::Finding;
use crate::config::Config;
use reload::{Reloads, Request, Server};

/// Runs until SIGTERM or Ctrl-C. SIGHUP and `outgrow reload` put the config file into force as it
/// is then.
///
/// # Errors
/// Whatever keeps a part from starting; nothing is left running then.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let (reloads, mut asked) = Reloads::new();
    let prepared = Server::prepare(config, reloads).await?;
    // Before anybody is answered: who sees this process at work may stop it.
    let mut signals = Signals::new()?;
    let mut server = prepared.start();
    let cause = loop {
        tokio::select! {
            _ = signals.terminate.recv() => break "SIGTERM",
            _ = signals.interrupt.recv() => break "SIGINT",
            _ = signals.hangup.recv() => server.reload(Request::by_signal()).await,
            Some(request) = asked.recv() => server.reload(request).await,
            () = server.missing_office() => server.reopen().await,
        }
    };
    info!(cause, "draining");
    server.shutdown().await;
    Ok(())
}

/// What can be known of databases, tables and mapping without changing anything.
pub(crate) async fn preflight(config: &Config) -> Vec<Finding> {
    links::preflight(config).await
}

/// What asks for an end in order, or for another look at the config.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on they end nothing by themselves.
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}
