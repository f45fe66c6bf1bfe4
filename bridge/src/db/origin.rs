//! What a side has seen of the other one's log: which server that was, and the names (GTIDs) of all
//! transactions whose rows may have come from it. Kept in the transactions that write those rows.
//!
//! Rows are read as they are, so they may be newer than the change that led to them: the place in the
//! stream alone does not say what was seen. What the server had named once the rows were read does.

use outgrow_rollout::Side;

use super::{Arg, Database, Dialect, Feed, Tx};
use crate::error::{Error, OnSide};
use crate::fail_over::Moved;
use crate::plan::Plan;
use crate::spec::{DatabaseUrl, Limits};

/// What was seen of a stream's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) server: String,
    /// `None` where that server names no transactions.
    pub(crate) gtids: Option<String>,
}

impl Database {
    /// Makes the table of what was seen.
    pub(crate) async fn install_origin(&self) -> Result<(), Error> {
        let (engine, long) = match self.dialect() {
            Dialect::Mysql => (" ENGINE = InnoDB CHARACTER SET utf8mb4", "MEDIUMTEXT"),
            Dialect::Sqlite | Dialect::Postgres => ("", "text"),
        };
        let make = format!(
            "CREATE TABLE IF NOT EXISTS {} (stream varchar(16) PRIMARY KEY, \
             server varchar(128) NOT NULL, gtids {long}){engine}",
            self.own("origin")
        );
        let mut tx = self.write().await?;
        tx.script(make).await.on(self.side)?;
        tx.commit().await.on(self.side)
    }

    pub(crate) async fn origin(&self, tx: &mut Tx, stream: Side) -> Result<Option<Origin>, Error> {
        let text = format!(
            "SELECT server, gtids FROM {} WHERE stream = ?",
            self.own("origin")
        );
        let args = [Arg::from(stream.as_str())];
        let rows = tx.fetch(&text, &args).await.on(self.side)?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        Ok(Some(Origin {
            server: row.text(0).on(self.side)?,
            gtids: row.maybe_text(1),
        }))
    }

    /// Which server a stream comes from, from now on.
    pub(crate) async fn set_origin(
        &self,
        tx: &mut Tx,
        stream: Side,
        origin: &Origin,
    ) -> Result<(), Error> {
        let text = format!(
            "INSERT INTO {} (stream, server, gtids) VALUES (?, ?, ?) {}",
            self.own("origin"),
            self.dialect().or_update("stream", &["server", "gtids"])
        );
        let args = [
            Arg::from(stream.as_str()),
            Arg::from(&origin.server),
            Arg::Text(origin.gtids.clone()),
        ];
        tx.execute(&text, &args).await.on(self.side).map(drop)
    }

    /// What may have been seen of a stream once this transaction's rows are there.
    pub(crate) async fn saw(&self, tx: &mut Tx, stream: Side, gtids: &str) -> Result<(), Error> {
        let text = format!(
            "UPDATE {} SET gtids = ? WHERE stream = ?",
            self.own("origin")
        );
        let args = [Arg::from(gtids), Arg::from(stream.as_str())];
        tx.execute(&text, &args).await.on(self.side).map(drop)
    }

    /// Which server has this side's log; `None` where none is read that could be another's.
    pub(crate) async fn server_now(&self) -> Result<Option<String>, Error> {
        match &self.feed {
            Some(Feed::Mysql(_)) => self.binlog_server().await.map(Some),
            Some(Feed::Postgres(_)) | None => Ok(None),
        }
    }

    /// The names of all transactions whose rows a snapshot of before may show, where the server of
    /// the log gives names.
    pub(crate) async fn named(&self, tx: &mut Tx) -> Result<Option<String>, Error> {
        match &self.feed {
            Some(Feed::Mysql(feed)) => self.binlog_written(feed, tx).await,
            Some(Feed::Postgres(_)) | None => Ok(None),
        }
    }

    /// Proves that this server goes on from the one that `seen` is of.
    pub(crate) async fn prove(
        &self,
        was: &str,
        seen: Option<&str>,
    ) -> Result<Option<Moved>, Error> {
        match &self.feed {
            Some(Feed::Mysql(feed)) => self.prove_binlog(feed, was, seen).await.map(Some),
            Some(Feed::Postgres(_)) | None => Ok(None),
        }
    }

    /// What of `gtids` this server has not, as the same one or in another's place.
    pub(crate) async fn lacks(&self, gtids: &str) -> Result<Vec<String>, Error> {
        match &self.feed {
            Some(Feed::Mysql(feed)) => self.binlog_lacks(feed, gtids).await,
            Some(Feed::Postgres(_)) | None => Ok(Vec::new()),
        }
    }

    /// What stands in the way of going on with another server, should one take this one's place,
    /// and of rows that change places: (what, the way out).
    pub(crate) async fn advice(
        &self,
        plan: &Plan,
        limits: &Limits,
    ) -> Result<Vec<(String, String)>, Error> {
        match (&self.feed, self.dialect()) {
            (Some(Feed::Mysql(_)), _) => self.binlog_advice().await,
            (feed, Dialect::Postgres) => {
                let mut advice = self.action_advice(plan).await?;
                if feed.is_some() {
                    advice.extend(self.slot_advice(limits.log_bytes).await?);
                }
                Ok(advice)
            }
            (_, Dialect::Mysql) => self.emptied_advice(plan).await,
            (_, Dialect::Sqlite) => Ok(Vec::new()),
        }
    }

    /// Whether another server in its place is to be gone on with unasked.
    pub(crate) fn follows_failover(&self) -> bool {
        matches!(&self.url, DatabaseUrl::Mysql(url) if url.follow_failover)
    }

    /// Lets the server that was proved be followed.
    pub(crate) async fn allow(&self) -> Result<(), Error> {
        match &self.feed {
            Some(Feed::Mysql(feed)) => self.allow_binlog(feed).await,
            Some(Feed::Postgres(_)) | None => Ok(()),
        }
    }

    /// The first number that its stream still has, if any.
    pub(crate) async fn first_change(&self, tx: &mut Tx) -> Result<Option<i64>, Error> {
        let text = format!("SELECT min(seq) FROM {}", self.own("changes"));
        tx.number(&text, &[]).await.on(self.side)
    }

    /// Takes a position back, for what was behind it comes again under other numbers.
    pub(crate) async fn set_back(&self, tx: &mut Tx, stream: Side, to: i64) -> Result<(), Error> {
        let text = format!(
            "UPDATE {} SET seq = ? WHERE stream = ? AND seq > ?",
            self.own("position")
        );
        let args = [Arg::from(to), Arg::from(stream.as_str()), Arg::from(to)];
        tx.execute(&text, &args).await.on(self.side).map(drop)
    }
}
