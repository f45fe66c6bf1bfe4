//! One column's values as text, in the form in which the comparison of rows reads them.

use outgrow_rollout::Side;

use super::record::Form;
use crate::db::{mysql, postgres, quote};
use crate::plan::{Column, Group};
use crate::typed::{Class, Typed};
use crate::value::{Cell, Kind};

/// SQL for a value's text.
#[derive(Debug, Clone)]
pub(super) struct Text {
    /// A condition that is true of NULL.
    pub(super) null: String,
    /// Of a value that is there. NULL where it cannot be mapped.
    pub(super) sql: String,
    /// Neither `|` nor `^` is ever in it.
    pub(super) plain: bool,
    /// Whether some values cannot be mapped.
    pub(super) fallible: bool,
    /// The value as PostgreSQL itself can hash it, where that tells apart whatever texts do.
    pub(super) own: Option<String>,
}

/// A column of an engine that has types.
#[derive(Debug, Clone)]
pub(super) struct Texts<'a> {
    pub(super) name: String,
    pub(super) kind: &'a Typed,
    pub(super) postgres: bool,
}

impl<'a> Texts<'a> {
    pub(super) fn of(column: &'a Column) -> Result<Self, String> {
        let (kind, postgres) = match &column.kind {
            Kind::Sqlite(_) => return Err("SQLite has no types".to_owned()),
            Kind::Postgres(kind) => (kind, true),
            Kind::Mysql(kind) => (kind, false),
        };
        let name = quote(&column.name);
        Ok(Self {
            name,
            kind,
            postgres,
        })
    }

    /// A column of the only legacy table.
    pub(super) fn legacy(group: &'a Group, at: usize) -> Result<Self, String> {
        let mut texts = Self::of(&group.tables(Side::Legacy)[0].columns[at])?;
        if group.nulls_zero(at) {
            texts.name = format!("(CASE WHEN {0} = 0 THEN NULL ELSE {0} END)", texts.name);
        }
        Ok(texts)
    }

    pub(super) fn class(&self) -> Class {
        self.kind.class
    }

    /// The value's text, as it is compared.
    pub(super) fn text(&self) -> Text {
        let (name, class) = (&self.name, self.class());
        let sql = if self.postgres {
            let canonical = postgres::canonical(class, name);
            match class {
                Class::Int | Class::Bool | Class::Real | Class::Real4 => {
                    format!("{canonical}::text")
                }
                Class::Bytes => format!("encode({name}, 'hex')"),
                _ => canonical,
            }
        } else {
            let canonical = mysql::canonical(class, name);
            match class {
                Class::Int | Class::Bool => format!("CAST({canonical} AS CHAR)"),
                Class::Bytes => format!("LOWER({canonical})"),
                _ => canonical,
            }
        };
        Text {
            null: format!("{name} IS NULL"),
            sql,
            plain: is_plain_class(class),
            fallible: false,
            own: None,
        }
    }

    /// As [`Self::text`], for a value that we hash on the other side: a float as PostgreSQL's bytes of
    /// it, as it writes it otherwise than we do; and as its own hash takes it.
    pub(super) fn exact(&self) -> Text {
        let mut text = self.text();
        text.own = self
            .postgres
            .then(|| Form::of(self.kind).sql(&self.name, &text.sql));
        match (self.postgres, self.class()) {
            (true, class @ (Class::Real | Class::Real4)) => Text {
                sql: format!(
                    "encode(float8send({}), 'hex')",
                    postgres::canonical(class, &self.name)
                ),
                ..text
            },
            _ => text,
        }
    }

    /// As it comes, for a record of PostgreSQL: `None` where that would not be the same for all
    /// types of its class.
    pub(super) fn raw(&self) -> Option<Text> {
        let same = match self.class() {
            Class::Bytes => false,
            // Padded, as wide as its column.
            Class::Text => self.kind.base != "bpchar",
            _ => true,
        };
        same.then(|| Text {
            sql: self.name.clone(),
            ..self.text()
        })
    }
}

/// Whether neither `|` nor `^` is ever in a text of this class.
fn is_plain_class(class: Class) -> bool {
    !matches!(class, Class::Text | Class::AsWritten)
}

/// As [`is_plain_class`], of an engine that has types.
pub(super) fn is_plain(kind: &Kind) -> bool {
    match kind {
        Kind::Postgres(kind) | Kind::Mysql(kind) => is_plain_class(kind.class),
        Kind::Sqlite(_) => false,
    }
}

/// Both columns' values as PostgreSQL itself can hash them; `None` where some values of the type
/// are equal to it and not to us. So it is with JSON, arrays, intervals, `timetz` and padded text;
/// and enums are hashed by a number of their server. What it hashes as a number of 64 bits it folds
/// to 32 first, 0 and -0 are one to it, and the hash of a decimal has neither its sign nor its
/// scale (5 and -5, 1.0 and 1.00): these go as bytes.
pub(super) fn own(legacy: &Texts<'_>, extracted: &Texts<'_>) -> Option<(String, String)> {
    let (a, b) = (legacy.kind, extracted.kind);
    let both = |names: &[&str]| {
        let named = |kind: &Typed| names.contains(&kind.base.as_str());
        named(a) && named(b)
    };
    let name = |texts: &Texts<'_>| texts.name.clone();
    let sent = |by: &str| {
        let one = |texts: &Texts<'_>| format!("{by}({})", texts.name);
        Some((one(legacy), one(extracted)))
    };
    match a.class {
        Class::Int if both(&["smallint", "integer"]) => Some((name(legacy), name(extracted))),
        Class::Int if both(&["smallint", "integer", "bigint"]) => sent("int8send"),
        Class::Decimal(_) if a.class == b.class => sent("numeric_send"),
        // Byte for byte, whatever its collation calls equal.
        Class::Text if both(&["text", "character varying"]) => {
            let exact = |texts: &Texts<'_>| format!("{} COLLATE \"C\"", texts.name);
            Some((exact(legacy), exact(extracted)))
        }
        _ if a.base != b.base => None,
        Class::Bool | Class::Bytes | Class::Uuid => Some((name(legacy), name(extracted))),
        Class::Real => sent("float8send"),
        Class::Real4 => sent("float4send"),
        Class::Timestamp => sent("timestamp_send"),
        Class::Instant => sent("timestamptz_send"),
        Class::AsWritten => match a.base.as_str() {
            "date" => Some((name(legacy), name(extracted))),
            "time without time zone" => sent("time_send"),
            _ => None,
        },
        Class::Int | Class::Decimal(_) | Class::Text | Class::Bits(_) => None,
    }
}

/// A literal that every engine reads alike.
pub(super) fn literal(text: &str) -> Result<String, String> {
    if text.contains(['\\', '\0']) {
        return Err("a text of the mapping has a backslash".to_owned());
    }
    Ok(crate::db::literal(text))
}

/// A value of the mapping as its column would show it.
pub(super) fn shown(value: &Cell, column: &Column) -> Result<String, String> {
    match value.clone().stored_in(&column.kind) {
        Cell::Int(i) => Ok(i.to_string()),
        Cell::Text(text) => Ok(text),
        other => Err(format!("the mapping gives it {other}")),
    }
}
