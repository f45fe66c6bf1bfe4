//! Values of many rows as one array in PostgreSQL's own binary form (manual, "Message Formats" and
//! each type's `send` function): neither this process nor the server makes text of a number only to
//! read it again. Types whose binary form is not simple go as text, and so does a column in which
//! any value is not of the one form of its class: the server says what is wrong with that.

use std::fmt;

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};

use super::wire::Native;
use crate::db::keys::hex;
use crate::typed::{Class, is_clock};
use crate::value::Cell;

/// Days from 0000-03-01 to 2000-03-01, and from there back to 2000-01-01.
const TO_MARCH_2000: i64 = 730_485;
const TO_JANUARY_2000: i64 = 60;
const SECOND: i64 = 1_000_000;
/// What stands for the length of a value that is not there.
const NULL: [u8; 4] = (-1i32).to_be_bytes();

/// What the elements of an array are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::db) enum Element {
    Int,
    Bool,
    Real,
    Instant,
    Timestamp,
    Uuid,
    Bytes,
    Text,
    /// What a column itself has.
    Native(Native),
}

/// An array as it is sent.
#[derive(Clone)]
pub(crate) struct Array {
    element: Element,
    nulls: bool,
    count: u32,
    body: Vec<u8>,
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its values are nobody's business.
        write!(f, "{} of {}", self.count, self.element.name())
    }
}

impl Element {
    /// What carries values of a class.
    pub(super) fn of(class: Class) -> Self {
        match class {
            Class::Int => Self::Int,
            Class::Bool => Self::Bool,
            Class::Real | Class::Real4 => Self::Real,
            Class::Instant => Self::Instant,
            Class::Timestamp => Self::Timestamp,
            Class::Uuid => Self::Uuid,
            Class::Bytes => Self::Bytes,
            Class::Decimal(_) | Class::Text | Class::Bits(_) | Class::AsWritten => Self::Text,
        }
    }

    /// Its name as SQL text.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Int => "bigint",
            Self::Bool => "boolean",
            Self::Real => "double precision",
            Self::Instant => "timestamp with time zone",
            Self::Timestamp => "timestamp without time zone",
            Self::Uuid => "uuid",
            Self::Bytes => "bytea",
            Self::Text => "text",
            Self::Native(native) => native.name,
        }
    }

    /// The type and that of its arrays (`pg_type.dat`).
    fn oids(self) -> (u32, u32) {
        match self {
            Self::Int => (20, 1016),
            Self::Bool => (16, 1000),
            Self::Real => (701, 1022),
            Self::Instant => (1184, 1185),
            Self::Timestamp => (1114, 1115),
            Self::Uuid => (2950, 2951),
            Self::Bytes => (17, 1001),
            Self::Text => (25, 1009),
            Self::Native(native) => (native.id, native.array),
        }
    }

    /// Adds a value; `None` where it is not of this type.
    fn put(self, cell: &Cell, body: &mut Vec<u8>) -> Option<()> {
        match (self, cell) {
            (Self::Int, Cell::Int(i)) => put(body, &i.to_be_bytes()),
            (Self::Bool, Cell::Int(i @ (0 | 1))) => put(body, &[u8::from(*i == 1)]),
            (Self::Real, Cell::Real(r)) => put(body, &r.to_be_bytes()),
            (Self::Instant, Cell::Text(text)) => {
                put(body, &instant(text.as_bytes())?.to_be_bytes());
            }
            (Self::Timestamp, Cell::Text(text)) => {
                put(body, &micros(text.as_bytes(), b' ')?.to_be_bytes());
            }
            (Self::Uuid, Cell::Text(text)) => put(body, &uuid(text.as_bytes())?),
            (Self::Bytes, Cell::Blob(bytes) | Cell::BadText(bytes)) => put(body, bytes),
            (Self::Bytes | Self::Text, cell) => put_text(cell, body),
            _ => return None,
        }
        Some(())
    }
}

