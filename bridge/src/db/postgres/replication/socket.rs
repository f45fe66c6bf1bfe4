//! The way to the server: a socket in a folder, or TCP, with TLS as the URL asks for it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::spec::PostgresUrl;

/// A server that says nothing for so long is asked whether it is there, as by other connections.
const QUIET: Duration = Duration::from_secs(30);
const BETWEEN: Duration = Duration::from_secs(10);
const TRIES: u32 = 3;
/// What it was sent and has not confirmed for so long, it will not have got.
const UNHEARD: Duration = Duration::from_secs(60);
/// The answers to the question for TLS.
const YES: u8 = b'S';
const NO: u8 = b'N';

pub(super) trait Carries: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Carries for T {}

pub(super) type Socket = Box<dyn Carries>;

impl PostgresUrl {
    /// A connection to the server, before anything is said on it.
    ///
    /// # Errors
    /// Says what is wrong with the server, the network or the certificates.
    pub(super) async fn socket(&self) -> Result<Socket, String> {
        let options = self.options().map_err(|e| e.to_string())?;
        let (host, port) = (options.get_host(), options.get_port());
        let folder = match options.get_socket() {
            None if host.starts_with('/') => Some(Path::new(host)),
            folder => folder.map(|folder| folder.as_path()),
        };
        if let Some(folder) = folder {
            let path = folder.join(format!(".s.PGSQL.{port}"));
            let opened = UnixStream::connect(&path).await;
            let opened = opened.map_err(|e| format!("no connection to {}: {e}", path.display()))?;
            return Ok(Box::new(opened));
        }
        let plain = TcpStream::connect((host, port))
            .await
            .map_err(|e| format!("no connection to {host}:{port}: {e}"))?;
        let broken = |e: io::Error| format!("no connection to {host}:{port}: {e}");
        plain.set_nodelay(true).map_err(broken)?;
        notices_death(&plain).map_err(broken)?;
        self.secured(plain, host, port).await
    }

    async fn secured(&self, mut plain: TcpStream, host: &str, port: u16) -> Result<Socket, String> {
        let tls = self.tls();
        if !tls.is_wanted() {
            return Ok(Box::new(plain));
        }
        let config = tls.client()?;
        let broken = |e: io::Error| format!("TLS with {host}:{port}: {e}");
        let mut question = BytesMut::new();
        frontend::ssl_request(&mut question);
        plain.write_all(&question).await.map_err(broken)?;
        match plain.read_u8().await.map_err(broken)? {
            YES => {}
            NO if tls.is_demanded() => return Err(format!("the server {host}:{port} has no TLS")),
            NO => return Ok(Box::new(plain)),
            _ => return Err(format!("the server {host}:{port} has an odd answer to TLS")),
        }
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("`{host}` is no name that a certificate could have"))?;
        let connector = TlsConnector::from(Arc::new(config));
        let secured = connector.connect(name, plain).await.map_err(broken)?;
        Ok(Box::new(secured))
    }
}

/// A server that has vanished without a word is missed.
fn notices_death(socket: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let asks = TcpKeepalive::new()
        .with_time(QUIET)
        .with_interval(BETWEEN)
        .with_retries(TRIES);
    socket.set_tcp_keepalive(&asks)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNHEARD))?;
    Ok(())
}
