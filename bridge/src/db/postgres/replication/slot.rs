//! The publication and the slot: making them, looking after them, removing them.

use std::collections::HashMap;
use std::time::Duration;

use outgrow_rollout::Side;

use super::{Feed, Watched};
use crate::db::postgres::copy::has_large;
use crate::db::{Arg, Database, Dialect, PATIENCE, Tx, list, quote};
use crate::error::{Error, OnSide};
use crate::plan::{Plan, Table};
use crate::preflight::Problem;

/// What tells a run of the server from all others.
pub(super) const RUN: &str = "(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8";

/// What is published of each table.
const PUBLISHED: &str = "publish = 'insert, update, delete', publish_via_partition_root = true";

/// Why a table with virtual columns and whole rows in the log is not followed, and the way out.
fn untold(table: &Table) -> (String, String, String) {
    let what = "its whole rows are in the log, and columns that are computed when they are read are not: \
                the server would refuse the application's own updates of it";
    let of = Dialect::Postgres.table(&table.name);
    let fix = format!("ALTER TABLE {of} REPLICA IDENTITY DEFAULT, or write capture = \"triggers\"");
    (table.name.clone(), what.to_owned(), fix)
}

/// Makes a publication, or brings one up to this; with what is computed and kept in rows.
fn publication(is_there: bool, name: &str, tables: &str, computed: bool) -> String {
    const COMPUTED: &str = "publish_generated_columns = stored";
    match (is_there, computed) {
        (false, false) => {
            format!("CREATE PUBLICATION {name} FOR TABLE {tables} WITH ({PUBLISHED})")
        }
        (false, true) => {
            format!("CREATE PUBLICATION {name} FOR TABLE {tables} WITH ({PUBLISHED}, {COMPUTED})")
        }
        (true, false) => format!("ALTER PUBLICATION {name} SET TABLE {tables}"),
        (true, true) => format!(
            "ALTER PUBLICATION {name} SET ({COMPUTED}); ALTER PUBLICATION {name} SET TABLE {tables}"
        ),
    }
}

/// What is to be said of `max_slot_wal_keep_size`, so many megabytes or -1, beside the link's own limit:
/// that comes first while Outgrow runs, for it has warned before and says what to do.
fn keep_advice(side: Side, megabytes: i64, limit: u64) -> Option<(String, String)> {
    let bound = u64::try_from(megabytes).map(|kept| kept.saturating_mul(1 << 20));
    let limited = limit >> 20;
    let what = match bound {
        Ok(bound) if bound > limit => return None,
        Ok(_) => format!(
            "the server of the {side} database gives a replication slot up that keeps {megabytes} MB of its log \
             (`max_slot_wal_keep_size`), before the link's `log_limit` of {limited} MB is reached and with no warning: \
             the copy is to be started again then"
        ),
        Err(_) => format!(
            "the server of the {side} database keeps its log for a replication slot without a bound \
             (`max_slot_wal_keep_size`): while Outgrow is not running, nobody keeps its disk from filling"
        ),
    };
    let wanted = (limit / 4).saturating_add(limit) >> 20;
    let lower = match bound {
        Ok(_) => ", or write a smaller `log_limit`",
        Err(_) => "",
    };
    let fix = format!(
        "ALTER SYSTEM SET max_slot_wal_keep_size = '{wanted}MB'; SELECT pg_reload_conf();{lower}"
    );
    Some((what, fix))
}

impl Database {
    /// Makes the publication and the slot, or brings the publication up to the plan.
    pub(in crate::db) async fn install_feed(&self, feed: &Feed, plan: &Plan) -> Result<(), Error> {
        let side = self.side;
        let mut tx = self.write().await?;
        feed.version.set(self.server_version(&mut tx).await?);
        if !feed.tells() {
            self.install_said(&mut tx).await?;
        }
        let (watched, told) = self.publish(feed, &mut tx, plan, None).await?;
        let make = format!(
            "CREATE TABLE IF NOT EXISTS {} (id int PRIMARY KEY CHECK (id = 1), name text NOT NULL, \
             lsn bigint NOT NULL)",
            self.own("slot")
        );
        tx.script(make).await.on(side)?;
        tx.commit().await.on(side)?;
        let mut inner = feed.inner.lock().await;
        inner.watch(watched);
        inner.published = told;
        drop(inner);
        self.make_slot().await
    }

