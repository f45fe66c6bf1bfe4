//! Both streams, each applied to the other side in the same way.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::Instant;

use outgrow_rollout::Side;

use super::books::At;
use super::guard::{Done, Guard};
use crate::apply::{Applier, Outcome};
use crate::batch::{Batch, UNPLACED, Work, current};
use crate::db::Tx;
use crate::db::mark::Mark;
use crate::db::stream::Change;
use crate::engine::{Engine, WIDEN};
use crate::error::Error;
use crate::parked::{self, Retries};
use crate::portion;
use crate::spec::Capture;
use crate::value::Key;

/// What an engine knows of writes on both sides beside its streams' positions.
#[derive(Debug)]
pub(crate) struct State {
    /// Rows that wait for a person: (legacy table, key).
    pub(crate) held: HashSet<(String, Key)>,
    /// Rows of the passive side that the source refuses.
    pub(crate) parked: u64,
    retries: Retries,
}

impl State {
    pub(super) fn new(held: HashSet<(String, Key)>) -> Self {
        Self {
            held,
            parked: 0,
            retries: Retries::new(Instant::now()),
        }
    }
}

/// One direction: the epoch of its stream, how much of it is applied, up to which change, and how much of
/// the other.
struct Lane<'a> {
    epoch: i64,
    applied: i64,
    mark: Option<&'a Mark>,
    back: i64,
}

/// What there is to do in one direction.
enum Look {
    Nothing,
    /// So much was committed just now that it must be given places first.
    TooMuch,
    Batch(Box<Taken>),
}

/// A batch, with what its guard needs to know.
struct Taken {
    batch: Batch,
    times: HashMap<At, i64>,
    refused: HashMap<At, i64>,
}

impl Engine {
    /// Whether changes of both sides are applied now. Not before every row is copied.
    pub(crate) fn both_ways(&self) -> bool {
        self.shared.spec.writes.both().is_some() && self.copied()
    }

