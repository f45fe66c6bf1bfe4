//! From changes and present rows to events. Pure.
//!
//! An event is a CloudEvent 1.0 in JSON, structured mode. Rows have the extracted shape on both
//! sides of a cutover, so that a consumer sees one schema. Where capture notes keys only, there is
//! no row from before a change, and a change that was overtaken shows the newest row. Where it notes
//! rows, both are those of that very change.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use outgrow_rollout::{Side, SliceId};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::db::images::{Images, Kept};
use crate::db::rows::usable;
use crate::db::stream::Change;
use crate::plan::{Group, Image, Plan, Row, Table};
use crate::value::{Cell, Key};

/// Events that are on their way at once, at most: enough to hide the way to the broker, little
/// enough that it is soon known whether they came.
const WAVE: usize = 256;

/// One event, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The same whenever it is sent again.
    pub id: String,
    /// The extracted table; empty for an event about the stream itself.
    pub table: String,
    /// A CloudEvent 1.0 in JSON.
    pub payload: Vec<u8>,
    pub(crate) seq: i64,
    /// Table and key.
    about: String,
}

impl Event {
    /// The event that takes the place of one that the broker finds too large.
    pub(crate) fn without_row(&self, why: &str) -> Self {
        let mut told: Value = serde_json::from_slice(&self.payload).unwrap_or_default();
        if let Some(data) = told.get_mut("data").and_then(Value::as_object_mut) {
            data.insert("after".to_owned(), Value::Null);
            data.insert("error".to_owned(), Value::from(why));
            if data.get("before").is_some_and(|row| !row.is_null()) {
                data.insert("before".to_owned(), Value::Null);
                data.insert("before_error".to_owned(), Value::from(why));
            }
        }
        Self {
            payload: told.to_string().into_bytes(),
            ..self.clone()
        }
    }
}

/// One stream, while one side is the source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream<'a> {
    pub(crate) slice: &'a SliceId,
    pub(crate) side: Side,
    pub(crate) birth: &'a str,
    /// Whether events show rows from before.
    pub(crate) before: bool,
}

/// One row of an event: there, not there, or why that cannot be said.
type Shown<'a> = Result<Option<&'a Row>, &'a str>;

/// Why there is no row from before where rows were asked for.
const KEY_ALONE: &str = "the key alone was noted with this change, so `after` is the newest row";
const SEVERAL: &str = "the row is made of several tables, so `after` is the newest row";

/// What the source has for the keys of some changes, by group.
pub(crate) type Present = HashMap<usize, HashMap<Key, Image>>;

/// The rows that were noted with a change, if they say all that there is to say of it.
fn noted<'a>(plan: &Plan, side: Side, group: usize, change: &'a Change) -> Option<&'a Images> {
    let alone = side == Side::Extracted || plan.groups[group].tables(side).len() == 1;
    let told = |images: &&Images| alone && !matches!(images.became, Kept::Untold(_));
    change.images.as_ref().filter(told)
}

/// Whether the event of this change shows a row that is to be read.
pub(crate) fn reads(plan: &Plan, side: Side, change: &Change) -> bool {
    let row = change.row(plan, side);
    row.is_some_and(|(group, _)| noted(plan, side, group, change).is_none())
}

/// The keys that these changes are about, but for those that have their rows, by group, each once.
pub(crate) fn keys(plan: &Plan, side: Side, changes: &[Change]) -> HashMap<usize, Vec<Key>> {
    let mut seen = HashSet::new();
    let mut keys: HashMap<usize, Vec<Key>> = HashMap::new();
    for change in changes {
        if let Some((group, key)) = change.row(plan, side)
            && usable(&key)
            && noted(plan, side, group, change).is_none()
            && seen.insert((group, key.clone()))
        {
            keys.entry(group).or_default().push(key);
        }
    }
    keys
}

