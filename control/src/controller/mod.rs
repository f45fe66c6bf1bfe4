//! The controller: owns the states of the slices and every task that works on them.
//!
//! A handle is cheap to clone. One operation per slice runs at a time, except what takes traffic
//! back (rollback, guard, freeze), which never waits for anything.

mod builds;
mod bypass;
mod change;
mod cutover;
mod evidence;
mod link;
mod mirroring;
mod reconcile;
mod recovery;
mod runbook;
mod slice;
mod status;
mod traffic;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outgrow_rollout::{Plan, Side, SliceId};
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

pub use builds::{BuildStatus, BuildsStatus, ServiceSpec, TakenFrom};
pub use cutover::CutoverReport;
pub use link::{Settle, VerifyReport};
pub use runbook::{RunbookView, StepDone, StepStatus};
pub use status::{CutoverStatus, SliceStatus, Status};
pub use traffic::{FlipReport, FlipRequest, Lowered, RollbackReport, parse_traffic};

use self::slice::{Occupied, Slice};
use crate::error::{ControlError, Result, StoreError};
use crate::ports::{DataPlane, PortError, Process, Shadow, Sync};
use crate::store::{JournalEntry, Lease, Store, Verified};

/// How long a shutdown waits for work that must not be broken off; a cutover that has not ended
/// by then is resumed by the next start.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(15);

/// What the config says of a slice.
#[derive(Debug, Clone)]
pub struct SliceSpec {
    pub plan: Plan,
    pub has_tables: bool,
}

/// What the config says, as far as control has to know it.
#[derive(Debug, Clone, Default)]
pub struct Specs {
    pub slices: BTreeMap<SliceId, SliceSpec>,
    /// Those with builds.
    pub services: BTreeMap<String, ServiceSpec>,
}

/// The other parts, as control sees them.
#[derive(Clone)]
pub struct Ports {
    pub data_plane: Arc<dyn DataPlane>,
    pub sync: Arc<dyn Sync>,
    pub shadow: Arc<dyn Shadow>,
    pub process: Arc<dyn Process>,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ports")
    }
}

/// Who this controller is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Shown to another controller that wants the same store, e.g. `pid 42`.
    pub holder: String,
    /// Shown by `status`.
    pub version: String,
}

/// Handle of the controller. Cheap to clone; [`Controller::shutdown`] ends its tasks.
#[derive(Debug, Clone)]
pub struct Controller {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    lease: Lease,
    version: String,
    ports: Ports,
    slices: BTreeMap<SliceId, Arc<Slice>>,
    services: BTreeMap<String, Arc<builds::Service>>,
    /// Why no build is moved forward for a while.
    still: Arc<builds::Stillness>,
    /// Whether the lease is ours; without it nothing is changed but by taking traffic back.
    leads: AtomicBool,
    /// Ends the periodic tasks. Cutovers watch it only where they would wait.
    cancel: CancellationToken,
    tasks: TaskTracker,
    /// Makes the reconcilers look at once.
    wake: Notify,
}

impl Controller {
    /// Takes the lease, reads the states, resumes what was under way and puts all into force.
    ///
    /// # Errors
    /// [`StoreError::Held`] if another controller is alive on this store, and other
    /// [`StoreError`]s if it cannot be read; [`ControlError::Refused`] where requests go to a build that
    /// the config has no more. A bridge that cannot start is no error: the
    /// reconciler tries again and `status` tells.
    pub async fn start(
        store: Store,
        ports: Ports,
        specs: Specs,
        identity: Identity,
    ) -> Result<Self> {
        let lease = Lease::new(&identity.holder);
        store.acquire(&lease).await?;
        let (slices, services) = match load(&store, &ports, specs).await {
            Ok(loaded) => loaded,
            Err(error) => {
                // Else whoever comes next would wait until it lapses.
                let _ = store.give_up(&lease).await;
                return Err(error);
            }
        };
        let controller = Self {
            inner: Arc::new(Inner {
                store,
                lease,
                version: identity.version,
                ports,
                slices,
                services,
                still: Arc::default(),
                leads: AtomicBool::new(true),
                cancel: CancellationToken::new(),
                tasks: TaskTracker::new(),
                wake: Notify::new(),
            }),
        };
        // First of all, so that a slow recovery does not cost the lease.
        controller.spawn_lease();
        controller.put_builds_in_force();
        controller.restore_shadow().await;
        if let Err(error) = controller.recover().await {
            // Else its tasks would keep the lease from whoever comes next.
            controller.shutdown().await;
            return Err(error);
        }
        controller.spawn_reconcilers();
        Ok(controller)
    }

