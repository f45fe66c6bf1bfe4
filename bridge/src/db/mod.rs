//! One side's database, whichever engine it is. What is particular to an engine is in the folder
//! of its name: how to connect, how capture and fences are made, how values look. All else speaks
//! of tables, keys and cells, in SQL that every engine understands.

pub(crate) mod books;
pub(crate) mod postgres;
pub(crate) mod rows;
pub(crate) mod sqlite;
pub(crate) mod stream;
mod tx;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outgrow_rollout::{Side, SliceId};
use sqlx::{PgPool, SqlitePool};

use crate::error::{Error, OnSide};
use crate::plan::{Plan, Schema};
use crate::spec::DatabaseUrl;
pub(crate) use tx::{Arg, Tx};

/// Per side: the worker's two, one for calls, one to spare for reading while both wait.
const CONNECTIONS: u32 = 4;

/// One side's database, as one slice's link sees it.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pub(crate) side: Side,
    pub(crate) slice: SliceId,
    pool: Pool,
}

#[derive(Debug, Clone)]
enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// Which engine a side has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// A table's name as SQL text; `schema.table` where the engine has schemas.
    pub(crate) fn table(self, name: &str) -> String {
        match (self, name.split_once('.')) {
            (Self::Postgres, Some((schema, table))) => {
                format!("{}.{}", quote(schema), quote(table))
            }
            _ => quote(name),
        }
    }
}

/// When references between tables must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum References {
    /// While not every table is filled, and when rows swap their unique values.
    Unchecked,
    AtCommit,
    /// Row by row, so that the row that breaks one is known.
    AtOnce,
}

impl Database {
    /// Connects when first asked something, so that a preflight can report a missing database.
    pub(crate) fn new(side: Side, slice: SliceId, url: &DatabaseUrl, busy: Duration) -> Self {
        let pool = match url {
            DatabaseUrl::Sqlite(path) => Pool::Sqlite(sqlite::pool(path, busy)),
            DatabaseUrl::Postgres(url) => Pool::Postgres(postgres::pool(url, busy)),
        };
        Self { side, slice, pool }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match &self.pool {
            Pool::Sqlite(_) => Dialect::Sqlite,
            Pool::Postgres(_) => Dialect::Postgres,
        }
    }

    /// A snapshot: everything read through it is of one moment.
    pub(crate) async fn read(&self) -> Result<Tx, Error> {
        match &self.pool {
            Pool::Sqlite(pool) => pool.begin().await.map(Tx::Sqlite),
            Pool::Postgres(pool) => postgres::read(pool).await.map(Tx::Postgres),
        }
        .on(self.side)
    }

    /// A transaction that writes.
    pub(crate) async fn write(&self) -> Result<Tx, Error> {
        match &self.pool {
            Pool::Sqlite(pool) => sqlite::write(pool).await.map(Tx::Sqlite),
            Pool::Postgres(pool) => pool.begin().await.map(Tx::Postgres),
        }
        .on(self.side)
    }

    /// As [`Self::write`], with references between tables checked at the commit, or not at all
    /// where the engine lets us.
    pub(crate) async fn write_rows(&self, references: References) -> Result<Tx, Error> {
        match &self.pool {
            Pool::Sqlite(pool) => sqlite::write_rows(pool, references).await.map(Tx::Sqlite),
            Pool::Postgres(pool) => postgres::write_rows(pool, references)
                .await
                .map(Tx::Postgres),
        }
        .on(self.side)
    }

    /// Makes the bookkeeping tables and every trigger that is missing or differs.
    pub(crate) async fn install(&self, plan: &Plan) -> Result<(), Error> {
        match &self.pool {
            Pool::Sqlite(pool) => self.install_sqlite(pool, plan).await,
            Pool::Postgres(_) => self.install_postgres(plan).await,
        }
    }

    /// Removes everything that [`Self::install`] made.
    pub(crate) async fn uninstall(&self) -> Result<(), Error> {
        match self.dialect() {
            Dialect::Sqlite => self.uninstall_sqlite().await,
            Dialect::Postgres => self.uninstall_postgres().await,
        }
    }

    /// The first table of these groups whose triggers are not there any more.
    pub(crate) async fn lost_capture(
        &self,
        plan: &Plan,
        known: &[String],
    ) -> Result<Option<String>, Error> {
        let mut tx = self.read().await?;
        let groups = plan.groups.iter();
        let followed = groups.filter(|g| known.iter().any(|name| name == g.name()));
        for table in followed.flat_map(|g| g.tables(self.side)) {
            let there = match self.dialect() {
                Dialect::Sqlite => self.captured_sqlite(&mut tx, table).await,
                Dialect::Postgres => self.captured_postgres(&mut tx, table).await,
            };
            if !there.on(self.side)? {
                return Ok(Some(table.name.clone()));
            }
        }
        Ok(None)
    }

    /// What the bridge's user may not do and must: (table, what, how to grant it).
    pub(crate) async fn missing_rights(
        &self,
        plan: &Plan,
    ) -> Result<Vec<(String, String, String)>, Error> {
        match self.dialect() {
            // Who may write the file may do everything.
            Dialect::Sqlite => Ok(Vec::new()),
            Dialect::Postgres => self.missing_rights_postgres(plan).await.on(self.side),
        }
    }

    /// The declared shape of these tables; those that do not exist are left out.
    pub(crate) async fn schema(&self, tables: &[String]) -> Result<Schema, Error> {
        let mut tx = self.read().await?;
        let mut schema = Schema::new();
        for name in tables {
            let found = match self.dialect() {
                Dialect::Sqlite => sqlite::introspect::table(&mut tx, name).await,
                Dialect::Postgres => postgres::introspect::table(&mut tx, name).await,
            };
            if let Some(table) = found.on(self.side)? {
                schema.insert(name.clone(), table);
            }
        }
        Ok(schema)
    }

    /// Changes with every change of any table's shape.
    pub(crate) async fn schema_version(&self) -> Result<i64, Error> {
        let text = match self.dialect() {
            Dialect::Sqlite => sqlite::introspect::VERSION,
            Dialect::Postgres => postgres::introspect::VERSION,
        };
        let mut tx = self.read().await?;
        let found = tx.number(text, &[]).await.on(self.side)?;
        Ok(found.unwrap_or(0))
    }

    pub(crate) async fn close(&self) {
        match &self.pool {
            Pool::Sqlite(pool) => pool.close().await,
            Pool::Postgres(pool) => pool.close().await,
        }
    }

    /// The quoted name of one of this slice's own tables.
    pub(crate) fn own(&self, what: &str) -> String {
        let name = quote(&self.own_bare(what));
        match self.dialect() {
            Dialect::Sqlite => name,
            Dialect::Postgres => format!("{}.{name}", postgres::SCHEMA),
        }
    }

    pub(crate) fn own_bare(&self, what: &str) -> String {
        match self.dialect() {
            Dialect::Sqlite => format!("_outgrow_{}_{what}", self.slice),
            Dialect::Postgres => format!("{}_{what}", self.slice),
        }
    }
}

/// An identifier as SQL text. The only place where names become SQL.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text literal.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.into_iter().map(quote).collect();
    quoted.join(", ")
}

/// Milliseconds since 1970.
pub(crate) fn millis(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|d| i64::try_from(d.as_millis()).ok())
        .unwrap_or(0)
}

pub(crate) fn now_ms() -> i64 {
    millis(SystemTime::now())
}
