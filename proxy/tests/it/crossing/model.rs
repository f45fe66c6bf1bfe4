//! What becomes of a request, by RFC 9113 section 8 and the rules of the proxy, in the simplest way.

use std::collections::HashMap;

use super::reading::{Asked, Not, Reader, utf8};
use super::{Case, Field, split};

/// What a case should come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Request(Asked),
    /// A client that says more than it has announced shows that only when the request has gone up.
    Perhaps(Asked),
}

const CONNECTION_SPECIFIC: [&str; 5] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

/// Whether a field is well-formed (RFC 9113 section 8.2).
fn is_field(field: Field) -> bool {
    let (name, value) = split(field);
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_value = |byte| byte == b'\t' || byte >= b' ' && byte != 0x7f;
    !name.is_empty()
        && name.bytes().all(is_name)
        && value.bytes().all(is_value)
        && !CONNECTION_SPECIFIC.contains(&name)
        && (name != "te" || value == "trailers")
}

fn is_host(text: &str) -> bool {
    let (name, port) = text.split_once(':').unwrap_or((text, "80"));
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.';
    !name.is_empty() && name.bytes().all(is_name) && port.parse::<u16>().is_ok()
}

/// The request's line and host, by its pseudo fields (RFC 9113 section 8.3.1).
fn asked(pseudo: &HashMap<&str, &str>, hosts: &[String]) -> Option<(String, String)> {
    let method = *pseudo.get(":method")?;
    let path = *pseudo.get(":path")?;
    let is_token = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_alphabetic());
    // Which one it is goes no further. The reader of frames drops it where there is no authority, also an empty one.
    let scheme = *pseudo.get(":scheme")?;
    let is_kept = pseudo.contains_key(":authority");
    let is_scheme = ["http", "https", "ftp"].contains(&scheme) || scheme.is_empty() && !is_kept;
    let is_path = path.starts_with('/') && !path.contains(|one| one <= ' ');
    let whole = path == "*" && method == "OPTIONS";
    if !is_token || method == "CONNECT" || !is_scheme || !(is_path || whole) {
        return None;
    }
    if !hosts.iter().all(|host| is_host(host)) {
        return None;
    }
    let host = match (pseudo.get(":authority"), hosts) {
        (Some(authority), [] | [_]) => authority,
        (None, [host]) => host.as_str(),
        _ => return None,
    };
    // A fragment is never asked for.
    let path = path.split('#').next()?;
    is_host(host).then(|| (format!("{method} {path} HTTP/1.1"), host.to_owned()))
}

pub(super) fn model(case: &Case) -> Due {
    wanted(case).unwrap_or(Due::Nothing)
}

fn wanted(case: &Case) -> Option<Due> {
    let named = |name: &str| -> Vec<String> {
        let all = case.head.iter().map(|field| split(field));
        let of = all.filter(|(one, _)| *one == name);
        of.map(|(_, value)| value.trim().to_owned()).collect()
    };
    let ordinary = case.head.iter().position(|field| !field.starts_with(':'));
    let (head, rest) = case.head.split_at(ordinary.unwrap_or(case.head.len()));
    let pseudo: HashMap<&str, &str> = head.iter().map(|field| split(field)).collect();
    let known = [":method", ":scheme", ":authority", ":path"];
    let well = pseudo.len() == head.len() && pseudo.keys().all(|name| known.contains(name));
    if !well
        || !rest
            .iter()
            .chain(&case.trailers)
            .all(|field| is_field(field))
    {
        return None;
    }
    let (line, host) = asked(&pseudo, &named("host"))?;
    let mut fields = vec![("host".to_owned(), host)];
    let cookies = named("cookie");
    if !cookies.is_empty() {
        fields.push(("cookie".to_owned(), cookies.join("; ")));
    }
    let announced = named("trailer");
    // Of what a client says of itself nothing may follow.
    let is_announced = |name: &str| {
        let mut all = announced.iter().flat_map(|names| names.split(", "));
        name != "cookie" && all.any(|one| one.eq_ignore_ascii_case(name))
    };
    for name in ["x-one", "trailer", "content-length"] {
        fields.extend(
            named(name)
                .into_iter()
                .map(|value| (name.to_owned(), value)),
        );
    }
    let mut asked = Asked {
        line,
        fields,
        body: case.body.concat().into_bytes(),
        trailers: Vec::new(),
    };
    match &named("content-length")[..] {
        [] => {
            let line = |field: &Field| {
                let (name, value) = split(field);
                (name.to_owned(), value.trim().to_owned())
            };
            let lines = case.trailers.iter().map(line);
            asked.trailers = lines.filter(|(name, _)| is_announced(name)).collect();
            Some(Due::Request(asked))
        }
        [length] if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            let length = length.parse().ok()?;
            match asked.body.len().cmp(&length) {
                std::cmp::Ordering::Less => None,
                std::cmp::Ordering::Equal => Some(Due::Request(asked)),
                std::cmp::Ordering::Greater => {
                    asked.body.truncate(length);
                    Some(Due::Perhaps(asked))
                }
            }
        }
        _ => None,
    }
}

/// What came on a connection: one request and nothing behind it, or none. What the proxy adds is
/// taken off.
pub(super) fn came(bytes: &[u8]) -> Result<Option<Asked>, String> {
    let mut reader = Reader(bytes);
    let mut asked = match reader.request() {
        Err(Not::Whole) => return Ok(None),
        Err(Not::Well(why)) => return Err(why),
        Ok(asked) => asked,
    };
    if !reader.0.is_empty() {
        return Err(format!("behind it: {}", utf8(reader.0)));
    }
    let known = ["host", "cookie", "x-one", "trailer", "content-length"];
    let is_added = |(name, value): &&(String, String)| match name.as_str() {
        "te" => value == "trailers",
        "connection" => value == "te",
        "transfer-encoding" | "x-case" => true,
        name => name.starts_with("x-forwarded-"),
    };
    let (own, other): (Vec<_>, Vec<_>) = asked
        .fields
        .into_iter()
        .partition(|(name, _)| known.contains(&name.as_str()));
    if let Some(odd) = other.iter().find(|field| !is_added(field)) {
        return Err(format!("{odd:?}"));
    }
    asked.fields = own;
    let place = |name: &str| known.iter().position(|one| *one == name);
    asked.fields.sort_by_key(|(name, _)| place(name));
    Ok(Some(asked))
}
