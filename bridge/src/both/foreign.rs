//! The book of foreign writes: rows that something else has written on the passive side, with both
//! versions, and which of them a person has settled.

use outgrow_rollout::Side;

use super::books::side_of;
use crate::db::books::Foreign;
use crate::db::{Arg, Database, Fetched, Tx, now_ms};
use crate::error::{Error, OnSide};

/// How many of those that are kept nobody has settled, and how many somebody has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ForeignCounts {
    pub(crate) open: u64,
    pub(crate) settled: u64,
}

/// Conditions of [`Database::foreign_where`].
pub(super) const OPEN: &str = "s.id IS NULL";
pub(super) const SETTLED: &str = "s.id IS NOT NULL";

impl Database {
    pub(crate) async fn note_foreign(&self, tx: &mut Tx, found: &Foreign) -> Result<(), Error> {
        let text = format!(
            "INSERT INTO {} (side, tbl, k, op, at, passive, authority) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
            self.own("foreign")
        );
        let args = [
            Arg::from(&found.side),
            Arg::from(&found.table),
            Arg::from(&found.key),
            Arg::from(&found.op),
            Arg::from(found.at_ms),
            Arg::from(&found.passive),
            Arg::from(&found.authority),
        ];
        tx.execute(&text, &args).await.on(self.side)?;
        Ok(())
    }

    /// Forgets old ones, but none that nobody has settled.
    pub(crate) async fn trim_foreign(&self, tx: &mut Tx, kept: u32) -> Result<(), Error> {
        let (all, settled) = (self.own("foreign"), self.own("foreign_settled"));
        let newest = format!("SELECT max(id) FROM {all}");
        let newest = tx.number(&newest, &[]).await.on(self.side)?.unwrap_or(0);
        let upto = newest.saturating_sub(i64::from(kept));
        let text = format!("DELETE FROM {all} WHERE id <= ? AND id IN (SELECT id FROM {settled})");
        tx.execute(&text, &[Arg::from(upto)]).await.on(self.side)?;
        let text = format!("DELETE FROM {settled} WHERE id <= ?");
        tx.execute(&text, &[Arg::from(upto)]).await.on(self.side)?;
        Ok(())
    }

    /// All that are kept, each with what was taken once it is settled.
    fn foreign_book(&self) -> String {
        let (all, settled) = (self.own("foreign"), self.own("foreign_settled"));
        format!("{all} f LEFT JOIN {settled} s ON s.id = f.id")
    }

    /// Those that meet a condition, newest first: so many after so many.
    pub(crate) async fn foreign_where(
        &self,
        tx: &mut Tx,
        condition: &str,
        args: &[Arg],
        (limit, skip): (u32, u64),
    ) -> Result<Vec<Foreign>, Error> {
        let text = format!(
            "SELECT f.side, f.tbl, f.k, f.op, f.at, f.passive, f.authority, f.id, s.took FROM {} \
             WHERE {condition} ORDER BY f.id DESC LIMIT {limit} OFFSET {skip}",
            self.foreign_book()
        );
        let rows = tx.fetch(&text, args).await.on(self.side)?;
        let one = |row: &Fetched| {
            Ok(Foreign {
                side: row.text(0)?,
                table: row.text(1)?,
                key: row.text(2)?,
                op: row.text(3)?,
                at_ms: row.int(4)?,
                passive: row.text(5)?,
                authority: row.text(6)?,
                id: row.int(7)?,
                took: row.maybe_text(8).map(|text| side_of(&text)),
            })
        };
        rows.iter()
            .map(one)
            .collect::<Result<_, sqlx::Error>>()
            .on(self.side)
    }

    pub(crate) async fn newest_foreign(&self, tx: &mut Tx) -> Result<Option<Foreign>, Error> {
        let found = self.foreign_where(tx, "1 = 1", &[], (1, 0)).await?;
        Ok(found.into_iter().next())
    }

    pub(crate) async fn foreign_one(&self, tx: &mut Tx, id: i64) -> Result<Option<Foreign>, Error> {
        let args = [Arg::from(id)];
        let found = self.foreign_where(tx, "f.id = ?", &args, (1, 0)).await?;
        Ok(found.into_iter().next())
    }

    pub(crate) async fn foreign_counts(&self, tx: &mut Tx) -> Result<ForeignCounts, Error> {
        let mut counts = [0; 2];
        for (count, condition) in counts.iter_mut().zip([OPEN, SETTLED]) {
            let book = self.foreign_book();
            let text = format!("SELECT count(*) FROM {book} WHERE {condition}");
            let found = tx.number(&text, &[]).await.on(self.side)?;
            *count = u64::try_from(found.unwrap_or(0)).unwrap_or(0);
        }
        let [open, settled] = counts;
        Ok(ForeignCounts { open, settled })
    }

    /// Those of one row that nobody has settled.
    pub(crate) async fn foreign_of_row(
        &self,
        tx: &mut Tx,
        of: &Foreign,
    ) -> Result<Vec<i64>, Error> {
        let text = format!(
            "SELECT f.id FROM {} WHERE f.tbl = ? AND f.k = ? AND {OPEN}",
            self.foreign_book()
        );
        let row = [Arg::from(&of.table), Arg::from(&of.key)];
        let same = tx.fetch(&text, &row).await.on(self.side)?;
        same.iter()
            .map(|row| row.int(0))
            .collect::<Result<_, sqlx::Error>>()
            .on(self.side)
    }

    /// Marks foreign writes as settled.
    pub(crate) async fn settle_foreign(
        &self,
        tx: &mut Tx,
        ids: &[i64],
        took: Side,
    ) -> Result<(), Error> {
        let text = format!(
            "INSERT INTO {} (id, took, at) VALUES (?, ?, ?) {}",
            self.own("foreign_settled"),
            self.dialect().or_update("id", &["took", "at"])
        );
        for &id in ids {
            let args = [Arg::from(id), Arg::from(took.as_str()), Arg::from(now_ms())];
            tx.execute(&text, &args).await.on(self.side)?;
        }
        Ok(())
    }
}
