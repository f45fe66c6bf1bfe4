//! The ledger: where every request has gone, and why it was not compared.

use std::fmt::Write;

use outgrow_rollout::ShadowEvidence;

use super::cell;
use crate::reasons::ReasonRow;
use crate::report::Report;

/// The two sums that hold at every instant.
pub(super) fn sums(seen: &ShadowEvidence) -> [String; 2] {
    let sent = seen.matched + seen.mismatched + seen.candidate_errors + seen.not_comparable;
    [
        format!(
            "{} eligible = {} sampled out + {} shed + {} ineligible + {} waiting + {sent} sent",
            seen.eligible, seen.sampled_out, seen.shed, seen.ineligible, seen.waiting
        ),
        format!(
            "{sent} sent = {} matched + {} mismatched + {} candidate errors + {} not comparable",
            seen.matched, seen.mismatched, seen.candidate_errors, seen.not_comparable
        ),
    ]
}

/// Its lines of a text, each after `indent`.
pub(super) fn text(report: &Report, indent: &str) -> String {
    let mut out = format!("{indent}ledger:\n");
    for sum in sums(&report.evidence) {
        let _ = writeln!(out, "{indent}{sum}");
    }
    let named = |row: &ReasonRow| format!("{}, {}", row.outcome, row.reason);
    let width = report.reasons.iter().map(|row| named(row).len()).max();
    let width = width.unwrap_or_default();
    for row in &report.reasons {
        let line = format!(
            "{indent}{:>6}  {:<width$}  {}",
            row.count,
            named(row),
            row.meaning
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

pub(super) fn markdown(report: &Report) -> String {
    let mut out = "\n## Ledger\n\n".to_owned();
    for sum in sums(&report.evidence) {
        let _ = writeln!(out, "- {sum}");
    }
    if report.reasons.is_empty() {
        return out;
    }
    out.push_str("\n| count | outcome | reason | means |\n|---:|---|---|---|\n");
    for row in &report.reasons {
        let (reason, meaning) = (cell(&row.reason), cell(&row.meaning));
        let _ = writeln!(
            out,
            "| {} | {} | {reason} | {meaning} |",
            row.count, row.outcome
        );
    }
    out
}
