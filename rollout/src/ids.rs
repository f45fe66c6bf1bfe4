//! Names and units that every crate shares. Each is valid once built.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a name or number was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// A slice name is 1 to 63 of `a-z`, `0-9` and `-`, and starts with a letter.
    #[error("`{0}` is not a slice name: use 1 to 63 of a-z, 0-9 and -, starting with a letter")]
    Slice(String),
    /// As a slice name, which may begin with a digit.
    #[error("`{0}` is not the name of a build: use 1 to 63 of a-z, 0-9 and -")]
    Build(String),
}

/// The name of a slice: routes and tables that move together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SliceId(String);

impl SliceId {
    /// # Errors
    /// Returns [`IdError::Slice`] unless `name` is 1 to 63 of `a-z0-9-`, starting with a letter.
    pub fn new(name: impl Into<String>) -> Result<Self, IdError> {
        let name = name.into();
        let fits = (1..=63).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits {
            Ok(Self(name))
        } else {
            Err(IdError::Slice(name))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SliceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SliceId {
    type Error = IdError;
    fn try_from(name: String) -> Result<Self, IdError> {
        Self::new(name)
    }
}

impl FromStr for SliceId {
    type Err = IdError;
    fn from_str(name: &str) -> Result<Self, IdError> {
        Self::new(name)
    }
}

impl From<SliceId> for String {
    fn from(id: SliceId) -> Self {
        id.0
    }
}

/// The name of a build of a service, as the config has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BuildName(String);

impl BuildName {
    /// # Errors
    /// Returns [`IdError::Build`] unless `name` is 1 to 63 of `a-z0-9-`.
    pub fn new(name: impl Into<String>) -> Result<Self, IdError> {
        let name = name.into();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        match (1..=63).contains(&name.len()) && name.bytes().all(plain) {
            true => Ok(Self(name)),
            false => Err(IdError::Build(name)),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BuildName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for BuildName {
    type Error = IdError;
    fn try_from(name: String) -> Result<Self, IdError> {
        Self::new(name)
    }
}

impl From<BuildName> for String {
    fn from(name: BuildName) -> Self {
        name.0
    }
}

/// One of the two sides of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Legacy,
    Extracted,
}

impl Side {
    /// The side across.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Legacy => Self::Extracted,
            Self::Extracted => Self::Legacy,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Extracted => "extracted",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Number of a slice's state. Every change compares it and adds one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a share of traffic was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a share of traffic: give a percentage from 0 to 100 with at most two decimals"
)]
pub struct WeightError(pub String);

/// Share of a slice's read traffic on the extracted side, in basis points (0 to 10,000).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(try_from = "u16", into = "u16")]
pub struct Weight(u16);

impl Weight {
    pub const ZERO: Self = Self(0);
    pub const FULL: Self = Self(10_000);

    /// # Errors
    /// Returns [`WeightError`] above 10,000 basis points.
    pub fn from_basis_points(points: u16) -> Result<Self, WeightError> {
        if points <= 10_000 {
            Ok(Self(points))
        } else {
            Err(WeightError(format!("{points} basis points")))
        }
    }

    /// Reads a percentage: `5`, `5%`, `0.25`.
    ///
    /// # Errors
    /// Returns [`WeightError`] for anything but 0 to 100 with at most two decimals.
    pub fn from_percent(text: &str) -> Result<Self, WeightError> {
        let refused = || WeightError(text.to_owned());
        let digits = text.strip_suffix('%').unwrap_or(text);
        let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
        let plain = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !plain(whole) || !plain(part) || part.len() > 2 || whole.len() > 3 {
            return Err(refused());
        }
        let whole: u16 = whole.parse().map_err(|_| refused())?;
        let scale = if part.len() == 1 { 10 } else { 1 };
        let part: u16 = part.parse().map_err(|_| refused())?;
        Self::from_basis_points(whole.saturating_mul(100).saturating_add(part * scale))
            .map_err(|_| refused())
    }

    /// What is left of the whole.
    #[must_use]
    pub fn rest(self) -> Self {
        Self(Self::FULL.0 - self.0)
    }

    pub fn basis_points(self) -> u16 {
        self.0
    }

    /// The share as a number from 0.0 to 1.0.
    pub fn share(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

impl TryFrom<u16> for Weight {
    type Error = WeightError;
    fn try_from(points: u16) -> Result<Self, WeightError> {
        Self::from_basis_points(points)
    }
}

impl From<Weight> for u16 {
    fn from(weight: Weight) -> Self {
        weight.0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 100, self.0 % 100);
        match part {
            0 => write!(f, "{whole}%"),
            p if p % 10 == 0 => write!(f, "{whole}.{}%", p / 10),
            p => write!(f, "{whole}.{p:02}%"),
        }
    }
}

/// What a side says of itself in its build header; evidence belongs to a pair of these.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BuildId(pub String);

impl BuildId {
    /// A side that sends no build header: evidence can then not expire by deployment.
    pub fn unknown() -> Self {
        Self("unknown".to_owned())
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slice_names() {
        for good in ["catalog", "a", "order-items2"] {
            assert!(SliceId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "Catalog", "2nd", "a_b", "a/b", &"x".repeat(64)] {
            assert!(SliceId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn percentages_read_and_print_alike() {
        for (text, points, printed) in [
            ("5", 500, "5%"),
            ("5%", 500, "5%"),
            ("0.25", 25, "0.25%"),
            ("0.5%", 50, "0.5%"),
            ("0.05", 5, "0.05%"),
            ("100", 10_000, "100%"),
        ] {
            let weight = Weight::from_percent(text).expect(text);
            assert_eq!(weight.basis_points(), points, "{text}");
            assert_eq!(weight.to_string(), printed);
        }
        for bad in [
            "", "-1", "101", "100.01", "1.234", "a", "5%%", ".5", "5.", "1e1",
        ] {
            assert!(Weight::from_percent(bad).is_err(), "{bad}");
        }
    }
}
