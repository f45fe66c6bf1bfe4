//! How requests are shared among the upstreams of `[legacy]` and of a service.

use std::time::Duration;

use http::HeaderName;
use outgrow_proxy::{Balance, Ejection, Health, UpstreamRules};

use super::problem::Findings;
use super::scalar;
use super::section::Section;

/// More than this in a row is no row any more.
const FAILURES_MAX: u64 = 1_000;
/// Below the period in which ejections are looked at, a time would mean nothing.
const TIME_MIN: Duration = Duration::from_millis(100);
const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);

pub(super) fn rules(section: &mut Section<'_>, findings: &mut Findings<'_>) -> UpstreamRules {
    let balance = balance(section, findings);
    let usual = UpstreamRules::default();
    UpstreamRules {
        balance,
        hash_by: hash_by(section, findings, balance),
        ejection: part(section, findings, "ejection", usual.ejection, ejection),
        health: section
            .get("health")
            .and_then(|node| node.section(findings))
            .and_then(|section| health(section, findings)),
    }
}

/// A part that `false` turns off and `true` takes as it is usual.
fn part<T: Default>(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    key: &'static str,
    usual: Option<T>,
    read: impl FnOnce(Section<'_>, &mut Findings<'_>) -> T,
) -> Option<T> {
    let Some(node) = section.get(key) else {
        return usual;
    };
    if let Some(on) = node.flag() {
        return on.then(|| usual.unwrap_or_default());
    }
    node.section(findings)
        .map(|section| read(section, findings))
}

fn balance(section: &mut Section<'_>, findings: &mut Findings<'_>) -> Balance {
    let usual = UpstreamRules::default().balance;
    let Some(node) = section.get("balance") else {
        return usual;
    };
    let Some(word) = node.word(findings) else {
        return usual;
    };
    let known = Balance::ALL.iter().find(|(name, _)| *name == word);
    known.map_or_else(
        || {
            let names = Balance::ALL.map(|(name, _)| format!("\"{name}\""));
            let fix = format!("write one of {}", names.join(", "));
            findings.refuse(&node.place, "there is no such balance", fix);
            usual
        },
        |(_, balance)| *balance,
    )
}

fn hash_by(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    balance: Balance,
) -> Option<HeaderName> {
    let node = section.get("hash_by")?;
    let word = node.word(findings)?;
    let header = word.strip_prefix("header:");
    let header = header.and_then(|name| name.parse::<HeaderName>().ok());
    if header.is_none() {
        findings.refuse(&node.place, "it is no header", "write \"header:NAME\"");
    } else if balance != Balance::RingHash {
        let rule = "only a ring goes by a key";
        findings.refuse(
            &node.place,
            rule,
            "write balance = \"ring-hash\", or remove it",
        );
    }
    header
}

fn ejection(mut section: Section<'_>, findings: &mut Findings<'_>) -> Ejection {
    let usual = Ejection::default();
    let failures = count(
        &mut section,
        findings,
        "failures",
        usual.failures,
        FAILURES_MAX,
    );
    let time = section.duration(findings, "time", usual.time, TIME_MIN..=HOUR);
    let longest = usual.time_max.max(time);
    let time_max = section.duration(findings, "time_max", longest, TIME_MIN..=24 * HOUR);
    let share_max = section.share(findings, "share_max", usual.share_max);
    if time_max < time {
        let rule = "it is less than `time`, the first ejection";
        let fix = format!("write {} or more", scalar::show(time));
        findings.refuse(&section.at("time_max"), rule, fix);
    }
    section.finish(findings);
    Ejection {
        failures,
        time,
        time_max,
        share_max,
    }
}

fn health(mut section: Section<'_>, findings: &mut Findings<'_>) -> Option<Health> {
    let fix = "name a path that is answered with 200 by who is well: path = \"/healthz\"";
    let path = section.need(findings, "path", fix).and_then(|node| {
        let path = node.word(findings)?;
        if path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic()) {
            return Some(path);
        }
        findings.refuse(&node.place, "it is not a path", fix);
        None
    });
    let usual = Health::at("/");
    let every = section.duration(findings, "every", usual.every, TIME_MIN..=HOUR);
    let timeout = usual.timeout.min(every);
    let timeout = section.duration(findings, "timeout", timeout, MS..=HOUR);
    if timeout > every {
        let rule = "it is longer than `every`, the time between two checks";
        let fix = format!("write {} or less", scalar::show(every));
        findings.refuse(&section.at("timeout"), rule, fix);
    }
    let mut after = |key, usual| count(&mut section, findings, key, usual, FAILURES_MAX);
    let healthy_after = after("healthy_after", usual.healthy_after);
    let unhealthy_after = after("unhealthy_after", usual.unhealthy_after);
    section.finish(findings);
    Some(Health {
        path: path?,
        every,
        timeout,
        healthy_after,
        unhealthy_after,
    })
}

/// A number from 1.
fn count(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    key: &'static str,
    usual: u32,
    most: u64,
) -> u32 {
    let found = section.get(key);
    let found = found.and_then(|node| node.integer(findings, 1..=most));
    found
        .and_then(|count| u32::try_from(count).ok())
        .unwrap_or(usual)
}
