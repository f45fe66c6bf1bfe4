//! Requests that would all ask the same at the same time: one goes, the others wait for what it
//! brings.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// What the one that goes says to those who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    Going,
    /// It will be kept, but not for those whom the side knows.
    NotForKnown,
    /// Nothing more is to be waited for.
    Over,
    /// It has gone without an answer: another one may go.
    Lost,
}

type Going = HashMap<Box<str>, Arc<watch::Sender<Word>>>;

/// Who is on the way, of all cores.
#[derive(Default)]
pub(crate) struct Flights(Mutex<Going>);

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

/// The one that goes. Dropped without a last word, it lets another one go.
#[derive(Debug)]
pub(crate) struct Leads {
    flights: Arc<Flights>,
    key: Box<str>,
    word: Arc<watch::Sender<Word>>,
}

/// One of those who wait.
#[derive(Debug)]
pub(crate) struct Waits(watch::Receiver<Word>);

/// What is to be done by one who asks.
#[derive(Debug)]
pub(crate) enum Turn {
    Goes(Leads),
    Waits(Waits),
}

impl Flights {
    fn going(&self) -> MutexGuard<'_, Going> {
        // A map is whole between any two calls of it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn join(self: &Arc<Self>, key: Box<str>) -> Turn {
        let mut going = self.going();
        if let Some(word) = going.get(&key) {
            return Turn::Waits(Waits(word.subscribe()));
        }
        let word = Arc::new(watch::Sender::new(Word::Going));
        going.insert(key.clone(), word.clone());
        Turn::Goes(Leads {
            flights: self.clone(),
            key,
            word,
        })
    }

    /// For the metrics.
    pub(crate) fn waiting(&self) -> usize {
        self.going()
            .values()
            .map(|word| word.receiver_count())
            .sum()
    }

    /// Somebody else has brought it.
    pub(crate) fn end(&self, key: &str) {
        let ended = self.going().remove(key);
        if let Some(word) = ended {
            word.send_replace(Word::Over);
        }
    }
}

impl Leads {
    /// What is asked for is there now, or will be, for some.
    pub(crate) fn tell(&self, word: Word) {
        self.word.send_replace(word);
    }
}

impl Drop for Leads {
    fn drop(&mut self) {
        let mut going = self.flights.going();
        // It may be another one's by now.
        if going
            .get(&self.key)
            .is_some_and(|own| Arc::ptr_eq(own, &self.word))
        {
            going.remove(&self.key);
        }
        drop(going);
        self.word.send_if_modified(|word| {
            let over = *word == Word::Over;
            if !over {
                *word = Word::Lost;
            }
            !over
        });
    }
}

impl Waits {
    /// Until there is something for one whom the side knows, or does not. Cancel safe.
    pub(crate) async fn end(mut self, known: bool) -> Word {
        let ends = |word: &Word| match word {
            Word::Going => false,
            Word::NotForKnown => known,
            Word::Over | Word::Lost => true,
        };
        let ended = self.0.wait_for(ends).await;
        ended.map_or(Word::Lost, |word| *word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goes(flights: &Arc<Flights>, key: &str) -> Leads {
        match flights.join(key.into()) {
            Turn::Goes(leads) => leads,
            Turn::Waits(_) => panic!("somebody is on the way for {key}"),
        }
    }

    fn waits(flights: &Arc<Flights>, key: &str) -> Waits {
        match flights.join(key.into()) {
            Turn::Waits(waits) => waits,
            Turn::Goes(_) => panic!("nobody is on the way for {key}"),
        }
    }

    #[tokio::test]
    async fn one_goes_and_the_others_wait_for_its_word() {
        let flights = Arc::new(Flights::default());
        let leads = goes(&flights, "a");
        drop(goes(&flights, "b"));
        let (known, unknown) = (waits(&flights, "a"), waits(&flights, "a"));
        leads.tell(Word::NotForKnown);
        assert_eq!(known.end(true).await, Word::NotForKnown);
        let unknown = tokio::spawn(unknown.end(false));
        leads.tell(Word::Over);
        drop(leads);
        assert_eq!(unknown.await.unwrap(), Word::Over);
        assert!(flights.going().is_empty());
    }

    #[tokio::test]
    async fn one_that_is_lost_is_followed_by_another_and_does_not_end_it() {
        let flights = Arc::new(Flights::default());
        let first = goes(&flights, "a");
        let waiting = waits(&flights, "a");
        flights.end("a");
        assert_eq!(waiting.end(false).await, Word::Over);
        let second = goes(&flights, "a");
        drop(first);
        let waiting = waits(&flights, "a");
        drop(second);
        assert_eq!(waiting.end(false).await, Word::Lost);
    }
}
