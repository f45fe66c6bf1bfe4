//! Moving reads: flip, rollback, freeze, and what the guard of a proxy did by itself.

use std::sync::Arc;

use outgrow_rollout::gates::answer;
use outgrow_rollout::{
    Answer, GateResult, Move, Revision, Side, SliceId, SliceState, Step, Traffic, Verdict, Weight,
    advance,
};
use serde::{Deserialize, Serialize};
use serde_json::json as object;
use tokio::time::Instant;

use super::change::Wanted;
use super::cutover::CutoverReport;
use super::slice::Slice;
use super::{Controller, Note, json};
use crate::error::{ControlError, Result};

/// `route flip`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FlipRequest {
    /// `legacy`, `shadow`, `canary=PERCENT` or `extracted`.
    pub to: String,
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(default)]
    pub by: Option<String>,
    /// Refuse unless the state still has this revision.
    #[serde(default)]
    pub if_revision: Option<u64>,
    /// Say what would happen, change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Pass gates that are not met; needs a reason.
    #[serde(default)]
    pub force: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlipReport {
    pub revision: Revision,
    pub from: String,
    pub to: String,
    /// The proxies have it.
    pub acked: bool,
    pub gates: Vec<GateResult>,
    #[serde(default)]
    pub dry_run: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RollbackReport {
    pub revision: Revision,
    /// From the call until no new read goes to the extracted side.
    pub reads_back_ms: u64,
    /// The writes were taken back too; `None` if they never left legacy.
    pub cutover: Option<CutoverReport>,
    /// The store knows it. If not, it is in force in memory and stored as soon as possible.
    pub published: bool,
}

/// A proxy's guard has lowered a slice by itself.
#[derive(Debug, Clone)]
pub struct Lowered {
    pub slice: SliceId,
    /// The revision that was in force when it acted.
    pub revision: Revision,
    pub verdict: Verdict,
}

/// Reads a stage of traffic.
///
/// # Errors
/// [`ControlError::Usage`] naming the stages.
pub fn parse_traffic(text: &str) -> Result<Traffic> {
    let canary = text
        .strip_prefix("canary=")
        .or_else(|| text.strip_prefix("canary:"));
    match (text, canary) {
        ("legacy", _) => Ok(Traffic::Legacy),
        ("shadow", _) => Ok(Traffic::Shadow),
        ("extracted", _) => Ok(Traffic::Extracted),
        (_, Some(percent)) => Weight::from_percent(percent)
            .map(Traffic::Canary)
            .map_err(|error| ControlError::Usage(error.to_string())),
        _ => Err(ControlError::Usage(format!(
            "`{text}` is no stage: use legacy, shadow, canary=PERCENT or extracted \
             (a slice retires by `runbook next` only)"
        ))),
    }
}

/// The step whose gates a move to this stage must pass; `None` for a way back.
fn step_towards(state: &SliceState, to: Traffic) -> Option<Step> {
    let back = to == Traffic::Legacy || to.weight() < state.traffic.weight();
    match to {
        _ if back => None,
        Traffic::Legacy => None,
        Traffic::Shadow => Some(Step::Shadow),
        Traffic::Canary(weight) => Some(Step::Canary(weight)),
        Traffic::Extracted => Some(Step::Extracted),
        Traffic::Retired => Some(Step::Retire),
    }
}

impl Controller {
    /// Moves the reads of a slice.
    ///
    /// # Errors
    /// [`ControlError::Gate`] or [`ControlError::Inconclusive`] with all gates;
    /// [`ControlError::Revision`], [`ControlError::Illegal`], [`ControlError::Busy`].
    pub async fn flip(&self, name: &str, request: FlipRequest) -> Result<FlipReport> {
        let slice = self.slice(name)?;
        let to = parse_traffic(&request.to)?;
        if request.force
            && request
                .reason
                .as_deref()
                .is_none_or(|r| r.trim().is_empty())
        {
            return Err(ControlError::Usage(
                "`force` passes gates that are not met, so it needs a `reason`".to_owned(),
            ));
        }
        self.must_lead()?;
        let state = slice.state();
        expect_revision(&state, request.if_revision)?;
        // What is illegal is told before what is not proven.
        let planned = advance(&state, &Move::Traffic(to))?;
        let note = Note::new(request.by.as_deref(), request.reason.as_deref());
        let report = |revision, gates| FlipReport {
            revision,
            from: state.traffic.to_string(),
            to: to.to_string(),
            acked: true,
            gates,
            dry_run: request.dry_run,
        };
        let Some(step) = step_towards(&state, to) else {
            if request.dry_run {
                return Ok(report(planned.revision, Vec::new()));
            }
            let wanted = Wanted::new("flip", Move::Traffic(to), note);
            let (after, _) = self.lower(&slice, wanted).await?;
            self.writes_follow(&slice).await?;
            return Ok(report(after.revision, Vec::new()));
        };
        let (gates, evidence) =
            match self.pass_gates(&slice, step) {
                Ok(passed) => passed,
                Err(
                    ControlError::Gate { gates, .. } | ControlError::Inconclusive { gates, .. },
                ) if request.force => (gates, self.evidence_of(&slice)),
                Err(refused) => return Err(refused),
            };
        if request.dry_run {
            return Ok(report(planned.revision, gates));
        }
        let _occupied = slice.occupy(&format!("a flip to {to}"))?;
        let forced = request.force && answer(&gates) != Answer::Met;
        let on = object!({"gates": gates, "evidence": evidence, "forced": forced});
        expect_revision(&slice.state(), Some(state.revision.0))?;
        let wanted = Wanted::new("flip", Move::Traffic(to), note).on(on);
        let mut after = self.change(&slice, wanted).await?;
        if let Some(moved) = self.writes_follow(&slice).await? {
            after = moved;
        }
        Ok(report(after.revision, gates))
    }

    /// Writes of a slice without tables have nothing to be synced, so they follow its reads: to
    /// the extracted side with the last of them, and back with the first.
    pub(super) async fn writes_follow(&self, slice: &Arc<Slice>) -> Result<Option<SliceState>> {
        let state = slice.state();
        if state.data.is_some() {
            return Ok(None);
        }
        let writer = match state.traffic {
            Traffic::Extracted | Traffic::Retired => Side::Extracted,
            _ => Side::Legacy,
        };
        if state.writer == writer {
            return Ok(None);
        }
        let note = Note::own("writes follow the reads; the slice has no tables");
        let wanted = Wanted::new("switch", Move::Writer(writer), note);
        self.change(slice, wanted).await.map(Some)
    }

    /// Takes the reads back at once, then the writes if they had left.
    ///
    /// The reads are back when the store is down as well; see [`RollbackReport::published`].
    ///
    /// # Errors
    /// [`ControlError::Illegal`] for a retired slice.
    pub async fn rollback(
        &self,
        name: &str,
        to: Option<&str>,
        note: Note,
    ) -> Result<RollbackReport> {
        let slice = self.slice(name)?;
        let to_legacy = match to {
            None | Some("shadow") => false,
            Some("legacy") => true,
            Some(other) => {
                return Err(ControlError::Usage(format!(
                    "a rollback ends at `shadow` or `legacy`, not at `{other}`"
                )));
            }
        };
        let began = Instant::now();
        let evidence = json(&self.evidence_of(&slice));
        let wanted =
            Wanted::new("rollback", Move::Rollback { to_legacy }, note.clone()).on(evidence);
        let lowering = self.lower(&slice, wanted);
        let (after, published) = lowering.await?;
        let reads_back_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let cutover = self.writes_back(&slice, note).await?;
        Ok(RollbackReport {
            revision: slice.state().revision.max(after.revision),
            reads_back_ms,
            cutover,
            published,
        })
    }

    /// Ends a cutover under way, and moves the writes back to legacy if they had left.
    async fn writes_back(&self, slice: &Arc<Slice>, note: Note) -> Result<Option<CutoverReport>> {
        self.abort_cutover(slice).await;
        if slice.state().data.is_none() {
            self.writes_follow(slice).await?;
            return Ok(None);
        }
        if slice.state().writer == Side::Legacy {
            return Ok(None);
        }
        self.run_cutover(slice, Side::Legacy, note, json(&self.evidence_of(slice)))
            .await
            .map(Some)
    }

    /// Keeps a slice where it is; only ways back stay open.
    ///
    /// # Errors
    /// [`ControlError::Usage`] without a reason.
    pub async fn freeze(&self, name: &str, note: Note) -> Result<SliceState> {
        let slice = self.slice(name)?;
        if note.reason.trim().is_empty() {
            return Err(ControlError::Usage(
                "give a `reason`; it is shown to whoever meets the frozen slice".to_owned(),
            ));
        }
        let wanted = Wanted::new("freeze", Move::Freeze(note.reason.clone()), note);
        self.change(&slice, wanted).await
    }

    /// # Errors
    /// As [`Controller::flip`].
    pub async fn unfreeze(&self, name: &str, note: Note) -> Result<SliceState> {
        let slice = self.slice(name)?;
        self.change(&slice, Wanted::new("unfreeze", Move::Unfreeze, note))
            .await
    }

    /// Serves nobody for a while, or everybody again; in force at once, kept over a restart.
    ///
    /// # Errors
    /// [`ControlError::Usage`] where it begins without a reason; else as [`Controller::flip`].
    pub async fn maintenance(&self, name: &str, on: bool, note: Note) -> Result<SliceState> {
        let slice = self.slice(name)?;
        let wanted = match on {
            false => Move::EndMaintenance,
            true if note.reason.trim().is_empty() => {
                return Err(ControlError::Usage(
                    "give a `reason`; it is shown to whoever asks why nobody is served".to_owned(),
                ));
            }
            true => Move::Maintain(note.reason.clone()),
        };
        self.change(&slice, Wanted::new("maintenance", wanted, note))
            .await
    }

    /// Takes over what the guard of a proxy did: the slice goes to shadow, with the figures.
    ///
    /// A slice that stands at no weight already is left alone; its state says so to the proxy.
    ///
    /// # Errors
    /// [`ControlError::NotFound`] for a slice that is not configured.
    pub async fn lowered(&self, lowered: Lowered) -> Result<()> {
        let slice = self.slice(lowered.slice.as_str())?;
        let state = slice.state();
        if state.traffic.weight() == Weight::ZERO || state.traffic == Traffic::Retired {
            return Ok(());
        }
        let note = Note::new(Some("guard@proxy"), Some(&lowered.verdict.reason));
        let evidence = object!({
            "verdict": lowered.verdict,
            "revision": lowered.revision,
            "evidence": self.evidence_of(&slice),
        });
        let wanted = Wanted::new("abort", Move::Rollback { to_legacy: false }, note).on(evidence);
        self.lower(&slice, wanted).await?;
        self.writes_follow(&slice).await?;
        Ok(())
    }
}

pub(super) fn expect_revision(state: &SliceState, expected: Option<u64>) -> Result<()> {
    match expected {
        Some(expected) if expected != state.revision.0 => Err(ControlError::Revision {
            expected: Revision(expected),
            actual: state.revision,
        }),
        _ => Ok(()),
    }
}
