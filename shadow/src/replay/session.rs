//! One session on one side: its cookies, and the values that this side gave where the recorded
//! one gave others (tokens, ids). Pure.
//!
//! Learnt are only values that a later request of the session carries. A side's value stands at
//! the same place of its answer as the recorded value stood in the recorded answer.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, COOKIE, LOCATION, SET_COOKIE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};
use outgrow_rollout::Side;
use serde_json::Value;

use crate::recording::{Given, Recorded, hidden};

/// A shorter value is replaced only where it is a whole part of a path: it may well stand
/// somewhere else and mean something else.
const ANYWHERE_MIN: usize = 8;

/// Values that one session can carry on; no real one has so many.
const CARRIED_MAX: usize = 10_000;

/// Fields of one connection, of a cache, or of a body that is made anew.
const OWN: [&str; 8] = [
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "if-none-match",
    "if-modified-since",
    "if-match",
    "if-unmodified-since",
    "x-outgrow-identity",
];

/// The values of recorded answers that later requests of the session carry.
pub(crate) fn carried(session: &[Recorded]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut offered: BTreeSet<String> = BTreeSet::new();
    for request in session {
        if !offered.is_empty() {
            let texts = texts(request);
            let in_use = offered.iter().filter(|value| {
                texts
                    .iter()
                    .any(|text| replaced(text, value, value).is_some())
            });
            found.extend(in_use.cloned());
            offered.retain(|value| !found.contains(value));
        }
        if let Some(given) = &request.answer {
            let room = CARRIED_MAX.saturating_sub(offered.len());
            let mut values = Vec::new();
            if let Ok(json) = serde_json::from_slice::<Value>(&given.body) {
                leaves(&json, &mut values);
            }
            values.extend(location(&given.headers));
            offered.extend(values.into_iter().take(room));
        }
    }
    found
}

