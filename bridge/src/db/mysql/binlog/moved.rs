//! Another server in the place of the one that was followed: what proves that its log goes on from
//! ours.
//!
//! A replica has the transactions of the server before it under the same names, our own tables with
//! their rows, and so our record of the place. That it may be gone on with is proved before anything is
//! read from it: it has all that the place stands for and all that the other side may have seen
//! ([`crate::db::origin`]), its log still has all that comes behind, and it takes writes. Then a word is
//! put beside the record, which is good for this server and this record only. That the log is really
//! the same is proved by the record's stamp, as ever.

use super::Feed;
use super::connect::Broken;
use super::gtid::{Flavour, Gtids, Held, owned};
use super::place::{ALLOWED, Begin, allowed, settings};
use crate::db::{Arg, Database, Tx};
use crate::error::{Error, OnSide};
use crate::fail_over::Moved;

impl Database {
    /// How this server names transactions.
    pub(super) async fn flavour(&self, feed: &Feed, tx: &mut Tx) -> Result<Flavour, sqlx::Error> {
        if let Some(known) = feed.flavour.get() {
            return Ok(*known);
        }
        let set = settings(tx).await?;
        let found = match set.contains_key("server_uuid") {
            true => Flavour::Mysql,
            false => Flavour::Maria,
        };
        Ok(*feed.flavour.get_or_init(|| found))
    }

    /// What tells this server from all others.
    pub(in crate::db) async fn binlog_server(&self) -> Result<String, Error> {
        let mut tx = self.read().await?;
        self.server(&mut tx).await.on(self.side)
    }

    /// All transactions that a snapshot may show that was taken before. `None` where this server does
    /// not name them.
    pub(super) async fn written(
        &self,
        feed: &Feed,
        tx: &mut Tx,
    ) -> Result<Option<Gtids>, sqlx::Error> {
        let flavour = self.flavour(feed, tx).await?;
        let found = match flavour {
            // It names a transaction before others can see it.
            Flavour::Maria => {
                let text = value(tx, "gtid_binlog_pos").await?;
                Gtids::parse(flavour, &text)
            }
            // While they are off, or some have none, names of before do not stand for all there is.
            Flavour::Mysql if value(tx, "gtid_mode").await? != "ON" => None,
            // It may do so later; till then it is under way, which is asked first.
            Flavour::Mysql => {
                let (under_way, all) = (
                    value(tx, "gtid_owned").await?,
                    value(tx, "gtid_executed").await?,
                );
                let all = Gtids::parse(flavour, &all).filter(|all| !all.is_empty());
                all.zip(owned(&under_way)).map(|(mut all, under_way)| {
                    all.join(under_way);
                    all
                })
            }
        };
        Ok(found.filter(|found| !found.is_empty()))
    }

    /// As [`Self::written`], as text.
    pub(in crate::db) async fn binlog_written(
        &self,
        feed: &Feed,
        tx: &mut Tx,
    ) -> Result<Option<String>, Error> {
        let found = self.written(feed, tx).await.on(self.side)?;
        Ok(found.map(|found| found.to_string()))
    }

    async fn held(&self, flavour: Flavour, tx: &mut Tx) -> Result<Held, Error> {
        let side = self.side;
        let held = match flavour {
            Flavour::Maria => {
                let state = value(tx, "gtid_binlog_state").await.on(side)?;
                let applied = value(tx, "gtid_slave_pos").await.on(side)?;
                Held::maria(&state, &applied)
            }
            Flavour::Mysql => Held::mysql(&value(tx, "gtid_executed").await.on(side)?),
        };
        held.ok_or_else(|| self.unproved("what it says of its GTIDs cannot be read"))
    }

    pub(in crate::db) async fn binlog_lacks(
        &self,
        feed: &Feed,
        gtids: &str,
    ) -> Result<Vec<String>, Error> {
        let mut tx = self.read().await?;
        let flavour = self.flavour(feed, &mut tx).await.on(self.side)?;
        let held = self.held(flavour, &mut tx).await?;
        let gtids = Gtids::parse(flavour, gtids);
        Ok(gtids.map_or_else(Vec::new, |gtids| gtids.lacking(&held)))
    }

