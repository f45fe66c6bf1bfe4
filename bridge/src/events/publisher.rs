//! The task that tells a link's changes to the broker.
//!
//! It reads in snapshots of its own, holds no transaction while it waits for the broker, and
//! writes one small row a few times a second. The link's worker never waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outgrow_rollout::Side;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::event::{Event, Present, Stream, keys, reads, waves};
use super::segments::{Segment, choose};
use super::{Desk, SinkError};
use crate::batch::images;
use crate::db::stream::Change;
use crate::db::{Database, Tx, now_ms};
use crate::error::{Error, OnSide};
use crate::plan::Plan;
use crate::portion::{self, Each};
use crate::shared::Shared;
use crate::worker::Places;

/// Changes read at once.
const BATCH: u32 = 1_000;
/// Between two looks when nothing has woken the publisher: a link that is stuck wakes nobody.
const IDLE: Duration = Duration::from_millis(250);
/// How often the place is written while rows are told. What was told since is told again after a
/// crash, and known by its ids.
const SAVE: Duration = Duration::from_millis(250);
/// As [`SAVE`], where there were only heartbeats.
const SAVE_IDLE: Duration = Duration::from_secs(5);
/// First and longest wait before the broker is tried again.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// Why the publisher does not go on at once.
enum Halt {
    /// Tried again.
    Trouble(String),
    /// Another publisher has taken over.
    Superseded,
}

impl From<String> for Halt {
    fn from(error: String) -> Self {
        Self::Trouble(error)
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Trouble(error.to_string())
    }
}

enum Step {
    More,
    /// Until the link has news.
    Idle,
    /// Until some time has passed.
    Rest,
    Parked(String),
}

/// Makes the first segment: from here on every change is told. Where events are not wanted any
/// more, what was held for them is let go.
pub(crate) async fn begin(shared: &Shared, source: Side) -> Result<(), Error> {
    if shared.events.is_none() {
        for side in [Side::Legacy, Side::Extracted] {
            if shared.on(side).drop_segments().await? > 0 {
                let slice = &shared.spec.slice;
                tracing::warn!(%slice, %side, "events are not published any more: their place is forgotten");
            }
        }
        return Ok(());
    }
    for side in [Side::Legacy, Side::Extracted] {
        let mut tx = shared.on(side).read().await?;
        if !shared.on(side).segments(&mut tx).await?.is_empty() {
            return Ok(());
        }
    }
    let database = shared.on(source);
    let mut tx = database.write().await?;
    let control = database.control(&mut tx).await?;
    let head = database.head(&mut tx).await?;
    let (turn, birth) = (control.turn, control.birth);
    database.begin_segment(&mut tx, turn, head, &birth).await?;
    tx.commit().await.on(source)
}

/// Tells changes until it is told to stop.
pub(crate) async fn publish(
    shared: Arc<Shared>,
    mut places: watch::Receiver<Places>,
    cancel: CancellationToken,
) {
    let Some(desk) = &shared.events else { return };
    desk.state(|s| s.running = true);
    let mut publisher = Publisher::new(&shared, desk);
    tokio::select! {
        () = cancel.cancelled() => {}
        () = publisher.run(&mut places) => {}
    }
    if let Err(Halt::Trouble(error)) = publisher.save(Duration::ZERO).await {
        let slice = &shared.spec.slice;
        tracing::warn!(%slice, %error, "the place of the events could not be written at the end");
    }
    desk.state(|s| s.running = false);
}

struct Publisher<'a> {
    shared: &'a Shared,
    desk: &'a Desk,
    /// What is told at present.
    held: Option<Segment>,
    /// Rows were told since the place was written, or only heartbeats passed.
    told: bool,
    moved: bool,
    saved: Instant,
}

impl<'a> Publisher<'a> {
    fn new(shared: &'a Shared, desk: &'a Desk) -> Self {
        Self {
            shared,
            desk,
            held: None,
            told: false,
            moved: false,
            saved: Instant::now(),
        }
    }

    async fn run(&mut self, places: &mut watch::Receiver<Places>) {
        let slice = &self.shared.spec.slice;
        let mut wait = RETRY_FIRST;
        loop {
            match self.step().await {
                Ok(Step::More) => wait = RETRY_FIRST,
                Ok(Step::Idle) => {
                    wait = RETRY_FIRST;
                    self.news(places).await;
                }
                Ok(Step::Rest) => tokio::time::sleep(IDLE).await,
                Ok(Step::Parked(why)) => {
                    self.held = None;
                    self.desk.state(|s| s.parked = Some(why));
                    let resumed = self.desk.resumed.notified();
                    let _ = tokio::time::timeout(RETRY_LAST, resumed).await;
                }
                Err(Halt::Trouble(error)) => {
                    let known = self.desk.state(|s| s.trouble.replace(error.clone()));
                    if known.as_ref() != Some(&error) {
                        tracing::warn!(%slice, %error, "events wait");
                    }
                    self.count_waiting().await;
                    tokio::time::sleep(wait).await;
                    wait = wait.saturating_mul(2).min(RETRY_LAST);
                }
                Err(Halt::Superseded) => {
                    let why = "another process publishes the events of this slice".to_owned();
                    tracing::error!(%slice, "{why}");
                    self.held = None;
                    self.desk.state(|s| s.trouble = Some(why));
                    return;
                }
            }
        }
    }

