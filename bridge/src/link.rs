//! The handle of one slice's link, and the worker behind it.
//!
//! Calls that change roles or rows run in tasks of their own, so that a caller that gives up
//! waiting never leaves one half-done; [`Link::shutdown`] waits for them.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use outgrow_rollout::bypass::Changed;
use outgrow_rollout::{DataPhase, Side, SliceId, SyncEvidence, TableRows};
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use crate::engine::Engine;
use crate::error::Error;
use crate::events::Events;
use crate::fail_over::Moved;
use crate::guard::Guard;
use crate::plan::Plan;
use crate::preflight::Preflight;
use crate::scan::VerifyOptions;
use crate::shared::{Shared, StreamReader};
use crate::spec::{Capture, LinkSpec};
use crate::verify::{Verifier, VerifyReport};
use crate::worker::{Places, Worker, stop};

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) engine: tokio::sync::Mutex<Option<Engine>>,
    /// Held while the worker is started or stopped.
    pub(crate) worker: tokio::sync::Mutex<Option<Worker>>,
    /// What an engine that is made again begins with.
    pub(crate) phase: Mutex<DataPhase>,
    pub(crate) tasks: TaskTracker,
    pub(crate) poke: Notify,
    /// Whether the worker only keeps its streams.
    pub(crate) paused: AtomicBool,
    pub(crate) places: watch::Sender<Places>,
    pub(crate) failures: watch::Sender<Option<String>>,
    /// What watches the bytes that databases keep.
    pub(crate) guard: Mutex<Option<Guard>>,
    pub(crate) moves: watch::Sender<Vec<Moved>>,
    /// The side and place of the last fence: what a drain's position means.
    pub(crate) fenced: Mutex<Option<(Side, i64)>>,
    /// Where the other side's stream ended then, where both sides were fenced.
    pub(crate) fenced_back: Mutex<Option<(Side, i64)>>,
    pub(crate) report: Mutex<Option<VerifyReport>>,
}

/// One slice's tables, kept in step. Clones share one link.
#[derive(Debug, Clone)]
pub struct Link {
    pub(crate) inner: Arc<Inner>,
}

impl Link {
    /// A link that does nothing yet. Databases are opened when first needed, so that
    /// [`Self::preflight`] can tell what is wrong with them.
    ///
    /// # Errors
    /// None at present; opening another engine's database may fail.
    pub async fn open(spec: LinkSpec) -> Result<Self, Error> {
        Self::open_with(spec, None).await
    }

    /// As [`Self::open`], with change events for a broker.
    ///
    /// # Errors
    /// As [`Self::open`].
    #[allow(clippy::unused_async)] // Other engines connect here.
    pub async fn open_with(spec: LinkSpec, events: Option<Events>) -> Result<Self, Error> {
        let places = Places {
            source: Side::Legacy,
            applied: 0,
            applied_back: 0,
        };
        Ok(Self {
            inner: Arc::new(Inner {
                shared: Arc::new(Shared::new(spec, events)),
                engine: tokio::sync::Mutex::new(None),
                worker: tokio::sync::Mutex::new(None),
                phase: Mutex::new(DataPhase::Idle),
                tasks: TaskTracker::new(),
                poke: Notify::new(),
                paused: AtomicBool::new(false),
                places: watch::channel(places).0,
                failures: watch::channel(None).0,
                guard: Mutex::new(None),
                moves: watch::channel(Vec::new()).0,
                fenced: Mutex::new(None),
                fenced_back: Mutex::new(None),
                report: Mutex::new(None),
            }),
        })
    }

    pub fn slice(&self) -> &SliceId {
        &self.inner.shared.spec.slice
    }

    /// Everything that stands in the way, at once. Changes nothing in the databases.
    ///
    /// # Errors
    /// None at present: what a database refuses is a problem like the others.
    pub async fn preflight(&self) -> Result<Preflight, Error> {
        Ok(self.inner.shared.preflight().await)
    }

