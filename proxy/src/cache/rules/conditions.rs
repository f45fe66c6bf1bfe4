//! Whether what somebody has is still good: asked by clients of the proxy, and by the proxy of a
//! side (RFC 9110 section 13, RFC 9111 section 4.3).

use http::HeaderMap;
use http::header::{DATE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};

use super::freshness::date;

/// Whether a request comes with conditions.
pub(crate) fn has_conditions(request: &HeaderMap) -> bool {
    request.contains_key(IF_NONE_MATCH) || request.contains_key(IF_MODIFIED_SINCE)
}

/// Asks the side whether what is kept is still good. Whether it can be asked so.
pub(crate) fn ask_whether(kept: &HeaderMap, request: &mut HeaderMap) -> bool {
    let pairs = [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)];
    if !pairs.iter().any(|(said, _)| kept.contains_key(said)) {
        return false;
    }
    for (said, asks) in pairs {
        match kept.get(said) {
            Some(value) => drop(request.insert(asks, value.clone())),
            None => drop(request.remove(asks)),
        }
    }
    true
}

/// Whether the client has already what is kept. Tags are compared weakly (RFC 9110 section
/// 13.1.2), and without them the time counts (section 13.1.3).
pub(crate) fn has_it(request: &HeaderMap, kept: &HeaderMap) -> bool {
    if request.contains_key(IF_NONE_MATCH) {
        let own = kept.get(ETAG).and_then(|tag| opaque(tag.as_bytes()));
        let mut lists = request.get_all(IF_NONE_MATCH).iter();
        return lists.any(|list| any_tag(list.as_bytes(), own));
    }
    let Some(since) = date(request, &IF_MODIFIED_SINCE) else {
        return false;
    };
    let changed = date(kept, &LAST_MODIFIED).or_else(|| date(kept, &DATE));
    changed.is_some_and(|changed| changed <= since)
}

/// Whether a 304 is about what is kept.
pub(crate) fn is_about(said: &HeaderMap, kept: &HeaderMap) -> bool {
    let tag = |fields: &HeaderMap| fields.get(ETAG).map(|tag| tag.as_bytes().to_vec());
    match (tag(said), tag(kept)) {
        (Some(said), Some(kept)) => opaque(&said).is_some() && opaque(&said) == opaque(&kept),
        _ => true,
    }
}

/// What a tag says between its quotes.
fn opaque(tag: &[u8]) -> Option<&[u8]> {
    let tag = tag.trim_ascii();
    let tag = tag.strip_prefix(b"W/").unwrap_or(tag);
    tag.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

/// Whether one of a list is `*` or `own`. There may be commas inside of tags. What is no tag ends
/// the list.
fn any_tag(mut list: &[u8], own: Option<&[u8]>) -> bool {
    loop {
        let skipped = list.iter().take_while(|byte| b" \t,".contains(byte));
        list = &list[skipped.count()..];
        if list.first() == Some(&b'*') {
            return true;
        }
        let bare = list.strip_prefix(b"W/").unwrap_or(list);
        let Some(rest) = bare.strip_prefix(b"\"") else {
            return false;
        };
        let Some(end) = rest.iter().position(|byte| *byte == b'"') else {
            return false;
        };
        if own == Some(&rest[..end]) {
            return true;
        }
        list = &rest[end + 1..];
    }
}
