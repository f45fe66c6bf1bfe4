//! Who may ask: tokens, API keys, or the word of a service. What is not shown to be right is refused.

mod ask;
mod fetch;
mod introspect;
mod issuer;
pub(crate) mod jwt;
mod keys;
mod policy;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use http::header::{AUTHORIZATION, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, request};
use outgrow_rollout::AskedFigures;
use serde_json::{Map, Value};
use tracing::{info, warn};

use crate::body::Body;
use crate::core::{Core, Peer};
use crate::counts::asked::{AskedCounts, Came};
use crate::error::Refusal;
use crate::headers;
use crate::identity::Caller;
use crate::reply::Reply;
use crate::settings::Settings;
use crate::trail::Trail;

pub use introspect::{Credentials, IntrospectionSettings};
pub use issuer::{IssuerSettings, KeySource};
pub use jwt::{Algorithm, TokenRule};
pub use keys::ApiKeys;
pub use policy::Demand;

use ask::Asked;
use introspect::Introspector;
pub(crate) use issuer::Issuer;
use issuer::Unproven;
use jwt::TokenError;

/// How often the file of API keys is looked at.
const KEYS_LOOK: Duration = Duration::from_secs(5);

/// What the filters of routes refer to.
#[derive(Debug, Clone, Default)]
pub struct AuthSettings {
    pub issuers: Vec<IssuerSettings>,
    /// Who is asked about tokens.
    pub introspection: Vec<IntrospectionSettings>,
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
    Shown(Means),
    /// A service is asked about each request.
    Asked {
        service: String,
        path: PathAndQuery,
        /// Fields of its answer that the request gets.
        copy: Vec<HeaderName>,
        /// What fields of its answer say of the caller.
        claims: Vec<Saying>,
    },
}

/// What will do; one of them is enough, and what else is there must be right, too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Means {
    /// A token of one of these issuers.
    pub issuers: Vec<String>,
    /// A token, of which this one is asked.
    pub introspection: Option<String>,
    /// A cookie whose value is such a token.
    pub cookie: Option<String>,
    /// An API key, in this field.
    pub key: Option<HeaderName>,
    /// The certificate of the client, by which it was let in over TLS.
    pub certificate: bool,
}

impl Means {
    fn has_tokens(&self) -> bool {
        !self.issuers.is_empty() || self.introspection.is_some()
    }
}

/// A field of an answer that is a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saying {
    pub field: HeaderName,
    pub claim: String,
    /// Its value is a list, with commas.
    pub list: bool,
}

/// Claims of somebody whose credentials are right.
pub(crate) type Claims = Arc<Map<String, Value>>;

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
    introspectors: Vec<Introspector>,
    /// Services that are asked who may ask, by name.
    gates: Vec<(String, AskedCounts)>,
    keys: Option<(PathBuf, ArcSwap<ApiKeys>)>,
}

