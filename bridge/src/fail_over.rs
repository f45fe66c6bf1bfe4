//! Going on with another server than the one that was followed: a replica that a fail-over has put in
//! its place, if the names of transactions (GTIDs) prove that nothing is missing and nothing comes
//! twice. Asked for by a person, or by the config; never done unproved.

use outgrow_rollout::Side;
use serde::Serialize;

use crate::both::Writes;
use crate::db::Database;
use crate::db::origin::Origin;
use crate::error::{Error, OnSide};
use crate::shared::Shared;

/// A server that is gone on with in another's place, and what has proved that it may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    pub side: Side,
    pub was: String,
    pub now: String,
    /// The transactions that were read from the log.
    pub place: String,
    /// Those that the other side may have seen. It has all of both.
    pub seen: String,
    /// Places of the stream that were taken back: records of Outgrow's own that it had not, which are
    /// made anew.
    pub again: i64,
}

impl Shared {
    /// Goes on with servers that have taken the place of others, each proved; unasked only where the
    /// config says so. None where both are those that were followed.
    pub(crate) async fn fail_over(&self, asked: bool) -> Result<Vec<Moved>, Error> {
        let mut moved = Vec::new();
        for side in [Side::Legacy, Side::Extracted] {
            if !self.on(side).installed().await? {
                return Err(Error::NotStarted(self.spec.slice.clone()));
            }
        }
        for side in [Side::Legacy, Side::Extracted] {
            if asked || self.on(side).follows_failover() {
                moved.extend(self.fail_over_of(side).await?);
            }
        }
        Ok(moved)
    }

    /// Whether this is another server in place of one, and is to be gone on with unasked.
    pub(crate) fn follows(&self, error: &Error) -> bool {
        matches!(error, Error::Elsewhere { side, .. } if self.on(*side).follows_failover())
    }

    async fn fail_over_of(&self, side: Side) -> Result<Option<Moved>, Error> {
        let (here, there) = (self.on(side), self.on(side.other()));
        let Some(now) = here.server_now().await? else {
            return Ok(None);
        };
        there.install_origin().await?;
        there.install_mark().await?;
        here.install_mark().await?;
        let mut tx = there.read().await?;
        let origin = there.origin(&mut tx, side).await?;
        drop(tx);
        match here.stream_in_order().await {
            Ok(()) if origin.as_ref().is_none_or(|origin| origin.server == now) => return Ok(None),
            Ok(()) | Err(Error::Elsewhere { .. }) => {}
            Err(e) => return Err(e),
        }
        let (was, seen) = match origin {
            Some(origin) => (origin.server, origin.gtids),
            None => ("another one".to_owned(), None),
        };
        let Some(mut moved) = here.prove(&was, seen.as_deref()).await? else {
            return Ok(None);
        };
        self.has_what_was_applied(here, there).await?;
        let back = self.forgotten(here, there).await?;
        here.allow().await?;
        // It may be behind with records of ours, which the other side keeps no longer.
        here.forget_mark(there.side).await?;
        let mut tx = there.write().await?;
        if let Some((head, applied)) = back {
            there.set_back(&mut tx, side, head).await?;
            moved.again = applied - head;
        }
        let origin = Origin {
            server: now,
            gtids: seen,
        };
        there.set_origin(&mut tx, side, &origin).await?;
        tx.commit().await.on(there.side)?;
        tracing::warn!(slice = %self.spec.slice, %side, was = %moved.was, now = %moved.now,
            place = %moved.place, seen = %moved.seen, "going on with another server, which has all that was applied");
        Ok(Some(moved))
    }

    /// Rows that it had from the other side must be on it, or come again.
    async fn has_what_was_applied(&self, here: &Database, there: &Database) -> Result<(), Error> {
        let mut tx = there.read().await?;
        let source = there.control(&mut tx).await?.source;
        if source == here.side && self.spec.writes == Writes::One {
            // What it has of the other side's stream are heartbeats.
            return Ok(());
        }
        let head = there.head(&mut tx).await?;
        let first = there.first_change(&mut tx).await?;
        drop(tx);
        let mut tx = here.read().await?;
        let known = here.position(&mut tx, there.side).await?;
        let applied = known.map_or(0, |known| known.seq);
        if applied < head && first.is_none_or(|first| first > applied + 1) {
            let what = format!(
                "changes of the {} side were applied to the one before that it lacks, from number {} on: \
                 close the link with `outgrow sync close` and start the copy again",
                there.side,
                applied + 1
            );
            let side = here.side;
            return Err(Error::Unproved { side, what });
        }
        Ok(())
    }

    /// Where the stream ends on the server and how far it was applied, if that is further. All rows
    /// that the other side has seen are there, so what is missing are records of ours: the log tells
    /// the same changes again, and they get numbers anew. Who else counts by those numbers would take
    /// them for the old ones.
    async fn forgotten(
        &self,
        here: &Database,
        there: &Database,
    ) -> Result<Option<(i64, i64)>, Error> {
        let mut tx = here.read().await?;
        let head = here.head(&mut tx).await?;
        drop(tx);
        let mut tx = there.read().await?;
        let known = there.position(&mut tx, here.side).await?;
        let applied = known.map_or(0, |known| known.seq);
        if applied <= head {
            return Ok(None);
        }
        if self.events.is_some() || self.spec.writes != Writes::One {
            let what = format!(
                "the last change that it knows of is {head}, and {applied} was applied, which change \
                 events, or conflicts, are counted by: close the link with `outgrow sync close` and \
                 start the copy again"
            );
            let side = here.side;
            return Err(Error::Unproved { side, what });
        }
        Ok(Some((head, applied)))
    }
}