    /// Brings the link to a phase with rows flowing from `source`: installs what is missing,
    /// turns the link round if it was recorded the other way, and starts the worker. A backfill
    /// that is not complete goes on, and becomes following by itself. Idempotent.
    ///
    /// # Errors
    /// Every reason why the tables cannot be kept in step, or what a database said.
    pub async fn ensure(&self, phase: DataPhase, source: Side) -> Result<(), Error> {
        match phase {
            DataPhase::Idle => Ok(()),
            DataPhase::Closed => self.close().await,
            _ => {
                let inner = Arc::clone(&self.inner);
                self.whole(async move { inner.ensure(phase, source, false).await })
                    .await
            }
        }
    }

    /// Whether the backfill is complete.
    pub fn copied(&self) -> bool {
        self.inner.shared.status(|s| s.copied)
    }

    /// What is known of the link; `None` before it was ever started, or watched, in this process.
    pub fn evidence(&self) -> Option<SyncEvidence> {
        self.inner
            .shared
            .status(|s| s.is_known().then(|| s.evidence()))
    }

    /// When rows of the side that takes the writes changed, since the last call; the oldest of very many
    /// are forgotten. Empty until the bridge knows how far that database's clock is from ours.
    pub fn changed(&self) -> Vec<Changed> {
        self.inner.shared.status(|s| s.moments.take())
    }

    /// Tables, rates, positions, for people.
    pub fn describe(&self) -> Value {
        let mut told = self.inner.shared.status(|s| s.describe());
        if let Some(desk) = &self.inner.shared.events {
            told["events"] = desk.state(|s| s.describe());
        }
        told
    }

    /// Goes on with events that were parked, from the present, after one that names the gap.
    /// Whether any were parked.
    ///
    /// # Errors
    /// When a database fails.
    pub async fn resume_events(&self) -> Result<bool, Error> {
        crate::events::resume(&self.inner.shared).await
    }

    /// Everything that the source committed before this moment is on the passive side. `None` while
    /// the clock says that it is still to come: it was set back, and what is written now has times of
    /// before.
    pub fn applied_through(&self) -> Option<SystemTime> {
        let shared = &self.inner.shared;
        let now = shared.limits().clock.now_ms();
        let beat = shared.status(|s| s.beat_ms).filter(|beat| *beat <= now)?;
        Some(UNIX_EPOCH + Duration::from_millis(u64::try_from(beat).ok()?))
    }

    /// Why the link cannot go on by itself, once that is so.
    pub fn failures(&self) -> watch::Receiver<Option<String>> {
        self.inner.failures.subscribe()
    }

    /// Servers that were gone on with unasked, as the config says, at the last time that any were.
    pub fn moves(&self) -> watch::Receiver<Vec<Moved>> {
        self.inner.moves.subscribe()
    }

    /// Applies nothing more after the present step; capture stays. [`Self::ensure`] resumes.
    ///
    /// # Errors
    /// None at present.
    pub async fn pause(&self) -> Result<(), Error> {
        self.inner.paused.store(true, Ordering::Release);
        // Whoever has the engine now is in the present step.
        drop(self.inner.engine.lock().await);
        self.inner.shared.status(|s| s.running = false);
        Ok(())
    }

    /// Goes on with servers that have taken the place of others, once their GTIDs prove that they
    /// have all that was applied: with [`Self::ensure`], from exactly where the link was. Which those
    /// are; none where both are the ones that were followed.
    ///
    /// # Errors
    /// [`Error::Unproved`] with what such a server lacks; nothing has changed then.
    pub async fn fail_over(&self) -> Result<Vec<Moved>, Error> {
        let inner = Arc::clone(&self.inner);
        self.whole(async move {
            let mut held = inner.engine.lock().await;
            let moved = inner.shared.fail_over(true).await?;
            if !moved.is_empty() {
                // What it knows is of the servers before.
                *held = None;
            }
            Ok(moved)
        })
        .await
    }

