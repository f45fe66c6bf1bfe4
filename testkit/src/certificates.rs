//! Certificates of a test's own: an authority, and what it signs for servers and clients.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber,
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
        params.serial_number = Some(serial(name));
        self.sign(params, name)
    }

    /// The file of a list on which these clients' certificates are. The next one is due when this year begins.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn revokes(&self, names: &[&str], until: i32) -> PathBuf {
        let long_ago = rcgen::date_time_ymd(2000, 1, 1);
        let revoked = |name: &&str| RevokedCertParams {
            serial_number: serial(name),
            revocation_time: long_ago,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: long_ago,
            next_update: rcgen::date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: names.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("it can sign");
        let file = self.dir.path().join("crl.pem");
        write(&file, &list.pem().expect("a list is text"));
        file
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

/// The same for the same client.
fn serial(name: &str) -> SerialNumber {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    // Positive, and of eight bytes.
    SerialNumber::from(hasher.finish() >> 2 | 1 << 60)
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
