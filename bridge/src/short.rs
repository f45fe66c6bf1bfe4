//! The short way: rows go from the source's log into the target in one step, and no table of the
//! source has them on their way.
//!
//! It is open only while nothing else is to be done: every row is copied, none is parked, the stream
//! is applied to its end, and nobody reads it. What cannot go it (a value that the log does not tell,
//! a row that the target refuses, a transaction that is too large) is put into the stream, and goes
//! the long way as ever, until that is applied to its end again. Exactly once holds as on the long
//! way: the position moves in the transaction of the rows, from exactly where it was. It names the
//! log's transaction, so that a start can tell where to go on; see [`crate::db::Next`]'s module.
//!
//! The target's commits do not wait for its disk. A crash of its server may take the last of them
//! back, rows and position together, so that the target is whole, only older. The log has the rest:
//! the source's record of what was applied follows only after one commit that waits for the disk,
//! and has all before it there, too; and the slot is told nothing that is not on record. Where that
//! commit cannot be made, the log is read again from the record on, the long way, and goes on from
//! the position that the target has when it can tell.
//!
//! A commit may be in the log before its row can be seen. So whoever reads rows of the source and
//! writes them leaves the short way first, which waits until all that went it can be seen.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use outgrow_rollout::Side;

use crate::apply::Outcome;
use crate::batch::{Batch, Work, mapped};
use crate::both;
use crate::db::books::Position;
use crate::db::rows::usable;
use crate::db::{Dialect, Next, Packed, Taken, Told};
use crate::engine::Engine;
use crate::error::Error;
use crate::moments;
use crate::plan::{Group, Plan, Row};
use crate::tempo::Tempo;
use crate::value::{Cell, Key};

/// What was applied is on record after so long: until then the log is read again after a death.
const RECORD: Duration = Duration::from_millis(200);
/// While the short way is open, the passive side is asked so often what was noted there:
/// heartbeats, and writes that nobody should make.
const BACK: Duration = Duration::from_millis(50);

/// How the short way stands.
#[derive(Debug, Default)]
pub(crate) struct Short {
    open: bool,
    tempo: Tempo,
    /// The passive side was asked last.
    back: Option<Instant>,
    /// The first change that is not on record was applied then.
    ahead: Option<Instant>,
    /// So much is on record; no crash takes it back.
    recorded: i64,
    /// What of the rest the target has kept is for the target to say.
    astray: bool,
    /// Something failed half-way: memory may not be what the databases say.
    doubt: bool,
}

