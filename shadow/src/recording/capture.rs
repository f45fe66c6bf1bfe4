//! Recording live traffic: lines wait here, without secrets, until the recorder fetches them.
//!
//! A recording goes on as long as somebody fetches. The buffer is bounded; what does not fit is
//! counted as lost, and no client waits.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};
use regex::Regex;

use super::{Given, Recorded};
use crate::redact::Redactor;
use crate::tap::{Exchange, SideTargets};

/// Where a client is, which nobody needs for a replay.
const ADDRESSES: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

/// Lines that wait for the recorder, who comes every second; more than that much traffic of one
/// second is no sample any more.
const BUFFER_BYTES_MAX: usize = 16 << 20;

/// Without a visit for so long, the recorder is gone.
const GONE: Duration = Duration::from_secs(15);

/// What a recorder fetches.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct Fetched {
    pub(crate) lines: Vec<String>,
    /// Requests since the last visit that found no room.
    pub(crate) lost: u64,
}

/// The recording of one slice; off until somebody fetches.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    /// A look without the lock, for every exchange.
    on: AtomicBool,
    active: Mutex<Option<Active>>,
}

#[derive(Debug)]
struct Active {
    recorder: String,
    begun: Instant,
    visited: Instant,
    fetched: Fetched,
    bytes: usize,
    /// For names of sessions that nobody can guess back.
    key: RandomState,
    anonymous: u64,
}

impl Capture {
    /// Begins or goes on, and hands over what has come in. One recorder at a time.
    ///
    /// # Errors
    /// Says so when another one records.
    pub(crate) fn fetch(&self, recorder: &str, now: Instant) -> Result<Fetched, String> {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = |active: &Active| now.saturating_duration_since(active.visited) > GONE;
        match active.as_mut() {
            Some(active) if active.recorder == recorder => {
                active.visited = now;
                active.bytes = 0;
                Ok(std::mem::take(&mut active.fetched))
            }
            Some(other) if !gone(other) => Err(format!(
                "it is being recorded already; that recording ends {GONE:?} after its last visit"
            )),
            _ => {
                *active = Some(Active {
                    recorder: recorder.to_owned(),
                    begun: now,
                    visited: now,
                    fetched: Fetched::default(),
                    bytes: 0,
                    key: RandomState::new(),
                    anonymous: 0,
                });
                self.on.store(true, Relaxed);
                Ok(Fetched::default())
            }
        }
    }

    /// Whether somebody records, as far as is known without asking.
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// Keeps a request, if somebody records.
    pub(crate) fn take(&self, exchange: &Exchange, redactor: &Redactor, now: Instant) {
        if !self.is_on() {
            return;
        }
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(recording) = active.as_mut() else {
            return;
        };
        if now.saturating_duration_since(recording.visited) > GONE {
            *active = None;
            self.on.store(false, Relaxed);
            return;
        }
        if recording.bytes >= BUFFER_BYTES_MAX {
            recording.fetched.lost += 1;
            return;
        }
        // What is in bytes cannot be looked through for secrets.
        let Ok(body) = std::str::from_utf8(&exchange.request.body) else {
            recording.fetched.lost += 1;
            return;
        };
        let body = bytes::Bytes::from(redactor.text(body));
        let recorded = recording.recorded(exchange, redactor, now);
        let line = Recorded { body, ..recorded }.line();
        recording.bytes += line.len();
        recording.fetched.lines.push(line);
    }
}

impl Active {
    fn recorded(&mut self, exchange: &Exchange, redactor: &Redactor, now: Instant) -> Recorded {
        let request = &exchange.request;
        let hidden_in = |target: Option<&PathAndQuery>| Some(without_secrets(target?, redactor));
        let since = now.saturating_duration_since(self.begun);
        let began = since.saturating_sub(exchange.latency);
        Recorded {
            at_ms: u64::try_from(began.as_millis()).unwrap_or(u64::MAX),
            session: self.session(&request.headers),
            route: Some(exchange.route.to_string()),
            method: request.method.clone(),
            target: without_secrets(&request.target, redactor),
            sides: SideTargets {
                legacy: hidden_in(request.sides.legacy.as_ref()),
                extracted: hidden_in(request.sides.extracted.as_ref()),
            },
            headers: headers(&request.headers, redactor),
            body: bytes::Bytes::new(),
            answer: Some(Given {
                status: exchange.response.status.as_u16(),
                headers: HeaderMap::new(),
                body: bytes::Bytes::new(),
            }),
        }
    }

