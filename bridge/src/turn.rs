//! Starting a link, and turning it round. Owns who is the source, which is written in both
//! databases, and the epochs that shut out workers of the time before.
//!
//! A turn is made in two transactions, first on the old source, then on the new. Dying between
//! the two leaves both sides fenced and no row lost: the new source has not been opened, so
//! either direction can be resumed from its own position.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use outgrow_rollout::{DataPhase, Side};

use crate::again;
use crate::batch::UNPLACED;
use crate::beats::Beats;
use crate::both::Writes;
use crate::db::books::{Copy, Position};
use crate::db::origin::Origin;
use crate::db::{Database, Tx, rows};
use crate::engine::Engine;
use crate::error::{Error, OnSide};
use crate::moments::Moments;
use crate::pace::Pace;
use crate::parked::Retries;
use crate::plan::Plan;
use crate::shared::Shared;
use crate::short::Short;
use crate::status::{Status, TableProgress};

/// What both databases say of the link.
struct Roles {
    legacy: (Side, i64),
    extracted: (Side, i64),
}

impl Roles {
    /// The source that both agree on.
    fn agreed(&self) -> Option<Side> {
        (self.legacy == self.extracted).then_some(self.legacy.0)
    }

    fn last_turn(&self) -> i64 {
        self.legacy.1.max(self.extracted.1)
    }
}

impl Shared {
    /// Refuses writes on both sides where they cannot be.
    fn may_both(&self) -> Result<(), Error> {
        let problems = self.cannot_both();
        let slice = self.spec.slice.clone();
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Error::Mapping { slice, problems }),
        }
    }
}

async fn roles(shared: &Shared) -> Result<Roles, Error> {
    let one = async |database: &Database| {
        let mut tx = database.read().await?;
        let control = database.control(&mut tx).await?;
        Ok::<_, Error>((control.source, control.turn))
    };
    Ok(Roles {
        legacy: one(&shared.legacy).await?,
        extracted: one(&shared.extracted).await?,
    })
}

impl Engine {
    /// Installs what is missing and takes the link over from whoever had it.
    pub(crate) async fn start(shared: Arc<Shared>, phase: DataPhase) -> Result<Self, Error> {
        shared.check_files()?;
        // What an engine before this one had not on record is found by the log.
        shared.legacy.ask_anew().await;
        shared.extracted.ask_anew().await;
        shared.may_both()?;
        shared.not_parked().await?;
        // Before the tables are looked at: what changes from here on is seen.
        let schema_versions = shared.schema_versions().await?;
        let (plan, schemas) = shared.plan(None).await?;
        let plan = Arc::new(plan);
        if shared.legacy.installed().await? && shared.extracted.installed().await? {
            // Looked for before anything is made again: a gap must not be papered over. And before the
            // stream is looked at to be taken over: the log is that of the same server, or refused.
            for database in [&shared.legacy, &shared.extracted] {
                database.stream_in_order().await?;
            }
            let known = known_tables(&shared).await?;
            check_capture(&shared, &plan, &known).await?;
        }
        for database in [&shared.legacy, &shared.extracted] {
            database.install(&plan).await?;
            // Before the first row is read: what is emptied from here on is seen to be.
            if shared.spec.writes == Writes::One {
                database.note_emptied(&plan).await?;
            }
        }
        // Another process may have parked it meanwhile, and what was taken away is made again.
        shared.not_parked().await?;
        let recorded = settle(&shared).await?;
        let forward = claim(&shared, recorded).await?;
        let back = claim(&shared, recorded.other()).await?;
        shared.pass("claimed");
        let copies = begin_copies(&shared, &plan).await?;
        let again = again::begin(&shared, (&plan, &schemas), recorded, &copies).await?;
        let now = Instant::now();
        let mut engine = Self {
            carried: Arc::clone(&plan),
            plan,
            source: recorded,
            epoch: forward.epoch,
            applied: forward.seq,
            mark: forward.mark,
            epoch_back: back.epoch,
            applied_back: back.seq,
            mark_back: back.mark,
            copies,
            again,
            looked_at: HashMap::new(),
            pace: Pace::default(),
            unplaced: std::collections::HashSet::new(),
            recent: crate::recent::Recent::default(),
            schema_versions,
            schemas,
            beats: Beats::default(),
            next_beat: now,
            next_chores: now,
            next_emptied: now,
            retries: Retries::new(now),
            parked: 0,
            renamed: std::collections::VecDeque::new(),
            both: crate::both::load(&shared).await?,
            short: Short::default(),
            seen_back: false,
            half_turned: false,
            copies_in_doubt: false,
            published: None,
            shared,
        };
        engine.publish(forward.beat);
        engine.count().await?;
        engine.fence_passive(phase).await?;
        Ok(engine)
    }

