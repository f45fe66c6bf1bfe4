//! The place in the log: recording it, and proving that the log goes on from there.
//!
//! A place is a file and an offset in it, of one server, and beside it the names of the transactions
//! up to there, where the server gives names (GTIDs). A server goes on from file and offset; another
//! one, that was asked for ([`super::moved`]), from the names. That it is the same log, or goes on from
//! it, is proved by the log itself: each record of a place is written with a stamp that no other has,
//! and comes by the log behind that place. Where it does not come, the log is another.

use std::collections::HashMap;
use std::sync::Arc;

use super::gtid::{Flavour, Gtids};
use super::noted::Shape;
use super::{Feed, Watched};
use crate::db::{Arg, Database, Tx};
use crate::error::{Error, OnSide};
use crate::plan::{Plan, Table};

/// A place in the log, between two transactions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: String,
    pub(super) pos: u64,
}

/// What is recorded of a place.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) reader: u32,
    pub(super) from: Begin,
    pub(super) stamp: String,
    /// The transactions up to the place.
    pub(super) gtids: Option<Gtids>,
    /// The server as it is now, and the files of its log.
    pub(super) server: String,
    pub(super) files: Vec<String>,
}

/// Where a log is asked to begin.
#[derive(Debug, Clone)]
pub(super) enum Begin {
    Place(Place),
    /// Behind these, wherever that is.
    Gtids(Gtids),
}

/// A row of `slot`: the record of the place, or a word that another server may be gone on with.
struct Kept {
    id: i64,
    stamp: String,
    server: String,
    reader: u32,
    place: Place,
    gtids: Option<String>,
}

/// The record of the place.
const RECORD: i64 = 1;
/// That this server may be gone on with from the record with this stamp.
pub(super) const ALLOWED: i64 = 2;

