//! What the short way needs of the log: transactions with their rows, handed over without a place
//! in the stream table; the record of how far they were applied, made later; and the way back
//! after a death between the two.
//!
//! Changes that are handed over have numbers as if they were in the stream: the first after its
//! head, and so on. The target keeps the last number with the transaction of the log that it stands
//! for, in the transaction of the rows. Here the head and the place in the log follow in one
//! transaction, later: until then the log is kept. Where the target is ahead of the record, the log
//! is read again up to exactly that transaction, and nothing of it is applied twice.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::logged::Noted;
pub(crate) use super::logged::Told;
pub(crate) use super::packed::Packed;
use super::step::{Commit, Ended, Gathered, Manner, Step};
use super::{Feed, Inner};
use crate::db::taking::Leaves as _;
use crate::db::{Arg, Database, PATIENCE, Tx};
use crate::error::{Error, OnSide};
use crate::value::Cell;

/// About the bytes of one batch.
const BYTES: usize = 4 << 20;
/// Transactions applied before it is asked whether they can be seen.
const UNSEEN: usize = 10_000;
/// Between two tries to have the slot from a process that does not know yet that it is superseded.
const AGAIN: Duration = Duration::from_millis(100);

/// Applied, and not on record yet.
#[derive(Debug)]
pub(super) struct Ahead {
    pub(super) head: i64,
    pub(super) commit: Commit,
    transactions: Vec<u32>,
}

/// A transaction of the log, and the number of its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) seq: i64,
    commit: Commit,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Commit { end, xid, micros } = self.commit;
        write!(f, "{} {end} {xid} {micros}", self.seq)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let mut word = || words.next().ok_or(());
        let place = Self {
            seq: word()?.parse().map_err(|_| ())?,
            commit: Commit {
                end: word()?.parse().map_err(|_| ())?,
                xid: word()?.parse().map_err(|_| ())?,
                micros: word()?.parse().map_err(|_| ())?,
            },
        };
        words.next().is_none().then_some(place).ok_or(())
    }
}

/// What the log has next.
#[derive(Debug)]
pub(crate) enum Next {
    Nothing,
    Taken(Taken),
    /// A transaction that is better spilled to the stream; nothing of it was taken.
    TooLarge,
}

/// Whole transactions of the log.
#[derive(Debug)]
pub(crate) struct Taken {
    gathered: Gathered,
    commit: Commit,
}

impl Taken {
    /// How many places it has in the stream.
    pub(crate) fn places(&self) -> i64 {
        i64::try_from(self.gathered.waiting.len()).unwrap_or(i64::MAX)
    }

    pub(crate) fn transactions(&self) -> usize {
        self.gathered.transactions.len()
    }

    /// Where in the log it ends, as the last of these places.
    pub(crate) fn place(&self, seq: i64) -> Place {
        Place {
            seq,
            commit: self.commit,
        }
    }

    /// Time of the newest heartbeat in it.
    pub(crate) fn beat(&self) -> Option<i64> {
        let beats = self.gathered.waiting.iter().filter(|n| n.table.is_empty());
        beats.map(|n| n.at).max()
    }

    /// When its changes were made, and of which table, key and kind each is.
    pub(crate) fn told(&self) -> impl Iterator<Item = (i64, &str, &[Cell], &str)> {
        let rows = self.gathered.waiting.iter().filter(|n| !n.table.is_empty());
        rows.map(|n| (n.at, &*n.table, n.key.as_slice(), &*n.op))
    }

    /// Whether every change tells its row.
    pub(crate) fn is_whole(&self) -> bool {
        let told = |n: &Noted| n.told != Told::Nothing;
        !self.gathered.reshaped && self.gathered.waiting.iter().all(told)
    }

    /// Some table's columns have other types than before.
    pub(crate) fn is_reshaped(&self) -> bool {
        self.gathered.reshaped
    }

    /// Tables with keys and rows, oldest first.
    pub(crate) fn rows(&mut self) -> impl Iterator<Item = (&str, &[Cell], Told)> {
        let changes = self.gathered.waiting.iter_mut();
        changes.filter(|n| !n.table.is_empty()).map(|n| {
            let told = std::mem::replace(&mut n.told, Told::Nothing);
            (&*n.table, n.key.as_slice(), told)
        })
    }
}

