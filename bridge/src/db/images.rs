//! Rows as they were before a change and after it, kept with the change where its events are to
//! show both. Each is one text: names and SQL literals, as SQLite's own `quote` writes them, so
//! that a trigger can make it without any extension of the application's library.

use super::mysql::binlog::missing_for_rows_mysql;
use super::tx::Fetched;
use super::{Arg, Database, Dialect, Tx, literal};
use crate::error::{Error, OnSide};
use crate::plan::{Plan, Row, Table};
use crate::value::Cell;

/// No row.
pub(crate) const GONE: &str = "-";
/// What stands before the reason why a row is not told.
const UNTOLD: char = '!';
/// Notes that say nothing by themselves: another one tells what became of the row.
pub(crate) const ELSEWHERE: [&str; 3] = ["=", "?", "."];
/// What stands before a text with a zero byte in it, which is kept as bytes.
const AS_TEXT: char = 'T';

/// Of a row that comes by a log, as text: a statement with some of them is one that every server
/// takes.
const LARGEST: usize = 1 << 20;
/// Bytes of rows that are put into the stream by one statement, about.
pub(crate) const PUT_BYTES: usize = 1 << 20;

pub(crate) const COLUMNS: [&str; 2] = ["was", "became"];

/// What is kept of a row at one end of a change.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kept {
    Row(Vec<(String, Cell)>),
    Gone,
    /// Another note tells it.
    Elsewhere,
    /// Why there is no row to tell.
    Untold(String),
}

/// Both ends of one change.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Images {
    pub(crate) was: Kept,
    pub(crate) became: Kept,
}

/// Both ends as texts, for the stream's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Texts {
    pub(crate) was: String,
    pub(crate) became: String,
}

impl Texts {
    /// `None` where they are too large to be kept.
    pub(crate) fn new(was: String, became: String) -> Option<Self> {
        let small = was.len() <= LARGEST && became.len() <= LARGEST;
        small.then_some(Self { was, became })
    }

    /// A row that has got another key is gone under the one, and new under the other.
    pub(crate) fn moved(self) -> (Self, Self) {
        let gone = || GONE.to_owned();
        let left = Self {
            was: self.was,
            became: gone(),
        };
        let arrived = Self {
            was: gone(),
            became: self.became,
        };
        (left, arrived)
    }

    pub(crate) fn len(&self) -> usize {
        self.was.len() + self.became.len()
    }
}

/// A row as text.
pub(crate) fn of_row(table: &Table, row: &[Cell]) -> String {
    let one = |(column, cell): (&crate::plan::Column, &Cell)| {
        let tagged = match cell {
            Cell::Text(text) if text.contains('\0') => {
                format!("{AS_TEXT}{}", Cell::Blob(text.as_bytes().to_vec()))
            }
            cell => cell.to_string(),
        };
        format!("{}={tagged}", literal(&column.name))
    };
    let parts: Vec<String> = table.columns.iter().zip(row).map(one).collect();
    parts.join(",")
}

/// Why there is no row, as text.
pub(crate) fn of_reason(why: &str) -> String {
    format!("{UNTOLD}{why}")
}

impl Kept {
    fn read(text: &str) -> Self {
        if text == GONE {
            return Self::Gone;
        }
        if ELSEWHERE.contains(&text) {
            return Self::Elsewhere;
        }
        if let Some(why) = text.strip_prefix(UNTOLD) {
            return Self::Untold(why.to_owned());
        }
        match Reader(text).row() {
            Some(row) => Self::Row(row),
            None => Self::Untold("the note of the row cannot be read".to_owned()),
        }
    }

    /// The row in the order of the table's columns; `None` where there was none.
    ///
    /// # Errors
    /// Why it cannot be told.
    pub(crate) fn row(&self, table: &Table) -> Result<Option<Row>, String> {
        let cells = match self {
            Self::Gone => return Ok(None),
            Self::Row(cells) => cells,
            Self::Untold(why) => return Err(why.clone()),
            Self::Elsewhere => return Err("another change tells it".to_owned()),
        };
        let one = |column: &crate::plan::Column| {
            let found = cells.iter().find(|(name, _)| *name == column.name);
            let missing = || {
                let name = &column.name;
                format!("it was noted before column `{name}` was mapped")
            };
            found.map(|(_, cell)| cell.clone()).ok_or_else(missing)
        };
        let row: Result<Row, String> = table.columns.iter().map(one).collect();
        row.map(Some)
    }
}

