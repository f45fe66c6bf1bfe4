//! Heartbeats on their way. How long one took is told by a clock that nobody sets; its own time of
//! day tells that only of those that another process has sent.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use outgrow_rollout::Side;

/// Heartbeats of one direction that may be on their way: some minutes of them.
const KEPT: usize = 1_000;

/// Those that this process has sent, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Beats {
    legacy: VecDeque<(i64, Instant)>,
    extracted: VecDeque<(i64, Instant)>,
}

impl Beats {
    fn of(&mut self, from: Side) -> &mut VecDeque<(i64, Instant)> {
        match from {
            Side::Legacy => &mut self.legacy,
            Side::Extracted => &mut self.extracted,
        }
    }

    /// Takes note of a heartbeat, and of when it was begun.
    pub(crate) fn sent(&mut self, from: Side, beat_ms: i64, at: Instant) {
        let sent = self.of(from);
        if sent.len() >= KEPT {
            sent.pop_front();
        }
        sent.push_back((beat_ms, at));
    }

    /// How long a heartbeat that has come was on its way; `None` of another process's.
    pub(crate) fn took(&mut self, from: Side, beat_ms: i64, now: Instant) -> Option<Duration> {
        let sent = self.of(from);
        let at = sent.iter().rposition(|(beat, _)| *beat == beat_ms)?;
        let (_, began) = sent.drain(..=at).next_back()?;
        Some(now.saturating_duration_since(began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_takes_as_long_as_it_takes_whatever_it_says() {
        let mut beats = Beats::default();
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        // The clock is set back an hour between the second and the third.
        for (beat, ms) in [(3_600_000, 0), (3_600_100, 100), (200, 200)] {
            beats.sent(Side::Legacy, beat, after(ms));
        }
        let mut took = |beat, ms| beats.took(Side::Legacy, beat, after(ms));
        assert_eq!(took(3_600_100, 150), Some(Duration::from_millis(50)));
        assert_eq!(took(3_600_000, 150), None, "it came before");
        assert_eq!(took(200, 230), Some(Duration::from_millis(30)));
        assert_eq!(took(999, 230), None, "another process's");
        for beat in 0..5_000 {
            beats.sent(Side::Extracted, beat, start);
        }
        assert_eq!(beats.extracted.len(), KEPT);
    }
}
