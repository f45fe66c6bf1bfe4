//! The bridge's own rows in a database: control, positions, copy cursors, parked rows, foreign
//! writes. Whatever must be true together is written in one transaction by the caller.

use outgrow_rollout::Side;
use sqlx::{Row as _, SqliteConnection};

use super::stream::KEYS;
use super::{Database, bind, cell, now_ms, sql};
use crate::error::{Error, OnSide};
use crate::value::{Key, key_text};

/// Foreign writes kept with both versions; older ones are only counted.
const FOREIGN_KEPT: i64 = 10_000;

/// What a side's database says of its role.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    pub(crate) fenced: bool,
    pub(crate) refused: u64,
    pub(crate) refused_at: Option<i64>,
    pub(crate) refused_table: Option<String>,
    pub(crate) source: Side,
    pub(crate) turn: i64,
    pub(crate) birth: String,
}

/// How far a stream was applied; kept in the database that it is applied to.
#[derive(Debug, Clone)]
pub(crate) struct Position {
    pub(crate) epoch: i64,
    pub(crate) seq: i64,
    pub(crate) birth: String,
    pub(crate) beat: Option<i64>,
}

/// The backfill of one group.
#[derive(Debug, Clone)]
pub(crate) struct Copy {
    pub(crate) table: String,
    pub(crate) done: bool,
    pub(crate) copied: u64,
    pub(crate) total: u64,
    pub(crate) cursor: Option<Key>,
}

#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Parked {
    pub(crate) table: String,
    pub(crate) key: String,
    pub(crate) reason: String,
    pub(crate) content: String,
    pub(crate) at_ms: i64,
    #[serde(skip)]
    pub(crate) cells: Key,
}

#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Foreign {
    pub(crate) side: String,
    pub(crate) table: String,
    pub(crate) key: String,
    pub(crate) op: String,
    pub(crate) at_ms: i64,
    pub(crate) passive: String,
    pub(crate) authority: String,
}

