//! The shadow between two scripted sides: what it asks, what it concludes, what it counts.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

mod alignment;
mod builds;
mod candidates;
mod clusters;
mod comparing;
mod harness;
mod ids;
mod ledger;
mod memory;
mod posts;
mod replay;
mod reverse;
mod rewriting;
mod secrets;
mod stopping;
mod what_if;
mod writes;
