//! The one who does a link's work, step by step. Everything that writes rows or positions goes
//! through one engine behind one lock, so that steps never overlap within a process; epochs keep
//! those of another process out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use outgrow_rollout::Side;

use crate::apply::{Applier, Outcome, Why};
use crate::batch::{Batch, Chunk, Take, current, images};
use crate::beats::Beats;
use crate::both;
use crate::db::Database;
use crate::db::again::Again;
use crate::db::books::{Copy, Foreign};
use crate::db::mark::Mark;
use crate::error::{Error, OnSide};
use crate::events::trim_to;
use crate::pace::{self, Pace};
use crate::parked::{self, Retries};
use crate::plan::{Plan, Table};
use crate::portion;
use crate::recent::Recent;
use crate::shared::{Schemas, Shared};
use crate::short::Short;
use crate::spec::{Capture, Transactions};
use crate::status::{Crossing, Status};
use crate::value::{Key, key_text};

/// How often books, schemas and the trimming are seen to.
const CHORES: std::time::Duration = std::time::Duration::from_millis(500);
/// How often a batch may be doubled in search of the change that explains a refused row.
pub(crate) const WIDEN: u32 = 10;

/// The state of a running link. Made by [`crate::turn`]'s start.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) shared: Arc<Shared>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) source: Side,
    /// Of the stream from `source`, kept on the passive side.
    pub(crate) epoch: i64,
    pub(crate) applied: i64,
    /// Which change that is, where that is known.
    pub(crate) mark: Option<Mark>,
    /// Of the stream from the passive side, kept on the source.
    pub(crate) epoch_back: i64,
    pub(crate) applied_back: i64,
    pub(crate) mark_back: Option<Mark>,
    pub(crate) copies: Vec<Copy>,
    /// By what each table is mapped, and how far it is read again.
    pub(crate) again: Vec<Again>,
    /// Tables whose rows do not go from database to database, each for so many rows to come.
    pub(crate) looked_at: HashMap<String, u64>,
    pub(crate) pace: Pace,
    /// Changes without a place in the stream that were applied already.
    pub(crate) unplaced: std::collections::HashSet<i64>,
    pub(crate) recent: Recent,
    pub(crate) schema_versions: (i64, i64),
    pub(crate) schemas: Schemas,
    pub(crate) beats: Beats,
    pub(crate) next_beat: Instant,
    pub(crate) next_chores: Instant,
    pub(crate) next_emptied: Instant,
    pub(crate) retries: Retries,
    pub(crate) parked: u64,
    /// The plan whose lookups the extracted side's rows were made by.
    pub(crate) carried: Arc<Plan>,
    /// Rows whose codes mean something else since, and how far each walk over them is.
    pub(crate) renamed: VecDeque<(Table, Option<Key>)>,
    pub(crate) both: both::State,
    pub(crate) short: Short,
    /// All that the passive side's stream had is noted.
    pub(crate) seen_back: bool,
    /// A turn was begun, and who has which stream since is for the databases to say.
    pub(crate) half_turned: bool,
    /// How far the copies are is for the target to say.
    pub(crate) copies_in_doubt: bool,
    /// The source that the logs were told of.
    pub(crate) published: Option<Side>,
}

impl Engine {
    pub(crate) fn source(&self) -> &Database {
        self.shared.on(self.source)
    }

    pub(crate) fn target(&self) -> &Database {
        self.shared.on(self.source.other())
    }

    pub(crate) fn copied(&self) -> bool {
        self.copies.iter().all(|c| c.done)
    }

    /// Does what is due. `true` when there is more to do at once.
    ///
    /// Not cancel safe as to the engine's own memory: the worker never drops it half-way.
    pub(crate) async fn step(&mut self) -> Result<bool, Error> {
        self.take_up().await?;
        let stepped = self.step_on().await;
        // The target may have lost ranges in a crash, that were not on its disk yet.
        self.copies_in_doubt |= stepped.is_err() && !self.copied();
        stepped
    }

