//! What waits for a person, or has been decided without one: for lists.

use outgrow_rollout::Side;
use serde::Serialize;
use serde_json::Value;

use super::books::Conflict;
use super::foreign::{OPEN, SETTLED};
use super::version::{self, Columns};
use crate::db::books::{Foreign, Parked};
use crate::db::{Database, Tx};
use crate::error::Error;
use crate::link::Link;
use crate::plan::shown;
use crate::value::key_text;

/// Which part of the lists is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// From 1.
    pub number: u32,
    /// Rows of each kind and database.
    pub rows: u32,
}

impl Page {
    /// Rows of a page at the most: they are in memory, with both versions.
    pub const ROWS_MAX: u32 = 1_000;

    fn part(self) -> (u32, u64) {
        let before = u64::from(self.number.saturating_sub(1));
        (self.rows, before * u64::from(self.rows))
    }

    /// Whether so many have some on a later page.
    fn is_left(self, all: u64) -> bool {
        let (rows, skip) = self.part();
        all > skip + u64::from(rows)
    }
}

impl Default for Page {
    fn default() -> Self {
        Self {
            number: 1,
            rows: Self::ROWS_MAX,
        }
    }
}

/// Rows that wait for a person.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Conflicts {
    /// Rows that both sides have changed, open ones first, then newest first.
    conflicts: Vec<Listed>,
    parked: Vec<Parked>,
    /// With both versions, those that nobody has settled first, then newest first.
    foreign: Vec<ForeignWrite>,
    refused: Vec<Refused>,
    total: Total,
    page: u32,
    /// Whether a later page has some.
    more: bool,
}

/// How many there are, listed or not.
#[derive(Debug, Clone, Default, Serialize)]
struct Total {
    open: u64,
    settled: u64,
    parked: u64,
    foreign_open: u64,
    foreign_settled: u64,
}

/// One row that both sides have changed.
#[derive(Debug, Clone, Serialize)]
struct Listed {
    id: String,
    /// The legacy table.
    table: String,
    key: String,
    /// `open` or `settled`.
    state: &'static str,
    policy: String,
    winner: Option<Side>,
    at_ms: i64,
    settled_at_ms: Option<i64>,
    legacy_at_ms: Option<i64>,
    extracted_at_ms: Option<i64>,
    /// By extracted table and column; nothing where the row was deleted.
    legacy: Columns,
    extracted: Columns,
    differ: Vec<Differs>,
}

/// A column with both values.
#[derive(Debug, Clone, Serialize)]
struct Differs {
    column: String,
    legacy: Value,
    extracted: Value,
}

/// A write on the passive side that nobody should have made.
#[derive(Debug, Clone, Serialize)]
struct ForeignWrite {
    id: String,
    side: String,
    table: String,
    key: String,
    op: String,
    at_ms: i64,
    /// Whose version was taken, once a person has said.
    took: Option<Side>,
    passive: Columns,
    authority: Columns,
    differ: Vec<Differs>,
}

#[derive(Debug, Clone, Serialize)]
struct Refused {
    side: Side,
    count: u64,
    last_table: Option<String>,
    last_at_ms: Option<i64>,
}

