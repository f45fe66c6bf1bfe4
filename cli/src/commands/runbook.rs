//! `outgrow runbook`: the migration of a slice, step by step, each step behind its gates.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use outgrow_rollout::GateResult;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::change::{self, Said};
use super::{Context, export, route, shadow};
use crate::answers::{Cutover, Rollback, Runbook, StepDone, typed};
use crate::client::{ApiError, Client, Code, escape};
use crate::config::{nearest, scalar};
use crate::output::{Format, generic, indent, table};

/// Between two tries of a step that lacks evidence: gates change with traffic, by the second.
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// Move a slice step by step, each behind its gates
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  outgrow runbook show catalog
  outgrow runbook next catalog --dry-run
  outgrow runbook run catalog --until canary-25 --wait 2h")]
pub(crate) enum RunbookCommand {
    /// Show the steps, and the gates of the next one
    #[command(after_help = "Examples:\n  outgrow runbook show catalog")]
    Show(One),
    /// Say whether the next step could be taken; changes nothing
    #[command(after_help = "Examples:\n  outgrow runbook plan catalog || echo not yet")]
    Plan(One),
    Next(NextArgs),
    Run(RunArgs),
    Approve(ApproveArgs),
    /// End what runs and take the slice back to shadow, its writes to legacy
    #[command(after_help = "Examples:\n  outgrow runbook abort catalog --reason 'wrong totals'")]
    Abort(AbortArgs),
    Export(ExportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// Its name in the config
    slice: String,
}

/// Take the next step, if its gates are met
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outgrow runbook next catalog
  outgrow runbook next catalog --dry-run")]
pub(crate) struct NextArgs {
    /// Its name in the config
    slice: String,
    /// Ask the gates, change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    said: Said,
}

/// Take step after step, waiting for evidence where it is missing
#[derive(Debug, Args)]
#[command(after_help = "\
Stops with 3 at a gate that is not met, with 4 when evidence is still missing after --wait.

Examples:
  outgrow runbook run catalog --until shadow
  outgrow runbook run catalog --wait 12h --reason 'release 4.2'")]
pub(crate) struct RunArgs {
    /// Its name in the config
    slice: String,
    /// The last step to take, e.g. canary-25
    #[arg(long, value_name = "STEP")]
    until: Option<String>,
    /// How long to wait for missing evidence, for each step
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = scalar::duration)]
    wait: Duration,
    #[command(flatten)]
    said: Said,
}

/// Approve a step that the plan wants approved by a person
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  outgrow runbook approve catalog cutover --by alice")]
pub(crate) struct ApproveArgs {
    /// Its name in the config
    slice: String,
    /// As `runbook show` names it, e.g. cutover
    step: String,
    #[command(flatten)]
    said: Said,
}

