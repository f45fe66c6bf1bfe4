//! Secrets: read from a file or the environment, never printed.

use std::fmt;
use std::io::Read;
use std::path::Path;

/// Bytes that nobody prints.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Vec<u8>);

/// A shorter secret is guessed.
pub(crate) const SECRET_BYTES_MIN: usize = 16;

/// A longer file is no secret but a mistake (say, a device or a database).
const SECRET_BYTES_MAX: u64 = 4_096;

impl Secret {
    /// # Errors
    /// Says what to do when the secret is too short.
    pub(crate) fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, String> {
        let bytes = bytes.into().trim_ascii().to_vec();
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(format!(
                "the secret has {} bytes, {SECRET_BYTES_MIN} is the least",
                bytes.len()
            ));
        }
        Ok(Self(bytes))
    }

    /// Reads a secret from a file; white space around it is not part of it.
    ///
    /// # Errors
    /// Says why the file cannot be read or is no secret.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
        let mut bytes = Vec::new();
        file.take(SECRET_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| e.to_string())?;
        if bytes.len() as u64 > SECRET_BYTES_MAX {
            return Err(format!("it is longer than {SECRET_BYTES_MAX} bytes"));
        }
        Self::new(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The secret as text, if it is one; a header may still refuse it.
    pub(crate) fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints() {
        let secret = Secret::new("0123456789abcdef-swordfish").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[test]
    fn short_and_endless_secrets_are_refused() {
        assert!(Secret::new("  0123456789abcde \n").is_err());
        assert!(Secret::read(Path::new("/dev/zero")).is_err());
    }
}
