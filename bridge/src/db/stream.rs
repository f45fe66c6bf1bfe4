//! A side's change stream: the keys that its triggers noted, in commit order, and the heartbeats
//! among them.

use outgrow_rollout::Side;

use super::images::{COLUMNS, Images};
use super::tx::Fetched;
use super::{Arg, Database, Dialect, Tx};
use crate::error::{Error, OnSide};
use crate::plan::{KEY_COLUMNS, Plan, Table};
use crate::value::{Cell, Key};

/// One noted change. A heartbeat has no table.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) seq: i64,
    pub(crate) table: String,
    pub(crate) op: String,
    pub(crate) at: i64,
    pub(super) columns: Vec<Cell>,
    /// Its rows, where they were noted and are asked for.
    pub(crate) images: Option<Images>,
}

impl Change {
    pub(crate) fn is_beat(&self) -> bool {
        self.table.is_empty()
    }

    /// A change of every row of its table, which has no key.
    pub(crate) fn is_of_all(&self) -> bool {
        self.op == super::mysql::binlog::EVERY_ROW
    }

    /// The row that it is of: its group, and its key. `None` for heartbeats and tables that are not
    /// mapped any more.
    pub(crate) fn row(&self, plan: &Plan, side: Side) -> Option<(usize, Key)> {
        match self.is_beat() {
            true => None,
            false => plan.known(side, &self.table, &self.columns),
        }
    }

    pub(crate) fn read(tx: &Tx, row: &Fetched) -> Result<Self, sqlx::Error> {
        Ok(Self {
            seq: row.int(0)?,
            table: row.text(1)?,
            op: row.text(2)?,
            at: row.int(3)?,
            columns: (row.0.iter().skip(4).take(KEY_COLUMNS))
                .map(|cell| tx.key_cell(cell))
                .collect(),
            images: Images::read(row.0.get(4 + KEY_COLUMNS), row.0.get(5 + KEY_COLUMNS)),
        })
    }
}

/// Changes that wait are counted up to so many, which takes milliseconds.
const COUNTED: i64 = 20_000;

pub(crate) const KEYS: &str = "k0, k1, k2, k3, k4, k5";

impl Database {
    /// Where new changes are noted first: with one writer at a time that is the stream itself.
    pub(super) fn noted(&self) -> String {
        match self.dialect() {
            Dialect::Sqlite => self.own("changes"),
            Dialect::Postgres | Dialect::Mysql => self.own("noted"),
        }
    }

    /// The number of the newest change, also when it was trimmed already.
    pub(crate) async fn head(&self, tx: &mut Tx) -> Result<i64, Error> {
        let found = match self.dialect() {
            Dialect::Sqlite => {
                let text = "SELECT seq FROM sqlite_sequence WHERE name = ?";
                tx.number(text, &[Arg::from(&self.own_bare("changes"))])
                    .await
            }
            Dialect::Postgres | Dialect::Mysql => {
                let text = format!("SELECT head FROM {}", self.own("control"));
                tx.number(&text, &[]).await
            }
        };
        Ok(found.on(self.side)?.unwrap_or(0))
    }

    /// As [`Self::head`], of a stream that was applied up to here.
    pub(crate) async fn head_behind(&self, tx: &mut Tx, applied: i64) -> Result<i64, Error> {
        let head = self.head(tx).await?;
        match head < applied {
            true => Err(self.is_short(head, applied)),
            false => Ok(head),
        }
    }

    /// What a stream is that ends before what was applied of it.
    pub(crate) fn is_short(&self, head: i64, applied: i64) -> Error {
        Error::Discontinued {
            side: self.side,
            what: format!("its last change is {head}, {applied} was applied"),
        }
    }

