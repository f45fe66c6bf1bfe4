//! Makes what a link needs in its database, and removes it.

use std::sync::atomic::Ordering;

use super::{Database, Dialect, Feed, Pool, Tx};
use crate::error::{Error, OnSide};
use crate::plan::Plan;

/// The number of a lock of PostgreSQL that nobody else is likely to take: "outgrow" in ASCII.
const TURN: i64 = 0x6f_75_74_67_72_6f_77;
/// Somebody who does not take that lock may make the same, or replace it: the next time it is there.
const TRIES: u32 = 5;

impl Database {
    /// Makes the bookkeeping tables, every trigger that is missing or differs, and what reads the
    /// log.
    pub(crate) async fn install(&self, plan: &Plan) -> Result<(), Error> {
        let turn = self.turn().await?;
        let mut left = TRIES;
        let ended = loop {
            left -= 1;
            match self.install_once(plan).await {
                Err(error) if left > 0 && error.is_about_both_making() => {}
                ended => break ended,
            }
        };
        drop(turn);
        ended
    }

    /// Where several sessions may make the same at once and fail by it: one after another, until this is let go.
    async fn turn(&self) -> Result<Option<Tx>, Error> {
        if self.dialect() != Dialect::Postgres {
            return Ok(None);
        }
        let mut tx = self.read().await?;
        let lock = format!("SELECT pg_advisory_xact_lock({TURN})");
        tx.execute(&lock, &[]).await.on(self.side)?;
        Ok(Some(tx))
    }

    async fn install_once(&self, plan: &Plan) -> Result<(), Error> {
        match &self.pool() {
            // Its triggers name the columns for rows, so it makes them itself.
            Pool::Sqlite(pool) => self.install_sqlite(pool, plan).await?,
            Pool::Postgres(_) => self.install_postgres(plan).await?,
            Pool::Mysql(_) => self.install_mysql(plan).await?,
        }
        if self.dialect() != Dialect::Sqlite {
            self.install_images().await?;
        }
        match &self.feed {
            Some(Feed::Postgres(feed)) => self.install_feed(feed, plan).await?,
            Some(Feed::Mysql(feed)) => self.install_binlog(feed, plan).await?,
            None => {}
        }
        self.install_beat().await?;
        self.install_mark().await?;
        self.install_origin().await?;
        self.install_again().await?;
        self.install_events().await?;
        self.install_verify().await?;
        self.install_both().await
    }

    /// Removes everything that [`Self::install`] made.
    pub(crate) async fn uninstall(&self) -> Result<(), Error> {
        self.beaten.store(i64::MIN, Ordering::Release);
        self.release().await;
        match self.dialect() {
            Dialect::Sqlite => self.uninstall_sqlite().await,
            Dialect::Postgres => self.uninstall_postgres().await,
            Dialect::Mysql => self.uninstall_mysql().await,
        }
    }
}
