//! The key of the proxy's own cookies, where the config names none: made once, and kept beside the
//! store. Never printed.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;

use crate::config::Secret;

const KEY_FILE: &str = "cookies.key";

const RANDOM_BYTES: usize = 32;

/// Reads the key beside the store; makes one, for its owner only, if there is none.
pub(super) fn beside(store: &Path) -> anyhow::Result<Secret> {
    let path = store.with_file_name(KEY_FILE);
    let trouble = || format!("the key of cookies, {}", path.display());
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    match made {
        Ok(mut file) => {
            let text = random().with_context(trouble)?;
            let written = writeln!(file, "{text}").and_then(|()| file.sync_all());
            written.with_context(trouble)?;
            Secret::new(text).map_err(anyhow::Error::msg)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let found = Secret::read(&path).map_err(anyhow::Error::msg);
            found.with_context(trouble)
        }
        Err(error) => Err(error).with_context(trouble),
    }
}

/// From the system's source of secrets.
fn random() -> std::io::Result<String> {
    let mut bytes = [0; RANDOM_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("outgrow-store.db");
        let first = beside(&store).unwrap();
        assert_eq!(first.bytes().len(), 2 * RANDOM_BYTES);
        assert!(first == beside(&store).unwrap());
        let file = dir.path().join(KEY_FILE);
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&file, "short").unwrap();
        let error = format!("{:#}", beside(&store).unwrap_err());
        assert!(
            error.contains("cookies.key") && error.contains("5 bytes"),
            "{error}"
        );
    }
}
