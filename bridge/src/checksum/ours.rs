//! The sums of a SQLite table's rows, which has no hash function: we hash them, as the other
//! engine hashes what its rows must be; by PostgreSQL's own hash of values, where the server's is
//! ours, else by MD5. Pure.
//!
//! What a row must be on the other side is made by the mapping itself, so every mapping has such a
//! sum. A row that cannot be mapped has none; nor has one with a value of another type than its
//! column's on the other side, whose text could be taken for it.

use md5::{Digest, Md5};
use outgrow_rollout::Side;

use super::record::{Form, Record};
use crate::plan::{Back, Column, Group, Row};
use crate::typed::Class;
use crate::value::{Affinity, Cell, Kind};

/// Texts that are put together before they are hashed; longer ones are hashed where they are.
const TOGETHER: usize = 16 << 10;

/// How the rows of a part are hashed on the side that is SQLite.
#[derive(Debug)]
pub(crate) struct Ours {
    part: usize,
    hashed: Vec<Hashed>,
    /// Extracted columns that must come of what is hashed again; none on the legacy side.
    checked: Vec<usize>,
    side: Side,
    /// Whether rows go by PostgreSQL's own hash.
    values: bool,
}

/// One column of the other side.
#[derive(Debug)]
struct Hashed {
    /// Its place there.
    at: usize,
    kind: Kind,
    plain: bool,
    /// The place here of the value that is carried over as it is, and by nothing else.
    same: Option<usize>,
    /// How to have it back, of a legacy column.
    back: Option<Back>,
    /// How PostgreSQL's own hash takes it, where rows go by that and not by MD5.
    form: Option<Form>,
}

impl Ours {
    /// Of a legacy table's rows, as rows of a part. `columns` are those of it that are compared.
    pub(super) fn legacy(group: &Group, part: usize, columns: &[usize], values: bool) -> Self {
        let table = &group.tables(Side::Extracted)[part];
        let hashed = columns.iter().map(|&at| {
            let same = group.ways(part)[at].same();
            let same = same.filter(|_| !group.has_key_forms());
            Hashed::of(at, &table.columns[at], same, None).by(values)
        });
        Self {
            part,
            hashed: hashed.collect(),
            checked: Vec::new(),
            side: Side::Legacy,
            values,
        }
    }

    /// Of a part's rows, as the values of the legacy columns that make its `columns`.
    pub(super) fn extracted(
        group: &Group,
        part: usize,
        (columns, legacy): (&[usize], &[usize]),
        values: bool,
    ) -> Result<Self, String> {
        let table = &group.tables(Side::Legacy)[0];
        let ways = group.ways(part);
        let (mut hashed, mut simple) = (Vec::new(), Vec::new());
        for &from in legacy {
            let column = &table.columns[from];
            let Some(back) = group.back_from(part, from) else {
                return Err(format!(
                    "{}.{}: it does not come back from `{}`",
                    table.name,
                    column.name,
                    group.tables(Side::Extracted)[part].name
                ));
            };
            let mut of = columns
                .iter()
                .filter(|&&at| ways[at].from().contains(&from));
            let same = match (of.next(), of.next()) {
                // Where keys are written otherwise, they are needed whole.
                (Some(&at), None) if ways[at].same().is_some() && !group.has_key_forms() => {
                    Some(at)
                }
                _ => None,
            };
            simple.extend(same);
            hashed.push(Hashed::of(from, column, same, Some(back.clone())).by(values));
        }
        let mut checked = columns.to_vec();
        checked.retain(|at| !simple.contains(at));
        Ok(Self {
            part,
            hashed,
            checked,
            side: Side::Extracted,
            values,
        })
    }

    /// A row's hash, as the other engine makes it. `scratch` is used again and again.
    pub(crate) fn hash(&self, group: &Group, row: &Row, scratch: &mut Scratch) -> Option<i64> {
        match self.values {
            true => scratch.made.record.clear(),
            false => scratch.made.text.clear(),
        }
        match self.side {
            Side::Legacy => self.forth(group, row, scratch)?,
            Side::Extracted => self.back(group, row, scratch)?,
        }
        Some(match self.values {
            true => scratch.made.record.finish(),
            false => scratch.made.text.finish(),
        })
    }

