//! The bridge's own rows in a database: control, positions, copy cursors, parked rows, foreign
//! writes. Whatever must be true together is written in one transaction by the caller.

use outgrow_rollout::Side;

use super::mark::Mark;
use super::stream::KEYS;
use super::tx::Fetched;
use super::{Arg, Database, Dialect, Place, Tx, mysql, now_ms, postgres};
use crate::error::{Error, OnSide};
use crate::plan::Plan;
use crate::value::Key;

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
    /// Which change that is, if it is known.
    pub(crate) mark: Option<Mark>,
}

/// The backfill of one group.
#[derive(Debug, Clone)]
pub(crate) struct Copy {
    pub(crate) table: String,
    pub(crate) done: bool,
    pub(crate) copied: u64,
    /// About so many in all; once it is done, those that were copied.
    pub(crate) total: u64,
    pub(crate) cursor: Option<Key>,
}

impl Copy {
    /// As it is once all rows are copied, if they are.
    pub(crate) fn ended(mut self, done: bool) -> Self {
        self.done = done;
        if done {
            self.total = self.copied;
        }
        self
    }
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

/// A parked row's place among all, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParkedAt {
    pub(crate) at_ms: i64,
    pub(crate) table: String,
    pub(crate) key: String,
}

impl Parked {
    pub(crate) fn at(&self) -> ParkedAt {
        ParkedAt {
            at_ms: self.at_ms,
            table: self.table.clone(),
            key: self.key.clone(),
        }
    }
}

#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Foreign {
    pub(crate) id: i64,
    pub(crate) side: String,
    pub(crate) table: String,
    pub(crate) key: String,
    pub(crate) op: String,
    pub(crate) at_ms: i64,
    pub(crate) passive: String,
    pub(crate) authority: String,
    /// Whose version was taken, once a person has settled it.
    pub(crate) took: Option<Side>,
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

/// `, ?` for each key column.
const KEY_MARKS: &str = "?, ?, ?, ?, ?, ?";

fn key_args(tx: &Tx, key: Option<&Key>) -> Vec<Arg> {
    (0..crate::plan::KEY_COLUMNS)
        .map(|at| tx.key_arg(key.and_then(|key| key.get(at))))
        .collect()
}

fn counted(n: u64) -> Arg {
    Arg::Int(Some(i64::try_from(n).unwrap_or(i64::MAX)))
}

impl Database {
    /// Whether [`Self::install`] was ever here.
    pub(crate) async fn installed(&self) -> Result<bool, Error> {
        self.has_own("control").await
    }

    /// Whether there is a table of ours of this name.
    pub(super) async fn has_own(&self, what: &str) -> Result<bool, Error> {
        let text = match self.dialect() {
            Dialect::Sqlite => "SELECT count(*) FROM sqlite_master WHERE name = ?".to_owned(),
            Dialect::Postgres => postgres::count_own(),
            Dialect::Mysql => mysql::COUNT_OWN.to_owned(),
        };
        let mut tx = self.read().await?;
        let name = self.own_bare(what);
        let found = tx.number(&text, &[Arg::from(&name)]).await.on(self.side)?;
        Ok(found.unwrap_or(0) > 0)
    }

    pub(crate) async fn control(&self, tx: &mut Tx) -> Result<Control, Error> {
        let refused = match self.dialect() {
            Dialect::Sqlite => "refused, refused_at, refused_table".to_owned(),
            // Kept where an undone statement does not undo it.
            Dialect::Postgres => self.refused_postgres(),
            Dialect::Mysql => self.refused_mysql(),
        };
        let text = format!(
            "SELECT fenced, source, turn, birth, {refused} FROM {}",
            self.own("control")
        );
        let rows = tx.fetch(&text, &[]).await.on(self.side)?;
        let read = |row: &Fetched| {
            Ok::<_, sqlx::Error>(Control {
                fenced: row.int(0)? != 0,
                source: side_of(&row.text(1)?),
                turn: row.int(2)?,
                birth: row.text(3)?,
                refused: whole(row.int(4)?),
                refused_at: row.maybe(5),
                refused_table: row.maybe_text(6),
            })
        };
        let row = rows.first().ok_or(sqlx::Error::RowNotFound);
        row.and_then(read).on(self.side)
    }

