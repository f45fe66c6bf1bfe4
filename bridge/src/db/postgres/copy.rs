//! Rows of one PostgreSQL into another by COPY: nobody between the two looks at them, so a row
//! costs little more than the two servers' own work.
//!
//! The client library keeps no count of a COPY's messages, so a COPY that does not come to its end
//! would leave its connection out of step. Whoever breaks off has the pools of both databases
//! replaced; see [`Whole`].

use futures_util::TryStreamExt;
use sqlx::PgConnection;

use crate::db::{Arg, Database, Dialect, Tx, list, quote, rows, sizes};
use crate::error::{Error, OnSide};
use crate::fault::FaultHook;
use crate::plan::{Column, Straight, Table};
use crate::value::{Key, Kind};

/// Bytes that are gathered before they are sent: the source sends a message a row.
const GATHERED: usize = 64 << 10;

/// Types whose binary form is the same in every server and version. All others go as text: the
/// binary form of some holds numbers that only their own server knows.
const BINARY: &str = "'bool', 'int2', 'int4', 'int8', 'float4', 'float8', 'numeric', 'text', \
    'varchar', 'bpchar', 'bytea', 'uuid', 'date', 'time', 'timetz', 'timestamp', 'timestamptz', \
    'interval', 'json', 'jsonb', 'inet', 'cidr', 'macaddr', 'bit', 'varbit'";

/// Rows whose keys are beyond one key and not beyond another.
#[derive(Debug)]
pub(crate) struct Range {
    pub(crate) after: Option<Key>,
    pub(crate) last: Key,
    pub(crate) rows: u64,
    /// There may be more rows beyond it.
    pub(crate) more: bool,
}

/// Where ranges end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) most: u32,
    pub(crate) bytes: usize,
    /// See [`has_large`]. What a snapshot shows stays where it is while the snapshot lasts.
    pub(crate) large: bool,
}

/// What a server says of the columns that a COPY names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    types: Vec<String>,
    binary: bool,
}

/// Names the snapshot that a transaction reads, for others to read it, too, while this one lasts.
pub(crate) async fn export(tx: &mut Tx) -> Result<String, sqlx::Error> {
    let rows = tx.fetch("SELECT pg_export_snapshot()", &[]).await?;
    rows.first().ok_or(sqlx::Error::RowNotFound)?.text(0)
}

/// Two ends of a COPY.
pub(crate) struct Ends<'a> {
    pub(crate) source: (&'a Database, &'a mut Tx),
    pub(crate) target: (&'a Database, &'a mut Tx),
    pub(crate) fault: Option<&'a FaultHook>,
}

/// The next rows in key order: so many, or fewer if they are large; one at the least.
pub(crate) async fn range(
    tx: &mut Tx,
    table: &Table,
    after: Option<&Key>,
    Cut { most, bytes, large }: Cut,
) -> Result<Option<Range>, sqlx::Error> {
    let place = after.map_or_else(|| "true".to_owned(), |_| rows::beyond(table));
    let args: Vec<Arg> = after
        .into_iter()
        .flat_map(|key| rows::key_args(table, key))
        .collect();
    let name = Dialect::Postgres.table(&table.name);
    let order = rows::order(table);
    let range = |last: Key, rows: u64, more: bool| Range {
        after: after.cloned(),
        last,
        rows,
        more,
    };
    if !large {
        let text = format!(
            "SELECT {} FROM {name} WHERE {place} ORDER BY {order} OFFSET {} LIMIT 1",
            keys(table).join(", "),
            most.saturating_sub(1)
        );
        if let Some(row) = tx.fetch(&text, &args).await?.into_iter().next() {
            return Ok(Some(range(row.0, u64::from(most), true)));
        }
    }
    let named: Vec<String> = (0..table.key.len()).map(|at| format!("k{at}")).collect();
    let listed: Vec<String> = keys(table)
        .iter()
        .zip(&named)
        .map(|(key, name)| format!("{key} AS {name}"))
        .collect();
    let text = format!(
        "SELECT {named}, n FROM (SELECT {listed}, row_number() OVER w AS n, \
         sum({size}) OVER w AS bytes FROM {name} WHERE {place} \
         WINDOW w AS (ORDER BY {order} ROWS UNBOUNDED PRECEDING) \
         ORDER BY {order} LIMIT {most}) AS listed WHERE n = 1 OR bytes <= {bytes} \
         ORDER BY n DESC LIMIT 1",
        named = named.join(", "),
        listed = listed.join(", "),
        size = sizes::of(table),
    );
    let Some(mut row) = tx.fetch(&text, &args).await?.into_iter().next() else {
        return Ok(None);
    };
    let count = row.int(table.key.len())?;
    row.0.truncate(table.key.len());
    Ok(Some(range(row.0, u64::try_from(count).unwrap_or(0), large)))
}

