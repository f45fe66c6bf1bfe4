//! The same by route, and by the class of the status, with one bucket per power of two: there may be thousands of routes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use outgrow_rollout::{RouteTimes, Side, SideTimes};

use super::{Classes, TOLD, by_class, index, micros, raise, raise_class};
use crate::settings::SliceSettings;

/// What is counted for requests that belong to no slice.
const OTHER: &str = "other";
/// The told ones, and one beyond them.
const BUCKETS: usize = *TOLD.end() - *TOLD.start() + 2;

/// Counters of one route and side on one core.
#[derive(Debug, Default)]
struct Counters {
    errors: AtomicU64,
    micros: AtomicU64,
    times: [AtomicU64; BUCKETS],
    classes: Classes,
}

/// Counters of all routes, by core, in the order of the settings; the last is of no slice.
#[derive(Debug)]
pub(crate) struct RouteCounts {
    cores: Box<[Box<[[Counters; 2]]>]>,
    routes: usize,
}

fn bucket(micros: u64) -> usize {
    let power = micros.max(1).ilog2() as usize + 1;
    power.clamp(*TOLD.start(), *TOLD.end() + 1) - *TOLD.start()
}

impl RouteCounts {
    pub(crate) fn new(slices: &[SliceSettings], cores: usize) -> Self {
        let routes: usize = slices.iter().map(|slice| slice.routes.len()).sum();
        let core = || (0..=routes).map(|_| Default::default()).collect();
        Self {
            cores: (0..cores).map(|_| core()).collect(),
            routes,
        }
    }

    /// The route of what belongs to no slice.
    pub(crate) fn other(&self) -> usize {
        self.routes
    }

    /// An answer of one side with this status, or its absence. Called on the core's own thread only.
    pub(crate) fn count(
        &self,
        core: usize,
        route: usize,
        (side, status): (Side, Option<http::StatusCode>),
        (error, took): (bool, Duration),
    ) {
        let of_core = self.cores.get(core).and_then(|routes| routes.get(route));
        let Some(counters) = of_core.map(|sides| &sides[index(side)]) else {
            return;
        };
        let took = micros(took);
        if error {
            raise(&counters.errors, 1);
        }
        raise(&counters.micros, took);
        raise(&counters.times[bucket(took)], 1);
        raise_class(&counters.classes, status);
    }

    /// What was counted as an answer has turned out to be an error at its end. Called on the core's
    /// own thread only.
    pub(crate) fn fail(&self, core: usize, route: usize, side: Side) {
        let of_core = self.cores.get(core).and_then(|routes| routes.get(route));
        if let Some(sides) = of_core {
            raise(&sides[index(side)].errors, 1);
        }
    }

    /// Of routes and sides that have had requests.
    pub(crate) fn read(&self, slices: &[SliceSettings]) -> Vec<RouteTimes> {
        let of_slices = slices.iter().flat_map(|slice| {
            let id = Some(slice.id.clone());
            let named = move |route: &_| (id.clone(), ToString::to_string(route));
            slice.routes.iter().map(named).collect::<Vec<_>>()
        });
        let names = of_slices.chain([(None, OTHER.to_owned())]);
        let sides = names.enumerate().flat_map(|(at, (slice, route))| {
            [Side::Legacy, Side::Extracted].map(|side| RouteTimes {
                slice: slice.clone(),
                route: route.clone(),
                side,
                times: self.times(at, side),
                classes: self.classes(at, side),
            })
        });
        sides.filter(|of| of.times.requests() > 0).collect()
    }

    /// One route and side, on each core.
    fn of(&self, route: usize, side: Side) -> impl Iterator<Item = &Counters> + Clone {
        let cores = self.cores.iter();
        cores.filter_map(move |routes| Some(&routes.get(route)?[index(side)]))
    }

    /// Those that there were.
    fn classes(&self, route: usize, side: Side) -> Vec<(&'static str, u64)> {
        let mut told = by_class(self.of(route, side).map(|counters| &counters.classes));
        told.retain(|(_, requests)| *requests > 0);
        told
    }

    fn times(&self, route: usize, side: Side) -> SideTimes {
        let of = || self.of(route, side);
        let sum = |at: usize| of().map(|c| c.times[at].load(Relaxed)).sum();
        SideTimes {
            errors: of().map(|c| c.errors.load(Relaxed)).sum(),
            sum_us: of().map(|c| c.micros.load(Relaxed)).sum(),
            within_us: TOLD
                .map(|power| (1 << power, sum(power - TOLD.start())))
                .collect(),
            above: sum(BUCKETS - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn routes_are_counted_under_their_bounds_like_slices() {
        let (routes, slice) = (RouteCounts::new(&[], 2), super::super::Counts::new(2));
        for (core, took) in [
            0, 255, 256, 300, 511, 512, 1_000_000, 33_554_431, 33_554_432,
        ]
        .into_iter()
        .enumerate()
        {
            let took = Duration::from_micros(took);
            let status = (core != 3).then_some(match core {
                5 => StatusCode::NOT_FOUND,
                _ => StatusCode::OK,
            });
            let of = (Side::Legacy, status);
            routes.count(core % 2, routes.other(), of, (core == 3, took));
            slice.count(core % 2, Side::Legacy, core == 3, took);
        }
        let told = routes.read(&[]);
        let [other] = &told[..] else {
            panic!("{told:?}");
        };
        assert_eq!((other.route.as_str(), other.side), (OTHER, Side::Legacy));
        assert_eq!(other.times, slice.times(Side::Legacy));
        assert_eq!(other.classes, [("2xx", 7), ("4xx", 1), ("none", 1)]);
    }
}
