//! Mends what a verification found, from the source, and looks again.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Error;
use crate::link::{Link, lock};
use crate::value::Key;
use crate::verify::RepairReport;

/// Keys repaired in one transaction.
const REPAIR_AT_ONCE: usize = 500;

impl Link {
    /// Mends the rows that the last verification named, from the source, after looking again
    /// whether they still differ; compares them again. With `dry_run` only says which.
    ///
    /// # Errors
    /// [`Error::RepairCap`] when more rows differ than one repair may write.
    pub async fn repair(&self, dry_run: bool) -> Result<RepairReport, Error> {
        let known = lock(&self.inner.report)
            .as_ref()
            .map(|r| (r.keys.clone(), r.different));
        let (keys, counted) = match known {
            Some(known) => known,
            None => {
                let report = self.verify().await?;
                (report.keys, report.different)
            }
        };
        let (plan, source, _reader) = self.view().await?;
        let verifier = self.verifier(&plan, source);
        let wrong = verifier.now(keys).await?;
        let cap = self.inner.shared.limits().repair_rows;
        if wrong.keys.len() > cap {
            // Those beyond are not known by their keys.
            let found = usize::try_from(wrong.different.max(counted)).unwrap_or(usize::MAX);
            return Err(Error::RepairCap { cap, found });
        }
        let keys = wrong.keys;
        let mut report = RepairReport {
            dry_run,
            found: keys.len() as u64,
            remaining: keys.len() as u64,
            differences: wrong.differences,
            ..RepairReport::default()
        };
        if dry_run || keys.is_empty() {
            return Ok(report);
        }
        self.refresh(keys.clone()).await?;
        report.remaining = verifier.now(keys).await?.different;
        report.repaired = report.found - report.remaining;
        // The figures of before are not those of now: a gate must ask for a new verification.
        self.inner.shared.status(|s| s.verified = None);
        *lock(&self.inner.report) = None;
        Ok(report)
    }

    async fn refresh(&self, keys: Vec<(usize, Key)>) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        self.whole(async move {
            for some in keys.chunks(REPAIR_AT_ONCE) {
                let mut by_group: HashMap<usize, Vec<Key>> = HashMap::new();
                for (group, key) in some {
                    by_group.entry(*group).or_default().push(key.clone());
                }
                inner.shared.until_idle(|_| ()).await?;
                // The lock is let go between transactions, so that following goes on.
                let mut engine = inner.engine.lock().await;
                let engine = engine.as_mut().ok_or_else(|| inner.not_started())?;
                engine.refresh(&by_group, false).await?;
            }
            Ok(())
        })
        .await
    }
}