/// The key's columns as they are read.
fn keys(table: &Table) -> Vec<String> {
    let one = |&at: &usize| rows::column(&table.columns[at]);
    table.key.iter().map(one).collect()
}

/// Whether there are values that are kept outside of their rows. Without them a row has 8 KiB at
/// the most.
pub(crate) async fn has_large(tx: &mut Tx, table: &Table) -> Result<bool, sqlx::Error> {
    let text = "SELECT relkind = 'p' OR reltoastrelid <> 0 AND pg_relation_size(reltoastrelid) > 0 \
                FROM pg_class WHERE oid = to_regclass(?)";
    let args = [Arg::from(&Dialect::Postgres.table(&table.name))];
    Ok(tx.number(text, &args).await? == Some(1))
}

/// What the server says of these columns; `None` where rows cannot be copied into the table or
/// out of it.
pub(crate) async fn shape(
    tx: &mut Tx,
    table: &Table,
    columns: &[Column],
) -> Result<Option<Shape>, sqlx::Error> {
    let text = format!(
        "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), \
         t.typtype = 'e' OR n.nspname = 'pg_catalog' AND ltrim(t.typname, '_') IN ({BINARY}), \
         c.relkind IN ('r', 'p') AND NOT row_security_active(c.oid) \
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid \
         JOIN pg_namespace n ON n.oid = t.typnamespace \
         WHERE c.oid = to_regclass(?) AND a.attnum > 0 AND NOT a.attisdropped"
    );
    let args = [Arg::from(&Dialect::Postgres.table(&table.name))];
    let found = tx.fetch(&text, &args).await?;
    let mut shape = Shape {
        types: Vec::with_capacity(columns.len()),
        binary: true,
    };
    for column in columns {
        let Some(row) = found
            .iter()
            .find(|row| row.maybe_text(0).as_ref() == Some(&column.name))
        else {
            return Ok(None);
        };
        if row.int(3)? == 0 {
            return Ok(None);
        }
        shape.types.push(row.text(1)?);
        shape.binary &= row.int(2)? != 0;
    }
    Ok(Some(shape))
}

/// Copies a range of rows: into the table itself where it has nothing of them yet, else over what
/// is there.
pub(crate) async fn rows(
    mut ends: Ends<'_>,
    straight: &Straight,
    shape: &Shape,
    range: &Range,
) -> Result<(), Error> {
    let (table, side) = (&straight.extracted, ends.target.0.side);
    let format = if shape.binary { "binary" } else { "text" };
    let columns = list(table.columns.iter().map(|column| column.name.as_str()));
    let name = Dialect::Postgres.table(&table.name);
    let out = out(straight, range, format);
    if is_free(ends.target.1, table, range).await.on(side)? {
        let into = format!("COPY {name} ({columns}) FROM STDIN (FORMAT {format})");
        return forward(&mut ends, &out, &into).await;
    }
    let stage = "pg_temp.\"outgrow_chunk\"";
    let make = format!(
        "CREATE TEMPORARY TABLE \"outgrow_chunk\" ON COMMIT DROP AS SELECT {columns} FROM {name} WITH NO DATA"
    );
    ends.target.1.script(make).await.on(side)?;
    let into = format!("COPY {stage} ({columns}) FROM STDIN (FORMAT {format})");
    forward(&mut ends, &out, &into).await?;
    let write = format!(
        "INSERT INTO {name} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {stage} {}",
        rows::or_update(table)
    );
    ends.target.1.script(write).await.on(side)
}

/// The COPY that reads a range. Its text takes no parameters.
fn out(straight: &Straight, range: &Range, format: &str) -> String {
    let table = &straight.legacy;
    let mut place = vec![beside(table, &range.last, "<=")];
    place.extend(range.after.iter().map(|after| beside(table, after, ">")));
    format!(
        "COPY (SELECT {} FROM {} WHERE {} ORDER BY {}) TO STDOUT (FORMAT {format})",
        list(straight.from.iter().map(|column| column.name.as_str())),
        Dialect::Postgres.table(&table.name),
        place.join(" AND "),
        rows::order(table)
    )
}

/// The key compared with a given one.
fn beside(table: &Table, key: &Key, operator: &str) -> String {
    let columns = table.key.iter().map(|&at| &table.columns[at]);
    let values: Vec<String> = columns
        .zip(rows::key_args(table, key))
        .map(|(column, arg)| value(column, &arg))
        .collect();
    let order = rows::order(table);
    format!("({order}) {operator} ({})", values.join(", "))
}

