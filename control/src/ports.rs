//! What control asks of the other crates. The binary implements these over the proxy, the
//! bridge and the shadow; tests implement them over plain memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use futures_util::future::BoxFuture;
use outgrow_rollout::bypass::{Changed, UnderWay};
use outgrow_rollout::{
    AskedFigures, BuildFigures, BuildTimes, BuildsState, CacheFigures, ClientFigures, DataPhase,
    HoldFigures, LinesLost, Live, ProxyEvidence, RouteTimes, ServiceFigures, ShadowEvidence, Side,
    SideTimes, SliceId, SpanFigures, SyncEvidence, TableRows,
};
use serde_json::Value;

use crate::controller::Note;

/// Why a port could not do what it was asked. The text is for people and says what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct PortError(pub String);

pub type PortResult<T> = Result<T, PortError>;

/// The proxies, as one.
pub trait DataPlane: Send + std::marker::Sync {
    /// Puts a state into force in every live proxy. Never blocks.
    fn apply(&self, slice: &SliceId, live: Live);
    /// The state that is in force, after what the guard may have lowered.
    fn live(&self, slice: &SliceId) -> Option<Live>;
    /// Which writes were on their way at some moment between these, in Unix milliseconds; `None` where
    /// nobody knows. Writes are noted from the first call on.
    fn under_way(&self, slice: &SliceId, between: &RangeInclusive<i64>) -> Option<UnderWay>;
    /// Makes new writes of the slice wait. Resolves when none is in flight any more.
    ///
    /// Cancel safe: dropping it leaves the hold in place, so the caller must [`Self::release`].
    fn hold<'a>(&'a self, slice: &'a SliceId, within: Duration) -> BoxFuture<'a, PortResult<()>>;
    /// Lets the held writes go to the writer that is in force now. Idempotent.
    fn release(&self, slice: &SliceId);
    /// Writes that waited in the last hold.
    fn held(&self, slice: &SliceId) -> u64;
    /// Counts since the proxy started; control takes differences.
    fn counts(&self, slice: &SliceId) -> Option<ProxyEvidence>;
    /// Errors and times of one side since the proxy started, for the metrics.
    fn times(&self, slice: &SliceId, side: Side) -> Option<SideTimes>;
    /// The same of every route that has had requests, and of what belongs to no slice.
    fn routes(&self) -> Vec<RouteTimes>;
    /// Answers by build since the proxy started, of each slice whose service has several.
    fn build_times(&self) -> Vec<BuildTimes>;
    /// Services, their upstreams and connections since the proxy started.
    fn services(&self) -> Vec<ServiceFigures>;
    /// Puts into force which builds of a service are asked. Never blocks.
    fn apply_builds(&self, service: &str, state: &BuildsState);
    /// How the builds of a service are, in the order of the config.
    fn builds(&self, service: &str) -> Vec<BuildFigures>;
    /// Writes that wait, and have waited, by slice.
    fn holds(&self) -> Vec<HoldFigures>;
    /// Lines that the access log lacks, for the metrics; `None` where there is none.
    fn lines_lost(&self) -> Option<LinesLost>;
    /// What became of the proxy's spans, for the metrics; `None` where nobody is told of them.
    fn spans(&self) -> Option<SpanFigures>;
    /// Connections of clients.
    fn clients(&self) -> ClientFigures;
    /// Requests that the proxy itself has refused, by code, and connections that came to none.
    fn refusals(&self) -> Vec<(&'static str, u64)>;
    /// The store of answers that are given again; `None` where there is none.
    fn cache(&self) -> Option<CacheFigures>;
    /// Those who are asked who may ask, or about tokens.
    fn asked(&self) -> Vec<AskedFigures>;
    /// Everything else a person may want to see, for `status`.
    fn describe(&self) -> Value;
    /// Which route, side, bucket and reason a request would get (`route explain`).
    fn explain(
        &self,
        method: &str,
        target: &str,
        headers: &[(String, String)],
    ) -> PortResult<Value>;
}

/// Where fenced writes of one side ended: a place in that side's change stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FencePosition(pub i64);

/// Which rows a verification compares, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Verification {
    /// Of all rows, above 0 and below 1; `None` is all.
    pub share: Option<f64>,
    /// Goes on with one that was interrupted.
    pub resume: bool,
    /// Reads every row, also where the databases could compute checksums.
    pub by_rows: bool,
    /// Notes how far it is, so that another can go on with it.
    pub keep: bool,
}

