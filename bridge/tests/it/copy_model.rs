//! The copy beside the stream and the turn, model-checked: every interleaving of a writer, of batches that
//! take changes, rows and chunks of the backfill in one snapshot, of deaths of the bridge, and of a target
//! that comes back without its last commit.
//!
//! It is of the protocol that `bridge/src/batch.rs` and `bridge/src/turn.rs` tell in words; what each rule of
//! it is good for is shown by a bridge that does not keep it.

use stateright::{Checker, Model, Property};

const KEYS: usize = 2;
/// By key: a version, or 0 where there is no row.
type Rows = [u8; KEYS];

/// What was read and is not written yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Batch {
    /// The source as it was.
    snapshot: Rows,
    /// The position once this is applied, and the keys that changed up to there.
    upto: usize,
    keys: Vec<usize>,
    /// The key that the backfill takes, or its end.
    chunk: Option<usize>,
    done: bool,
}

/// How far a turn is; it is on record, so that a death leaves it as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Turn {
    None,
    /// The source takes no more writes.
    Fenced,
    Over,
}

/// What a side's databases have of the link, each in the transaction of its rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Books {
    rows: Rows,
    applied: usize,
    cursor: usize,
    done: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    /// The legacy side first.
    rows: [Rows; 2],
    /// Keys of changes, by side; the number of one is its place.
    streams: [Vec<usize>; 2],
    /// Up to where the source's is applied.
    applied: usize,
    cursor: usize,
    done: bool,
    source: usize,
    turn: Turn,
    memory: Option<Batch>,
    /// A chunk that is kept beside, which a bridge that keeps the rules never has.
    late: Option<(usize, u8)>,
    /// Rows of a position that is committed already; as that.
    owed: Option<Batch>,
    /// The target before its last commit.
    before: Option<Books>,
    /// What writers were told is written.
    truth: Rows,
    writes: u8,
    crashes: u8,
    /// When the copy was said to be done, the target was the source as it was at a moment.
    whole: bool,
}

/// A rule that a bridge does not keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// The position is committed before the rows.
    PositionFirst,
    /// Rows are read before the changes that they are to be of.
    RowsFirst,
    /// A chunk is written after batches of later snapshots.
    LateChunk,
    /// The copy is done at its last chunk, whatever changes are left.
    DoneEarly,
    /// The sides turn before all changes are applied.
    NoDrain,
    /// The bridge's own writes are noted like others'.
    OwnNoted,
}

#[derive(Clone, Copy, Debug)]
struct Bridge {
    broken: Broken,
    writes: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Write(usize),
    Delete(usize),
    /// So many changes at the most, and a chunk or none.
    Read(usize, bool),
    Apply,
    ApplyOwed,
    ApplyLate,
    /// A snapshot that is kept for what comes later.
    Peek,
    Die,
    /// The target crashes, and its last commit was not on its disk.
    Forget,
    Fence,
    Turn,
}

impl World {
    fn target(&self) -> usize {
        1 - self.source
    }

    fn stream(&self) -> &[usize] {
        &self.streams[self.source]
    }

    fn drained(&self) -> bool {
        self.applied == self.stream().len()
    }

    fn is_quiet(&self) -> bool {
        let idle = self.memory.is_none() && self.late.is_none() && self.owed.is_none();
        idle && self.done && self.drained() && self.turn != Turn::Fenced
    }

    fn keep(&mut self) {
        self.before = Some(Books {
            rows: self.rows[self.target()],
            applied: self.applied,
            cursor: self.cursor,
            done: self.done,
        });
    }

    fn note(&mut self, key: usize, version: u8) {
        let source = self.source;
        self.rows[source][key] = version;
        self.streams[source].push(key);
        self.truth[key] = version;
        self.writes += 1;
    }

