//! The way back from a key as people read it.

use crate::db::keys::unhex;
use crate::value::{Cell, Key};

/// Reads what [`crate::value::key_text`] writes.
pub(crate) fn key(text: &str) -> Option<Key> {
    let mut rest = text;
    let mut key = Key::new();
    loop {
        let (cell, after) = cell(rest)?;
        key.push(cell);
        if after.is_empty() {
            return Some(key);
        }
        rest = after.strip_prefix(',')?;
    }
}

fn cell(text: &str) -> Option<(Cell, &str)> {
    if let Some(quoted) = text.strip_prefix("X'") {
        let (hex, after) = quoted.split_once('\'')?;
        return Some((Cell::Blob(unhex(hex)?), after));
    }
    if let Some(quoted) = text.strip_prefix('\'') {
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, c)) = chars.next() {
            if c != '\'' {
                value.push(c);
                continue;
            }
            if quoted[at + 1..].starts_with('\'') {
                value.push('\'');
                chars.next();
                continue;
            }
            return Some((Cell::Text(value), &quoted[at + 1..]));
        }
        return None;
    }
    let end = text.find(',').unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    let cell = match word {
        "NULL" => Cell::Null,
        _ => match word.parse() {
            Ok(i) => Cell::Int(i),
            Err(_) => Cell::Real(word.parse().ok()?),
        },
    };
    Some((cell, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::key_text;

    #[test]
    fn keys_come_back() {
        for cells in [
            vec![Cell::Int(-7)],
            vec![Cell::from("it's, 'so'"), Cell::Null, Cell::Real(1.5)],
            vec![Cell::from(""), Cell::Blob(vec![0, 255]), Cell::Int(1)],
        ] {
            assert_eq!(key(&key_text(&cells)), Some(cells));
        }
        for odd in ["", "'", "X'0", "a", "1,", "'a'b"] {
            assert_eq!(key(odd), None, "{odd}");
        }
    }
}
