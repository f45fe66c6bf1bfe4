//! Locks of the application's tables, taken so that no transaction of the application fails or waits for
//! long by them.
//!
//! A lock that waits has everybody wait who comes behind it, and who holds one table and waits for another closes
//! a circle with a transaction that goes the other way round, of which the server then ends either. So each is
//! waited for only as long as no server looks for circles yet; then all that is held is let go, others pass, and
//! it is tried anew.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Database, Dialect, Tx};
use crate::error::{Error, OnSide};

/// The longest that others wait behind a lock of ours on PostgreSQL; less where it looks for circles sooner.
const WAIT: Duration = Duration::from_millis(200);
/// And in which they pass.
const PAUSE: Duration = Duration::from_millis(100);

impl Database {
    /// Runs statements that lock tables of the application's, until that has taken as long as any lock is waited
    /// for. On PostgreSQL all locks that they take are held then, and what they did is undone with `tx`; on MySQL each
    /// statement is a transaction of its own.
    ///
    /// # Errors
    /// The last one of waiting, when it takes too long.
    pub(super) async fn politely(&self, tx: &mut Tx, texts: &[String]) -> Result<(), Error> {
        match self.dialect() {
            Dialect::Sqlite => {
                for text in texts {
                    tx.script(text.clone()).await.on(self.side)?;
                }
                Ok(())
            }
            Dialect::Postgres => self.politely_postgres(tx, texts).await,
            Dialect::Mysql => self.politely_mysql(tx, texts, self.bounds.busy).await,
        }
    }

    async fn politely_postgres(&self, tx: &mut Tx, texts: &[String]) -> Result<(), Error> {
        let side = self.side;
        let until = Instant::now() + self.bounds.busy;
        let look =
            "SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'deadlock_timeout'";
        let look = tx.number(look, &[]).await.on(side)?;
        let look = look.and_then(|ms| u64::try_from(ms).ok());
        let wait = look.map_or(WAIT, |ms| WAIT.min(Duration::from_millis(ms / 2)));
        let bound = format!("SET LOCAL lock_timeout = {}", wait.as_millis().max(1));
        tx.script(bound).await.on(side)?;
        loop {
            tx.script("SAVEPOINT outgrow_locks".to_owned())
                .await
                .on(side)?;
            let Err(error) = in_turn(tx, texts).await.on(side) else {
                break;
            };
            if !error.is_about_locks() || Instant::now() >= until {
                return Err(error);
            }
            tx.script("ROLLBACK TO SAVEPOINT outgrow_locks".to_owned())
                .await
                .on(side)?;
            sleep(PAUSE).await;
        }
        let usual = "RELEASE SAVEPOINT outgrow_locks; SET LOCAL lock_timeout TO DEFAULT";
        tx.script(usual.to_owned()).await.on(side)
    }

    /// Others wait for a second at the most: the server counts in seconds. Begun anew for so long.
    pub(super) async fn politely_mysql(
        &self,
        tx: &mut Tx,
        texts: &[String],
        patience: Duration,
    ) -> Result<(), Error> {
        let side = self.side;
        let until = Instant::now() + patience;
        let soon = "SET SESSION lock_wait_timeout = 1".to_owned();
        tx.script(soon).await.on(side)?;
        let mut done = Ok(());
        for text in texts {
            done = loop {
                match tx.script(text.clone()).await.on(side) {
                    Err(error) if error.is_about_locks() && Instant::now() < until => {
                        sleep(PAUSE).await;
                    }
                    done => break done,
                }
            };
            if done.is_err() {
                break;
            }
        }
        let usual = self.bounds.busy.as_secs().max(1);
        let usual = format!("SET SESSION lock_wait_timeout = {usual}");
        tx.script(usual).await.on(side)?;
        done
    }
}

async fn in_turn(tx: &mut Tx, texts: &[String]) -> Result<(), sqlx::Error> {
    for text in texts {
        tx.script(text.clone()).await?;
    }
    Ok(())
}