impl Stream<'_> {
    /// The events of these changes, in their order: one for each table of the extracted shape.
    pub(crate) fn events(&self, plan: &Plan, changes: &[Change], present: &Present) -> Vec<Event> {
        let mut events = Vec::with_capacity(changes.len());
        for change in changes {
            let Some((at, key)) = change.row(plan, self.side) else {
                continue;
            };
            let group = &plan.groups[at];
            if let Some(images) = noted(plan, self.side, at, change) {
                self.of_rows(group, change, &key, images, &mut events);
                continue;
            }
            let image = present.get(&at).and_then(|rows| rows.get(&key));
            self.of_change(group, change, &key, image, &mut events);
        }
        events
    }

    /// The tables of the extracted shape that a change is told of, with their places.
    fn told_of<'b>(
        &self,
        group: &'b Group,
        change: &'b Change,
    ) -> impl Iterator<Item = (usize, &'b Table)> {
        // On the extracted side each table notes its own changes.
        let own = self.side == Side::Extracted;
        let parts = group.tables(Side::Extracted).iter().enumerate();
        parts.filter(move |(_, table)| !own || table.name == change.table)
    }

    fn of_change(
        &self,
        group: &Group,
        change: &Change,
        key: &Key,
        image: Option<&Image>,
        events: &mut Vec<Event>,
    ) {
        let missing = || vec![None; group.tables(Side::Extracted).len()];
        let rows: Result<Image, String> = match (self.side, image) {
            _ if !usable(key) => Err("a key column is NULL".to_owned()),
            (_, None) => Ok(missing()),
            (Side::Legacy, Some(image)) => {
                let mapped = group.map(Side::Legacy, image);
                mapped.map_err(|e| e.to_string())
            }
            (Side::Extracted, Some(image)) => Ok(image.clone()),
        };
        let several = self.side == Side::Legacy && group.tables(self.side).len() > 1;
        let why = match &change.images {
            _ if several => SEVERAL,
            Some(Images {
                became: Kept::Untold(why),
                ..
            }) => why,
            _ => KEY_ALONE,
        };
        for (at, table) in self.told_of(group, change) {
            let row = shown(&rows, at);
            // What is not there any more is told as gone, whatever the change was.
            let op = match (change.op.as_str(), &row) {
                ("d", _) | (_, Ok(None)) => Op::Deleted,
                ("i", _) => Op::Created,
                _ => Op::Updated,
            };
            let row = if op == Op::Deleted { Ok(None) } else { row };
            let before = self.before.then_some(Err(why));
            events.push(self.one((table, op), change, key, (before, row)));
        }
    }

    /// The events of a change whose rows were noted with it.
    fn of_rows(
        &self,
        group: &Group,
        change: &Change,
        key: &Key,
        images: &Images,
        events: &mut Vec<Event>,
    ) {
        if images.became == Kept::Elsewhere {
            return;
        }
        let ends = [&images.was, &images.became];
        let [was, became] = ends.map(|end| self.in_shape(group, change, end));
        for (at, table) in self.told_of(group, change) {
            let (before, after) = (shown(&was, at), shown(&became, at));
            let op = match (change.op.as_str(), &before, &after) {
                // Of no table of the service, neither before nor after.
                (_, Ok(None), Ok(None)) => continue,
                ("d", _, Err(_)) | (_, _, Ok(None)) => Op::Deleted,
                (_, Ok(None), _) | ("i", Err(_), _) => Op::Created,
                _ => Op::Updated,
            };
            events.push(self.one((table, op), change, key, (Some(before), after)));
        }
    }

    /// One end of a change in the extracted shape.
    fn in_shape(&self, group: &Group, change: &Change, end: &Kept) -> Result<Image, String> {
        let tables = group.tables(self.side);
        let table = tables.iter().position(|table| table.name == change.table);
        let Some(at) = table else {
            return Err("its table is not mapped any more".to_owned());
        };
        let Some(row) = end.row(&tables[at])? else {
            return Ok(vec![None; group.tables(Side::Extracted).len()]);
        };
        let mut image = vec![None; tables.len()];
        image[at] = Some(row);
        match self.side {
            Side::Legacy => {
                let mapped = group.map(Side::Legacy, &image);
                mapped.map_err(|e| e.to_string())
            }
            Side::Extracted => Ok(image),
        }
    }

    fn one(
        &self,
        (table, op): (&Table, Op),
        change: &Change,
        key: &Key,
        (before, after): (Option<Shown<'_>>, Shown<'_>),
    ) -> Event {
        // Whoever reads it knows the extracted side's keys.
        let key = table.own(key).unwrap_or(Cow::Borrowed(key));
        let (op, kind) = op.words();
        let mut data = json!({
            "op": op,
            "before": null,
            "after": null,
            "source": self.source(&table.name, change.seq, change.at),
        });
        match before {
            // The key is all that is known of it.
            None if op == "d" => data["before"] = named(table, &key),
            None | Some(Ok(None)) => {}
            Some(Ok(Some(row))) => data["before"] = whole(table, row),
            Some(Err(why)) => {
                data["before_error"] = Value::from(why);
                data["key"] = named(table, &key);
            }
        }
        match after {
            Ok(Some(row)) => data["after"] = whole(table, row),
            Ok(None) => {}
            Err(why) => {
                data["error"] = Value::from(why);
                data["key"] = named(table, &key);
            }
        }
        let texts: Vec<String> = key.iter().map(text).collect();
        let about = format!("{}/{}", table.name, texts.join(","));
        let id = format!("{}:{}", self.id(change.seq), table.name);
        let told = envelope(self.slice, &id, kind, &about, change.at, &data);
        Event {
            id,
            table: table.name.clone(),
            payload: told.to_string().into_bytes(),
            seq: change.seq,
            about,
        }
    }

    /// The event that says what will never be told.
    pub(crate) fn gap(&self, from: i64, to: i64, at: i64) -> Event {
        let id = format!("{}:gap", self.id(from));
        let mut source = self.source("", to, at);
        source["from"] = Value::from(from);
        let data = json!({
            "op": "gap",
            "source": source,
            "error": "changes from `from` to `seq` were dropped before they could be published: \
                      read the tables again",
        });
        let told = envelope(self.slice, &id, "gap", "gap", at, &data);
        Event {
            id,
            table: String::new(),
            payload: told.to_string().into_bytes(),
            seq: to,
            about: "gap".to_owned(),
        }
    }

    fn id(&self, seq: i64) -> String {
        format!("{}:{}:{seq}", self.slice, self.birth)
    }

    fn source(&self, table: &str, seq: i64, at: i64) -> Value {
        json!({
            "slice": self.slice.as_str(),
            "side": self.side.as_str(),
            "table": table,
            "seq": seq,
            "ts_ms": at,
        })
    }
}

