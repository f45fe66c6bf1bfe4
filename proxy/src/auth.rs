//! Who may ask: tokens, API keys, or the word of a service. What is not shown to be right is refused.

mod ask;
mod fetch;
mod issuer;
pub(crate) mod jwt;
mod keys;
mod policy;

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use http::header::{AUTHORIZATION, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, request};
use serde_json::{Map, Value};
use tracing::{info, warn};

use crate::body::Body;
use crate::core::{Core, Peer};
use crate::error::Refusal;
use crate::headers;
use crate::identity::Caller;
use crate::reply::Reply;
use crate::trail::Trail;

pub use issuer::{IssuerSettings, KeySource};
pub use jwt::{Algorithm, TokenRule};
pub use keys::ApiKeys;
pub use policy::Demand;

pub(crate) use issuer::Issuer;
use issuer::Unproven;
use jwt::TokenError;

/// How often the file of API keys is looked at.
const KEYS_LOOK: Duration = Duration::from_secs(5);

/// What the filters of routes refer to.
#[derive(Debug, Clone, Default)]
pub struct AuthSettings {
    pub issuers: Vec<IssuerSettings>,
    /// The file of API keys.
    pub api_keys: Option<PathBuf>,
}

/// Who may ask a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthRule {
    pub way: Way,
    /// A request without any credentials passes, too; one with wrong ones never does.
    pub optional: bool,
    /// All must be met.
    pub demands: Vec<Demand>,
    /// The claim that is the caller's id, for the identity that services are told.
    pub identity: Option<String>,
}

/// How somebody shows who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// A token of one of these issuers, or, where a field for them is named, an API key.
    Shown {
        issuers: Vec<String>,
        key: Option<HeaderName>,
        /// Or the certificate of the client, by which it was let in over TLS.
        certificate: bool,
    },
    /// A service is asked about each request.
    Asked {
        service: String,
        path: PathAndQuery,
        /// Fields of its answer that the request gets.
        copy: Vec<HeaderName>,
    },
}

/// Why somebody may not ask.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denial {
    #[error("credentials are needed")]
    Missing { bearer: bool },
    #[error(transparent)]
    Token(TokenError),
    #[error("a client certificate is needed")]
    Certificate,
    #[error("the API key is unknown")]
    Key,
    #[error("the caller may not do this")]
    Policy { scope: Option<String> },
    #[error("it cannot be established who asks: {0}")]
    Unavailable(&'static str),
}

impl Denial {
    /// What the client may try instead (RFC 6750 section 3).
    pub(crate) fn challenge(&self) -> Option<HeaderValue> {
        let text = match self {
            Self::Missing { bearer: true } => "Bearer realm=\"outgrow\"".to_owned(),
            Self::Missing { bearer: false } | Self::Key => "ApiKey realm=\"outgrow\"".to_owned(),
            Self::Token(why) => format!(
                "Bearer realm=\"outgrow\", error=\"invalid_token\", error_description=\"{why}\""
            ),
            Self::Policy { scope } => {
                let scope = scope.as_ref().map(|scope| format!(", scope=\"{scope}\""));
                format!(
                    "Bearer realm=\"outgrow\", error=\"insufficient_scope\"{}",
                    scope.unwrap_or_default()
                )
            }
            Self::Unavailable(_) | Self::Certificate => return None,
        };
        HeaderValue::try_from(text).ok()
    }
}

/// What is known of those who may ask; shared by all cores.
#[derive(Debug)]
pub(crate) struct Doorman {
    issuers: Vec<Arc<Issuer>>,
    keys: Option<(PathBuf, ArcSwap<ApiKeys>)>,
}

impl Doorman {
    /// # Errors
    /// Says what is wrong with which file.
    pub(crate) fn new(settings: &AuthSettings) -> Result<Arc<Self>, String> {
        let issuers = settings.issuers.iter().cloned().map(Issuer::new);
        let keys = match &settings.api_keys {
            None => None,
            Some(path) => {
                let keys = ApiKeys::load(path);
                let keys = keys.map_err(|why| format!("{}: {why}", path.display()))?;
                Some((path.clone(), ArcSwap::from_pointee(keys)))
            }
        };
        Ok(Arc::new(Self {
            issuers: issuers.collect::<Result<_, _>>()?,
            keys,
        }))
    }

    /// Looks after keys, on this thread, until its runtime ends.
    pub(crate) fn begin(self: Arc<Self>) {
        for issuer in &self.issuers {
            tokio::task::spawn_local(issuer.clone().watch());
        }
        if self.keys.is_some() {
            tokio::task::spawn_local(self.watch_keys());
        }
    }

    /// A file that cannot be used changes nothing.
    async fn watch_keys(self: Arc<Self>) {
        let Some((path, current)) = &self.keys else {
            return;
        };
        let mut tick = tokio::time::interval(KEYS_LOOK);
        let mut told = None;
        loop {
            tick.tick().await;
            let file = path.clone();
            let read = tokio::task::spawn_blocking(move || ApiKeys::load(&file)).await;
            let Ok(read) = read else {
                continue;
            };
            match read {
                Ok(keys) if keys == **current.load() => told = None,
                Ok(keys) => {
                    current.store(Arc::new(keys));
                    info!("new API keys are in force");
                    told = None;
                }
                Err(why) if told.as_ref() == Some(&why) => {}
                Err(why) => {
                    warn!(path = %path.display(), %why, "API keys have changed and cannot be used");
                    told = Some(why);
                }
            }
        }
    }
}

