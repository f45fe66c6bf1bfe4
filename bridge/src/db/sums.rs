//! Walks a table in strides of keys, and sums up the hashes of its rows between two keys, in the
//! database.

use super::rows::{arg, bound_args, column, key_marks, mark, only, ordered, read_as};
use super::{Arg, Database, Dialect, Tx};
use crate::error::{Error, OnSide};
use crate::plan::Table;
use crate::value::{Cell, Key, Kind};

/// Keys after the first and up to the second, both of which may be left out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Range {
    pub(crate) after: Option<Key>,
    pub(crate) until: Option<Key>,
}

/// The rows of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) rows: u64,
    /// Of their hashes; `None` where a row has none.
    sum: Option<String>,
}

impl Sum {
    /// Whether both are of equal rows. Rows without a hash are equal to none.
    pub(crate) fn proves(&self, other: &Self) -> bool {
        self.sum.is_some() && self == other
    }
}

/// What a row without a hash adds to a sum that cannot say so: more than 2^60 for each of 2^39
/// rows. Those of 60 bits never reach it.
const NO_HASH: &str = "1000000000000000000000000000000";

/// As [`Sum`], while rows are added to it. A sum of numbers of 64 bits outlasts every table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OurSum {
    rows: u64,
    sum: Option<i128>,
}

impl OurSum {
    /// No rows yet.
    pub(crate) fn begun() -> Self {
        Self {
            rows: 0,
            sum: Some(0),
        }
    }

    /// Adds a row.
    pub(crate) fn add(&mut self, hash: Option<i64>) {
        self.rows += 1;
        self.sum = self.sum.zip(hash).map(|(sum, hash)| sum + i128::from(hash));
    }

    /// As the other engine shows it.
    pub(crate) fn done(self) -> Sum {
        Sum {
            rows: self.rows,
            sum: self.sum.map(|sum| sum.to_string()),
        }
    }
}

impl Range {
    /// All keys after one.
    pub(crate) fn after(key: Option<&Key>) -> Self {
        Self {
            after: key.cloned(),
            until: None,
        }
    }

    /// The condition as SQL, in its place after others, and its values.
    pub(super) fn sql(&self, table: &Table) -> (String, Vec<Arg>) {
        let keys: Vec<String> = table.key.iter().map(|&at| ordered(table, at)).collect();
        let (keys, marks) = (keys.join(", "), key_marks(table));
        let mut text = String::new();
        let mut args = Vec::new();
        for (sign, key) in [(">", &self.after), ("<=", &self.until)] {
            if let Some(key) = key {
                let key = table.bound(key);
                if let Some((first, mark, arg)) = leading(table, &key) {
                    text.push_str(&format!(" AND {first} {}= {mark}", &sign[..1]));
                    args.push(arg);
                }
                text.push_str(&format!(" AND ({keys}) {sign} ({marks})"));
                args.extend(bound_args(table, &key));
            }
        }
        (text, args)
    }
}

/// The first of several key columns, which MySQL finds by its index: rows of columns it compares
/// one by one, from the beginning of the table.
fn leading(table: &Table, key: &[Cell]) -> Option<(String, String, Arg)> {
    let (&at, value) = (table.key.first()?, key.first()?);
    let column = &table.columns[at];
    let mysql = matches!(column.kind, Kind::Mysql(_)) && table.key.len() > 1;
    mysql.then(|| (ordered(table, at), mark(column), arg(&column.kind, value)))
}

/// The key of the n-th row of a range, of those that the table is about.
pub(crate) async fn nth(
    tx: &mut Tx,
    table: &Table,
    range: &Range,
    n: u32,
) -> Result<Option<Key>, sqlx::Error> {
    let columns = || table.key.iter().map(|&at| &table.columns[at]);
    let shown: Vec<String> = columns().map(column).collect();
    let keys: Vec<String> = table.key.iter().map(|&at| ordered(table, at)).collect();
    let (only, mut args) = only(tx, table);
    let (place, more) = range.sql(table);
    args.extend(more);
    let text = format!(
        "SELECT {} FROM {} WHERE {only}{place} ORDER BY {} LIMIT 1 OFFSET {}",
        shown.join(", "),
        tx.dialect().table(&table.name),
        keys.join(", "),
        n.saturating_sub(1)
    );
    let rows = tx.fetch(&text, &args).await?;
    let key = rows.into_iter().next().map(|row| read_as(columns(), row));
    Ok(key.map(|key| table.known(key)))
}