    async fn step_on(&mut self) -> Result<bool, Error> {
        let mut beaten = Ok(());
        if Instant::now() >= self.next_beat {
            self.beat(self.source).await?;
            beaten = self.beat(self.source.other()).await;
            if beaten.is_ok() {
                self.next_beat = Instant::now() + self.shared.limits().heartbeat;
            }
        }
        let short = self.go_short().await?;
        if short.is_none() {
            self.source().place().await?;
            self.shared.pass("placed");
        }
        // Not before: a target that is down must not hold the source's log back.
        beaten?;
        let came = self.asks_back() && self.target().place().await?;
        let mut more = match short {
            Some(more) => more,
            None if self.both_ways() => self.follow_both().await?,
            None => self.follow().await?,
        };
        if self.shared.spec.writes == both::Writes::One && (came || !self.seen_back) {
            self.seen_back = self.follow_back().await?;
        }
        more |= self.carry_renamed().await?;
        more |= self.read_again().await?;
        if self.parked > 0 && self.copied() && self.retries.due(Instant::now()) {
            self.try_parked().await?;
        }
        if Instant::now() >= self.next_chores {
            self.chores().await?;
            self.next_chores = Instant::now() + CHORES;
        }
        Ok(more)
    }

    /// A heartbeat of a side's that has come.
    pub(crate) fn crossed(&mut self, from: Side, beat_ms: i64) -> Crossing {
        let took = self.beats.took(from, beat_ms, Instant::now());
        Crossing::of(beat_ms, took, self.shared.limits().clock.now_ms())
    }

    /// Applies the next batch of the stream, with a chunk of the backfill if one is due.
    async fn follow(&mut self) -> Result<bool, Error> {
        let shared = Arc::clone(&self.shared);
        let limits = shared.limits();
        let whole = limits.transactions == Transactions::Whole;
        let (mut changes, mut widened) = match whole {
            true => (limits.whole_changes, portion::WIDEST),
            false => (limits.batch_changes, 0),
        };
        loop {
            let (bytes, widest) = portion::widened(limits.chunk_bytes, widened);
            let Some(mut batch) = self.take(changes, bytes, widened > 0).await? else {
                self.shared.status(Status::caught_up);
                return Ok(false);
            };
            self.shared.pass("after-read");
            if batch.copy.is_some() {
                self.shared.pass("chunk-read");
            }
            if let Some(group) = batch.emptied {
                self.sweep(group).await?;
            }
            let in_parts = whole && !batch.whole;
            let outcome = match batch.direct.take() {
                Some(direct) => self.apply_direct(&mut batch, direct).await?,
                None => {
                    let more = widened < WIDEN && !(batch.cut && widest);
                    self.apply_looked_at(&batch, more).await?
                }
            };
            match outcome {
                Outcome::Again => return Ok(true),
                Outcome::ByRows(why) => self.look_at(&batch, why),
                Outcome::TakeMore => {
                    widened += 1;
                    changes = changes.saturating_mul(2);
                }
                Outcome::Applied { parked } => {
                    let more = batch.truncated || !self.copied();
                    self.shared.status(|s| s.in_parts = in_parts);
                    self.applied_one(batch, parked).await?;
                    return Ok(more);
                }
            }
        }
    }

    /// Applies a batch whose rows are looked at.
    async fn apply_looked_at(&mut self, batch: &Batch, may_widen: bool) -> Result<Outcome, Error> {
        let guard = self.copy_guard();
        let applier = Applier {
            guard: guard.as_ref(),
            ..self.applier()
        };
        let outcome = applier.apply(batch, may_widen).await?;
        if let Some(done) = guard.map(both::Guard::into_done) {
            self.took(done);
        }
        Ok(outcome)
    }

    /// Has the rows of a chunk looked at that was refused as a whole.
    fn look_at(&mut self, batch: &Batch, why: Why) {
        let Some(copy) = &batch.copy else { return };
        let rows = match why {
            Why::Rows => copy.copied.saturating_sub(self.copied_of(&copy.table)),
            Why::Tables => u64::MAX,
        };
        self.looked_at.insert(copy.table.clone(), rows.max(1));
    }

