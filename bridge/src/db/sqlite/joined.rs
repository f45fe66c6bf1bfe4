//! Two SQLite files behind one connection, so that a join can compare their rows where they are.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{Executor as _, SqlitePool};

use crate::db::rows::{only, order};
use crate::db::sums::Range;
use crate::db::{Arg, Tx, list, quote};
use crate::plan::Table;

/// The extracted file's name beside the legacy one, which is `main`.
const OTHER: &str = "\"extracted\"";

/// Both files. Nothing is ever written over it.
pub(crate) fn pool(legacy: &Path, extracted: &Path, busy: Duration) -> Option<SqlitePool> {
    let other = extracted.to_str()?.to_owned();
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false)
        .acquire_timeout(busy.saturating_mul(4))
        .after_connect(move |connection, _| {
            let attach = format!("ATTACH ? AS {OTHER}");
            let other = other.clone();
            Box::pin(async move {
                sqlx::query(sqlx::AssertSqlSafe(attach))
                    .bind(other)
                    .execute(&mut *connection)
                    .await?;
                connection.execute("PRAGMA query_only = ON").await?;
                Ok(())
            })
        })
        .connect_lazy_with(super::options(legacy, busy));
    Some(pool)
}

/// The rows of a range, where each has its pair in the other file, and neither file has more.
pub(crate) async fn equal_rows(
    pool: &SqlitePool,
    (legacy, extracted): (&Table, &Table),
    range: &Range,
    condition: &str,
) -> Result<Option<u64>, sqlx::Error> {
    let mut tx = Tx::Sqlite(pool.begin().await?);
    let place = |tx: &Tx, table: &Table| {
        let (only, mut args) = only(tx, table);
        let (place, more) = range.sql(table);
        args.extend(more);
        (format!("WHERE {only}{place}"), args)
    };
    let (here, args_here) = place(&tx, legacy);
    let (there, args_there) = place(&tx, extracted);
    let columns = list(legacy.columns.iter().map(|c| c.name.as_str()));
    let keys: Vec<String> = legacy
        .key
        .iter()
        .zip(&extracted.key)
        .map(|(&a, &b)| {
            let (a, b) = (&legacy.columns[a].name, &extracted.columns[b].name);
            format!("e.{} = l.{}", quote(b), quote(a))
        })
        .collect();
    let (a, b) = (quote(&legacy.name), quote(&extracted.name));
    // In the order of the keys, each row's pair is beside the one before.
    let text = format!(
        "SELECT (SELECT COUNT(*) FROM main.{a} {here}), (SELECT COUNT(*) FROM {OTHER}.{b} {there}), \
         (SELECT COUNT(*) FROM (SELECT {columns} FROM main.{a} {here} ORDER BY {}) AS l \
         CROSS JOIN {OTHER}.{b} AS e ON {} WHERE {condition})",
        order(legacy),
        keys.join(" AND ")
    );
    let args: Vec<Arg> = [args_here.clone(), args_there, args_here].concat();
    let rows = tx.fetch(&text, &args).await?;
    tx.rollback().await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let (here, there, alike) = (row.int(0)?, row.int(1)?, row.int(2)?);
    Ok((here == there && there == alike).then(|| u64::try_from(alike).unwrap_or(0)))
}
