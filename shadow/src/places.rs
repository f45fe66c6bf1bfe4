//! Where the upstreams of a side are: what the mirror asks in turn, and whoever knows of them
//! changes while it runs.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use http::uri::Authority;

/// One upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Tcp(Authority),
    /// A socket of this machine.
    Unix(Arc<Path>),
}

/// All upstreams of a side. Clones share what they hold.
#[derive(Debug, Clone, Default)]
pub struct Places(Arc<RwLock<Vec<Place>>>);

impl Places {
    pub fn set(&self, places: Vec<Place>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = places;
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
