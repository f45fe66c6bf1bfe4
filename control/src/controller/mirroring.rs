//! What is mirrored of a slice: switched by people, by the tripwire, and by the shadow itself where a
//! candidate keeps writes.

use std::collections::BTreeSet;
use std::sync::Arc;

use outgrow_rollout::tripwire::{Stop, tripped};
use outgrow_rollout::{Move, SliceId, SliceState};
use serde_json::json as object;

use super::change::Wanted;
use super::slice::Slice;
use super::{Controller, Note};
use crate::error::{ControlError, Result};

impl Controller {
    /// Mirrors nothing of a slice until it is told to again; in force at once, kept over a restart.
    /// Routes that were stopped go on with the slice, or by themselves where it was not.
    ///
    /// # Errors
    /// [`ControlError::Usage`] where it stops without a reason; else as [`Controller::flip`].
    pub async fn mirroring(&self, name: &str, on: bool, note: Note) -> Result<SliceState> {
        let slice = self.slice(name)?;
        if on && slice.state().not_mirrored().is_none() {
            self.must_lead()?;
            let routes = self.shadow().resume(&slice.id, None);
            if !routes.is_empty() {
                return self.told_of_writes(&slice, &routes, note).await;
            }
        }
        let wanted = match on {
            true => Move::ResumeMirror,
            false if note.reason.trim().is_empty() => {
                return Err(ControlError::Usage(
                    "give a `reason`; it is shown to whoever asks why nothing is mirrored"
                        .to_owned(),
                ));
            }
            false => Move::StopMirror(note.reason.clone()),
        };
        let after = self
            .change(&slice, Wanted::new("mirroring", wanted, note))
            .await?;
        if on {
            self.shadow().resume(&slice.id, None);
        }
        Ok(after)
    }

    /// Mirrors these routes again: reads and writes, whatever has stopped them.
    ///
    /// # Errors
    /// [`ControlError::Usage`] for a route that is not stopped; else as [`Controller::flip`].
    pub async fn resume_routes(
        &self,
        name: &str,
        routes: BTreeSet<String>,
        note: Note,
    ) -> Result<SliceState> {
        let slice = self.slice(name)?;
        self.must_lead()?;
        let mut stopped: BTreeSet<String> = slice.state().unmirrored_routes.into_keys().collect();
        let of_state = routes.intersection(&stopped).next().is_some();
        let writes = self.shadow().evidence(&slice.id).map(|seen| seen.stopped);
        stopped.extend(writes.unwrap_or_default().into_keys());
        if let Some(other) = routes.difference(&stopped).next() {
            let all: Vec<String> = stopped.iter().map(|route| format!("`{route}`")).collect();
            let known = match all.is_empty() {
                true => "no route of the slice is".to_owned(),
                false => format!("those that are: {}", all.join(", ")),
            };
            let text = format!("`{other}` is not stopped by itself; {known}");
            return Err(ControlError::Usage(text));
        }
        if !of_state {
            let resumed = self.shadow().resume(&slice.id, Some(&routes));
            return self.told_of_writes(&slice, &resumed, note).await;
        }
        let wanted = Wanted::new("mirroring", Move::ResumeRoutes(routes.clone()), note);
        let evidence = object!({"routes": routes});
        let after = self.change(&slice, wanted.on(evidence)).await?;
        self.shadow().resume(&slice.id, Some(&routes));
        Ok(after)
    }

    /// Journals routes whose writes the shadow sends again; the state knows nothing of them.
    async fn told_of_writes(
        &self,
        slice: &Arc<Slice>,
        routes: &[String],
        note: Note,
    ) -> Result<SliceState> {
        let evidence = object!({"writes of": routes});
        self.note(slice, "mirroring", note, evidence).await?;
        self.save().await;
        Ok(slice.state())
    }

    /// What a proxy and the shadow act on. The shadow first: nothing is copied before it knows what
    /// is not wanted.
    pub(super) fn put_in_force(&self, id: &SliceId, state: &SliceState) {
        self.shadow().stop_routes(id, &state.unmirrored_routes);
        self.data_plane().apply(id, state.live());
    }

    /// Tells of routes whose candidate did not honour a dry run; the shadow has stopped them itself.
    pub(super) async fn watch_dry_runs(&self, slice: &Arc<Slice>) -> Result<()> {
        let stopped = self.shadow().stopped(&slice.id);
        if stopped.is_empty() {
            return Ok(());
        }
        // At once: a kill must not have them sent again.
        self.save().await;
        for (route, reason) in stopped {
            tracing::warn!(slice = %slice.id, %route, %reason, "its writes are mirrored no more");
            let note = Note::own(&reason);
            let evidence = object!({"route": route});
            self.note(slice, "dry-run", note, evidence).await?;
        }
        Ok(())
    }

    /// Stops routes that were being asked when a row changed that no mirrored read may change; the
    /// whole slice where there are none.
    pub(super) async fn watch_tripwire(&self, slice: &Arc<Slice>) -> Result<()> {
        let mirrored = slice.mirrored_for().filter(|_| slice.spec.plan.tripwire);
        let (Some(mirrored), Some(sync)) = (mirrored, self.sync().evidence(&slice.id)) else {
            return Ok(());
        };
        let (state, seen_to) = {
            let held = slice.held();
            (held.state.clone(), held.seen_to)
        };
        let Some(trip) = tripped(&state, &sync, mirrored, seen_to) else {
            return Ok(());
        };
        let between = trip.between();
        let asked = between.as_ref().and_then(|between| {
            let side = state.writer.other();
            self.shadow().asked(&slice.id, side, between)
        });
        let (reason, change) = match trip.stops(asked.as_ref(), &state.unmirrored_routes) {
            Stop::Known => {
                slice.held().seen_to = trip.writes;
                return Ok(());
            }
            Stop::Slice(reason) => (reason.clone(), Move::StopMirror(reason)),
            Stop::Routes(routes, reason) => (reason.clone(), Move::StopRoutes { routes, reason }),
        };
        tracing::warn!(slice = %slice.id, %reason, "not all is mirrored any more");
        let evidence = object!({"row": trip.row, "under way": asked, "between": between,
                                "sync": sync});
        // Before it is stored: a store that does not answer must not have more rows changed.
        if let Move::StopRoutes { routes, reason } = &change {
            let mut all = state.unmirrored_routes;
            all.extend(routes.iter().map(|route| (route.clone(), reason.clone())));
            self.shadow().stop_routes(&slice.id, &all);
        }
        let wanted = Wanted::new("tripwire", change, Note::own(&reason));
        self.change(slice, wanted.on(evidence)).await?;
        slice.held().seen_to = trip.writes;
        Ok(())
    }
}
