//! What a link knows of itself, for evidence and for people. Written by the worker, read by
//! anybody; never waits for a database.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use outgrow_rollout::{Side, SyncEvidence, TableRows};
use serde_json::{Value, json};

use crate::both::Carried;
use crate::db::{Over, now_ms};
use crate::guard::{Kind, is_pressing};
use crate::load::Seen;
use crate::moments::{Moments, between};
use crate::pace::Wait;
use crate::scan::{LastVerify, Verifying};
use crate::spec::Limits;
use crate::verify::VerifyReport;

#[derive(Debug, Clone, Default)]
pub(crate) struct TableProgress {
    pub(crate) legacy: String,
    pub(crate) extracted: Vec<String>,
    pub(crate) done: bool,
    pub(crate) copied: u64,
    pub(crate) total: u64,
    /// Of the rows that are read again because they are mapped otherwise now: so many of so many.
    pub(crate) again: Option<(u64, u64)>,
    /// Rows written by following since this process began.
    pub(crate) applied: u64,
    /// When this process began to copy the table, and what was there already.
    pub(crate) began: Option<(Instant, u64)>,
    pub(crate) ended: Option<Instant>,
}

impl TableProgress {
    /// So many rows of so many are there as they are mapped now.
    fn carried(&self) -> (u64, u64) {
        self.again
            .unwrap_or((self.copied, self.total.max(self.copied)))
    }

    fn state(&self) -> &'static str {
        match (self.done, self.again, self.began) {
            (true, Some(_), _) => "reading again",
            (true, None, _) => "copied",
            (false, _, Some(_)) => "copying",
            (false, _, None) => "waiting",
        }
    }

    fn rate(&self) -> Option<u64> {
        let (began, before) = self.began?;
        let until = self.ended.unwrap_or_else(Instant::now);
        let millis = u64::try_from(until.duration_since(began).as_millis()).ok()?;
        let rows = self.copied.saturating_sub(before);
        rows.saturating_mul(1_000).checked_div(millis)
    }

    /// How long the copy takes from here at this rate.
    fn seconds_left(&self, rate: Option<u64>) -> Option<u64> {
        let left = self.total.saturating_sub(self.copied);
        left.checked_div(rate.filter(|_| !self.done)?)
    }
}

/// A heartbeat that crossed a direction: when it began, and how long it took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crossing {
    pub(crate) beat_ms: i64,
    took_ms: i64,
    /// Of a clock that nobody sets: silence must be told from a jump of the other one.
    came: Instant,
}

impl Crossing {
    /// A heartbeat that came now, after so long; where that is not known, by its time of day.
    pub(crate) fn of(beat_ms: i64, took: Option<Duration>, now_ms: i64) -> Self {
        let by_clock = now_ms.saturating_sub(beat_ms).max(0);
        let took = took.map(|took| i64::try_from(took.as_millis()).unwrap_or(i64::MAX));
        Self {
            beat_ms,
            took_ms: took.unwrap_or(by_clock),
            came: Instant::now(),
        }
    }

    /// The lag now: the last crossing, or the silence since if that is longer than usual.
    fn lag_ms(self, interval_ms: i64) -> u64 {
        let silence = i64::try_from(self.came.elapsed().as_millis()).unwrap_or(i64::MAX);
        let lag = self.took_ms.max(silence.saturating_sub(interval_ms));
        u64::try_from(lag).unwrap_or(0)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub(crate) source: Side,
    pub(crate) interval_ms: i64,
    pub(crate) running: bool,
    pub(crate) tables: Vec<TableProgress>,
    pub(crate) copied: bool,
    /// What the backfill waits for.
    pub(crate) copy_waits: Option<Wait>,
    pub(crate) applied: i64,
    pub(crate) backlog: u64,
    pub(crate) backlog_bytes: u64,
    /// What was applied last is a part of a transaction, or may be, although they are to be whole.
    pub(crate) in_parts: bool,
    pub(crate) crossed: Option<Crossing>,
    pub(crate) crossed_back: Option<Crossing>,
    /// The newest heartbeat applied, also one applied by an earlier process.
    pub(crate) beat_ms: Option<i64>,
    pub(crate) parked: u64,
    pub(crate) foreign: u64,
    pub(crate) refused: u64,
    /// When that was, by the clock of its database.
    pub(crate) foreign_at: Option<i64>,
    /// By how much that clock was ahead of ours then.
    pub(crate) foreign_ahead_ms: i64,
    pub(crate) last_foreign: Option<String>,
    /// When the source's rows changed.
    pub(crate) moments: Moments,
    pub(crate) verified: Option<(BTreeMap<String, TableRows>, Instant)>,
    /// A verification that runs, and what the last one was.
    pub(crate) verifying: Option<Verifying>,
    pub(crate) last_verify: Option<LastVerify>,
    /// What the worker waits for, e.g. a lock.
    pub(crate) trouble: Option<String>,
    pub(crate) failed: Option<String>,
    pub(crate) kept: Kept,
    pub(crate) load: Seen,
    pub(crate) both: BothWays,
}

/// Bytes that the databases keep for the link.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    /// Of their logs.
    log: BTreeMap<Side, u64>,
    /// Of changes that are not applied.
    noted: BTreeMap<Side, u64>,
    /// What they may keep of either.
    limits: (u64, u64),
    /// The fewest changes that were seen of a side that has too many, and how many looks ago.
    fewest: BTreeMap<Side, (u64, u32)>,
    /// What the last look at each side has found, on record or about to be.
    found: BTreeMap<Side, Over>,
    /// Why a side could not be asked.
    troubles: BTreeMap<Side, String>,
    /// A limit that was passed: the link is parked.
    pub(crate) over: Option<Over>,
}

