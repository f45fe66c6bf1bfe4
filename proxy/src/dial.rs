//! Making connections with the upstreams of a service: a socket, and TLS where the settings want it.

mod safe;

use std::io;
use std::sync::Arc;

use outgrow_shadow::{Dial, Dialed, Dialing, Place};

use crate::rules::{Protocol, Transport};
use crate::tls::CertificateError;
use crate::upstreams::address::Address;
use crate::wire::Stream;
use safe::{H2, Safe};

/// Makes the connections of one service.
#[derive(Debug)]
pub(crate) struct Dialer {
    safe: Option<Safe>,
    protocol: Protocol,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The host took the connection, and TLS failed.
    #[error("no TLS with {0}")]
    Tls(String),
}

/// Which HTTP is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// HTTP/1.1.
    Lines,
    /// HTTP/2.
    Streams,
}

impl Dialer {
    /// # Errors
    /// What is wrong with which file.
    pub(crate) fn new(transport: &Transport) -> Result<Self, CertificateError> {
        let protocol = transport.protocol;
        let safe = transport.tls.as_ref();
        Ok(Self {
            safe: safe.map(|tls| Safe::new(tls, protocol)).transpose()?,
            protocol,
        })
    }

    /// What is spoken with all upstreams; `None` where each connection says so.
    pub(crate) fn spoken(&self) -> Option<Spoken> {
        match (self.protocol, &self.safe) {
            (Protocol::Http2, _) => Some(Spoken::Streams),
            (Protocol::Auto, Some(_)) => None,
            // Nothing says that it may be HTTP/2.
            (Protocol::Auto, None) | (Protocol::Http1, _) => Some(Spoken::Lines),
        }
    }

    pub(crate) fn is_safe(&self) -> bool {
        self.safe.is_some()
    }

    /// Whether only a connection says what is spoken on it.
    pub(crate) fn asks(&self) -> bool {
        self.spoken().is_none()
    }

    /// A new connection. Bounded by its caller.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn dial(&self, to: &Address) -> Result<(Stream, Spoken), DialError> {
        self.connect(to, false).await
    }

    /// A new connection of HTTP/1.1, whatever else could be spoken on it.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn dial_lines(&self, to: &Address) -> Result<Stream, DialError> {
        Ok(self.connect(to, true).await?.0)
    }

    async fn connect(&self, to: &Address, lines: bool) -> Result<(Stream, Spoken), DialError> {
        let stream = Stream::connect(to).await?;
        let Some(safe) = &self.safe else {
            let spoken = self.spoken().filter(|_| !lines);
            return Ok((stream, spoken.unwrap_or(Spoken::Lines)));
        };
        let Stream::Tcp(stream) = stream else {
            let why = format!("{to}: it is a socket of this machine");
            return Err(DialError::Tls(why));
        };
        // In a box, so that a plain connection has no room for it.
        let shaken = Box::pin(safe.shake(stream, to, lines)).await;
        let stream = shaken.map_err(DialError::Tls)?;
        let spoken = match stream.get_ref().1.alpn_protocol() {
            Some(H2) => Spoken::Streams,
            _ => Spoken::Lines,
        };
        Ok((Stream::Tls(Box::new(stream)), spoken))
    }

    /// For the shadow.
    pub(crate) fn place(self: &Arc<Self>, to: &Address) -> Option<Place> {
        if self.safe.is_none() && self.spoken() == Some(Spoken::Lines) {
            return to.place();
        }
        Some(Place::Dialed(Arc::new(Away {
            dialer: self.clone(),
            to: to.clone(),
        })))
    }

    /// Looks at the files of certificates for ever.
    pub(crate) async fn watch(&self, service: &str) {
        if let Some(safe) = &self.safe {
            safe.watch(service).await;
        }
    }
}

/// One upstream, for whoever cannot make connections with it.
#[derive(Debug)]
struct Away {
    dialer: Arc<Dialer>,
    to: Address,
}

impl Dial for Away {
    fn url(&self) -> String {
        let scheme = if self.dialer.is_safe() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", self.to.host())
    }

    fn dial(&self) -> Dialing {
        let (dialer, to) = (self.dialer.clone(), self.to.clone());
        Box::pin(async move {
            let made = dialer.dial(&to).await;
            let (stream, spoken) = made.map_err(|error| error.to_string())?;
            Ok(Dialed {
                io: Box::new(stream),
                streams: spoken == Spoken::Streams,
                safe: dialer.is_safe(),
            })
        })
    }
}

impl Transport {
    /// Whether the files that it names can be used as they are now.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn check(&self) -> Result<(), CertificateError> {
        Dialer::new(self).map(drop)
    }
}

/// Why an upstream is not reached.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    #[error("{0}")]
    Away(io::Error),
    /// Somebody is there.
    #[error("{0}")]
    Tls(String),
}

/// Makes a connection as a proxy would, and closes it.
///
/// # Errors
/// Why there is none.
pub async fn reach(to: &Address, transport: &Transport) -> Result<(), ReachError> {
    let dialer = Dialer::new(transport);
    let dialer = dialer.map_err(|error| ReachError::Tls(error.to_string()))?;
    dialer
        .dial(to)
        .await
        .map(drop)
        .map_err(|error| match error {
            DialError::Io(error) => ReachError::Away(error),
            DialError::Tls(_) => ReachError::Tls(error.to_string()),
        })
}
