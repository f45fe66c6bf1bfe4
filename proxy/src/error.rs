//! What can go wrong in the data plane, and whose side it was on.

use std::net::SocketAddr;
use std::time::Duration;

use crate::auth::Denial;
use crate::filters::cors::Grant;
use crate::limit::Exceeded;
use crate::settings::Problem;
use crate::tls::CertificateError;
use crate::upstreams::address::Address;
use crate::upstreams::gate::Full;
use crate::wire::WireError;

/// Why a proxy did not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("the proxy's settings are wrong: {}", list(.0))]
    Settings(Vec<Problem>),
    #[error("cannot listen on {address}: is another process there? choose another address")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the sockets of the process before cannot be used")]
    Inherited(#[source] std::io::Error),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    #[error("who may ask cannot be told: {0}")]
    Auth(String),
    #[error("the access log {path} cannot be written")]
    AccessLog {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("spans cannot be exported: {0}")]
    Spans(String),
    #[error("the state file {path} cannot be read: mend it or move it away")]
    StateFile {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

fn list(problems: &[Problem]) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// Why writes could not be held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HoldError {
    #[error("there is no slice of that name")]
    UnknownSlice,
    #[error("{writes} writes were still in flight after {within:?}")]
    InFlight { writes: usize, within: Duration },
}

/// Why an upstream gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// Nothing was sent: safe to try again, whatever the method.
    #[error("cannot connect to {to}: {why}")]
    Connect { to: Address, why: String },
    /// Nothing was sent either, and nothing will be before somebody has mended it.
    #[error("cannot connect to {to}: no TLS with {why}")]
    Tls { to: Address, why: String },
    #[error("no answer from {to} within {within:?}")]
    Timeout { to: Address, within: Duration },
    /// By its own word; that says nothing of the upstream.
    #[error("no answer from {to} within the {within:?} that the client waits")]
    Expired { to: Address, within: Duration },
    /// The request may have been carried out.
    #[error("{to} broke the connection off: {source}")]
    Broken {
        to: Address,
        #[source]
        source: WireError,
    },
    /// By the client's doing; that says nothing of the upstream either.
    #[error("{source}")]
    Upload {
        to: Address,
        #[source]
        source: WireError,
    },
    /// Nobody to send to.
    #[error("no upstream of {service} is known: {why}")]
    Nobody { service: String, why: String },
    /// Nothing was sent, and it is better so for a while.
    #[error("{service} has failed too often; it is asked again {}", in_time(*.left))]
    Open { service: String, left: Duration },
    #[error("{to} has as many requests as it may: {why}")]
    Crowded {
        to: Address,
        #[source]
        why: Full,
    },
}

fn in_time(left: Duration) -> String {
    match left.is_zero() {
        true => "by one request now".to_owned(),
        false => format!("in {left:?}"),
    }
}

impl UpstreamError {
    /// There was no connection, so the upstream can have seen nothing of the request: another one
    /// may be asked, and this one again, whatever the method.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. } | Self::Tls { .. } | Self::Nobody { .. }
        )
    }

    /// Whether the same upstream may well take the same request a moment later.
    pub(crate) fn may_pass(&self) -> bool {
        self.is_unreachable() && !matches!(self, Self::Tls { .. })
    }

    /// Whether it says something of the upstream; a client that broke its own body off does not.
    pub(crate) fn is_upstreams(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Timeout { .. }
            | Self::Broken { .. }
            | Self::Nobody { .. } => true,
            Self::Expired { .. } | Self::Upload { .. } | Self::Open { .. } => false,
            Self::Crowded { .. } => false,
        }
    }

    /// The upstream can have seen nothing, whatever the reason.
    pub(crate) fn is_unsent(&self) -> bool {
        self.is_unreachable() || matches!(self, Self::Open { .. } | Self::Crowded { .. })
    }

    /// The client's doing, for which no side is counted or blamed.
    pub(crate) fn is_clients(&self) -> bool {
        matches!(self, Self::Upload { .. })
    }
}

/// Why the proxy itself answers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    #[error("the request's head is too long, or has too many fields")]
    HeadTooLong,
    #[error("the body is longer than a request's may be here")]
    BodyTooLong,
    #[error("this proxy opens no tunnels")]
    Connect,
    #[error("writes wait for a cutover that takes too long")]
    Held,
    #[error("too many writes wait for a cutover")]
    Crowded,
    #[error("the caller's identity could not be established: {0}")]
    Identity(String),
    #[error("more than {} requests; the next one is welcome in {:?}", .0.limit, .0.wait)]
    Limited(Exceeded),
    #[error("pages of this origin may not ask")]
    Origin,
    #[error(transparent)]
    Denied(Denial),
    #[error("closed for maintenance")]
    Maintenance,
    #[error("only an answer that is kept was asked for, and none is (only-if-cached)")]
    NotKept,
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

/// A refusal with what a page of another origin needs to be able to read it.
#[derive(Debug)]
pub(crate) struct Declined {
    pub(crate) refusal: Refusal,
    pub(crate) grant: Option<Box<Grant>>,
}

impl From<Refusal> for Declined {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            grant: None,
        }
    }
}
