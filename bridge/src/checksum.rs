//! Checksums that the databases compute: SQL text under which rows of both sides that are equal
//! through the mapping have equal sums. Pure.
//!
//! A sum may only ever save work. So texts of values are never less exact than the comparison of
//! rows: two values that it calls different have different texts, and what has no such text in
//! SQL makes its tables be compared by rows. Where equal values have different texts all the
//! same, sums differ and the rows are compared, which finds nothing.

mod column;
pub(crate) mod joined;
mod made;
pub(crate) mod ours;
pub(crate) mod record;

use outgrow_rollout::Side;

use crate::db::Dialect;
use crate::plan::{Group, Way};
use column::{Text, Texts};
use ours::Ours;

/// Per extracted table of a group, what a side sums up over its rows.
#[derive(Debug)]
pub(crate) struct Sums {
    pub(crate) legacy: Vec<RowHash>,
    pub(crate) extracted: Vec<RowHash>,
}

/// What is summed up of a row.
#[derive(Debug)]
pub(crate) enum RowHash {
    /// SQL text: a whole number, or NULL where the row cannot be mapped.
    Sql(String),
    /// SQLite has no hash function; its rows are hashed by us.
    Ours(Ours),
}

impl Sums {
    /// What to sum up for the tables of a group, or why their rows must be read. `alike`, where both
    /// servers hash values alike; of a SQLite file, we.
    pub(crate) fn of(
        group: &Group,
        source: Side,
        (legacy, extracted): (Dialect, Dialect),
        alike: bool,
    ) -> Result<Self, String> {
        if group.tables(Side::Legacy).len() > 1 {
            return Err("several legacy tables make its rows".to_owned());
        }
        if group.refuses_zero() {
            return Err("its zero dates are refused".to_owned());
        }
        if [legacy, extracted].contains(&Dialect::Sqlite) {
            return Self::with_ours(group, source, (legacy, extracted), alike);
        }
        let hash = match (legacy, extracted) {
            (Dialect::Postgres, Dialect::Postgres) if alike => Hash::Values,
            (Dialect::Postgres, Dialect::Postgres) => Hash::Record,
            _ => Hash::Md5,
        };
        let mut sums = Self {
            legacy: Vec::new(),
            extracted: Vec::new(),
        };
        for (part, table) in group.tables(Side::Extracted).iter().enumerate() {
            let (mut here, mut there) = (Vec::new(), Vec::new());
            for (at, (way, column)) in group.ways(part).iter().zip(&table.columns).enumerate() {
                // What the service makes of a constant has no place on the legacy side.
                if source == Side::Extracted && group.is_constant(part, at) {
                    continue;
                }
                let texts = made::texts(group, part, way, column, hash != Hash::Md5);
                let (a, b) =
                    texts.map_err(|why| format!("{}.{}: {why}", table.name, column.name))?;
                let prefixed = a.fallible;
                here.push(hash.column(legacy, &a, prefixed));
                there.push(hash.column(extracted, &b, prefixed));
            }
            sums.legacy.push(RowHash::Sql(hash.row(legacy, &here)));
            let there = hash.row(extracted, &there);
            sums.extracted.push(RowHash::Sql(there));
        }
        Ok(sums)
    }

    /// As [`Self::of`], where one side is SQLite. The other hashes its values as they are, and we hash
    /// what they must be: the mapping is all on our side.
    fn with_ours(
        group: &Group,
        source: Side,
        (legacy, extracted): (Dialect, Dialect),
        alike: bool,
    ) -> Result<Self, String> {
        let hash = if alike { Hash::Values } else { Hash::Md5 };
        let mut sums = Self {
            legacy: Vec::new(),
            extracted: Vec::new(),
        };
        for (part, table) in group.tables(Side::Extracted).iter().enumerate() {
            // What the service makes of a constant has no place on the legacy side.
            let lost = |at: &usize| source == Side::Extracted && group.is_constant(part, *at);
            let mut columns: Vec<usize> = (0..table.columns.len()).collect();
            columns.retain(|at| !lost(at));
            if legacy == Dialect::Sqlite {
                sums.legacy
                    .push(RowHash::Ours(Ours::legacy(group, part, &columns, alike)));
                let texts = columns.iter().map(|&at| Texts::of(&table.columns[at]));
                sums.extracted.push(as_they_are(extracted, hash, texts)?);
            } else {
                let ways = columns.iter().map(|&at| &group.ways(part)[at]);
                let mut from: Vec<usize> = ways.flat_map(Way::from).collect();
                from.sort_unstable();
                from.dedup();
                let ours = Ours::extracted(group, part, (&columns, &from), alike)?;
                sums.extracted.push(RowHash::Ours(ours));
                let texts = from.iter().map(|&at| Texts::legacy(group, at));
                sums.legacy.push(as_they_are(legacy, hash, texts)?);
            }
        }
        Ok(sums)
    }
}