/// The name of a conflict or a foreign write: what it is, whose book it is in, and its number.
pub(super) fn name(what: Kind, home: Side, id: i64) -> String {
    let side = match home {
        Side::Legacy => 'L',
        Side::Extracted => 'E',
    };
    match what {
        Kind::Conflict => format!("{side}{id}"),
        Kind::Foreign => format!("F{side}{id}"),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Conflict,
    Foreign,
}

/// The way back from [`name`].
pub(super) fn named(text: &str) -> Option<(Kind, Side, i64)> {
    let text = text.trim().to_ascii_uppercase();
    let (kind, rest) = match text.strip_prefix('F') {
        Some(rest) => (Kind::Foreign, rest),
        None => (Kind::Conflict, text.as_str()),
    };
    let mut chars = rest.chars();
    let home = match chars.next()? {
        'L' => Side::Legacy,
        'E' => Side::Extracted,
        _ => return None,
    };
    Some((kind, home, chars.as_str().parse().ok()?))
}

fn differ(legacy: &Columns, extracted: &Columns) -> Vec<Differs> {
    let found = version::differing(legacy, extracted).into_iter();
    found
        .map(|(column, legacy, extracted)| Differs {
            column,
            legacy,
            extracted,
        })
        .collect()
}

fn listed(home: Side, conflict: Conflict) -> Listed {
    let legacy = version::columns(&conflict.legacy);
    let extracted = version::columns(&conflict.extracted);
    Listed {
        id: name(Kind::Conflict, home, conflict.id),
        table: conflict.table,
        key: conflict.key,
        state: if conflict.winner.is_some() {
            "settled"
        } else {
            "open"
        },
        policy: conflict.policy,
        winner: conflict.winner,
        at_ms: conflict.at_ms,
        settled_at_ms: conflict.settled_at,
        legacy_at_ms: conflict.legacy_at,
        extracted_at_ms: conflict.extracted_at,
        differ: differ(&legacy, &extracted),
        legacy,
        extracted,
    }
}

fn foreign(home: Side, write: Foreign) -> ForeignWrite {
    let passive = version::columns(&write.passive);
    let authority = version::columns(&write.authority);
    let legacy_is_passive = write.side == Side::Legacy.as_str();
    let (legacy, extracted) = if legacy_is_passive {
        (&passive, &authority)
    } else {
        (&authority, &passive)
    };
    ForeignWrite {
        id: name(Kind::Foreign, home, write.id),
        took: write.took,
        differ: differ(legacy, extracted),
        side: write.side,
        table: write.table,
        key: write.key,
        op: write.op,
        at_ms: write.at_ms,
        passive,
        authority,
    }
}

impl Link {
    /// Rows that both sides have changed, rows parked, foreign writes with both versions, writes
    /// refused by fences. As many as one page has.
    ///
    /// # Errors
    /// When a database fails.
    pub async fn conflicts(&self) -> Result<Conflicts, Error> {
        self.conflicts_on(Page::default()).await
    }

    /// As [`Link::conflicts`], of one page.
    ///
    /// # Errors
    /// When a database fails.
    pub async fn conflicts_on(&self, page: Page) -> Result<Conflicts, Error> {
        let mut found = Conflicts {
            page: page.number,
            ..Conflicts::default()
        };
        for side in [Side::Legacy, Side::Extracted] {
            let database = self.inner.shared.on(side);
            if database.installed().await? {
                gather(database, page, &mut found).await?;
            }
        }
        found
            .conflicts
            .sort_by_key(|c| (c.winner.is_some(), std::cmp::Reverse(c.at_ms)));
        found
            .foreign
            .sort_by_key(|f| (f.took.is_some(), std::cmp::Reverse(f.at_ms)));
        Ok(found)
    }
}

async fn gather(database: &Database, page: Page, found: &mut Conflicts) -> Result<(), Error> {
    let (side, part) = (database.side, page.part());
    // Those of an older version have no such tables yet.
    database.install_both().await?;
    let mut tx = database.read().await?;
    for condition in ["winner IS NULL", "winner IS NOT NULL AND settles IS NULL"] {
        let some = database
            .conflicts_where(&mut tx, condition, &[], part)
            .await?;
        let some = some.into_iter().map(|conflict| listed(side, conflict));
        found.conflicts.extend(some);
    }
    for mut parked in database.parked(&mut tx, None, part).await? {
        // Not of a key with NULL, whose cells are not all known.
        if parked.key == key_text(&parked.cells) {
            parked.key = shown(&parked.cells);
        }
        found.parked.push(parked);
    }
    for condition in [OPEN, SETTLED] {
        let some = database
            .foreign_where(&mut tx, condition, &[], part)
            .await?;
        found
            .foreign
            .extend(some.into_iter().map(|write| foreign(side, write)));
    }
    let control = database.control(&mut tx).await?;
    found.refused.push(Refused {
        side,
        count: control.refused,
        last_table: control.refused_table,
        last_at_ms: control.refused_at,
    });
    total(database, &mut tx, page, found).await
}

/// Counts what one database has of each kind.
async fn total(
    database: &Database,
    tx: &mut Tx,
    page: Page,
    found: &mut Conflicts,
) -> Result<(), Error> {
    let (open, ever) = database.conflict_counts(tx).await?;
    let settled = ever.saturating_sub(open);
    let parked = database.parked_count(tx).await?;
    let foreign = database.foreign_counts(tx).await?;
    found.total.open += open;
    found.total.settled += settled;
    found.total.parked += parked;
    found.total.foreign_open += foreign.open;
    found.total.foreign_settled += foreign.settled;
    let kinds = [open, settled, parked, foreign.open, foreign.settled];
    found.more |= kinds.into_iter().any(|all| page.is_left(all));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for (kind, side, id) in [
            (Kind::Conflict, Side::Legacy, 3),
            (Kind::Conflict, Side::Extracted, 12),
            (Kind::Foreign, Side::Extracted, 1),
        ] {
            assert_eq!(named(&name(kind, side, id)), Some((kind, side, id)));
        }
        assert_eq!(named("fl4"), Some((Kind::Foreign, Side::Legacy, 4)));
        for odd in ["", "F", "X3", "L", "Lx", "3"] {
            assert_eq!(named(odd), None, "{odd}");
        }
    }
}
