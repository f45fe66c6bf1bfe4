//! A request of a slice: which side answers it, and what becomes of one that fails.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::SET_COOKIE;
use http::{HeaderValue, StatusCode};
use outgrow_rollout::{Live, Side, Weight, bucket, side_for};
use tokio::sync::oneshot;

use super::cached::Touched;
use super::copied::Copied;
use super::verdict::{self, Verdict};
use super::{RETRY_PAUSE, hand_down, outcome};
use crate::body::Body;
use crate::cohort::Cohort;
use crate::core::Core;
use crate::error::Refusal;
use crate::filters::path::Targets;
use crate::filters::{Fallback, Filters};
use crate::guard::ErrorEvent;
use crate::headers;
use crate::hold::{Patience, Refused};
use crate::inbound::ClientHalf;
use crate::pool::{Client, Lent, Outgoing};
use crate::recent::millis;
use crate::reply::Reply;
use crate::slice::Slice;
use crate::trail::Trail;

/// A request that belongs to a slice.
pub(crate) struct Call {
    pub(super) core: Rc<Core>,
    /// Index of its slice.
    pub(super) index: usize,
    /// Number of its route.
    pub(super) route: usize,
    pub(super) cohort: Cohort,
    /// By what its client is known among the builds of the legacy side.
    pub(super) origin: u64,
    /// Where the sides are not asked as the client asks.
    pub(super) targets: Option<Box<Targets>>,
    /// Who asks, signed, where a token or a key has shown it.
    pub(super) caller: Option<HeaderValue>,
    /// What a tester asked for, with the right secret.
    pub(super) wish: Option<Side>,
    /// The client's fields before any was taken off, for the caller's session and the shadow.
    pub(super) mirrored: bool,
    pub(super) trail: Option<Rc<Trail>>,
}

/// An upstream's answer before its body is wrapped.
pub(super) struct Answered {
    pub(super) response: Reply<()>,
    pub(super) lent: Lent,
    pub(super) side: Side,
    /// Of the extracted side; 0 where its service has none.
    pub(super) build: Option<usize>,
    pub(super) latency: Duration,
}

impl Call {
    pub(super) fn slice(&self) -> &Arc<Slice> {
        &self.core.shared.slices[self.index]
    }

    /// As its route was declared.
    pub(super) fn label(&self) -> &Arc<str> {
        &self.core.shared.table.route(self.route).label
    }

    pub(super) fn filters(&self) -> Option<&Filters> {
        self.core.shared.table.route(self.route).filters.as_deref()
    }

    /// Which side answers this read, and whether the other may step in.
    pub(crate) fn side_of_read(&self, live: &Live) -> Side {
        if let Some(side) = self.wish {
            return side;
        }
        let side = side_for(bucket(self.cohort.hash), live.weight);
        if side != live.writer
            && self
                .slice()
                .recent
                .ahead(self.cohort.hash, self.cohort.wrote)
        {
            return live.writer;
        }
        side
    }

    /// Testers are served in any case: they see whether others can be.
    pub(super) fn open(&self, live: &Live) -> Result<(), Refusal> {
        match live.maintenance && self.wish.is_none() {
            true => Err(Refusal::Maintenance),
            false => Ok(()),
        }
    }

    pub(super) async fn read(
        &self,
        out: &mut Outgoing,
        client: Option<ClientHalf>,
    ) -> Result<Reply<Body>, Refusal> {
        let live = self.slice().live();
        self.open(&live)?;
        let copied = self.copied(&live, out);
        match self.keeps() {
            None => self.pass((&live, copied), out, client).await,
            // Boxed, so that reads of other routes are no larger for it.
            Some(kept) => Box::pin(self.keep(kept, (&live, copied), out, client)).await,
        }
    }

    /// A read whose answer is the side's own.
    pub(super) async fn pass(
        &self,
        (live, copied): (&Live, Option<Copied>),
        out: &mut Outgoing,
        client: Option<ClientHalf>,
    ) -> Result<Reply<Body>, Refusal> {
        let side = self.side_of_read(live);
        let alone = client.is_none();
        let answered = self.ask_in_turn(side, out, alone, |_| {}).await?;
        let copy = copied.map(|copied| self.copy(copied, &answered));
        let filters = self.filters();
        let verdict = || self.verdict(answered.side, answered.build);
        let answer = (answered.response, answered.lent);
        let mut response = hand_down(answer, client, copy, filters, verdict);
        self.stick(live, &mut response, None);
        Ok(response)
    }

