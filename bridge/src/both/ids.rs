//! Ids that both sides generate must not meet.

use outgrow_rollout::Side;

use super::policy::{Policy, place};
use crate::db::{Database, Dialect, Tx, mysql, postgres};
use crate::engine::Engine;
use crate::error::{Error, OnSide};
use crate::plan::{Plan, Table};
use crate::preflight::Problem;
use crate::shared::Shared;
use crate::spec::Capture;
use crate::turn::old_sequences;

/// By how much a side's ids of a table grow, and a number that it has given out or would.
type Step = Option<(i64, i64)>;

/// Whether two sides that count so never give out the same id.
fn apart(legacy: Step, extracted: Step) -> bool {
    match (legacy, extracted) {
        (Some((a, at)), Some((b, there))) => {
            a == b && a >= 2 && at.rem_euclid(a) != there.rem_euclid(b)
        }
        _ => false,
    }
}

fn generated(table: &Table) -> bool {
    table.autoincrement && table.key.len() == 1
}

async fn step(database: &Database, tx: &mut Tx, table: &str) -> Result<Step, Error> {
    match database.dialect() {
        Dialect::Sqlite => Ok(None),
        Dialect::Postgres => postgres::id_step(tx, table).await,
        Dialect::Mysql => mysql::id_step(tx).await,
    }
    .on(database.side)
}

/// How to make a side count apart.
fn remedy(dialect: Dialect, table: &str, side: Side) -> String {
    let which = match side {
        Side::Legacy => "odd",
        Side::Extracted => "even",
    };
    match dialect {
        Dialect::Sqlite => {
            format!("give the ids of `{table}` from the application: SQLite has no steps")
        }
        Dialect::Postgres => {
            format!("ALTER SEQUENCE of `{table}` INCREMENT BY 2 RESTART WITH an {which} number")
        }
        Dialect::Mysql => format!(
            "auto_increment_increment = 2, auto_increment_offset = {} for `{table}`",
            if side == Side::Legacy { 1 } else { 2 }
        ),
    }
}

impl Shared {
    /// What does not go together with writes on both sides.
    pub(crate) fn cannot_both(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.spec.writes.both().is_none() {
            return problems;
        }
        let mut add = |table: String, what: &str, fix: &str| {
            problems.push(Problem {
                table,
                column: None,
                what: what.to_owned(),
                fix: fix.to_owned(),
            });
        };
        for database in [&self.legacy, &self.extracted] {
            let logged = database.capture() == Capture::Replication;
            if logged && database.dialect() == Dialect::Mysql {
                let table = format!("{} database", database.side);
                let what = "its log has no keys of a truncated table, which both sides need";
                add(
                    table,
                    what,
                    "write capture = \"triggers\", or writes = \"one\"",
                );
            }
        }
        if self.events.is_some() {
            let what = "change events tell of one side's writes";
            add(
                "(events)".to_owned(),
                what,
                "remove `events`, or write writes = \"one\"",
            );
        }
        problems
    }

    /// What writes on both sides ask of the tables.
    pub(crate) async fn check_both(&self, plan: &Plan) -> Result<Vec<Problem>, Error> {
        let Some(both) = self.spec.writes.both() else {
            return Ok(Vec::new());
        };
        let mut problems = self.cannot_both();
        problems.extend(newest(plan, &both.policy));
        if matches!(both.policy, Policy::Newest(_)) {
            problems.extend(self.check_clocks().await?);
        }
        if both.ids_apart {
            return Ok(problems);
        }
        let mut here = self.legacy.read().await?;
        let mut there = self.extracted.read().await?;
        for group in &plan.groups {
            let legacy = group.tables(Side::Legacy).iter().find(|t| generated(t));
            let extracted = group.tables(Side::Extracted).iter().find(|t| generated(t));
            let (Some(legacy), Some(extracted)) = (legacy, extracted) else {
                continue;
            };
            let a = step(&self.legacy, &mut here, &legacy.name).await?;
            let b = step(&self.extracted, &mut there, &extracted.name).await?;
            if apart(a, b) {
                continue;
            }
            problems.push(Problem {
                table: format!("{} -> {}", legacy.name, extracted.name),
                column: None,
                what: "both sides take writes and generate its ids, which would meet".to_owned(),
                fix: format!(
                    "legacy: {}; extracted: {}; or, once they cannot meet, ids = \"apart\" in the slice's [sync]",
                    remedy(self.legacy.dialect(), &legacy.name, Side::Legacy),
                    remedy(self.extracted.dialect(), &extracted.name, Side::Extracted),
                ),
            });
        }
        Ok(problems)
    }
}

/// A column that says which row is newer must be there in every row.
fn newest(plan: &Plan, policy: &Policy) -> Vec<Problem> {
    let Policy::Newest(column) = policy else {
        return Vec::new();
    };
    let problem = |table: &str, what: &str, fix: &str| Problem {
        table: table.to_owned(),
        column: Some(column.clone()),
        what: what.to_owned(),
        fix: fix.to_owned(),
    };
    let one = |group: &crate::plan::Group| {
        let Some((part, at)) = place(group, column) else {
            return Some(problem(
                group.name(),
                "the newest version is told by it, and none of its extracted tables maps it",
                "map it, or choose another policy for conflicts",
            ));
        };
        let table = &group.tables(Side::Extracted)[part];
        (!table.columns[at].required).then(|| {
            problem(
                &table.name,
                "the newest version is told by it, and it may be null",
                "make it NOT NULL, or choose another policy for conflicts",
            )
        })
    };
    plan.groups.iter().filter_map(one).collect()
}

impl Engine {
    /// Lets the passive side's ids begin after those that the source has given out, in the steps
    /// of its own. Engines other than PostgreSQL do that by themselves.
    pub(super) async fn keep_ids_apart(&self) -> Result<(), Error> {
        let both = self.shared.spec.writes.both();
        let passive = self.target();
        if both.is_none_or(|both| both.ids_apart) || passive.dialect() != Dialect::Postgres {
            return Ok(());
        }
        let source = self.source();
        let mut here = source.read().await?;
        let last = old_sequences(source, &mut here, passive, &self.plan).await?;
        drop(here);
        let mut there = passive.write().await?;
        for (table, value) in last {
            postgres::raise_by_steps(&mut there, &table, value)
                .await
                .on(passive.side)?;
        }
        there.commit().await.on(passive.side)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_apart_by_equal_steps_from_different_places() {
        assert!(apart(Some((2, 101)), Some((2, 2))));
        assert!(!apart(Some((2, 101)), Some((2, 7))));
        assert!(!apart(Some((2, 1)), Some((3, 2))));
        assert!(!apart(Some((1, 5)), Some((1, 900))));
        assert!(!apart(None, Some((2, 2))));
    }
}
