//! Which change a position stands at, and not only its number: a database that was restored from a
//! backup gives the same numbers out once more.
//!
//! The mark of the last change that was applied is committed with the position. The source keeps that
//! change when its stream is trimmed, so whoever reads on from there finds it, or one of another history.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use outgrow_rollout::Side;
use xxhash_rust::xxh3::Xxh3;

use super::stream::Change;
use super::{Arg, Database, Dialect, Tx};
use crate::batch::UNPLACED;
use crate::error::{Error, OnSide};
use crate::spec::Capture;
use crate::value::Cell;

/// Changes without a place that a position names at the most.
const NAMED: usize = 32;

/// A change that was applied, and what tells it from every other that ever has its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) seq: i64,
    print: u64,
    /// The last change that rows may show which were applied, where that is a later one.
    shown: Option<(i64, u64)>,
    /// Those that they may show without a place in the stream.
    beside: Vec<u64>,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:016x}", self.seq, self.print)?;
        if let Some((seq, print)) = self.shown {
            write!(f, " {seq}:{print:016x}")?;
        }
        // The newest come first; of very many, the others are picked evenly, as a transaction that is
        // missing is missing whole.
        let step = self.beside.len().div_ceil(NAMED).max(1);
        (self.beside.iter().step_by(step)).try_for_each(|print| write!(f, " {print:016x}"))
    }
}

impl FromStr for Mark {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ').peekable();
        let number = |word: &str| word.parse::<i64>().map_err(drop);
        let print = |word: &str| u64::from_str_radix(word, 16).map_err(drop);
        let seq = number(words.next().ok_or(())?)?;
        let of_seq = print(words.next().ok_or(())?)?;
        let shown = words.next_if(|word| word.contains(':'));
        let shown = shown.and_then(|word| word.split_once(':'));
        let shown = shown.map(|(seq, of)| Ok((number(seq)?, print(of)?)));
        Ok(Self {
            seq,
            print: of_seq,
            shown: shown.transpose()?,
            beside: words.map(print).collect::<Result<_, ()>>()?,
        })
    }
}

impl Change {
    /// What tells it from other changes, wherever its place is. Its time does most of it.
    fn print(&self) -> u64 {
        let mut hash = Xxh3::new();
        let mut part = |kind: u8, bytes: &[u8]| {
            hash.update(&[kind]);
            hash.update(&bytes.len().to_le_bytes());
            hash.update(bytes);
        };
        part(b'c', self.table.as_bytes());
        part(b'o', self.op.as_bytes());
        part(b'a', &self.at.to_le_bytes());
        for cell in self.columns.iter().take_while(|cell| !cell.is_null()) {
            match cell {
                Cell::Null => {}
                Cell::Int(n) => part(b'i', &n.to_le_bytes()),
                Cell::Real(n) => part(b'r', &n.to_bits().to_le_bytes()),
                Cell::Text(text) => part(b't', text.as_bytes()),
                Cell::Blob(bytes) => part(b'b', bytes),
                Cell::BadText(bytes) => part(b'x', bytes),
            }
        }
        hash.digest()
    }
}

/// Changes that were applied before they had a place.
struct Beside(HashSet<u64>);

impl Beside {
    fn without(mut self, found: &[Change]) -> Self {
        if !self.0.is_empty() {
            for change in found {
                self.0.remove(&change.print());
            }
        }
        self
    }
}

impl Mark {
    fn without(&self, found: &[Change]) -> Beside {
        Beside(self.beside.iter().copied().collect()).without(found)
    }
}

