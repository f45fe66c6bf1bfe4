//! Integration tests of control over ports of plain memory.

#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod api;
mod builds;
mod bypass;
mod crash;
mod cutover;
mod fakes;
mod full_disk;
mod lease;
mod metrics;
mod operations;
mod runbook;
mod store;
mod tripwire;
