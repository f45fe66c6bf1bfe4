//! What one core works with, and what all cores share.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use outgrow_rollout::key_hash;
use outgrow_shadow::Tap;
use tokio::sync::mpsc;

use crate::access::{CoreLog, Losses};
use crate::answer::status;
use crate::auth::Doorman;
use crate::cache::Cache;
use crate::clients::Clients;
use crate::cohort;
use crate::cookies::{ClientId, CookieKeys};
use crate::counts::builds::BuildCounts;
use crate::counts::refusals::RefusalCounts;
use crate::counts::routes::RouteCounts;
use crate::error::Refusal;
use crate::guard::ErrorEvent;
use crate::identity::Identities;
use crate::inbound::Desk;
use crate::pool::Cluster;
use crate::routes::RouteTable;
use crate::settings::Settings;
use crate::slice::Slice;
use crate::spans::{CoreSpans, Tallies};
use crate::tls::Certificates;
use crate::tls::client::Shown;
use crate::trace::Dice;
use crate::trust::{Trust, Word};
use crate::underway::UnderWay;
use crate::upstreams::Service;
use crate::upstreams::builds::Builds;

const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Shared by all cores; immutable but for what is atomic inside.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) table: RouteTable,
    pub(crate) slices: Vec<Arc<Slice>>,
    /// The legacy side first, then in the order of the settings.
    pub(crate) services: Vec<Arc<Service>>,
    /// Of services that have some.
    pub(crate) builds: Vec<Arc<Builds>>,
    /// Answers of the builds of the legacy side, where it has some.
    pub(crate) legacy_builds: Option<Arc<BuildCounts>>,
    pub(crate) tap: Option<Arc<dyn Tap>>,
    /// Where clients come in over TLS.
    pub(crate) tls: Option<Arc<Certificates>>,
    pub(crate) doorman: Arc<Doorman>,
    pub(crate) cookies: CookieKeys,
    pub(crate) errors: mpsc::Sender<ErrorEvent>,
    pub(crate) routes: RouteCounts,
    pub(crate) refusals: RefusalCounts,
    /// How clients spell names is of interest to a service.
    pub(crate) spells: bool,
    pub(crate) clients: Arc<Clients>,
    /// Those of no slice.
    pub(crate) writes: Arc<UnderWay>,
    /// Where answers are kept.
    pub(crate) cache: Option<Arc<Cache>>,
    /// Where there is an access log.
    pub(crate) lines_lost: Option<Arc<Losses>>,
    /// Where spans are told of.
    pub(crate) spans: Option<Arc<Tallies>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// One core.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    /// The legacy side first, then as the settings have them.
    pub(crate) clusters: Vec<Rc<Cluster>>,
    legacy: Rc<Crew>,
    /// By slice: the service that answers for it.
    extracted: Vec<Rc<Crew>>,
    /// By name.
    crews: Vec<(String, Rc<Crew>)>,
    pub(crate) identities: Option<Identities>,
    pub(crate) log: Option<CoreLog>,
    pub(crate) spans: Option<CoreSpans>,
    pub(crate) dice: Dice,
    pub(crate) desk: Desk,
}

impl Core {
    pub(crate) fn new(
        index: usize,
        shared: Arc<Shared>,
        (log, spans): (Option<CoreLog>, Option<CoreSpans>),
    ) -> Self {
        let cluster = |service: &Arc<Service>| {
            let limits = shared.settings.limits.clone();
            Rc::new(Cluster::new(index, service.clone(), limits))
        };
        let clusters: Vec<_> = shared.services.iter().map(cluster).collect();
        let crews = crews(&shared, &clusters);
        let named = |name: &String| crews.iter().find(|(crew, _)| crew == name);
        // The settings were checked: each slice has a service.
        let of_slice = |service| {
            let found = named(service).map(|(_, crew)| crew.clone());
            found.unwrap_or_else(|| Rc::new(Crew::alone(&clusters[0])))
        };
        let slices = shared.settings.slices.iter();
        let extracted = slices.map(|slice| of_slice(&slice.service)).collect();
        let legacy = of_slice(&shared.settings.legacy.name);
        let identities = shared.settings.identity.clone().map(Identities::new);
        Self {
            index,
            shared,
            clusters,
            legacy,
            extracted,
            crews,
            identities,
            log,
            spans,
            dice: Dice::default(),
            desk: Desk::default(),
        }
    }

    /// The legacy side, for a question of the proxy's own.
    pub(crate) fn legacy(&self) -> &Rc<Cluster> {
        self.legacy.of(None)
    }

    /// Who of the legacy side answers this client ([`Core::legacy_client`]), and which build that is,
    /// where it has several.
    pub(crate) fn legacy_to(&self, client: u64) -> (&Rc<Cluster>, Option<usize>) {
        let at = self.legacy.at(Some(client));
        let build = self.legacy.builds.is_some().then_some(at);
        (&self.legacy.clusters[at], build)
    }

    /// Who a client without a key and a cookie of ours is: its address. Who will keep a cookie is somebody of its
    /// own at once: behind one address there may be many, and they are to be split.
    pub(crate) fn client_id(&self, peer: &Peer, fields: &HeaderMap) -> ClientId {
        let address = self.shared.settings.trust.client(peer, fields);
        let keys = &self.shared.cookies;
        if let Some(brought) = fields.get(COOKIE) {
            return keys.of_cookies(address, brought.as_bytes());
        }
        // Browsers say it, of themselves alone (Fetch Metadata).
        if fields.contains_key(FETCH_MODE) {
            return ClientId::new([self.dice.next(), self.dice.next()]);
        }
        let id = || keys.of_address(address);
        match address == peer.ip {
            true => *peer.id.get_or_init(id),
            false => id(),
        }
    }

