//! Tokens that say nothing by themselves: who has issued them is asked (RFC 7662).
//!
//! An answer is kept for all cores, for as long as the config says and never beyond its `exp`, by a hash of the
//! token; the token itself is kept nowhere. Of requests with one token at a time one asks, and the others wait
//! for what it is told. No answer, and one that is none, means no.

mod asking;
mod kept;

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::header::COOKIE;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue};
use outgrow_rollout::{AskedFigures, TokenFigures};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tracing::warn;

use super::jwt::{TOKEN_MAX, Terms, TokenError, check};
use super::{Claims, Denial, is_of_token, seconds};
use crate::core::Core;
use crate::counts::asked::{AskedCounts, Came, From};
use crate::settings::{Secret, Settings};
use crate::sources::Source;
use asking::Question;
use kept::Kept;

/// Who is asked about tokens, and what they must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntrospectionSettings {
    /// What filters call it.
    pub name: String,
    /// The service that is asked.
    pub service: String,
    pub path: PathAndQuery,
    /// What the question says as `Host`; else where the service is.
    pub host: Option<HeaderValue>,
    pub credentials: Credentials,
    /// What kind of tokens they are, as a help for whoever looks them up; "" says nothing.
    pub hint: String,
    /// What an answer must have as `iss`.
    pub issuer: Option<String>,
    /// Of which `aud` must have one; empty asks for none.
    pub audience: Vec<String>,
    /// By how much clocks may differ.
    pub leeway: Duration,
    /// To the end of an answer.
    pub timeout: Duration,
    /// How long an answer is good.
    pub keep: Duration,
    /// How long the word that a token is not in force is.
    pub keep_inactive: Duration,
    /// Bytes of all that is kept.
    pub size: u64,
}

/// How the proxy shows who it is to whom it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// HTTP Basic, as RFC 6749 section 2.3.1 writes it.
    Basic {
        id: String,
        secret: Secret,
    },
    Bearer(Secret),
}

/// What is said of a token.
#[derive(Debug, Clone)]
enum Said {
    Active(Claims),
    Inactive,
}

const LATE: &str = "whoever knows the token takes too long";

/// What one that asks has for those who wait: `None` while it is on the way.
type Word = Option<Result<Said, &'static str>>;

type Hash = [u8; 32];

/// Somebody to ask, with what was said lately; shared by all cores.
pub(super) struct Introspector {
    settings: IntrospectionSettings,
    question: Question,
    kept: Kept,
    counts: AskedCounts,
    going: Mutex<HashMap<Hash, Arc<watch::Sender<Word>>>>,
}

