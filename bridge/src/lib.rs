//! Copies: captures, maps, backfills, follows, verifies, repairs, reverses.
//!
//! A [`Link`] keeps differently shaped tables of two databases in step, in one direction at a
//! time, and turns round at an exact place. What it refuses: mappings that cannot be reversed,
//! two writers at once, and to overwrite what it did not write itself.
//!
//! ```no_run
//! # async fn example(spec: outgrow_bridge::LinkSpec) -> Result<(), outgrow_bridge::Error> {
//! use outgrow_bridge::Link;
//! use outgrow_rollout::{DataPhase, Side};
//!
//! let link = Link::open(spec).await?;
//! assert!(link.preflight().await?.ok());
//! link.ensure(DataPhase::Copying, Side::Legacy).await?;
//! # Ok(()) }
//! ```

mod apply;
mod batch;
mod db;
mod drift;
mod engine;
mod error;
pub mod events;
mod fault;
mod link;
mod lookup;
mod pieces;
mod plan;
mod preflight;
mod recent;
mod repair;
mod shared;
mod spec;
mod status;
mod tls;
mod transform;
mod turn;
mod typed;
mod value;
mod verify;
mod worker;

pub use error::Error;
pub use fault::FaultHook;
pub use link::{Conflicts, Link};
pub use preflight::{Preflight, Problem};
pub use spec::{
    AlsoSpec, Capture, ColumnSpec, DatabaseUrl, Limits, LinkSpec, RowFilter, Source, TableSpec,
};
pub use value::{Cell, Key};
pub use verify::{ColumnDifference, Difference, RepairReport, VerifyReport};
