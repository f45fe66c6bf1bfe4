//! Foreign keys that a transaction has not had checked: asked by hand, of the rows that it wrote,
//! before it commits.

use super::tx::Fetched;
use super::{Arg, Database, Dialect, References, Tx, quote, rows};
use crate::apply::of_table;
use crate::batch::Work;
use crate::error::{Error, OnSide};
use crate::plan::{Plan, Table};
use crate::value::Key;

/// A foreign key. Tables are SQL text, columns are names.
#[derive(Debug, PartialEq)]
struct Reference {
    child: String,
    parent: String,
    /// Of the child, and what each refers to.
    columns: Vec<(String, String)>,
    /// What becomes of children when their parent goes is done by the database.
    acts: bool,
    /// Whether we may read both tables.
    seen: bool,
}

/// A foreign key with respect to one table.
#[derive(Debug)]
struct Told {
    reference: Reference,
    /// The table is its child, its parent.
    from: bool,
    to: bool,
}

impl Database {
    /// Refuses what these rows, written while nobody checked references, would leave behind: rows
    /// that refer to nothing.
    pub(crate) async fn check_references(
        &self,
        tx: &mut Tx,
        plan: &Plan,
        work: &[Work],
    ) -> Result<(), Error> {
        for &(group, at) in plan.order(self.side) {
            let table = &plan.groups[group].tables(self.side)[at];
            let touched = touched(work, group, at);
            if touched.is_empty() {
                continue;
            }
            let (gone, _) = of_table(work, group, at, false);
            for told in self.references(tx, table).await? {
                let broken = told.broken(tx, table, &touched, &gone).await;
                if broken.on(self.side)? {
                    return Err(Error::Orphans {
                        side: self.side,
                        child: told.reference.child,
                        parent: told.reference.parent,
                    });
                }
            }
        }
        Ok(())
    }

    /// Refuses to take rows out for a moment where the database would change others for it, which
    /// refer to them.
    pub(crate) async fn check_actions(
        &self,
        tx: &mut Tx,
        table: &Table,
        keys: &[&Key],
    ) -> Result<(), Error> {
        let all = self.references(tx, table).await?;
        for told in all.iter().filter(|told| told.to && told.reference.acts) {
            if told.referred_to(tx, table, keys).await.on(self.side)? {
                return Err(Error::Orphans {
                    side: self.side,
                    child: told.reference.child.clone(),
                    parent: told.reference.parent.clone(),
                });
            }
        }
        Ok(())
    }

    /// Whether foreign keys act in this transaction though it was begun without them.
    pub(crate) async fn still_acts(&self, tx: &mut Tx) -> Result<bool, Error> {
        if self.dialect() != Dialect::Postgres {
            return Ok(false);
        }
        let text = "SELECT count(*) WHERE current_setting('session_replication_role') <> 'replica'";
        let found = tx.number(text, &[]).await.on(self.side)?;
        Ok(found.unwrap_or(0) > 0)
    }

    /// Foreign keys that act on rows beside those that the link writes, as it may not turn them
    /// off: (what, the way out).
    pub(super) async fn action_advice(&self, plan: &Plan) -> Result<Vec<(String, String)>, Error> {
        let mut tx = self.write_rows(References::Unchecked).await?;
        let mut advice = Vec::new();
        if self.still_acts(&mut tx).await? {
            let user = tx
                .fetch("SELECT current_user::text", &[])
                .await
                .on(self.side)?;
            let user = user.first().and_then(|row| row.maybe_text(0));
            let user = user.unwrap_or_default();
            for table in plan.tables(self.side) {
                let all = self.references(&mut tx, table).await?;
                let acting = all.iter().filter(|told| told.to && told.reference.acts);
                advice.extend(acting.map(|told| {
                    let Reference { child, parent, .. } = &told.reference;
                    let what = format!(
                        "deletes in {parent} act on {child}, and user `{user}` may not turn that off: \
                         rows of {parent} that swap a unique value at once, and are referred to, are parked"
                    );
                    let fix = format!(
                        "GRANT SET ON PARAMETER session_replication_role TO {} (from PostgreSQL 15 on)",
                        quote(&user)
                    );
                    (what, fix)
                }));
            }
        }
        tx.rollback().await.on(self.side)?;
        Ok(advice)
    }

