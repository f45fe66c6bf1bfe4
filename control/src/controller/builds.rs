//! The builds of services: moved by people, one change at a time for each service.
//!
//! What moves requests to a build is stored first; what takes them back is in force first, and stored
//! as soon as that can be.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outgrow_rollout::{
    BuildFigures, BuildMove, BuildName, BuildsState, Revision, SliceId, TakenBack, Trial, Verdict,
    Weight,
};
use serde::{Deserialize, Serialize};
use serde_json::json as object;
use tracing::{info, warn};

use super::{Controller, Note, json};
use crate::error::{ControlError, Result, StoreError, chain};
use crate::ports::PortError;
use crate::store::{Draft, Store};

/// What took requests back says so after this long, whether or not the store has answered.
const PUBLISH_WAIT: Duration = Duration::from_secs(1);

/// What the config says of a service with builds.
#[derive(Debug, Clone)]
pub struct ServiceSpec {
    /// In the order of the config, at least one; the first is active at first.
    pub builds: Vec<BuildName>,
    /// Which the service answers for; their journals tell of it.
    pub slices: Vec<SliceId>,
}

/// A proxy's guard has taken requests back from a build by itself.
#[derive(Debug, Clone)]
pub struct TakenFrom {
    pub service: String,
    /// By whose requests it was judged; of the legacy side by all.
    pub slice: Option<SliceId>,
    /// The revision that was in force when it acted.
    pub revision: Revision,
    pub verdict: Verdict,
}

/// A service with builds, in memory.
#[derive(Debug)]
pub(super) struct Service {
    name: String,
    spec: ServiceSpec,
    /// Held over a change of the state in memory and in the store.
    change: tokio::sync::Mutex<()>,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    state: BuildsState,
    /// In force, and not in the store yet: the revision that it still has, and what to tell.
    unpublished: Option<(Revision, Draft)>,
}

/// A build, and what requests it has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BuildStatus {
    #[serde(flatten)]
    pub figures: BuildFigures,
    /// Of the clients.
    pub weight: Weight,
    pub active: bool,
}

/// The builds of a service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BuildsStatus {
    pub service: String,
    pub revision: Revision,
    pub active: BuildName,
    pub trial: Option<Trial>,
    /// Where `back` goes.
    pub before: Option<BuildName>,
    /// By the guard, since requests were last moved to a build.
    #[serde(default)]
    pub taken_back: Option<TakenBack>,
    pub builds: Vec<BuildStatus>,
    /// The state is stored.
    pub published: bool,
}

