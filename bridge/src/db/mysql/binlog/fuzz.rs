//! The log's bytes as a fuzzer has them: see [`crate::fuzz`].

use super::event::{Event, Logged, decode};
use super::rows::Value;
use super::sql;
use super::value::part;
use crate::typed::Typed;

const TYPES: [&str; 10] = [
    "int",
    "decimal",
    "char",
    "binary",
    "uuid",
    "datetime",
    "timestamp",
    "date",
    "time",
    "bit",
];

/// The kind of the second event, the length of the first, which maps a table, and both.
pub(crate) fn events(data: &[u8]) {
    let [kind, length, rest @ ..] = data else {
        return;
    };
    let (map, rows) = rest.split_at(usize::from(*length).min(rest.len()));
    let columns = match decode(19, map) {
        Some(Event::Map(map)) => map.columns().unwrap_or_default(),
        _ => Vec::new(),
    };
    match decode(*kind, rows) {
        Some(Event::Rows(rows)) => {
            let wanted: Vec<usize> = (0..columns.len()).collect();
            for row in rows.changes(&columns, &wanted).unwrap_or_default() {
                let images = [row.before, row.after].into_iter().flatten();
                for values in images {
                    each(&columns, &values);
                }
            }
        }
        Some(Event::Query { text, .. }) => _ = sql::read(&String::from_utf8_lossy(&text)),
        Some(Event::Map(map)) => _ = map.columns(),
        _ => {}
    }
}

fn each(columns: &[Logged], values: &[Value<'_>]) {
    for (column, value) in columns.iter().zip(values) {
        if let Value::Bytes(bytes) = value {
            for name in TYPES {
                let _ = part(&Typed::mysql(name, name, Some(2)), column, bytes);
            }
        }
    }
}

pub(crate) fn statement(text: &str) {
    let _ = sql::read(text);
}
