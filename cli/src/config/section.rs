//! Typed reading of a TOML document that goes on after a problem, so that all are reported at
//! once. Knows TOML and positions; knows nothing of what the keys mean.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Findings, Place, nearest};
use super::scalar;

/// A value with its place.
#[derive(Debug, Clone)]
pub(crate) struct Node<'d> {
    value: &'d DeValue<'d>,
    pub(crate) place: Place,
}

/// A table that remembers which keys were asked for; [`Section::finish`] refuses the others.
#[derive(Debug)]
pub(crate) struct Section<'d> {
    table: &'d DeTable<'d>,
    pub(crate) place: Place,
    known: Vec<&'static str>,
}

impl<'d> Section<'d> {
    pub(crate) fn root(document: &'d Spanned<DeTable<'d>>) -> Self {
        Self {
            table: document.get_ref(),
            place: Place {
                key: String::new(),
                span: 0..0,
            },
            known: Vec::new(),
        }
    }

    /// The place of a key that may be missing: its table's, then.
    pub(crate) fn at(&self, key: &str) -> Place {
        let (_, value) = match self.find(key) {
            Some(found) => found,
            None => return self.place.below(key, self.place.span.clone()),
        };
        self.place.below(key, value.span())
    }

    /// A value, if it is there.
    pub(crate) fn get(&mut self, key: &'static str) -> Option<Node<'d>> {
        self.known.push(key);
        let (_, value) = self.find(key)?;
        Some(self.node(key, value))
    }

    /// A value that must be there.
    pub(crate) fn need(
        &mut self,
        findings: &mut Findings<'_>,
        key: &'static str,
        fix: &str,
    ) -> Option<Node<'d>> {
        let found = self.get(key);
        if found.is_none() {
            findings.lack(&self.place, format!("`{key}` is missing"), fix);
        }
        found
    }

    /// Every key with its value, in the order of the file, for tables whose keys are names.
    pub(crate) fn entries(&self) -> Vec<(String, Place, Node<'d>)> {
        let mut found: Vec<_> = self
            .table
            .iter()
            .map(|(key, value)| {
                let name = key.get_ref().to_string();
                let place = self.place.below(&name, key.span());
                let node = self.node(&name, value);
                (name, place, node)
            })
            .collect();
        found.sort_by_key(|(_, place, _)| place.span.start);
        found
    }

    /// Refuses the keys that nobody asked for.
    pub(crate) fn finish(self, findings: &mut Findings<'_>) {
        for (name, place, _) in self.entries() {
            if self.known.contains(&name.as_str()) {
                continue;
            }
            let fix = match nearest(&name, self.known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => {
                    let mut known = self.known.clone();
                    known.sort_unstable();
                    known.dedup();
                    format!("remove it; the keys here are {}", known.join(", "))
                }
            };
            findings.lack(&place, "there is no such key", fix);
        }
    }

    pub(crate) fn duration(
        &mut self,
        findings: &mut Findings<'_>,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(node) = self.get(key) else {
            return default;
        };
        node.duration(findings, range).unwrap_or(default)
    }

    pub(crate) fn size(
        &mut self,
        findings: &mut Findings<'_>,
        key: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        let Some(node) = self.get(key) else {
            return default;
        };
        node.size(findings, range).unwrap_or(default)
    }

    /// A share from 0.0 to 1.0.
    pub(crate) fn share(
        &mut self,
        findings: &mut Findings<'_>,
        key: &'static str,
        default: f64,
    ) -> f64 {
        let Some(node) = self.get(key) else {
            return default;
        };
        let found = node.number(findings).unwrap_or(default);
        if (0.0..=1.0).contains(&found) {
            return found;
        }
        findings.refuse(
            &node.place,
            "a share is 0.0 to 1.0",
            format!("write {} for {found} percent", found / 100.0),
        );
        default
    }

    fn find(&self, key: &str) -> Option<(&'d str, &'d Spanned<DeValue<'d>>)> {
        self.table
            .iter()
            .find(|(name, _)| name.get_ref() == key)
            .map(|(name, value)| (name.get_ref().as_ref(), value))
    }

    fn node(&self, key: &str, value: &'d Spanned<DeValue<'d>>) -> Node<'d> {
        Node {
            value: value.get_ref(),
            place: self.place.below(key, value.span()),
        }
    }
}