impl Feed {
    /// Has everything that is not on record come again.
    pub(in crate::db) async fn forget(&self) {
        let mut inner = self.inner.lock().await;
        inner.ahead = None;
        inner.lose_stream();
    }

    /// As [`Self::forget`], for whoever asks the databases where the stream is.
    async fn ask_anew(&self) {
        let mut inner = self.inner.lock().await;
        inner.ahead = None;
        inner.lose_stream();
        (inner.recorded, inner.taken_over) = (0, false);
    }
}

impl Database {
    /// As [`Self::forget_taken`], for whoever asks the databases where the stream is.
    pub(crate) async fn ask_anew(&self) {
        if let Some(feed) = self.short() {
            feed.ask_anew().await;
        }
    }

    /// The stream goes on from what was applied of it, as far as the databases can say: from now on
    /// everybody may look at the log.
    pub(crate) async fn taken_over(&self) {
        if let Some(feed) = self.short() {
            feed.inner.lock().await.taken_over = true;
        }
    }

    /// Whole transactions that have come, without waiting for more.
    pub(in crate::db) async fn gather(&self, feed: &Feed, most: usize) -> Result<Next, Error> {
        let mut inner = feed.taking().await;
        let next = self.gather_once(feed, &mut inner, most).await?;
        // What is too large comes again, if it was looked at.
        let held = inner.stream.as_ref().is_some_and(|s| s.held.is_some());
        if held || !matches!(next, Next::TooLarge) {
            inner.keep_stream();
        }
        Ok(next)
    }

    async fn gather_once(
        &self,
        feed: &Feed,
        inner: &mut Inner,
        most: usize,
    ) -> Result<Next, Error> {
        self.connected(feed, inner).await?;
        let Inner { tables, came, .. } = &*inner;
        let (tables, came) = (std::sync::Arc::clone(tables), *came);
        let Some(stream) = inner.stream.as_mut() else {
            return Ok(Next::Nothing);
        };
        let Some(first) = self.event(stream, false).await? else {
            return Ok(Next::Nothing);
        };
        let step = Step::new(self, &tables, (came, feed.nonce), feed.fault.as_ref());
        let mut step = step.doing(Manner::Gather { most, bytes: BYTES });
        let ended = step.read(stream, first).await?;
        inner.came = step.came;
        let mut gathered = step.gathered;
        if !gathered.waiting.is_empty() {
            gathered.reshaped = std::mem::take(&mut stream.reshaped);
        }
        match (ended, gathered.last) {
            (Ended::TooLarge, _) => Ok(Next::TooLarge),
            (_, Some(commit)) if !gathered.waiting.is_empty() => {
                Ok(Next::Taken(Taken { gathered, commit }))
            }
            _ => Ok(Next::Nothing),
        }
    }

    /// Takes note that this was applied, up to this number. `true` when it is time to record it.
    pub(in crate::db) async fn note_taken(&self, feed: &Feed, taken: Taken, head: i64) -> bool {
        let mut inner = feed.inner.lock().await;
        let ahead = inner.ahead.get_or_insert_with(|| Ahead {
            head,
            commit: taken.commit,
            transactions: Vec::new(),
        });
        (ahead.head, ahead.commit) = (head, taken.commit);
        ahead.transactions.extend(taken.gathered.transactions);
        ahead.transactions.len() >= UNSEEN
    }

    /// Puts into the stream what was not applied. All before it is on record.
    pub(in crate::db) async fn put_back(&self, feed: &Feed, taken: Taken) -> Result<(), Error> {
        let mut inner = feed.taking().await;
        self.put_back_once(feed, &mut inner, taken).await?;
        inner.keep_stream();
        Ok(())
    }

    async fn put_back_once(
        &self,
        feed: &Feed,
        inner: &mut Inner,
        taken: Taken,
    ) -> Result<(), Error> {
        let tables = std::sync::Arc::clone(&inner.tables);
        let came = inner.came;
        let Some(stream) = inner.stream.as_mut() else {
            // It comes again.
            return Ok(());
        };
        let mut step = Step::new(self, &tables, (came, feed.nonce), feed.fault.as_ref());
        step.gathered = taken.gathered;
        step.finish(stream).await
    }

    /// Has on record what was applied, once all of it can be seen.
    pub(in crate::db) async fn record_taken(&self, feed: &Feed) -> Result<(), Error> {
        let mut inner = feed.taking().await;
        if inner.ahead.is_some() {
            self.record_once(feed, &mut inner).await?;
            inner.ahead = None;
        }
        inner.keep_stream();
        Ok(())
    }

