//! Rows that are read again because they are made otherwise now: their mapping was edited, or a
//! mapped column has another type.
//!
//! A link notes by which mapping, of columns of which types, the rows of each table were carried over.
//! Where that is another one, the source's rows are walked once more in key order, beside the stream:
//! each is read as it is and written to the other side outside of the stream, as a repair does. That
//! may be done twice, so how far it is may be noted after the rows, and a crash costs one stride.
//! Then the other side is walked for rows that the mapping does not take any more.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use outgrow_rollout::Side;
use xxhash_rust::xxh3::xxh3_64;

use crate::db::again::{Again, Stage};
use crate::db::books::Copy;
use crate::db::rows;
use crate::engine::Engine;
use crate::error::{Error, OnSide};
use crate::plan::{ColumnSchema, Group, Plan, Schema, TableSchema};
use crate::shared::{Schemas, Shared};
use crate::spec::{LinkSpec, TableSpec};

/// Goes up when the same mapping gives another print: what was noted before then says nothing.
const VERSION: &str = "1";

/// What the rows of a legacy table are mapped by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Print {
    /// How the values of columns are made.
    values: u64,
    /// Which rows are taken.
    rows: u64,
    /// Types of the columns.
    types: u64,
}

impl fmt::Display for Print {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            values,
            rows,
            types,
        } = self;
        write!(f, "{VERSION} {values:016x} {rows:016x} {types:016x}")
    }
}

fn hash(what: &impl fmt::Debug) -> u64 {
    xxh3_64(format!("{what:?}").as_bytes())
}

impl Print {
    pub(crate) fn of(spec: &LinkSpec, group: &Group, schemas: &Schemas) -> Self {
        let mut entries: Vec<&TableSpec> = spec
            .tables
            .iter()
            .filter(|table| table.legacy == group.name())
            .collect();
        entries.sort_by(|a, b| a.extracted.cmp(&b.extracted));
        let values: Vec<_> = entries
            .iter()
            .map(|entry| {
                let mut columns: Vec<String> =
                    entry.columns.iter().map(|c| format!("{c:?}")).collect();
                // Their order in the config says nothing.
                columns.sort();
                (&entry.extracted, &entry.key, columns, &entry.zero_dates)
            })
            .collect();
        let rows: Vec<_> = entries
            .iter()
            .map(|entry| (&entry.extracted, &entry.rows, &entry.also))
            .collect();
        Self {
            values: hash(&values),
            rows: hash(&rows),
            types: hash(&types(&entries, group, schemas)),
        }
    }

    /// One that was noted; `None` where another version did.
    fn noted(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(VERSION)?.strip_prefix(' ')?;
        let mut parts = rest.split(' ').map(|part| u64::from_str_radix(part, 16));
        let mut next = || parts.next()?.ok();
        Some(Self {
            values: next()?,
            rows: next()?,
            types: next()?,
        })
    }
}

/// Each mapped column with its type.
fn types(entries: &[&TableSpec], group: &Group, schemas: &Schemas) -> Vec<String> {
    let mapped = |table: &str, column: &str| {
        let mut columns = entries.iter().flat_map(|entry| &entry.columns);
        columns.any(|c| {
            let from = c.source.from();
            from.iter()
                .any(|f| *f == column || *f == format!("{table}.{column}"))
        })
    };
    let mut found = Vec::new();
    let mut note = |side: Side, table: &str, column: &str, schema: &Schema| {
        let of = |t: &TableSchema| -> Option<ColumnSchema> {
            t.columns.iter().find(|c| c.name == column).cloned()
        };
        let kind = schema.get(table).and_then(of).map(|c| c.kind);
        found.push(format!("{side} {table} {column} {kind:?}"));
    };
    for table in group.tables(Side::Legacy) {
        for column in table
            .columns
            .iter()
            .filter(|c| mapped(&table.name, &c.name))
        {
            note(Side::Legacy, &table.name, &column.name, &schemas.legacy);
        }
    }
    for table in group.tables(Side::Extracted) {
        for column in &table.columns {
            let schema = &schemas.extracted;
            note(Side::Extracted, &table.name, &column.name, schema);
        }
    }
    found.sort();
    found
}

/// From the beginning, of about so many rows.
fn anew(table: &str, print: &Print, total: u64) -> Again {
    Again {
        table: table.to_owned(),
        print: print.to_string(),
        stage: Stage::Rows,
        part: 0,
        read: 0,
        total,
        cursor: None,
    }
}