impl Doorman {
    /// # Errors
    /// Says what is wrong with which file.
    pub(crate) fn new(all: &Settings) -> Result<Arc<Self>, String> {
        let settings = &all.auth;
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
            introspectors: Introspector::all(all)?,
            gates: gates(all),
            keys,
        }))
    }

    /// Of all who are asked.
    pub(crate) fn figures(&self) -> Vec<AskedFigures> {
        let gates = self.gates.iter().map(|(name, counts)| AskedFigures {
            kind: "service",
            name: name.clone(),
            outcomes: counts.outcomes(),
            times: counts.times(),
            tokens: None,
        });
        let about_tokens = self.introspectors.iter().map(Introspector::figures);
        about_tokens.chain(gates).collect()
    }

    /// What has come of a question to a service.
    fn counts(&self, core: usize, service: &str, asked: &Result<Asked, Refusal>, begun: Instant) {
        let came = match asked {
            Ok(Asked::Passes(_)) => Came::Passed,
            Ok(Asked::Answered(_)) => Came::Refused,
            Err(_) => Came::Failed,
        };
        if let Some((_, counts)) = self.gates.iter().find(|(name, _)| name == service) {
            counts.count(core, came, begun);
        }
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

/// Services that decide, of whichever routes.
fn gates(all: &Settings) -> Vec<(String, AskedCounts)> {
    let routes = all.slices.iter().flat_map(|slice| &slice.routes);
    let filters = routes.filter_map(|route| route.filters.as_deref());
    let rules = filters.chain(all.filters.as_deref());
    let names = rules.filter_map(|filters| match &filters.auth.as_ref()?.way {
        Way::Asked { service, .. } => Some(service.clone()),
        Way::Shown(_) => None,
    });
    let names: BTreeSet<String> = names.collect();
    let counts = || AskedCounts::new(all.workers.get());
    names.into_iter().map(|name| (name, counts())).collect()
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
    let means = match &rule.way {
        Way::Shown(means) => means,
        Way::Asked {
            service,
            path,
            copy,
            claims,
        } => {
            let (begun, what) = (Instant::now(), (&copy[..], &claims[..]));
            let asked = ask::ask(core, (service, path), what, parts).await;
            core.shared
                .doorman
                .counts(core.index, service, &asked, begun);
            return match asked? {
                Asked::Answered(answer) => Ok(Entry::Answered(answer)),
                Asked::Passes(claims) => {
                    policy::check(&rule.demands, &claims)?;
                    Ok(Entry::Open(caller(rule, &claims)))
                }
            };
        }
    };
    let doorman = &core.shared.doorman;
    let fields = &mut parts.headers;
    let shown = peer.certificate.shown().filter(|_| means.certificate);
    let given = means.key.as_ref().and_then(|name| fields.remove(name));
    headers::drop_twins(fields, means.key.iter());
    if !means.has_tokens() && !matches!(bearer(fields, false), Ok(None)) {
        // Nobody here can check it, and who reads it later might believe that somebody has.
        fields.remove(AUTHORIZATION);
    }
    let known = |claims: &Map<String, Value>| {
        if let (Some(trail), Some(name)) = (trail, claims.get("sub").and_then(Value::as_str)) {
            trail.called_by(name);
        }
    };
    let keyed = match given {
        None => None,
        Some(given) => {
            let keys = doorman.keys.as_ref().map(|(_, keys)| keys.load());
            let claims = keys.and_then(|keys| keys.claims(given.as_bytes()));
            Some(Claims::new(claims.ok_or(Denial::Key)?))
        }
    };
    // They go on to the side, so they are to be right also where something else decides.
    let proven = proven(core, means, fields).await?;
    let claims = match (keyed, proven) {
        (Some(keyed), _) => {
            known(&keyed);
            keyed
        }
        (None, Some(proven)) => proven,
        _ if let Some(shown) = shown => {
            known(&shown.claims);
            shown.claims.clone()
        }
        _ if rule.optional => return Ok(Entry::Open(None)),
        _ if !means.has_tokens() && means.key.is_none() => return Err(Denial::Certificate.into()),
        _ => {
            let bearer = means.has_tokens();
            return Err(Denial::Missing { bearer }.into());
        }
    };
    policy::check(&rule.demands, &claims)?;
    Ok(Entry::Open(caller(rule, &claims)))
}

/// The token of a request. Credentials of another kind are none; what a lenient service could take for a
/// token, and is not written as one, is an error: where tokens may look like anything (`opaque`), also
/// one word alone.
fn bearer(fields: &HeaderMap, opaque: bool) -> Result<Option<&str>, TokenError> {
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
    if opaque && token.is_empty() && !text.is_empty() {
        return Err(TokenError::Malformed);
    }
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

/// The claims of the tokens of a request, where it has some: of the one that says `Bearer`, else of the cookie's.
async fn proven(
    core: &Rc<Core>,
    means: &Means,
    fields: &HeaderMap,
) -> Result<Option<Claims>, Denial> {
    let opaque = means.introspection.is_some();
    let token = bearer(fields, opaque).map_err(Denial::Token)?;
    let claims = match token {
        Some(token) => Some(of_token(core, means, token).await?),
        None => None,
    };
    let (Some(by), Some(name)) = (&means.introspection, &means.cookie) else {
        return Ok(claims);
    };
    let session = introspect::session(fields, name).map_err(Denial::Token)?;
    let of_session = match session {
        Some(session) => Some(introspected(core, by, session).await?),
        None => None,
    };
    Ok(claims.or(of_session))
}

/// The claims of a token of one of these issuers, which one, it says itself, unproven, so that only
/// the keys of that one are asked for; of any other token, what is said of it where that is asked.
async fn of_token(core: &Rc<Core>, means: &Means, token: &str) -> Result<Claims, Denial> {
    let names = &means.issuers;
    let said = match names.is_empty() {
        true => Err(TokenError::Issuer),
        false => jwt::issuer(token),
    };
    let issuers = &core.shared.doorman.issuers;
    let issuer = issuers.iter().find(|issuer| {
        let settings = &issuer.settings;
        said.as_ref() == Ok(&settings.rule.issuer) && names.contains(&settings.name)
    });
    let issuer = match (issuer, &means.introspection) {
        (Some(issuer), _) => issuer,
        (None, Some(_)) if !introspect::is_token(token) => {
            return Err(Denial::Token(TokenError::Malformed));
        }
        (None, Some(by)) => return introspected(core, by, token).await,
        (None, None) => return Err(Denial::Token(said.err().unwrap_or(TokenError::Issuer))),
    };
    let claims = issuer.claims(token, seconds()).await;
    claims.map(Claims::new).map_err(|why| match why {
        Unproven::Token(why) => Denial::Token(why),
        Unproven::NoKeys => Denial::Unavailable("the keys of the issuer are not known yet"),
    })
}

/// What somebody says of a token.
async fn introspected(core: &Rc<Core>, by: &str, token: &str) -> Result<Claims, Denial> {
    let all = &core.shared.doorman.introspectors;
    let one = all.iter().find(|one| one.name() == by);
    let one = one.ok_or(Denial::Unavailable("nobody is there to be asked"))?;
    // In a box, so that who shows a token that is signed has no room for it.
    Box::pin(one.claims(core, token)).await
}

/// By the wall's clock, in seconds since 1970: tokens say theirs so.
fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
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
