//! Another config in force, without a failed request: a start beside what runs.
//!
//! Everything that can refuse is asked first. Then the back office of the present config is closed,
//! which leaves all states where they are, and that of the next one opened; meanwhile the present
//! proxy carries on. Then the next proxy lets clients in at the same sockets, and each connection of
//! the present one ends behind its next answer. Both share what is in force and held of a slice.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use outgrow_control::ports::{PortError, Process};
use outgrow_control::{ControlError, Note};
use outgrow_proxy::{Proxy, Running};
use outgrow_rollout::{BuildName, DataPhase, Side, Traffic, Weight};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::office::{Counter, Field, Office, Relay};
use super::settings;
use crate::config::Config;

/// Configs that may still serve their last connections; each has its own threads.
const PAST_MAX: usize = 4;

/// Between two tries to open an office that must be there.
const REOPEN: Duration = Duration::from_secs(1);

type Outcome = Result<Value, ControlError>;

/// Somebody wants the config file to be put into force.
#[derive(Debug)]
pub(super) struct Request {
    note: Note,
    answer: Option<oneshot::Sender<Outcome>>,
}

impl Request {
    pub(super) fn by_signal() -> Self {
        Self {
            note: Note::new(Some("SIGHUP"), None),
            answer: None,
        }
    }
}

/// The way from the admin API to whoever reloads.
#[derive(Debug, Clone)]
pub(super) struct Reloads(mpsc::Sender<Request>);

impl Reloads {
    pub(super) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (asked, requests) = mpsc::channel(1);
        (Self(asked), requests)
    }
}

impl Process for Reloads {
    fn reload(&self, note: Note) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let request = Request {
                note,
                answer: Some(answer),
            };
            if self.0.try_send(request).is_err() {
                let text = "another reload waits; look again when it is done";
                return Err(refused(anyhow::anyhow!(text)));
            }
            answered.await.unwrap_or(Err(ControlError::Stopping))
        })
    }
}

fn refused(error: anyhow::Error) -> ControlError {
    match error.downcast::<ControlError>() {
        Ok(error) => error,
        Err(error) => ControlError::Refused(PortError(format!("{error:#}"))),
    }
}

/// One config at work.
struct Generation {
    number: u64,
    config: Config,
    field: Field,
    running: Running,
    admin: TcpListener,
    /// None where it could not be opened again; the proxy carries on.
    office: Option<Office>,
}

/// A process at work.
pub(super) struct Server {
    present: Generation,
    past: JoinSet<()>,
    hurry: CancellationToken,
    reloads: Reloads,
}

/// A process that serves nobody yet.
pub(super) struct Prepared {
    config: Config,
    proxy: Proxy,
    field: Field,
    admin: TcpListener,
    office: Office,
    reloads: Reloads,
}

impl Prepared {
    pub(super) fn start(self) -> Server {
        announce(&self.proxy.addresses(), self.config.control.listen);
        Server {
            present: Generation {
                number: 1,
                config: self.config,
                field: self.field,
                running: self.proxy.start(),
                admin: self.admin,
                office: Some(self.office),
            },
            past: JoinSet::new(),
            hurry: CancellationToken::new(),
            reloads: self.reloads,
        }
    }
}

impl Server {
    /// # Errors
    /// Whatever keeps a part from starting.
    pub(super) async fn prepare(config: Config, reloads: Reloads) -> anyhow::Result<Prepared> {
        let admin = listen(config.control.listen)?;
        let (proxy, field) = prepare(&config, None)?;
        let office = Office::open(&config, &field, (&admin, &reloads), 1).await?;
        Ok(Prepared {
            config,
            proxy,
            field,
            admin,
            office,
            reloads,
        })
    }

    /// Puts the config file into force, or says why that cannot be. The present config stays then.
    pub(super) async fn reload(&mut self, request: Request) {
        let mut before = None;
        let told = Box::pin(self.follow(request.note, &mut before)).await;
        if let Err(error) = &told {
            warn!(error = format!("{error:#}"), "the config was not reloaded");
        }
        if let Some(answer) = request.answer {
            // Refused when the client has left.
            let _ = answer.send(told.map_err(refused));
        }
        // Only now: who asked is answered by the admin API that was asked.
        if let Some(counter) = before {
            self.past.spawn(counter.close());
        }
        if self.present.office.is_none() {
            self.reopen().await;
        }
    }

