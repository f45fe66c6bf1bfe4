//! Columns of engines that have real types: classes of types, and the one form in which each
//! class's values are compared. Pure.
//!
//! A value is in canonical form when two engines that hold the same value show the same text:
//! decimals with exactly the digits of their column, instants in UTC, UUIDs in lower case.

use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use crate::bits;
use crate::value::Cell;

/// What a type's values are, whatever the type is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Int,
    /// 0 or 1.
    Bool,
    Real,
    /// Of 24 bits.
    Real4,
    /// Exact; digits after the point, where the column fixes them.
    Decimal(Option<u32>),
    Text,
    Bytes,
    /// A text of 0 and 1; how many, where the column fixes it.
    Bits(Option<u32>),
    Uuid,
    /// `YYYY-MM-DD HH:MM:SS[.ffffff]`, of no zone. PostgreSQL has more of them: years of up to six
    /// digits, ` BC` behind all else, `infinity` and `-infinity`.
    Timestamp,
    /// `YYYY-MM-DDTHH:MM:SS[.ffffff]Z`, and those of PostgreSQL as above.
    Instant,
    /// As the engine writes it: dates, times, JSON kept as text, enums, arrays.
    AsWritten,
}

/// A column's type in an engine that has real ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Typed {
    pub(crate) class: Class,
    /// The type's name without its length, as SQL text.
    pub(crate) base: String,
}

impl Class {
    /// How keys of this class are compared and ordered.
    pub(crate) fn family(self) -> &'static str {
        match self {
            Self::Int | Self::Bool => "a number",
            Self::Text | Self::Uuid | Self::AsWritten | Self::Timestamp | Self::Instant => "text",
            Self::Bytes => "bytes",
            Self::Bits(_) => "a bit field",
            Self::Real | Self::Real4 => "a float",
            Self::Decimal(_) => "a decimal",
        }
    }

    /// What its values always are, where no value of something else could be one of them.
    fn of_one_sort(self) -> Option<&'static str> {
        match self {
            Self::Int | Self::Real | Self::Real4 | Self::Decimal(_) => Some("numbers"),
            Self::Timestamp | Self::Instant => Some("times"),
            Self::Uuid => Some("UUIDs"),
            Self::Bool | Self::Text | Self::Bytes | Self::Bits(_) | Self::AsWritten => None,
        }
    }

    /// Whether its values are numbers that a database may give out.
    pub(crate) fn is_numbered(self) -> bool {
        matches!(self, Self::Int | Self::Decimal(_))
    }

    /// Whether the order of values depends on a collation.
    pub(crate) fn collates(self) -> bool {
        matches!(self, Self::Text)
    }
}

