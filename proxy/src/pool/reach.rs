//! One try at one upstream: on a connection of its own from the pool, on a stream of a shared one,
//! or on a new one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::UPGRADE;
use tokio::sync::Mutex;
use tokio::time::{timeout, timeout_at};
use tracing::warn;

use super::{Cluster, Flow, Lent, Member, Outgoing, Slot};
use crate::deadline::earliest;
use crate::dial::{DialError, Spoken};
use crate::error::UpstreamError;
use crate::reply::Reply;
use crate::upstreams::address::Address;
use crate::wire::{Mux, Stream, Times, Unanswered, Wire, WireError};

/// Connections of HTTP/2 to one upstream on one core. Where all are full requests wait for a place.
const TRUNKS_MAX: usize = 64;

/// A connection of HTTP/2 without requests is kept this long: a new one costs more than with
/// HTTP/1.1, and there is no race for its last moment, because a request that comes too late may be
/// sent again.
const TRUNK_IDLE: Duration = Duration::from_secs(60);

/// How often one request is sent to one upstream, all told, where that did not look at it.
const UNSEEN_MAX: usize = 3;

/// Between two lines of the log on the same upstream's certificate.
const TELL_AGAIN: Duration = Duration::from_secs(10);

type Answered = Result<(Reply<()>, Lent), UpstreamError>;

/// The connections of HTTP/2 with one upstream.
#[derive(Debug, Default)]
pub(super) struct Trunk {
    all: RefCell<Vec<Rc<Mux>>>,
    /// What was spoken on the last connection.
    spoken: Cell<Option<Spoken>>,
    /// Who makes a connection; the others wait for that one.
    making: Mutex<()>,
    /// When its failing TLS was last told of.
    told: Cell<Option<Instant>>,
}

impl Trunk {
    /// One with room.
    fn open(&self) -> Option<Rc<Mux>> {
        self.all.borrow().iter().find(|mux| mux.takes()).cloned()
    }

    /// Where there are as many as there may be: the one that has least to do.
    fn least(&self) -> Option<Rc<Mux>> {
        let mut all = self.all.borrow_mut();
        all.retain(|mux| mux.is_alive());
        if all.len() < TRUNKS_MAX {
            return None;
        }
        all.iter().min_by_key(|mux| mux.streams()).cloned()
    }

    /// Lets go of those that nobody uses; says how many are at rest.
    pub(super) fn sweep(&self, now: Instant) -> usize {
        let mut all = self.all.borrow_mut();
        all.retain(|mux| {
            let fresh = |since| now.saturating_duration_since(since) <= TRUNK_IDLE;
            mux.is_alive() && mux.rested().is_none_or(fresh)
        });
        all.iter().filter(|mux| mux.streams() == 0).count()
    }

    /// With no connection left, the next one may speak otherwise.
    pub(super) fn forget(&self) {
        if self.all.borrow().is_empty() {
            self.spoken.set(None);
        }
    }
}

/// A connection, of whichever kind.
enum Reached {
    /// Shared; whether it was there before.
    Mux(Rc<Mux>, bool),
    Wire(Box<Wire>),
}

impl Cluster {
    /// Asks one upstream, until `until`.
    pub(super) async fn attempt(
        &self,
        slot: Slot,
        out: &mut Outgoing,
        begun: Instant,
        until: Instant,
    ) -> Answered {
        let dialer = &self.service.dialer;
        let lines = match dialer.spoken() {
            Some(spoken) => spoken == Spoken::Lines,
            // HTTP/2 changes no protocol.
            None => {
                slot.member.trunk.spoken.get() == Some(Spoken::Lines)
                    || out.parts.headers.contains_key(UPGRADE)
            }
        };
        if lines {
            return self.on_lines(slot, out, begun, until).await;
        }
        // In a box, so that a request of HTTP/1.1 has no room for it.
        Box::pin(self.on_streams(slot, out, begun, until)).await
    }

