//! What a proxy has counted of services and their upstreams since it began, and how they are.

use serde::{Deserialize, Serialize};

use crate::{BuildName, SliceId};

/// A service, or the legacy side.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceFigures {
    pub service: String,
    /// Of a service with several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildName>,
    pub upstreams: Vec<UpstreamFigures>,
    /// Where there is a breaker.
    pub circuit: Option<CircuitFigures>,
    /// Requests that were sent again.
    pub retries: u64,
    /// Requests that were not sent again because the budget was spent.
    pub retries_refused: u64,
    /// Who is asked where the upstreams are.
    pub sources: Vec<SourceFigures>,
}

/// How an upstream is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamState {
    #[default]
    Well,
    /// By its checks.
    Unhealthy,
    /// It failed too often in a row.
    Ejected,
}

/// One upstream of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamFigures {
    pub upstream: String,
    pub state: UpstreamState,
    pub requests: u64,
    /// Of these, without an answer or with a 5xx.
    pub failures: u64,
    /// Up to the end of the answer.
    pub in_flight: u64,
    /// Requests that wait for a turn.
    pub waiting: u64,
    /// Connections that were made.
    pub connected: u64,
    /// Requests on a connection that another one had used.
    pub reused: u64,
    /// Connections at rest.
    pub idle: u64,
    pub ejections: u64,
}

/// A service's breaker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CircuitFigures {
    /// `closed`, `open` or `half-open`.
    pub state: String,
    pub opened: u64,
}

/// Who is asked where upstreams are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceFigures {
    pub source: String,
    /// Whether its last answer was none.
    pub failing: bool,
    pub failures: u64,
    /// Since it last said who they are.
    pub age_s: Option<f64>,
}

/// The writes that a cutover holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldFigures {
    pub slice: SliceId,
    pub held: bool,
    /// Writes that wait now.
    pub waiting: u64,
    /// Writes that have waited, in all holds.
    pub waited: u64,
    /// Of them, refused because it took too long, or too many waited.
    pub refused: u64,
    /// How long they waited, all together.
    pub waited_us: u64,
}
