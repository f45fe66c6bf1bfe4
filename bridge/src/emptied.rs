//! Tables that lost all their rows at once, of which no change has a key.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::both::Writes;
use crate::db::rows;
use crate::engine::Engine;
use crate::error::{Error, OnSide};
use crate::value::Key;

/// How often it is looked whether tables were truncated: the server reads its whole catalogue.
const EVERY: Duration = Duration::from_secs(2);

impl Engine {
    /// Notes tables that were emptied without a word to triggers.
    pub(crate) async fn watch_emptied(&mut self) -> Result<(), Error> {
        if self.shared.spec.writes == Writes::One && Instant::now() >= self.next_emptied {
            self.source().note_emptied(&self.plan).await?;
            self.target().note_emptied(&self.plan).await?;
            self.next_emptied = Instant::now() + EVERY;
        }
        Ok(())
    }

    /// Brings every key that the passive side has of a group up to date: the source lost rows
    /// without a word of which. Can be done again from the start, and is, unless it was done whole.
    pub(crate) async fn sweep(&mut self, group: usize) -> Result<(), Error> {
        let plan = Arc::clone(&self.plan);
        let target = self.source.other();
        let limit = self.shared.limits().chunk_rows;
        for table in plan.groups[group].tables(target) {
            let mut cursor: Option<Key> = None;
            loop {
                let mut tx = self.target().read().await?;
                let keys = rows::keys_after(&mut tx, table, cursor.as_ref(), limit).await;
                let keys = keys.on(target)?;
                drop(tx);
                let Some(last) = keys.last().cloned() else {
                    break;
                };
                self.refresh(&HashMap::from([(group, keys)]), false).await?;
                cursor = Some(last);
            }
        }
        Ok(())
    }
}
