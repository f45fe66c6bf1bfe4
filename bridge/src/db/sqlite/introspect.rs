//! Reads what a database declares. Changes nothing.

use crate::db::{Arg, Tx, literal};
use crate::plan::{ColumnSchema, TableSchema, Unfit, UniqueIndex};
use crate::value::{Affinity, Kind};

/// Changes with every change of any table's shape.
pub(crate) const VERSION: &str = "PRAGMA schema_version";

/// One table's shape; `None` when it does not exist.
pub(crate) async fn table(tx: &mut Tx, name: &str) -> Result<Option<TableSchema>, sqlx::Error> {
    let text =
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ? AND sql IS NOT NULL";
    let rows = tx.fetch(text, &[Arg::from(name)]).await?;
    let Some(text) = rows.first().and_then(|row| row.maybe_text(0)) else {
        return Ok(None);
    };
    let (columns, primary) = columns(tx, name).await?;
    let mut unique = uniques(tx, name, &columns).await?;
    // That of row numbers has no index.
    if !primary.is_empty() && !unique.iter().any(|index| index.columns == primary) {
        unique.push(UniqueIndex {
            columns: primary,
            unfit: None,
            loose: false,
        });
    }
    let (parents, has_action) = references(tx, name).await?;
    let schema = TableSchema {
        columns,
        parents,
        written_by_others: has_action || mentioned_by_trigger(tx, name).await?,
        autoincrement: text.to_ascii_uppercase().contains("AUTOINCREMENT"),
        ..TableSchema::default()
    };
    Ok(Some(schema.with_unique(unique)))
}

async fn columns(tx: &mut Tx, name: &str) -> Result<(Vec<ColumnSchema>, Vec<String>), sqlx::Error> {
    let text = format!(
        "SELECT name, type, \"notnull\", dflt_value IS NOT NULL, pk, hidden FROM pragma_table_xinfo({})",
        literal(name)
    );
    let mut columns = Vec::new();
    let mut primary: Vec<(i64, String)> = Vec::new();
    for row in tx.fetch(&text, &[]).await? {
        let hidden = row.int(5)?;
        // 1 is a hidden column of a virtual table; 2 and 3 are generated columns.
        if hidden == 1 {
            continue;
        }
        let name = row.text(0)?;
        let place = row.int(4)?;
        if place > 0 {
            primary.push((place, name.clone()));
        }
        columns.push(ColumnSchema {
            kind: Kind::Sqlite(Affinity::of(&row.maybe_text(1).unwrap_or_default())),
            required: row.int(2)? != 0,
            has_default: row.int(3)? != 0,
            generated: hidden != 0,
            name,
        });
    }
    primary.sort();
    Ok((columns, primary.into_iter().map(|(_, name)| name).collect()))
}

/// Every unique index without an expression.
async fn uniques(
    tx: &mut Tx,
    name: &str,
    columns: &[ColumnSchema],
) -> Result<Vec<UniqueIndex>, sqlx::Error> {
    let text = format!(
        "SELECT name, \"unique\", partial, origin = 'pk' FROM pragma_index_list({})",
        literal(name)
    );
    let may_lack = |name: &String| columns.iter().any(|c| c.name == *name && !c.required);
    let mut found = Vec::new();
    for index in tx.fetch(&text, &[]).await? {
        if index.int(1)? == 0 {
            continue;
        }
        let text = format!(
            "SELECT name, coll <> 'BINARY' FROM pragma_index_xinfo({}) WHERE key ORDER BY seqno",
            literal(&index.text(0)?)
        );
        let parts = tx.fetch(&text, &[]).await?;
        // An expression has no name.
        let names = parts.iter().map(|part| part.maybe_text(0));
        let Some(names) = names.collect::<Option<Vec<String>>>() else {
            continue;
        };
        let unfit = match (index.int(2)? != 0, index.int(3)? != 0) {
            (true, _) => Some(Unfit::Partial),
            // Whose columns are rarely declared NOT NULL; rows without a value are parked.
            (false, true) => None,
            (false, false) => names.iter().any(may_lack).then_some(Unfit::Nullable),
        };
        found.push(UniqueIndex {
            columns: names,
            unfit,
            loose: parts.iter().any(|part| part.maybe(1) == Some(1)),
        });
    }
    Ok(found)
}

async fn references(tx: &mut Tx, name: &str) -> Result<(Vec<String>, bool), sqlx::Error> {
    let text = format!(
        "SELECT \"table\", on_update, on_delete FROM pragma_foreign_key_list({})",
        literal(name)
    );
    let mut parents = Vec::new();
    let mut has_action = false;
    for row in tx.fetch(&text, &[]).await? {
        parents.push(row.text(0)?);
        for way in 1..=2 {
            has_action |= !matches!(row.text(way)?.as_str(), "NO ACTION" | "RESTRICT");
        }
    }
    Ok((parents, has_action))
}

async fn mentioned_by_trigger(tx: &mut Tx, name: &str) -> Result<bool, sqlx::Error> {
    let text = "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' \
                AND substr(name, 1, 9) <> '_outgrow_' AND instr(lower(sql), lower(?)) > 0";
    Ok(tx.number(text, &[Arg::from(name)]).await?.unwrap_or(0) > 0)
}
