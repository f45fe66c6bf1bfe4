//! Codes that a table of the legacy database translates: read when a plan is made, and looked at
//! again while a link runs. Refuses a table that is not one to one.
//!
//! While rows flow from the legacy side, a code's new word is carried to every row that has the
//! code. While they flow back, the extracted side's words are in force: codes keep those that they
//! had at the turn, or a word that somebody changed would keep rows, and the turn, from going
//! back. New codes are taken up both ways.

use std::collections::{BTreeMap, HashMap, HashSet};

use outgrow_rollout::Side;

use crate::db::{Database, rows};
use crate::error::{Error, OnSide};
use crate::plan::{Column, Filter, Plan, Schema, Table};
use crate::shared::Shared;
use crate::spec::Source;
use crate::value::Cell;

/// Most rows of a lookup: it is kept in memory and read twice a second.
const LOOKUP_ROWS: u32 = 10_000;

/// What is wrong, and how to mend it.
pub(crate) type Wrong = (String, String);

/// A lookup as the config names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LookupName {
    pub(crate) table: String,
    pub(crate) key: String,
    pub(crate) value: String,
}

impl LookupName {
    pub(crate) fn of(source: &Source) -> Option<Self> {
        match source {
            Source::Lookup {
                table, key, value, ..
            } => Some(Self {
                table: table.clone(),
                key: key.clone(),
                value: value.clone(),
            }),
            _ => None,
        }
    }
}

/// Codes and values, in the order of the codes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lookup {
    table: Table,
    pub(crate) pairs: Vec<(Cell, Cell)>,
}

/// Lookups as a plan has them.
pub(crate) type Known = BTreeMap<LookupName, Lookup>;

/// Every lookup of a spec, or why it cannot be used.
pub(crate) type Lookups = BTreeMap<LookupName, Result<Lookup, Wrong>>;

impl Shared {
    /// Reads every lookup of the spec; codes that are kept keep their words.
    pub(crate) async fn lookups(&self, kept: Option<&Known>) -> Result<Lookups, Error> {
        let columns = self.spec.tables.iter().flat_map(|table| &table.columns);
        let names: Vec<LookupName> = columns
            .filter_map(|column| LookupName::of(&column.source))
            .collect();
        let tables: Vec<String> = names.iter().map(|name| name.table.clone()).collect();
        let mut found = Lookups::new();
        if names.is_empty() {
            return Ok(found);
        }
        let schema = self.legacy.schema(&tables).await?;
        for name in names {
            let lookup = match shape(&name, &schema) {
                Ok(table) => read(&self.legacy, table).await?,
                Err(wrong) => Err(wrong),
            };
            let kept = kept.and_then(|kept| kept.get(&name));
            let lookup = lookup.map(|lookup| lookup.keeping(kept));
            found.insert(name, lookup);
        }
        Ok(found)
    }

