//! `outgrow completions`: a completion script for a shell.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Context};

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outgrow completions bash > /etc/bash_completion.d/outgrow
  outgrow completions zsh > ~/.zfunc/_outgrow")]
pub(crate) struct CompletionsArgs {
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(context: &Context, args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "outgrow", &mut script);
    context.out.text(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
