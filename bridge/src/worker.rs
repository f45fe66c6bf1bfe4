//! The task that follows, and how it is started, faced the right way, and stopped.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outgrow_rollout::{DataPhase, Side};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::error::Error;
use crate::events;
use crate::link::{Inner, Link, lock};
use crate::watch::watch;

/// First and longest wait before a step that met a lock or a full disk is tried again.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(1);
/// How long a link that starts against its recorded direction may take to drain.
const SETTLE: Duration = Duration::from_secs(30);

/// Where both streams are; what draining waits for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    pub(crate) source: Side,
    pub(crate) applied: i64,
    pub(crate) applied_back: i64,
}

impl Places {
    pub(crate) fn of(&self, side: Side) -> i64 {
        if side == self.source {
            self.applied
        } else {
            self.applied_back
        }
    }
}

/// What comes after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// There is more at once.
    Again,
    /// More is coming, and is the cheaper the more of it there is.
    Rest(Duration),
    Wait,
}

#[derive(Debug)]
pub(crate) struct Worker {
    cancel: CancellationToken,
    task: JoinHandle<()>,
    events: JoinHandle<()>,
    watch: JoinHandle<()>,
}

impl Inner {
    pub(crate) fn not_started(&self) -> Error {
        Error::NotStarted(self.shared.spec.slice.clone())
    }

    /// Runs the link; a paused one only keeps its streams, and does not turn.
    pub(crate) async fn ensure(
        self: &Arc<Self>,
        phase: DataPhase,
        source: Side,
        paused: bool,
    ) -> Result<(), Error> {
        *lock(&self.phase) = phase;
        self.guarded();
        let mut worker = self.worker.lock().await;
        // One that has failed is about to end, and does nothing more.
        let failed = self.failures.borrow().is_some();
        let running = !failed && worker.as_ref().is_some_and(|w| !w.task.is_finished());
        if !running {
            stop(&mut worker).await;
        }
        let mut held = self.engine.lock().await;
        let engine = match held.take() {
            Some(engine) if running => engine,
            // A worker that lives waits for this very lock: it takes what is made here.
            _ => {
                // Whether it is still so is on record.
                self.shared.status(|s| s.kept.over = None);
                self.begin(phase).await?
            }
        };
        let engine = held.insert(engine);
        let settled = match paused {
            true => Ok(()),
            false => self.face(engine, phase, source).await,
        };
        self.publish(engine);
        settled?;
        drop(held);
        self.failures.send_replace(None);
        self.paused.store(paused, Ordering::Release);
        self.poke.notify_one();
        if worker.as_ref().is_none_or(|w| w.task.is_finished()) {
            let from = self.places.borrow().source;
            events::begin(&self.shared, from).await?;
            let cancel = CancellationToken::new();
            let run = Arc::clone(self).work(cancel.clone());
            let places = self.places.subscribe();
            let publish = events::publish(Arc::clone(&self.shared), places, cancel.clone());
            let link = Link {
                inner: Arc::clone(self),
            };
            let watch = watch(link, cancel.clone());
            *worker = Some(Worker {
                cancel,
                task: tokio::spawn(run),
                events: tokio::spawn(publish),
                watch: tokio::spawn(watch),
            });
        }
        Ok(())
    }

    /// Takes the link over, also on a server that has taken another's place, where the config says so
    /// and it is proved.
    async fn begin(&self, phase: DataPhase) -> Result<Engine, Error> {
        match Engine::start(Arc::clone(&self.shared), phase).await {
            Err(Error::Elsewhere { side, .. }) if self.shared.on(side).follows_failover() => {
                let moved = self.shared.fail_over(false).await?;
                if !moved.is_empty() {
                    self.moves.send_replace(moved);
                }
                Engine::start(Arc::clone(&self.shared), phase).await
            }
            started => started,
        }
    }

    /// Turns the link to the wanted direction if it was recorded the other way: a crash may have
    /// come after the turn and before anybody could note it.
    async fn face(&self, engine: &mut Engine, phase: DataPhase, source: Side) -> Result<(), Error> {
        engine.take_up().await?;
        engine.leave_short().await?;
        if engine.source != source {
            let slice = &self.shared.spec.slice;
            tracing::warn!(%slice, recorded = %engine.source, wanted = %source, "turning the link round");
            let from = engine.source;
            engine.set_fence(source, true).await?;
            let position = engine.set_fence(from, true).await?;
            let deadline = tokio::time::Instant::now() + SETTLE;
            while engine.applied < position {
                if tokio::time::Instant::now() >= deadline {
                    return Err(Error::DrainTimeout {
                        side: source,
                        position,
                        applied: engine.applied,
                        within: SETTLE,
                    });
                }
                engine.step().await?;
            }
            engine.turn(source).await?;
        }
        engine.fence_passive(phase).await
    }

    pub(crate) fn publish(&self, engine: &Engine) {
        let places = Places {
            source: engine.source,
            applied: engine.applied,
            applied_back: engine.applied_back,
        };
        self.places.send_replace(places);
        if let Some(desk) = &self.shared.events {
            desk.set_plan(&engine.plan);
        }
    }

