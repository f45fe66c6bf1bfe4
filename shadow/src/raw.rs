//! What of an exchange is copied on a client's path: its heads and the answer's body, in bytes of
//! their own, one behind the other.
//!
//! Fields of a head that was read from a connection are parts of its buffer. A copy that keeps them
//! keeps the buffer, and the connection has to take a new one for each message that follows. So the
//! tap copies the bytes, and whoever judges makes fields of them again.

use bytes::{Buf, Bytes};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Most exchanges fit.
const USUAL: usize = 1_024;

/// A request's target and fields, an answer's fields, and its body. Empty by default.
#[derive(Default)]
pub struct Raw {
    bytes: Vec<u8>,
    /// Bytes of the request's head.
    asked: usize,
    /// Bytes of both heads.
    heads: usize,
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raw")
            .field("heads", &self.heads)
            .field("body", &self.body())
            .finish_non_exhaustive()
    }
}

impl Raw {
    /// Of a request, without the fields of this name.
    pub fn asked(target: &str, fields: &HeaderMap, without: &HeaderName) -> Self {
        let mut bytes = Vec::with_capacity(USUAL);
        put(&mut bytes, target.as_bytes(), b"");
        for (name, value) in fields {
            if name != without {
                put(&mut bytes, name.as_str().as_bytes(), value.as_bytes());
            }
        }
        let asked = bytes.len();
        Self {
            bytes,
            asked,
            heads: asked,
        }
    }

    /// Adds the answer's fields; once, and before its body.
    pub fn answered(&mut self, fields: &HeaderMap) {
        for (name, value) in fields {
            put(&mut self.bytes, name.as_str().as_bytes(), value.as_bytes());
        }
        self.heads = self.bytes.len();
    }

    /// The same, as lines of HTTP/1 that were found well-formed: they are read by whoever judges.
    pub fn answered_in<'a>(&mut self, lines: impl Iterator<Item = &'a [u8]>) {
        for piece in lines {
            put(&mut self.bytes, b"", piece);
        }
        self.heads = self.bytes.len();
    }

    /// Adds a part of the answer's body.
    pub fn keep(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
    }

    /// Bytes of the body.
    pub fn body(&self) -> usize {
        self.bytes.len() - self.heads
    }

    /// Drops the body, and the memory that it took.
    pub fn forget_body(&mut self) {
        self.bytes.truncate(self.heads);
        self.bytes.shrink_to(USUAL);
    }

    /// Bytes of both heads.
    pub(crate) fn heads(&self) -> usize {
        self.heads
    }

    /// What was put in; `None` where that is nothing.
    pub(crate) fn open(self) -> Option<Opened> {
        let mut asked = Bytes::from(self.bytes);
        let body = asked.split_off(self.heads);
        let answered = asked.split_off(self.asked);
        let (target, _) = pair(&mut asked)?;
        Some(Opened {
            target: PathAndQuery::from_maybe_shared(target).ok()?,
            asked: fields(asked),
            answered: fields(answered),
            body,
        })
    }
}

/// The parts of an exchange.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) target: PathAndQuery,
    /// The request's fields.
    pub(crate) asked: HeaderMap,
    /// The answer's fields.
    pub(crate) answered: HeaderMap,
    /// The answer's body.
    pub(crate) body: Bytes,
}

/// Two texts, behind the lengths of both. Heads have a bound, far below 4 GB: nothing is cut.
fn put(into: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let lengths = (name.len() as u64) << 32 | value.len() as u64;
    into.reserve(size_of::<u64>() + name.len() + value.len());
    into.extend_from_slice(&lengths.to_be_bytes());
    into.extend_from_slice(name);
    into.extend_from_slice(value);
}

fn pair(from: &mut Bytes) -> Option<(Bytes, Bytes)> {
    let mut next = |length: u32| {
        let length = usize::try_from(length).ok()?;
        (length <= from.len()).then(|| from.split_to(length))
    };
    let lengths = next(8)?.get_u64();
    let name = next(u32::try_from(lengths >> 32).ok()?)?;
    let value = next(u32::try_from(lengths & u64::from(u32::MAX)).ok()?)?;
    Some((name, value))
}