    fn publish(&self, beat: Option<i64>) {
        let of = |name: &str| self.copies.iter().find(|c| c.table == name);
        let tables: Vec<TableProgress> = self
            .plan
            .groups
            .iter()
            .map(|group| TableProgress {
                legacy: group.name().to_owned(),
                extracted: group
                    .tables(Side::Extracted)
                    .iter()
                    .map(|t| t.name.clone())
                    .collect(),
                done: of(group.name()).is_some_and(|c| c.done),
                copied: of(group.name()).map_or(0, |c| c.copied),
                total: of(group.name()).map_or(0, |c| c.total),
                ..TableProgress::default()
            })
            .collect();
        self.shared.status(|s| {
            s.source = self.source;
            s.tables = tables;
            s.copied = self.copied();
            s.applied = self.applied;
            s.beat_ms = beat.or(s.beat_ms);
            s.failed = None;
        });
        self.show_again();
    }

    /// From the moment that the passive side follows, only the bridge may write it.
    pub(crate) async fn fence_passive(&self, phase: DataPhase) -> Result<(), Error> {
        let follows = matches!(phase, DataPhase::Following | DataPhase::Reversed);
        if self.shared.spec.writes.both().is_some() || follows && self.copied() {
            self.settle_passive().await?;
        }
        Ok(())
    }

    /// Makes the other side the source, from the exact place where both are alike.
    pub(crate) async fn turn(&mut self, source: Side) -> Result<(), Error> {
        self.take_up().await?;
        self.leave_short().await?;
        if self.source == source && roles(&self.shared).await?.agreed() == Some(source) {
            // Done before, perhaps up to the last step.
            self.set_fence(source, false).await?;
            return self.settle_passive().await;
        }
        if !self.copied() {
            return Err(Error::NotCopied(self.shared.spec.slice.clone()));
        }
        if self.reads_again() {
            return Err(Error::ReadsAgain(self.shared.spec.slice.clone()));
        }
        // What codes mean now must be on the other side before it is the one that says it.
        self.watch_lookups().await?;
        while self.carry_renamed().await? {}
        if self.both_ways() {
            self.drain_both().await?;
        } else {
            // Foreign writes of the side that becomes the source must be on record before.
            let mut before = i64::MIN;
            while before < self.applied_back {
                before = self.applied_back;
                self.follow_back().await?;
            }
        }
        self.half_turned = true;
        let turned = turn(&self.shared, &self.plan, source).await;
        // Also after a failure: it may have come between the two transactions.
        let taken = self.take_up().await;
        turned?;
        taken?;
        self.shared.status(Status::caught_up);
        Ok(())
    }

