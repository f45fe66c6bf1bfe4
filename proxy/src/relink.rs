//! Changes absolute links within a body as it passes. Only what may be the beginning of a link waits for
//! the next part, so that streams are as prompt as without.

use std::sync::Arc;

use bytes::Bytes;
use http_body::Frame;

/// One address to look for, and what takes its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Needle {
    /// `http://HOST/PATH`, or with each slash behind a backslash, as some write JSON.
    from: Vec<u8>,
    /// Bytes of `from` that are scheme and host, where case means nothing.
    host: usize,
    to: Vec<u8>,
    slash: &'static [u8],
}

impl Needle {
    /// Both ways of writing a link from `from`, of which `host` bytes are scheme and host.
    pub(crate) fn both(from: &str, host: usize, to: &str) -> [Self; 2] {
        let escaped = |text: &str| text.replace('/', "\\/").into_bytes();
        let plain = Self {
            from: from.into(),
            host,
            to: to.into(),
            slash: b"/",
        };
        let other = Self {
            from: escaped(from),
            host: escaped(&from[..host]).len(),
            to: escaped(to),
            slash: b"\\/",
        };
        [plain, other]
    }

    /// Whether `text` begins like this, as far as both go.
    fn begins(&self, text: &[u8]) -> bool {
        let size = text.len().min(self.from.len());
        let host = size.min(self.host);
        text[..host].eq_ignore_ascii_case(&self.from[..host])
            && text[host..size] == self.from[host..size]
    }

    /// Bytes from its beginning to its colon.
    fn scheme(&self) -> usize {
        self.from.iter().take_while(|byte| **byte != b':').count()
    }
}

/// What stands behind an address.
#[derive(Debug, PartialEq, Eq)]
enum Behind {
    /// The address goes on: it is another one.
    More,
    /// Its path goes on.
    Path,
    /// It ends.
    End,
    /// That is not known yet.
    Unknown,
}

/// `#` and `?` end it, and what can stand behind a link in a text: never what may be part of a segment.
fn behind(rest: &[u8], last: bool) -> Behind {
    match rest {
        [] | [b'\\'] if !last => Behind::Unknown,
        [b'/', ..] | [b'\\', b'/', ..] => Behind::Path,
        // The end of a quoted text. Behind any other backslash a browser looks for a host.
        [b'\\', b'"' | b'\'', ..] => Behind::End,
        [b'\\', ..] => Behind::More,
        [byte, ..] if byte.is_ascii_alphanumeric() || b"-._~%:@+=$!*".contains(byte) => {
            Behind::More
        }
        [byte, ..] if !byte.is_ascii() => Behind::More,
        _ => Behind::End,
    }
}

/// What is found at a colon.
enum Hit {
    Nothing,
    /// What comes next says it.
    Perhaps,
    /// By this needle, from there on.
    Link(usize, usize),
}

/// At work on one body.
#[derive(Debug)]
pub(crate) struct Relink {
    needles: Arc<[Needle]>,
    /// What has come and may be the beginning of a link.
    held: Vec<u8>,
    /// The byte before it.
    before: u8,
    /// Slashes are left out: one was written in their place.
    slashes: bool,
    pub(crate) trailers: Option<Frame<Bytes>>,
}

impl Relink {
    pub(crate) fn new(needles: Arc<[Needle]>) -> Self {
        Self {
            needles,
            held: Vec::new(),
            before: b' ',
            slashes: false,
            trailers: None,
        }
    }

    /// The next part as a client should see it. `last`: nothing comes behind it.
    pub(crate) fn feed(&mut self, data: &[u8], last: bool) -> Bytes {
        let needles = self.needles.clone();
        let mut text = std::mem::take(&mut self.held);
        text.extend_from_slice(data);
        let mut out = Vec::with_capacity(text.len());
        let mut done = 0;
        if self.slashes {
            done = self.skip(&text, 0, last);
        }
        let mut from = done;
        while let Some(colon) = text[from..].iter().position(|byte| *byte == b':') {
            let colon = from + colon;
            from = colon + 1;
            let (needle, begin) = match self.at(&text, (done, colon), last) {
                Hit::Nothing => continue,
                Hit::Perhaps => break,
                Hit::Link(index, begin) => (&needles[index], begin),
            };
            let end = begin + needle.from.len();
            let rest = behind(&text[end..], last);
            out.extend_from_slice(&text[done..begin]);
            out.extend_from_slice(&needle.to);
            done = end;
            if needle.to.is_empty() {
                // One slash exactly: browsers read two as another host.
                out.extend_from_slice(needle.slash);
                if rest == Behind::Path {
                    self.slashes = true;
                    done = self.skip(&text, end, last);
                }
            }
            from = done;
        }
        let keep = if last {
            text.len()
        } else {
            self.open(&text, done)
        };
        out.extend_from_slice(&text[done..keep]);
        self.before = out.last().copied().unwrap_or(self.before);
        self.held = text.split_off(keep);
        Bytes::from(out)
    }

    /// The first that fits where this colon stands, in what is left from `done` on.
    fn at(&self, text: &[u8], (done, colon): (usize, usize), last: bool) -> Hit {
        for (index, needle) in self.needles.iter().enumerate() {
            let Some(begin) = colon.checked_sub(needle.scheme()) else {
                continue;
            };
            let free = match begin {
                0 => self.before,
                _ => text[begin - 1],
            };
            if begin < done || free.is_ascii_alphanumeric() || !needle.begins(&text[begin..]) {
                continue;
            }
            match text.get(begin + needle.from.len()..) {
                None if last => {}
                None => return Hit::Perhaps,
                Some(rest) => match behind(rest, last) {
                    Behind::More => {}
                    Behind::Unknown => return Hit::Perhaps,
                    Behind::Path | Behind::End => return Hit::Link(index, begin),
                },
            }
        }
        Hit::Nothing
    }