impl Database {
    /// Makes room for marks in positions of a version before.
    pub(crate) async fn install_mark(&self) -> Result<(), Error> {
        let position = self.own("position");
        let (there, name) = match self.dialect() {
            Dialect::Sqlite => (
                "SELECT count(*) FROM pragma_table_info(?) WHERE name = 'mark'",
                self.own_bare("position"),
            ),
            Dialect::Postgres => (
                "SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass(?) \
                 AND attname = 'mark' AND NOT attisdropped",
                position.clone(),
            ),
            Dialect::Mysql => (
                "SELECT count(*) FROM information_schema.columns WHERE table_schema = DATABASE() \
                 AND table_name = ? AND column_name = 'mark'",
                self.own_bare("position"),
            ),
        };
        let mut tx = self.write().await?;
        let found = tx.number(there, &[Arg::from(&name)]).await;
        if found.on(self.side)? == Some(0) {
            let add = format!("ALTER TABLE {position} ADD COLUMN mark text");
            tx.script(add).await.on(self.side)?;
        }
        tx.commit().await.on(self.side)
    }

    /// Has a position taken as it is, up to the next change that is applied.
    pub(crate) async fn forget_mark(&self, stream: Side) -> Result<(), Error> {
        let text = format!(
            "UPDATE {} SET mark = NULL WHERE stream = ?",
            self.own("position")
        );
        let mut tx = self.write().await?;
        let args = [Arg::from(stream.as_str())];
        tx.execute(&text, &args).await.on(self.side)?;
        tx.commit().await.on(self.side)
    }

    /// Whether positions in this stream are marked. In a log, the place there tells all.
    fn marks(&self) -> bool {
        self.capture() == Capture::Triggers
    }

    /// How far a stream that was applied up to a place may be trimmed, which still has to show what is there.
    pub(crate) fn spare_marked(&self, upto: i64) -> i64 {
        match self.marks() {
            true => upto.saturating_sub(1),
            false => upto,
        }
    }

    /// The mark of a place that was not reached by applying what is there.
    pub(crate) async fn mark_at(&self, tx: &mut Tx, seq: i64) -> Result<Option<Mark>, Error> {
        let found = self.changes(tx, seq.saturating_sub(1), 1).await?;
        let found: Vec<Change> = found.into_iter().filter(|c| c.seq == seq).collect();
        Ok(self.marked(None, &found))
    }

    /// The mark once these are applied, with rows that show no more.
    pub(crate) fn marked(&self, before: Option<&Mark>, applied: &[Change]) -> Option<Mark> {
        if !self.marks() {
            return None;
        }
        let (seq, print) = match applied.last() {
            Some(last) => (last.seq, last.print()),
            None => before.map(|mark| (mark.seq, mark.print))?,
        };
        Some(Mark {
            seq,
            print,
            shown: None,
            beside: Vec::new(),
        })
    }

    /// As [`Self::marked`], with rows that show all that there is: up to the stream's head, and what has no
    /// place. All of the mark before is there.
    pub(crate) async fn marked_within(
        &self,
        tx: &mut Tx,
        (before, applied): (Option<&Mark>, &[Change]),
        (head, beside): (i64, Vec<u64>),
    ) -> Result<Option<Mark>, Error> {
        let Some(mut mark) = self.marked(before, applied) else {
            return Ok(None);
        };
        mark.beside = beside;
        if head > mark.seq {
            let last = self.changes(tx, head.saturating_sub(1), 1).await?;
            mark.shown = last.first().map(|last| (last.seq, last.print()));
        }
        Ok(Some(mark))
    }

    /// What tells these, where positions are marked.
    pub(crate) fn prints(&self, changes: &[Change]) -> Vec<u64> {
        match self.marks() {
            true => changes.iter().map(Change::print).collect(),
            false => Vec::new(),
        }
    }

    /// The changes after a place. Refuses a stream where the change at that place is not the one that was
    /// applied. A position of a version before, or one that is in a log, has no mark.
    pub(crate) async fn changes_behind(
        &self,
        tx: &mut Tx,
        (after, mark): (i64, Option<&Mark>),
        limit: u32,
    ) -> Result<Vec<Change>, Error> {
        match mark.filter(|mark| mark.seq == after) {
            Some(mark) => self.after(tx, (after, mark.print), limit).await,
            None => self.changes(tx, after, limit).await,
        }
    }