    /// Takes both streams over anew where a turn may have ended half-way, and fails until that is
    /// done: what is known of them from before would look like that of an older worker.
    pub(crate) async fn take_up(&mut self) -> Result<(), Error> {
        if self.copies_in_doubt {
            self.copies = begin_copies(&self.shared, &self.plan).await?;
            self.copies_in_doubt = false;
        }
        if !self.half_turned {
            return Ok(());
        }
        let before = self.source;
        self.source = settle(&self.shared).await?;
        let forward = claim(&self.shared, self.source).await?;
        let back = claim(&self.shared, self.source.other()).await?;
        (self.epoch, self.applied) = (forward.epoch, forward.seq);
        (self.epoch_back, self.applied_back) = (back.epoch, back.seq);
        (self.mark, self.mark_back) = (forward.mark, back.mark);
        self.unplaced.clear();
        self.seen_back = false;
        self.half_turned = false;
        self.next_chores = Instant::now();
        self.shared.status(|s| {
            if before != self.source {
                // Directions are named from the source: what crossed before crossed the other one.
                std::mem::swap(&mut s.crossed, &mut s.crossed_back);
                s.beat_ms = s.crossed.map(|c| c.beat_ms);
                s.moments = Moments::default();
            }
            s.source = self.source;
            s.applied = forward.seq;
        });
        Ok(())
    }
}

/// Legacy tables that were followed before.
async fn known_tables(shared: &Shared) -> Result<Vec<String>, Error> {
    let mut tx = shared.extracted.read().await?;
    let copies = shared.extracted.copies(&mut tx).await?;
    Ok(copies.into_iter().map(|c| c.table).collect())
}

/// Refuses to go on where capture was removed, e.g. by rebuilding a table.
pub(crate) async fn check_capture(
    shared: &Shared,
    plan: &Plan,
    known: &[String],
) -> Result<(), Error> {
    for database in [&shared.legacy, &shared.extracted] {
        if let Some(table) = database.lost_capture(plan, known).await? {
            let side = database.side;
            return Err(Error::CaptureLost { side, table });
        }
    }
    Ok(())
}

/// Brings both databases to one opinion of who the source is. Where they differ, a turn died
/// between its two transactions: both sides are fenced still, and the old source is taken again,
/// from where a whole turn can follow.
async fn settle(shared: &Shared) -> Result<Side, Error> {
    let roles = roles(shared).await?;
    if let Some(source) = roles.agreed() {
        return Ok(source);
    }
    // The old source's database is written first, so the other still has the old opinion.
    let old = if roles.legacy.1 > roles.extracted.1 {
        roles.extracted.0
    } else {
        roles.legacy.0
    };
    let turn = roles.last_turn() + 1;
    for side in [old.other(), old] {
        let database = shared.on(side);
        let mut tx = database.write().await?;
        database.set_source(&mut tx, old, turn).await?;
        if side == old {
            database.reopen_segment(&mut tx).await?;
        }
        tx.commit().await.on(side)?;
    }
    Ok(old)
}

impl Engine {
    /// Why a stream cannot be read: another process that has taken over may be reading its log, and has
    /// trimmed it.
    pub(crate) async fn instead_of(&self, error: Error) -> Error {
        let into = self.shared.on(self.source.other());
        let position = async {
            let mut tx = into.read().await?;
            into.position(&mut tx, self.source).await
        };
        match position.await {
            Ok(Some(position)) if position.epoch > self.epoch => {
                Error::Superseded(self.shared.spec.slice.clone())
            }
            _ => error,
        }
    }
}