    /// Ends every task, saves what must outlive the process and gives the lease up.
    ///
    /// Waits for a cutover under way; not cancel safe in the sense that a dropped shutdown
    /// leaves tasks running.
    pub async fn shutdown(&self) {
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        let ended = tokio::time::timeout(SHUTDOWN_GRACE, self.inner.tasks.wait()).await;
        if ended.is_err() {
            warn!("tasks did not end in time; the next start resumes them");
        }
        self.save().await;
        if let Err(error) = self.inner.store.give_up(&self.inner.lease).await {
            warn!(error = %crate::error::chain(&error), "the lease could not be given up");
        }
        self.inner.store.close().await;
    }

    /// Names of all slices, in order.
    #[must_use]
    pub fn slices(&self) -> Vec<SliceId> {
        self.inner.slices.keys().cloned().collect()
    }

    /// Entries of the journal; see [`Store::journal`].
    ///
    /// # Errors
    /// [`ControlError::NotFound`] for an unknown slice, else [`StoreError`].
    pub async fn journal(
        &self,
        slice: Option<&str>,
        after: Option<i64>,
        limit: Option<i64>,
    ) -> Result<Vec<JournalEntry>> {
        if let Some(name) = slice {
            self.slice(name)?;
        }
        Ok(self.inner.store.journal(slice, after, limit).await?)
    }

    /// Walks the whole chain of the journal.
    ///
    /// # Errors
    /// Returns [`StoreError`] if it cannot be read.
    pub async fn verify_journal(&self) -> Result<Verified> {
        Ok(self.inner.store.verify_journal().await?)
    }

    /// The parts, for what the API only passes on.
    #[must_use]
    pub fn ports(&self) -> &Ports {
        &self.inner.ports
    }

    /// Finds a slice, or says which there are.
    pub(crate) fn known(&self, name: &str) -> Result<SliceId> {
        Ok(self.slice(name)?.id.clone())
    }

