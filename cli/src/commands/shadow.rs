//! `outgrow shadow`: what the comparison of both sides' answers has found.

mod rules;
mod show;
mod what_if;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use outgrow_rollout::{FieldDifference, ShadowEvidence, SliceState};
use outgrow_shadow::{ClusterRow, LatencyDifference, ReasonRow};
use serde::Deserialize;
use serde_json::Value;

use self::rules::IgnoreCommand;
use self::what_if::WhatIfArgs;
use super::Context;
use super::change::Said;
use super::record::{self, RecordArgs};
use crate::answers::{Shadow, typed};
use crate::client::{ApiError, Code, escape};
use crate::figures::{count, share};
use crate::output::{Format, sheet, table};

/// See how both sides' answers compare
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  outgrow shadow status
  outgrow shadow report catalog --format html --out report.html
  outgrow shadow ignore add catalog '$.served_by' --reason 'host name' --until 2027-01-31")]
pub(crate) enum ShadowCommand {
    /// Show how many answers were compared, and how many speak against the extracted side
    #[command(after_help = "Examples:\n  outgrow shadow status")]
    Status,
    Report(ReportArgs),
    /// Show one stored pair of answers
    #[command(after_help = "Examples:\n  outgrow shadow show 17-3f2a")]
    Show {
        /// As the report and the gates name it
        id: String,
    },
    /// Differences that are known and accepted for a while
    #[command(subcommand)]
    Ignore(IgnoreCommand),
    WhatIf(Box<WhatIfArgs>),
    Reset(ResetArgs),
    /// Mirror nothing of a slice until it is resumed
    #[command(after_help = "\
Kept over a restart. Reads stay where they are; forward steps are refused.

Examples:
  outgrow shadow pause catalog --reason 'the new side is being reloaded'")]
    Pause(MirrorArgs),
    Resume(ResumeArgs),
    Record(RecordArgs),
}

#[derive(Debug, Args)]
pub(crate) struct MirrorArgs {
    /// Its name in the config
    slice: String,
    #[command(flatten)]
    said: Said,
}

/// Mirror a slice again, after a pause, the tripwire, or a dry run that was not honoured
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outgrow shadow resume catalog --reason 'the counter is gone'
  outgrow shadow resume catalog --route 'GET /api/search' --reason 'it was the list'")]
pub(crate) struct ResumeArgs {
    /// Its name in the config
    slice: String,
    /// Only this one of the routes that were stopped by themselves; may be given again
    #[arg(long = "route", value_name = "ROUTE")]
    routes: Vec<String>,
    #[command(flatten)]
    said: Said,
}

/// Report the differences of a slice
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outgrow shadow report catalog
  outgrow shadow report catalog --format html --out report.html")]
pub(crate) struct ReportArgs {
    /// Its name in the config
    slice: String,
    /// table shows the worst, html is a page that needs nothing else, junit is for CI
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: ReportFormat,
    /// Write it to this file instead
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    Table,
    Html,
    Md,
    Json,
    Junit,
}

/// Drop a slice's evidence and gather it anew
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  outgrow shadow reset catalog --reason 'the cache was cold'")]
pub(crate) struct ResetArgs {
    /// Its name in the config
    slice: String,
    #[command(flatten)]
    said: Said,
}

