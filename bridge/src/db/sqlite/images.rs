//! Rows that the triggers note beside the keys, where events show the row from before a change.
//!
//! An update and a delete show the trigger what was there. A REPLACE does not: it removes rows
//! without a word, so what an insert is about to replace is noted before it, as *pending*, and the
//! trigger after it says what became of that. Whatever else touches the row first settles it, for
//! an insert that was ignored has replaced nothing.
//!
//! The triggers run after the change, so a trigger of the application that writes the same table
//! again would have the second change noted first. Rows of such a table are not told.

use std::collections::HashSet;

use crate::db::images::{ELSEWHERE, GONE, of_reason};
use crate::db::{Database, Tx, literal, quote};
use crate::plan::{Plan, Table};

/// Which notes are pending, as the index says it, word for word.
const PENDING: &str = "became IN ('=','?')";
/// The parts of a text that are put together at once: an expression has a depth that is bounded.
const PARTS: usize = 16;

/// What the triggers of one table note of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Noting {
    Keys,
    Rows,
    /// Why there are no rows to note.
    Untold(String),
}

impl Noting {
    /// More columns of a note.
    pub(super) fn columns(&self) -> &'static str {
        match self {
            Self::Keys => "",
            Self::Rows | Self::Untold(_) => ", was, became",
        }
    }

    /// What is in them.
    fn values(&self, was: &str, became: &str) -> String {
        match self {
            Self::Keys => String::new(),
            Self::Rows => format!(", {was}, {became}"),
            Self::Untold(why) => {
                let why = literal(&of_reason(why));
                format!(", {why}, {why}")
            }
        }
    }

    pub(super) fn deleted(&self, table: &Table) -> String {
        self.values(&image(table, "OLD"), &literal(GONE))
    }

    pub(super) fn inserted(&self, database: &Database, table: &Table) -> String {
        self.values(&replaced(database, table), &image(table, "NEW"))
    }

    pub(super) fn updated(&self, database: &Database, table: &Table) -> String {
        let was = format!(
            "CASE WHEN {} THEN {} ELSE {} END",
            differs(table, "OLD", "NEW"),
            replaced(database, table),
            image(table, "OLD")
        );
        self.values(&was, &image(table, "NEW"))
    }

    /// A row that shares a unique value with a new one.
    pub(super) fn displaced(&self, table: &Table) -> String {
        self.values(&image(table, "t"), &literal(ELSEWHERE[1]))
    }

    /// The row that has the new one's key.
    pub(super) fn replaced(&self, table: &Table) -> String {
        self.values(&image(table, "t"), &literal(ELSEWHERE[0]))
    }

    /// What a trigger does once its change is noted: nothing about these rows is pending any more.
    pub(super) fn settle(&self, database: &Database, table: &Table, rows: &[&str]) -> String {
        if *self != Self::Rows {
            return String::new();
        }
        let displaces = rows.contains(&"NEW") && !table.other_unique.is_empty();
        let displaced = if displaces {
            displaced(database, table)
        } else {
            String::new()
        };
        let these: Vec<String> = rows.iter().map(|row| noted_key(table, row)).collect();
        format!(
            "{displaced}UPDATE {} SET became = '{}' WHERE {PENDING} AND tbl = {} AND ({});",
            database.own("changes"),
            ELSEWHERE[2],
            literal(&table.name),
            these.join(" OR ")
        )
    }
}

/// Tells rows that are gone by another's unique value, each once, by its last note: those before
/// it are of statements that were ignored, and whoever reads the stream may be past them.
fn displaced(database: &Database, table: &Table) -> String {
    let changes = database.own("changes");
    let [replaced, displaced, done] = ELSEWHERE;
    let of = format!("{PENDING} AND tbl = {}", literal(&table.name));
    let every = |one: &dyn Fn(usize, usize) -> String, between: &str| {
        let key = table.key.iter().enumerate();
        key.map(|(place, &at)| one(place, at))
            .collect::<Vec<_>>()
            .join(between)
    };
    let gone = format!(
        "NOT EXISTS (SELECT 1 FROM {} AS t WHERE {})",
        quote(&table.name),
        every(
            &|place, at| {
                let column = quote(&table.columns[at].name);
                format!(
                    "t.{column} IS {changes}.k{place} AND t.{column} COLLATE BINARY IS {changes}.k{place}"
                )
            },
            " AND "
        )
    );
    let keys = every(&|place, _| format!("k{place}"), ", ");
    let same = every(
        &|place, _| format!("d.k{place} IS {changes}.k{place}"),
        " AND ",
    );
    let set = |to: &str, from: &str, more: &str| {
        format!(
            "UPDATE {changes} SET became = '{to}' WHERE {of} AND became = '{from}' AND {gone}{more};"
        )
    };
    [
        set(
            done,
            replaced,
            &format!(
                " AND EXISTS (SELECT 1 FROM {changes} AS d WHERE d.{PENDING} AND d.became = '{displaced}' \
                 AND d.tbl = {} AND {same})",
                literal(&table.name)
            ),
        ),
        set(
            GONE,
            displaced,
            &format!(
                " AND seq IN (SELECT max(seq) FROM {changes} WHERE {of} AND became = '{displaced}' \
                 GROUP BY {keys})"
            ),
        ),
        set(done, displaced, ""),
    ]
    .concat()
}

