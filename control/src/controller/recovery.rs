//! What a start does before anything else: put the states into force, and end the cutovers that
//! an earlier process left behind. Before the switch they are taken back, after it they go on.

use std::time::Duration;

use outgrow_rollout::cutover::resume;
use tracing::{info, warn};

use super::{Controller, Note};
use crate::error::{Result, chain};

/// A start waits so long for the bridge and for unfinished cutovers; both go on afterwards.
const RECOVERY_WAIT: Duration = Duration::from_secs(10);

/// Name of the shadow's snapshot in the store.
pub(super) const SHADOW: &str = "shadow";

impl Controller {
    /// Gives the shadow its evidence back. Evidence that cannot be read is gathered anew.
    pub(super) async fn restore_shadow(&self) {
        let stored = match self.inner.store.snapshot(SHADOW).await {
            Ok(stored) => stored,
            Err(error) => {
                warn!(error = %chain(&error), "no evidence of the shadow could be read");
                return;
            }
        };
        let Some(body) = stored else { return };
        let restored = serde_json::from_str(&body)
            .map_err(|error| error.to_string())
            .and_then(|value| {
                self.shadow()
                    .restore(value)
                    .map_err(|error| error.to_string())
            });
        if let Err(error) = restored {
            warn!(%error, "the shadow starts without its earlier evidence");
        }
    }

    pub(super) async fn recover(&self) -> Result<()> {
        let mut endings = Vec::new();
        for slice in self.inner.slices.values() {
            let stored = self.inner.store.cutover(&slice.id).await?;
            if stored.is_some() {
                // Nobody writes until it is clear which side takes the writes.
                let hold = self.data_plane().hold(&slice.id, RECOVERY_WAIT);
                if let Err(error) = hold.await {
                    warn!(slice = %slice.id, %error, "writes could not be held");
                }
            }
            slice.held().mirrored_since();
            self.put_in_force(&slice.id, &slice.state());
            let ensured = tokio::time::timeout(RECOVERY_WAIT, self.ensure_link(slice)).await;
            match ensured {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    warn!(slice = %slice.id, error = %chain(&error), "the link does not start yet");
                }
                Err(_) => warn!(slice = %slice.id, "the link takes long to start"),
            }
            let Some(row) = stored else { continue };
            let step = resume(row.step, slice.state().writer, row.to);
            info!(slice = %slice.id, found = %row.step, next = %step, "resuming a cutover");
            let by = row.detail["by"].as_str().unwrap_or("controller");
            let why = format!("outgrow was stopped at `{}`", row.step);
            let mut run = self.prepare_cutover(
                slice,
                row.to,
                Note::new(Some(by), Some(&why)),
                row.detail.clone(),
            )?;
            run.resumed(&row, why);
            endings.push(self.inner.tasks.spawn(run.drive(step)));
        }
        for ending in endings {
            if tokio::time::timeout(RECOVERY_WAIT, ending).await.is_err() {
                warn!("a cutover that was left behind has not ended yet; it goes on");
            }
        }
        Ok(())
    }
}
