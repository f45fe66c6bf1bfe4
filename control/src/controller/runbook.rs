//! The runbook of a slice: its steps with their gates, and taking the next one.

use std::sync::Arc;

use outgrow_rollout::gates::answer;
use outgrow_rollout::{
    Answer, DataPhase, Evidence, GateResult, IllegalMove, Move, Side, SliceId, SliceState, Step,
    StepState, Traffic, next_step, steps_with_state,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json as object};

use super::change::Wanted;
use super::slice::Slice;
use super::traffic::RollbackReport;
use super::{Controller, Note, json};
use crate::error::{ControlError, Result};
use crate::store::Draft;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunbookView {
    pub slice: SliceId,
    pub steps: Vec<StepStatus>,
}

/// A step and where it stands. Gates are given for the next step only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepStatus {
    pub id: String,
    pub title: String,
    pub state: StepState,
    pub gates: Vec<GateResult>,
}

/// A step that was taken, or with `done` false would be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepDone {
    pub step: String,
    pub done: bool,
    pub detail: Value,
}

impl Controller {
    pub(super) fn step_status(
        &self,
        slice: &Arc<Slice>,
        state: &SliceState,
        step: Step,
        evidence: &Evidence,
    ) -> StepStatus {
        StepStatus {
            id: step.id(),
            title: step.title(),
            state: StepState::Next,
            gates: self.gates_of(slice, state, step, evidence),
        }
    }

    /// All steps of a slice with where they stand.
    ///
    /// # Errors
    /// [`ControlError::NotFound`].
    pub fn runbook(&self, name: &str) -> Result<RunbookView> {
        let slice = self.slice(name)?;
        let (state, evidence) = (slice.state(), self.evidence_of(&slice));
        let steps = steps_with_state(&state, &slice.spec.plan)
            .into_iter()
            .map(|(step, place)| match place {
                StepState::Next => self.step_status(&slice, &state, step, &evidence),
                place => StepStatus {
                    id: step.id(),
                    title: step.title(),
                    state: place,
                    gates: Vec::new(),
                },
            })
            .collect();
        Ok(RunbookView {
            slice: slice.id.clone(),
            steps,
        })
    }

    /// Takes the next step of a slice if its gates allow it.
    ///
    /// # Errors
    /// [`ControlError::Gate`] and [`ControlError::Inconclusive`] with all gates;
    /// [`ControlError::Aborted`] for a cutover that took itself back.
    pub async fn runbook_next(&self, name: &str, dry_run: bool, note: Note) -> Result<StepDone> {
        let slice = self.slice(name)?;
        self.must_lead()?;
        let state = slice.state();
        let Some(step) = next_step(&state, &slice.spec.plan) else {
            return Err(ControlError::Usage(format!(
                "slice `{name}` has no step left: it is at {}",
                state.traffic
            )));
        };
        if let Some(reason) = &state.frozen {
            return Err(IllegalMove::Frozen(reason.clone()).into());
        }
        let began_already = step == Step::Retire && state.traffic == Traffic::Retired;
        let (gates, evidence) = if began_already {
            // The gates were met when it began; asking again could leave it half-way for ever.
            (Vec::new(), self.evidence_of(&slice))
        } else {
            self.pass_gates(&slice, step)?
        };
        debug_assert!(
            answer(&gates) == Answer::Met,
            "pass_gates lets nothing else through"
        );
        if dry_run {
            return Ok(StepDone {
                step: step.id(),
                done: false,
                detail: object!({"gates": gates}),
            });
        }
        let proof = object!({"step": step.id(), "gates": gates, "evidence": evidence});
        let detail = self.take(&slice, &state, step, note, proof).await?;
        self.use_approval(&slice, step).await;
        Ok(StepDone {
            step: step.id(),
            done: true,
            detail,
        })
    }

