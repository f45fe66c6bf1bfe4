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
use outgrow_proxy::{BindError, Listening, Proxy, Running};
use outgrow_rollout::{BuildName, DataPhase, Side, Traffic, Weight};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::activation::Given;
use super::handover::Declared;
use super::office::{Counter, Field, Office, Relay};
use super::settings;
use super::upgrade::{Leaving, Successor, Watch};
use crate::config::Config;

/// Configs that may still serve their last connections; each has its own threads.
const PAST_MAX: usize = 4;

/// Between two tries to open an office that must be there.
const REOPEN: Duration = Duration::from_secs(1);

type Outcome = Result<Value, ControlError>;

/// What is to come in place of what runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The config file as it is now.
    Config,
    /// The binary and the config file as they are now, in another process.
    Binary,
}

/// Somebody wants that.
#[derive(Debug)]
pub(super) struct Request {
    next: Next,
    note: Note,
    answer: Option<oneshot::Sender<Outcome>>,
}

impl Request {
    pub(super) fn by_signal(name: &str, next: Next) -> Self {
        Self {
            next,
            note: Note::new(Some(name), None),
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
        self.ask(Next::Config, note)
    }

    fn upgrade(&self, note: Note) -> BoxFuture<'_, Outcome> {
        self.ask(Next::Binary, note)
    }
}

