//! One write: rows, event and kept answer in one transaction.
//!
//! Owns the order of those three and the replay of a write already done. Refuses to commit anything
//! without an answer.

use axum::response::{IntoResponse as _, Response};
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use sqlx::{Sqlite, SqliteConnection, Transaction};

use crate::answer::Failure;
use crate::call::Call;
use crate::clock::Instant;
use crate::idempotency::{self, Intent, Kept};
use crate::outbox;
use crate::service::Service;

/// A write that has the database to itself until it is committed. Dropped, it leaves no trace.
#[derive(Debug)]
pub struct Write {
    tx: Transaction<'static, Sqlite>,
    intent: Option<Intent>,
    is_dry: bool,
    now: Instant,
}

/// How a write begins.
#[derive(Debug)]
pub enum Begun {
    /// It was done before; this is the answer of then.
    Replayed(Response),
    /// It is to be done.
    Fresh(Write),
}

impl Write {
    /// Takes the write lock, and looks whether this very write was done before.
    ///
    /// # Errors
    /// 400 or 422 for a bad idempotency key, 503 when the lock cannot be had in time.
    pub async fn begin(service: &Service, call: &Call) -> Result<Begun, Failure> {
        let intent = call.intent()?;
        let mut tx = service.database().write().await?;
        if let Some(intent) = &intent
            && let Some(kept) = idempotency::find(&mut tx, intent, call.now).await?
        {
            tx.rollback().await?;
            service.metrics().count_replay();
            return respond(&kept).map(Begun::Replayed);
        }
        Ok(Begun::Fresh(Write {
            tx,
            intent,
            is_dry: call.is_dry,
            now: call.now,
        }))
    }

    /// The connection to write rows with.
    pub fn rows(&mut self) -> &mut SqliteConnection {
        &mut self.tx
    }

    /// Adds an event about the rows.
    ///
    /// # Errors
    /// The database's.
    pub async fn event(
        &mut self,
        kind: &'static str,
        data: &impl Serialize,
    ) -> Result<(), Failure> {
        outbox::append(&mut self.tx, kind, data, self.now)
            .await
            .map(drop)
    }

    /// Keeps the answer if the call named a key, commits, and gives the answer. Of a dry run it takes
    /// all back instead.
    ///
    /// # Errors
    /// The database's, and then nothing was written. Not cancel safe: a caller that goes away while
    /// the commit runs does not learn whether it was done, which is what the key is for.
    pub async fn commit(
        mut self,
        status: StatusCode,
        location: Option<String>,
        body: &impl Serialize,
    ) -> Result<Response, Failure> {
        let body = serde_json::to_string(body).map_err(Failure::internal)?;
        let kept = Kept {
            status,
            location,
            body,
        };
        if let Some(intent) = &self.intent {
            idempotency::keep(&mut self.tx, intent, &kept, self.now).await?;
        }
        let response = respond(&kept)?;
        match self.is_dry {
            true => self.tx.rollback().await?,
            false => self.tx.commit().await?,
        }
        Ok(response)
    }
}

fn respond(kept: &Kept) -> Result<Response, Failure> {
    let content_type = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let mut response = (kept.status, content_type, kept.body.clone()).into_response();
    if let Some(location) = &kept.location {
        let location = HeaderValue::from_str(location).map_err(Failure::internal)?;
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}
