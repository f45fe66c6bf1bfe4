//! The guard: takes a slice's reads back when errors come from the extracted side.
//!
//! It asks whose errors they are, not how many there are. If both sides were equally good, an
//! error would come from the extracted side as often as its share of the traffic, whatever
//! breaks behind both. Every error multiplies a wealth by how much better "the extracted side
//! errs `k` times as often" explains it, for several `k` at once; that wealth reaches `1/alpha`
//! with probability `alpha` at most, over the whole step and at every look (Ville). So there
//! is no threshold to tune, and an outage of both sides aborts nothing.
//!
//! Fresh wagers are opened as time passes (their stakes sum to one, which keeps the promise), so
//! that hours without a fault do not make the guard slow to see one.
//!
//! A build on trial is judged by the same test against the active one (see [`Guard::of_build`]), and
//! its times are, too ([`Slowness`]).
//!
//! It does not see that the extracted side is slow, which may be how it is meant, nor wrong answers
//! without an error status.

mod slowness;
mod wagers;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::evidence::SideCounts;
use crate::ids::{BuildName, Side};
pub use slowness::{BAR_PERCENTS, BARS, Bars, CLIENT_GROUPS, Pace, Slowness};
use wagers::Wagers;

/// How many times worse the extracted side is supposed to be, one wager each.
const RATIOS: [f64; 4] = [2.0, 4.0, 10.0, 50.0];

/// Errors of one key within this time are one error, because a client retries and a broken
/// record is asked for again and again.
const KEY_QUIET_MS: u64 = 60_000;

/// Keys remembered within [`KEY_QUIET_MS`]; errors of further keys are not counted.
const KEYS_MAX: usize = 65_536;

/// Samples of the counts that are kept, and for how long.
const SAMPLES_MAX: usize = 1_024;
const SAMPLES_KEPT_MS: u64 = 60_000;

/// Requests before the observed share of the traffic is believed over the wanted one.
const SHARE_SAMPLES_MIN: u64 = 100;

/// What the guard tolerates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuardLimits {
    /// Probability of a false abort of one step, 0 to 1.
    pub alpha: f64,
    /// Distinct keys that must have erred on the extracted side.
    pub keys_min: usize,
    /// Requests that failed in a row on the extracted side, of several keys, abort at once.
    pub consecutive: u64,
    /// Window of the hard rule, in requests of the extracted side.
    pub window: u64,
    /// Failed requests within the window that abort at once while legacy is clean.
    pub window_failures: u64,
    /// Legacy is clean up to this share of errors, 0 to 1.
    pub legacy_clean: f64,
    /// For so long after a switch to another build of the service, what would take the reads back takes
    /// the build back first.
    pub build_watch: Duration,
    /// How many times as long as the active build a build on trial may take to answer; 0: any.
    pub build_slower: f64,
    /// It may take so much longer in any case.
    pub build_slower_by: Duration,
}

impl Default for GuardLimits {
    fn default() -> Self {
        Self {
            alpha: 0.001,
            keys_min: 3,
            consecutive: 5,
            window: 20,
            window_failures: 10,
            legacy_clean: 0.05,
            build_watch: Duration::from_secs(600),
            build_slower: 2.0,
            build_slower_by: Duration::from_millis(20),
        }
    }
}

impl GuardLimits {
    /// What is wrong with the limits, each with the rule it breaks.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if !(self.alpha > 0.0 && self.alpha <= 0.1) {
            found.push(format!(
                "alpha = {}: must be above 0, 0.1 at most",
                self.alpha
            ));
        }
        if !(1..=1_000).contains(&self.keys_min) {
            found.push(format!("keys_min = {}: must be 1 to 1000", self.keys_min));
        }
        if !(2..=10_000).contains(&self.consecutive) {
            found.push(format!(
                "consecutive = {}: must be 2 to 10000",
                self.consecutive
            ));
        }
        if !(2..=10_000).contains(&self.window) {
            found.push(format!("window = {}: must be 2 to 10000", self.window));
        }
        if self.window_failures == 0 || self.window_failures > self.window {
            found.push(format!(
                "window_failures = {}: must be 1 to window ({})",
                self.window_failures, self.window
            ));
        }
        if !(0.0..1.0).contains(&self.legacy_clean) {
            found.push(format!(
                "legacy_clean = {}: must be 0 to below 1",
                self.legacy_clean
            ));
        }
        if self.build_slower != 0.0 && !(1.1..=100.0).contains(&self.build_slower) {
            found.push(format!(
                "build_slower = {}: must be 1.1 to 100, or 0",
                self.build_slower
            ));
        }
        found
    }
}

/// Why the guard takes the reads back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// For people and the journal, with the figures.
    pub reason: String,
    /// How much better "the extracted side is worse" explains the errors than chance.
    pub e_value: f64,
    /// Counted since the last reset.
    pub extracted: SideCounts,
    /// Counted since the last reset.
    pub legacy: SideCounts,
}

/// Who is compared, as the reasons name them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Names {
    /// Who is judged, in a sentence and in a list.
    judged: String,
    extracted: String,
    legacy: String,
}