impl Images {
    /// What is kept in these two columns; `None` where the key alone was noted.
    pub(crate) fn read(was: Option<&Cell>, became: Option<&Cell>) -> Option<Self> {
        let one = |cell: Option<&Cell>| match cell {
            Some(Cell::Text(text)) => Some(Kept::read(text)),
            Some(Cell::BadText(_)) => Some(Kept::Untold("it has text that is not UTF-8".into())),
            _ => None,
        };
        Some(Self {
            was: one(was)?,
            became: one(became)?,
        })
    }
}

/// Reads names and literals.
struct Reader<'a>(&'a str);

impl Reader<'_> {
    fn row(mut self) -> Option<Vec<(String, Cell)>> {
        let mut row = Vec::new();
        loop {
            let name = self.quoted()?;
            self.take('=')?;
            row.push((name, self.value()?));
            if self.0.is_empty() {
                return Some(row);
            }
            self.take(',')?;
        }
    }

    fn take(&mut self, wanted: char) -> Option<()> {
        self.0 = self.0.strip_prefix(wanted)?;
        Some(())
    }

    /// A text between quotes, those within it doubled.
    fn quoted(&mut self) -> Option<String> {
        self.take('\'')?;
        let mut text = String::new();
        loop {
            let (head, rest) = self.0.split_once('\'')?;
            text.push_str(head);
            match rest.strip_prefix('\'') {
                Some(rest) => {
                    text.push('\'');
                    self.0 = rest;
                }
                None => {
                    self.0 = rest;
                    return Some(text);
                }
            }
        }
    }

    fn value(&mut self) -> Option<Cell> {
        match self.0.chars().next()? {
            '\'' => self.quoted().map(Cell::Text),
            AS_TEXT => {
                self.take(AS_TEXT)?;
                String::from_utf8(self.bytes()?).ok().map(Cell::Text)
            }
            'X' => self.bytes().map(Cell::Blob),
            _ => {
                let end = self.0.find(',').unwrap_or(self.0.len());
                let (word, rest) = self.0.split_at(end);
                self.0 = rest;
                if word == "NULL" {
                    return Some(Cell::Null);
                }
                let whole = word.parse().ok().map(Cell::Int);
                whole.or_else(|| word.parse().ok().map(Cell::Real))
            }
        }
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        self.take('X')?;
        super::keys::unhex(&self.quoted()?)
    }
}

impl Database {
    /// Has the changes of this side noted with their rows.
    #[must_use]
    pub(crate) fn noting_rows(self, rows: bool) -> Self {
        Self {
            noting_rows: rows,
            ..self
        }
    }

    /// Makes room for rows in a stream that has none.
    pub(super) async fn install_images(&self) -> Result<(), Error> {
        if !self.noting_rows {
            return Ok(());
        }
        let (there, kind) = match self.dialect() {
            Dialect::Sqlite => (
                "SELECT count(*) FROM pragma_table_info(?) WHERE name = ?",
                "TEXT",
            ),
            Dialect::Postgres => (
                "SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass(?) AND attname = ? \
                 AND NOT attisdropped",
                "text",
            ),
            Dialect::Mysql => (
                "SELECT count(*) FROM information_schema.columns WHERE table_schema = DATABASE() \
                 AND table_name = ? AND column_name = ?",
                "LONGTEXT",
            ),
        };
        let table = self.own("changes");
        let bare = match self.dialect() {
            Dialect::Postgres => table.clone(),
            Dialect::Sqlite | Dialect::Mysql => self.own_bare("changes"),
        };
        let mut tx = self.write().await?;
        for column in COLUMNS {
            let args = [Arg::from(&bare), Arg::from(column)];
            if tx.number(there, &args).await.on(self.side)? == Some(0) {
                let add = format!("ALTER TABLE {table} ADD COLUMN {column} {kind}");
                tx.script(add).await.on(self.side)?;
            }
        }
        tx.commit().await.on(self.side)
    }