    /// Asks a side for a read; where it fails, the legacy side, as far as it may step in, with
    /// what `again` makes of the request.
    pub(super) async fn ask_in_turn(
        &self,
        side: Side,
        out: &mut Outgoing,
        alone: bool,
        again: impl FnOnce(&mut Outgoing),
    ) -> Result<Answered, Refusal> {
        // Only a request without a body can be asked twice.
        let may_fall_back =
            side == Side::Extracted && self.wish.is_none() && out.body.is_none() && alone;
        let answered = self.ask(side, out).await;
        if !may_fall_back || !self.steps_in(&answered) {
            return answered;
        }
        again(out);
        self.ask(Side::Legacy, out).await
    }

    /// Whether an outcome is one for which the legacy side steps in on this route.
    fn steps_in(&self, answered: &Result<Answered, Refusal>) -> bool {
        let own = self.filters().and_then(|filters| filters.fallback);
        match (own, answered) {
            (None, _) => self.slice().settings.fallback && failed(answered),
            (Some(Fallback::Never), _) => false,
            (Some(Fallback::Unsent), Err(Refusal::Upstream(error))) => error.is_unsent(),
            (Some(Fallback::Unsent), _) => false,
            (Some(Fallback::Failed), _) => failed(answered),
        }
    }

    /// Writes go to the writer, whoever holds them up.
    pub(super) async fn write(
        self: Box<Self>,
        mut out: Outgoing,
        client: Option<ClientHalf>,
    ) -> Result<Reply<Body>, Refusal> {
        let limits = &self.core.shared.settings.limits;
        let patience = Patience {
            within: limits.hold_timeout,
            most: limits.held_max,
            bytes: limits.held_bytes,
        };
        let body = out.body.as_ref();
        let unread = body.map_or(0, |body| body.unread(&out.parts.headers));
        let passage = self
            .slice()
            .gate
            .pass(patience, || unread)
            .await
            .map_err(|refused| match refused {
                Refused::TooLong => Refusal::Held,
                Refused::TooMany => Refusal::Crowded,
            })?;
        // Only now: while it waited the writer may have changed.
        let live = self.slice().live();
        self.open(&live)?;
        let copied = self.copied_write(&live, &mut out);
        let touched = Touched::by(&self.core, &out);
        let (done, answer) = oneshot::channel();
        // A task of its own, because a client that leaves must not end the count of a write that
        // its upstream is still carrying out. It belongs to the core and ends by its timeouts.
        tokio::task::spawn_local(async move {
            let going = self.slice().writes.begins();
            let mut answered = self.ask_writer(live.writer, &mut out).await;
            drop(going);
            let wrote = answered.is_ok().then(SystemTime::now);
            if let Some(wrote) = wrote {
                self.slice().recent.wrote(self.cohort.hash, wrote);
            }
            if let Some(touched) = touched {
                touched.after(
                    answered
                        .as_mut()
                        .ok()
                        .map(|answered| &mut answered.response),
                );
            }
            drop(passage);
            let response = answered.map(|answered| {
                let copy = copied.map(|copied| self.copy(copied, &answered));
                let filters = self.filters();
                let verdict = || self.verdict(answered.side, answered.build);
                let answer = (answered.response, answered.lent);
                let mut response = hand_down(answer, client, copy, filters, verdict);
                self.stick(&live, &mut response, wrote);
                response
            });
            // Refused when the client has left.
            let _ = done.send(response);
        });
        let lost = || Refusal::Identity("the write's task ended early".to_owned());
        answer.await.map_err(|_| lost())?
    }

    /// Tries again while nothing could be sent: a service that restarts is back within seconds.
    async fn ask_writer(&self, writer: Side, out: &mut Outgoing) -> Result<Answered, Refusal> {
        let until = Instant::now() + self.core.shared.settings.limits.connect_retry;
        loop {
            match self.ask(writer, out).await {
                Err(Refusal::Upstream(error)) if error.may_pass() && Instant::now() < until => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                ended => return ended,
            }
        }
    }

    /// The same for a question that its client does not wait for: the trail is the client's.
    pub(super) fn behind(&self) -> Self {
        Self {
            core: self.core.clone(),
            index: self.index,
            route: self.route,
            cohort: self.cohort,
            origin: self.origin,
            targets: self.targets.clone(),
            caller: self.caller.clone(),
            wish: None,
            mirrored: false,
            trail: None,
        }
    }

