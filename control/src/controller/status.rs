//! What a person sees of the slices.

use std::sync::Arc;

use outgrow_rollout::cutover::CutoverStep;
use outgrow_rollout::{Evidence, Live, Side, SliceId, SliceState, next_step};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Controller;
use super::runbook::StepStatus;
use super::slice::Slice;
use crate::error::Result;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// This process may change states.
    pub leads: bool,
    pub slices: Vec<SliceStatus>,
    pub proxy: Value,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SliceStatus {
    pub slice: SliceId,
    pub state: SliceState,
    /// The traffic as text.
    pub stage: String,
    /// What the proxies do, after what their guard may have lowered.
    pub effective: Live,
    pub evidence: Evidence,
    pub cutover: Option<CutoverStatus>,
    pub next: Option<StepStatus>,
    /// What runs on the slice now.
    pub busy: Option<String>,
    /// The last trouble of the bridge.
    pub trouble: Option<String>,
    /// The state is stored; false for a rollback while the store is down.
    pub published: bool,
}

/// A cutover under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CutoverStatus {
    pub step: CutoverStep,
    pub to: Side,
    pub running_ms: u64,
}

impl Controller {
    /// Everything at one glance.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            version: self.inner.version.clone(),
            leads: self.inner.leads.load(std::sync::atomic::Ordering::Acquire),
            slices: self
                .inner
                .slices
                .values()
                .map(|slice| self.status_of(slice))
                .collect(),
            proxy: self.data_plane().describe(),
        }
    }

    /// One slice.
    ///
    /// # Errors
    /// [`crate::ControlError::NotFound`] with the names that there are.
    pub fn slice_status(&self, name: &str) -> Result<SliceStatus> {
        Ok(self.status_of(&self.slice(name)?))
    }

    fn status_of(&self, slice: &Arc<Slice>) -> SliceStatus {
        let state = slice.state();
        let evidence = self.evidence_of(slice);
        let next = next_step(&state, &slice.spec.plan)
            .map(|step| self.step_status(slice, &state, step, &evidence));
        let held = slice.held();
        SliceStatus {
            slice: slice.id.clone(),
            stage: state.traffic.to_string(),
            effective: self
                .data_plane()
                .live(&slice.id)
                .unwrap_or_else(|| state.live()),
            evidence,
            cutover: held.cutover.as_ref().map(|running| CutoverStatus {
                step: running.step,
                to: running.to,
                running_ms: u64::try_from(running.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            }),
            next,
            busy: held.busy.clone(),
            trouble: held.trouble.clone(),
            published: held.unpublished.is_none(),
            state,
        }
    }
}
