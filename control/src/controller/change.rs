//! How a state changes: decided by `advance`, stored with its journal entry, then put into force.
//!
//! Taking traffic back goes the other way round: into force first, the store as soon as it can.

use std::sync::Arc;
use std::time::Duration;

use outgrow_rollout::{Move, SliceState, advance};
use serde_json::Value;
use tracing::{info, warn};

use super::slice::{Slice, Unpublished, begin_stage, stage};
use super::{Controller, Note, json};
use crate::error::{ControlError, Result, StoreError, chain};
use crate::store::{Change, CutoverRow, Draft};

/// A rollback tells its caller that the store does not answer after so long; it is in force
/// already and is stored when the store answers again.
const PUBLISH_WAIT: Duration = Duration::from_secs(1);

/// A change and everything that goes with it.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) action: &'static str,
    pub(super) change: Move,
    pub(super) note: Note,
    pub(super) evidence: Value,
    pub(super) cutover: Option<CutoverRow>,
}

impl Wanted {
    pub(super) fn new(action: &'static str, change: Move, note: Note) -> Self {
        Self {
            action,
            change,
            note,
            evidence: Value::Null,
            cutover: None,
        }
    }

    pub(super) fn on(mut self, evidence: Value) -> Self {
        self.evidence = evidence;
        self
    }

    pub(super) fn draft(&self, before: &SliceState, after: &SliceState) -> Draft {
        Draft {
            by: self.note.by.clone(),
            action: self.action.to_owned(),
            reason: self.note.reason.clone(),
            before: json(before),
            after: json(after),
            evidence: self.evidence.clone(),
        }
    }
}

impl Controller {
    /// Changes a state: store first, then into force (but for the switch of a cutover, whose own
    /// step does that).
    ///
    /// Cancel safe: it runs as its own task to the end.
    pub(super) async fn change(&self, slice: &Arc<Slice>, wanted: Wanted) -> Result<SliceState> {
        self.must_lead()?;
        let (controller, slice) = (self.clone(), slice.clone());
        let task = self
            .inner
            .tasks
            .spawn(async move { controller.change_now(&slice, wanted).await });
        task.await.unwrap_or(Err(ControlError::Stopping))
    }

    async fn change_now(&self, slice: &Arc<Slice>, wanted: Wanted) -> Result<SliceState> {
        let _one_at_a_time = slice.change.lock().await;
        let before = {
            let held = slice.held();
            if held.unpublished.is_some() {
                return Err(ControlError::Busy {
                    slice: slice.id.to_string(),
                    what: "a rollback that the store does not know yet".to_owned(),
                });
            }
            held.state.clone()
        };
        let after = advance(&before, &wanted.change)?;
        let begins = (stage(&after) != stage(&before)).then(|| {
            let found = slice.held().watching.found.clone();
            begin_stage(&after, found)
        });
        let entry = wanted.draft(&before, &after);
        let stored = self
            .inner
            .store
            .change(
                &self.inner.lease,
                &Change {
                    slice: &slice.id,
                    expected: before.revision,
                    after: &after,
                    entry: &entry,
                    mark: begins.as_ref(),
                    cutover: wanted.cutover.as_ref(),
                },
            )
            .await;
        if let Err(error) = stored {
            self.note_store_trouble(&error);
            return Err(error.into());
        }
        let lowered = slice.held().unpublished.clone();
        if let Some(pending) = lowered {
            // Traffic was taken back while this was being stored: that holds, on top of this.
            let lowered = slice.state();
            self.rebase(slice, &pending, &lowered, Some(after.clone()));
        } else {
            self.adopt(slice, after.clone());
            if wanted.cutover.is_none() {
                self.put_in_force(&slice.id, &after);
            }
        }
        info!(slice = %slice.id, action = wanted.action, by = %wanted.note.by,
              revision = %after.revision, stage = %stage(&after), "state changed");
        self.inner.wake.notify_waiters();
        Ok(after)
    }

