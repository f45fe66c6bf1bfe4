//! What the mapping makes of a legacy column, as SQL. Whatever is not surely the same as
//! [`crate::transform`] makes of it has no text here.

use std::collections::HashMap;

use outgrow_rollout::Side;

use super::Both;
use super::column::{Text, Texts, literal, own, shown};
use crate::db::{mysql, postgres};
use crate::pieces::Pieces;
use crate::plan::{Column, Group, Way};
use crate::transform::Transform;
use crate::typed::Class;
use crate::value::Cell;

/// Codes that are told apart by one `CASE`.
const CODES: usize = 200;
/// Longer texts are no amounts of money.
const DIGITS: u32 = 30;

/// Both sides' texts of an extracted column. `record`, where both are read by PostgreSQL.
pub(super) fn texts(
    group: &Group,
    part: usize,
    way: &Way,
    column: &Column,
    record: bool,
) -> Result<Both, String> {
    let (mut made, mut there) = as_texts(group, part, way, column, record)?;
    if let Way::By {
        from,
        by: Transform::Same,
    } = way
        && record
    {
        let from = Texts::of(&group.tables(Side::Legacy)[0].columns[*from])?;
        (made.own, there.own) = own(&from, &Texts::of(column)?).unzip();
    }
    Ok((made, there))
}

fn as_texts(
    group: &Group,
    part: usize,
    way: &Way,
    column: &Column,
    record: bool,
) -> Result<Both, String> {
    let extracted = Texts::of(column)?;
    let legacy = |at: usize| Texts::legacy(group, at);
    let made = match way {
        Way::Const(value) => constant(value, column)?,
        Way::By { from, by } => {
            let from = legacy(*from)?;
            if let (Transform::Same, true) = (by, record)
                && from.class() == extracted.class()
                && (from.class() != Class::AsWritten || from.kind.base == extracted.kind.base)
                && let (Some(a), Some(b)) = (from.raw(), extracted.raw())
            {
                return Ok((a, b));
            }
            match by {
                Transform::Same => same(&from, &extracted, record)?,
                Transform::Cents(scale) => cents(&from, *scale, &extracted)?,
                Transform::Map { forward, .. } => codes(&from, forward, column)?,
                Transform::LocalTime(offset) => to_utc(&from, *offset, &extracted)?,
                Transform::Bits { width, legacy } => match legacy {
                    true => number(&from, *width, &extracted)?,
                    false => bit_field(&from, *width)?,
                },
                Transform::ZonedTime(_) => {
                    return Err("times of a named zone make it".to_owned());
                }
                Transform::Expr(_) => return Err("an expression makes it".to_owned()),
            }
        }
        Way::Joined { from, text } => {
            let from = from.iter().map(|at| legacy(*at));
            joined(&from.collect::<Result<Vec<_>, _>>()?, text, &extracted)?
        }
        Way::Piece {
            of,
            at,
            text,
            columns,
        } => {
            let table = &group.tables(Side::Extracted)[part];
            let others = columns.iter().map(|&at| Texts::of(&table.columns[at]));
            let others = others.collect::<Result<Vec<_>, _>>()?;
            piece(&legacy(*of)?, *at, text, &others)?
        }
    };
    Ok((made, extracted.text()))
}

fn constant(value: &Cell, column: &Column) -> Result<Text, String> {
    let (null, sql) = if value.is_null() {
        ("TRUE", "''".to_owned())
    } else {
        ("FALSE", literal(&shown(value, column)?)?)
    };
    Ok(Text {
        null: null.to_owned(),
        sql: if value.is_null() {
            "NULL".to_owned()
        } else {
            sql
        },
        plain: false,
        fallible: false,
        own: None,
    })
}

