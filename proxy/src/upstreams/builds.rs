//! The builds of a service: which of them a request goes to, and what is under way at each.
//!
//! A request reads one word of it. Each build is a service of its own below: its own upstreams, health,
//! breaker, connections.

use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use outgrow_rollout::{
    BuildFigures, BuildName, BuildTimes, BuildsState, Revision, Weight, build_bucket,
};

use super::Service;
use crate::counts::builds::{BuildCounts, Total};
use crate::slice::Slice;

/// What is in force, as one word: the active build, the one on trial, the share of the latter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Split {
    active: u16,
    trial: u16,
    weight: u16,
}

impl Split {
    fn word(self) -> u64 {
        u64::from(self.active) | u64::from(self.trial) << 16 | u64::from(self.weight) << 32
    }

    fn of(word: u64) -> Self {
        // Each part is cut to its own bits.
        let part = |at: u32| u16::try_from(word >> at & 0xffff).unwrap_or(0);
        Self {
            active: part(0),
            trial: part(16),
            weight: part(32),
        }
    }
}

/// A build that the guard may take back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Newcomer {
    Trial {
        build: usize,
        active: usize,
        weight: Weight,
    },
    /// All requests were moved to it.
    Switched,
}

/// What control has said, and what the guard did on its own.
#[derive(Debug, Clone)]
struct Held {
    state: BuildsState,
    /// Control has said something.
    heard: bool,
    /// The guard has taken back what this revision has moved.
    lowered: Option<Revision>,
    /// When the active build became another one.
    switched: Option<Instant>,
}

impl Held {
    /// What is in force.
    fn effective(&self) -> BuildsState {
        let lowered = self.lowered == Some(self.state.revision);
        let aborted = lowered.then(|| self.state.aborted()).flatten();
        aborted.map_or_else(|| self.state.clone(), |(_, after)| after)
    }
}

/// When the builds were changed last, and what each had had by then.
#[derive(Debug)]
struct Lately {
    since: Instant,
    totals: Vec<Total>,
}

impl Lately {
    fn now(totals: Vec<Total>) -> Self {
        let since = Instant::now();
        Self { since, totals }
    }
}

/// Shared by all cores.
#[derive(Debug)]
pub(crate) struct Builds {
    service: String,
    /// In the order of the config.
    names: Vec<BuildName>,
    services: Vec<Arc<Service>>,
    split: AtomicU64,
    held: Mutex<Held>,
    /// Of the slices that it answers for.
    counts: Vec<Arc<BuildCounts>>,
    lately: Mutex<Lately>,
    /// Those of proxies that came before this one: at their last connections, or gone.
    earlier: Vec<Weak<Builds>>,
}

impl Builds {
    /// Of all services that have some, the legacy side first. What `before` has in force goes on.
    pub(crate) fn of(
        (services, legacy): (&[Arc<Service>], Option<&Arc<BuildCounts>>),
        slices: &[Arc<Slice>],
        before: &[Arc<Self>],
    ) -> Vec<Arc<Self>> {
        let mut found: Vec<Self> = Vec::new();
        for service in services {
            let Some(build) = &service.settings.build else {
                continue;
            };
            let name = &service.settings.name;
            let at = found.iter().position(|builds| builds.service == *name);
            let at = at.unwrap_or_else(|| {
                let old = before.iter().find(|builds| builds.service == *name);
                let of_service = slices.iter().filter(|s| s.settings.service == *name);
                let counts = of_service.filter_map(|slice| slice.by_build.clone());
                let of_legacy = legacy.filter(|_| services[0].settings.name == *name);
                let counts = counts.chain(of_legacy.cloned());
                found.push(Self::begin(name, build, (counts.collect(), old)));
                found.len() - 1
            });
            if let Some(builds) = found.get_mut(at) {
                builds.names.push(build.clone());
                builds.services.push(service.clone());
            }
        }
        for builds in &found {
            let state = builds.held().effective();
            builds.put(&state);
        }
        found.into_iter().map(Arc::new).collect()
    }

