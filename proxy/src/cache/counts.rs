//! What became of requests of routes whose answers are kept. Each core adds to its own counters;
//! readers sum.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use outgrow_rollout::{CacheCounts, SliceId};

use crate::counts::raise;
use crate::settings::SliceSettings;

/// What the store had to do with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Given from the store; nobody was asked.
    Hit,
    /// Likewise, behind another request that asked.
    Collapsed,
    /// Given from the store, because the side has said that it is still good.
    Revalidated,
    /// Given from the store, stale, while the side is asked whether it is still good.
    Updating,
    /// Given from the store, stale, because the side failed.
    Stale,
    /// The side's own.
    Miss,
    /// The side's own, of a request that the store is not for.
    Bypass,
}

impl Outcome {
    pub(crate) const ALL: [Self; 7] = [
        Self::Hit,
        Self::Collapsed,
        Self::Revalidated,
        Self::Updating,
        Self::Stale,
        Self::Miss,
        Self::Bypass,
    ];

    /// As the access log and the metrics call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Collapsed => "collapsed",
            Self::Revalidated => "revalidated",
            Self::Updating => "updating",
            Self::Stale => "stale",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}

#[derive(Debug)]
pub(super) struct Counts {
    /// Those whose answers are kept, by the place of the slice in the settings.
    slices: Vec<(usize, SliceId)>,
    cores: Box<[Box<[[AtomicU64; Outcome::ALL.len()]]>]>,
}

impl Counts {
    pub(super) fn new(slices: &[SliceSettings], cores: usize) -> Self {
        let keeps = |slice: &SliceSettings| {
            let filters = slice
                .routes
                .iter()
                .filter_map(|route| route.filters.as_ref());
            filters.into_iter().any(|filters| filters.cache.is_some())
        };
        let core = || slices.iter().map(|_| Default::default()).collect();
        let named = slices.iter().enumerate();
        Self {
            slices: named
                .filter(|(_, slice)| keeps(slice))
                .map(|(index, slice)| (index, slice.id.clone()))
                .collect(),
            cores: (0..cores).map(|_| core()).collect(),
        }
    }

    pub(super) fn count(&self, core: usize, slice: usize, outcome: Outcome) {
        let of_core = self.cores.get(core).and_then(|slices| slices.get(slice));
        if let Some(counter) = of_core.and_then(|outcomes| outcomes.get(outcome as usize)) {
            raise(counter, 1);
        }
    }

    pub(super) fn read(&self) -> Vec<CacheCounts> {
        let of = |slice: usize, outcome: Outcome| -> u64 {
            let counters = self.cores.iter().filter_map(|slices| slices.get(slice));
            let counters = counters.filter_map(|outcomes| outcomes.get(outcome as usize));
            counters.map(|counter| counter.load(Relaxed)).sum()
        };
        let counts = |(index, id): &(usize, SliceId)| CacheCounts {
            slice: id.clone(),
            outcomes: Outcome::ALL
                .map(|outcome| (outcome.name(), of(*index, outcome)))
                .to_vec(),
        };
        self.slices.iter().map(counts).collect()
    }
}
