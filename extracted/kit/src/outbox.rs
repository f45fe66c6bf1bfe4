//! Events about what a service has written, for others to follow.
//!
//! Owns the table `_kit_outbox` and the reading of it. An event is written in the transaction of the
//! rows it speaks of, so that neither exists without the other; numbers rise in the order of commits,
//! because SQLite has one writer. Refuses delivery: readers come and page through, each keeping its
//! own place. Rows carried in by the bridge are not this service's doing and make no event.

use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::SqliteConnection;

use crate::answer::Failure;
use crate::clock::Instant;
use crate::database::Schema;

/// Events kept for readers. At ten writes a second this is about three hours; a reader that was away
/// for longer is told so and takes a fresh copy.
pub const KEPT_EVENTS: i64 = 100_000;

/// Most events on a page.
pub const PAGE_MAX: i64 = 500;

/// Events on a page unless the reader asks for another number.
pub const PAGE_DEFAULT: i64 = 100;

/// The table of events.
pub const SCHEMA: Schema = Schema {
    create: &["CREATE TABLE IF NOT EXISTS _kit_outbox (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL,
            at TEXT NOT NULL,
            data TEXT NOT NULL
        )"],
    probe: &["SELECT seq, kind, at, data FROM _kit_outbox LIMIT 0"],
};

/// One event, as readers see it.
#[derive(Debug, Serialize)]
pub struct Event {
    /// Its place; rises without ever being used twice.
    pub seq: i64,
    /// What happened, such as `price-changed`.
    pub kind: String,
    /// When, in UTC.
    pub at: String,
    /// The facts.
    pub data: Box<RawValue>,
}

/// A page of events.
#[derive(Debug, Serialize)]
pub struct Page {
    /// In order.
    pub events: Vec<Event>,
    /// What to ask for next: `?after=` this.
    pub next: i64,
}

/// Adds an event to the transaction that does what it speaks of.
///
/// # Errors
/// The database's, or 500 if `data` cannot be written as JSON.
pub async fn append(
    connection: &mut SqliteConnection,
    kind: &'static str,
    data: &impl Serialize,
    now: Instant,
) -> Result<i64, Failure> {
    let data = serde_json::to_string(data).map_err(Failure::internal)?;
    let (seq,): (i64,) =
        sqlx::query_as("INSERT INTO _kit_outbox (kind, at, data) VALUES (?, ?, ?) RETURNING seq")
            .bind(kind)
            .bind(now.utc())
            .bind(data)
            .fetch_one(&mut *connection)
            .await?;
    sqlx::query("DELETE FROM _kit_outbox WHERE seq <= ?")
        .bind(seq - KEPT_EVENTS)
        .execute(connection)
        .await?;
    Ok(seq)
}

/// The events after number `after` (0 for all that are kept), at most `limit`.
///
/// # Errors
/// 410 when events between `after` and the oldest kept are gone; the database's errors.
pub async fn page(
    connection: &mut SqliteConnection,
    after: i64,
    limit: i64,
) -> Result<Page, Failure> {
    let (oldest,): (Option<i64>,) = sqlx::query_as("SELECT MIN(seq) FROM _kit_outbox")
        .fetch_one(&mut *connection)
        .await?;
    if after > 0
        && let Some(oldest) = oldest
        && after < oldest - 1
    {
        return Err(Failure::new(
            http::StatusCode::GONE,
            format!(
                "events up to {} are no longer kept; take a fresh copy, then read after 0",
                oldest - 1
            ),
        ));
    }
    let rows: Vec<(i64, String, String, String)> = sqlx::query_as(
        "SELECT seq, kind, at, data FROM _kit_outbox WHERE seq > ? ORDER BY seq LIMIT ?",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    let events = rows
        .into_iter()
        .map(|(seq, kind, at, data)| {
            let data = RawValue::from_string(data).map_err(Failure::internal)?;
            Ok(Event {
                seq,
                kind,
                at,
                data,
            })
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    let next = events.last().map_or(after, |event| event.seq);
    Ok(Page { events, next })
}
