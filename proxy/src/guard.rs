//! The guard's task: judges the errors of both sides, and takes a slice's reads back by itself.
//!
//! Its own thread, so that neither a busy core nor a stalled back office can hold it up. Cores
//! send it errors only; what went well it reads from the counters.

mod builds;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use outgrow_rollout::{
    BuildName, Guard, GuardLimits, Revision, Side, SideCounts, SliceId, Verdict, Weight,
};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::auth::Doorman;
use crate::counts::builds::BuildCounts;
use crate::saved::{self, Saved};
use crate::slice::Slice;
use crate::sources::DnsSettings;
use crate::tls::Certificates;
use crate::upstreams::builds::Builds;
use crate::upstreams::discovery::Resolver;
use crate::upstreams::{Keeper, Service};
use builds::BuildWatch;

/// Between two looks at the counters. The hard rule needs ten failures, which at the traffic
/// where it matters take longer than this.
const PERIOD: Duration = Duration::from_millis(100);

/// Errors that may wait for the guard. In a storm the first thousand decide.
pub(crate) const EVENTS_MAX: usize = 1_024;

/// The guard took a slice's reads back; control must bring the store after.
#[derive(Debug, Clone, Serialize)]
pub struct Lowered {
    pub slice: SliceId,
    pub at_epoch: u64,
    pub at_revision: Revision,
    pub verdict: Verdict,
}

/// The guard took requests back from a build; control must bring the store after.
#[derive(Debug, Clone, Serialize)]
pub struct TakenBack {
    pub service: String,
    pub build: BuildName,
    /// By whose requests it was judged; of the legacy side by all.
    pub slice: Option<SliceId>,
    pub at_revision: Revision,
    pub verdict: Verdict,
}

/// What the guard did by itself.
#[derive(Debug, Clone, Serialize)]
pub enum Act {
    Lowered(Lowered),
    TakenBack(TakenBack),
}

/// One error of one side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ErrorEvent {
    /// `None`: of no slice.
    pub(crate) slice: Option<usize>,
    pub(crate) side: Side,
    /// Of the extracted side, where 0 may mean that its service has none; of the legacy side, where it
    /// has some.
    pub(crate) build: Option<usize>,
    pub(crate) key: u64,
}

/// One slice under guard.
struct Watched {
    slice: Arc<Slice>,
    guard: Guard,
    /// The state that the evidence belongs to.
    revision: Revision,
    begin: (SideCounts, SideCounts),
    /// Where its service has several.
    builds: Option<BuildWatch>,
}

/// What the guard's thread owns.
pub(crate) struct Watch {
    watched: Vec<Watched>,
    /// The builds of the legacy side.
    legacy: Option<BuildWatch>,
    events: mpsc::Receiver<ErrorEvent>,
    acts: mpsc::Sender<Act>,
    state_file: Option<PathBuf>,
    /// Another proxy has taken over, and keeps the state file.
    retired: Arc<AtomicBool>,
    keepers: Vec<Keeper>,
    dns: DnsSettings,
    certificates: Option<Arc<Certificates>>,
    doorman: Option<Arc<Doorman>>,
    begun: Instant,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("slices", &self.watched.len())
            .finish_non_exhaustive()
    }
}

impl Watch {
    pub(crate) fn new(
        (slices, builds): (&[Arc<Slice>], &[Arc<Builds>]),
        events: mpsc::Receiver<ErrorEvent>,
        acts: mpsc::Sender<Act>,
        state_file: Option<PathBuf>,
    ) -> Self {
        let watched = slices
            .iter()
            .map(|slice| Watched::new(slice.clone(), builds))
            .collect();
        Self {
            watched,
            legacy: None,
            events,
            acts,
            state_file,
            retired: Arc::default(),
            keepers: Vec::new(),
            dns: DnsSettings::default(),
            certificates: None,
            doorman: None,
            begun: Instant::now(),
        }
    }

    /// Judges the builds of the legacy side, too, which come first.
    pub(crate) fn judging(
        mut self,
        (builds, counts): (&[Arc<Builds>], Option<Arc<BuildCounts>>),
        limits: &GuardLimits,
    ) -> Self {
        let builds = builds.first().cloned().zip(counts);
        self.legacy = builds.map(|(builds, counts)| BuildWatch::new(builds, counts, limits));
        self
    }

