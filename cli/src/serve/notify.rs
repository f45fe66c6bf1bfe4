//! What a service manager is told (sd_notify(3)): nothing where there is none.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::warn;

/// Clients are let in.
pub(super) fn ready() {
    tell("READY=1");
}

pub(super) fn stopping() {
    tell("STOPPING=1");
}

/// From now on another process is the one to look after.
pub(super) fn main_process(pid: u32) {
    tell(&format!("MAINPID={pid}"));
}

fn tell(word: &str) {
    let Some(to) = std::env::var_os("NOTIFY_SOCKET").filter(|to| !to.is_empty()) else {
        return;
    };
    let to = to.to_string_lossy();
    let address = match to.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&*to),
    };
    let told = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(word.as_bytes(), &address));
    if let Err(error) = told {
        warn!(%error, word, "the service manager could not be told");
    }
}
