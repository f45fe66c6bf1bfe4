//! `[slices.ID.sync]`: which sides take writes of a slice's tables, what becomes of rows that both
//! have changed, whether transactions stay whole, how fast its rows are copied and how many chunks at a
//! time, how much of its log a server may keep and how many noted changes, and what is verified again and
//! again.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use outgrow_bridge::{Both, Limits, MaxRunning, Policy, Transactions, Watch, Writes};

use super::model::SliceSync;
use super::problem::{Findings, Place};
use super::section::{Node, Section};

const POLICIES: &str =
    "write \"writer\", \"legacy\", \"extracted\", \"manual\" or { newest = \"column\" }";

/// Twice what a fast machine copies.
const RATE: RangeInclusive<u64> = 1..=1_000_000;
/// A server has little more to give than to some at a time.
const PARALLEL: RangeInclusive<u64> = 1..=8;
/// Shorter than heartbeats come, a backfill would never go on.
const LAG: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);
/// Well beyond what a chunk takes, and well before people wait.
const LAG_DEFAULT: Duration = Duration::from_secs(10);

/// A server that runs more at a time is past saving.
const RUNNING: RangeInclusive<u64> = 1..=100_000;

/// Of a server's log, for a link that reads it: on most disks less than what is free, and hours of a
/// busy database.
const LOG: u64 = 64 << 30;
const LOG_RANGE: RangeInclusive<u64> = 64 << 20..=64 << 40;

/// Of noted changes: a hundred million and more, a weekend of a busy database. To copy again takes less
/// time than to apply more of them.
const NOTED: u64 = 16 << 30;
const NOTED_RANGE: RangeInclusive<u64> = 16 << 20..=64 << 40;

/// Their keys are kept in memory.
const REPAIR: RangeInclusive<u64> = 1..=1_000_000;

const WATCH: &str = "write \"off\" or { every = \"1h\", share = 0.05 }";
/// Between two verifications, unless the config says else.
const EVERY: Duration = Duration::from_hours(1);
const EVERY_LEAST: Duration = Duration::from_secs(10);
const EVERY_MOST: Duration = Duration::from_hours(365 * 24);
/// Of the rows, so that all have been looked at about once a day.
const SHARE: f64 = 0.05;

/// What the section says, and where it speaks of the load.
pub(super) fn read(
    slice: &mut Section<'_>,
    findings: &mut Findings<'_>,
    has_tables: bool,
) -> (SliceSync, Place) {
    let mut sync = SliceSync {
        writes: Writes::One,
        verify: None,
        copy_rate: None,
        copy_parallel: Limits::default().copy_parallel,
        copy_lag: LAG_DEFAULT,
        max_running: MaxRunning::default(),
        log_limit: LOG,
        repair_limit: Limits::default().repair_rows,
        transactions: Transactions::Batched,
        noted_limit: NOTED,
    };
    let Some(mut section) = slice.get("sync").and_then(|node| node.section(findings)) else {
        return (sync, slice.at("sync"));
    };
    let load = section.at("max_running");
    let verify = section.get("verify");
    sync.verify = verify.and_then(|node| watch(&node, findings));
    let rate = section
        .get("copy_rate")
        .and_then(|node| node.integer(findings, RATE));
    sync.copy_rate = rate
        .and_then(|rate| u32::try_from(rate).ok())
        .and_then(NonZeroU32::new);
    let parallel = section
        .get("copy_parallel")
        .and_then(|node| node.integer(findings, PARALLEL));
    if let Some(parallel) = parallel
        .and_then(|parallel| u32::try_from(parallel).ok())
        .and_then(NonZeroU32::new)
    {
        sync.copy_parallel = parallel;
    }
    sync.copy_lag = section.duration(findings, "copy_lag", LAG_DEFAULT, LAG);
    let running = section.get("max_running");
    sync.max_running =
        running.map_or_else(MaxRunning::default, |node| max_running(&node, findings));
    sync.log_limit = section.size(findings, "log_limit", LOG, LOG_RANGE);
    let repair = section.get("repair_limit");
    if let Some(most) = repair.and_then(|node| node.integer(findings, REPAIR)) {
        sync.repair_limit = usize::try_from(most).unwrap_or(usize::MAX);
    }
    let whole = section.get("transactions");
    sync.noted_limit = section.size(findings, "noted_limit", NOTED, NOTED_RANGE);
    sync.writes = writes(section, findings, has_tables);
    if let Some(node) = whole {
        sync.transactions = transactions(&node, findings, &sync.writes);
    }
    (sync, load)
}

