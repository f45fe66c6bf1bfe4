//! The token that opens the admin API. Never printed, compared in constant time.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use tracing::warn;

use super::AdminError;

/// Shorter tokens could be guessed by trying.
pub(super) const LENGTH_MIN: usize = 16;

const RANDOM_BYTES: usize = 32;

/// A bearer token.
#[derive(Clone)]
pub struct Token {
    /// The hash, because hashes have one length and their comparison tells nothing of the text.
    hash: Arc<[u8; 32]>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self {
            hash: Arc::new(Sha256::digest(text.as_bytes()).into()),
        }
    }

    /// Reads the token file; makes one with a random token, readable by its owner only, if there
    /// is none.
    ///
    /// # Errors
    /// [`AdminError::TokenFile`], [`AdminError::WeakToken`].
    pub fn load_or_create(path: &Path) -> Result<Self, AdminError> {
        let trouble = |what| {
            move |source| AdminError::TokenFile {
                path: path.display().to_string(),
                what,
                source,
            }
        };
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        match made {
            Ok(mut file) => {
                let text = random().map_err(trouble("filled"))?;
                writeln!(file, "{text}")
                    .and_then(|()| file.sync_all())
                    .map_err(trouble("written"))?;
                Ok(Self::new(&text))
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let text = std::fs::read_to_string(path).map_err(trouble("read"))?;
                let mode = std::fs::metadata(path)
                    .map_err(trouble("read"))?
                    .permissions();
                if mode.mode() & 0o077 != 0 {
                    warn!(path = %path.display(), "others can read the token file; chmod 600 it");
                }
                if text.trim().len() < LENGTH_MIN {
                    return Err(AdminError::WeakToken(path.display().to_string()));
                }
                Ok(Self::new(text.trim()))
            }
            Err(error) => Err(trouble("made")(error)),
        }
    }

    /// Whether `given` is the token; takes the same time for every wrong one.
    #[must_use]
    pub fn is(&self, given: &str) -> bool {
        let given: [u8; 32] = Sha256::digest(given.as_bytes()).into();
        let difference = self
            .hash
            .iter()
            .zip(given)
            .fold(0u8, |found, (mine, theirs)| found | (mine ^ theirs));
        difference == 0
    }
}

/// From the system's source of secrets.
fn random() -> std::io::Result<String> {
    let mut bytes = [0u8; RANDOM_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_made_for_the_owner_only_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.token");
        let made = Token::load_or_create(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.trim().len() >= 40);
        assert!(made.is(text.trim()));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = Token::load_or_create(&path).unwrap();
        assert!(again.is(text.trim()));
        assert!(!again.is("another"));
        assert!(!again.is(""));
    }

    #[test]
    fn a_weak_token_and_an_unreadable_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.token");
        std::fs::write(&path, "short\n").unwrap();
        let refused = Token::load_or_create(&path).unwrap_err();
        assert!(matches!(refused, AdminError::WeakToken(_)), "{refused}");
        let refused = Token::load_or_create(&dir.path().join("no/such/dir")).unwrap_err();
        assert!(refused.to_string().contains("cannot be made"), "{refused}");
    }

    #[test]
    fn it_is_not_printed() {
        assert_eq!(format!("{:?}", Token::new("a secret")), "Token");
    }
}
