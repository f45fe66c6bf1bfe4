//! `outgrow serve`: builds every part from the config, joins them, and takes them down in order.
//!
//! Order of start: everything that can refuse (ports, store, lease) comes before the first
//! request is taken, so a start either succeeds whole or changes nothing. Order of the end: the
//! data plane drains while all else still works, then the rest. A reload is a start beside what runs
//! (`reload.rs`), and so is an upgrade, in another process (`upgrade.rs`).

mod activation;
mod cookie_key;
mod data_plane;
mod descriptors;
mod handover;
mod links;
mod mirror;
mod notify;
mod office;
mod reload;
mod settings;
mod upgrade;

pub(crate) use settings::replayed as shadow_settings;
pub(crate) use upgrade::refuse;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::commands::check::Finding;
use crate::config::Config;
use reload::{Next, Reloads, Request, Server};

/// Runs until SIGTERM or Ctrl-C. SIGHUP and `outgrow reload` put the config file into force as it
/// is then; SIGUSR2 and `outgrow upgrade` let the binary take over as it is then. `takes_over`: this
/// process is the one that does so.
///
/// # Errors
/// Whatever keeps a part from starting; nothing is left running then.
pub(crate) async fn run(config: Config, takes_over: bool) -> anyhow::Result<()> {
    for warning in &config.warnings {
        warn!("{warning}");
    }
    descriptors::take_all();
    let (reloads, mut asked) = Reloads::new();
    let prepared = match takes_over {
        true => Box::pin(upgrade::take_over(config, reloads)).await?,
        false => Box::pin(Server::prepare(config, reloads)).await?,
    };
    // Before anybody is answered: who sees this process at work may stop it.
    let mut signals = Signals::new()?;
    let mut server = prepared.start();
    if !takes_over {
        notify::ready();
    }
    let cause = loop {
        let request = tokio::select! {
            _ = signals.terminate.recv() => break "SIGTERM",
            _ = signals.interrupt.recv() => break "SIGINT",
            _ = signals.hangup.recv() => Request::by_signal("SIGHUP", Next::Config),
            _ = signals.upgrade.recv() => Request::by_signal("SIGUSR2", Next::Binary),
            Some(request) = asked.recv() => request,
            () = server.missing_office() => {
                server.reopen().await;
                continue;
            }
        };
        if let Some(leaving) = server.follow(request).await {
            let hurry = server.hurry();
            leave_by(Box::pin(server.leave(leaving)), &mut signals, hurry).await;
            return Ok(());
        }
    };
    info!(cause, "draining");
    notify::stopping();
    server.shutdown().await;
    Ok(())
}

/// What can be known of databases, tables and mapping without changing anything.
pub(crate) async fn preflight(config: &Config) -> Vec<Finding> {
    links::preflight(config).await
}

/// Another process has taken over. A signal ends this one sooner.
async fn leave_by(
    mut leave: std::pin::Pin<Box<impl Future<Output = ()>>>,
    signals: &mut Signals,
    hurry: CancellationToken,
) {
    tokio::select! {
        () = &mut leave => return,
        _ = signals.terminate.recv() => {}
        _ = signals.interrupt.recv() => {}
    }
    hurry.cancel();
    leave.await;
}

/// What asks for an end in order, or for another look at the config or the binary.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    upgrade: Signal,
}

impl Signals {
    /// From now on they end nothing by themselves.
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }
}
