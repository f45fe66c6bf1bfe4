//! The guard's task: judges the errors of both sides, and takes a slice's reads back by itself.
//!
//! Its own thread, so that neither a busy core nor a stalled back office can hold it up. Cores
//! send it errors only; what went well it reads from the counters.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use outgrow_rollout::{Guard, Revision, Side, SideCounts, SliceId, Verdict, Weight};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::auth::Doorman;
use crate::recent::millis;
use crate::saved::{self, Saved};
use crate::slice::Slice;
use crate::sources::DnsSettings;
use crate::tls::Certificates;
use crate::upstreams::discovery::Resolver;
use crate::upstreams::{Keeper, Service};

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

/// One error of one side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ErrorEvent {
    pub(crate) slice: usize,
    pub(crate) side: Side,
    /// Of the extracted side; 0 where its service has none.
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
}

/// What the guard's thread owns.
pub(crate) struct Watch {
    watched: Vec<Watched>,
    events: mpsc::Receiver<ErrorEvent>,
    lowered: mpsc::Sender<Lowered>,
    state_file: Option<PathBuf>,
    /// Another proxy has taken over, and keeps the state file.
    retired: Arc<AtomicBool>,
    keepers: Vec<Keeper>,
    dns: DnsSettings,
    certificates: Option<Arc<Certificates>>,
    doorman: Option<Arc<Doorman>>,
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
        slices: &[Arc<Slice>],
        events: mpsc::Receiver<ErrorEvent>,
        lowered: mpsc::Sender<Lowered>,
        state_file: Option<PathBuf>,
    ) -> Self {
        let watched = slices
            .iter()
            .map(|slice| Watched::new(slice.clone()))
            .collect();
        Self {
            watched,
            events,
            lowered,
            state_file,
            retired: Arc::default(),
            keepers: Vec::new(),
            dns: DnsSettings::default(),
            certificates: None,
            doorman: None,
        }
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

    fn error(&mut self, event: ErrorEvent) {
        let Some(watched) = self.watched.get_mut(event.slice) else {
            return;
        };
        if !watched.refresh() {
            return;
        }
        let share = watched.share();
        let now = millis(SystemTime::now());
        let verdict = watched.guard.error(now, event.side, event.key, share);
        if let Some(verdict) = verdict {
            self.lower(event.slice, verdict);
        }
    }

    fn look(&mut self) {
        let now = millis(SystemTime::now());
        for index in 0..self.watched.len() {
            let watched = &mut self.watched[index];
            if !watched.refresh() {
                continue;
            }
            let (legacy, extracted) = watched.since();
            if let Some(verdict) = watched.guard.counts(now, legacy, extracted) {
                self.lower(index, verdict);
            }
        }
        self.save();
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
        let _ = self.lowered.try_send(event);
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
    fn new(slice: Arc<Slice>) -> Self {
        let guard = Guard::new(slice.settings.guard.clone());
        let counts = slice.counts.read();
        let revision = slice.live().revision;
        Self {
            slice,
            guard,
            revision,
            begin: (counts.legacy, counts.extracted),
        }
    }

    /// Starts over when the state has changed. False while there is nothing to guard.
    fn refresh(&mut self) -> bool {
        let live = self.slice.live();
        if live.revision != self.revision {
            self.revision = live.revision;
            self.guard.reset();
            let counts = self.slice.counts.read();
            self.begin = (counts.legacy, counts.extracted);
        }
        live.weight > Weight::ZERO
    }

    fn since(&self) -> (SideCounts, SideCounts) {
        let now = self.slice.counts.read();
        let less = |now: SideCounts, begin: SideCounts| SideCounts {
            requests: now.requests.saturating_sub(begin.requests),
            errors: now.errors.saturating_sub(begin.errors),
            p99_us: now.p99_us,
        };
        (
            less(now.legacy, self.begin.0),
            less(now.extracted, self.begin.1),
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