impl Engine {
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.short.doubt
    }

    /// How long it pays to let transactions gather.
    pub(crate) fn rest(&self) -> Option<Duration> {
        self.short.tempo.rest().filter(|_| self.short.open)
    }

    /// Whether the passive side is to be asked now what was noted there.
    pub(crate) fn asks_back(&mut self) -> bool {
        let asks = self
            .short
            .back
            .is_none_or(|last| !self.short.open || last.elapsed() >= BACK);
        if asks {
            self.short.back = Some(Instant::now());
        }
        asks
    }

    fn may_go_short(&self) -> bool {
        let shared = &self.shared;
        shared.spec.writes == both::Writes::One
            && shared.events.is_none()
            && !shared.stream_is_read()
            && self.copied()
            && self.parked == 0
            && self.renamed.is_empty()
            && !self.reads_again()
            && self.plan.tables_alone(self.source)
            && self.source().tells_rows()
            && self.target().dialect() == Dialect::Postgres
    }

    /// Takes the next transactions of the log the short way, if it is open: whether there may be
    /// more at once. `None` where the long way is to be gone.
    pub(crate) async fn go_short(&mut self) -> Result<Option<bool>, Error> {
        self.find_back().await?;
        if !self.may_go_short() || !self.open_short().await? {
            self.leave_short().await?;
            return Ok(None);
        }
        let most = self.shared.limits().batch_changes;
        let next = self.source().next_of_log(most as usize).await?;
        let transactions = match &next {
            Next::Taken(taken) => taken.transactions(),
            Next::Nothing | Next::TooLarge => 0,
        };
        self.short.tempo.came(Instant::now(), transactions);
        let mut taken = match next {
            Next::Nothing => {
                if self
                    .short
                    .ahead
                    .is_some_and(|since| since.elapsed() >= RECORD)
                {
                    self.record().await?;
                }
                return Ok(Some(false));
            }
            Next::TooLarge => {
                self.leave_short().await?;
                // Rows may have become too large to come by the log.
                self.published = None;
                self.source().settle_stream().await?;
                return Ok(None);
            }
            Next::Taken(taken) => taken,
        };
        // From here on the log's client has forgotten what only this memory has.
        self.short.doubt = true;
        let full = taken.places() >= i64::from(most);
        if let Some(pause) = self.short.tempo.rest().filter(|_| !full) {
            // While this is applied and the worker rests.
            self.source().let_gather(pause).await;
        }
        let more = match self.apply_short(&mut taken).await {
            Ok(Some((batch, parked))) => {
                self.applied_short(taken, batch, parked).await?;
                Some(full)
            }
            // Another process does it now.
            Err(superseded @ Error::Superseded(_)) => return Err(superseded),
            Err(back @ Error::SetBack { .. }) => {
                self.lose_sight().await;
                return Err(back);
            }
            refused => {
                let reshaped = taken.is_reshaped();
                if !taken.is_whole() {
                    self.published = None;
                }
                // All before it on record, so that its numbers are the next.
                self.leave_short().await?;
                self.source().give_back(taken).await?;
                self.short.doubt = false;
                refused?;
                if reshaped {
                    self.watch_schemas().await?;
                }
                None
            }
        };
        self.short.doubt = false;
        Ok(more)
    }

    /// Opens the short way if all of the stream is applied.
    async fn open_short(&mut self) -> Result<bool, Error> {
        if !self.short.open {
            let source = self.source();
            let mut tx = source.read().await?;
            self.short.open = source.head(&mut tx).await? == self.applied;
            self.short.recorded = self.applied;
        }
        Ok(self.short.open)
    }

    /// Applies what was taken; `None` where it has to go the long way. Whether it was written or
    /// not, it can be done again there.
    async fn apply_short(&self, taken: &mut Taken) -> Result<Option<(Batch, u64)>, Error> {
        if !taken.is_whole() {
            return Ok(None);
        }
        let seq = self.applied.saturating_add(taken.places());
        let side = self.source;
        let net = Net::of(&self.plan, side, taken);
        let mut batch =
            Batch {
                upto: seq,
                beat: taken.beat(),
                moments: moments::gathered(taken.told().map(|(at, table, key, op)| {
                    (at, move || moments::named(side, table, key, op))
                })),
                partial: true,
                fresh: net.fresh,
                log: Some((self.applied, taken.place(seq))),
                ..Batch::default()
            };
        self.shared.pass("after-read");
        if let Some((at, places, rows)) = net.packed(&self.plan, side)
            && self
                .applier()
                .move_rows(&batch, (at, &places), rows)
                .await?
        {
            batch.work = net.moved();
            return Ok(Some((batch, 0)));
        }
        match net.work(&self.plan, side) {
            Some(work) => batch.work = work,
            None => return Ok(None),
        }
        let outcome = self.applier().apply(&batch, true).await;
        match outcome {
            Ok(Outcome::Applied { parked }) => Ok(Some((batch, parked))),
            Ok(Outcome::TakeMore | Outcome::Again | Outcome::ByRows(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn applied_short(
        &mut self,
        taken: Taken,
        batch: Batch,
        parked: u64,
    ) -> Result<(), Error> {
        let full = self.source().took(taken, batch.upto).await;
        // Memory has it all again; what fails now can be tried again.
        self.short.doubt = false;
        self.applied_one(batch, parked).await?;
        let since = *self.short.ahead.get_or_insert_with(Instant::now);
        if full || since.elapsed() >= RECORD {
            self.record().await?;
        }
        Ok(())
    }

    async fn record(&mut self) -> Result<(), Error> {
        let stream = (self.source, self.epoch);
        match self.target().flush(stream, self.applied).await {
            Ok(()) => {}
            Err(superseded @ Error::Superseded(_)) => return Err(superseded),
            Err(e) => {
                self.lose_sight().await;
                return Err(e);
            }
        }
        self.shared.pass("flushed");
        self.source().record().await?;
        (self.short.ahead, self.short.recorded) = (None, self.applied);
        Ok(())
    }

    /// Has all that is not on record come by the log again. Its numbers are those that it had.
    async fn lose_sight(&mut self) {
        self.source().forget_taken().await;
        (self.short.open, self.short.ahead) = (false, None);
        (self.short.astray, self.short.doubt) = (true, false);
    }

    /// Goes on from what the target has, once it says so. Until then the log is read on: it must
    /// not fill the source's disk.
    async fn find_back(&mut self) -> Result<(), Error> {
        if !self.short.astray {
            return Ok(());
        }
        self.source().settle_stream().await?;
        let target = self.target();
        let mut tx = target.read().await?;
        let position = target.position(&mut tx, self.source).await?;
        drop(tx);
        let side = target.side;
        match position {
            Some(Position { epoch, seq, .. }) if epoch == self.epoch => {
                let recorded = self.short.recorded;
                if seq < recorded {
                    let what = format!("it has {seq} of the {recorded} changes on record");
                    return Err(Error::Discontinued { side, what });
                }
                self.applied = seq;
            }
            _ => return Err(Error::Superseded(self.shared.spec.slice.clone())),
        }
        self.short.astray = false;
        Ok(())
    }

    /// Has all that went the short way on record, so that the long way can be gone. It can be seen
    /// on the source then.
    pub(crate) async fn leave_short(&mut self) -> Result<(), Error> {
        if self.short.ahead.is_some() {
            self.record().await?;
        }
        self.find_back().await?;
        self.short.open = false;
        self.target().end_line();
        Ok(())
    }
}

/// What becomes of each key that was changed, as its last change left it, in the order of those.
struct Net {
    last: Vec<((usize, Key), Told)>,
    /// Most of the rows are new.
    fresh: bool,
}

impl Net {
    fn of(plan: &Plan, side: Side, taken: &mut Taken) -> Self {
        let mut places: HashMap<(usize, Key), usize> = HashMap::new();
        let mut last: Vec<Option<Told>> = Vec::new();
        let (mut rows, mut fresh) = (0usize, 0usize);
        for (table, key, told) in taken.rows() {
            // A table that is not mapped any more.
            let Some(known) = plan.known(side, table, key) else {
                continue;
            };
            rows += 1;
            fresh += usize::from(matches!(
                told,
                Told::Row { fresh: true, .. } | Told::Packed { fresh: true, .. }
            ));
            match places.entry(known) {
                Entry::Occupied(entry) => last[*entry.get()] = Some(told),
                Entry::Vacant(entry) => {
                    entry.insert(last.len());
                    last.push(Some(told));
                }
            }
        }
        let mut keys: Vec<_> = places.into_iter().collect();
        keys.sort_unstable_by_key(|(_, at)| *at);
        let told = keys.into_iter().zip(&mut last);
        let told = told.map(|((key, _), told)| (key, told.take().unwrap_or(Told::Nothing)));
        Self {
            last: told.collect(),
            fresh: fresh * 2 > rows,
        }
    }

    /// The keys that are gone and the rows of a batch of one table that can be moved as they came,
    /// with the place of each column.
    #[allow(clippy::type_complexity)]
    fn packed(
        &self,
        plan: &Plan,
        side: Side,
    ) -> Option<(usize, Vec<usize>, (Vec<&Key>, Vec<&Packed>))> {
        let ((at, _), _) = self.last.first()?;
        let (mut gone, mut rows) = (Vec::new(), Vec::new());
        for ((group, key), told) in &self.last {
            match told {
                _ if group != at || !goes_over(key, &[]) => return None,
                Told::Packed { row, .. } => rows.push(row),
                Told::Gone => gone.push(key),
                Told::Row { .. } | Told::Nothing => return None,
            }
        }
        let places = match side {
            Side::Legacy if !rows.is_empty() => plan.groups[*at].as_it_is()?,
            Side::Legacy | Side::Extracted => return None,
        };
        Some((*at, places, (gone, rows)))
    }

    /// What was done once it was.
    fn moved(self) -> Vec<Work> {
        let one = |((group, key), _)| Work {
            group,
            key,
            target: Ok(Vec::new()),
            source: Vec::new(),
        };
        self.last.into_iter().map(one).collect()
    }

    /// What is to be done; `None` where the log does not tell enough.
    ///
    /// What the target does not take goes the long way, where it is read again and may be parked.
    /// So a row that goes over as it is needs no second one that tells what it was.
    fn work(self, plan: &Plan, side: Side) -> Option<Vec<Work>> {
        let as_they_are: Vec<Option<Vec<usize>>> = match side {
            Side::Legacy => plan.groups.iter().map(Group::as_it_is).collect(),
            Side::Extracted => Vec::new(),
        };
        let one = |((at, key), told): ((usize, Key), Told)| {
            let group = &plan.groups[at];
            let row = match told {
                Told::Row { row, .. } => Some(row),
                Told::Packed { row, .. } => Some(row.row(group.tables(side).first()?)?),
                Told::Gone | Told::Nothing => None,
            };
            Some(match (as_they_are.get(at), row) {
                (Some(Some(places)), Some(row)) if goes_over(&key, &row) => Work {
                    group: at,
                    key,
                    target: Ok(vec![Some(placed(row, places))]),
                    source: Vec::new(),
                },
                (_, row) => mapped(group, at, side, key, vec![row]),
            })
        };
        self.last.into_iter().map(one).collect()
    }
}

/// Whether nothing of a row is of a kind that no mapping takes.
fn goes_over(key: &Key, row: &[Cell]) -> bool {
    let bad = |cell: &Cell| matches!(cell, Cell::BadText(_));
    usable(key) && !key.iter().chain(row).any(bad)
}

/// The values of these places, in their order.
fn placed(mut row: Row, places: &[usize]) -> Row {
    if places.len() == row.len() && places.is_sorted() {
        return row;
    }
    let of = |&at: &usize| std::mem::replace(&mut row[at], Cell::Null);
    places.iter().map(of).collect()
}
