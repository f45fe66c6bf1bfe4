//! What a proxy is told at its start. Plain data; [`Settings::problems`] checks it as a whole.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use outgrow_rollout::{GuardLimits, SliceId};

use crate::access::AccessLog;
use crate::auth::{AuthSettings, Means, Way};
use crate::cache::CacheSettings;
use crate::filters::Filters;
use crate::limit::Limiter;
use crate::limits::Limits;
use crate::overrides::Overrides;
use crate::pages::ErrorPage;
use crate::routes::RouteTable;
use crate::rules::ServiceSettings;
use crate::sources::DnsSettings;
use crate::spans::SpanExport;
use crate::tls::TlsSettings;
use crate::trace::TraceSettings;
use crate::trust::Trust;
use crate::upstreams::balance::UPSTREAMS_MAX;

/// A whole proxy. `listen` and `legacy` alone make a pass-through.
#[derive(Debug, Clone)]
pub struct Settings {
    /// In clear text.
    pub listen: Vec<SocketAddr>,
    pub tls: Option<TlsSettings>,
    /// Data plane threads.
    pub workers: NonZeroUsize,
    /// Where it has several builds, the first of them.
    pub legacy: ServiceSettings,
    /// Of these builds.
    pub legacy_clients: LegacyClients,
    /// What slices name, and the other builds of the legacy side, under its name.
    pub services: Vec<ServiceSettings>,
    pub slices: Vec<SliceSettings>,
    pub dns: DnsSettings,
    pub limits: Limits,
    pub trust: Trust,
    /// How many requests, of all routes together; those of filters hold beside it.
    pub limit: Option<Arc<Limiter>>,
    /// Where filters want answers kept.
    pub cache: Option<CacheSettings>,
    /// Of what belongs to no slice.
    pub filters: Option<Arc<Filters>>,
    /// Whose word on who asks is believed.
    pub auth: AuthSettings,
    /// In place of the proxy's own answers; the first that fits.
    pub error_pages: Vec<ErrorPage>,
    pub identity: Option<IdentitySettings>,
    /// What the proxy's own cookies are signed with: by the first one; those of the others are known, too.
    /// Proxies that are to decide alike have the same. Without any, no cookies are issued.
    pub cookie_keys: Vec<Secret>,
    /// What becomes of fields by which some servers take a request for another one.
    pub overrides: Overrides,
    /// Lets testers choose a side by header; `None` turns that off.
    pub override_secret: Option<Secret>,
    /// `None`: requests are not logged.
    pub access_log: Option<AccessLog>,
    pub trace: TraceSettings,
    /// `None`: nobody is told of spans.
    pub spans: Option<SpanExport>,
    /// Keeps the last state over a restart; `None` keeps nothing.
    pub state_file: Option<PathBuf>,
}

/// How the clients of the legacy side are shared among its builds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LegacyClients {
    /// Tried in order; else a cookie of the proxy's own, else the address.
    pub cohort: Vec<CohortKey>,
    /// How a build on trial is judged.
    pub guard: GuardLimits,
}

/// Routes that move together.
#[derive(Debug, Clone)]
pub struct SliceSettings {
    pub id: SliceId,
    /// The name of the service that answers for it.
    pub service: String,
    pub routes: Vec<RouteSettings>,
    /// Tried in order; else a cookie of the proxy's own.
    pub cohort: Vec<CohortKey>,
    /// Same salt, same split: slices that must move a client together share one.
    pub salt: String,
    pub guard: GuardLimits,
    /// Whether the legacy side answers a read that the extracted side failed.
    pub fallback: bool,
}

/// `METHOD [HOST]/PATH/{TEMPLATE}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSettings {
    pub method: Method,
    /// Lower case, without a port.
    pub host: Option<String>,
    /// `/a/{id}/b`, or with `{*rest}` at its end.
    pub template: String,
    pub filters: Option<Arc<Filters>>,
}

impl fmt::Display for RouteSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.as_deref().unwrap_or_default();
        write!(f, "{} {host}{}", self.method, self.template)
    }
}

/// By what a client is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CohortKey {
    Header(http::HeaderName),
    Cookie(String),
}

/// How the extracted services learn who calls.
#[derive(Debug, Clone)]
pub struct IdentitySettings {
    /// The legacy session cookie.
    pub cookie: String,
    /// The legacy path that says whose session it is.
    pub whoami: String,
    pub secret: Secret,
    /// An answer is believed this long.
    pub ttl: Duration,
}

