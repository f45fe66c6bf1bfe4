//! The gates: what must hold before a step is taken.
//!
//! Each is a pure function of the evidence and the plan. A gate *fails* when the evidence speaks
//! against the step, and is *missing* when there is not enough of it: the first needs a person,
//! the second needs time or traffic. Every refusal names a command that helps.

mod link;

use serde::{Deserialize, Serialize};

use self::link::{bypass, copied, foreign_writes, lag, link, reverse_path, rows_verified};
use crate::evidence::{Evidence, ShadowEvidence};
use crate::figures::{count, duration, millis, percent};
use crate::ids::SliceId;
use crate::plan::{Plan, Step, Watched};
use crate::samples;
use crate::state::{SliceState, Traffic};

/// What one gate says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateResult {
    pub name: String,
    /// What was measured.
    pub value: String,
    /// What it is measured against.
    pub limit: String,
    pub ok: bool,
    /// Not enough evidence, as against evidence that speaks against the step.
    pub missing: bool,
    /// What to do; empty where the gate is met.
    pub hint: String,
}

/// What all gates of a step say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Met,
    /// At least one gate speaks against the step.
    Failing,
    /// Nothing speaks against it, but evidence is missing.
    Inconclusive,
}

/// A step that somebody wants to take, and what is known.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub slice: &'a SliceId,
    pub step: Step,
    pub state: &'a SliceState,
    pub evidence: &'a Evidence,
    pub plan: &'a Plan,
    /// Ids of the steps that were approved.
    pub approved: &'a [String],
}

/// All gates of the step, in the order that they are best read.
#[must_use]
pub fn gates(asked: &Asked<'_>) -> Vec<GateResult> {
    let tables = asked.state.data.is_some();
    let mut list: Vec<Gate> = Vec::new();
    match asked.step {
        Step::Sync => {}
        Step::Shadow if tables => add(&mut list, &[copied, link, lag]),
        Step::Shadow => {}
        Step::Canary(_) | Step::Extracted => {
            add(&mut list, &[mismatch, coverage, rules]);
            if asked.state.traffic.weight() > crate::Weight::ZERO {
                add(&mut list, &[hold_time, requests_in_step, errors, latency]);
            } else {
                list.push(hold_time);
            }
            if tables {
                add(&mut list, &[copied, link, lag, rows_verified]);
            }
        }
        Step::Cutover => {
            let usual = [hold_time, mismatch, errors, link, lag, reverse_path];
            add(&mut list, &usual);
            list.push(rows_verified);
            if asked.plan.bypass == Watched::Gate {
                list.push(bypass);
            }
        }
        Step::Retire => {
            add(&mut list, &[hold_time, errors]);
            if tables {
                add(&mut list, &[link, lag, rows_verified, foreign_writes]);
            }
        }
    }
    if asked.plan.approvals.contains(&asked.step.id()) {
        list.push(approval);
    }
    list.into_iter().map(|gate| gate(asked)).collect()
}

