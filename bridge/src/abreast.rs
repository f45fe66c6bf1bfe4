//! Ranges of a backfill that are copied side by side, each over connections of its own.
//!
//! A round of them reads one snapshot of the source, that of its batch. There are so many lanes, and
//! each takes the next range when it has written one, for as long as the round goes on. Each range is
//! written in a transaction of its own. Where all before it are there already, the cursor moves behind
//! it in that same transaction; when all lanes have ended, the batch's own moves it behind all of them,
//! with the position. So a death leaves rows that the cursor does not know of yet, and rows that the
//! position is behind: both are as a snapshot had them that is no older than the position, so every
//! change since comes by the stream, and those beyond the cursor are copied again, over what is there.
//! What may have to be copied again is a range or two for each lane, however long the round is.
//!
//! An older worker must write no row once another has taken over. The batch's own transaction sees
//! to that by moving the position; each of these locks it against a new epoch until it has ended.
//!
//! They need not wait for the disk: the commit that ends the round does, and is behind them in the
//! log of the target. Nor can the cursor come out of a crash ahead of the rows: their commits are
//! before its own in that log.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures_util::future::join_all;

use crate::apply::{Applier, Manner, Outcome, Why};
use crate::batch::{Batch, Direct, Way};
use crate::db::books::Copy;
use crate::db::postgres::copy::{self, Cut, Ends, Range};
use crate::db::{Lasts, References, Tx};
use crate::engine::Engine;
use crate::error::{Error, OnSide};
use crate::fault::FaultHook;
use crate::pace;
use crate::value::Key;

/// A round that is under way.
struct Round {
    way: Way,
    /// What the lanes read.
    name: String,
    began: Instant,
    /// Who finds the next range. Only one looks for one at a time, over one connection.
    finder: tokio::sync::Mutex<Finder>,
    book: Mutex<Book>,
}

struct Finder {
    snapshot: Tx,
    next: Option<Range>,
}

/// Which ranges were given to lanes, and what became of them.
#[derive(Default)]
struct Book {
    given: Vec<Given>,
    /// Where the cursor is that was committed in this round.
    kept: Option<Copy>,
    /// Some lane cannot go on: no other is to begin a range.
    broken: bool,
}

struct Given {
    last: Key,
    rows: u64,
    more: bool,
    written: bool,
}

