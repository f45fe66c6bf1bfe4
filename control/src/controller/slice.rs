//! One slice in memory: its state, what runs on it, and the counts of its stage.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outgrow_rollout::cutover::CutoverStep;
use outgrow_rollout::{Bypass, ProxyEvidence, Revision, Side, SliceId, SliceState, Traffic};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bypass::Watching;
use super::link::WantedLink;
use super::{Ports, SliceSpec};
use crate::error::{ControlError, Result};
use crate::store::{Draft, StageMark, Store};
use crate::wall;

#[derive(Debug)]
pub(super) struct Slice {
    pub(super) id: SliceId,
    pub(super) spec: SliceSpec,
    /// Held over a change of the state in memory and in the store.
    pub(super) change: tokio::sync::Mutex<()>,
    held: Mutex<Held>,
}

/// What is known of the slice at this moment. Locked for moments only, never over an await.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) state: SliceState,
    /// What runs now; at most one operation.
    pub(super) busy: Option<String>,
    pub(super) cutover: Option<Running>,
    pub(super) mark: StageMark,
    /// Totals of the proxy when `mark` was last brought up to date.
    pub(super) base: ProxyEvidence,
    /// A rollback that is in force and that the store does not know yet.
    pub(super) unpublished: Option<Unpublished>,
    /// What the bridge was last brought to.
    pub(super) ensured: Option<WantedLink>,
    /// When a verification last began, and whether it still runs.
    pub(super) verify_began: Option<Instant>,
    pub(super) verifying: bool,
    /// Ids of approved steps, as in the store.
    pub(super) approved: Vec<String>,
    /// The last trouble of the bridge, for `status`.
    pub(super) trouble: Option<String>,
    /// Since when this process sees the slice mirrored, and in which stage.
    pub(super) mirrored: Option<(Instant, Traffic)>,
    /// Rows that the tripwire has seen to, as counted by the bridge; of this process alone, which
    /// looks at none that are older than `mirrored`.
    pub(super) seen_to: u64,
    /// Who writes past the proxy.
    pub(super) watching: Watching,
}

/// A cutover that runs in this process.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) step: CutoverStep,
    pub(super) to: Side,
    pub(super) began: Instant,
    /// Takes it back if it has not switched yet.
    pub(super) abort: CancellationToken,
}

#[derive(Debug, Clone)]
pub(super) struct Unpublished {
    /// The revision that the store still has.
    pub(super) expected: Revision,
    pub(super) entry: Draft,
}

impl Held {
    /// To be called when the state has changed, before that is in force: the first copies may
    /// write already.
    pub(super) fn mirrored_since(&mut self) -> Option<Instant> {
        let stage = self.state.traffic;
        let known = self.mirrored.filter(|(_, known)| *known == stage);
        let (since, _) = known.unwrap_or_else(|| (Instant::now(), stage));
        let mirrors = self.state.live().mirror;
        self.mirrored = mirrors.then_some((since, stage));
        mirrors.then_some(since)
    }

    /// What is known of who writes past the proxy on the side that takes the writes.
    pub(super) fn bypass(&self) -> Option<Bypass> {
        let found = self.watching.found.as_ref();
        found.filter(|of| of.side == self.state.writer).cloned()
    }
}

impl Slice {
    pub(super) async fn load(
        store: &Store,
        ports: &Ports,
        id: SliceId,
        spec: SliceSpec,
    ) -> Result<Self> {
        let state = store.load(&id, spec.has_tables).await?;
        let stored = store.mark(&id).await?;
        let watching = Watching::of(stored.as_ref().and_then(|mark| mark.bypass.clone()));
        let mark = stored
            .filter(|mark| mark.stage == stage(&state))
            .unwrap_or_else(|| begin_stage(&state, watching.found.clone()));
        let approved = store.approvals(&id).await?;
        let base = ports.data_plane.counts(&id).unwrap_or_default();
        Ok(Self {
            change: tokio::sync::Mutex::new(()),
            held: Mutex::new(Held {
                state,
                busy: None,
                cutover: None,
                mark,
                base,
                unpublished: None,
                ensured: None,
                verify_began: None,
                verifying: false,
                approved,
                trouble: None,
                mirrored: None,
                seen_to: 0,
                watching,
            }),
            id,
            spec,
        })
    }

    /// A panic elsewhere must not make the slice unusable: every write below leaves it whole.
    pub(super) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> SliceState {
        self.held().state.clone()
    }

    /// For how long the slice has been mirrored in its stage, as this process has seen it.
    pub(super) fn mirrored_for(&self) -> Option<Duration> {
        let since = self.held().mirrored_since();
        since.map(|since| since.elapsed())
    }

    /// Reserves the slice for one operation until the guard is dropped.
    pub(super) fn occupy(self: &Arc<Self>, what: &str) -> Result<Occupied> {
        let mut held = self.held();
        if let Some(running) = &held.busy {
            return Err(ControlError::Busy {
                slice: self.id.to_string(),
                what: running.clone(),
            });
        }
        held.busy = Some(what.to_owned());
        drop(held);
        Ok(Occupied(self.clone()))
    }
}

/// The slice is reserved while this lives.
#[derive(Debug)]
pub(super) struct Occupied(Arc<Slice>);

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.held().busy = None;
    }
}

/// Traffic and writer as text: what a hold time or a count belongs to.
pub(super) fn stage(state: &SliceState) -> String {
    format!("{}, writes {}", state.traffic, state.writer)
}

pub(super) fn begin_stage(state: &SliceState, bypass: Option<Bypass>) -> StageMark {
    StageMark {
        stage: stage(state),
        began: wall::now_ms(),
        counts: ProxyEvidence::default(),
        bypass,
    }
}
