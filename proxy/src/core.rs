//! What one core works with, and what all cores share.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use outgrow_shadow::Tap;
use tokio::sync::mpsc;

use crate::guard::ErrorEvent;
use crate::identity::Identities;
use crate::pool::Pool;
use crate::routes::RouteTable;
use crate::settings::Settings;
use crate::slice::Slice;

/// Shared by all cores; immutable but for what is atomic inside.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) table: RouteTable,
    pub(crate) slices: Vec<Arc<Slice>>,
    pub(crate) tap: Option<Arc<dyn Tap>>,
    pub(crate) errors: mpsc::Sender<ErrorEvent>,
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
    pub(crate) pool: Rc<Pool>,
    pub(crate) identities: Option<Identities>,
}

impl Core {
    pub(crate) fn new(index: usize, shared: Arc<Shared>) -> Self {
        let pool = Rc::new(Pool::new(shared.settings.limits.clone()));
        let identities = shared.settings.identity.clone().map(Identities::new);
        Self {
            index,
            shared,
            pool,
            identities,
        }
    }
}

/// Where a request came from: the client's address, written out once a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer(pub(crate) HeaderValue);

impl Peer {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let text = address.ip().to_string();
        Self(HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unknown")))
    }
}
