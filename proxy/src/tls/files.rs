//! Files of certificates, looked at again and again: what has changed in them is used from then on.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::CertificateError;

/// What files had in them, as far as that tells a change.
pub(crate) type Seen = Vec<[u8; 32]>;

/// For how long a file may look the same though it was changed twice: file systems count in steps of up
/// to two seconds. Meanwhile it is read at each look.
const STEP: Duration = Duration::from_secs(5);

/// Files that look the same are read all the same after so long, for file systems that tell no times.
const UNREAD_MAX: Duration = Duration::from_hours(1);

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
/// nothing. They are read only where they may have changed: a list of revoked certificates may have
/// megabytes.
pub(crate) async fn watch<T: Send + 'static>(
    (every, paths): (Duration, Vec<PathBuf>),
    begun: Seen,
    load: impl Fn() -> Loaded<T> + Clone + Send + 'static,
    tell: impl Fn(Result<T, String>),
) {
    let mut tick = tokio::time::interval(every);
    let mut look = Look {
        used: begun,
        wrong: None,
    };
    let mut outside = Outside::default();
    loop {
        tick.tick().await;
        let (paths, load) = (paths.clone(), load.clone());
        // A disk may hang, and the guard must not.
        let read = move || {
            let read = outside.may_differ(stamps(&paths), Instant::now());
            (outside, read.then(load))
        };
        let Ok((after, loaded)) = tokio::task::spawn_blocking(read).await else {
            outside = Outside::default();
            continue;
        };
        outside = after;
        if let Some(loaded) = loaded {
            outside.found(loaded.is_ok());
            if let Some(told) = look.judge(loaded) {
                tell(told);
            }
        }
    }
}

/// What is known of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    length: u64,
    /// When it was written, and when anything of it was changed, which nobody can say otherwise: in
    /// seconds and parts of them.
    times: [(i64, i64); 2],
}

/// `None` of one that cannot be looked at.
fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let found = std::fs::metadata(path).ok()?;
        Some(Stamp {
            file: (found.dev(), found.ino()),
            length: found.len(),
            times: [
                (found.mtime(), found.mtime_nsec()),
                (found.ctime(), found.ctime_nsec()),
            ],
        })
    };
    paths.iter().map(stamp).collect()
}

/// How files look, and since when.
#[derive(Debug, Default)]
struct Outside {
    stamps: Vec<Option<Stamp>>,
    since: Option<Instant>,
    /// When what looks so was last read and could be used.
    read: Option<Instant>,
}

impl Outside {
    /// Whether they may hold something else than when they were read last.
    fn may_differ(&mut self, stamps: Vec<Option<Stamp>>, now: Instant) -> bool {
        let same = self.stamps == stamps && stamps.iter().all(Option::is_some);
        if !same {
            (self.stamps, self.since, self.read) = (stamps, Some(now), None);
        }
        let settled = self.since.map(|since| since + STEP);
        let fresh = |read: Instant| {
            settled.is_some_and(|settled| read >= settled) && now < read + UNREAD_MAX
        };
        if self.read.is_some_and(fresh) {
            return false;
        }
        self.read = Some(now);
        true
    }

    /// What cannot be used is read again: whether it stays so is to be told.
    fn found(&mut self, usable: bool) {
        if !usable {
            self.read = None;
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
    fn what_looks_the_same_is_read_until_no_change_can_hide() {
        let begun = Instant::now();
        let stamp = |length| {
            vec![Some(Stamp {
                file: (1, 1),
                length,
                times: [(7, 0); 2],
            })]
        };
        let mut outside = Outside::default();
        let mut differs = |stamps, after, usable| {
            let differs = outside.may_differ(stamps, begun + Duration::from_secs(after));
            if differs {
                outside.found(usable);
            }
            differs
        };
        for (after, expected) in [(0, true), (2, true), (4, true), (6, true), (8, false)] {
            assert_eq!(differs(stamp(1), after, true), expected, "{after}");
        }
        for (after, expected) in [
            (10, true),
            (14, true),
            (15, true),
            (16, false),
            (900, false),
        ] {
            assert_eq!(differs(stamp(2), after, true), expected, "{after}");
        }
        assert!(differs(stamp(2), 3_615, true), "an hour after it was read");
        assert!(!differs(stamp(2), 3_616, true));
        // What is not there, and what cannot be used, is tried each time.
        assert!(differs(vec![None], 3_617, true) && differs(vec![None], 4_000, true));
        assert!(differs(stamp(3), 4_001, false) && differs(stamp(3), 4_100, false));
        assert!(differs(stamp(3), 4_200, true) && !differs(stamp(3), 4_300, true));
    }

    #[test]
    fn another_file_with_the_same_bytes_looks_different() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| dir.path().join(name)).to_vec();
        for path in &paths {
            std::fs::write(path, "1").unwrap();
        }
        let before = stamps(&paths);
        assert!(before.iter().all(Option::is_some) && before == stamps(&paths));
        std::fs::rename(&paths[1], &paths[0]).unwrap();
        let after = stamps(&paths);
        assert_ne!(after[0], before[0]);
        assert_eq!(after[1], None);
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_stay_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        std::fs::write(&path, "a").unwrap();
        let reads = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (counted, file) = (reads.clone(), path.clone());
        let load = move || {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let bytes = read(&file)?;
            Ok((bytes.clone(), vec![fingerprint(&[&bytes])]))
        };
        let (told, mut heard) = tokio::sync::mpsc::channel(4);
        let begun = vec![fingerprint(&[b"a"])];
        let tell = move |found: Result<Vec<u8>, String>| told.try_send(found).unwrap();
        let every = Duration::from_secs(1);
        let watched = tokio::spawn(watch((every, vec![path.clone()]), begun, load, tell));
        for (text, after) in [("b", 3), ("c", 3), ("later", 600)] {
            tokio::time::sleep(Duration::from_secs(after)).await;
            std::fs::write(&path, text).unwrap();
            assert_eq!(heard.recv().await.unwrap().unwrap(), text.as_bytes());
        }
        // Some six looks of each, of more than six hundred.
        let reads = reads.load(std::sync::atomic::Ordering::Relaxed);
        assert!((4..40).contains(&reads), "{reads}");
        watched.abort();
    }

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
