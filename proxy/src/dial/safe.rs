//! TLS towards upstreams: whom the proxy believes, as whom it shows itself, and which HTTP it asks
//! for.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{AlertDescription, CertificateError as Flaw, ClientConfig, Error as TlsError};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::{info, warn};

use crate::rules::{Protocol, UpstreamTls};
use crate::tls::CertificateError;
use crate::tls::files::{self, Loaded, Seen};
use crate::upstreams::address::Address;

/// HTTP/2 and HTTP/1.1 as ALPN has them.
pub(super) const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// TLS with the upstreams of one service.
#[derive(Debug)]
pub(crate) struct Safe {
    settings: UpstreamTls,
    protocol: Protocol,
    /// What certificates are for, where that is not what the address says.
    name: Option<ServerName<'static>>,
    current: ArcSwap<Configs>,
    /// Of the files at the start.
    begun: Seen,
}

#[derive(Debug)]
struct Configs {
    usual: Arc<ClientConfig>,
    /// For what only HTTP/1.1 can do.
    lines: Arc<ClientConfig>,
}

impl Safe {
    /// # Errors
    /// What is wrong with which file.
    pub(super) fn new(
        settings: &UpstreamTls,
        protocol: Protocol,
    ) -> Result<Self, CertificateError> {
        let (configs, begun) = load(settings, protocol)?;
        let name = settings.name.clone();
        let name = name.map(|name| {
            ServerName::try_from(name.clone()).map_err(|_| CertificateError::Name(name))
        });
        Ok(Self {
            settings: settings.clone(),
            protocol,
            name: name.transpose()?,
            current: ArcSwap::from_pointee(configs),
            begun,
        })
    }

    /// Looks at the files for ever. What is connected stays; new connections are made with what
    /// they hold then.
    pub(super) async fn watch(&self, service: &str) {
        if self.begun.is_empty() {
            return;
        }
        let (settings, protocol) = (self.settings.clone(), self.protocol);
        let tell = |found| match found {
            Ok(configs) => {
                self.current.store(Arc::new(configs));
                info!(%service, "new certificates are used");
            }
            Err(why) => warn!(%service, %why, "certificates have changed and cannot be used"),
        };
        let load = move || load(&settings, protocol);
        let looked_at = (self.settings.reload, self.settings.files());
        files::watch(looked_at, self.begun.clone(), load, tell).await;
    }

    fn config(&self, only_lines: bool) -> Arc<ClientConfig> {
        let configs = self.current.load();
        match only_lines {
            true => configs.lines.clone(),
            false => configs.usual.clone(),
        }
    }

    /// Shakes hands with an upstream.
    ///
    /// # Errors
    /// Says what was wrong, and with whom.
    pub(super) async fn shake(
        &self,
        stream: TcpStream,
        to: &Address,
        only_lines: bool,
    ) -> Result<TlsStream<TcpStream>, String> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => named(to)?,
        };
        let shown = name.to_str().into_owned();
        let connector = TlsConnector::from(self.config(only_lines));
        let stream = connector.connect(name, stream).await;
        let stream = stream.map_err(|error| explain(&error, &shown))?;
        if self.protocol == Protocol::Http2
            && !only_lines
            && stream.get_ref().1.alpn_protocol() != Some(H2)
        {
            return Err(format!("{shown} does not agree to HTTP/2 (ALPN)"));
        }
        Ok(stream)
    }
}

/// The host of an address, for which a certificate must be.
fn named(to: &Address) -> Result<ServerName<'static>, String> {
    let host = to.host();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let name = name.trim_matches(['[', ']']).trim_end_matches('.');
    ServerName::try_from(name.to_owned())
        .map_err(|_| format!("`{name}` is no name that a certificate is for"))
}

/// What went wrong, and what mends it.
fn explain(error: &std::io::Error, name: &str) -> String {
    let source = error.get_ref();
    let known = source.and_then(|source| source.downcast_ref::<TlsError>());
    let hint = match known {
        Some(TlsError::InvalidCertificate(flaw)) => match flaw {
            Flaw::UnknownIssuer => "name its authority with `tls.ca`",
            Flaw::NotValidForName | Flaw::NotValidForNameContext { .. } => {
                "say with `tls.name` which name it is for"
            }
            Flaw::Expired | Flaw::ExpiredContext { .. } => "it must be renewed",
            Flaw::NotValidYet | Flaw::NotValidYetContext { .. } => "look at the clocks",
            _ => "",
        },
        Some(TlsError::InvalidMessage(_)) => "does it speak TLS on this port?",
        Some(
            TlsError::NoApplicationProtocol
            | TlsError::AlertReceived(AlertDescription::NoApplicationProtocol),
        ) => "it does not speak what `protocol` wants",
        _ => "",
    };
    match hint {
        "" => format!("{name}: {error}"),
        hint => format!("{name}: {error}; {hint}"),
    }
}

fn load(settings: &UpstreamTls, protocol: Protocol) -> Loaded<Configs> {
    let mut seen = Seen::new();
    let (roots, print) = files::roots(settings.ca.as_deref())?;
    seen.extend(print);
    if roots.is_empty() {
        return Err(CertificateError::NoAuthority);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut usual = match &settings.client {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let (pair, print) = files.load()?;
            seen.push(print);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
        }
    };
    let mut lines = usual.clone();
    lines.alpn_protocols = vec![HTTP1.to_vec()];
    usual.alpn_protocols = match protocol {
        Protocol::Http1 => vec![HTTP1.to_vec()],
        Protocol::Http2 => vec![H2.to_vec()],
        Protocol::Auto => vec![H2.to_vec(), HTTP1.to_vec()],
    };
    let configs = Configs {
        usual: Arc::new(usual),
        lines: Arc::new(lines),
    };
    Ok((configs, seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_for_the_host_of_the_address() {
        let name = |to: Address| named(&to).map(|name| name.to_str().into_owned());
        assert_eq!(
            name("Shop.internal:8443".parse().unwrap()).unwrap(),
            "Shop.internal"
        );
        assert_eq!(name("10.0.0.1:443".parse().unwrap()).unwrap(), "10.0.0.1");
        assert_eq!(name("[::1]:443".parse().unwrap()).unwrap(), "::1");
        let at = "10.0.0.1:443".parse().unwrap();
        assert_eq!(name(Address::resolved(at, "shop.:443")).unwrap(), "shop");
        assert!(name("a_:1".parse().unwrap()).is_ok_and(|name| name == "a_"));
    }
}
