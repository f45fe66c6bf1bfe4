//! Reads what a database declares. Changes nothing.

use sqlx::{Row as _, SqliteConnection};

use super::{Database, literal, sql};
use crate::error::{Error, OnSide};
use crate::plan::{ColumnSchema, Schema, TableSchema};

impl Database {
    /// The declared shape of these tables; those that do not exist are left out.
    pub(crate) async fn schema(&self, tables: &[String]) -> Result<Schema, Error> {
        let mut tx = self.read().await?;
        let mut schema = Schema::new();
        for name in tables {
            if let Some(table) = table(&mut tx, name).await.on(self.side)? {
                schema.insert(name.clone(), table);
            }
        }
        Ok(schema)
    }

    /// Changes with every change of any table's shape.
    pub(crate) async fn schema_version(&self) -> Result<i64, Error> {
        let mut tx = self.read().await?;
        sqlx::query_scalar("PRAGMA schema_version")
            .fetch_one(&mut *tx)
            .await
            .on(self.side)
    }
}

async fn table(
    connection: &mut SqliteConnection,
    name: &str,
) -> Result<Option<TableSchema>, sqlx::Error> {
    let declared: Option<(String,)> = sqlx::query_as(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ? AND sql IS NOT NULL",
    )
    .bind(name)
    .fetch_optional(&mut *connection)
    .await?;
    let Some((text,)) = declared else {
        return Ok(None);
    };
    let (columns, primary) = columns(connection, name).await?;
    let mut unique = uniques(connection, name).await?;
    if !primary.is_empty() && !unique.contains(&primary) {
        unique.push(primary);
    }
    let (parents, has_action) = references(connection, name).await?;
    Ok(Some(TableSchema {
        columns,
        unique,
        parents,
        written_by_others: has_action || mentioned_by_trigger(connection, name).await?,
        autoincrement: text.to_ascii_uppercase().contains("AUTOINCREMENT"),
    }))
}

async fn columns(
    connection: &mut SqliteConnection,
    name: &str,
) -> Result<(Vec<ColumnSchema>, Vec<String>), sqlx::Error> {
    let rows = sql(format!("PRAGMA table_xinfo({})", literal(name)))
        .fetch_all(connection)
        .await?;
    let mut columns = Vec::new();
    let mut primary: Vec<(i64, String)> = Vec::new();
    for row in rows {
        let hidden: i64 = row.try_get("hidden")?;
        // 1 is a hidden column of a virtual table; 2 and 3 are generated columns.
        if hidden == 1 {
            continue;
        }
        let name: String = row.try_get("name")?;
        let declared: String = row.try_get("type")?;
        let place: i64 = row.try_get("pk")?;
        if place > 0 {
            primary.push((place, name.clone()));
        }
        columns.push(ColumnSchema {
            required: row.try_get::<i64, _>("notnull")? != 0,
            has_default: row.try_get::<Option<String>, _>("dflt_value")?.is_some(),
            generated: hidden != 0,
            name,
            declared,
        });
    }
    primary.sort();
    Ok((columns, primary.into_iter().map(|(_, name)| name).collect()))
}

/// The columns of every unique index that covers all rows and no expression.
async fn uniques(
    connection: &mut SqliteConnection,
    name: &str,
) -> Result<Vec<Vec<String>>, sqlx::Error> {
    let indexes = sql(format!("PRAGMA index_list({})", literal(name)))
        .fetch_all(&mut *connection)
        .await?;
    let mut found = Vec::new();
    for index in indexes {
        let unique: i64 = index.try_get("unique")?;
        let partial: i64 = index.try_get("partial")?;
        if unique == 0 || partial != 0 {
            continue;
        }
        let index: String = index.try_get("name")?;
        let parts = sql(format!("PRAGMA index_info({})", literal(&index)))
            .fetch_all(&mut *connection)
            .await?;
        let names: Result<Vec<Option<String>>, _> =
            parts.iter().map(|part| part.try_get("name")).collect();
        // An expression has no name.
        if let Some(names) = names?.into_iter().collect::<Option<Vec<String>>>() {
            found.push(names);
        }
    }
    Ok(found)
}

async fn references(
    connection: &mut SqliteConnection,
    name: &str,
) -> Result<(Vec<String>, bool), sqlx::Error> {
    let rows = sql(format!("PRAGMA foreign_key_list({})", literal(name)))
        .fetch_all(connection)
        .await?;
    let mut parents = Vec::new();
    let mut has_action = false;
    for row in rows {
        parents.push(row.try_get("table")?);
        for way in ["on_update", "on_delete"] {
            let action: String = row.try_get(way)?;
            has_action |= !matches!(action.as_str(), "NO ACTION" | "RESTRICT");
        }
    }
    Ok((parents, has_action))
}

async fn mentioned_by_trigger(
    connection: &mut SqliteConnection,
    name: &str,
) -> Result<bool, sqlx::Error> {
    let found: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' \
         AND substr(name, 1, 9) <> '_outgrow_' AND instr(lower(sql), lower(?)) > 0",
    )
    .bind(name)
    .fetch_one(connection)
    .await?;
    Ok(found > 0)
}
