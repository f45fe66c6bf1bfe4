//! What the guard's thread does for a service.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Instant;

use tracing::{info, warn};

use super::balance::Set;
use super::breaker::Window;
use super::discovery::Resolver;
use super::{Service, discovery, health};

/// Looks after one service.
#[derive(Debug)]
pub(crate) struct Keeper {
    service: Arc<Service>,
    /// Those that were said to be ejected.
    told: Set,
    /// Whether the circuit was said to be open.
    told_open: bool,
    window: Window,
    /// The roster whose upstreams are checked.
    checked: u64,
}

impl Keeper {
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Self {
            service,
            told: Set::NONE,
            told_open: false,
            window: Window::default(),
            checked: 0,
        }
    }

    /// Begins to ask who the upstreams are, and how they are. All of it ends with the runtime of
    /// this thread.
    pub(crate) fn begin(&mut self, resolver: &Resolver) {
        discovery::begin(&self.service, resolver);
        let service = self.service.clone();
        tokio::task::spawn_local(async move {
            service.dialer.watch(&service.title).await;
        });
        self.check();
    }

    /// Checks who has joined. A check of one that has left ends by itself.
    fn check(&mut self) {
        let epoch = self.service.epoch();
        let before = std::mem::replace(&mut self.checked, epoch);
        let Some(rule) = self.service.settings.rules.health.as_ref() else {
            return;
        };
        if before == epoch {
            return;
        }
        for endpoint in self.service.roster().iter() {
            if endpoint.begin_checks() {
                let (service, endpoint) = (self.service.clone(), endpoint.clone());
                tokio::task::spawn_local(health::watch(service, rule.clone(), endpoint));
            }
        }
    }

    /// Takes back those whose time is over, and says what has changed.
    pub(crate) fn look(&mut self, now: Instant) {
        let now = self.service.since_start(now);
        self.check();
        self.look_at_circuit(now);
        let service = &self.service;
        let Some(rule) = &service.settings.rules.ejection else {
            return;
        };
        let ejected = Set(service.ejected.load(Acquire));
        self.told = self.told.and(ejected);
        if ejected.is_empty() {
            return;
        }
        let roster = service.roster();
        for endpoint in roster.iter().filter(|e| ejected.has(e.index)) {
            let (name, to, index) = (&service.title, &endpoint.address, endpoint.index);
            if !self.told.has(index) {
                let ms = endpoint.outlier.left(now);
                warn!(service = %name, upstream = %to, ms, "left alone: it failed too often in a row");
                self.told = self.told.with(index);
            }
            if endpoint.outlier.is_over(now) {
                endpoint.outlier.try_again(rule);
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
            let service = &self.service.title;
            match open {
                true => warn!(%service, ms, "spared: it failed too often"),
                false => info!(%service, "no longer spared"),
            }
        }
    }
}