    /// Has what is published follow the roles of the sides.
    pub(in crate::db) async fn republish_feed(
        &self,
        feed: &Feed,
        plan: &Plan,
    ) -> Result<(), Error> {
        let before = feed.inner.lock().await.published.clone();
        let mut tx = self.write().await?;
        let (_, told) = self.publish(feed, &mut tx, plan, Some(&before)).await?;
        tx.commit().await.on(self.side)?;
        feed.inner.lock().await.published = told;
        Ok(())
    }

    async fn publish(
        &self,
        feed: &Feed,
        tx: &mut Tx,
        plan: &Plan,
        before: Option<&str>,
    ) -> Result<(HashMap<u32, Watched>, String), Error> {
        let side = self.side;
        let mut watched = HashMap::new();
        let mut published = Vec::new();
        let whole_rows = feed.rows && self.control(tx).await?.source == side;
        let version = self.server_version(tx).await?;
        let mut computes = false;
        for table in plan.tables(side) {
            let name = Dialect::Postgres.table(&table.name);
            let text =
                "SELECT oid::int8, relreplident = 'f' FROM pg_class WHERE oid = to_regclass(?)";
            let rows = tx.fetch(text, &[Arg::from(&name)]).await.on(side)?;
            let row = rows.first().ok_or(sqlx::Error::RowNotFound).on(side)?;
            let whole = row.int(1).on(side)? != 0;
            computes |= whole && self.tells_computed(tx, table).await?;
            let told = whole_rows && self.short_of(tx, plan, table).await.on(side)?;
            let keys = table.key.iter().map(|&at| table.columns[at].name.as_str());
            // Only the key need come by the log else, where that can be said. A list of more columns
            // would keep their owner from changing them.
            published.push(if version >= 150_000 && !whole && !told {
                format!("{name} ({})", list(keys))
            } else {
                name
            });
            watched.insert(
                relation_id(row.int(0).on(side)?),
                Watched::Table(table.clone()),
            );
        }
        let mut own = vec![(self.own("noted"), Watched::Noted)];
        if !feed.tells() {
            own.push((self.own("said"), Watched::Said));
        }
        for (name, what) in own {
            let text = "SELECT to_regclass(?)::oid::int8";
            let id = tx.number(text, &[Arg::from(&name)]).await.on(side)?;
            watched.insert(relation_id(id.unwrap_or(0)), what);
            published.push(name);
        }
        let told = published.join(", ");
        if before == Some(told.as_str()) {
            return Ok((watched, told));
        }
        let name = self.feed_publication();
        let text = "SELECT count(*) FROM pg_publication WHERE pubname = ?";
        let there = tx.number(text, &[Arg::from(&name)]).await.on(side)?;
        let (name, tables) = (&quote(&name), &told);
        // Else the server refuses updates of a table whose whole rows it is to tell, from 18 on.
        let computed = version >= 180_000 && computes;
        let text = publication(there != Some(0), name, tables, computed);
        tx.script(text).await.on(side)?;
        Ok((watched, told))
    }

    /// Whether rows of this table may come by the log: they are read from nowhere else, and have
    /// no values that are kept outside of them, which it may not tell and which may be of any size.
    async fn short_of(&self, tx: &mut Tx, plan: &Plan, table: &Table) -> Result<bool, sqlx::Error> {
        let group = plan.group_of(self.side, &table.name);
        let alone = group.is_some_and(|at| plan.groups[at].tables(self.side).len() == 1);
        let text = "SELECT count(*) FROM pg_attribute a WHERE a.attrelid = to_regclass(?) \
                    AND a.attgenerated <> '' AND NOT a.attisdropped";
        let args = [Arg::from(&Dialect::Postgres.table(&table.name))];
        Ok(alone && !has_large(tx, table).await? && tx.number(text, &args).await? == Some(0))
    }

