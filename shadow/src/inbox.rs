//! Exchanges on their way from the tap to whoever judges them.
//!
//! The tap is on a client's path, so it only puts the copy down: whoever judges takes all that has
//! come in every few milliseconds, and is woken for the first one after a rest alone. Beginning a
//! judgement for each of them there, and waking another core for it, took a proxy's thread a sixth
//! of what the request takes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// Between two looks into the inbox, while copies come in.
const LOOK: Duration = Duration::from_millis(5);

/// Bounded by what the doors let in: each exchange holds a place there.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    state: Mutex<State<T>>,
    news: Notify,
}

#[derive(Debug)]
struct State<T> {
    waiting: Vec<T>,
    /// Nobody looks by itself: who brings something has to say so.
    is_resting: bool,
    is_closed: bool,
}

/// What a look has found.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Some,
    Nothing,
    End,
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> Self {
        let state = State {
            waiting: Vec::new(),
            is_resting: false,
            is_closed: false,
        };
        Self {
            state: Mutex::new(state),
            news: Notify::new(),
        }
    }

    /// Held for an addition to a list, or for the exchange of two.
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an exchange down. A closed inbox drops it, which counts it as abandoned.
    pub(crate) fn put(&self, exchange: T) {
        let mut state = self.state();
        if state.is_closed {
            // Whatever it does when it is dropped, it does without this.
            drop(state);
            return;
        }
        state.waiting.push(exchange);
        let is_resting = std::mem::take(&mut state.is_resting);
        drop(state);
        if is_resting {
            self.news.notify_one();
        }
    }

    /// Nothing comes in any more; what is there is still taken out.
    pub(crate) fn close(&self) {
        self.state().is_closed = true;
        self.news.notify_one();
    }

    /// Takes all that has come in, into an empty list.
    fn take(&self, out: &mut Vec<T>) -> Found {
        let mut state = self.state();
        if !state.waiting.is_empty() {
            std::mem::swap(&mut state.waiting, out);
            return Found::Some;
        }
        state.is_resting = true;
        match state.is_closed {
            true => Found::End,
            false => Found::Nothing,
        }
    }

    /// Gives each exchange to `judge`, until the inbox is closed and empty.
    pub(crate) async fn empty(&self, judge: impl Fn(T)) {
        let mut taken = Vec::new();
        loop {
            match self.take(&mut taken) {
                Found::Some => {
                    taken.drain(..).for_each(&judge);
                    tokio::time::sleep(LOOK).await;
                }
                // What is put down from here on leaves a permit.
                Found::Nothing => self.news.notified().await,
                Found::End => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;

    /// What is judged, and when.
    type Judged = Arc<Mutex<Vec<(u32, Duration)>>>;

    fn start() -> (Arc<Inbox<u32>>, Judged, tokio::task::JoinHandle<()>) {
        let (inbox, judged) = (Arc::new(Inbox::new()), Judged::default());
        let (own, told, begun) = (inbox.clone(), judged.clone(), Instant::now());
        let emptying = tokio::spawn(async move {
            let judge = |one| told.lock().unwrap().push((one, begun.elapsed()));
            own.empty(judge).await;
        });
        (inbox, judged, emptying)
    }

    fn ms(all: &Judged) -> Vec<(u32, u128)> {
        let all = all.lock().unwrap();
        all.iter().map(|(one, at)| (*one, at.as_millis())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_is_taken_at_once_and_those_behind_it_together() {
        let (inbox, judged, emptying) = start();
        tokio::task::yield_now().await;
        inbox.put(1);
        tokio::time::sleep(Duration::from_millis(2)).await;
        inbox.put(2);
        inbox.put(3);
        tokio::time::sleep(Duration::from_millis(98)).await;
        inbox.put(4);
        tokio::task::yield_now().await;
        assert_eq!(ms(&judged), [(1, 0), (2, 5), (3, 5), (4, 100)]);
        inbox.close();
        emptying.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_put_down_before_the_end_is_judged_and_nothing_else() {
        let (inbox, judged, emptying) = start();
        inbox.put(1);
        tokio::task::yield_now().await;
        inbox.put(2);
        inbox.close();
        inbox.put(3);
        emptying.await.unwrap();
        inbox.put(4);
        let judged = ms(&judged);
        assert_eq!(
            judged.iter().map(|(one, _)| *one).collect::<Vec<_>>(),
            [1, 2]
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn none_is_forgotten_however_they_come() {
        let (inbox, judged, emptying) = start();
        let put = |from: u32| {
            let inbox = inbox.clone();
            tokio::spawn(async move {
                for one in from..from + 1_000 {
                    inbox.put(one);
                    if one % 7 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            })
        };
        for all in [put(0), put(1_000), put(2_000)] {
            all.await.unwrap();
        }
        inbox.close();
        emptying.await.unwrap();
        let mut judged: Vec<u32> = ms(&judged).into_iter().map(|(one, _)| one).collect();
        judged.sort_unstable();
        assert_eq!(judged, (0..3_000).collect::<Vec<_>>());
    }
}
