//! Reads and writes rows of the slice's tables.

use std::borrow::Cow;
use std::collections::HashSet;

use super::sums::Range;
use super::tx::Fetched;
use super::{Arg, Dialect, Tx, keys, list, mysql, postgres, quote, sizes};
use crate::plan::{Column, Filter, Row, Table};
use crate::typed::Class;
use crate::value::{Affinity, Cell, Key, Kind};

/// Values bound in one statement: well under each engine's limit (32,766 and 65,535), and large
/// enough that the cost of a statement is spread over many rows.
fn binds(tx: &Tx) -> usize {
    match tx.dialect() {
        Dialect::Sqlite => 900,
        Dialect::Postgres | Dialect::Mysql => 6_000,
    }
}

/// The rows with these keys, in no order.
pub(crate) async fn by_keys(
    tx: &mut Tx,
    table: &Table,
    keys: &[Key],
) -> Result<Vec<Row>, sqlx::Error> {
    by_keys_within(tx, table, keys, None).await
}

/// As [`by_keys`], without rows that have more bytes.
pub(crate) async fn by_keys_within(
    tx: &mut Tx,
    table: &Table,
    keys: &[Key],
    bytes: Option<u64>,
) -> Result<Vec<Row>, sqlx::Error> {
    let small = bytes.and_then(|bytes| sizes::no_more(table, bytes));
    let found = select_by_keys(tx, table, &columns(table), keys, small).await?;
    Ok(found.into_iter().map(|row| read(table, row)).collect())
}

/// As [`by_keys`], with anything of these rows, and only of some.
pub(super) async fn select_by_keys(
    tx: &mut Tx,
    table: &Table,
    what: &str,
    keys: &[Key],
    only: Option<(String, Arg)>,
) -> Result<Vec<Fetched>, sqlx::Error> {
    let mut found = Vec::with_capacity(keys.len());
    let name = tx.dialect().table(&table.name);
    let lacks = |key: &&Key| tx.dialect() == Dialect::Sqlite && !usable(key);
    let (lacking, keyed): (Vec<&Key>, Vec<&Key>) = keys.iter().partition(lacks);
    for some in keyed.chunks((binds(tx) / table.key.len()).max(1)) {
        let Some((mut condition, mut args)) = in_keys(tx.dialect(), table, some) else {
            continue;
        };
        if let Some((only, arg)) = &only {
            condition = format!("{condition} AND {only}");
            args.push(arg.clone());
        }
        let text = format!("SELECT {what} FROM {name} WHERE {condition}");
        found.extend(tx.fetch(&text, &args).await?);
    }
    for key in lacking.into_iter().filter_map(|key| table.own(key)) {
        let parts = table.key.iter().map(|&at| &table.columns[at].name);
        let parts: Vec<String> = parts.map(|part| format!("{} IS ?", quote(part))).collect();
        let condition = parts.join(" AND ");
        let text = format!("SELECT {what} FROM {name} WHERE {condition} LIMIT 1");
        found.extend(tx.fetch(&text, &bound_args(table, &key)).await?);
    }
    Ok(found)
}

/// A row as it was fetched. Bytes of MySQL come as hexadecimal text, for its drivers cannot tell
/// bytes from text of a binary collation.
fn read(table: &Table, row: Fetched) -> Row {
    read_as(table.columns.iter(), row)
}

/// As [`read`], of some columns.
pub(super) fn read_as<'a>(columns: impl Iterator<Item = &'a Column>, row: Fetched) -> Row {
    let bytes = |(column, cell): (&Column, Cell)| match (&column.kind, cell) {
        (Kind::Mysql(kind), Cell::Text(hex)) if kind.class == Class::Bytes => {
            keys::unhex(&hex).map_or(Cell::Text(hex), Cell::Blob)
        }
        (_, cell) => cell,
    };
    columns.zip(row.0).map(bytes).collect()
}

/// Keeps everybody else from changing these rows until the transaction ends. Where there is one
/// writer at a time, that is so already.
pub(crate) async fn lock(tx: &mut Tx, table: &Table, keys: &[Key]) -> Result<(), sqlx::Error> {
    if tx.dialect() == Dialect::Sqlite {
        return Ok(());
    }
    for some in keys.chunks((binds(tx) / table.key.len()).max(1)) {
        let some: Vec<&Key> = some.iter().collect();
        let Some((condition, args)) = in_keys(tx.dialect(), table, &some) else {
            continue;
        };
        let name = tx.dialect().table(&table.name);
        let text = format!("SELECT 1 FROM {name} WHERE {condition} FOR UPDATE");
        tx.fetch(&text, &args).await?;
    }
    Ok(())
}

