//! `[slices.ID.shadow]`: how a slice's answers are compared, and what may differ.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use outgrow_rollout::Side;
use outgrow_shadow::{Accept, ArrayBy, ArrayRule, Flow, Known, Rewrites, Rule};

use super::Surroundings;
use super::mirroring;
use super::model::{Route, SliceShadow};
use super::problem::{Findings, Place};
use super::rewriting;
use super::scalar;
use super::section::{Node, Section};
use super::writes;

/// Every read is compared unless the config says less: most slices have fewer reads than a
/// shadow can compare, and more evidence is sooner enough.
const SAMPLE: f64 = 1.0;
/// One read in fifty is asked twice of the same side: enough to learn what differs by itself
/// within minutes, at two percent more load on the monolith.
const NOISE_SAMPLE: f64 = 0.02;

/// What has not differed for a month is most likely mended.
const KEEP: Duration = Duration::from_hours(30 * 24);
const KEEP_RANGE: RangeInclusive<Duration> =
    Duration::from_mins(1)..=Duration::from_hours(10 * 365 * 24);

const IGNORE_FIX: &str =
    "write { path = \"$.generated_at\", reason = \"why\", until = \"2027-01-31\" }";
const ACCEPT_FIX: &str = "write { path = \"$.price\", tolerance = \"0.01\", reason = \"why\", \
     until = \"2027-01-31\" }";

pub(super) fn read(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
    routes: &[(Place, Route)],
) -> SliceShadow {
    let mut found = SliceShadow {
        sample: SAMPLE,
        flow: Flow::default(),
        sandbox: Vec::new(),
        rewrites: Rewrites::default(),
        noise_sample: NOISE_SAMPLE,
        arrays: Vec::new(),
        rules: Vec::new(),
        keep: KEEP,
        redact: Vec::new(),
        headers: None,
    };
    let Some(mut section) = section
        .get("shadow")
        .and_then(|node| node.section(findings))
    else {
        return found;
    };
    found.sample = section.share(findings, "sample", SAMPLE);
    found.sandbox = writes::sandbox(&mut section, findings);
    found.rewrites = Rewrites {
        legacy: rewriting::read(&mut section, findings, around, Side::Legacy),
        extracted: rewriting::read(&mut section, findings, around, Side::Extracted),
    };
    found.noise_sample = section.share(findings, "noise_sample", NOISE_SAMPLE);
    if let Some(node) = section.get("arrays") {
        let rules = node.list(findings).into_iter();
        found.arrays = rules.filter_map(|node| array(&node, findings)).collect();
    }
    for (key, fix) in [("ignore", IGNORE_FIX), ("accept", ACCEPT_FIX)] {
        let Some(node) = section.get(key) else {
            continue;
        };
        for node in node.list(findings) {
            found.rules.extend(rule(&node, key, fix, findings, around));
        }
    }
    found.flow = mirroring::read(&mut section, findings, routes, &found.rules);
    found.keep = section.duration(findings, "keep", KEEP, KEEP_RANGE);
    if let Some(node) = section.get("redact") {
        let names = node.words(findings).into_iter();
        found.redact = names.map(|(_, name)| name).collect();
    }
    found.headers = section.get("headers").map(|node| {
        let mut names = Vec::new();
        for (place, name) in node.words(findings) {
            if scalar::is_token(&name) {
                names.push(name.to_ascii_lowercase());
            } else {
                findings.refuse(&place, "it is not a header name", "write the bare name");
            }
        }
        names
    });
    section.finish(findings);
    found
}

