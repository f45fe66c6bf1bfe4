//! PostgreSQL 13 or newer: triggers that note keys, and a step that gives what was noted its
//! place in the stream.
//!
//! Everything of ours is in a schema of its own. Values are written as text and cast by the
//! database, and read in the one form of their class, so no type is ever guessed here.

pub(super) mod arrays;
pub(super) mod binary;
pub(crate) mod capture;
pub(crate) mod copy;
mod ids;
pub(crate) mod introspect;
pub(crate) mod once;
pub(crate) mod replication;
pub(super) mod wire;

use std::time::Duration;

use outgrow_rollout::Side;
use sqlx::postgres::{PgPoolOptions, PgRow};
use sqlx::{
    AssertSqlSafe, Connection as _, PgPool, Postgres, Row as _, SqlSafeStr, Transaction, TypeInfo,
    ValueRef,
};

use super::keys::hex;
use super::tx::Fetched;
use super::{Arg, Bounds, CONNECTIONS, Database, Feed, Lasts, References, Tx, literal};
use crate::error::{Error, OnSide};
use crate::spec::PostgresUrl;
use crate::typed::Class;
use crate::value::Cell;
pub(crate) use ids::{id_step, raise_by_steps};
pub(super) use ids::{raise_columns, raise_sequence, sequence};

/// The schema of everything that is ours, as SQL text.
pub(crate) const SCHEMA: &str = "\"_outgrow\"";

/// For so long a connection that has answered is believed to live.
const SURE: Duration = Duration::from_secs(1);

/// Marks the present transaction as the bridge's, for one slice.
pub(super) const APPLYING: &str = "SELECT set_config('outgrow.applying', ?, true)";

/// How many relations of ours have this name.
pub(super) fn count_own() -> String {
    "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE n.nspname = '_outgrow' AND c.relname = ?"
        .to_owned()
}

/// What decides how a session writes values into text.
const SHOWN: [(&str, &str); 4] = [
    ("timezone", "UTC"),
    ("datestyle", "ISO"),
    ("intervalstyle", "iso_8601"),
    ("extra_float_digits", "1"),
];

/// A session of ours that is lost without a word must not keep its locks for as long as the server
/// takes to miss it.
pub(super) fn pool(url: &PostgresUrl, bounds: &Bounds) -> PgPool {
    crate::tls::ready();
    let lock_timeout = bounds.busy.as_millis().to_string();
    let forgotten = bounds.stall.as_millis().to_string();
    // Checked when the URL was read.
    let options = url
        .options()
        .unwrap_or_default()
        .application_name("outgrow")
        .options(SHOWN)
        .options([
            ("lock_timeout", lock_timeout.as_str()),
            ("idle_in_transaction_session_timeout", forgotten.as_str()),
            ("tcp_keepalives_idle", "30"),
            ("tcp_keepalives_interval", "10"),
            ("tcp_keepalives_count", "3"),
        ]);
    PgPoolOptions::new()
        .max_connections(CONNECTIONS + bounds.abreast)
        // A connection that has just answered is not asked whether it still does.
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for >= SURE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .acquire_timeout(bounds.busy.saturating_mul(4))
        .connect_lazy_with(options)
}

/// Begins a transaction, also where nobody waits for it any more: left amid its beginning, the client
/// library would give back a connection that is in it, perhaps in one that only reads. A connection that
/// has died since it was used last is found to be so here, before anything is read or written, and is no
/// reason to fail while there are others.
async fn begin(
    pool: &PgPool,
    statement: impl SqlSafeStr,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let (pool, statement) = (pool.clone(), statement.into_sql_str());
    let begun = tokio::spawn(async move {
        let mut left = pool.size();
        loop {
            match pool.begin_with(statement.clone()).await {
                Err(error) if left > 0 && has_ended(&error) => left -= 1,
                begun => return begun,
            }
        }
    });
    begun.await.map_err(|_| sqlx::Error::WorkerCrashed)?
}

/// Whether this is said by a connection that has ended, or of one.
fn has_ended(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        // A session that was ended by somebody, or with its server.
        sqlx::Error::Database(told) => {
            matches!(
                told.code().as_deref(),
                Some("57P01" | "57P02" | "57P05" | "25P03" | "25P04")
            )
        }
        _ => false,
    }
}

/// One moment for everything that is read.
pub(super) async fn read(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    begin(pool, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await
}

pub(super) async fn write(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    begin(pool, "BEGIN").await
}

/// What another transaction reads that lasts still.
pub(super) async fn read_as_of(
    pool: &PgPool,
    snapshot: &str,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let mut tx = read(pool).await?;
    let text = format!("SET TRANSACTION SNAPSHOT {}", literal(snapshot));
    sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *tx).await?;
    Ok(tx)
}

