//! TLS towards clients: a certificate for each name, read again when its files change.

pub(crate) mod client;
pub(crate) mod files;
mod revoked;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::verify_server_name;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoClientAuth, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
    ServerConfig,
};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

pub use client::ClientAuth;
use files::{Loaded, Seen};
use revoked::Age;
pub use revoked::Revocation;

/// Where and how clients are served over TLS.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    pub listen: Vec<SocketAddr>,
    /// The first one that is for the name that a client asks for is shown; else the first.
    pub certificates: Vec<CertificateFiles>,
    /// Whose certificates are asked for; `None` asks nobody.
    pub clients: Option<ClientAuth>,
    /// How often the files are looked at.
    pub reload: Duration,
}

/// A certificate with those that lead to its authority, and its key, in PEM form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} holds no {what} in PEM form: {source}", path.display())]
    Pem {
        path: PathBuf,
        what: &'static str,
        source: rustls::pki_types::pem::Error,
    },
    #[error("{} and {} do not go together: {source}", cert.display(), key.display())]
    Pair {
        cert: PathBuf,
        key: PathBuf,
        source: rustls::Error,
    },
    #[error("{} holds a certificate that is no authority's: {source}", path.display())]
    Authority {
        path: PathBuf,
        source: rustls::Error,
    },
    #[error("this machine trusts no authority: name one with `ca`")]
    NoAuthority,
    #[error("`{0}` is no name that a certificate is for")]
    Name(String),
    #[error("{} holds a revocation list that cannot be read: {source}", path.display())]
    List {
        path: PathBuf,
        source: webpki::Error,
    },
    #[error("{} holds a revocation list that has expired: the next one was due {since}", path.display())]
    Expired {
        path: PathBuf,
        since: OffsetDateTime,
    },
    #[error("certificates of clients cannot be checked: {0}")]
    Clients(rustls::server::VerifierBuilderError),
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

impl CertificateFiles {
    pub(crate) fn files(&self) -> [PathBuf; 2] {
        [self.cert.clone(), self.key.clone()]
    }

    /// Whether they can be used as they are now.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn check(&self) -> Result<(), CertificateError> {
        self.load().map(|_| ())
    }

    /// The pair, and what tells it from another one.
    pub(crate) fn load(&self) -> Result<(CertifiedKey, [u8; 32]), CertificateError> {
        let (cert, key) = (files::read(&self.cert)?, files::read(&self.key)?);
        let chain = files::certificates(&self.cert, &cert)?;
        let private =
            PrivateKeyDer::from_pem_slice(&key).map_err(|source| CertificateError::Pem {
                path: self.key.clone(),
                what: "private key",
                source,
            })?;
        let pair = CertifiedKey::from_der(chain, private, &ring::default_provider());
        let pair = pair.map_err(|source| CertificateError::Pair {
            cert: self.cert.clone(),
            key: self.key.clone(),
            source,
        })?;
        Ok((pair, files::fingerprint(&[&cert, &key])))
    }
}

/// What the files hold.
struct Held {
    pairs: Vec<Arc<CertifiedKey>>,
    /// Whose certificates are believed, where clients are asked for theirs.
    clients: Option<Arc<dyn ClientCertVerifier>>,
    /// When a list of those that were taken back is to be followed by the next one.
    until: Option<OffsetDateTime>,
}

fn load(files: &[CertificateFiles], clients: Option<&ClientAuth>) -> Loaded<Held> {
    let loaded: Vec<_> = files
        .iter()
        .map(CertificateFiles::load)
        .collect::<Result<_, _>>()?;
    let (pairs, mut seen): (Vec<_>, Vec<_>) = loaded.into_iter().unzip();
    let clients = clients.map(ClientAuth::load).transpose()?;
    let mut until = None;
    let clients = clients.map(|(verifier, prints, next)| {
        seen.extend(prints);
        until = next;
        verifier
    });
    let pairs = pairs.into_iter().map(Arc::new).collect();
    let held = Held {
        pairs,
        clients,
        until,
    };
    Ok((held, seen))
}