impl Kept {
    /// Notes what there is now. What there was before.
    pub(crate) fn note(&mut self, side: Side, of: Kind, bytes: u64) -> Option<u64> {
        match of {
            Kind::Log => self.log.insert(side, bytes),
            Kind::Changes => {
                if bytes <= self.limits.1 {
                    self.fewest.remove(&side);
                }
                self.noted.insert(side, bytes)
            }
        }
    }

    /// A side has nothing of the link's.
    pub(crate) fn forget(&mut self, side: Side) {
        self.log.remove(&side);
        self.noted.remove(&side);
        self.fewest.remove(&side);
    }

    /// Takes up what a look has found. What there is of either side.
    pub(crate) fn found(&mut self, side: Side, over: Option<Over>) -> Option<Over> {
        match over {
            Some(over) => self.found.insert(side, over),
            None => self.found.remove(&side),
        };
        over.or(self.found.values().next().copied())
    }

    /// Of a side that has too many changes: so many looks ago it had fewer than ever since, or had few.
    pub(crate) fn looks_since_fewer(&mut self, side: Side, bytes: u64) -> u32 {
        let (fewest, looks) = self.fewest.entry(side).or_insert((bytes, 0));
        if bytes < *fewest {
            (*fewest, *looks) = (bytes, 0);
        } else {
            *looks += 1;
        }
        *looks
    }

    /// Whether a side was last not asked for this reason.
    pub(crate) fn is_trouble(&self, side: Side, why: &str) -> bool {
        self.troubles.get(&side).is_some_and(|known| known == why)
    }

    pub(crate) fn trouble(&mut self, side: Side, why: Option<String>) {
        match why {
            Some(why) => self.troubles.insert(side, why),
            None => self.troubles.remove(&side),
        };
    }

    fn is_known(&self) -> bool {
        !(self.log.is_empty() && self.noted.is_empty())
    }

    /// Whether it is so much that a backfill waits.
    pub(crate) fn presses(&self, limits: &Limits) -> Option<Wait> {
        let press =
            |kept: &BTreeMap<Side, u64>, limit| kept.values().any(|kept| is_pressing(*kept, limit));
        let much = press(&self.log, limits.log_bytes) || press(&self.noted, limits.noted_bytes);
        much.then_some(Wait::Kept)
    }
}

/// Of writes on both sides.
#[derive(Debug, Clone, Default)]
pub(crate) struct BothWays {
    /// Conflicts that wait for a person, and all that ever were.
    pub(crate) open: u64,
    pub(crate) conflicts: u64,
    /// Rows of the passive side that the source refuses.
    pub(crate) parked: u64,
    /// What was carried from the passive side to the source.
    pub(crate) carried: Carried,
}

/// A write of the passive side.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LastForeign {
    /// By our clock.
    between: (i64, i64),
    what: Option<String>,
}

impl LastForeign {
    /// `at` is by a clock that is so far ahead.
    fn of(at: i64, ahead: i64, what: Option<String>) -> Self {
        let between = between(at, ahead);
        Self { between, what }
    }
}

