//! The cutover, model-checked: every interleaving of two proxies, a controller that may crash at
//! any moment, messages that may be lost or late, leases that may lapse, and writes in flight.
//!
//! The controller's steps come from `outgrow_rollout::cutover`, so it is that code which is
//! checked, not a copy of it.

use outgrow_rollout::Side;
use outgrow_rollout::cutover::{CutoverStep as Step, Outcome, next, resume};
use stateright::{Checker, Model, Property};

const PROXIES: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Proxy {
    writer: Side,
    holding: bool,
    /// It does not send writes: its lease lapsed, or a hold took too long.
    lapsed: bool,
    /// A write that waits.
    held: Option<u8>,
    /// A write on its way to a database.
    flying: Option<(u8, Side)>,
    /// Messages of an earlier attempt are ignored.
    attempt: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Message {
    Hold,
    /// Let the held writes go, to this writer.
    Release(Side),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Controller {
    Idle,
    /// About to do this step; it is stored already.
    Doing(Step),
    Dead,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    controller: Controller,
    /// The store: the writer, and the step of a cutover under way.
    writer: Side,
    stored: Option<Step>,
    /// Where the cutover goes.
    to: Side,
    attempt: u8,
    fenced: [bool; 2],
    /// Rows by side, a bit per write, and the side that rows flow from.
    rows: [u8; 2],
    source: Side,
    proxies: [Proxy; PROXIES],
    network: Vec<(usize, u8, Message)>,
    acknowledged: u8,
    writes: u8,
    crashes: u8,
    losses: u8,
    lapses: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Write(usize),
    Land(usize),
    Replicate,
    Begin,
    Do,
    Fail,
    Crash,
    Restart,
    Deliver(usize),
    Lose(usize),
    Lapse(usize),
    Return(usize),
    HoldTooLong(usize),
}

/// The protocol, or one with a step left out, to see that the model would notice.
#[derive(Clone, Copy)]
struct Cutover {
    fences: bool,
    drains: bool,
    to: Side,
}

fn index(side: Side) -> usize {
    usize::from(side == Side::Extracted)
}

impl World {
    fn everybody(&mut self, message: Message) {
        for proxy in 0..PROXIES {
            self.network.push((proxy, self.attempt, message));
        }
        self.network.sort_unstable();
    }

    /// Every proxy holds with nothing in flight, or has lapsed.
    fn all_hold(&self) -> bool {
        self.proxies
            .iter()
            .all(|p| p.lapsed || (p.holding && p.flying.is_none()))
    }

    fn drained(&self) -> bool {
        let from = index(self.to.other());
        self.rows[1 - from] & self.rows[from] == self.rows[from]
    }

    /// A write could be accepted by this side now.
    fn accepts(&self, side: Side) -> bool {
        let sends = |p: &Proxy| {
            p.flying.is_some_and(|(_, to)| to == side)
                || (!p.lapsed && !p.holding && p.writer == side)
        };
        !self.fenced[index(side)] && self.proxies.iter().any(sends)
    }
}

impl Cutover {
    /// Does a step; `None` if it cannot be done yet.
    fn perform(&self, world: &mut World, step: Step) -> Option<()> {
        let (to, from) = (world.to, world.to.other());
        match step {
            Step::Hold => return world.all_hold().then_some(()),
            Step::Fence if self.fences => world.fenced[index(from)] = true,
            Step::Drain if self.drains => return world.drained().then_some(()),
            Step::Switch => world.writer = to,
            Step::Turn => {
                world.fenced[index(to)] = true;
                world.source = to;
                world.fenced[index(to)] = false;
            }
            Step::Release => world.everybody(Message::Release(to)),
            Step::Unfence => world.fenced[index(from)] = false,
            Step::LetGo => world.everybody(Message::Release(from)),
            _ => {}
        }
        Some(())
    }

    fn go(world: &mut World, step: Step, outcome: Outcome) {
        let following = next(step, outcome);
        if following.is_end() {
            world.controller = Controller::Idle;
            world.stored = None;
            return;
        }
        world.controller = Controller::Doing(following);
        world.stored = Some(following);
        if following == Step::Hold {
            world.everybody(Message::Hold);
        }
    }

    /// What the controller does, or what happens to it.
    fn control(&self, mut world: World, action: &Action) -> Option<World> {
        match (action, world.controller) {
            (Action::Begin, _) => {
                world.attempt = 1;
                world.controller = Controller::Doing(Step::Preflight);
                world.stored = Some(Step::Preflight);
            }
            (Action::Do, Controller::Doing(step)) => {
                self.perform(&mut world, step)?;
                Self::go(&mut world, step, Outcome::Done);
            }
            (Action::Fail, Controller::Doing(step)) => Self::go(&mut world, step, Outcome::Failed),
            (Action::Crash, _) => {
                world.crashes -= 1;
                world.controller = Controller::Dead;
            }
            (Action::Restart, _) => {
                world.controller = match world.stored {
                    Some(step) => Controller::Doing(resume(step, world.writer, world.to)),
                    None => Controller::Idle,
                };
            }
            _ => return None,
        }
        Some(world)
    }

    fn receive(world: &mut World, proxy: usize, attempt: u8, message: Message) {
        let proxy = &mut world.proxies[proxy];
        if proxy.lapsed || attempt < proxy.attempt {
            return;
        }
        proxy.attempt = attempt;
        match message {
            Message::Hold => proxy.holding = true,
            Message::Release(writer) => {
                (proxy.holding, proxy.writer) = (false, writer);
                if let Some(write) = proxy.held.take() {
                    proxy.flying = Some((write, writer));
                }
            }
        }
    }
}

impl Model for Cutover {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let from = self.to.other();
        let proxy = Proxy {
            writer: from,
            holding: false,
            lapsed: false,
            held: None,
            flying: None,
            attempt: 0,
        };
        let mut fenced = [false; 2];
        // After a cutover the old side stays fenced; before the first one it never was.
        fenced[index(self.to)] = self.to == Side::Legacy;
        vec![World {
            controller: Controller::Idle,
            writer: from,
            stored: None,
            to: self.to,
            attempt: 0,
            fenced,
            rows: [0; 2],
            source: from,
            proxies: [proxy; PROXIES],
            network: Vec::new(),
            acknowledged: 0,
            writes: 2,
            crashes: 1,
            losses: 1,
            lapses: 1,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (n, proxy) in world.proxies.iter().enumerate() {
            let free = proxy.flying.is_none() && proxy.held.is_none();
            if world.writes > 0 && free && !proxy.lapsed {
                actions.push(Action::Write(n));
            }
            if proxy.flying.is_some() {
                actions.push(Action::Land(n));
            }
            if !proxy.lapsed && world.lapses > 0 {
                actions.push(Action::Lapse(n));
            }
            if proxy.lapsed {
                actions.push(Action::Return(n));
            }
            let told = world.network.iter().any(|(to, _, _)| *to == n);
            if proxy.holding && world.stored.is_none() && !told {
                actions.push(Action::HoldTooLong(n));
            }
        }
        let (from, into) = (index(world.source), 1 - index(world.source));
        if world.rows[into] | world.rows[from] != world.rows[into] {
            actions.push(Action::Replicate);
        }
        match world.controller {
            Controller::Idle if world.attempt == 0 => actions.push(Action::Begin),
            Controller::Idle => {}
            Controller::Doing(step) => {
                actions.push(Action::Do);
                if step.may_time_out() || step == Step::Switch {
                    actions.push(Action::Fail);
                }
                if world.crashes > 0 {
                    actions.push(Action::Crash);
                }
            }
            Controller::Dead => actions.push(Action::Restart),
        }
        for n in 0..world.network.len() {
            actions.push(Action::Deliver(n));
            if world.losses > 0 {
                actions.push(Action::Lose(n));
            }
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Write(n) => {
                world.writes -= 1;
                let write = 1 << world.writes;
                let proxy = &mut world.proxies[n];
                if proxy.holding {
                    proxy.held = Some(write);
                } else {
                    proxy.flying = Some((write, proxy.writer));
                }
            }
            Action::Land(n) => {
                let (write, side) = world.proxies[n].flying.take()?;
                // A fence refuses it: the client is told, so nothing is lost.
                if !world.fenced[index(side)] {
                    world.rows[index(side)] |= write;
                    world.acknowledged |= write;
                }
            }
            Action::Replicate => {
                let from = index(world.source);
                world.rows[1 - from] |= world.rows[from];
            }
            Action::Begin | Action::Do | Action::Fail | Action::Crash | Action::Restart => {
                return self.control(world, &action);
            }
            Action::Deliver(n) => {
                let (proxy, attempt, message) = world.network.remove(n);
                Self::receive(&mut world, proxy, attempt, message);
            }
            Action::Lose(n) => {
                world.losses -= 1;
                world.network.remove(n);
            }
            Action::Lapse(n) => {
                world.lapses -= 1;
                let proxy = &mut world.proxies[n];
                // Held writes get their 503.
                (proxy.lapsed, proxy.holding, proxy.held) = (true, false, None);
            }
            Action::HoldTooLong(n) => {
                let proxy = &mut world.proxies[n];
                (proxy.lapsed, proxy.holding, proxy.held) = (true, false, None);
            }
            Action::Return(n) => {
                // It reads the store before it sends anything.
                let (writer, busy) = (world.writer, world.stored.is_some());
                let attempt = world.attempt;
                let proxy = &mut world.proxies[n];
                proxy.lapsed = false;
                (proxy.writer, proxy.holding, proxy.attempt) = (writer, busy, attempt);
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("never do both sides accept writes", |_, world| {
                !(world.accepts(Side::Legacy) && world.accepts(Side::Extracted))
            }),
            Property::<Self>::always("no acknowledged write is lost", |_, world| {
                let ended = world.stored.is_none();
                let there = world.rows[index(world.writer)];
                !ended || world.acknowledged & there == world.acknowledged
            }),
            Property::<Self>::always("the writer is never left fenced", |_, world| {
                world.stored.is_some() || !world.fenced[index(world.writer)]
            }),
            Property::<Self>::always("rows flow from the writer", |_, world| {
                world.stored.is_some() || world.source == world.writer
            }),
            Property::<Self>::eventually("held writes end", |_, world| {
                world.attempt > 0
                    && world.stored.is_none()
                    && world.network.is_empty()
                    && world.proxies.iter().all(|p| p.held.is_none() && !p.holding)
            }),
            Property::<Self>::sometimes("it switches", |_, world| {
                world.stored.is_none() && world.writer == world.to
            }),
            Property::<Self>::sometimes("it aborts", |_, world| {
                world.attempt > 0 && world.stored.is_none() && world.writer != world.to
            }),
            Property::<Self>::sometimes("a held write reaches the new side", |_, world| {
                let (new, old) = (index(world.to), 1 - index(world.to));
                world.rows[new] & !world.rows[old] != 0
            }),
        ]
    }
}

fn check(model: Cutover) -> impl Checker<Cutover> {
    model.checker().threads(2).spawn_dfs().join()
}

#[test]
fn no_interleaving_breaks_the_cutover() {
    for to in [Side::Extracted, Side::Legacy] {
        let checked = check(Cutover {
            fences: true,
            drains: true,
            to,
        });
        checked.assert_properties();
        assert!(
            checked.unique_state_count() > 1_000,
            "the model does something"
        );
    }
}

/// The model sees what each step is good for.
#[test]
fn a_protocol_without_the_fence_or_the_drain_is_caught() {
    for (model, broken) in [
        (
            Cutover {
                fences: false,
                drains: true,
                to: Side::Extracted,
            },
            [
                "never do both sides accept writes",
                "no acknowledged write is lost",
            ]
            .as_slice(),
        ),
        (
            Cutover {
                fences: true,
                drains: false,
                to: Side::Extracted,
            },
            ["no acknowledged write is lost"].as_slice(),
        ),
    ] {
        let checked = check(model);
        for property in broken {
            assert!(checked.discovery(property).is_some(), "{property}");
        }
    }
}