    /// Takes up a paused link after a restart: where streams are read from a database's log, they
    /// are, so that the server may remove it. Nothing is applied.
    ///
    /// # Errors
    /// As [`Self::ensure`].
    pub async fn keep(&self, phase: DataPhase, source: Side) -> Result<(), Error> {
        self.inner.guarded();
        let shared = &self.inner.shared;
        let reads_logs = [&shared.legacy, &shared.extracted]
            .iter()
            .any(|side| side.capture() == Capture::Replication);
        if !reads_logs {
            return Ok(());
        }
        let inner = Arc::clone(&self.inner);
        self.whole(async move { inner.ensure(phase, source, true).await })
            .await
    }

    /// Watches what the databases keep for a link that does nothing, as one that has failed before a
    /// restart; beyond its limits it is parked. A link that was started is watched anyway. Ends with
    /// [`Self::close`] and [`Self::shutdown`]; idempotent.
    pub fn watch_over(&self) {
        self.inner.guarded();
    }

    /// Refuses everybody's writes but the bridge's on one side, and says where that side's
    /// stream ended; on both sides where both take writes. Idempotent; survives a restart. Cancel
    /// safe.
    ///
    /// # Errors
    /// When the link was never started, or the database does not take it.
    pub async fn fence(&self, side: Side) -> Result<i64, Error> {
        let (position, back) = self.with_engine(async |e| e.fence(side).await).await?;
        *lock(&self.inner.fenced) = Some((side, position));
        *lock(&self.inner.fenced_back) = back.map(|at| (side.other(), at));
        self.inner.poke.notify_one();
        Ok(position)
    }

    /// Takes a fence off. Idempotent. Cancel safe.
    ///
    /// # Errors
    /// As [`Self::fence`].
    pub async fn unfence(&self, side: Side) -> Result<(), Error> {
        self.with_engine(async |e| e.unfence(side).await).await
    }

    /// Waits until the changes up to a fence's position are applied. Cancel safe.
    ///
    /// # Errors
    /// [`Error::DrainTimeout`] when that takes longer than `within`.
    pub async fn drain(&self, position: i64, within: Duration) -> Result<(), Error> {
        let mut places = self.inner.places.subscribe();
        let source = places.borrow().source;
        let side = match *lock(&self.inner.fenced) {
            Some((side, at)) if at == position => side,
            _ => source,
        };
        self.inner.poke.notify_one();
        let back = *lock(&self.inner.fenced_back);
        let reached = places.wait_for(|places| {
            places.of(side) >= position
                && back.is_none_or(|(other, at)| other == side || places.of(other) >= at)
        });
        let waited = tokio::time::timeout(within, reached)
            .await
            .is_ok_and(|seen| seen.is_ok());
        if waited {
            return Ok(());
        }
        Err(Error::DrainTimeout {
            side: side.other(),
            position,
            applied: self.inner.places.borrow().of(side),
            within,
        })
    }

    /// Row counts, and a comparison of the rows that changed lately. Cancel safe.
    ///
    /// # Errors
    /// When the link was never started, or a database fails.
    pub async fn check(&self) -> Result<BTreeMap<String, TableRows>, Error> {
        let (plan, source, _reader) = self.view().await?;
        let recent = self.with_engine(async |e| Ok(e.recent.by_group())).await?;
        self.verifier(&plan, source).check(recent).await
    }

