//! The place in the log: recording it, and proving that the log goes on from there.
//!
//! A place is a file and an offset in it, of one server. That is as exact as a GTID for the only
//! server that is gone on with: another one is refused, whatever it has. That it is the same log is
//! proved by the log itself: each record of a place is written with a stamp that no other has,
//! and comes by the log behind that place. Where it does not come, the log is another.

use std::collections::HashMap;
use std::sync::Arc;

use super::noted::Shape;
use super::{Feed, Watched};
use crate::db::{Arg, Database, Tx};
use crate::error::{Error, OnSide};
use crate::plan::{Plan, Table};

/// A place in the log, between two transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: String,
    pub(super) pos: u64,
}

/// What is recorded of a place.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) reader: u32,
    pub(super) place: Place,
    pub(super) stamp: String,
}

/// What is watched for in the log, by the table's name there.
#[derive(Debug, Default)]
pub(super) struct Sight {
    pub(super) schema: String,
    /// Whether the server tells no upper case from lower case in names.
    pub(super) fold: bool,
    pub(super) tables: HashMap<String, Watched>,
}

impl Sight {
    pub(super) fn find(&self, schema: &str, table: &str) -> Option<&Watched> {
        if self.fold {
            (schema.to_lowercase() == self.schema.to_lowercase())
                .then(|| self.tables.get(&table.to_lowercase()))?
        } else {
            (schema == self.schema).then(|| self.tables.get(table))?
        }
    }

    /// Followed tables that a statement may mean: names are taken as alike whatever their case is.
    pub(super) fn meant<'a>(
        &'a self,
        current: &'a str,
        names: &'a [super::sql::Name],
    ) -> impl Iterator<Item = &'a Arc<Shape>> {
        let followed = self.tables.values().filter_map(|watched| match watched {
            Watched::Table(shape) => Some(shape),
            Watched::Mark | Watched::Slot => None,
        });
        followed.filter(move |shape| {
            names.iter().any(|name| {
                let schema = name.schema.as_deref().unwrap_or(current);
                name.table.to_lowercase() == shape.table.name.to_lowercase()
                    && schema.to_lowercase() == self.schema.to_lowercase()
            })
        })
    }
}

impl Database {
    /// Makes what the feed needs, and the first record of a place.
    pub(in crate::db) async fn install_binlog(
        &self,
        feed: &Feed,
        plan: &Plan,
    ) -> Result<(), Error> {
        let side = self.side;
        let mut tx = self.write().await?;
        for (what, columns) in [
            (
                "mark",
                "id BIGINT AUTO_INCREMENT PRIMARY KEY, what VARCHAR(64) NOT NULL",
            ),
            (
                "slot",
                "id INT PRIMARY KEY, stamp VARCHAR(128) NOT NULL, server VARCHAR(128) NOT NULL, \
                 reader BIGINT NOT NULL, file VARCHAR(512) NOT NULL, pos BIGINT NOT NULL",
            ),
        ] {
            let text = format!(
                "CREATE TABLE IF NOT EXISTS {} ({columns}) ENGINE = InnoDB \
                 CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
                self.own(what)
            );
            tx.script(text).await.on(side)?;
        }
        let text = format!("SELECT count(*) FROM {}", self.own("slot"));
        let made = tx.number(&text, &[]).await.on(side)? != Some(0);
        tx.commit().await.on(side)?;
        let tables: Vec<Table> = plan.tables(side).cloned().collect();
        feed.inner.lock().await.follow(tables);
        if made {
            return Ok(());
        }
        let mut tx = self.write().await?;
        let place = self.end_of_log(&mut tx).await.on(side)?;
        let Some(place) = place else {
            let what = "its binary log is off".to_owned();
            return Err(Error::Unreadable { side, what });
        };
        let server = self.server(&mut tx).await.on(side)?;
        // Above what people give to their servers.
        let text = format!(
            "INSERT INTO {} (id, stamp, server, reader, file, pos) \
             VALUES (1, UUID(), ?, 2147483648 + FLOOR(RAND() * 2147483647), ?, ?)",
            self.own("slot")
        );
        let args = [
            Arg::from(&server),
            Arg::from(&place.file),
            Arg::from(i64::try_from(place.pos).unwrap_or(i64::MAX)),
        ];
        tx.execute(&text, &args).await.on(side)?;
        tx.commit().await.on(side)
    }

    /// What tells this server from all that may have taken its place.
    async fn server(&self, tx: &mut Tx) -> Result<String, sqlx::Error> {
        let set = settings(tx).await?;
        let of = |name: &str| set.get(name).map(String::as_str);
        Ok(match of("server_uuid") {
            Some(uuid) => format!("server_uuid {uuid}"),
            None => format!("server_id {}", of("server_id").unwrap_or_default()),
        })
    }

    /// Where the log ends now.
    pub(super) async fn end_of_log(&self, tx: &mut Tx) -> Result<Option<Place>, sqlx::Error> {
        let rows = log_status(tx).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let pos = u64::try_from(row.int(1)?).unwrap_or(0);
        Ok(Some(Place {
            file: row.text(0)?,
            pos,
        }))
    }

