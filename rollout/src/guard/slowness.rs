//! Whether a build on trial answers more slowly than the active one.
//!
//! Both are asked at the same time, by clients that a hash has dealt out, so what makes requests slow
//! behind both of them makes no difference. Time is cut into stretches. In each, for three bars, the
//! share of the build's answers above the bar is held against that of the active one's. The difference
//! is between -1 and 1, and 0 or less on average where the build is as fast, *however* the requests of
//! a stretch hang together: a pause that makes a hundred of them slow is one bad stretch, not a hundred
//! bad requests. Each stretch multiplies a wealth by `1 + boldness * difference`, and an abort is due at
//! `1 / alpha`, as for errors.
//!
//! The bars are what half, nine in ten and 99 in 100 of the active build's answers keep, as known before
//! the stretch. The build's own bars lie higher, by what is tolerated.

use std::time::Duration;

use super::wagers::Wagers;
use super::{GuardLimits, Verdict, ratio};
use crate::builds::AnswerFigures;
use crate::evidence::SideCounts;
use crate::ids::BuildName;

/// Of the active build's answers: the body, and two tails.
pub const BAR_PERCENTS: [u64; BARS] = [50, 90, 99];
pub const BARS: usize = 3;

/// Shares of the wealth that are put on a difference: one that wins on little noise, and one that
/// survives much of it.
const BOLDNESS: [f64; 2] = [0.9, 0.2];
const WAYS: usize = BARS * BOLDNESS.len();

/// A stretch is no shorter, so that a pause is in one or two of them.
const STRETCH_MS: u64 = 1_000;
/// Answers of each build that make a stretch.
const ANSWERS_MIN: u64 = 10;
/// Answers of the active build that bars are made of.
const BAR_ANSWERS_MIN: u64 = 100;

/// Slow answers are told by groups of clients, by their hash, so that few clients can be left out.
pub const CLIENT_GROUPS: usize = 64;
/// Groups that are left out at most.
const SPARED_MAX: usize = CLIENT_GROUPS / 4;
/// What is remembered of a group's slow answers from one stretch to the next: of ten or so.
const MEMORY: f64 = 0.9;

/// Above these an answer is slow, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bars {
    pub tried_us: [u64; BARS],
    pub active_us: [u64; BARS],
}

/// What a build has answered, since any moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    pub requests: u64,
    /// Above each bar, by group of clients.
    pub slow: [[u64; CLIENT_GROUPS]; BARS],
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            requests: 0,
            slow: [[0; CLIENT_GROUPS]; BARS],
        }
    }
}

impl Pace {
    /// What came after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        since.requests = since.requests.saturating_sub(earlier.requests);
        let (now, then) = (since.slow.iter_mut(), earlier.slow.iter());
        for (now, then) in now.flatten().zip(then.flatten()) {
            *now = now.saturating_sub(*then);
        }
        since
    }

    /// The share above a bar, without those of some groups.
    fn slow_share(&self, bar: usize, spared: &[usize]) -> f64 {
        let groups = self.slow[bar].iter().enumerate();
        let kept = groups.filter(|(group, _)| !spared.contains(group));
        ratio(kept.map(|(_, slow)| slow).sum(), self.requests).min(1.0)
    }
}

/// Judges a build on trial for as long as the trial lasts.
#[derive(Debug)]
pub struct Slowness {
    limits: GuardLimits,
    names: (BuildName, BuildName),
    wagers: Wagers<WAYS>,
    bars: Option<Bars>,
    begun_ms: u64,
    /// Totals at the beginning of the stretch.
    begin: (Pace, Pace),
    /// Slow answers of the build on trial, of late.
    of_late: [[f64; CLIENT_GROUPS]; BARS],
}

impl Slowness {
    /// `None` where the limits tolerate any slowness.
    #[must_use]
    pub fn new(limits: &GuardLimits, tried: &BuildName, active: &BuildName) -> Option<Self> {
        (limits.build_slower > 0.0).then(|| Self {
            limits: limits.clone(),
            names: (tried.clone(), active.clone()),
            wagers: Wagers::new(),
            bars: None,
            begun_ms: 0,
            begin: <(Pace, Pace)>::default(),
            of_late: [[0.0; CLIENT_GROUPS]; BARS],
        })
    }

    /// Above what answers are to be counted as slow from now on.
    #[must_use]
    pub fn bars(&self) -> Option<Bars> {
        self.bars
    }

