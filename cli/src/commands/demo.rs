//! The arguments of `outgrow demo`.

use std::path::PathBuf;

use clap::Args;

/// See the bundled shop migrated before your eyes, in under two minutes
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Starts the shop, the new services and Outgrow as real processes on free loopback ports, drives
shoppers through the proxy, and moves two slices by the runbook. Exits with 1 when any promise
was broken.

Examples:
  outgrow demo
  outgrow demo --rate 500 --seed 7 --dir /tmp/shop
  outgrow demo --keep")]
pub(crate) struct DemoArgs {
    /// Folder for databases, logs and reports; a new one when not given
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Requests per second
    #[arg(long, value_name = "N", default_value = "220", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
    /// Makes two runs do the same
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) seed: u64,
    /// Leave everything running at the end, with a page of commands to try
    #[arg(long)]
    pub(crate) keep: bool,
    /// Move one slice only, for tests
    #[arg(long)]
    pub(crate) short: bool,
}
