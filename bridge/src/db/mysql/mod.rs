//! MySQL 8 and MariaDB 10.6 or newer: triggers that note keys, and a step that gives what was
//! noted its place in the stream; or the row log, read as a replica would.
//!
//! Every session of ours speaks ANSI quotes and UTC, and is strict, whatever the server's default.

pub(crate) mod binlog;
pub(crate) mod capture;
mod emptied;
mod grants;
mod ids;
pub(crate) mod introspect;
mod transaction;

use std::collections::HashMap;
use std::time::Duration;

use sqlx::mysql::{MySqlPoolOptions, MySqlRow};
use sqlx::{AssertSqlSafe, Executor, MySqlPool, Row as _, TypeInfo, ValueRef};

use super::rows;
use super::tx::Fetched;
use super::{Arg, CONNECTIONS, References, Tx, quote};
use crate::error::TooLarge;
use crate::plan::{Row, Table};
use crate::spec::MysqlUrl;
use crate::typed::Class;
use crate::value::{Cell, Key};
pub(crate) use ids::id_step;
pub(in crate::db) use ids::sequence;
pub(crate) use transaction::Transaction;

/// Marks the session as the bridge's, for one slice; taken back before the commit. A session that
/// dies or is undone in between is one of ours and writes nothing else.
pub(super) const APPLYING: &str = "SET @outgrow_applying = ?";

/// How many tables of ours have this name.
pub(super) const COUNT_OWN: &str = "SELECT count(*) FROM information_schema.tables \
     WHERE table_schema = DATABASE() AND table_name = ?";

/// Rows whose presence is asked for at once.
const ASKED: usize = 500;
/// Bytes of rows that go in one statement, where there are several. No server takes less in a packet.
const STATEMENT: usize = 512 << 10;
/// Bytes of a statement beside its rows.
const SPARE: usize = 64 << 10;
/// Bytes of a value beside its own: its length and its type.
const VALUE: usize = 12;

pub(super) fn pool(url: &MysqlUrl, busy: Duration, stall: Duration) -> MySqlPool {
    let forgotten = stall.as_secs().max(1);
    crate::tls::ready();
    let wait = busy.as_secs().max(1);
    // A fraction of a second that a column has no room for is left off by MariaDB; MySQL 8 rounds, up
    // to a second that has not come yet, unless it is told not to. MariaDB skips comments of 8.
    let session = format!(
        "SET SESSION sql_mode = CONCAT('ANSI_QUOTES,PIPES_AS_CONCAT,STRICT_ALL_TABLES,\
         NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO,NO_BACKSLASH_ESCAPES' \
         /*!80000 , ',TIME_TRUNCATE_FRACTIONAL' */), time_zone = '+00:00', \
         innodb_lock_wait_timeout = {wait}, lock_wait_timeout = {wait}, wait_timeout = {forgotten}, \
         transaction_isolation = 'REPEATABLE-READ'"
    );
    let older = session.replace("transaction_isolation", "tx_isolation");
    MySqlPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(busy.saturating_mul(4))
        .after_connect(move |connection, _| {
            let (session, older) = (session.clone(), older.clone());
            Box::pin(async move {
                // Older servers know the isolation by its older name only.
                if connection.execute(AssertSqlSafe(session)).await.is_err() {
                    connection.execute(AssertSqlSafe(older)).await?;
                }
                Ok(())
            })
        })
        // Checked when the URL was read.
        .connect_lazy_with(url.options().unwrap_or_default())
}

/// One moment for everything that is read.
pub(super) async fn read(pool: &MySqlPool) -> Result<Transaction, sqlx::Error> {
    let tx = Transaction::on(pool).await?;
    tx.begin("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        .await
}

/// Each statement sees what is committed when it begins, and locks only what it writes.
pub(super) async fn write(pool: &MySqlPool) -> Result<Transaction, sqlx::Error> {
    let mut tx = Transaction::on(pool).await?;
    let text = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED";
    tx.run(text).await?;
    tx.begin("BEGIN").await
}

pub(super) async fn write_rows(
    pool: &MySqlPool,
    references: References,
) -> Result<Transaction, sqlx::Error> {
    let mut tx = write(pool).await?;
    // There is nothing like a check at the commit; the order of tables does it.
    let switch = match references {
        References::Unchecked => "SET SESSION foreign_key_checks = 0",
        References::AtCommit | References::AtOnce => "SET SESSION foreign_key_checks = 1",
    };
    tx.run(switch).await?;
    Ok(tx)
}

pub(super) fn cells(row: &MySqlRow) -> Result<Fetched, sqlx::Error> {
    let all = (0..row.len()).map(|at| cell(row, at));
    all.collect::<Result<_, _>>().map(Fetched)
}

fn cell(row: &MySqlRow, at: usize) -> Result<Cell, sqlx::Error> {
    let value = row.try_get_raw(at)?;
    if value.is_null() {
        return Ok(Cell::Null);
    }
    let kind = value.type_info().name().to_owned();
    Ok(match kind.as_str() {
        "BOOLEAN" | "TINYINT" | "SMALLINT" | "MEDIUMINT" | "INT" | "BIGINT" => {
            Cell::Int(row.try_get::<i64, _>(at)?)
        }
        "TINYINT UNSIGNED" | "SMALLINT UNSIGNED" | "MEDIUMINT UNSIGNED" | "INT UNSIGNED"
        | "BIGINT UNSIGNED" | "YEAR" => {
            let found: u64 = row.try_get_unchecked(at)?;
            i64::try_from(found).map_or_else(|_| Cell::Text(found.to_string()), Cell::Int)
        }
        "DOUBLE" => Cell::Real(row.try_get(at)?),
        "FLOAT" => Cell::Real(f64::from(row.try_get::<f32, _>(at)?)),
        // All else is asked for as text, whatever its collation makes of the type's name.
        _ => match String::from_utf8(row.try_get_unchecked(at)?) {
            Ok(text) => Cell::Text(text),
            Err(bad) => Cell::BadText(bad.into_bytes()),
        },
    })
}

/// A column, read in the one form of its class.
pub(crate) fn canonical(class: Class, name: &str) -> String {
    let moment = |between: &str| {
        format!(
            "TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM DATE_FORMAT({name}, '%Y-%m-%d{between}%H:%i:%s.%f')))"
        )
    };
    match class {
        Class::Int | Class::Bool => format!("CAST({name} AS SIGNED)"),
        Class::Real | Class::Real4 => format!("({name} + 0e0)"),
        Class::Bytes => format!("HEX({name})"),
        Class::Timestamp => moment(" "),
        Class::Instant => format!("CONCAT({}, 'Z')", moment("T")),
        Class::Bits(width) => format!(
            "LPAD(BIN(CAST({name} AS UNSIGNED)), {}, '0')",
            width.unwrap_or(1)
        ),
        Class::Decimal(_) | Class::Text | Class::Uuid | Class::AsWritten => {
            format!("CAST({name} AS CHAR CHARACTER SET utf8mb4)")
        }
    }
}

/// The place of a value that goes into a column of this class.
pub(super) fn mark(class: Class) -> &'static str {
    match class {
        Class::Instant => "CAST(REPLACE(REPLACE(?, 'T', ' '), 'Z', '') AS DATETIME(6))",
        Class::Bool => "CAST(? AS UNSIGNED)",
        Class::Bits(_) => "CAST(CONV(?, 2, 10) AS UNSIGNED)",
        _ => "?",
    }
}

