//! Delimited tables (RFC 4180) with a header line.

use super::COPIES_MAX;
use crate::json::Json;

/// The rows as objects of texts; `None` where it is no table: no header line, a name twice, a row
/// with another number of cells, a quote in the middle, or names that are long beside the rows.
pub(super) fn table(text: &str, delimiter: char) -> Option<Json> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut rows = rows(text, delimiter)?.into_iter();
    let names = rows.next()?;
    let mut sorted = names.clone();
    sorted.sort_unstable();
    if sorted.windows(2).any(|two| two[0] == two[1]) {
        return None;
    }
    let length: usize = names.iter().map(String::len).sum();
    if rows.len().saturating_mul(length) > text.len().saturating_mul(COPIES_MAX) {
        return None;
    }
    let row = |cells: Vec<String>| {
        if cells.len() != names.len() {
            return None;
        }
        let cells = cells.into_iter().map(Json::String);
        Some(Json::object(names.iter().cloned().zip(cells).collect()))
    };
    Some(Json::Array(rows.map(row).collect::<Option<_>>()?))
}

fn rows(text: &str, delimiter: char) -> Option<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    let (mut row, mut cell) = (Vec::new(), String::new());
    let mut chars = text.chars().peekable();
    let mut begun = false;
    while let Some(c) = chars.next() {
        match c {
            '"' if cell.is_empty() && !begun => {
                quoted(&mut chars, &mut cell)?;
                begun = true;
                let after = chars.peek().copied();
                if !matches!(after, None | Some('\n' | '\r')) && after != Some(delimiter) {
                    return None;
                }
            }
            '"' => return None,
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
                begun = false;
            }
            c if c == delimiter => {
                row.push(std::mem::take(&mut cell));
                begun = false;
            }
            c => cell.push(c),
        }
    }
    if begun || !cell.is_empty() || !row.is_empty() {
        row.push(cell);
        rows.push(row);
    }
    Some(rows)
}

/// What is between quotes; a doubled one is one of the text.
fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, cell: &mut String) -> Option<()> {
    loop {
        match chars.next()? {
            '"' if chars.peek() == Some(&'"') => {
                chars.next();
                cell.push('"');
            }
            '"' => return Some(()),
            c => cell.push(c),
        }
    }
}
