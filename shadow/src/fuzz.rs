//! What is fed with bytes from outside, by `scripts/fuzz` and by the tests below: nothing may
//! panic, and what is said of all documents must hold for these.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a promise that is broken is to be loud"
)]

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method};
use time::Date;
use time::macros::date;

use crate::body::{self, Body};
use crate::diff::{Difference, diff, twins};
use crate::graphql;
use crate::json::{self, Json};
use crate::path::Root;
use crate::recording::Recording;
use crate::rules::Rules;
use crate::settings::{Accept, Rule};
use crate::tap::{CapturedRequest, SideTargets};
use crate::twin;

const TODAY: Date = date!(2026 - 11 - 21);

/// By no rules.
fn differences(a: &Json, b: &Json) -> Vec<Difference> {
    diff(a, b, &Root::Body, &Rules::default(), TODAY)
}

/// Two texts, parted by the first byte that no text has.
pub fn json(data: &[u8]) {
    let cut = data.iter().position(|byte| *byte == 0xff);
    let (a, b) = cut.map_or((data, data), |at| (&data[..at], &data[at + 1..]));
    let whole = json::parse(a).zip(json::parse(b));
    if let Some((a, b)) = &whole {
        assert_eq!(differences(a, a), [], "of one and the same");
        let differ = !differences(a, b).is_empty();
        assert_eq!(differ, a != b, "of equal ones alone");
    }
    let rules = Rules::default();
    if let Some(twin) = twin::read(a, b, &rules) {
        let (a, b) = whole.expect("both are JSON by themselves");
        let together = twins(&twin, &Root::Body, &rules, TODAY);
        assert_eq!(together, differences(&a, &b), "read together");
    }
}

const KINDS: [&str; 13] = [
    "application/json",
    "application/x-ndjson",
    "application/x-www-form-urlencoded",
    "text/csv",
    "text/tab-separated-values",
    "text/event-stream",
    "text/html; charset=utf-8",
    "application/atom+xml",
    "application/grpc",
    "application/grpc+json",
    "application/grpc-web",
    "multipart/form-data; boundary=cut",
    "text/plain",
];

const CODINGS: [&str; 6] = ["", "gzip", "deflate", "br", "zstd", "gzip, br"];

/// The first two bytes say what the others are.
pub fn body(data: &[u8]) {
    let [kind, coding, rest @ ..] = data else {
        return;
    };
    let of = |all: &[&'static str], byte: u8| all[usize::from(byte) % all.len()];
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(of(&KINDS, *kind)));
    let coding = of(&CODINGS, *coding);
    if !coding.is_empty() {
        headers.insert("content-encoding", HeaderValue::from_static(coding));
    }
    let Ok(bytes) = body::decoded(&headers, &Bytes::copy_from_slice(rest), 1 << 16) else {
        return;
    };
    if let Body::Tree(tree) = body::read(body::kind(&headers), &headers, &bytes, &[]) {
        assert_eq!(differences(&tree, &tree), [], "of one and the same");
    }
}

/// A file for `outgrow replay`. What is read of it comes back when it is written.
pub fn recording(data: &[u8]) {
    let Ok(read) = Recording::read(data, None) else {
        return;
    };
    let mut text = crate::recording::head(&read.source);
    for request in &read.requests {
        text.push('\n');
        text.push_str(&request.line());
    }
    text.push('\n');
    let again = Recording::read(text.as_bytes(), None).expect("what was written is read");
    assert_eq!(again.requests.len(), read.requests.len());
    let lines = again.requests.iter().zip(&read.requests);
    for (new, old) in lines {
        assert_eq!(new.line(), old.line());
    }
}

/// A request for a GraphQL server.
pub fn graphql(data: &[u8]) {
    let mut request = CapturedRequest {
        method: Method::POST,
        target: PathAndQuery::from_static("/graphql"),
        sides: SideTargets::default(),
        headers: HeaderMap::new(),
        body: Bytes::copy_from_slice(data),
        whole: true,
    };
    for kind in ["application/json", "application/graphql"] {
        let kind = HeaderValue::from_static(kind);
        request.headers.insert(CONTENT_TYPE, kind);
        let _ = graphql::query(&request);
    }
}

/// The path of a rule, and what it accepts.
pub fn rule(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (path, accept) = text.split_once('\n').unwrap_or((&text, ""));
    for accept in [
        Accept::Any,
        Accept::Regex(accept.to_owned()),
        Accept::Tolerance(accept.to_owned()),
    ] {
        let rule = Rule {
            path: path.to_owned(),
            reason: "fuzzing".to_owned(),
            until: Some(accept_date(&text)),
            owner: None,
            accept,
        };
        let _ = rule.check();
    }
}

/// The last ten characters.
fn accept_date(text: &str) -> String {
    let from = text.chars().count().saturating_sub(10);
    text.chars().skip(from).collect()
}

#[cfg(test)]
mod tests {
    use outgrow_testkit::around_seeds;

    #[test]
    fn bytes_near_the_seeds() {
        around_seeds("shadow-json", super::json);
        around_seeds("shadow-body", super::body);
        around_seeds("shadow-recording", super::recording);
        around_seeds("shadow-graphql", super::graphql);
        around_seeds("shadow-rule", super::rule);
    }
}
