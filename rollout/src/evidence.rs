//! What the other crates have seen, as plain data for the gates, the guard and the reports.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::SliceId;
use crate::bypass::BypassEvidence;
use crate::ids::{BuildId, Side};

/// The builds that evidence was gathered on. Evidence of another pair does not count.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Builds {
    pub legacy: BuildId,
    pub extracted: BuildId,
}

/// Everything that is known of a slice at one moment. What is `None` was not measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    pub shadow: Option<ShadowEvidence>,
    pub sync: Option<SyncEvidence>,
    pub proxy: Option<ProxyEvidence>,
    /// How long the slice has been in its present stage.
    pub in_stage_ms: u64,
    /// Requests that the extracted side answered in the present stage.
    pub extracted_in_stage: u64,
    /// Who writes past the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bypass: Option<BypassEvidence>,
}

/// What shadow comparison has seen, of the builds that run now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShadowEvidence {
    pub builds: Builds,
    /// The ledger: eligible = sampled_out + shed + ineligible + sent + waiting,
    /// sent = matched + mismatched + candidate_errors + not_comparable.
    pub eligible: u64,
    pub sampled_out: u64,
    pub shed: u64,
    pub ineligible: u64,
    /// Admitted and not yet settled.
    pub waiting: u64,
    pub matched: u64,
    pub mismatched: u64,
    pub candidate_errors: u64,
    pub not_comparable: u64,
    /// Pairs by route and status class, so that a rare answer is not hidden by a common one.
    pub classes: BTreeMap<String, ClassEvidence>,
    /// The worst differences first, at most ten.
    pub top: Vec<FieldDifference>,
    /// Of the matched, those that differ in fields only in which the legacy side differs from
    /// itself, too.
    #[serde(default)]
    pub excused: u64,
    /// Fields that differ by themselves, and differ more with the candidate than that explains.
    #[serde(default)]
    pub faults: Vec<FieldFault>,
    /// Faults that were seeded in matched answers, and how many of these the comparison with its
    /// rules has caught.
    #[serde(default)]
    pub seeded: u64,
    #[serde(default)]
    pub caught: u64,
    /// Routes whose writes are mirrored no more, and why.
    #[serde(default)]
    pub stopped: BTreeMap<String, String>,
}

impl ShadowEvidence {
    /// Pairs with a verdict: a candidate that fails counts as a mismatch, never as silence.
    pub fn compared(&self) -> u64 {
        self.matched + self.mismatched + self.candidate_errors
    }

    /// Pairs that speak against the candidate.
    pub fn against(&self) -> u64 {
        self.mismatched + self.candidate_errors
    }
}

/// Pairs of one route and status class, e.g. `GET /api/products/{id} 2xx`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassEvidence {
    pub compared: u64,
    pub against: u64,
}

/// One kind of difference at one place of one route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FieldDifference {
    pub route: String,
    /// `$.price`, `status`, `header:cache-control`, with array indices as `[*]`.
    pub path: String,
    pub kind: String,
    pub count: u64,
    /// The id of a stored pair that shows it (`shadow show ID`).
    pub example: Option<String>,
    pub legacy: String,
    pub extracted: String,
}

/// A field at fault: see [`crate::paired`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldFault {
    /// The route and the path.
    pub field: String,
    pub counts: crate::paired::Paired,
}

/// What the bridge knows of a slice's link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SyncEvidence {
    /// The side that rows flow from.
    pub source: Side,
    pub copied_rows: u64,
    pub total_rows: u64,
    /// Rows written by following since this process began.
    #[serde(default)]
    pub applied_rows: u64,
    pub copied: bool,
    /// End-to-end lag by heartbeat; `None` while no heartbeat has arrived.
    pub lag_ms: Option<u64>,
    /// Lag of the other direction, proven by a heartbeat that crossed it.
    pub reverse_lag_ms: Option<u64>,
    /// Changes not yet applied.
    pub backlog: u64,
    /// About the bytes of the rows that these are of.
    #[serde(default)]
    pub backlog_bytes: u64,
    /// Rows that could not be applied and wait for a person.
    pub parked: u64,
    /// Rows that both sides have changed and nobody has settled.
    #[serde(default)]
    pub conflicts: u64,
    /// Rows changed on the passive side by something other than the bridge.
    pub foreign_writes: u64,
    /// Milliseconds since the last foreign write, `None` if there was none.
    pub foreign_write_age_ms: Option<u64>,
    /// Between which moments that was, in Unix milliseconds by the clock of the process: databases
    /// may tell whole seconds only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign_between_ms: Option<(i64, i64)>,
    pub last_foreign: Option<String>,
    /// The last whole verification; `None` if there was none since the link (re)started.
    pub verified: Option<BTreeMap<String, TableRows>>,
    /// Age of that verification.
    pub verified_age_ms: Option<u64>,
    /// Bytes of its log that a database keeps for the link, where its changes are read from there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub log_kept_bytes: BTreeMap<Side, u64>,
    /// What it may keep; with more the link is parked.
    #[serde(default)]
    pub log_limit_bytes: u64,
    /// About the bytes of the changes that a database has noted for the link and that are not applied.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub noted_bytes: BTreeMap<Side, u64>,
    /// What they may be; with more the link is parked.
    #[serde(default)]
    pub noted_limit_bytes: u64,
    /// Where the statements of others that run are limited, and somebody copies or compares rows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub load: BTreeMap<Side, SideLoad>,
}

