//! JSON without loss: duplicate keys and every digit of a number survive.

mod decimal;
mod reader;
pub(crate) mod scan;

pub(crate) use decimal::Decimal;
pub(crate) use reader::Reader;

/// Deeper documents are compared as text; no recursion goes further.
pub(crate) const DEPTH_MAX: usize = 100;

/// Of a text, in short. Longer than what is shown, so that no secret is cut before it is known.
const BRIEF_MAX: usize = 1_000;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(Decimal),
    String(String),
    Array(Vec<Json>),
    /// By name, duplicates kept: see [`Json::object`].
    Object(Vec<(String, Json)>),
}

/// `None` for what is no JSON, or is nested too deeply.
pub(crate) fn parse(bytes: &[u8]) -> Option<Json> {
    let mut reader = Reader::new(std::str::from_utf8(bytes).ok()?);
    let found = reader.value(DEPTH_MAX)?;
    reader.is_over().then_some(found)
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
                let cut: String = text.chars().take(BRIEF_MAX).collect();
                format!("{cut:?}")
            }
            Self::Array(all) => format!("array of {}", all.len()),
            Self::Object(all) => format!("object of {}", all.len()),
        }
    }

    /// An object of these members. Their order means nothing, so it is always the same one; the
    /// values of a duplicate key stay in theirs.
    pub(crate) fn object(mut members: Vec<(String, Self)>) -> Self {
        members.sort_by(|a, b| a.0.cmp(&b.0));
        Self::Object(members)
    }

    /// The one value of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else {
            return None;
        };
        let mut found = members.iter().filter(|(known, _)| known == name);
        let (_, value) = found.next()?;
        found.next().is_none().then_some(value)
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
