//! What keeps the servers' logs from growing: heartbeats, which move slots on also where nothing is
//! written, and the reading of what is not applied yet.

use std::time::Instant;

use outgrow_rollout::Side;

use crate::engine::Engine;
use crate::error::Error;
use crate::spec::Capture;

/// Between two heartbeats while the link is paused.
const KEPT: std::time::Duration = std::time::Duration::from_secs(5);

impl Engine {
    /// Sends a heartbeat.
    pub(crate) async fn beat(&mut self, from: Side) -> Result<(), Error> {
        let began = Instant::now();
        let beat_ms = self.shared.on(from).beat().await?;
        self.beats.sent(from, beat_ms, began);
        Ok(())
    }

    /// Keeps streams from holding back what their servers would remove, while nothing is applied.
    pub(crate) async fn keep(&mut self) -> Result<(), Error> {
        self.leave_short().await?;
        let beat = Instant::now() >= self.next_beat;
        for database in [&self.shared.legacy, &self.shared.extracted] {
            if database.capture() == Capture::Replication {
                if beat {
                    database.beat().await?;
                }
                database.place().await?;
            }
        }
        if beat {
            self.next_beat = Instant::now() + KEPT;
        }
        Ok(())
    }
}
