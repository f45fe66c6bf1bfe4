//! The guard against simulated traffic: where it must fire, and where it must not.

use super::*;
use crate::dice::Dice;

/// Traffic of `rps` requests a second of 5,000 clients, `share` of which are on the extracted
/// side. Returns the second of the abort.
struct Traffic {
    rps: u64,
    share: f64,
    legacy: f64,
    extracted: f64,
}

impl Traffic {
    fn run(&self, seed: u64, seconds: u64) -> Option<u64> {
        let mut dice = Dice::new(seed);
        let mut guard = Guard::new(GuardLimits::default());
        let mut counts = [SideCounts::default(); 2];
        for second in 0..seconds {
            let now = second * 1_000;
            for _ in 0..self.rps {
                let key = dice.next() % 5_000;
                let extracted = (key as f64) < self.share * 5_000.0;
                let (side, rate) = if extracted {
                    (Side::Extracted, self.extracted)
                } else {
                    (Side::Legacy, self.legacy)
                };
                let failed = dice.chance(rate);
                counts[usize::from(extracted)].requests += 1;
                counts[usize::from(extracted)].errors += u64::from(failed);
                if failed && guard.error(now, side, key, self.share).is_some() {
                    return Some(second);
                }
            }
            if guard.counts(now, counts[0], counts[1]).is_some() {
                return Some(second);
            }
        }
        None
    }

    fn median(&self, runs: u64, seconds: u64) -> u64 {
        let mut found: Vec<u64> = (0..runs)
            .map(|seed| self.run(seed, seconds).unwrap_or(u64::MAX))
            .collect();
        found.sort_unstable();
        found[found.len() / 2]
    }
}

/// Error events only, so that many runs are affordable, and a tenfold alpha, so that few runs
/// show whether it is kept.
#[test]
fn equal_sides_are_left_alone() {
    let (runs, alpha) = (250, 0.01);
    for share in [0.01, 0.05, 0.5] {
        let mut aborted = 0;
        for seed in 0..runs {
            let mut dice = Dice::new(seed + 1_000_000);
            let mut guard = Guard::new(GuardLimits {
                alpha,
                ..GuardLimits::default()
            });
            aborted += u64::from((0..300u64).any(|n| {
                let side = if dice.chance(share) {
                    Side::Extracted
                } else {
                    Side::Legacy
                };
                guard.error(n * 7_000, side, n, share).is_some()
            }));
        }
        // Three standard deviations above the promised rate.
        let expected = alpha * runs as f64;
        let most = expected + 3.0 * expected.sqrt();
        assert!(
            (aborted as f64) <= most,
            "{aborted} of {runs} at share {share}"
        );
    }
}

#[test]
fn hours_of_equal_traffic_are_left_alone() {
    let runs = 200;
    let aborted = (0..runs)
        .filter(|seed| {
            let traffic = Traffic {
                rps: 5,
                share: 0.05,
                legacy: 0.005,
                extracted: 0.005,
            };
            traffic.run(*seed, 3_600).is_some()
        })
        .count();
    // A third of one is promised on average.
    assert!(aborted <= 3, "{aborted} of {runs}");
}

#[test]
fn an_outage_of_both_sides_never_aborts() {
    for seed in 0..20 {
        for rate in [0.3, 1.0] {
            let traffic = Traffic {
                rps: 20,
                share: 0.05,
                legacy: rate,
                extracted: rate,
            };
            assert_eq!(traffic.run(seed, 600), None, "seed {seed}, rate {rate}");
        }
    }
}

#[test]
fn total_failure_is_caught_in_seconds() {
    let traffic = Traffic {
        rps: 20,
        share: 0.05,
        legacy: 0.0,
        extracted: 1.0,
    };
    let seconds = traffic.median(50, 600);
    assert!(seconds <= 12, "{seconds} s");
    let busy = Traffic {
        rps: 200,
        share: 0.05,
        legacy: 0.0,
        extracted: 1.0,
    };
    let seconds = busy.median(50, 600);
    assert!(seconds <= 2, "{seconds} s");
}

#[test]
fn a_tenfold_error_rate_is_caught_in_minutes() {
    let traffic = Traffic {
        rps: 20,
        share: 0.05,
        legacy: 0.005,
        extracted: 0.05,
    };
    let seconds = traffic.median(60, 3_600);
    assert!((30..=240).contains(&seconds), "{seconds} s");
    let traffic = Traffic {
        rps: 20,
        share: 0.05,
        legacy: 0.005,
        extracted: 0.02,
    };
    let seconds = traffic.median(40, 7_200);
    assert!((200..=1_500).contains(&seconds), "{seconds} s");
}

#[test]
fn a_fault_after_a_quiet_day_is_caught_as_well() {
    let mut guard = Guard::new(GuardLimits::default());
    let mut dice = Dice::new(3);
    for n in 0..4_000u64 {
        let side = if dice.chance(0.05) {
            Side::Extracted
        } else {
            Side::Legacy
        };
        assert!(guard.error(n * 20_000, side, n, 0.05).is_none());
    }
    let begin = 4_000 * 20_000;
    // From here on half of the errors come from a twentieth of the traffic.
    let caught = (0..200u64).position(|n| {
        let side = if n % 2 == 0 {
            Side::Extracted
        } else {
            Side::Legacy
        };
        guard
            .error(begin + n * 2_000, side, 10_000 + n, 0.05)
            .is_some()
    });
    assert!(caught.is_some_and(|n| n < 60), "{caught:?}");
}

