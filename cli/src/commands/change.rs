//! What every command that changes something has in common: by whom, why, and how the answer to
//! a change is told.

use clap::Args;
use serde_json::{Map, Value};

use crate::answers::Cutover;
use crate::figures::{count, millis};
use crate::output::{indent, table};

/// By whom and why; goes into the journal.
#[derive(Debug, Clone, Args)]
pub(crate) struct Said {
    /// Why, for the journal
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Who, for the journal
    #[arg(
        long,
        value_name = "NAME",
        env = "USER",
        default_value = "cli",
        hide_env_values = true
    )]
    pub(crate) by: String,
}

impl Said {
    /// The body of a change, to which a command may add.
    pub(crate) fn body(&self) -> Map<String, Value> {
        let mut body = Map::new();
        body.insert("by".to_owned(), Value::from(self.by.clone()));
        if let Some(reason) = &self.reason {
            body.insert("reason".to_owned(), Value::from(reason.clone()));
        }
        body
    }
}

/// A cutover for people.
pub(crate) fn cutover(report: &Cutover) -> String {
    let mut out = format!(
        "writes {} {}: {} writes waited, pause {}\n",
        report.outcome,
        report.direction.replace("->", " -> "),
        count(report.held),
        millis(report.pause_ms)
    );
    if let Some(why) = &report.why {
        out.push_str(&format!("  why: {why}\n"));
    }
    if !report.rows.is_empty() {
        out.push_str(&indent(&rows(&report.rows)));
    }
    out
}

/// Rows of the tables of a slice, side by side.
pub(crate) fn rows(
    rows: &std::collections::BTreeMap<String, outgrow_rollout::TableRows>,
) -> String {
    let lines = rows
        .iter()
        .map(|(name, rows)| {
            vec![
                name.clone(),
                count(rows.legacy),
                count(rows.extracted),
                count(rows.different),
            ]
        })
        .collect();
    table(&["TABLE", "LEGACY", "EXTRACTED", "DIFFERENT"], lines)
}

/// The gates of a step for people.
pub(crate) fn gates(gates: &[outgrow_rollout::GateResult]) -> String {
    let lines = gates
        .iter()
        .map(|gate| {
            let verdict = match (gate.ok, gate.missing) {
                (true, _) => "ok",
                (false, true) => "missing",
                (false, false) => "blocked",
            };
            vec![
                gate.name.clone(),
                verdict.to_owned(),
                gate.value.clone(),
                gate.limit.clone(),
                gate.hint.clone(),
            ]
        })
        .collect();
    table(
        &["GATE", "VERDICT", "MEASURED", "LIMIT", "WHAT HELPS"],
        lines,
    )
}
