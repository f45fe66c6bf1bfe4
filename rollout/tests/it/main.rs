//! Integration tests of the decisions: the model of the cutover, and the moves of a slice.

#![allow(clippy::unwrap_used, clippy::panic)] // A test that cannot go on has failed.

mod cutover_model;
mod moves;
