//! The builds of a slice's service, or of the legacy side, under guard: one on trial is judged by the active one, by its errors
//! and by its times, and for a while after a switch what would take the reads back takes the build back first.

use std::sync::Arc;
use std::time::Duration;

use outgrow_rollout::{Bars, Guard, GuardLimits, Revision, Side, SideCounts, Slowness, Verdict};

use super::difference;
use crate::counts::builds::{BuildCounts, Total};
use crate::slice::Slice;
use crate::upstreams::builds::{Builds, Newcomer};

/// Which state of the builds evidence belongs to, and whether the guard has already acted on it.
type Of = (Revision, bool);

pub(super) struct BuildWatch {
    pub(super) builds: Arc<Builds>,
    counts: Arc<BuildCounts>,
    limits: GuardLimits,
    of: Of,
    trial: Option<Trial>,
}

struct Trial {
    build: usize,
    active: usize,
    share: f64,
    guard: Guard,
    begin: (SideCounts, SideCounts),
    /// Where any is minded.
    slowness: Option<Slowness>,
    /// What the active build and this one had had before.
    totals: (Total, Total),
}

impl BuildWatch {
    pub(super) fn of_slice(slice: &Slice, all: &[Arc<Builds>]) -> Option<Self> {
        let service = &slice.settings.service;
        let builds = all.iter().find(|builds| builds.service() == service)?;
        let counts = slice.by_build.clone()?;
        Some(Self::new(builds.clone(), counts, &slice.settings.guard))
    }

    pub(super) fn new(builds: Arc<Builds>, counts: Arc<BuildCounts>, limits: &GuardLimits) -> Self {
        let mut watch = Self {
            of: builds.guarded(),
            builds,
            counts,
            limits: limits.clone(),
            trial: None,
        };
        watch.begin();
        watch
    }

    fn begin(&mut self) {
        if let Some(trial) = self.trial.take() {
            trial.set_bars(&self.counts, None);
        }
        let Some(Newcomer::Trial {
            build,
            active,
            weight,
        }) = self.builds.newcomer(Duration::ZERO)
        else {
            return;
        };
        let names = (self.builds.name(build), self.builds.name(active));
        let (Some(tried), Some(other)) = names else {
            return;
        };
        let counts = &self.counts;
        self.trial = Some(Trial {
            build,
            active,
            share: weight.share(),
            guard: Guard::of_build(self.limits.clone(), tried, other),
            begin: (counts.counts(active), counts.counts(build)),
            slowness: Slowness::new(&self.limits, tried, other),
            totals: (counts.total(active), counts.total(build)),
        });
    }

    /// Whether the builds have been changed; what was seen before does not count any more.
    pub(super) fn refresh(&mut self) -> bool {
        let now = self.builds.guarded();
        if now == self.of {
            return false;
        }
        self.of = now;
        self.begin();
        true
    }

    pub(super) fn revision(&self) -> Revision {
        self.of.0
    }

    /// A request to a build has failed.
    pub(super) fn error(&mut self, now: u64, build: usize, key: u64) -> Option<Verdict> {
        let counts = &self.counts;
        let trial = self.trial.as_mut()?;
        let side = match build {
            build if build == trial.build => Side::Extracted,
            build if build == trial.active => Side::Legacy,
            _ => return None,
        };
        let (active, tried) = trial.since(counts);
        let total = active.requests + tried.requests;
        let seen = match total {
            0 => 0.0,
            total => tried.requests as f64 / total as f64,
        };
        let share = seen.max(trial.share).min(1.0);
        trial.guard.error(now, side, key, share)
    }

    pub(super) fn look(&mut self, now: u64) -> Option<Verdict> {
        let trial = self.trial.as_mut()?;
        let (active, tried) = trial.since(&self.counts);
        let verdict = trial.guard.counts(now, active, tried);
        verdict.or_else(|| trial.slowness(now, &self.counts))
    }

    /// Whether it is on trial: then its errors are not the extracted side's.
    pub(super) fn tries(&self, build: Option<usize>) -> bool {
        let trial = self.trial.as_ref().map(|trial| trial.build);
        trial.is_some() && trial == build
    }

    /// What the build on trial has had since the proxy began.
    pub(super) fn tried(&self) -> SideCounts {
        let trial = self.trial.as_ref();
        trial.map_or_else(SideCounts::default, |trial| self.counts.counts(trial.build))
    }

    /// Whether all requests were moved to another build not long ago.
    pub(super) fn is_switched(&self) -> bool {
        let newcomer = self.builds.newcomer(self.limits.build_watch);
        newcomer == Some(Newcomer::Switched)
    }
}

impl Trial {
    fn slowness(&mut self, now: u64, counts: &BuildCounts) -> Option<Verdict> {
        let judge = self.slowness.as_mut().filter(|judge| judge.is_due(now))?;
        let paces = (counts.pace(self.build), counts.pace(self.active));
        let active = counts.total(self.active);
        let told = active.percentiles_since(&self.totals.0);
        if !judge.look(now, paces, told) {
            return None;
        }
        let tried = counts.total(self.build).since(&self.totals.1);
        let verdict = judge.verdict(tried, active.since(&self.totals.0));
        let bars = judge.bars();
        self.set_bars(counts, bars);
        verdict
    }

    fn set_bars(&self, counts: &BuildCounts, bars: Option<Bars>) {
        let slow = &counts.slow;
        slow.set(self.build, bars.map(|bars| bars.tried_us));
        slow.set(self.active, bars.map(|bars| bars.active_us));
    }

    /// Of the active build and of the one on trial.
    fn since(&self, counts: &BuildCounts) -> (SideCounts, SideCounts) {
        (
            difference(counts.counts(self.active), self.begin.0),
            difference(counts.counts(self.build), self.begin.1),
        )
    }
}
