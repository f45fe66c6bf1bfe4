//! What a row of the log says: which key has changed, and what the row is now. Pure.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::packed::Packed;
use super::pgoutput::{Relation, Row, Tuple, Value};
use crate::db::images::{self, Texts};
use crate::db::keys::{key_cell, unhex};
use crate::db::postgres::wire::{self, Native};
use crate::plan::{KEY_COLUMNS, Table};
use crate::typed::{Class, is_clock, is_far};
use crate::value::{Cell, Kind};

/// A change as `changes` has it.
pub(super) struct Noted {
    pub(super) table: Arc<str>,
    pub(super) op: Cow<'static, str>,
    pub(super) at: i64,
    pub(super) key: Vec<Cell>,
    pub(super) told: Told,
    /// Its rows, where they are to be noted.
    pub(super) rows: Option<Texts>,
}

impl std::fmt::Debug for Noted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Rows may hold what nobody should read in a log.
        f.debug_tuple("Noted").field(&self.table).finish()
    }
}

/// What the log tells of the row behind a change.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Told {
    /// Not enough to do without looking at it.
    Nothing,
    Gone,
    Row {
        row: crate::plan::Row,
        /// Whether it was inserted.
        fresh: bool,
    },
    /// As it came.
    Packed {
        row: Packed,
        fresh: bool,
    },
}

/// A table's name, and per column of it the place in the rows of the log.
#[derive(Debug, PartialEq)]
pub(super) struct Layout {
    name: Arc<str>,
    pub(super) places: Vec<Option<usize>>,
    /// The types of the columns of the log.
    types: Vec<u32>,
    /// Whether all columns are there, with the types that the table has them in, in forms that
    /// every server reads.
    packs: bool,
    /// Whether rows are noted, with the table.
    noting: Option<Table>,
}

/// Why a row of the log cannot be noted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unkeyed {
    /// It does not have this column of the key.
    Missing(String),
    /// A value of the key is in a form that is not known here.
    Unread,
}

impl Layout {
    pub(super) fn of(table: &Table, relation: Option<&Relation>, noting: bool) -> Self {
        let columns = relation.map_or(&[][..], |relation| &relation.columns);
        let types: Vec<u32> = relation.map_or_else(Vec::new, |relation| {
            relation.types.iter().map(|(id, _)| *id).collect()
        });
        let place = |name: &String| columns.iter().position(|column| column == name);
        let places: Vec<Option<usize>> = table.columns.iter().map(|c| place(&c.name)).collect();
        let native = |(column, place): (&crate::plan::Column, &Option<usize>)| {
            let id = place.and_then(|at| types.get(at));
            Native::of(&column.kind).is_some_and(|native| Some(&native.id) == id)
        };
        Self {
            name: Arc::from(table.name.as_str()),
            packs: table.columns.iter().zip(&places).all(native),
            places,
            types,
            noting: noting.then(|| table.clone()),
        }
    }

