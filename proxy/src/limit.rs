//! How many requests a client, or everybody together, may make: GCRA, the leaky bucket as a clock.
//!
//! For each key one number is kept, the time at which its budget would be whole again. All cores
//! share a table of fixed size, of atomics without a lock: a limit that is split by core would refuse
//! a client whose connections all landed on one of them. The error of the table is that a key may be
//! forgotten, and so be allowed one more burst, when more keys than fit into its bucket are busy at
//! once; and that of keys in the same bucket one in 65,536 shares a number with another.

use std::hash::{BuildHasher, RandomState};
use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::HeaderMap;

use crate::cohort;
use crate::settings::CohortKey;

/// Keys that are remembered: half a megabyte a limit.
const SLOTS: usize = 1 << 16;
/// Keys that compete for a place.
const WAYS: usize = 4;
/// Of a slot's word; what is left holds eight years of microseconds.
const TAG_BITS: u32 = 16;
const TIME: u64 = u64::MAX >> TAG_BITS;

/// What is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateRule {
    /// In each `per`, and at least 1.
    pub requests: u32,
    pub per: Duration,
    /// Of these, how many may come at once.
    pub burst: u32,
    pub by: RateKey,
}

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RateKey {
    Everybody,
    Address,
    /// Who does not bring it is counted by address.
    Field(CohortKey),
}

/// A rule with what is known of those whom it holds for. Shared by all cores.
pub struct Limiter {
    rule: RateRule,
    seed: RandomState,
    begun: Instant,
    slots: Box<[AtomicU64]>,
}

/// What a refused client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exceeded {
    pub(crate) limit: u32,
    pub(crate) wait: Duration,
}

/// Of an address of IPv6 its /64: whoever has one has them all, and would have a budget for each.
fn of_one(address: &[u8]) -> Option<[u8; 8]> {
    if !address.contains(&b':') {
        return None;
    }
    let address: Ipv6Addr = std::str::from_utf8(address).ok()?.parse().ok()?;
    let octets = address.octets();
    let part = match address.to_ipv4_mapped() {
        Some(_) => &octets[8..],
        None => &octets[..8],
    };
    part.try_into().ok()
}

/// One step of GCRA, in microseconds: the new time of a key, or how long it must wait.
fn decide(whole: u64, now: u64, interval: u64, burst: u64) -> Result<u64, u64> {
    let whole = whole.max(now);
    let most = interval.saturating_mul(burst.saturating_sub(1));
    let early = (whole - now).saturating_sub(most);
    match early {
        0 => Ok(whole.saturating_add(interval)),
        wait => Err(wait),
    }
}

impl Limiter {
    pub fn new(rule: RateRule) -> Self {
        let slots = match rule.by {
            RateKey::Everybody => WAYS,
            _ => SLOTS,
        };
        Self {
            rule,
            seed: RandomState::new(),
            begun: Instant::now(),
            slots: (0..slots).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(crate) fn check(&self, fields: &HeaderMap, address: &[u8]) -> Result<(), Exceeded> {
        let field = match &self.rule.by {
            RateKey::Everybody => Some(&[][..]),
            RateKey::Address => None,
            RateKey::Field(key) => cohort::configured(key, fields),
        };
        let network;
        let key = match field {
            Some(field) => field,
            None => {
                network = of_one(address);
                network.as_ref().map_or(address, |network| &network[..])
            }
        };
        let now = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(TIME);
        self.take(self.seed.hash_one(key), now)
    }

    fn take(&self, hash: u64, now: u64) -> Result<(), Exceeded> {
        let micros = u64::try_from(self.rule.per.as_micros()).unwrap_or(TIME);
        let interval = (micros / u64::from(self.rule.requests.max(1))).max(1);
        // Never zero, which an empty slot is.
        let tag = (hash >> (u64::BITS - TAG_BITS)).max(1) << (u64::BITS - TAG_BITS);
        let buckets = self.slots.len() / WAYS;
        let bucket = usize::try_from(hash & u64::from(u32::MAX)).unwrap_or(0) % buckets * WAYS;
        let bucket = &self.slots[bucket..bucket + WAYS];
        loop {
            let (slot, seen) = place(bucket, tag);
            let whole = if seen & !TIME == tag { seen & TIME } else { 0 };
            let decided = decide(whole, now, interval, u64::from(self.rule.burst.max(1)));
            let next = decided.map_err(|wait| Exceeded {
                limit: self.rule.requests,
                wait: Duration::from_micros(wait),
            })?;
            let word = tag | next.min(TIME);
            if slot
                .compare_exchange_weak(seen, word, Relaxed, Relaxed)
                .is_ok()
            {
                return Ok(());
            }
        }
    }
}

/// The key's own slot, else the one whose budget is whole the soonest.
fn place(bucket: &[AtomicU64], tag: u64) -> (&AtomicU64, u64) {
    let mut best = (&bucket[0], bucket[0].load(Relaxed));
    for slot in bucket {
        let seen = slot.load(Relaxed);
        if seen & !TIME == tag {
            return (slot, seen);
        }
        if seen & TIME < best.1 & TIME {
            best = (slot, seen);
        }
    }
    best
}

impl PartialEq for Limiter {
    fn eq(&self, other: &Self) -> bool {
        self.rule == other.rule
    }
}

impl Eq for Limiter {}

impl std::fmt::Debug for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Limiter").field(&self.rule).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(requests: u32, burst: u32) -> RateRule {
        RateRule {
            requests,
            per: Duration::from_secs(1),
            burst,
            by: RateKey::Address,
        }
    }

