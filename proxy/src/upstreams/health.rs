//! Asking an upstream how it is, whether or not anybody else asks it something.
//!
//! On the guard's thread: a core that is busy must not take its upstreams for ill.

mod call;

use std::sync::Arc;
use std::time::Instant;

use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{HeaderValue, Request};
use tokio::time::{MissedTickBehavior, timeout};
use tracing::{info, warn};

use super::Service;
use super::address::Address;
use super::roster::Endpoint;
use crate::dial::{Dialer, Spoken};
use crate::rules::{Check, Health};
use crate::wire::{Mux, Times, Wire};

/// Fields of an answer to a check; a page that sends more is no health page.
const FIELDS_MAX: usize = 256;

/// What the checks of one upstream have come to.
#[derive(Debug)]
struct Streak {
    healthy: bool,
    /// Checks in a row that say otherwise.
    against: u32,
}

impl Streak {
    /// An upstream is taken for well until it is found to be ill: else a start of the proxy would
    /// be an outage.
    fn new() -> Self {
        Self {
            healthy: true,
            against: 0,
        }
    }

    /// The new state, when this check changed it.
    fn observe(&mut self, rule: &Health, passed: bool) -> Option<bool> {
        if passed == self.healthy {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let enough = match self.healthy {
            true => rule.unhealthy_after,
            false => rule.healthy_after,
        };
        if self.against < enough {
            return None;
        }
        (self.healthy, self.against) = (passed, 0);
        Some(passed)
    }
}

/// Checks one upstream until it has left.
pub(super) async fn watch(service: Arc<Service>, rule: Health, endpoint: Arc<Endpoint>) {
    let (name, to) = (&service.title, &endpoint.address);
    let count = service.roster().all.len();
    // Spread over the period, so that they do not come in a burst.
    let ahead = rule.every * u32::try_from(endpoint.index).unwrap_or(0) / count.max(1);
    let ahead = ahead.min(rule.every);
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + ahead, rule.every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut streak = Streak::new();
    loop {
        tick.tick().await;
        if endpoint.has_left() {
            return;
        }
        let found = check(&service, to, &rule).await;
        let changed = streak.observe(&rule, found.is_ok());
        match (changed, &found) {
            (Some(false), Err(why)) => warn!(service = %name, upstream = %to, %why, "unhealthy"),
            (Some(true), _) => info!(service = %name, upstream = %to, "healthy again"),
            _ => {}
        }
        service.checked(&endpoint, changed, found.err());
    }
}

/// One check, on a connection of its own.
async fn check(service: &Service, to: &Address, rule: &Health) -> Result<(), String> {
    let answered = timeout(rule.timeout, ask(&service.dialer, to, rule)).await;
    answered.map_err(|_| format!("no answer within {:?}", rule.timeout))?
}

async fn ask(dialer: &Dialer, to: &Address, rule: &Health) -> Result<(), String> {
    // The caller's bound, which counts the connecting, comes first.
    let bound = Instant::now() + 2 * rule.timeout;
    let dialed = dialer.dial(to).await;
    let (stream, spoken) = dialed.map_err(|error| format!("no connection: {error}"))?;
    let spoken = match spoken {
        Spoken::Lines => Connection::Lines(Wire::new(stream, Instant::now())),
        Spoken::Streams => {
            let made = Mux::new(stream, dialer.is_safe()).await;
            Connection::Streams(made.map_err(|error| format!("no connection: {error}"))?)
        }
    };
    let (path, mut connection) = match (&rule.check, spoken) {
        (Check::Path(path), connection) => (path, connection),
        (Check::Grpc(service), Connection::Streams(mux)) => {
            return call::ask(&mux, to, service, bound).await;
        }
        (Check::Grpc(_), Connection::Lines(_)) => return Err("it speaks no HTTP/2".to_owned()),
    };
    let host = HeaderValue::from_str(to.host()).map_err(|error| error.to_string())?;
    let request = Request::get(path.as_str())
        .header(HOST, host)
        .header(USER_AGENT, HeaderValue::from_static("outgrow-health"))
        .header(CONNECTION, HeaderValue::from_static("close"))
        .body(())
        .map_err(|error| error.to_string())?;
    let (parts, ()) = request.into_parts();
    let status = match &mut connection {
        Connection::Lines(wire) => {
            let asked = wire
                .ask(&parts, None, &Times::until(bound), (FIELDS_MAX, None))
                .await;
            asked.map_err(|error| error.to_string())?.status()
        }
        Connection::Streams(mux) => {
            let asked = mux
                .ask((&parts, None), to, &Times::until(bound), (FIELDS_MAX, None))
                .await;
            asked.map_err(|failed| failed.error.to_string())?.0.status()
        }
    };
    match status.is_success() || status.is_redirection() {
        true => Ok(()),
        false => Err(format!("it answers {status}")),
    }
}

/// Of one check.
#[allow(clippy::large_enum_variant)] // One at a time.
enum Connection {
    Lines(Wire),
    Streams(Mux),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_changes_after_enough_checks_in_a_row() {
        let rule = Health {
            unhealthy_after: 3,
            healthy_after: 2,
            ..Health::at("/")
        };
        let mut streak = Streak::new();
        let mut changes = Vec::new();
        for passed in "++--+---+--++-".chars().map(|sign| sign == '+') {
            changes.push(match streak.observe(&rule, passed) {
                None => ' ',
                Some(true) => 'u',
                Some(false) => 'd',
            });
        }
        assert_eq!(changes.iter().collect::<String>(), "       d    u ");
    }
}
