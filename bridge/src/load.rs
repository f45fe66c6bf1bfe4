//! How busy a side is with the statements of others, and who waits for that: copies, verifications
//! and repairs, which may as well go on later. Following never does.
//!
//! A server is asked once a second at the most, however many wait, and not at all while nobody does.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use outgrow_rollout::{Side, SideLoad};

use crate::db::{Database, Dialect, Feed, quote};
use crate::error::{Error, OnSide};
use crate::preflight::Problem;
use crate::shared::Shared;

/// Between two questions.
const EVERY: Duration = Duration::from_secs(1);
/// Between two looks whether others have asked.
const LOOK: Duration = Duration::from_millis(200);
/// What was told longer ago says nothing of now.
const OLD: Duration = Duration::from_secs(5);

/// Statements of others that may run on a side while rows are copied or compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MaxRunning {
    pub legacy: Option<NonZeroU32>,
    pub extracted: Option<NonZeroU32>,
}

impl MaxRunning {
    fn each(self) -> impl Iterator<Item = (Side, u32)> {
        let both = [
            (Side::Legacy, self.legacy),
            (Side::Extracted, self.extracted),
        ];
        both.into_iter()
            .filter_map(|(side, most)| Some((side, most?.get())))
    }
}

/// A side on which too many run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Busy {
    side: Side,
    load: SideLoad,
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SideLoad { running, most } = self.load;
        let side = self.side;
        write!(f, "the load of {side}: {running} of {most} statements run")
    }
}

/// What the servers said last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    at: Option<Instant>,
    sides: BTreeMap<Side, SideLoad>,
}

impl Seen {
    /// Which side is to be waited for.
    pub(crate) fn busy(&self) -> Option<Busy> {
        let mut sides = self.sides.iter();
        let (side, load) = sides.find(|(_, load)| load.running > load.most)?;
        Some(Busy {
            side: *side,
            load: *load,
        })
    }

    /// For people, while it is of now.
    pub(crate) fn of_now(&self) -> BTreeMap<Side, SideLoad> {
        let now = self.at.is_some_and(|at| at.elapsed() < OLD);
        if now {
            self.sides.clone()
        } else {
            BTreeMap::new()
        }
    }
}

/// One question at a time: when the last one was.
pub(crate) type Asked = tokio::sync::Mutex<Option<Instant>>;

impl Shared {
    /// Asks the servers that have a limit how many statements run, if nobody has just asked.
    pub(crate) async fn ask_load(&self) -> Result<(), Error> {
        let limits = self.limits().max_running;
        if limits == MaxRunning::default() {
            return Ok(());
        }
        let mut asked = self.load_asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < EVERY) {
            return Ok(());
        }
        let mut sides = BTreeMap::new();
        for (side, most) in limits.each() {
            let running = self.on(side).running().await?;
            sides.insert(side, SideLoad { running, most });
        }
        let at = Some(Instant::now());
        *asked = at;
        self.status(|s| s.load = Seen { at, sides });
        Ok(())
    }

    /// Returns when few enough statements run. `waits` is told what for.
    pub(crate) async fn until_idle(
        &self,
        mut waits: impl FnMut(Option<Busy>),
    ) -> Result<(), Error> {
        loop {
            self.ask_load().await?;
            let busy = self.status(|s| s.load.busy());
            waits(busy);
            if busy.is_none() {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Limits that cannot be kept.
    pub(crate) async fn load_unseen(&self) -> Result<Vec<Problem>, Error> {
        let mut found = Vec::new();
        for (side, _) in self.limits().max_running.each() {
            let wrong = self.on(side).running_unseen().await?;
            found.extend(wrong.map(|(what, fix)| Problem {
                table: format!("{side} database"),
                column: None,
                what,
                fix,
            }));
        }
        Ok(found)
    }
}

impl Database {
    /// Statements of others that run on the server now.
    async fn running(&self) -> Result<u32, Error> {
        let mut tx = self.read().await?;
        let found = match self.dialect() {
            Dialect::Sqlite => None,
            Dialect::Postgres => {
                let text = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' \
                            AND backend_type = 'client backend' AND application_name <> 'outgrow' \
                            AND pid <> pg_backend_pid()";
                tx.number(text, &[]).await.on(self.side)?
            }
            Dialect::Mysql => {
                let text = "SHOW GLOBAL STATUS LIKE 'Threads_running'";
                let rows = tx.fetch(text, &[]).await.on(self.side)?;
                let all = rows.first().and_then(|row| row.maybe_text(1));
                let all: Option<i64> = all.and_then(|all| all.parse().ok());
                // Who asks is one of them, and so are who sends us the log and who starts the server's
                // own events, which MySQL 8 has by itself.
                let text = "SELECT @@global.event_scheduler = 'ON'";
                let daemon = tx.number(text, &[]).await.on(self.side)?.unwrap_or(0);
                let own = 1 + daemon + i64::from(matches!(self.feed, Some(Feed::Mysql(_))));
                all.map(|all| all.saturating_sub(own))
            }
        };
        Ok(found.map_or(0, |n| u32::try_from(n.max(0)).unwrap_or(u32::MAX)))
    }

    /// Why they cannot be counted, and the way out.
    async fn running_unseen(&self) -> Result<Option<(String, String)>, Error> {
        match self.dialect() {
            Dialect::Mysql => Ok(None),
            Dialect::Sqlite => Ok(Some((
                "SQLite does not tell how many statements run, so `max_running` cannot be kept"
                    .to_owned(),
                "remove the limit of this side".to_owned(),
            ))),
            Dialect::Postgres => {
                let mut tx = self.read().await?;
                let text = "SELECT current_user::text, pg_has_role('pg_read_all_stats', 'USAGE')";
                let rows = tx.fetch(text, &[]).await.on(self.side)?;
                let row = rows.first().ok_or(sqlx::Error::RowNotFound).on(self.side)?;
                let user = row.text(0).on(self.side)?;
                if row.int(1).on(self.side)? != 0 {
                    return Ok(None);
                }
                Ok(Some((
                    format!(
                        "user `{user}` does not see whether others' statements run, which `max_running` is about"
                    ),
                    format!("GRANT pg_read_all_stats TO {}", quote(&user)),
                )))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_itself_is_no_load() {
        let seen = |running| Seen {
            at: Some(Instant::now()),
            sides: BTreeMap::from([
                (
                    Side::Legacy,
                    SideLoad {
                        running: 7,
                        most: 7,
                    },
                ),
                (Side::Extracted, SideLoad { running, most: 25 }),
            ]),
        };
        assert_eq!(seen(25).busy(), None);
        assert_eq!(
            seen(31).busy().map(|busy| busy.to_string()).as_deref(),
            Some("the load of extracted: 31 of 25 statements run")
        );
        assert_eq!(seen(31).of_now().len(), 2);
        assert_eq!(Seen::default().busy(), None);
    }
}