impl Status {
    /// Nothing waits any more.
    pub(crate) fn caught_up(&mut self) {
        (self.backlog, self.backlog_bytes, self.in_parts) = (0, 0, false);
    }

    pub(crate) fn new(source: Side, interval_ms: i64) -> Self {
        Self {
            source,
            interval_ms,
            running: false,
            tables: Vec::new(),
            copied: false,
            copy_waits: None,
            applied: 0,
            backlog: 0,
            backlog_bytes: 0,
            in_parts: false,
            crossed: None,
            crossed_back: None,
            beat_ms: None,
            parked: 0,
            foreign: 0,
            refused: 0,
            foreign_at: None,
            foreign_ahead_ms: 0,
            last_foreign: None,
            moments: Moments::default(),
            verified: None,
            verifying: None,
            last_verify: None,
            trouble: None,
            failed: None,
            kept: Kept::default(),
            load: Seen::default(),
            both: BothWays::default(),
        }
    }

    /// As it was before the link was started.
    pub(crate) fn anew(&self) -> Self {
        let mut fresh = Self::new(self.source, self.interval_ms);
        fresh.kept.limits = self.kept.limits;
        fresh
    }

    /// With what databases may keep.
    pub(crate) fn within(mut self, limits: &Limits) -> Self {
        self.kept.limits = (limits.log_bytes, limits.noted_bytes);
        self
    }

    /// Whether anything is known of the link.
    pub(crate) fn is_known(&self) -> bool {
        !self.tables.is_empty() || self.kept.is_known()
    }

    /// How far the target is behind, once a heartbeat has crossed.
    pub(crate) fn lag_ms(&self) -> Option<u64> {
        self.crossed.map(|c| c.lag_ms(self.interval_ms))
    }

    pub(crate) fn evidence(&self) -> SyncEvidence {
        let (verified, age) = match &self.verified {
            Some((rows, at)) => (
                Some(rows.clone()),
                u64::try_from(at.elapsed().as_millis()).ok(),
            ),
            None => (None, None),
        };
        let last = self.last_foreign();
        SyncEvidence {
            source: self.source,
            copied_rows: self.tables.iter().map(|t| t.carried().0).sum(),
            total_rows: self.tables.iter().map(|t| t.carried().1).sum(),
            applied_rows: self.tables.iter().map(|t| t.applied).sum(),
            copied: self.copied && self.tables.iter().all(|t| t.again.is_none()),
            lag_ms: self.lag_ms(),
            reverse_lag_ms: self.crossed_back.map(|c| c.lag_ms(self.interval_ms)),
            backlog: self.backlog,
            backlog_bytes: self.backlog_bytes,
            parked: self.parked + self.both.parked,
            conflicts: self.both.open,
            foreign_writes: self.foreign + self.refused + self.both.carried.rows,
            // One that is to come by a clock that was set back is of now.
            foreign_write_age_ms: last
                .as_ref()
                .map(|l| u64::try_from(now_ms().saturating_sub(l.between.0)).unwrap_or(0)),
            foreign_between_ms: last.as_ref().map(|l| l.between),
            last_foreign: last.and_then(|l| l.what),
            verified,
            verified_age_ms: age,
            log_kept_bytes: self.kept.log.clone(),
            log_limit_bytes: self.kept.limits.0,
            noted_bytes: self.kept.noted.clone(),
            noted_limit_bytes: self.kept.limits.1,
            load: self.load.of_now(),
        }
    }

    /// The newest write of the passive side, carried over or not.
    fn last_foreign(&self) -> Option<LastForeign> {
        let carried = &self.both.carried;
        let passive = self.source.other();
        let carried = carried.at_ms.map(|at| {
            let what = format!("{passive} `{}` (carried over)", carried.table);
            LastForeign::of(at, self.foreign_ahead_ms, Some(what))
        });
        let noted = self
            .foreign_at
            .map(|at| LastForeign::of(at, self.foreign_ahead_ms, self.last_foreign.clone()));
        carried.max(noted)
    }

    /// Takes up what a verification found at some time. A sample without a difference says nothing
    /// of the other rows; one with differences refutes what was known.
    pub(crate) fn note_verified(&mut self, report: &VerifyReport, at: Instant) {
        self.last_verify = Some(LastVerify::of(report));
        if report.share.is_none() {
            self.verified = Some((report.tables.clone(), at));
        } else if report.different > 0 {
            let (mut rows, at) = self
                .verified
                .take()
                .unwrap_or_else(|| (BTreeMap::new(), at));
            for (name, found) in &report.tables {
                let known = rows.entry(name.clone()).or_insert(*found);
                known.different = known.different.max(found.different);
            }
            self.verified = Some((rows, at));
        }
    }

