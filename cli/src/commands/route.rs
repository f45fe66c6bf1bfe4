//! `outgrow route`: which side answers, and moving reads by hand.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use outgrow_rollout::SliceState;
use serde_json::Value;

use super::change::{self, Said};
use super::{Context, journal};
use crate::answers::{Flip, Rollback, SliceStatus, Status, typed};
use crate::client::escape;
use crate::figures::millis;
use crate::output::{generic, sheet, table};

/// See and move a slice's reads
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  outgrow route list
  outgrow route flip catalog canary=5 --reason 'first users'
  outgrow route rollback catalog --reason 'wrong prices'")]
pub(crate) enum RouteCommand {
    /// List the slices with the side that answers
    #[command(after_help = "Examples:\n  outgrow route list\n  outgrow route list -o json")]
    List,
    Explain(ExplainArgs),
    Flip(FlipArgs),
    Rollback(RollbackArgs),
    Freeze(FreezeArgs),
    Unfreeze(SliceSaid),
    Maintenance(MaintenanceArgs),
    History(HistoryArgs),
}

/// Say which side a request would go to, and why; sends nothing
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outgrow route explain GET /api/products/7
  outgrow route explain GET '/api/products?page=2' -H 'cookie: sid=4f1c'")]
pub(crate) struct ExplainArgs {
    /// GET, PUT, ...
    #[arg(value_parser = method)]
    method: String,
    /// Path and query, as a client would send them
    #[arg(value_parser = target)]
    path: String,
    /// A header of the request; may be given again
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<String>,
}

/// Move a slice's reads: legacy, shadow, canary=PERCENT or extracted
#[derive(Debug, Args)]
#[command(after_help = "\
A move forward must pass the gates of the runbook's step; a move back never has to.

Examples:
  outgrow route flip catalog shadow
  outgrow route flip catalog canary=5 --dry-run
  outgrow route flip catalog canary=25 --if-revision 7 --reason 'looks good'")]
pub(crate) struct FlipArgs {
    /// Its name in the config
    slice: String,
    /// legacy, shadow, canary=PERCENT or extracted
    #[arg(value_parser = stage)]
    to: String,
    #[command(flatten)]
    said: Said,
    /// Refuse when the slice has another revision by now
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    /// Ask the gates, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Pass gates that are not met; goes into the journal
    #[arg(long, requires = "reason")]
    force: bool,
}

/// Take a slice's reads back at once, and its writes if they have moved
#[derive(Debug, Args)]
#[command(after_help = "\
Works on a frozen slice, too, and with the store down.

Examples:
  outgrow route rollback catalog --reason 'wrong prices'
  outgrow route rollback catalog --to legacy")]
pub(crate) struct RollbackArgs {
    /// Its name in the config
    slice: String,
    /// Where to end: shadow goes on comparing, legacy does not
    #[arg(long, value_parser = ["shadow", "legacy"], default_value = "shadow")]
    to: String,
    #[command(flatten)]
    said: Said,
}

/// Forbid every move forward of a slice; moves back stay possible
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  outgrow route freeze catalog --reason 'christmas sale'")]
pub(crate) struct FreezeArgs {
    /// Its name in the config
    slice: String,
    /// Why, for the journal and for whoever finds it frozen
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who, for the journal
    #[arg(
        long,
        value_name = "NAME",
        env = "USER",
        default_value = "cli",
        hide_env_values = true
    )]
    by: String,
}

/// Allow moves forward again
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  outgrow route unfreeze catalog")]
pub(crate) struct SliceSaid {
    /// Its name in the config
    slice: String,
    #[command(flatten)]
    said: Said,
}

/// Serve nobody of a slice for a while (503 with Retry-After), or serve again
#[derive(Debug, Args)]
#[command(after_help = "\
In force at once, kept over a restart. Who has the override secret is served all the same.

Examples:
  outgrow route maintenance catalog on --reason 'a new disk'
  outgrow route maintenance catalog off")]
