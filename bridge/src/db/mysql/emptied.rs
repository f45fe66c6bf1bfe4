//! Tables that were truncated, where triggers note the keys of changed rows: a `TRUNCATE` fires
//! none. It gives a table another number in InnoDB, as does whatever makes a table anew; that is
//! taken for a change of every row. Numbers are shown to who has the right `PROCESS`; to others they
//! look as if there were none, and nothing is noticed.

use crate::db::mysql::binlog::EVERY_ROW;
use crate::db::{Arg, Database, Dialect, Tx};
use crate::error::{Error, OnSide};
use crate::plan::{Plan, Table};
use crate::spec::Capture;

use super::capture::NOW;

/// InnoDB's numbers of tables, by MariaDB and by MySQL.
const NUMBERS: [&str; 2] = ["innodb_sys_tables", "innodb_tables"];

impl Database {
    /// Notes a change of every row of each table that has another number than the one known.
    pub(crate) async fn note_emptied(&self, plan: &Plan) -> Result<(), Error> {
        if self.dialect() != Dialect::Mysql || self.capture() != Capture::Triggers {
            return Ok(());
        }
        let mut tx = self.read().await?;
        let Some(numbers) = numbers_table(&mut tx).await.on(self.side)? else {
            return Ok(());
        };
        let mut changed = Vec::new();
        for table in plan.tables(self.side) {
            let now = number(&mut tx, numbers, table).await.on(self.side)?;
            let text = format!("SELECT number FROM {} WHERE tbl = ?", self.own("born"));
            let known = tx.number(&text, &[Arg::from(&table.name)]).await;
            let known = known.on(self.side)?;
            if let Some(now) = now
                && known != Some(now)
            {
                changed.push((&table.name, now, known.is_some()));
            }
        }
        drop(tx);
        for (name, now, was_known) in changed {
            let mut tx = self.write().await?;
            if was_known {
                tracing::warn!(slice = %self.slice, side = %self.side, table = name,
                    "the table was truncated or made anew: every key of the other side is looked at");
                let text = format!(
                    "INSERT INTO {} (tbl, op, at) VALUES (?, '{EVERY_ROW}', {NOW})",
                    self.own("noted")
                );
                tx.execute(&text, &[Arg::from(name)]).await.on(self.side)?;
            }
            let text = format!(
                "REPLACE INTO {} (tbl, number) VALUES (?, ?)",
                self.own("born")
            );
            tx.execute(&text, &[Arg::from(name), Arg::from(now)])
                .await
                .on(self.side)?;
            tx.commit().await.on(self.side)?;
        }
        Ok(())
    }
}

impl Database {
    /// Of which tables a `TRUNCATE` would not be noticed, and what to do.
    pub(in crate::db) async fn emptied_advice(
        &self,
        plan: &Plan,
    ) -> Result<Vec<(String, String)>, Error> {
        let mut tx = self.read().await?;
        let Some(numbers) = numbers_table(&mut tx).await.on(self.side)? else {
            return Ok(Vec::new());
        };
        let mut unseen = Vec::new();
        for table in plan.tables(self.side) {
            if number(&mut tx, numbers, table)
                .await
                .on(self.side)?
                .is_none()
            {
                unseen.push(format!("`{}`", table.name));
            }
        }
        if unseen.is_empty() {
            return Ok(Vec::new());
        }
        let what = format!("a TRUNCATE of {} is not noticed", unseen.join(", "));
        let fix = match are_shown(&mut tx, numbers).await.on(self.side)? {
            true => "use DELETE there, for their numbers cannot be told".to_owned(),
            false => {
                let text = "SELECT CAST(CURRENT_USER() AS CHAR)";
                let rows = tx.fetch(text, &[]).await.on(self.side)?;
                let user = rows.first().and_then(|row| row.maybe_text(0));
                let user = user.unwrap_or_default();
                let (name, host) = user.rsplit_once('@').unwrap_or((&user, "%"));
                format!("GRANT PROCESS ON *.* TO '{name}'@'{host}', or use DELETE there")
            }
        };
        Ok(vec![(what, fix)])
    }
}

/// Whether this user is shown any.
async fn are_shown(tx: &mut Tx, numbers: &str) -> Result<bool, sqlx::Error> {
    let text = format!("SELECT count(*) FROM information_schema.{numbers}");
    match tx.number(&text, &[]).await {
        Err(error) if is_denied(&error) => Ok(false),
        found => Ok(found?.unwrap_or(0) > 0),
    }
}

/// Where this server shows numbers.
async fn numbers_table(tx: &mut Tx) -> Result<Option<&'static str>, sqlx::Error> {
    for name in NUMBERS {
        // MySQL writes these names in upper case, and its dictionary tells cases apart.
        let text = "SELECT count(*) FROM information_schema.tables \
                    WHERE table_schema = 'information_schema' AND LOWER(table_name) = ?";
        if tx.number(text, &[Arg::from(name)]).await? == Some(1) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// A table's number; `None` where it cannot be seen.
async fn number(tx: &mut Tx, numbers: &str, table: &Table) -> Result<Option<i64>, sqlx::Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !table.name.chars().all(plain) {
        // The engine writes other letters in a way of its own.
        return Ok(None);
    }
    let text = format!(
        "SELECT CAST(table_id AS SIGNED) FROM information_schema.{numbers} \
         WHERE name = CONCAT(DATABASE(), '/', ?)"
    );
    match tx.number(&text, &[Arg::from(&table.name)]).await {
        Err(error) if is_denied(&error) => Ok(None),
        found => found,
    }
}

/// Whether the server says that a right is missing: MariaDB shows an empty table instead.
fn is_denied(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|e| e.code());
    code.is_some_and(|code| code == "42000")
}
