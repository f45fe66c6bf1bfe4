//! A batch of one table in one statement: rows and position, and the commit. A function of ours
//! does what else takes five messages and as many answers, which cost more than the rows of a small
//! transaction.
//!
//! The function is made by whoever first needs it, and again where the columns differ; what it is
//! made of is what else would be sent.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use outgrow_rollout::Side;
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, PgPool, Postgres};

use super::binary::{Array, Element};
use super::{LATER_BY_CALL, SURE, arrays, numbered_from, replication};
use crate::db::{Arg, Database, Dialect, Place, Pool, literal, rows, tx};
use crate::error::{Error, OnSide};
use crate::plan::{Row, Table};
use crate::value::Key;

/// More arguments than that no function of PostgreSQL takes.
const ARGUMENTS: usize = 100;
/// Those before the arrays: stream, epoch, number before and after, heartbeat, place, whether most
/// rows are probably there.
const HEAD: [&str; 7] = [
    "text", "bigint", "bigint", "bigint", "bigint", "text", "bigint",
];
/// Rows are found by their key, however many the server thinks that there are.
const BY_KEY: &str = "set_config('enable_seqscan', 'off', true), \
    set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)";
/// What the function says if the position is not where the batch begins.
const ELSEWHERE: &str = "OG001";

/// What one statement writes.
#[derive(Debug)]
pub(crate) struct Once<'a> {
    pub(crate) table: &'a Table,
    pub(crate) gone: Vec<&'a Key>,
    pub(crate) rows: Vec<&'a Row>,
    pub(crate) stream: (Side, i64),
    pub(crate) from: i64,
    pub(crate) place: Place,
    pub(crate) beat: Option<i64>,
    /// Most rows are probably not there yet.
    pub(crate) fresh: bool,
}

/// A connection that is held from one statement to the next, and when it was used.
#[derive(Debug)]
pub(in crate::db) struct Line(Option<PoolConnection<Postgres>>, Instant);

impl Line {
    fn used(connection: PoolConnection<Postgres>) -> Self {
        Self(Some(connection), Instant::now())
    }

    /// The connection, if it is believed to live.
    fn alive(mut self) -> Option<PoolConnection<Postgres>> {
        self.0.take_if(|_| self.1.elapsed() < SURE)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // A pool takes its connections back in a task, which must have where to run.
        if tokio::runtime::Handle::try_current().is_err() {
            std::mem::forget(self.0.take());
        }
    }
}

impl Database {
    /// Writes all of it, as [`Self::advance_to`] and a commit that need not last at once. `false`
    /// where that cannot be done so; nothing was written then.
    pub(crate) async fn write_once(&self, once: &Once<'_>) -> Result<bool, Error> {
        let width = HEAD.len() + once.table.key.len() + once.table.columns.len();
        let small = arrays::fit(&once.rows) && once.gone.len() <= arrays::ROWS;
        let Pool::Postgres(pool) = self.pool() else {
            return Ok(false);
        };
        if width > ARGUMENTS || !small {
            return Ok(false);
        }
        let gone = once.gone.iter().filter_map(|key| once.table.own(key));
        let mut arrays = arrays::keys(once.table, &gone.collect::<Vec<_>>());
        arrays.extend(arrays::columns(once.table, &once.rows));
        if arrays.iter().map(Array::element).ne(elements(once.table)) {
            // A value that the server is to refuse, or to read by itself.
            return Ok(false);
        }
        let mut line = self.line(&pool).await?;
        let call = self.function(&mut line, once.table).await?;
        let written = tx::run(&mut line, &call, &once.args(arrays)).await;
        match written {
            Ok(()) => {
                *self.held_line() = Some(Line::used(line));
                Ok(true)
            }
            Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some(ELSEWHERE) => {
                let mut tx = self.read().await?;
                Err(self.not_moved(&mut tx, once.stream, once.from).await?)
            }
            Err(e) => {
                // It may be gone, or of another version.
                self.made().remove(&once.table.name);
                Err(e).on(self.side)
            }
        }
    }

    /// The connection that these statements go over, one behind another. A pool would hand out
    /// and take back one for each, which is more work than a small statement.
    async fn line(&self, pool: &PgPool) -> Result<PoolConnection<Postgres>, Error> {
        let held = self.held_line().take();
        match held.and_then(Line::alive) {
            Some(line) => Ok(line),
            None => pool.acquire().await.on(self.side),
        }
    }

    /// Gives that connection back.
    pub(crate) fn end_line(&self) {
        *self.held_line() = None;
    }

