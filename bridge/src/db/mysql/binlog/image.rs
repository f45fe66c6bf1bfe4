//! Whole rows of the log, for events that show the row from before a change. Pure.

use super::event::Logged;
use super::noted::Shape;
use super::rows::{Changed, Value};
use super::value::{Part, part};
use crate::db::images::{self, GONE, Texts};
use crate::db::keys::key_cell;
use crate::plan::{Column, Row, Table};
use crate::typed::Class;
use crate::value::{Cell, Kind};

/// Where the table's columns are in the log's rows; one that is not there is nowhere.
pub(super) fn places(table: &Table, columns: &[Logged]) -> Vec<usize> {
    let place = |column: &Column| {
        let name = column.name.to_lowercase();
        let same = |logged: &Logged| {
            let logged = logged.name.as_ref();
            logged.is_some_and(|logged| logged.to_lowercase() == name)
        };
        columns.iter().position(same).unwrap_or(usize::MAX)
    };
    table.columns.iter().map(place).collect()
}

/// Both ends of a change as they are noted; `None` where keys alone are, or nothing can be told.
pub(super) fn texts(
    shape: &Shape,
    columns: &[Logged],
    places: &[usize],
    row: &Changed<'_>,
) -> Option<Texts> {
    let key = shape.table.key.len();
    let charsets = shape.noting.as_deref()?;
    let of = |values: &[Value<'_>], others: Option<&[Value<'_>]>| {
        let cells = shape.table.columns.iter().enumerate().map(|(at, column)| {
            let value = match values.get(key + at)? {
                // What an update did not touch may be missing after it.
                Value::Absent => others?.get(key + at)?,
                value => value,
            };
            match value {
                Value::Absent => None,
                Value::Null => Some(Cell::Null),
                Value::Bytes(bytes) => {
                    let logged = columns.get(*places.get(key + at)?)?;
                    cell(&column.kind, charsets.get(at)?.as_deref(), logged, bytes)
                }
            }
        });
        let row: Row = cells.collect::<Option<Row>>()?;
        Some(images::of_row(&shape.table, &row))
    };
    let was = match row.before.as_deref() {
        None => GONE.to_owned(),
        Some(values) => of(values, None).unwrap_or_else(|| {
            images::of_reason("the log does not tell every value of the row from before")
        }),
    };
    let became = match row.after.as_deref() {
        None => GONE.to_owned(),
        Some(values) => of(values, row.before.as_deref())?,
    };
    Texts::new(was, became)
}

/// A value in the form in which a statement would read it; `None` where it is not known here.
fn cell(kind: &Kind, charset: Option<&str>, logged: &Logged, bytes: &[u8]) -> Option<Cell> {
    let Kind::Mysql(kind) = kind else {
        return None;
    };
    match kind.class {
        Class::Real => {
            let bytes = <[u8; 8]>::try_from(bytes).ok()?;
            Some(Cell::Real(f64::from_le_bytes(bytes)))
        }
        Class::Real4 => {
            let bytes = <[u8; 4]>::try_from(bytes).ok()?;
            Some(Cell::Real(f64::from(f32::from_le_bytes(bytes))))
        }
        Class::Int | Class::Bool | Class::Bits(_) if bytes.len() > 8 => None,
        _ => match part(kind, logged, bytes)? {
            Part::Null => Some(Cell::Null),
            Part::Stored(text) => Some(key_cell(&Cell::Text(text))),
            Part::Foreign(bytes) => text(charset?, bytes).map(Cell::Text),
        },
    }
}

/// Text of a charset that is known here.
fn text(charset: &str, bytes: Vec<u8>) -> Option<String> {
    match charset {
        "utf8mb4" | "utf8mb3" | "utf8" | "ascii" => String::from_utf8(bytes).ok(),
        "latin1" => Some(bytes.into_iter().map(latin1).collect()),
        _ => None,
    }
}

/// What the servers call latin1 is Windows-1252, with the bytes that it leaves out as they are.
fn latin1(byte: u8) -> char {
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž',
        '\u{8f}', '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}',
        'ž', 'Ÿ',
    ];
    match byte {
        0x80..=0x9f => HIGH[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}

/// Whether a column's values can be read from the log at all.
pub(super) fn is_read(kind: &Kind, charset: Option<&str>) -> bool {
    let Kind::Mysql(kind) = kind else {
        return false;
    };
    match kind.class {
        Class::Text => charset.is_some_and(|charset| text(charset, Vec::new()).is_some()),
        Class::AsWritten => matches!(kind.base.as_str(), "date" | "time"),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_their_charset() {
        assert_eq!(
            text("latin1", vec![b'a', 0x80, 0xe9, 0x9f]).as_deref(),
            Some("a€éŸ")
        );
        assert_eq!(text("utf8mb4", "é".into()).as_deref(), Some("é"));
        assert_eq!(text("utf8mb4", vec![0xff]), None);
        assert_eq!(text("sjis", vec![b'a']), None);
    }
}
