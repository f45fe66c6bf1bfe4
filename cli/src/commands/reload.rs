//! `outgrow reload`: another config without an end.

use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::Context;
use super::change::Said;
use crate::answers::typed;

/// Put the config file into force as it is now, without a failed request
#[derive(Debug, Args)]
#[command(after_help = "\
The running `outgrow serve` reads its file again. A file with mistakes, another store, or a slice that
is gone while it is on its way change nothing. Everything else may change: addresses, routes, filters,
upstreams, tables. Connections that are open end behind their next answer, at the latest after
`[proxy] drain_timeout`. The same is done by SIGHUP.

Examples:
  outgrow check && outgrow reload --reason 'release 4.2'")]
pub(crate) struct ReloadArgs {
    #[command(flatten)]
    said: Said,
}

#[derive(Debug, Deserialize)]
struct Reloaded {
    config: u64,
    file: String,
    warnings: Vec<String>,
}

pub(crate) async fn run(context: &Context, args: ReloadArgs) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let body = Value::Object(args.said.body());
    let answer = client.post("/v1/reload", body).await?;
    let told: Reloaded = typed(&answer)?;
    for warning in &told.warnings {
        context.out.note(&format!("warning: {warning}"));
    }
    context.out.answer(&answer, || {
        format!("{} is in force, as config {}\n", told.file, told.config)
    })?;
    Ok(ExitCode::SUCCESS)
}