    /// Lets this transaction's own writes pass the fence, unnoted. Must be taken back before the
    /// commit; nobody else ever sees it, and a crash undoes it.
    pub(crate) async fn applying(&self, tx: &mut Tx, on: bool) -> Result<(), Error> {
        match self.dialect() {
            Dialect::Sqlite => {
                let text = format!("UPDATE {} SET applying = ?", self.own("control"));
                tx.execute(&text, &[Arg::from(i64::from(on))]).await
            }
            Dialect::Postgres => {
                let value = if on { self.slice.as_str() } else { "" };
                if on {
                    self.tell(tx, "own").await?;
                }
                tx.execute(postgres::APPLYING, &[Arg::from(value)]).await
            }
            Dialect::Mysql => {
                let value = if on { self.slice.as_str() } else { "" };
                if on {
                    self.tell(tx, "own").await?;
                }
                tx.execute(mysql::APPLYING, &[Arg::from(value)]).await
            }
        }
        .map(drop)
        .on(self.side)
    }

    /// Puts the fence up or takes it down. In this same transaction nothing of others can come
    /// after what [`Self::head`] says then.
    pub(crate) async fn set_fence(&self, tx: &mut Tx, on: bool) -> Result<(), Error> {
        match self.dialect() {
            Dialect::Sqlite => {}
            Dialect::Postgres => self.fence_postgres(tx, on).await?,
            Dialect::Mysql => self.fence_mysql(tx, on).await?,
        }
        let text = format!(
            "UPDATE {} SET fenced = ? WHERE fenced <> ?",
            self.own("control")
        );
        let on = Arg::from(i64::from(on));
        tx.execute(&text, &[on.clone(), on]).await.on(self.side)?;
        Ok(())
    }

    pub(crate) async fn set_source(
        &self,
        tx: &mut Tx,
        source: Side,
        turn: i64,
    ) -> Result<(), Error> {
        let text = format!("UPDATE {} SET source = ?, turn = ?", self.own("control"));
        tx.execute(&text, &[Arg::from(source.as_str()), Arg::from(turn)])
            .await
            .on(self.side)?;
        Ok(())
    }

    /// How far this database has applied the stream of `stream`.
    pub(crate) async fn position(
        &self,
        tx: &mut Tx,
        stream: Side,
    ) -> Result<Option<Position>, Error> {
        let text = format!(
            "SELECT epoch, seq, birth, beat, mark FROM {} WHERE stream = ?",
            self.own("position")
        );
        let rows = tx
            .fetch(&text, &[Arg::from(stream.as_str())])
            .await
            .on(self.side)?;
        let read = |row: &Fetched| {
            Ok::<_, sqlx::Error>(Position {
                epoch: row.int(0)?,
                seq: row.int(1)?,
                birth: row.text(2)?,
                beat: row.maybe(3),
                // A version before moves a position on and leaves the mark behind.
                mark: (row.maybe_text(4).and_then(|text| text.parse().ok()))
                    .filter(|mark: &Mark| row.int(1).is_ok_and(|seq| seq == mark.seq)),
            })
        };
        rows.first().map(read).transpose().on(self.side)
    }

    /// Keeps others from moving it until the end of the transaction. The first statement of one, so
    /// that it shows what is in force then.
    pub(crate) async fn hold_position(&self, tx: &mut Tx, stream: Side) -> Result<(), Error> {
        let text = format!(
            "UPDATE {} SET epoch = epoch WHERE stream = ?",
            self.own("position")
        );
        let args = [Arg::from(stream.as_str())];
        tx.execute(&text, &args).await.on(self.side)?;
        Ok(())
    }

    /// Sets a position by force: at the start and at a turn.
    pub(crate) async fn set_position(
        &self,
        tx: &mut Tx,
        stream: Side,
        to: &Position,
    ) -> Result<(), Error> {
        let text = format!(
            "INSERT INTO {} (stream, epoch, seq, birth, beat, mark) VALUES (?, ?, ?, ?, ?, ?) {}",
            self.own("position"),
            self.dialect()
                .or_update("stream", &["epoch", "seq", "birth", "beat", "mark"])
        );
        let args = [
            Arg::from(stream.as_str()),
            Arg::from(to.epoch),
            Arg::from(to.seq),
            Arg::from(&to.birth),
            Arg::from(to.beat),
            Arg::Text(to.mark.as_ref().map(Mark::to_string)),
        ];
        tx.execute(&text, &args).await.on(self.side)?;
        Ok(())
    }

