//! One value's way from a legacy column to an extracted one and back. Owns the arithmetic of
//! money, codes and clock times; refuses what does not come out exactly. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use cel::{Context, Env, Program};

use crate::bits;
use crate::spec::Source;
use crate::value::Cell;
use crate::zone::Wall;

/// Largest scale that keeps a 64-bit integer meaningful.
const SCALE_MAX: u32 = 12;

/// Why a value cannot be carried over. Names the value, so that a person finds it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unmappable(pub(crate) String);

fn refuse<T>(text: String) -> Result<T, Unmappable> {
    Err(Unmappable(text))
}

/// A [`Source`] that was checked.
pub(crate) enum Transform {
    Same,
    Cents(u32),
    Map {
        /// For people: `the map`, or which lookup.
        name: String,
        forward: HashMap<Cell, Cell>,
        reverse: HashMap<Cell, Cell>,
    },
    LocalTime(i64),
    ZonedTime(Wall),
    /// A bit field on one side, on the legacy one or the other, and its number on the other.
    Bits {
        width: u32,
        legacy: bool,
    },
    Expr(Box<Expr>),
}

impl std::fmt::Debug for Transform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Same => "Same",
            Self::Cents(_) => "Cents",
            Self::Map { .. } => "Map",
            Self::LocalTime(_) => "LocalTime",
            Self::ZonedTime(_) => "ZonedTime",
            Self::Bits { .. } => "Bits",
            Self::Expr(_) => "Expr",
        })
    }
}

/// Two CEL programs and what they are evaluated in.
pub(crate) struct Expr {
    env: Arc<Env>,
    forward: Program,
    reverse: Program,
}

impl Transform {
    /// Checks a source of one column.
    ///
    /// # Errors
    /// Says what is wrong with it and how to mend it.
    pub(crate) fn compile(source: &Source) -> Result<Self, (String, String)> {
        match source {
            // These need more than one value; the plan has ways of their own for them.
            Source::Const(_)
            | Source::Join { .. }
            | Source::Part { .. }
            | Source::Lookup { .. }
            | Source::Rename(_) => Ok(Self::Same),
            Source::Cents { scale, .. } if *scale <= SCALE_MAX => Ok(Self::Cents(*scale)),
            Source::Cents { scale, .. } => Err((
                format!("{scale} decimals do not fit a 64-bit integer"),
                format!("use at most {SCALE_MAX}"),
            )),
            Source::LocalTime { offset, .. } if offset.abs() <= 86_400 => {
                Ok(Self::LocalTime(i64::from(*offset)))
            }
            Source::LocalTime { offset, .. } => Err((
                format!("{offset} seconds is not an offset from UTC"),
                "use -24:00 to +24:00".to_owned(),
            )),
            Source::ZonedTime {
                zone, ambiguous, ..
            } => Ok(Self::ZonedTime(Wall {
                zone: zone.clone(),
                ambiguous: *ambiguous,
            })),
            Source::Map { pairs, .. } if pairs.is_empty() => {
                Err(("the map is empty".to_owned(), "name every code".to_owned()))
            }
            Source::Map { pairs, .. } => Self::one_to_one("the map", pairs),
            Source::Expr {
                forward, reverse, ..
            } => expressions(forward, reverse),
        }
    }

    /// Codes and what they mean.
    ///
    /// # Errors
    /// When they are not one to one.
    pub(crate) fn one_to_one(name: &str, pairs: &[(Cell, Cell)]) -> Result<Self, (String, String)> {
        let mut forward = HashMap::new();
        let mut reverse = HashMap::new();
        for (legacy, extracted) in pairs {
            if forward.insert(legacy.clone(), extracted.clone()).is_some()
                || reverse.insert(extracted.clone(), legacy.clone()).is_some()
            {
                return Err((
                    format!("{name} has {legacy} or {extracted} twice, so it cannot be reversed"),
                    "make every code stand once on each side".to_owned(),
                ));
            }
        }
        Ok(Self::Map {
            name: name.to_owned(),
            forward,
            reverse,
        })
    }

    pub(crate) fn forward(&self, value: &Cell) -> Result<Cell, Unmappable> {
        match (self, guard(value)?) {
            (_, Cell::Null) => Ok(Cell::Null),
            (Self::Same, value) => Ok(value.clone()),
            (Self::Cents(scale), value) => cents(value, *scale),
            (Self::Map { name, forward, .. }, value) => translate(name, forward, value),
            (Self::LocalTime(offset), value) => to_utc(value, *offset),
            (Self::ZonedTime(wall), value) => wall.to_utc(value),
            (Self::Bits { width, legacy }, value) => bits_or_number(value, *width, *legacy),
            (Self::Expr(expr), value) => expr.run(&expr.forward, value),
        }
    }

