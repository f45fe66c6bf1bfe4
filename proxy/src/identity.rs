//! Who calls, for services that know no sessions: asked of the monolith, signed by the proxy.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use http::header::{COOKIE, HOST, HeaderValue};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use sha2::Sha256;

use crate::body::Body;
use crate::cohort::cookie;
use crate::error::Refusal;
use crate::limits::Allowed;
use crate::pool::{Client, Cluster, Outgoing};
use crate::settings::IdentitySettings;

/// Sessions remembered per core. At the limit all are forgotten: asking again is cheap.
const SESSIONS_MAX: usize = 10_000;

/// Bytes of a whoami answer; a longer one is no identity.
const ANSWER_MAX: usize = 64 * 1024;

/// A signed identity is good for this long; services see it within milliseconds.
const SIGNED_SECONDS: u64 = 60;

/// The identities that one core has learnt.
#[derive(Debug)]
pub(crate) struct Identities {
    settings: IdentitySettings,
    known: RefCell<HashMap<String, (Instant, Option<HeaderValue>)>>,
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
        let known = self.known.borrow();
        let (since, header) = known.get(session)?;
        (since.elapsed() < self.settings.ttl).then(|| header.clone())
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
        let found = self.ask(legacy, headers).await?;
        let mut known = self.known.borrow_mut();
        if known.len() >= SESSIONS_MAX {
            known.clear();
        }
        known.insert(session.to_owned(), (Instant::now(), found.clone()));
        Ok(found)
    }

    async fn ask(
        &self,
        legacy: &Rc<Cluster>,
        headers: &HeaderMap,
    ) -> Result<Option<HeaderValue>, Refusal> {
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
        let sent = legacy.send(&mut out, Client::Nobody, Instant::now());
        let (answer, lent) = sent.await?;
        let status = answer.status();
        let body = Limited::new(Body::answer(lent, None), ANSWER_MAX);
        let body = body.collect().await;
        let body = body.map_err(|error| failed(&error.to_string()))?.to_bytes();
        match status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => return Ok(None),
            other => return Err(failed(&format!("it answered {other}"))),
        }
        let caller: Caller = serde_json::from_slice(&body).map_err(|e| failed(&e.to_string()))?;
        Ok(self.signed(&caller))
    }

    /// The header that tells services of a caller.
    pub(crate) fn signed(&self, caller: &Caller) -> Option<HeaderValue> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let expires = now + SIGNED_SECONDS;
        sign(caller, expires, self.settings.secret.bytes())
    }
}

/// Who calls: what the monolith says of a session, or a token of itself.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Caller {
    pub(crate) user_id: serde_json::Value,
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) role: String,
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
