//! `outgrow sync`: the tables of a slice, copied and kept in step.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::change::{self, Said};
use super::conflicts::{self, ConflictsArgs, SettleArgs};
use super::verify::{self, VerifyArgs};
use super::{Context, status};
use crate::answers::{Cutover, SyncAll, SyncStatus, typed};
use crate::client::escape;
use crate::figures::{bytes, count, millis, share};
use crate::output::{generic, sheet, table};

/// Copy a slice's tables and keep both sides in step
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  outgrow sync start catalog
  outgrow sync status
  outgrow sync verify catalog")]
pub(crate) enum SyncCommand {
    /// Copy the tables and follow their changes
    #[command(after_help = "Examples:\n  outgrow sync start catalog")]
    Start(Changed),
    Status(StatusArgs),
    Verify(VerifyArgs),
    Repair(RepairArgs),
    Events(EventsArgs),
    /// Stop following; changes are kept for later
    #[command(after_help = "Examples:\n  outgrow sync pause catalog --reason 'disk is full'")]
    Pause(Changed),
    Resume(ResumeArgs),
    Conflicts(ConflictsArgs),
    Settle(SettleArgs),
    Reverse(ReverseArgs),
    /// Remove everything that Outgrow put into the two databases
    #[command(after_help = "\
The slice must be retired, or be on legacy with its writes.

Examples:
  outgrow sync close catalog --reason 'given up'")]
    Close(Changed),
    /// Check databases, tables, keys and mapping; changes nothing
    #[command(after_help = "Examples:\n  outgrow sync preflight catalog")]
    Preflight(One),
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// Its name in the config
    slice: String,
}

#[derive(Debug, Args)]
pub(crate) struct Changed {
    /// Its name in the config
    slice: String,
    #[command(flatten)]
    said: Said,
}

/// Go on following, also after a failure
#[derive(Debug, Args)]
#[command(after_help = "\
Where a fail-over has put a replica in a database's place, --another-server goes on with it, if its GTIDs prove that it has all that was applied.

Examples:
  outgrow sync resume catalog
  outgrow sync resume catalog --another-server --reason 'fail-over to db2'")]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    changed: Changed,
    /// Go on with another server than before, if it has all that was applied
    #[arg(long)]
    another_server: bool,
}

/// Show how far the tables are
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  outgrow sync status\n  outgrow sync status catalog")]
pub(crate) struct StatusArgs {
    /// Show one slice with its tables
    slice: Option<String>,
}

/// Mend the rows that the last verification named; without --apply only say which
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outgrow sync repair catalog
  outgrow sync repair catalog --apply --reason 'after the restore'")]
pub(crate) struct RepairArgs {
    /// Its name in the config
    slice: String,
    /// Write the rows
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    said: Said,
}

/// Show how the slice's change events get on; with --resume go on with parked ones
#[derive(Debug, Args)]
#[command(after_help = "\
Events are parked when the broker was away for too long. What was not published by then is dropped;
consumers are told of the gap.

Examples:
  outgrow sync events catalog
  outgrow sync events catalog --resume --reason 'broker is back'")]
pub(crate) struct EventsArgs {
    /// Its name in the config
    slice: String,
    /// Go on from the present
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    said: Said,
}

/// Move the writes to the other side without losing any: the cutover
#[derive(Debug, Args)]
#[command(after_help = "\
New writes wait for some milliseconds; if that would take too long, the cutover takes itself back.

Examples:
  outgrow sync reverse catalog --to extracted
  outgrow sync reverse catalog --to legacy --reason 'wrong totals'")]
pub(crate) struct ReverseArgs {
    /// Its name in the config
    slice: String,
    /// The side that takes the writes from then on
    #[arg(long, value_parser = ["extracted", "legacy"])]
    to: String,
    #[command(flatten)]
    said: Said,
    /// Pass gates that are not met; goes into the journal
    #[arg(long, requires = "reason")]
    force: bool,
}

pub(crate) async fn run(context: &Context, command: SyncCommand) -> anyhow::Result<ExitCode> {
    match command {
        SyncCommand::Start(args) => moved(context, "start", &args).await,
        SyncCommand::Pause(args) => moved(context, "pause", &args).await,
        SyncCommand::Resume(args) => {
            let verb = match args.another_server {
                true => "another-server",
                false => "resume",
            };
            moved(context, verb, &args.changed).await
        }
        SyncCommand::Close(args) => moved(context, "close", &args).await,
        SyncCommand::Status(args) => show(context, args.slice.as_deref()).await,
        SyncCommand::Verify(args) => verify::run(context, &args).await,
        SyncCommand::Repair(args) => repair(context, &args).await,
        SyncCommand::Events(args) => events(context, &args).await,
        SyncCommand::Reverse(args) => reverse(context, &args).await,
        SyncCommand::Conflicts(args) => conflicts::list(context, &args).await,
        SyncCommand::Settle(args) => conflicts::settle(context, &args).await,
        SyncCommand::Preflight(args) => look(context, &args.slice, "preflight").await,
    }
}

pub(super) fn path(slice: &str, verb: &str) -> String {
    format!("/v1/sync/{}/{verb}", escape(slice))
}

