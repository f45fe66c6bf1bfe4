//! What becomes of a running link when its tables or its lookups change: the plan is made anew, or
//! the link stops before it corrupts; rows whose codes mean something else are carried over again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use outgrow_rollout::Side;

use crate::db::rows;
use crate::engine::Engine;
use crate::error::{Error, OnSide};
use crate::lookup::{self, Known};
use crate::plan::Plan;
use crate::turn::check_capture;

impl Engine {
    /// A changed schema is either still mapped whole, or the link stops before it corrupts.
    pub(crate) async fn watch_schemas(&mut self) -> Result<(), Error> {
        let now = self.shared.schema_versions().await?;
        if now == self.schema_versions {
            return Ok(());
        }
        let plan = self.replan().await?;
        let known: Vec<String> = self.copies.iter().map(|c| c.table.clone()).collect();
        check_capture(&self.shared, &plan, &known).await?;
        for database in [&self.shared.legacy, &self.shared.extracted] {
            // A new unique index needs a trigger of its own.
            database.install(&plan).await?;
        }
        // As it was before the tables were looked at: they may have changed since.
        self.schema_versions = now;
        Ok(())
    }

    /// Takes up what lookups say now. One that is not one to one any more stops the link.
    pub(crate) async fn watch_lookups(&mut self) -> Result<(), Error> {
        let changed = self.shared.lookups_changed(&self.plan, self.kept());
        if changed.await? {
            tracing::info!(slice = %self.shared.spec.slice, "a lookup has changed");
            self.replan().await?;
        }
        Ok(())
    }

    /// Words in force while the extracted side is the source.
    fn kept(&self) -> Option<&Known> {
        (self.source == Side::Extracted).then_some(&self.plan.lookups)
    }

    /// Makes the plan anew. Parked rows may have waited for just this.
    async fn replan(&mut self) -> Result<Arc<Plan>, Error> {
        let now = self.shared.schemas().await?;
        let changes = self.schemas.changes(&now);
        if !changes.is_empty() {
            self.note_types(&now).await?;
        }
        let (plan, schemas) = match self.shared.plan(self.kept()).await {
            Err(Error::Mapping { slice, problems }) => {
                // They may have changed only just now.
                let changes = self.schemas.changes(&self.shared.schemas().await?);
                return Err(match changes.is_empty() {
                    true => Error::Mapping { slice, problems },
                    false => Error::TablesChanged {
                        slice,
                        changes,
                        problems,
                    },
                });
            }
            planned => planned?,
        };
        let slice = &self.shared.spec.slice;
        for change in &changes {
            tracing::warn!(%slice, change, "a table has changed; the mapping still fits");
        }
        self.plan = Arc::new(plan);
        self.schemas = schemas;
        self.looked_at.clear();
        self.retries.at_once(Instant::now());
        Ok(Arc::clone(&self.plan))
    }

    /// Carries over some of the rows whose codes mean something else now. `true` when there are
    /// more. While rows flow from the extracted side, whose values are in force, they wait.
    pub(crate) async fn carry_renamed(&mut self) -> Result<bool, Error> {
        if self.source != Side::Legacy {
            return Ok(false);
        }
        if self.renamed.is_empty() && !Arc::ptr_eq(&self.carried, &self.plan) {
            let renamed = lookup::renamed(&self.carried, &self.plan);
            self.renamed = renamed.into_iter().map(|table| (table, None)).collect();
            self.carried = Arc::clone(&self.plan);
        }
        let Some((table, cursor)) = self.renamed.front() else {
            return Ok(false);
        };
        let limit = self.shared.limits().chunk_rows;
        let mut tx = self.source().read().await?;
        let keys = rows::keys_after(&mut tx, table, cursor.as_ref(), limit)
            .await
            .on(Side::Legacy)?;
        drop(tx);
        let (last, count) = (keys.last().cloned(), keys.len());
        if let Some(group) = self.plan.group_of(Side::Legacy, &table.name)
            && !keys.is_empty()
        {
            self.refresh(&HashMap::from([(group, keys)]), false).await?;
        }
        if count < limit as usize {
            self.renamed.pop_front();
        } else if let Some((_, cursor)) = self.renamed.front_mut() {
            *cursor = last;
        }
        Ok(!self.renamed.is_empty())
    }
}
