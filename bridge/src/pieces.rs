//! One text made of several values, and the values had back from it. Pure. Refuses a text that
//! could be taken apart in two ways, and values that would not come back as they were.

use crate::transform::Unmappable;
use crate::value::{Cell, Kind};

/// What stands before, between and after the values of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pieces {
    /// One more than there are values.
    literals: Vec<String>,
    /// Whether NULL is written as an empty piece; an empty text is refused then.
    empty_is_null: bool,
}

fn refuse<T>(text: String) -> Result<T, Unmappable> {
    Err(Unmappable(text))
}

impl Pieces {
    /// Checks that values with these texts around them can be told apart again.
    ///
    /// # Errors
    /// Says what is wrong and how to mend it.
    pub(crate) fn new(literals: &[String], empty_is_null: bool) -> Result<Self, (String, String)> {
        let bad = |what: &str, fix: &str| Err((what.to_owned(), fix.to_owned()));
        let Some(inner) = literals.get(1..literals.len().saturating_sub(1)) else {
            return bad("it is made of no column", "name the columns");
        };
        if literals.len() < 2 {
            return bad("it is made of no column", "name the columns");
        }
        if inner.iter().any(String::is_empty) {
            let what = "nothing stands between two pieces, so the text cannot be taken apart";
            return bad(what, "put a separator between them");
        }
        Ok(Self {
            literals: literals.to_vec(),
            empty_is_null,
        })
    }

