//! What all cores know of a service's upstreams: who they are, which of them are well, and how they
//! did.
//!
//! A request reads three words of it. They are changed by failures, and by the guard's thread.

pub(crate) mod address;
pub(crate) mod balance;
pub(crate) mod breaker;
pub(crate) mod budget;
pub(crate) mod builds;
pub(crate) mod discovery;
pub(crate) mod gate;
mod health;
mod keeper;
mod outlier;
pub(crate) mod roster;

use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use outgrow_rollout::{ServiceFigures, UpstreamState};
use serde_json::json;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::dial::Dialer;
use crate::rules::{Ejection, ServiceSettings};
use crate::tls::CertificateError;
use address::Address;
use balance::Set;
use breaker::Breaker;
use discovery::{News, Told};
use gate::Gate;
pub(crate) use keeper::Keeper;
use outlier::Outlier;
use roster::{Change, Endpoint, Roster};

/// A service at work, shared by all cores.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) settings: ServiceSettings,
    /// For people: its name, with that of the build.
    pub(crate) title: String,
    /// Of a service with several.
    pub(crate) build: Option<Arc<str>>,
    cores: usize,
    roster: ArcSwap<Roster>,
    /// Who has left with requests under way, or while it was left alone.
    leaving: Mutex<Vec<Arc<Endpoint>>>,
    /// Whether its upstreams are those that the shadow asks.
    shown: Mutex<bool>,
    /// Raised when the roster has changed: a core looks at this word alone.
    epoch: AtomicU64,
    healthy: AtomicU64,
    ejected: AtomicU64,
    /// By source of the settings.
    told: Mutex<Vec<Told>>,
    /// Whether every source has said something.
    known: watch::Sender<bool>,
    begun: Instant,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) breaker: Option<Arc<Breaker>>,
    /// By core, which alone writes it.
    again: Box<[Again]>,
}

/// What one core counts of requests that are to be sent again.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Again {
    tried: AtomicU64,
    refused: AtomicU64,
}

impl Service {
    /// # Errors
    /// Of TLS: what is wrong with which file.
    pub(crate) fn new(settings: ServiceSettings, cores: usize) -> Result<Self, CertificateError> {
        let told: Vec<Told> = settings.upstreams.iter().map(Told::at_first).collect();
        let breaker = settings.rules.breaker.clone();
        let name = &settings.name;
        let build = settings.build.as_ref();
        let service = Self {
            title: build.map_or_else(|| name.clone(), |build| format!("{name}/{build}")),
            build: build.map(|build| build.as_str().into()),
            cores,
            roster: ArcSwap::from_pointee(Roster::empty()),
            leaving: Mutex::default(),
            shown: Mutex::new(build.is_none()),
            epoch: AtomicU64::new(0),
            healthy: AtomicU64::new(0),
            ejected: AtomicU64::new(0),
            told: Mutex::new(told),
            known: watch::Sender::new(false),
            begun: Instant::now(),
            again: (0..cores).map(|_| Again::default()).collect(),
            breaker: breaker.map(|rule| Arc::new(Breaker::new(rule, cores))),
            dialer: Arc::new(Dialer::new(&settings.rules.transport)?),
            settings,
        };
        service.update();
        Ok(service)
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    pub(crate) fn roster(&self) -> Arc<Roster> {
        self.roster.load_full()
    }

    pub(crate) fn well(&self) -> Set {
        Set(self.healthy.load(Relaxed)).without(Set(self.ejected.load(Relaxed)))
    }

    pub(crate) fn since_start(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.begun);
        u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
    }

    /// How an upstream did. Called on the core's own thread only.
    pub(crate) fn observe(
        &self,
        core: usize,
        (endpoint, all): (&Endpoint, Set),
        failed: bool,
        now: Instant,
    ) {
        if let Some(tally) = endpoint.tally(core) {
            tally.count(failed);
        }
        let Some(rule) = &self.settings.rules.ejection else {
            return;
        };
        // The place of one that has left may be another's.
        if all.len() < 2 || endpoint.has_left() {
            return;
        }
        let outlier = &endpoint.outlier;
        if !failed {
            outlier.succeeded();
            return;
        }
        if outlier.failed(rule) {
            self.eject(rule, (endpoint, all), now);
        }
    }

    /// Leaves an upstream alone, if it may be.
    fn eject(&self, rule: &Ejection, (endpoint, all): (&Endpoint, Set), now: Instant) {
        let (outlier, index) = (&endpoint.outlier, endpoint.index);
        let (healthy, ejected) = (self.healthy.load(Relaxed), self.ejected.load(Relaxed));
        if !Set(ejected).has(index)
            && outlier::may_eject(rule, all, Set(healthy), Set(ejected), index)
        {
            outlier.eject(rule, self.since_start(now));
            // Whoever sees it in the set sees its time, too.
            self.ejected.fetch_or(Set::of(index).0, Release);
        }
    }

