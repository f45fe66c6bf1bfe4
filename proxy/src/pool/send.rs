//! One request to a service: past its breaker, to one upstream after another, within its time.

use std::rc::Rc;
use std::time::{Duration, Instant};

use http::StatusCode;

use tokio::time::timeout_at;

use super::{Client, Cluster, Lent, Member, Outgoing, Slot};
use crate::body::Body;
use crate::error::UpstreamError;
use crate::reply::Reply;
use crate::rules::Retries;
use crate::spans::Try;
use crate::upstreams::balance::{Set, candidates};
use crate::upstreams::breaker::Pass;
use crate::upstreams::gate::Gate;

type Sent = Result<(Reply<()>, Lent), UpstreamError>;

/// How often one request may be sent again after an upstream may have seen it.
struct Again<'a> {
    rule: Option<&'a Retries>,
    left: u32,
    /// A try may end before the time does. Not where it turns out to be the last one only when its
    /// body is on the way, for a head that does not say how long that is.
    timed: bool,
}

impl Again<'_> {
    fn per_try(&self) -> Option<Duration> {
        // The last try has all the time that is left.
        self.rule
            .filter(|_| self.left > 0 && self.timed)
            .and_then(|rule| rule.per_try_timeout)
    }

    /// Whether this outcome may be tried again, the budget aside.
    fn wants(&self, sent: &Sent) -> bool {
        let Some(rule) = self.rule.filter(|_| self.left > 0) else {
            return false;
        };
        match sent {
            Ok((response, _)) => rule.statuses.contains(&response.status()),
            Err(error) => error.is_upstreams(),
        }
    }
}

/// Whether the service failed; `None` says nothing of it.
fn verdict(sent: &Sent, pass: &Pass) -> Option<bool> {
    match sent {
        Ok((response, lent)) => {
            let status = response.status();
            let busy = matches!(pass, Pass::Probe(_)) && status == StatusCode::TOO_MANY_REQUESTS;
            Some(lent.has_failed(response) || busy)
        }
        Err(error) => error.is_upstreams().then_some(true),
    }
}

impl Cluster {
    /// Sends to the upstream that the balance chooses; to the next one where no connection can be
    /// had; and again, as far as the rules allow, where the request may be repeated.
    ///
    /// Not cancel safe for writes: dropping it leaves open whether the upstream acted.
    pub(crate) async fn send(
        self: &Rc<Self>,
        out: &mut Outgoing,
        client: Client<'_>,
        begun: Instant,
    ) -> Sent {
        let service = &self.service;
        let pass = match &service.breaker {
            Some(breaker) => breaker.enter(|| service.since_start(begun)).map(Some),
            None => Ok(None),
        };
        let pass = pass.map_err(|ms| UpstreamError::Open {
            service: service.title.clone(),
            left: Duration::from_millis(ms),
        })?;
        let sent = self.tries(out, client, begun).await;
        if let (Some(breaker), Some(pass)) = (&service.breaker, pass)
            && let Some(failed) = verdict(&sent, &pass)
        {
            breaker.record(self.core, pass, failed, service.since_start(Instant::now()));
        }
        sent
    }