/// Bytes that nobody prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Compares in a time that does not depend on where the difference is.
    pub(crate) fn is(&self, given: &[u8]) -> bool {
        let differs = self
            .0
            .iter()
            .zip(given)
            .fold(0, |seen, (a, b)| seen | (a ^ b));
        self.0.len() == given.len() && differs == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// One thing that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("no address to listen on")]
    NoListener,
    #[error("no certificate to show over TLS")]
    NoCertificate,
    #[error("no legacy upstream")]
    NoLegacy,
    #[error("slice `{0}` has no service")]
    NoService(SliceId),
    #[error("service `{0}` has no upstream")]
    NoUpstream(String),
    #[error("service `{0}` has more than {UPSTREAMS_MAX} upstreams")]
    ManyUpstreams(String),
    #[error("`{route}` of slice `{slice}` is also `{other}` of slice `{other_slice}`")]
    Overlap {
        slice: SliceId,
        route: String,
        other_slice: SliceId,
        other: String,
    },
    #[error("routes ask for {0}, and there is none of that name")]
    Auth(String),
    #[error("`{template}`: {what}")]
    Template {
        template: String,
        what: &'static str,
    },
}

impl Settings {
    /// Which of the services answers for a slice.
    pub(crate) fn service_of(&self, slice: &SliceSettings) -> Option<usize> {
        let named = |service: &ServiceSettings| service.name == slice.service;
        self.services.iter().position(named)
    }

    /// How many builds a service has; 0 where it is one.
    pub(crate) fn builds(&self, service: &str) -> usize {
        let all = self.services.iter().chain([&self.legacy]);
        let of = all.filter(|one| one.name == service);
        of.filter(|one| one.build.is_some()).count()
    }

    /// What filters name and nobody has set up.
    fn missing(&self, filters: &Filters) -> Vec<String> {
        let Some(rule) = &filters.auth else {
            return Vec::new();
        };
        match &rule.way {
            Way::Asked { service, .. } => {
                let known = self.services.iter().any(|one| one.name == *service);
                let missing = (!known).then(|| format!("the service `{service}`"));
                missing.into_iter().collect()
            }
            Way::Shown(means) => self.missing_means(means),
        }
    }

    fn missing_means(&self, means: &Means) -> Vec<String> {
        let auth = &self.auth;
        let known = |name: &String| auth.issuers.iter().any(|one| one.name == *name);
        let missing = means.issuers.iter().filter(|name| !known(name));
        let missing = missing.map(|name| format!("the issuer `{name}`"));
        let is_asked = |name: &&String| auth.introspection.iter().any(|one| one.name == **name);
        let asked = means.introspection.iter().filter(|name| !is_asked(name));
        let asked = asked.map(|name| format!("the introspection `{name}`"));
        let keys = means.key.is_some() && auth.api_keys.is_none();
        let clients = self.tls.as_ref().and_then(|tls| tls.clients.as_ref());
        let clients = means.certificate && clients.is_none();
        missing
            .chain(asked)
            .chain(keys.then(|| "a file of API keys".to_owned()))
            .chain(clients.then(|| "authorities of client certificates".to_owned()))
            .collect()
    }

    /// Everything that is wrong, at once.
    pub fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let tls = self.tls.as_ref().map_or(&[][..], |tls| &tls.listen);
        if self.listen.is_empty() && tls.is_empty() {
            found.push(Problem::NoListener);
        }
        if self
            .tls
            .as_ref()
            .is_some_and(|tls| tls.certificates.is_empty())
        {
            found.push(Problem::NoCertificate);
        }
        if self.legacy.upstreams.is_empty() {
            found.push(Problem::NoLegacy);
        }
        let bare = self.services.iter().filter(|s| s.upstreams.is_empty());
        found.extend(bare.map(|service| Problem::NoUpstream(service.name.clone())));
        let all = self.services.iter().chain([&self.legacy]);
        let many = all.filter(|service| service.upstreams.len() > UPSTREAMS_MAX);
        found.extend(many.map(|service| Problem::ManyUpstreams(service.name.clone())));
        let lost = self.slices.iter().filter(|s| self.service_of(s).is_none());
        found.extend(lost.map(|slice| Problem::NoService(slice.id.clone())));
        let routes = self.slices.iter().flat_map(|slice| &slice.routes);
        let filters = routes.map(|route| route.filters.as_deref());
        let filters = filters.chain([self.filters.as_deref()]).flatten();
        for missing in filters.flat_map(|filters| self.missing(filters)) {
            let problem = Problem::Auth(missing);
            if !found.contains(&problem) {
                found.push(problem);
            }
        }
        if let Err(problems) = RouteTable::build(&self.slices) {
            found.extend(problems);
        }
        found
    }
}