    pub(crate) async fn changes(
        &self,
        tx: &mut Tx,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Change>, Error> {
        self.changes_as(tx, after, limit, KEYS).await
    }

    /// As [`Self::changes`], with their rows.
    pub(crate) async fn changes_with_rows(
        &self,
        tx: &mut Tx,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Change>, Error> {
        let columns = format!("{KEYS}, {}", COLUMNS.join(", "));
        self.changes_as(tx, after, limit, &columns).await
    }

    async fn changes_as(
        &self,
        tx: &mut Tx,
        after: i64,
        limit: u32,
        columns: &str,
    ) -> Result<Vec<Change>, Error> {
        let text = format!(
            "SELECT seq, tbl, op, at, {columns} FROM {} WHERE seq > ? ORDER BY seq LIMIT ?",
            self.own("changes")
        );
        let args = [Arg::from(after), Arg::from(limit)];
        let rows = tx.fetch(&text, &args).await.on(self.side)?;
        rows.iter()
            .map(|row| Change::read(tx, row))
            .collect::<Result<_, sqlx::Error>>()
            .on(self.side)
    }

    /// Changes that were committed since places were given last. Their `seq` is a number of
    /// another kind. Always none where there is one writer at a time.
    pub(crate) async fn unplaced(&self, tx: &mut Tx, limit: u32) -> Result<Vec<Change>, Error> {
        if self.dialect() == Dialect::Sqlite || self.feed.is_some() {
            return Ok(Vec::new());
        }
        let text = format!(
            "SELECT id, tbl, op, at, {KEYS} FROM {} WHERE tbl <> '' ORDER BY id DESC LIMIT ?",
            self.noted()
        );
        let rows = tx.fetch(&text, &[Arg::from(limit)]).await.on(self.side)?;
        rows.iter()
            .map(|row| Change::read(tx, row))
            .collect::<Result<_, sqlx::Error>>()
            .on(self.side)
    }

    /// Changes with places that this snapshot does not show but may show the rows of. None where
    /// a stream shows all that its snapshot does.
    pub(crate) async fn beyond(&self, head: i64, limit: u32) -> Result<Vec<Change>, Error> {
        if self.feed.is_none() {
            return Ok(Vec::new());
        }
        self.settle_stream().await?;
        let mut tx = self.read().await?;
        self.changes(&mut tx, head, limit).await
    }

    /// The stream with what has no place in it yet.
    fn all(&self) -> String {
        match self.dialect() {
            Dialect::Sqlite => self.own("changes"),
            Dialect::Postgres | Dialect::Mysql => format!(
                "(SELECT seq, tbl, op, {KEYS} FROM {} UNION ALL SELECT {}, tbl, op, {KEYS} FROM {}) AS every",
                self.own("changes"),
                i64::MAX,
                self.noted()
            ),
        }
    }

    /// Changes of rows, not heartbeats, after a place. Of very many, about how many: to count them
    /// all again and again would take longer than to apply them.
    pub(crate) async fn waiting(&self, tx: &mut Tx, after: i64) -> Result<i64, Error> {
        let some = |from: &str, of: &str, order: &str| {
            format!(
                "SELECT count(*) FROM (SELECT {order} FROM {from} WHERE {of}tbl <> '' \
                 ORDER BY {order} LIMIT {COUNTED}) AS counted"
            )
        };
        let side = self.side;
        let placed = some(&self.own("changes"), "seq > ? AND ", "seq");
        let placed = tx.number(&placed, &[Arg::from(after)]).await.on(side)?;
        let mut waiting = placed.unwrap_or(0);
        if waiting >= COUNTED {
            // Places have no gaps; heartbeats, some a second, have places, too.
            waiting = self.head(tx).await?.saturating_sub(after).max(waiting);
        }
        if self.dialect() != Dialect::Sqlite {
            let noted = tx.number(&some(&self.noted(), "", "id"), &[]).await;
            let mut noted = noted.on(side)?.unwrap_or(0);
            if noted >= COUNTED {
                let all = format!("SELECT max(id) - min(id) + 1 FROM {}", self.noted());
                noted = tx.number(&all, &[]).await.on(side)?.unwrap_or(noted);
            }
            waiting = waiting.saturating_add(noted);
        }
        Ok(waiting)
    }

    /// Whether any of these tables noted this key after a place.
    pub(crate) async fn touched(
        &self,
        tx: &mut Tx,
        tables: &[Table],
        key: &Key,
        after: i64,
    ) -> Result<bool, Error> {
        let keys: Vec<String> = (0..key.len())
            .map(|at| match self.dialect() {
                Dialect::Sqlite => format!("k{at} IS ?"),
                Dialect::Postgres | Dialect::Mysql => format!("k{at} = ?"),
            })
            .collect();
        let keys = keys.join(" AND ");
        let every = format!("op = '{}'", super::mysql::binlog::EVERY_ROW);
        let mut args = vec![Arg::from(after)];
        let mut noted = Vec::with_capacity(tables.len());
        for table in tables {
            args.push(Arg::from(&table.name));
            let Some(own) = table.own(key) else {
                noted.push(format!("tbl = ? AND {every}"));
                continue;
            };
            args.extend(own.iter().map(|value| tx.key_arg(Some(value))));
            noted.push(format!("tbl = ? AND ({every} OR {keys})"));
        }
        let text = format!(
            "SELECT count(*) FROM {} WHERE seq > ? AND ({})",
            self.all(),
            noted.join(" OR ")
        );
        let found = tx.number(&text, &args).await.on(self.side)?;
        Ok(found.unwrap_or(0) > 0)
    }

    /// Removes at most `limit` changes up to a place that both sides are past. Returns how many.
    pub(crate) async fn trim(&self, upto: i64, limit: u32) -> Result<u64, Error> {
        let changes = self.own("changes");
        let text = format!(
            "DELETE FROM {changes} WHERE seq IN \
             (SELECT seq FROM (SELECT seq FROM {changes} WHERE seq <= ? ORDER BY seq LIMIT ?) AS old)"
        );
        let mut tx = self.write().await?;
        let args = [Arg::from(upto), Arg::from(limit)];
        let done = tx.execute(&text, &args).await.on(self.side)?;
        tx.commit().await.on(self.side)?;
        Ok(done)
    }
}
