//! What the server and the bridge's user must have so that the log can be read.

use super::connect::{Broken, dump};
use super::place::{Begin, log_status, settings};
use super::{Feed, image, value};
use crate::db::{Arg, Database, PATIENCE, Tx};
use crate::error::{Error, OnSide};
use crate::plan::{Plan, Table};
use crate::value::Kind;

/// (what, its trouble, the way out).
type Missing = (String, String, String);

const OR: &str = "or write capture = \"triggers\"";

impl Database {
    /// What stands in the way of reading the log.
    pub(in crate::db) async fn missing_for_binlog(
        &self,
        feed: &Feed,
        tx: &mut Tx,
        plan: &Plan,
    ) -> Result<Vec<Missing>, sqlx::Error> {
        let set = settings(tx).await?;
        let of = |name: &str| set.get(name).map_or("", String::as_str);
        let mut missing: Vec<Missing> = wrong_settings(of)
            .into_iter()
            .map(|(what, fix)| (format!("{} database", self.side), what, fix))
            .collect();
        if of("log_bin") == "ON" {
            missing.extend(self.refused_log(feed, tx).await?);
        }
        for table in plan.tables(self.side) {
            missing.extend(unfit_keys(table));
            if !of("binlog_row_image").starts_with("FULL") && !primary(tx, table).await? {
                missing.push((
                    table.name.clone(),
                    "an update or delete would not tell its key in the log".to_owned(),
                    "SET GLOBAL binlog_row_image = 'FULL', or make the key the primary key"
                        .to_owned(),
                ));
            }
        }
        Ok(missing)
    }

    /// Tries to read the log, as nothing else says for sure that one may.
    async fn refused_log(&self, feed: &Feed, tx: &mut Tx) -> Result<Vec<Missing>, sqlx::Error> {
        let text = "SELECT CAST(CURRENT_USER() AS CHAR), CAST(DATABASE() AS CHAR)";
        let rows = tx.fetch(text, &[]).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let (user, schema) = (row.text(0)?, row.text(1)?);
        let database = format!("{} database", self.side);
        let (name, host) = user.rsplit_once('@').unwrap_or((&user, "%"));
        let grant = |right: &str| format!("GRANT {right} ON *.* TO '{name}'@'{host}', {OR}");
        let status = match log_status(tx).await {
            Ok(rows) => rows,
            Err(e) => {
                let what = format!("user `{user}` may not ask where the binary log ends: {e}");
                return Ok(vec![(database, what, grant("REPLICATION CLIENT"))]);
            }
        };
        let list = |at| status.first().and_then(|row| row.maybe_text(at));
        let has = |list: &str| list.split(',').any(|name| name.trim() == schema);
        let (only, without) = (list(2).unwrap_or_default(), list(3).unwrap_or_default());
        let mut missing = Vec::new();
        if !only.is_empty() && !has(&only) || has(&without) {
            missing.push((
                database.clone(),
                format!("the binary log leaves database `{schema}` out"),
                format!("mend `binlog_do_db` and `binlog_ignore_db`, {OR}"),
            ));
        }
        let Some(end) = self.end_of_log(tx).await? else {
            return Ok(missing);
        };
        let end = Begin::Place(end);
        if let Err(e) = self.tried(feed, tx, &end).await? {
            let e = e.text();
            let what = format!("user `{user}` cannot read the binary log: {e}");
            missing.push((database, what, grant("REPLICATION SLAVE")));
        }
        Ok(missing)
    }

    /// Has the log begin here, with a number of nobody's.
    pub(super) async fn tried(
        &self,
        feed: &Feed,
        tx: &mut Tx,
        from: &Begin,
    ) -> Result<Result<(), Broken>, sqlx::Error> {
        let text = "SELECT 2147483648 + FLOOR(RAND() * 2147483647)";
        let reader = tx.number(text, &[]).await?.unwrap_or(0);
        let encrypted = encrypted(tx).await?;
        let reader = u32::try_from(reader).unwrap_or(u32::MAX);
        let mut stream = match dump(&feed.url, encrypted, reader, from).await {
            Ok(stream) => stream,
            Err(broken) => return Ok(Err(broken)),
        };
        let first = tokio::time::timeout(PATIENCE, futures_util::StreamExt::next(&mut stream));
        let came = match first.await {
            Ok(Some(Ok(_))) => Ok(()),
            Ok(Some(Err(e))) => Err(Broken::from(e)),
            Ok(None) => Err(Broken::Passing("it ends at once".to_owned())),
            Err(_) => Err(Broken::Passing("nothing comes".to_owned())),
        };
        if let Err(e) = stream.close().await {
            tracing::debug!(error = %e, "the connection for the log ended badly");
        }
        Ok(came)
    }
}

/// What stands in the way of noting rows from before a change.
pub(crate) async fn missing_for_rows_mysql(
    database: &Database,
    tx: &mut Tx,
    plan: &Plan,
) -> Result<Vec<Missing>, sqlx::Error> {
    const REMOVE: &str = "or remove `before` from the slice's events";
    let set = settings(tx).await?;
    let image = set.get("binlog_row_image").map_or("", String::as_str);
    let mut missing = Vec::new();
    if !image.starts_with("FULL") {
        missing.push((
            format!("{} database", database.side),
            format!(
                "binlog_row_image is `{image}`, so the log does not have rows from before an \
                 update or delete"
            ),
            format!(
                "SET GLOBAL binlog_row_image = 'FULL', write it into the server's file and have \
                 the application connect anew, {REMOVE}"
            ),
        ));
    }
    for table in plan.tables(database.side) {
        let shape = database.shape(tx, table).await?;
        let charsets = shape.noting.unwrap_or_default();
        for (column, charset) in table.columns.iter().zip(charsets) {
            if !image::is_read(&column.kind, charset.as_deref()) {
                let of = charset.map_or_else(String::new, |set| format!(", of charset `{set}`"));
                missing.push((
                    table.name.clone(),
                    format!("`{}`{of} is not read from the log, so events cannot show its row from before", column.name),
                    format!("leave the column out of the mapping, {REMOVE}"),
                ));
            }
        }
    }
    Ok(missing)
}

