//! A version of a row as it is kept: exact, so that it can be written again, and readable.

use std::collections::BTreeMap;

use outgrow_rollout::Side;
use serde_json::{Map, Value};

use crate::db::keys::{key_cell, key_text};
use crate::plan::{Group, Image, Row, Table};
use crate::value::Cell;

/// By table and column of the extracted side; no table means that the row is deleted.
pub(crate) type Columns = BTreeMap<String, BTreeMap<String, Value>>;

/// The text that is kept: each value with a letter for its kind.
pub(crate) fn text(tables: &[Table], image: &Image) -> String {
    let parts = tables.iter().zip(image);
    let tables: Map<String, Value> = parts
        .filter_map(|(table, row)| Some((table.name.clone(), row_text(table, row.as_ref()?))))
        .collect();
    Value::Object(tables).to_string()
}

fn row_text(table: &Table, row: &Row) -> Value {
    let cells = table.columns.iter().zip(row);
    let kept = |cell: &Cell| key_text(cell).map_or(Value::Null, Value::from);
    Value::Object(
        cells
            .map(|(c, cell)| (c.name.clone(), kept(cell)))
            .collect(),
    )
}

fn tables(kept: &str) -> Map<String, Value> {
    match serde_json::from_str(kept) {
        Ok(Value::Object(tables)) => tables,
        _ => Map::new(),
    }
}

/// The version as it was. `None` where it does not map, or the mapping has other columns by now.
pub(crate) fn image(group: &Group, kept: &str) -> Option<Image> {
    let tables = tables(kept);
    let known = |name: &String| {
        group
            .tables(Side::Extracted)
            .iter()
            .any(|t| t.name == *name)
    };
    if !tables.keys().all(known) {
        return None;
    }
    let one = |table: &Table| {
        let Some(row) = tables.get(&table.name) else {
            return Some(None);
        };
        let cell = |name: &str| match row.get(name)? {
            Value::Null => Some(Cell::Null),
            Value::String(text) => Some(key_cell(&Cell::from(text.as_str()))),
            _ => None,
        };
        let cells = table.columns.iter().map(|c| cell(&c.name));
        cells.collect::<Option<Row>>().map(Some)
    };
    group.tables(Side::Extracted).iter().map(one).collect()
}

/// The version for people and programs.
pub(crate) fn columns(kept: &str) -> Columns {
    let plain = |value: &Value| match value {
        Value::String(text) => serde_json::to_value(key_cell(&Cell::from(text.as_str()))),
        _ => Ok(Value::Null),
    };
    let row = |row: &Value| {
        let columns = row.as_object().into_iter().flatten();
        columns
            .map(|(name, value)| (name.clone(), plain(value).unwrap_or(Value::Null)))
            .collect()
    };
    tables(kept)
        .iter()
        .map(|(name, value)| (name.clone(), row(value)))
        .collect()
}

/// Where two versions differ: table and column, with both values; a missing row has none.
pub(crate) fn differing(legacy: &Columns, extracted: &Columns) -> Vec<(String, Value, Value)> {
    let mut found = BTreeMap::new();
    for (at, version) in [legacy, extracted].into_iter().enumerate() {
        for (table, columns) in version {
            for (column, value) in columns {
                let entry = found
                    .entry(format!("{table}.{column}"))
                    .or_insert_with(|| [Value::Null, Value::Null]);
                entry[at] = value.clone();
            }
        }
    }
    let differ = found.into_iter().filter(|(_, [a, b])| a != b);
    differ.map(|(name, [a, b])| (name, a, b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_kept_is_shown_plain_and_differences_are_found() {
        let a = r#"{"product": {"id": "i7", "title": "ta", "raw": "b00ff", "note": null}}"#;
        let b = r#"{"product": {"id": "i7", "title": "tb", "raw": "b00ff", "note": null}}"#;
        let plain = columns(a);
        assert_eq!(plain["product"]["title"], json!("a"));
        assert_eq!(plain["product"]["raw"], json!("X'00ff'"));
        assert_eq!(
            differing(&plain, &columns(b)),
            [("product.title".to_owned(), json!("a"), json!("b"))]
        );
        // Nothing is there after a delete.
        let gone = differing(&plain, &columns("{}"));
        assert_eq!(gone.len(), 3, "{gone:?}");
        assert!(columns("garbage").is_empty());
    }
}