/// Why the rows of an edited mapping cannot be read again, if so.
fn refused(shared: &Shared, source: Side, (was, now): (&Print, &Print)) -> Option<String> {
    let slice = &shared.spec.slice;
    if shared.spec.writes.both().is_some() {
        return Some(format!(
            "both sides take writes, and neither side's row may replace the other's unseen. Put the \
             mapping back, or end the link with `outgrow sync close {slice}` and start the copy again"
        ));
    }
    (source == Side::Extracted && was.rows != now.rows).then(|| {
        format!(
            "other rows are taken now, and rows flow from the extracted side, which does not have those. \
             Put `rows` back, run `outgrow sync resume {slice}`, and edit it while the legacy side is \
             the writer"
        )
    })
}

/// What the rows of each table were mapped by, and which are to be read again.
pub(crate) async fn begin(
    shared: &Shared,
    (plan, schemas): (&Plan, &Schemas),
    source: Side,
    copies: &[Copy],
) -> Result<Vec<Again>, Error> {
    let home = &shared.extracted;
    let mut tx = home.read().await?;
    let known = home.again(&mut tx).await?;
    drop(tx);
    let mut all = Vec::new();
    for group in &plan.groups {
        let print = Print::of(&shared.spec, group, schemas);
        let copy = copies.iter().find(|c| c.table == group.name());
        let begun = copy.is_some_and(|c| c.done || c.copied > 0 || c.cursor.is_some());
        let total = copy.map_or(0, |c| c.total.max(c.copied));
        let fresh = anew(group.name(), &print, total);
        let known = known.iter().find(|a| a.table == group.name());
        let was = known.and_then(|a| Print::noted(&a.print));
        let again = match (known, was) {
            // Nothing was copied by another one; or nobody knows.
            (None, _) => Again {
                stage: Stage::Done,
                ..fresh
            },
            (Some(known), None) => Again {
                print: print.to_string(),
                ..known.clone()
            },
            (Some(known), Some(was)) if was == print => known.clone(),
            (Some(_), Some(_)) if !begun => Again {
                stage: Stage::Done,
                ..fresh
            },
            (Some(known), Some(was)) => {
                if was.values != print.values || was.rows != print.rows {
                    if let Some(why) = refused(shared, source, (&was, &print)) {
                        let table = group.name().to_owned();
                        let slice = shared.spec.slice.clone();
                        return Err(Error::MappingEdited { slice, table, why });
                    }
                    told(shared, group.name(), "its mapping was edited");
                } else if shared.spec.writes.both().is_none() {
                    told(shared, group.name(), "a column has another type");
                }
                match shared.spec.writes.both() {
                    None => fresh,
                    Some(_) => Again {
                        print: print.to_string(),
                        ..known.clone()
                    },
                }
            }
        };
        if known != Some(&again) {
            home.save_again(&again).await?;
        }
        all.push(again);
    }
    Ok(all)
}

fn told(shared: &Shared, table: &str, why: &str) {
    tracing::info!(slice = %shared.spec.slice, table, why, "the rows of a table are read again");
}

impl Engine {
    pub(crate) fn reads_again(&self) -> bool {
        self.again.iter().any(|a| a.stage != Stage::Done)
    }

    /// Has tables read again whose mapped columns have other types now, or are gone. A statement
    /// that changes a table may change its rows without a word to anybody.
    pub(crate) async fn note_types(&mut self, now: &Schemas) -> Result<(), Error> {
        if self.shared.spec.writes.both().is_some() {
            return Ok(());
        }
        for at in 0..self.again.len() {
            let plan = Arc::clone(&self.plan);
            let again = &self.again[at];
            let named = plan.groups.iter().find(|g| g.name() == again.table);
            let (Some(group), Some(was)) = (named, Print::noted(&again.print)) else {
                continue;
            };
            let print = Print::of(&self.shared.spec, group, now);
            if print.types == was.types {
                continue;
            }
            told(
                &self.shared,
                &again.table,
                "a column has another type, or is gone",
            );
            let fresh = anew(&again.table, &print, again.total.max(again.read));
            self.shared.extracted.save_again(&fresh).await?;
            self.again[at] = fresh;
        }
        self.show_again();
        Ok(())
    }

    pub(crate) fn show_again(&self) {
        self.shared.status(|s| {
            for table in &mut s.tables {
                let again = self.again.iter().find(|a| a.table == table.legacy);
                let again = again.filter(|a| a.stage != Stage::Done);
                table.again = again.map(|a| (a.read, a.total.max(a.read)));
            }
        });
    }

