//! Sockets that a service manager has opened before this process began (sd_listen_fds(3)), so that clients
//! can connect, and wait, while it is not there.
//!
//! They come as bare numbers. Each is duplicated by way of this process's own pidfd, which checks
//! what a number stands for and closes the copy with its owner. The numbers themselves stay open: the
//! manager has the sockets in any case.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context as _;
use outgrow_proxy::Listening;
use rustix::net::sockopt::socket_acceptconn;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tracing::{info, warn};

/// The first of them.
const FIRST: i32 = 3;

/// More than addresses that somebody writes into a unit.
const SOCKETS_MAX: i32 = 1_024;

/// What is left of them.
#[derive(Debug, Default)]
pub(super) struct Given(Vec<Socket>);

#[derive(Debug)]
struct Socket {
    at: SocketAddr,
    name: String,
    listener: TcpListener,
}

/// What the environment says of them.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    sockets: i32,
    names: Vec<String>,
}

impl Said {
    /// `None` where nothing is said, or to another process: a child has the environment of its parent.
    fn read(pid: u32, of: impl Fn(&str) -> Option<String>) -> anyhow::Result<Option<Self>> {
        let number = |name: &str| of(name).map(|text| text.trim().parse::<i32>());
        let to = match number("LISTEN_PID") {
            None => return Ok(None),
            Some(to) => to.context("LISTEN_PID is no number")?,
        };
        if u32::try_from(to) != Ok(pid) {
            return Ok(None);
        }
        let sockets = number("LISTEN_FDS").unwrap_or(Ok(0));
        let sockets = sockets.context("LISTEN_FDS is no number")?;
        anyhow::ensure!(
            (0..=SOCKETS_MAX).contains(&sockets),
            "LISTEN_FDS = {sockets}: no such number of sockets can be passed"
        );
        let names = of("LISTEN_FDNAMES").unwrap_or_default();
        let names = names.split(':').map(str::to_owned).collect();
        Ok(Some(Self { sockets, names }))
    }
}

impl Given {
    /// All that this process was given.
    ///
    /// # Errors
    /// Where one of them is no TCP socket that listens.
    pub(super) fn take() -> anyhow::Result<Self> {
        let said = Said::read(std::process::id(), |name| std::env::var(name).ok())?;
        let Some(said) = said else {
            return Ok(Self::default());
        };
        let own = pidfd_open(getpid(), PidfdFlags::empty());
        let own = own.context("the sockets of the service manager cannot be taken")?;
        let take = |number: i32| {
            let name = said.names.get(usize::try_from(number).unwrap_or_default());
            let name = name.cloned().unwrap_or_default();
            let socket = pidfd_getfd(&own, FIRST + number, PidfdGetfdFlags::empty());
            let socket = socket.with_context(|| {
                format!("LISTEN_FDS says that there is a socket {}", FIRST + number)
            })?;
            let listens = socket_acceptconn(&socket).unwrap_or(false);
            let listener = TcpListener::from(socket);
            let at = listener.local_addr().ok().filter(|_| listens);
            let at = at.with_context(|| {
                let number = FIRST + number;
                format!("socket {number} of the service manager is no TCP socket that listens")
            })?;
            listener.set_nonblocking(true)?;
            Ok(Socket { at, name, listener })
        };
        let all = (0..said.sockets).map(take);
        all.collect::<anyhow::Result<_>>().map(Self)
    }

    /// For people.
    fn told(&self) -> String {
        let one = |socket: &Socket| match socket.name.as_str() {
            "" | "unknown" => socket.at.to_string(),
            name => format!("{} ({name})", socket.at),
        };
        self.0.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// What to say where an address that was not given is taken.
    pub(super) fn hint(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| {
            format!(
                "the service manager has passed sockets for {}; write the same address in the config and \
                 in the .socket unit",
                self.told()
            )
        })
    }

    fn of(&mut self, at: SocketAddr) -> Vec<TcpListener> {
        let all = std::mem::take(&mut self.0);
        let (found, rest) = all.into_iter().partition::<Vec<_>, _>(|one| one.at == at);
        self.0 = rest;
        for socket in &found {
            info!(address = %at, name = socket.name, "listens on a socket of the service manager");
        }
        found.into_iter().map(|socket| socket.listener).collect()
    }

    /// The socket of this address.
    pub(super) fn one(&mut self, at: SocketAddr) -> Option<TcpListener> {
        self.of(at).into_iter().next()
    }

    /// Those of these addresses, each with a socket for so many cores, that share what was given.
    ///
    /// # Errors
    /// Where the system has no descriptors left.
    pub(super) fn all(
        &mut self,
        addresses: &[(SocketAddr, bool)],
        cores: usize,
    ) -> anyhow::Result<Vec<Listening>> {
        let mut found = Vec::new();
        for (asked, safe) in addresses {
            let mut sockets = self.of(*asked);
            let given = sockets.len();
            while given > 0 && sockets.len() < cores {
                let next = sockets[sockets.len() - given].try_clone()?;
                sockets.push(next);
            }
            if given > 0 {
                found.push(Listening {
                    asked: *asked,
                    safe: *safe,
                    sockets,
                });
            }
        }
        Ok(found)
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            let sockets = self.told();
            warn!(
                sockets,
                "passed by the service manager, and not in the config"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(all: &[(&str, &str)]) -> anyhow::Result<Option<Said>> {
        let of = |name: &str| {
            let mut all = all.iter();
            let found = all.find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Said::read(7, of)
    }

    #[test]
    fn only_what_is_said_to_this_process_counts() {
        let pid = ("LISTEN_PID", "7");
        for nothing in [
            &[][..],
            &[("LISTEN_FDS", "2")],
            &[("LISTEN_FDS", "2"), ("LISTEN_PID", "8")],
        ] {
            assert_eq!(said(nothing).unwrap(), None, "{nothing:?}");
        }
        let found = said(&[pid, ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "web:admin")]);
        let wanted = Said {
            sockets: 2,
            names: vec!["web".to_owned(), "admin".to_owned()],
        };
        assert_eq!(found.unwrap(), Some(wanted));
        assert_eq!(said(&[pid]).unwrap().unwrap().sockets, 0);
        for (name, value) in [
            ("LISTEN_FDS", "two"),
            ("LISTEN_FDS", "-1"),
            ("LISTEN_FDS", "1025"),
        ] {
            let refused = said(&[pid, (name, value)]).unwrap_err().to_string();
            assert!(refused.contains(name), "{refused}");
        }
        assert!(said(&[("LISTEN_PID", "x")]).is_err());
    }
}