    fn forth(&self, group: &Group, row: &Row, scratch: &mut Scratch) -> Option<()> {
        for (nth, column) in self.hashed.iter().enumerate() {
            match column.as_it_is(row) {
                Some(cell) => column.put(nth, cell, &mut scratch.made)?,
                None => {
                    let made = group.made(self.part, column.at, row).ok()?;
                    column.put(nth, &made, &mut scratch.made)?;
                }
            }
        }
        group.is_known_as(self.part, row).then_some(())
    }

    fn back(&self, group: &Group, row: &Row, scratch: &mut Scratch) -> Option<()> {
        scratch.row.resize(group.width(), Cell::Null);
        let kinds = &group.tables(Side::Extracted)[self.part].columns;
        for (nth, column) in self.hashed.iter().enumerate() {
            // What both sides keep as it is needs no proof that it comes again.
            let kept = column.as_it_is(row).filter(|cell| {
                let here = column.same.map(|at| &kinds[at].kind);
                here.is_some_and(|kind| is_kept(cell, kind))
            });
            if let Some(cell) = kept {
                column.put(nth, cell, &mut scratch.made)?;
                continue;
            }
            let undone = group.undone(column.back.as_ref()?, column.at, row).ok()?;
            column.put(nth, &undone, &mut scratch.made)?;
            scratch.row[column.at] = undone;
            if let Some(at) = column.same
                && !group.comes_of(self.part, at, &scratch.row, row)
            {
                return None;
            }
        }
        let comes = |&at: &usize| group.comes_of(self.part, at, &scratch.row, row);
        let known = group.is_known_as(self.part, &scratch.row);
        (known && self.checked.iter().all(comes)).then_some(())
    }
}

/// What is used again for each row.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    row: Row,
    made: Made,
}

/// Of a row on its way into the hash, by one of two ways.
#[derive(Debug, Default)]
struct Made {
    text: Text,
    record: Record,
}

impl Hashed {
    fn of(at: usize, column: &Column, same: Option<usize>, back: Option<Back>) -> Self {
        Self {
            at,
            kind: column.kind.clone(),
            plain: super::column::is_plain(&column.kind),
            same,
            back,
            form: None,
        }
    }

    /// By PostgreSQL's own hash, or by MD5.
    fn by(mut self, values: bool) -> Self {
        self.form = match &self.kind {
            Kind::Postgres(kind) => values.then(|| Form::of(kind)),
            Kind::Mysql(_) | Kind::Sqlite(_) => None,
        };
        self
    }

    /// The value that the other side has as it is here.
    fn as_it_is<'r>(&self, row: &'r Row) -> Option<&'r Cell> {
        let cell = &row[self.same?];
        (cell.is_null() || is_kept(cell, &self.kind)).then_some(cell)
    }

    /// Hashes a value as the other engine shows it; `None` where it has no such value.
    fn put(&self, nth: usize, cell: &Cell, made: &mut Made) -> Option<()> {
        if let Some(form) = self.form {
            made.record.add(form.hash(cell)?);
            return Some(());
        }
        let text = &mut made.text;
        text.next(nth);
        let (kind, postgres) = match &self.kind {
            Kind::Postgres(kind) => (kind, true),
            Kind::Mysql(kind) => (kind, false),
            Kind::Sqlite(_) => return None,
        };
        match (kind.class, cell) {
            (_, Cell::Null) => text.put(b"^N"),
            (Class::Int | Class::Bool, Cell::Int(i)) => text.number(*i),
            (Class::Real | Class::Real4, Cell::Real(r)) if postgres => {
                text.hex(&r.to_bits().to_be_bytes());
            }
            (Class::Real | Class::Real4, Cell::Real(r)) => text.put(float(*r).as_bytes()),
            (Class::Bytes, Cell::Blob(bytes)) => text.hex(bytes),
            (Class::Int | Class::Bool | Class::Real | Class::Real4 | Class::Bytes, _) => {
                return None;
            }
            (_, Cell::Text(value)) if !self.plain => text.escaped(value.as_bytes()),
            (_, Cell::Text(value)) if value.contains(['|', '^']) => return None,
            (_, Cell::Text(value)) => text.put(value.as_bytes()),
            _ => return None,
        }
        Some(())
    }
}

