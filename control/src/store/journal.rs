//! The journal: what changed, by whom, why, on what evidence; each entry bound to the one before
//! by SHA-256, so that a later change of any of them shows.
//!
//! It proves that nothing in the middle was altered. It cannot prove that the newest entries
//! were not cut off; keep a copy of the last hash elsewhere for that.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, Transaction};

use super::Store;
use crate::error::StoreError;
use crate::wall;

/// The hash before the first entry.
const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Entries of one answer, so that it stays small.
const LIST_MAX: i64 = 1_000;

/// Entries read at once while verifying.
const VERIFY_BATCH: i64 = 500;

/// What the author of an entry knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// A person, or the part that acted by itself: `guard@proxy`, `bridge`, `controller`.
    pub by: String,
    pub action: String,
    pub reason: String,
    pub before: Value,
    pub after: Value,
    pub evidence: Value,
}

/// A journal entry, as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JournalEntry {
    pub seq: i64,
    /// UTC, RFC 3339.
    pub at: String,
    pub by: String,
    pub slice: String,
    pub action: String,
    pub reason: String,
    pub before: Box<RawValue>,
    pub after: Box<RawValue>,
    pub evidence: Box<RawValue>,
    pub prev_hash: String,
    pub hash: String,
}

/// What a check of the whole chain found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    pub entries: u64,
    pub ok: bool,
    /// The first entry that does not fit, by sequence number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_bad: Option<i64>,
}

/// The texts of an entry; JSON values are canonical texts already.
struct Stored {
    seq: i64,
    at: String,
    by: String,
    slice: String,
    action: String,
    reason: String,
    before: String,
    after: String,
    evidence: String,
    prev_hash: String,
    hash: String,
}

impl Stored {
    fn read(row: &SqliteRow) -> Self {
        Self {
            seq: row.get("seq"),
            at: row.get("at"),
            by: row.get("by"),
            slice: row.get("slice"),
            action: row.get("action"),
            reason: row.get("reason"),
            before: row.get("before"),
            after: row.get("after"),
            evidence: row.get("evidence"),
            prev_hash: row.get("prev_hash"),
            hash: row.get("hash"),
        }
    }

    /// SHA-256 of the entry as canonical JSON: keys sorted, no spaces, without `hash` itself.
    fn digest(&self) -> String {
        let quoted = |text: &str| Value::from(text).to_string();
        let canonical = format!(
            "{{\"action\":{},\"after\":{},\"at\":{},\"before\":{},\"by\":{},\"evidence\":{},\
             \"prev_hash\":{},\"reason\":{},\"seq\":{},\"slice\":{}}}",
            quoted(&self.action),
            self.after,
            quoted(&self.at),
            self.before,
            quoted(&self.by),
            self.evidence,
            quoted(&self.prev_hash),
            quoted(&self.reason),
            self.seq,
            quoted(&self.slice),
        );
        let mut text = String::with_capacity(64);
        for byte in Sha256::digest(canonical.as_bytes()) {
            text.push_str(&format!("{byte:02x}"));
        }
        text
    }

    fn entry(self) -> Result<JournalEntry, StoreError> {
        let raw = |text: String| {
            RawValue::from_string(text).map_err(|error| {
                StoreError::Corrupt(format!("journal entry {}: {error}", self.seq))
            })
        };
        Ok(JournalEntry {
            seq: self.seq,
            before: raw(self.before)?,
            after: raw(self.after)?,
            evidence: raw(self.evidence)?,
            at: self.at,
            by: self.by,
            slice: self.slice,
            action: self.action,
            reason: self.reason,
            prev_hash: self.prev_hash,
            hash: self.hash,
        })
    }
}

