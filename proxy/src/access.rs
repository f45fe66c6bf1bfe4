//! The access log: a line for each request.
//!
//! A core writes lines into a block of its own and hands whole blocks to one thread that writes
//! them out. No request waits for that thread: when its queue is full, the block's lines are lost,
//! and counted.

mod line;
mod writer;

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime};

use outgrow_rollout::LinesLost;

use crate::slice::Slice;
use crate::trail::Ending;
use line::Clock;
pub(crate) use writer::Writer;

/// A block is handed over when it has this many bytes.
const BLOCK: usize = 64 * 1_024;
/// Room for the line that makes a block full.
const ROOM: usize = BLOCK + 4 * 1_024;
/// Blocks of a core that may wait for the writer.
const WAITING_MAX: usize = 16;
/// What is in a block waits no longer than this.
pub(crate) const FLUSH: Duration = Duration::from_millis(250);
/// Shares are kept as so many parts.
const WHOLE: u64 = 1_000_000;

/// What is logged of which requests, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// `None`: standard output.
    pub file: Option<PathBuf>,
    pub format: LogFormat,
    /// Of all requests, 0.0 to 1.0.
    pub sample: f64,
    /// Requests that take this long are logged whatever the sample says, but where their filters
    /// say another time.
    pub slow: Option<Duration>,
    /// Whether the target is told with its query.
    pub query: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// An object a line.
    Json,
    /// The "combined" format of Apache and nginx.
    Combined,
}

/// Lines of a core on their way.
#[derive(Debug)]
struct Block {
    core: usize,
    bytes: Vec<u8>,
    lines: u64,
}

/// Lines that were not written, and why.
#[derive(Debug)]
pub(crate) struct Losses {
    /// By core: the writer was behind. Only the core itself writes its one.
    queue: Box<[AtomicU64]>,
    /// It could not write.
    write: AtomicU64,
}

impl Losses {
    pub(crate) fn new(cores: usize) -> Self {
        Self {
            queue: (0..cores).map(|_| AtomicU64::new(0)).collect(),
            write: AtomicU64::new(0),
        }
    }

    pub(crate) fn read(&self) -> LinesLost {
        LinesLost {
            queue: self.queue.iter().map(|lines| lines.load(Relaxed)).sum(),
            write: self.write.load(Relaxed),
        }
    }
}

/// The access log on one core.
#[derive(Debug)]
pub(crate) struct CoreLog {
    settings: AccessLog,
    /// Of `WHOLE`.
    share: u64,
    dice: Cell<u64>,
    clock: RefCell<Clock>,
    core: usize,
    block: RefCell<Vec<u8>>,
    lines: Cell<u64>,
    to: SyncSender<Block>,
    /// Blocks that were written, to be used again.
    back: Receiver<Vec<u8>>,
    losses: Arc<Losses>,
}

/// The cores' halves, and the writer's.
pub(crate) fn open(
    settings: &AccessLog,
    losses: &Arc<Losses>,
) -> std::io::Result<(Vec<CoreLog>, Writer)> {
    let cores = losses.queue.len();
    let (to, blocks) = sync_channel(cores * WAITING_MAX);
    let mut backs = Vec::new();
    let mut logs = Vec::new();
    for core in 0..cores {
        let (give_back, back) = sync_channel(WAITING_MAX);
        backs.push(give_back);
        let (to, losses) = (to.clone(), losses.clone());
        logs.push(CoreLog::new(settings.clone(), core, (to, back), losses));
    }
    let writer = Writer::open(settings.file.clone(), blocks, backs, losses.clone())?;
    Ok((logs, writer))
}