/// The row as text.
fn image(table: &Table, row: &str) -> String {
    let one = |(at, column): (usize, &crate::plan::Column)| {
        let (value, comma) = (
            format!("{row}.{}", quote(&column.name)),
            if at > 0 { "," } else { "" },
        );
        format!(
            "{} || CASE WHEN typeof({value}) = 'text' AND instr(CAST({value} AS BLOB), X'00') > 0 \
             THEN 'T' || quote(CAST({value} AS BLOB)) ELSE quote({value}) END",
            literal(&format!("{comma}{}=", literal(&column.name)))
        )
    };
    let mut parts: Vec<String> = table.columns.iter().enumerate().map(one).collect();
    while parts.len() > 1 {
        let some = parts.chunks(PARTS);
        parts = some
            .map(|some| format!("({})", some.join(" || ")))
            .collect();
    }
    parts.concat()
}

/// What was pending of the new row's key, or nothing.
fn replaced(database: &Database, table: &Table) -> String {
    format!(
        "coalesce((SELECT was FROM {} WHERE {PENDING} AND became = '{}' AND tbl = {} AND {} \
         ORDER BY seq DESC LIMIT 1), '{GONE}')",
        database.own("changes"),
        ELSEWHERE[0],
        literal(&table.name),
        noted_key(table, "NEW")
    )
}

/// That a note is of this row.
fn noted_key(table: &Table, row: &str) -> String {
    let key = table.key.iter().enumerate().map(|(place, &at)| {
        let column = quote(&table.columns[at].name);
        format!("k{place} IS {row}.{column}")
    });
    let key: Vec<String> = key.collect();
    format!("({})", key.join(" AND "))
}

/// That two rows have different keys, byte for byte, whatever a collation calls equal.
pub(super) fn differs(table: &Table, one: &str, other: &str) -> String {
    let moved = table.key.iter().map(|&at| {
        let column = quote(&table.columns[at].name);
        format!("{one}.{column} COLLATE BINARY IS NOT {other}.{column}")
    });
    moved.collect::<Vec<_>>().join(" OR ")
}

/// That two rows have the same key, byte for byte. An index of the column's own collation finds it.
pub(super) fn same(table: &Table, one: &str, other: &str) -> String {
    let same = table.key.iter().map(|&at| {
        let column = quote(&table.columns[at].name);
        format!(
            "{one}.{column} = {other}.{column} AND {one}.{column} COLLATE BINARY = {other}.{column}"
        )
    });
    same.collect::<Vec<_>>().join(" AND ")
}

/// One table writes another, by a trigger or by an action of a foreign key.
struct Edge {
    from: String,
    to: String,
    /// The trigger's name.
    by: Option<String>,
}

impl Database {
    /// Makes the index by which pending notes are found.
    pub(super) fn pending_sqlite(&self) -> String {
        format!(
            "CREATE INDEX IF NOT EXISTS {} ON {} (tbl, k0) WHERE {PENDING}",
            self.own("pending"),
            quote(&self.own_bare("changes"))
        )
    }

    /// What is noted of each table, by its name.
    pub(super) async fn noting_sqlite(
        &self,
        tx: &mut Tx,
        plan: &Plan,
    ) -> Result<Vec<(String, Noting)>, sqlx::Error> {
        let tables = plan.tables(self.side).map(|table| table.name.clone());
        if !self.noting_rows {
            return Ok(tables.map(|name| (name, Noting::Keys)).collect());
        }
        let edges = edges(tx).await?;
        let noting = |name: String| {
            let noting = match again(&edges, &name) {
                Some(trigger) => Noting::Untold(format!(
                    "trigger `{trigger}` may write table `{name}` within a change of it, so the \
                     order of its changes is not known"
                )),
                None => Noting::Rows,
            };
            (name, noting)
        };
        Ok(tables.map(noting).collect())
    }