    fn held_line(&self) -> MutexGuard<'_, Option<Line>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What calls the function for a table, which is made where it is not there as it should be.
    async fn function(
        &self,
        line: &mut PoolConnection<Postgres>,
        table: &Table,
    ) -> Result<Arc<str>, Error> {
        if let Some((_, call)) = self.made().get(&table.name).filter(|made| made.0 == *table) {
            return Ok(Arc::clone(call));
        }
        let name = self.own(&format!("write_{}", table.name));
        let text = self.write_function(&name, table);
        let made = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut **line);
        made.await.on(self.side)?;
        // A text is prepared once, so it tells types that may come to be others.
        let types = types(table).enumerate();
        let marks: Vec<String> = types.map(|(at, of)| format!("${}::{of}", at + 1)).collect();
        let call: Arc<str> = format!("SELECT {name}({})", marks.join(", ")).into();
        let made = (table.clone(), Arc::clone(&call));
        self.made().insert(table.name.clone(), made);
        Ok(call)
    }

    fn write_function(&self, name: &str, table: &Table) -> String {
        let types: Vec<String> = types(table).collect();
        let elements: Vec<Element> = elements(table).collect();
        let (of_key, of_columns) = elements.split_at(table.key.len());
        let (first_key, first_column) = (HEAD.len() + 1, HEAD.len() + 1 + table.key.len());
        let on = Dialect::Postgres.table(&table.name);
        let condition = arrays::condition(table, of_key);
        let insert = arrays::insert_text(table, of_columns, &rows::or_update(table));
        let rows = numbered_from(&insert, first_column);
        let rows = match arrays::update_text(table, of_columns) {
            Some((update, missing)) => format!(
                "IF $7 = 1 THEN {update}; GET DIAGNOSTICS written = ROW_COUNT; \
                 IF written < cardinality(${first_column}) THEN {others}; END IF; \
                 ELSE {rows}; END IF",
                update = numbered_from(&update, first_column),
                others = numbered_from(
                    &arrays::insert_text(
                        table,
                        of_columns,
                        &format!("{missing} {}", rows::or_update(table))
                    ),
                    first_column
                ),
            ),
            None => rows,
        };
        let own = match &self.feed {
            Some(_) => format!(
                "PERFORM pg_logical_emit_message(true, {}, {}); ",
                literal(replication::PREFIX),
                literal(&format!("{} own", self.slice))
            ),
            None => String::new(),
        };
        format!(
            "CREATE OR REPLACE FUNCTION {name}({types}) RETURNS void LANGUAGE plpgsql AS $outgrow$ \
             #variable_conflict use_column\n\
             DECLARE written bigint; BEGIN SET CONSTRAINTS ALL DEFERRED; {own}\
             PERFORM set_config('outgrow.applying', {slice}, true), {LATER_BY_CALL}, {BY_KEY}; \
             IF cardinality(${first_key}) > 0 THEN DELETE FROM {on} WHERE {condition}; END IF; \
             IF cardinality(${first_column}) > 0 THEN {rows}; END IF; \
             UPDATE {position} SET seq = $4, beat = coalesce($5, beat), place = $6 \
             WHERE stream = $1 AND epoch = $2 AND seq = $3; \
             IF NOT FOUND THEN RAISE EXCEPTION 'outgrow: the position is elsewhere' \
             USING ERRCODE = '{ELSEWHERE}'; END IF; \
             PERFORM set_config('outgrow.applying', '', true); END $outgrow$",
            types = types.join(", "),
            slice = literal(self.slice.as_str()),
            condition = numbered_from(&condition, first_key),
            position = self.own("position"),
        )
    }
}

impl Once<'_> {
    /// The function's arguments.
    fn args(&self, arrays: Vec<Array>) -> Vec<Arg> {
        let (stream, epoch) = self.stream;
        let mut args = vec![
            Arg::from(stream.as_str()),
            Arg::from(epoch),
            Arg::from(self.from),
            Arg::from(self.place.seq),
            Arg::from(self.beat),
            Arg::from(&self.place.to_string()),
            Arg::from(i64::from(!self.fresh)),
        ];
        args.extend(arrays.into_iter().map(Arg::Array));
        args
    }
}

/// The types of the function's arguments.
fn types(table: &Table) -> impl Iterator<Item = String> {
    let arrays = elements(table).map(|element| format!("{}[]", element.name()));
    HEAD.into_iter().map(str::to_owned).chain(arrays)
}

/// What its arrays are of: keys that are gone, and columns.
fn elements(table: &Table) -> impl Iterator<Item = Element> {
    let keys = table.key.iter().map(|&at| &table.columns[at]);
    keys.chain(&table.columns).map(arrays::element)
}
