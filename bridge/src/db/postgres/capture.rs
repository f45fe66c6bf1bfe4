//! The triggers on the slice's tables: those that note which key changed, and those that refuse
//! writes while a side is fenced; and the step that puts what was noted in order.
//!
//! What is noted has no place in the stream at first, for a number that a transaction draws says
//! nothing of when it commits. One at a time moves what is committed into the stream and numbers
//! it then, so what commits late is numbered late, and nothing can come before a place that was
//! given. A batch takes what was committed since the last move, too, as of its snapshot, so that
//! the rows that it reads are never newer than the keys that it knows.
//!
//! Fences are enabled and disabled, not made and dropped: that takes a lock which waits for
//! writers and lets readers through.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, PgPool};

use super::SHOWN;
use crate::db::{Arg, Database, Dialect, Tx, literal, names, quote};
use crate::error::{Error, OnSide};
use crate::plan::{KEY_COLUMNS, Plan, Table};
use crate::spec::Capture;
use crate::typed::Class;
use crate::value::Kind;

/// Milliseconds since 1970.
const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

impl Database {
    pub(in crate::db) async fn install_postgres(&self, plan: &Plan) -> Result<(), Error> {
        let side = self.side;
        let mut tx = self.write().await?;
        // Asked first: making what is there needs a right that is not needed otherwise.
        let there = tx
            .number(
                "SELECT count(*) FROM pg_namespace WHERE nspname = '_outgrow'",
                &[],
            )
            .await
            .on(side)?;
        if there == Some(0) {
            let make = format!("CREATE SCHEMA {}", super::SCHEMA);
            tx.script(make).await.on(side)?;
        }
        tx.script(self.tables_postgres()).await.on(side)?;
        let text = "SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass(?) \
                    AND attname = 'place'";
        let position = self.own("position");
        if tx.number(text, &[Arg::from(&position)]).await.on(side)? == Some(0) {
            // Made by a version before.
            let add = format!("ALTER TABLE {position} ADD COLUMN place text");
            tx.script(add).await.on(side)?;
        }
        tx.script(self.place_function()).await.on(side)?;
        tx.script(self.fence_function()).await.on(side)?;
        for table in plan.tables(side) {
            tx.script(self.note_function(table)).await.on(side)?;
        }
        tx.commit().await.on(side)?;
        for table in plan.tables(side) {
            self.install_triggers(table).await?;
        }
        Ok(())
    }

    /// Makes those of one table that are missing, in a transaction of its own: who holds one table never waits
    /// for another.
    async fn install_triggers(&self, table: &Table) -> Result<(), Error> {
        let side = self.side;
        let mut tx = self.write().await?;
        let mut missing = Vec::new();
        for (what, text) in self.table_triggers_postgres(table) {
            if what == "note" && self.feed.is_some() {
                continue;
            }
            let name = self.trigger(what);
            let on = Dialect::Postgres.table(&table.name);
            // One that a version before has made has no condition.
            let present = "SELECT count(*), count(*) FILTER (WHERE tgqual IS NULL \
                 AND current_setting('server_version_num')::int8 >= 140000) \
                 FROM pg_trigger WHERE tgrelid = to_regclass(?) AND tgname = ?";
            let args = [Arg::from(&on), Arg::from(&name)];
            let rows = tx.fetch(present, &args).await.on(side)?;
            let of = |at| rows.first().and_then(|row| row.maybe(at));
            let make = match (of(0), of(1)) {
                (Some(0), _) => "CREATE TRIGGER",
                (_, Some(1)) if what == "note" => "CREATE OR REPLACE TRIGGER",
                _ => continue,
            };
            missing.push(format!("{make} {} {text}", quote(&name)));
            if what == "fence" {
                missing.push(format!("ALTER TABLE {on} DISABLE TRIGGER {}", quote(&name)));
            }
        }
        if !missing.is_empty() {
            self.politely(&mut tx, &missing).await?;
        }
        tx.commit().await.on(side)
    }