/// Statements of others that ran on a side when it was asked last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideLoad {
    pub running: u32,
    /// With more, copies and verifications wait.
    pub most: u32,
}

/// Rows of one table pair, as the last verification found them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRows {
    pub legacy: u64,
    pub extracted: u64,
    pub different: u64,
}

/// What the proxies counted since the present stage began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyEvidence {
    pub legacy: SideCounts,
    pub extracted: SideCounts,
}

/// Requests of one side. An error is a 5xx answer or no answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideCounts {
    pub requests: u64,
    pub errors: u64,
    /// 99th percentile of the time to the answer's head, in microseconds.
    pub p99_us: Option<u64>,
}

/// Connections of clients with the proxy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientFigures {
    pub open: u64,
    /// How many there may be, if not any number.
    pub most: Option<u64>,
    /// How often a core has let nobody in until somebody had left, since the proxy began.
    pub shut: u64,
}

/// Lines of the access log that were not written, since the proxy began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinesLost {
    /// The writer was behind.
    pub queue: u64,
    /// It could not write.
    pub write: u64,
}

/// What became of the spans that the proxy has made, since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanFigures {
    /// The collector has them.
    pub sent: u64,
    /// Lost, because the exporter was behind.
    pub queue: u64,
    /// Lost, because the collector does not want them.
    pub refused: u64,
    /// Lost, because the collector could not be reached for too long.
    pub failed: u64,
}

/// One that is asked who may ask, or about tokens, since the proxy began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedFigures {
    /// `introspection` or `service`.
    pub kind: &'static str,
    /// As the config has it.
    pub name: String,
    /// Questions, by what came of them.
    pub outcomes: Vec<(&'static str, u64)>,
    /// To a whole answer, or to where there is none; errors are those without one that can be used.
    pub times: SideTimes,
    /// Of one that is asked about tokens.
    pub tokens: Option<TokenFigures>,
}

/// What is known of tokens without asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFigures {
    /// Tokens of requests, by where what is said of them came from.
    pub sources: Vec<(&'static str, u64)>,
    /// Answers that are kept.
    pub entries: u64,
    pub bytes: u64,
    /// Bytes that they may have.
    pub size: u64,
}

/// The store of answers that are given again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheFigures {
    /// URLs.
    pub entries: u64,
    pub bytes: u64,
    /// Bytes that it may have.
    pub size: u64,
    /// Requests that wait for another one's answer.
    pub waiting: u64,
    /// Of slices with routes whose answers are kept.
    pub slices: Vec<CacheCounts>,
}

/// What became of the reads of one slice, since the proxy began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheCounts {
    pub slice: SliceId,
    /// By what the store had to do with them.
    pub outcomes: Vec<(&'static str, u64)>,
}

/// The same of one route on one side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTimes {
    /// `None` for what belongs to no slice.
    pub slice: Option<SliceId>,
    /// As it is declared; `other` for what belongs to no slice.
    pub route: String,
    pub side: Side,
    pub times: SideTimes,
    /// Requests by the class of the status, and those without an answer, as far as there were any; for
    /// metrics alone.
    #[serde(skip)]
    pub classes: Vec<(&'static str, u64)>,
}

/// How long one side took to answer, since the proxy began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideTimes {
    /// Of these requests, those answered with 5xx or not at all.
    pub errors: u64,
    /// All times together, in microseconds.
    pub sum_us: u64,
    /// Requests up to each bound in microseconds and beyond the bound before it; bounds rise.
    pub within_us: Vec<(u64, u64)>,
    /// Requests beyond the last bound.
    pub above: u64,
}

impl SideTimes {
    pub fn requests(&self) -> u64 {
        self.within_us.iter().map(|(_, count)| count).sum::<u64>() + self.above
    }
}
