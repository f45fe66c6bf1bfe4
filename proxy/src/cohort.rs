//! By what a client is recognised when reads are split.

use http::HeaderMap;
use http::header::{COOKIE, HeaderValue};
use outgrow_rollout::key_hash;

use crate::cookies::{self, Carried, ClientId, CookieKeys};
use crate::settings::{CohortKey, SliceSettings};

/// A client of a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cohort {
    pub(crate) hash: u64,
    /// By what it was recognised.
    pub(crate) by: By,
    /// When its last write was answered as far as its cookie says that, in milliseconds since 1970.
    pub(crate) wrote: u64,
}

/// By what a client was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// One of the config; and its cookie of ours, where it has one beside that.
    Key(Option<ClientId>),
    Cookie(ClientId),
    /// It is to get a signed one in its place.
    OldCookie(ClientId),
    /// It is to get a cookie.
    Address(ClientId),
    /// Nothing is known of it.
    Nothing,
}

/// The value of a cookie, as it was sent.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

pub(crate) fn configured<'a>(key: &CohortKey, headers: &'a HeaderMap) -> Option<&'a [u8]> {
    let found = match key {
        CohortKey::Header(name) => headers.get(name).map(HeaderValue::as_bytes),
        CohortKey::Cookie(name) => cookie(headers, name).map(str::as_bytes),
    };
    found.filter(|value| !value.is_empty())
}

/// The first configured key that the client brings, else its cookie, else its address. `cookies`: it
/// brings some.
pub(crate) fn of(
    slice: &SliceSettings,
    (keys, cookies): (&CookieKeys, bool),
    headers: &HeaderMap,
    address: impl FnOnce() -> Option<ClientId>,
) -> Cohort {
    let carried = cookies.then(|| carried(keys, headers)).flatten();
    let wrote = carried.map_or(0, |carried| carried.wrote);
    let hash = |id: ClientId| key_hash(&slice.salt, &id.text());
    let known = slice.cohort.iter().find_map(|key| configured(key, headers));
    let (hash, by) = match (known, carried) {
        (Some(key), _) => (
            key_hash(&slice.salt, key),
            By::Key(carried.map(|carried| carried.id)),
        ),
        (None, Some(carried)) if carried.unsigned => (hash(carried.id), By::OldCookie(carried.id)),
        (None, Some(carried)) => (hash(carried.id), By::Cookie(carried.id)),
        (None, None) => match address() {
            Some(id) => (hash(id), By::Address(id)),
            None => (0, By::Nothing),
        },
    };
    Cohort { hash, by, wrote }
}

fn carried(keys: &CookieKeys, headers: &HeaderMap) -> Option<Carried> {
    keys.read(cookie(headers, cookies::NAME)?)
}

impl Cohort {
    pub(crate) fn is_known(&self) -> bool {
        !matches!(self.by, By::Address(_) | By::Nothing)
    }

    /// The cookie that it is to get: because it has none, or, where it says that, because it has
    /// written. In milliseconds since 1970.
    pub(crate) fn issue(
        &self,
        keys: &CookieKeys,
        (split, wrote): (bool, Option<u64>),
    ) -> Option<HeaderValue> {
        let lacks = matches!(self.by, By::OldCookie(_) | By::Address(_)) && split;
        // First whether: an id of a key is worked out.
        if !lacks && wrote.is_none() {
            return None;
        }
        let id = match self.by {
            By::Key(id) => id.unwrap_or_else(|| keys.of_key(self.hash)),
            By::Cookie(id) | By::OldCookie(id) | By::Address(id) => id,
            By::Nothing => return None,
        };
        keys.issue(id, self.wrote.max(wrote.unwrap_or(0)))
    }
}

/// Among the builds of the legacy side: the first of these keys that the client brings, else the proxy's
/// own cookie. Who has neither goes by the address: no cookie is issued, for what belongs to no slice
/// passes as it is.
pub(crate) fn of_legacy(
    name: &str,
    own: &[CohortKey],
    keys: &CookieKeys,
    headers: &HeaderMap,
) -> Option<u64> {
    let known = own.iter().find_map(|key| configured(key, headers));
    match known {
        Some(key) => Some(key_hash(name, key)),
        None => carried(keys, headers).map(|carried| key_hash(name, &carried.id.text())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_the_legacy_side_has_a_key_on_every_route() {
        let keys = [
            CohortKey::Cookie("sid".to_owned()),
            CohortKey::Header(http::HeaderName::from_static("x-visitor")),
        ];
        let of = |fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            of_legacy("legacy", &keys, &CookieKeys::new(&[]), &headers)
        };
        let key = |text: &str| Some(key_hash("legacy", text.as_bytes()));
        let visitor = ("x-visitor", "v");
        assert_eq!(of(&[]), None);
        let old = "00112233445566778899aabbccddeeff";
        let cookie = "outgrow_cohort=00112233445566778899aabbccddeeff; x=y";
        assert_eq!(of(&[("cookie", cookie)]), key(old), "as ever");
        assert_eq!(of(&[("cookie", "outgrow_cohort=made-up")]), None);
        assert_eq!(of(&[("cookie", cookie), visitor]), key("v"));
        assert_eq!(
            of(&[("cookie", "outgrow_cohort=c; sid=s"), visitor]),
            key("s")
        );
        assert_eq!(of(&[("cookie", "sid=")]), None);
    }

    #[test]
    fn cookies_are_found_whole() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("xsid=1; sid=abc=d"));
        headers.append(COOKIE, HeaderValue::from_static("other=2"));
        assert_eq!(cookie(&headers, "sid"), Some("abc=d"));
        assert_eq!(cookie(&headers, "other"), Some("2"));
        assert_eq!(cookie(&headers, "id"), None);
    }
}