    /// Refuses to change the way of capture beside a running stream.
    pub(in crate::db) async fn same_capture(&self, tx: &mut Tx) -> Result<(), Error> {
        let there = async |tx: &mut Tx, what: &str| {
            let text = "SELECT count(*) FROM pg_class WHERE oid = to_regclass(?)";
            let found = tx.number(text, &[Arg::from(&self.own(what))]).await;
            Ok::<_, Error>(found.on(self.side)? == Some(1))
        };
        if !there(tx, "control").await? {
            return Ok(());
        }
        let was = if there(tx, "slot").await? {
            Capture::Replication
        } else {
            Capture::Triggers
        };
        let (side, wanted) = (self.side, self.capture());
        if was == wanted {
            Ok(())
        } else {
            Err(Error::CaptureChanged { side, was, wanted })
        }
    }

    pub(in crate::db) async fn captured_postgres(
        &self,
        tx: &mut Tx,
        table: &Table,
    ) -> Result<bool, sqlx::Error> {
        if self.feed.is_some() {
            return self.published(tx, table).await;
        }
        let text = "SELECT count(*) FROM pg_trigger WHERE tgrelid = to_regclass(?) \
                    AND tgname IN (?, ?) AND tgenabled IN ('O', 'A')";
        let args = [
            Arg::from(&Dialect::Postgres.table(&table.name)),
            Arg::from(&self.trigger("note")),
            Arg::from(&self.trigger("note_truncate")),
        ];
        Ok(tx.number(text, &args).await?.unwrap_or(0) == 2)
    }

    /// Whether the log still tells of this table, under the name and number that it had.
    async fn published(&self, tx: &mut Tx, table: &Table) -> Result<bool, sqlx::Error> {
        let text = "SELECT count(*) FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid \
                    JOIN pg_trigger t ON t.tgrelid = r.prrelid \
                    WHERE p.pubname = ? AND p.pubinsert AND p.pubupdate AND p.pubdelete \
                    AND r.prrelid = to_regclass(?) AND t.tgname = ? AND t.tgenabled IN ('O', 'A')";
        let args = [
            Arg::from(&self.feed_publication()),
            Arg::from(&Dialect::Postgres.table(&table.name)),
            Arg::from(&self.trigger("note_truncate")),
        ];
        Ok(tx.number(text, &args).await?.unwrap_or(0) == 1)
    }

    pub(in crate::db) async fn uninstall_postgres(&self) -> Result<(), Error> {
        let side = self.side;
        self.uninstall_feed().await?;
        let mut tx = self.write().await?;
        let own = Arg::from(&format!("{}%", self.trigger("").replace('_', "\\_")));
        let text = "SELECT tgrelid::regclass::text, tgname::text FROM pg_trigger \
                    WHERE NOT tgisinternal AND tgname LIKE ?";
        let mut drops: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in tx.fetch(text, &[own]).await.on(side)? {
            let (table, name) = (row.text(0).on(side)?, row.text(1).on(side)?);
            let drop = format!("DROP TRIGGER {} ON {table}", quote(&name));
            drops.entry(table).or_default().push(drop);
        }
        tx.commit().await.on(side)?;
        for drops in drops.values() {
            let mut tx = self.write().await?;
            self.politely(&mut tx, drops).await?;
            tx.commit().await.on(side)?;
        }
        let mut tx = self.write().await?;
        let own = Arg::from(&format!("{}%", self.own_bare("").replace('_', "\\_")));
        let text = "SELECT CASE WHEN kind = 'f' THEN 'FUNCTION' WHEN kind = 'S' THEN 'SEQUENCE' \
                    ELSE 'TABLE' END, name FROM (SELECT 'f' AS kind, p.oid::regprocedure::text AS name, \
                    p.proname AS bare, p.pronamespace AS namespace FROM pg_proc p \
                    UNION ALL SELECT c.relkind::text, c.oid::regclass::text, c.relname, c.relnamespace \
                    FROM pg_class c WHERE c.relkind = 'r' OR c.relkind = 'S' AND NOT EXISTS \
                    (SELECT 1 FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('a', 'i'))) AS own \
                    JOIN pg_namespace n ON n.oid = own.namespace \
                    WHERE n.nspname = '_outgrow' AND own.bare LIKE ?";
        for row in tx.fetch(text, &[own]).await.on(side)? {
            let (kind, name) = (row.text(0).on(side)?, row.text(1).on(side)?);
            let drop = format!("DROP {kind} IF EXISTS {name}");
            tx.script(drop).await.on(side)?;
        }
        tx.commit().await.on(side)
    }

