//! The comparison of two SQLite tables by a join over both files: a condition that is true of a pair
//! of rows only where the legacy one is the extracted one through the mapping. Pure.
//!
//! As with sums, it may only ever save work: what is not surely what [`crate::transform`] makes of a
//! value is not true here, and then the rows are read. A value has a type of its own in SQLite,
//! whatever its column's, so types are compared, too; text is compared byte for byte.

use std::collections::HashMap;

use outgrow_rollout::Side;

use crate::db::{literal, quote};
use crate::plan::{Column, Group, Way};
use crate::transform::Transform;
use crate::value::{Affinity, Cell, Kind};

/// Codes that are told apart by one `CASE`.
const CODES: usize = 200;
/// Whole numbers of so many digits come exactly out of a float.
const EXACT: i64 = 999_999_999_999_999;
/// Whole numbers that every float has.
const WHOLE: i64 = 9_007_199_254_740_992;

/// Per extracted table of a group: the condition, over the rows `l` and `e`.
pub(crate) fn conditions(group: &Group, source: Side) -> Result<Vec<String>, String> {
    let [legacy] = group.tables(Side::Legacy) else {
        return Err("several legacy tables make its rows".to_owned());
    };
    let mut found = Vec::new();
    for (part, table) in group.tables(Side::Extracted).iter().enumerate() {
        let mut all = Vec::new();
        for (at, (way, column)) in group.ways(part).iter().zip(&table.columns).enumerate() {
            // What the service makes of a constant has no place on the legacy side.
            if source == Side::Extracted && group.is_constant(part, at) {
                continue;
            }
            let one = condition(&legacy.columns, way, column);
            let one = one.map_err(|why| format!("{}.{}: {why}", table.name, column.name))?;
            all.push(format!("({one})"));
        }
        found.push(all.join(" AND "));
    }
    Ok(found)
}

fn affinity(column: &Column) -> Result<Affinity, String> {
    match &column.kind {
        Kind::Sqlite(affinity) => Ok(*affinity),
        Kind::Postgres(_) | Kind::Mysql(_) => Err("it is not of SQLite".to_owned()),
    }
}

fn condition(legacy: &[Column], way: &Way, column: &Column) -> Result<String, String> {
    let there = format!("e.{}", quote(&column.name));
    let (from, by) = match way {
        Way::Const(value) => return is(&there, &value.clone().stored_in(&column.kind)),
        Way::By { from, by } => (&legacy[*from], by),
        Way::Joined { .. } => return Err("several columns are joined in it".to_owned()),
        Way::Piece { .. } => return Err("it is a piece of a text".to_owned()),
    };
    let here = format!("l.{}", quote(&from.name));
    let made = match by {
        Transform::Same => same((&here, affinity(from)?), (&there, affinity(column)?))?,
        Transform::Cents(scale) => cents(&here, *scale, &there),
        Transform::Map { forward, .. } => codes(&here, forward, &there, column)?,
        Transform::LocalTime(offset) => to_utc(&here, *offset, &there),
        Transform::ZonedTime(_) => return Err("times of a named zone make it".to_owned()),
        Transform::Bits { .. } => return Err("a bit field makes it".to_owned()),
        Transform::Expr(_) => return Err("an expression makes it".to_owned()),
    };
    Ok(format!(
        "CASE WHEN {here} IS NULL THEN {there} IS NULL ELSE {made} END"
    ))
}

/// That a value is this one.
fn is(value: &str, wanted: &Cell) -> Result<String, String> {
    match wanted {
        Cell::Null => Ok(format!("{value} IS NULL")),
        Cell::Int(i) => Ok(format!("typeof({value}) = 'integer' AND {value} = {i}")),
        Cell::Text(text) if !text.contains('\0') => Ok(format!(
            "typeof({value}) = 'text' AND {value} COLLATE BINARY = {}",
            literal(text)
        )),
        other => Err(format!("the mapping gives it {other}")),
    }
}

/// A value that is carried over as it is, in a column that may keep it otherwise.
fn same((here, from): (&str, Affinity), (there, into): (&str, Affinity)) -> Result<String, String> {
    use Affinity::{Blob, Integer, Numeric, Real, Text};
    let alike = format!("typeof({here}) = typeof({there}) AND {here} COLLATE BINARY IS {there}");
    match (from, into) {
        (Text, Text) | (Integer | Numeric, Integer | Numeric) => Ok(alike),
        // A zero below zero is another one.
        (Real, Real) | (Blob, Blob) => Ok(format!(
            "{alike} AND ({here} IS NOT 0.0 OR quote({here}) = quote({there}))"
        )),
        (Integer | Numeric, Text) => Ok(format!(
            "typeof({here}) IN ('integer', 'text') AND typeof({there}) = 'text' \
             AND {there} COLLATE BINARY = CAST({here} AS TEXT)"
        )),
        (Text, Integer | Numeric) => Ok(format!(
            "typeof({here}) = 'text' AND typeof({there}) = 'integer' \
             AND {here} COLLATE BINARY = CAST({there} AS TEXT)"
        )),
        (Integer, Real) => Ok(format!(
            "typeof({here}) = 'integer' AND typeof({there}) = 'real' \
             AND {here} BETWEEN -{WHOLE} AND {WHOLE} AND {there} = {here}"
        )),
        _ => Err(format!("{from:?} becomes {into:?}")),
    }
}

/// An amount in hundredths or the like, of text with just so many digits after its point, or of a
/// number.
fn cents(here: &str, scale: u32, there: &str) -> String {
    let factor = 10_i64.pow(scale);
    let text = match scale {
        0 => format!("printf('%d', {there})"),
        _ => format!(
            "printf('%s%d.%0{scale}d', CASE WHEN {there} < 0 THEN '-' ELSE '' END, \
             abs({there}) / {factor}, abs({there}) % {factor})"
        ),
    };
    let most = EXACT / factor;
    format!(
        "typeof({there}) = 'integer' AND {there} BETWEEN -{EXACT} AND {EXACT} AND \
         CASE typeof({here}) WHEN 'text' THEN {here} COLLATE BINARY = {text} \
         WHEN 'integer' THEN {here} BETWEEN -{most} AND {most} AND {here} * {factor} = {there} \
         WHEN 'real' THEN {here} = {there} / {factor}.0 END"
    )
}

/// What codes mean.
fn codes(
    here: &str,
    pairs: &HashMap<Cell, Cell>,
    there: &str,
    column: &Column,
) -> Result<String, String> {
    if pairs.len() > CODES {
        return Err(format!("over {CODES} codes make it"));
    }
    let mut arms = Vec::with_capacity(pairs.len());
    for (code, meaning) in pairs {
        let meaning = is(there, &meaning.clone().stored_in(&column.kind))?;
        arms.push(format!("WHEN {} THEN {meaning}", is(here, code)?));
    }
    // The same text every time, or each would be prepared anew.
    arms.sort_unstable();
    Ok(format!("CASE {} END", arms.join(" ")))
}

/// A clock time of whole seconds as an instant; both ways, so that neither is of another shape.
fn to_utc(here: &str, offset: i64, there: &str) -> String {
    format!(
        "typeof({here}) = 'text' AND typeof({there}) = 'text' AND length({here}) = 19 AND length({there}) = 20 \
         AND {there} COLLATE BINARY = strftime('%Y-%m-%dT%H:%M:%SZ', {here}, '{} seconds') \
         AND {here} COLLATE BINARY = strftime('%Y-%m-%d %H:%M:%S', {there}, '{offset} seconds')",
        -offset
    )
}