    /// Tables whose rows cannot be noted: (table, why, the way out).
    pub(in crate::db) async fn missing_for_rows_sqlite(
        &self,
        tx: &mut Tx,
        plan: &Plan,
    ) -> Result<Vec<(String, String, String)>, sqlx::Error> {
        let noting = self.noting_sqlite(tx, plan).await?;
        let untold = noting.into_iter().filter_map(|(name, noting)| match noting {
            Noting::Untold(why) => {
                let fix = "set the value in the statement itself and drop the trigger, or remove \
                           `before` from the slice's events";
                Some((name, format!("events cannot show rows from before: {why}"), fix.to_owned()))
            }
            Noting::Keys | Noting::Rows => None,
        });
        Ok(untold.collect())
    }
}

async fn edges(tx: &mut Tx) -> Result<Vec<Edge>, sqlx::Error> {
    let mut edges = Vec::new();
    let text = "SELECT tbl_name, name, sql FROM sqlite_master WHERE type = 'trigger' \
                AND substr(name, 1, 9) <> '_outgrow_' AND sql IS NOT NULL";
    for row in tx.fetch(text, &[]).await? {
        let (from, name) = (row.text(0)?.to_lowercase(), row.text(1)?);
        edges.extend(written(&row.text(2)?).into_iter().map(|to| Edge {
            from: from.clone(),
            to,
            by: Some(name.clone()),
        }));
    }
    let text = "SELECT f.\"table\", m.name FROM sqlite_master m, pragma_foreign_key_list(m.name) f \
                WHERE m.type = 'table' AND (f.on_update NOT IN ('NO ACTION', 'RESTRICT') \
                OR f.on_delete NOT IN ('NO ACTION', 'RESTRICT'))";
    for row in tx.fetch(text, &[]).await? {
        edges.push(Edge {
            from: row.text(0)?.to_lowercase(),
            to: row.text(1)?.to_lowercase(),
            by: None,
        });
    }
    Ok(edges)
}

/// The trigger by which a change of a table may come to write it again.
fn again<'a>(edges: &'a [Edge], table: &str) -> Option<&'a str> {
    let table = table.to_lowercase();
    let reached = reached(edges, &table);
    let closing = edges
        .iter()
        .filter(|edge| reached.contains(edge.from.as_str()));
    closing
        .filter(|edge| self::reached(edges, &edge.to).contains(table.as_str()))
        .find_map(|edge| edge.by.as_deref())
}

/// The tables that a change of one may write, and it.
fn reached<'a>(edges: &'a [Edge], from: &'a str) -> HashSet<&'a str> {
    let mut reached = HashSet::from([from]);
    let mut left = vec![from];
    while let Some(at) = left.pop() {
        for edge in edges.iter().filter(|edge| edge.from == at) {
            if reached.insert(&edge.to) {
                left.push(&edge.to);
            }
        }
    }
    reached
}

/// The tables that a trigger's text writes, in lower case.
fn written(text: &str) -> Vec<String> {
    let words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    let body = words.iter().position(|word| word == "begin").unwrap_or(0);
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let mut found = Vec::new();
    for at in body..words.len() {
        let place = match (word(at), word(at + 1)) {
            ("update", "or") => at + 3,
            ("update" | "into", _) => at + 1,
            ("delete", "from") => at + 2,
            _ => continue,
        };
        // A schema may stand before the table.
        let place = if matches!(word(place), "main" | "temp") {
            place + 1
        } else {
            place
        };
        found.push(word(place).to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_that_comes_back_to_its_table_is_found() {
        let edge = |from: &str, to: &str, by: Option<&str>| Edge {
            from: from.to_owned(),
            to: to.to_owned(),
            by: by.map(str::to_owned),
        };
        let edges = [
            edge("a", "a", Some("touch")),
            edge("b", "log", Some("audit")),
            edge("c", "d", None),
            edge("d", "c", Some("back")),
            edge("e", "e", None),
        ];
        assert_eq!(again(&edges, "A"), Some("touch"));
        assert_eq!(again(&edges, "b"), None);
        assert_eq!(again(&edges, "c"), Some("back"));
        assert_eq!(again(&edges, "d"), Some("back"));
        assert_eq!(again(&edges, "e"), None, "each row once");
    }

    #[test]
    fn what_a_trigger_writes_is_read_from_its_text() {
        let text = "CREATE TRIGGER x AFTER UPDATE ON a BEGIN UPDATE OR IGNORE \"b\" SET n = 1; \
                    INSERT INTO main.[c] SELECT * FROM d; DELETE FROM e; UPDATE f SET n = 2; END";
        assert_eq!(written(text), ["b", "c", "e", "f"]);
    }
}
