//! What a checked config says, as plain data. Whoever holds a [`Config`] checks nothing again.
//!
//! Paths are absolute or relative to the working directory (the config file's folder is already
//! joined on), every service that a slice names exists, and no two routes overlap. Whether a
//! database has the tables and whether a JSON path parses is for the crates that use them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outgrow_bridge::{Ambiguous, Zone};
use outgrow_proxy::Source as Upstream;
use outgrow_proxy::{AccessLog, DnsSettings, TlsSettings, TraceSettings, Trust, UpstreamRules};
use outgrow_rollout::{BuildName, GuardLimits, Plan, SliceId};

use super::events::Events;
use super::problem::Problem;
use super::secret::Secret;

/// What the legacy side is called among services.
pub(crate) const LEGACY: &str = "legacy";

/// A checked config file.
#[derive(Debug)]
pub(crate) struct Config {
    /// The file that it was read from, for messages.
    pub(crate) file: PathBuf,
    pub(crate) proxy: Proxy,
    pub(crate) legacy: Legacy,
    pub(crate) control: Control,
    pub(crate) shadow: Shadow,
    pub(crate) services: BTreeMap<String, Service>,
    /// In the order of the file.
    pub(crate) slices: Vec<Slice>,
    /// What is allowed but probably not meant.
    pub(crate) warnings: Vec<Problem>,
}

impl Config {
    #[cfg(test)]
    pub(crate) fn slice(&self, id: &str) -> Option<&Slice> {
        self.slices.iter().find(|slice| slice.id.as_str() == id)
    }

    /// The service that answers for a slice.
    pub(crate) fn service_of(&self, slice: &Slice) -> Option<&Service> {
        self.services.get(&slice.service)
    }
}

/// `[proxy]`: where clients come in, and how long anything may take.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// In clear text; none where there is TLS instead.
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) tls: Option<TlsSettings>,
    /// Data plane threads; `None` means one per core.
    pub(crate) workers: Option<usize>,
    /// To the head of an upstream's answer.
    pub(crate) request_timeout: Duration,
    /// To a connection with an upstream.
    pub(crate) connect_timeout: Duration,
    /// A write waits this long for a cutover before it is refused with 503 and `Retry-After`.
    pub(crate) hold_timeout: Duration,
    /// Requests in flight may go on this long after SIGTERM.
    pub(crate) drain_timeout: Duration,
    /// How much a request may bring, and how long its client is waited for; its times above are not
    /// in it yet.
    pub(crate) limits: outgrow_proxy::Limits,
    /// Whom the proxy believes what about clients.
    pub(crate) trust: Trust,
    /// Of all requests together.
    pub(crate) limit: Option<Arc<outgrow_proxy::Limiter>>,
    /// Where answers are kept.
    pub(crate) cache: Option<outgrow_proxy::CacheSettings>,
    /// Of what belongs to no slice.
    pub(crate) filters: Option<Arc<outgrow_proxy::Filters>>,
    pub(crate) auth: outgrow_proxy::AuthSettings,
    pub(crate) error_pages: Vec<outgrow_proxy::ErrorPage>,
    /// Sign the proxy's own cookies, the first one anew; none where the program has a key of its own.
    pub(crate) cookie_keys: Vec<Secret>,
    /// What becomes of fields by which some servers take a request for another one.
    pub(crate) overrides: outgrow_proxy::Overrides,
    /// Allows testers to choose a side by header; `None` turns that off.
    pub(crate) override_secret: Option<Secret>,
    /// `None`: the extracted services are told nothing of the caller.
    pub(crate) identity: Option<Identity>,
    /// `None`: requests are not logged.
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) trace: TraceSettings,
    /// `None`: nobody is told of spans.
    pub(crate) spans: Option<outgrow_proxy::SpanExport>,
    pub(crate) dns: DnsSettings,
}

/// `[proxy.identity]`: how the extracted services learn who calls.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The legacy session cookie.
    pub(crate) cookie: String,
    /// The legacy path that says whose session it is.
    pub(crate) whoami: String,
    /// Signs the identity header.
    pub(crate) secret: Secret,
    /// An answer of `whoami` is believed this long.
    pub(crate) ttl: Duration,
}

/// `[legacy]`: the monolith.
#[derive(Debug)]
pub(crate) struct Legacy {
    /// None where it has builds.
    pub(crate) urls: Vec<outgrow_proxy::Source>,
    /// In the order of the file.
    pub(crate) builds: Vec<Build>,
    /// By what clients are shared among the builds.
    pub(crate) cohort: Vec<Cohort>,
    /// How a build on trial is judged.
    pub(crate) guard: GuardLimits,
    pub(crate) rules: UpstreamRules,
    /// Present when any slice has tables.
    pub(crate) database: Option<Database>,
}

