//! Decides: stages, legal moves, splits, gates, guard, plans.
//!
//! Everything here is a plain function over plain data. Time, evidence and
//! traffic counts are arguments; there is no async, I/O, clock, randomness or
//! environment in this crate, so every decision can be replayed and tested.

mod builds;
pub mod bypass;
pub mod cutover;
#[cfg(test)]
mod dice;
mod evidence;
mod figures;
pub mod gates;
mod guard;
mod ids;
mod moves;
pub mod paired;
mod plan;
pub mod samples;
mod services;
mod spans;
mod split;
mod state;
pub mod tripwire;

pub use builds::{
    AnswerFigures, BuildFigures, BuildMove, BuildTimes, BuildsState, IllegalBuild, TakenBack,
    Trial, build_bucket,
};
pub use bypass::{Bypass, BypassEvidence};
pub use evidence::{
    AskedFigures, Builds, CacheCounts, CacheFigures, ClassEvidence, ClientFigures, Evidence,
    FieldDifference, FieldFault, LinesLost, ProxyEvidence, RouteTimes, ShadowEvidence, SideCounts,
    SideLoad, SideTimes, SpanFigures, SyncEvidence, TableRows, TokenFigures,
};
pub use gates::{Answer, Asked, GateResult};
pub use guard::{
    BAR_PERCENTS, BARS, Bars, CLIENT_GROUPS, Guard, GuardLimits, Pace, Slowness, Verdict,
};
pub use ids::{BuildId, BuildName, IdError, Revision, Side, SliceId, Weight, WeightError};
pub use moves::{IllegalMove, Move, advance};
pub use plan::{Plan, Step, StepState, Watched, next_step, steps_with_state};
pub use services::{
    CircuitFigures, HoldFigures, ServiceFigures, SourceFigures, UpstreamFigures, UpstreamState,
};
pub use spans::Spans;
pub use split::{BUCKETS, bucket, key_hash, side_for};
pub use state::{DataPhase, LinkState, Live, SliceState, Traffic};
