//! What is known of one slice while it runs: its state in force, its gate, its counts.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use outgrow_rollout::{Live, Weight};
use serde::{Deserialize, Serialize};

use crate::counts::Counts;
use crate::counts::builds::BuildCounts;
use crate::hold::WriteGate;
use crate::recent::RecentWrites;
use crate::settings::SliceSettings;
use crate::underway::UnderWay;

/// A slice at work, shared by all cores, and with the proxy that comes after this one: what is in
/// force and held is so for the requests of both.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) settings: SliceSettings,
    /// What is in force; read once per request.
    live: Arc<ArcSwap<Live>>,
    /// Where it comes from; changed under the lock only.
    orders: Arc<Mutex<Orders>>,
    /// The state file is behind.
    pub(crate) unsaved: Arc<AtomicBool>,
    pub(crate) gate: Arc<WriteGate>,
    pub(crate) recent: Arc<RecentWrites>,
    pub(crate) writes: Arc<UnderWay>,
    /// Each core's are its own to write, so another proxy counts for itself.
    pub(crate) counts: Counts,
    /// Those of the extracted side by build, where its service has several.
    pub(crate) by_build: Option<Arc<BuildCounts>>,
}

/// What control ordered, and what the guard did on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) ordered: Live,
    /// The guard lowered the weight in this epoch; only a later one raises it again.
    pub(crate) lowered: Option<u64>,
}

impl Orders {
    fn effective(self) -> Live {
        match self.lowered {
            Some(epoch) if self.ordered.epoch <= epoch => Live {
                weight: Weight::ZERO,
                ..self.ordered
            },
            _ => self.ordered,
        }
    }
}

impl Slice {
    pub(crate) fn new(settings: SliceSettings, cores: usize, saved: Option<Orders>) -> Self {
        let orders = saved.unwrap_or(Orders {
            ordered: Live::legacy(),
            lowered: None,
        });
        Self {
            settings,
            live: Arc::new(ArcSwap::from_pointee(orders.effective())),
            orders: Arc::new(Mutex::new(orders)),
            unsaved: Arc::default(),
            gate: Arc::default(),
            recent: Arc::default(),
            writes: Arc::default(),
            counts: Counts::new(cores),
            by_build: None,
        }
    }

    /// Its service has so many builds.
    pub(crate) fn with_builds(mut self, builds: usize, cores: usize) -> Self {
        self.by_build = (builds > 0).then(|| Arc::new(BuildCounts::new(builds, cores)));
        self
    }

    /// The same slice under other settings, in another proxy.
    pub(crate) fn under(&self, settings: SliceSettings, cores: usize) -> Self {
        Self {
            settings,
            live: self.live.clone(),
            orders: self.orders.clone(),
            unsaved: self.unsaved.clone(),
            gate: self.gate.clone(),
            recent: self.recent.clone(),
            writes: self.writes.clone(),
            counts: Counts::new(cores),
            by_build: None,
        }
    }

    fn orders_mut(&self) -> MutexGuard<'_, Orders> {
        // Plain data: a panic elsewhere cannot leave it half changed.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn orders(&self) -> Orders {
        *self.orders_mut()
    }

    pub(crate) fn live(&self) -> Live {
        **self.live.load()
    }

    /// Puts control's state into force, unless it is older than what is known.
    pub(crate) fn apply(&self, live: Live) {
        let mut orders = self.orders_mut();
        if live.revision < orders.ordered.revision {
            return;
        }
        orders.ordered = live;
        if orders.lowered.is_some_and(|epoch| live.epoch > epoch) {
            orders.lowered = None;
        }
        self.put(*orders);
    }

    /// Takes the reads back without asking anyone.
    pub(crate) fn lower(&self) -> Live {
        let mut orders = self.orders_mut();
        let before = orders.ordered;
        orders.lowered = Some(before.epoch);
        self.put(*orders);
        before
    }

    /// What another process has in force, where it is not older than what is known. What its guard has
    /// lowered stays lowered.
    pub(crate) fn adopt(&self, other: Orders) {
        let mut orders = self.orders_mut();
        if other.ordered.revision >= orders.ordered.revision {
            orders.ordered = other.ordered;
        }
        let lowered = orders.lowered.max(other.lowered);
        orders.lowered = lowered.filter(|epoch| orders.ordered.epoch <= *epoch);
        self.put(*orders);
    }

    fn put(&self, orders: Orders) {
        let live = orders.effective();
        if live.weight != self.live().weight {
            self.counts.begin();
        }
        self.live.store(Arc::new(live));
        self.unsaved.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outgrow_rollout::{Revision, Side, SliceId};

    use super::*;

    fn slice() -> Slice {
        let settings = SliceSettings {
            id: SliceId::new("a").unwrap(),
            service: String::new(),
            routes: Vec::new(),
            cohort: Vec::new(),
            salt: String::new(),
            guard: outgrow_rollout::GuardLimits::default(),
            fallback: true,
        };
        Slice::new(settings, 1, None)
    }

    /// A service that was slow, and was mended, or the other way round.
    #[test]
    fn times_are_those_of_the_share_in_force() {
        let slice = slice();
        let put = |revision, weight| {
            slice.apply(Live {
                revision: Revision(revision),
                weight,
                ..Live::legacy()
            });
        };
        let answers = |many: u32, millis| {
            for _ in 0..many {
                let took = Duration::from_millis(millis);
                slice.counts.count(0, Side::Extracted, false, took);
            }
        };
        let p99 = || slice.counts.read().extracted.p99_us;
        let five = Weight::from_percent("5").unwrap();
        put(1, five);
        answers(1_000, 1);
        assert!(p99().unwrap() < 2_000);
        put(2, five);
        assert!(p99().is_some(), "the share is the same");
        put(3, Weight::FULL);
        assert_eq!(p99(), None, "nothing was answered in this step");
        answers(10, 100);
        assert!(
            p99().unwrap() >= 100_000,
            "a thousand quick ones were before it"
        );
        slice.lower();
        answers(10, 1);
        assert!(
            p99().unwrap() < 2_000,
            "nor does the slow step count any more"
        );
        assert_eq!(slice.counts.read().extracted.requests, 1_020);
    }

    #[test]
    fn an_older_epoch_cannot_raise_what_the_guard_lowered() {
        let slice = slice();
        let live = |revision, epoch, weight| Live {
            revision: Revision(revision),
            epoch,
            weight,
            ..Live::legacy()
        };
        slice.apply(live(3, 1, Weight::FULL));
        slice.lower();
        assert_eq!(slice.live().weight, Weight::ZERO);
        slice.apply(live(4, 1, Weight::FULL));
        assert_eq!(
            slice.live().weight,
            Weight::ZERO,
            "a promotion that crossed the guard's act"
        );
        slice.apply(live(6, 2, Weight::FULL));
        assert_eq!(slice.live().weight, Weight::FULL);
        let other = |revision, weight, lowered| Orders {
            ordered: live(revision, 2, weight),
            lowered,
        };
        slice.adopt(other(7, Weight::FULL, Some(2)));
        assert_eq!(slice.live().weight, Weight::ZERO, "by the other's guard");
        slice.apply(live(8, 3, Weight::FULL));
        slice.adopt(other(7, Weight::ZERO, Some(2)));
        assert_eq!(slice.live().weight, Weight::FULL, "of an older epoch");
        slice.apply(live(5, 1, Weight::ZERO));
        assert_eq!(
            slice.live().weight,
            Weight::FULL,
            "an older revision comes too late"
        );
    }
}
