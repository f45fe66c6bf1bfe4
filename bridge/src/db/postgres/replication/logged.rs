//! What a row of the log says: which key has changed. Pure.

use super::pgoutput::{Row, Tuple, Value};
use crate::db::keys::{key_text, unhex};
use crate::plan::{KEY_COLUMNS, Table};
use crate::typed::Class;
use crate::value::{Cell, Kind};

/// A change as `changes` has it.
pub(super) struct Noted {
    pub(super) table: String,
    pub(super) op: String,
    pub(super) at: i64,
    pub(super) keys: Vec<Option<String>>,
}

/// The lower half of a transaction's number, which is what the log has.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // That is what it does.
pub(super) fn low(xid: i64) -> u32 {
    xid as u32
}

/// Whether a transaction is older than another, of numbers that go round.
#[allow(clippy::cast_possible_wrap)] // Half the circle is before, half after.
pub(super) fn before(xid: u32, than: i64) -> bool {
    (xid.wrapping_sub(low(than)) as i32) < 0
}

/// Milliseconds since 1970 of microseconds since 2000.
pub(super) fn since_1970(micros: i64) -> i64 {
    const BETWEEN: i64 = 946_684_800_000;
    micros / 1_000 + BETWEEN
}

/// What a row of the log changes: its key, and its former key if that was another. The name of a
/// key column that is missing otherwise.
pub(super) fn changes_of(
    table: &Table,
    columns: &[String],
    row: &Row<'_>,
    at: i64,
) -> Result<Vec<Noted>, String> {
    let key = |tuple: &Tuple<'_>| {
        let of = |&place: &usize| {
            let column = &table.columns[place];
            let at = columns.iter().position(|name| *name == column.name);
            match at.and_then(|at| tuple.get(at)) {
                Some(Value::Text(text)) => Ok(key_text(&cell(&column.kind, text))),
                // An old key has only what identifies the row; a NULL in it matches nothing.
                Some(Value::Null) => Ok(None),
                Some(Value::Unchanged) | None => Err(column.name.clone()),
            }
        };
        let mut key = table
            .key
            .iter()
            .map(of)
            .collect::<Result<Vec<_>, String>>()?;
        key.resize(KEY_COLUMNS, None);
        Ok::<_, String>(key)
    };
    let noted = |op: &str, keys| Noted {
        table: table.name.clone(),
        op: op.to_owned(),
        at,
        keys,
    };
    let old = row.old.as_ref().map(key).transpose()?;
    let new = match (&row.new, &old) {
        (None, _) => None,
        // A key that is stored apart and was not touched is told with the old row.
        (Some(tuple), Some(old)) => Some(key(tuple).unwrap_or_else(|_| old.clone())),
        (Some(tuple), None) => Some(key(tuple)?),
    };
    Ok(match (old, new) {
        (Some(old), None) => vec![noted("d", old)],
        (Some(old), Some(new)) if old != new => vec![noted("d", old), noted("u", new)],
        (_, Some(new)) => {
            // An insert and an update without an old row look alike; both are read anew.
            vec![noted("u", new)]
        }
        (None, None) => Vec::new(),
    })
}

/// A note of our own: its id, and what it says.
pub(super) fn note_of(columns: &[String], row: &Row<'_>) -> Option<(String, Noted)> {
    let tuple = row.new.as_ref().filter(|_| row.old.is_none())?;
    let of = |name: &str| {
        let at = columns.iter().position(|column| column == name)?;
        match tuple.get(at) {
            Some(Value::Text(text)) => Some((*text).to_owned()),
            _ => None,
        }
    };
    let noted = Noted {
        table: of("tbl")?,
        op: of("op")?,
        at: of("at")?.parse().ok()?,
        keys: (0..KEY_COLUMNS).map(|at| of(&format!("k{at}"))).collect(),
    };
    Some((of("id")?, noted))
}

/// A value of the log in the one form of its column's class.
fn cell(kind: &Kind, text: &str) -> Cell {
    let Kind::Postgres(typed) = kind else {
        return Cell::from(text);
    };
    match typed.class {
        Class::Bool => Cell::Int(i64::from(text == "t")),
        Class::Bytes => text
            .strip_prefix("\\x")
            .and_then(unhex)
            .map_or_else(|| Cell::from(text), Cell::Blob),
        _ => typed.store(Cell::from(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_older_or_not_also_when_their_numbers_go_round() {
        assert!(before(5, 6));
        assert!(!before(6, 6));
        assert!(before(u32::MAX, 0x1_0000_0003));
        assert!(!before(4, 0xffff_ffff));
    }
}