    pub(crate) fn reverse(&self, value: &Cell) -> Result<Cell, Unmappable> {
        match (self, guard(value)?) {
            (_, Cell::Null) => Ok(Cell::Null),
            (Self::Same, value) => Ok(value.clone()),
            (Self::Cents(scale), value) => decimal(value, *scale),
            (Self::Map { name, reverse, .. }, value) => translate(name, reverse, value),
            (Self::LocalTime(offset), value) => to_local(value, *offset),
            (Self::ZonedTime(wall), value) => wall.to_local(value),
            (Self::Bits { width, legacy }, value) => bits_or_number(value, *width, !legacy),
            (Self::Expr(expr), value) => expr.run(&expr.reverse, value),
        }
    }
}

fn bits_or_number(value: &Cell, width: u32, from_bits: bool) -> Result<Cell, Unmappable> {
    if from_bits {
        bits::to_number(value, width)
    } else {
        bits::from_number(value, width)
    }
}

fn guard(value: &Cell) -> Result<&Cell, Unmappable> {
    match value {
        Cell::BadText(_) => refuse(format!("{value} is text that is not UTF-8")),
        other => Ok(other),
    }
}

fn expressions(forward: &str, reverse: &str) -> Result<Transform, (String, String)> {
    let env = Arc::new(Env::stdlib());
    let compile = |way: &str, text: &str| {
        env.compile(text).map_err(|e| {
            (
                format!("{way}: {e}"),
                "write a CEL expression over `value`".to_owned(),
            )
        })
    };
    let forward = compile("forward", forward)?;
    let reverse = compile("reverse", reverse)?;
    Ok(Transform::Expr(Box::new(Expr {
        env: Arc::clone(&env),
        forward,
        reverse,
    })))
}

fn translate(name: &str, map: &HashMap<Cell, Cell>, value: &Cell) -> Result<Cell, Unmappable> {
    map.get(value)
        .cloned()
        .ok_or_else(|| Unmappable(format!("{value} is not in {name}")))
}

impl Expr {
    fn run(&self, program: &Program, value: &Cell) -> Result<Cell, Unmappable> {
        let mut context = Context::with_env(Arc::clone(&self.env));
        let input = match value {
            Cell::Null => cel::Value::Null,
            Cell::Int(i) => cel::Value::Int(*i),
            Cell::Real(r) => cel::Value::Float(*r),
            Cell::Text(s) => cel::Value::String(Arc::new(s.clone())),
            Cell::Blob(b) | Cell::BadText(b) => cel::Value::Bytes(Arc::new(b.clone())),
        };
        context.add_variable_from_value("value", input);
        let output = program
            .execute(&context)
            .map_err(|e| Unmappable(format!("{value}: {e}")))?;
        match output {
            cel::Value::Null => Ok(Cell::Null),
            cel::Value::Bool(b) => Ok(Cell::Int(i64::from(b))),
            cel::Value::Int(i) => Ok(Cell::Int(i)),
            cel::Value::UInt(u) => i64::try_from(u)
                .map(Cell::Int)
                .map_err(|_| Unmappable(format!("{value}: {u} does not fit a column"))),
            cel::Value::Float(r) => Ok(Cell::Real(r)),
            cel::Value::String(s) => Ok(Cell::Text((*s).clone())),
            cel::Value::Bytes(b) => Ok(Cell::Blob((*b).clone())),
            other => refuse(format!(
                "{value}: the expression gives a {}, not a column value",
                other.type_of()
            )),
        }
    }
}

/// `12.90` -> 1290. Fewer decimals are the same amount; more would lose some.
fn cents(value: &Cell, scale: u32) -> Result<Cell, Unmappable> {
    let text = match value {
        Cell::Int(i) => i.to_string(),
        Cell::Real(r) => format!("{r}"),
        Cell::Text(s) => s.clone(),
        _ => return refuse(format!("{value} is not a decimal number")),
    };
    let bad = || Unmappable(format!("{value} is not a decimal with {scale} places"));
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.as_str()),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let empty_part = digits.contains('.') && part.is_empty();
    if whole.is_empty() || empty_part || !plain(whole) || !plain(part) {
        return Err(bad());
    }
    let places = scale as usize;
    let (kept, rest) = part.split_at(part.len().min(places));
    if rest.bytes().any(|b| b != b'0') {
        return Err(bad());
    }
    // The sign belongs to the digits, so that the smallest integer has a text too.
    let sign = if negative { "-" } else { "" };
    format!("{sign}{whole}{kept:0<places$}")
        .parse::<i64>()
        .map(Cell::Int)
        .map_err(|_| bad())
}

