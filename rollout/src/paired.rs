//! Whether the candidate differs from the primary more often than the primary from itself: a
//! paired test that stays valid however often one looks.
//!
//! Three answers to one request, two of the primary's side and one of the candidate's, asked in
//! random order. Only the requests that tell the two apart count: `worse`, where the candidate
//! alone differs from the primary, and `better`, where the primary's second answer does. If the
//! candidate is as good, each such request is one or the other like a fair coin, whatever the
//! noise. The wealth of a bettor against the fair coin reaches 100 with a probability of 1% at
//! most over the whole run (Ville), so at 100 the candidate is at fault.
//!
//! A threshold on the two rates, as others use, is wrong both ways: it flags equal sides, since
//! somebody looks after every request, and is blind where the noise is large.

use serde::{Deserialize, Serialize};

use crate::samples::log_beta;

/// What the verdict may be wrong by, over all looks together.
pub const FALSE_ALARMS: f64 = 0.01;

/// The prior of the coin, Beta(10, 10) above one half. It bets on coins of 0.6 or so, which is
/// what a fault among noise looks like; by simulation it wins sooner there than a flat one, and
/// still does against a coin of 1.0.
const PRIOR: f64 = 10.0;

/// The share of the stake that is on a coin of 1.0: on a field without noise, in which whatever
/// differs is the candidate's doing. It is lost with the first answer that says otherwise.
const ALONE: f64 = 0.25;

/// Requests that told candidate and noise apart, of one field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paired {
    /// The candidate differed, the primary's second answer did not.
    pub worse: u64,
    /// The other way round.
    pub better: u64,
}

impl Paired {
    /// Adds one request.
    pub fn add(&mut self, candidate_differs: bool, primary_differs: bool) {
        match (candidate_differs, primary_differs) {
            (true, false) => self.worse += 1,
            (false, true) => self.better += 1,
            _ => {}
        }
    }

    /// Natural logarithm of the evidence against the candidate; 0 says nothing, below speaks for
    /// it.
    #[must_use]
    pub fn log_evidence(self) -> f64 {
        let among_noise = (1.0 - ALONE).ln() + self.log_among_noise();
        if self.better > 0 {
            return among_noise;
        }
        let alone = ALONE.ln() + as_f64(self.worse) * std::f64::consts::LN_2;
        let (less, more) = (among_noise.min(alone), among_noise.max(alone));
        more + (less - more).exp().ln_1p()
    }

    fn log_among_noise(self) -> f64 {
        let (worse, better) = (as_f64(self.worse), as_f64(self.better));
        let above_half = log_above_half(worse + PRIOR, better + PRIOR);
        (worse + better + 1.0) * std::f64::consts::LN_2 + log_beta(worse + PRIOR, better + PRIOR)
            - log_beta(PRIOR, PRIOR)
            + above_half
    }

    /// Whether the candidate is at fault, and not the noise.
    #[must_use]
    pub fn at_fault(self) -> bool {
        self.log_evidence() >= -FALSE_ALARMS.ln()
    }
}

/// Logarithm of the probability that a Beta(a, b) lies above one half.
fn log_above_half(a: f64, b: f64) -> f64 {
    // The regularised incomplete beta function by its continued fraction (Numerical Recipes 6.4),
    // which converges fast on this side of the mean.
    let front = |a: f64, b: f64| {
        -(a + b) * std::f64::consts::LN_2 - log_beta(a, b) - a.ln() + fraction(a, b).ln()
    };
    if b < a {
        (-front(a, b).exp().min(1.0)).ln_1p()
    } else {
        front(b, a)
    }
}

