//! Keeps what is so equal to what should be: on a signal and on a period, idempotent, without
//! input. Also renews the lease and saves what must outlive the process.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outgrow_rollout::{DataPhase, Move, Weight};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, error, info, warn};

use super::change::Wanted;
use super::link::{WantedLink, running_link};
use super::recovery::SHADOW;
use super::slice::Slice;
use super::{Controller, Note, json};
use crate::error::{Result, StoreError, chain};
use crate::store::LEASE_MS;

/// A person does not notice so short a delay, and an idle look costs microseconds.
const PERIOD: Duration = Duration::from_millis(200);

/// What a kill may lose of the evidence.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Renewed several times before it lapses.
const RENEW_EVERY: Duration = Duration::from_millis(500);

/// A bridge that does not start is asked again so often.
const ENSURE_PAUSE: Duration = Duration::from_secs(1);

impl Controller {
    pub(super) fn spawn_reconcilers(&self) {
        for slice in self.inner.slices.values() {
            let (controller, slice) = (self.clone(), slice.clone());
            self.inner
                .tasks
                .spawn(async move { controller.keep_slice(&slice).await });
        }
        let controller = self.clone();
        self.inner.tasks.spawn(async move {
            let mut ticks = interval(SAVE_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while controller.ticked(&mut ticks).await {
                controller.save().await;
            }
        });
    }

    pub(super) fn spawn_lease(&self) {
        let controller = self.clone();
        self.inner.tasks.spawn(async move {
            let mut ticks = interval(RENEW_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut renewed = Instant::now();
            while controller.ticked(&mut ticks).await {
                controller.renew_lease(&mut renewed).await;
            }
        });
    }

    /// Waits for the next tick; false when the controller ends.
    async fn ticked(&self, ticks: &mut tokio::time::Interval) -> bool {
        tokio::select! {
            _ = ticks.tick() => true,
            () = self.inner.cancel.cancelled() => false,
        }
    }

    async fn renew_lease(&self, renewed: &mut Instant) {
        match self.inner.store.renew(&self.inner.lease).await {
            Ok(()) => {
                *renewed = Instant::now();
                if !self.inner.leads.swap(true, Ordering::AcqRel) {
                    info!("the lease is ours again");
                    self.reread().await;
                }
            }
            Err(error @ StoreError::Held { .. }) => {
                if self.inner.leads.swap(false, Ordering::AcqRel) {
                    error!(%error, "the lease is lost; nothing is changed any more");
                }
            }
            Err(error) => {
                self.note_store_trouble(&error);
                let limit = Duration::from_millis(LEASE_MS.unsigned_abs());
                if renewed.elapsed() > limit && self.inner.leads.swap(false, Ordering::AcqRel) {
                    error!(error = %chain(&error), "the lease lapsed; nothing is changed any more");
                }
            }
        }
    }

    /// Somebody else may have changed the states while the lease was not ours.
    async fn reread(&self) {
        self.reread_builds().await;
        for slice in self.inner.slices.values() {
            let _one_at_a_time = slice.change.lock().await;
            if slice.held().unpublished.is_some() {
                continue;
            }
            match self.inner.store.state(&slice.id).await {
                Ok(Some(state)) if state != slice.state() => {
                    slice.held().ensured = None;
                    self.adopt(slice, state.clone());
                    self.put_in_force(&slice.id, &state);
                }
                Ok(_) => {}
                Err(error) => warn!(slice = %slice.id, error = %chain(&error), "not read again"),
            }
        }
    }

    async fn keep_slice(&self, slice: &Arc<Slice>) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut not_before = Instant::now();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.inner.wake.notified() => {}
                () = self.inner.cancel.cancelled() => return,
            }
            if let Err(error) = self.publish(slice).await {
                debug!(slice = %slice.id, error = %chain(&error), "the rollback is not stored yet");
            }
            let busy = slice.held().busy.is_some();
            if busy || !self.inner.leads.load(Ordering::Acquire) {
                continue;
            }
            self.apply_again(slice);
            if Instant::now() < not_before {
                continue;
            }
            let kept = tokio::select! {
                kept = self.keep_link(slice) => kept,
                () = self.inner.cancel.cancelled() => return,
            };
            if let Err(error) = self.watch_tripwire(slice).await {
                warn!(slice = %slice.id, error = %chain(&error), "the tripwire could not stop it");
            }
            if let Err(error) = self.watch_bypass(slice).await {
                warn!(slice = %slice.id, error = %chain(&error), "the journal lacks rows written past the proxy");
            }
            if let Err(error) = self.watch_dry_runs(slice).await {
                warn!(slice = %slice.id, error = %chain(&error), "the journal lacks a stopped route");
            }
            if let Err(error) = kept {
                not_before = Instant::now() + ENSURE_PAUSE;
                warn!(slice = %slice.id, error = %chain(&error), "the link is not as it should be");
            }
        }
    }

    /// A proxy that missed a state gets it again; one that lowered by itself is left alone.
    fn apply_again(&self, slice: &Slice) {
        let state = slice.state();
        let wanted = state.live();
        let behind = match self.data_plane().live(&slice.id) {
            None => true,
            Some(live) => live.revision < wanted.revision && live.epoch <= wanted.epoch,
        };
        if behind {
            self.put_in_force(&slice.id, &state);
        }
    }

    /// Copying becomes following once all is copied; the rows are verified then.
    async fn keep_link(&self, slice: &Arc<Slice>) -> Result<()> {
        self.ensure_link(slice).await?;
        let state = slice.state();
        let Some(WantedLink { phase, .. }) = running_link(&state) else {
            return Ok(());
        };
        let evidence = self.sync().evidence(&slice.id);
        let copied = evidence.as_ref().is_some_and(|evidence| evidence.copied);
        if phase == DataPhase::Copying && copied {
            let note = Note::own("every row is copied");
            let wanted = Wanted::new("link-copied", Move::Data(DataPhase::Following), note)
                .on(json(&evidence));
            self.change(slice, wanted).await?;
            self.ensure_link(slice).await?;
            self.verify_in_background(slice);
        } else if phase != DataPhase::Copying && slice.held().verify_began.is_none() {
            // After a start, so that the gates have figures before somebody asks.
            self.verify_in_background(slice);
        }
        Ok(())
    }

    /// Saves what was taken back while the store was away, the shadow's evidence and the counts of the stages.
    pub(super) async fn save(&self) {
        if !self.inner.leads.load(Ordering::Acquire) {
            return;
        }
        self.publish_all_builds().await;
        let mut failed = None;
        for slice in self.inner.slices.values() {
            if slice.held().unpublished.is_some() {
                continue;
            }
            if let Some(mark) = self.count_stage(slice) {
                failed = self
                    .inner
                    .store
                    .put_mark(&slice.id, &mark)
                    .await
                    .err()
                    .or(failed);
            }
        }
        let body = self.shadow().snapshot().to_string();
        failed = self
            .inner
            .store
            .put_snapshot(SHADOW, &body)
            .await
            .err()
            .or(failed);
        if let Some(error) = failed {
            warn!(error = %chain(&error), "evidence could not be saved");
        }
    }

    pub(super) fn note_store_trouble(&self, error: &StoreError) {
        if matches!(error, StoreError::Held { .. }) {
            self.inner.leads.store(false, Ordering::Release);
        }
    }

    /// Slices whose reads are partly or wholly on the extracted side.
    #[must_use]
    pub fn shifted(&self) -> Vec<String> {
        self.inner
            .slices
            .values()
            .filter(|slice| slice.state().traffic.weight() > Weight::ZERO)
            .map(|slice| slice.id.to_string())
            .collect()
    }
}
