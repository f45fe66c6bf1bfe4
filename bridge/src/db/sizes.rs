//! How large rows are, asked before they are read: a statement's answer cannot be stopped half-way
//! without reading it to its end, and what is read is in memory.

use super::sums::Range;
use super::{Arg, Tx, quote, rows};
use crate::plan::Table;
use crate::typed::{Class, Typed};
use crate::value::{Affinity, Key, Kind};

/// How many of the next rows in key order go into so many bytes, about: `most` where all do, and
/// one at the least.
pub(crate) async fn within(
    tx: &mut Tx,
    table: &Table,
    range: &Range,
    most: u32,
    bytes: usize,
) -> Result<u32, sqlx::Error> {
    if !may_be_large(table) {
        return Ok(most);
    }
    let sizes = rows::select_within(tx, table, &of(table), range, most).await?;
    let sizes = sizes.iter().map(|row| row.maybe(0).unwrap_or(0));
    Ok(fitting(sizes, bytes).unwrap_or(most))
}

/// The rows with these keys that have more bytes than so many, and about how many.
pub(crate) async fn over(
    tx: &mut Tx,
    table: &Table,
    keys: &[Key],
    bytes: u64,
) -> Result<Vec<(Key, u64)>, sqlx::Error> {
    if !may_be_large(table) {
        return Ok(Vec::new());
    }
    let size = of(table);
    let what = format!("{}, {size}", rows::key_columns(table));
    let only = Some((format!("{size} > ?"), Arg::from(whole(bytes))));
    let found = rows::select_by_keys(tx, table, &what, keys, only).await?;
    let read = found.into_iter().map(|row| {
        let bytes = row.maybe(table.key.len()).unwrap_or(0);
        (
            rows::read_key(table, row),
            u64::try_from(bytes).unwrap_or(0),
        )
    });
    Ok(read.collect())
}

/// About the bytes of the rows with these keys.
pub(crate) async fn sum(tx: &mut Tx, table: &Table, keys: &[Key]) -> Result<u64, sqlx::Error> {
    let sizes = rows::select_by_keys(tx, table, &of(table), keys, None).await?;
    let sizes = sizes.iter().map(|row| row.maybe(0).unwrap_or(0));
    Ok(sizes.filter_map(|size| u64::try_from(size).ok()).sum())
}

/// The condition of rows that have no more bytes than so many, where some could.
pub(super) fn no_more(table: &Table, bytes: u64) -> Option<(String, Arg)> {
    let condition = || (format!("{} <= ?", of(table)), Arg::from(whole(bytes)));
    may_be_large(table).then(condition)
}

fn may_be_large(table: &Table) -> bool {
    let mut kinds = table.columns.iter().map(|column| &column.kind);
    kinds.any(|kind| size("", kind).is_some())
}

fn whole(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// How many of these fit; `None` if all do.
fn fitting(sizes: impl Iterator<Item = i64>, bytes: usize) -> Option<u32> {
    let mut sum = 0usize;
    for (count, size) in (0u32..).zip(sizes) {
        sum = sum.saturating_add(usize::try_from(size).unwrap_or(0));
        if sum > bytes {
            return Some(count.max(1));
        }
    }
    None
}

/// About the bytes of a row as SQL, without a look into its large values where the engine can.
pub(super) fn of(table: &Table) -> String {
    let (mut few, mut sizes) = (0, Vec::new());
    for column in &table.columns {
        match size(&quote(&column.name), &column.kind) {
            Some(size) => sizes.push(format!("coalesce({size}, 0)")),
            None => few += 8,
        }
    }
    if few > 0 || sizes.is_empty() {
        sizes.push(few.to_string());
    }
    added(&sizes)
}

/// The sum of these, halved again and again: SQLite takes no expression that is a thousand deep.
fn added(sizes: &[String]) -> String {
    match sizes {
        [] => "0".to_owned(),
        [one] => one.clone(),
        [..] => {
            let (some, others) = sizes.split_at(sizes.len() / 2);
            format!("({} + {})", added(some), added(others))
        }
    }
}

/// The bytes of a column's value; `None` where they are few.
fn size(name: &str, kind: &Kind) -> Option<String> {
    match kind {
        Kind::Sqlite(Affinity::Text | Affinity::Blob) => Some(format!("octet_length({name})")),
        Kind::Sqlite(Affinity::Integer | Affinity::Numeric | Affinity::Real) => None,
        Kind::Postgres(kind) if !is_large(kind) => None,
        Kind::Postgres(kind) => Some(match (kind.class, kind.base.as_str()) {
            (Class::Bytes, _) | (Class::Text, "text" | "character varying") => {
                format!("octet_length({name})::bigint")
            }
            // As it is kept, perhaps compressed: anything else would unpack it.
            _ => format!("pg_column_size({name})::bigint"),
        }),
        Kind::Mysql(kind) => is_large(kind).then(|| format!("length({name})")),
    }
}

fn is_large(kind: &Typed) -> bool {
    match kind.class {
        Class::Bits(width) => width.is_none(),
        Class::Text | Class::Bytes | Class::AsWritten => {
            let small = ["date", "interval", "inet", "cidr", "macaddr", "name"];
            !small.contains(&kind.base.as_str()) && !kind.base.starts_with("time ")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_always_fits() {
        let fitting = |sizes: &[i64], bytes| fitting(sizes.iter().copied(), bytes);
        assert_eq!(fitting(&[], 10), None);
        assert_eq!(fitting(&[4, 6], 10), None);
        assert_eq!(fitting(&[4, 6, 1], 10), Some(2));
        assert_eq!(fitting(&[11, 1], 10), Some(1));
        assert_eq!(
            fitting(&[i64::MAX, i64::MAX, i64::MAX], usize::MAX - 1),
            Some(2)
        );
    }
}