impl Round {
    async fn begin(direct: Direct) -> Result<Self, Error> {
        let Direct {
            way,
            first,
            mut snapshot,
        } = direct;
        let name = copy::export(&mut snapshot).await.on(way.source.side)?;
        Ok(Self {
            way,
            name,
            began: Instant::now(),
            finder: tokio::sync::Mutex::new(Finder {
                snapshot,
                next: Some(first),
            }),
            book: Mutex::default(),
        })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nobody can panic amid a change of it.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next range, and its number; `None` where no more are to be begun. Each lane gets one,
    /// whatever the time.
    async fn next(&self) -> Result<Option<(usize, Range)>, Error> {
        let mut finder = self.finder.lock().await;
        let Some((behind, cut)) = self.place() else {
            return Ok(None);
        };
        let range = match finder.next.take() {
            Some(range) => Some(range),
            None => {
                let table = &self.way.straight.legacy;
                let snapshot = &mut finder.snapshot;
                let found = copy::range(snapshot, table, behind.as_ref(), cut);
                found.await.on(self.way.source.side)?
            }
        };
        let mut book = self.book();
        let Some(range) = range else {
            if let Some(last) = book.given.last_mut() {
                last.more = false;
            }
            return Ok(None);
        };
        book.given.push(Given {
            last: range.last.clone(),
            rows: range.rows,
            more: range.more,
            written: false,
        });
        Ok(Some((book.given.len() - 1, range)))
    }

    /// Where the next range begins, and ends at the latest.
    fn place(&self) -> Option<(Option<Key>, Cut)> {
        let (book, mut cut) = (self.book(), self.way.cut);
        let lanes = self.way.abreast;
        let spent = self.began.elapsed();
        if book.given.len() >= lanes as usize {
            if spent >= self.way.round {
                return None;
            }
            let written = book.given.iter().filter(|one| one.written);
            let written = written.map(|one| one.rows).sum();
            let left = self.way.round.saturating_sub(spent);
            cut.most = pace::until_the_end(cut.most, lanes, written, spent, left);
        }
        match book.given.last() {
            _ if book.broken => None,
            Some(last) if !last.more => None,
            last => Some((last.map(|last| last.last.clone()), cut)),
        }
    }

    /// The copy once this range is there, if all before it are.
    fn reached(&self, at: usize) -> Option<Copy> {
        let book = self.book();
        let (before, behind) = book.given.split_at(at + 1);
        let (_, before) = before.split_last()?;
        if !before.iter().all(|one| one.written) {
            return None;
        }
        let behind = behind.iter().take_while(|one| one.written).count();
        Some(self.moved(&book.given[..=at + behind]))
    }

    fn written(&self, at: usize, kept: Option<Copy>) {
        let mut book = self.book();
        book.given[at].written = true;
        book.kept = kept.or(book.kept.take());
    }

    /// The copy behind these ranges.
    fn moved(&self, ranges: &[Given]) -> Copy {
        let copy = &self.way.copy;
        Copy {
            copied: copy.copied + ranges.iter().map(|one| one.rows).sum::<u64>(),
            cursor: ranges
                .last()
                .map_or_else(|| copy.cursor.clone(), |last| Some(last.last.clone())),
            ..copy.clone()
        }
    }

    /// The copy behind all ranges, and where its cursor is already.
    fn end(self, truncated: bool) -> (Copy, Option<Copy>) {
        let book = std::mem::take(&mut *self.book());
        let more = book.given.last().is_none_or(|last| last.more);
        let all = self.moved(&book.given).ended(!more && !truncated);
        (all, book.kept)
    }
}

impl Engine {
    /// Applies a batch whose chunks go from database to database.
    pub(crate) async fn apply_direct(
        &mut self,
        batch: &mut Batch,
        direct: Direct,
    ) -> Result<Outcome, Error> {
        let applier = self.applier();
        let round = Round::begin(direct).await?;
        let copied = applier.lanes(&round).await;
        let (all, kept) = round.end(batch.truncated);
        batch.copy = Some(all);
        let written = match copied {
            Ok(None) => {
                let rest = applier.write(batch, Manner::Whole, References::Unchecked);
                rest.await
            }
            Ok(Some(why)) => Ok(Outcome::ByRows(why)),
            Err(e) => Err(e),
        };
        let outcome = match written {
            Err(e) if e.is_about_rows() => {
                tracing::debug!(error = %e, "rows refused, looking at each");
                Ok(Outcome::ByRows(Why::Rows))
            }
            Err(e) if e.is_about_statements() => {
                tracing::debug!(error = %e, "the tables do not take COPY");
                Ok(Outcome::ByRows(Why::Tables))
            }
            other => other,
        };
        // After a failure it is for the target to say what it has: the ranges did not wait for its disk.
        if let (Some(kept), Ok(Outcome::ByRows(_) | Outcome::Again | Outcome::TakeMore)) =
            (kept, &outcome)
        {
            self.took_chunk(kept).await?;
        }
        outcome
    }
}

impl Applier<'_> {
    /// Writes all ranges of a round; why not, if the tables do not allow it so.
    async fn lanes(&self, round: &Round) -> Result<Option<Why>, Error> {
        // All come to their end, for a COPY that is broken off costs its connection.
        let ended = join_all((0..round.way.abreast).map(|_| self.lane(round))).await;
        for one in ended {
            if let Some(why) = one? {
                return Ok(Some(why));
            }
        }
        Ok(None)
    }

    /// Writes one range after another.
    async fn lane(&self, round: &Round) -> Result<Option<Why>, Error> {
        let ended = self.ranges(round).await;
        if !matches!(ended, Ok(None)) {
            round.book().broken = true;
        }
        ended
    }

    async fn ranges(&self, round: &Round) -> Result<Option<Why>, Error> {
        let Some(mut next) = round.next().await? else {
            return Ok(None);
        };
        // It keeps its lock on the table, so that nobody who waits to change it comes between.
        let mut from = round.way.source.read_as_of(&round.name).await?;
        loop {
            let (at, range) = next;
            if let Some(why) = self.range(round, &mut from, at, &range).await? {
                return Ok(Some(why));
            }
            next = match round.next().await? {
                Some(next) => next,
                None => return Ok(None),
            };
        }
    }

    /// Writes one range.
    async fn range(
        &self,
        round: &Round,
        from: &mut Tx,
        at: usize,
        range: &Range,
    ) -> Result<Option<Why>, Error> {
        let (target, way) = (self.target, &round.way);
        let straight = &way.straight;
        let mut tx = target
            .write_own(References::Unchecked, Lasts::Later)
            .await?;
        self.stay(&mut tx).await?;
        let there = copy::shape(&mut tx, &straight.extracted, &straight.extracted.columns);
        if there.await.on(target.side)?.as_ref() != Some(&way.shape) {
            return Ok(Some(Why::Tables));
        }
        let ends = Ends {
            source: (&way.source, from),
            target: (target, &mut tx),
            fault: self.fault,
        };
        copy::rows(ends, straight, &way.shape, range).await?;
        let reached = round.reached(at);
        if let Some(copy) = &reached {
            target.save_copy(&mut tx, copy).await?;
        }
        FaultHook::pass(self.fault, "range-copied");
        tx.commit().await.on(target.side)?;
        round.written(at, reached);
        FaultHook::pass(self.fault, "range-committed");
        Ok(None)
    }

    /// Keeps everybody from taking over until this transaction has ended.
    async fn stay(&self, tx: &mut Tx) -> Result<(), Error> {
        let target = self.target;
        match target.hold(tx, target.side.other(), self.epoch).await? {
            true => Ok(()),
            false => Err(Error::Superseded(target.slice.clone())),
        }
    }
}
