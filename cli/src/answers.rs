//! The answers of the admin API, as far as tables show them. Fields that an older server does
//! not send are empty; whoever wants all of an answer takes `-o json`.

use std::collections::BTreeMap;

use outgrow_rollout::{
    Evidence, GateResult, Live, ShadowEvidence, SliceState, SyncEvidence, TableRows,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::{ApiError, Code};

/// Reads an answer into its type.
///
/// # Errors
/// An [`ApiError`] that names the field, when the server is of another version.
pub(crate) fn typed<T: DeserializeOwned>(answer: &Value) -> Result<T, ApiError> {
    T::deserialize(answer).map_err(|error| ApiError {
        code: Code::Internal,
        message: format!("the answer is not as expected: {error}"),
        details: Value::Null,
        hint: "are `outgrow` here and `outgrow serve` of the same version? `-o json` shows it all"
            .to_owned(),
    })
}

#[derive(Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) slices: Vec<SliceStatus>,
    #[serde(default)]
    pub(crate) proxy: ProxyStatus,
}

/// What of the proxy's state a table shows.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ProxyStatus {
    #[serde(default)]
    pub(crate) services: Vec<ServiceStatus>,
    /// Of services with several.
    #[serde(default)]
    pub(crate) builds: Vec<ServiceBuilds>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ServiceBuilds {
    pub(crate) service: String,
    pub(crate) state: outgrow_rollout::BuildsState,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ServiceStatus {
    pub(crate) service: String,
    #[serde(default)]
    pub(crate) build: Option<String>,
    pub(crate) upstreams: Vec<UpstreamStatus>,
    /// Of a service with a breaker.
    #[serde(default)]
    pub(crate) circuit: Option<CircuitStatus>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct CircuitStatus {
    /// `closed`, `open` or `half-open`.
    pub(crate) state: String,
    pub(crate) asked_again_in_ms: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct UpstreamStatus {
    pub(crate) to: String,
    /// `well`, or what it is else.
    pub(crate) state: String,
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    /// What the last health check found wrong.
    #[serde(default)]
    pub(crate) last_check: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct SliceStatus {
    pub(crate) slice: String,
    pub(crate) state: SliceState,
    pub(crate) stage: String,
    pub(crate) effective: Live,
    #[serde(default)]
    pub(crate) evidence: Evidence,
    #[serde(default)]
    pub(crate) cutover: Option<Value>,
    #[serde(default)]
    pub(crate) next: Option<StepStatus>,
    #[serde(default)]
    pub(crate) busy: Option<String>,
    #[serde(default)]
    pub(crate) trouble: Option<String>,
    #[serde(default = "yes")]
    pub(crate) published: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
pub(crate) struct StepStatus {
    pub(crate) id: String,
    pub(crate) title: String,
    /// `done`, `current`, `next` or `later`.
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) gates: Vec<GateResult>,
}

impl StepStatus {
    /// Gates that keep the step from being taken.
    pub(crate) fn open(&self) -> impl Iterator<Item = &GateResult> {
        self.gates.iter().filter(|gate| !gate.ok)
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Runbook {
    pub(crate) slice: String,
    pub(crate) steps: Vec<StepStatus>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct StepDone {
    pub(crate) step: String,
    pub(crate) done: bool,
    #[serde(default)]
    pub(crate) detail: Value,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Flip {
    pub(crate) revision: u64,
    pub(crate) from: String,
    pub(crate) to: String,
    #[serde(default)]
    pub(crate) acked: bool,
    #[serde(default)]
    pub(crate) gates: Vec<GateResult>,
    #[serde(default)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Rollback {
    pub(crate) revision: u64,
    pub(crate) reads_back_ms: u64,
    #[serde(default)]
    pub(crate) cutover: Option<Cutover>,
    #[serde(default = "yes")]
    pub(crate) published: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Cutover {
    pub(crate) direction: String,
    pub(crate) held: u64,
    pub(crate) pause_ms: u64,
    pub(crate) outcome: String,
    #[serde(default)]
    pub(crate) rows: BTreeMap<String, TableRows>,
    #[serde(default)]
    pub(crate) why: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Verify {
    pub(crate) rows: BTreeMap<String, TableRows>,
    #[serde(default)]
    pub(crate) report: Value,
}

/// What `GET /v1/shadow` says, by slice.
pub(crate) type Shadow = BTreeMap<String, Option<ShadowEvidence>>;

#[derive(Debug, Deserialize)]
pub(crate) struct SyncAll {
    pub(crate) slices: Vec<SyncStatus>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct SyncStatus {
    pub(crate) slice: String,
    #[serde(default)]
    pub(crate) data: Option<outgrow_rollout::LinkState>,
    #[serde(default)]
    pub(crate) evidence: Option<SyncEvidence>,
    #[serde(default)]
    pub(crate) detail: Value,
    #[serde(default)]
    pub(crate) trouble: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Entry {
    pub(crate) seq: i64,
    pub(crate) at: String,
    pub(crate) by: String,
    pub(crate) slice: String,
    pub(crate) action: String,
    #[serde(default)]
    pub(crate) reason: String,
    #[serde(default)]
    pub(crate) before: Value,
    #[serde(default)]
    pub(crate) after: Value,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Verified {
    pub(crate) entries: u64,
    pub(crate) ok: bool,
    #[serde(default)]
    pub(crate) first_bad: Option<i64>,
}