/// A value as SQL text.
fn value(column: &Column, arg: &Arg) -> String {
    let base = match &column.kind {
        Kind::Postgres(kind) if !kind.orders_otherwise() => &kind.base,
        _ => "text",
    };
    match arg {
        Arg::Text(Some(text)) => format!("CAST({} AS {base})", escaped(text)),
        Arg::Bytes(Some(bytes)) => {
            format!("CAST(E'\\\\x{}' AS bytea)", crate::db::keys::hex(bytes))
        }
        _ => "NULL".to_owned(),
    }
}

/// A text literal that means the same whatever the server makes of backslashes.
fn escaped(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Whether the table has no row in this range. Where its index has another order than ours, only
/// an empty table is known not to have.
async fn is_free(tx: &mut Tx, table: &Table, range: &Range) -> Result<bool, sqlx::Error> {
    let name = Dialect::Postgres.table(&table.name);
    let collates = |&at: &usize| match &table.columns[at].kind {
        Kind::Postgres(kind) => kind.class.collates() || kind.orders_otherwise(),
        Kind::Sqlite(_) | Kind::Mysql(_) => true,
    };
    if table.key.iter().any(collates) {
        let text = format!("SELECT NOT EXISTS (SELECT 1 FROM {name})");
        return Ok(tx.number(&text, &[]).await? == Some(1));
    }
    // The next row in order, so that the index answers, also where statistics are old.
    let names: Vec<String> = table
        .key
        .iter()
        .map(|&at| quote(&table.columns[at].name))
        .collect();
    let (names, order) = (names.join(", "), rows::order(table));
    let place = range
        .after
        .as_ref()
        .map_or_else(|| "true".to_owned(), |_| rows::beyond(table));
    let text = format!(
        "SELECT count(*) FROM (SELECT {names} FROM {name} WHERE {place} ORDER BY {order} LIMIT 1) \
         AS next WHERE ({order}) <= ({})",
        rows::key_marks(table)
    );
    let after = range.after.iter();
    let args: Vec<Arg> = after
        .chain([&range.last])
        .flat_map(|key| rows::key_args(table, key))
        .collect();
    Ok(tx.number(&text, &args).await? == Some(0))
}

/// Sends what one COPY reads into another.
async fn forward(ends: &mut Ends<'_>, out: &str, into: &str) -> Result<(), Error> {
    let (source, target) = (ends.source.0, ends.target.0);
    let whole = Whole(Some([source, target]));
    let writer = connection(ends.target.1).on(target.side)?;
    let mut writer = match writer.copy_in_raw(into).await.on(target.side) {
        Ok(writer) => writer,
        Err(e) => return Err(whole.unless_lost(e)),
    };
    let reader = connection(ends.source.1).on(source.side)?;
    let mut reader = reader.copy_out_raw(out).await.on(source.side)?;
    let mut gathered: Vec<u8> = Vec::with_capacity(2 * GATHERED);
    while let Some(some) = reader.try_next().await.on(source.side)? {
        if gathered.len() + some.len() > 2 * GATHERED && !gathered.is_empty() {
            writer.send(gathered.as_slice()).await.on(target.side)?;
            gathered.clear();
            FaultHook::pass(ends.fault, "amid-copy");
        }
        if some.len() > GATHERED {
            writer.send(some).await.on(target.side)?;
            continue;
        }
        gathered.extend_from_slice(&some);
        if gathered.len() >= GATHERED {
            writer.send(gathered.as_slice()).await.on(target.side)?;
            gathered.clear();
            FaultHook::pass(ends.fault, "amid-copy");
        }
    }
    drop(reader);
    writer.send(gathered.as_slice()).await.on(target.side)?;
    FaultHook::pass(ends.fault, "copy-sent");
    // What was refused is told at the end; both connections are in step then.
    match writer.finish().await.on(target.side) {
        Ok(_) => {
            whole.done();
            Ok(())
        }
        Err(e) => Err(whole.unless_lost(e)),
    }
}

fn connection(tx: &mut Tx) -> Result<&mut PgConnection, sqlx::Error> {
    match tx {
        Tx::Postgres(tx) => Ok(tx),
        Tx::Sqlite(_) | Tx::Mysql(_) => {
            let what = "COPY is PostgreSQL's alone";
            Err(sqlx::Error::Configuration(what.into()))
        }
    }
}

/// Has the connections of both databases replaced, unless the COPY came to its end.
struct Whole<'a>(Option<[&'a Database; 2]>);

impl Whole<'_> {
    fn done(mut self) {
        self.0 = None;
    }

    /// What a server refused was read to its end.
    fn unless_lost(self, error: Error) -> Error {
        if let Error::Database {
            cause: sqlx::Error::Database(_),
            ..
        } = &error
        {
            self.done();
        }
        error
    }
}

impl Drop for Whole<'_> {
    fn drop(&mut self) {
        for database in self.0.into_iter().flatten() {
            database.spoil();
        }
    }
}
