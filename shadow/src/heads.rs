//! The heads of an exchange, in bytes of their own.
//!
//! Fields of a head that was read from a connection are parts of its buffer. A copy that keeps them
//! keeps the buffer, and the connection has to take a new one for each message that follows. So the
//! tap copies the bytes, and whoever judges makes fields of them again.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Most heads of an exchange fit.
const USUAL: usize = 1_024;

/// A request's target and fields, and an answer's fields. Empty by default.
#[derive(Debug, Default)]
pub struct Heads {
    bytes: BytesMut,
    /// Bytes of the request's.
    asked: usize,
}

impl Heads {
    /// Of a request, without the fields of this name.
    pub fn asked(target: &PathAndQuery, fields: &HeaderMap, without: &HeaderName) -> Self {
        let mut found = Self {
            bytes: BytesMut::with_capacity(USUAL),
            asked: 0,
        };
        found.text(target.as_str().as_bytes());
        found.fields(fields, Some(without));
        found.asked = found.bytes.len();
        found
    }

    /// Adds those of the answer; once.
    pub fn answered(&mut self, fields: &HeaderMap) {
        self.fields(fields, None);
    }

    /// Bytes that are held.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    fn text(&mut self, text: &[u8]) {
        // Heads have a bound, far below 4 GB: nothing is cut.
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let most = usize::try_from(length).unwrap_or(usize::MAX);
        self.bytes.put_u32(length);
        self.bytes.put_slice(text.get(..most).unwrap_or(text));
    }

    fn fields(&mut self, fields: &HeaderMap, without: Option<&HeaderName>) {
        for (name, value) in fields {
            if Some(name) != without {
                self.text(name.as_str().as_bytes());
                self.text(value.as_bytes());
            }
        }
    }

    /// Target and fields of the request, and fields of the answer; `None` where nothing was put in.
    pub(crate) fn open(self) -> Option<(PathAndQuery, HeaderMap, HeaderMap)> {
        let mut asked = self.bytes.freeze();
        let answered = asked.split_off(self.asked);
        let target = PathAndQuery::from_maybe_shared(text(&mut asked)?).ok()?;
        Some((target, fields(asked), fields(answered)))
    }
}

fn text(from: &mut Bytes) -> Option<Bytes> {
    let length = from.try_get_u32().ok()?;
    let length = usize::try_from(length).ok()?;
    (length <= from.len()).then(|| from.split_to(length))
}

/// What was a field is one again.
fn fields(mut from: Bytes) -> HeaderMap {
    let mut found = HeaderMap::new();
    while let (Some(name), Some(value)) = (text(&mut from), text(&mut from)) {
        let name = HeaderName::from_bytes(&name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_maybe_shared(value)) {
            found.append(name, value);
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
        assert!(Heads::default().open().is_none());
        assert_eq!(Heads::default().len(), 0);
    }

    proptest! {
        #[test]
        fn heads_come_out_as_they_went_in(
            target in "/[a-z]{0,5}(\\?[a-z=&%20]{0,9})?",
            asked in some(),
            answered in some(),
        ) {
            let (asked, answered) = (map(&asked), map(&answered));
            let target: PathAndQuery = target.parse().unwrap();
            let without = HeaderName::from_static("set-cookie");
            let mut heads = Heads::asked(&target, &asked, &without);
            heads.answered(&answered);
            let found = heads.open().unwrap();
            let mut expected = asked;
            expected.remove(&without);
            prop_assert_eq!(found, (target, expected, answered));
        }
    }
}
