//! What the proxy itself has answered, by its code, and connections that came to no request. Each
//! core adds to its own counters; readers sum.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::raise;
use crate::pages::ERROR_CODES;

/// A connection without TLS where that is wanted.
pub(crate) const HANDSHAKE: &str = "handshake";
/// One without the PROXY head that its balancer was to send.
pub(crate) const PREFACE: &str = "proxy-protocol";
/// One that ended, or was given up, within a request's head.
pub(crate) const UNFINISHED: &str = "unfinished-head";
/// A tunnel that neither side had used for too long.
pub(crate) const TUNNEL: &str = "tunnel-idle";

/// Where there was no request to answer.
const NO_REQUEST: [&str; 4] = [HANDSHAKE, PREFACE, UNFINISHED, TUNNEL];

const CODES: usize = ERROR_CODES.len() + NO_REQUEST.len();

fn codes() -> impl Iterator<Item = &'static str> {
    ERROR_CODES.into_iter().chain(NO_REQUEST)
}

/// Counters of all codes, by core.
#[derive(Debug)]
pub(crate) struct RefusalCounts {
    cores: Box<[[AtomicU64; CODES]]>,
}

impl RefusalCounts {
    pub(crate) fn new(cores: usize) -> Self {
        Self {
            cores: (0..cores)
                .map(|_| std::array::from_fn(|_| AtomicU64::new(0)))
                .collect(),
        }
    }

    /// Called on the core's own thread only.
    pub(crate) fn count(&self, core: usize, code: &str) {
        let at = codes().position(|own| own == code);
        if let (Some(counters), Some(at)) = (self.cores.get(core), at) {
            raise(&counters[at], 1);
        }
    }

    pub(crate) fn read(&self) -> Vec<(&'static str, u64)> {
        let sum = |at: usize| {
            let counters = self.cores.iter().map(|counters| &counters[at]);
            counters.map(|counter| counter.load(Relaxed)).sum()
        };
        codes()
            .enumerate()
            .map(|(at, code)| (code, sum(at)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_counted_each_for_itself() {
        let counts = RefusalCounts::new(2);
        counts.count(0, "malformed");
        counts.count(1, "malformed");
        counts.count(1, PREFACE);
        counts.count(1, "no such code");
        let told = counts.read();
        assert_eq!((told.len(), told[0]), (CODES, ("malformed", 2)));
        assert!(told.contains(&(PREFACE, 1)));
        assert_eq!(told.iter().map(|(_, count)| count).sum::<u64>(), 3);
    }
}