#[test]
fn one_client_alone_aborts_nothing() {
    let mut guard = Guard::new(GuardLimits::default());
    for minute in 0..600 {
        assert!(
            guard
                .error(minute * 61_000, Side::Extracted, 7, 0.05)
                .is_none()
        );
    }
    assert!(guard.e_value() > 1_000.0);
    assert!(guard.error(0, Side::Extracted, 8, 0.05).is_none());
    let verdict = guard
        .error(0, Side::Extracted, 9, 0.05)
        .expect("a third client");
    assert!(verdict.e_value >= 1_000.0);
    assert_eq!(verdict.extracted.errors, 602);
}

#[test]
fn repeated_errors_of_a_key_count_once_a_minute() {
    let mut guard = Guard::new(GuardLimits::default());
    guard.error(0, Side::Extracted, 1, 0.1);
    let once = guard.e_value();
    for n in 1..60 {
        guard.error(n * 1_000, Side::Extracted, 1, 0.1);
    }
    assert_eq!(guard.e_value(), once);
    guard.error(60_000, Side::Extracted, 1, 0.1);
    assert!(guard.e_value() > once);
}

fn counts(requests: u64, errors: u64) -> SideCounts {
    SideCounts {
        requests,
        errors,
        p99_us: None,
    }
}

#[test]
fn half_of_the_last_requests_failing_aborts_at_once() {
    let mut guard = Guard::new(GuardLimits::default());
    assert!(guard.counts(0, counts(1_000, 3), counts(50, 0)).is_none());
    assert!(guard.counts(500, counts(1_200, 3), counts(60, 4)).is_none());
    let verdict = guard
        .counts(1_000, counts(1_400, 3), counts(70, 10))
        .expect("10 of 20");
    assert_eq!(
        (verdict.extracted.requests, verdict.extracted.errors),
        (20, 10)
    );
    assert!(verdict.reason.contains("10 of 20"), "{}", verdict.reason);
}

#[test]
fn hard_rules_spare_a_slice_whose_legacy_side_suffers_too() {
    let mut guard = Guard::new(GuardLimits::default());
    guard.counts(0, counts(0, 0), counts(0, 0));
    assert!(guard.counts(500, counts(100, 40), counts(20, 20)).is_none());
    // Nothing of legacy in the window: its requests may hang on what both sides need.
    assert!(
        guard
            .counts(1_000, counts(100, 40), counts(40, 40))
            .is_none()
    );
}

#[test]
fn a_slice_at_full_weight_has_nobody_to_compare_with_and_still_aborts() {
    let mut guard = Guard::new(GuardLimits::default());
    guard.counts(0, counts(500, 0), counts(100, 0));
    assert!(guard.counts(500, counts(500, 0), counts(120, 12)).is_some());
}

#[test]
fn one_client_with_a_broken_record_does_not_trip_the_hard_rules() {
    let mut guard = Guard::new(GuardLimits::default());
    guard.counts(0, counts(0, 0), counts(0, 0));
    for n in 0..10 {
        guard.error(n, Side::Extracted, 1, 0.05);
    }
    assert!(guard.counts(500, counts(100, 0), counts(20, 10)).is_none());
    for key in 2..4 {
        guard.error(501, Side::Extracted, key, 0.05);
    }
    assert!(guard.counts(600, counts(110, 0), counts(22, 12)).is_some());
}

#[test]
fn a_restarted_proxy_starts_the_window_anew() {
    let mut guard = Guard::new(GuardLimits::default());
    guard.counts(0, counts(5_000, 0), counts(500, 0));
    assert!(guard.counts(500, counts(10, 0), counts(3, 3)).is_none());
    assert!(guard.counts(900, counts(50, 0), counts(30, 0)).is_none());
}

#[test]
fn reset_forgets() {
    let mut guard = Guard::new(GuardLimits::default());
    for key in 0..20 {
        guard.error(0, Side::Extracted, key, 0.05);
    }
    assert!(guard.e_value() > 1_000.0);
    guard.reset();
    assert_eq!(guard.e_value(), 0.0);
    assert!(guard.error(0, Side::Extracted, 1, 0.05).is_none());
}

#[test]
fn an_error_without_a_share_says_nothing() {
    let mut guard = Guard::new(GuardLimits::default());
    for key in 0..100 {
        assert!(guard.error(0, Side::Extracted, key, 0.0).is_none());
        assert!(guard.error(0, Side::Extracted, key, f64::NAN).is_none());
    }
}

#[test]
fn limits_are_checked() {
    assert_eq!(GuardLimits::default().problems(), Vec::<String>::new());
    let bad = GuardLimits {
        alpha: 0.0,
        keys_min: 0,
        consecutive: 1,
        window: 1,
        window_failures: 2,
        legacy_clean: 1.0,
        ..GuardLimits::default()
    };
    assert_eq!(bad.problems().len(), 6);
}