/// Rows after a key, in key order, of those that the table is about.
pub(crate) async fn after(
    tx: &mut Tx,
    table: &Table,
    after: Option<&Key>,
    limit: u32,
) -> Result<Vec<Row>, sqlx::Error> {
    within(tx, table, &Range::after(after), limit).await
}

/// The first rows of a range, in key order, of those that the table is about.
pub(crate) async fn within(
    tx: &mut Tx,
    table: &Table,
    range: &Range,
    limit: u32,
) -> Result<Vec<Row>, sqlx::Error> {
    let rows = select_within(tx, table, &columns(table), range, limit).await?;
    Ok(rows.into_iter().map(|row| read(table, row)).collect())
}

/// As [`within`], with anything else of these rows.
pub(super) async fn select_within(
    tx: &mut Tx,
    table: &Table,
    what: &str,
    range: &Range,
    limit: u32,
) -> Result<Vec<Fetched>, sqlx::Error> {
    let (only, mut args) = only(tx, table);
    let (place, more) = range.sql(table);
    args.extend(more);
    let text = format!(
        "SELECT {what} FROM {} WHERE {only}{place} ORDER BY {} LIMIT {limit}",
        tx.dialect().table(&table.name),
        order(table)
    );
    tx.fetch(&text, &args).await
}

/// Keys of rows after a key, in key order, of those that the table is about.
pub(crate) async fn keys_after(
    tx: &mut Tx,
    table: &Table,
    after: Option<&Key>,
    limit: u32,
) -> Result<Vec<Key>, sqlx::Error> {
    keys_within(tx, table, &Range::after(after), limit).await
}

/// Keys of the first rows of a range, in key order, of those that the table is about.
pub(crate) async fn keys_within(
    tx: &mut Tx,
    table: &Table,
    range: &Range,
    limit: u32,
) -> Result<Vec<Key>, sqlx::Error> {
    let found = select_within(tx, table, &key_columns(table), range, limit).await?;
    Ok(found.into_iter().map(|row| read_key(table, row)).collect())
}

/// Which of these keys rows have, of those that the table is about.
pub(crate) async fn present(
    tx: &mut Tx,
    table: &Table,
    keys: &[Key],
) -> Result<HashSet<Key>, sqlx::Error> {
    let mut found = HashSet::with_capacity(keys.len());
    let (only, more) = only(tx, table);
    for some in keys.chunks((binds(tx) / table.key.len()).max(1)) {
        let some: Vec<&Key> = some.iter().collect();
        let Some((condition, mut args)) = in_keys(tx.dialect(), table, &some) else {
            continue;
        };
        args.extend(more.iter().cloned());
        let text = format!(
            "SELECT {} FROM {} WHERE {condition} AND {only}",
            key_columns(table),
            tx.dialect().table(&table.name)
        );
        let rows = tx.fetch(&text, &args).await?;
        found.extend(rows.into_iter().map(|row| read_key(table, row)));
    }
    Ok(found)
}

/// The last keys in key order, of the rows that the table is about.
pub(crate) async fn last_keys(
    tx: &mut Tx,
    table: &Table,
    limit: u32,
) -> Result<Vec<Key>, sqlx::Error> {
    let keys: Vec<String> = table
        .key
        .iter()
        .map(|&at| format!("{} DESC", ordered(table, at)))
        .collect();
    let (only, args) = only(tx, table);
    let text = format!(
        "SELECT {} FROM {} WHERE {only} ORDER BY {} LIMIT {limit}",
        key_columns(table),
        tx.dialect().table(&table.name),
        keys.join(", ")
    );
    let found = tx.fetch(&text, &args).await?;
    Ok(found.into_iter().map(|row| read_key(table, row)).collect())
}

/// How many rows there are, of those that the table is about.
pub(crate) async fn count(tx: &mut Tx, table: &Table) -> Result<u64, sqlx::Error> {
    let (only, args) = only(tx, table);
    let name = tx.dialect().table(&table.name);
    let text = format!("SELECT count(*) FROM {name} WHERE {only}");
    let found = tx.number(&text, &args).await?;
    Ok(found.and_then(|n| u64::try_from(n).ok()).unwrap_or(0))
}

