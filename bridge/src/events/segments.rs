//! How far events were told, in the database whose stream they come from.
//!
//! A *segment* is the part of one side's stream in which that side was the source: it begins with
//! a turn and ends with the next. Segments of both sides, in the order of their turns, are all
//! that there is to tell. They are begun and ended in the transactions of the turn itself, so
//! that nothing is told twice or left out across one.

use outgrow_rollout::Side;

use crate::db::{Arg, Database, Dialect, Tx, now_ms};
use crate::error::{Error, OnSide};

/// One part of one side's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) side: Side,
    pub(crate) turn: i64,
    pub(crate) birth: String,
    /// Told up to here.
    pub(crate) seq: i64,
    /// Its last place, once the side is the source no more.
    pub(crate) ends: Option<i64>,
    /// Who tells it: an older publisher moves nothing any more.
    pub(crate) epoch: i64,
    /// The first place that will never be told, until that is said.
    pub(crate) gap: Option<i64>,
    pub(crate) parked: Option<String>,
}

impl Segment {
    pub(crate) fn finished(&self) -> bool {
        self.gap.is_none() && self.ends.is_some_and(|ends| self.seq >= ends)
    }
}

/// The segment to tell now, and those before it that are done with. A finished segment stays
/// until a later one is there: a turn may be under way, or be taken back.
pub(crate) fn choose(mut all: Vec<Segment>) -> (Option<Segment>, Vec<Segment>) {
    all.sort_by_key(|segment| segment.turn);
    let unfinished = all.iter().position(|segment| !segment.finished());
    let chosen = unfinished.unwrap_or(all.len().saturating_sub(1));
    let rest = all.split_off(chosen);
    (rest.into_iter().next(), all)
}

impl Database {
    pub(crate) async fn install_events(&self) -> Result<(), Error> {
        let engine = match self.dialect() {
            Dialect::Mysql => " ENGINE = InnoDB CHARACTER SET utf8mb4",
            Dialect::Sqlite | Dialect::Postgres => "",
        };
        let text = format!(
            "CREATE TABLE IF NOT EXISTS {} (turn bigint PRIMARY KEY, birth varchar(100) NOT NULL, \
             seq bigint NOT NULL, ends bigint, epoch bigint NOT NULL, gap bigint, \
             parked varchar(1000)){engine}",
            self.own("events")
        );
        let mut tx = self.write().await?;
        tx.script(text).await.on(self.side)?;
        tx.commit().await.on(self.side)
    }

    pub(crate) async fn segments(&self, tx: &mut Tx) -> Result<Vec<Segment>, Error> {
        let text = format!(
            "SELECT turn, birth, seq, ends, epoch, gap, parked FROM {} ORDER BY turn",
            self.own("events")
        );
        let rows = tx.fetch(&text, &[]).await.on(self.side)?;
        rows.iter()
            .map(|row| {
                Ok(Segment {
                    side: self.side,
                    turn: row.int(0)?,
                    birth: row.text(1)?,
                    seq: row.int(2)?,
                    ends: row.maybe(3),
                    epoch: row.int(4)?,
                    gap: row.maybe(5),
                    parked: row.maybe_text(6),
                })
            })
            .collect::<Result<_, sqlx::Error>>()
            .on(self.side)
    }

    /// Begins a segment after this place.
    pub(crate) async fn begin_segment(
        &self,
        tx: &mut Tx,
        turn: i64,
        seq: i64,
        birth: &str,
    ) -> Result<(), Error> {
        let text = format!(
            "INSERT INTO {} (turn, birth, seq, epoch) VALUES (?, ?, ?, 0)",
            self.own("events")
        );
        let args = [Arg::from(turn), Arg::from(birth), Arg::from(seq)];
        tx.execute(&text, &args).await.on(self.side).map(drop)
    }

    /// Ends the open segment at the last place there is. Whether there was one.
    pub(crate) async fn end_segment(&self, tx: &mut Tx) -> Result<bool, Error> {
        let head = self.head(tx).await?;
        let text = format!(
            "UPDATE {} SET ends = ? WHERE ends IS NULL",
            self.own("events")
        );
        let done = tx.execute(&text, &[Arg::from(head)]).await.on(self.side)?;
        Ok(done > 0)
    }

    /// Opens the last segment again: the turn that ended it was taken back.
    pub(crate) async fn reopen_segment(&self, tx: &mut Tx) -> Result<(), Error> {
        let last = self.segments(tx).await?.pop();
        if let Some(last) = last.filter(|last| last.ends.is_some()) {
            let text = format!(
                "UPDATE {} SET ends = NULL WHERE turn = ?",
                self.own("events")
            );
            let args = [Arg::from(last.turn)];
            tx.execute(&text, &args).await.on(self.side)?;
        }
        Ok(())
    }

    /// Takes a segment over from whoever told it before.
    pub(crate) async fn claim_segment(&self, segment: &mut Segment) -> Result<(), Error> {
        let text = format!("UPDATE {} SET epoch = ? WHERE turn = ?", self.own("events"));
        segment.epoch += 1;
        let args = [Arg::from(segment.epoch), Arg::from(segment.turn)];
        let mut tx = self.write().await?;
        tx.execute(&text, &args).await.on(self.side)?;
        tx.commit().await.on(self.side)
    }

