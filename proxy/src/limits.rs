//! Every bound of the data plane, with its reason.

use std::time::Duration;

/// Bounds; the defaults suit a monolith behind one proxy.
#[derive(Debug, Clone)]
pub struct Limits {
    /// To a TCP connection with an upstream. A host that is up answers within milliseconds.
    pub connect_timeout: Duration,
    /// To the head of an upstream's answer.
    pub request_timeout: Duration,
    /// To a whole request head from a client; a slower one holds a connection for nothing.
    pub head_timeout: Duration,
    /// A held write waits this long, then it is refused with 503 and `Retry-After`.
    pub hold_timeout: Duration,
    /// Writes of one slice that wait at the same time; each costs a connection and a task.
    pub held_max: usize,
    /// A write whose connection was refused is tried again for this long: nothing was sent, and a
    /// service that restarts is back within seconds.
    pub connect_retry: Duration,
    /// An idle upstream connection is used again up to this age. Below the five seconds after
    /// which common servers close theirs, so that the race is lost rarely.
    pub pool_idle: Duration,
    /// Idle connections per core and upstream. As many as were busy at once may rest for `pool_idle`:
    /// a bound below that would have clients beyond it pay for a new connection with each request.
    pub pool_max: usize,
    /// Header fields of one request.
    pub headers_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(30),
            head_timeout: Duration::from_secs(30),
            hold_timeout: Duration::from_secs(5),
            held_max: 4_096,
            connect_retry: Duration::from_secs(3),
            pool_idle: Duration::from_secs(4),
            pool_max: 1_024,
            headers_max: 256,
        }
    }
}