    fn begin(
        service: &str,
        first: &BuildName,
        (counts, old): (Vec<Arc<BuildCounts>>, Option<&Arc<Self>>),
    ) -> Self {
        let held = old.map(|old| old.held().clone());
        let mut earlier: Vec<Weak<Self>> = old.map_or_else(Vec::new, |old| old.earlier.clone());
        earlier.retain(|earlier| earlier.strong_count() > 0);
        earlier.extend(old.map(Arc::downgrade));
        Self {
            service: service.to_owned(),
            names: Vec::new(),
            services: Vec::new(),
            split: AtomicU64::new(0),
            held: Mutex::new(held.unwrap_or_else(|| Held {
                state: BuildsState::new(first.clone()),
                heard: false,
                lowered: None,
                switched: None,
            })),
            counts,
            lately: Mutex::new(Lately::now(Vec::new())),
            earlier,
        }
    }

    pub(crate) fn service(&self) -> &str {
        &self.service
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Plain data: a panic elsewhere cannot leave it half changed.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts control's state into force for every request that begins from now on, those that
    /// connections of earlier proxies bring included.
    pub(crate) fn apply(&self, state: &BuildsState) {
        for earlier in self.earlier.iter().filter_map(Weak::upgrade) {
            earlier.apply_own(state);
        }
        self.apply_own(state);
    }

    fn apply_own(&self, state: &BuildsState) {
        let mut held = self.held();
        let before = held.state.revision;
        if state.revision < before {
            return;
        }
        if state.revision > before {
            let totals = (0..self.names.len()).map(|at| self.total(at)).collect();
            *self.lately() = Lately::now(totals);
        }
        // What control says first is how it was before, not a switch.
        if held.heard && state.active != held.effective().active {
            held.switched = Some(Instant::now());
        }
        held.heard = true;
        held.state = state.clone();
        self.put(&held.effective());
    }

    /// Which state is in force, and whether the guard has taken it back.
    pub(crate) fn guarded(&self) -> (Revision, bool) {
        let held = self.held();
        let revision = held.state.revision;
        (revision, held.lowered == Some(revision))
    }

    /// A build that is on trial, or that all requests were moved to not longer ago than `within`.
    pub(crate) fn newcomer(&self, within: Duration) -> Option<Newcomer> {
        let held = self.held();
        let state = held.effective();
        let at = |build: &BuildName| self.names.iter().position(|name| name == build);
        let active = at(&state.active)?;
        if let Some(trial) = &state.trial {
            let (build, weight) = (at(&trial.build)?, trial.weight);
            return Some(Newcomer::Trial {
                build,
                active,
                weight,
            });
        }
        let recently = held.switched.is_some_and(|at| at.elapsed() < within);
        let known = state
            .before
            .as_ref()
            .is_some_and(|build| at(build).is_some());
        let switched = recently && known && !state.settled;
        switched.then_some(Newcomer::Switched)
    }

    /// Ends the trial of this revision, or goes back to the build before its switch, without asking
    /// anyone. The build that had been moved to.
    pub(crate) fn take_back(&self, revision: Revision) -> Option<BuildName> {
        let mut held = self.held();
        if held.state.revision != revision || held.lowered == Some(revision) {
            return None;
        }
        let (gone, _) = held.state.aborted()?;
        held.lowered = Some(revision);
        self.put(&held.effective());
        drop(held);
        for earlier in self.earlier.iter().filter_map(Weak::upgrade) {
            earlier.take_back(revision);
        }
        Some(gone)
    }

    pub(crate) fn name(&self, build: usize) -> Option<&BuildName> {
        self.names.get(build)
    }

    fn lately(&self) -> MutexGuard<'_, Lately> {
        // Plain data: a panic elsewhere cannot leave it half changed.
        self.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What clients have asked a build, all slices together.
    fn total(&self, build: usize) -> Total {
        let mut total = Total::default();
        for counts in &self.counts {
            counts.add_to(&mut total, build);
        }
        total
    }

    /// Answers of each build for one slice, or of the legacy side for all.
    pub(crate) fn times(&self, slice: Option<&Slice>, counts: &BuildCounts) -> Vec<BuildTimes> {
        let of = |(at, build): (usize, &BuildName)| BuildTimes {
            slice: slice.map(|slice| slice.settings.id.clone()),
            service: self.service.clone(),
            build: build.clone(),
            times: counts.times(at),
            classes: counts.classes(at),
        };
        self.names.iter().enumerate().map(of).collect()
    }

    /// What this proxy has no upstreams of stays as it is: it is one from before that build.
    fn put(&self, state: &BuildsState) {
        let at = |build: &BuildName| {
            let at = self.names.iter().position(|name| name == build)?;
            u16::try_from(at).ok()
        };
        let mut split = Split::of(self.split.load(Acquire));
        split.active = at(&state.active).unwrap_or(split.active);
        let trial = state.trial.as_ref();
        let trial = trial.and_then(|trial| Some((at(&trial.build)?, trial.weight)));
        let (trial, weight) = trial.unwrap_or((split.active, Weight::ZERO));
        (split.trial, split.weight) = (trial, weight.basis_points());
        self.split.store(split.word(), Release);
        for (index, service) in self.services.iter().enumerate() {
            service.show(index == usize::from(split.active));
        }
    }

    /// The number of the build that answers this client; `None` is nobody's own request.
    pub(crate) fn at(&self, client: Option<u64>) -> usize {
        let split = Split::of(self.split.load(Acquire));
        let tries = |client| build_bucket(&self.service, client) < split.weight;
        match split.weight > 0 && client.is_some_and(tries) {
            true => split.trial.into(),
            false => split.active.into(),
        }
    }

    /// The name of the build that a client's requests go to.
    pub(crate) fn name_for(&self, client: u64) -> Option<&BuildName> {
        self.names.get(self.at(Some(client)))
    }

    /// The one that answers everybody, where there is no trial.
    pub(crate) fn only(&self) -> Option<&BuildName> {
        let split = Split::of(self.split.load(Acquire));
        let active = (split.weight == 0).then_some(usize::from(split.active))?;
        self.names.get(active)
    }

    /// What is under way at a build, here and in proxies that came before.
    fn in_flight(&self, build: &BuildName) -> u64 {
        let own = |builds: &Self| {
            let all = builds.names.iter().zip(&builds.services);
            let of = all.filter(|(name, _)| *name == build);
            of.map(|(_, service)| service.in_flight()).sum::<u64>()
        };
        let earlier = self.earlier.iter().filter_map(Weak::upgrade);
        own(self) + earlier.map(|earlier| own(&earlier)).sum::<u64>()
    }

    /// How each build is, in the order of the config.
    pub(crate) fn figures(&self) -> Vec<BuildFigures> {
        let lately = self.lately();
        let lately_ms = u64::try_from(lately.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let nothing = Total::default();
        let of = |(at, (name, service)): (usize, (&BuildName, &Arc<Service>))| {
            let figures = service.figures();
            let before = lately.totals.get(at).unwrap_or(&nothing);
            let well = |state| state == outgrow_rollout::UpstreamState::Well;
            BuildFigures {
                build: name.clone(),
                upstreams: figures.upstreams.len() as u64,
                well: figures.upstreams.iter().filter(|u| well(u.state)).count() as u64,
                in_flight: self.in_flight(name),
                requests: figures.upstreams.iter().map(|u| u.requests).sum(),
                failures: figures.upstreams.iter().map(|u| u.failures).sum(),
                lately: self.total(at).since(before),
                lately_ms,
            }
        };
        let all = self.names.iter().zip(&self.services);
        all.enumerate().map(of).collect()
    }

    /// For `status`.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let held = self.held();
        serde_json::json!({
            "service": self.service,
            "state": held.state,
            "lowered_in_revision": held.lowered,
        })
    }
}

#[cfg(test)]
mod tests {
    use outgrow_rollout::Trial;

