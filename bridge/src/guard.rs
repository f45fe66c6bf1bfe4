//! What both databases keep for a link, watched for as long as a process has the link: also while it
//! is paused, has failed or waits for a person, and while its other side is down. Beyond a limit the
//! link is *parked*: its databases are told to keep nothing more for it, and that is on record there,
//! so that no later start takes what is left for the whole.

use std::sync::Arc;
use std::time::Duration;

use outgrow_rollout::Side;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::db::{Database, Ended, Over};
use crate::error::Error;
use crate::link::{Inner, lock};
use crate::shared::Shared;
use crate::spec::Limits;

const SIDES: [Side; 2] = [Side::Legacy, Side::Extracted];
/// Before it is tried again to have a database keep nothing more: that may wait for the
/// application's transactions, and others wait behind it.
const AGAIN: Duration = Duration::from_secs(15);

/// So many looks in a row have not found fewer changes than one before: they are not being applied.
const PATIENCE: u32 = 15;

/// The task that watches.
#[derive(Debug)]
pub(crate) struct Guard {
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

/// Bytes of what a database keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its log.
    Log,
    /// Changes that were noted and are not applied.
    Changes,
}

impl Kind {
    fn limit(self, limits: &Limits) -> u64 {
        match self {
            Self::Log => limits.log_bytes,
            Self::Changes => limits.noted_bytes,
        }
    }
}

/// Whether so much is worth a warning.
fn is_much(kept: u64, limit: u64) -> bool {
    kept > limit / 2
}

/// Whether it is so much that nothing else should be done than to apply it.
pub(crate) fn is_pressing(kept: u64, limit: u64) -> bool {
    kept / 7 >= limit / 10
}

impl Over {
    fn error(self) -> Error {
        let Self {
            side,
            of,
            kept,
            limit,
        } = self;
        match of {
            Kind::Log => Error::LogLimit { side, kept, limit },
            Kind::Changes => Error::NotedLimit { side, kept, limit },
        }
    }
}

/// What one look at a database has found.
#[derive(Debug, Default)]
struct Seen {
    /// It answers, and has something of the link's.
    there: bool,
    /// On record.
    ended: Option<Ended>,
    over: Option<Over>,
}

impl Shared {
    /// Why the link is parked, once it is.
    pub(crate) fn parked_for(&self) -> Option<Error> {
        self.status(|s| s.kept.over).map(Over::error)
    }

    /// Refuses a link that was parked, also by another process.
    pub(crate) async fn not_parked(&self) -> Result<(), Error> {
        for side in SIDES {
            if let Some(ended) = self.on(side).ended().await? {
                return Err(ended.over.error());
            }
        }
        Ok(())
    }

    async fn look(&self, side: Side, applied: i64) -> Result<Seen, Error> {
        let database = self.on(side);
        if !database.installed().await? {
            self.status(|s| s.kept.forget(side));
            return Ok(Seen::default());
        }
        if let Some(ended) = database.ended().await? {
            return Ok(Seen {
                there: true,
                ended: Some(ended),
                over: None,
            });
        }
        let log = database.kept_log().await?;
        let kept_for_events = self.events.as_ref().map(|desk| desk.events.keep);
        let noted = database.kept_noted(applied, kept_for_events).await?;
        self.learn_source(database).await?;
        let mut over = None;
        for (of, kept) in [(Kind::Log, log), (Kind::Changes, Some(noted))] {
            let Some(kept) = kept else { continue };
            let limit = of.limit(self.limits());
            let before = self.status(|s| s.kept.note(side, of, kept));
            if is_much(kept, limit) && !before.is_some_and(|before| is_much(before, limit)) {
                let slice = &self.spec.slice;
                let what = match of {
                    Kind::Log => "much of its log",
                    Kind::Changes => "many changes that are not applied",
                };
                tracing::warn!(%slice, %side, kept, limit, "a database keeps {what} for the link");
            }
            if kept > limit && self.is_stuck(side, of, kept) {
                over = over.or(Some(Over {
                    side,
                    of,
                    kept,
                    limit,
                }));
            }
        }
        Ok(Seen {
            there: true,
            ended: None,
            over,
        })
    }

    /// Whether what is too much gets no less. A log is bounded at once: it is kept by a server whose
    /// disk others fill, too. Changes that gathered while nobody measured may be applied yet.
    fn is_stuck(&self, side: Side, of: Kind, kept: u64) -> bool {
        of == Kind::Log || self.status(|s| s.kept.looks_since_fewer(side, kept)) >= PATIENCE
    }