    fn unproved(&self, what: impl Into<String>) -> Error {
        Error::Unproved {
            side: self.side,
            what: what.into(),
        }
    }

    /// Proves that this server has all that the place stands for, and what the other side has `seen`,
    /// and that its log goes on from there.
    pub(in crate::db) async fn prove_binlog(
        &self,
        feed: &Feed,
        was: &str,
        seen: Option<&str>,
    ) -> Result<Moved, Error> {
        let side = self.side;
        let mut tx = self.read().await?;
        let flavour = self.flavour(feed, &mut tx).await.on(side)?;
        let place = self.recorded_names(feed, &mut tx).await?;
        let seen = seen.and_then(|seen| Gtids::parse(flavour, seen));
        let (Some(place), Some(seen)) = (place, seen) else {
            return Err(self.unproved(
                "no GTIDs were recorded of what was read from the one before: close the link with \
                 `outgrow sync close` and start the copy again",
            ));
        };
        let now = self.server(&mut tx).await.on(side)?;
        let set = settings(&mut tx).await.on(side)?;
        if set.get("read_only").is_some_and(|value| value == "ON") {
            return Err(Error::ReadOnly(side));
        }
        let held = self.held(flavour, &mut tx).await?;
        let mut lacking = place.lacking(&held);
        lacking.extend(seen.lacking(&held));
        lacking.sort();
        lacking.dedup();
        if !lacking.is_empty() {
            return Err(self.unproved(format!(
                "it lacks {}, which the one before had and the other side may have already: close the \
                 link with `outgrow sync close` and start the copy again",
                lacking.join(", ")
            )));
        }
        self.continues_from(feed, &mut tx, &place).await?;
        Ok(Moved {
            side,
            was: was.to_owned(),
            now,
            place: place.to_string(),
            seen: seen.to_string(),
            again: 0,
        })
    }

    /// Whether its log has all that comes behind.
    async fn continues_from(&self, feed: &Feed, tx: &mut Tx, place: &Gtids) -> Result<(), Error> {
        let gone = |what: &str| {
            self.unproved(format!(
                "its binary log does not have all that comes behind {place} ({what}): close the link \
                 with `outgrow sync close` and start the copy again"
            ))
        };
        if let Gtids::Mysql(_) = place {
            let purged = value(tx, "gtid_purged").await.on(self.side)?;
            let beyond = Held::mysql(&purged).map(|purged| purged.beyond(place));
            if let Some(beyond) = beyond.filter(|beyond| !beyond.is_empty()) {
                return Err(gone(&format!("it has removed {}", beyond.join(", "))));
            }
        }
        let from = Begin::Gtids(place.clone());
        match self.tried(feed, tx, &from).await.on(self.side)? {
            Ok(()) => Ok(()),
            Err(Broken::Gone(what)) => Err(gone(&what)),
            Err(Broken::Passing(cause)) => Err(self.stream_error(cause)),
        }
    }

    /// Lets this server be gone on with from the record in force.
    pub(in crate::db) async fn allow_binlog(&self, feed: &Feed) -> Result<(), Error> {
        let side = self.side;
        let mut tx = self.write().await?;
        let stamp = self.recorded_stamp(&mut tx).await?;
        let text = format!(
            "REPLACE INTO {} (id, stamp, server, reader, file, pos) VALUES ({ALLOWED}, ?, ?, 0, '', 0)",
            self.own("slot")
        );
        let server = self.server(&mut tx).await.on(side)?;
        let args = [Arg::from(&allowed(&stamp)), Arg::from(&server)];
        tx.execute(&text, &args).await.on(side)?;
        tx.commit().await.on(side)?;
        let mut inner = feed.inner.lock().await;
        inner.stream = None;
        // What this process has seen of the other server proves nothing of this one.
        inner.head = 0;
        Ok(())
    }
}

/// A setting that may be long; those are cut in the list of all.
async fn value(tx: &mut Tx, name: &str) -> Result<String, sqlx::Error> {
    let text = format!("SELECT CAST(@@global.{name} AS CHAR)");
    let rows = tx.fetch(&text, &[]).await?;
    Ok(rows
        .first()
        .and_then(|row| row.maybe_text(0))
        .unwrap_or_default())
}