fn fraction(a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    /// Enough for counts of billions; it stops when nothing changes.
    const STEPS: u32 = 10_000;
    let x = 0.5;
    let off_zero = |value: f64| if value.abs() < TINY { TINY } else { value };
    let (mut c, mut d) = (1.0, 1.0 / off_zero(1.0 - (a + b) * x / (a + 1.0)));
    let mut found = d;
    for step in 1..=STEPS {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = found;
        for term in [even, odd] {
            d = 1.0 / off_zero(1.0 + term * d);
            c = off_zero(1.0 + term / c);
            found *= c * d;
        }
        if (found / before - 1.0).abs() < 1e-15 {
            break;
        }
    }
    found
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dice::Dice;

    /// One request: each answer is odd by itself with probability `odd`, the candidate wrong with
    /// probability `fault`.
    fn step(paired: &mut Paired, dice: &mut Dice, odd: f64, fault: f64) {
        let (primary, again) = (dice.chance(odd), dice.chance(odd));
        let candidate = dice.chance(odd) || dice.chance(fault);
        paired.add(primary || candidate, primary || again);
    }

    /// The share of runs in which the candidate is found at fault, looked at after every request.
    fn found(noise: f64, fault: f64, n: u32, runs: u32, seed: u64) -> f64 {
        // Two answers agree when neither is odd.
        let odd = 1.0 - (1.0 - noise).sqrt();
        let mut dice = Dice::new(seed);
        let mut caught = 0;
        for _ in 0..runs {
            let mut paired = Paired::default();
            caught += u32::from((0..n).any(|_| {
                let before = paired;
                step(&mut paired, &mut dice, odd, fault);
                paired != before && paired.worse > paired.better && paired.at_fault()
            }));
        }
        f64::from(caught) / f64::from(runs)
    }

    #[test]
    fn equal_sides_are_rarely_accused_however_often_one_looks() {
        for (noise, seed) in [(0.002, 1), (0.006, 2), (0.01, 3), (0.05, 4), (0.51, 5)] {
            let wrong = found(noise, 0.0, 10_000, 200, seed);
            assert!(wrong <= 0.015, "{noise}: {wrong}");
        }
    }

    /// The cases of a threshold's blindness: noise, fault, requests, and the least share found.
    #[test]
    fn faults_among_noise_are_found() {
        for (noise, fault, n, least) in [
            (0.19, 0.05, 2_000, 0.669),
            (0.51, 0.10, 2_000, 0.583),
            (0.75, 0.20, 2_000, 0.793),
            (0.19, 0.05, 4_000, 0.9),
            (0.51, 0.10, 4_000, 0.9),
            (0.75, 0.20, 4_000, 0.9),
            (0.0, 0.000_2, 100_000, 0.99),
            (0.0, 0.000_2, 200_000, 0.99),
        ] {
            let share = found(noise, fault, n, 200, 7);
            assert!(share >= least, "{noise} {fault} {n}: {share}");
        }
    }

    #[test]
    fn the_evidence_is_the_average_over_the_coins() {
        for (worse, better) in [(0u64, 0u64), (5, 0), (0, 5), (30, 12), (12, 30), (200, 190)] {
            // By the midpoint rule over coins from one half to one.
            let (steps, mut sum, mut weight) = (200_000u32, 0.0, 0.0);
            for at in 0..steps {
                let coin = 0.5 + (f64::from(at) + 0.5) / f64::from(steps) / 2.0;
                let prior = ((PRIOR - 1.0) * (coin.ln() + (-coin).ln_1p())).exp();
                let wealth =
                    as_f64(worse) * (2.0 * coin).ln() + as_f64(better) * (2.0 * (1.0 - coin)).ln();
                sum += prior * wealth.exp();
                weight += prior;
            }
            // And the coin that never falls the other way.
            let alone = if better == 0 {
                as_f64(worse).exp2()
            } else {
                0.0
            };
            let expected = ((1.0 - ALONE) * sum / weight + ALONE * alone).ln();
            let seen = Paired { worse, better }.log_evidence();
            assert!(
                (seen - expected).abs() < 1e-6,
                "{worse} {better}: {seen} {expected}"
            );
        }
    }

    proptest! {
        #[test]
        fn more_against_it_is_more_evidence(worse in 0u64..100_000, better in 0u64..100_000) {
            let seen = Paired { worse, better }.log_evidence();
            prop_assert!(!seen.is_nan());
            let more = Paired { worse: worse + 1, better }.log_evidence();
            prop_assert!(more >= seen - 1e-6);
        }

        #[test]
        fn even_coins_accuse_nobody(n in 0u64..1_000_000) {
            let even = Paired { worse: n, better: n };
            prop_assert!(!even.at_fault());
        }
    }
}