    /// A slot that has no record of ours was never read from.
    async fn make_slot(&self) -> Result<(), Error> {
        let side = self.side;
        let mut tx = self.write().await?;
        let text = format!("SELECT count(*) FROM {}", self.own("slot"));
        if tx.number(&text, &[]).await.on(side)? != Some(0) {
            return tx.commit().await.on(side);
        }
        let text = "SELECT 'outgrow_' || left(translate(s, '-', '_'), 36) || \
                    CASE WHEN length(s) > 36 THEN left(md5(s), 6) ELSE '' END || '_' || d.oid \
                    FROM pg_database d, CAST(? AS text) AS s WHERE d.datname = current_database()";
        let rows = tx
            .fetch(text, &[Arg::from(self.slice.as_str())])
            .await
            .on(side)?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound).on(side)?;
        let name = row.text(0).on(side)?;
        tx.commit().await.on(side)?;
        self.drop_slot(&name).await?;
        // It waits for transactions that are open, so it has a statement of its own.
        let mut tx = self.write().await?;
        tx.execute("SET LOCAL statement_timeout = '60s'", &[])
            .await
            .on(side)?;
        let text = "SELECT (lsn - pg_lsn '0/0')::int8 \
                    FROM pg_create_logical_replication_slot(?, 'pgoutput')";
        let lsn = tx.number(text, &[Arg::from(&name)]).await.on(side)?;
        let text = format!("INSERT INTO {} VALUES (1, ?, ?)", self.own("slot"));
        tx.execute(&text, &[Arg::from(&name), Arg::from(lsn)])
            .await
            .on(side)?;
        tx.commit().await.on(side)
    }

    /// Drops a slot if it is there. One that was just let go is in use for a moment more.
    pub(in crate::db) async fn drop_slot(&self, name: &str) -> Result<(), Error> {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mut tx = self.write().await?;
            let text = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                        WHERE slot_name = ?";
            let dropped = tx.execute(text, &[Arg::from(name)]).await;
            match dropped.on(self.side) {
                Ok(_) => return tx.commit().await.on(self.side),
                Err(e) if e.passes() && tokio::time::Instant::now() < until => {
                    drop(tx);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Removes slot and publication, whatever the config says now.
    pub(in crate::db) async fn uninstall_feed(&self) -> Result<(), Error> {
        let side = self.side;
        let mut tx = self.write().await?;
        let text = "SELECT count(*) FROM pg_class WHERE oid = to_regclass(?)";
        let there = tx
            .number(text, &[Arg::from(&self.own("slot"))])
            .await
            .on(side)?;
        if there != Some(1) {
            return Ok(());
        }
        drop(tx);
        self.give_up_slot().await?;
        let mut tx = self.write().await?;
        let text = format!(
            "DROP PUBLICATION IF EXISTS {}; DROP TABLE {}",
            quote(&self.feed_publication()),
            self.own("slot")
        );
        tx.script(text).await.on(side)?;
        tx.commit().await.on(side)
    }

    /// What stands in the way of reading the log: (what, its trouble, the way out).
    pub(in crate::db) async fn missing_for_feed(
        &self,
        tx: &mut Tx,
        plan: &Plan,
    ) -> Result<Vec<(String, String, String)>, sqlx::Error> {
        let database = || format!("{} database", self.side);
        let text = "SELECT current_setting('server_version_num')::int8, \
                    current_setting('wal_level'), \
                    (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user), \
                    (SELECT count(*) FROM pg_replication_slots) \
                    < current_setting('max_replication_slots')::int8, current_user::text, \
                    (SELECT count(*) FROM pg_replication_slots WHERE plugin = 'pgoutput' \
                     AND slot_name LIKE ?)";
        let slots = format!("outgrow\\_{}%", self.slice.as_str().replace('-', "\\_"));
        let rows = tx.fetch(text, &[Arg::from(&slots)]).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let mut missing = Vec::new();
        let mut add = |what: String, fix: &str| missing.push((database(), what, fix.to_owned()));
        let triggers = "or write capture = \"triggers\"";
        if row.int(0)? < 130_000 {
            add(
                "capture by replication needs PostgreSQL 13".to_owned(),
                "write capture = \"triggers\"",
            );
        }
        let level = row.text(1)?;
        if level != "logical" {
            add(
                format!("wal_level is `{level}`, so the log does not tell of rows"),
                &format!("set wal_level = logical and restart the server, {triggers}"),
            );
        }
        let user = row.text(4)?;
        if row.maybe(2) != Some(1) {
            add(
                format!("user `{user}` may not make a replication slot"),
                &format!("ALTER ROLE {} REPLICATION, {triggers}", quote(&user)),
            );
        }
        if row.maybe(3) != Some(1) && row.maybe(5) == Some(0) {
            add(
                "every replication slot is taken".to_owned(),
                &format!("raise max_replication_slots, {triggers}"),
            );
        }
        for table in plan.tables(self.side) {
            if self.computes_whole(tx, table, 'v').await? {
                missing.push(untold(table));
            }
            if let Some(fix) = self.unidentified(tx, table).await? {
                let what = "an update or delete would not tell its key in the log".to_owned();
                missing.push((table.name.clone(), what, fix));
            }
        }
        Ok(missing)
    }

    /// What may cost us the slot while nobody reads it: (what, the way out).
    pub(in crate::db) async fn slot_advice(
        &self,
        limit: u64,
    ) -> Result<Vec<(String, String)>, Error> {
        // From version 18 on.
        let text = "SELECT setting || ' s' FROM pg_settings \
                    WHERE name = 'idle_replication_slot_timeout' AND setting <> '0'";
        let mut tx = self.read().await?;
        let rows = tx.fetch(text, &[]).await.on(self.side)?;
        let advice = |row: &crate::db::tx::Fetched| {
            let after = row.text(0).on(self.side)?;
            let what = format!(
                "the server of the {} database gives a replication slot up that nobody reads for {after}: \
                 if Outgrow is stopped for longer, the copy is to be started again",
                self.side
            );
            let fix = "set idle_replication_slot_timeout = 0, or write capture = \"triggers\"";
            Ok((what, fix.to_owned()))
        };
        let mut advised: Vec<_> = rows.iter().map(advice).collect::<Result<_, Error>>()?;
        let text = "SELECT setting::int8 FROM pg_settings WHERE name = 'max_slot_wal_keep_size'";
        if let Some(megabytes) = tx.number(text, &[]).await.on(self.side)? {
            advised.extend(keep_advice(self.side, megabytes, limit));
        }
        Ok(advised)
    }

    /// Whether a table that tells whole rows must tell computed ones, too; those that the log has not
    /// are refused, whoever starts the link, for the application would be.
    async fn tells_computed(&self, tx: &mut Tx, table: &Table) -> Result<bool, Error> {
        if self.computes_whole(tx, table, 'v').await.on(self.side)? {
            let (table, what, fix) = untold(table);
            let problem = Problem {
                table,
                column: None,
                what,
                fix,
            };
            return Err(Error::Mapping {
                slice: self.slice.clone(),
                problems: vec![problem],
            });
        }
        self.computes_whole(tx, table, 's').await.on(self.side)
    }

    /// Whether the log identifies a table's rows by all columns, and some are computed: stored ones (`s`)
    /// or virtual ones (`v`).
    async fn computes_whole(
        &self,
        tx: &mut Tx,
        table: &Table,
        kind: char,
    ) -> Result<bool, sqlx::Error> {
        let text = "SELECT count(*) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
                    WHERE c.oid = to_regclass(?) AND c.relreplident = 'f' AND NOT a.attisdropped \
                    AND a.attgenerated::text = ?";
        let name = Dialect::Postgres.table(&table.name);
        let args = [Arg::from(&name), Arg::from(kind.to_string().as_str())];
        Ok(tx.number(text, &args).await? != Some(0))
    }

    /// How to make the log identify a table's rows by the mapped key, if it does not.
    async fn unidentified(
        &self,
        tx: &mut Tx,
        table: &Table,
    ) -> Result<Option<String>, sqlx::Error> {
        let name = Dialect::Postgres.table(&table.name);
        let text = "SELECT a.attname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
                    WHERE c.oid = to_regclass(?) AND a.attnum > 0 AND (c.relreplident = 'f' OR EXISTS \
                    (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey) \
                    AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident \
                    ELSE false END))";
        let rows = tx.fetch(text, &[Arg::from(&name)]).await?;
        let told: Vec<String> = rows.iter().filter_map(|row| row.maybe_text(0)).collect();
        let keys = table.key.iter().map(|&at| &table.columns[at].name);
        let missing = keys.into_iter().any(|key| !told.contains(key));
        Ok(missing.then(|| {
            format!(
                "ALTER TABLE {name} REPLICA IDENTITY USING INDEX (the unique index of the key), or FULL"
            )
        }))
    }

    /// Tables whose rows from before a change are not in the log: (table, why, the way out).
    ///
    /// With a list of columns in the publication the server would refuse the application's own
    /// updates of such a table, so the way out takes that list away in the same transaction.
    pub(in crate::db) async fn unidentified_whole(
        &self,
        tx: &mut Tx,
        plan: &Plan,
    ) -> Result<Vec<(String, String, String)>, sqlx::Error> {
        let listed = match tx
            .number("SELECT current_setting('server_version_num')::int8", &[])
            .await?
        {
            Some(version) if version >= 150_000 => "pr.prattrs IS NOT NULL",
            _ => "false",
        };
        // Of a partitioned table each partition tells its rows by itself.
        let text = format!(
            "SELECT c.oid::regclass::text, EXISTS (SELECT 1 FROM pg_publication p \
             JOIN pg_publication_rel pr ON pr.prpubid = p.oid \
             WHERE p.pubname = ? AND pr.prrelid = to_regclass(?) AND {listed}) \
             FROM pg_class c WHERE c.relreplident <> 'f' AND (c.oid = to_regclass(?) \
             OR c.oid IN (SELECT relid FROM pg_partition_tree(to_regclass(?)))) ORDER BY c.oid"
        );
        let publication = self.feed_publication();
        let mut missing = Vec::new();
        for table in plan.tables(self.side) {
            let name = Dialect::Postgres.table(&table.name);
            let of = Arg::from(&name);
            let args = [Arg::from(&publication), of.clone(), of.clone(), of];
            let rows = tx.fetch(&text, &args).await?;
            let alter = rows.iter().filter_map(|row| row.maybe_text(0));
            let alter = alter.map(|name| format!("ALTER TABLE {name} REPLICA IDENTITY FULL"));
            let alter: Vec<String> = alter.collect();
            let Some(first) = rows.first() else {
                continue;
            };
            let (alter, remove) = (
                alter.join("; "),
                "or remove `before` from the slice's events",
            );
            let fix = if first.maybe(1) == Some(1) {
                let of = quote(&publication);
                format!(
                    "BEGIN; ALTER PUBLICATION {of} DROP TABLE {name}; \
                     ALTER PUBLICATION {of} ADD TABLE {name}; {alter}; COMMIT, all of it at once, {remove}"
                )
            } else {
                format!("{alter}, {remove}")
            };
            let what = "the log does not have its rows from before an update or delete";
            missing.push((table.name.clone(), what.to_owned(), fix));
        }
        Ok(missing)
    }

    /// Gives the slot up, so that the server can remove its log. What was not read is lost to us.
    pub(in crate::db) async fn give_up_slot(&self) -> Result<(), Error> {
        let text = format!("SELECT name FROM {}", self.own("slot"));
        let mut tx = self.read().await?;
        let rows = tx.fetch(&text, &[]).await.on(self.side)?;
        drop(tx);
        for row in &rows {
            self.drop_slot(&row.text(0).on(self.side)?).await?;
        }
        Ok(())
    }

    /// The server's process that has the slot.
    pub(super) async fn walsender(&self, slot: &str) -> Result<Option<i64>, Error> {
        let text = "SELECT active_pid::int8 FROM pg_replication_slots WHERE slot_name = ?";
        let mut tx = self.read().await?;
        tx.number(text, &[Arg::from(slot)]).await.on(self.side)
    }

    /// Bytes of the log that the server keeps for the slot; `None` without one.
    pub(in crate::db) async fn log_kept(&self, tx: &mut Tx) -> Result<Option<u64>, Error> {
        let text = format!(
            "SELECT (pg_current_wal_insert_lsn() - s.restart_lsn)::int8 FROM {} o \
             JOIN pg_replication_slots s ON s.slot_name = o.name",
            self.own("slot")
        );
        let found = tx.number(&text, &[]).await.on(self.side)?;
        Ok(found.and_then(|bytes| u64::try_from(bytes).ok()))
    }

    /// As [`Self::slot_in_order`], and keeps our place for the first look at the log: a server that has less
    /// on record by then is another one than whoever asks now is about to believe.
    pub(in crate::db) async fn keep_recorded(&self, feed: &Feed) -> Result<(), Error> {
        let (_, place) = self.slot_in_order().await?;
        let mut inner = feed.inner.lock().await;
        inner.recorded = inner.recorded.max(place);
        Ok(())
    }

    /// The slot's name and our place in the log, once it is sure that nothing between the two
    /// was lost.
    pub(in crate::db) async fn slot_in_order(&self) -> Result<(String, u64), Error> {
        let discontinued = |what: String| {
            Err(Error::Discontinued {
                side: self.side,
                what,
            })
        };
        let text = format!(
            "SELECT o.name, o.lsn, s.confirmed_flush_lsn - pg_lsn '0/0' > o.lsn, \
             coalesce(s.wal_status, '') = 'lost', s.slot_name IS NULL, \
             to_jsonb(s) ->> 'invalidation_reason' \
             FROM {} o LEFT JOIN pg_replication_slots s ON s.slot_name = o.name",
            self.own("slot")
        );
        let mut tx = self.read().await?;
        let rows = tx.fetch(&text, &[]).await.on(self.side)?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound).on(self.side)?;
        let name = row.text(0).on(self.side)?;
        if row.maybe(4) == Some(1) {
            return discontinued(format!("its replication slot `{name}` is gone"));
        }
        if row.maybe(3) == Some(1) {
            // Told from version 17 on.
            let why = match row.maybe_text(5).as_deref() {
                None | Some("wal_removed") => {
                    "as it held back more log than `max_slot_wal_keep_size` allows"
                }
                Some("idle_timeout") => {
                    "as nobody read from it for longer than `idle_replication_slot_timeout` allows"
                }
                Some(_) => "as it could not be read from any more",
            };
            return discontinued(format!(
                "its replication slot `{name}` was given up by the server, {why}"
            ));
        }
        if row.maybe(2) == Some(1) {
            return discontinued(format!("somebody else moved its replication slot `{name}`"));
        }
        let lsn = row.int(1).on(self.side)?;
        Ok((name, u64::try_from(lsn).unwrap_or(0)))
    }
}

