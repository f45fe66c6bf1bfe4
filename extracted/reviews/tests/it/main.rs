//! The reviews, through their routes.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop where it stands"
)]

mod defects;
mod harness;
mod reading;
mod writing;
