//! How requests are shared among the upstreams of `[legacy]` and of a service.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::{HeaderName, StatusCode};
use outgrow_proxy::{
    Balance, BreakerRule, Check, Ejection, FieldNames, Health, Protocol, Retries, Transport,
    UpstreamLimits, UpstreamRules,
};

use super::Surroundings;
use super::problem::Findings;
use super::section::{Node, Section};
use super::{scalar, transport};

/// More than this in a row is no row any more.
const FAILURES_MAX: u64 = 1_000;
/// What no count here reaches.
const COUNT_MAX: u64 = 1_000_000;
/// Of one request; more are load without hope.
const ATTEMPTS_MAX: u64 = 10;
/// Of a body that is sent again; every request in flight may hold as much.
const REPEATED_MAX: u64 = 16 * 1_024 * 1_024;
/// A request that waited longer has often lost its client.
const WAIT: Duration = Duration::from_secs(1);
/// Below the period in which ejections are looked at, a time would mean nothing.
const TIME_MIN: Duration = Duration::from_millis(100);
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// `safe`: what the schemes of the service's URLs say, where they say anything.
pub(super) fn rules(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
    safe: Option<bool>,
) -> UpstreamRules {
    let balance = balance(section, findings);
    let usual = UpstreamRules::default();
    let checks = section.get("health");
    let rules = UpstreamRules {
        balance,
        hash_by: hash_by(section, findings, balance),
        ejection: part(section, findings, "ejection", usual.ejection, ejection),
        health: checks
            .as_ref()
            .and_then(|node| node.section(findings))
            .and_then(|section| health(section, findings)),
        breaker: part(section, findings, "breaker", usual.breaker, breaker),
        retries: part(section, findings, "retries", usual.retries, retries),
        limits: section
            .get("limits")
            .and_then(|node| node.section(findings))
            .and_then(|section| limits(section, findings)),
        timeout: section
            .get("timeout")
            .and_then(|node| node.duration(findings, 10 * MS..=HOUR)),
        transport: transport::read(section, findings, around, safe),
        field_names: field_names(section, findings),
    };
    let calls = |health: &Health| matches!(health.check, Check::Grpc(_));
    let Transport { tls, protocol } = &rules.transport;
    let lines = *protocol == Protocol::Http1 || *protocol == Protocol::Auto && tls.is_none();
    if let Some(node) = checks
        && rules.health.as_ref().is_some_and(calls)
        && lines
    {
        let rule = "gRPC is spoken in HTTP/2, and this service is asked in HTTP/1.1";
        let fix = "add protocol = \"h2\" to the service, or check a `path`";
        findings.refuse(&node.place, rule, fix);
    }
    rules
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
            let fix = one_of(Balance::ALL.map(|(name, _)| name));
            findings.refuse(&node.place, "there is no such balance", fix);
            usual
        },
        |(_, balance)| *balance,
    )
}

fn field_names(section: &mut Section<'_>, findings: &mut Findings<'_>) -> FieldNames {
    let usual = FieldNames::default();
    let Some(node) = section.get("field_names") else {
        return usual;
    };
    let Some(word) = node.word(findings) else {
        return usual;
    };
    let known = FieldNames::ALL.iter().find(|(name, _)| *name == word);
    let Some((_, names)) = known else {
        let fix = one_of(FieldNames::ALL.map(|(name, _)| name));
        findings.refuse(&node.place, "names are not spelled like that", fix);
        return usual;
    };
    *names
}

fn one_of<const N: usize>(words: [&str; N]) -> String {
    let words = words.map(|word| format!("\"{word}\""));
    format!("write one of {}", words.join(", "))
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

fn what_to_ask(section: &mut Section<'_>, findings: &mut Findings<'_>) -> Option<Check> {
    if let Some(node) = section.get("grpc") {
        let name = node.text(findings)?;
        if let Some(path) = section.get("path") {
            let rule = "an upstream is asked one thing, and `grpc` says what";
            findings.refuse(&path.place, rule, "remove one of the two");
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
        if name.len() <= Check::NAME_MAX && name.bytes().all(plain) {
            return Some(Check::Grpc(name.to_owned()));
        }
        let rule = "it is not the name of a gRPC service";
        let fix = "write \"package.Service\", or \"\" for the server as a whole";
        findings.refuse(&node.place, rule, fix);
        return None;
    }
    let fix = "name a path that is answered with 200 by who is well: path = \"/healthz\"";
    let node = section.need(findings, "path", fix)?;
    let path = node.word(findings)?;
    if path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic()) {
        return Some(Check::Path(path));
    }
    findings.refuse(&node.place, "it is not a path", fix);
    None
}

fn health(mut section: Section<'_>, findings: &mut Findings<'_>) -> Option<Health> {
    let check = what_to_ask(&mut section, findings);
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
        check: check?,
        every,
        timeout,
        healthy_after,
        unhealthy_after,
    })
}

