//! Which upstream of several is asked: decisions over sets and numbers, without time or state of
//! their own.
//!
//! A set of upstreams is a word of 64 bits, so that health, ejection and what was tried already
//! are one operation each.

use std::time::Duration;

use outgrow_rollout::key_hash;

use crate::rules::Balance;

/// Upstreams of one service; what a word has bits for.
pub(crate) const UPSTREAMS_MAX: usize = 64;

/// Places of each upstream on the ring. With 160, as in ketama, the largest share of ten
/// upstreams is within a fifth of the smallest.
const PLACES: usize = 160;

/// After this much time an old answer counts for 1/e of a new one.
const DECAY: Duration = Duration::from_secs(10);

/// What is assumed of an upstream that has not answered yet, in seconds: not so little that all
/// requests run to it at once, not so much that it is never tried.
const UNKNOWN: f64 = 0.030;

/// Upstreams by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Set(pub(crate) u64);

impl Set {
    pub(crate) const NONE: Self = Self(0);

    /// The first `count`.
    #[cfg(test)]
    pub(crate) fn first(count: usize) -> Self {
        match count {
            UPSTREAMS_MAX.. => Self(u64::MAX),
            _ => Self((1 << count) - 1),
        }
    }

    pub(crate) fn of(index: usize) -> Self {
        Self(1 << (index % UPSTREAMS_MAX))
    }

    pub(crate) fn has(self, index: usize) -> bool {
        self.0 & Self::of(index).0 != 0
    }

    pub(crate) fn with(self, index: usize) -> Self {
        Self(self.0 | Self::of(index).0)
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn len(self) -> u32 {
        self.0.count_ones()
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let index = (left != 0).then_some(left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(index)
        })
    }

    /// One of them by chance; `random` is spread over all of its bits.
    fn any(self, random: u32) -> Option<usize> {
        let at = (u64::from(random) * u64::from(self.len())) >> 32;
        self.iter().nth(usize::try_from(at).unwrap_or(0))
    }
}

/// Who may be asked: those that are well and were not tried yet. Where there is none, the others
/// that were not tried: an upstream that is thought to be down is a better chance than none.
pub(crate) fn candidates(all: Set, well: Set, tried: Set) -> Set {
    let open = all.without(tried);
    let best = open.and(well);
    if best.is_empty() { open } else { best }
}

/// What a policy remembers from one request to the next, and what it needs of the upstreams.
#[derive(Debug)]
pub(crate) struct Picker {
    balance: Balance,
    ring: Box<[(u64, usize)]>,
    /// Where round robin goes on.
    next: usize,
    /// State of a xorshift generator: to spread load, not to keep a secret.
    random: u64,
}

impl Picker {
    /// `seed` keeps cores from choosing alike.
    pub(crate) fn new(balance: Balance, seed: u64) -> Self {
        let seed = seed | 1;
        Self {
            balance,
            ring: Box::default(),
            next: usize::try_from(seed >> 32).unwrap_or(0),
            random: seed,
        }
    }

