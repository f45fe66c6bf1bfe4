//! The catalog service.

use std::process::ExitCode;

use clap::Parser;
use extracted_kit::flags::Flags;

/// The catalog, extracted from the shop
#[derive(Debug, Parser)]
#[command(name = "extracted-catalog", version)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
}

fn main() -> ExitCode {
    extracted_kit::run::main(extracted_catalog::CATALOG, &Cli::parse().flags)
}
