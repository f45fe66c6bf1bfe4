//! What keeps the servers' logs from growing: heartbeats, which move slots on also where nothing is
//! written, the reading of what is not applied yet, and a limit.

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
            self.watch_logs().await?;
            self.next_beat = Instant::now() + KEPT;
        }
        Ok(())
    }

    /// A server must not fill its disk for us.
    pub(crate) async fn watch_logs(&mut self) -> Result<(), Error> {
        let limit = self.shared.limits().log_bytes;
        for database in [&self.shared.legacy, &self.shared.extracted] {
            let Some(kept) = database.kept_log().await? else {
                continue;
            };
            let side = database.side;
            if kept > limit {
                database.give_up_log().await?;
                return Err(Error::LogLimit { side, kept, limit });
            }
            let warn = kept > limit / 2;
            let warned = self.shared.status(|s| {
                let before = s.log_kept.insert(side, kept);
                before.is_some_and(|before| before > limit / 2)
            });
            if warn && !warned {
                tracing::warn!(%side, kept, limit, "the server keeps much of its log for the link");
            }
        }
        Ok(())
    }
}