    /// By what a client of the legacy side is recognised among its builds: the same over all routes.
    /// Nothing is looked at where there are none.
    pub(crate) fn legacy_client(&self, fields: &HeaderMap, peer: &Peer) -> u64 {
        if self.legacy.builds.is_none() {
            return 0;
        }
        let settings = &self.shared.settings;
        let keys = &settings.legacy_clients.cohort;
        let name = &settings.legacy.name;
        let known = cohort::of_legacy(name, keys, &self.shared.cookies, fields);
        known.unwrap_or_else(|| key_hash(name, peer.client.as_bytes()))
    }

    /// Counts an answer of a build of the legacy side, or its absence.
    pub(crate) fn count_legacy(
        &self,
        (build, client): (Option<usize>, u64),
        status: Option<StatusCode>,
        outcome: (bool, Duration),
    ) {
        if let (Some(counts), Some(build)) = (&self.shared.legacy_builds, build) {
            counts.count((self.index, build, client), status, outcome);
        }
    }

    /// Counts a request that the proxy itself answers.
    pub(crate) fn refuses(&self, refusal: &Refusal) {
        self.shared.refusals.count(self.index, status(refusal).1);
    }

    /// Counts a connection, or the end of one, that came to no request: one of `NO_REQUEST`.
    pub(crate) fn lacks_request(&self, code: &'static str) {
        self.shared.refusals.count(self.index, code);
    }

    /// A service by its name, for a question of the proxy's own.
    pub(crate) fn named(&self, service: &str) -> Option<&Rc<Cluster>> {
        let (_, crew) = self.crews.iter().find(|(name, _)| name == service)?;
        Some(crew.of(None))
    }

    /// Who answers for a slice this client, by its cohort's hash, and the number of the build.
    pub(crate) fn extracted(&self, slice: usize, client: u64) -> (&Rc<Cluster>, usize) {
        let crew = &self.extracted[slice];
        let build = crew.at(Some(client));
        (&crew.clusters[build], build)
    }

    /// The number of the build that does so; 0 where there is one.
    pub(crate) fn build(&self, slice: usize, client: u64) -> usize {
        self.extracted[slice].at(Some(client))
    }
}

/// A service on one core: its upstreams, or those of each of its builds.
#[derive(Debug)]
struct Crew {
    clusters: Vec<Rc<Cluster>>,
    builds: Option<Arc<Builds>>,
}

impl Crew {
    fn alone(cluster: &Rc<Cluster>) -> Self {
        Self {
            clusters: vec![cluster.clone()],
            builds: None,
        }
    }

    fn at(&self, client: Option<u64>) -> usize {
        self.builds.as_ref().map_or(0, |builds| builds.at(client))
    }

    fn of(&self, client: Option<u64>) -> &Rc<Cluster> {
        &self.clusters[self.at(client)]
    }
}

/// All services, the legacy side first, as their clusters are.
fn crews(shared: &Shared, clusters: &[Rc<Cluster>]) -> Vec<(String, Rc<Crew>)> {
    let services = shared.services.iter().map(|service| &service.settings);
    let mut found: Vec<(String, Crew)> = Vec::new();
    for (service, cluster) in services.zip(clusters) {
        if let Some((_, crew)) = found.iter_mut().find(|(name, _)| *name == service.name) {
            crew.clusters.push(cluster.clone());
            continue;
        }
        let mut builds = shared.builds.iter();
        let crew = Crew {
            clusters: vec![cluster.clone()],
            builds: builds.find(|b| b.service() == service.name).cloned(),
        };
        found.push((service.name.clone(), crew));
    }
    let shared = found.into_iter().map(|(name, crew)| (name, Rc::new(crew)));
    shared.collect()
}

/// Where a request came from, written out once a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Who is connected, as the way up is told.
    pub(crate) address: HeaderValue,
    /// Who asks: the same, or whom a trusted proxy asks for. Limits, logs and rings go by it.
    pub(crate) client: HeaderValue,
    pub(crate) ip: IpAddr,
    /// Who that is, once somebody has asked.
    pub(crate) id: OnceCell<ClientId>,
    /// How it stands in `Forwarded`, where an IPv6 address is quoted.
    pub(crate) node: HeaderValue,
    pub(crate) word: Word,
    pub(crate) scheme: Scheme,
    pub(crate) certificate: Certificate,
}

/// The certificate of a client.
#[derive(Debug, Clone)]
pub(crate) enum Certificate {
    /// Nobody is asked for one, so what a proxy in front says of it is its own matter.
    NotAsked,
    Nobodys,
    Shown(Rc<Shown>),
}

impl Certificate {
    pub(crate) fn shown(&self) -> Option<&Rc<Shown>> {
        match self {
            Self::Shown(shown) => Some(shown),
            Self::NotAsked | Self::Nobodys => None,
        }
    }
}

/// What a client's connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Peer {
    pub(crate) fn new(address: IpAddr, scheme: Scheme, trust: &Trust) -> Self {
        let value = |text: String| {
            HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unknown"))
        };
        let text = value(address.to_string());
        Self {
            node: match address {
                IpAddr::V4(_) => text.clone(),
                IpAddr::V6(six) => value(format!("\"[{six}]\"")),
            },
            client: text.clone(),
            address: text,
            ip: address,
            id: OnceCell::new(),
            word: trust.word(address),
            scheme,
            certificate: Certificate::NotAsked,
        }
    }

    /// With whom it asks for.
    pub(crate) fn asking_for(&self, client: IpAddr) -> Self {
        let text = HeaderValue::try_from(client.to_string());
        Self {
            client: text.unwrap_or_else(|_| self.client.clone()),
            ..self.clone()
        }
    }
}
