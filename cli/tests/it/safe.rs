//! Clients over TLS, with rustls.

#![allow(clippy::unwrap_used)] // Set-up that fails is a failed test.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use outgrow_testkit::certificates::Signed;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

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
) -> std::io::Result<TlsStream<TcpStream>> {
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
) -> std::io::Result<String> {
    let mut stream = connect(connector, at).await?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n{lines}\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await?;
    match all.is_empty() {
        true => Err(std::io::ErrorKind::UnexpectedEof.into()),
        false => Ok(String::from_utf8_lossy(&all).into_owned()),
    }
}
