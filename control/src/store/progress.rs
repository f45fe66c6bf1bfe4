//! What is under way: cutovers, the stage that a slice is in, approvals.

use outgrow_rollout::cutover::CutoverStep;
use outgrow_rollout::{Bypass, ProxyEvidence, Side, SliceId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{Row, Sqlite, Transaction};

use super::{Draft, Lease, Store, journal, text};
use crate::error::StoreError;
use crate::wall;

/// A cutover that has not ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CutoverRow {
    /// Stored before the step is done.
    pub step: CutoverStep,
    /// The writer that is wanted.
    pub to: Side,
    /// Milliseconds since 1970.
    pub started: i64,
    /// By whom and why, and what was found so far.
    pub detail: Value,
}

/// When the present stage began, and what was counted in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageMark {
    /// Traffic and writer, as text; another text is another stage.
    pub stage: String,
    /// Milliseconds since 1970.
    pub began: i64,
    /// Counted in this stage, over restarts of the proxy.
    pub counts: ProxyEvidence,
    /// Who writes past the proxy, also of earlier stages.
    pub bypass: Option<Bypass>,
}

/// As it is stored.
#[derive(Default, Serialize, Deserialize)]
struct Counted {
    #[serde(flatten)]
    counts: ProxyEvidence,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bypass: Option<Bypass>,
}

pub(super) async fn put_mark(
    tx: &mut Transaction<'static, Sqlite>,
    slice: &SliceId,
    mark: &StageMark,
) -> Result<(), StoreError> {
    let counted = Counted {
        counts: mark.counts,
        bypass: mark.bypass.clone(),
    };
    sqlx::query(
        "INSERT INTO stage_marks (slice, stage, began, counts) VALUES (?, ?, ?, ?)
         ON CONFLICT (slice) DO UPDATE SET
         stage = excluded.stage, began = excluded.began, counts = excluded.counts",
    )
    .bind(slice.as_str())
    .bind(&mark.stage)
    .bind(mark.began)
    .bind(text(&counted))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(super) async fn put_cutover(
    tx: &mut Transaction<'static, Sqlite>,
    slice: &SliceId,
    row: &CutoverRow,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO cutover (slice, step, direction, started, detail) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (slice) DO UPDATE SET step = excluded.step,
         direction = excluded.direction, started = excluded.started, detail = excluded.detail",
    )
    .bind(slice.as_str())
    .bind(row.step.as_str())
    .bind(row.to.as_str())
    .bind(row.started)
    .bind(text(&row.detail))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

impl Store {
    /// Remembers the step that a cutover is about to do.
    ///
    /// # Errors
    /// Returns [`StoreError`]; [`StoreError::Held`] without the lease.
    pub async fn put_cutover(
        &self,
        lease: &Lease,
        slice: &SliceId,
        row: &CutoverRow,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        lease.check(&mut tx).await?;
        put_cutover(&mut tx, slice, row).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Forgets a cutover that has ended, with its journal entry.
    ///
    /// # Errors
    /// As [`Store::put_cutover`].
    pub async fn end_cutover(
        &self,
        lease: &Lease,
        slice: &SliceId,
        entry: &Draft,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        lease.check(&mut tx).await?;
        sqlx::query("DELETE FROM cutover WHERE slice = ?")
            .bind(slice.as_str())
            .execute(&mut *tx)
            .await?;
        journal::append(&mut tx, slice.as_str(), entry).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The cutover of a slice that has not ended, if there is one.
    ///
    /// # Errors
    /// Returns [`StoreError`].
    pub async fn cutover(&self, slice: &SliceId) -> Result<Option<CutoverRow>, StoreError> {
        let row =
            sqlx::query("SELECT step, direction, started, detail FROM cutover WHERE slice = ?")
                .bind(slice.as_str())
                .fetch_optional(&self.pool)
                .await?;
        let Some(row) = row else { return Ok(None) };
        let word = |column: &str| Value::from(row.get::<String, _>(column));
        let unreadable = |error: serde_json::Error| StoreError::Unreadable {
            slice: slice.to_string(),
            why: format!("its cutover: {error}"),
        };
        Ok(Some(CutoverRow {
            step: serde_json::from_value(word("step")).map_err(unreadable)?,
            to: serde_json::from_value(word("direction")).map_err(unreadable)?,
            started: row.get("started"),
            detail: serde_json::from_str(&row.get::<String, _>("detail")).map_err(unreadable)?,
        }))
    }

    /// # Errors
    /// Returns [`StoreError`].
    pub async fn put_mark(&self, slice: &SliceId, mark: &StageMark) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        put_mark(&mut tx, slice, mark).await?;
        tx.commit().await?;
        Ok(())
    }

    /// # Errors
    /// Returns [`StoreError`].
    pub async fn mark(&self, slice: &SliceId) -> Result<Option<StageMark>, StoreError> {
        let row = sqlx::query("SELECT stage, began, counts FROM stage_marks WHERE slice = ?")
            .bind(slice.as_str())
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|row| {
            // Counts of an older form are worth less than a start.
            let counted: Counted =
                serde_json::from_str(&row.get::<String, _>("counts")).unwrap_or_default();
            StageMark {
                stage: row.get("stage"),
                began: row.get("began"),
                counts: counted.counts,
                bypass: counted.bypass,
            }
        }))
    }

    /// Remembers an approval, with its journal entry.
    ///
    /// # Errors
    /// Returns [`StoreError`].
    pub async fn approve(
        &self,
        lease: &Lease,
        slice: &SliceId,
        step: &str,
        entry: &Draft,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        lease.check(&mut tx).await?;
        sqlx::query("INSERT OR REPLACE INTO approvals (slice, step, by, at) VALUES (?, ?, ?, ?)")
            .bind(slice.as_str())
            .bind(step)
            .bind(&entry.by)
            .bind(wall::now_text())
            .execute(&mut *tx)
            .await?;
        journal::append(&mut tx, slice.as_str(), entry).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Steps of a slice that were approved.
    ///
    /// # Errors
    /// Returns [`StoreError`].
    pub async fn approvals(&self, slice: &SliceId) -> Result<Vec<String>, StoreError> {
        let steps = sqlx::query_scalar("SELECT step FROM approvals WHERE slice = ? ORDER BY step")
            .bind(slice.as_str())
            .fetch_all(&self.pool)
            .await?;
        Ok(steps)
    }

    /// An approval is good for taking the step once.
    ///
    /// # Errors
    /// Returns [`StoreError`].
    pub async fn use_approval(&self, slice: &SliceId, step: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM approvals WHERE slice = ? AND step = ?")
            .bind(slice.as_str())
            .bind(step)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