impl CoreLog {
    fn new(
        settings: AccessLog,
        core: usize,
        (to, back): (SyncSender<Block>, Receiver<Vec<u8>>),
        losses: Arc<Losses>,
    ) -> Self {
        // At least 0 and at most `WHOLE`, as a cast has it.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let share = (settings.sample.clamp(0.0, 1.0) * 1e6).round() as u64;
        // Zero is where the dice would stay.
        let seed = RandomState::new().build_hasher().finish() | 1;
        Self {
            settings,
            share,
            dice: Cell::new(seed),
            clock: RefCell::default(),
            core,
            block: RefCell::new(Vec::with_capacity(ROOM)),
            lines: Cell::new(0),
            to,
            back,
            losses,
        }
    }

    /// Whether lines say what a client says of itself.
    pub(crate) fn tells_of_clients(&self) -> bool {
        self.settings.format == LogFormat::Combined
    }

    fn chosen(&self) -> bool {
        // Xorshift: not to be guessed at is not asked of it.
        let mut dice = self.dice.get();
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        self.dice.set(dice);
        self.share == WHOLE || (dice >> 16) % WHOLE < self.share
    }

    /// A request has ended.
    pub(crate) fn tell(&self, ending: &Ending, slices: &[Arc<Slice>]) {
        let took = ending.trail.begun.elapsed();
        let slow = ending.trail.known.borrow().slow.or(self.settings.slow);
        let slow = slow.is_some_and(|slow| took >= slow);
        if !slow && !self.chosen() {
            return;
        }
        let mut block = self.block.borrow_mut();
        let mut clock = self.clock.borrow_mut();
        let now = clock.at(SystemTime::now());
        let query = self.settings.query;
        match self.settings.format {
            LogFormat::Json => line::json(&mut block, &now, ending, (took, query), slices),
            LogFormat::Combined => line::combined(&mut block, &now, ending, query),
        }
        self.lines.set(self.lines.get() + 1);
        if block.len() >= BLOCK {
            drop(block);
            self.flush();
        }
    }

    /// Hands over what there is.
    pub(crate) fn flush(&self) {
        let lines = self.lines.take();
        if lines == 0 {
            return;
        }
        let fresh = self.back.try_recv();
        let fresh = fresh.unwrap_or_else(|_| Vec::with_capacity(ROOM));
        let bytes = self.block.replace(fresh);
        let core = self.core;
        let sent = self.to.try_send(Block { core, bytes, lines });
        if let Err(TrySendError::Full(block) | TrySendError::Disconnected(block)) = sent {
            let lost = &self.losses.queue[core];
            lost.store(lost.load(Relaxed).wrapping_add(block.lines), Relaxed);
            let mut bytes = block.bytes;
            bytes.clear();
            self.block.replace(bytes);
        }
    }
}

impl Drop for CoreLog {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(sample: f64) -> (CoreLog, Receiver<Block>) {
        let (to, blocks) = sync_channel(1);
        let (_, back) = sync_channel(1);
        let settings = AccessLog {
            file: None,
            format: LogFormat::Json,
            sample,
            slow: None,
            query: true,
        };
        let losses = Arc::new(Losses::new(1));
        (CoreLog::new(settings, 0, (to, back), losses), blocks)
    }

    #[test]
    fn a_share_of_requests_is_chosen() {
        for (sample, within) in [(0.0, 0..=0), (0.1, 800..=1_200), (1.0, 10_000..=10_000)] {
            let (log, _blocks) = log(sample);
            let chosen = (0..10_000).filter(|_| log.chosen()).count();
            assert!(within.contains(&chosen), "{chosen} at {sample}");
        }
    }

    #[test]
    fn a_writer_that_is_behind_costs_lines_and_no_time() {
        let (log, blocks) = log(1.0);
        for lines in [2, 3, 4] {
            log.block.borrow_mut().extend_from_slice(b"line\n");
            log.lines.set(lines);
            log.flush();
        }
        assert_eq!(log.losses.read(), LinesLost { queue: 7, write: 0 });
        let block = blocks.try_recv().unwrap();
        assert_eq!((block.bytes.as_slice(), block.lines), (&b"line\n"[..], 2));
        assert!(log.block.borrow().is_empty());
    }
}
