//! The triggers on the slice's tables: those that note which key changed, and those that refuse
//! writes while a side is fenced.
//!
//! Capture notes only the key. No column is named but those of the key and of unique indexes, so
//! that adding a column can never break the application's writes, and the reader always takes
//! the row as it is. A REPLACE removes rows without firing their delete triggers (unless
//! `recursive_triggers` is on), so whatever shares a unique value with a new row is noted before
//! the row is written.

use outgrow_rollout::Side;
use sqlx::SqlitePool;

use super::images::{Noting, differs, same};
use crate::db::{Arg, Database, Tx, list, literal, quote};
use crate::error::{Error, OnSide};
use crate::plan::{KEY_COLUMNS, Plan, Table};

/// Milliseconds since 1970 by a function that every SQLite in use has: the application's own
/// library runs the trigger.
pub(crate) const NOW: &str = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)";

impl Database {
    pub(in crate::db) async fn install_sqlite(
        &self,
        pool: &SqlitePool,
        plan: &Plan,
    ) -> Result<(), Error> {
        let side = self.side;
        // Readers must never wait for writers, nor the other way round. It stays in the file.
        sqlx::query("PRAGMA journal_mode = WAL")
            .execute(pool)
            .await
            .on(side)?;
        let mut tx = self.write().await?;
        for statement in self.tables_sql() {
            tx.script(statement).await.on(side)?;
        }
        tx.commit().await.on(side)?;
        self.install_images().await?;
        let mut tx = self.write().await?;
        if self.noting_rows {
            tx.script(self.pending_sqlite()).await.on(side)?;
        }
        let noting = self.noting_sqlite(&mut tx, plan).await.on(side)?;
        let (wanted, others) = self.triggers(plan, &noting);
        for name in others {
            let drop = format!("DROP TRIGGER IF EXISTS {}", quote(&name));
            tx.script(drop).await.on(side)?;
        }
        for (name, text) in wanted {
            let present = "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = ?";
            let rows = tx.fetch(present, &[Arg::from(&name)]).await.on(side)?;
            if rows.first().and_then(|row| row.maybe_text(0)).as_ref() == Some(&text) {
                continue;
            }
            let drop = format!("DROP TRIGGER IF EXISTS {}", quote(&name));
            tx.script(drop).await.on(side)?;
            tx.script(text).await.on(side)?;
        }
        tx.commit().await.on(side)
    }

    pub(in crate::db) async fn captured_sqlite(
        &self,
        tx: &mut Tx,
        table: &Table,
    ) -> Result<bool, sqlx::Error> {
        let own = format!("{}_{}", self.own_bare("on"), table.name);
        let text = "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ? \
                    AND name IN (? || '_insert', ? || '_update', ? || '_delete')";
        let own = Arg::from(&own);
        let args = [Arg::from(&table.name), own.clone(), own.clone(), own];
        Ok(tx.number(text, &args).await?.unwrap_or(0) >= 3)
    }

    pub(in crate::db) async fn uninstall_sqlite(&self) -> Result<(), Error> {
        let side = self.side;
        let mut tx = self.write().await?;
        let text = "SELECT type, name FROM sqlite_master WHERE type IN ('trigger', 'table') \
                    AND name LIKE ? ESCAPE '\\' ORDER BY type DESC";
        let own = format!("{}%", self.own_bare("").replace('_', "\\_"));
        for row in tx.fetch(text, &[Arg::from(&own)]).await.on(side)? {
            let (kind, name) = (row.text(0).on(side)?, row.text(1).on(side)?);
            let drop = format!("DROP {kind} IF EXISTS {}", quote(&name));
            tx.script(drop).await.on(side)?;
        }
        tx.commit().await.on(side)
    }

    /// The triggers that are wanted, and the names of those that are not.
    fn triggers(
        &self,
        plan: &Plan,
        noting: &[(String, Noting)],
    ) -> (Vec<(String, String)>, Vec<String>) {
        let (mut wanted, mut others) = (Vec::new(), Vec::new());
        for table in plan.tables(self.side) {
            let noting = noting.iter().find(|(name, _)| *name == table.name);
            let noting = noting.map_or(&Noting::Keys, |(_, noting)| noting);
            wanted.extend(self.table_triggers(table, noting));
            let replaces = self.replaces(table, noting);
            if *noting == Noting::Rows {
                wanted.extend(replaces);
            } else {
                others.extend(replaces.into_iter().map(|(name, _)| name));
            }
        }
        (wanted, others)
    }

