//! The runbook of a slice as a Markdown page: what is done, what is next, and today's evidence.

use std::fmt::Write;

use outgrow_rollout::{GateResult, ShadowEvidence, SyncEvidence, TableRows};

use super::journal;
use crate::answers::{Entry, Runbook, SliceStatus, typed};
use crate::client::{ApiError, Client, escape};
use crate::figures::{count, millis, share};

/// The latest journal entries on the page: as many as fit on one screen.
const ENTRIES: u32 = 200;

/// Gathers the page from the API.
///
/// # Errors
/// [`ApiError`], e.g. for an unknown slice.
pub(super) async fn page(client: &Client, slice: &str) -> Result<String, ApiError> {
    let name = escape(slice);
    let status: SliceStatus = typed(&client.get(&format!("/v1/slices/{name}")).await?)?;
    let runbook: Runbook = typed(&client.get(&format!("/v1/runbook/{name}")).await?)?;
    let query = journal::Query {
        slice: Some(slice.to_owned()),
        limit: ENTRIES,
        after: None,
    };
    let history: Vec<Entry> = typed(&client.get(&query.path()).await?)?;
    let now = time::OffsetDateTime::now_utc();
    let now = now
        .replace_nanosecond(0)
        .unwrap_or(now)
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_else(|_| now.to_string());
    Ok(render(&status, &runbook, &history, &now))
}

/// The page. Writing to a `String` cannot fail, hence the ignored results.
fn render(status: &SliceStatus, runbook: &Runbook, history: &[Entry], now: &str) -> String {
    let mut out = String::new();
    let slice = &status.slice;
    let _ = writeln!(out, "# Runbook of `{slice}`\n");
    let _ = writeln!(out, "Written {now}, revision {}.\n", status.state.revision);
    head(status, &mut out);
    steps(slice, runbook, &mut out);
    let _ = writeln!(out, "## Evidence\n");
    match &status.evidence.shadow {
        Some(seen) => compared(seen, &mut out),
        None => out.push_str("Nothing was compared yet.\n\n"),
    }
    if let Some(sync) = &status.evidence.sync {
        tables(sync, &mut out);
    }
    if let Some(proxy) = &status.evidence.proxy {
        out.push_str(
            "### Requests in this stage\n\n| side | requests | errors | p99 |\n|---|--:|--:|--:|\n",
        );
        for (name, side) in [("legacy", proxy.legacy), ("extracted", proxy.extracted)] {
            let p99 = side.p99_us.map_or("-".to_owned(), |us| millis(us / 1_000));
            let _ = writeln!(
                out,
                "| {name} | {} | {} | {p99} |",
                count(side.requests),
                count(side.errors)
            );
        }
        out.push('\n');
    }
    log(history, &mut out);
    back(slice, &mut out);
    out
}

fn head(status: &SliceStatus, out: &mut String) {
    out.push_str("| | |\n|---|---|\n");
    let mut row = |name: &str, value: String| {
        let _ = writeln!(out, "| {name} | {} |", cell(&value));
    };
    row("stage", status.stage.clone());
    row(
        "reads on the extracted side",
        status.effective.weight.to_string(),
    );
    row("writes go to", status.state.writer.to_string());
    if let Some(link) = &status.state.data {
        row("tables", link.phase.to_string());
    }
    row("in this stage for", millis(status.evidence.in_stage_ms));
    if let Some(reason) = &status.state.frozen {
        row("frozen", reason.clone());
    }
    if let Some(reason) = &status.state.maintenance {
        row("nobody is served", reason.clone());
    }
    if let Some(reason) = &status.state.unmirrored {
        row("nothing is mirrored", reason.clone());
    }
    for (route, reason) in &status.state.unmirrored_routes {
        row("not mirrored", format!("`{route}`: {reason}"));
    }
    out.push('\n');
}

fn steps(slice: &str, runbook: &Runbook, out: &mut String) {
    out.push_str("## Steps\n\n");
    for (index, step) in runbook.steps.iter().enumerate() {
        let mark = match step.state.as_str() {
            "done" | "current" => "x",
            _ => " ",
        };
        let _ = writeln!(
            out,
            "{}. [{mark}] **{}**: {} ({})",
            index + 1,
            step.id,
            step.title,
            step.state
        );
    }
    out.push('\n');
    let Some(next) = runbook.steps.iter().find(|step| step.state == "next") else {
        return;
    };
    let _ = writeln!(out, "### Next: {}\n", next.id);
    let _ = writeln!(
        out,
        "```sh\noutgrow runbook next {slice} --dry-run\noutgrow runbook next {slice}\n```\n"
    );
    gates(&next.gates, out);
}

