//! The shadow behind control's port.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use outgrow_control::ports::{PortError, PortResult, Shadow as ShadowPort};
use outgrow_rollout::{ShadowEvidence, Side, SliceId};
use outgrow_shadow::{Format, Shadow, render};
use serde_json::Value;

/// The one shadow of this process.
#[derive(Debug)]
pub(super) struct Mirror {
    shadow: Shadow,
}

impl Mirror {
    pub(super) fn new(shadow: Shadow) -> Self {
        Self { shadow }
    }
}

fn refused(error: impl Into<anyhow::Error>) -> PortError {
    PortError(format!("{:#}", error.into()))
}

fn unknown(slice: &SliceId) -> PortError {
    PortError(format!("there is no slice `{slice}`"))
}

impl ShadowPort for Mirror {
    fn evidence(&self, slice: &SliceId) -> Option<ShadowEvidence> {
        self.shadow.evidence(slice)
    }

    fn report(&self, slice: &SliceId, format: &str) -> PortResult<String> {
        let format: Format = format.parse().map_err(refused)?;
        let report = self.shadow.report(slice).ok_or_else(|| unknown(slice))?;
        render(&report, format).map_err(refused)
    }

    fn mismatch(&self, id: &str) -> Option<Value> {
        self.shadow.pair(id)
    }

    fn rules(&self, slice: &SliceId) -> PortResult<Value> {
        self.shadow.rules(slice).ok_or_else(|| unknown(slice))
    }

    fn what_if(&self, slice: &SliceId, changed: &Value) -> PortResult<Value> {
        let found = self.shadow.what_if(slice, changed).map_err(refused)?;
        serde_json::to_value(found).map_err(refused)
    }

    fn add_rule(&self, slice: &SliceId, rule: &Value) -> PortResult<()> {
        self.shadow.add_rule(slice, rule).map_err(refused)
    }

    fn record(&self, slice: &SliceId, recorder: &str) -> PortResult<Value> {
        self.shadow.record(slice, recorder).map_err(refused)
    }

    fn reset(&self, slice: &SliceId) {
        self.shadow.reset(slice);
    }

    fn stopped(&self, slice: &SliceId) -> BTreeMap<String, String> {
        self.shadow.stopped(slice)
    }

    fn resume(&self, slice: &SliceId, routes: Option<&BTreeSet<String>>) -> Vec<String> {
        self.shadow.resume(slice, routes)
    }

    fn stop_routes(&self, slice: &SliceId, routes: &BTreeMap<String, String>) {
        self.shadow.stop_routes(slice, routes);
    }

    fn asked(
        &self,
        slice: &SliceId,
        side: Side,
        between: &RangeInclusive<i64>,
    ) -> Option<BTreeSet<String>> {
        self.shadow.asked(slice, side, between)
    }

    fn snapshot(&self) -> Value {
        self.shadow.snapshot()
    }

    fn restore(&self, snapshot: Value) -> PortResult<()> {
        self.shadow.restore(snapshot).map_err(refused)
    }
}
