//! JSON without loss: key order, duplicate keys and the text of every number survive.

use std::collections::HashMap;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Deeper documents are compared as text; no recursion goes further.
const DEPTH_MAX: usize = 100;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(Decimal),
    String(String),
    Array(Vec<Json>),
    /// In order, duplicates kept.
    Object(Vec<(String, Json)>),
}

/// A number by its exact decimal value; `1.0` and `1.00` are equal, `12` and `"12"` are not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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
    fn new(text: &str) -> Self {
        let negative = text.starts_with('-');
        let plain = text.trim_start_matches('-');
        let (mantissa, exponent) = match plain.find(['e', 'E']) {
            Some(at) => (&plain[..at], &plain[at + 1..]),
            None => (plain, "0"),
        };
        let Ok(exponent) = exponent.trim_start_matches('+').parse::<i32>() else {
            let text = Some(text.to_owned());
            return Self {
                negative,
                digits: String::new(),
                exponent: 0,
                text,
            };
        };
        let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{part}");
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

fn len(text: &str) -> i64 {
    i64::try_from(text.len()).unwrap_or(i64::MAX)
}

/// `None` for what is no JSON, or is nested too deeply.
pub(crate) fn parse(bytes: &[u8]) -> Option<Json> {
    let raw: &RawValue = serde_json::from_slice(bytes).ok()?;
    value(raw.get(), DEPTH_MAX)
}

fn value(text: &str, depth: usize) -> Option<Json> {
    let depth = depth.checked_sub(1)?;
    match text.as_bytes().first()? {
        b'n' => Some(Json::Null),
        b't' => Some(Json::Bool(true)),
        b'f' => Some(Json::Bool(false)),
        b'"' => serde_json::from_str(text).ok().map(Json::String),
        b'[' => {
            let Elements(raw) = serde_json::from_str(text).ok()?;
            raw.into_iter()
                .map(|raw| value(raw.get(), depth))
                .collect::<Option<_>>()
                .map(Json::Array)
        }
        b'{' => {
            let Members(raw) = serde_json::from_str(text).ok()?;
            let member = |(key, raw): (String, &RawValue)| Some((key, value(raw.get(), depth)?));
            raw.into_iter()
                .map(member)
                .collect::<Option<_>>()
                .map(Json::Object)
        }
        _ => Some(Json::Number(Decimal::new(text))),
    }
}

struct Elements<'a>(Vec<&'a RawValue>);
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Elements<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Elements<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(raw) = seq.next_element()? {
                    all.push(raw);
                }
                Ok(Elements(all))
            }
        }
        deserializer.deserialize_seq(Visit)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(member) = map.next_entry()? {
                    all.push(member);
                }
                Ok(Members(all))
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

impl Json {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }

    /// Short text for a report; never a whole document.
    pub(crate) fn brief(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(number) => number.to_string(),
            Self::String(text) => {
                let cut: String = text.chars().take(80).collect();
                format!("{cut:?}")
            }
            Self::Array(all) => format!("array of {}", all.len()),
            Self::Object(all) => format!("object of {}", all.len()),
        }
    }

    /// Members by name; a duplicate key has its values in order.
    pub(crate) fn by_name(members: &[(String, Json)]) -> HashMap<&str, Vec<&Json>> {
        let mut named: HashMap<&str, Vec<&Json>> = HashMap::new();
        for (name, value) in members {
            named.entry(name).or_default().push(value);
        }
        named
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Json {
        parse(text.as_bytes()).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn numbers_are_compared_by_value_and_without_loss() {
        for (a, b, equal) in [
            ("1.0", "1.00", true),
            ("100", "1e2", true),
            ("-0", "0.0", true),
            ("0.10", "1e-1", true),
            ("18446744073709551621", "5", false),
            ("12345678901234567890123", "12345678901234567890124", false),
            ("1e400", "1e401", false),
            ("1e99999999999", "1e99999999999", true),
            ("12", "\"12\"", false),
            ("null", "0", false),
        ] {
            assert_eq!(parsed(a) == parsed(b), equal, "{a} {b}");
        }
        assert_eq!(parsed("1234.50").brief(), "1234.5");
        assert_eq!(parsed("-1200").brief(), "-1200");
    }

    #[test]
    fn duplicate_keys_survive_and_depth_is_bounded() {
        let Json::Object(members) = parsed(r#"{"a":1,"a":2}"#) else {
            panic!("no object")
        };
        assert_eq!(members.len(), 2);
        assert!(parse("[".repeat(1_000_000).as_bytes()).is_none());
        let deep = format!("{}{}", "[".repeat(110), "]".repeat(110));
        assert!(parse(deep.as_bytes()).is_none());
        assert!(parse(b"{").is_none());
    }
}
