//! `outgrow sync conflicts` and `outgrow sync settle`: rows that wait for a person.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::Context;
use super::change::Said;
use super::sync::path;
use crate::answers::typed;
use crate::figures::count;
use crate::output::{indent, table};

/// Show rows changed on both sides, parked rows, and writes that came by another way
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outgrow sync conflicts catalog
  outgrow sync conflicts catalog --limit 50 --page 2")]
pub(crate) struct ConflictsArgs {
    /// Its name in the config
    slice: String,
    /// Rows of each kind and database on a page
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
    /// Which page
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    page: u32,
}

/// Decide which side's version of a row stands
#[derive(Debug, Args)]
#[command(after_help = "\
ID is that of `outgrow sync conflicts`. The other side's version is kept and can be taken later:
settling a conflict that is settled writes the version that was kept.

Examples:
  outgrow sync settle catalog L3 --take legacy
  outgrow sync settle catalog --all --take extracted --dry-run
  outgrow sync settle catalog FL7 --take extracted --reason 'the service was right'")]
pub(crate) struct SettleArgs {
    /// Its name in the config
    pub(crate) slice: String,
    /// The conflict or the foreign write
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    id: Option<String>,
    /// Every open conflict, and every foreign write that is not settled
    #[arg(long)]
    all: bool,
    /// The side whose version stands
    #[arg(long, value_parser = ["legacy", "extracted"])]
    take: String,
    /// Only say what would be settled
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    said: Said,
}

type Columns = BTreeMap<String, BTreeMap<String, Value>>;

#[derive(Debug, Deserialize)]
struct All {
    conflicts: Vec<Conflict>,
    parked: Vec<Parked>,
    foreign: Vec<Foreign>,
    refused: Vec<Refused>,
    total: Total,
    more: bool,
}

/// How many there are, listed or not.
#[derive(Debug, Deserialize)]
struct Total {
    open: u64,
    settled: u64,
    parked: u64,
    foreign_open: u64,
    foreign_settled: u64,
}

#[derive(Debug, Deserialize)]
struct Conflict {
    id: String,
    table: String,
    key: String,
    state: String,
    policy: String,
    winner: Option<String>,
    at_ms: i64,
    legacy: Columns,
    extracted: Columns,
    differ: Vec<Differs>,
}

#[derive(Debug, Deserialize)]
struct Differs {
    column: String,
    legacy: Value,
    extracted: Value,
}

#[derive(Debug, Deserialize)]
struct Parked {
    table: String,
    key: String,
    reason: String,
    at_ms: i64,
}

#[derive(Debug, Deserialize)]
struct Foreign {
    id: String,
    side: String,
    table: String,
    key: String,
    op: String,
    at_ms: i64,
    took: Option<String>,
    differ: Vec<Differs>,
}

#[derive(Debug, Deserialize)]
struct Refused {
    side: String,
    count: u64,
    last_table: Option<String>,
    last_at_ms: Option<i64>,
}

pub(super) async fn list(context: &Context, args: &ConflictsArgs) -> anyhow::Result<ExitCode> {
    let ConflictsArgs { slice, limit, page } = args;
    let asked = format!("{}?limit={limit}&page={page}", path(slice, "conflicts"));
    let answer = context.client()?.get(&asked).await?;
    let all: All = typed(&answer)?;
    context.out.answer(&answer, || words(&all))?;
    if all.more {
        let next = page.saturating_add(1);
        let next = match limit {
            1_000 => format!("--page {next}"),
            _ => format!("--limit {limit} --page {next}"),
        };
        let hint = format!("there are more: `outgrow sync conflicts {slice} {next}`");
        context.out.note(&hint);
    }
    if all.total.open + all.total.foreign_open > 0 {
        let hint =
            format!("hint: `outgrow sync settle {slice} ID --take legacy` or `--take extracted`");
        context.out.note(&hint);
    }
    Ok(ExitCode::SUCCESS)
}

fn words(all: &All) -> String {
    let mut out = changed(&all.conflicts, &all.total);
    out.push_str(&parked(&all.parked, all.total.parked));
    out.push_str(&foreign(&all.foreign, &all.total));
    out.push_str(&refused(&all.refused));
    if out.is_empty() {
        out.push_str("nothing waits for anybody\n");
    }
    out.trim_start_matches('\n').to_owned()
}

/// Said of a list that does not have all there are.
fn of_all(listed: usize, all: u64) -> String {
    match listed as u64 == all {
        true => String::new(),
        false => format!(" ({} of them on this page)", count(listed as u64)),
    }
}

fn changed(conflicts: &[Conflict], total: &Total) -> String {
    let all = total.open + total.settled;
    if all == 0 && conflicts.is_empty() {
        return String::new();
    }
    let mut out = format!(
        "\nrows changed on both sides: {} open, {} settled{}\n",
        count(total.open),
        count(total.settled),
        of_all(conflicts.len(), all)
    );
    for conflict in conflicts {
        let state = match &conflict.winner {
            None => format!("{}, held on both sides", conflict.state),
            Some(winner) => format!("{}, the {winner} version stands", conflict.state),
        };
        let _ = writeln!(
            out,
            "\n  {}  `{}` {}: {state} ({}, {})",
            conflict.id,
            conflict.table,
            conflict.key,
            conflict.policy,
            moment(conflict.at_ms)
        );
        for (side, version) in [
            ("legacy", &conflict.legacy),
            ("extracted", &conflict.extracted),
        ] {
            if version.is_empty() {
                let _ = writeln!(out, "    deleted on the {side} side");
            }
        }
        out.push_str(&indent(&indent(&differing(&conflict.differ))));
    }
    out
}

