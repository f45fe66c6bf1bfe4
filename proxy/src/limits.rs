//! Every bound of the data plane, with its reason.

use std::time::{Duration, Instant};

/// Bounds; the defaults suit a monolith behind one proxy.
#[derive(Debug, Clone)]
pub struct Limits {
    /// To a TCP connection with an upstream. A host that is up answers within milliseconds.
    pub connect_timeout: Duration,
    /// To the head of an upstream's answer.
    pub request_timeout: Duration,
    /// To a whole request head from a client; a slower one holds a connection for nothing.
    pub head_timeout: Duration,
    /// From a client's answer to its next request; over HTTP/2 without any request. Zero is for ever. Longer than
    /// balancers keep theirs, a minute as a rule, so that they do not take one that is just being closed.
    pub keep_alive: Duration,
    /// A client that has closed its half gets its answer as long as that pauses no longer than this.
    pub half_closed: Duration,
    /// Connections of clients at a time, if not any number. Who comes beyond waits in the kernel's queue.
    pub clients_max: Option<usize>,
    /// A held write waits this long, then it is refused with 503 and `Retry-After`.
    pub hold_timeout: Duration,
    /// Writes of one slice that wait at the same time; each costs a connection and a task.
    pub held_max: usize,
    /// Bytes of their bodies, of one slice together, as far as they come before somebody reads them.
    pub held_bytes: u64,
    /// A write whose connection was refused is tried again for this long: nothing was sent, and a
    /// service that restarts is back within seconds.
    pub connect_retry: Duration,
    /// An idle upstream connection is used again up to this age. Below the five seconds after
    /// which common servers close theirs, so that the race is lost rarely.
    pub pool_idle: Duration,
    /// Idle connections per core and upstream. As many as were busy at once may rest for `pool_idle`:
    /// a bound below that would have clients beyond it pay for a new connection with each request.
    pub pool_max: usize,
    /// Header fields of one request, or of one answer.
    pub headers_max: usize,
    /// Bytes of a request's head. Over HTTP/2 64 KB at the most, for each stream may bring one.
    pub head_max: usize,
    /// What is said of no route in particular.
    pub allowance: Allowance,
}

/// What a request and its answer may take. Of times zero is for ever; none is as if nothing were said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Bytes of a request's body.
    pub body_max: Option<u64>,
    /// Between two parts of a request's body that the client sends.
    pub upload_idle: Option<Duration>,
    /// Between two parts of an answer's body that the upstream sends. What is open by its nature
    /// (events, calls) may stay silent where only the proxy says a time, and not the route.
    pub answer_idle: Option<Duration>,
    /// Between two parts of an answer's body that the client takes.
    pub client_idle: Option<Duration>,
    /// Of a tunnel, in which neither side says anything.
    pub tunnel_idle: Option<Duration>,
    /// From a request's head to the end of its answer.
    pub total: Option<Duration>,
}

impl Allowance {
    /// By default a body may be as long as the side takes: to cut off what the monolith has taken
    /// so far is nothing that a proxy in front of it should begin with. A minute is what nginx waits. Who has
    /// something to say in a tunnel says it, or asks whether the other one is there, within the hour.
    pub const USUAL: Self = Self {
        body_max: None,
        upload_idle: Some(Duration::from_secs(60)),
        answer_idle: Some(Duration::from_secs(60)),
        client_idle: Some(Duration::from_secs(60)),
        tunnel_idle: Some(Duration::from_secs(3_600)),
        total: None,
    };

    /// With what a route says for itself. Calls (gRPC) may stay open in silence, so nothing of
    /// `usual` that ends silence holds for them.
    pub(crate) fn resolve(usual: &Self, own: Option<&Self>, is_call: bool) -> Allowed {
        let own = own.copied().unwrap_or_default();
        let idle = |own: Option<Duration>, usual: Option<Duration>| {
            let usual = usual.filter(|_| !is_call);
            own.or(usual).filter(|idle| !idle.is_zero())
        };
        let total = own.total.or(usual.total).filter(|total| !total.is_zero());
        Allowed {
            end: total.and_then(|total| Instant::now().checked_add(total)),
            body_max: own.body_max.or(usual.body_max).unwrap_or(u64::MAX),
            upload_idle: idle(own.upload_idle, usual.upload_idle),
        }
    }
}

/// What one request may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed {
    /// When all of its answer must have come.
    pub(crate) end: Option<Instant>,
    pub(crate) body_max: u64,
    /// None waits for ever.
    pub(crate) upload_idle: Option<Duration>,
}

impl Allowed {
    /// For what the proxy itself asks.
    pub(crate) const ALL: Self = Self {
        end: None,
        body_max: u64::MAX,
        upload_idle: None,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(30),
            head_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(75),
            half_closed: Duration::from_secs(1),
            clients_max: None,
            hold_timeout: Duration::from_secs(5),
            held_max: 4_096,
            held_bytes: 64 << 20,
            connect_retry: Duration::from_secs(3),
            pool_idle: Duration::from_secs(4),
            pool_max: 1_024,
            headers_max: 256,
            head_max: 256 * 1_024,
            allowance: Allowance::USUAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_says_what_it_says_and_the_proxy_the_rest() {
        let second = Duration::from_secs(1);
        let usual = Allowance {
            body_max: Some(10),
            ..Allowance::USUAL
        };
        let of = |own: &Allowance, is_call| {
            let allowed = Allowance::resolve(&usual, Some(own), is_call);
            (allowed.body_max, allowed.upload_idle)
        };
        let none = Allowance::default();
        assert_eq!(of(&none, false), (10, Some(60 * second)));
        // A call may stay silent where nobody has said otherwise.
        assert_eq!(of(&none, true), (10, None));
        let own = Allowance {
            body_max: Some(20),
            upload_idle: Some(second),
            ..none
        };
        assert_eq!(of(&own, true), (20, Some(second)));
        let off = Allowance {
            upload_idle: Some(Duration::ZERO),
            ..none
        };
        assert_eq!(of(&off, false), (10, None));
    }
}
