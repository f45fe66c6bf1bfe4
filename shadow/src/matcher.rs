//! What a rule accepts of a difference: anything, or only what is finer than that.
//!
//! A matcher never makes a difference, it only accepts one: equal values are not looked at. Ids that
//! are given anew are the exception, and are looked at by [`crate::rules`].

use std::collections::BTreeMap;
use std::time::Duration;

use regex::Regex;
use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime, macros::format_description};

use crate::diff::Change;
use crate::error::Error;
use crate::json::{Decimal, Json, parse};
use crate::renaming::{Book, Renaming};
use crate::settings::{Accept, Known};

/// An [`Accept`] that was read once.
#[derive(Debug, Clone)]
pub(crate) enum Matcher {
    Any,
    Type,
    Presence,
    Null,
    Instant,
    Renamed(Renaming),
    Near(Near),
    Round(u32),
    Regex(Regex),
    OneOf(Vec<Json>),
    Prefix(String),
    Format(Known),
    Map(BTreeMap<String, String>),
}

/// How far apart two values may be.
#[derive(Debug, Clone)]
pub(crate) enum Near {
    Number(Decimal),
    /// Of the legacy value.
    Share(f64),
    Time(Duration),
}

impl Matcher {
    pub(crate) fn new(accept: &Accept) -> Result<Self, Error> {
        let wrong = |what: String| Error::Accept(what);
        Ok(match accept {
            Accept::Any => Self::Any,
            Accept::Type => Self::Type,
            Accept::Presence => Self::Presence,
            Accept::Null => Self::Null,
            Accept::Instant => Self::Instant,
            Accept::Renamed | Accept::RenamedAs(_) => Self::Renamed(Renaming::default()),
            Accept::Tolerance(text) => Self::Near(near(text).ok_or_else(|| {
                wrong(format!(
                    "`{text}` is no tolerance: write \"0.01\", \"1%\" or \"2s\""
                ))
            })?),
            Accept::Round(places) => Self::Round(*places),
            Accept::Regex(text) => {
                // The whole value: half a match says little.
                let whole = format!("^(?:{text})$");
                Self::Regex(Regex::new(&whole).map_err(|error| wrong(error.to_string()))?)
            }
            Accept::OneOf(all) => {
                let json = |value: &serde_json::Value| parse(value.to_string().as_bytes());
                Self::OneOf(all.iter().filter_map(json).collect())
            }
            Accept::Prefix(text) => Self::Prefix(text.clone()),
            Accept::Format(format) => Self::Format(*format),
            Accept::Map(map) => Self::Map(map.clone()),
        })
    }

    /// The same with other knowledge of ids.
    pub(crate) fn knowing(&self, ids: impl FnOnce(&Renaming) -> Renaming) -> Self {
        match self {
            Self::Renamed(known) => Self::Renamed(ids(known)),
            other => other.clone(),
        }
    }

    /// False where it is enough to know that two values differ.
    pub(crate) fn looks_at_values(&self) -> bool {
        !matches!(self, Self::Any | Self::Presence)
    }

    /// `book`: where ids are looked up.
    pub(crate) fn accepts(&self, change: &Change<'_>, book: Book) -> bool {
        match (self, change) {
            (Self::Any, _) => true,
            (Self::Null, Change::Missing(value) | Change::Extra(value)) => **value == Json::Null,
            (Self::Presence, change) => !matches!(change, Change::Missing(_) | Change::Extra(_)),
            (Self::Type, Change::Value(a, b)) => a.kind() == b.kind(),
            (Self::Map(map), Change::Value(a, b)) => match (word(a), word(b)) {
                (Some(a), Some(b)) => map.get(&a) == Some(&b),
                _ => false,
            },
            (Self::OneOf(known), Change::Value(a, b)) => known.contains(a) && known.contains(b),
            (Self::Instant, Change::Value(a, b)) => {
                apart(a, b).is_some_and(|apart| apart.is_zero())
            }
            (Self::Renamed(ids), Change::Value(a, b)) => ids.agrees(book, a, b),
            (Self::Near(near), Change::Value(a, b)) => near.holds(a, b),
            (Self::Round(places), Change::Value(a, b)) => numbers(a, b).is_some_and(|(a, b)| {
                let rounded = a.rounded(*places);
                rounded.is_some() && rounded == b.rounded(*places)
            }),
            (Self::Regex(regex), Change::Value(a, b)) => both(a, b, |text| regex.is_match(text)),
            (Self::Prefix(prefix), Change::Value(a, b)) => {
                both(a, b, |text| text.starts_with(prefix.as_str()))
            }
            (Self::Format(format), Change::Value(a, b)) => {
                a.kind() == b.kind() && both(a, b, |text| is(*format, text))
            }
            _ => false,
        }
    }
}

