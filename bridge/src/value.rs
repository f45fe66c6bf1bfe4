//! One value of one column, as SQLite stores it. Owns comparison, order and the
//! column affinities that change a value on its way into a table.
//! Refuses to guess: text that is not UTF-8 is kept apart rather than repaired.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Serialize, Serializer};

use crate::typed::Class;

/// A stored value.
#[derive(Debug, Clone)]
pub enum Cell {
    Null,
    Int(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
    /// Stored as text, but not UTF-8. Never mapped: its row is parked.
    BadText(Vec<u8>),
}

impl Cell {
    /// A scalar of a config file. Booleans become 0 and 1, as SQLite has no others.
    ///
    /// Returns `None` for arrays and objects, and for integers beyond 64 bits.
    pub fn from_json(value: &serde_json::Value) -> Option<Self> {
        match value {
            serde_json::Value::Null => Some(Self::Null),
            serde_json::Value::Bool(b) => Some(Self::Int(i64::from(*b))),
            serde_json::Value::Number(n) => n
                .as_i64()
                .map(Self::Int)
                .or_else(|| (n.is_f64()).then(|| n.as_f64().map(Self::Real)).flatten()),
            serde_json::Value::String(s) => Some(Self::Text(s.clone())),
            serde_json::Value::Array(_) | serde_json::Value::Object(_) => None,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Int(_) | Self::Real(_) => 1,
            Self::Text(_) | Self::BadText(_) => 2,
            Self::Blob(_) => 3,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(s) => s.as_bytes(),
            Self::Blob(b) | Self::BadText(b) => b,
            Self::Null | Self::Int(_) | Self::Real(_) => &[],
        }
    }

    /// What a column of this kind makes of the value when it is stored.
    #[must_use]
    pub(crate) fn stored_in(self, kind: &Kind) -> Self {
        match kind {
            Kind::Sqlite(affinity) => self.stored_as(*affinity),
            Kind::Postgres(kind) | Kind::Mysql(kind) => kind.store(self),
        }
    }

    /// What a column of this affinity makes of the value when it is stored (SQLite,
    /// "Datatypes In SQLite", section 3).
    #[must_use]
    fn stored_as(self, affinity: Affinity) -> Self {
        match (affinity, self) {
            (Affinity::Text, Self::Int(i)) => Self::Text(i.to_string()),
            (Affinity::Real, Self::Int(i)) => Self::Real(approximate(i)),
            // Of itself SQLite would write 15 digits of it, and NULL where it is no number.
            (Affinity::Text, Self::Real(r)) => Self::Text(written(r)),
            // Whole numbers are kept as such, which have no second zero.
            (Affinity::Real, Self::Real(0.0)) => Self::Real(0.0),
            (Affinity::Integer | Affinity::Numeric, Self::Real(r)) => whole(r),
            (Affinity::Integer | Affinity::Numeric | Affinity::Real, Self::Text(s)) => {
                match number(&s) {
                    Some(found) => match affinity {
                        Affinity::Real => found.stored_as(Affinity::Real),
                        _ => found.stored_as(Affinity::Numeric),
                    },
                    None => Self::Text(s),
                }
            }
            (_, other) => other,
        }
    }
}

#[allow(clippy::cast_precision_loss)] // REAL affinity does just this.
fn approximate(i: i64) -> f64 {
    i as f64
}

/// As few digits as tell it from all others.
fn written(r: f64) -> String {
    match r.is_infinite() {
        true if r > 0.0 => "Infinity".to_owned(),
        true => "-Infinity".to_owned(),
        false => format!("{r:?}"),
    }
}

/// A real that holds a whole number of at most 51 bits is stored as an integer.
#[allow(clippy::cast_possible_truncation)] // The range was checked.
fn whole(r: f64) -> Cell {
    const EXACT: f64 = 2_251_799_813_685_248.0;
    if r.fract() == 0.0 && r.abs() < EXACT {
        Cell::Int(r as i64)
    } else {
        Cell::Real(r)
    }
}

fn number(text: &str) -> Option<Cell> {
    let text = text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    if let Ok(i) = text.parse::<i64>() {
        return Some(Cell::Int(i));
    }
    let plain = !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && text.bytes().any(|b| b.is_ascii_digit());
    if !plain {
        return None;
    }
    text.parse::<f64>()
        .ok()
        .filter(|r| r.is_finite())
        .map(Cell::Real)
}

impl PartialEq for Cell {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Real(a), Self::Real(b)) => a.to_bits() == b.to_bits(),
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Blob(a), Self::Blob(b)) | (Self::BadText(a), Self::BadText(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Cell {}

impl Hash for Cell {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.rank().hash(state);
        match self {
            Self::Int(i) => i.hash(state),
            Self::Real(r) => r.to_bits().hash(state),
            _ => self.bytes().hash(state),
        }
    }
}

impl PartialOrd for Cell {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The order of SQLite's binary collation, so that both sides are walked alike.
impl Ord for Cell {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank()
            .cmp(&other.rank())
            .then_with(|| match (self, other) {
                (Self::Int(a), Self::Int(b)) => a.cmp(b),
                (Self::Int(a), Self::Real(b)) => approximate(*a).total_cmp(b).then(Ordering::Less),
                (Self::Real(a), Self::Int(b)) => {
                    a.total_cmp(&approximate(*b)).then(Ordering::Greater)
                }
                (Self::Real(a), Self::Real(b)) => a.total_cmp(b),
                (a, b) => a.bytes().cmp(b.bytes()),
            })
    }
}

impl fmt::Display for Cell {
    /// As an SQL literal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Int(i) => i.fmt(f),
            Self::Real(r) => write!(f, "{r:?}"),
            Self::Text(s) => write!(f, "'{}'", s.replace('\'', "''")),
            Self::Blob(b) | Self::BadText(b) => write!(f, "X'{}'", hex(b)),
        }
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_none(),
            Self::Int(i) => serializer.serialize_i64(*i),
            Self::Real(r) => serializer.serialize_f64(*r),
            Self::Text(s) => serializer.serialize_str(s),
            Self::Blob(b) | Self::BadText(b) => serializer.serialize_str(&format!("X'{}'", hex(b))),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, b| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

/// The key of a row: the values of its key columns in the order of the spec.
pub type Key = Vec<Cell>;

/// A key as people read it: SQL literals, comma-separated. Unique per key.
pub(crate) fn key_text(key: &[Cell]) -> String {
    let parts: Vec<String> = key.iter().map(ToString::to_string).collect();
    parts.join(",")
}

/// What a column stores, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite(Affinity),
    Postgres(crate::typed::Typed),
    Mysql(crate::typed::Typed),
}

