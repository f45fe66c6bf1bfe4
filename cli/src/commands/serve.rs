//! `outgrow serve`: checks the config, then runs it. The running is `crate::serve`'s.

use std::process::ExitCode;

use clap::Args;

use super::Context;
use crate::config::Config;

/// Run what the config says: proxy, shadow, bridge, control and admin API in one process
#[derive(Debug, Args)]
#[command(after_help = "\
Ends on SIGTERM or Ctrl-C, after the requests in flight.

Examples:
  outgrow serve
  outgrow serve -c /etc/outgrow/outgrow.toml --log-format json")]
pub(crate) struct ServeArgs {
    /// Take over from the process that has started this one; what `outgrow upgrade` does
    #[arg(long, hide = true)]
    take_over: bool,
}

pub(crate) async fn run(context: &Context, args: ServeArgs) -> anyhow::Result<ExitCode> {
    // A server logs the warnings of its config; it does not print them.
    let config = match Config::load(context.config_path()) {
        Ok(config) => config,
        Err(error) if args.take_over => return Err(crate::serve::refuse(error).await),
        Err(error) => return Err(error),
    };
    // Large, and run once.
    Box::pin(crate::serve::run(config, args.take_over)).await?;
    Ok(ExitCode::SUCCESS)
}