/// A change whose answer is the new state.
async fn moved(context: &Context, verb: &str, args: &Changed) -> anyhow::Result<ExitCode> {
    let body = Value::Object(args.said.body());
    let answer = context
        .client()?
        .post(&path(&args.slice, verb), body)
        .await?;
    context.out.answer(&answer, || {
        let text = |pointer: &str| match answer.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => "-".to_owned(),
            Some(other) => other.to_string(),
        };
        let paused = text("/data/paused");
        let mut rows = vec![
            ("slice", args.slice.clone()),
            ("data", text("/data/phase")),
            ("revision", text("/revision")),
        ];
        if paused != "-" {
            rows.push(("paused", paused));
        }
        sheet(&rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn show(context: &Context, slice: Option<&str>) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    if let Some(slice) = slice {
        let answer = client.get(&format!("/v1/sync/{}", escape(slice))).await?;
        let status: SyncStatus = typed(&answer)?;
        context.out.answer(&answer, || one(&status))?;
        return Ok(ExitCode::SUCCESS);
    }
    let answer = client.get("/v1/sync").await?;
    let all: SyncAll = typed(&answer)?;
    context.out.answer(&answer, || {
        let header = [
            "SLICE",
            "DATA",
            "FROM",
            "COPIED",
            "LAG",
            "REVERSE LAG",
            "WAITING",
            "PARKED",
            "FOREIGN",
        ];
        table(&header, all.slices.iter().map(row).collect())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn row(status: &SyncStatus) -> Vec<String> {
    let phase = status
        .data
        .as_ref()
        .map_or("no tables".to_owned(), |link| link.phase.to_string());
    let mut row = vec![status.slice.clone(), phase];
    let lag = |ms: Option<u64>| ms.map_or("-".to_owned(), millis);
    match &status.evidence {
        None => row.extend(std::iter::repeat_n("-".to_owned(), 7)),
        Some(sync) => row.extend([
            sync.source.to_string(),
            share(sync.copied_rows, sync.total_rows),
            lag(sync.lag_ms),
            lag(sync.reverse_lag_ms),
            count(sync.backlog),
            count(sync.parked),
            count(sync.foreign_writes),
        ]),
    }
    row
}

/// Said of what is worth a warning.
fn of_limit(kept: u64, limit: u64) -> String {
    match kept > limit / 2 && limit > 0 {
        true => format!(", of at most {}", bytes(limit)),
        false => String::new(),
    }
}

fn one(status: &SyncStatus) -> String {
    let mut rows = vec![("slice", status.slice.clone())];
    if let Some(link) = &status.data {
        rows.push(("data", link.phase.to_string()));
        rows.extend(link.failed.clone().map(|why| ("failed", why)));
        rows.extend(link.paused.clone().map(|why| ("paused", why)));
    }
    rows.extend(status.trouble.clone().map(|what| ("trouble", what)));
    if let Some(sync) = &status.evidence {
        rows.push(("link", status::sync_line(sync)));
        if sync.backlog_bytes > 0 {
            let what = format!(
                "{} changes, of rows of about {}",
                count(sync.backlog),
                bytes(sync.backlog_bytes)
            );
            rows.push(("waiting", what));
        }
        for (side, kept) in &sync.log_kept_bytes {
            let what = format!(
                "the {side} database keeps {} of it for the link{}",
                bytes(*kept),
                of_limit(*kept, sync.log_limit_bytes)
            );
            rows.push(("log", what));
        }
        let noted = sync.noted_bytes.iter().filter(|(_, kept)| **kept > 0);
        for (side, kept) in noted {
            let what = format!(
                "the {side} database keeps {} of changes for the link{}",
                bytes(*kept),
                of_limit(*kept, sync.noted_limit_bytes)
            );
            rows.push(("noted", what));
        }
        for (side, load) in sync.load.iter().filter(|(_, l)| l.running > l.most) {
            let what = format!(
                "{} of {} statements run on the {side} side: copies and verifications wait",
                load.running, load.most
            );
            rows.push(("load", what));
        }
        if let Some(last) = &sync.last_foreign {
            let age = sync.foreign_write_age_ms.map_or("?".to_owned(), millis);
            rows.push(("last foreign write", format!("{last}, {age} ago")));
        }
    }
    let mut out = sheet(&rows);
    if let Some(sync) = &status.evidence
        && let Some(verified) = &sync.verified
    {
        let age = sync.verified_age_ms.map_or("?".to_owned(), millis);
        out.push_str(&format!(
            "\nverified {age} ago:\n{}",
            change::rows(verified)
        ));
    }
    if let Some(tables) = status.detail["tables"]
        .as_array()
        .filter(|all| !all.is_empty())
    {
        out.push_str(&format!("\n{}", progress(tables)));
    }
    if let Some(rest) = telling(&status.detail) {
        out.push_str(&format!("\n{}", generic(&rest)));
    }
    out
}

/// How far each table is.
fn progress(tables: &[Value]) -> String {
    let number = |value: &Value| value.as_u64().map_or("-".to_owned(), count);
    let rows = tables.iter().map(|one| {
        let extracted = one["extracted"].as_array().map(Vec::as_slice);
        let extracted = extracted
            .unwrap_or_default()
            .iter()
            .filter_map(Value::as_str);
        let left = one["seconds_left"].as_u64();
        // Of rows that are read again, how many were.
        let (copied, of) = match &one["read_again"] {
            Value::Object(again) => (&again["rows"], &again["of"]),
            _ => (&one["copied"], &one["total"]),
        };
        vec![
            one["legacy"].as_str().unwrap_or("-").to_owned(),
            extracted.collect::<Vec<_>>().join(", "),
            one["state"].as_str().unwrap_or("-").to_owned(),
            number(copied),
            number(of),
            number(&one["rows_per_second"]),
            left.map_or("-".to_owned(), |left| millis(left.saturating_mul(1_000))),
            number(&one["applied"]),
        ]
    });
    let header = [
        "LEGACY",
        "EXTRACTED",
        "STATE",
        "COPIED",
        "OF",
        "ROWS/S",
        "LEFT",
        "CHANGES",
    ];
    table(&header, rows.collect())
}

/// What the lines above say already, or the journal.
const SAID: [&str; 13] = [
    "backlog",
    "backlog_bytes",
    "failed",
    "foreign_writes",
    "lag_ms",
    "load",
    "log_kept_bytes",
    "noted_bytes",
    "parked",
    "reverse_lag_ms",
    "source",
    "tables",
    "waiting_for",
];

/// What of a link's own words is worth a line: nothing that is said above, is not there, or is as it should be.
fn telling(detail: &Value) -> Option<Value> {
    match detail {
        Value::Object(fields) => {
            let known = fields.get("state").is_some();
            let told = fields
                .iter()
                .filter(|(name, _)| !(known && SAID.contains(&name.as_str())));
            let told: serde_json::Map<String, Value> = told
                .filter_map(|(name, field)| Some((name.clone(), telling(field)?)))
                .collect();
            // Where a link does nothing, its place and that it is paused are no news.
            let idle = told.keys().all(|name| name == "state");
            (!idle).then_some(Value::Object(told))
        }
        Value::Array(items) => (!items.is_empty()).then(|| detail.clone()),
        Value::Null | Value::Bool(false) => None,
        Value::Number(number) if number.as_u64() == Some(0) => None,
        other => Some(other.clone()),
    }
}

async fn repair(context: &Context, args: &RepairArgs) -> anyhow::Result<ExitCode> {
    let mut body = args.said.body();
    body.insert("apply".to_owned(), Value::from(args.apply));
    let path = path(&args.slice, "repair");
    let answer = context.client()?.post(&path, Value::Object(body)).await?;
    context.out.answer(&answer, || generic(&answer))?;
    if !args.apply {
        context.out.note("nothing was written; add --apply to mend");
    }
    Ok(ExitCode::SUCCESS)
}

async fn events(context: &Context, args: &EventsArgs) -> anyhow::Result<ExitCode> {
    let (client, slice) = (context.client()?, escape(&args.slice));
    if args.resume {
        let body = Value::Object(args.said.body());
        let answer = client
            .post(&path(&args.slice, "resume-events"), body)
            .await?;
        if answer["resumed"] == false {
            context.out.note("no events were parked");
        }
    }
    let answer = client.get(&format!("/v1/sync/{slice}")).await?;
    let events = answer.pointer("/detail/events").unwrap_or(&Value::Null);
    if events.is_null() {
        anyhow::bail!(
            "slice `{}` publishes no events: add [slices.{slice}.events] and start its sync",
            args.slice
        );
    }
    context.out.answer(events, || generic(events))?;
    Ok(ExitCode::SUCCESS)
}

async fn reverse(context: &Context, args: &ReverseArgs) -> anyhow::Result<ExitCode> {
    let mut body = args.said.body();
    body.insert("to".to_owned(), Value::from(args.to.clone()));
    if args.force {
        body.insert("force".to_owned(), Value::from(true));
    }
    let path = path(&args.slice, "reverse");
    let answer = context.client()?.post(&path, Value::Object(body)).await?;
    let report: Cutover = typed(&answer)?;
    context.out.answer(&answer, || change::cutover(&report))?;
    Ok(ExitCode::from(u8::from(report.outcome != "switched")))
}

async fn look(context: &Context, slice: &str, verb: &str) -> anyhow::Result<ExitCode> {
    let answer = context.client()?.get(&path(slice, verb)).await?;
    context.out.answer(&answer, || generic(&answer))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_that_are_read_again_are_told() {
        let mut item = json!({"legacy": "item", "extracted": ["article"], "state": "reading again",
            "copied": 500, "total": 500, "read_again": {"rows": 120, "of": 480}, "applied": 0});
        let of = |item: &Value| {
            let text = progress(std::slice::from_ref(item));
            let line = text.lines().nth(1).unwrap_or_default().to_owned();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of(&item), "item article reading again 120 480 - - 0");
        item["read_again"] = Value::Null;
        item["state"] = "copied".into();
        assert_eq!(of(&item), "item article copied 500 500 - - 0");
    }
}