    /// What a batch would be; `None` when there is nothing to do.
    fn batch(&self, most: usize, chunk: bool, broken: Broken) -> Option<Batch> {
        let waiting = &self.stream()[self.applied..];
        let count = waiting.len().min(most);
        let truncated = count < waiting.len();
        let chunk = (chunk && !self.done).then_some(self.cursor);
        if count == 0 && chunk.is_none() {
            return None;
        }
        let ends = chunk.is_some_and(|key| key >= KEYS);
        Some(Batch {
            snapshot: self.rows[self.source],
            upto: self.applied + count,
            keys: waiting[..count].to_vec(),
            chunk,
            done: self.done || ends && (!truncated || broken == Broken::DoneEarly),
        })
    }

    fn write_rows(&mut self, batch: &Batch, broken: Broken) {
        let target = self.target();
        let chunk = batch.chunk.filter(|key| *key < KEYS);
        let late = chunk.filter(|_| broken == Broken::LateChunk);
        if let Some(key) = late {
            self.late = Some((key, batch.snapshot[key]));
        }
        let chunk = chunk.filter(|_| late.is_none());
        for key in batch.keys.iter().copied().chain(chunk) {
            self.rows[target][key] = batch.snapshot[key];
            if broken == Broken::OwnNoted {
                self.streams[target].push(key);
            }
        }
        if batch.done && !self.done {
            self.whole = self.rows[target] == batch.snapshot;
        }
        self.done = batch.done;
    }

    fn move_on(&mut self, batch: &Batch) {
        self.applied = batch.upto;
        if let Some(key) = batch.chunk.filter(|key| *key < KEYS) {
            self.cursor = key + 1;
        }
    }
}