    /// In a transaction of one statement: most often nothing was noted.
    pub(in crate::db) async fn place_postgres(&self, pool: &PgPool) -> Result<(), Error> {
        let text = format!("SELECT {}()", self.own("place"));
        let placed = sqlx::query(AssertSqlSafe(text)).execute(pool).await;
        placed.map(drop).on(self.side)
    }

    pub(in crate::db) async fn place_within_postgres(&self, tx: &mut Tx) -> Result<(), Error> {
        let text = format!("SELECT {}()", self.own("place"));
        tx.number(&text, &[]).await.on(self.side).map(drop)
    }

    /// Enables or disables the fence. With the fence up, all that others wrote is in the stream:
    /// the lock has waited for those who were at it.
    pub(in crate::db) async fn fence_postgres(&self, tx: &mut Tx, on: bool) -> Result<(), Error> {
        let side = self.side;
        if !on {
            // A fence that nobody waits for any more may be at its commit.
            let text = format!("SELECT fenced FROM {} FOR UPDATE", self.own("control"));
            tx.fetch(&text, &[]).await.on(side)?;
        }
        let name = self.trigger("fence");
        let text = "SELECT tgrelid::regclass::text, tgenabled <> 'D' FROM pg_trigger \
                    WHERE tgname = ? ORDER BY tgrelid";
        let found = tx.fetch(text, &[Arg::from(&name)]).await.on(side)?;
        let mut tables = Vec::new();
        for row in &found {
            tables.push((row.text(0).on(side)?, row.int(1).on(side)? != 0));
        }
        let others: Vec<&str> = tables
            .iter()
            .filter(|(_, up)| *up != on)
            .map(|(table, _)| table.as_str())
            .collect();
        if !others.is_empty() {
            let lock = |table: &&str| format!("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE");
            let locks: Vec<String> = others.iter().map(lock).collect();
            self.politely(tx, &locks).await?;
            let way = if on { "ENABLE" } else { "DISABLE" };
            for table in &others {
                let text = format!("ALTER TABLE {table} {way} TRIGGER {}", quote(&name));
                tx.script(text).await.on(side)?;
            }
        }
        if on {
            let text = format!("SELECT {}()", self.own("place"));
            tx.number(&text, &[]).await.on(side)?;
        }
        Ok(())
    }

    /// Columns that say how often the fence refused, when, and for which table. Sequences, as an
    /// undone statement does not take them back.
    pub(in crate::db) fn refused_postgres(&self) -> String {
        let last = |what: &str, value: &str, none: &str| {
            format!(
                "(SELECT CASE WHEN is_called THEN {value} ELSE {none} END FROM {})",
                self.own(what)
            )
        };
        [
            last("refused", "last_value", "0"),
            last("refused_at", "last_value", "NULL"),
            last("refused_table", "last_value::oid::regclass::text", "NULL"),
        ]
        .join(", ")
    }

    fn trigger(&self, what: &str) -> String {
        format!("outgrow_{}_{what}", names::of_slice(&self.slice))
    }

