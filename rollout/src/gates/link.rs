//! The gates of the data axis: copied, in step, verified, and written by nobody else.

use super::{Asked, GateResult, Verdict, gate};
use crate::evidence::SyncEvidence;
use crate::figures::{count, duration, millis};
use crate::state::DataPhase;

fn sync_missing(name: &str, limit: String) -> GateResult {
    let hint = "the bridge tells nothing of this slice; see `outgrow sync status`".to_owned();
    gate(
        name,
        "not measured".to_owned(),
        limit,
        Verdict::Missing,
        hint,
    )
}

pub(super) fn copied(asked: &Asked<'_>) -> GateResult {
    let (name, limit) = ("rows copied", "all".to_owned());
    let Some(sync) = &asked.evidence.sync else {
        return sync_missing(name, limit);
    };
    let value = format!("{} of {}", count(sync.copied_rows), count(sync.total_rows));
    // The rows may all be there a moment before the state says that they are followed.
    let copying = asked
        .state
        .data
        .as_ref()
        .is_some_and(|link| matches!(link.phase, DataPhase::Idle | DataPhase::Copying));
    let verdict = if sync.copied && !copying {
        Verdict::Ok
    } else {
        Verdict::Missing
    };
    let hint = format!(
        "wait for the copy; see `outgrow sync status {}`",
        asked.slice
    );
    gate(name, value, limit, verdict, hint)
}

pub(super) fn link(asked: &Asked<'_>) -> GateResult {
    let slice = asked.slice;
    let limit = "runs, no row parked".to_owned();
    let sync = asked.evidence.sync.as_ref();
    let (parked, conflicts) = sync.map_or((0, 0), |sync| (sync.parked, sync.conflicts));
    let state = asked.state.data.as_ref();
    let (value, hint) = if let Some(reason) = state.and_then(|link| link.failed.as_ref()) {
        (
            format!("failed: {reason}"),
            format!("mend it, then `outgrow sync resume {slice}`"),
        )
    } else if let Some(reason) = state.and_then(|link| link.paused.as_ref()) {
        (
            format!("paused: {reason}"),
            format!("`outgrow sync resume {slice}`"),
        )
    } else if parked > 0 {
        (
            format!("{} rows could not be applied", count(parked)),
            format!("see `outgrow sync conflicts {slice}`, then `outgrow sync repair {slice}`"),
        )
    } else if conflicts > 0 {
        (
            format!("{} rows changed on both sides are held", count(conflicts)),
            format!("see `outgrow sync conflicts {slice}`, then `outgrow sync settle {slice}`"),
        )
    } else {
        return gate("link", "runs".to_owned(), limit, Verdict::Ok, String::new());
    };
    gate("link", value, limit, Verdict::Fails, hint)
}

pub(super) fn lag(asked: &Asked<'_>) -> GateResult {
    let limit = format!("at most {}", duration(asked.plan.lag_max));
    let Some(sync) = &asked.evidence.sync else {
        return sync_missing("lag", limit);
    };
    let direction = format!("{} to {}", sync.source, sync.source.other());
    lag_of("lag", sync.lag_ms, sync, &direction, asked, limit)
}

pub(super) fn reverse_path(asked: &Asked<'_>) -> GateResult {
    let limit = format!("a heartbeat within {}", duration(asked.plan.lag_max));
    let Some(sync) = &asked.evidence.sync else {
        return sync_missing("reverse path", limit);
    };
    let direction = format!("{} to {}", sync.source.other(), sync.source);
    lag_of(
        "reverse path",
        sync.reverse_lag_ms,
        sync,
        &direction,
        asked,
        limit,
    )
}

fn lag_of(
    name: &str,
    lag_ms: Option<u64>,
    sync: &SyncEvidence,
    direction: &str,
    asked: &Asked<'_>,
    limit: String,
) -> GateResult {
    let Some(lag_ms) = lag_ms else {
        let hint = format!("no heartbeat has crossed from {direction} yet; wait some seconds");
        return gate(
            name,
            "no heartbeat yet".to_owned(),
            limit,
            Verdict::Missing,
            hint,
        );
    };
    let fits = u128::from(lag_ms) <= asked.plan.lag_max.as_millis();
    let hint = format!(
        "{} changes wait from {direction}; see `outgrow sync status {}`",
        count(sync.backlog),
        asked.slice
    );
    // It passes with time; a link that stands is told by its own gate.
    let verdict = if fits { Verdict::Ok } else { Verdict::Missing };
    gate(name, millis(lag_ms), limit, verdict, hint)
}

