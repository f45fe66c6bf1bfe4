//! The question about a token, and what its answer says.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, USER_AGENT,
};
use http::uri::PathAndQuery;
use http::{Request, StatusCode, request};
use http_body_util::{BodyExt, Limited};
use serde_json::{Map, Value};

use super::{Credentials, IntrospectionSettings, Said};
use crate::body::Body;
use crate::core::Core;
use crate::error::UpstreamError;
use crate::inbound::{Again, ClientBody};
use crate::limits::Allowed;
use crate::pool::{Client, Lent, Outgoing};
use crate::reply::Reply;

/// Bytes of an answer; most have less than one kilobyte.
const ANSWER_MAX: usize = 64 * 1024;

/// How often a connection may turn out to have died when the question comes: it changes nothing, so it may be
/// asked twice.
const TRIES: usize = 2;

/// All of a question but its token.
pub(super) struct Question {
    service: String,
    path: PathAndQuery,
    fields: HeaderMap,
    hint: String,
}

impl Question {
    /// # Errors
    /// Says what cannot be sent.
    pub(super) fn new(settings: &IntrospectionSettings, named: &str) -> Result<Self, String> {
        let name = &settings.name;
        let host = match &settings.host {
            Some(host) => host.clone(),
            None => HeaderValue::from_str(named).map_err(|error| format!("{name}: {error}"))?,
        };
        let said = match &settings.credentials {
            Credentials::Basic { id, secret } => {
                let pair = [id.as_bytes(), secret.bytes()].map(form).join(":");
                format!("Basic {}", STANDARD.encode(pair)).into_bytes()
            }
            Credentials::Bearer(secret) => [b"Bearer ", secret.bytes()].concat(),
        };
        let mut said = HeaderValue::try_from(said)
            .map_err(|_| format!("{name}: its secret does not fit into a header"))?;
        said.set_sensitive(true);
        let fields = HeaderMap::from_iter([
            (HOST, host),
            (AUTHORIZATION, said),
            (ACCEPT, HeaderValue::from_static("application/json")),
            (
                CONTENT_TYPE,
                HeaderValue::from_static("application/x-www-form-urlencoded"),
            ),
            (
                USER_AGENT,
                HeaderValue::from_static("outgrow-introspection"),
            ),
        ]);
        let hint = match settings.hint.as_str() {
            "" => String::new(),
            hint => format!("&token_type_hint={}", form(hint.as_bytes())),
        };
        Ok(Self {
            service: settings.service.clone(),
            path: settings.path.clone(),
            fields,
            hint,
        })
    }

    /// What is said of a token, and in how many bytes.
    ///
    /// # Errors
    /// Why nothing is. Never with anything that the answer says.
    pub(super) async fn ask(
        &self,
        core: &Rc<Core>,
        token: &str,
        until: Instant,
    ) -> Result<(Said, usize), String> {
        let cluster = core.named(&self.service).ok_or("no such service")?;
        let body = Bytes::from(format!("token={}{}", form(token.as_bytes()), self.hint));
        let mut tries = 1..=TRIES;
        let (answer, lent) = loop {
            let last = tries.next().is_none_or(|n| n == TRIES);
            let mut out = self.outgoing(body.clone(), until)?;
            let begun = Instant::now();
            let sent: Result<(Reply<()>, Lent), _> =
                cluster.send(&mut out, Client::Nobody, begun).await;
            match sent {
                Ok(sent) => break sent,
                Err(UpstreamError::Broken { .. }) if !last => {}
                Err(error) => return Err(error.to_string()),
            }
        };
        let status = answer.status();
        if status != StatusCode::OK {
            return Err(format!("it answered {status}"));
        }
        let kind = answer.kind().unwrap_or_default();
        if !is_json(kind) {
            return Err("its answer is no application/json".to_owned());
        }
        let body = Limited::new(Body::answer(lent, None), ANSWER_MAX);
        let body = body.collect().await;
        let body = body.map_err(|_| "its answer breaks off, or is too long")?;
        let body = body.to_bytes();
        Ok((said(&body)?, body.len()))
    }

