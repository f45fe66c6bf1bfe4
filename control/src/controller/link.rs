//! The data axis: start, pause, resume, verify, repair and close the link of a slice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use outgrow_rollout::{DataPhase, IllegalMove, Move, Side, SliceState, Step, TableRows, advance};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json as object};
use tokio::time::Instant;
use tracing::{info, warn};

use super::change::Wanted;
use super::cutover::CutoverReport;
use super::slice::Slice;
use super::{Controller, Note, json};
use crate::error::{ControlError, Result};
use crate::ports::{PortError, Verification};
use crate::store::Draft;

/// Between two verifications that gates ask for; a gate that is asked in a loop must not keep
/// both databases busy.
const VERIFY_PAUSE: Duration = Duration::from_secs(2);

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerifyReport {
    pub rows: BTreeMap<String, TableRows>,
    pub report: Value,
}

/// Rows of each kind and database that one look lists at the most.
const LISTED_MAX: u32 = 1_000;

/// Which conflicts are to be settled, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settle {
    /// `None`: all that are open.
    pub conflict: Option<String>,
    pub take: Side,
    pub dry_run: bool,
}

/// The side that rows flow from in this state.
pub(super) fn source_of(state: &SliceState) -> Side {
    match state.data.as_ref().map(|link| link.phase) {
        Some(DataPhase::Reversed) => Side::Extracted,
        Some(DataPhase::Closed) => state.writer,
        _ => Side::Legacy,
    }
}

impl Controller {
    fn with_tables(&self, name: &str) -> Result<Arc<Slice>> {
        let slice = self.slice(name)?;
        if slice.spec.has_tables {
            Ok(slice)
        } else {
            Err(IllegalMove::NoTables.into())
        }
    }

    /// Checks databases, tables and mapping; changes nothing.
    ///
    /// # Errors
    /// [`ControlError::Refused`] with what is wrong.
    pub async fn sync_preflight(&self, name: &str) -> Result<Value> {
        let slice = self.with_tables(name)?;
        self.sync()
            .preflight(&slice.id)
            .await
            .map_err(ControlError::Refused)
    }

    /// Starts copying the tables of a slice.
    ///
    /// # Errors
    /// [`ControlError::Refused`] if the tables do not fit; the state is unchanged then.
    /// [`ControlError::Port`] if the copy is ordered but could not begin: it is tried again.
    pub async fn sync_start(&self, name: &str, note: Note) -> Result<SliceState> {
        let slice = self.with_tables(name)?;
        let _occupied = slice.occupy("starting the copy")?;
        advance(&slice.state(), &Move::Data(DataPhase::Copying))?;
        let found = self
            .sync()
            .preflight(&slice.id)
            .await
            .map_err(ControlError::Refused)?;
        let wanted = Wanted::new("sync-start", Move::Data(DataPhase::Copying), note).on(found);
        let after = self.change(&slice, wanted).await?;
        self.begin_link(&slice).await?;
        Ok(after)
    }

    /// Stops the workers of a link; changes pile up until it is resumed.
    ///
    /// # Errors
    /// [`ControlError::Illegal`], [`ControlError::Port`].
    pub async fn sync_pause(&self, name: &str, note: Note) -> Result<SliceState> {
        let slice = self.with_tables(name)?;
        let _occupied = slice.occupy("pausing the link")?;
        let reason = if note.reason.is_empty() {
            format!("by {}", note.by)
        } else {
            note.reason.clone()
        };
        let wanted = Wanted::new("sync-pause", Move::PauseLink(reason), note);
        let after = self.change(&slice, wanted).await?;
        slice.held().ensured = None;
        self.begin_link(&slice).await?;
        Ok(after)
    }

    /// Lets a paused or failed link run again.
    ///
    /// # Errors
    /// [`ControlError::Illegal`], [`ControlError::Port`].
    pub async fn sync_resume(&self, name: &str, note: Note) -> Result<SliceState> {
        let slice = self.with_tables(name)?;
        let _occupied = slice.occupy("resuming the link")?;
        let wanted = Wanted::new("sync-resume", Move::ResumeLink, note);
        let after = self.change(&slice, wanted).await?;
        slice.held().ensured = None;
        self.begin_link(&slice).await?;
        Ok(after)
    }

