//! Whole rows, both ways: they come back the same, or it is said why they cannot.

use outgrow_rollout::Side;
use proptest::prelude::*;

use super::*;
use crate::spec::{AlsoSpec, ColumnSpec, Limits, RowFilter, Source};
use crate::value::Affinity;

fn schema(tables: &[(&str, &[(&str, Affinity)])]) -> Schema {
    let column = |(name, affinity): &(&str, Affinity)| ColumnSchema {
        name: (*name).to_owned(),
        kind: Kind::Sqlite(*affinity),
        required: false,
        has_default: false,
        generated: false,
    };
    let table = |(name, columns): &(&str, &[(&str, Affinity)])| {
        let schema = TableSchema {
            columns: columns.iter().map(column).collect(),
            unique: vec![vec!["id".to_owned()]],
            ..TableSchema::default()
        };
        ((*name).to_owned(), schema)
    };
    tables.iter().map(table).collect()
}

fn entry(extracted: &str, columns: &[(&str, Source)], rows: Option<(&[&str], bool)>) -> TableSpec {
    TableSpec {
        legacy: "item".to_owned(),
        extracted: extracted.to_owned(),
        key: vec!["id".to_owned()],
        columns: columns
            .iter()
            .map(|(extracted, source)| ColumnSpec {
                extracted: (*extracted).to_owned(),
                source: source.clone(),
            })
            .collect(),
        defaults: Vec::new(),
        rows: rows.map(|(values, not)| RowFilter {
            column: "kind".to_owned(),
            values: values.iter().map(|v| Cell::from(*v)).collect(),
            not,
        }),
        ..TableSpec::default()
    }
}

fn same(name: &str) -> Source {
    Source::Rename(name.to_owned())
}

fn part(part: usize) -> Source {
    Source::Part {
        of: "c".to_owned(),
        part,
        at: "-".to_owned(),
        empty_is_null: part == 9,
    }
}

/// A row is in `all`, and by its kind in `x`, in `rest`, or in neither.
fn plan(tables: Vec<TableSpec>) -> (Option<Plan>, Vec<Problem>) {
    use Affinity::{Integer, Text};
    let legacy = schema(&[(
        "item",
        &[
            ("id", Integer),
            ("kind", Text),
            ("a", Text),
            ("b", Integer),
            ("c", Text),
        ],
    )]);
    let extracted = schema(&[
        ("all", &[("id", Integer), ("c1", Text), ("c2", Text)]),
        ("x", &[("id", Integer), ("ab", Text)]),
        ("rest", &[("id", Integer), ("ab", Text), ("kind", Text)]),
    ]);
    let spec = LinkSpec {
        slice: "items".parse().unwrap(),
        legacy: "sqlite:legacy.db".parse().unwrap(),
        extracted: "sqlite:extracted.db".parse().unwrap(),
        tables,
        writes: crate::both::Writes::One,
        limits: Limits::default(),
    };
    Plan::build(&spec, &legacy, &extracted, &Lookups::new())
}

fn of<'a>(columns: &[(&'a str, Source)]) -> Vec<(&'a str, Source)> {
    let mut all = vec![("id", same("id"))];
    all.extend_from_slice(columns);
    all
}

fn group(with_all: bool) -> Group {
    let ab = || Source::joined(vec!["a".to_owned(), "b".to_owned()], "-", true);
    let pieces = [("c1", part(1)), ("c2", part(2))];
    let mut x = entry("x", &of(&[("ab", ab())]), Some((&["x"], false)));
    let mut rest = entry(
        "rest",
        &of(&[("ab", ab()), ("kind", same("kind"))]),
        Some((&["x", "none"], true)),
    );
    let mut tables = Vec::new();
    if with_all {
        let mut every = of(&pieces);
        every[1..].rotate_left(1);
        tables.push(entry("all", &every, None));
        // Rows of this kind would be in `all` alone, with nothing to make `a` and `b` from.
        rest.rows.as_mut().unwrap().values.pop();
    } else {
        for table in [&mut x, &mut rest] {
            table.defaults.push(("c".to_owned(), Cell::Null));
        }
    }
    tables.extend([x, rest]);
    let (plan, problems) = plan(tables);
    assert!(problems.is_empty(), "{problems:?}");
    plan.unwrap().groups.remove(0)
}

fn text() -> impl Strategy<Value = Cell> {
    prop_oneof![1 => Just(Cell::Null), 4 => "[a1-]{0,3}".prop_map(Cell::Text)]
}

fn kind() -> impl Strategy<Value = Cell> {
    prop_oneof![Just(Cell::Null), "(x|none|y|X)".prop_map(Cell::Text)]
}

fn number() -> impl Strategy<Value = Cell> {
    prop_oneof![Just(Cell::Null), (-2i64..200).prop_map(Cell::Int)]
}

#[test]
fn a_row_is_in_the_tables_that_take_it() {
    let group = group(false);
    let there = |kind: &str| {
        let row = vec![
            Cell::Int(1),
            kind.into(),
            "a".into(),
            Cell::Int(2),
            Cell::Null,
        ];
        let image = group.map(Side::Legacy, &vec![Some(row)]).unwrap();
        image.iter().map(Option::is_some).collect::<Vec<_>>()
    };
    assert_eq!(there("x"), [true, false]);
    assert_eq!(there("y"), [false, true]);
    assert_eq!(there("none"), [false, false]);
}

