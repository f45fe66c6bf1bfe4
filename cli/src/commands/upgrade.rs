//! `outgrow upgrade`: another binary without an end.

use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::Context;
use super::change::Said;
use crate::answers::typed;

/// Let the binary take over as it is on the disk now, without a failed request
#[derive(Debug, Args)]
#[command(after_help = "\
The running `outgrow serve` starts its binary again, by the name that it was started by, and hands its
sockets over. Whatever keeps the new one from taking over (its config, its store) leaves the old one as it
is. The old one's connections end behind their next answer, at the latest after `[proxy] drain_timeout`;
then it ends. The new one moves nothing forward before that. The same is done by SIGUSR2.

Examples:
  outgrow upgrade --reason 'release 1.4'")]
pub(crate) struct UpgradeArgs {
    #[command(flatten)]
    said: Said,
}

#[derive(Debug, Deserialize)]
struct Upgraded {
    pid: u32,
    version: String,
    before: String,
}

pub(crate) async fn run(context: &Context, args: UpgradeArgs) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let body = Value::Object(args.said.body());
    let answer = client.post("/v1/upgrade", body).await?;
    let told: Upgraded = typed(&answer)?;
    context.out.answer(&answer, || {
        format!(
            "process {} has taken over: version {} in place of {}\n",
            told.pid, told.version, told.before
        )
    })?;
    Ok(ExitCode::SUCCESS)
}