    /// Looks after the upstreams of these, too.
    pub(crate) fn keeping(mut self, services: &[Arc<Service>], dns: &DnsSettings) -> Self {
        self.dns = dns.clone();
        self.keepers = services.iter().cloned().map(Keeper::new).collect();
        self
    }

    /// Looks after these, too.
    pub(crate) fn showing(mut self, certificates: Option<Arc<Certificates>>) -> Self {
        self.certificates = certificates;
        self
    }

    /// Looks after the keys of these, too.
    pub(crate) fn letting_in(mut self, doorman: Arc<Doorman>) -> Self {
        self.doorman = Some(doorman);
        self
    }

    /// Set when another proxy has taken over.
    pub(crate) fn retired(&self) -> Arc<AtomicBool> {
        self.retired.clone()
    }

    /// Runs until `cancel`.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut tick = tokio::time::interval(PERIOD);
        let resolver = Resolver::new(self.dns.clone());
        for keeper in &mut self.keepers {
            keeper.begin(&resolver);
        }
        if let Some(certificates) = self.certificates.take() {
            // Ends with this thread's runtime.
            tokio::task::spawn_local(certificates.watch());
        }
        if let Some(doorman) = self.doorman.take() {
            doorman.begin();
        }
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                event = self.events.recv() => match event {
                    Some(event) => self.error(event),
                    None => break,
                },
                at = tick.tick() => {
                    self.look();
                    for keeper in &mut self.keepers {
                        keeper.look(at.into_std());
                    }
                }
            }
        }
        self.save();
    }

    /// Milliseconds by a clock that nobody sets: windows that a jump makes empty, or never ends, would
    /// blind the guard.
    fn now(&self) -> u64 {
        let since = self.begun.elapsed().as_millis();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    fn error(&mut self, event: ErrorEvent) {
        let now = self.now();
        if event.side == Side::Legacy {
            self.legacy_error(now, event);
        }
        let Some(index) = event.slice else { return };
        let Some(watched) = self.watched.get_mut(index) else {
            return;
        };
        if !watched.refresh() {
            return;
        }
        let build = event.build.filter(|_| event.side == Side::Extracted);
        if let (Some(builds), Some(build)) = (&mut watched.builds, build) {
            let verdict = builds.error(now, build, event.key);
            let tried = builds.tries(Some(build));
            if let Some(verdict) = verdict {
                self.take_back(index, verdict);
                return;
            }
            if tried {
                return;
            }
        }
        let share = watched.share();
        let verdict = watched.guard.error(now, event.side, event.key, share);
        if let Some(verdict) = verdict {
            self.judge(index, verdict);
        }
    }

    fn legacy_error(&mut self, now: u64, event: ErrorEvent) {
        let (Some(watch), Some(build)) = (&mut self.legacy, event.build) else {
            return;
        };
        watch.refresh();
        if let Some(verdict) = watch.error(now, build, event.key) {
            take_back(&self.acts, watch, None, verdict);
        }
    }

    fn look(&mut self) {
        let now = self.now();
        if let Some(watch) = &mut self.legacy {
            watch.refresh();
            if let Some(verdict) = watch.look(now) {
                take_back(&self.acts, watch, None, verdict);
            }
        }
        for index in 0..self.watched.len() {
            let watched = &mut self.watched[index];
            if !watched.refresh() {
                continue;
            }
            let builds = watched.builds.as_mut();
            if let Some(verdict) = builds.and_then(|builds| builds.look(now)) {
                self.take_back(index, verdict);
                continue;
            }
            let (legacy, extracted) = watched.since();
            if let Some(verdict) = watched.guard.counts(now, legacy, extracted) {
                self.judge(index, verdict);
            }
        }
        self.save();
    }

    /// The extracted side is worse. Where all of it has just been moved to another build, that goes
    /// back first; if it was not the build, the next verdict takes the reads back.
    fn judge(&mut self, index: usize, verdict: Verdict) {
        let builds = self.watched[index].builds.as_ref();
        match builds.is_some_and(BuildWatch::is_switched) {
            true => self.take_back(index, verdict),
            false => self.lower(index, verdict),
        }
    }

    fn take_back(&mut self, index: usize, verdict: Verdict) {
        let watched = &self.watched[index];
        let Some(watch) = &watched.builds else {
            return;
        };
        let slice = watched.slice.settings.id.clone();
        take_back(&self.acts, watch, Some(slice), verdict);
    }

    fn lower(&mut self, index: usize, verdict: Verdict) {
        let watched = &mut self.watched[index];
        // In memory first: from here on every request sees it.
        let before = watched.slice.lower();
        let slice = watched.slice.settings.id.clone();
        warn!(%slice, reason = %verdict.reason, "the guard took the reads back");
        let event = Lowered {
            slice,
            at_epoch: before.epoch,
            at_revision: before.revision,
            verdict,
        };
        // Where nobody listens, or all is full, the state file remembers.
        let _ = self.acts.try_send(Act::Lowered(event));
        self.save();
    }

    fn save(&self) {
        let Some(path) = &self.state_file else {
            return;
        };
        if self.retired.load(Relaxed) {
            return;
        }
        let changed = self
            .watched
            .iter()
            .any(|w| w.slice.unsaved.swap(false, Relaxed));
        if !changed {
            return;
        }
        let all: Saved = self
            .watched
            .iter()
            .map(|w| (w.slice.settings.id.clone(), w.slice.orders()))
            .collect();
        if let Err(failure) = saved::save(path, &all) {
            error!(path = %path.display(), %failure, "the proxy's state could not be saved");
            for watched in &self.watched {
                watched.slice.unsaved.store(true, Relaxed);
            }
        }
    }
}

