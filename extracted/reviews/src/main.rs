//! The reviews service.

use std::process::ExitCode;

use clap::Parser;
use extracted_kit::flags::Flags;

/// The reviews, extracted from the shop
#[derive(Debug, Parser)]
#[command(name = "extracted-reviews", version)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
}

fn main() -> ExitCode {
    extracted_kit::run::main(extracted_reviews::REVIEWS, &Cli::parse().flags)
}