    /// From now on there are these; names tell them apart on the ring.
    pub(crate) fn follow<'n>(&mut self, named: impl Iterator<Item = (usize, &'n str)>) {
        if self.balance == Balance::RingHash {
            self.ring = ring(named);
        }
    }

    /// One of `among`; `None` only of none. `load` is the requests in flight, `cost` what a
    /// request more would wait for, `key` what a ring goes by.
    pub(crate) fn pick(
        &mut self,
        among: Set,
        key: impl FnOnce() -> u64,
        load: impl Fn(usize) -> u32,
        cost: impl Fn(usize) -> f64,
    ) -> Option<usize> {
        if among.len() < 2 {
            return among.iter().next();
        }
        match self.balance {
            Balance::PowerOfTwo => {
                let random = self.random();
                let [one, other] = two(among, random)?;
                Some(if cost(other) < cost(one) { other } else { one })
            }
            Balance::RoundRobin => {
                let from = self.next % UPSTREAMS_MAX;
                let ahead = Set(among.0 & (u64::MAX << from));
                let index = ahead.iter().next().or_else(|| among.iter().next())?;
                self.next = index + 1;
                Some(index)
            }
            Balance::LeastRequests => {
                let random = self.random();
                let least = among.iter().map(&load).min()?;
                let even = among.iter().filter(|&index| load(index) == least);
                let even = even.fold(Set::NONE, Set::with);
                even.any(half(random, 0))
            }
            Balance::RingHash => on_ring(&self.ring, key(), among),
        }
    }

    fn random(&mut self) -> u64 {
        // Marsaglia, "Xorshift RNGs", 2003; the product spreads its low bits (xorshift64*).
        let mut x = self.random;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random = x;
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

fn half(random: u64, which: u32) -> u32 {
    u32::try_from((random >> (32 * which)) & u64::from(u32::MAX)).unwrap_or(0)
}

/// Two different ones, each pair as likely as any other.
fn two(among: Set, random: u64) -> Option<[usize; 2]> {
    let one = among.any(half(random, 1))?;
    let other = among.without(Set::of(one)).any(half(random, 0))?;
    Some([one, other])
}

fn ring<'n>(named: impl Iterator<Item = (usize, &'n str)>) -> Box<[(u64, usize)]> {
    let mut places: Vec<(u64, usize)> = Vec::new();
    for (index, name) in named {
        for place in 0..PLACES {
            places.push((key_hash(name, &(place as u64).to_le_bytes()), index));
        }
    }
    places.sort_unstable();
    places.into()
}

/// The first one at or behind the key's place.
fn on_ring(ring: &[(u64, usize)], key: u64, among: Set) -> Option<usize> {
    let from = ring.partition_point(|(place, _)| *place < key);
    let (before, behind) = ring.split_at(from);
    let all = behind.iter().chain(before);
    all.map(|(_, index)| *index).find(|&index| among.has(index))
}

/// An average of answer times that goes up at once and comes down slowly (peak EWMA, as in
/// Finagle): an upstream that begins to stall is left alone after one slow answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeakEwma {
    seconds: f64,
    /// Since the start of the proxy.
    at: Duration,
}

