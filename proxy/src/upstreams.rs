//! What all cores know of a service's upstreams: which of them are well, and how they did.
//!
//! A request reads two words of it. Words are changed by failures, and by the guard's thread.

pub(crate) mod address;
pub(crate) mod balance;
pub(crate) mod breaker;
pub(crate) mod budget;
pub(crate) mod gate;
mod health;
mod outlier;

use std::sync::atomic::{
    AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::json;
use tracing::{info, warn};

use crate::rules::ServiceSettings;
use address::Address;
use balance::Set;
use breaker::{Breaker, Window};
use gate::Gate;
use outlier::Outlier;

/// A service at work, shared by all cores.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) settings: ServiceSettings,
    pub(crate) all: Set,
    healthy: AtomicU64,
    ejected: AtomicU64,
    outliers: Box<[Outlier]>,
    /// What the last check found wrong, for `status`. Touched by the guard's thread only.
    troubles: Box<[Mutex<Option<String>>]>,
    /// By core, then by upstream.
    tallies: Box<[Box<[Tally]>]>,
    begun: Instant,
    pub(crate) breaker: Option<Arc<Breaker>>,
    /// By upstream; none where nothing is bounded.
    pub(crate) gates: Box<[Gate]>,
}

/// What one core counts of one upstream. Only that core writes.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Up to the end of the answer.
    in_flight: AtomicU32,
    requests: AtomicU64,
    failures: AtomicU64,
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

    fn count(&self, failed: bool) {
        let raise = |counter: &AtomicU64| {
            counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
        };
        raise(&self.requests);
        if failed {
            raise(&self.failures);
        }
    }
}

impl Service {
    pub(crate) fn new(settings: ServiceSettings, cores: usize) -> Self {
        let count = settings.upstreams.len();
        let all = Set::first(count);
        Self {
            all,
            healthy: AtomicU64::new(all.0),
            ejected: AtomicU64::new(0),
            outliers: (0..count).map(|_| Outlier::default()).collect(),
            troubles: (0..count).map(|_| Mutex::default()).collect(),
            tallies: (0..cores)
                .map(|_| (0..count).map(|_| Tally::default()).collect())
                .collect(),
            begun: Instant::now(),
            breaker: settings
                .rules
                .breaker
                .clone()
                .map(|rule| Arc::new(Breaker::new(rule, cores))),
            gates: match &settings.rules.limits {
                Some(rule) => (0..count).map(|_| Gate::new(rule)).collect(),
                None => Box::default(),
            },
            settings,
        }
    }

    pub(crate) fn well(&self) -> Set {
        Set(self.healthy.load(Relaxed)).without(Set(self.ejected.load(Relaxed)))
    }

    pub(crate) fn tally(&self, core: usize, index: usize) -> Option<&Tally> {
        self.tallies.get(core)?.get(index)
    }

