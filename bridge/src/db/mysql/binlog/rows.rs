//! Rows of the log: where each value begins and ends, and the values of the columns that are
//! wanted. Pure.

use super::event::{Logged, Rows, code};
use super::wire::{Bits, Reader};

/// A column's value in one image of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// The log does not tell it.
    Absent,
    Null,
    Bytes(&'a [u8]),
}

/// The wanted columns of one changed row: before the change and after it.
#[derive(Debug)]
pub(super) struct Changed<'a> {
    pub(super) before: Option<Vec<Value<'a>>>,
    pub(super) after: Option<Vec<Value<'a>>>,
}

impl Rows<'_> {
    /// Every row. `None` when the event does not fit the columns.
    pub(super) fn changes(&self, columns: &[Logged], wanted: &[usize]) -> Option<Vec<Changed<'_>>> {
        if columns.len() != self.width {
            return None;
        }
        let mut left = Reader(&self.data);
        let mut found = Vec::new();
        while !left.0.is_empty() {
            let before = left.0.len();
            let mut image = |there: Option<Bits<'_>>| match there {
                None => Some(None),
                Some(there) => image(&mut left, columns, there, wanted).map(Some),
            };
            found.push(Changed {
                before: image(self.before)?,
                after: image(self.after)?,
            });
            // Rows without a column would never end.
            (left.0.len() < before).then_some(())?;
        }
        Some(found)
    }
}

fn image<'a>(
    left: &mut Reader<'a>,
    columns: &[Logged],
    there: Bits<'_>,
    wanted: &[usize],
) -> Option<Vec<Value<'a>>> {
    let nulls = left.bits(there.count(columns.len()))?;
    let mut found = vec![Value::Absent; wanted.len()];
    let present = (0..columns.len()).filter(|&at| there.has(at));
    for (place, at) in present.enumerate() {
        let value = if nulls.has(place) {
            Value::Null
        } else {
            Value::Bytes(value(left, &columns[at])?)
        };
        // A key may name a column once only, but that is no reason to rely on it.
        for (slot, _) in wanted.iter().enumerate().filter(|(_, w)| **w == at) {
            found[slot] = value;
        }
    }
    Some(found)
}

/// A value's own bytes, without the length that may stand before them.
fn value<'a>(left: &mut Reader<'a>, column: &Logged) -> Option<&'a [u8]> {
    let meta = usize::from(column.meta);
    let fraction = |meta: usize| meta.min(6).div_ceil(2);
    let length = match column.code {
        code::NULL => 0,
        code::TINY | code::YEAR => 1,
        code::SHORT => 2,
        code::INT24 | code::DATE | code::NEWDATE | code::TIME => 3,
        code::LONG | code::FLOAT | code::TIMESTAMP => 4,
        code::LONGLONG | code::DOUBLE | code::DATETIME => 8,
        code::TIMESTAMP2 => 4 + fraction(meta),
        code::DATETIME2 => 5 + fraction(meta),
        code::TIME2 => 3 + fraction(meta),
        code::DECIMAL => decimal_length(column.meta),
        code::BIT => (meta >> 8) + usize::from(meta & 0xff != 0),
        code::ENUM | code::SET => meta,
        code::STRING | code::VARCHAR | code::VAR_STRING | code::VARCHAR_COMPRESSED => {
            left.size(if meta > 255 { 2 } else { 1 })?
        }
        code::TINY_BLOB..=code::BLOB
        | code::JSON
        | code::GEOMETRY
        | code::VECTOR
        | code::BLOB_COMPRESSED
            if (1..=4).contains(&meta) =>
        {
            left.size(meta)?
        }
        _ => return None,
    };
    left.take(length)
}

/// Bytes of so many digits, up to nine.
pub(super) const DIGITS: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

fn decimal_length(meta: u16) -> usize {
    let [digits, after] = meta.to_be_bytes().map(usize::from);
    let before = digits.saturating_sub(after);
    let of = |digits: usize| digits / 9 * 4 + DIGITS[digits % 9];
    of(before) + of(after)
}