    /// Rows first, parents before what refers to them; strangers the other way round.
    fn next_again(&self) -> Option<usize> {
        let in_stage = |stage| move |a: &Again| a.stage == stage;
        let rows = self.again.iter().position(in_stage(Stage::Rows));
        rows.or_else(|| self.again.iter().rposition(in_stage(Stage::Strangers)))
    }

    /// Reads some rows again, where some are to be. `true` when there are more.
    pub(crate) async fn read_again(&mut self) -> Result<bool, Error> {
        if !self.copied() {
            return Ok(false);
        }
        let Some(at) = self.next_again() else {
            return Ok(false);
        };
        self.shared.ask_load().await?;
        let limits = self.shared.limits();
        let waits = self.shared.status(|s| {
            let busy = s.load.busy();
            s.copy_waits = self.pace.waits(Instant::now(), s.lag_ms(), busy, limits);
            s.copy_waits
        });
        if waits.is_some() {
            return Ok(false);
        }
        let mut again = self.again[at].clone();
        let count = match again.stage {
            Stage::Done => 0,
            Stage::Rows => self.rows_again(&mut again).await?,
            Stage::Strangers => self.strangers(&mut again).await?,
        };
        self.shared.pass("read-again");
        self.shared.extracted.save_again(&again).await?;
        let rate = self.shared.limits().copy_rate;
        self.pace.took(Instant::now(), count, rate);
        if again.stage == Stage::Done {
            tracing::info!(slice = %self.shared.spec.slice, table = again.table,
                "every row of a table was read again");
        }
        self.again[at] = again;
        self.show_again();
        Ok(self.reads_again())
    }

    /// Carries over some rows of the source.
    async fn rows_again(&mut self, again: &mut Again) -> Result<u64, Error> {
        let plan = Arc::clone(&self.plan);
        let side = self.source;
        let group = plan.group_of(Side::Legacy, &again.table);
        let table = group.and_then(|g| {
            // Of the legacy side the first table has every key.
            let parts = plan.groups[g].tables(side);
            let walked = if side == Side::Legacy { 1 } else { parts.len() };
            Some((g, parts[..walked].get(again.part)?))
        });
        let Some((group, table)) = table else {
            let strangers = side == Side::Legacy;
            again.stage = if strangers {
                Stage::Strangers
            } else {
                Stage::Done
            };
            (again.part, again.cursor) = (0, None);
            return Ok(0);
        };
        let limit = crate::pace::rows(
            self.shared.limits().chunk_rows,
            self.shared.limits().copy_rate,
        );
        let mut tx = self.source().read().await?;
        let keys = rows::keys_after(&mut tx, table, again.cursor.as_ref(), limit).await;
        let keys = keys.on(side)?;
        drop(tx);
        let count = keys.len() as u64;
        again.read += count;
        match keys.last().filter(|_| count >= u64::from(limit)) {
            Some(last) => again.cursor = Some(last.clone()),
            None => (again.part, again.cursor) = (again.part + 1, None),
        }
        if !keys.is_empty() {
            self.refresh(&HashMap::from([(group, keys)]), false).await?;
        }
        Ok(count)
    }

