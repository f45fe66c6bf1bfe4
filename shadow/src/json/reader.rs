//! JSON texts read from the front.
//!
//! Our own, because the reader must keep each number's text and each duplicate key, must pass over
//! a value without building it, and be put back to where it was. What it passes over is as valid
//! as what it reads.

use super::{Decimal, Json, scan};

/// Reads a text once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    #[inline]
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    #[inline]
    pub(crate) fn put(&mut self, at: usize) {
        self.at = at;
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    /// A part of the text.
    #[inline]
    pub(crate) fn part(&self, from: usize, to: usize) -> &'a str {
        self.text.get(from..to).unwrap_or_default()
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// Whether nothing is left.
    pub(crate) fn is_over(&mut self) -> bool {
        self.space();
        self.at == self.text.len()
    }

    /// Whether this text is the whole value that comes next.
    pub(crate) fn is_next(mut self, value: &str) -> bool {
        self.space();
        let rest = self.rest();
        let end = rest.get(value.len());
        end.is_none_or(|byte| b",]} \t\r\n".contains(byte)) && rest.starts_with(value.as_bytes())
    }

    #[inline]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    pub(crate) fn space(&mut self) {
        self.at = scan::space(self.bytes(), self.at);
    }

    fn eat(&mut self, wanted: &str) -> Option<()> {
        self.at = scan::word(self.bytes(), self.at, wanted.as_bytes())?;
        Some(())
    }

    /// Enters an array or an object; whether there is anything in it.
    #[inline]
    pub(crate) fn opens(&mut self, open: u8, close: u8) -> Option<bool> {
        (self.peek()? == open).then_some(())?;
        let more;
        (self.at, more) = scan::opens(self.bytes(), self.at, close)?;
        Some(more)
    }

    /// After a value: whether another one comes.
    #[inline]
    pub(crate) fn goes_on(&mut self, close: u8) -> Option<bool> {
        let more;
        (self.at, more) = scan::goes_on(self.bytes(), self.at, close)?;
        Some(more)
    }

    /// The name of a member, and the colon; `None` also for one with escapes.
    #[inline]
    pub(crate) fn name(&mut self) -> Option<&'a str> {
        self.space();
        let (name, escaped) = self.quoted()?;
        self.colon()?;
        (!escaped).then_some(name)
    }

    #[inline]
    fn colon(&mut self) -> Option<()> {
        self.at = scan::sign(self.bytes(), self.at, b':')?;
        Some(())
    }

    /// The name of a member, whatever it is written like, and the colon.
    pub(crate) fn member(&mut self) -> Option<String> {
        self.space();
        let name = self.string()?;
        self.colon()?;
        Some(name)
    }

    /// Passes over a value; `None` for whatever [`Self::value`] does not read.
    pub(crate) fn skip(&mut self, depth: usize) -> Option<()> {
        self.skip_within(depth, usize::MAX)
    }

    /// The same; also `None` where an array or an object goes on beyond `end`.
    pub(crate) fn skip_within(&mut self, depth: usize, end: usize) -> Option<()> {
        self.at = scan::value(self.bytes(), self.at, depth, end)?;
        Some(())
    }

    /// What is between the quotes, and whether it has escapes.
    #[inline]
    fn quoted(&mut self) -> Option<(&'a str, bool)> {
        let (end, escaped) = scan::string(self.bytes(), self.at)?;
        let inside = self.text.get(self.at + 1..end - 1)?;
        self.at = end;
        Some((inside, escaped))
    }

    pub(crate) fn value(&mut self, depth: usize) -> Option<Json> {
        let depth = depth.checked_sub(1)?;
        self.space();
        match self.peek()? {
            b'"' => self.string().map(Json::String),
            b'[' => self.array(depth),
            b'{' => self.object(depth),
            b'n' => self.eat("null").map(|()| Json::Null),
            b't' => self.eat("true").map(|()| Json::Bool(true)),
            b'f' => self.eat("false").map(|()| Json::Bool(false)),
            _ => self.number().map(|text| Json::Number(Decimal::new(text))),
        }
    }

    fn array(&mut self, depth: usize) -> Option<Json> {
        let mut all = Vec::new();
        let mut more = self.opens(b'[', b']')?;
        while more {
            all.push(self.value(depth)?);
            more = self.goes_on(b']')?;
        }
        Some(Json::Array(all))
    }

    fn object(&mut self, depth: usize) -> Option<Json> {
        let mut all = Vec::new();
        let mut more = self.opens(b'{', b'}')?;
        while more {
            let name = self.member()?;
            all.push((name, self.value(depth)?));
            more = self.goes_on(b'}')?;
        }
        Some(Json::object(all))
    }

    fn string(&mut self) -> Option<String> {
        let from = self.at;
        let (plain, escaped) = self.quoted()?;
        if escaped {
            // Escapes are rare, and somebody else's rules about surrogates are as good as ours.
            return serde_json::from_str(self.text.get(from..self.at)?).ok();
        }
        Some(plain.to_owned())
    }

    fn number(&mut self) -> Option<&'a str> {
        let from = self.at;
        self.at = scan::number(self.bytes(), from)?;
        self.text.get(from..self.at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::DEPTH_MAX;

    /// Whether all of it is one value, read, and passed over.
    fn check(text: &str) -> bool {
        let (mut reads, mut skips) = (Reader::new(text), Reader::new(text));
        let read = reads.value(DEPTH_MAX).is_some();
        let skipped = skips.skip(DEPTH_MAX).is_some();
        assert_eq!(read, skipped, "{text}");
        if read {
            assert_eq!(reads.at, skips.at, "{text}");
        }
        read && reads.is_over()
    }

    #[test]
    fn escapes_are_those_of_the_standard() {
        for (text, valid) in [
            (r#""\n\/\\\"\b\f\r\t""#, true),
            (r#""\u00e9 \uD83D\uDE00 \ud83d\ude00""#, true),
            (r#""\ud83d""#, false),
            (r#""\ud83d\n""#, false),
            (r#""\ud83d\u0041""#, false),
            (r#""\ude00""#, false),
            (r#""\u00g0""#, false),
            (r#""\u+041""#, false),
            (r#""\u00""#, false),
            (r#""\x""#, false),
            (r#""\"#, false),
            (r#""a longer text, and then \u0041""#, true),
            ("\"a longer text, and then \u{1} a control\"", false),
            ("\"\\\n\"", false),
        ] {
            assert_eq!(check(text), valid, "{text}");
            assert_eq!(
                serde_json::from_str::<String>(text).is_ok(),
                valid,
                "{text}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_048))]

        #[test]
        fn strings_are_read_as_everybody_reads_them(
            inside in "([a-z ]{0,9}|\\\\u[dD][89a-fA-F][0-9a-f]{2}|\\\\u[0-9]{4}|\\\\[\"\\\\/bfnrtu]|[\u{1}\"\\\\éß\u{1f600}]){0,5}"
        ) {
            let text = format!("\"{inside}\"");
            prop_assert_eq!(check(&text), serde_json::from_str::<String>(&text).is_ok(), "{}", text);
        }
    }
}
