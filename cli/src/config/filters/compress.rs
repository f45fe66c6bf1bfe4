//! `compress`: which answers are compressed, and how.

use std::sync::Arc;

use outgrow_proxy::{Coding, Compression, MediaRange};

use crate::config::problem::Findings;
use crate::config::section::Node;

/// Zstandard takes the least time for what it saves, gzip is known to everybody.
const CODINGS: [Coding; 3] = [Coding::Zstd, Coding::Brotli, Coding::Gzip];
/// Text, as browsers load it. Not event streams: each of those would keep an encoder's memory.
const TYPES: [&str; 12] = [
    "text/html",
    "text/css",
    "text/plain",
    "text/csv",
    "text/javascript",
    "text/xml",
    "application/javascript",
    "application/json",
    "application/xml",
    "application/wasm",
    "*+json",
    "*+xml",
];
/// Below it what is saved is less than a packet.
const MIN: u64 = 1_024;
const MIN_MAX: u64 = 1 << 30;

pub(super) fn read(
    node: Option<Node<'_>>,
    findings: &mut Findings<'_>,
) -> Option<Arc<Compression>> {
    let mut section = node?.section(findings)?;
    let codings = match section.get("codings") {
        None => CODINGS.to_vec(),
        Some(node) => codings(&node, findings),
    };
    let types = match section.get("types") {
        None => TYPES.iter().filter_map(|text| text.parse().ok()).collect(),
        Some(node) => types(&node, findings),
    };
    let min = section.size(findings, "min", MIN, 0..=MIN_MAX);
    section.finish(findings);
    Some(Arc::new(Compression {
        codings,
        types,
        min,
    }))
}

fn codings(node: &Node<'_>, findings: &mut Findings<'_>) -> Vec<Coding> {
    const FIX: &str = "write \"gzip\", \"br\" or \"zstd\"";
    let mut found = Vec::new();
    let words = node.words(findings);
    if words.is_empty() && node.is_list() {
        findings.refuse(&node.place, "nothing is left to compress with", FIX);
    }
    for (place, text) in words {
        match CODINGS.into_iter().find(|coding| coding.name() == text) {
            Some(coding) if found.contains(&coding) => {
                findings.refuse(&place, "the coding stands here twice", "name it once");
            }
            Some(coding) => found.push(coding),
            None => findings.refuse(&place, "it is no coding that is known", FIX),
        }
    }
    found
}

pub(super) fn types(node: &Node<'_>, findings: &mut Findings<'_>) -> Vec<MediaRange> {
    let mut found = Vec::new();
    for (place, text) in node.words(findings) {
        match text.parse() {
            Ok(range) => found.push(range),
            Err(rule) => {
                let fix = "write \"text/html\", \"text/*\" or \"*+json\"";
                findings.refuse(&place, rule, fix);
            }
        }
    }
    found
}
