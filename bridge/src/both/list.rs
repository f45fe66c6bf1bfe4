//! What waits for a person, or has been decided without one: for lists.

use std::collections::HashMap;

use outgrow_rollout::Side;
use serde::Serialize;
use serde_json::Value;

use super::books::Conflict;
use super::version::{self, Columns};
use crate::db::Database;
use crate::db::books::{Foreign, Parked};
use crate::error::Error;
use crate::link::Link;
use crate::plan::shown;
use crate::value::key_text;

/// Rows of each kind that are listed of one database.
pub(super) const LISTED: u32 = 1_000;

/// Rows that wait for a person.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Conflicts {
    /// Rows that both sides have changed, open ones first, then newest first.
    conflicts: Vec<Listed>,
    parked: Vec<Parked>,
    /// With both versions, newest first.
    foreign: Vec<ForeignWrite>,
    refused: Vec<Refused>,
}

impl Conflicts {
    /// Rows parked, foreign writes kept, writes refused by a fence.
    pub fn counts(&self) -> (usize, usize, u64) {
        let refused = self.refused.iter().map(|r| r.count).sum();
        (self.parked.len(), self.foreign.len(), refused)
    }
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

fn foreign(home: Side, write: Foreign, took: &HashMap<i64, Side>) -> ForeignWrite {
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
        took: took.get(&write.id).copied(),
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
    /// refused by fences.
    ///
    /// # Errors
    /// When a database fails.
    pub async fn conflicts(&self) -> Result<Conflicts, Error> {
        let mut found = Conflicts::default();
        for side in [Side::Legacy, Side::Extracted] {
            let database = self.inner.shared.on(side);
            if database.installed().await? {
                gather(database, &mut found).await?;
            }
        }
        found
            .conflicts
            .sort_by_key(|c| (c.winner.is_some(), std::cmp::Reverse(c.at_ms)));
        found.foreign.sort_by_key(|f| std::cmp::Reverse(f.at_ms));
        Ok(found)
    }
}

async fn gather(database: &Database, found: &mut Conflicts) -> Result<(), Error> {
    let side = database.side;
    // Those of an older version have no such tables yet.
    database.install_both().await?;
    let mut tx = database.read().await?;
    for condition in ["winner IS NULL", "winner IS NOT NULL AND settles IS NULL"] {
        let some = database
            .conflicts_where(&mut tx, condition, &[], LISTED)
            .await?;
        let some = some.into_iter().map(|conflict| listed(side, conflict));
        found.conflicts.extend(some);
    }
    for mut parked in database.parked(&mut tx, None, LISTED).await? {
        // Not of a key with NULL, whose cells are not all known.
        if parked.key == key_text(&parked.cells) {
            parked.key = shown(&parked.cells);
        }
        found.parked.push(parked);
    }
    let took = database.foreign_settled(&mut tx).await?;
    let writes = database.foreign(&mut tx, LISTED).await?;
    let writes = writes.into_iter().map(|write| foreign(side, write, &took));
    found.foreign.extend(writes);
    let control = database.control(&mut tx).await?;
    found.refused.push(Refused {
        side,
        count: control.refused,
        last_table: control.refused_table,
        last_at_ms: control.refused_at,
    });
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
