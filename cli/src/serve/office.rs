//! Everything of a config but its proxy: control, bridge, shadow, the admin API. It can be closed
//! and opened again while a proxy carries on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use http::Method;
use outgrow_control::{
    Controller, Identity, Lowered, Ports, ServiceSpec, SliceSpec, Specs, Store, TakenFrom, Token,
};
use outgrow_proxy::{Act, Handle, Settings};
use outgrow_rollout::SliceId;
use outgrow_shadow::{Shadow, Tap, Ticket};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::data_plane::Carrier;
use super::links::Links;
use super::mirror::Mirror;
use super::reload::Reloads;
use super::settings;
use super::upgrade::Earlier;
use crate::config::{Config, LEGACY};

/// How often the proxy is told how far the bridge has come. Well below the time that a person
/// needs to follow a link after a write.
const FRESHNESS_PERIOD: Duration = Duration::from_millis(25);

/// What a back office knows of its proxy.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) carried: Settings,
    pub(super) handle: Handle,
    pub(super) relay: Arc<Relay>,
    /// The process that this one has taken over from, as long as it lives.
    pub(super) earlier: Option<Earlier>,
    /// What the guard does by itself; one office at a time listens.
    pub(super) acts: Arc<Mutex<mpsc::Receiver<Act>>>,
}

/// The shadow of the office that is open, as its proxy sees it.
#[derive(Debug, Default)]
pub(super) struct Relay(ArcSwapOption<Shadow>);

impl Tap for Relay {
    fn admit(
        &self,
        slice: &SliceId,
        route: &Arc<str>,
        method: &Method,
        client: u64,
    ) -> Option<Ticket> {
        let shadow = self.0.load();
        shadow.as_ref()?.admit(slice, route, method, client)
    }
}

/// An office at work.
#[derive(Debug)]
pub(super) struct Office {
    pub(super) controller: Controller,
    links: Arc<Links>,
    shadow: Shadow,
    cancel: CancellationToken,
    tasks: TaskTracker,
    admin: Counter,
}

/// The admin API, which ends after the office so that it can answer what closed that.
#[derive(Debug)]
pub(super) struct Counter {
    cancel: CancellationToken,
    serving: JoinHandle<()>,
}

impl Counter {
    /// Lets answers under way end.
    pub(super) async fn close(mut self) {
        self.end().await;
    }

    async fn end(&mut self) {
        self.cancel.cancel();
        if let Err(error) = (&mut self.serving).await {
            warn!(%error, "the admin API did not end well");
        }
    }
}

impl Office {
    /// # Errors
    /// Whatever keeps a part from starting; nothing is left running then.
    pub(super) async fn open(
        config: &Config,
        field: &Field,
        (admin, reloads): (&std::net::TcpListener, &Reloads),
        number: u64,
    ) -> anyhow::Result<Self> {
        let admin = admin.try_clone().and_then(TcpListener::from_std)?;
        let token = Token::load_or_create(&config.control.token_file)?;
        let at = config.control.store.to_string();
        let opened = Store::open(&at).await;
        let store =
            opened.with_context(|| format!("cannot use the store `{at}` (control.store)"))?;
        let links = Arc::new(Links::new(config)?);
        let shadow = Shadow::start(
            settings::shadow(config, &field.carried)?,
            links.clone(),
            &tokio::runtime::Handle::current(),
        )?;
        let ports = Ports {
            data_plane: Arc::new(Carrier::new(field.handle.clone(), field.earlier.clone())),
            sync: links.clone(),
            shadow: Arc::new(Mirror::new(shadow.clone())),
            process: Arc::new(reloads.clone()),
        };
        let identity = identity(number);
        let controller = match Controller::start(store, ports, specs(config), identity).await {
            Ok(controller) => controller,
            Err(error) => {
                // It may have begun to ask for links.
                end(&shadow, &links).await;
                return Err(error.into());
            }
        };
        let closing = CancellationToken::new();
        let serving =
            outgrow_control::serve_admin(admin, controller.clone(), token, closing.clone());
        let serving = match serving {
            Ok(serving) => serving,
            Err(error) => {
                controller.shutdown().await;
                end(&shadow, &links).await;
                return Err(error.into());
            }
        };
        field.relay.0.store(Some(Arc::new(shadow.clone())));
        let office = Self {
            controller,
            links,
            shadow,
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
            admin: Counter {
                cancel: closing,
                serving,
            },
        };
        office.spawn(field);
        Ok(office)
    }

