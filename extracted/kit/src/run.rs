//! The life of a service process: open, listen, serve, drain, close.
//!
//! Owns start and shutdown and the exit code. Refuses to exit by itself: the binary does that.

use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::database::{Database, Schema};
use crate::defects::DefectSwitch;
use crate::error::StartError;
use crate::flags::{Flags, SECRET_VARIABLE};
use crate::logs;
use crate::service::Service;

/// How long requests in flight may take after the signal to stop. Longer than any write can wait for
/// its lock, shorter than the patience of a supervisor.
pub const DRAIN: Duration = Duration::from_secs(10);

/// What makes one service differ from another.
#[derive(Debug, Clone, Copy)]
pub struct ServiceSpec {
    /// Its name, such as `catalog`.
    pub name: &'static str,
    /// The build id when no other is given.
    pub build: &'static str,
    /// Its tables.
    pub schema: Schema,
    /// Its routes.
    pub routes: fn() -> Router<Service>,
}

/// A service that listens but does not yet serve.
#[derive(Debug)]
pub struct Ready {
    service: Service,
    listener: TcpListener,
    router: Router,
}

/// Runs a service as the whole of a process, until SIGTERM or SIGINT: 0 after a clean end, 1 after an
/// error, which is logged.
#[must_use]
pub fn main(spec: ServiceSpec, flags: &Flags) -> ExitCode {
    logs::to_stderr();
    let system = |doing| move |source| StartError::System { doing, source };
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(system("start the runtime"))
        .and_then(|runtime| {
            runtime.block_on(async {
                // Handlers come first: a signal during the start must not be lost.
                let stop = stop_on_signal().map_err(system("wait for signals"))?;
                let secret = std::env::var(SECRET_VARIABLE).ok();
                prepare(spec, flags, secret).await?.serve(stop).await
            })
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(service = spec.name, error = %error.with_causes(), "stopped");
            ExitCode::FAILURE
        }
    }
}

/// Opens the database and the port. Nothing answers until [`Ready::serve`]. `secret` is the value of
/// [`SECRET_VARIABLE`], used when the flags name no file.
///
/// # Errors
/// Any [`StartError`]; nothing is left running.
pub async fn prepare(
    spec: ServiceSpec,
    flags: &Flags,
    secret: Option<String>,
) -> Result<Ready, StartError> {
    let secret = flags.identity_secret(secret)?;
    let path = flags.database_path()?;
    let build = flags.build_id.as_deref().unwrap_or(spec.build);
    // The port comes before the file: a second instance by mistake must not touch the tables.
    let listener = TcpListener::bind(flags.listen)
        .await
        .map_err(|source| StartError::Listen {
            listen: flags.listen,
            source,
        })?;
    let database = Database::open(path, spec.schema).await?;
    let defects = DefectSwitch::new(flags.defect, flags.allow_defect_switch);
    if secret.is_none() {
        tracing::warn!(
            "no identity secret; every write will be refused; give `--identity-secret-file`"
        );
    }
    let service = Service::new(spec.name, build, database, secret, defects)?;
    let router = service.router((spec.routes)());
    Ok(Ready {
        service,
        listener,
        router,
    })
}

impl Ready {
    /// The service behind the port.
    #[must_use]
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// The address, with the real port when port 0 was asked for.
    ///
    /// # Errors
    /// [`StartError::System`] when the system does not tell.
    pub fn address(&self) -> Result<std::net::SocketAddr, StartError> {
        self.listener
            .local_addr()
            .map_err(|source| StartError::System {
                doing: "learn the own address",
                source,
            })
    }

    /// Serves until `stop` is cancelled, then lets requests in flight finish for at most [`DRAIN`]
    /// and closes the database.
    ///
    /// # Errors
    /// [`StartError::System`] when the listener fails for good.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), StartError> {
        let address = self.address()?;
        let service = self.service;
        tracing::info!(
            service = service.name(),
            build = service.build(),
            %address,
            database = %service.database().path().display(),
            defect = service.defects().current().map_or("none", |defect| defect.name()),
            "listening"
        );
        // Answers are small and written whole; waiting to fill a packet would only delay them.
        let listener = self.listener.tap_io(|connection| {
            if let Err(error) = connection.set_nodelay(true) {
                tracing::debug!(%error, "cannot turn off packet delay");
            }
        });
        let server = axum::serve(listener, self.router)
            .with_graceful_shutdown(stop.clone().cancelled_owned());
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        let served = tokio::select! {
            served = server.into_future() => served,
            () = overdue => {
                tracing::warn!(after = ?DRAIN, "requests were still running; gave up on them");
                Ok(())
            }
        };
        service.database().close().await;
        tracing::info!(service = service.name(), "stopped");
        served.map_err(|source| StartError::System {
            doing: "accept connections",
            source,
        })
    }
}

/// A token that SIGTERM or SIGINT cancels.
fn stop_on_signal() -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    // Ends with the runtime that owns it, at the latest with the process.
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
        token.cancel();
    });
    Ok(stop)
}