    fn describe_verify(&self) -> Value {
        let total = self.tables.iter().map(|t| t.total.max(t.copied)).sum();
        json!({
            "running": self.verifying.as_ref().map(|v| v.describe(total)),
            "last": self.last_verify,
        })
    }

    fn state(&self) -> &'static str {
        match (&self.failed, self.running, self.copied) {
            (Some(_), _, _) => "failed",
            (None, false, _) => "paused",
            (None, true, false) => "copying",
            (None, true, true) if self.source == Side::Legacy => "following",
            (None, true, true) => "reversed",
        }
    }

    pub(crate) fn describe(&self) -> Value {
        let tables: Vec<Value> = self
            .tables
            .iter()
            .map(|t| {
                let rate = t.rate();
                json!({
                    "legacy": t.legacy,
                    "extracted": t.extracted,
                    "state": t.state(),
                    "total": t.total.max(t.copied),
                    "copied": t.copied,
                    "read_again": t.again.map(|(read, total)| json!({"rows": read, "of": total})),
                    "rows_per_second": rate,
                    "seconds_left": t.seconds_left(rate),
                    "applied": t.applied,
                })
            })
            .collect();
        let evidence = self.evidence();
        json!({
            "state": self.state(),
            "source": self.source,
            "tables": tables,
            "position": self.applied,
            "lag_ms": evidence.lag_ms,
            "reverse_lag_ms": evidence.reverse_lag_ms,
            "backlog": self.backlog,
            "backlog_bytes": self.backlog_bytes,
            "in_parts": self.in_parts,
            "parked": evidence.parked,
            "conflicts": {"open": self.both.open, "ever": self.both.conflicts},
            "carried_back": self.both.carried.rows,
            "foreign_writes": self.foreign,
            "refused_writes": self.refused,
            "log_kept_bytes": self.kept.log,
            "noted_bytes": self.kept.noted,
            "load": evidence.load,
            "verify": self.describe_verify(),
            "copy_waits_for": self.copy_waits.map(|wait| wait.to_string()),
            "waiting_for": self.trouble,
            "failed": self.failed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_write_is_told_by_our_clock() {
        let told = |at, ahead| LastForeign::of(at, ahead, None).between;
        assert_eq!(told(10_123, 0), (10_123, 10_123));
        assert_eq!(told(10_123, 4_000), (6_123, 6_123));
        assert_eq!(told(10_123, -40), (10_163, 10_163));
        // Whole seconds are those of that clock.
        assert_eq!(told(10_000, 40), (9_960, 10_959));
        let mut status = Status::new(Side::Legacy, 150);
        assert_eq!(status.evidence().foreign_write_age_ms, None);
        // A database an hour ahead.
        let hour = 3_600_000;
        status.foreign_at = Some(now_ms() + hour - 60_000);
        status.foreign_ahead_ms = hour;
        let age = status.evidence().foreign_write_age_ms.unwrap_or(0);
        assert!((60_000..120_000).contains(&age), "{age}");
        status.foreign_ahead_ms = 0;
        assert_eq!(status.evidence().foreign_write_age_ms, Some(0));
    }

    #[test]
    fn a_clock_that_jumps_hides_no_silence() {
        let hour = 3_600_000;
        let now = now_ms();
        // The clock was set back an hour since the heartbeat began, or forward.
        let ahead = Crossing::of(now + hour, None, now);
        let behind = Crossing::of(now - hour, None, now);
        assert_eq!(ahead.lag_ms(150), 0);
        assert!(
            behind.lag_ms(150) >= 3_600_000,
            "another process's, until the next one comes"
        );
        let ours = Crossing::of(now - hour, Some(Duration::from_millis(20)), now);
        assert!(
            (20..1_000).contains(&ours.lag_ms(150)),
            "it is known how long it took"
        );
        // Nothing has come for a minute.
        let came = Instant::now().checked_sub(Duration::from_mins(1));
        let silent = Crossing {
            came: came.expect("the machine is up for longer"),
            ..ahead
        };
        assert!((59_000..=61_000).contains(&silent.lag_ms(150)));
    }
}