/// A value as text.
fn put_text(cell: &Cell, body: &mut Vec<u8>) {
    match cell {
        Cell::Null => body.extend_from_slice(&NULL),
        Cell::Text(text) => put(body, text.as_bytes()),
        Cell::Int(i) => put(body, i.to_string().as_bytes()),
        Cell::Real(r) => put(body, r.to_string().as_bytes()),
        // No column of text takes this; the database says so, and the row is parked.
        Cell::Blob(bytes) | Cell::BadText(bytes) => {
            put(body, format!("\\x{}", hex(bytes)).as_bytes());
        }
    }
}

/// A value behind its length. One for which there is no length is refused with the whole array,
/// which has none either.
fn put(body: &mut Vec<u8>, bytes: &[u8]) {
    let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(bytes);
}

impl Array {
    /// The values as an array of this type; `None` where one of them is not of it.
    pub(super) fn of<'a>(element: Element, cells: impl Iterator<Item = &'a Cell>) -> Option<Self> {
        let mut array = Self::empty(element);
        for cell in cells {
            array.count += 1;
            if cell.is_null() {
                array.nulls = true;
                array.body.extend_from_slice(&NULL);
            } else {
                element.put(cell, &mut array.body)?;
            }
        }
        Some(array)
    }

    /// The values as text, which takes all of them.
    pub(super) fn texts<'a>(cells: impl Iterator<Item = &'a Cell>) -> Self {
        let mut array = Self::empty(Element::Text);
        for cell in cells {
            array.count += 1;
            array.nulls |= cell.is_null();
            put_text(cell, &mut array.body);
        }
        array
    }

    /// An array of values that come in the form of their type, with room for so many bytes.
    pub(super) fn native(of: Native, room: usize) -> Self {
        Self {
            body: Vec::with_capacity(room),
            ..Self::empty(Element::Native(of))
        }
    }

    /// Adds a value in the form of the array's type.
    pub(super) fn push(&mut self, value: Option<&[u8]>) {
        self.count += 1;
        match value {
            Some(bytes) => put(&mut self.body, bytes),
            None => {
                self.nulls = true;
                self.body.extend_from_slice(&NULL);
            }
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count as usize
    }

    fn empty(element: Element) -> Self {
        Self {
            element,
            nulls: false,
            count: 0,
            body: Vec::new(),
        }
    }

    pub(super) fn element(&self) -> Element {
        self.element
    }
}

impl Type<Postgres> for Array {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(Element::Text.oids().1))
    }
}

impl Encode<'_, Postgres> for Array {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let dimensions = i32::from(self.count > 0);
        let head = [dimensions, i32::from(self.nulls)];
        head.iter()
            .for_each(|number| buffer.extend_from_slice(&number.to_be_bytes()));
        buffer.extend_from_slice(&self.element.oids().0.to_be_bytes());
        if self.count > 0 {
            buffer.extend_from_slice(&self.count.to_be_bytes());
            buffer.extend_from_slice(&1i32.to_be_bytes());
        }
        buffer.extend_from_slice(&self.body);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(self.element.oids().1)))
    }

    fn size_hint(&self) -> usize {
        self.body.len() + 20
    }
}

/// Microseconds since 2000 of an instant in the one form of its class.
fn instant(text: &[u8]) -> Option<i64> {
    micros(text.strip_suffix(b"Z")?, b'T')
}

