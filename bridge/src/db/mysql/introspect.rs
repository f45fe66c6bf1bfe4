//! Reads what a database declares. Changes nothing.

use super::grants::{self, Grant};
use crate::db::tx::Fetched;
use crate::db::{Arg, Database, Feed, Tx};
use crate::plan::{ColumnSchema, Plan, TableSchema, Unfit, UniqueIndex};
use crate::typed::Typed;
use crate::value::Kind;

/// What the bridge does in its database, on tables of ours, which are not there yet.
const RIGHTS: [&str; 6] = ["CREATE", "DROP", "SELECT", "INSERT", "UPDATE", "DELETE"];

/// Changes with every change of any table's columns or unique keys.
pub(crate) const VERSION: &str = "\
    SELECT CAST(COALESCE(SUM(CRC32(part)), 0) AS SIGNED) FROM (\
    SELECT CONCAT_WS('.', table_name, column_name, ordinal_position, column_type, is_nullable, extra) AS part \
    FROM information_schema.columns \
    WHERE table_schema = DATABASE() AND table_name NOT LIKE '|_outgrow|_%' ESCAPE '|' \
    UNION ALL SELECT CONCAT_WS('.', table_name, index_name, seq_in_index, column_name, sub_part) \
    FROM information_schema.statistics WHERE non_unique = 0 \
    AND table_schema = DATABASE() AND table_name NOT LIKE '|_outgrow|_%' ESCAPE '|') AS parts";

/// One table's shape; `None` when it does not exist.
pub(crate) async fn table(tx: &mut Tx, name: &str) -> Result<Option<TableSchema>, sqlx::Error> {
    let text = "SELECT count(*) FROM information_schema.tables WHERE table_schema = DATABASE() \
                AND table_name = ? AND table_type = 'BASE TABLE'";
    if tx.number(text, &[Arg::from(name)]).await?.unwrap_or(0) == 0 {
        return Ok(None);
    }
    let (columns, autoincrement) = columns(tx, name).await?;
    let text = "SELECT CAST(referenced_table_name AS CHAR) FROM information_schema.key_column_usage \
                WHERE table_schema = DATABASE() AND table_name = ? \
                AND referenced_table_name IS NOT NULL";
    let parents = tx.fetch(text, &[Arg::from(name)]).await?;
    let unique = uniques(tx, name).await?;
    let schema = TableSchema {
        columns,
        parents: parents
            .iter()
            .map(|row| row.text(0))
            .collect::<Result<_, _>>()?,
        autoincrement,
        ..TableSchema::default()
    };
    Ok(Some(schema.with_unique(unique)))
}

async fn columns(tx: &mut Tx, name: &str) -> Result<(Vec<ColumnSchema>, bool), sqlx::Error> {
    let text = "SELECT CAST(column_name AS CHAR), CAST(data_type AS CHAR), CAST(column_type AS CHAR), \
                is_nullable = 'NO', column_default IS NOT NULL OR extra LIKE '%auto_increment%', \
                COALESCE(generation_expression, '') <> '', numeric_scale, \
                extra LIKE '%auto_increment%' \
                FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = ? \
                ORDER BY ordinal_position";
    let mut columns = Vec::new();
    let mut autoincrement = false;
    for row in tx.fetch(text, &[Arg::from(name)]).await? {
        let scale = row.maybe(6).and_then(|scale| u32::try_from(scale).ok());
        autoincrement |= row.int(7)? != 0;
        columns.push(ColumnSchema {
            name: row.text(0)?,
            kind: Kind::Mysql(Typed::mysql(&row.text(1)?, &row.text(2)?, scale)),
            required: row.int(3)? != 0,
            has_default: row.int(4)? != 0,
            generated: row.int(5)? != 0,
        });
    }
    Ok((columns, autoincrement))
}

