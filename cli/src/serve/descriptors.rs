//! How many files and sockets this process may have open, and how many of them clients may take.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Of a few descriptors even a trial has some for its databases and files.
const LEAST: u64 = 256;

/// Takes as many as may be had: systems begin with few, for the sake of programs of long ago. Nothing is
/// lost where that is refused.
pub(super) fn take_all() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if limit.current != limit.maximum
        && let Err(failure) = setrlimit(Resource::Nofile, all)
    {
        warn!(%failure, "this process may have no more descriptors than before");
    }
    let (descriptors, clients) = (most(), clients());
    info!(
        descriptors,
        clients, "clients that may be connected at a time"
    );
    if descriptors < LEAST {
        warn!(
            descriptors,
            "these are few: raise the limit (LimitNOFILE=, ulimit -n)"
        );
    }
}

fn most() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many clients there may be, unless the config says so: a quarter of the descriptors is for the
/// upstreams of those who ask for something at the moment, for files and for databases.
pub(super) fn clients() -> usize {
    let most = most();
    usize::try_from(most - most / 4).unwrap_or(usize::MAX)
}
