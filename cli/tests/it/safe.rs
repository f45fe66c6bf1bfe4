//! Clients over TLS, with rustls; in a pool, too, where a connection speaks what both agree to.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use outgrow_testkit::certificates::Signed;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;

/// What the proxy's certificates are for.
pub(crate) const NAME: &str = "shop.example";

/// Believes this authority, shows this certificate, and speaks these protocols, the best first.
pub(crate) fn connector(ca: &Path, own: Option<&Signed>, speaks: &[&str]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca).unwrap())
        .unwrap();
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => config.with_no_client_auth(),
        Some(own) => {
            let chain = vec![CertificateDer::from_pem_file(&own.certificate).unwrap()];
            let key = PrivateKeyDer::from_pem_file(&own.key).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = speaks.iter().map(|one| one.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

pub(crate) async fn connect(
    connector: &TlsConnector,
    at: SocketAddr,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(NAME).unwrap();
    connector.connect(name, stream).await
}

/// The whole answer to a GET with these lines in its head, over a connection of its own. With TLS 1.3 a server refuses
/// a certificate behind the client's handshake, which is an error here as well.
pub(crate) async fn get(
    connector: &TlsConnector,
    at: SocketAddr,
    path: &str,
    lines: &str,
) -> io::Result<String> {
    let mut stream = connect(connector, at).await?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n{lines}\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await?;
    match all.is_empty() {
        true => Err(io::ErrorKind::UnexpectedEof.into()),
        false => Ok(String::from_utf8_lossy(&all).into_owned()),
    }
}

/// Connects for a pool, and keeps which certificates it was shown.
#[derive(Clone)]
pub(crate) struct Dialer {
    at: SocketAddr,
    connector: TlsConnector,
    shown: Arc<Mutex<BTreeSet<Vec<u8>>>>,
}

impl Dialer {
    pub(crate) fn new(ca: &Path, at: SocketAddr, speaks: &[&str]) -> Self {
        Self {
            at,
            connector: connector(ca, None, speaks),
            shown: Arc::default(),
        }
    }

    /// The certificate that somebody who comes now is shown.
    pub(crate) async fn look(&self) -> io::Result<Vec<u8>> {
        Ok(shown(&connect(&self.connector, self.at).await?))
    }

    /// How many the pools of this one were shown.
    pub(crate) fn shown(&self) -> usize {
        self.shown.lock().unwrap().len()
    }
}

fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    let (_, tls) = stream.get_ref();
    tls.peer_certificates().unwrap()[0].to_vec()
}

impl Service<Uri> for Dialer {
    type Response = Dialed;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Dialed>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let own = self.clone();
        Box::pin(async move {
            let stream = connect(&own.connector, own.at).await?;
            own.shown.lock().unwrap().insert(shown(&stream));
            Ok(Dialed(TokioIo::new(stream)))
        })
    }
}

/// A connection of a pool.
pub(crate) struct Dialed(TokioIo<TlsStream<TcpStream>>);

impl Connection for Dialed {
    fn connected(&self) -> Connected {
        let (_, tls) = self.0.inner().get_ref();
        match tls.alpn_protocol() {
            Some(b"h2") => Connected::new().negotiated_h2(),
            _ => Connected::new(),
        }
    }
}

impl Read for Dialed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl Write for Dialed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