/// What is shown to clients now.
#[derive(Debug)]
struct Shows(ArcSwap<Vec<Arc<CertifiedKey>>>);

/// How clients are served over TLS now.
#[derive(Debug)]
pub(crate) struct Certificates {
    files: Vec<CertificateFiles>,
    clients: Option<ClientAuth>,
    reload: Duration,
    shows: Arc<Shows>,
    config: ArcSwap<ServerConfig>,
    age: Arc<Age>,
    /// Of the files at the start.
    begun: Seen,
}

impl Certificates {
    /// Reads all.
    ///
    /// # Errors
    /// The first that cannot be used; or there is no randomness for the key of session tickets.
    pub(crate) fn load(settings: &TlsSettings) -> Result<Arc<Self>, CertificateError> {
        let clients = settings.clients.clone();
        clients.as_ref().map(ClientAuth::check).transpose()?;
        let (held, begun) = load(&settings.certificates, clients.as_ref())?;
        let shows = Arc::new(Shows(ArcSwap::from_pointee(held.pairs)));
        Ok(Arc::new(Self {
            files: settings.certificates.clone(),
            clients,
            reload: settings.reload,
            config: ArcSwap::new(config(&shows, held.clients)?),
            age: Arc::new(Age::of(held.until)),
            shows,
            begun,
        }))
    }

    /// What takes the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }

    /// Looks at the files for ever. Clients that are connected stay; new ones see the new
    /// certificates, and theirs are checked by the new authorities. Files that cannot be used change
    /// nothing.
    pub(crate) async fn watch(self: Arc<Self>) {
        let (files, clients) = (self.files.clone(), self.clients.clone());
        let tell = |found| match found {
            Ok(held) => self.change(held),
            Err(why) => warn!(%why, "certificates have changed and cannot be used"),
        };
        let pairs = files.iter().flat_map(CertificateFiles::files);
        let lists = clients.iter().flat_map(ClientAuth::files);
        let paths = pairs.chain(lists).collect();
        let age = self.age.clone();
        let load = move || {
            let loaded = load(&files, clients.as_ref())?;
            age.set(loaded.0.until);
            Ok(loaded)
        };
        let watched = files::watch((self.reload, paths), self.begun.clone(), load, tell);
        let revocation = self.clients.as_ref();
        match revocation.and_then(|clients| clients.revocation.as_ref()) {
            Some(of) => {
                tokio::join!(watched, self.age.watch(of, self.reload));
            }
            None => watched.await,
        }
    }

    fn change(&self, held: Held) {
        if let Some(clients) = held.clients {
            match config(&self.shows, Some(clients)) {
                Ok(config) => self.config.store(config),
                Err(why) => {
                    warn!(%why, "authorities of clients have changed and cannot be used");
                    return;
                }
            }
        }
        self.shows.0.store(Arc::new(held.pairs));
        info!("new certificates are shown");
    }
}

fn config(
    shows: &Arc<Shows>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let asks = clients.is_some();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients.unwrap_or_else(|| Arc::new(NoClientAuth)))
        .with_cert_resolver(shows.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if asks {
        // Whoever resumes a session shows no certificate: it might have ended, or its authority.
        config.send_tls13_tickets = 0;
    } else {
        // Tickets need no memory and no lock that all cores would share.
        config.ticketer = ring::Ticketer::new()?;
    }
    Ok(Arc::new(config))
}

impl ResolvesServerCert for Shows {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.0.load();
        let name = hello
            .server_name()
            .and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| current.iter().find(|pair| is_for(pair, &name)));
        named.or(current.first()).cloned()
    }
}

fn is_for(pair: &CertifiedKey, name: &ServerName<'_>) -> bool {
    pair.end_entity_cert()
        .and_then(ParsedCertificate::try_from)
        .is_ok_and(|cert| verify_server_name(&cert, name).is_ok())
}
