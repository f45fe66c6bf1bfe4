//! How far a whole verification is, kept in the extracted database, so that another process can
//! go on with one that was interrupted.

use std::collections::BTreeMap;

use outgrow_rollout::{Side, TableRows};
use serde::{Deserialize, Serialize};

use super::{Found, TableWay};
use crate::db::keys::{key_cell, key_text};
use crate::db::{Arg, Database, Dialect};
use crate::error::{Error, OnSide};
use crate::value::{Cell, Key};
use crate::verify::{Verifier, VerifyReport};

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// What it is a verification of.
    mapping: String,
    source: Side,
    tables: BTreeMap<String, TableRows>,
    ways: BTreeMap<String, TableWay>,
    suspects: Vec<(usize, Vec<String>)>,
    looked_at: u64,
    read_rows: u64,
    group: usize,
    after: Option<Vec<String>>,
    began_ms: i64,
    millis: u64,
}

fn written(key: &Key) -> Vec<String> {
    key.iter().filter_map(key_text).collect()
}

fn read(key: Vec<String>) -> Key {
    let cells = key.into_iter();
    cells.map(|text| key_cell(&Cell::Text(text))).collect()
}

impl Verifier<'_> {
    fn mapping(&self) -> String {
        format!("{:?}", self.shared.spec.tables)
    }

    pub(super) async fn keep(&self, found: &Found, millis: u64) -> Result<(), Error> {
        // What was too much to be kept in memory is not kept here: no further progress is noted.
        if !found.settled.tables.is_empty() {
            return Ok(());
        }
        let kept = Kept {
            mapping: self.mapping(),
            source: self.source,
            tables: found.tables.clone(),
            ways: found.ways.clone(),
            suspects: found
                .suspects
                .iter()
                .map(|(group, key)| (*group, written(key)))
                .collect(),
            looked_at: found.looked_at,
            read_rows: found.read_rows,
            group: found.group,
            after: found.after.as_ref().map(written),
            began_ms: found.began_ms,
            millis: found.millis.saturating_add(millis),
        };
        // Plain data: it has a text.
        let state = serde_json::to_string(&kept).unwrap_or_default();
        self.shared.extracted.keep_verify(Some(&state)).await?;
        self.shared.pass("verify-kept");
        Ok(())
    }

    pub(super) async fn forget(&self) -> Result<(), Error> {
        self.shared.extracted.keep_verify(None).await
    }

    /// Where an interrupted verification was.
    pub(super) async fn kept(&self) -> Result<Found, Error> {
        let state = self.shared.extracted.kept_verify().await?;
        let state = state.ok_or(Error::NothingToResume("none was interrupted"))?;
        let kept: Kept = serde_json::from_str(&state)
            .map_err(|_| Error::NothingToResume("it was another version's"))?;
        if kept.mapping != self.mapping() {
            return Err(Error::NothingToResume("the mapping has changed since"));
        }
        if kept.source != self.source {
            return Err(Error::NothingToResume("rows flow the other way since"));
        }
        Ok(Found {
            tables: kept.tables,
            ways: kept.ways,
            suspects: kept
                .suspects
                .into_iter()
                .filter(|(group, _)| *group < self.plan.groups.len())
                .map(|(group, key)| (group, read(key)))
                .collect(),
            settled: VerifyReport::default(),
            looked_at: kept.looked_at,
            read_rows: kept.read_rows,
            left_out: 0,
            group: kept.group,
            after: kept.after.map(read),
            began_ms: kept.began_ms,
            millis: kept.millis,
        })
    }
}

impl Database {
    pub(crate) async fn install_verify(&self) -> Result<(), Error> {
        let (text, engine) = match self.dialect() {
            Dialect::Mysql => ("longtext", " ENGINE = InnoDB CHARACTER SET utf8mb4"),
            Dialect::Sqlite | Dialect::Postgres => ("text", ""),
        };
        let make = format!(
            "CREATE TABLE IF NOT EXISTS {} (id bigint PRIMARY KEY, state {text} NOT NULL){engine}",
            self.own("verify")
        );
        let mut tx = self.write().await?;
        tx.script(make).await.on(self.side)?;
        tx.commit().await.on(self.side)
    }

    /// Replaces what is kept of a verification.
    async fn keep_verify(&self, state: Option<&str>) -> Result<(), Error> {
        let own = self.own("verify");
        let mut tx = self.write().await?;
        let clear = format!("DELETE FROM {own}");
        tx.execute(&clear, &[]).await.on(self.side)?;
        if let Some(state) = state {
            let text = format!("INSERT INTO {own} (id, state) VALUES (1, ?)");
            tx.execute(&text, &[Arg::from(state)]).await.on(self.side)?;
        }
        tx.commit().await.on(self.side)
    }

    async fn kept_verify(&self) -> Result<Option<String>, Error> {
        let text = format!("SELECT state FROM {}", self.own("verify"));
        let mut tx = self.read().await?;
        let rows = tx.fetch(&text, &[]).await.on(self.side)?;
        Ok(rows.first().and_then(|row| row.maybe_text(0)))
    }
}
