//! Compares both sides in the extracted shape, while both move.
//!
//! A scan ([`crate::scan`]) looks at ranges of keys of both sides at slightly different moments and
//! only gathers suspects. A suspect is called different when this was seen: the target's row together with the
//! position it had, then the source's row in a later snapshot whose stream has no change of that
//! key after that position; what comes after it is not trimmed before ([`crate::holds`]). Then
//! nothing on its way could make them alike, so there are no false differences; a row that keeps
//! changing is looked at again until the tries are used up.

use std::collections::{BTreeMap, HashMap};

use outgrow_rollout::{Side, TableRows};
use serde::Serialize;
use serde_json::Value;

use crate::batch::images;
use crate::both::verify as both;
use crate::db::rows;
use crate::error::{Error, OnSide};
use crate::plan::{Filter, Group, Image, Plan, Row, shown};
use crate::portion;
use crate::scan::TableWay;
use crate::shared::Shared;
use crate::value::Key;

/// Suspects looked at together.
const SUSPECTS: usize = 500;

/// What a verification found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifyReport {
    /// By extracted table.
    pub tables: BTreeMap<String, TableRows>,
    /// Keys that differ in any of their tables. Exact.
    pub different: u64,
    /// Of these, keys that changed all the time, so that nothing could be proven of them.
    pub unsettled: u64,
    pub rows_per_second: u64,
    /// Legacy rows that were looked at, and those that a sample left out.
    pub looked_at: u64,
    pub left_out: u64,
    /// Of those that were looked at, how many left the databases.
    pub read_rows: u64,
    /// What share was asked for; `None` is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// Rows that an interrupted verification had looked at before this one went on with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed: Option<u64>,
    /// By extracted table, how it was compared.
    pub ways: BTreeMap<String, TableWay>,
    /// The first differences, with values; bounded by `Limits::report_rows` and by bytes.
    pub differences: Vec<Difference>,
    /// The first keys that differ: as many as a repair may write, and one.
    #[serde(skip)]
    pub(crate) keys: Vec<(usize, Key)>,
    /// Bytes of the values among the differences.
    #[serde(skip)]
    pub(crate) shown: usize,
}

impl VerifyReport {
    /// Rows and differences by extracted table.
    pub fn rows(&self) -> BTreeMap<String, TableRows> {
        self.tables.clone()
    }
}

/// One row of one extracted table that is not what it should be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    pub legacy: String,
    pub extracted: String,
    pub key: String,
    /// `missing` or `extra` on the extracted side, `different`, `unmappable`, `unsettled`.
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<ColumnDifference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// One column with the value that follows from the legacy row and the one that is there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColumnDifference {
    pub column: String,
    pub legacy: Value,
    pub extracted: Value,
}

/// What a repair did, or would do.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RepairReport {
    pub dry_run: bool,
    /// Keys that differ now.
    pub found: u64,
    pub repaired: u64,
    /// Keys that still differ, e.g. because they are parked.
    pub remaining: u64,
    pub differences: Vec<Difference>,
}

/// Both sides of a key, and what is wrong with them.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) group: usize,
    pub(crate) key: Key,
    /// Per extracted table: whether the legacy side has a row for it, and whether it has one.
    legacy: Vec<bool>,
    extracted: Vec<bool>,
    differences: Vec<(usize, Difference)>,
}

impl Settled {
    pub(crate) fn differs(&self) -> bool {
        !self.differences.is_empty()
    }
}

impl Difference {
    /// About the bytes of its values.
    fn size(&self) -> usize {
        let size = |value: &Value| match value {
            Value::String(text) => text.len(),
            _ => 8,
        };
        let columns = self.columns.iter();
        columns.map(|c| size(&c.legacy) + size(&c.extracted)).sum()
    }
}

/// Compares databases; writes nothing.
#[derive(Debug)]
pub(crate) struct Verifier<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) plan: &'a Plan,
    pub(crate) source: Side,
}

