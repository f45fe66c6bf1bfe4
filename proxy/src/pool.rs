//! The upstreams of one service as one core sees them: its connections, and what it knows of
//! each.
//!
//! Connections at rest: last in, first out, capped, dropped when idle too long. One comes back
//! when its answer's body has ended and nothing of the request is left on it; a body that is
//! dropped half-way closes its connection, which cancels the request.

mod flow;
mod reach;
mod send;

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::CONTENT_LENGTH;
use http::{HeaderValue, request};
use outgrow_rollout::key_hash;

use crate::error::UpstreamError;
use crate::grpc;
use crate::inbound::{ClientBody, Hints, Kept};
use crate::limits::{Allowance, Allowed, Limits};
use crate::reply::Reply;
use crate::rules::Balance;
use crate::trail::Trail;
use crate::upstreams::Service;
use crate::upstreams::address::Address;
use crate::upstreams::balance::{PeakEwma, Picker, Set};
use crate::upstreams::budget::Budget;
use crate::upstreams::gate::Turn;
use crate::upstreams::roster::{Endpoint, Roster};
use crate::wire::Wire;
pub(crate) use flow::Flow;
use reach::Trunk;

/// The shortest time between two sweeps.
const SWEEP_MIN: Duration = Duration::from_millis(100);

/// A service on one core.
#[derive(Debug)]
pub(crate) struct Cluster {
    core: usize,
    service: Arc<Service>,
    picker: RefCell<Picker>,
    /// By place.
    members: RefCell<Vec<Option<Rc<Member>>>>,
    all: Cell<Set>,
    /// The roster that these are of.
    epoch: Cell<u64>,
    limits: Limits,
    /// To the head of an answer, over all tries.
    timeout: Duration,
    budget: Cell<Budget>,
    begun: Instant,
}

/// One upstream on one core.
#[derive(Debug)]
struct Member {
    endpoint: Arc<Endpoint>,
    #[allow(clippy::vec_box)] // One word to move, on every request.
    idle: RefCell<Vec<Box<Wire>>>,
    ewma: Cell<PeakEwma>,
    trunk: Trunk,
}

/// A request in flight: counted as such until this is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    cluster: Rc<Cluster>,
    member: Rc<Member>,
    /// Where the upstream has only so many.
    turn: Option<Turn>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(tally) = self.member.endpoint.tally(self.cluster.core) {
            tally.leave();
        }
    }
}

/// A connection in use.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) slot: Slot,
    pub(crate) flow: Flow,
    /// When its answer's head had come.
    pub(crate) answered: Instant,
    /// When all of it must have come, where the client says so.
    pub(crate) until: Option<Instant>,
    /// And where the config does.
    pub(crate) end: Option<Instant>,
}

impl Lent {
    /// Of an answer whose head has just come.
    fn new(slot: Slot, flow: Flow, (until, end): (Option<Instant>, Option<Instant>)) -> Self {
        Self {
            slot,
            flow,
            answered: Instant::now(),
            until,
            end,
        }
    }

    /// What is said of no route in particular.
    pub(crate) fn allowance(&self) -> &Allowance {
        &self.slot.cluster.limits.allowance
    }

    /// How long the upstream took to the answer's head. What its client took to bring the request is
    /// not in it.
    pub(crate) fn took(&self, begun: Instant) -> Duration {
        let begun = self.flow.since().unwrap_or(begun);
        self.answered.saturating_duration_since(begun)
    }

    /// Who answered.
    pub(crate) fn upstream(&self) -> &Address {
        self.slot.member.to()
    }

    /// Whether the answer comes by HTTP/2.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.flow, Flow::Stream(_))
    }

    /// Whether the upstream has failed, as far as an answer's head tells.
    pub(crate) fn has_failed(&self, answer: &Reply<()>) -> bool {
        let failed = || answer.known().is_some_and(grpc::has_failed);
        answer.status().is_server_error() || self.is_stream() && failed()
    }

    /// The answer has broken off, or fallen silent. It was counted as a good one when its head came.
    pub(crate) fn broke_off(&self) {
        let cluster = &self.slot.cluster;
        let of = (&*self.slot.member.endpoint, cluster.all.get());
        cluster.service.broke_off(cluster.core, of, Instant::now());
    }

    /// Of an answer that has come whole. Puts the connection back, if it can carry another request.
    pub(crate) fn give_back(self, now: Instant) {
        let Self { slot, flow, .. } = self;
        slot.cluster.service.came_whole(&slot.member.endpoint);
        // A stream is over with its answer; its connection never was the request's alone.
        let Flow::Line(mut wire) = flow else {
            return;
        };
        // Nobody would take it from one that has left.
        if !wire.is_reusable() || slot.member.endpoint.has_left() {
            return;
        }
        wire.rest(now);
        let mut idle = slot.member.idle.borrow_mut();
        if idle.len() < slot.cluster.limits.pool_max {
            idle.push(wire);
            if let Some(tally) = slot.member.endpoint.tally(slot.cluster.core) {
                tally.rest(idle.len());
            }
        }
    }
}