impl Typed {
    /// As of its class; dates and times of the day are told by their type.
    pub(crate) fn of_one_sort(&self) -> Option<&'static str> {
        let time = self.base == "date" || self.base.starts_with("time ");
        self.class
            .of_one_sort()
            .or_else(|| (time || self.base == "time").then_some("times"))
    }

    /// Whether PostgreSQL orders its values otherwise than their texts: `citext`, an enum, `inet`.
    pub(crate) fn orders_otherwise(&self) -> bool {
        self.class == Class::AsWritten && self.of_one_sort().is_none()
    }

    /// PostgreSQL's type by its name with its length, e.g. `numeric(10,2)`, and without.
    pub(crate) fn postgres(full: &str, base: &str) -> Self {
        let class = match base {
            "smallint" | "integer" | "bigint" | "oid" => Class::Int,
            "boolean" => Class::Bool,
            "double precision" => Class::Real,
            "real" => Class::Real4,
            "numeric" => Class::Decimal(scale(full)),
            "text" | "character varying" | "character" | "name" => Class::Text,
            "bytea" => Class::Bytes,
            "uuid" => Class::Uuid,
            "timestamp without time zone" => Class::Timestamp,
            "timestamp with time zone" => Class::Instant,
            "bit" => Class::Bits(width(full)),
            "bit varying" => Class::Bits(None),
            _ => Class::AsWritten,
        };
        // Without a length these two mean a length of one, and a cast would cut values short.
        let base = match base {
            "character" => "bpchar",
            "bit" => "bit varying",
            other => other,
        };
        Self {
            class,
            base: base.to_owned(),
        }
    }

    /// MySQL's type by its bare name, its whole declaration, and its digits after the point.
    pub(crate) fn mysql(bare: &str, whole: &str, scale: Option<u32>) -> Self {
        let class = match bare {
            // Beyond 63 bits: exact text.
            "bigint" if whole.contains("unsigned") => Class::Decimal(Some(0)),
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "year" => Class::Int,
            // One place is what a boolean is kept in.
            "bit" => match width(whole) {
                None | Some(1) => Class::Bool,
                width => Class::Bits(width),
            },
            "decimal" => Class::Decimal(scale),
            "float" => Class::Real4,
            "double" => Class::Real,
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "enum"
            | "set" => Class::Text,
            "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => {
                Class::Bytes
            }
            "uuid" => Class::Uuid,
            "datetime" => Class::Timestamp,
            "timestamp" => Class::Instant,
            _ => Class::AsWritten,
        };
        Self {
            class,
            base: bare.to_owned(),
        }
    }

    /// Whether it is a type of MySQL for places and shapes.
    pub(crate) fn is_shape(&self) -> bool {
        matches!(
            self.base.as_str(),
            "geometry"
                | "point"
                | "linestring"
                | "polygon"
                | "multipoint"
                | "multilinestring"
                | "multipolygon"
                | "geometrycollection"
                | "geomcollection"
        )
    }

    /// Whether it is MySQL's type for years.
    pub(crate) fn is_year(&self) -> bool {
        self.base == "year"
    }

    /// Whether a column for years keeps this one as it is; others keep what they are given.
    pub(crate) fn has_year(&self, cell: &Cell) -> bool {
        !self.is_year() || matches!(cell, Cell::Null | Cell::Int(0 | 1901..=2155))
    }

    /// What a column of this type makes of a value. What does not fit is left as it is: the
    /// database refuses it, and its row is parked.
    pub(crate) fn store(&self, cell: Cell) -> Cell {
        match (self.class, cell) {
            (_, Cell::Null) => Cell::Null,
            (Class::Int | Class::Bool, Cell::Text(text)) => match text.trim().parse::<i64>() {
                Ok(i) => Cell::Int(i),
                Err(_) => Cell::Text(text),
            },
            (Class::Int, Cell::Real(r)) => whole(r),
            (Class::Real | Class::Real4, cell) => self.float(cell),
            (Class::Decimal(scale), Cell::Int(i)) => decimal(&i.to_string(), scale),
            (Class::Decimal(scale), Cell::Text(text)) if !is_plain(&text, scale) => {
                decimal(&text, scale)
            }
            (Class::Text | Class::AsWritten, Cell::Int(i)) => Cell::Text(i.to_string()),
            (Class::Uuid, Cell::Text(mut text)) => {
                text.make_ascii_lowercase();
                Cell::Text(text)
            }
            (Class::Bits(width), cell) => bit_field(cell, width),
            (Class::Timestamp, Cell::Text(text)) => local(text),
            (Class::Instant, Cell::Text(text)) => instant(text),
            (_, other) => other,
        }
    }

    /// Whether [`Self::store`] surely leaves a value as it is, and it is one of the type.
    pub(crate) fn keeps(&self, cell: &Cell) -> bool {
        match (self.class, cell) {
            (_, Cell::Null)
            | (Class::Int | Class::Bool, Cell::Int(_))
            | (Class::Real, Cell::Real(_))
            | (Class::Bytes, Cell::Blob(_))
            | (Class::Text | Class::AsWritten, Cell::Text(_)) => true,
            (Class::Decimal(scale), Cell::Text(text)) => is_plain(text, scale),
            (Class::Uuid, Cell::Text(text)) => !text.bytes().any(|b| b.is_ascii_uppercase()),
            (Class::Timestamp, Cell::Text(text)) => is_local(text),
            (Class::Instant, Cell::Text(text)) => is_utc(text),
            _ => false,
        }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // The type does it.
    fn float(&self, cell: Cell) -> Cell {
        let value = match cell {
            Cell::Int(i) => i as f64,
            Cell::Real(r) => r,
            Cell::Text(text) => match text.trim().parse::<f64>() {
                Ok(r) => r,
                Err(_) => return Cell::Text(text),
            },
            other => return other,
        };
        match self.class {
            Class::Real4 => Cell::Real(f64::from(value as f32)),
            _ => Cell::Real(value),
        }
    }
}

