//! What is fed with bytes from outside, by `scripts/fuzz` and by the tests below: nothing may
//! panic, and two readers of the same bytes must not see two things.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a promise that is broken is to be loud"
)]

use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, Method, Version};
use outgrow_rollout::{GuardLimits, SliceId};

use crate::auth::jwt::{Algorithm, KeySet, TokenRule, verify};
use crate::chunks::{BadChunk, Chunks, Step};
use crate::cookies::CookieKeys;
use crate::inbound::head::{KnownNames, read};
use crate::kinds::Kinds;
use crate::preface;
use crate::reply::Reply;
use crate::routes::RouteTable;
use crate::settings::{RouteSettings, Secret, SliceSettings};
use crate::spelling::FieldNames;
use crate::wire::head;

const FIELDS_MAX: usize = 100;

/// A request's head. What is read of it is what an upstream reads of what it is sent.
pub fn request(data: &[u8]) {
    let mut names = KnownNames::default();
    let Ok(Some(first)) = read(data, (FIELDS_MAX, true), &mut names) else {
        return;
    };
    let whole = &data[..first.length];
    let again = read(whole, (FIELDS_MAX, true), &mut names);
    let again = again.expect("a head that was read").expect("a whole one");
    assert_eq!(again.length, first.length, "its end is where it was");
    let parts = first.request;
    assert_eq!(
        first.kinds,
        Kinds::of(&parts.headers),
        "what is known of it"
    );
    if parts.version != Version::HTTP_11 || parts.uri.path_and_query().is_none() {
        return;
    }
    let mut sent = Vec::new();
    head::write(&mut sent, &parts, false, FieldNames::Lower);
    let arrived = read(&sent, (FIELDS_MAX, false), &mut KnownNames::default());
    let arrived = arrived.expect("it is sent whole").expect("and ends");
    assert_eq!(arrived.length, sent.len(), "nothing is behind it");
    let there = arrived.request;
    assert_eq!(there.method, parts.method);
    assert_eq!(there.uri.path_and_query(), parts.uri.path_and_query());
    assert_eq!(there.headers, parts.headers);
    assert_eq!(arrived.body, first.body, "it is as long");
}

/// An answer's head, with those before it that are interim.
pub fn answer(data: &[u8]) {
    for method in [Method::GET, Method::HEAD] {
        let mut input = BytesMut::from(data);
        let found = head::read(&mut input, &method, FIELDS_MAX, None);
        if let Ok(Some(mut head)) = found {
            assert!(input.len() < data.len(), "a head has bytes");
            same_lines(&mut head.response);
        }
    }
}

/// What goes down to a client says what was read.
fn same_lines(response: &mut Reply<()>) {
    let Some(lines) = response.lines() else {
        return;
    };
    let mut written = BytesMut::from("HTTP/1.1 200 OK\r\n");
    lines
        .pieces()
        .for_each(|piece| written.extend_from_slice(piece));
    written.extend_from_slice(b"\r\n");
    let again = head::read(&mut written, &Method::HEAD, FIELDS_MAX, None);
    let mut again = again.expect("lines that were read").expect("all of them");
    assert!(written.is_empty(), "nothing is behind them");
    assert_eq!(again.response.headers(), response.headers());
}

type Body = (Vec<u8>, Option<HeaderMap>, usize);

/// The body, its trailers, and how many bytes are behind it; `None` while it has no end.
fn unchunked(data: &[u8], part: usize) -> Result<Option<Body>, BadChunk> {
    let (mut state, mut input) = (Chunks::Size, BytesMut::new());
    let mut body = Vec::new();
    let mut left = data.len();
    for piece in data.chunks(part) {
        input.extend_from_slice(piece);
        left -= piece.len();
        loop {
            match state.step(&mut input)? {
                Step::Data(bytes) => body.extend_from_slice(&bytes),
                Step::End(trailers) => return Ok(Some((body, trailers, left + input.len()))),
                Step::More => break,
            }
        }
    }
    Ok(None)
}

