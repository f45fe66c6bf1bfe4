//! What has changed in the declared shape of a link's tables, in words. Pure.

use outgrow_rollout::Side;

use crate::plan::{ColumnSchema, Schema, TableSchema};
use crate::typed::{Class, Typed};
use crate::value::{Affinity, Kind};

/// Every difference between two looks at one side, as `legacy item: column note is gone`.
pub(crate) fn changes(side: Side, before: &Schema, now: &Schema) -> Vec<String> {
    let mut found = Vec::new();
    for (name, old) in before {
        match now.get(name) {
            None => found.push(format!(
                "{side} `{name}`: the table is gone, or has another name"
            )),
            Some(new) => {
                let all = columns(old, new).into_iter().chain(rest(old, new));
                found.extend(all.map(|what| format!("{side} `{name}`: {what}")));
            }
        }
    }
    for name in now.keys().filter(|name| !before.contains_key(*name)) {
        found.push(format!("{side} `{name}`: the table is there again"));
    }
    found
}

fn columns(old: &TableSchema, new: &TableSchema) -> Vec<String> {
    let of = |table: &TableSchema, name: &str| {
        let at = table.columns.iter().position(|c| c.name == name);
        at.map(|at| (at, table.columns[at].clone()))
    };
    let mut found = Vec::new();
    for (place, before) in old.columns.iter().enumerate() {
        match of(new, &before.name) {
            Some((_, now)) => found.extend(altered(before, &now)),
            None => {
                // In the same place with the same type, and unknown before.
                let heir = new
                    .columns
                    .get(place)
                    .filter(|c| c.kind == before.kind && of(old, &c.name).is_none());
                found.push(match heir {
                    Some(heir) => format!(
                        "column `{}` is gone; `{}` is in its place: was it renamed?",
                        before.name, heir.name
                    ),
                    None => format!("column `{}` is gone", before.name),
                });
            }
        }
    }
    for now in &new.columns {
        if of(old, &now.name).is_none() {
            found.push(format!(
                "column `{}` ({}) is new",
                now.name,
                shown(&now.kind)
            ));
        }
    }
    found
}

fn altered(before: &ColumnSchema, now: &ColumnSchema) -> Option<String> {
    let name = &now.name;
    if before.kind != now.kind {
        let (was, is) = (shown(&before.kind), shown(&now.kind));
        return Some(format!("column `{name}` was {was} and is {is}"));
    }
    if before.required != now.required {
        let is = if now.required {
            "must not be null now"
        } else {
            "may be null now"
        };
        return Some(format!("column `{name}` {is}"));
    }
    (before.generated != now.generated).then(|| {
        let is = if now.generated {
            "is computed by the database now"
        } else {
            "is not computed any more"
        };
        format!("column `{name}` {is}")
    })
}

fn rest(old: &TableSchema, new: &TableSchema) -> Option<String> {
    let key = |table: &TableSchema| {
        let mut keys: Vec<String> = table
            .unique
            .iter()
            .map(|columns| {
                let unfit = table.unfit.iter().find(|(of, _)| of == columns);
                let word = unfit.map_or_else(String::new, |(_, why)| format!(" {}", why.word()));
                format!("{}{word}", columns.join(", "))
            })
            .collect();
        keys.sort();
        keys
    };
    let (was, is) = (key(old), key(new));
    (was != is).then(|| {
        format!(
            "its unique keys were ({}) and are ({})",
            was.join("), ("),
            is.join("), (")
        )
    })
}

fn shown(kind: &Kind) -> String {
    match kind {
        Kind::Sqlite(affinity) => match affinity {
            Affinity::Integer => "integer",
            Affinity::Real => "real",
            Affinity::Text => "text",
            Affinity::Blob => "blob",
            Affinity::Numeric => "numeric",
        }
        .to_owned(),
        Kind::Postgres(Typed { class, base }) | Kind::Mysql(Typed { class, base }) => match class {
            Class::Bits(Some(width)) => format!("{base} of {width}"),
            Class::Decimal(Some(scale)) => format!("{base} with {scale} decimals"),
            _ => base.clone(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, base: &str) -> ColumnSchema {
        ColumnSchema {
            name: name.to_owned(),
            kind: Kind::Postgres(Typed::postgres(base, base.split('(').next().unwrap())),
            required: false,
            has_default: false,
            generated: false,
        }
    }

    fn schema(columns: Vec<ColumnSchema>) -> Schema {
        let unique = vec![vec!["id".to_owned()]];
        let table = TableSchema {
            columns,
            unique,
            ..TableSchema::default()
        };
        [("item".to_owned(), table)].into()
    }

    #[test]
    fn each_difference_is_named() {
        let before = schema(vec![
            column("id", "bigint"),
            column("note", "text"),
            column("price", "numeric(10,2)"),
        ]);
        let said = |now: &Schema| changes(Side::Legacy, &before, now).join("; ");
        assert_eq!(said(&before), "");
        let mut now = schema(vec![
            column("id", "integer"),
            column("remark", "text"),
            column("price", "numeric(10,4)"),
        ]);
        assert_eq!(
            said(&now),
            "legacy `item`: column `id` was bigint and is integer; \
             legacy `item`: column `note` is gone; `remark` is in its place: was it renamed?; \
             legacy `item`: column `price` was numeric with 2 decimals and is numeric with 4 decimals; \
             legacy `item`: column `remark` (text) is new"
        );
        let table = now.get_mut("item").unwrap();
        table.columns = before["item"].columns.clone();
        table.columns[1].required = true;
        table
            .unique
            .push(vec!["note".to_owned(), "price".to_owned()]);
        assert_eq!(
            said(&now),
            "legacy `item`: column `note` must not be null now; \
             legacy `item`: its unique keys were (id) and are (id), (note, price)"
        );
        assert_eq!(
            said(&Schema::new()),
            "legacy `item`: the table is gone, or has another name"
        );
    }
}
