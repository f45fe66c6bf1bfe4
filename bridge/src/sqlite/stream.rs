//! A side's change stream: what its triggers noted, in commit order, and the heartbeats among it.

use sqlx::{Row as _, SqliteConnection};

use super::{Database, bind, cell, now_ms, sql};
use crate::error::{Error, OnSide};
use crate::plan::Table;
use crate::value::{Cell, Key};

/// One noted change. A heartbeat has no table.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) seq: i64,
    pub(crate) table: String,
    pub(crate) op: String,
    pub(crate) at: i64,
    columns: Vec<Cell>,
}

impl Change {
    pub(crate) fn is_beat(&self) -> bool {
        self.table.is_empty()
    }

    pub(crate) fn key(&self, width: usize) -> Key {
        self.columns.iter().take(width).cloned().collect()
    }
}

pub(crate) const KEYS: &str = "k0, k1, k2, k3, k4, k5";

impl Database {
    /// Puts a heartbeat into the stream. Its time is read once this transaction is the one
    /// writer, so everything that was committed before that time has a lower number.
    pub(crate) async fn beat(&self) -> Result<(), Error> {
        let mut tx = self.write().await?;
        let text = format!(
            "INSERT INTO {} (tbl, op, at) VALUES ('', 'h', ?)",
            self.own("changes")
        );
        sql(text)
            .bind(now_ms())
            .execute(&mut *tx)
            .await
            .on(self.side)?;
        tx.commit().await.on(self.side)
    }

    /// The number of the newest change, also when it was trimmed already.
    pub(crate) async fn head(&self, connection: &mut SqliteConnection) -> Result<i64, Error> {
        let found: Option<i64> =
            sqlx::query_scalar("SELECT seq FROM sqlite_sequence WHERE name = ?")
                .bind(self.own_bare("changes"))
                .fetch_optional(connection)
                .await
                .on(self.side)?;
        Ok(found.unwrap_or(0))
    }

    pub(crate) async fn changes(
        &self,
        connection: &mut SqliteConnection,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Change>, Error> {
        let text = format!(
            "SELECT seq, tbl, op, at, {KEYS} FROM {} WHERE seq > ? ORDER BY seq LIMIT ?",
            self.own("changes")
        );
        let rows = sql(text)
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(connection)
            .await
            .on(self.side)?;
        let change = |row: &sqlx::sqlite::SqliteRow| {
            Ok(Change {
                seq: row.try_get(0)?,
                table: row.try_get(1)?,
                op: row.try_get(2)?,
                at: row.try_get(3)?,
                columns: (4..10).map(|at| cell(row, at)).collect::<Result<_, _>>()?,
            })
        };
        rows.iter()
            .map(change)
            .collect::<Result<_, sqlx::Error>>()
            .on(self.side)
    }

    /// Changes of rows, not heartbeats, after a place.
    pub(crate) async fn waiting(
        &self,
        connection: &mut SqliteConnection,
        after: i64,
    ) -> Result<i64, Error> {
        let text = format!(
            "SELECT count(*) FROM {} WHERE seq > ? AND tbl <> ''",
            self.own("changes")
        );
        sql(text)
            .bind(after)
            .fetch_one(connection)
            .await
            .and_then(|row| row.try_get(0))
            .on(self.side)
    }

    /// Whether any of these tables noted this key after a place.
    pub(crate) async fn touched(
        &self,
        connection: &mut SqliteConnection,
        tables: &[Table],
        key: &Key,
        after: i64,
    ) -> Result<bool, Error> {
        let names = vec!["?"; tables.len()].join(", ");
        let keys: Vec<String> = (0..key.len()).map(|at| format!("k{at} IS ?")).collect();
        let text = format!(
            "SELECT count(*) FROM {} WHERE seq > ? AND tbl IN ({names}) AND {}",
            self.own("changes"),
            keys.join(" AND ")
        );
        let mut query = sql(text).bind(after);
        for table in tables {
            query = query.bind(table.name.clone());
        }
        for value in key {
            query = bind(query, value);
        }
        let found: i64 = query
            .fetch_one(connection)
            .await
            .and_then(|row| row.try_get(0))
            .on(self.side)?;
        Ok(found > 0)
    }

    /// Removes at most `limit` changes up to a place that both sides are past. Returns how many.
    pub(crate) async fn trim(&self, upto: i64, limit: u32) -> Result<u64, Error> {
        let changes = self.own("changes");
        let text = format!(
            "DELETE FROM {changes} WHERE seq IN (SELECT seq FROM {changes} WHERE seq <= ? ORDER BY seq LIMIT ?)"
        );
        let mut tx = self.write().await?;
        let done = sql(text)
            .bind(upto)
            .bind(i64::from(limit))
            .execute(&mut *tx)
            .await
            .on(self.side)?;
        tx.commit().await.on(self.side)?;
        Ok(done.rows_affected())
    }
}