pub(crate) struct MaintenanceArgs {
    /// Its name in the config
    slice: String,
    /// on or off
    #[arg(value_parser = ["on", "off"])]
    state: String,
    /// Why, for the journal and for whoever finds nobody served; needed for `on`
    #[arg(long, value_name = "TEXT", required_if_eq("state", "on"))]
    reason: Option<String>,
    /// Who, for the journal
    #[arg(
        long,
        value_name = "NAME",
        env = "USER",
        default_value = "cli",
        hide_env_values = true
    )]
    by: String,
}

/// Show what was changed on a slice, by whom and why
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  outgrow route history catalog --limit 20")]
pub(crate) struct HistoryArgs {
    /// Its name in the config
    slice: String,
    /// Entries at the most
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
}

pub(crate) async fn run(context: &Context, command: RouteCommand) -> anyhow::Result<ExitCode> {
    match command {
        RouteCommand::List => list(context).await,
        RouteCommand::Explain(args) => explain(context, &args).await,
        RouteCommand::Flip(args) => flip(context, &args).await,
        RouteCommand::Rollback(args) => rollback(context, &args).await,
        RouteCommand::Freeze(args) => {
            let said = Said {
                reason: Some(args.reason),
                by: args.by,
            };
            frozen(context, &args.slice, "freeze", &said).await
        }
        RouteCommand::Unfreeze(args) => frozen(context, &args.slice, "unfreeze", &args.said).await,
        RouteCommand::Maintenance(args) => maintenance(context, args).await,
        RouteCommand::History(args) => {
            let query = journal::Query {
                slice: Some(args.slice),
                limit: args.limit,
                after: None,
            };
            journal::list(context, &query).await
        }
    }
}