#[test]
fn every_problem_of_a_mapping_is_named_at_once() {
    let columns = [
        ("id", same("id")),
        ("ab", Source::joined(vec!["a".into(), "a".into()], "", true)),
        ("kind", part(9)),
    ];
    let (none, problems) = plan(vec![entry("rest", &columns, Some((&[], false)))]);
    assert!(none.is_none());
    let text: String = problems.iter().map(|p| format!("{p}\n")).collect();
    for part in ["`a` is joined twice", "the pieces 9", "names no value"] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
}

/// `user`, perhaps with a `profile`, and with a `theme`, as `account` and `look`.
fn beside() -> Group {
    use Affinity::{Integer, Text};
    let legacy = schema(&[
        ("user", &[("id", Integer), ("mail", Text)]),
        ("profile", &[("bio", Text), ("id", Integer), ("note", Text)]),
        ("theme", &[("id", Integer), ("name", Text)]),
    ]);
    let extracted = schema(&[
        ("account", &[("id", Integer), ("name", Text)]),
        ("look", &[("id", Integer), ("bio", Text), ("note", Text)]),
    ]);
    let also = |table: &str, optional| AlsoSpec {
        table: table.to_owned(),
        key: vec!["id".to_owned()],
        optional,
    };
    let name = Source::joined(vec!["mail".into(), "theme.name".into()], "-", true);
    let account = TableSpec {
        legacy: "user".to_owned(),
        also: vec![also("theme", false), also("profile", true)],
        ..entry("account", &of(&[("name", name)]), None)
    };
    let columns = [("bio", same("profile.bio")), ("note", same("profile.note"))];
    let look = TableSpec {
        legacy: "user".to_owned(),
        ..entry("look", &of(&columns), None)
    };
    let spec = LinkSpec {
        slice: "items".parse().unwrap(),
        legacy: "sqlite:legacy.db".parse().unwrap(),
        extracted: "sqlite:extracted.db".parse().unwrap(),
        tables: vec![account, look],
        writes: crate::both::Writes::One,
        limits: Limits::default(),
    };
    let (plan, problems) = Plan::build(&spec, &legacy, &extracted, &Lookups::new());
    assert!(problems.is_empty(), "{problems:?}");
    plan.unwrap().groups.remove(0)
}

fn there(image: Image, there: &[bool]) -> Image {
    let rows = image.into_iter().zip(there);
    rows.map(|(row, there)| row.filter(|_| *there)).collect()
}

proptest! {
    #[test]
    fn rows_of_several_tables_come_back_or_are_refused(
        cells in prop::array::uniform4(text()), is in prop::array::uniform3(any::<bool>()),
    ) {
        let group = beside();
        let [mail, bio, note, name] = cells;
        // In the order of the config.
        let image = there(vec![
            Some(vec![Cell::Int(1), mail]),
            Some(vec![Cell::Int(1), name]),
            Some(vec![bio, Cell::Int(1), note]),
        ], &is);
        if let Ok(made) = group.map(Side::Legacy, &image) {
            prop_assert_eq!(group.map(Side::Extracted, &made), Ok(image));
        }
    }

    #[test]
    fn images_of_several_tables_come_back_or_are_refused(
        cells in prop::array::uniform3(text()), is in prop::array::uniform2(any::<bool>()),
    ) {
        let group = beside();
        let [name, bio, note] = cells;
        let image = there(vec![
            Some(vec![Cell::Int(1), name]),
            Some(vec![Cell::Int(1), bio, note]),
        ], &is);
        if let Ok(back) = group.map(Side::Extracted, &image) {
            prop_assert_eq!(group.map(Side::Legacy, &back), Ok(image));
        }
    }

    #[test]
    fn rows_come_back_or_are_refused(with_all: bool, kind in kind(), a in text(), b in number(), c in text()) {
        let group = group(with_all);
        let row = vec![Cell::Int(1), kind, a, b, c];
        let Ok(there) = group.map(Side::Legacy, &vec![Some(row.clone())]) else {
            return Ok(());
        };
        let back = group.map(Side::Extracted, &there);
        if !group.belongs(&row) {
            prop_assert!(there.iter().all(Option::is_none));
            return Ok(());
        }
        let mut expected = row;
        if !with_all {
            expected[4] = Cell::Null;
        }
        prop_assert_eq!(back, Ok(vec![Some(expected)]));
    }

    #[test]
    fn images_come_back_or_are_refused(
        with_all: bool, kind in kind(), all in (text(), text()), x in text(), rest in text(),
        there in prop::array::uniform3(any::<bool>()),
    ) {
        let group = group(with_all);
        let mut image: Image = vec![
            Some(vec![Cell::Int(1), x]),
            Some(vec![Cell::Int(1), rest, kind]),
        ];
        if with_all {
            image.insert(0, Some(vec![Cell::Int(1), all.1, all.0]));
        }
        for (row, there) in image.iter_mut().zip(there) {
            if !there {
                *row = None;
            }
        }
        if let Ok(back) = group.map(Side::Extracted, &image) {
            prop_assert_eq!(group.map(Side::Legacy, &back), Ok(image));
        }
    }
}