fn differing(differ: &[Differs]) -> String {
    if differ.is_empty() {
        return String::new();
    }
    let rows = differ.iter().map(|d| {
        let name = d.column.clone();
        vec![name, plain(&d.legacy), plain(&d.extracted)]
    });
    table(&["COLUMN", "LEGACY", "EXTRACTED"], rows.collect())
}

fn parked(parked: &[Parked], all: u64) -> String {
    if all == 0 && parked.is_empty() {
        return String::new();
    }
    let rows = parked.iter().map(|p| {
        let (table, key) = (p.table.clone(), p.key.clone());
        vec![table, key, moment(p.at_ms), p.reason.clone()]
    });
    let header = ["TABLE", "KEY", "SINCE", "WHY"];
    let rows = match parked.is_empty() {
        true => String::new(),
        false => indent(&table(&header, rows.collect())),
    };
    format!(
        "\nrows that could not be applied: {}{}\n{rows}",
        count(all),
        of_all(parked.len(), all),
    )
}

fn foreign(writes: &[Foreign], total: &Total) -> String {
    let all = total.foreign_open + total.foreign_settled;
    if all == 0 && writes.is_empty() {
        return String::new();
    }
    let mut out = format!(
        "\nwrites that came by another way: {} not settled, {} settled{}\n",
        count(total.foreign_open),
        count(total.foreign_settled),
        of_all(writes.len(), all)
    );
    for write in writes {
        let what = match write.op.as_str() {
            "i" => "inserted",
            "d" => "deleted",
            "r" => "replaced",
            _ => "updated",
        };
        let took = match &write.took {
            None => "not settled".to_owned(),
            Some(side) => format!("settled, the {side} version was taken"),
        };
        let _ = writeln!(
            out,
            "\n  {}  `{}` {} {what} on the {} side at {}: {took}",
            write.id,
            write.table,
            write.key,
            write.side,
            moment(write.at_ms)
        );
        out.push_str(&indent(&indent(&differing(&write.differ))));
    }
    out
}

fn refused(refused: &[Refused]) -> String {
    let any: Vec<&Refused> = refused.iter().filter(|r| r.count > 0).collect();
    if any.is_empty() {
        return String::new();
    }
    let mut out = "\nwrites refused by a fence:\n".to_owned();
    for refused in any {
        let last = match (&refused.last_table, refused.last_at_ms) {
            (Some(table), Some(at)) => format!(", the last on `{table}` at {}", moment(at)),
            _ => String::new(),
        };
        let _ = writeln!(
            out,
            "  {} on the {} side{last}",
            count(refused.count),
            refused.side
        );
    }
    out
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A moment as people write it, in UTC.
fn moment(ms: i64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp(ms.div_euclid(1_000));
    at.map_or_else(
        |_| ms.to_string(),
        |at| {
            format!(
                "{} {:02}:{:02}:{:02} UTC",
                at.date(),
                at.hour(),
                at.minute(),
                at.second()
            )
        },
    )
}

#[derive(Debug, Deserialize)]
struct Report {
    settled: Vec<Settled>,
    #[serde(default)]
    failed: Vec<Failed>,
    total: u64,
    total_failed: u64,
    #[serde(default)]
    open: u64,
}

#[derive(Debug, Deserialize)]
struct Settled {
    id: String,
    what: String,
    table: String,
    key: String,
    took: String,
    #[serde(default)]
    parked: bool,
}

#[derive(Debug, Deserialize)]
struct Failed {
    id: String,
    why: String,
}

pub(super) async fn settle(context: &Context, args: &SettleArgs) -> anyhow::Result<ExitCode> {
    let mut body = args.said.body();
    if let Some(id) = &args.id {
        body.insert("conflict".to_owned(), Value::from(id.clone()));
    }
    body.insert("all".to_owned(), Value::from(args.all));
    body.insert("take".to_owned(), Value::from(args.take.clone()));
    body.insert("dry_run".to_owned(), Value::from(args.dry_run));
    let path = path(&args.slice, "settle");
    let answer = context.client()?.post(&path, Value::Object(body)).await?;
    let report: Report = typed(&answer)?;
    context.out.answer(&answer, || settled(&report))?;
    if args.dry_run {
        context
            .out
            .note("nothing was written; leave out --dry-run to settle");
    }
    Ok(ExitCode::from(u8::from(!report.failed.is_empty())))
}

fn settled(report: &Report) -> String {
    let rows = report.settled.iter().map(|one| {
        let then = if one.parked {
            "the other side refuses it; parked"
        } else {
            ""
        };
        vec![
            one.id.clone(),
            one.what.clone(),
            format!("`{}` {}", one.table, one.key),
            one.took.clone(),
            then.to_owned(),
        ]
    });
    let mut out = if report.settled.is_empty() {
        "nothing to settle\n".to_owned()
    } else {
        table(&["ID", "WHAT", "ROW", "TAKEN", ""], rows.collect())
    };
    let left = report.total.saturating_sub(report.settled.len() as u64);
    if left > 0 {
        let _ = writeln!(out, "and {} more", count(left));
    }
    for failed in &report.failed {
        let _ = writeln!(out, "{} is not settled: {}", failed.id, failed.why);
    }
    let left = report
        .total_failed
        .saturating_sub(report.failed.len() as u64);
    if left > 0 {
        let _ = writeln!(out, "and {} more are not settled", count(left));
    }
    let _ = writeln!(out, "conflicts open: {}", count(report.open));
    out
}