impl fmt::Debug for Introspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introspector")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Introspector {
    /// # Errors
    /// Says what is wrong with which.
    pub(super) fn all(settings: &Settings) -> Result<Vec<Self>, String> {
        let all = settings.auth.introspection.iter();
        all.map(|one| Self::new(one.clone(), settings)).collect()
    }

    fn new(settings: IntrospectionSettings, all: &Settings) -> Result<Self, String> {
        let service = all.services.iter().find(|s| s.name == settings.service);
        let service =
            service.ok_or_else(|| format!("there is no service `{}`", settings.service))?;
        let named = service.upstreams.iter().find_map(|source| match source {
            Source::At(address) => Some(address.host()),
            _ => None,
        });
        let named = named.unwrap_or(&settings.service);
        Ok(Self {
            question: Question::new(&settings, named)?,
            kept: Kept::new(settings.size),
            counts: AskedCounts::new(all.workers.get()),
            settings,
            going: Mutex::default(),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.settings.name
    }

    pub(super) fn figures(&self) -> AskedFigures {
        let (entries, bytes) = self.kept.takes();
        AskedFigures {
            kind: "introspection",
            name: self.settings.name.clone(),
            outcomes: self.counts.outcomes(),
            times: self.counts.times(),
            tokens: Some(TokenFigures {
                sources: self.counts.sources(),
                entries,
                bytes,
                size: self.settings.size,
            }),
        }
    }

    /// The claims of a token that is in force and for us.
    ///
    /// Cancel safe: who leaves lets another one ask.
    pub(super) async fn claims(&self, core: &Rc<Core>, token: &str) -> Result<Claims, Denial> {
        // What could be none need not be asked of anybody.
        if token.is_empty() || token.len() > TOKEN_MAX {
            return Err(Denial::Token(TokenError::Malformed));
        }
        let hash = Sha256::digest(token).into();
        let said = match self.kept.get(&hash, Instant::now(), seconds()) {
            Some(said) => {
                self.counts.finds(core.index, From::Kept);
                Ok(said)
            }
            None => self.learn(core, &hash, token).await,
        };
        match said {
            Ok(Said::Active(claims)) => {
                let terms = Terms {
                    issuer: self.settings.issuer.as_deref(),
                    audience: &self.settings.audience,
                    leeway: self.settings.leeway,
                    ends: false,
                };
                check(&claims, &terms, seconds()).map_err(Denial::Token)?;
                Ok(claims)
            }
            Ok(Said::Inactive) => Err(Denial::Token(TokenError::Inactive)),
            Err(why) => Err(Denial::Unavailable(why)),
        }
    }

    /// Asks, or waits for one that does.
    async fn learn(&self, core: &Rc<Core>, hash: &Hash, token: &str) -> Result<Said, &'static str> {
        // Those who ask may all leave, one after the other.
        let until = tokio::time::Instant::now() + 2 * self.settings.timeout;
        loop {
            let mut word = match self.join(hash) {
                Turn::Goes(leads) => return self.go(core, leads, token).await,
                Turn::Waits(word) => word,
            };
            let told = word.wait_for(Option::is_some);
            match tokio::time::timeout_at(until, told).await {
                Ok(Ok(told)) => {
                    self.counts.finds(core.index, From::Waited);
                    return told.clone().unwrap_or(Err(LATE));
                }
                // The one that went has left.
                Ok(Err(_)) => {}
                Err(_) => return Err(LATE),
            }
        }
    }

    async fn go(
        &self,
        core: &Rc<Core>,
        leads: Leads<'_>,
        token: &str,
    ) -> Result<Said, &'static str> {
        // What is said is of no later time than this.
        let begun = Instant::now();
        if let Some(said) = self.kept.get(&leads.hash, begun, seconds()) {
            leads.tell(Ok(said.clone()));
            self.counts.finds(core.index, From::Kept);
            return Ok(said);
        }
        self.counts.finds(core.index, From::Asked);
        let within = self.settings.timeout;
        let asked = self.question.ask(core, token, begun + within);
        let asked = tokio::time::timeout(within, asked).await;
        let said = asked.unwrap_or_else(|_| Err(format!("no answer within {within:?}")));
        let said = match said {
            Ok((said, bytes)) => {
                let keep = match said {
                    Said::Active(_) => self.settings.keep,
                    Said::Inactive => self.settings.keep_inactive,
                };
                self.kept.put(leads.hash, said.clone(), bytes, begun + keep);
                Ok(said)
            }
            Err(why) => {
                warn!(introspection = %self.settings.name, %why, "a token could not be judged");
                Err("whoever knows the token gives no answer")
            }
        };
        let came = match &said {
            Ok(Said::Active(_)) => Came::Passed,
            Ok(Said::Inactive) => Came::Refused,
            Err(_) => Came::Failed,
        };
        self.counts.count(core.index, came, begun);
        leads.tell(said.clone());
        said
    }

    fn going(&self) -> MutexGuard<'_, HashMap<Hash, Arc<watch::Sender<Word>>>> {
        // A map is whole between any two calls of it.
        self.going.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, hash: &Hash) -> Turn<'_> {
        let mut going = self.going();
        if let Some(word) = going.get(hash) {
            return Turn::Waits(word.subscribe());
        }
        let word = Arc::new(watch::Sender::new(None));
        going.insert(*hash, word.clone());
        Turn::Goes(Leads {
            of: self,
            hash: *hash,
            word,
        })
    }
}

