//! Which answers are compressed on their way to a client, and how. Pure but for the encoder that it
//! starts (`press.rs`).

use std::sync::Arc;

use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
    ETAG, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::Body as _;

use crate::body::Body;
use crate::press::{Coding, Press};
use crate::reply::Reply;

/// What says how an answer's bytes add up: it would be wrong of others.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// What of a route is compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression {
    /// The best first: of those that a client likes equally.
    pub codings: Vec<Coding>,
    pub types: Vec<MediaRange>,
    /// Bytes; a shorter answer is sent as it is.
    pub min: u64,
}

/// Types of content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MediaRange {
    /// `text/html`, in lower case.
    One(String),
    /// `text/*`, as `text/`.
    All(String),
    /// `*+json`, as `+json`.
    Suffix(String),
}

impl std::str::FromStr for MediaRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WHY: &str = "it is not a media type";
        let token = |text: &str| {
            let odd = |b: u8| !b.is_ascii_alphanumeric() && !b"!#$&-^_.+".contains(&b);
            !text.is_empty() && !text.bytes().any(odd)
        };
        let text = text.to_ascii_lowercase();
        if let Some(suffix) = text.strip_prefix("*+") {
            return token(suffix)
                .then(|| Self::Suffix(format!("+{suffix}")))
                .ok_or(WHY);
        }
        match text.split_once('/') {
            Some((kind, "*")) if token(kind) => Ok(Self::All(format!("{kind}/"))),
            Some((kind, name)) if token(kind) && token(name) => Ok(Self::One(text)),
            _ => Err(WHY),
        }
    }
}

impl MediaRange {
    fn has(&self, media: &str) -> bool {
        let starts = |with: &str| {
            let start = media.get(..with.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(with))
        };
        match self {
            Self::One(own) => media.eq_ignore_ascii_case(own),
            Self::All(own) => starts(own),
            Self::Suffix(own) => {
                let at = media.len().checked_sub(own.len());
                let end = at.and_then(|at| media.get(at..));
                end.is_some_and(|end| end.eq_ignore_ascii_case(own))
            }
        }
    }
}

/// One request's share of it, read before anything was taken off its head.
#[derive(Debug)]
pub(crate) struct Wanted {
    rule: Arc<Compression>,
    coding: Option<Coding>,
    head: bool,
}

impl Wanted {
    pub(crate) fn new(rule: &Arc<Compression>, method: &Method, fields: &HeaderMap) -> Self {
        Self {
            rule: rule.clone(),
            coding: rule.choose(fields),
            head: *method == Method::HEAD,
        }
    }

    /// Compresses an answer that may be, in a coding that the client takes.
    pub(crate) fn apply(self, answer: &mut Reply<Body>) {
        if answer.status() == StatusCode::NOT_MODIFIED {
            // Of which type it is cannot be seen. A weak tag fits what the client has either way.
            if self.coding.is_some() {
                varies(answer.headers_mut());
                weaken(answer.headers_mut());
            }
            return;
        }
        let length = self.length(answer);
        if !self.rule.fits(answer, length) {
            return;
        }
        varies(answer.headers_mut());
        let Some(coding) = self.coding else {
            return;
        };
        if !self.head && !answer.body_mut().press(|| Press::new(coding, length)) {
            return;
        }
        let fields = answer.headers_mut();
        fields.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        fields.remove(CONTENT_LENGTH);
        fields.remove(ACCEPT_RANGES);
        weaken(fields);
    }

    /// Of the body, also of one that a HEAD is not given.
    fn length(&self, answer: &mut Reply<Body>) -> Option<u64> {
        if !self.head {
            return answer.body().size_hint().exact();
        }
        let told = answer.headers().get(CONTENT_LENGTH)?;
        told.to_str().ok()?.parse().ok()
    }
}

