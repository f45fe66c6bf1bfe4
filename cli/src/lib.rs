//! Everything that the binary is made of: it reads the command line, runs one command, and turns its end into an
//! exit code. A library only so that `scripts/fuzz` can have the config; nobody else uses it.

mod answers;
mod broker;
mod client;
mod commands;
mod config;
mod demo;
mod figures;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod logs;
mod output;
mod serve;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use client::ApiError;
use commands::Cli;

/// Something failed, as against 2 to 6 that say what.
const FAILED: u8 = 1;

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refusal) => {
            // Help and version come this way, too; a reader that went away wants neither.
            let _ = refusal.print();
            return ExitCode::from(u8::try_from(refusal.exit_code()).unwrap_or(FAILED));
        }
    };
    cli.global.color.apply();
    match run(cli) {
        Ok(code) => code,
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = anstream::stderr().write_all(output::error_text(&error).as_bytes());
            let code = error.downcast_ref::<ApiError>().map(|e| e.code.exit());
            ExitCode::from(code.unwrap_or(FAILED))
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    logs::start(cli.global.log_format, cli.command.log_level())?;
    let mut builder = if cli.command.is_long() {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder.enable_all().build()?;
    runtime.block_on(commands::run(cli))
}