impl PeakEwma {
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            seconds: UNKNOWN,
            at: now,
        }
    }

    fn weight(self, now: Duration) -> f64 {
        let past = now.saturating_sub(self.at);
        (-past.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }

    /// An answer's head came after `took`. A failure that came fast says nothing good: it may
    /// only raise the average.
    pub(crate) fn observe(&mut self, now: Duration, took: Duration, failed: bool) {
        let took = took.as_secs_f64();
        if took > self.seconds {
            self.seconds = took;
        } else if !failed {
            let old = self.weight(now);
            self.seconds = self.seconds * old + took * (1.0 - old);
        } else {
            return;
        }
        self.at = now;
    }

    /// What one request more would cost. An upstream that was not asked for long becomes cheap,
    /// so that it is asked again.
    pub(crate) fn cost(self, now: Duration, in_flight: u32) -> f64 {
        self.seconds * self.weight(now) * f64::from(in_flight + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 8] = ["a:1", "b:1", "c:1", "d:1", "e:1", "f:1", "g:1", "h:1"];
    const POLICIES: [Balance; 4] = [
        Balance::PowerOfTwo,
        Balance::RoundRobin,
        Balance::LeastRequests,
        Balance::RingHash,
    ];

    fn picker(balance: Balance, seed: u64) -> Picker {
        let mut picker = Picker::new(balance, seed);
        picker.follow(NAMES.into_iter().enumerate());
        picker
    }

    fn counts(picker: &mut Picker, among: Set, cost: impl Fn(usize) -> f64) -> [usize; 8] {
        let mut seen = [0; 8];
        for n in 0..8_000_u64 {
            let key = key_hash("test", &n.to_le_bytes());
            let at = picker.pick(among, || key, |_| 0, &cost).unwrap();
            seen[at] += 1;
        }
        seen
    }

    #[test]
    fn every_policy_spreads_over_equals() {
        for balance in POLICIES {
            let seen = counts(&mut picker(balance, 7), Set::first(8), |_| 1.0);
            for count in seen {
                assert!((800..=1_250).contains(&count), "{balance:?}: {seen:?}");
            }
        }
    }

    #[test]
    fn two_choices_leave_the_slow_one_alone() {
        let cost = |index| if index == 3 { 1.0 } else { 0.01 };
        let seen = counts(&mut picker(Balance::PowerOfTwo, 7), Set::first(8), cost);
        assert_eq!(seen[3], 0, "{seen:?}");
    }

    #[test]
    fn round_robin_goes_round() {
        let mut picker = picker(Balance::RoundRobin, 0);
        let among = Set(0b1011);
        let got: Vec<usize> = (0..6)
            .filter_map(|_| picker.pick(among, || 0, |_| 0, |_| 0.0))
            .collect();
        assert_eq!(got, [0, 1, 3, 0, 1, 3]);
    }

    #[test]
    fn the_least_busy_is_taken() {
        let mut picker = picker(Balance::LeastRequests, 9);
        let load = |index: usize| [4, 2, 9, 3][index % 4];
        let got = picker.pick(Set::first(4), || 0, load, |_| 0.0);
        assert_eq!(got, Some(1));
    }

    #[test]
    fn peaks_count_at_once_and_fade() {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        let mut seen = PeakEwma::new(s(0));
        for second in 1..60 {
            seen.observe(s(second), ms(2), false);
        }
        assert!((0.001_8..0.003).contains(&seen.cost(s(60), 0)), "{seen:?}");
        seen.observe(s(60), ms(500), false);
        assert!(seen.cost(s(60), 0) > 0.49);
        assert!(seen.cost(s(60), 1) > 0.99, "two wait twice as long");
        let before = seen.cost(s(61), 0);
        seen.observe(s(61), ms(1), true);
        assert!(seen.cost(s(61), 0) >= before, "a fast failure is no merit");
        assert!(seen.cost(s(160), 0) < 0.001, "it is asked again at last");
    }

    proptest! {
        #[test]
        fn only_candidates_are_picked(
            among in 0_u64..256,
            seed: u64,
            key: u64,
            costs in proptest::array::uniform8(0.0..10.0_f64),
        ) {
            for balance in POLICIES {
                let mut picker = picker(balance, seed);
                for _ in 0..4 {
                    let got = picker.pick(
                        Set(among),
                        || key,
                        |index| costs[index] as u32,
                        |index| costs[index],
                    );
                    prop_assert_eq!(got.is_none(), among == 0);
                    prop_assert!(got.is_none_or(|index| Set(among).has(index)));
                }
            }
        }

        #[test]
        fn the_dearest_of_three_or_more_is_never_picked(
            among in any::<u8>().prop_filter("three", |set| set.count_ones() > 2),
            seed: u64,
        ) {
            let among = Set(u64::from(among));
            let dearest = among.iter().max().unwrap();
            let mut picker = picker(Balance::PowerOfTwo, seed);
            for _ in 0..20 {
                let got = picker.pick(among, || 0, |_| 0, |index| index as f64);
                prop_assert_ne!(got, Some(dearest));
            }
        }

        #[test]
        fn a_ring_moves_only_the_keys_of_who_leaves(key: u64, gone in 0_usize..8) {
            let mut picker = picker(Balance::RingHash, 0);
            let all = Set::first(8);
            let mut at = |among| picker.pick(among, || key, |_| 0, |_| 0.0).unwrap();
            let (before, after) = (at(all), at(all.without(Set::of(gone))));
            prop_assert!(before == after || before == gone);
        }

        #[test]
        fn someone_is_left_until_all_were_tried(well in 0_u64..16, tried in 0_u64..16) {
            let all = Set::first(4);
            let found = candidates(all, Set(well), Set(tried));
            prop_assert_eq!(found.is_empty(), tried == 15);
            prop_assert!(found.and(Set(tried)).is_empty());
            if well & !tried != 0 {
                prop_assert!(found.without(Set(well)).is_empty());
            }
        }
    }
}
