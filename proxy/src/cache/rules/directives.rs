//! `Cache-Control` as it is read (RFC 9111 section 5.2).

use http::HeaderMap;
use http::header::{CACHE_CONTROL, PRAGMA};

/// Longer than anybody means it; sums of such times cannot overflow (RFC 9111 section 1.2.2).
pub(super) const SECONDS_MAX: u64 = 1 << 31;

/// Of a request or an answer. Names are read without regard to case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // As they are in the field.
pub(crate) struct Directives {
    pub(crate) no_store: bool,
    pub(crate) no_cache: bool,
    pub(crate) only_if_cached: bool,
    pub(super) private: bool,
    pub(super) public: bool,
    pub(super) must_revalidate: bool,
    pub(super) proxy_revalidate: bool,
    pub(super) max_age: Option<u64>,
    pub(super) s_maxage: Option<u64>,
    pub(super) min_fresh: Option<u64>,
    pub(super) stale_if_error: Option<u64>,
    pub(super) stale_while_revalidate: Option<u64>,
}

impl Directives {
    pub(crate) fn read(fields: &HeaderMap) -> Self {
        let mut found = Self::default();
        let mut any = false;
        for value in fields.get_all(CACHE_CONTROL) {
            any = true;
            // What nobody can read might forbid it.
            match value.to_str() {
                Ok(text) => found.take_all(text),
                Err(_) => found.no_store = true,
            }
        }
        if !any && let Some(pragma) = fields.get(PRAGMA) {
            let mut words = pragma.as_bytes().split(|byte| *byte == b',');
            found.no_cache = words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"no-cache"));
        }
        found
    }

    /// At commas outside of quotes.
    fn take_all(&mut self, text: &str) {
        let (mut quoted, mut escaped, mut begin) = (false, false, 0);
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b',' if !quoted => {
                    self.take(&text[begin..at]);
                    begin = at + 1;
                }
                _ => {}
            }
        }
        self.take(&text[begin..]);
        // A quote without an end may hide whatever follows.
        self.no_store |= quoted;
    }

    fn take(&mut self, directive: &str) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        let least = |old: Option<u64>| Some(old.unwrap_or(SECONDS_MAX).min(seconds(value)));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" => self.no_store = true,
            // Of some fields only: as of the whole, which is always right.
            "no-cache" => self.no_cache = true,
            "private" => self.private = true,
            "only-if-cached" => self.only_if_cached = true,
            "public" => self.public = true,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            // Said twice, the shorter one counts.
            "max-age" => self.max_age = least(self.max_age),
            "s-maxage" => self.s_maxage = least(self.s_maxage),
            "min-fresh" => self.min_fresh = self.min_fresh.max(Some(seconds(value))),
            "stale-if-error" => self.stale_if_error = least(self.stale_if_error),
            "stale-while-revalidate" => {
                self.stale_while_revalidate = least(self.stale_while_revalidate);
            }
            _ => {}
        }
    }

    /// Of an answer: whatever credentials it was asked with, it is not one client's (RFC 9111
    /// section 3.5).
    pub(super) fn is_for_all(&self) -> bool {
        self.public || self.must_revalidate || self.s_maxage.is_some()
    }

    /// Of an answer: stale, it is given to nobody (RFC 9111 section 4.2.4).
    pub(super) fn is_strict(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate || self.no_cache || self.s_maxage.is_some()
    }

    /// Of an answer: how long it is good, in its own words.
    pub(super) fn lifetime(&self) -> Option<u64> {
        self.s_maxage.or(self.max_age)
    }

    /// Of a request: what is good for others is good for it.
    pub(crate) fn is_content(&self) -> bool {
        !self.no_cache && self.max_age.is_none() && self.min_fresh.is_none()
    }
}

/// What is no number is stale at once (RFC 9111 section 4.2.1).
fn seconds(value: &str) -> u64 {
    let text = value.trim().trim_matches('"');
    match text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        true => text.parse().unwrap_or(SECONDS_MAX).min(SECONDS_MAX),
        false => 0,
    }
}
