//! How fast a scan goes, which strides it takes, and what is shown of it meanwhile.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::{Found, VerifyOptions};
use crate::db::now_ms;
use crate::error::Error;
use crate::load::Busy;
use crate::shared::Shared;
use crate::verify::VerifyReport;

/// Of its time, how much a gentle scan leaves to others: three parts of four.
const REST: u32 = 3;
/// Changes that may wait while a gentle scan goes on.
const BACKLOG: u64 = 1_000;
/// Between two looks whether they still wait.
const LOOK: Duration = Duration::from_millis(200);

/// Which strides of a table a sample takes: one of each so many, at random, and one at the least.
#[derive(Debug)]
pub(super) struct Picker {
    every: u64,
    at: u64,
    chosen: u64,
    dice: u64,
    taken: bool,
}

impl Picker {
    pub(super) fn new(share: Option<f64>) -> Self {
        Self::seeded(share, RandomState::new().build_hasher().finish())
    }

    fn seeded(share: Option<f64>, seed: u64) -> Self {
        let mut picker = Self {
            every: share.map_or(1, every),
            at: 0,
            chosen: 0,
            dice: seed | 1,
            taken: false,
        };
        picker.choose();
        picker
    }

    fn choose(&mut self) {
        // Marsaglia's xorshift: enough to choose fairly.
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.chosen = self.dice % self.every;
    }

    /// Whether the next stride is one of them.
    pub(super) fn takes(&mut self, last: bool) -> bool {
        let takes = self.at == self.chosen || (last && !self.taken);
        self.taken |= takes;
        self.at += 1;
        if self.at == self.every {
            self.at = 0;
            self.choose();
        }
        takes
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // At least 1; saturates.
fn every(share: f64) -> u64 {
    (1.0 / share).round().max(1.0) as u64
}

/// Keeps a gentle scan from being felt.
#[derive(Debug)]
pub(super) struct Pace<'a> {
    shared: &'a Shared,
    gently: bool,
    since: Instant,
}

impl<'a> Pace<'a> {
    pub(super) fn new(shared: &'a Shared, gently: bool) -> Self {
        Self {
            shared,
            gently,
            since: Instant::now(),
        }
    }

    /// Returns when the next stride may be looked at.
    pub(super) async fn wait(&mut self) -> Result<(), Error> {
        self.shared
            .until_idle(|busy| {
                self.shared.status(|s| {
                    if let Some(verifying) = &mut s.verifying {
                        verifying.waits = busy;
                    }
                });
            })
            .await?;
        if !self.gently {
            return Ok(());
        }
        tokio::time::sleep(self.since.elapsed().saturating_mul(REST)).await;
        while self.shared.status(|s| s.running && s.backlog > BACKLOG) {
            tokio::time::sleep(LOOK).await;
        }
        self.since = Instant::now();
        Ok(())
    }
}

/// A verification that runs.
#[derive(Debug, Clone)]
pub(crate) struct Verifying {
    began: Instant,
    share: Option<f64>,
    /// Rows of an interrupted one.
    before: u64,
    looked_at: u64,
    left_out: u64,
    waits: Option<Busy>,
}

impl Verifying {
    /// With rate and time left; `total` is about how many rows there are.
    pub(crate) fn describe(&self, total: u64) -> Value {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let per_second = |rows: u64| rows.saturating_mul(1_000).checked_div(millis);
        let (seen, before) = (self.looked_at + self.left_out, self.before);
        let walked = per_second(seen.saturating_sub(before)).filter(|rate| *rate > 0);
        let left = walked.map(|rate| total.saturating_sub(seen) / rate);
        json!({
            "share": self.share,
            "rows": total.max(seen),
            "looked_at": self.looked_at,
            "left_out": self.left_out,
            "rows_per_second": per_second(self.looked_at.saturating_sub(before)),
            "seconds_left": left,
            "waits_for": self.waits.map(|busy| busy.to_string()),
        })
    }
}

/// The last verification, of whatever kind.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LastVerify {
    at_ms: i64,
    share: Option<f64>,
    looked_at: u64,
    left_out: u64,
    different: u64,
    unsettled: u64,
    rows_per_second: u64,
}

impl LastVerify {
    pub(crate) fn of(report: &VerifyReport) -> Self {
        Self {
            at_ms: now_ms(),
            share: report.share,
            looked_at: report.looked_at,
            left_out: report.left_out,
            different: report.different,
            unsettled: report.unsettled,
            rows_per_second: report.rows_per_second,
        }
    }
}

/// Shows a verification while it runs, and no longer.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    shared: &'a Shared,
    began: Instant,
}

impl<'a> Shown<'a> {
    pub(super) fn new(shared: &'a Shared, found: &Found, options: &VerifyOptions) -> Self {
        let began = Instant::now();
        let verifying = Verifying {
            began,
            share: options.share,
            before: found.looked_at + found.left_out,
            looked_at: found.looked_at,
            left_out: found.left_out,
            waits: None,
        };
        shared.status(|s| s.verifying = Some(verifying));
        Self { shared, began }
    }

    pub(super) fn now(&self, found: &Found) {
        self.shared.status(|s| {
            if let Some(verifying) = &mut s.verifying {
                verifying.looked_at = found.looked_at;
                verifying.left_out = found.left_out;
            }
        });
    }

    /// For how long it has run here.
    pub(super) fn millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.shared.status(|s| s.verifying = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_takes_its_share_and_something_of_every_table() {
        let mut picker = Picker::seeded(Some(0.05), 7);
        let taken = (0..1_000).filter(|_| picker.takes(false)).count();
        assert_eq!(taken, 50);
        for seed in 0..50 {
            let mut picker = Picker::seeded(Some(0.05), seed);
            let strides = [false, false, true];
            assert!(strides.iter().any(|last| picker.takes(*last)), "{seed}");
        }
        let mut all = Picker::seeded(None, 3);
        assert!((0..10).all(|_| all.takes(false)));
    }

    #[test]
    fn the_time_left_follows_from_what_was_walked() {
        let verifying = Verifying {
            began: Instant::now().checked_sub(Duration::from_secs(10)).unwrap(),
            share: Some(0.5),
            before: 0,
            looked_at: 500,
            left_out: 500,
            waits: None,
        };
        let told = verifying.describe(3_000);
        let left = told["seconds_left"].as_u64().unwrap();
        assert!((19..=21).contains(&left), "{told}");
    }
}
