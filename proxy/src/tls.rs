//! TLS towards clients: a certificate for each name, read again when its files change.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::verify_server_name;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, ServerConfig,
};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

/// Where and how clients are served over TLS.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    pub listen: Vec<SocketAddr>,
    /// The first one that is for the name that a client asks for is shown; else the first.
    pub certificates: Vec<CertificateFiles>,
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
}

type Fingerprint = [u8; 32];

impl CertificateFiles {
    /// Whether they can be used as they are now.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn check(&self) -> Result<(), CertificateError> {
        self.load().map(|_| ())
    }

    fn load(&self) -> Result<(CertifiedKey, Fingerprint), CertificateError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| CertificateError::Read {
                path: path.to_owned(),
                source,
            })
        };
        let (cert, key) = (read(&self.cert)?, read(&self.key)?);
        let pem = |path: &Path, what| {
            let path = path.to_owned();
            move |source| CertificateError::Pem { path, what, source }
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&cert).collect();
        let chain = chain.and_then(|chain| match chain.is_empty() {
            true => Err(rustls::pki_types::pem::Error::NoItemsFound),
            false => Ok(chain),
        });
        let chain = chain.map_err(pem(&self.cert, "certificate"))?;
        let private = PrivateKeyDer::from_pem_slice(&key).map_err(pem(&self.key, "private key"))?;
        let pair = CertifiedKey::from_der(chain, private, &ring::default_provider());
        let pair = pair.map_err(|source| CertificateError::Pair {
            cert: self.cert.clone(),
            key: self.key.clone(),
            source,
        })?;
        let seen = Sha256::new().chain_update(&cert).chain_update(&key);
        Ok((pair, seen.finalize().into()))
    }
}

/// What is shown to clients now.
#[derive(Debug)]
pub(crate) struct Certificates {
    files: Vec<CertificateFiles>,
    reload: Duration,
    current: ArcSwap<Vec<Arc<CertifiedKey>>>,
    /// Of the files at the start.
    begun: Vec<Fingerprint>,
}

impl Certificates {
    /// Reads all.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub(crate) fn load(settings: &TlsSettings) -> Result<Arc<Self>, CertificateError> {
        let loaded = settings.certificates.iter().map(CertificateFiles::load);
        let loaded: Vec<_> = loaded.collect::<Result<_, _>>()?;
        let (pairs, begun): (Vec<_>, Vec<_>) = loaded.into_iter().unzip();
        let pairs = pairs.into_iter().map(Arc::new).collect();
        Ok(Arc::new(Self {
            files: settings.certificates.clone(),
            reload: settings.reload,
            current: ArcSwap::from_pointee(pairs),
            begun,
        }))
    }

    /// What takes connections.
    ///
    /// # Errors
    /// Only where there is no randomness for the key of session tickets.
    pub(crate) fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Tickets need no memory and no lock that all cores would share.
        config.ticketer = ring::Ticketer::new()?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Looks at the files for ever. Clients that are connected stay; new ones see the new
    /// certificates. Files that cannot be used change nothing.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut tick = tokio::time::interval(self.reload);
        let mut look = Look {
            shown: self.begun.clone(),
            wrong: None,
        };
        loop {
            tick.tick().await;
            let files = self.files.clone();
            // A disk may hang, and the guard must not.
            let read = tokio::task::spawn_blocking(move || {
                files.iter().map(CertificateFiles::load).collect()
            });
            let Ok(read) = read.await else {
                continue;
            };
            match look.judge(read) {
                Verdict::Same => {}
                Verdict::New(pairs) => {
                    self.current.store(Arc::new(pairs));
                    info!("new certificates are shown");
                }
                Verdict::Bad(why) => warn!(%why, "certificates have changed and cannot be used"),
            }
        }
    }
}

/// What was found before.
#[derive(Debug)]
struct Look {
    shown: Vec<Fingerprint>,
    /// What was wrong the last time, and whether that was said.
    wrong: Option<(String, bool)>,
}

enum Verdict {
    Same,
    New(Vec<Arc<CertifiedKey>>),
    Bad(String),
}

impl Look {
    /// Certificate and key are written one after the other, so that they may not fit for a
    /// moment: what is wrong is said when it is still so at the next look.
    fn judge(
        &mut self,
        read: Vec<Result<(CertifiedKey, Fingerprint), CertificateError>>,
    ) -> Verdict {
        let read: Result<Vec<_>, _> = read.into_iter().collect();
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                let why = error.to_string();
                let (again, told) = match &self.wrong {
                    Some((before, told)) => (*before == why, *told),
                    None => (false, false),
                };
                self.wrong = Some((why.clone(), again));
                return match again && !told {
                    true => Verdict::Bad(why),
                    false => Verdict::Same,
                };
            }
        };
        self.wrong = None;
        let (pairs, seen): (Vec<_>, Vec<_>) = read.into_iter().unzip();
        if self.shown == seen {
            return Verdict::Same;
        }
        self.shown = seen;
        Verdict::New(pairs.into_iter().map(Arc::new).collect())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.load();
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
