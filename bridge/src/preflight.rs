//! What stands in the way of a copy, all of it at once, each with the way out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use outgrow_rollout::Side;
use serde::Serialize;

use crate::batch::images;
use crate::db::{now_ms, rows};
use crate::error::{Error, OnSide};
use crate::plan::{Group, Image, Plan, Table, Way};
use crate::portion;
use crate::shared::Shared;
use crate::spec::DatabaseUrl;
use crate::tls::way_out;
use crate::transform::Transform;
use crate::value::{Key, key_text};

/// One thing that must be mended before the link can run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `products -> product`, or the name of one table, or the database.
    pub table: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    pub what: String,
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.table)?;
        if let Some(column) = &self.column {
            write!(f, " column `{column}`")?;
        }
        write!(f, ": {} ({})", self.what, self.fix)
    }
}

/// What the preflight found. Nothing in either database was changed for it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Preflight {
    pub problems: Vec<Problem>,
    /// What may be left as it is, and would better not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advice: Vec<Problem>,
    /// Real rows that went through the mapping and back.
    pub sampled: u64,
    /// Rows per table, as `legacy.products` and `extracted.product`; of a legacy table those that
    /// any extracted table takes. Of a large PostgreSQL table about, as its server knows them.
    pub rows: BTreeMap<String, u64>,
}

