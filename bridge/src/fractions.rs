//! Fractions of a second that the column on the other side has no room for: they are lost without a
//! word of any database, so they are told before a copy begins.

use std::collections::HashMap;

use outgrow_rollout::Side;

use crate::db::{Arg, Database, Dialect, Tx};
use crate::error::{Error, OnSide};
use crate::plan::{Column, Group, Plan, Way};
use crate::preflight::Problem;
use crate::shared::Shared;
use crate::transform::Transform;

/// Digits behind the second, by table and column.
type Digits = HashMap<(String, String), u32>;

impl Shared {
    /// Columns that lose a part of a second, on their way to the extracted side or back.
    pub(crate) async fn lost_fractions(&self, plan: &Plan) -> Result<Vec<Problem>, Error> {
        let legacy = self.legacy.digits(plan).await?;
        let extracted = self.extracted.digits(plan).await?;
        let found = |group| {
            let pairs = timed(group).into_iter();
            pairs.filter_map(|pair| pair.told(group, (&legacy, &extracted)))
        };
        Ok(plan.groups.iter().flat_map(found).collect())
    }
}

impl Database {
    async fn digits(&self, plan: &Plan) -> Result<Digits, Error> {
        let mut digits = Digits::new();
        let text = match self.dialect() {
            // Its times are texts, with as many digits as they have.
            Dialect::Sqlite => return Ok(digits),
            Dialect::Postgres => {
                "SELECT attname::text, \
                 (CASE WHEN atttypmod < 0 THEN 6 ELSE atttypmod END)::int8 \
                 FROM pg_attribute WHERE attrelid = to_regclass(?) AND attnum > 0 \
                 AND atttypid IN ('timestamp'::regtype, 'timestamptz'::regtype, \
                 'time'::regtype, 'timetz'::regtype)"
            }
            Dialect::Mysql => {
                "SELECT CAST(column_name AS CHAR), CAST(datetime_precision AS SIGNED) \
                 FROM information_schema.columns WHERE table_schema = DATABASE() \
                 AND table_name = ? AND data_type IN ('datetime', 'timestamp', 'time')"
            }
        };
        let mut tx = self.read().await?;
        for table in plan.tables(self.side) {
            for (column, places) in of_table(&mut tx, text, &table.name).await.on(self.side)? {
                digits.insert((table.name.clone(), column), places);
            }
        }
        Ok(digits)
    }
}

async fn of_table(tx: &mut Tx, text: &str, table: &str) -> Result<Vec<(String, u32)>, sqlx::Error> {
    let name = match tx.dialect() {
        Dialect::Postgres => Dialect::Postgres.table(table),
        _ => table.to_owned(),
    };
    let mut found = Vec::new();
    for row in tx.fetch(text, &[Arg::from(&name)]).await? {
        let places = row.maybe(1).and_then(|places| u32::try_from(places).ok());
        found.push((row.text(0)?, places.unwrap_or(0)));
    }
    Ok(found)
}

/// A column of each side, of which the one is made of the other by taking its time.
struct Timed<'p> {
    legacy: (&'p str, &'p Column),
    extracted: (&'p str, &'p Column),
}

fn timed(group: &Group) -> Vec<Timed<'_>> {
    let mut found = Vec::new();
    for (part, table) in group.tables(Side::Extracted).iter().enumerate() {
        for (way, column) in group.ways(part).iter().zip(&table.columns) {
            let Way::By { from, by } = way else { continue };
            if matches!(
                by,
                Transform::Same | Transform::LocalTime(_) | Transform::ZonedTime(_)
            ) {
                found.push(Timed {
                    legacy: group.legacy_column(*from),
                    extracted: (&table.name, column),
                });
            }
        }
    }
    found
}

impl Timed<'_> {
    fn told(&self, group: &Group, (legacy, extracted): (&Digits, &Digits)) -> Option<Problem> {
        let digits = |all: &Digits, (table, column): (&str, &Column)| {
            all.get(&(table.to_owned(), column.name.clone())).copied()
        };
        let here = digits(legacy, self.legacy)?;
        let there = digits(extracted, self.extracted)?;
        let (from, into, when) = match here.cmp(&there) {
            std::cmp::Ordering::Equal => return None,
            std::cmp::Ordering::Greater => (self.legacy, self.extracted, "is lost"),
            std::cmp::Ordering::Less => (self.extracted, self.legacy, "is lost on its way back"),
        };
        let (most, least) = (here.max(there), here.min(there));
        let kept = match least {
            0 => "no part of one".to_owned(),
            1 => "one digit".to_owned(),
            many => format!("{many} digits"),
        };
        let name = |(table, column): (&str, &Column)| format!("`{table}.{}`", column.name);
        let what = format!(
            "{} has {most} digits behind the second, and {} keeps {kept}: what is beyond {when}",
            name(from),
            name(into)
        );
        let fix = format!(
            "give {} {most} digits (`datetime({most})`, `timestamp({most})`), or leave it so if no time has more",
            name(into)
        );
        Some(Problem {
            table: format!("{} -> {}", group.name(), self.extracted.0),
            column: Some(self.extracted.1.name.clone()),
            what,
            fix,
        })
    }
}