    async fn take(
        &self,
        slice: &Arc<Slice>,
        asked_on: &SliceState,
        step: Step,
        note: Note,
        proof: Value,
    ) -> Result<Value> {
        match step {
            Step::Sync => {
                let after = self.sync_start(slice.id.as_str(), note).await?;
                Ok(object!({"revision": after.revision}))
            }
            Step::Cutover => {
                let report = self
                    .run_cutover(slice, Side::Extracted, note, proof)
                    .await?;
                if report.switched() {
                    Ok(json(&report))
                } else {
                    Err(ControlError::Aborted(Box::new(report)))
                }
            }
            Step::Retire => self.retire(slice, note, proof).await,
            Step::Shadow | Step::Canary(_) | Step::Extracted => {
                let _occupied = slice.occupy(&format!("step {step}"))?;
                super::traffic::expect_revision(&slice.state(), Some(asked_on.revision.0))?;
                let to = step.traffic().unwrap_or(asked_on.traffic);
                let wanted = Wanted::new("step", Move::Traffic(to), note).on(proof);
                let after = self.change(slice, wanted).await?;
                let after = self.writes_follow(slice).await?.unwrap_or(after);
                Ok(object!({
                    "revision": after.revision,
                    "from": asked_on.traffic.to_string(),
                    "to": to.to_string(),
                }))
            }
        }
    }

    /// Lets go of legacy. Each part may have been done already by a run that was broken off.
    async fn retire(&self, slice: &Arc<Slice>, note: Note, proof: Value) -> Result<Value> {
        let _occupied = slice.occupy("retirement")?;
        if slice.state().traffic != Traffic::Retired {
            let wanted =
                Wanted::new("retire", Move::Traffic(Traffic::Retired), note.clone()).on(proof);
            self.change(slice, wanted).await?;
        }
        let open = slice
            .state()
            .data
            .is_some_and(|link| link.phase != DataPhase::Closed);
        if open {
            self.close_link(slice, note).await?;
        }
        Ok(object!({"revision": slice.state().revision}))
    }

    /// Approves a step that the plan wants approved.
    ///
    /// # Errors
    /// [`ControlError::Usage`] for a step that does not exist or needs no approval.
    pub async fn approve(&self, name: &str, step: &str, note: Note) -> Result<Vec<String>> {
        let slice = self.slice(name)?;
        self.must_lead()?;
        if !slice
            .spec
            .plan
            .approvals
            .iter()
            .any(|wanted| wanted == step)
        {
            return Err(ControlError::Usage(
                match slice.spec.plan.approvals.as_slice() {
                    [] => format!("the plan of `{name}` asks for no approvals"),
                    wanted => format!(
                        "step `{step}` needs no approval; these do: {}",
                        wanted.join(", ")
                    ),
                },
            ));
        }
        let state = json(&slice.state());
        let entry = Draft {
            by: note.by,
            action: "approve".to_owned(),
            reason: note.reason,
            before: state.clone(),
            after: state,
            evidence: object!({"step": step}),
        };
        let (store, lease) = (&self.inner.store, &self.inner.lease);
        store.approve(lease, &slice.id, step, &entry).await?;
        let approved = store.approvals(&slice.id).await?;
        slice.held().approved.clone_from(&approved);
        Ok(approved)
    }

    /// An approval that is not forgotten is only good for one step more, so a failure is no
    /// reason to fail a step that was taken.
    async fn use_approval(&self, slice: &Slice, step: Step) {
        let id = step.id();
        slice.held().approved.retain(|approved| *approved != id);
        if let Err(error) = self.inner.store.use_approval(&slice.id, &id).await {
            tracing::warn!(slice = %slice.id, %error, "the approval could not be used up");
        }
    }

    /// Ends what runs, and takes the slice back to shadow, its writes to legacy.
    ///
    /// # Errors
    /// As [`Controller::rollback`].
    pub async fn runbook_abort(&self, name: &str, note: Note) -> Result<RollbackReport> {
        self.rollback(name, None, note).await
    }
}
