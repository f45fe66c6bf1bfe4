//! What is kept in a database about writes on both sides: conflicts, changes that have been dealt
//! with beside the stream, and how much came from the passive side. Written in the transaction
//! that makes it true.

use std::collections::{HashMap, HashSet};

use outgrow_rollout::Side;

use crate::db::stream::{Change, KEYS};
use crate::db::{Arg, Database, Dialect, Tx, now_ms};
use crate::error::{Error, OnSide};
use crate::plan::{KEY_COLUMNS, Plan};
use crate::value::{Cell, Key};

/// Keys named in one statement.
const AT_ONCE: usize = 200;

/// A key of the slice: its group, and the values.
pub(crate) type At = (usize, Key);

/// The newest change of a key that the other side has not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) seq: i64,
    pub(crate) at_ms: i64,
}

/// A row that both sides have changed.
#[derive(Debug, Clone)]
pub(crate) struct Conflict {
    pub(crate) id: i64,
    pub(crate) table: String,
    pub(crate) key: String,
    pub(crate) cells: Key,
    /// As [`super::version`] keeps them.
    pub(crate) legacy: String,
    pub(crate) extracted: String,
    pub(crate) legacy_at: Option<i64>,
    pub(crate) extracted_at: Option<i64>,
    pub(crate) at_ms: i64,
    pub(crate) policy: String,
    /// `None` while it is open.
    pub(crate) winner: Option<Side>,
    pub(crate) settled_at: Option<i64>,
    /// The open one of the other database that this settles.
    pub(crate) settles: Option<i64>,
}

/// How much of a stream was carried over to here, against the main direction.
#[derive(Debug, Clone, Default)]
pub(crate) struct Carried {
    pub(crate) rows: u64,
    pub(crate) at_ms: Option<i64>,
    pub(crate) table: String,
}

pub(super) fn side_of(text: &str) -> Side {
    if text == Side::Extracted.as_str() {
        Side::Extracted
    } else {
        Side::Legacy
    }
}

