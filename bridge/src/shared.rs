//! What the worker and the callers of a link share: its spec, its two databases, its status.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use outgrow_rollout::Side;

use crate::both::Writes;
use crate::db::Database;
use crate::drift::changes;
use crate::error::Error;
use crate::events::{Desk, Events};
use crate::fault::FaultHook;
use crate::holds::Holds;
use crate::load;
use crate::lookup::Known;
use crate::plan::{Plan, Schema};
use crate::preflight::Problem;
use crate::spec::{DatabaseUrl, Limits, LinkSpec};
use crate::status::Status;

/// The shapes of both sides' tables.
#[derive(Debug, Clone)]
pub(crate) struct Schemas {
    pub(crate) legacy: Schema,
    pub(crate) extracted: Schema,
}

impl Schemas {
    /// What is different now.
    pub(crate) fn changes(&self, now: &Self) -> Vec<String> {
        let mut found = changes(Side::Legacy, &self.legacy, &now.legacy);
        found.extend(changes(Side::Extracted, &self.extracted, &now.extracted));
        found
    }
}

/// One slice's databases and status.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) spec: LinkSpec,
    pub(crate) legacy: Database,
    pub(crate) extracted: Database,
    status: Mutex<Status>,
    /// Where change events go, if anywhere.
    pub(crate) events: Option<Desk>,
    /// How many look at the stream, so that all must be in it.
    readers: Arc<AtomicUsize>,
    /// What they need of it.
    pub(crate) holds: Holds,
    pub(crate) load_asked: load::Asked,
}

/// While it lives, every change goes by the stream.
#[derive(Debug)]
pub(crate) struct StreamReader(Arc<AtomicUsize>);

impl Drop for StreamReader {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shared {
    pub(crate) fn new(spec: LinkSpec, events: Option<Events>) -> Self {
        // Who publishes events, or lets both sides write, needs the stream.
        let postgres = |url: &DatabaseUrl| matches!(url, DatabaseUrl::Postgres(_));
        let short = spec.writes == Writes::One
            && events.is_none()
            && postgres(&spec.legacy)
            && postgres(&spec.extracted);
        let before = events.as_ref().is_some_and(|events| events.before);
        let open = |side, url| {
            let database = Database::new(side, spec.slice.clone(), url, &spec.limits, short);
            database.noting_rows(before)
        };
        let interval = i64::try_from(spec.limits.heartbeat.as_millis()).unwrap_or(i64::MAX);
        Self {
            legacy: open(Side::Legacy, &spec.legacy),
            extracted: open(Side::Extracted, &spec.extracted),
            status: Mutex::new(Status::new(Side::Legacy, interval).within(&spec.limits)),
            events: events.map(Desk::new),
            readers: Arc::default(),
            holds: Holds::default(),
            load_asked: load::Asked::default(),
            spec,
        }
    }

    /// Whoever compares rows asks the stream what is on its way. Changes that went another way
    /// before are on record once the engine has left it.
    pub(crate) fn read_stream(&self) -> StreamReader {
        self.readers.fetch_add(1, Ordering::AcqRel);
        StreamReader(Arc::clone(&self.readers))
    }

    pub(crate) fn stream_is_read(&self) -> bool {
        self.readers.load(Ordering::Acquire) > 0
    }

    pub(crate) fn on(&self, side: Side) -> &Database {
        match side {
            Side::Legacy => &self.legacy,
            Side::Extracted => &self.extracted,
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.spec.limits
    }

    pub(crate) fn status<T>(&self, with: impl FnOnce(&mut Status) -> T) -> T {
        // The status is plain data: a panic elsewhere leaves nothing half-done that matters.
        with(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn url(&self, side: Side) -> &DatabaseUrl {
        match side {
            Side::Legacy => &self.spec.legacy,
            Side::Extracted => &self.spec.extracted,
        }
    }

    /// Whether the certificates that the URLs name can be used.
    pub(crate) fn check_files(&self) -> Result<(), Error> {
        for side in [Side::Legacy, Side::Extracted] {
            let checked = self.url(side).check_files();
            checked.map_err(|what| Error::Certificate { side, what })?;
        }
        Ok(())
    }

    /// What a step gives; `None` where it takes too long and nothing of it was seen to go on.
    pub(crate) async fn in_time<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        let mut step = pin!(step);
        let moved = || self.legacy.moved().wrapping_add(self.extracted.moved());
        loop {
            let before = moved();
            match tokio::time::timeout(self.limits().stall, step.as_mut()).await {
                Ok(done) => return Some(done),
                Err(_) if moved() != before => {}
                Err(_) => return None,
            }
        }
    }

    /// A point at which the process may die without loss.
    pub(crate) fn pass(&self, point: &'static str) {
        FaultHook::pass(self.limits().fault.as_ref(), point);
    }

    /// What changes with every change of a table, of both sides.
    pub(crate) async fn schema_versions(&self) -> Result<(i64, i64), Error> {
        let legacy = self.legacy.schema_version().await?;
        Ok((legacy, self.extracted.schema_version().await?))
    }

    /// The declared shape of the link's tables as they are now.
    pub(crate) async fn schemas(&self) -> Result<Schemas, Error> {
        let mut legacy: Vec<String> = self.spec.tables.iter().map(|t| t.legacy.clone()).collect();
        let also = self.spec.tables.iter().flat_map(|t| &t.also);
        legacy.extend(also.map(|a| a.table.clone()));
        let extracted: Vec<String> = self
            .spec
            .tables
            .iter()
            .map(|t| t.extracted.clone())
            .collect();
        Ok(Schemas {
            legacy: self.legacy.schema(&legacy).await?,
            extracted: self.extracted.schema(&extracted).await?,
        })
    }

    /// Checks the mapping against both databases as they are now, but for lookups that are kept.
    pub(crate) async fn examine(
        &self,
        kept: Option<&Known>,
    ) -> Result<(Option<Plan>, Vec<Problem>), Error> {
        let now = self.schemas().await?;
        let lookups = self.lookups(kept).await?;
        Ok(Plan::build(
            &self.spec,
            &now.legacy,
            &now.extracted,
            &lookups,
        ))
    }

    /// The plan with the shapes that it was made for, or every reason why there is none.
    pub(crate) async fn plan(&self, kept: Option<&Known>) -> Result<(Plan, Schemas), Error> {
        let now = self.schemas().await?;
        let lookups = self.lookups(kept).await?;
        match Plan::build(&self.spec, &now.legacy, &now.extracted, &lookups) {
            (Some(plan), _) => Ok((plan, now)),
            (None, problems) => Err(Error::Mapping {
                slice: self.spec.slice.clone(),
                problems,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_step_that_goes_on_has_the_time_that_it_takes() {
        let url = |name: &str| format!("sqlite:/nowhere/{name}.db").parse().unwrap();
        let spec = LinkSpec {
            slice: "slow".parse().unwrap(),
            legacy: url("legacy"),
            extracted: url("extracted"),
            tables: Vec::new(),
            writes: Writes::One,
            limits: Limits::default(),
        };
        let shared = Shared::new(spec, None);
        let stall = shared.limits().stall;
        let step = || tokio::time::sleep(stall * 4);
        assert_eq!(shared.in_time(step()).await, None);
        let moving = async {
            loop {
                tokio::time::sleep(stall / 2).await;
                shared.extracted.moves();
            }
        };
        tokio::select! {
            done = shared.in_time(step()) => assert_eq!(done, Some(())),
            () = moving => {}
        }
        // What went on before says nothing of now.
        assert_eq!(shared.in_time(step()).await, None);
    }
}
