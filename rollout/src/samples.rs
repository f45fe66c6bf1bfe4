//! How sure the compared answers make us: an upper bound of the mismatch rate that stays valid
//! however often one looks.
//!
//! For every rate `p` a mixture martingale of Robbins is run against it, with the prior
//! Beta(1/2, 1/(2p)); `p` is ruled out once the martingale reaches 20, which happens to a true
//! `p` with probability 5% at most over the whole run (Ville). The bound is the largest rate
//! not ruled out. A bound for a fixed number of samples would be wrong here: a gate is looked
//! at after every pair, and a step is taken the first time that it is met.
//!
//! It says nothing of pairs that depend on each other; sampling by client would need more.

/// What the bound may be wrong by, over all looks together.
pub const ERROR_RATE: f64 = 0.05;

/// Steps of halving the interval; 100 exhaust the precision of a double.
const HALVINGS: u32 = 100;

/// Upper 95% bound of the rate, valid at every look. `None` without samples.
///
/// `against` above `compared` counts as `compared`.
#[must_use]
pub fn upper_bound(compared: u64, against: u64) -> Option<f64> {
    upper_bound_at(compared, against, ERROR_RATE)
}

/// The same with another probability of being wrong.
#[must_use]
pub fn upper_bound_at(compared: u64, against: u64, error_rate: f64) -> Option<f64> {
    if compared == 0 {
        return None;
    }
    let against = against.min(compared);
    let seen = as_f64(against) / as_f64(compared);
    if !ruled_out(1.0 - 1e-9, compared, against, error_rate) {
        return Some(1.0);
    }
    let (mut low, mut high) = (seen.max(1e-12), 1.0);
    for _ in 0..HALVINGS {
        // Halving the logarithm, because small rates are what matters.
        let middle = (low * high).sqrt();
        if ruled_out(middle, compared, against, error_rate) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Some(high)
}

/// Samples that show a rate of at most `rate` if none of them mismatches.
///
/// `u64::MAX` for a rate of zero or below, which no number of samples shows.
#[must_use]
pub fn needed(rate: f64) -> u64 {
    needed_more(0, 0, rate)
}

/// Further samples without a mismatch until the bound is at most `rate`; 0 if it is already.
#[must_use]
pub fn needed_more(compared: u64, against: u64, rate: f64) -> u64 {
    if rate.is_nan() || rate <= 0.0 {
        return u64::MAX;
    }
    if rate >= 1.0 {
        return u64::from(compared == 0);
    }
    let shown = |more: u64| {
        let n = compared.saturating_add(more);
        n > 0 && upper_bound(n, against).is_some_and(|bound| bound <= rate)
    };
    if shown(0) {
        return 0;
    }
    let mut high = 1;
    while !shown(high) {
        // Beyond this a double no longer tells neighbouring counts apart.
        if high > 1 << 50 {
            return u64::MAX;
        }
        high *= 2;
    }
    let mut low = high / 2;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if shown(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

/// Whether the martingale against `rate` has reached 1 / `error_rate`.
fn ruled_out(rate: f64, compared: u64, against: u64, error_rate: f64) -> bool {
    let (n, k) = (as_f64(compared), as_f64(against));
    let (a, b) = (0.5, 0.5 / rate);
    let log_wealth =
        log_beta(a + k, b + n - k) - log_beta(a, b) - k * rate.ln() - (n - k) * (-rate).ln_1p();
    log_wealth >= -error_rate.ln()
}

pub(crate) fn log_beta(a: f64, b: f64) -> f64 {
    log_gamma(a) + log_gamma(b) - log_gamma(a + b)
}

/// Logarithm of the gamma function for `x > 0`: Stirling's series, after the recurrence has
/// brought `x` to 10 or more, where five terms are exact to a double.
fn log_gamma(x: f64) -> f64 {
    let (mut x, mut shift) = (x, 0.0);
    while x < 10.0 {
        shift -= x.ln();
        x += 1.0;
    }
    let inverse = 1.0 / x;
    let square = inverse * inverse;
    let series = inverse
        * (1.0 / 12.0
            - square
                * (1.0 / 360.0
                    - square * (1.0 / 1260.0 - square * (1.0 / 1680.0 - square / 1188.0))));
    shift + (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series
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

    #[test]
    fn samples_for_the_usual_rates() {
        // Computed apart from this code, by summing the martingale.
        for (rate, expected) in [(0.01, 409), (0.001, 4_104), (0.000_1, 41_058)] {
            assert_eq!(needed(rate), expected, "rate {rate}");
        }
    }

    #[test]
    fn no_samples_show_nothing() {
        assert_eq!(upper_bound(0, 0), None);
        assert!(upper_bound(1, 0).is_some_and(|bound| bound > 0.95));
        assert_eq!(upper_bound(10, 10), Some(1.0));
        assert_eq!(needed(0.0), u64::MAX);
        assert_eq!(needed(f64::NAN), u64::MAX);
    }

    #[test]
    fn one_mismatch_needs_many_more_samples() {
        let more = needed_more(4_104, 1, 0.001);
        assert!((1_000..10_000).contains(&more), "{more}");
        assert!(upper_bound(4_104 + more, 1).is_some_and(|b| b <= 0.001));
        assert!(upper_bound(4_104 + more - 1, 1).is_some_and(|b| b > 0.001));
    }

    #[test]
    fn gamma_of_whole_numbers_is_the_factorial() {
        let mut factorial = 1.0f64;
        for n in 1..30u32 {
            assert!(
                (log_gamma(f64::from(n)) - factorial.ln()).abs() < 1e-12 * (1.0 + factorial.ln())
            );
            factorial *= f64::from(n);
        }
    }

    /// The bound may lie below the true rate at any of the looks in 5% of runs at most.
    #[test]
    fn the_bound_holds_at_every_look() {
        let mut dice = Dice::new(11);
        let (runs, rate) = (600, 0.01);
        let mut wrong = 0;
        for _ in 0..runs {
            let mut against = 0;
            let fell_short = (1..=3_000u64).any(|n| {
                against += u64::from(dice.chance(rate));
                n % 25 == 0
                    && ruled_out(rate, n, against, ERROR_RATE)
                    && (against as f64) < rate * n as f64
            });
            wrong += u32::from(fell_short);
        }
        assert!(wrong <= runs / 20, "{wrong} of {runs}");
    }

    proptest! {
        #[test]
        fn the_bound_is_above_the_rate_seen(n in 1u64..1_000_000, k in 0u64..1_000) {
            let k = k.min(n);
            let bound = upper_bound(n, k).expect("there are samples");
            prop_assert!(bound <= 1.0 && bound >= k as f64 / n as f64);
        }

        #[test]
        fn more_clean_samples_never_raise_it(n in 1u64..100_000, k in 0u64..50, more in 1u64..10_000) {
            let k = k.min(n);
            let before = upper_bound(n, k).expect("there are samples");
            let after = upper_bound(n + more, k).expect("there are samples");
            prop_assert!(after <= before + 1e-12, "{before} -> {after}");
        }
    }
}