impl Database {
    /// Refuses a server whose log, or whose record of our place in it, is behind what this process
    /// has seen of it: it was restored from a backup meanwhile. What comes by such a log would be
    /// taken for what is behind the place.
    ///
    /// The slot's name, our place, and the server's run.
    pub(super) async fn log_goes_on(
        &self,
        recorded: u64,
        read: u64,
    ) -> Result<(String, u64, i64), Error> {
        // First: what is asked of a later one is not what is believed of this.
        let run = self.run().await?;
        let (name, written) = self.slot_in_order().await?;
        let mut tx = self.read().await?;
        let text = "SELECT (pg_current_wal_insert_lsn() - pg_lsn '0/0')::int8";
        let end = tx.number(text, &[]).await.on(self.side)?;
        let end = u64::try_from(end.unwrap_or(0)).unwrap_or(0);
        for (what, is, was) in [
            ("our place in its log", written, recorded),
            ("its log", end, recorded.max(read)),
        ] {
            if is < was {
                let at = |lsn: u64| format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff);
                return Err(Error::Discontinued {
                    side: self.side,
                    what: format!("{what} is at {}, and was at {}", at(is), at(was)),
                });
            }
        }
        Ok((name, written, run))
    }

    /// When the server was started: no two runs of it are the same.
    pub(super) async fn run(&self) -> Result<i64, Error> {
        let mut tx = self.read().await?;
        let run = tx.number(&format!("SELECT {RUN}"), &[]).await;
        Ok(run.on(self.side)?.unwrap_or(0))
    }
}

fn relation_id(oid: i64) -> u32 {
    u32::try_from(oid).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_bound_is_to_be_above_the_links() {
        let advice = |megabytes, limit| keep_advice(Side::Legacy, megabytes, limit);
        assert_eq!(advice(65_537, 64 << 30), None);
        let (what, fix) = advice(-1, 64 << 30).unwrap_or_default();
        assert!(what.contains("without a bound"), "{what}");
        assert!(fix.contains("max_slot_wal_keep_size = '81920MB'"), "{fix}");
        assert!(!fix.contains("log_limit"), "{fix}");
        for megabytes in [0, 1_024, 65_536] {
            let (what, fix) = advice(megabytes, 64 << 30).unwrap_or_default();
            assert!(what.contains("before the link's `log_limit`"), "{what}");
            assert!(fix.ends_with("or write a smaller `log_limit`"), "{fix}");
        }
    }
}
