//! Bit fields: texts of 0 and 1, and the numbers that those of one width stand for. Pure. Refuses a
//! number for what has no one width, for it would not say with how many zeros it begins.

use crate::transform::{Transform, Unmappable};
use crate::typed::Class;
use crate::value::{Affinity, Cell, Kind};

/// Widest field that is a number to any engine.
const WIDEST: u32 = 64;

/// What a column holds, as far as bit fields can become that.
enum Form {
    /// With its width, where it has one.
    Bits(Option<u32>),
    Number,
    /// Also of other types that are written as text.
    Text,
    Else,
}

impl Form {
    fn of(kind: &Kind) -> Self {
        match kind {
            Kind::Sqlite(Affinity::Integer | Affinity::Numeric) => Self::Number,
            Kind::Sqlite(Affinity::Text | Affinity::Blob) => Self::Text,
            Kind::Sqlite(Affinity::Real) => Self::Else,
            Kind::Postgres(typed) | Kind::Mysql(typed) => match typed.class {
                Class::Bits(width) => Self::Bits(width),
                Class::Int | Class::Bool | Class::Decimal(_) => Self::Number,
                Class::Text | Class::AsWritten => Self::Text,
                Class::Real
                | Class::Real4
                | Class::Bytes
                | Class::Uuid
                | Class::Timestamp
                | Class::Instant => Self::Else,
            },
        }
    }
}

/// How a value that keeps its name becomes another kind's, where bit fields are among them.
///
/// # Errors
/// Says why it cannot, and what can.
pub(crate) fn between(legacy: &Kind, extracted: &Kind) -> Result<Transform, (String, String)> {
    let wrong = |what: String, fix: &str| Err((what, fix.to_owned()));
    let numbers = |width: Option<u32>, legacy: bool| match width {
        Some(width @ ..=WIDEST) => Ok(Transform::Bits { width, legacy }),
        Some(width) => wrong(
            format!("a bit field of {width} is no number of {WIDEST} bits"),
            "have text or a bit field of the same width on the other side",
        ),
        None => wrong(
            "`bit varying` is of any width, and a number does not say of which".to_owned(),
            "have text or `bit varying` on the other side, or `bit(n)` here",
        ),
    };
    match (Form::of(legacy), Form::of(extracted)) {
        (Form::Bits(Some(a)), Form::Bits(Some(b))) if a != b => wrong(
            format!("a bit field of {a} and one of {b}"),
            "give both columns one width, or have a number or `bit varying` on one side",
        ),
        (Form::Bits(width), Form::Number) => numbers(width, true),
        (Form::Number, Form::Bits(width)) => numbers(width, false),
        (Form::Bits(_), Form::Else) | (Form::Else, Form::Bits(_)) => wrong(
            format!("a bit field does not become {}", {
                let bits = matches!(Form::of(legacy), Form::Bits(_));
                if bits { extracted } else { legacy }.family()
            }),
            "have a whole number, text or a bit field on the other side",
        ),
        _ => Ok(Transform::Same),
    }
}

/// A code of the mapping as a column has it, if that is a bit field, which may be said by its number.
pub(crate) fn code(code: &Cell, kind: &Kind) -> Cell {
    match Form::of(kind) {
        Form::Bits(_) => code.clone().stored_in(kind),
        Form::Number | Form::Text | Form::Else => code.clone(),
    }
}

/// Whether a text is a bit field of this width, or of any.
pub(crate) fn are(text: &str, width: Option<u32>) -> bool {
    let wide = width.is_none_or(|width| usize::try_from(width) == Ok(text.len()));
    wide && text.bytes().all(|b| matches!(b, b'0' | b'1'))
}

/// A number as a bit field; `None` where it needs more than so many.
pub(crate) fn of_number(number: u64, width: u32) -> Option<String> {
    let text = format!("{number:0width$b}", width = usize::try_from(width).ok()?);
    are(&text, Some(width)).then_some(text)
}

/// A bit field as a number.
pub(crate) fn to_number(value: &Cell, width: u32) -> Result<Cell, Unmappable> {
    let number = match value {
        Cell::Text(text) if are(text, Some(width)) => u64::from_str_radix(text, 2).ok(),
        _ => None,
    };
    let Some(number) = number else {
        return Err(Unmappable(format!("{value} is no bit field of {width}")));
    };
    let large = |_| Cell::Text(number.to_string());
    Ok(i64::try_from(number).map_or_else(large, Cell::Int))
}