impl Preflight {
    pub fn ok(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Examples given of values that do not come back, per table: enough to see the pattern.
const EXAMPLES: usize = 5;

impl Shared {
    /// Looks at both databases and sends real rows through the mapping and back.
    pub(crate) async fn preflight(&self) -> Preflight {
        let mut found = Preflight::default();
        for side in [Side::Legacy, Side::Extracted] {
            found.problems.extend(self.reachable(side).await);
        }
        if !found.ok() {
            return found;
        }
        match self.examine(None).await {
            Ok((plan, problems)) => {
                found.problems.extend(problems);
                if let Some(plan) = plan
                    && let Err(e) = self.rights_and_sample(&plan, &mut found).await
                {
                    found.problems.push(broken(&e));
                }
            }
            Err(e) => found.problems.push(broken(&e)),
        }
        found
    }

    async fn reachable(&self, side: Side) -> Option<Problem> {
        let url = self.url(side);
        let problem = |what: String, fix: &str| {
            Some(Problem {
                table: format!("{side} database"),
                column: None,
                what,
                fix: fix.to_owned(),
            })
        };
        if let DatabaseUrl::Sqlite(path) = url {
            match std::fs::metadata(path) {
                Err(e) => {
                    let what = format!("{}: {e}", path.display());
                    return problem(what, "check the path, and start the service that makes it");
                }
                Ok(meta) if meta.permissions().readonly() => {
                    let what = format!("{} is read-only", path.display());
                    return problem(what, "let the bridge's user write it");
                }
                Ok(_) => {}
            }
        }
        if let Err(what) = url.check_files() {
            return problem(what, "mend the file, or the path in the URL");
        }
        // Taking the write lock and giving it back tells of a lock or a missing right.
        match self.on(side).write().await {
            Ok(tx) => match tx.rollback().await {
                Ok(()) => None,
                Err(e) => problem(e.to_string(), "check the database"),
            },
            Err(e) => problem(
                format!("{url}: {e}"),
                way_out(&e).unwrap_or(
                    "check that it runs, its name and the rights; end long transactions",
                ),
            ),
        }
    }

    async fn rights_and_sample(&self, plan: &Plan, found: &mut Preflight) -> Result<(), Error> {
        for side in [Side::Legacy, Side::Extracted] {
            let missing = self.on(side).missing_rights(plan).await?;
            found
                .problems
                .extend(missing.into_iter().map(|(table, what, fix)| Problem {
                    table,
                    column: None,
                    what,
                    fix,
                }));
        }
        for side in [Side::Legacy, Side::Extracted] {
            let advice = self.on(side).advice(plan, self.limits()).await?.into_iter();
            found.advice.extend(advice.map(|(what, fix)| Problem {
                table: format!("{side} database"),
                column: None,
                what,
                fix,
            }));
        }
        found.problems.extend(self.load_unseen().await?);
        found.advice.extend(plan.groups.iter().flat_map(clocks));
        found.advice.extend(plan.groups.iter().flat_map(loose_keys));
        found.advice.extend(self.lost_fractions(plan).await?);
        found.problems.extend(self.check_both(plan).await?);
        self.sample(plan, found).await
    }

    async fn sample(&self, plan: &Plan, found: &mut Preflight) -> Result<(), Error> {
        for side in [Side::Legacy, Side::Extracted] {
            let mut tx = self.on(side).read().await?;
            for table in plan.tables(side) {
                let rows = rows::about(&mut tx, table).await.on(side)?;
                found.rows.insert(format!("{side}.{}", table.name), rows);
            }
        }
        let mut tx = self.legacy.read().await?;
        let half = (self.limits().sample_rows / 2).max(1);
        for (at, group) in plan.groups.iter().enumerate() {
            let mut seen = HashSet::new();
            let mut keys = Vec::new();
            for table in group.tables(Side::Legacy) {
                let first = rows::keys_after(&mut tx, table, None, half);
                let mut found = first.await.on(Side::Legacy)?;
                let last = rows::last_keys(&mut tx, table, half);
                found.extend(last.await.on(Side::Legacy)?);
                keys.extend(found.into_iter().filter(|key| seen.insert(key.clone())));
            }
            let all = HashMap::from([(at, keys)]);
            let bytes = self.limits().chunk_bytes;
            let parts = portion::parts(plan, &self.legacy, &mut tx, &all, bytes).await?;
            let mut examples = Vec::new();
            for keys in parts.into_iter().flat_map(HashMap::into_values) {
                let mut sampled = images(group, &self.legacy, &mut tx, &keys).await?;
                for key in keys {
                    // A row of a table beside the first may be of a row that is not mapped.
                    let mapped = |image: &Image| image[0].as_ref().is_none_or(|r| group.belongs(r));
                    if let Some(image) = sampled.remove(&key).filter(mapped) {
                        found.sampled += 1;
                        examples.extend(round_trip(group, &key, &image));
                    }
                }
                examples.truncate(EXAMPLES);
            }
            found.problems.extend(examples);
        }
        Ok(())
    }
}

/// Columns whose clock shows times that are no instant.
fn clocks(group: &Group) -> impl Iterator<Item = Problem> {
    let parts = group.tables(Side::Extracted).iter().enumerate();
    parts.flat_map(move |(part, table)| {
        let ways = group.ways(part).iter().zip(&table.columns);
        ways.filter_map(move |(way, column)| {
            let Way::By {
                by: Transform::ZonedTime(wall),
                ..
            } = way
            else {
                return None;
            };
            let (what, fix) = wall.advice(now_ms())?;
            Some(Problem {
                table: format!("{} -> {}", group.name(), table.name),
                column: Some(column.name.clone()),
                what,
                fix,
            })
        })
    })
}

/// Keys that one side tells apart and the other does not: it has room for one of the rows.
fn loose_keys(group: &Group) -> impl Iterator<Item = Problem> {
    let legacy = &group.tables(Side::Legacy)[0];
    let differ = |table: &&Table| table.loose != legacy.loose;
    let parts = group.tables(Side::Extracted).iter().filter(differ);
    parts.map(move |table| {
        let side = match table.loose {
            true => Side::Extracted,
            false => Side::Legacy,
        };
        let (holder, writes) = (side.as_str(), side.other().as_str());
        Problem {
            table: format!("{} -> {}", group.name(), table.name),
            column: None,
            what: format!(
                "the {holder} side calls some keys equal that the {writes} side tells apart, such as `a` and \
                 `A`, or `a` with a space behind it: of two such rows that the {writes} side writes, the \
                 second is parked"
            ),
            fix: "give both key columns one collation, unless no two such keys are ever written"
                .to_owned(),
        }
    })
}

fn broken(e: &Error) -> Problem {
    Problem {
        table: "database".to_owned(),
        column: None,
        what: e.to_string(),
        fix: "see the message".to_owned(),
    }
}

/// What is wrong with one real row.
fn round_trip(group: &Group, key: &Key, image: &Image) -> Vec<Problem> {
    let problem = |column, what| Problem {
        table: group.name().to_owned(),
        column,
        what: format!("the row with key {}: {what}", key_text(key)),
        fix: "mend the value, or the mapping".to_owned(),
    };
    let changed = match group.round_trip(image) {
        Ok(changed) => changed,
        Err(e) => return vec![problem(None, e.to_string())],
    };
    let mut problems: Vec<Problem> = changed
        .into_iter()
        .map(|(column, a, b)| problem(Some(column), format!("{a} comes back as {b}")))
        .collect();
    // The mapping was seen to work, so this cannot fail.
    let there = group.map(Side::Legacy, image).unwrap_or_default();
    for (table, cells) in group.tables(Side::Extracted).iter().zip(there) {
        let columns = table.columns.iter().zip(cells.into_iter().flatten());
        for (column, _) in columns.filter(|(c, cell)| c.required && cell.is_null()) {
            let name = format!("{}.{}", table.name, column.name);
            problems.push(problem(None, format!("`{name}` must not be null")));
        }
    }
    problems
}
