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
use super::replication::packed;
use super::wire::Native;
use super::{LATER_BY_CALL, SURE, arrays, numbered_from};
use crate::db::{Arg, Database, Dialect, Feed, Packed, Place, Pool, literal, rows, tx};
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
    pub(crate) rows: Rows<'a>,
    pub(crate) stream: (Side, i64),
    pub(crate) from: i64,
    pub(crate) place: Place,
    pub(crate) beat: Option<i64>,
    /// Most rows are probably not there yet.
    pub(crate) fresh: bool,
}

/// Rows of one statement.
#[derive(Debug)]
pub(crate) enum Rows<'a> {
    Read(Vec<&'a Row>),
    /// As the log has them, and per column of the table its place in the source's.
    Packed(Vec<&'a Packed>, &'a [usize]),
}

impl Rows<'_> {
    fn fit(&self) -> bool {
        match self {
            Self::Read(rows) => arrays::fit(rows),
            Self::Packed(rows, _) => arrays::fit_packed(rows),
        }
    }
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
        let small = once.rows.fit() && once.gone.len() <= arrays::ROWS;
        let Pool::Postgres(pool) = self.pool() else {
            return Ok(false);
        };
        if width > ARGUMENTS || !small {
            return Ok(false);
        }
        let Some((elements, arrays)) = once.arrays() else {
            return Ok(false);
        };
        let mut line = self.line(&pool).await?;
        let call = self.function(&mut line, once, &elements).await?;
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
                self.made().remove(&once.which());
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
        once: &Once<'_>,
        elements: &[Element],
    ) -> Result<Arc<str>, Error> {
        let (table, which) = (once.table, once.which());
        if let Some((_, call)) = self.made().get(&which).filter(|made| made.0 == *table) {
            return Ok(Arc::clone(call));
        }
        let what = if which.1 { "move" } else { "write" };
        let name = self.own(&format!("{what}_{}", table.name));
        let text = self.write_function(&name, table, elements).await?;
        let made = sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut **line);
        made.await.on(self.side)?;
        // A text is prepared once, so it tells types that may come to be others.
        let types = types(elements).enumerate();
        let marks: Vec<String> = types.map(|(at, of)| format!("${}::{of}", at + 1)).collect();
        let call: Arc<str> = format!("SELECT {name}({})", marks.join(", ")).into();
        let made = (table.clone(), Arc::clone(&call));
        self.made().insert(which, made);
        Ok(call)
    }

    async fn write_function(
        &self,
        name: &str,
        table: &Table,
        elements: &[Element],
    ) -> Result<String, Error> {
        let types: Vec<String> = types(elements).collect();
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
            Some(Feed::Postgres(feed)) => {
                let (_, own) = self.saying(feed, "own").await?;
                own + "; "
            }
            Some(Feed::Mysql(_)) | None => String::new(),
        };
        Ok(format!(
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
        ))
    }
}

impl Once<'_> {
    /// Which function writes it.
    fn which(&self) -> (String, bool) {
        let packed = matches!(self.rows, Rows::Packed(..));
        (self.table.name.clone(), packed)
    }

    /// What the function's arrays are of, and the arrays: keys that are gone, and columns. `None`
    /// where some value is for the server to refuse, or to read by itself.
    fn arrays(&self) -> Option<(Vec<Element>, Vec<Array>)> {
        let table = self.table;
        let of_key = table.key.iter().map(|&at| &table.columns[at]);
        let mut elements: Vec<Element> = of_key.map(arrays::element).collect();
        let gone = self.gone.iter().filter_map(|key| table.own(key));
        let mut all = arrays::keys(table, &gone.collect::<Vec<_>>());
        match &self.rows {
            Rows::Read(rows) => {
                elements.extend(table.columns.iter().map(arrays::element));
                all.extend(arrays::columns(table, rows));
            }
            Rows::Packed(rows, places) => {
                let native = table.columns.iter().map(|column| Native::of(&column.kind));
                let native = native.collect::<Option<Vec<Native>>>()?;
                elements.extend(native.iter().map(|of| Element::Native(*of)));
                all.extend(packed::columns(rows, &native, places)?);
            }
        }
        let fits = all.iter().map(Array::element).eq(elements.iter().copied());
        fits.then_some((elements, all))
    }

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
fn types(elements: &[Element]) -> impl Iterator<Item = String> {
    let arrays = elements
        .iter()
        .map(|element| format!("{}[]", element.name()));
    HEAD.into_iter().map(str::to_owned).chain(arrays)
}