/// Where a value can be carried.
fn texts(request: &Recorded) -> Vec<String> {
    let values = request.headers.iter();
    let values = values.filter(|(name, _)| **name != COOKIE);
    let mut texts: Vec<String> = values
        .map(|(_, value)| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .collect();
    texts.push(request.target.to_string());
    texts.push(String::from_utf8_lossy(&request.body).into_owned());
    texts
}

fn leaf(json: &Value) -> Option<String> {
    match json {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn leaves(json: &Value, found: &mut Vec<String>) {
    match json {
        Value::Array(all) => all.iter().for_each(|json| leaves(json, found)),
        Value::Object(members) => members.values().for_each(|json| leaves(json, found)),
        scalar => found.extend(leaf(scalar)),
    }
}

/// The last part of where something new is.
fn location(fields: &HeaderMap) -> Option<String> {
    let text = fields.get(LOCATION)?.to_str().ok()?;
    let last = text.split(['?', '#']).next()?.rsplit('/').next()?;
    (!last.is_empty()).then(|| last.to_owned())
}

/// `text` with `old` replaced where it may be; `None` where it is nowhere.
fn replaced(text: &str, old: &str, new: &str) -> Option<String> {
    let short = old.len() < ANYWHERE_MIN;
    let edge = |c: Option<char>| match short {
        true => c.is_none_or(|c| matches!(c, '/' | '?')),
        false => c.is_none_or(|c| !c.is_alphanumeric()),
    };
    let mut made = String::new();
    let mut done = 0;
    for (at, _) in text.match_indices(old) {
        let before = text[..at].chars().next_back();
        let after = text[at + old.len()..].chars().next();
        // A short one at the start of a text is no part of a path.
        if at < done || !edge(before) || !edge(after) || short && before != Some('/') {
            continue;
        }
        made.push_str(&text[done..at]);
        made.push_str(new);
        done = at + old.len();
    }
    if done == 0 {
        return None;
    }
    made.push_str(&text[done..]);
    Some(made)
}

/// What one side has given in one session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identity {
    cookies: BTreeMap<String, String>,
    /// The recorded value, and this side's.
    values: BTreeMap<String, String>,
}

/// A request as one side gets it.
#[derive(Debug, Clone)]
pub(crate) struct Dressed {
    /// As a client would ask.
    pub(crate) asked: PathAndQuery,
    /// As this build is asked.
    pub(crate) target: PathAndQuery,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Identity {
    /// Learns from this side's answer to a request.
    pub(crate) fn learn(
        &mut self,
        recorded: Option<&Given>,
        carried: &BTreeSet<String>,
        headers: &HeaderMap,
        body: &[u8],
    ) {
        for value in headers.get_all(SET_COOKIE) {
            if let Ok(text) = value.to_str() {
                self.cookie(text);
            }
        }
        let Some(recorded) = recorded.filter(|_| !carried.is_empty()) else {
            return;
        };
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok();
        if let (Some(theirs), Some(ours)) = (json(&recorded.body), json(body)) {
            self.values_of(&theirs, &ours, carried);
        }
        if let (Some(old), Some(new)) = (location(&recorded.headers), location(headers))
            && carried.contains(&old)
        {
            self.values.insert(old, new);
        }
    }

    fn cookie(&mut self, text: &str) {
        let mut parts = text.split(';').map(str::trim);
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else {
            return;
        };
        let gone = parts.any(|part| {
            let part = part.to_ascii_lowercase();
            part == "max-age=0" || part.starts_with("max-age=-")
        });
        match gone || value.is_empty() {
            true => self.cookies.remove(name.trim()),
            false => self
                .cookies
                .insert(name.trim().to_owned(), value.trim().to_owned()),
        };
    }

    fn values_of(&mut self, recorded: &Value, own: &Value, carried: &BTreeSet<String>) {
        match (recorded, own) {
            (Value::Array(a), Value::Array(b)) => {
                for (a, b) in a.iter().zip(b) {
                    self.values_of(a, b, carried);
                }
            }
            (Value::Object(a), Value::Object(b)) => {
                for (name, a) in a {
                    if let Some(b) = b.get(name) {
                        self.values_of(a, b, carried);
                    }
                }
            }
            (a, b) => {
                if let (Some(old), Some(new)) = (leaf(a), leaf(b))
                    && carried.contains(&old)
                {
                    self.values.insert(old, new);
                }
            }
        }
    }

    /// The request as this side gets it: with its own cookies and values, and without secrets of
    /// which only a token was recorded. `own` are fields that this build always gets; `side` is the
    /// one whose paths it knows, where they are not the clients'.
    pub(crate) fn dress(&self, request: &Recorded, own: &HeaderMap, side: Option<Side>) -> Dressed {
        let target = |recorded: &PathAndQuery| {
            let text = self.text(recorded.as_str());
            let made = text.and_then(|text| text.parse().ok());
            made.unwrap_or_else(|| recorded.clone())
        };
        let asked = target(&request.target);
        let other = side.and_then(|side| request.sides.of(side));
        let body = std::str::from_utf8(&request.body).ok();
        let body = body.and_then(|text| self.text(text)).map(Bytes::from);
        Dressed {
            target: other.map_or_else(|| asked.clone(), target),
            asked,
            headers: self.fields(request, own),
            body: body.unwrap_or_else(|| request.body.clone()),
        }
    }

    /// `None` where nothing is replaced.
    fn text(&self, text: &str) -> Option<String> {
        let mut made: Option<String> = None;
        let mut longest: Vec<(&String, &String)> = self.values.iter().collect();
        longest.sort_by_key(|(old, _)| std::cmp::Reverse(old.len()));
        for (old, new) in longest.into_iter().filter(|(old, new)| old != new) {
            let now = made.as_deref().unwrap_or(text);
            if let Some(next) = replaced(now, old, new) {
                made = Some(next);
            }
        }
        made
    }

    fn fields(&self, request: &Recorded, own: &HeaderMap) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in &request.headers {
            let dropped = [
                CONNECTION,
                CONTENT_LENGTH,
                TRANSFER_ENCODING,
                TE,
                TRAILER,
                UPGRADE,
                ACCEPT_ENCODING,
                COOKIE,
            ];
            if dropped.contains(name) || OWN.contains(&name.as_str()) {
                continue;
            }
            let Ok(text) = value.to_str() else {
                fields.append(name.clone(), value.clone());
                continue;
            };
            let made = self.text(text);
            let text = made.as_deref().unwrap_or(text);
            // A token of the redaction opens nothing.
            if hidden(text) {
                continue;
            }
            put(&mut fields, name, text);
        }
        put(&mut fields, &COOKIE, &self.cookies(request));
        for name in own.keys() {
            fields.remove(name);
        }
        for (name, value) in own {
            fields.append(name.clone(), value.clone());
        }
        fields
    }

    /// The recorded cookies, with this side's values, and those that only this side has given.
    fn cookies(&self, request: &Recorded) -> String {
        let mut sent: BTreeMap<&str, &str> = BTreeMap::new();
        for value in request.headers.get_all(COOKIE) {
            let pairs = value.to_str().unwrap_or_default().split(';');
            for (name, value) in pairs.filter_map(|pair| pair.trim().split_once('=')) {
                if !hidden(value) {
                    sent.insert(name, value);
                }
            }
        }
        for (name, value) in &self.cookies {
            sent.insert(name, value);
        }
        let pairs: Vec<String> = sent.iter().map(|(n, v)| format!("{n}={v}")).collect();
        pairs.join("; ")
    }
}

fn put(fields: &mut HeaderMap, name: &HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text)
        && !text.is_empty()
    {
        fields.append(name.clone(), value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tap::SideTargets;

    fn request(target: &str, headers: &[(&str, &str)], body: &str) -> Recorded {
        let headers = headers.iter().map(|(name, value)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        });
        Recorded {
            at_ms: 0,
            session: "s".to_owned(),
            route: None,
            method: http::Method::GET,
            target: target.parse().unwrap(),
            sides: SideTargets::default(),
            headers: headers.collect(),
            body: Bytes::from(body.to_owned()),
            answer: None,
        }
    }

    fn given(headers: &[(&str, &str)], body: &str) -> Given {
        Given {
            status: 200,
            headers: request("/", headers, "").headers,
            body: Bytes::from(body.to_owned()),
        }
    }

    #[test]
    fn what_a_login_gives_is_carried_by_later_requests() {
        let mut login = request("/login", &[], r#"{"name":"ada"}"#);
        let recorded = given(
            &[("location", "/carts/17"), ("set-cookie", "sid=old; Path=/")],
            r#"{"token":"recorded-token","user":{"id":40017,"plan":"free"}}"#,
        );
        login.answer = Some(recorded.clone());
        let later = request(
            "/carts/17/items?for=40017&plan=free&n=17",
            &[
                ("authorization", "Bearer recorded-token"),
                ("cookie", "sid=old; theme=dark"),
            ],
            r#"{"cart":"17","csrf":"recorded-token"}"#,
        );
        let carried = carried(&[login, later.clone()]);
        assert_eq!(
            carried.iter().collect::<Vec<_>>(),
            ["17", "recorded-token"],
            "a short value is carried as a part of a path only"
        );
        let mut side = Identity::default();
        let answer = given(
            &[
                ("location", "http://b/carts/93"),
                ("set-cookie", "sid=new; HttpOnly"),
            ],
            "",
        );
        let body = r#"{"token":"this-sides-token","user":{"id":5,"plan":"free"}}"#;
        side.learn(Some(&recorded), &carried, &answer.headers, body.as_bytes());
        let own = request("/", &[("x-env", "b")], "").headers;
        let made = side.dress(&later, &own, None);
        assert_eq!(made.target, "/carts/93/items?for=40017&plan=free&n=17");
        assert_eq!(made.headers["authorization"], "Bearer this-sides-token");
        assert_eq!(made.headers["cookie"], "sid=new; theme=dark");
        assert_eq!(made.headers["x-env"], "b");
        assert_eq!(made.body, r#"{"cart":"17","csrf":"this-sides-token"}"#);
    }

    #[test]
    fn a_cookie_that_a_side_takes_back_is_sent_no_more() {
        let mut side = Identity::default();
        for text in ["a=1", "b=2; Path=/", "a=; Max-Age=0", "c=3; max-age=0"] {
            side.cookie(text);
        }
        let made = side.dress(&request("/", &[], ""), &HeaderMap::new(), None);
        assert_eq!(made.headers["cookie"], "b=2");
    }

    #[test]
    fn hidden_secrets_and_fields_of_a_connection_are_not_sent() {
        let sent = request(
            "/",
            &[
                ("authorization", "Bearer hidden-0123456789abcdef"),
                ("cookie", "sid=hidden-0123456789abcdef; lang=en"),
                ("connection", "close"),
                ("if-none-match", "\"a\""),
                ("accept-encoding", "br"),
                ("accept", "application/json"),
            ],
            "",
        );
        let made = Identity::default().dress(&sent, &HeaderMap::new(), None);
        let names: Vec<&str> = made.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["accept", "cookie"]);
        assert_eq!(made.headers["cookie"], "lang=en");
        let token = request("/", &[("authorization", "Bearer own")], "").headers;
        let made = Identity::default().dress(&sent, &token, None);
        assert_eq!(made.headers["authorization"], "Bearer own");
    }

    proptest! {
        #[test]
        fn any_text_is_replaced_without_losing_the_rest(
            text in "[/a-c?é=&.-]{0,40}", old in "[a-c]{1,10}", new in "[x-z]{1,4}",
        ) {
            if let Some(made) = replaced(&text, &old, &new) {
                prop_assert!(made.contains(&new));
                let kept = |text: &str| text.chars().filter(|c| !c.is_ascii_lowercase()).collect::<String>();
                prop_assert_eq!(kept(&made), kept(&text));
            }
        }
    }
}
