//! Fences, drains and turns where both sides take writes: both are fenced for the turn, both
//! streams are drained, and both are opened again.

use outgrow_rollout::Side;

use crate::engine::Engine;
use crate::error::Error;

/// Batches until a stream whose side is fenced must have come to its end.
const DRAIN_STEPS: u32 = 100_000;

impl Engine {
    /// Puts up the fence of a side, or of both; says where that side's stream ended, and the
    /// other's.
    pub(crate) async fn fence(&mut self, side: Side) -> Result<(i64, Option<i64>), Error> {
        if !self.both_ways() {
            return Ok((self.set_fence(side, true).await?, None));
        }
        let back = self.set_fence(side.other(), true).await?;
        let position = self.set_fence(side, true).await?;
        Ok((position, Some(back)))
    }

    pub(crate) async fn unfence(&mut self, side: Side) -> Result<(), Error> {
        self.set_fence(side, false).await?;
        if self.both_ways() {
            self.set_fence(side.other(), false).await?;
        }
        Ok(())
    }

    /// Applies what is left of both streams. Whether both sides are fenced is for the turn to say.
    pub(crate) async fn drain_both(&mut self) -> Result<(), Error> {
        for _ in 0..DRAIN_STEPS {
            for database in [&self.shared.legacy, &self.shared.extracted] {
                database.settle_stream().await?;
                database.place().await?;
            }
            if !self.follow_both().await? {
                break;
            }
        }
        self.count_both().await?;
        match self.shared.status(|s| s.both.open) {
            0 => Ok(()),
            open => Err(Error::OpenConflicts(open)),
        }
    }
}
