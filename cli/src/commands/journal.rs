//! `outgrow journal`: what was changed, by whom and why, and whether the record is whole.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::Context;
use crate::answers::{Entry, Verified, typed};
use crate::client::escape;
use crate::figures::count;
use crate::output::{Format, table};

/// Read the journal, or prove that nobody has changed it
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  outgrow journal
  outgrow journal --slice catalog --limit 20
  outgrow journal verify"
)]
pub(crate) struct JournalArgs {
    #[command(subcommand)]
    command: Option<JournalCommand>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum JournalCommand {
    /// List the entries, oldest first
    #[command(after_help = "Examples:\n  outgrow journal list --slice catalog -o json")]
    List(ListArgs),
    /// Check the chain of hashes from the first entry to the last
    #[command(after_help = "Examples:\n  outgrow journal verify")]
    Verify,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Entries of this slice only
    #[arg(long, value_name = "SLICE")]
    slice: Option<String>,
    /// Entries at the most
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
    /// Entries after this number, to page on
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
}

/// Which entries.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) slice: Option<String>,
    pub(super) limit: u32,
    pub(super) after: Option<u64>,
}

impl Query {
    pub(super) fn path(&self) -> String {
        let mut path = format!("/v1/journal?limit={}", self.limit);
        if let Some(slice) = &self.slice {
            path.push_str(&format!("&slice={}", escape(slice)));
        }
        if let Some(after) = self.after {
            path.push_str(&format!("&after={after}"));
        }
        path
    }
}

pub(crate) async fn run(context: &Context, args: JournalArgs) -> anyhow::Result<ExitCode> {
    let wanted = match args.command {
        Some(JournalCommand::Verify) => return verify(context).await,
        Some(JournalCommand::List(wanted)) => wanted,
        None => args.list,
    };
    let query = Query {
        slice: wanted.slice,
        limit: wanted.limit,
        after: wanted.after,
    };
    list(context, &query).await
}

pub(super) async fn list(context: &Context, query: &Query) -> anyhow::Result<ExitCode> {
    let answer = context.client()?.get(&query.path()).await?;
    if context.out.format == Format::Json {
        context.out.answer(&answer, String::new)?;
        return Ok(ExitCode::SUCCESS);
    }
    let entries: Vec<Entry> = typed(&answer)?;
    context.out.text(&entries_table(&entries))?;
    if entries.is_empty() {
        context.out.note("no entries");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn entries_table(entries: &[Entry]) -> String {
    let rows = entries
        .iter()
        .map(|entry| {
            vec![
                entry.seq.to_string(),
                entry.at.clone(),
                entry.slice.clone(),
                entry.action.clone(),
                change(entry),
                entry.by.clone(),
                entry.reason.clone(),
            ]
        })
        .collect();
    table(
        &["SEQ", "AT", "SLICE", "ACTION", "CHANGE", "BY", "REASON"],
        rows,
    )
}

/// What the entry changed, from the two states that it holds.
pub(super) fn change(entry: &Entry) -> String {
    let mut found = Vec::new();
    for (name, pointer) in [
        ("traffic", "/traffic"),
        ("writer", "/writer"),
        ("data", "/data/phase"),
    ] {
        let (before, after) = (entry.before.pointer(pointer), entry.after.pointer(pointer));
        if let (Some(before), Some(after)) = (before, after)
            && before != after
        {
            found.push(format!("{name} {} -> {}", word(before), word(after)));
        }
    }
    if found.is_empty() {
        "-".to_owned()
    } else {
        found.join(", ")
    }
}

/// `"shadow"`, or `{"canary": 500}` in basis points.
fn word(value: &Value) -> String {
    if let Some(text) = value.as_str() {
        return text.to_owned();
    }
    let weight = value
        .get("canary")
        .and_then(Value::as_u64)
        .and_then(|points| u16::try_from(points).ok())
        .and_then(|points| outgrow_rollout::Weight::from_basis_points(points).ok());
    match weight {
        Some(weight) => format!("canary {weight}"),
        None => value.to_string(),
    }
}

async fn verify(context: &Context) -> anyhow::Result<ExitCode> {
    let answer = context.client()?.get("/v1/journal/verify").await?;
    let verified: Verified = typed(&answer)?;
    context.out.answer(&answer, || match verified.first_bad {
        None if verified.ok => format!("verified: {} entries, unbroken\n", count(verified.entries)),
        Some(seq) => format!("broken: entry {seq} does not fit the one before it\n"),
        None => "broken\n".to_owned(),
    })?;
    Ok(ExitCode::from(u8::from(!verified.ok)))
}