enum Turn<'a> {
    Goes(Leads<'a>),
    Waits(watch::Receiver<Word>),
}

/// The one that goes. Dropped without a word, it lets another one go.
struct Leads<'a> {
    of: &'a Introspector,
    hash: Hash,
    word: Arc<watch::Sender<Word>>,
}

impl Leads<'_> {
    fn tell(self, said: Result<Said, &'static str>) {
        // First, so that whoever comes from here on finds what is kept, or asks again.
        self.ends();
        self.word.send_replace(Some(said));
    }

    fn ends(&self) {
        let mut going = self.of.going();
        // It may be another one's by now.
        let own = going.get(&self.hash);
        if own.is_some_and(|own| Arc::ptr_eq(own, &self.word)) {
            going.remove(&self.hash);
        }
    }
}

impl Drop for Leads<'_> {
    fn drop(&mut self) {
        self.ends();
    }
}

/// A token as RFC 6750 section 2.1 writes it.
pub(super) fn is_token(text: &str) -> bool {
    let text = text.trim_end_matches('=');
    !text.is_empty() && text.chars().all(is_of_token)
}

/// The session of a request, by its cookie. Servers differ in which of two they take, and in what they
/// forgive: whatever one of them could take for it is it, or an error.
pub(super) fn session<'a>(
    fields: &'a HeaderMap,
    name: &str,
) -> Result<Option<&'a str>, TokenError> {
    let mut found = None;
    let pairs = fields.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let pairs = pairs.flat_map(|value| value.split(|byte| matches!(byte, b';' | b',')));
    for pair in pairs {
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let own = halves.next().unwrap_or_default().trim_ascii();
        if own != name.as_bytes() {
            continue;
        }
        let value = halves.next().ok_or(TokenError::Malformed)?.trim_ascii();
        let value = std::str::from_utf8(value).map_err(|_| TokenError::Malformed)?;
        if !value.bytes().all(is_of_cookie) || found.is_some_and(|found| found != value) {
            return Err(TokenError::Malformed);
        }
        found = Some(value);
    }
    match found {
        Some("") => Err(TokenError::Malformed),
        found => Ok(found),
    }
}

/// RFC 6265 section 4.1.1, `cookie-octet`.
fn is_of_cookie(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_what_any_server_could_take_for_it() {
        let bad = Err(TokenError::Malformed);
        for (cookies, expected) in [
            (&["sid=a.b/c="][..], Ok(Some("a.b/c="))),
            (&["x=1; sid=a; y=2"], Ok(Some("a"))),
            (&["x=1", "sid=a"], Ok(Some("a"))),
            (&["sid=a; sid=a"], Ok(Some("a"))),
            (&["SID=a; xsid=b; sid2=c"], Ok(None)),
            (&[], Ok(None)),
            (&["sid = a"], Ok(Some("a"))),
            (&["x=1, sid=a"], Ok(Some("a"))),
            (&["sid=a; sid=b"], bad),
            (&["sid=a", "sid=b"], bad),
            (&["sid=\"a\""], bad),
            (&["sid="], bad),
            (&["sid"], bad),
            (&["sid=a b"], bad),
            (&["sid=\u{fc}"], bad),
        ] {
            let mut fields = HeaderMap::new();
            for value in cookies {
                let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
                fields.append(COOKIE, value);
            }
            assert_eq!(session(&fields, "sid"), expected, "{cookies:?}");
        }
    }

    #[test]
    fn a_token_is_written_as_the_standard_has_it() {
        for (text, is) in [
            ("mF_9.B5f-4.1JqM", true),
            ("a+/~==", true),
            ("", false),
            ("==", false),
            ("a=b", false),
            ("a b", false),
            ("a,b", false),
            ("\"a\"", false),
        ] {
            assert_eq!(is_token(text), is, "{text}");
        }
    }
}
