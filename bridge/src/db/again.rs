//! What each legacy table's rows were mapped by, and how far they are read again where that has
//! changed. Kept in the extracted database, beside the cursors of the copy.

use super::stream::KEYS;
use super::tx::Fetched;
use super::{Arg, Database, Dialect, Tx};
use crate::error::{Error, OnSide};
use crate::value::Key;

/// What is left to do of a table's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Done,
    /// Those of the source's tables are carried over anew.
    Rows,
    /// Those that the source has no more, or that its mapping does not take any more, are removed.
    Strangers,
}

/// A legacy table and the rows that are made from it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Again {
    pub(crate) table: String,
    /// What they are mapped by, as [`crate::again::Print`] has it.
    pub(crate) print: String,
    pub(crate) stage: Stage,
    /// The place of the table that is walked among those of its side.
    pub(crate) part: usize,
    pub(crate) read: u64,
    /// About so many in all.
    pub(crate) total: u64,
    pub(crate) cursor: Option<Key>,
}

impl Stage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Rows => "rows",
            Self::Strangers => "strangers",
        }
    }

    fn of(text: &str) -> Self {
        match text {
            "rows" => Self::Rows,
            "strangers" => Self::Strangers,
            _ => Self::Done,
        }
    }
}

fn whole(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

fn counted(n: u64) -> Arg {
    Arg::Int(Some(i64::try_from(n).unwrap_or(i64::MAX)))
}

impl Database {
    /// Makes the table of it.
    pub(crate) async fn install_again(&self) -> Result<(), Error> {
        let (engine, key) = match self.dialect() {
            Dialect::Mysql => (
                " ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
                " MEDIUMTEXT",
            ),
            Dialect::Postgres => ("", " text"),
            // Keys are kept as they are.
            Dialect::Sqlite => ("", ""),
        };
        let keys: Vec<String> = KEYS.split(", ").map(|k| format!("{k}{key}")).collect();
        let make = format!(
            "CREATE TABLE IF NOT EXISTS {} (tbl varchar(128) PRIMARY KEY, \
             print varchar(128) NOT NULL, stage varchar(16) NOT NULL, part bigint NOT NULL, \
             rows_read bigint NOT NULL, total bigint NOT NULL, {}){engine}",
            self.own("again"),
            keys.join(", ")
        );
        let mut tx = self.write().await?;
        tx.script(make).await.on(self.side)?;
        tx.commit().await.on(self.side)
    }

    pub(crate) async fn again(&self, tx: &mut Tx) -> Result<Vec<Again>, Error> {
        let text = format!(
            "SELECT tbl, print, stage, part, rows_read, total, {KEYS} FROM {}",
            self.own("again")
        );
        let rows = tx.fetch(&text, &[]).await.on(self.side)?;
        let one = |row: &Fetched| {
            let cursor = tx.key(row, 6);
            Ok(Again {
                table: row.text(0)?,
                print: row.text(1)?,
                stage: Stage::of(&row.text(2)?),
                part: usize::try_from(row.int(3)?).unwrap_or(0),
                read: whole(row.int(4)?),
                total: whole(row.int(5)?),
                cursor: (!cursor.is_empty()).then_some(cursor),
            })
        };
        let all: Result<_, sqlx::Error> = rows.iter().map(one).collect();
        all.on(self.side)
    }

    pub(crate) async fn save_again(&self, again: &Again) -> Result<(), Error> {
        let columns: Vec<&str> = ["print", "stage", "part", "rows_read", "total"]
            .into_iter()
            .chain(KEYS.split(", "))
            .collect();
        let marks = vec!["?"; columns.len() + 1].join(", ");
        let text = format!(
            "INSERT INTO {} (tbl, {}) VALUES ({marks}) {}",
            self.own("again"),
            columns.join(", "),
            self.dialect().or_update("tbl", &columns)
        );
        let mut tx = self.write().await?;
        let mut args = vec![
            Arg::from(&again.table),
            Arg::from(&again.print),
            Arg::from(again.stage.as_str()),
            counted(again.part as u64),
            counted(again.read),
            counted(again.total),
        ];
        let cursor = again.cursor.as_ref();
        let places = 0..crate::plan::KEY_COLUMNS;
        args.extend(places.map(|at| tx.key_arg(cursor.and_then(|key| key.get(at)))));
        tx.execute(&text, &args).await.on(self.side)?;
        tx.commit().await.on(self.side)
    }
}
