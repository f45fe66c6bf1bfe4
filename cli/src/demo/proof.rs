//! Holds the ledger against the databases.
//!
//! A slice's legacy side is fed until its link closes, at the retirement, while the shoppers go
//! on. So both sides are checked right before the retirement, for every write acknowledged
//! until then; what came later is checked on the side that takes the writes, after the shoppers
//! have left. A row that differs at a glance may be one that is under way: it counts as
//! different only if it does not become alike within [`SETTLES`].

use std::collections::BTreeSet;
use std::time::Duration;

use outgrow_rollout::Side;
use tokio::time::Instant;

use super::databases::{Database, Facts, ORDERS, Pair};
use super::layout::Layout;
use super::ledger::{Kind, Ledger};
use super::oracle::{self, Verdict};
use super::shoppers::votes;
use super::summary::Rows;

/// Many times the lag that the gates allow, so that only what is lost does not settle.
const SETTLES: Duration = Duration::from_secs(8);
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// The two databases of a slice.
#[derive(Debug)]
pub(crate) struct Sides {
    legacy: Database,
    extracted: Database,
    facts: Facts,
    /// Votes on the legacy side before the first shopper came.
    votes_before: i64,
}

impl Sides {
    /// Opens both, before the first shopper comes.
    ///
    /// # Errors
    /// When one cannot be read.
    pub(crate) async fn open(layout: &Layout, slice: &str, facts: Facts) -> anyhow::Result<Self> {
        let legacy = Database::open(&layout.database("shop")).await?;
        let extracted = Database::open(&layout.database(slice)).await?;
        let votes_before = match facts.votes {
            Some(sum) => legacy.number(sum.legacy).await?,
            None => 0,
        };
        Ok(Self {
            legacy,
            extracted,
            facts,
            votes_before,
        })
    }

    pub(crate) fn legacy(&self) -> &Database {
        &self.legacy
    }

    /// Every write acknowledged by now is on both sides, once. Shoppers go on meanwhile.
    ///
    /// # Errors
    /// When a database cannot be read.
    pub(crate) async fn prove_both(&self, ledger: &Ledger) -> anyhow::Result<Verdict> {
        let deadline = Instant::now() + SETTLES;
        let mut whole = Verdict::default();
        for trace in self.facts.traces {
            let claims = ledger.claims(trace.kind);
            loop {
                let ours = self.legacy.tokens(trace.legacy, ledger.prefix()).await?;
                let theirs = self
                    .extracted
                    .tokens(trace.extracted, ledger.prefix())
                    .await?;
                let mut verdict = oracle::judge_while_writing(&claims, &ours);
                verdict.merge(oracle::judge_while_writing(&claims, &theirs));
                // Only what is missing may yet come.
                if verdict.missing.is_empty() || Instant::now() > deadline {
                    whole.merge(verdict);
                    break;
                }
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
        }
        Ok(whole)
    }

    /// Every write of the whole run is on the side that takes the writes, once, and nothing
    /// else is. Nobody writes any more.
    ///
    /// # Errors
    /// When a database cannot be read.
    pub(crate) async fn prove_writer(
        &self,
        ledger: &Ledger,
        writer: Side,
    ) -> anyhow::Result<Verdict> {
        let database = match writer {
            Side::Legacy => &self.legacy,
            Side::Extracted => &self.extracted,
        };
        let mut whole = Verdict::default();
        for trace in self.facts.traces {
            let query = match writer {
                Side::Legacy => trace.legacy,
                Side::Extracted => trace.extracted,
            };
            let found = database.tokens(query, ledger.prefix()).await?;
            whole.merge(oracle::judge(&ledger.claims(trace.kind), &found));
        }
        if let Some(sum) = self.facts.votes {
            let query = match writer {
                Side::Legacy => sum.legacy,
                Side::Extracted => sum.extracted,
            };
            let gained = database.number(query).await? - self.votes_before;
            let (sure, at_most) = votes(ledger);
            let (missing, duplicated) = oracle::judge_votes(gained, sure, at_most);
            // A vote has no token of its own to be named by.
            whole
                .missing
                .extend((0..missing).map(|n| format!("vote {n}")));
            whole
                .duplicated
                .extend((0..duplicated).map(|n| format!("vote {n}")));
        }
        Ok(whole)
    }

    /// Compares every row of both sides.
    ///
    /// # Errors
    /// When a database cannot be read.
    pub(crate) async fn compare(&self) -> anyhow::Result<Rows> {
        let mut sum = Rows::default();
        for pair in self.facts.pairs {
            let rows = self.compare_pair(*pair).await?;
            sum.legacy += rows.legacy;
            sum.extracted += rows.extracted;
            sum.different += rows.different;
        }
        Ok(sum)
    }

    async fn compare_pair(&self, pair: Pair) -> anyhow::Result<Rows> {
        let mut ours = self.legacy.rows(pair.legacy).await?;
        let mut theirs = self.extracted.rows(pair.extracted).await?;
        let deadline = Instant::now() + SETTLES;
        let mut open = oracle::differing(&ours, &theirs);
        while !open.is_empty() && Instant::now() < deadline {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            let mut still = BTreeSet::new();
            for key in open {
                let our = self.legacy.row(pair.legacy, key).await?;
                let their = self.extracted.row(pair.extracted, key).await?;
                if our != their {
                    still.insert(key);
                }
                put(&mut ours, key, our);
                put(&mut theirs, key, their);
            }
            open = still;
        }
        Ok(Rows {
            legacy: ours.len() as u64,
            extracted: theirs.len() as u64,
            different: open.len() as u64,
        })
    }
}

/// Orders are made in the monolith, from the first to the last.
///
/// # Errors
/// When the database cannot be read.
pub(crate) async fn prove_orders(layout: &Layout, ledger: &Ledger) -> anyhow::Result<Verdict> {
    let shop = Database::open(&layout.database("shop")).await?;
    let found = shop.tokens(ORDERS, ledger.prefix()).await?;
    Ok(oracle::judge(&ledger.claims(Kind::Order), &found))
}

fn put(rows: &mut oracle::Rows, key: i64, row: Option<String>) {
    match row {
        Some(row) => drop(rows.insert(key, row)),
        None => drop(rows.remove(&key)),
    }
}