fn whole(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

fn side_of(text: &str) -> Side {
    if text == Side::Extracted.as_str() {
        Side::Extracted
    } else {
        Side::Legacy
    }
}

impl Database {
    /// Whether [`Self::install`] was ever here.
    pub(crate) async fn installed(&self) -> Result<bool, Error> {
        let mut tx = self.read().await?;
        let found: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_master WHERE name = ?")
            .bind(self.own_bare("control"))
            .fetch_one(&mut *tx)
            .await
            .on(self.side)?;
        Ok(found > 0)
    }

    pub(crate) async fn control(&self, tx: &mut SqliteConnection) -> Result<Control, Error> {
        let text = format!(
            "SELECT fenced, refused, refused_at, refused_table, source, turn, birth FROM {}",
            self.own("control")
        );
        let read = async {
            let row = sql(text).fetch_one(tx).await?;
            Ok::<_, sqlx::Error>(Control {
                fenced: row.try_get::<i64, _>(0)? != 0,
                refused: whole(row.try_get(1)?),
                refused_at: row.try_get(2)?,
                refused_table: row.try_get(3)?,
                source: side_of(row.try_get::<String, _>(4)?.as_str()),
                turn: row.try_get(5)?,
                birth: row.try_get(6)?,
            })
        };
        read.await.on(self.side)
    }

    /// Lets this transaction's own writes pass the fence, unnoted. Must be taken back before the
    /// commit; nobody else ever sees it, and a crash undoes it.
    pub(crate) async fn applying(&self, tx: &mut SqliteConnection, on: bool) -> Result<(), Error> {
        let text = format!("UPDATE {} SET applying = ?", self.own("control"));
        sql(text)
            .bind(i64::from(on))
            .execute(tx)
            .await
            .on(self.side)?;
        Ok(())
    }

    pub(crate) async fn set_fence(&self, tx: &mut SqliteConnection, on: bool) -> Result<(), Error> {
        let text = format!(
            "UPDATE {} SET fenced = ?1 WHERE fenced <> ?1",
            self.own("control")
        );
        sql(text)
            .bind(i64::from(on))
            .execute(tx)
            .await
            .on(self.side)?;
        Ok(())
    }

    pub(crate) async fn set_source(
        &self,
        tx: &mut SqliteConnection,
        source: Side,
        turn: i64,
    ) -> Result<(), Error> {
        let text = format!("UPDATE {} SET source = ?, turn = ?", self.own("control"));
        sql(text)
            .bind(source.as_str())
            .bind(turn)
            .execute(tx)
            .await
            .on(self.side)?;
        Ok(())
    }

    /// How far this database has applied the stream of `stream`.
    pub(crate) async fn position(
        &self,
        tx: &mut SqliteConnection,
        stream: Side,
    ) -> Result<Option<Position>, Error> {
        let text = format!(
            "SELECT epoch, seq, birth, beat FROM {} WHERE stream = ?",
            self.own("position")
        );
        let row = sql(text)
            .bind(stream.as_str())
            .fetch_optional(tx)
            .await
            .on(self.side)?;
        let Some(row) = row else { return Ok(None) };
        let read = || {
            Ok::<_, sqlx::Error>(Position {
                epoch: row.try_get(0)?,
                seq: row.try_get(1)?,
                birth: row.try_get(2)?,
                beat: row.try_get(3)?,
            })
        };
        read().on(self.side).map(Some)
    }

    /// Sets a position by force: at the start and at a turn.
    pub(crate) async fn set_position(
        &self,
        tx: &mut SqliteConnection,
        stream: Side,
        to: &Position,
    ) -> Result<(), Error> {
        let text = format!(
            "INSERT INTO {} (stream, epoch, seq, birth, beat) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT (stream) DO UPDATE SET epoch = ?2, seq = ?3, birth = ?4, beat = ?5",
            self.own("position")
        );
        sql(text)
            .bind(stream.as_str())
            .bind(to.epoch)
            .bind(to.seq)
            .bind(to.birth.clone())
            .bind(to.beat)
            .execute(tx)
            .await
            .on(self.side)?;
        Ok(())
    }

    /// Moves a position on, as part of the transaction that applies what it stands for. A worker
    /// whose epoch has passed changes nothing and is told so.
    pub(crate) async fn advance(
        &self,
        tx: &mut SqliteConnection,
        stream: Side,
        epoch: i64,
        seq: i64,
        beat: Option<i64>,
    ) -> Result<(), Error> {
        let text = format!(
            "UPDATE {} SET seq = ?, beat = coalesce(?, beat) WHERE stream = ? AND epoch = ?",
            self.own("position")
        );
        let done = sql(text)
            .bind(seq)
            .bind(beat)
            .bind(stream.as_str())
            .bind(epoch)
            .execute(tx)
            .await
            .on(self.side)?;
        if done.rows_affected() == 1 {
            Ok(())
        } else {
            Err(Error::Superseded(self.slice.clone()))
        }
    }

    /// Advances the next value of AUTOINCREMENT keys to at least these.
    pub(crate) async fn raise_sequences(
        &self,
        tx: &mut SqliteConnection,
        values: &[(String, i64)],
    ) -> Result<(), Error> {
        for (table, value) in values {
            let raised = sqlx::query("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?")
                .bind(value)
                .bind(table)
                .execute(&mut *tx)
                .await
                .on(self.side)?;
            if raised.rows_affected() == 0 {
                sqlx::query("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)")
                    .bind(table)
                    .bind(value)
                    .execute(&mut *tx)
                    .await
                    .on(self.side)?;
            }
        }
        Ok(())
    }

    pub(crate) async fn sequence(
        &self,
        tx: &mut SqliteConnection,
        table: &str,
    ) -> Result<i64, Error> {
        let found: Option<i64> =
            sqlx::query_scalar("SELECT seq FROM sqlite_sequence WHERE name = ?")
                .bind(table)
                .fetch_optional(tx)
                .await
                .on(self.side)?;
        Ok(found.unwrap_or(0))
    }

    pub(crate) async fn copies(&self, tx: &mut SqliteConnection) -> Result<Vec<Copy>, Error> {
        let text = format!(
            "SELECT tbl, state, copied, total, {KEYS} FROM {}",
            self.own("copy")
        );
        let rows = sql(text).fetch_all(tx).await.on(self.side)?;
        let one = |row: &sqlx::sqlite::SqliteRow| {
            let cursor: Key = (4..10)
                .map(|at| cell(row, at))
                .take_while(|c| !matches!(c, Ok(c) if c.is_null()))
                .collect::<Result<_, _>>()?;
            Ok(Copy {
                table: row.try_get(0)?,
                done: row.try_get::<String, _>(1)? == "done",
                copied: whole(row.try_get(2)?),
                total: whole(row.try_get(3)?),
                cursor: (!cursor.is_empty()).then_some(cursor),
            })
        };
        rows.iter()
            .map(one)
            .collect::<Result<_, sqlx::Error>>()
            .on(self.side)
    }

    pub(crate) async fn save_copy(
        &self,
        tx: &mut SqliteConnection,
        copy: &Copy,
    ) -> Result<(), Error> {
        let text = format!(
            "INSERT OR REPLACE INTO {} (tbl, state, copied, total, {KEYS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            self.own("copy")
        );
        let mut query = sql(text)
            .bind(copy.table.clone())
            .bind(if copy.done { "done" } else { "copying" })
            .bind(i64::try_from(copy.copied).unwrap_or(i64::MAX))
            .bind(i64::try_from(copy.total).unwrap_or(i64::MAX));
        for at in 0..crate::plan::KEY_COLUMNS {
            let value = copy.cursor.as_ref().and_then(|key| key.get(at));
            query = bind(query, value.unwrap_or(&crate::value::Cell::Null));
        }
        query.execute(tx).await.on(self.side)?;
        Ok(())
    }

    pub(crate) async fn park(
        &self,
        tx: &mut SqliteConnection,
        table: &str,
        key: &Key,
        reason: &str,
        content: String,
    ) -> Result<(), Error> {
        let text = format!(
            "INSERT INTO {} (tbl, k, reason, content, at, {KEYS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) \
             ON CONFLICT (tbl, k) DO UPDATE SET reason = ?3, content = ?4",
            self.own("parked")
        );
        let mut query = sql(text)
            .bind(table.to_owned())
            .bind(key_text(key))
            .bind(reason.to_owned())
            .bind(content)
            .bind(now_ms());
        for at in 0..crate::plan::KEY_COLUMNS {
            query = bind(query, key.get(at).unwrap_or(&crate::value::Cell::Null));
        }
        query.execute(tx).await.on(self.side)?;
        Ok(())
    }

    pub(crate) async fn unpark(
        &self,
        tx: &mut SqliteConnection,
        table: &str,
        key: &Key,
    ) -> Result<(), Error> {
        let text = format!("DELETE FROM {} WHERE tbl = ? AND k = ?", self.own("parked"));
        sql(text)
            .bind(table.to_owned())
            .bind(key_text(key))
            .execute(tx)
            .await
            .on(self.side)?;
        Ok(())
    }

    /// Parked rows, oldest first, with their whole key row; the caller cuts it to the key's width.
    pub(crate) async fn parked(
        &self,
        tx: &mut SqliteConnection,
        limit: u32,
    ) -> Result<Vec<Parked>, Error> {
        let text = format!(
            "SELECT tbl, k, reason, content, at, {KEYS} FROM {} ORDER BY at, k LIMIT ?",
            self.own("parked")
        );
        let rows = sql(text)
            .bind(i64::from(limit))
            .fetch_all(tx)
            .await
            .on(self.side)?;
        let one = |row: &sqlx::sqlite::SqliteRow| {
            Ok(Parked {
                table: row.try_get(0)?,
                key: row.try_get(1)?,
                reason: row.try_get(2)?,
                content: row.try_get(3)?,
                at_ms: row.try_get(4)?,
                cells: (5..11).map(|at| cell(row, at)).collect::<Result<_, _>>()?,
            })
        };
        rows.iter()
            .map(one)
            .collect::<Result<_, sqlx::Error>>()
            .on(self.side)
    }

    pub(crate) async fn parked_count(&self, tx: &mut SqliteConnection) -> Result<u64, Error> {
        let text = format!("SELECT count(*) FROM {}", self.own("parked"));
        let found: i64 = sql(text)
            .fetch_one(tx)
            .await
            .and_then(|row| row.try_get(0))
            .on(self.side)?;
        Ok(whole(found))
    }

    pub(crate) async fn note_foreign(
        &self,
        tx: &mut SqliteConnection,
        found: &Foreign,
    ) -> Result<(), Error> {
        let foreign = self.own("foreign");
        let text = format!(
            "INSERT INTO {foreign} (side, tbl, k, op, at, passive, authority) VALUES (?, ?, ?, ?, ?, ?, ?)"
        );
        let done = sql(text)
            .bind(found.side.clone())
            .bind(found.table.clone())
            .bind(found.key.clone())
            .bind(found.op.clone())
            .bind(found.at_ms)
            .bind(found.passive.clone())
            .bind(found.authority.clone())
            .execute(&mut *tx)
            .await
            .on(self.side)?;
        sql(format!("DELETE FROM {foreign} WHERE id <= ?"))
            .bind(done.last_insert_rowid().saturating_sub(FOREIGN_KEPT))
            .execute(tx)
            .await
            .on(self.side)?;
        Ok(())
    }

    pub(crate) async fn foreign(
        &self,
        tx: &mut SqliteConnection,
        limit: u32,
    ) -> Result<Vec<Foreign>, Error> {
        let text = format!(
            "SELECT side, tbl, k, op, at, passive, authority FROM {} ORDER BY id DESC LIMIT ?",
            self.own("foreign")
        );
        let rows = sql(text)
            .bind(i64::from(limit))
            .fetch_all(tx)
            .await
            .on(self.side)?;
        let one = |row: &sqlx::sqlite::SqliteRow| {
            Ok(Foreign {
                side: row.try_get(0)?,
                table: row.try_get(1)?,
                key: row.try_get(2)?,
                op: row.try_get(3)?,
                at_ms: row.try_get(4)?,
                passive: row.try_get(5)?,
                authority: row.try_get(6)?,
            })
        };
        rows.iter()
            .map(one)
            .collect::<Result<_, sqlx::Error>>()
            .on(self.side)
    }

    /// How many foreign writes were noted here ever.
    pub(crate) async fn foreign_count(&self, tx: &mut SqliteConnection) -> Result<u64, Error> {
        self.sequence(tx, &self.own_bare("foreign"))
            .await
            .map(whole)
    }
}