#[derive(Debug, Args)]
pub(crate) struct AbortArgs {
    /// Its name in the config
    slice: String,
    /// Why, for the journal
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

/// Write the runbook as a Markdown page with today's evidence in it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  outgrow runbook export catalog --out runbook.md")]
pub(crate) struct ExportArgs {
    /// Its name in the config
    slice: String,
    /// Write it to this file instead
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) async fn run(context: &Context, command: RunbookCommand) -> anyhow::Result<ExitCode> {
    match command {
        RunbookCommand::Show(args) => show(context, &args.slice).await,
        RunbookCommand::Plan(args) => {
            let client = context.client()?;
            let mut body = Map::new();
            body.insert("dry_run".to_owned(), Value::from(true));
            next(context, &client, &args.slice, body).await
        }
        RunbookCommand::Next(args) => {
            let client = context.client()?;
            let mut body = args.said.body();
            body.insert("dry_run".to_owned(), Value::from(args.dry_run));
            next(context, &client, &args.slice, body).await
        }
        RunbookCommand::Run(args) => run_all(context, &args).await,
        RunbookCommand::Approve(args) => approve(context, &args).await,
        RunbookCommand::Abort(args) => abort(context, args).await,
        RunbookCommand::Export(args) => {
            let page = export::page(&context.client()?, &args.slice).await?;
            shadow::deliver(context, &page, args.out.as_deref())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn path(slice: &str, verb: &str) -> String {
    format!("/v1/runbook/{}/{verb}", escape(slice))
}

async fn fetch(client: &Client, slice: &str) -> Result<(Value, Runbook), ApiError> {
    let answer = client
        .get(&format!("/v1/runbook/{}", escape(slice)))
        .await?;
    let runbook = typed(&answer)?;
    Ok((answer, runbook))
}

async fn show(context: &Context, slice: &str) -> anyhow::Result<ExitCode> {
    let (answer, runbook) = fetch(&context.client()?, slice).await?;
    context.out.answer(&answer, || steps(&runbook))?;
    Ok(ExitCode::SUCCESS)
}

fn steps(runbook: &Runbook) -> String {
    let rows = runbook
        .steps
        .iter()
        .map(|step| vec![step.state.clone(), step.id.clone(), step.title.clone()])
        .collect();
    let mut out = format!("slice {}\n\n", runbook.slice);
    out.push_str(&table(&["STATE", "STEP", "WHAT IT DOES"], rows));
    for step in runbook.steps.iter().filter(|step| !step.gates.is_empty()) {
        out.push_str(&format!("\ngates of {}:\n", step.id));
        out.push_str(&indent(&change::gates(&step.gates)));
    }
    out
}

/// One step, or with `dry_run` its gates alone.
async fn next(
    context: &Context,
    client: &Client,
    slice: &str,
    body: Map<String, Value>,
) -> anyhow::Result<ExitCode> {
    let answer = client
        .post(&path(slice, "next"), Value::Object(body))
        .await?;
    let done: StepDone = typed(&answer)?;
    context.out.answer(&answer, || step_text(slice, &done))?;
    Ok(ExitCode::SUCCESS)
}

fn step_text(slice: &str, done: &StepDone) -> String {
    if !done.done {
        let gates = done.detail.get("gates").cloned().unwrap_or_default();
        let gates: Vec<GateResult> = serde_json::from_value(gates).unwrap_or_default();
        if gates.is_empty() {
            return format!(
                "{slice}: `{}` has no gates; `outgrow runbook next {slice}` takes it\n",
                done.step
            );
        }
        return format!(
            "{slice}: the gates of `{}` are met; `outgrow runbook next {slice}` takes it\n{}",
            done.step,
            indent(&change::gates(&gates))
        );
    }
    let mut out = format!("{slice}: `{}` is done\n", done.step);
    match typed::<Cutover>(&done.detail) {
        Ok(report) => out.push_str(&indent(&change::cutover(&report))),
        Err(_)
            if done
                .detail
                .as_object()
                .is_some_and(|detail| !detail.is_empty()) =>
        {
            out.push_str(&indent(&generic(&done.detail)));
        }
        Err(_) => {}
    }
    out
}

/// Whether a refusal may pass by waiting: missing evidence, or something still running.
fn passes(error: &ApiError) -> bool {
    match error.code {
        Code::Inconclusive => true,
        Code::Conflict => error.details.get("running").is_some(),
        _ => false,
    }
}

async fn run_all(context: &Context, args: &RunArgs) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let (_, runbook) = fetch(&client, &args.slice).await?;
    if let Some(until) = &args.until
        && place_of(&runbook, until)? < first_open(&runbook)
    {
        let note = format!("{}: `{until}` is done already", args.slice);
        context.out.note(&note);
        return Ok(ExitCode::SUCCESS);
    }
    let mut taken: Vec<String> = Vec::new();
    loop {
        let (_, runbook) = fetch(&client, &args.slice).await?;
        let Some(step) = runbook.steps.iter().find(|step| step.state == "next") else {
            context
                .out
                .note(&format!("{}: no step is left", args.slice));
            return Ok(ExitCode::SUCCESS);
        };
        // The guard has taken the slice back; going on by itself would hide that.
        if taken.contains(&step.id) {
            bail!(
                "slice `{}` fell back behind `{}` after it was taken; see `outgrow route history {}`",
                args.slice,
                step.id,
                args.slice
            );
        }
        let done = one_step(context, &client, args, &step.id).await?;
        taken.push(done.step.clone());
        if args.until.as_ref() == Some(&done.step) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Where a step stands in the order, from 0.
fn place_of(runbook: &Runbook, id: &str) -> Result<usize, ApiError> {
    let found = runbook.steps.iter().position(|step| step.id == id);
    found.ok_or_else(|| {
        let ids: Vec<&str> = runbook.steps.iter().map(|step| step.id.as_str()).collect();
        ApiError {
            code: Code::Usage,
            message: format!("slice `{}` has no step `{id}`", runbook.slice),
            details: Value::Null,
            hint: match nearest(id, ids.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the steps are {}", ids.join(", ")),
            },
        }
    })
}

fn first_open(runbook: &Runbook) -> usize {
    let open = |step: &crate::answers::StepStatus| matches!(step.state.as_str(), "next" | "later");
    runbook
        .steps
        .iter()
        .position(open)
        .unwrap_or(runbook.steps.len())
}

/// Takes one step, trying again while evidence is missing.
async fn one_step(
    context: &Context,
    client: &Client,
    args: &RunArgs,
    id: &str,
) -> anyhow::Result<StepDone> {
    let deadline = Instant::now() + args.wait;
    let path = path(&args.slice, "next");
    let mut told = String::new();
    loop {
        match client.post(&path, Value::Object(args.said.body())).await {
            Ok(answer) => {
                let done: StepDone = typed(&answer)?;
                match context.out.format {
                    Format::Json => context.out.text(&answer.to_string())?,
                    Format::Table => context.out.text(&step_text(&args.slice, &done))?,
                }
                return Ok(done);
            }
            Err(error) if passes(&error) && Instant::now() < deadline => {
                let waits = waiting_for(&error);
                if waits != told {
                    context
                        .out
                        .note(&format!("{}: {id} waits for {waits}", args.slice));
                    told = waits;
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
}

/// What is missing, in a few words without the figures that change all the time.
fn waiting_for(error: &ApiError) -> String {
    let names: Vec<String> = error
        .gates()
        .into_iter()
        .filter(|gate| !gate.ok)
        .map(|gate| format!("{} (limit {})", gate.name, gate.limit))
        .collect();
    if names.is_empty() {
        error.message.clone()
    } else {
        names.join(", ")
    }
}

async fn approve(context: &Context, args: &ApproveArgs) -> anyhow::Result<ExitCode> {
    let mut body = args.said.body();
    body.insert("step".to_owned(), Value::from(args.step.clone()));
    let path = path(&args.slice, "approve");
    let answer = context.client()?.post(&path, Value::Object(body)).await?;
    context.out.answer(&answer, || {
        format!(
            "{}: `{}` is approved by {}\n",
            args.slice, args.step, args.said.by
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn abort(context: &Context, args: AbortArgs) -> anyhow::Result<ExitCode> {
    let said = Said {
        reason: Some(args.reason),
        by: args.by,
    };
    let path = path(&args.slice, "abort");
    let answer = context
        .client()?
        .post(&path, Value::Object(said.body()))
        .await?;
    let report: Rollback = typed(&answer)?;
    context
        .out
        .answer(&answer, || route::rolled_back(&args.slice, &report))?;
    Ok(ExitCode::SUCCESS)
}