    fn table_triggers(&self, table: &Table, noting: &Noting) -> Vec<(String, String)> {
        let mut made = Vec::new();
        let mut add = |what: &str, body: &dyn Fn(&str) -> String| {
            let name = self.trigger_sqlite(table, what);
            let text = body(&quote(&name));
            made.push((name, text));
        };
        let on = quote(&table.name);
        let open = self.open_sqlite();
        add("insert", &|name| {
            format!(
                "CREATE TRIGGER {name} AFTER INSERT ON {on} WHEN {open} BEGIN {}{} END",
                self.note(table, ("NEW", 'i'), noting, &noting.inserted(self, table)),
                noting.settle(self, table, &["NEW"])
            )
        });
        add("delete", &|name| {
            format!(
                "CREATE TRIGGER {name} AFTER DELETE ON {on} WHEN {open} BEGIN {}{} END",
                self.note(table, ("OLD", 'd'), noting, &noting.deleted(table)),
                noting.settle(self, table, &["OLD"])
            )
        });
        add("update", &|name| {
            format!(
                "CREATE TRIGGER {name} AFTER UPDATE ON {on} WHEN {open} BEGIN {} {}{} END",
                self.note_moved(table, noting),
                self.note(table, ("NEW", 'u'), noting, &noting.updated(self, table)),
                noting.settle(self, table, &["OLD", "NEW"])
            )
        });
        if !table.other_unique.is_empty() {
            let columns = list(table.other_unique.iter().flatten().map(String::as_str));
            let update = format!("UPDATE OF {columns}");
            for (event, when, own) in [("insert", "INSERT", "NEW"), ("update", &update, "OLD")] {
                add(&format!("{event}_displaces"), &|name| {
                    format!(
                        "CREATE TRIGGER {name} BEFORE {when} ON {on} WHEN {open} BEGIN {} END",
                        self.note_displaced(table, own, noting)
                    )
                });
            }
        }
        for event in ["insert", "update", "delete"] {
            add(&format!("{event}_fence"), &|name| {
                self.fence_sql(table, name, event)
            });
        }
        made
    }

    /// Those that note what a new row or a new key is about to replace.
    fn replaces(&self, table: &Table, noting: &Noting) -> [(String, String); 2] {
        let moved = format!(" AND ({})", differs(table, "OLD", "NEW"));
        [("insert", ""), ("update", moved.as_str())].map(|(event, only)| {
            let name = self.trigger_sqlite(table, &format!("{event}_replaces"));
            let text = format!(
                "CREATE TRIGGER {} BEFORE {event} ON {on} WHEN {}{only} BEGIN \
                 {} SELECT {}, 'r', {NOW}, {}{} FROM {on} AS t WHERE {}; END",
                quote(&name),
                self.open_sqlite(),
                self.note_head(table, noting),
                literal(&table.name),
                key_columns(table, "t"),
                noting.replaced(table),
                same(table, "t", "NEW"),
                on = quote(&table.name),
            );
            (name, text)
        })
    }

    fn trigger_sqlite(&self, table: &Table, what: &str) -> String {
        format!("{}_{}_{what}", self.own_bare("on"), table.name)
    }

    fn open_sqlite(&self) -> String {
        format!("(SELECT applying FROM {}) = 0", self.own("control"))
    }

    fn note_head(&self, table: &Table, noting: &Noting) -> String {
        let keys: Vec<String> = (0..table.key.len()).map(|at| format!("k{at}")).collect();
        format!(
            "INSERT INTO {} (tbl, op, at, {}{})",
            self.own("changes"),
            keys.join(", "),
            noting.columns()
        )
    }

    fn note(&self, table: &Table, (row, op): (&str, char), noting: &Noting, rows: &str) -> String {
        format!(
            "{} VALUES ({}, '{op}', {NOW}, {}{rows});",
            self.note_head(table, noting),
            literal(&table.name),
            key_columns(table, row)
        )
    }

    /// An update of the key is a delete of the old one.
    fn note_moved(&self, table: &Table, noting: &Noting) -> String {
        format!(
            "{} SELECT {}, 'd', {NOW}, {}{} WHERE {};",
            self.note_head(table, noting),
            literal(&table.name),
            key_columns(table, "OLD"),
            noting.deleted(table),
            differs(table, "OLD", "NEW")
        )
    }

