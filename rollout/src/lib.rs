//! Decides: stages, legal moves, splits, gates, guard, plans.
//!
//! Everything here is a plain function over plain data. Time, evidence and
//! traffic counts are arguments; there is no async, I/O, clock, randomness or
//! environment in this crate, so every decision can be replayed and tested.

mod evidence;
mod ids;
mod moves;
mod split;
mod state;

pub use evidence::{
    Builds, ClassEvidence, Evidence, FieldDifference, ProxyEvidence, ShadowEvidence, SideCounts,
    SyncEvidence, TableRows,
};
pub use ids::{BuildId, IdError, Revision, Side, SliceId, Weight, WeightError};
pub use moves::{IllegalMove, Move, advance};
pub use split::{BUCKETS, bucket, key_hash, side_for};
pub use state::{DataPhase, LinkState, Live, SliceState, Traffic};