    fn copied_of(&self, table: &str) -> u64 {
        let copy = self.copies.iter().find(|c| c.table == table);
        copy.map_or(0, |c| c.copied)
    }

    /// What of the backfill is due.
    fn chunk(&self) -> Option<Chunk<'_>> {
        let copy = self.copies.iter().find(|c| !c.done)?;
        let limits = self.shared.limits();
        let waits = self.shared.status(|s| {
            s.copy_waits = self
                .pace
                .waits(Instant::now(), s.lag_ms(), s.load.busy(), limits)
                .or(s.kept.presses(limits));
            s.copy_waits
        });
        if waits.is_some() {
            return None;
        }
        let plain =
            self.shared.spec.writes.both().is_none() && !self.looked_at.contains_key(&copy.table);
        Some(Chunk {
            copy,
            rows: pace::rows(limits.chunk_rows, limits.copy_rate),
            bytes: limits.chunk_bytes,
            direct: plain.then_some(pace::rows(limits.copy_rows, limits.copy_rate)),
            abreast: pace::abreast(limits.copy_parallel.get(), limits.copy_rate),
            round: pace::round(limits.copy_round, limits.copy_rate),
        })
    }

    async fn take(&self, changes: u32, bytes: usize, beyond: bool) -> Result<Option<Batch>, Error> {
        if !self.copied() {
            self.shared.ask_load().await?;
        }
        let (chunk, limits) = (self.chunk(), self.shared.limits());
        if let Some(Chunk { copy, .. }) = chunk {
            self.shared.status(|s| {
                let table = s.tables.iter_mut().find(|t| t.legacy == copy.table);
                if let Some(table) = table.filter(|t| t.began.is_none()) {
                    table.began = Some((Instant::now(), copy.copied));
                }
            });
        }
        let take = Take {
            plan: &self.plan,
            source: self.source(),
            after: self.applied,
            mark: self.mark.as_ref(),
            changes,
            bytes,
            chunk,
            unplaced: &self.unplaced,
            beyond,
            whole: limits.transactions == Transactions::Whole,
        };
        take.next().await
    }

    pub(crate) fn applier(&self) -> Applier<'_> {
        Applier {
            plan: &self.plan,
            target: self.target(),
            epoch: self.epoch,
            filling: !self.copied(),
            any_parked: self.parked > 0,
            guard: None,
            fault: self.shared.limits().fault.as_ref(),
        }
    }

    /// Takes note of a batch that was committed.
    pub(crate) async fn applied_one(&mut self, batch: Batch, parked: u64) -> Result<(), Error> {
        self.applied = batch.upto;
        self.mark = batch.mark.or(self.mark.take());
        if !batch.truncated {
            self.unplaced.clone_from(&batch.unplaced);
        }
        if parked > 0 || self.parked > 0 {
            self.count_parked().await?;
        }
        if parked > 0 {
            if !self.plan.lookups.is_empty() {
                // What a lookup did not have may be there by now.
                self.next_chores = Instant::now();
            }
            self.retries.parked(Instant::now());
        }
        let from_chunk = batch.copy.as_ref().map(|c| c.table.clone());
        if let Some(copy) = batch.copy {
            self.took_chunk(copy).await?;
        }
        let keys = batch.work.iter().map(|work| (work.group, &work.key));
        self.recent.note_all(keys);
        let beat = batch.beat.map(|beat| self.crossed(self.source, beat));
        self.shared.status(|s| {
            s.applied = batch.upto;
            s.moments.add(batch.moments);
            s.crossed = beat.or(s.crossed);
            s.beat_ms = beat.map(|b| b.beat_ms).or(s.beat_ms);
            if from_chunk.is_none() {
                for work in &batch.work {
                    if let Some(table) = s.tables.get_mut(work.group) {
                        table.applied += 1;
                    }
                }
            }
        });
        Ok(())
    }

    pub(crate) async fn took_chunk(&mut self, copy: Copy) -> Result<(), Error> {
        self.shared.status(|s| {
            if let Some(table) = s.tables.iter_mut().find(|t| t.legacy == copy.table) {
                (table.copied, table.total) = (copy.copied, copy.total);
                table.done = copy.done;
                if copy.done {
                    table.ended = Some(Instant::now());
                }
            }
        });
        let taken = copy.copied.saturating_sub(self.copied_of(&copy.table));
        self.pace
            .took(Instant::now(), taken, self.shared.limits().copy_rate);
        if let Some(left) = self.looked_at.get_mut(&copy.table) {
            *left = left.saturating_sub(taken);
        }
        self.looked_at.retain(|_, left| *left > 0);
        if let Some(old) = self.copies.iter_mut().find(|c| c.table == copy.table) {
            *old = copy;
        }
        if self.copied() {
            tracing::info!(slice = %self.shared.spec.slice, "every row is copied, following now");
            // From now on only the bridge may write what it keeps in step, or both may.
            self.settle_passive().await?;
            self.shared.status(|s| s.copied = true);
        }
        Ok(())
    }

    /// A transaction of the application's may close a circle of locks with it: tried anew for as long as any lock
    /// is waited for.
    pub(crate) async fn set_fence(&self, side: Side, on: bool) -> Result<i64, Error> {
        let until = Instant::now() + self.shared.limits().busy;
        loop {
            match self.set_fence_once(side, on).await {
                Err(error) if error.is_about_locks() && Instant::now() < until => {
                    tracing::debug!(%side, %error, "the fence waits for others");
                }
                ended => return ended,
            }
        }
    }

    async fn set_fence_once(&self, side: Side, on: bool) -> Result<i64, Error> {
        let database = self.shared.on(side);
        if on && self.shared.spec.writes == both::Writes::One {
            database.note_emptied(&self.plan).await?;
        }
        let mut tx = database.write().await?;
        database.set_fence(&mut tx, on).await?;
        // Read in the same transaction: nothing of others can come after it any more.
        let head = database.head(&mut tx).await?;
        tx.commit().await.on(side)?;
        if !on || database.capture() == Capture::Triggers {
            return Ok(head);
        }
        database.settle_stream().await?;
        let mut tx = database.read().await?;
        database.head(&mut tx).await
    }

    /// Notes what the passive side's stream has: heartbeats, which prove that the way back is
    /// open, and writes that nobody should have made. `true` once that was all.
    pub(crate) async fn follow_back(&mut self) -> Result<bool, Error> {
        let passive = self.target();
        let mut tx = passive.read().await?;
        if passive.head(&mut tx).await? == self.applied_back {
            return Ok(true);
        }
        let limit = self.shared.limits().batch_changes;
        let after = (self.applied_back, self.mark_back.as_ref());
        let changes = passive.changes_behind(&mut tx, after, limit).await?;
        let Some(mut upto) = changes.last().map(|c| c.seq) else {
            return Ok(false);
        };
        let mut room = self.shared.limits().chunk_bytes;
        let mut found: Vec<(usize, Key, Foreign)> = Vec::new();
        for change in changes.iter().filter(|c| !c.is_beat()) {
            let Some((group, key)) = change.row(&self.plan, passive.side) else {
                continue;
            };
            let image = images(
                &self.plan.groups[group],
                passive,
                &mut tx,
                std::slice::from_ref(&key),
            )
            .await?;
            let foreign = Foreign {
                id: 0,
                side: passive.side.to_string(),
                table: change.table.clone(),
                key: key_text(&key),
                op: change.op.clone(),
                at_ms: change.at,
                passive: both::kept(&self.plan.groups[group], passive.side, image.get(&key)),
                authority: String::new(),
                took: None,
            };
            let size = foreign.passive.len();
            found.push((group, key, foreign));
            if size > room {
                upto = change.seq;
                break;
            }
            room -= size;
        }
        drop(tx);
        let noted = changes.partition_point(|c| c.seq <= upto);
        let beats = changes[..noted].iter().filter(|c| c.is_beat());
        let beat = beats.map(|c| c.at).max();
        let mark = passive.marked(None, &changes[..noted]);
        self.note_back((upto, mark), beat, found).await?;
        Ok(false)
    }

    async fn note_back(
        &mut self,
        (upto, mark): (i64, Option<Mark>),
        beat: Option<i64>,
        found: Vec<(usize, Key, Foreign)>,
    ) -> Result<(), Error> {
        if !found.is_empty() {
            // Counted at once: the chores may come half a second later.
            self.next_chores = Instant::now();
        }
        let trims = !found.is_empty();
        let authority = self.source();
        let mut tx = authority.write().await?;
        for (group, key, mut foreign) in found {
            let group = &self.plan.groups[group];
            let image = images(group, authority, &mut tx, std::slice::from_ref(&key)).await?;
            foreign.authority = both::kept(group, authority.side, image.get(&key));
            tracing::warn!(side = %foreign.side, table = %foreign.table, key = %foreign.key,
                "row was changed on the passive side by something other than the bridge");
            authority.note_foreign(&mut tx, &foreign).await?;
        }
        if trims {
            let kept = self.shared.limits().foreign_kept;
            authority.trim_foreign(&mut tx, kept).await?;
        }
        let stream = self.source.other();
        authority
            .advance(
                &mut tx,
                (stream, self.epoch_back),
                (upto, mark.as_ref()),
                beat,
            )
            .await?;
        tx.commit().await.on(authority.side)?;
        (self.applied_back, self.mark_back) = (upto, mark);
        if let Some(beat_ms) = beat {
            let crossed = self.crossed(self.source.other(), beat_ms);
            self.shared.status(|s| s.crossed_back = Some(crossed));
        }
        Ok(())
    }

    /// Brings keys up to date on the passive side, outside the stream: parked rows, repairs.
    /// The position stays: the rows read are newer than it, and what comes is newer still.
    pub(crate) async fn refresh(
        &mut self,
        keys: &HashMap<usize, Vec<Key>>,
        each: bool,
    ) -> Result<u64, Error> {
        if self.both_ways() {
            return self.refresh_from(self.source, keys, each).await;
        }
        self.leave_short().await?;
        let source = self.source();
        let mut tx = source.read().await?;
        let bytes = self.shared.limits().chunk_bytes;
        let parts = portion::parts(&self.plan, source, &mut tx, keys, bytes).await?;
        drop(tx);
        let mut parked = 0;
        for keys in parts {
            parked += self.refresh_some(&keys, each).await?;
        }
        self.count_parked().await?;
        Ok(parked)
    }

    /// As [`Self::refresh`], of rows that may be read at once.
    async fn refresh_some(
        &self,
        keys: &HashMap<usize, Vec<Key>>,
        each: bool,
    ) -> Result<u64, Error> {
        let source = self.source();
        let mut tx = source.read().await?;
        let named = source.named(&mut tx).await?;
        let work = current(&self.plan, source, &mut tx, keys).await?;
        drop(tx);
        let batch = Batch {
            upto: self.applied,
            work,
            named,
            ..Batch::default()
        };
        let applier = Applier {
            any_parked: true,
            ..self.applier()
        };
        let outcome = if each {
            applier.apply_each(&batch).await?
        } else {
            applier.apply(&batch, false).await?
        };
        Ok(match outcome {
            Outcome::Applied { parked } => parked,
            Outcome::TakeMore | Outcome::Again | Outcome::ByRows(_) => 0,
        })
    }

    /// Tries parked rows again: what they waited for may have come.
    pub(crate) async fn try_parked(&mut self) -> Result<(), Error> {
        let target = self.target();
        let mut tx = target.read().await?;
        let rows = target
            .parked(&mut tx, self.retries.after(), (parked::AT_ONCE, 0))
            .await?;
        drop(tx);
        let keys = parked::keys(&self.plan, &rows);
        let before = self.parked;
        if !keys.is_empty() {
            // At once where that goes: rows that refer to one another go together or not at all.
            self.refresh(&keys, false).await?;
        }
        let freed = self.parked < before;
        self.retries.tried(Instant::now(), &rows, freed);
        Ok(())
    }

    pub(crate) async fn count_parked(&mut self) -> Result<(), Error> {
        let target = self.target();
        let mut tx = target.read().await?;
        self.parked = target.parked_count(&mut tx).await?;
        self.shared.status(|s| s.parked = self.parked);
        Ok(())
    }

    /// Counts, trims, and looks whether the tables are still those of the plan.
    async fn chores(&mut self) -> Result<(), Error> {
        self.count().await?;
        self.date_moments().await?;
        let rows = self.shared.limits().trim_rows;
        for (database, applied) in [
            (self.source(), self.applied),
            (self.target(), self.applied_back),
        ] {
            let upto = trim_to(&self.shared, database, applied).await?;
            let upto = self.shared.holds.bound(database.side, upto);
            database.trim(database.spare_marked(upto), rows).await?;
        }
        self.shared.pass("trimmed");
        self.source().trim_seen(self.applied).await?;
        self.target().trim_seen(self.applied_back).await?;
        self.watch_schemas().await?;
        self.watch_emptied().await?;
        if self.published != Some(self.source) {
            self.source().republish(&self.plan).await?;
            self.target().republish(&self.plan).await?;
            self.published = Some(self.source);
        }
        self.watch_lookups().await
    }

    /// Asks how far the source's clock is from ours, as long as somebody is to be told of its times.
    async fn date_moments(&self) -> Result<(), Error> {
        if self.shared.status(|s| s.moments.are_undated()) {
            let ahead = both::clock_ahead(self.source()).await?;
            self.shared.status(|s| s.moments.date(ahead));
        }
        Ok(())
    }

    pub(crate) async fn count(&mut self) -> Result<(), Error> {
        let (source, target) = (self.source(), self.target());
        let mut here = source.read().await?;
        let mut there = target.read().await?;
        let backlog = source.waiting(&mut here, self.applied).await?;
        let backlog = u64::try_from(backlog).unwrap_or(0);
        let after = (self.applied, backlog);
        let bytes = portion::waiting(&self.plan, source, &mut here, after).await?;
        let foreign =
            source.foreign_count(&mut here).await? + target.foreign_count(&mut there).await?;
        let last = [
            source.newest_foreign(&mut here).await?,
            target.newest_foreign(&mut there).await?,
        ];
        let controls = [
            (source.side, source.control(&mut here).await?),
            (target.side, target.control(&mut there).await?),
        ];
        let mut newest: Option<(i64, String)> = last
            .iter()
            .flatten()
            .map(|f| {
                (
                    f.at_ms,
                    format!("{} `{}` key {} ({})", f.side, f.table, f.key, f.op),
                )
            })
            .max();
        for (side, control) in &controls {
            if let (Some(at), Some(table)) = (control.refused_at, &control.refused_table)
                && newest.as_ref().is_none_or(|(newest, _)| at > *newest)
            {
                newest = Some((at, format!("{side} `{table}` (refused by the fence)")));
            }
        }
        let refused: u64 = controls.iter().map(|(_, c)| c.refused).sum();
        let parked = target.parked_count(&mut there).await?;
        drop((here, there));
        // Asked beside each new row: clocks drift, and are set.
        let known = self.shared.status(|s| s.foreign + s.refused);
        let ahead = match foreign + refused == known {
            true => None,
            false => Some(both::clock_ahead(target).await?),
        };
        self.parked = parked;
        self.shared.status(|s| {
            s.foreign_ahead_ms = ahead.unwrap_or(s.foreign_ahead_ms);
            (s.backlog, s.backlog_bytes) = (backlog, bytes);
            s.foreign = foreign;
            s.refused = refused;
            s.parked = parked;
            (s.foreign_at, s.last_foreign) = newest.unzip();
        });
        self.count_both().await
    }
}