pub(super) async fn write_rows(
    pool: &PgPool,
    references: References,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let mut tx = write(pool).await?;
    match references {
        // Moves only those that were declared deferrable; the order of tables does the rest.
        References::AtCommit => {
            sqlx::query("SET CONSTRAINTS ALL DEFERRED")
                .execute(&mut *tx)
                .await?;
        }
        References::AtOnce => {
            sqlx::query("SET CONSTRAINTS ALL IMMEDIATE")
                .execute(&mut *tx)
                .await?;
        }
        References::Unchecked => unchecked(&mut tx).await?,
    }
    Ok(tx)
}

/// Without a wait for the disk, nor for a standby.
pub(super) const LATER: &str = "SET LOCAL synchronous_commit = off";
const LATER_BY_CALL: &str = "set_config('synchronous_commit', 'off', true)";

impl Database {
    /// Begins a transaction that writes rows of the link's own, in one message.
    pub(super) async fn write_own_postgres(
        &self,
        pool: &PgPool,
        references: References,
        lasts: Lasts,
    ) -> Result<Tx, Error> {
        let mut text = format!("BEGIN; {}", self.own_rows_postgres(references).await?);
        if lasts == Lasts::Later {
            text.push_str("; ");
            text.push_str(LATER);
        }
        let begun = begin(pool, AssertSqlSafe(text)).await;
        if begun.is_err() {
            // The client library does not know that a transaction may have begun.
            self.spoil();
        }
        begun.map(Tx::Postgres).on(self.side)
    }

    /// A commit that waits for the disk has all before it on the disk, too; and with a standby that
    /// must have it, on that. What was applied and is not there any more was lost in a crash.
    pub(super) async fn flush_postgres(
        &self,
        pool: &PgPool,
        (stream, epoch): (Side, i64),
        applied: i64,
    ) -> Result<(), Error> {
        let text = "BEGIN; SELECT set_config('synchronous_commit', 'local', true) \
                    WHERE current_setting('synchronous_commit') = 'off'";
        let begun = begin(pool, text).await;
        if begun.is_err() {
            self.spoil();
        }
        let mut tx = begun.map(Tx::Postgres).on(self.side)?;
        let text = format!(
            "UPDATE {} SET seq = seq WHERE stream = ? AND epoch = ? AND seq >= ?",
            self.own("position")
        );
        let args = [
            Arg::from(stream.as_str()),
            Arg::from(epoch),
            Arg::from(applied),
        ];
        if tx.execute(&text, &args).await.on(self.side)? != 1 {
            return Err(self.not_moved(&mut tx, (stream, epoch), applied).await?);
        }
        tx.commit().await.on(self.side)
    }

    /// What begins a transaction that writes rows of the link's own.
    async fn own_rows_postgres(&self, references: References) -> Result<String, Error> {
        let when = match references {
            References::AtOnce => "IMMEDIATE",
            References::AtCommit | References::Unchecked => "DEFERRED",
        };
        let tell = match &self.feed {
            Some(Feed::Postgres(feed)) => {
                let (tell, _) = self.saying(feed, "own").await?;
                tell + "; "
            }
            Some(Feed::Mysql(_)) | None => String::new(),
        };
        Ok(format!(
            "SET CONSTRAINTS ALL {when}; {tell}SET LOCAL outgrow.applying = {}",
            literal(self.slice.as_str())
        ))
    }
}

/// Turns references off where we may (a superuser, or from 15 on a grant); else they stay on, and
/// rows that come before what they refer to are parked for a moment.
async fn unchecked(tx: &mut Transaction<'static, Postgres>) -> Result<(), sqlx::Error> {
    sqlx::query("SAVEPOINT role").execute(&mut **tx).await?;
    let tried = sqlx::query("SET LOCAL session_replication_role = replica")
        .execute(&mut **tx)
        .await;
    match tried {
        Ok(_) => {}
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42501") => {
            sqlx::query("ROLLBACK TO role").execute(&mut **tx).await?;
            sqlx::query("SET CONSTRAINTS ALL DEFERRED")
                .execute(&mut **tx)
                .await?;
        }
        Err(other) => return Err(other),
    }
    sqlx::query("RELEASE role").execute(&mut **tx).await?;
    Ok(())
}

/// `?` becomes `$1`, `$2`, outside of quotes.
pub(super) fn numbered(text: &str) -> String {
    numbered_from(text, 1)
}

/// As [`numbered`], from another number on.
fn numbered_from(text: &str, first: usize) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let (mut quote, mut count) = (None, first);
    for c in text.chars() {
        match (quote, c) {
            (None, '?') => {
                out.push('$');
                out.push_str(&count.to_string());
                count += 1;
                continue;
            }
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
        out.push(c);
    }
    out
}

