//! Who else writes: rows of the side that takes the writes, changed while no write of the slice was
//! on its way through the proxy.
//!
//! A job that writes the tables by itself, or another page of the monolith, goes on unseen until the
//! cutover; then the fence refuses it. No database says who has written. But each change has a
//! time, and the proxy knows when it carried writes: a change outside of all of them came another way.
//! What comes another way while the proxy is busy is not found, so silence is no proof.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::ids::Side;

/// Milliseconds by which a time that a database tells may be wrong, and by which a server may write
/// before its request or after its answer is noted as such.
const ALLOWANCE_MS: i64 = 100;

/// Requests that belong to no slice, among [`UnderWay::others`].
pub const NO_SLICE: &str = "no slice";

/// Rows that changed at about one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Between which moments, in Unix milliseconds by the clock of the process: databases may tell whole
    /// seconds only.
    pub between: (i64, i64),
    /// At least 1.
    pub rows: u64,
    /// One of them, for people.
    pub row: String,
}

/// Which writes were on their way through the proxy at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// One of the slice itself.
    pub own: bool,
    /// Other slices of which one was, or [`NO_SLICE`].
    pub others: BTreeSet<String>,
}

/// What is known of rows that were changed by something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bypass {
    /// The side that takes the writes, and is watched.
    pub side: Side,
    /// Since when, in Unix milliseconds.
    pub since_ms: i64,
    /// Changes that were looked at.
    pub judged: u64,
    /// Of these, those that came while no write of the slice was on its way.
    pub rows: u64,
    pub last: Option<Bypassed>,
}

/// A row that was changed by something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bypassed {
    pub row: String,
    /// In Unix milliseconds.
    pub at_ms: i64,
    /// Whose writes were on their way then: other slices, or [`NO_SLICE`].
    pub others: BTreeSet<String>,
}

/// The same at one moment, for the gates and for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BypassEvidence {
    /// For how long somebody has looked.
    pub watched_ms: u64,
    pub judged: u64,
    pub rows: u64,
    pub last: Option<Bypassed>,
    /// Milliseconds since the last.
    pub last_age_ms: Option<u64>,
}

impl Changed {
    /// When a request that did it was under way, at some moment.
    #[must_use]
    pub fn window(&self) -> RangeInclusive<i64> {
        let (from, to) = self.between;
        from.saturating_sub(ALLOWANCE_MS)..=to.saturating_add(ALLOWANCE_MS)
    }
}

impl Bypass {
    #[must_use]
    pub const fn new(side: Side, now_ms: i64) -> Self {
        Self {
            side,
            since_ms: now_ms,
            judged: 0,
            rows: 0,
            last: None,
        }
    }

    /// Takes up what changed; `true` where it came another way. `under_way` is what was
    /// [then](Changed::window); `None` where nobody knows, which counts for nothing.
    pub fn judge(&mut self, changed: &Changed, under_way: Option<&UnderWay>) -> bool {
        let Some(under_way) = under_way else {
            return false;
        };
        self.judged = self.judged.saturating_add(changed.rows);
        if under_way.own {
            return false;
        }
        self.rows = self.rows.saturating_add(changed.rows);
        self.last = Some(Bypassed {
            row: changed.row.clone(),
            at_ms: changed.between.0,
            others: under_way.others.clone(),
        });
        true
    }
}

impl Bypass {
    #[must_use]
    pub fn seen(&self, now_ms: i64) -> BypassEvidence {
        let age = |then: i64| u64::try_from(now_ms.saturating_sub(then)).unwrap_or(0);
        BypassEvidence {
            watched_ms: age(self.since_ms),
            judged: self.judged,
            rows: self.rows,
            last: self.last.clone(),
            last_age_ms: self.last.as_ref().map(|last| age(last.at_ms)),
        }
    }
}

impl Bypassed {
    /// What it may have been, for people.
    #[must_use]
    pub fn suspects(&self) -> String {
        let names = self.others.iter().map(|name| match name.as_str() {
            NO_SLICE => "a request of no slice".to_owned(),
            slice => format!("slice `{slice}`"),
        });
        let names: Vec<String> = names.collect();
        match names.is_empty() {
            true => "no write was on its way through the proxy then".to_owned(),
            false => format!("on their way then: writes of {}", names.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(at: i64, rows: u64) -> Changed {
        Changed {
            between: (at, at),
            rows,
            row: "legacy `orders` key 7 (U)".to_owned(),
        }
    }

    fn under_way(own: bool, others: &[&str]) -> UnderWay {
        UnderWay {
            own,
            others: others.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn what_comes_while_nothing_of_the_slice_is_carried_came_another_way() {
        let mut bypass = Bypass::new(Side::Legacy, 5);
        assert!(!bypass.judge(&changed(10, 3), Some(&under_way(true, &["no slice"]))));
        assert!(!bypass.judge(&changed(20, 100), None), "nobody knows");
        assert_eq!((bypass.judged, bypass.rows), (3, 0));
        assert!(bypass.judge(&changed(30, 2), Some(&under_way(false, &[]))));
        let found = bypass.last.clone().unwrap();
        assert_eq!((found.at_ms, bypass.judged, bypass.rows), (30, 5, 2));
        assert_eq!(
            found.suspects(),
            "no write was on its way through the proxy then"
        );
        assert!(bypass.judge(&changed(40, 1), Some(&under_way(false, &["a", NO_SLICE]))));
        let found = bypass.last.unwrap();
        assert_eq!((found.at_ms, bypass.rows), (40, 3));
        assert_eq!(
            found.suspects(),
            "on their way then: writes of slice `a`, a request of no slice"
        );
    }

    #[test]
    fn a_window_is_wider_than_what_was_told() {
        assert_eq!(changed(1_000, 1).window(), 900..=1_100);
        let far = Changed {
            between: (i64::MIN, i64::MAX),
            ..changed(0, 1)
        };
        assert_eq!(far.window(), i64::MIN..=i64::MAX);
    }
}