    /// Asks one side, and counts how it did.
    pub(super) async fn ask(&self, side: Side, out: &mut Outgoing) -> Result<Answered, Refusal> {
        if let Some(targets) = &self.targets {
            out.parts.uri = targets.of(side).clone();
        }
        if let Some(identities) = &self.core.identities {
            // The other side's, which was asked before.
            out.parts.headers.remove(headers::IDENTITY);
            if side == Side::Extracted {
                let legacy = self.core.legacy();
                let caller = match &self.caller {
                    Some(caller) => Some(caller.clone()),
                    // In a box, so that who is asked nothing is no larger for it.
                    None => Box::pin(identities.of(legacy, &out.parts.headers)).await?,
                };
                if let Some(caller) = caller {
                    out.parts.headers.insert(headers::IDENTITY, caller);
                }
            }
        }
        // Only now: who waited for a caller's identity is not to come to a build that is drained.
        let (cluster, build) = match side {
            Side::Legacy => self.core.legacy_to(self.origin),
            Side::Extracted => {
                let (cluster, build) = self.core.extracted(self.index, self.cohort.hash);
                (cluster, Some(build))
            }
        };
        if let Some(trail) = &self.trail {
            trail.asks(side, cluster.build());
        }
        let begun = Instant::now();
        let asking = Client::Cohort(self.cohort.hash);
        let sent = cluster.send(out, asking, begun).await;
        let status = sent.as_ref().ok().map(|(response, _)| response.status());
        let outcome = outcome(&sent, begun);
        if let Some(outcome) = outcome {
            self.count((side, build), status, outcome);
        }
        let (response, lent) = sent?;
        let latency = outcome.map(|(_, latency)| latency).unwrap_or_default();
        if let Some(trail) = &self.trail {
            trail.answered(&lent, begun);
        }
        Ok(Answered {
            response,
            lent,
            side,
            build,
            latency,
        })
    }

    /// Counts how a side did, and tells the guard where it has failed.
    fn count(
        &self,
        (side, build): (Side, Option<usize>),
        status: Option<StatusCode>,
        (error, latency): (bool, Duration),
    ) {
        let index = self.core.index;
        let routes = &self.core.shared.routes;
        routes.count(index, self.route, (side, status), (error, latency));
        self.slice().counts.count(index, side, error, latency);
        if side == Side::Legacy {
            let who = (build, self.origin);
            self.core.count_legacy(who, status, (error, latency));
        } else if let (Some(counts), Some(build)) = (&self.slice().by_build, build) {
            let who = (index, build, self.cohort.hash);
            counts.count(who, status, (error, latency));
        }
        if error {
            verdict::tell(&self.core, self.event(side, build));
        }
    }

    /// As whose answers are kept: what another build has said is as if of another route.
    pub(super) fn kept_as(&self, side: Side) -> usize {
        let build = match side {
            Side::Legacy => self.core.legacy_to(self.origin).1.unwrap_or(0),
            Side::Extracted => self.core.build(self.index, self.cohort.hash),
        };
        let routes = self.core.shared.routes.other() + 1;
        self.route + build * routes
    }

    fn event(&self, side: Side, build: Option<usize>) -> ErrorEvent {
        ErrorEvent {
            slice: Some(self.index),
            side,
            build,
            key: self.cohort.hash,
        }
    }

    pub(super) fn verdict(&self, side: Side, build: Option<usize>) -> Verdict {
        Verdict {
            core: self.core.clone(),
            slice: Some(self.index),
            event: Some(self.event(side, build)),
            route: self.route,
            side,
        }
    }

    /// Gives a client without a key its cookie, where a split makes it matter; and one that has written what
    /// tells any proxy so, where its reads would go to a side that may not have that yet.
    pub(super) fn stick(&self, live: &Live, response: &mut Reply<Body>, wrote: Option<SystemTime>) {
        let side = side_for(bucket(self.cohort.hash), live.weight);
        let behind = side != live.writer && self.slice().recent.is_linked();
        let wrote = wrote.filter(|_| behind).map(millis);
        let split = live.weight > Weight::ZERO;
        let cookie = self.cohort.issue(&self.core.shared.cookies, (split, wrote));
        if let Some(cookie) = cookie {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
    }
}

pub(super) fn failed(answered: &Result<Answered, Refusal>) -> bool {
    match answered {
        Ok(answered) => answered.lent.has_failed(&answered.response),
        Err(Refusal::Upstream(error)) => !error.is_clients(),
        Err(Refusal::Identity(_)) => true,
        Err(_) => false,
    }
}