fn transactions(node: &Node<'_>, findings: &mut Findings<'_>, writes: &Writes) -> Transactions {
    let fix = "write \"batched\" or \"whole\"";
    if !choose(node, findings, ["batched", "whole"], fix) {
        return Transactions::Batched;
    }
    if matches!(writes, Writes::Both(_)) {
        let rule =
            "with writes = \"both\" each row is decided by itself, so none can be kept whole";
        findings.refuse(&node.place, rule, "write \"batched\", or remove it");
    }
    Transactions::Whole
}

/// One number for both sides, or one for each that has a limit.
fn max_running(node: &Node<'_>, findings: &mut Findings<'_>) -> MaxRunning {
    let read = |node: &Node<'_>, findings: &mut Findings<'_>| {
        let most = node.integer(findings, RUNNING)?;
        u32::try_from(most).ok().and_then(NonZeroU32::new)
    };
    if !node.is_table() {
        let most = read(node, findings);
        return MaxRunning {
            legacy: most,
            extracted: most,
        };
    }
    let Some(mut section) = node.section(findings) else {
        return MaxRunning::default();
    };
    let mut side = |name| section.get(name).and_then(|node| read(&node, findings));
    let limits = MaxRunning {
        legacy: side("legacy"),
        extracted: side("extracted"),
    };
    section.finish(findings);
    limits
}

fn watch(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Watch> {
    if node.is_text() {
        if node.word(findings).is_some_and(|word| word != "off") {
            findings.refuse(&node.place, "it is none of its values", WATCH);
        }
        return None;
    }
    let mut section = node.section(findings)?;
    let every = section.duration(findings, "every", EVERY, EVERY_LEAST..=EVERY_MOST);
    let share = section.share(findings, "share", SHARE);
    let place = section.at("share");
    section.finish(findings);
    if share <= 0.0 {
        findings.refuse(&place, "nothing would be looked at", WATCH);
        return None;
    }
    Some(Watch { every, share })
}

fn writes(mut section: Section<'_>, findings: &mut Findings<'_>, has_tables: bool) -> Writes {
    let writes = section.get("writes");
    let conflicts = section.get("conflicts");
    let ids = section.get("ids");
    let place = section.place.clone();
    section.finish(findings);
    if !has_tables {
        let rule = "the slice has no tables to keep in step";
        findings.lack(&place, rule, "remove the section, or add tables");
    }
    let fix = "write \"one\" or \"both\"";
    let both = writes.is_some_and(|node| choose(&node, findings, ["one", "both"], fix));
    if !both {
        for node in [&conflicts, &ids].into_iter().flatten() {
            let rule = "it says nothing where one side takes the writes";
            findings.refuse(&node.place, rule, "add writes = \"both\", or remove it");
        }
        return Writes::One;
    }
    let fix = "write \"check\", or \"apart\" if no id can be given out by both sides";
    Writes::Both(Both {
        policy: conflicts.map_or(Policy::Writer, |node| policy(&node, findings)),
        ids_apart: ids.is_some_and(|node| choose(&node, findings, ["check", "apart"], fix)),
    })
}

/// Whether the second of two words was chosen.
fn choose(node: &Node<'_>, findings: &mut Findings<'_>, words: [&str; 2], fix: &str) -> bool {
    let Some(word) = node.word(findings) else {
        return false;
    };
    if !words.contains(&word.as_str()) {
        findings.refuse(&node.place, "it is none of its values", fix);
    }
    word == words[1]
}

fn policy(node: &Node<'_>, findings: &mut Findings<'_>) -> Policy {
    if !node.is_text() {
        let column = node.section(findings).and_then(|mut section| {
            let newest = section.need(findings, "newest", POLICIES);
            section.finish(findings);
            newest?.word(findings)
        });
        return column.map_or(Policy::Writer, Policy::Newest);
    }
    match node.word(findings).as_deref() {
        Some("legacy") => Policy::Legacy,
        Some("extracted") => Policy::Extracted,
        Some("manual") => Policy::Manual,
        Some("writer") | None => Policy::Writer,
        Some(_) => {
            findings.refuse(&node.place, "it is no policy for conflicts", POLICIES);
            Policy::Writer
        }
    }
}
