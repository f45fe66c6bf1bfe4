//! `cache`: which answers are kept, and how much of them together.

use std::time::Duration;

use outgrow_proxy::{CacheRule, CacheSettings};

use super::{Belongs, DAY, SECOND};
use crate::config::problem::Findings;
use crate::config::scalar;
use crate::config::section::Node;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Enough for the pages of a shop; little beside what its databases take.
const SIZE: u64 = 64 * MIB;
const BODY_MAX: u64 = MIB;
/// A side that takes longer is asked by each for itself.
const WAIT: Duration = Duration::from_secs(3);
const WAIT_MAX: Duration = Duration::from_secs(60);
const HEURISTIC_MAX: Duration = DAY.saturating_mul(7);

pub(super) fn read(
    node: Option<Node<'_>>,
    belongs: Belongs,
    findings: &mut Findings<'_>,
) -> Option<CacheRule> {
    let node = node?;
    let mut section = node.section(findings)?;
    let heuristic_max = section.get("heuristic_max");
    let heuristic_max =
        heuristic_max.and_then(|own| own.duration(findings, SECOND..=HEURISTIC_MAX));
    section.finish(findings);
    if belongs == Belongs::ToNone {
        let rule = "only answers of slices are kept";
        findings.refuse(
            &node.place,
            rule,
            "give the routes a slice, or leave it out",
        );
    }
    Some(CacheRule { heuristic_max })
}

/// `[proxy.cache]`: how much is kept.
pub(in crate::config) fn store(
    node: Option<Node<'_>>,
    findings: &mut Findings<'_>,
) -> Option<CacheSettings> {
    let mut section = node?.section(findings)?;
    let size = section.size(findings, "size", SIZE, MIB..=64 * GIB);
    let body = section.get("body_max");
    let longest = CacheSettings::longest(size);
    let body_max = match &body {
        None => BODY_MAX.min(longest),
        Some(_) => section.size(findings, "body_max", BODY_MAX, KIB..=GIB),
    };
    if let Some(node) = body.filter(|_| body_max > longest) {
        let most = scalar::show_size(longest);
        let fix = format!("write at most an eighth of `size`, {most}");
        findings.refuse(&node.place, "so long a body does not fit", fix);
    }
    let wait = section.duration(findings, "wait", WAIT, Duration::ZERO..=WAIT_MAX);
    section.finish(findings);
    Some(CacheSettings {
        size,
        body_max: usize::try_from(body_max).ok()?,
        wait,
    })
}
