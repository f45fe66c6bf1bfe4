//! One column mapping of a table: `"legacy_column"`, or a table of keys of which one says the
//! form. Refuses what cannot be undone.

use std::collections::BTreeMap;

use outgrow_bridge::{Ambiguous, Zone};
use serde_json::Value;

use super::model::Source;
use super::problem::{Findings, Place};
use super::scalar;
use super::section::Node;

/// A 64-bit integer of `10^-scale` holds no money beyond this.
const SCALE_MAX: u64 = 9;
/// More pieces than any text in a column has.
const PARTS_MAX: u64 = 64;

/// The ways to write a column mapping, for fixes.
const FORMS: &str = "write \"legacy_column\", or a table with `from` and one of `map`, `cents`, \
                     `local_time`, `forward` with `reverse`, `lookup` with `key` and `value`, or { join = [..], with = \"..\" }, \
                     { template = \"..\" }, { part = N, of = \"..\", at = \"..\" }, { const = VALUE }";

/// The ways to write a legacy clock, for fixes.
const CLOCKS: &str = "write the offset of the legacy clock, e.g. \"+01:00\", or its time zone, e.g. \"Europe/Berlin\"";

/// The keys of one column.
#[derive(Debug)]
struct Keys<'d> {
    place: Place,
    found: BTreeMap<&'static str, Node<'d>>,
}

/// One form: the keys that say it, and those that go with it.
struct Form {
    said_by: &'static [&'static str],
    with: &'static [&'static str],
    read: fn(&Keys<'_>, &mut Findings<'_>) -> Option<Source>,
}

const ALL: [Form; 9] = [
    Form {
        said_by: &["const"],
        with: &[],
        read: |keys, findings| {
            let value = keys.get("const")?.scalar(findings)?;
            Some(Source::Const(value))
        },
    },
    Form {
        said_by: &["map"],
        with: &["from"],
        read: map,
    },
    Form {
        said_by: &["cents"],
        with: &["from"],
        read: cents,
    },
    Form {
        said_by: &["local_time"],
        with: &["from", "ambiguous"],
        read: local_time,
    },
    Form {
        said_by: &["forward", "reverse"],
        with: &["from"],
        read: expression,
    },
    Form {
        said_by: &["lookup"],
        with: &["from", "key", "value"],
        read: lookup,
    },
    Form {
        said_by: &["join"],
        with: &["with", "empty"],
        read: join,
    },
    Form {
        said_by: &["template"],
        with: &["empty"],
        read: template,
    },
    Form {
        said_by: &["part"],
        with: &["of", "at", "empty"],
        read: part,
    },
];

/// A rename with a table around it.
const PLAIN: Form = Form {
    said_by: &[],
    with: &["from"],
    read: |keys, findings| keys.from(findings).map(Source::Rename),
};

impl<'d> Keys<'d> {
    fn get(&self, key: &str) -> Option<&Node<'d>> {
        self.found.get(key)
    }

    fn need(&self, key: &str, fix: &str, findings: &mut Findings<'_>) -> Option<&Node<'d>> {
        let found = self.get(key);
        if found.is_none() {
            findings.lack(&self.place, format!("`{key}` is missing"), fix);
        }
        found
    }

    fn from(&self, findings: &mut Findings<'_>) -> Option<String> {
        let Some(from) = self.get("from") else {
            let rule = "`from`, the legacy column, is missing";
            findings.lack(&self.place, rule, FORMS);
            return None;
        };
        from.word(findings)
    }

    /// `empty = "null"`: an empty piece means NULL.
    fn empty_is_null(&self, findings: &mut Findings<'_>) -> Option<bool> {
        let Some(node) = self.get("empty") else {
            return Some(false);
        };
        match node.text(findings)? {
            "null" => Some(true),
            _ => {
                let fix = "write \"null\" if an empty piece means NULL, or leave it out";
                findings.refuse(&node.place, "there is no such meaning", fix);
                None
            }
        }
    }
}