fn statements(database: &Database) -> Vec<String> {
    let (id, int, name, k, long, value, end) = match database.dialect() {
        Dialect::Sqlite => (
            "INTEGER PRIMARY KEY AUTOINCREMENT",
            "INTEGER",
            "TEXT",
            "TEXT",
            "TEXT",
            "",
            "",
        ),
        Dialect::Postgres => (
            "bigserial PRIMARY KEY",
            "bigint",
            "text",
            "text",
            "text",
            "text",
            "",
        ),
        Dialect::Mysql => (
            "BIGINT AUTO_INCREMENT PRIMARY KEY",
            "BIGINT",
            "VARCHAR(128)",
            "VARCHAR(600)",
            "LONGTEXT",
            "MEDIUMTEXT",
            " ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        ),
    };
    let keys: Vec<String> = (0..KEY_COLUMNS)
        .map(|at| format!("k{at} {value}"))
        .collect();
    let keys = keys.join(", ");
    let make = |what: &str, columns: String| {
        let own = database.own(what);
        format!("CREATE TABLE IF NOT EXISTS {own} ({columns}){end}")
    };
    vec![
        make(
            "conflicts",
            format!(
                "id {id}, tbl {name} NOT NULL, k {k} NOT NULL, legacy {long} NOT NULL, \
                 extracted {long} NOT NULL, legacy_at {int}, extracted_at {int}, at {int} NOT NULL, \
                 policy {name} NOT NULL, winner {name}, settled_at {int}, settles {int}, {keys}"
            ),
        ),
        // Changes of a key up to `seq`, which the other side need not be given any more.
        make(
            "seen",
            format!(
                "tbl {name} NOT NULL, k {k} NOT NULL, seq {int} NOT NULL, {keys}, PRIMARY KEY (tbl, k)"
            ),
        ),
        make(
            "carried",
            format!("stream {name} PRIMARY KEY, n {int} NOT NULL, at {int}, tbl {name} NOT NULL"),
        ),
        // Foreign writes that a person has settled: which side's version was taken.
        make(
            "foreign_settled",
            format!("id {int} PRIMARY KEY, took {name} NOT NULL, at {int} NOT NULL"),
        ),
    ]
}

fn key_args(tx: &Tx, key: &Key) -> Vec<Arg> {
    let at = |at: usize| tx.key_arg(key.get(at));
    (0..KEY_COLUMNS).map(at).collect()
}

/// `?` for each key column.
const KEY_MARKS: &str = "?, ?, ?, ?, ?, ?";

impl Database {
    /// Makes the tables that are missing.
    pub(crate) async fn install_both(&self) -> Result<(), Error> {
        let mut tx = self.write().await?;
        for statement in statements(self) {
            tx.script(statement).await.on(self.side)?;
        }
        if self.dialect() == Dialect::Mysql {
            for what in ["conflicts", "seen"] {
                self.widen_mysql(&mut tx, what).await.on(self.side)?;
            }
        }
        tx.commit().await.on(self.side)
    }

    /// Changes of these keys after a place, the newest of each, but for what was dealt with.
    /// Whoever has locked the rows, and given places to what is noted, sees all there is.
    pub(crate) async fn pending(
        &self,
        tx: &mut Tx,
        plan: &Plan,
        keys: &HashSet<At>,
        after: i64,
    ) -> Result<HashMap<At, Pending>, Error> {
        let mut firsts: Vec<Arg> = Vec::new();
        for (group, key) in keys {
            // Tables of one group may write it in ways of their own.
            let mut known: Vec<Cell> = Vec::new();
            for table in plan.groups[*group].tables(self.side) {
                let own = table.own(key);
                let first = own.and_then(|own| own.first().cloned());
                known.extend(first.filter(|first| !known.contains(first)));
            }
            firsts.extend(known.iter().map(|first| tx.key_arg(Some(first))));
        }
        let mut found = HashMap::new();
        for some in firsts.chunks(AT_ONCE) {
            let marks = vec!["?"; some.len()].join(", ");
            let text = format!(
                "SELECT seq, tbl, op, at, {KEYS} FROM {} WHERE seq > ? AND tbl <> '' AND k0 IN ({marks}) \
                 ORDER BY seq",
                self.own("changes")
            );
            let mut args = vec![Arg::from(after)];
            args.extend(some.iter().cloned());
            for row in tx.fetch(&text, &args).await.on(self.side)? {
                let change = Change::read(tx, &row).on(self.side)?;
                let Some(at) = change.row(plan, self.side) else {
                    continue;
                };
                if keys.contains(&at) {
                    let pending = Pending {
                        seq: change.seq,
                        at_ms: change.at,
                    };
                    found.insert(at, pending);
                }
            }
        }
        if found.is_empty() {
            return Ok(found);
        }
        let seen = self.seen(tx, plan, after).await?;
        found.retain(|at, pending| seen.get(at).is_none_or(|seq| pending.seq > *seq));
        Ok(found)
    }

    /// Up to where changes of a key are dealt with, for those that are not yet past.
    pub(crate) async fn seen(
        &self,
        tx: &mut Tx,
        plan: &Plan,
        after: i64,
    ) -> Result<HashMap<At, i64>, Error> {
        let text = format!(
            "SELECT seq, tbl, {KEYS} FROM {} WHERE seq > ?",
            self.own("seen")
        );
        let rows = tx.fetch(&text, &[Arg::from(after)]).await.on(self.side)?;
        let mut seen = HashMap::new();
        for row in rows {
            let table = row.text(1).on(self.side)?;
            if let Some(group) = plan.group_of(Side::Legacy, &table) {
                seen.insert((group, tx.key(&row, 2)), row.int(0).on(self.side)?);
            }
        }
        Ok(seen)
    }

    pub(crate) async fn note_seen(
        &self,
        tx: &mut Tx,
        table: &str,
        key: &Key,
        seq: i64,
    ) -> Result<(), Error> {
        let text = format!(
            "INSERT INTO {} (tbl, k, seq, {KEYS}) VALUES (?, ?, ?, {KEY_MARKS}) {}",
            self.own("seen"),
            self.dialect().or_update("tbl, k", &["seq"])
        );
        let mut args = vec![
            Arg::from(table),
            Arg::Text(Some(self.key_name(key))),
            Arg::from(seq),
        ];
        args.extend(key_args(tx, key));
        tx.execute(&text, &args).await.on(self.side).map(drop)
    }

    /// Forgets what lies behind a place.
    pub(crate) async fn trim_seen(&self, upto: i64) -> Result<(), Error> {
        let mut tx = self.write().await?;
        let text = format!("DELETE FROM {} WHERE seq <= ?", self.own("seen"));
        tx.execute(&text, &[Arg::from(upto)]).await.on(self.side)?;
        tx.commit().await.on(self.side)
    }

    /// Which of these keys are parked here.
    pub(crate) async fn parked_of(
        &self,
        tx: &mut Tx,
        plan: &Plan,
        keys: &HashSet<At>,
    ) -> Result<HashMap<At, i64>, Error> {
        let mut found = HashMap::new();
        if self.parked_count(tx).await? == 0 {
            return Ok(found);
        }
        let text = format!(
            "SELECT at FROM {} WHERE tbl = ? AND k = ?",
            self.own("parked")
        );
        for (group, key) in keys {
            let args = [
                Arg::from(plan.groups[*group].name()),
                Arg::Text(Some(self.key_name(key))),
            ];
            if let Some(at) = tx.number(&text, &args).await.on(self.side)? {
                found.insert((*group, key.clone()), at);
            }
        }
        Ok(found)
    }

    pub(crate) async fn note_conflict(&self, tx: &mut Tx, new: &Conflict) -> Result<(), Error> {
        let text = format!(
            "INSERT INTO {} (tbl, k, legacy, extracted, legacy_at, extracted_at, at, policy, winner, \
             settled_at, settles, {KEYS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {KEY_MARKS})",
            self.own("conflicts")
        );
        let mut args = vec![
            Arg::from(&new.table),
            Arg::Text(Some(self.named_by(&new.key).into_owned())),
            Arg::from(&new.legacy),
            Arg::from(&new.extracted),
            Arg::from(new.legacy_at),
            Arg::from(new.extracted_at),
            Arg::from(new.at_ms),
            Arg::from(&new.policy),
            Arg::Text(new.winner.map(|side| side.to_string())),
            Arg::from(new.settled_at),
            Arg::from(new.settles),
        ];
        args.extend(key_args(tx, &new.cells));
        tx.execute(&text, &args).await.on(self.side).map(drop)
    }

    /// Closes an open conflict of this database, with the versions as they were then.
    pub(crate) async fn close_conflict(
        &self,
        tx: &mut Tx,
        id: i64,
        as_of: &Conflict,
    ) -> Result<(), Error> {
        let text = format!(
            "UPDATE {} SET legacy = ?, extracted = ?, winner = ?, settled_at = ? \
             WHERE id = ? AND winner IS NULL",
            self.own("conflicts")
        );
        let args = [
            Arg::from(&as_of.legacy),
            Arg::from(&as_of.extracted),
            Arg::Text(as_of.winner.map(|side| side.to_string())),
            Arg::from(as_of.settled_at.or(Some(now_ms()))),
            Arg::from(id),
        ];
        tx.execute(&text, &args).await.on(self.side).map(drop)
    }

    /// Conflicts that meet a condition, newest first: so many after so many.
    pub(crate) async fn conflicts_where(
        &self,
        tx: &mut Tx,
        condition: &str,
        args: &[Arg],
        (limit, skip): (u32, u64),
    ) -> Result<Vec<Conflict>, Error> {
        let text = format!(
            "SELECT id, tbl, k, legacy, extracted, legacy_at, extracted_at, at, policy, winner, \
             settled_at, settles, {KEYS} FROM {} WHERE {condition} ORDER BY id DESC \
             LIMIT {limit} OFFSET {skip}",
            self.own("conflicts")
        );
        let rows = tx.fetch(&text, args).await.on(self.side)?;
        let one = |row: &crate::db::Fetched| {
            Ok(Conflict {
                id: row.int(0)?,
                table: row.text(1)?,
                key: row.text(2)?,
                legacy: row.text(3)?,
                extracted: row.text(4)?,
                legacy_at: row.maybe(5),
                extracted_at: row.maybe(6),
                at_ms: row.int(7)?,
                policy: row.text(8)?,
                winner: row.maybe_text(9).map(|text| side_of(&text)),
                settled_at: row.maybe(10),
                settles: row.maybe(11),
                cells: tx.key(row, 12),
            })
        };
        rows.iter()
            .map(one)
            .collect::<Result<_, sqlx::Error>>()
            .on(self.side)
    }

    /// (open, all) conflicts of this database.
    pub(crate) async fn conflict_counts(&self, tx: &mut Tx) -> Result<(u64, u64), Error> {
        let own = self.own("conflicts");
        let mut counts = [0; 2];
        for (count, condition) in counts.iter_mut().zip(["winner IS NULL", "1 = 1"]) {
            let text = format!("SELECT count(*) FROM {own} WHERE settles IS NULL AND {condition}");
            let found = tx.number(&text, &[]).await.on(self.side)?;
            *count = u64::try_from(found.unwrap_or(0)).unwrap_or(0);
        }
        let [open, all] = counts;
        Ok((open, all))
    }

    /// Counts rows that came from the other side's stream.
    pub(crate) async fn note_carried(&self, tx: &mut Tx, new: &Carried) -> Result<(), Error> {
        let own = self.own("carried");
        let stream = Arg::from(self.side.other().as_str());
        let rows = Arg::from(i64::try_from(new.rows).unwrap_or(i64::MAX));
        let text = format!("UPDATE {own} SET n = n + ?, at = ?, tbl = ? WHERE stream = ?");
        let (at, table) = (Arg::from(new.at_ms), Arg::from(&new.table));
        let args = [rows.clone(), at.clone(), table.clone(), stream.clone()];
        if tx.execute(&text, &args).await.on(self.side)? == 0 {
            let text = format!("INSERT INTO {own} (n, at, tbl, stream) VALUES (?, ?, ?, ?)");
            let args = [rows, at, table, stream];
            tx.execute(&text, &args).await.on(self.side)?;
        }
        Ok(())
    }

    pub(crate) async fn carried(&self, tx: &mut Tx) -> Result<Carried, Error> {
        let text = format!(
            "SELECT n, at, tbl FROM {} WHERE stream = ?",
            self.own("carried")
        );
        let stream = Arg::from(self.side.other().as_str());
        let rows = tx.fetch(&text, &[stream]).await.on(self.side)?;
        let Some(row) = rows.first() else {
            return Ok(Carried::default());
        };
        Ok(Carried {
            rows: u64::try_from(row.int(0).on(self.side)?).unwrap_or(0),
            at_ms: row.maybe(1),
            table: row.text(2).on(self.side)?,
        })
    }
}