impl Compression {
    /// What of ours the client likes best (RFC 9110 section 12.5.3); `None`: as it is.
    fn choose(&self, fields: &HeaderMap) -> Option<Coding> {
        let values = fields.get_all(ACCEPT_ENCODING).iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        let accepted: Vec<(&str, u16)> = texts.flat_map(|t| t.split(',')).map(weighed).collect();
        let of = |name: &str| {
            let mut named = accepted
                .iter()
                .filter(|(own, _)| own.eq_ignore_ascii_case(name));
            named.next().map(|(_, weight)| *weight)
        };
        let any = of("*");
        let mut best = (None, of("identity").unwrap_or(1).max(1) - 1);
        for coding in &self.codings {
            let own = of(coding.name());
            let own = own.or_else(|| of("x-gzip").filter(|_| *coding == Coding::Gzip));
            let weight = own.or(any).unwrap_or_default();
            if weight > best.1 {
                best = (Some(*coding), weight);
            }
        }
        best.0
    }

    /// Whether an answer is one of those that are compressed for whoever takes it.
    fn fits(&self, answer: &mut Reply<Body>, length: Option<u64>) -> bool {
        length.is_none_or(|length| length >= self.min) && may_change(answer, &self.types)
    }
}

/// Whether an answer's bytes may be others on their way: of one of these types, whole, as it is, and with
/// no word against it (RFC 9110 section 7.7).
pub(super) fn may_change(answer: &mut Reply<Body>, types: &[MediaRange]) -> bool {
    let (status, fields) = (answer.status(), answer.headers());
    let bodiless = status.is_informational()
        || matches!(
            status,
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::PARTIAL_CONTENT
        );
    let media = fields
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media = media.and_then(|text| text.split(';').next()).map(str::trim);
    let listed = media.is_some_and(|media| types.iter().any(|range| range.has(media)));
    listed
        && !bodiless
        && !fields.contains_key(CONTENT_ENCODING)
        && !DIGESTS.iter().any(|name| fields.contains_key(name))
        && !says(fields, &CACHE_CONTROL, "no-transform")
}

/// A name with its weight in thousandths. What is no weight is none.
fn weighed(text: &str) -> (&str, u16) {
    let (name, rest) = text.split_once(';').unwrap_or((text, ""));
    let weight = rest.split(';').map(str::trim).find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    let weight = match weight {
        None => 1_000,
        Some(text) => thousandths(text).unwrap_or_default(),
    };
    (name.trim(), weight)
}

/// `0`, `0.5`, `1.000` (RFC 9110 section 12.4.2).
fn thousandths(text: &str) -> Option<u16> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part: u16 = format!("{part:0<3}").parse().ok()?;
    match (whole, part) {
        ("0", part) => Some(part),
        ("1", 0) => Some(1_000),
        _ => None,
    }
}

/// Whether a list has this word, with or without a value.
fn says(fields: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = fields.get_all(name).iter().filter_map(|v| v.to_str().ok());
    let mut words = values.flat_map(|text| text.split(',').map(str::trim));
    words.any(|own| own.eq_ignore_ascii_case(word))
}

/// Caches must know.
fn varies(fields: &mut HeaderMap) {
    if !says(fields, &VARY, "accept-encoding") && !says(fields, &VARY, "*") {
        fields.append(VARY, HeaderValue::from_static("accept-encoding"));
    }
}