pub(super) fn source(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Source> {
    if node.is_text() {
        return node.word(findings).map(Source::Rename);
    }
    let mut section = node.section(findings)?;
    let mut keys = Keys {
        place: section.place.clone(),
        found: BTreeMap::new(),
    };
    let names = ALL
        .iter()
        .flat_map(|form| form.said_by.iter().chain(form.with));
    for name in names {
        if let Some(node) = section.get(name) {
            keys.found.insert(name, node);
        }
    }
    section.finish(findings);
    let said = |form: &&Form| form.said_by.iter().any(|key| keys.get(key).is_some());
    let mut forms = ALL.iter().filter(said);
    let form = forms.next().unwrap_or(&PLAIN);
    if form.said_by == ["const"] && keys.found.len() > 1 {
        findings.lack(&keys.place, "`const` excludes all other keys", FORMS);
        return None;
    }
    if forms.next().is_some() {
        findings.lack(&keys.place, "a column has one transform", FORMS);
        return None;
    }
    let known = |key: &str| form.said_by.contains(&key) || form.with.contains(&key);
    let stray: Vec<&Node<'_>> = keys
        .found
        .iter()
        .filter(|(key, _)| !known(key))
        .map(|(_, node)| node)
        .collect();
    for node in &stray {
        findings.lack(&node.place, "it does not belong to this form", FORMS);
    }
    let read = (form.read)(&keys, findings);
    read.filter(|_| stray.is_empty())
}

fn map(keys: &Keys<'_>, findings: &mut Findings<'_>) -> Option<Source> {
    let from = keys.from(findings);
    let pairs = pairs(keys.get("map")?, findings);
    Some(Source::Map {
        from: from?,
        pairs: pairs?,
    })
}

fn cents(keys: &Keys<'_>, findings: &mut Findings<'_>) -> Option<Source> {
    let from = keys.from(findings);
    let scale = keys.get("cents")?.integer(findings, 0..=SCALE_MAX)?;
    Some(Source::Cents {
        from: from?,
        scale: u32::try_from(scale).ok()?,
    })
}

fn local_time(keys: &Keys<'_>, findings: &mut Findings<'_>) -> Option<Source> {
    let from = keys.from(findings);
    let node = keys.get("local_time")?;
    let text = node.word(findings)?;
    let ambiguous = keys.get("ambiguous");
    if !text.starts_with(char::is_alphabetic) {
        let refused = |rule| findings.refuse(&node.place, rule, CLOCKS);
        let offset = scalar::offset(&text).map_err(refused).ok();
        if let Some(node) = ambiguous {
            let fix = "remove `ambiguous`, or write the name of a zone";
            findings.refuse(&node.place, "an offset shows every time once", fix);
        }
        let offset = offset.filter(|_| ambiguous.is_none())?;
        return Some(Source::LocalTime {
            from: from?,
            offset,
        });
    }
    let refused = |rule| findings.refuse(&node.place, rule, CLOCKS);
    let zone = text.parse::<Zone>().map_err(refused).ok();
    let ambiguous = ambiguous.map_or(Some(Ambiguous::Park), |node| {
        Some(match node.text(findings)? {
            "park" => Ambiguous::Park,
            "earlier" => Ambiguous::Earlier,
            "later" => Ambiguous::Later,
            _ => {
                let fix = "write \"park\", \"earlier\" or \"later\"";
                findings.refuse(&node.place, "there is no such choice", fix);
                return None;
            }
        })
    });
    Some(Source::ZonedTime {
        from: from?,
        zone: zone?,
        ambiguous: ambiguous?,
    })
}

fn expression(keys: &Keys<'_>, findings: &mut Findings<'_>) -> Option<Source> {
    let from = keys.from(findings);
    for way in ["forward", "reverse"] {
        if keys.get(way).is_none() {
            findings.lack(
                &keys.place,
                format!("the mapping cannot be inverted: `{way}` is missing"),
                "rows flow both ways, before the cutover and after it: write both expressions",
            );
        }
    }
    let mut text = |key| keys.get(key).and_then(|node| node.word(findings));
    let (forward, reverse) = (text("forward"), text("reverse"));
    Some(Source::Expr {
        from: from?,
        forward: forward?,
        reverse: reverse?,
    })
}

fn lookup(keys: &Keys<'_>, findings: &mut Findings<'_>) -> Option<Source> {
    let from = keys.from(findings);
    let table = keys.get("lookup")?.word(findings);
    let mut column = |key, what: &str| {
        let fix = format!("name the lookup table's column of {what}");
        let node = keys.need(key, &fix, findings)?;
        node.word(findings)
    };
    let (key, value) = (column("key", "codes"), column("value", "what they mean"));
    Some(Source::Lookup {
        from: from?,
        table: table?,
        key: key?,
        value: value?,
    })
}

fn join(keys: &Keys<'_>, findings: &mut Findings<'_>) -> Option<Source> {
    let empty_is_null = keys.empty_is_null(findings);
    let node = keys.get("join")?;
    let words = node.words(findings);
    let from: Vec<String> = words.iter().map(|(_, word)| word.clone()).collect();
    if node.is_list() && from.len() < 2 {
        let fix = "name two legacy columns or more, or write a `template`";
        findings.refuse(&node.place, "one column is not joined", fix);
        return None;
    }
    for (at, (place, word)) in words.iter().enumerate() {
        if from[..at].contains(word) {
            findings.refuse(place, "it is joined twice", "name every column once");
            return None;
        }
    }
    let fix = "write what stands between the columns, e.g. with = \" \"";
    let with = separator(keys.need("with", fix, findings)?, findings)?;
    let mut literals = vec![with; from.len().saturating_sub(1)];
    literals.insert(0, String::new());
    literals.push(String::new());
    (!from.is_empty()).then_some(Source::Join {
        from,
        literals,
        empty_is_null: empty_is_null?,
    })
}

/// A text without which pieces could not be told apart.
fn separator(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let text = node.text(findings)?;
    if text.is_empty() {
        findings.refuse(
            &node.place,
            "the mapping cannot be inverted: nothing stands between two pieces",
            "write a separator that no value contains",
        );
        return None;
    }
    Some(text.to_owned())
}

fn template(keys: &Keys<'_>, findings: &mut Findings<'_>) -> Option<Source> {
    let empty_is_null = keys.empty_is_null(findings);
    let node = keys.get("template")?;
    let parsed = template_of(node.text(findings)?);
    let (from, literals) = match parsed {
        Ok(parsed) => parsed,
        Err(rule) => {
            let fix = "write columns in braces with texts between them: \"{last}, {first}\"";
            findings.refuse(&node.place, rule, fix);
            return None;
        }
    };
    Some(Source::Join {
        from,
        literals,
        empty_is_null: empty_is_null?,
    })
}

/// `{last}, {first}` as its columns and the texts before, between and after them. A brace that
/// is text is written twice.
fn template_of(text: &str) -> Result<(Vec<String>, Vec<String>), String> {
    let (mut columns, mut literals) = (Vec::new(), Vec::new());
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        literal.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            literal.push_str(brace);
            rest = after;
            continue;
        }
        let closed = (brace == "{").then(|| rest.split_once('}')).flatten();
        let Some((column, after)) = closed else {
            return Err(format!("a `{brace}` stands alone"));
        };
        let column = column.trim().to_owned();
        if column.is_empty() || columns.contains(&column) {
            return Err(format!("`{{{column}}}` is no column, or is there twice"));
        }
        if literal.is_empty() && !columns.is_empty() {
            return Err(format!(
                "the mapping cannot be inverted: nothing stands before `{{{column}}}`"
            ));
        }
        columns.push(column);
        literals.push(std::mem::take(&mut literal));
        rest = after;
    }
    literal.push_str(rest);
    literals.push(literal);
    if columns.is_empty() {
        return Err("it names no column".to_owned());
    }
    Ok((columns, literals))
}

