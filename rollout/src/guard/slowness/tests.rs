//! Slowness in simulated traffic: where it must be seen, and where it must not.

use super::*;
use crate::dice::Dice;

/// How a build answers.
#[derive(Debug, Clone, Copy)]
struct Build {
    /// Half of its answers take this long or less.
    half_us: f64,
    /// The share of its answers that take two seconds more.
    stuck: f64,
    /// The chance of a pause in each second, in which every answer takes a second more.
    pauses: f64,
}

const WELL: Build = Build {
    half_us: 10_000.0,
    stuck: 0.0,
    pauses: 0.0,
};

/// Fifty requests a second of 2,000 clients for both builds together.
struct Traffic {
    blue: Build,
    green: Build,
    share: f64,
    /// Requests of the trial that come from so many large accounts, a third of them from these.
    large: u64,
}

impl Traffic {
    fn of(blue: Build, green: Build) -> Self {
        Self {
            blue,
            green,
            share: 0.2,
            large: 0,
        }
    }

    /// Until the abort: after how many seconds, and why.
    fn run(&self, seed: u64, seconds: u64, limits: &GuardLimits) -> Option<(u64, Verdict)> {
        let mut dice = Dice::new(seed);
        let [blue, green] = ["blue", "green"].map(|name| BuildName::new(name).expect("a name"));
        let mut judge = Slowness::new(limits, &green, &blue)?;
        let mut paces = [Pace::default(), Pace::default()];
        let mut times = [Times::default(), Times::default()];
        for second in 1..=seconds {
            let pauses = [self.blue, self.green].map(|of| dice.chance(of.pauses));
            for _ in 0..50 {
                let at = usize::from(dice.chance(self.share));
                let of = [self.blue, self.green][at];
                let large = at == 1 && self.large > 0 && dice.chance(0.33);
                let client = match large {
                    true => dice.next() % self.large,
                    false => 100 + dice.next() % 2_000,
                };
                // From a sixteenth to sixteen times as long, evenly by orders.
                let mut took = of.half_us * 2_f64.powf(8.0 * dice.unit() - 4.0);
                took += 2e6 * f64::from(u8::from(large || dice.chance(of.stuck)));
                took += 1e6 * f64::from(u8::from(pauses[at]));
                let took = took as u64;
                times[at].add(took);
                paces[at].requests += 1;
                let bars = judge.bars().map(|bars| [bars.active_us, bars.tried_us][at]);
                for (bar, above) in bars.iter().flatten().enumerate() {
                    let group = client as usize % CLIENT_GROUPS;
                    paces[at].slow[bar][group] += u64::from(took > *above);
                }
            }
            let told = (times[0].count, times[0].percentiles());
            let [blue, green] = paces.clone();
            if judge.is_due(second * 1_000) && judge.look(second * 1_000, (green, blue), told) {
                let [blue, green] = [&times[0], &times[1]].map(Times::figures);
                if let Some(verdict) = judge.verdict(green, blue) {
                    return Some((second, verdict));
                }
            }
        }
        None
    }
}

/// Times by sixteenths of powers of two.
#[derive(Debug)]
struct Times {
    count: u64,
    buckets: Vec<u64>,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            count: 0,
            buckets: vec![0; 512],
        }
    }
}

impl Times {
    fn add(&mut self, micros: u64) {
        self.count += 1;
        self.buckets[(16.0 * (micros.max(1) as f64).log2()) as usize] += 1;
    }

    fn percentiles(&self) -> [Option<u64>; BARS] {
        BAR_PERCENTS.map(|percent| {
            let mut below = 0;
            let at = self.buckets.iter().position(|count| {
                below += count;
                self.count > 0 && below * 100 >= self.count * percent
            })?;
            Some(2_f64.powf((at as f64 + 1.0) / 16.0) as u64)
        })
    }

    fn figures(&self) -> AnswerFigures {
        let [p50_us, _, p99_us] = self.percentiles();
        AnswerFigures {
            requests: self.count,
            errors: 0,
            p50_us,
            p99_us,
        }
    }
}

/// How many of 60 trials of five minutes end, with a chance of one in twenty each that they may.
fn ended(traffic: &Traffic) -> usize {
    let limits = GuardLimits {
        alpha: 0.05,
        ..GuardLimits::default()
    };
    (0..60)
        .filter(|seed| traffic.run(*seed, 300, &limits).is_some())
        .count()
}

fn seen_within(traffic: &Traffic, seconds: u64) -> Verdict {
    let runs = (0..5).map(|seed| traffic.run(seed, seconds, &GuardLimits::default()));
    let runs: Option<Vec<_>> = runs.collect();
    let (_, verdict) = runs.expect("every trial ends").remove(0);
    verdict
}

#[test]
fn a_build_that_is_as_fast_stays() {
    let pausing = Build {
        pauses: 0.03,
        ..WELL
    };
    for (blue, green) in [(WELL, WELL), (pausing, pausing)] {
        for share in [0.05, 0.6] {
            let traffic = Traffic {
                share,
                ..Traffic::of(blue, green)
            };
            // 3 may; 10 are one in a thousand.
            let ended = ended(&traffic);
            assert!(ended <= 10, "{ended} of 60 with {green:?} at {share}");
        }
    }
}

#[test]
fn what_is_tolerated_is_no_reason() {
    let slower = Build {
        half_us: 18_000.0,
        ..WELL
    };
    assert!(ended(&Traffic::of(WELL, slower)) <= 3);
    // Many times as long, and a few milliseconds.
    let fast = Build {
        half_us: 60.0,
        ..WELL
    };
    let slower = Build {
        half_us: 600.0,
        ..WELL
    };
    assert_eq!(ended(&Traffic::of(fast, slower)), 0);
    let off = GuardLimits {
        build_slower: 0.0,
        ..GuardLimits::default()
    };
    let stuck = Build { stuck: 1.0, ..WELL };
    assert_eq!(Traffic::of(WELL, stuck).run(1, 600, &off), None);
}

#[test]
fn few_clients_with_large_accounts_are_no_reason() {
    let mut traffic = Traffic::of(WELL, WELL);
    traffic.large = 2;
    assert!(ended(&traffic) <= 3);
    traffic.large = 40;
    assert_eq!(ended(&traffic), 60, "that is the build");
}

#[test]
fn a_slow_build_is_seen() {
    let slow = Build {
        half_us: 60_000.0,
        ..WELL
    };
    let verdict = seen_within(&Traffic::of(WELL, slow), 120);
    let told = &verdict.reason;
    assert!(
        told.starts_with("build green answers more slowly than blue"),
        "{told}"
    );
    for word in ["limit 1000", "green: p50 ", "blue: p50 ", " requests"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert!(verdict.extracted.p99_us > verdict.legacy.p99_us);
    // Its own stretches tell apart what waits with the other one.
    let stuck = Build { stuck: 0.5, ..WELL };
    seen_within(&Traffic::of(WELL, stuck), 120);
    let stuck = Build { stuck: 0.1, ..WELL };
    seen_within(&Traffic::of(WELL, stuck), 600);
    let pausing = Build {
        pauses: 0.3,
        ..WELL
    };
    seen_within(&Traffic::of(WELL, pausing), 600);
}
