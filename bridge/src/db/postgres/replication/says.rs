//! How the bridge says something in the log, as part of a transaction: that the transaction is its own, a
//! heartbeat, a mark. From PostgreSQL 14 on that is a message, which costs nothing but the log. Before,
//! `pgoutput` has no messages, so it is a row of a table of ours that is published with the others: each of the
//! server's processes has one row there, so that no two transactions wait for one another, and the table stays
//! as small as the server has processes.

use std::sync::atomic::{AtomicI64, Ordering};

use super::pgoutput::{Relation, Row, Value};
use super::{Feed, PREFIX};
use crate::db::{Database, Tx, literal};
use crate::error::{Error, OnSide};

/// The first version whose `pgoutput` tells messages, binary values, and transactions that run.
const TELLS: i64 = 140_000;
/// The column of what is said.
const WHAT: &str = "what";

/// The server's version, once it is known.
#[derive(Debug, Default)]
pub(super) struct Version(AtomicI64);

impl Version {
    pub(super) fn set(&self, version: i64) {
        self.0.store(version, Ordering::Relaxed);
    }

    fn known(&self) -> Option<i64> {
        let version = self.0.load(Ordering::Relaxed);
        (version > 0).then_some(version)
    }
}

impl Feed {
    /// Whether the server's log tells messages, binary values, and transactions that run.
    pub(super) fn tells(&self) -> bool {
        self.version.known().is_none_or(|version| version >= TELLS)
    }
}

impl Database {
    /// Asks for the server's version, where it is not known yet.
    pub(super) async fn learn_version(&self, feed: &Feed) -> Result<(), Error> {
        if feed.version.known().is_none() {
            let mut tx = self.read().await?;
            feed.version.set(self.server_version(&mut tx).await?);
        }
        Ok(())
    }

    pub(super) async fn server_version(&self, tx: &mut Tx) -> Result<i64, Error> {
        let text = "SELECT current_setting('server_version_num')::int8";
        let version = tx.number(text, &[]).await.on(self.side)?;
        Ok(version.unwrap_or(0))
    }

    /// The statement that says this, in SQL and in a function of ours.
    pub(in crate::db) async fn saying(
        &self,
        feed: &Feed,
        what: &str,
    ) -> Result<(String, String), Error> {
        self.learn_version(feed).await?;
        let what = literal(&format!("{} {what}", self.slice));
        if feed.tells() {
            let call = format!("pg_logical_emit_message(true, {}, {what})", literal(PREFIX));
            return Ok((format!("SELECT {call}"), format!("PERFORM {call}")));
        }
        let row = format!(
            "INSERT INTO {} (pid, {WHAT}) VALUES (pg_backend_pid(), {what}) \
             ON CONFLICT (pid) DO UPDATE SET {WHAT} = excluded.{WHAT}",
            self.own("said")
        );
        Ok((row.clone(), row))
    }

    /// A word of ours into the log, as part of a transaction.
    pub(in crate::db) async fn emit(
        &self,
        feed: &Feed,
        tx: &mut Tx,
        what: &str,
    ) -> Result<(), Error> {
        if feed.version.known().is_none() {
            feed.version.set(self.server_version(tx).await?);
        }
        let (text, _) = self.saying(feed, what).await?;
        tx.script(text).await.on(self.side)
    }

    /// Makes the table of what is said where the log tells no messages, and forgets there what processes have
    /// said that are gone.
    pub(super) async fn install_said(&self, tx: &mut Tx) -> Result<(), Error> {
        let said = self.own("said");
        // Room for the next version of a row beside it.
        let text = format!(
            "CREATE TABLE IF NOT EXISTS {said} (pid int PRIMARY KEY, {WHAT} text NOT NULL) \
             WITH (fillfactor = 20); \
             DELETE FROM {said} WHERE pid NOT IN (SELECT pid FROM pg_stat_activity WHERE pid IS NOT NULL)"
        );
        tx.script(text).await.on(self.side)
    }
}

/// What a row of the table of what is said says.
pub(super) fn words<'a>(relation: &Relation, row: &Row<'a>) -> Option<&'a str> {
    let at = relation.columns.iter().position(|column| column == WHAT)?;
    match row.new.as_ref()?.get(at)? {
        Value::Text(text) => Some(text),
        Value::Null | Value::Unchanged | Value::Binary(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::pgoutput::{Message, decode};
    use super::*;

    #[test]
    fn what_is_said_is_read_from_the_row() {
        let relation = |columns: &[&str]| Relation {
            id: 7,
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            types: vec![(23, u32::MAX), (25, u32::MAX)],
            came: 0,
        };
        let said = |text: &[u8], relation: &Relation| match decode(text) {
            Ok(Message::Row(row)) => words(relation, &row).map(str::to_owned),
            other => panic!("{other:?}"),
        };
        let own = relation(&["pid", "what"]);
        let insert = b"I\0\0\0\x07N\0\x02t\0\0\0\x019t\0\0\0\x09items own";
        assert_eq!(said(insert, &own).as_deref(), Some("items own"));
        let update = b"U\0\0\0\x07N\0\x02t\0\0\0\x019t\0\0\0\x09items own";
        assert_eq!(said(update, &own).as_deref(), Some("items own"));
        // A process that is gone is forgotten.
        let delete = b"D\0\0\0\x07K\0\x02t\0\0\0\x019n";
        assert_eq!(said(delete, &own), None);
        assert_eq!(said(insert, &relation(&["pid", "other"])), None);
    }
}
