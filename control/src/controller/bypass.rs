//! Who else writes: what the bridge sees changed on the legacy side, beside what the proxy carried then.
//!
//! Only while that side takes the writes: what a service's own workers write afterwards is its business,
//! and moves with it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use outgrow_rollout::bypass::{Bypass, Bypassed, Changed};
use outgrow_rollout::{Side, SliceId, Watched};
use serde_json::json as object;
use tokio::time::Instant;

use super::link::running_link;
use super::slice::Slice;
use super::{Controller, Note};
use crate::error::Result;
use crate::wall;

/// The journal tells of further rows no more often than this.
const TOLD_EVERY: Duration = Duration::from_secs(3_600);

/// Changes that wait until all is known of their time; of more the oldest are forgotten.
const WAITING: usize = 1_000;

/// What is found, and what is yet to be judged.
#[derive(Debug, Default)]
pub(super) struct Watching {
    /// Of the side that takes the writes, as in the store.
    pub(super) found: Option<Bypass>,
    waiting: VecDeque<Changed>,
    told: Option<Instant>,
}

impl Watching {
    /// As it was stored.
    pub(super) fn of(found: Option<Bypass>) -> Self {
        Self {
            found,
            ..Self::default()
        }
    }

    fn add(&mut self, new: Vec<Changed>) {
        self.waiting.extend(new);
        let over = self.waiting.len().saturating_sub(WAITING);
        self.waiting.drain(..over);
    }

    /// Those whose time is over.
    fn due(&mut self, now_ms: i64) -> Vec<Changed> {
        let (due, waiting) = self
            .waiting
            .drain(..)
            .partition(|changed: &Changed| *changed.window().end() < now_ms);
        self.waiting = waiting;
        due.into()
    }
}

impl Controller {
    /// Judges what has changed since the last look, and tells of what came another way than through
    /// the proxy.
    pub(super) async fn watch_bypass(&self, slice: &Arc<Slice>) -> Result<()> {
        let state = slice.state();
        let on = slice.spec.plan.bypass != Watched::Off;
        let ours = |side| side == Side::Legacy;
        let link = running_link(&state).filter(|link| ours(link.source) && ours(state.writer));
        let Some(link) = link.filter(|_| on) else {
            slice.held().watching.waiting.clear();
            return Ok(());
        };
        let now = wall::now_ms();
        // Asked in any case: from the first time on writes are noted.
        self.data_plane().under_way(&slice.id, &(now..=now));
        let new = self.sync().changed(&slice.id);
        let due = {
            let mut held = slice.held();
            held.watching.add(new);
            held.watching.due(now)
        };
        let judged: Vec<_> = due
            .into_iter()
            .map(|changed| {
                let then = self.data_plane().under_way(&slice.id, &changed.window());
                (changed, then)
            })
            .collect();
        let told = {
            let mut held = slice.held();
            let watching = &mut held.watching;
            let known = watching.found.take().filter(|of| of.side == link.source);
            let mut found = known.unwrap_or_else(|| Bypass::new(link.source, now));
            let mut fresh = false;
            for (changed, then) in &judged {
                fresh |= found.judge(changed, then.as_ref());
            }
            let recently = watching.told.is_some_and(|at| at.elapsed() < TOLD_EVERY);
            let told = (fresh && !recently).then(|| found.clone());
            if told.is_some() {
                watching.told = Some(Instant::now());
            }
            watching.found = Some(found);
            told
        };
        match told.and_then(|found| Some((found.rows, found.last?))) {
            Some((rows, last)) => self.told_of_bypass(slice, rows, last).await,
            None => Ok(()),
        }
    }

    async fn told_of_bypass(&self, slice: &Arc<Slice>, rows: u64, last: Bypassed) -> Result<()> {
        let reason = format!(
            "{} was changed past the proxy: {}",
            last.row,
            last.suspects()
        );
        let id: &SliceId = &slice.id;
        tracing::warn!(slice = %id, %reason, "something else writes the slice's tables");
        let evidence = object!({"rows": rows, "last": last});
        self.note(slice, "bypass", Note::own(&reason), evidence)
            .await
    }
}
