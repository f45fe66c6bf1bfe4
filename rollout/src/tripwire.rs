//! Whether mirrored requests write: a read that changes a row of the side that only follows.
//!
//! While every answer comes from the side that takes the writes, the other side is asked by the
//! shadow alone, and its mapped tables are the bridge's alone. A row there that somebody else has
//! changed was most likely changed by a mirrored request. Which one, no database says; but when it
//! was changed, and so which routes were being asked then. Those are stopped. If none of them did
//! it, the next row stops further ones, until the guilty one is among them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::evidence::SyncEvidence;
use crate::ids::Side;
use crate::state::{SliceState, Traffic};

/// Milliseconds by which a time that a database tells may be wrong, and by which a server may write
/// before its request or after its answer is noted as such.
const ALLOWANCE_MS: i64 = 250;

/// A row that should not have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trip {
    pub row: String,
    /// When it was changed, in Unix milliseconds.
    at_ms: Option<(i64, i64)>,
    /// Of how many rows it is the last one.
    pub writes: u64,
}

/// What is to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// These routes, for this reason.
    Routes(BTreeSet<String>, String),
    /// All of the slice.
    Slice(String),
    /// Nothing more: a route that is stopped by now was under way then.
    Known,
}

/// The row, where something is to stop. `mirrored` is for how long the slice has been, in this
/// stage; `known` is the number of rows that were seen to before.
#[must_use]
pub fn tripped(
    state: &SliceState,
    sync: &SyncEvidence,
    mirrored: Duration,
    known: u64,
) -> Option<Trip> {
    let asked_alone = matches!(
        (state.traffic, state.writer),
        (Traffic::Shadow, Side::Legacy) | (Traffic::Extracted, Side::Extracted)
    );
    if !asked_alone || state.unmirrored.is_some() || sync.source != state.writer {
        return None;
    }
    // Counts outlive restarts and stages; what counts is whether it came while this one asked.
    let age = Duration::from_millis(sync.foreign_write_age_ms?);
    if sync.foreign_writes == 0 || sync.foreign_writes == known || age >= mirrored {
        return None;
    }
    let row = sync.last_foreign.as_deref().unwrap_or("a row");
    Some(Trip {
        row: row.to_owned(),
        at_ms: sync.foreign_between_ms,
        writes: sync.foreign_writes,
    })
}

impl Trip {
    /// When the request that did it was under way, at some moment; `None` where nobody knows.
    #[must_use]
    pub fn between(&self) -> Option<RangeInclusive<i64>> {
        let (from, to) = self.at_ms?;
        Some(from.saturating_sub(ALLOWANCE_MS)..=to.saturating_add(ALLOWANCE_MS))
    }