/// What an event says that has become of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Created,
    Updated,
    Deleted,
}

impl Op {
    /// In the data, and in the event's type.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Created => ("c", "created"),
            Self::Updated => ("u", "updated"),
            Self::Deleted => ("d", "deleted"),
        }
    }
}

fn shown(rows: &Result<Image, String>, at: usize) -> Shown<'_> {
    match rows {
        Ok(rows) => Ok(rows.get(at).and_then(Option::as_ref)),
        Err(why) => Err(why),
    }
}

fn envelope(slice: &SliceId, id: &str, kind: &str, about: &str, at_ms: i64, data: &Value) -> Value {
    let kind = match kind {
        "gap" => "outgrow.stream.gap".to_owned(),
        kind => format!("outgrow.row.{kind}"),
    };
    let mut told = json!({
        "specversion": "1.0",
        "id": id,
        "source": format!("/outgrow/slices/{slice}"),
        "type": kind,
        "subject": about,
        "datacontenttype": "application/json",
        "data": data,
    });
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000);
    if let Some(time) = at.ok().and_then(|at| at.format(&Rfc3339).ok()) {
        told["time"] = Value::from(time);
    }
    told
}

/// A key as the extracted table's columns.
fn named(table: &Table, key: &[Cell]) -> Value {
    let columns = table.key.iter().map(|&at| &table.columns[at]);
    let cells = columns.zip(key).map(|(column, cell)| {
        let stored = cell.clone().stored_in(&column.kind);
        (column.name.clone(), value(&stored))
    });
    Value::Object(cells.collect::<Map<_, _>>())
}

fn whole(table: &Table, row: &Row) -> Value {
    let cells = table.columns.iter().zip(row);
    let cells = cells.map(|(column, cell)| (column.name.clone(), value(cell)));
    Value::Object(cells.collect::<Map<_, _>>())
}

fn value(cell: &Cell) -> Value {
    serde_json::to_value(cell).unwrap_or_default()
}

fn text(cell: &Cell) -> String {
    match value(cell) {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// Cuts events into runs in which no key comes twice. A run is sent as one; the next only when it
/// has arrived, so that what is sent again after a failure never overtakes what came after it.
pub(crate) fn waves(events: &[Event]) -> Vec<&[Event]> {
    let mut waves = Vec::new();
    let (mut begin, mut seen) = (0, HashSet::new());
    for (at, event) in events.iter().enumerate() {
        if at - begin >= WAVE || !seen.insert(event.about.as_str()) {
            waves.push(&events[begin..at]);
            begin = at;
            seen.clear();
            seen.insert(event.about.as_str());
        }
    }
    if begin < events.len() {
        waves.push(&events[begin..]);
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(keys: &[&str]) -> Vec<Event> {
        let one = |(seq, key): (usize, &&str)| Event {
            id: seq.to_string(),
            table: "t".to_owned(),
            payload: Vec::new(),
            seq: i64::try_from(seq).unwrap(),
            about: (*key).to_owned(),
        };
        keys.iter().enumerate().map(one).collect()
    }

    #[test]
    fn no_wave_has_a_key_twice_and_none_is_lost() {
        let events = about(&["a", "b", "a", "a", "c", "b", "c"]);
        let waves = waves(&events);
        let shape: Vec<String> = waves
            .iter()
            .map(|wave| wave.iter().map(|e| e.about.as_str()).collect())
            .collect();
        assert_eq!(shape, ["ab", "a", "acb", "c"]);
        assert!(super::waves(&[]).is_empty());
        let many: Vec<String> = (0..600).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let events = about(&many);
        let sizes: Vec<usize> = super::waves(&events).iter().map(|w| w.len()).collect();
        assert_eq!(sizes, [256, 256, 88]);
    }

    #[test]
    fn an_event_that_is_too_large_keeps_its_name() {
        let slice = SliceId::new("catalog").unwrap();
        let stream = Stream {
            slice: &slice,
            side: Side::Legacy,
            birth: "b",
            before: false,
        };
        let event = stream.gap(3, 9, 1_700_000_000_123);
        let told: Value = serde_json::from_slice(&event.payload).unwrap();
        assert_eq!(told["time"], "2023-11-14T22:13:20.123Z");
        assert_eq!(told["type"], "outgrow.stream.gap");
        assert_eq!(told["data"]["source"]["from"], 3);
        let smaller = event.without_row("too large");
        assert_eq!((&smaller.id, smaller.seq), (&event.id, 9));
        let told: Value = serde_json::from_slice(&smaller.payload).unwrap();
        assert_eq!(told["data"]["error"], "too large");
    }
}
