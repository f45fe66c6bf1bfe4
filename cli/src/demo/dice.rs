//! The demo's chance: the same seed plays the same shoppers.

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{RngCore, SeedableRng};

/// A generator of small decisions.
#[derive(Debug, Clone)]
pub(crate) struct Dice(Pcg64Mcg);

impl Dice {
    /// `stream` tells apart the players of one seed.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        // An odd multiplier spreads neighbouring streams over the whole state (splitmix64's).
        let mixed = seed ^ stream.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self(Pcg64Mcg::seed_from_u64(mixed))
    }

    /// 0 to `end - 1`; 0 for an empty range. The bias at these sizes is not worth counting.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        u64::try_from((u128::from(self.0.next_u64()) * u128::from(end)) >> 64).unwrap_or(0)
    }

    /// `first` to `last`, both included.
    pub(crate) fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last.saturating_sub(first) + 1)
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let index = usize::try_from(self.below(from.len() as u64)).ok()?;
        from.get(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_throws_the_same_dice() {
        let throws = |seed, stream| {
            let mut dice = Dice::new(seed, stream);
            [(); 8].map(|()| dice.between(1, 6))
        };
        assert_eq!(throws(7, 1), throws(7, 1));
        assert_ne!(throws(7, 1), throws(7, 2));
        assert_ne!(throws(7, 1), throws(8, 1));
        assert!(throws(7, 1).iter().all(|throw| (1..=6).contains(throw)));
    }

    #[test]
    fn an_empty_choice_is_none() {
        assert_eq!(Dice::new(1, 1).pick::<u8>(&[]), None);
    }
}