pub(super) async fn append(
    tx: &mut Transaction<'static, Sqlite>,
    slice: &str,
    draft: &Draft,
) -> Result<(), StoreError> {
    let last = sqlx::query("SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1")
        .fetch_optional(&mut **tx)
        .await?;
    let (seq, prev_hash) = match last {
        Some(row) => (row.get::<i64, _>("seq") + 1, row.get("hash")),
        None => (1, GENESIS.to_owned()),
    };
    let mut row = Stored {
        seq,
        at: wall::now_text(),
        by: draft.by.clone(),
        slice: slice.to_owned(),
        action: draft.action.clone(),
        reason: draft.reason.clone(),
        before: canonical(&draft.before),
        after: canonical(&draft.after),
        evidence: canonical(&draft.evidence),
        prev_hash,
        hash: String::new(),
    };
    row.hash = row.digest();
    sqlx::query(
        "INSERT INTO journal (seq, at, by, slice, action, reason, before, after, evidence,
         prev_hash, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(row.seq)
    .bind(row.at)
    .bind(row.by)
    .bind(row.slice)
    .bind(row.action)
    .bind(row.reason)
    .bind(row.before)
    .bind(row.after)
    .bind(row.evidence)
    .bind(row.prev_hash)
    .bind(row.hash)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// JSON with sorted keys and no spaces, however the maps of this build are ordered.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            let parts: Vec<String> = keys
                .into_iter()
                .map(|key| format!("{}:{}", Value::from(key.as_str()), canonical(&map[key])))
                .collect();
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(list) => {
            let parts: Vec<String> = list.iter().map(canonical).collect();
            format!("[{}]", parts.join(","))
        }
        plain => plain.to_string(),
    }
}

impl Store {
    /// Entries of one slice or of all, oldest first: those after `after`, or the latest `limit`.
    ///
    /// # Errors
    /// Returns [`StoreError`].
    pub async fn journal(
        &self,
        slice: Option<&str>,
        after: Option<i64>,
        limit: Option<i64>,
    ) -> Result<Vec<JournalEntry>, StoreError> {
        let limit = limit.unwrap_or(100).clamp(1, LIST_MAX);
        let newest_first = after.is_none();
        let sql = if newest_first {
            "SELECT * FROM journal WHERE (?1 IS NULL OR slice = ?1) AND seq > ?2
             ORDER BY seq DESC LIMIT ?3"
        } else {
            "SELECT * FROM journal WHERE (?1 IS NULL OR slice = ?1) AND seq > ?2
             ORDER BY seq LIMIT ?3"
        };
        let rows = sqlx::query(sql)
            .bind(slice)
            .bind(after.unwrap_or(0))
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        let mut entries = rows
            .iter()
            .map(|row| Stored::read(row).entry())
            .collect::<Result<Vec<_>, _>>()?;
        if newest_first {
            entries.reverse();
        }
        Ok(entries)
    }

    /// Walks the whole chain.
    ///
    /// # Errors
    /// Returns [`StoreError`] if it cannot be read; a chain that does not fit is no error.
    pub async fn verify_journal(&self) -> Result<Verified, StoreError> {
        let (mut entries, mut expected_seq) = (0, 1);
        let mut prev_hash = GENESIS.to_owned();
        loop {
            let rows = sqlx::query("SELECT * FROM journal WHERE seq >= ? ORDER BY seq LIMIT ?")
                .bind(expected_seq)
                .bind(VERIFY_BATCH)
                .fetch_all(&self.pool)
                .await?;
            if rows.is_empty() {
                return Ok(Verified {
                    entries,
                    ok: true,
                    first_bad: None,
                });
            }
            for row in rows.iter().map(Stored::read) {
                let fits = row.seq == expected_seq
                    && row.prev_hash == prev_hash
                    && row.hash == row.digest();
                if !fits {
                    let first_bad = Some(row.seq);
                    return Ok(Verified {
                        entries,
                        ok: false,
                        first_bad,
                    });
                }
                entries += 1;
                expected_seq += 1;
                prev_hash = row.hash;
            }
        }
    }
}
