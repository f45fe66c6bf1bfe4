//! Writes that may be sent twice and happen once.
//!
//! Owns the `Idempotency-Key` header and the table `_kit_idempotency`, where the answer of a write is
//! kept in the transaction of the write itself: either both are there or neither. Refuses to keep
//! answers that say no (they changed nothing, so asking again is safe) and to keep any for ever.

use http::StatusCode;
use sha2::{Digest as _, Sha256};
use sqlx::SqliteConnection;

use crate::answer::Failure;
use crate::clock::Instant;
use crate::database::Schema;

/// The header that names one intended write.
pub const KEY_HEADER: &str = "idempotency-key";

/// How long an answer can be replayed. Clients retry for minutes; a day covers a queue that was
/// stuck over night.
pub const KEPT_SECONDS: i64 = 24 * 60 * 60;

/// A key longer than this is no key; 255 is what other services allow.
const KEY_BYTES_MAX: usize = 255;

/// Old answers removed with each new one: more than one, so that the table shrinks back after a
/// busy day, and few, so that no write pays for them all.
const SWEPT_PER_WRITE: i64 = 20;

/// The table of kept answers.
pub const SCHEMA: Schema = Schema {
    create: &[
        "CREATE TABLE IF NOT EXISTS _kit_idempotency (
            caller INTEGER NOT NULL,
            key TEXT NOT NULL,
            fingerprint TEXT NOT NULL,
            status INTEGER NOT NULL,
            location TEXT,
            body TEXT NOT NULL,
            stored_at INTEGER NOT NULL,
            PRIMARY KEY (caller, key)
        )",
        "CREATE INDEX IF NOT EXISTS _kit_idempotency_age ON _kit_idempotency (stored_at)",
    ],
    probe: &[
        "SELECT caller, key, fingerprint, status, location, body, stored_at
         FROM _kit_idempotency LIMIT 0",
    ],
};

/// One intended write: whose, under what key, and a digest of what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Keys of different callers never meet.
    pub caller: i64,
    /// As sent.
    pub key: String,
    /// Digest of method, path and body.
    pub fingerprint: String,
}

/// An answer as kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The status.
    pub status: StatusCode,
    /// The `location` header, if there was one.
    pub location: Option<String>,
    /// The body, byte for byte.
    pub body: String,
}

/// Reads the key from its header's value.
///
/// # Errors
/// 400 when it is empty, too long or not visible ASCII.
pub fn parse_key(value: &[u8]) -> Result<String, Failure> {
    match std::str::from_utf8(value) {
        Ok(key)
            if (1..=KEY_BYTES_MAX).contains(&key.len())
                && key.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            Ok(key.to_owned())
        }
        _ => Err(Failure::bad_request(
            "the idempotency-key must be 1 to 255 visible ASCII characters",
        )),
    }
}

/// A digest that two requests share only if they ask for the same.
#[must_use]
pub fn fingerprint(method: &str, path: &str, body: &[u8]) -> String {
    let mut digest = Sha256::new();
    for part in [method.as_bytes(), path.as_bytes()] {
        digest.update(part);
        // Neither a method nor a path can hold a line feed, so no two pairs run into one another.
        digest.update(b"\n");
    }
    digest.update(body);
    digest
        .finalize()
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            text.push_str(&format!("{byte:02x}"));
            text
        })
}

/// The answer kept for this intent, if the write has been done.
///
/// # Errors
/// 422 when the key was used for another request; the database's errors.
pub async fn find(
    connection: &mut SqliteConnection,
    intent: &Intent,
    now: Instant,
) -> Result<Option<Kept>, Failure> {
    let row: Option<(String, u16, Option<String>, String)> = sqlx::query_as(
        "SELECT fingerprint, status, location, body FROM _kit_idempotency
         WHERE caller = ? AND key = ? AND stored_at > ?",
    )
    .bind(intent.caller)
    .bind(&intent.key)
    .bind(now.unix() - KEPT_SECONDS)
    .fetch_optional(connection)
    .await?;
    let Some((fingerprint, status, location, body)) = row else {
        return Ok(None);
    };
    if fingerprint != intent.fingerprint {
        return Err(Failure::unprocessable(
            "this idempotency-key was used for another request; choose a new one",
        ));
    }
    let status = StatusCode::from_u16(status).map_err(Failure::internal)?;
    Ok(Some(Kept {
        status,
        location,
        body,
    }))
}

/// Keeps the answer of a write, in the write's own transaction, and removes some that are too old.
///
/// # Errors
/// The database's.
pub async fn keep(
    connection: &mut SqliteConnection,
    intent: &Intent,
    kept: &Kept,
    now: Instant,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM _kit_idempotency WHERE rowid IN
         (SELECT rowid FROM _kit_idempotency WHERE stored_at <= ? ORDER BY stored_at LIMIT ?)",
    )
    .bind(now.unix() - KEPT_SECONDS)
    .bind(SWEPT_PER_WRITE)
    .execute(&mut *connection)
    .await?;
    // The key may still be there, too old to be replayed and not yet swept.
    sqlx::query(
        "INSERT OR REPLACE INTO _kit_idempotency
         (caller, key, fingerprint, status, location, body, stored_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(intent.caller)
    .bind(&intent.key)
    .bind(&intent.fingerprint)
    .bind(kept.status.as_u16())
    .bind(&kept.location)
    .bind(&kept.body)
    .bind(now.unix())
    .execute(connection)
    .await?;
    Ok(())
}