    /// Removes some rows of the extracted side that no legacy row makes any more.
    async fn strangers(&mut self, again: &mut Again) -> Result<u64, Error> {
        let plan = Arc::clone(&self.plan);
        let group = plan.group_of(Side::Legacy, &again.table);
        let table =
            group.and_then(|g| Some((g, plan.groups[g].tables(Side::Extracted).get(again.part)?)));
        let Some((group, table)) = table.filter(|_| self.source == Side::Legacy) else {
            (again.stage, again.part, again.cursor) = (Stage::Done, 0, None);
            return Ok(0);
        };
        let limit = self.shared.limits().chunk_rows;
        let mut tx = self.shared.extracted.read().await?;
        let mut keys = rows::keys_after(&mut tx, table, again.cursor.as_ref(), limit)
            .await
            .on(Side::Extracted)?;
        drop(tx);
        let count = keys.len() as u64;
        match keys.last().filter(|_| count >= u64::from(limit)) {
            Some(last) => again.cursor = Some(last.clone()),
            None => (again.part, again.cursor) = (again.part + 1, None),
        }
        let mut tx = self.shared.legacy.read().await?;
        let there = rows::present(&mut tx, &plan.groups[group].tables(Side::Legacy)[0], &keys);
        let there = there.await.on(Side::Legacy)?;
        drop(tx);
        keys.retain(|key| !there.contains(key));
        if !keys.is_empty() {
            self.refresh(&HashMap::from([(group, keys)]), false).await?;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::Lookups;
    use crate::spec::{ColumnSpec, Limits, RowFilter, Source};
    use crate::value::{Affinity, Kind};

    fn schema(tables: [(&str, &[&str]); 1]) -> Schema {
        let column = |name: &&str| ColumnSchema {
            name: (*name).to_owned(),
            kind: Kind::Sqlite(Affinity::Text),
            required: false,
            has_default: false,
            generated: false,
        };
        let table = |(name, columns): (&str, &[&str])| {
            let schema = TableSchema {
                columns: columns.iter().map(column).collect(),
                unique: vec![vec!["id".to_owned()]],
                ..TableSchema::default()
            };
            (name.to_owned(), schema)
        };
        tables.into_iter().map(table).collect()
    }

    fn print(sources: &[(&str, Source)]) -> String {
        let columns = sources.iter().map(|(extracted, source)| ColumnSpec {
            extracted: (*extracted).to_owned(),
            source: source.clone(),
        });
        let entry = TableSpec {
            legacy: "item".to_owned(),
            extracted: "article".to_owned(),
            key: vec!["id".to_owned()],
            columns: columns.collect(),
            defaults: ["kind", "price", "made", "zoned", "flag", "gone"]
                .map(|column| (column.to_owned(), "a".into()))
                .into_iter()
                .filter(|(column, _)| {
                    sources
                        .iter()
                        .all(|(_, s)| !s.from().contains(&column.as_str()))
                })
                .collect(),
            rows: Some(RowFilter {
                column: "kind".to_owned(),
                values: vec!["a".into()],
                not: false,
            }),
            ..TableSpec::default()
        };
        let spec = LinkSpec {
            slice: "items".parse().unwrap(),
            legacy: "sqlite:legacy.db".parse().unwrap(),
            extracted: "sqlite:extracted.db".parse().unwrap(),
            tables: vec![entry],
            writes: crate::both::Writes::One,
            limits: Limits::default(),
        };
        let schemas = Schemas {
            legacy: schema([(
                "item",
                &["id", "kind", "price", "made", "zoned", "flag", "gone"],
            )]),
            extracted: schema([("article", &["id", "price", "made", "zoned", "flag"])]),
        };
        let (plan, problems) =
            Plan::build(&spec, &schemas.legacy, &schemas.extracted, &Lookups::new());
        let plan = plan.unwrap_or_else(|| panic!("{problems:?}"));
        Print::of(&spec, &plan.groups[0], &schemas).to_string()
    }

    fn sources() -> Vec<(&'static str, Source)> {
        let from = |name: &str| name.to_owned();
        vec![
            ("id", Source::Rename(from("id"))),
            (
                "price",
                Source::Cents {
                    from: from("price"),
                    scale: 2,
                },
            ),
            (
                "made",
                Source::LocalTime {
                    from: from("made"),
                    offset: 3_600,
                },
            ),
            (
                "zoned",
                Source::ZonedTime {
                    from: from("zoned"),
                    zone: "Europe/Berlin".parse().unwrap(),
                    ambiguous: crate::zone::Ambiguous::Earlier,
                },
            ),
            (
                "flag",
                Source::Map {
                    from: from("flag"),
                    pairs: vec![("Y".into(), 1.into()), ("N".into(), 0.into())],
                },
            ),
        ]
    }

    /// Links of an older version must not read all their tables again for nothing. Where this fails, put the
    /// new print here and raise [`VERSION`].
    #[test]
    fn the_print_of_a_mapping_is_the_same_in_each_version_of_the_program() {
        assert_eq!(
            print(&sources()),
            "1 d2afb6798e522a00 0d687fc378550681 7d604d01db579080"
        );
    }

    #[test]
    fn the_order_of_columns_says_nothing_and_each_value_does() {
        let usual = print(&sources());
        let mut turned = sources();
        turned.reverse();
        assert_eq!(print(&turned), usual);
        let mut cents = sources();
        cents[1].1 = Source::Cents {
            from: "price".to_owned(),
            scale: 3,
        };
        let noted = |text: &str| Print::noted(text).unwrap();
        let (was, now) = (noted(&usual), noted(&print(&cents)));
        assert!(was.values != now.values && was.rows == now.rows && was.types == now.types);
        assert_eq!(Print::noted("0 1 2 3"), None);
        assert_eq!(Print::noted("1 1 2"), None);
    }
}
