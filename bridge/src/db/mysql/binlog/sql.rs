//! What a statement that is in the log as text does to tables. Pure.
//!
//! Rows come as rows; statements as text are DDL, the ends of transactions, and what a session
//! with another `binlog_format` wrote. Only as much is understood as is needed to know which of
//! them change rows that no row of the log tells of. What cannot be told apart is taken for the worse.

/// A table's name, with its schema if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) schema: Option<String>,
    pub(super) table: String,
}

/// What a statement is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    Begin,
    End,
    /// A transaction of two phases is prepared by itself and ends by a statement.
    XaStart,
    XaEnd,
    /// All rows of these tables are gone, or some that nobody names.
    Emptied(Vec<Name>),
    /// These tables are not the same ones any more.
    Replaced(Vec<Name>),
    /// The shape may have changed.
    Altered(Name),
    /// Rows of some of these were changed, by a statement that only the server can repeat.
    Wrote(Vec<Name>),
    /// Goes on in the same transaction.
    Inside,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// In lower case.
    Word(String),
    Quoted(String),
    Mark(char),
}

/// Reads a statement.
pub(super) fn read(text: &str) -> Statement {
    sorted(&tokens(text))
}

fn sorted(tokens: &[Token]) -> Statement {
    let word = |at: usize| match tokens.get(at) {
        Some(Token::Word(word)) => word.as_str(),
        _ => "",
    };
    let all = || names(&tokens[1..]);
    match (word(0), word(1)) {
        ("begin", _) | ("start", "transaction") => Statement::Begin,
        ("commit", _) => Statement::End,
        ("rollback", "to") | ("savepoint" | "release", _) => Statement::Inside,
        ("rollback", _) => Statement::End,
        ("xa", "start" | "begin") => Statement::XaStart,
        ("xa", "commit" | "rollback") => Statement::XaEnd,
        ("xa", _) => Statement::Inside,
        ("truncate", _) => Statement::Emptied(all()),
        ("alter", _) => altered(tokens),
        ("drop" | "rename", "table" | "tables") => Statement::Replaced(all()),
        ("create", "or") if word(3) == "table" => Statement::Replaced(names(&tokens[4..])),
        // MariaDB's, of variables for the one statement after them.
        ("set", "statement") => {
            let is_for = |t: &Token| matches!(t, Token::Word(w) if w == "for");
            match tokens.iter().position(is_for) {
                Some(at) => sorted(&tokens[at + 1..]),
                None => Statement::Other,
            }
        }
        ("insert" | "update" | "delete" | "replace" | "load" | "call" | "with", _) => {
            Statement::Wrote(all())
        }
        _ => Statement::Other,
    }
}

/// `ALTER [ONLINE] [IGNORE] TABLE [IF EXISTS] name ..`
fn altered(tokens: &[Token]) -> Statement {
    let has = |word: &str| {
        tokens
            .iter()
            .any(|t| matches!(t, Token::Word(w) if w == word))
    };
    let Some(at) = tokens
        .iter()
        .position(|t| matches!(t, Token::Word(w) if w == "table"))
    else {
        return Statement::Other;
    };
    let mut rest = &tokens[at + 1..];
    while let [Token::Word(word), more @ ..] = rest
        && matches!(word.as_str(), "if" | "exists")
    {
        rest = more;
    }
    let Some(name) = names(rest).into_iter().next() else {
        return Statement::Other;
    };
    let into = has("convert") && !has("character") && !has("charset") && has("to");
    let renamed = has("rename") && !renames_part(rest);
    if has("exchange") || has("import") || has("discard") || renamed {
        return Statement::Replaced(names(rest));
    }
    if has("partition") && into && !rest.is_empty() {
        // A table becomes a part of this one, or a part of this one a table.
        let table = matches!(rest.get(2), Some(Token::Word(w)) if w == "table");
        return if table {
            Statement::Replaced(names(rest))
        } else {
            Statement::Emptied(vec![name])
        };
    }
    if has("partition") && (has("drop") || has("truncate")) {
        return Statement::Emptied(vec![name]);
    }
    Statement::Altered(name)
}

/// Whether a column or an index is renamed, not the table.
fn renames_part(tokens: &[Token]) -> bool {
    tokens.windows(2).all(|pair| match pair {
        [Token::Word(a), Token::Word(b)] if a == "rename" => {
            matches!(b.as_str(), "column" | "index" | "key")
        }
        [Token::Word(a), _] => a != "rename",
        _ => true,
    })
}

/// Everything that may be a table's name: names, and names with a point between. More than there
/// are does no harm, as they are looked up among those that are mapped.
fn names(tokens: &[Token]) -> Vec<Name> {
    let mut found: Vec<Name> = Vec::new();
    let mut qualified = false;
    for token in tokens {
        match token {
            Token::Mark('.') => qualified = true,
            Token::Mark(_) => qualified = false,
            Token::Word(text) | Token::Quoted(text) => {
                let schema = found.last().map(|last| last.table.clone());
                found.push(Name {
                    schema: schema.filter(|_| qualified),
                    table: text.clone(),
                });
                qualified = false;
            }
        }
    }
    found
}

fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut left = text;
    while let Some(first) = left.chars().next() {
        let after = &left[first.len_utf8()..];
        left = match first {
            '/' if after.starts_with("*!") || after.starts_with("*M!") => {
                // The server runs what is in it, after a version's digits.
                let inner = after.trim_start_matches(['*', 'M', '!']);
                inner.trim_start_matches(|c: char| c.is_ascii_digit())
            }
            '*' if after.starts_with('/') => &after[1..],
            '/' if after.starts_with('*') => past(&after[1..], "*/"),
            '-' if after.starts_with("- ") || after.starts_with("-\t") => past(after, "\n"),
            '#' => past(after, "\n"),
            '`' | '"' => {
                let (name, rest) = quoted(after, first);
                found.push(Token::Quoted(name));
                rest
            }
            '\'' => quoted(after, first).1,
            c if is_name(c) => {
                let end = left.find(|c| !is_name(c)).unwrap_or(left.len());
                found.push(Token::Word(left[..end].to_lowercase()));
                &left[end..]
            }
            c if c.is_whitespace() => after,
            c => {
                found.push(Token::Mark(c));
                after
            }
        };
    }
    found
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

fn past<'a>(text: &'a str, end: &str) -> &'a str {
    text.find(end).map_or("", |at| &text[at + end.len()..])
}

/// What is quoted, and what comes after. A doubled mark stands for itself; a backslash takes the
/// next with it in text, never in a name.
fn quoted(text: &str, mark: char) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && mark != '`' {
            chars.next();
        } else if c != mark {
            name.push(c);
        } else if chars.peek().is_some_and(|(_, next)| *next == mark) {
            name.push(c);
            chars.next();
        } else {
            return (name, &text[at + c.len_utf8()..]);
        }
    }
    (name, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(schema: Option<&str>, table: &str) -> Name {
        Name {
            schema: schema.map(str::to_owned),
            table: table.to_owned(),
        }
    }

    #[test]
    fn a_truncate_is_seen_however_it_is_written() {
        for text in [
            "TRUNCATE TABLE item",
            "truncate `shop`.`item`",
            "/* by: me */ TRUNCATE\n\"item\" /* generated by server */",
            "/*!40000 TRUNCATE TABLE item */",
            "-- all of it\nTRUNCATE item",
            "ALTER TABLE item DROP PARTITION p0",
            "alter table item truncate partition all",
            "ALTER TABLE item CONVERT PARTITION p TO TABLE other",
            "SET STATEMENT max_statement_time = 5 FOR TRUNCATE TABLE item",
        ] {
            let Statement::Emptied(names) = read(text) else {
                panic!("{text}: {:?}", read(text))
            };
            assert!(names.iter().any(|n| n.table == "item"), "{text}: {names:?}");
        }
        assert_eq!(
            read("TRUNCATE shop.item"),
            Statement::Emptied(vec![name(None, "shop"), name(Some("shop"), "item")])
        );
    }

    #[test]
    fn statements_are_told_apart() {
        let item = || vec![name(None, "item")];
        for (text, expected) in [
            ("BEGIN", Statement::Begin),
            ("COMMIT", Statement::End),
            ("SAVEPOINT `a`", Statement::Inside),
            ("ROLLBACK TO `a`", Statement::Inside),
            ("ROLLBACK", Statement::End),
            ("XA START X'78',X'',1", Statement::XaStart),
            ("XA END X'78',X'',1", Statement::Inside),
            ("XA COMMIT X'78',X'',1", Statement::XaEnd),
            ("CREATE TABLE item (id int)", Statement::Other),
            ("GRANT SELECT ON item TO x", Statement::Other),
            (
                "ALTER TABLE item ADD COLUMN `rename` int",
                Statement::Altered(name(None, "item")),
            ),
            (
                "ALTER TABLE IF EXISTS item RENAME COLUMN a TO b",
                Statement::Altered(name(None, "item")),
            ),
            (
                "ALTER DATABASE shop CHARACTER SET utf8mb4",
                Statement::Other,
            ),
            (
                "CREATE OR REPLACE TRIGGER t AFTER INSERT ON item FOR EACH ROW SET @a = 1",
                Statement::Other,
            ),
            ("", Statement::Other),
            ("'", Statement::Other),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        for text in [
            "DROP TABLE IF EXISTS `a`, `item`",
            "RENAME TABLE item TO old, new TO item",
            "ALTER TABLE item RENAME TO other",
            "ALTER TABLE item EXCHANGE PARTITION p WITH TABLE q",
            "ALTER TABLE item CONVERT TABLE other TO PARTITION p VALUES LESS THAN (9)",
            "CREATE OR REPLACE TABLE item (id int)",
        ] {
            let Statement::Replaced(names) = read(text) else {
                panic!("{text}")
            };
            assert!(names.contains(&item()[0]), "{text}: {names:?}");
        }
        let wrote = read("UPDATE item SET note = 'from `other`, it''s' WHERE id = 1");
        let Statement::Wrote(names) = wrote else {
            panic!("{wrote:?}")
        };
        assert!(names.contains(&item()[0]) && !names.iter().any(|n| n.table == "other"));
    }
}
