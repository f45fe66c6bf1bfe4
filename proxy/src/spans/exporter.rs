//! The thread that sends spans. It alone waits for a collector.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::collector::{Collector, Said};
use super::write::{Head, around};
use super::{Block, SpanExport, Tallies};
use crate::trace::Dice;

/// Cores hand their blocks over at about the same time: they go in one export.
const GATHER: Duration = Duration::from_millis(100);
/// Collectors take 4 MB and more by default.
const EXPORT: usize = 1 << 20;
/// Between the first two tries of an export. Each further pause is twice as long.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// One export is tried for so long; then there are newer spans that somebody may want more.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a collector may ask for.
const AFTER_MAX: Duration = Duration::from_secs(300);
/// At the end of the process all that is left is sent within this.
pub(crate) const LAST: Duration = Duration::from_secs(3);

/// What the blocks of all cores come to.
#[derive(Debug)]
pub(crate) struct Exporter {
    collector: Collector,
    head: Head,
    blocks: Receiver<Block>,
    tallies: Arc<Tallies>,
    /// Spans that were taken from the queue and are not counted yet.
    at_hand: u64,
    /// Trouble was told, and is not told again before there is none.
    warned: bool,
    dice: Dice,
}

impl Exporter {
    /// # Errors
    /// Says what is wrong with the authorities.
    pub(super) fn new(
        settings: &SpanExport,
        blocks: Receiver<Block>,
        tallies: Arc<Tallies>,
    ) -> Result<Self, String> {
        Ok(Self {
            collector: Collector::new(settings)?,
            head: around(&settings.resource),
            blocks,
            tallies,
            at_hand: 0,
            warned: false,
            dice: Dice::default(),
        })
    }

    /// Until the last core is gone, and what it had is sent, or `LAST` has passed since `closing`.
    pub(crate) async fn run(mut self, closing: CancellationToken) {
        let over = async {
            closing.cancelled().await;
            sleep(LAST).await;
        };
        tokio::select! {
            () = self.work(&closing) => {}
            () = over => {}
        }
        let mut lost = self.at_hand;
        while let Ok(block) = self.blocks.try_recv() {
            lost += block.spans;
        }
        self.tallies.failed.fetch_add(lost, Relaxed);
    }

    async fn work(&mut self, closing: &CancellationToken) {
        while let Some(first) = self.blocks.recv().await {
            let until = Instant::now() + GATHER;
            let mut bytes = first.bytes.len();
            self.at_hand = first.spans;
            let mut blocks = vec![first.bytes];
            while bytes < EXPORT {
                let Ok(Some(next)) = timeout_at(until, self.blocks.recv()).await else {
                    break;
                };
                bytes += next.bytes.len();
                self.at_hand += next.spans;
                blocks.push(next.bytes);
            }
            let export = self.head.export(&blocks);
            drop(blocks);
            self.deliver(export.into(), closing).await;
        }
    }

    /// Tries for as long as it is worth it.
    async fn deliver(&mut self, export: Bytes, closing: &CancellationToken) {
        let begun = Instant::now();
        let mut pause = PAUSE;
        loop {
            // Looked at before: what is sent at the end is sent once more, and no oftener.
            let last = closing.is_cancelled();
            let (why, after) = match self.collector.send(export.clone()).await {
                Said::Took { refused, why } => return self.took(refused, &why),
                Said::Never { why } => {
                    self.complain(&why);
                    let spans = std::mem::take(&mut self.at_hand);
                    self.tallies.refused.fetch_add(spans, Relaxed);
                    return;
                }
                Said::Later { why, after } => (why, after),
            };
            self.complain(&why);
            if last || begun.elapsed() >= PATIENCE {
                let spans = std::mem::take(&mut self.at_hand);
                self.tallies.failed.fetch_add(spans, Relaxed);
                return;
            }
            let wait = match after {
                Some(after) => after.min(AFTER_MAX),
                None => self.shaken(pause),
            };
            pause = (pause * 2).min(PAUSE_MAX);
            tokio::select! {
                () = sleep(wait) => {}
                () = closing.cancelled() => {}
            }
        }
    }

    /// Three quarters to five quarters of it, so that proxies do not come back in step.
    fn shaken(&self, pause: Duration) -> Duration {
        let part = u32::try_from(self.dice.next() % 512).unwrap_or(0);
        pause * (768 + part) / 1_024
    }

    fn took(&mut self, refused: u64, why: &str) {
        let spans = std::mem::take(&mut self.at_hand);
        let refused = refused.min(spans);
        self.tallies.sent.fetch_add(spans - refused, Relaxed);
        self.tallies.refused.fetch_add(refused, Relaxed);
        if refused > 0 {
            let why = format!("it refused {refused} of {spans} spans: {why}");
            self.complain(&why);
        } else if self.warned {
            self.warned = false;
            info!("spans are exported again");
        }
    }

    fn complain(&mut self, why: &str) {
        if !self.warned {
            let to = self.collector.url();
            warn!(%to, %why, "spans cannot be exported; those that find no room are lost, requests go on");
        }
        self.warned = true;
    }
}
