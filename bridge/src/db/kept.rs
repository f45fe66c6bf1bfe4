//! What a database keeps for a link, in bytes, and how it is told to keep nothing more. All of it is
//! asked of indexes and of a few rows, however much there is.

use std::time::Duration;

use outgrow_rollout::Side;

use super::images::COLUMNS;
use super::{Arg, Database, Dialect, Feed, Tx, quote};
use crate::error::{Error, OnSide};
use crate::guard::Kind;
use crate::spec::Capture;

/// Rows that are taken to be like the others.
const SAMPLED: u32 = 100;

/// A limit that was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Over {
    pub(crate) side: Side,
    pub(crate) of: Kind,
    pub(crate) kept: u64,
    pub(crate) limit: u64,
}

/// A link that was parked, as one of its databases has it on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) over: Over,
    /// It keeps nothing more.
    pub(crate) whole: bool,
}

impl Dialect {
    /// About what a row of a change table costs beside its values: its header, its place in the
    /// page, its entry in the index.
    fn beside(self) -> i64 {
        match self {
            Self::Sqlite => 24,
            Self::Postgres => 40,
            Self::Mysql => 60,
        }
    }

    fn whole_number(self) -> &'static str {
        match self {
            Self::Sqlite => "INTEGER",
            Self::Postgres => "bigint",
            Self::Mysql => "SIGNED",
        }
    }
}

fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Database {
    /// About the bytes of the changes that are noted here and not applied. Where it is not known up
    /// to where they are (`applied` is 0), all that is there is taken to wait, but for as many as
    /// are kept for a broker.
    pub(crate) async fn kept_noted(
        &self,
        applied: i64,
        for_events: Option<u64>,
    ) -> Result<u64, Error> {
        let mut tx = self.read().await?;
        let spared = match applied {
            0 => for_events.unwrap_or(0),
            _ => 0,
        };
        let (from, images) = (self.own("changes"), self.noting_rows);
        let mut bytes = self
            .weight(&mut tx, &from, ("seq", images), (applied, spared))
            .await?;
        if self.dialect() != Dialect::Sqlite {
            let noted = self.noted();
            let more = self.weight(&mut tx, &noted, ("id", false), (0, 0));
            bytes = bytes.saturating_add(more.await?);
        }
        if self.dialect() == Dialect::Postgres {
            // Numbers may have gaps: what was undone drew some, too.
            let text = "SELECT (pg_total_relation_size(to_regclass(?)) \
                        + pg_total_relation_size(to_regclass(?)))::int8";
            let args = [Arg::from(&from), Arg::from(&self.noted())];
            let size = tx.number(text, &args).await.on(self.side)?;
            bytes = bytes.min(size.map_or(u64::MAX, count));
        }
        Ok(bytes)
    }

    /// About the bytes of the rows of a change table after a place, without the first so many.
    async fn weight(
        &self,
        tx: &mut Tx,
        table: &str,
        (id, images): (&str, bool),
        (after, spared): (i64, u64),
    ) -> Result<u64, Error> {
        let text =
            format!("SELECT (SELECT min({id}) FROM {table}), (SELECT max({id}) FROM {table})");
        let rows = tx.fetch(&text, &[]).await.on(self.side)?;
        let ends = rows.first().map(|row| (row.maybe(0), row.maybe(1)));
        let Some((Some(first), Some(last))) = ends else {
            return Ok(0);
        };
        let before = after.max(first.saturating_sub(1));
        let waiting = count(last.saturating_sub(before)).saturating_sub(spared);
        if waiting == 0 {
            return Ok(0);
        }
        let text = format!(
            "SELECT CAST(avg(size) AS {}) FROM (SELECT {} AS size FROM {table} AS c \
             ORDER BY {id} DESC LIMIT {SAMPLED}) AS sampled",
            self.dialect().whole_number(),
            self.size_of_change(images)
        );
        let each = tx.number(&text, &[]).await.on(self.side)?.unwrap_or(0);
        let each = each.saturating_add(self.dialect().beside());
        Ok(waiting.saturating_mul(count(each)))
    }

    fn size_of_change(&self, images: bool) -> String {
        if self.dialect() == Dialect::Postgres {
            return "pg_column_size(c.*)".to_owned();
        }
        let mut columns: Vec<&str> = super::stream::KEYS.split(", ").collect();
        columns.extend(["tbl", "op"]);
        if images {
            columns.extend(COLUMNS);
        }
        let size = |column: &&str| format!("coalesce(octet_length({column}), 0)");
        let sizes: Vec<String> = columns.iter().map(size).collect();
        // The number and the time.
        format!("16 + {}", sizes.join(" + "))
    }

    /// Why this database keeps nothing more for the link, once that is so or is to be so.
    pub(crate) async fn ended(&self) -> Result<Option<Ended>, Error> {
        if !self.has_own("ended").await? {
            return Ok(None);
        }
        let text = format!(
            "SELECT side, what, kept, bound, whole FROM {}",
            self.own("ended")
        );
        let mut tx = self.read().await?;
        let rows = tx.fetch(&text, &[]).await.on(self.side)?;
        let read = |row: &super::Fetched| {
            let side = match row.text(0)?.as_str() {
                "legacy" => Side::Legacy,
                _ => Side::Extracted,
            };
            let of = match row.text(1)?.as_str() {
                "log" => Kind::Log,
                _ => Kind::Changes,
            };
            let over = Over {
                side,
                of,
                kept: count(row.int(2)?),
                limit: count(row.int(3)?),
            };
            Ok::<_, sqlx::Error>(Ended {
                over,
                whole: row.int(4)? != 0,
            })
        };
        rows.first().map(read).transpose().on(self.side)
    }

    /// Keeps nothing more for the link. That is on record before: a stream with a gap in it must
    /// never be gone on with.
    pub(crate) async fn end(&self, over: Over, pass: impl Fn(&'static str)) -> Result<(), Error> {
        let marked = self.mark_ended(over).await;
        if self.capture() == Capture::Triggers {
            marked?;
            pass("ended");
            self.note_no_more().await?;
        } else {
            // A slot that is gone tells it by itself, and a full disk takes no record.
            pass("ended");
            self.give_up_log().await?;
            marked?;
        }
        pass("kept-no-more");
        let text = format!("UPDATE {} SET whole = 1", self.own("ended"));
        let mut tx = self.write().await?;
        tx.execute(&text, &[]).await.on(self.side)?;
        tx.commit().await.on(self.side)
    }

    async fn mark_ended(&self, over: Over) -> Result<(), Error> {
        let engine = match self.dialect() {
            Dialect::Mysql => " ENGINE = InnoDB",
            Dialect::Sqlite | Dialect::Postgres => "",
        };
        let make = format!(
            "CREATE TABLE IF NOT EXISTS {} (id int PRIMARY KEY, side varchar(16) NOT NULL, \
             what varchar(16) NOT NULL, kept bigint NOT NULL, bound bigint NOT NULL, \
             whole int NOT NULL){engine}",
            self.own("ended")
        );
        let mut tx = self.write().await?;
        tx.script(make).await.on(self.side)?;
        let text = format!(
            "INSERT INTO {} (id, side, what, kept, bound, whole) VALUES (1, ?, ?, ?, ?, 0) {}",
            self.own("ended"),
            self.dialect().or_update("id", &["whole"])
        );
        let what = match over.of {
            Kind::Log => "log",
            Kind::Changes => "changes",
        };
        let args = [
            Arg::from(over.side.as_str()),
            Arg::from(what),
            Arg::from(whole(over.kept)),
            Arg::from(whole(over.limit)),
        ];
        tx.execute(&text, &args).await.on(self.side)?;
        tx.commit().await.on(self.side)
    }

    /// Has the triggers note nothing more. The application's writes go on as they were; fences stay.
    async fn note_no_more(&self) -> Result<(), Error> {
        match self.dialect() {
            Dialect::Sqlite => self.note_no_more_sqlite().await,
            Dialect::Postgres => self.note_no_more_postgres().await,
            Dialect::Mysql => self.note_no_more_mysql().await,
        }
    }

    /// In one short transaction: whoever writes waits for it as for any other.
    async fn note_no_more_sqlite(&self) -> Result<(), Error> {
        let side = self.side;
        let mut tx = self.write().await?;
        let text = "SELECT name FROM sqlite_master WHERE type = 'trigger' \
                    AND name LIKE ? ESCAPE '\\' AND instr(sql, ?) > 0";
        let own = format!("{}%", self.own_bare("on").replace('_', "\\_"));
        let notes = format!("INSERT INTO {} ", self.own("changes"));
        for row in (tx.fetch(text, &[Arg::from(&own), Arg::from(&notes)]).await).on(side)? {
            let drop = format!("DROP TRIGGER IF EXISTS {}", quote(&row.text(0).on(side)?));
            tx.script(drop).await.on(side)?;
        }
        tx.commit().await.on(side)
    }

    /// Functions that do nothing take the place of those that note: that takes no lock of a table,
    /// as dropping triggers or disabling them would.
    async fn note_no_more_postgres(&self) -> Result<(), Error> {
        let side = self.side;
        let mut tx = self.write().await?;
        let own = format!("{}%", self.own_bare("note_").replace('_', "\\_"));
        let text = "SELECT p.oid::regprocedure::text FROM pg_proc p \
                    JOIN pg_namespace n ON n.oid = p.pronamespace \
                    WHERE n.nspname = '_outgrow' AND p.proname LIKE ?";
        for row in tx.fetch(text, &[Arg::from(&own)]).await.on(side)? {
            let replace = format!(
                "CREATE OR REPLACE FUNCTION {} RETURNS trigger LANGUAGE plpgsql \
                 AS $outgrow$ BEGIN RETURN NULL; END $outgrow$",
                row.text(0).on(side)?
            );
            tx.script(replace).await.on(side)?;
        }
        tx.commit().await.on(side)
    }

    /// Dropping a trigger waits for the transactions that use its table, and whoever comes later
    /// waits behind it: a second at the most, and then it is tried again some time later.
    async fn note_no_more_mysql(&self) -> Result<(), Error> {
        let side = self.side;
        let mut tx = self.write().await?;
        let text = "SELECT CAST(trigger_name AS CHAR) FROM information_schema.triggers \
                    WHERE trigger_schema = DATABASE() AND trigger_name LIKE ? ESCAPE '|' \
                    AND instr(action_statement, ?) > 0";
        let own = format!("{}%", self.own_bare("").replace('_', "|_"));
        let notes = format!("INSERT INTO {} ", self.own("noted"));
        let args = [Arg::from(&own), Arg::from(&notes)];
        let found = tx.fetch(text, &args).await.on(side)?;
        tx.commit().await.on(side)?;
        let mut drops = Vec::new();
        for row in &found {
            drops.push(format!(
                "DROP TRIGGER IF EXISTS {}",
                quote(&row.text(0).on(side)?)
            ));
        }
        let mut tx = self.write().await?;
        let dropped = self.politely_mysql(&mut tx, &drops, Duration::ZERO).await;
        tx.commit().await.on(side)?;
        dropped
    }

    /// Bytes of its log that the server keeps for us; `None` where it keeps none.
    pub(crate) async fn kept_log(&self) -> Result<Option<u64>, Error> {
        // MySQL keeps and removes its log by its own rules, whoever reads it.
        let Some(Feed::Postgres(_)) = &self.feed else {
            return Ok(None);
        };
        let mut tx = self.read().await?;
        self.log_kept(&mut tx).await
    }

    /// Lets the server remove its log, at the price of the stream.
    async fn give_up_log(&self) -> Result<(), Error> {
        self.release().await;
        match &self.feed {
            Some(Feed::Postgres(_)) => self.give_up_slot().await,
            Some(Feed::Mysql(_)) | None => Ok(()),
        }
    }
}
