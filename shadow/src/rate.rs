//! How many requests a second are mirrored: a bucket of one second's worth.

use std::time::Instant;

/// One bucket. It begins full, so that the first second is like the others.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// A second, above zero.
    rate: f64,
    left: f64,
    at: Option<Instant>,
}

impl Bucket {
    pub(crate) fn new(rate: f64) -> Self {
        Self {
            rate,
            left: rate.max(1.0),
            at: None,
        }
    }

    /// Whether there is one to take.
    pub(crate) fn has(&mut self, now: Instant) -> bool {
        if let Some(at) = self.at {
            let came = now.saturating_duration_since(at).as_secs_f64() * self.rate;
            self.left = (self.left + came).min(self.rate.max(1.0));
        }
        self.at = Some(now);
        self.left >= 1.0
    }

    /// Takes one that is there.
    pub(crate) fn take(&mut self) {
        self.left = (self.left - 1.0).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_more_than_the_rate_passes_over_any_time() {
        for (rate, seconds, expected) in [(10.0, 10, 110), (0.5, 10, 6), (1_000.0, 1, 2_000)] {
            let (mut bucket, begun) = (Bucket::new(rate), Instant::now());
            let mut taken = 0_usize;
            for n in 0..=seconds * 5_000 {
                if bucket.has(begun + Duration::from_micros(n * 200)) {
                    bucket.take();
                    taken += 1;
                }
            }
            assert!(taken.abs_diff(expected) <= 2, "{rate}: {taken}");
        }
    }
}