/// From this size on a table is not counted where the server has an idea of its rows.
const LARGE: u32 = 8 << 20;

/// About how many rows there are: exactly, but for a large PostgreSQL table that was analysed
/// before. To count it would take a good part of what it takes to copy it.
pub(crate) async fn about(tx: &mut Tx, table: &Table) -> Result<u64, sqlx::Error> {
    if tx.dialect() == Dialect::Postgres && table.only.is_empty() {
        let text = format!(
            "SELECT (reltuples / relpages * size / current_setting('block_size')::int8)::int8 \
             FROM (SELECT reltuples::float8, relpages, pg_relation_size(oid) AS size FROM pg_class \
             WHERE oid = to_regclass(?) AND relkind = 'r' AND relpages > 0 AND reltuples > 0) AS known \
             WHERE size > {LARGE}"
        );
        let args = [Arg::from(&tx.dialect().table(&table.name))];
        if let Some(found) = tx.number(&text, &args).await? {
            return Ok(u64::try_from(found).unwrap_or(0));
        }
    }
    count(tx, table).await
}

/// The largest value of a key of one whole number.
pub(crate) async fn largest(tx: &mut Tx, table: &Table) -> Result<i64, sqlx::Error> {
    let [key] = table.key.as_slice() else {
        return Ok(0);
    };
    let kind = &table.columns[*key].kind;
    if !kind.is_numbered() {
        return Ok(0);
    }
    // The largest first, and then as text: texts have an order of their own.
    let most = format!("max({})", quote(&table.columns[*key].name));
    let text = format!(
        "SELECT {} FROM {}",
        shown(kind, &most),
        tx.dialect().table(&table.name)
    );
    let rows = tx.fetch(&text, &[]).await?;
    let Some(row) = rows.first() else {
        return Ok(0);
    };
    let text = || row.maybe_text(0).and_then(|text| text.parse().ok());
    Ok(row.maybe(0).or_else(text).unwrap_or(0))
}