    async fn references(&self, tx: &mut Tx, table: &Table) -> Result<Vec<Told>, Error> {
        let found = match self.dialect() {
            Dialect::Sqlite => of_sqlite(tx, &table.name).await,
            Dialect::Postgres => of_postgres(tx, &table.name).await,
            Dialect::Mysql => of_mysql(tx, &table.name).await,
        };
        found.on(self.side)
    }
}

/// Keys of a table that a batch has to do with.
fn touched(work: &[Work], group: usize, table: usize) -> Vec<&Key> {
    let of = |w: &&Work| {
        let image = w.target.as_ref().ok();
        w.group == group && image.is_some_and(|image| image.get(table).is_some())
    };
    work.iter().filter(of).map(|w| &w.key).collect()
}

impl Told {
    /// Whether some row refers to nothing that the batch has to do with.
    async fn broken(
        &self,
        tx: &mut Tx,
        table: &Table,
        touched: &[&Key],
        gone: &[&Key],
    ) -> Result<bool, sqlx::Error> {
        if !self.reference.seen {
            return Ok(true);
        }
        let alone = self.reference.alone();
        if self.from && rows::any(tx, table, &self.reference.child, touched, &alone).await? {
            return Ok(true);
        }
        if !self.to {
            return Ok(false);
        }
        match self.by_key(table) {
            // What is there still has its key.
            Some(child) => rows::any(tx, &child, &self.reference.child, gone, &alone).await,
            None => {
                let text = format!(
                    "SELECT 1 FROM {} WHERE {alone} LIMIT 1",
                    self.reference.child
                );
                Ok(!tx.fetch(&text, &[]).await?.is_empty())
            }
        }
    }

    /// Whether anything refers to these rows.
    async fn referred_to(
        &self,
        tx: &mut Tx,
        table: &Table,
        keys: &[&Key],
    ) -> Result<bool, sqlx::Error> {
        if !self.reference.seen {
            return Ok(true);
        }
        let own = &self.reference.child;
        match self.by_key(table) {
            Some(child) => rows::any(tx, &child, own, keys, "1 = 1").await,
            None => {
                let there = format!(
                    "EXISTS (SELECT 1 FROM {own} AS \"_outgrow_child\" WHERE {})",
                    {
                        let same = self.reference.columns.iter().map(|(from, to)| {
                            format!(
                                "\"_outgrow_child\".{} = {}.{}",
                                quote(from),
                                self.reference.parent,
                                quote(to)
                            )
                        });
                        same.collect::<Vec<_>>().join(" AND ")
                    }
                );
                rows::any(tx, table, &self.reference.parent, keys, &there).await
            }
        }
    }

    /// The child as a table that has the parent's key in its own columns; `None` where it refers
    /// to something else.
    fn by_key(&self, parent: &Table) -> Option<Table> {
        let columns = &self.reference.columns;
        if columns.len() != parent.key.len() {
            return None;
        }
        let mut child = parent.clone();
        for &at in &parent.key {
            let name = &parent.columns[at].name;
            let (from, _) = columns
                .iter()
                .find(|(_, to)| to.eq_ignore_ascii_case(name))?;
            child.columns[at].name.clone_from(from);
        }
        Some(child)
    }
}

impl Reference {
    /// True of a row of the child that refers to nothing.
    fn alone(&self) -> String {
        let own = |from: &str| format!("{}.{}", self.child, quote(from));
        let said = self
            .columns
            .iter()
            .map(|(from, _)| format!("{} IS NOT NULL", own(from)));
        let same = self
            .columns
            .iter()
            .map(|(from, to)| format!("\"_outgrow_parent\".{} = {}", quote(to), own(from)));
        format!(
            "{} AND NOT EXISTS (SELECT 1 FROM {} AS \"_outgrow_parent\" WHERE {})",
            said.collect::<Vec<_>>().join(" AND "),
            self.parent,
            same.collect::<Vec<_>>().join(" AND ")
        )
    }
}

/// Puts rows of one column each together: by what tells foreign keys apart, in order.
fn gathered(found: impl Iterator<Item = (String, Told)>) -> Vec<Told> {
    let mut all: Vec<(String, Told)> = Vec::new();
    for (id, told) in found {
        match all.last_mut() {
            Some((last, known)) if *last == id => {
                known.reference.columns.extend(told.reference.columns);
            }
            _ => all.push((id, told)),
        }
    }
    all.into_iter().map(|(_, told)| told).collect()
}

