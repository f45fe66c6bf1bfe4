//! TLS for the connection that reads PostgreSQL's log. Its driver speaks to a socket in a folder
//! that only this user can look into; what it says goes on to the server encrypted.

use std::io;

use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpStream, UnixListener};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use super::Tls;

/// SSLRequest: its length, and a version that no protocol has (PostgreSQL, Message Formats).
const ASK: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// The answer to it.
const YES: u8 = b'S';

/// Carries one connection. Dropped, it cuts it off.
#[derive(Debug)]
pub(crate) struct Tunnel {
    host: String,
    _carrying: AbortOnDropHandle<()>,
}

impl Tunnel {
    /// A way to this server by TLS; `None` where it has none and the URL does not ask for it.
    ///
    /// # Errors
    /// Says what is wrong with the certificates, the server or the folder.
    pub(crate) async fn open(tls: &Tls, host: &str, port: u16) -> Result<Option<Self>, String> {
        if !tls.is_wanted() {
            return Ok(None);
        }
        let config = tls.client()?;
        let mut plain = TcpStream::connect((host, port))
            .await
            .map_err(|e| format!("no connection to {host}:{port}: {e}"))?;
        let broken = |e: io::Error| format!("TLS with {host}:{port}: {e}");
        plain.set_nodelay(true).map_err(broken)?;
        plain.write_all(&ASK).await.map_err(broken)?;
        if plain.read_u8().await.map_err(broken)? != YES {
            return match tls.is_demanded() {
                true => Err(format!("the server {host}:{port} has no TLS")),
                false => Ok(None),
            };
        }
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("`{host}` is no name that a certificate could have"))?;
        let connector = TlsConnector::from(std::sync::Arc::new(config));
        let secured = connector.connect(name, plain).await.map_err(broken)?;
        let folder = tempfile::Builder::new().prefix("outgrow-").tempdir();
        let folder = folder.map_err(|e| format!("no folder for the log's socket: {e}"))?;
        let path = folder.path().join(format!(".s.PGSQL.{port}"));
        let listener = UnixListener::bind(&path)
            .map_err(|e| format!("the log's socket {}: {e}", path.display()))?;
        let host = folder.path().to_string_lossy().into_owned();
        let carrying = tokio::spawn(async move {
            if let Err(error) = carry(listener, folder, secured).await {
                tracing::debug!(%error, "the connection for the log ended");
            }
        });
        Ok(Some(Self {
            host,
            _carrying: AbortOnDropHandle::new(carrying),
        }))
    }

    /// What the driver connects to instead of the host.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}

/// Until either end is done: neither says anything after the other has left.
async fn carry(
    listener: UnixListener,
    folder: TempDir,
    secured: TlsStream<TcpStream>,
) -> io::Result<()> {
    let (mut local, _) = listener.accept().await?;
    drop((listener, folder));
    let (mut from_local, mut to_local) = local.split();
    let (mut from_server, mut to_server) = tokio::io::split(secured);
    tokio::select! {
        told = copy(&mut from_local, &mut to_server) => {
            told?;
            to_server.shutdown().await
        }
        heard = copy(&mut from_server, &mut to_local) => {
            heard?;
            to_local.shutdown().await
        }
    }
}