pub(crate) async fn run(context: &Context, command: ShadowCommand) -> anyhow::Result<ExitCode> {
    match command {
        ShadowCommand::Status => status(context).await,
        ShadowCommand::Report(args) => report(context, &args).await,
        ShadowCommand::Show { id } => {
            let path = format!("/v1/shadow/pairs/{}", escape(&id));
            let answer = context.client()?.get(&path).await?;
            context.out.answer(&answer, || show::shown(&answer))?;
            Ok(ExitCode::SUCCESS)
        }
        ShadowCommand::Ignore(command) => rules::run(context, command).await,
        ShadowCommand::WhatIf(args) => what_if::run(context, &args).await,
        ShadowCommand::Record(args) => record::run(context, &args).await,
        ShadowCommand::Pause(args) => mirroring(context, &args.slice, None, &args.said).await,
        ShadowCommand::Resume(args) => {
            mirroring(context, &args.slice, Some(&args.routes), &args.said).await
        }
        ShadowCommand::Reset(args) => {
            let path = format!("/v1/shadow/{}/reset", escape(&args.slice));
            let body = Value::Object(args.said.body());
            let answer = context.client()?.post(&path, body).await?;
            context.out.answer(&answer, || {
                format!("the evidence of {} is gathered anew\n", args.slice)
            })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Switches the mirroring of a slice: off, or on, only of these routes where some are named.
async fn mirroring(
    context: &Context,
    slice: &str,
    resumed: Option<&[String]>,
    said: &Said,
) -> anyhow::Result<ExitCode> {
    let mut body = said.body();
    body.insert("on".to_owned(), Value::from(resumed.is_some()));
    if let Some(routes) = resumed.filter(|routes| !routes.is_empty()) {
        body.insert("routes".to_owned(), Value::from(routes));
    }
    let path = format!("/v1/slices/{}/mirroring", escape(slice));
    let answer = context.client()?.post(&path, Value::Object(body)).await?;
    let state: SliceState = typed(&answer)?;
    context.out.answer(&answer, || {
        let stopped = state.unmirrored.as_deref();
        let mut rows = vec![
            ("slice", slice.to_owned()),
            ("not mirrored", stopped.unwrap_or("no").to_owned()),
        ];
        let routes = state.unmirrored_routes.keys();
        rows.extend(routes.map(|route| ("route not mirrored", route.clone())));
        rows.push(("revision", state.revision.to_string()));
        sheet(&rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Slices of which nothing is mirrored, routes of which no write is, and why.
fn stopped(answer: &Value, all: &Shadow) -> String {
    let mut lines = String::new();
    for (slice, evidence) in all {
        let whole = answer[slice]["unmirrored"].as_str();
        if let Some(reason) = whole {
            lines.push_str(&format!("\n{slice}: nothing is mirrored: {reason}\n"));
        }
        let routes = answer[slice]["unmirrored_routes"].as_object();
        for (route, reason) in routes.into_iter().flatten() {
            let reason = reason.as_str().unwrap_or_default();
            lines.push_str(&format!("\n{slice}: `{route}` is not mirrored: {reason}\n"));
        }
        let routes = evidence.iter().flat_map(|evidence| &evidence.stopped);
        for (route, reason) in routes {
            let what = format!("writes of `{route}` are mirrored no more");
            lines.push_str(&format!("\n{slice}: {what}: {reason}\n"));
        }
    }
    lines
}

async fn status(context: &Context) -> anyhow::Result<ExitCode> {
    let answer = context.client()?.get("/v1/shadow").await?;
    let all: Shadow = typed(&answer)?;
    context.out.answer(&answer, || {
        let header = [
            "SLICE",
            "ELIGIBLE",
            "COMPARED",
            "MATCHED",
            "MISMATCHED",
            "FAILED",
            "SHED",
            "WAITING",
            "AGAINST",
            "BUILDS",
        ];
        let rows = all
            .iter()
            .map(|(slice, evidence)| row(slice, evidence.as_ref()));
        format!(
            "{}{}",
            table(&header, rows.collect()),
            stopped(&answer, &all)
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn row(slice: &str, evidence: Option<&ShadowEvidence>) -> Vec<String> {
    let mut row = vec![slice.to_owned()];
    match evidence {
        None => row.extend(std::iter::repeat_n("-".to_owned(), 9)),
        Some(seen) => row.extend([
            count(seen.eligible),
            count(seen.compared()),
            count(seen.matched),
            count(seen.mismatched),
            count(seen.candidate_errors),
            count(seen.shed),
            count(seen.waiting),
            share(seen.against(), seen.compared()),
            format!("{} / {}", seen.builds.legacy, seen.builds.extracted),
        ]),
    }
    row
}

async fn report(context: &Context, args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let format = match (args.format, context.out.format) {
        (ReportFormat::Table, Format::Json) => ReportFormat::Json,
        (format, _) => format,
    };
    let text = match format {
        ReportFormat::Table => {
            let all: Shadow = typed(&client.get("/v1/shadow").await?)?;
            let Some(evidence) = all.get(&args.slice) else {
                return Err(unknown(&args.slice, all.keys().map(String::as_str)).into());
            };
            match evidence {
                Some(evidence) => {
                    let path = format!("/v1/shadow/{}/report?format=json", escape(&args.slice));
                    let found = client.text(&path).await?;
                    let found: Causes = serde_json::from_str(&found)
                        .context("the report of this server cannot be read")?;
                    let table = report_table(&args.slice, evidence);
                    let (reasons, causes) = (reasons(&found.reasons), causes(&found.clusters));
                    format!("{table}{reasons}{}{causes}", aside(&found))
                }
                None => format!("nothing was compared of {} yet\n", args.slice),
            }
        }
        ReportFormat::Html | ReportFormat::Md | ReportFormat::Json | ReportFormat::Junit => {
            let name = match format {
                ReportFormat::Html => "html",
                ReportFormat::Md => "md",
                ReportFormat::Junit => "junit",
                _ => "json",
            };
            let slice = escape(&args.slice);
            client
                .text(&format!("/v1/shadow/{slice}/report?format={name}"))
                .await?
        }
    };
    deliver(context, &text, args.out.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a document, or writes it to a file and says so.
pub(super) fn deliver(context: &Context, text: &str, out: Option<&Path>) -> anyhow::Result<()> {
    let Some(path) = out else {
        context.out.text(text)?;
        return Ok(());
    };
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    context.out.note(&format!("wrote {}", path.display()));
    Ok(())
}

fn unknown<'a>(slice: &str, known: impl Iterator<Item = &'a str> + Clone) -> ApiError {
    let names: Vec<&str> = known.clone().collect();
    let hint = match crate::config::nearest(slice, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the slices are {}", names.join(", ")),
    };
    ApiError {
        code: Code::NotFound,
        message: format!("there is no slice `{slice}`"),
        details: Value::Null,
        hint,
    }
}

/// The ledger, the classes and the worst differences.
pub(super) fn report_table(slice: &str, seen: &ShadowEvidence) -> String {
    let mut out = sheet(&[
        ("slice", slice.to_owned()),
        (
            "builds",
            format!("{} against {}", seen.builds.legacy, seen.builds.extracted),
        ),
        ("eligible", count(seen.eligible)),
        ("compared", count(seen.compared())),
        ("matched", count(seen.matched)),
        ("mismatched", count(seen.mismatched)),
        ("candidate failed", count(seen.candidate_errors)),
        ("not comparable", count(seen.not_comparable)),
        ("not sampled", count(seen.sampled_out)),
        ("ineligible", count(seen.ineligible)),
        ("shed", count(seen.shed)),
        ("waiting", count(seen.waiting)),
        ("against", share(seen.against(), seen.compared())),
    ]);
    let classes: Vec<Vec<String>> = seen
        .classes
        .iter()
        .map(|(name, class)| {
            vec![
                name.clone(),
                count(class.compared),
                count(class.against),
                share(class.against, class.compared),
            ]
        })
        .collect();
    if !classes.is_empty() {
        let header = ["ROUTE AND STATUS", "COMPARED", "AGAINST", "SHARE"];
        out.push_str(&format!("\n{}", table(&header, classes)));
    }
    if !seen.top.is_empty() {
        out.push_str(&format!("\n{}", differences(&seen.top)));
    }
    out
}

/// What a table shows of a whole report.
#[derive(Debug, Deserialize)]
struct Causes {
    clusters: Vec<ClusterRow>,
    #[serde(default)]
    reasons: Vec<ReasonRow>,
    #[serde(default)]
    warnings: Vec<String>,
    #[serde(default)]
    latency: Option<LatencyDifference>,
}

/// Why requests were not compared.
fn reasons(rows: &[ReasonRow]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let row = |row: &ReasonRow| {
        let (outcome, reason) = (row.outcome.clone(), row.reason.clone());
        vec![count(row.count), outcome, reason, row.meaning.clone()]
    };
    let header = ["COUNT", "OUTCOME", "REASON", "MEANS"];
    format!("\n{}", table(&header, rows.iter().map(row).collect()))
}

/// How much later one side answers, and rules that should go.
fn aside(found: &Causes) -> String {
    let mut out = String::new();
    if let Some(latency) = found.latency {
        let millis = |micros: i64| format!("{:+.2}", micros as f64 / 1_000.0);
        out.push_str(&format!(
            "\nextracted less legacy: {} ms to an answer in the median, {} to {} with 95% \
             confidence ({} requests)\n",
            millis(latency.median_us),
            millis(latency.low_us),
            millis(latency.high_us),
            count(latency.pairs)
        ));
    }
    for warning in &found.warnings {
        out.push_str(&format!("\nwarning: {warning}\n"));
    }
    out
}

/// Mismatches by their cause, each with its smallest example.
fn causes(clusters: &[ClusterRow]) -> String {
    /// The whole list is in the other formats.
    const SHOWN: usize = 10;
    let mut out = String::new();
    for found in clusters.iter().take(SHOWN) {
        let fields: Vec<String> = found
            .fields
            .iter()
            .map(|field| format!("{} {}", field.kind, field.path))
            .collect();
        let about = if found.exact { "" } else { "about " };
        out.push_str(&format!(
            "\n{} {}: {about}{} with {}\n  {}\n",
            found.id,
            found.route,
            count(found.count),
            fields.join(", "),
            found.cause
        ));
        for line in found
            .diff
            .lines()
            .chain(found.curl.iter().map(|line| &**line))
        {
            out.push_str(&format!("    {line}\n"));
        }
    }
    if clusters.len() > SHOWN {
        out.push_str(&format!("\nand {} more causes\n", clusters.len() - SHOWN));
    }
    out
}

pub(super) fn differences(top: &[FieldDifference]) -> String {
    let rows = top
        .iter()
        .map(|found| {
            vec![
                found.route.clone(),
                found.path.clone(),
                found.kind.clone(),
                count(found.count),
                clip(&found.legacy),
                clip(&found.extracted),
                found.example.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    let header = [
        "ROUTE",
        "PATH",
        "KIND",
        "COUNT",
        "LEGACY",
        "EXTRACTED",
        "EXAMPLE",
    ];
    table(&header, rows)
}

/// Values in a table are samples; `shadow show` has them whole.
fn clip(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    let line = text.replace(['\n', '\r', '\t'], " ");
    if line.chars().count() <= CHARS_MAX {
        return line;
    }
    let start: String = line.chars().take(CHARS_MAX - 3).collect();
    format!("{start}...")
}
