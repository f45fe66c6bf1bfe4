//! Runs a cutover: does what `outgrow_rollout::cutover` says comes next, and remembers each step
//! before doing it.
//!
//! It is a task of its own: a caller that goes away does not stop it. Before the switch it may
//! be aborted and runs against the plan's time limit; from the switch on it goes to the end.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use outgrow_rollout::cutover::{CutoverStep, Outcome, next};
use outgrow_rollout::{Move, Side, SliceId, TableRows, advance};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json as object};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::change::Wanted;
use super::link::running_link;
use super::slice::{Occupied, Running, Slice};
use super::{Controller, Note, direction, json};
use crate::error::{ControlError, Result, StoreError, chain};
use crate::ports::{FencePosition, PortResult};
use crate::store::{CutoverRow, Draft};
use crate::wall;

/// First and longest pause before a step that must succeed is done again.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// A step after the switch, or one that takes back, hangs if it takes longer; it is done again,
/// which every port allows.
const STEP_LIMIT: Duration = Duration::from_secs(5);

/// What a cutover did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CutoverReport {
    pub slice: SliceId,
    /// `legacy->extracted` or `extracted->legacy`.
    pub direction: String,
    /// Writes that waited.
    pub held: u64,
    /// From the hold to the release.
    pub pause_ms: u64,
    /// The passive side had applied everything before the switch.
    pub drained: bool,
    /// What the check inside the hold found.
    pub rows: BTreeMap<String, TableRows>,
    /// `switched` or `aborted`.
    pub outcome: String,
    /// Why it was aborted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// It was aborted because its time was up.
    #[serde(default)]
    pub timed_out: bool,
}

impl CutoverReport {
    #[must_use]
    pub fn switched(&self) -> bool {
        self.outcome == "switched"
    }
}

/// One cutover under way.
pub(super) struct Run {
    controller: Controller,
    slice: Arc<Slice>,
    /// Reserved until the end.
    _occupied: Occupied,
    note: Note,
    evidence: Value,
    row: CutoverRow,
    abort: CancellationToken,
    position: Option<FencePosition>,
    held_since: Option<Instant>,
    deadline: Option<Instant>,
    report: CutoverReport,
}

impl Controller {
    /// Runs a cutover to its end and reports; the caller may go away meanwhile.
    pub(super) async fn run_cutover(
        &self,
        slice: &Arc<Slice>,
        to: Side,
        note: Note,
        evidence: Value,
    ) -> Result<CutoverReport> {
        self.must_lead()?;
        let run = self.prepare_cutover(slice, to, note, evidence)?;
        let task = self.inner.tasks.spawn(run.drive(CutoverStep::Preflight));
        task.await.map_err(|_| ControlError::Stopping)
    }

    pub(super) fn prepare_cutover(
        &self,
        slice: &Arc<Slice>,
        to: Side,
        note: Note,
        evidence: Value,
    ) -> Result<Run> {
        let occupied = slice.occupy(&format!("a cutover to {to}"))?;
        let abort = CancellationToken::new();
        slice.held().cutover = Some(Running {
            step: CutoverStep::Preflight,
            to,
            began: Instant::now(),
            abort: abort.clone(),
        });
        Ok(Run {
            controller: self.clone(),
            slice: slice.clone(),
            _occupied: occupied,
            row: CutoverRow {
                step: CutoverStep::Preflight,
                to,
                started: wall::now_ms(),
                detail: object!({"by": note.by, "reason": note.reason}),
            },
            note,
            evidence,
            abort,
            position: None,
            held_since: None,
            deadline: None,
            report: CutoverReport {
                slice: slice.id.clone(),
                direction: direction(to),
                held: 0,
                pause_ms: 0,
                drained: false,
                rows: BTreeMap::new(),
                outcome: "aborted".to_owned(),
                why: None,
                timed_out: false,
            },
        })
    }

    /// Asks a cutover under way to take itself back, and waits until it has ended either way.
    pub(super) async fn abort_cutover(&self, slice: &Arc<Slice>) {
        let running = slice.held().cutover.clone();
        let Some(running) = running else { return };
        running.abort.cancel();
        while slice.held().cutover.is_some() && !self.inner.cancel.is_cancelled() {
            let woken = self.inner.wake.notified();
            // The period makes up for a wake-up that came between the two looks.
            let _ = tokio::time::timeout(Duration::from_millis(20), woken).await;
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.slice.held().cutover = None;
        self.controller.inner.wake.notify_waiters();
    }
}

impl Run {
    /// Takes over what an earlier process began; the pause counts from now, the rest is lost.
    pub(super) fn resumed(&mut self, row: &CutoverRow, why: String) {
        self.row = row.clone();
        self.held_since = Some(Instant::now());
        self.report.why = Some(why);
    }