    /// What is not the bridge's own is noted again, and meets the fence, where a statement can say
    /// so on its way.
    fn and_no_more(&self) -> &'static str {
        match self.dialect() {
            Dialect::Postgres => " RETURNING set_config('outgrow.applying', '', true)",
            Dialect::Sqlite | Dialect::Mysql => "",
        }
    }

    /// Moves a position on, as part of the transaction that applies what it stands for, and at its
    /// end. A worker whose epoch has passed changes nothing and is told so.
    pub(crate) async fn advance(
        &self,
        tx: &mut Tx,
        (stream, epoch): (Side, i64),
        (seq, mark): (i64, Option<&Mark>),
        beat: Option<i64>,
    ) -> Result<(), Error> {
        let text = format!(
            "UPDATE {} SET seq = ?, beat = coalesce(?, beat), mark = coalesce(?, mark) \
             WHERE stream = ? AND epoch = ?{}",
            self.own("position"),
            self.and_no_more()
        );
        let args = [
            Arg::from(seq),
            Arg::from(beat),
            Arg::Text(mark.map(Mark::to_string)),
            Arg::from(stream.as_str()),
            Arg::from(epoch),
        ];
        let done = tx.execute(&text, &args).await.on(self.side)?;
        if done == 1 {
            Ok(())
        } else {
            Err(Error::Superseded(self.slice.clone()))
        }
    }

    /// As [`Self::advance`], from exactly this number on, with the place in the other side's log.
    pub(crate) async fn advance_to(
        &self,
        tx: &mut Tx,
        (stream, epoch): (Side, i64),
        from: i64,
        place: Place,
        beat: Option<i64>,
    ) -> Result<(), Error> {
        let text = format!(
            "UPDATE {} SET seq = ?, beat = coalesce(?, beat), place = ? \
             WHERE stream = ? AND epoch = ? AND seq = ?{}",
            self.own("position"),
            self.and_no_more()
        );
        let args = [
            Arg::from(place.seq),
            Arg::from(beat),
            Arg::from(&place.to_string()),
            Arg::from(stream.as_str()),
            Arg::from(epoch),
            Arg::from(from),
        ];
        let done = tx.execute(&text, &args).await.on(self.side)?;
        if done == 1 {
            Ok(())
        } else {
            Err(self.not_moved(tx, (stream, epoch), from).await?)
        }
    }

    /// Keeps a position's epoch as it is until this transaction ends; `false` if it has passed.
    pub(crate) async fn hold(&self, tx: &mut Tx, stream: Side, epoch: i64) -> Result<bool, Error> {
        let text = format!(
            "SELECT seq FROM {} WHERE stream = ? AND epoch = ? FOR SHARE",
            self.own("position")
        );
        let args = [Arg::from(stream.as_str()), Arg::from(epoch)];
        Ok(tx.number(&text, &args).await.on(self.side)?.is_some())
    }

    /// Why a position is not where it was moved to.
    pub(super) async fn not_moved(
        &self,
        tx: &mut Tx,
        (stream, epoch): (Side, i64),
        applied: i64,
    ) -> Result<Error, Error> {
        let side = self.side;
        Ok(match self.position(tx, stream).await? {
            Some(Position { epoch: of, seq, .. }) if of == epoch && seq < applied => {
                Error::SetBack {
                    side,
                    at: seq,
                    applied,
                }
            }
            _ => Error::Superseded(self.slice.clone()),
        })
    }

    /// Advances the next value of generated keys to at least these, and of other columns beyond
    /// what rows have.
    pub(crate) async fn raise_sequences(
        &self,
        tx: &mut Tx,
        plan: &Plan,
        values: &[(String, i64)],
    ) -> Result<(), Error> {
        for (table, value) in values {
            let raised = match self.dialect() {
                Dialect::Sqlite => super::sqlite::raise_sequence(tx, table, *value).await,
                Dialect::Postgres => postgres::raise_sequence(tx, table, *value).await,
                Dialect::Mysql => {
                    self.raise_sequence_mysql(table, *value).await;
                    Ok(())
                }
            };
            raised.on(self.side)?;
        }
        if self.dialect() == Dialect::Postgres {
            for table in plan.tables(self.side) {
                postgres::raise_columns(tx, table).await.on(self.side)?;
            }
        }
        Ok(())
    }

    /// The last value that a table's generated key has given out.
    pub(crate) async fn sequence(&self, tx: &mut Tx, table: &str) -> Result<i64, Error> {
        let found = match self.dialect() {
            Dialect::Sqlite => {
                let text = "SELECT seq FROM sqlite_sequence WHERE name = ?";
                tx.number(text, &[Arg::from(table)]).await
            }
            Dialect::Postgres => postgres::sequence(tx, table).await,
            Dialect::Mysql => super::mysql::sequence(tx, table).await,
        };
        Ok(found.on(self.side)?.unwrap_or(0))
    }

    pub(crate) async fn copies(&self, tx: &mut Tx) -> Result<Vec<Copy>, Error> {
        let text = format!(
            "SELECT tbl, state, copied, total, {KEYS} FROM {}",
            self.own("copy")
        );
        let rows = tx.fetch(&text, &[]).await.on(self.side)?;
        let one = |row: &Fetched| {
            let cursor = tx.key(row, 4);
            Ok(Copy {
                table: row.text(0)?,
                done: row.text(1)? == "done",
                copied: whole(row.int(2)?),
                total: whole(row.int(3)?),
                cursor: (!cursor.is_empty()).then_some(cursor),
            })
        };
        rows.iter()
            .map(one)
            .collect::<Result<_, sqlx::Error>>()
            .on(self.side)
    }

    pub(crate) async fn save_copy(&self, tx: &mut Tx, copy: &Copy) -> Result<(), Error> {
        let columns: Vec<&str> = ["state", "copied", "total"]
            .into_iter()
            .chain(KEYS.split(", "))
            .collect();
        let text = format!(
            "INSERT INTO {} (tbl, state, copied, total, {KEYS}) VALUES (?, ?, ?, ?, {KEY_MARKS}) {}",
            self.own("copy"),
            self.dialect().or_update("tbl", &columns)
        );
        let mut args = vec![
            Arg::from(&copy.table),
            Arg::from(if copy.done { "done" } else { "copying" }),
            counted(copy.copied),
            counted(copy.total),
        ];
        args.extend(key_args(tx, copy.cursor.as_ref()));
        tx.execute(&text, &args).await.on(self.side)?;
        Ok(())
    }

    pub(crate) async fn park(
        &self,
        tx: &mut Tx,
        table: &str,
        key: &Key,
        reason: &str,
        content: String,
    ) -> Result<(), Error> {
        let text = format!(
            "INSERT INTO {} (tbl, k, reason, content, at, {KEYS}) VALUES (?, ?, ?, ?, ?, {KEY_MARKS}) {}",
            self.own("parked"),
            self.dialect().or_update("tbl, k", &["reason", "content"])
        );
        let mut args = vec![
            Arg::from(table),
            Arg::Text(Some(self.key_name(key))),
            Arg::from(reason),
            Arg::Text(Some(content)),
            Arg::from(now_ms()),
        ];
        args.extend(key_args(tx, Some(key)));
        tx.execute(&text, &args).await.on(self.side)?;
        Ok(())
    }

    pub(crate) async fn unpark(&self, tx: &mut Tx, table: &str, key: &Key) -> Result<(), Error> {
        let text = format!("DELETE FROM {} WHERE tbl = ? AND k = ?", self.own("parked"));
        tx.execute(
            &text,
            &[Arg::from(table), Arg::Text(Some(self.key_name(key)))],
        )
        .await
        .on(self.side)?;
        Ok(())
    }

    /// Parked rows after one, oldest first, with their key up to its first NULL: so many after so
    /// many.
    pub(crate) async fn parked(
        &self,
        tx: &mut Tx,
        after: Option<&ParkedAt>,
        (limit, skip): (u32, u64),
    ) -> Result<Vec<Parked>, Error> {
        let place = after.map_or("", |_| "WHERE (at, tbl, k) > (?, ?, ?)");
        let text = format!(
            "SELECT tbl, k, reason, content, at, {KEYS} FROM {} {place} ORDER BY at, tbl, k \
             LIMIT {limit} OFFSET {skip}",
            self.own("parked")
        );
        let mut args = Vec::new();
        if let Some(after) = after {
            args.push(Arg::from(after.at_ms));
            args.push(Arg::from(&after.table));
            args.push(Arg::from(&after.key));
        }
        let rows = tx.fetch(&text, &args).await.on(self.side)?;
        let one = |row: &Fetched| {
            Ok(Parked {
                table: row.text(0)?,
                key: row.text(1)?,
                reason: row.text(2)?,
                content: row.text(3)?,
                at_ms: row.int(4)?,
                cells: tx.key(row, 5),
            })
        };
        rows.iter()
            .map(one)
            .collect::<Result<_, sqlx::Error>>()
            .on(self.side)
    }

    pub(crate) async fn parked_count(&self, tx: &mut Tx) -> Result<u64, Error> {
        let text = format!("SELECT count(*) FROM {}", self.own("parked"));
        let found = tx.number(&text, &[]).await.on(self.side)?;
        Ok(whole(found.unwrap_or(0)))
    }

    /// How many foreign writes were noted here ever, those that were forgotten too: about, for a
    /// transaction that fails takes its numbers along.
    pub(crate) async fn foreign_count(&self, tx: &mut Tx) -> Result<u64, Error> {
        let text = format!("SELECT max(id) FROM {}", self.own("foreign"));
        let found = tx.number(&text, &[]).await.on(self.side)?;
        Ok(whole(found.unwrap_or(0)))
    }
}