/// 1290 -> `12.90`.
fn decimal(value: &Cell, scale: u32) -> Result<Cell, Unmappable> {
    let Cell::Int(amount) = value else {
        return refuse(format!("{value} is not a whole number"));
    };
    let places = scale as usize;
    let sign = if *amount < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", amount.unsigned_abs(), width = places + 1);
    let (whole, part) = digits.split_at(digits.len() - places);
    Ok(Cell::Text(if places == 0 {
        format!("{sign}{whole}")
    } else {
        format!("{sign}{whole}.{part}")
    }))
}

/// The two texts of a clock time, without a zone in the text itself.
pub(crate) fn parse_time(
    text: &str,
    middle: char,
    end: &str,
) -> Option<(time::PrimitiveDateTime, String)> {
    let text = text.strip_suffix(end)?;
    let head = text.get(..19)?;
    let rest = text.get(19..)?;
    let fraction = rest.is_empty()
        || rest
            .strip_prefix('.')
            .is_some_and(|f| !f.is_empty() && f.bytes().all(|b| b.is_ascii_digit()));
    let shape = head.bytes().enumerate().all(|(i, b)| match i {
        4 | 7 => b == b'-',
        10 => char::from(b) == middle,
        13 | 16 => b == b':',
        _ => b.is_ascii_digit(),
    });
    if !fraction || !shape {
        return None;
    }
    let number = |range: std::ops::Range<usize>| head.get(range)?.parse::<u16>().ok();
    let small = |range| number(range).and_then(|n| u8::try_from(n).ok());
    let month = time::Month::try_from(small(5..7)?).ok()?;
    let date =
        time::Date::from_calendar_date(i32::from(number(0..4)?), month, small(8..10)?).ok()?;
    let clock = time::Time::from_hms(small(11..13)?, small(14..16)?, small(17..19)?).ok()?;
    Some((time::PrimitiveDateTime::new(date, clock), rest.to_owned()))
}