    async fn tries(
        self: &Rc<Self>,
        out: &mut Outgoing,
        client: Client<'_>,
        begun: Instant,
    ) -> Sent {
        let mut again = self.again(out);
        let usual = begun + self.timeout;
        let until = out.until.unwrap_or(usual);
        let impatient = until < usual;
        let until = out.allowed.end.map_or(until, |end| end.min(until));
        let (mut tried, mut last, mut from, mut before) = (Vec::new(), None, begun, 0);
        self.refresh();
        if self.all.get().is_empty() {
            // In a box, as all that few requests wait for.
            Box::pin(self.known(until)).await;
        }
        loop {
            let among = candidates(self.all.get(), self.service.well(), self.places(&tried));
            let chosen = self.pick(among, client, out, from);
            let Some(member) = chosen.and_then(|index| self.member(index)) else {
                break;
            };
            let slot = match member.endpoint.gate {
                None => self.enter(member, None),
                Some(_) => Box::pin(self.admit(member, among, (client, out), until)).await?,
            };
            let bound = match again.per_try() {
                Some(per_try) => until.min(from + per_try),
                None => until,
            };
            let member = slot.member.clone();
            let told = Try::begin(out, (&self.service, member.to()), before);
            let mut sent = self.attempt(slot, out, from, bound).await;
            if let Some(mut told) = told {
                told.ended(&sent);
            }
            before += 1;
            if impatient && let Err(UpstreamError::Timeout { to, within }) = sent {
                sent = Err(UpstreamError::Expired { to, within });
            }
            from = self.observe(&member, &sent, from);
            self.refresh();
            match sent {
                // Nothing was sent: that is no second time.
                Err(error) if error.is_unreachable() && from < until => {
                    tried.push(member);
                    last = Some(error);
                }
                sent if again.wants(&sent)
                    && out.may_repeat()
                    && from < until
                    && self.afford(from) =>
                {
                    again.left -= 1;
                    if let Ok((_, lent)) = sent {
                        // What has come whole gives its connection back.
                        drop(Body::answer(lent, None));
                    }
                    tried.push(member);
                    if self.all.get().without(self.places(&tried)).is_empty() {
                        tried.clear();
                    }
                }
                sent => {
                    if !matches!(&sent, Err(error) if error.may_pass()) {
                        out.settle();
                    }
                    return sent;
                }
            }
        }
        Err(last.unwrap_or_else(|| UpstreamError::Nobody {
            service: self.service.title.clone(),
            why: self.service.why_nobody(),
        }))
    }

    /// Where those are that were tried. One that has left has none: its place may be another's.
    fn places(&self, tried: &[Rc<Member>]) -> Set {
        let members = self.members.borrow();
        let here = |member: &&Rc<Member>| {
            let now = members.get(member.endpoint.index).and_then(Option::as_ref);
            now.is_some_and(|now| Rc::ptr_eq(now, member))
        };
        let tried = tried.iter().filter(here);
        tried.fold(Set::NONE, |all, member| all.with(member.endpoint.index))
    }

    /// Waits until it is known who the upstreams are, as long as for a connection.
    async fn known(&self, until: Instant) {
        let until = until.min(Instant::now() + self.limits.connect_timeout);
        // Where it stays unknown the answer says so.
        let _ = timeout_at(until.into(), self.service.known()).await;
        self.refresh();
    }

    fn again(&self, out: &mut Outgoing) -> Again<'_> {
        let rule = self.service.settings.rules.retries.as_ref();
        if let Some(rule) = rule {
            let mut budget = self.budget.get();
            budget.deposit(rule.share);
            self.budget.set(budget);
        }
        let attempts = rule.filter(|rule| out.keep(rule.body_max));
        Again {
            rule,
            left: attempts.map_or(0, |rule| rule.attempts),
            timed: out.body.is_none() || out.length().is_some(),
        }
    }

    fn afford(&self, now: Instant) -> bool {
        let mut budget = self.budget.get();
        let enough = budget.withdraw(now.saturating_duration_since(self.begun));
        self.budget.set(budget);
        self.service.count_again(self.core, enough);
        enough
    }

    /// A turn at the chosen upstream, or at another one that has one free; else it waits for the
    /// chosen one's.
    async fn admit(
        self: &Rc<Self>,
        chosen: Rc<Member>,
        among: Set,
        (client, out): (Client<'_>, &Outgoing),
        until: Instant,
    ) -> Result<Slot, UpstreamError> {
        let (mut at, mut open) = (Some(chosen.clone()), among);
        while let Some(member) = at {
            open = open.without(Set::of(member.endpoint.index));
            if let Some(turn) = member.endpoint.gate.as_ref().and_then(Gate::enter) {
                return Ok(self.enter(member, Some(turn)));
            }
            let next = self.pick(open, client, out, Instant::now());
            at = next.and_then(|index| self.member(index));
        }
        let mut slot = self.enter(chosen.clone(), None);
        let Some(gate) = &chosen.endpoint.gate else {
            return Ok(slot);
        };
        let turn = gate.wait(until.into()).await;
        slot.turn = Some(turn.map_err(|why| UpstreamError::Crowded {
            to: chosen.to().clone(),
            why,
        })?);
        Ok(slot)
    }
}
