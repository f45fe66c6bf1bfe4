//! What one core works with, and what all cores share.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use outgrow_shadow::Tap;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::access::{CoreLog, Losses};
use crate::answer::status;
use crate::auth::Doorman;
use crate::cache::Cache;
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
use crate::trace::Dice;
use crate::trust::{Trust, Word};
use crate::upstreams::Service;

/// Shared by all cores; immutable but for what is atomic inside.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) table: RouteTable,
    pub(crate) slices: Vec<Arc<Slice>>,
    /// The legacy side first, then in the order of the settings.
    pub(crate) services: Vec<Arc<Service>>,
    pub(crate) tap: Option<Arc<dyn Tap>>,
    /// Where clients come in over TLS.
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) doorman: Arc<Doorman>,
    pub(crate) errors: mpsc::Sender<ErrorEvent>,
    pub(crate) routes: RouteCounts,
    pub(crate) refusals: RefusalCounts,
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
    /// By slice: the service that answers for it.
    extracted: Vec<Rc<Cluster>>,
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
        // The settings were checked: each slice has a service.
        let of_slice = |slice| {
            shared
                .settings
                .service_of(slice)
                .map_or(0, |index| index + 1)
        };
        let slices = shared.settings.slices.iter();
        let extracted = slices
            .map(|slice| clusters[of_slice(slice)].clone())
            .collect();
        let identities = shared.settings.identity.clone().map(Identities::new);
        Self {
            index,
            shared,
            clusters,
            extracted,
            identities,
            log,
            spans,
            dice: Dice::default(),
            desk: Desk::default(),
        }
    }

    pub(crate) fn legacy(&self) -> &Rc<Cluster> {
        &self.clusters[0]
    }

    /// Counts a request that the proxy itself answers.
    pub(crate) fn refuses(&self, refusal: &Refusal) {
        self.shared.refusals.count(self.index, status(refusal).1);
    }

    /// Counts a connection, or the end of one, that came to no request: one of `NO_REQUEST`.
    pub(crate) fn lacks_request(&self, code: &'static str) {
        self.shared.refusals.count(self.index, code);
    }

    /// A service by its name.
    pub(crate) fn named(&self, service: &str) -> Option<&Rc<Cluster>> {
        let services = &self.shared.settings.services;
        let index = services.iter().position(|one| one.name == service)?;
        self.clusters.get(index + 1)
    }

    pub(crate) fn extracted(&self, slice: usize) -> &Rc<Cluster> {
        &self.extracted[slice]
    }
}

/// Where a request came from, written out once a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// The client's address.
    pub(crate) address: HeaderValue,
    /// How it stands in `Forwarded`, where an IPv6 address is quoted.
    pub(crate) node: HeaderValue,
    pub(crate) word: Word,
    pub(crate) scheme: Scheme,
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
            address: text,
            word: trust.word(address),
            scheme,
        }
    }
}
