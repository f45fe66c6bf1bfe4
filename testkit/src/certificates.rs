//! Certificates of a test's own: an authority, and what it signs for servers and clients.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;

/// A certificate authority, with its certificate in a file of its own.
#[derive(Debug)]
pub struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The files of a certificate and its key, in PEM form.
#[derive(Debug, Clone)]
pub struct Signed {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// An authority that nobody trusts yet.
    ///
    /// # Panics
    /// Panics when there is no room for a file.
    pub fn new(name: &str) -> Self {
        let mut params = params(&[], name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, key()).expect("it can sign itself");
        let dir = tempfile::tempdir().expect("there is room for a temporary directory");
        write(&dir.path().join("ca.pem"), &issuer.pem());
        Self { dir, issuer }
    }

    /// The file of its certificate.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A server's certificate for these names and addresses.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn server(&self, names: &[&str]) -> Signed {
        let mut params = params(names, "server");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, "server")
    }

    /// A client's certificate; databases look for the user's name in it.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn client(&self, name: &str) -> Signed {
        let mut params = params(&[], name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, name)
    }

    fn sign(&self, params: CertificateParams, name: &str) -> Signed {
        let key = key();
        let certificate = params.signed_by(&key, &self.issuer).expect("it can sign");
        let file = |end: &str| self.dir.path().join(format!("{name}.{end}"));
        let signed = Signed {
            certificate: file("pem"),
            key: file("key"),
        };
        write(&signed.certificate, &certificate.pem());
        write(&signed.key, &key.serialize_pem());
        signed
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("there is randomness for a key")
}

fn params(names: &[&str], name: &str) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("the names are names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file can be written");
}

/// What a server of a test shows and whom it trusts, in its own folder.
#[derive(Debug, Clone)]
pub(crate) struct ServerFiles {
    pub(crate) ca: PathBuf,
    pub(crate) signed: Signed,
}

impl ServerFiles {
    /// Copies the files to where the server's user may read them: servers refuse keys that
    /// others may read, too.
    pub(crate) fn install(&self, dir: &Path, user: Option<&str>) -> Self {
        let copy = |from: &Path, name: &str| {
            let to = dir.join(name);
            std::fs::copy(from, &to).expect("a file can be copied");
            let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&to, owner_only).expect("its mode can be set");
            crate::servers::give(&to, user);
            to
        };
        Self {
            ca: copy(&self.ca, "ca.pem"),
            signed: Signed {
                certificate: copy(&self.signed.certificate, "server.pem"),
                key: copy(&self.signed.key, "server.key"),
            },
        }
    }
}