/// Takes over the stream from `stream`: a new epoch, so that an older worker changes nothing any
/// more. A stream that was never followed begins here and now.
async fn claim(shared: &Shared, stream: Side) -> Result<Position, Error> {
    let (from, into) = (shared.on(stream), shared.on(stream.other()));
    let mut tx = into.write().await?;
    into.hold_position(&mut tx, stream).await?;
    let place = into.place_of(&mut tx, stream).await?;
    let kept = place.map(|place| place.seq);
    let known = into.position(&mut tx, stream).await?;
    // Behind the position: an older worker may be applying what comes in still, and a look at the
    // source from before would seem to be of one that has lost it.
    let mut there = from.read().await?;
    let head = from.head(&mut there).await?;
    let birth = from.control(&mut there).await?.birth;
    let beat = from.last_beat(&mut there, "").await?;
    comes_from(shared, stream, &mut tx, &mut there).await?;
    let position = match known {
        None => Position {
            epoch: 1,
            seq: head,
            birth,
            beat: None,
            mark: from.mark_at(&mut there, head).await?,
        },
        Some(known) if known.birth != birth => {
            return Err(Error::Discontinued {
                side: stream,
                what: "its change stream is another one".to_owned(),
            });
        }
        Some(known) if known.seq > head && from.tells_rows() && kept == Some(known.seq) => {
            // Applied the short way and not on record yet, if the log bears it out.
            Position {
                epoch: known.epoch + 1,
                ..known
            }
        }
        Some(known) if known.seq <= head => {
            from.has_beaten(beat, known.beat)?;
            let unplaced = from.unplaced(&mut there, UNPLACED).await?;
            let mark = known.mark.as_ref();
            from.still_has(&mut there, mark, &unplaced).await?;
            Position {
                epoch: known.epoch + 1,
                ..known
            }
        }
        Some(known) => {
            return Err(from.is_short(head, known.seq));
        }
    };
    drop(there);
    into.set_position(&mut tx, stream, &position).await?;
    tx.commit().await.on(into.side)?;
    // Nobody else can move the position any more, and what it says is on the target's disk.
    if let Some(place) = place.filter(|place| place.seq == position.seq && place.seq > head) {
        from.explains(place).await?;
    }
    from.taken_over().await;
    Ok(position)
}

/// Refuses a stream that comes from another server than what was applied of it, whoever was asked
/// first, and notes which one it is where nobody has.
async fn comes_from(
    shared: &Shared,
    stream: Side,
    tx: &mut Tx,
    there: &mut Tx,
) -> Result<(), Error> {
    let (from, into) = (shared.on(stream), shared.on(stream.other()));
    let Some(server) = from.server_now().await? else {
        return Ok(());
    };
    let known = into.origin(tx, stream).await?;
    if let Some(was) = known.as_ref().filter(|known| known.server != server) {
        return Err(Error::Elsewhere {
            side: stream,
            slice: shared.spec.slice.clone(),
            what: format!("it had {} and has {server}", was.server),
        });
    }
    if let Some(gtids) = known.as_ref().and_then(|known| known.gtids.as_deref()) {
        // What was being committed at that moment may be named and gone, unseen.
        let lacking = from.lacks(gtids).await?;
        if !lacking.is_empty() {
            let lacking = lacking.join(", ");
            tracing::warn!(slice = %shared.spec.slice, side = %stream, %lacking,
                "the server came back without transactions whose rows may have been carried over: \
                 run `outgrow sync verify`");
        }
    }
    if known.is_none_or(|known| known.gtids.is_none()) {
        let gtids = from.named(there).await?;
        let origin = Origin { server, gtids };
        into.set_origin(tx, stream, &origin).await?;
    }
    Ok(())
}

/// The backfill's cursors, made at the first start.
async fn begin_copies(shared: &Shared, plan: &Plan) -> Result<Vec<Copy>, Error> {
    let target = &shared.extracted;
    let mut tx = target.read().await?;
    let known = target.copies(&mut tx).await?;
    drop(tx);
    let mut copies = Vec::new();
    for group in &plan.groups {
        if let Some(copy) = known.iter().find(|c| c.table == group.name()) {
            copies.push(copy.clone());
            continue;
        }
        let mut tx = shared.legacy.read().await?;
        let table = &group.tables(Side::Legacy)[0];
        let total = rows::about(&mut tx, table).await.on(Side::Legacy)?;
        drop(tx);
        let copy = Copy {
            table: group.name().to_owned(),
            done: false,
            copied: 0,
            total,
            cursor: None,
        };
        let mut tx = target.write().await?;
        target.save_copy(&mut tx, &copy).await?;
        tx.commit().await.on(target.side)?;
        copies.push(copy);
    }
    Ok(copies)
}

