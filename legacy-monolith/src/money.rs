//! Money: decimal text in the database and on the wire, whole cents in between.
//!
//! Owns the conversion in both directions. Refuses floating point and any text that would not be
//! written back letter for letter.

use std::fmt;

/// The highest price that is accepted, in cents: below one million.
const PRICE_CENTS_MAX: i64 = 99_999_999;

/// An amount in cents; prints as decimal text, `12.90`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cents(pub(crate) i64);

impl Cents {
    /// Reads canonical decimal text: no sign, no leading zeros, exactly two decimals.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.')?;
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        // Eleven digits of euros still fit an i64 in cents, with room for the sum of an order.
        if !digits(whole) || !digits(fraction) || fraction.len() != 2 || whole.len() > 11 {
            return None;
        }
        if whole.len() > 1 && whole.starts_with('0') {
            return None;
        }
        let whole: i64 = whole.parse().ok()?;
        let fraction: i64 = fraction.parse().ok()?;
        Some(Self(whole * 100 + fraction))
    }

    /// Reads a price that may be set: canonical, above zero, below one million.
    pub(crate) fn parse_price(text: &str) -> Option<Self> {
        Self::parse(text).filter(|cents| cents.0 > 0 && cents.0 <= PRICE_CENTS_MAX)
    }
}

impl fmt::Display for Cents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// The mean of `count` ratings that add up to `sum`, two decimals, half rounded up.
///
/// Whole numbers only, so every side that computes it gets the same digits.
pub(crate) fn average(sum: i64, count: i64) -> Option<String> {
    (count > 0).then(|| Cents((200 * sum + count) / (2 * count)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_text_is_money() {
        for text in ["0.00", "0.05", "12.90", "999999.99"] {
            assert_eq!(Cents::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "", "12", "12.9", "12.900", "-1.00", "+1.00", "01.00", ".50", "1,00", " 1.00",
        ] {
            assert_eq!(Cents::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_price_is_above_zero_and_below_a_million() {
        assert!(Cents::parse_price("0.01").is_some());
        assert!(Cents::parse_price("999999.99").is_some());
        assert!(Cents::parse_price("0.00").is_none());
        assert!(Cents::parse_price("1000000.00").is_none());
    }

    #[test]
    fn averages_round_half_up() {
        assert_eq!(average(0, 0), None);
        assert_eq!(average(17, 4).as_deref(), Some("4.25"));
        assert_eq!(average(10, 3).as_deref(), Some("3.33"));
        assert_eq!(average(1, 8).as_deref(), Some("0.13"));
    }
}
