//! What the shoppers were promised: every write that was acknowledged to one, every write whose
//! fate nobody knows, and how every request ended.
//!
//! Owns the tokens that make a write recognisable in a database. Refuses to guess: a write
//! without its 2xx answer is in doubt, and may or may not be found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a write changes. Each kind is looked for in its own tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// A price change by staff, slice `catalog`.
    Price,
    /// A review, slice `reviews`.
    Review,
    /// An order, which stays in the monolith.
    Order,
    /// A vote for a review, slice `reviews`. A vote leaves no token behind, only a sum.
    Vote,
}

impl Kind {
    fn letter(self) -> char {
        match self {
            Self::Price => 'p',
            Self::Review => 'r',
            Self::Order => 'o',
            Self::Vote => 'v',
        }
    }
}

/// The writes of one kind as of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    /// Answered with a success: each must be found once.
    pub(crate) acknowledged: BTreeSet<String>,
    /// Sent, and not answered with a success: each may be found once, or not at all.
    pub(crate) in_doubt: BTreeSet<String>,
}

/// How many failed requests are kept with their words; more only count.
const FAILURES_KEPT: usize = 20;
/// A bound on the latencies kept: two hours at 250 requests/s.
const LATENCIES_KEPT: usize = 1_800_000;

#[derive(Debug, Default)]
struct Book {
    tokens: u64,
    claims: BTreeMap<Kind, Claims>,
    requests: u64,
    writes: u64,
    failed: u64,
    failures: Vec<String>,
    latencies_us: Vec<u32>,
}

/// Counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) writes: u64,
    pub(crate) failed: u64,
    /// Of the writes that leave a token or a vote.
    pub(crate) acknowledged: u64,
}

/// Latencies seen by the shoppers, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Latencies {
    pub(crate) p50_us: u32,
    pub(crate) p99_us: u32,
    pub(crate) max_us: u32,
}

/// The book, shared by all shoppers.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Begins every token, so that the seeded rows of the shop are never taken for one.
    prefix: String,
    book: Mutex<Book>,
}

impl Ledger {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            prefix: format!("demo{seed}-"),
            book: Mutex::default(),
        }
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Opens a write: in doubt until it is acknowledged.
    pub(crate) fn attempt(&self, kind: Kind) -> String {
        let mut book = self.book();
        book.tokens += 1;
        let token = format!("{}{}{}", self.prefix, kind.letter(), book.tokens);
        book.claims
            .entry(kind)
            .or_default()
            .in_doubt
            .insert(token.clone());
        token
    }

    /// The shopper has its 2xx.
    pub(crate) fn acknowledge(&self, kind: Kind, token: &str) {
        let mut book = self.book();
        let claims = book.claims.entry(kind).or_default();
        if claims.in_doubt.remove(token) {
            claims.acknowledged.insert(token.to_owned());
        }
    }

    /// One request ended, well or badly.
    pub(crate) fn request(&self, write: bool, took: Duration, failure: Option<String>) {
        let mut book = self.book();
        book.requests += 1;
        book.writes += u64::from(write);
        if book.latencies_us.len() < LATENCIES_KEPT {
            book.latencies_us
                .push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        }
        if let Some(failure) = failure {
            book.failed += 1;
            if book.failures.len() < FAILURES_KEPT {
                book.failures.push(failure);
            }
        }
    }

    pub(crate) fn claims(&self, kind: Kind) -> Claims {
        self.book().claims.get(&kind).cloned().unwrap_or_default()
    }

    pub(crate) fn counts(&self) -> Counts {
        let book = self.book();
        let acknowledged = book
            .claims
            .values()
            .map(|c| c.acknowledged.len())
            .sum::<usize>();
        Counts {
            requests: book.requests,
            writes: book.writes,
            failed: book.failed,
            acknowledged: acknowledged as u64,
        }
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.book().failures.clone()
    }

    pub(crate) fn latencies(&self) -> Latencies {
        let mut sorted = self.book().latencies_us.clone();
        sorted.sort_unstable();
        let at = |per_mille: usize| {
            let last = sorted.len().saturating_sub(1);
            sorted.get(last * per_mille / 1_000).copied().unwrap_or(0)
        };
        Latencies {
            p50_us: at(500),
            p99_us: at(990),
            max_us: at(1_000),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // The book is whole after every statement, so a shopper's panic does not spoil it.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_in_doubt_until_it_is_acknowledged() {
        let ledger = Ledger::new(7);
        let first = ledger.attempt(Kind::Price);
        let second = ledger.attempt(Kind::Price);
        assert_ne!(first, second);
        assert!(first.starts_with("demo7-"));
        ledger.acknowledge(Kind::Price, &first);
        let claims = ledger.claims(Kind::Price);
        assert_eq!(claims.acknowledged, BTreeSet::from([first]));
        assert_eq!(claims.in_doubt, BTreeSet::from([second]));
        assert_eq!(ledger.claims(Kind::Order), Claims::default());
        assert_eq!(ledger.counts().acknowledged, 1);
    }

    #[test]
    fn an_acknowledgement_of_nothing_claims_nothing() {
        let ledger = Ledger::new(7);
        ledger.acknowledge(Kind::Review, "demo7-r9");
        assert_eq!(ledger.claims(Kind::Review), Claims::default());
    }

    #[test]
    fn failures_count_beyond_those_kept() {
        let ledger = Ledger::new(7);
        for n in 0..50 {
            let failure = (n % 2 == 0).then(|| format!("failure {n}"));
            ledger.request(n % 5 == 0, Duration::from_micros(n), failure);
        }
        let counts = ledger.counts();
        assert_eq!(
            (counts.requests, counts.writes, counts.failed),
            (50, 10, 25)
        );
        assert_eq!(ledger.failures().len(), FAILURES_KEPT);
        assert_eq!(
            ledger.latencies(),
            Latencies {
                p50_us: 24,
                p99_us: 48,
                max_us: 49
            }
        );
    }

    #[test]
    fn no_requests_have_no_latency() {
        assert_eq!(Ledger::new(1).latencies(), Latencies::default());
    }
}