impl Verifier<'_> {
    pub(crate) fn count(&self, settled: Settled, report: &mut VerifyReport) {
        let tables = self.plan.groups[settled.group].tables(Side::Extracted);
        for (at, table) in tables.iter().enumerate() {
            let counts = report.tables.entry(table.name.clone()).or_default();
            counts.legacy += u64::from(settled.legacy[at]);
            counts.extracted += u64::from(settled.extracted[at]);
            counts.different += u64::from(settled.differences.iter().any(|(t, _)| *t == at));
        }
        if !settled.differs() {
            return;
        }
        report.different += 1;
        let unsettled = settled
            .differences
            .iter()
            .any(|(_, d)| d.kind == "unsettled");
        report.unsettled += u64::from(unsettled);
        let limits = self.shared.limits();
        if report.keys.len() <= limits.repair_rows {
            report.keys.push((settled.group, settled.key));
        }
        let room = limits.report_rows.saturating_sub(report.differences.len());
        for (_, mut difference) in settled.differences.into_iter().take(room) {
            let shown = report.shown.saturating_add(difference.size());
            if shown > limits.chunk_bytes {
                difference.columns.clear();
                difference.why =
                    Some("its values are too large to be shown beside the others".to_owned());
            } else {
                report.shown = shown;
            }
            report.differences.push(difference);
        }
    }

    /// What is so of these keys now.
    pub(crate) async fn now(&self, keys: Vec<(usize, Key)>) -> Result<VerifyReport, Error> {
        let mut report = VerifyReport::default();
        self.settle(keys, |settled| self.count(settled, &mut report))
            .await?;
        Ok(report)
    }

    /// Every difference of a key, by part.
    pub(crate) fn compare(
        &self,
        group: &Group,
        key: &[crate::value::Cell],
        legacy: &Image,
        extracted: &Image,
    ) -> Vec<(usize, Difference)> {
        let tables = group.tables(Side::Extracted);
        let difference = |at: usize, kind, columns, why| {
            let difference = Difference {
                legacy: group.name().to_owned(),
                extracted: tables[at].name.clone(),
                key: shown(key),
                kind,
                columns,
                why,
            };
            (at, difference)
        };
        let expected = match group.map(Side::Legacy, legacy) {
            Ok(expected) => expected,
            Err(e) => {
                let all = 0..tables.len();
                return all
                    .map(|at| difference(at, "unmappable", Vec::new(), Some(e.to_string())))
                    .collect();
            }
        };
        let mut found = Vec::new();
        for (at, (expected, there)) in expected.iter().zip(extracted).enumerate() {
            match (expected, there) {
                (None, None) => {}
                (Some(_), None) => found.push(difference(at, "missing", Vec::new(), None)),
                (None, Some(_)) => found.push(difference(at, "extra", Vec::new(), None)),
                (Some(expected), Some(there)) => {
                    let columns = self.columns(group, at, expected, there);
                    if !columns.is_empty() {
                        found.push(difference(at, "different", columns, None));
                    }
                }
            }
        }
        found
    }

    fn columns(
        &self,
        group: &Group,
        part: usize,
        expected: &Row,
        there: &Row,
    ) -> Vec<ColumnDifference> {
        let table = &group.tables(Side::Extracted)[part];
        let json = |cell| serde_json::to_value(cell).unwrap_or(Value::Null);
        let columns = table.columns.iter().enumerate();
        columns
            .zip(expected.iter().zip(there))
            .filter(|((at, _), (a, b))| {
                // What the service makes of a constant has no place on the legacy side.
                let lost = self.source == Side::Extracted && group.is_constant(part, *at);
                a != b && !lost
            })
            .map(|((_, column), (a, b))| ColumnDifference {
                column: column.name.clone(),
                legacy: json(a),
                extracted: json(b),
            })
            .collect()
    }

    /// Looks at suspects until each is proven alike or different, and tells of each at once: the
    /// values of many are more than memory holds.
    pub(crate) async fn settle(
        &self,
        keys: Vec<(usize, Key)>,
        mut tell: impl FnMut(Settled),
    ) -> Result<(), Error> {
        let mut open = keys;
        for attempt in 1..=self.shared.limits().settle_tries.max(1) {
            let last = attempt == self.shared.limits().settle_tries.max(1);
            let mut again = Vec::new();
            for some in open.chunks(SUSPECTS) {
                let mut by_group: HashMap<usize, Vec<Key>> = HashMap::new();
                for (group, key) in some {
                    by_group.entry(*group).or_default().push(key.clone());
                }
                for (group, keys) in self.parts(by_group).await? {
                    self.look(group, keys, last, &mut tell, &mut again).await?;
                }
            }
            open = again;
            if open.is_empty() {
                break;
            }
            tokio::time::sleep(self.shared.limits().poll).await;
        }
        Ok(())
    }

    /// Keys whose rows may be read at once, of either side.
    pub(crate) async fn parts(
        &self,
        keys: HashMap<usize, Vec<Key>>,
    ) -> Result<Vec<(usize, Vec<Key>)>, Error> {
        let bytes = self.shared.limits().chunk_bytes;
        let mut all = vec![keys];
        for side in [&self.shared.legacy, &self.shared.extracted] {
            let mut tx = side.read().await?;
            let mut parts = Vec::with_capacity(all.len());
            for keys in &all {
                parts.extend(portion::parts(self.plan, side, &mut tx, keys, bytes).await?);
            }
            all = parts;
        }
        Ok(all.into_iter().flatten().collect())
    }

    /// One look: the target first, with its position, then the source.
    async fn look(
        &self,
        at: usize,
        keys: Vec<Key>,
        last: bool,
        tell: &mut impl FnMut(Settled),
        again: &mut Vec<(usize, Key)>,
    ) -> Result<(), Error> {
        let group = &self.plan.groups[at];
        let (source, target) = (
            self.shared.on(self.source),
            self.shared.on(self.source.other()),
        );
        // Before the position is read: what comes after it is asked for at the end.
        let hold = self.shared.holds.take();
        let mut tx = target.read().await?;
        let position = target.position(&mut tx, self.source).await?;
        let position = position.map_or(0, |p| p.seq);
        hold.only_after(self.source, Some(position));
        let mut there = images(group, target, &mut tx, &keys).await?;
        drop(tx);
        self.shared.pass("target-looked-at");
        let mut tx = source.read().await?;
        let mut here = images(group, source, &mut tx, &keys).await?;
        let back = both::back(self.shared, self.source, &mut tx).await?;
        hold.only_after(self.source.other(), back);
        drop(tx);
        // Whatever the rows show is in the stream now.
        source.settle_stream().await?;
        let mut tx = source.read().await?;
        for key in keys {
            let empty = |side: Side| vec![None; group.tables(side).len()];
            let from = here.remove(&key).unwrap_or_else(|| empty(self.source));
            let into = there
                .remove(&key)
                .unwrap_or_else(|| empty(self.source.other()));
            let (legacy, extracted) = match self.source {
                Side::Legacy => (from, into),
                Side::Extracted => (into, from),
            };
            let mut differences = self.compare(group, &key, &legacy, &extracted);
            if !differences.is_empty() {
                let tables = group.tables(self.source);
                let passive = self.source.other();
                let row = (at, key.clone());
                if source.touched(&mut tx, tables, &key, position).await?
                    || both::on_its_way(self.shared, self.plan, passive, &row, back).await?
                {
                    if !last {
                        again.push((at, key));
                        continue;
                    }
                    for (_, difference) in &mut differences {
                        difference.kind = "unsettled";
                    }
                }
            }
            tell(Settled {
                group: at,
                legacy: group.taken(&legacy),
                extracted: extracted.iter().map(Option::is_some).collect(),
                key,
                differences,
            });
        }
        Ok(())
    }

    /// Row counts of every table, and the rows that changed lately. Quick, for the inside of a
    /// cutover, when nobody else writes.
    pub(crate) async fn check(
        &self,
        recent: HashMap<usize, Vec<Key>>,
    ) -> Result<BTreeMap<String, TableRows>, Error> {
        let mut tables: BTreeMap<String, TableRows> = BTreeMap::new();
        let mut here = self.shared.legacy.read().await?;
        let mut there = self.shared.extracted.read().await?;
        for group in &self.plan.groups {
            // Tables that take the same rows are counted once: writers wait meanwhile.
            let mut known: Vec<(Vec<Filter>, u64)> = Vec::new();
            for (at, table) in group.tables(Side::Extracted).iter().enumerate() {
                let source = group.legacy_of(at);
                let legacy = match known.iter().find(|(only, _)| *only == source.only) {
                    Some((_, count)) => *count,
                    None => rows::count(&mut here, &source).await.on(Side::Legacy)?,
                };
                known.push((source.only, legacy));
                let extracted = rows::count(&mut there, table).await.on(Side::Extracted)?;
                let counts = tables.entry(table.name.clone()).or_default();
                (counts.legacy, counts.extracted) = (legacy, extracted);
            }
        }
        drop((here, there));
        let keys = recent
            .into_iter()
            .flat_map(|(group, keys)| keys.into_iter().map(move |key| (group, key)))
            .collect();
        self.settle(keys, |settled| {
            for (_, difference) in &settled.differences {
                let counts = tables.entry(difference.extracted.clone()).or_default();
                counts.different += 1;
            }
        })
        .await?;
        Ok(tables)
    }
}
