//! Walks the tables of a link in strides of keys and says which keys look different.
//!
//! Where both databases can, a stride is compared by sums of hashes that they compute: equal sums
//! prove it equal, and no row leaves a server. Sums that differ prove nothing, for both sides move:
//! the stride is looked at again in pieces, a piece once more when the stream is past what the
//! source had, and then row by row. Two SQLite files are asked by a join in place of sums.

mod apart;
mod kept;
mod pace;
mod read;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use outgrow_rollout::{Side, TableRows};
use serde::{Deserialize, Serialize};
use sqlx::SqlitePool;

use crate::checksum::ours::{Ours, Scratch};
use crate::checksum::{RowHash, Sums, joined, record};
use crate::db::Dialect;
use crate::db::now_ms;
use crate::db::sqlite;
use crate::db::sums::{self, OurSum, Range, Sum};
use crate::error::{Error, OnSide};
use crate::plan::{Group, Table};
use crate::spec::DatabaseUrl;
use crate::value::Key;
use crate::verify::{Verifier, VerifyReport};
pub(crate) use pace::{LastVerify, Verifying};
use pace::{Pace, Picker, Shown};

/// Pieces of a stride whose sums differ.
const PIECES: u32 = 10;
/// Looks at the target's position before a piece is compared again.
const PATIENCE: u32 = 50;
/// Suspects that are looked at before there are more: of so many the keys are in memory.
const SUSPECTS: usize = 10_000;
/// Strides between two notes of how far it is.
const KEEP_EVERY: u32 = 8;

/// What to look at, and how.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Of the rows, above 0 and below 1; `None` is all.
    pub share: Option<f64>,
    /// Goes on with a whole verification that was interrupted.
    pub resume: bool,
    /// Notes how far it is, so that another can go on with it.
    pub keep: bool,
    /// Reads every row, also where the databases could compute checksums.
    pub by_rows: bool,
    /// Leaves both databases most of their time, and all of it while changes wait.
    pub gently: bool,
}

/// How a table was compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableWay {
    /// `checksums` (of a SQLite file the bridge makes them), `joins` (of two SQLite files) or `rows`.
    pub by: String,
    /// Why rows are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What a scan has found so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    pub(crate) tables: BTreeMap<String, TableRows>,
    pub(crate) ways: BTreeMap<String, TableWay>,
    /// Keys that look different, not counted in `tables`.
    pub(crate) suspects: Vec<(usize, Key)>,
    /// What became of those that were too many to be kept until the end.
    pub(crate) settled: VerifyReport,
    pub(crate) looked_at: u64,
    pub(crate) left_out: u64,
    pub(crate) read_rows: u64,
    /// The next group, and the key that it is walked up to.
    pub(crate) group: usize,
    pub(crate) after: Option<Key>,
    /// When it began, and for how long it ran in other processes.
    pub(crate) began_ms: i64,
    pub(crate) millis: u64,
}

/// What the databases are asked in place of rows.
enum Asked {
    Sums(Sums),
    /// Two SQLite files, for a join: per extracted table the condition of rows that are equal.
    Joins {
        pool: SqlitePool,
        conditions: Vec<String>,
    },
}

impl Asked {
    fn name(&self) -> &'static str {
        match self {
            Self::Sums(_) => "checksums",
            Self::Joins { .. } => "joins",
        }
    }
}

/// What two sums said.
enum Said {
    Equal,
    Differ,
    /// A database cannot compute it.
    Cannot(String),
}