    use super::*;
    use crate::rules::ServiceSettings;

    fn services(builds: &[&str]) -> Vec<Arc<Service>> {
        let one = |build: &&str| {
            let at = std::net::SocketAddr::from(([10, 0, 0, 1], 80));
            let settings = ServiceSettings {
                build: Some(BuildName::new(*build).unwrap()),
                ..ServiceSettings::new("shop", vec![at])
            };
            Arc::new(Service::new(settings, 1).unwrap())
        };
        builds.iter().map(one).collect()
    }

    fn state(revision: u64, active: &str, trial: Option<(&str, &str)>) -> BuildsState {
        let mut state = BuildsState::new(BuildName::new(active).unwrap());
        state.revision = Revision(revision);
        state.trial = trial.map(|(build, weight)| Trial {
            build: BuildName::new(build).unwrap(),
            weight: Weight::from_percent(weight).unwrap(),
        });
        state
    }

    fn share_of(builds: &Builds, at: usize) -> u64 {
        let client = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (0..1_000)
            .filter(|n| builds.at(Some(client(*n))) == at)
            .count() as u64
    }

    #[test]
    fn a_switch_is_new_for_a_while_and_a_start_is_none() {
        let builds = Builds::of((&services(&["blue", "green"]), None), &[], &[]);
        let hour = Duration::from_secs(3_600);
        let switched = |revision, active: &str, before: &str| BuildsState {
            before: Some(BuildName::new(before).unwrap()),
            ..state(revision, active, None)
        };
        // As the store has it.
        builds[0].apply(&switched(3, "blue", "green"));
        assert_eq!(builds[0].newcomer(hour), None);
        builds[0].apply(&switched(4, "green", "blue"));
        let new = Some(Newcomer::Switched);
        assert_eq!(builds[0].newcomer(hour), new);
        assert_eq!(builds[0].newcomer(Duration::ZERO), None, "it was long ago");
        let next = Builds::of((&services(&["blue", "green"]), None), &[], &builds);
        assert_eq!(next[0].newcomer(hour), new, "over a reload, too");
        let settled = BuildsState {
            settled: true,
            ..switched(5, "green", "blue")
        };
        next[0].apply(&settled);
        assert_eq!(next[0].newcomer(hour), None);
    }

