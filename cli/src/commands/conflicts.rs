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

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct All {
    conflicts: Vec<Conflict>,
    parked: Vec<Parked>,
    foreign: Vec<Foreign>,
    refused: Vec<Refused>,
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

pub(super) async fn list(context: &Context, slice: &str) -> anyhow::Result<ExitCode> {
    let answer = context.client()?.get(&path(slice, "conflicts")).await?;
    let all: All = typed(&answer)?;
    let open = all.conflicts.iter().any(|c| c.winner.is_none())
        || all.foreign.iter().any(|f| f.took.is_none());
    context.out.answer(&answer, || words(&all))?;
    if open {
        let hint =
            format!("hint: `outgrow sync settle {slice} ID --take legacy` or `--take extracted`");
        context.out.note(&hint);
    }
    Ok(ExitCode::SUCCESS)
}

fn words(all: &All) -> String {
    let mut out = changed(&all.conflicts);
    out.push_str(&parked(&all.parked));
    out.push_str(&foreign(&all.foreign));
    out.push_str(&refused(&all.refused));
    if out.is_empty() {
        out.push_str("nothing waits for anybody\n");
    }
    out.trim_start_matches('\n').to_owned()
}

fn changed(conflicts: &[Conflict]) -> String {
    if conflicts.is_empty() {
        return String::new();
    }
    let open = conflicts.iter().filter(|c| c.winner.is_none()).count();
    let mut out = format!(
        "\nrows changed on both sides: {} open, {} settled\n",
        count(open as u64),
        count((conflicts.len() - open) as u64)
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

fn parked(parked: &[Parked]) -> String {
    if parked.is_empty() {
        return String::new();
    }
    let rows = parked.iter().map(|p| {
        let (table, key) = (p.table.clone(), p.key.clone());
        vec![table, key, moment(p.at_ms), p.reason.clone()]
    });
    let header = ["TABLE", "KEY", "SINCE", "WHY"];
    format!(
        "\nrows that could not be applied: {}\n{}",
        count(parked.len() as u64),
        indent(&table(&header, rows.collect()))
    )
}

fn foreign(writes: &[Foreign]) -> String {
    if writes.is_empty() {
        return String::new();
    }
    let mut out = format!(
        "\nwrites that came by another way: {}\n",
        count(writes.len() as u64)
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
    for failed in &report.failed {
        let _ = writeln!(out, "{} is not settled: {}", failed.id, failed.why);
    }
    let _ = writeln!(out, "conflicts open: {}", count(report.open));
    out
}
