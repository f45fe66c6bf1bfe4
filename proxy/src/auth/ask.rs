//! A service says of each request whether it may pass. No answer means no.

use std::rc::Rc;
use std::time::Instant;

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderName, RANGE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, request};
use serde_json::{Map, Value};
use tracing::warn;

use super::{Denial, Saying};
use crate::asking;
use crate::body::Body;
use crate::core::Core;
use crate::error::Refusal;
use crate::headers;
use crate::limits::Allowed;
use crate::pool::{Client, Outgoing};
use crate::reply::Reply;

const METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const TARGET: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// Of the request's body and connection, which the question has none of.
const NOT_ASKED: [HeaderName; 9] = [
    CONNECTION,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    EXPECT,
    RANGE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// What a service has said.
pub(super) enum Asked {
    Answered(Reply<Body>),
    /// With what it says of the caller.
    Passes(Map<String, Value>),
}

/// Asks about a request, by its own fields.
pub(super) async fn ask(
    core: &Rc<Core>,
    (service, path): (&str, &PathAndQuery),
    (copy, claims): (&[HeaderName], &[Saying]),
    parts: &mut request::Parts,
) -> Result<Asked, Refusal> {
    let failed = |why: &dyn std::fmt::Display| {
        warn!(service, %why, "a request could not be judged");
        Denial::Unavailable("whoever decides it gives no answer")
    };
    // Only that service may say these.
    let own = copy.iter().chain(claims.iter().map(|said| &said.field));
    for name in own.clone() {
        parts.headers.remove(name);
    }
    headers::drop_twins(&mut parts.headers, own.clone());
    if own.clone().next().is_some() {
        let own = headers::Apart(own.cloned().collect());
        parts.extensions.insert(own);
    }
    let cluster = core
        .named(service)
        .ok_or_else(|| failed(&"no such service"))?;
    let mut out = Outgoing {
        parts: Box::new(question(path, parts).map_err(|error| failed(&error))?),
        body: None,
        until: None,
        told: None,
        hints: None,
        allowed: Allowed::ALL,
    };
    let begun = Instant::now();
    let sent = cluster.send(&mut out, Client::Nobody, begun).await;
    let (mut answer, lent) = sent.map_err(|error| failed(&error))?;
    let status = answer.status();
    // Also one that goes to the client in place of the one it asked for.
    let body = asking::whole(cluster, lent, begun).await;
    let body = body.map_err(|why| failed(&why))?;
    if status.is_success() {
        let said = answer.headers();
        for name in copy {
            for value in said.get_all(name) {
                parts.headers.append(name, value.clone());
            }
        }
        return Ok(Asked::Passes(said_of_caller(said, claims)));
    }
    let decided = status.is_redirection()
        || matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
        );
    if !decided {
        return Err(failed(&format_args!("it answered {status}")).into());
    }
    headers::strip_hop_by_hop(answer.headers_mut());
    // The length of what a client that asked with HEAD does not get is left as it is said.
    Ok(Asked::Answered(answer.with(Body::Full(Some(body)))))
}

/// What the fields of an answer say. One that is empty, or no text, says nothing.
fn said_of_caller(fields: &HeaderMap, claims: &[Saying]) -> Map<String, Value> {
    let mut found = Map::new();
    for Saying { field, claim, list } in claims {
        let lines = fields.get_all(field).iter();
        let lines = lines.filter_map(|line| std::str::from_utf8(line.as_bytes()).ok());
        let parts = lines.flat_map(|line| match list {
            true => line.split(',').collect(),
            false => vec![line],
        });
        let parts = parts.map(str::trim).filter(|part| !part.is_empty());
        let mut parts: Vec<Value> = parts.map(Value::from).collect();
        let value = match (parts.len(), list) {
            (0, _) => continue,
            (1, false) => parts.remove(0),
            _ => Value::Array(parts),
        };
        found.insert(claim.clone(), value);
    }
    found
}

fn question(path: &PathAndQuery, asked: &request::Parts) -> Result<request::Parts, http::Error> {
    let mut fields: HeaderMap = asked.headers.clone();
    for name in NOT_ASKED {
        fields.remove(name);
    }
    // Many read `_` as `-`, and would be told of another request.
    headers::drop_twins(&mut fields, [&METHOD, &TARGET].into_iter());
    let target = asked.uri.path_and_query().map_or("/", |t| t.as_str());
    fields.insert(METHOD, HeaderValue::from_str(asked.method.as_str())?);
    fields.insert(TARGET, HeaderValue::from_str(target)?);
    let request = Request::builder().method(Method::GET).uri(path.as_str());
    let (mut parts, ()) = request.body(())?.into_parts();
    parts.headers = fields;
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_of_an_answer_are_claims() {
        let saying = |field: &'static str, claim: &str, list| Saying {
            field: HeaderName::from_static(field),
            claim: claim.to_owned(),
            list,
        };
        let claims = [
            saying("x-user", "sub", false),
            saying("x-name", "name", false),
            saying("x-groups", "groups", true),
            saying("x-none", "none", false),
            saying("x-empty", "empty", true),
            saying("x-odd", "odd", false),
            saying("x-two", "two", false),
        ];
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("x-user", &b"ann"[..]),
            ("x-name", "J\u{f6}rg, the second".as_bytes()),
            ("x-groups", b"a, b,"),
            ("x-groups", b"c"),
            ("x-empty", b" , "),
            ("x-odd", b"\xff"),
            ("x-two", b"1"),
            ("x-two", b"2"),
            ("x-other", b"3"),
        ] {
            let name = HeaderName::from_static(name);
            fields.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        let found = Value::Object(said_of_caller(&fields, &claims));
        let expected = json!({
            "sub": "ann", "name": "J\u{f6}rg, the second", "groups": ["a", "b", "c"],
            "two": ["1", "2"],
        });
        assert_eq!(found, expected);
    }
}