/// A value that keeps its meaning, in the form of another class.
fn same(from: &Texts<'_>, into: &Texts<'_>, record: bool) -> Result<Text, String> {
    use Class::{AsWritten, Bits, Bool, Bytes, Decimal, Instant, Int, Real, Real4, Text as Chars};
    use Class::{Timestamp, Uuid};
    let text = from.text();
    let one = |sql: String| {
        Ok(Text {
            sql,
            ..text.clone()
        })
    };
    match (from.class(), into.class()) {
        (Int | Bool, Decimal(Some(scale))) => one(zeros(from, &text.sql, scale)),
        (Decimal(Some(has)), Decimal(Some(scale))) if has < scale => {
            let point = if has == 0 { scale } else { scale - has };
            let padded = match has {
                0 => zeros(from, &text.sql, point),
                _ => concat(
                    from,
                    &[&text.sql, &format!("'{}'", "0".repeat(point as usize))],
                ),
            };
            one(padded)
        }
        (Decimal(None), Decimal(Some(scale))) if from.postgres => {
            let name = &from.name;
            let sql = format!(
                "CASE WHEN {name} = round({name}, {scale}) THEN round({name}, {scale})::text END"
            );
            Ok(Text {
                sql,
                fallible: true,
                ..text
            })
        }
        (Decimal(a), Decimal(b)) if a == b || b.is_none() => Ok(text),
        (Chars, Uuid) => one(match from.postgres {
            true => format!("lower({} COLLATE \"C\")", text.sql),
            false => format!("LOWER({})", text.sql),
        }),
        (Real | Real4, Real) | (Real4, Real4) if record => Ok(text),
        (Int | Bool, Int | Bool | Decimal(None) | Chars | AsWritten)
        | (Decimal(Some(0)), Int)
        | (Decimal(_) | Chars | Uuid | Timestamp | Instant | AsWritten, Chars | AsWritten)
        | (Uuid, Uuid)
        | (Bits(_), Bits(_) | Chars | AsWritten)
        | (Chars | AsWritten, Bits(_))
        | (Bytes, Bytes)
        | (Timestamp, Timestamp)
        | (Instant, Instant) => Ok(text),
        _ => Err(format!(
            "`{}` has no text in SQL that is the same as {} `{}`",
            from.kind.base,
            if from.postgres == into.postgres {
                "that of"
            } else {
                "another engine's"
            },
            into.kind.base
        )),
    }
}

/// Texts behind one another.
fn concat(of: &Texts<'_>, parts: &[&str]) -> String {
    if of.postgres {
        parts.join(" || ")
    } else {
        format!("CONCAT({})", parts.join(", "))
    }
}

/// A whole number with zeros after a point.
fn zeros(of: &Texts<'_>, digits: &str, scale: u32) -> String {
    if scale == 0 {
        return digits.to_owned();
    }
    let zeros = format!("'.{}'", "0".repeat(scale as usize));
    concat(of, &[digits, &zeros])
}

/// A bit field as a number.
fn number(from: &Texts<'_>, width: u32, into: &Texts<'_>) -> Result<Text, String> {
    let name = &from.name;
    let digits = match (from.postgres, width) {
        (false, _) => format!("CAST(CAST({name} AS UNSIGNED) AS CHAR)"),
        (true, ..64) => format!("{name}::int8::text"),
        // Its first place is a sign to the cast.
        (true, _) => {
            format!("({name}::int8::numeric + get_bit({name}, 0) * 18446744073709551616)::text")
        }
    };
    let sql = match into.class() {
        Class::Int | Class::Bool | Class::Decimal(None) => digits,
        Class::Decimal(Some(scale)) => zeros(from, &digits, scale),
        _ => return Err(format!("a number becomes `{}`", into.kind.base)),
    };
    Ok(Text { sql, ..from.text() })
}

/// A number as a bit field; NULL where it is none of so many bits.
fn bit_field(from: &Texts<'_>, width: u32) -> Result<Text, String> {
    let text = from.text();
    let whole = matches!(
        from.class(),
        Class::Int | Class::Bool | Class::Decimal(Some(0))
    );
    if !whole || width >= 64 {
        return Err(format!("`{}` becomes a bit field", from.kind.base));
    }
    let (digits, most) = (&text.sql, (1_u64 << width) - 1);
    let sql = if from.postgres {
        let made = format!("right(({digits})::int8::bit(64)::text, {width})");
        format!("CASE WHEN ({digits})::numeric BETWEEN 0 AND {most} THEN {made} END")
    } else {
        let made = format!("LPAD(CONV({digits}, 10, 2), {width}, '0')");
        format!(
            "CASE WHEN {} BETWEEN 0 AND {most} THEN {made} END",
            from.name
        )
    };
    Ok(Text {
        sql,
        plain: true,
        fallible: true,
        ..text
    })
}