    /// Who asks: by the credential, else by the cookie that names a session, else by all cookies.
    /// A client without any is asked apart: its requests have no order.
    fn session(&mut self, fields: &HeaderMap) -> String {
        let credential = fields.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let all: Vec<&str> = cookies(fields).collect();
        let named = all.iter().find(|cookie| {
            let name = cookie.split('=').next().unwrap_or_default();
            let name = name.to_ascii_lowercase();
            ["sess", "sid", "auth", "token", "visitor"]
                .iter()
                .any(|part| name.contains(part))
        });
        let whole = all.join(";");
        let who = credential
            .or(named.map(|cookie| cookie.as_bytes()))
            .unwrap_or(whole.as_bytes());
        if who.is_empty() {
            self.anonymous += 1;
            return format!("a{}", self.anonymous);
        }
        format!("s{:016x}", self.key.hash_one(who))
    }
}

fn cookies(fields: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = fields.get_all(COOKIE).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(';').map(str::trim))
}

/// Tokens of the redaction, as they can stand in a path or a header, too.
fn plain(text: &str) -> String {
    static TOKEN: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"\[([a-z]+) ([0-9a-f]{16})\]").ok());
    match &*TOKEN {
        Some(token) => token.replace_all(text, "hidden-$2").into_owned(),
        None => text.to_owned(),
    }
}

/// Whether a recorded value is only the token of a secret.
pub(crate) fn hidden(text: &str) -> bool {
    let token = text.rsplit([' ', '=']).next().unwrap_or_default();
    let digits = token.strip_prefix("hidden-");
    digits.is_some_and(|digits| {
        digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

fn without_secrets(target: &PathAndQuery, redactor: &Redactor) -> PathAndQuery {
    let text = plain(&redactor.text(target.as_str()));
    // What redaction leaves is a path, or nothing of it is kept.
    text.parse()
        .unwrap_or_else(|_| PathAndQuery::from_static("/"))
}

fn headers(fields: &HeaderMap, redactor: &Redactor) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for (name, value) in fields {
        if *name == COOKIE || ADDRESSES.contains(&name.as_str()) {
            continue;
        }
        let text = String::from_utf8_lossy(value.as_bytes());
        put(&mut kept, name, &shown(name, &text, redactor));
    }
    let names: Vec<String> = cookies(fields)
        .filter_map(|cookie| {
            let (name, value) = cookie.split_once('=')?;
            Some(format!("{name}={}", token(value, redactor)))
        })
        .collect();
    if !names.is_empty() {
        put(&mut kept, &COOKIE, &names.join("; "));
    }
    kept
}

fn put(fields: &mut HeaderMap, name: &HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        fields.append(name.clone(), value);
    }
}

/// Any text as one token.
fn token(text: &str, redactor: &Redactor) -> String {
    plain(&redactor.hidden_text(text))
}

/// Names of headers that carry a credential, whoever invented them.
fn tells(name: &str) -> bool {
    const PARTS: [&str; 9] = [
        "auth", "token", "secret", "api-key", "apikey", "session", "csrf", "xsrf", "password",
    ];
    PARTS.iter().any(|part| name.contains(part))
}

fn shown(name: &HeaderName, text: &str, redactor: &Redactor) -> String {
    if *name == AUTHORIZATION || *name == PROXY_AUTHORIZATION {
        // The scheme says what is missing at a replay.
        return match text.split_once(' ') {
            Some((scheme, credential)) => format!("{scheme} {}", token(credential, redactor)),
            None => token(text, redactor),
        };
    }
    match tells(name.as_str()) {
        true => token(text, redactor),
        false => plain(&redactor.named(name.as_str(), text)),
    }
}
