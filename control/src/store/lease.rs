//! The lease: only its holder changes states, so two controllers on one store cannot fight.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use sqlx::{Row, Sqlite, Transaction};

use super::Store;
use crate::error::StoreError;
use crate::wall;

/// A lease that is not renewed lapses after so long: long enough for a slow disk, short enough
/// that a killed controller is replaced within seconds.
pub const LEASE_MS: i64 = 3_000;

/// Between two looks at a lease that somebody else holds.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

const NAME: &str = "controller";

/// Who we are towards the other controllers.
#[derive(Debug, Clone)]
pub struct Lease {
    holder: String,
}

impl Lease {
    /// `name` is shown to people, e.g. `pid 42 on shop-1`; a random tail tells two runs apart.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let tail = RandomState::new().hash_one(name) & 0xffff_ffff;
        Self {
            holder: format!("{name} #{tail:08x}"),
        }
    }

    #[must_use]
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Refuses unless we hold the lease at this moment of the transaction. A lapsed lease that
    /// nobody took is still ours: the row is locked, so nobody can take it meanwhile.
    pub(super) async fn check(
        &self,
        tx: &mut Transaction<'static, Sqlite>,
    ) -> Result<(), StoreError> {
        let holder: Option<String> = sqlx::query_scalar("SELECT holder FROM leases WHERE name = ?")
            .bind(NAME)
            .fetch_optional(&mut **tx)
            .await?;
        match holder {
            Some(holder) if holder == self.holder => Ok(()),
            holder => Err(StoreError::Held {
                holder: holder.unwrap_or_else(|| "nobody, our lease was given up".to_owned()),
            }),
        }
    }
}

impl Store {
    /// Takes the lease, or renews it. [`StoreError::Held`] if somebody else holds it.
    ///
    /// # Errors
    /// Returns [`StoreError`].
    pub async fn renew(&self, lease: &Lease) -> Result<(), StoreError> {
        let now = wall::now_ms();
        sqlx::query(
            "INSERT INTO leases (name, holder, until) VALUES (?1, ?2, ?3)
             ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
             WHERE leases.holder = ?2 OR leases.until < ?4",
        )
        .bind(NAME)
        .bind(&lease.holder)
        .bind(now + LEASE_MS)
        .bind(now)
        .execute(&self.pool)
        .await?;
        match self.holder().await? {
            Some((holder, _)) if holder == lease.holder => Ok(()),
            Some((holder, _)) => Err(StoreError::Held { holder }),
            None => Err(StoreError::Held {
                holder: "nobody".to_owned(),
            }),
        }
    }

    /// Takes the lease; waits for one that is not renewed any more, but not for one that is.
    ///
    /// # Errors
    /// [`StoreError::Held`] once the other holder has renewed its lease.
    pub async fn acquire(&self, lease: &Lease) -> Result<(), StoreError> {
        let seen = self.holder().await?;
        loop {
            let refused = match self.renew(lease).await {
                Err(refused @ StoreError::Held { .. }) => refused,
                done => return done,
            };
            let now = self.holder().await?;
            // It is alive: it renewed, or it is one that came before us.
            if now != seen {
                return Err(refused);
            }
            // Clocks that differ could make a lease seem to lie far ahead.
            if now.is_some_and(|(_, until)| until > wall::now_ms() + 2 * LEASE_MS) {
                return Err(refused);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Gives the lease up, so that a successor need not wait.
    ///
    /// # Errors
    /// Returns [`StoreError`].
    pub async fn give_up(&self, lease: &Lease) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM leases WHERE name = ? AND holder = ?")
            .bind(NAME)
            .bind(&lease.holder)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn holder(&self) -> Result<Option<(String, i64)>, StoreError> {
        let row = sqlx::query("SELECT holder, until FROM leases WHERE name = ?")
            .bind(NAME)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|row| (row.get("holder"), row.get("until"))))
    }
}
