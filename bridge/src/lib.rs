//! Copies: captures, maps, backfills, follows, verifies, repairs, reverses.
//!
//! A [`Link`] keeps differently shaped tables of two databases in step, in one direction at a
//! time, and turns round at an exact place; where that is asked for, in both directions at once,
//! with conflicts kept. What it refuses: mappings that cannot be reversed, two writers where one
//! was asked for, and to overwrite unseen what it did not write itself.
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

mod abreast;
mod again;
mod apply;
mod batch;
mod beats;
mod bits;
mod both;
mod checksum;
mod clock;
mod db;
mod drift;
mod emptied;
mod engine;
mod error;
pub mod events;
mod fail_over;
mod fault;
mod fractions;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod guard;
mod holds;
mod link;
mod load;
mod logs;
mod lookup;
mod moments;
mod pace;
mod parked;
mod pieces;
mod plan;
mod portion;
mod preflight;
mod recent;
mod repair;
mod replan;
mod scan;
mod shared;
mod short;
mod spec;
mod status;
mod tempo;
mod tls;
mod transform;
mod turn;
mod typed;
mod value;
mod verify;
mod watch;
mod worker;
mod zone;

pub use both::{Both, Conflicts, Page, Policy, SettleReport, Settled, Which, Writes};
pub use clock::Clock;
pub use error::Error;
pub use fail_over::Moved;
pub use fault::FaultHook;
pub use link::Link;
pub use load::MaxRunning;
pub use preflight::{Preflight, Problem};
pub use scan::{TableWay, VerifyOptions};
pub use spec::{
    AlsoSpec, Capture, ColumnSpec, DatabaseUrl, Limits, LinkSpec, RowFilter, Source, TableSpec,
    Transactions, Watch, ZeroDates,
};
pub use value::{Cell, Key};
pub use verify::{ColumnDifference, Difference, RepairReport, VerifyReport};
pub use zone::{Ambiguous, Zone};