type Gate = fn(&Asked<'_>) -> GateResult;

fn add(list: &mut Vec<Gate>, gates: &[Gate]) {
    list.extend_from_slice(gates);
}

/// What the gates say together.
#[must_use]
pub fn answer(gates: &[GateResult]) -> Answer {
    if gates.iter().any(|gate| !gate.ok && !gate.missing) {
        Answer::Failing
    } else if gates.iter().any(|gate| !gate.ok) {
        Answer::Inconclusive
    } else {
        Answer::Met
    }
}

enum Verdict {
    Ok,
    Fails,
    Missing,
}

fn gate(name: &str, value: String, limit: String, verdict: Verdict, hint: String) -> GateResult {
    let ok = matches!(verdict, Verdict::Ok);
    GateResult {
        name: name.to_owned(),
        value,
        limit,
        ok,
        missing: matches!(verdict, Verdict::Missing),
        hint: if ok { String::new() } else { hint },
    }
}

fn mismatch(asked: &Asked<'_>) -> GateResult {
    let name = "mismatch rate";
    let max = asked.plan.mismatch_max;
    let limit = format!("at most {} with 95% confidence", percent(max));
    let Some(shadow) = &asked.evidence.shadow else {
        let hint = format!(
            "no answers were compared yet; {} clean pairs are needed (`outgrow shadow status`)",
            count(samples::needed(max))
        );
        return gate(
            name,
            "nothing compared".to_owned(),
            limit,
            Verdict::Missing,
            hint,
        );
    };
    let (compared, against) = (shadow.compared(), shadow.against());
    let Some(bound) = samples::upper_bound(compared, against) else {
        let hint = format!(
            "{} clean pairs are needed on builds {} and {}; send traffic through the proxy",
            count(samples::needed(max)),
            shadow.builds.legacy,
            shadow.builds.extracted
        );
        return gate(
            name,
            "nothing compared".to_owned(),
            limit,
            Verdict::Missing,
            hint,
        );
    };
    let value = format!(
        "{} of {} pairs differ, bound {}",
        count(against),
        count(compared),
        percent(bound)
    );
    if let Some(fault) = shadow.faults.first() {
        let hint = format!(
            "`{}` differs from legacy more often than legacy from itself ({} times it alone, \
             {} times legacy alone); see `outgrow shadow report {}`",
            fault.field,
            count(fault.counts.worse),
            count(fault.counts.better),
            asked.slice
        );
        return gate(name, value, limit, Verdict::Fails, hint);
    }
    if bound <= max {
        return gate(name, value, limit, Verdict::Ok, String::new());
    }
    if exceeds(against, compared, max) {
        return gate(
            name,
            value,
            limit,
            Verdict::Fails,
            top_difference(asked.slice, shadow),
        );
    }
    let more = count(samples::needed_more(compared, against, max));
    let mut hint = format!("{more} more pairs without a difference are needed");
    if against > 0 {
        hint = format!("{hint}; {}", top_difference(asked.slice, shadow));
    }
    gate(name, value, limit, Verdict::Missing, hint)
}

/// The worst difference with its field, an example, and the command that shows more.
fn top_difference(slice: &SliceId, shadow: &ShadowEvidence) -> String {
    let Some(top) = shadow.top.first() else {
        return format!(
            "{} candidate answers failed; see `outgrow shadow report {slice}`",
            count(shadow.candidate_errors)
        );
    };
    let more = match &top.example {
        Some(id) => format!("`outgrow shadow show {id}`"),
        None => format!("`outgrow shadow report {slice}`"),
    };
    format!(
        "most often `{}` of `{}` differs ({}, {} times): legacy {}, extracted {}; see {more}",
        top.path,
        top.route,
        top.kind,
        count(top.count),
        shortened(&top.legacy),
        shortened(&top.extracted)
    )
}

/// A value that fits on a line.
fn shortened(value: &str) -> String {
    const CHARS_MAX: usize = 60;
    if value.chars().count() <= CHARS_MAX {
        return value.to_owned();
    }
    let head: String = value.chars().take(CHARS_MAX).collect();
    format!("{head}...")
}

fn coverage(asked: &Asked<'_>) -> GateResult {
    let min = asked.plan.class_min;
    let name = "coverage";
    let limit = format!("{} pairs of each route and status", count(min));
    let Some(shadow) = asked
        .evidence
        .shadow
        .as_ref()
        .filter(|s| !s.classes.is_empty())
    else {
        let hint = "no route was compared yet; send traffic through the proxy".to_owned();
        return gate(
            name,
            "no route seen".to_owned(),
            limit,
            Verdict::Missing,
            hint,
        );
    };
    let covered = shadow
        .classes
        .values()
        .filter(|class| class.compared >= min)
        .count();
    let value = format!("{covered} of {} covered", shadow.classes.len());
    let rarest = shadow
        .classes
        .iter()
        .min_by_key(|(_, class)| class.compared);
    match rarest {
        Some((route, class)) if class.compared < min => {
            let hint = format!(
                "`{route}` was compared {} times; wait for traffic or call it by hand",
                count(class.compared)
            );
            gate(name, value, limit, Verdict::Missing, hint)
        }
        _ => gate(name, value, limit, Verdict::Ok, String::new()),
    }
}

/// Whether the comparison would notice a fault, with all that its rules ignore.
fn rules(asked: &Asked<'_>) -> GateResult {
    /// Rules that hide every second fault are no longer exceptions.
    const CAUGHT_MIN: f64 = 0.5;
    let seen = asked.evidence.shadow.as_ref();
    let (seeded, caught) = seen.map_or((0, 0), |shadow| (shadow.seeded, shadow.caught));
    let limit = format!("at least {} of seeded faults", percent(CAUGHT_MIN));
    if seeded == 0 {
        // Answers that are no documents have no places for faults.
        let value = "no faults seeded".to_owned();
        return gate("rules", value, limit, Verdict::Ok, String::new());
    }
    let value = format!("{} of {} caught", count(caught), count(seeded));
    let verdict = if rate(caught, seeded) >= CAUGHT_MIN {
        Verdict::Ok
    } else {
        Verdict::Fails
    };
    let hint = format!(
        "the rules hide too much for a match to mean anything; narrow them \
         (`outgrow shadow ignore list {}`)",
        asked.slice
    );
    gate("rules", value, limit, verdict, hint)
}

fn hold_time(asked: &Asked<'_>) -> GateResult {
    let needed = match (asked.step, asked.state.traffic) {
        (Step::Retire, _) => asked.plan.soak,
        (_, Traffic::Shadow) => asked.plan.shadow_min,
        _ => asked.plan.hold,
    };
    let stayed = std::time::Duration::from_millis(asked.evidence.in_stage_ms);
    let value = format!("{} in {}", duration(stayed), asked.state.traffic);
    let limit = format!("at least {}", duration(needed));
    let left = needed.saturating_sub(stayed);
    let (verdict, hint) = if left.is_zero() {
        (Verdict::Ok, String::new())
    } else {
        (Verdict::Missing, format!("wait {} more", duration(left)))
    };
    gate("hold time", value, limit, verdict, hint)
}

fn requests_in_step(asked: &Asked<'_>) -> GateResult {
    let (seen, min) = (asked.evidence.extracted_in_stage, asked.plan.min_requests);
    let verdict = if seen >= min {
        Verdict::Ok
    } else {
        Verdict::Missing
    };
    let hint = format!(
        "{} more requests must reach the extracted side in this step",
        count(min.saturating_sub(seen))
    );
    let limit = format!("at least {}", count(min));
    gate("requests in step", count(seen), limit, verdict, hint)
}

/// Why the extracted side may have answered nothing: a share is one of clients, not of requests.
fn nothing_answered(asked: &Asked<'_>) -> String {
    let hint = "the extracted side answered nothing in this step yet";
    match asked.state.traffic {
        Traffic::Canary(share) if share < crate::Weight::FULL => format!(
            "{hint}: none of the clients that came is among the {share} that go there; where there are few, \
             begin with a higher share (`canary` of the plan)"
        ),
        _ => hint.to_owned(),
    }
}

fn errors(asked: &Asked<'_>) -> GateResult {
    let name = "errors";
    let max = asked.plan.errors_max;
    let Some(proxy) = asked
        .evidence
        .proxy
        .filter(|proxy| proxy.extracted.requests > 0)
    else {
        let limit = format!("at most {}", percent(max));
        let hint = nothing_answered(asked);
        return gate(
            name,
            "no requests".to_owned(),
            limit,
            Verdict::Missing,
            hint,
        );
    };
    let (legacy, extracted) = (proxy.legacy, proxy.extracted);
    let twice_legacy = 2.0 * rate(legacy.errors, legacy.requests);
    let allowed = max.max(twice_legacy);
    let value = format!(
        "extracted {} of {}, legacy {} of {}",
        count(extracted.errors),
        count(extracted.requests),
        count(legacy.errors),
        count(legacy.requests)
    );
    let limit = format!("at most {}", percent(allowed));
    // One error in few requests is too little to judge by; the guard watches meanwhile.
    let verdict = if !exceeds(extracted.errors, extracted.requests, allowed) {
        Verdict::Ok
    } else if extracted.errors <= 1 {
        Verdict::Missing
    } else {
        Verdict::Fails
    };
    let hint = format!(
        "the extracted side fails more than legacy; see its log, or `outgrow route rollback {}`",
        asked.slice
    );
    gate(name, value, limit, verdict, hint)
}

fn latency(asked: &Asked<'_>) -> GateResult {
    /// Slower than legacy by less than this is not worth a refusal: 20 ms, or a fifth.
    const SLACK_US: u64 = 20_000;
    /// Of fewer requests the 99th percentile is the slowest one, which says nothing of a side.
    const REQUESTS_MIN: u64 = 100;
    let name = "latency";
    let proxy = asked.evidence.proxy.unwrap_or_default();
    let Some(extracted) = proxy.extracted.p99_us else {
        let hint = "the extracted side answered too little to measure".to_owned();
        let limit = "p99 of legacy + 20% or 20 ms".to_owned();
        return gate(
            name,
            "not measured".to_owned(),
            limit,
            Verdict::Missing,
            hint,
        );
    };
    let Some(legacy) = proxy.legacy.p99_us else {
        let value = format!("p99 {}", millis(extracted / 1_000));
        let limit = "no legacy answers to compare with".to_owned();
        return gate(name, value, limit, Verdict::Ok, String::new());
    };
    let allowed = (legacy + legacy / 5).max(legacy.saturating_add(SLACK_US));
    let value = format!(
        "extracted p99 {}, legacy {}",
        millis(extracted / 1_000),
        millis(legacy / 1_000)
    );
    let limit = format!("p99 at most {}", millis(allowed / 1_000));
    let slower = "the extracted side is slower than legacy; look for missing indexes or caches";
    let (verdict, hint) = match proxy.extracted.requests {
        _ if extracted <= allowed => (Verdict::Ok, String::new()),
        seen @ 0..REQUESTS_MIN => (
            Verdict::Missing,
            format!(
                "{slower}, unless {} requests in this step are too few to tell",
                count(seen)
            ),
        ),
        _ => (Verdict::Fails, slower.to_owned()),
    };
    gate(name, value, limit, verdict, hint)
}

fn approval(asked: &Asked<'_>) -> GateResult {
    let step = asked.step.id();
    let given = asked.approved.contains(&step);
    let (value, verdict) = if given {
        ("given", Verdict::Ok)
    } else {
        ("not given", Verdict::Fails)
    };
    let hint = format!("`outgrow runbook approve {} {step}`", asked.slice);
    gate(
        "approval",
        value.to_owned(),
        "one".to_owned(),
        verdict,
        hint,
    )
}

fn exceeds(part: u64, whole: u64, max: f64) -> bool {
    rate(part, whole) > max
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn rate(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

#[cfg(test)]
mod tests;