/// `2` of `numeric(10,2)`.
fn scale(full: &str) -> Option<u32> {
    let inside = full.split_once('(')?.1.strip_suffix(')')?;
    match inside.split_once(',') {
        Some((_, scale)) => scale.trim().parse().ok(),
        None => Some(0),
    }
}

/// `8` of `bit(8)`.
fn width(full: &str) -> Option<u32> {
    let inside = full
        .split_once('(')
        .and_then(|(_, rest)| rest.split_once(')'));
    inside.and_then(|(width, _)| width.parse().ok())
}

/// What is no bit field of this width becomes what is never written: MySQL would make a zero of it.
fn bit_field(cell: Cell, width: Option<u32>) -> Cell {
    let unfit = |text: String| Cell::BadText(text.into_bytes());
    match (cell, width) {
        (Cell::Text(text), width) if bits::are(&text, width) => Cell::Text(text),
        (Cell::Text(text), _) => unfit(text),
        (Cell::Int(number), Some(width)) => {
            let made = u64::try_from(number).ok();
            let made = made.and_then(|number| bits::of_number(number, width));
            made.map_or_else(|| unfit(number.to_string()), Cell::Text)
        }
        (other, _) => unfit(other.to_string()),
    }
}

#[allow(clippy::cast_possible_truncation)] // The range was checked.
fn whole(r: f64) -> Cell {
    if r.fract() == 0.0 && r.abs() < 9_007_199_254_740_992.0 {
        Cell::Int(r as i64)
    } else {
        Cell::Real(r)
    }
}

/// Plain decimal text with the digits that the column fixes. More digits than that are kept only
/// if they are zeros; else the value does not fit, and becomes what is never written.
fn decimal(text: &str, scale: Option<u32>) -> Cell {
    let unfit = || Cell::Text(text.to_owned());
    let trimmed = text.trim();
    let (sign, digits) = match trimmed.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", trimmed.strip_prefix('+').unwrap_or(trimmed)),
    };
    let (int, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if int.is_empty() || !plain(int) || !plain(fraction) {
        return unfit();
    }
    let int = int.trim_start_matches('0');
    let int = if int.is_empty() { "0" } else { int };
    let fraction = match scale {
        None => fraction.to_owned(),
        Some(scale) => {
            let scale = scale as usize;
            let (kept, more) = fraction.split_at(fraction.len().min(scale));
            if more.bytes().any(|b| b != b'0') {
                // The database would round it in silence.
                return Cell::BadText(text.as_bytes().to_vec());
            }
            format!("{kept:0<scale$}")
        }
    };
    let zero = int == "0" && fraction.bytes().all(|b| b == b'0');
    let sign = if zero { "" } else { sign };
    if fraction.is_empty() {
        Cell::Text(format!("{sign}{int}"))
    } else {
        Cell::Text(format!("{sign}{int}.{fraction}"))
    }
}

/// Whether a decimal is in the form that [`decimal`] gives it, so that there is nothing to do.
fn is_plain(text: &str, scale: Option<u32>) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (int, fraction) = match digits.split_once('.') {
        Some((int, fraction)) if !fraction.is_empty() => (int, fraction),
        Some(_) => return false,
        None => (digits, ""),
    };
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let first = int.len() == 1 || !int.starts_with('0');
    let zero = || digits.bytes().all(|b| matches!(b, b'0' | b'.'));
    !int.is_empty()
        && first
        && plain(int)
        && plain(fraction)
        && scale.is_none_or(|scale| fraction.len() == scale as usize)
        && (digits.len() == text.len() || !zero())
}

/// A fraction of a second without its last zeros.
fn trimmed(text: &str) -> &str {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        text
    }
}

fn local(text: String) -> Cell {
    let shaped = text.len() >= 19 && text.is_char_boundary(10) && text.is_char_boundary(11);
    if !shaped || !matches!(&text[10..11], "T" | " ") {
        return Cell::Text(infinite(&text).map_or(text, str::to_owned));
    }
    if &text[10..11] == " " && trimmed(&text[11..]).len() == text.len() - 11 {
        return Cell::Text(text);
    }
    Cell::Text(format!("{} {}", &text[..10], trimmed(&text[11..])))
}