impl Names {
    fn sides() -> Self {
        Self {
            judged: "the extracted side".to_owned(),
            extracted: "extracted".to_owned(),
            legacy: "legacy".to_owned(),
        }
    }
}

/// Watches one slice in one step; [`Guard::reset`] at every change of its weight.
#[derive(Debug)]
pub struct Guard {
    limits: GuardLimits,
    names: Names,
    wagers: Wagers<{ RATIOS.len() }>,
    /// When each key last counted.
    keys: HashMap<u64, u64>,
    /// Distinct keys that erred on the extracted side, up to as many as matter.
    accused: Vec<u64>,
    /// The latest errors of the extracted side, repeated ones too, for the hard rules.
    recent: VecDeque<(u64, u64)>,
    /// Counts since the start, oldest first; the first is kept as the base since the reset.
    samples: VecDeque<Sample>,
    base: Option<Sample>,
    /// Errors told by [`Guard::error`] since the reset, repeated ones too.
    told: (u64, u64),
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at_ms: u64,
    legacy: SideCounts,
    extracted: SideCounts,
}

impl Guard {
    #[must_use]
    pub fn new(limits: GuardLimits) -> Self {
        Self::of(limits, Names::sides())
    }

    /// Judges a build on trial by the one that it is to replace: what is said here of the extracted
    /// side is said of the one, and what of legacy of the other.
    #[must_use]
    pub fn of_build(limits: GuardLimits, build: &BuildName, active: &BuildName) -> Self {
        let names = Names {
            judged: format!("build {build}"),
            extracted: build.to_string(),
            legacy: active.to_string(),
        };
        Self::of(limits, names)
    }

    fn of(limits: GuardLimits, names: Names) -> Self {
        Self {
            limits,
            names,
            wagers: Wagers::new(),
            keys: HashMap::new(),
            accused: Vec::new(),
            recent: VecDeque::new(),
            samples: VecDeque::new(),
            base: None,
            told: (0, 0),
        }
    }

    /// Forgets everything but the limits. To be called whenever the weight changes.
    pub fn reset(&mut self) {
        *self = Self::of(self.limits.clone(), self.names.clone());
    }

    /// A request failed. `key` is the hash of the client's cohort key, `share` the extracted
    /// side's share of the requests in question, 0.0 to 1.0.
    pub fn error(&mut self, now_ms: u64, side: Side, key: u64, share: f64) -> Option<Verdict> {
        match side {
            Side::Legacy => self.told.0 += 1,
            Side::Extracted => {
                self.told.1 += 1;
                self.recent.push_back((now_ms, key));
                if self.recent.len() > 64 {
                    self.recent.pop_front();
                }
            }
        }
        // Without a share there is nobody to compare with; a stray error after a rollback, say.
        let share = share.max(self.observed_share().unwrap_or(0.0));
        if !share.is_finite() || share <= 0.0 || !self.counts_as_error(now_ms, key) {
            return None;
        }
        if side == Side::Extracted
            && self.accused.len() < self.limits.keys_min
            && !self.accused.contains(&key)
        {
            self.accused.push(key);
        }
        self.wager(now_ms, side, share.min(1.0));
        let e_value = self.e_value();
        if e_value < 1.0 / self.limits.alpha || self.accused.len() < self.limits.keys_min {
            return None;
        }
        let judged = &self.names.judged;
        Some(self.verdict(&format!(
            "errors come from {judged} more often than its share explains"
        )))
    }

    /// Totals since the proxy started; the guard keeps the window itself. Call it once or more a
    /// second.
    pub fn counts(
        &mut self,
        now_ms: u64,
        legacy: SideCounts,
        extracted: SideCounts,
    ) -> Option<Verdict> {
        let sample = Sample {
            at_ms: now_ms,
            legacy,
            extracted,
        };
        // Totals that shrink mean that the proxy was started anew.
        let restarted = self.samples.back().is_some_and(|last| {
            last.extracted.requests > extracted.requests || last.legacy.requests > legacy.requests
        });
        if restarted {
            self.samples.clear();
            self.base = None;
        }
        self.base.get_or_insert(sample);
        self.samples.push_back(sample);
        while self.samples.len() > SAMPLES_MAX
            || self
                .samples
                .front()
                .is_some_and(|oldest| now_ms.saturating_sub(oldest.at_ms) > SAMPLES_KEPT_MS)
        {
            self.samples.pop_front();
        }
        self.hard_rules(sample)
    }

    /// The present value of the test; an abort is due at `1 / alpha`.
    #[must_use]
    pub fn e_value(&self) -> f64 {
        self.wagers.worth()
    }

    /// Whether the error is the first of its key in a while.
    fn counts_as_error(&mut self, now_ms: u64, key: u64) -> bool {
        let fresh = |at: u64| now_ms.saturating_sub(at) < KEY_QUIET_MS;
        if self.keys.get(&key).is_some_and(|&at| fresh(at)) {
            return false;
        }
        if self.keys.len() >= KEYS_MAX {
            self.keys.retain(|_, at| fresh(*at));
            if self.keys.len() >= KEYS_MAX {
                return false;
            }
        }
        self.keys.insert(key, now_ms);
        true
    }

