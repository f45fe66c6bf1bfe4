//! The way in, as seen from a client's path: counts only. It is the one lock of the shadow that a
//! client's request takes, so each hold is a few additions; the record takes the counts over
//! whenever somebody looks at it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use crate::rate::Bucket;
use crate::settings::{Flow, RouteShadow};
use crate::tap::Lost;

/// What came in since the record last looked.
#[derive(Debug, Default)]
pub(crate) struct Door {
    pub(crate) eligible: u64,
    pub(crate) sampled_out: u64,
    pub(crate) shed: BTreeMap<&'static str, u64>,
    pub(crate) ineligible: BTreeMap<&'static str, u64>,
    pub(crate) admitted: u64,
    /// Admitted, and given up before they were judged.
    pub(crate) lost: BTreeMap<&'static str, u64>,
    /// Admitted, and then seen to be nothing to compare.
    pub(crate) refused: BTreeMap<&'static str, u64>,
    bounds: Bounds,
}

/// Bounds of the slice and of routes that have their own. They stay when counts are taken.
#[derive(Debug, Default)]
struct Bounds {
    slice: Bound,
    routes: HashMap<String, Bound>,
    /// Routes of which nothing is let in.
    stopped: BTreeSet<String>,
}

/// What may be inside, and how fast it may come.
#[derive(Debug, Default)]
struct Bound {
    most: Option<u64>,
    /// Admitted and not yet settled.
    open: u64,
    rate: Option<Bucket>,
}

impl Bound {
    fn new(most: Option<usize>, rate: Option<f64>) -> Self {
        Self {
            most: most.map(|most| most as u64),
            open: 0,
            rate: rate.map(Bucket::new),
        }
    }

    /// Why no more is let in. Few have a rate, so the clock is read where there is one.
    fn refuses(&mut self, now: fn() -> Instant) -> Option<&'static str> {
        if self.most.is_some_and(|most| self.open >= most) {
            return Some("busy");
        }
        let in_rate = |rate: &mut Bucket| rate.has(now());
        let slow_enough = self.rate.as_mut().is_none_or(in_rate);
        (!slow_enough).then_some("rate")
    }

    fn enter(&mut self) {
        self.open += 1;
        if let Some(rate) = &mut self.rate {
            rate.take();
        }
    }
}

impl Door {
    pub(crate) fn new(flow: &Flow) -> Self {
        let of_route = |(name, route): (&String, &RouteShadow)| {
            let bound = Bound::new(route.waiting, route.rate);
            (name.clone(), bound)
        };
        let bounded =
            |(_, route): &(&String, &RouteShadow)| route.waiting.is_some() || route.rate.is_some();
        Self {
            bounds: Bounds {
                slice: Bound::new(Some(flow.waiting), flow.rate),
                routes: flow.routes.iter().filter(bounded).map(of_route).collect(),
                stopped: BTreeSet::new(),
            },
            ..Self::default()
        }
    }

    /// Lets nothing of these routes in from now on, and of all others what there is room for.
    pub(crate) fn stop<'a>(&mut self, routes: impl Iterator<Item = &'a String>) {
        self.bounds.stopped = routes.cloned().collect();
    }

    pub(crate) fn is_stopped(&self, route: &str) -> bool {
        self.bounds.stopped.contains(route)
    }

    pub(crate) fn ineligible(&mut self, reason: &'static str) {
        *self.ineligible.entry(reason).or_default() += 1;
    }

    pub(crate) fn shed(&mut self, reason: &'static str) {
        *self.shed.entry(reason).or_default() += 1;
    }

    /// Lets one in where neither its route nor the slice is full or too fast, else counts it as
    /// shed.
    pub(crate) fn admit(&mut self, route: &str, now: fn() -> Instant) -> bool {
        let bounds = &mut self.bounds;
        let mut of_route = bounds.routes.get_mut(route);
        let refused = of_route.as_mut().and_then(|bound| bound.refuses(now));
        if let Some(reason) = refused.or_else(|| bounds.slice.refuses(now)) {
            self.shed(reason);
            return false;
        }
        if let Some(bound) = of_route {
            bound.enter();
        }
        bounds.slice.enter();
        self.admitted += 1;
        true
    }

    /// The same, whatever the bounds are: for a replay, which has its own.
    pub(crate) fn let_in(&mut self) {
        self.bounds.slice.open += 1;
        self.admitted += 1;
    }

    /// A ticket was dropped before its pair was judged.
    pub(crate) fn lose(&mut self, route: &str, lost: Lost) {
        self.leave(route);
        let (counts, reason) = match lost {
            Lost::Shed(reason) => (&mut self.lost, reason),
            Lost::Ineligible(reason) => (&mut self.refused, reason),
        };
        *counts.entry(reason).or_default() += 1;
    }

    /// A pair was judged.
    pub(crate) fn leave(&mut self, route: &str) {
        let bounds = &mut self.bounds;
        bounds.slice.open = bounds.slice.open.saturating_sub(1);
        if let Some(bound) = bounds.routes.get_mut(route) {
            bound.open = bound.open.saturating_sub(1);
        }
    }

    /// The counts since the last call.
    pub(crate) fn take(&mut self) -> Self {
        let fresh = Self {
            bounds: std::mem::take(&mut self.bounds),
            ..Self::default()
        };
        std::mem::replace(self, fresh)
    }
}
