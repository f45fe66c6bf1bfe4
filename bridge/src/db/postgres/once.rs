//! A batch of one table in one statement: rows and position, and the commit. A function of ours
//! does what else takes five messages and as many answers, which cost more than the rows of a small
//! transaction.
//!
//! The function is made by whoever first needs it, and again where the columns differ; what it is
//! made of is what else would be sent.

use outgrow_rollout::Side;
use sqlx::{AssertSqlSafe, PgPool};

use super::{LATER_BY_CALL, arrays, numbered_from, replication};
use crate::db::{Arg, Database, Dialect, Place, Pool, literal, rows, tx};
use crate::error::{Error, OnSide};
use crate::plan::{Row, Table};
use crate::typed::Class;
use crate::value::{Key, Kind};

/// More arguments than that no function of PostgreSQL takes.
const ARGUMENTS: usize = 100;
/// Those before the arrays: stream, epoch, number before and after, heartbeat, place.
const HEAD: [&str; 6] = ["text", "bigint", "bigint", "bigint", "bigint", "text"];
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
        let name = self.own(&format!("write_{}", once.table.name));
        let text = self.write_function(&name, once.table);
        if self.made().get(&name) != Some(&text) {
            let made = sqlx::raw_sql(AssertSqlSafe(text.clone())).execute(&pool);
            made.await.on(self.side)?;
            self.made().insert(name.clone(), text);
        }
        match self.call(&pool, &name, once).await {
            Ok(()) => Ok(true),
            Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some(ELSEWHERE) => {
                let mut tx = self.read().await?;
                Err(self.not_moved(&mut tx, once.stream, once.from).await?)
            }
            Err(e) => {
                // It may be gone, or of another version.
                self.made().remove(&name);
                Err(e).on(self.side)
            }
        }
    }

    async fn call(&self, pool: &PgPool, name: &str, once: &Once<'_>) -> Result<(), sqlx::Error> {
        let (stream, epoch) = once.stream;
        let mut args = vec![
            Arg::from(stream.as_str()),
            Arg::from(epoch),
            Arg::from(once.from),
            Arg::from(once.place.seq),
            Arg::from(once.beat),
            Arg::from(&once.place.to_string()),
        ];
        let gone = once.gone.iter().filter_map(|key| once.table.own(key));
        args.extend(arrays::keys(once.table, &gone.collect::<Vec<_>>()));
        args.extend(arrays::columns(once.table, &once.rows));
        // A text is prepared once, so it tells types that may come to be others.
        let marks: Vec<String> = types(once.table).map(|of| format!("?::{of}")).collect();
        let marks = marks.join(", ");
        tx::run(pool, &format!("SELECT {name}({marks})"), &args).await
    }

    fn write_function(&self, name: &str, table: &Table) -> String {
        let types: Vec<&str> = types(table).collect();
        let (first_key, first_column) = (HEAD.len() + 1, HEAD.len() + 1 + table.key.len());
        let on = Dialect::Postgres.table(&table.name);
        let (condition, _) = arrays::has_key(table, &[]);
        let insert = arrays::insert_text(table, &rows::or_update(table));
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
             BEGIN SET CONSTRAINTS ALL DEFERRED; {own}\
             PERFORM set_config('outgrow.applying', {slice}, true), {LATER_BY_CALL}; \
             IF cardinality(${first_key}) > 0 THEN DELETE FROM {on} WHERE {condition}; END IF; \
             IF cardinality(${first_column}) > 0 THEN {insert}; END IF; \
             UPDATE {position} SET seq = $4, beat = coalesce($5, beat), place = $6 \
             WHERE stream = $1 AND epoch = $2 AND seq = $3; \
             IF NOT FOUND THEN RAISE EXCEPTION 'outgrow: the position is elsewhere' \
             USING ERRCODE = '{ELSEWHERE}'; END IF; \
             PERFORM set_config('outgrow.applying', '', true); END $outgrow$",
            types = types.join(", "),
            slice = literal(self.slice.as_str()),
            condition = numbered_from(&condition, first_key),
            insert = numbered_from(&insert, first_column),
            position = self.own("position"),
        )
    }
}

/// The types of the function's arguments.
fn types(table: &Table) -> impl Iterator<Item = &'static str> {
    let array = |at: usize| match &table.columns[at].kind {
        Kind::Postgres(kind) if kind.class == Class::Bytes => "bytea[]",
        Kind::Postgres(_) | Kind::Sqlite(_) | Kind::Mysql(_) => "text[]",
    };
    let keys = table.key.iter().map(move |&at| array(at));
    let columns = (0..table.columns.len()).map(array);
    HEAD.into_iter().chain(keys).chain(columns)
}
