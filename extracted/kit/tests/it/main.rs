//! The kit, tested through a service of two routes.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop where it stands"
)]

mod defects;
mod harness;
mod operations;
mod starting;
mod writes;
