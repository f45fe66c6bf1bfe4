//! Bodies as documents: content codings taken off, and each type read into a tree that is
//! compared, and that rules reach into, like JSON. What cannot be read is text or bytes; nothing
//! is guessed.

mod forms;
mod lines;
mod table;

use std::io::Read;

use bytes::Bytes;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use crate::json::{self, Json};

pub(crate) use forms::hash;

/// A decoded body, and one of the candidate, is at most this many times the bound of a copied
/// one: an answer that was copied compressed comes plain from a side that does not compress. What
/// grows further is counted as a bomb, and its memory is bounded.
pub(crate) const GROWTH_MAX: usize = 4;

/// Why a body says nothing.
pub(crate) type Unreadable = &'static str;

/// A body as it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Tree(Json),
    Text(String),
    Bytes(Bytes),
}

/// Takes the content codings off, the last one first (RFC 9110 8.4). `cap` is the bound of a body
/// that is copied.
pub(crate) fn decoded(headers: &HeaderMap, body: &Bytes, cap: usize) -> Result<Bytes, Unreadable> {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    let mut codings = Vec::new();
    for value in values {
        let text = value.to_str().map_err(|_| "encoding")?;
        codings.extend(text.split(',').map(|name| name.trim().to_ascii_lowercase()));
    }
    let mut body = body.clone();
    for coding in codings.iter().rev() {
        let most = cap.saturating_mul(GROWTH_MAX);
        body = match coding.as_str() {
            "" | "identity" => body,
            // An empty body has no frame; HEAD and 304 answers name a coding all the same.
            _ if body.is_empty() => body,
            "gzip" | "x-gzip" => inflate(MultiGzDecoder::new(&*body), most)?,
            // Meant is zlib, but some send the bare stream.
            "deflate" => match inflate(ZlibDecoder::new(&*body), most) {
                Err("broken-encoding") => inflate(DeflateDecoder::new(&*body), most)?,
                other => other?,
            },
            _ => return Err("encoding"),
        };
    }
    Ok(body)
}

fn inflate(reader: impl Read, most: usize) -> Result<Bytes, Unreadable> {
    let mut found = Vec::new();
    let one_more = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    reader
        .take(one_more)
        .read_to_end(&mut found)
        .map_err(|_| "broken-encoding")?;
    if found.len() > most {
        return Err("bomb");
    }
    Ok(Bytes::from(found))
}

fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

/// The kind of document that both sides have to be, for a body to be read as one.
pub(crate) fn kind(headers: &HeaderMap) -> &'static str {
    let whole = content_type(headers).to_ascii_lowercase();
    let name = whole.split(';').next().unwrap_or_default().trim();
    match name {
        "application/x-ndjson"
        | "application/ndjson"
        | "application/jsonl"
        | "application/json-lines"
        | "application/x-jsonlines"
        | "application/json-seq" => "lines",
        "application/x-www-form-urlencoded" => "form",
        "text/csv" => "csv",
        "text/tab-separated-values" => "tsv",
        "text/event-stream" => "events",
        _ if name.starts_with("multipart/") => "multipart",
        _ if name.contains("json") => "json",
        _ => "other",
    }
}

/// Reads a decoded body as a document of this kind.
pub(crate) fn read(kind: &str, headers: &HeaderMap, body: &Bytes) -> Body {
    let text = std::str::from_utf8(body).ok();
    let tree = match (kind, text) {
        ("json", _) => json::parse(body),
        ("lines", Some(text)) => lines::json_lines(text),
        ("events", Some(text)) => Some(lines::events(text)),
        ("form", Some(text)) => Some(forms::form(text)),
        ("csv", Some(text)) => table::table(text, ','),
        ("tsv", Some(text)) => table::table(text, '\t'),
        ("multipart", _) => forms::multipart(&content_type(headers), body),
        _ => None,
    };
    match (tree, text) {
        (Some(tree), _) => Body::Tree(tree),
        (None, Some(text)) => Body::Text(text.to_owned()),
        (None, None) => Body::Bytes(body.clone()),
    }
}

#[cfg(test)]
mod tests;
