//! Looks, inside the transaction that writes a batch, whether the side that is written has changes
//! of the same rows that the batch's side has not seen, and lets the policy decide.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use outgrow_rollout::Side;

use super::books::{At, Carried, Conflict, Pending};
use super::policy::{Decision, Policy, decide};
use super::version;
use crate::batch::{Work, images};
use crate::db::{Database, Dialect, Tx, now_ms, rows};
use crate::error::{Error, OnSide};
use crate::plan::{Group, Image, Plan};
use crate::value::{Key, key_text};

/// What a batch is checked against. Its rows come from the other side of `target`.
#[derive(Debug)]
pub(crate) struct Guard<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) policy: &'a Policy,
    pub(crate) writer: Side,
    pub(crate) target: &'a Database,
    /// How much of the target's stream the batch's side has.
    pub(crate) back: i64,
    /// Rows that wait for a person: (legacy table, key).
    pub(crate) held: &'a HashSet<(String, Key)>,
    /// When the batch's rows were changed.
    pub(crate) times: HashMap<At, i64>,
    /// Rows of the target that the batch's side could not take, and since when.
    pub(crate) refused: HashMap<At, i64>,
    /// A person has decided for the batch's side: the open conflict, and whose book it is in.
    pub(crate) settles: Option<(Side, i64)>,
    pub(crate) done: Mutex<Done>,
}

/// What a committed batch has decided.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) held: Vec<(String, Key)>,
    pub(crate) conflicts: u64,
    pub(crate) carried: Carried,
}

/// What is to be written of a batch, and what is to be kept of the rest.
#[derive(Debug, Default)]
pub(crate) struct Ruling {
    /// `None`: all of it.
    work: Option<Vec<Work>>,
    conflicts: Vec<Conflict>,
    seen: Vec<(At, i64)>,
    pending: HashMap<At, Pending>,
    keys: HashSet<At>,
}

impl Ruling {
    pub(crate) fn work<'w>(&'w self, all: &'w [Work]) -> &'w [Work] {
        self.work.as_deref().unwrap_or(all)
    }
}

