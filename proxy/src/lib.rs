//! Carries all traffic: listens, matches, splits, holds, forwards, taps.
//!
//! Knows no database and no bridge. One current-thread runtime per core with its own listener and
//! its own upstream connections; what cores share is read through one pointer per slice.

mod access;
mod answer;
mod asking;
mod auth;
mod body;
mod cache;
mod chunks;
mod clients;
mod cohort;
mod connection;
mod cookies;
mod core;
mod counts;
mod deadline;
mod dial;
mod doors;
mod error;
mod filters;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod grpc;
mod guard;
mod handle;
mod headers;
mod hold;
mod identity;
mod inbound;
mod kinds;
mod limit;
mod limits;
mod moment;
mod overrides;
mod pages;
mod pool;
mod preface;
mod press;
mod readings;
mod recent;
mod relink;
mod reply;
mod routes;
mod rules;
mod saved;
mod server;
mod settings;
mod slice;
mod sources;
mod spans;
mod spelling;
mod stages;
mod telling;
mod tls;
mod trace;
mod trail;
mod trust;
mod tunnel;
mod underway;
mod upstreams;
mod visit;
mod wire;

pub use access::{AccessLog, LogFormat};
pub use auth::{
    Algorithm, ApiKeys, AuthRule, AuthSettings, Credentials, Demand, IntrospectionSettings,
    IssuerSettings, KeySource, Means, Saying, TokenRule, Way,
};
pub use cache::{CacheRule, CacheSettings};
pub use dial::{ReachError, reach};
pub use doors::Listening;
pub use error::{BindError, HoldError};
pub use filters::{
    BodyLinks, Compression, Cors, CorsRule, Edit, Edits, Fallback, Filters, Link, MediaRange,
    Origin, PathRule,
};
pub use guard::{Act, Lowered, TakenBack};
pub use handle::{Explanation, Handle};
pub use identity::{Nobody, who_is_nobody};
pub use limit::{Limiter, RateKey, RateRule};
pub use limits::{Allowance, Limits};
pub use overrides::Overrides;
pub use pages::{ERROR_CODES, ErrorPage};
pub use press::Coding;
pub use rules::{
    Balance, BreakerRule, Check, Ejection, Health, Protocol, Retries, ServiceSettings, Transport,
    UpstreamLimits, UpstreamRules, UpstreamTls,
};
pub use server::{DrainReport, Proxy, Running};
pub use settings::{
    CohortKey, IdentitySettings, LegacyClients, Problem, RouteSettings, Secret, Settings,
    SliceSettings,
};
pub use sources::{
    Consul, DnsSettings, EndpointPort, Eureka, Family, FileList, Kubernetes, Source,
};
pub use spans::{SpanExport, endpoint};
pub use spelling::FieldNames;
pub use tls::{CertificateError, CertificateFiles, ClientAuth, Revocation, TlsSettings};
pub use trace::{Timing, TraceSettings};
pub use trust::{Network, Trust};
pub use upstreams::address::{Address, AddressError};
pub use upstreams::discovery::look_up;