/// An amount in hundredths or the like; NULL where it is none, or none of 64 bits.
fn cents(from: &Texts<'_>, scale: u32, into: &Texts<'_>) -> Result<Text, String> {
    let text = from.text();
    let (name, factor) = (&from.name, 10u64.pow(scale));
    let number = match (from.class(), from.postgres) {
        (Class::Int | Class::Bool, true) => format!("{}::numeric", text.sql),
        (Class::Decimal(_), true) => name.clone(),
        (Class::Text, true) => format!("({})::numeric", text.sql),
        (Class::Int | Class::Bool, false) => format!("CAST({name} AS DECIMAL(65, 0))"),
        (Class::Decimal(_), false) => name.clone(),
        (Class::Text, false) => format!("CAST({} AS DECIMAL(65, {DIGITS}))", text.sql),
        _ => return Err(format!("`{}` is read as money", from.kind.base)),
    };
    let amount = format!("({number} * {factor})");
    let whole = match from.postgres {
        true => format!("trunc({amount})"),
        false => format!("TRUNCATE({amount}, 0)"),
    };
    let digits = match from.postgres {
        true => format!("{whole}::text"),
        false => format!("CAST({whole} AS CHAR)"),
    };
    let digits = match into.class() {
        Class::Int | Class::Bool | Class::Decimal(None) | Class::Text | Class::AsWritten => digits,
        Class::Decimal(Some(scale)) => zeros(from, &digits, scale),
        _ => return Err(format!("money becomes `{}`", into.kind.base)),
    };
    let mut sql = format!(
        "CASE WHEN {amount} = {whole} AND {whole} BETWEEN {} AND {} THEN {digits} END",
        i64::MIN,
        i64::MAX
    );
    if from.class() == Class::Text {
        let shape = match from.postgres {
            true => format!("({}) ~ '^-?[0-9]+([.][0-9]+)?$'", text.sql),
            // Its `$` would let a line feed pass.
            false => format!("({}) REGEXP '^-?[0-9]+([.][0-9]+)?\\z'", text.sql),
        };
        sql = format!(
            "CASE WHEN length({}) <= {DIGITS} AND {shape} THEN {sql} END",
            text.sql
        );
    }
    Ok(Text {
        sql,
        plain: true,
        fallible: true,
        ..text
    })
}

/// What codes mean; NULL for a code that means nothing.
fn codes(from: &Texts<'_>, pairs: &HashMap<Cell, Cell>, column: &Column) -> Result<Text, String> {
    if pairs.len() > CODES {
        return Err(format!("over {CODES} codes make it"));
    }
    let text = from.text();
    let number = match from.class() {
        Class::Int | Class::Bool => true,
        Class::Text | Class::Uuid | Class::AsWritten | Class::Decimal(_) | Class::Bits(_) => false,
        _ => return Err(format!("`{}` is read as a code", from.kind.base)),
    };
    let exact = |sql: &str| match from.postgres {
        true => format!("({sql}) COLLATE \"C\""),
        false => format!("CAST({sql} AS BINARY)"),
    };
    let mut arms = Vec::with_capacity(pairs.len());
    for (code, meaning) in pairs {
        let code = match (code, number) {
            (Cell::Int(code), true) => code.to_string(),
            (Cell::Text(code), false) => code.clone(),
            // No value of the column is this one.
            _ => continue,
        };
        let meaning = literal(&shown(meaning, column)?)?;
        arms.push(format!("WHEN {} THEN {meaning}", exact(&literal(&code)?)));
    }
    // The same text every time, or each would be prepared anew.
    arms.sort_unstable();
    if arms.is_empty() {
        return Err("none of its codes can be in the column".to_owned());
    }
    Ok(Text {
        sql: format!("CASE {} {} END", exact(&text.sql), arms.join(" ")),
        plain: false,
        fallible: true,
        ..text
    })
}

/// A clock time of no zone as an instant; NULL at the ends of the calendar.
fn to_utc(from: &Texts<'_>, offset: i64, into: &Texts<'_>) -> Result<Text, String> {
    let fits = matches!(
        into.class(),
        Class::Instant | Class::Text | Class::AsWritten
    );
    if from.class() != Class::Timestamp || !fits {
        return Err(format!(
            "a time in `{}` becomes `{}`",
            from.kind.base, into.kind.base
        ));
    }
    let name = &from.name;
    let moved = if from.postgres {
        let there = format!("({name} - interval '{offset} seconds') AT TIME ZONE 'UTC'");
        postgres::canonical(Class::Instant, &format!("({there})"))
    } else {
        let there = format!("DATE_SUB({name}, INTERVAL {offset} SECOND)");
        mysql::canonical(Class::Instant, &there)
    };
    let calendar = format!("{name} BETWEEN '0001-01-03' AND '9999-12-29'");
    Ok(Text {
        sql: format!("CASE WHEN {calendar} THEN {moved} END"),
        fallible: true,
        ..from.text()
    })
}