    fn outgoing(&self, body: Bytes, until: Instant) -> Result<Outgoing, String> {
        let request = Request::post(self.path.as_str()).body(());
        let (mut parts, ()): (request::Parts, ()) =
            request.map_err(|error| error.to_string())?.into_parts();
        parts.headers = self.fields.clone();
        parts.headers.insert(CONTENT_LENGTH, body.len().into());
        Ok(Outgoing {
            parts: Box::new(parts),
            body: Some(ClientBody::again(Again {
                parts: [body].into(),
                trailers: None,
                rest: None,
            })),
            until: None,
            told: None,
            hints: None,
            allowed: Allowed {
                end: Some(until),
                ..Allowed::ALL
            },
        })
    }
}

fn is_json(kind: &[u8]) -> bool {
    let essence = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    essence
        .trim_ascii()
        .eq_ignore_ascii_case(b"application/json")
}

/// What an answer says (RFC 7662 section 2.2).
fn said(body: &[u8]) -> Result<Said, &'static str> {
    // What serde says of it could quote it.
    let claims: Map<String, Value> =
        serde_json::from_slice(body).map_err(|_| "its answer is no object")?;
    match claims.get("active") {
        Some(Value::Bool(true)) if is_for_renewal(&claims) => Ok(Said::Inactive),
        Some(Value::Bool(true)) => Ok(Said::Active(Arc::new(claims))),
        Some(Value::Bool(false)) => Ok(Said::Inactive),
        _ => Err("its answer does not say whether the token is active"),
    }
}

/// Many servers call such a token active, too; it opens no service (RFC 6749 section 1.5).
fn is_for_renewal(claims: &Map<String, Value>) -> bool {
    ["token_type", "token_use", "typ"].iter().any(|name| {
        let kind = claims
            .get(*name)
            .and_then(Value::as_str)
            .unwrap_or_default();
        ["refresh_token", "refresh", "offline"]
            .iter()
            .any(|renewal| kind.eq_ignore_ascii_case(renewal))
    })
}

/// As forms are written (`application/x-www-form-urlencoded`).
fn form(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for &byte in text {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_so_is_active() {
        for (body, expected) in [
            (r#"{"active":true,"sub":"a"}"#, Ok(true)),
            (r#"{"active":true,"token_type":"Bearer"}"#, Ok(true)),
            (r#"{"active":false}"#, Ok(false)),
            (r#"{"active":true,"token_use":"refresh_token"}"#, Ok(false)),
            (r#"{"active":true,"typ":"Refresh"}"#, Ok(false)),
            (
                r#"{"active":"true"}"#,
                Err("its answer does not say whether the token is active"),
            ),
            (
                r#"{"active":1}"#,
                Err("its answer does not say whether the token is active"),
            ),
            (
                "{}",
                Err("its answer does not say whether the token is active"),
            ),
            ("[true]", Err("its answer is no object")),
            ("", Err("its answer is no object")),
            ("\"secret\"", Err("its answer is no object")),
        ] {
            let found = said(body.as_bytes()).map(|said| matches!(said, Said::Active(_)));
            assert_eq!(found, expected, "{body}");
        }
    }

    #[test]
    fn json_is_json_whatever_its_letters() {
        for (kind, is) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("text/html", false),
            ("application/jsonp", false),
            ("application/token-introspection+jwt", false),
            ("", false),
        ] {
            assert_eq!(is_json(kind.as_bytes()), is, "{kind}");
        }
    }

    #[test]
    fn forms_are_written_as_forms() {
        assert_eq!(form(b"aZ0-._*"), "aZ0-._*");
        assert_eq!(
            form("a b+c/=&~:\u{fc}".as_bytes()),
            "a%20b%2Bc%2F%3D%26%7E%3A%C3%BC"
        );
    }
}
