//! Who calls, for services that know no sessions: asked of the monolith, signed by the proxy.

mod nobody;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use http::header::{COOKIE, HOST, HeaderValue};
use http::{HeaderMap, Request, StatusCode};
use sha2::Sha256;

use crate::asking;
use crate::cohort::cookie;
use crate::error::Refusal;
use crate::limits::Allowed;
use crate::pool::{Client, Cluster, Outgoing};
use crate::settings::IdentitySettings;
pub use nobody::{Nobody, who_is_nobody};

/// Bytes of what a core remembers of sessions; most take half a kilobyte. At the limit all are forgotten: asking
/// again is cheap. Clients choose how long a cookie is, and the monolith what it says, so they are not counted by number.
const REMEMBERED_MAX: usize = 8 << 20;

/// Of a session beside what was said: the table, what is signed, the clock.
const OVERHEAD: usize = 512;

/// A signed identity is good for this long; services see it within milliseconds.
const SIGNED_SECONDS: u64 = 60;

/// The identities that one core has learnt.
#[derive(Debug)]
pub(crate) struct Identities {
    settings: IdentitySettings,
    known: RefCell<Sessions>,
}

#[derive(Debug, Default)]
struct Sessions {
    all: HashMap<String, Known>,
    bytes: usize,
}

impl Sessions {
    fn put(&mut self, session: &str, known: Known) {
        let bytes = known.bytes(session);
        let before = self.all.remove(session);
        self.bytes -= before.map_or(0, |before| before.bytes(session));
        // One that takes as much as hundreds is asked about each time.
        if bytes > REMEMBERED_MAX / 64 {
            return;
        }
        if self.bytes + bytes > REMEMBERED_MAX {
            *self = Self::default();
        }
        self.bytes += bytes;
        self.all.insert(session.to_owned(), known);
    }
}

/// What was said of a session. How long that is believed goes by the monotonic clock, which nobody sets; what
/// is signed, by the wall's, which services have, too.
#[derive(Debug)]
struct Known {
    since: Instant,
    caller: Option<Caller>,
    signed: Option<Signed>,
}

impl Known {
    /// The same at all times: what is signed comes and goes, and is about twice as long as what it says.
    fn bytes(&self, session: &str) -> usize {
        let said = self.caller.as_ref().map_or(0, |caller| {
            let id = match &caller.user_id {
                serde_json::Value::String(text) => text.len(),
                other => other.to_string().len(),
            };
            id + caller.name.len() + caller.role.len()
        });
        OVERHEAD + session.len() + 3 * said
    }
}

/// A header, and when it ends, in seconds since 1970.
#[derive(Debug, Clone)]
struct Signed {
    header: HeaderValue,
    expires: u64,
}

impl Signed {
    /// Whether it is good for a while yet, and for no longer than one that is signed now. It is not where it is
    /// old, or where somebody has set the clock.
    fn is_good(&self, now: u64) -> bool {
        (now + SIGNED_SECONDS / 2..=now + SIGNED_SECONDS).contains(&self.expires)
    }
}

impl Identities {
    pub(crate) fn new(settings: IdentitySettings) -> Self {
        Self {
            settings,
            known: RefCell::default(),
        }
    }

    /// What is known without asking; `None` for an unknown or anonymous caller.
    pub(crate) fn known(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        self.fresh(cookie(headers, &self.settings.cookie)?)?
    }

    fn fresh(&self, session: &str) -> Option<Option<HeaderValue>> {
        self.fresh_at(session, (Instant::now(), seconds()))
    }

    fn fresh_at(&self, session: &str, (now, wall): (Instant, u64)) -> Option<Option<HeaderValue>> {
        let mut known = self.known.borrow_mut();
        let known = known.all.get_mut(session)?;
        if now.saturating_duration_since(known.since) >= self.settings.ttl {
            return None;
        }
        let Some(caller) = &known.caller else {
            return Some(None);
        };
        if !known.signed.as_ref().is_some_and(|own| own.is_good(wall)) {
            known.signed = self.sign(caller, wall);
        }
        Some(known.signed.as_ref().map(|signed| signed.header.clone()))
    }

