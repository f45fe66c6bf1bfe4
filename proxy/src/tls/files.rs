//! Files of certificates, read again and again: what has changed in them is used from then on.

use std::path::Path;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use super::CertificateError;

/// What files had in them, as far as that tells a change.
pub(crate) type Seen = Vec<[u8; 32]>;

/// What was made of files.
pub(crate) type Loaded<T> = Result<(T, Seen), CertificateError>;

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path).map_err(|source| CertificateError::Read {
        path: path.to_owned(),
        source,
    })
}

pub(crate) fn fingerprint(parts: &[&[u8]]) -> [u8; 32] {
    let mut seen = Sha256::new();
    for part in parts {
        seen.update(part);
    }
    seen.finalize().into()
}

/// The certificates of a file; at least one.
pub(crate) fn certificates(
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let found = found.and_then(|found| match found.is_empty() {
        true => Err(rustls::pki_types::pem::Error::NoItemsFound),
        false => Ok(found),
    });
    found.map_err(|source| CertificateError::Pem {
        path: path.to_owned(),
        what: "certificate",
        source,
    })
}

/// Whom to believe: the authorities of a file, at least one; else those of this machine, which may
/// have none. The print is that of the file.
pub(crate) fn roots(
    ca: Option<&Path>,
) -> Result<(RootCertStore, Option<[u8; 32]>), CertificateError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok((roots, None));
    };
    let bytes = read(path)?;
    for one in certificates(path, &bytes)? {
        roots
            .add(one)
            .map_err(|source| CertificateError::Authority {
                path: path.to_owned(),
                source,
            })?;
    }
    Ok((roots, Some(fingerprint(&[&bytes]))))
}

/// Looks at files for ever, and tells what they have become. Files that cannot be used change
/// nothing.
pub(crate) async fn watch<T: Send + 'static>(
    every: Duration,
    begun: Seen,
    load: impl Fn() -> Loaded<T> + Clone + Send + 'static,
    tell: impl Fn(Result<T, String>),
) {
    let mut tick = tokio::time::interval(every);
    let mut look = Look {
        used: begun,
        wrong: None,
    };
    loop {
        tick.tick().await;
        // A disk may hang, and the guard must not.
        let Ok(loaded) = tokio::task::spawn_blocking(load.clone()).await else {
            continue;
        };
        if let Some(told) = look.judge(loaded) {
            tell(told);
        }
    }
}

/// What was found before.
#[derive(Debug)]
struct Look {
    used: Seen,
    /// What was wrong the last time, and whether that was said.
    wrong: Option<(String, bool)>,
}

impl Look {
    /// Certificate and key are written one after the other, so that they may not fit for a
    /// moment: what is wrong is said when it is still so at the next look.
    fn judge<T>(&mut self, loaded: Loaded<T>) -> Option<Result<T, String>> {
        match loaded {
            Ok((_, seen)) if seen == self.used => {
                self.wrong = None;
                None
            }
            Ok((found, seen)) => {
                (self.wrong, self.used) = (None, seen);
                Some(Ok(found))
            }
            Err(error) => {
                let why = error.to_string();
                let (again, told) = match &self.wrong {
                    Some((before, told)) => (*before == why, *told),
                    None => (false, false),
                };
                self.wrong = Some((why.clone(), again));
                (again && !told).then_some(Err(why))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_a_slip_when_it_stays() {
        let mut look = Look {
            used: vec![[0; 32]],
            wrong: None,
        };
        let good = |print: u8| Ok((print, vec![[print; 32]]));
        let bad = || -> Loaded<u8> { Err(CertificateError::Name("a b".to_owned())) };
        assert_eq!(look.judge(good(0)), None);
        assert_eq!(look.judge(good(1)), Some(Ok(1)));
        assert_eq!(look.judge(good(1)), None);
        assert_eq!(look.judge(bad()), None);
        assert!(matches!(look.judge(bad()), Some(Err(_))));
        assert_eq!(look.judge(bad()), None);
        assert_eq!(look.judge(good(1)), None);
        assert_eq!(look.judge(good(2)), Some(Ok(2)));
    }
}
