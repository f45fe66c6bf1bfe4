//! What may be kept and given again, and for how long: RFC 9111 for a cache that many share. Pure;
//! the time is an argument.
//!
//! Stricter than it has to be where that costs little: nothing is guessed unless the config wants
//! it, a time that cannot be read has passed, and an answer with a cookie is never kept.

mod conditions;
mod directives;
mod freshness;

use http::header::{
    AUTHORIZATION, CONTENT_RANGE, COOKIE, ETAG, EXPIRES, LAST_MODIFIED, SET_COOKIE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::headers::CLIENT_CERT;

pub(crate) use conditions::{ask_whether, has_conditions, has_it, is_about};
pub(crate) use directives::Directives;
pub(crate) use freshness::{Freshness, Times};

/// Answers whose meaning is known here. Not 206: parts are not put together.
const UNDERSTOOD: [u16; 13] = [
    200, 203, 204, 300, 301, 302, 307, 308, 404, 405, 410, 414, 501,
];

/// By which fields of a request an answer was chosen, and what they were.
pub(crate) type Chosen = Vec<(HeaderName, Vec<HeaderValue>)>;

/// Whether an answer to a GET may be kept (RFC 9111 section 3). `known`: the side can tell who
/// asks, which counts as credentials.
pub(crate) fn may_keep(
    request: &HeaderMap,
    known: bool,
    (status, answer): (StatusCode, &HeaderMap),
    freshness: &Freshness,
) -> bool {
    let said = &freshness.said;
    let explicit = said.lifetime().is_some() || answer.contains_key(EXPIRES);
    let checkable = answer.contains_key(ETAG) || answer.contains_key(LAST_MODIFIED);
    let stands_in = said.stale_if_error.is_some() && !said.is_strict();
    let stays = freshness.ever_stays();
    let of_use = freshness.lasts()
        || (explicit || said.no_cache) && checkable
        || explicit && (stands_in || stays);
    let credentials = known || request.contains_key(AUTHORIZATION);
    let of_all = answer.get_all(VARY);
    let unlike_any = of_all.iter().any(|value| value.as_bytes().contains(&b'*'));
    UNDERSTOOD.contains(&status.as_u16())
        && of_use
        && !said.no_store
        && !said.private
        && !Directives::read(request).no_store
        && (!credentials || said.is_for_all())
        && !answer.contains_key(SET_COOKIE)
        && !answer.contains_key(CONTENT_RANGE)
        && !unlike_any
}

/// `None` where that cannot be told. Copies: an entry outlives the buffers of its request.
pub(crate) fn chosen_by(request: &HeaderMap, answer: &HeaderMap) -> Option<Chosen> {
    let mut found = Vec::new();
    for value in answer.get_all(VARY) {
        let names = value.to_str().ok()?.split(',').map(str::trim);
        for name in names.filter(|name| !name.is_empty()) {
            let name: HeaderName = name.parse().ok()?;
            let given = request.get_all(&name).iter().map(copy);
            let given = given.collect::<Option<_>>()?;
            found.push((name, given));
        }
    }
    Some(found)
}

/// Whether another request would have been given the same (RFC 9111 section 4.1).
pub(crate) fn chooses(by: &Chosen, request: &HeaderMap) -> bool {
    by.iter()
        .all(|(name, given)| request.get_all(name).iter().eq(given))
}

/// What a side might see of a request beside its target, the client and what `Vary` names: its
/// answer may depend on it, said or not. Without this a client could have others given what it made
/// up (cache poisoning).
pub(crate) fn unsaid(request: &HeaderMap) -> Box<[u8]> {
    let (mut found, mut all) = (Vec::new(), Vec::new());
    for (name, value) in request {
        let text = name.as_str();
        let told = match text {
            "x-forwarded-for" => false,
            "forwarded" => {
                forwarded(value.as_bytes(), &mut found);
                false
            }
            "x-original-url"
            | "x-rewrite-url"
            | "x-original-host"
            | "x-host"
            | "x-http-method"
            | "x-http-method-override"
            | "x-method-override" => true,
            _ => text.starts_with("x-forwarded-"),
        };
        if told {
            all.push((text.as_bytes(), value.as_bytes()));
        }
    }
    // The order of unlike fields says nothing, and is another one where a field was taken off.
    all.sort_by_key(|(name, _)| *name);
    for (name, value) in all {
        put(&mut found, name, value);
    }
    found.into_boxed_slice()
}

fn put(found: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b":", value, b"\n"] {
        found.extend_from_slice(part);
    }
}

/// Of this field all but who asks.
fn forwarded(value: &[u8], found: &mut Vec<u8>) {
    for pair in value.split(|byte| b",;".contains(byte)) {
        let pair = pair.trim_ascii();
        let client = pair.get(..4).map(<[u8]>::to_ascii_lowercase);
        if client.as_deref() != Some(b"for=") {
            put(found, b"forwarded", pair);
        }
    }
}

/// Whether a side can tell who asks; `own`: of the name of a cookie that means nothing to it.
pub(crate) fn is_known(request: &HeaderMap, own: &str) -> bool {
    let of_others = |value: &HeaderValue| {
        let mut names = value.as_bytes().split(|byte| *byte == b';');
        names.any(|pair| {
            let name = pair.split(|byte| *byte == b'=').next();
            name.is_some_and(|name| name.trim_ascii() != own.as_bytes())
        })
    };
    let shown = request.contains_key(CLIENT_CERT);
    shown || request.contains_key(AUTHORIZATION) || request.get_all(COOKIE).iter().any(of_others)
}

pub(crate) fn copy(value: &HeaderValue) -> Option<HeaderValue> {
    HeaderValue::from_bytes(value.as_bytes()).ok()
}

#[cfg(test)]
mod tests;