impl Watched {
    fn new(slice: Arc<Slice>, builds: &[Arc<Builds>]) -> Self {
        let builds = BuildWatch::of_slice(&slice, builds);
        let guard = Guard::new(slice.settings.guard.clone());
        let revision = slice.live().revision;
        let mut watched = Self {
            slice,
            guard,
            revision,
            begin: <(SideCounts, SideCounts)>::default(),
            builds,
        };
        watched.begin = watched.totals();
        watched
    }

    /// Since the proxy began. A build on trial is judged by another one, and is nobody's here.
    fn totals(&self) -> (SideCounts, SideCounts) {
        let counts = self.slice.counts.read();
        let builds = self.builds.as_ref();
        let tried = builds.map_or_else(SideCounts::default, BuildWatch::tried);
        (counts.legacy, difference(counts.extracted, tried))
    }

    /// Starts over when the state has changed. False while there is nothing to guard.
    fn refresh(&mut self) -> bool {
        let live = self.slice.live();
        let builds = self.builds.as_mut();
        let rebuilt = builds.is_some_and(BuildWatch::refresh);
        if rebuilt || live.revision != self.revision {
            self.revision = live.revision;
            self.guard.reset();
            self.begin = self.totals();
        }
        live.weight > Weight::ZERO
    }

    fn since(&self) -> (SideCounts, SideCounts) {
        let (legacy, extracted) = self.totals();
        (
            difference(legacy, self.begin.0),
            difference(extracted, self.begin.1),
        )
    }

    /// The share of the extracted side: what was seen, but not below what is configured, so that
    /// a few busy clients are not blamed on it.
    fn share(&self) -> f64 {
        let (legacy, extracted) = self.since();
        let total = legacy.requests + extracted.requests;
        let seen = if total == 0 {
            0.0
        } else {
            extracted.requests as f64 / total as f64
        };
        seen.max(self.slice.live().weight.share()).min(1.0)
    }
}

fn take_back(
    acts: &mpsc::Sender<Act>,
    watch: &BuildWatch,
    slice: Option<SliceId>,
    verdict: Verdict,
) {
    // In memory first: from here on every request sees it.
    let at_revision = watch.revision();
    let Some(build) = watch.builds.take_back(at_revision) else {
        return;
    };
    let service = watch.builds.service().to_owned();
    warn!(service, %build, reason = %verdict.reason, "the guard took the build back");
    let act = TakenBack {
        service,
        build,
        slice,
        at_revision,
        verdict,
    };
    // Where all is full the proxy still has it in force.
    let _ = acts.try_send(Act::TakenBack(act));
}

fn difference(now: SideCounts, then: SideCounts) -> SideCounts {
    SideCounts {
        requests: now.requests.saturating_sub(then.requests),
        errors: now.errors.saturating_sub(then.errors),
        p99_us: now.p99_us,
    }
}