fn breaker(mut section: Section<'_>, findings: &mut Findings<'_>) -> BreakerRule {
    let usual = BreakerRule::default();
    let failures = number(
        &mut section,
        findings,
        "failures",
        usual.failures,
        0..=FAILURES_MAX,
    );
    let success_rate = section.share(findings, "success_rate", usual.success_rate);
    let requests_min = number(
        &mut section,
        findings,
        "requests_min",
        usual.requests_min,
        1..=COUNT_MAX,
    );
    let window = section.duration(findings, "window", usual.window, SECOND..=HOUR);
    let open = section.duration(findings, "open", usual.open, TIME_MIN..=HOUR);
    let longest = usual.open_max.max(open);
    let open_max = section.duration(findings, "open_max", longest, TIME_MIN..=24 * HOUR);
    if open_max < open {
        let rule = "it is less than `open`, the first time";
        let fix = format!("write {} or more", scalar::show(open));
        findings.refuse(&section.at("open_max"), rule, fix);
    }
    if failures == 0 && success_rate == 0.0 {
        let rule = "it goes by nothing: `failures` and `success_rate` are both 0";
        findings.refuse(
            &section.place,
            rule,
            "set one of them, or write breaker = false",
        );
    }
    section.finish(findings);
    BreakerRule {
        failures,
        success_rate,
        requests_min,
        window,
        open,
        open_max,
    }
}

fn retries(mut section: Section<'_>, findings: &mut Findings<'_>) -> Retries {
    let usual = Retries::default();
    let attempts = number(
        &mut section,
        findings,
        "attempts",
        usual.attempts,
        1..=ATTEMPTS_MAX,
    );
    let share = section.share(findings, "share", usual.share);
    let per_try_timeout = section
        .get("per_try_timeout")
        .and_then(|node| node.duration(findings, MS..=HOUR));
    let statuses = section.get("statuses").map(|node| {
        let items = node.list(findings);
        let read = |item: Node<'_>| {
            let code = item.integer(findings, 500..=599)?;
            StatusCode::from_u16(u16::try_from(code).ok()?).ok()
        };
        items.into_iter().filter_map(read).collect()
    });
    let body_max = section.size(
        findings,
        "body_max",
        usual.body_max as u64,
        0..=REPEATED_MAX,
    );
    section.finish(findings);
    Retries {
        attempts,
        share,
        per_try_timeout,
        statuses: statuses.unwrap_or(usual.statuses),
        body_max: usize::try_from(body_max).unwrap_or(usual.body_max),
    }
}

fn limits(mut section: Section<'_>, findings: &mut Findings<'_>) -> Option<UpstreamLimits> {
    let fix = "say how many requests one upstream may have at a time: connections = 100";
    let connections = section
        .need(findings, "connections", fix)
        .and_then(|node| node.integer(findings, 1..=COUNT_MAX));
    let waiting = section.get("waiting");
    let waiting = waiting.map(|node| node.integer(findings, 0..=COUNT_MAX));
    let wait = section.duration(findings, "wait", WAIT, MS..=HOUR);
    section.finish(findings);
    let connections = usize::try_from(connections?).ok()?;
    let waiting = match waiting {
        // As many again: a queue that is longer than the work holds what nobody waits for.
        None => connections,
        Some(count) => usize::try_from(count?).ok()?,
    };
    Some(UpstreamLimits {
        connections,
        waiting,
        wait,
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
    number(section, findings, key, usual, 1..=most)
}

fn number(
    section: &mut Section<'_>,
    findings: &mut Findings<'_>,
    key: &'static str,
    usual: u32,
    range: RangeInclusive<u64>,
) -> u32 {
    let found = section.get(key);
    let found = found.and_then(|node| node.integer(findings, range));
    found
        .and_then(|count| u32::try_from(count).ok())
        .unwrap_or(usual)
}