impl Reloads {
    fn ask(&self, next: Next, note: Note) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let request = Request {
                next,
                note,
                answer: Some(answer),
            };
            if self.0.try_send(request).is_err() {
                let text = "another reload or upgrade waits; look again when it is done";
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
pub(super) struct Generation {
    number: u64,
    pub(super) config: Config,
    field: Field,
    pub(super) running: Running,
    pub(super) admin: TcpListener,
    /// None where it could not be opened again; the proxy carries on.
    office: Option<Office>,
}

/// A process at work.
pub(super) struct Server {
    present: Generation,
    past: JoinSet<()>,
    hurry: CancellationToken,
    reloads: Reloads,
    /// Ends with the process that this one has taken over from.
    before: Option<JoinHandle<()>>,
}

/// A process that serves nobody yet.
pub(super) struct Prepared {
    pub(super) config: Config,
    pub(super) proxy: Proxy,
    pub(super) field: Field,
    pub(super) admin: TcpListener,
    pub(super) office: Office,
    pub(super) reloads: Reloads,
    /// Where it takes over from another process.
    pub(super) before: Option<Watch>,
}

impl Prepared {
    pub(super) fn start(self) -> Server {
        announce(&self.proxy.addresses(), self.config.control.listen);
        let running = self.proxy.start();
        Server {
            // Only now, when somebody lets clients in.
            before: self.before.map(Watch::begin),
            present: Generation {
                number: 1,
                config: self.config,
                field: self.field,
                running,
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
        let mut given = Given::take()?;
        let hint = given.hint();
        let (admin, sockets) = doors(&config, &mut given).map_err(|error| told(error, &hint))?;
        drop(given);
        let before = match sockets.is_empty() {
            true => Before::Nobody,
            false => Before::Process(sockets),
        };
        let prepared = prepare(&config, before);
        let (proxy, field) = prepared.map_err(|error| told(error, &hint))?;
        let office = Office::open(&config, &field, (&admin, &reloads), 1).await?;
        Ok(Prepared {
            config,
            proxy,
            field,
            admin,
            office,
            reloads,
            before: None,
        })
    }

    /// Does what is wanted, or says why that cannot be; what runs stays then. `Some`: another process has
    /// taken over.
    pub(super) async fn follow(&mut self, request: Request) -> Option<Leaving> {
        let (mut before, mut leaving) = (None, None);
        let told = match request.next {
            Next::Config => Box::pin(self.reload(request.note, &mut before)).await,
            Next::Binary => {
                let upgraded = Box::pin(self.upgrade(request.note, &mut before)).await;
                upgraded.map(|taken| leaving.insert(taken).told())
            }
        };
        if let Err(error) = &told {
            let (error, wanted) = (format!("{error:#}"), request.next);
            warn!(error, ?wanted, "what runs goes on");
        }
        if let Some(answer) = request.answer {
            // Refused when the client has left.
            let _ = answer.send(told.map_err(refused));
        }
        // Only now: who asked is answered by the admin API that was asked.
        if let Some(counter) = before {
            self.past.spawn(counter.close());
        }
        if self.present.office.is_none() && leaving.is_none() {
            self.reopen().await;
        }
        leaving
    }

    /// Lets another process take over. `before` as with a reload.
    async fn upgrade(
        &mut self,
        note: Note,
        before: &mut Option<Counter>,
    ) -> anyhow::Result<Leaving> {
        let present = &mut self.present;
        let successor = Successor::start(present, &note).await?;
        if let Err(error) = present.step_back(&successor.has, before).await {
            successor.dismiss().await;
            return Err(error);
        }
        let leaving = successor.take(&present.field.handle).await?;
        present.running.leave().await;
        Ok(leaving)
    }

    /// Cancelled where the last connections have no time left.
    pub(super) fn hurry(&self) -> CancellationToken {
        self.hurry.clone()
    }

    /// Lets connections end where another process lets clients in.
    pub(super) async fn leave(mut self, leaving: Leaving) {
        let Generation {
            config,
            field,
            running,
            ..
        } = self.present;
        let bounds = (config.proxy.drain_timeout, self.hurry.clone());
        leaving.retire(running, field.handle, bounds).await;
        self.hurry.cancel();
        while self.past.join_next().await.is_some() {}
    }

    /// `before` becomes what is still to be closed of the present office.
    async fn reload(&mut self, note: Note, before: &mut Option<Counter>) -> anyhow::Result<Value> {
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
        let (proxy, field) = prepare(&config, Before::Proxy(&present.running))?;
        present.step_back(&Declared::of(&config), before).await?;
        let number = present.number + 1;
        let opened = Office::open(&config, &field, (&admin, &self.reloads), number).await;
        let office = opened.context("the config cannot be put into force")?;
        let detail = json!({"file": config.file, "config": number});
        if let Err(error) = office
            .controller
            .replaced("config-reloaded", &note, &detail)
            .await
        {
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
        // Whoever asked is told when nobody comes in under the present config any more.
        self.present.running.leave().await;
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
        if let Some(before) = self.before {
            // It ends by itself; nothing here waits for it.
            before.abort();
        }
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
    /// Closes the office for one that has this in its config, where that may be.
    async fn step_back(
        &mut self,
        next: &Declared,
        before: &mut Option<Counter>,
    ) -> anyhow::Result<()> {
        let Some(office) = &self.office else {
            anyhow::bail!("the present config is not whole yet; see the log");
        };
        may_close(office, next)?;
        let quiet = office.controller.occupy("a reload or upgrade")?;
        if let Some(office) = self.office.take() {
            *before = Some(office.close().await);
        }
        drop(quiet);
        Ok(())
    }

    /// Where the next config's admin API listens.
    fn admin_of(&self, next: &Config) -> anyhow::Result<TcpListener> {
        if next.control.listen == self.config.control.listen {
            return Ok(self.admin.try_clone()?);
        }
        listen(next.control.listen)
    }
}

/// What must not change while slices are on their way.
fn may_close(office: &Office, next: &Declared) -> anyhow::Result<()> {
    for service in office.controller.builds() {
        let name = &service.service;
        let Some(builds) = next.builds.get(name) else {
            continue;
        };
        let used = service
            .builds
            .iter()
            .filter(|build| build.weight > Weight::ZERO);
        let has = |build: &BuildName| builds.contains(build);
        if let Some(missing) = used.map(|one| &one.figures.build).find(|one| !has(one)) {
            anyhow::bail!(
                "requests go to build `{missing}` of service `{name}`, and it is not in the config any \
                 more; `outgrow build switch` to another one first"
            );
        }
    }
    for slice in office.controller.status().slices {
        if next.slices.contains(&slice.slice) {
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

/// The admin API's socket, and those of the proxy that a service manager has given.
fn doors(config: &Config, given: &mut Given) -> anyhow::Result<(TcpListener, Vec<Listening>)> {
    let control = config.control.listen;
    let admin = given.one(control).map_or_else(|| listen(control), Ok)?;
    let plain = config.proxy.listen.iter().map(|at| (*at, false));
    let safe = config.proxy.tls.iter().flat_map(|tls| &tls.listen);
    let all: Vec<_> = plain.chain(safe.map(|at| (*at, true))).collect();
    let sockets = given.all(&all, settings::workers(config).get())?;
    Ok((admin, sockets))
}

/// With what a service manager has given, where an address cannot be had.
fn told(error: anyhow::Error, hint: &Option<String>) -> anyhow::Error {
    let taken = error.chain().any(|cause| {
        let bind = cause.downcast_ref::<BindError>();
        bind.is_some_and(|bind| matches!(bind, BindError::Listen { .. }))
            || cause.is::<std::io::Error>()
    });
    match hint.as_ref().filter(|_| taken) {
        Some(hint) => error.context(hint.clone()),
        None => error,
    }
}

pub(super) fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let taken = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    taken.with_context(|| format!("cannot listen on {address} (control.listen)"))
}

/// Whose sockets a proxy is to have.
pub(super) enum Before<'a> {
    Nobody,
    Proxy(&'a Running),
    /// Of another process.
    Process(Vec<Listening>),
}

pub(super) fn prepare(config: &Config, before: Before<'_>) -> anyhow::Result<(Proxy, Field)> {
    let carried = settings::proxy(config)?;
    let relay = Arc::new(Relay::default());
    let tap = Some(relay.clone() as Arc<dyn outgrow_shadow::Tap>);
    let proxy = match before {
        Before::Nobody => Proxy::bind(carried.clone(), tap)?,
        Before::Proxy(running) => Proxy::succeed(running, carried.clone(), tap)?,
        Before::Process(listening) => Proxy::inherit(listening, carried.clone(), tap)?,
    };
    let handle = proxy.handle();
    let acts = handle.take_acts().context("the guard is heard already")?;
    let field = Field {
        carried,
        handle,
        relay,
        earlier: None,
        acts: Arc::new(Mutex::new(acts)),
    };
    Ok((proxy, field))
}

fn announce(proxy: &[SocketAddr], admin: SocketAddr) {
    for address in proxy {
        info!(%address, "proxy listens");
    }
    info!(address = %admin, "admin API listens");
}