/// What becomes of a request.
pub(crate) enum Entry {
    /// It goes on; as whom, where that is known and wanted.
    Open(Option<Caller>),
    /// Whoever was asked has answered instead.
    Answered(Reply<Body>),
}

/// Lets a request in, or not. Takes API keys off: they are for this proxy.
pub(crate) async fn admit(
    core: &Rc<Core>,
    rule: &AuthRule,
    (parts, peer): (&mut request::Parts, &Peer),
    trail: Option<&Rc<Trail>>,
) -> Result<Entry, Refusal> {
    let (issuers, key, certificate) = match &rule.way {
        Way::Shown {
            issuers,
            key,
            certificate,
        } => (issuers, key, *certificate),
        Way::Asked {
            service,
            path,
            copy,
        } => return ask::ask(core, service, path, (&copy[..], parts)).await,
    };
    let doorman = &core.shared.doorman;
    let fields = &mut parts.headers;
    let shown = peer.certificate.shown().filter(|_| certificate);
    let given = key.as_ref().and_then(|name| fields.remove(name));
    headers::drop_twins(fields, key.iter());
    if issuers.is_empty() && !matches!(bearer(fields), Ok(None)) {
        // Nobody here can check it, and who reads it later might believe that somebody has.
        fields.remove(AUTHORIZATION);
    }
    let claims = match (given, bearer(fields).map_err(Denial::Token)?) {
        (Some(given), token) => {
            if let Some(token) = token {
                // It goes on to the side, so it is to be right, too.
                proven(doorman, issuers, token).await?;
            }
            let keys = doorman.keys.as_ref().map(|(_, keys)| keys.load());
            let claims = keys.and_then(|keys| keys.claims(given.as_bytes()));
            let claims = claims.ok_or(Denial::Key)?;
            if let (Some(trail), Some(name)) = (trail, claims["sub"].as_str()) {
                trail.called_by(name);
            }
            claims
        }
        (None, Some(token)) => proven(doorman, issuers, token).await?,
        _ if let Some(shown) = shown => {
            if let (Some(trail), Some(name)) = (trail, shown.claims["sub"].as_str()) {
                trail.called_by(name);
            }
            shown.claims.clone()
        }
        _ if rule.optional => return Ok(Entry::Open(None)),
        _ if issuers.is_empty() && key.is_none() => return Err(Denial::Certificate.into()),
        _ => {
            let bearer = !issuers.is_empty();
            return Err(Denial::Missing { bearer }.into());
        }
    };
    policy::check(&rule.demands, &claims)?;
    Ok(Entry::Open(caller(rule, &claims)))
}

/// The token of a request. Credentials of another kind are none; what a lenient service could take for a
/// token, and is not written as one, is an error.
fn bearer(fields: &HeaderMap) -> Result<Option<&str>, TokenError> {
    let mut given = fields.get_all(AUTHORIZATION).iter();
    let (first, more) = (given.next(), given.next());
    if more.is_some() {
        return Err(TokenError::Malformed);
    }
    let Some(text) = first.map(|value| value.to_str()) else {
        return Ok(None);
    };
    let text = text.map_err(|_| TokenError::Malformed)?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Some(token.trim()));
    }
    match text.split(|letter| !is_of_token(letter)).any(is_suspect) {
        true => Err(TokenError::Malformed),
        false => Ok(None),
    }
}

/// Of which a token, or the name of a scheme, is made (RFC 6750 section 2.1).
fn is_of_token(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "-._~+/".contains(letter)
}

/// The name of the scheme in an odd place, or a token as JSON Web Tokens look: a part that begins as an
/// object does, and two more.
fn is_suspect(word: &str) -> bool {
    let token = word.starts_with("ey") && word.bytes().filter(|byte| *byte == b'.').count() >= 2;
    token || word.eq_ignore_ascii_case("bearer")
}

/// The claims of a token of one of these issuers; which one, it says itself, unproven, so that only
/// the keys of that one are asked for.
async fn proven(
    doorman: &Doorman,
    names: &[String],
    token: &str,
) -> Result<Map<String, Value>, Denial> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs();
    let said = jwt::issuer(token).map_err(Denial::Token)?;
    let issuer = doorman.issuers.iter().find(|issuer| {
        let settings = &issuer.settings;
        settings.rule.issuer == said && names.contains(&settings.name)
    });
    let issuer = issuer.ok_or(Denial::Token(TokenError::Issuer))?;
    issuer.claims(token, now).await.map_err(|why| match why {
        Unproven::Token(why) => Denial::Token(why),
        Unproven::NoKeys => Denial::Unavailable("the keys of the issuer are not known yet"),
    })
}

fn caller(rule: &AuthRule, claims: &Map<String, Value>) -> Option<Caller> {
    let id = policy::claim(claims, rule.identity.as_ref()?)?;
    let text = |name: &str| {
        let text = claims.get(name).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    // Lists and the like are no id.
    let plain = id.is_string() || id.is_number();
    plain.then(|| Caller {
        user_id: id.clone(),
        name: text("name"),
        role: text("role"),
    })
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}