impl<'d> Node<'d> {
    pub(crate) fn text(&self, findings: &mut Findings<'_>) -> Option<&'d str> {
        let found = self.value.as_str();
        if found.is_none() {
            self.wrong(findings, "text", "put it in quotes");
        }
        found
    }

    /// Text that is not empty.
    pub(crate) fn word(&self, findings: &mut Findings<'_>) -> Option<String> {
        let text = self.text(findings)?.trim();
        if text.is_empty() {
            findings.refuse(&self.place, "it must not be empty", "write a value");
            return None;
        }
        Some(text.to_owned())
    }

    /// True or false, where it is one of them.
    pub(crate) fn flag(&self) -> Option<bool> {
        self.value.as_bool()
    }

    pub(crate) fn is_text(&self) -> bool {
        self.value.is_str()
    }

    pub(crate) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    pub(crate) fn is_list(&self) -> bool {
        self.value.is_array()
    }

    pub(crate) fn boolean(&self, findings: &mut Findings<'_>) -> Option<bool> {
        let found = self.value.as_bool();
        if found.is_none() {
            self.wrong(findings, "true or false", "write it without quotes");
        }
        found
    }

    pub(crate) fn integer(
        &self,
        findings: &mut Findings<'_>,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let found = self.value.as_integer().and_then(|number| {
            u64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()
        });
        match found {
            Some(number) if range.contains(&number) => Some(number),
            _ => {
                findings.refuse(
                    &self.place,
                    "it must be a whole number in range",
                    format!("write {} to {}", range.start(), range.end()),
                );
                None
            }
        }
    }

    pub(crate) fn number(&self, findings: &mut Findings<'_>) -> Option<f64> {
        let text = match self.value {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            _ => {
                self.wrong(findings, "a number", "write it without quotes");
                return None;
            }
        };
        let found = text.replace('_', "").parse::<f64>().ok();
        let found = found.filter(|number| number.is_finite());
        if found.is_none() {
            self.wrong(findings, "a finite number", "write digits");
        }
        found
    }

    /// A number as it is written, e.g. a percentage.
    pub(crate) fn digits(&self) -> Option<String> {
        match self.value {
            DeValue::Integer(number) => Some(number.to_string()),
            DeValue::Float(number) => Some(number.to_string()),
            DeValue::String(text) => Some(text.to_string()),
            _ => None,
        }
    }

    /// A day: `2027-01-01`, with or without quotes.
    pub(crate) fn date(&self, findings: &mut Findings<'_>) -> Option<time::Date> {
        let text = match self.value {
            DeValue::String(text) => text.to_string(),
            DeValue::Datetime(date) => date.to_string(),
            _ => String::new(),
        };
        let found = scalar::date(&text);
        if found.is_none() {
            findings.refuse(
                &self.place,
                "it is not a day",
                "write a date such as \"2027-01-31\"",
            );
        }
        found
    }

    pub(crate) fn duration(
        &self,
        findings: &mut Findings<'_>,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let Some(text) = self.value.as_str() else {
            let fix = "write a number with its unit, e.g. \"500ms\", \"10m\", \"14d\"";
            self.wrong(findings, "a duration", fix);
            return None;
        };
        match scalar::duration(text) {
            Ok(found) if range.contains(&found) => Some(found),
            Ok(_) => {
                findings.refuse(
                    &self.place,
                    "the duration is out of range",
                    format!(
                        "write {} to {}",
                        scalar::show(*range.start()),
                        scalar::show(*range.end())
                    ),
                );
                None
            }
            Err(rule) => {
                let fix = "write a number with its unit, e.g. \"500ms\", \"10m\", \"14d\"";
                findings.refuse(&self.place, rule, fix);
                None
            }
        }
    }

    pub(crate) fn size(
        &self,
        findings: &mut Findings<'_>,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let fix = "write a whole number with its unit, e.g. \"500MiB\", \"64GiB\"";
        let Some(text) = self.value.as_str() else {
            self.wrong(findings, "a size", fix);
            return None;
        };
        match scalar::size(text) {
            Ok(found) if range.contains(&found) => return Some(found),
            Ok(_) => {
                let (least, most) = range.into_inner();
                let (least, most) = (scalar::show_size(least), scalar::show_size(most));
                let fix = format!("write {least} to {most}");
                findings.refuse(&self.place, "the size is out of range", fix);
            }
            Err(rule) => findings.refuse(&self.place, rule, fix),
        }
        None
    }

    /// A scalar that a database column can hold.
    pub(crate) fn scalar(&self, findings: &mut Findings<'_>) -> Option<serde_json::Value> {
        let found = match self.value {
            DeValue::String(text) => Some(serde_json::Value::from(text.as_ref())),
            DeValue::Boolean(flag) => Some(serde_json::Value::from(*flag)),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .ok()
                .map(serde_json::Value::from),
            DeValue::Float(number) => number.as_str().parse::<f64>().ok().and_then(|number| {
                serde_json::Number::from_f64(number).map(serde_json::Value::Number)
            }),
            _ => None,
        };
        if found.is_none() {
            let fix = "write a text, a 64-bit integer, a finite number, true or false";
            self.wrong(findings, "a value that a column can hold", fix);
        }
        found
    }

    pub(crate) fn list(&self, findings: &mut Findings<'_>) -> Vec<Node<'d>> {
        let Some(list) = self.value.as_array() else {
            self.wrong(findings, "a list", "put it in [ ]");
            return Vec::new();
        };
        list.iter()
            .enumerate()
            .map(|(index, item)| Node {
                value: item.get_ref(),
                place: Place {
                    key: format!("{}[{index}]", self.place.key),
                    span: item.span(),
                },
            })
            .collect()
    }

    pub(crate) fn words(&self, findings: &mut Findings<'_>) -> Vec<(Place, String)> {
        self.list(findings)
            .into_iter()
            .filter_map(|node| Some((node.place.clone(), node.word(findings)?)))
            .collect()
    }

    pub(crate) fn section(&self, findings: &mut Findings<'_>) -> Option<Section<'d>> {
        let Some(table) = self.value.as_table() else {
            let fix = format!("write it as [{}] or as {{ .. }}", self.place.key);
            self.wrong(findings, "a table", &fix);
            return None;
        };
        Some(Section {
            table,
            place: self.place.clone(),
            known: Vec::new(),
        })
    }

    fn wrong(&self, findings: &mut Findings<'_>, wanted: &str, fix: &str) {
        let is = self.value.type_str();
        findings.refuse(&self.place, format!("it must be {wanted}, not {is}"), fix);
    }
}

impl Place {
    pub(crate) fn below(&self, key: &str, span: std::ops::Range<usize>) -> Self {
        let key = match (self.key.is_empty(), plain(key)) {
            (true, true) => key.to_owned(),
            (true, false) => format!("{key:?}"),
            (false, true) => format!("{}.{key}", self.key),
            (false, false) => format!("{}.{key:?}", self.key),
        };
        Self { key, span }
    }
}

/// Whether TOML needs no quotes for the key.
fn plain(key: &str) -> bool {
    !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}
