//! By what a client is recognised when reads are split.

use std::hash::{BuildHasher, Hasher, RandomState};

use http::HeaderMap;
use http::header::{COOKIE, HeaderValue};
use outgrow_rollout::key_hash;

use crate::settings::{CohortKey, SliceSettings};

/// The proxy's own cookie, for clients that bring no configured key.
pub(crate) const COOKIE_NAME: &str = "outgrow_cohort";

/// Thirty days: a client stays on its side for the length of a usual rollout.
const COOKIE_SECONDS: u32 = 30 * 24 * 3_600;

/// A client of a slice.
#[derive(Debug, Clone)]
pub(crate) struct Cohort {
    pub(crate) hash: u64,
    /// A cookie to give to a client that had none.
    pub(crate) issue: Option<HeaderValue>,
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

/// The first configured key that the client brings, else its cookie, else a new one.
pub(crate) fn of(slice: &SliceSettings, headers: &HeaderMap) -> Cohort {
    let known = slice.cohort.iter().find_map(|key| configured(key, headers));
    let known = known.or_else(|| cookie(headers, COOKIE_NAME).map(str::as_bytes));
    if let Some(key) = known {
        return Cohort {
            hash: key_hash(&slice.salt, key),
            issue: None,
        };
    }
    let id = format!("{:016x}{:016x}", random(), random());
    let cookie =
        format!("{COOKIE_NAME}={id}; Path=/; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Lax");
    Cohort {
        hash: key_hash(&slice.salt, id.as_bytes()),
        issue: HeaderValue::try_from(cookie).ok(),
    }
}

/// Among the builds of the legacy side: the first of these keys that the client brings, else the proxy's
/// own cookie. Who has neither goes by the address: no cookie is issued, for what belongs to no slice
/// passes as it is.
pub(crate) fn of_legacy(name: &str, keys: &[CohortKey], headers: &HeaderMap) -> Option<u64> {
    let known = keys.iter().find_map(|key| configured(key, headers));
    let known = known.or_else(|| cookie(headers, COOKIE_NAME).map(str::as_bytes));
    known.map(|key| key_hash(name, key))
}

/// Enough to spread clients over buckets; nothing is kept secret by it.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
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
            of_legacy("legacy", &keys, &headers)
        };
        let key = |text: &str| Some(key_hash("legacy", text.as_bytes()));
        let visitor = ("x-visitor", "v");
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("cookie", "outgrow_cohort=c; x=y")]), key("c"));
        assert_eq!(of(&[("cookie", "outgrow_cohort=c"), visitor]), key("v"));
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