    fn lane(&self, from: Side) -> Lane<'_> {
        if from == self.source {
            Lane {
                epoch: self.epoch,
                applied: self.applied,
                mark: self.mark.as_ref(),
                back: self.applied_back,
            }
        } else {
            Lane {
                epoch: self.epoch_back,
                applied: self.applied_back,
                mark: self.mark_back.as_ref(),
                back: self.applied,
            }
        }
    }

    pub(super) fn applied_of(&self, from: Side) -> i64 {
        self.lane(from).applied
    }

    /// One batch in each direction. `true` when there is more at once.
    pub(crate) async fn follow_both(&mut self) -> Result<bool, Error> {
        let more = self.carry(self.source).await? | self.carry(self.source.other()).await?;
        if self.both.parked > 0 && self.both.retries.due(Instant::now()) {
            self.try_parked_back().await?;
        }
        Ok(more)
    }

    /// Applies the next batch of a side's stream to the other.
    pub(crate) async fn carry(&mut self, from: Side) -> Result<bool, Error> {
        let mut limit = self.shared.limits().batch_changes;
        let mut widened = 0;
        loop {
            let (bytes, widest) = portion::widened(self.shared.limits().chunk_bytes, widened);
            let taken = match self.take_exact(from, limit, bytes).await? {
                Look::Batch(taken) => taken,
                Look::Nothing => return Ok(false),
                Look::TooMuch => return Ok(true),
            };
            self.shared.pass("after-read");
            let guard = self.guard(from, taken.times, taken.refused, None);
            let applier = self.applier_from(from, &guard);
            let more = widened < WIDEN && !(taken.batch.cut && widest);
            let outcome = applier.apply(&taken.batch, more).await?;
            let done = guard.into_done();
            match outcome {
                Outcome::TakeMore => {
                    widened += 1;
                    limit = limit.saturating_mul(2);
                    self.shared.on(from).place().await?;
                }
                // The other side was just written: it is looked at anew.
                Outcome::Again | Outcome::ByRows(_) => return Ok(true),
                Outcome::Applied { parked } => {
                    let more = taken.batch.truncated;
                    self.carried(from, taken.batch, parked, done).await?;
                    return Ok(more);
                }
            }
        }
    }

    pub(crate) fn guard(
        &self,
        from: Side,
        times: HashMap<At, i64>,
        refused: HashMap<At, i64>,
        settles: Option<(Side, i64)>,
    ) -> Guard<'_> {
        Guard {
            plan: &self.plan,
            policy: match self.shared.spec.writes.both() {
                Some(both) => &both.policy,
                None => &super::Policy::Writer,
            },
            writer: self.source,
            target: self.shared.on(from.other()),
            back: self.lane(from).back,
            held: &self.both.held,
            times,
            refused,
            settles,
            done: Mutex::default(),
        }
    }

    pub(crate) fn applier_from<'a>(&'a self, from: Side, guard: &'a Guard<'a>) -> Applier<'a> {
        let lane = self.lane(from);
        let parked = if from == self.source {
            self.parked
        } else {
            self.both.parked
        };
        Applier {
            plan: &self.plan,
            target: self.shared.on(from.other()),
            epoch: lane.epoch,
            filling: false,
            any_parked: parked > 0,
            guard: Some(guard),
            fault: self.shared.limits().fault.as_ref(),
        }
    }

    /// The next changes with rows that show these changes and no later ones: a row that has a
    /// later change is left for that one.
    async fn take_exact(&self, from: Side, limit: u32, bytes: usize) -> Result<Look, Error> {
        let database = self.shared.on(from);
        let lane = self.lane(from);
        let mut tx = database.read().await?;
        let head = database.head_behind(&mut tx, lane.applied).await?;
        if head == lane.applied {
            return Ok(Look::Nothing);
        }
        let after = (lane.applied, lane.mark);
        let mut changes = database.changes_behind(&mut tx, after, limit).await?;
        let mut truncated = changes.len() >= limit as usize;
        let each = portion::Each::Key;
        let fits = portion::fitting(&self.plan, database, &mut tx, &changes, each, bytes).await?;
        if let Some(count) = fits {
            changes.truncate(count);
            truncated = true;
        }
        let upto = match changes.last() {
            Some(last) if truncated => last.seq,
            _ => head,
        };
        let seen = database.seen(&mut tx, &self.plan, lane.applied).await?;
        let mut times: HashMap<At, i64> = HashMap::new();
        for change in &changes {
            if let Some(at) = change.row(&self.plan, from)
                && seen.get(&at).is_none_or(|seq| change.seq > *seq)
            {
                times.insert(at, change.at);
            }
        }
        let keys: HashSet<At> = times.keys().cloned().collect();
        let refused = database.parked_of(&mut tx, &self.plan, &keys).await?;
        let Some(work) = self.exact(from, &mut tx, &keys, (head, upto)).await? else {
            return Ok(Look::TooMuch);
        };
        let partial = truncated || work.len() < keys.len();
        let taken: HashSet<At> = work.iter().map(|w| (w.group, w.key.clone())).collect();
        times.retain(|at, _| taken.contains(at));
        let named = database.named(&mut tx).await?;
        let batch = Batch {
            upto,
            mark: database.marked(None, &changes),
            named,
            beat: changes.iter().filter(|c| c.is_beat()).map(|c| c.at).max(),
            work,
            truncated,
            cut: fits.is_some(),
            partial,
            ..Batch::default()
        };
        Ok(Look::Batch(Box::new(Taken {
            batch,
            times,
            refused,
        })))
    }

    /// The present rows of those keys that have no change after `upto` that the rows could show.
    /// `None` when there are more such changes than can be told apart.
    pub(super) async fn exact(
        &self,
        from: Side,
        tx: &mut Tx,
        keys: &HashSet<At>,
        (head, upto): (i64, i64),
    ) -> Result<Option<Vec<Work>>, Error> {
        let database = self.shared.on(from);
        let unplaced = database.unplaced(tx, UNPLACED).await?;
        if unplaced.len() >= UNPLACED as usize {
            return Ok(None);
        }
        let later = database.pending(tx, &self.plan, keys, upto).await?;
        let mut later: HashSet<At> = later.into_keys().collect();
        let of = |changes: &[Change]| -> Vec<At> {
            changes
                .iter()
                .filter_map(|c| c.row(&self.plan, from))
                .collect()
        };
        later.extend(of(&unplaced));
        let mut by_group: HashMap<usize, Vec<Key>> = HashMap::new();
        for (group, key) in keys.iter().filter(|at| !later.contains(*at)) {
            by_group.entry(*group).or_default().push(key.clone());
        }
        let mut work = current(&self.plan, database, tx, &by_group).await?;
        if database.capture() == Capture::Replication && !work.is_empty() {
            let beyond = database.beyond(head, UNPLACED).await?;
            if beyond.len() >= UNPLACED as usize {
                return Ok(None);
            }
            let beyond: HashSet<At> = of(&beyond).into_iter().collect();
            work.retain(|w| !beyond.contains(&(w.group, w.key.clone())));
        }
        Ok(Some(work))
    }

    async fn carried(
        &mut self,
        from: Side,
        batch: Batch,
        parked: u64,
        done: Done,
    ) -> Result<(), Error> {
        self.took(done);
        if from == self.source {
            return self.applied_one(batch, parked).await;
        }
        self.applied_back = batch.upto;
        self.mark_back = batch.mark.or(self.mark_back.take());
        for work in &batch.work {
            self.recent.note(work.group, &work.key);
        }
        if parked > 0 || self.both.parked > 0 {
            self.count_parked_back().await?;
        }
        if parked > 0 {
            self.both.retries.parked(Instant::now());
        }
        if let Some(beat_ms) = batch.beat {
            let crossed = self.crossed(self.source.other(), beat_ms);
            self.shared.status(|s| s.crossed_back = Some(crossed));
        }
        Ok(())
    }

    /// Takes note of what a guard has decided.
    pub(crate) fn took(&mut self, done: Done) {
        let held = done.held.len() as u64;
        self.both.held.extend(done.held);
        self.shared.status(|s| {
            s.both.open += held;
            s.both.conflicts += done.conflicts;
            if done.carried.rows > 0 {
                s.both.carried.rows += done.carried.rows;
                s.both.carried.at_ms = done.carried.at_ms;
                s.both.carried.table = done.carried.table;
            }
        });
    }

    async fn count_parked_back(&mut self) -> Result<(), Error> {
        let source = self.source();
        let mut tx = source.read().await?;
        self.both.parked = source.parked_count(&mut tx).await?;
        self.shared.status(|s| s.both.parked = self.both.parked);
        Ok(())
    }

    /// Tries rows again that the source has refused.
    async fn try_parked_back(&mut self) -> Result<(), Error> {
        let source = self.source();
        let mut tx = source.read().await?;
        let rows = source
            .parked(&mut tx, self.both.retries.after(), (parked::AT_ONCE, 0))
            .await?;
        drop(tx);
        let keys = parked::keys(&self.plan, &rows);
        let before = self.both.parked;
        self.refresh_from(self.source.other(), &keys, true).await?;
        let freed = self.both.parked < before;
        self.both.retries.tried(Instant::now(), &rows, freed);
        Ok(())
    }

    /// Brings rows up to date on the other side, outside the stream. Rows of which the stream
    /// still has a change are left to it.
    pub(crate) async fn refresh_from(
        &mut self,
        from: Side,
        keys: &HashMap<usize, Vec<Key>>,
        each: bool,
    ) -> Result<u64, Error> {
        let database = self.shared.on(from);
        let mut tx = database.read().await?;
        let bytes = self.shared.limits().chunk_bytes;
        let parts = portion::parts(&self.plan, database, &mut tx, keys, bytes).await?;
        drop(tx);
        let mut parked = 0;
        for keys in parts {
            parked += self.refresh_some_from(from, &keys, each).await?;
        }
        self.count_parked().await?;
        self.count_parked_back().await?;
        Ok(parked)
    }

    /// As [`Self::refresh_from`], of rows that may be read at once.
    async fn refresh_some_from(
        &mut self,
        from: Side,
        keys: &HashMap<usize, Vec<Key>>,
        each: bool,
    ) -> Result<u64, Error> {
        let keys: HashSet<At> = keys
            .iter()
            .flat_map(|(group, keys)| keys.iter().map(|key| (*group, key.clone())))
            .collect();
        let database = self.shared.on(from);
        let upto = self.lane(from).applied;
        let mut tx = database.read().await?;
        let refused = database.parked_of(&mut tx, &self.plan, &keys).await?;
        let head = database.head(&mut tx).await?;
        let work = self.exact(from, &mut tx, &keys, (head, upto)).await?;
        let work = work.unwrap_or_default();
        let named = database.named(&mut tx).await?;
        drop(tx);
        let batch = Batch {
            upto,
            work,
            named,
            ..Batch::default()
        };
        let guard = self.guard(from, HashMap::new(), refused, None);
        let applier = Applier {
            any_parked: true,
            ..self.applier_from(from, &guard)
        };
        let outcome = if each {
            applier.apply_each(&batch).await?
        } else {
            applier.apply(&batch, false).await?
        };
        let done = guard.into_done();
        self.took(done);
        Ok(match outcome {
            Outcome::Applied { parked } => parked,
            Outcome::TakeMore | Outcome::Again | Outcome::ByRows(_) => 0,
        })
    }
}
