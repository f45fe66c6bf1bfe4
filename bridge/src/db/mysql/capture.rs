//! The triggers on the slice's tables: those that note which key changed, and those that refuse
//! writes while a side is fenced; and the step that puts what was noted in order.
//!
//! The fence is a row that every writer's trigger reads under a shared lock, which it keeps until
//! its end: who raises the fence waits for all of them, and whoever comes later sees it. It has a
//! table of its own, so that giving places locks nobody out.

use crate::db::{Arg, Database, Tx, literal, quote};
use crate::error::{Error, OnSide};
use crate::plan::{KEY_COLUMNS, Plan, Table};
use crate::spec::Capture;
use crate::typed::Class;
use crate::value::Kind;

/// Milliseconds since 1970.
pub(super) const NOW: &str = "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)";

/// Changes that get their place in one step.
const PLACED: usize = 5_000;

/// Characters of a key's value in a change table, with the letter before it.
const SHORT: i64 = 512;
/// What takes values of any length.
const LONG: &str = "MEDIUMTEXT";

/// Rows of one insert into the stream.
const PUT: usize = 500;

impl Database {
    /// Every statement ends the transaction before it here, so each can be done again.
    pub(in crate::db) async fn install_mysql(&self, plan: &Plan) -> Result<(), Error> {
        let side = self.side;
        let mut tx = self.write().await?;
        for statement in self.tables_mysql() {
            tx.script(statement).await.on(side)?;
        }
        self.make_room(&mut tx, plan).await.on(side)?;
        let mut missing = Vec::new();
        for table in plan.tables(side) {
            for (name, text) in self.table_triggers_mysql(table) {
                let present = "SELECT count(*) FROM information_schema.triggers \
                               WHERE trigger_schema = DATABASE() AND trigger_name = ?";
                if tx.number(present, &[Arg::from(&name)]).await.on(side)? == Some(0) {
                    missing.push(text);
                }
            }
        }
        self.politely(&mut tx, &missing).await?;
        tx.commit().await.on(side)
    }

    /// Room for keys that are longer than most. The change tables get it only where a key of theirs
    /// may be so long: what sorts them is quicker without. Those of versions before are changed.
    async fn make_room(&self, tx: &mut Tx, plan: &Plan) -> Result<(), sqlx::Error> {
        let mut wide = vec!["copy", "parked"];
        for table in plan.tables(self.side) {
            if long_key(tx, table).await? {
                wide.extend(["noted", "changes"]);
                break;
            }
        }
        for what in wide {
            self.widen_mysql(tx, what).await?;
        }
        Ok(())
    }

    /// Has the key columns of one of our tables take keys of any length.
    pub(crate) async fn widen_mysql(&self, tx: &mut Tx, what: &str) -> Result<(), sqlx::Error> {
        let text = "SELECT CAST(column_name AS CHAR) FROM information_schema.columns \
                    WHERE table_schema = DATABASE() AND table_name = ? AND data_type = 'varchar' \
                    AND column_name IN ('k0', 'k1', 'k2', 'k3', 'k4', 'k5')";
        let narrow = tx.fetch(text, &[Arg::from(&self.own_bare(what))]).await?;
        if narrow.is_empty() {
            return Ok(());
        }
        let columns = narrow
            .iter()
            .map(|row| Ok(format!("MODIFY {} {LONG}", row.text(0)?)));
        let columns: Vec<String> = columns.collect::<Result<_, sqlx::Error>>()?;
        let text = format!("ALTER TABLE {} {}", self.own(what), columns.join(", "));
        tx.script(text).await
    }

    pub(in crate::db) async fn captured_mysql(
        &self,
        tx: &mut Tx,
        table: &Table,
    ) -> Result<bool, sqlx::Error> {
        let text = "SELECT count(*) FROM information_schema.triggers \
                    WHERE trigger_schema = DATABASE() AND event_object_table = ? \
                    AND trigger_name IN (?, ?, ?)";
        let mut args = vec![Arg::from(&table.name)];
        // Where the log is read, those of the fence show that the table is the one that it was.
        let what = match self.capture() {
            Capture::Triggers => "note",
            Capture::Replication => "fence",
        };
        for event in ["insert", "update", "delete"] {
            let name = self.trigger_mysql(table, &format!("{what}_{event}"));
            args.push(Arg::from(&name));
        }
        Ok(tx.number(text, &args).await?.unwrap_or(0) == 3)
    }

