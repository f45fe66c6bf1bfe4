//! JSON without loss: duplicate keys and every digit of a number survive.

use std::borrow::Cow;

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
    fn new(text: &str) -> Self {
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

/// `None` for what is no JSON, or is nested too deeply.
pub(crate) fn parse(bytes: &[u8]) -> Option<Json> {
    let mut reader = Reader {
        text: std::str::from_utf8(bytes).ok()?,
        at: 0,
    };
    let found = reader.value(DEPTH_MAX)?;
    reader.space();
    (reader.at == bytes.len()).then_some(found)
}

/// Reads a text once, from the front. Our own, because the reader must keep each number's text
/// and each duplicate key, in one pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

/// For whoever reads only a part: see [`crate::twin`].
impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn back_at(&self, at: usize) -> Self {
        Self {
            text: self.text,
            at,
        }
    }

    /// What was read since.
    pub(crate) fn between(&self, from: usize) -> &'a str {
        self.text.get(from..self.at).unwrap_or_default()
    }

    /// Whether nothing is left.
    pub(crate) fn is_over(&mut self) -> bool {
        self.space();
        self.at == self.text.len()
    }

    /// Passes over this text where it is the whole value that comes.
    pub(crate) fn passes(&mut self, value: &str) -> bool {
        let bytes = self.text.as_bytes();
        let end = self.at + value.len();
        let ends = bytes
            .get(end)
            .is_none_or(|byte| b",]} \t\r\n".contains(byte));
        let passes = ends && bytes.get(self.at..end) == Some(value.as_bytes());
        if passes {
            self.at = end;
        }
        passes
    }

    /// Enters an array or an object; whether there is anything in it.
    pub(crate) fn opens(&mut self, open: u8, close: u8) -> Option<bool> {
        (self.peek()? == open).then_some(())?;
        self.at += 1;
        self.space();
        let more = self.peek()? != close;
        self.at += usize::from(!more);
        Some(more)
    }

    /// After a value: whether another one comes.
    pub(crate) fn goes_on(&mut self, close: u8) -> Option<bool> {
        self.space();
        let byte = self.peek()?;
        (byte == close || byte == b',').then_some(())?;
        self.at += 1;
        Some(byte == b',')
    }

    /// The name of a member, and the colon; `None` also for one with escapes.
    pub(crate) fn name(&mut self) -> Option<&'a str> {
        self.space();
        let from = self.at;
        self.skip_string()?;
        let name = self.between(from);
        let name = name.get(1..name.len() - 1)?;
        self.space();
        self.eat(":")?;
        (!name.contains('\\')).then_some(name)
    }

    /// The texts of the elements that are left of an array, if there are `more`.
    pub(crate) fn elements(&mut self, mut more: bool, depth: usize) -> Option<Vec<&'a str>> {
        let mut all = Vec::new();
        while more {
            self.space();
            let from = self.at;
            self.skip(depth)?;
            all.push(self.between(from));
            more = self.goes_on(b']')?;
        }
        Some(all)
    }

    /// Passes over a value; `None` for whatever [`Self::value`] does not read.
    pub(crate) fn skip(&mut self, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        self.space();
        match self.peek()? {
            b'n' => self.eat("null"),
            b't' => self.eat("true"),
            b'f' => self.eat("false"),
            b'"' => self.skip_string(),
            b'[' => {
                let mut more = self.opens(b'[', b']')?;
                while more {
                    self.skip(depth)?;
                    more = self.goes_on(b']')?;
                }
                Some(())
            }
            b'{' => {
                let mut more = self.opens(b'{', b'}')?;
                while more {
                    self.space();
                    self.skip_string()?;
                    self.space();
                    self.eat(":")?;
                    self.skip(depth)?;
                    more = self.goes_on(b'}')?;
                }
                Some(())
            }
            _ => self.number().map(|_| ()),
        }
    }

    fn skip_string(&mut self) -> Option<()> {
        if self.peek()? != b'"' {
            return None;
        }
        let rest = self.text.as_bytes().get(self.at + 1..)?;
        let end = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
        let len = rest.iter().position(end)?;
        if rest[len] == b'"' {
            self.at += len + 2;
            return Some(());
        }
        // Escapes are rare; what is wrong with them is known there.
        self.string().map(|_| ())
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    pub(crate) fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn eat(&mut self, wanted: &str) -> Option<()> {
        self.text.get(self.at..)?.strip_prefix(wanted)?;
        self.at += wanted.len();
        Some(())
    }

    pub(crate) fn value(&mut self, depth: usize) -> Option<Json> {
        let depth = depth.checked_sub(1)?;
        self.space();
        match self.peek()? {
            b'n' => self.eat("null").map(|()| Json::Null),
            b't' => self.eat("true").map(|()| Json::Bool(true)),
            b'f' => self.eat("false").map(|()| Json::Bool(false)),
            b'"' => self.string().map(Json::String),
            b'[' => self.array(depth),
            b'{' => self.object(depth),
            _ => self.number().map(|text| Json::Number(Decimal::new(text))),
        }
    }

    fn array(&mut self, depth: usize) -> Option<Json> {
        self.eat("[")?;
        let mut all = Vec::new();
        self.space();
        if self.eat("]").is_some() {
            return Some(Json::Array(all));
        }
        loop {
            all.push(self.value(depth)?);
            self.space();
            if self.eat("]").is_some() {
                return Some(Json::Array(all));
            }
            self.eat(",")?;
        }
    }

    fn object(&mut self, depth: usize) -> Option<Json> {
        self.eat("{")?;
        let mut all = Vec::new();
        self.space();
        if self.eat("}").is_some() {
            return Some(Json::Object(all));
        }
        loop {
            self.space();
            let name = self.string()?;
            self.space();
            self.eat(":")?;
            all.push((name, self.value(depth)?));
            self.space();
            if self.eat("}").is_some() {
                return Some(Json::object(all));
            }
            self.eat(",")?;
        }
    }

    fn string(&mut self) -> Option<String> {
        let begun = self.at;
        self.eat("\"")?;
        let mut escaped = false;
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    self.at += 1;
                }
                0..=0x1f => return None,
                _ => {}
            }
        }
        let whole = self.text.get(begun..self.at)?;
        if escaped {
            // Escapes are rare, and somebody else's rules about surrogates are as good as ours.
            return serde_json::from_str(whole).ok();
        }
        Some(whole.get(1..whole.len() - 1)?.to_owned())
    }

    fn digits(&mut self) -> Option<()> {
        let begun = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        (self.at > begun).then_some(())
    }

    fn number(&mut self) -> Option<&'a str> {
        let begun = self.at;
        let _ = self.eat("-");
        match self.peek()? {
            b'0' => self.at += 1,
            _ => self.digits()?,
        }
        if self.eat(".").is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        self.text.get(begun..self.at)
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
