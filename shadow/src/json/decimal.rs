//! Numbers by their exact value, however many digits they have.

use std::borrow::Cow;

/// A number by its exact decimal value; `1.0` and `1.00` are equal, `12` and `"12"` are not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Decimal {
    negative: bool,
    /// Without zeros at either end; empty for zero.
    digits: String,
    /// Of the last digit.
    exponent: i64,
    /// Where even the exponent is out of range, the text decides.
    text: Option<String>,
}

impl Decimal {
    pub(super) fn new(text: &str) -> Self {
        let negative = text.starts_with('-');
        let plain = text.trim_start_matches('-');
        let (mantissa, exponent) = match plain.find(['e', 'E']) {
            Some(at) => (&plain[..at], &plain[at + 1..]),
            None => (plain, "0"),
        };
        let exponent = if exponent == "0" {
            Ok(0)
        } else {
            exponent.trim_start_matches('+').parse::<i32>()
        };
        let Ok(exponent) = exponent else {
            let text = Some(text.to_owned());
            return Self {
                negative,
                digits: String::new(),
                exponent: 0,
                text,
            };
        };
        let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        // Most are whole, and need no text of their own.
        let all = match part {
            "" => Cow::Borrowed(whole),
            _ => Cow::Owned(format!("{whole}{part}")),
        };
        let digits = all.trim_start_matches('0').trim_end_matches('0').to_owned();
        if digits.is_empty() {
            return Self {
                negative: false,
                digits,
                exponent: 0,
                text: None,
            };
        }
        let dropped = all.len() - all.trim_end_matches('0').len();
        let exponent = i64::from(exponent) - len(part) + len(&all[..dropped]);
        Self {
            negative,
            digits,
            exponent,
            text: None,
        }
    }
}

/// Powers of ten that fit.
fn ten_to(places: i64) -> Option<i128> {
    10i128.checked_pow(u32::try_from(places).ok()?)
}

impl Decimal {
    pub(crate) fn is_negative(&self) -> bool {
        self.negative
    }

    /// In units of `10^exponent`, where that is whole and fits.
    fn in_units(&self, exponent: i64) -> Option<i128> {
        if self.text.is_some() {
            return None;
        }
        if self.digits.is_empty() {
            return Some(0);
        }
        let digits: i128 = self.digits.parse().ok()?;
        let scale = ten_to(self.exponent.checked_sub(exponent)?)?;
        let found = digits.checked_mul(scale)?;
        Some(if self.negative { -found } else { found })
    }

    /// Whether two numbers are at most this far apart, exactly. No where they have too many
    /// digits for that: then the difference is shown.
    pub(crate) fn within(&self, other: &Self, most: &Self) -> bool {
        let unit = self.exponent.min(other.exponent).min(most.exponent);
        let apart = || {
            let apart = self.in_units(unit)?.checked_sub(other.in_units(unit)?)?;
            Some(apart.checked_abs()? <= most.in_units(unit)?)
        };
        apart().unwrap_or(false)
    }

    /// Whether the other one is at most this share of this one away.
    #[expect(clippy::cast_precision_loss, reason = "a share is no exact thing")]
    pub(crate) fn within_share(&self, other: &Self, most: f64) -> bool {
        let unit = self.exponent.min(other.exponent);
        let apart = || {
            let own = self.in_units(unit)?;
            let apart = own.checked_sub(other.in_units(unit)?)?;
            Some(apart.unsigned_abs() as f64 <= own.unsigned_abs() as f64 * most)
        };
        apart().unwrap_or(false)
    }

    /// In units of the last place, halves away from zero.
    pub(crate) fn rounded(&self, places: u32) -> Option<i128> {
        let unit = -i64::from(places);
        if self.exponent >= unit {
            return self.in_units(unit);
        }
        let scale = ten_to(unit.checked_sub(self.exponent)?)?;
        let found = self.in_units(self.exponent)?;
        let half = if self.negative {
            -(scale / 2)
        } else {
            scale / 2
        };
        Some(found.checked_add(half)? / scale)
    }
}

fn len(text: &str) -> i64 {
    i64::try_from(text.len()).unwrap_or(i64::MAX)
}

impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.negative { "-" } else { "" };
        match (&self.text, self.exponent) {
            (Some(text), _) => f.write_str(text),
            (None, 0) if self.digits.is_empty() => f.write_str("0"),
            (None, exponent @ 0..=20) => {
                let zeros = "0".repeat(usize::try_from(exponent).unwrap_or(0));
                write!(f, "{sign}{}{zeros}", self.digits)
            }
            (None, exponent) => {
                let places = usize::try_from(exponent.unsigned_abs()).unwrap_or(usize::MAX);
                if exponent < 0 && places < self.digits.len() {
                    let (whole, part) = self.digits.split_at(self.digits.len() - places);
                    write!(f, "{sign}{whole}.{part}")
                } else {
                    write!(f, "{sign}{}e{exponent}", self.digits)
                }
            }
        }
    }
}