async fn list(context: &Context) -> anyhow::Result<ExitCode> {
    let answer = context.client()?.get("/v1/status").await?;
    let status: Status = typed(&answer)?;
    context.out.answer(&answer, || {
        let row = |slice: &SliceStatus| {
            vec![
                slice.slice.clone(),
                slice.stage.clone(),
                slice.effective.weight.to_string(),
                slice.effective.writer.to_string(),
                if slice.effective.mirror { "yes" } else { "no" }.to_owned(),
                slice.state.frozen.clone().unwrap_or_else(|| "-".to_owned()),
                slice.state.revision.to_string(),
            ]
        };
        let header = [
            "SLICE",
            "STAGE",
            "EXTRACTED READS",
            "WRITES TO",
            "MIRRORED",
            "FROZEN",
            "REV",
        ];
        let rows = status.slices.iter().map(row).collect();
        format!("{}server {}\n", table(&header, rows), status.version)
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn explain(context: &Context, args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let mut path = format!(
        "/v1/explain?method={}&target={}",
        escape(&args.method),
        escape(&args.path)
    );
    for header in &args.headers {
        path.push_str(&format!("&h={}", escape(header)));
    }
    let answer = context.client()?.get(&path).await?;
    context.out.answer(&answer, || generic(&answer))?;
    Ok(ExitCode::SUCCESS)
}

async fn flip(context: &Context, args: &FlipArgs) -> anyhow::Result<ExitCode> {
    let mut body = args.said.body();
    body.insert("to".to_owned(), Value::from(args.to.clone()));
    if let Some(revision) = args.if_revision {
        body.insert("if_revision".to_owned(), Value::from(revision));
    }
    for (key, flag) in [("dry_run", args.dry_run), ("force", args.force)] {
        if flag {
            body.insert(key.to_owned(), Value::from(true));
        }
    }
    let path = format!("/v1/slices/{}/flip", escape(&args.slice));
    let answer = context.client()?.post(&path, Value::Object(body)).await?;
    let report: Flip = typed(&answer)?;
    context.out.answer(&answer, || {
        let moved = if report.dry_run {
            "would move"
        } else {
            "moved"
        };
        let mut out = format!(
            "{} {moved} from {} to {} (revision {})\n",
            args.slice, report.from, report.to, report.revision
        );
        if !report.acked && !report.dry_run {
            out.push_str("not every proxy has said yet that it knows; see `outgrow status`\n");
        }
        if !report.gates.is_empty() {
            out.push_str(&change::gates(&report.gates));
        }
        out
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn rollback(context: &Context, args: &RollbackArgs) -> anyhow::Result<ExitCode> {
    let mut body = args.said.body();
    body.insert("to".to_owned(), Value::from(args.to.clone()));
    let path = format!("/v1/slices/{}/rollback", escape(&args.slice));
    let answer = context.client()?.post(&path, Value::Object(body)).await?;
    let report: Rollback = typed(&answer)?;
    context
        .out
        .answer(&answer, || rolled_back(&args.slice, &report))?;
    let stuck = report
        .cutover
        .is_some_and(|cutover| cutover.outcome != "switched");
    // The reads are back, the writes are not: that is not done.
    Ok(ExitCode::from(u8::from(stuck)))
}

/// A rollback for people; `runbook abort` ends in one, too.
pub(super) fn rolled_back(slice: &str, report: &Rollback) -> String {
    let mut out = format!(
        "{slice}: all reads are on legacy again after {} (revision {})\n",
        millis(report.reads_back_ms),
        report.revision
    );
    if !report.published {
        out.push_str("the store does not know yet; it is told as soon as it answers\n");
    }
    if let Some(cutover) = &report.cutover {
        out.push_str(&change::cutover(cutover));
    }
    out
}

async fn frozen(
    context: &Context,
    slice: &str,
    verb: &str,
    said: &Said,
) -> anyhow::Result<ExitCode> {
    let path = format!("/v1/slices/{}/{verb}", escape(slice));
    let body = Value::Object(said.body());
    let answer = context.client()?.post(&path, body).await?;
    context.out.answer(&answer, || {
        let reason = answer.get("frozen").and_then(Value::as_str);
        sheet(&[
            ("slice", slice.to_owned()),
            ("frozen", reason.unwrap_or("no").to_owned()),
            (
                "revision",
                answer
                    .get("revision")
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            ),
        ])
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn maintenance(context: &Context, args: MaintenanceArgs) -> anyhow::Result<ExitCode> {
    let said = Said {
        reason: args.reason,
        by: args.by,
    };
    let mut body = said.body();
    body.insert("on".to_owned(), Value::from(args.state == "on"));
    let path = format!("/v1/slices/{}/maintenance", escape(&args.slice));
    let answer = context.client()?.post(&path, Value::Object(body)).await?;
    let state: SliceState = typed(&answer)?;
    context.out.answer(&answer, || {
        sheet(&[
            ("slice", args.slice.clone()),
            (
                "maintenance",
                state.maintenance.clone().unwrap_or_else(|| "no".to_owned()),
            ),
            ("revision", state.revision.to_string()),
        ])
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A stage that a flip can ask for.
fn stage(text: &str) -> Result<String, String> {
    const STAGES: [&str; 4] = ["legacy", "shadow", "canary=PERCENT", "extracted"];
    match (text, text.strip_prefix("canary=")) {
        ("legacy" | "shadow" | "extracted", _) => Ok(text.to_owned()),
        ("retired", _) => Err("a slice retires by `outgrow runbook next` only".to_owned()),
        ("canary", _) => Err("say how much: canary=PERCENT, e.g. canary=5".to_owned()),
        (_, Some(percent)) => outgrow_rollout::Weight::from_percent(percent)
            .map(|_| text.to_owned())
            .map_err(|e| e.to_string()),
        _ => {
            let meant = match crate::config::nearest(text, STAGES) {
                Some(near) => format!("; did you mean `{near}`?"),
                None => String::new(),
            };
            Err(format!("the stages are {}{meant}", STAGES.join(", ")))
        }
    }
}

fn method(text: &str) -> Result<String, String> {
    let text = text.to_ascii_uppercase();
    match http::Method::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text),
        Err(_) => Err("it is not an HTTP method".to_owned()),
    }
}

fn target(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err("a path starts with /".to_owned())
    }
}

fn header(text: &str) -> Result<String, String> {
    match text.split_once(':') {
        Some((name, _)) if crate::config::scalar::is_token(name.trim()) => Ok(text.to_owned()),
        _ => Err("write \"name: value\"".to_owned()),
    }
}