    /// Waits until the link has come further than what was told, or for a while.
    async fn news(&self, places: &mut watch::Receiver<Places>) {
        let at = self.held.as_ref().map(|held| (held.side, held.seq));
        let news = places.wait_for(|p| at.is_some_and(|(side, seq)| p.of(side) > seq));
        let heard = tokio::time::timeout(IDLE, news).await;
        let gone = heard.is_ok_and(|seen| seen.is_err());
        if gone {
            // There is no link any more to hear of.
            tokio::time::sleep(IDLE).await;
        }
    }

    /// Tells what is there now.
    async fn step(&mut self) -> Result<Step, Halt> {
        self.save(SAVE).await?;
        let Some(plan) = self.desk.plan() else {
            return Ok(Step::Rest);
        };
        if self.held.is_none() {
            self.held = self.load().await?;
        }
        let Some(held) = self.held.clone() else {
            return Ok(Step::Rest);
        };
        if let Some(gap) = held.gap {
            return self.tell_gap(held, gap).await;
        }
        match self.read(&plan, &held).await? {
            Read::Some(found) => self.tell(held, found).await,
            Read::Parked(why) => Ok(Step::Parked(why)),
            Read::Nothing => {
                self.desk.state(|s| {
                    (s.waiting, s.oldest_ms) = (0, None);
                    (s.trouble, s.parked) = (None, None);
                });
                Ok(Step::Idle)
            }
            Read::Finished => {
                // What comes next is in the books.
                self.save(Duration::ZERO).await?;
                self.held = None;
                self.held = self.load().await?;
                let next = self.held.as_ref();
                let same = next.is_none_or(|next| next.turn == held.turn);
                Ok(if same { Step::Rest } else { Step::More })
            }
        }
    }

    async fn tell_gap(&mut self, mut held: Segment, gap: i64) -> Result<Step, Halt> {
        let event = self.stream(&held).gap(gap, held.seq, now_ms());
        self.send(std::slice::from_ref(&event)).await?;
        held.gap = None;
        self.moved(held, 1);
        self.save(Duration::ZERO).await?;
        Ok(Step::More)
    }

    /// Hands events over, wave by wave, and takes note of how far that went.
    async fn tell(&mut self, mut held: Segment, found: Found) -> Result<Step, Halt> {
        self.desk.state(|s| s.oldest_ms = found.oldest);
        let mut told = 0;
        let mut failed = None;
        for wave in waves(&found.events) {
            if let Err(error) = self.send(wave).await {
                failed = Some(error);
                break;
            }
            told += wave.len();
        }
        self.shared.pass("events-published");
        let next = found.events.get(told).map(|next| next.seq - 1);
        held.seq = next.map_or(found.upto, |before| before.max(held.seq));
        self.moved(held, told);
        if let Some(error) = failed {
            return Err(Halt::Trouble(error));
        }
        self.desk.state(|s| {
            s.oldest_ms = None;
            (s.trouble, s.parked) = (None, None);
        });
        Ok(if found.more { Step::More } else { Step::Idle })
    }

    fn stream<'b>(&'b self, held: &'b Segment) -> Stream<'b> {
        Stream {
            slice: &self.shared.spec.slice,
            side: held.side,
            birth: &held.birth,
            before: self.desk.events.before,
        }
    }

    fn moved(&mut self, to: Segment, told: usize) {
        self.told |= told > 0;
        self.moved |= self.held.as_ref() != Some(&to);
        self.desk.state(|s| {
            s.published += told as u64;
            s.position = to.seq;
        });
        self.held = Some(to);
    }

    /// The next segment, taken over; what is done with is removed.
    async fn load(&self) -> Result<Option<Segment>, Error> {
        let mut all = Vec::new();
        for side in [Side::Legacy, Side::Extracted] {
            let mut tx = self.shared.on(side).read().await?;
            all.extend(self.shared.on(side).segments(&mut tx).await?);
        }
        let (chosen, done) = choose(all);
        for segment in done {
            let database = self.shared.on(segment.side);
            database.drop_segment(segment.turn).await?;
        }
        let Some(mut segment) = chosen else {
            return Ok(None);
        };
        let database = self.shared.on(segment.side);
        database.claim_segment(&mut segment).await?;
        Ok(Some(segment))
    }

