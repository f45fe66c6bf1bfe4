//! Keys come back the same or have no form, and bounds cut both sides at one place.

use proptest::prelude::*;

use super::order::{NIL, is_uuid, last_uuid, whole};
use super::*;
use crate::typed::Typed;
use crate::value::Affinity;

fn pg(base: &str) -> Kind {
    Kind::Postgres(Typed::postgres(base, base))
}

fn form(first: &Kind, own: &Kind, source: &Source) -> KeyForm {
    super::form(first, own, Some(source)).unwrap().unwrap()
}

fn rename() -> Source {
    Source::Rename("id".to_owned())
}

fn template(before: &str) -> Source {
    Source::Join {
        from: vec!["id".to_owned()],
        literals: vec![before.to_owned(), String::new()],
        empty_is_null: false,
    }
}

/// The key there, and what it is known by when it comes back.
fn both_ways(form: &KeyForm, key: &Cell, own: &Cell) {
    assert_eq!(form.own(key).as_ref(), Some(own), "{key}");
    assert_eq!(form.known(own), *key, "{own}");
}

#[test]
fn keys_are_one_to_one_or_have_no_form() {
    let unsigned = Kind::Mysql(Typed::mysql("bigint", "bigint(20) unsigned", None));
    let wide = form(&unsigned, &pg("bigint"), &rename());
    both_ways(&wide, &"7".into(), &Cell::Int(7));
    assert_eq!(wide.own(&"18446744073709551615".into()), None);
    let narrow = form(&pg("bigint"), &pg("smallint"), &rename());
    assert_eq!(narrow.own(&Cell::Int(70_000)), None);
    let uuid = form(&Kind::Sqlite(Affinity::Text), &pg("uuid"), &rename());
    let text: Cell = "0f14d0ab-9605-4a62-a9e4-5ed26688389b".into();
    both_ways(&uuid, &text, &text);
    for bad in ["0F14D0AB-9605-4A62-A9E4-5ED26688389B", "x", ""] {
        assert_eq!(uuid.own(&bad.into()), None, "{bad}");
    }
    let named = form(&pg("integer"), &pg("text"), &template("cat-"));
    both_ways(&named, &Cell::Int(-5), &"cat--5".into());
    let text = form(&pg("text"), &pg("bigint"), &rename());
    both_ways(&text, &"12".into(), &Cell::Int(12));
    assert_eq!(text.own(&"012".into()), None, "it would come back as 12");
}

#[test]
fn a_key_without_a_legacy_form_is_none_of_the_legacy_keys() {
    let named = form(&pg("text"), &pg("text"), &template("cat-"));
    for odd in ["dog-1", "", "cat"] {
        let known = named.known(&odd.into());
        assert!(matches!(known, Cell::Blob(_)), "{odd}: {known}");
        assert_eq!(named.own(&known), Some(odd.into()));
        assert_eq!(named.bound(&known), odd.into());
    }
    let mut first = Table {
        name: "a".to_owned(),
        columns: Vec::new(),
        key: vec![0],
        forms: Vec::new(),
        loose: false,
        others: Vec::new(),
        other_unique: Vec::new(),
        autoincrement: false,
        written_by_others: false,
        only: Vec::new(),
    };
    first.columns.push(super::super::Column {
        name: "id".to_owned(),
        kind: pg("text"),
        required: true,
    });
    let mut other = first.clone();
    let columns = [ColumnSpec {
        extracted: "id".to_owned(),
        source: template("cat-"),
    }];
    forms(&mut first, &mut other, Some(&columns), &mut Vec::new());
    let known = other.known(vec!["dog-1".into()]);
    assert_eq!(first.own(&known), None, "no legacy row has it");
    assert_eq!(other.own(&known).unwrap().as_ref(), ["dog-1".into()]);
}

#[test]
fn what_cannot_be_a_key_is_refused() {
    for (a, b) in [("bytea", "text"), ("integer", "uuid"), ("real", "integer")] {
        let refused = super::form(&pg(a), &pg(b), Some(&rename()));
        assert!(refused.unwrap_err().0.contains("the key is"), "{a} {b}");
    }
    assert!(
        super::form(&pg("text"), &pg("text"), None)
            .unwrap()
            .is_none()
    );
    let lookup = Source::Lookup {
        from: "id".to_owned(),
        table: "t".to_owned(),
        key: "k".to_owned(),
        value: "v".to_owned(),
    };
    assert!(!makes_key(&lookup, "id"), "its words may change");
    assert!(makes_key(&template("x"), "id"));
}

/// Values of a key of whole numbers, as decimals have them.
fn decimal() -> impl Strategy<Value = String> {
    let digits = prop_oneof!["[0-9]{1,3}", "[1-9][0-9]{17,21}"];
    ("-?", digits, "(\\.[0-9]{1,2})?").prop_map(|(sign, whole, rest)| sign + &whole + &rest)
}

proptest! {
    #[test]
    fn a_bound_cuts_numbers_where_the_key_does(key in decimal(), own: i64, near in -2i64..=2) {
        let form = form(&pg("numeric"), &pg("integer"), &rename());
        let key = Cell::Text(key);
        let bound = form.bound(&key);
        prop_assert!(fits(&bound, &pg("integer")), "{} for {}", bound, key);
        let near = whole(&key).saturating_add(i128::from(near));
        for own in [i128::from(own), near] {
            let Ok(own) = i32::try_from(own) else { continue };
            let own = Cell::Int(i64::from(own));
            // What comes before all of the column's values is its first one.
            let after_bound = by_number(&own, &bound).is_gt();
            let after_key = by_number(&own, &key).is_gt();
            let first = bound == Cell::Int(i64::from(i32::MIN));
            prop_assert!(after_bound == after_key || first && own == bound, "{} {} {}", own, key, bound);
        }
    }

    #[test]
    fn a_bound_cuts_uuids_where_the_text_does(
        text in "[0-9a-gG-]{0,9}(-[0-9a-g]{0,4}){0,4}[0-9a-f]{0,12}é?", other in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        cut in 0usize..36,
    ) {
        let bound = last_uuid(&text);
        prop_assert!(is_uuid(&bound), "{}", bound);
        // One that begins as the text does.
        let begins: String = text.chars().take(cut).filter(char::is_ascii).collect();
        let near = format!("{begins}{}", other.get(begins.len()..).unwrap_or_default());
        for uuid in [other, near].iter().filter(|uuid| is_uuid(uuid)) {
            prop_assert!(
                (uuid.as_str() > bound.as_str()) == (uuid.as_str() > text.as_str())
                    || bound == NIL && uuid.as_str() == NIL,
                "{} {} {}", uuid, text, bound
            );
        }
    }

    #[test]
    fn numbers_are_in_the_order_of_numbers(a in -9_999i64..9_999, b in -9_999i64..9_999) {
        let text = |n: i64| {
            let sign = if n < 0 { "-" } else { "" };
            Cell::Text(format!("{sign}{}.{:02}", n.abs() / 100, n.abs() % 100))
        };
        prop_assert_eq!(by_number(&text(a), &text(b)), a.cmp(&b));
    }

    #[test]
    fn every_key_comes_back_or_has_no_form(key: i64, own: String) {
        let named = form(&pg("bigint"), &pg("text"), &template("no. "));
        let there = named.own(&Cell::Int(key)).unwrap();
        prop_assert_eq!(named.known(&there), Cell::Int(key));
        let own = Cell::Text(own);
        prop_assert_eq!(named.own(&named.known(&own)), Some(own));
    }
}
