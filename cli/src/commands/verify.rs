//! `outgrow sync verify`: asks for a verification, shows how far it is, and what it found.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value};

use super::{Context, change};
use crate::answers::{Verify, typed};
use crate::client::{ApiError, Client, escape};
use crate::figures::{count, millis, share};
use crate::output::{generic, indent};

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_secs(2);
/// What is shown in a form of its own.
const SHOWN: [&str; 7] = [
    "tables",
    "ways",
    "looked_at",
    "left_out",
    "read_rows",
    "share",
    "resumed",
];

/// Compare the rows of both sides; exits 1 when any differ
///
/// Where both databases can, they compute checksums and no equal row leaves them.
#[derive(Debug, Args)]
#[command(after_help = "\
A whole verification that was interrupted goes on with --resume. A sample that finds nothing is no
evidence for a gate; one that finds differences is evidence against it.

Examples:
  outgrow sync verify catalog
  outgrow sync verify catalog --sample 5%
  outgrow sync verify catalog --resume
  outgrow sync verify catalog -o json")]
pub(crate) struct VerifyArgs {
    /// Its name in the config
    slice: String,
    /// Look at so much of every table, chosen at random, e.g. 5%
    #[arg(long, value_name = "PERCENT", value_parser = percent, conflicts_with = "resume")]
    sample: Option<f64>,
    /// Go on with a verification that was interrupted
    #[arg(long)]
    resume: bool,
    /// Read every row, also where the databases could compute checksums
    #[arg(long)]
    by_rows: bool,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent < 100.0 => Ok(percent / 100.0),
        _ => Err("write more than 0% and less than 100%, or leave it out for all rows".to_owned()),
    }
}

pub(super) async fn run(context: &Context, args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let slice = &args.slice;
    let mut body = Map::new();
    body.extend(
        args.sample
            .map(|share| ("share".to_owned(), Value::from(share))),
    );
    for (name, wanted) in [("resume", args.resume), ("by_rows", args.by_rows)] {
        if wanted {
            body.insert(name.to_owned(), Value::from(true));
        }
    }
    let client = context.client()?;
    let answer = ask(context, &client, slice, Value::Object(body)).await?;
    let report: Verify = typed(&answer)?;
    let different: u64 = report.rows.values().map(|rows| rows.different).sum();
    context.out.answer(&answer, || told(&report, different))?;
    if different > 0 {
        let hint = format!("hint: `outgrow sync repair {slice}` says how it would mend them");
        context.out.note(&hint);
    }
    Ok(ExitCode::from(u8::from(different > 0)))
}

/// The answer; who waits at a terminal is told how far it is.
async fn ask(
    context: &Context,
    client: &Client,
    slice: &str,
    body: Value,
) -> Result<Value, ApiError> {
    let path = super::sync::path(slice, "verify");
    let asked = client.verify(&path, body);
    tokio::pin!(asked);
    let watched = std::io::stderr().is_terminal();
    loop {
        tokio::select! {
            answer = &mut asked => return answer,
            () = tokio::time::sleep(LOOK), if watched => {}
        }
        let path = format!("/v1/sync/{}", escape(slice));
        // Whoever cannot be told how far it is waits all the same.
        if let Ok(status) = client.get(&path).await
            && let Some(line) = progress(&status)
        {
            context.out.note(&line);
        }
    }
}

/// How far a verification is, from the state of its link.
fn progress(status: &Value) -> Option<String> {
    let running = status.pointer("/detail/verify/running")?;
    let number = |name: &str| running.get(name).and_then(Value::as_u64);
    let (looked_at, rows) = (number("looked_at")?, number("rows")?);
    let seen = looked_at.saturating_add(number("left_out").unwrap_or(0));
    let mut line = format!("{} of about {} rows", share(seen, rows), count(rows));
    if let Some(rate) = number("rows_per_second") {
        line.push_str(&format!(", {} compared a second", count(rate)));
    }
    if let Some(left) = number("seconds_left") {
        line.push_str(&format!(", {} left", millis(left.saturating_mul(1_000))));
    }
    Some(line)
}

fn told(verify: &Verify, different: u64) -> String {
    let mut out = change::rows(&verify.rows);
    let report = &verify.report;
    let number = |name: &str| report.get(name).and_then(Value::as_u64).unwrap_or(0);
    let (looked_at, left_out) = (number("looked_at"), number("left_out"));
    if report.get("share").is_some_and(Value::is_number) {
        let all = looked_at.saturating_add(left_out);
        out.push_str(&format!(
            "\nlooked at {} of {} rows ({}); the others were not looked at\n",
            count(looked_at),
            count(all),
            share(looked_at, all)
        ));
    }
    if let Some(before) = report.get("resumed").and_then(Value::as_u64) {
        let before = count(before);
        out.push_str(&format!(
            "\nwent on after {before} rows of an earlier one\n"
        ));
    }
    out.push_str(&ways(report));
    if different > 0 {
        let mut rest = report.clone();
        if let Some(rest) = rest.as_object_mut() {
            rest.retain(|name, _| !SHOWN.contains(&name.as_str()));
        }
        let rows = count(different);
        out.push_str(&format!(
            "\nrows that differ: {rows}\n{}",
            indent(&generic(&rest))
        ));
    }
    out
}

/// Which tables were compared by which way, and why not by checksums.
fn ways(report: &Value) -> String {
    let mut by: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let ways = report.get("ways").and_then(Value::as_object);
    for (table, way) in ways.into_iter().flatten() {
        let text = |name: &str| way.get(name).and_then(Value::as_str);
        let how = match (text("by"), text("why")) {
            (Some(by), Some(why)) => format!("{by} ({why})"),
            (Some(by), None) => by.to_owned(),
            (None, _) => continue,
        };
        by.entry(how).or_default().push(table);
    }
    let lines = by.iter();
    let lines = lines.map(|(how, tables)| format!("by {how}: {}\n", tables.join(", ")));
    let lines: String = lines.collect();
    if lines.is_empty() {
        lines
    } else {
        format!("\n{lines}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_share_is_written_in_percent() {
        assert_eq!(percent("5%"), Ok(0.05));
        assert_eq!(percent("0.5"), Ok(0.005));
        for bad in ["0", "100%", "-1", "x", "", "NaN", "inf%"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn who_waits_is_told_how_far_it_is() {
        let running = json!({"looked_at": 50_000, "left_out": 0, "rows": 200_000,
            "rows_per_second": 25_000, "seconds_left": 6});
        let status = json!({"detail": {"verify": {"running": running}}});
        let line = "25% of about 200,000 rows, 25,000 compared a second, 6 s left";
        assert_eq!(progress(&status).as_deref(), Some(line));
        assert_eq!(
            progress(&json!({"detail": {"verify": {"running": null}}})),
            None
        );
    }
}
