//! Values of keys by themselves: what a column may have, and their order in databases. Pure.

use std::cmp::Ordering;

use crate::bits;
use crate::typed::{Class, Typed};
use crate::value::{Affinity, Cell, Kind};

/// How keys of a column look, whatever its type is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Number,
    Text,
    Uuid,
    Bytes,
    /// Of this width, if of one.
    Bits(Option<u32>),
    Float,
    /// Times, and what else is compared as its text.
    AsWritten,
}

impl Shape {
    pub(super) fn of(kind: &Kind) -> Self {
        match kind {
            Kind::Sqlite(Affinity::Integer | Affinity::Numeric) => Self::Number,
            Kind::Sqlite(Affinity::Text) => Self::Text,
            Kind::Sqlite(Affinity::Blob) => Self::Bytes,
            Kind::Sqlite(Affinity::Real) => Self::Float,
            Kind::Postgres(typed) | Kind::Mysql(typed) => match typed.class {
                Class::Int | Class::Bool | Class::Decimal(_) => Self::Number,
                Class::Text => Self::Text,
                Class::Uuid => Self::Uuid,
                Class::Bytes => Self::Bytes,
                Class::Bits(width) => Self::Bits(width),
                Class::Real | Class::Real4 => Self::Float,
                Class::Timestamp | Class::Instant | Class::AsWritten => Self::AsWritten,
            },
        }
    }
}

/// Whether a column of this kind may have this value in a key.
pub(super) fn fits(cell: &Cell, kind: &Kind) -> bool {
    let typed = match kind {
        Kind::Sqlite(affinity) => {
            return matches!(
                (affinity, cell),
                (Affinity::Integer | Affinity::Numeric, Cell::Int(_))
                    | (Affinity::Numeric | Affinity::Real, Cell::Real(_))
                    | (Affinity::Text, Cell::Text(_))
                    | (Affinity::Blob, Cell::Text(_) | Cell::Int(_) | Cell::Blob(_))
            );
        }
        Kind::Postgres(typed) | Kind::Mysql(typed) => typed,
    };
    match (typed.class, cell) {
        (Class::Int, Cell::Int(i)) => (least(kind)..=most(kind)).contains(i),
        (Class::Bool, Cell::Int(i)) => matches!(i, 0 | 1),
        (Class::Decimal(_), Cell::Text(text)) => Number::of(text).is_some(),
        (Class::Uuid, Cell::Text(text)) => is_uuid(text),
        (Class::Bits(width), Cell::Text(text)) => bits::are(text, width),
        (Class::Text | Class::AsWritten | Class::Timestamp | Class::Instant, Cell::Text(_)) => true,
        (Class::Bytes, Cell::Blob(_)) | (Class::Real | Class::Real4, Cell::Real(_)) => true,
        _ => false,
    }
}

/// The whole numbers of a type that a cast of PostgreSQL does not refuse. MySQL compares any.
fn most(kind: &Kind) -> i64 {
    match kind {
        Kind::Postgres(Typed { base, .. }) => match base.as_str() {
            "smallint" => i64::from(i16::MAX),
            "integer" => i64::from(i32::MAX),
            "oid" => i64::from(u32::MAX),
            "boolean" => 1,
            _ => i64::MAX,
        },
        Kind::Sqlite(_) | Kind::Mysql(_) => i64::MAX,
    }
}

fn least(kind: &Kind) -> i64 {
    match kind {
        Kind::Postgres(Typed { base, .. }) => match base.as_str() {
            "smallint" => i64::from(i16::MIN),
            "integer" => i64::from(i32::MIN),
            "oid" | "boolean" => 0,
            _ => i64::MIN,
        },
        Kind::Sqlite(_) | Kind::Mysql(_) => i64::MIN,
    }
}

/// The last value of a column that does not come after one that the column cannot have, or its
/// first one. What is between the same two keys on one side is between them on the other.
pub(super) fn floor(value: Cell, kind: &Kind) -> Cell {
    match Shape::of(kind) {
        Shape::Number => {
            let whole = whole(&value).clamp(i128::from(least(kind)), i128::from(most(kind)));
            let whole = i64::try_from(whole).unwrap_or(i64::MAX);
            Cell::Int(whole).stored_in(kind)
        }
        Shape::Uuid => match value {
            Cell::Text(text) => Cell::Text(last_uuid(&text)),
            other => other,
        },
        Shape::Text | Shape::Bytes | Shape::Bits(_) | Shape::Float | Shape::AsWritten => value,
    }
}

