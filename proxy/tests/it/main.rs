//! The proxy on real sockets, between clients and upstreams that do as a test says.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

mod answers;
mod balancing;
mod blaming;
mod breaking;
mod builds;
mod caching;
mod calling;
mod carrying;
mod checking;
mod closing;
mod collapsing;
mod compressing;
mod conforming;
mod copying;
mod counting;
mod differing;
mod discovering;
mod encrypted;
mod exporting;
mod failing;
mod faults;
mod filtering;
mod frames;
mod fronted;
mod harness;
mod hinting;
mod holding;
mod keeper;
mod kubernetes;
mod living;
mod local;
mod logging;
mod malformed;
mod marking;
mod mirrored;
mod multiplexed;
mod naming;
mod origins;
mod proving;
mod rewriting;
mod routing;
mod secured;
mod succeeding;
mod updating;
