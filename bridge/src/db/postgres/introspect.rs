//! Reads what a database declares. Changes nothing.

use crate::db::{Arg, Database, Dialect, Tx, quote};
use crate::plan::{ColumnSchema, Plan, TableSchema, Unfit, UniqueIndex};
use crate::spec::Capture;
use crate::typed::Typed;
use crate::value::Kind;

/// Changes with every change of any table's name, columns or unique keys.
pub(crate) const VERSION: &str = "\
    WITH own AS (SELECT c.oid, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_%' \
    AND n.nspname NOT IN ('information_schema', '_outgrow')), \
    parts AS (SELECT concat_ws('.', o.oid, o.relname, a.attnum, a.attname, a.atttypid, a.atttypmod, \
    a.attnotnull, a.attgenerated) AS part FROM own o JOIN pg_attribute a ON a.attrelid = o.oid \
    WHERE a.attnum > 0 AND NOT a.attisdropped \
    UNION ALL SELECT concat_ws('.', i.indexrelid, i.indkey::text, i.indisvalid, i.indimmediate) \
    FROM own o JOIN pg_index i ON i.indrelid = o.oid WHERE i.indisunique) \
    SELECT (coalesce(sum(hashtextextended(part, 0)::numeric), 0) % 9223372036854775807)::bigint FROM parts";

/// One table's shape; `None` when it does not exist.
pub(crate) async fn table(tx: &mut Tx, name: &str) -> Result<Option<TableSchema>, sqlx::Error> {
    let found = Arg::from(&Dialect::Postgres.table(name));
    let text = "SELECT count(*) FROM pg_class WHERE oid = to_regclass(?) AND relkind IN ('r', 'p')";
    if tx
        .number(text, std::slice::from_ref(&found))
        .await?
        .unwrap_or(0)
        == 0
    {
        return Ok(None);
    }
    let parents = parents(tx, name, &found).await?;
    let unique = uniques(tx, &found).await?;
    let schema = TableSchema {
        columns: columns(tx, &found).await?,
        parents,
        // Rows that a foreign key's action or a trigger writes fire their own triggers here.
        written_by_others: false,
        autoincrement: super::ids::generates(tx, name).await?,
        ..TableSchema::default()
    };
    Ok(Some(schema.with_unique(unique)))
}

async fn columns(tx: &mut Tx, table: &Arg) -> Result<Vec<ColumnSchema>, sqlx::Error> {
    let text = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), \
                format_type(a.atttypid, NULL), a.attnotnull, \
                a.atthasdef OR a.attidentity <> '', a.attgenerated <> '' \
                FROM pg_attribute a WHERE a.attrelid = to_regclass(?) AND a.attnum > 0 \
                AND NOT a.attisdropped ORDER BY a.attnum";
    let mut columns = Vec::new();
    for row in tx.fetch(text, std::slice::from_ref(table)).await? {
        columns.push(ColumnSchema {
            name: row.text(0)?,
            kind: Kind::Postgres(Typed::postgres(&row.text(1)?, &row.text(2)?)),
            required: row.int(3)? != 0,
            has_default: row.int(4)? != 0,
            generated: row.int(5)? != 0,
        });
    }
    Ok(columns)
}

