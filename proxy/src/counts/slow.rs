//! Slow answers of builds, by group of clients, above bars that the guard sets while a build is on trial.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use outgrow_rollout::{BARS, CLIENT_GROUPS};

use super::raise;

/// One build on one core, on lines of its own: by bar, then by group.
#[derive(Debug)]
#[repr(align(64))]
struct Groups([[AtomicU64; CLIENT_GROUPS]; BARS]);

impl Default for Groups {
    fn default() -> Self {
        Self(std::array::from_fn(|_| {
            std::array::from_fn(|_| AtomicU64::new(0))
        }))
    }
}

/// Counters of a slice, by build in the order of the config.
#[derive(Debug)]
pub(crate) struct SlowCounts {
    /// In microseconds, by build; requests read them.
    bars: Box<[[AtomicU64; BARS]]>,
    /// Core by core.
    groups: Box<[Groups]>,
}

impl SlowCounts {
    pub(super) fn new(builds: usize, cores: usize) -> Self {
        let none = || std::array::from_fn(|_| AtomicU64::new(u64::MAX));
        Self {
            bars: (0..builds).map(|_| none()).collect(),
            groups: (0..builds * cores).map(|_| Groups::default()).collect(),
        }
    }

    /// What takes longer is slow from now on; `None`: nothing is.
    pub(crate) fn set(&self, build: usize, bars: Option<[u64; BARS]>) {
        let bars = bars.unwrap_or([u64::MAX; BARS]);
        for (of, bar) in self.bars.get(build).into_iter().flatten().zip(bars) {
            of.store(bar, Relaxed);
        }
    }

    /// Called on the core's own thread only.
    pub(super) fn count(&self, (core, build, client): (usize, usize, u64), took_us: u64) {
        let Some(bars) = self.bars.get(build) else {
            return;
        };
        // The lowest one first: mostly that is all.
        for (at, bar) in bars.iter().enumerate() {
            if took_us <= bar.load(Relaxed) {
                return;
            }
            let groups = self.groups.get(core * self.bars.len() + build);
            if let Some(Groups(groups)) = groups {
                raise(&groups[at][group(client)], 1);
            }
        }
    }

    pub(super) fn read(&self, build: usize) -> [[u64; CLIENT_GROUPS]; BARS] {
        let mut sums = [[0; CLIENT_GROUPS]; BARS];
        let of_build = self.groups.iter().skip(build);
        for Groups(groups) in of_build.step_by(self.bars.len().max(1)) {
            let groups = groups.iter().flatten();
            for (sum, group) in sums.iter_mut().flatten().zip(groups) {
                *sum += group.load(Relaxed);
            }
        }
        sums
    }
}

fn group(client: u64) -> usize {
    usize::try_from(client % CLIENT_GROUPS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_answers_are_counted_by_bar_build_and_client() {
        let slow = SlowCounts::new(2, 2);
        slow.count((0, 0, 1), u64::MAX - 1);
        slow.set(0, Some([10, 20, 30]));
        for (core, took) in [(0, 10), (0, 11), (1, 25), (1, 31)] {
            slow.count((core, 0, 65), took);
            slow.count((core, 1, 65), took);
        }
        slow.count((0, 0, 2), 31);
        let told = slow.read(0);
        assert_eq!(told.map(|groups| groups[1]), [3, 2, 1]);
        assert_eq!(told.map(|groups| groups[2]), [1, 1, 1]);
        assert_eq!(told.as_flattened().iter().sum::<u64>(), 9);
        assert_eq!(slow.read(1), [[0; CLIENT_GROUPS]; BARS]);
        slow.set(0, None);
        slow.count((0, 0, 2), 31);
        assert_eq!(slow.read(0), told);
    }
}