/// The largest whole number that is no larger than this; what is no number comes after all.
#[allow(clippy::cast_possible_truncation)] // A float that is too large becomes the last number.
pub(super) fn whole(value: &Cell) -> i128 {
    match value {
        Cell::Int(i) => i128::from(*i),
        Cell::Real(r) => r.floor() as i128,
        Cell::Text(text) => Number::of(text).map_or(i128::MAX, |number| number.floor()),
        Cell::Null | Cell::Blob(_) | Cell::BadText(_) => i128::MAX,
    }
}

/// A plain decimal number as text.
#[derive(Debug, PartialEq, Eq)]
struct Number<'t> {
    negative: bool,
    whole: &'t str,
    fraction: &'t str,
}

impl<'t> Number<'t> {
    fn of(text: &'t str) -> Option<Self> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let plain = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !plain(whole) || !plain(fraction) {
            return None;
        }
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        Some(Self {
            negative: negative && !(whole.is_empty() && fraction.is_empty()),
            whole,
            fraction,
        })
    }

    fn floor(&self) -> i128 {
        let whole = match self.whole {
            "" => 0,
            digits => digits.parse().unwrap_or(i128::MAX),
        };
        match (self.negative, self.fraction.is_empty()) {
            (false, _) => whole,
            (true, true) => -whole,
            (true, false) => (-whole).saturating_sub(1),
        }
    }

    fn size(&self, other: &Self) -> Ordering {
        let digits = self.whole.len().cmp(&other.whole.len());
        digits
            .then_with(|| self.whole.cmp(other.whole))
            .then_with(|| self.fraction.cmp(other.fraction))
    }

    fn order(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, false) => self.size(other),
            (true, true) => other.size(self),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

/// Two plain decimal numbers as text, exactly; `None` where one of them is none.
pub(crate) fn exactly(a: &str, b: &str) -> Option<Ordering> {
    Some(Number::of(a)?.order(&Number::of(b)?))
}

/// Two values of a column of numbers, in the order of databases.
pub(super) fn by_number(a: &Cell, b: &Cell) -> Ordering {
    let text = |cell: &Cell| match cell {
        Cell::Int(i) => Some(i.to_string()),
        Cell::Text(text) => Some(text.clone()),
        Cell::Null | Cell::Real(_) | Cell::Blob(_) | Cell::BadText(_) => None,
    };
    if let (Cell::Int(a), Cell::Int(b)) = (a, b) {
        return a.cmp(b);
    }
    if let (Some(x), Some(y)) = (text(a), text(b))
        && let (Some(x), Some(y)) = (Number::of(&x), Number::of(&y))
    {
        return x.order(&y);
    }
    a.cmp(b)
}

/// Where a `uuid` has its dashes, and how long it is.
const DASHES: [usize; 4] = [8, 13, 18, 23];
const UUID: usize = 36;
pub(super) const NIL: &str = "00000000-0000-0000-0000-000000000000";
const LAST: &[u8] = b"ffffffff-ffff-ffff-ffff-ffffffffffff";

/// What may stand at a place of a `uuid`, in order.
fn letters(at: usize) -> &'static [u8] {
    if DASHES.contains(&at) {
        b"-"
    } else {
        b"0123456789abcdef"
    }
}

pub(super) fn is_uuid(text: &str) -> bool {
    let mut bytes = text.bytes().enumerate();
    text.len() == UUID && bytes.all(|(at, b)| letters(at).contains(&b))
}

/// The last `uuid` whose text does not come after this one; the first of all if there is none.
pub(super) fn last_uuid(text: &str) -> String {
    let bytes = text.as_bytes();
    let fit = (0..UUID).take_while(|&at| bytes.get(at).is_some_and(|b| letters(at).contains(b)));
    let fit = fit.count();
    if fit == UUID {
        return text.get(..UUID).unwrap_or(NIL).to_owned();
    }
    // The last place that can have a smaller letter; all behind it is as large as can be.
    for at in (0..=fit).rev() {
        let Some(limit) = bytes.get(at) else { continue };
        if let Some(smaller) = letters(at).iter().rev().find(|letter| *letter < limit) {
            let mut made = bytes[..at].to_vec();
            made.push(*smaller);
            made.extend_from_slice(&LAST[at + 1..]);
            return String::from_utf8(made).unwrap_or_else(|_| NIL.to_owned());
        }
    }
    NIL.to_owned()
}
