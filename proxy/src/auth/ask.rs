//! A service says of each request whether it may pass. No answer means no.

use std::rc::Rc;
use std::time::Instant;

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderName, RANGE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, request};
use http_body_util::{BodyExt, Limited};
use tracing::warn;

use super::{Denial, Entry};
use crate::body::Body;
use crate::core::Core;
use crate::error::Refusal;
use crate::headers;
use crate::limits::Allowed;
use crate::pool::{Client, Outgoing};

/// Bytes of an answer that goes to the client in place of the one it asked for.
const ANSWER_MAX: usize = 64 * 1024;

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

/// Asks about a request, by its own fields.
pub(super) async fn ask(
    core: &Rc<Core>,
    service: &str,
    path: &PathAndQuery,
    (copy, parts): (&[HeaderName], &mut request::Parts),
) -> Result<Entry, Refusal> {
    let failed = |why: &dyn std::fmt::Display| {
        warn!(service, %why, "a request could not be judged");
        Denial::Unavailable("whoever decides it gives no answer")
    };
    // Only that service may say these.
    for name in copy {
        parts.headers.remove(name);
    }
    headers::drop_twins(&mut parts.headers, copy.iter());
    if !copy.is_empty() {
        parts.extensions.insert(headers::Apart(copy.into()));
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
    let sent = cluster.send(&mut out, Client::Nobody, Instant::now()).await;
    let (mut answer, lent) = sent.map_err(|error| failed(&error))?;
    let status = answer.status();
    let body = Limited::new(Body::answer(lent, None), ANSWER_MAX)
        .collect()
        .await;
    let body = body.map_err(|error| failed(&error))?.to_bytes();
    if status.is_success() {
        let said = answer.headers();
        for name in copy {
            for value in said.get_all(name) {
                parts.headers.append(name, value.clone());
            }
        }
        return Ok(Entry::Open(None));
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
    Ok(Entry::Answered(answer.with(Body::Full(Some(body)))))
}

fn question(path: &PathAndQuery, asked: &request::Parts) -> Result<request::Parts, http::Error> {
    let mut fields: HeaderMap = asked.headers.clone();
    for name in NOT_ASKED {
        fields.remove(name);
    }
    let target = asked.uri.path_and_query().map_or("/", |t| t.as_str());
    fields.insert(METHOD, HeaderValue::from_str(asked.method.as_str())?);
    fields.insert(TARGET, HeaderValue::from_str(target)?);
    let request = Request::builder().method(Method::GET).uri(path.as_str());
    let (mut parts, ()) = request.body(())?.into_parts();
    parts.headers = fields;
    Ok(parts)
}
