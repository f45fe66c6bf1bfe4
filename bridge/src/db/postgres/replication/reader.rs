//! A thread of its own for the client of a log. The server sends each message of a transaction by
//! itself, and whoever waits for it is woken by each: where they come fast, that costs more than
//! what they say. So this thread can be told to rest. What comes meanwhile gathers in the
//! connection, and is read at once.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinHandle;

/// Ends when it is dropped, and what runs on it with it.
#[derive(Debug)]
pub(super) struct Reader {
    tasks: Handle,
    rests: Sender<Duration>,
}

impl Reader {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let tasks = runtime.handle().clone();
        let (rests, ordered) = mpsc::channel(1);
        let thread = std::thread::Builder::new().name("log-reader".to_owned());
        thread.spawn(move || runtime.block_on(resting(ordered)))?;
        Ok(Self { tasks, rests })
    }

    /// Has this run here, whether its end is waited for or not.
    pub(super) fn run<T: Send + 'static>(
        &self,
        what: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tasks.spawn(what)
    }

    /// Reads nothing for so long.
    pub(super) fn rest(&self, pause: Duration) {
        // One that rests already need not be told, and one that has ended reads nothing either.
        let _ = self.rests.try_send(pause);
    }
}

/// Stops the whole thread for each rest that is ordered, until nobody can order one any more.
async fn resting(mut ordered: Receiver<Duration>) {
    while let Some(pause) = ordered.recv().await {
        std::thread::sleep(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_ends_with_whoever_ordered_it() {
        let reader = Reader::start().unwrap();
        reader.rest(Duration::from_millis(1));
        let runs = reader.run(async { 7 });
        assert_eq!(runs.await.unwrap(), 7, "after a rest it goes on");
        let held = reader.run(std::future::pending::<()>());
        drop(reader);
        assert!(held.await.unwrap_err().is_cancelled());
    }
}