fn gates(gates: &[GateResult], out: &mut String) {
    if gates.is_empty() {
        out.push_str("It has no gates.\n\n");
        return;
    }
    out.push_str("| gate | verdict | measured | limit | what helps |\n|---|---|---|---|---|\n");
    for gate in gates {
        let verdict = match (gate.ok, gate.missing) {
            (true, _) => "met",
            (false, true) => "missing",
            (false, false) => "**blocked**",
        };
        let _ = writeln!(
            out,
            "| {} | {verdict} | {} | {} | {} |",
            cell(&gate.name),
            cell(&gate.value),
            cell(&gate.limit),
            cell(&gate.hint)
        );
    }
    out.push('\n');
}

fn compared(seen: &ShadowEvidence, out: &mut String) {
    let _ = writeln!(out, "### Compared answers\n");
    let _ = writeln!(
        out,
        "Build `{}` against build `{}`: {} of {} compared pairs speak against the extracted side ({}).\n",
        seen.builds.legacy,
        seen.builds.extracted,
        count(seen.against()),
        count(seen.compared()),
        share(seen.against(), seen.compared())
    );
    if !seen.classes.is_empty() {
        out.push_str("| route and status | compared | against |\n|---|--:|--:|\n");
        for (name, class) in &seen.classes {
            let _ = writeln!(
                out,
                "| `{}` | {} | {} |",
                cell(name),
                count(class.compared),
                count(class.against)
            );
        }
        out.push('\n');
    }
    if !seen.top.is_empty() {
        out.push_str(
            "| route | path | kind | count | legacy | extracted |\n|---|---|---|--:|---|---|\n",
        );
        for found in &seen.top {
            let _ = writeln!(
                out,
                "| `{}` | `{}` | {} | {} | {} | {} |",
                cell(&found.route),
                cell(&found.path),
                cell(&found.kind),
                count(found.count),
                cell(&found.legacy),
                cell(&found.extracted)
            );
        }
        out.push('\n');
    }
}

fn tables(sync: &SyncEvidence, out: &mut String) {
    out.push_str("### Tables\n\n");
    let lag = |ms: Option<u64>| ms.map_or("unknown".to_owned(), millis);
    let _ = writeln!(
        out,
        "Rows flow from {}; lag {}, reverse lag {}; {} changes wait, {} rows are parked, {} foreign writes.\n",
        sync.source,
        lag(sync.lag_ms),
        lag(sync.reverse_lag_ms),
        count(sync.backlog),
        count(sync.parked),
        count(sync.foreign_writes)
    );
    let Some(verified) = &sync.verified else {
        out.push_str("They were not verified yet.\n\n");
        return;
    };
    let age = lag(sync.verified_age_ms);
    let _ = writeln!(
        out,
        "Verified {age} ago:\n\n| table | legacy | extracted | different |\n|---|--:|--:|--:|"
    );
    for (name, rows) in verified {
        let TableRows {
            legacy,
            extracted,
            different,
        } = *rows;
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} |",
            cell(name),
            count(legacy),
            count(extracted),
            count(different)
        );
    }
    out.push('\n');
}

fn log(history: &[Entry], out: &mut String) {
    out.push_str("## What was done\n\n");
    if history.is_empty() {
        out.push_str("Nothing yet.\n\n");
        return;
    }
    out.push_str("| at | action | change | by | reason |\n|---|---|---|---|---|\n");
    for entry in history {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            cell(&entry.at),
            cell(&entry.action),
            cell(&journal::change(entry)),
            cell(&entry.by),
            cell(&entry.reason)
        );
    }
    out.push('\n');
}

fn back(slice: &str, out: &mut String) {
    out.push_str("## If something is wrong\n\n");
    let _ = writeln!(
        out,
        "Until the slice is retired, this takes its reads back at once and its writes without \
         losing any:\n\n```sh\noutgrow route rollback {slice} --reason '...'\n```"
    );
}

/// Text in a Markdown table stays in its cell.
fn cell(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('|', "\\|")
        .replace('<', "&lt;")
        .replace(['\n', '\r'], " ")
}