    pub(crate) fn since_start(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.begun);
        u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
    }

    /// How an upstream did. Called on the core's own thread only.
    pub(crate) fn observe(&self, core: usize, index: usize, failed: bool, now: Instant) {
        if let Some(tally) = self.tally(core, index) {
            tally.count(failed);
        }
        let Some(rule) = &self.settings.rules.ejection else {
            return;
        };
        let Some(outlier) = self.outliers.get(index).filter(|_| self.all.len() > 1) else {
            return;
        };
        if !failed {
            outlier.succeeded();
            return;
        }
        let (healthy, ejected) = (self.healthy.load(Relaxed), self.ejected.load(Relaxed));
        if outlier.failed(rule)
            && !Set(ejected).has(index)
            && outlier::may_eject(rule, self.all, Set(healthy), Set(ejected), index)
        {
            outlier.eject(rule, self.since_start(now));
            // Whoever sees it in the set sees its time, too.
            self.ejected.fetch_or(Set::of(index).0, Release);
        }
    }

    fn trouble(&self, index: usize) -> MutexGuard<'_, Option<String>> {
        self.troubles[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What a check found. `changed` is the new state where this check changed it.
    fn checked(&self, index: usize, changed: Option<bool>, trouble: Option<String>) {
        *self.trouble(index) = trouble;
        match changed {
            Some(true) => self.healthy.fetch_or(Set::of(index).0, Relaxed),
            Some(false) => self.healthy.fetch_and(!Set::of(index).0, Relaxed),
            None => 0,
        };
    }

    /// For `status`.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let now = self.since_start(Instant::now());
        let (healthy, ejected) = (
            Set(self.healthy.load(Relaxed)),
            Set(self.ejected.load(Relaxed)),
        );
        let upstream = |(index, to): (usize, &Address)| {
            let of_cores = || self.tallies.iter().filter_map(|core| core.get(index));
            let state = match (healthy.has(index), ejected.has(index)) {
                (false, _) => "unhealthy",
                (true, true) => "ejected",
                (true, false) => "well",
            };
            json!({
                "to": to.as_str(),
                "state": state,
                "last_check": *self.trouble(index),
                "back_in_ms": ejected.has(index).then(|| self.outliers[index].left(now)),
                "waiting": self.gates.get(index).map_or(0, Gate::waiting),
                "in_flight": of_cores().map(|t| u64::from(t.in_flight())).sum::<u64>(),
                "requests": of_cores().map(|t| t.requests.load(Relaxed)).sum::<u64>(),
                "failures": of_cores().map(|t| t.failures.load(Relaxed)).sum::<u64>(),
            })
        };
        let upstreams = self.settings.upstreams.iter().enumerate().map(upstream);
        let circuit = self.breaker.as_ref().map(|breaker| {
            let (state, left) = breaker.told(now);
            json!({ "state": state, "asked_again_in_ms": left })
        });
        json!({
            "service": self.settings.name,
            "circuit": circuit,
            "balance": self.settings.rules.balance.name(),
            "upstreams": upstreams.collect::<Vec<_>>(),
        })
    }
}

/// What the guard's thread does for a service.
#[derive(Debug)]
pub(crate) struct Keeper {
    service: Arc<Service>,
    /// Those that were said to be ejected.
    told: Set,
    /// Whether the circuit was said to be open.
    told_open: bool,
    window: Window,
}

impl Keeper {
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Self {
            service,
            told: Set::NONE,
            told_open: false,
            window: Window::default(),
        }
    }

    /// Begins the health checks. They end with the runtime of this thread.
    pub(crate) fn begin(&self) {
        let Some(rule) = &self.service.settings.rules.health else {
            return;
        };
        for index in self.service.all.iter() {
            let (service, rule) = (self.service.clone(), rule.clone());
            tokio::task::spawn_local(health::watch(service, rule, index));
        }
    }

    /// Takes back those whose time is over, and says what has changed.
    pub(crate) fn look(&mut self, now: Instant) {
        let now = self.service.since_start(now);
        self.look_at_circuit(now);
        let service = &self.service;
        let Some(rule) = &service.settings.rules.ejection else {
            return;
        };
        let ejected = Set(service.ejected.load(Acquire));
        for index in ejected.iter() {
            let outlier = &service.outliers[index];
            let (name, to) = (&service.settings.name, &service.settings.upstreams[index]);
            if !self.told.has(index) {
                let ms = outlier.left(now);
                warn!(service = %name, upstream = %to, ms, "left alone: it failed too often in a row");
                self.told = self.told.with(index);
            }
            if outlier.is_over(now) {
                outlier.try_again(rule);
                service.ejected.fetch_and(!Set::of(index).0, Relaxed);
                self.told = self.told.without(Set::of(index));
                info!(service = %name, upstream = %to, "asked again");
            }
        }
    }

    fn look_at_circuit(&mut self, now: u64) {
        let Some(breaker) = &self.service.breaker else {
            return;
        };
        self.window.look(breaker, now);
        let (state, ms) = breaker.told(now);
        let open = state != "closed";
        if open != self.told_open {
            self.told_open = open;
            let service = &self.service.settings.name;
            match open {
                true => warn!(%service, ms, "spared: it failed too often"),
                false => info!(%service, "no longer spared"),
            }
        }
    }
}