    /// Whether lookups would be others than those of the plan if they were read now.
    pub(crate) async fn lookups_changed(
        &self,
        plan: &Plan,
        kept: Option<&Known>,
    ) -> Result<bool, Error> {
        for (name, lookup) in &plan.lookups {
            let now = read(&self.legacy, lookup.table.clone()).await?;
            let kept = kept.and_then(|kept| kept.get(name));
            let now = now.map(|now| now.keeping(kept));
            if now.as_ref() != Ok(lookup) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Lookup {
    /// With the pairs that are kept, and of its own those that have a new code and a new word.
    fn keeping(mut self, kept: Option<&Self>) -> Self {
        let Some(kept) = kept else {
            return self;
        };
        let mut pairs = kept.pairs.clone();
        let codes: HashSet<&Cell> = kept.pairs.iter().map(|(code, _)| code).collect();
        let words: HashSet<&Cell> = kept.pairs.iter().map(|(_, word)| word).collect();
        let fresh = |(code, word): &(Cell, Cell)| !codes.contains(code) && !words.contains(word);
        pairs.extend(self.pairs.into_iter().filter(fresh));
        self.pairs = pairs;
        self
    }
}

/// The two columns of a lookup as a table.
fn shape(name: &LookupName, schema: &Schema) -> Result<Table, Wrong> {
    let Some(found) = schema.get(&name.table) else {
        let what = format!("there is no lookup table `{}`", name.table);
        return Err((
            what,
            "check its name; it is in the legacy database".to_owned(),
        ));
    };
    let column = |wanted: &str| {
        let found = found.columns.iter().find(|c| c.name == wanted);
        found
            .map(|c| Column {
                name: c.name.clone(),
                kind: c.kind.clone(),
                required: c.required,
            })
            .ok_or_else(|| {
                let what = format!("the lookup table `{}` has no column `{wanted}`", name.table);
                (what, "check its name".to_owned())
            })
    };
    Ok(Table {
        name: name.table.clone(),
        columns: vec![column(&name.key)?, column(&name.value)?],
        key: vec![0],
        forms: Vec::new(),
        loose: false,
        others: Vec::new(),
        other_unique: Vec::new(),
        autoincrement: false,
        written_by_others: false,
        only: Vec::new(),
    })
}

async fn read(legacy: &Database, table: Table) -> Result<Result<Lookup, Wrong>, Error> {
    let mut tx = legacy.read().await?;
    let found = rows::after(&mut tx, &table, None, LOOKUP_ROWS + 1).await;
    let found = match found.on(legacy.side) {
        Ok(found) => found,
        Err(e) if e.passes() => return Err(e),
        Err(e) => {
            let what = format!("the lookup table `{}` cannot be read: {e}", table.name);
            return Ok(Err((what, "let the bridge's user read it".to_owned())));
        }
    };
    if found.len() > LOOKUP_ROWS as usize {
        let what = format!(
            "the lookup table `{}` has over {LOOKUP_ROWS} rows",
            table.name
        );
        return Ok(Err((what, "use a table of nothing but codes".to_owned())));
    }
    let pairs = found.into_iter().filter_map(|row| {
        let mut cells = row.into_iter();
        Some((cells.next()?, cells.next()?))
    });
    let pairs = pairs.collect();
    Ok(Ok(Lookup { table, pairs }))
}

/// The legacy rows whose codes mean something else by the new plan, as tables of just them.
pub(crate) fn renamed(old: &Plan, new: &Plan) -> Vec<Table> {
    let mut found = Vec::new();
    for group in &new.groups {
        for ((table, column), name) in group.lookups() {
            let legacy = &group.tables(Side::Legacy)[*table];
            let pairs = |plan: &Plan| {
                let lookup = plan.lookups.get(name);
                lookup.map(|l| l.pairs.clone()).unwrap_or_default()
            };
            let kind = &legacy.columns[*column].kind;
            let values: Vec<Cell> = changed(&pairs(old), &pairs(new))
                .into_iter()
                .map(|code| code.stored_in(kind))
                .collect();
            if !values.is_empty() {
                let column = *column;
                found.push(Table {
                    only: vec![Filter {
                        column,
                        values,
                        not: false,
                    }],
                    ..legacy.clone()
                });
            }
        }
    }
    found
}

/// Codes that came, went, or mean something else.
fn changed(old: &[(Cell, Cell)], new: &[(Cell, Cell)]) -> Vec<Cell> {
    let before: HashMap<&Cell, &Cell> = old.iter().map(|(code, value)| (code, value)).collect();
    let after: HashMap<&Cell, &Cell> = new.iter().map(|(code, value)| (code, value)).collect();
    let gone = old.iter().filter(|(code, _)| !after.contains_key(code));
    let other = new
        .iter()
        .filter(|(code, value)| before.get(code) != Some(&value));
    gone.chain(other).map(|(code, _)| code.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_came_went_or_changed() {
        let pairs = |list: &[(i64, &str)]| {
            let pair = |(code, value): &(i64, &str)| (Cell::Int(*code), Cell::from(*value));
            list.iter().map(pair).collect::<Vec<_>>()
        };
        let old = pairs(&[(1, "a"), (2, "b"), (3, "c")]);
        let new = pairs(&[(1, "a"), (2, "c"), (4, "b")]);
        let codes = [Cell::Int(3), Cell::Int(2), Cell::Int(4)];
        assert_eq!(changed(&old, &new), codes);
        assert!(changed(&old, &old).is_empty());
    }

    #[test]
    fn kept_codes_keep_their_words() {
        let lookup = |list: &[(i64, &str)]| Lookup {
            table: Table {
                name: "codes".to_owned(),
                columns: Vec::new(),
                key: Vec::new(),
                forms: Vec::new(),
                loose: false,
                others: Vec::new(),
                other_unique: Vec::new(),
                autoincrement: false,
                written_by_others: false,
                only: Vec::new(),
            },
            pairs: list
                .iter()
                .map(|(code, word)| ((*code).into(), (*word).into()))
                .collect(),
        };
        let kept = lookup(&[(1, "a"), (2, "b")]);
        let now = lookup(&[(1, "x"), (3, "b"), (4, "d")]);
        let both = lookup(&[(1, "a"), (2, "b"), (4, "d")]);
        assert_eq!(now.clone().keeping(Some(&kept)), both);
        assert_eq!(both.clone().keeping(Some(&both)), both);
        assert_eq!(now.clone().keeping(None), now);
    }
}