    /// Changing the way in which changes are found would leave a gap.
    pub(in crate::db) async fn same_capture_mysql(&self, tx: &mut Tx) -> Result<(), Error> {
        let side = self.side;
        let mut there = [false; 2];
        for (there, what) in there.iter_mut().zip(["control", "slot"]) {
            let name = Arg::from(&self.own_bare(what));
            let found = tx.number(super::COUNT_OWN, &[name]).await.on(side)?;
            *there = found == Some(1);
        }
        let (was, wanted) = match there {
            [true, true] => (Capture::Replication, self.capture()),
            [true, false] => (Capture::Triggers, self.capture()),
            [false, _] => return Ok(()),
        };
        if was == wanted {
            Ok(())
        } else {
            Err(Error::CaptureChanged { side, was, wanted })
        }
    }

    pub(in crate::db) async fn uninstall_mysql(&self) -> Result<(), Error> {
        let side = self.side;
        let mut tx = self.write().await?;
        let own = Arg::from(&format!("{}%", self.own_bare("").replace('_', "|_")));
        let text = "SELECT CAST(trigger_name AS CHAR) FROM information_schema.triggers \
                    WHERE trigger_schema = DATABASE() AND trigger_name LIKE ? ESCAPE '|'";
        let mut drops = Vec::new();
        for row in tx.fetch(text, std::slice::from_ref(&own)).await.on(side)? {
            drops.push(format!(
                "DROP TRIGGER IF EXISTS {}",
                quote(&row.text(0).on(side)?)
            ));
        }
        self.politely(&mut tx, &drops).await?;
        let text = "SELECT CAST(table_name AS CHAR) FROM information_schema.tables \
                    WHERE table_schema = DATABASE() AND table_name LIKE ? ESCAPE '|'";
        for row in tx.fetch(text, &[own]).await.on(side)? {
            let drop = format!("DROP TABLE IF EXISTS {}", quote(&row.text(0).on(side)?));
            tx.script(drop).await.on(side)?;
        }
        tx.commit().await.on(side)
    }

    pub(in crate::db) async fn place_mysql(&self) -> Result<(), Error> {
        // Asked without a lock first: mostly there is nothing.
        let any = format!(
            "SELECT count(*) FROM (SELECT 1 FROM {} LIMIT 1) AS one",
            self.own("noted")
        );
        let mut tx = self.write().await?;
        let found = tx.number(&any, &[]).await.on(self.side)?;
        if found.unwrap_or(0) > 0 {
            self.place_in(&mut tx).await?;
        }
        tx.commit().await.on(self.side)
    }

    /// Moves what is committed from `noted` to `changes`, heartbeats last. The lock of the control
    /// row lets one at a time do it.
    async fn place_in(&self, tx: &mut Tx) -> Result<(), Error> {
        let side = self.side;
        let (noted, control) = (self.own("noted"), self.own("control"));
        let keys = crate::db::stream::KEYS;
        let text = format!("SELECT head FROM {control} WHERE id = 1 FOR UPDATE");
        let mut head = tx.number(&text, &[]).await.on(side)?.unwrap_or(0);
        let text = format!(
            "SELECT id, tbl, op, at, {keys} FROM {noted} ORDER BY tbl = '', id LIMIT {PLACED}"
        );
        let rows = tx.fetch(&text, &[]).await.on(side)?;
        for some in rows.chunks(PUT) {
            let one = format!("({})", ["?"; 4 + KEY_COLUMNS].join(", "));
            let values = vec![one; some.len()].join(", ");
            let mut args = Vec::with_capacity(some.len() * (4 + KEY_COLUMNS));
            let mut ids = Vec::with_capacity(some.len());
            for row in some {
                head += 1;
                ids.push(Arg::from(row.int(0).on(side)?));
                args.push(Arg::from(head));
                args.extend((1..=2).map(|at| Arg::Text(row.maybe_text(at))));
                args.push(Arg::from(row.maybe(3)));
                args.extend((4..4 + KEY_COLUMNS).map(|at| Arg::Text(row.maybe_text(at))));
            }
            let text = format!(
                "INSERT INTO {} (seq, tbl, op, at, {keys}) VALUES {values}",
                self.own("changes")
            );
            tx.execute(&text, &args).await.on(side)?;
            // Each looked up by its key: a scan would wait for rows that others are inserting.
            let ones = vec!["SELECT CAST(? AS SIGNED) AS id"; ids.len()].join(" UNION ALL ");
            let text = format!(
                "DELETE n FROM ({ones}) AS taken STRAIGHT_JOIN {noted} AS n FORCE INDEX (PRIMARY) \
                 ON n.id = taken.id"
            );
            tx.execute(&text, &ids).await.on(side)?;
        }
        let text = format!("UPDATE {control} SET head = ?");
        tx.execute(&text, &[Arg::from(head)]).await.on(side)?;
        Ok(())
    }