/// Whether a piece has none of the separators in it.
fn has_none(of: &Texts<'_>, sql: &str, separator: &str) -> Result<String, String> {
    let separator = literal(separator)?;
    Ok(match of.postgres {
        true => format!("strpos(({sql}) COLLATE \"C\", {separator}) = 0"),
        false => format!("INSTR(CAST({sql} AS BINARY), CAST({separator} AS BINARY)) = 0"),
    })
}

/// One text of several columns; NULL where it could not surely be taken apart again.
fn joined(from: &[Texts<'_>], text: &Pieces, into: &Texts<'_>) -> Result<Text, String> {
    let pieces = matches!(into.class(), Class::Text)
        && from
            .iter()
            .all(|f| matches!(f.class(), Class::Text | Class::Int));
    if !pieces {
        return Err("something else than texts and whole numbers is joined".to_owned());
    }
    let literals = text.literals();
    let inner = &literals[1..literals.len() - 1];
    if inner.iter().any(|literal| literal.chars().count() != 1) {
        return Err("more than a letter stands between what is joined".to_owned());
    }
    let (mut parts, mut safe, mut null) = (Vec::new(), Vec::new(), Vec::new());
    for (at, one) in from.iter().enumerate() {
        let Text {
            sql, null: none, ..
        } = one.text();
        for separator in inner {
            let lacks = has_none(one, &sql, separator)?;
            safe.push(format!("({none} OR {lacks})"));
        }
        safe.push(match text.empty_is_null() {
            true => format!("({none} OR length({sql}) > 0)"),
            false => format!("NOT ({none})"),
        });
        parts.push(literal(&literals[at])?);
        let sql = match one.postgres {
            true => sql,
            false => format!("CAST({sql} AS BINARY)"),
        };
        parts.push(format!("CASE WHEN {none} THEN '' ELSE {sql} END"));
        null.push(none);
    }
    parts.push(literal(&literals[from.len()])?);
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let whole = from
        .first()
        .map(|first| concat(first, &parts))
        .unwrap_or_default();
    Ok(Text {
        null: format!("({})", null.join(" AND ")),
        sql: format!("CASE WHEN {} THEN {whole} END", safe.join(" AND ")),
        plain: false,
        fallible: true,
        own: None,
    })
}

/// One piece of a text; NULL where the text has more pieces, or fewer.
fn piece(from: &Texts<'_>, at: usize, text: &Pieces, others: &[Texts<'_>]) -> Result<Text, String> {
    let chars = |texts: &Texts<'_>| texts.class() == Class::Text;
    if !chars(from) || !others.iter().all(chars) {
        return Err("a piece is something else than a text".to_owned());
    }
    let separator = match text.literals() {
        [_, one, ..] if one.chars().count() == 1 && others.len() > 1 => literal(one)?,
        _ => return Err("more than a letter stands between the pieces".to_owned()),
    };
    let Text { sql, null, .. } = from.text();
    let (count, number) = (others.len() - 1, at + 1);
    let (fits, piece, rest) = if from.postgres {
        let sql = format!("({sql}) COLLATE \"C\"");
        let rest = format!("replace({sql}, {separator}, '')");
        (
            format!("length({sql}) - length({rest}) = {count}"),
            format!("split_part({sql}, {separator}, {number})"),
            rest,
        )
    } else {
        let (sql, separator) = (
            format!("CAST({sql} AS BINARY)"),
            format!("CAST({separator} AS BINARY)"),
        );
        let rest = format!("REPLACE({sql}, {separator}, '')");
        (
            format!("LENGTH({sql}) - LENGTH({rest}) = {count} * LENGTH({separator})"),
            format!(
                "SUBSTRING_INDEX(SUBSTRING_INDEX({sql}, {separator}, {number}), {separator}, -1)"
            ),
            rest,
        )
    };
    let (fits, null) = match text.empty_is_null() {
        // Nothing but separators would come back as NULL.
        true => {
            let fits = format!("{fits} AND length({rest}) > 0");
            (
                fits.clone(),
                format!("({null} OR ({fits} AND length({piece}) = 0))"),
            )
        }
        false => (fits, null),
    };
    Ok(Text {
        null,
        sql: format!("CASE WHEN {fits} THEN {piece} END"),
        plain: false,
        fallible: true,
        own: None,
    })
}