pub(crate) fn print_time(
    at: time::PrimitiveDateTime,
    middle: char,
    rest: &str,
    end: &str,
) -> String {
    format!(
        "{:04}-{:02}-{:02}{middle}{:02}:{:02}:{:02}{rest}{end}",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

fn shift(
    value: &Cell,
    seconds: i64,
    (from, from_end): (char, &str),
    (to, to_end): (char, &str),
) -> Result<Cell, Unmappable> {
    let Cell::Text(text) = value else {
        return refuse(format!("{value} is not a time in text"));
    };
    let moved = parse_time(text, from, from_end).and_then(|(at, rest)| {
        let at = at.checked_add(time::Duration::seconds(seconds))?;
        (0..=9999)
            .contains(&at.year())
            .then(|| print_time(at, to, &rest, to_end))
    });
    moved
        .map(Cell::Text)
        .ok_or_else(|| no_time(value, from, from_end))
}

/// Says what was expected in place of a value, and of MySQL's zero dates who decides about them.
pub(crate) fn no_time(value: &Cell, middle: char, end: &str) -> Unmappable {
    let zero = matches!(value, Cell::Text(text) if text.starts_with("0000-00-00"));
    let way = if zero { "; see `zero_dates`" } else { "" };
    Unmappable(format!(
        "{value} is not a time like `YYYY-MM-DD{middle}HH:MM:SS{end}`{way}"
    ))
}

fn to_utc(value: &Cell, offset: i64) -> Result<Cell, Unmappable> {
    shift(value, -offset, (' ', ""), ('T', "Z"))
}

fn to_local(value: &Cell, offset: i64) -> Result<Cell, Unmappable> {
    shift(value, offset, ('T', "Z"), (' ', ""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compiled(source: &Source) -> Transform {
        Transform::compile(source).unwrap_or_else(|(what, _)| panic!("{what}"))
    }

    #[test]
    fn a_zero_date_names_who_decides() {
        let said = |text: &str| to_utc(&Cell::Text(text.into()), 0).unwrap_err().0;
        assert!(said("0000-00-00 00:00:00").ends_with("; see `zero_dates`"));
        assert!(!said("noon").contains("zero_dates"));
    }

    fn price() -> Transform {
        compiled(&Source::Cents {
            from: "price".into(),
            scale: 2,
        })
    }

    #[test]
    fn money_is_exact() {
        for (text, amount) in [
            ("12.90", 1290),
            ("0.05", 5),
            ("-0.50", -50),
            ("7", 700),
            ("7.5", 750),
        ] {
            assert_eq!(
                price().forward(&text.into()),
                Ok(Cell::Int(amount)),
                "{text}"
            );
        }
        for bad in [
            "",
            "12.901",
            "1,5",
            "abc",
            "1e3",
            ".5",
            "5.",
            "+1",
            "--1",
            "1.-2",
            "99999999999999999999",
        ] {
            assert!(price().forward(&bad.into()).is_err(), "{bad}");
        }
        assert_eq!(price().reverse(&Cell::Int(-5)), Ok("-0.05".into()));
        let lowest = price().reverse(&Cell::Int(i64::MIN)).unwrap();
        assert_eq!(price().forward(&lowest), Ok(Cell::Int(i64::MIN)));
    }

    #[test]
    fn local_time_crosses_days() {
        let clock = compiled(&Source::LocalTime {
            from: "at".into(),
            offset: 3600,
        });
        let there = clock.forward(&"2026-03-01 00:30:00".into()).unwrap();
        assert_eq!(there, "2026-02-28T23:30:00Z".into());
        assert_eq!(clock.reverse(&there), Ok("2026-03-01 00:30:00".into()));
        for bad in [
            "2026-02-30 00:00:00",
            "2026-03-01T00:30:00",
            "yesterday",
            "0000-01-01 00:10:00",
            "é026-03-01 00:30:0",
        ] {
            assert!(clock.forward(&bad.into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn expressions_run_both_ways() {
        let flag = compiled(&Source::Expr {
            from: "featured".into(),
            forward: "value == 'Y' ? 1 : 0".into(),
            reverse: "value == 1 ? 'Y' : 'N'".into(),
        });
        for (legacy, extracted) in [("Y", 1), ("N", 0)] {
            assert_eq!(flag.forward(&legacy.into()), Ok(Cell::Int(extracted)));
            assert_eq!(flag.reverse(&Cell::Int(extracted)), Ok(legacy.into()));
        }
        assert_eq!(flag.forward(&Cell::Null), Ok(Cell::Null));
        let broken = Source::Expr {
            from: "a".into(),
            forward: "value +".into(),
            reverse: "value".into(),
        };
        assert!(Transform::compile(&broken).is_err());
    }

    #[test]
    fn a_map_that_cannot_be_reversed_is_refused() {
        let twice = Source::Map {
            from: "status".into(),
            pairs: vec![("A".into(), "x".into()), ("B".into(), "x".into())],
        };
        assert!(Transform::compile(&twice).is_err());
    }

    proptest! {
        #[test]
        fn every_amount_comes_back(amount: i64, scale in 0u32..=12) {
            let t = Transform::Cents(scale);
            let text = t.reverse(&Cell::Int(amount)).unwrap();
            prop_assert_eq!(t.forward(&text).unwrap(), Cell::Int(amount));
        }

        #[test]
        fn every_price_text_comes_back(whole in 0u64..1_000_000, part in 0u32..100) {
            let text: Cell = format!("{whole}.{part:02}").into();
            let there = price().forward(&text).unwrap();
            prop_assert_eq!(price().reverse(&there).unwrap(), text);
        }

        #[test]
        fn every_clock_time_comes_back(
            y in 1i32..9999, mo in 1u8..=12, d in 1u8..=28, h in 0u8..24, mi in 0u8..60, s in 0u8..60,
            offset in -86_400i64..=86_400,
        ) {
            let text: Cell = format!("{y:04}-{mo:02}-{d:02} {h:02}:{mi:02}:{s:02}").into();
            let t = Transform::LocalTime(offset);
            let there = t.forward(&text).unwrap();
            prop_assert_eq!(t.reverse(&there).unwrap(), text);
        }

        #[test]
        fn no_text_panics(text: String) {
            let text = Cell::Text(text);
            let _ = price().forward(&text);
            let _ = Transform::LocalTime(3600).forward(&text);
            let _ = Transform::LocalTime(3600).reverse(&text);
        }
    }
}
