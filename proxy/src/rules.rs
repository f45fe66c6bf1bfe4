//! What a proxy is told of a service: its upstreams, and how requests are shared among them.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, StatusCode};
use outgrow_rollout::BuildName;
use outgrow_shadow::Places;

use crate::sources::Source;
use crate::spelling::FieldNames;
use crate::tls::CertificateFiles;

/// A service: upstreams of which any may answer.
#[derive(Debug, Clone)]
pub struct ServiceSettings {
    /// What slices call it.
    pub name: String,
    /// Where it has several, each of which is told of by itself under the same name; the first is active
    /// until control says another. They share `places`, which are the active one's.
    pub build: Option<BuildName>,
    /// Who says where they are; 64 are used at a time.
    pub upstreams: Vec<Source>,
    pub rules: UpstreamRules,
    /// Told where they are, whenever that changes.
    pub places: Places,
}

/// How requests are shared among the upstreams of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamRules {
    pub balance: Balance,
    /// What a ring goes by; else the client's cohort, or its address outside of slices.
    pub hash_by: Option<HeaderName>,
    /// `None` asks an upstream however often it fails.
    pub ejection: Option<Ejection>,
    /// `None` asks nobody how it is.
    pub health: Option<Health>,
    /// `None` sends to a service however much fails.
    pub breaker: Option<BreakerRule>,
    /// `None` sends nothing again that an upstream may have seen.
    pub retries: Option<Retries>,
    /// Of each upstream; `None` bounds nothing.
    pub limits: Option<UpstreamLimits>,
    /// To the head of the answer, all tries included; else that of the proxy.
    pub timeout: Option<Duration>,
    pub transport: Transport,
    pub field_names: FieldNames,
}

impl Default for UpstreamRules {
    fn default() -> Self {
        Self {
            balance: Balance::PowerOfTwo,
            hash_by: None,
            ejection: Some(Ejection::default()),
            health: None,
            breaker: None,
            retries: None,
            limits: None,
            timeout: None,
            transport: Transport::default(),
            field_names: FieldNames::default(),
        }
    }
}

/// How the proxy speaks with the upstreams of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transport {
    /// `None` speaks in clear text.
    pub tls: Option<UpstreamTls>,
    pub protocol: Protocol,
}

/// Which HTTP an upstream is asked in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    #[default]
    Http1,
    /// Also in clear text, where both sides must know it before (RFC 9113 section 3.3).
    Http2,
    /// As each connection agrees (ALPN); in clear text HTTP/1.1.
    Auto,
}

impl Protocol {
    /// Names as the config has them.
    pub const ALL: [(&'static str, Self); 3] = [
        ("http1", Self::Http1),
        ("h2", Self::Http2),
        ("auto", Self::Auto),
    ];
}

/// TLS with the upstreams of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// In place of the authorities that the machine trusts.
    pub ca: Option<PathBuf>,
    /// Shown to upstreams that want to know who asks.
    pub client: Option<CertificateFiles>,
    /// What their certificates are for; else the host of each address.
    pub name: Option<String>,
    /// How often the files are looked at.
    pub reload: Duration,
}

impl UpstreamTls {
    /// All that it names.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let pair = self.client.iter().flat_map(CertificateFiles::files);
        self.ca.iter().cloned().chain(pair).collect()
    }
}

impl Default for UpstreamTls {
    fn default() -> Self {
        Self {
            ca: None,
            client: None,
            name: None,
            reload: Duration::from_secs(10),
        }
    }
}

/// Which of several upstreams gets a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// Of two by chance the one that answered faster lately and has less to do.
    PowerOfTwo,
    RoundRobin,
    /// The one with the fewest requests in flight.
    LeastRequests,
    /// Always the same one for the same key, as long as it is well.
    RingHash,
}

impl Balance {
    /// Names as the config has them.
    pub const ALL: [(&'static str, Self); 4] = [
        ("p2c", Self::PowerOfTwo),
        ("round-robin", Self::RoundRobin),
        ("least-requests", Self::LeastRequests),
        ("ring-hash", Self::RingHash),
    ];

    pub fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, balance)| *balance == self);
        found.map_or("", |(name, _)| name)
    }
}