/// Whether a condition is true of any row of `from` with these keys, which has the key's columns of
/// the table.
pub(super) async fn any(
    tx: &mut Tx,
    table: &Table,
    from: &str,
    keys: &[&Key],
    what: &str,
) -> Result<bool, sqlx::Error> {
    for some in keys.chunks((binds(tx) / table.key.len()).max(1)) {
        let Some((condition, args)) = in_keys(tx.dialect(), table, some) else {
            continue;
        };
        let text = format!("SELECT 1 FROM {from} WHERE {condition} AND {what} LIMIT 1");
        if !tx.fetch(&text, &args).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(crate) async fn upsert(tx: &mut Tx, table: &Table, rows: &[&Row]) -> Result<(), sqlx::Error> {
    if tx.dialect() == Dialect::Mysql {
        return mysql::upsert(tx, table, rows).await;
    }
    if !table.loose {
        return insert(tx, table, rows, &or_update(table)).await;
    }
    // Written over a row, a key that is only called equal would keep that row's key.
    let key = |row: &&Row| table.key_of(row);
    let keys: Vec<Key> = rows.iter().map(key).collect();
    let there = exactly(tx, table, &keys.iter().collect::<Vec<_>>()).await?;
    let (old, fresh): (Vec<&Row>, Vec<&Row>) = rows
        .iter()
        .partition(|row| there.contains(&exact(table, key(row))));
    insert(tx, table, &old, &or_update(table)).await?;
    insert(tx, table, &fresh, "").await
}

/// Which of these keys rows have, letter by letter, whatever the table's collation calls equal.
async fn exactly(tx: &mut Tx, table: &Table, keys: &[&Key]) -> Result<HashSet<Key>, sqlx::Error> {
    let mut found = HashSet::with_capacity(keys.len());
    for some in keys.chunks((binds(tx) / table.key.len()).max(1)) {
        let Some((condition, args)) = in_keys(tx.dialect(), table, some) else {
            continue;
        };
        let text = format!(
            "SELECT {} FROM {} WHERE {condition}",
            key_columns(table),
            tx.dialect().table(&table.name)
        );
        let rows = tx.fetch(&text, &args).await?.into_iter();
        found.extend(rows.map(|row| exact(table, read_key(table, row))));
    }
    Ok(found)
}

/// A key in the form in which [`exactly`] tells keys apart: columns of a fixed length keep no spaces at
/// the end.
fn exact(table: &Table, mut key: Key) -> Key {
    for (&at, cell) in table.key.iter().zip(&mut key) {
        let fixed = matches!(&table.columns[at].kind, Kind::Mysql(kind) if kind.base == "char")
            || matches!(&table.columns[at].kind, Kind::Postgres(kind) if kind.base == "bpchar");
        if let (true, Cell::Text(text)) = (fixed, cell) {
            text.truncate(text.trim_end_matches(' ').len());
        }
    }
    key
}

/// Turns an insert into an update of the row that has this key already.
pub(super) fn or_update(table: &Table) -> String {
    let keys = list(table.key.iter().map(|&at| table.columns[at].name.as_str()));
    let sets: Vec<String> = table
        .columns
        .iter()
        .enumerate()
        .filter(|(at, _)| !table.key.contains(at))
        .map(|(_, c)| format!("{0} = excluded.{0}", quote(&c.name)))
        .collect();
    if sets.is_empty() {
        format!("ON CONFLICT ({keys}) DO NOTHING")
    } else {
        format!("ON CONFLICT ({keys}) DO UPDATE SET {}", sets.join(", "))
    }
}

/// Inserts rows; `resolve` says what becomes of those that are there.
pub(super) async fn insert(
    tx: &mut Tx,
    table: &Table,
    rows: &[&Row],
    resolve: &str,
) -> Result<(), sqlx::Error> {
    if tx.dialect() == Dialect::Postgres {
        return postgres::arrays::insert(tx, table, rows, resolve).await;
    }
    let width = table.columns.len();
    let one: Vec<String> = table.columns.iter().map(mark).collect();
    let one = format!("({})", one.join(", "));
    for some in rows.chunks((binds(tx) / width).max(1)) {
        let values = vec![one.as_str(); some.len()].join(", ");
        let text = format!(
            "INSERT INTO {} ({}) VALUES {values} {resolve}",
            tx.dialect().table(&table.name),
            list(table.columns.iter().map(|c| c.name.as_str()))
        );
        let args: Vec<Arg> = some
            .iter()
            .flat_map(|row| table.columns.iter().zip(row.iter()))
            .map(|(column, cell)| arg(&column.kind, cell))
            .collect();
        tx.execute(&text, &args).await?;
    }
    Ok(())
}

pub(crate) async fn delete(tx: &mut Tx, table: &Table, keys: &[&Key]) -> Result<(), sqlx::Error> {
    let mut keys = Cow::Borrowed(keys);
    if table.loose && !keys.is_empty() {
        let there = exactly(tx, table, &keys).await?;
        let is_there = |key: &&Key| there.contains(&exact(table, Key::clone(key)));
        keys.to_mut().retain(is_there);
    }
    for some in keys.chunks((binds(tx) / table.key.len()).max(1)) {
        let Some((condition, args)) = in_keys(tx.dialect(), table, some) else {
            continue;
        };
        let text = format!(
            "DELETE FROM {} WHERE {condition}",
            tx.dialect().table(&table.name)
        );
        tx.execute(&text, &args).await?;
    }
    Ok(())
}

pub(super) fn columns(table: &Table) -> String {
    let all: Vec<String> = table.columns.iter().map(column).collect();
    all.join(", ")
}

/// The key's columns as they are read.
pub(super) fn key_columns(table: &Table) -> String {
    let all = table.key.iter().map(|&at| column(&table.columns[at]));
    all.collect::<Vec<_>>().join(", ")
}

/// A key of a row that begins with its columns.
pub(super) fn read_key(table: &Table, mut row: Fetched) -> Key {
    row.0.truncate(table.key.len());
    table.known(read_as(table.key.iter().map(|&at| &table.columns[at]), row))
}

/// A column as it is read.
pub(super) fn column(column: &Column) -> String {
    shown(&column.kind, &quote(&column.name))
}

/// A value of this kind as it is read.
fn shown(kind: &Kind, sql: &str) -> String {
    match kind {
        Kind::Sqlite(_) => sql.to_owned(),
        Kind::Postgres(kind) => postgres::canonical(kind.class, sql),
        Kind::Mysql(kind) => mysql::canonical(kind.class, sql),
    }
}

/// The place of a value that goes into a column, or is compared with it.
pub(super) fn mark(column: &Column) -> String {
    match &column.kind {
        Kind::Sqlite(_) => "?".to_owned(),
        Kind::Postgres(kind) => format!("CAST(? AS {})", kind.base),
        // As a text, 0 would be the year 2000.
        Kind::Mysql(kind) if kind.is_year() => "CAST(? AS UNSIGNED)".to_owned(),
        Kind::Mysql(kind) => mysql::mark(kind.class).to_owned(),
    }
}

pub(super) fn arg(kind: &Kind, cell: &Cell) -> Arg {
    match kind {
        Kind::Sqlite(_) => Arg::Cell(cell.clone()),
        Kind::Postgres(kind) | Kind::Mysql(kind) => postgres::arg(kind.class, cell),
    }
}

/// The values of a key that the link knows.
pub(super) fn key_args(table: &Table, key: &Key) -> Vec<Arg> {
    let own = table.own(key);
    bound_args(table, own.as_deref().unwrap_or(key))
}

/// The values of a key as the table writes it.
pub(super) fn bound_args(table: &Table, own: &[Cell]) -> Vec<Arg> {
    let columns = table.key.iter().map(|&at| &table.columns[at]);
    let args = columns.zip(own);
    args.map(|(column, cell)| arg(&column.kind, cell)).collect()
}

/// The key's columns in the order in which both sides are walked.
pub(super) fn order(table: &Table) -> String {
    let keys: Vec<String> = table.key.iter().map(|&at| ordered(table, at)).collect();
    keys.join(", ")
}

/// The condition of the rows beyond a key.
pub(super) fn beyond(table: &Table) -> String {
    format!("({}) > ({})", order(table), key_marks(table))
}

pub(super) fn key_marks(table: &Table) -> String {
    let marks: Vec<String> = table
        .key
        .iter()
        .map(|&at| match &table.columns[at].kind {
            // As its place in the order is that of its text.
            Kind::Postgres(kind) if kind.orders_otherwise() => "CAST(? AS text)".to_owned(),
            _ => mark(&table.columns[at]),
        })
        .collect();
    marks.join(", ")
}

/// A condition that is true of the rows with these keys, and its values. `None` where the table can
/// have no such rows.
fn in_keys(dialect: Dialect, table: &Table, keys: &[&Key]) -> Option<(String, Vec<Arg>)> {
    let own: Vec<Cow<'_, [Cell]>> = keys.iter().filter_map(|key| table.own(key)).collect();
    if own.is_empty() {
        return None;
    }
    if dialect == Dialect::Postgres {
        return Some(postgres::arrays::has_key(table, &own));
    }
    let args = own.iter().flat_map(|key| bound_args(table, key)).collect();
    Some((key_list(dialect, table, own.len()), args))
}

fn key_list(dialect: Dialect, table: &Table, count: usize) -> String {
    let names = list(table.key.iter().map(|&at| table.columns[at].name.as_str()));
    let of_time =
        |&at: &usize| matches!(&table.columns[at].kind, Kind::Mysql(kind) if kind.base == "time");
    if table.key.len() == 1 && table.key.iter().all(of_time) {
        // MySQL 8.0 finds no time in a list of two texts.
        let one = format!("{names} = {}", key_marks(table));
        format!("({})", vec![one; count].join(" OR "))
    } else if table.key.len() == 1 {
        let marks = vec![key_marks(table); count];
        format!("{names} IN ({})", marks.join(", "))
    } else {
        let one = format!("({})", key_marks(table));
        let values = if dialect == Dialect::Mysql {
            ""
        } else {
            "VALUES "
        };
        format!("({names}) IN ({values}{})", vec![one; count].join(", "))
    }
}

/// The condition of the rows that a table is about, with its values.
pub(super) fn only(tx: &Tx, table: &Table) -> (String, Vec<Arg>) {
    only_of(tx.dialect(), table)
}

/// As [`only`], of an engine.
pub(super) fn only_of(dialect: Dialect, table: &Table) -> (String, Vec<Arg>) {
    let keyed = keyed(dialect, table);
    if table.only.is_empty() {
        return (format!("1 = 1{keyed}"), Vec::new());
    }
    let mut args = Vec::new();
    let mut conditions = Vec::new();
    for filter in &table.only {
        conditions.push(condition(dialect, &table.columns[filter.column], filter));
        let values = filter.values.iter().filter(|value| !value.is_null());
        args.extend(values.map(|value| match dialect {
            Dialect::Sqlite => Arg::Cell(value.clone()),
            Dialect::Postgres | Dialect::Mysql => Arg::Text(match value {
                Cell::Text(text) => Some(text.clone()),
                other => Some(other.to_string()),
            }),
        }));
    }
    (format!("({}){keyed}", conditions.join(" OR ")), args)
}

/// Places of key columns that may be without a value, which only a primary key of SQLite may. Its order
/// has no place for such rows, and nothing is beyond them.
fn may_lack(dialect: Dialect, table: &Table) -> impl Iterator<Item = &Column> {
    let columns = table.key.iter().map(|&at| &table.columns[at]);
    columns.filter(move |column| dialect == Dialect::Sqlite && !column.required)
}

fn keyed(dialect: Dialect, table: &Table) -> String {
    may_lack(dialect, table)
        .map(|column| format!(" AND {} IS NOT NULL", quote(&column.name)))
        .collect()
}

/// Rows without a value in the key, one for each key that lacks some; of more than anybody will mend
/// by hand the first.
pub(crate) async fn keyless(tx: &mut Tx, table: &Table) -> Result<Vec<Row>, sqlx::Error> {
    let lacking: Vec<String> = may_lack(tx.dialect(), table)
        .map(|column| format!("{} IS NULL", quote(&column.name)))
        .collect();
    if lacking.is_empty() {
        return Ok(Vec::new());
    }
    let text = format!(
        "SELECT {} FROM {} WHERE {} GROUP BY {} LIMIT 10000",
        columns(table),
        tx.dialect().table(&table.name),
        lacking.join(" OR "),
        list(table.key.iter().map(|&at| table.columns[at].name.as_str()))
    );
    let rows = tx.fetch(&text, &[]).await?;
    Ok(rows.into_iter().map(|row| read(table, row)).collect())
}

/// One filter as SQL. Values are compared in the form in which they are read, byte for byte,
/// whatever a collation would call equal.
fn condition(dialect: Dialect, of: &Column, filter: &Filter) -> String {
    let null = quote(&of.name);
    let (value, mark) = match dialect {
        Dialect::Sqlite => (format!("{null} COLLATE BINARY"), "?"),
        Dialect::Postgres => (
            format!("CAST({} AS text) COLLATE \"C\"", column(of)),
            "CAST(? AS text)",
        ),
        Dialect::Mysql => (
            format!("CAST({} AS BINARY)", column(of)),
            "CAST(? AS BINARY)",
        ),
    };
    let marks: Vec<&str> = filter
        .values
        .iter()
        .filter(|value| !value.is_null())
        .map(|_| mark)
        .collect();
    let with_null = marks.len() < filter.values.len();
    let listed = format!("{value} IN ({})", marks.join(", "));
    match (marks.is_empty(), with_null, filter.not) {
        (true, _, false) => format!("{null} IS NULL"),
        (true, _, true) => format!("{null} IS NOT NULL"),
        (false, false, false) => listed,
        (false, true, false) => format!("({null} IS NULL OR {listed})"),
        (false, false, true) => format!("({null} IS NULL OR NOT {listed})"),
        (false, true, true) => format!("({null} IS NOT NULL AND NOT {listed})"),
    }
}

/// A key column in binary order. Both sides must be walked in one order, whatever collation each
/// declares; numbers have none, and naming one would keep their index from being used.
pub(super) fn ordered(table: &Table, at: usize) -> String {
    let column = &table.columns[at];
    let name = quote(&column.name);
    match &column.kind {
        Kind::Sqlite(Affinity::Text | Affinity::Blob) => format!("{name} COLLATE BINARY"),
        Kind::Sqlite(Affinity::Integer | Affinity::Numeric | Affinity::Real) => name,
        Kind::Postgres(kind) if kind.class.collates() => format!("{name} COLLATE \"C\""),
        Kind::Postgres(kind) if kind.orders_otherwise() => {
            format!("CAST({name} AS text) COLLATE \"C\"")
        }
        Kind::Mysql(kind) if kind.class.collates() => format!("CAST({name} AS BINARY)"),
        // MariaDB has an order of its own for it: by the last part first.
        Kind::Mysql(kind) if kind.class == Class::Uuid => {
            format!("CAST(CAST({name} AS CHAR) AS BINARY)")
        }
        Kind::Postgres(_) | Kind::Mysql(_) => name,
    }
}

/// Whether the key could be compared at all: a NULL in a key matches nothing.
pub(crate) fn usable(key: &[Cell]) -> bool {
    !key.iter().any(Cell::is_null)
}
