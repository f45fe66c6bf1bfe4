//! The files that a URL names, looked at before anybody connects: a driver's error does not say
//! which file it was.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::{Pem, Tls};

impl Tls {
    /// What is wrong with the files, and which one it is.
    pub(crate) fn check_files(&self) -> Result<(), String> {
        let file = |pem: &Option<Pem>| match pem {
            Some(Pem::File(path)) => Some(path.clone()),
            // The driver reads it, and can name nothing better.
            Some(Pem::Inline(_)) | None => None,
        };
        if let Some(path) = file(&self.ca) {
            roots(&path)?;
        }
        if let (Some(certificate), Some(key)) = (file(&self.certificate), file(&self.key)) {
            identity(&certificate, &key)?;
        }
        Ok(())
    }
}

pub(super) fn read(path: &Path, what: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("{what} {} cannot be read: {e}", path.display()))
}

fn certificates(path: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(path, what)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|e| format!("{what} {} is broken: {e}", path.display()))?;
    if found.is_empty() {
        let path = path.display();
        return Err(format!("{what} {path} holds no certificate in PEM form"));
    }
    Ok(found)
}

fn roots(path: &Path) -> Result<(), String> {
    let what = "the CA file";
    let mut store = RootCertStore::empty();
    for certificate in certificates(path, what)? {
        store
            .add(certificate)
            .map_err(|e| format!("{what} {} is broken: {e}", path.display()))?;
    }
    Ok(())
}

/// The certificate and the key that the server asks for, and that they belong together.
fn identity(certificate: &Path, key: &Path) -> Result<(), String> {
    let chain = certificates(certificate, "the client certificate")?;
    let text = read(key, "the client key")?;
    let shown = key.display();
    let secret = PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
        format!("the client key {shown} holds no key in PEM form that is not encrypted")
    })?;
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| {
            config
                .with_root_certificates(RootCertStore::empty())
                .with_client_auth_cert(chain, secret)
        })
        .map(drop)
        .map_err(|e| {
            let certificate = certificate.display();
            format!("the client key {shown} does not fit the certificate {certificate}: {e}")
        })
}