    /// One step of the engine, which is made again if its last one had to be given up.
    async fn step(&self, held: &mut Option<Engine>, paused: bool) -> Result<Then, Error> {
        let engine = match held {
            Some(engine) => engine,
            None => {
                let phase = *lock(&self.phase);
                let engine = self.begin(phase).await?;
                held.insert(engine)
            }
        };
        if paused {
            return engine.keep().await.map(|()| Then::Wait);
        }
        let stepped = engine.step().await.map(|more| match (more, engine.rest()) {
            (true, _) => Then::Again,
            (false, Some(rest)) => Then::Rest(rest),
            (false, None) => Then::Wait,
        });
        self.publish(engine);
        let stepped = match stepped {
            // Another process also trims what this one has not applied.
            Err(error @ (Error::Stream { .. } | Error::Discontinued { .. })) => {
                Err(engine.instead_of(error).await)
            }
            stepped => stepped,
        };
        let moved = matches!(&stepped, Err(e) if self.shared.follows(e));
        if moved || stepped.is_err() && engine.is_in_doubt() {
            // What was applied is for the databases to say.
            *held = None;
            self.shared.legacy.release().await;
            self.shared.extracted.release().await;
        }
        stepped
    }

    /// Gives up an engine that was stopped half-way, as a death would, and its connections.
    pub(crate) async fn stalled(&self, held: &mut Option<Engine>) -> Error {
        *held = None;
        self.shared.legacy.reconnect().await;
        self.shared.extracted.reconnect().await;
        Error::Stalled(self.shared.limits().stall)
    }

    /// What a database says of a table that has changed, in terms of what has changed.
    async fn explained(&self, error: Error) -> Error {
        if !matches!(error, Error::Database { .. } | Error::Row { .. }) {
            return error;
        }
        match self.engine.lock().await.as_mut() {
            Some(engine) => match engine.watch_schemas().await {
                Err(changed @ Error::TablesChanged { .. }) => changed,
                _ => error,
            },
            None => error,
        }
    }

    /// The worker: one step after another until it is told to stop or cannot go on.
    async fn work(self: Arc<Self>, cancel: CancellationToken) {
        self.shared.status(|s| s.running = true);
        let mut wait = RETRY_FIRST;
        while !cancel.is_cancelled() {
            let stepped = {
                let mut held = self.engine.lock().await;
                let paused = self.paused.load(Ordering::Acquire);
                self.shared.status(|s| s.running = !paused);
                let step = Box::pin(self.step(&mut held, paused));
                let stepped = match self.shared.in_time(step).await {
                    Some(stepped) => stepped,
                    None => Err(self.stalled(&mut held).await),
                };
                self.shared.parked_for().map_or(stepped, Err)
            };
            // After a failure, what has come is no reason to try at once.
            let failed = stepped.is_err();
            let pause = match stepped {
                Ok(then) => {
                    self.shared.status(|s| s.trouble = None);
                    wait = RETRY_FIRST;
                    match then {
                        Then::Again => {
                            tokio::task::yield_now().await;
                            continue;
                        }
                        Then::Rest(rest) => {
                            tokio::select! {
                                () = cancel.cancelled() => break,
                                () = self.poke.notified() => {}
                                () = tokio::time::sleep(rest) => {}
                            }
                            continue;
                        }
                        Then::Wait => self.shared.limits().poll,
                    }
                }
                Err(e) if e.passes() || self.shared.follows(&e) => {
                    let slice = &self.shared.spec.slice;
                    tracing::warn!(%slice, error = %e, "trying again");
                    self.shared.status(|s| s.trouble = Some(e.to_string()));
                    let pause = wait;
                    wait = wait.saturating_mul(2).min(RETRY_LAST);
                    pause
                }
                Err(e) => {
                    let e = self.explained(e).await;
                    let slice = &self.shared.spec.slice;
                    tracing::error!(%slice, error = %e, "the link cannot go on");
                    self.shared.status(|s| s.failed = Some(e.to_string()));
                    self.failures.send_replace(Some(e.to_string()));
                    self.shared.legacy.release().await;
                    self.shared.extracted.release().await;
                    break;
                }
            };
            tokio::select! {
                () = cancel.cancelled() => break,
                () = self.poke.notified() => {}
                () = self.shared.legacy.changed(), if !failed => {}
                () = self.shared.extracted.changed(), if !failed => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        if cancel.is_cancelled() {
            self.leave().await;
        }
        self.shared.status(|s| s.running = false);
    }

    /// Has on record what was applied, so that whoever comes next need not look for it.
    async fn leave(&self) {
        let mut held = self.engine.lock().await;
        let Some(engine) = held.as_mut() else { return };
        let left = tokio::time::timeout(self.shared.limits().busy, engine.leave_short());
        if !matches!(left.await, Ok(Ok(()))) {
            // The next start finds it out.
            *held = None;
        }
    }
}

pub(crate) async fn stop(worker: &mut Option<Worker>) {
    if let Some(worker) = worker.take() {
        worker.cancel.cancel();
        for task in [worker.task, worker.events, worker.watch] {
            if let Err(e) = task.await {
                tracing::error!(error = %e, "the worker of a link ended badly");
            }
        }
    }
}
