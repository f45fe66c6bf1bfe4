//! Which builds of a service are asked. Kept among the snapshots, so that an earlier Outgrow can read
//! the same store; changed by compare-and-swap like the state of a slice.

use outgrow_rollout::{BuildsState, Revision};
use sqlx::{Row, Sqlite, Transaction};

use super::{Draft, Lease, Store, journal, text};
use crate::error::StoreError;

fn name(service: &str) -> String {
    format!("builds/{service}")
}

fn read(service: &str, body: &str) -> Result<BuildsState, StoreError> {
    serde_json::from_str(body)
        .map_err(|error| StoreError::Corrupt(format!("the builds of service `{service}`: {error}")))
}

async fn stored(
    tx: &mut Transaction<'static, Sqlite>,
    service: &str,
) -> Result<Option<BuildsState>, StoreError> {
    let row = sqlx::query("SELECT body FROM snapshots WHERE name = ?")
        .bind(name(service))
        .fetch_optional(&mut **tx)
        .await?;
    row.map(|row| read(service, &row.get::<String, _>("body")))
        .transpose()
}

impl Store {
    /// What was stored of a service last.
    ///
    /// # Errors
    /// Returns [`StoreError`].
    pub async fn builds(&self, service: &str) -> Result<Option<BuildsState>, StoreError> {
        let body = self.snapshot(&name(service)).await?;
        body.map(|body| read(service, &body)).transpose()
    }

    /// Stores which builds of a service are asked, with an entry in the journal of each of these.
    ///
    /// # Errors
    /// [`StoreError::Moved`] if the revision is no longer the expected one,
    /// [`StoreError::Held`] if the lease belongs to somebody else.
    ///
    /// Cancel safe: it has happened wholly or not at all, but the caller cannot know which.
    pub async fn change_builds(
        &self,
        lease: &Lease,
        (service, expected): (&str, Revision),
        after: &BuildsState,
        (slices, entry): (&[String], &Draft),
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        lease.check(&mut tx).await?;
        let before = stored(&mut tx, service).await?;
        let actual = before.map_or(Revision(0), |state| state.revision);
        if actual != expected {
            return Err(StoreError::Moved { actual });
        }
        sqlx::query(
            "INSERT INTO snapshots (name, body) VALUES (?, ?)
             ON CONFLICT (name) DO UPDATE SET body = excluded.body",
        )
        .bind(name(service))
        .bind(text(after))
        .execute(&mut *tx)
        .await?;
        for slice in slices {
            journal::append(&mut tx, slice, entry).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}