    /// Goes from step to step until the end, or until the process ends.
    pub(super) async fn drive(mut self, first: CutoverStep) -> CutoverReport {
        let (mut step, mut pause) = (first, RETRY_FIRST);
        while !step.is_end() {
            let outcome = self.remember_and_do(step).await;
            let following = next(step, outcome);
            if following == step {
                if self.controller.inner.cancel.is_cancelled() {
                    self.report.why =
                        Some(format!("outgrow stops at `{step}`; it goes on next time"));
                    return self.report.clone();
                }
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(RETRY_MAX);
            } else {
                pause = RETRY_FIRST;
            }
            step = following;
        }
        self.end(step).await;
        self.report.clone()
    }

    async fn remember_and_do(&mut self, step: CutoverStep) -> Outcome {
        self.row.step = step;
        if let Some(running) = &mut self.slice.held().cutover {
            running.step = step;
        }
        if !step.may_time_out() {
            // The switch is remembered by its own transaction.
            if step != CutoverStep::Switch
                && let Err(why) = self.remember().await
            {
                // Later steps are resumed from an earlier record just as well.
                warn!(slice = %self.slice.id, %step, %why, "the step could not be stored");
            }
            return self.perform_final(step).await;
        }
        if step == CutoverStep::Hold {
            let now = Instant::now();
            let within = self.slice.spec.plan.cutover_timeout;
            (self.held_since, self.deadline) = (Some(now), Some(now + within));
        }
        let abort = self.abort.clone();
        let deadline = self.deadline;
        let limit = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = async {
                self.remember().await?;
                self.perform(step).await
            } => Some(ended),
            () = limit => None,
            () = abort.cancelled() => Some(Err(format!("it was called off at `{step}`"))),
        };
        match ended {
            Some(Ok(())) => Outcome::Done,
            Some(Err(why)) => self.failed(why),
            None => {
                self.report.timed_out = true;
                self.failed(format!(
                    "`{step}` was not done within {:?} from the hold",
                    self.slice.spec.plan.cutover_timeout
                ))
            }
        }
    }

    async fn remember(&self) -> std::result::Result<(), String> {
        let inner = &self.controller.inner;
        let stored = inner
            .store
            .put_cutover(&inner.lease, &self.slice.id, &self.row)
            .await;
        stored.map_err(|error| {
            self.controller.note_store_trouble(&error);
            format!("`{}` could not be stored: {}", self.row.step, chain(&error))
        })
    }

    fn failed(&mut self, why: String) -> Outcome {
        warn!(slice = %self.slice.id, %why, "the cutover takes itself back");
        self.report.why.get_or_insert(why);
        Outcome::Failed
    }

    /// A step before the switch. Cancel safe: all of them are taken back by `Unfence`.
    async fn perform(&mut self, step: CutoverStep) -> std::result::Result<(), String> {
        let from = self.row.to.other();
        let within = self.slice.spec.plan.cutover_timeout;
        let id = self.slice.id.clone();
        let ports = self.controller.inner.ports.clone();
        match step {
            CutoverStep::Preflight => advance(&self.slice.state(), &Move::Writer(self.row.to))
                .map(drop)
                .map_err(|error| error.to_string()),
            CutoverStep::Hold => named(step, ports.data_plane.hold(&id, within)).await,
            CutoverStep::Fence => {
                self.position = Some(named(step, ports.sync.fence(&id, from)).await?);
                Ok(())
            }
            CutoverStep::Drain => {
                let position = self.position.ok_or("the fence has no position")?;
                let left = self
                    .deadline
                    .map_or(within, |deadline| deadline.duration_since(Instant::now()));
                named(step, ports.sync.drain(&id, position, left)).await?;
                self.report.drained = true;
                Ok(())
            }
            CutoverStep::Check => {
                self.report.rows = named(step, ports.sync.check(&id)).await?;
                self.rows_equal()
            }
            _ => Ok(()),
        }
    }

