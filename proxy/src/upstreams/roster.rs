//! Who the upstreams of a service are at the moment.
//!
//! Each has a place, which is its bit in the words that all cores share. It keeps its place, and all
//! that is known of it, as long as it is named; who comes later takes a place that is free.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outgrow_rollout::{UpstreamFigures, UpstreamState};

use super::address::Address;
use super::balance::{Set, UPSTREAMS_MAX};
use super::gate::Gate;
use super::outlier::Outlier;
use crate::rules::UpstreamLimits;

/// One upstream, shared by all cores.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: Address,
    /// Its place.
    pub(crate) index: usize,
    /// That of the same one before, where it comes back while it is left alone.
    pub(super) outlier: Arc<Outlier>,
    /// Where nothing is bounded there is none.
    pub(crate) gate: Option<Gate>,
    /// By core.
    tallies: Box<[Tally]>,
    /// What the last check found wrong, for `status`. Touched by the guard's thread only.
    trouble: Mutex<Option<String>>,
    left: AtomicBool,
    /// Its checks have begun.
    checked: AtomicBool,
}

/// What one core counts of one upstream. Only that core writes; a line of its own keeps the others
/// from waiting for it.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Tally {
    /// Up to the end of the answer.
    in_flight: AtomicU32,
    pub(super) requests: AtomicU64,
    pub(super) failures: AtomicU64,
    connected: AtomicU64,
    reused: AtomicU64,
    idle: AtomicU32,
}

fn raise(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}

impl Tally {
    pub(crate) fn enter(&self) {
        let now = self.in_flight.load(Relaxed).wrapping_add(1);
        self.in_flight.store(now, Relaxed);
    }

    pub(crate) fn leave(&self) {
        let now = self.in_flight.load(Relaxed).wrapping_sub(1);
        self.in_flight.store(now, Relaxed);
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// A connection was made.
    pub(crate) fn connected(&self) {
        raise(&self.connected);
    }

    /// A connection was taken from those at rest; so many are left.
    pub(crate) fn reused(&self, left: usize) {
        raise(&self.reused);
        self.rest(left);
    }

    /// So many connections are at rest.
    pub(crate) fn rest(&self, idle: usize) {
        self.idle
            .store(u32::try_from(idle).unwrap_or(u32::MAX), Relaxed);
    }

    /// One that was counted as well has failed after all.
    pub(super) fn fail(&self) {
        raise(&self.failures);
    }

    pub(super) fn count(&self, failed: bool) {
        raise(&self.requests);
        if failed {
            raise(&self.failures);
        }
    }
}

impl Endpoint {
    fn new(
        (address, outlier): (Address, Arc<Outlier>),
        index: usize,
        cores: usize,
        limits: Option<&UpstreamLimits>,
    ) -> Self {
        Self {
            address,
            index,
            outlier,
            gate: limits.map(Gate::new),
            tallies: (0..cores).map(|_| Tally::default()).collect(),
            trouble: Mutex::default(),
            left: AtomicBool::new(false),
            checked: AtomicBool::new(false),
        }
    }

    pub(crate) fn tally(&self, core: usize) -> Option<&Tally> {
        self.tallies.get(core)
    }

    pub(super) fn sum(&self, of: impl Fn(&Tally) -> u64) -> u64 {
        self.tallies.iter().map(of).sum()
    }

    /// Requests up to the end of their answer.
    pub(super) fn in_flight(&self) -> u64 {
        self.sum(|tally| tally.in_flight().into())
    }

    /// For the metrics.
    pub(super) fn figures(&self, state: UpstreamState) -> UpstreamFigures {
        UpstreamFigures {
            upstream: self.address.to_string(),
            state,
            requests: self.sum(|t| t.requests.load(Relaxed)),
            failures: self.sum(|t| t.failures.load(Relaxed)),
            in_flight: self.in_flight(),
            waiting: self.gate.as_ref().map_or(0, |gate| gate.waiting() as u64),
            connected: self.sum(|t| t.connected.load(Relaxed)),
            reused: self.sum(|t| t.reused.load(Relaxed)),
            idle: self.sum(|t| u64::from(t.idle.load(Relaxed))),
            ejections: self.outlier.ejections(),
        }
    }

    /// It is named no more: what is under way ends, and nothing new is sent.
    pub(crate) fn has_left(&self) -> bool {
        self.left.load(Relaxed)
    }

    /// True the first time.
    pub(super) fn begin_checks(&self) -> bool {
        !self.checked.swap(true, Relaxed)
    }