/// Whether this begins with a date and a time of day, between them what is given.
pub(crate) fn is_clock(text: &[u8], between: u8) -> bool {
    const SHAPE: &[u8; 19] = b"9999-99-99 29:59:59";
    let fits = |(&is, &shape): (&u8, &u8)| match shape {
        b' ' => is == between,
        b'-' | b':' => is == shape,
        most => (b'0'..=most).contains(&is),
    };
    text.len() >= SHAPE.len() && text.iter().zip(SHAPE).all(fits)
}

/// Whether a clock time is in the form that [`local`] gives it.
fn is_local(text: &str) -> bool {
    is_clock(text.as_bytes(), b' ') && trimmed(&text[11..]).len() == text.len() - 11
}

/// Whether an instant is in the form that [`instant`] gives it, so that there is nothing to do.
fn is_utc(text: &str) -> bool {
    let bytes = text.as_bytes();
    is_clock(bytes, b'T')
        && match &bytes[19..] {
            [b'Z'] => true,
            [b'.', digits @ .., last, b'Z'] => {
                digits.len() < 9
                    && digits.iter().all(u8::is_ascii_digit)
                    && (b'1'..=b'9').contains(last)
            }
            _ => false,
        }
}

fn instant(text: String) -> Cell {
    if is_utc(&text) {
        return Cell::Text(text);
    }
    // RFC 3339 wants a `T` and an offset with minutes.
    let mut shaped = text.replacen(' ', "T", 1);
    if shaped.len() >= 3 && matches!(&shaped.as_bytes()[shaped.len() - 3], b'+' | b'-') {
        shaped.push_str(":00");
    }
    let Ok(parsed) = OffsetDateTime::parse(&shaped, &Rfc3339) else {
        return Cell::Text(far(&text).unwrap_or(text));
    };
    match parsed.checked_to_offset(UtcOffset::UTC) {
        Some(utc) => Cell::Text(utc.format(&Rfc3339).unwrap_or(text)),
        // Beyond the year 9999 there, so that it would come back otherwise.
        None => Cell::BadText(text.into_bytes()),
    }
}

/// What stands behind a time before Christ.
const BEFORE_CHRIST: &str = " BC";

/// An infinite time as PostgreSQL writes it, which reads it in any letters.
fn infinite(text: &str) -> Option<&'static str> {
    let forms = ["infinity", "-infinity"];
    forms
        .into_iter()
        .find(|form| form.eq_ignore_ascii_case(text.trim()))
}

/// An instant of UTC beyond the years 1 to 9999, or an infinite one, as PostgreSQL writes it, in the form
/// of all others.
fn far(text: &str) -> Option<String> {
    if let Some(form) = infinite(text) {
        return Some(form.to_owned());
    }
    let (clock, era) = match text.strip_suffix(BEFORE_CHRIST) {
        Some(clock) => (clock, BEFORE_CHRIST),
        None => (text, ""),
    };
    let clock = clock.strip_suffix("+00")?;
    is_far(text).then(|| format!("{}Z{era}", trimmed(&clock.replacen(' ', "T", 1))))
}