/// Updates the rows that are there and inserts the others. `ON DUPLICATE KEY UPDATE` and
/// `REPLACE` would also change rows that share another unique value.
pub(super) async fn upsert(tx: &mut Tx, table: &Table, rows: &[&Row]) -> Result<(), sqlx::Error> {
    for some in rows.chunks(ASKED) {
        let keys: Vec<Key> = some.iter().map(|row| table.key_of(row)).collect();
        let found = rows::by_keys(tx, table, &keys).await?;
        let there: HashMap<Key, Row> = found
            .into_iter()
            .map(|row| (table.key_of(&row), row))
            .collect();
        let mut fresh = Vec::new();
        for (&row, key) in some.iter().zip(&keys) {
            match there.get(key) {
                None => fresh.push(row),
                Some(found) if found == row => {}
                Some(_) => update(tx, table, row, key).await?,
            }
        }
        let mut rest = &fresh[..];
        while !rest.is_empty() {
            let (some, others) = rest.split_at(fitting(tx, rest).await?);
            rows::insert(tx, table, some, "").await?;
            rest = others;
        }
    }
    Ok(())
}

/// How many of the next rows, of which there are some, go in one statement.
async fn fitting(tx: &mut Tx, rows: &[&Row]) -> Result<usize, sqlx::Error> {
    let mut bytes = 0;
    let within = rows.iter().take_while(|row| {
        bytes += weight(row);
        bytes <= STATEMENT
    });
    match within.count() {
        0 => fits(tx, rows[0]).await.map(|()| 1),
        some => Ok(some),
    }
}

/// Refuses a row that the server would not take: it ends the connection at one that is larger than a packet.
async fn fits(tx: &mut Tx, row: &Row) -> Result<(), sqlx::Error> {
    let bytes = weight(row);
    if bytes <= STATEMENT {
        return Ok(());
    }
    let text = "SELECT CAST(@@max_allowed_packet AS SIGNED)";
    let most = tx.number(text, &[]).await?.unwrap_or(i64::MAX);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if bytes.saturating_add(SPARE) > most {
        return Err(sqlx::Error::Encode(Box::new(TooLarge { bytes, most })));
    }
    Ok(())
}

/// About as many bytes as a row has in a statement.
fn weight(row: &Row) -> usize {
    let of = |cell: &Cell| match cell {
        Cell::Text(text) => text.len() + VALUE,
        Cell::Blob(bytes) | Cell::BadText(bytes) => bytes.len() + VALUE,
        _ => VALUE,
    };
    row.iter().map(of).sum()
}

async fn update(tx: &mut Tx, table: &Table, row: &Row, key: &Key) -> Result<(), sqlx::Error> {
    let others = || {
        let all = table.columns.iter().enumerate();
        all.filter(|(at, _)| !table.key.contains(at))
    };
    let set: Vec<String> = others()
        .map(|(_, column)| format!("{} = {}", quote(&column.name), rows::mark(column)))
        .collect();
    if set.is_empty() {
        return Ok(());
    }
    let place: Vec<String> = table
        .key
        .iter()
        .map(|&at| &table.columns[at])
        .map(|column| format!("{} = {}", quote(&column.name), rows::mark(column)))
        .collect();
    let text = format!(
        "UPDATE {} SET {} WHERE {}",
        quote(&table.name),
        set.join(", "),
        place.join(" AND ")
    );
    fits(tx, row).await?;
    let mut args: Vec<Arg> = others()
        .map(|(at, column)| rows::arg(&column.kind, &row[at]))
        .collect();
    args.extend(rows::key_args(table, key));
    tx.execute(&text, &args).await.map(drop)
}