impl Service {
    pub(super) async fn load(store: &Store, name: String, spec: ServiceSpec) -> Result<Self> {
        let Some(first) = spec.builds.first() else {
            let text = format!("service `{name}` has no build");
            return Err(ControlError::Refused(PortError(text)));
        };
        let stored = store.builds(&name).await?;
        let state = stored.unwrap_or_else(|| BuildsState::new(first.clone()));
        if let Some(missing) = state.in_use().find(|build| !spec.builds.contains(build)) {
            let text = format!(
                "requests go to build `{missing}` of service `{name}`, and the config has none of \
                 that name; add it, `build switch` to another one, then remove it"
            );
            return Err(ControlError::Refused(PortError(text)));
        }
        Ok(Self {
            name,
            spec,
            change: tokio::sync::Mutex::new(()),
            held: Mutex::new(Held {
                state,
                unpublished: None,
            }),
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Plain data: a panic elsewhere cannot leave it half changed.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> BuildsState {
        self.held().state.clone()
    }

    /// Whose journals tell of it.
    fn told(&self) -> Vec<String> {
        match self.spec.slices.as_slice() {
            [] => vec![self.name.clone()],
            slices => slices.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Why no build is moved forward, and none is said to be drained.
#[derive(Debug, Default)]
pub(super) struct Stillness(Mutex<Option<String>>);

impl Stillness {
    fn why(&self) -> MutexGuard<'_, Option<String>> {
        // Plain data: a panic elsewhere cannot leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, service: &str) -> Result<()> {
        match self.why().clone() {
            None => Ok(()),
            Some(what) => Err(ControlError::Occupied {
                service: service.to_owned(),
                what,
            }),
        }
    }
}

/// Builds stay where they are while this lives.
#[derive(Debug)]
pub(super) struct Still(Arc<Stillness>);

impl Still {
    pub(super) fn begin(of: &Arc<Stillness>, what: &str) -> Result<Self> {
        let mut why = of.why();
        if let Some(other) = &*why {
            let (service, what) = ("the process".to_owned(), other.clone());
            return Err(ControlError::Occupied { service, what });
        }
        *why = Some(what.to_owned());
        drop(why);
        Ok(Self(of.clone()))
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        *self.0.why() = None;
    }
}

fn action(wanted: &BuildMove) -> &'static str {
    match wanted {
        BuildMove::Switch(_) => "build-switch",
        BuildMove::Weight(..) => "build-weight",
        BuildMove::Drain(_) => "build-drain",
        BuildMove::Back => "build-back",
        BuildMove::Abort(_) => "build-abort",
    }
}

impl Controller {
    /// All services with builds, by name.
    #[must_use]
    pub fn builds(&self) -> Vec<BuildsStatus> {
        let all = self.inner.services.values();
        all.map(|service| self.builds_of(service)).collect()
    }

    /// One service's.
    ///
    /// # Errors
    /// [`ControlError::NotFound`] with the services that have builds.
    pub fn builds_status(&self, name: &str) -> Result<BuildsStatus> {
        Ok(self.builds_of(self.service(name)?))
    }

    /// Moves requests from one build to another, for every request that begins from now on. `forced`
    /// does not ask whether anybody of a build is well.
    ///
    /// # Errors
    /// [`ControlError::NotFound`], [`ControlError::Build`], [`ControlError::Store`]. Where it takes
    /// requests back it is no error that the store does not answer.
    pub async fn move_builds(
        &self,
        name: &str,
        wanted: BuildMove,
        forced: bool,
        note: Note,
    ) -> Result<BuildsStatus> {
        let service = self.service(name)?.clone();
        if let BuildMove::Switch(build) | BuildMove::Weight(build, _) | BuildMove::Drain(build) =
            &wanted
        {
            known(&service, build)?;
        }
        let known = self.data_plane().builds(name);
        let back = match &wanted {
            BuildMove::Back | BuildMove::Drain(_) | BuildMove::Abort(_) => true,
            BuildMove::Weight(build, weight) => *weight < service.state().share(build),
            BuildMove::Switch(_) => false,
        };
        if !back {
            self.must_lead()?;
        }
        if !back || matches!(wanted, BuildMove::Drain(_)) {
            self.inner.still.check(name)?;
        }
        let decide = |before: &BuildsState| {
            let after = before.advance(&wanted, &known, forced)?;
            let draft = Draft {
                by: note.by.clone(),
                action: action(&wanted).to_owned(),
                reason: note.reason.clone(),
                before: json(before),
                after: json(&after),
                evidence: object!({"service": name, "builds": known, "forced": forced}),
            };
            Ok::<_, ControlError>((after, draft))
        };
        match back {
            true => self.lower_builds(&service, decide).await?,
            false => self.raise_builds(&service, decide).await?,
        }
        let state = service.state();
        info!(service = %name, action = action(&wanted), by = %note.by, active = %state.active,
              revision = %state.revision, "builds changed");
        Ok(self.builds_of(&service))
    }

    /// Takes over what the guard of a proxy did with a build. Where somebody has moved requests since,
    /// that stands.
    ///
    /// # Errors
    /// [`ControlError::NotFound`] for a service that has no builds, [`ControlError::Build`] where the
    /// build before is gone.
    pub async fn taken_back(&self, taken: TakenFrom) -> Result<()> {
        let service = self.service(&taken.service)?.clone();
        let known = self.data_plane().builds(&taken.service);
        let wanted = BuildMove::Abort(taken.verdict.reason.clone());
        let decide = |before: &BuildsState| {
            let stale = before.revision != taken.revision;
            let after = match stale {
                true => before.clone(),
                false => before.advance(&wanted, &known, false)?,
            };
            let draft = Draft {
                by: "guard@proxy".to_owned(),
                action: action(&wanted).to_owned(),
                reason: taken.verdict.reason.clone(),
                before: json(before),
                after: json(&after),
                evidence: object!({
                    "service": taken.service,
                    "slice": taken.slice,
                    "builds": known,
                    "verdict": taken.verdict,
                }),
            };
            Ok::<_, ControlError>((after, draft))
        };
        self.lower_builds(&service, decide).await
    }

    /// Stored, then in force.
    async fn raise_builds(
        &self,
        service: &Arc<Service>,
        decide: impl FnOnce(&BuildsState) -> Result<(BuildsState, Draft)>,
    ) -> Result<()> {
        let _one_at_a_time = service.change.lock().await;
        self.publish_builds(service).await?;
        let before = service.state();
        let (after, draft) = decide(&before)?;
        let (store, lease) = (&self.inner.store, &self.inner.lease);
        let told = service.told();
        let of = (service.name.as_str(), before.revision);
        let stored = store.change_builds(lease, of, &after, (&told, &draft));
        if let Err(error) = stored.await {
            self.note_store_trouble(&error);
            return Err(error.into());
        }
        let mut held = service.held();
        // Whoever took requests back meanwhile has the last word: it is stored on top of this.
        if let Some((expected, _)) = &mut held.unpublished {
            *expected = after.revision;
            let lowered = Revision(held.state.revision.0.max(after.revision.0)).next();
            held.state.revision = lowered;
            self.data_plane().apply_builds(&service.name, &held.state);
            return Ok(());
        }
        self.data_plane().apply_builds(&service.name, &after);
        held.state = after;
        Ok(())
    }

    /// In force, then stored.
    async fn lower_builds(
        &self,
        service: &Arc<Service>,
        decide: impl FnOnce(&BuildsState) -> Result<(BuildsState, Draft)>,
    ) -> Result<()> {
        {
            let mut held = service.held();
            let before = held.state.clone();
            let (after, draft) = decide(&before)?;
            if after == before {
                return Ok(());
            }
            // Two in a row become one change of the store, told by the later entry.
            let earlier = held.unpublished.take();
            let expected = earlier.map_or(before.revision, |(expected, _)| expected);
            self.data_plane().apply_builds(&service.name, &after);
            held.unpublished = Some((expected, draft));
            held.state = after;
        }
        let (controller, own) = (self.clone(), service.clone());
        let task = self.inner.tasks.spawn(async move {
            let _one_at_a_time = own.change.lock().await;
            controller.publish_builds(&own).await
        });
        match tokio::time::timeout(PUBLISH_WAIT, task).await {
            Ok(Ok(Err(error))) => {
                warn!(service = %service.name, error = %chain(&error), "taken back in memory only");
            }
            Ok(Ok(Ok(())) | Err(_)) => {}
            Err(_) => warn!(service = %service.name, "taken back; the store does not answer yet"),
        }
        Ok(())
    }

    /// Stores what is in force already. Only with the service's change held.
    async fn publish_builds(&self, service: &Arc<Service>) -> Result<()> {
        let (after, pending) = {
            let held = service.held();
            (held.state.clone(), held.unpublished.clone())
        };
        let Some((expected, draft)) = pending else {
            return Ok(());
        };
        let (store, lease) = (&self.inner.store, &self.inner.lease);
        let (of, told) = ((service.name.as_str(), expected), service.told());
        let stored = store.change_builds(lease, of, &after, (&told, &draft));
        let known = match stored.await {
            Ok(()) => after,
            // Ours whose answer was lost, or of who held the lease meanwhile: ours goes on top.
            Err(StoreError::Moved { actual }) => {
                let known = store.builds(&service.name).await?;
                let mut held = service.held();
                if known.as_ref() == Some(&held.state) {
                    held.unpublished = None;
                } else if let Some((expected, _)) = &mut held.unpublished {
                    *expected = actual;
                    held.state.revision = Revision(held.state.revision.0.max(actual.0)).next();
                }
                return Ok(());
            }
            Err(error) => {
                self.note_store_trouble(&error);
                return Err(error.into());
            }
        };
        let mut held = service.held();
        if held.state == known {
            held.unpublished = None;
        } else if let Some((expected, _)) = &mut held.unpublished {
            *expected = known.revision;
        }
        Ok(())
    }

    /// What could not be stored at once.
    pub(super) async fn publish_all_builds(&self) {
        for service in self.inner.services.values() {
            if service.held().unpublished.is_none() {
                continue;
            }
            let _one_at_a_time = service.change.lock().await;
            if let Err(error) = self.publish_builds(service).await {
                warn!(service = %service.name, error = %chain(&error), "not stored yet");
            }
        }
    }

    /// Somebody else may have changed them while the lease was not ours.
    pub(super) async fn reread_builds(&self) {
        for service in self.inner.services.values() {
            let _one_at_a_time = service.change.lock().await;
            let stored = self.inner.store.builds(&service.name).await;
            let known = |state: &BuildsState| {
                let mut used = state.in_use();
                used.all(|build| service.spec.builds.contains(build))
            };
            if let Ok(Some(state)) = stored
                && known(&state)
                && service.held().unpublished.is_none()
            {
                self.data_plane().apply_builds(&service.name, &state);
                service.held().state = state;
            }
        }
    }

    /// At the start, before the first request.
    pub(super) fn put_builds_in_force(&self) {
        for service in self.inner.services.values() {
            self.data_plane()
                .apply_builds(&service.name, &service.state());
        }
    }

    fn builds_of(&self, service: &Service) -> BuildsStatus {
        let figures = self.data_plane().builds(&service.name);
        let held = service.held();
        let state = &held.state;
        let of = |figures: BuildFigures| BuildStatus {
            weight: state.share(&figures.build),
            active: figures.build == state.active,
            figures,
        };
        BuildsStatus {
            service: service.name.clone(),
            revision: state.revision,
            active: state.active.clone(),
            trial: state.trial.clone(),
            before: state.before.clone(),
            taken_back: state.taken_back.clone(),
            builds: figures.into_iter().map(of).collect(),
            published: held.unpublished.is_none(),
        }
    }

    fn service(&self, name: &str) -> Result<&Arc<Service>> {
        let services = &self.inner.services;
        services.get(name).ok_or_else(|| {
            let names: Vec<&str> = services.keys().map(String::as_str).collect();
            ControlError::NotFound {
                what: "service with builds",
                name: name.to_owned(),
                hint: match names.is_empty() {
                    true => "add [services.NAME.builds.BUILD] with urls to the config".to_owned(),
                    false => format!("those with builds are: {}", names.join(", ")),
                },
            }
        })
    }
}

fn known(service: &Service, build: &BuildName) -> Result<()> {
    let builds = &service.spec.builds;
    if builds.contains(build) {
        return Ok(());
    }
    let names: Vec<&str> = builds.iter().map(BuildName::as_str).collect();
    Err(ControlError::NotFound {
        what: "build",
        name: build.to_string(),
        hint: format!("service `{}` has: {}", service.name, names.join(", ")),
    })
}