    fn wager(&mut self, now_ms: u64, side: Side, share: f64) {
        let gains = RATIOS.map(|ratio| {
            let chance = ratio * share + 1.0 - share;
            let likelihood = if side == Side::Extracted { ratio } else { 1.0 };
            likelihood / chance
        });
        self.wagers.bet(now_ms, gains);
    }

    /// The share that the extracted side really had since the reset. With few clients it can lie
    /// well above the weight, and errors behind both sides would then look like its own.
    fn observed_share(&self) -> Option<f64> {
        let (legacy, extracted) = self.since_reset();
        let all = legacy.requests + extracted.requests;
        (all >= SHARE_SAMPLES_MIN && legacy.requests > 0).then(|| ratio(extracted.requests, all))
    }

    fn since_reset(&self) -> (SideCounts, SideCounts) {
        match (self.base, self.samples.back()) {
            (Some(base), Some(last)) => (
                difference(last.legacy, base.legacy),
                difference(last.extracted, base.extracted),
            ),
            _ => (SideCounts::default(), SideCounts::default()),
        }
    }

    fn hard_rules(&self, last: Sample) -> Option<Verdict> {
        let several_keys = self.recent_keys(last.at_ms);
        for (size, failures, (what, how)) in [
            (
                self.limits.consecutive,
                self.limits.consecutive,
                ("the last requests to ", " all failed"),
            ),
            (
                self.limits.window,
                self.limits.window_failures,
                ("half of the last requests to ", " failed"),
            ),
        ] {
            let Some((legacy, extracted)) = self.window(last, size) else {
                continue;
            };
            let failed = ratio(extracted.errors, extracted.requests);
            let enough = failed >= ratio(failures, size);
            // One client with a broken record is no reason, unless nothing at all gets through.
            let spread = several_keys
                || (extracted.requests >= self.limits.window
                    && extracted.errors == extracted.requests);
            if enough && spread && self.legacy_clean(legacy) {
                let Names {
                    judged,
                    legacy: other,
                    ..
                } = &self.names;
                return Some(self.verdict(&format!(
                    "{what}{judged}{how} ({} of {}) while {other} is clean ({} of {})",
                    extracted.errors, extracted.requests, legacy.errors, legacy.requests
                )));
            }
        }
        None
    }

    /// What was counted in the shortest time that holds `size` requests of the extracted side.
    fn window(&self, last: Sample, size: u64) -> Option<(SideCounts, SideCounts)> {
        let begin = self.samples.iter().rev().find(|sample| {
            last.extracted
                .requests
                .saturating_sub(sample.extracted.requests)
                >= size
        })?;
        Some((
            difference(last.legacy, begin.legacy),
            difference(last.extracted, begin.extracted),
        ))
    }

    /// Legacy answered in the same time, and well. Its silence is no proof of health where it
    /// was asked before: its requests may be waiting for what the extracted side fails on.
    fn legacy_clean(&self, in_window: SideCounts) -> bool {
        let (since_reset, _) = self.since_reset();
        if in_window.requests == 0 {
            return since_reset.requests == 0;
        }
        ratio(in_window.errors, in_window.requests) <= self.limits.legacy_clean
    }

    /// Whether the latest errors come from several clients; also when nobody told any keys.
    fn recent_keys(&self, now_ms: u64) -> bool {
        let mut keys: Vec<u64> = self
            .recent
            .iter()
            .filter(|(at, _)| now_ms.saturating_sub(*at) <= SAMPLES_KEPT_MS)
            .map(|(_, key)| *key)
            .collect();
        keys.sort_unstable();
        keys.dedup();
        self.recent.is_empty() || keys.len() >= self.limits.keys_min
    }

    fn verdict(&self, reason: &str) -> Verdict {
        let (mut legacy, mut extracted) = self.since_reset();
        // The counts may be a moment older than the errors.
        legacy.errors = legacy.errors.max(self.told.0);
        extracted.errors = extracted.errors.max(self.told.1);
        legacy.requests = legacy.requests.max(legacy.errors);
        extracted.requests = extracted.requests.max(extracted.errors);
        let e_value = self.e_value();
        Verdict {
            reason: format!(
                "{reason} (e = {e_value:.0}, limit {:.0}; errors: {} {} of {}, {} {} of {})",
                1.0 / self.limits.alpha,
                self.names.extracted,
                extracted.errors,
                extracted.requests,
                self.names.legacy,
                legacy.errors,
                legacy.requests
            ),
            e_value,
            extracted,
            legacy,
        }
    }
}

fn difference(now: SideCounts, then: SideCounts) -> SideCounts {
    SideCounts {
        requests: now.requests.saturating_sub(then.requests),
        errors: now.errors.saturating_sub(then.errors),
        p99_us: now.p99_us,
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

#[cfg(test)]
mod tests;
