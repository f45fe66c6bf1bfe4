//! Forms: `application/x-www-form-urlencoded`, and `multipart/*` (RFC 2046, 7578).

use bytes::Bytes;
use percent_encoding::percent_decode_str;

use crate::json::{Json, parse};

/// The fields by name; a name that comes twice keeps its values in order.
pub(super) fn form(text: &str) -> Json {
    let word = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    let pairs = text.trim_end().split('&').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (word(name), Json::String(word(value)))
    };
    Json::object(pairs.map(pair).collect())
}

/// Of bytes (RFC 2046 5.1.1): it is looked for from each place of a body.
const BOUNDARY_MAX: usize = 70;

/// The parts in order, each with its fields, and its content as JSON, text, or a hash. The
/// boundary is random, so it is no part of it. `None` where it is none, or is not whole.
pub(super) fn multipart(content_type: &str, body: &Bytes) -> Option<Json> {
    let boundary = parameter(content_type, "boundary")?;
    if boundary.len() > BOUNDARY_MAX {
        return None;
    }
    let boundary = format!("--{boundary}");
    let mut parts = Vec::new();
    let mut rest = skip(body, boundary.as_bytes())?;
    loop {
        if rest.starts_with(b"--") {
            return Some(Json::Array(parts));
        }
        let at = find(rest, b"\n")?;
        let (line, after) = rest.split_at(at + 1);
        if !line.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        let end = find(after, format!("\n{boundary}").as_bytes())?;
        let content = after.get(..end)?;
        parts.push(part(content.strip_suffix(b"\r").unwrap_or(content))?);
        rest = after.get(end + 1 + boundary.len()..)?;
    }
}

/// What follows the first boundary, which begins a line.
fn skip<'a>(body: &'a [u8], boundary: &[u8]) -> Option<&'a [u8]> {
    if let Some(rest) = body.strip_prefix(boundary) {
        return Some(rest);
    }
    let at = find(body, &[b"\n", boundary].concat())?;
    body.get(at + 1 + boundary.len()..)
}

fn find(all: &[u8], wanted: &[u8]) -> Option<usize> {
    all.windows(wanted.len().max(1))
        .position(|part| part == wanted)
}

fn part(content: &[u8]) -> Option<Json> {
    // A part without fields begins with the blank line.
    let bare = [&b"\r\n"[..], b"\n"]
        .into_iter()
        .find_map(|end| content.strip_prefix(end));
    let (head, content) = match bare {
        Some(content) => (&content[..0], content),
        None => [&b"\r\n\r\n"[..], b"\n\n"].into_iter().find_map(|end| {
            let at = find(content, end)?;
            Some((content.get(..at)?, content.get(at + end.len()..)?))
        })?,
    };
    let mut members = Vec::new();
    for line in std::str::from_utf8(head).ok()?.lines() {
        let (name, value) = line.split_once(':')?;
        let value = Json::String(value.trim().to_owned());
        members.push((name.trim().to_ascii_lowercase(), value));
    }
    let content = match (parse(content), std::str::from_utf8(content)) {
        (Some(json), _) => json,
        (None, Ok(text)) => Json::String(text.to_owned()),
        (None, Err(_)) => Json::String(hash(content)),
    };
    members.push(("content".to_owned(), content));
    Some(Json::object(members))
}

/// Bytes, as they are told apart.
pub(crate) fn hash(bytes: &[u8]) -> String {
    let hash = xxhash_rust::xxh3::xxh3_128(bytes);
    format!("{} bytes, xxh3 {hash:032x}", bytes.len())
}

/// A parameter of a header's value (RFC 9110 5.6.6).
fn parameter(value: &str, wanted: &str) -> Option<String> {
    value.split(';').skip(1).find_map(|one| {
        let (name, value) = one.split_once('=')?;
        let value = value.trim().trim_matches('"');
        let fits = name.trim().eq_ignore_ascii_case(wanted) && !value.is_empty();
        fits.then(|| value.to_owned())
    })
}