    /// What stands in the way of noting rows: (what, its trouble, the way out).
    pub(super) async fn missing_for_rows(
        &self,
        plan: &Plan,
    ) -> Result<Vec<(String, String, String)>, Error> {
        if !self.noting_rows {
            return Ok(Vec::new());
        }
        let mut tx = self.read().await?;
        let missing = match (self.dialect(), &self.feed) {
            (Dialect::Sqlite, _) => self.missing_for_rows_sqlite(&mut tx, plan).await,
            (Dialect::Postgres, Some(_)) => self.unidentified_whole(&mut tx, plan).await,
            (Dialect::Mysql, Some(_)) => missing_for_rows_mysql(self, &mut tx, plan).await,
            (Dialect::Postgres | Dialect::Mysql, None) => Ok(vec![(
                format!("{} database", self.side),
                "events cannot show rows from before: triggers note keys here, not rows".to_owned(),
                "write capture = \"replication\", or remove `before` from the slice's events"
                    .to_owned(),
            )]),
        };
        missing.on(self.side)
    }

    /// How many of the changes after a place have rows of about so many bytes: one at the least.
    /// `None` if all do.
    pub(crate) async fn rows_within(
        &self,
        tx: &mut Tx,
        after: i64,
        limit: u32,
        bytes: usize,
    ) -> Result<Option<u32>, Error> {
        let kind = match self.dialect() {
            Dialect::Sqlite | Dialect::Postgres => "bigint",
            Dialect::Mysql => "SIGNED",
        };
        let [was, became] = COLUMNS.map(|column| format!("coalesce(length({column}), 0)"));
        let text = format!(
            "SELECT CAST({was} + {became} AS {kind}) FROM {} WHERE seq > ? ORDER BY seq LIMIT ?",
            self.own("changes")
        );
        let args = [Arg::from(after), Arg::from(limit)];
        let sizes = tx.fetch(&text, &args).await.on(self.side)?;
        let mut sum = 0u64;
        let fits = |row: &&Fetched| {
            let size = row.maybe(0).and_then(|size| u64::try_from(size).ok());
            sum = sum.saturating_add(size.unwrap_or(0));
            sum <= bytes as u64
        };
        let count = sizes.iter().take_while(fits).count().max(1);
        let some = u32::try_from(count).unwrap_or(limit);
        Ok((count < sizes.len()).then_some(some))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::Column;
    use crate::value::{Affinity, Kind};

    fn table(columns: &[&str]) -> Table {
        let column = |name: &&str| Column {
            name: (*name).to_owned(),
            kind: Kind::Sqlite(Affinity::Blob),
            required: false,
        };
        Table {
            name: "t".to_owned(),
            columns: columns.iter().map(column).collect(),
            key: vec![0],
            forms: Vec::new(),
            loose: false,
            others: Vec::new(),
            other_unique: Vec::new(),
            autoincrement: false,
            written_by_others: false,
            only: Vec::new(),
        }
    }

    fn any_cell() -> impl Strategy<Value = Cell> {
        prop_oneof![
            Just(Cell::Null),
            any::<i64>().prop_map(Cell::Int),
            any::<f64>()
                .prop_filter("one NaN is enough", |r| !r.is_nan())
                .prop_map(Cell::Real),
            any::<String>().prop_map(Cell::Text),
            any::<Vec<u8>>().prop_map(Cell::Blob),
        ]
    }

    proptest! {
        #[test]
        fn rows_come_back_as_they_were(a in any_cell(), b in any_cell()) {
            let table = table(&["it's", "b"]);
            let row = vec![a, b];
            let kept = Kept::read(&of_row(&table, &row));
            prop_assert_eq!(kept.row(&table), Ok(Some(row)));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = Kept::read(&text);
        }
    }

    #[test]
    fn what_is_not_a_row_says_so() {
        assert_eq!(Kept::read(GONE).row(&table(&["a"])), Ok(None));
        assert_eq!(
            Kept::read(&of_reason("why")),
            Kept::Untold("why".to_owned())
        );
        let kept = Kept::read("'a'=1,'b'='x'");
        let later = kept.row(&table(&["a", "c"])).unwrap_err();
        assert_eq!(later, "it was noted before column `c` was mapped");
        assert_eq!(kept.row(&table(&["b"])), Ok(Some(vec![Cell::from("x")])));
        for broken in ["", "a", "'a'", "'a'=", "'a'=1,", "'a'=TX'ff'", "'a'=X'0"] {
            assert!(matches!(Kept::read(broken), Kept::Untold(_)), "{broken}");
        }
        // As SQLite writes reals.
        let real = Kept::read("'a'=-1.5e+300");
        assert_eq!(
            real.row(&table(&["a"])),
            Ok(Some(vec![Cell::Real(-1.5e300)]))
        );
    }
}
