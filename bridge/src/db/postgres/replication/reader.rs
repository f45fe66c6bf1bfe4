//! A thread of its own for the client of a log. The server sends each message of a transaction by
//! itself, and whoever waits for it is woken by each: where they come fast, that costs more than
//! what they say. So this thread can be told to rest. What comes meanwhile gathers in the
//! connection, and is read at once.

use std::io;
use std::time::Duration;

use pgwire_replication::{PgWireError, ReplicationClient, ReplicationConfig};
use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc::{self, Receiver, Sender};

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

    /// A client whose reading is done here.
    pub(super) async fn connect(
        &self,
        config: ReplicationConfig,
    ) -> Result<ReplicationClient, PgWireError> {
        let client = self.tasks.spawn(ReplicationClient::connect(config));
        client.await.map_err(|e| PgWireError::Task(e.to_string()))?
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
        let tasks = reader.tasks.clone();
        let runs = tasks.spawn(async { 7 });
        assert_eq!(runs.await.unwrap(), 7, "after a rest it goes on");
        let held = tasks.spawn(std::future::pending::<()>());
        drop(reader);
        assert!(held.await.unwrap_err().is_cancelled());
    }
}