    /// `before` becomes what is still to be closed of the present office.
    async fn follow(&mut self, note: Note, before: &mut Option<Counter>) -> anyhow::Result<Value> {
        while self.past.try_join_next().is_some() {}
        anyhow::ensure!(
            self.past.len() < PAST_MAX,
            "connections of earlier configs are still open; wait up to `[proxy] drain_timeout`"
        );
        let config = Config::load(&self.present.config.file)?;
        for warning in &config.warnings {
            warn!("{warning}");
        }
        let present = &mut self.present;
        let stores = [&present.config, &config].map(|config| config.control.store.to_string());
        anyhow::ensure!(
            stores[0] == stores[1],
            "`[control] store` cannot change while Outgrow runs; end it and start it again"
        );
        let admin = present.admin_of(&config)?;
        let (proxy, field) = prepare(&config, Some(&present.running))?;
        let Some(office) = &present.office else {
            anyhow::bail!("the present config is not whole yet; see the log");
        };
        office_may_close(office, &config)?;
        let quiet = office.controller.occupy("a reload")?;
        let number = present.number + 1;
        if let Some(office) = present.office.take() {
            *before = Some(office.close().await);
        }
        drop(quiet);
        let opened = Office::open(&config, &field, (&admin, &self.reloads), number).await;
        let office = opened.context("the config cannot be put into force")?;
        let detail = json!({"file": config.file, "config": number});
        if let Err(error) = office.controller.reloaded(&note, &detail).await {
            warn!(%error, "the reload is not in the journal");
        }
        announce(&proxy.addresses(), config.control.listen);
        let told = json!({
            "config": number,
            "file": config.file,
            "slices": config.slices.iter().map(|slice| &slice.id).collect::<Vec<_>>(),
            "warnings": config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        let next = Generation {
            number,
            config,
            field,
            running: proxy.start(),
            admin,
            office: Some(office),
        };
        self.replace(next);
        Ok(told)
    }

    fn replace(&mut self, next: Generation) {
        let number = next.number;
        let before = std::mem::replace(&mut self.present, next);
        let (grace, hurry) = (before.config.proxy.drain_timeout, self.hurry.clone());
        self.past.spawn(async move {
            let drained = before.running.retire(grace, hurry).await;
            info!(
                config = before.number,
                ?drained,
                "an earlier config has ended"
            );
        });
        info!(config = number, "the config is reloaded");
    }

    /// Ready after a while where the office is missing; else never.
    pub(super) async fn missing_office(&self) {
        match self.present.office {
            Some(_) => std::future::pending().await,
            None => tokio::time::sleep(REOPEN).await,
        }
    }

    /// Opens the office of the present config again.
    pub(super) async fn reopen(&mut self) {
        let present = &mut self.present;
        // Another name for the lease than the one that was given up.
        present.number += 1;
        let admin = (&present.admin, &self.reloads);
        match Office::open(&present.config, &present.field, admin, present.number).await {
            Ok(office) => present.office = Some(office),
            Err(error) => error!(
                error = format!("{error:#}"),
                "nothing is controlled or copied; requests are carried as before; trying again"
            ),
        }
    }

    /// Lets the requests in flight end, and then all else.
    pub(super) async fn shutdown(mut self) {
        self.hurry.cancel();
        let Generation {
            config,
            running,
            office,
            ..
        } = self.present;
        let drained = running.shutdown(config.proxy.drain_timeout).await;
        info!(?drained, "proxy drained");
        while self.past.join_next().await.is_some() {}
        if let Some(office) = office {
            office.end().await;
        }
    }
}

impl Generation {
    /// Where the next config's admin API listens.
    fn admin_of(&self, next: &Config) -> anyhow::Result<TcpListener> {
        if next.control.listen == self.config.control.listen {
            return Ok(self.admin.try_clone()?);
        }
        listen(next.control.listen)
    }
}

/// What must not change while slices are on their way.
fn office_may_close(office: &Office, next: &Config) -> anyhow::Result<()> {
    for service in office.controller.builds() {
        let name = &service.service;
        let Some(next) = next
            .services
            .get(name)
            .filter(|next| !next.builds.is_empty())
        else {
            continue;
        };
        let used = service
            .builds
            .iter()
            .filter(|build| build.weight > Weight::ZERO);
        let has = |build: &BuildName| next.builds.iter().any(|one| one.name == *build);
        if let Some(missing) = used.map(|one| &one.figures.build).find(|one| !has(one)) {
            anyhow::bail!(
                "requests go to build `{missing}` of service `{name}`, and it is not in the config any \
                 more; `outgrow build switch` to another one first"
            );
        }
    }
    for slice in office.controller.status().slices {
        if next.slices.iter().any(|one| one.id == slice.slice) {
            continue;
        }
        let (id, state) = (slice.slice, slice.state);
        let still = |what: &str, first: &str| {
            anyhow::bail!("slice `{id}` is not in the config any more, but {what}; {first} first")
        };
        let phase = state
            .data
            .as_ref()
            .map_or(DataPhase::Idle, |link| link.phase);
        if state.writer != Side::Legacy || state.traffic != Traffic::Legacy {
            still("the extracted side serves it", "roll it back to legacy")?;
        }
        if !matches!(phase, DataPhase::Idle | DataPhase::Closed) {
            let close = format!("`outgrow sync close {id}`");
            still("its tables are still kept in step", &close)?;
        }
    }
    Ok(())
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let taken = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    taken.with_context(|| format!("cannot listen on {address} (control.listen)"))
}

fn prepare(config: &Config, before: Option<&Running>) -> anyhow::Result<(Proxy, Field)> {
    let carried = settings::proxy(config)?;
    let relay = Arc::new(Relay::default());
    let tap = Some(relay.clone() as Arc<dyn outgrow_shadow::Tap>);
    let proxy = match before {
        None => Proxy::bind(carried.clone(), tap)?,
        Some(running) => Proxy::succeed(running, carried.clone(), tap)?,
    };
    let handle = proxy.handle();
    let lowered = handle
        .take_lowered()
        .context("the guard is heard already")?;
    let field = Field {
        carried,
        handle,
        relay,
        lowered: Arc::new(Mutex::new(lowered)),
    };
    Ok((proxy, field))
}

fn announce(proxy: &[SocketAddr], admin: SocketAddr) {
    for address in proxy {
        info!(%address, "proxy listens");
    }
    info!(address = %admin, "admin API listens");
}
