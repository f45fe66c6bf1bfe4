//! Where an upstream is reached.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use http::uri::Authority;
use outgrow_shadow::Place;

/// Bytes of a socket's path, as the kernel takes it with its end (`sun_path`).
const PATH_MAX: usize = 107;

const UNIX: &str = "unix:";

/// Where an upstream is reached. Cheap to clone; its text is the one that people read and write.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(Arc<Inner>);

#[derive(PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Inner {
    text: Box<str>,
    way: Way,
    /// Of which name it is an address.
    host: Option<Box<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Way {
    Socket(SocketAddr),
    /// Its addresses are looked up when a connection is made.
    Name,
    Unix,
}

/// How a connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    Socket(SocketAddr),
    /// `HOST:PORT`.
    Name(&'a str),
    Unix(&'a Path),
}

/// The text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("it is no `HOST:PORT`")]
    NoAuthority,
    #[error("the path of a socket is absolute: unix:/run/shop.sock")]
    Relative,
    #[error("the path of a socket has at most {PATH_MAX} bytes")]
    TooLong,
}

impl Address {
    fn new(text: impl Into<Box<str>>, way: Way) -> Self {
        let text = text.into();
        let host = None;
        Self(Arc::new(Inner { text, way, host }))
    }

    /// An address of `host`, which is `HOST:PORT`.
    pub(crate) fn resolved(at: SocketAddr, host: &str) -> Self {
        Self(Arc::new(Inner {
            text: at.to_string().into(),
            way: Way::Socket(at),
            host: Some(host.into()),
        }))
    }

    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    pub(crate) fn route(&self) -> Route<'_> {
        match self.0.way {
            Way::Socket(at) => Route::Socket(at),
            Way::Name => Route::Name(&self.0.text),
            Way::Unix => Route::Unix(Path::new(self.0.text.trim_start_matches(UNIX))),
        }
    }

    /// What a request of the proxy's own says as `Host`.
    pub(crate) fn host(&self) -> &str {
        match (&self.0.host, self.0.way) {
            (Some(host), _) => host,
            (None, Way::Socket(_) | Way::Name) => &self.0.text,
            // It has none; this one is what curl says.
            (None, Way::Unix) => "localhost",
        }
    }

    /// Whether it says all that a connection needs.
    pub(crate) fn has_port(&self) -> bool {
        match self.route() {
            Route::Socket(_) | Route::Unix(_) => true,
            Route::Name(name) => name
                .rsplit_once(':')
                .is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0)),
        }
    }

    /// For the shadow, which makes its own connections in clear text.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        match self.route() {
            Route::Unix(path) => Some(Place::Unix(path.into())),
            Route::Socket(_) | Route::Name(_) => self.as_str().parse().ok().map(Place::Tcp),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return match path {
                _ if !path.starts_with('/') => Err(AddressError::Relative),
                _ if path.len() > PATH_MAX => Err(AddressError::TooLong),
                _ => Ok(Self::new(text, Way::Unix)),
            };
        }
        let authority = text.parse::<Authority>();
        Ok(authority.map_err(|_| AddressError::NoAuthority)?.into())
    }
}

impl From<Authority> for Address {
    fn from(authority: Authority) -> Self {
        let text = authority.as_str();
        match text.parse::<SocketAddr>() {
            Ok(at) => Self::new(text, Way::Socket(at)),
            Err(_) => Self::new(text, Way::Name),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(at: SocketAddr) -> Self {
        Self::new(at.to_string(), Way::Socket(at))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_say_how_a_connection_is_made() {
        let socket = |text: &str| Route::Socket(text.parse().unwrap());
        let check = |text: &str, route: Route<'_>, host: &str| {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.route(), address.host()), (route, host));
            assert_eq!(address.to_string(), text);
        };
        check("10.0.0.1:80", socket("10.0.0.1:80"), "10.0.0.1:80");
        check("[::1]:80", socket("[::1]:80"), "[::1]:80");
        check("shop:80", Route::Name("shop:80"), "shop:80");
        let path = Route::Unix(Path::new("/run/a.sock"));
        check("unix:/run/a.sock", path, "localhost");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let refused = |text: &str| text.parse::<Address>().unwrap_err();
        assert_eq!(refused("a b:1"), AddressError::NoAuthority);
        assert_eq!(refused("unix:run/a.sock"), AddressError::Relative);
        let long = format!("unix:/{}", "a".repeat(PATH_MAX));
        assert_eq!(refused(&long), AddressError::TooLong);
    }
}