    /// The record of our place, once it is sure that the server still has the log from there on.
    pub(in crate::db) async fn binlog_in_order(&self) -> Result<(), Error> {
        self.recorded().await.map(drop)
    }

    pub(super) async fn recorded(&self) -> Result<Slot, Error> {
        let side = self.side;
        let discontinued = |what: String| Error::Discontinued { side, what };
        let text = format!(
            "SELECT stamp, server, reader, file, pos FROM {}",
            self.own("slot")
        );
        let mut tx = self.read().await?;
        let rows = tx.fetch(&text, &[]).await.on(side)?;
        let Some(row) = rows.first() else {
            return Err(discontinued("it has no place in its log".to_owned()));
        };
        let read = || {
            let number = |at| row.int(at).map(|n| u64::try_from(n).unwrap_or(0));
            Ok::<_, sqlx::Error>((
                row.text(1)?,
                Slot {
                    stamp: row.text(0)?,
                    reader: u32::try_from(number(2)?).unwrap_or(u32::MAX),
                    place: Place {
                        file: row.text(3)?,
                        pos: number(4)?,
                    },
                },
            ))
        };
        let (was, slot) = read().on(side)?;
        let now = self.server(&mut tx).await.on(side)?;
        if was != now {
            return Err(discontinued(format!("it had {was} and has {now}")));
        }
        let logs = tx.fetch("SHOW BINARY LOGS", &[]).await.on(side)?;
        let file = &slot.place.file;
        let log = logs
            .iter()
            .find(|row| row.maybe_text(0).as_ref() == Some(file));
        match log.map(|row| row.maybe(1).and_then(|size| u64::try_from(size).ok())) {
            None => Err(discontinued(format!(
                "the server has removed its binary log `{file}`, which was not read to its end"
            ))),
            Some(Some(size)) if size < slot.place.pos => Err(discontinued(format!(
                "its binary log `{file}` has {size} bytes, {} were read",
                slot.place.pos
            ))),
            Some(_) => Ok(slot),
        }
    }

    /// A table with the charsets of its columns as they are now.
    pub(super) async fn shape(&self, tx: &mut Tx, table: &Table) -> Result<Shape, sqlx::Error> {
        let text = "SELECT CAST(column_name AS CHAR), CAST(character_set_name AS CHAR) \
                    FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = ?";
        let rows = tx.fetch(text, &[Arg::from(&table.name)]).await?;
        let charset = |at: usize| {
            let name = &table.columns[at].name;
            let row = rows
                .iter()
                .find(|row| row.maybe_text(0).as_ref() == Some(name));
            row.and_then(|row| row.maybe_text(1))
        };
        Ok(Shape {
            charsets: table.key.iter().map(|&at| charset(at)).collect(),
            noting: self
                .noting_rows
                .then(|| (0..table.columns.len()).map(charset).collect()),
            table: table.clone(),
        })
    }

    /// Everything that is watched for.
    pub(super) async fn sight(&self, followed: &[Table]) -> Result<Sight, Error> {
        let side = self.side;
        let mut tx = self.read().await?;
        let text = "SELECT CAST(DATABASE() AS CHAR), @@lower_case_table_names";
        let rows = tx.fetch(text, &[]).await.on(side)?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound).on(side)?;
        let mut sight = Sight {
            schema: row.text(0).on(side)?,
            fold: row.int(1).on(side)? != 0,
            tables: HashMap::new(),
        };
        let mut found = vec![
            (self.own_bare("mark"), Watched::Mark),
            (self.own_bare("slot"), Watched::Slot),
        ];
        for table in followed {
            let shape = self.shape(&mut tx, table).await.on(side)?;
            found.push((table.name.clone(), Watched::Table(Arc::new(shape))));
        }
        for (name, watched) in found {
            let name = if sight.fold {
                name.to_lowercase()
            } else {
                name
            };
            sight.tables.insert(name, watched);
        }
        Ok(sight)
    }
}

/// Settings of the server, by their names; what this server does not know is left out.
pub(super) async fn settings(tx: &mut Tx) -> Result<HashMap<String, String>, sqlx::Error> {
    let text = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('server_uuid', 'server_id', 'log_bin', \
                'binlog_format', 'binlog_row_image', 'binlog_row_metadata', 'binlog_order_commits', \
                'binlog_row_value_options')";
    let rows = tx.fetch(text, &[]).await?;
    let pairs = rows.iter().map(|row| Ok((row.text(0)?, row.text(1)?)));
    pairs.collect()
}

/// Where the log ends, and which databases it leaves out, by the newer name or the older one.
pub(super) async fn log_status(tx: &mut Tx) -> Result<Vec<crate::db::tx::Fetched>, sqlx::Error> {
    match tx.fetch("SHOW MASTER STATUS", &[]).await {
        Err(sqlx::Error::Database(e)) if e.message().contains("syntax") => {
            tx.fetch("SHOW BINARY LOG STATUS", &[]).await
        }
        found => found,
    }
}