    async fn after(
        &self,
        tx: &mut Tx,
        (seq, print): (i64, u64),
        limit: u32,
    ) -> Result<Vec<Change>, Error> {
        let limit = limit.saturating_add(1);
        let mut changes = self.changes(tx, seq.saturating_sub(1), limit).await?;
        let what = match changes.first() {
            Some(first) if first.seq == seq && first.print() == print => {
                changes.remove(0);
                return Ok(changes);
            }
            Some(first) if first.seq > seq => {
                // Only what was applied is ever trimmed.
                let side = self.side.other();
                let what = format!(
                    "it has applied {seq}, and once had {} of the stream's changes",
                    first.seq
                );
                return Err(Error::Discontinued { side, what });
            }
            Some(_) => format!("its change {seq} is not the one that was applied"),
            None => format!("its change {seq}, which was applied, is gone"),
        };
        Err(self.lost(what))
    }

    fn lost(&self, what: String) -> Error {
        let side = self.side;
        Error::Discontinued { side, what }
    }

    /// Refuses a stream that lacks something of what was applied with a position, however far it is by now.
    /// These are of the same moment, and have no place.
    pub(crate) async fn still_has(
        &self,
        tx: &mut Tx,
        mark: Option<&Mark>,
        unplaced: &[Change],
    ) -> Result<(), Error> {
        let Some(mark) = mark else { return Ok(()) };
        let mut beside = mark.without(unplaced);
        // They were given places behind all that was there.
        let mut last = mark.shown.unwrap_or((mark.seq, mark.print));
        self.after(tx, (mark.seq, mark.print), 0).await?;
        loop {
            let limit = if beside.0.is_empty() { 0 } else { UNPLACED };
            let changes = self.after(tx, last, limit).await?;
            beside = beside.without(&changes);
            match changes.last() {
                Some(change) if !beside.0.is_empty() => last = (change.seq, change.print()),
                _ => break,
            }
        }
        match unplaced.len() < UNPLACED as usize {
            true => self.lacks_none(mark, &beside),
            // They are among the others, if they are there.
            false => Ok(()),
        }
    }

    /// As [`Self::still_has`], where these are all changes behind the mark, and all that have no place.
    pub(crate) fn has_shown(
        &self,
        mark: Option<&Mark>,
        changes: &[Change],
        unplaced: &[Change],
    ) -> Result<(), Error> {
        let Some(mark) = mark else { return Ok(()) };
        if let Some((seq, print)) = mark.shown {
            let there = changes.binary_search_by_key(&seq, |change| change.seq);
            if there.is_err() || there.is_ok_and(|at| changes[at].print() != print) {
                return Err(self.lost(format!("its change {seq} is not the one that was seen")));
            }
        }
        match unplaced.len() < UNPLACED as usize {
            true => self.lacks_none(mark, &mark.without(changes).without(unplaced)),
            false => Ok(()),
        }
    }

    fn lacks_none(&self, mark: &Mark, beside: &Beside) -> Result<(), Error> {
        match beside.0.len() {
            0 => Ok(()),
            gone => Err(self.lost(format!(
                "it lacks {gone} of the changes that were applied with its change {}",
                mark.seq
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_back_as_they_were_but_for_very_many() {
        let mark = |beside: Vec<u64>| Mark {
            seq: 7,
            print: u64::MAX,
            shown: None,
            beside,
        };
        for some in [0, 1, 32] {
            let mut mark = mark((0..some).collect());
            assert_eq!(mark.to_string().parse().as_ref(), Ok(&mark));
            mark.shown = Some((9, 0));
            assert_eq!(mark.to_string().parse(), Ok(mark));
        }
        let many = mark((0..1_000).collect()).to_string();
        let many: Mark = many.parse().unwrap();
        assert_eq!(many.beside.first(), Some(&0));
        assert!(many.beside.len() <= NAMED && many.beside.len() > NAMED / 2);
        for odd in [
            "",
            "1",
            "x 1",
            "1 x",
            "1 2 x",
            "1  2",
            "1 2 3:",
            "1 2 3 4:5",
        ] {
            assert_eq!(odd.parse::<Mark>(), Err(()), "{odd}");
        }
    }
}