    /// The changes after the place with their present rows, all of one moment, as events.
    async fn read(&self, plan: &Arc<Plan>, held: &Segment) -> Result<Read, Halt> {
        let source = self.shared.on(held.side);
        let mut tx = source.read().await?;
        let now = source.segments(&mut tx).await?;
        let Some(now) = now.into_iter().find(|s| s.turn == held.turn) else {
            return Ok(Read::Finished);
        };
        if now.epoch != held.epoch {
            return Err(Halt::Superseded);
        }
        if let Some(why) = now.parked {
            return Ok(Read::Parked(why));
        }
        let birth = source.control(&mut tx).await?.birth;
        let head = source.head(&mut tx).await?;
        if birth != held.birth || head < held.seq {
            let what = "its change stream is not the one whose events were published".to_owned();
            let side = held.side;
            return Err(Error::Discontinued { side, what }.into());
        }
        let last = now.ends.unwrap_or(head);
        if held.seq >= last {
            let finished = now.ends.is_some();
            return Ok(if finished {
                Read::Finished
            } else {
                Read::Nothing
            });
        }
        let bytes = self.shared.limits().chunk_bytes;
        let (mut changes, mut truncated) = self.changes(source, &mut tx, held.seq).await?;
        changes.retain(|change| change.seq <= last);
        // Those that have their rows were weighed with them.
        let reads = changes.iter().any(|change| reads(plan, held.side, change));
        let fits = match reads {
            true => portion::fitting(plan, source, &mut tx, &changes, Each::Change, bytes).await?,
            false => None,
        };
        if let Some(count) = fits {
            changes.truncate(count);
            truncated = true;
        }
        let upto = match changes.last() {
            Some(change) if truncated => change.seq,
            _ => last,
        };
        let mut present = Present::new();
        for (at, keys) in keys(plan, held.side, &changes) {
            let found = images(&plan.groups[at], source, &mut tx, &keys).await?;
            present.insert(at, found);
        }
        if truncated {
            let waiting = source.waiting(&mut tx, held.seq).await?;
            self.desk.state(|s| s.waiting = whole(waiting));
        }
        drop(tx);
        let rows = changes.iter().filter(|change| !change.is_beat());
        let oldest = rows.map(|change| change.at).min();
        let events = self.stream(held).events(plan, &changes, &present);
        Ok(Read::Some(Found {
            events,
            oldest,
            upto,
            more: truncated || now.ends.is_some(),
        }))
    }

    /// The changes after a place, and whether there may be more.
    async fn changes(
        &self,
        source: &Database,
        tx: &mut Tx,
        after: i64,
    ) -> Result<(Vec<Change>, bool), Error> {
        let (found, limit) = if self.desk.events.before {
            let bytes = self.shared.limits().chunk_bytes;
            let fit = source.rows_within(tx, after, BATCH, bytes).await?;
            let limit = fit.unwrap_or(BATCH);
            (source.changes_with_rows(tx, after, limit).await?, limit)
        } else {
            (source.changes(tx, after, BATCH).await?, BATCH)
        };
        let truncated = found.len() >= limit as usize;
        Ok((found, truncated))
    }

    /// Hands one wave over; what is too large goes without its row.
    async fn send(&self, wave: &[Event]) -> Result<(), String> {
        let sink = &self.desk.events.sink;
        let mut smaller: Option<Vec<Event>> = None;
        // Each try takes one event's row away, so this ends.
        for _ in 0..=wave.len() {
            let sent = sink.publish(smaller.as_deref().unwrap_or(wave)).await;
            match sent {
                Ok(()) => return Ok(()),
                Err(SinkError::Trouble(what)) => return Err(what),
                Err(SinkError::TooLarge { at, what }) => {
                    let events = smaller.get_or_insert_with(|| wave.to_vec());
                    let Some(event) = events.get_mut(at) else {
                        return Err(what);
                    };
                    tracing::warn!(id = %event.id, %what, "an event goes without its row");
                    *event = event.without_row(&what);
                }
            }
        }
        Err("the broker finds even an event without its row too large".to_owned())
    }

    /// Writes the place down if that is due.
    async fn save(&mut self, every: Duration) -> Result<(), Halt> {
        let every = if self.told || every.is_zero() {
            every
        } else {
            SAVE_IDLE
        };
        let Some(held) = self.held.as_ref().filter(|_| self.moved) else {
            return Ok(());
        };
        if self.saved.elapsed() < every {
            return Ok(());
        }
        let database = self.shared.on(held.side);
        let mine = database.advance_segment(held).await?;
        (self.moved, self.told, self.saved) = (false, false, Instant::now());
        if mine { Ok(()) } else { Err(Halt::Superseded) }
    }

    /// How much waits, while nothing can be told.
    async fn count_waiting(&self) {
        let Some(held) = &self.held else { return };
        let source = self.shared.on(held.side);
        let counted = async {
            let mut tx = source.read().await?;
            source.waiting(&mut tx, held.seq).await
        };
        if let Ok(waiting) = counted.await {
            self.desk.state(|s| s.waiting = whole(waiting));
        }
    }
}

fn whole(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

enum Read {
    Some(Found),
    /// Nothing new.
    Nothing,
    /// The segment is told to its end.
    Finished,
    Parked(String),
}

/// What one look at the stream gave.
struct Found {
    events: Vec<Event>,
    /// When the oldest of these changes was made.
    oldest: Option<i64>,
    /// The last place of the look.
    upto: i64,
    /// There is more to look at.
    more: bool,
}