impl Kind {
    /// Whether its values are numbers that a database may give out.
    pub(crate) fn is_numbered(&self) -> bool {
        match self {
            Self::Sqlite(affinity) => matches!(affinity, Affinity::Integer | Affinity::Numeric),
            Self::Postgres(kind) | Self::Mysql(kind) => kind.class.is_numbered(),
        }
    }

    /// Whether its values are amounts: exact, with digits after the point. SQLite has none.
    pub(crate) fn is_amount(&self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Postgres(kind) | Self::Mysql(kind) => {
                let decimal = matches!(kind.class, Class::Decimal(scale) if scale != Some(0));
                decimal || kind.base == "money"
            }
        }
    }

    /// How keys of this kind are compared and ordered; columns of one key must agree.
    pub(crate) fn family(&self) -> &'static str {
        match self {
            Self::Sqlite(Affinity::Integer | Affinity::Numeric) => "a number",
            Self::Sqlite(Affinity::Text) => "text",
            Self::Sqlite(Affinity::Blob) => "bytes",
            Self::Sqlite(Affinity::Real) => "a float",
            Self::Postgres(kind) | Self::Mysql(kind) => kind.class.family(),
        }
    }
}

/// How a column of SQLite converts what is stored in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Affinity {
    Integer,
    Text,
    Blob,
    Real,
    Numeric,
}

impl Affinity {
    /// SQLite's rules for a declared type, in their order.
    pub(crate) fn of(declared: &str) -> Self {
        let declared = declared.to_ascii_uppercase();
        let has = |part: &str| declared.contains(part);
        if has("INT") {
            Self::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Self::Text
        } else if has("BLOB") || declared.is_empty() {
            Self::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Self::Real
        } else {
            Self::Numeric
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinities_convert_as_sqlite_does() {
        for (affinity, before, after) in [
            (Affinity::Text, Cell::Int(5), Cell::from("5")),
            (Affinity::Integer, Cell::from(" 12 "), Cell::Int(12)),
            (Affinity::Integer, Cell::from("12.0"), Cell::Int(12)),
            (Affinity::Numeric, Cell::from("12.5"), Cell::Real(12.5)),
            (Affinity::Numeric, Cell::from("abc"), Cell::from("abc")),
            (Affinity::Real, Cell::Int(3), Cell::Real(3.0)),
            (Affinity::Blob, Cell::from("3"), Cell::from("3")),
        ] {
            assert_eq!(
                before.clone().stored_as(affinity),
                after,
                "{before} {affinity:?}"
            );
        }
    }

    #[test]
    fn order_is_null_number_text_blob() {
        let sorted = [
            Cell::Null,
            Cell::Real(-1.5),
            Cell::Int(2),
            Cell::Real(2.5),
            Cell::from(""),
            Cell::from("a"),
            Cell::Blob(vec![0]),
        ];
        assert!(sorted.is_sorted());
    }
}