impl Near {
    fn holds(&self, a: &Json, b: &Json) -> bool {
        match self {
            Self::Time(most) => apart(a, b).is_some_and(|apart| apart <= *most),
            Self::Number(most) => numbers(a, b).is_some_and(|(a, b)| a.within(&b, most)),
            Self::Share(most) => numbers(a, b).is_some_and(|(a, b)| a.within_share(&b, *most)),
        }
    }
}

fn near(text: &str) -> Option<Near> {
    let text = text.trim();
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| *n >= 0.0);
    if let Some(share) = text.strip_suffix('%') {
        let share = number(share).filter(|share| share.is_finite())?;
        return Some(Near::Share(share / 100.0));
    }
    for (unit, seconds) in [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0)] {
        if let Some(count) = text.strip_suffix(unit).and_then(number) {
            return Duration::try_from_secs_f64(count * seconds)
                .ok()
                .map(Near::Time);
        }
    }
    match parse(text.as_bytes())? {
        Json::Number(number) if !number.is_negative() => Some(Near::Number(number)),
        _ => None,
    }
}

/// The text of a scalar.
fn word(json: &Json) -> Option<String> {
    match json {
        Json::Array(_) | Json::Object(_) => None,
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Null => Some("null".to_owned()),
        Json::Bool(flag) => Some(flag.to_string()),
    }
}

fn both(a: &Json, b: &Json, holds: impl Fn(&str) -> bool) -> bool {
    matches!((word(a), word(b)), (Some(a), Some(b)) if holds(&a) && holds(&b))
}

/// Two numbers, or two texts that are numbers; a number is no text.
fn numbers(a: &Json, b: &Json) -> Option<(Decimal, Decimal)> {
    let number = |json: &Json| match json {
        Json::Number(number) => Some(number.clone()),
        Json::String(text) => match parse(text.trim().as_bytes())? {
            Json::Number(number) => Some(number),
            _ => None,
        },
        _ => None,
    };
    (a.kind() == b.kind()).then_some(())?;
    Some((number(a)?, number(b)?))
}

/// How far apart two moments are.
fn apart(a: &Json, b: &Json) -> Option<Duration> {
    let moment = |json: &Json| match json {
        Json::String(text) => OffsetDateTime::parse(text, &Rfc3339).ok(),
        _ => None,
    };
    Some((moment(a)? - moment(b)?).unsigned_abs())
}

