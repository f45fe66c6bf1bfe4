//! `[slices.ID.plan]` and `[slices.ID.guard]`: limits. What they mean and which values make
//! sense is decided by the rollout; here they are read and its objections get their places.

use std::time::Duration;

use outgrow_rollout::{GuardLimits, Plan, Watched, Weight};

use super::problem::{Findings, Place};
use super::section::{Node, Section};

/// Beyond ten years somebody has mistyped a unit.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);
/// JSON numbers are exact up to here, and status pages show these.
const COUNT_MAX: u64 = 1 << 53;
/// Above that a build is no longer held against anything.
const BUILD_SLOWER_BY: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(60);

/// The plan, and the place of its cutover timeout, which has to fit another part of the file.
pub(super) fn plan(
    slice: &mut Section<'_>,
    findings: &mut Findings<'_>,
    has_tables: bool,
) -> (Plan, Place) {
    let mut plan = Plan::default();
    let Some(mut section) = slice.get("plan").and_then(|node| node.section(findings)) else {
        return (plan, slice.at("plan"));
    };
    if let Some(node) = section.get("canary") {
        let weights: Vec<Option<Weight>> = node
            .list(findings)
            .iter()
            .map(|item| percent(item, findings))
            .collect();
        if let Some(weights) = weights.into_iter().collect::<Option<Vec<_>>>() {
            plan.canary = weights;
        }
    }
    for (key, slot) in [
        ("hold", &mut plan.hold),
        ("shadow_min", &mut plan.shadow_min),
        ("lag_max", &mut plan.lag_max),
        ("verified_max_age", &mut plan.verified_max_age),
        ("soak", &mut plan.soak),
        ("quiet", &mut plan.quiet),
        ("cutover_timeout", &mut plan.cutover_timeout),
    ] {
        *slot = section.duration(findings, key, *slot, Duration::ZERO..=LONGEST);
    }
    for (key, slot) in [
        ("min_requests", &mut plan.min_requests),
        ("class_min", &mut plan.class_min),
    ] {
        if let Some(node) = section.get(key) {
            *slot = node.integer(findings, 0..=COUNT_MAX).unwrap_or(*slot);
        }
    }
    for (key, slot) in [
        ("mismatch_max", &mut plan.mismatch_max),
        ("errors_max", &mut plan.errors_max),
    ] {
        if let Some(node) = section.get(key) {
            *slot = node.number(findings).unwrap_or(*slot);
        }
    }
    if let Some(node) = section.get("approvals") {
        plan.approvals = node.words(findings).into_iter().map(|(_, w)| w).collect();
    }
    if let Some(node) = section.get("tripwire") {
        plan.tripwire = node.boolean(findings).unwrap_or(plan.tripwire);
    }
    if let Some(node) = section.get("bypass") {
        match node.word(findings).as_deref() {
            Some("off") => plan.bypass = Watched::Off,
            Some("note") => plan.bypass = Watched::Note,
            Some("gate") => plan.bypass = Watched::Gate,
            Some(_) => {
                let fix = "write \"off\", \"note\" or \"gate\"";
                findings.refuse(&node.place, "it is none of its values", fix);
            }
            None => {}
        }
    }
    object(&section, findings, plan.problems(has_tables));
    let place = section.at("cutover_timeout");
    section.finish(findings);
    (plan, place)
}

pub(super) fn guard(slice: &mut Section<'_>, findings: &mut Findings<'_>) -> GuardLimits {
    let mut guard = GuardLimits::default();
    let Some(mut section) = slice.get("guard").and_then(|node| node.section(findings)) else {
        return guard;
    };
    for (key, slot) in [
        ("alpha", &mut guard.alpha),
        ("legacy_clean", &mut guard.legacy_clean),
        ("build_slower", &mut guard.build_slower),
    ] {
        if let Some(node) = section.get(key) {
            *slot = node.number(findings).unwrap_or(*slot);
        }
    }
    for (key, slot) in [
        ("consecutive", &mut guard.consecutive),
        ("window", &mut guard.window),
        ("window_failures", &mut guard.window_failures),
    ] {
        if let Some(node) = section.get(key) {
            *slot = node.integer(findings, 0..=COUNT_MAX).unwrap_or(*slot);
        }
    }
    if let Some(node) = section.get("keys_min") {
        let found = node.integer(findings, 0..=COUNT_MAX);
        let found = found.and_then(|count| usize::try_from(count).ok());
        guard.keys_min = found.unwrap_or(guard.keys_min);
    }
    let watch = guard.build_watch;
    guard.build_watch = section.duration(findings, "build_watch", watch, Duration::ZERO..=LONGEST);
    let by = guard.build_slower_by;
    guard.build_slower_by = section.duration(findings, "build_slower_by", by, BUILD_SLOWER_BY);
    object(&section, findings, guard.problems());
    section.finish(findings);
    guard
}

/// A percentage: `5`, `0.5`, `"5%"`.
fn percent(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Weight> {
    let found = node
        .digits()
        .and_then(|text| Weight::from_percent(&text).ok());
    if found.is_none() {
        findings.refuse(
            &node.place,
            "it is not a percentage",
            "write a number from 0 to 100 with at most two decimals",
        );
    }
    found
}

/// Puts the rollout's objections (`KEY: RULE`, `KEY = VALUE: RULE`) to their places.
fn object(section: &Section<'_>, findings: &mut Findings<'_>, problems: Vec<String>) {
    for problem in problems {
        let (head, rule) = problem.split_once(": ").unwrap_or(("", &problem));
        let key = head.split(" = ").next().unwrap_or(head);
        let fix = "docs/config.md says what it is for and what it may be";
        findings.refuse(&section.at(key), rule, fix);
    }
}