    /// Both ends of a change as they are noted; `None` where keys alone are, or nothing can be told.
    fn texts(&self, row: &Row<'_>) -> Option<Texts> {
        let table = self.noting.as_ref()?;
        let text = |tuple: &Tuple<'_>| {
            let row = self.values(table, tuple)?;
            Some(images::of_row(table, &row))
        };
        let was = match &row.old {
            Some(old) if row.old_whole => text(old).unwrap_or_else(|| {
                images::of_reason("the log does not tell every value of the row from before")
            }),
            _ if row.fresh => images::GONE.to_owned(),
            _ => images::of_reason(UNIDENTIFIED),
        };
        let became = match (&row.new, &row.old) {
            (None, _) => images::GONE.to_owned(),
            // A large value that was not touched is told with the old row.
            (Some(new), Some(old)) if row.old_whole => {
                // Both are of one relation.
                let both = new.iter().zip(old);
                let whole = both.map(|(new, old)| match new {
                    Value::Unchanged => *old,
                    other => *other,
                });
                text(&whole.collect())?
            }
            (Some(new), _) => text(new)?,
        };
        Texts::new(was, became)
    }

    /// The text of the value at a place; `None` for NULL. What is not there, or is in a form that
    /// is not known, is an error.
    fn text<'a>(&self, tuple: &[Value<'a>], at: usize) -> Result<Option<Cow<'a, str>>, Unread> {
        match tuple.get(at) {
            Some(Value::Text(text)) => Ok(Some(Cow::Borrowed(text))),
            Some(Value::Null) => Ok(None),
            Some(Value::Binary(bytes)) => {
                let read = self.types.get(at).and_then(|id| wire::text(*id, bytes));
                read.map(|text| Some(Cow::Owned(text))).ok_or(Unread::Form)
            }
            Some(Value::Unchanged) | None => Err(Unread::Missing),
        }
    }

    /// A row in the form in which it would be read; `None` where the log does not have all of it.
    pub(super) fn values(&self, table: &Table, tuple: &[Value<'_>]) -> Option<crate::plan::Row> {
        let columns = table.columns.iter().zip(&self.places);
        columns
            .map(|(column, place)| match self.text(tuple, (*place)?).ok()? {
                None => Some(Cell::Null),
                Some(text) => value(&column.kind, &text),
            })
            .collect()
    }

    /// Whether a row can be handed on as it came.
    fn packs(&self, tuple: &[Value<'_>]) -> bool {
        let whole = |at: &Option<usize>| {
            let value = at.and_then(|at| tuple.get(at));
            matches!(value, Some(Value::Binary(_) | Value::Null))
        };
        self.packs && self.places.iter().all(whole)
    }
}

const UNIDENTIFIED: &str =
    "the log does not have the row from before: the table's replica identity is not FULL";

/// Why a value of the log has no text.
enum Unread {
    Missing,
    Form,
}

/// The lower half of a transaction's number, which is what the log has.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // That is what it does.
pub(super) fn low(xid: i64) -> u32 {
    xid as u32
}

/// Whether a transaction is older than another, of numbers that go round.
#[allow(clippy::cast_possible_wrap)] // Half the circle is before, half after.
pub(super) fn before(xid: u32, than: i64) -> bool {
    (xid.wrapping_sub(low(than)) as i32) < 0
}

/// Milliseconds since 1970 of microseconds since 2000.
pub(super) fn since_1970(micros: i64) -> i64 {
    const BETWEEN: i64 = 946_684_800_000;
    micros / 1_000 + BETWEEN
}

/// What a row of the log changes: its key, and its former key if that was another. With whole rows
/// also those, of this message.
pub(super) fn changes_of(
    table: &Table,
    layout: &Arc<Layout>,
    row: &Row<'_>,
    (at, whole): (i64, Option<&Bytes>),
) -> Result<[Option<Noted>; 2], Unkeyed> {
    let key = |tuple: &Tuple<'_>| {
        let of = |&place: &usize| {
            let column = &table.columns[place];
            let at = layout.places.get(place).copied().flatten();
            match layout.text(tuple, at.unwrap_or(usize::MAX)) {
                Ok(Some(text)) => Ok(cell(&column.kind, &text)),
                // An old key has only what identifies the row; a NULL in it matches nothing.
                Ok(None) => Ok(Cell::Null),
                Err(Unread::Missing) => Err(Unkeyed::Missing(column.name.clone())),
                Err(Unread::Form) => Err(Unkeyed::Unread),
            }
        };
        table
            .key
            .iter()
            .map(of)
            .collect::<Result<Vec<_>, Unkeyed>>()
    };
    let noted = |op, key, told, rows| {
        Some(Noted {
            table: Arc::clone(&layout.name),
            op: Cow::Borrowed(op),
            at,
            key,
            told,
            rows,
        })
    };
    let rows = layout.texts(row);
    let told = || {
        let (Some(message), Some(tuple)) = (whole, row.new.as_ref()) else {
            return Told::Nothing;
        };
        let fresh = row.fresh;
        if layout.packs(tuple) {
            let row = Packed::new(message.slice_ref(row.told), Arc::clone(layout));
            return Told::Packed { row, fresh };
        }
        let row = layout.values(table, tuple);
        row.map_or(Told::Nothing, |row| Told::Row { row, fresh })
    };
    let old = row.old.as_ref().map(key).transpose()?;
    let new = match (&row.new, &old) {
        (None, _) => None,
        // A key that is stored apart and was not touched is told with the old row.
        (Some(tuple), Some(old)) => Some(match key(tuple) {
            Err(Unkeyed::Missing(_)) => old.clone(),
            other => other?,
        }),
        (Some(tuple), None) => Some(key(tuple)?),
    };
    Ok(match (old, new) {
        (Some(old), None) => [noted("d", old, Told::Gone, rows), None],
        (Some(old), Some(new)) if old != new => {
            let (left, arrived) = rows.map(Texts::moved).unzip();
            let first = noted("d", old, Told::Gone, left);
            [first, noted("u", new, told(), arrived)]
        }
        // An insert and an update without an old row look alike.
        (_, Some(new)) => [noted("u", new, told(), rows), None],
        (None, None) => [None, None],
    })
}