/// Microseconds since 2000 of a date and a time of day, between them what is given. `None` where
/// the server had to round, and for what is no date.
fn micros(text: &[u8], between: u8) -> Option<i64> {
    if !is_clock(text, between) {
        return None;
    }
    let number = |from: usize, to: usize| {
        let digits = text[from..to].iter();
        digits.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'))
    };
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let (hour, minute, second) = (number(11, 13), number(14, 16), number(17, 19));
    if year < 1
        || hour > 23
        || !(1..=12).contains(&month)
        || !(1..=days(year, month)).contains(&day)
    {
        return None;
    }
    let fraction = match &text[19..] {
        [] => 0,
        [b'.', digits @ ..]
            if (1..=6).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) =>
        {
            let missing = u32::try_from(6 - digits.len()).ok()?;
            number(20, text.len()) * 10i64.pow(missing)
        }
        _ => return None,
    };
    // Years begin in March, so that a leap day is the last of one.
    let (year, month) = if month < 3 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let before = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let day = before - TO_MARCH_2000 + TO_JANUARY_2000;
    Some((day * 86_400 + hour * 3_600 + minute * 60 + second) * SECOND + fraction)
}

fn days(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The bytes of a UUID with hyphens, as the server writes it.
fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != 36 || [8, 13, 18, 23].iter().any(|&at| text[at] != b'-') {
        return None;
    }
    let mut bytes = [0; 16];
    let digits = text.iter().filter(|&&digit| digit != b'-');
    let mut values = digits.map(|&digit| char::from(digit).to_digit(16));
    for byte in &mut bytes {
        let value = values.next()?? * 16 + values.next()??;
        *byte = u8::try_from(value).ok()?;
    }
    values.next().is_none().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use time::format_description::well_known::Rfc3339;
    use time::macros::datetime;
    use time::{Duration, OffsetDateTime};

    use super::*;

    #[test]
    fn instants_are_microseconds_since_2000() {
        let start = datetime!(2000-01-01 0:00 UTC);
        // Steps that meet every day of the year and time of day, over all years with four digits.
        let mut at = datetime!(0001-01-01 0:00 UTC);
        while at.year() < 9_999 {
            let text = at.format(&Rfc3339).unwrap();
            let expected = i64::try_from((at - start).whole_microseconds()).unwrap();
            assert_eq!(instant(text.as_bytes()), Some(expected), "{text}");
            at += Duration::microseconds(1_234_567_891_234_567 / 40);
        }
        for text in [
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.1234567Z",
            "2026-01-01T00:00:00.1x4Z",
            "2026-01-01T00:00:00",
            "2026-01-01 00:00:00Z",
            "12026-01-01T00:00:00Z",
            "infinity",
            "0044-03-15T12:00:00.5 BCZ",
            "2026-01-02T03:04:05. 5Z",
            "",
        ] {
            assert_eq!(instant(text.as_bytes()), None, "{text}");
        }
        let leap = OffsetDateTime::parse("2024-02-29T23:59:59.000001Z", &Rfc3339).unwrap();
        let expected = i64::try_from((leap - start).whole_microseconds()).unwrap();
        assert_eq!(micros(b"2024-02-29 23:59:59.000001", b' '), Some(expected));
    }

    #[test]
    fn uuids_are_their_bytes() {
        let bytes = uuid(b"00112233-4455-6677-8899-aabbccddeeff").unwrap();
        assert_eq!(bytes[..3], [0x00, 0x11, 0x22]);
        assert_eq!(bytes[15], 0xff);
        for odd in [
            "00112233-4455-6677-8899-aabbccddeefg",
            "00112233445566778899aabbccddeeff",
            "0011-2233-4455-6677-8899-aabbccddeef",
            "00112233-4455-6677-8899-aabbccddeef-",
        ] {
            assert_eq!(uuid(odd.as_bytes()), None, "{odd}");
        }
    }

    #[test]
    fn a_value_of_another_kind_is_told() {
        let cells = |cells: Vec<Cell>, element| Array::of(element, cells.iter()).is_some();
        assert!(cells(vec![Cell::Int(1), Cell::Null], Element::Int));
        assert!(!cells(vec![Cell::Int(1), Cell::from("x")], Element::Int));
        assert!(!cells(vec![Cell::Int(2)], Element::Bool));
        assert!(!cells(vec![Cell::from("infinity")], Element::Timestamp));
        assert!(cells(
            vec![Cell::Int(2), Cell::Blob(vec![1])],
            Element::Text
        ));
    }
}