    /// Runs an operation to its end, whether or not somebody still waits for it.
    pub(crate) async fn to_end<T: Send + 'static>(
        &self,
        operation: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let task = self.inner.tasks.spawn(operation);
        task.await.unwrap_or(Err(ControlError::Stopping))
    }

    /// Adds an ignore rule to the shadow, with a journal entry.
    ///
    /// # Errors
    /// [`ControlError::Usage`] for a rule that the shadow refuses.
    pub async fn add_rule(&self, name: &str, rule: Value, note: Note) -> Result<Value> {
        let slice = self.slice(name)?;
        self.must_lead()?;
        let refused = |error: PortError| ControlError::Usage(error.to_string());
        self.shadow().add_rule(&slice.id, &rule).map_err(refused)?;
        self.note(&slice, "rule-added", note, rule).await?;
        Ok(self.shadow().rules(&slice.id)?)
    }

    /// What other rules would have said of the stored pairs; changes nothing.
    ///
    /// # Errors
    /// [`ControlError::NotFound`], [`ControlError::Usage`] for what the shadow cannot read.
    pub async fn what_if(&self, name: &str, changed: Value) -> Result<Value> {
        let slice = self.slice(name)?.id.clone();
        let shadow = self.ports().shadow.clone();
        let asked = tokio::task::spawn_blocking(move || shadow.what_if(&slice, &changed));
        let asked = asked.await.map_err(|error| PortError(error.to_string()))?;
        asked.map_err(|error| ControlError::Usage(error.to_string()))
    }

    /// Drops the evidence of the shadow, with a journal entry.
    ///
    /// # Errors
    /// [`ControlError::NotFound`], [`ControlError::Store`].
    pub async fn reset_shadow(&self, name: &str, note: Note) -> Result<()> {
        let slice = self.slice(name)?;
        self.must_lead()?;
        let dropped = json(&self.shadow().evidence(&slice.id));
        self.shadow().reset(&slice.id);
        self.note(&slice, "shadow-reset", note, dropped).await
    }

    /// Reserves every slice until the value is dropped, so that nothing is under way.
    ///
    /// # Errors
    /// [`ControlError::Busy`] if something is.
    pub fn occupy(&self, what: &str) -> Result<Quiet> {
        self.must_lead()?;
        let slices = self.inner.slices.values();
        let all = slices.map(|slice| slice.occupy(what));
        let _slices = all.collect::<Result<_>>()?;
        let _builds = builds::Still::begin(&self.inner.still, what)?;
        Ok(Quiet { _slices, _builds })
    }

    /// Says in the journal of every slice that another config or binary is in force.
    ///
    /// # Errors
    /// [`ControlError::Store`].
    pub async fn replaced(&self, action: &'static str, note: &Note, detail: &Value) -> Result<()> {
        for slice in self.inner.slices.values() {
            let entry = self.note(slice, action, note.clone(), detail.clone());
            entry.await?;
        }
        Ok(())
    }

    fn slice(&self, name: &str) -> Result<Arc<Slice>> {
        let found = self
            .inner
            .slices
            .iter()
            .find(|(id, _)| id.as_str() == name)
            .map(|(_, slice)| slice.clone());
        found.ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &str) -> ControlError {
        let names: Vec<&str> = self.inner.slices.keys().map(SliceId::as_str).collect();
        let close = names
            .iter()
            .copied()
            // Above this two names have little to do with each other.
            .filter(|known| strsim::jaro_winkler(known, name) > 0.8)
            .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
        let mut hint = match close {
            Some(close) => format!("did you mean `{close}`? "),
            None => String::new(),
        };
        hint.push_str(&format!("the slices are: {}", names.join(", ")));
        ControlError::NotFound {
            what: "slice",
            name: name.to_owned(),
            hint,
        }
    }

    fn must_lead(&self) -> Result<()> {
        if self.inner.cancel.is_cancelled() {
            return Err(ControlError::Stopping);
        }
        if self.inner.leads.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(ControlError::Store(StoreError::Held {
            holder: "another process".to_owned(),
        }))
    }

    fn data_plane(&self) -> &dyn DataPlane {
        &*self.inner.ports.data_plane
    }

    fn sync(&self) -> &dyn Sync {
        &*self.inner.ports.sync
    }

    fn shadow(&self) -> &dyn Shadow {
        &*self.inner.ports.shadow
    }
}

type Loaded = (
    BTreeMap<SliceId, Arc<Slice>>,
    BTreeMap<String, Arc<builds::Service>>,
);

async fn load(store: &Store, ports: &Ports, specs: Specs) -> Result<Loaded> {
    let (mut slices, mut services) = (BTreeMap::new(), BTreeMap::new());
    for (id, spec) in specs.slices {
        let slice = Slice::load(store, ports, id.clone(), spec).await?;
        slices.insert(id, Arc::new(slice));
    }
    for (name, spec) in specs.services {
        let service = builds::Service::load(store, name.clone(), spec).await?;
        services.insert(name, Arc::new(service));
    }
    Ok((slices, services))
}

/// No slice has anything under way while this lives.
#[derive(Debug)]
pub struct Quiet {
    _slices: Vec<Occupied>,
    _builds: builds::Still,
}

/// By whom and why something is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub by: String,
    pub reason: String,
}

impl Note {
    #[must_use]
    pub fn new(by: Option<&str>, reason: Option<&str>) -> Self {
        Self {
            by: by.unwrap_or("operator").to_owned(),
            reason: reason.unwrap_or_default().to_owned(),
        }
    }

    /// What control does of its own accord.
    fn own(reason: &str) -> Self {
        Self::new(Some("controller"), Some(reason))
    }
}

/// JSON of plain data, which always serializes.
fn json<T: serde::Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

fn direction(to: Side) -> String {
    format!("{}->{}", to.other(), to)
}