    #[test]
    fn what_is_in_force_is_in_force_in_earlier_proxies_too() {
        let old = Builds::of((&services(&["blue", "green"]), None), &[], &[]);
        assert_eq!((old[0].at(Some(1)), old[0].at(None)), (0, 0));
        old[0].apply(&state(1, "green", None));
        assert_eq!((old[0].at(Some(1)), old[0].at(None)), (1, 1));
        // Under another config the order is another one, and there is one build more.
        let new = Builds::of((&services(&["red", "green", "blue"]), None), &[], &old);
        assert_eq!(new[0].at(Some(1)), 1, "what was in force goes on");
        new[0].apply(&state(2, "blue", Some(("green", "30"))));
        assert!((250..350).contains(&share_of(&new[0], 1)));
        assert_eq!((new[0].at(None), old[0].at(None)), (2, 0));
        assert_eq!(share_of(&old[0], 1), share_of(&new[0], 1));
        new[0].apply(&state(1, "green", None));
        assert_eq!(new[0].at(None), 2, "an older revision comes too late");
        // What the guard takes back it takes back everywhere, until another revision comes.
        assert_eq!(new[0].take_back(Revision(1)), None, "of an older state");
        let green = BuildName::new("green").unwrap();
        assert_eq!(new[0].take_back(Revision(2)), Some(green));
        assert_eq!(new[0].take_back(Revision(2)), None, "once");
        assert_eq!((share_of(&new[0], 1), share_of(&old[0], 1)), (0, 0));
        new[0].apply(&state(2, "blue", Some(("green", "30"))));
        assert_eq!(share_of(&new[0], 1), 0, "the same state again");
        // A build that an earlier proxy has never heard of.
        new[0].apply(&state(3, "red", None));
        assert_eq!((new[0].at(None), old[0].at(None)), (0, 0));
    }
}
