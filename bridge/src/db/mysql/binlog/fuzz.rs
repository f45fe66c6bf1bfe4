//! The log's bytes as a fuzzer has them: see [`crate::fuzz`].

use super::event::{Event, Logged, decode};
use super::gtid::{Flavour, Gtids, Held, Named, owned};
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
        Some(Event::Gtid { named, .. }) => {
            for flavour in [Flavour::Maria, Flavour::Mysql] {
                let place = Gtids::parse(flavour, "");
                _ = place.map(|mut place| place.take(named, 7));
            }
        }
        Some(Event::Before(Some(gtids))) => same(Flavour::Mysql, &gtids),
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

/// A position, and what a server says that it has, with a line between them.
pub(crate) fn gtids(text: &str) {
    let (place, has) = text.split_once('\n').unwrap_or((text, ""));
    for flavour in [Flavour::Maria, Flavour::Mysql] {
        let Some(mut place) = Gtids::parse(flavour, place) else {
            continue;
        };
        same(flavour, &place);
        let held = match flavour {
            Flavour::Maria => Held::maria(has, ""),
            Flavour::Mysql => Held::mysql(has),
        };
        if let Some(held) = held {
            _ = place.lacking(&held);
            _ = held.beyond(&place);
        }
        if let Some(more) = owned(has) {
            place.join(more);
        }
        place.take(
            Named::Counted {
                domain: 0,
                number: u64::MAX,
            },
            1,
        );
        same(flavour, &place);
    }
}

/// A position is read as it was written, and its server has all of it.
fn same(flavour: Flavour, place: &Gtids) {
    let text = place.to_string();
    let again = Gtids::parse(flavour, &text);
    assert!(again.as_ref() == Some(place), "{text}");
    let held = match flavour {
        Flavour::Maria => Held::maria(&text, ""),
        Flavour::Mysql => Held::mysql(&text),
    };
    assert!(
        held.is_some_and(|held| place.lacking(&held).is_empty()),
        "{text}"
    );
    assert!(place.by_server().iter().all(|set| !set.is_empty()));
}