/// Every unique index without an expression.
async fn uniques(tx: &mut Tx, name: &str) -> Result<Vec<UniqueIndex>, sqlx::Error> {
    // Most collations with an exact order, too, take no notice of spaces at the end.
    let text = "SELECT CAST(s.index_name AS CHAR), CAST(s.column_name AS CHAR), s.sub_part IS NULL, \
                s.nullable = 'YES', COALESCE(c.data_type NOT IN ('enum', 'set') \
                AND c.collation_name NOT LIKE '%|_nopad|_bin' ESCAPE '|' \
                AND c.collation_name NOT LIKE '%|_0900|_bin' ESCAPE '|', 0) \
                FROM information_schema.statistics s LEFT JOIN information_schema.columns c \
                ON c.table_schema = DATABASE() AND c.table_name = ? AND c.column_name = s.column_name \
                WHERE s.table_schema = DATABASE() AND s.table_name = ? AND s.non_unique = 0 \
                ORDER BY s.index_name, s.seq_in_index";
    let mut found: Vec<(String, Option<UniqueIndex>)> = Vec::new();
    for row in tx.fetch(text, &[Arg::from(name), Arg::from(name)]).await? {
        let number = row.text(0)?;
        let loose = row.int(4)? != 0;
        let unfit = match (row.int(2)? != 0, row.int(3)? != 0) {
            (false, _) => Some(Unfit::Prefix),
            (true, nullable) => nullable.then_some(Unfit::Nullable),
        };
        if found.last().is_none_or(|(last, _)| *last != number) {
            let columns = Vec::new();
            found.push((
                number,
                Some(UniqueIndex {
                    columns,
                    unfit: None,
                    loose: false,
                }),
            ));
        }
        let Some((_, index)) = found.last_mut() else {
            continue;
        };
        // An expression has no column.
        match (row.maybe_text(1), index.as_mut()) {
            (Some(column), Some(index)) => {
                index.columns.push(column);
                index.loose |= loose;
                // A part of a value says more than that there may be none.
                index.unfit = match index.unfit {
                    Some(Unfit::Prefix) => index.unfit,
                    known => unfit.or(known),
                };
            }
            _ => *index = None,
        }
    }
    Ok(found.into_iter().filter_map(|(_, index)| index).collect())
}

/// What the roles in force give. MariaDB has one at a time, with those that it has itself; MySQL some,
/// which are to be named.
async fn by_roles(tx: &mut Tx, roles: &str) -> Result<Vec<Grant>, sqlx::Error> {
    let version = tx.fetch("SELECT CAST(VERSION() AS CHAR)", &[]).await?;
    let version = version.first().and_then(|row| row.maybe_text(0));
    let text = match version.is_some_and(|version| version.contains("MariaDB")) {
        true => "SHOW GRANTS FOR CURRENT_ROLE".to_owned(),
        false => format!("SHOW GRANTS FOR CURRENT_USER() USING {roles}"),
    };
    let lines = tx.fetch(&text, &[]).await?;
    let lines = lines.iter().filter_map(|row| row.maybe_text(0));
    Ok(lines.filter_map(|line| Grant::read(&line)).collect())
}

/// Whether the server lets only those with `SUPER` make triggers.
async fn distrusts(tx: &mut Tx) -> Result<bool, sqlx::Error> {
    let text = "SELECT @@global.log_bin = 1 AND @@global.log_bin_trust_function_creators = 0";
    Ok(tx.number(text, &[]).await? == Some(1))
}

impl Database {
    /// What InnoDB does behind everybody's back, what engines cannot do, and what reading the
    /// log needs.
    pub(in crate::db) async fn missing_rights_mysql(
        &self,
        plan: &Plan,
    ) -> Result<Vec<(String, String, String)>, sqlx::Error> {
        let Ok(mut tx) = self.read().await else {
            return Err(sqlx::Error::PoolTimedOut);
        };
        let mut missing = self.missing_grants(&mut tx, plan).await?;
        if let Some(Feed::Mysql(feed)) = &self.feed {
            missing.extend(self.missing_for_binlog(feed, &mut tx, plan).await?);
        }
        let engine = "SELECT CAST(engine AS CHAR) FROM information_schema.tables \
                      WHERE table_schema = DATABASE() AND table_name = ?";
        let cascades = "SELECT count(*) FROM information_schema.referential_constraints \
                        WHERE constraint_schema = DATABASE() AND table_name = ? \
                        AND (delete_rule NOT IN ('RESTRICT', 'NO ACTION') \
                        OR update_rule NOT IN ('RESTRICT', 'NO ACTION'))";
        for table in plan.tables(self.side) {
            let name = [Arg::from(&table.name)];
            let found = tx.fetch(engine, &name).await?;
            let engine = found.first().and_then(|row| row.maybe_text(0));
            if engine.as_deref() != Some("InnoDB") {
                missing.push((
                    table.name.clone(),
                    "its engine knows no transactions".to_owned(),
                    format!("ALTER TABLE {} ENGINE = InnoDB", table.name),
                ));
            }
            if tx.number(cascades, &name).await?.unwrap_or(0) > 0 {
                missing.push((
                    table.name.clone(),
                    "a foreign key of it cascades, and cascades fire no triggers and are not in the \
                     binary log"
                        .to_owned(),
                    "let the foreign key RESTRICT, and delete children in the application"
                        .to_owned(),
                ));
            }
        }
        Ok(missing)
    }