    /// Moves a segment on. `false` when another publisher has taken it over.
    pub(crate) async fn advance_segment(&self, to: &Segment) -> Result<bool, Error> {
        let text = format!(
            "UPDATE {} SET seq = ?, gap = ? WHERE turn = ? AND epoch = ? AND parked IS NULL",
            self.own("events")
        );
        let args = [
            Arg::from(to.seq),
            Arg::from(to.gap),
            Arg::from(to.turn),
            Arg::from(to.epoch),
        ];
        let mut tx = self.write().await?;
        let mut done = tx.execute(&text, &args).await.on(self.side)?;
        if done == 0 {
            // MySQL counts rows that change, and one may be parked meanwhile: only the epoch says.
            let now = self.segments(&mut tx).await?;
            let mine = |s: &&Segment| s.turn == to.turn && s.epoch == to.epoch;
            done = u64::from(now.iter().find(mine).is_some());
        }
        tx.commit().await.on(self.side)?;
        Ok(done > 0)
    }

    pub(crate) async fn drop_segment(&self, turn: i64) -> Result<(), Error> {
        let text = format!("DELETE FROM {} WHERE turn = ?", self.own("events"));
        let mut tx = self.write().await?;
        tx.execute(&text, &[Arg::from(turn)]).await.on(self.side)?;
        tx.commit().await.on(self.side)
    }

    /// Forgets every segment, as events are not wanted any more. How many there were.
    pub(crate) async fn drop_segments(&self) -> Result<u64, Error> {
        let mut tx = self.write().await?;
        let text = format!("DELETE FROM {}", self.own("events"));
        let done = tx.execute(&text, &[]).await.on(self.side)?;
        tx.commit().await.on(self.side)?;
        Ok(done)
    }

    /// The place up to which everything was told; `None` where nothing is held for events.
    pub(crate) async fn events_floor(&self, tx: &mut Tx) -> Result<Option<i64>, Error> {
        let segments = self.segments(tx).await?;
        let held = segments
            .iter()
            .filter(|s| s.parked.is_none() && !s.finished());
        Ok(held.map(|s| s.seq).min())
    }

    /// Lets go of what was not told.
    pub(crate) async fn park_segments(&self, why: &str) -> Result<(), Error> {
        let text = format!(
            "UPDATE {} SET parked = ? WHERE parked IS NULL AND (ends IS NULL OR seq < ends)",
            self.own("events")
        );
        let mut tx = self.write().await?;
        tx.execute(&text, &[Arg::from(why)]).await.on(self.side)?;
        tx.commit().await.on(self.side)
    }

    /// Goes on with parked segments from what is there now; the gap is told first.
    pub(crate) async fn resume_segments(&self) -> Result<u64, Error> {
        let mut tx = self.write().await?;
        let head = self.head(&mut tx).await?;
        let mut resumed = 0;
        for segment in self.segments(&mut tx).await? {
            if segment.parked.is_none() {
                continue;
            }
            let text = format!(
                "UPDATE {} SET parked = NULL, gap = ?, seq = ? WHERE turn = ?",
                self.own("events")
            );
            let to = segment.ends.unwrap_or(head);
            let gap = segment.gap.unwrap_or(segment.seq + 1);
            let args = [Arg::from(gap), Arg::from(to), Arg::from(segment.turn)];
            resumed += tx.execute(&text, &args).await.on(self.side)?;
        }
        tx.commit().await.on(self.side)?;
        if resumed > 0 {
            tracing::warn!(slice = %self.slice, side = %self.side, at_ms = now_ms(),
                "events go on after a gap");
        }
        Ok(resumed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(turn: i64, seq: i64, ends: Option<i64>) -> Segment {
        Segment {
            side: Side::Legacy,
            turn,
            birth: String::new(),
            seq,
            ends,
            epoch: 0,
            gap: None,
            parked: None,
        }
    }

    #[test]
    fn the_oldest_unfinished_segment_comes_first() {
        let chosen = |all: &[Segment]| {
            let (now, done) = choose(all.to_vec());
            let done: Vec<i64> = done.iter().map(|s| s.turn).collect();
            (now.map(|s| s.turn), done)
        };
        assert_eq!(chosen(&[]), (None, vec![]));
        let (old, new) = (segment(0, 5, Some(9)), segment(1, 2, None));
        assert_eq!(chosen(&[new.clone(), old]), (Some(0), vec![]));
        let done = segment(0, 9, Some(9));
        // Kept while nothing follows it.
        assert_eq!(chosen(std::slice::from_ref(&done)), (Some(0), vec![]));
        assert_eq!(chosen(&[done.clone(), new]), (Some(1), vec![0]));
        let untold = Segment {
            gap: Some(3),
            ..done
        };
        assert_eq!(chosen(&[untold, segment(1, 0, None)]), (Some(0), vec![]));
    }
}
