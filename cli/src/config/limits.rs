//! `[proxy.limits]`, and `limits` of filters: how long anybody is waited for, and how much anybody may
//! bring.

use std::ops::RangeInclusive;
use std::time::Duration;

use outgrow_proxy::{Allowance, Limits};

use super::problem::Findings;
use super::section::{Node, Section};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Below it browsers' own fields do not fit; above it a head is no head.
const HEAD: RangeInclusive<u64> = 4 << 10..=1 << 20;
const FIELDS: RangeInclusive<u64> = 16..=4_096;
/// Of each upstream, and of each core.
const POOL: RangeInclusive<u64> = 0..=100_000;
/// Longer than any upload.
const BODY: RangeInclusive<u64> = 1 << 10..=1 << 50;

/// More than a process can have descriptors.
const CLIENTS: RangeInclusive<u64> = 1..=100_000_000;

/// Of all requests.
pub(super) fn of_proxy(section: &mut Section<'_>, findings: &mut Findings<'_>) -> Limits {
    let usual = Limits::default();
    let Some(mut section) = section
        .get("limits")
        .and_then(|node| node.section(findings))
    else {
        return usual;
    };
    let count = |found: u64, usual: usize| usize::try_from(found).unwrap_or(usual);
    let head_max = section.get("head_max");
    let head_max = head_max.and_then(|node| node.size(findings, HEAD));
    let fields_max = section.get("fields_max");
    let fields_max = fields_max.and_then(|node| node.integer(findings, FIELDS));
    let times = SECOND / 10..=DAY / 24;
    let head_timeout = section.duration(findings, "head_timeout", usual.head_timeout, times);
    let mut time = |key, usual, range| section.duration(findings, key, usual, range);
    let keep_alive = time("keep_alive", usual.keep_alive, Duration::ZERO..=DAY);
    let half_closed = time("half_closed", usual.half_closed, Duration::ZERO..=DAY / 24);
    let connect_retry = time(
        "connect_retry",
        usual.connect_retry,
        Duration::ZERO..=DAY / 24,
    );
    let pool_idle = time("pool_idle", usual.pool_idle, SECOND / 10..=DAY / 24);
    let pool_max = section.get("pool_max");
    let pool_max = pool_max.and_then(|node| node.integer(findings, POOL));
    let clients = section.get("clients_max");
    let clients = clients.and_then(|node| node.integer(findings, CLIENTS));
    let own = keys(&mut section, findings);
    section.finish(findings);
    Limits {
        head_max: head_max.map_or(usual.head_max, |found| count(found, usual.head_max)),
        headers_max: fields_max.map_or(usual.headers_max, |found| count(found, usual.headers_max)),
        head_timeout,
        clients_max: clients.and_then(|most| usize::try_from(most).ok()),
        keep_alive,
        half_closed,
        connect_retry,
        pool_idle,
        pool_max: pool_max.map_or(usual.pool_max, |found| count(found, usual.pool_max)),
        allowance: Allowance {
            body_max: own.body_max.or(usual.allowance.body_max),
            upload_idle: own.upload_idle.or(usual.allowance.upload_idle),
            answer_idle: own.answer_idle.or(usual.allowance.answer_idle),
            client_idle: own.client_idle.or(usual.allowance.client_idle),
            tunnel_idle: own.tunnel_idle.or(usual.allowance.tunnel_idle),
            total: own.total.or(usual.allowance.total),
        },
        ..usual
    }
}

/// Of some routes.
pub(super) fn of_filters(node: Option<Node<'_>>, findings: &mut Findings<'_>) -> Allowance {
    let Some(mut section) = node.and_then(|node| node.section(findings)) else {
        return Allowance::default();
    };
    let own = keys(&mut section, findings);
    section.finish(findings);
    own
}

/// What both may say. Of times zero is for ever.
fn keys(section: &mut Section<'_>, findings: &mut Findings<'_>) -> Allowance {
    let body_max = section.get("body_max");
    let mut time = |key| {
        let node: Option<Node<'_>> = section.get(key);
        node?.duration(findings, Duration::ZERO..=DAY)
    };
    let (upload_idle, answer_idle) = (time("upload_idle"), time("answer_idle"));
    let (client_idle, tunnel_idle) = (time("client_idle"), time("tunnel_idle"));
    let total = time("total");
    Allowance {
        body_max: body_max.and_then(|node| node.size(findings, BODY)),
        upload_idle,
        answer_idle,
        client_idle,
        tunnel_idle,
        total,
    }
}