    /// A connection from the pool may have died: then the request is sent again on a new one, if it may
    /// be repeated and nothing of an answer came. More than that is a matter of the rules.
    async fn on_lines(
        &self,
        slot: Slot,
        out: &mut Outgoing,
        begun: Instant,
        until: Instant,
    ) -> Answered {
        let member = slot.member.clone();
        let to = member.to();
        let ends = out.ends();
        let lend = |wire| Lent::new(slot, Flow::Line(wire), ends);
        if let Some(mut wire) = self.take(&member, begun) {
            let may_repeat = out.may_repeat();
            match self.ask(to, &mut wire, out, (begun, until)).await {
                Ok(response) => return Ok((response, lend(wire))),
                Err(UpstreamError::Broken { .. })
                    if may_repeat && out.may_repeat() && !wire.has_heard() => {}
                Err(error) => return Err(error),
            }
        }
        // In a box, so that who finds a connection has no room for making one.
        let mut wire = Box::pin(self.connect(&member, until)).await?;
        let asked = self.ask(to, &mut wire, out, (begun, until));
        Ok((asked.await?, lend(wire)))
    }

    async fn connect(&self, member: &Member, until: Instant) -> Result<Box<Wire>, UpstreamError> {
        let within = self.connecting(until);
        let made = timeout(within, self.service.dialer.dial_lines(member.to())).await;
        let stream = self.made(member, within, made)?;
        Ok(self.connected(member, stream))
    }

    /// What the upstream has not looked at is sent again on another connection; and once what may be
    /// repeated, where a connection that was there before has died.
    async fn on_streams(
        &self,
        slot: Slot,
        out: &mut Outgoing,
        begun: Instant,
        until: Instant,
    ) -> Answered {
        let member = slot.member.clone();
        let to = member.to();
        let ends = out.ends();
        let lend = |flow| Lent::new(slot, flow, ends);
        let (mut tries, mut spare) = (0, true);
        loop {
            let (mux, known) = match self.reach(&member, until).await? {
                Reached::Mux(mux, known) => (mux, known),
                Reached::Wire(mut wire) => {
                    let response = self.ask(to, &mut wire, out, (begun, until)).await?;
                    return Ok((response, lend(Flow::Line(wire))));
                }
            };
            let (may_repeat, bare) = (out.may_repeat(), out.body.is_none());
            let times = times(out, (begun, until));
            let body = out.hand();
            let request = (&*out.parts, body);
            let how = (self.limits.headers_max, out.hints.as_ref());
            let asked = mux.ask(request, to, &times, how).await;
            let Unanswered {
                error,
                unseen,
                body,
            } = match asked {
                Ok((response, answer)) => {
                    return Ok((response, lend(Flow::Stream(Box::new(answer)))));
                }
                Err(unanswered) => unanswered,
            };
            let whole = bare || body.is_some() || may_repeat && out.may_repeat();
            out.take_back(body);
            tries += 1;
            let again = match &error {
                WireError::Late => {
                    // Perhaps nobody is there any more: the next one is not to find that out. A
                    // client that waits for less than usual says nothing of it.
                    if ends.0.is_none() {
                        mux.retire();
                    }
                    false
                }
                _ if unseen => whole,
                // A reset is an answer: then the connection is there.
                WireError::Stream(error) if error.is_io() => {
                    may_repeat && out.may_repeat() && known && std::mem::take(&mut spare)
                }
                _ => false,
            };
            if !again || tries >= UNSEEN_MAX || Instant::now() >= until {
                return Err(broken(to, error, (begun, until)));
            }
        }
    }