/// The bridge.
pub trait Sync: Send + std::marker::Sync {
    /// Checks databases, tables, keys and mapping without changing anything.
    fn preflight<'a>(&'a self, slice: &'a SliceId) -> BoxFuture<'a, PortResult<Value>>;
    /// Brings the link to this phase with rows flowing from `source`: installs what is missing
    /// and starts or resumes its workers. Called on start for every slice that is not idle, and
    /// after each change. Idempotent.
    fn ensure<'a>(
        &'a self,
        slice: &'a SliceId,
        phase: DataPhase,
        source: Side,
    ) -> BoxFuture<'a, PortResult<()>>;
    /// Lets the link apply nothing more, leaving capture in place: what the databases keep for it
    /// is still read. Called on start for every paused link, too. Idempotent.
    fn pause<'a>(
        &'a self,
        slice: &'a SliceId,
        phase: DataPhase,
        source: Side,
    ) -> BoxFuture<'a, PortResult<()>>;
    /// Has what the databases keep for a link that has failed watched, and bounded. Called again and
    /// again, also after a start. Idempotent.
    fn watch_over<'a>(&'a self, slice: &'a SliceId) -> BoxFuture<'a, PortResult<()>>;
    /// Proves that servers which have taken the place of those that were followed have all that was
    /// applied, and lets [`Self::ensure`] go on with them. The value says which, and what proved it;
    /// `None` where none has.
    fn fail_over<'a>(&'a self, slice: &'a SliceId) -> BoxFuture<'a, PortResult<Option<Value>>>;
    fn evidence(&self, slice: &SliceId) -> Option<SyncEvidence>;
    /// When rows of the side that takes the writes changed, since the last call.
    fn changed(&self, slice: &SliceId) -> Vec<Changed>;
    /// Tables, rates, positions, for `sync status`.
    fn describe(&self, slice: &SliceId) -> Option<Value>;
    /// Refuses everybody's writes but the bridge's on one side. Idempotent; survives a restart.
    fn fence<'a>(
        &'a self,
        slice: &'a SliceId,
        side: Side,
    ) -> BoxFuture<'a, PortResult<FencePosition>>;
    fn unfence<'a>(&'a self, slice: &'a SliceId, side: Side) -> BoxFuture<'a, PortResult<()>>;
    /// Resolves when the passive side has applied everything up to `position`.
    fn drain<'a>(
        &'a self,
        slice: &'a SliceId,
        position: FencePosition,
        within: Duration,
    ) -> BoxFuture<'a, PortResult<()>>;
    /// Compares row counts and the chunks that changed lately. For the inside of a cutover.
    fn check<'a>(
        &'a self,
        slice: &'a SliceId,
    ) -> BoxFuture<'a, PortResult<BTreeMap<String, TableRows>>>;
    /// Makes `source` the side that rows flow from, from the drained position on; advances
    /// identity values on it. Both sides must be fenced. Idempotent.
    fn turn<'a>(&'a self, slice: &'a SliceId, source: Side) -> BoxFuture<'a, PortResult<()>>;
    /// Compares the rows that are asked for. The value is the detailed report.
    fn verify<'a>(
        &'a self,
        slice: &'a SliceId,
        wanted: &'a Verification,
    ) -> BoxFuture<'a, PortResult<(BTreeMap<String, TableRows>, Value)>>;
    /// Mends the rows that the last verification named; with `dry_run` only says which.
    fn repair<'a>(&'a self, slice: &'a SliceId, dry_run: bool) -> BoxFuture<'a, PortResult<Value>>;
    /// Lets one side's version of a row stand that both have changed: the conflict of this name,
    /// or with `None` every open one. With `dry_run` only says of which.
    fn settle<'a>(
        &'a self,
        slice: &'a SliceId,
        conflict: Option<&'a str>,
        take: Side,
        dry_run: bool,
    ) -> BoxFuture<'a, PortResult<Value>>;
    /// Rows changed on both sides, rows parked, foreign writes and refused writes, for
    /// `sync conflicts`: so many of each kind and database on a page, from page 1.
    fn conflicts<'a>(
        &'a self,
        slice: &'a SliceId,
        rows: u32,
        page: u32,
    ) -> BoxFuture<'a, PortResult<Value>>;
    /// Goes on with change events that were parked; whether there were any.
    fn resume_events<'a>(&'a self, slice: &'a SliceId) -> BoxFuture<'a, PortResult<bool>>;
    /// Removes triggers, positions and fences. Idempotent.
    fn close<'a>(&'a self, slice: &'a SliceId) -> BoxFuture<'a, PortResult<()>>;
}