/// Every unique index without an expression that forbids what is equal, not what overlaps.
async fn uniques(tx: &mut Tx, table: &Arg) -> Result<Vec<UniqueIndex>, sqlx::Error> {
    let text = "SELECT i.indexrelid::int8, a.attname::text, i.indisvalid, i.indpred IS NOT NULL, \
                i.indimmediate, a.attnotnull, \
                t.typname = 'citext' OR coalesce(NOT c.collisdeterministic, false) FROM pg_index i \
                CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place) \
                JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
                JOIN pg_type t ON t.oid = a.atttypid \
                LEFT JOIN pg_collation c ON c.oid = a.attcollation \
                WHERE i.indrelid = to_regclass(?) AND i.indisunique AND NOT i.indisexclusion \
                AND i.indexprs IS NULL AND k.place <= i.indnkeyatts \
                ORDER BY i.indexrelid, k.place";
    let mut found: Vec<(i64, UniqueIndex)> = Vec::new();
    for row in tx.fetch(text, std::slice::from_ref(table)).await? {
        let (number, column) = (row.int(0)?, row.text(1)?);
        let (required, loose) = (row.int(5)? != 0, row.int(6)? != 0);
        let unfit = match (row.int(2)? != 0, row.int(3)? != 0, row.int(4)? != 0) {
            (false, _, _) => Some(Unfit::Invalid),
            (true, true, _) => Some(Unfit::Partial),
            (true, false, false) => Some(Unfit::Deferrable),
            (true, false, true) => (!required).then_some(Unfit::Nullable),
        };
        match found.last_mut() {
            Some((last, index)) if *last == number => {
                index.columns.push(column);
                index.unfit = index.unfit.or(unfit);
                index.loose |= loose;
            }
            _ => {
                let index = UniqueIndex {
                    columns: vec![column],
                    unfit,
                    loose,
                };
                found.push((number, index));
            }
        }
    }
    Ok(found.into_iter().map(|(_, index)| index).collect())
}

/// The tables that this one refers to, named as this one is: with their schema or without.
async fn parents(tx: &mut Tx, name: &str, table: &Arg) -> Result<Vec<String>, sqlx::Error> {
    let named = if name.contains('.') {
        "n.nspname || '.' || c.relname"
    } else {
        "c.relname::text"
    };
    let text = format!(
        "SELECT {named} FROM pg_constraint f JOIN pg_class c ON c.oid = f.confrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE f.conrelid = to_regclass(?) AND f.contype = 'f'"
    );
    let rows = tx.fetch(&text, std::slice::from_ref(table)).await?;
    rows.iter().map(|row| row.text(0)).collect()
}

impl Database {
    /// Triggers are made and fences switched by the owner of a table alone.
    pub(in crate::db) async fn missing_rights_postgres(
        &self,
        plan: &Plan,
    ) -> Result<Vec<(String, String, String)>, sqlx::Error> {
        let Ok(mut tx) = self.read().await else {
            return Err(sqlx::Error::PoolTimedOut);
        };
        let mut missing = Vec::new();
        let text = "SELECT current_user::text, current_database()::text, \
                    CASE WHEN to_regnamespace('_outgrow') IS NULL \
                    THEN has_database_privilege(current_database(), 'CREATE') \
                    ELSE has_schema_privilege('_outgrow', 'CREATE') END";
        let rows = tx.fetch(text, &[]).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let (user, database) = (row.text(0)?, row.text(1)?);
        if row.int(2)? == 0 {
            missing.push((
                format!("{} database", self.side),
                format!("user `{user}` may not make the schema `_outgrow`"),
                format!(
                    "GRANT CREATE ON DATABASE {} TO {}",
                    quote(&database),
                    quote(&user)
                ),
            ));
        }
        let owns = "SELECT pg_has_role(relowner, 'USAGE'), pg_get_userbyid(relowner)::text \
                    FROM pg_class WHERE oid = to_regclass(?)";
        for table in plan.tables(self.side) {
            let name = Dialect::Postgres.table(&table.name);
            let rows = tx.fetch(owns, &[Arg::from(&name)]).await?;
            if let Some(row) = rows.first()
                && row.int(0)? == 0
            {
                missing.push((
                    table.name.clone(),
                    format!("user `{user}` is no member of its owner, and so makes no triggers"),
                    format!("GRANT {} TO {}", quote(&row.text(1)?), quote(&user)),
                ));
            }
        }
        missing.extend(self.missing_for_sequences(&mut tx, plan, &user).await?);
        if self.capture() == Capture::Replication {
            missing.extend(self.missing_for_feed(&mut tx, plan).await?);
        }
        Ok(missing)
    }
}
