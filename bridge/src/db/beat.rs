//! Heartbeats of a side's stream, and what they prove: a database that was restored from a backup
//! has forgotten some, however many changes have come since.

use std::sync::atomic::Ordering;

use super::{Arg, Database, Dialect, Tx};
use crate::error::{Error, OnSide};

impl Database {
    /// Makes the table of the last heartbeat.
    pub(super) async fn install_beat(&self) -> Result<(), Error> {
        let engine = match self.dialect() {
            Dialect::Mysql => " ENGINE = InnoDB",
            Dialect::Sqlite | Dialect::Postgres => "",
        };
        let make = format!(
            "CREATE TABLE IF NOT EXISTS {} (id int PRIMARY KEY, at bigint NOT NULL){engine}",
            self.own("beat")
        );
        let mut tx = self.write().await?;
        tx.script(make).await.on(self.side)?;
        tx.commit().await.on(self.side)
    }

    /// Puts a heartbeat into the stream, and returns its time. Everything that was committed before
    /// its time comes before it: where there is one writer, the time is read once this is the one;
    /// where places are given later, heartbeats get theirs after all else that is there. Where
    /// triggers note changes, each is later than the last, also when the clock is set back: until it
    /// has caught up, nobody is told that what was written now is on the other side.
    ///
    /// # Errors
    /// [`Error::Discontinued`] where heartbeats are gone.
    pub(crate) async fn beat(&self) -> Result<i64, Error> {
        let early = self.clock.now_ms();
        let mut tx = self.write().await?;
        if self.feed.is_some() {
            self.tell(&mut tx, &format!("beat {early}")).await?;
            tx.commit().await.on(self.side)?;
            return Ok(early);
        }
        let lock = match self.dialect() {
            Dialect::Sqlite => "",
            Dialect::Postgres | Dialect::Mysql => " FOR UPDATE",
        };
        let last = self.last_beat(&mut tx, lock).await?;
        self.has_beaten(last, None)?;
        let now = match self.dialect() {
            Dialect::Sqlite => self.clock.now_ms(),
            Dialect::Postgres | Dialect::Mysql => early,
        };
        // Later than whatever the other side has seen, also of a version that kept no record of it.
        let sent = last.unwrap_or(i64::MIN);
        let sent = sent.max(self.beaten.load(Ordering::Acquire));
        let at = now.max(sent.saturating_add(1));
        let text = format!(
            "INSERT INTO {} (id, at) VALUES (1, ?) {}",
            self.own("beat"),
            self.dialect().or_update("id", &["at"])
        );
        tx.execute(&text, &[Arg::from(at)]).await.on(self.side)?;
        let text = format!(
            "INSERT INTO {} (tbl, op, at) VALUES ('', 'h', ?)",
            self.noted()
        );
        tx.execute(&text, &[Arg::from(at)]).await.on(self.side)?;
        tx.commit().await.on(self.side)?;
        self.beaten.fetch_max(at, Ordering::AcqRel);
        Ok(at)
    }

    /// The last heartbeat of this side that triggers have a stream for.
    pub(crate) async fn last_beat(&self, tx: &mut Tx, lock: &str) -> Result<Option<i64>, Error> {
        let text = format!("SELECT at FROM {} WHERE id = 1{lock}", self.own("beat"));
        tx.number(&text, &[]).await.on(self.side)
    }

    /// Refuses a database whose last heartbeat is older than one that it has sent: one that the other
    /// side has applied, or that this process has seen. None is that of an older version.
    pub(crate) fn has_beaten(&self, last: Option<i64>, applied: Option<i64>) -> Result<(), Error> {
        if let Some(applied) = applied {
            self.beaten.fetch_max(applied, Ordering::AcqRel);
        }
        let sent = self.beaten.load(Ordering::Acquire);
        match last {
            Some(last) if last < sent => Err(Error::Discontinued {
                side: self.side,
                what: format!("its last heartbeat is {last}, and it had sent {sent}"),
            }),
            _ => Ok(()),
        }
    }

    /// Milliseconds since 1970 by the clock that this database's applications are told.
    pub(crate) async fn time_of_day(&self) -> Result<i64, Error> {
        let text = match self.dialect() {
            // The machine's own.
            Dialect::Sqlite => return Ok(self.clock.now_ms()),
            Dialect::Postgres => "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint",
            Dialect::Mysql => "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)",
        };
        let mut tx = self.read().await?;
        let found = tx.number(text, &[]).await.on(self.side)?;
        Ok(found.unwrap_or(0))
    }
}
