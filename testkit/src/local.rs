//! A Unix socket before a TCP server, so that every scripted upstream can be met on one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixListener};
use tokio::task::{AbortHandle, JoinSet};

/// A socket in a folder of the test's. Dropping it ends its connections and takes it away.
#[derive(Debug)]
pub struct LocalSocket {
    path: PathBuf,
    task: AbortHandle,
}

impl LocalSocket {
    /// # Panics
    /// Panics when the socket cannot be made.
    pub fn before(server: SocketAddr, path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("a socket in the test's folder");
        let accept = async move {
            // The connections end with the set, and the set with this task.
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                connections.spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(server).await {
                        let _ = server.set_nodelay(true);
                        // Either may break off: that is part of many a test.
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        };
        Self {
            path: path.to_owned(),
            task: tokio::spawn(accept).abort_handle(),
        }
    }

    /// `unix:/PATH`.
    pub fn url(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        self.task.abort();
        // It may be gone already.
        let _ = std::fs::remove_file(&self.path);
    }
}
