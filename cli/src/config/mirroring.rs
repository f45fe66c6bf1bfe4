//! The part of `[slices.ID.shadow]` that says how much is mirrored: shares, rates and bounds, of the
//! slice and of single routes.

use std::ops::RangeInclusive;

use outgrow_shadow::{Accept, AskedIds, Flow, Posts, RouteShadow, Rule, check_asked};

use super::model::Route;
use super::problem::{Findings, Place, nearest};
use super::section::{Node, Section};
use super::writes;

/// Less than one in a quarter of an hour is no rate; more than the upper end nobody mirrors.
const RATE: RangeInclusive<f64> = 0.001..=1_000_000.0;
/// Each takes a task and a place in a map.
const WAITING: RangeInclusive<u64> = 1..=100_000;
/// Each takes a connection.
const IN_FLIGHT: RangeInclusive<u64> = 1..=512;
/// The least has room for some of the largest bodies.
const MEMORY: RangeInclusive<u64> = 1 << 20..=64 << 30;

pub(super) fn read(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    known: &[(Place, Route)],
    rules: &[Rule],
) -> Flow {
    let mut flow = Flow::default();
    if let Some(node) = section.get("by") {
        flow.by_client = by_client(&node, findings);
    }
    flow.rate = section.get("rate").and_then(|node| rate(&node, findings));
    if let Some(most) = bound(section.get("waiting"), WAITING, findings) {
        flow.waiting = most;
    }
    if let Some(most) = bound(section.get("in_flight"), IN_FLIGHT, findings) {
        flow.in_flight = most;
    }
    let memory = section.size(findings, "memory", flow.memory as u64, MEMORY);
    flow.memory = usize::try_from(memory).unwrap_or(usize::MAX);
    let entries = section.get("by_route");
    let entries = entries.map(|node| node.list(findings)).unwrap_or_default();
    for node in entries {
        by_route(&node, &mut flow, findings, (known, rules));
    }
    flow
}

fn by_client(node: &Node<'_>, findings: &mut Findings<'_>) -> bool {
    match node.word(findings).as_deref() {
        Some("client") => return true,
        Some("request") | None => {}
        Some(_) => {
            let fix = "write \"request\" or \"client\"";
            findings.refuse(&node.place, "it is not what can be sampled", fix);
        }
    }
    false
}

fn bound(
    node: Option<Node<'_>>,
    range: RangeInclusive<u64>,
    findings: &mut Findings<'_>,
) -> Option<usize> {
    usize::try_from(node?.integer(findings, range)?).ok()
}

/// A second.
fn rate(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<f64> {
    let found = node.number(findings)?;
    if RATE.contains(&found) {
        return Some(found);
    }
    let fix = "write requests a second, 0.001 to 1000000";
    findings.refuse(&node.place, "it is not a rate", fix);
    None
}

fn posts(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Posts> {
    match node.word(findings)?.as_str() {
        "reads" => Some(Posts::Reads),
        "graphql" => Some(Posts::Graphql),
        _ => {
            let fix = "write \"reads\" or \"graphql\"";
            findings.refuse(&node.place, "it is no kind of POST that reads", fix);
            None
        }
    }
}

/// Which parts of a request are ids, and under which name rules know them.
fn ids(node: &Node<'_>, findings: &mut Findings<'_>, rules: &[Rule]) -> AskedIds {
    let names = rules.iter().filter_map(|rule| match &rule.accept {
        Accept::RenamedAs(name) => Some(name.as_str()),
        _ => None,
    });
    let names: Vec<&str> = names.collect();
    let section = node.section(findings);
    let mut found = AskedIds::new();
    for (key, place, node) in section.map(|all| all.entries()).unwrap_or_default() {
        let Some(name) = node.word(findings) else {
            continue;
        };
        if key == "?" {
            let fix = "write ids = { \"?name\" = \"order\" }";
            findings.lack(&place, "it names no parameter of the query", fix);
        } else if let Err(error) = check_asked(&key) {
            let fix = "write a path as rules have it, e.g. \"$.lines[*].order\"";
            findings.refuse(&place, error.to_string(), fix);
        } else if !names.contains(&name.as_str()) {
            let fix = match nearest(&name, names.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "write such a rule for where answers have these ids: they are learnt there"
                    .to_owned(),
            };
            let rule = "no rule of `accept` has it as `renamed`";
            findings.refuse(&node.place, rule, fix);
        }
        found.insert(key, name);
    }
    found
}

/// What is said apart for some routes.
fn by_route(
    node: &Node<'_>,
    flow: &mut Flow,
    findings: &mut Findings<'_>,
    (known, rules): (&[(Place, Route)], &[Rule]),
) {
    let Some(mut section) = node.section(findings) else {
        return;
    };
    let fix = "write routes = [\"GET /path/{name}\"], as the slice has them";
    let named = section.need(findings, "routes", fix);
    let sample = section.get("sample").is_some();
    let sample = sample.then(|| section.share(findings, "sample", 1.0));
    let rate = section.get("rate").and_then(|node| rate(&node, findings));
    let waiting = bound(section.get("waiting"), WAITING, findings);
    let memory = section.get("memory").is_some();
    let memory = memory.then(|| section.size(findings, "memory", *MEMORY.start(), MEMORY));
    let memory = memory.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
    let posts = section.get("posts").and_then(|node| posts(&node, findings));
    let mut own = RouteShadow {
        sample,
        rate,
        waiting,
        memory,
        posts,
        ..RouteShadow::default()
    };
    let ids = section.get("ids").map(|node| ids(&node, findings, rules));
    let ids = ids.unwrap_or_default();
    writes::of_routes(&mut section, findings, &mut own);
    section.finish(findings);
    let named = named.map(|node| node.words(findings)).unwrap_or_default();
    for (place, text) in named {
        let known: Vec<String> = known.iter().map(|(_, route)| route.to_string()).collect();
        if posts.is_some() && !text.starts_with("POST ") {
            let fix = "name routes of POST, or remove `posts`";
            findings.refuse(&place, "it has no POSTs", fix);
        }
        writes::check_route(&place, &text, own, findings);
        let in_path = |key: &str| !key.starts_with('*') && text.contains(&format!("{{{key}}}"));
        let has = |key: &str| key.starts_with(['?', '$']) || in_path(key);
        if let Some(key) = ids.keys().find(|key| !has(key)) {
            let rule = format!("its path has no `{{{key}}}`, which `ids` names");
            let fix = "name a parameter of its path, one of the query as \"?name\", or a place in the body as \"$.name\"";
            findings.refuse(&place, rule, fix);
        }
        if !known.contains(&text) {
            let fix = match nearest(&text, known.iter().map(String::as_str)) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "name it as `routes` of the slice does".to_owned(),
            };
            findings.refuse(&place, "the slice has no such route", fix);
        } else if flow.routes.insert(text.clone(), own).is_some() {
            findings.refuse(&place, "it is said apart already", "name it once");
        } else if !ids.is_empty() {
            flow.ids.insert(text, ids.clone());
        }
    }
}
