//! Whether the newest version can be told: the two databases' clocks must agree.

use std::time::Duration;

use crate::db::{Database, Dialect};
use crate::error::Error;
use crate::preflight::Problem;
use crate::shared::Shared;

/// By how much they may differ: what NTP keeps by far, and less than between two writes of a person.
const APART: Duration = Duration::from_secs(1);

impl Shared {
    /// What is wrong with the clocks where times of both decide.
    pub(crate) async fn check_clocks(&self) -> Result<Option<Problem>, Error> {
        let (a, late) = ahead(&self.legacy).await?;
        let (b, later) = ahead(&self.extracted).await?;
        // How long the questions took is not theirs.
        let apart = a.abs_diff(b).saturating_sub(late.saturating_add(later));
        if u128::from(apart) <= APART.as_millis() {
            return Ok(None);
        }
        Ok(Some(Problem {
            table: "(conflicts)".to_owned(),
            column: None,
            what: format!(
                "the clocks of the two databases are {apart} ms apart, and the newest version is \
                 told by times of both"
            ),
            fix: "have both set by NTP, to a second, or choose another policy for conflicts"
                .to_owned(),
        }))
    }
}

/// By how much the clock of the times that a database notes is ahead of the machine's.
pub(crate) async fn clock_ahead(database: &Database) -> Result<i64, Error> {
    // It has none but the machine's.
    if database.dialect() == Dialect::Sqlite {
        return Ok(0);
    }
    let (ahead, took) = ahead(database).await?;
    // It was read half-way, most likely.
    Ok(ahead.saturating_sub(i64::try_from(took / 2).unwrap_or(0)))
}

/// By how much a database's clock is ahead of the bridge's, and how long it took to ask.
async fn ahead(database: &Database) -> Result<(i64, u64), Error> {
    let before = crate::db::now_ms();
    let now = database.time_of_day().await?;
    let took = crate::db::now_ms().saturating_sub(before);
    Ok((now.saturating_sub(before), u64::try_from(took).unwrap_or(0)))
}