/// `[control]`: the state and the admin API.
#[derive(Debug)]
pub(crate) struct Control {
    /// A loopback address.
    pub(crate) listen: SocketAddr,
    pub(crate) store: Database,
    /// Made with a random token when `serve` finds none.
    pub(crate) token_file: PathBuf,
}

/// `[shadow]`: what all slices share in comparing.
#[derive(Debug)]
pub(crate) struct Shadow {
    /// Response header by which a side names its build.
    pub(crate) build_header: String,
}

impl Config {
    /// Services with builds, by name, the legacy side first.
    pub(crate) fn built(&self) -> Vec<(&str, Vec<BuildName>)> {
        let services = self.services.iter();
        let services = services.map(|(name, service)| (name.as_str(), &service.builds));
        let all = std::iter::once((LEGACY, &self.legacy.builds)).chain(services);
        let built = all.filter(|(_, builds)| !builds.is_empty());
        let names = |builds: &[Build]| builds.iter().map(|build| build.name.clone()).collect();
        built.map(|(name, builds)| (name, names(builds))).collect()
    }
}

impl Legacy {
    /// Its upstreams, or those of each build.
    pub(crate) fn parts(&self) -> Vec<(Option<&BuildName>, &Vec<Upstream>)> {
        parts(&self.urls, &self.builds)
    }
}

fn parts<'a>(
    urls: &'a Vec<Upstream>,
    builds: &'a [Build],
) -> Vec<(Option<&'a BuildName>, &'a Vec<Upstream>)> {
    match builds {
        [] => vec![(None, urls)],
        builds => builds
            .iter()
            .map(|build| (Some(&build.name), &build.urls))
            .collect(),
    }
}

/// `[services.NAME]`: an extracted service.
#[derive(Debug)]
pub(crate) struct Service {
    /// None where it has builds.
    pub(crate) urls: Vec<outgrow_proxy::Source>,
    /// In the order of the file.
    pub(crate) builds: Vec<Build>,
    pub(crate) rules: UpstreamRules,
    /// Present when a slice of this service has tables.
    pub(crate) database: Option<Database>,
}

impl Service {
    /// Its upstreams, or those of each build.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (Option<&BuildName>, &Vec<Upstream>)> {
        parts(&self.urls, &self.builds).into_iter()
    }
}

/// `[services.NAME.builds.BUILD]`: one of several of a service.
#[derive(Debug, Clone)]
pub(crate) struct Build {
    pub(crate) name: BuildName,
    pub(crate) urls: Vec<Upstream>,
}

/// `[slices.ID.sync]`: how a slice's tables are kept in step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SliceSync {
    /// Which sides take writes of the tables, and what becomes of conflicts.
    pub(crate) writes: outgrow_bridge::Writes,
    /// What is verified again and again.
    pub(crate) verify: Option<outgrow_bridge::Watch>,
    /// Rows that the backfill copies in a second at the most.
    pub(crate) copy_rate: Option<std::num::NonZeroU32>,
    /// Chunks of the backfill that are copied side by side, between two PostgreSQLs.
    pub(crate) copy_parallel: std::num::NonZeroU32,
    /// The backfill waits while following is further behind.
    pub(crate) copy_lag: std::time::Duration,
    /// Statements of others beyond which copies and verifications wait.
    pub(crate) max_running: outgrow_bridge::MaxRunning,
    /// Bytes of its log that a server may keep for the link.
    pub(crate) log_limit: u64,
    /// Rows that one repair may write.
    pub(crate) repair_limit: usize,
    /// How the writer's transactions come to the other side.
    pub(crate) transactions: outgrow_bridge::Transactions,
    /// Bytes of changes that a database may keep for it.
    pub(crate) noted_limit: u64,
}

/// `[slices.ID]`: routes and tables that move together.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) id: SliceId,
    /// A key of [`Config::services`].
    pub(crate) service: String,
    pub(crate) routes: Vec<Route>,
    /// Tried in order; a client without any gets a cookie of the proxy's own.
    pub(crate) cohort: Vec<Cohort>,
    pub(crate) tables: Vec<Table>,
    pub(crate) sync: SliceSync,
    pub(crate) shadow: SliceShadow,
    pub(crate) plan: Plan,
    pub(crate) guard: GuardLimits,
    /// Whether a read that the extracted side fails is asked again of the legacy side while the
    /// legacy side is kept in step.
    pub(crate) fallback: bool,
    /// Where the changes of its rows are told.
    pub(crate) events: Option<Events>,
}

