//! Keys that tables generate. A counter is raised without `ALTER TABLE`, which would wait for every
//! reader: InnoDB raises it for a row that is inserted, and does not lower it when that is undone.

use crate::db::{Arg, Database, Tx, quote};
use crate::error::{Error, OnSide};

/// By how much generated keys grow, and where they begin: the server says that for all tables.
pub(crate) async fn id_step(tx: &mut Tx) -> Result<Option<(i64, i64)>, sqlx::Error> {
    let text = "SELECT CAST(@@global.auto_increment_increment AS SIGNED), \
                CAST(@@global.auto_increment_offset AS SIGNED)";
    let rows = tx.fetch(text, &[]).await?;
    rows.first()
        .map(|row| Ok((row.int(0)?, row.int(1)?)))
        .transpose()
}

/// The last value that a table's generated key has given out.
pub(in crate::db) async fn sequence(tx: &mut Tx, table: &str) -> Result<Option<i64>, sqlx::Error> {
    // MySQL 8 tells what it knew a day ago, unless told not to. MariaDB skips comments of 8.
    let fresh = "SET /*!80000 SESSION information_schema_stats_expiry = 0, */ @outgrow_asked = 1";
    tx.execute(fresh, &[]).await?;
    let text = "SELECT CAST(auto_increment AS SIGNED) - 1 FROM information_schema.tables \
                WHERE table_schema = DATABASE() AND table_name = ?";
    tx.number(text, &[Arg::from(table)]).await
}

/// What the inserted row need not be, in the words of MariaDB and of MySQL: only its number counts,
/// and none of it stays. MySQL cannot leave checks out.
const LAX: [&str; 2] = [
    "/*M!100201 SET STATEMENT sql_mode = 'ANSI_QUOTES', foreign_key_checks = 0, \
     check_constraint_checks = 0 FOR */",
    "/*+ SET_VAR(sql_mode = 'ANSI_QUOTES') SET_VAR(foreign_key_checks = 0) */",
];

/// The column of a generated key, and the largest number that fits.
async fn counted(tx: &mut Tx, table: &str) -> Result<Option<(String, i64)>, sqlx::Error> {
    let text = "SELECT CAST(column_name AS CHAR), CAST(data_type AS CHAR), \
                column_type LIKE '%unsigned%' FROM information_schema.columns \
                WHERE table_schema = DATABASE() AND table_name = ? AND extra LIKE '%auto_increment%'";
    let rows = tx.fetch(text, &[Arg::from(table)]).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let bits = match row.text(1)?.as_str() {
        "tinyint" => 8,
        "smallint" => 16,
        "mediumint" => 24,
        "int" => 32,
        "bigint" => return Ok(Some((row.text(0)?, i64::MAX - 1))),
        _ => return Ok(None),
    };
    let bits = if row.int(2)? == 0 { bits - 1 } else { bits };
    Ok(Some((row.text(0)?, (1 << bits) - 2)))
}

/// A row of this number. In this form of an insert also one that is refused for a unique value raises the
/// counter.
fn one_more(table: &str, column: &str) -> String {
    let [before, hint] = LAX;
    format!(
        "{before} INSERT {hint} INTO {} ({}) SELECT CAST(? AS SIGNED)",
        quote(table),
        quote(column)
    )
}

/// A row of this number that is like another one, and so passes the checks that MySQL does not leave out;
/// `None` where there is no other.
async fn like_another(
    tx: &mut Tx,
    table: &str,
    column: &str,
) -> Result<Option<String>, sqlx::Error> {
    let text = "SELECT CAST(column_name AS CHAR) FROM information_schema.columns \
                WHERE table_schema = DATABASE() AND table_name = ? AND column_name <> ? \
                AND COALESCE(generation_expression, '') = ''";
    let args = [Arg::from(table), Arg::from(column)];
    let others = tx.fetch(text, &args).await?;
    let others: Vec<String> = others
        .iter()
        .filter_map(|row| Some(format!(", {}", quote(&row.maybe_text(0)?))))
        .collect();
    let [before, hint] = LAX;
    let (table, column, others) = (quote(table), quote(column), others.concat());
    let any = format!("SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT 1) AS one");
    let text = format!(
        "{before} INSERT {hint} INTO {table} ({column}{others}) SELECT CAST(? AS SIGNED){others} FROM {table} LIMIT 1"
    );
    Ok((tx.number(&any, &[]).await? == Some(1)).then_some(text))
}

impl Database {
    /// Advances the next value of a generated key past this one. Where that cannot be it is said and
    /// left: ids of rows that are there are never given out again, and no cutover fails for those of
    /// rows that are gone.
    pub(in crate::db) async fn raise_sequence_mysql(&self, table: &str, value: i64) {
        match self.try_raise(table, value).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(slice = %self.slice, side = %self.side, table, value,
                    "ids up to this one, of rows that are gone, may be given out again");
            }
            Err(error) => {
                tracing::warn!(slice = %self.slice, side = %self.side, table, value, %error,
                    "ids up to this one, of rows that are gone, may be given out again");
            }
        }
    }

    /// Whether the next value is beyond this one then.
    async fn try_raise(&self, table: &str, value: i64) -> Result<bool, Error> {
        let side = self.side;
        let mut tx = self.write().await?;
        let Some((column, most)) = counted(&mut tx, table).await.on(side)? else {
            return Ok(true);
        };
        if sequence(&mut tx, table).await.on(side)?.unwrap_or(0) >= value {
            return Ok(true);
        }
        if value > most {
            return Ok(false);
        }
        self.applying(&mut tx, true).await?;
        let mut texts = vec![one_more(table, &column)];
        texts.extend(like_another(&mut tx, table, &column).await.on(side)?);
        let mut inserted = Ok(0);
        for text in texts {
            tx.execute("SAVEPOINT ids", &[]).await.on(side)?;
            inserted = tx.execute(&text, &[Arg::from(value)]).await;
            tx.execute("ROLLBACK TO ids", &[]).await.on(side)?;
            if inserted.is_ok() {
                break;
            }
        }
        tx.execute(super::APPLYING, &[Arg::from("")])
            .await
            .on(side)?;
        tx.commit().await.on(side)?;
        let mut tx = self.read().await?;
        let raised = sequence(&mut tx, table).await.on(side)?.unwrap_or(0) >= value;
        match inserted {
            Err(error) if !raised => Err(error).on(side),
            _ => Ok(raised),
        }
    }
}
