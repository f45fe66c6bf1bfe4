//! How keys are kept in our own tables by engines whose columns have types.

use crate::value::Cell;

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A key's value in our own tables: a letter for its kind, and the value as text. The triggers
/// write the same.
pub(crate) fn key_text(cell: &Cell) -> Option<String> {
    match cell {
        Cell::Null => None,
        Cell::Int(i) => Some(format!("i{i}")),
        Cell::Real(r) => Some(format!("r{r}")),
        Cell::Text(s) => Some(format!("t{s}")),
        Cell::Blob(b) | Cell::BadText(b) => Some(format!("b{}", hex(b))),
    }
}

pub(crate) fn key_cell(stored: &Cell) -> Cell {
    let Cell::Text(text) = stored else {
        return Cell::Null;
    };
    let mut chars = text.chars();
    let kind = chars.next();
    let rest = chars.as_str();
    let other = || Cell::Text(rest.to_owned());
    match kind {
        Some('i') => rest.parse().map_or_else(|_| other(), Cell::Int),
        Some('r') => rest.parse().map_or_else(|_| other(), Cell::Real),
        Some('b') => unhex(rest).map_or_else(other, Cell::Blob),
        _ => other(),
    }
}

pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = (0..text.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_as_they_were() {
        for cell in [
            Cell::Int(-5),
            Cell::from("i5"),
            Cell::from(""),
            Cell::Blob(vec![0, 255]),
        ] {
            let stored = Cell::Text(key_text(&cell).unwrap());
            assert_eq!(key_cell(&stored), cell);
        }
        for odd in ["ix", "b0", "bzz", ""] {
            // Never a panic, whatever is in the table.
            let _ = key_cell(&Cell::from(odd));
        }
        assert_eq!(key_text(&Cell::Null), None);
    }
}