    fn rows_equal(&self) -> std::result::Result<(), String> {
        let bad: Vec<String> = self
            .report
            .rows
            .iter()
            .filter(|(_, rows)| rows.different > 0 || rows.legacy != rows.extracted)
            .map(|(table, rows)| {
                format!(
                    "`{table}`: {} legacy, {} extracted, {} differ",
                    rows.legacy, rows.extracted, rows.different
                )
            })
            .collect();
        if bad.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "rows are not equal ({}); see `sync verify`",
                bad.join("; ")
            ))
        }
    }

    /// A step from the switch on, or one that takes back: not cancelled, done again if it fails.
    async fn perform_final(&mut self, step: CutoverStep) -> Outcome {
        let id = self.slice.id.clone();
        let (to, from) = (self.row.to, self.row.to.other());
        let controller = self.controller.clone();
        let sync = controller.sync();
        let done = match step {
            CutoverStep::Switch => return self.switch().await,
            CutoverStep::Turn => {
                limited(async {
                    // The bridge asks for both sides to be still; the old writer's is already.
                    sync.fence(&id, to).await?;
                    sync.turn(&id, to).await?;
                    if let Some(link) = running_link(&self.slice.state()) {
                        sync.ensure(&id, link.phase, link.source).await?;
                        self.slice.held().ensured = Some(link);
                    }
                    sync.unfence(&id, to).await
                })
                .await
            }
            CutoverStep::Unfence => limited(sync.unfence(&id, from)).await,
            CutoverStep::Apply => {
                let live = self.slice.state().live();
                controller.data_plane().apply(&id, live);
                Ok(())
            }
            CutoverStep::Release | CutoverStep::LetGo => {
                controller
                    .data_plane()
                    .apply(&id, self.slice.state().live());
                controller.data_plane().release(&id);
                self.report.held = controller.data_plane().held(&id);
                if let Some(since) = self.held_since.take() {
                    self.report.pause_ms =
                        u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                }
                Ok(())
            }
            _ => Ok(()),
        };
        match done {
            Ok(()) => Outcome::Done,
            Err(why) => {
                error!(slice = %id, %step, %why, "a step of the cutover fails; it is done again");
                Outcome::Failed
            }
        }
    }

    async fn switch(&mut self) -> Outcome {
        if self.abort.is_cancelled() {
            return self.failed("it was called off before the switch".to_owned());
        }
        let mut wanted = Wanted::new("switch", Move::Writer(self.row.to), self.note.clone());
        wanted.evidence = object!({"gates": self.evidence, "rows": self.report.rows});
        // From here on the record says that there is no way back.
        let mut row = self.row.clone();
        row.step = CutoverStep::Turn;
        wanted.cutover = Some(row);
        let refused = match self.controller.change(&self.slice, wanted).await {
            Ok(_) => return Outcome::Done,
            Err(
                refused @ (ControlError::Illegal(_)
                | ControlError::Busy { .. }
                | ControlError::Store(StoreError::Moved { .. } | StoreError::Held { .. })),
            ) => return self.failed(format!("the switch was refused: {refused}")),
            Err(refused) => refused,
        };
        // The store did not answer as it should: only the store can tell what it did.
        match self.controller.inner.store.state(&self.slice.id).await {
            Ok(Some(state)) if state.writer == self.row.to => {
                self.controller.adopt(&self.slice, state);
                Outcome::Done
            }
            Ok(_) => self.failed(format!("the switch failed: {}", chain(&refused))),
            Err(error) => {
                error!(slice = %self.slice.id, error = %chain(&error),
                       "the store does not tell whether the writer has changed; asking again");
                Outcome::Unknown
            }
        }
    }

    async fn end(&mut self, step: CutoverStep) {
        let switched = step == CutoverStep::Switched;
        self.report.outcome = if switched { "switched" } else { "aborted" }.to_owned();
        if switched {
            // Steps that were done again are no reason for anything any more.
            self.report.why = None;
        }
        let state = json(&self.slice.state());
        let reason = match (&self.report.why, self.note.reason.as_str()) {
            (Some(why), _) => why.clone(),
            (None, reason) => reason.to_owned(),
        };
        let entry = Draft {
            by: self.note.by.clone(),
            action: if switched {
                "cutover"
            } else {
                "cutover-aborted"
            }
            .to_owned(),
            reason,
            before: state.clone(),
            after: state,
            evidence: json(&self.report),
        };
        let (store, lease) = (&self.controller.inner.store, &self.controller.inner.lease);
        if let Err(error) = store.end_cutover(lease, &self.slice.id, &entry).await {
            // The next start finds the record at its last step, which it may do again.
            error!(slice = %self.slice.id, error = %chain(&error),
                   "the end of the cutover could not be stored");
        }
        info!(slice = %self.slice.id, outcome = %self.report.outcome,
              pause_ms = self.report.pause_ms, held = self.report.held, "cutover ended");
    }
}

async fn named<T>(
    step: CutoverStep,
    port: impl Future<Output = PortResult<T>>,
) -> std::result::Result<T, String> {
    port.await
        .map_err(|error| format!("`{step}` failed: {error}"))
}

async fn limited(port: impl Future<Output = PortResult<()>>) -> std::result::Result<(), String> {
    match tokio::time::timeout(STEP_LIMIT, port).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err(format!("it hangs for more than {STEP_LIMIT:?}")),
    }
}