    /// `count` pieces with the same text between them.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(crate) fn at(
        separator: &str,
        count: usize,
        empty_is_null: bool,
    ) -> Result<Self, (String, String)> {
        let mut literals = vec![separator.to_owned(); count.saturating_sub(1)];
        literals.insert(0, String::new());
        literals.push(String::new());
        Self::new(&literals, empty_is_null)
    }

    pub(crate) fn literals(&self) -> &[String] {
        &self.literals
    }

    pub(crate) fn empty_is_null(&self) -> bool {
        self.empty_is_null
    }

    /// The text of these values as its column stores it.
    ///
    /// # Errors
    /// When the text would not come apart into just these values.
    pub(crate) fn join(&self, parts: &[(&Cell, &Kind)], whole: &Kind) -> Result<Cell, Unmappable> {
        let values: Vec<&Cell> = parts.iter().map(|(value, _)| *value).collect();
        let text = self.glue(&values)?.stored_in(whole);
        let back = self.cut(&text)?;
        for ((before, kind), after) in parts.iter().zip(back) {
            let after = after.stored_in(kind);
            if after != **before {
                return refuse(format!("{before} would come back as {after} from {text}"));
            }
        }
        Ok(text)
    }

    /// The values of a text, each as its column stores it.
    ///
    /// # Errors
    /// When these values would not give just this text.
    pub(crate) fn split(
        &self,
        (text, whole): (&Cell, &Kind),
        parts: &[&Kind],
    ) -> Result<Vec<Cell>, Unmappable> {
        let cut = self.cut(text)?.into_iter().zip(parts);
        let values: Vec<Cell> = cut.map(|(value, kind)| value.stored_in(kind)).collect();
        let back = self.glue(&values.iter().collect::<Vec<_>>())?;
        let back = back.stored_in(whole);
        if back == *text {
            Ok(values)
        } else {
            refuse(format!("{text} would come back as {back}"))
        }
    }

    fn glue(&self, parts: &[&Cell]) -> Result<Cell, Unmappable> {
        if parts.iter().all(|part| part.is_null()) {
            return Ok(Cell::Null);
        }
        let mut text = String::new();
        for (literal, part) in self.literals.iter().zip(parts) {
            text.push_str(literal);
            text.push_str(&self.written(part)?);
        }
        text.extend(self.literals.last().map(String::as_str));
        Ok(Cell::Text(text))
    }

    fn written(&self, part: &Cell) -> Result<String, Unmappable> {
        match part {
            Cell::Null if self.empty_is_null => Ok(String::new()),
            Cell::Null => refuse(
                "one piece is NULL and others are not, which a text cannot say: write `empty = \"null\"` if an empty piece means NULL".to_owned(),
            ),
            Cell::Text(text) if text.is_empty() && self.empty_is_null => {
                refuse("an empty text would come back as NULL".to_owned())
            }
            Cell::Text(text) => Ok(text.clone()),
            Cell::Int(number) => Ok(number.to_string()),
            Cell::Real(_) | Cell::Blob(_) | Cell::BadText(_) => {
                refuse(format!("{part} is neither text nor a whole number"))
            }
        }
    }

    fn cut(&self, text: &Cell) -> Result<Vec<Cell>, Unmappable> {
        let count = self.literals.len() - 1;
        let text = match text {
            Cell::Null => return Ok(vec![Cell::Null; count]),
            Cell::Text(text) => text.clone(),
            Cell::Int(number) => number.to_string(),
            other => return refuse(format!("{other} is neither text nor a whole number")),
        };
        let shown = Cell::Text(text.clone());
        let Some((pieces, only_way)) = self.pieces(&text) else {
            return refuse(format!("{shown} does not have {count} pieces"));
        };
        if !only_way {
            return refuse(format!(
                "{shown} can be taken apart into {count} pieces in more than one way"
            ));
        }
        let cells = pieces.into_iter().map(|piece| match piece {
            "" if self.empty_is_null => Cell::Null,
            piece => Cell::from(piece),
        });
        Ok(cells.collect())
    }

    /// The pieces by the first place of each separator, and whether there is no other way: each
    /// separator's first possible place is its last one, too.
    fn pieces<'t>(&self, text: &'t str) -> Option<(Vec<&'t str>, bool)> {
        let (first, last) = (self.literals.first()?, self.literals.last()?);
        let inside = text.strip_prefix(first.as_str())?;
        let inside = inside.strip_suffix(last.as_str())?;
        let inner = &self.literals[1..self.literals.len() - 1];
        let (mut pieces, mut left, mut from) = (Vec::new(), Vec::new(), 0);
        for literal in inner {
            let at = from + inside[from..].find(literal.as_str())?;
            pieces.push(&inside[from..at]);
            left.push(at);
            from = at + literal.len();
        }
        pieces.push(&inside[from..]);
        let mut until = inside.len();
        for (literal, first) in inner.iter().zip(&left).rev() {
            until = inside[..until].rfind(literal.as_str())?;
            if until != *first {
                return Some((pieces, false));
            }
        }
        Some((pieces, true))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::value::Affinity;

    const TEXT: Kind = Kind::Sqlite(Affinity::Text);
    const INT: Kind = Kind::Sqlite(Affinity::Integer);

    fn pieces(literals: &[&str], empty_is_null: bool) -> Pieces {
        let literals: Vec<String> = literals.iter().map(|l| (*l).to_owned()).collect();
        Pieces::new(&literals, empty_is_null).unwrap()
    }

    fn join(pieces: &Pieces, parts: &[Cell]) -> Result<Cell, Unmappable> {
        let parts: Vec<(&Cell, &Kind)> = parts.iter().map(|part| (part, &TEXT)).collect();
        pieces.join(&parts, &TEXT)
    }

    fn split(pieces: &Pieces, text: &Cell, count: usize) -> Result<Vec<Cell>, Unmappable> {
        pieces.split((text, &TEXT), &vec![&TEXT; count])
    }

    #[test]
    fn a_name_is_joined_and_comes_back() {
        let name = Pieces::at(" ", 2, false).unwrap();
        let parts = ["Ann".into(), "Lee".into()];
        assert_eq!(join(&name, &parts), Ok("Ann Lee".into()));
        assert_eq!(split(&name, &"Ann Lee".into(), 2), Ok(parts.to_vec()));
        // An empty piece is a piece.
        assert_eq!(join(&name, &["".into(), "Lee".into()]), Ok(" Lee".into()));
        for bad in ["Ann Mary Lee", "Ann", "", "Ann  Lee"] {
            assert!(split(&name, &bad.into(), 2).is_err(), "{bad}");
        }
        assert!(join(&name, &["Ann Mary".into(), "Lee".into()]).is_err());
    }

    #[test]
    fn a_template_has_texts_around() {
        let name = pieces(&["<", ", ", ">"], false);
        let parts = ["Lee".into(), "Ann".into()];
        assert_eq!(join(&name, &parts), Ok("<Lee, Ann>".into()));
        assert_eq!(split(&name, &"<Lee, Ann>".into(), 2), Ok(parts.to_vec()));
        for bad in ["Lee, Ann", "<Lee, Ann", "<>", "<Lee, Ann, X>"] {
            assert!(split(&name, &bad.into(), 2).is_err(), "{bad}");
        }
        // Before and after may not be the same letters.
        assert!(split(&pieces(&["aa", "ab"], false), &"aab".into(), 1).is_err());
        assert!(join(&pieces(&["", "aa", ""], false), &["x".into(), "ay".into()]).is_err());
    }

    #[test]
    fn nulls_are_said_or_refused() {
        let strict = Pieces::at("-", 2, false).unwrap();
        let none = [Cell::Null, Cell::Null];
        assert_eq!(join(&strict, &none), Ok(Cell::Null));
        assert_eq!(split(&strict, &Cell::Null, 2), Ok(none.to_vec()));
        assert!(join(&strict, &[Cell::Null, "b".into()]).is_err());
        let empty = Pieces::at("-", 2, true).unwrap();
        let half = [Cell::Null, "b".into()];
        assert_eq!(join(&empty, &half), Ok("-b".into()));
        assert_eq!(split(&empty, &"-b".into(), 2), Ok(half.to_vec()));
        assert_eq!(join(&empty, &none), Ok(Cell::Null));
        assert!(
            split(&empty, &"-".into(), 2).is_err(),
            "it would come back as NULL"
        );
        assert!(join(&empty, &["".into(), "b".into()]).is_err());
    }

    #[test]
    fn numbers_come_back_as_numbers_or_not_at_all() {
        let label = Pieces::at("/", 2, false).unwrap();
        let parts = [(&Cell::Int(2026), &INT), (&Cell::Int(7), &INT)];
        assert_eq!(label.join(&parts, &TEXT), Ok("2026/7".into()));
        let split = |text: &str| label.split((&text.into(), &TEXT), &[&INT, &INT]);
        assert_eq!(split("2026/7"), Ok(vec![Cell::Int(2026), Cell::Int(7)]));
        assert!(split("2026/07").is_err(), "7 is not 07");
        let real = [(&Cell::Real(0.5), &TEXT), (&Cell::Int(7), &INT)];
        assert!(label.join(&real, &TEXT).is_err());
    }

    #[test]
    fn what_cannot_be_taken_apart_is_refused() {
        assert!(Pieces::at("", 2, false).is_err());
        assert!(Pieces::new(&[], false).is_err());
        assert!(Pieces::new(&[String::new()], false).is_err());
    }

    fn cell() -> impl Strategy<Value = Cell> {
        prop_oneof![Just(Cell::Null), "[ab\\- ]{0,4}".prop_map(Cell::Text)]
    }

    proptest! {
        #[test]
        fn joined_values_come_back_or_are_refused(
            parts in prop::collection::vec(cell(), 3), one in "[ab\\-]{1,2}", two in "[ab\\-]{1,2}",
            before in "[ab]{0,1}", after in "[ab]{0,1}", empty_is_null: bool,
        ) {
            let pieces = pieces(&[&before, &one, &two, &after], empty_is_null);
            if let Ok(text) = join(&pieces, &parts) {
                prop_assert_eq!(split(&pieces, &text, 3), Ok(parts));
            }
        }

        #[test]
        fn split_texts_come_back_or_are_refused(
            text in "[ab\\- é]{0,8}", one in "[ab\\-]{1,2}", two in "[ab\\-]{1,2}", empty_is_null: bool,
        ) {
            let pieces = pieces(&["", &one, &two, ""], empty_is_null);
            let text = Cell::Text(text);
            if let Ok(parts) = split(&pieces, &text, 3) {
                prop_assert_eq!(join(&pieces, &parts), Ok(text));
            }
        }

        #[test]
        fn values_without_the_separator_always_go(parts in prop::collection::vec("[a-z]{0,5}", 2..5)) {
            let pieces = Pieces::at("-", parts.len(), false).unwrap();
            let parts: Vec<Cell> = parts.into_iter().map(Cell::Text).collect();
            prop_assert!(join(&pieces, &parts).is_ok());
        }
    }
}