impl Guard<'_> {
    pub(crate) fn into_done(self) -> Done {
        self.done
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides what of a batch is written. Rows that both sides have changed are locked.
    pub(crate) async fn rule(&self, tx: &mut Tx, work: &[Work]) -> Result<Ruling, Error> {
        let mut ruling = Ruling {
            keys: work.iter().map(|w| (w.group, w.key.clone())).collect(),
            ..Ruling::default()
        };
        if work.is_empty() {
            return Ok(ruling);
        }
        self.target.place_within(tx).await?;
        let keys = &ruling.keys;
        ruling.pending = self.target.pending(tx, self.plan, keys, self.back).await?;
        let contested = |work: &Work| {
            let at = (work.group, work.key.clone());
            work.target.is_ok()
                && (ruling.pending.contains_key(&at)
                    || self.refused.contains_key(&at)
                    || self.settles.is_some())
        };
        let contested: Vec<bool> = work.iter().map(contested).collect();
        let held: Vec<bool> = work.iter().map(|w| self.is_held(w)).collect();
        if !contested.iter().chain(&held).any(|any| *any) {
            return Ok(ruling);
        }
        let chosen = || work.iter().zip(&contested).zip(&held);
        let of = chosen().filter(|((_, contested), held)| **contested && !**held);
        let there = self.locked(tx, of.map(|((w, _), _)| w)).await?;
        let mut kept = Vec::with_capacity(work.len());
        for ((work, contested), held) in chosen() {
            if *held || *contested && !self.weigh(work, &there, &mut ruling) {
                continue;
            }
            kept.push(work.clone());
        }
        ruling.work = Some(kept);
        Ok(ruling)
    }

    fn is_held(&self, work: &Work) -> bool {
        let name = self.plan.groups[work.group].name();
        self.settles.is_none()
            && !self.held.is_empty()
            && self.held.contains(&(name.to_owned(), work.key.clone()))
    }

    /// What the target has for these rows, locked until the end.
    async fn locked<'w>(
        &self,
        tx: &mut Tx,
        work: impl Iterator<Item = &'w Work>,
    ) -> Result<HashMap<At, Image>, Error> {
        let mut by_group: HashMap<usize, Vec<Key>> = HashMap::new();
        for work in work {
            let keys = by_group.entry(work.group).or_default();
            keys.push(work.key.clone());
        }
        let mut found = HashMap::new();
        for (at, keys) in by_group {
            let group = &self.plan.groups[at];
            for table in group.tables(self.target.side) {
                rows::lock(tx, table, &keys).await.on(self.target.side)?;
            }
            let images = images(group, self.target, tx, &keys).await?;
            found.extend(images.into_iter().map(|(key, image)| ((at, key), image)));
        }
        Ok(found)
    }

    /// Decides one row. `true` when the batch's version is to be written.
    fn weigh(&self, work: &Work, there: &HashMap<At, Image>, ruling: &mut Ruling) -> bool {
        let group = &self.plan.groups[work.group];
        let at = (work.group, work.key.clone());
        let empty = || vec![None; group.tables(self.target.side).len()];
        let there = there.get(&at).cloned().unwrap_or_else(empty);
        let from = self.target.side.other();
        let mine = shape(group, from, &work.source);
        let theirs = shape(group, self.target.side, &there);
        let (legacy, extracted) = match from {
            Side::Legacy => (&mine, &theirs),
            Side::Extracted => (&theirs, &mine),
        };
        let decision = match (&legacy.image, &extracted.image, self.settles) {
            (_, _, Some(_)) => Decision::Wins(from),
            (Some(legacy), Some(extracted), None) => {
                decide(self.policy, self.writer, group, legacy, extracted)
            }
            // What does not map is not compared.
            _ => match self.policy {
                Policy::Legacy => Decision::Wins(Side::Legacy),
                Policy::Extracted => Decision::Wins(Side::Extracted),
                Policy::Manual => Decision::Hold,
                Policy::Writer | Policy::Newest(_) => Decision::Wins(self.writer),
            },
        };
        let writes = matches!(decision, Decision::Same) || decision == Decision::Wins(from);
        let pending = ruling.pending.get(&at).copied();
        if let (true, Some(pending)) = (writes, pending) {
            // What the target had is gone or the same: its stream need not tell of it.
            ruling.seen.push((at.clone(), pending.seq));
        }
        if decision == Decision::Same {
            return true;
        }
        let theirs_at = pending
            .map(|p| p.at_ms)
            .or_else(|| self.refused.get(&at).copied());
        let mine_at = self.times.get(&at).copied();
        let (legacy_at, extracted_at) = match from {
            Side::Legacy => (mine_at, theirs_at),
            Side::Extracted => (theirs_at, mine_at),
        };
        let now = now_ms();
        let winner = match decision {
            Decision::Wins(side) => Some(side),
            Decision::Same | Decision::Hold => None,
        };
        ruling.conflicts.push(Conflict {
            id: 0,
            table: group.name().to_owned(),
            key: key_text(&work.key),
            cells: work.key.clone(),
            legacy: legacy.text.clone(),
            extracted: extracted.text.clone(),
            legacy_at,
            extracted_at,
            at_ms: now,
            policy: match self.settles {
                Some(_) => "by hand".to_owned(),
                None => self.policy.to_string(),
            },
            winner,
            settled_at: winner.map(|_| now),
            settles: None,
        });
        writes
    }

    /// Writes down what was decided. `false` when the target has changed a row meanwhile: nothing
    /// of the transaction may stand then.
    pub(crate) async fn finish(&self, tx: &mut Tx, ruling: &Ruling) -> Result<bool, Error> {
        let target = self.target;
        if target.dialect() != Dialect::Sqlite && !ruling.keys.is_empty() {
            target.place_within(tx).await?;
            let now = target
                .pending(tx, self.plan, &ruling.keys, self.back)
                .await?;
            if now != ruling.pending {
                return Ok(false);
            }
        }
        for conflict in &ruling.conflicts {
            self.keep(tx, conflict).await?;
        }
        for ((group, key), seq) in &ruling.seen {
            let table = self.plan.groups[*group].name();
            target.note_seen(tx, table, key, *seq).await?;
        }
        let held = ruling.conflicts.iter().filter(|c| c.winner.is_none());
        let mut done = Done {
            held: held.map(|c| (c.table.clone(), c.cells.clone())).collect(),
            conflicts: ruling.conflicts.len() as u64,
            carried: Carried::default(),
        };
        if self.settles.is_none() && target.side == self.writer && !self.times.is_empty() {
            done.carried = self.carried(ruling);
            target.note_carried(tx, &done.carried).await?;
        }
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = done;
        Ok(true)
    }

    /// Keeps a conflict, or closes the one that a person has decided.
    async fn keep(&self, tx: &mut Tx, conflict: &Conflict) -> Result<(), Error> {
        match self.settles {
            Some((home, id)) if home == self.target.side => {
                self.target.close_conflict(tx, id, conflict).await
            }
            Some((_, id)) => {
                let settling = Conflict {
                    settles: Some(id),
                    ..conflict.clone()
                };
                self.target.note_conflict(tx, &settling).await
            }
            None => self.target.note_conflict(tx, conflict).await,
        }
    }

    fn carried(&self, ruling: &Ruling) -> Carried {
        let last = self.times.iter().max_by_key(|(_, at)| **at);
        let name = |group: usize| {
            let tables = self.plan.groups[group].tables(self.target.side.other());
            tables.first().map(|t| t.name.clone()).unwrap_or_default()
        };
        Carried {
            rows: match &ruling.work {
                Some(work) => work.len() as u64,
                None => ruling.keys.len() as u64,
            },
            at_ms: last.map(|(_, at)| *at),
            table: last.map(|((group, _), _)| name(*group)).unwrap_or_default(),
        }
    }
}

/// A version in the extracted shape, and the text that is kept of it.
struct Shaped {
    image: Option<Image>,
    text: String,
}

fn shape(group: &Group, side: Side, image: &Image) -> Shaped {
    let mapped = match side {
        Side::Extracted => Ok(image.clone()),
        Side::Legacy => group.map(Side::Legacy, image),
    };
    match mapped {
        Ok(image) => Shaped {
            text: version::text(group.tables(Side::Extracted), &image),
            image: Some(image),
        },
        // Kept as it is where it was.
        Err(_) => Shaped {
            text: version::text(group.tables(side), image),
            image: None,
        },
    }
}

pub(crate) fn shaped_text(group: &Group, side: Side, image: &Image) -> String {
    shape(group, side, image).text
}