async fn turn(shared: &Shared, plan: &Plan, source: Side) -> Result<(), Error> {
    let (new, old) = (shared.on(source), shared.on(source.other()));
    old.settle_stream().await?;
    let next = roles(shared).await?.last_turn() + 1;
    let mut here = new.write().await?;
    let control = new.control(&mut here).await?;
    if !control.fenced {
        return Err(Error::NotFenced(new.side));
    }
    let position = new.position(&mut here, old.side).await?;
    let mut there = old.write().await?;
    if !old.control(&mut there).await?.fenced {
        return Err(Error::NotFenced(old.side));
    }
    let waiting = old
        .waiting(&mut there, position.as_ref().map_or(0, |p| p.seq))
        .await?;
    if waiting > 0 {
        let side = old.side;
        return Err(Error::NotDrained { side, waiting });
    }
    let both = shared.spec.writes.both().is_some();
    let sequences = if both {
        // Each side gives out ids of its own.
        new_drained(new, &mut here, &mut there, old).await?;
        Vec::new()
    } else {
        old_sequences(old, &mut there, new, plan).await?
    };
    let head = new.head(&mut here).await?;
    let begin = Position {
        epoch: old
            .position(&mut there, source)
            .await?
            .map_or(1, |p| p.epoch + 1),
        seq: head,
        birth: control.birth,
        beat: None,
        mark: new.mark_at(&mut here, head).await?,
    };
    old.set_position(&mut there, source, &begin).await?;
    old.set_source(&mut there, source, next).await?;
    let told = old.end_segment(&mut there).await?;
    there.commit().await.on(old.side)?;
    shared.pass("half-turned");
    // Ids that the old source gave out must not be given out again.
    if !both {
        new.raise_sequences(&mut here, plan, &sequences).await?;
    }
    new.set_source(&mut here, source, next).await?;
    if told {
        new.begin_segment(&mut here, next, begin.seq, &begin.birth)
            .await?;
    }
    new.set_fence(&mut here, false).await?;
    here.commit().await.on(new.side)?;
    shared.pass("turned");
    Ok(())
}

/// Where both sides took writes, those of the side that becomes the source are applied, too.
async fn new_drained(
    new: &Database,
    here: &mut Tx,
    there: &mut Tx,
    old: &Database,
) -> Result<(), Error> {
    let position = old.position(there, new.side).await?;
    let after = position.map_or(0, |p| p.seq);
    let waiting = new.waiting(here, after).await?;
    if waiting > 0 {
        let side = new.side;
        return Err(Error::NotDrained { side, waiting });
    }
    Ok(())
}

/// The last ids that the old source has, by the new source's table that gives them out next.
pub(crate) async fn old_sequences(
    old: &Database,
    tx: &mut Tx,
    new: &Database,
    plan: &Plan,
) -> Result<Vec<(String, i64)>, Error> {
    let mut values = Vec::new();
    for group in &plan.groups {
        let mut last = 0;
        for table in group.tables(old.side) {
            if table.autoincrement {
                last = last.max(old.sequence(&mut *tx, &table.name).await?);
            }
            // Where keys are generated otherwise, or come from elsewhere.
            last = last.max(rows::largest(&mut *tx, table).await.on(old.side)?);
        }
        let tables = group.tables(new.side);
        if group.keys_apart() && tables.iter().any(|table| table.autoincrement) {
            // The old side's keys are no numbers; all that is there of them is here, too.
            let mut here = new.read().await?;
            for table in tables {
                last = last.max(rows::largest(&mut here, table).await.on(new.side)?);
            }
        }
        for table in tables.iter().filter(|t| t.autoincrement && last > 0) {
            values.push((table.name.clone(), last));
        }
    }
    Ok(values)
}