pub(super) fn cells(row: &PgRow) -> Result<Fetched, sqlx::Error> {
    let all = (0..row.len()).map(|at| cell(row, at));
    all.collect::<Result<_, _>>().map(Fetched)
}

/// Statements read each column in the form of its class, so these types are all that come.
fn cell(row: &PgRow, at: usize) -> Result<Cell, sqlx::Error> {
    let value = row.try_get_raw(at)?;
    if value.is_null() {
        return Ok(Cell::Null);
    }
    let kind = value.type_info().name().to_owned();
    Ok(match kind.as_str() {
        "INT8" => Cell::Int(row.try_get(at)?),
        "INT4" => Cell::Int(i64::from(row.try_get::<i32, _>(at)?)),
        "INT2" => Cell::Int(i64::from(row.try_get::<i16, _>(at)?)),
        "BOOL" => Cell::Int(i64::from(row.try_get::<bool, _>(at)?)),
        "FLOAT8" => {
            // There is one NaN to PostgreSQL, whatever its bits.
            let found: f64 = row.try_get(at)?;
            Cell::Real(if found.is_nan() { f64::NAN } else { found })
        }
        "BYTEA" => Cell::Blob(row.try_get(at)?),
        _ => Cell::Text(row.try_get(at)?),
    })
}

/// A column, read in the one form of its class. Our sessions write times as ISO 8601 has them, but for
/// the letters of an instant; those before Christ have their era behind them, and infinite ones are a
/// word. `to_char` would say the same for thrice the CPU.
pub(crate) fn canonical(class: Class, name: &str) -> String {
    match class {
        Class::Int => format!("{name}::int8"),
        Class::Bool => format!("{name}::int4"),
        Class::Real | Class::Real4 => format!("{name}::float8"),
        Class::Bytes => name.to_owned(),
        Class::Instant => {
            let local = format!("replace(({name} AT TIME ZONE 'UTC')::text, ' ', 'T')");
            format!(
                "CASE WHEN {name} >= '0001-01-01 00:00:00+00' AND {name} < 'infinity' THEN {local} || 'Z' \
                 ELSE replace({local}, 'TBC', 'Z BC') END"
            )
        }
        Class::Timestamp => format!("{name}::text"),
        Class::Decimal(_) | Class::Text | Class::Bits(_) | Class::Uuid | Class::AsWritten => {
            format!("{name}::text")
        }
    }
}

/// As [`canonical`], of a time, in a session of the application's, which may show times in its own way. An
/// infinite one has its own word, for which `to_char` has none, and one before Christ its era, which
/// `to_char` leaves out.
fn time_anywhere(class: Class, name: &str) -> String {
    let (value, between, end) = match class {
        Class::Instant => (format!("({name} AT TIME ZONE 'UTC')"), "\"T\"", "Z"),
        _ => (name.to_owned(), " ", ""),
    };
    format!(
        "coalesce(rtrim(rtrim(to_char({value}, 'YYYY-MM-DD{between}HH24:MI:SS.US'), '0'), '.') \
         || CASE WHEN {value} < timestamp '0001-01-01' THEN '{end} BC' ELSE '{end}' END, {value}::text)"
    )
}

/// A value for a column of this class: text that the statement casts, or bytes.
pub(super) fn arg(class: Class, cell: &Cell) -> Arg {
    match (class, cell) {
        (Class::Bytes, Cell::Null) => Arg::Bytes(None),
        (Class::Bytes, Cell::Blob(b) | Cell::BadText(b)) => Arg::Bytes(Some(b.clone())),
        (Class::Bytes, Cell::Text(s)) => Arg::Bytes(Some(s.clone().into_bytes())),
        (Class::Bytes, Cell::Int(i)) => Arg::Bytes(Some(i.to_string().into_bytes())),
        (Class::Bytes, Cell::Real(r)) => Arg::Bytes(Some(r.to_string().into_bytes())),
        (_, Cell::Null) => Arg::Text(None),
        (_, Cell::Int(i)) => Arg::Text(Some(i.to_string())),
        (_, Cell::Real(r)) => Arg::Text(Some(r.to_string())),
        (_, Cell::Text(s)) => Arg::Text(Some(s.clone())),
        // No column of text takes this; the database says so, and the row is parked.
        (_, Cell::Blob(b) | Cell::BadText(b)) => Arg::Text(Some(format!("\\x{}", hex(b)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_numbered_outside_of_quotes() {
        assert_eq!(
            numbered("SELECT '?', \"a?\" FROM t WHERE x = ? AND y IN (?, ?)"),
            "SELECT '?', \"a?\" FROM t WHERE x = $1 AND y IN ($2, $3)"
        );
    }
}
