//! The last good state on disk, so that a proxy serves rightly before it has heard from control,
//! and remembers what its guard lowered.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::path::Path;

use outgrow_rollout::SliceId;

use crate::error::BindError;
use crate::slice::Orders;

pub(crate) type Saved = BTreeMap<SliceId, Orders>;

/// # Errors
/// [`BindError::StateFile`] for a file that is there and cannot be understood: a start that
/// ignored it could undo a rollback.
pub(crate) fn load(path: &Path) -> Result<Saved, BindError> {
    let wrong = |source| BindError::StateFile {
        path: path.display().to_string(),
        source,
    };
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| wrong(error.into())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Saved::new()),
        Err(error) => Err(wrong(error)),
    }
}

/// Replaces the file as a whole: written beside it, then renamed over it.
pub(crate) fn save(path: &Path, saved: &Saved) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(&serde_json::to_vec(saved)?)?;
    file.sync_all()?;
    std::fs::rename(beside, path)
}
