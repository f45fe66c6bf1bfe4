//! A transaction that may be left anywhere, also amid a statement.
//!
//! The client library counts answers. Left while a statement is being prepared, it waits for one to a
//! question that it has not asked yet, or takes what belongs to one for the answer to another: whoever
//! gets the connection next waits until the server ends it, minutes later, or reads what is not meant
//! for it. So a connection that was left amid a statement is closed, and the server undoes what was
//! open. The library's own transaction gives it back.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Executor as _, MySql, MySqlConnection, MySqlPool};
use tokio::runtime::Handle;

/// To undo may take its time; a server that does not answer is left, and undoes by itself.
const UNDO: Duration = Duration::from_secs(5);

/// Dropped without a commit, it is undone.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// There until it is dropped.
    connection: Option<PoolConnection<MySql>>,
    /// Something was asked, and the answer is not read to its end.
    asked: bool,
    /// There is something to undo.
    open: bool,
}

impl Transaction {
    /// A connection, in no transaction yet.
    pub(super) async fn on(pool: &MySqlPool) -> Result<Self, sqlx::Error> {
        Ok(Self {
            connection: Some(pool.acquire().await?),
            asked: false,
            open: false,
        })
    }

    pub(super) async fn begin(mut self, statement: &'static str) -> Result<Self, sqlx::Error> {
        self.run(statement).await?;
        self.open = true;
        Ok(self)
    }

    pub(super) async fn run(&mut self, statement: &'static str) -> Result<(), sqlx::Error> {
        let done = self.ask()?.execute(statement).await;
        self.answered(done).map(drop)
    }

    /// What one statement goes over; [`Self::answered`] comes behind it.
    pub(in crate::db) fn ask(&mut self) -> Result<&mut MySqlConnection, sqlx::Error> {
        self.asked = true;
        let connection = self.connection.as_deref_mut();
        connection.ok_or(sqlx::Error::PoolClosed)
    }

    /// The answer was read to its end, unless it is one that nobody understood.
    pub(in crate::db) fn answered<T>(
        &mut self,
        answer: Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        self.asked = matches!(&answer, Err(error) if error.as_database_error().is_none());
        answer
    }

    pub(in crate::db) async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.run("COMMIT").await?;
        self.open = false;
        Ok(())
    }

    pub(in crate::db) async fn rollback(mut self) -> Result<(), sqlx::Error> {
        self.run("ROLLBACK").await?;
        self.open = false;
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        let Ok(runtime) = Handle::try_current() else {
            // A pool takes its connections back in a task, which must have where to run.
            std::mem::forget(connection);
            return;
        };
        if self.asked {
            connection.close_on_drop();
        } else if self.open {
            runtime.spawn(async move {
                let undone = tokio::time::timeout(UNDO, connection.execute("ROLLBACK"));
                if !matches!(undone.await, Ok(Ok(_))) {
                    connection.close_on_drop();
                }
            });
        }
    }
}