pub(super) fn rows_verified(asked: &Asked<'_>) -> GateResult {
    let name = "rows verified";
    let max_age = asked.plan.verified_max_age;
    let limit = format!("0 differ, at most {} ago", duration(max_age));
    let sync = asked.evidence.sync.as_ref();
    let Some((rows, age)) = sync.and_then(|s| s.verified.as_ref().zip(s.verified_age_ms)) else {
        let hint = format!(
            "a verification runs; see `outgrow sync status {}`",
            asked.slice
        );
        return gate(name, "never".to_owned(), limit, Verdict::Missing, hint);
    };
    let different: u64 = rows.values().map(|table| table.different).sum();
    let legacy: u64 = rows.values().map(|table| table.legacy).sum();
    let value = format!(
        "{} of {} differ, {} ago",
        count(different),
        count(legacy),
        millis(age)
    );
    if different > 0 {
        let worst = rows
            .iter()
            .max_by_key(|(_, table)| table.different)
            .map_or("", |(name, _)| name.as_str());
        let hint = format!(
            "table `{worst}` differs most; see them with `outgrow sync verify {0}`, mend them \
             with `outgrow sync repair {0}`",
            asked.slice
        );
        return gate(name, value, limit, Verdict::Fails, hint);
    }
    let verdict = if u128::from(age) <= max_age.as_millis() {
        Verdict::Ok
    } else {
        Verdict::Missing
    };
    let hint = "the last verification is too old; a new one runs".to_owned();
    gate(name, value, limit, verdict, hint)
}

pub(super) fn foreign_writes(asked: &Asked<'_>) -> GateResult {
    let name = "foreign writes";
    let quiet = asked.plan.quiet;
    let limit = format!("none for {}", duration(quiet));
    let Some(sync) = &asked.evidence.sync else {
        return sync_missing(name, limit);
    };
    let quiet_ms = u64::try_from(quiet.as_millis()).unwrap_or(u64::MAX);
    let last = sync
        .last_foreign
        .as_deref()
        .unwrap_or("by an unknown writer");
    let passive = sync.source.other();
    match sync.foreign_write_age_ms {
        Some(age) if age < quiet_ms => {
            let value = format!(
                "{}, the last {} ago",
                count(sync.foreign_writes),
                millis(age)
            );
            let hint = format!(
                "something writes the {passive} tables past the proxy ({last}); find and stop \
                 it, see `outgrow sync conflicts {}`",
                asked.slice
            );
            gate(name, value, limit, Verdict::Fails, hint)
        }
        Some(age) => {
            let value = format!("none for {}", millis(age));
            gate(name, value, limit, Verdict::Ok, String::new())
        }
        None => {
            // Silence counts only for as long as somebody listened.
            let watched = asked.evidence.in_stage_ms;
            let value = format!("none in {}", millis(watched));
            let verdict = if watched >= quiet_ms {
                Verdict::Ok
            } else {
                Verdict::Missing
            };
            let hint = format!("wait {} more", millis(quiet_ms.saturating_sub(watched)));
            gate(name, value, limit, verdict, hint)
        }
    }
}

/// Silence is no proof, for what comes while the proxy is busy is not found. It says more the longer it is.
pub(super) fn bypass(asked: &Asked<'_>) -> GateResult {
    let name = "writes past the proxy";
    let quiet = asked.plan.quiet;
    let limit = format!("none seen for {}", duration(quiet));
    let quiet_ms = u64::try_from(quiet.as_millis()).unwrap_or(u64::MAX);
    let Some(found) = &asked.evidence.bypass else {
        let hint = "nobody has looked yet; the link must run".to_owned();
        return gate(name, "unknown".to_owned(), limit, Verdict::Missing, hint);
    };
    match found.last.as_ref().zip(found.last_age_ms) {
        Some((last, age)) if age < quiet_ms => {
            let value = format!("{}, the last {} ago", count(found.rows), millis(age));
            let hint = format!(
                "{} was changed by something else ({}); the fence will refuse it: move it, or its \
                 route, see `outgrow journal --slice {}`",
                last.row,
                last.suspects(),
                asked.slice
            );
            gate(name, value, limit, Verdict::Fails, hint)
        }
        last => {
            let age = last.map_or(found.watched_ms, |(_, age)| age);
            let verdict = if age >= quiet_ms {
                Verdict::Ok
            } else {
                Verdict::Missing
            };
            let hint = format!("wait {} more", millis(quiet_ms.saturating_sub(age)));
            gate(
                name,
                format!("none in {}", millis(age)),
                limit,
                verdict,
                hint,
            )
        }
    }
}