/// A note of our own: its id, and what it says.
pub(super) fn note_of(relation: &Relation, row: &Row<'_>) -> Option<(String, Noted)> {
    let tuple = row.new.as_ref().filter(|_| row.old.is_none())?;
    let of = |name: &str| {
        let at = relation.columns.iter().position(|column| column == name)?;
        match tuple.get(at)? {
            Value::Text(text) => Some((*text).to_owned()),
            Value::Binary(bytes) => wire::text(relation.types.get(at)?.0, bytes),
            Value::Null | Value::Unchanged => None,
        }
    };
    let key = (0..KEY_COLUMNS).map(|at| of(&format!("k{at}")).map_or(Cell::Null, Cell::Text));
    let noted = Noted {
        table: Arc::from(of("tbl")?),
        op: Cow::Owned(of("op")?),
        at: of("at")?.parse().ok()?,
        key: key.map(|stored| key_cell(&stored)).collect(),
        told: Told::Nothing,
        rows: None,
    };
    Some((of("id")?, noted))
}

/// A value of the log as a statement would read it; `None` where that cannot be told.
fn value(kind: &Kind, text: &str) -> Option<Cell> {
    let Kind::Postgres(typed) = kind else {
        return None;
    };
    let found = match typed.class {
        // A cast to text takes the padding off.
        Class::Text if typed.base == "bpchar" => Cell::from(text.trim_end_matches(' ')),
        _ => cell(kind, text),
    };
    let known = match (typed.class, &found) {
        (Class::Int | Class::Bool, found) => matches!(found, Cell::Int(_)),
        (Class::Real | Class::Real4, found) => matches!(found, Cell::Real(_)),
        (Class::Bytes, found) => matches!(found, Cell::Blob(_)),
        (Class::Instant, Cell::Text(text)) if is_far(text) => {
            text.contains('Z') || text.ends_with("infinity")
        }
        (Class::Timestamp, Cell::Text(text)) if is_far(text) => true,
        (Class::Instant, Cell::Text(text)) => dated(text) && text.ends_with('Z'),
        (Class::Timestamp, Cell::Text(text)) => {
            dated(text) && text.ends_with(|last: char| last.is_ascii_digit())
        }
        (Class::Instant | Class::Timestamp, _) => false,
        _ => true,
    };
    known.then_some(found)
}

fn dated(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 19 && bytes[4] == b'-' && bytes[..4].iter().all(u8::is_ascii_digit)
}

/// A value of the log in the one form of its column's class.
fn cell(kind: &Kind, text: &str) -> Cell {
    let Kind::Postgres(typed) = kind else {
        return Cell::from(text);
    };
    match typed.class {
        Class::Int => match text.parse() {
            Ok(number) => Cell::Int(number),
            Err(_) => typed.store(Cell::from(text)),
        },
        Class::Instant => utc(text).unwrap_or_else(|| typed.store(Cell::from(text))),
        Class::Bool => Cell::Int(i64::from(text == "t")),
        // A cast to text tells the mask of a sole address, too.
        Class::AsWritten if typed.base == "inet" && !text.contains('/') => {
            let bits = if text.contains(':') { 128 } else { 32 };
            Cell::Text(format!("{text}/{bits}"))
        }
        Class::Bytes => text
            .strip_prefix("\\x")
            .and_then(unhex)
            .map_or_else(|| Cell::from(text), Cell::Blob),
        _ => typed.store(Cell::from(text)),
    }
}