    /// Who the source is, of a link that this process has not started.
    async fn learn_source(&self, database: &Database) -> Result<(), Error> {
        if !self.status(|s| s.tables.is_empty()) {
            return Ok(());
        }
        let mut tx = database.read().await?;
        let control = database.control(&mut tx).await?;
        self.status(|s| {
            if s.tables.is_empty() {
                s.source = control.source;
            }
        });
        Ok(())
    }

    /// As [`Self::look`], of a database that may not answer.
    async fn look_in_time(&self, side: Side, applied: i64) -> Seen {
        // A pool waits for a connection by itself.
        let within = self.limits().busy.saturating_mul(5);
        let (seen, trouble) = match tokio::time::timeout(within, self.look(side, applied)).await {
            Ok(Ok(seen)) => (seen, None),
            Ok(Err(error)) => (Seen::default(), Some(error.to_string())),
            Err(_) => (Seen::default(), Some("it does not answer".to_owned())),
        };
        if let Some(trouble) = &trouble
            && !self.status(|s| s.kept.is_trouble(side, trouble))
        {
            let slice = &self.spec.slice;
            tracing::warn!(%slice, %side, %trouble, "what a database keeps could not be measured");
        }
        self.status(|s| s.kept.trouble(side, trouble));
        seen
    }
}

impl Inner {
    /// Watches what is kept, until [`Self::leave_alone`].
    pub(crate) fn guarded(self: &Arc<Self>) {
        let mut guard = lock(&self.guard);
        if guard.as_ref().is_some_and(|g| !g.task.is_finished()) {
            return;
        }
        let cancel = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(self).guard(cancel.clone()));
        *guard = Some(Guard { cancel, task });
    }

    pub(crate) async fn leave_alone(&self) {
        let guard = lock(&self.guard).take();
        if let Some(Guard { cancel, task }) = guard {
            cancel.cancel();
            if let Err(e) = task.await {
                tracing::error!(error = %e, "the guard of a link ended badly");
            }
        }
    }

    async fn guard(self: Arc<Self>, cancel: CancellationToken) {
        // Each side by itself: the other may be down, which takes long to be known.
        let both = async {
            tokio::join!(
                self.guard_side(Side::Legacy),
                self.guard_side(Side::Extracted)
            )
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            _ = both => {}
        }
    }

    async fn guard_side(&self, side: Side) {
        loop {
            let pause = self.look_after(side).await;
            tokio::time::sleep(pause).await;
        }
    }

    /// One look at a side, and what follows from it. How long until the next.
    async fn look_after(&self, side: Side) -> Duration {
        let shared = &self.shared;
        let pause = shared.limits().look;
        let applied = self.places.borrow().of(side);
        let seen = shared.look_in_time(side, applied).await;
        let found = seen.ended.map(|ended| ended.over).or(seen.over);
        let over = shared.status(|s| s.kept.found(side, found));
        let Some(over) = over else { return pause };
        self.say_parked(over);
        if !seen.there || seen.ended.is_some_and(|ended| ended.whole) {
            return pause;
        }
        let database = shared.on(side);
        let Err(error) = database.end(over, |point| shared.pass(point)).await else {
            return pause;
        };
        let slice = &shared.spec.slice;
        tracing::warn!(%slice, %side, %error,
            "a database could not be told to keep nothing more for the link: it is tried again");
        pause.max(AGAIN)
    }

    /// Has the worker stop, and everybody know.
    fn say_parked(&self, over: Over) {
        let text = over.error().to_string();
        let known = self.shared.status(|s| {
            s.kept.over = Some(over);
            s.failed
                .replace(text.clone())
                .is_some_and(|was| was == text)
        });
        if !known {
            let slice = &self.shared.spec.slice;
            tracing::error!(%slice, error = %text, "the link is parked");
        }
        self.poke.notify_one();
        self.failures.send_if_modified(|failure| {
            let differs = failure.as_ref() != Some(&text);
            if differs {
                *failure = Some(text);
            }
            differs
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_much_at_the_half_and_presses_at_seven_tenths() {
        assert!(!is_much(50, 100) && is_much(51, 100));
        assert!(!is_pressing(69, 100) && is_pressing(70, 100));
        assert!(!is_pressing(0, 1 << 20), "nothing never does");
        assert!(is_pressing(u64::MAX, u64::MAX));
    }
}
