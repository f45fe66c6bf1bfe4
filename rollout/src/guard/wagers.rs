//! Wealth that grows with what speaks against the one that is judged, and reaches `1/alpha` by chance
//! with probability `alpha` at most (Ville): every bet is a fair game or worse where it is no worse.

/// Keeps the sum of all wealth finite; no reader needs to tell such figures apart.
const WEALTH_MAX: f64 = 1e200;

/// Wagers that are open at once; the poorest makes room.
const WAGERS_MAX: usize = 32;

/// A new wager is opened at the first bet after so long.
const WAGER_EVERY_MS: u64 = 60_000;

#[derive(Debug)]
struct Wager<const N: usize> {
    opened_ms: u64,
    /// Stake and winnings, by the ways to bet. One that has shrunk to nothing stays there; younger
    /// wagers see what it no longer can.
    wealth: [f64; N],
}

/// Wagers of different ages, each of which bets in `N` ways.
#[derive(Debug)]
pub(super) struct Wagers<const N: usize> {
    open: Vec<Wager<N>>,
    /// Those that were ever opened; decides the stake of the next.
    opened: u32,
}

impl<const N: usize> Wagers<N> {
    pub(super) fn new() -> Self {
        Self {
            open: Vec::new(),
            opened: 0,
        }
    }

    /// All wealth together.
    pub(super) fn worth(&self) -> f64 {
        self.open.iter().flat_map(|wager| wager.wealth).sum()
    }

    /// One bet: what each way multiplies its wealth by.
    pub(super) fn bet(&mut self, now_ms: u64, gains: [f64; N]) {
        let latest = self.open.iter().map(|wager| wager.opened_ms).max();
        if latest.is_none_or(|latest| now_ms.saturating_sub(latest) >= WAGER_EVERY_MS) {
            self.begin(now_ms);
        }
        for wager in &mut self.open {
            for (wealth, gain) in wager.wealth.iter_mut().zip(gains) {
                *wealth = (*wealth * gain).min(WEALTH_MAX);
            }
        }
    }

    /// Opens a wager with the stake 1/2, 1/6, 1/12, ...: together they never exceed one, so the
    /// sum of all wealth starts at one or less and the bound of Ville holds for it.
    fn begin(&mut self, now_ms: u64) {
        let n = f64::from(self.opened);
        self.opened = self.opened.saturating_add(1);
        if self.open.len() >= WAGERS_MAX {
            let worth = |wager: &Wager<N>| wager.wealth.into_iter().sum::<f64>();
            let poorest = (0..self.open.len())
                .min_by(|&a, &b| worth(&self.open[a]).total_cmp(&worth(&self.open[b])));
            if let Some(poorest) = poorest {
                self.open.swap_remove(poorest);
            }
        }
        let stake = 1.0 / ((n + 1.0) * (n + 2.0));
        let ways = u32::try_from(N).map_or(f64::INFINITY, f64::from);
        self.open.push(Wager {
            opened_ms: now_ms,
            wealth: [stake / ways; N],
        });
    }
}
