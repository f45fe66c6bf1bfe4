//! Who wins where both sides have changed one row. Pure.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use outgrow_rollout::Side;

use crate::plan::{Group, Image, exactly};
use crate::value::Cell;

/// Which sides take a slice's writes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Writes {
    /// The source; the passive side is fenced.
    #[default]
    One,
    /// Both, once the copy is complete.
    Both(Both),
}

impl Writes {
    pub(crate) fn both(&self) -> Option<&Both> {
        match self {
            Self::One => None,
            Self::Both(both) => Some(both),
        }
    }
}

/// How writes on both sides are brought together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Both {
    pub policy: Policy,
    /// Somebody else sees to it that the two sides never generate the same id.
    pub ids_apart: bool,
}

/// Which version of a row stands, where both sides have changed it unseen by the other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Policy {
    /// That of the side that takes the slice's writes.
    #[default]
    Writer,
    Legacy,
    Extracted,
    /// The one with the larger value of this column; the writer's where that does not tell.
    Newest(String),
    /// Neither, until a person has decided.
    Manual,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Writer => f.write_str("writer"),
            Self::Legacy => f.write_str("legacy"),
            Self::Extracted => f.write_str("extracted"),
            Self::Newest(column) => write!(f, "newest by {column}"),
            Self::Manual => f.write_str("manual"),
        }
    }
}

/// What becomes of a row that both sides have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Both have changed it to the same.
    Same,
    Wins(Side),
    Hold,
}

/// Decides by both versions, in the extracted shape. A version without any row is a delete.
pub(crate) fn decide(
    policy: &Policy,
    writer: Side,
    group: &Group,
    legacy: &Image,
    extracted: &Image,
) -> Decision {
    if legacy == extracted {
        return Decision::Same;
    }
    match policy {
        Policy::Writer => Decision::Wins(writer),
        Policy::Legacy => Decision::Wins(Side::Legacy),
        Policy::Extracted => Decision::Wins(Side::Extracted),
        Policy::Manual => Decision::Hold,
        Policy::Newest(column) => {
            let value = |image: &Image| {
                let (part, at) = place(group, column)?;
                image.get(part)?.as_ref()?.get(at).cloned()
            };
            let newer = match (value(legacy), value(extracted)) {
                (Some(legacy), Some(extracted)) => compare(&legacy, &extracted),
                // What is gone has no time.
                _ => Ordering::Equal,
            };
            Decision::Wins(match newer {
                Ordering::Less => Side::Extracted,
                Ordering::Equal => writer,
                Ordering::Greater => Side::Legacy,
            })
        }
    }
}

/// The part and place of an extracted column.
pub(crate) fn place(group: &Group, column: &str) -> Option<(usize, usize)> {
    let tables = group.tables(Side::Extracted).iter().enumerate();
    tables.into_iter().find_map(|(part, table)| {
        let at = table.columns.iter().position(|c| c.name == column)?;
        Some((part, at))
    })
}

/// Numbers by value, also where they are text, and exactly; times by their year and then as text of one
/// form, with or without fractions of a second. An infinite one is a number's text, and first or last
/// as any text is.
fn compare(a: &Cell, b: &Cell) -> Ordering {
    if let (Some(a), Some(b)) = (digits(a), digits(b))
        && let Some(order) = exactly(&a, &b)
    {
        return order;
    }
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return a.total_cmp(&b);
    }
    match (a, b) {
        (Cell::Text(a), Cell::Text(b)) => {
            if let (Some(a), Some(b)) = (dated(a), dated(b)) {
                return a.cmp(&b);
            }
            a.trim_end_matches('Z').cmp(b.trim_end_matches('Z'))
        }
        _ => a.cmp(b),
    }
}

/// A time's year, which is below zero before Christ, and what follows it.
fn dated(text: &str) -> Option<(i64, &str)> {
    let (clock, before) = match text.strip_suffix(" BC") {
        Some(clock) => (clock, true),
        None => (text, false),
    };
    let (year, rest) = clock.split_once('-')?;
    if year.len() < 4 || !year.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let year: i64 = year.parse().ok()?;
    let year = if before { -year } else { year };
    Some((year, rest.trim_end_matches('Z')))
}

/// What may be a number, as text.
fn digits(cell: &Cell) -> Option<Cow<'_, str>> {
    match cell {
        Cell::Int(i) => Some(i.to_string().into()),
        Cell::Real(r) => Some(r.to_string().into()),
        Cell::Text(text) => Some(text.as_str().into()),
        Cell::Null | Cell::Blob(_) | Cell::BadText(_) => None,
    }
}

/// Also one with an exponent.
fn number(cell: &Cell) -> Option<f64> {
    digits(cell)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_are_compared_by_value() {
        let less = [
            (Cell::from("9"), Cell::from("10")),
            (Cell::from("9.5"), Cell::Int(10)),
            (
                Cell::from("2026-06-01T12:00:07Z"),
                Cell::from("2026-06-01T12:00:07.5Z"),
            ),
            (
                Cell::from("2026-06-01 12:00:07"),
                Cell::from("2026-06-02 00:00:00"),
            ),
            (Cell::from("9999-12-31"), Cell::from("10000-01-01")),
            (
                Cell::from("0044-03-15T12:00:00Z BC"),
                Cell::from("0001-12-31T00:00:00Z BC"),
            ),
            (
                Cell::from("0044-03-15 12:00:00 BC"),
                Cell::from("0044-03-15 12:00:00.5 BC"),
            ),
            (
                Cell::from("0044-03-15 12:00:00 BC"),
                Cell::from("0001-01-01 00:00:00"),
            ),
            (
                Cell::from("-infinity"),
                Cell::from("4714-11-24 00:00:00 BC"),
            ),
            (
                Cell::from("294276-12-31T23:59:59.999999Z"),
                Cell::from("infinity"),
            ),
            (Cell::from("-infinity"), Cell::from("infinity")),
        ];
        for (a, b) in less {
            assert_eq!(compare(&a, &b), Ordering::Less, "{a} {b}");
            assert_eq!(compare(&b, &a), Ordering::Greater, "{a} {b}");
            assert_eq!(compare(&a, &a), Ordering::Equal);
        }
    }

    #[test]
    fn numbers_beyond_those_of_a_float_are_compared_exactly() {
        let less = [
            (
                Cell::Int(9_007_199_254_740_992),
                Cell::Int(9_007_199_254_740_993),
            ),
            (Cell::Int(i64::MAX - 1), Cell::Int(i64::MAX)),
            (
                Cell::from("18446744073709551614"),
                Cell::from("18446744073709551615"),
            ),
            (Cell::Int(i64::MAX), Cell::from("9223372036854775808")),
            (
                Cell::from("1.00000000000000000001"),
                Cell::from("1.00000000000000000002"),
            ),
            (Cell::from("-0.30000000000000000001"), Cell::from("-0.3")),
            (Cell::Real(0.5), Cell::from("0.50000000000000000001")),
            (Cell::from("1e3"), Cell::Int(1_001)),
        ];
        for (a, b) in less {
            assert_eq!(compare(&a, &b), Ordering::Less, "{a} {b}");
            assert_eq!(compare(&b, &a), Ordering::Greater, "{a} {b}");
        }
        assert_eq!(
            compare(&Cell::from("10.0"), &Cell::Int(10)),
            Ordering::Equal
        );
    }

    #[test]
    fn a_policy_says_its_name() {
        let newest = Policy::Newest("updated_at".to_owned());
        assert_eq!(newest.to_string(), "newest by updated_at");
        assert_eq!(Writes::default().both(), None);
    }
}