    /// Whether a stretch is long enough to look at the counters.
    #[must_use]
    pub fn is_due(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.begun_ms) >= STRETCH_MS
    }

    /// Totals of the build on trial and of the active one, and how many answers the latter has had so
    /// far with which percentiles of [`BAR_PERCENTS`]. True where [`Self::bars`] have changed: a new
    /// stretch begins, and an abort may be due ([`Self::verdict`]).
    pub fn look(
        &mut self,
        now_ms: u64,
        (tried, active): (Pace, Pace),
        (answers, percentiles): (u64, [Option<u64>; BARS]),
    ) -> bool {
        if self.bars.is_some() {
            let stretch = (tried.since(&self.begin.0), active.since(&self.begin.1));
            if stretch.0.requests.min(stretch.1.requests) < ANSWERS_MIN {
                return false;
            }
            self.bet(now_ms, &stretch.0, &stretch.1);
        } else if answers < BAR_ANSWERS_MIN {
            return false;
        }
        self.begun_ms = now_ms;
        self.begin = (tried, active);
        let active_us = percentiles.map(|at| at.unwrap_or(u64::MAX));
        let tried_us = active_us.map(|at| self.tolerated(at));
        self.bars = Some(Bars {
            tried_us,
            active_us,
        });
        true
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "microseconds of requests stay far below 2^53, and a larger factor saturates"
    )]
    fn tolerated(&self, active_us: u64) -> u64 {
        let times = (active_us as f64 * self.limits.build_slower) as u64;
        let by = u64::try_from(self.limits.build_slower_by.as_micros()).unwrap_or(u64::MAX);
        times.max(active_us.saturating_add(by))
    }

    fn bet(&mut self, now_ms: u64, tried: &Pace, active: &Pace) {
        let mut gains = [1.0; WAYS];
        for bar in 0..BARS {
            // Chosen by what was before the stretch, or the bet would not be fair.
            let spared = self.spared(bar);
            let difference = tried.slow_share(bar, &spared) - active.slow_share(bar, &[]);
            for (way, boldness) in BOLDNESS.into_iter().enumerate() {
                gains[way * BARS + bar] = 1.0 + boldness * difference;
            }
            for (memory, slow) in self.of_late[bar].iter_mut().zip(tried.slow[bar]) {
                *memory = *memory * MEMORY + f64::from(u32::try_from(slow).unwrap_or(u32::MAX));
            }
        }
        self.wagers.bet(now_ms, gains);
    }

    /// The groups that have most of the slow answers, one fewer than the clients that must have some:
    /// one with a large account is slow wherever it goes.
    fn spared(&self, bar: usize) -> Vec<usize> {
        let of_late = &self.of_late[bar];
        let mut groups: Vec<usize> = (0..CLIENT_GROUPS).collect();
        groups.sort_by(|a, b| of_late[*b].total_cmp(&of_late[*a]));
        groups.truncate(self.limits.keys_min.saturating_sub(1).min(SPARED_MAX));
        groups
    }

    /// The present value of the test.
    #[must_use]
    pub fn e_value(&self) -> f64 {
        self.wagers.worth()
    }

    /// Where an abort is due. The figures are of the trial so far, for people.
    #[must_use]
    pub fn verdict(&self, tried: AnswerFigures, active: AnswerFigures) -> Option<Verdict> {
        let (e_value, limit) = (self.e_value(), 1.0 / self.limits.alpha);
        if e_value < limit {
            return None;
        }
        let counts = |of: AnswerFigures| SideCounts {
            requests: of.requests,
            errors: of.errors,
            p99_us: of.p99_us,
        };
        let told = |of: AnswerFigures| {
            let [half, most] = [of.p50_us, of.p99_us].map(|at| millis(at.unwrap_or(0)));
            format!("p50 {half} and p99 {most} of {} requests", of.requests)
        };
        let (build, other) = &self.names;
        let tolerated = self.limits.build_slower;
        let by = self.limits.build_slower_by;
        let reason = format!(
            "build {build} answers more slowly than {other}, by more than {tolerated} times and {by:?} \
             (e = {e_value:.0}, limit {limit:.0}; {build}: {}; {other}: {})",
            told(tried),
            told(active)
        );
        Some(Verdict {
            reason,
            e_value,
            extracted: counts(tried),
            legacy: counts(active),
        })
    }
}

/// With what matters of it: `0.4 ms`, `12 ms`.
fn millis(micros: u64) -> String {
    match Duration::from_micros(micros) {
        at if micros < 10_000 => format!("{:.1} ms", at.as_secs_f64() * 1_000.0),
        at => format!("{} ms", at.as_millis()),
    }
}

#[cfg(test)]
mod tests;