    /// Makes `source` the side that rows flow from, from the drained place on; advances its ids
    /// beyond all that the other side gave out, opens it, keeps the other fenced. Idempotent;
    /// finishes even if the caller stops waiting.
    ///
    /// # Errors
    /// When a side is not fenced or not drained; nothing has changed then.
    pub async fn turn(&self, source: Side) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        let began = Instant::now();
        self.whole(Box::pin(async move {
            let mut held = inner.engine.lock().await;
            let engine = held.as_mut().ok_or_else(|| inner.not_started())?;
            let turning = Box::pin(engine.turn(source));
            match inner.shared.in_time(turning).await {
                Some(turned) => {
                    inner.publish(engine);
                    turned?;
                    let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                    tracing::info!(slice = %inner.shared.spec.slice, %source, us, "the link is turned");
                    Ok(())
                }
                None => Err(inner.stalled(&mut held).await),
            }
        }))
        .await
    }

    /// Compares every row, while both sides move. Cancel safe.
    ///
    /// # Errors
    /// When the backfill is not complete, or a database fails.
    pub async fn verify(&self) -> Result<VerifyReport, Error> {
        self.verify_with(&VerifyOptions::default()).await
    }

    /// As [`Self::verify`], of all rows or of a sample. What a sample finds counts like what a
    /// whole verification finds; that it finds nothing proves nothing.
    ///
    /// # Errors
    /// As [`Self::verify`]; [`Error::NothingToResume`].
    pub async fn verify_with(&self, options: &VerifyOptions) -> Result<VerifyReport, Error> {
        let (plan, source, _reader) = self.view().await?;
        if !self.copied() {
            return Err(Error::NotCopied(self.slice().clone()));
        }
        let (report, at) = self.verifier(&plan, source).verify(options).await?;
        self.inner.shared.status(|s| s.note_verified(&report, at));
        if report.share.is_none() || report.different > 0 {
            *lock(&self.inner.report) = Some(report.clone());
        }
        Ok(report)
    }

    /// Stops the worker and removes triggers, positions and fences from both databases.
    /// Idempotent; the slice's own rows stay as they are.
    ///
    /// # Errors
    /// When a database does not let go; calling again finishes the rest.
    pub async fn close(&self) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        self.whole(async move {
            let mut worker = inner.worker.lock().await;
            stop(&mut worker).await;
            inner.leave_alone().await;
            *inner.engine.lock().await = None;
            inner.shared.legacy.uninstall().await?;
            inner.shared.extracted.uninstall().await?;
            inner.shared.status(|s| *s = s.anew());
            inner.failures.send_replace(None);
            *lock(&inner.report) = None;
            *lock(&inner.fenced) = None;
            *lock(&inner.fenced_back) = None;
            Ok(())
        })
        .await
    }

    /// Ends the worker and every call that is under way, and closes the databases. Nothing is
    /// removed; another process can go on from here.
    pub async fn shutdown(&self) {
        stop(&mut *self.inner.worker.lock().await).await;
        self.inner.leave_alone().await;
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.shared.legacy.close().await;
        self.inner.shared.extracted.close().await;
    }

    pub(crate) fn verifier<'a>(&'a self, plan: &'a Plan, source: Side) -> Verifier<'a> {
        Verifier {
            shared: &self.inner.shared,
            plan,
            source,
        }
    }

    /// The plan with what lookups say now, and who is the source.
    pub(crate) async fn view(&self) -> Result<(Arc<Plan>, Side, StreamReader), Error> {
        let reader = self.inner.shared.read_stream();
        self.with_engine(async |e| e.watch_lookups().await).await?;
        // The lock is let go between two chunks, so that following goes on.
        while self.inner.shared.status(|s| s.running)
            && self.with_engine(async |e| e.carry_renamed().await).await?
        {}
        self.with_engine(async |e| Ok((Arc::clone(&e.plan), e.source, reader)))
            .await
    }

    async fn with_engine<T>(
        &self,
        call: impl AsyncFnOnce(&mut Engine) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut engine = self.inner.engine.lock().await;
        let engine = engine.as_mut().ok_or_else(|| self.inner.not_started())?;
        engine.take_up().await?;
        // Whoever asks from outside is to find everything in the stream.
        engine.leave_short().await?;
        call(engine).await
    }

    /// Runs to the end whatever the caller does.
    pub(crate) async fn whole<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        match self.inner.tasks.spawn(Box::pin(work)).await {
            Ok(done) => done,
            // The task is never aborted, so it can only have panicked, which the log shows.
            Err(_) => Err(self.inner.not_started()),
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Plain values, replaced whole: a panic elsewhere cannot leave half of one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