    async fn record_once(&self, feed: &Feed, inner: &mut Inner) -> Result<(), Error> {
        self.connected(feed, inner).await?;
        let tables = std::sync::Arc::clone(&inner.tables);
        let came = inner.came;
        let (Some(stream), Some(ahead)) = (inner.stream.as_mut(), &inner.ahead) else {
            return Ok(());
        };
        let mut step = Step::new(self, &tables, (came, feed.nonce), feed.fault.as_ref());
        step.gathered = Gathered {
            head: Some(ahead.head),
            upto: Some(ahead.commit.end),
            transactions: ahead.transactions.clone(),
            ..Gathered::default()
        };
        step.record(stream).await
    }

    /// Brings the record up to a place that the other side has applied, if it is behind.
    pub(in crate::db) async fn overtake(&self, feed: &Feed, place: Place) -> Result<(), Error> {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mut tx = self.read().await?;
            if self.head(&mut tx).await? >= place.seq {
                return Ok(());
            }
            drop(tx);
            // It leaves the stream in any case.
            let mut inner = feed.taking().await;
            inner.ahead = None;
            let done = self.overtake_once(feed, &mut inner, place).await;
            drop(inner);
            match done {
                // A process before us may have the slot still.
                Err(e) if e.passes() && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(AGAIN).await;
                }
                other => return other,
            }
        }
    }

    async fn overtake_once(
        &self,
        feed: &Feed,
        inner: &mut Inner,
        place: Place,
    ) -> Result<(), Error> {
        self.connected(feed, inner).await?;
        let gathered = self.skip_to(feed, inner, place.commit).await?;
        let tables = std::sync::Arc::clone(&inner.tables);
        let came = inner.came;
        let Some(stream) = inner.stream.as_mut() else {
            return Ok(());
        };
        let mut step = Step::new(self, &tables, (came, feed.nonce), feed.fault.as_ref());
        step.gathered = gathered;
        step.gathered.head = Some(place.seq);
        step.record(stream).await
    }

    /// Reads on to the end of exactly this transaction, and nothing beyond it. Refuses a log that does not
    /// have it.
    pub(super) async fn skip_to(
        &self,
        feed: &Feed,
        inner: &mut Inner,
        commit: Commit,
    ) -> Result<Gathered, Error> {
        // Behind all that is in the log by now.
        self.order_mark(feed, inner).await?;
        let tables = std::sync::Arc::clone(&inner.tables);
        let came = inner.came;
        let gone = || self.stream_error("the replication stream has stopped");
        let stream = inner.stream.as_mut().ok_or_else(gone)?;
        let first = self.event(stream, true).await?.ok_or_else(gone)?;
        let step = Step::new(self, &tables, (came, feed.nonce), feed.fault.as_ref());
        let mut step = step.doing(Manner::Skip(commit));
        let ended = step.read(stream, first).await?;
        inner.came = step.came;
        if ended != Ended::Whole {
            let side = self.side;
            return Err(Error::Discontinued {
                side,
                what: format!(
                    "its log does not have the transaction that ends at {:X}/{:X}, which was applied",
                    commit.end >> 32,
                    commit.end & 0xffff_ffff
                ),
            });
        }
        Ok(step.gathered)
    }

    /// The place in the other side's log that this database has applied, as its position says it.
    pub(in crate::db) async fn place_kept(
        &self,
        tx: &mut Tx,
        stream: outgrow_rollout::Side,
    ) -> Result<Option<Place>, Error> {
        let text = format!(
            "SELECT place FROM {} WHERE stream = ?",
            self.own("position")
        );
        let rows = tx.fetch(&text, &[Arg::from(stream.as_str())]).await;
        let rows = rows.on(self.side)?;
        let place = rows.first().and_then(|row| row.maybe_text(0));
        Ok(place.and_then(|text| text.parse().ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_as_they_were() {
        let place = Place {
            seq: 7,
            commit: Commit {
                end: u64::MAX,
                xid: 5,
                micros: -1,
            },
        };
        assert_eq!(place.to_string().parse(), Ok(place));
        for odd in ["", "1 2 3", "1 2 3 4 5", "1 x 3 4", "1 2 -3 4"] {
            assert_eq!(odd.parse::<Place>(), Err(()), "{odd}");
        }
    }
}