/// Whether a date or a time is beyond the years 1 to 9999, or infinite.
pub(crate) fn is_far(text: &str) -> bool {
    let year = text.bytes().take_while(u8::is_ascii_digit).count();
    let dated = text.as_bytes().get(year) == Some(&b'-');
    let infinite = matches!(text, "infinity" | "-infinity");
    infinite || (dated && (year > 4 || (year == 4 && text.ends_with(BEFORE_CHRIST))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_the_calendar_have_one_form() {
        let kind = |base| Typed::postgres(base, base);
        let (instant, local) = (
            kind("timestamp with time zone"),
            kind("timestamp without time zone"),
        );
        for (text, form) in [
            ("infinity", "infinity"),
            ("-infinity", "-infinity"),
            ("0044-03-15 12:00:00.5+00 BC", "0044-03-15T12:00:00.5Z BC"),
            ("0044-03-15 12:00:00+00 BC", "0044-03-15T12:00:00Z BC"),
            ("10000-01-01 00:00:00+00", "10000-01-01T00:00:00Z"),
            ("10000-01-01T00:00:00Z", "10000-01-01T00:00:00Z"),
        ] {
            assert_eq!(instant.store(text.into()), form.into(), "{text}");
            assert_eq!(instant.store(form.into()), form.into(), "{text}");
            assert!(is_far(text) && is_far(form), "{text}");
        }
        for text in [
            "-infinity",
            "0044-03-15 12:00:00.5 BC",
            "294276-12-31 23:59:59.999999",
        ] {
            assert_eq!(local.store(text.into()), text.into());
            assert!(is_far(text), "{text}");
        }
        // Of the year 10000 in UTC, which would come back otherwise.
        let late = "9999-12-31T23:59:59-05:00";
        let unfit = Cell::BadText(late.as_bytes().to_vec());
        assert_eq!(instant.store(late.into()), unfit);
        for kind in [&instant, &local] {
            assert_eq!(kind.store(" -Infinity".into()), "-infinity".into());
        }
        for text in ["", "BC", "2026-01-02 03:04:05", "9999-12-31", "1e5-", "NaN"] {
            assert!(!is_far(text), "{text}");
        }
    }

    /// What is in its form already is left alone, and nothing else is.
    #[test]
    fn what_is_left_alone_is_what_would_come_out() {
        for text in [
            "1.50", "-1.50", "0.00", "-0.00", "00.50", "1.5", "1.", ".50", "", "-", "1e5", "10.05",
            "-0.01", "12", "0", "-0", "+1.50", " 1.50", "1.505",
        ] {
            for scale in [None, Some(0), Some(2)] {
                let same = decimal(text, scale) == Cell::from(text);
                // `1e5` comes out as it is, for it cannot be read.
                assert!(!is_plain(text, scale) || same, "{text} of {scale:?}");
            }
        }
        assert!(is_plain("-1.50", Some(2)) && is_plain("7", None) && !is_plain("-0.00", Some(2)));
        for text in [
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05.5Z",
            "2026-01-02T03:04:05.123456Z",
            "2026-01-02T03:04:05.50Z",
            "2026-01-02T03:04:05.Z",
            "2026-01-02T23:59:60Z",
            "2026-01-02 03:04:05Z",
            "2026-01-02T03:04:05+00:00",
            "2026-01-02T03:04:05",
            "2026-1-02T03:04:05Z",
            "2026-01-02T03:04:05.1234567891Z",
        ] {
            let parsed = OffsetDateTime::parse(text, &Rfc3339).ok();
            let long = parsed.and_then(|at| at.to_offset(UtcOffset::UTC).format(&Rfc3339).ok());
            assert!(!is_utc(text) || long.as_deref() == Some(text), "{text}");
        }
        assert!(is_utc("2026-01-02T03:04:05.123456Z") && !is_utc("2026-01-02T03:04:05.50Z"));
    }

    #[test]
    fn values_take_the_form_that_their_column_gives_them() {
        for (full, base, before, after) in [
            (
                "numeric(10,2)",
                "numeric",
                Cell::from("1.5"),
                Cell::from("1.50"),
            ),
            (
                "numeric(10,2)",
                "numeric",
                Cell::from("-007.500"),
                Cell::from("-7.50"),
            ),
            (
                "numeric(10,2)",
                "numeric",
                Cell::from("1.505"),
                Cell::BadText(b"1.505".to_vec()),
            ),
            (
                "numeric(10,2)",
                "numeric",
                Cell::from("-0.00"),
                Cell::from("0.00"),
            ),
            ("numeric", "numeric", Cell::from("1.50"), Cell::from("1.50")),
            ("numeric(5)", "numeric", Cell::Int(7), Cell::from("7")),
            ("bigint", "bigint", Cell::from(" 12 "), Cell::Int(12)),
            ("bigint", "bigint", Cell::from("x"), Cell::from("x")),
            (
                "real",
                "real",
                Cell::Real(0.1),
                Cell::Real(f64::from(0.1f32)),
            ),
            ("text", "text", Cell::Int(5), Cell::from("5")),
            ("uuid", "uuid", Cell::from("AB"), Cell::from("ab")),
            (
                "timestamp without time zone",
                "timestamp without time zone",
                Cell::from("2026-01-02T03:04:05.500"),
                Cell::from("2026-01-02 03:04:05.5"),
            ),
            (
                "timestamp with time zone",
                "timestamp with time zone",
                Cell::from("2026-01-02 03:04:05.50+02"),
                Cell::from("2026-01-02T01:04:05.5Z"),
            ),
        ] {
            let kind = Typed::postgres(full, base);
            assert_eq!(kind.store(before.clone()), after, "{before} in {full}");
            assert_eq!(kind.store(after.clone()), after, "{after} stays");
        }
    }
}