impl Database {
    /// What a fail-over of this server would need.
    pub(in crate::db) async fn binlog_advice(&self) -> Result<Vec<(String, String)>, Error> {
        let mut tx = self.read().await?;
        let set = settings(&mut tx).await.on(self.side)?;
        Ok(for_a_fail_over(|name| {
            set.get(name).map_or("", String::as_str)
        }))
    }
}

/// Settings without which another server in its place could not be gone on with; empty is one that
/// this server does not know.
pub(super) fn for_a_fail_over<'a>(of: impl Fn(&str) -> &'a str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if !["", "ON"].contains(&of("gtid_mode")) {
        found.push((
            format!(
                "gtid_mode is `{}`, so after a fail-over the copy would have to be started again",
                of("gtid_mode")
            ),
            "turn GTIDs on, step by step: OFF_PERMISSIVE, ON_PERMISSIVE, ON".to_owned(),
        ));
    }
    if of("gtid_strict_mode") == "OFF" {
        found.push((
            "gtid_strict_mode is `OFF`, so a replica's log may go another way unnoticed".to_owned(),
            "SET GLOBAL gtid_strict_mode = ON here and on its replicas".to_owned(),
        ));
    }
    for name in ["log_slave_updates", "log_replica_updates"] {
        if of(name) == "OFF" {
            found.push((
                format!(
                    "{name} is `OFF`: a replica that is set so has nothing in its log to go on with"
                ),
                format!(
                    "set {name} = ON in the file of each server that may take this one's place"
                ),
            ));
        }
    }
    found
}

/// Whether our connections are encrypted.
pub(super) async fn encrypted(tx: &mut Tx) -> Result<bool, sqlx::Error> {
    let rows = tx.fetch("SHOW STATUS LIKE 'Ssl_cipher'", &[]).await?;
    let cipher = rows.first().and_then(|row| row.maybe_text(1));
    Ok(cipher.is_some_and(|cipher| !cipher.is_empty()))
}

/// Settings of the server that do not do, each with its remedy.
pub(super) fn wrong_settings<'a>(of: impl Fn(&str) -> &'a str) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    if of("log_bin") != "ON" {
        return vec![(
            "its binary log is off".to_owned(),
            format!(
                "set log_bin, binlog_format = ROW and binlog_row_metadata = FULL, and restart the server, {OR}"
            ),
        )];
    }
    for (name, good) in [("binlog_format", "ROW"), ("binlog_row_metadata", "FULL")] {
        let value = of(name);
        if value != good {
            wrong.push((
                format!(
                    "{name} is `{value}`, so the log does not tell of rows by their columns' names"
                ),
                format!("SET GLOBAL {name} = '{good}' and write it into the server's file, {OR}"),
            ));
        }
    }
    if of("binlog_order_commits") == "OFF" {
        wrong.push((
            "binlog_order_commits is `OFF`, so a row may be seen later than the log tells of it"
                .to_owned(),
            format!("SET GLOBAL binlog_order_commits = ON, {OR}"),
        ));
    }
    if of("binlog_row_value_options").contains("PARTIAL_JSON") {
        wrong.push((
            "binlog_row_value_options is `PARTIAL_JSON`, which the bridge cannot read".to_owned(),
            format!("SET GLOBAL binlog_row_value_options = '', {OR}"),
        ));
    }
    if of("server_id") == "0" {
        wrong.push((
            "server_id is 0, so the server sends its log to nobody".to_owned(),
            format!("SET GLOBAL server_id to a number of its own, {OR}"),
        ));
    }
    wrong
}

fn unfit_keys(table: &Table) -> impl Iterator<Item = Missing> {
    let columns = table.key.iter().map(|&at| &table.columns[at]);
    columns.filter_map(|column| {
        let Kind::Mysql(kind) = &column.kind else {
            return None;
        };
        let unfit = value::unfit(kind)?;
        Some((
            table.name.clone(),
            format!(
                "`{}` is in the key, and `{unfit}` cannot be read from the log as one",
                column.name
            ),
            "write capture = \"triggers\"".to_owned(),
        ))
    })
}

/// Whether the mapped key is all in the primary key.
async fn primary(tx: &mut Tx, table: &Table) -> Result<bool, sqlx::Error> {
    let text = "SELECT CAST(column_name AS CHAR) FROM information_schema.statistics \
                WHERE table_schema = DATABASE() AND table_name = ? AND index_name = 'PRIMARY'";
    let rows = tx.fetch(text, &[Arg::from(&table.name)]).await?;
    let told: Vec<String> = rows.iter().filter_map(|row| row.maybe_text(0)).collect();
    let mut keys = table.key.iter().map(|&at| &table.columns[at].name);
    Ok(keys.all(|key| told.contains(key)))
}