/// How many rows of a range there are, of those that the table is about, and the sum of what
/// `hash` says of each.
pub(crate) async fn sum(
    tx: &mut Tx,
    table: &Table,
    range: &Range,
    hash: &str,
) -> Result<Sum, sqlx::Error> {
    let (only, mut args) = only(tx, table);
    let (place, more) = range.sql(table);
    args.extend(more);
    let name = tx.dialect().table(&table.name);
    let rows = format!("FROM {name} WHERE {only}{place}");
    let text = match tx.dialect() {
        // Else the hash would be computed for the sum and for the count.
        Dialect::Postgres => format!(
            "SELECT count(*), count(h), coalesce(sum(h), 0)::text FROM (SELECT {hash} AS h {rows} OFFSET 0) AS hashed"
        ),
        Dialect::Sqlite | Dialect::Mysql => {
            format!(
                "SELECT COUNT(*), COUNT(*), CAST(COALESCE(SUM(COALESCE({hash}, {NO_HASH})), 0) AS CHAR) {rows}"
            )
        }
    };
    let found = tx.fetch(&text, &args).await?;
    let row = found.first().ok_or(sqlx::Error::RowNotFound)?;
    let (rows, hashed, sum) = (row.int(0)?, row.int(1)?, row.text(2)?);
    Ok(Sum {
        rows: u64::try_from(rows).unwrap_or(0),
        sum: (rows == hashed && sum.len() < NO_HASH.len()).then_some(sum),
    })
}

/// One value of each type that is hashed as it is, hashed: versions and machines may differ in it.
const SAMPLE: &str = "hash_record_extended(ROW(-2::int2, 70000::int4, int8send(-30000000000), true, \
    'a b'::text COLLATE \"C\", 'b'::varchar COLLATE \"C\", numeric_send(-1234567.890), '\\x00ff0102'::bytea, \
    float8send(-0.1), float4send(0.1::float4), '0f14d0ab-9605-4a62-a9e4-5ed26688389b'::uuid, \
    date '2020-02-29', time_send(time '12:34:56.789'), timestamp_send('1999-12-31 23:59:59.5'), \
    timestamptz_send('2020-02-29 12:00:00+00'), NULL::int4), 4711)";
/// From this version on rows have hashes.
const HASHES_ROWS: i64 = 140_000;

impl Database {
    /// What the server's own hash functions make of a row, and of the beginnings of a text; `None` where
    /// it has none for rows.
    pub(crate) async fn hashed_sample(&self, text: &str) -> Result<Option<String>, Error> {
        if self.dialect() != Dialect::Postgres {
            return Ok(None);
        }
        let mut tx = self.read().await?;
        let version = "SELECT current_setting('server_version_num')::bigint";
        let version = tx.number(version, &[]).await.on(self.side)?;
        if version.is_none_or(|version| version < HASHES_ROWS) {
            return Ok(None);
        }
        let sample = format!(
            "SELECT ({SAMPLE})::text || (SELECT string_agg(',' || hashtextextended(left({}, n) COLLATE \"C\", \
             n * 99999999999), '' ORDER BY n) FROM generate_series(0, 64) AS n)",
            super::literal(text)
        );
        let rows = tx.fetch(&sample, &[]).await.on(self.side)?;
        Ok(rows.first().and_then(|row| row.maybe_text(0)))
    }

    /// The letters in whose bytes hashes are computed.
    pub(crate) async fn encoding(&self) -> Result<String, Error> {
        let ours = "UTF8".to_owned();
        match self.dialect() {
            Dialect::Postgres => {
                let mut tx = self.read().await?;
                let text = "SELECT current_setting('server_encoding')";
                let rows = tx.fetch(text, &[]).await.on(self.side)?;
                Ok(rows
                    .first()
                    .and_then(|row| row.maybe_text(0))
                    .unwrap_or(ours))
            }
            // Every text is made one of `utf8mb4` first.
            Dialect::Sqlite | Dialect::Mysql => Ok(ours),
        }
    }
}