    /// Raises or lowers the fence. With the fence up, all that others wrote is in the stream.
    pub(in crate::db) async fn fence_mysql(&self, tx: &mut Tx, on: bool) -> Result<(), Error> {
        let side = self.side;
        let text = format!("UPDATE {} SET fenced = ?", self.own("fence"));
        tx.execute(&text, &[Arg::from(i64::from(on))])
            .await
            .on(side)?;
        if on {
            self.place_within_mysql(tx).await?;
        }
        Ok(())
    }

    /// Until nothing is left without a place.
    pub(in crate::db) async fn place_within_mysql(&self, tx: &mut Tx) -> Result<(), Error> {
        let left = format!("SELECT count(*) FROM {}", self.own("noted"));
        while tx.number(&left, &[]).await.on(self.side)?.unwrap_or(0) > 0 {
            self.place_in(tx).await?;
        }
        Ok(())
    }

    /// Columns that say how often the fence refused, when, and for which table. An undone statement
    /// takes its count back, and a table of an engine that knows no transactions would be locked
    /// whole by every writer; so nothing is known here.
    pub(in crate::db) fn refused_mysql(&self) -> String {
        "0, NULL, NULL".to_owned()
    }

    fn trigger_mysql(&self, table: &Table, what: &str) -> String {
        self.own_bare(&format!("{}_{what}", table.name))
    }

    fn table_triggers_mysql(&self, table: &Table) -> Vec<(String, String)> {
        let on = quote(&table.name);
        let slice = literal(self.slice.as_str());
        let ours = format!("COALESCE(@outgrow_applying, '') = {slice}");
        let into: Vec<String> = (0..table.key.len()).map(|at| format!("k{at}")).collect();
        let head = format!(
            "INSERT INTO {} (tbl, op, at, {})",
            self.own("noted"),
            into.join(", ")
        );
        let name = literal(&table.name);
        let keys = |row: &str| {
            let parts = table.key.iter().map(|&at| stored_key(table, at, row));
            parts.collect::<Vec<_>>().join(", ")
        };
        let note =
            |row: &str, op: char| format!("{head} VALUES ({name}, '{op}', {NOW}, {});", keys(row));
        let moved = table.key.iter().map(|&at| {
            let column = quote(&table.columns[at].name);
            format!("NOT (BINARY OLD.{column} <=> BINARY NEW.{column})")
        });
        let moved = moved.collect::<Vec<_>>().join(" OR ");
        let bodies = [
            ("insert", note("NEW", 'i')),
            (
                "update",
                format!(
                    "IF {moved} THEN {} END IF; {}",
                    note("OLD", 'd'),
                    note("NEW", 'u')
                ),
            ),
            ("delete", note("OLD", 'd')),
        ];
        let mut made = Vec::new();
        for (event, body) in bodies {
            if self.capture() == Capture::Triggers {
                let trigger = self.trigger_mysql(table, &format!("note_{event}"));
                let text = format!(
                    "CREATE TRIGGER {} AFTER {event} ON {on} FOR EACH ROW BEGIN \
                     IF NOT ({ours}) THEN {body} END IF; END",
                    quote(&trigger)
                );
                made.push((trigger, text));
            }
            let trigger = self.trigger_mysql(table, &format!("fence_{event}"));
            let text = format!(
                "CREATE TRIGGER {} BEFORE {event} ON {on} FOR EACH ROW BEGIN \
                 DECLARE up INT DEFAULT 0; IF NOT ({ours}) THEN \
                 SELECT fenced INTO up FROM {fence} WHERE id = 1 LOCK IN SHARE MODE; \
                 IF up <> 0 THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = {message}; END IF; END IF; END",
                quote(&trigger),
                fence = self.own("fence"),
                message = literal(&self.message_mysql(table)),
            );
            made.push((trigger, text));
        }
        made
    }

    /// At most 128 characters, as the engine cuts the rest.
    fn message_mysql(&self, table: &Table) -> String {
        let text = format!(
            "outgrow: table {} is fenced: the {} side takes the writes of slice {}; see outgrow status",
            table.name,
            self.side.other(),
            self.slice
        );
        text.chars().take(128).collect()
    }