    fn spawn(&self, field: &Field) {
        let (controller, cancel) = (self.controller.clone(), self.cancel.clone());
        let acts = field.acts.clone();
        self.tasks
            .spawn(report_acts(acts, controller.clone(), cancel.clone()));
        let links = self.links.clone();
        self.tasks
            .spawn(links.report_failures(controller, cancel.clone()));
        let (links, handle) = (self.links.clone(), field.handle.clone());
        self.tasks.spawn(carry_freshness(links, handle, cancel));
    }

    /// Ends everything but the admin API, in order, and keeps what must outlive it. The proxy goes
    /// on with the states that are in force.
    pub(super) async fn close(self) -> Counter {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        // Before the controller, which saves the evidence last.
        self.shadow.shutdown().await;
        self.controller.shutdown().await;
        self.links.shutdown().await;
        self.admin
    }

    /// The end of the process: nobody is to ask for anything more.
    pub(super) async fn end(mut self) {
        self.admin.end().await;
        drop(self.close().await);
    }
}

/// Ends what an office has begun that cannot be opened.
async fn end(shadow: &Shadow, links: &Links) {
    shadow.shutdown().await;
    links.shutdown().await;
}

fn specs(config: &Config) -> Specs {
    let spec = |slice: &crate::config::Slice| SliceSpec {
        plan: slice.plan.clone(),
        has_tables: !slice.tables.is_empty(),
    };
    let slices = config.slices.iter();
    let services = config.built().into_iter().map(|(name, builds)| {
        // All of them are about the legacy side.
        let slices = config.slices.iter();
        let slices = slices.filter(|slice| name == LEGACY || slice.service == name);
        let spec = ServiceSpec {
            builds,
            slices: slices.map(|slice| slice.id.clone()).collect(),
        };
        (name.to_owned(), spec)
    });
    Specs {
        slices: slices
            .map(|slice| (slice.id.clone(), spec(slice)))
            .collect(),
        services: services.collect(),
    }
}

/// Each config's is another one, so that an office which ends never gives its successor's lease up.
fn identity(number: u64) -> Identity {
    let process = std::process::id();
    Identity {
        holder: match number {
            1 => format!("pid {process}"),
            _ => format!("pid {process}, config {number}"),
        },
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Tells control what the guard did, so that the store and the journal follow.
async fn report_acts(
    acts: Arc<Mutex<mpsc::Receiver<Act>>>,
    controller: Controller,
    cancel: CancellationToken,
) {
    let mut acts = acts.lock().await;
    loop {
        let act = tokio::select! {
            () = cancel.cancelled() => return,
            act = acts.recv() => act,
        };
        let told = match act {
            None => return,
            Some(Act::Lowered(act)) => {
                let lowered = Lowered {
                    slice: act.slice,
                    revision: act.at_revision,
                    verdict: act.verdict,
                };
                controller.lowered(lowered).await
            }
            Some(Act::TakenBack(act)) => {
                let taken = TakenFrom {
                    service: act.service,
                    slice: act.slice,
                    revision: act.at_revision,
                    verdict: act.verdict,
                };
                controller.taken_back(taken).await
            }
        };
        if let Err(error) = told {
            warn!(%error, "the guard's act is in force but not in the store yet");
        }
    }
}

/// Keeps the proxy's picture of the bridge fresh, for reading one's own writes.
async fn carry_freshness(links: Arc<Links>, handle: Handle, cancel: CancellationToken) {
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
