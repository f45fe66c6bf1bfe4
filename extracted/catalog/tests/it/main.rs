//! The catalog, through its routes.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop where it stands"
)]

mod defects;
mod harness;
mod listing;
mod price_change;
mod products;