impl Model for Bridge {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        // A row that is there before, and one that is not.
        let rows = [[100, 0], [0, 0]];
        vec![World {
            rows,
            streams: [Vec::new(), Vec::new()],
            applied: 0,
            cursor: 0,
            done: false,
            source: 0,
            turn: Turn::None,
            memory: None,
            late: None,
            owed: None,
            before: None,
            truth: rows[0],
            writes: 0,
            crashes: 0,
            whole: true,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let open = world.turn != Turn::Fenced && world.writes < self.writes;
        for key in 0..KEYS {
            if open {
                actions.push(Action::Write(key));
                if world.rows[world.source][key] != 0 {
                    actions.push(Action::Delete(key));
                }
            }
        }
        if world.owed.is_some() {
            actions.push(Action::ApplyOwed);
        } else if let Some(batch) = &world.memory {
            // A snapshot alone is to be followed by its changes.
            match self.broken == Broken::RowsFirst && batch.upto == usize::MAX {
                true => actions.push(Action::Read(KEYS, true)),
                false => actions.push(Action::Apply),
            }
        } else if self.broken == Broken::RowsFirst {
            actions.push(Action::Peek);
        } else {
            for (most, chunk) in [(1, false), (1, true), (9, false), (9, true)] {
                actions.push(Action::Read(most, chunk));
            }
        }
        if world.late.is_some() {
            actions.push(Action::ApplyLate);
        }
        if world.crashes < 1 {
            actions.push(Action::Die);
            // Commits do not wait for the disk where rows go the short way, once all are copied.
            let short = world.before.as_ref().is_some_and(|before| before.done);
            actions.extend(short.then_some(Action::Forget));
        }
        if world.done && world.turn == Turn::None && world.late.is_none() {
            actions.push(Action::Fence);
        }
        let drained = world.drained() || self.broken == Broken::NoDrain;
        if world.turn == Turn::Fenced && drained && world.memory.is_none() {
            actions.push(Action::Turn);
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Write(key) => {
                let version = world.writes + 1;
                world.note(key, version);
            }
            Action::Delete(key) => world.note(key, 0),
            Action::Peek => {
                world.memory = Some(Batch {
                    snapshot: world.rows[world.source],
                    upto: usize::MAX,
                    keys: Vec::new(),
                    chunk: None,
                    done: world.done,
                });
            }
            Action::Read(most, chunk) => {
                let mut batch = world.batch(most, chunk, self.broken);
                if let (Some(batch), Some(peeked)) = (&mut batch, &world.memory) {
                    batch.snapshot = peeked.snapshot;
                }
                world.memory = Some(batch?);
            }
            Action::Apply => {
                let batch = world.memory.take()?;
                world.keep();
                world.move_on(&batch);
                match self.broken {
                    Broken::PositionFirst => world.owed = Some(batch),
                    broken => world.write_rows(&batch, broken),
                }
            }
            Action::ApplyOwed => {
                let batch = world.owed.take()?;
                world.write_rows(&batch, self.broken);
            }
            Action::ApplyLate => {
                let (key, version) = world.late.take()?;
                let target = world.target();
                world.rows[target][key] = version;
            }
            Action::Die => {
                world.crashes += 1;
                (world.memory, world.owed, world.late) = (None, None, None);
            }
            Action::Forget => {
                let before = world.before.take()?;
                let target = world.target();
                world.crashes += 1;
                (world.memory, world.owed, world.late) = (None, None, None);
                world.rows[target] = before.rows;
                (world.applied, world.cursor, world.done) =
                    (before.applied, before.cursor, before.done);
            }
            Action::Fence => world.turn = Turn::Fenced,
            Action::Turn => {
                world.turn = Turn::Over;
                world.source = world.target();
                // What it has noted until now was nobody's: it was fenced.
                world.applied = match self.broken {
                    Broken::OwnNoted => 0,
                    _ => world.stream().len(),
                };
                // The turn's own transactions are on the disks of both.
                world.before = None;
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("at rest both sides are what was written", |_, world| {
                !world.is_quiet() || world.rows == [world.truth; 2]
            }),
            Property::<Self>::always("the writer's side has what was written", |_, world| {
                world.rows[world.source] == world.truth
            }),
            Property::<Self>::always(
                "a copy that is done is the source of a moment",
                |_, world| !world.done || world.whole,
            ),
            Property::<Self>::always("streams have the changes of writers alone", |_, world| {
                world.streams.iter().map(Vec::len).sum::<usize>() == usize::from(world.writes)
            }),
            Property::<Self>::sometimes("it is copied beside writes", |_, world| {
                world.done && world.writes > 1 && world.is_quiet()
            }),
            Property::<Self>::sometimes("a death costs nothing", |_, world| {
                world.crashes > 0 && world.is_quiet()
            }),
            Property::<Self>::sometimes("it turns, and the other way is followed", |_, world| {
                world.turn == Turn::Over && world.is_quiet() && world.applied > 0
            }),
        ]
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.streams.iter().all(|stream| stream.len() < 10)
    }
}

fn check(broken: Broken, writes: u8) -> impl Checker<Bridge> {
    let model = Bridge { broken, writes };
    model.checker().threads(2).spawn_dfs().join()
}

#[test]
fn no_interleaving_breaks_the_copy_or_the_turn() {
    let checked = check(Broken::Nothing, 4);
    checked.assert_properties();
    let states = checked.unique_state_count();
    assert!(states > 10_000, "{states} states");
}

/// Each rule is needed.
#[test]
fn a_bridge_that_breaks_a_rule_is_caught() {
    let at_rest = "at rest both sides are what was written";
    for (broken, property) in [
        (Broken::PositionFirst, at_rest),
        (Broken::RowsFirst, at_rest),
        (Broken::LateChunk, at_rest),
        (
            Broken::DoneEarly,
            "a copy that is done is the source of a moment",
        ),
        (Broken::NoDrain, "the writer's side has what was written"),
        (
            Broken::OwnNoted,
            "streams have the changes of writers alone",
        ),
    ] {
        let checked = check(broken, 3);
        let found = checked.discovery(property);
        assert!(found.is_some(), "{broken:?}: {property}");
    }
}