    pub(super) fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All of them, by place.
#[derive(Debug)]
pub(crate) struct Roster {
    pub(crate) places: Vec<Option<Arc<Endpoint>>>,
    pub(crate) all: Set,
}

/// What a new roster changes.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) joined: Vec<Arc<Endpoint>>,
    pub(super) left: Vec<Arc<Endpoint>>,
    /// There was no place for so many.
    pub(super) surplus: usize,
}

impl Roster {
    pub(super) fn empty() -> Self {
        Self {
            places: Vec::new(),
            all: Set::NONE,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.places.iter().flatten()
    }

    /// The roster of who is wanted now. Who leaves is told so by [`Change::take_leave`], when the
    /// new one is in force. `before` is what is known of who was here.
    pub(super) fn change(
        &self,
        wanted: &[Address],
        before: impl Fn(&Address) -> Option<Arc<Outlier>>,
        cores: usize,
        limits: Option<&UpstreamLimits>,
    ) -> (Self, Change) {
        let mut places = self.places.clone();
        let mut change = Change::default();
        for place in &mut places {
            if place.as_ref().is_some_and(|e| !wanted.contains(&e.address)) {
                change.left.extend(place.take());
            }
        }
        for address in wanted {
            if places.iter().flatten().any(|e| e.address == *address) {
                continue;
            }
            let free = places.iter().position(Option::is_none);
            let index = free.unwrap_or(places.len());
            if index >= UPSTREAMS_MAX {
                change.surplus += 1;
                continue;
            }
            let named = (address.clone(), before(address).unwrap_or_default());
            let endpoint = Arc::new(Endpoint::new(named, index, cores, limits));
            change.joined.push(endpoint.clone());
            match places.get_mut(index) {
                Some(place) => *place = Some(endpoint),
                None => places.push(Some(endpoint)),
            }
        }
        let all = places.iter().flatten();
        let all = all.fold(Set::NONE, |all, endpoint| all.with(endpoint.index));
        (Self { places, all }, change)
    }
}

impl Change {
    pub(super) fn is_none(&self) -> bool {
        self.joined.is_empty() && self.left.is_empty()
    }

    pub(super) fn take_leave(&self) {
        for endpoint in &self.left {
            endpoint.left.store(true, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(port: u16) -> Address {
        std::net::SocketAddr::from(([10, 0, 0, 1], port)).into()
    }

    fn change(roster: &Roster, ports: &[u16]) -> (Roster, Change) {
        let wanted: Vec<Address> = ports.iter().copied().map(at).collect();
        let (next, change) = roster.change(&wanted, |_| None, 2, None);
        change.take_leave();
        (next, change)
    }

    #[test]
    fn who_stays_keeps_its_place_and_who_comes_takes_a_free_one() {
        let (first, joined) = change(&Roster::empty(), &[1, 2, 3]);
        assert_eq!((joined.joined.len(), first.all), (3, Set(0b111)));
        let (second, moved) = change(&first, &[3, 1, 4, 5]);
        assert_eq!((moved.joined.len(), moved.left.len()), (2, 1));
        assert!(moved.left[0].has_left());
        let named: Vec<&str> = second.iter().map(|e| e.address.as_str()).collect();
        assert_eq!(
            named,
            ["10.0.0.1:1", "10.0.0.1:4", "10.0.0.1:3", "10.0.0.1:5"]
        );
        assert!(Arc::ptr_eq(
            second.places[2].as_ref().unwrap(),
            first.places[2].as_ref().unwrap()
        ));
        let (_, same) = change(&second, &[1, 3, 4, 5]);
        assert!(same.is_none());
    }

    #[test]
    fn there_are_places_for_as_many_as_a_word_has_bits() {
        let ports: Vec<u16> = (1..=70).collect();
        let (full, change_) = change(&Roster::empty(), &ports);
        assert_eq!((full.all, change_.surplus), (Set(u64::MAX), 6));
        let (next, change_) = change(&full, &ports[6..]);
        assert_eq!((next.all, change_.surplus), (Set(u64::MAX), 0));
        assert_eq!(change_.joined.len(), 6);
    }

    proptest! {
        #[test]
        fn the_roster_is_who_is_wanted(rounds in proptest::collection::vec(
            proptest::collection::btree_set(0_u16..90, 0..80), 1..8)) {
            let mut roster = Roster::empty();
            for wanted in rounds {
                let ports: Vec<u16> = wanted.iter().copied().collect();
                let (next, changed) = change(&roster, &ports);
                prop_assert_eq!(next.all.len() as usize, ports.len().min(UPSTREAMS_MAX));
                prop_assert_eq!(changed.surplus, ports.len().saturating_sub(UPSTREAMS_MAX));
                for (index, place) in next.places.iter().enumerate() {
                    prop_assert_eq!(next.all.has(index), place.is_some());
                    if let Some(endpoint) = place {
                        prop_assert_eq!(endpoint.index, index);
                        prop_assert!(!endpoint.has_left());
                    }
                }
                roster = next;
            }
        }
    }
}
