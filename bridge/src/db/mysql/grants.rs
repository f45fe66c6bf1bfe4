//! What `SHOW GRANTS` says, which is where a server tells everybody what the roles give that are in
//! force for them. Pure.

/// Rights on everything, on databases of a name, or on one table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Grant {
    rights: Vec<String>,
    /// A pattern, `None` for every database.
    schema: Option<String>,
    table: Option<String>,
}

impl Grant {
    /// One line; `None` where it is about something else, such as a role or a function.
    pub(super) fn read(line: &str) -> Option<Self> {
        let rest = line.strip_prefix("GRANT ")?;
        let (rights, rest) = cut(rest, " ON ")?;
        let (on, _) = cut(rest, " TO ")?;
        let on = on.strip_prefix("TABLE ").unwrap_or(on);
        let (schema, table) = match cut(on, ".")? {
            ("*", "*") => (None, None),
            (schema, "*") => (Some(name(schema)?), None),
            (schema, table) => (Some(name(schema)?), Some(name(table)?)),
        };
        let mut all = Vec::new();
        let mut left = Some(rights);
        while let Some(some) = left {
            let (one, more) = match cut(some, ",") {
                Some((one, more)) => (one, Some(more)),
                None => (some, None),
            };
            // Those on some columns are of no use.
            if !one.contains('(') {
                all.push(one.trim().to_owned());
            }
            left = more;
        }
        Some(Self {
            rights: all,
            schema,
            table,
        })
    }

    /// Whether it gives a right on all tables of a database.
    pub(super) fn gives(&self, right: &str, database: &str) -> bool {
        self.table.is_none() && self.is_of(database) && self.has(right)
    }

    /// Whether it gives a right that is of the server, not of a database.
    pub(super) fn gives_everywhere(&self, right: &str) -> bool {
        self.schema.is_none() && self.has(right)
    }

    /// Whether it gives a right on just this table.
    pub(super) fn gives_on(&self, right: &str, database: &str, table: &str) -> bool {
        self.table.as_deref() == Some(table) && self.is_of(database) && self.has(right)
    }

    /// Whether it is of all tables of just this database.
    fn names(&self, database: &str) -> bool {
        let schema = self.schema.as_deref().filter(|_| self.table.is_none());
        schema.is_some_and(|schema| plain(schema).as_deref() == Some(database))
    }

    fn has(&self, right: &str) -> bool {
        let all = |given: &String| given == right || given == "ALL PRIVILEGES";
        self.rights.iter().any(all)
    }

    fn is_of(&self, database: &str) -> bool {
        match (&self.schema, &self.table) {
            (None, _) => true,
            (Some(schema), None) => like(database, schema),
            // Of a table, the name is no pattern.
            (Some(schema), Some(_)) => schema == database,
        }
    }
}

/// The grants that count for a database: where one names it, those of patterns do not.
pub(super) fn in_force(mut all: Vec<Grant>, database: &str) -> Vec<Grant> {
    if all.iter().any(|grant| grant.names(database)) {
        all.retain(|g| g.schema.is_none() || g.table.is_some() || g.names(database));
    }
    all
}

/// The one name that a pattern is of, if of one.
fn plain(pattern: &str) -> Option<String> {
    let mut letters = pattern.chars();
    let mut name = String::new();
    while let Some(c) = letters.next() {
        match c {
            '\\' => name.extend(letters.next()),
            '%' | '_' => return None,
            c => name.push(c),
        }
    }
    Some(name)
}

/// Both sides of the first such text outside of quotes and brackets.
fn cut<'t>(text: &'t str, at: &str) -> Option<(&'t str, &'t str)> {
    let (mut quote, mut depth) = (None, 0_u32);
    for (place, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '`' | '"' | '\'') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
        let outside = quote.is_none() && depth == 0;
        if outside && text[place..].starts_with(at) {
            return Some((&text[..place], &text[place + at.len()..]));
        }
    }
    None
}

/// A name without its quotes.
fn name(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '`' | '"'))?;
    let inside = text.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(inside.replace(&format!("{quote}{quote}"), &quote.to_string()))
}

/// Whether a name is one of a pattern: `%` for any letters, `_` for one, `\` before one that is meant
/// itself.
fn like(name: &str, pattern: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('%') => {
            let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            ends.into_iter().any(|at| like(&name[at..], rest.as_str()))
        }
        Some(first) => {
            let meant = match first {
                '\\' => rest.next().or(Some('\\')),
                '_' => None,
                other => Some(other),
            };
            let mut letters = name.chars();
            let fits = letters.next().is_some_and(|c| meant.is_none_or(|m| m == c));
            fits && like(letters.as_str(), rest.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_line_gives() {
        let gives = |line: &str, right: &str| {
            Grant::read(line).is_some_and(|grant| grant.gives(right, "shop_1"))
        };
        for line in [
            "GRANT ALL PRIVILEGES ON *.* TO `clerk`",
            "GRANT SELECT, INSERT ON `shop\\_1`.* TO `clerk`",
            "GRANT SELECT, INSERT ON \"shop_1\".* TO `a`@`%` WITH GRANT OPTION",
            "GRANT INSERT (`a, b`), SELECT ON `sho%`.* TO 'a'@'%'",
        ] {
            assert!(gives(line, "SELECT"), "{line}");
        }
        for line in [
            "GRANT SELECT (`id`) ON `shop_1`.* TO `clerk`",
            "GRANT SELECT ON `shop_1`.`item` TO `clerk`",
            "GRANT SELECT ON `shop\\_2`.* TO `clerk`",
            "GRANT SELECT ON `shop`.* TO `shop_1`",
            "GRANT `SELECT` TO `a`@`%`",
            "GRANT PROXY ON ''@'%' TO 'root'@'localhost'",
            "GRANT EXECUTE ON FUNCTION `shop_1`.`SELECT` TO `clerk`",
            "SET DEFAULT ROLE clerk FOR `a`@`%`",
            "",
        ] {
            assert!(!gives(line, "SELECT"), "{line}");
        }
        let of_all = |line: &str| Grant::read(line).unwrap().gives_everywhere("SUPER");
        assert!(of_all("GRANT PROCESS, SUPER ON *.* TO `clerk`"));
        assert!(!of_all("GRANT ALL PRIVILEGES ON `shop_1`.* TO `clerk`"));
        let one = Grant::read("GRANT SELECT, TRIGGER ON `shop_1`.`it``em` TO `clerk`").unwrap();
        assert!(one.gives_on("TRIGGER", "shop_1", "it`em"));
        assert!(!one.gives_on("TRIGGER", "shopx1", "it`em"), "no pattern");
        assert!(!one.gives_on("TRIGGER", "shop_1", "other"));
        let all = || -> Vec<Grant> {
            let lines = [
                "GRANT CREATE ON `sho%`.* TO `a`",
                "GRANT SELECT ON `shop\\_1`.* TO `a`",
            ];
            lines.iter().filter_map(|line| Grant::read(line)).collect()
        };
        assert!(all().iter().any(|grant| grant.gives("CREATE", "shop_1")));
        let counts = in_force(all(), "shop_1");
        assert_eq!(counts.len(), 1, "{counts:?}");
        assert!(counts[0].gives("SELECT", "shop_1"));
        assert_eq!(in_force(all(), "shop").len(), 2);
    }
}