    /// An answer that looked well by its head did not come whole. Called on the core's own thread only.
    pub(crate) fn broke_off(&self, core: usize, of: (&Endpoint, Set), now: Instant) {
        let (endpoint, all) = of;
        if let Some(tally) = endpoint.tally(core) {
            tally.fail();
        }
        if let Some(breaker) = &self.breaker {
            breaker.broke_off(core, self.since_start(now));
        }
        let rule = self.settings.rules.ejection.as_ref();
        let rule = rule.filter(|_| all.len() > 1 && !endpoint.has_left());
        if let Some(rule) = rule.filter(|rule| endpoint.outlier.broke_off(rule)) {
            self.eject(rule, of, now);
        }
    }

    /// An answer has come whole.
    pub(crate) fn came_whole(&self, endpoint: &Endpoint) {
        endpoint.outlier.came_whole();
        if let Some(breaker) = &self.breaker {
            breaker.came_whole();
        }
    }

    /// A request is sent again, or not because the budget is spent. Called on the core's own thread
    /// only.
    pub(crate) fn count_again(&self, core: usize, tried: bool) {
        let Some(again) = self.again.get(core) else {
            return;
        };
        let counter = if tried { &again.tried } else { &again.refused };
        counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// For the metrics.
    pub(crate) fn figures(&self) -> ServiceFigures {
        let now = self.since_start(Instant::now());
        let roster = self.roster.load();
        let upstreams = roster.iter().map(|e| e.figures(self.state_of(e.index)));
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: fn(&Again) -> &AtomicU64| -> u64 {
            self.again.iter().map(|again| of(again).load(Relaxed)).sum()
        };
        ServiceFigures {
            service: self.settings.name.clone(),
            build: self.settings.build.clone(),
            upstreams: upstreams.collect(),
            circuit: self.breaker.as_ref().map(|breaker| breaker.figures(now)),
            retries: sum(|again| &again.tried),
            retries_refused: sum(|again| &again.refused),
            sources: told.iter().filter_map(Told::figures).collect(),
        }
    }

    fn state_of(&self, index: usize) -> UpstreamState {
        let (healthy, ejected) = (
            Set(self.healthy.load(Relaxed)),
            Set(self.ejected.load(Relaxed)),
        );
        match (healthy.has(index), ejected.has(index)) {
            (false, _) => UpstreamState::Unhealthy,
            (true, true) => UpstreamState::Ejected,
            (true, false) => UpstreamState::Well,
        }
    }

    /// What a check found. `changed` is the new state where this check changed it.
    fn checked(&self, endpoint: &Endpoint, changed: Option<bool>, trouble: Option<String>) {
        *endpoint.trouble() = trouble;
        if endpoint.has_left() {
            return;
        }
        match changed {
            Some(true) => self.healthy.fetch_or(Set::of(endpoint.index).0, Relaxed),
            Some(false) => self.healthy.fetch_and(!Set::of(endpoint.index).0, Relaxed),
            None => 0,
        };
    }

    /// What a source says. Who is named no more gets nothing new; where a source does not know,
    /// what it said last holds.
    pub(crate) fn tell(&self, source: usize, news: News) {
        let name = &self.title;
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(told) = told.get_mut(source) else {
                return;
            };
            told.take(name, news);
        }
        self.update();
    }

    /// Puts a new roster into force where the sources name other upstreams.
    fn update(&self) {
        let (wanted, known) = {
            let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            (discovery::union(&told), told.iter().all(Told::has_spoken))
        };
        let limits = self.settings.rules.limits.as_ref();
        let before = |address: &Address| self.spared(address);
        let roster = self.roster.load();
        let (next, change) = roster.change(&wanted, before, self.cores, limits);
        if !change.is_none() {
            self.enforce(next, &change);
        }
        if known {
            self.known
                .send_if_modified(|known| !std::mem::replace(known, true));
        }
    }

