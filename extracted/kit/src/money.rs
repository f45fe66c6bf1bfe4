//! Money between integer cents, as stored, and decimal text, as spoken.
//!
//! Owns the conversion, which is exact both ways. Refuses floating point.

use std::fmt;

/// An amount in cents, which prints as decimal text with two decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cents(pub i64);

impl Cents {
    /// Reads decimal text with exactly two decimals and no sign, such as `12.90`.
    ///
    /// `None` for anything else, also for what does not fit; leading zeros are refused but for a
    /// single one before the point, so that every amount has one spelling.
    #[must_use]
    pub fn parse(text: &str) -> Option<Cents> {
        let (whole, fraction) = text.split_once('.')?;
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let padded = whole.len() > 1 && whole.starts_with('0');
        if !digits(whole) || !digits(fraction) || fraction.len() != 2 || padded {
            return None;
        }
        let whole: i64 = whole.parse().ok()?;
        let fraction: i64 = fraction.parse().ok()?;
        whole.checked_mul(100)?.checked_add(fraction).map(Cents)
    }
}

impl fmt::Display for Cents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let amount = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:02}", amount / 100, amount % 100)
    }
}

impl serde::Serialize for Cents {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_has_one_spelling() {
        for (text, cents) in [
            ("12.90", Some(1290)),
            ("0.01", Some(1)),
            ("0.00", Some(0)),
            ("999999.99", Some(99_999_999)),
            ("12.9", None),
            ("12", None),
            ("12.900", None),
            ("012.90", None),
            ("-1.00", None),
            ("+1.00", None),
            (" 1.00", None),
            ("1,00", None),
            ("1.0x", None),
            (".50", None),
            ("1e2.00", None),
            ("99999999999999999999.00", None),
            ("", None),
        ] {
            assert_eq!(Cents::parse(text), cents.map(Cents), "{text}");
        }
        assert_eq!(Cents(-5).to_string(), "-0.05");
        assert_eq!(Cents(i64::MIN).to_string(), "-92233720368547758.08");
    }

    proptest! {
        #[test]
        fn cents_survive_the_round_trip(cents in 0..i64::MAX) {
            prop_assert_eq!(Cents::parse(&Cents(cents).to_string()), Some(Cents(cents)));
        }

        #[test]
        fn what_parses_prints_the_same(text in "[0-9]{1,9}\\.[0-9]{2}") {
            if let Some(cents) = Cents::parse(&text) {
                prop_assert_eq!(cents.to_string(), text);
            }
        }
    }
}
