//! `[proxy.access_log]`: which requests are logged, how and where.

use std::path::PathBuf;
use std::time::Duration;

use outgrow_proxy::{AccessLog, LogFormat};

use super::Surroundings;
use super::problem::Findings;
use super::section::{Node, Section};

/// What means standard output.
const STDOUT: &str = "-";
const HOUR: Duration = Duration::from_secs(3_600);

pub(super) fn read(
    mut section: Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<AccessLog> {
    let fix = "add file = \"access.log\", or \"-\" for standard output";
    let file = section
        .need(findings, "file", fix)
        .and_then(|node| file(&node, findings, around));
    let format = match section.get("format") {
        None => Some(LogFormat::Json),
        Some(node) => node.word(findings).and_then(|word| match word.as_str() {
            "json" => Some(LogFormat::Json),
            "combined" => Some(LogFormat::Combined),
            _ => {
                let fix = "write \"json\" or \"combined\"";
                findings.refuse(&node.place, "it is no format", fix);
                None
            }
        }),
    };
    let sample = section.share(findings, "sample", 1.0);
    let slow = section
        .get("slow")
        .and_then(|node| node.duration(findings, Duration::ZERO..=HOUR));
    let query = section
        .get("query")
        .and_then(|node| node.boolean(findings))
        .unwrap_or(true);
    section.finish(findings);
    Some(AccessLog {
        file: file?,
        format: format?,
        sample,
        slow,
        query,
    })
}

/// `None` within for standard output.
fn file(
    node: &Node<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<Option<PathBuf>> {
    let word = node.word(findings)?;
    if word == STDOUT {
        return Some(None);
    }
    let path = around.dir.join(word);
    let folder = path.parent().filter(|folder| folder.is_dir());
    if folder.is_none() || path.is_dir() {
        let rule = format!("there can be no file {}", path.display());
        findings.refuse(&node.place, rule, "name a file in a folder that is there");
        return None;
    }
    Some(Some(path))
}