/// Whether a column stores the value as it is.
fn is_kept(cell: &Cell, kind: &Kind) -> bool {
    match (cell, kind) {
        (_, Kind::Postgres(kind) | Kind::Mysql(kind)) => kind.keeps(cell),
        (Cell::Null, _) => true,
        (Cell::Text(_), Kind::Sqlite(affinity)) => *affinity == Affinity::Text,
        (Cell::Int(_), Kind::Sqlite(affinity)) => {
            matches!(affinity, Affinity::Integer | Affinity::Numeric)
        }
        // Zero has no sign there, and what is no number is no value.
        (Cell::Real(r), Kind::Sqlite(affinity)) => {
            *affinity == Affinity::Real && (r.to_bits() == 0 || *r != 0.0) && !r.is_nan()
        }
        (Cell::Blob(_), Kind::Sqlite(affinity)) => *affinity == Affinity::Blob,
        (Cell::BadText(_), _) => false,
    }
}

/// A float as MySQL and MariaDB write it: as few digits as tell it from all others, and an exponent
/// where the point is more than 15 places from the first of them.
fn float(value: f64) -> String {
    let text = format!("{value:e}");
    let Some((digits, exponent)) = text.split_once('e') else {
        return text;
    };
    match exponent.parse::<i32>() {
        Ok(-15..=14) => format!("{value}"),
        _ => format!("{digits}e{exponent}"),
    }
}

/// The text of a row on its way into the hash.
#[derive(Debug, Default)]
struct Text {
    open: Vec<u8>,
    hash: Md5,
}

impl Text {
    fn clear(&mut self) {
        self.open.clear();
        self.hash.reset();
    }

    /// Between two columns.
    fn next(&mut self, nth: usize) {
        if nth > 0 {
            self.put(b"|");
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        if self.open.len() + bytes.len() > TOGETHER {
            self.hash.update(&self.open);
            self.open.clear();
        }
        if bytes.len() > TOGETHER {
            self.hash.update(bytes);
        } else {
            self.open.extend_from_slice(bytes);
        }
    }

    fn number(&mut self, number: i64) {
        self.put(itoa::Buffer::new().format(number).as_bytes());
    }

    fn hex(&mut self, bytes: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut made = [0_u8; 512];
        for some in bytes.chunks(made.len() / 2) {
            for (pair, byte) in made.chunks_exact_mut(2).zip(some) {
                pair[0] = DIGITS[usize::from(byte >> 4)];
                pair[1] = DIGITS[usize::from(byte & 15)];
            }
            self.put(&made[..2 * some.len()]);
        }
    }

    /// A text in which `|` stands nowhere and `^` only before one of few letters.
    fn escaped(&mut self, mut bytes: &[u8]) {
        while let Some(at) = bytes.iter().position(|b| matches!(b, b'|' | b'^')) {
            self.put(&bytes[..at]);
            self.put(if bytes[at] == b'|' { b"^p" } else { b"^^" });
            bytes = &bytes[at + 1..];
        }
        self.put(bytes);
    }

    /// Its first 15 hexadecimal digits.
    fn finish(&mut self) -> i64 {
        self.hash.update(&self.open);
        self.open.clear();
        let digest = self.hash.finalize_reset();
        let first = digest.iter().take(8);
        let first = first.fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        (first >> 4).cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_hashed_as_engines_hash_it() {
        let mut text = Text::default();
        text.put(b"1");
        text.next(1);
        text.escaped(b"a|b^c");
        text.next(2);
        text.hex(&[0, 255]);
        // SELECT ('x' || left(md5('1|a^pb^^c|00ff'), 15))::bit(60)::int8
        assert_eq!(text.finish(), 805_670_894_949_704_723);
        // Long texts are hashed in pieces, and nothing is left for the next.
        let long = "x^".repeat(TOGETHER);
        text.escaped(long.as_bytes());
        let whole = text.finish();
        let mut hash = Md5::new();
        hash.update(long.replace('^', "^^"));
        let digest = hash.finalize();
        let first = digest
            .iter()
            .take(8)
            .fold(0_u64, |sum, b| sum << 8 | u64::from(*b));
        assert_eq!(whole, (first >> 4).cast_signed());
    }

    #[test]
    fn floats_are_written_as_mysql_writes_them() {
        for (value, text) in [
            (0.1, "0.1"),
            (-0.5, "-0.5"),
            (12_345_678.5, "12345678.5"),
            (1e14, "100000000000000"),
            (1e15, "1e15"),
            (1e-15, "0.000000000000001"),
            (1e-16, "1e-16"),
            (1.5e300, "1.5e300"),
        ] {
            assert_eq!(float(value), text);
        }
    }
}