impl Verifier<'_> {
    /// Compares the rows that were asked for, and says as of when.
    pub(crate) async fn verify(
        &self,
        options: &VerifyOptions,
    ) -> Result<(VerifyReport, Instant), Error> {
        let began = Instant::now();
        let mut found = if options.resume {
            self.kept().await?
        } else {
            Found {
                began_ms: now_ms(),
                ..Found::default()
            }
        };
        let resumed = options.resume.then_some(found.looked_at);
        if options.keep && !options.resume {
            self.forget().await?;
        }
        let shown = Shown::new(self.shared, &found, options);
        let mut pace = Pace::new(self.shared, options.gently);
        while found.group < self.plan.groups.len() {
            self.scan(options, &mut found, &shown, &mut pace).await?;
            found.group += 1;
            found.after = None;
        }
        if options.keep {
            self.forget().await?;
        }
        self.settle_suspects(&mut found).await?;
        let mut report = VerifyReport {
            ways: found.ways,
            looked_at: found.looked_at,
            left_out: found.left_out,
            read_rows: found.read_rows,
            share: options.share,
            resumed,
            ..found.settled
        };
        for (table, rows) in found.tables {
            let counts = report.tables.entry(table).or_default();
            counts.legacy += rows.legacy;
            counts.extracted += rows.extracted;
        }
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let rows = found.looked_at.saturating_mul(1_000);
        report.rows_per_second = rows / millis.saturating_add(found.millis).max(1);
        // What was looked at by another process is as old as that.
        let age = u64::try_from(now_ms().saturating_sub(found.began_ms)).unwrap_or(0);
        let as_of = resumed.and_then(|_| Instant::now().checked_sub(Duration::from_millis(age)));
        Ok((report, as_of.unwrap_or_else(Instant::now)))
    }

    async fn settle_suspects(&self, found: &mut Found) -> Result<(), Error> {
        let suspects = std::mem::take(&mut found.suspects);
        let report = &mut found.settled;
        self.settle(suspects, |settled| self.count(settled, report))
            .await
    }

    /// Walks one group in key order.
    async fn scan(
        &self,
        options: &VerifyOptions,
        found: &mut Found,
        shown: &Shown<'_>,
        pace: &mut Pace<'_>,
    ) -> Result<(), Error> {
        let at = found.group;
        let group = &self.plan.groups[at];
        let mut sums = self.sums(group, options).await?;
        let stride = self.shared.limits().verify_rows.max(1);
        let mut picker = Picker::new(options.share);
        for table in group.tables(Side::Extracted) {
            found.tables.entry(table.name.clone()).or_default();
        }
        let mut unkept = 0;
        loop {
            pace.wait().await?;
            let until = self
                .nth(
                    group,
                    &Range {
                        after: found.after.clone(),
                        until: None,
                    },
                    stride,
                )
                .await?;
            let range = Range {
                after: found.after.take(),
                until,
            };
            if picker.takes(range.until.is_none()) {
                let before = found.looked_at;
                self.stride(at, &range, &mut sums, found).await?;
                if range.until.is_some() {
                    // Counted alike, however it was compared.
                    found.looked_at = before + u64::from(stride);
                }
            } else {
                found.left_out += u64::from(if range.until.is_some() { stride } else { 0 });
            }
            if found.suspects.len() > SUSPECTS {
                self.settle_suspects(found).await?;
            }
            shown.now(found);
            found.after = range.until;
            if found.after.is_none() {
                break;
            }
            unkept += 1;
            if options.keep && unkept >= KEEP_EVERY {
                unkept = 0;
                if let Err(error) = self.keep(found, shown.millis()).await {
                    let slice = &self.shared.spec.slice;
                    tracing::warn!(%slice, %error, "how far the verification is could not be noted");
                }
            }
        }
        if group.keys_apart() {
            self.strangers(at, picker, pace, found).await?;
        }
        let way = TableWay {
            by: sums.as_ref().map_or("rows", Asked::name).to_owned(),
            why: sums.err(),
        };
        for table in group.tables(Side::Extracted) {
            found.ways.insert(table.name.clone(), way.clone());
        }
        Ok(())
    }

    /// What to have the databases sum up of a group, or why its rows are read.
    async fn sums(
        &self,
        group: &Group,
        options: &VerifyOptions,
    ) -> Result<Result<Asked, String>, Error> {
        if options.by_rows {
            return Ok(Err("asked for".to_owned()));
        }
        if group.keys_apart() {
            let why = "the other side writes its keys otherwise, in another order";
            return Ok(Err(why.to_owned()));
        }
        if let Some(joins) = self.joins(group) {
            return Ok(joins);
        }
        let (legacy, extracted) = (&self.shared.legacy, &self.shared.extracted);
        if legacy.encoding().await? != extracted.encoding().await? {
            // The same bytes would be other letters.
            return Ok(Err("the databases have different encodings".to_owned()));
        }
        let engines = (legacy.dialect(), extracted.dialect());
        let alike = self.alike_hashed().await?;
        Ok(Sums::of(group, self.source, engines, alike).map(Asked::Sums))
    }

    /// A join over both, where both are SQLite files; or why there is none.
    fn joins(&self, group: &Group) -> Option<Result<Asked, String>> {
        let (DatabaseUrl::Sqlite(legacy), DatabaseUrl::Sqlite(extracted)) = (
            self.shared.url(Side::Legacy),
            self.shared.url(Side::Extracted),
        ) else {
            return None;
        };
        let busy = self.shared.limits().busy;
        let pool = sqlite::joined::pool(legacy, extracted, busy)?;
        let conditions = joined::conditions(group, self.source);
        Some(conditions.map(|conditions| Asked::Joins { pool, conditions }))
    }

    /// Whether both servers have hash functions of rows, and the same ones. SQLite has ours.
    async fn alike_hashed(&self) -> Result<bool, Error> {
        let (legacy, extracted) = (
            self.hashed_on(Side::Legacy),
            self.hashed_on(Side::Extracted),
        );
        let legacy = legacy.await?;
        Ok(legacy.is_some() && legacy == extracted.await?)
    }

    async fn hashed_on(&self, side: Side) -> Result<Option<String>, Error> {
        let database = self.shared.on(side);
        match database.dialect() {
            Dialect::Sqlite => Ok(Some(record::sample())),
            Dialect::Postgres | Dialect::Mysql => database.hashed_sample(record::SAMPLED).await,
        }
    }

    async fn nth(&self, group: &Group, range: &Range, n: u32) -> Result<Option<Key>, Error> {
        let mut tx = self.shared.legacy.read().await?;
        let table = &group.tables(Side::Legacy)[0];
        sums::nth(&mut tx, table, range, n).await.on(Side::Legacy)
    }

    /// Compares one stride in the cheapest way that proves something.
    async fn stride(
        &self,
        at: usize,
        range: &Range,
        sums: &mut Result<Asked, String>,
        found: &mut Found,
    ) -> Result<(), Error> {
        let Ok(asked) = sums else {
            return self.rows(at, range, found).await;
        };
        let group = &self.plan.groups[at];
        match self.equal(group, asked, range, found).await? {
            Said::Equal => return Ok(()),
            Said::Differ => {}
            Said::Cannot(why) => {
                *sums = Err(why);
                return self.rows(at, range, found).await;
            }
        }
        let size = (self.shared.limits().verify_rows / PIECES).max(1);
        let mut after = range.after.clone();
        loop {
            let rest = Range {
                after: after.take(),
                until: range.until.clone(),
            };
            let end = self.nth(group, &rest, size).await?;
            let piece = Range {
                until: end.clone().or_else(|| rest.until.clone()),
                ..rest
            };
            self.piece(at, &piece, asked, found).await?;
            match end {
                Some(end) => after = Some(end),
                None => return Ok(()),
            }
        }
    }

    async fn piece(
        &self,
        at: usize,
        range: &Range,
        sums: &Asked,
        found: &mut Found,
    ) -> Result<(), Error> {
        let group = &self.plan.groups[at];
        if let Said::Equal = self.equal(group, sums, range, found).await? {
            return Ok(());
        }
        if self.caught_up().await?
            && let Said::Equal = self.equal(group, sums, range, found).await?
        {
            return Ok(());
        }
        self.rows(at, range, found).await
    }

    /// Whether both sides' rows of a range are proven equal; they are counted then.
    async fn equal(
        &self,
        group: &Group,
        asked: &Asked,
        range: &Range,
        found: &mut Found,
    ) -> Result<Said, Error> {
        let rows = match asked {
            Asked::Sums(hashes) => self.equal_sums(group, hashes, range).await,
            Asked::Joins { pool, conditions } => {
                self.equal_rows(group, (pool, conditions), range).await
            }
        };
        let rows = match rows {
            Ok(Some(rows)) => rows,
            Ok(None) => return Ok(Said::Differ),
            Err(e) if e.passes() => return Err(e),
            Err(e) => return Ok(Said::Cannot(no_sums(&e.to_string()))),
        };
        let parts = group.tables(Side::Extracted);
        for (table, rows) in parts.iter().zip(&rows) {
            let counts = found.tables.entry(table.name.clone()).or_default();
            counts.legacy += rows;
            counts.extracted += rows;
        }
        found.looked_at += match group.is_partial() {
            true => rows.iter().sum(),
            false => rows.iter().copied().max().unwrap_or(0),
        };
        Ok(Said::Equal)
    }

    /// The rows of each extracted table, where all are equal.
    async fn equal_rows(
        &self,
        group: &Group,
        (pool, conditions): (&SqlitePool, &[String]),
        range: &Range,
    ) -> Result<Option<Vec<u64>>, Error> {
        let mut all = Vec::with_capacity(conditions.len());
        let parts = group.tables(Side::Extracted).iter().zip(conditions);
        for (part, (table, condition)) in parts.enumerate() {
            let both = (&group.legacy_of(part), table);
            let rows = sqlite::joined::equal_rows(pool, both, range, condition).await;
            match rows.on(Side::Legacy)? {
                Some(rows) => all.push(rows),
                None => return Ok(None),
            }
        }
        Ok(Some(all))
    }

    /// As [`Self::equal_rows`], by the sums of both sides.
    async fn equal_sums(
        &self,
        group: &Group,
        hashes: &Sums,
        range: &Range,
    ) -> Result<Option<Vec<u64>>, Error> {
        let legacy = self.sums_of(Side::Legacy, group, &hashes.legacy, range);
        let extracted = self.sums_of(Side::Extracted, group, &hashes.extracted, range);
        let (legacy, extracted) = tokio::try_join!(legacy, extracted)?;
        let equal = legacy.iter().zip(&extracted).all(|(a, b)| a.proves(b));
        Ok(equal.then(|| legacy.iter().map(|sum| sum.rows).collect()))
    }

    /// One side's sums, per extracted table.
    async fn sums_of(
        &self,
        side: Side,
        group: &Group,
        hashes: &[RowHash],
        range: &Range,
    ) -> Result<Vec<Sum>, Error> {
        let mut tx = self.shared.on(side).read().await?;
        let mut all = Vec::with_capacity(hashes.len());
        for (part, hash) in hashes.iter().enumerate() {
            let legacy;
            let table = match side {
                Side::Legacy => {
                    legacy = group.legacy_of(part);
                    &legacy
                }
                Side::Extracted => &group.tables(Side::Extracted)[part],
            };
            all.push(match hash {
                RowHash::Sql(hash) => sums::sum(&mut tx, table, range, hash).await.on(side)?,
                RowHash::Ours(ours) => self.our_sum(side, group, (table, ours), range).await?,
            });
        }
        Ok(all)
    }

    /// The sum of a SQLite table's rows. Were it cut short, their number would differ.
    async fn our_sum(
        &self,
        side: Side,
        group: &Group,
        (table, ours): (&Table, &Ours),
        range: &Range,
    ) -> Result<Sum, Error> {
        let mut sum = OurSum::begun();
        let DatabaseUrl::Sqlite(path) = self.shared.url(side) else {
            // No file, no rows that are hashed: a sum that proves nothing.
            sum.add(None);
            return Ok(sum.done());
        };
        let mut rows = sqlite::read::rows(path, self.shared.limits().busy, table, range);
        let mut scratch = Scratch::default();
        while let Some(some) = rows.next().await {
            let some = some.map_err(|refused| Error::File {
                side,
                code: refused.code,
                cause: refused.text,
            })?;
            for row in &some {
                sum.add(ours.hash(group, row, &mut scratch));
            }
            rows.give_back(some);
        }
        Ok(sum.done())
    }

    /// Waits until the target is past what the source has now, if anything brings it there.
    async fn caught_up(&self) -> Result<bool, Error> {
        let source = self.shared.on(self.source);
        let target = self.shared.on(self.source.other());
        source.settle_stream().await?;
        let mut tx = source.read().await?;
        let head = source.head(&mut tx).await?;
        drop(tx);
        for _ in 0..PATIENCE {
            let mut tx = target.read().await?;
            let position = target.position(&mut tx, self.source).await?;
            if position.is_some_and(|p| p.seq >= head) {
                return Ok(true);
            }
            if !self.shared.status(|s| s.running) {
                return Ok(false);
            }
            drop(tx);
            tokio::time::sleep(self.shared.limits().poll).await;
        }
        Ok(false)
    }
}

/// Why a database computes no checksums, with the remedy where there is one.
fn no_sums(cause: &str) -> String {
    // MySQL has MD5 as a component of its own since 9.6.
    if cause.contains("MD5 does not exist") {
        return format!("{cause} (INSTALL COMPONENT 'file://component_classic_hashing')");
    }
    cause.to_owned()
}