    /// Rights to make tables and triggers of ours and to write rows, the user's own and those of the
    /// roles that are in force when it connects.
    async fn missing_grants(
        &self,
        tx: &mut Tx,
        plan: &Plan,
    ) -> Result<Vec<(String, String, String)>, sqlx::Error> {
        let who = "SELECT CAST(CURRENT_USER() AS CHAR), CAST(DATABASE() AS CHAR), \
                   CAST(COALESCE(CURRENT_ROLE(), 'NONE') AS CHAR)";
        let rows = tx.fetch(who, &[]).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let (user, schema) = (row.text(0)?, row.text(1)?);
        let by_roles = match row.text(2)?.as_str() {
            "NONE" => Vec::new(),
            roles => grants::in_force(by_roles(tx, roles).await?, &schema),
        };
        let (name, host) = user.rsplit_once('@').unwrap_or((&user, "%"));
        let grantee = format!("'{name}'@'{host}'");
        let text = "SELECT CAST(privilege_type AS CHAR) FROM information_schema.user_privileges \
                    WHERE grantee = ? UNION SELECT CAST(privilege_type AS CHAR) \
                    FROM information_schema.schema_privileges \
                    WHERE grantee = ? AND DATABASE() LIKE table_schema ESCAPE '\\'";
        let args = [Arg::from(&grantee), Arg::from(&grantee)];
        let found = tx.fetch(text, &args).await?;
        let has = |right: &str| {
            found
                .iter()
                .any(|row| row.maybe_text(0).as_deref() == Some(right))
                || by_roles.iter().any(|grant| grant.gives(right, &schema))
        };
        let mut lacks: Vec<&str> = RIGHTS.into_iter().filter(|right| !has(right)).collect();
        let own = (grantee.as_str(), schema.as_str());
        if !has("TRIGGER") && !self.triggers_of_each(tx, plan, own, &by_roles).await? {
            lacks.push("TRIGGER");
        }
        let mut missing = Vec::new();
        let database = format!("{} database", self.side);
        if !lacks.is_empty() {
            let lacks = lacks.join(", ");
            missing.push((
                database.clone(),
                format!("user `{user}` lacks rights in database `{schema}`: {lacks}"),
                format!("GRANT {lacks} ON `{schema}`.* TO {grantee}"),
            ));
        }
        let own = |row: &Fetched| row.maybe_text(0).as_deref() == Some("SUPER");
        let by_role = |grant: &Grant| grant.gives_everywhere("SUPER");
        let is_super = found.iter().any(own) || by_roles.iter().any(by_role);
        if !is_super && distrusts(tx).await? && !self.all_captured(tx, plan).await? {
            missing.push((
                database,
                format!(
                    "user `{user}` may make no triggers while the binary log is on, as it is by itself in \
                     MySQL 8"
                ),
                format!(
                    "SET GLOBAL log_bin_trust_function_creators = 1 and write it into the server's \
                     file, or GRANT SUPER ON *.* TO {grantee}"
                ),
            ));
        }
        Ok(missing)
    }

    /// Whether the triggers are there already, so that none are to be made.
    async fn all_captured(&self, tx: &mut Tx, plan: &Plan) -> Result<bool, sqlx::Error> {
        for table in plan.tables(self.side) {
            if !self.captured_mysql(tx, table).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether triggers may be made on each of the tables, if not on all that there are.
    async fn triggers_of_each(
        &self,
        tx: &mut Tx,
        plan: &Plan,
        (grantee, schema): (&str, &str),
        by_roles: &[Grant],
    ) -> Result<bool, sqlx::Error> {
        let text = "SELECT count(*) FROM information_schema.table_privileges WHERE grantee = ? \
                    AND table_schema = DATABASE() AND table_name = ? AND privilege_type = 'TRIGGER'";
        for table in plan.tables(self.side) {
            let role = |grant: &Grant| grant.gives_on("TRIGGER", schema, &table.name);
            if by_roles.iter().any(role) {
                continue;
            }
            let args = [Arg::from(grantee), Arg::from(&table.name)];
            if tx.number(text, &args).await?.unwrap_or(0) == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