fn part(keys: &Keys<'_>, findings: &mut Findings<'_>) -> Option<Source> {
    let empty_is_null = keys.empty_is_null(findings);
    let part = keys.get("part")?.integer(findings, 1..=PARTS_MAX);
    let of = keys.need("of", "name the legacy column", findings);
    let of = of.and_then(|node| node.word(findings));
    let fix = "write what stands between the pieces, e.g. at = \" \"";
    let at = keys.need("at", fix, findings);
    let at = at.and_then(|node| separator(node, findings));
    Some(Source::Part {
        of: of?,
        part: usize::try_from(part?).ok()?,
        at: at?,
        empty_is_null: empty_is_null?,
    })
}

/// `{ A = "active" }` for text codes, `[[1, "active"]]` for others.
fn pairs(node: &Node<'_>, findings: &mut Findings<'_>) -> Option<Vec<(Value, Value)>> {
    let mut found: Vec<(Place, Value, Value)> = Vec::new();
    let mut whole = true;
    if node.is_list() {
        for item in node.list(findings) {
            let both = item.list(findings);
            let [left, right] = both.as_slice() else {
                let fix = "write [[legacy, extracted], ..]";
                findings.refuse(&item.place, "it is not a pair", fix);
                whole = false;
                continue;
            };
            match (left.scalar(findings), right.scalar(findings)) {
                (Some(l), Some(r)) => found.push((item.place.clone(), l, r)),
                _ => whole = false,
            }
        }
    } else {
        for (name, place, value) in node.section(findings)?.entries() {
            match value.scalar(findings) {
                Some(value) => found.push((place, Value::from(name), value)),
                None => whole = false,
            }
        }
    }
    if found.is_empty() && whole {
        findings.refuse(&node.place, "the map is empty", "map every code");
        return None;
    }
    for (index, (place, left, right)) in found.iter().enumerate() {
        let before = &found[..index];
        if before.iter().any(|(_, other, _)| other == left) {
            let rule = format!("the legacy value {left} is there twice");
            findings.lack(place, rule, "keep one of them");
            whole = false;
        }
        if let Some((_, twin, _)) = before.iter().find(|(_, _, other)| other == right) {
            findings.lack(
                place,
                format!("the mapping cannot be inverted: {twin} and {left} both become {right}"),
                "give each legacy value an extracted value of its own",
            );
            whole = false;
        }
    }
    whole.then(|| found.into_iter().map(|(_, l, r)| (l, r)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let texts = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        for (text, columns, literals) in [
            (
                "{last}, {first}",
                &["last", "first"][..],
                &["", ", ", ""][..],
            ),
            ("SKU-{ code }", &["code"], &["SKU-", ""]),
            ("{{{a}}}/{b}.", &["a", "b"], &["{", "}/", "."]),
        ] {
            let expected = (texts(columns), texts(literals));
            assert_eq!(template_of(text), Ok(expected), "{text}");
        }
        for bad in ["", "none", "{a}{b}", "{a}-{a}", "{a", "a}", "{}", "{a}}"] {
            assert!(template_of(bad).is_err(), "{bad}");
        }
    }
}