/// When an upstream is left alone for a while. The last one that is well never is.
#[derive(Debug, Clone, PartialEq)]
pub struct Ejection {
    /// Failures in a row: no connection, no answer, or a 5xx.
    pub failures: u32,
    /// The first time; as many times as long when it happens again.
    pub time: Duration,
    pub time_max: Duration,
    /// Of the upstreams, at the same time; one may go in any case.
    pub share_max: f64,
}

impl Default for Ejection {
    /// As Envoy has it, but for the share: a tenth of three upstreams would be none.
    fn default() -> Self {
        Self {
            failures: 5,
            time: Duration::from_secs(30),
            time_max: Duration::from_secs(300),
            share_max: 0.5,
        }
    }
}

/// What an upstream is asked by a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Answered with a 2xx or 3xx by who is well.
    Path(String),
    /// A gRPC service, by the protocol that gRPC has for it (`grpc.health.v1.Health/Check`); "" is
    /// the server as a whole. At most [`Check::NAME_MAX`] bytes.
    Grpc(String),
}

impl Check {
    /// Bytes of a service's name; real ones have a quarter of that.
    pub const NAME_MAX: usize = 100;
}

/// How an upstream is asked whether it is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub check: Check,
    pub every: Duration,
    /// To the answer's head, or of a call to its end, connecting included.
    pub timeout: Duration,
    /// Good checks in a row after which an ill upstream is well.
    pub healthy_after: u32,
    /// Bad checks in a row after which an upstream is ill.
    pub unhealthy_after: u32,
}

impl Health {
    /// The usual checks of this path. Two in a row against one that is lost on the way.
    pub fn at(path: impl Into<String>) -> Self {
        Self {
            check: Check::Path(path.into()),
            every: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            healthy_after: 2,
            unhealthy_after: 2,
        }
    }
}

/// When a service is spared.
#[derive(Debug, Clone, PartialEq)]
pub struct BreakerRule {
    /// Failures in a row, over all upstreams; 0 does not go by them.
    pub failures: u32,
    /// The least share of requests within the window that must go well; 0 does not go by it.
    pub success_rate: f64,
    /// Requests within the window below which its share says nothing.
    pub requests_min: u32,
    pub window: Duration,
    /// How long it stays open the first time; twice as long each time the probe fails.
    pub open: Duration,
    pub open_max: Duration,
}

impl Default for BreakerRule {
    /// More in a row than what ejects an upstream, which comes first where there are several.
    fn default() -> Self {
        Self {
            failures: 10,
            success_rate: 0.5,
            requests_min: 20,
            window: Duration::from_secs(10),
            open: Duration::from_secs(5),
            open_max: Duration::from_secs(60),
        }
    }
}

/// When a request is sent again that an upstream may have seen: an idempotent one.
#[derive(Debug, Clone, PartialEq)]
pub struct Retries {
    /// Of one request, beside the first try.
    pub attempts: u32,
    /// Of all requests, how many may be sent again.
    pub share: f64,
    /// After this much time another try is made; the last one has all the time that is left.
    pub per_try_timeout: Option<Duration>,
    /// Answers that are asked for again.
    pub statuses: Vec<StatusCode>,
    /// Bytes of a body that are kept while it goes up; a request with a longer one is sent once. 0 keeps
    /// none.
    pub body_max: usize,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 1,
            share: 0.2,
            per_try_timeout: None,
            // By these an upstream says that it is not the one to ask. A 500 is an answer.
            statuses: vec![
                StatusCode::BAD_GATEWAY,
                StatusCode::SERVICE_UNAVAILABLE,
                StatusCode::GATEWAY_TIMEOUT,
            ],
            // Most of what PUT brings; as linkerd has it.
            body_max: 64 * 1_024,
        }
    }
}

/// How much one upstream gets at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamLimits {
    /// In use, by all cores together.
    pub connections: usize,
    /// Requests that wait for one of them; more are refused with 503 and `Retry-After`.
    pub waiting: usize,
    /// And for how long they wait.
    pub wait: Duration,
}

impl ServiceSettings {
    /// With the usual rules.
    pub fn new<S: Into<Source>>(name: impl Into<String>, upstreams: Vec<S>) -> Self {
        Self {
            name: name.into(),
            build: None,
            upstreams: upstreams.into_iter().map(Into::into).collect(),
            rules: UpstreamRules::default(),
            places: Places::default(),
        }
    }
}
