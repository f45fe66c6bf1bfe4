//! The shop through its router and its socket, one module per feature.
// Helpers of tests are no tests to clippy; a failed expectation is what they are for.
#![allow(clippy::unwrap_used)]

mod account;
mod back_office;
mod buying;
mod catalog;
mod fence;
mod filling;
mod harness;
mod pages;
mod reviews;
mod serving;
