//! How many requests may be sent again: a share of those that came, so that retries cannot add
//! to an overload more than that share.

use std::time::Duration;

/// What may be saved up. A service that just restarted breaks off about as many at once.
const MOST: f64 = 100.0;

/// Given every second, so that a service with little traffic has retries, too.
const EACH_SECOND: f64 = 1.0;

/// One core's budget for one service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    tokens: f64,
    /// Since the start.
    at: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            tokens: 10.0 * EACH_SECOND,
            at: Duration::ZERO,
        }
    }
}

impl Budget {
    /// A request came.
    pub(crate) fn deposit(&mut self, share: f64) {
        self.tokens = (self.tokens + share).min(MOST);
    }

    /// Whether one may be sent again now.
    pub(crate) fn withdraw(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + passed * EACH_SECOND).min(MOST);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn retries_stay_within_their_share(
            share in 0.0..1.0_f64,
            waits in proptest::collection::vec(0_u64..200, 1..400),
        ) {
            let mut budget = Budget::default();
            let (mut now, mut retries) = (Duration::ZERO, 0_u32);
            for ms in &waits {
                now += Duration::from_millis(*ms);
                budget.deposit(share);
                retries += u32::from(budget.withdraw(now));
            }
            let most = 10.0 + share * waits.len() as f64 + now.as_secs_f64();
            prop_assert!(f64::from(retries) <= most + 1e-6);
        }
    }

    #[test]
    fn a_quiet_service_has_some() {
        let mut budget = Budget::default();
        let spent = (0..50).filter(|_| budget.withdraw(Duration::ZERO)).count();
        assert_eq!(spent, 10);
        assert!(budget.withdraw(Duration::from_secs(1)));
        assert!(!budget.withdraw(Duration::from_secs(1)));
    }
}