    fn table_triggers_postgres(&self, table: &Table) -> [(&'static str, String); 3] {
        let on = Dialect::Postgres.table(&table.name);
        let note = self.own(&format!("note_{}", table.name));
        let fence = self.own("fence");
        [
            (
                "note",
                // Rows of our own do not even call the function.
                format!(
                    "AFTER INSERT OR UPDATE OR DELETE ON {on} FOR EACH ROW \
                     WHEN (pg_catalog.current_setting('outgrow.applying', true) IS DISTINCT FROM {}) \
                     EXECUTE FUNCTION {note}()",
                    literal(self.slice.as_str())
                ),
            ),
            (
                "note_truncate",
                format!("BEFORE TRUNCATE ON {on} FOR EACH STATEMENT EXECUTE FUNCTION {note}()"),
            ),
            (
                "fence",
                format!(
                    "BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {on} \
                     FOR EACH STATEMENT EXECUTE FUNCTION {fence}()"
                ),
            ),
        ]
    }

    /// Notes the key of a changed row; an update of the key is a delete of the old one.
    fn note_function(&self, table: &Table) -> String {
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
        // Byte for byte, whatever the type or a collation calls equal.
        let moved = table.key.iter().map(|&at| {
            let [old, new] = ["OLD", "NEW"].map(|row| stored_key(table, at, row));
            format!("({old}) COLLATE \"C\" IS DISTINCT FROM ({new}) COLLATE \"C\"")
        });
        let moved = moved.collect::<Vec<_>>().join(" OR ");
        // A session of the application's may show dates in its own way.
        let as_written = |&at: &usize| match &table.columns[at].kind {
            Kind::Postgres(kind) => kind.class == Class::AsWritten,
            Kind::Sqlite(_) | Kind::Mysql(_) => true,
        };
        let shown = SHOWN.map(|(name, value)| format!("SET {name} = '{value}' "));
        let shown = match table.key.iter().any(as_written) {
            true => shown.concat(),
            false => String::new(),
        };
        format!(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql \
             SECURITY DEFINER SET search_path = pg_catalog, pg_temp {shown}AS $outgrow$ BEGIN \
             IF current_setting('outgrow.applying', true) = {slice} THEN RETURN NULL; END IF; \
             IF TG_OP = 'TRUNCATE' THEN \
             EXECUTE format('{truncated} FROM %I.%I AS t', TG_TABLE_SCHEMA, TG_TABLE_NAME); \
             RETURN NULL; END IF; \
             IF TG_OP = 'DELETE' THEN {head} VALUES ({name}, 'd', {NOW}, {old}); RETURN NULL; END IF; \
             IF TG_OP = 'UPDATE' THEN IF {moved} THEN \
             {head} VALUES ({name}, 'd', {NOW}, {old}); END IF; END IF; \
             {head} VALUES ({name}, CASE TG_OP WHEN 'INSERT' THEN 'i' ELSE 'u' END, {NOW}, {new}); \
             RETURN NULL; END $outgrow$",
            function = self.own(&format!("note_{}", table.name)),
            slice = literal(self.slice.as_str()),
            truncated = format!("{head} SELECT {name}, 'd', {NOW}, {}", keys("t"))
                .replace('%', "%%")
                .replace('\'', "''"),
            old = keys("OLD"),
            new = keys("NEW"),
        )
    }

    fn fence_function(&self) -> String {
        format!(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql \
             SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $outgrow$ BEGIN \
             IF current_setting('outgrow.applying', true) = {slice} THEN RETURN NULL; END IF; \
             PERFORM nextval({refused}), setval({at}, {NOW}), setval({table}, TG_RELID::bigint); \
             RAISE EXCEPTION 'outgrow: table % is fenced: the {other} side takes the writes of slice {bare}; \
             send this write through the proxy, or see outgrow status', TG_TABLE_NAME; \
             END $outgrow$",
            function = self.own("fence"),
            slice = literal(self.slice.as_str()),
            bare = self.slice,
            other = self.side.other(),
            refused = literal(&self.own("refused")),
            at = literal(&self.own("refused_at")),
            table = literal(&self.own("refused_table")),
        )
    }

    /// Moves what is committed from `noted` to `changes`. The lock of the control row lets one at a
    /// time do it, so that numbers become visible in their order. Heartbeats come last: all that
    /// was committed before their time is moved with them, or was before.
    fn place_function(&self) -> String {
        let keys: Vec<String> = (0..KEY_COLUMNS).map(|at| format!("k{at}")).collect();
        format!(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS bigint LANGUAGE plpgsql \
             AS $outgrow$ DECLARE last bigint; placed bigint; BEGIN \
             IF NOT EXISTS (SELECT 1 FROM {noted}) THEN \
             SELECT head INTO last FROM {control}; RETURN last; END IF; \
             SELECT head INTO last FROM {control} FOR UPDATE; \
             WITH taken AS (DELETE FROM {noted} RETURNING *), \
             put AS (INSERT INTO {changes} (seq, tbl, op, at, {keys}) \
             SELECT last + row_number() OVER (ORDER BY tbl = '', id), tbl, op, at, {keys} FROM taken \
             RETURNING seq) SELECT max(seq) INTO placed FROM put; \
             IF placed IS NOT NULL THEN UPDATE {control} SET head = placed; last := placed; END IF; \
             RETURN last; END $outgrow$",
            function = self.own("place"),
            noted = self.own("noted"),
            changes = self.own("changes"),
            control = self.own("control"),
            keys = keys.join(", "),
        )
    }

    fn tables_postgres(&self) -> String {
        let keys: Vec<String> = (0..KEY_COLUMNS).map(|at| format!("k{at} text")).collect();
        let keys = keys.join(", ");
        let make = |what: &str, columns: &str| {
            format!("CREATE TABLE IF NOT EXISTS {} ({columns})", self.own(what))
        };
        let count = |what: &str| format!("CREATE SEQUENCE IF NOT EXISTS {}", self.own(what));
        let change = format!("tbl text NOT NULL, op text NOT NULL, at bigint NOT NULL, {keys}");
        [
            make(
                "noted",
                &format!("id bigserial PRIMARY KEY, {change}"),
            ),
            make("changes", &format!("seq bigint PRIMARY KEY, {change}")),
            // `birth` names this very stream: a position of another one is worthless.
            make(
                "control",
                "id int PRIMARY KEY CHECK (id = 1), fenced bigint NOT NULL, source text NOT NULL, \
                 turn bigint NOT NULL, birth text NOT NULL, head bigint NOT NULL",
            ),
            format!(
                "INSERT INTO {} VALUES (1, 0, 'legacy', 0, gen_random_uuid()::text, 0) \
                 ON CONFLICT DO NOTHING",
                self.own("control")
            ),
            make(
                "position",
                "stream text PRIMARY KEY, epoch bigint NOT NULL, seq bigint NOT NULL, \
                 birth text NOT NULL, beat bigint, place text, mark text",
            ),
            make(
                "copy",
                &format!(
                    "tbl text PRIMARY KEY, state text NOT NULL, copied bigint NOT NULL, \
                     total bigint NOT NULL, {keys}"
                ),
            ),
            make(
                "parked",
                &format!(
                    "tbl text NOT NULL, k text NOT NULL, reason text NOT NULL, content text NOT NULL, \
                     at bigint NOT NULL, {keys}, PRIMARY KEY (tbl, k)"
                ),
            ),
            make(
                "foreign",
                "id bigserial PRIMARY KEY, side text NOT NULL, tbl text NOT NULL, k text NOT NULL, \
                 op text NOT NULL, at bigint NOT NULL, passive text NOT NULL, authority text NOT NULL",
            ),
            count("refused"),
            count("refused_at"),
            count("refused_table"),
        ]
        .join("; ")
    }
}

/// A key's column as `noted` keeps it: a letter for its kind, and the value.
fn stored_key(table: &Table, at: usize, row: &str) -> String {
    let column = &table.columns[at];
    let name = format!("{row}.{}", quote(&column.name));
    match &column.kind {
        Kind::Postgres(kind) => match kind.class {
            Class::Int | Class::Bool => {
                format!("'i' || {}::text", super::canonical(kind.class, &name))
            }
            Class::Bytes => format!("'b' || encode({name}, 'hex')"),
            class @ (Class::Timestamp | Class::Instant) => {
                format!("'t' || {}", super::time_anywhere(class, &name))
            }
            class => format!("'t' || {}", super::canonical(class, &name)),
        },
        Kind::Sqlite(_) | Kind::Mysql(_) => format!("'t' || {name}::text"),
    }
}