    /// The signed header of the caller; `None` for an anonymous one.
    pub(crate) async fn of(
        &self,
        legacy: &Rc<Cluster>,
        headers: &HeaderMap,
    ) -> Result<Option<HeaderValue>, Refusal> {
        let Some(session) = cookie(headers, &self.settings.cookie) else {
            return Ok(None);
        };
        if let Some(known) = self.fresh(session) {
            return Ok(known);
        }
        // What is said is as old as the question.
        let asked = Instant::now();
        let caller = self.ask(legacy, headers).await?;
        Ok(self.learn(session, caller, (asked, seconds())))
    }

    fn learn(
        &self,
        session: &str,
        caller: Option<Caller>,
        (since, wall): (Instant, u64),
    ) -> Option<HeaderValue> {
        let signed = caller.as_ref().and_then(|caller| self.sign(caller, wall));
        let header = signed.as_ref().map(|signed| signed.header.clone());
        let learnt = Known {
            since,
            caller,
            signed,
        };
        self.known.borrow_mut().put(session, learnt);
        header
    }

    async fn ask(
        &self,
        legacy: &Rc<Cluster>,
        headers: &HeaderMap,
    ) -> Result<Option<Caller>, Refusal> {
        let failed = |why: &str| Refusal::Identity(format!("{}: {why}", self.settings.whoami));
        let mut request = Request::get(self.settings.whoami.as_str());
        for name in [COOKIE, HOST] {
            if let Some(value) = headers.get(&name) {
                request = request.header(name, value);
            }
        }
        let (parts, ()) = request
            .body(())
            .map_err(|e| failed(&e.to_string()))?
            .into_parts();
        let mut out = Outgoing {
            parts: Box::new(parts),
            body: None,
            until: None,
            told: None,
            hints: None,
            allowed: Allowed::ALL,
        };
        let begun = Instant::now();
        let sent = legacy.send(&mut out, Client::Nobody, begun);
        let (answer, lent) = sent.await?;
        let status = answer.status();
        let body = asking::whole(legacy, lent, begun).await;
        let body = body.map_err(|why| failed(&why))?;
        match status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => return Ok(None),
            other => return Err(failed(&format!("it answered {other}"))),
        }
        said(&body).map_err(|why| failed(&why))
    }

    /// The header that tells services of a caller.
    pub(crate) fn signed(&self, caller: &Caller) -> Option<HeaderValue> {
        Some(self.sign(caller, seconds())?.header)
    }

    fn sign(&self, caller: &Caller, now: u64) -> Option<Signed> {
        let expires = now + SIGNED_SECONDS;
        let header = sign(caller, expires, self.settings.secret.bytes())?;
        Some(Signed { header, expires })
    }
}

/// By the wall's clock, since 1970.
fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// Who calls: what the monolith says of a session, or a token of itself.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) user_id: serde_json::Value,
    pub(crate) name: String,
    pub(crate) role: String,
}

/// What the monolith's answer says; nobody, where the id is null.
fn said(body: &[u8]) -> Result<Option<Caller>, String> {
    #[derive(serde::Deserialize)]
    struct Said {
        user_id: serde_json::Value,
        name: Option<String>,
        role: Option<String>,
    }
    let said: Said = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    if said.user_id.is_null() {
        return Ok(None);
    }
    if !said.user_id.is_string() && !said.user_id.is_number() {
        return Err("its `user_id` is neither a text nor a number".to_owned());
    }
    Ok(Some(Caller {
        user_id: said.user_id,
        name: said.name.unwrap_or_default(),
        role: said.role.unwrap_or_default(),
    }))
}