/// `METHOD [HOST]/PATH/{TEMPLATE}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) method: http::Method,
    /// Lower case, without a port; `None` means any.
    pub(crate) host: Option<String>,
    pub(crate) path: String,
    /// Its own or the slice's.
    pub(crate) filters: Option<Arc<outgrow_proxy::Filters>>,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.as_deref().unwrap_or_default();
        write!(f, "{} {host}{}", self.method, self.path)
    }
}

/// By what a client is recognised when reads are split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cohort {
    Cookie(String),
    Header(String),
}

impl fmt::Display for Cohort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Header(name) => write!(f, "header:{name}"),
        }
    }
}

/// `[[slices.ID.tables]]`: an extracted table and the legacy table that feeds it.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) legacy: String,
    pub(crate) extracted: String,
    /// Legacy columns, each of which makes an extracted column alone.
    pub(crate) key: Vec<String>,
    /// In the order of the file.
    pub(crate) columns: Vec<Column>,
    /// Legacy columns that no extracted column feeds, with the value that a new row gets when
    /// rows flow back.
    pub(crate) defaults: Vec<(String, serde_json::Value)>,
    /// Which legacy rows belong to the table; `None` is all of them.
    pub(crate) rows: Option<Rows>,
    /// Legacy tables with the same key that add columns.
    pub(crate) also: Vec<Also>,
    pub(crate) zero_dates: ZeroDates,
}

/// What becomes of the `0000-00-00` of a legacy table of MySQL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum ZeroDates {
    #[default]
    Keep,
    Refuse,
    Null,
}

/// A legacy table beside the first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Also {
    pub(crate) table: String,
    /// Its columns that hold the first table's key.
    pub(crate) key: Vec<String>,
    /// It may have no row.
    pub(crate) optional: bool,
}

/// Legacy rows, told from the others by one column.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) column: String,
    pub(crate) values: Vec<serde_json::Value>,
    /// The rows whose value is none of these.
    pub(crate) not: bool,
}

/// One extracted column.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) extracted: String,
    pub(crate) source: Source,
}

/// Where the value of an extracted column comes from, and how it goes back.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    Rename(String),
    /// Decimal text on the legacy side, an integer of `10^-scale` on the extracted side.
    Cents {
        from: String,
        scale: u32,
    },
    /// (legacy, extracted), one to one.
    Map {
        from: String,
        pairs: Vec<(serde_json::Value, serde_json::Value)>,
    },
    /// Local time text on the legacy side, at this many seconds east of UTC.
    LocalTime {
        from: String,
        offset: i32,
    },
    /// Local time text on the legacy side, by the clocks of a zone.
    ZonedTime {
        from: String,
        zone: Zone,
        ambiguous: Ambiguous,
    },
    Const(serde_json::Value),
    /// CEL over `value`, both ways.
    Expr {
        from: String,
        forward: String,
        reverse: String,
    },
    /// Codes that a table of the legacy database translates.
    Lookup {
        from: String,
        table: String,
        key: String,
        value: String,
    },
    /// One text of several columns, with a text before, between and after them.
    Join {
        from: Vec<String>,
        literals: Vec<String>,
        /// An empty piece means NULL.
        empty_is_null: bool,
    },
    /// One piece of a text, counted from 1.
    Part {
        of: String,
        part: usize,
        at: String,
        empty_is_null: bool,
    },
}

/// `[slices.ID.shadow]`: how the slice's answers are compared.
#[derive(Debug)]
pub(crate) struct SliceShadow {
    /// Share of the reads that is mirrored, 0.0 to 1.0.
    pub(crate) sample: f64,
    /// How much of that at the most.
    pub(crate) flow: outgrow_shadow::Flow,
    /// Whom copies of writes go to, where routes have a sandbox for them.
    pub(crate) sandbox: Vec<outgrow_proxy::Address>,
    /// What copies for each side have of their own.
    pub(crate) rewrites: outgrow_shadow::Rewrites,
    /// Share of the mirrored reads that is also asked of the primary a second time, to learn
    /// what differs by itself; 0.0 to 1.0.
    pub(crate) noise_sample: f64,
    pub(crate) arrays: Vec<outgrow_shadow::ArrayRule>,
    /// Differences that are known and accepted for a while.
    pub(crate) rules: Vec<outgrow_shadow::Rule>,
    /// How long pairs and differences are kept.
    pub(crate) keep: Duration,
    /// Names whose values are not kept, besides the usual ones.
    pub(crate) redact: Vec<String>,
    /// Response headers that are compared; `None` leaves the choice to the shadow.
    pub(crate) headers: Option<Vec<String>>,
}

/// `http://HOST:PORT`, nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpUrl {
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl HttpUrl {
    /// `HOST:PORT`.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

/// A database, by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Database {
    Sqlite(PathBuf),
    /// Shown without user and password.
    Server(outgrow_bridge::DatabaseUrl),
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Server(url) => write!(f, "{url}"),
        }
    }
}
