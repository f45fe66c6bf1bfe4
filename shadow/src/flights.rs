//! When copies of each route were under way to a side: who can have changed a row at a moment. And
//! the routes of which nothing may set off any more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use outgrow_rollout::{Side, Spans};

use crate::slice::unix_now_ms;

/// Why nothing of a stopped route is compared.
pub(crate) const ROUTE_STOPPED: &str = "route-stopped";

/// Milliseconds that are looked back. Rows are noticed within a second; one that is noticed later
/// than that says nothing of a route.
const KEPT: i64 = 60_000;

/// Shorter pauses are none, in milliseconds: less than what moments of databases are told by. So
/// there is a bound to what is kept of a route.
const PAUSE: i64 = 100;

/// All routes of a slice.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<Routes>);

/// A copy on its way, until this is dropped.
#[derive(Debug)]
pub(crate) struct Flight<'a> {
    flights: &'a Flights,
    route: &'a str,
    side: Side,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let now = unix_now_ms();
        self.flights.routes().ends(self.route, self.side, now);
    }
}

impl Flights {
    /// Held for a few comparisons and additions, twice a copy.
    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a copy sets off to a side; `None` where its route is stopped.
    pub(crate) fn sets_off<'a>(&'a self, route: &'a str, side: Side) -> Option<Flight<'a>> {
        let now = unix_now_ms();
        let begun = self.routes().begins(route, side, now);
        begun.then_some(Flight {
            flights: self,
            route,
            side,
        })
    }

    pub(crate) fn is_stopped(&self, route: &str) -> bool {
        self.routes().stopped.contains_key(route)
    }

    /// From now on nothing of these routes sets off, and of all others everything.
    pub(crate) fn stop(&self, routes: &BTreeMap<String, String>) {
        self.routes().stopped.clone_from(routes);
    }

    /// By route, why.
    pub(crate) fn stopped(&self) -> BTreeMap<String, String> {
        self.routes().stopped.clone()
    }

    /// Routes of which a copy was under way to this side at some moment between these, in Unix
    /// milliseconds; `None` where that is too long ago.
    pub(crate) fn between(
        &self,
        side: Side,
        between: &RangeInclusive<i64>,
    ) -> Option<BTreeSet<String>> {
        self.routes().between(side, between)
    }
}

#[derive(Debug, Default)]
struct Routes {
    /// By route, of both sides. There are as many as the config has.
    times: HashMap<String, [Spans; 2]>,
    stopped: BTreeMap<String, String>,
}

fn place(side: Side) -> usize {
    usize::from(side == Side::Extracted)
}

impl Routes {
    fn begins(&mut self, route: &str, side: Side, now: i64) -> bool {
        if self.stopped.contains_key(route) {
            return false;
        }
        match self.times.get_mut(route) {
            Some(times) => times[place(side)].begins(now),
            None => {
                let new = || [Spans::new(KEPT, PAUSE), Spans::new(KEPT, PAUSE)];
                let times = self.times.entry(route.to_owned()).or_insert_with(new);
                times[place(side)].begins(now);
            }
        }
        true
    }

    fn ends(&mut self, route: &str, side: Side, now: i64) {
        if let Some(times) = self.times.get_mut(route) {
            times[place(side)].ends(now);
        }
    }

    fn between(&self, side: Side, between: &RangeInclusive<i64>) -> Option<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for (route, times) in &self.times {
            if times[place(side)].within(between)? {
                found.insert(route.clone());
            }
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: Side = Side::Extracted;

    fn at(routes: &Routes, from: i64, to: i64) -> Vec<String> {
        let found = routes.between(TO, &(from..=to)).unwrap();
        found.into_iter().collect()
    }

    #[test]
    fn who_was_under_way_at_a_moment_is_known() {
        let mut routes = Routes::default();
        assert!(routes.begins("a", TO, 1_000));
        assert!(routes.begins("b", TO, 1_200));
        routes.ends("a", TO, 1_300);
        assert!(routes.begins("c", Side::Legacy, 1_250));
        assert_eq!(at(&routes, 900, 999), [""; 0]);
        assert_eq!(at(&routes, 1_100, 1_150), ["a"]);
        assert_eq!(at(&routes, 1_250, 1_260), ["a", "b"]);
        // What is under way still may write at any time from its begin.
        assert_eq!(at(&routes, 5_000, 6_000), ["b"]);
        routes.ends("b", TO, 1_400);
        assert_eq!(at(&routes, 5_000, 6_000), [""; 0]);
        let legacy = routes.between(Side::Legacy, &(1_250..=1_250)).unwrap();
        assert_eq!(legacy, BTreeSet::from(["c".to_owned()]));
    }

    #[test]
    fn a_stopped_route_sets_off_no_more() {
        let flights = Flights::default();
        let why = BTreeMap::from([("a".to_owned(), "a row".to_owned())]);
        let before = flights.sets_off("a", TO);
        flights.stop(&why);
        assert!(before.is_some() && flights.sets_off("a", TO).is_none());
        assert!(flights.sets_off("b", TO).is_some());
        assert!(flights.is_stopped("a") && flights.stopped() == why);
        flights.stop(&BTreeMap::new());
        assert!(flights.sets_off("a", TO).is_some() && !flights.is_stopped("a"));
    }

    #[test]
    fn what_is_forgotten_of_one_side_is_not_guessed() {
        let mut routes = Routes::default();
        for n in 0..1_000 {
            routes.begins("a", TO, n * 1_000);
            routes.ends("a", TO, n * 1_000 + 1);
        }
        assert_eq!(at(&routes, 990_500, 990_900), [""; 0]);
        assert_eq!(routes.between(TO, &(100_500..=100_900)), None);
        assert!(routes.between(Side::Legacy, &(100..=200)).is_some());
    }
}
