//! What is known of a slice, put together for the gates: the ports' figures, and what was
//! counted since the present stage began.

use outgrow_rollout::gates::{answer, gates};
use outgrow_rollout::{
    Answer, Asked, Evidence, GateResult, ProxyEvidence, SideCounts, SliceState, Step,
};
use std::sync::Arc;

use super::Controller;
use super::slice::{Held, Slice};
use crate::error::{ControlError, Result};
use crate::wall;

impl Controller {
    pub(super) fn evidence_of(&self, slice: &Slice) -> Evidence {
        let counts = self.data_plane().counts(&slice.id);
        let (proxy, in_stage_ms, bypass) = {
            let held = slice.held();
            let proxy = in_stage(&held, counts);
            (proxy, wall::age_ms(held.mark.began), held.bypass())
        };
        Evidence {
            shadow: self.shadow().evidence(&slice.id),
            sync: slice
                .spec
                .has_tables
                .then(|| self.sync().evidence(&slice.id))
                .flatten(),
            proxy: Some(proxy),
            in_stage_ms,
            bypass: bypass.map(|found| found.seen(wall::now_ms())),
            extracted_in_stage: proxy.extracted.requests,
        }
    }

    /// The gates of a step as things stand. Starts a verification where one is asked for.
    pub(super) fn gates_of(
        &self,
        slice: &Arc<Slice>,
        state: &SliceState,
        step: Step,
        evidence: &Evidence,
    ) -> Vec<GateResult> {
        let approved = slice.held().approved.clone();
        let all = gates(&Asked {
            slice: &slice.id,
            step,
            state,
            evidence,
            plan: &slice.spec.plan,
            approved: &approved,
        });
        if all
            .iter()
            .any(|gate| gate.name == "rows verified" && !gate.ok)
        {
            self.verify_in_background(slice);
        }
        all
    }

    /// The gates of a step, as an error unless all are met.
    pub(super) fn pass_gates(
        &self,
        slice: &Arc<Slice>,
        step: Step,
    ) -> Result<(Vec<GateResult>, Evidence)> {
        let evidence = self.evidence_of(slice);
        let all = self.gates_of(slice, &slice.state(), step, &evidence);
        match answer(&all) {
            Answer::Met => Ok((all, evidence)),
            Answer::Failing => Err(ControlError::Gate {
                step: step.id(),
                gates: all,
            }),
            Answer::Inconclusive => Err(ControlError::Inconclusive {
                step: step.id(),
                gates: all,
            }),
        }
    }

    /// Brings the mark of the stage up to date, so that it can be stored. `None` if nothing was
    /// counted since.
    pub(super) fn count_stage(&self, slice: &Slice) -> Option<crate::store::StageMark> {
        let now = self.data_plane().counts(&slice.id)?;
        let mut held = slice.held();
        if now == held.base && held.mark.bypass == held.watching.found {
            return None;
        }
        held.mark.counts = in_stage(&held, Some(now));
        held.mark.bypass = held.watching.found.clone();
        held.base = now;
        Some(held.mark.clone())
    }
}

/// Counted in the stage: what is marked, and what the proxy counted since.
fn in_stage(held: &Held, now: Option<ProxyEvidence>) -> ProxyEvidence {
    let Some(now) = now else {
        return held.mark.counts;
    };
    ProxyEvidence {
        legacy: add(held.mark.counts.legacy, held.base.legacy, now.legacy),
        extracted: add(
            held.mark.counts.extracted,
            held.base.extracted,
            now.extracted,
        ),
    }
}

fn add(marked: SideCounts, base: SideCounts, now: SideCounts) -> SideCounts {
    // A proxy that was started anew counts from nothing again.
    let base = if now.requests < base.requests {
        SideCounts::default()
    } else {
        base
    };
    SideCounts {
        requests: marked.requests + now.requests.saturating_sub(base.requests),
        errors: marked.errors + now.errors.saturating_sub(base.errors),
        p99_us: now.p99_us.or(marked.p99_us),
    }
}