/// A request that can be sent again as long as its body was not touched, or is kept.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) parts: Box<request::Parts>,
    /// `None` for a request without a body, which may be sent again; and when the body is gone.
    pub(crate) body: Option<ClientBody>,
    /// When all of the answer must have come, where the client says so (gRPC). Then this counts and
    /// no time of the service.
    pub(crate) until: Option<Instant>,
    /// Where each try is to be a span.
    pub(crate) told: Option<Rc<Trail>>,
    /// Where interim answers go.
    pub(crate) hints: Option<Hints>,
    pub(crate) allowed: Allowed,
}

impl Outgoing {
    /// When all of the answer must have come: as the client says, and as the config does.
    fn ends(&self) -> (Option<Instant>, Option<Instant>) {
        (self.until, self.allowed.end)
    }

    /// Not to be asked of one whose body is gone.
    fn may_repeat(&self) -> bool {
        self.parts.method.is_idempotent()
            && match &self.body {
                None => true,
                Some(ClientBody::Kept(kept)) => kept.is_whole(),
                Some(_) => false,
            }
    }

    /// Sees to it that the body can be sent again, where it may be and there is room for it. Whether
    /// the request may be repeated then, unless its body turns out to be longer.
    fn keep(&mut self, most: usize) -> bool {
        if !self.parts.method.is_idempotent() {
            return false;
        }
        self.body = match self.body.take() {
            Some(ClientBody::Kept(kept)) => Some(ClientBody::Kept(kept)),
            Some(body) if most > 0 && self.length().is_none_or(|told| told <= most as u64) => {
                Some(ClientBody::Kept(Kept::new(body, most)))
            }
            other => other,
        };
        self.may_repeat()
    }

    /// How long its body is, where its head says so.
    fn length(&self) -> Option<u64> {
        let told = self.parts.headers.get(CONTENT_LENGTH)?;
        told.to_str().ok()?.parse().ok()
    }

    /// The body for one try.
    fn hand(&mut self) -> Option<ClientBody> {
        match &self.body {
            Some(ClientBody::Kept(kept)) => Some(ClientBody::Kept(kept.again())),
            _ => self.body.take(),
        }
    }

    /// What came back of one try.
    fn take_back(&mut self, body: Option<ClientBody>) {
        // One that is kept is there, and from its start.
        let kept = matches!(&self.body, Some(ClientBody::Kept(kept)) if kept.is_whole());
        if let Some(body) = body
            && !kept
        {
            self.body = Some(body);
        }
    }

    /// It is not sent again, whatever comes.
    fn settle(&mut self) {
        if let Some(ClientBody::Kept(kept)) = &self.body {
            kept.settle();
            self.body = None;
        }
    }
}

/// Whose request it is, for a ring.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Client<'a> {
    /// A slice's cohort.
    Cohort(u64),
    Address(&'a HeaderValue),
    /// The proxy itself asks.
    Nobody,
}

impl Member {
    fn new(endpoint: &Arc<Endpoint>, now: Duration) -> Self {
        Self {
            endpoint: endpoint.clone(),
            idle: RefCell::default(),
            ewma: Cell::new(PeakEwma::new(now)),
            trunk: Trunk::default(),
        }
    }

    fn to(&self) -> &Address {
        &self.endpoint.address
    }
}

impl Cluster {
    pub(crate) fn new(core: usize, service: Arc<Service>, limits: Limits) -> Self {
        let begun = Instant::now();
        let rules = &service.settings.rules;
        // Each core with another one, so that they do not choose in step.
        let seed = RandomState::new().build_hasher().finish();
        let cluster = Self {
            core,
            picker: RefCell::new(Picker::new(rules.balance, seed)),
            members: RefCell::default(),
            all: Cell::new(Set::NONE),
            epoch: Cell::new(0),
            timeout: rules.timeout.unwrap_or(limits.request_timeout),
            budget: Cell::default(),
            service,
            limits,
            begun,
        };
        cluster.refresh();
        cluster
    }

    /// To the head of an answer, all tries included.
    pub(crate) fn patience(&self) -> Duration {
        self.timeout
    }

    /// Sees to it that the members are those of the roster in force. Costs a look at one word
    /// where nothing has changed.
    fn refresh(&self) {
        let epoch = self.service.epoch();
        if epoch != self.epoch.get() {
            self.epoch.set(epoch);
            self.follow(&self.service.roster());
        }
    }

