//! Where the upstreams of a side are: what the mirror asks in turn, and whoever knows of them
//! changes while it runs.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite};

/// One upstream.
#[derive(Debug, Clone)]
pub enum Place {
    Tcp(Authority),
    /// A socket of this machine.
    Unix(Arc<Path>),
    /// Whoever knows of it makes the connections, too: over TLS, or in HTTP/2.
    Dialed(Arc<dyn Dial>),
}

/// Makes connections with one upstream.
pub trait Dial: fmt::Debug + Send + Sync {
    fn dial(&self) -> Dialing;

    /// `SCHEME://HOST:PORT`, for whoever asks it by hand.
    fn url(&self) -> String;
}

/// A connection in the making; an error says why there is none.
pub type Dialing = Pin<Box<dyn Future<Output = Result<Dialed, String>> + Send>>;

/// A connection that was made.
pub struct Dialed {
    pub io: Box<dyn Io>,
    /// HTTP/2 is spoken on it, else HTTP/1.1.
    pub streams: bool,
    /// Over TLS.
    pub safe: bool,
}

impl fmt::Debug for Dialed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialed")
            .field("streams", &self.streams)
            .field("safe", &self.safe)
            .finish_non_exhaustive()
    }
}

/// What bytes go over.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// All upstreams of a side. Clones share what they hold.
#[derive(Debug, Clone, Default)]
pub struct Places(Arc<RwLock<Vec<Place>>>);

impl Places {
    pub fn set(&self, places: Vec<Place>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = places;
    }

    /// Whether one of them is reached in the same way.
    pub(crate) fn have(&self, wanted: &Place) -> bool {
        let places = self.0.read().unwrap_or_else(PoisonError::into_inner);
        places.iter().any(|place| match (place, wanted) {
            (Place::Tcp(place), Place::Tcp(wanted)) => place == wanted,
            (Place::Unix(place), Place::Unix(wanted)) => place == wanted,
            _ => false,
        })
    }

    /// The one whose turn it is.
    pub(crate) fn at(&self, turn: usize) -> Option<Place> {
        let places = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let at = turn.checked_rem(places.len())?;
        places.get(at).cloned()
    }
}

impl FromIterator<Place> for Places {
    fn from_iter<I: IntoIterator<Item = Place>>(places: I) -> Self {
        Self(Arc::new(RwLock::new(places.into_iter().collect())))
    }
}