/// An instant as the log mostly has it, which is in UTC.
fn utc(text: &str) -> Option<Cell> {
    let clock = text.strip_suffix("+00")?;
    let fraction = clock.as_bytes().get(19..)?;
    let plain = match fraction {
        [] => true,
        [b'.', digits @ ..] => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !plain || !is_clock(clock.as_bytes(), b' ') {
        return None;
    }
    let kept = match fraction {
        [] => clock,
        _ => clock.trim_end_matches('0').trim_end_matches('.'),
    };
    let (date, time) = (kept.get(..10)?, kept.get(11..)?);
    let mut whole = String::with_capacity(kept.len() + 1);
    whole.push_str(date);
    whole.push('T');
    whole.push_str(time);
    whole.push('Z');
    Some(Cell::Text(whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::typed::Typed;

    #[test]
    fn values_are_those_that_a_statement_reads() {
        let read = |full: &str, base: &str, text: &str| {
            value(&Kind::Postgres(Typed::postgres(full, base)), text)
        };
        let (instant, local) = ("timestamp with time zone", "timestamp without time zone");
        for (full, base, text, expected) in [
            ("bigint", "bigint", "-7", Cell::Int(-7)),
            ("boolean", "boolean", "t", Cell::Int(1)),
            ("numeric(10,2)", "numeric", "1.50", Cell::from("1.50")),
            ("real", "real", "0.1", Cell::Real(f64::from(0.1f32))),
            ("character(4)", "character", "ab  ", Cell::from("ab")),
            ("text", "text", "ab  ", Cell::from("ab  ")),
            ("bytea", "bytea", "\\x00ff", Cell::Blob(vec![0, 255])),
            ("inet", "inet", "10.0.0.1", Cell::from("10.0.0.1/32")),
            ("inet", "inet", "::1", Cell::from("::1/128")),
            ("inet", "inet", "10.0.0.1/8", Cell::from("10.0.0.1/8")),
            (
                instant,
                instant,
                "2026-01-02 03:04:05.5+00",
                Cell::from("2026-01-02T03:04:05.5Z"),
            ),
            (
                instant,
                instant,
                "2026-01-02 03:04:50+00",
                Cell::from("2026-01-02T03:04:50Z"),
            ),
            (
                instant,
                instant,
                "2026-01-02 03:04:05.000120+00",
                Cell::from("2026-01-02T03:04:05.00012Z"),
            ),
            (
                local,
                local,
                "2026-01-02 03:04:05.120",
                Cell::from("2026-01-02 03:04:05.12"),
            ),
            (instant, instant, "infinity", Cell::from("infinity")),
            (local, local, "-infinity", Cell::from("-infinity")),
            (
                instant,
                instant,
                "0044-03-15 12:00:00+00 BC",
                Cell::from("0044-03-15T12:00:00Z BC"),
            ),
            (
                local,
                local,
                "12026-01-02 03:04:05",
                Cell::from("12026-01-02 03:04:05"),
            ),
        ] {
            assert_eq!(read(full, base, text), Some(expected), "{text} of {full}");
        }
        for (base, text) in [
            ("bytea", "\\000"),
            ("double precision", "much"),
            (instant, "1890-01-02 03:04:05+00:53:28"),
            (instant, "0044-03-15 12:00:00+00:53:28 BC"),
        ] {
            assert_eq!(read(base, base, text), None, "{text} of {base}");
        }
    }

    const MESSAGE: Bytes = Bytes::from_static(b"in all its length");

    fn table() -> Table {
        let column = |name: &str| crate::plan::Column {
            name: name.to_owned(),
            kind: Kind::Postgres(Typed::postgres("bigint", "bigint")),
            required: true,
        };
        Table {
            name: "item".to_owned(),
            columns: vec![column("id"), column("n")],
            key: vec![0],
            forms: Vec::new(),
            loose: false,
            others: Vec::new(),
            other_unique: Vec::new(),
            autoincrement: false,
            written_by_others: false,
            only: Vec::new(),
        }
    }

    fn layout(types: [u32; 2]) -> Arc<Layout> {
        let relation = Relation {
            id: 1,
            columns: vec!["n".to_owned(), "id".to_owned()],
            types: types.map(|id| (id, u32::MAX)).to_vec(),
            came: 0,
        };
        Arc::new(Layout::of(&table(), Some(&relation), false))
    }

    type Changes = Result<Vec<(Cell, Told)>, Unkeyed>;

    fn told(
        types: [u32; 2],
        old: Option<Tuple<'_>>,
        new: Option<Tuple<'_>>,
        whole: bool,
    ) -> Changes {
        let row = Row {
            relation: 1,
            fresh: old.is_none(),
            old,
            old_whole: false,
            new,
            told: &MESSAGE[3..6],
        };
        let message = MESSAGE;
        let whole = whole.then_some(&message);
        let noted = changes_of(&table(), &layout(types), &row, (0, whole))?;
        let noted = noted.into_iter().flatten();
        Ok(noted.map(|n| (n.key[0].clone(), n.told)).collect())
    }

    #[test]
    fn a_row_is_told_whole_or_not_at_all() {
        let told = |old, new, whole| told([20, 20], old, new, whole).unwrap();
        let (one, two) = (Value::Text("1"), Value::Text("2"));
        let row = |fresh| Told::Row {
            row: vec![Cell::Int(1), Cell::Int(2)],
            fresh,
        };
        let i1 = || Cell::Int(1);
        assert_eq!(told(None, Some(vec![two, one]), true), [(i1(), row(true))]);
        assert_eq!(
            told(None, Some(vec![two, one]), false),
            [(i1(), Told::Nothing)]
        );
        let untouched = vec![Value::Unchanged, one];
        assert_eq!(told(None, Some(untouched), true), [(i1(), Told::Nothing)]);
        assert_eq!(
            told(Some(vec![Value::Null, one]), None, true),
            [(i1(), Told::Gone)]
        );
        let moved = told(Some(vec![Value::Null, two]), Some(vec![two, one]), true);
        assert_eq!(moved, [(Cell::Int(2), Told::Gone), (i1(), row(false))]);
    }

    #[test]
    fn a_row_of_the_very_types_of_its_table_is_left_as_it_came() {
        let (b1, b2) = (1i64.to_be_bytes(), 2i64.to_be_bytes());
        let (one, two) = (Value::Binary(&b1), Value::Binary(&b2));
        let packed = |types| Told::Packed {
            row: Packed::new(MESSAGE.slice(3..6), layout(types)),
            fresh: true,
        };
        let first = |types, new| told(types, None, Some(new), true).map(|mut all| all.remove(0));
        let i1 = || Cell::Int(1);
        let native = [20, 20];
        assert_eq!(first(native, vec![two, one]), Ok((i1(), packed(native))));
        let nulled = vec![Value::Null, one];
        assert_eq!(first(native, nulled), Ok((i1(), packed(native))));
        let untouched = vec![Value::Unchanged, one];
        assert_eq!(first(native, untouched), Ok((i1(), Told::Nothing)));
        // A column that has become another since the plan was made is looked at.
        let four = 2i32.to_be_bytes();
        let other = first([23, 20], vec![Value::Binary(&four), one]);
        let row = Told::Row {
            row: vec![Cell::Int(1), Cell::Int(2)],
            fresh: true,
        };
        assert_eq!(other, Ok((i1(), row)));
        let unknown = first([600, 20], vec![two, one]);
        assert_eq!(unknown, Ok((i1(), Told::Nothing)));
        assert_eq!(first([20, 600], vec![two, one]), Err(Unkeyed::Unread));
    }

    #[test]
    fn transactions_are_older_or_not_also_when_their_numbers_go_round() {
        assert!(before(5, 6));
        assert!(!before(6, 6));
        assert!(before(u32::MAX, 0x1_0000_0003));
        assert!(!before(4, 0xffff_ffff));
    }
}