/// The hash of a row's values, as the engine itself has them.
fn as_they_are<'a>(
    dialect: Dialect,
    hash: Hash,
    columns: impl Iterator<Item = Result<Texts<'a>, String>>,
) -> Result<RowHash, String> {
    let columns = columns.map(|texts| Ok(hash.column(dialect, &texts?.exact(), false)));
    let columns = columns.collect::<Result<Vec<_>, String>>()?;
    Ok(RowHash::Sql(hash.row(dialect, &columns)))
}

/// Not zero: a NULL is hashed to zero, whatever the seed.
const SEED: u64 = 4_711;

/// How a row becomes a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    /// Of PostgreSQL alone: 64 bits of the values themselves, which need not become text.
    Values,
    /// Of PostgreSQL alone: 64 bits of the text of a record, which tells NULL from an empty text
    /// and where one column ends.
    Record,
    /// What every engine has: 60 bits of it.
    Md5,
}

impl Hash {
    /// A column as a part of its row. `prefixed`, where the legacy value may be one that cannot be
    /// mapped.
    fn column(self, dialect: Dialect, text: &Text, prefixed: bool) -> String {
        let Text { null, sql, .. } = text;
        let mapped = format!("CASE WHEN {null} THEN NULL ELSE coalesce('v' || ({sql}), '!') END");
        match self {
            Self::Values => match &text.own {
                Some(own) if !prefixed => own.clone(),
                _ if !prefixed => format!("({sql})::text COLLATE \"C\""),
                _ => format!("({mapped})::text COLLATE \"C\""),
            },
            Self::Record if !prefixed => sql.clone(),
            Self::Record => mapped,
            Self::Md5 => {
                let sql = match dialect {
                    // Byte for byte, whatever collations would do.
                    Dialect::Mysql => format!("CAST({sql} AS BINARY)"),
                    Dialect::Sqlite | Dialect::Postgres => sql.clone(),
                };
                let sql = if text.plain { sql } else { escaped(&sql) };
                format!("CASE WHEN {null} THEN '^N' ELSE {sql} END")
            }
        }
    }

    fn row(self, dialect: Dialect, columns: &[String]) -> String {
        match (self, dialect) {
            // The hash of a row is a sum over its columns: without another hash around it, values
            // that change places between two rows would leave the sum over all rows as it was.
            (Self::Values, _) => format!(
                "hashtextextended(hash_record_extended(ROW({}), {SEED})::text COLLATE \"C\", 0)",
                columns.join(", ")
            ),
            (Self::Record, _) => {
                format!(
                    "hashtextextended(ROW({})::text COLLATE \"C\", 0)",
                    columns.join(", ")
                )
            }
            (Self::Md5, Dialect::Mysql) => format!(
                "CAST(CONV(LEFT(MD5(CONCAT({})), 15), 16, 10) AS UNSIGNED)",
                columns.join(", '|', ")
            ),
            (Self::Md5, _) => format!(
                "('x' || left(md5({}), 15))::bit(60)::int8",
                columns.join(" || '|' || ")
            ),
        }
    }
}

/// A text in which `|` stands nowhere and `^` only before one of few letters.
fn escaped(sql: &str) -> String {
    format!("REPLACE(REPLACE({sql}, '^', '^^'), '|', '^p')")
}

/// The texts of one column, legacy and extracted.
type Both = (Text, Text);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_hashed_as_one() {
        let text = |sql: &str, plain| Text {
            null: format!("{sql} IS NULL"),
            sql: sql.to_owned(),
            plain,
            fallible: false,
            own: None,
        };
        let one = Hash::Md5.column(Dialect::Postgres, &text("a", true), false);
        let two = Hash::Md5.column(Dialect::Mysql, &text("b", false), false);
        assert_eq!(one, "CASE WHEN a IS NULL THEN '^N' ELSE a END");
        assert_eq!(
            two,
            "CASE WHEN b IS NULL THEN '^N' ELSE REPLACE(REPLACE(CAST(b AS BINARY), '^', '^^'), '|', '^p') END"
        );
        assert_eq!(
            Hash::Record.row(Dialect::Postgres, &["a".to_owned(), "b".to_owned()]),
            "hashtextextended(ROW(a, b)::text COLLATE \"C\", 0)"
        );
        let own = Text {
            own: Some("float8send(c)".to_owned()),
            ..text("c", true)
        };
        let values = |text: &Text, prefixed| Hash::Values.column(Dialect::Postgres, text, prefixed);
        assert_eq!(values(&own, false), "float8send(c)");
        assert_eq!(values(&text("c", true), false), "(c)::text COLLATE \"C\"");
        assert!(
            values(&own, true).contains("'!'"),
            "some values cannot be mapped"
        );
    }
}