fn is(format: Known, text: &str) -> bool {
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    match format {
        Known::Uuid => {
            let parts: Vec<&str> = text.split('-').collect();
            let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
            lengths == [8, 4, 4, 4, 12] && parts.into_iter().all(hex)
        }
        Known::Rfc3339 => OffsetDateTime::parse(text, &Rfc3339).is_ok(),
        Known::Date => Date::parse(text, format_description!("[year]-[month]-[day]")).is_ok(),
        Known::Email => match text.rsplit_once('@') {
            Some((user, host)) => {
                let plain = |c: char| !c.is_whitespace() && !c.is_control();
                !user.is_empty() && host.contains('.') && text.chars().all(plain)
            }
            None => false,
        },
        Known::Url => text.parse::<http::Uri>().is_ok_and(|uri| {
            uri.scheme().is_some() && uri.host().is_some_and(|host| !host.is_empty())
        }),
        Known::Ip => text.parse::<std::net::IpAddr>().is_ok(),
        Known::Integer => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
        }
        Known::Hex => hex(text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accepts(accept: &Accept, a: &str, b: &str) -> bool {
        let json = |text: &str| parse(text.as_bytes()).unwrap();
        let matcher = Matcher::new(accept).unwrap();
        matcher.accepts(&Change::Value(&json(a), &json(b)), Book::Sides)
    }

    /// Each line: the rule, two values, and whether their difference is accepted.
    fn check(table: &[(&str, &str, &str, bool)]) {
        for (accept, a, b, expected) in table {
            let accept: Accept = serde_json::from_str(accept).unwrap();
            assert_eq!(accepts(&accept, a, b), *expected, "{accept:?} {a} {b}");
        }
    }

    #[test]
    fn numbers_and_moments_may_be_near() {
        check(&[
            (r#"{"tolerance":"0.01"}"#, "9.95", "9.96", true),
            (r#"{"tolerance":"0.01"}"#, "9.95", "9.9600001", false),
            (
                r#"{"tolerance":"0.5"}"#,
                "9007199254740993",
                "9007199254740992",
                false,
            ),
            (r#"{"tolerance":"1"}"#, r#""9.95""#, r#""10.20""#, true),
            (r#"{"tolerance":"1"}"#, r#""9.95""#, "9.95", false),
            (r#"{"tolerance":"1"}"#, "1e400", "1e400000", false),
            (r#"{"tolerance":"1%"}"#, "1000", "1010", true),
            (r#"{"tolerance":"1%"}"#, "1000", "1011", false),
            (
                r#"{"tolerance":"2s"}"#,
                r#""2026-01-01T00:00:00Z""#,
                r#""2026-01-01T01:00:02+01:00""#,
                true,
            ),
            (
                r#"{"tolerance":"2s"}"#,
                r#""2026-01-01T00:00:00Z""#,
                r#""2026-01-01T00:00:02.1Z""#,
                false,
            ),
            (
                r#""instant""#,
                r#""2026-01-01T00:00:00Z""#,
                r#""2026-01-01T01:00:00.000+01:00""#,
                true,
            ),
            (
                r#""instant""#,
                r#""2026-01-01T00:00:00Z""#,
                r#""2026-01-01T00:00:00.001Z""#,
                false,
            ),
            (r#"{"round":2}"#, "1.234", "1.2349", true),
            (r#"{"round":2}"#, "-1.235", "-1.24", true),
            (r#"{"round":2}"#, "1.234", "1.235", false),
        ]);
    }

    #[test]
    fn texts_may_be_of_a_kind() {
        let states = r#"{"map":{"A":"active","1":"true"}}"#;
        check(&[
            (r#""any""#, "1", r#""x""#, true),
            (r#""type""#, "1", "2", true),
            (r#""type""#, "1", r#""2""#, false),
            (r#""presence""#, "1", "null", true),
            (r#"{"regex":"h-[0-9]+"}"#, r#""h-1""#, r#""h-22""#, true),
            (r#"{"regex":"h-[0-9]+"}"#, r#""h-1""#, r#""xh-22""#, false),
            (r#"{"regex":"a|b"}"#, r#""a""#, r#""bc""#, false),
            (r#"{"one_of":["new",3]}"#, r#""new""#, "3", true),
            (r#"{"one_of":["new",3]}"#, r#""new""#, r#""3""#, false),
            (r#"{"prefix":"/img/"}"#, r#""/img/1""#, r#""/img/2""#, true),
            (r#"{"prefix":"/img/"}"#, r#""/img/1""#, r#""/x/2""#, false),
            (states, r#""A""#, r#""active""#, true),
            (states, "1", "true", true),
            (states, r#""active""#, r#""A""#, false),
        ]);
    }

    #[test]
    fn formats_are_checked_on_both_sides() {
        for (format, good, bad) in [
            (
                Known::Uuid,
                "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
                "6ba7b810-9dad-11d1-80b4",
            ),
            (
                Known::Rfc3339,
                "2026-02-28T00:00:00Z",
                "2026-02-30T00:00:00Z",
            ),
            (Known::Date, "2026-02-28", "2026-02-30"),
            (Known::Email, "a@b.example", "a b@c.example"),
            (Known::Url, "https://a.example/x", "/x"),
            (Known::Ip, "::1", "300.1.1.1"),
            (Known::Integer, "-12", "1.2"),
            (Known::Hex, "00ff", "xyz"),
        ] {
            let quoted = |text: &str| format!("{text:?}");
            let accept = Accept::Format(format);
            let other = quoted(&good.replace('2', "1"));
            assert!(accepts(&accept, &quoted(good), &other), "{good}");
            assert!(!accepts(&accept, &quoted(good), &quoted(bad)), "{bad}");
            assert!(!accepts(&accept, &quoted(bad), &quoted(good)), "{bad}");
        }
    }

    #[test]
    fn absent_is_null_only_where_that_is_said() {
        let null = Matcher::new(&Accept::Null).unwrap();
        assert!(null.accepts(&Change::Missing(&Json::Null), Book::Sides));
        assert!(!null.accepts(&Change::Missing(&Json::Bool(false)), Book::Sides));
        let presence = Matcher::new(&Accept::Presence).unwrap();
        assert!(!presence.accepts(&Change::Missing(&Json::Null), Book::Sides));
    }

    #[test]
    fn a_matcher_that_cannot_be_read_is_refused() {
        for bad in ["", "x", "-1", "1x", "%", "inf", "infs"] {
            assert!(
                Matcher::new(&Accept::Tolerance(bad.to_owned())).is_err(),
                "{bad}"
            );
        }
        assert!(Matcher::new(&Accept::Regex("(".to_owned())).is_err());
    }

    proptest! {
        #[test]
        fn tolerances_agree_with_whole_numbers(a in -10_000i64..10_000, b in -10_000i64..10_000, most in 0i64..500) {
            let tenth = |n: i64| format!("{}{}.{}", if n < 0 { "-" } else { "" }, n.abs() / 10, n.abs() % 10);
            let accept = Accept::Tolerance(tenth(most));
            prop_assert_eq!(accepts(&accept, &tenth(a), &tenth(b)), (a - b).abs() <= most);
        }
    }
}