/// What was a field is one again.
fn fields(mut from: Bytes) -> HeaderMap {
    let mut found = HeaderMap::new();
    let mut add = |name: &[u8], value: Bytes| {
        let name = HeaderName::from_bytes(name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_maybe_shared(value)) {
            found.append(name, value);
        }
    };
    while let Some((name, value)) = pair(&mut from) {
        if !name.is_empty() {
            add(&name, value);
            continue;
        }
        // No field is without a name: these are lines.
        for line in value.split(|byte| *byte == b'\n') {
            if let Some(colon) = line.iter().position(|byte| *byte == b':') {
                let (name, text) = line.split_at(colon);
                add(name, value.slice_ref(text[1..].trim_ascii()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(fields: &[(String, Vec<u8>)]) -> HeaderMap {
        let fields = fields.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_bytes(value).unwrap())
        });
        let mut found = HeaderMap::new();
        fields.for_each(|(name, value)| {
            found.append(name, value);
        });
        found
    }

    fn some() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
        // Visible ASCII, spaces, and bytes beyond (RFC 9110 5.5).
        let value = prop::collection::vec(prop_oneof![0x20u8..0x7f, 0x80u8..], 0..40);
        let name = prop_oneof!["[a-z][a-z0-9-]{0,8}", Just("set-cookie".to_owned())];
        prop::collection::vec((name, value), 0..9)
    }

    #[test]
    fn what_nothing_was_put_into_says_nothing() {
        assert!(Raw::default().open().is_none());
        assert_eq!((Raw::default().heads(), Raw::default().body()), (0, 0));
    }

    #[test]
    fn a_body_that_is_forgotten_leaves_the_heads() {
        let without = HeaderName::from_static("x-none");
        let mut raw = Raw::asked("/a", &HeaderMap::new(), &without);
        raw.answered(&map(&[("x".to_owned(), b"y".to_vec())]));
        raw.keep(&[7; 100_000]);
        assert_eq!(raw.body(), 100_000);
        raw.forget_body();
        assert_eq!(raw.body(), 0);
        assert!(raw.bytes.capacity() < 2 * USUAL, "its memory is given back");
        raw.keep(b"z");
        let opened = raw.open().unwrap();
        assert_eq!(
            (&opened.answered["x"], &opened.body[..]),
            (&"y".parse().unwrap(), &b"z"[..])
        );
    }

    #[test]
    fn lines_are_taken_out_as_fields() {
        let mut raw = Raw::asked("/", &HeaderMap::new(), &HeaderName::from_static("x"));
        let lines: [&[u8]; 2] = [
            b"A: 1\r\nSet-Cookie:b=c:d \r\n",
            b"set-cookie:\te\r\nx:\r\n",
        ];
        raw.answered_in(lines.into_iter());
        raw.keep(b"z: 1\r\n");
        let opened = raw.open().unwrap();
        let expected = [
            ("a", "1"),
            ("set-cookie", "b=c:d"),
            ("set-cookie", "e"),
            ("x", ""),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.into()));
        assert_eq!(opened.answered, map(&expected));
        assert_eq!(&opened.body[..], b"z: 1\r\n");
    }

    proptest! {
        #[test]
        fn what_is_taken_out_is_what_was_put_in(
            target in "/[a-z]{0,5}(\\?[a-z=&%20]{0,9})?",
            asked in some(),
            answered in some(),
            body in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..900), 0..4),
        ) {
            let (asked, answered) = (map(&asked), map(&answered));
            let without = HeaderName::from_static("set-cookie");
            let mut raw = Raw::asked(&target, &asked, &without);
            raw.answered(&answered);
            body.iter().for_each(|part| raw.keep(part));
            let body = Bytes::from(body.concat());
            prop_assert_eq!(raw.body(), body.len());
            let found = raw.open().unwrap();
            let mut expected = asked;
            expected.remove(&without);
            let target = target.parse().unwrap();
            prop_assert_eq!(found, Opened { target, asked: expected, answered, body });
        }
    }
}
