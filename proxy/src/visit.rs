//! Connections to a URL, for what the proxy asks on its own account. Not on a request's way.

use std::path::Path;
use std::sync::Arc;

use http::Uri;
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls::files;
use crate::wire::Stream;

/// Whom to believe over TLS: the authorities of a file, or those of this machine.
///
/// # Errors
/// Says what is wrong with the file.
pub(crate) fn trusting(ca: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let (roots, _) = files::roots(ca).map_err(|error| error.to_string())?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

pub(crate) fn is_safe(url: &Uri) -> bool {
    url.scheme_str() == Some("https")
}

/// A connection to the host of a URL. Bounded by its caller.
///
/// # Errors
/// Why there is none.
pub(crate) async fn connect(url: &Uri, tls: Option<&Arc<ClientConfig>>) -> Result<Stream, String> {
    let authority = url.authority().ok_or("it has no host")?;
    let safe = is_safe(url);
    let port = authority.port_u16().unwrap_or(if safe { 443 } else { 80 });
    let host = authority.host().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, port)).await;
    let stream = stream.map_err(|error| format!("cannot connect: {error}"))?;
    if !safe {
        return Ok(Stream::Tcp(stream));
    }
    let tls = tls.ok_or("TLS is not set up")?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(tls.clone()).connect(name, stream).await;
    let stream = stream.map_err(|error| format!("no TLS: {error}"))?;
    Ok(Stream::Tls(Box::new(stream)))
}
