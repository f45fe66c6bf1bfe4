//! Addresses that are listened on, with a socket for each core.
//!
//! They outlive a proxy: the one that comes after it has the same sockets, so that whoever waits at
//! one is let in by either, and nobody is turned away between them.

use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::core::Scheme;
use crate::error::BindError;
use crate::settings::Settings;

/// Connections that the kernel keeps ready while a core is busy.
const BACKLOG: i32 = 1_024;

/// Where clients come in, for one core.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    pub(crate) scheme: Scheme,
}

/// An address that another process listens on, with its sockets.
#[derive(Debug)]
pub struct Listening {
    /// As that process's config has it; its port may be 0.
    pub asked: SocketAddr,
    pub safe: bool,
    pub sockets: Vec<TcpListener>,
}

/// All addresses of a proxy.
#[derive(Debug)]
pub(crate) struct Doors(Vec<Taken>);

/// One address.
#[derive(Debug)]
struct Taken {
    /// As the config has it; its port may be 0.
    asked: SocketAddr,
    real: SocketAddr,
    scheme: Scheme,
    sockets: Vec<TcpListener>,
}

impl Doors {
    /// Takes the addresses, once for each core at least; those that `before` has from there.
    ///
    /// # Errors
    /// [`BindError::Listen`]; what was taken is given back.
    pub(crate) fn take(settings: &Settings, before: Option<&Self>) -> Result<Self, BindError> {
        let plain = settings.listen.iter();
        let plain = plain.map(|address| (*address, Scheme::Http));
        let safe = settings.tls.iter().flat_map(|tls| &tls.listen);
        let all = plain.chain(safe.map(|address| (*address, Scheme::Https)));
        let taken = all.map(|(asked, scheme)| {
            let old = before.and_then(|doors| doors.0.iter().find(|one| one.asked == asked));
            take(asked, old, settings.workers.get())
                .map(|(real, sockets)| Taken {
                    asked,
                    real,
                    scheme,
                    sockets,
                })
                .map_err(|source| BindError::Listen {
                    address: asked,
                    source,
                })
        });
        taken.collect::<Result<_, _>>().map(Self)
    }

    /// Those of a process that this one takes over from.
    ///
    /// # Errors
    /// Where one of them is no socket that listens.
    pub(crate) fn inherited(from: Vec<Listening>) -> std::io::Result<Self> {
        let taken = from.into_iter().map(|listening| {
            let Listening {
                asked,
                safe,
                sockets,
            } = listening;
            let none = || std::io::Error::other(format!("no socket for {asked}"));
            let real = sockets.first().ok_or_else(none)?.local_addr()?;
            for socket in &sockets {
                socket.set_nonblocking(true)?;
            }
            let scheme = if safe { Scheme::Https } else { Scheme::Http };
            Ok(Taken {
                asked,
                real,
                scheme,
                sockets,
            })
        });
        taken.collect::<std::io::Result<_>>().map(Self)
    }

    /// For a process that takes over from this one.
    ///
    /// # Errors
    /// Where the system has no descriptors left.
    pub(crate) fn lend(&self) -> std::io::Result<Vec<Listening>> {
        let lent = self.0.iter().map(|taken| {
            let sockets = taken.sockets.iter().map(TcpListener::try_clone);
            Ok(Listening {
                asked: taken.asked,
                safe: taken.scheme == Scheme::Https,
                sockets: sockets.collect::<std::io::Result<_>>()?,
            })
        });
        lent.collect()
    }

    /// The addresses with their real ports.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|taken| taken.real).collect()
    }

    /// The sockets of one of so many cores. Each socket is somebody's, for what waits at it waits
    /// there alone.
    ///
    /// # Errors
    /// [`BindError::Listen`] where the system has no descriptors left.
    pub(crate) fn of_core(&self, core: usize, cores: usize) -> Result<Vec<Door>, BindError> {
        let mut doors = Vec::new();
        for taken in &self.0 {
            let (scheme, address) = (taken.scheme, taken.real);
            for socket in taken.sockets.iter().skip(core).step_by(cores) {
                let listener = socket.try_clone();
                let listener = listener.and_then(prompt);
                let listener = listener.map_err(|source| BindError::Listen { address, source })?;
                doors.push(Door { listener, scheme });
            }
        }
        Ok(doors)
    }
}

/// What comes in has this from its listener, where the system is Linux: answers leave at once.
fn prompt(listener: TcpListener) -> std::io::Result<TcpListener> {
    SockRef::from(&listener).set_tcp_nodelay(true)?;
    Ok(listener)
}

fn take(
    asked: SocketAddr,
    old: Option<&Taken>,
    cores: usize,
) -> std::io::Result<(SocketAddr, Vec<TcpListener>)> {
    let (real, mut sockets) = match old {
        Some(old) => {
            let sockets = old.sockets.iter().map(TcpListener::try_clone);
            (old.real, sockets.collect::<Result<Vec<_>, _>>()?)
        }
        None => {
            let first = listen(asked, Port::Free)?;
            (first.local_addr()?, vec![first])
        }
    };
    while sockets.len() < cores {
        let more = match (listen(real, Port::Ours), sockets.first()) {
            // One that a service manager has opened has no second beside it: cores share it.
            (Err(_), Some(shared)) if old.is_some() => shared.try_clone()?,
            (more, _) => more?,
        };
        sockets.push(more);
    }
    Ok((real, sockets))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    /// Nobody's, else it is refused: a stranger's would be shared silently.
    Free,
    /// It has a socket of ours already.
    Ours,
}

/// The socket that takes a free port is shared from then on. One that only looks and lets go would
/// leave a moment in which another takes the port.
fn listen(address: SocketAddr, port: Port) -> std::io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(port == Port::Ours)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.set_reuse_port(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn answers_leave_at_once_on_what_comes_in() {
        let (real, sockets) = take(SocketAddr::from(([127, 0, 0, 1], 0)), None, 1).unwrap();
        let doors = Doors(vec![Taken {
            asked: real,
            real,
            scheme: Scheme::Http,
            sockets,
        }]);
        let door = doors.of_core(0, 1).unwrap().remove(0);
        door.listener.set_nonblocking(false).unwrap();
        let _client = TcpStream::connect(real).unwrap();
        let (came, _) = door.listener.accept().unwrap();
        assert!(!cfg!(target_os = "linux") || came.nodelay().unwrap());
    }

    #[test]
    fn a_port_is_ours_on_all_cores_and_no_strangers() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (real, sockets) = take(any, None, 3).unwrap();
        assert_eq!(sockets.len(), 3);
        let ours = |socket: &TcpListener| socket.local_addr().unwrap() == real;
        assert!(sockets.iter().all(ours));
        let refused = take(real, None, 1).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse);
    }
}
