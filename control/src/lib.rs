//! Remembers and coordinates: the store, the lease, the cutover, the runbook, the admin API.
//!
//! Decisions are `outgrow_rollout`'s; carrying, copying and comparing are done by whoever
//! implements [`ports`]. Control knows no proxy, bridge or shadow, and prints nothing.

mod api;
mod controller;
mod error;
pub mod ports;
mod store;
mod wall;

pub use api::{AdminError, Token, serve_admin};
pub use controller::{
    BuildStatus, BuildsStatus, Controller, CutoverReport, CutoverStatus, FlipReport, FlipRequest,
    Identity, Lowered, Note, Ports, Quiet, RollbackReport, RunbookView, ServiceSpec, Settle,
    SliceSpec, SliceStatus, Specs, Status, StepDone, StepStatus, TakenFrom, VerifyReport,
    parse_traffic,
};
pub use error::{ControlError, Kind, Result, StoreError, chain};
pub use store::{
    Change, CutoverRow, Draft, JournalEntry, LEASE_MS, Lease, StageMark, Store, Verified,
};