/// A chunked body: however it comes in pieces, it is the same one, and so it is when it was
/// chunked anew.
pub fn chunks(data: &[u8]) {
    let whole = unchunked(data, data.len().max(1));
    for part in [1, 7] {
        let pieces = unchunked(data, part);
        // What is broken behind the beginning is known later in pieces, not otherwise.
        assert_eq!(pieces, whole, "in pieces of {part}");
    }
    if let Ok(Some((body, _, _))) = whole {
        let mut text = Vec::new();
        for chunk in body.chunks(3) {
            text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            text.extend_from_slice(chunk);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"0\r\n\r\n");
        let again = unchunked(&text, 5);
        assert_eq!(again, Ok(Some((body, None, 0))), "chunked anew");
    }
}

/// The head of the PROXY protocol: a line, or its version, its family and its body.
pub fn preface(data: &[u8]) {
    let _ = preface::text(data);
    if let [version, family, body @ ..] = data {
        let _ = preface::binary(*version, *family, body);
    }
}

/// A set of keys, a line end, and a token.
pub fn token(data: &[u8]) {
    let cut = data.iter().position(|byte| *byte == b'\n');
    let (keys, token) = cut.map_or((data, data), |at| (&data[..at], &data[at + 1..]));
    let rule = TokenRule {
        issuer: "https://issuer.example".to_owned(),
        audience: Vec::new(),
        algorithms: vec![Algorithm::Es256, Algorithm::Rs256, Algorithm::EdDsa],
        leeway: Duration::from_secs(1),
    };
    if let (Ok(keys), Ok(token)) = (KeySet::parse(keys), std::str::from_utf8(token)) {
        let _ = verify(token, &rule, &keys, 1_700_000_000);
    }
}

/// The value of the proxy's own cookie. What it has not signed names a client at the most.
pub fn cookie(data: &[u8]) {
    let keys = CookieKeys::new(&[Secret::new("a key that no input knows")]);
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(said) = keys.read(text) {
        assert!(said.unsigned && said.wrote == 0, "nobody else signs");
        assert_eq!(said.id.text(), data, "it is who it says");
        let signed = keys.value(said.id, u64::MAX >> 16).expect("there is a key");
        let said = keys.read(&signed).expect("its own");
        assert_eq!(said.id.text(), data, "and stays it");
    }
}

/// Templates, a line each, and last a path. A literal template finds itself.
pub fn routes(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines: Vec<&str> = text.lines().collect();
    let path = lines.pop().unwrap_or_default();
    let Ok(id) = SliceId::new("fuzzing") else {
        return;
    };
    let route = |template: &&str| RouteSettings {
        method: Method::GET,
        host: None,
        template: (*template).to_owned(),
        filters: None,
    };
    let slice = SliceSettings {
        id,
        service: "shop".to_owned(),
        routes: lines.iter().map(route).collect(),
        cohort: Vec::new(),
        salt: String::new(),
        guard: GuardLimits::default(),
        fallback: false,
    };
    let Ok(table) = RouteTable::build(&[slice]) else {
        return;
    };
    let _ = table.find((&Method::GET, None), path, None);
    for template in lines.iter().filter(|template| !template.contains('{')) {
        let who = (&Method::HEAD, Some("shop.example:80"));
        let Ok(found) = table.find(who, template, None) else {
            // It is odd in too many ways.
            continue;
        };
        assert_eq!(
            found.map(|found| &*found.label),
            Some(&*format!("GET {template}")),
            "a literal beats all others"
        );
    }
}

#[cfg(test)]
mod tests {
    use outgrow_testkit::around_seeds;

    #[test]
    fn bytes_near_the_seeds() {
        around_seeds("proxy-request", super::request);
        around_seeds("proxy-answer", super::answer);
        around_seeds("proxy-chunks", super::chunks);
        around_seeds("proxy-preface", super::preface);
        around_seeds("proxy-token", super::token);
        around_seeds("proxy-routes", super::routes);
        around_seeds("proxy-cookie", super::cookie);
    }
}