/// The tag stands for other bytes now, of the same meaning (RFC 9110 section 8.8.1).
pub(super) fn weaken(fields: &mut HeaderMap) {
    if let Some(tag) = fields.get_mut(ETAG)
        && tag.as_bytes().starts_with(b"\"")
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
    {
        *tag = weak;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn rule() -> Arc<Compression> {
        Arc::new(Compression {
            codings: vec![Coding::Zstd, Coding::Brotli, Coding::Gzip],
            types: ["text/*", "application/json", "*+xml"]
                .map(|text| text.parse().unwrap())
                .to_vec(),
            min: 4,
        })
    }

    fn wanted(method: &Method, accept: &str) -> Wanted {
        let mut fields = HeaderMap::new();
        for value in accept.split('|').filter(|value| !value.is_empty()) {
            fields.append(ACCEPT_ENCODING, HeaderValue::from_str(value).unwrap());
        }
        Wanted::new(&rule(), method, &fields)
    }

    #[test]
    fn the_client_chooses_and_equals_go_by_our_order() {
        for (accept, chosen) in [
            ("", None),
            ("gzip", Some(Coding::Gzip)),
            ("X-GZIP", Some(Coding::Gzip)),
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("gzip|br", Some(Coding::Brotli)),
            ("gzip;q=1.0, br;q=0.8", Some(Coding::Gzip)),
            ("br;q=0, gzip;q=0.001", Some(Coding::Gzip)),
            ("*", Some(Coding::Zstd)),
            ("zstd;q=0, *;q=0.5", Some(Coding::Brotli)),
            ("identity, *;q=0.5", None),
            ("identity;q=0.5, gzip;q=0.5", Some(Coding::Gzip)),
            ("identity;q=0, gzip;q=0.1", Some(Coding::Gzip)),
            ("gzip;q=2", None),
            ("gzip;q=0.0001", None),
            ("gzip ; Q=0.5 ; x=y", Some(Coding::Gzip)),
            ("deflate, compress", None),
            (";;,,=", None),
        ] {
            assert_eq!(wanted(&Method::GET, accept).coding, chosen, "{accept}");
        }
    }

    fn answer(fields: &[(&'static str, &'static str)]) -> Reply<Body> {
        let body = Body::Full(Some(Bytes::from_static(b"aaaaaaaaaa")));
        let mut answer = Reply::new(StatusCode::OK, body);
        for (name, value) in fields {
            let (name, value) = (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
            answer.headers_mut().append(name, value);
        }
        answer
    }

    #[test]
    fn what_must_stay_as_it_is_stays() {
        let html = ("content-type", "Text/HTML; charset=utf-8");
        for (fields, status, coded) in [
            (&[html][..], 200, true),
            (&[html], 404, true),
            (&[("content-type", "application/rss+XML")], 200, true),
            (&[html], 204, false),
            (&[html], 206, false),
            (&[html, ("content-encoding", "br")], 200, false),
            (
                &[html, ("cache-control", "public, No-Transform")],
                200,
                false,
            ),
            (&[html, ("repr-digest", "sha-256=:a:")], 200, false),
            (&[("content-type", "image/png")], 200, false),
            (&[], 200, false),
        ] {
            let mut made = answer(fields);
            made.set_status(StatusCode::from_u16(status).unwrap());
            let before = made.headers().clone();
            wanted(&Method::GET, "gzip").apply(&mut made);
            assert_eq!(
                made.headers()
                    .get(CONTENT_ENCODING)
                    .is_some_and(|c| c == "gzip"),
                coded,
                "{fields:?} {status}"
            );
            assert_eq!(made.headers() == &before, !coded);
        }
        let mut short = answer(&[html]);
        *short.body_mut() = Body::Full(Some(Bytes::from_static(b"aaa")));
        wanted(&Method::GET, "gzip").apply(&mut short);
        assert!(!short.headers().contains_key(VARY));
    }

    #[test]
    fn fields_tell_what_became_of_the_answer() {
        let fields = [
            ("content-type", "application/json"),
            ("content-length", "10"),
            ("accept-ranges", "bytes"),
            ("etag", "\"a\""),
            ("vary", "cookie"),
        ];
        let mut head = answer(&fields);
        *head.body_mut() = Body::Empty;
        wanted(&Method::HEAD, "br").apply(&mut head);
        let mut get = answer(&fields);
        wanted(&Method::GET, "br").apply(&mut get);
        assert_eq!(head.headers(), get.headers(), "HEAD tells what GET would");
        let seen = get.headers();
        assert_eq!(
            (&seen["content-encoding"], &seen["etag"]),
            (
                &HeaderValue::from_static("br"),
                &HeaderValue::from_static("W/\"a\"")
            )
        );
        assert!(!seen.contains_key(CONTENT_LENGTH) && !seen.contains_key(ACCEPT_RANGES));
        let vary: Vec<_> = seen.get_all(VARY).iter().collect();
        assert_eq!(vary, ["cookie", "accept-encoding"]);
        let mut plain = answer(&fields);
        wanted(&Method::GET, "").apply(&mut plain);
        assert_eq!(plain.headers()[ETAG], "\"a\"");
        assert!(says(plain.headers(), &VARY, "accept-encoding"));
        let mut same = answer(&fields[3..]);
        same.set_status(StatusCode::NOT_MODIFIED);
        wanted(&Method::GET, "br").apply(&mut same);
        assert_eq!(same.headers()[ETAG], "W/\"a\"");
    }
}