/// The shadow.
pub trait Shadow: Send + std::marker::Sync {
    fn evidence(&self, slice: &SliceId) -> Option<ShadowEvidence>;
    /// `html`, `md`, `json`.
    fn report(&self, slice: &SliceId, format: &str) -> PortResult<String>;
    fn mismatch(&self, id: &str) -> Option<Value>;
    fn rules(&self, slice: &SliceId) -> PortResult<Value>;
    /// What other rules would have said of the stored pairs. Compares them all again, so it is not
    /// for a thread that others wait for.
    fn what_if(&self, slice: &SliceId, changed: &Value) -> PortResult<Value>;
    /// Adds an ignore rule and drops the evidence gathered without it.
    fn add_rule(&self, slice: &SliceId, rule: &Value) -> PortResult<()>;
    /// Begins to record requests, or goes on: `{lines, lost}` since the last visit of this
    /// recorder. It ends when nobody visits for a while.
    fn record(&self, slice: &SliceId, recorder: &str) -> PortResult<Value>;
    /// Drops the evidence, e.g. to start over.
    fn reset(&self, slice: &SliceId);
    /// Routes whose writes it mirrors no more, since the last call, and why.
    fn stopped(&self, slice: &SliceId) -> BTreeMap<String, String>;
    /// Mirrors the writes of these routes again, or with `None` of all. Which of them were stopped.
    fn resume(&self, slice: &SliceId, routes: Option<&BTreeSet<String>>) -> Vec<String>;
    /// Mirrors nothing of these routes, for these reasons, and of all others what the stage says.
    /// Idempotent.
    fn stop_routes(&self, slice: &SliceId, routes: &BTreeMap<String, String>);
    /// Routes of which a copy was under way to this side at some moment between these, in Unix
    /// milliseconds; `None` where nobody knows any more.
    fn asked(
        &self,
        slice: &SliceId,
        side: Side,
        between: &RangeInclusive<i64>,
    ) -> Option<BTreeSet<String>>;
    /// Everything that must outlive a restart, and its way back in.
    fn snapshot(&self) -> Value;
    fn restore(&self, snapshot: Value) -> PortResult<()>;
}

/// The process that all of this runs in.
pub trait Process: Send + std::marker::Sync {
    /// Puts the config file into force as it is now, in place of the present config; says what is
    /// in force then.
    fn reload(&self, note: Note) -> BoxFuture<'_, crate::error::Result<Value>>;
    /// Lets the binary take over as it is now, in another process; says which. This one ends then.
    fn upgrade(&self, note: Note) -> BoxFuture<'_, crate::error::Result<Value>>;
}