    fn enforce(&self, next: Roster, change: &Change) {
        let name = &self.title;
        let gone = change.left.iter();
        let gone = gone.fold(Set::NONE, |all, endpoint| all.with(endpoint.index));
        let new = change.joined.iter();
        let new = new.fold(Set::NONE, |all, endpoint| all.with(endpoint.index));
        // First: what is said of a place then is said of who has it now.
        change.take_leave();
        self.ejected.fetch_and(!gone.0, Relaxed);
        self.healthy.fetch_and(!gone.0, Relaxed);
        // Taken for well until found to be ill, as at the start.
        self.healthy.fetch_or(new.0, Relaxed);
        self.spare(next.all, &change.joined);
        self.roster.store(Arc::new(next));
        let now = self.since_start(Instant::now());
        let mut leaving = self.leaving();
        leaving.retain(|endpoint| endpoint.in_flight() > 0 || !endpoint.outlier.is_over(now));
        leaving.extend(change.left.iter().cloned());
        drop(leaving);
        self.place(&self.shown());
        let epoch = self.epoch.fetch_add(1, Release);
        if let Some(breaker) = self.breaker.as_ref().filter(|_| !new.is_empty()) {
            breaker.look_again(now);
        }
        if change.surplus > 0 {
            let surplus = change.surplus;
            warn!(service = %name, surplus, "more upstreams than can be used");
        }
        if epoch > 0 {
            for endpoint in &change.joined {
                info!(service = %name, upstream = %endpoint.address, "joined");
            }
            for endpoint in &change.left {
                info!(service = %name, upstream = %endpoint.address, "left");
            }
        }
    }

    /// What is known of one that has left while it was left alone, for as long as it would be: who
    /// is named no more for a moment is no better for it.
    fn spared(&self, address: &Address) -> Option<Arc<Outlier>> {
        let now = self.since_start(Instant::now());
        let leaving = self.leaving();
        let mut known = leaving.iter().rev().filter(|e| e.address == *address);
        let outlier = known.find(|e| !e.outlier.is_over(now))?.outlier.clone();
        Some(outlier)
    }

    /// Who comes back before its time is over waits for the rest of it, if it may.
    fn spare(&self, all: Set, joined: &[Arc<Endpoint>]) {
        let Some(rule) = &self.settings.rules.ejection else {
            return;
        };
        let now = self.since_start(Instant::now());
        for endpoint in joined.iter().filter(|e| !e.outlier.is_over(now)) {
            let (healthy, ejected) = (self.healthy.load(Relaxed), self.ejected.load(Relaxed));
            if outlier::may_eject(rule, all, Set(healthy), Set(ejected), endpoint.index) {
                self.ejected.fetch_or(Set::of(endpoint.index).0, Release);
            }
        }
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<Arc<Endpoint>>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self) -> MutexGuard<'_, bool> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the shadow asks these upstreams: of several builds, those of one.
    fn show(&self, shown: bool) {
        let mut now = self.shown();
        *now = shown;
        self.place(&now);
    }

    /// Says where they are. The roster is read with the lock held, so that the last word is the
    /// newest.
    fn place(&self, shown: &bool) {
        if *shown {
            let roster = self.roster.load();
            let all = roster.iter();
            let places = all.filter_map(|endpoint| self.dialer.place(&endpoint.address));
            self.settings.places.set(places.collect());
        }
    }

    /// Requests up to the end of their answer, those at upstreams that have left included.
    fn in_flight(&self) -> u64 {
        let leaving: u64 = self.leaving().iter().map(|e| e.in_flight()).sum();
        let roster = self.roster.load();
        roster.iter().map(|e| e.in_flight()).sum::<u64>() + leaving
    }

    /// Waits until it is known who the upstreams are. Cancel safe.
    pub(crate) async fn known(&self) {
        // The sender is here: there is always an end of it.
        let _ = self.known.subscribe().wait_for(|known| *known).await;
    }

    /// Why nobody is known.
    pub(crate) fn why_nobody(&self) -> String {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let troubles: Vec<String> = told.iter().filter_map(Told::trouble).collect();
        match troubles.is_empty() {
            true => "nobody has named one yet".to_owned(),
            false => troubles.join("; "),
        }
    }

    /// For `status`.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let now = self.since_start(Instant::now());
        let upstream = |endpoint: &Arc<Endpoint>| {
            let index = endpoint.index;
            let state = self.state_of(index);
            let ejected = state == UpstreamState::Ejected;
            json!({
                "to": endpoint.address.as_str(),
                "state": state,
                "last_check": *endpoint.trouble(),
                "back_in_ms": ejected.then(|| endpoint.outlier.left(now)),
                "waiting": endpoint.gate.as_ref().map_or(0, Gate::waiting),
                "in_flight": endpoint.in_flight(),
                "requests": endpoint.sum(|t| t.requests.load(Relaxed)),
                "failures": endpoint.sum(|t| t.failures.load(Relaxed)),
            })
        };
        let circuit = self.breaker.as_ref().map(|breaker| {
            let (state, left) = breaker.told(now);
            json!({ "state": state, "asked_again_in_ms": left })
        });
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "service": self.settings.name,
            "build": self.settings.build,
            "circuit": circuit,
            "balance": self.settings.rules.balance.name(),
            "upstreams": self.roster.load().iter().map(upstream).collect::<Vec<_>>(),
            "discovery": told.iter().filter_map(Told::describe).collect::<Vec<_>>(),
        })
    }
}