async fn of_postgres(tx: &mut Tx, table: &str) -> Result<Vec<Told>, sqlx::Error> {
    let text = "SELECT f.oid::text, f.conrelid::regclass::text, f.confrelid::regclass::text, \
                c.attname::text, p.attname::text, (f.confdeltype IN ('c', 'n', 'd'))::int4, \
                (has_table_privilege(f.conrelid, 'SELECT') AND has_table_privilege(f.confrelid, 'SELECT'))::int4, \
                (f.conrelid = t.oid)::int4, (f.confrelid = t.oid)::int4 \
                FROM (SELECT to_regclass(?) AS oid) AS t \
                JOIN pg_constraint f ON f.contype = 'f' AND t.oid IN (f.conrelid, f.confrelid) \
                CROSS JOIN LATERAL unnest(f.conkey, f.confkey) WITH ORDINALITY AS k (c, p, place) \
                JOIN pg_attribute c ON c.attrelid = f.conrelid AND c.attnum = k.c \
                JOIN pg_attribute p ON p.attrelid = f.confrelid AND p.attnum = k.p \
                ORDER BY f.oid, k.place";
    let name = Dialect::Postgres.table(table);
    let rows = tx.fetch(text, &[Arg::from(&name)]).await?;
    let all = rows.iter().map(|row| read(row, |name| name));
    Ok(gathered(all.collect::<Result<Vec<_>, _>>()?.into_iter()))
}

async fn of_mysql(tx: &mut Tx, table: &str) -> Result<Vec<Told>, sqlx::Error> {
    let own = "table_schema = DATABASE() AND table_name = ?";
    let to = "referenced_table_schema = DATABASE() AND referenced_table_name = ?";
    let text = format!(
        "SELECT CAST(CONCAT_WS('.', table_schema, table_name, constraint_name) AS CHAR), \
         CAST(CONCAT_WS('.', table_schema, table_name) AS CHAR), \
         CAST(CONCAT_WS('.', referenced_table_schema, referenced_table_name) AS CHAR), \
         CAST(column_name AS CHAR), CAST(referenced_column_name AS CHAR), 0, 1, {own}, {to} \
         FROM information_schema.key_column_usage WHERE referenced_table_name IS NOT NULL \
         AND ({own} OR {to}) \
         ORDER BY table_schema, table_name, constraint_name, ordinal_position"
    );
    let rows = tx.fetch(&text, &vec![Arg::from(table); 4]).await?;
    let all = rows.iter().map(|row| {
        read(row, |name| match name.split_once('.') {
            Some((schema, table)) => format!("{}.{}", quote(schema), quote(table)),
            None => quote(&name),
        })
    });
    Ok(gathered(all.collect::<Result<Vec<_>, _>>()?.into_iter()))
}

async fn of_sqlite(tx: &mut Tx, table: &str) -> Result<Vec<Told>, sqlx::Error> {
    let text = "SELECT m.name || ' ' || f.id, m.name, f.\"table\", f.\"from\", coalesce(f.\"to\", \
                (SELECT name FROM pragma_table_info(f.\"table\") WHERE pk = f.seq + 1)), 0, 1, \
                m.name = ? COLLATE NOCASE, f.\"table\" = ? COLLATE NOCASE \
                FROM sqlite_master AS m JOIN pragma_foreign_key_list(m.name) AS f \
                WHERE m.type = 'table' AND (m.name = ? COLLATE NOCASE OR f.\"table\" = ? COLLATE NOCASE) \
                ORDER BY m.name, f.id, f.seq";
    let rows = tx.fetch(text, &vec![Arg::from(table); 4]).await?;
    let all = rows.iter().map(|row| read(row, |name| quote(&name)));
    Ok(gathered(all.collect::<Result<Vec<_>, _>>()?.into_iter()))
}

/// One column of one foreign key, and what tells that apart.
fn read(row: &Fetched, named: impl Fn(String) -> String) -> Result<(String, Told), sqlx::Error> {
    let reference = Reference {
        child: named(row.text(1)?),
        parent: named(row.text(2)?),
        columns: vec![(row.text(3)?, row.text(4)?)],
        acts: row.int(5)? != 0,
        seen: row.int(6)? != 0,
    };
    let (from, to) = (row.int(7)? != 0, row.int(8)? != 0);
    Ok((
        row.text(0)?,
        Told {
            reference,
            from,
            to,
        },
    ))
}