/// A whole number, as any engine may hold it, as a bit field.
pub(crate) fn from_number(value: &Cell, width: u32) -> Result<Cell, Unmappable> {
    let number = match value {
        Cell::Int(number) => u64::try_from(*number).ok(),
        Cell::Text(text) => match text.split_once('.') {
            Some((whole, zeros)) if zeros.bytes().all(|b| b == b'0') => whole.parse().ok(),
            Some(_) => None,
            None => text.parse().ok(),
        },
        Cell::Null | Cell::Real(_) | Cell::Blob(_) | Cell::BadText(_) => None,
    };
    let text = number.and_then(|number| of_number(number, width));
    text.map(Cell::Text)
        .ok_or_else(|| Unmappable(format!("{value} is no whole number of {width} bits")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::typed::Typed;

    fn bits(width: u32) -> Kind {
        Kind::Mysql(Typed::mysql("bit", &format!("bit({width})"), None))
    }

    fn postgres(full: &str) -> Kind {
        let base = full.split('(').next().unwrap();
        Kind::Postgres(Typed::postgres(full, base))
    }

    #[test]
    fn what_a_bit_field_becomes() {
        let by = |a: &Kind, b: &Kind| format!("{:?}", between(a, b).unwrap());
        for (a, b, by_what) in [
            (bits(8), postgres("bit(8)"), "Same"),
            (bits(8), postgres("bit varying(20)"), "Same"),
            (bits(8), postgres("text"), "Same"),
            (bits(8), Kind::Sqlite(Affinity::Text), "Same"),
            (bits(8), Kind::Sqlite(Affinity::Integer), "Bits"),
            (bits(8), postgres("smallint"), "Bits"),
            (postgres("boolean"), postgres("bit(1)"), "Bits"),
            // One place of MySQL is a number here, as it ever was.
            (bits(1), postgres("bit(1)"), "Bits"),
            (bits(1), postgres("smallint"), "Same"),
        ] {
            assert_eq!(by(&a, &b), by_what, "{a:?} {b:?}");
            assert_eq!(by(&b, &a), by_what, "{b:?} {a:?}");
        }
        for (a, b) in [
            (bits(8), postgres("bit(9)")),
            (bits(8), postgres("bytea")),
            (bits(8), postgres("real")),
            (postgres("bit varying"), postgres("bigint")),
            (postgres("bit(65)"), postgres("numeric(30)")),
        ] {
            assert!(between(&a, &b).is_err(), "{a:?} {b:?}");
            assert!(between(&b, &a).is_err(), "{b:?} {a:?}");
        }
    }

    #[test]
    fn what_is_no_bit_field_is_refused() {
        for value in [
            Cell::Int(-1),
            Cell::Int(8),
            Cell::Real(1.0),
            "1.5".into(),
            "x".into(),
            "-0".into(),
            "18446744073709551616".into(),
        ] {
            assert!(from_number(&value, 3).is_err(), "{value}");
        }
        for value in [
            Cell::Int(101),
            "0101".into(),
            "12".into(),
            "01".into(),
            "".into(),
        ] {
            assert!(to_number(&value, 3).is_err(), "{value}");
        }
        assert_eq!(from_number(&"5.00".into(), 3), Ok("101".into()));
        let stored = |cell: Cell| cell.stored_in(&bits(3));
        assert_eq!(stored(Cell::Int(5)), "101".into());
        assert_eq!(stored("101".into()), "101".into());
        for bad in [
            Cell::Int(8),
            Cell::Int(-1),
            "11".into(),
            "2".into(),
            Cell::Real(1.0),
        ] {
            assert!(matches!(stored(bad.clone()), Cell::BadText(_)), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_number_comes_back(number: u64, width in 1u32..=64) {
            let kept = if width == 64 { number } else { number & ((1 << width) - 1) };
            let text: Cell = of_number(kept, width).unwrap().into();
            let there = to_number(&text, width).unwrap();
            prop_assert_eq!(from_number(&there, width).unwrap(), text);
            prop_assert_eq!(of_number(number, width).is_some(), kept == number);
        }
    }
}