    #[test]
    fn each_key_has_a_budget_of_its_own() {
        let limiter = Limiter::new(rule(10, 2));
        let (ann, bob) = (1_u64 << 60 | 7, 2_u64 << 60 | 7);
        assert_eq!(
            [limiter.take(ann, 0), limiter.take(ann, 0)],
            [Ok(()), Ok(())]
        );
        let wait = Duration::from_millis(100);
        assert_eq!(limiter.take(ann, 0), Err(Exceeded { limit: 10, wait }));
        assert_eq!(limiter.take(bob, 0), Ok(()));
        assert_eq!(limiter.take(ann, 100_000), Ok(()));
    }

    #[test]
    fn of_more_keys_than_fit_the_one_with_most_budget_is_forgotten() {
        let limiter = Limiter::new(rule(1, 1));
        for key in 1..=5_u64 {
            assert_eq!(limiter.take(key << 50, key), Ok(()), "{key}");
        }
        assert_eq!(limiter.take(1 << 50, 6), Ok(()), "forgotten");
        assert!(limiter.take(5 << 50, 7).is_err(), "remembered");
    }

    #[test]
    fn a_network_of_version_6_has_one_budget() {
        let limiter = Limiter::new(rule(1, 1));
        let none = HeaderMap::new();
        let ask = |address: &str| limiter.check(&none, address.as_bytes()).is_ok();
        assert!(ask("2001:db8::1"));
        assert!(!ask("2001:db8::2"));
        assert!(!ask("2001:db8:0:0:ffff::"));
        assert!(ask("2001:db8:0:1::1"));
        assert!(ask("::ffff:192.0.2.1") && ask("::ffff:192.0.2.2"));
        assert!(!ask("::ffff:192.0.2.1"));
        assert!(ask("192.0.2.1") && ask("192.0.2.2"));
        assert!(!ask("192.0.2.1"));
    }

    proptest! {
        /// In no stretch of time more than the burst and what the rate allows.
        #[test]
        fn never_more_than_the_rate_and_a_burst(
            steps in prop::collection::vec(0_u64..3_000, 1..200),
            interval in 1_u64..5_000,
            burst in 1_u64..20,
        ) {
            let (mut now, mut whole, mut allowed) = (0, 0, Vec::new());
            for step in steps {
                now += step;
                match decide(whole, now, interval, burst) {
                    Ok(next) => {
                        whole = next;
                        allowed.push(now);
                    }
                    Err(wait) => {
                        prop_assert!(decide(whole, now + wait, interval, burst).is_ok());
                        prop_assert!(decide(whole, now + wait - 1, interval, burst).is_err());
                    }
                }
            }
            for (index, from) in allowed.iter().enumerate() {
                let until = allowed[index..].iter().enumerate();
                for (count, at) in until {
                    prop_assert!(count as u64 <= (at - from) / interval + burst);
                }
            }
        }
    }
}