    /// Where slashes end.
    fn skip(&mut self, text: &[u8], mut at: usize, last: bool) -> usize {
        loop {
            at += match &text[at..] {
                [b'/', ..] => 1,
                [b'\\', b'/', ..] => 2,
                [] | [b'\\'] if !last => return at,
                _ => {
                    self.slashes = false;
                    return at;
                }
            };
        }
    }

    /// From where on the text may be the beginning of a link.
    fn open(&self, text: &[u8], done: usize) -> usize {
        // A quote behind a backslash is the farthest that is looked at.
        let most = self.needles.iter().map(|needle| needle.from.len()).max();
        let first = text.len().saturating_sub(most.unwrap_or_default() + 1);
        let may = |at: &usize| {
            let rest = &text[*at..];
            let begins = |needle: &Needle| {
                rest.len() <= needle.from.len() + 1
                    && needle.begins(rest)
                    && rest
                        .get(needle.from.len()..)
                        .is_none_or(|rest| behind(rest, false) == Behind::Unknown)
            };
            let slash = self.slashes && rest == b"\\";
            slash || self.needles.iter().any(begins)
        };
        (first.max(done)..text.len())
            .find(may)
            .unwrap_or(text.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn relink(rules: &[(&str, &str)]) -> Relink {
        let host = |from: &str| from[8..].find('/').map_or(from.len(), |at| at + 8);
        let both = |(from, to): &(&str, &str)| Needle::both(from, host(from), to);
        Relink::new(rules.iter().flat_map(both).collect())
    }

    fn changed(rules: &[(&str, &str)], text: &str) -> String {
        let seen = relink(rules).feed(text.as_bytes(), true);
        String::from_utf8(seen.to_vec()).unwrap()
    }

    #[test]
    fn links_are_changed_wherever_they_stand() {
        let bare = [("http://m:9000", "")];
        let shop = [("http://m:9000/app", "https://shop.example/s")];
        for (rules, text, seen) in [
            (
                bare,
                r#"<a href="http://m:9000/a?b">"#,
                r#"<a href="/a?b">"#,
            ),
            (bare, r#"<a href="HTTP://M:9000">"#, r#"<a href="/">"#),
            (bare, "url(http://m:9000/x.png)", "url(/x.png)"),
            (bare, "http://m:9000//evil.example", "/evil.example"),
            (bare, r#"{"a":"http:\/\/m:9000\/a"}"#, r#"{"a":"\/a"}"#),
            (
                bare,
                r#""<a href=\"http://m:9000\">""#,
                r#""<a href=\"/\">""#,
            ),
            // Others, or what a browser would read as another.
            (bare, "http://m:90001/a", "http://m:90001/a"),
            (bare, "http://m:9000.evil/a", "http://m:9000.evil/a"),
            (bare, "http://m:9000@evil/a", "http://m:9000@evil/a"),
            (bare, r"http://m:9000\evil", r"http://m:9000\evil"),
            (bare, "xhttp://m:9000/", "xhttp://m:9000/"),
            (bare, "https://m:9000/", "https://m:9000/"),
            (
                shop,
                "http://m:9000/app/a http://m:9000/app",
                "https://shop.example/s/a https://shop.example/s",
            ),
            (shop, "http://m:9000/apple", "http://m:9000/apple"),
            (
                shop,
                r"http:\/\/m:9000\/app\/a",
                r"https:\/\/shop.example\/s\/a",
            ),
        ] {
            assert_eq!(changed(&rules, text), seen, "{text}");
        }
        let two = [("http://m/app", "/new"), ("http://m", "")];
        assert_eq!(
            changed(&two, "http://m/app/1 http://m/apple"),
            "/new/1 /apple"
        );
    }

    #[test]
    fn nothing_waits_that_is_no_beginning() {
        let mut relink = relink(&[("http://m:9000", "")]);
        assert_eq!(relink.feed(b"data: 1\n\n", false), "data: 1\n\n");
        assert_eq!(relink.feed(b"see htt", false), "see ");
        assert_eq!(relink.feed(b"er", false), "htter");
        assert_eq!(relink.feed(b" http://m:9000", false), " ");
        assert_eq!(relink.feed(b"/", false), "/");
        assert_eq!(relink.feed(b"/x", false), "x");
        assert_eq!(relink.feed(b"", true), "");
    }

    proptest! {
        /// However it comes in pieces, it is the same.
        #[test]
        fn pieces_make_no_difference(
            words in prop::collection::vec(prop::sample::select(vec![
                "http://m:9000", "http:\\/\\/m:9000", "http://m", "/app", "\\/app", "/", "\\", "\"", "h", "ht",
                "http", ":", "//", "x", " ", "HTTP://M:9000", "é", ".", "http://m:9000/app/x",
            ]), 0..20),
            size in 1_usize..9,
        ) {
            let rules = [("http://m:9000/app", "/new"), ("http://m:9000", "")];
            let text = words.concat();
            let mut parts = relink(&rules);
            let mut seen = Vec::new();
            for part in text.as_bytes().chunks(size) {
                seen.extend_from_slice(&parts.feed(part, false));
            }
            seen.extend_from_slice(&parts.feed(b"", true));
            prop_assert_eq!(String::from_utf8(seen).unwrap(), changed(&rules, &text));
        }
    }
}