    /// A stream's connection with room for one more; one is made at a time.
    async fn reach(&self, member: &Rc<Member>, until: Instant) -> Result<Reached, UpstreamError> {
        let trunk = &member.trunk;
        if let Some(mux) = trunk.open() {
            self.reused(member);
            return Ok(Reached::Mux(mux, true));
        }
        let within = self.connecting(until);
        let bound = tokio::time::Instant::now() + within;
        let late = |_| UpstreamError::Connect {
            to: member.to().clone(),
            why: format!("no connection within {within:?}"),
        };
        let _making = timeout_at(bound, trunk.making.lock()).await.map_err(late)?;
        if let Some(mux) = trunk.open().or_else(|| trunk.least()) {
            self.reused(member);
            return Ok(Reached::Mux(mux, true));
        }
        let dialer = &self.service.dialer;
        let made = timeout_at(bound, async {
            match trunk.spoken.get() {
                // Learnt while it waited.
                Some(Spoken::Lines) if dialer.asks() => {
                    Ok((dialer.dial_lines(member.to()).await?, Spoken::Lines))
                }
                _ => dialer.dial(member.to()).await,
            }
        });
        let (stream, spoken) = self.made(member, within, made.await)?;
        trunk.spoken.set(Some(spoken));
        if spoken == Spoken::Lines {
            return Ok(Reached::Wire(self.connected(member, stream)));
        }
        let mux = timeout_at(bound, Mux::new(stream, dialer.is_safe())).await;
        let mux = mux.map_err(late)?.map_err(|error| UpstreamError::Connect {
            to: member.to().clone(),
            why: error.to_string(),
        })?;
        let mux = Rc::new(mux);
        trunk.all.borrow_mut().push(mux.clone());
        if let Some(tally) = member.endpoint.tally(self.core) {
            tally.connected();
        }
        Ok(Reached::Mux(mux, false))
    }

    fn connecting(&self, until: Instant) -> Duration {
        let left = until.saturating_duration_since(Instant::now());
        self.limits.connect_timeout.min(left)
    }

    fn reused(&self, member: &Member) {
        if let Some(tally) = member.endpoint.tally(self.core) {
            tally.reused(0);
        }
    }

    fn connected(&self, member: &Member, stream: Stream) -> Box<Wire> {
        if let Some(tally) = member.endpoint.tally(self.core) {
            tally.connected();
        }
        let names = self.service.settings.rules.field_names;
        Box::new(Wire::new(stream, Instant::now()).spelling(names))
    }

    /// What became of making a connection.
    fn made<T, L>(
        &self,
        member: &Member,
        within: Duration,
        made: Result<Result<T, DialError>, L>,
    ) -> Result<T, UpstreamError> {
        let to = member.to().clone();
        match made {
            Ok(Ok(made)) => Ok(made),
            Ok(Err(DialError::Io(error))) => Err(UpstreamError::Connect {
                to,
                why: error.to_string(),
            }),
            Ok(Err(DialError::Tls(why))) => {
                self.tell(member, &why);
                Err(UpstreamError::Tls { to, why })
            }
            Err(_) => Err(UpstreamError::Connect {
                to,
                why: format!("no connection within {within:?}"),
            }),
        }
    }

    /// A certificate that nobody looks at ends a service: it is said, and not for every request.
    fn tell(&self, member: &Member, why: &str) {
        let now = Instant::now();
        let told = member.trunk.told.get();
        if told.is_none_or(|told| now.saturating_duration_since(told) >= TELL_AGAIN) {
            member.trunk.told.set(Some(now));
            let (service, upstream) = (&self.service.title, member.to());
            warn!(%service, %upstream, %why, "no TLS with an upstream");
        }
    }

    async fn ask(
        &self,
        to: &Address,
        wire: &mut Wire,
        out: &mut Outgoing,
        (begun, until): (Instant, Instant),
    ) -> Result<Reply<()>, UpstreamError> {
        let body = out.hand();
        let how = (self.limits.headers_max, out.hints.as_ref());
        let times = times(out, (begun, until));
        let asked = wire.ask(&out.parts, body, &times, how);
        asked
            .await
            .map_err(|error| broken(to, error, (begun, until)))
    }
}

/// The times of one try.
fn times(out: &Outgoing, (begun, until): (Instant, Instant)) -> Times {
    Times {
        until,
        patience: until.saturating_duration_since(begun),
        end: earliest(out.ends()),
        upload_idle: out.allowed.upload_idle,
        body_max: out.allowed.body_max,
    }
}

fn broken(to: &Address, error: WireError, (begun, until): (Instant, Instant)) -> UpstreamError {
    let to = to.clone();
    match error {
        WireError::Late => UpstreamError::Timeout {
            to,
            within: until.saturating_duration_since(begun),
        },
        source if source.is_clients() => UpstreamError::Upload { to, source },
        source => UpstreamError::Broken { to, source },
    }
}
