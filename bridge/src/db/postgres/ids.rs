//! Numbers that sequences give out: those that a table owns, by `serial` or as an identity, and those
//! that the default of a column only names.

use crate::db::{Arg, Database, Dialect, Tx, quote};
use crate::plan::{Plan, Table};
use crate::value::Kind;

/// A sequence that gives a column its values. Its name is SQL text.
#[derive(Debug)]
struct Given {
    column: String,
    sequence: String,
    /// The first column of the primary key.
    key: bool,
    /// Two rows may not have one value.
    unique: bool,
    /// Whether we may read and set it.
    ours: bool,
}

/// The sequences of a table's columns that grow.
async fn given(tx: &mut Tx, table: &str) -> Result<Vec<Given>, sqlx::Error> {
    let text = "SELECT a.attname::text, s.oid::regclass::text, \
        EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary \
        AND i.indkey[0] = a.attnum)::int4, \
        EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisunique \
        AND a.attnum = ANY (i.indkey::int2[]))::int4, \
        (has_sequence_privilege(s.oid, 'SELECT') AND has_sequence_privilege(s.oid, 'UPDATE'))::int4 \
        FROM pg_attribute a CROSS JOIN LATERAL (\
        SELECT 1 AS far, d.objid AS oid FROM pg_depend d WHERE d.classid = 'pg_class'::regclass \
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid \
        AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i') \
        UNION ALL SELECT 0, d.refobjid FROM pg_attrdef f JOIN pg_depend d ON d.objid = f.oid \
        AND d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass \
        WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum) AS s \
        JOIN pg_sequence q ON q.seqrelid = s.oid AND q.seqincrement > 0 \
        WHERE a.attrelid = to_regclass(?) AND a.attnum > 0 AND NOT a.attisdropped \
        ORDER BY a.attnum, s.far, s.oid";
    let name = Dialect::Postgres.table(table);
    let mut found: Vec<Given> = Vec::new();
    for row in tx.fetch(text, &[Arg::from(&name)]).await? {
        let one = Given {
            column: row.text(0)?,
            sequence: row.text(1)?,
            key: row.int(2)? != 0,
            unique: row.int(3)? != 0,
            ours: row.int(4)? != 0,
        };
        let known =
            |known: &Given| (&known.column, &known.sequence) == (&one.column, &one.sequence);
        if !found.iter().any(known) {
            found.push(one);
        }
    }
    Ok(found)
}

/// The sequences that we may use of the first column of a table's primary key.
async fn of_key(tx: &mut Tx, table: &str) -> Result<Vec<Given>, sqlx::Error> {
    let mut all = given(tx, table).await?;
    all.retain(|given| given.key && given.ours);
    Ok(all)
}

/// Whether a table's key is given out by a sequence.
pub(super) async fn generates(tx: &mut Tx, table: &str) -> Result<bool, sqlx::Error> {
    Ok(given(tx, table).await?.iter().any(|given| given.key))
}

/// The last value that a table's generated key has given out.
pub(in crate::db) async fn sequence(tx: &mut Tx, table: &str) -> Result<Option<i64>, sqlx::Error> {
    let mut last = None;
    for given in of_key(tx, table).await? {
        let text = format!(
            "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {}",
            given.sequence
        );
        last = last.max(tx.number(&text, &[]).await?);
    }
    Ok(last)
}

/// Advances the next value of a generated key past this one.
pub(in crate::db) async fn raise_sequence(
    tx: &mut Tx,
    table: &str,
    value: i64,
) -> Result<(), sqlx::Error> {
    for given in of_key(tx, table).await? {
        raise(tx, &given.sequence, value).await?;
    }
    Ok(())
}

/// Advances sequences beyond all that the mapped columns have which they give values to, and which
/// no two rows may share.
pub(in crate::db) async fn raise_columns(tx: &mut Tx, table: &Table) -> Result<(), sqlx::Error> {
    for given in given(tx, &table.name).await? {
        let mapped = table.columns.iter().find(|c| c.name == given.column);
        let numbered = mapped
            .is_some_and(|c| matches!(&c.kind, Kind::Postgres(kind) if kind.class.is_numbered()));
        if !(numbered && given.unique) {
            continue;
        }
        if !given.ours {
            tracing::warn!(table = %table.name, column = %given.column, sequence = %given.sequence,
                "the sequence may not be set, and may give out values that rows have");
            continue;
        }
        let text = format!(
            "SELECT least(max({}), 9223372036854775807)::int8 FROM {}",
            quote(&given.column),
            Dialect::Postgres.table(&table.name)
        );
        let most = tx.number(&text, &[]).await?.unwrap_or(0);
        raise(tx, &given.sequence, most).await?;
    }
    Ok(())
}

async fn raise(tx: &mut Tx, sequence: &str, value: i64) -> Result<(), sqlx::Error> {
    if value < 1 {
        return Ok(());
    }
    let text = format!(
        "SELECT setval(q.seqrelid::regclass, least(greatest(CAST(? AS bigint), s.last_value), q.seqmax)) \
         FROM {sequence} AS s, pg_sequence AS q WHERE q.seqrelid = CAST(? AS text)::regclass \
         AND (s.last_value < CAST(? AS bigint) OR NOT s.is_called)"
    );
    let args = [Arg::from(value), Arg::from(sequence), Arg::from(value)];
    tx.number(&text, &args).await.map(drop)
}

/// By how much a table's generated key grows, and where it stands.
pub(crate) async fn id_step(tx: &mut Tx, table: &str) -> Result<Option<(i64, i64)>, sqlx::Error> {
    let all = of_key(tx, table).await?;
    let Some(given) = all.first() else {
        return Ok(None);
    };
    let name = &given.sequence;
    let text = format!(
        "SELECT s.seqincrement, q.last_value FROM {name} AS q, pg_sequence AS s \
         WHERE s.seqrelid = CAST(? AS text)::regclass"
    );
    let rows = tx.fetch(&text, &[Arg::from(name)]).await?;
    rows.first()
        .map(|row| Ok((row.int(0)?, row.int(1)?)))
        .transpose()
}

/// As [`raise_sequence`], by whole steps of the sequence.
pub(crate) async fn raise_by_steps(
    tx: &mut Tx,
    table: &str,
    value: i64,
) -> Result<(), sqlx::Error> {
    let Some((step, last)) = id_step(tx, table).await? else {
        return Ok(());
    };
    if step < 1 || last >= value {
        return Ok(());
    }
    let steps = (value - last).saturating_add(step - 1) / step;
    raise_sequence(tx, table, last.saturating_add(steps.saturating_mul(step))).await
}

impl Database {
    /// Sequences of mapped columns that a cutover must set and may not: (table, what, the way out).
    pub(super) async fn missing_for_sequences(
        &self,
        tx: &mut Tx,
        plan: &Plan,
        user: &str,
    ) -> Result<Vec<(String, String, String)>, sqlx::Error> {
        let mut missing = Vec::new();
        for table in plan.tables(self.side) {
            for given in given(tx, &table.name).await? {
                let mapped = table.columns.iter().any(|c| c.name == given.column);
                if given.ours || !mapped {
                    continue;
                }
                let (column, sequence) = (&given.column, &given.sequence);
                missing.push((
                    table.name.clone(),
                    format!(
                        "sequence {sequence} gives its column `{column}` values, and user `{user}` may \
                         not set it, so values would be given out again after a cutover"
                    ),
                    format!("GRANT SELECT, UPDATE ON SEQUENCE {sequence} TO {}", quote(user)),
                ));
            }
        }
        Ok(missing)
    }
}