/// `v1.PAYLOAD.SIGNATURE`, both base64url without padding.
fn sign(caller: &Caller, expires: u64, secret: &[u8]) -> Option<HeaderValue> {
    let sub = match &caller.user_id {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let payload = serde_json::json!({
        "sub": sub, "name": caller.name, "role": caller.role, "exp": expires,
    });
    let signed = format!("v1.{}", URL_SAFE_NO_PAD.encode(payload.to_string()));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
    mac.update(signed.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
    let mut header = HeaderValue::try_from(format!("{signed}.{signature}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::*;
    use crate::settings::Secret;

    const NOON: u64 = 1_800_000_000;

    fn identities(ttl: u64) -> Identities {
        Identities::new(IdentitySettings {
            cookie: "sid".to_owned(),
            whoami: "/me".to_owned(),
            secret: Secret::new("0123456789abcdef"),
            ttl: Duration::from_secs(ttl),
        })
    }

    fn caller() -> Option<Caller> {
        said(br#"{"user_id": 7}"#).unwrap()
    }

    #[test]
    fn nobody_is_who_has_no_id() {
        let id = |body: &str| said(body.as_bytes()).map(|who| who.map(|who| who.user_id));
        assert_eq!(id(r#"{"user_id": null}"#), Ok(None));
        assert_eq!(
            id(r#"{"user_id": "7", "name": null, "role": null, "more": 1}"#),
            Ok(Some(Value::from("7")))
        );
        for odd in [
            r#"{"user_id": true}"#,
            r#"{"user_id": {"id": 7}}"#,
            r#"{"user_id": [7]}"#,
            r#"{"name": "Eve"}"#,
            "null",
            "[]",
            "",
        ] {
            assert!(id(odd).is_err(), "{odd}");
        }
    }

    fn ends(header: &HeaderValue) -> u64 {
        let payload = header.to_str().unwrap().split('.').nth(1).unwrap();
        let payload = URL_SAFE_NO_PAD.decode(payload).unwrap();
        let payload: Value = serde_json::from_slice(&payload).unwrap();
        payload["exp"].as_u64().unwrap()
    }

    /// However long an answer is believed, and whatever somebody does to the clock: what services get is good
    /// for half a minute at least, and for a minute at the most.
    #[test]
    fn what_is_told_is_good_by_the_clock_of_the_moment() {
        let (all, begun) = (identities(300), Instant::now());
        let at = |after: u64| begun + Duration::from_secs(after);
        all.learn("a", caller(), (begun, NOON));
        for (after, wall) in [
            (0, NOON),
            (29, NOON + 29),
            (31, NOON + 31),
            (61, NOON + 61),
            (299, NOON + 299),
            (299, NOON + 100_000),
            (299, NOON - 100_000),
            (299, 0),
            (299, NOON),
        ] {
            let told = all.fresh_at("a", (at(after), wall)).unwrap().unwrap();
            let left = ends(&told).checked_sub(wall).unwrap();
            assert!((30..=60).contains(&left), "{after} {wall}: {left}");
        }
        assert!(
            all.fresh_at("a", (at(300), NOON)).is_none(),
            "its time is over"
        );
    }

    /// Clients choose the names of sessions, and the monolith says what it likes.
    #[test]
    fn what_is_remembered_has_a_bound_whatever_clients_send() {
        let (all, now) = (identities(300), (Instant::now(), NOON));
        let session = |n: usize, length: usize| format!("{n:0length$}");
        let mut most = 0;
        for n in 0..5_000 {
            all.learn(
                &session(n, 3_000),
                (n % 16 == 0).then(caller).flatten(),
                now,
            );
            let known = all.known.borrow();
            assert!(known.bytes <= REMEMBERED_MAX);
            most = most.max(known.all.len());
        }
        assert!((2_000..3_000).contains(&most), "{most}");
        let long = "x".repeat(250_000);
        all.learn(&long, caller(), now);
        assert!(all.fresh_at(&long, now).is_none());
        let talks = caller().map(|caller| Caller {
            name: "x".repeat(60_000),
            ..caller
        });
        all.learn("talks", talks, now);
        assert!(all.fresh_at("talks", now).is_none());
        // What is learnt again is not counted twice.
        all.learn("again", caller(), now);
        let bytes = all.known.borrow().bytes;
        for _ in 0..3 {
            all.learn("again", caller(), now);
        }
        assert_eq!(all.known.borrow().bytes, bytes);
        assert!(all.fresh_at("again", now).unwrap().is_some());
    }

    /// No clock that is set keeps an answer for longer, or throws it away.
    #[test]
    fn an_answer_is_believed_for_its_time_whatever_the_wall_says() {
        let (all, begun) = (identities(5), Instant::now());
        all.learn("a", caller(), (begun, NOON));
        all.learn("b", None, (begun, NOON));
        for wall in [NOON - 1_000_000, NOON, NOON + 1_000_000] {
            let at = |millis| (begun + Duration::from_millis(millis), wall);
            assert!(all.fresh_at("a", at(4_999)).unwrap().is_some());
            assert_eq!(all.fresh_at("b", at(4_999)), Some(None));
            assert!(all.fresh_at("a", at(5_000)).is_none());
            assert!(all.fresh_at("b", at(5_000)).is_none());
        }
        assert!(all.fresh_at("c", (begun, NOON)).is_none());
    }
}