    /// Takes a state over into memory; a new stage starts counting at nothing.
    pub(super) fn adopt(&self, slice: &Slice, after: SliceState) {
        let now = self.data_plane().counts(&slice.id).unwrap_or_default();
        let mut held = slice.held();
        if stage(&after) != held.mark.stage {
            held.mark = begin_stage(&after, held.watching.found.clone());
            held.base = now;
        }
        held.state = after;
        held.mirrored_since();
    }

    /// Takes traffic back: into force at once, whatever the store does, then stored. The second
    /// value tells whether the store knows it.
    pub(super) async fn lower(
        &self,
        slice: &Arc<Slice>,
        wanted: Wanted,
    ) -> Result<(SliceState, bool)> {
        let after = {
            let mut held = slice.held();
            let before = held.state.clone();
            let after = advance(&before, &wanted.change)?;
            let entry = wanted.draft(&before, &after);
            // Two in a row become one change of the store, told by the later entry.
            let expected = match &held.unpublished {
                Some(earlier) => earlier.expected,
                None => before.revision,
            };
            held.unpublished = Some(Unpublished { expected, entry });
            self.put_in_force(&slice.id, &after);
            held.state = after.clone();
            after
        };
        self.adopt(slice, after.clone());
        let (controller, own) = (self.clone(), slice.clone());
        let task = self
            .inner
            .tasks
            .spawn(async move { controller.publish(&own).await });
        let published = match tokio::time::timeout(PUBLISH_WAIT, task).await {
            Ok(Ok(Ok(()))) => true,
            Ok(Ok(Err(error))) => {
                warn!(slice = %slice.id, error = %chain(&error), "rolled back in memory only");
                false
            }
            _ => false,
        };
        info!(slice = %slice.id, action = wanted.action, by = %wanted.note.by, published,
              revision = %after.revision, "traffic taken back");
        self.inner.wake.notify_waiters();
        Ok((slice.state(), published))
    }

    /// Stores a rollback that is in force already. Does nothing when there is none.
    pub(super) async fn publish(&self, slice: &Arc<Slice>) -> Result<()> {
        let _one_at_a_time = slice.change.lock().await;
        let (pending, after, begins) = {
            let held = slice.held();
            let Some(pending) = held.unpublished.clone() else {
                return Ok(());
            };
            (pending, held.state.clone(), held.mark.clone())
        };
        let stored = self
            .inner
            .store
            .change(
                &self.inner.lease,
                &Change {
                    slice: &slice.id,
                    expected: pending.expected,
                    after: &after,
                    entry: &pending.entry,
                    mark: Some(&begins),
                    cutover: None,
                },
            )
            .await;
        match stored {
            Ok(()) => {
                self.settle(slice, &after);
                Ok(())
            }
            // Somebody else's change, or ours whose answer was lost: the store tells.
            Err(StoreError::Moved { .. }) => {
                let known = self.inner.store.state(&slice.id).await?;
                self.rebase(slice, &pending, &after, known);
                Ok(())
            }
            Err(error) => {
                self.note_store_trouble(&error);
                Err(error.into())
            }
        }
    }

    /// The store knows `stored` now; what was lowered meanwhile stays pending.
    fn settle(&self, slice: &Slice, stored: &SliceState) {
        let mut held = slice.held();
        if held.state == *stored {
            held.unpublished = None;
        } else if let Some(later) = &mut held.unpublished {
            later.expected = stored.revision;
        }
    }

    /// The store has another state than the one that the rollback was decided on. The rollback
    /// holds: it is decided again on that state, and published next time round.
    fn rebase(
        &self,
        slice: &Slice,
        pending: &Unpublished,
        wanted: &SliceState,
        known: Option<SliceState>,
    ) {
        let Some(known) = known else { return };
        if known == *wanted {
            self.settle(slice, &known);
            return;
        }
        let mut held = slice.held();
        let mut lowered = known.clone();
        lowered.traffic = wanted.traffic;
        lowered.epoch = known.epoch.max(wanted.epoch) + 1;
        lowered.revision = known.revision.max(wanted.revision).next();
        held.unpublished = Some(Unpublished {
            expected: known.revision,
            entry: pending.entry.clone(),
        });
        self.put_in_force(&slice.id, &lowered);
        held.state = lowered;
        drop(held);
        self.inner.wake.notify_waiters();
    }
}
