//! Bodies as documents: content codings taken off, and each type read into a tree that is
//! compared, and that rules reach into, like JSON. What cannot be read is text or bytes; nothing
//! is guessed.

mod coding;
mod forms;
mod grpc;
mod html;
mod lines;
mod markup;
mod page;
mod table;
mod xml;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;

use crate::json::{self, Json};

pub(crate) use coding::{GROWTH_MAX, decoded};
pub(crate) use forms::hash;
pub(crate) use html::{LeftOut, Selector};

/// Names that stand once in a body, and many times in its tree, are at most this many times as long
/// there as the body.
const COPIES_MAX: usize = 32;

/// Why a body says nothing.
pub(crate) type Unreadable = &'static str;

/// A body as it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Tree(Json),
    Text(String),
    Bytes(Bytes),
}

fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

/// The kind of document that both sides have to be, for a body to be read as one.
pub(crate) fn kind(headers: &HeaderMap) -> &'static str {
    let value = headers.get(CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok());
    let name = value.unwrap_or_default().split(';').next();
    let name = name.unwrap_or_default().trim().to_ascii_lowercase();
    match name.as_str() {
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
        "text/html" => "html",
        "text/xml" | "application/xml" => "xml",
        _ if name.ends_with("+xml") => "xml",
        "application/grpc-web-text" | "application/grpc-web-text+proto" => "other",
        _ if name.starts_with("application/grpc") => "grpc",
        _ if name.starts_with("multipart/") => "multipart",
        _ if name.contains("json") => "json",
        _ => "other",
    }
}

/// Reads a decoded body as a document of this kind, without the elements of a page that are
/// left out.
pub(crate) fn read(
    kind: &str,
    headers: &HeaderMap,
    body: &Bytes,
    left_out: &[LeftOut<'_>],
) -> Body {
    let text = std::str::from_utf8(body).ok();
    let tree = match (kind, text) {
        ("json", _) => json::parse(body),
        ("lines", Some(text)) => lines::json_lines(text),
        ("events", Some(text)) => Some(lines::events(text)),
        ("form", Some(text)) => Some(forms::form(text)),
        ("csv", Some(text)) => table::table(text, ','),
        ("tsv", Some(text)) => table::table(text, '\t'),
        ("html", Some(text)) => html::html(text, left_out),
        ("xml", Some(text)) => xml::xml(text),
        ("grpc", _) => grpc::messages(&content_type(headers), headers, body),
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

#[cfg(test)]
mod hostile;
