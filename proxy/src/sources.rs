//! Who says where the upstreams of a service are.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::rules::UpstreamTls;
use crate::settings::Secret;
use crate::upstreams::address::{Address, AddressError};

/// Who says where upstreams are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The config itself. Behind a name are all of its addresses.
    At(Address),
    /// Services of a name (SRV, RFC 2782).
    Srv(String),
    File(FileList),
    Consul(Consul),
    Eureka(Eureka),
    Kubernetes(Kubernetes),
}

/// A file that names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileList {
    /// JSON where it ends so, else TOML.
    pub path: PathBuf,
    /// How often it is looked at.
    pub every: Duration,
}

/// Instances of a service that Consul finds well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consul {
    pub agent: Address,
    /// `None` asks it in clear text.
    pub tls: Option<UpstreamTls>,
    /// Letters, digits, `-`, `_` and `.`, as the tag and the datacenter.
    pub service: String,
    pub tag: Option<String>,
    pub datacenter: Option<String>,
    pub token: Option<Secret>,
    /// How long it may keep an answer back while nothing changes.
    pub wait: Duration,
}

/// Instances of an application that Eureka has as `UP`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eureka {
    /// With the path before `/apps`; asked in this order until one answers.
    pub servers: Vec<(Address, String)>,
    /// `None` asks them in clear text.
    pub tls: Option<UpstreamTls>,
    pub app: String,
    pub every: Duration,
}

/// Endpoints of a service that Kubernetes has as ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    pub server: Address,
    /// `None` asks it in clear text.
    pub tls: Option<UpstreamTls>,
    /// Letters, digits, `-` and `.`, as the service.
    pub namespace: String,
    pub service: String,
    pub port: EndpointPort,
    /// Read for each question; `None` shows nothing.
    pub token_file: Option<PathBuf>,
}

/// Which port of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointPort {
    /// There is only one.
    Only,
    Name(String),
    Number(u16),
}

impl fmt::Display for EndpointPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => f.write_str("at all"),
            Self::Name(name) => f.write_str(name),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Srv(name) => write!(f, "srv:{name}"),
            Self::File(list) => write!(f, "file:{}", list.path.display()),
            Self::Consul(consul) => write!(f, "consul:{}", consul.service),
            Self::Eureka(eureka) => write!(f, "eureka:{}", eureka.app),
            Self::Kubernetes(of) => write!(f, "kubernetes:{}/{}", of.namespace, of.service),
        }
    }
}

impl<A: Into<Address>> From<A> for Source {
    fn from(address: A) -> Self {
        Self::At(address.into())
    }
}

/// `srv:NAME`, or an [`Address`].
impl FromStr for Source {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix("srv:") {
            Some(name) => Ok(Self::Srv(name.to_owned())),
            None => text.parse().map(Self::At),
        }
    }
}

/// How names are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsSettings {
    /// None: those that the system names.
    pub servers: Vec<SocketAddr>,
    pub family: Family,
    /// For an answer of one server.
    pub timeout: Duration,
    /// Names are not asked for again before this, whatever their time to live is.
    pub ttl_min: Duration,
    /// Nor later than this.
    pub ttl_max: Duration,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            family: Family::Auto,
            timeout: Duration::from_secs(2),
            ttl_min: Duration::from_secs(1),
            // A record of a day must not keep a moved service away for a day.
            ttl_max: Duration::from_secs(60),
        }
    }
}

/// Which addresses of a name are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Version 4, and 6 where there is none: both are mostly the same machine.
    Auto,
    Both,
    Ipv4,
    Ipv6,
}

impl Family {
    /// Names as the config has them.
    pub const ALL: [(&'static str, Self); 4] = [
        ("auto", Self::Auto),
        ("both", Self::Both),
        ("ipv4", Self::Ipv4),
        ("ipv6", Self::Ipv6),
    ];
}