fn array(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<ArrayRule> {
    let mut section = node.section(findings)?;
    let fix = "write { path = \"$.items\", key = \"id\" } or { path = \"$.tags\", as = \"set\" }";
    let path = section
        .need(findings, "path", fix)
        .and_then(|node| node.word(findings));
    let (set, key) = (section.get("as"), section.get("key"));
    let by = match (set, key) {
        (None, Some(key)) => key.word(findings).map(ArrayBy::Key),
        (Some(set), None) => match set.word(findings).as_deref() {
            Some("set") => Some(ArrayBy::Set),
            Some("order") => Some(ArrayBy::Order),
            Some(_) => {
                findings.refuse(&set.place, "it is not a way to pair elements", fix);
                None
            }
            None => None,
        },
        _ => {
            findings.lack(&section.place, "it needs either `as` or `key`", fix);
            None
        }
    };
    section.finish(findings);
    Some(ArrayRule {
        path: path?,
        by: by?,
    })
}

/// One of `ignore`, which accepts anything, or of `accept`, which says what.
fn rule(
    node: &Node<'_>,
    list: &str,
    fix: &str,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<Rule> {
    let mut section = node.section(findings)?;
    let path = section
        .need(findings, "path", fix)
        .and_then(|node| Some((node.place.clone(), node.word(findings)?)));
    let reason = section
        .need(findings, "reason", fix)
        .and_then(|node| node.word(findings));
    let until = section.need(findings, "until", fix).and_then(|node| {
        let day = node.date(findings)?;
        if day <= around.today {
            let rule = format!("the rule has expired on {day} and ignores nothing");
            findings.warn(&node.place, rule, "remove it, or give it a later day");
        }
        Some(day)
    });
    let owner = section.get("owner").map(|node| node.word(findings));
    let accept = match list {
        "ignore" => Some(Accept::Any),
        _ => accept(&mut section, findings),
    };
    section.finish(findings);
    let (place, path) = path?;
    let rule = Rule {
        path,
        reason: reason?,
        until: Some(until?.to_string()),
        owner: owner.flatten(),
        accept: accept?,
    };
    if let Err(error) = rule.check() {
        findings.refuse(&place, error.to_string(), fix);
        return None;
    }
    Some(rule)
}

/// The one matcher of a rule.
fn accept(section: &mut Section<'_>, findings: &mut Findings<'_>) -> Option<Accept> {
    let keys = [
        "same",
        "tolerance",
        "round",
        "regex",
        "one_of",
        "prefix",
        "format",
        "map",
        "renamed",
    ];
    let given: Vec<(&str, Node<'_>)> = keys
        .into_iter()
        .filter_map(|key| Some((key, section.get(key)?)))
        .collect();
    let [(key, node)] = given.as_slice() else {
        let rule = match given.len() {
            0 => "it does not say what it accepts",
            _ => "it says twice what it accepts",
        };
        let fix = format!("write one of {}", keys.join(", "));
        findings.lack(&section.place, rule, fix);
        return None;
    };
    match *key {
        "same" => same(node, findings),
        "tolerance" => tolerance(node, findings),
        "round" => {
            let places = node.integer(findings, 0..=18)?;
            Some(Accept::Round(u32::try_from(places).ok()?))
        }
        "regex" => Some(Accept::Regex(node.word(findings)?)),
        "one_of" => {
            let all = node.list(findings);
            let all: Option<Vec<_>> = all.iter().map(|node| node.scalar(findings)).collect();
            Some(Accept::OneOf(all?))
        }
        "prefix" => Some(Accept::Prefix(node.word(findings)?)),
        "renamed" => Some(Accept::RenamedAs(node.word(findings)?)),
        "format" => format(node, findings),
        _ => {
            let mut map = BTreeMap::new();
            for (name, _, node) in node.section(findings)?.entries() {
                map.insert(name, node.word(findings)?);
            }
            Some(Accept::Map(map))
        }
    }
}

fn same(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Accept> {
    Some(match node.word(findings)?.as_str() {
        "type" => Accept::Type,
        "presence" => Accept::Presence,
        "null" => Accept::Null,
        "instant" => Accept::Instant,
        "renamed" => Accept::Renamed,
        _ => {
            let fix = "write \"type\", \"presence\", \"null\", \"instant\" or \"renamed\"";
            findings.refuse(&node.place, "it is not what can be the same", fix);
            return None;
        }
    })
}

fn tolerance(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Accept> {
    let Some(text) = node.digits() else {
        let fix = "write 0.01, \"1%\" or \"2s\"";
        findings.refuse(&node.place, "it is not a tolerance", fix);
        return None;
    };
    Some(Accept::Tolerance(text))
}

fn format(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Accept> {
    let known = [
        ("uuid", Known::Uuid),
        ("rfc3339", Known::Rfc3339),
        ("date", Known::Date),
        ("email", Known::Email),
        ("url", Known::Url),
        ("ip", Known::Ip),
        ("integer", Known::Integer),
        ("hex", Known::Hex),
    ];
    let word = node.word(findings)?;
    let found = known.iter().find(|(name, _)| *name == word);
    if found.is_none() {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let fix = format!("write one of {}", names.join(", "));
        findings.refuse(&node.place, "it is not a known format", fix);
    }
    found.map(|(_, format)| Accept::Format(*format))
}