    /// What is to stop, where copies of these routes were under way [then](Self::between); `None`
    /// where nobody knows of which. `stopped` are those that are stopped already.
    #[must_use]
    pub fn stops(
        &self,
        asked: Option<&BTreeSet<String>>,
        stopped: &BTreeMap<String, String>,
    ) -> Stop {
        let what = format!(
            "tripwire: {} was changed by something other than the bridge while reads",
            self.row
        );
        let Some(asked) = asked else {
            let why = "nobody knows any more which were under way then";
            return Stop::Slice(format!("{what} were mirrored; {why}"));
        };
        if asked.iter().any(|route| stopped.contains_key(route)) {
            return Stop::Known;
        }
        if asked.is_empty() {
            let why = "no route that is mirrored was under way then";
            return Stop::Slice(format!("{what} were mirrored; {why}"));
        }
        let routes: Vec<String> = asked.iter().map(|route| format!("`{route}`")).collect();
        let reason = format!("{what} of {} were under way", routes.join(", "));
        Stop::Routes(asked.clone(), reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync(foreign: u64, age_ms: u64) -> SyncEvidence {
        SyncEvidence {
            source: Side::Legacy,
            copied_rows: 0,
            total_rows: 0,
            applied_rows: 0,
            copied: true,
            lag_ms: None,
            reverse_lag_ms: None,
            backlog: 0,
            backlog_bytes: 0,
            parked: 0,
            conflicts: 0,
            foreign_writes: foreign,
            foreign_write_age_ms: Some(age_ms),
            foreign_between_ms: Some((10_000, 10_999)),
            last_foreign: Some("extracted `product` key 7 (U)".to_owned()),
            verified: None,
            verified_age_ms: None,
            log_kept_bytes: BTreeMap::new(),
            log_limit_bytes: 0,
            noted_bytes: BTreeMap::new(),
            noted_limit_bytes: 0,
            load: BTreeMap::new(),
        }
    }

    #[test]
    fn a_write_that_is_new_trips_where_only_the_shadow_asks() {
        let mirrored = Duration::from_secs(10);
        let mut state = SliceState::new(true);
        state.traffic = Traffic::Shadow;
        let found = tripped(&state, &sync(4, 100), mirrored, 0).unwrap();
        assert_eq!(found, trip(Some((10_000, 10_999)), 4));
        let none = |state: &SliceState, sync: &SyncEvidence, known, why: &str| {
            assert_eq!(tripped(state, sync, mirrored, known), None, "{why}");
        };
        none(&state, &sync(4, 100), 4, "seen to before");
        assert!(tripped(&state, &sync(5, 100), mirrored, 4).is_some());
        none(&state, &sync(0, 100), 0, "nothing");
        none(&state, &sync(4, 10_000), 0, "older than that");
        let mut from_there = sync(4, 100);
        from_there.source = Side::Extracted;
        none(&state, &from_there, 0, "the link turns");
        for (traffic, writer, source, trips) in [
            (Traffic::Legacy, Side::Legacy, Side::Legacy, false),
            // Clients are answered by that side, too, and may write in their reads.
            (Traffic::Extracted, Side::Legacy, Side::Legacy, false),
            (Traffic::Extracted, Side::Extracted, Side::Extracted, true),
        ] {
            let state = SliceState {
                traffic,
                writer,
                ..state.clone()
            };
            let mut seen = sync(4, 100);
            seen.source = source;
            let found = tripped(&state, &seen, mirrored, 0);
            assert_eq!(found.is_some(), trips, "{traffic}");
        }
        let routes = BTreeMap::from([("GET /a".to_owned(), "known".to_owned())]);
        state.unmirrored_routes = routes;
        assert!(tripped(&state, &sync(4, 100), mirrored, 0).is_some());
        state.unmirrored = Some("known".to_owned());
        none(&state, &sync(4, 100), 0, "stopped already");
    }

    fn trip(at_ms: Option<(i64, i64)>, writes: u64) -> Trip {
        Trip {
            row: "extracted `product` key 7 (U)".to_owned(),
            at_ms,
            writes,
        }
    }

    fn set(routes: &[&str]) -> BTreeSet<String> {
        routes.iter().map(|route| (*route).to_owned()).collect()
    }

    #[test]
    fn a_request_may_be_noted_a_little_beside_its_row() {
        assert_eq!(trip(None, 1).between(), None);
        let exact = trip(Some((10_123, 10_123)), 1);
        assert_eq!(exact.between(), Some(9_873..=10_373));
        let second = trip(Some((10_000, 10_999)), 1);
        assert_eq!(second.between(), Some(9_750..=11_249));
        assert!(trip(Some((i64::MIN, i64::MAX)), 1).between().is_some());
    }

    #[track_caller]
    fn check(asked: Option<&[&str]>, stopped: &[&str], expected: Result<&[&str], &str>) {
        let because = |route: &&str| ((*route).to_owned(), "suspect".to_owned());
        let stopped = stopped.iter().map(because).collect();
        let asked = asked.map(set);
        match (trip(None, 1).stops(asked.as_ref(), &stopped), expected) {
            (Stop::Routes(routes, reason), Ok(expected)) => {
                assert_eq!(routes, set(expected));
                assert!(reason.contains("`product` key 7 (U)"), "{reason}");
                for route in routes {
                    assert!(reason.contains(&format!("`{route}`")), "{reason}");
                }
            }
            (Stop::Slice(reason), Err(why)) => {
                assert!(reason.contains("`product` key 7 (U)"), "{reason}");
                assert!(reason.contains(why), "{reason}");
            }
            (Stop::Known, Ok([])) => {}
            (other, _) => panic!("{asked:?} beside {stopped:?}: {other:?}"),
        }
    }

    #[test]
    fn what_was_under_way_is_stopped_and_else_the_slice() {
        let two: &[&str] = &["GET /a", "GET /b"];
        check(Some(two), &[], Ok(two));
        // It was not that one, or not that one alone.
        check(Some(&["GET /b"]), &["GET /a"], Ok(&["GET /b"]));
        // It was under way still when it was stopped: nobody else is suspected.
        check(Some(two), &["GET /a"], Ok(&[]));
        for stopped in [&[][..], two] {
            check(Some(&[]), stopped, Err("no route that is mirrored"));
            check(None, stopped, Err("nobody knows"));
        }
    }
}