    fn tables_mysql(&self) -> Vec<String> {
        let keys = |kind: &str| {
            let columns = (0..KEY_COLUMNS).map(|at| format!("k{at} {kind}"));
            columns.collect::<Vec<_>>().join(", ")
        };
        let (short, keys) = (keys(&format!("VARCHAR({SHORT})")), keys(LONG));
        let inno = |what: &str, columns: &str| {
            format!(
                "CREATE TABLE IF NOT EXISTS {} ({columns}) ENGINE = InnoDB \
                 CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
                self.own(what)
            )
        };
        let change = format!(
            "tbl VARCHAR(128) NOT NULL, op VARCHAR(4) NOT NULL, at BIGINT NOT NULL, {short}"
        );
        vec![
            inno(
                "noted",
                &format!("id BIGINT AUTO_INCREMENT PRIMARY KEY, {change}"),
            ),
            inno("changes", &format!("seq BIGINT PRIMARY KEY, {change}")),
            // `birth` names this very stream: a position of another one is worthless.
            inno(
                "control",
                "id INT PRIMARY KEY, fenced BIGINT NOT NULL, source VARCHAR(16) NOT NULL, \
                 turn BIGINT NOT NULL, birth VARCHAR(64) NOT NULL, head BIGINT NOT NULL",
            ),
            format!(
                "INSERT IGNORE INTO {} VALUES (1, 0, 'legacy', 0, UUID(), 0)",
                self.own("control")
            ),
            inno("fence", "id INT PRIMARY KEY, fenced INT NOT NULL"),
            format!("INSERT IGNORE INTO {} VALUES (1, 0)", self.own("fence")),
            // By which number the engine knows a table.
            inno(
                "born",
                "tbl VARCHAR(128) PRIMARY KEY, number BIGINT NOT NULL",
            ),
            inno(
                "position",
                "stream VARCHAR(16) PRIMARY KEY, epoch BIGINT NOT NULL, seq BIGINT NOT NULL, \
                 birth VARCHAR(64) NOT NULL, beat BIGINT, mark TEXT",
            ),
            inno(
                "copy",
                &format!(
                    "tbl VARCHAR(128) PRIMARY KEY, state VARCHAR(16) NOT NULL, copied BIGINT NOT NULL, \
                     total BIGINT NOT NULL, {keys}"
                ),
            ),
            inno(
                "parked",
                &format!(
                    "tbl VARCHAR(128) NOT NULL, k VARCHAR(600) NOT NULL, reason TEXT NOT NULL, \
                     content LONGTEXT NOT NULL, at BIGINT NOT NULL, {keys}, PRIMARY KEY (tbl, k)"
                ),
            ),
            inno(
                "foreign",
                "id BIGINT AUTO_INCREMENT PRIMARY KEY, side VARCHAR(16) NOT NULL, \
                 tbl VARCHAR(128) NOT NULL, k TEXT NOT NULL, op VARCHAR(4) NOT NULL, at BIGINT NOT NULL, \
                 passive LONGTEXT NOT NULL, authority LONGTEXT NOT NULL",
            ),
        ]
    }
}

/// Whether a key of this table may be longer than most.
async fn long_key(tx: &mut Tx, table: &Table) -> Result<bool, sqlx::Error> {
    // Bytes are kept as hexadecimal text.
    let text = format!(
        "SELECT count(*) FROM information_schema.columns WHERE table_schema = DATABASE() \
         AND table_name = ? AND column_name = ? \
         AND IF(character_set_name IS NULL, 2 * character_octet_length, character_maximum_length) >= {SHORT}"
    );
    for &at in &table.key {
        let args = [Arg::from(&table.name), Arg::from(&table.columns[at].name)];
        if tx.number(&text, &args).await?.unwrap_or(0) > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A key's column as `noted` keeps it: a letter for its kind, and the value.
fn stored_key(table: &Table, at: usize, row: &str) -> String {
    let column = &table.columns[at];
    let name = format!("{row}.{}", quote(&column.name));
    match &column.kind {
        Kind::Mysql(kind) => match kind.class {
            Class::Int | Class::Bool => {
                format!("CONCAT('i', {})", super::canonical(kind.class, &name))
            }
            Class::Bytes => format!("CONCAT('b', LOWER(HEX({name})))"),
            class => format!("CONCAT('t', {})", super::canonical(class, &name)),
        },
        Kind::Sqlite(_) | Kind::Postgres(_) => format!("CONCAT('t', {name})"),
    }
}