    /// Who stays keeps its connections and all that is known of it. Connections of one that has
    /// left end with their requests.
    #[cold]
    fn follow(&self, roster: &Roster) {
        let now = self.begun.elapsed();
        let mut members = self.members.borrow_mut();
        members.resize_with(roster.places.len(), || None);
        for (member, place) in members.iter_mut().zip(&roster.places) {
            let stays = match (member.as_ref(), place) {
                (Some(member), Some(endpoint)) => Arc::ptr_eq(&member.endpoint, endpoint),
                (None, None) => true,
                _ => false,
            };
            if !stays {
                *member = place.as_ref().map(|e| Rc::new(Member::new(e, now)));
            }
        }
        let named = roster.iter().map(|e| (e.index, e.address.as_str()));
        self.picker.borrow_mut().follow(named);
        self.all.set(roster.all);
    }

    /// Of a service with several.
    pub(crate) fn build(&self) -> Option<&Arc<str>> {
        self.service.build.as_ref()
    }

    fn member(&self, index: usize) -> Option<Rc<Member>> {
        self.members.borrow().get(index)?.clone()
    }

    fn take(&self, member: &Member, now: Instant) -> Option<Box<Wire>> {
        let mut idle = member.idle.borrow_mut();
        while let Some(mut wire) = idle.pop() {
            let rested = wire.rested(now);
            if rested > self.limits.pool_idle {
                // All below are older still.
                idle.clear();
                return None;
            }
            if !wire.has_rested(rested) && wire.is_alive() {
                if let Some(tally) = member.endpoint.tally(self.core) {
                    tally.reused(idle.len());
                }
                return Some(wire);
            }
        }
        None
    }

    /// Closes what is idle for too long or was closed by its upstream, for ever: nobody else
    /// looks at connections that are not used again.
    pub(crate) async fn sweep(self: Rc<Self>) {
        let mut tick = tokio::time::interval((self.limits.pool_idle / 2).max(SWEEP_MIN));
        loop {
            let now = tick.tick().await.into_std();
            self.refresh();
            for member in self.members.borrow().iter().flatten() {
                let mut idle = member.idle.borrow_mut();
                idle.retain_mut(|wire| {
                    let rested = wire.rested(now);
                    rested <= self.limits.pool_idle && !wire.has_rested(rested) && wire.is_alive()
                });
                let trunks = member.trunk.sweep(now);
                if trunks == 0 && idle.is_empty() {
                    member.trunk.forget();
                }
                if let Some(tally) = member.endpoint.tally(self.core) {
                    tally.rest(idle.len() + trunks);
                }
            }
        }
    }

    fn pick(&self, among: Set, client: Client<'_>, out: &Outgoing, now: Instant) -> Option<usize> {
        if among.len() < 2 {
            return among.iter().next();
        }
        let now = now.saturating_duration_since(self.begun);
        let members = self.members.borrow();
        let at = |index: usize| members.get(index).and_then(Option::as_ref);
        let of = |member: &Member| {
            let tally = member.endpoint.tally(self.core);
            tally.map_or(0, |tally| tally.in_flight())
        };
        let load = |index| at(index).map_or(u32::MAX, |member| of(member));
        let cost = |index| {
            let cost = |member: &Rc<Member>| member.ewma.get().cost(now, of(member));
            at(index).map_or(f64::INFINITY, cost)
        };
        let key = || self.key(client, out);
        self.picker.borrow_mut().pick(among, key, load, cost)
    }

    fn key(&self, client: Client<'_>, out: &Outgoing) -> u64 {
        let rules = &self.service.settings.rules;
        let field = rules
            .hash_by
            .as_ref()
            .and_then(|n| out.parts.headers.get(n));
        match (field, client) {
            (Some(value), _) | (None, Client::Address(value)) => key_hash("", value.as_bytes()),
            (None, Client::Cohort(hash)) => hash,
            (None, Client::Nobody) => 0,
        }
    }

    fn enter(self: &Rc<Self>, member: Rc<Member>, turn: Option<Turn>) -> Slot {
        if let Some(tally) = member.endpoint.tally(self.core) {
            tally.enter();
        }
        Slot {
            cluster: self.clone(),
            member,
            turn,
        }
    }

    /// How an upstream did, for whoever chooses next. Says when the try ended.
    fn observe(
        &self,
        member: &Member,
        sent: &Result<(Reply<()>, Lent), UpstreamError>,
        begun: Instant,
    ) -> Instant {
        let (failed, now) = match sent {
            Ok((response, lent)) => (lent.has_failed(response), lent.answered),
            Err(error) if error.is_upstreams() => (true, Instant::now()),
            Err(_) => return Instant::now(),
        };
        let of = (&*member.endpoint, self.all.get());
        self.service.observe(self.core, of, failed, now);
        let rules = &self.service.settings.rules;
        if rules.balance == Balance::PowerOfTwo && self.all.get().len() > 1 {
            let took = match sent {
                Ok((_, lent)) => lent.took(begun),
                Err(_) => now.saturating_duration_since(begun),
            };
            let mut seen = member.ewma.get();
            seen.observe(now.saturating_duration_since(self.begun), took, failed);
            member.ewma.set(seen);
        }
        now
    }
}