    /// Other rows that have a unique value of the new row: a REPLACE is about to remove them.
    fn note_displaced(&self, table: &Table, own: &str, noting: &Noting) -> String {
        let one = |unique: &Vec<String>| {
            let same: Vec<String> = unique
                .iter()
                .map(|c| format!("t.{0} = NEW.{0}", quote(c)))
                .collect();
            format!(
                "{} SELECT {}, 'r', {NOW}, {}{} FROM {} AS t WHERE {} AND ({});",
                self.note_head(table, noting),
                literal(&table.name),
                key_columns(table, "t"),
                noting.displaced(table),
                quote(&table.name),
                same.join(" AND "),
                differs(table, "t", own)
            )
        };
        table.other_unique.iter().map(one).collect::<String>()
    }

    /// Refuses a write while the side is fenced, and counts it.
    ///
    /// `RAISE(FAIL)` keeps what the statement did before, and so the count, if the statement is
    /// its own transaction. A fence trigger runs before anything of its table was written, so
    /// there is nothing else to keep, unless the statement began at another table (a foreign
    /// key's action, a trigger): there the whole statement is undone, count and all.
    fn fence_sql(&self, table: &Table, name: &str, event: &str) -> String {
        let control = self.own("control");
        let raise = if table.written_by_others {
            "ABORT"
        } else {
            "FAIL"
        };
        let message = format!(
            "outgrow: table {} is fenced: the {} side takes the writes of slice {}; send this write through the proxy, or see outgrow status",
            table.name,
            self.side.other(),
            self.slice
        );
        format!(
            "CREATE TRIGGER {name} BEFORE {} ON {} WHEN (SELECT fenced AND NOT applying FROM {control}) \
             BEGIN UPDATE {control} SET refused = refused + 1, refused_at = {NOW}, refused_table = {}; \
             SELECT RAISE({raise}, {}); END",
            event.to_ascii_uppercase(),
            quote(&table.name),
            literal(&table.name),
            literal(&message)
        )
    }

    fn tables_sql(&self) -> Vec<String> {
        let keys: Vec<String> = (0..KEY_COLUMNS).map(|at| format!("k{at}")).collect();
        let keys = keys.join(", ");
        let make = |what: &str, columns: &str| {
            format!("CREATE TABLE IF NOT EXISTS {} ({columns})", self.own(what))
        };
        vec![
            make(
                "changes",
                &format!(
                    "seq INTEGER PRIMARY KEY AUTOINCREMENT, tbl TEXT NOT NULL, op TEXT NOT NULL, at INTEGER NOT NULL, {keys}"
                ),
            ),
            // `birth` names this very stream: a position of another one is worthless.
            make(
                "control",
                "id INTEGER PRIMARY KEY CHECK (id = 1), applying INTEGER NOT NULL, fenced INTEGER NOT NULL, \
                 refused INTEGER NOT NULL, refused_at INTEGER, refused_table TEXT, source TEXT NOT NULL, \
                 turn INTEGER NOT NULL, birth TEXT NOT NULL",
            ),
            format!(
                "INSERT OR IGNORE INTO {} VALUES (1, 0, 0, 0, NULL, NULL, '{}', 0, lower(hex(randomblob(16))))",
                self.own("control"),
                Side::Legacy
            ),
            make(
                "position",
                "stream TEXT PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, birth TEXT NOT NULL, beat INTEGER, mark TEXT",
            ),
            make(
                "copy",
                &format!(
                    "tbl TEXT PRIMARY KEY, state TEXT NOT NULL, copied INTEGER NOT NULL, total INTEGER NOT NULL, {keys}"
                ),
            ),
            make(
                "parked",
                &format!(
                    "tbl TEXT NOT NULL, k TEXT NOT NULL, reason TEXT NOT NULL, content TEXT NOT NULL, \
                     at INTEGER NOT NULL, {keys}, PRIMARY KEY (tbl, k)"
                ),
            ),
            make(
                "foreign",
                "id INTEGER PRIMARY KEY AUTOINCREMENT, side TEXT NOT NULL, tbl TEXT NOT NULL, k TEXT NOT NULL, \
                 op TEXT NOT NULL, at INTEGER NOT NULL, passive TEXT NOT NULL, authority TEXT NOT NULL",
            ),
        ]
    }
}

fn key_columns(table: &Table, row: &str) -> String {
    let columns: Vec<String> = table
        .key
        .iter()
        .map(|&at| format!("{row}.{}", quote(&table.columns[at].name)))
        .collect();
    columns.join(", ")
}