    /// As [`Self::sync_resume`], with a server that has taken the place of the one that was followed,
    /// once it is proved that it has all that was applied.
    ///
    /// # Errors
    /// [`ControlError::Refused`] with what it lacks; the state is unchanged then.
    pub async fn sync_another_server(&self, name: &str, note: Note) -> Result<SliceState> {
        let slice = self.with_tables(name)?;
        self.must_lead()?;
        let _occupied = slice.occupy("going on with another server")?;
        let proved = self.sync().fail_over(&slice.id).await;
        let Some(moved) = proved.map_err(ControlError::Refused)? else {
            let why =
                "both databases are the ones that were followed: leave `--another-server` out";
            return Err(ControlError::Refused(PortError(why.to_owned())));
        };
        let state = slice.state();
        let stopped = state.data.as_ref();
        let stopped = stopped.is_some_and(|link| link.paused.is_some() || link.failed.is_some());
        let after = if stopped {
            let wanted = Wanted::new("sync-another-server", Move::ResumeLink, note).on(moved);
            self.change(&slice, wanted).await?
        } else {
            self.note(&slice, "sync-another-server", note, moved)
                .await?;
            state
        };
        slice.held().ensured = None;
        self.begin_link(&slice).await?;
        Ok(after)
    }

    /// Takes note of another server that the bridge goes on with unasked, as the config says.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn link_moved(&self, name: &str, moved: Value) -> Result<()> {
        let slice = self.with_tables(name)?;
        let why = "its GTIDs prove that it has all that was applied";
        let note = Note::new(Some("bridge"), Some(why));
        self.note(&slice, "link-another-server", note, moved).await
    }

    /// What fails here is tried again by the reconciler, and shown by `status`; who ordered it is
    /// told so.
    async fn begin_link(&self, slice: &Slice) -> Result<()> {
        self.ensure_link(slice).await.map_err(|error| match error {
            ControlError::Port(PortError(why)) => ControlError::Port(PortError(format!(
                "ordered, but it cannot begin yet: {why}; it is tried again until it can, see \
                 `outgrow sync status {}`",
                slice.id
            ))),
            other => other,
        })
    }

    /// Compares rows of the slice's tables.
    ///
    /// # Errors
    /// [`ControlError::Usage`] for a share that is none; [`ControlError::Port`].
    pub async fn sync_verify(&self, name: &str, wanted: Verification) -> Result<VerifyReport> {
        let slice = self.with_tables(name)?;
        if let Some(share) = wanted.share {
            let usage = |text: &str| Err(ControlError::Usage(text.to_owned()));
            if !(share > 0.0 && share < 1.0) {
                return usage("`share` is a part of the rows: write more than 0 and less than 1");
            }
            if wanted.resume {
                return usage("a sample cannot be resumed: leave `share` or `resume` out");
            }
        }
        let (rows, report) = self.sync().verify(&slice.id, &wanted).await?;
        if wanted.share.is_none() {
            slice.held().verify_began = Some(Instant::now());
        }
        Ok(VerifyReport { rows, report })
    }

    /// Mends the rows that the last verification named, or with `apply` false says which.
    ///
    /// # Errors
    /// [`ControlError::Port`], [`ControlError::Busy`].
    pub async fn sync_repair(&self, name: &str, apply: bool, note: Note) -> Result<Value> {
        let slice = self.with_tables(name)?;
        if apply {
            self.must_lead()?;
        }
        let _occupied = slice.occupy("a repair")?;
        let done = self.sync().repair(&slice.id, !apply).await?;
        if apply {
            self.note(&slice, "repair", note, done.clone()).await?;
            slice.held().verify_began = None;
            self.verify_in_background(&slice);
        }
        Ok(done)
    }

    /// Goes on with change events that were parked, from the present. Says whether there were
    /// any.
    ///
    /// # Errors
    /// [`ControlError::Port`].
    pub async fn sync_resume_events(&self, name: &str, note: Note) -> Result<Value> {
        let slice = self.with_tables(name)?;
        self.must_lead()?;
        let resumed = self.sync().resume_events(&slice.id).await?;
        let done = serde_json::json!({ "resumed": resumed });
        if resumed {
            self.note(&slice, "resume-events", note, done.clone())
                .await?;
        }
        Ok(done)
    }

    /// Lets one side's version stand of rows that both have changed: of one conflict, or of all
    /// that are open. With `dry_run` says which.
    ///
    /// # Errors
    /// [`ControlError::Port`], [`ControlError::Busy`].
    pub async fn sync_settle(&self, name: &str, wanted: Settle, note: Note) -> Result<Value> {
        let Settle {
            conflict,
            take,
            dry_run,
        } = wanted;
        let slice = self.with_tables(name)?;
        if !dry_run {
            self.must_lead()?;
        }
        let _occupied = slice.occupy("settling conflicts")?;
        let done = self
            .sync()
            .settle(&slice.id, conflict.as_deref(), take, dry_run)
            .await?;
        if !dry_run {
            self.note(&slice, "settle", note, done.clone()).await?;
            slice.held().verify_began = None;
            self.verify_in_background(&slice);
        }
        Ok(done)
    }

    /// Removes everything that the bridge put into the databases.
    ///
    /// # Errors
    /// [`ControlError::Illegal`] while the slice uses both sides.
    pub async fn sync_close(&self, name: &str, note: Note) -> Result<SliceState> {
        let slice = self.with_tables(name)?;
        let _occupied = slice.occupy("closing the link")?;
        self.close_link(&slice, note).await
    }

    /// The bridge is closed first: a crash in between leaves a state that asks for it again.
    pub(super) async fn close_link(&self, slice: &Arc<Slice>, note: Note) -> Result<SliceState> {
        self.must_lead()?;
        advance(&slice.state(), &Move::Data(DataPhase::Closed))?;
        slice.held().ensured = None;
        self.sync().close(&slice.id).await?;
        let wanted = Wanted::new("sync-close", Move::Data(DataPhase::Closed), note);
        self.change(slice, wanted).await
    }

    /// Moves the writes to a side; the gates of the cutover hold on the way to the extracted one.
    ///
    /// # Errors
    /// [`ControlError::Gate`] and others of [`Controller::flip`].
    pub async fn sync_reverse(
        &self,
        name: &str,
        to: Side,
        note: Note,
        force: bool,
    ) -> Result<CutoverReport> {
        let slice = self.with_tables(name)?;
        if force && note.reason.trim().is_empty() {
            return Err(ControlError::Usage(
                "`force` passes gates that are not met, so it needs a `reason`".to_owned(),
            ));
        }
        advance(&slice.state(), &Move::Writer(to))?;
        let evidence = match to {
            Side::Extracted if !force => json(&self.pass_gates(&slice, Step::Cutover)?.1),
            _ => object!({"forced": force, "evidence": self.evidence_of(&slice)}),
        };
        self.run_cutover(&slice, to, note, evidence).await
    }

    /// Rows changed on both sides, rows parked, foreign writes and refused writes: a page of them,
    /// with so many of each kind and database.
    ///
    /// # Errors
    /// [`ControlError::Port`], [`ControlError::Usage`].
    pub async fn sync_conflicts(
        &self,
        name: &str,
        limit: Option<u32>,
        page: Option<u32>,
    ) -> Result<Value> {
        let (rows, page) = (limit.unwrap_or(LISTED_MAX), page.unwrap_or(1));
        if !(1..=LISTED_MAX).contains(&rows) || page == 0 {
            let what = format!("`limit` is 1 to {LISTED_MAX}, and `page` begins with 1");
            return Err(ControlError::Usage(what));
        }
        let slice = self.with_tables(name)?;
        Ok(self.sync().conflicts(&slice.id, rows, page).await?)
    }

    /// What the bridge tells of one slice.
    ///
    /// # Errors
    /// [`ControlError::NotFound`].
    pub fn sync_status(&self, name: &str) -> Result<Value> {
        let slice = self.slice(name)?;
        let trouble = slice.held().trouble.clone();
        Ok(object!({
            "slice": slice.id,
            "data": slice.state().data,
            "evidence": self.sync().evidence(&slice.id),
            "detail": self.sync().describe(&slice.id),
            "trouble": trouble,
        }))
    }

    /// The bridge cannot go on by itself.
    ///
    /// # Errors
    /// [`ControlError::NotFound`], [`ControlError::Illegal`].
    pub async fn link_failed(&self, name: &str, reason: &str) -> Result<()> {
        let slice = self.with_tables(name)?;
        let note = Note::new(Some("bridge"), Some(reason));
        let wanted = Wanted::new("link-failed", Move::FailLink(reason.to_owned()), note);
        match self.change(&slice, wanted).await {
            Err(ControlError::Illegal(IllegalMove::Unchanged)) => Ok(()),
            done => done.map(drop),
        }
    }

    /// Brings the bridge to what the state says. Idempotent; remembers what it brought it to.
    pub(super) async fn ensure_link(&self, slice: &Slice) -> Result<()> {
        let state = slice.state();
        let Some(wanted) = wanted_link(&state) else {
            if has_failed(&state) {
                self.sync().watch_over(&slice.id).await?;
            }
            return Ok(());
        };
        if slice.held().ensured == Some(wanted) {
            return Ok(());
        }
        let WantedLink { phase, source, .. } = wanted;
        let done = match wanted.paused {
            true => self.sync().pause(&slice.id, phase, source).await,
            false => self.sync().ensure(&slice.id, phase, source).await,
        };
        match done {
            Ok(()) => {
                let mut held = slice.held();
                held.trouble = None;
                // What changed meanwhile is ensured next time round.
                held.ensured = (wanted_link(&held.state) == Some(wanted)).then_some(wanted);
                Ok(())
            }
            Err(error) => {
                slice.held().trouble = Some(error.to_string());
                Err(error.into())
            }
        }
    }

    /// Starts a verification unless one runs or has just been.
    pub(super) fn verify_in_background(&self, slice: &Arc<Slice>) {
        let running = running_link(&slice.state());
        let runs = running.is_some_and(|link| link.phase != DataPhase::Copying);
        if !runs || self.inner.cancel.is_cancelled() {
            return;
        }
        {
            let mut held = slice.held();
            let lately = held
                .verify_began
                .is_some_and(|began| began.elapsed() < VERIFY_PAUSE);
            if held.verifying || lately {
                return;
            }
            held.verifying = true;
            held.verify_began = Some(Instant::now());
        }
        let (controller, slice) = (self.clone(), slice.clone());
        let whole = Verification::default();
        self.inner.tasks.spawn(async move {
            let verified = tokio::select! {
                verified = controller.sync().verify(&slice.id, &whole) => Some(verified),
                () = controller.inner.cancel.cancelled() => None,
            };
            slice.held().verifying = false;
            match verified {
                Some(Ok((rows, _))) => {
                    let different: u64 = rows.values().map(|table| table.different).sum();
                    info!(slice = %slice.id, different, "rows verified");
                }
                Some(Err(error)) => {
                    slice.held().trouble = Some(error.to_string());
                    warn!(slice = %slice.id, %error, "rows could not be verified");
                }
                None => {}
            }
        });
    }

    pub(super) async fn note(
        &self,
        slice: &Slice,
        action: &str,
        note: Note,
        evidence: Value,
    ) -> Result<()> {
        let state = json(&slice.state());
        let entry = Draft {
            by: note.by,
            action: action.to_owned(),
            reason: note.reason,
            before: state.clone(),
            after: state,
            evidence,
        };
        Ok(self.inner.store.note(&slice.id, &entry).await?)
    }
}

/// What the bridge should do for a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WantedLink {
    pub(super) phase: DataPhase,
    pub(super) source: Side,
    pub(super) paused: bool,
}

/// `None` where the bridge should do nothing.
pub(super) fn wanted_link(state: &SliceState) -> Option<WantedLink> {
    let link = state.data.as_ref()?;
    match link.phase {
        _ if link.failed.is_some() => None,
        DataPhase::Idle | DataPhase::Closed => None,
        phase => Some(WantedLink {
            phase,
            source: source_of(state),
            paused: link.paused.is_some(),
        }),
    }
}

/// Whether there is a link that waits for a person, and databases that keep what comes for it.
fn has_failed(state: &SliceState) -> bool {
    state.data.as_ref().is_some_and(|link| {
        let kept = !matches!(link.phase, DataPhase::Idle | DataPhase::Closed);
        kept && link.failed.is_some()
    })
}

/// As [`wanted_link`], of a link that applies what comes.
pub(super) fn running_link(state: &SliceState) -> Option<WantedLink> {
    wanted_link(state).filter(|link| !link.paused)
}