pub(super) fn allowed(stamp: &str) -> String {
    format!("from {stamp}")
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
                 reader BIGINT NOT NULL, file VARCHAR(512) NOT NULL, pos BIGINT NOT NULL, \
                 gtids MEDIUMTEXT",
            ),
        ] {
            let text = format!(
                "CREATE TABLE IF NOT EXISTS {} ({columns}) ENGINE = InnoDB \
                 CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
                self.own(what)
            );
            tx.script(text).await.on(side)?;
        }
        if !self.slot_names(&mut tx).await.on(side)? {
            // Made by a version before.
            let add = format!(
                "ALTER TABLE {} ADD COLUMN gtids MEDIUMTEXT",
                self.own("slot")
            );
            tx.script(add).await.on(side)?;
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
        // Before the place: what is between the two is named again when it is read.
        let gtids = self.written(feed, &mut tx).await.on(side)?;
        let place = self.end_of_log(&mut tx).await.on(side)?;
        let Some(place) = place else {
            let what = "its binary log is off".to_owned();
            return Err(Error::Unreadable { side, what });
        };
        let server = self.server(&mut tx).await.on(side)?;
        // Above what people give to their servers.
        let text = format!(
            "INSERT INTO {} (id, stamp, server, reader, file, pos, gtids) \
             VALUES ({RECORD}, UUID(), ?, 2147483648 + FLOOR(RAND() * 2147483647), ?, ?, ?)",
            self.own("slot")
        );
        let args = [
            Arg::from(&server),
            Arg::from(&place.file),
            Arg::from(i64::try_from(place.pos).unwrap_or(i64::MAX)),
            Arg::Text(gtids.as_ref().map(Gtids::to_string)),
        ];
        tx.execute(&text, &args).await.on(side)?;
        tx.commit().await.on(side)
    }

    /// Whether names of transactions are kept beside a place: not by versions before.
    async fn slot_names(&self, tx: &mut Tx) -> Result<bool, sqlx::Error> {
        let text = "SELECT count(*) FROM information_schema.columns \
                    WHERE table_schema = DATABASE() AND table_name = ? AND column_name = 'gtids'";
        let slot = Arg::from(&self.own_bare("slot"));
        Ok(tx.number(text, &[slot]).await? == Some(1))
    }

    /// What tells this server from all that may have taken its place.
    pub(super) async fn server(&self, tx: &mut Tx) -> Result<String, sqlx::Error> {
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
    pub(in crate::db) async fn binlog_in_order(&self, feed: &Feed) -> Result<(), Error> {
        self.recorded(feed).await.map(drop)
    }

    pub(super) async fn recorded(&self, feed: &Feed) -> Result<Slot, Error> {
        let side = self.side;
        let mut tx = self.read().await?;
        let (kept, allows) = self.kept(&mut tx).await?;
        let now = self.server(&mut tx).await.on(side)?;
        let mut gtids = self.position_of(feed, &mut tx, &kept).await.on(side)?;
        let logs = tx.fetch("SHOW BINARY LOGS", &[]).await.on(side)?;
        let files: Vec<String> = logs.iter().filter_map(|row| row.maybe_text(0)).collect();
        let Kept { place, stamp, .. } = kept;
        let size = logs
            .iter()
            .find(|row| row.maybe_text(0).as_ref() == Some(&place.file))
            .map(|row| row.maybe(1).and_then(|size| u64::try_from(size).ok()));
        let wrong = match size {
            _ if kept.server != now => Some(format!("it had {} and has {now}", kept.server)),
            None => Some(format!(
                "the server has removed its binary log `{}`, which was not read to its end",
                place.file
            )),
            Some(Some(size)) if size < place.pos => Some(format!(
                "its binary log `{}` has {size} bytes, {} were read",
                place.file, place.pos
            )),
            Some(_) => None,
        };
        let from = match (wrong, &gtids) {
            (None, _) => {
                if gtids.is_none() {
                    gtids = self.names_of(feed, &mut tx, &place).await;
                }
                Begin::Place(place)
            }
            (Some(_), Some(gtids)) if allows == Some((allowed(&stamp), now.clone())) => {
                Begin::Gtids(gtids.clone())
            }
            (Some(what), Some(_)) => {
                let slice = self.slice.clone();
                return Err(Error::Elsewhere { side, slice, what });
            }
            (Some(what), None) => return Err(Error::Discontinued { side, what }),
        };
        Ok(Slot {
            reader: kept.reader,
            from,
            stamp,
            gtids,
            server: now,
            files,
        })
    }

    /// The record of the place, and what may be gone on with from where.
    async fn kept(&self, tx: &mut Tx) -> Result<(Kept, Option<(String, String)>), Error> {
        let side = self.side;
        let gtids = match self.slot_names(tx).await.on(side)? {
            true => "CAST(gtids AS CHAR)",
            false => "NULL",
        };
        let text = format!(
            "SELECT id, stamp, server, reader, file, pos, {gtids} FROM {} ORDER BY id",
            self.own("slot")
        );
        let rows = tx.fetch(&text, &[]).await.on(side)?;
        let read = |row: &crate::db::tx::Fetched| {
            let number = |at| row.int(at).map(|n| u64::try_from(n).unwrap_or(0));
            Ok::<_, sqlx::Error>(Kept {
                id: row.int(0)?,
                stamp: row.text(1)?,
                server: row.text(2)?,
                reader: u32::try_from(number(3)?).unwrap_or(u32::MAX),
                place: Place {
                    file: row.text(4)?,
                    pos: number(5)?,
                },
                gtids: row.maybe_text(6),
            })
        };
        let (mut record, mut allows) = (None, None);
        for row in &rows {
            let kept = read(row).on(side)?;
            match kept.id {
                RECORD => record = Some(kept),
                _ => allows = Some((kept.stamp, kept.server)),
            }
        }
        let what = || "it has no place in its log".to_owned();
        let record = record.ok_or_else(|| Error::Discontinued { side, what: what() })?;
        Ok((record, allows))
    }

    pub(super) async fn recorded_names(
        &self,
        feed: &Feed,
        tx: &mut Tx,
    ) -> Result<Option<Gtids>, Error> {
        let (kept, _) = self.kept(tx).await?;
        self.position_of(feed, tx, &kept).await.on(self.side)
    }

    pub(super) async fn recorded_stamp(&self, tx: &mut Tx) -> Result<String, Error> {
        Ok(self.kept(tx).await?.0.stamp)
    }

    async fn position_of(
        &self,
        feed: &Feed,
        tx: &mut Tx,
        kept: &Kept,
    ) -> Result<Option<Gtids>, sqlx::Error> {
        let flavour = self.flavour(feed, tx).await?;
        let text = kept.gtids.as_deref();
        let gtids = text.and_then(|text| Gtids::parse(flavour, text));
        Ok(gtids.filter(|gtids| !gtids.is_empty()))
    }

    /// The transactions up to a place that a version before has recorded, which MariaDB can tell.
    async fn names_of(&self, feed: &Feed, tx: &mut Tx, place: &Place) -> Option<Gtids> {
        if self.flavour(feed, tx).await.ok()? == Flavour::Mysql {
            return None;
        }
        let pos = i64::try_from(place.pos).ok()?;
        let args = [Arg::from(&place.file), Arg::from(pos)];
        let text = "SELECT CAST(BINLOG_GTID_POS(?, ?) AS CHAR)";
        let rows = tx.fetch(text, &args).await.ok()?;
        let text = rows.first()?.maybe_text(0)?;
        Gtids::parse(Flavour::Maria, &text).filter(|gtids| !gtids.is_empty())
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
                'binlog_row_value_options', 'read_only', \
                'gtid_mode', 'gtid_strict_mode', 'log_slave_updates', 'log_replica_updates')";
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
